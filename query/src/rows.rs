//! From records of a topic to rows of its table: only the columns that a query reads are decoded.
//!
//! ```text
//! record ─┬─ value ──► BatchDecoder ─┐
//!         ├─ headers, key ──────────┼─► columns of the query, without marks, within --since and --until
//!         └─ partition, offset ─────┘
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch,
    RecordBatchOptions, StringViewArray, TimestampNanosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use arrow::error::ArrowError;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};

use crate::tables::{Beside, INGEST_TS, Origin, Table};

/// Rows of a batch at most.
const ROWS_MAX: usize = 8_192;
/// Bytes of the records of a batch, at most and the last one more.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of a record that are told as hexadecimal digits.
const HEX_BYTES: usize = 256;
/// The column by which marks are known.
const EVT_TYPE: &str = "evt_type";
/// Rows by which sensors say how far they have come: they are no events.
const MARK: &str = "mark";

/// A record as a topic or a capture has it.
#[derive(Debug, Clone, Default)]
pub struct Record<'r> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, nanoseconds since 1970; none where there was no broker.
    pub ingest_ts_ns: Option<i64>,
    /// Its key.
    pub key: &'r [u8],
    /// Its bytes.
    pub value: &'r [u8],
    /// Its headers.
    pub headers: Vec<(&'r str, &'r [u8])>,
}

/// The times that rows are of: from the first, before the second, nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The first that counts.
    pub since_ns: Option<i64>,
    /// The first that does not count any more.
    pub until_ns: Option<i64>,
}

impl Bounds {
    /// The times of a table's rows. A table of which the newest row of each key is kept says how things are, whenever
    /// that began: nothing of it is too old.
    #[must_use]
    pub fn of(self, table: &Table) -> Self {
        let since_ns = self.since_ns.filter(|_| !table.says_what_is());
        Self { since_ns, ..self }
    }

    fn hold(self, ns: i64) -> bool {
        self.since_ns.is_none_or(|since| ns >= since)
            && self.until_ns.is_none_or(|until| ns < until)
    }

    fn are_open(self) -> bool {
        self == Self::default()
    }
}

/// Gathers records, and makes batches of a table's columns of them.
#[derive(Debug)]
pub struct Rows {
    /// The table.
    pub table: &'static Table,
    schema: SchemaRef,
    bounds: Bounds,
    decoder: Option<Decoder>,
    beside: Vec<(&'static Beside, Vec<Option<String>>)>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    ingest_ts: Vec<Option<i64>>,
    bytes: usize,
}

/// What reads the records' own columns.
struct Decoder(BatchDecoder);

impl std::fmt::Debug for Decoder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Decoder")
    }
}

impl Rows {
    /// Takes the columns that are wanted, as a schema of some of the table's columns.
    ///
    /// # Errors
    /// When a column is none of the table's.
    pub fn new(
        table: &'static Table,
        schema: SchemaRef,
        bounds: Bounds,
    ) -> Result<Self, SchemaError> {
        let wanted = |name: &str| {
            let asked = schema.column_with_name(name).is_some();
            asked || name == EVT_TYPE || (name == table.time && !bounds.are_open())
        };
        let decoder = match table.record {
            None => None,
            Some(record) => {
                let all = BatchDecoder::new(record, None)?.arrow_schema();
                let names: Vec<&str> = all
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                let names: Vec<&str> = names.into_iter().filter(|name| wanted(name)).collect();
                Some(Decoder(BatchDecoder::new(record, Some(&names))?))
            }
        };
        let beside = table.beside.iter().filter(|column| wanted(column.name));
        Ok(Self {
            table,
            bounds,
            decoder,
            beside: beside.map(|column| (column, Vec::new())).collect(),
            schema,
            partitions: Vec::new(),
            offsets: Vec::new(),
            ingest_ts: Vec::new(),
            bytes: 0,
        })
    }

    /// Makes a writer's schema known.
    ///
    /// # Errors
    /// When its records cannot become rows of the table.
    pub fn register(&mut self, schema: &str) -> Result<Option<Fingerprint>, SchemaError> {
        let decoder = self.decoder.as_mut();
        decoder
            .map(|decoder| decoder.0.register(schema))
            .transpose()
    }

    /// Takes a record in.
    ///
    /// # Errors
    /// When it cannot be read; what was taken in before stands.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), DecodeError> {
        if let Some(decoder) = &mut self.decoder {
            decoder.0.push(record.value)?;
        }
        for (column, values) in &mut self.beside {
            values.push(value_of(column, record));
        }
        self.partitions.push(record.partition);
        self.offsets.push(record.offset);
        self.ingest_ts.push(record.ingest_ts_ns);
        self.bytes += record.value.len();
        Ok(())
    }

    /// Records that were taken in since the last batch.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.offsets.len()
    }

    /// Whether it is time for a batch.
    #[must_use]
    pub fn full(&self) -> bool {
        self.waiting() >= ROWS_MAX || self.bytes >= BYTES_MAX
    }

    /// The rows so far, and a new beginning.
    ///
    /// # Errors
    /// When columns and schema do not agree.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.waiting();
        self.bytes = 0;
        let decoded = self.decoder.as_mut().map(|decoder| decoder.0.finish());
        let ingest_ts = TimestampNanosecondArray::from(std::mem::take(&mut self.ingest_ts));
        let mut own: Vec<(&str, ArrayRef)> = vec![
            (
                "_partition",
                Arc::new(Int32Array::from(std::mem::take(&mut self.partitions))),
            ),
            (
                "_offset",
                Arc::new(Int64Array::from(std::mem::take(&mut self.offsets))),
            ),
            (INGEST_TS, Arc::new(ingest_ts.with_timezone("+00:00"))),
        ];
        for (column, values) in &mut self.beside {
            own.push((column.name, array_of(column.origin, std::mem::take(values))));
        }
        let column = |name: &str| -> Option<ArrayRef> {
            let decoded = decoded
                .as_ref()
                .and_then(|batch| batch.column_by_name(name));
            let beside = || {
                own.iter()
                    .find(|(own, _)| *own == name)
                    .map(|(_, column)| column)
            };
            decoded.or_else(beside).cloned()
        };
        let fields = self.schema.fields().iter();
        let columns = fields.map(|field| {
            let missing = || ArrowError::SchemaError(format!("no column {}", field.name()));
            column(field.name()).ok_or_else(missing)
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        match self.counting(column(EVT_TYPE), column(self.table.time), rows) {
            Some(counting) => filter_record_batch(&batch, &counting),
            None => Ok(batch),
        }
    }

    /// Which rows count; none where all do.
    fn counting(
        &self,
        types: Option<ArrayRef>,
        times: Option<ArrayRef>,
        rows: usize,
    ) -> Option<BooleanArray> {
        let types = types.as_ref().and_then(|types| types.as_string_view_opt());
        let times = times.filter(|_| !self.bounds.are_open());
        let times = times
            .as_ref()
            .and_then(|times| times.as_primitive_opt::<TimestampNanosecondType>());
        if types.is_none() && times.is_none() {
            return None;
        }
        let counts = |row: usize| {
            types.is_none_or(|types| types.value(row) != MARK)
                && times
                    .is_none_or(|times| times.is_valid(row) && self.bounds.hold(times.value(row)))
        };
        Some((0..rows).map(|row| Some(counts(row))).collect())
    }
}

fn value_of(column: &Beside, record: &Record<'_>) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match column.origin {
        Origin::Text | Origin::Number => {
            let mut headers = record.headers.iter();
            let (_, value) = headers.find(|(name, _)| *name == column.name)?;
            Some(text(value))
        }
        Origin::Key => Some(text(record.key)),
        Origin::Bytes => Some(record.value.len().to_string()),
        Origin::Hex => {
            let mut hex = String::new();
            for byte in record.value.iter().take(HEX_BYTES) {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            Some(hex)
        }
    }
}

fn array_of(origin: Origin, values: Vec<Option<String>>) -> ArrayRef {
    match origin {
        Origin::Text | Origin::Key | Origin::Hex => Arc::new(StringViewArray::from_iter(values)),
        Origin::Number | Origin::Bytes => {
            let numbers = values.iter().map(|text| text.as_ref()?.parse().ok());
            Arc::new(numbers.collect::<Int64Array>())
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch_schemas::records::Event;

    use super::*;
    use crate::tables;

    fn rows(table: &str, columns: &[&str], bounds: Bounds) -> Rows {
        let table = tables::named(table).expect("a table");
        let schema = table.schema();
        let places: Vec<usize> = columns
            .iter()
            .map(|name| schema.index_of(name).expect("a column"))
            .collect();
        let schema = Arc::new(schema.project(&places).expect("columns"));
        Rows::new(table, schema, bounds).expect("rows")
    }

    fn event(evt_type: &str, ts: i64) -> Vec<u8> {
        let event = Event {
            evt_type: evt_type.into(),
            ts,
            proc_name: Some("sh".into()),
            ..Event::default()
        };
        let mut framed = Vec::new();
        event.encode_framed(&mut framed);
        framed
    }

    #[test]
    fn marks_and_other_times_are_left_out_of_what_is_asked() {
        let bounds = Bounds {
            since_ns: Some(10),
            until_ns: Some(20),
        };
        let mut rows = rows("events", &["_offset", "proc_name"], bounds);
        for (offset, (evt_type, ts)) in [
            ("execve", 9),
            ("execve", 10),
            ("mark", 11),
            ("open", 19),
            ("open", 20),
        ]
        .iter()
        .enumerate()
        {
            let value = event(evt_type, *ts);
            let record = Record {
                offset: offset as i64,
                value: &value,
                ..Record::default()
            };
            rows.push(&record).expect("a record");
        }
        let batch = rows.finish().expect("a batch");
        let offsets = batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(offsets.values(), &[1, 3]);
        assert_eq!(batch.column(1).as_string_view().value(0), "sh");
        assert_eq!((rows.waiting(), batch.num_columns()), (0, 2));
    }

    #[test]
    fn what_has_no_schema_is_told_by_its_headers() {
        let mut rows = rows(
            "dead_letters",
            &["error", "offset", "key", "hex", "bytes", "topic"],
            Bounds::default(),
        );
        let record = Record {
            key: b"h\xff",
            value: &[0, 255],
            headers: vec![("error", b"no record"), ("offset", b"77")],
            ..Record::default()
        };
        rows.push(&record).expect("a record");
        let batch = rows.finish().expect("a batch");
        let row = crate::json::row(&crate::json::named(&batch), 0);
        let expected = serde_json::json!({
            "error": "no record", "offset": 77, "key": "h\u{fffd}", "hex": "00ff", "bytes": 2, "topic": null,
        });
        assert_eq!(serde_json::Value::Object(row), expected);
    }
}
