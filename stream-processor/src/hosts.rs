//! What a task knows of its log: each host's time, its sensor's runs, and what these say is lost.
//!
//! ```text
//! record ─► repeated? ─► silence of other hosts ─► clock stepped back? ─► the host's time before it, and after it
//! ```
//! It is a function of the log alone, so it can be stored with the offsets and comes out the same on a replay, however the
//! log is cut. Time is per host: a host that drains its backlog is late for nobody. A row's time is its event time, or the
//! broker's where that is earlier: a clock that runs ahead opens no window in the future.
//! Its size is bounded: of more than [`HOSTS_MAX`] hosts the half not heard of for longest is forgotten, of more than
//! [`RUNS_MAX`] runs of a host's sensors the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::HashMap;
use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Renewal, State, StateRecord, take_below};

/// Times of windows lie between 1970 and 2200: sums with any length of a window stay whole numbers.
const TIME_MAX_NS: i64 = 7_258_118_400_000_000_000;
/// How far an event's time may be from the broker's, either way, before the clock counts as broken.
pub(crate) const CLOCK_ERROR_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most hosts remembered for a partition.
const HOSTS_MAX: usize = 16_384;
/// Most runs of sensors remembered for a host: with two sensors under one host id, both are.
const RUNS_MAX: usize = 8;
/// A sensor's new run that begins this far behind its host's time began after the clock was put back, nanoseconds.
const RESTART_STEP_NS: i64 = 1_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
/// What the names of stored hosts begin with.
const HOSTS: &str = "hosts/";
/// Hosts in a stored piece: it is written when one of them was heard of.
const HOSTS_PER_PIECE: usize = 64;
/// Name of what is stored of a task beside its hosts.
const TASK: &str = "task";

/// Most holes remembered for a host's timeline; beyond them the two that are closest become one.
const HOLES_MAX: usize = 16;
/// How long before a mark the events may be that it is the first to count as lost, of classes that are known late: the time
/// that a client may take to give a record up, with room.
const KNOWN_LATE_NS: i64 = 600 * SECOND_NS;
/// The classes that are known late.
const KNOWN_LATE: [&str; 1] = ["delivery_failed"];
/// A mark may tell of losses after its time.
const KNOWN_EARLY_NS: i64 = SECOND_NS;

/// Events lost, by class.
pub(crate) type Losses = BTreeMap<Text, i64>;

/// A range of a host's time in which events are lost, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hole {
    from: i64,
    to: i64,
    lost: Losses,
}

/// Where events of a host are lost, in the order of their beginnings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holes(Vec<Hole>);

impl Holes {
    /// What is lost, at most, from one time to before another.
    pub fn between(&self, start: i64, end: i64) -> Losses {
        let mut losses = Losses::new();
        let own = self
            .0
            .iter()
            .filter(|hole| hole.from < end && hole.to >= start);
        for (class, count) in own.flat_map(|hole| &hole.lost) {
            *losses.entry(class.clone()).or_default() += count;
        }
        losses
    }

    fn add(&mut self, hole: Hole) {
        if hole.lost.is_empty() {
            return;
        }
        let place = self.0.partition_point(|other| other.from <= hole.from);
        self.0.insert(place, hole);
        if self.0.len() <= HOLES_MAX {
            return;
        }
        let gap = |pair: &usize| {
            let (left, right) = (&self.0[*pair], &self.0[*pair + 1]);
            right.from.saturating_sub(left.to)
        };
        if let Some(pair) = (0..HOLES_MAX).min_by_key(gap) {
            let right = self.0.remove(pair + 1);
            let left = &mut self.0[pair];
            left.to = left.to.max(right.to);
            for (class, count) in right.lost {
                *left.lost.entry(class).or_default() += count;
            }
        }
    }
}

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
    /// What ended since it was last asked.
    ends: Vec<End>,
    /// Slots that ended before: their windows are fired now, nobody asks for them again.
    past: HashMap<i64, SlotOwner>,
    /// Where the batch found holes, by slot: rows, the first of which stands for what was known before.
    hole_steps: HashMap<i64, Vec<HoleStep>>,
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
}

#[derive(Debug, Serialize, Deserialize)]
struct Host {
    host_id: Text,
    host_name: Text,
    slot: u32,
    segment: Text,
    high: i64,
    flush_high: i64,
    ingest: Option<i64>,
    flushed: bool,
    offset: i64,
    runs: Vec<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holes: Option<Arc<Holes>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    sensor_run: Text,
    seq: i64,
    offset: i64,
    /// What it says is lost so far.
    #[serde(default, skip_serializing_if = "Losses::is_empty")]
    losses: Losses,
    /// Up to when its losses are known: the time of its last mark, or of its first row.
    #[serde(default)]
    known_to: i64,
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
            ends: Vec::new(),
            past: HashMap::new(),
            hole_steps: HashMap::new(),
        }
    }

    /// Begins a batch: what ended in the one before is settled.
    pub fn begin_batch(&mut self) {
        self.past.clear();
        self.ends.clear();
        self.hole_steps.clear();
    }

    /// What ended in this batch, by row.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Takes the next record of a partition.
    pub fn take(&mut self, heard: &Heard<'_>) -> Place {
        let task = self.tasks.entry(heard.partition).or_default();
        let index = task.host(heard, &mut self.past, &mut self.ends);
        let run = task.hosts[index].run(heard.sensor_run);
        if run.is_some_and(|run| task.hosts[index].runs[run].repeats(heard)) {
            return Place::Repeated;
        }
        task.close_silent(heard, self.host_silence_ns, &mut self.ends);
        task.changed.insert(index / HOSTS_PER_PIECE);
        let (time, clock_replaced) = window_time(heard, self.clock_error_max_ns);
        let host = &mut task.hosts[index];
        let second = heard.ingest_ts.unwrap_or(time).div_euclid(SECOND_NS);
        task.second = task.second.max(Some(second));
        let now = slot(heard.partition, host.slot);
        let back = if heard.clock_step {
            time < host.high
        } else {
            run.is_none() && time < host.high.saturating_sub(RESTART_STEP_NS)
        };
        let missing = host.count(heard, run, time);
        if back {
            self.past.insert(now, host.owner());
            self.ends.push(End {
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
            host.segment = format!("{}/{}", heard.sensor_run, heard.seq).into();
            (host.high, host.flush_high) = (i64::MIN, i64::MIN);
            host.holes = None;
            // In the new time nobody knows where the losses are that come to light next.
            let runs = host.runs.iter_mut();
            runs.for_each(|run| run.known_to = i64::MIN);
        }
        let high = host.high;
        host.high = high.max(time);
        host.offset = heard.offset;
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
            let steps = self.hole_steps.entry(slot).or_default();
            if steps.is_empty() {
                steps.push((0, before));
            }
            steps.push((row, after));
        }
    }

    /// The holes of the host of the record taken last, as they are known up to there.
    pub fn holes(&self, partition: i32) -> Option<Arc<Holes>> {
        let task = self.tasks.get(&partition)?;
        task.hosts.get(task.last)?.holes.clone()
    }

    /// The holes of a slot that are known up to a row of the batch.
    pub fn holes_until(&self, slot: i64, row: u32) -> Option<Arc<Holes>> {
        let Some(steps) = self.hole_steps.get(&slot) else {
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
        if let Some(owner) = self.past.get(&slot) {
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
            (task.second, task.next_slot) = (stored.second, stored.next_slot);
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

impl Task {
    /// The place of the record's host.
    fn host(
        &mut self,
        heard: &Heard<'_>,
        past: &mut HashMap<i64, SlotOwner>,
        ends: &mut Vec<End>,
    ) -> usize {
        let known = self.hosts.get(self.last);
        if known.is_none_or(|host| &*host.host_id != heard.host_id) {
            self.last = match self.by_id.get(heard.host_id) {
                Some(index) => *index,
                None => self.add(heard, past, ends),
            };
        }
        self.last
    }

    fn add(
        &mut self,
        heard: &Heard<'_>,
        past: &mut HashMap<i64, SlotOwner>,
        ends: &mut Vec<End>,
    ) -> usize {
        if self.hosts.len() >= HOSTS_MAX {
            self.forget_half(heard, past, ends);
        }
        let index = self.hosts.len();
        self.hosts.push(Host {
            host_id: heard.host_id.into(),
            host_name: Text::default(),
            slot: self.next_slot,
            segment: Text::default(),
            high: i64::MIN,
            flush_high: i64::MIN,
            ingest: None,
            flushed: false,
            offset: heard.offset,
            runs: Vec::new(),
            holes: None,
        });
        self.by_slot.insert(self.next_slot, index);
        self.next_slot += 1;
        self.by_id.insert(heard.host_id.into(), index);
        index
    }

    /// Forgets the hosts not heard of for longest; their windows close.
    fn forget_half(
        &mut self,
        heard: &Heard<'_>,
        past: &mut HashMap<i64, SlotOwner>,
        ends: &mut Vec<End>,
    ) {
        let mut offsets: Vec<i64> = self.hosts.iter().map(|host| host.offset).collect();
        offsets.sort_unstable();
        let middle = offsets[offsets.len() / 2];
        for host in self.hosts.iter().filter(|host| host.offset < middle) {
            let slot = slot(heard.partition, host.slot);
            past.insert(slot, host.owner());
            ends.push(End {
                row: heard.row,
                slot,
                kind: EndKind::Silence {
                    flush_high: host.high,
                },
            });
        }
        self.hosts.retain(|host| host.offset >= middle);
        self.changed = (0..self.hosts.len().div_ceil(HOSTS_PER_PIECE)).collect();
        self.index();
    }

    fn index(&mut self) {
        let places = self.hosts.iter().enumerate();
        self.by_id = places
            .map(|(index, host)| (host.host_id.clone(), index))
            .collect();
        let places = self.hosts.iter().enumerate();
        self.by_slot = places.map(|(index, host)| (host.slot, index)).collect();
        self.last = 0;
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

impl Host {
    fn owner(&self) -> SlotOwner {
        SlotOwner {
            host_id: self.host_id.clone(),
            host_name: self.host_name.clone(),
            segment: self.segment.clone(),
            holes: self.holes.clone(),
        }
    }

    /// Takes what the last run says is lost so far: what is new of it is lost since it last said so.
    fn note_losses(&mut self, time: i64, losses: Losses) {
        let Some(run) = self.runs.last_mut() else {
            return;
        };
        let new = losses.iter().filter_map(|(class, count)| {
            let more = count.saturating_sub(run.losses.get(class).copied().unwrap_or(0));
            (more > 0).then(|| (class.clone(), more))
        });
        let is_late = |(class, _): &(Text, i64)| KNOWN_LATE.contains(&&**class);
        let (late, lost): (Losses, Losses) = new.partition(is_late);
        let (from, to) = (run.known_to.min(time), time.saturating_add(KNOWN_EARLY_NS));
        run.known_to = time;
        run.losses = losses;
        if late.is_empty() && lost.is_empty() {
            return;
        }
        let holes = Arc::make_mut(self.holes.get_or_insert_default());
        let from_late = from.saturating_sub(KNOWN_LATE_NS);
        holes.add(Hole { from, to, lost });
        holes.add(Hole {
            from: from_late,
            to,
            lost: late,
        });
    }

    fn run(&self, sensor_run: &str) -> Option<usize> {
        self.runs
            .iter()
            .rposition(|run| &*run.sensor_run == sensor_run)
    }

    /// Counts the record to its run, which becomes the last; returns how many are missing before it.
    fn count(&mut self, heard: &Heard<'_>, run: Option<usize>, time: i64) -> u64 {
        let Some(index) = run else {
            if self.runs.len() >= RUNS_MAX {
                self.runs.remove(0);
            }
            self.runs.push(Run {
                sensor_run: heard.sensor_run.into(),
                seq: heard.seq,
                offset: heard.offset,
                losses: Losses::new(),
                known_to: time,
            });
            return 0;
        };
        // The last heard of stands last, the others keep their order: the first is the one to forget.
        self.runs[index..].rotate_left(1);
        let last = self.runs.len() - 1;
        let run = &mut self.runs[last];
        let missing = if heard.offset > run.offset {
            heard.seq.abs_diff(run.seq) - 1
        } else {
            0
        };
        (run.seq, run.offset) = (heard.seq, heard.offset);
        missing
    }
}

impl Run {
    /// Whether the log has had the record before; a log that was wound back is read again.
    fn repeats(&self, heard: &Heard<'_>) -> bool {
        heard.offset > self.offset && heard.seq <= self.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = SECOND_NS;

    struct Log(Hosts);

    impl Log {
        fn new() -> Self {
            Self(Hosts::new(Duration::from_secs(600), CLOCK_ERROR_MAX))
        }

        /// Takes a record of partition 0; times in seconds.
        fn take(
            &mut self,
            offset: i64,
            host: &str,
            run: &str,
            seq: i64,
            ts: i64,
            ingest: i64,
        ) -> Place {
            self.heard(offset, host, run, seq, ts, ingest, false)
        }

        #[expect(clippy::too_many_arguments, reason = "a record in a line")]
        fn heard(
            &mut self,
            offset: i64,
            host: &str,
            run: &str,
            seq: i64,
            ts: i64,
            ingest: i64,
            step: bool,
        ) -> Place {
            self.0.take(&Heard {
                partition: 0,
                offset,
                row: offset as u32,
                host_id: host,
                sensor_run: run,
                seq,
                ts: ts * S,
                ingest_ts: Some(ingest * S),
                clock_step: step,
            })
        }
    }

    fn moment(place: Place) -> Moment {
        match place {
            Place::New { moment, .. } => moment,
            Place::Repeated => panic!("repeated"),
        }
    }

    #[test]
    fn what_was_sent_again_is_known_and_moves_nothing() {
        let mut log = Log::new();
        moment(log.take(0, "host", "a", 7, 10, 10));
        moment(log.take(1, "host", "a", 8, 11, 11));
        assert_eq!(log.take(2, "host", "a", 7, 99, 99), Place::Repeated);
        assert_eq!(log.take(3, "host", "a", 8, 99, 99), Place::Repeated);
        assert_eq!(moment(log.take(4, "host", "b", 0, 12, 12)).high, 11 * S);
        let Place::New { missing, .. } = log.take(5, "host", "a", 12, 13, 13) else {
            panic!("repeated")
        };
        assert_eq!(missing, 3);
    }

    #[test]
    fn time_is_the_hosts_own_and_never_the_future() {
        let mut log = Log::new();
        let year = 365 * 86_400;
        assert_eq!(moment(log.take(0, "a", "r", 0, year, 100)).time, 100 * S);
        assert_eq!(moment(log.take(1, "b", "r", 0, 40, 101)).high, i64::MIN);
        let next = moment(log.take(2, "a", "r", 1, 90, 102));
        assert_eq!(
            (next.high, next.time, next.high_after),
            (100 * S, 90 * S, 100 * S)
        );
    }

    #[test]
    fn a_step_back_begins_a_stretch_of_its_own() {
        let mut log = Log::new();
        let before = moment(log.take(0, "a", "r", 0, 100, 100));
        let after = moment(log.heard(1, "a", "r", 1, 40, 101, true));
        assert_ne!(before.slot, after.slot);
        assert_eq!(after.high, i64::MIN);
        assert_eq!(
            log.0.ends(),
            [End {
                row: 1,
                slot: before.slot,
                kind: EndKind::Step {
                    high: 40 * S,
                    next: after.slot
                }
            }]
        );
        assert_eq!(&*log.0.owner(before.slot).segment, "");
        assert_eq!(&*log.0.owner(after.slot).segment, "r/1");
        // A new sensor a second behind is no step, one far behind is.
        let run = moment(log.take(2, "a", "s", 0, 39, 102));
        assert_eq!(run.slot, after.slot);
        assert_ne!(moment(log.take(3, "a", "t", 0, 10, 103)).slot, after.slot);
    }

    #[test]
    fn a_silent_host_is_closed_once_by_the_others() {
        let mut log = Log::new();
        let silent = moment(log.take(0, "a", "r", 0, 100, 100));
        log.take(1, "b", "r", 0, 100, 100);
        log.take(2, "b", "r", 1, 700, 700);
        assert_eq!(log.0.ends(), []);
        log.take(3, "b", "r", 2, 701, 701);
        log.take(4, "b", "r", 3, 702, 702);
        let kind = EndKind::Silence {
            flush_high: 100 * S,
        };
        assert_eq!(
            log.0.ends(),
            [End {
                row: 3,
                slot: silent.slot,
                kind
            }]
        );
        assert_eq!(
            moment(log.take(5, "a", "r", 1, 101, 703)).flush_high,
            100 * S
        );
    }

    #[test]
    fn of_many_runs_the_one_not_heard_of_for_longest_is_forgotten() {
        let mut log = Log::new();
        let runs = ["0", "1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(runs.len(), RUNS_MAX);
        for (offset, run) in (0..).zip(runs) {
            log.take(offset, "a", run, 5, 100, 100);
        }
        log.take(8, "a", "0", 6, 100, 100);
        log.take(9, "a", "8", 0, 100, 100);
        for (offset, run) in (10..).zip(["0", "7", "6", "2"]) {
            assert_eq!(
                log.take(offset, "a", run, 5, 100, 100),
                Place::Repeated,
                "{run}"
            );
        }
        assert_ne!(log.take(20, "a", "1", 5, 100, 100), Place::Repeated);
    }

    /// The state after it was stored once more.
    fn stored(log: &mut Log, mut state: State, renewal: &Renewal) -> State {
        for record in log.0.store(0, renewal).expect("stored") {
            match record.value {
                Some(value) => drop(state.insert(record.key, value)),
                None => drop(state.remove(&record.key)),
            }
        }
        state
    }

    #[test]
    fn only_pieces_whose_hosts_were_heard_of_are_written() {
        let mut log = Log::new();
        let hosts = 3 * HOSTS_PER_PIECE as i64;
        for offset in 0..hosts {
            log.take(offset, &offset.to_string(), "r", 0, 100, 100);
        }
        let names = |log: &mut Log, renewal: &[&str]| -> Vec<String> {
            let names = renewal.iter().map(|name| (*name).to_owned()).collect();
            let records = log.0.store(0, &Renewal::new(names, 1)).expect("stored");
            records.into_iter().map(|record| record.key).collect()
        };
        let all = ["task", "hosts/000000", "hosts/000001", "hosts/000002"];
        assert_eq!(names(&mut log, &[]), all);
        assert_eq!(names(&mut log, &[]), ["task"]);
        log.take(hosts, "64", "r", 1, 100, 100);
        assert_eq!(names(&mut log, &[]), ["task", "hosts/000001"]);
        assert_eq!(names(&mut log, &["hosts/000002"]), ["task", "hosts/000002"]);
        // Silence changes them all.
        log.take(hosts + 1, "64", "r", 2, 900, 900);
        assert_eq!(names(&mut log, &[]), all);
    }

    #[test]
    fn a_stored_task_goes_on_where_it_was() {
        let mut log = Log::new();
        for (offset, host) in [(0, "a"), (1, "b"), (2, "c")] {
            log.take(offset, host, "r", 5, 100, 100);
        }
        log.0
            .note_losses(0, 2, 100 * S, Losses::from([("ring_full".into(), 3)]));
        let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
        let mut again = Log::new();
        again.0.restore(0, &mut state).expect("restored");
        assert_eq!(again.take(3, "c", "r", 5, 101, 101), Place::Repeated);
        let holes = again.0.holes(0).expect("a hole");
        assert_eq!(holes.between(100 * S, 101 * S)["ring_full"], 3);
        assert_eq!(again.0.second(0), 100);
        let new = moment(again.take(4, "d", "r", 0, 101, 101));
        assert_eq!(new.slot, 3);
        assert_eq!(
            [1, 3].map(|slot| again.0.owner(slot).host_id),
            ["b".into(), "d".into()]
        );
    }

    #[test]
    fn what_is_lost_is_known_at_every_row_of_a_batch() {
        let lost = |count| Losses::from([("ring_full".into(), count)]);
        let mut log = Log::new();
        let slot = moment(log.take(0, "a", "r", 0, 100, 100)).slot;
        log.0.note_losses(0, 0, 100 * S, lost(3));
        log.0.begin_batch();
        log.take(1, "a", "r", 1, 101, 101);
        log.take(2, "a", "s", 0, 102, 102);
        log.take(3, "a", "r", 2, 103, 103);
        log.0.note_losses(0, 3, 103 * S, lost(5));
        // The clock is put back under a new run: its time has no hole yet.
        let next = moment(log.take(4, "a", "t", 0, 40, 104)).slot;
        let until = |slot, row| {
            let holes = log.0.holes_until(slot, row);
            let losses = holes.map(|holes| holes.between(i64::MIN, i64::MAX));
            losses.map_or(0, |losses| losses["ring_full"])
        };
        assert_eq!([1, 2, 3, 4].map(|row| until(slot, row)), [3, 3, 5, 5]);
        assert_ne!(next, slot);
        assert_eq!(until(next, 4), 0);
    }

    #[test]
    fn a_window_misses_what_was_lost_in_it_and_nothing_else() {
        let mut log = Log::new();
        let mut marks = 0;
        let mut mark = |at: i64, class: &str, count: i64| {
            log.take(marks, "a", "r", marks, at, at);
            log.0.note_losses(
                0,
                marks as u32,
                at * S,
                Losses::from([(class.into(), count)]),
            );
            marks += 1;
            let holes = log.0.holes(0).unwrap_or_default();
            move |from: i64, to: i64| holes.between(from * S, to * S).into_values().sum::<i64>()
        };
        let _ = mark(100, "ring_full", 0);
        let _ = mark(110, "ring_full", 5);
        let lost = mark(120, "ring_full", 5);
        assert_eq!(
            [
                lost(60, 100),
                lost(60, 101),
                lost(105, 106),
                lost(111, 120),
                lost(112, 120)
            ],
            [0, 5, 5, 5, 0]
        );
        // What the brokers did not take may be minutes old.
        let _ = mark(1_000, "ring_full", 5);
        let lost = mark(1_001, "delivery_failed", 2);
        assert_eq!(
            [lost(390, 400), lost(390, 401), lost(1_003, 1_010)],
            [0, 2, 0]
        );
        // A sensor that loses all the time has few holes, which hide nothing.
        let mut lost = lost;
        for at in 0..1_000 {
            lost = mark(2_000 + 10 * at, "ring_full", 6 + at);
        }
        assert_eq!(log.0.holes(0).expect("holes").0.len(), HOLES_MAX);
        assert_eq!(lost(0, 20_000), 5 + 2 + 1_005);
        assert!(lost(5_000, 5_010) > 0);
        assert_eq!(lost(112, 390), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut log = Log::new();
        for offset in 0..3 * HOSTS_MAX as i64 {
            let host = offset.to_string();
            let slot = moment(log.take(offset, &host, "a", 0, 1, 1)).slot;
            assert_eq!(*log.0.owner(slot).host_id, *host);
            assert!(log.0.tasks[&0].hosts.len() <= HOSTS_MAX);
        }
        let last = 3 * HOSTS_MAX as i64 - 1;
        assert_eq!(
            log.take(last + 1, &last.to_string(), "a", 0, 1, 1),
            Place::Repeated
        );
    }
}
