//! What alerts cost the engine: matches that fold, windows that cross their threshold, and the shipped detections.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dogwatch_schemas::records::Event;
use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::Engine;
use dogwatch_tests::cache::repository;

use crate::events;
use crate::measure::cpu_time;
use crate::table::Table;

/// Events of a step.
const ROWS: usize = 32_768;
/// Events of a key that cross its threshold.
const LEAST: usize = 3;
const HEADER: &str = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n\
     -- status = \"experimental\"\n";
/// Every event of a container folds into one alert.
const FOLDED: &str = "-- dedup = { key = [], period = \"1h\" }\n\
     SELECT container_id, proc_name FROM events WHERE evt_type = 'connect'\n";
/// Each key crosses once.
const CROSSED: &str = "SELECT window_start, window_end, container_id, proc_name, count(*) AS n\n\
     FROM tumble(events, INTERVAL '5 minutes')\n\
     GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) >= 3\n";
/// Each key crosses in ten windows.
const CROSSED_TENFOLD: &str = "SELECT window_start, window_end, container_id, proc_name, count(*) AS n\n\
     FROM hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')\n\
     GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) >= 3\n";

/// Times one step of each, `runs` times.
///
/// # Errors
/// When a detection is refused.
pub fn run(runs: usize) -> Result<Table> {
    let mut table = Table::new(&["step", "ns/event", "times the one before"]);
    table.note(format!("CPU time of steps of {ROWS} events"));
    let mut measure = |what: &str, folder: &Path, records: &[InputRecord], before: Option<f64>| {
        let mut engine = engine(folder)?;
        let step = cpu_time(runs, || {
            // A step of a new run of the sensors, or the engine would recognise repeats.
            engine.forget_partition(0);
            black_box(engine.step(records.to_vec()).expect("the step is sound"));
        })
        .median_ns(records.len());
        let ratio = before.map_or_else(String::new, |before| format!("{:.1}", step / before));
        table.row([what.to_owned(), format!("{step:.0}"), ratio]);
        anyhow::Ok(step)
    };
    let folded = one(FOLDED)?;
    let before = measure("nothing matches", folded.path(), &small("open", 0), None)?;
    measure(
        "all match and fold",
        folded.path(),
        &small("connect", 0),
        Some(before),
    )?;
    for (name, sql) in [("one window", CROSSED), ("ten windows", CROSSED_TENFOLD)] {
        let crossed = one(sql)?;
        let none = format!("no key crosses in {name}");
        let before = measure(&none, crossed.path(), &small("connect", 0), None)?;
        for keys in [1_000, 4_000] {
            let what = format!("{keys} keys cross in {name}");
            measure(&what, crossed.path(), &small("connect", keys), Some(before))?;
        }
    }
    let shipped: PathBuf = repository().join("detections");
    let fleet = events::records(&events::synthetic(ROWS, 2));
    measure("the shipped detections", &shipped, &fleet, None)?;
    Ok(table)
}

/// A folder with one detection.
fn one(sql: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("execution"))?;
    let file = folder.path().join("execution/one.sql");
    fs::write(file, format!("{HEADER}{sql}"))?;
    Ok(folder)
}

fn engine(folder: &Path) -> Result<Engine> {
    let report = DetectionSet::load(folder)?;
    anyhow::ensure!(report.refused.is_empty(), "{:?}", report.refused);
    Engine::new(report.set, AlertMode::Test).context("could not make the engine")
}

/// Small events of one container, the last of which are of `keys` programs, [`LEAST`] of each; the others are of programs of
/// their own.
fn small(evt_type: &str, keys: usize) -> Vec<InputRecord> {
    let begin = events::synthetic(1, 1)[0].ts;
    let event = |row: usize| {
        let program = match row >= ROWS - keys * LEAST {
            true => row % keys,
            false => ROWS + row,
        };
        Event {
            host_id: "h".into(),
            host_name: "h".into(),
            sensor_run: "r".into(),
            seq: row as i64,
            ts: begin + row as i64 * 100_000,
            evt_type: evt_type.into(),
            evt_outcome: "success".into(),
            container_id: "c".into(),
            proc_key: "k".into(),
            proc_name: Some(format!("p{program}").into()),
            ..Event::default()
        }
    };
    let events: Vec<Event> = (0..ROWS).map(event).collect();
    events::records(&events)
}
