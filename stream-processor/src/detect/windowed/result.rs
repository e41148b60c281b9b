//! What stands above a GROUP BY: HAVING, SELECT, ORDER BY and LIMIT, asked of finished groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, DFSchema, Result, internal_err};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Map, Value};

use super::GroupColumn;
use crate::detect::general::ROW;
use crate::detect::held::HeldBatches;
use crate::detect::session::Session;
use crate::json;

/// One row of a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResultRow {
    /// The group it comes from: its row in the batch of groups.
    pub group: usize,
    /// What the SELECT yields.
    pub values: Map<String, Value>,
}

/// HAVING, SELECT, ORDER BY and LIMIT over finished groups.
pub(crate) struct ResultPlan {
    session: Session,
    source: Arc<HeldBatches>,
    plan: Arc<dyn ExecutionPlan>,
    /// Where the columns of its input come from.
    pub columns: Vec<GroupColumn>,
    /// The names of the SELECT's columns.
    pub outputs: Vec<String>,
    /// Whether a LIMIT makes the result hang on which groups are asked together.
    pub limited: bool,
}

impl ResultPlan {
    /// Plans it over a table of groups; `columns` says where each comes from.
    pub fn try_new(
        session: &Session,
        analyzed: &LogicalPlan,
        aggregate: &Aggregate,
        columns: Vec<GroupColumn>,
    ) -> Result<Self> {
        let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let row: FieldRef = Arc::new(Field::new(ROW, DataType::Int64, true));
        let qualified: Vec<_> = aggregate
            .schema
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), nullable(field)))
            .chain([(None, row)])
            .collect();
        let fields: Vec<FieldRef> = qualified
            .iter()
            .map(|(_, field)| Arc::clone(field))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let source = HeldBatches::new(Arc::clone(&schema));
        let table = StreamingTable::try_new(schema, vec![Arc::clone(&source) as _])?;
        let scan = LogicalPlan::TableScan(TableScan {
            table_name: "groups".into(),
            source: provider_as_source(Arc::new(table)),
            projection: None,
            projected_schema: Arc::new(DFSchema::new_with_metadata(qualified, Default::default())?),
            filters: Vec::new(),
            fetch: None,
            statistics_requests: Default::default(),
        });
        let outputs = analyzed
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let mut limited = false;
        let above = rebuild_above(analyzed, &scan, &mut limited)?;
        let session = session.again();
        let state = session.context.state();
        // Some functions are written for the simplified form only. Other rules would look for the scan's own names.
        let simplify = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
        let above = simplify.optimize(above, &state, |_, _| {})?;
        let plan = session.wait(state.query_planner().create_physical_plan(&above, &state))?;
        Ok(Self {
            session,
            source,
            plan,
            columns,
            outputs,
            limited,
        })
    }

    /// Runs over groups: a batch with a column for each of `columns`, in that order.
    pub fn run(&self, groups: Vec<ArrayRef>, count: usize) -> Result<Vec<ResultRow>> {
        let mut columns = groups;
        columns.push(Arc::new(Int64Array::from_iter_values(0..count as i64)));
        let groups = RecordBatch::try_new(Arc::clone(&self.source.schema), columns)?;
        let results = self
            .source
            .during(vec![groups], || self.session.run_again(&self.plan));
        let mut rows = Vec::new();
        for result in results? {
            let schema = result.schema();
            let place = schema.index_of(ROW)?;
            let groups = result.column(place).as_primitive::<Int64Type>().clone();
            let named: Vec<(&str, ArrayRef)> = self
                .outputs
                .iter()
                .map(String::as_str)
                .zip(
                    (0..result.num_columns())
                        .filter(|column| *column != place)
                        .map(|column| Arc::clone(result.column(column))),
                )
                .collect();
            rows.extend((0..result.num_rows()).map(|row| ResultRow {
                group: groups.value(row) as usize,
                values: json::row(&named, row),
            }));
        }
        Ok(rows)
    }
}

/// What stands above the GROUP BY, over the scan of groups instead; the hidden column goes through each projection.
fn rebuild_above(
    plan: &LogicalPlan,
    scan: &LogicalPlan,
    limited: &mut bool,
) -> Result<LogicalPlan> {
    if matches!(plan, LogicalPlan::Aggregate(_)) {
        return Ok(scan.clone());
    }
    let inputs = plan
        .inputs()
        .into_iter()
        .map(|input| rebuild_above(input, scan, limited))
        .collect::<Result<Vec<_>>>()?;
    match plan {
        LogicalPlan::Limit(_) => {
            *limited = true;
            plan.with_new_exprs(plan.expressions(), inputs)
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = inputs.into_iter().next() else {
                return internal_err!("a projection has one input");
            };
            let row = Expr::Column(Column::new_unqualified(ROW));
            let exprs: Vec<Expr> = projection.expr.iter().cloned().chain([row]).collect();
            LogicalPlanBuilder::from(input).project(exprs)?.build()
        }
        _ => plan.with_new_exprs(plan.expressions(), inputs),
    }
}
