//! Whether conditions can hold together: each term is given the values that stand for all, and alternatives are tried one
//! after the other.
//!
//! Only what is certain says no: an expression that is not looked through may be true and false, and where a query has too
//! many alternatives, the answer is that it may hold.

use std::collections::HashMap;

use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::problem::{Problem, is_long, negates};
use super::terms::Domain;

/// Most alternatives that are tried for one question.
const TRIES_MAX: usize = 2_000;

/// What an expression comes to when it must be true, or must be false.
pub(super) enum Part<'e> {
    /// Both must.
    Both([Goal<'e>; 2]),
    /// One of them must.
    Either([Goal<'e>; 2]),
    /// The same as that.
    Same(Goal<'e>),
    /// It is asked as a whole.
    Leaf,
}

/// An expression, and whether it must be true or false; NULL is neither.
pub(super) type Goal<'e> = (&'e Expr, bool);

/// Takes NOT, AND and OR apart.
pub(super) fn part((expr, wanted): Goal<'_>) -> Part<'_> {
    match expr {
        Expr::Alias(alias) => Part::Same((&alias.expr, wanted)),
        Expr::Not(inner) => Part::Same((inner, !wanted)),
        Expr::IsTrue(inner) if wanted => Part::Same((inner, true)),
        Expr::IsFalse(inner) if wanted => Part::Same((inner, false)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let goals = [(left.as_ref(), wanted), (right.as_ref(), wanted)];
            match (op, wanted) {
                (Operator::And, true) | (Operator::Or, false) => Part::Both(goals),
                (Operator::Or, true) | (Operator::And, false) => Part::Either(goals),
                _ => Part::Leaf,
            }
        }
        _ => Part::Leaf,
    }
}

/// One question to a problem.
pub(super) struct Question<'p> {
    problem: &'p Problem,
    /// Of each term, the values that are still possible.
    possible: Vec<Vec<bool>>,
    /// What leaves are known to come to.
    assumed: Option<&'p HashMap<&'p Expr, Option<bool>>>,
    /// Whether negations that are assumed to be NULL are taken to hold.
    ignoring: bool,
    tries: usize,
}

impl<'p> Question<'p> {
    /// Asks with all values of a domain.
    pub fn new(problem: &'p Problem, domain: Domain) -> Self {
        Self {
            problem,
            possible: problem
                .terms
                .iter()
                .map(|term| term.values_in(domain))
                .collect(),
            assumed: None,
            ignoring: false,
            tries: 0,
        }
    }

    /// Asks with what leaves are known to come to; with `ignoring`, negations that come to NULL are taken to hold.
    pub fn assuming(
        mut self,
        assumed: &'p HashMap<&'p Expr, Option<bool>>,
        ignoring: bool,
    ) -> Self {
        self.assumed = Some(assumed);
        self.ignoring = ignoring;
        self
    }

    /// Asks with a term having one of its values.
    pub fn with_value(mut self, term: usize, value: usize) -> Self {
        for (place, possible) in self.possible[term].iter_mut().enumerate() {
            *possible &= place == value;
        }
        self
    }

    /// Asks with a term being a number up to `most`.
    pub fn at_most(mut self, term: usize, most: usize) -> Self {
        let fits = self.problem.terms[term].values_up_to(most);
        for (possible, fits) in self.possible[term].iter_mut().zip(fits) {
            *possible &= fits;
        }
        self
    }

    /// Whether all goals can hold.
    pub fn holds<'e>(mut self, goals: impl IntoIterator<Item = Goal<'e>>) -> bool {
        let possible = std::mem::take(&mut self.possible);
        self.can_hold(goals.into_iter().collect(), Vec::new(), possible)
    }

    fn can_hold<'e>(
        &mut self,
        mut goals: Vec<Goal<'e>>,
        mut choices: Vec<[Goal<'e>; 2]>,
        mut possible: Vec<Vec<bool>>,
    ) -> bool {
        self.tries += 1;
        if self.tries > TRIES_MAX || !self.problem.may_try() {
            return true;
        }
        while let Some(goal) = goals.pop() {
            match part(goal) {
                Part::Both(both) => goals.extend(both),
                Part::Either(choice) => choices.push(choice),
                Part::Same(same) => goals.push(same),
                Part::Leaf => {
                    if !self.narrow(goal, &mut possible) {
                        return false;
                    }
                }
            }
        }
        let Some(choice) = choices.pop() else {
            return true;
        };
        choice
            .into_iter()
            .any(|goal| self.can_hold(vec![goal], choices.clone(), possible.clone()))
    }

    /// Strikes out the values with which a leaf is not as it must be; false when none is left.
    fn narrow(&self, goal: Goal<'_>, possible: &mut [Vec<bool>]) -> bool {
        let (expr, wanted) = goal;
        if is_long(expr) {
            return true;
        }
        if let Some(value) = self.assumed.and_then(|assumed| assumed.get(expr)) {
            return match value {
                Some(value) => *value == wanted,
                None => self.ignoring && negates(goal),
            };
        }
        if let Some(value) = self.problem.constant(expr) {
            return value == Some(wanted);
        }
        let Some(leaf) = self.problem.leaf(expr) else {
            return true;
        };
        let values = &mut possible[leaf.term];
        for (value, verdict) in values.iter_mut().zip(&leaf.verdicts) {
            *value &= verdict.may_be(wanted);
        }
        values.contains(&true)
    }
}
