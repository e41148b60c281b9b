//! The engine: records of the log in, alerts out, one step at a time.
//!
//! ```text
//! records ─► reader (decode, match single events) ─► hosts (repeats, time) ─┬───────────────────────────┬─► alerts: fold, throttle, build
//!                                                                           └─► windows: panes, closes ─┘
//! ```
//! Records are taken in chunks as they come, while they are in the processor's caches ([`Engine::take`]); windows take all
//! chunks of a step together, because what they do costs the same for few rows ([`Engine::say`]).
//! What it says of a record is a function of the log before it and of the loaded detections: not of how the records were
//! cut into steps, nor of which partitions share one. It does no I/O; the clock only stamps `alert_ts`.
//! Its state is a task's: [`Engine::checkpoint`] gives it as records, [`Engine::restore`] takes them back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::SchemaError;
use dogwatch_schemas::topics::Topic;

use crate::alert::AlertMode;
use crate::checkpoint::{Inputs, Renewal, State, StateRecord};
use crate::decode::{DeadLetter, EventDecoder, InputRecord, Partition, RejectError, table_schema};
use crate::detect::{Detection, DetectionSet, Routes, narrow};
use crate::hosts::{
    FLEET, Hosts, SECOND_NS, Unseen, fleet_log, fleet_slot, number_of, partition_of, task_of,
};
use crate::parallel::cores;
use crate::tables::Table;
use crate::window::{Exchange, FleetRows, Missed, Rows, WindowOptions, WindowOutput, Windows};

mod admit;
mod alerts;
mod bound;
mod build;
mod candidate;
mod carried;
mod evidence;
mod exchange;
#[cfg(test)]
mod fair_tests;
#[cfg(test)]
mod fleet_tests;
mod fold;
mod matcher;
mod others;
mod output;
mod reader;
#[cfg(test)]
mod room_tests;
mod roster;
mod settings;
mod taken;
#[cfg(test)]
mod tests;
mod throttle;

pub use bound::TaskBound;
pub use evidence::EvidenceTopics;
pub use output::{Failure, LateRow, StateSize, StepCounts, StepOutput};

use carried::Carried;
use fold::Folds;
use reader::Reader;
use roster::{Listed, Other, Roster, Since};
use taken::Taken;
use throttle::Throttles;

/// Columns that the engine itself reads.
const OWN_COLUMNS: [&str; 8] = [
    "host_id",
    "host_name",
    "sensor_run",
    "seq",
    "ts",
    EVENT_TYPE,
    "container_id",
    "evt_losses",
];

/// The column of the event's type.
const EVENT_TYPE: &str = "evt_type";

/// Rows of this type say how far a sensor has got; SQL does not see them.
const MARK: &str = "mark";

/// Why a step failed as a whole; single bad records never make it fail.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A schema cannot be compiled.
    #[error("could not compile a schema")]
    Schema(#[from] SchemaError),
    /// A batch could not be built.
    #[error("could not build the step's batch")]
    Batch(#[from] ArrowError),
    /// A batch could not be routed to the detections, or their windows could not take it.
    #[error("could not run the detections over the step's batch")]
    Route(#[from] DataFusionError),
    /// The state could not be written or read.
    #[error("could not store or restore the state of a task")]
    State(#[from] serde_json::Error),
}

/// Runs a set of detections over the log.
pub struct Engine {
    /// The detections of its own table.
    set: DetectionSet,
    /// All of them.
    whole: DetectionSet,
    /// What runs those of the other tables.
    others: Vec<Engine>,
    mode: AlertMode,
    evidence_topics: EvidenceTopics,
    reader: Reader,
    /// Decode single events whole; one for each share of a step's alerts.
    decoders: Vec<EventDecoder>,
    hosts: Hosts,
    windows: Windows,
    /// The columns that windows read.
    window_columns: SchemaRef,
    taken: Taken,
    options: WindowOptions,
    folds: Folds,
    throttles: Throttles,
    /// Offsets below which a log's records are replayed, muted: what they say was said before.
    live_from: BTreeMap<Partition, i64>,
    roster: Roster,
    carried: Carried,
    /// Writers' schemas beside this version's own.
    schemas: BTreeMap<Fingerprint, String>,
    /// How far all partitions are, as each task of the fleet knows it, where all were heard of.
    fleet_times: BTreeMap<i32, i64>,
}

/// Partitions whose time windows of the fleet wait for, where nobody says otherwise.
const SOURCES: [i32; 1] = [0];

impl Engine {
    /// Makes an engine; sensors of this version need no schema registered.
    ///
    /// # Errors
    /// When the schema of events cannot be compiled for the columns that the detections read, or their windows' operators
    /// cannot be made.
    pub fn new(set: DetectionSet, mode: AlertMode) -> Result<Self, EngineError> {
        let others = others::engines(&set, mode)?;
        let events = Self::of_table(set.of_table(Table::Events), mode)?;
        Ok(Self {
            others,
            whole: set,
            ..events
        })
    }

    /// Makes what runs the detections of one table.
    fn of_table(set: DetectionSet, mode: AlertMode) -> Result<Self, EngineError> {
        let mut columns: BTreeSet<&str> = set
            .iter()
            .flat_map(|detection| detection.columns())
            .collect();
        columns.extend(OWN_COLUMNS);
        let events = table_schema(set.table());
        let reader = Reader::new(&set, &events, &columns)?;
        let options = WindowOptions::default().of_table(set.table());
        let mut windows = Windows::new(&set, &events, &options)?;
        windows.expect_sources(&SOURCES);
        let roster = listed(&set, &windows);
        let of_windows = set
            .iter()
            .filter(|detection| detection.plan.windowed().is_some());
        let window_columns = of_windows.flat_map(Detection::columns).chain([EVENT_TYPE]);
        let window_columns = window_columns.map(str::to_owned).collect();
        Ok(Self {
            reader,
            decoders: (0..cores())
                .map(|_| EventDecoder::new(set.table()))
                .collect::<Result<_, _>>()?,
            hosts: hosts(&windows, &options),
            windows,
            window_columns: narrow(&events, &window_columns),
            taken: Taken::default(),
            options,
            folds: Folds::new(bound::part_of_alerts(set.table())),
            throttles: Throttles::new(bound::part_of_alerts(set.table())),
            live_from: BTreeMap::new(),
            roster,
            carried: Carried::default(),
            schemas: BTreeMap::new(),
            fleet_times: BTreeMap::new(),
            whole: set.again(),
            others: Vec::new(),
            set,
            mode,
            evidence_topics: EvidenceTopics::same("local"),
        })
    }

    /// The detections it runs.
    #[must_use]
    pub fn detections(&self) -> &DetectionSet {
        &self.whole
    }

    /// The latest of the times of a log's hosts.
    #[cfg(test)]
    pub(crate) fn latest_high(&self, log: Partition) -> Option<i64> {
        self.hosts.latest_high(log)
    }

    /// The partitions that it knows something of.
    #[must_use]
    pub fn partitions(&self) -> Vec<i32> {
        self.hosts.partitions()
    }

    /// Notes that input of a log was not seen before its next record: windows and events around it say so.
    pub(crate) fn miss(&mut self, log: Partition, unseen: Unseen) {
        // What is missing in the exchange shows in its records' numbers.
        if log.0 == Topic::Exchange {
            return;
        }
        if let Some(own) = self.of_log_mut(log) {
            own.hosts.miss(log, unseen);
        }
    }

    /// Forgets what it knows of a partition number of any table.
    pub fn forget_partition(&mut self, partition: i32) {
        self.forget_own(partition);
        for other in &mut self.others {
            other.forget_own(partition);
        }
    }

    /// Forgets what it knows of a task of its own table.
    fn forget_own(&mut self, partition: i32) {
        self.hosts.forget(partition);
        self.windows.forget(partition);
        self.folds.forget(partition);
        self.carried.forget(partition);
        self.roster.forget(partition);
        self.throttles.forget(partition);
        self.live_from.retain(|log, _| task_of(*log) != partition);
        self.fleet_times.remove(&partition);
    }

    /// What changed in a task of its own table since the last call, and the pieces that are to be written anew. Tasks of the whole
    /// fleet are below nought: -1 for the first partition of the exchange.
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn checkpoint(
        &mut self,
        partition: i32,
        renewal: &Renewal,
    ) -> Result<Vec<StateRecord>, EngineError> {
        let mut records = self.windows.store(partition, renewal)?;
        records.extend(self.folds.store(partition, renewal));
        records.extend(self.throttles.store(partition, renewal));
        if partition <= FLEET {
            return Ok(records);
        }
        records.extend(self.hosts.store(partition, renewal)?);
        records.extend(self.roster.store(partition, renewal)?);
        let latest = self.hosts.latest(partition);
        records.extend(self.carried.store(partition, renewal, latest));
        Ok(records)
    }

    /// Takes a task of its own table over as its last checkpoint left it. What is read below `live_from` was said before: it is replayed muted.
    /// A detection that the checkpoint does not list speaks only of what comes after; what no loaded detection knows is carried
    /// on for a day.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        partition: i32,
        mut state: State,
        live_from: &Inputs,
    ) -> Result<(), EngineError> {
        if partition <= FLEET {
            return self.restore_fleet(partition, state, live_from);
        }
        self.forget_own(partition);
        self.replay_until(partition, live_from);
        if state.is_empty() {
            self.windows.begin(partition);
        }
        self.hosts.restore(partition, &mut state)?;
        let slots = self.hosts.slots(partition);
        self.roster.restore(partition, &mut state)?;
        let texts = self
            .roster
            .others(partition)
            .filter_map(|(place, other)| match other {
                Other::New => None,
                Other::Changed => Some((place, None)),
                Other::Edited(content) => Some((place, Some(content.as_str().into()))),
            });
        let texts = texts.collect();
        self.windows
            .restore(partition, &mut state, &slots, &texts)?;
        self.speak_after(partition);
        self.folds.restore(partition, &mut state);
        self.throttles.restore(partition, &mut state);
        self.carried.restore(partition, state);
        Ok(())
    }

    /// Notes below which offsets a task's logs are replayed.
    fn replay_until(&mut self, task: i32, live_from: &Inputs) {
        let live = live_from.iter();
        let live = live.map(|(topic, offset)| ((*topic, number_of(*topic, task)), *offset));
        self.live_from.extend(live);
    }

    /// Tells the windows from when on each detection speaks in a task.
    fn speak_after(&mut self, partition: i32) {
        let since = self.roster.since(partition);
        let after = |detection: usize| match since.get(detection) {
            None | Some(Since::Always) => None,
            Some(Since::After(time)) => Some(*time),
            Some(Since::Replay) => Some(i64::MAX),
        };
        self.windows.speak_after(partition, after);
    }

    /// Says whether a task of its own table waits for time to pass: an idle partition needs a mark to get on.
    #[must_use]
    pub fn waits(&self, partition: i32) -> bool {
        self.windows.waits(partition)
            || self.folds.waits(partition)
            || self.throttles.waits(partition)
            || self.folds.waits(FLEET)
            || self.throttles.waits(FLEET)
    }

    /// Says whether a log has hosts whose silence would be told.
    #[must_use]
    pub fn watches_hosts(&self, log: Partition) -> bool {
        self.hosts.watches(log)
    }

    /// How large the state of all tasks is.
    #[must_use]
    pub fn state_size(&self) -> StateSize {
        let (panes, keys, bytes) = self.windows.size();
        let tasks = self.hosts.partitions().len() as u64;
        let mut size = StateSize {
            panes,
            keys,
            bytes: bytes + self.carried.size(),
            bound_bytes: self.own_bound().of(tasks),
        };
        for other in &self.others {
            size.add(&other.state_size());
        }
        size
    }

    /// Ends a bounded input: every open window closes.
    ///
    /// # Errors
    /// When the last step fails as a whole.
    pub fn finish(&mut self, now_ns: i64) -> Result<StepOutput, EngineError> {
        let mut output = StepOutput::default();
        let partitions = self.hosts.partitions().into_iter();
        let slots = partitions.flat_map(|partition| self.hosts.slots(partition).into_keys());
        let mut slots: Vec<i64> = slots.collect();
        slots.sort_unstable();
        let ticks = self.hosts.last_ticks();
        let windows = self.windows.finish(&self.set, (&slots, &ticks), u32::MAX)?;
        let times = windows.fleet_times.iter();
        self.fleet_times
            .extend(times.map(|(_, task, time)| (*task, *time)));
        self.alert_at_end(&windows.words, now_ns, &mut output);
        self.fleet_times.clear();
        self.others_finish(now_ns, &mut output)?;
        Ok(output)
    }

    /// Takes the next records, each partition's in the order of its offsets: [`Engine::take`] and [`Engine::say`] in one,
    /// for whoever has all records of a step at hand.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When the step fails as a whole, which no input makes it do.
    pub fn step(&mut self, records: Vec<InputRecord>) -> Result<StepOutput, EngineError> {
        let mut rest = records;
        while !rest.is_empty() {
            let later = rest.split_off(self.chunk_rows().min(rest.len()));
            self.take(std::mem::replace(&mut rest, later))?;
        }
        self.say(now_ns())
    }

    /// How many records are best taken at once.
    #[must_use]
    pub fn chunk_rows(&self) -> usize {
        self.reader.chunk_rows()
    }

    /// Takes the next records of a step: what follows of each alone is found now, the rest is for [`Engine::say`].
    /// Until then neither a checkpoint may be made nor a partition be given up.
    ///
    /// # Errors
    /// When the step fails as a whole, which no input makes it do.
    pub fn take(&mut self, records: Vec<InputRecord>) -> Result<(), EngineError> {
        let records = self.give_to_others(records)?;
        let mut taken = std::mem::take(&mut self.taken);
        if taken.records.is_empty() {
            self.hosts.begin_batch();
        }
        taken.output.counts.records += records.len() as u64;
        if self.receives() {
            taken.records.extend(records);
            self.taken = taken;
            return Ok(());
        }
        for read in self.reader.read(&self.set, records)? {
            self.admit(read, &mut taken)?;
        }
        self.taken = taken;
        Ok(())
    }

    /// Drops what was taken and not said, where its tasks are no longer this engine's: all of them are to be forgotten.
    pub fn discard(&mut self) {
        self.taken = Taken::default();
        for other in &mut self.others {
            other.discard();
        }
    }

    /// Says what follows of all that was taken; `now_ns` goes into `alert_ts`, nanoseconds since 1970.
    ///
    /// # Errors
    /// As [`Engine::take`].
    pub fn say(&mut self, now_ns: i64) -> Result<StepOutput, EngineError> {
        let mut output = self.say_own(now_ns)?;
        self.others_say(now_ns, &mut output)?;
        Ok(output)
    }

    /// What follows of what was taken of its own table.
    fn say_own(&mut self, now_ns: i64) -> Result<StepOutput, EngineError> {
        let mut output = std::mem::take(&mut self.taken.output);
        if self.taken.records.is_empty() {
            return Ok(output);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let mut windows = match self.receives() {
            true => self.receive(&taken, &mut output),
            false => self.run_windows(&taken)?,
        };
        self.make_room(&taken.records, &mut windows, &mut output)?;
        output.exchange = std::mem::take(&mut windows.exchange);
        taken.unjudged.append(&mut windows.unjudged);
        self.leave_to_others(&mut taken, &mut windows);
        let heard = |row: u32| !self.muted(&taken.records[row as usize]);
        self.note_failures(&taken, &windows, &mut output);
        for (row, missed) in windows.late.iter().filter(|(row, _)| heard(**row)) {
            output.counts.late += 1;
            let record = &taken.records[*row as usize];
            output.late.push(self.late_row(record, missed));
        }
        let off = windows.off.iter();
        let off = off.map(|off| self.log_of_task(partition_of(off.slot)));
        output.to_be_stored.extend(off);
        output.counts.hosts_forgotten += self.hosts.forgotten_count();
        for (row, task, time) in &windows.fleet_times {
            let (admitted, second) = (&mut taken.admitted, time.div_euclid(SECOND_NS));
            admitted.progress.note(*row, fleet_slot(*task), *time);
            admitted.seconds.note(*row, fleet_log(*task), second);
        }
        self.alert(&taken, &windows, now_ns, &mut output);
        // Alerts of the step go by what was known before it, and what its rows have shown.
        let times = windows.fleet_times.iter();
        self.fleet_times
            .extend(times.map(|(_, task, time)| (*task, *time)));
        self.unmute(&taken.records, &mut output);
        taken.clear();
        self.taken = taken;
        Ok(output)
    }

    /// Shows the windows what was taken.
    fn run_windows(&mut self, taken: &Taken) -> Result<WindowOutput, EngineError> {
        if self.windows.is_empty() {
            return Ok(WindowOutput::default());
        }
        let batch = concat_batches(&self.window_columns, &taken.batches)?;
        let event_types = batch.column(batch.schema_ref().index_of(EVENT_TYPE)?);
        let rows = taken.admitted.shown.iter().map(|shown| shown.row).collect();
        let ticks = self.hosts.ticks();
        let muted = ticks.iter().map(|tick| {
            let record = taken.records.get(tick.row as usize);
            record.is_some_and(|record| self.muted(record))
        });
        let muted: Vec<bool> = muted.collect();
        let rows = Rows {
            batch: &batch,
            routes: &Routes::new(event_types.as_string_view(), rows),
            shown: &taken.admitted.shown,
            progress: &taken.admitted.progress,
            ends: self.hosts.ends(),
            fleet: FleetRows {
                moments: &taken.admitted.fleet,
                ticks,
                muted: &muted,
            },
        };
        Ok(self.windows.step(&self.set, &rows)?)
    }

    /// Whether a record is only replayed.
    fn muted(&self, record: &InputRecord) -> bool {
        self.live_from
            .get(&record.log())
            .is_some_and(|live_from| record.offset < *live_from)
    }

    /// Forgets where replays ended that are over.
    fn unmute(&mut self, records: &[InputRecord], output: &mut StepOutput) {
        if self.live_from.is_empty() {
            return;
        }
        for record in records {
            if self.muted(record) || self.live_from.remove(&record.log()).is_none() {
                continue;
            }
            if record.topic == Topic::Exchange {
                continue;
            }
            let partition = record.partition;
            if self.roster.changed(partition) {
                output.to_be_stored.insert(record.log());
            }
            // The others of its logs may still be replayed.
            if !self.live_from.keys().any(|(_, of)| *of == partition) {
                self.roster.settle(partition);
            }
        }
    }

    /// Notes the first record of a task that is not only replayed: detections that are new speak of what comes from there on.
    fn end_replay(&mut self, record: &InputRecord, row: u32) {
        if !self.roster.any_other() || self.muted(record) {
            return;
        }
        let partition = record.partition;
        self.windows.end_replay(partition, row);
        let latest = self.hosts.latest_high(record.log()).unwrap_or(i64::MIN);
        if self.roster.begin(partition, latest) {
            self.speak_after(partition);
        }
    }

    /// Takes out what detections find of rows that are only replayed, and of which they did not speak as they are now: it
    /// begins no period of theirs.
    fn leave_to_others(&self, taken: &mut Taken, windows: &mut WindowOutput) {
        if !self.roster.any_other() {
            return;
        }
        let Taken {
            records,
            found,
            unjudged,
            ..
        } = taken;
        let heard = |row: u32, detection: usize| {
            let record = &records[row as usize];
            !self.muted(record) || !self.roster.is_other(record.partition, detection)
        };
        // What fires early knows under which text it was said.
        let words = &mut windows.words;
        words.retain(|word| word.fired_under.is_some() || heard(word.row, word.detection));
        found.retain(|(detection, found)| heard(found.row, *detection));
        unjudged.retain(|unjudged| heard(unjudged.row, unjudged.detection));
    }

    /// Sets a record apart that cannot be used, unless that was said before.
    fn reject(&self, record: &InputRecord, error: RejectError, output: &mut StepOutput) {
        if !self.muted(record) {
            output.dead_letters.push(DeadLetter::new(record, error));
        }
    }

    fn late_row(&self, record: &InputRecord, missed: &Missed) -> LateRow {
        let mut detections: Vec<String> = missed
            .detections
            .iter()
            .map(|detection| self.set.at(*detection).id.clone())
            .collect();
        detections.sort_unstable();
        LateRow {
            record: record.detached(),
            detections,
            late_ns: missed.late_ns,
        }
    }

    /// Notes what detections could not judge: rows, and groups of windows at the row that made them be asked.
    fn note_failures(&self, taken: &Taken, windows: &WindowOutput, output: &mut StepOutput) {
        let rows = taken
            .unjudged
            .iter()
            .map(|row| (row.row, row.detection, false, &row.error));
        let words = windows.words.iter();
        let groups =
            words.filter_map(|word| Some((word.row, word.detection, true, word.error.as_ref()?)));
        for (row, detection, of_window, error) in rows.chain(groups) {
            let record = &taken.records[row as usize];
            if self.muted(record) {
                continue;
            }
            let own = self.set.at(detection);
            output.failures.push(Failure {
                detection_id: own.id.clone(),
                log: record.log(),
                offset: record.offset,
                of_window,
                place: format!("{}:{}", own.file.display(), own.query_line),
                error: error.clone(),
            });
        }
    }
}

/// What is known of hosts, as windows need it.
fn hosts(windows: &Windows, options: &WindowOptions) -> Hosts {
    let hosts = Hosts::new(options.host_silence, options.clock_error_max);
    match windows.any_of_fleet() && !matches!(options.exchange, Exchange::Received(_)) {
        true => hosts.with_fleet(options.fleet_patience),
        false => hosts,
    }
}

/// The detections of a set, as checkpoints list them.
fn listed(set: &DetectionSet, windows: &Windows) -> Roster {
    let listed = |(place, own): (usize, &Detection)| Listed {
        id: own.id.clone(),
        content: own.content_hash.clone(),
        query: own.query_hash.clone(),
        state: windows
            .state_of(place)
            .map_or_else(|| own.state_of_events(), str::to_owned),
        since: None,
    };
    Roster::new(set.iter().enumerate().map(listed).collect())
}

/// The clock, as the engine takes it: nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since_epoch.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// A name, cut where it is longer than so many bytes.
fn cut(name: &str, bytes_max: usize) -> &str {
    &name[..name.floor_char_boundary(bytes_max)]
}
