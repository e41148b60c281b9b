//! What is in force, as a file that could be given, and where each value is from.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;
use toml::{Table, Value};

use crate::keys::{in_open_table, open_tables};
use crate::sources::{MASK, Settings, plain};

/// Writes all settings in force as TOML, each line with its origin behind it. In the user's own sections, values whose
/// names are secrets by `secret` are masked, and so are passwords within addresses anywhere. `raw` is what was read, with its
/// defaults.
pub fn show(raw: &impl Serialize, settings: &Settings, secret: impl Fn(&str) -> bool) -> String {
    // Settings are plain data, which TOML can hold.
    let table = Table::try_from(raw).unwrap_or_default();
    let origins = settings.origins();
    let mut text = String::new();
    let line = |key: &str, name: &str, value: &Value| {
        let hidden = in_open_table(key).is_some_and(|(_, name)| secret(name));
        let value = match value {
            Value::String(_) if hidden => Value::from(MASK),
            value => masked(value, &secret),
        };
        let origin = origins.get(&plain(key));
        let origin = origin.map_or("default", String::as_str);
        format!("{} = {value}  # {origin}\n", quoted(name))
    };
    write_table(&mut text, &table, "", &line);
    for (name, reason) in &settings.passed_over {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\n# passed over: {name} ({reason})");
    }
    text
}

/// A value in which the secrets of addresses are masked.
fn masked(value: &Value, secret: &impl Fn(&str) -> bool) -> Value {
    match value {
        Value::String(text) => {
            let parts = addresses(text).into_iter();
            let parts: Vec<String> = parts.map(|part| in_address(part, secret)).collect();
            Value::from(parts.join(","))
        }
        Value::Array(values) => {
            Value::Array(values.iter().map(|value| masked(value, secret)).collect())
        }
        value => value.clone(),
    }
}

/// The parts of a text between commas that a scheme follows: any other comma may be a password's.
fn addresses(text: &str) -> Vec<&str> {
    let is_scheme = |text: &str| {
        let scheme = text
            .split_once("://")
            .map(|(scheme, _)| scheme.trim_start());
        scheme.is_some_and(|scheme| {
            let letters = scheme.chars();
            !scheme.is_empty()
                && letters
                    .into_iter()
                    .all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
        })
    };
    let commas = text.match_indices(',').map(|(at, _)| at);
    let mut parts = Vec::new();
    let mut begin = 0;
    for comma in commas.filter(|at| is_scheme(&text[at + 1..])) {
        parts.push(&text[begin..comma]);
        begin = comma + 1;
    }
    parts.push(&text[begin..]);
    parts
}

/// An address without its secrets: the password before a host (`https://user:word@host`), a token that is there alone, and the
/// values of a query whose names are secrets (`?client_secret=word`). In doubt more is masked: a password may hold what ends a
/// host elsewhere.
fn in_address(text: &str, secret: &impl Fn(&str) -> bool) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let has_user = rest[..host_end].contains(['@', ':']);
    let (user, rest) = match rest.rsplit_once('@').filter(|_| has_user) {
        Some((user, rest)) => match user.split_once(':') {
            Some((name, _)) => (format!("{name}:{MASK}@"), rest),
            None => (format!("{MASK}@"), rest),
        },
        None => (String::new(), rest),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let query = query.map_or(String::new(), |query| {
        let values = query.split('&').map(|value| match value.split_once('=') {
            Some((name, _)) if secret(&name.to_lowercase()) => format!("{name}={MASK}"),
            _ => value.to_owned(),
        });
        format!("?{}", values.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}{user}{path}{query}")
}

/// Writes a program's answer to standard output. Whoever closes it, as `head` does, has enough, which is no failure.
///
/// # Errors
/// The system's reason for anything else, such as a disk that is full.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Values first, then the sections, as TOML wants it.
fn write_table(
    text: &mut String,
    table: &Table,
    above: &str,
    line: &impl Fn(&str, &str, &Value) -> String,
) {
    for (name, value) in table.iter().filter(|(_, value)| !value.is_table()) {
        let name = if open_tables().contains(&above) {
            name.replace('_', ".")
        } else {
            name.clone()
        };
        text.push_str(&line(&joined(above, &name), &name, value));
    }
    for (name, value) in table {
        if let Some(below) = value.as_table() {
            let section = joined(above, name);
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "\n[{section}]");
            write_table(text, below, &section, line);
        }
    }
}

fn joined(above: &str, name: &str) -> String {
    if above.is_empty() {
        name.to_owned()
    } else {
        format!("{above}.{name}")
    }
}

fn quoted(name: &str) -> String {
    let bare = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if bare {
        name.to_owned()
    } else {
        Value::from(name).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use serde::Deserialize;

    use super::*;
    use crate::Program;

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Kafka {
        partitions: i32,
        topic_prefix: String,
        options: BTreeMap<String, String>,
    }

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Own {
        delivery: String,
        kafka: Kafka,
    }

    #[test]
    fn secrets_within_addresses_are_masked() {
        let secret = |name: &str| name.contains("secret");
        for (given, shown) in [
            (
                "https://dog:hunter2@idp/token",
                "https://dog:********@idp/token",
            ),
            (
                "https://dog:a@b:c@idp:8443",
                "https://dog:********@idp:8443",
            ),
            // What is a password's and what another address's cannot be told.
            ("dog:hun,ter2@b:9092", "dog:********@b:9092"),
            (
                "https://dog:a@b,https://cat:c,d@e",
                "https://dog:********@b,https://cat:********@e",
            ),
            ("https://dog:pa/s?s#@host/x", "https://dog:********@host/x"),
            ("https://token@host", "https://********@host"),
            ("https://host/people@home", "https://host/people@home"),
            ("a:9092, b:9092,[::1]:9092", "a:9092, b:9092,[::1]:9092"),
            (
                "https://idp/token?client_id=dog&client_secret=hunter2",
                "https://idp/token?client_id=dog&client_secret=********",
            ),
            (
                "SASL_SSL://a:9092,[::1]:9092",
                "SASL_SSL://a:9092,[::1]:9092",
            ),
            ("/etc/a?b", "/etc/a?b"),
            ("*/.ssh/id_*", "*/.ssh/id_*"),
        ] {
            let given = Value::from(vec![given]);
            assert_eq!(masked(&given, &secret), Value::from(vec![shown]));
        }
    }

    #[test]
    fn settings_are_shown_with_their_origin_and_secrets_masked() {
        let variables = [
            ("DOGWATCH_KAFKA__PARTITIONS", "4"),
            ("DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD", "hunter2"),
            ("DOGWATCH_KAFKA__OPTIONS__SASL_USERNAME", "dog"),
            ("DOGWATCH_KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), OsString::from(value)));
        let settings =
            Settings::read(Program::Processor, None, variables.into_iter(), &[]).unwrap();
        let raw: Own = settings.take().unwrap();
        let shown = show(&raw, &settings, |name| name.contains("password"));
        let expected = "\
delivery = \"exactly_once\"  # default

[kafka]
partitions = 4  # environment, DOGWATCH_KAFKA__PARTITIONS
topic_prefix = \"dogwatch\"  # default

[kafka.options]
\"sasl.password\" = \"********\"  # environment, DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD
\"sasl.username\" = \"dog\"  # environment, DOGWATCH_KAFKA__OPTIONS__SASL_USERNAME

# passed over: DOGWATCH_KAFKA_PORT (made by Kubernetes or Docker for a service)
";
        assert_eq!(shown, expected);
    }
}
