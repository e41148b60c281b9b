//! From records of the log to one Arrow batch: the table `events` of one step.
//!
//! ```text
//! InputRecord ─► BatchDecoder (only the columns that loaded SQL needs) ─► batch + _partition, _offset, ingest_ts
//!        └─ bad bytes ─► DeadLetter        └─ schema not known ─► unknown, apart: to be looked up
//! ```
//! All partitions share the batch; row `n` of the batch is `records[n]`. The parts of a large step are decoded side by side.
//! What a detection matched is decoded again, whole, from the bytes that are kept for the step.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::framing;
use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use serde_json::Value;

use crate::detect::json;
use crate::parallel::{cores, side_by_side};

/// Columns of `events` that are the log's, not the record's.
const LOG_COLUMNS: [&str; 3] = ["_partition", "_offset", "ingest_ts"];

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
    /// It came on a topic that is no table of this engine.
    #[error("no table takes records of {}", .0.suffix())]
    NoTable(Topic),
}

impl RejectError {
    /// A short name of the reason, for counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Undecodable(_) | Self::NoEvent(_) => "undecodable",
            Self::KeyDisagrees { .. } => "key_disagrees",
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

/// What became of the records of a step.
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

/// From how many records on the parts of a step are decoded side by side: below, a thread costs more than it saves.
const PARALLEL_ROWS_MIN: usize = if cfg!(test) { 8 } else { 4096 };
/// Bytes of records that fit into one batch whatever they are; a step with more is decoded as far as a batch reaches.
const PARALLEL_BYTES_MAX: usize = 1 << 30;
/// Most parts of a step: decoding is no longer what takes the time then.
const PARTS_MAX: usize = 4;

/// Decodes events: all rows narrowly, single rows whole.
pub(crate) struct Decoder {
    /// One for each part of a step.
    narrow: Vec<BatchDecoder>,
    whole: BatchDecoder,
}

/// A part of a step.
struct Part {
    batch: RecordBatch,
    /// How many records it has read; fewer than there are when the batch was full.
    read: usize,
    /// Those of them that are no rows, by place.
    refused: Vec<(usize, RejectError)>,
}

impl Part {
    fn decode(decoder: &mut BatchDecoder, records: &[InputRecord]) -> Self {
        let mut refused = Vec::new();
        let mut read = records.len();
        for (place, record) in records.iter().enumerate() {
            if record.topic != Topic::Events {
                refused.push((place, RejectError::NoTable(record.topic)));
                continue;
            }
            match decoder.push(&record.value) {
                Ok(()) => {}
                Err(DecodeError::BatchFull { rows }) if rows > 0 => {
                    read = place;
                    break;
                }
                Err(error) => refused.push((place, RejectError::Undecodable(error))),
            }
        }
        Self {
            batch: decoder.finish(),
            read,
            refused,
        }
    }
}

impl Decoder {
    /// Compiles decoders for these columns; those of the log are always there.
    pub fn new(columns: &BTreeSet<&str>) -> Result<Self, SchemaError> {
        let of_record: Vec<&str> = columns
            .iter()
            .copied()
            .filter(|column| !LOG_COLUMNS.contains(column))
            .collect();
        let narrow =
            (0..cores().min(PARTS_MAX)).map(|_| BatchDecoder::new(Event::SCHEMA, Some(&of_record)));
        Ok(Self {
            narrow: narrow.collect::<Result<_, _>>()?,
            whole: BatchDecoder::new(Event::SCHEMA, None)?,
        })
    }

    /// Makes a writer's schema known.
    pub fn register(&mut self, schema: &str) -> Result<Fingerprint, SchemaError> {
        for decoder in &mut self.narrow {
            decoder.register(schema)?;
        }
        self.whole.register(schema)
    }

    /// The fingerprint of the record's schema, when it is framed and its schema not known.
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        let (fingerprint, _) = framing::split(&record.value).ok()?;
        (!self.narrow[0].knows(fingerprint)).then_some(fingerprint)
    }

    /// Decodes the records of a step.
    pub fn decode(&mut self, mut records: Vec<InputRecord>) -> Result<Decoded, ArrowError> {
        let parts = self.parts(&records);
        let rest = records.split_off(parts.iter().map(|part| part.read).sum());
        let batches = parts.iter().map(|part| &part.batch);
        let batch = concat_batches(&parts[0].batch.schema(), batches)?;
        let (mut before, mut refused) = (0, Vec::new());
        for part in parts {
            let own = part.refused.into_iter();
            refused.extend(own.map(|(place, error)| (before + place, error)));
            before += part.read;
        }
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
            batch: add_log_columns(&batch, &records)?,
            records,
            dead_letters,
            unknown_schemas,
            rest,
        })
    }

    /// Decodes all records, or as many as one batch takes; at least one part.
    fn parts(&mut self, records: &[InputRecord]) -> Vec<Part> {
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        if records.len() < PARALLEL_ROWS_MIN || bytes > PARALLEL_BYTES_MAX {
            return vec![Part::decode(&mut self.narrow[0], records)];
        }
        let shares = records.chunks(records.len().div_ceil(self.narrow.len()));
        side_by_side(self.narrow.iter_mut().zip(shares), |(decoder, share)| {
            Part::decode(decoder, share)
        })
    }

    /// Decodes one record whole, whatever schema it was written with.
    pub fn decode_whole(&mut self, record: &InputRecord) -> Result<Event, RejectError> {
        self.whole
            .push(&record.value)
            .map_err(RejectError::Undecodable)?;
        let batch = self.whole.finish();
        let columns: Vec<(&str, ArrayRef)> = batch
            .schema_ref()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| (field.name().as_str(), Arc::clone(column)))
            .collect();
        let mut fields = json::row(&columns, 0);
        fields.retain(|_, value| !value.is_null());
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| RejectError::NoEvent(error.to_string()))
    }
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
