//! What holds of terms together, whoever sends the event: a list that has an item is as long as that, and what a function
//! makes of a value is the same each time.
//!
//! ```text
//! array_length(x) = 0 AND x[1] = 'a'      ──► x[1] IS NULL OR array_length(x) >= 1
//! proc_name = 'sh' AND length(proc_name) > 5 ──► proc_name IS DISTINCT FROM 'sh' OR length(proc_name) = 2
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::logical_expr::expr_fn::binary_expr;
use datafusion::logical_expr::{Expr, Operator, lit};
use dogwatch_query::simplify::simplify;

use super::Subject;
use super::conditions::Condition;
use super::parts::whole_number;
use super::terms::Term;

/// Most laws of a query: whoever writes one chooses how much is compared.
const LAWS_MAX: usize = 128;
/// Functions that count the items of a list.
const LENGTHS: [&str; 2] = ["cardinality", "array_length"];

/// The laws of some terms, over columns of these types.
pub(super) fn laws(subject: &Subject<'_>, terms: &[Term], schema: DFSchema) -> Vec<Condition> {
    let schema: DFSchemaRef = Arc::new(schema);
    let singles = || terms.iter().filter(|term| term.pair.is_none());
    let mut laws = Vec::new();
    for term in singles() {
        for other in singles() {
            laws.extend(of_list(&term.expr, &other.expr));
            laws.extend(of_function(subject, term, &other.expr, &schema));
        }
    }
    laws.truncate(LAWS_MAX);
    let of_types = laws.into_iter().map(|expr| Condition {
        expr,
        schema: Arc::clone(&schema),
    });
    of_types.collect()
}

/// What one thing that is asked of a list says of another.
fn of_list(asked: &Expr, other: &Expr) -> Option<Expr> {
    let Expr::ScalarFunction(call) = below_cast(asked) else {
        return None;
    };
    let list = call.args.first()?;
    let is_item = call.name() == "array_element";
    let least = match call.name() {
        "array_element" => {
            let Expr::Literal(place, _) = call.args.get(1)? else {
                return None;
            };
            let place = whole_number(place)?.checked_abs();
            place.filter(|place| *place > 0)?
        }
        "array_has" | "array_has_any" => 1,
        _ => return None,
    };
    let Expr::ScalarFunction(of_whole) = below_cast(other) else {
        return None;
    };
    if of_whole.args.first() != Some(list) || of_whole.args.len() > 2 {
        return None;
    }
    let absent = match is_item {
        true => asked.clone().is_null(),
        false => asked.clone().is_not_true(),
    };
    match of_whole.name() {
        name if LENGTHS.contains(&name) => Some(absent.or(other.clone().gt_eq(lit(least)))),
        "empty" => Some(absent.or(other.clone().is_not_true())),
        "array_has" if is_item => {
            let wanted = of_whole.args.get(1)?.clone();
            let differs = differs(asked.clone(), wanted);
            Some(differs.or(other.clone().is_not_false()))
        }
        _ => None,
    }
}

/// What a function makes of the values that a term is compared with.
fn of_function(
    subject: &Subject<'_>,
    term: &Term,
    function: &Expr,
    schema: &DFSchemaRef,
) -> Vec<Expr> {
    let is_term = |part: &Expr| *part == term.expr;
    let contains =
        *function != term.expr && function.exists(|part| Ok(is_term(part))).unwrap_or(false);
    if !contains {
        return Vec::new();
    }
    let constants = term.compared.iter().filter(|value| !value.is_null());
    let laws = constants.filter_map(|constant| {
        let made = function.clone().transform_down(|part| {
            Ok(match is_term(&part) {
                true => Transformed::new(lit(constant.clone()), true, TreeNodeRecursion::Jump),
                false => Transformed::no(part),
            })
        });
        let made = simplify(&subject.session.context, made.ok()?.data, schema).ok()?;
        let Expr::Literal(value, _) = made else {
            return None;
        };
        let comes_to = match &value {
            value if value.is_null() => function.clone().is_null(),
            ScalarValue::Boolean(Some(true)) => function.clone().is_not_false(),
            ScalarValue::Boolean(Some(false)) => function.clone().is_not_true(),
            _ => function.clone().eq(lit(value)),
        };
        Some(differs(term.expr.clone(), lit(constant.clone())).or(comes_to))
    });
    laws.collect()
}

fn differs(left: Expr, right: Expr) -> Expr {
    binary_expr(left, Operator::IsDistinctFrom, right)
}

fn below_cast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => below_cast(&alias.expr),
        Expr::Cast(cast) => below_cast(&cast.expr),
        expr => expr,
    }
}
