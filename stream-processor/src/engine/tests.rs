//! The engine is a function of the log: however it is cut into steps, it says the same.

use std::fs;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::{Topic, Topics};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::Decoder;
use crate::detect::LoadReport;

fn of_events(offset: i64) -> Inputs {
    Inputs::from([(Topic::Events, offset)])
}

const LISTS: &str = "name\nsh\nbash\n";

/// An engine with these predicates as detections `d0`, `d1` ...
fn engine(predicates: &[&str]) -> Engine {
    let report = loaded(predicates);
    assert_eq!(report.refused, Vec::new());
    Engine::new(report.set, AlertMode::Test).expect("an engine")
}

/// What comes of loading these predicates.
fn loaded(predicates: &[&str]) -> LoadReport {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("lists")).expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    fs::write(folder.path().join("lists/shells.csv"), LISTS).expect("a list");
    for (index, predicate) in predicates.iter().enumerate() {
        let text = format!(
            "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{{proc_name}} in {{container_id}}\"\n\
             -- severity = \"high\"\n-- status = \"stable\"\n-- risk = 70\n-- attack = [\"T1059\"]\n\
             -- false_positives = [\"none\"]\n-- blind_spots = []\n-- response = \"look\"\n-- dedup = {{ key = [\"proc_name\"] }}\n\
             SELECT container_id, proc_name, ts FROM events WHERE {predicate}"
        );
        fs::write(folder.path().join(format!("tactic/d{index}.sql")), text).expect("a detection");
    }
    DetectionSet::load(folder.path()).expect("detections")
}

/// An engine of those of the predicates that an event can pass, and the places of the others.
fn engine_of_possible(predicates: &[&str]) -> (Engine, Vec<usize>) {
    let report = loaded(predicates);
    let refused = report.refused.iter().map(|refusal| {
        assert!(refusal.reason.starts_with("no event can pass"), "{refusal}");
        let name = refusal.file.file_stem().expect("a name").to_string_lossy();
        name[1..].parse().expect("a number")
    });
    let refused = refused.collect();
    (
        Engine::new(report.set, AlertMode::Test).expect("an engine"),
        refused,
    )
}

fn event(value: Value) -> Event {
    let mut event = json!({
        "host_id": "host-1", "sensor_run": "run-1", "seq": 0, "ts": 1_000, "evt_type": "execve",
        "container_id": "c0ffee", "proc_name": "sh"
    });
    let (Value::Object(event), Value::Object(more)) = (&mut event, value) else {
        panic!("objects")
    };
    event.extend(more);
    serde_json::from_value(Value::Object(event.clone())).expect("an event")
}

fn record(offset: i64, event: &Event) -> InputRecord {
    let mut value = Vec::new();
    event.encode_framed(&mut value);
    let key = event.host_id.as_bytes().to_vec().into();
    InputRecord {
        topic: Topic::Events,
        partition: 3,
        offset,
        ingest_ts_ns: Some(2_000),
        key,
        value: value.into(),
    }
}

/// One record, at a time of ours.
fn step_at(engine: &mut Engine, record: InputRecord, now_ns: i64) -> StepOutput {
    engine.take(vec![record]).expect("a record");
    engine.say(now_ns).expect("a step")
}

fn offsets(output: &StepOutput) -> Vec<i64> {
    output
        .alerts
        .iter()
        .map(|alert| alert.evidence[0].offset)
        .collect()
}

#[test]
fn an_alert_holds_what_an_analyst_needs() {
    let mut engine = engine(&["evt_type = 'execve'"])
        .with_evidence_topics(EvidenceTopics::kafka(&Topics::new("dogwatch")));
    let whole = event(json!({
        "seq": 7, "host_name": "web-1", "host_tags": {"site": "a"}, "container_name": "shop", "container_labels": {"app": "x"},
        "proc_key": "00000000000000aa", "proc_pid": 42, "proc_exepath": "/bin/sh", "proc_cmdline": "sh -i", "user_host_uid": 1000,
        "proc_akey": ["b", "c"], "proc_aname": ["nginx", "shim"], "proc_apid": [41, 40], "proc_aexepath": ["/nginx", ""],
        "proc_acmdline": ["nginx: worker"], "proc_auid": [0, 0], "proc_skey": "b", "proc_sname": "nginx", "proc_sid": 41
    }));
    let output = step_at(&mut engine, record(11, &whole), 3_000);
    let [alert] = &output.alerts[..] else {
        panic!("{output:?}")
    };
    assert_eq!(alert.alert_id.len(), 32);
    assert!(alert.dedup_key.starts_with("d0/"));
    assert_eq!(&*alert.message, "sh in c0ffee");
    assert_eq!(
        (&*alert.severity, &*alert.priority, alert.risk),
        ("high", "Error", 70)
    );
    assert_eq!(
        (alert.event_ts, alert.ingest_ts, alert.alert_ts),
        (1_000, Some(2_000), 3_000)
    );
    assert_eq!(alert.host_tags, whole.host_tags);
    assert_eq!(alert.container_labels, whole.container_labels);
    assert_eq!(alert.process.as_ref().expect("a process").pid, 42);
    assert_eq!(
        alert.session.as_ref().expect("a session").name.as_deref(),
        Some("nginx")
    );
    let ancestors: Vec<_> = alert
        .ancestors
        .iter()
        .map(|process| {
            (
                process.pid,
                process.exepath.as_deref(),
                process.cmdline.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        ancestors,
        [
            (41, Some("/nginx"), Some("nginx: worker")),
            (40, None, None)
        ]
    );
    assert_eq!(
        &*alert.row,
        r#"{"container_id":"c0ffee","proc_name":"sh","ts":"1970-01-01T00:00:00.000001000Z"}"#
    );
    let [evidence] = &alert.evidence[..] else {
        panic!("one row")
    };
    assert_eq!(
        (
            &*evidence.topic,
            evidence.partition,
            evidence.offset,
            evidence.seq
        ),
        ("dogwatch.events", 3, 11, 7)
    );
    assert_eq!(
        serde_json::from_str::<Event>(&evidence.row).expect("an event"),
        whole
    );
    assert_eq!(
        (
            alert.delayed,
            alert.incomplete,
            alert.losses.as_ref(),
            &*alert.mode
        ),
        (false, false, None, "test")
    );
}

#[test]
fn identity_hangs_on_the_event_and_the_detection_not_on_offsets_or_time() {
    let predicates = ["evt_type = 'execve'", "evt_type = 'execve' AND true"];
    let ids = |offset: i64, now: i64, seq: i64| -> Vec<(Text, Text)> {
        let record = record(offset, &event(json!({"seq": seq})));
        let output = step_at(&mut engine(&predicates), record, now);
        output
            .alerts
            .into_iter()
            .map(|alert| (alert.alert_id, alert.dedup_key))
            .collect()
    };
    let first = ids(1, 1, 1);
    assert_eq!(first, ids(9, 9, 1));
    assert_ne!(first[0].0, first[1].0);
    let other = ids(1, 1, 2);
    assert_ne!(first[0].0, other[0].0);
    assert_eq!(first[0].1, other[0].1);
}

#[test]
fn alerts_of_what_one_process_did_at_once_are_related() {
    let related = |key: &str, ts: i64| -> Vec<Option<Text>> {
        let predicates = ["evt_type = 'execve'", "proc_name = 'sh'"];
        let event = event(json!({"seq": 1, "proc_key": key, "ts": ts}));
        let output = step_at(&mut engine(&predicates), record(1, &event), 1);
        let alerts = output.alerts.into_iter();
        alerts.map(|alert| alert.related).collect()
    };
    let of = |key: &str, ts: i64| match &related(key, ts)[..] {
        [left, right] if left == right => left.clone(),
        other => panic!("{other:?}"),
    };
    let (second, here) = (1_000_000_000, of("00000000000000aa", 1_000_000_000));
    assert_eq!(here.as_ref().map(|text| text.len()), Some(16));
    assert_eq!(here, of("00000000000000aa", 2 * second - 1));
    assert_ne!(here, of("00000000000000aa", 2 * second));
    assert_ne!(here, of("00000000000000ab", second));
    assert_eq!(of("", second), None);
}

#[test]
fn what_a_sensor_sent_again_alerts_once() {
    let mut engine = engine(&["evt_type = 'execve'"]);
    let records = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2)]
        .map(|(offset, seq)| record(offset, &event(json!({"seq": seq}))));
    let (first, second) = records.split_at(3);
    let first = engine.step(first.to_vec()).expect("a step");
    let second = engine.step(second.to_vec()).expect("a step");
    assert_eq!((offsets(&first), offsets(&second)), (vec![0, 1], vec![4]));
    assert_eq!((first.counts.repeated, second.counts.repeated), (1, 1));
    let after_gap = engine
        .step(vec![record(5, &event(json!({"seq": 9})))])
        .expect("a step");
    assert_eq!(after_gap.counts.missing, 6);
}

#[test]
fn bad_records_are_set_apart_and_the_good_ones_pass() {
    let mut engine = engine(&["evt_type = 'execve'"]);
    let good = |offset| record(offset, &event(json!({"seq": offset})));
    let mut truncated = good(1);
    truncated.value.truncate(40);
    let mut garbage = good(2);
    garbage.value = "not avro".into();
    let mut empty = good(3);
    empty.value.clear();
    let mut unknown = good(4);
    unknown.value = [&good(4).value[..2], &[0; 8], &good(4).value[10..]]
        .concat()
        .into();
    let mut forged = good(5);
    forged.key = "host-2".into();
    let mut elsewhere = good(6);
    elsewhere.topic = Topic::Sensors;
    let records = vec![
        good(0),
        truncated,
        garbage,
        empty,
        unknown,
        forged,
        elsewhere,
        good(7),
    ];
    let output = engine.step(records.clone()).expect("a step");
    assert_eq!(offsets(&output), [0, 7]);
    let mut rejected: Vec<_> = output
        .dead_letters
        .iter()
        .map(|letter| (letter.record.offset, letter.error.reason()))
        .collect();
    rejected.sort_unstable();
    assert_eq!(
        rejected,
        [
            (1, "undecodable"),
            (2, "undecodable"),
            (3, "undecodable"),
            (5, "key_disagrees"),
            (6, "no_table")
        ]
    );
    let unknown: Vec<_> = output
        .unknown_schemas
        .iter()
        .map(|(_, record)| record.offset)
        .collect();
    assert_eq!(unknown, [4]);
    assert_eq!((output.counts.records, output.counts.events), (8, 2));
    // Who takes the partition over and replays them repeats none of it.
    let of_both = Inputs::from([(Topic::Events, 8), (Topic::Sensors, 8)]);
    engine
        .restore(3, BTreeMap::new(), &of_both)
        .expect("an empty task");
    let replayed = engine.step(records).expect("a step");
    assert_eq!(offsets(&replayed), [0; 0]);
    assert_eq!(replayed.dead_letters.len(), 0);
    assert_eq!(replayed.unknown_schemas.len(), 0);
}

#[test]
fn a_newer_sensors_events_are_read_once_their_schema_is_known() {
    let mut schema: Value = serde_json::from_str(Event::SCHEMA).expect("JSON");
    let fields = schema["fields"].as_array_mut().expect("fields");
    fields.insert(
        0,
        json!({"name": "from_the_future", "type": "string", "default": ""}),
    );
    let schema = schema.to_string();
    let mut engine = engine(&["evt_type = 'execve'"]);
    let old = record(5, &event(json!({"container_name": "shop"})));
    // The new field stands first: one empty string before the old datum, under the new schema's fingerprint.
    let newer = dogwatch_schemas::framing::fingerprint_of(
        &apache_avro::Schema::parse_str(&schema).expect("a schema"),
    );
    let mut new = old.clone();
    new.value = [
        &old.value[..2],
        &newer.0.to_le_bytes(),
        &[0],
        &old.value[10..],
    ]
    .concat()
    .into();
    assert_eq!(engine.unknown_schema(&new), Some(newer));
    let output = engine.step(vec![new]).expect("a step");
    let (fingerprint, record) = output
        .unknown_schemas
        .into_iter()
        .next()
        .expect("set apart");
    assert_eq!(fingerprint, newer);
    engine.register_schema(&schema).expect("compatible");
    let output = engine.step(vec![record]).expect("a step");
    assert_eq!(offsets(&output), [5]);
    assert_eq!(output.alerts[0].container_name.as_deref(), Some("shop"));
}

#[test]
fn sql_does_not_see_marks_and_losses_reach_the_alerts_of_the_next_minute() {
    let mut engine = engine(&["true"]);
    let mark =
        |seq, losses: Value| event(json!({"seq": seq, "evt_type": "mark", "evt_losses": losses}));
    let events = [
        event(json!({"seq": 0})),
        mark(1, json!({"ring_full": 0})),
        event(json!({"seq": 2})),
        mark(3, json!({"ring_full": 4, "queue_full": 0})),
        event(json!({"seq": 4})),
        event(json!({"seq": 5, "ts": 70_000_000_000_i64})),
    ];
    let mut records: Vec<_> = (0..)
        .zip(&events)
        .map(|(offset, event)| record(offset, event))
        .collect();
    records[5].ingest_ts_ns = Some(70_000_000_000);
    let output = engine.step(records).expect("a step");
    assert_eq!(offsets(&output), [0, 2, 4, 5]);
    let losses: Vec<_> = output
        .alerts
        .iter()
        .map(|alert| (alert.incomplete, alert.losses.clone()))
        .collect();
    let lost = Some([("ring_full".into(), 4)].into());
    assert_eq!(
        losses,
        [(false, None), (false, None), (true, lost), (false, None)]
    );
    assert_eq!(output.counts.marks, 2);
}

#[test]
fn a_detection_without_a_period_says_ten_alerts_a_minute_and_the_number_of_the_others() {
    let ingest = |offset: i64| 60_000_000_000 + 30_000_000 * offset;
    let records: Vec<InputRecord> = (0..4_000)
        .map(|offset| {
            let event = event(json!({"seq": offset, "ts": ingest(offset)}));
            InputRecord {
                ingest_ts_ns: Some(ingest(offset)),
                ..record(offset, &event)
            }
        })
        .collect();
    let told = |output: &StepOutput| -> Vec<(Text, i64, Text)> {
        let alerts = output.alerts.iter();
        let told = |alert: &Alert| (alert.alert_id.clone(), alert.folded, alert.message.clone());
        alerts.map(told).collect()
    };
    let mut at_once = engine(&["true"]);
    let all = told(&at_once.step(records.clone()).expect("a step"));
    let held: Vec<_> = all.iter().filter(|(_, held, _)| *held > 0).collect();
    assert_eq!(all.len(), 10 + 1 + 10);
    assert_eq!(held[0].1, 2_000 - 10);
    assert_eq!(&*held[0].2, "t: 1990 more alerts within a minute in c0ffee");
    // The same after restarts, from a checkpoint before what was published.
    let mut engine = engine(&["true"]);
    let mut again = Vec::new();
    let mut stored = State::new();
    for (number, part) in records.chunks(150).enumerate() {
        again.extend(told(&engine.step(part.to_vec()).expect("a step")));
        match number % 3 {
            0 => {
                for StateRecord { key, value } in engine
                    .checkpoint(3, &Renewal::default())
                    .expect("a checkpoint")
                {
                    match value {
                        Some(value) => drop(stored.insert(key, value)),
                        None => drop(stored.remove(&key)),
                    }
                }
            }
            2 => {
                let next = part.last().expect("records").offset + 1;
                let live_from = of_events(next);
                engine
                    .restore(3, stored.clone(), &live_from)
                    .expect("restored");
                let from = (number - 1) * 150;
                let replayed = engine.step(records[from..next as usize].to_vec());
                assert_eq!(told(&replayed.expect("a step")), []);
            }
            _ => {}
        }
    }
    assert_eq!(again, all);
    assert!(engine.waits(3));
    let end = engine.finish(0).expect("an end");
    assert_eq!(told(&end).len(), 1);
    assert!(!engine.waits(3));
}

#[test]
fn a_match_that_cannot_be_decoded_whole_is_an_alert_all_the_same() {
    let mut engine = engine(&["evt_type = 'execve'"]);
    let mut hostile = record(7, &event(json!({"seq": 7, "proc_cwd": "/hostile"})));
    let mut value = hostile.value.to_vec();
    let place = value
        .windows(8)
        .position(|bytes| bytes == b"/hostile")
        .expect("its text");
    value[place] = 0xff;
    hostile.value = value.into();
    let output = engine.step(vec![hostile]).expect("a step");
    let [alert] = &output.alerts[..] else {
        panic!("{output:?}")
    };
    assert_eq!(
        (&*alert.message, &*alert.host_id),
        ("sh in c0ffee", "host-1")
    );
    assert!(alert.error.is_some());
    assert_eq!(
        (alert.evidence[0].offset, &*alert.evidence[0].row),
        (7, r#"{"undecodable":true}"#)
    );
    assert_eq!(output.dead_letters.len(), 1);
}

#[test]
fn an_event_that_comes_long_after_it_happened_is_marked() {
    let mut engine = engine(&["true"]);
    let mut late = record(0, &event(json!({"ts": 0})));
    late.ingest_ts_ns = Some(61_000_000_000);
    let mut local = record(1, &event(json!({"ts": 0, "seq": 1})));
    local.ingest_ts_ns = None;
    let output = engine.step(vec![late, local]).expect("a step");
    assert_eq!(
        output
            .alerts
            .iter()
            .map(|alert| alert.delayed)
            .collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn one_crafted_event_does_not_blind_a_detection_to_the_others() {
    let mut engine = engine(&["CAST(proc_name AS BIGINT) > 5", "evt_type = 'execve'"]);
    let names = ["7", "crafted", "3", "9"];
    let records: Vec<_> = (0..)
        .zip(names)
        .map(|(offset, name)| record(offset, &event(json!({"seq": offset, "proc_name": name}))))
        .collect();
    let output = engine.step(records).expect("a step");
    let of = |id: &str| -> Vec<i64> {
        let own = output
            .alerts
            .iter()
            .filter(|alert| &*alert.detection_id == id);
        own.map(|alert| alert.evidence[0].offset).collect()
    };
    assert_eq!((of("d0"), of("d1")), (vec![0, 3], vec![0, 1, 2, 3]));
    let [failure] = &output.failures[..] else {
        panic!("{:?}", output.failures)
    };
    assert_eq!(
        (failure.detection_id.as_str(), failure.log.1, failure.offset),
        ("d0", 3, 1)
    );
}

#[test]
fn a_plan_runs_again_and_again() {
    let mut engine = engine(&["EXISTS (SELECT 1 FROM shells s WHERE s.name = proc_name)"]);
    for offset in 0..50 {
        let name = if offset % 2 == 0 { "bash" } else { "nginx" };
        let output = engine
            .step(vec![record(
                offset,
                &event(
                    json!({"seq": offset, "proc_name": name, "container_id": format!("c{offset}")}),
                ),
            )])
            .expect("a step");
        assert_eq!(
            output.alerts.len(),
            usize::from(offset % 2 == 0),
            "{offset}"
        );
    }
}

/// Conditions on an event, some of which are NULL for some events.
fn predicate() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec![
        "evt_type = 'open'",
        "'execve' = evt_type",
        "evt_type IN ('execve', 'open')",
        "evt_type NOT IN ('open', 'connect')",
        "evt_type <> 'execve'",
        "proc_name IN (SELECT name FROM shells)",
        "proc_name NOT IN (SELECT name FROM shells)",
        "proc_name IN ('nginx', 'b')",
        "proc_name NOT IN ('sh', 'b')",
        "proc_name = 'bash'",
        "proc_name <> 'bash'",
        "upper(fd_name) IN ('SH', '/TMP')",
        "upper(fd_name) NOT IN ('/ETC/SHADOW', '')",
        "proc_tty IN (0, 1)",
        "proc_tty BETWEEN 1 AND 40000",
        "proc_name LIKE 'b%'",
        "proc_name NOT LIKE '%sh'",
        "proc_name IS NULL",
        "proc_name = fd_name",
        "proc_tty <> 0",
        "evt_failed",
        "array_has(proc_args, '-i')",
        "coalesce(proc_stage, '') <> 'runtime'",
        "regexp_like(fd_name, '^/e')",
        "starts_with(fd_name, '/etc')",
        "cidr_match(fd_rip, '10.0.0.0/8')",
        "container_labels['app'] = 'x'",
        "array_has_any(proc_args, (SELECT array_agg(name) FROM shells))",
        "proc_tty > (SELECT count(*) FROM shells)",
    ]);
    atom.prop_map(str::to_owned)
        .prop_recursive(4, 16, 2, |inner| {
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|condition| format!("NOT ({condition})")),
                (inner.clone(), inner.clone())
                    .prop_map(|(left, right)| format!("({left} AND {right})")),
                (inner.clone(), inner.clone())
                    .prop_map(|(left, right)| format!("({left} OR {right})")),
                inner.prop_map(|condition| format!("({condition}) IS NOT TRUE")),
            ]
        })
}

fn some<T: Clone + std::fmt::Debug + 'static>(
    values: &[T],
) -> impl Strategy<Value = Option<T>> + use<T> {
    prop::option::of(prop::sample::select(values.to_vec()))
}

fn any_event() -> impl Strategy<Value = Event> {
    let parts = (
        prop::sample::select(vec!["execve", "open", "connect", "procexit"]),
        some(&["sh", "bash", "nginx", "b", ""]),
        some(&["/etc/shadow", "/tmp", "sh", ""]),
        some(&[0, 34_816]),
        any::<bool>(),
        some(&[vec!["-i"], vec![], vec!["-c", "sh"]]),
        some(&["runtime", "exec"]),
        some(&["10.1.2.3", "8.8.8.8", "", "::1"]),
        some(&["x", "y"]),
    );
    parts.prop_map(|(evt_type, name, fd, tty, failed, args, stage, ip, app)| {
        let mut fields = json!({
            "evt_type": evt_type, "proc_name": name, "fd_name": fd, "proc_tty": tty, "evt_failed": failed,
            "proc_args": args, "proc_stage": stage, "fd_rip": ip, "container_labels": app.map(|app| json!({"app": app}))
        });
        fields.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        event(fields)
    })
}

/// Offsets that plain SQL over one table finds.
fn plain_sql(predicate: &str, records: &[InputRecord]) -> Vec<i64> {
    use datafusion::datasource::MemTable;
    let batch = batch(records);
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table");
    crate::detect::plain_offsets(std::sync::Arc::new(table), LISTS, predicate)
}

/// All columns of events.
fn batch(records: &[InputRecord]) -> arrow::array::RecordBatch {
    let schema = crate::decode::events_schema();
    let columns: BTreeSet<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    Decoder::new(crate::tables::Table::Events, &columns)
        .expect("a decoder")
        .decode(records.to_vec())
        .expect("a batch")
        .batch
}

proptest! {
    // `PROPTEST_CASES` sets how many conditions are tried.
    #[test]
    fn a_filter_finds_what_plain_sql_finds(
        predicate in predicate(),
        events in prop::collection::vec(any_event(), 1..40),
    ) {
        let records: Vec<InputRecord> = (0..).zip(events).map(|(offset, mut event)| {
            event.seq = offset;
            record(offset, &event)
        }).collect();
        let found = crate::detect::filter_offsets(&batch(&records), LISTS, &predicate);
        prop_assert_eq!(found, plain_sql(&predicate, &records), "{}", predicate);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_engine_finds_what_plain_sql_finds(
        predicates in prop::collection::vec(predicate(), 1..5),
        events in prop::collection::vec(any_event(), 0..40),
        cut in 0usize..40,
    ) {
        let records: Vec<InputRecord> = (0..).zip(events).map(|(offset, mut event)| {
            event.seq = offset;
            // A container's eleventh alert of a minute would be held back.
            event.container_id = format!("c{offset}").into();
            record(offset, &event)
        }).collect();
        let predicates: Vec<&str> = predicates.iter().map(String::as_str).collect();
        // What is refused because no event could pass finds none: held to below, like the others.
        let (mut engine, _) = engine_of_possible(&predicates);
        let (first, second) = records.split_at(cut.min(records.len()));
        let first = engine.step(first.to_vec()).expect("a step");
        for taken in second.chunks(cut.max(1)) {
            engine.take(taken.to_vec()).expect("a chunk");
        }
        let outputs = [first, engine.say(0).expect("a step")];
        for (index, predicate) in predicates.iter().enumerate() {
            let id = format!("d{index}");
            let alerts = outputs.iter().flat_map(|output| &output.alerts).filter(|alert| *alert.detection_id == id);
            let found: Vec<i64> = alerts.map(|alert| alert.evidence[0].offset).collect();
            prop_assert_eq!(found, plain_sql(predicate, &records), "{}", predicate);
        }
    }

    #[test]
    fn a_plan_finds_what_the_filter_finds(predicate in predicate(), events in prop::collection::vec(any_event(), 1..40)) {
        let records: Vec<InputRecord> = (0..).zip(events).map(|(offset, mut event)| {
            event.seq = offset;
            // A container's eleventh alert of a minute would be held back.
            event.container_id = format!("c{offset}").into();
            record(offset, &event)
        }).collect();
        // What EXISTS asks makes it a plan; it is true of every event.
        let general = format!("({predicate}) AND EXISTS (SELECT 1 FROM shells)");
        let (mut engine, refused) = engine_of_possible(&[&predicate, &general]);
        if !refused.is_empty() {
            prop_assert_eq!(refused, [0, 1]);
            return Ok(());
        }
        prop_assert!(!engine.detections().at(1).filters());
        let output = engine.step(records).expect("a step");
        let of = |id: &str| -> Vec<i64> {
            output.alerts.iter().filter(|alert| &*alert.detection_id == id).map(|alert| alert.evidence[0].offset).collect()
        };
        prop_assert_eq!(of("d0"), of("d1"));
    }
}
