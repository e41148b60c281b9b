//! Negations that leave out whatever is unknown: `proc_stage <> 'runtime'` is not true of a row without a stage.
//!
//! A term is told of where rows without it would pass but for its negations: who also writes `IS NOT NULL`, `coalesce` or
//! `IS DISTINCT FROM` has thought of it.

use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::problem::{Domain, Problem};
use super::satisfy::{Goal, Part, Question, part};
use super::text::{line_of, sql};
use crate::detect::sql_file::{Fault, SqlFile};

pub(super) fn check(problem: &Problem, file: &SqlFile) -> Vec<Fault> {
    let negations = negations(problem);
    let mut told = Vec::new();
    let mut faults = Vec::new();
    for (term, (leaf, wanted)) in negations {
        if told.contains(&term) || !only_negations_exclude_null(problem, term) {
            continue;
        }
        told.push(term);
        faults.push(fault(problem, file, term, leaf, wanted));
    }
    faults
}

/// Leaves that exclude values of a term, in the order of the query.
fn negations(problem: &Problem) -> Vec<(usize, Goal<'_>)> {
    let mut found = Vec::new();
    let mut waiting = problem.goals();
    waiting.reverse();
    while let Some(goal) = waiting.pop() {
        match part(goal) {
            Part::Both([first, second]) | Part::Either([first, second]) => {
                waiting.extend([second, first]);
            }
            Part::Same(same) => waiting.push(same),
            Part::Leaf => {
                let (expr, wanted) = goal;
                if let Some(leaf) = problem.leaf(expr)
                    && leaf.negates(expr, wanted)
                    && let Some(null) = problem.terms[leaf.term].null_place()
                    && !leaf.verdicts.get(null).is_some_and(|at| at.may_be(wanted))
                {
                    found.push((leaf.term, goal));
                }
            }
        }
    }
    found
}

/// Whether rows without a term do not pass, and would without its negations.
fn only_negations_exclude_null(problem: &Problem, term: usize) -> bool {
    let goals = problem.with_facts(Domain::Known, &problem.goals());
    let asked = |ignoring| Question::new(problem, Domain::Known).with_null(term, ignoring);
    if asked(false).holds(goals.iter().copied()) || !asked(true).holds(goals.iter().copied()) {
        return false;
    }
    // What a term is made of may be known to be there.
    let expr = &problem.terms[term].expr;
    let parts = problem.terms.iter().enumerate().filter(|(place, other)| {
        *place != term && other.null_place().is_some() && is_part_of(&other.expr, expr)
    });
    let parts: Vec<usize> = parts.map(|(place, _)| place).collect();
    let possible = |part: &usize| {
        asked(true)
            .with_null(*part, false)
            .holds(goals.iter().copied())
    };
    parts.is_empty() || parts.iter().any(possible)
}

fn is_part_of(part: &Expr, whole: &Expr) -> bool {
    whole.exists(|own| Ok(own == part)).unwrap_or(false)
}

fn fault(problem: &Problem, file: &SqlFile, term: usize, leaf: &Expr, wanted: bool) -> Fault {
    let expr = &problem.terms[term].expr;
    let (name, condition) = match wanted {
        true => (sql(expr), sql(leaf)),
        false => (sql(expr), format!("NOT {}", sql(leaf))),
    };
    let whole = expr == leaf && !matches!(leaf, Expr::Column(_));
    let reason = match whole {
        true => format!(
            "{condition} is not true where a part of it is unknown (NULL): such rows never pass"
        ),
        false => {
            format!("{condition} is not true where {name} is unknown (NULL): such rows never pass")
        }
    };
    let explicit = match whole {
        true => String::new(),
        false => format!(", or add {name} IS NOT NULL if that is meant"),
    };
    Fault::new(
        line_of(file, leaf),
        reason,
        format!("write {}{explicit}", mended(expr, leaf, wanted)),
    )
}

/// The negation as it would let rows pass that are unknown.
fn mended(term: &Expr, leaf: &Expr, wanted: bool) -> String {
    if let Expr::BinaryExpr(BinaryExpr { left, op, right }) = leaf
        && matches!(op, Operator::Eq | Operator::NotEq)
    {
        // In brackets: the parser would take an AND behind it for a part of what is compared.
        return format!("({} IS DISTINCT FROM {})", sql(left), sql(right));
    }
    match leaf {
        Expr::InList(_) | Expr::Like(_) | Expr::SimilarTo(_) | Expr::Between(_) if wanted => {
            format!("({} IS NULL OR {})", sql(term), sql(leaf))
        }
        _ if wanted => format!("coalesce({}, true)", sql(leaf)),
        _ => format!("NOT coalesce({}, false)", sql(leaf)),
    }
}
