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

/// Fields that have no column of their name, and what is asked instead.
const FIELDS: [(&str, &str); 36] = [
    (
        "evt_dir",
        "leave it out: each call is one event, told when it returns",
    ),
    ("evt_time", "write ts"),
    ("evt_time_s", "write ts"),
    ("evt_datetime", "write ts"),
    ("evt_rawtime", "write ts"),
    ("evt_rawtime_s", "write ts"),
    ("evt_rawtime_ns", "write ts"),
    ("evt_num", "write seq"),
    ("evt_hostname", "write host_name"),
    (
        "evt_arg",
        "write evt_args['name'], as docs/events.md has the arguments of each call",
    ),
    (
        "evt_rawarg",
        "write evt_args['name'], as docs/events.md has the arguments of each call",
    ),
    ("evt_info", "write evt_args"),
    ("syscall_type", "write evt_call"),
    ("proc_exeline", "write proc_cmdline"),
    ("proc_cmdnargs", "write proc_argc"),
    ("proc_is_exe_upper_layer", "write proc_exe_from = 'upper'"),
    ("proc_is_exe_from_memfd", "write proc_exe_from = 'memfd'"),
    (
        "proc_is_container_healthcheck",
        "write proc_stage = 'healthcheck'",
    ),
    ("proc_duration", "write proc_duration_ns"),
    ("proc_vpgid", "write proc_pgid"),
    ("proc_loginshellid", "write proc_sid"),
    ("fd_ip", "write fd_rip, or fd_lip for this end"),
    ("fd_port", "write fd_rport, or fd_lport for this end"),
    ("fd_proto", "write fd_l4proto"),
    ("fd_typechar", "write fd_type"),
    ("fd_net", "write cidr_match(fd_rip, '10.0.0.0/8')"),
    ("fd_cnet", "write cidr_match(fd_cip, '10.0.0.0/8')"),
    ("fd_snet", "write cidr_match(fd_sip, '10.0.0.0/8')"),
    ("fd_lnet", "write cidr_match(fd_lip, '10.0.0.0/8')"),
    ("fd_rnet", "write cidr_match(fd_rip, '10.0.0.0/8')"),
    (
        "fs_path_name",
        "write fd_name, or fs_path_target where the call has two paths",
    ),
    ("fs_path_nameraw", "write fd_nameraw"),
    ("k8s_pod_id", "write k8s_pod_uid"),
    ("k8s_ns", "write k8s_ns_name"),
    ("k8s_pod_label", "write container_labels['name']"),
    ("k8s_pod_labels", "write container_labels['name']"),
];

/// What fields begin with.
const CLASSES: [&str; 10] = [
    "evt",
    "proc",
    "fd",
    "fs",
    "user",
    "group",
    "container",
    "k8s",
    "thread",
    "host",
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

/// What to write for a field of Falco's that has no column of its name.
pub fn field(name: &str) -> Option<&'static str> {
    meant(&FIELDS, name)
}

/// A filter as Falco and sysdig have it, as a condition of SQL; none of what is no filter, or is not understood.
pub fn condition(filter: &str) -> Option<String> {
    let tokens = tokens(filter)?;
    let mut tokens = tokens.into_iter().peekable();
    let mut parts: Vec<String> = Vec::new();
    let mut compares = false;
    while let Some(token) = tokens.next() {
        let word = match token {
            Token::Sign(sign) if sign == "(" || sign == ")" => {
                parts.push(sign);
                continue;
            }
            Token::Word(word) => word,
            _ => return None,
        };
        if ["and", "or", "not"].contains(&word.to_lowercase().as_str()) {
            parts.push(word.to_uppercase());
            continue;
        }
        if let Some(ours) = meant(&NAMES, &word) {
            parts.push(format!("({ours})"));
            compares = true;
            continue;
        }
        let column = column(&word)?;
        parts.push(comparison(&column, tokens.next()?, &mut tokens)?);
        compares = true;
    }
    let joined = parts.join(" ").replace("( ", "(").replace(" )", ")");
    compares.then_some(joined)
}

/// A part of a filter.
enum Token {
    Word(String),
    Quoted(String),
    Sign(String),
}

fn tokens(filter: &str) -> Option<Vec<Token>> {
    let mut rest = filter.trim();
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' | '\'' => {
                let (text, end) = quoted(rest, first)?;
                tokens.push(Token::Quoted(text));
                end
            }
            '(' | ')' | ',' => {
                tokens.push(Token::Sign(first.to_string()));
                1
            }
            '=' | '!' | '<' | '>' => {
                let end = rest.find(|letter| !"=!<>".contains(letter));
                let end = end.unwrap_or(rest.len());
                tokens.push(Token::Sign(rest[..end].to_owned()));
                end
            }
            _ => {
                let of_other =
                    |letter: char| letter.is_whitespace() || "(),=!<>\"'".contains(letter);
                let end = rest.find(of_other).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
        };
        rest = rest[end..].trim_start();
    }
    Some(tokens)
}

/// The text in quotes that a text begins with, and where it ends: a doubled quote stands for itself.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((place, letter)) = letters.next() {
        if letter != quote {
            inside.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Some((inside, place + 1));
        }
    }
    None
}

/// The column that a field is; none of what is no field.
fn column(field: &str) -> Option<String> {
    let argument = field.strip_prefix("evt.arg.");
    let argument = argument.or_else(|| field.strip_prefix("evt.arg[")?.strip_suffix(']'));
    if let Some(argument) = argument {
        return Some(format!("evt_args['{argument}']"));
    }
    let column = field.replace('.', "_");
    let (class, _) = column.split_once('_')?;
    let named = column
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    (CLASSES.contains(&class) && named && self::field(&column).is_none()).then_some(column)
}

/// What a column is compared with, whose operator has been read.
fn comparison(
    column: &str,
    operator: Token,
    tokens: &mut impl Iterator<Item = Token>,
) -> Option<String> {
    let word = match operator {
        Token::Word(word) => word.to_lowercase(),
        Token::Sign(sign) => sign,
        Token::Quoted(_) => return None,
    };
    if word == "exists" {
        return Some(format!("{column} IS NOT NULL"));
    }
    if ["in", "intersects", "pmatch"].contains(&word.as_str()) {
        let values = values(tokens)?;
        let quoted: Vec<String> = values.iter().map(value).collect();
        return Some(match (word.as_str(), &values[..]) {
            ("in", [Token::Word(name)]) if meant(&NAMES, name).is_some() => {
                format!("{column} IN ({})", meant(&NAMES, name)?)
            }
            ("in", _) => format!("{column} IN ({})", quoted.join(", ")),
            ("pmatch", _) => {
                let starts = quoted
                    .iter()
                    .map(|own| format!("starts_with({column}, {own})"));
                format!("({})", starts.collect::<Vec<_>>().join(" OR "))
            }
            _ => format!("array_has_any({column}, [{}])", quoted.join(", ")),
        });
    }
    let token = tokens.next()?;
    let text = match &token {
        Token::Word(text) | Token::Quoted(text) => text.replace('\'', "''"),
        Token::Sign(_) => return None,
    };
    Some(match word.as_str() {
        "=" | "==" => format!("{column} = {}", value(&token)),
        "!=" | "<>" => format!("{column} <> {}", value(&token)),
        "<" | "<=" | ">" | ">=" => format!("{column} {word} {}", value(&token)),
        "contains" => format!("{column} LIKE '%{text}%'"),
        "icontains" => format!("{column} ILIKE '%{text}%'"),
        "startswith" => format!("starts_with({column}, '{text}')"),
        "endswith" => format!("ends_with({column}, '{text}')"),
        "glob" => format!("{column} LIKE '{}'", text.replace('*', "%")),
        "regex" => format!("regexp_like({column}, '{text}')"),
        _ => return None,
    })
}

/// The values of a list in parentheses.
fn values(tokens: &mut impl Iterator<Item = Token>) -> Option<Vec<Token>> {
    let mut values = Vec::new();
    match tokens.next()? {
        Token::Sign(sign) if sign == "(" => {}
        _ => return None,
    }
    loop {
        match tokens.next()? {
            Token::Sign(sign) if sign == ")" => break,
            Token::Sign(sign) if sign == "," => {}
            Token::Sign(_) => return None,
            value => values.push(value),
        }
    }
    (!values.is_empty()).then_some(values)
}

/// A value as SQL has it: numbers and truth values as they are, texts in quotes.
fn value(token: &Token) -> String {
    match token {
        Token::Word(word) if word.parse::<i64>().is_ok() => word.clone(),
        Token::Word(word) if ["true", "false"].contains(&word.as_str()) => word.clone(),
        Token::Word(text) | Token::Quoted(text) => format!("'{}'", text.replace('\'', "''")),
        Token::Sign(sign) => sign.clone(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;

    /// What is a column needs no other word, and what is to be written is one.
    #[test]
    fn fields_without_a_column_have_one_to_ask_instead() {
        let mut tables = tables::ALL.iter();
        let events = tables
            .find(|table| table.name == tables::EVENTS)
            .expect("events");
        let schema = events.schema();
        let is_column = |name: &str| schema.fields().iter().any(|field| field.name() == name);
        for (field, mend) in FIELDS {
            assert!(!is_column(field), "{field}");
            let Some(ours) = mend.strip_prefix("write ") else {
                continue;
            };
            let ours = ours.strip_prefix("cidr_match(").unwrap_or(ours);
            let ours = ours.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let ours = ours.into_iter().next().expect("a word");
            assert!(is_column(ours), "{mend}");
        }
        assert!(CLASSES.iter().all(|class| {
            let mut fields = schema.fields().iter();
            fields.any(|field| field.name().starts_with(&format!("{class}_")))
        }));
    }
}
