//! What plans are given and what they yield: a batch of events, and the rows of it that match.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use serde_json::{Map, Value};

use crate::json;

/// What a SELECT yields for the events that match, by name.
#[derive(Debug)]
pub(crate) struct Outputs(pub Vec<(String, ArrayRef)>);

/// An event that a detection matched. What the SELECT yields for it is made JSON when it is asked for: most matches are counted
/// and never told.
#[derive(Debug, Clone)]
pub(crate) struct Match {
    /// Its row in the batch.
    pub row: u32,
    /// Its row in the outputs.
    place: usize,
    outputs: Arc<Outputs>,
}

impl Match {
    /// The match of a row, whose outputs stand at a place.
    pub fn new(row: u32, outputs: &Arc<Outputs>, place: usize) -> Self {
        Self {
            row,
            place,
            outputs: Arc::clone(outputs),
        }
    }

    /// The same as a row of another batch.
    pub fn at_row(self, row: u32) -> Self {
        Self { row, ..self }
    }

    /// What the SELECT yields.
    pub fn values(&self) -> Map<String, Value> {
        let outputs = self.outputs.0.iter();
        outputs
            .map(|(name, column)| (name.clone(), json::value(column.as_ref(), self.place)))
            .collect()
    }

    /// One column of what the SELECT yields.
    pub fn value(&self, name: &str) -> Option<Value> {
        let mut outputs = self.outputs.0.iter();
        let (_, column) = outputs.find(|(own, _)| own == name)?;
        Some(json::value(column.as_ref(), self.place))
    }
}

/// The batch's columns of these names.
pub(crate) fn project(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            Ok(Arc::clone(
                batch.column(batch.schema_ref().index_of(field.name())?),
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// These rows of a batch, in this order.
pub(crate) fn take_rows(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    let indices = UInt32Array::from(rows.to_vec());
    let columns = batch
        .columns()
        .iter()
        .map(|column| arrow::compute::take(column.as_ref(), &indices, None))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

/// The schema without the columns that are not named.
pub(crate) fn narrow(schema: &SchemaRef, names: &BTreeSet<String>) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .filter(|field| names.contains(field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}
