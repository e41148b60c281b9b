//! Queries that are a filter: `SELECT outputs FROM events WHERE predicate`.
//!
//! Predicate and outputs become DataFusion's own expressions, each evaluated on a batch of just its columns.
//! Where the predicate cannot be true without certain values of `evt_type`, the caller shows it only those events, and what it
//! says of the type alone is not asked again.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use dogwatch_query::simplify::simplify;

use super::batch::{Match, Outputs, project, take_rows};
use super::check::scans_of_events;
use super::pattern;
use super::session::Session;

/// `SELECT outputs FROM events WHERE predicate`.
pub(crate) struct FilterPlan {
    /// The rows that match.
    pub predicate: Predicate,
    outputs: Vec<(String, BoundExpr)>,
}

/// A condition on single events.
pub(crate) struct Predicate {
    /// The values of `evt_type` without which it is never true; none = any may do.
    pub event_types: Option<BTreeSet<String>>,
    /// What it says, for comparing it with others; empty where it is always true.
    pub text: String,
    expr: Option<BoundExpr>,
}

impl Predicate {
    /// Binds a condition to the columns of events; none is always true.
    pub fn new(session: &Session, expr: Option<Expr>, schema: &DFSchema) -> Result<Self> {
        let expr = expr
            .map(|expr| simplify(&session.context, expr, schema))
            .transpose()?;
        Ok(Self {
            event_types: expr.as_ref().and_then(necessary_event_types),
            text: expr.as_ref().map(ToString::to_string).unwrap_or_default(),
            expr: expr
                .and_then(beside_event_types)
                .map(|expr| BoundExpr::new(session, expr, schema))
                .transpose()?,
        })
    }

    /// The columns it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.expr.iter().flat_map(BoundExpr::columns)
    }

    /// The rows of a batch for which it is true; all are of its event types.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<u32>> {
        match &self.expr {
            Some(expr) => Ok(true_rows(expr.evaluate(batch)?.as_ref())),
            None => Ok((0..batch.num_rows() as u32).collect()),
        }
    }
}

impl FilterPlan {
    /// Makes a filter of the plan; none when it is more than projection and filters over events.
    pub fn try_new(
        session: &Session,
        plan: &LogicalPlan,
        events: &SchemaRef,
    ) -> Result<Option<Self>> {
        let Some((outputs, predicate)) = flatten(plan) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(Arc::clone(events))?;
        let bind = |expr: Expr| BoundExpr::new(session, expr, &schema);
        Ok(Some(Self {
            predicate: Predicate::new(session, predicate, &schema)?,
            outputs: outputs
                .into_iter()
                .map(|(name, expr)| Ok((name, bind(expr)?)))
                .collect::<Result<_>>()?,
        }))
    }

    /// The columns of events it reads.
    pub fn columns(&self) -> BTreeSet<&str> {
        let outputs = self.outputs.iter().flat_map(|(_, output)| output.columns());
        self.predicate.columns().chain(outputs).collect()
    }

    /// The events of a batch that match, in its order.
    pub fn run(&self, batch: &RecordBatch) -> Result<Vec<Match>> {
        let rows = self.predicate.rows(batch)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let matched = take_rows(batch, &rows)?;
        let outputs = self
            .outputs
            .iter()
            .map(|(name, expr)| Ok((name.clone(), expr.evaluate(&matched)?)))
            .collect::<Result<Vec<_>>>()?;
        let outputs = Arc::new(Outputs(outputs));
        let matches = rows.into_iter().enumerate();
        Ok(matches
            .map(|(place, row)| Match::new(row, &outputs, place))
            .collect())
    }
}

/// An expression and the columns it needs, in the order it knows them by.
pub(crate) struct BoundExpr {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Whether there may be rows that it cannot judge.
    pub can_fail: bool,
}

impl BoundExpr {
    /// Binds an expression to the columns of events.
    pub fn new(session: &Session, expr: Expr, events: &DFSchema) -> Result<Self> {
        let expr = pattern::compile(simplify(&session.context, expr, events)?)?;
        let can_fail = can_fail(&expr)?;
        let expr = session.shared.share(expr)?;
        let expr = session.context.state().create_physical_expr(expr, events)?;
        let mut indices: Vec<usize> = collect_columns(&expr)
            .iter()
            .map(|column| column.index())
            .collect();
        indices.sort_unstable();
        // An AND filters every column of the batch it is given: a batch of just its columns is several times cheaper.
        let schema = Arc::new(events.as_arrow().project(&indices)?);
        Ok(Self {
            expr: reassign_expr_columns(expr, &schema)?,
            schema,
            can_fail,
        })
    }

    /// The columns it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
    }

    /// Its value for each row of a batch that has its columns.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let own = project(batch, &self.schema)?;
        self.expr.evaluate(&own)?.into_array(batch.num_rows())
    }
}

/// Functions that judge whatever they are given.
const NEVER_FAIL: [&str; 14] = [
    "program",
    "lower",
    "upper",
    "starts_with",
    "ends_with",
    "contains",
    "coalesce",
    "nullif",
    "get_field",
    "array_element",
    "character_length",
    "octet_length",
    "cardinality",
    "array_length",
];

/// Whether there may be rows that an expression cannot judge; what is not known here may fail.
pub(super) fn can_fail(expr: &Expr) -> Result<bool> {
    expr.exists(|part| {
        Ok(match part {
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::Alias(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::Between(_)
            | Expr::InList(_)
            | Expr::Like(_)
            | Expr::Case(_)
            | Expr::TryCast(_) => false,
            Expr::BinaryExpr(binary) => {
                !(binary.op.is_logic_operator() || is_comparison(binary.op))
            }
            Expr::ScalarFunction(call) => !NEVER_FAIL.contains(&call.name()),
            _ => true,
        })
    })
}

/// Whether it compares by order or equality, which never fails.
pub(super) fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Rows for which a predicate is true: neither false nor NULL.
fn true_rows(verdicts: &dyn Array) -> Vec<u32> {
    match verdicts.as_boolean_opt() {
        Some(verdicts) if verdicts.null_count() > 0 => {
            let never_null = prep_null_mask_filter(verdicts);
            never_null.values().set_indices_u32().collect()
        }
        Some(verdicts) => verdicts.values().set_indices_u32().collect(),
        None => Vec::new(),
    }
}

/// Takes a projection over filters over events apart; columns come back without qualifier.
#[expect(
    clippy::type_complexity,
    reason = "used once, and the parts are named where they are taken"
)]
fn flatten(plan: &LogicalPlan) -> Option<(Vec<(String, Expr)>, Option<Expr>)> {
    let LogicalPlan::Projection(projection) = plan else {
        return None;
    };
    let mut predicates = Vec::new();
    let mut input = &projection.input;
    loop {
        match input.as_ref() {
            LogicalPlan::Filter(filter) => {
                predicates.push(unqualified(&filter.predicate)?);
                input = &filter.input;
            }
            LogicalPlan::SubqueryAlias(alias) => input = &alias.input,
            LogicalPlan::TableScan(_) if scans_of_events(input) == 1 => break,
            _ => return None,
        }
    }
    let names = projection
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone());
    let exprs = projection
        .expr
        .iter()
        .map(unqualified)
        .collect::<Option<Vec<_>>>()?;
    let predicate = predicates.into_iter().rev().reduce(Expr::and);
    Some((names.zip(exprs).collect(), predicate))
}

/// The expression with plain column names; none when it holds a subquery.
pub(super) fn unqualified(expr: &Expr) -> Option<Expr> {
    let has_subquery = |expr: &Expr| {
        matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
        )
    };
    if expr.exists(|part| Ok(has_subquery(part))).ok()? {
        return None;
    }
    let plain = expr.clone().transform(|part| match part {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
            column.name,
        )))),
        other => Ok(Transformed::no(other)),
    });
    Some(plain.ok()?.data)
}

/// The values of `evt_type` without which a predicate cannot be true; none = any value may do.
pub(super) fn necessary_event_types(predicate: &Expr) -> Option<BTreeSet<String>> {
    match predicate {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => match (necessary_event_types(left), necessary_event_types(right)) {
                (Some(left), Some(right)) => Some(left.intersection(&right).cloned().collect()),
                (left, right) => left.or(right),
            },
            Operator::Or => {
                let (mut left, right) =
                    (necessary_event_types(left)?, necessary_event_types(right)?);
                left.extend(right);
                Some(left)
            }
            Operator::Eq => {
                let text = if is_event_type(left) {
                    text_of(right)
                } else if is_event_type(right) {
                    text_of(left)
                } else {
                    None
                };
                Some(BTreeSet::from([text?]))
            }
            _ => None,
        },
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) if is_event_type(expr) => list.iter().map(text_of).collect(),
        _ => None,
    }
}

/// What a condition asks beside the type of the event.
fn beside_event_types(predicate: Expr) -> Option<Expr> {
    let parts = split_conjunction_owned(predicate).into_iter();
    parts
        .filter(|part| !is_of_event_type(part))
        .reduce(Expr::and)
}

/// Whether a condition is true for its [`necessary_event_types`], and for no others.
fn is_of_event_type(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => is_of_event_type(left) && is_of_event_type(right),
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Eq, ..
        })
        | Expr::InList(_) => necessary_event_types(expr).is_some(),
        _ => false,
    }
}

fn is_event_type(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == "evt_type")
}

/// The text that a literal is.
pub(super) fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}
