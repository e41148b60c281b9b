//! From a checked query to something that runs over batches.
//!
//! ```text
//! SELECT ... FROM events WHERE ...      ──► FilterPlan: expressions on just their columns, routed by evt_type
//! anything else on single events        ──► GeneralPlan: the cached plan over a one-batch table
//! SELECT ... FROM a window GROUP BY ... ──► WindowedPlan: cut at its GROUP BY, kept as partial states
//! ```
//! What a query asks of lists alone, such as `column IN (SELECT ... FROM a_list)`, is asked once, at load: most detections
//! are filters.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::{InList, InSubquery};
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};
use tokio::runtime::Runtime;

use super::batch::Match;
use super::check;
use super::filter::FilterPlan;
use super::general::GeneralPlan;
use super::growth::bound_concatenation;
use super::header::Header;
use super::lists::{Lists, ROWS_MAX};
use super::memory::Memory;
use super::session::Session;
use super::sql_file::{Fault, PlanError, SqlFile, digest};
use super::window::find_scan;
use super::windowed::WindowedPlan;
use crate::json;

/// A detection's query, ready to run.
pub(crate) enum Plan {
    Filter(FilterPlan),
    General(GeneralPlan),
    Windowed(Box<WindowedPlan>),
}

/// What of a file its plan depends on.
pub(crate) struct Source<'a> {
    pub file: &'a SqlFile,
    pub header: &'a Header,
    /// Names of the columns of events, for what is misspelt.
    pub columns: &'a [&'a str],
}

/// What every query of a folder is planned on.
pub(crate) struct Ground<'a> {
    /// The columns of events.
    pub events: &'a SchemaRef,
    pub lists: &'a Lists,
    pub runtime: &'a Arc<Runtime>,
    pub memory: &'a Memory,
}

/// The hash of what a query with its lists put in asks, and of the lists that it still reads.
pub(super) fn hash(inlined: &LogicalPlan, lists: &Lists) -> String {
    let tables = tables(inlined);
    let read = lists.iter().filter(|(name, _)| tables.contains(*name));
    let rows = read.map(|(name, rows)| {
        let values = (0..rows.num_rows()).flat_map(|row| {
            let columns = rows.columns().iter();
            columns.map(move |column| json::value(column.as_ref(), row).to_string())
        });
        format!("{name} {}", values.collect::<Vec<_>>().join(","))
    });
    let query = inlined.display_indent().to_string();
    let texts: Vec<String> = std::iter::once(query).chain(rows).collect();
    digest(texts.iter().map(String::as_str))
}

/// The tables that a plan reads, by name.
fn tables(plan: &LogicalPlan) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.insert(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    tables
}

impl Plan {
    /// Plans a checked query with its lists put in; `replan` makes its logical plan again in another session.
    pub fn try_new(
        session: &Session,
        inlined: LogicalPlan,
        source: &Source<'_>,
        ground: &Ground<'_>,
        replan: impl Fn(&Session) -> Result<LogicalPlan>,
    ) -> std::result::Result<Self, Fault> {
        let explain = |error: DataFusionError| check::explain(source.file, &error, source.columns);
        if find_scan(&inlined).is_some() {
            let windowed =
                WindowedPlan::try_new(session, &inlined, ground.events, source.file, source.header);
            return match windowed {
                Ok(plan) => Ok(Self::Windowed(Box::new(plan))),
                Err(PlanError::Refused(fault)) => Err(fault),
                Err(PlanError::Engine(error)) => Err(explain(error)),
            };
        }
        Self::on_single_events(session, inlined, ground, replan).map_err(explain)
    }

    fn on_single_events(
        session: &Session,
        inlined: LogicalPlan,
        ground: &Ground<'_>,
        replan: impl Fn(&Session) -> Result<LogicalPlan>,
    ) -> Result<Self> {
        if let Some(filter) = FilterPlan::try_new(session, &inlined, ground.events)? {
            return Ok(Self::Filter(filter));
        }
        let replan = |session: &Session| inline_lists(session, replan(session)?);
        GeneralPlan::try_new(&inlined, ground, replan).map(Self::General)
    }

    /// The values of `evt_type` without which the query yields nothing; none = it may match any.
    pub fn event_types(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Filter(plan) => plan.predicate.event_types.as_ref(),
            Self::General(plan) => plan.event_types.as_ref(),
            Self::Windowed(plan) => plan.predicate.event_types.as_ref(),
        }
    }

    /// The columns of events it reads.
    pub fn columns(&self) -> BTreeSet<&str> {
        match self {
            Self::Filter(plan) => plan.columns(),
            Self::General(plan) => plan.columns().collect(),
            Self::Windowed(plan) => plan.columns(),
        }
    }

    /// The plan over windows, where it is one.
    pub fn windowed(&self) -> Option<&WindowedPlan> {
        match self {
            Self::Windowed(plan) => Some(plan),
            Self::Filter(_) | Self::General(_) => None,
        }
    }

    /// The events of a batch that match, in the batch's order, each once; a window matches no single event. All of them must be
    /// of [`Self::event_types`].
    pub fn run(&self, batch: &RecordBatch) -> Result<Vec<Match>> {
        match self {
            Self::Filter(plan) => plan.run(batch),
            Self::General(plan) => plan.run(batch),
            Self::Windowed(_) => Ok(Vec::new()),
        }
    }
}

/// Replaces each `IN (SELECT ...)` and `(SELECT ...)` that reads lists alone by what it yields.
pub(super) fn inline_lists(session: &Session, plan: LogicalPlan) -> Result<LogicalPlan> {
    let inline = |expr: Expr| {
        expr.transform_up(|part| match part {
            Expr::InSubquery(InSubquery {
                expr,
                subquery,
                negated,
            }) if subquery.outer_ref_columns.is_empty() => {
                let values = first_column(session, &subquery)?;
                Ok(Transformed::yes(Expr::InList(InList::new(
                    expr, values, negated,
                ))))
            }
            Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty() => {
                let mut values = first_column(session, &subquery)?;
                match (values.pop(), values.is_empty()) {
                    (Some(value), true) => Ok(Transformed::yes(value)),
                    (Some(_), false) => {
                        plan_err!("a subquery yields more than one row where one value is needed")
                    }
                    (None, _) => {
                        let kind = subquery.subquery.schema().field(0).data_type();
                        Ok(Transformed::yes(Expr::Literal(
                            ScalarValue::try_from(kind)?,
                            None,
                        )))
                    }
                }
            }
            other => Ok(Transformed::no(other)),
        })?
        .transform_data(bound_concatenation)
    };
    Ok(plan.transform_up(|node| node.map_expressions(inline))?.data)
}

/// The values of a subquery's first column, as literals.
fn first_column(session: &Session, subquery: &Subquery) -> Result<Vec<Expr>> {
    let mut values = Vec::new();
    for batch in session.run(subquery.subquery.as_ref().clone())? {
        if values.len() + batch.num_rows() > ROWS_MAX {
            return plan_err!("a subquery on lists yields more than {ROWS_MAX} values");
        }
        for row in 0..batch.num_rows() {
            let value = ScalarValue::try_from_array(batch.column(0), row)?;
            values.push(Expr::Literal(value, None));
        }
    }
    Ok(values)
}
