//! Alerts of windows over all hosts: what they hold, what is late for them, and what is known to be missing.

use std::fs;

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use serde_json::{Value, json};

use super::*;
use crate::window::Flushed;

const SECOND: i64 = 1_000_000_000;
const BEGIN: i64 = 1_800_000_000 * SECOND;

/// An engine of one detection: programs that ran on two hosts within ten seconds.
fn engine(partitions: &[i32]) -> Engine {
    engine_of(partitions, "count(DISTINCT host_id)")
}

/// The same, of what counts hosts.
fn engine_of(partitions: &[i32], counts: &str) -> Engine {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("fleet")).expect("a folder");
    let text = format!(
        "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{{proc_name}} on {{hosts}} hosts\"\n\
        -- severity = \"high\"\n-- status = \"stable\"\n\
        SELECT proc_name, {counts} AS hosts FROM tumble(events, INTERVAL '10 seconds')\n\
        WHERE evt_type = 'execve' GROUP BY window_start, window_end, proc_name HAVING {counts} >= 2"
    );
    fs::write(folder.path().join("fleet/spread.sql"), text).expect("a detection");
    let report = DetectionSet::load(folder.path()).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    engine.with_sources(partitions)
}

/// A row of a host, which is in the partition of its name's last digit; seconds from the begin.
fn row(offset: i64, host: &str, ts: f64, ingest: f64, more: Value) -> InputRecord {
    let at = |seconds: f64| BEGIN + (seconds * 1e9) as i64;
    let mut event = json!({
        "host_id": host, "sensor_run": "r", "seq": offset, "ts": at(ts), "evt_type": "execve", "proc_name": "miner",
    });
    let (Value::Object(event), Value::Object(more)) = (&mut event, more) else {
        panic!("objects")
    };
    event.extend(more);
    let event: Event = serde_json::from_value(Value::Object(event.clone())).expect("an event");
    let mut value = Vec::new();
    event.encode_framed(&mut value);
    let partition = host.chars().last().and_then(|digit| digit.to_digit(10));
    InputRecord {
        topic: Topic::Events,
        partition: partition.expect("a digit") as i32,
        offset,
        ingest_ts_ns: Some(at(ingest)),
        key: host.as_bytes().to_vec().into(),
        value: value.into(),
    }
}

fn mark(offset: i64, host: &str, ts: f64, losses: Value) -> InputRecord {
    row(
        offset,
        host,
        ts,
        ts,
        json!({"evt_type": "mark", "evt_losses": losses}),
    )
}

fn said(output: &StepOutput) -> Vec<(String, String)> {
    let alerts = output.alerts.iter();
    let state = |alert: &Alert| alert.window_state.as_deref().unwrap_or_default().to_owned();
    alerts
        .map(|alert| (state(alert), alert.message.to_string()))
        .collect()
}

#[test]
fn a_program_on_two_hosts_is_said_at_once_and_at_the_close_with_hosts_and_rows() {
    let mut engine = engine(&[0, 1]).with_evidence_topics(EvidenceTopics::same("dogwatch.events"));
    let rows = vec![
        row(1, "b0", 2.0, 2.1, json!({"proc_cmdline": "miner -o pool"})),
        row(2, "b0", 2.5, 2.6, json!({"proc_name": "sh"})),
        row(1, "a1", 1.0, 2.2, json!({"proc_args": ["x"]})),
    ];
    let output = engine.step(rows).expect("a step");
    assert_eq!(said(&output), [], "their seconds run");
    let next = vec![mark(3, "b0", 4.0, json!({})), mark(2, "a1", 4.0, json!({}))];
    let output = engine.step(next).expect("a step");
    let open = ("open".to_owned(), "miner on 2 hosts".to_owned());
    assert_eq!(said(&output), [open]);
    let [alert] = &output.alerts[..] else {
        panic!("{output:?}")
    };
    assert_eq!(
        (&*alert.host_id, &*alert.host_name, &*alert.container_id),
        ("fleet", "fleet", "")
    );
    assert_eq!(alert.host_count, Some(2));
    assert_eq!(alert.hosts, Some(vec!["a1".into(), "b0".into()]));
    let evidence: Vec<_> = alert.evidence.iter().collect();
    let places = evidence
        .iter()
        .map(|row| (&*row.host_id, row.seq, row.partition, row.offset));
    assert_eq!(
        places.collect::<Vec<_>>(),
        [("a1", 1, 1, 1), ("b0", 1, 0, 1)],
        "by time"
    );
    assert!(evidence.iter().all(|row| &*row.topic == "dogwatch.events"));
    let told: Value = serde_json::from_str(&evidence[0].row).expect("JSON");
    assert_eq!(
        (&told["proc_name"], &told["evt_type"]),
        (&"miner".into(), &"execve".into())
    );
    assert!(!alert.incomplete, "{:?}", alert.losses);

    // One partition has passed the window, the other has not.
    let output = engine.step(vec![
        mark(4, "b0", 12.0, json!({})),
        mark(5, "b0", 13.5, json!({})),
    ]);
    assert_eq!(said(&output.expect("a step")), []);
    let output = engine.step(vec![
        mark(3, "a1", 12.0, json!({})),
        mark(4, "a1", 13.5, json!({})),
    ]);
    let output = output.expect("a step");
    let closed = ("closed".to_owned(), "miner on 2 hosts".to_owned());
    assert_eq!(said(&output), [closed]);
    assert_eq!(output.alerts[0].alert_id, alert.alert_id);
    assert_eq!(&*output.alerts[0].activity, "update");
}

#[test]
fn a_host_far_behind_is_late_for_the_fleet_once_and_its_windows_say_so() {
    let mut engine = engine(&[0]);
    let mut output = StepOutput::default();
    for records in [
        vec![
            row(1, "a0", 1.0, 1.0, json!({})),
            row(2, "b0", 1.0, 1.0, json!({})),
        ],
        // It is waited for ten seconds, and no longer.
        vec![
            mark(3, "a0", 15.0, json!({})),
            row(4, "b0", 2.0, 16.0, json!({})),
        ],
        vec![
            mark(5, "a0", 22.0, json!({})),
            row(6, "b0", 3.0, 22.5, json!({})),
        ],
        vec![mark(7, "a0", 24.0, json!({}))],
    ] {
        let step = engine.step(records).expect("a step");
        output.alerts.extend(step.alerts);
        output.late.extend(step.late);
    }
    let late: Vec<i64> = output.late.iter().map(|late| late.record.offset).collect();
    assert_eq!(late, [6]);
    let states: Vec<String> = said(&output).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["open", "closed"]);
}

#[test]
fn what_hosts_say_is_lost_makes_windows_of_the_fleet_incomplete() {
    let mut engine = engine(&[0]);
    let records = vec![
        mark(1, "a0", 0.5, json!({})),
        row(2, "a0", 1.0, 1.0, json!({})),
        row(3, "b0", 1.0, 1.1, json!({})),
        mark(4, "a0", 2.0, json!({"ring_full": 7})),
        mark(5, "a0", 4.0, json!({"ring_full": 7})),
    ];
    let mut output = engine.step(records).expect("a step");
    output
        .alerts
        .extend(engine.finish(0).expect("the end").alerts);
    let losses: Vec<_> = output
        .alerts
        .iter()
        .map(|alert| alert.losses.clone())
        .collect();
    // Of the host's numbers one is the other's row.
    let lost = Some([("missing".into(), 1), ("ring_full".into(), 7)].into());
    assert_eq!(
        losses,
        [None, lost],
        "known after the first word, before the last"
    );
}

/// Windows with more keys than they may count say how much of them is missing.
#[test]
fn more_keys_than_the_cap_are_left_out_and_said() {
    let options = WindowOptions {
        keys_max: 3,
        ..WindowOptions::default()
    };
    let mut engine = engine(&[0]).with_windows(options).expect("windows");
    let mut records = Vec::new();
    for number in 0..20 {
        let name = json!({"proc_name": format!("p{}", number / 2), "seq": number / 2});
        let host = ["a0", "b0"][number as usize % 2];
        records.push(row(number, host, 1.0, 1.0, name));
    }
    let output = engine.step(records).expect("a step");
    assert_eq!(said(&output), []);
    let output = engine.finish(0).expect("the end");
    let closed = output
        .alerts
        .iter()
        .filter(|alert| alert.window_state.as_deref() == Some("closed"));
    let lost: Vec<_> = closed.map(|alert| alert.losses.clone()).collect();
    let left_out = Some([("keys_over_cap".into(), 14)].into());
    assert_eq!(lost, [left_out.clone(), left_out.clone(), left_out]);
}

/// An engine of one of the stages.
fn stage(exchange: Exchange) -> Engine {
    let options = WindowOptions {
        exchange,
        ..WindowOptions::default()
    };
    let engine = engine(&[]).with_windows(options).expect("windows");
    engine.with_sources(&[0, 1])
}

/// Two engines that have a partition each, and one that finishes windows.
struct Apart {
    sources: [Engine; 2],
    fleet: Engine,
    sent: i64,
}

impl Apart {
    /// Takes rows, each by the engine that has its partition; what they send goes on at once.
    fn step(&mut self, records: Vec<InputRecord>) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for record in records {
            let source = &mut self.sources[record.partition as usize];
            let output = source.step(vec![record]).expect("a step");
            assert_eq!(output.alerts.len(), 0, "{output:?}");
            let mut record = |flushed: Flushed| {
                self.sent += 1;
                InputRecord {
                    topic: Topic::Exchange,
                    partition: flushed.partition,
                    offset: self.sent,
                    ingest_ts_ns: None,
                    key: Vec::new().into(),
                    value: flushed.value.into(),
                }
            };
            let records = output.exchange.into_iter().map(&mut record).collect();
            alerts.extend(self.fleet.step(records).expect("a step").alerts);
        }
        alerts
    }

    /// A window of ten seconds that both hosts have a row in, to its end; returns what its last alert says is missing.
    fn window(&mut self, start: f64, offset: i64) -> BTreeMap<String, i64> {
        let mut records = Vec::new();
        for host in ["b0", "a1"] {
            records.push(row(offset, host, start + 1.0, start + 1.0, json!({})));
        }
        for (place, time) in (1..).zip([4.0, 12.0, 13.5]) {
            for host in ["b0", "a1"] {
                records.push(mark(offset + place, host, start + time, json!({})));
            }
        }
        let alerts = self.step(records);
        let closed = alerts
            .iter()
            .filter(|alert| alert.window_state.as_deref() == Some("closed"));
        let closed: Vec<_> = closed.collect();
        let [alert] = closed[..] else {
            panic!("{alerts:?}")
        };
        let losses = alert.losses.iter().flatten();
        losses
            .map(|(class, count)| (class.to_string(), *count))
            .collect()
    }
}

#[test]
fn a_window_is_whole_only_where_each_partition_had_the_detection_before_it_and_saw_its_input() {
    // What remembers the second partition has not had the detection.
    let mut before = stage(Exchange::Sent(1));
    before
        .step(vec![mark(1, "a1", 0.5, json!({}))])
        .expect("a step");
    let state = before.checkpoint(1, &Renewal::default());
    let state = state.expect("a checkpoint").into_iter();
    let state = state.filter(|piece| piece.key != "fleet-carried");
    let state: State = state
        .filter_map(|piece| Some((piece.key, piece.value?)))
        .collect();
    let mut second = stage(Exchange::Sent(1));
    let live_from = Inputs::from([(Topic::Events, 2)]);
    second.restore(1, state, &live_from).expect("restored");
    let mut apart = Apart {
        sources: [stage(Exchange::Sent(1)), second],
        fleet: stage(Exchange::Received(1)),
        sent: 0,
    };
    let lost = |class: &str, count| BTreeMap::from([(class.to_owned(), count)]);
    assert_eq!(apart.window(0.0, 2), lost("not_loaded", 1));
    assert_eq!(apart.window(20.0, 6), BTreeMap::new());
    apart.sources[0].miss((Topic::Events, 0), Unseen::Expired(3));
    assert_eq!(apart.window(40.0, 10), lost("expired", 3));
    assert_eq!(apart.window(60.0, 14), BTreeMap::new());
    // A second that never comes, and a record that is none.
    apart.step(vec![mark(18, "b0", 80.5, json!({}))]);
    let lost_second = apart.sources[1]
        .step(vec![mark(18, "a1", 80.5, json!({}))])
        .expect("a step");
    assert_eq!(lost_second.exchange.len(), 1);
    let damaged = InputRecord {
        topic: Topic::Exchange,
        partition: 0,
        offset: 1_000,
        ingest_ts_ns: None,
        key: Vec::new().into(),
        value: lost_second.exchange[0].value[..20].to_vec().into(),
    };
    let output = apart.fleet.step(vec![damaged]).expect("a step");
    assert_eq!(output.dead_letters.len(), 1);
    let losses = apart.window(80.0, 19);
    assert_eq!(losses.into_keys().collect::<Vec<_>>(), ["seconds_missing"]);
    // Rows that were numbered and never came.
    assert_eq!(apart.window(100.0, 25), lost("missing", 2 * 2));
    assert_eq!(apart.window(120.0, 29), BTreeMap::new());
}

/// Who has one sensor's rights sends marks of both ends of time, and 20,000 hosts that there are not.
#[test]
fn hosts_and_times_that_somebody_invents_delay_the_fleet_by_its_patience_and_make_nobody_late() {
    let mut engine = engine(&[0]);
    let mut offset = 0;
    let mut output = StepOutput::default();
    for second in 0..40 {
        let at = f64::from(second) + 0.5;
        let mut records = Vec::new();
        let mut push = |host: &str, ts: f64, more: Value| {
            offset += 1;
            records.push(row(offset, host, ts, at, more));
        };
        for (host, end) in [("l0", i64::MIN), ("m0", i64::MAX), ("n0", -1)] {
            push(host, at, json!({"ts": end, "evt_type": "mark"}));
        }
        for number in 0..500 {
            let name = format!("invented-{second}-{number}-0");
            push(&name, -3_600.0, json!({"proc_name": "chaff"}));
        }
        for host in ["a0", "b0"] {
            let program = match second {
                3 => json!({"seq": second}),
                _ => json!({"seq": second, "evt_type": "mark"}),
            };
            push(host, at, program);
        }
        let step = engine.step(records).expect("a step");
        output.alerts.extend(step.alerts);
        output.late.extend(step.late);
    }
    let own = output.alerts.iter();
    let own = own.filter(|alert| alert.message.contains("miner"));
    let said: Vec<_> = own.map(|alert| alert.window_state.as_deref()).collect();
    assert_eq!(said, [Some("open"), Some("closed")]);
    let late = output.late.iter();
    let real = late.filter(|late| !late.record.key.starts_with(b"invented"));
    assert_eq!(real.count(), 0);
    assert!(output.late.len() > 10_000, "{}", output.late.len());
    let (panes, keys) = (engine.state_size().panes, engine.state_size().keys);
    assert!(panes < 100 && keys < 100, "{panes} {keys}");
}

#[test]
fn a_clock_that_is_set_back_makes_its_own_rows_late_at_most_and_time_goes_on() {
    let mut engine = engine(&[0]);
    let mut output = StepOutput::default();
    let steps = [
        vec![
            row(1, "a0", 1.0, 1.0, json!({})),
            row(2, "b0", 1.0, 1.1, json!({})),
        ],
        vec![
            mark(3, "a0", 12.0, json!({})),
            mark(4, "b0", 12.1, json!({})),
        ],
        // An hour back, and the broker's own clock by three seconds, as where another becomes the leader.
        vec![
            row(5, "b0", -3_590.0, 13.2, json!({"evt_type": "clock_step"})),
            row(6, "b0", -3_589.0, 10.2, json!({"proc_name": "sh"})),
            row(7, "a0", 14.0, 11.0, json!({"proc_name": "sh"})),
        ],
        vec![
            mark(8, "a0", 15.0, json!({})),
            mark(9, "a0", 24.0, json!({})),
        ],
        vec![
            mark(10, "a0", 36.0, json!({})),
            mark(11, "a0", 37.0, json!({})),
        ],
    ];
    for records in steps {
        let step = engine.step(records).expect("a step");
        output.alerts.extend(step.alerts);
        output.late.extend(step.late);
    }
    let states: Vec<String> = said(&output).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["open", "closed"]);
    let late: Vec<i64> = output.late.iter().map(|late| late.record.offset).collect();
    assert_eq!(late, [6], "its own");
}

#[test]
fn hosts_known_counts_who_was_heard_of_for_long_enough_and_no_others() {
    let mut engine = engine_of(&[0, 1], "hosts_known(INTERVAL '5 seconds')");
    let mut offset = 0;
    let mut row = |host: &str, at: f64, more: Value| {
        offset += 1;
        row(offset, host, at, at, more)
    };
    let of = |seq: i64| json!({"seq": seq});
    let at = |seq: i64| json!({"evt_type": "mark", "seq": seq});
    let mut steps = vec![vec![row("a0", 0.0, at(0)), row("b0", 0.0, at(0))]];
    // Two that were known, but one of them not for long enough; and hosts that somebody invents.
    steps.push(vec![row("a0", 4.5, of(1)), row("a0", 5.5, of(2))]);
    let mut invented = Vec::new();
    for number in 0..50 {
        invented.push(row(&format!("invented-{number}-0"), 5.6, of(0)));
    }
    steps.push(invented);
    steps.push(vec![
        row("c1", 5.7, of(0)),
        row("a0", 7.0, at(3)),
        row("c1", 7.0, at(1)),
    ]);
    let mut said_so_far = Vec::new();
    for step in steps {
        said_so_far.extend(said(&engine.step(step).expect("a step")));
    }
    assert_eq!(said_so_far, [], "one host is known");
    let second = vec![
        row("b0", 7.5, of(1)),
        row("a0", 8.6, at(4)),
        row("c1", 8.6, at(2)),
    ];
    let output = engine.step(second).expect("a step");
    let open = ("open".to_owned(), "miner on 2 hosts".to_owned());
    assert_eq!(said(&output), [open]);
    // All that ran it are counted beside, known or not.
    assert_eq!(output.alerts[0].host_count, Some(53));
}
