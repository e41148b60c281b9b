//! The engine: records of the log in, alerts out, one step at a time.
//!
//! ```text
//! records ─► reader (decode, match single events) ─► tasks (repeats, hosts' time) ─┬───────────────────────────┬─► alert ─► fold
//!                                                                                  └─► windows: panes, closes ─┘
//! ```
//! Records are taken in chunks as they come, while they are in the processor's caches ([`Engine::take`]); windows take all
//! chunks of a step together, because what they do costs the same for few rows ([`Engine::say`]).
//! What it says of a record is a function of the log before it and of the loaded detections: not of how the records were
//! cut into steps, nor of which partitions share one. It does no I/O; the clock only stamps `alert_ts`.
//! Its state is a task's: [`Engine::checkpoint`] gives it as records, [`Engine::restore`] takes them back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, TimestampNanosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampNanosecondType};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::Text;
use dogwatch_schemas::decode::SchemaError;
use dogwatch_schemas::records::Alert;
use serde_json::Value;

use crate::alert::AlertMode;
use crate::alert::health::Health;
use crate::checkpoint::{Renewal, State, StateRecord};
use crate::decode::{DeadLetter, Decoded, EventDecoder, InputRecord, RejectError, events_schema};
use crate::detect::{Dedup, Detection, DetectionSet, Match, Routes, Unjudged, narrow, project};
use crate::hosts::{End, EndKind, Heard, Hosts, Losses, Place, partition_of};
use crate::json;
use crate::window::{
    self, Bound, Missed, Progress, Rows, Shown, WindowOptions, WindowOutput, Windows, Word,
};

mod candidate;
mod carried;
mod fold;
mod matcher;
mod reader;
#[cfg(test)]
mod tests;

use candidate::{Builder, Candidate, Cause, NO_LOSSES, Notice, Said, Spoken};
use carried::Carried;
use fold::{Folds, Verdict};
use matcher::Found;
use reader::{Read, Reader};

/// Columns that the engine itself reads.
const OWN_COLUMNS: [&str; 7] = [
    "host_id",
    "host_name",
    "sensor_run",
    "seq",
    "ts",
    EVENT_TYPE,
    "evt_losses",
];

/// Longest identity of a host or run, bytes: each is stored for every host.
const IDENTITY_BYTES_MAX: usize = 256;
/// Longest name of a host, bytes, and of a class of losses; more is cut.
const NAME_BYTES_MAX: usize = 256;
/// Most classes of losses that a sensor tells of.
const LOSS_CLASSES_MAX: usize = 32;
/// The column of the event's type.
const EVENT_TYPE: &str = "evt_type";

/// Rows of this type say that the clock was stepped.
const CLOCK_STEP: &str = "clock_step";

/// Rows of this type say how far a sensor has got; SQL does not see them.
const MARK: &str = "mark";

/// How the engine's own findings are folded: one an hour and host, with the count of the others.
static NOTICES: Dedup = Dedup {
    key: Vec::new(),
    period: Some(Duration::from_secs(3_600)),
    limit: 1,
};

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

/// What came of a step.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// The alerts, in the order of the records they come from, then of the detections' names.
    pub alerts: Vec<Alert>,
    /// The records that cannot be used.
    pub dead_letters: Vec<DeadLetter>,
    /// The rows that came after their windows had closed.
    pub late: Vec<LateRow>,
    /// The records whose schema is not known, but for those only replayed: look it up, register it, and hand them in again.
    pub unknown_schemas: Vec<(Fingerprint, InputRecord)>,
    /// Events that a detection could not judge; the other detections did.
    pub failures: Vec<Failure>,
    /// Partitions whose state must be stored with the step: it holds what a replay would not find again.
    pub to_be_stored: BTreeSet<i32>,
    /// What was counted.
    pub counts: StepCounts,
}

/// An event that a detection could not judge, such as for a number out of range in a cast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The detection.
    pub detection_id: String,
    /// Partition of the event.
    pub partition: i32,
    /// Offset of the event.
    pub offset: i64,
    /// Whether it is a group of a window, which the event made be asked.
    pub of_window: bool,
    /// File and line of the detection's query.
    pub place: String,
    /// What went wrong.
    pub error: String,
}

/// A row that came after a window had closed that it belongs to; detections on single events saw it nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    /// The record as it came.
    pub record: InputRecord,
    /// The detections whose windows miss it, by name.
    pub detections: Vec<String>,
    /// By how much its time is behind its host's watermark, nanoseconds.
    pub late_ns: i64,
}

/// How large the state of all tasks is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Open panes.
    pub panes: u64,
    /// Keys in them.
    pub keys: u64,
    /// Bytes of their states.
    pub bytes: u64,
    /// What they may grow to, by the caps.
    pub bound_bytes: u64,
}

/// What a step counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StepCounts {
    /// Records handed in.
    pub records: u64,
    /// Events shown to the detections.
    pub events: u64,
    /// Mark rows.
    pub marks: u64,
    /// Records that sensors sent again.
    pub repeated: u64,
    /// Records that never came, by gaps in sensors' counts.
    pub missing: u64,
    /// Rows that came too late for a window.
    pub late: u64,
    /// Events whose time was too far from the broker's.
    pub clock_replaced: u64,
}

/// Runs a set of detections over the log.
pub struct Engine {
    set: DetectionSet,
    mode: AlertMode,
    evidence_topic: Text,
    reader: Reader,
    whole: EventDecoder,
    hosts: Hosts,
    windows: Windows,
    /// The columns that windows read.
    window_columns: SchemaRef,
    taken: Taken,
    options: WindowOptions,
    folds: Folds,
    /// Offsets below which a partition's records are replayed, muted: what they say was said before.
    live_from: BTreeMap<i32, i64>,
    carried: Carried,
}

impl Engine {
    /// Makes an engine; sensors of this version need no schema registered.
    ///
    /// # Errors
    /// When the schema of events cannot be compiled for the columns that the detections read, or their windows' operators
    /// cannot be made.
    pub fn new(set: DetectionSet, mode: AlertMode) -> Result<Self, EngineError> {
        let mut columns: BTreeSet<&str> = set
            .iter()
            .flat_map(|detection| detection.columns())
            .collect();
        columns.extend(OWN_COLUMNS);
        let events = events_schema();
        let reader = Reader::new(&set, &events, &columns)?;
        let options = WindowOptions::default();
        let windows = Windows::new(&set, &events, &options)?;
        let of_windows = set
            .iter()
            .filter(|detection| detection.plan.windowed().is_some());
        let window_columns = of_windows.flat_map(Detection::columns).chain([EVENT_TYPE]);
        let window_columns = window_columns.map(str::to_owned).collect();
        Ok(Self {
            reader,
            whole: EventDecoder::new()?,
            hosts: Hosts::new(options.host_silence, options.clock_error_max),
            windows,
            window_columns: narrow(&events, &window_columns),
            taken: Taken::default(),
            options,
            folds: Folds::default(),
            live_from: BTreeMap::new(),
            carried: Carried::default(),
            set,
            mode,
            evidence_topic: "local".into(),
        })
    }

    /// Says what windows may take; before the first step.
    ///
    /// # Errors
    /// When the windows' operators cannot be made.
    pub fn with_windows(mut self, options: WindowOptions) -> Result<Self, EngineError> {
        self.set.memory().limit(options.memory_bytes_max);
        self.hosts = Hosts::new(options.host_silence, options.clock_error_max);
        self.windows = Windows::new(&self.set, &events_schema(), &options)?;
        self.options = options;
        Ok(self)
    }

    /// Names the topic that evidence is said to come from: a Kafka topic, `local` (the default) or `capture`.
    #[must_use]
    pub fn with_evidence_topic(mut self, topic: &str) -> Self {
        self.evidence_topic = topic.into();
        self
    }

    /// The detections it runs.
    #[must_use]
    pub fn detections(&self) -> &DetectionSet {
        &self.set
    }

    /// How much memory each detection over windows can take in one task, by name.
    #[must_use]
    pub fn bounds(&self) -> Vec<(&str, Bound)> {
        window::bounds(&self.set, self.options.keys_max)
    }

    /// Makes a writer's schema of events known, as JSON.
    ///
    /// # Errors
    /// When the schema is no Avro schema or cannot be read as an event.
    pub fn register_schema(&mut self, schema: &str) -> Result<Fingerprint, EngineError> {
        self.reader.register(schema)?;
        Ok(self.whole.register(schema)?)
    }

    /// The fingerprint of a record's schema when it must be registered before the record can be used.
    #[must_use]
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        self.reader.unknown_schema(record)
    }

    /// Forgets what it knows of a partition that is no longer its own.
    pub fn forget_partition(&mut self, partition: i32) {
        self.hosts.forget(partition);
        self.windows.forget(partition);
        self.folds.forget(partition);
        self.carried.forget(partition);
        self.live_from.remove(&partition);
    }

    /// What changed in a task since the last call, and the pieces that are to be written anew.
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
        records.extend(self.hosts.store(partition, renewal)?);
        let latest = self.hosts.latest(partition);
        records.extend(self.carried.store(partition, renewal, latest));
        Ok(records)
    }

    /// Takes a task over as its last checkpoint left it. What is read below `live_from` was said before: it is replayed muted.
    /// What no loaded detection knows is carried on for a day.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        partition: i32,
        mut state: State,
        live_from: i64,
    ) -> Result<(), EngineError> {
        self.forget_partition(partition);
        self.hosts.restore(partition, &mut state)?;
        let slots = self.hosts.slots(partition);
        self.windows
            .restore(&self.set, partition, &mut state, &slots)?;
        self.folds.restore(partition, &mut state);
        self.carried.restore(partition, state);
        self.live_from.insert(partition, live_from);
        Ok(())
    }

    /// Says whether a task waits for time to pass: an idle partition needs a mark to get on.
    #[must_use]
    pub fn waits(&self, partition: i32) -> bool {
        self.windows.waits(partition) || self.folds.waits(partition)
    }

    /// How large the state of all tasks is.
    #[must_use]
    pub fn state_size(&self) -> StateSize {
        let (panes, keys, bytes) = self.windows.size();
        let tasks = self.hosts.partitions().len() as u64;
        let bounds = self.bounds();
        let bound_bytes = bounds.iter().map(|(_, bound)| bound.bytes()).sum::<u64>();
        StateSize {
            panes,
            keys,
            bytes: bytes + self.carried.size(),
            bound_bytes: bound_bytes.saturating_mul(tasks),
        }
    }

    /// Ends a bounded input: every open window closes.
    ///
    /// # Errors
    /// When the last step fails as a whole.
    pub fn finish(&mut self, now_ns: i64) -> Result<StepOutput, EngineError> {
        let mut output = StepOutput::default();
        let slots: Vec<(i64, i64)> = self
            .hosts
            .partitions()
            .into_iter()
            .flat_map(|partition| self.hosts.slots(partition))
            .map(|(slot, (high, _))| (slot, high))
            .collect();
        let highs: BTreeMap<i64, i64> = slots.iter().copied().collect();
        let numbers: Vec<i64> = highs.keys().copied().collect();
        let windows = self.windows.finish(&self.set, &numbers, u32::MAX)?;
        let mut said = Vec::new();
        for slot in &numbers {
            said.extend(self.end_periods(*slot));
        }
        let spoken = windows.words.iter().map(|word| Spoken {
            word,
            fold_place: (word.slot, highs[&word.slot]),
            cause: None,
        });
        let spoken: Vec<Spoken<'_>> = spoken.collect();
        let mut candidates = self.builder(now_ns).words(&spoken);
        candidates.sort_by_key(|candidate| candidate.order);
        for candidate in candidates {
            said.extend(self.fold(candidate, &[]));
        }
        for slot in &numbers {
            said.extend(self.end_periods(*slot));
        }
        output.alerts = said;
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
        let mut taken = std::mem::take(&mut self.taken);
        if taken.records.is_empty() {
            self.hosts.begin_batch();
        }
        taken.output.counts.records += records.len() as u64;
        for read in self.reader.read(&self.set, records)? {
            self.admit(read, &mut taken)?;
        }
        self.taken = taken;
        Ok(())
    }

    /// Drops what was taken and not said, where its tasks are no longer this engine's: all of them are to be forgotten.
    pub fn discard(&mut self) {
        self.taken = Taken::default();
    }

    /// Says what follows of all that was taken; `now_ns` goes into `alert_ts`, nanoseconds since 1970.
    ///
    /// # Errors
    /// As [`Engine::take`].
    pub fn say(&mut self, now_ns: i64) -> Result<StepOutput, EngineError> {
        let mut output = std::mem::take(&mut self.taken.output);
        if self.taken.records.is_empty() {
            return Ok(output);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let windows = self.run_windows(&taken)?;
        let heard = |row: u32| !self.muted(&taken.records[row as usize]);
        self.note_failures(&taken, &windows, &mut output);
        for (row, missed) in windows.late.iter().filter(|(row, _)| heard(**row)) {
            output.counts.late += 1;
            let record = &taken.records[*row as usize];
            output.late.push(self.late_row(record, missed));
        }
        let off = windows.off.iter().map(|off| partition_of(off.slot));
        output.to_be_stored.extend(off);
        self.say_alerts(&taken, &windows, now_ns, &mut output);
        self.unmute(&taken.records);
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
        let rows = Rows {
            batch: &batch,
            routes: &Routes::new(event_types.as_string_view(), rows),
            shown: &taken.admitted.shown,
            progress: &taken.admitted.progress,
            ends: self.hosts.ends(),
        };
        Ok(self.windows.step(&self.set, &rows)?)
    }

    /// Whether a record is only replayed.
    fn muted(&self, record: &InputRecord) -> bool {
        self.live_from
            .get(&record.partition)
            .is_some_and(|live_from| record.offset < *live_from)
    }

    /// Forgets where replays ended that are over.
    fn unmute(&mut self, records: &[InputRecord]) {
        if self.live_from.is_empty() {
            return;
        }
        for record in records {
            if !self.muted(record) {
                self.live_from.remove(&record.partition);
            }
        }
    }

    /// Adds rows that were read to those taken: which of them detections may see, each with its place in time and what its
    /// sensor said is lost so far.
    fn admit(&mut self, read: Read, taken: &mut Taken) -> Result<(), EngineError> {
        let before = taken.records.len() as u32;
        let Read {
            decoded,
            found,
            unjudged,
        } = read;
        let columns = Columns::of(&decoded)?;
        let (admitted, output) = (&mut taken.admitted, &mut taken.output);
        for (index, record) in decoded.records.iter().enumerate() {
            let row = before + index as u32;
            let host_id = columns.host_id.value(index);
            if *record.key != *host_id.as_bytes() {
                let key = String::from_utf8_lossy(&record.key).into_owned();
                let error = RejectError::KeyDisagrees {
                    host_id: host_id.to_owned(),
                    key,
                };
                self.reject(record, error, output);
                continue;
            }
            let sensor_run = columns.sensor_run.value(index);
            if host_id.len().max(sensor_run.len()) > IDENTITY_BYTES_MAX {
                self.reject(record, RejectError::IdentityTooLong, output);
                continue;
            }
            let event_type = columns.event_type.value(index);
            let heard = Heard {
                partition: record.partition,
                offset: record.offset,
                row,
                host_id,
                sensor_run,
                seq: columns.seq.value(index),
                ts: columns.ts.value(index),
                ingest_ts: record.ingest_ts_ns,
                clock_step: event_type == CLOCK_STEP,
            };
            let moment = match self.hosts.take(&heard) {
                Place::Repeated => {
                    output.counts.repeated += 1;
                    continue;
                }
                Place::New { missing, moment } => {
                    output.counts.missing += missing;
                    moment
                }
            };
            self.hosts
                .note_name(record.partition, cut(columns.host_name.value(index)));
            admitted.progress.note(row, moment.slot, moment.high_after);
            if event_type == MARK {
                output.counts.marks += 1;
                self.hosts
                    .note_losses(record.partition, row, columns.losses(index));
                continue;
            }
            output.counts.events += 1;
            output.counts.clock_replaced += u64::from(moment.clock_replaced);
            admitted.shown.push(Shown { row, moment });
            admitted.losses.push(self.hosts.losses(record.partition));
        }
        let found = found.into_iter().filter_map(|(detection, found)| {
            let row = before + found.row;
            admitted.place(row)?;
            Some((detection, Match { row, ..found }))
        });
        taken.found.extend(found);
        let unjudged = unjudged.into_iter().filter_map(|unjudged| {
            let row = before + unjudged.row;
            admitted.place(row)?;
            Some(Unjudged { row, ..unjudged })
        });
        taken.unjudged.extend(unjudged);
        let heard = |record: &InputRecord| !self.muted(record);
        let letters = decoded.dead_letters.into_iter();
        output
            .dead_letters
            .extend(letters.filter(|letter| heard(&letter.record)));
        let unknown = decoded.unknown_schemas.into_iter();
        output
            .unknown_schemas
            .extend(unknown.filter(|(_, record)| heard(record)));
        if !self.windows.is_empty() {
            taken
                .batches
                .push(project(&decoded.batch, &self.window_columns)?);
        }
        taken.records.extend(decoded.records);
        Ok(())
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

    /// Builds the alerts of what was found, folds their repeats, and says what is left, in the order of the log.
    fn say_alerts(
        &mut self,
        taken: &Taken,
        windows: &WindowOutput,
        now_ns: i64,
        output: &mut StepOutput,
    ) {
        let Taken {
            records, admitted, ..
        } = taken;
        let mut candidates = self.single_candidates(taken, now_ns, output);
        let mut spoken = Vec::with_capacity(windows.words.len());
        for word in &windows.words {
            spoken.push(Spoken {
                word,
                fold_place: admitted.fold_place(word, self.hosts.ends()),
                cause: match word.closed {
                    true => None,
                    false => self.cause(taken, word.row).ok(),
                },
            });
        }
        let builder = self.builder(now_ns);
        candidates.extend(builder.words(&spoken));
        let overflows = windows.overflows.iter();
        candidates
            .extend(overflows.map(|overflow| builder.overflow(overflow, self.options.keys_max)));
        candidates.extend(windows.off.iter().map(|off| builder.switched_off(off)));
        candidates.extend(self.notices(taken, windows));
        candidates.sort_by_key(|candidate| candidate.order);
        let mut ends = self.hosts.ends().to_vec().into_iter().peekable();
        let mut said: Vec<(u32, Alert)> = Vec::new();
        for candidate in candidates {
            let row = candidate.order.row;
            while let Some(end) = ends.next_if(|end| end.row <= row) {
                said.extend(self.end_stretch(&admitted.progress, end));
            }
            said.extend(self.end_due(&admitted.progress, candidate.slot, candidate.time));
            said.extend(self.fold(candidate, records).map(|alert| (row, alert)));
        }
        for end in ends {
            said.extend(self.end_stretch(&admitted.progress, end));
        }
        for (slot, high) in admitted.progress.highs() {
            said.extend(self.end_due(&admitted.progress, slot, high));
        }
        said.sort_by_key(|(row, _)| *row);
        let heard = said
            .into_iter()
            .filter(|(row, _)| !self.muted(&records[*row as usize]));
        output.alerts.extend(heard.map(|(_, mut alert)| {
            alert.alert_ts = now_ns;
            alert
        }));
    }

    /// The alerts of single events; each matched event is decoded whole once.
    fn single_candidates<'a>(
        &mut self,
        taken: &'a Taken,
        now_ns: i64,
        output: &mut StepOutput,
    ) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        let rows = taken
            .found
            .chunk_by(|(_, left), (_, right)| left.row == right.row);
        for of_one_row in rows {
            let row = of_one_row[0].1.row;
            let cause = match self.cause(taken, row) {
                Ok(cause) => cause,
                Err(error) => {
                    self.reject(&taken.records[row as usize], error, output);
                    continue;
                }
            };
            let Some(shown) = taken.admitted.shown_at(row) else {
                continue;
            };
            let builder = self.builder(now_ns);
            let own = of_one_row
                .iter()
                .map(|(detection, found)| builder.single(*detection, found, shown, &cause));
            candidates.extend(own);
        }
        candidates
    }

    /// A row that an alert comes from, whole.
    fn cause<'a>(&mut self, taken: &'a Taken, row: u32) -> Result<Cause<'a>, RejectError> {
        let record = &taken.records[row as usize];
        Ok(Cause {
            event: Box::new(self.whole.decode(record)?),
            record,
            losses: taken.admitted.losses_of(row),
            clock_replaced: taken
                .admitted
                .shown_at(row)
                .is_some_and(|shown| shown.moment.clock_replaced),
        })
    }

    fn builder(&self, now_ns: i64) -> Builder<'_> {
        Builder {
            set: &self.set,
            hosts: &self.hosts,
            topic: &self.evidence_topic,
            mode: self.mode,
            now_ns,
        }
    }

    /// Says an alert or counts it; `records` are those of the step.
    fn fold(&mut self, candidate: Candidate<'_>, records: &[InputRecord]) -> Option<Alert> {
        let alert = match candidate.said {
            Said::Alert(alert) => *alert,
            Said::Notice(notice) => {
                let record = records.get(candidate.order.row as usize)?;
                return self.fold_notice(record, candidate.slot, candidate.time, &notice);
            }
        };
        let Some(detection) = candidate.order.detection else {
            return Some(alert);
        };
        let partition = partition_of(candidate.slot);
        if candidate.repeated {
            // The last word on a window follows its first.
            let counted = self.folds.was_counted(partition, &alert.alert_id);
            return (!counted).then_some(alert);
        }
        let dedup = &self.set.at(detection).header.dedup;
        match self
            .folds
            .take(candidate.slot, candidate.time, dedup, &alert)
        {
            Verdict::Say => Some(alert),
            Verdict::Count => {
                if candidate.early {
                    self.folds.count_window(partition, &alert.alert_id);
                }
                None
            }
        }
    }

    /// Ends the periods of a slot up to a time; each with the row that ended it.
    fn end_due(&mut self, progress: &Progress, slot: i64, time: i64) -> Vec<(u32, Alert)> {
        if !self.folds.due(slot, time) {
            return Vec::new();
        }
        let row = |end: i64| progress.reaches(slot, end, u32::MAX).unwrap_or(0);
        let ended = self.folds.end(slot, time);
        ended
            .into_iter()
            .map(|(end, alert)| (row(end), alert))
            .collect()
    }

    /// Ends all periods of a slot whose windows end: each with the row that ended it.
    fn end_stretch(&mut self, progress: &Progress, end: End) -> Vec<(u32, Alert)> {
        let row = |period_end: i64| {
            let reached = progress.reaches(end.slot, period_end, end.row.saturating_add(1));
            reached.unwrap_or(end.row)
        };
        let ended = self.folds.end(end.slot, i64::MAX);
        ended
            .into_iter()
            .map(|(period_end, alert)| (row(period_end), alert))
            .collect()
    }

    /// Ends all periods of a slot.
    fn end_periods(&mut self, slot: i64) -> Vec<Alert> {
        let ended = self.folds.end(slot, i64::MAX);
        ended.into_iter().map(|(_, alert)| alert).collect()
    }

    /// Notes what detections could not judge: rows, and groups of windows at the row that made them be asked.
    fn note_failures(&self, taken: &Taken, windows: &WindowOutput, output: &mut StepOutput) {
        let unjudged = taken.unjudged.iter().chain(&windows.unjudged);
        let rows = unjudged.map(|row| (row.row, row.detection, false, &row.error));
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
                partition: record.partition,
                offset: record.offset,
                of_window,
                place: format!("{}:{}", own.file.display(), own.query_line),
                error: error.clone(),
            });
        }
    }

    /// What the engine finds of rows: detections that cannot judge them, clocks that are not to be believed.
    fn notices<'n>(&self, taken: &'n Taken, windows: &'n WindowOutput) -> Vec<Candidate<'n>> {
        let builder = self.builder(0);
        let shown = &taken.admitted.shown;
        let replaced = shown.iter().filter(|shown| shown.moment.clock_replaced);
        let clock = Notice {
            health: Health::ClockReplaced,
            detection: None,
            error: "",
        };
        let clocks = replaced.map(|shown| builder.notice(shown, clock));
        let unjudged = taken.unjudged.iter().chain(&windows.unjudged);
        let judges = unjudged.filter_map(|unjudged| {
            let notice = Notice {
                health: Health::CannotJudge,
                detection: Some(unjudged.detection),
                error: &unjudged.error,
            };
            let shown = taken.admitted.shown_at(unjudged.row)?;
            Some(builder.notice(shown, notice))
        });
        clocks.chain(judges).collect()
    }

    /// Says what the engine found, once an hour and host; repeats are counted.
    fn fold_notice(
        &mut self,
        record: &InputRecord,
        slot: i64,
        time: i64,
        notice: &Notice<'_>,
    ) -> Option<Alert> {
        let about = notice
            .detection
            .map_or("", |own| self.set.at(own).id.as_str());
        let owner = self.hosts.owner(slot);
        let key = notice.health.dedup_key(&owner.host_id, about);
        if self.folds.repeats(slot, &key) {
            return None;
        }
        let event = self.whole.decode(record).ok()?;
        let alert = self.builder(0).finding(slot, time, notice, &event, record);
        match self.folds.take(slot, time, &NOTICES, &alert) {
            Verdict::Say => Some(alert),
            Verdict::Count => None,
        }
    }
}

/// The clock, as the engine takes it: nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since_epoch.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// What was taken of a step and is not said yet. Rows are counted over all of it.
#[derive(Default)]
struct Taken {
    /// One for each row.
    records: Vec<InputRecord>,
    /// The columns that windows read, in chunks; none where there are no windows.
    batches: Vec<RecordBatch>,
    admitted: Admitted,
    /// Matches of detections on single events, by row, then by detection.
    found: Vec<Found>,
    unjudged: Vec<Unjudged>,
    /// What is counted and set apart so far.
    output: StepOutput,
}

impl Taken {
    /// Forgets what was said; the memory is for the next step, which need not ask the system for it and have it zeroed.
    fn clear(&mut self) {
        self.records.clear();
        self.batches.clear();
        self.admitted.shown.clear();
        self.admitted.losses.clear();
        self.admitted.progress = Progress::default();
        self.found.clear();
        self.unjudged.clear();
    }
}

/// The rows of a step that detections may see, and how time went on in it.
#[derive(Debug, Default)]
struct Admitted {
    shown: Vec<Shown>,
    /// What the sensor of each shown row said is lost so far.
    losses: Vec<Option<Arc<Losses>>>,
    progress: Progress,
}

impl Admitted {
    fn place(&self, row: u32) -> Option<usize> {
        self.shown
            .binary_search_by_key(&row, |shown| shown.row)
            .ok()
    }

    fn shown_at(&self, row: u32) -> Option<&Shown> {
        self.place(row).map(|place| &self.shown[place])
    }

    fn losses_of(&self, row: u32) -> &Losses {
        let losses = self
            .place(row)
            .and_then(|place| self.losses[place].as_deref());
        losses.unwrap_or(&NO_LOSSES)
    }

    /// The slot in whose periods the word of a window is folded, and the host's time after the row that made it speak.
    fn fold_place(&self, word: &Word, ends: &[End]) -> (i64, i64) {
        let of_word = || {
            ends.iter()
                .filter(|end| end.row == word.row && end.slot == word.slot)
        };
        // What a step closes is said in the time that begins with it: nothing would end a period of the time that is over.
        let stepped = of_word().find_map(|end| match end.kind {
            EndKind::Step { high, next } => Some((next, high)),
            EndKind::Silence { .. } => None,
        });
        let silent = of_word().find_map(|end| match end.kind {
            EndKind::Silence { flush_high } => Some(flush_high),
            EndKind::Step { .. } => None,
        });
        stepped.unwrap_or_else(|| {
            let time = self.progress.at(word.slot, word.row).or(silent);
            (word.slot, time.unwrap_or(word.end))
        })
    }
}

/// The columns that the engine itself reads.
struct Columns<'a> {
    host_id: &'a StringViewArray,
    host_name: &'a StringViewArray,
    ts: &'a TimestampNanosecondArray,
    sensor_run: &'a StringViewArray,
    seq: &'a Int64Array,
    event_type: &'a StringViewArray,
    losses: &'a ArrayRef,
}

impl<'a> Columns<'a> {
    fn of(decoded: &'a Decoded) -> Result<Self, ArrowError> {
        let column = |name: &str| {
            Ok::<_, ArrowError>(
                decoded
                    .batch
                    .column(decoded.batch.schema_ref().index_of(name)?),
            )
        };
        Ok(Self {
            host_id: column("host_id")?.as_string_view(),
            host_name: column("host_name")?.as_string_view(),
            ts: column("ts")?.as_primitive::<TimestampNanosecondType>(),
            sensor_run: column("sensor_run")?.as_string_view(),
            seq: column("seq")?.as_primitive::<Int64Type>(),
            event_type: column(EVENT_TYPE)?.as_string_view(),
            losses: column("evt_losses")?,
        })
    }

    /// The losses above zero of a mark row.
    fn losses(&self, row: usize) -> Losses {
        if self.losses.is_null(row) {
            return Losses::new();
        }
        let Value::Object(losses) = json::value(self.losses.as_ref(), row) else {
            return Losses::new();
        };
        let above_zero = |(class, count): (String, Value)| {
            Some((
                cut(&class).into(),
                count.as_i64().filter(|count| *count > 0)?,
            ))
        };
        let above_zero = losses.into_iter().filter_map(above_zero);
        above_zero.take(LOSS_CLASSES_MAX).collect()
    }
}

/// A name, cut where it is too long.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}
