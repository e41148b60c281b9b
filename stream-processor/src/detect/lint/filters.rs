//! Aggregates whose FILTER no event of the query passes: they count none.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Subject;
use super::conditions::Conditions;
use super::problem::Problem;
use super::terms::Domain;
use super::text::{line_of, sql};
use crate::detect::sql_file::Fault;

pub(super) fn check(subject: &Subject<'_>, conditions: &Conditions) -> Result<Vec<Fault>> {
    let mut filters = Vec::new();
    subject.plan.apply(|node| {
        let LogicalPlan::Aggregate(aggregate) = node else {
            return Ok(TreeNodeRecursion::Continue);
        };
        for expr in &aggregate.aggr_expr {
            expr.apply(|part| {
                if let Expr::AggregateFunction(function) = part
                    && let Some(filter) = &function.params.filter
                {
                    filters.push((filter.as_ref().clone(), &aggregate.input));
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut faults = Vec::new();
    for (filter, over) in filters {
        let problem = Problem::new(subject, &conditions.with(&filter, over))?;
        if problem.conflict(Domain::Known).is_some() {
            let reason = format!(
                "no event that passes WHERE passes FILTER (WHERE {}): it counts none",
                sql(&filter)
            );
            let mend = "correct it, or let such events pass WHERE";
            faults.push(Fault::new(line_of(subject.file, &filter), reason, mend));
        }
    }
    Ok(faults)
}
