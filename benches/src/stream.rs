//! Whole runs over a real broker: events per second beside a bare consumer of the same topic.
//!
//! A sentinel is an event that every set of detections finds: the last of each host says when the processor is through.

use crate::measure::{Rounds, Stolen, spread};
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
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SENTINEL: &str = "dogwatch-bench";
/// Every detection that finds sentinels begins so.
const SENTINEL_HEADER: &str = "-- title = \"Sentinel\"\n-- description = \"Finds the benchmark's sentinels.\"\n-- message = \"sentinel\"\n\
     -- severity = \"low\"\n-- status = \"experimental\"\n";
/// Finds sentinels one by one.
pub(crate) const SENTINEL_EACH: &str =
    "SELECT host_id, seq FROM events WHERE evt_type = 'execve' AND proc_name = 'dogwatch-bench'\n";
/// Nothing here takes longer on any machine we have seen; a run that does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Containers on each host: 20,032 in all.
const CONTAINERS: usize = 313;
/// From event to event: 2,000,000 of them are 20 minutes.
const STEP_NS: i64 = 600_000;

/// What a run looks for, beside the sentinels.
enum Load {
    Nothing,
    SingleEvents(usize),
    Windows { count: usize, only_counts: bool },
}

/// Reads `count` preloaded events with a bare consumer and with the processor: without a detection, with 10 and 100 on single
/// events, with 20 over windows.
///
/// # Errors
/// When a client fails or the processor does not get through in time.
pub fn throughput(count: usize, rounds: &Rounds) -> Result<Table> {
    let broker = Broker::start();
    let mut table = Table::new(&[
        "reader",
        "events/s",
        "ratio to the bare consumer",
        "lowest",
        "highest",
        "stolen",
    ]);
    table.note(format!(
        "{count} events of {} hosts and {} containers, preloaded in 8 partitions of one broker on the same machine; each \
         processor also looks for the {} last events, and is through when the alerts on these are committed and read",
        events::HOSTS,
        events::HOSTS * CONTAINERS,
        events::HOSTS,
    ));
    table.note("Over windows: hop 30 s / 5 min, three keys; counts and distinct counts that ask for a number, then sums, maxima and averages among them".into());
    table.note(rounds.note());
    table.note(Stolen::NOTE.into());
    let folder = tempfile::tempdir()?;
    let sentinels = preload(&broker, folder.path(), count)?;
    let runs = [
        ("processor, no detection", Load::Nothing),
        ("processor, 10 on single events", Load::SingleEvents(10)),
        ("processor, 100 on single events", Load::SingleEvents(100)),
        (
            "processor, 20 counts over windows",
            Load::Windows {
                count: 20,
                only_counts: true,
            },
        ),
        (
            "processor, 20 aggregates of all kinds over windows",
            Load::Windows {
                count: 20,
                only_counts: false,
            },
        ),
    ];
    let mut bare = Vec::new();
    let mut rates: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for round in 0..rounds.count {
        let stolen = Stolen::start();
        let rate = bare_consumer(&broker, &format!("bench-bare-{round}"), count)?;
        bare.push((rate, stolen.percent()));
        for (number, (name, load)) in runs.iter().enumerate() {
            if !rounds.wants(name) {
                continue;
            }
            write_detections(folder.path(), load)?;
            let group = format!("bench-{number}-{round}");
            let stolen = Stolen::start();
            let elapsed = processor(&broker, folder.path(), &group, &sentinels)?;
            let rate = count as f64 / elapsed.as_secs_f64();
            eprintln!(
                "round {round}, {name}: {rate:.0}, {:.2}",
                rate / bare[round].0
            );
            let measured = (rate, stolen.percent());
            rates.entry(number).or_default().push(measured);
        }
    }
    let mut row = |name: &str, rates: &[(f64, f64)]| {
        let [rate, ..] = spread(rates.iter().map(|(rate, _)| *rate));
        let stolen = Stolen::cell(rates.iter().map(|(_, stolen)| *stolen));
        let pairs = rates.iter().zip(&bare);
        let ratios = spread(pairs.map(|((rate, _), (bare, _))| rate / bare));
        let ratios = ratios.map(|ratio| format!("{ratio:.2}"));
        table.row(
            [name.to_owned(), format!("{rate:.0}")]
                .into_iter()
                .chain(ratios)
                .chain([stolen]),
        );
    };
    row("bare consumer", &bare);
    for (number, rates) in &rates {
        row(runs[*number].0, rates);
    }
    Ok(table)
}

/// Publishes synthetic events, a sentinel at each host's end; returns the sentinels' hosts.
fn preload(broker: &Broker, folder: &Path, count: usize) -> Result<BTreeSet<String>> {
    write_detections(folder, &Load::Nothing)?;
    // The processor creates the topics as its users have them.
    start_processor(broker, folder, "bench-preload", &[]).stop(Duration::from_secs(30));
    let events = events::Stream::new(3, CONTAINERS, STEP_NS).take(count);
    Ok(publish(broker, events))
}

/// Publishes events, and after each host's last a sentinel; returns the hosts.
pub(crate) fn publish(broker: &Broker, events: impl Iterator<Item = Event>) -> BTreeSet<String> {
    let publisher = Publisher::new(&broker.address());
    let topic = Topics::new("dogwatch").name(Topic::Events);
    let mut message = Vec::new();
    let mut send = |event: &Event| {
        message.clear();
        event.encode_framed(&mut message);
        publisher.send(&topic, &event.host_id, &message);
    };
    let mut last = BTreeMap::new();
    for event in events {
        send(&event);
        last.insert(event.host_id.to_string(), event);
    }
    for event in last.values_mut() {
        event.seq += 1;
        make_sentinel(event);
        send(event);
    }
    publisher.flush();
    last.into_keys().collect()
}

pub(crate) fn make_sentinel(event: &mut Event) {
    event.evt_type = "execve".into();
    event.proc_name = Some(SENTINEL.into());
}

fn write_detections(folder: &Path, load: &Load) -> Result<()> {
    let tactic = folder.join("execution");
    if tactic.exists() {
        fs::remove_dir_all(&tactic)?;
    }
    match load {
        Load::Nothing => {}
        Load::SingleEvents(count) => detections::write(folder, *count)?,
        Load::Windows { count, only_counts } => {
            detections::write_windowed(folder, *count, *only_counts)?
        }
    }
    write_sentinel(folder, SENTINEL_EACH)
}

/// Writes the detection that finds sentinels; `rest` is its query, after lines of the header that it alone has.
pub(crate) fn write_sentinel(folder: &Path, rest: &str) -> Result<()> {
    let tactic = folder.join("execution");
    fs::create_dir_all(&tactic)?;
    fs::write(
        tactic.join("sentinel.sql"),
        format!("{SENTINEL_HEADER}{rest}"),
    )?;
    Ok(())
}

/// Starts a processor and does not wait for it.
pub(crate) fn spawn_processor(
    broker: &Broker,
    folder: &Path,
    group: &str,
    settings: &[(&str, &str)],
) -> Process {
    let log = folder.join(format!("{group}-{}.log", now_ns()));
    let settings = [&[("KAFKA__GROUP_ID", group)], settings].concat();
    programs::processor_with(&broker.address(), folder, &settings, &log)
}

/// Starts a processor and waits until it reads.
pub(crate) fn start_processor(
    broker: &Broker,
    folder: &Path,
    group: &str,
    settings: &[(&str, &str)],
) -> Process {
    let mut process = spawn_processor(broker, folder, group, settings);
    process.wait_for_text("partitions assigned", PATIENCE);
    process
}

fn bare_consumer(broker: &Broker, group: &str, count: usize) -> Result<f64> {
    let consumer = consumer(broker, group, Topic::Events)?;
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
    group: &str,
    sentinels: &BTreeSet<String>,
) -> Result<Duration> {
    let alerts = consumer(broker, &format!("{group}-alerts"), Topic::Alerts)?;
    let process = start_processor(broker, folder, group, &[]);
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

pub(crate) fn consumer(broker: &Broker, group: &str, topic: Topic) -> Result<BaseConsumer> {
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
pub(crate) fn next(consumer: &BaseConsumer) -> Result<BorrowedMessage<'_>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            return Ok(message?);
        }
    }
    anyhow::bail!("no message came for {PATIENCE:?}")
}

pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as i64)
}
