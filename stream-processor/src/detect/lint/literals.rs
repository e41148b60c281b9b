//! Texts that are most likely written wrong: with quotes or blanks around them, in the place of NULL, or nearly a word that
//! means something of its own in their column.

use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::Subject;
use super::conditions::Conditions;
use super::parts::{compared_with, text};
use super::text::line_of;
use super::values::comparisons;
use crate::detect::sql_file::{Fault, is_one_slip};

/// What people, and the programs that they write with, put around a text that is in quotes already.
const QUOTES: [char; 10] = [
    '\'', '"', '`', '\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}',
];
/// What other tools write for a field that is not known.
const UNKNOWN: [&str; 5] = ["<NA>", "NULL", "null", "N/A", "n/a"];
/// Columns whose texts people choose freely, blanks and quotes included.
const FREE: [&str; 3] = ["cmdline", "args", "labels"];

/// Says which texts of a comparison are most likely no value of what they are compared with.
pub(super) fn unlikely(subject: &Subject<'_>, conditions: &Conditions, part: &Expr) -> Vec<Fault> {
    let told =
        |(reason, mend): (String, String)| Fault::new(line_of(subject.file, part), reason, mend);
    let of_columns = comparisons(part)
        .into_iter()
        .filter_map(|(column, constant)| {
            let column = &conditions.values_of(column)?.name;
            let text = text(&constant)?;
            let known = conditions.vocabulary(column);
            let is_value = known.is_some_and(|known| {
                let values = known.values.iter().flatten().chain(&known.words);
                values.into_iter().any(|value| value == text)
            });
            if is_value {
                return None;
            }
            let words = known
                .map(|known| known.words.as_slice())
                .unwrap_or_default();
            let closed = known.is_some_and(|known| known.values.is_some());
            let free = FREE.iter().any(|free| column.contains(free));
            quoted(column, text)
                .filter(|_| !free)
                .or_else(|| stands_for_null(column, text))
                .or_else(|| blanks(column, text).filter(|_| !free && !closed))
                .or_else(|| nearly_a_word(column, words, text))
                .or_else(|| upper_case_id(column, text))
        });
    let mut found: Vec<Fault> = of_columns.map(told).collect();
    if found.is_empty() && is_equality(part) {
        let texts: Vec<_> = compared_with(part).collect();
        let texts = texts.iter().filter_map(|value| text(value));
        let longer = texts.filter(|text| text.chars().count() > 1);
        let of_others = longer.filter_map(|text| quoted("it", text));
        found.extend(of_others.map(told).filter(|_| !names_free(part)));
    }
    found
}

/// Whether a comparison asks for texts as they are.
pub(super) fn is_equality(part: &Expr) -> bool {
    match part {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(
            op,
            Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom
        ),
        Expr::InList(_) => true,
        _ => false,
    }
}

/// Whether it is about a column whose texts people choose freely; of a program's name they do not.
fn names_free(part: &Expr) -> bool {
    let of_program =
        |own: &Expr| matches!(own, Expr::ScalarFunction(call) if call.name() == "program");
    if part.exists(|own| Ok(of_program(own))).unwrap_or(false) {
        return false;
    }
    let columns = part.column_refs();
    let mut names = columns.iter().map(|column| column.name.as_str());
    names.any(|name| FREE.iter().any(|free| name.contains(free)))
}

fn quoted(column: &str, text: &str) -> Option<(String, String)> {
    if !text.starts_with(QUOTES) || !text.ends_with(QUOTES) {
        return None;
    }
    let inside = text.trim_matches(QUOTES);
    let reason = match inside.is_empty() {
        true => format!("{column} is compared with {text}, which is nothing but quotes"),
        false => format!("{column} is compared with {text}, whose quotes belong to the text"),
    };
    let mend = match inside.is_empty() {
        true => "write '' for an empty text".to_owned(),
        false => format!("write '{inside}': one pair of quotes"),
    };
    Some((reason, mend))
}

fn stands_for_null(column: &str, text: &str) -> Option<(String, String)> {
    UNKNOWN.contains(&text).then(|| {
        let reason = format!("{column} is NULL where it is not known, and never '{text}'");
        (reason, format!("write {column} IS NULL, or IS NOT NULL"))
    })
}

fn blanks(column: &str, text: &str) -> Option<(String, String)> {
    let inside = text.trim();
    (inside != text && !inside.is_empty()).then(|| {
        let reason = format!("{column} is compared with '{text}', which has a blank around it");
        (reason, format!("write '{inside}'"))
    })
}

fn nearly_a_word(column: &str, words: &[String], text: &str) -> Option<(String, String)> {
    let near = words.iter().find(|word| is_one_slip(word, text.trim()))?;
    let reason = format!("{column} is compared with '{text}', which is nearly '{near}'");
    let mend = format!("did you mean '{near}'? {}", meaning(near));
    Some((reason, mend.trim_end().to_owned()))
}

/// What a word stands for among the ids of containers.
fn meaning(word: &str) -> &'static str {
    match word {
        "host" => "That is every process of no container",
        "unknown" => "That is what nothing is known of",
        _ => "",
    }
}

/// Runtimes write ids in lower case.
fn upper_case_id(column: &str, text: &str) -> Option<(String, String)> {
    let is_id = column.starts_with("container_") && column.ends_with("id");
    let digits = text.len() >= 12 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let upper = text.bytes().any(|digit| digit.is_ascii_uppercase());
    (is_id && digits && upper).then(|| {
        let reason = format!("{column} is compared with '{text}', and ids are in lower case");
        (reason, format!("write '{}'", text.to_lowercase()))
    })
}
