//! From records of the log to an Arrow batch: rows of the table `events`.
//!
//! ```text
//! InputRecord ─► Decoder (only the columns that loaded SQL needs) ─► batch + _partition, _offset, ingest_ts
//!        └─ bad bytes ─► DeadLetter        └─ schema not known ─► unknown, apart: to be looked up
//! ```
//! All partitions share the batch; row `n` of the batch is `records[n]`.
//! What a detection matched is decoded again, whole, from the bytes that are kept for the step.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::framing;
use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json;

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
    let own = BatchDecoder::new(Event::SCHEMA, None)
        .expect("the crate's own schema compiles, a test holds it");
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

/// Decodes events to rows of some columns.
pub(crate) struct Decoder(BatchDecoder);

impl Decoder {
    /// Compiles a decoder for these columns; those of the log are always there.
    pub fn new(columns: &BTreeSet<&str>) -> Result<Self, SchemaError> {
        let of_record: Vec<&str> = columns
            .iter()
            .copied()
            .filter(|column| !LOG_COLUMNS.contains(column))
            .collect();
        Ok(Self(BatchDecoder::new(Event::SCHEMA, Some(&of_record))?))
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
            if record.topic != Topic::Events {
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

/// Decodes single events whole.
pub(crate) struct EventDecoder(BatchDecoder);

impl EventDecoder {
    /// Compiles a decoder for all columns.
    pub fn new() -> Result<Self, SchemaError> {
        Ok(Self(BatchDecoder::new(Event::SCHEMA, None)?))
    }

    /// Makes a writer's schema known.
    pub fn register(&mut self, schema: &str) -> Result<Fingerprint, SchemaError> {
        self.0.register(schema)
    }

    /// Decodes one record, whatever schema it was written with.
    pub fn decode(&mut self, record: &InputRecord) -> Result<Event, RejectError> {
        match Event::decode_framed(&record.value) {
            Err(DecodeError::UnknownSchema(_)) => self.decode_resolved(record),
            event => event.map_err(RejectError::Undecodable),
        }
    }

    /// Decodes a record of an older or newer writer.
    fn decode_resolved(&mut self, record: &InputRecord) -> Result<Event, RejectError> {
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
