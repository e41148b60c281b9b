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

/// Events lost, by class.
pub(crate) type Losses = BTreeMap<Text, i64>;

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
    /// What the host's last run of a sensor said is lost.
    pub losses: Option<Arc<Losses>>,
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
    /// Where the batch changed what is lost, by slot: rows, the first of which stands for what was before.
    loss_steps: HashMap<i64, Vec<LossStep>>,
}

/// What is lost from a row on.
type LossStep = (u32, Option<Arc<Losses>>);

#[derive(Debug, Default)]
struct Task {
    hosts: Vec<Host>,
    by_id: HashMap<Text, usize>,
    by_slot: HashMap<u32, usize>,
    /// The latest second of ingest.
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
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    sensor_run: Text,
    seq: i64,
    offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    losses: Option<Arc<Losses>>,
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
            loss_steps: HashMap::new(),
        }
    }

    /// Begins a batch: what ended in the one before is settled.
    pub fn begin_batch(&mut self) {
        self.past.clear();
        self.ends.clear();
        self.loss_steps.clear();
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
        let now = slot(heard.partition, host.slot);
        let back = if heard.clock_step {
            time < host.high
        } else {
            run.is_none() && time < host.high.saturating_sub(RESTART_STEP_NS)
        };
        if back {
            // Before the record is counted: what its run says is lost is not of the stretch that ends.
            self.past.insert(now, host.owner());
        }
        let before = (!host.is_last(run)).then(|| host.losses());
        let missing = host.count(heard, run);
        if back {
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
        } else if let Some(before) = before {
            note_loss_step(&mut self.loss_steps, now, heard.row, before, host.losses());
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

    /// Notes what the run of the record taken last, of this row, says is lost so far.
    pub fn note_losses(&mut self, partition: i32, row: u32, losses: Losses) {
        let Some(host) = self.last_host(partition) else {
            return;
        };
        let (slot, before) = (slot(partition, host.slot), host.losses());
        if let Some(run) = host.runs.last_mut() {
            run.losses = (!losses.is_empty()).then(|| Arc::new(losses));
        }
        let after = host.losses();
        note_loss_step(&mut self.loss_steps, slot, row, before, after);
    }

    /// What the run of the record taken last said is lost, up to there.
    pub fn losses(&self, partition: i32) -> Option<Arc<Losses>> {
        let task = self.tasks.get(&partition)?;
        task.hosts.get(task.last)?.losses()
    }

    /// What the last run of a slot's host said is lost up to a row of the batch: its windows are incomplete.
    pub fn losses_until(&self, slot: i64, row: u32) -> Option<Arc<Losses>> {
        let Some(steps) = self.loss_steps.get(&slot) else {
            return self.owner(slot).losses;
        };
        let past = steps.partition_point(|(at, _)| *at <= row);
        steps[past.saturating_sub(1)].1.clone()
    }

    /// Whose time a slot is.
    pub fn owner(&self, slot: i64) -> SlotOwner {
        if let Some(owner) = self.past.get(&slot) {
            return owner.clone();
        }
        let task = self.tasks.get(&partition_of(slot));
        let host = task.and_then(|task| task.hosts.get(*task.by_slot.get(&(slot as u32))?));
        host.map(Host::owner).unwrap_or_else(|| SlotOwner {
            host_id: Text::default(),
            host_name: Text::default(),
            segment: Text::default(),
            losses: None,
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
        second.or_else(|| task.hosts.iter().map(|host| host.high).max())
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

fn note_loss_step(
    loss_steps: &mut HashMap<i64, Vec<LossStep>>,
    slot: i64,
    row: u32,
    before: Option<Arc<Losses>>,
    after: Option<Arc<Losses>>,
) {
    if before == after {
        return;
    }
    let steps = loss_steps.entry(slot).or_default();
    if steps.is_empty() {
        steps.push((0, before));
    }
    steps.push((row, after));
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
            losses: self.losses(),
        }
    }

    /// What the last run said is lost.
    fn losses(&self) -> Option<Arc<Losses>> {
        self.runs.last()?.losses.clone()
    }

    fn run(&self, sensor_run: &str) -> Option<usize> {
        self.runs
            .iter()
            .rposition(|run| &*run.sensor_run == sensor_run)
    }

    /// Whether this is the run heard of last.
    fn is_last(&self, run: Option<usize>) -> bool {
        run.is_some_and(|run| run + 1 == self.runs.len())
    }

    /// Counts the record to its run, which becomes the last; returns how many are missing before it.
    fn count(&mut self, heard: &Heard<'_>, run: Option<usize>) -> u64 {
        let Some(index) = run else {
            if self.runs.len() >= RUNS_MAX {
                self.runs.remove(0);
            }
            self.runs.push(Run {
                sensor_run: heard.sensor_run.into(),
                seq: heard.seq,
                offset: heard.offset,
                losses: None,
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
            .note_losses(0, 2, Losses::from([("ring_full".into(), 3)]));
        let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
        let mut again = Log::new();
        again.0.restore(0, &mut state).expect("restored");
        assert_eq!(again.take(3, "c", "r", 5, 101, 101), Place::Repeated);
        assert_eq!(
            again
                .0
                .losses(0)
                .and_then(|losses| losses.get("ring_full").copied()),
            Some(3)
        );
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
        log.0.note_losses(0, 0, lost(3));
        log.0.begin_batch();
        log.take(1, "a", "r", 1, 101, 101);
        log.take(2, "a", "s", 0, 102, 102);
        log.take(3, "a", "r", 2, 103, 103);
        log.0.note_losses(0, 3, lost(5));
        // The clock is put back under a new run, which knows of no loss.
        let next = moment(log.take(4, "a", "t", 0, 40, 104)).slot;
        let until = |slot, row| {
            let losses = log.0.losses_until(slot, row);
            losses.map_or(0, |losses| losses["ring_full"])
        };
        assert_eq!([1, 2, 3, 4].map(|row| until(slot, row)), [3, 0, 5, 5]);
        assert_ne!(next, slot);
        assert_eq!(until(next, 4), 0);
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
