//! `dogwatch query` as it is typed: over the recorded demo, and over the same records on brokers.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dogwatch_schemas::local;
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_sensor::config::Config;
use dogwatch_sensor::pipeline::{self, Input, Output as SensorOutput, Shutdown};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

fn capture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo.capture")
}

fn query(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
    command.arg("query").args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DOGWATCH_") {
            command.env_remove(name);
        }
    }
    command
}

fn read(arguments: &[&str]) -> Command {
    let mut command = query(&["--read", capture().to_str().unwrap()]);
    command.args(arguments);
    command
}

fn answered(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(mut command: Command, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{command:?}: {text}");
    assert!(stdout.is_empty(), "{command:?} answers nevertheless");
    text
}

#[test]
fn a_capture_is_asked_without_privileges() {
    let shells = "SELECT proc_name, proc_cmdline FROM events \
                  WHERE evt_type = 'execve' AND container_id <> 'host' AND proc_name = 'sh' LIMIT 2";
    let table = answered(read(&[shells]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("proc_name  proc_cmdline"), "{table}");
    assert!(lines[1].starts_with("sh         "), "{table}");

    let json = answered(read(&[
        "--format",
        "json",
        "SELECT min(ts) AS first, count(*) AS n FROM events",
    ]));
    let row: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = row["first"].as_str().unwrap();
    assert!(row["n"].as_i64().unwrap() > 100, "{json}");
    assert_eq!(
        first.len(),
        "2026-01-31T12:00:00.000000000Z".len(),
        "{json}"
    );

    let csv = answered(read(&[
        "--format",
        "csv",
        "SELECT evt_type, count(*) FROM events WHERE evt_type = 'mark' GROUP BY 1",
    ]));
    assert_eq!(csv.lines().count(), 1, "marks are no events: {csv}");
    let containers = answered(read(&["SELECT container_name FROM containers LIMIT 1"]));
    assert_eq!(containers.lines().count(), 2, "{containers}");
}

#[test]
fn times_bound_an_answer() {
    let count = "SELECT count(*) AS n FROM events";
    let number = |arguments: &[&str]| -> i64 {
        let mut all = vec!["--format", "csv", count];
        all.splice(0..0, arguments.iter().copied());
        let text = answered(read(&all));
        text.lines().nth(1).unwrap().parse().unwrap()
    };
    let all = number(&[]);
    let middle = answered(read(&[
        "--format",
        "csv",
        "SELECT ts FROM events WHERE evt_type <> 'running' ORDER BY ts LIMIT 1 OFFSET 50",
    ]));
    let middle = middle.lines().nth(1).unwrap();
    let (before, after) = (number(&["--until", middle]), number(&["--since", middle]));
    assert!(before > 0 && after > 0, "{before} {after}");
    assert_eq!(before + after, all);
    assert_eq!(number(&["--at", "1999-12-31"]), 0);
}

#[test]
fn a_damaged_capture_answers_with_what_came_before_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.capture");
    let whole = std::fs::read(capture()).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let asked = |text: &str| {
        let output = query(&["--read", path.to_str().unwrap(), "--format", "csv", text]).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("is damaged at offset"), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let rows = asked("SELECT seq FROM events").lines().count() - 1;
    let count = asked("SELECT count(*) FROM events");
    assert!(rows > 0, "{rows}");
    assert_eq!(count.lines().nth(1), Some(&*rows.to_string()), "{count}");
}

#[test]
fn tables_and_columns_are_described() {
    let tables = answered(query(&["--tables"]));
    for name in [
        "events",
        "containers",
        "sensors",
        "alerts",
        "dead_letters",
        "late",
    ] {
        assert!(
            tables.lines().any(|line| line.starts_with(name)),
            "{tables}"
        );
    }
    let columns = answered(query(&["--columns", "events"]));
    assert!(
        columns
            .lines()
            .any(|line| line.starts_with("proc_cmdline ")),
        "{columns}"
    );
    let text = refused(query(&["--columns", "event"]), 2);
    assert!(text.contains("did you mean events?"), "{text}");
    let plan = answered(read(&[
        "--explain",
        "SELECT ts FROM events WHERE proc_name = 'sh'",
    ]));
    assert!(plan.starts_with("rows come as they are read"), "{plan}");
}

#[test]
fn what_cannot_be_asked_is_told_with_its_mend() {
    fn check(command: Command, told: &str) {
        let text = refused(command, 2);
        assert!(text.contains(told), "{text}");
    }
    check(
        read(&["COPY events TO '/tmp/x'"]),
        "write exactly one SELECT",
    );
    check(
        read(&["CREATE TABLE x AS SELECT 1"]),
        "line 1: the statement is CREATE, no SELECT",
    );
    check(
        read(&["INSERT INTO events VALUES (1)"]),
        "the statement is INSERT, no SELECT",
    );
    check(
        read(&["SHOW TABLES"]),
        "dogwatch query --tables says what there is",
    );
    check(
        read(&["SELECT now() FROM events"]),
        "use the event's own columns",
    );
    check(
        read(&["SELECT ts\nFROM event"]),
        "line 2: there is no table event; did you mean events?",
    );
    check(
        read(&["SELECT proc_nme FROM events"]),
        "there is no column proc_nme; did you mean proc_name?",
    );
    check(
        read(&["SELECT message FROM alerts"]),
        "a capture has no alerts",
    );
    check(
        read(&["--since", "1h", "--until", "2h", "SELECT ts FROM events"]),
        "--since is not before --until",
    );
    check(query(&[]), "write a query");
    check(
        query(&["--read", "/nowhere/x.capture", "--follow", "SELECT 1"]),
        "cannot be used with",
    );
    check(
        query(&["--read", "/nowhere/x.capture", "SELECT ts FROM events"]),
        "could not open capture /nowhere/x.capture",
    );
}

#[test]
fn whoever_reads_no_more_ends_it_in_order() {
    let mut command = read(&["SELECT a.ts FROM events a JOIN events b ON a.host_id = b.host_id"]);
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ts");
    drop(output);
    let mut errors = String::new();
    running
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert!(running.wait().unwrap().success(), "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn an_output_that_takes_nothing_is_a_failure() {
    for command in [
        "query --tables",
        "query --columns events",
        "detections list",
    ] {
        let mut words = command.split(' ');
        let mut command = query(&[]);
        if words.next() == Some("detections") {
            command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
            command.arg("detections");
        }
        let full = std::fs::File::options().write(true).open("/dev/full");
        command.args(words).stdout(full.unwrap());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("No space left"), "{text}");
    }
}

#[test]
fn an_interrupted_answer_ends_with_130() {
    let endless =
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let mut running = read(&[endless])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    // SAFETY: a plain system call.
    unsafe { libc::kill(running.id() as i32, libc::SIGINT) };
    let asked = Instant::now();
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn the_same_records_on_brokers_give_the_same_table() {
    let cluster = MockCluster::new(1).unwrap();
    publish(&cluster);
    let servers = cluster.bootstrap_servers();
    for text in [
        "SELECT container_name, evt_type, count(*) AS n FROM events GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT ts, proc_name, proc_cmdline, fd_name FROM events ORDER BY ts, seq",
        "SELECT container_name, container_image FROM containers ORDER BY 1, 2, ts",
    ] {
        let of_capture = answered(read(&[text]));
        let of_brokers = answered(query(&["--kafka", &servers, text]));
        assert!(of_capture.lines().count() > 2, "{of_capture}");
        assert_eq!(of_capture, of_brokers, "{text}");
    }
    let nowhere = query(&["--kafka", &servers, "SELECT message FROM alerts"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&nowhere.stderr);
    assert_eq!(nowhere.status.code(), Some(3), "{text}");
    assert!(
        text.contains("topic dogwatch.alerts does not exist"),
        "{text}"
    );
}

#[test]
fn what_comes_is_followed_until_somebody_ends_it() {
    let cluster = MockCluster::new(1).unwrap();
    publish(&cluster);
    let servers = cluster.bootstrap_servers();
    let shells = "SELECT proc_name FROM events WHERE evt_type = 'execve' AND proc_name = 'bash'";
    let mut following = query(&["--kafka", &servers, "--follow", "--format", "json", shells]);
    let mut running = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let (came, waiting) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || came.send(lines.next().unwrap().unwrap()).unwrap());
    // It begins at the end, whenever it is there.
    let line = (0..60).find_map(|_| {
        send(&servers);
        waiting.recv_timeout(Duration::from_secs(1)).ok()
    });
    assert_eq!(line.as_deref(), Some("{\"proc_name\":\"bash\"}"));
    reader.join().unwrap();
    // SAFETY: a plain system call.
    unsafe { libc::kill(running.id() as i32, libc::SIGINT) };
    assert_eq!(running.wait().unwrap().code(), Some(0));
    let ordered = refused(
        query(&[
            "--kafka",
            &servers,
            "--follow",
            "SELECT ts FROM events ORDER BY ts",
        ]),
        2,
    );
    assert!(
        ordered.contains("ORDER BY needs the end of what it reads"),
        "{ordered}"
    );
}

/// Publishes what the capture holds, as a sensor would.
fn publish(cluster: &MockCluster<'_, impl rdkafka::client::ClientContext>) {
    let names = Topics::new("dogwatch");
    for topic in Topic::ALL.into_iter().filter(|topic| of_sensor(*topic)) {
        cluster.create_topic(&names.name(topic), 1, 1).unwrap();
    }
    send(&cluster.bootstrap_servers());
}

fn of_sensor(topic: Topic) -> bool {
    let mut tables = dogwatch_query::tables::ALL.iter();
    tables.any(|table| table.topic == topic && table.of_sensor)
}

fn send(servers: &str) {
    let names = Topics::new("dogwatch");
    let config = Config::load(None, &[("state_file", String::new())]).unwrap();
    let (output, log) = local::channel(1_024);
    let replay = std::thread::spawn(move || {
        let input = Input::Replay(vec![capture()]);
        pipeline::run(config, input, SensorOutput::Local(output), Shutdown::new()).unwrap();
    });
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap();
    for record in log {
        let topic = names.name(record.topic);
        let sent = BaseRecord::to(&topic)
            .key(record.key.as_bytes())
            .payload(&record.value);
        producer
            .send(sent.partition(0))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    replay.join().unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// As a shell writes `--read some.capture.*`, with options between it and the query and without.
#[test]
fn captures_are_named_by_several_words() {
    let file = capture();
    let file = file.to_str().unwrap();
    let count = "SELECT count(*) > 0 AS some FROM events";
    let alone = answered(query(&[
        "--format", "csv", "--read", file, file, file, count,
    ]));
    let between = answered(query(&[
        "--read", file, file, file, "--format", "csv", count,
    ]));
    let before = answered(query(&[count, "--format", "csv", "--read", file, file]));
    assert_eq!(alone, "some\ntrue\n");
    assert_eq!([&between, &before], [&alone; 2]);
    let none = refused(query(&["--read", file, file]), 2);
    assert!(none.contains("write a query"), "{none}");
}
