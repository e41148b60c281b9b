//! The alert's sentence: a template with `{column}` in it, filled from one row.
//!
//! What is filled in was chosen by whoever is being watched: control characters are escaped, so that no command line can
//! move an analyst's cursor, and each value is cut, so that none can bury the sentence.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Longest text one column puts into a message, in characters.
const VALUE_CHARACTERS_MAX: usize = 256;

/// A message with places for columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub(crate) fn parse(template: &str) -> Result<Self, String> {
        if let Some((sign, name)) = of_another(template) {
            let ours = name.replace('.', "_");
            return Err(format!(
                "message: {sign}{name} is no place for a column, as {{{ours}}} is"
            ));
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after_second) = after.strip_prefix(brace) {
                text.push_str(brace);
                rest = after_second;
                continue;
            }
            if brace == "}" {
                return Err("message: a } without its {".to_owned());
            }
            let (column, after) = after.split_once('}').ok_or("message: a { without its }")?;
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(Part::Column(column.trim().to_owned()));
            rest = after;
        }
        text.push_str(rest);
        parts.push(Part::Text(text));
        Ok(Self(parts))
    }

    /// The columns it names.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Column(column) => Some(column.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills it from a row; what is not known reads `<unknown>`.
    #[must_use]
    pub fn render(&self, row: &Map<String, Value>) -> String {
        let mut message = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => message.push_str(text),
                Part::Column(column) => match row.get(column) {
                    None | Some(Value::Null) => message.push_str("<unknown>"),
                    Some(Value::String(text)) => push_printable(&mut message, text),
                    Some(Value::Array(values)) => {
                        let texts: Vec<String> = values.iter().map(plain).collect();
                        push_printable(&mut message, &texts.join(", "));
                    }
                    Some(value) => push_printable(&mut message, &value.to_string()),
                },
            }
        }
        message
    }
}

/// A place for a value as others write it: `%proc.cmdline` is Falco's, `$name` a shell's.
fn of_another(template: &str) -> Option<(&str, &str)> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || "_.".contains(letter);
    let mut places = template.match_indices(['%', '$']);
    places.find_map(|(place, sign)| {
        let rest = &template[place + 1..];
        let rest = rest
            .strip_prefix('{')
            .filter(|_| sign == "$")
            .unwrap_or(rest);
        let end = rest
            .find(|letter| !is_of_name(letter))
            .unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('.');
        // A percentage is none, nor a variable of the environment.
        let is_place = name.starts_with(|letter: char| letter.is_ascii_lowercase())
            && (sign == "$" || name.contains(['.', '_']));
        is_place.then_some((sign, name))
    })
}

/// A value as a reader expects it: text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Appends at most [`VALUE_CHARACTERS_MAX`] characters, control characters and text-direction marks escaped.
fn push_printable(message: &mut String, value: &str) {
    for (count, character) in value.chars().enumerate() {
        if count == VALUE_CHARACTERS_MAX {
            message.push('…');
            return;
        }
        let turns_text = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns_text {
            // Writing to a String cannot fail.
            let _ = write!(message, "{}", character.escape_default());
        } else {
            message.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, row: &str, expected: &str) {
        let row: Map<String, Value> = serde_json::from_str(row).expect("row");
        assert_eq!(
            Template::parse(template).expect("template").render(&row),
            expected
        );
    }

    #[test]
    fn columns_are_filled_in() {
        check("{a} in {b}", r#"{"a": "sh", "b": 7}"#, "sh in 7");
        check("{{{a}}}", r#"{"a": true}"#, "{true}");
        check("{a}{b}", r#"{"a": null}"#, "<unknown><unknown>");
        check("plain", "{}", "plain");
        check("{a}", r#"{"a": ["sh -c id", 7]}"#, "sh -c id, 7");
    }

    #[test]
    fn values_cannot_forge_the_line_around_them() {
        check(
            "ran {a}.",
            r#"{"a": "x\u001b[2J\ny\u202e"}"#,
            "ran x\\u{1b}[2J\\ny\\u{202e}.",
        );
        let long = format!(r#"{{"a": "{}"}}"#, "é".repeat(300));
        check(
            "{a}!",
            &long,
            &format!("{}…!", "é".repeat(VALUE_CHARACTERS_MAX)),
        );
    }

    #[test]
    fn broken_templates_are_refused() {
        assert_eq!(
            Template::parse("a { b"),
            Err("message: a { without its }".to_owned())
        );
        assert_eq!(
            Template::parse("a } b"),
            Err("message: a } without its {".to_owned())
        );
    }

    #[test]
    fn places_as_others_write_them_are_refused() {
        for (template, sign, ours) in [
            ("ran %proc.cmdline.", "%proc.cmdline", "{proc_cmdline}"),
            ("ran %proc_cmdline", "%proc_cmdline", "{proc_cmdline}"),
            ("ran $cmd by {a}", "$cmd", "{cmd}"),
            ("ran ${cmd}", "$cmd", "{cmd}"),
        ] {
            let error = Template::parse(template).expect_err(template);
            assert_eq!(
                error,
                format!("message: {sign} is no place for a column, as {ours} is")
            );
        }
        for template in ["100% of {a}", "100%", "$PATH of {a}", "5$", "50 %of it"] {
            assert!(Template::parse(template).is_ok(), "{template}");
        }
    }
}
