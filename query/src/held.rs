//! A table whose batches are exchanged before each run of a plan that was made once.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

/// A table of the batches of the moment.
#[derive(Debug)]
pub struct HeldBatches {
    /// The table's schema.
    pub schema: SchemaRef,
    batches: Mutex<Vec<RecordBatch>>,
}

impl HeldBatches {
    /// An empty table of this schema.
    pub fn new(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self {
            schema,
            batches: Mutex::default(),
        })
    }

    /// Holds batches of the table's schema while `run` reads it.
    /// They are let go of afterwards: one string of one would keep a whole step's messages in memory.
    pub fn during<T>(&self, batches: Vec<RecordBatch>, run: impl FnOnce() -> T) -> T {
        self.set(batches);
        // Also when `run` panics, which its caller may outlive.
        let _held = LetGo(self);
        run()
    }

    fn set(&self, batches: Vec<RecordBatch>) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) = batches;
    }
}

/// Empties the table when it is dropped.
struct LetGo<'a>(&'a HeldBatches);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.set(Vec::new());
    }
}

impl PartitionStream for HeldBatches {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self
            .batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let stream = futures::stream::iter(batches.into_iter().map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream,
        ))
    }
}
