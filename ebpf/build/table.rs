//! Reads `bpf/calls.def`: one row a system call, as its head says.

use std::fmt::Write as _;

/// The columns of a row; the numbers are x86-64's, the 32-bit entry's and arm64's.
pub const COLUMNS: usize = 10;

/// Writes the rows as Rust: a slice of `Call`, in the order of their numbers.
pub fn generate(text: &str) -> Result<String, String> {
    let mut out = String::from("&[\n");
    for (index, line) in text.lines().enumerate() {
        let Some(row) = line
            .strip_prefix("CALL(")
            .and_then(|rest| rest.trim_end().strip_suffix(')'))
        else {
            continue;
        };
        call(&mut out, row).map_err(|reason| format!("calls.def:{}: {reason}", index + 1))?;
    }
    out.push(']');
    Ok(out)
}

fn call(out: &mut String, row: &str) -> Result<(), String> {
    let columns = split(row);
    let [
        name,
        x86,
        ia32,
        arm64,
        category,
        mode,
        class,
        gate,
        effect,
        arguments,
    ]: [&str; COLUMNS] = columns
        .try_into()
        .map_err(|found: Vec<_>| format!("{} columns, not {COLUMNS}", found.len()))?;
    let number = |text: &str| match text {
        "NO" => "None".to_owned(),
        number => format!("Some({number})"),
    };
    let (gate, _) = gate.split_once('(').unwrap_or((gate, ""));
    write!(
        out,
        "Call {{ name: {name:?}, x86_64: {}, ia32: {}, arm64: {}, category: {:?}, mode: Mode::{}, class: RateClass::{}, \
         gate: Gate::{}, effect: Effect::{}, arguments: &[",
        number(x86),
        number(ia32),
        number(arm64),
        category.to_lowercase(),
        camel(mode),
        camel(class),
        camel(gate),
        camel(effect),
    )
    .expect("a String takes all");
    for argument in arguments.split_inclusive(')').map(str::trim) {
        let (kind, rest) = argument
            .strip_suffix(')')
            .and_then(|argument| argument.split_once('('))
            .ok_or_else(|| format!("{argument:?} is no argument"))?;
        let (name, names) = rest.split_once(',').unwrap_or((rest, ""));
        let kind = match names.trim() {
            "" => camel(kind),
            names => format!("{}(&names::{})", camel(kind), names.to_uppercase()),
        };
        write!(
            out,
            "Argument {{ name: {name:?}, kind: ArgumentKind::{kind} }}, "
        )
        .expect("a String takes all");
    }
    out.push_str("] },\n");
    Ok(())
}

/// The parts between commas that are in no parentheses.
fn split(row: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, character) in row.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(row[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(row[start..].trim());
    parts
}

fn camel(upper: &str) -> String {
    let mut out = String::new();
    for word in upper.split('_') {
        let (first, rest) = word.split_at(word.len().min(1));
        out.push_str(&first.to_uppercase());
        out.push_str(&rest.to_lowercase());
    }
    out
}
