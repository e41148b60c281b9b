//! Conditions as a problem: the comparisons that they are made of, each of one of a few terms, and which of them cannot
//! hold together.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, TableReference};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

use super::Subject;
use super::conditions::{Condition, Conditions};
use super::facts::{Fact, facts};
use super::laws::laws;
use super::parts::{argument_of, differs_from_nothing, is_constant};
use super::satisfy::{Goal, Part, Question, part};
use super::terms::{Domain, Term, VALUES_MAX, Verdict, term_of};

use crate::tables::Table;
use dogwatch_query::simplify::simplify;

/// Most alternatives that are tried for all questions of a query: whoever writes one chooses how many there are.
const TRIES_MAX: usize = 50_000;

/// A comparison of one term with constants, or a function of one.
pub(super) struct Leaf {
    pub term: usize,
    pub verdicts: Vec<Verdict>,
}

/// What is asked, taken apart.
pub(super) struct Problem {
    pub conditions: Vec<Condition>,
    facts: Vec<Fact>,
    /// What holds of terms together, whoever sends the event.
    laws: Vec<Condition>,
    pub terms: Vec<Term>,
    leaves: HashMap<Expr, Option<Leaf>>,
    /// What conditions say that are the same for every row.
    constants: HashMap<Expr, Option<bool>>,
    tries: Cell<usize>,
}

impl Problem {
    /// Takes conditions apart.
    ///
    /// # Errors
    /// When the engine cannot make a comparison of them.
    pub fn new(subject: &Subject<'_>, conditions: &Conditions) -> Result<Self> {
        let mut problem = Self {
            conditions: conditions
                .all
                .iter()
                .map(|own| folded(subject, own))
                .collect(),
            facts: Vec::new(),
            laws: Vec::new(),
            terms: Vec::new(),
            leaves: HashMap::new(),
            constants: HashMap::new(),
            tries: Cell::new(0),
        };
        let mut terms = HashMap::new();
        let own = problem.conditions.clone();
        for condition in &own {
            problem.add_leaves(subject, conditions, condition, &mut terms);
        }
        problem.facts = problem.facts_on_terms(subject, conditions)?;
        let of_facts: Vec<Condition> = problem
            .facts
            .iter()
            .map(|fact| fact.condition.clone())
            .collect();
        for condition in &of_facts {
            problem.add_leaves(subject, conditions, condition, &mut terms);
        }
        problem.laws = laws(subject, &problem.terms, problem.schema());
        for condition in problem.laws.clone() {
            problem.add_leaves(subject, conditions, &condition, &mut terms);
        }
        for term in &mut problem.terms {
            term.stand_for_all();
        }
        let asked: Vec<(Expr, usize)> = problem
            .leaves
            .iter()
            .filter_map(|(expr, leaf)| Some((expr.clone(), leaf.as_ref()?.term)))
            .collect();
        for (expr, term) in asked {
            let verdicts = problem.terms[term].verdicts(subject, &expr);
            let leaf = verdicts.map(|verdicts| Leaf { term, verdicts });
            problem.leaves.insert(expr, leaf);
        }
        Ok(problem)
    }

    fn facts_on_terms(&self, subject: &Subject<'_>, conditions: &Conditions) -> Result<Vec<Fact>> {
        // What is known of events' columns together holds for no other table.
        if subject.table != Table::Events {
            return Ok(Vec::new());
        }
        let columns: BTreeSet<&Column> = self
            .terms
            .iter()
            .flat_map(|term| term.expr.column_refs())
            .collect();
        let named =
            |own: &str| own != "evt_type" && columns.iter().any(|column| column.name == own);
        let events = crate::decode::events_schema();
        let is_used = |name: &&TableReference| {
            let mut columns = columns.iter();
            columns.any(|column| column.relation.as_ref() == Some(*name))
        };
        let names = conditions.names.iter().filter(is_used);
        let keys: BTreeSet<&str> = self
            .terms
            .iter()
            .filter_map(|term| argument_of(&term.expr, conditions))
            .collect();
        let found = names.map(|name| facts(subject.session, &events, name, &named, &keys));
        Ok(found.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Adds the leaves of a condition and the terms that they are of.
    fn add_leaves(
        &mut self,
        subject: &Subject<'_>,
        conditions: &Conditions,
        condition: &Condition,
        places: &mut HashMap<Expr, usize>,
    ) {
        let mut goals = vec![(&condition.expr, true)];
        while let Some(goal) = goals.pop() {
            match part(goal) {
                Part::Both(both) | Part::Either(both) => goals.extend(both),
                Part::Same(same) => goals.push(same),
                Part::Leaf => {
                    let expr = goal.0;
                    if is_long(expr) || self.leaves.contains_key(expr) {
                        continue;
                    }
                    if let Some(value) = same_for_all(subject, condition, expr) {
                        self.constants.insert(expr.clone(), value);
                        continue;
                    }
                    let term = term_of(expr, conditions, condition);
                    let leaf = term.and_then(|term| {
                        let place = self.place(subject, conditions, condition, &term, places)?;
                        self.terms[place].compare(expr);
                        Some(Leaf {
                            term: place,
                            verdicts: Vec::new(),
                        })
                    });
                    self.leaves.insert(expr.clone(), leaf);
                }
            }
        }
    }

    /// The place of a term, which is new where it was not met before.
    fn place(
        &mut self,
        subject: &Subject<'_>,
        conditions: &Conditions,
        condition: &Condition,
        expr: &Expr,
        places: &mut HashMap<Expr, usize>,
    ) -> Option<usize> {
        if let Some(place) = places.get(expr) {
            return Some(*place);
        }
        let term = Term::new(subject, conditions, condition, expr)?;
        self.terms.push(term);
        places.insert(expr.clone(), self.terms.len() - 1);
        Some(self.terms.len() - 1)
    }

    /// What a condition says that is the same for every row; none where it is not.
    pub fn constant(&self, expr: &Expr) -> Option<Option<bool>> {
        self.constants.get(expr).copied()
    }

    /// What is known of a leaf; none where it may be true and false.
    pub fn leaf(&self, expr: &Expr) -> Option<&Leaf> {
        self.leaves.get(expr)?.as_ref()
    }

    /// The types of all that conditions and facts name.
    pub fn schema(&self) -> DFSchema {
        let mut schema = DFSchema::empty();
        let facts = self.facts.iter().map(|fact| &fact.condition);
        for condition in self.conditions.iter().chain(facts) {
            schema.merge(&condition.schema);
        }
        schema
    }

    /// Everything that is asked of rows as a whole.
    pub fn leaves(&self) -> impl Iterator<Item = &Expr> {
        self.leaves.keys()
    }

    /// Whether one more alternative may be tried.
    pub fn may_try(&self) -> bool {
        self.tries.set(self.tries.get() + 1);
        self.tries.get() <= TRIES_MAX
    }

    /// All conditions, as goals.
    pub fn goals(&self) -> Vec<Goal<'_>> {
        self.conditions
            .iter()
            .map(|condition| (&condition.expr, true))
            .collect()
    }

    /// Goals with the laws, and the facts where these count.
    pub fn with_facts<'p>(&'p self, domain: Domain, goals: &[Goal<'p>]) -> Vec<Goal<'p>> {
        let facts = self.facts.iter().filter(|_| domain == Domain::Known);
        let facts = facts.map(|fact| (&fact.condition.expr, true));
        let known = self.lawful().chain(facts);
        known.chain(goals.iter().copied()).collect()
    }

    fn lawful(&self) -> impl Iterator<Item = Goal<'_>> {
        self.laws.iter().map(|law| (&law.expr, true))
    }

    fn can_hold(&self, domain: Domain, goals: &[Goal<'_>]) -> bool {
        Question::new(self, domain).holds(self.with_facts(domain, goals))
    }

    /// The fewest conditions that cannot hold together; none when all can.
    pub fn conflict(&self, domain: Domain) -> Option<Vec<&Expr>> {
        let goals = self.goals();
        if self.can_hold(domain, &goals) {
            return None;
        }
        if let Some((one, _)) = goals.iter().find(|goal| !self.can_hold(domain, &[**goal])) {
            return Some(vec![one]);
        }
        for (place, left) in goals.iter().enumerate() {
            for right in &goals[..place] {
                if !self.can_hold(domain, &[*right, *left]) {
                    return Some(vec![right.0, left.0]);
                }
            }
        }
        Some(goals.iter().map(|(expr, _)| *expr).collect())
    }

    /// The fact without which conditions could hold.
    pub fn needed_fact(&self, culprits: &[&Expr]) -> Option<&str> {
        let goals: Vec<Goal<'_>> = culprits.iter().map(|expr| (*expr, true)).collect();
        let holds_without = |left_out: usize| {
            let others = self
                .facts
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != left_out);
            let others = others.map(|(_, fact)| (&fact.condition.expr, true));
            let others = others.chain(self.lawful());
            Question::new(self, Domain::Known).holds(others.chain(goals.iter().copied()))
        };
        let needed = (0..self.facts.len()).find(|place| holds_without(*place));
        needed.map(|place| self.facts[place].sentence.as_str())
    }

    /// Conditions with an OR, or NOT BETWEEN, that every row passes, whatever it holds.
    pub fn empty_conditions(&self) -> Vec<&Expr> {
        let goals = self.goals().into_iter();
        let wide = goals.filter(|goal| is_either(*goal) || leaves_out_nothing(*goal));
        let fails = |expr| Question::new(self, Domain::All).holds([(expr, false)]);
        wide.map(|(expr, _)| expr)
            .filter(|expr| !fails(*expr))
            .collect()
    }

    /// Alternatives of an OR that no row takes; only the outermost.
    pub fn dead_alternatives(&self) -> Vec<&Expr> {
        let goals = self.goals();
        let mut dead = Vec::new();
        let mut waiting = goals.clone();
        while let Some(goal) = waiting.pop() {
            match part(goal) {
                Part::Both(both) => waiting.extend(both),
                Part::Same(same) => waiting.push(same),
                Part::Either(either) => {
                    for alternative in either {
                        let mut all = goals.clone();
                        all.push(alternative);
                        match self.can_hold(Domain::Known, &all) {
                            true => waiting.push(alternative),
                            false => dead.push(alternative.0),
                        }
                    }
                }
                Part::Leaf => {}
            }
        }
        dead
    }
}

/// Whether a leaf that must be so only excludes values, and NULL with them.
pub(super) fn negates((expr, wanted): Goal<'_>) -> bool {
    if differs_from_nothing(expr) {
        return false;
    }
    let negated = match expr {
        Expr::InList(list) => list.negated,
        Expr::Like(like) | Expr::SimilarTo(like) => like.negated,
        Expr::Between(between) => between.negated,
        Expr::BinaryExpr(BinaryExpr { op, .. }) => match op {
            Operator::NotEq
            | Operator::RegexNotMatch
            | Operator::RegexNotIMatch
            | Operator::NotLikeMatch
            | Operator::NotILikeMatch => true,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => return false,
            _ => false,
        },
        Expr::IsNull(_) | Expr::IsNotNull(_) => return false,
        _ => false,
    };
    negated == wanted
}

/// Whether an expression that must be so is one of several that may hold.
fn is_either(goal: Goal<'_>) -> bool {
    match part(goal) {
        Part::Either(_) => true,
        Part::Same(same) => is_either(same),
        Part::Both(_) | Part::Leaf => false,
    }
}

/// Whether it asks for no value between bounds that have none between them.
fn leaves_out_nothing((expr, wanted): Goal<'_>) -> bool {
    match expr {
        Expr::Between(between) => between.negated && wanted && is_swapped(between),
        Expr::Not(inner) => {
            matches!(inner.as_ref(), Expr::Between(between) if !between.negated && is_swapped(between))
        }
        _ => false,
    }
}

/// Whether the lower bound of a BETWEEN is above the upper one.
pub(super) fn is_swapped(between: &Between) -> bool {
    match (between.low.as_ref(), between.high.as_ref()) {
        (Expr::Literal(low, _), Expr::Literal(high, _)) => low > high,
        _ => false,
    }
}

/// What a condition says that is the same for every row; none where it is not.
fn same_for_all(subject: &Subject<'_>, condition: &Condition, expr: &Expr) -> Option<Option<bool>> {
    if let Expr::Between(between) = expr
        && is_swapped(between)
    {
        return Some(Some(between.negated));
    }
    if !is_constant(expr) {
        return None;
    }
    match simplify(&subject.session.context, expr.clone(), &condition.schema) {
        Ok(Expr::Literal(ScalarValue::Boolean(value), _)) => Some(value),
        Ok(Expr::Literal(..)) => Some(None),
        _ => None,
    }
}

/// Whether a list is too long to be looked through, or empty, as a list that is to be filled may be.
pub(super) fn is_long(expr: &Expr) -> bool {
    matches!(expr, Expr::InList(list) if list.list.is_empty() || list.list.len() > VALUES_MAX)
}

/// A condition in which constants that are computed stand as what they come to.
fn folded(subject: &Subject<'_>, condition: &Condition) -> Condition {
    let fold = |part: Expr| {
        if matches!(part, Expr::Literal(..)) || !is_constant(&part) {
            return Ok(Transformed::no(part));
        }
        // What fails is refused elsewhere, with the reason.
        let value = simplify(&subject.session.context, part.clone(), &condition.schema);
        Ok(match value {
            Ok(literal @ Expr::Literal(..)) => {
                Transformed::new(literal, true, TreeNodeRecursion::Jump)
            }
            _ => Transformed::new(part, false, TreeNodeRecursion::Jump),
        })
    };
    let expr = condition
        .expr
        .clone()
        .transform_down(fold)
        .map(|folded| folded.data);
    Condition {
        expr: expr.unwrap_or_else(|_| condition.expr.clone()),
        schema: condition.schema.clone(),
    }
}
