//! What a processor takes when there are more keys than it keeps, long ones, with samples and repeats: resident memory beside
//! what it says that its tasks may take.

use std::fs;

use anyhow::{Context, Result, ensure};
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::TaskBound;
use dogwatch_stream_processor::window::WindowOptions;
use dogwatch_tests::broker::Broker;
use dogwatch_tests::process::Process;
use rdkafka::message::Message;

use crate::events;
use crate::stream::{
    PATIENCE, SENTINEL_EACH, consumer, next, publish, start_processor, write_sentinel,
};
use crate::table::Table;

/// Partitions of the topic of events, as the processor makes it.
const PARTITIONS: u64 = 8;
const HOUR_NS: i64 = 3_600_000_000_000;
/// Bytes of a key.
const KEY_BYTES: usize = 1_024;
const HEADER: &str = "-- description = \"For the benchmark of memory.\"\n-- severity = \"low\"\n-- status = \"experimental\"\n\
     -- message = \"{proc_cmdline}\"\n";
/// Counts keys, and keeps some of what they name.
const KEYS_SQL: &str = "-- title = \"Many keys\"\n\
     SELECT window_start, window_end, container_id, proc_cmdline, count(*) AS n, count(DISTINCT fd_name) AS names,\n\
     sample(proc_name, 5) AS some\n\
     FROM hop(events, INTERVAL '1 minute', INTERVAL '10 minutes')\n\
     GROUP BY window_start, window_end, container_id, proc_cmdline HAVING count(*) >= 1000000\n";
/// Begins a period of repeats for each key.
const FOLDS_SQL: &str = "-- title = \"Many repeats\"\n-- dedup = { period = \"1h\", key = [\"proc_cmdline\"] }\n\
     SELECT container_id, proc_cmdline FROM events WHERE evt_type = 'execve'\n";

/// Lets an hour of `keys` distinct keys, each seen four times, go through a processor.
///
/// # Errors
/// When a client fails or the processor does not get through in time.
pub fn run(keys: usize) -> Result<Table> {
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    write_sentinel(folder.path(), SENTINEL_EACH)?;
    let process = start_processor(&broker, folder.path(), "bench-memory-empty", &[]);
    let empty = resident(&process)?;
    process.stop(PATIENCE);

    for (name, query) in [("keys", KEYS_SQL), ("folds", FOLDS_SQL)] {
        let file = folder.path().join(format!("execution/{name}.sql"));
        fs::write(file, format!("{HEADER}{query}"))?;
    }
    let report = DetectionSet::load(folder.path())?;
    ensure!(report.refused.is_empty(), "{:?}", report.refused);
    let set = report.set;
    let bound = TaskBound::new(&set, &WindowOptions::default()).of(PARTITIONS);
    let process = start_processor(&broker, folder.path(), "bench-memory", &[]);
    let last = publish_hour(&broker, keys);
    let alerts = consumer(&broker, "bench-memory-alerts", Topic::Alerts)?;
    let mut missing = last;
    while missing > 0 {
        let message = next(&alerts)?;
        let alert = Alert::decode_framed(message.payload().unwrap_or_default())?;
        missing -= usize::from(&*alert.detection_id == "sentinel");
    }
    let highest = highest(&process)?;
    process.stop(PATIENCE);

    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new(&["", "MiB"]);
    table.note(format!(
        "An hour of event time, {keys} distinct keys of {KEY_BYTES} bytes, {PARTITIONS} tasks; hop 1 min / 10 min with a sample, and repeats of each key"
    ));
    table.row(["resident without windows, nothing read".into(), mib(empty)]);
    table.row([
        "what all tasks may take, as it is printed".into(),
        mib(bound),
    ]);
    table.row(["highest resident".into(), mib(highest)]);
    table.row([
        "highest resident / what they may take".into(),
        format!("{:.2}", highest as f64 / bound as f64),
    ]);
    Ok(table)
}

/// Publishes an hour in which every key is seen four times, in a pane each; returns how many sentinels end it.
fn publish_hour(broker: &Broker, keys: usize) -> usize {
    let count = 4 * keys;
    let events = events::Stream::new(5, 60, HOUR_NS / count as i64).take(count);
    let named = events.enumerate().map(|(index, mut event)| {
        // Neighbours are other keys, and each comes again later in the hour.
        let line = format!("/srv/app/worker --job {} ", index % keys);
        let line = format!("{line:.<KEY_BYTES$}");
        event.proc_cmdline = Some(line.as_str().into());
        event
    });
    publish(broker, named).len()
}

fn resident(process: &Process) -> Result<u64> {
    status(process, "VmRSS:")
}

fn highest(process: &Process) -> Result<u64> {
    status(process, "VmHWM:")
}

fn status(process: &Process, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("the kernel tells a process's memory")?
        .parse()?;
    Ok(kib << 10)
}
