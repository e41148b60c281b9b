//! Contradictions that an equality carries from one column to another: `a = b AND a = 'x' AND b = 'y'`.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::Subject;
use super::conditions::Conditions;
use super::parts::is_constant;
use super::problem::Problem;
use super::terms::Domain;

/// Conditions that cannot hold together, since some of them make columns equal; none when all can.
pub(super) fn conflict(subject: &Subject<'_>, conditions: &Conditions) -> Option<Vec<Expr>> {
    let mut replaced = conditions.clone();
    let mut equalities = Vec::new();
    for place in 0..replaced.all.len() {
        let Some((kept, left_out)) = equality(&replaced.all[place].expr) else {
            continue;
        };
        equalities.push(place);
        for (other, condition) in replaced.all.iter_mut().enumerate() {
            if other != place {
                condition.expr = replace(condition.expr.clone(), &left_out, &kept);
            }
        }
    }
    if equalities.is_empty() {
        return None;
    }
    // What the lint cannot look through is no fault of the query's.
    let problem = Problem::new(subject, &replaced).ok()?;
    let culprits = problem.conflict(Domain::All)?;
    let places = problem.conditions.iter().enumerate();
    let places = places.filter(|(place, own)| {
        equalities.contains(place) || culprits.iter().any(|culprit| **culprit == own.expr)
    });
    Some(
        places
            .map(|(place, _)| conditions.all[place].expr.clone())
            .collect(),
    )
}

/// The column that an equality keeps, and the one that it makes the same.
fn equality(condition: &Expr) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return None;
    };
    let equal = left != right && !is_constant(left) && !is_constant(right);
    match (left.as_ref(), right.as_ref()) {
        (kept, Expr::Column(_)) if equal => Some((kept.clone(), right.as_ref().clone())),
        (Expr::Column(_), kept) if equal => Some((kept.clone(), left.as_ref().clone())),
        _ => None,
    }
}

fn replace(expr: Expr, old: &Expr, new: &Expr) -> Expr {
    let replaced = expr.clone().transform_down(|part| match part == *old {
        true => Ok(Transformed::new(
            new.clone(),
            true,
            datafusion::common::tree_node::TreeNodeRecursion::Jump,
        )),
        false => Ok(Transformed::no(part)),
    });
    replaced.map_or(expr, |replaced| replaced.data)
}
