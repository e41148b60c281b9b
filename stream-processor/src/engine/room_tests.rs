//! The cap on bytes: what a flood of long keys makes a task hold, who keeps what, and that whoever goes on says the same.

use std::collections::BTreeMap;
use std::fs;

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use serde_json::json;

use super::*;

const SECOND: i64 = 1_000_000_000;
/// A full minute.
const BEGIN: i64 = 1_800_000_000;
const BYTES_MAX: u64 = 1 << 20;
/// Rows of a step, and bytes of a key.
const STEP_ROWS: usize = 100;
const KEY_BYTES: usize = 1_000;

/// Speaks at the end of its windows, of keys with two rows and more.
const CLOSES: &str = "SELECT host_id, proc_cmdline, count(*) AS times, sample(fd_name, 5) AS names FROM tumble(events, INTERVAL '1 minute')\n\
    WHERE evt_type = 'execve' GROUP BY window_start, window_end, host_id, proc_cmdline HAVING count(*) < 1000 AND count(*) > 1";
/// Speaks at the third row of a key.
const FIRES: &str = "SELECT host_id, proc_cmdline, count(*) AS times FROM tumble(events, INTERVAL '1 minute')\n\
    WHERE evt_type = 'execve' GROUP BY window_start, window_end, host_id, proc_cmdline HAVING count(*) >= 3";
/// Has many windows open at once.
const SLIDES: &str = "SELECT host_id, proc_cmdline, count(*) AS times FROM hop(events, INTERVAL '1 minute', INTERVAL '1 hour')\n\
    WHERE evt_type = 'execve' GROUP BY window_start, window_end, host_id, proc_cmdline HAVING count(*) < 1000 AND count(*) > 1";
/// Over all hosts.
const FLEET: &str = "SELECT proc_cmdline, count(*) AS times FROM tumble(events, INTERVAL '1 minute')\n\
    WHERE evt_type = 'execve' GROUP BY window_start, window_end, proc_cmdline HAVING count(*) >= 3";

fn engine(query: &str) -> Engine {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    let text = format!(
        "-- title = \"t\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n-- status = \"stable\"\n{query}"
    );
    fs::write(folder.path().join("tactic/counts.sql"), text).expect("a detection");
    let report = DetectionSet::load(folder.path()).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let options = WindowOptions {
        state_bytes_max: BYTES_MAX,
        ..WindowOptions::default()
    };
    let engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    engine
        .with_windows(options)
        .expect("windows")
        .without_throttle()
}

/// A log: hosts, keys and the seconds that have passed since the row before.
#[derive(Default)]
struct Log {
    records: Vec<InputRecord>,
    time: i64,
    seqs: BTreeMap<String, i64>,
}

impl Log {
    fn row(&mut self, host: &str, key: usize, passed: i64) {
        self.time += passed;
        let time = BEGIN + self.time;
        let seq = self.seqs.entry(host.to_owned()).or_default();
        *seq += 1;
        let event = json!({
            "host_id": host, "sensor_run": "r", "seq": *seq, "ts": time * SECOND, "evt_type": "execve",
            "proc_cmdline": format!("{key:0KEY_BYTES$}"), "fd_name": format!("/{key}"),
        });
        let event: Event = serde_json::from_value(event).expect("an event");
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        self.records.push(InputRecord {
            topic: Topic::Events,
            partition: 0,
            offset: self.records.len() as i64,
            ingest_ts_ns: Some(time * SECOND),
            key: event.host_id.as_bytes().to_vec().into(),
            value: value.into(),
        });
    }

    /// Two hosts that stay, of which one floods the second minute, in whose middle the other has a key again; then the end.
    fn flood() -> Self {
        let mut log = Self::default();
        for passed in [0, 65] {
            log.row("quiet", 0, passed);
            log.row("loud", 0, 0);
        }
        for key in 0..2_500 {
            log.row("loud", key, 0);
            if key % 500 == 0 {
                log.row("quiet", 7, 0);
            }
        }
        log.row("loud", 0, 120);
        log.row("quiet", 0, 0);
        log
    }
}

/// What is said of a log, and the most bytes that were held after a step. Another engine goes on after each step that is to be
/// stored, where that is asked for.
fn said(query: &str, log: Log, restarts: bool) -> (Vec<Alert>, u64) {
    let mut engine = engine(query);
    let (mut alerts, mut most) = (Vec::new(), 0);
    let mut state = State::new();
    let mut records = log.records;
    let mut offset = 0;
    while !records.is_empty() {
        let step: Vec<InputRecord> = records.drain(..STEP_ROWS.min(records.len())).collect();
        offset += step.len() as i64;
        let output = engine.step(step).expect("a step");
        alerts.extend(output.alerts);
        most = most.max(engine.windows.held(0) + engine.windows.held(crate::hosts::FLEET));
        if !output.to_be_stored.contains(&(Topic::Events, 0)) || !restarts {
            continue;
        }
        for piece in engine.checkpoint(0, &Renewal::default()).expect("pieces") {
            match piece.value {
                Some(value) => state.insert(piece.key, value),
                None => state.remove(&piece.key),
            };
        }
        engine = self::engine(query);
        let inputs = Inputs::from([(Topic::Events, offset)]);
        engine.restore(0, state.clone(), &inputs).expect("a state");
    }
    alerts.extend(engine.finish(0).expect("the end").alerts);
    (alerts, most)
}

fn of<'a>(alerts: &'a [Alert], detection: &str, host: &str) -> Vec<&'a Alert> {
    let alerts = alerts.iter();
    alerts
        .filter(|alert| &*alert.detection_id == detection && &*alert.host_id == host)
        .collect()
}

/// Bytes that a step brings at most.
const STEP_BYTES: u64 = (STEP_ROWS * 3 * KEY_BYTES) as u64;

#[test]
fn a_flood_of_long_keys_is_held_within_the_bytes_and_leaves_others_theirs() {
    for query in [CLOSES, FIRES] {
        let (alerts, most) = said(query, Log::flood(), false);
        assert!(most > BYTES_MAX / 2, "{most} bytes are no flood");
        assert!(most <= BYTES_MAX + STEP_BYTES, "{most} bytes");
        let full = of(&alerts, "state_overflow", "loud");
        assert_eq!(full.len(), 1, "one alert for the pane that loses keys");
        assert!(
            full[0].message.contains("took more than 1048576 bytes"),
            "{}",
            full[0].message
        );
        assert_eq!(of(&alerts, "state_overflow", "quiet").len(), 0);
        // All five rows of the other host's key count; the window says that some of its pane went.
        let quiet = of(&alerts, "counts", "quiet");
        let last = quiet.last().expect("the other host's key");
        assert!(last.row.contains("\"times\":5"), "{}", last.row);
        assert!(last.incomplete);
        let losses = last.losses.as_ref().expect("losses");
        assert!(
            losses
                .iter()
                .any(|(class, count)| &**class == "keys_over_cap" && *count > 0)
        );
    }
}

#[test]
fn whoever_goes_on_says_the_same() {
    for query in [CLOSES, FIRES] {
        let ids = |(alerts, _): (Vec<Alert>, u64)| {
            let ids = alerts
                .into_iter()
                .map(|alert| (alert.alert_id, alert.activity, alert.row));
            let mut ids: Vec<_> = ids.collect();
            ids.sort();
            ids
        };
        let (whole, cut) = (
            said(query, Log::flood(), false),
            said(query, Log::flood(), true),
        );
        assert_eq!(ids(whole), ids(cut), "{query}");
    }
}

#[test]
fn windows_of_the_fleet_are_held_within_the_bytes() {
    let mut log = Log::default();
    for number in 0..3_000 {
        // A key that has come often stays.
        let key = if number % 20 == 0 { 9_999 } else { number };
        log.row("loud", key, i64::from(number % 50 == 0));
    }
    log.row("loud", 0, 120);
    let (alerts, most) = said(FLEET, log, false);
    assert!(most > BYTES_MAX / 2, "{most} bytes are no flood");
    assert!(most <= BYTES_MAX + STEP_BYTES, "{most} bytes");
    let told: Vec<&Alert> = alerts
        .iter()
        .filter(|alert| &*alert.detection_id == "counts")
        .collect();
    assert!(!told.is_empty());
    assert!(told.iter().all(|alert| alert.row.contains("9999\"")));
    assert!(told.iter().any(|alert| alert.incomplete));
}

#[test]
fn many_open_windows_leave_keys_room() {
    let mut log = Log::default();
    for passed in [0, 65] {
        log.row("quiet", 0, passed);
    }
    // What their open windows take alone is more than all bytes.
    for host in 0..1_500 {
        log.row(&format!("host-{host}"), 1, 0);
    }
    log.row("quiet", 0, 0);
    let (alerts, _) = said(SLIDES, log, false);
    let full = alerts.iter();
    let full = full.filter(|alert| &*alert.detection_id == "state_overflow");
    assert_eq!(full.count(), 1, "one alert for the pane that loses keys");
    let quiet = of(&alerts, "counts", "quiet");
    let whole = |alert: &&Alert| alert.row.contains("\"times\":3");
    assert!(quiet.iter().any(whole), "the settled host keeps its key");
}

#[test]
fn windows_fire_early_again_when_those_that_fired_are_over() {
    let mut log = Log::default();
    for number in 0..1_200 {
        log.row("loud", number / 3, 0);
    }
    let flood = log.records.len();
    log.row("loud", 0, 120);
    let over = log.records.len();
    for _ in 0..3 {
        log.row("quiet", 7, 0);
    }
    let last = log.records.split_off(over);
    let end = log.records.split_off(flood);
    let mut engine = engine(FIRES);
    while !log.records.is_empty() {
        let step = log.records.drain(..STEP_ROWS).collect();
        engine.step(step).expect("a step");
    }
    assert!(engine.windows.is_fired_full(0), "too few have fired");
    engine.step(end).expect("the end of the minute");
    let output = engine.step(last).expect("a step");
    assert_eq!(of(&output.alerts, "counts", "quiet").len(), 1);
}

#[test]
fn what_has_fired_over_the_fleet_leaves_keys_room() {
    let mut log = Log::default();
    for number in 0..6_000 {
        log.row("loud", number / 3, i64::from(number % 150 == 0));
    }
    log.row("loud", 0, 120);
    let (_, most) = said(FLEET, log, false);
    assert!(most > BYTES_MAX / 2, "{most} bytes are no flood");
    assert!(most <= BYTES_MAX + STEP_BYTES, "{most} bytes");
}

#[test]
fn an_alert_of_a_full_task_is_at_a_row_of_its_own() {
    let mut log = Log::default();
    for _ in 0..3 {
        log.row("a", 0, 0);
    }
    log.records[1].partition = 1;
    assert_eq!(bound::last_row(&log.records, 0), 2);
    assert_eq!(bound::last_row(&log.records, 1), 1);
    assert_eq!(bound::last_row(&log.records, 2), 2, "it has none");
}
