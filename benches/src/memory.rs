//! What a processor's windows take when there are more keys than it keeps: resident memory beside the printed bound.

use std::fs;

use anyhow::{Context, Result};
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::window;
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
/// Keys that a task keeps in a pane.
const KEYS_MAX: usize = 10_000;
const KEYS_SQL: &str = "-- title = \"Many keys\"\n-- description = \"Counts more keys than a task keeps.\"\n\
     -- message = \"{n} of {proc_cmdline}\"\n-- severity = \"low\"\n-- status = \"experimental\"\n\
     SELECT window_start, window_end, container_id, proc_cmdline, count(*) AS n, count(DISTINCT fd_name) AS names\n\
     FROM hop(events, INTERVAL '1 minute', INTERVAL '10 minutes')\n\
     GROUP BY window_start, window_end, container_id, proc_cmdline HAVING count(*) >= 1000000\n";

/// Lets an hour of `keys` distinct keys, each seen four times, go through a processor.
///
/// # Errors
/// When a client fails or the processor does not get through in time.
pub fn run(keys: usize) -> Result<Table> {
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    write_sentinel(folder.path(), SENTINEL_EACH)?;
    let settings = [("WINDOWS__KEYS_MAX", KEYS_MAX.to_string())];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let process = start_processor(&broker, folder.path(), "bench-memory-empty", &settings);
    let empty = resident(&process)?;
    process.stop(PATIENCE);

    fs::write(folder.path().join("execution/keys.sql"), KEYS_SQL)?;
    let set = DetectionSet::load(folder.path())?.set;
    let bounds = window::bounds(&set, KEYS_MAX);
    let bound = bounds.iter().map(|(_, bound)| bound.bytes()).sum::<u64>() * PARTITIONS;
    let process = start_processor(&broker, folder.path(), "bench-memory", &settings);
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
        "An hour of event time, {keys} distinct keys, {PARTITIONS} tasks; hop 1 min / 10 min, windows.keys_max = {KEYS_MAX}"
    ));
    table.row(["resident without windows, nothing read".into(), mib(empty)]);
    table.row(["bound that is printed, all tasks".into(), mib(bound)]);
    table.row(["highest resident".into(), mib(highest)]);
    table.row([
        "highest resident / bound".into(),
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
        let line = format!("/srv/app/worker --job {}", index % keys);
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
