//! Negations that leave out whatever is unknown: `proc_stage <> 'runtime'` is not true of a row without a stage.
//!
//! For each column (or item of a list, or key of a map) that makes a negation NULL, every comparison of the query is computed
//! with NULL in its place. The negation is told where such rows would pass but for negations: who also writes `IS NOT NULL`,
//! `coalesce` or `IS DISTINCT FROM`, or asks anything else of the column that NULL does not pass, has thought of it.

use std::collections::HashMap;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use super::Subject;
use super::parts::whole_number;
use super::problem::{Problem, negates};
use super::satisfy::{Goal, Part, Question, part};
use super::terms::Domain;
use super::text::{line_of, sql};

use crate::detect::sql_file::{Fault, SqlFile};
use dogwatch_query::simplify::simplify;

pub(super) fn check(subject: &Subject<'_>, problem: &Problem) -> Vec<Fault> {
    let negations = negations(problem);
    if negations.is_empty() {
        return Vec::new();
    }
    let mut unknowns = Unknowns {
        subject,
        problem,
        schema: problem.schema(),
        judged: HashMap::new(),
    };
    let mut told = Vec::new();
    let mut faults = Vec::new();
    for (term, (leaf, wanted)) in negations {
        if told.contains(&term) || !unknowns.only_negations_exclude(leaf) {
            continue;
        }
        told.push(term);
        faults.push(fault(problem, subject.file, term, leaf, wanted));
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
                    && negates(goal)
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

/// What rows come to of which something is not known.
struct Unknowns<'a> {
    subject: &'a Subject<'a>,
    problem: &'a Problem,
    schema: DFSchema,
    /// Of what is not known, whether such rows would pass but for negations.
    judged: HashMap<Vec<Expr>, bool>,
}

impl Unknowns<'_> {
    /// Whether there is something that makes a leaf NULL, and rows without it would pass but for negations.
    fn only_negations_exclude(&mut self, leaf: &Expr) -> bool {
        let mut causes: Vec<Vec<Expr>> = self.nullable_parts(leaf);
        causes.retain(|cause| self.comes_to(leaf, cause) == Some(None));
        causes.into_iter().any(|cause| self.would_pass(cause))
    }

    /// What can be NULL in an expression, each by itself; all of it together where there is more than one.
    fn nullable_parts(&self, expr: &Expr) -> Vec<Vec<Expr>> {
        let mut parts: Vec<Vec<Expr>> = Vec::new();
        // The walk itself never fails.
        let _ = expr.apply(|part| {
            let may_be = match part {
                Expr::Column(column) => {
                    let field = self.schema.field_from_column(column);
                    field.is_ok_and(|field| field.is_nullable())
                }
                Expr::ScalarFunction(call) => NULL_OF_ITSELF.contains(&call.name()),
                Expr::TryCast(_) => true,
                _ => false,
            };
            if may_be && !parts.iter().any(|own| own[0] == *part) {
                parts.push(vec![part.clone()]);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        let all: Vec<Expr> = parts.iter().flatten().cloned().collect();
        if all.len() > 1 {
            parts.push(all);
        }
        parts
    }

    /// Whether rows where all of this is NULL do not pass, and would without their negations.
    fn would_pass(&mut self, cause: Vec<Expr>) -> bool {
        if let Some(judged) = self.judged.get(&cause) {
            return *judged;
        }
        let problem = self.problem;
        let leaves = problem.leaves();
        let assumed = leaves.filter_map(|leaf| Some((leaf, self.comes_to(leaf, &cause)?)));
        let assumed: HashMap<&Expr, Option<bool>> = assumed.collect();
        let goals = problem.with_facts(Domain::Known, &problem.goals());
        let holds = |ignoring| {
            let question = Question::new(problem, Domain::Known);
            let question = question.assuming(&assumed, ignoring);
            question.holds(goals.iter().copied())
        };
        let would_pass = !holds(false) && holds(true);
        self.judged.insert(cause, would_pass);
        would_pass
    }

    /// What a leaf comes to where all of this is NULL; none where it does not depend on it alone.
    fn comes_to(&self, leaf: &Expr, cause: &[Expr]) -> Option<Option<bool>> {
        if !cause.iter().any(|part| is_part_of(part, leaf)) {
            return self.by_length(leaf, cause);
        }
        let nulled = leaf.clone().transform_down(|part| {
            Ok(match cause.contains(&part) {
                true => {
                    let kind = part.get_type(&self.schema)?;
                    let null = Expr::Literal(ScalarValue::try_from(&kind)?, None);
                    Transformed::new(null, true, TreeNodeRecursion::Jump)
                }
                false => Transformed::no(part),
            })
        });
        self.computed(nulled.ok()?.data)
    }

    /// What a leaf on a list's length comes to where this item of the list is not there.
    fn by_length(&self, leaf: &Expr, cause: &[Expr]) -> Option<Option<bool>> {
        let [Expr::ScalarFunction(item)] = cause else {
            return None;
        };
        let (list, Expr::Literal(place, _)) = (item.args.first()?, item.args.get(1)?) else {
            return None;
        };
        let place = whole_number(place).filter(|place| (1..=PLACES_MAX).contains(place))?;
        let counts_it = |part: &Expr| {
            matches!(part, Expr::ScalarFunction(call)
                if LENGTHS.contains(&call.name()) && call.args == [list.clone()])
        };
        if item.name() != "array_element" || !leaf.exists(|part| Ok(counts_it(part))).ok()? {
            return None;
        }
        let comes_to = |length: i64| {
            let counted = leaf.clone().transform_down(|part| {
                Ok(match counts_it(&part) {
                    true => {
                        let kind = part.get_type(&self.schema)?;
                        let length = ScalarValue::from(length).cast_to(&kind)?;
                        Transformed::yes(Expr::Literal(length, None))
                    }
                    false => Transformed::no(part),
                })
            });
            self.computed(counted.ok()?.data)
        };
        let first = comes_to(0)?;
        (1..place)
            .all(|length| comes_to(length) == Some(first))
            .then_some(first)
    }

    fn computed(&self, expr: Expr) -> Option<Option<bool>> {
        match simplify(&self.subject.session.context, expr, &self.schema).ok()? {
            Expr::Literal(ScalarValue::Boolean(value), _) => Some(value),
            Expr::Literal(value, _) if value.is_null() => Some(None),
            _ => None,
        }
    }
}

/// Functions that can be NULL of what is not.
const NULL_OF_ITSELF: [&str; 3] = ["array_element", "get_field", "nullif"];
/// Functions that count the items of a list.
const LENGTHS: [&str; 2] = ["cardinality", "array_length"];
/// The last item of a list that its length is looked at for.
const PLACES_MAX: i64 = 32;

fn is_part_of(part: &Expr, whole: &Expr) -> bool {
    whole.exists(|own| Ok(own == part)).unwrap_or(false)
}

fn fault(problem: &Problem, file: &SqlFile, term: usize, leaf: &Expr, wanted: bool) -> Fault {
    let expr = &problem.terms[term].expr;
    let (name, condition) = match wanted {
        true => (sql(expr), sql(leaf)),
        false => (sql(expr), format!("NOT {}", sql(leaf))),
    };
    let is_pair = problem.terms[term].pair.is_some();
    let whole = is_pair || expr == leaf && !matches!(leaf, Expr::Column(_));
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
