//! Conditions as a problem: terms, and for each a few values that stand for all that it can have.
//!
//! A term is a column, or an expression that is compared with constants. Of a text, the values it is compared with stand
//! for themselves and one more for every other; of a number, those and their neighbours; a closed column has the values of
//! its vocabulary; NULL is one where the term can be it. Each comparison is asked of these values by the SQL engine itself.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, TableReference};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use dogwatch_schemas::vocabulary::{self, Vocabulary};

use crate::tables::Table;

use super::Subject;
use super::conditions::{Condition, Conditions};
use super::facts::{Fact, facts};
use super::parts::{
    compared_with, compares, differs_from_itself, is_before_first, is_constant, operands, ordered,
    start_asked, text, whole_number,
};
use super::satisfy::{Goal, Part, Question, part};
use super::yields::{aggregated, counted_from, longest, never, part_of_date};
use crate::detect::filter::{BoundExpr, simplify};

/// Most values that stand for a term's; a longer list is not looked through.
const VALUES_MAX: usize = 1_024;
/// Most alternatives that are tried for all questions of a query: whoever writes one chooses how many there are.
const TRIES_MAX: usize = 50_000;
/// Most starts of texts that are told apart for a term.
const STARTS_MAX: usize = 32;
/// Name of the one column that a term becomes.
const TERM: &str = "term";
/// Stands for every text that is compared with nothing.
const ANY_TEXT: &str = "\u{1}any";

/// Which values are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    /// All that a column can hold.
    All,
    /// Those that sensors of this version send.
    Known,
}

/// What a comparison says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    True,
    False,
    Null,
    /// It depends: the value stands for several.
    Any,
}

impl Verdict {
    pub fn may_be(self, wanted: bool) -> bool {
        match self {
            Self::True => wanted,
            Self::False => !wanted,
            Self::Null => false,
            Self::Any => true,
        }
    }
}

/// A column, or an expression that is compared with constants.
pub(super) struct Term {
    pub expr: Expr,
    /// The column of events that it is.
    pub column: Option<String>,
    data_type: DataType,
    nullable: bool,
    pub compared: Vec<ScalarValue>,
    /// What patterns ask its texts to begin with.
    starts: BTreeSet<String>,
    pub values: Vec<Representative>,
}

/// A value that stands for itself or for all that are like it.
pub(super) struct Representative {
    pub value: ScalarValue,
    /// Whether sensors of this version send it.
    pub known: bool,
    /// Whether it stands for others.
    pub any: bool,
    /// What the texts that it stands for begin with, as the longest of those that are asked for; empty for none of them.
    start: Option<String>,
}

/// A comparison of one term with constants, or a function of one.
pub(super) struct Leaf {
    pub term: usize,
    pub verdicts: Vec<Verdict>,
}

/// What is asked, taken apart.
pub(super) struct Problem {
    pub conditions: Vec<Condition>,
    facts: Vec<Fact>,
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
        let named = |column: &str| {
            column != "evt_type"
                && self
                    .terms
                    .iter()
                    .any(|term| term.column.as_deref() == Some(column))
        };
        let events = crate::decode::events_schema();
        // A query calls events by an alias, or by several where subqueries are in it.
        let is_used = |name: &&TableReference| {
            let mut terms = self.terms.iter();
            terms.any(|term| matches!(&term.expr, Expr::Column(column) if column.relation.as_ref() == Some(*name)))
        };
        let names = conditions.names.iter().filter(is_used);
        let found = names.map(|name| facts(subject.session, &events, name, named));
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
                    if is_constant(expr)
                        && let Ok(Expr::Literal(value, _)) =
                            simplify(subject.session, expr.clone(), &condition.schema)
                    {
                        let value = match value {
                            ScalarValue::Boolean(value) => value,
                            _ => None,
                        };
                        self.constants.insert(expr.clone(), value);
                        continue;
                    }
                    let term = term_of(expr, conditions, condition);
                    let leaf = term.and_then(|term| {
                        let place = self.place(subject, conditions, condition, term, places)?;
                        self.terms[place].compared.extend(compared_with(expr));
                        let start = start_asked(expr).map(|(start, _)| start);
                        let few = self.terms[place].starts.len() < STARTS_MAX;
                        self.terms[place].starts.extend(start.filter(|_| few));
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
        let term = Term {
            data_type: condition.data_type(expr)?,
            nullable: can_be_null(subject, condition, expr),
            column: conditions.column(expr).map(|column| column.name.clone()),
            expr: expr.clone(),
            compared: Vec::new(),
            starts: BTreeSet::new(),
            values: Vec::new(),
        };
        self.terms.push(term);
        places.insert(expr.clone(), self.terms.len() - 1);
        Some(self.terms.len() - 1)
    }

    /// What a condition says that is the same for every row; none where it is not.
    pub fn constant(&self, expr: &Expr) -> Option<Option<bool>> {
        if is_long(expr) {
            return None;
        }
        self.constants.get(expr).copied()
    }

    /// What is known of a leaf; none where it may be true and false.
    pub fn leaf(&self, expr: &Expr) -> Option<&Leaf> {
        if is_long(expr) {
            return None;
        }
        self.leaves.get(expr)?.as_ref()
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

    /// Goals, and the facts where these count.
    pub fn with_facts<'p>(&'p self, domain: Domain, goals: &[Goal<'p>]) -> Vec<Goal<'p>> {
        let facts = self.facts.iter().filter(|_| domain == Domain::Known);
        let facts = facts.map(|fact| (&fact.condition.expr, true));
        facts.chain(goals.iter().copied()).collect()
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
            Question::new(self, Domain::Known).holds(others.chain(goals.iter().copied()))
        };
        let needed = (0..self.facts.len()).find(|place| holds_without(*place));
        needed.map(|place| self.facts[place].sentence.as_str())
    }

    /// Conditions with an OR that every row passes, whatever it holds.
    pub fn empty_conditions(&self) -> Vec<&Expr> {
        let goals = self.goals().into_iter();
        let with_or = goals.filter(|goal| is_either(*goal));
        let fails = |expr| Question::new(self, Domain::All).holds([(expr, false)]);
        with_or
            .map(|(expr, _)| expr)
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

impl Leaf {
    /// Whether a leaf that must be so only excludes values, and NULL with them.
    pub fn negates(&self, expr: &Expr, wanted: bool) -> bool {
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
}

impl Term {
    /// Which of its values are asked for.
    pub fn values_in(&self, domain: Domain) -> Vec<bool> {
        let asked = |value: &Representative| domain == Domain::All || value.known;
        self.values.iter().map(asked).collect()
    }

    /// Where NULL stands among its values.
    pub fn null_place(&self) -> Option<usize> {
        self.values.iter().position(|value| value.value.is_null())
    }

    /// What is known of its values; nothing where it is no column.
    pub fn vocabulary(&self) -> Option<&'static Vocabulary> {
        vocabulary::of(self.column.as_deref()?)
    }

    /// Chooses the values that stand for all.
    fn stand_for_all(&mut self) {
        let null = || ScalarValue::try_from(&self.data_type).unwrap_or(ScalarValue::Null);
        if is_before_first(&self.expr) {
            self.values = vec![plain(null(), true)];
            return;
        }
        let values = match &self.data_type {
            DataType::Boolean if differs_from_itself(&self.expr) => {
                vec![plain(false.into(), true)]
            }
            DataType::Boolean => [true, false].map(|value| plain(value.into(), true)).into(),
            kind if kind.is_integer() => self.numbers(),
            kind if kind.is_string() => self.texts(),
            _ => Vec::new(),
        };
        self.values = values;
        if self.nullable && !self.values.is_empty() {
            let null = plain(null(), true);
            self.values.push(null);
        }
    }

    fn numbers(&self) -> Vec<Representative> {
        let known = self.vocabulary();
        let aggregated = aggregated(&self.expr);
        let of_date = part_of_date(&self.expr);
        let least = known.and_then(|known| known.min);
        let least = least
            .or_else(|| of_date.map(|(_, least, _)| least))
            .or_else(|| aggregated.and_then(|(least, _)| least));
        let most = known
            .and_then(|known| known.max)
            .or_else(|| longest(&self.expr))
            .or_else(|| of_date.map(|(_, _, most)| most))
            .or_else(|| aggregated.and_then(|(_, most)| most));
        let counted = counted_from(&self.expr);
        let around = |number: i64| [-1, 0, 1].map(|step| number.saturating_add(step));
        let compared = self
            .compared
            .iter()
            .filter_map(whole_number)
            .flat_map(around);
        let ends = least.into_iter().chain(most).chain([counted.unwrap_or(0)]);
        let mut all: Vec<i64> = compared.chain(ends).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|number| counted.is_none_or(|least| *number >= least));
        let known = |number: i64| {
            least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most)
        };
        all.into_iter()
            .map(|number| plain(number.into(), known(number)))
            .collect()
    }

    fn texts(&self) -> Vec<Representative> {
        let vocabulary = self.vocabulary();
        let values = vocabulary.and_then(|known| known.values.as_deref());
        let bytes_max = vocabulary.and_then(|known| known.bytes_max);
        let shape = vocabulary.and_then(|known| known.shape);
        let known = |text: &str| {
            values.is_none_or(|values| values.iter().any(|value| value == text))
                && bytes_max.is_none_or(|most| text.len() <= most)
                && shape.is_none_or(|shape| shape.holds(text))
        };
        let compared = self.compared.iter().filter_map(|value| text(value));
        let possible = compared.filter(|text| never(&self.expr, text).is_none());
        let mut texts: Vec<&str> = values.into_iter().flatten().map(String::as_str).collect();
        texts.extend(possible);
        texts.sort_unstable();
        texts.dedup();
        let mut all: Vec<Representative> = texts
            .into_iter()
            .map(|text| plain(ScalarValue::from(text), known(text)))
            .collect();
        // All others: those that begin as a pattern asks, and those that begin as none does. Too many are not told apart.
        let apart = self.starts.len() < STARTS_MAX;
        let starts = self.starts.iter().map(String::as_str).filter(|_| apart);
        all.extend(starts.chain([""]).map(|start| Representative {
            value: ScalarValue::from(format!("{start}{ANY_TEXT}")),
            known: values.is_none()
                && bytes_max.is_none_or(|most| start.len() <= most)
                && shape.is_none_or(|shape| shape.can_have(start, true, false)),
            any: true,
            start: apart.then(|| start.to_owned()),
        }));
        all
    }

    /// What a leaf says of each value; none where the values do not tell.
    fn verdicts(&self, subject: &Subject<'_>, leaf: &Expr) -> Option<Vec<Verdict>> {
        if self.values.is_empty() || self.values.len() > VALUES_MAX {
            return None;
        }
        let comparison = compares(leaf);
        if self.data_type.is_integer() && !comparison {
            return None;
        }
        let asked = self.asked(subject, leaf).ok()?;
        let asked = asked.as_boolean_opt()?;
        // What is made of a text by a function may equal what the text does not.
        let itself = operands(leaf).contains(&&self.expr);
        let equal = comparison && itself && !ordered(leaf);
        let verdicts =
            self.values
                .iter()
                .enumerate()
                .map(|(place, value)| match asked.is_null(place) {
                    _ if value.any && itself && !equal => value.begins(leaf),
                    _ if value.any && !equal => Verdict::Any,
                    true => Verdict::Null,
                    false if asked.value(place) => Verdict::True,
                    false => Verdict::False,
                });
        Some(verdicts.collect())
    }

    /// Asks the engine.
    fn asked(&self, subject: &Subject<'_>, leaf: &Expr) -> Result<ArrayRef> {
        let column = Expr::Column(Column::new_unqualified(TERM));
        let replace = |part: Expr| match part == self.expr {
            true => Ok(Transformed::new(
                column.clone(),
                true,
                TreeNodeRecursion::Jump,
            )),
            false => Ok(Transformed::no(part)),
        };
        let leaf = leaf.clone().transform_down(replace)?.data;
        let field = Field::new(TERM, self.data_type.clone(), true);
        let schema = Arc::new(Schema::new(vec![field]));
        let values = self
            .values
            .iter()
            .map(|value| value.value.cast_to(&self.data_type));
        let values = ScalarValue::iter_to_array(values.collect::<Result<Vec<_>>>()?)?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![values])?;
        let schema = DFSchema::try_from(schema)?;
        BoundExpr::new(subject.session, leaf, &schema)?.evaluate(&batch)
    }
}

/// Whether an expression that must be so is one of several that may hold.
fn is_either(goal: Goal<'_>) -> bool {
    match part(goal) {
        Part::Either(_) => true,
        Part::Same(same) => is_either(same),
        Part::Both(_) | Part::Leaf => false,
    }
}

impl Representative {
    /// What a pattern says of the texts that it stands for.
    fn begins(&self, leaf: &Expr) -> Verdict {
        let (Some(own), Some((asked, whole))) = (&self.start, start_asked(leaf)) else {
            return Verdict::Any;
        };
        let negated = matches!(leaf, Expr::Like(like) if like.negated);
        let verdict = |holds: bool| match holds != negated {
            true => Verdict::True,
            false => Verdict::False,
        };
        match own.starts_with(&asked) {
            true if whole => verdict(true),
            true => Verdict::Any,
            // Of all starts that are asked for, the longest that fits is its own.
            false => verdict(false),
        }
    }
}

fn plain(value: ScalarValue, known: bool) -> Representative {
    Representative {
        value,
        known,
        any: false,
        start: None,
    }
}

/// Whether a list is too long to be looked through, or empty, as a list that is to be filled may be.
fn is_long(expr: &Expr) -> bool {
    matches!(expr, Expr::InList(list) if list.list.is_empty() || list.list.len() > VALUES_MAX)
}

/// A condition in which constants that are computed stand as what they come to.
fn folded(subject: &Subject<'_>, condition: &Condition) -> Condition {
    let fold = |part: Expr| {
        if matches!(part, Expr::Literal(..)) || !is_constant(&part) {
            return Ok(Transformed::no(part));
        }
        // What fails is refused elsewhere, with the reason.
        let value = simplify(subject.session, part.clone(), &condition.schema);
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

/// The one part of a leaf that is no constant.
fn term_of<'e>(leaf: &'e Expr, conditions: &Conditions, condition: &Condition) -> Option<&'e Expr> {
    let (constants, varying): (Vec<&Expr>, Vec<&Expr>) = operands(leaf)
        .into_iter()
        .partition(|operand| is_constant(operand));
    if constants
        .iter()
        .any(|constant| !matches!(constant, Expr::Literal(..)))
    {
        return None;
    }
    if varying.len() > 1 {
        // Of several, all that is known is whether it is true.
        return Some(leaf);
    }
    // Of a column with few values, whatever is made of it can be asked for each.
    let mut columns = Vec::new();
    let _ = leaf.apply(|part| {
        if let Expr::Column(_) = part {
            columns.push(part);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if let [column] = columns[..] {
        let closed = conditions.column(column).is_some_and(|own| {
            let known = vocabulary::of(&own.name);
            known.is_some_and(|known| known.values.is_some())
        });
        if closed || condition.data_type(column) == Some(DataType::Boolean) {
            return Some(column);
        }
    }
    varying.first().copied()
}

/// Whether a term can be NULL: asked of the engine, with NULL in the place of each column that can be.
fn can_be_null(subject: &Subject<'_>, condition: &Condition, expr: &Expr) -> bool {
    let schema = condition.schema.as_ref();
    let null = |part: Expr| match &part {
        Expr::Column(column) => {
            let field = schema.field_from_column(column)?;
            if !field.is_nullable() {
                return Ok(Transformed::no(part));
            }
            let null = ScalarValue::try_from(field.data_type())?;
            Ok(Transformed::yes(Expr::Literal(null, None)))
        }
        _ => Ok(Transformed::no(part)),
    };
    let nulled = expr.clone().transform_up(null).map(|nulled| nulled.data);
    match nulled.and_then(|nulled| simplify(subject.session, nulled, schema)) {
        Ok(Expr::Literal(value, _)) => value.is_null(),
        Ok(Expr::Column(_)) => false,
        _ => true,
    }
}
