//! Terms: what conditions ask of, each with a few values that stand for all that it can have.
//!
//! | a term of | has the values |
//! | --- | --- |
//! | a closed column | of its vocabulary, those it is compared with, and one for every other |
//! | texts | it is compared with, and one for all others that begin as a pattern asks |
//! | numbers and times | it is compared with, their neighbours, and its bounds |
//! | two things that are compared | less, equal, greater |
//!
//! NULL is one more where the term can be it. Each comparison is asked of these values by the SQL engine itself.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit};
use dogwatch_query::simplify::simplify;
use dogwatch_schemas::vocabulary::Vocabulary;

use super::Subject;
use super::conditions::{Condition, Conditions};
use super::parts::{
    compared_with, compares, is_asked_of_list, is_before_first, is_constant, operands, ordered,
    start_asked, text, whole_number,
};
use super::yields::{aggregated, counted_from, longest, never, part_of_date};
use crate::detect::filter::{BoundExpr, is_comparison};
use crate::tables::Table;

/// Most values that stand for a term's; a longer list is not looked through.
pub(super) const VALUES_MAX: usize = 1_024;
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

/// A column, an expression that is compared with constants, or two that are compared with each other.
pub(super) struct Term {
    /// What it is; of two that are compared, that they are equal.
    pub expr: Expr,
    /// The column of events that it is.
    pub column: Option<String>,
    /// The table of this column.
    table: Table,
    /// What is known of the column's values.
    pub vocabulary: Option<&'static Vocabulary>,
    data_type: DataType,
    nullable: bool,
    /// The two that are compared.
    pub pair: Option<(Expr, Expr)>,
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

impl Term {
    /// The term of an expression in a condition; none where it has no type by itself.
    pub fn new(
        subject: &Subject<'_>,
        conditions: &Conditions,
        condition: &Condition,
        expr: &Expr,
    ) -> Option<Self> {
        let pair = match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == Operator::Eq => {
                let varies = !is_constant(left) && !is_constant(right);
                varies.then(|| (left.as_ref().clone(), right.as_ref().clone()))
            }
            _ => None,
        };
        let data_type = condition.data_type(expr)?;
        let column = conditions.column(expr).map(|column| column.name.clone());
        Some(Self {
            data_type: pair.as_ref().map_or(data_type, |_| DataType::Int64),
            nullable: can_be_null(subject, condition, expr),
            vocabulary: conditions
                .values_of(expr)
                .and_then(|own| conditions.vocabulary(&own.name)),
            column,
            table: subject.table,
            expr: expr.clone(),
            pair,
            compared: Vec::new(),
            starts: BTreeSet::new(),
            values: Vec::new(),
        })
    }

    /// Takes note of what a leaf compares it with.
    pub fn compare(&mut self, leaf: &Expr) {
        self.compared.extend(compared_with(leaf));
        let start = start_asked(leaf).map(|(start, _)| start);
        let few = self.starts.len() < STARTS_MAX;
        self.starts.extend(start.filter(|_| few));
    }

    /// Which of its values are asked for.
    pub fn values_in(&self, domain: Domain) -> Vec<bool> {
        let asked = |value: &Representative| domain == Domain::All || value.known;
        self.values.iter().map(asked).collect()
    }

    /// Where NULL stands among its values.
    pub fn null_place(&self) -> Option<usize> {
        self.values.iter().position(|value| value.value.is_null())
    }

    /// Chooses the values that stand for all.
    pub fn stand_for_all(&mut self) {
        let null = || ScalarValue::try_from(&self.data_type).unwrap_or(ScalarValue::Null);
        if is_before_first(&self.expr) {
            self.values = vec![plain(null(), true)];
            return;
        }
        let values = match &self.data_type {
            _ if let Some((left, right)) = &self.pair => {
                let orders: &[i64] = if left == right { &[0] } else { &[-1, 0, 1] };
                orders
                    .iter()
                    .map(|order| plain((*order).into(), true))
                    .collect()
            }
            DataType::Boolean => [true, false].map(|value| plain(value.into(), true)).into(),
            kind if kind.is_integer() => self.numbers(),
            DataType::Timestamp(..) => self.times(),
            DataType::Float64 => self.fractions(),
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
        let known = self.vocabulary;
        let aggregated = aggregated(&self.expr, self.table);
        let of_date = part_of_date(&self.expr);
        let least = known.and_then(|known| known.min);
        let least = least
            .or_else(|| of_date.map(|(_, least, _)| least))
            .or_else(|| aggregated.and_then(|(least, _)| least));
        let most = known
            .and_then(|known| known.max)
            .or_else(|| longest(&self.expr, self.table))
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

    /// Times that it is compared with and their neighbours, as nanoseconds; none where one of them cannot be read.
    fn times(&self) -> Vec<Representative> {
        let read = |value: &ScalarValue| {
            let time = value.cast_to(&self.data_type).ok()?;
            match time.cast_to(&DataType::Int64).ok()? {
                ScalarValue::Int64(time) => time,
                _ => None,
            }
        };
        let compared: Option<Vec<i64>> = self
            .compared
            .iter()
            .filter(|value| !value.is_null())
            .map(read)
            .collect();
        let mut times: Vec<i64> = compared.unwrap_or_default();
        times = times
            .into_iter()
            .flat_map(|time| [-1, 0, 1].map(|step| time.saturating_add(step)))
            .collect();
        times.sort_unstable();
        times.dedup();
        times
            .into_iter()
            .map(|time| plain(time.into(), true))
            .collect()
    }

    /// Numbers with fractions that it is compared with, and what lies beside them; none where one of them cannot be read.
    fn fractions(&self) -> Vec<Representative> {
        let read = |value: &ScalarValue| match value.cast_to(&DataType::Float64).ok()? {
            ScalarValue::Float64(number) => number.filter(|number| number.is_finite()),
            _ => None,
        };
        let compared = self.compared.iter().filter(|value| !value.is_null());
        let compared: Option<Vec<f64>> = compared.map(read).collect();
        let mut numbers: Vec<f64> = compared
            .unwrap_or_default()
            .into_iter()
            .flat_map(|number| [number.next_down(), number, number.next_up()])
            .collect();
        numbers.sort_unstable_by(f64::total_cmp);
        numbers.dedup();
        numbers
            .into_iter()
            .map(|number| plain(number.into(), true))
            .collect()
    }

    fn texts(&self) -> Vec<Representative> {
        let vocabulary = self.vocabulary;
        let values = vocabulary.and_then(|known| known.values.as_deref());
        let shape = vocabulary.and_then(|known| known.shape);
        let known = |text: &str| {
            values.is_none_or(|values| values.iter().any(|value| value == text))
                && vocabulary.is_none_or(|known| known.fits(text))
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
                && vocabulary.is_none_or(|known| known.fits(start))
                && shape.is_none_or(|shape| shape.can_have(start, true, false)),
            any: true,
            start: apart.then(|| start.to_owned()),
        }));
        all
    }

    /// What a leaf says of each value; none where the values do not tell.
    pub fn verdicts(&self, subject: &Subject<'_>, leaf: &Expr) -> Option<Vec<Verdict>> {
        if self.values.is_empty() || self.values.len() > VALUES_MAX {
            return None;
        }
        let comparison = compares(leaf);
        if (self.data_type.is_numeric() || self.data_type.is_temporal()) && !comparison {
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
                    // Of two that are compared, both may be NULL or one of them.
                    _ if value.value.is_null() && self.pair.is_some() && tells_null(leaf) => {
                        Verdict::Any
                    }
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
        if let Some((left, _)) = &self.pair {
            return self.evaluate(subject, of_order(left, leaf)?);
        }
        let replace = |part: Expr| match part == self.expr {
            true => Ok(Transformed::new(
                column.clone(),
                true,
                TreeNodeRecursion::Jump,
            )),
            false => Ok(Transformed::no(part)),
        };
        self.evaluate(subject, leaf.clone().transform_down(replace)?.data)
    }

    /// An expression over the one column that the term became, for each of its values.
    fn evaluate(&self, subject: &Subject<'_>, leaf: Expr) -> Result<ArrayRef> {
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

/// That two are compared, as a comparison of their order with 0.
fn of_order(left: &Expr, leaf: &Expr) -> Result<Expr> {
    let Expr::BinaryExpr(BinaryExpr {
        left: first, op, ..
    }) = leaf
    else {
        return internal_err!("two are compared by an operator");
    };
    let swapped = (first.as_ref() != left).then(|| op.swap()).flatten();
    let order = Expr::Column(Column::new_unqualified(TERM));
    Ok(Expr::BinaryExpr(BinaryExpr::new(
        Box::new(order),
        swapped.unwrap_or(*op),
        Box::new(lit(0_i64)),
    )))
}

/// Whether a comparison is true or false of NULL.
fn tells_null(leaf: &Expr) -> bool {
    matches!(
        leaf,
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::IsDistinctFrom | Operator::IsNotDistinctFrom,
            ..
        })
    )
}

/// What a leaf asks of: the one part that is no constant, or two that are compared.
pub(super) fn term_of(leaf: &Expr, conditions: &Conditions, condition: &Condition) -> Option<Expr> {
    let (constants, varying): (Vec<&Expr>, Vec<&Expr>) = operands(leaf)
        .into_iter()
        .partition(|operand| is_constant(operand));
    if constants
        .iter()
        .any(|constant| !matches!(constant, Expr::Literal(..)))
    {
        return None;
    }
    if let Expr::BinaryExpr(BinaryExpr { left, op, right }) = leaf
        && is_comparison(*op)
        && varying.len() == 2
    {
        let (first, second) = match left.to_string().cmp(&right.to_string()) {
            Ordering::Greater => (right, left),
            _ => (left, right),
        };
        return Some(first.as_ref().clone().eq(second.as_ref().clone()));
    }
    if varying.len() > 1 || is_asked_of_list(leaf) {
        // Of several, and of a list, all that is known is whether it is true.
        return Some(leaf.clone());
    }
    // Of a column with few values, whatever is made of it can be asked for each.
    let mut columns = BTreeSet::new();
    let _ = leaf.apply(|part| {
        if let Expr::Column(column) = part {
            columns.insert(column);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if columns.len() == 1
        && let Some(column) = columns.first()
    {
        let column = Expr::Column((*column).clone());
        let closed = conditions.values_of(&column).is_some_and(|own| {
            let known = conditions.vocabulary(&own.name);
            known.is_some_and(|known| known.values.is_some())
        });
        if closed || condition.data_type(&column) == Some(DataType::Boolean) {
            return Some(column);
        }
    }
    varying.first().map(|part| (*part).clone())
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
    match nulled.and_then(|nulled| simplify(&subject.session.context, nulled, schema)) {
        Ok(Expr::Literal(value, _)) => value.is_null(),
        Ok(Expr::Column(_)) => false,
        _ => true,
    }
}
