//! The SQL engine as detections see it: the table `events`, the lists, immutable functions, nothing else.
//!
//! No file and no external table is to be had: those parts of the engine are not registered at all.
//! The only table functions are the relations of windows, `tumble` and `hop`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{Result, plan_err};
use datafusion::datasource::MemTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionStateDefaults, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::runtime::Runtime;

use crate::lists::Lists;
use crate::memory::Memory;
use crate::shared::SharedCalls;
pub use crate::tables::EVENTS;
use crate::window::{self, WindowTables};
use crate::{aggregates, functions, growth, simplify};

/// One planner's surroundings.
pub struct Session {
    /// The tables and functions.
    pub context: SessionContext,
    /// Made once: each copies the tables of functions.
    task: Arc<TaskContext>,
    runtime: Arc<Runtime>,
    memory: Memory,
    /// What the expressions planned here compute once.
    pub shared: SharedCalls,
}

/// Longest that a query of lists runs at load.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(10);

impl Session {
    /// Builds the surroundings: `events` as given, each list as a table.
    ///
    /// Plans run on `runtime`, which is a current-thread one: the engine's thread does all work itself.
    pub fn new(
        events: Arc<dyn TableProvider>,
        lists: &Lists,
        runtime: Arc<Runtime>,
        memory: &Memory,
    ) -> Result<Self> {
        let planned_only: WindowTables =
            Arc::new(|_, schema| Ok(Arc::new(EmptyTable::new(schema))));
        Self::with_windows(events, lists, runtime, memory, &planned_only)
    }

    /// As [`Session::new`], with the tables that stand for relations of windows.
    pub fn with_windows(
        events: Arc<dyn TableProvider>,
        lists: &Lists,
        runtime: Arc<Runtime>,
        memory: &Memory,
        windows: &WindowTables,
    ) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(false);
        // Spans give refusals their line.
        config.options_mut().sql_parser.collect_spans = true;
        let mut scalar_functions =
            growth::bounded(SessionStateDefaults::default_scalar_functions());
        scalar_functions.extend(functions::all());
        let mut aggregate_functions = SessionStateDefaults::default_aggregate_functions();
        aggregate_functions.extend(aggregates::all());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(memory.environment())
            .with_optimizer_rules(simplify::rules())
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(scalar_functions)
            .with_aggregate_functions(aggregate_functions)
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .with_table_functions(window::table_functions(&events.schema(), windows))
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_table(EVENTS, events)?;
        for (name, rows) in lists {
            let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
            context.register_table(name.as_str(), Arc::new(table))?;
        }
        Ok(Self {
            task: context.task_ctx(),
            context,
            runtime,
            memory: memory.clone(),
            shared: SharedCalls::default(),
        })
    }

    /// The same surroundings, for another holder.
    pub fn again(&self) -> Self {
        Self {
            context: self.context.clone(),
            task: Arc::clone(&self.task),
            runtime: Arc::clone(&self.runtime),
            memory: self.memory.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Waits for something of the engine's; must not be called from an async task.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs a plan that may run again.
    pub fn run_again(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
        self.memory.run(|| {
            // Without the reset each run leaves metrics, and joins keep their build side.
            let plan = reset_plan_states(Arc::clone(plan))?;
            self.wait(collect(plan, Arc::clone(&self.task)))
        })
    }

    /// Runs a plan over lists, at load.
    ///
    /// # Errors
    /// When it fails, or runs for longer than [`LOAD_TIME_MAX`].
    pub fn run(&self, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        let run = async {
            let frame = self.context.execute_logical_plan(plan).await?;
            frame.collect().await
        };
        let in_time = async { tokio::time::timeout(LOAD_TIME_MAX, run).await };
        match self.wait(in_time) {
            Ok(result) => result,
            Err(_) => plan_err!(
                "a subquery on lists runs for longer than {} seconds",
                LOAD_TIME_MAX.as_secs()
            ),
        }
    }
}

/// Names of a schema's columns.
pub fn column_names(schema: &SchemaRef) -> Vec<&str> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect()
}
