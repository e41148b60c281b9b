//! The engine: records of the log in, alerts out, one step at a time.
//!
//! ```text
//! records ─► decode ─► history (marks, repeats, keys) ─► matcher ─► decode matches whole ─► alert
//! ```
//! What it says of a record is a function of the log before it and of the loaded detections: not of how the records were
//! cut into steps, nor of which partitions share one. It does no I/O; the clock only stamps `alert_ts`.
//! Panes, baselines and sequences will stand between `history` and `matcher`, with their state beside `History`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::Text;
use dogwatch_schemas::decode::SchemaError;
use dogwatch_schemas::records::Alert;
use serde_json::Value;

use crate::alert::{self, AlertMode, Origin};
use crate::decode::{DeadLetter, Decoded, Decoder, InputRecord, RejectError, events_schema};
use crate::detect::{DetectionSet, json};

mod history;
mod matcher;
#[cfg(test)]
mod tests;

use history::{History, Losses, Place};
use matcher::{Found, Matcher, Unjudged};

/// Columns that the engine itself reads.
const OWN_COLUMNS: [&str; 5] = ["host_id", "sensor_run", "seq", "evt_type", "evt_losses"];

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
    /// A batch could not be routed to the detections.
    #[error("could not route the step's batch")]
    Route(#[from] DataFusionError),
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
    /// The records whose schema is not known: look it up, register it, and hand them in again.
    pub unknown_schemas: Vec<(Fingerprint, InputRecord)>,
    /// Events that a detection could not judge; the other detections did.
    pub failures: Vec<Failure>,
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

/// A piece of a task's state as it goes to the topic of states: at most 512 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRecord {
    /// Its name in the task; a later piece of the same name replaces it.
    pub key: String,
    /// Its bytes; none when the piece is over.
    pub value: Option<Vec<u8>>,
}

/// What windows may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// A host not heard of for so long, of its partition's ingest time, has its windows closed.
    pub host_silence: Duration,
    /// Most keys a group of detections counts in one task and pane.
    pub keys_max: usize,
    /// Most memory that the operators of one plan may take, bytes.
    pub memory_bytes_max: usize,
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self {
            host_silence: Duration::from_secs(600),
            keys_max: 100_000,
            memory_bytes_max: 1 << 30,
        }
    }
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
}

/// Runs a set of detections over the log.
pub struct Engine {
    set: DetectionSet,
    mode: AlertMode,
    evidence_topic: Text,
    decoder: Decoder,
    matcher: Matcher,
    history: History,
}

impl Engine {
    /// Makes an engine; sensors of this version need no schema registered.
    ///
    /// # Errors
    /// When the schema of events cannot be compiled for the columns that the detections read.
    pub fn new(set: DetectionSet, mode: AlertMode) -> Result<Self, EngineError> {
        let mut columns: BTreeSet<&str> = set
            .iter()
            .flat_map(|detection| detection.columns())
            .collect();
        columns.extend(OWN_COLUMNS);
        let decoder = Decoder::new(&columns)?;
        let matcher = Matcher::new(&set, &events_schema());
        Ok(Self {
            decoder,
            matcher,
            set,
            mode,
            evidence_topic: "local".into(),
            history: History::default(),
        })
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

    /// Makes a writer's schema of events known, as JSON.
    ///
    /// # Errors
    /// When the schema is no Avro schema or cannot be read as an event.
    pub fn register_schema(&mut self, schema: &str) -> Result<Fingerprint, EngineError> {
        Ok(self.decoder.register(schema)?)
    }

    /// The fingerprint of a record's schema when it must be registered before the record can be used.
    #[must_use]
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        self.decoder.unknown_schema(record)
    }

    /// Forgets what it knows of a partition that is no longer its own.
    pub fn forget_partition(&mut self, partition: i32) {
        self.history.forget(partition);
    }

    /// Says what windows may take.
    #[must_use]
    pub fn with_windows(self, _options: WindowOptions) -> Self {
        self
    }

    /// What changed in a task since the last call, or all of it.
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn checkpoint(
        &mut self,
        _partition: i32,
        _full: bool,
    ) -> Result<Vec<StateRecord>, EngineError> {
        Ok(Vec::new())
    }

    /// Takes a task over as its last checkpoint left it. What is read below `live_from` was said before: it is replayed muted.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        _partition: i32,
        _state: BTreeMap<String, Vec<u8>>,
        _live_from: i64,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Says whether a task waits for time to pass: an idle partition needs a mark to get on.
    #[must_use]
    pub fn waits(&self, _partition: i32) -> bool {
        false
    }

    /// How large the state of all tasks is.
    #[must_use]
    pub fn state_size(&self) -> StateSize {
        StateSize::default()
    }

    /// Ends a bounded input: every open window closes.
    ///
    /// # Errors
    /// When the last step fails as a whole.
    pub fn finish(&mut self, _now_ns: i64) -> Result<StepOutput, EngineError> {
        Ok(StepOutput::default())
    }

    /// Takes the next records, each partition's in the order of its offsets.
    ///
    /// Must be called from a plain thread, not from an async task.
    ///
    /// # Errors
    /// When the step fails as a whole, which no input makes it do.
    pub fn step(&mut self, records: Vec<InputRecord>) -> Result<StepOutput, EngineError> {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.step_at(
            records,
            i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX),
        )
    }

    /// As [`Engine::step`], with the time that goes into `alert_ts`, nanoseconds since 1970.
    ///
    /// # Errors
    /// When the step fails as a whole, which no input makes it do.
    pub fn step_at(
        &mut self,
        records: Vec<InputRecord>,
        now_ns: i64,
    ) -> Result<StepOutput, EngineError> {
        let mut output = StepOutput::default();
        output.counts.records = records.len() as u64;
        let mut rest = records;
        while !rest.is_empty() {
            rest = self.run_batch(rest, now_ns, &mut output)?;
        }
        Ok(output)
    }

    /// Takes as many records as one batch holds, usually all; returns the rest.
    fn run_batch(
        &mut self,
        records: Vec<InputRecord>,
        now_ns: i64,
        output: &mut StepOutput,
    ) -> Result<Vec<InputRecord>, EngineError> {
        let decoded = self.decoder.decode(records)?;
        let columns = Columns::of(&decoded)?;
        let admitted = self.admit(&decoded, &columns, output);
        let rows: Vec<u32> = admitted.keys().copied().collect();
        let (found, unjudged) =
            self.matcher
                .run(&self.set, &decoded.batch, columns.event_type, &rows)?;
        output.failures.extend(
            unjudged
                .iter()
                .map(|unjudged| self.failure(&decoded, unjudged)),
        );
        self.alerts(&decoded, &admitted, &found, now_ns, output);
        output.dead_letters.extend(decoded.dead_letters);
        output.unknown_schemas.extend(decoded.unknown_schemas);
        Ok(decoded.rest)
    }

    /// Rows that detections may see, each with what its sensor said is lost so far.
    fn admit(
        &mut self,
        decoded: &Decoded,
        columns: &Columns<'_>,
        output: &mut StepOutput,
    ) -> BTreeMap<u32, Arc<Losses>> {
        let mut admitted = BTreeMap::new();
        for (row, record) in decoded.records.iter().enumerate() {
            let (host_id, sensor_run) = (columns.host_id.value(row), columns.sensor_run.value(row));
            if record.key != host_id.as_bytes() {
                let key = String::from_utf8_lossy(&record.key).into_owned();
                let error = RejectError::KeyDisagrees {
                    host_id: host_id.to_owned(),
                    key,
                };
                output.dead_letters.push(DeadLetter {
                    record: record.clone(),
                    error,
                });
                continue;
            }
            match self.history.take(
                record.partition,
                record.offset,
                host_id,
                sensor_run,
                columns.seq.value(row),
            ) {
                Place::Repeated => {
                    output.counts.repeated += 1;
                    continue;
                }
                Place::New { missing } => output.counts.missing += missing,
            }
            if columns.event_type.value(row) == MARK {
                output.counts.marks += 1;
                self.history.note_losses(
                    record.partition,
                    host_id,
                    sensor_run,
                    columns.losses(row),
                );
                continue;
            }
            output.counts.events += 1;
            admitted.insert(
                row as u32,
                self.history.losses(record.partition, host_id, sensor_run),
            );
        }
        admitted
    }

    /// Builds the alerts of what was found; each matched event is decoded whole once.
    fn alerts(
        &mut self,
        decoded: &Decoded,
        admitted: &BTreeMap<u32, Arc<Losses>>,
        found: &[Found],
        now_ns: i64,
        output: &mut StepOutput,
    ) {
        for of_one_row in found.chunk_by(|(_, left), (_, right)| left.row == right.row) {
            let row = of_one_row[0].1.row;
            let record = &decoded.records[row as usize];
            let event = match self.decoder.decode_whole(record) {
                Ok(event) => event,
                Err(error) => {
                    output.dead_letters.push(DeadLetter {
                        record: record.clone(),
                        error,
                    });
                    continue;
                }
            };
            let origin = Origin {
                topic: &self.evidence_topic,
                partition: record.partition,
                offset: record.offset,
                ingest_ts_ns: record.ingest_ts_ns,
                alert_ts_ns: now_ns,
                mode: self.mode,
                losses: &admitted[&row],
            };
            let alerts = of_one_row.iter().map(|(detection, found)| {
                alert::build(self.set.at(*detection), &event, &found.values, &origin)
            });
            output.alerts.extend(alerts);
        }
    }

    fn failure(&self, decoded: &Decoded, unjudged: &Unjudged) -> Failure {
        let record = &decoded.records[unjudged.row as usize];
        Failure {
            detection_id: self.set.at(unjudged.detection).id.clone(),
            partition: record.partition,
            offset: record.offset,
            error: unjudged.error.strip_backtrace(),
        }
    }
}

/// The columns that the engine itself reads.
struct Columns<'a> {
    host_id: &'a StringViewArray,
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
            sensor_run: column("sensor_run")?.as_string_view(),
            seq: column("seq")?.as_primitive::<Int64Type>(),
            event_type: column("evt_type")?.as_string_view(),
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
                class.as_str().into(),
                count.as_i64().filter(|count| *count > 0)?,
            ))
        };
        losses.into_iter().filter_map(above_zero).collect()
    }
}
