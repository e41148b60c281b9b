//! The oracle against cases whose answers were worked out by hand.

use std::fs;

use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use serde_json::json;

use super::*;

const SECOND: i64 = 1_000_000_000;

pub(super) const HEADER: &str = r#"-- title = "t"
-- description = "d"
-- message = "m"
-- severity = "low"
-- status = "stable"
"#;

/// An oracle of these detections: name, more header lines, query.
fn oracle(detections: &[(&str, &str, &str)]) -> (Oracle, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("lists")).expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    fs::write(folder.path().join("lists/shells.csv"), "name\nsh\nbash\n").expect("a list");
    for (name, header, query) in detections {
        let file = folder.path().join(format!("tactic/{name}.sql"));
        fs::write(file, format!("{HEADER}{header}{query}")).expect("a detection");
    }
    let oracle = Oracle::load(folder.path()).expect("an oracle");
    (oracle.with_host_silence(Duration::from_secs(600)), folder)
}

/// A log from lines of `partition host run seq ts ingest type name [cmdline]`, times in seconds, `-` for none.
fn log(lines: &str) -> Vec<InputRecord> {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let records = lines.enumerate().map(|(offset, line)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [partition, host, run, seq, ts, ingest, kind, name, rest @ ..] = &words[..] else {
            panic!("{line}");
        };
        let seconds = |text: &str| (text.parse::<f64>().expect("seconds") * 1e9) as i64;
        let event = json!({
            "host_id": host, "sensor_run": run, "seq": seq.parse::<i64>().expect("a seq"),
            "ts": seconds(ts), "evt_type": kind, "proc_name": name, "proc_cmdline": rest.first(),
            "container_id": "c", "proc_pid": seq.parse::<i64>().expect("a seq"),
        });
        let event: Event = serde_json::from_value(event).expect("an event");
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        InputRecord {
            topic: Topic::Events,
            partition: partition.parse().expect("a partition"),
            offset: offset as i64,
            ingest_ts_ns: (*ingest != "-").then(|| seconds(ingest)),
            key: host.as_bytes().to_vec().into(),
            value: value.into(),
        }
    });
    records.collect()
}

/// `offset detection host start..end activity state row`, one a line.
fn lines(expected: &Expected) -> Vec<String> {
    let line = |alert: &Alert| {
        let window = match (alert.window_start, alert.window_end) {
            (Some(start), Some(end)) => format!("{}..{}", start / SECOND, end / SECOND),
            _ => "event".to_owned(),
        };
        let offset = match alert.cause.offset {
            i64::MAX => "end".to_owned(),
            offset => offset.to_string(),
        };
        let stepped = if alert.clock_stepped { " stepped" } else { "" };
        let folded = if alert.folded > 0 {
            format!(" folded {}", alert.folded)
        } else {
            String::new()
        };
        format!(
            "{offset} {} {} {window} {} {}{stepped}{folded} {}",
            alert.detection_id,
            alert.host_id,
            alert.activity,
            alert.window_state.as_deref().unwrap_or("-"),
            Value::Object(alert.row.clone())
        )
    };
    expected.alerts.iter().map(line).collect()
}

fn check(query: &str, header: &str, records: &str, input: Input, expected: &[&str]) -> Expected {
    let (oracle, _folder) = oracle(&[("d", header, query)]);
    let said = oracle.run(&log(records), input).expect("an answer");
    assert_eq!(lines(&said), expected);
    said
}

const COUNT: &str = "SELECT proc_name, count(*) AS n FROM tumble(events, INTERVAL '10 seconds') \
    WHERE evt_type = 'execve' GROUP BY window_start, window_end, host_id, proc_name";

#[test]
fn a_window_closes_by_its_own_hosts_time_and_what_comes_later_is_late() {
    let log = "
        0 a r 0 1  - execve sh
        0 b r 0 3  - execve sh
        0 a r 1 2  - open   sh
        0 a r 2 9  - execve sh
        0 a r 3 10 - execve sh
        0 a r 4 9  - execve ps
        0 a r 5 11 - mark   -
        0 a r 6 9  - execve sh
        0 a r 6 9  - execve sh
        0 b r 1 9  - execve sh
        0 a r 7 9  - open   sh
    ";
    let live = [
        r#"6 d a 0..10 create closed {"n":1,"proc_name":"ps"}"#,
        r#"6 d a 0..10 create closed {"n":2,"proc_name":"sh"}"#,
    ];
    let said = check(COUNT, "", log, Input::Live, &live);
    let late = |offset| Late {
        partition: 0,
        offset,
        detections: vec!["d".to_owned()],
    };
    assert_eq!(said.late, [late(7)]);
    let bounded = [
        live[0],
        live[1],
        r#"end d b 0..10 create closed {"n":2,"proc_name":"sh"}"#,
        r#"end d a 10..20 create closed {"n":1,"proc_name":"sh"}"#,
    ];
    check(COUNT, "", log, Input::Bounded, &bounded);
    // With 1 s more the mark closes nothing, and the last row is in time.
    let patient = [
        r#"end d a 0..10 create closed {"n":1,"proc_name":"ps"}"#,
        r#"end d a 0..10 create closed {"n":3,"proc_name":"sh"}"#,
        r#"end d b 0..10 create closed {"n":2,"proc_name":"sh"}"#,
        r#"end d a 10..20 create closed {"n":1,"proc_name":"sh"}"#,
    ];
    let said = check(
        COUNT,
        "-- lateness = \"1s\"\n",
        log,
        Input::Bounded,
        &patient,
    );
    assert_eq!(said.late, []);
    let eager = "-- out_of_orderness = \"0s\"\n";
    let said = check(
        COUNT,
        eager,
        log,
        Input::Live,
        &[r#"4 d a 0..10 create closed {"n":2,"proc_name":"sh"}"#],
    );
    assert_eq!(said.late, [late(5), late(7)]);
}

#[test]
fn identity_is_made_of_the_detections_content_the_host_the_keys_and_the_window() {
    let (oracle, _folder) = oracle(&[("d", "", COUNT)]);
    let said = oracle
        .run(&log("0 a r 0 11 - execve sh"), Input::Bounded)
        .expect("an answer");
    let hash = Sha256::digest(format!("{HEADER}{COUNT}").as_bytes());
    let hash = &hex(&hash)[..16];
    let whole = format!("d\0{hash}\0window\0a\0[\"a\",\"sh\"]\010000000000\0");
    let id = &hex(&Sha256::digest(whole.as_bytes()))[..32];
    assert_eq!(said.alerts[0].alert_id, id);
}

#[test]
fn hopping_windows_overlap_and_a_row_may_be_late_for_some() {
    let query = "SELECT count(*) AS n, sum(proc_pid) AS s FROM hop(events, INTERVAL '5 seconds', INTERVAL '10 seconds') \
        GROUP BY host_id, window_start, window_end";
    let log = "
        0 a r 1 6  - execve sh
        0 a r 2 12 - execve sh
        0 a r 4 8  - execve sh
    ";
    let expected = [
        // The row at 8 is late for 0..10 and counts in 5..15.
        r#"1 d a 0..10 create closed {"n":1,"s":1}"#,
        r#"end d a 5..15 create closed {"n":3,"s":7}"#,
        r#"end d a 10..20 create closed {"n":1,"s":2}"#,
    ];
    let said = check(query, "", log, Input::Bounded, &expected);
    assert_eq!(said.late.len(), 1);
    assert_eq!(said.late[0].offset, 2);
}

#[test]
fn a_clock_that_runs_ahead_is_held_by_the_brokers() {
    let log = "
        0 a r 0 100000000 5 execve sh
        0 a r 1 6 6 execve sh
        0 a r 2 21 21 execve sh
    ";
    let expected = [r#"2 d a 0..10 create closed {"n":2,"proc_name":"sh"}"#];
    check(COUNT, "", log, Input::Live, &expected);
}

const REACHES: &str = "SELECT proc_name, count(*) AS n FROM tumble(events, INTERVAL '10 seconds') \
    GROUP BY host_id, window_start, window_end, proc_name HAVING count(*) >= 2";

#[test]
fn a_threshold_fires_at_the_row_that_crosses_and_the_close_is_its_update() {
    let log = "
        0 a r 0 1  - execve sh
        0 a r 1 2  - execve ps
        0 a r 2 3  - execve sh
        0 a r 3 4  - execve sh
        0 a r 4 20 - execve sh
        0 a r 5 21 - execve ps
        0 a r 6 22 - execve ps
    ";
    let expected = [
        r#"2 d a 0..10 create open {"n":2,"proc_name":"sh"}"#,
        r#"4 d a 0..10 update closed {"n":3,"proc_name":"sh"}"#,
        r#"6 d a 20..30 create open {"n":2,"proc_name":"ps"}"#,
    ];
    let said = check(REACHES, "", log, Input::Live, &expected);
    assert_eq!(said.alerts[0].alert_id, said.alerts[1].alert_id);
    // A HAVING that can turn false again says nothing before the close.
    let between = REACHES.replace(">= 2", "< 3");
    let expected = [r#"4 d a 0..10 create closed {"n":1,"proc_name":"ps"}"#];
    check(&between, "", log, Input::Live, &expected);
}

#[test]
fn which_having_is_monotone() {
    let having = |having: &str| {
        let query = format!(
            "SELECT proc_name FROM tumble(events, INTERVAL '10 seconds') GROUP BY host_id, proc_name, window_start HAVING {having}"
        );
        let (oracle, _folder) = oracle(&[("d", "", &query)]);
        let Shape::Windows(grouped) = &oracle.queries[0].shape else {
            panic!("a window")
        };
        grouped.monotone
    };
    for yes in [
        "count(*) > 3",
        "count(proc_name) >= 3 AND count(DISTINCT proc_pid) > 1",
        "count(*) FILTER (WHERE proc_pid > 1) >= 2",
        "3 <= count(*)",
    ] {
        assert!(having(yes), "{yes}");
    }
    for no in [
        "count(*) = 3",
        "count(*) >= 0",
        "count(*) < 3",
        "sum(proc_pid) > 3",
        "count(*) > 1 OR count(*) > 3",
        "count(*) > max(proc_pid)",
        "count(*) > 3 AND proc_name = 'sh'",
    ] {
        assert!(!having(no), "{no}");
    }
}

#[test]
fn a_step_back_closes_what_is_open_and_begins_a_segment() {
    let log = "
        0 a r 0 101 - execve sh
        0 a r 1 52  - clock_step -
        0 a r 2 53  - execve sh
        0 a r 3 103 - execve sh
        0 a q 0 102.5 - execve sh
        0 a p 0 99 - mark -
        0 a p 1 100 - execve sh
    ";
    let expected = [
        r#"1 d a 100..110 create closed stepped {"n":1,"proc_name":"sh"}"#,
        r#"3 d a 50..60 create closed {"n":1,"proc_name":"sh"}"#,
        r#"5 d a 100..110 create closed stepped {"n":2,"proc_name":"sh"}"#,
        r#"end d a 100..110 create closed {"n":1,"proc_name":"sh"}"#,
    ];
    let said = check(COUNT, "", log, Input::Bounded, &expected);
    assert_eq!(said.late, []);
    let mut ids: Vec<&str> = said
        .alerts
        .iter()
        .map(|alert| alert.alert_id.as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "segments keep the same window apart");
    // The step forward and the one that is none change nothing.
    let log = "
        0 a r 0 1 - execve sh
        0 a r 1 5 - clock_step -
        0 a q 0 4.5 - execve sh
    ";
    check(COUNT, "", log, Input::Live, &[]);
}

#[test]
fn a_silent_host_is_closed_by_its_partition() {
    let log = "
        0 a r 0 1   1   execve sh
        0 b r 0 2   2   execve sh
        1 c r 0 700 700 execve sh
        0 b r 1 601 601 execve sh
        0 b r 2 602 602.5 execve sh
        0 a r 1 3   603 execve sh
        0 a r 2 11  603 execve sh
        0 a r 3 5   603 execve sh
    ";
    let expected = [
        r#"3 d b 0..10 create closed {"n":1,"proc_name":"sh"}"#,
        r#"4 d a 0..10 create closed {"n":1,"proc_name":"sh"}"#,
    ];
    let said = check(COUNT, "", log, Input::Live, &expected);
    let late: Vec<i64> = said.late.iter().map(|late| late.offset).collect();
    assert_eq!(late, [5, 7]);
}

#[test]
fn order_by_and_limit_act_in_each_hosts_window() {
    let query = "SELECT proc_name, count(*) AS n FROM tumble(events, INTERVAL '10 seconds') \
        GROUP BY host_id, proc_name, window_start HAVING count(*) >= 1 ORDER BY count(*) DESC, proc_name LIMIT 1";
    let log = "
        0 a r 0 1  - execve sh
        0 a r 1 2  - execve ps
        0 a r 2 3  - execve ps
        0 b r 0 4  - execve id
        0 a r 3 15 - execve vi
    ";
    let expected = [
        r#"4 d a 0..10 create closed {"n":2,"proc_name":"ps"}"#,
        r#"end d b 0..10 create closed {"n":1,"proc_name":"id"}"#,
        r#"end d a 10..20 create closed {"n":1,"proc_name":"vi"}"#,
    ];
    check(query, "", log, Input::Bounded, &expected);
}

#[test]
fn texts_are_cut_before_they_enter_a_window_but_not_in_where() {
    let query = "SELECT length(proc_cmdline) AS key, length(max(concat(proc_cmdline, 'x'))) AS n, count(*) AS rows, \
        count(*) FILTER (WHERE proc_cmdline LIKE '%end') AS ends \
        FROM tumble(events, INTERVAL '10 seconds') WHERE proc_cmdline LIKE '%end' GROUP BY host_id, window_start, proc_cmdline";
    let long = "é".repeat(600);
    let log = format!(
        "0 a r 0 1 - execve sh x{long}end\n0 a r 1 1 - execve sh x{long}-end\n0 a r 2 1 - execve sh {long}"
    );
    // One byte, then characters of two: 1,023 bytes are 512 characters.
    let expected = [r#"end d a 0..10 create closed {"ends":2,"key":512,"n":512,"rows":2}"#];
    check(query, "", &log, Input::Bounded, &expected);
}

#[test]
fn single_events_are_judged_one_by_one() {
    let query = "SELECT proc_name, proc_pid FROM events JOIN shells ON shells.name = proc_name WHERE CAST(proc_cmdline AS BIGINT) > 1";
    let log = "
        0 a r 0 1 - execve sh 2
        0 a r 1 1 - execve sh no_number
        0 a r 2 1 - execve ps 2
        0 a r 3 1 - execve bash 3
        0 a r 3 1 - execve bash 3
        0 a r 4 1 - mark sh 3
    ";
    let expected = [
        r#"0 d a event create - {"proc_name":"sh","proc_pid":0}"#,
        r#"3 d a event create - {"proc_name":"bash","proc_pid":3}"#,
    ];
    check(query, "", log, Input::Live, &expected);
}

const FOLDED: &str = "-- dedup = { key = [\"proc_name\"], period = \"10s\" }\n";

#[test]
fn repeats_are_counted_and_said_once_the_period_is_over() {
    let query = "SELECT proc_name, proc_pid FROM events WHERE evt_type = 'execve'";
    let log = "
        0 a r 0 1  - execve sh
        0 b r 0 1  - execve sh
        0 a r 1 2  - execve ps
        0 a r 2 3  - execve sh
        0 a r 3 10.9 - execve sh
        0 b r 1 99 - open   sh
        0 a r 4 11 - execve sh
        0 a r 5 12 - execve sh
        0 a r 6 5  - clock_step -
    ";
    let expected = [
        r#"0 d a event create - {"proc_name":"sh","proc_pid":0}"#,
        r#"1 d b event create - {"proc_name":"sh","proc_pid":0}"#,
        r#"2 d a event create - {"proc_name":"ps","proc_pid":1}"#,
        r#"6 d a event update - folded 2 {"proc_name":"sh","proc_pid":0}"#,
        r#"6 d a event create - {"proc_name":"sh","proc_pid":4}"#,
        r#"8 d a event update - folded 1 {"proc_name":"sh","proc_pid":4}"#,
    ];
    check(query, FOLDED, log, Input::Live, &expected);
    let two = FOLDED.replace("10s\"", "10s\", limit = 2");
    let expected = [
        expected[0],
        expected[1],
        expected[2],
        r#"3 d a event create - {"proc_name":"sh","proc_pid":2}"#,
        r#"6 d a event update - folded 1 {"proc_name":"sh","proc_pid":0}"#,
        r#"6 d a event create - {"proc_name":"sh","proc_pid":4}"#,
        r#"7 d a event create - {"proc_name":"sh","proc_pid":5}"#,
    ];
    check(query, &two, log, Input::Live, &expected);
}

#[test]
fn the_last_word_on_a_window_follows_the_first() {
    let header = FOLDED.replace("10s", "25s").replace("\"proc_name\"", "");
    let log = "
        0 a r 0 1  - execve sh
        0 a r 1 2  - execve sh
        0 a r 2 3  - execve ps
        0 a r 3 4  - execve ps
        0 a r 4 5  - execve sh
        0 a r 5 11 - execve ps
        0 a r 6 27 - execve ps
    ";
    let expected = [
        r#"1 d a 0..10 create open {"n":2,"proc_name":"sh"}"#,
        // The threshold of ps is counted at 3, so the close at 5 says only sh.
        r#"5 d a 0..10 update closed {"n":3,"proc_name":"sh"}"#,
        r#"6 d a 0..10 update open folded 1 {"n":2,"proc_name":"sh"}"#,
    ];
    check(REACHES, &header, log, Input::Live, &expected);
}

#[test]
fn what_cannot_be_used_is_named_and_moves_no_time() {
    let (oracle, _folder) = oracle(&[("d", "", COUNT)]);
    let mut records = log("
        0 a r 0 1  - execve sh
        0 a r 1 99 - execve sh
        0 a r 2 99 - execve sh
        0 a r 3 99 - execve sh
        0 a r 4 2  - execve sh
    ");
    records[1].key = b"b".to_vec().into();
    records[2].value.truncate(12);
    records[3].topic = Topic::Alerts;
    let said = oracle.run(&records, Input::Bounded).expect("an answer");
    assert_eq!(said.dead_letters, [(0, 1), (0, 2), (0, 3)]);
    assert_eq!(
        lines(&said),
        [r#"end d a 0..10 create closed {"n":2,"proc_name":"sh"}"#]
    );
}

#[test]
fn differences_are_named() {
    let (oracle, _folder) = oracle(&[("d", "", REACHES)]);
    let records = log("
        0 a r 0 1  - execve sh
        0 a r 1 2  - execve sh
        0 a r 2 22 - execve sh
    ");
    let expected = oracle.run(&records, Input::Live).expect("an answer").alerts;
    let alert = |expected: &Alert| dogwatch_schemas::records::Alert {
        alert_id: expected.alert_id.as_str().into(),
        detection_id: "d".into(),
        activity: expected.activity.as_str().into(),
        window_state: expected.window_state.as_deref().map(Into::into),
        host_id: "a".into(),
        message: "m".into(),
        row: Value::Object(expected.row.clone()).to_string().into(),
        window_start: expected.window_start,
        window_end: expected.window_end,
        ..Default::default()
    };
    let found: Vec<_> = expected.iter().map(alert).collect();
    assert_eq!(compare(&expected, &found), Vec::<String>::new());
    assert_eq!(compare_order(&expected, &found), None);
    let has = |differences: Vec<String>, words: &str| {
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].contains(words), "{differences:?}");
    };
    has(compare(&expected, &found[..1]), "missing: d ");
    has(compare(&expected[..1], &found), "not expected: d ");
    let twice = [found[0].clone(), found[1].clone(), found[1].clone()];
    has(compare(&expected, &twice), "said twice: d ");
    let mut other = found.clone();
    other[1].row = r#"{"n":2.5,"proc_name":"sh"}"#.into();
    has(compare(&expected, &other), "row is {\"n\":2.5");
    let mut close = expected.clone();
    close[1]
        .row
        .insert("n".to_owned(), json!(2.5 * (1.0 + 1e-12)));
    assert_eq!(compare(&close, &other), Vec::<String>::new());
    let turned = [found[1].clone(), found[0].clone()];
    assert!(
        compare(&expected, &turned)
            .iter()
            .any(|text| text.contains("activity is"))
    );
}

#[test]
fn an_order_that_is_not_the_logs_is_named() {
    let (oracle, _folder) = oracle(&[("d", "", "SELECT proc_pid FROM events")]);
    let records = log("
        0 a r 0 1  - execve sh
        0 b r 1 2  - execve sh
        0 a r 2 3  - execve sh
        1 c r 2 3  - execve sh
    ");
    let expected = oracle.run(&records, Input::Live).expect("an answer").alerts;
    let alert = |place: usize| dogwatch_schemas::records::Alert {
        alert_id: expected[place].alert_id.as_str().into(),
        host_id: expected[place].host_id.as_str().into(),
        ..Default::default()
    };
    let order = |places: [usize; 4]| compare_order(&expected, &places.map(alert));
    assert_eq!(order([0, 1, 2, 3]), None);
    assert_eq!(order([3, 0, 1, 2]), None);
    assert!(order([2, 1, 0, 3]).is_some_and(|text| text.contains("0/1 causes")));
    assert!(order([1, 0, 2, 3]).is_some_and(|text| text.contains("0/0 causes")));
}
