//! The SQL engine as detections see it: the table `events`, the lists, immutable functions, nothing else.
//!
//! No file, no external table, no table function is to be had: those parts of the engine are not registered at all.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::runtime::Runtime;

use super::functions;
use super::lists::Lists;

/// Name of the table of events.
pub(crate) const EVENTS: &str = "events";

/// One planner's surroundings.
pub(crate) struct Session {
    pub context: SessionContext,
    runtime: Arc<Runtime>,
}

impl Session {
    /// Builds the surroundings: `events` as given, each list as a table.
    ///
    /// Plans run on `runtime`, which is a current-thread one: the engine's thread does all work itself.
    pub fn new(
        events: Arc<dyn TableProvider>,
        lists: &Lists,
        runtime: Arc<Runtime>,
    ) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(false);
        // Spans give refusals their line.
        config.options_mut().sql_parser.collect_spans = true;
        let mut scalar_functions = SessionStateDefaults::default_scalar_functions();
        scalar_functions.extend(functions::all());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(scalar_functions)
            .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_table(EVENTS, events)?;
        for (name, rows) in lists {
            let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
            context.register_table(name.as_str(), Arc::new(table))?;
        }
        Ok(Self { context, runtime })
    }

    /// Waits for something of the engine's; must not be called from an async task.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs a plan over lists, at load.
    pub fn run(&self, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        self.wait(async {
            self.context
                .execute_logical_plan(plan)
                .await?
                .collect()
                .await
        })
    }
}

/// Names of a schema's columns.
pub(crate) fn column_names(schema: &SchemaRef) -> Vec<&str> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect()
}
