//! The cap on keys: however the log is cut, and whoever goes on with it, the same keys count as in a walk over its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SECOND: i64 = 1_000_000_000;
/// A full minute.
const BEGIN: i64 = 1_800_000_000;
const KEYS_MAX: usize = 16;

/// A row: its host, its key, and the seconds that have passed since the one before.
type Row = (u8, u8, i64);

/// How often each key of a host counts in a minute.
type Counts = BTreeMap<(i64, String, String), i64>;

fn engine() -> Engine {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    let text = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n-- status = \"stable\"\n\
        SELECT host_id, proc_name, count(*) AS times FROM tumble(events, INTERVAL '1 minute')\n\
        WHERE evt_type = 'execve' GROUP BY window_start, window_end, host_id, proc_name HAVING count(*) < 1000";
    fs::write(folder.path().join("tactic/counts.sql"), text).expect("a detection");
    let report = DetectionSet::load(folder.path()).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let options = WindowOptions {
        keys_max: KEYS_MAX,
        ..WindowOptions::default()
    };
    let engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    engine.with_windows(options).expect("windows")
}

fn records(rows: &[Row]) -> Vec<InputRecord> {
    let mut time = BEGIN;
    let mut seqs = BTreeMap::new();
    let record = |(offset, (host, key, passed)): (i64, &Row)| {
        time += passed;
        let seq: &mut i64 = seqs.entry(*host).or_default();
        *seq += 1;
        let event = json!({
            "host_id": format!("h{host}"), "sensor_run": "r", "seq": *seq, "ts": time * SECOND, "evt_type": "execve",
            "proc_name": format!("p{key}"),
        });
        let event: Event = serde_json::from_value(event).expect("an event");
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        InputRecord {
            topic: Topic::Events,
            partition: 0,
            offset,
            ingest_ts_ns: Some(time * SECOND),
            key: event.host_id.as_bytes().to_vec().into(),
            value: value.into(),
        }
    };
    (0..).zip(rows).map(record).collect()
}

/// The rule, said plainly: a key counts from its first row on if there was room for it then.
fn plainly(rows: &[Row]) -> Counts {
    let mut counts = Counts::new();
    let mut time = BEGIN;
    let mut since: BTreeMap<u8, i64> = BTreeMap::new();
    let mut settled = BTreeSet::new();
    let mut panes: BTreeMap<i64, BTreeSet<(u8, u8)>> = BTreeMap::new();
    for (host, key, passed) in rows {
        time += passed;
        if time - *since.entry(*host).or_insert(time) >= 60 {
            settled.insert(*host);
        }
        let minute = time.div_euclid(60);
        let pane = panes.entry(minute).or_default();
        let own = pane.iter().filter(|(of, _)| of == host).count();
        let share = KEYS_MAX / 2 / settled.len().max(8);
        let kept = settled.contains(host) && own < share && pane.len() < KEYS_MAX + KEYS_MAX / 2;
        if pane.contains(&(*host, *key)) || pane.len() < KEYS_MAX || kept {
            pane.insert((*host, *key));
            let counted = (minute, format!("h{host}"), format!("p{key}"));
            *counts.entry(counted).or_default() += 1;
        }
    }
    counts
}

/// What the engine says, in steps of these sizes; after each marked one another engine goes on.
fn said(rows: &[Row], steps: &[(usize, bool)]) -> Counts {
    let mut records = records(rows);
    let mut engine = engine();
    let mut alerts = Vec::new();
    let mut state = State::new();
    let mut steps = steps.iter().cycle();
    let mut offset = 0;
    while !records.is_empty() {
        let (size, restarts) = steps.next().copied().unwrap_or((1, false));
        let step: Vec<InputRecord> = records.drain(..size.min(records.len())).collect();
        offset += step.len() as i64;
        alerts.extend(engine.step(step).expect("a step").alerts);
        if restarts {
            for piece in engine.checkpoint(0, &Renewal::default()).expect("pieces") {
                match piece.value {
                    Some(value) => state.insert(piece.key, value),
                    None => state.remove(&piece.key),
                };
            }
            engine = self::engine();
            let inputs = Inputs::from([(Topic::Events, offset)]);
            engine.restore(0, state.clone(), &inputs).expect("a state");
        }
    }
    alerts.extend(engine.finish(0).expect("the end").alerts);
    let count = |alert: &dogwatch_schemas::records::Alert| {
        let row: Value = serde_json::from_str(&alert.row).expect("JSON");
        let text = |name: &str| Some(row[name].as_str()?.to_owned());
        let minute = alert.window_start? / SECOND / 60;
        Some((
            (minute, text("host_id")?, text("proc_name")?),
            row["times"].as_i64()?,
        ))
    };
    alerts.iter().filter_map(count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_keys_that_count_are_those_of_a_walk_over_the_log(
        rows in prop::collection::vec((0_u8..12, 0_u8..5, prop_oneof![4 => Just(0_i64), 1 => 1_i64..9]), 1..400),
        steps in prop::collection::vec((1_usize..60, prop::bool::weighted(0.1)), 1..8),
    ) {
        prop_assert_eq!(said(&rows, &steps), plainly(&rows));
    }
}

#[test]
fn a_flood_of_invented_hosts_leaves_known_ones_their_keys() {
    let known = (0..3).flat_map(|host| [(host, 0, 0), (host, 0, 0)]);
    // They are known after a minute; the flood comes before each of their keys of the next one.
    let mut rows: Vec<Row> = known.clone().collect();
    rows.push((0, 0, 70));
    rows.extend([(1, 0, 0), (2, 0, 0)]);
    rows.push((0, 0, 60));
    rows.extend((100..200).map(|host| (host, 1, 0)));
    rows.extend([(0, 3, 0), (1, 3, 0), (2, 3, 0)]);
    let counts = said(&rows, &[(7, false), (30, true)]);
    assert_eq!(counts, plainly(&rows));
    let minute = (BEGIN + 130).div_euclid(60);
    for host in ["h1", "h2"] {
        let counted = (minute, host.to_owned(), "p3".to_owned());
        assert_eq!(counts.get(&counted), Some(&1), "{counts:?}");
    }
    // The first host had a key already, which is its share of eight kept keys.
    assert_eq!(
        counts.get(&(minute, "h0".to_owned(), "p3".to_owned())),
        None
    );
}
