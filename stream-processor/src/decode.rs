//! From records of the log to an Arrow batch: rows of the table `events`.
//!
//! ```text
//! InputRecord ─► Decoder (only the columns that loaded SQL needs) ─► batch + _partition, _offset, ingest_ts
//!        └─ bad bytes ─► DeadLetter        └─ schema not known ─► unknown, apart: to be looked up
//! ```
//! All partitions share the batch; row `n` of the batch is `records[n]`.
//! What a detection matched is decoded again, whole, from the bytes that are kept for the step.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::Text;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::framing;
use dogwatch_schemas::records::{ContainerSample, Event, IoSample, ProcessSample, SyscallSample};
use dogwatch_schemas::topics::Topic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json;
use crate::tables::Table;

/// Columns of `events` that are the log's, not the record's.
const LOG_COLUMNS: [&str; 3] = ["_partition", "_offset", "ingest_ts"];

/// One partition of an input topic: a log.
pub type Partition = (Topic, i32);

/// One record as it came from a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputRecord {
    /// The topic.
    pub topic: Topic,
    /// The partition: the number of the task.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// When the broker appended it, nanoseconds since 1970; none where there is no broker.
    pub ingest_ts_ns: Option<i64>,
    /// The key: the host id.
    pub key: Bytes,
    /// The framed record.
    pub value: Bytes,
}

impl InputRecord {
    /// The log that it is in.
    #[must_use]
    pub fn log(&self) -> Partition {
        (self.topic, self.partition)
    }

    /// The same record in memory of its own.
    /// As read it is a slice of its batch's buffer and holds all of that: what outlives its step must not.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            key: Bytes::copy_from_slice(&self.key),
            value: Bytes::copy_from_slice(&self.value),
            ..*self
        }
    }
}

/// A record that cannot be used, with the reason; nothing is dropped silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record as it came.
    pub record: InputRecord,
    /// Why it cannot be used.
    pub error: RejectError,
}

impl DeadLetter {
    /// Sets a record apart, in memory of its own.
    #[must_use]
    pub fn new(record: &InputRecord, error: RejectError) -> Self {
        Self {
            record: record.detached(),
            error,
        }
    }
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectError {
    /// Its bytes are no record.
    #[error("could not decode the record: {0}")]
    Undecodable(DecodeError),
    /// It decodes to values that no event has.
    #[error("could not read the record as an event: {0}")]
    NoEvent(String),
    /// It claims another host than its key, so its partition is not that host's.
    #[error("host_id {host_id:?} is not the record's key {key:?}")]
    KeyDisagrees {
        /// What the record says.
        host_id: String,
        /// What the key says.
        key: String,
    },
    /// The name of its host or of its sensor's run is longer than any is.
    #[error("host_id or sensor_run is longer than 256 bytes")]
    IdentityTooLong,
    /// It is no record of the exchange.
    #[error("could not read the record of the exchange: {0}")]
    NoFlush(String),
    /// It came on a topic that is no table of this engine.
    #[error("no table takes records of {}", .0.suffix())]
    NoTable(Topic),
}

impl RejectError {
    /// A short name of the reason, for counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Undecodable(_) | Self::NoEvent(_) | Self::NoFlush(_) => "undecodable",
            Self::KeyDisagrees { .. } => "key_disagrees",
            Self::IdentityTooLong => "identity_too_long",
            Self::NoTable(_) => "no_table",
        }
    }
}

/// The table `events` as SQL sees it: every field of the schema and the log's columns.
pub(crate) fn events_schema() -> SchemaRef {
    table_schema(Table::Events)
}

/// A table as SQL sees it.
pub(crate) fn table_schema(table: Table) -> SchemaRef {
    let own = BatchDecoder::new(table.record(), None)
        .expect("the crate's own schemas compile, a test holds it");
    with_log_columns(&own.arrow_schema())
}

fn with_log_columns(schema: &SchemaRef) -> SchemaRef {
    let [partition, offset, ingest_ts] = LOG_COLUMNS;
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(partition, DataType::Int32, false)));
    fields.push(Arc::new(Field::new(offset, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(
        ingest_ts,
        DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
        true,
    )));
    Arc::new(Schema::new(fields))
}

/// What became of records.
pub(crate) struct Decoded {
    /// One row for each of `records`.
    pub batch: RecordBatch,
    /// The records that are rows, in the order they came.
    pub records: Vec<InputRecord>,
    /// The records that are none.
    pub dead_letters: Vec<DeadLetter>,
    /// The records whose schema must be looked up first.
    pub unknown_schemas: Vec<(Fingerprint, InputRecord)>,
    /// The records that did not fit into the batch any more.
    pub rest: Vec<InputRecord>,
}

/// Decodes records of a table to rows of some columns.
pub(crate) struct Decoder(BatchDecoder, Topic);

impl Decoder {
    /// Compiles a decoder for these columns; those of the log are always there.
    pub fn new(table: Table, columns: &BTreeSet<&str>) -> Result<Self, SchemaError> {
        let of_record: Vec<&str> = columns
            .iter()
            .copied()
            .filter(|column| !LOG_COLUMNS.contains(column))
            .collect();
        let decoder = BatchDecoder::new(table.record(), Some(&of_record))?;
        Ok(Self(decoder, table.topic()))
    }

    /// Makes a writer's schema known.
    pub fn register(&mut self, schema: &str) -> Result<Fingerprint, SchemaError> {
        self.0.register(schema)
    }

    /// The fingerprint of the record's schema, when it is framed and its schema not known.
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        let (fingerprint, _) = framing::split(&record.value).ok()?;
        (!self.0.knows(fingerprint)).then_some(fingerprint)
    }

    /// Decodes records, as many as one batch takes: usually all, at least one.
    pub fn decode(&mut self, mut records: Vec<InputRecord>) -> Result<Decoded, ArrowError> {
        let mut refused = Vec::new();
        let mut read = records.len();
        for (place, record) in records.iter().enumerate() {
            if record.topic != self.1 {
                refused.push((place, RejectError::NoTable(record.topic)));
                continue;
            }
            match self.0.push(&record.value) {
                Ok(()) => {}
                Err(DecodeError::BatchFull { rows }) if rows > 0 => {
                    read = place;
                    break;
                }
                Err(error) => refused.push((place, RejectError::Undecodable(error))),
            }
        }
        let rest = records.split_off(read);
        let (mut dead_letters, mut unknown_schemas) = (Vec::new(), Vec::new());
        if !refused.is_empty() {
            let mut refused = refused.into_iter().peekable();
            let mut rows = Vec::with_capacity(records.len());
            for (place, record) in records.into_iter().enumerate() {
                match refused.next_if(|(at, _)| *at == place) {
                    None => rows.push(record),
                    Some((_, RejectError::Undecodable(DecodeError::UnknownSchema(schema)))) => {
                        unknown_schemas.push((schema, record.detached()));
                    }
                    Some((_, error)) => dead_letters.push(DeadLetter::new(&record, error)),
                }
            }
            records = rows;
        }
        Ok(Decoded {
            batch: add_log_columns(&self.0.finish(), &records)?,
            records,
            dead_letters,
            unknown_schemas,
            rest,
        })
    }
}

/// A row of a table whole, as an alert tells it: what it has of an event, and the row itself.
#[derive(Debug)]
pub(crate) struct Whole {
    event: Event,
    /// The row as JSON, where it is no event.
    told: Option<Text>,
}

impl Deref for Whole {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

impl Whole {
    /// The row as compact JSON.
    pub fn json(&self) -> Text {
        match &self.told {
            Some(told) => told.clone(),
            None => as_json(&self.event),
        }
    }
}

/// Records have text keys and no numbers beyond JSON, so this cannot fail.
fn as_json(record: &impl Serialize) -> Text {
    serde_json::to_string(record).unwrap_or_default().into()
}

/// What a sample has in common with an event.
macro_rules! as_event {
    ($sample:ident, of a process) => {
        Event {
            proc_key: $sample.proc_key.clone(),
            proc_pid: $sample.proc_pid,
            proc_name: $sample.proc_name.clone(),
            proc_exepath: $sample.proc_exepath.clone(),
            proc_stage: $sample.proc_stage.clone(),
            user_host_uid: $sample.user_host_uid,
            ..as_event!($sample)
        }
    };
    ($sample:ident) => {
        Event {
            host_id: $sample.host_id.clone(),
            host_name: $sample.host_name.clone(),
            host_tags: $sample.host_tags.clone(),
            boot_id: $sample.boot_id.clone(),
            sensor_run: $sample.sensor_run.clone(),
            seq: $sample.seq,
            ts: $sample.ts,
            boot_ts: $sample.boot_ts,
            evt_type: $sample.evt_type.clone(),
            container_id: $sample.container_id.clone(),
            container_full_id: $sample.container_full_id.clone(),
            container_name: $sample.container_name.clone(),
            container_type: $sample.container_type.clone(),
            container_image: $sample.container_image.clone(),
            container_image_repository: $sample.container_image_repository.clone(),
            container_image_tag: $sample.container_image_tag.clone(),
            k8s_pod_name: $sample.k8s_pod_name.clone(),
            k8s_ns_name: $sample.k8s_ns_name.clone(),
            ..Event::default()
        }
    };
}

/// Decodes single rows of a table whole.
pub(crate) struct EventDecoder(BatchDecoder, Table);

impl EventDecoder {
    /// Compiles a decoder for all columns.
    pub fn new(table: Table) -> Result<Self, SchemaError> {
        Ok(Self(BatchDecoder::new(table.record(), None)?, table))
    }

    /// Makes a writer's schema known.
    pub fn register(&mut self, schema: &str) -> Result<Fingerprint, SchemaError> {
        self.0.register(schema)
    }

    /// Decodes one record, whatever schema it was written with.
    pub fn decode(&mut self, record: &InputRecord) -> Result<Whole, RejectError> {
        match self.1 {
            Table::Events => {
                let event = self.read(record, Event::decode_framed)?;
                Ok(Whole { event, told: None })
            }
            Table::ContainerSamples => {
                let sample = self.read(record, ContainerSample::decode_framed)?;
                let told = Some(as_json(&sample));
                let event = as_event!(sample);
                Ok(Whole { event, told })
            }
            Table::ProcessSamples => {
                let sample = self.read(record, ProcessSample::decode_framed)?;
                let told = Some(as_json(&sample));
                let event = as_event!(sample, of a process);
                Ok(Whole { event, told })
            }
            Table::SyscallSamples => {
                let sample = self.read(record, SyscallSample::decode_framed)?;
                let told = Some(as_json(&sample));
                let event = as_event!(sample, of a process);
                Ok(Whole { event, told })
            }
            Table::IoSamples => {
                let sample = self.read(record, IoSample::decode_framed)?;
                let told = Some(as_json(&sample));
                let event = as_event!(sample, of a process);
                Ok(Whole { event, told })
            }
        }
    }

    /// Reads a record of this version, or of an older or newer writer.
    fn read<T: DeserializeOwned>(
        &mut self,
        record: &InputRecord,
        framed: fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, RejectError> {
        match framed(&record.value) {
            Err(DecodeError::UnknownSchema(_)) => {}
            read => return read.map_err(RejectError::Undecodable),
        }
        self.0
            .push(&record.value)
            .map_err(RejectError::Undecodable)?;
        first_record(&self.0.finish()).map_err(|error| RejectError::NoEvent(error.to_string()))
    }
}

/// A batch's first row as a record; columns that are null or missing take their defaults.
pub(crate) fn first_record<T: DeserializeOwned>(batch: &RecordBatch) -> serde_json::Result<T> {
    let mut fields = json::row(&json::named(batch), 0);
    fields.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(fields))
}

fn add_log_columns(
    batch: &RecordBatch,
    records: &[InputRecord],
) -> Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(Int32Array::from_iter_values(
        records.iter().map(|record| record.partition),
    )));
    columns.push(Arc::new(Int64Array::from_iter_values(
        records.iter().map(|record| record.offset),
    )));
    let ingest_ts: TimestampNanosecondArray =
        records.iter().map(|record| record.ingest_ts_ns).collect();
    columns.push(Arc::new(ingest_ts.with_timezone("+00:00")));
    RecordBatch::try_new(with_log_columns(&batch.schema()), columns)
}
