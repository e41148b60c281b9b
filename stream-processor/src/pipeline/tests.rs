//! The whole pipeline without a broker: what the local log and a capture file hold comes out as alerts.

use std::path::Path;

use apache_avro::types::Value;
use apache_avro::{Schema, Writer};
use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::Event;

use super::*;
use crate::config::RawConfig;

const DETECTION: &str = r#"-- title = "Every exec"
-- description = "A test."
-- message = "exec of {proc_name}"
-- severity = "low"
-- status = "experimental"
-- risk = 10
-- attack = ["T1059"]
-- false_positives = []
-- blind_spots = []
-- references = []
-- response = "none"
-- dedup = { key = [] }
SELECT proc_name FROM events WHERE evt_type = 'execve'
"#;

fn config(folder: &Path) -> Config {
    std::fs::create_dir_all(folder.join("execution")).unwrap();
    std::fs::write(folder.join("execution/every_exec.sql"), DETECTION).unwrap();
    let mut raw = RawConfig::default();
    raw.detections.folder = folder.to_owned();
    Config::check(raw).unwrap()
}

fn event(seq: i64, evt_type: &str) -> Event {
    Event {
        host_id: "host".into(),
        sensor_run: "run".into(),
        seq,
        // A minute has so few of them that none is held back.
        ts: seq * 7_000_000_000,
        evt_type: evt_type.into(),
        proc_name: Some("sh".into()),
        ..Event::default()
    }
}

fn log_record(key: &str, value: Vec<u8>) -> LogRecord {
    LogRecord {
        topic: Topic::Events,
        key: key.into(),
        value,
        ingest_ts_ns: 7,
    }
}

fn framed(event: &Event) -> Vec<u8> {
    let mut value = Vec::new();
    event.encode_framed(&mut value);
    value
}

/// Runs `source` to its end and returns the `seq` of each alert's event.
fn alerts_of(config: &Config, source: Source) -> (Vec<i64>, Result<Summary, ProcessorError>) {
    let (sender, alerts) = std::sync::mpsc::sync_channel(10_000);
    let result = run(config, source, Sink::Local(sender), &Shutdown::new());
    let seqs = alerts.iter().map(|alert| alert.evidence[0].seq).collect();
    (seqs, result)
}

#[test]
fn the_local_log_is_matched_to_its_end_and_bad_records_do_not_stop_it() {
    let folder = tempfile::tempdir().unwrap();
    let (log, receiver) = local::channel(100);
    log.send(log_record("host", framed(&event(0, "execve"))))
        .unwrap();
    log.send(log_record("host", b"poison".to_vec())).unwrap();
    log.send(log_record("host", framed(&event(1, "openat"))))
        .unwrap();
    log.send(log_record("other", framed(&event(2, "execve"))))
        .unwrap();
    log.send(log_record("host", framed(&event(3, "execve"))))
        .unwrap();
    drop(log);
    let (seqs, result) = alerts_of(&config(folder.path()), Source::Local(receiver));
    let summary = result.unwrap();
    assert_eq!(seqs, [0, 3]);
    assert_eq!((summary.records, summary.alerts), (5, 2));
    let dead = BTreeMap::from([("key_disagrees", 1), ("undecodable", 1)]);
    assert_eq!(summary.dead_letters, dead);
}

#[test]
fn a_shutdown_empties_the_local_log_first() {
    let folder = tempfile::tempdir().unwrap();
    let (log, receiver) = local::channel(100);
    log.send(log_record("host", framed(&event(0, "execve"))))
        .unwrap();
    let shutdown = Shutdown::new();
    shutdown.trigger("test");
    let (sender, alerts) = std::sync::mpsc::sync_channel(10);
    let source = Source::Local(receiver);
    run(
        &config(folder.path()),
        source,
        Sink::Local(sender),
        &shutdown,
    )
    .unwrap();
    assert_eq!(alerts.iter().count(), 1);
}

/// A capture as an Avro library writes it, with blocks of 100 records.
fn capture(events: i64) -> Vec<u8> {
    let schema = Schema::parse_str(Event::SCHEMA).unwrap();
    let mut writer = Writer::new(&schema, Vec::new()).unwrap();
    for seq in 0..events {
        let mut datum = Vec::new();
        event(seq, if seq % 2 == 0 { "execve" } else { "openat" }).encode(&mut datum);
        let value: Value = apache_avro::reader::datum::GenericDatumReader::builder(&schema)
            .build()
            .unwrap()
            .read_value(&mut datum.as_slice())
            .unwrap();
        writer.append_value(value).unwrap();
        if seq % 100 == 99 {
            writer.flush().unwrap();
        }
    }
    writer.into_inner().unwrap()
}

#[test]
fn a_capture_file_is_matched_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.avro");
    std::fs::write(&file, capture(2_500)).unwrap();
    let (seqs, result) = alerts_of(&config(folder.path()), Source::Capture(file));
    assert_eq!(result.unwrap().records, 2_500);
    assert!(seqs.into_iter().eq((0..2_500).step_by(2)));
}

#[test]
fn a_damaged_capture_yields_what_came_before_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.avro");
    let mut bytes = capture(1_000);
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&file, bytes).unwrap();
    let (seqs, result) = alerts_of(&config(folder.path()), Source::Capture(file));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("is damaged after"), "{message}");
    assert!((150..=300).contains(&seqs.len()), "{} alerts", seqs.len());
}

#[test]
fn what_is_no_capture_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.avro");
    std::fs::write(&file, "no Avro").unwrap();
    let (_, result) = alerts_of(&config(folder.path()), Source::Capture(file));
    let error = result.unwrap_err();
    assert!(
        error.to_string().contains("could not open capture file"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn options_that_librdkafka_does_not_know_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let option = ("no.such.option".to_owned(), "x".to_owned());
    config.kafka.options.extend([option]);
    let error = check(&config).unwrap_err();
    assert!(error.to_string().contains("no.such.option"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_processor_that_fails_ends_though_its_sensor_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (log, receiver) = local::channel(100);
    let record = log_record("host", framed(&event(0, "execve")));
    log.send(record).unwrap();
    let (sender, alerts) = std::sync::mpsc::sync_channel(10);
    drop(alerts);
    let (config, sink) = (config(folder.path()), Sink::Local(sender));
    let source = Source::Local(receiver);
    let run = move || run(&config, source, sink, &Shutdown::new());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(run()));
    let result = ended.recv_timeout(Duration::from_secs(20));
    let error = result
        .expect("it ends")
        .expect_err("nobody takes its alerts");
    assert_eq!(error.exit_code(), 1);
    // The sensor's side was there all the time.
    drop(log);
}

const BUSY: &str = r#"-- title = "Busy"
-- description = "A test."
-- message = "{n} files"
-- severity = "low"
-- status = "experimental"
SELECT window_start, window_end, host_id, count(*) AS n
FROM tumble(events, INTERVAL '1 hour')
WHERE evt_type = 'openat'
GROUP BY window_start, window_end, host_id
HAVING count(*) >= 3
"#;

/// Windows go on when other detections run, also where their state is stored nowhere.
#[test]
fn detections_of_the_local_log_change_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.detections_watch = Some(Duration::from_millis(100));
    let file = |name: &str| folder.path().join("execution").join(name);
    std::fs::write(file("busy.sql"), BUSY).unwrap();
    let (log, receiver) = local::channel(100);
    let (sender, alerts) = std::sync::mpsc::sync_channel(100);
    let runs = std::thread::spawn(move || {
        let source = Source::Local(receiver);
        run(&config, source, Sink::Local(sender), &Shutdown::new()).unwrap()
    });
    let send = |seq: i64, kind: &str| {
        let event = event(seq, kind);
        let record = LogRecord {
            ingest_ts_ns: event.ts,
            ..log_record("host", framed(&event))
        };
        log.send(record).unwrap();
    };
    let next = || alerts.recv_timeout(Duration::from_secs(60)).unwrap();
    let changed = |words: &str| {
        let alert = next();
        assert_eq!(&*alert.detection_id, "detections_changed");
        assert!(
            alert.message.ends_with(&format!(": {words}")),
            "{}",
            alert.message
        );
    };
    send(0, "openat");
    send(1, "openat");
    send(2, "execve");
    assert_eq!(&*next().detection_id, "every_exec");
    let other = DETECTION.replace("'execve'", "'connect'");
    std::fs::write(file("every_connect.sql"), other).unwrap();
    changed("added every_connect");
    send(3, "connect");
    assert_eq!(&*next().detection_id, "every_connect");
    send(4, "openat");
    let first = next();
    assert_eq!((&*first.detection_id, &*first.message), ("busy", "3 files"));
    std::fs::write(file("busy.sql"), BUSY.replace("Busy", "Busier")).unwrap();
    std::fs::remove_file(file("every_exec.sql")).unwrap();
    changed("removed every_exec; changed busy");
    send(5, "openat");
    send(600, "execve");
    drop(log);
    let last = next();
    assert_eq!(
        (&last.alert_id, &*last.activity, &*last.message),
        (&first.alert_id, "update", "4 files")
    );
    assert_eq!(alerts.iter().count(), 0);
    assert_eq!(runs.join().unwrap().alerts, 6);
}
