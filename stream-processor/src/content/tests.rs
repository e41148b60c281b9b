//! Shipped detections say what is expected of them, and what is wrong with examples is named.

use dogwatch_schemas::reads;

use super::*;

/// Set to write what detections say of their events as what is expected of them; review the difference like code.
const UPDATE_VARIABLE: &str = "DOGWATCH_UPDATE_EXPECTED";

#[test]
fn shipped_detections_say_what_is_expected_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let report = test(&folder, std::env::var_os(UPDATE_VARIABLE).is_some()).expect("detections");
    let problems: Vec<String> = report
        .results
        .iter()
        .flat_map(|result| {
            result
                .problems
                .iter()
                .map(|problem| format!("{}: {problem}", result.detection_id))
        })
        .chain(report.refused.iter().map(ToString::to_string))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn shipped_detections_leave_nothing_to_remark() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let report = DetectionSet::load(&folder).expect("detections");
    for detection in report.set.iter() {
        let remarks = lint(detection, &reads::default_patterns());
        assert_eq!(remarks, [], "{}", detection.id);
    }
    assert_eq!(report.list_warnings, []);
}

#[test]
fn shipped_detections_declare_every_read_that_an_example_is_a_hit_for() {
    // Enough for these is a program's first reading of a file in an hour, which the sensor publishes of any file: each
    // reading of libraries and scripts would be one at the start of every program, and a key may have any name.
    let first_is_enough = [
        ("dropped_library", None),
        ("dropped_script", None),
        (
            "sensitive_file_read",
            Some("/etc/letsencrypt/live/x/privkey.pem"),
        ),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let report = DetectionSet::load(&folder).expect("detections");
    let mut reads = 0;
    for detection in report.set.iter() {
        let text = |extension: &str| {
            fs::read_to_string(detection.file.with_extension(extension)).expect("examples")
        };
        let (events, alerts) = (text("events.jsonl"), text("alerts.jsonl"));
        let events: Vec<&str> = events.lines().collect();
        for alert in alerts.lines() {
            let alert: Value = serde_json::from_str(alert).expect("an alert");
            let Some(line) = alert["event"].as_u64() else {
                continue;
            };
            let event: Value = serde_json::from_str(events[line as usize - 1]).expect("an event");
            let is = |column: &str| event[column] == Value::Bool(true);
            if !is("evt_is_open_read")
                || is("evt_is_open_write")
                || is("evt_is_open_create")
                || is("evt_failed")
                || first_is_enough.iter().any(|(id, path)| {
                    *id == detection.id && path.is_none_or(|path| event["fd_name"] == path)
                })
            {
                continue;
            }
            reads += 1;
            let paths = ["fd_name", "fd_host_name"].map(|column| event[column].as_str());
            let declared = |path: &str| detection.header.reads.iter().any(|own| own.matches(path));
            assert!(
                paths.into_iter().flatten().any(declared),
                "{}: line {line}: {paths:?}",
                detection.id
            );
        }
    }
    assert!(reads > 10, "{reads} examples are reads");
}

/// The alerts of a detection that is named `d`, on these events, and its file's hash.
fn alerts_of(query: &str, header: &str, events: &[Value]) -> (Vec<Alert>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let tactic = folder.path().join("execution");
    fs::create_dir_all(&tactic).expect("a folder");
    let text = format!(
        "-- title = \"t\"\n-- description = \"d\"\n-- severity = \"low\"\n-- status = \"stable\"\n{header}\n{query}\n"
    );
    fs::write(tactic.join("d.sql"), text).expect("a detection");
    let file = folder.path().join("events.jsonl");
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    fs::write(&file, lines.join("\n")).expect("events");
    let report = DetectionSet::load(folder.path()).expect("detections");
    assert_eq!(report.refused, []);
    let hash = report.set.at(0).content_hash.clone();
    let mut engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    let records = read_events(&file, crate::tables::Table::Events).expect("events");
    let mut alerts = engine.step(records).expect("a step").alerts;
    alerts.extend(engine.finish(0).expect("the end").alerts);
    (alerts, hash)
}

/// Hexadecimal digits of the SHA-256 over parts joined by NUL.
fn digest(parts: &[&str], bytes: usize) -> String {
    use sha2::{Digest, Sha256};
    crate::detect::hex(&Sha256::digest(parts.join("\0").as_bytes())[..bytes])
}

const TIME: &str = "1750003200000000211";
const TIME_TEXT: &str = "2025-06-15T16:00:00.000000211Z";

fn timed_event() -> Value {
    serde_json::json!({
        "evt_type": "execve", "host_id": "h", "sensor_run": "r", "container_id": "c",
        "ts": TIME_TEXT, "proc_pid_ts": 1_750_003_200_000_000_211_i64, "proc_apid_ts": [7],
    })
}

#[test]
fn identities_of_single_events_are_of_numbers_and_what_is_told_is_text() {
    let (alerts, hash) = alerts_of(
        "SELECT container_id, ts, boot_ts, proc_apid_ts FROM events WHERE evt_type = 'execve'",
        "-- message = \"at {ts}, {proc_apid_ts}\"\n-- dedup = { key = [\"ts\"] }",
        &[timed_event()],
    );
    let [alert] = &alerts[..] else {
        panic!("{alerts:?}")
    };
    assert_eq!(&*alert.alert_id, digest(&["d", &hash, "h", "r", "1"], 16));
    assert_eq!(
        *alert.dedup_key,
        format!("d/{}", digest(&["h", "c", TIME], 8))
    );
    let ancestor = "1970-01-01T00:00:00.000000007Z";
    assert_eq!(&*alert.message, format!("at {TIME_TEXT}, {ancestor}"));
    let row: Value = serde_json::from_str(&alert.row).expect("JSON");
    let told = serde_json::json!({"container_id": "c", "ts": TIME_TEXT, "boot_ts": 0, "proc_apid_ts": [ancestor]});
    assert_eq!(row, told);
    let evidence: Value = serde_json::from_str(&alert.evidence[0].row).expect("JSON");
    assert_eq!(
        (&evidence["ts"], &evidence["proc_pid_ts"]),
        (&TIME_TEXT.into(), &TIME_TEXT.into())
    );
    let whole = serde_json::to_value(alert).expect("JSON");
    assert_eq!(whole["event_ts"], TIME_TEXT);
}

#[test]
fn identities_of_windows_are_of_numbers_and_what_is_told_is_text() {
    let (alerts, hash) = alerts_of(
        "SELECT window_start, container_id, proc_pid_ts, max(ts) AS newest FROM tumble(events, INTERVAL '1 hour') \
         GROUP BY window_start, window_end, container_id, proc_pid_ts",
        "-- message = \"from {window_start} to {newest}\"\n-- dedup = { key = [\"window_start\", \"newest\"] }",
        &[timed_event()],
    );
    let [alert] = &alerts[..] else {
        panic!("{alerts:?}")
    };
    let (start, start_text) = ("1750003200000000000", "2025-06-15T16:00:00.000000000Z");
    let keys = format!("[\"c\",{TIME}]");
    let identity = ["d", &hash, "window", "h", &keys, start, ""];
    assert_eq!(&*alert.alert_id, digest(&identity, 16));
    assert_eq!(
        *alert.dedup_key,
        format!("d/{}", digest(&["h", "c", start, TIME], 8))
    );
    assert_eq!(&*alert.message, format!("from {start_text} to {TIME_TEXT}"));
    let row: Value = serde_json::from_str(&alert.row).expect("JSON");
    let told = serde_json::json!({"container_id": "c", "newest": TIME_TEXT, "proc_pid_ts": TIME_TEXT, "window_start": start_text});
    assert_eq!(row, told);
}

#[test]
fn a_detection_that_cannot_judge_is_not_blamed_on_its_neighbour() {
    let folder = tempfile::tempdir().expect("a folder");
    let tactic = folder.path().join("execution");
    fs::create_dir_all(&tactic).expect("a folder");
    let header = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{proc_name}\"\n-- severity = \"low\"\n-- status = \"stable\"\n";
    for (name, more) in [
        ("good", ""),
        ("fails", " AND CAST(proc_name AS BIGINT) > 0"),
    ] {
        let query = format!("SELECT proc_name FROM events WHERE evt_type = 'execve'{more}\n");
        fs::write(
            tactic.join(format!("{name}.sql")),
            format!("{header}{query}"),
        )
        .expect("a detection");
        let alert = if name == "good" { ALERT } else { "" };
        fs::write(tactic.join(format!("{name}.alerts.jsonl")), alert).expect("alerts");
        fs::write(
            tactic.join(format!("{name}.events.jsonl")),
            format!("{HIT}{MISS}"),
        )
        .expect("events");
    }
    let report = test(folder.path(), false).expect("a report");
    let [fails, good] = &report.results[..] else {
        panic!("two detections")
    };
    assert_eq!(good.problems, Vec::<String>::new());
    let told = |problem: &String| {
        problem.contains("line 1: ") && problem.contains("fails.sql:6 cannot judge it: ")
    };
    assert!(fails.problems.iter().any(told), "{:?}", fails.problems);
}

/// What is said to be wrong with a detection on execve of these examples.
fn problems(events: &str, alerts: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let tactic = folder.path().join("execution");
    fs::create_dir_all(&tactic).expect("a folder");
    let query = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{proc_name}\"\n-- severity = \"low\"\n\
                 -- status = \"stable\"\nSELECT proc_name FROM events WHERE evt_type = 'execve'\n";
    fs::write(tactic.join("d.sql"), query).expect("a detection");
    fs::write(tactic.join("d.events.jsonl"), events).expect("events");
    if alerts != MISSING {
        fs::write(tactic.join("d.alerts.jsonl"), alerts).expect("alerts");
    }
    let report = test(folder.path(), false).expect("a report");
    assert_eq!(report.refused, Vec::new());
    let [result] = &report.results[..] else {
        panic!("one detection")
    };
    result.problems.clone()
}

/// No file at all.
const MISSING: &str = "missing";
const HIT: &str = "{\"evt_type\": \"execve\", \"proc_name\": \"sh\", \"_ingest_ts\": 7}\n";
const MISS: &str = "# no execve\n{\"evt_type\": \"open\"}\n";
const ALERT: &str = "{\"event\":1,\"message\":\"sh\",\"row\":{\"proc_name\":\"sh\"}}\n";

#[test]
fn what_is_wrong_with_examples_is_named() {
    fn check(events: &str, alerts: &str, words: &str) {
        let problems = problems(events, alerts);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(words), "{problems:?}");
    }
    let examples = format!("{HIT}{MISS}");
    assert_eq!(problems(&examples, ALERT), Vec::<String>::new());
    check(HIT, ALERT, "no event is a near miss");
    check(
        &examples,
        MISSING,
        "d.alerts.jsonl is missing: `dogwatch detections test --update`",
    );
    check(&examples, "", "line 1: said, but not expected: sh {");
    let two = format!("{ALERT}{ALERT}");
    check(&examples, &two, "line 1: expected, but not said: sh {");
    check("{\"evt_type\": 1}", "", "events.jsonl:1: invalid type");
}
