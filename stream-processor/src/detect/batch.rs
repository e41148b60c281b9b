//! What plans are given and what they yield: a batch of events, and the rows of it that match.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use serde_json::{Map, Value};

/// An event that a detection matched: its row in the batch and what the SELECT yields for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Match {
    pub row: u32,
    pub values: Map<String, Value>,
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
