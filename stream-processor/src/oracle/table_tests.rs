//! Detections on samples: each table has a time of its own, however its polls lie between those of others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dogwatch_schemas::records::{
    Alert, ContainerSample, Event, IoSample, ProcessSample, SyscallSample,
};
use dogwatch_schemas::topics::{Topic, Topics};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Input, Oracle, compare};
use crate::alert::AlertMode;
use crate::checkpoint::{Inputs, Renewal, State};
use crate::decode::{InputRecord, Partition};
use crate::detect::DetectionSet;
use crate::engine::{Engine, EvidenceTopics, StepOutput};
use crate::hosts::FLEET;
use crate::tables::Table;
use crate::window::{Exchange, Flushed, WindowOptions};

const SECOND: i64 = 1_000_000_000;
const BEGIN: i64 = 1_800_000_000 * SECOND;

const HOT: &str = "SELECT window_start, window_end, host_id, container_id, sum(cpu_total_ns) AS cpu_ns\n\
    FROM tumble(container_samples, INTERVAL '30 seconds') WHERE evt_type = 'sample'\n\
    GROUP BY window_start, window_end, host_id, container_id HAVING sum(cpu_total_ns) >= 40";
const OPEN: &str = "SELECT container_id, proc_name, proc_fdopencount FROM process_samples WHERE proc_fdopencount >= 90";
const FAILING: &str = "SELECT window_start, window_end, host_id, container_id, sum(call_failed) AS count\n\
    FROM tumble(syscall_samples, INTERVAL '20 seconds') WHERE evt_type <> 'mark'\n\
    GROUP BY window_start, window_end, host_id, container_id HAVING sum(call_failed) >= 50";
const WAITING: &str = "SELECT window_start, window_end, host_id, container_id, max(fd_backlog) AS waiting\n\
    FROM tumble(io_samples, INTERVAL '20 seconds') WHERE evt_type = 'sample'\n\
    GROUP BY window_start, window_end, host_id, container_id HAVING max(fd_backlog) >= 30";
const SPREE: &str = "SELECT window_start, window_end, host_id, container_id, count(*) AS count\n\
    FROM tumble(events, INTERVAL '10 seconds') WHERE evt_type = 'execve'\n\
    GROUP BY window_start, window_end, host_id, container_id HAVING count(*) >= 2";

const BUSY: &str = "SELECT window_start, container_image AS container_id, count(DISTINCT host_id) AS hosts\n\
    FROM tumble(container_samples, INTERVAL '1 minute') WHERE cpu_total_ns >= 20\n\
    GROUP BY window_start, window_end, container_image HAVING count(DISTINCT host_id) >= 3";
const SPREAD: &str = "SELECT window_start, proc_name AS container_id, count(DISTINCT host_id) AS hosts\n\
    FROM tumble(events, INTERVAL '1 minute') WHERE evt_type = 'execve'\n\
    GROUP BY window_start, window_end, proc_name HAVING count(DISTINCT host_id) >= 3";
const BOTH: &str = "SELECT window_start, 'all' AS container_id, count(*) AS count, sum(cpu_total_ns) AS cpu_ns\n\
    FROM tumble(container_samples, INTERVAL '20 seconds') WHERE evt_type = 'sample'\n\
    GROUP BY window_start, window_end HAVING count(DISTINCT host_id) >= 2";

fn folder(detections: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("impact")).expect("a folder");
    for (name, query) in detections {
        let text = format!(
            "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{{container_id}}\"\n-- severity = \"low\"\n\
             -- status = \"stable\"\n-- dedup = {{ key = [] }}\n{query}"
        );
        fs::write(folder.path().join(format!("impact/{name}.sql")), text).expect("a detection");
    }
    folder
}

fn engine(folder: &Path) -> Engine {
    let report = DetectionSet::load(folder).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    engine.without_throttle()
}

/// A row of a table, at so many seconds from the begin.
fn row(table: Table, offset: i64, host: &str, second: i64, more: &Value) -> InputRecord {
    let ts = BEGIN + second * SECOND;
    let mut row = json!({
        "host_id": host, "sensor_run": "r", "seq": offset, "ts": ts, "evt_type": "sample", "container_id": "c",
    });
    let (Value::Object(fields), Value::Object(more)) = (&mut row, more.clone()) else {
        panic!("objects")
    };
    fields.extend(more);
    let mut value = Vec::new();
    let taken = "a row of the table";
    match table {
        Table::Events => {
            let row: Event = serde_json::from_value(row).expect(taken);
            row.encode_framed(&mut value);
        }
        Table::ContainerSamples => {
            let row: ContainerSample = serde_json::from_value(row).expect(taken);
            row.encode_framed(&mut value);
        }
        Table::ProcessSamples => {
            let row: ProcessSample = serde_json::from_value(row).expect(taken);
            row.encode_framed(&mut value);
        }
        Table::SyscallSamples => {
            let row: SyscallSample = serde_json::from_value(row).expect(taken);
            row.encode_framed(&mut value);
        }
        Table::IoSamples => {
            let row: IoSample = serde_json::from_value(row).expect(taken);
            row.encode_framed(&mut value);
        }
    }
    InputRecord {
        topic: table.topic(),
        partition: 0,
        offset,
        ingest_ts_ns: Some(ts + SECOND / 10),
        key: host.as_bytes().to_vec().into(),
        value: value.into(),
    }
}

fn said(output: &StepOutput) -> Vec<(&str, Option<&str>)> {
    let alerts = output.alerts.iter();
    alerts
        .map(|alert| (&*alert.detection_id, alert.window_state.as_deref()))
        .collect()
}

#[test]
fn a_window_closes_by_its_own_tables_rows_and_marks_alone() {
    let folder = folder(&[("hot", HOT), ("spree", SPREE)]);
    let mut engine = engine(folder.path());
    let samples = Table::ContainerSamples;
    let hot = json!({"cpu_total_ns": 25});
    let early = engine
        .step(vec![
            row(samples, 0, "h", 1, &hot),
            row(samples, 1, "h", 11, &hot),
        ])
        .expect("a step");
    let closed = |output: &StepOutput| {
        let states = said(output).into_iter();
        states.filter(|(_, state)| *state == Some("closed")).count()
    };
    assert_eq!(closed(&early), 0);
    // Events of the same host are an hour ahead: that is another log's time.
    let ahead = json!({"evt_type": "mark"});
    let ahead = engine
        .step(vec![row(Table::Events, 0, "h", 3_600, &ahead)])
        .expect("a step");
    assert_eq!(closed(&ahead), 0);
    let mark = json!({"evt_type": "mark", "evt_losses": {"unsampled": 2}});
    let ended = engine
        .step(vec![row(samples, 2, "h", 40, &mark)])
        .expect("a step");
    assert_eq!(said(&ended), [("hot", Some("closed"))]);
    let alert = &ended.alerts[0];
    let told: Value = serde_json::from_str(&alert.row).expect("a row");
    assert_eq!(told["cpu_ns"], 50);
    assert!(alert.incomplete, "what was not sampled is missing in it");
    assert_eq!(&*alert.host_id, "h");
}

#[test]
fn an_alert_of_a_sample_has_its_row_process_and_topic_as_evidence() {
    let folder = folder(&[("open", OPEN)]);
    let topics = EvidenceTopics::kafka(&Topics::new("dogwatch"));
    let mut engine = engine(folder.path()).with_evidence_topics(topics);
    let full = json!({
        "proc_fdopencount": 95, "proc_name": "web", "proc_key": "00aa", "proc_pid": 7, "container_name": "shop",
    });
    let few = json!({"proc_fdopencount": 10});
    let table = Table::ProcessSamples;
    let output = engine
        .step(vec![
            row(table, 0, "h", 1, &few),
            row(table, 1, "h", 2, &full),
            // No detection reads it: nothing is said of it, and nothing is wrong with it.
            row(Table::ContainerSamples, 0, "h", 2, &json!({})),
        ])
        .expect("a step");
    assert_eq!(said(&output), [("open", None)]);
    assert_eq!(output.dead_letters, []);
    let alert = &output.alerts[0];
    assert_eq!(alert.container_name.as_deref(), Some("shop"));
    let process = alert.process.as_ref().expect("a process");
    assert_eq!((&*process.key, process.pid), ("00aa", 7));
    let evidence = &alert.evidence[0];
    assert_eq!(&*evidence.topic, "dogwatch.process-samples");
    assert_eq!((evidence.offset, evidence.seq), (1, 1));
    let told: Value = serde_json::from_str(&evidence.row).expect("a row");
    assert_eq!(told["proc_fdopencount"], 95);
}

#[test]
fn one_detection_reads_one_table_and_other_columns_are_named() {
    let both = "SELECT e.host_id FROM events e JOIN container_samples c ON e.host_id = c.host_id";
    let unknown = "SELECT container_id FROM container_samples WHERE cpu_ns > 1";
    let folder = folder(&[("both", both), ("unknown", unknown), ("open", OPEN)]);
    let report = DetectionSet::load(folder.path()).expect("detections");
    let reasons: Vec<&str> = report
        .refused
        .iter()
        .map(|refusal| refusal.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "the query reads events and container_samples",
            "there is no column cpu_ns"
        ]
    );
    assert_eq!(report.set.len(), 1);
    assert_eq!(report.set.at(0).table, Table::ProcessSamples);
}

/// A record of the exchange, as the second stage reads it.
fn sent(flushed: Flushed, offset: i64) -> InputRecord {
    InputRecord {
        topic: Topic::Exchange,
        partition: flushed.partition,
        offset,
        ingest_ts_ns: None,
        key: bytes::Bytes::new(),
        value: flushed.value.into(),
    }
}

#[test]
fn windows_of_all_hosts_over_several_tables_share_the_exchange() {
    let folder = folder(&[("busy", BUSY), ("spread", SPREAD), ("hot", HOT)]);
    let stage = |exchange| {
        let options = WindowOptions {
            exchange,
            ..WindowOptions::default()
        };
        let engine = engine(folder.path()).with_windows(options);
        let topics = EvidenceTopics::kafka(&Topics::new("dogwatch"));
        let engine = engine.expect("windows").with_evidence_topics(topics);
        engine.with_sources(&[0]).without_throttle()
    };
    let (mut first, mut second) = (stage(Exchange::Sent(1)), stage(Exchange::Received(1)));
    let (samples, log) = (Table::ContainerSamples, (Topic::Exchange, 0));
    assert_eq!(
        first.counted_topics(),
        [Topic::Events, samples.topic()].into(),
        "each source's seconds count"
    );
    let hot = json!({"cpu_total_ns": 40});
    let ran = json!({"evt_type": "execve", "proc_name": "miner"});
    let mut exchange = Vec::new();
    let mut send = |first: &mut Engine, records: Vec<InputRecord>| -> Vec<InputRecord> {
        let flushed = first.step(records).expect("a step").exchange;
        let from = exchange.len() as i64;
        let flushed = (from..).zip(flushed);
        let new: Vec<_> = flushed
            .map(|(offset, flushed)| sent(flushed, offset))
            .collect();
        exchange.extend(new.iter().cloned());
        new
    };
    let records = |second: i64, of: i64, (hot, ran): (&Value, &Value)| {
        let host = ["a", "b", "c"][of as usize];
        vec![
            row(samples, of, host, second, hot),
            row(Table::Events, of, host, second, ran),
        ]
    };
    let mut to_second = Vec::new();
    for of in 0..3 {
        to_second.extend(send(&mut first, records(1 + 2 * of, of, (&hot, &ran))));
    }
    assert_eq!(
        second.fleet_sources(FLEET).into_iter().collect::<Vec<_>>(),
        [((Topic::Events, 0), None), ((samples.topic(), 0), None)]
    );
    let said = second.step(to_second).expect("a step");
    assert_eq!(said.alerts, [], "two hosts in seconds that are over");
    assert_eq!(said.dead_letters, []);
    // Another goes on from what is stored of the one log, whose tables are told apart.
    let stored = second.store_log(log, &Renewal::default()).expect("stored");
    let names: Vec<&str> = stored.iter().map(|piece| piece.key.as_str()).collect();
    for name in ["clock", "container_samples:clock"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let state: State = stored
        .into_iter()
        .filter_map(|piece| Some((piece.key, piece.value?)))
        .collect();
    let mut second = stage(Exchange::Received(1));
    second.restore_log(log, state.clone(), 0).expect("a state");
    let mark = json!({"evt_type": "mark"});
    let marks = send(&mut first, records(6, 0, (&mark, &mark)));
    let said = second.step(marks).expect("a step");
    let mut alerts = said.alerts;
    let ids = |alerts: &[Alert]| -> Vec<String> {
        let mut ids: Vec<String> = alerts
            .iter()
            .map(|alert| format!("{} {:?}", alert.detection_id, alert.host_count))
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&alerts), ["busy Some(3)", "spread Some(3)"]);
    alerts.retain(|alert| &*alert.detection_id == "busy");
    let evidence = &alerts[0].evidence[0];
    assert_eq!(&*evidence.topic, "dogwatch.container-samples");
    let told: Value = serde_json::from_str(&evidence.row).expect("a row");
    assert_eq!(told["cpu_total_ns"], 40);
    assert!(second.log_waits(log));
    second.forget_log(log);
    assert!(!second.log_waits(log));
    // What comes of a table that only a newer version knows is nobody's here, and no damage.
    let mut newer = exchange[0].clone();
    let text = newer.value.to_vec();
    let at = text.windows(8).position(|part| part == b"\"events\"");
    let at = at.or_else(|| text.windows(8).position(|part| part == b"containe"));
    let at = at.expect("a topic");
    let mut other = text.clone();
    other[at + 1] = b'x';
    newer.value = other.into();
    let said = second.step(vec![newer]).expect("a step");
    assert_eq!(said.dead_letters, []);
}

/// An engine that goes on where another one is.
fn handed_on(mut from: Engine, folder: &Path) -> Engine {
    let mut stored = BTreeMap::new();
    store(&mut from, &mut stored);
    let mut engine = engine(folder);
    for (log, state) in stored {
        let restored = match log == FLEET_LOG {
            true => engine.restore_fleet(FLEET, state, &Inputs::new()),
            false => engine.restore_log(log, state, i64::MIN),
        };
        restored.expect("a state");
    }
    engine
}

#[test]
fn a_window_over_all_hosts_is_not_whole_where_its_table_was_not_read_from_its_beginning() {
    let without = folder(&[("hot", HOT)]);
    let with = folder(&[("hot", HOT), ("both", BOTH)]);
    let table = Table::ContainerSamples;
    let seconds = |seconds: std::ops::Range<i64>, begin: i64| -> Vec<InputRecord> {
        let rows = seconds.flat_map(|second| [("a", second), ("b", second)]);
        let rows = rows.map(|(host, second)| {
            let offset = 2 * (second - begin) + i64::from(host == "b");
            let used = json!({"cpu_total_ns": 1, "seq": second - begin});
            row(table, offset, host, second, &used)
        });
        rows.collect()
    };
    let incomplete = |engine: &mut Engine, begin: i64| -> Vec<(i64, bool)> {
        let output = engine.step(seconds(30..65, begin)).expect("a step");
        let own = output.alerts.iter();
        let own = own.filter(|alert| &*alert.detection_id == "both");
        let closed = own.filter(|alert| alert.window_state.as_deref() == Some("closed"));
        let start = |alert: &Alert| (alert.window_start.unwrap_or_default() - BEGIN) / SECOND;
        closed
            .map(|alert| (start(alert), alert.incomplete))
            .collect()
    };
    // It was there, went, and comes back in the middle of a window.
    let mut engine = engine(with.path());
    engine.step(seconds(0..5, 0)).expect("a step");
    let mut engine = handed_on(engine, without.path());
    engine.step(seconds(5..30, 0)).expect("a step");
    let mut engine = handed_on(engine, with.path());
    assert_eq!(incomplete(&mut engine, 0), [(20, true), (40, false)]);
    // Nobody read the table until now.
    let mut engine = self::engine(with.path());
    engine.begin_amid((table.topic(), 0));
    assert_eq!(incomplete(&mut engine, 30), [(20, true), (40, false)]);
    let mut engine = self::engine(with.path());
    assert_eq!(
        incomplete(&mut engine, 30),
        [(20, false), (40, false)],
        "a log that begins there"
    );
}

/// Rows of a table in the order of their times, every fourth a mark, of two hosts.
fn log(table: Table, steps: &[(i64, u8, i64)]) -> Vec<InputRecord> {
    let mut second = 0;
    let mut offsets = 0..;
    let rows = steps.iter().map(|(wait, kind, amount)| {
        second += wait;
        let host = ["a", "b"][usize::from(kind % 2)];
        let container = ["c", "d"][usize::from(kind / 2 % 2)];
        let more = match (kind / 4 % 4, table) {
            (0, _) => json!({"evt_type": "mark"}),
            (_, Table::Events) => json!({"evt_type": "execve", "container_id": container}),
            (_, Table::ContainerSamples) => {
                json!({"cpu_total_ns": amount, "container_id": container})
            }
            (_, Table::ProcessSamples) => {
                json!({"proc_fdopencount": amount * 4, "container_id": container})
            }
            (_, Table::SyscallSamples) => {
                json!({"call_failed": amount, "container_id": container})
            }
            (_, Table::IoSamples) => {
                json!({"fd_backlog": amount, "container_id": container})
            }
        };
        let offset = offsets.next().expect("numbers go on");
        row(table, offset, host, second, &more)
    });
    rows.collect()
}

/// What is of all hosts together, where one engine has both stages.
const FLEET_LOG: Partition = (Topic::Exchange, 0);

/// Stores what changed in each log, as the topic of states does.
fn store(engine: &mut Engine, stored: &mut BTreeMap<Partition, State>) {
    for log in engine.logs().into_iter().chain([FLEET_LOG]) {
        let own = stored.entry(log).or_default();
        let records = engine.store_log(log, &Renewal::default());
        for record in records.expect("a checkpoint") {
            match record.value {
                Some(value) => drop(own.insert(record.key, value)),
                None => drop(own.remove(&record.key)),
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(i64, u8, i64)>> {
    prop::collection::vec((0..12i64, 0..16u8, 0..40i64), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each topic's records are in order; how the polls of topics lie between each other is chance, and so is which logs another
    /// engine takes over when, each with what is stored of it alone.
    #[test]
    fn nothing_depends_on_how_the_polls_of_topics_are_mixed(
        logs in [steps(), steps(), steps(), steps(), steps()],
        polls in prop::collection::vec((0..=Table::ALL.len(), 1..5usize), 0..60),
    ) {
        let folder = folder(&[("hot", HOT), ("open", OPEN), ("spree", SPREE), ("failing", FAILING), ("waiting", WAITING), ("both", BOTH)]);
        let logs: Vec<Vec<InputRecord>> = Table::ALL
            .into_iter()
            .zip(&logs)
            .map(|(table, steps)| log(table, steps))
            .collect();
        let all: Vec<InputRecord> = logs.iter().flatten().cloned().collect();
        let mut left: Vec<_> = logs.into_iter().map(Vec::into_iter).collect();
        let mut engine = engine(folder.path());
        let mut alerts: Vec<Alert> = Vec::new();
        let mut stored: BTreeMap<Partition, State> = BTreeMap::new();
        let every = (0..Table::ALL.len()).map(|topic| (topic, usize::MAX));
        for (topic, count) in polls.into_iter().chain(every) {
            if topic == Table::ALL.len() {
                store(&mut engine, &mut stored);
                engine = self::engine(folder.path());
                for (log, state) in &stored {
                    if *log == FLEET_LOG {
                        engine.restore_fleet(FLEET, state.clone(), &Inputs::new()).expect("a state");
                        continue;
                    }
                    engine.restore_log(*log, state.clone(), i64::MIN).expect("a state");
                }
                continue;
            }
            let poll: Vec<InputRecord> = left[topic].by_ref().take(count).collect();
            alerts.extend(engine.step(poll).expect("a step").alerts);
        }
        alerts.extend(engine.finish(0).expect("the end").alerts);
        let oracle = Oracle::load(folder.path()).expect("an oracle").without_throttle();
        let expected = oracle.run(&all, Input::Bounded).expect("an answer");
        let differences = compare(&expected.alerts, &alerts);
        prop_assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
