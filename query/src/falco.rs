//! Falco's words in a detection: what was pasted from a rule, and what to write instead.
//!
//! Its fields are columns with `_` for each dot, which the planner's columns tell; macros, operators and priorities are not.

use crate::sql_file::{Fault, SqlFile};

/// What tells how a rule becomes a detection.
const MANUAL: &str = "docs/detections.md has what Falco's words are here";

/// Macros and lists of Falco's default rules.
const NAMES: [(&str, &str); 11] = [
    (
        "spawned_process",
        "evt_type IN ('execve', 'execveat') AND evt_outcome = 'success'",
    ),
    ("container", "container_id <> 'host'"),
    (
        "open_read",
        "evt_type IN ('open', 'openat', 'openat2', 'creat') AND evt_outcome = 'success' AND evt_is_open_read",
    ),
    (
        "open_write",
        "evt_type IN ('open', 'openat', 'openat2', 'creat') AND evt_outcome = 'success' AND evt_is_open_write",
    ),
    ("outbound", "evt_type = 'connect'"),
    ("inbound", "evt_type IN ('accept', 'accept4')"),
    ("shell_procs", "proc_name IN (SELECT name FROM shells)"),
    ("shell_binaries", "SELECT name FROM shells"),
    (
        "package_mgmt_procs",
        "proc_name IN (SELECT name FROM package_managers)",
    ),
    ("package_mgmt_binaries", "SELECT name FROM package_managers"),
    ("interactive", "proc_tty > 0"),
];

/// Operators that SQL has another word for.
const OPERATORS: [(&str, &str); 8] = [
    ("startswith", "starts_with(column, 'text')"),
    ("endswith", "ends_with(column, 'text')"),
    ("contains", "column LIKE '%text%'"),
    ("icontains", "column ILIKE '%text%'"),
    ("glob", "column LIKE 'text%', with % for Falco's *"),
    ("pmatch", "starts_with(column, 'text')"),
    ("regex", "regexp_like(column, 'pattern')"),
    ("intersects", "array_has_any(column, ['a', 'b'])"),
];

/// Priorities, and the severities that stand for them.
const PRIORITIES: [(&str, &str); 8] = [
    ("emergency", "critical"),
    ("alert", "critical"),
    ("critical", "critical"),
    ("error", "high"),
    ("warning", "medium"),
    ("notice", "low"),
    ("informational", "informational"),
    ("debug", "informational"),
];

fn meant<'t>(table: &[(&str, &'t str)], word: &str) -> Option<&'t str> {
    let word = word.to_lowercase();
    let mut table = table.iter();
    table.find(|(own, _)| *own == word).map(|(_, ours)| *ours)
}

/// What to write for a macro or a list of Falco's.
pub fn name(name: &str) -> Option<String> {
    let ours = meant(&NAMES, name)?;
    Some(format!("{name} is Falco's: write {ours}"))
}

/// What to write for the operator that the SQL parser does not expect.
pub fn operator(parser_says: &str) -> Option<(String, String)> {
    let (_, found) = parser_says.split_once("found: ")?;
    let word = found.split([' ', '"', ')']).next()?;
    let ours = meant(&OPERATORS, word)?;
    Some((
        format!("{word} is an operator of Falco's, not of SQL"),
        format!("write {ours}"),
    ))
}

/// What to write for a priority of Falco's.
pub fn priority(word: &str) -> Option<String> {
    let ours = meant(&PRIORITIES, word)?;
    Some(format!("write severity = \"{ours}\" for Falco's {word}"))
}

/// The refusal of a rule that was put in the place of a detection as it is.
pub fn rule(file: &SqlFile) -> Option<Fault> {
    let first = ["- rule:", "- macro:", "- list:", "- required_"];
    let mut lines = (1..).zip(file.sql.lines());
    let (line, text) = lines.find(|(_, text)| {
        let text = text.trim();
        !text.is_empty() && !text.starts_with('#')
    })?;
    first
        .iter()
        .any(|start| text.starts_with(start))
        .then(|| Fault::new(line, "this is a rule of Falco's, in YAML", MANUAL))
}
