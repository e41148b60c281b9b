//! A table as the SQL engine sees it: its source is opened for the columns of the query, each time that a plan reads it.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session as Surroundings, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use crate::feed::{Source, SourceError};
use crate::rows::{Bounds, Rows};
use crate::tables::Table;

/// A table that is read from a source.
pub(crate) struct TopicTable {
    pub table: &'static Table,
    pub schema: SchemaRef,
    pub source: Arc<dyn Source>,
    pub bounds: Bounds,
}

impl fmt::Debug for TopicTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.table.name)
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Surroundings,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(places) => Arc::new(self.schema.project(places)?),
            None => self.schema(),
        };
        let columns = Columns {
            table: self.table,
            schema: Arc::clone(&schema),
            source: Arc::clone(&self.source),
            bounds: self.bounds,
        };
        let endless = self.source.endless();
        let plan =
            StreamingTableExec::try_new(schema, vec![Arc::new(columns)], None, [], endless, None)?;
        Ok(Arc::new(plan))
    }
}

/// Some columns of a table.
#[derive(Debug)]
struct Columns {
    table: &'static Table,
    schema: SchemaRef,
    source: Arc<dyn Source>,
    bounds: Bounds,
}

impl PartitionStream for Columns {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let rows = Rows::new(self.table, Arc::clone(&schema), self.bounds);
        let rows = rows.map_err(SourceError::from);
        let batches = match rows.and_then(|rows| self.source.open(rows)) {
            Ok(batches) => batches,
            Err(error) => {
                let only = futures::stream::iter([Err(DataFusionError::External(error))]);
                return Box::pin(RecordBatchStreamAdapter::new(schema, only));
            }
        };
        let batches = futures::stream::unfold(batches, |mut batches| async move {
            let batch = batches.recv().await?;
            Some((batch.map_err(DataFusionError::External), batches))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}
