//! What columns are made of: through subqueries, common table expressions and aliases down to the columns of events, and to
//! the aggregates of their groups.
//!
//! ```text
//! SELECT .. FROM (SELECT evt_type AS kind FROM events e WHERE e.evt_type = 'open') t WHERE t.kind = 'connect'
//!   ──► events.evt_type = 'open' AND events.evt_type = 'connect'
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, internal_err};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, JoinType, LogicalPlan};

use crate::detect::check::scans_of_events;
use crate::detect::window::find_scan;

/// Most parts of an expression that is put in the place of a column: a larger one stays what it is called.
pub(super) const PARTS_MAX: usize = 64;

/// Aggregates that have a value wherever what they are of has one.
const NEVER_NULL: [&str; 13] = [
    "min",
    "max",
    "sum",
    "avg",
    "median",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "first_value",
    "last_value",
    "array_agg",
    "string_agg",
];

/// An expression over a plan's columns, as one over what these are made of where that is of events.
pub(super) fn resolved(expr: &Expr, plan: &LogicalPlan) -> Expr {
    let replaced = expr.clone().transform_up(|part| {
        Ok(match of(&part, plan) {
            Some(origin) => Transformed::yes(origin),
            None => Transformed::no(part),
        })
    });
    replaced.map_or_else(|_| expr.clone(), |replaced| replaced.data)
}

/// An expression in which columns of events have their own names; what is computed of them stays what it is called.
pub(super) fn renamed(expr: &Expr, plan: &LogicalPlan) -> Expr {
    let replaced = expr.clone().transform_up(|part| {
        Ok(match of(&part, plan) {
            Some(origin @ Expr::Column(_)) => Transformed::yes(origin),
            _ => Transformed::no(part),
        })
    });
    replaced.map_or_else(|_| expr.clone(), |replaced| replaced.data)
}

/// The types of a plan's columns and of all that these are made of.
pub(super) fn schema(plan: &LogicalPlan) -> DFSchema {
    let mut schema = plan.schema().as_ref().clone();
    let mut never_null = BTreeSet::new();
    // The walk itself never fails.
    let _ = plan.apply(|node| {
        schema.merge(node.schema());
        if let LogicalPlan::Aggregate(aggregate) = node {
            never_null.extend(never_null_of(aggregate));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let fields = schema.iter().map(|(qualifier, field)| {
        let known = qualifier.is_none() && never_null.contains(field.name());
        let field = match known {
            true => Arc::new(field.as_ref().clone().with_nullable(false)),
            false => Arc::clone(field),
        };
        (qualifier.cloned(), field)
    });
    DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone()).unwrap_or(schema)
}

/// The names of aggregates that every group has.
fn never_null_of(aggregate: &Aggregate) -> impl Iterator<Item = String> {
    let own = aggregate.aggr_expr.iter();
    own.filter(|expr| {
        let mut call = *expr;
        while let Expr::Alias(alias) = call {
            call = &alias.expr;
        }
        let Expr::AggregateFunction(call) = call else {
            return false;
        };
        let schema = aggregate.input.schema().as_ref();
        let has_values = |argument: &Expr| argument.nullable(schema).is_ok_and(|may_be| !may_be);
        call.params.filter.is_none()
            && NEVER_NULL.contains(&call.func.name())
            && call.params.args.iter().all(has_values)
    })
    .map(|expr| expr.schema_name().to_string())
}

/// What a column of a plan is made of, at the place in the file where the column stands.
fn of(part: &Expr, plan: &LogicalPlan) -> Option<Expr> {
    let Expr::Column(column) = part else {
        return None;
    };
    let origin = made_of(column, plan)?;
    let placed = origin.transform_up(|part| {
        Ok(match part {
            Expr::Column(own) => Transformed::yes(Expr::Column(Column {
                spans: column.spans.clone(),
                ..own
            })),
            part => Transformed::no(part),
        })
    });
    placed.ok().map(|placed| placed.data)
}

fn made_of(column: &Column, plan: &LogicalPlan) -> Option<Expr> {
    let place = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_) => made_of(column, plan.inputs().first()?),
        LogicalPlan::SubqueryAlias(alias) => {
            let (qualifier, field) = alias.input.schema().qualified_field(place);
            made_of(&Column::new(qualifier.cloned(), field.name()), &alias.input)
        }
        LogicalPlan::Projection(projection) => {
            of_all(projection.expr.get(place)?, &projection.input)
        }
        LogicalPlan::Aggregate(aggregate) if reads_events(plan) => {
            match aggregate.group_expr.get(place) {
                Some(key) => of_all(key, &aggregate.input),
                None => Some(Expr::Column(column.clone())),
            }
        }
        LogicalPlan::Join(join) => {
            let of_left = join.left.schema().maybe_index_of_column(column).is_some();
            match join.join_type {
                JoinType::Inner if !of_left => made_of(column, &join.right),
                JoinType::Inner | JoinType::Left if of_left => made_of(column, &join.left),
                _ => None,
            }
        }
        LogicalPlan::TableScan(_) if reads_events(plan) => Some(Expr::Column(column.clone())),
        _ => None,
    }
}

/// What an expression is made of; none where a part of it is not of events, or it is large.
fn of_all(expr: &Expr, plan: &LogicalPlan) -> Option<Expr> {
    let bare = expr.clone().unalias();
    let mut parts = 0;
    let made = bare.transform_up(|part| {
        parts += 1;
        if parts > PARTS_MAX {
            return internal_err!("too large");
        }
        let Expr::Column(column) = &part else {
            return Ok(Transformed::no(part));
        };
        let origin: Result<Expr> = match made_of(column, plan) {
            Some(origin) => Ok(origin),
            None => internal_err!("a column of no event"),
        };
        origin.map(Transformed::yes)
    });
    made.ok().map(|made| made.data)
}

fn reads_events(plan: &LogicalPlan) -> bool {
    scans_of_events(plan) > 0 || find_scan(plan).is_some()
}
