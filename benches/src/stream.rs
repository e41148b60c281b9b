//! Whole runs over a real broker: events per second beside a bare consumer of the same topic, and the time from an
//! event's append to its committed alert.
//!
//! A sentinel is an event that every set of detections finds: the last of each host says when the processor is through.

use crate::table::Table;
use crate::{detections, events};
use anyhow::{Context, Result};
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;
use dogwatch_tests::publish::Publisher;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SENTINEL: &str = "dogwatch-bench";
const SENTINEL_SQL: &str = "-- title = \"Sentinel\"\n-- description = \"Finds the benchmark's sentinels.\"\n-- message = \"sentinel\"\n\
     -- severity = \"low\"\n-- status = \"experimental\"\n\
     SELECT host_id, seq FROM events WHERE evt_type = 'execve' AND proc_name = 'dogwatch-bench'\n";
/// Nothing here takes longer on any machine we have seen; a run that does has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Reads `count` preloaded events with a bare consumer and with the processor at 1, 10 and 100 detections.
///
/// # Errors
/// When a client fails or the processor does not get through in time.
pub fn throughput(count: usize) -> Result<Table> {
    let broker = Broker::start();
    let mut table = Table::new(&["reader", "events/s", "ratio to the bare consumer"]);
    table.note(format!(
        "{count} events preloaded in 8 partitions of one broker on the same machine"
    ));
    let folder = tempfile::tempdir()?;
    let sentinels = preload(&broker, folder.path(), count)?;
    let bare = bare_consumer(&broker, count)?;
    table.row(["bare consumer".into(), format!("{bare:.0}"), "1.00".into()]);
    for number in [1, 10, 100] {
        let rate =
            count as f64 / processor(&broker, folder.path(), number, &sentinels)?.as_secs_f64();
        table.row([
            format!("processor, {number} detections"),
            format!("{rate:.0}"),
            format!("{:.2}", rate / bare),
        ]);
    }
    Ok(table)
}

/// Publishes `rate` events a second for `seconds`, one in a hundred of them a sentinel, and times its alert.
///
/// # Errors
/// When a client fails or alerts are missing.
pub fn latency(rate: usize, seconds: usize) -> Result<Table> {
    let mut table = Table::new(&["delivery", "alerts", "p50 ms", "p99 ms", "max ms"]);
    table.note(format!("{rate} events/s for {seconds} s, 1 in 100 an alert, 11 detections; from the event's append to the alert in the hands of a reader of committed records"));
    for delivery in ["exactly_once", "at_least_once"] {
        let mut times = timed_alerts(delivery, rate, seconds)?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| format!("{:.1}", times[((times.len() - 1) as f64 * share) as usize]);
        table.row([
            delivery.into(),
            times.len().to_string(),
            at(0.5),
            at(0.99),
            at(1.0),
        ]);
    }
    Ok(table)
}

/// Publishes synthetic events, a sentinel at each host's end; returns the sentinels' hosts.
fn preload(broker: &Broker, folder: &Path, count: usize) -> Result<BTreeSet<String>> {
    write_detections(folder, 1)?;
    // The processor creates the topics as its users have them.
    start_processor(broker, folder, "exactly_once", "bench-preload").stop(Duration::from_secs(30));
    let publisher = Publisher::new(&broker.address());
    let topic = Topics::new("dogwatch").name(Topic::Events);
    let mut message = Vec::new();
    let mut send = |event: &Event| {
        message.clear();
        event.encode_framed(&mut message);
        publisher.send(&topic, &event.host_id, &message);
    };
    let mut last = std::collections::BTreeMap::new();
    let mut sent = 0;
    while sent < count {
        for mut event in events::synthetic((count - sent).min(50_000), sent as u64) {
            event.seq = sent as i64;
            send(&event);
            sent += 1;
            last.insert(event.host_id.to_string(), event);
        }
    }
    for event in last.values_mut() {
        event.seq += 1;
        make_sentinel(event);
        send(event);
    }
    publisher.flush();
    Ok(last.into_keys().collect())
}

fn make_sentinel(event: &mut Event) {
    event.evt_type = "execve".into();
    event.proc_name = Some(SENTINEL.into());
}

fn write_detections(folder: &Path, number: usize) -> Result<()> {
    let tactic = folder.join("execution");
    if tactic.exists() {
        fs::remove_dir_all(&tactic)?;
    }
    detections::write(folder, number - 1)?;
    fs::write(tactic.join("sentinel.sql"), SENTINEL_SQL)?;
    Ok(())
}

fn start_processor(broker: &Broker, folder: &Path, delivery: &str, group: &str) -> Process {
    let mut command = programs::command("dogwatch-processor");
    command
        .args(["run", "--kafka", &broker.address(), "--detections"])
        .arg(folder)
        .env("DOGWATCH_METRICS__LISTEN", "")
        .env("DOGWATCH_DELIVERY", delivery)
        .env("DOGWATCH_KAFKA__GROUP_ID", group);
    let mut process = Process::start(
        "dogwatch-processor",
        &mut command,
        &folder.join(format!("{group}.log")),
    );
    process.wait_for_text("assigned", PATIENCE);
    process
}

fn bare_consumer(broker: &Broker, count: usize) -> Result<f64> {
    let consumer = consumer(broker, "bench-bare", Topic::Events)?;
    let mut read = 0;
    let mut start = None;
    while read < count {
        let message = next(&consumer)?;
        start.get_or_insert_with(Instant::now);
        read += usize::from(message.payload().is_some());
    }
    Ok(count as f64 / start.context("the topic is empty")?.elapsed().as_secs_f64())
}

/// Time from the start of the processor's reading to the last sentinel's committed alert.
fn processor(
    broker: &Broker,
    folder: &Path,
    number: usize,
    sentinels: &BTreeSet<String>,
) -> Result<Duration> {
    write_detections(folder, number)?;
    let group = format!("bench-{number}");
    let alerts = consumer(broker, &format!("{group}-alerts"), Topic::Alerts)?;
    let process = start_processor(broker, folder, "exactly_once", &group);
    let start = Instant::now();
    let mut missing = sentinels.clone();
    // The runs' sentinels give the same alerts: those of earlier runs are told apart by the time they were said.
    let started_at = now_ns();
    while !missing.is_empty() {
        let message = next(&alerts)?;
        let alert = Alert::decode_framed(message.payload().unwrap_or_default())?;
        if alert.alert_ts >= started_at {
            missing.remove(&*alert.host_id);
        }
    }
    let elapsed = start.elapsed();
    process.stop(Duration::from_secs(30));
    Ok(elapsed)
}

/// Milliseconds from append to the alert's arrival, one for each sentinel.
fn timed_alerts(delivery: &str, rate: usize, seconds: usize) -> Result<Vec<f64>> {
    const EACH: usize = 100;
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    write_detections(folder.path(), 11)?;
    let process = start_processor(&broker, folder.path(), delivery, "bench-latency");
    let alerts = consumer(&broker, "bench-latency-alerts", Topic::Alerts)?;
    let address = broker.address();
    let sender = std::thread::spawn(move || send_paced(&address, rate, seconds, EACH));
    let expected = rate * seconds / EACH;
    let mut times = Vec::with_capacity(expected);
    while times.len() < expected {
        let message = next(&alerts)?;
        let alert = Alert::decode_framed(message.payload().unwrap_or_default())?;
        let appended = alert.ingest_ts.context("the topic stamps append time")?;
        times.push((now_ns() - appended) as f64 / 1e6);
    }
    sender.join().expect("the sender does not panic");
    process.stop(Duration::from_secs(30));
    Ok(times)
}

fn send_paced(address: &str, rate: usize, seconds: usize, each: usize) {
    let publisher = Publisher::new(address);
    let topic = Topics::new("dogwatch").name(Topic::Events);
    let start = Instant::now();
    let mut message = Vec::new();
    for (index, mut event) in events::synthetic(rate * seconds, 3).into_iter().enumerate() {
        if index % each == 0 {
            make_sentinel(&mut event);
        }
        message.clear();
        event.encode_framed(&mut message);
        publisher.send(&topic, &event.host_id, &message);
        let due = Duration::from_secs_f64(index as f64 / rate as f64);
        if let Some(early) = due
            .checked_sub(start.elapsed())
            .filter(|early| early.as_millis() > 0)
        {
            std::thread::sleep(early);
        }
    }
    publisher.flush();
}

fn consumer(broker: &Broker, group: &str, topic: Topic) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .set("queued.min.messages", "200000")
        .create()?;
    consumer.subscribe(&[&Topics::new("dogwatch").name(topic)])?;
    Ok(consumer)
}

/// Waits for the next message; a poll also ends without one when the client only had something to log.
fn next(consumer: &BaseConsumer) -> Result<BorrowedMessage<'_>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            return Ok(message?);
        }
    }
    anyhow::bail!("no message came for {PATIENCE:?}")
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as i64)
}
