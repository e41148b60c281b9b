//! What a task knows of its log: each host's time, its sensor's runs, and what these say is lost.
//!
//! ```text
//! record ─► repeated? ─► silence of other hosts ─► clock stepped back? ─► the host's time before it, and after it
//! ```
//! It is a function of the log alone, so it can be stored with the offsets and comes out the same on a replay, however the
//! log is cut. Time is per host: a host that drains its backlog is late for nobody. A row's time is its event time, or the
//! broker's where that is earlier: a clock that runs ahead opens no window in the future.
//! Its size is bounded: hosts by number and each in bytes ([`room`]), and of more than eight runs of a host's sensors the
//! oldest is forgotten.
//!
//! A task reads the partitions of its number of several topics. Each is a log of its own: of one another's offsets, counts and
//! times they know nothing, since no log has the order in which records of two of them came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::HashMap;
use dogwatch_schemas::Text;
use dogwatch_schemas::topics::Topic;

use crate::decode::Partition;

mod fleet;
mod gaps;
mod holes;
mod host;
mod log;
mod presence;
mod room;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use fleet::{FleetMoment, Tick};
pub(crate) use gaps::Unseen;
pub(crate) use holes::{CLASS_BYTES_MAX, CLASSES_MAX, Holes, Losses};
pub(crate) use presence::{Finding, Presence};
pub(crate) use room::{Forgotten, HOSTS_BYTES_MAX, HOSTS_MAX};

use fleet::FleetTime;
use host::Host;
use log::Log;

/// How far an event's time may be from the broker's, either way, before the clock counts as broken.
pub(crate) const CLOCK_ERROR_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
pub(crate) const SECOND_NS: i64 = 1_000_000_000;
/// Host id of the rows that processors write.
pub(crate) const PROCESSOR: &str = "dogwatch-processor";
/// Hosts in a stored piece: it is written when one of them was heard of.
const HOSTS_PER_PIECE: usize = 64;

/// What a record is, as far as time is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    /// The log that it is in.
    pub log: Partition,
    pub offset: i64,
    /// Its row in the batch.
    pub row: u32,
    pub host_id: &'a str,
    pub sensor_run: &'a str,
    pub seq: i64,
    pub ts: i64,
    pub ingest_ts: Option<i64>,
    /// Whether it says that the clock was stepped.
    pub clock_step: bool,
}

/// What a record is to the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next of its run; so many before it never came.
    New {
        missing: u64,
        moment: Moment,
        /// Whether it is the first of its run.
        begins: bool,
    },
    /// Sent again: it was in the log before.
    Repeated,
}

/// A row's place in its host's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Its host and the stretch of its time between two steps back of the clock.
    pub slot: i64,
    /// Its time.
    pub time: i64,
    /// The host's time before it.
    pub high: i64,
    /// Windows that start up to here are closed because the host had been silent.
    pub flush_high: i64,
    /// The host's time after it.
    pub high_after: i64,
    /// Whether its event time was too far from the broker's to be believed: `time` is the broker's then.
    pub clock_replaced: bool,
    /// Of how many hosts that stay it is one, and has been since its clock was stepped; 0 where it is none of them. Caps leave
    /// each of these something.
    pub among: usize,
    /// For how many seconds of ingest the task has heard of its host.
    pub known_s: i64,
}

/// Why windows are closed before their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// The host's clock was stepped back to this time; the slot goes on as the next.
    Step { high: i64, next: i64 },
    /// The host was silent; windows that start up to here are closed.
    Silence { flush_high: i64 },
}

/// The end of a host's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The row of the batch that brings it.
    pub row: u32,
    pub slot: i64,
    pub kind: EndKind,
}

/// Whose time a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotOwner {
    pub host_id: Text,
    pub host_name: Text,
    /// Name of the stretch: empty before the first step back, then the row that stepped, `RUN/SEQ`.
    pub segment: Text,
    /// Where its events are lost.
    pub holes: Option<Arc<Holes>>,
}

/// The task of what is of all hosts together. Those of further partitions of the exchange have the numbers below it.
pub(crate) const FLEET: i32 = -1;
/// What stands for the host of an alert over all hosts.
pub(crate) const FLEET_HOST_ID: &str = "fleet";

/// The task of a log.
pub(crate) fn task_of((topic, number): Partition) -> i32 {
    match topic {
        Topic::Exchange => FLEET - number,
        _ => number,
    }
}

/// The number of a topic's log in a task.
pub(crate) fn number_of(topic: Topic, task: i32) -> i32 {
    match topic {
        Topic::Exchange => FLEET - task,
        _ => task,
    }
}

/// The slot of what a task of the fleet says.
pub(crate) fn fleet_slot(task: i32) -> i64 {
    i64::from(task) << 32
}

/// Whether a slot is of all hosts together.
pub(crate) fn is_of_fleet(slot: i64) -> bool {
    slot < 0
}

/// What stands for the log that the time of a task of the fleet is of.
pub(crate) fn fleet_log(task: i32) -> Partition {
    (Topic::Events, task)
}

/// The task of a slot.
pub(crate) fn partition_of(slot: i64) -> i32 {
    (slot >> 32) as i32
}

/// The hosts of an engine's tasks.
#[derive(Debug)]
pub(crate) struct Hosts {
    tasks: HashMap<i32, Task>,
    host_silence_ns: i64,
    clock_error_max_ns: i64,
    /// How long the slowest host is waited for; none where nothing goes by the time of all.
    fleet_patience_ns: Option<i64>,
    batch: Batch,
}

/// What the batch found that is over when it is settled.
#[derive(Debug, Default)]
struct Batch {
    ends: Vec<End>,
    /// Seconds of logs that are over, by row.
    ticks: Vec<Tick>,
    /// Slots that ended: their windows are fired now, nobody asks for them again.
    past: HashMap<i64, SlotOwner>,
    /// Where it found holes, by slot: rows, the first of which stands for what was known before.
    hole_steps: HashMap<i64, Vec<HoleStep>>,
    forgotten: Vec<Forgotten>,
    findings: Vec<Finding>,
    /// Hosts that were forgotten while they were heard of.
    forgotten_count: u64,
}

impl Batch {
    /// Notes that from a row on other holes are known.
    fn note_holes(
        &mut self,
        slot: i64,
        row: u32,
        before: Option<Arc<Holes>>,
        after: Option<Arc<Holes>>,
    ) {
        let steps = self.hole_steps.entry(slot).or_default();
        if steps.is_empty() {
            steps.push((0, before));
        }
        steps.push((row, after));
    }
}

/// The holes that are known from a row on.
type HoleStep = (u32, Option<Arc<Holes>>);

/// A task: its logs by topic, and the number of the next slot of any of them.
#[derive(Debug, Default)]
struct Task {
    logs: BTreeMap<Topic, Log>,
    next_slot: u32,
}

impl Hosts {
    /// No tasks yet; a host not heard of for `host_silence` has its windows closed, and a row whose time is further than
    /// `clock_error_max` from the broker's has the broker's.
    pub fn new(host_silence: Duration, clock_error_max: Duration) -> Self {
        Self {
            tasks: HashMap::new(),
            host_silence_ns: nanoseconds(host_silence),
            clock_error_max_ns: nanoseconds(clock_error_max),
            fleet_patience_ns: None,
            batch: Batch::default(),
        }
    }

    /// Keeps the time of all hosts of a log together, which waits so long for the slowest.
    #[must_use]
    pub fn with_fleet(mut self, patience: Duration) -> Self {
        self.fleet_patience_ns = Some(nanoseconds(patience));
        self
    }

    /// The seconds of logs that ended in this batch, by row.
    pub fn ticks(&self) -> &[Tick] {
        &self.batch.ticks
    }

    /// Ends the seconds that run, at the end of a bounded input, by task.
    pub fn last_ticks(&mut self) -> Vec<Tick> {
        let mut ticks = Vec::new();
        for partition in self.partitions() {
            let logs = self.tasks.get_mut(&partition).into_iter();
            let logs = logs.flat_map(|task| task.logs.values_mut());
            ticks.extend(logs.filter_map(|log| log.fleet.last_tick(partition)));
        }
        ticks
    }

    /// Where the record taken last stands in the time of all hosts.
    pub fn fleet_moment(&self, log: Partition, offset: i64) -> FleetMoment {
        let fleet = self.log(log).map(|own| own.fleet.moment(log.1, offset));
        fleet.unwrap_or_else(|| FleetTime::default().moment(log.1, offset))
    }

    /// Begins a batch: what ended in the one before is settled.
    pub fn begin_batch(&mut self) {
        self.batch = Batch::default();
    }

    /// What ended in this batch, by row.
    pub fn ends(&self) -> &[End] {
        &self.batch.ends
    }

    /// Living hosts that were forgotten, where it is time to tell.
    pub fn take_forgotten(&mut self) -> Vec<Forgotten> {
        std::mem::take(&mut self.batch.forgotten)
    }

    /// Hosts that are silent, are back, or have two sensors.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.batch.findings)
    }

    /// Whether a log has hosts whose silence would be told.
    pub fn watches(&self, log: Partition) -> bool {
        self.log(log).is_some_and(Log::watches)
    }

    /// How many living hosts the batch forgot.
    pub fn forgotten_count(&self) -> u64 {
        self.batch.forgotten_count
    }

    /// Takes the next record of a log.
    pub fn take(&mut self, heard: &Heard<'_>) -> Place {
        let (topic, partition) = heard.log;
        let Task { logs, next_slot } = self.tasks.entry(partition).or_default();
        let log = logs.entry(topic).or_default();
        let limits = Limits {
            host_silence_ns: self.host_silence_ns,
            clock_error_max_ns: self.clock_error_max_ns,
            fleet_patience_ns: self.fleet_patience_ns,
        };
        log.take(heard, &limits, next_slot, &mut self.batch)
    }

    fn log(&self, (topic, partition): Partition) -> Option<&Log> {
        self.tasks.get(&partition)?.logs.get(&topic)
    }

    /// The logs of a task.
    fn logs(&self, partition: i32) -> impl Iterator<Item = (Topic, &Log)> {
        let task = self.tasks.get(&partition).into_iter();
        task.flat_map(|task| task.logs.iter().map(|(topic, log)| (*topic, log)))
    }

    /// Notes the name of the host of the record taken last.
    pub fn note_name(&mut self, log: Partition, host_name: &str) {
        if let Some((host, _)) = self.last_host(log)
            && &*host.host_name != host_name
        {
            host.host_name = host_name.into();
        }
    }

    /// Notes that input of a log was not seen before its next record.
    pub fn miss(&mut self, (topic, partition): Partition, unseen: Unseen) {
        let task = self.tasks.entry(partition).or_default();
        let log = task.logs.entry(topic).or_default();
        log.miss(unseen);
        if self.fleet_patience_ns.is_some() {
            log.fleet.miss(unseen.losses());
        }
    }

    /// Notes the boot that the run of the record taken last is of.
    pub fn note_boot(&mut self, log: Partition, boot: &str) {
        let host = self.last_host(log);
        if let Some(run) = host.and_then(|(host, _)| host.runs.last_mut()) {
            run.boot = boot.into();
        }
    }

    /// Notes what the run of the record taken last, a mark of this row and time, says is lost so far.
    pub fn note_losses(&mut self, log: Partition, row: u32, time: i64, losses: Losses) {
        let Some((host, bytes_max)) = self.last_host(log) else {
            return;
        };
        let (slot, before) = (slot(log.1, host.slot), host.holes.clone());
        let lost = host.note_losses(time, losses, bytes_max);
        let after = host.holes.clone();
        if before != after {
            self.batch.note_holes(slot, row, before, after);
        }
        let of_fleet = self.fleet_patience_ns.is_some();
        if let Some(log) = self.log_mut(log).filter(|_| of_fleet) {
            for (from, to, lost) in &lost {
                log.fleet.note_losses(*from, *to, lost);
            }
        }
    }

    /// The holes of the host of the record taken last, as they are known up to there.
    pub fn holes(&self, log: Partition) -> Option<Arc<Holes>> {
        self.log(log)?.last_host()?.holes.clone()
    }

    /// The holes of a slot that are known up to a row of the batch.
    pub fn holes_until(&self, slot: i64, row: u32) -> Option<Arc<Holes>> {
        let Some(steps) = self.batch.hole_steps.get(&slot) else {
            return self.owner(slot).holes;
        };
        let past = steps.partition_point(|(at, _)| *at <= row);
        steps[past.saturating_sub(1)].1.clone()
    }

    /// The latest second that a log was heard in, of ingest.
    pub fn second(&self, log: Partition) -> i64 {
        self.log(log).and_then(|log| log.second).unwrap_or(0)
    }

    /// Whose time a slot is.
    pub fn owner(&self, slot: i64) -> SlotOwner {
        if is_of_fleet(slot) {
            let name = || Text::from(FLEET_HOST_ID);
            return SlotOwner {
                host_id: name(),
                host_name: name(),
                segment: Text::default(),
                holes: None,
            };
        }
        if let Some(owner) = self.batch.past.get(&slot) {
            return owner.clone();
        }
        self.host(slot)
            .map(Host::owner)
            .unwrap_or_else(|| SlotOwner {
                host_id: Text::default(),
                host_name: Text::default(),
                segment: Text::default(),
                holes: None,
            })
    }

    /// The slots of a task that are alive, each with its host's time and what silence has closed.
    pub fn slots(&self, partition: i32) -> HashMap<i64, (i64, i64)> {
        let hosts = self.logs(partition).flat_map(|(_, log)| log.hosts());
        hosts
            .map(|host| (slot(partition, host.slot), (host.high, host.flush_high)))
            .collect()
    }

    /// The latest time of a task: the brokers', or its hosts' where there are none.
    pub fn latest(&self, partition: i32) -> Option<i64> {
        let latest = |(_, log): (Topic, &Log)| {
            let second = log.second.map(|second| second.saturating_mul(SECOND_NS));
            second.or_else(|| log.latest_high())
        };
        self.logs(partition).filter_map(latest).max()
    }

    /// The latest of the times of a log's hosts.
    pub fn latest_high(&self, log: Partition) -> Option<i64> {
        self.log(log)?.latest_high()
    }

    /// The time of a slot's host.
    pub fn high(&self, slot: i64) -> i64 {
        self.host(slot).map_or(i64::MIN, |host| host.high)
    }

    /// The log of a slot that is alive.
    pub fn log_of(&self, slot: i64) -> Option<Partition> {
        let partition = partition_of(slot);
        let mut logs = self.logs(partition);
        let (topic, _) = logs.find(|(_, log)| log.host(slot as u32).is_some())?;
        Some((topic, partition))
    }

    /// Whether a slot is of a host that stays.
    pub fn stays(&self, slot: i64) -> bool {
        let mut logs = self.logs(partition_of(slot));
        logs.any(|(_, log)| {
            let host = log.host(slot as u32);
            host.is_some_and(|host| host.is_settled(log.second.unwrap_or(0)))
        })
    }

    /// The host whose time a slot is now.
    fn host(&self, slot: i64) -> Option<&Host> {
        let mut logs = self.logs(partition_of(slot));
        logs.find_map(|(_, log)| log.host(slot as u32))
    }

    /// The tasks that were heard of.
    pub fn partitions(&self) -> Vec<i32> {
        let mut partitions: Vec<i32> = self.tasks.keys().copied().collect();
        partitions.sort_unstable();
        partitions
    }

    /// Forgets a task that is no longer this engine's.
    pub fn forget(&mut self, partition: i32) {
        self.tasks.remove(&partition);
    }

    /// The host of the record taken last, to be changed, and how many bytes it may have.
    fn last_host(&mut self, log: Partition) -> Option<(&mut Host, usize)> {
        self.log_mut(log)?.change_last()
    }

    fn log_mut(&mut self, (topic, partition): Partition) -> Option<&mut Log> {
        let task = self.tasks.get_mut(&partition)?;
        task.logs.get_mut(&topic)
    }
}

/// What hosts are held to.
#[derive(Debug, Clone, Copy)]
struct Limits {
    host_silence_ns: i64,
    clock_error_max_ns: i64,
    fleet_patience_ns: Option<i64>,
}

fn nanoseconds(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

fn slot(partition: i32, number: u32) -> i64 {
    (i64::from(partition) << 32) | i64::from(number)
}
