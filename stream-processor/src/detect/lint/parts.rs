//! What comparisons are made of.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

use super::conditions::Conditions;
use super::yields::counted_from;
use crate::detect::filter::is_comparison;

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

/// The name of an argument in `evt_args`, where an expression is that argument but for a change of type and what stands in
/// for NULL.
pub(super) fn argument_below<'e>(expr: &'e Expr, conditions: &Conditions) -> Option<&'e str> {
    match expr {
        Expr::Alias(alias) => argument_below(&alias.expr, conditions),
        Expr::Cast(cast) => argument_below(&cast.expr, conditions),
        Expr::TryCast(cast) => argument_below(&cast.expr, conditions),
        Expr::ScalarFunction(call) if call.name() == "coalesce" => {
            argument_below(call.args.first()?, conditions)
        }
        expr => argument_of(expr, conditions),
    }
}

/// The name of an argument in `evt_args`, where an expression is that argument.
pub(super) fn argument_of<'e>(expr: &'e Expr, conditions: &Conditions) -> Option<&'e str> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
        return None;
    };
    let [map, Expr::Literal(key, _)] = args.as_slice() else {
        return None;
    };
    let column = conditions.values_of(map)?;
    (func.name() == "get_field" && column.name == "evt_args").then(|| text(key))?
}

/// Whether a leaf compares by order or equality, so that the values tell all.
pub(super) fn compares(leaf: &Expr) -> bool {
    match leaf {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => is_comparison(*op),
        Expr::InList(_) | Expr::Between(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => true,
        _ => false,
    }
}

/// Whether it compares by order, which the text that stands for all others cannot answer.
pub(super) fn ordered(leaf: &Expr) -> bool {
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

/// Whether a leaf asks whether a list has something, or nothing.
pub(super) fn is_asked_of_list(leaf: &Expr) -> bool {
    const ASKING: [&str; 4] = ["array_has", "array_has_any", "array_has_all", "empty"];
    matches!(leaf, Expr::ScalarFunction(call) if ASKING.contains(&call.name()))
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

/// Whether a comparison is with nothing, so that its negation asks for something: `x <> ''`, `strpos(x, 'a') <> 0`,
/// `x & 4 <> 0`.
pub(super) fn differs_from_nothing(expr: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq | Operator::NotEq,
        right,
    }) = expr
    else {
        return false;
    };
    let (asked, nothing) = match (left.as_ref(), right.as_ref()) {
        (asked, Expr::Literal(value, _)) | (Expr::Literal(value, _), asked) => (asked, value),
        _ => return false,
    };
    let is_bits = matches!(
        asked,
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::BitwiseAnd,
            ..
        })
    );
    let is_count = counted_from(asked) == Some(0);
    text(nothing) == Some("") || (is_bits || is_count) && whole_number(nothing) == Some(0)
}

/// What a pattern asks a text to begin with, and whether it asks for nothing more.
pub(super) fn start_asked(leaf: &Expr) -> Option<(String, bool)> {
    match leaf {
        Expr::Like(like) if !like.case_insensitive && like.escape_char.is_none() => {
            let Expr::Literal(pattern, _) = like.pattern.as_ref() else {
                return None;
            };
            let pattern = text(pattern).filter(|text| !text.contains('\\'))?;
            let end = pattern.find(['%', '_'])?;
            (end > 0).then(|| (pattern[..end].to_owned(), &pattern[end..] == "%"))
        }
        Expr::ScalarFunction(call) if call.name() == "starts_with" && call.args.len() == 2 => {
            let Expr::Literal(start, _) = &call.args[1] else {
                return None;
            };
            let start = text(start).filter(|text| !text.is_empty())?;
            Some((start.to_owned(), true))
        }
        _ => None,
    }
}
