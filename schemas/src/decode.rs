//! From framed records to Arrow columns.
//!
//! A [`BatchDecoder`] reads into the columns of one schema, the reader's, or into some of them.
//! Each schema that records were written with is compiled once against the reader's into a list of operations; a record is one walk over that list.
//!
//! ```text
//! writer's schema ─┐
//! reader's schema ─┼─► Plan: read host_id → column 0 │ skip boot_id │ read seq → column 1 │ fill column 2 with null
//! projection ──────┘
//! ```
//!
//! | Avro | Arrow |
//! | --- | --- |
//! | string | `Utf8View` |
//! | int, long | `Int64` |
//! | timestamp-nanos | `Timestamp(Nanosecond, "+00:00")` |
//! | boolean | `Boolean` |
//! | array | `List`, items named `item` |
//! | map | `Map`, entries named `entries`, `keys` as `Utf8`, `values` |
//! | record | `Struct` |
//! | `["null", T]` | T, nullable |
//!
//! A map's keys are `Utf8` because SQL looks them up with literals, which are `Utf8`: `container_labels['app']` on other keys fails.
//!
//! A record that cannot be read leaves no trace: the columns go back to where they were, the records before and after it stand.
//! Texts of columns that are not read are skipped, not checked.
//! There is no input or output here and nothing is looked up: what is unknown is said.

use crate::framing::{self, Fingerprint, FramingError};
use crate::wire::{Input, WireError};
use apache_avro::Schema;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use columns::{Column, Failure, Texts};
use plan::{Action, Plan};
use reader::Record;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

mod columns;
mod plan;
mod reader;

/// Why a message did not become a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message has no readable header.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The message was written with a schema that is not registered: look it up before giving the record up.
    #[error("unknown schema fingerprint {0}: register the writer's schema first")]
    UnknownSchema(Fingerprint),
    /// The message's schema is registered, and no reader of this version can use it.
    #[error(
        "its schema {fingerprint} is registered and cannot be used: {reason}; write with a schema that has all columns of the reader's without a default"
    )]
    UnusableSchema {
        /// The schema's fingerprint.
        fingerprint: Fingerprint,
        /// Why not.
        reason: String,
    },
    /// The bytes do not fit the writer's schema.
    #[error("could not read the record: {0}")]
    Record(#[from] WireError),
    /// The bytes of a field do not fit the writer's schema.
    #[error("could not read field {field}: {error}")]
    Field {
        /// The field's name in the writer's schema.
        field: String,
        /// What is wrong with its bytes.
        error: WireError,
    },
    /// Nothing is wrong with the record, the batch is full (2 GiB of text or 2^31 list items): finish it and push the record again.
    #[error("batch of {rows} rows is full: finish it and push the record again")]
    BatchFull {
        /// Rows of the batch.
        rows: usize,
    },
}

/// Why a schema cannot be read, or cannot be read into the reader's.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The text is not an Avro schema.
    #[error("could not parse the schema: {0}")]
    Parse(#[from] Box<apache_avro::Error>),
    /// The schema is something else than a record.
    #[error("schema is not a record")]
    NotRecord,
    /// The projection names what the schema does not have.
    #[error("column {0} is not in the schema")]
    UnknownColumn(String),
    /// A type that the reader's side has no column for.
    #[error("field {field}: no column for the Avro type {avro_type}")]
    NoColumn {
        /// Path of the field.
        field: String,
        /// The type as Avro's JSON or name.
        avro_type: String,
    },
    /// A default that is neither null nor a text, a number, a boolean or an empty list or map.
    #[error(
        "field {field}: default {default} is not supported, only null, scalars and empty lists and maps are"
    )]
    Default {
        /// Path of the field.
        field: String,
        /// The default as JSON.
        default: String,
    },
    /// The two schemas are of differently named records.
    #[error("record {writer} cannot be read as {reader}")]
    OtherRecord {
        /// The writer's record.
        writer: String,
        /// The reader's record.
        reader: String,
    },
    /// The writer's type cannot become the reader's.
    #[error("field {field}: the writer's type {writer} cannot be read as the reader's")]
    Mismatch {
        /// Path of the field.
        field: String,
        /// The writer's type.
        writer: String,
    },
    /// The writer does not have a field that the reader has no default for.
    #[error("field {field} is missing in the writer's schema and has no default in the reader's")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// An array whose items take no bytes: its length could not be bounded.
    #[error("field {field}: items of an array take no bytes, so their count has no bound")]
    EmptyItems {
        /// Path of the field.
        field: String,
    },
    /// More types than any schema of ours will have, or a type inside itself.
    #[error("schema is recursive or has more than {types_max} types")]
    TooLarge {
        /// The limit.
        types_max: usize,
    },
}

/// Collects framed records as Arrow columns.
pub struct BatchDecoder {
    reader: Record,
    schema: SchemaRef,
    plans: BTreeMap<Fingerprint, Plan>,
    columns: Vec<Column>,
    texts: Texts,
    rows: usize,
}

impl BatchDecoder {
    /// Takes the reader's schema, and the names of the columns to read if not all.
    /// Columns come in the schema's order. Records written with this very schema are known from the start.
    ///
    /// # Errors
    /// When the schema does not parse, holds a type that has no column, or the projection names an unknown column.
    pub fn new(reader_schema_json: &str, projection: Option<&[&str]>) -> Result<Self, SchemaError> {
        let mut reader = Record::parse(reader_schema_json)?;
        if let Some(names) = projection {
            reader.project(names)?;
        }
        let schema = Arc::new(reader.arrow_schema());
        let columns = reader.columns();
        let mut decoder = Self {
            reader,
            schema,
            plans: BTreeMap::new(),
            columns,
            texts: Texts::default(),
            rows: 0,
        };
        decoder.register(reader_schema_json)?;
        Ok(decoder)
    }

    /// Compiles a writer's schema, so that records with its fingerprint can be read.
    ///
    /// # Errors
    /// When the schema does not parse or its records cannot become the reader's.
    pub fn register(&mut self, writer_schema_json: &str) -> Result<Fingerprint, SchemaError> {
        let writer = Schema::parse_str(writer_schema_json).map_err(Box::new)?;
        let fingerprint = framing::fingerprint_of(&writer);
        if !self.knows(fingerprint) {
            self.plans
                .insert(fingerprint, Plan::compile(&writer, &self.reader)?);
        }
        Ok(fingerprint)
    }

    /// Returns whether records with this fingerprint can be read.
    pub fn knows(&self, fingerprint: Fingerprint) -> bool {
        self.plans.contains_key(&fingerprint)
    }

    /// Returns the schema of the batches.
    pub fn arrow_schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Returns how many rows were pushed since the last batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends one record as a row.
    ///
    /// # Errors
    /// When the record cannot be read, its schema is unknown or the batch is full; the batch is then as it was before.
    pub fn push(&mut self, framed: &[u8]) -> Result<(), DecodeError> {
        let (fingerprint, datum) = framing::split(framed)?;
        let plan = self
            .plans
            .get(&fingerprint)
            .ok_or(DecodeError::UnknownSchema(fingerprint))?;
        let texts_len = self.texts.len();
        match append_row(plan, datum, self.rows, &mut self.columns, &mut self.texts) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err((failure, field)) => {
                self.columns
                    .iter_mut()
                    .for_each(|column| column.truncate(self.rows));
                self.texts.truncate(texts_len);
                Err(match (failure, field) {
                    (Failure::Full, _) => DecodeError::BatchFull { rows: self.rows },
                    (Failure::Wire(error), None) => DecodeError::Record(error),
                    (Failure::Wire(error), Some(field)) => DecodeError::Field {
                        field: field.to_owned(),
                        error,
                    },
                })
            }
        }
    }

    /// Returns the rows pushed so far as one batch and starts the next.
    pub fn finish(&mut self) -> RecordBatch {
        let texts = Buffer::from_vec(self.texts.take());
        let rows = mem::take(&mut self.rows);
        let fields = self.schema.fields().iter();
        let arrays = self.columns.iter_mut().zip(fields).map(|(column, field)| {
            column.fill_up(rows);
            column.finish(field.data_type(), &texts)
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays.collect(), &options)
            .expect("columns were made from this schema and hold one value a row")
    }
}

/// Runs a plan over a record's bytes, which become a row of this number; of an error it says the field.
fn append_row<'p>(
    plan: &'p Plan,
    datum: &[u8],
    row: usize,
    columns: &mut [Column],
    texts: &mut Texts,
) -> Result<(), (Failure, Option<&'p str>)> {
    let mut input = Input::new(datum);
    let mut index = 0;
    read_fields(plan, &mut input, &mut index, row, columns, texts)
        .map_err(|failure| (failure, plan.fields.get(index).map(|f| f.name.as_str())))?;
    for (column, constant) in &plan.fills {
        let filled = columns[*column].fill(constant, texts);
        filled.map_err(|failure| (failure, None))?;
    }
    input.end().map_err(|error| (error.into(), None))
}

/// Walks over the record's fields; `index` is the one it is at.
fn read_fields(
    plan: &Plan,
    input: &mut Input<'_>,
    index: &mut usize,
    row: usize,
    columns: &mut [Column],
    texts: &mut Texts,
) -> Result<(), Failure> {
    loop {
        *index += input.pass_fields(&plan.leaps[*index..]);
        let Some(field) = plan.fields.get(*index) else {
            return Ok(());
        };
        // A null may also be written in a longer form.
        if !field.optional || input.optional()? {
            match &field.action {
                Action::Skip(skip) => columns::pass(skip, input)?,
                Action::Read(column, read) => columns[*column].read_row(row, read, input, texts)?,
            }
        }
        *index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Event;
    use arrow::array::{Array, AsArray};

    #[test]
    fn a_full_batch_is_finished_and_goes_on() {
        let mut decoder =
            BatchDecoder::new(Event::SCHEMA, Some(&["proc_args", "fd_name"])).unwrap();
        decoder.texts = Texts::with_bytes_max(100);
        let name = "/a/path/of/forty/bytes/that/is/no/longer";
        let event = Event {
            fd_name: Some(name.into()),
            proc_args: Some(vec!["short".into()]),
            ..Event::default()
        };
        let mut framed = Vec::new();
        event.encode_framed(&mut framed);

        for _ in 0..3 {
            decoder.push(&framed).unwrap();
            decoder.push(&framed).unwrap();
            assert_eq!(
                decoder.push(&framed),
                Err(DecodeError::BatchFull { rows: 2 })
            );
            let batch = decoder.finish();
            let names = batch.column_by_name("fd_name").unwrap().as_string_view();
            assert_eq!(names.iter().collect::<Vec<_>>(), [Some(name), Some(name)]);
            names.to_data().validate_full().unwrap();
        }
    }
}
