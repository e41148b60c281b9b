//! Aggregates that hand on values: what `min(evt_type)` is, the `evt_type` of an event of the group was.
//!
//! ```text
//! WHERE evt_type = 'execve' .. HAVING min(evt_type) = 'open'
//!   ──► is there an event with evt_type = 'execve' AND evt_type = 'open'?
//! ```
//! Asked is each condition on one such aggregate that NULL does not pass, as a condition on the event that the value is from.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, lit};
use datafusion::scalar::ScalarValue;
use dogwatch_query::simplify::simplify;

use super::Subject;
use super::conditions::{Condition, Conditions};
use super::origin;
use super::parts::whole_number;
use super::problem::Problem;
use super::terms::Domain;

/// Aggregates whose result is one of the values.
const OF_ONE: [&str; 5] = ["min", "max", "first_value", "last_value", "nth_value"];
/// Aggregates whose result is a list of values.
const OF_SEVERAL: [&str; 2] = ["array_agg", "sample"];
/// Most conditions of a query that are asked so.
const ASKED_MAX: usize = 16;

/// An aggregate that hands on values of events.
#[derive(Debug, Clone)]
pub(in crate::detect) struct Handed {
    /// What it is called above the groups.
    pub name: String,
    /// What it is of, over the columns of events.
    pub of: Expr,
    /// Which events it is of, where not of all.
    filter: Option<Expr>,
    /// Whether it is a list of values.
    is_list: bool,
}

/// The aggregates of a node that hand on values.
pub(super) fn all_of(aggregate: &Aggregate) -> impl Iterator<Item = Handed> {
    aggregate.aggr_expr.iter().filter_map(|expr| {
        let mut call = expr;
        while let Expr::Alias(alias) = call {
            call = &alias.expr;
        }
        let Expr::AggregateFunction(call) = call else {
            return None;
        };
        let is_list = OF_SEVERAL.contains(&call.func.name());
        let hands_on = is_list || OF_ONE.contains(&call.func.name());
        let argument = call.params.args.first().filter(|_| hands_on)?;
        let resolved = |expr: &Expr| origin::resolved(expr, &aggregate.input);
        Some(Handed {
            name: expr.schema_name().to_string(),
            of: resolved(argument),
            filter: call.params.filter.as_deref().map(resolved),
            is_list,
        })
    })
}

/// The conditions that no event passes which hands on the value that is asked for, as the query has them; none where all may
/// hold.
pub(super) fn conflict(
    subject: &Subject<'_>,
    conditions: &Conditions,
    domain: Domain,
) -> Option<Vec<Expr>> {
    let asked = conditions.all.iter().filter_map(|condition| {
        let handed = only_handed(conditions, &condition.expr)?;
        let of_event = handed.of_event(subject, condition)?;
        Some((condition, handed, of_event))
    });
    asked.take(ASKED_MAX).find_map(|(condition, handed, expr)| {
        let of_events = |own: &&Condition| {
            let columns = own.expr.column_refs();
            columns.iter().all(|column| column.relation.is_some())
        };
        let others: Vec<Condition> = conditions.all.iter().filter(of_events).cloned().collect();
        let mut written: Vec<&Expr> = others.iter().map(|own| &own.expr).collect();
        let mut all = others.clone();
        let own = [Some(expr), handed.filter.clone()];
        for expr in own.into_iter().flatten() {
            written.push(&condition.expr);
            let schema = condition.schema.clone();
            all.push(Condition { expr, schema });
        }
        let mut asked = conditions.clone();
        asked.all = all;
        // What the lint cannot look through is no fault of the query's.
        let problem = Problem::new(subject, &asked).ok()?;
        let culprits = problem.conflict(domain)?;
        let is_culprit =
            |own: &Condition| culprits.iter().any(|expr| std::ptr::eq(*expr, &own.expr));
        let places = problem.conditions.iter().zip(written);
        let mut found: Vec<Expr> = Vec::new();
        for (_, expr) in places.filter(|(own, _)| is_culprit(own)) {
            if !found.contains(expr) {
                found.push(expr.clone());
            }
        }
        // What no event passes by itself is told of the events.
        found.contains(&condition.expr).then_some(found)
    })
}

/// The one aggregate that a condition asks of, where it hands on values, and all else in it is the same in a group.
fn only_handed<'c>(conditions: &'c Conditions, condition: &Expr) -> Option<&'c Handed> {
    let mut found: Option<&Handed> = None;
    for column in condition.column_refs() {
        if column.relation.is_some() {
            continue;
        }
        let own = conditions.handed_in(&Expr::Column(column.clone()))?;
        if found.is_some_and(|found| found.name != own.name) {
            return None;
        }
        found = Some(own);
    }
    found
}

impl Handed {
    fn is(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Column(Column { relation: None, name, .. }) if *name == self.name)
    }

    /// A condition on it as one on an event that it has a value of; none where it may hold without such an event, or for
    /// several together.
    fn of_event(&self, subject: &Subject<'_>, condition: &Condition) -> Option<Expr> {
        let mut times = 0;
        let replaced = condition.expr.clone().transform_down(|part| {
            let item = match &part {
                _ if !self.is_list && self.is(&part) => Some(self.of.clone()),
                Expr::ScalarFunction(call) if self.is_list && call.args.len() == 2 => {
                    let own = self.is(&call.args[0]);
                    match (call.name(), &call.args[1]) {
                        ("array_element", Expr::Literal(place, _)) if own => {
                            whole_number(place).map(|_| self.of.clone())
                        }
                        ("array_has", wanted) if own => Some(self.of.clone().eq(wanted.clone())),
                        _ => None,
                    }
                }
                _ => None,
            };
            Ok(match item {
                Some(item) => {
                    times += 1;
                    Transformed::new(item, true, TreeNodeRecursion::Jump)
                }
                None => Transformed::no(part),
            })
        });
        let replaced = replaced.ok()?.data;
        let is_left = replaced.exists(|part| Ok(self.is(part))).unwrap_or(true);
        let of_one = !self.is_list || times == 1;
        (!is_left && of_one && !self.passes_without(subject, condition)).then_some(replaced)
    }

    /// Whether a condition may hold where the aggregate is NULL.
    fn passes_without(&self, subject: &Subject<'_>, condition: &Condition) -> bool {
        let schema = condition.schema.as_ref();
        let nulled = condition.expr.clone().transform_down(|part| {
            Ok(match self.is(&part) {
                true => {
                    let kind = condition.data_type(&part);
                    let null = kind.and_then(|kind| ScalarValue::try_from(&kind).ok());
                    let null = lit(null.unwrap_or(ScalarValue::Null));
                    Transformed::new(null, true, TreeNodeRecursion::Jump)
                }
                false => Transformed::no(part),
            })
        });
        let nulled = nulled.map(|nulled| nulled.data);
        match nulled.and_then(|nulled| simplify(&subject.session.context, nulled, schema)) {
            Ok(Expr::Literal(ScalarValue::Boolean(value), _)) => value == Some(true),
            Ok(Expr::Literal(value, _)) => !value.is_null(),
            _ => true,
        }
    }
}
