//! Conditions as a problem: terms, and for each a few values that stand for all that it can have.
//!
//! A term is a column, or an expression that is compared with constants. Of a text, the values it is compared with stand
//! for themselves and one more for every other; of a number, those and their neighbours; a closed column has the values of
//! its vocabulary; NULL is one where the term can be it. Each comparison is asked of these values by the SQL engine itself.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use dogwatch_schemas::vocabulary::{self, Vocabulary};

use crate::tables::Table;

use super::Subject;
use super::conditions::{Condition, Conditions};
use super::facts::{Fact, facts};
use super::satisfy::{Goal, Part, Question, part};
use crate::detect::filter::{BoundExpr, simplify};

/// Most values that stand for a term's; a longer list is not looked through.
const VALUES_MAX: usize = 1_024;
/// Most alternatives that are tried for all questions of a query: whoever writes one chooses how many there are.
const TRIES_MAX: usize = 50_000;
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
    pub values: Vec<Representative>,
}

/// A value that stands for itself or for all that are like it.
pub(super) struct Representative {
    pub value: ScalarValue,
    /// Whether sensors of this version send it.
    pub known: bool,
    /// Whether it stands for others.
    pub any: bool,
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
        let events = conditions.names.iter().next();
        let Some(name) = events.filter(|_| subject.table == Table::Events) else {
            return Ok(Vec::new());
        };
        let named = |column: &str| {
            column != "evt_type"
                && self
                    .terms
                    .iter()
                    .any(|term| term.column.as_deref() == Some(column))
        };
        let events = crate::decode::events_schema();
        facts(subject.session, &events, name, named)
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
        let least = known.and_then(|known| known.min);
        let most = known
            .and_then(|known| known.max)
            .or_else(|| longest(&self.expr));
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
        let known = |text: &str| {
            values.is_none_or(|values| values.iter().any(|value| value == text))
                && bytes_max.is_none_or(|most| text.len() <= most)
        };
        let case = case_of(&self.expr);
        let compared = self.compared.iter().filter_map(|value| text(value));
        let possible = compared.filter(|text| case.is_none_or(|case| case.has(text)));
        let mut texts: Vec<&str> = values.into_iter().flatten().map(String::as_str).collect();
        texts.extend(possible);
        texts.sort_unstable();
        texts.dedup();
        let mut all: Vec<Representative> = texts
            .into_iter()
            .map(|text| plain(ScalarValue::from(text), known(text)))
            .collect();
        all.push(Representative {
            value: ScalarValue::from(ANY_TEXT),
            known: values.is_none(),
            any: true,
        });
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

/// What a count begins with, whoever counts: of rows with one, as a group has at least one, of anything else with none.
fn counted_from(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Cast(cast) => counted_from(&cast.expr),
        Expr::Column(Column {
            relation: None,
            name,
            ..
        }) => match name.as_str() {
            "count(*)" | "count(Int64(1))" => Some(1),
            name => {
                let counts = name.starts_with("count(") || name.starts_with("approx_distinct(");
                counts.then_some(0)
            }
        },
        Expr::ScalarFunction(call) => COUNTING.contains(&call.name()).then_some(0),
        _ => None,
    }
}

/// Functions that count something of what they are given.
const COUNTING: [&str; 8] = [
    "character_length",
    "octet_length",
    "bit_length",
    "array_length",
    "array_ndims",
    "cardinality",
    "strpos",
    "regexp_count",
];

/// The most that the length of a column of short texts can be.
fn longest(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Cast(cast) => longest(&cast.expr),
        Expr::ScalarFunction(call)
            if ["character_length", "octet_length"].contains(&call.name()) =>
        {
            let Some(Expr::Column(column)) = call.args.first() else {
                return None;
            };
            Some(vocabulary::of(&column.name)?.bytes_max? as i64)
        }
        _ => None,
    }
}

/// Whether an expression is an item of a list before its first, which is NULL of every list.
pub(super) fn is_before_first(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) if call.name() == "array_element" => matches!(
            call.args.get(1),
            Some(Expr::Literal(index, _)) if whole_number(index) == Some(0)
        ),
        _ => false,
    }
}

/// Whether a comparison is of something with itself, and asks for a difference.
fn differs_from_itself(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let differs = matches!(
                op,
                Operator::NotEq | Operator::Lt | Operator::Gt | Operator::IsDistinctFrom
            );
            differs && left == right && !left.is_volatile()
        }
        _ => false,
    }
}

fn plain(value: ScalarValue, known: bool) -> Representative {
    Representative {
        value,
        known,
        any: false,
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
    let mut varying = varying.into_iter();
    let operand = varying.next()?;
    if varying.next().is_some() {
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
    Some(operand)
}

/// What a leaf compares or is made of.
pub(super) fn operands(leaf: &Expr) -> Vec<&Expr> {
    match leaf {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => vec![left, right],
        Expr::InList(list) => std::iter::once(list.expr.as_ref())
            .chain(&list.list)
            .collect(),
        Expr::Between(Between {
            expr, low, high, ..
        }) => vec![expr, low, high],
        Expr::Like(like) | Expr::SimilarTo(like) => vec![&like.expr, &like.pattern],
        Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsNotUnknown(inner) => vec![inner],
        Expr::ScalarFunction(ScalarFunction { args, .. }) => args.iter().collect(),
        Expr::Column(_) => vec![leaf],
        _ => Vec::new(),
    }
}

/// Whether a leaf compares by order or equality, so that the values tell all.
pub(super) fn compares(leaf: &Expr) -> bool {
    match leaf {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(
            op,
            Operator::Eq
                | Operator::NotEq
                | Operator::Lt
                | Operator::LtEq
                | Operator::Gt
                | Operator::GtEq
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom
        ),
        Expr::InList(_) | Expr::Between(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => true,
        _ => false,
    }
}

/// Whether it compares by order, which the text that stands for all others cannot answer.
fn ordered(leaf: &Expr) -> bool {
    match leaf {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(
            op,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
        ),
        Expr::Between(_) => true,
        _ => false,
    }
}

/// The constants that a leaf compares its term with.
pub(super) fn compared_with(leaf: &Expr) -> impl Iterator<Item = ScalarValue> {
    let operands = operands(leaf).into_iter().filter(|_| compares(leaf));
    operands.filter_map(|operand| match operand {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    })
}

/// Whether an expression is the same for every row.
pub(super) fn is_constant(expr: &Expr) -> bool {
    let varies = |part: &Expr| {
        matches!(
            part,
            Expr::Column(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
                | Expr::Placeholder(_)
                | Expr::Lambda(_)
                | Expr::LambdaVariable(_)
        )
    };
    !expr.exists(|part| Ok(varies(part))).unwrap_or(true)
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

/// The letters that a function makes of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Lower,
    Upper,
}

impl Case {
    /// Whether the function can yield a text.
    pub fn has(self, text: &str) -> bool {
        match self {
            Self::Lower => text.to_lowercase() == text,
            Self::Upper => text.to_uppercase() == text,
        }
    }
}

/// The case that a term's letters have.
pub(super) fn case_of(term: &Expr) -> Option<Case> {
    match term {
        Expr::ScalarFunction(call) if call.name() == "lower" => Some(Case::Lower),
        Expr::ScalarFunction(call) if call.name() == "upper" => Some(Case::Upper),
        _ => None,
    }
}

/// The text of a constant.
pub(super) fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// The whole number at or below a constant; of a text, the number that it writes.
pub(super) fn whole_number(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Float64(Some(number)) => Some(number.floor() as i64),
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => text.parse().ok(),
        other => match other.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(number)) => number,
            _ => None,
        },
    }
}
