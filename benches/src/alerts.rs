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
use crate::measure::cpu_and_wall_time;
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
    let mut table = Table::new(&["step", "ns/event", "on the wall", "times the one before"]);
    table.note(format!(
        "CPU time of steps of {ROWS} events, and time on the wall with {} cores",
        std::thread::available_parallelism()?
    ));
    let mut measure = |what: &str, folder: &Path, records: &[InputRecord], before: Option<f64>| {
        let mut engine = engine(folder)?;
        let [cpu, wall] = cpu_and_wall_time(runs, || {
            // A step of a new run of the sensors, or the engine would recognise repeats.
            engine.forget_partition(0);
            black_box(engine.step(records.to_vec()).expect("the step is sound"));
        });
        let [step, wall] = [cpu, wall].map(|times| times.median_ns(records.len()));
        let ratio = before.map_or_else(String::new, |before| format!("{:.1}", step / before));
        table.row([
            what.to_owned(),
            format!("{step:.0}"),
            format!("{wall:.0}"),
            ratio,
        ]);
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
    let single = without_windows(&shipped)?;
    let fleet = events::records(&events::synthetic(ROWS, 2));
    let idle = one("SELECT container_id FROM events WHERE evt_type = 'nothing'\n")?;
    for (events, records) in [("small events", &mixed()), ("whole events", &fleet)] {
        let mut each = |what: &str, folder: &Path| {
            let what = format!("{events}: {what}");
            measure(&what, folder, records, None)
        };
        each("one detection that none concerns", idle.path())?;
        each("those shipped on single events", single.path())?;
        each("all shipped", &shipped)?;
    }
    Ok(table)
}

/// A folder with those of a folder's detections that are on single events, and its lists.
fn without_windows(folder: &Path) -> Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for tactic in fs::read_dir(folder)? {
        let tactic = tactic?;
        let target = copy.path().join(tactic.file_name());
        fs::create_dir(&target)?;
        for file in fs::read_dir(tactic.path())? {
            let file = file?.path();
            let text = fs::read_to_string(&file)?;
            let over_windows = ["tumble(", "hop("];
            if !over_windows.iter().any(|shape| text.contains(shape)) {
                let name = file.file_name().context("a file has a name")?;
                fs::write(target.join(name), text)?;
            }
        }
    }
    Ok(copy)
}

/// Small events of what containers do all day: 30 % executions, 50 % opens, 20 % connections, of 20 hosts and 200 containers.
fn mixed() -> Vec<InputRecord> {
    const PROGRAMS: [&str; 5] = ["nginx", "java", "python3", "node", "postgres"];
    let begin = events::synthetic(1, 1)[0].ts;
    let event = |row: usize| {
        let program = PROGRAMS[row % 5];
        let configuration = format!("/etc/app/{}.conf", row % 50);
        let mut event = Event {
            host_id: format!("h{}", row % 20).into(),
            host_name: format!("h{}", row % 20).into(),
            sensor_run: "r".into(),
            seq: row as i64,
            ts: begin + row as i64 * 1_000,
            evt_type: "connect".into(),
            evt_outcome: "success".into(),
            container_id: format!("c{}", row % 200).into(),
            proc_key: "k".into(),
            proc_stage: Some("entrypoint".into()),
            proc_exe_from: Some("image".into()),
            proc_name: Some(program.into()),
            proc_exe: Some(program.into()),
            proc_exepath: Some(format!("/usr/bin/{program}").into()),
            proc_cmdline: Some(format!("x -c {configuration}").into()),
            proc_args: Some(vec!["-c".into(), configuration.into()]),
            ..Event::default()
        };
        match row % 10 {
            0..3 => event.evt_type = "execve".into(),
            3..8 => {
                event.evt_type = "openat".into();
                event.evt_is_open_read = true;
                event.fd_name = Some(format!("/var/lib/app/data/{}.dat", row % 5_000).into());
            }
            _ => {
                event.fd_family = Some("ipv4".into());
                event.fd_sip = Some(format!("10.0.{}.{}", row % 7, row % 250).into());
                event.fd_sport = Some(443);
            }
        }
        event
    };
    events::records(&(0..ROWS).map(event).collect::<Vec<_>>())
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
