//! Detections over windows: partial aggregates a pane, finished when a host's time has passed the window.
//!
//! ```text
//! rows ─► WHERE of each detection ─► panes of their group ─► states (partial, merged) ─► window over: HAVING, SELECT ─► words
//! ```
//! Detections with equal keys, delay and slide are one group: they share panes, keys and equal aggregates. A window is
//! made of panes as long as its slide, so hopping windows share them.
//! A window closes by its host's own time (`hosts` says it for each row), never by a clock; what is said does not
//! depend on how the log is cut into batches. There is no input or output here.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{HashMap, Result};
use dogwatch_schemas::Text;
use serde_json::{Map, Value};

use crate::checkpoint::{Renewal, State, StateRecord};
use crate::config::STATE_BYTES;
use crate::detect::{DetectionSet, Routes, Unjudged, guarded};
use crate::hosts::{CLOCK_ERROR_MAX, End, Moment, Tick};
use crate::parallel::{cores, side_by_side};
use crate::tables::Table;

mod bound;
mod conditions;
mod early;
mod fired;
mod fleet;
mod group;
#[cfg(test)]
mod laws;
mod pane;
mod piece;
mod plans;
mod room;
mod shard;
mod store;

pub use bound::{Bound, Travels, bounds};
pub use fleet::{Exchange, Flushed};
pub(crate) use fleet::{FirstRow, FleetRows, FleetTold, Received, topic_of};
pub(crate) use room::second_bytes;

use conditions::Conditions;
use fleet::Fleet;
use group::Group;
use plans::Workbench;
use room::Fill;

/// What windows may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// A host not heard of for so long, of its partition's ingest time, has its windows closed.
    pub host_silence: Duration,
    /// A row whose time is further from the broker's, either way, has the broker's in windows.
    pub clock_error_max: Duration,
    /// Most keys a group of detections counts in one task and pane.
    pub keys_max: usize,
    /// Most bytes that the states of one task's windows may take.
    pub state_bytes_max: u64,
    /// Most memory that queries may take together, beside the states they keep, bytes.
    pub memory_bytes_max: usize,
    /// How long windows of the fleet wait for the slowest host, of its partition's ingest time.
    pub fleet_patience: Duration,
    /// Where the records between the two stages of windows of the fleet go.
    pub exchange: Exchange,
}

/// Windows over a table of samples may take one in so many of the bytes of those over events: of a container they count what it
/// uses, where events count each program and file.
const SAMPLES_PART: u64 = 3;

impl WindowOptions {
    /// Those of windows over a table, where these are of events.
    #[must_use]
    pub fn of_table(self, table: Table) -> Self {
        let part = match table {
            Table::Events => 1,
            _ => SAMPLES_PART,
        };
        Self {
            state_bytes_max: self.state_bytes_max / part,
            ..self
        }
    }
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self {
            host_silence: Duration::from_secs(600),
            clock_error_max: CLOCK_ERROR_MAX,
            keys_max: 100_000,
            state_bytes_max: STATE_BYTES,
            memory_bytes_max: 512 << 20,
            fleet_patience: Duration::from_secs(10),
            exchange: Exchange::Inside,
        }
    }
}

/// A row that detections may see, and its place in its host's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// Its row in the batch.
    pub row: u32,
    pub moment: Moment,
}

/// What a window has to say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Word {
    /// The row of the batch that made it speak.
    pub row: u32,
    /// Whether it is over, or only has crossed its threshold.
    pub closed: bool,
    /// The detection's place in the set.
    pub detection: usize,
    pub slot: i64,
    pub start: i64,
    pub end: i64,
    /// What the rows were grouped by, as one compact JSON array.
    pub keys: String,
    /// The keys that are plain columns, by name.
    pub columns: Map<String, Value>,
    /// What the SELECT yields.
    pub values: Map<String, Value>,
    /// Whether a step of the clock closed it.
    pub stepped: bool,
    /// Rows not counted because the cap on keys was reached.
    pub overflow: u64,
    /// Time of its last row, nanoseconds.
    pub last_time: i64,
    /// The content of its detection under which it fired before it was over; none where it did not.
    pub fired_under: Option<Text>,
    /// Rows not counted because its detections were switched off.
    pub skipped: u64,
    /// Why HAVING or SELECT could not be computed; the values are the keys and aggregates then.
    pub error: Option<String>,
    /// What a window of the fleet says beside.
    pub fleet: Option<Box<FleetTold>>,
}

/// A group of detections that has as many keys in a pane as it may, or whose keys went for want of room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overflow {
    /// The first row that was not counted.
    pub row: u32,
    pub slot: i64,
    /// The detections of the group, by place in the set.
    pub detections: Vec<usize>,
    pub start: i64,
    pub end: i64,
    /// How many bytes the task's windows may take, where keys went for want of that; none where a pane has too many keys.
    pub bytes: Option<u64>,
}

/// Detections that share their state and are switched off for a while, because an operator failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwitchedOff {
    /// The row after which they are.
    pub row: u32,
    /// The host, or one of the task's.
    pub slot: i64,
    /// Whether they are off for that host alone.
    pub of_host: bool,
    /// By place in the set.
    pub detections: Vec<usize>,
    /// The host's time then, nanoseconds.
    pub time: i64,
    /// The time of rows from which on they count again.
    pub until: i64,
    pub error: String,
}

/// What a row was too late for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The detections, by place in the set.
    pub detections: Vec<usize>,
    /// How far its host's time had passed it, nanoseconds.
    pub late_ns: i64,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct WindowOutput {
    pub words: Vec<Word>,
    pub overflows: Vec<Overflow>,
    /// By row of the batch.
    pub late: BTreeMap<u32, Missed>,
    /// Rows that detections could not judge.
    pub unjudged: Vec<Unjudged>,
    pub off: Vec<SwitchedOff>,
    /// How far the whole fleet is after rows, as tasks of the fleet know it.
    pub fleet_times: Vec<(u32, i32, i64)>,
    /// Records for the exchange.
    pub exchange: Vec<Flushed>,
}

impl WindowOutput {
    /// Adds what came of other groups.
    fn append(&mut self, other: Self) {
        self.words.extend(other.words);
        self.overflows.extend(other.overflows);
        self.unjudged.extend(other.unjudged);
        self.off.extend(other.off);
        self.fleet_times.extend(other.fleet_times);
        self.exchange.extend(other.exchange);
        for (row, missed) in other.late {
            let known = self.late.entry(row).or_default();
            known.detections.extend(missed.detections);
            known.late_ns = known.late_ns.max(missed.late_ns);
        }
    }
}

/// How far times got in a batch, such as each host's by slot: rows and the time after each.
#[derive(Debug)]
pub(crate) struct Progress<K = i64>(HashMap<K, Vec<(u32, i64)>>);

impl<K> Default for Progress<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Ord + Hash> Progress<K> {
    /// Notes that a time is `high` after a row.
    pub fn note(&mut self, row: u32, of: K, high: i64) {
        let steps = self.0.entry(of).or_default();
        if steps.last().is_none_or(|(_, last)| high > *last) {
            steps.push((row, high));
        }
    }

    /// A time after a row; none when it had not gone on by then.
    pub fn at(&self, of: K, row: u32) -> Option<i64> {
        let steps = self.0.get(&of)?;
        let past = steps.partition_point(|(at, _)| *at <= row);
        Some(steps.get(past.checked_sub(1)?)?.1)
    }

    /// The times that went on, each as it is at last.
    pub fn highs(&self) -> Vec<(K, i64)> {
        let mut highs: Vec<(K, i64)> = self
            .0
            .iter()
            .filter_map(|(of, steps)| Some((*of, steps.last()?.1)))
            .collect();
        highs.sort_unstable();
        highs
    }

    /// Whose times went on.
    pub fn slots(&self) -> impl Iterator<Item = K> {
        self.0.keys().copied()
    }

    /// The first row below `before` after which a time is at least `high`.
    pub fn reaches(&self, of: K, high: i64, before: u32) -> Option<u32> {
        let steps = self.0.get(&of)?;
        let (row, _) = steps.get(steps.partition_point(|(_, at)| *at < high))?;
        (*row < before).then_some(*row)
    }
}

/// A batch as windows see it.
pub(crate) struct Rows<'a> {
    pub batch: &'a RecordBatch,
    /// The shown rows by event type.
    pub routes: &'a Routes<'a>,
    pub shown: &'a [Shown],
    pub progress: &'a Progress,
    pub ends: &'a [End],
    pub fleet: FleetRows<'a>,
}

impl Rows<'_> {
    /// The last row of the batch.
    fn last(&self) -> u32 {
        (self.batch.num_rows() as u32).saturating_sub(1)
    }
}

/// From how many rows on conditions and groups run side by side: below, a thread costs more than it saves.
const PARALLEL_ROWS_MIN: usize = if cfg!(test) { 8 } else { 1024 };

/// All windows of an engine.
pub(crate) struct Windows {
    conditions: Conditions,
    groups: Vec<Placed>,
    fleet: Fleet,
    cores: usize,
    state_bytes_max: u64,
    /// How full tasks are, as far as it is known.
    fills: BTreeMap<i32, Fill>,
}

/// A group at a workbench of its own.
struct Placed {
    group: Group,
    workbench: Workbench,
}

impl Windows {
    /// Groups a set's detections over windows; `events` is the schema of the table.
    ///
    /// # Errors
    /// When the operators cannot be made.
    pub fn new(set: &DetectionSet, events: &SchemaRef, options: &WindowOptions) -> Result<Self> {
        let conditions = Conditions::new(set, events);
        let groups = group::arrange(set)
            .into_iter()
            .map(|members| {
                let workbench = Workbench::new(set.memory())?;
                let group = Group::new(
                    &workbench,
                    set,
                    &members,
                    &conditions,
                    events,
                    options.keys_max,
                )?;
                Ok(Placed { group, workbench })
            })
            .collect::<Result<Vec<_>>>()?;
        let second_bytes = room::second_bytes(options.state_bytes_max);
        let limits = (options.keys_max, second_bytes, options.exchange);
        let fleet = Fleet::new(set, &conditions, events, limits)?;
        Ok(Self {
            conditions,
            groups,
            fleet,
            cores: cores(),
            state_bytes_max: options.state_bytes_max,
            fills: BTreeMap::new(),
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.fleet.is_empty()
    }

    /// Whether any of them is of the fleet.
    pub fn any_of_fleet(&self) -> bool {
        !self.fleet.is_empty()
    }

    /// Names the partitions whose time windows of the fleet wait for.
    pub fn expect_sources(&mut self, partitions: &[i32]) {
        self.fleet.expect(partitions);
    }

    /// How far all partitions are, as a task of the fleet knows it.
    pub fn fleet_time(&self, task: i32) -> i64 {
        self.fleet.watermark(task)
    }

    /// For each partition that a task of the fleet waits for the end of its last second, nanoseconds, if it was heard of.
    pub fn fleet_sources(&self, task: i32) -> BTreeMap<i32, Option<i64>> {
        self.fleet.heard(task)
    }

    /// Says that a partition is seen from the beginning of its log on.
    pub fn begin(&mut self, partition: i32) {
        self.fleet.begin(partition);
    }

    /// Says that what was in a partition's log until now was passed over.
    pub fn begin_amid(&mut self, partition: i32) {
        self.fleet.begin_amid(partition);
    }

    /// Takes the next records of the exchange.
    pub fn receive(&mut self, set: &DetectionSet, records: &[Received]) -> WindowOutput {
        let mut output = WindowOutput::default();
        for record in records {
            self.fleet.receive(set, record, &mut output);
        }
        output
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// When an operator fails.
    pub fn step(&mut self, set: &DetectionSet, rows: &Rows<'_>) -> Result<WindowOutput> {
        let pays = rows.shown.len() >= PARALLEL_ROWS_MIN;
        let shares = if pays { self.cores } else { 1 };
        let matched = self.conditions.matched(set, rows, shares)?;
        let outputs = self.each_group(shares, |group, workbench| {
            let mut output = WindowOutput::default();
            let step = || group.step(workbench, set, rows, &matched.rows, &mut output);
            if let Err(error) = guarded(step) {
                group.switch_off(&rows.progress.highs(), rows.last(), &error, &mut output);
            }
            Ok(output)
        })?;
        let mut all = self.fleet.step(set, rows, (&matched.rows, shares))?;
        outputs.into_iter().for_each(|output| all.append(output));
        all.unjudged.extend(matched.unjudged);
        // A row that is late for one window and counts in another was looked at twice.
        all.unjudged
            .sort_by_key(|unjudged| (unjudged.row, unjudged.detection));
        all.unjudged
            .dedup_by_key(|unjudged| (unjudged.row, unjudged.detection));
        Ok(all)
    }

    /// Runs over all groups, in so many shares side by side; what comes of them is in their order.
    fn each_group<R: Send>(
        &mut self,
        shares: usize,
        run: impl Fn(&mut Group, &Workbench) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let groups_each = self.groups.len().div_ceil(shares).max(1);
        let run = |share: &mut [Placed]| -> Result<Vec<R>> {
            let placed = share.iter_mut();
            placed
                .map(|Placed { group, workbench }| run(group, workbench))
                .collect()
        };
        let shares: Result<Vec<Vec<R>>> = side_by_side(self.groups.chunks_mut(groups_each), run)
            .into_iter()
            .collect();
        Ok(shares?.into_iter().flatten().collect())
    }

    /// Closes every open window of some slots, at a row, and all of the fleet's after the last seconds of its partitions.
    ///
    /// # Errors
    /// When an operator fails.
    pub fn finish(
        &mut self,
        set: &DetectionSet,
        (slots, ticks): (&[i64], &[Tick]),
        row: u32,
    ) -> Result<WindowOutput> {
        let mut output = WindowOutput::default();
        self.fleet.finish(set, ticks, row, &mut output)?;
        for Placed { group, workbench } in &mut self.groups {
            group.finish(workbench, set, slots, row, &mut output)?;
        }
        Ok(output)
    }

    /// Forgets a partition that is no longer this engine's. What it said to the fleet is said.
    pub fn forget(&mut self, partition: i32) {
        self.fleet.forget(partition);
        self.forget_fill(partition);
        self.groups
            .iter_mut()
            .for_each(|placed| placed.group.forget(partition));
    }

    /// Whether a partition has open windows.
    pub fn waits(&self, partition: i32) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|placed| placed.group.waits(partition)) || self.fleet.waits()
    }

    /// Open panes, keys in them, bytes of their states.
    pub fn size(&self) -> (u64, u64, u64) {
        let sizes = self.groups.iter().map(|placed| placed.group.size());
        sizes.fold(self.fleet.size(), |sum, size| {
            (sum.0 + size.0, sum.1 + size.1, sum.2 + size.2)
        })
    }

    /// What changed in a partition since the last call, and the pieces that are to be written anew.
    ///
    /// # Errors
    /// When states cannot be merged or written.
    pub fn store(&mut self, partition: i32, renewal: &Renewal) -> Result<Vec<StateRecord>> {
        let records = self.each_group(self.cores, |group, workbench| {
            group.store(workbench, partition, renewal)
        })?;
        let fleet = self.fleet.store(partition, renewal)?;
        Ok(records.into_iter().flatten().chain(fleet).collect())
    }

    /// Takes back what all partitions had said to a task of the fleet, out of its state; nothing where it begins with its log.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore_fleet(&mut self, of: (i32, bool), state: &mut State) -> Result<()> {
        self.fleet.restore_merged(of, state)
    }

    /// Takes a partition's stored panes back, out of its state; `slots` is the time of each of its slots, `texts` are the
    /// detections whose text is another than that of the state's, by place: that one's hash, none where it is not known what that said.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        partition: i32,
        state: &mut State,
        slots: &HashMap<i64, (i64, i64)>,
        texts: &BTreeMap<usize, Option<Text>>,
    ) -> Result<()> {
        for Placed { group, workbench } in &mut self.groups {
            group.restore(workbench, partition, state, slots, texts)?;
        }
        self.fleet.restore(partition, state)
    }

    /// Says at which row of the next batch the rows of a partition are not only replayed any more.
    pub fn end_replay(&mut self, partition: i32, row: u32) {
        for Placed { group, .. } in &mut self.groups {
            let own = group.replayed.iter_mut();
            own.filter(|((of, _), _)| *of == partition)
                .for_each(|(_, replay)| replay.until = replay.until.min(row));
        }
    }

    /// Says from when on each detection speaks in a partition, by place: only of windows that start after that.
    pub fn speak_after(&mut self, partition: i32, since: impl Fn(usize) -> Option<i64>) {
        for Placed { group, .. } in &mut self.groups {
            for (place, member) in group.members.iter().enumerate() {
                match since(member.detection) {
                    Some(since) => drop(group.since.insert((partition, place), since)),
                    None => drop(group.since.remove(&(partition, place))),
                }
            }
        }
    }

    /// The hash of what the state of a detection over windows is of.
    pub fn state_of(&self, detection: usize) -> Option<&str> {
        let groups = self.groups.iter().flat_map(|placed| &placed.group.members);
        let mut own = groups.filter(|member| member.detection == detection);
        let own = own.next().map(|member| member.state.as_str());
        own.or_else(|| self.fleet.state_of(detection))
    }
}
