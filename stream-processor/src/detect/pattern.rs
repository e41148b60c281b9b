//! Patterns that are compiled once, when a detection is loaded.
//!
//! DataFusion and Arrow compile a literal pattern anew for every batch, which costs more than judging a small step's events
//! does.
//! What needs a regular expression becomes a function that keeps it: `~` and its kin, `regexp_like`, `ILIKE`, and a `LIKE` with
//! `_`, with `\` or with `%` amid its text; Arrow compares the other `LIKE` patterns as plain text.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, plan_datafusion_err};
use datafusion::logical_expr::expr::{Like, ScalarFunction};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use regex::Regex;

use super::filter::text_of;
use super::functions::texts;

/// Puts compiled patterns into an expression that is simplified.
///
/// # Errors
/// When a pattern is no regular expression.
pub(super) fn compile(expr: Expr) -> Result<Expr> {
    let compiled = expr.transform_up(|part| match uncompiled(&part) {
        Some((text, pattern, flags, negated)) => {
            let function = ScalarUDF::from(Pattern::new(&pattern, &flags, negated)?);
            Ok(Transformed::yes(function.call(vec![text.clone()])))
        }
        None => Ok(Transformed::no(part)),
    });
    Ok(compiled?.data)
}

/// The text that an expression compares with a regular expression, that and its flags, and whether it must not match.
fn uncompiled(expr: &Expr) -> Option<(&Expr, String, String, bool)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (flags, negated) = match op {
                Operator::RegexMatch => ("", false),
                Operator::RegexIMatch => ("i", false),
                Operator::RegexNotMatch => ("", true),
                Operator::RegexNotIMatch => ("i", true),
                _ => return None,
            };
            Some((left, text_of(right)?, flags.to_owned(), negated))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "regexp_like" => {
            // Without flags the simplifier has made it an operator.
            let [text, pattern, flags] = args.as_slice() else {
                return None;
            };
            Some((text, text_of(pattern)?, text_of(flags)?, false))
        }
        Expr::Like(like) if like.escape_char.is_none() => {
            let pattern = text_of(&like.pattern)?;
            if is_plain(like, &pattern) {
                return None;
            }
            let flags = if like.case_insensitive { "si" } else { "s" };
            let regex = like_as_regex(&pattern);
            Some((&like.expr, regex, flags.to_owned(), like.negated))
        }
        _ => None,
    }
}

/// A regular expression and whether texts must have it or must not.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    negated: bool,
    signature: Signature,
}

impl Pattern {
    fn new(pattern: &str, flags: &str, negated: bool) -> Result<Self> {
        let text = match flags {
            "" => pattern.to_owned(),
            flags => format!("(?{flags}){pattern}"),
        };
        Ok(Self {
            regex: Regex::new(&text)
                .map_err(|error| plan_datafusion_err!("{pattern:?} is no pattern: {error}"))?,
            negated,
            signature: Signature::any(1, Volatility::Immutable),
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (self.regex.as_str(), self.negated) == (other.regex.as_str(), other.negated)
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.regex.as_str(), self.negated).hash(state);
    }
}

impl ScalarUDFImpl for Pattern {
    fn name(&self) -> &str {
        "matches_pattern"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = texts(&args.args[0], args.number_rows)?;
        let verdicts =
            BooleanArray::from_unary(&texts, |text| self.regex.is_match(text) != self.negated);
        Ok(ColumnarValue::Array(Arc::new(verdicts)))
    }
}

/// Whether Arrow compares a `LIKE` pattern without a regular expression.
fn is_plain(like: &Like, pattern: &str) -> bool {
    let inner = pattern.strip_prefix('%').unwrap_or(pattern);
    let inner = inner.strip_suffix('%').unwrap_or(inner);
    !like.case_insensitive && !inner.contains(['%', '_', '\\'])
}

/// A `LIKE` pattern as a regular expression in which `.` is any character; a `\` at the end stands for itself, as in Arrow.
fn like_as_regex(pattern: &str) -> String {
    let mut text = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            '%' => ".*".to_owned(),
            '_' => ".".to_owned(),
            '\\' => regex::escape(&characters.next().unwrap_or('\\').to_string()),
            other => regex::escape(&other.to_string()),
        };
        text.push_str(&literal);
    }
    // `.*` at an end would only make the search slower; a `*` of the pattern's own has a `\` before it.
    let start = if text.starts_with(".*") { "" } else { "^" };
    let end = if text.ends_with(".*") { "" } else { "$" };
    let middle = text.trim_start_matches(".*").trim_end_matches(".*");
    format!("{start}{middle}{end}")
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::functions::expr_fn::regexp_like;
    use datafusion::logical_expr::binary_expr;
    use datafusion::prelude::{SessionContext, col, lit};
    use proptest::prelude::*;

    use super::*;

    fn verdicts(expr: Expr, texts: &[Option<String>]) -> Result<ArrayRef> {
        let field = Field::new("text", DataType::Utf8View, true);
        let schema = Arc::new(Schema::new(vec![field]));
        let texts = Arc::new(StringViewArray::from_iter(texts));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![texts])?;
        let schema = DFSchema::try_from(schema)?;
        let expr = SessionContext::new().create_physical_expr(expr, &schema)?;
        expr.evaluate(&batch)?.into_array(batch.num_rows())
    }

    fn every_use_of(pattern: &str) -> Vec<Expr> {
        let operator = |operator| binary_expr(col("text"), operator, lit(pattern));
        let mut all: Vec<Expr> = [
            Operator::RegexMatch,
            Operator::RegexIMatch,
            Operator::RegexNotMatch,
            Operator::RegexNotIMatch,
        ]
        .map(operator)
        .into();
        all.push(regexp_like(col("text"), lit(pattern), Some(lit("s"))));
        all.push(col("text").like(lit(pattern)));
        all.push(col("text").not_like(lit(pattern)));
        all.push(col("text").ilike(lit(pattern)));
        all.push(col("text").not_ilike(lit(pattern)));
        all
    }

    proptest! {
        #[test]
        fn compiled_patterns_say_what_the_library_says(
            texts in prop::collection::vec(prop::option::of("[aAbK\u{212a}ſs.%_\\\\\n]{0,6}"), 1..20),
            pattern in "[aAbks.%_\\\\*^$]{0,6}",
        ) {
            for expr in every_use_of(&pattern) {
                match compile(expr.clone()) {
                    Ok(compiled) => prop_assert_eq!(
                        &verdicts(compiled, &texts).expect("a verdict"),
                        &verdicts(expr.clone(), &texts).expect("a verdict"),
                        "{}", expr
                    ),
                    Err(_) => prop_assert!(verdicts(expr.clone(), &texts).is_err(), "{}", expr),
                }
            }
        }
    }

    #[test]
    fn only_what_needs_a_regular_expression_is_compiled() {
        fn check(expr: Expr, compiled: bool) {
            let text = compile(expr).expect("a pattern").to_string();
            assert_eq!(text.starts_with("matches_pattern"), compiled, "{text}");
        }
        for plain in ["", "a", "%", "%%", "a%", "%a", "%a%"] {
            check(col("text").like(lit(plain)), false);
            check(col("text").ilike(lit(plain)), true);
        }
        for wild in ["a%b", "_", "%a_", "\\%", "a\\_b%"] {
            check(col("text").like(lit(wild)), true);
        }
        check(col("text").like(col("text")), false);
    }
}
