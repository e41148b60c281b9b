//! Queries on single events that are more than a filter: a join with a list, EXISTS, a scalar subquery.
//!
//! The physical plan is made once, over a table that holds the batch of the moment.
//! A hidden column `_row` travels through it and says which event a result came from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, internal_err, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;

use super::batch::{Match, Outputs, narrow, project};
use super::check::scans_of_events;
use super::filter::necessary_event_types;
use super::held::HeldBatches;
use super::lint::Conditions;
use super::plan::Ground;
use super::session::Session;
use crate::tables::Table;

/// The hidden column; users' queries are planned against a table that does not have it.
pub(super) const ROW: &str = "_row";

/// A cached plan over the batch of the moment.
pub(crate) struct GeneralPlan {
    session: Session,
    source: Arc<HeldBatches>,
    plan: Arc<dyn ExecutionPlan>,
    /// The values of `evt_type` without which it yields nothing; none = any may do.
    pub event_types: Option<BTreeSet<String>>,
    /// Held while it runs: there is one place for a batch.
    turn: Mutex<()>,
}

impl GeneralPlan {
    /// Plans again with `replan`, over a table of only the columns that `checked` needs and the hidden one.
    pub fn try_new(
        checked: &LogicalPlan,
        ground: &Ground<'_>,
        replan: impl Fn(&Session) -> Result<LogicalPlan>,
    ) -> Result<Self> {
        let narrow = narrow(ground.events, &event_columns(checked)?);
        let mut fields = narrow.fields().to_vec();
        fields.push(Arc::new(Field::new(ROW, DataType::Int64, false)));
        let schema = Arc::new(Schema::new(fields));
        let source = HeldBatches::new(schema);
        let table =
            StreamingTable::try_new(Arc::clone(&source.schema), vec![Arc::clone(&source) as _])?;
        let session = Session::new(
            Arc::new(table),
            ground.lists,
            Arc::clone(ground.runtime),
            ground.memory,
        )?;
        let plan = carry_row(&replan(&session)?)?;
        // A row that a join made up would depend on what else is in the batch.
        if plan
            .schema()
            .field_with_unqualified_name(ROW)?
            .is_nullable()
        {
            return plan_err!(
                "the join yields rows that are no event: put events on the side that is kept"
            );
        }
        let plan = session.wait(session.context.state().create_physical_plan(&plan))?;
        Ok(Self {
            session,
            source,
            plan,
            event_types: event_types(checked),
            turn: Mutex::default(),
        })
    }

    /// The columns of events it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.source
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .filter(|name| *name != ROW)
    }

    /// The columns of a batch that the table has, and the hidden one.
    fn with_row(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = Arc::clone(&self.source.schema);
        let own = Arc::new(Schema::new(
            schema.fields()[..schema.fields().len() - 1].to_vec(),
        ));
        let mut columns = project(batch, &own)?.columns().to_vec();
        let rows = Int64Array::from_iter_values(0..batch.num_rows() as i64);
        columns.push(Arc::new(rows));
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// The events of a batch that match; where a join yields several rows for one, the first in JSON's order stands.
    pub fn run(&self, batch: &RecordBatch) -> Result<Vec<Match>> {
        let held = self.with_row(batch)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let results = self
            .source
            .during(vec![held], || self.session.run_again(&self.plan));
        let mut matches: BTreeMap<i64, (String, Match)> = BTreeMap::new();
        for result in results? {
            let rows = result
                .column(result.num_columns() - 1)
                .as_primitive::<Int64Type>()
                .clone();
            let schema = result.schema();
            let names = schema.fields().iter().map(|field| field.name().clone());
            let mut named: Vec<_> = names.zip(result.columns().to_vec()).collect();
            named.pop();
            let outputs = Arc::new(Outputs(named));
            for place in 0..rows.len() {
                let found = Match::new(rows.value(place) as u32, &outputs, place);
                let text = serde_json::to_string(&found.values()).unwrap_or_default();
                let entry = (text, found);
                let kept = matches
                    .entry(rows.value(place))
                    .or_insert_with(|| entry.clone());
                if entry.0 < kept.0 {
                    *kept = entry;
                }
            }
        }
        Ok(matches.into_values().map(|(_, found)| found).collect())
    }
}

/// The values of `evt_type` that the conditions between events and the result ask for.
fn event_types(plan: &LogicalPlan) -> Option<BTreeSet<String>> {
    let conditions = Conditions::of(plan, Table::Events);
    let asked = conditions.all.iter().filter_map(|condition| {
        let own = condition.expr.column_refs();
        let own = own.into_iter().filter(|column| column.name == "evt_type");
        let mut own = own.map(|column| {
            conditions
                .names
                .contains(column.relation.as_ref()?)
                .then_some(())
        });
        // A column of that name may be a list's, or a subquery's own.
        own.all(|of_events| of_events.is_some())
            .then(|| necessary_event_types(&condition.expr))?
    });
    asked.reduce(|left, right| left.intersection(&right).cloned().collect())
}

/// Names of all columns in the plan's expressions; some may be a list's, which does no harm.
fn event_columns(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = part {
                    names.insert(column.name.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        // Equality of a join's USING and of natural joins stands in no expression of a node below.
        if let LogicalPlan::Join(join) = node {
            names.extend(
                join.on
                    .iter()
                    .flat_map(|(left, right)| [left, right])
                    .filter_map(|expr| match expr {
                        Expr::Column(column) => Some(column.name.clone()),
                        _ => None,
                    }),
            );
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(names)
}

/// Lets the hidden column through each projection between events and the result; it becomes the last column.
fn carry_row(plan: &LogicalPlan) -> Result<LogicalPlan> {
    if scans_of_events(plan) == 0 {
        return Ok(plan.clone());
    }
    let inputs = plan
        .inputs()
        .into_iter()
        .map(carry_row)
        .collect::<Result<Vec<_>>>()?;
    let LogicalPlan::Projection(projection) = plan else {
        return plan.with_new_exprs(plan.expressions(), inputs);
    };
    let Some(input) = inputs.into_iter().next() else {
        return internal_err!("a projection has one input");
    };
    // A SELECT * has it already.
    let is_row = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == ROW);
    if projection.expr.iter().any(is_row) {
        return LogicalPlanBuilder::from(input)
            .project(projection.expr.clone())?
            .build();
    }
    let (qualifier, field) = input.schema().qualified_field_with_unqualified_name(ROW)?;
    let row = Expr::Column(Column::new(qualifier.cloned(), field.name()));
    let exprs: Vec<Expr> = projection.expr.iter().cloned().chain([row]).collect();
    LogicalPlanBuilder::from(input).project(exprs)?.build()
}
