//! What the lint says, and expressions as an author writes them.

use std::sync::LazyLock;

use datafusion::common::Location;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Case, Cast, Expr, Like, Operator, TryCast};
use dogwatch_schemas::vocabulary;
use regex::Regex;

use super::parts::{is_before_first, operands, text};
use super::problem::is_swapped;
use super::yields::{never, part_of_date};
use crate::detect::sql_file::{Fault, SqlFile};

/// Most characters of a condition that are shown.
const SHOWN_MAX: usize = 120;
/// Most bytes of what stands before a column's name.
const QUALIFIER_BYTES_MAX: usize = 256;
/// Most values of a list that are shown.
const VALUES_SHOWN: usize = 3;

/// The refusal of conditions that no event can pass, whoever sends it.
pub(super) fn impossible(file: &SqlFile, culprits: &[&Expr]) -> Fault {
    let line = last_line(file, culprits);
    let [one] = culprits else {
        let reason = format!(
            "no event can pass {}: they contradict each other",
            listed(culprits)
        );
        return Fault::new(
            line,
            reason,
            "correct one of them, or write OR or IN (..) where either may hold",
        );
    };
    let (why, mend) = why_impossible(one);
    Fault::new(line, format!("no event can pass {}{why}", sql(one)), mend)
}

/// Why one condition is never true, and what to write.
fn why_impossible(condition: &Expr) -> (&'static str, String) {
    let mut found = None;
    let _ = condition.apply(|part| {
        found = found.take().or_else(|| why_leaf_impossible(part));
        Ok(TreeNodeRecursion::Continue)
    });
    found.unwrap_or_else(|| ("", "correct it, or leave it out".to_owned()))
}

fn why_leaf_impossible(leaf: &Expr) -> Option<(&'static str, String)> {
    let is_null = |expr: &Expr| matches!(expr, Expr::Literal(value, _) if value.is_null());
    match leaf {
        Expr::Between(between) if !between.negated && is_swapped(between) => Some((
            ": the lower bound is above the upper one",
            format!(
                "write BETWEEN {} AND {}",
                written(&between.high),
                written(&between.low)
            ),
        )),
        Expr::InList(InList {
            list,
            negated: true,
            ..
        }) if list.iter().any(is_null) => Some((
            ": the list holds a NULL, such as a blank cell, and nothing is known to be no NULL",
            "fill the cell, or ask the list WHERE the column IS NOT NULL".to_owned(),
        )),
        _ if operands(leaf).into_iter().any(is_before_first) => Some((
            ": the first item of a list is [1], and [0] is NULL of every list",
            "write [1]".to_owned(),
        )),
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if (is_null(left) || is_null(right))
                && matches!(op, Operator::Eq | Operator::NotEq) =>
        {
            Some((
                ": nothing equals NULL, nor differs from it",
                "write IS NULL or IS NOT NULL".to_owned(),
            ))
        }
        _ => {
            let operands = operands(leaf);
            let constants = operands.iter().filter_map(|operand| match operand {
                Expr::Literal(value, _) => text(value),
                _ => None,
            });
            let constants: Vec<&str> = constants.collect();
            operands.iter().find_map(|operand| {
                let mut constants = constants.iter();
                constants.find_map(|constant| never(operand, constant))
            })
        }
    }
}

/// The warning of conditions that no row passes that sensors of this version send.
pub(super) fn unheard_of(file: &SqlFile, culprits: &[&Expr], fact: Option<&str>) -> Fault {
    let why = fact.map(|fact| format!(": {fact}")).unwrap_or_default();
    let reason = format!(
        "no event that sensors send passes {}{why}",
        listed(culprits)
    );
    let mut ranges = culprits.iter().filter_map(|culprit| range_of(culprit));
    let range = ranges.next().filter(|_| fact.is_none());
    let mend = range.unwrap_or_else(|| "correct it, or leave it out".to_owned());
    Fault::new(last_line(file, culprits), reason, mend)
}

/// What the numbers of a condition's column are.
fn range_of(condition: &Expr) -> Option<String> {
    let of_date = operands(condition).into_iter().find_map(part_of_date);
    if let Some((part, least, most)) = of_date {
        return Some(format!("{part} lies between {least} and {most}"));
    }
    condition.column_refs().into_iter().find_map(|column| {
        let known = vocabulary::of(&column.name)?;
        let name = &column.name;
        Some(match (known.min, known.max, known.bytes_max) {
            (Some(least), Some(most), _) => format!("{name} lies between {least} and {most}"),
            (Some(least), None, _) => format!("{name} is never less than {least}"),
            (_, _, Some(most)) if known.escaped => {
                format!(
                    "{name} has at most {most} bytes, each written as \\xNN where it is no text"
                )
            }
            (_, _, Some(most)) => format!("{name} has at most {most} bytes"),
            _ => return None,
        })
    })
}

/// The warning of a condition that every row passes.
pub(super) fn empty(file: &SqlFile, condition: &Expr) -> Fault {
    let reason = format!(
        "every event passes {} where its columns are known: it asks for nothing",
        sql(condition)
    );
    let mend = "write AND where both are meant, or NOT IN (..) where none may be, or leave it out";
    Fault::new(line_of(file, condition), reason, mend)
}

/// The warning of an alternative that is never taken.
pub(super) fn dead(file: &SqlFile, alternative: &Expr) -> Fault {
    let reason = format!(
        "this alternative is true for no event that sensors send: {}",
        sql(alternative)
    );
    Fault::new(
        line_of(file, alternative),
        reason,
        "correct it, or leave it out",
    )
}

fn listed(conditions: &[&Expr]) -> String {
    let texts: Vec<String> = conditions.iter().map(|condition| sql(condition)).collect();
    texts.join(" and ")
}

fn last_line(file: &SqlFile, culprits: &[&Expr]) -> usize {
    let lines = culprits.iter().map(|culprit| line_of(file, culprit));
    lines.max().unwrap_or(file.query_line)
}

/// The line where an expression stands: that of its first column, else of its first text.
pub(crate) fn line_of(file: &SqlFile, expr: &Expr) -> usize {
    let mut by_column = None;
    let mut by_text = None;
    let _ = expr.apply(|part| {
        match part {
            Expr::Column(column) if by_column.is_none() => {
                let place = column.spans.first().map(|span| span.start);
                // What a view put in stands in the view's file: here it is where rows come from.
                by_column = place.map(|place| match has_at(file, place, &column.name) {
                    true => place.line as usize,
                    false => file.line_of("from "),
                });
            }
            Expr::Literal(value, _) if by_text.is_none() => {
                by_text = text(value).map(|text| file.line_of(&format!("'{text}'")));
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // Without either, its own text, which is the file's where it was written so.
    by_column
        .or(by_text)
        .unwrap_or_else(|| line_of_words(file, &sql(expr)))
}

/// Whether an expression stands in the file itself; one that does not is of a view.
pub(super) fn is_own(file: &SqlFile, expr: &Expr) -> bool {
    let columns = expr.column_refs();
    let mut columns = columns.into_iter();
    columns.all(|column| {
        let mut places = column.spans.iter().map(|span| span.start);
        places.all(|place| has_at(file, place, &column.name))
    })
}

/// Whether a name stands near a column's place in the file. A line may be long, and there may be many places in it.
fn has_at(file: &SqlFile, place: Location, name: &str) -> bool {
    let (line, column) = (place.line as usize, place.column as usize);
    let text = file.sql.lines().nth(line.saturating_sub(1));
    let text = text.filter(|_| line >= file.query_line).unwrap_or_default();
    let start = text.floor_char_boundary(column.saturating_sub(1));
    let end = text.floor_char_boundary(start + name.len() + QUALIFIER_BYTES_MAX);
    let here = text[start..end].to_lowercase();
    here.contains(name) || is_alias(file, &here)
}

/// Whether a text begins with a name that the file itself gives to something.
fn is_alias(file: &SqlFile, text: &str) -> bool {
    let is_of_name = |letter: char| letter.is_alphanumeric() || "_.".contains(letter);
    let name = text.split(|letter| !is_of_name(letter)).next();
    let name = name.and_then(|name| name.rsplit('.').next());
    let given = |name: &str| file.sql.to_lowercase().contains(&format!(" as {name}"));
    name.filter(|name| !name.is_empty()).is_some_and(given)
}

/// The first line of the query that has a text, however its words are spaced.
fn line_of_words(file: &SqlFile, text: &str) -> usize {
    let close = |text: &str| text.split_whitespace().collect::<String>().to_lowercase();
    let wanted = close(&text.replace(['(', ')'], ""));
    let mut lines = file.sql.lines().enumerate().skip(file.query_line - 1);
    let found = lines.find(|(_, line)| close(&line.replace(['(', ')'], "")).contains(&wanted));
    match found {
        Some((index, _)) => index + 1,
        // An aggregate under another name is asked of groups.
        None if text.contains("count(") => file.line_of("having"),
        None => file.query_line,
    }
}

/// An expression as SQL, shortened.
pub(crate) fn sql(expr: &Expr) -> String {
    let whole = written(expr);
    match whole.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

fn written(expr: &Expr) -> String {
    let negated = |negated: bool| if negated { "NOT " } else { "" };
    match expr {
        Expr::Alias(alias) => written(&alias.expr),
        Expr::Column(column) => as_written(&column.name),
        Expr::Literal(value, _) => constant(value),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let op = match op {
                Operator::NotEq => "<>".to_owned(),
                other => other.to_string(),
            };
            format!("{} {op} {}", operand(left), operand(right))
        }
        Expr::Not(inner) => format!("NOT {}", operand(inner)),
        Expr::IsNull(inner) => format!("{} IS NULL", operand(inner)),
        Expr::IsNotNull(inner) => format!("{} IS NOT NULL", operand(inner)),
        Expr::InList(InList {
            expr,
            list,
            negated: not,
        }) => {
            let shown: Vec<String> = list.iter().take(VALUES_SHOWN).map(written).collect();
            let more = if list.len() > VALUES_SHOWN {
                ", .."
            } else {
                ""
            };
            format!(
                "{} {}IN ({}{more})",
                operand(expr),
                negated(*not),
                shown.join(", ")
            )
        }
        Expr::Like(Like {
            negated: not,
            expr,
            pattern,
            case_insensitive,
            ..
        }) => {
            let like = if *case_insensitive { "ILIKE" } else { "LIKE" };
            format!(
                "{} {}{like} {}",
                operand(expr),
                negated(*not),
                written(pattern)
            )
        }
        Expr::Between(Between {
            expr,
            negated: not,
            low,
            high,
        }) => {
            format!(
                "{} {}BETWEEN {} AND {}",
                operand(expr),
                negated(*not),
                written(low),
                written(high)
            )
        }
        Expr::ScalarFunction(call) if call.name() == "get_field" && call.args.len() == 2 => {
            format!("{}[{}]", written(&call.args[0]), written(&call.args[1]))
        }
        Expr::ScalarFunction(call) if call.name() == "array_element" && call.args.len() == 2 => {
            format!("{}[{}]", written(&call.args[0]), written(&call.args[1]))
        }
        Expr::ScalarFunction(call) => {
            let arguments: Vec<String> = call.args.iter().map(written).collect();
            format!("{}({})", call.name(), arguments.join(", "))
        }
        Expr::Case(case) => written_case(case),
        Expr::Cast(Cast { expr, field, .. }) => {
            format!("CAST({} AS {})", written(expr), field.data_type())
        }
        Expr::TryCast(TryCast { expr, field, .. }) => {
            format!("TRY_CAST({} AS {})", written(expr), field.data_type())
        }
        other => other.human_display().to_string(),
    }
}

fn written_case(case: &Case) -> String {
    let of = case.expr.iter().map(|expr| format!(" {}", written(expr)));
    let arms = case
        .when_then_expr
        .iter()
        .map(|(when, then)| format!(" WHEN {} THEN {}", written(when), written(then)));
    let otherwise = case
        .else_expr
        .iter()
        .map(|expr| format!(" ELSE {}", written(expr)));
    let parts: String = of.chain(arms).chain(otherwise).collect();
    format!("CASE{parts} END")
}

/// The name of a column as an author writes it: an aggregate's has the relation of a window in it, and the types of constants.
fn as_written(name: &str) -> String {
    static NUMBERS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\b(?:U?Int64|Float64|Boolean)\(([^()]*)\)").ok());
    static TEXTS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"\bUtf8(?:View)?\("([^"]*)"\)"#).ok());
    let name = name.replace("count(Int64(1))", "count(*)");
    let name = name.replace("tumble().", "").replace("hop().", "");
    let replaced = |name: String, pattern: &Option<Regex>, by: &str| match pattern {
        Some(pattern) => pattern.replace_all(&name, by).into_owned(),
        None => name,
    };
    replaced(replaced(name, &NUMBERS, "$1"), &TEXTS, "'$1'")
}

/// A part of an expression, in brackets where it needs them.
fn operand(expr: &Expr) -> String {
    match expr {
        Expr::BinaryExpr(_) | Expr::InList(_) | Expr::Between(_) | Expr::Like(_) => {
            format!("({})", written(expr))
        }
        _ => written(expr),
    }
}

fn constant(value: &ScalarValue) -> String {
    match text(value) {
        Some(text) => format!("'{}'", text.replace('\'', "''")),
        None => value.to_string(),
    }
}
