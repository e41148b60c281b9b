//! Contradictions that an equality carries from one column to another: `a = b AND a = 'x' AND b = 'y'`.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::Subject;
use super::conditions::Conditions;
use super::origin::PARTS_MAX;
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

/// What an equality keeps, and the column that it makes the same; what has too many parts is kept by none.
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
    let (kept, left_out) = match (left.as_ref(), right.as_ref()) {
        (kept, column @ Expr::Column(_)) | (column @ Expr::Column(_), kept) if equal => {
            (kept, column)
        }
        _ => return None,
    };
    (parts(kept, |_| true) <= PARTS_MAX).then(|| (kept.clone(), left_out.clone()))
}

/// How many parts of an expression are such.
fn parts(expr: &Expr, is_such: impl Fn(&Expr) -> bool) -> usize {
    let mut count = 0;
    // The walk itself never fails.
    let _ = expr.apply(|part| {
        count += usize::from(is_such(part));
        Ok(TreeNodeRecursion::Continue)
    });
    count
}

/// The same with one part in the place of another, where it does not grow by too much: `b = concat(a, a) AND c = concat(b, b)
/// AND ..` doubles with each.
fn replace(expr: Expr, old: &Expr, new: &Expr) -> Expr {
    let size = parts(new, |_| true);
    if size > 1 && parts(&expr, |part| part == old) * size > PARTS_MAX {
        return expr;
    }
    let replaced = expr.clone().transform_down(|part| match part == *old {
        true => Ok(Transformed::new(new.clone(), true, TreeNodeRecursion::Jump)),
        false => Ok(Transformed::no(part)),
    });
    replaced.map_or(expr, |replaced| replaced.data)
}
