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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::HashMap;
use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Renewal, State, StateRecord, take_below};

mod holes;
mod host;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use holes::{CLASS_BYTES_MAX, CLASSES_MAX, Holes, Losses};
pub(crate) use room::{Forgotten, HOSTS_MAX};

use host::Host;

/// Times of windows lie between 1970 and 2200: sums with any length of a window stay whole numbers.
const TIME_MAX_NS: i64 = 7_258_118_400_000_000_000;
/// How far an event's time may be from the broker's, either way, before the clock counts as broken.
pub(crate) const CLOCK_ERROR_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A sensor's new run that begins this far behind its host's time began after the clock was put back, nanoseconds.
const RESTART_STEP_NS: i64 = 1_000_000_000;
pub(crate) const SECOND_NS: i64 = 1_000_000_000;
/// What the names of stored hosts begin with.
const HOSTS: &str = "hosts/";
/// Hosts in a stored piece: it is written when one of them was heard of.
const HOSTS_PER_PIECE: usize = 64;
/// Name of what is stored of a task beside its hosts.
const TASK: &str = "task";

/// What a record is, as far as time is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    pub partition: i32,
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
    New { missing: u64, moment: Moment },
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

/// The partition of a slot.
pub(crate) fn partition_of(slot: i64) -> i32 {
    (slot >> 32) as i32
}

/// The hosts of an engine's tasks.
#[derive(Debug)]
pub(crate) struct Hosts {
    tasks: HashMap<i32, Task>,
    host_silence_ns: i64,
    clock_error_max_ns: i64,
    batch: Batch,
}

/// What the batch found that is over when it is settled.
#[derive(Debug, Default)]
struct Batch {
    ends: Vec<End>,
    /// Slots that ended: their windows are fired now, nobody asks for them again.
    past: HashMap<i64, SlotOwner>,
    /// Where it found holes, by slot: rows, the first of which stands for what was known before.
    hole_steps: HashMap<i64, Vec<HoleStep>>,
    forgotten: Vec<Forgotten>,
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

#[derive(Debug, Default)]
struct Task {
    hosts: Vec<Host>,
    by_id: HashMap<Text, usize>,
    by_slot: HashMap<u32, usize>,
    /// The latest second of ingest; without a broker of the rows' own times.
    second: Option<i64>,
    next_slot: u32,
    /// Records taken: the order in which hosts were heard of.
    records: u64,
    /// How many hosts are residents.
    residents: usize,
    /// The latest time of a host that was forgotten: up to there windows may have been counted that nobody knows of.
    forgotten_high: Option<i64>,
    /// Hosts that were forgotten while they were heard of, since that was told last.
    forgotten: u64,
    /// The second in which it was told last.
    told: Option<i64>,
    /// The host of the last record: rows of one host come together.
    last: usize,
    /// Pieces whose hosts changed since they were stored.
    changed: BTreeSet<usize>,
    /// How many pieces are stored.
    pieces: usize,
}

/// What a task knows beside its hosts, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredTask {
    second: Option<i64>,
    next_slot: u32,
    #[serde(default)]
    records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten_high: Option<i64>,
    #[serde(default)]
    forgotten: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<i64>,
}

impl Hosts {
    /// No tasks yet; a host not heard of for `host_silence` has its windows closed, and a row whose time is further than
    /// `clock_error_max` from the broker's has the broker's.
    pub fn new(host_silence: Duration, clock_error_max: Duration) -> Self {
        let ns = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self {
            tasks: HashMap::new(),
            host_silence_ns: ns(host_silence),
            clock_error_max_ns: ns(clock_error_max),
            batch: Batch::default(),
        }
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

    /// How many living hosts the batch forgot.
    pub fn forgotten_count(&self) -> u64 {
        self.batch.forgotten_count
    }

    /// Takes the next record of a partition.
    pub fn take(&mut self, heard: &Heard<'_>) -> Place {
        let task = self.tasks.entry(heard.partition).or_default();
        let known = task.find(heard.host_id);
        task.last = known.unwrap_or(task.last);
        let run = known.and_then(|index| task.hosts[index].run(heard.sensor_run));
        let last = known.zip(run);
        if last.is_some_and(|(index, run)| task.hosts[index].runs[run].repeats(heard)) {
            return Place::Repeated;
        }
        let batch = &mut self.batch;
        task.close_silent(heard, self.host_silence_ns, &mut batch.ends);
        let (time, clock_replaced) = window_time(heard, self.clock_error_max_ns);
        let second = heard.ingest_ts.unwrap_or(time).div_euclid(SECOND_NS);
        task.second = task.second.max(Some(second));
        let index = known.unwrap_or_else(|| task.add(heard, batch));
        task.settle(index);
        task.last = index;
        task.records += 1;
        task.changed.insert(index / HOSTS_PER_PIECE);
        let host = &mut task.hosts[index];
        let now = slot(heard.partition, host.slot);
        let back = if heard.clock_step {
            time < host.high
        } else {
            run.is_none() && time < host.high.saturating_sub(RESTART_STEP_NS)
        };
        let missing = host.count(heard, run, time);
        if back {
            batch.past.insert(now, host.owner());
            batch.ends.push(End {
                row: heard.row,
                slot: now,
                kind: EndKind::Step {
                    high: time,
                    next: slot(heard.partition, task.next_slot),
                },
            });
            task.by_slot.remove(&host.slot);
            task.by_slot.insert(task.next_slot, index);
            host.slot = task.next_slot;
            task.next_slot += 1;
            host.segment = segment(heard);
            (host.high, host.flush_high) = (i64::MIN, i64::MIN);
            host.holes = None;
            // In the new time nobody knows where the losses are that come to light next.
            let runs = host.runs.iter_mut();
            runs.for_each(|run| run.known_to = i64::MIN);
        }
        let high = host.high;
        host.high = high.max(time);
        host.heard = task.records;
        if heard.ingest_ts.is_some() {
            host.ingest = heard.ingest_ts;
        }
        host.flushed = false;
        Place::New {
            missing,
            moment: Moment {
                slot: slot(heard.partition, host.slot),
                time,
                high,
                flush_high: host.flush_high,
                high_after: host.high,
                clock_replaced,
            },
        }
    }

    /// Notes the name of the host of the record taken last.
    pub fn note_name(&mut self, partition: i32, host_name: &str) {
        if let Some(host) = self.last_host(partition)
            && &*host.host_name != host_name
        {
            host.host_name = host_name.into();
        }
    }

    /// Notes what the run of the record taken last, a mark of this row and time, says is lost so far.
    pub fn note_losses(&mut self, partition: i32, row: u32, time: i64, losses: Losses) {
        let Some(host) = self.last_host(partition) else {
            return;
        };
        let (slot, before) = (slot(partition, host.slot), host.holes.clone());
        host.note_losses(time, losses);
        let after = host.holes.clone();
        if before != after {
            self.batch.note_holes(slot, row, before, after);
        }
    }

    /// The holes of the host of the record taken last, as they are known up to there.
    pub fn holes(&self, partition: i32) -> Option<Arc<Holes>> {
        let task = self.tasks.get(&partition)?;
        task.hosts.get(task.last)?.holes.clone()
    }

    /// The holes of a slot that are known up to a row of the batch.
    pub fn holes_until(&self, slot: i64, row: u32) -> Option<Arc<Holes>> {
        let Some(steps) = self.batch.hole_steps.get(&slot) else {
            return self.owner(slot).holes;
        };
        let past = steps.partition_point(|(at, _)| *at <= row);
        steps[past.saturating_sub(1)].1.clone()
    }

    /// The latest second that a partition was heard in, of ingest.
    pub fn second(&self, partition: i32) -> i64 {
        let task = self.tasks.get(&partition);
        task.and_then(|task| task.second).unwrap_or(0)
    }

    /// Whose time a slot is.
    pub fn owner(&self, slot: i64) -> SlotOwner {
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

    /// The slots of a partition that are alive, each with its host's time and what silence has closed.
    pub fn slots(&self, partition: i32) -> HashMap<i64, (i64, i64)> {
        let hosts = self
            .tasks
            .get(&partition)
            .into_iter()
            .flat_map(|task| &task.hosts);
        hosts
            .map(|host| (slot(partition, host.slot), (host.high, host.flush_high)))
            .collect()
    }

    /// The latest time of a task: the broker's, or its hosts' where there is none.
    pub fn latest(&self, partition: i32) -> Option<i64> {
        let task = self.tasks.get(&partition)?;
        let second = task.second.map(|second| second.saturating_mul(SECOND_NS));
        second.or_else(|| self.latest_high(partition))
    }

    /// The latest of the times of a task's hosts.
    pub fn latest_high(&self, partition: i32) -> Option<i64> {
        let task = self.tasks.get(&partition)?;
        task.hosts.iter().map(|host| host.high).max()
    }

    /// The time of a slot's host.
    pub fn high(&self, slot: i64) -> i64 {
        self.host(slot).map_or(i64::MIN, |host| host.high)
    }

    /// The host whose time a slot is now.
    fn host(&self, slot: i64) -> Option<&Host> {
        let task = self.tasks.get(&partition_of(slot))?;
        task.hosts.get(*task.by_slot.get(&(slot as u32))?)
    }

    /// The partitions that were heard of.
    pub fn partitions(&self) -> Vec<i32> {
        let mut partitions: Vec<i32> = self.tasks.keys().copied().collect();
        partitions.sort_unstable();
        partitions
    }

    /// Forgets a partition that is no longer this engine's.
    pub fn forget(&mut self, partition: i32) {
        self.tasks.remove(&partition);
    }

    /// What changed in a task since the last call, and the pieces that are to be written anew.
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn store(
        &mut self,
        partition: i32,
        renewal: &Renewal,
    ) -> serde_json::Result<Vec<StateRecord>> {
        let Some(task) = self.tasks.get_mut(&partition) else {
            return Ok(Vec::new());
        };
        let name = |piece: usize| format!("{HOSTS}{piece:06}");
        let anew = renewal.below(HOSTS);
        task.changed
            .extend(anew.filter_map(|piece| piece.parse::<usize>().ok()));
        let mut pieces: Vec<&[Host]> = task.hosts.chunks(HOSTS_PER_PIECE).collect();
        let count = pieces.len();
        // Fewer than before: those beyond are over.
        pieces.resize(count.max(task.pieces), &[]);
        let stored = StoredTask {
            second: task.second,
            next_slot: task.next_slot,
            records: task.records,
            forgotten_high: task.forgotten_high,
            forgotten: task.forgotten,
            told: task.told,
        };
        let mut records = vec![StateRecord {
            key: TASK.to_owned(),
            value: Some(serde_json::to_vec(&stored)?),
        }];
        for (piece, hosts) in pieces.into_iter().enumerate() {
            let over = piece >= count;
            if over || task.changed.contains(&piece) {
                let value = (!over).then(|| serde_json::to_vec(hosts)).transpose()?;
                let key = name(piece);
                records.push(StateRecord { key, value });
            }
        }
        task.changed.clear();
        task.pieces = count;
        Ok(records)
    }

    /// Takes a stored task back, out of its state.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(&mut self, partition: i32, state: &mut State) -> serde_json::Result<()> {
        let mut task = Task::default();
        if let Some(stored) = state.remove(TASK) {
            let stored: StoredTask = serde_json::from_slice(&stored)?;
            task = Task {
                second: stored.second,
                next_slot: stored.next_slot,
                records: stored.records,
                forgotten_high: stored.forgotten_high,
                forgotten: stored.forgotten,
                told: stored.told,
                ..task
            };
        }
        for (_, hosts) in take_below(state, HOSTS) {
            let hosts: Vec<Host> = serde_json::from_slice(&hosts)?;
            task.hosts.extend(hosts);
            task.pieces += 1;
        }
        task.index();
        self.tasks.insert(partition, task);
        Ok(())
    }

    /// The host of the record taken last, to be changed.
    fn last_host(&mut self, partition: i32) -> Option<&mut Host> {
        let task = self.tasks.get_mut(&partition)?;
        let last = task.last;
        task.changed.insert(last / HOSTS_PER_PIECE);
        task.hosts.get_mut(last)
    }
}

/// The time that windows go by, and whether it is not the row's own: the event's, or the broker's where that is earlier,
/// and the broker's where the event's is too far from it. Without a broker's the event's, where it is a time at all.
fn window_time(heard: &Heard<'_>, clock_error_max_ns: i64) -> (i64, bool) {
    match heard.ingest_ts {
        Some(ingest) => {
            let ingest = ingest.clamp(0, TIME_MAX_NS);
            let apart = heard.ts.saturating_sub(ingest).saturating_abs();
            if apart > clock_error_max_ns || heard.ts < 0 {
                return (ingest, true);
            }
            (heard.ts.min(ingest), false)
        }
        None => {
            let time = heard.ts.clamp(0, TIME_MAX_NS);
            (time, time != heard.ts)
        }
    }
}

fn slot(partition: i32, number: u32) -> i64 {
    (i64::from(partition) << 32) | i64::from(number)
}

/// Name of the stretch of a host's time that begins with a record.
fn segment(heard: &Heard<'_>) -> Text {
    format!("{}/{}", heard.sensor_run, heard.seq).into()
}

impl Task {
    /// The place of a host.
    fn find(&self, host_id: &str) -> Option<usize> {
        let last = self.hosts.get(self.last);
        match last.is_some_and(|host| &*host.host_id == host_id) {
            true => Some(self.last),
            false => self.by_id.get(host_id).copied(),
        }
    }

    fn index(&mut self) {
        let places = self.hosts.iter().enumerate();
        self.by_id = places
            .map(|(index, host)| (host.host_id.clone(), index))
            .collect();
        let places = self.hosts.iter().enumerate();
        self.by_slot = places.map(|(index, host)| (host.slot, index)).collect();
        self.last = 0;
        self.residents = self.hosts.iter().filter(|host| host.resident).count();
    }

    /// Closes the windows of hosts that were silent for too long; looked at once a second of ingest time.
    fn close_silent(&mut self, heard: &Heard<'_>, host_silence_ns: i64, ends: &mut Vec<End>) {
        let Some(ingest) = heard.ingest_ts else {
            return;
        };
        let second = ingest.div_euclid(SECOND_NS);
        if self.second.is_some_and(|last| second <= last) {
            return;
        }
        self.second = Some(second);
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let silent = host
                .ingest
                .is_some_and(|last| ingest.saturating_sub(last) > host_silence_ns);
            if silent && !host.flushed {
                host.flushed = true;
                host.flush_high = host.high;
                self.changed.insert(index / HOSTS_PER_PIECE);
                ends.push(End {
                    row: heard.row,
                    slot: slot(heard.partition, host.slot),
                    kind: EndKind::Silence {
                        flush_high: host.high,
                    },
                });
            }
        }
    }
}
