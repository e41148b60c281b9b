//! The operators of one group of detections: DataFusion's own aggregation, cut into its phases.
//!
//! ```text
//! rows ─► partial ─► states ─┬─► reduce ─► fewer states
//!                            └─► finish, of all aggregates or of some ─► groups
//! ```
//! The plans are made once and run over batches that are exchanged. They run in the finite
//! memory that all queries share, without a disk to spill to: what does not fit is an error, never a silent detour.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::runtime::Runtime;

use crate::detect::held::HeldBatches;
use crate::detect::memory::Memory;

/// Where plans run: one thread, in the memory that all queries share.
pub(crate) struct Workbench {
    context: SessionContext,
    memory: Memory,
    /// Made once: each copies the session's tables of functions.
    task: Arc<TaskContext>,
    runtime: Runtime,
}

impl Workbench {
    /// Makes one.
    pub fn new(memory: &Memory) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            // One batch out of each run: slices of one would keep it whole.
            .with_batch_size(1 << 20);
        // Rows that are passed through unaggregated would be right, but not few.
        config
            .options_mut()
            .execution
            .skip_partial_aggregation_probe_rows_threshold = usize::MAX;
        let context = SessionContext::new_with_config_rt(config, memory.environment());
        Ok(Self {
            task: context.task_ctx(),
            context,
            memory: memory.clone(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(datafusion::common::DataFusionError::IoError)?,
        })
    }

    /// One with so many bytes of its own.
    #[cfg(test)]
    pub fn of_bytes(bytes_max: usize) -> Self {
        let memory = Memory::new(bytes_max).expect("a pool");
        Self::new(&memory).expect("a workbench")
    }

    fn run(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
        self.memory.run(|| {
            // Without the reset each run leaves metrics.
            let plan = reset_plan_states(Arc::clone(plan))?;
            self.runtime.block_on(collect(plan, Arc::clone(&self.task)))
        })
    }
}

/// The phases of one aggregation.
pub(crate) struct Phases {
    group_by: PhysicalGroupBy,
    calls: Vec<Arc<AggregateFunctionExpr>>,
    /// For each aggregate, its columns in states.
    pub state_columns: Vec<Range<usize>>,
    rows: Arc<HeldBatches>,
    states: Arc<HeldBatches>,
    partial: Arc<dyn ExecutionPlan>,
    reduce: Arc<dyn ExecutionPlan>,
}

/// The last phase, of some of the aggregates: the states of the others need not be merged.
pub(crate) struct Finish {
    /// The columns of states that it takes.
    columns: Vec<usize>,
    /// For each aggregate, its column in the groups, where it has one.
    places: Vec<Option<usize>>,
    states: Arc<HeldBatches>,
    plan: Arc<dyn ExecutionPlan>,
}

impl Phases {
    /// Makes the phases over rows of a schema.
    pub fn new(
        workbench: &Workbench,
        rows: SchemaRef,
        group_by: PhysicalGroupBy,
        calls: Vec<Arc<AggregateFunctionExpr>>,
        filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    ) -> Result<Self> {
        let (rows_source, rows_scan) = scan(workbench, Arc::clone(&rows))?;
        let partial = Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            group_by.clone(),
            calls.clone(),
            filters,
            rows_scan,
            Arc::clone(&rows),
        )?);
        let (states, states_scan) = scan(workbench, partial.schema())?;
        let reduce = AggregateExec::try_new(
            AggregateMode::PartialReduce,
            group_by.as_final(),
            calls.clone(),
            vec![None; calls.len()],
            states_scan,
            rows,
        )?;
        let mut next = group_by.expr().len();
        let mut state_columns = Vec::new();
        for call in &calls {
            let own = next..next + call.state_fields()?.len();
            next = own.end;
            state_columns.push(own);
        }
        Ok(Self {
            group_by,
            calls,
            state_columns,
            rows: rows_source,
            states,
            partial,
            reduce: Arc::new(reduce),
        })
    }

    /// Makes the last phase of some aggregates, given by their places in order.
    pub fn finish(&self, workbench: &Workbench, aggregates: &[usize]) -> Result<Finish> {
        let keys = self.group_by.expr().len();
        let mut columns: Vec<usize> = (0..keys).collect();
        let mut places = vec![None; self.calls.len()];
        let mut calls = Vec::new();
        for (aggregate, call) in self.calls.iter().enumerate() {
            if aggregates.contains(&aggregate) {
                columns.extend(self.state_columns[aggregate].clone());
                places[aggregate] = Some(keys + calls.len());
                calls.push(Arc::clone(call));
            }
        }
        let schema = Arc::new(self.state_schema().project(&columns)?);
        let (states, states_scan) = scan(workbench, schema)?;
        let plan = AggregateExec::try_new(
            AggregateMode::Final,
            self.group_by.as_final(),
            calls.clone(),
            vec![None; calls.len()],
            states_scan,
            Arc::clone(&self.rows.schema),
        )?;
        Ok(Finish {
            columns,
            places,
            states,
            plan: Arc::new(plan),
        })
    }

    /// The aggregates.
    #[cfg(test)]
    pub fn calls(&self) -> &[Arc<AggregateFunctionExpr>] {
        &self.calls
    }

    /// The schema of states.
    pub fn state_schema(&self) -> SchemaRef {
        self.partial.schema()
    }

    /// States of rows: one for each group, more only where memory was short.
    pub fn partial(&self, workbench: &Workbench, rows: RecordBatch) -> Result<Vec<RecordBatch>> {
        run(workbench, &self.rows, vec![rows], &self.partial)
    }

    /// Merges states of equal groups.
    pub fn reduce(
        &self,
        workbench: &Workbench,
        states: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>> {
        run(workbench, &self.states, states, &self.reduce)
    }
}

impl Finish {
    /// What it takes of states.
    pub fn taken(&self, states: &RecordBatch) -> Result<RecordBatch> {
        Ok(states.project(&self.columns)?)
    }

    /// Finishes what was taken of states: one row for each group.
    pub fn run(&self, workbench: &Workbench, taken: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        run(workbench, &self.states, taken, &self.plan)
    }

    /// An aggregate's column in the groups.
    pub fn column<'g>(&self, groups: &'g RecordBatch, aggregate: usize) -> &'g ArrayRef {
        let place =
            self.places[aggregate].expect("only aggregates that are finished are asked for");
        groups.column(place)
    }
}

/// A table of batches to come, and the plan that reads it.
fn scan(
    workbench: &Workbench,
    schema: SchemaRef,
) -> Result<(Arc<HeldBatches>, Arc<dyn ExecutionPlan>)> {
    let held = HeldBatches::new(Arc::clone(&schema));
    let table = StreamingTable::try_new(schema, vec![Arc::clone(&held) as _])?;
    let state = workbench.context.state();
    let scan = workbench
        .runtime
        .block_on(table.scan(&state, None, &[], None))?;
    Ok((held, scan))
}

/// Runs a plan over batches of the table that it reads.
fn run(
    workbench: &Workbench,
    table: &HeldBatches,
    batches: Vec<RecordBatch>,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Vec<RecordBatch>> {
    let mut results = table.during(batches, || workbench.run(plan))?;
    results.retain(|batch| batch.num_rows() > 0);
    Ok(results)
}
