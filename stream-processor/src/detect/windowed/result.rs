//! What stands above a GROUP BY: HAVING, SELECT, ORDER BY and LIMIT, asked of finished groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, DFSchema, DataFusionError, Result, internal_err};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Sort, SortExpr, TableScan,
};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Map, Value};

use super::GroupColumn;
use crate::detect::general::ROW;
use crate::detect::held::HeldBatches;
use crate::detect::session::Session;
use crate::detect::{by_halves, error_text, guarded, take_rows};
use crate::json;

/// One row of a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResultRow {
    /// The group it comes from: its row in the batch of groups.
    pub group: usize,
    /// What the SELECT yields; the group's columns where it cannot.
    pub values: Map<String, Value>,
    /// Why HAVING or SELECT cannot judge the group.
    pub error: Option<String>,
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
    /// Whether a LIMIT makes the result depend on which groups are asked together.
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
        // Without the rules for physical plans: one of them computes SELECT before HAVING, and fails where HAVING says no.
        let state = SessionStateBuilder::new_from_existing(session.context.state())
            .with_physical_optimizer_rules(Vec::new())
            .build();
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

    /// The columns of its groups.
    pub fn groups(&self) -> &SchemaRef {
        &self.source.schema
    }

    /// Asks it of groups: a batch with a column for each of `columns`, in that order.
    /// A group that it cannot judge comes back with the error, and is not among those that a LIMIT counts.
    /// Ties of ORDER BY are broken by the groups' keys.
    ///
    /// # Errors
    /// When the groups cannot be handed to it.
    pub fn judge(&self, groups: Vec<ArrayRef>, count: usize) -> Result<Vec<ResultRow>> {
        let mut columns = groups;
        if self.limited {
            let order = self.order_by_keys(&columns, count)?;
            let mut ranks = vec![0; count];
            for (rank, group) in (0_i64..).zip(&order) {
                ranks[*group] = rank;
            }
            columns.push(Arc::new(Int64Array::from(ranks)));
            let groups = RecordBatch::try_new(Arc::clone(&self.source.schema), columns)?;
            return self.judge_together(&groups, &order);
        }
        columns.push(Arc::new(Int64Array::from_iter_values(0..count as i64)));
        let groups = RecordBatch::try_new(Arc::clone(&self.source.schema), columns)?;
        let mut rows = Vec::new();
        by_halves(
            &groups,
            &mut |part| self.run(part),
            &mut |start, _, result| match result {
                Ok(part) => rows.extend(part),
                Err(error) => rows.push(self.unjudged(&groups, start, &error)),
            },
        );
        Ok(rows)
    }

    /// The groups by their keys, ascending, NULLs last: an order that depends on nothing else.
    fn order_by_keys(&self, groups: &[ArrayRef], count: usize) -> Result<Vec<usize>> {
        let places = self.columns.iter().zip(groups);
        let keys = places.filter(|(place, _)| matches!(place, GroupColumn::Key(_)));
        let keys: Vec<ArrayRef> = keys.map(|(_, column)| Arc::clone(column)).collect();
        let ascending = SortOptions::new(false, false);
        let fields = keys
            .iter()
            .map(|key| SortField::new_with_options(key.data_type().clone(), ascending));
        let rows = RowConverter::new(fields.collect())?.convert_columns(&keys)?;
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_unstable_by(|left, right| rows.row(*left).cmp(&rows.row(*right)));
        Ok(order)
    }

    /// Where a LIMIT chooses among groups: those that cannot be judged are found one by one, the others are asked together.
    /// The hidden column holds each group's place in `order`.
    fn judge_together(&self, groups: &RecordBatch, order: &[usize]) -> Result<Vec<ResultRow>> {
        let run = |part: &RecordBatch| -> Result<Vec<ResultRow>> {
            let mut rows = self.run(part)?;
            rows.iter_mut().for_each(|row| row.group = order[row.group]);
            Ok(rows)
        };
        if let Ok(rows) = guarded(|| run(groups)) {
            return Ok(rows);
        }
        let (mut good, mut rows, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for group in 0..groups.num_rows() {
            match guarded(|| run(&groups.slice(group, 1))) {
                Ok(own) if own.is_empty() => {}
                Ok(own) => {
                    good.push(group as u32);
                    alone.extend(own);
                }
                Err(error) => rows.push(self.unjudged(groups, group, &error)),
            }
        }
        let good = take_rows(groups, &good)?;
        // Together they may still fail: a guard by AND holds for one row, not for a batch. Then there is no LIMIT.
        rows.extend(guarded(|| run(&good)).unwrap_or(alone));
        Ok(rows)
    }

    /// What is said of a group that cannot be judged: its keys and aggregates as they are, and why.
    fn unjudged(&self, groups: &RecordBatch, group: usize, error: &DataFusionError) -> ResultRow {
        let schema = groups.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let named = names.zip(groups.columns().iter().cloned());
        let named: Vec<_> = named.filter(|(name, _)| *name != ROW).collect();
        ResultRow {
            group,
            values: json::row(&named, group),
            error: Some(error_text(error)),
        }
    }

    fn run(&self, groups: &RecordBatch) -> Result<Vec<ResultRow>> {
        let run = || self.session.run_again(&self.plan);
        let mut rows = Vec::new();
        for result in self.source.during(vec![groups.clone()], run)? {
            let place = result.schema_ref().index_of(ROW)?;
            let groups = result.column(place).as_primitive::<Int64Type>().clone();
            let columns = (0..result.num_columns()).filter(|column| *column != place);
            let columns = columns.map(|column| Arc::clone(result.column(column)));
            let named: Vec<_> = self
                .outputs
                .iter()
                .map(String::as_str)
                .zip(columns)
                .collect();
            rows.extend((0..result.num_rows()).map(|row| ResultRow {
                group: groups.value(row) as usize,
                values: json::row(&named, row),
                error: None,
            }));
        }
        Ok(rows)
    }
}

/// What stands above the GROUP BY, over the scan of groups instead. The hidden column goes through each projection and breaks
/// the ties of each order; a LIMIT without an order goes by it alone.
fn rebuild_above(
    plan: &LogicalPlan,
    scan: &LogicalPlan,
    limited: &mut bool,
) -> Result<LogicalPlan> {
    if matches!(plan, LogicalPlan::Aggregate(_)) {
        return Ok(scan.clone());
    }
    let &[input] = plan.inputs().as_slice() else {
        return internal_err!("what stands above a GROUP BY has one input");
    };
    let ordered = is_ordered(input);
    let input = rebuild_above(input, scan, limited)?;
    let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(ROW)?;
    let row = Expr::Column(Column::new(qualifier.cloned(), field.name()));
    let sorted = |expr: Vec<SortExpr>, input: LogicalPlan, fetch: Option<usize>| {
        let input = Arc::new(input);
        LogicalPlan::Sort(Sort { expr, input, fetch })
    };
    match plan {
        LogicalPlan::Limit(_) => {
            *limited = true;
            let input = match ordered {
                true => input,
                false => sorted(vec![row.sort(true, false)], input, None),
            };
            plan.with_new_exprs(plan.expressions(), vec![input])
        }
        LogicalPlan::Sort(sort) => {
            let ties = std::iter::once(row.sort(true, false));
            let by = sort.expr.iter().cloned().chain(ties).collect();
            Ok(sorted(by, input, sort.fetch))
        }
        LogicalPlan::Projection(projection) => {
            let exprs: Vec<Expr> = projection.expr.iter().cloned().chain([row]).collect();
            LogicalPlanBuilder::from(input).project(exprs)?.build()
        }
        _ => plan.with_new_exprs(plan.expressions(), vec![input]),
    }
}

/// Whether an ORDER BY stands above the GROUP BY.
fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) => false,
        LogicalPlan::Sort(_) => true,
        _ => plan.inputs().into_iter().any(is_ordered),
    }
}
