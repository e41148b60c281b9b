//! What functions can come to, whatever they are given: the letters and lengths of texts, the numbers of dates.

use datafusion::common::Column;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;
use dogwatch_schemas::vocabulary;

use super::parts::{text, whole_number};
use crate::tables::Table;

/// Why a function never comes to a text, and what to write instead; none where it may.
pub(super) fn never(expr: &Expr, wanted: &str) -> Option<(&'static str, String)> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    match call.name() {
        "lower" if wanted.to_lowercase() != wanted => Some((
            ": the letters are of the other case",
            "compare with lower-case letters".to_owned(),
        )),
        "upper" if wanted.to_uppercase() != wanted => Some((
            ": the letters are of the other case",
            "compare with upper-case letters".to_owned(),
        )),
        "btrim" | "trim" | "ltrim" | "rtrim" if call.args.len() == 1 => {
            let trimmed = match call.name() {
                "ltrim" => wanted.trim_start_matches(' '),
                "rtrim" => wanted.trim_end_matches(' '),
                _ => wanted.trim_matches(' '),
            };
            (trimmed != wanted).then(|| {
                (
                    ": the blanks are taken away before",
                    format!("compare with '{trimmed}'"),
                )
            })
        }
        "program" if wanted.contains('/') => Some((
            ": a program is told without its folder",
            format!(
                "compare with '{}', or proc_exepath with the path",
                last_part(wanted)
            ),
        )),
        "split_part" => {
            let delimiter = constant_text(call, 1).filter(|text| !text.is_empty())?;
            wanted.contains(delimiter).then(|| {
                (
                    ": a part does not hold what it is split by",
                    format!("compare with a text without '{delimiter}'"),
                )
            })
        }
        _ => {
            let most = longest_text(call)?;
            let own = wanted.chars().count() as i64;
            (own > most).then(|| {
                (
                    ": the text is longer than what is compared with it",
                    format!("compare with a text of {most} characters"),
                )
            })
        }
    }
}

fn last_part(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// The most characters that a cut text has.
fn longest_text(call: &ScalarFunction) -> Option<i64> {
    let most = match call.name() {
        "left" | "right" => constant_number(call, 1)?,
        "substr" | "substring" => {
            let (start, length) = (constant_number(call, 1)?, constant_number(call, 2)?);
            // What lies before the first character is counted, and is nothing.
            length + (start - 1).min(0)
        }
        _ => return None,
    };
    (most >= 0).then_some(most)
}

fn constant_text(call: &ScalarFunction, place: usize) -> Option<&str> {
    match call.args.get(place)? {
        Expr::Literal(value, _) => text(value),
        _ => None,
    }
}

fn constant_number(call: &ScalarFunction, place: usize) -> Option<i64> {
    match call.args.get(place)? {
        Expr::Literal(value, _) => whole_number(value),
        _ => None,
    }
}

/// The name, the least and the most of what a part of a date can be.
pub(super) fn part_of_date(expr: &Expr) -> Option<(&str, i64, i64)> {
    match expr {
        Expr::Cast(cast) => part_of_date(&cast.expr),
        Expr::ScalarFunction(call) if ["date_part", "datepart"].contains(&call.name()) => {
            let part = constant_text(call, 0)?;
            let (least, most) = match part.to_lowercase().as_str() {
                "hour" => (0, 23),
                "minute" => (0, 59),
                "second" => (0, 60),
                "month" => (1, 12),
                "day" => (1, 31),
                "quarter" => (1, 4),
                "week" => (1, 53),
                "dow" => (0, 6),
                "doy" => (1, 366),
                _ => return None,
            };
            Some((part, least, most))
        }
        _ => None,
    }
}

/// What a count begins with, whoever counts: of rows with one, as a group has at least one, of anything else with none.
pub(super) fn counted_from(expr: &Expr) -> Option<i64> {
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
pub(super) fn longest(expr: &Expr, table: Table) -> Option<i64> {
    match expr {
        Expr::Cast(cast) => longest(&cast.expr, table),
        Expr::ScalarFunction(call)
            if ["character_length", "octet_length"].contains(&call.name()) =>
        {
            let Some(Expr::Column(column)) = call.args.first() else {
                return None;
            };
            let known = vocabulary::of_record(table.record(), &column.name)?;
            Some(known.written_bytes_max()? as i64)
        }
        _ => None,
    }
}

/// The least and the most that an aggregate of a column can be, where the column has bounds.
pub(super) fn aggregated(expr: &Expr, table: Table) -> Option<(Option<i64>, Option<i64>)> {
    let Expr::Column(Column {
        relation: None,
        name,
        ..
    }) = expr
    else {
        return None;
    };
    let (function, column) = name.strip_suffix(')')?.split_once('(')?;
    // What is computed of columns has bounds of its own.
    if column.contains([' ', ',']) {
        return None;
    }
    let column = column.rsplit('.').next().unwrap_or(column);
    let known = vocabulary::of_record(table.record(), column)?;
    match function {
        // A sum of what is never negative is not, either.
        "sum" => Some((known.min.filter(|least| *least >= 0).map(|_| 0), None)),
        _ => None,
    }
}
