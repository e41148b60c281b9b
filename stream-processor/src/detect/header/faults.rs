//! Why a header cannot be read, at the file's line, and how it is written.

use super::{DEDUP_KEYS, KEYS, is_key};
use crate::detect::falco;
use crate::detect::sql_file::{Fault, SqlFile, nearest};

/// Turns what the TOML reader says into a fault at the file's line.
pub(super) fn of_toml(file: &SqlFile, error: &toml::de::Error) -> Fault {
    let reason = format!(
        "header: {}",
        error.message().lines().next().unwrap_or("not TOML")
    );
    let offset = error
        .span()
        .map_or(0, |span| span.start)
        .min(file.header.len());
    let line = file.header.as_bytes()[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1;
    if error.message().starts_with("missing field") && goes_on(file) {
        let ends = file.query_line;
        let reason = format!("{reason}: the header ends here, where a line does not begin with --");
        let mend = "keep the header's lines together: no blank line and no /* */ between them";
        return Fault::new(ends, reason, mend);
    }
    if let Some(variant) = error.message().strip_prefix("unknown variant `") {
        let mut words = variant.split('`').step_by(2);
        let variant = words.next().unwrap_or_default();
        let near = || Some(format!("did you mean {:?}?", nearest(variant, words)?));
        let mend = falco::priority(variant).or_else(near);
        let mend = mend.unwrap_or_else(|| "write one of these words".to_owned());
        return Fault::new(line, reason, mend);
    }
    if let Some((reason, mend)) = no_toml(file, line, error.message()) {
        return Fault::new(line, reason, mend);
    }
    let Some(unknown) = error
        .message()
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split('`').next())
    else {
        return Fault::new(line, reason, toml_mend(error.message()));
    };
    // Keys of the table dedup are no keys of the header, nor the other way round: the reader says which it knows here.
    let in_dedup = error.message().contains("one of `key`");
    let (place, keys) = match in_dedup {
        true => (" in dedup", &DEDUP_KEYS[..]),
        false => ("", &KEYS[..]),
    };
    let of_dedup = !in_dedup && DEDUP_KEYS.contains(&unknown);
    let mend = match nearest(unknown, keys.iter().copied()) {
        _ if of_dedup => format!("write it into dedup, such as dedup = {{ {unknown} = .. }}"),
        Some(known) => format!("did you mean {known}?"),
        None => format!("use {}", keys.join(", ")),
    };
    Fault::new(line, format!("header: unknown key {unknown}{place}"), mend)
}

/// Keys that have a list of texts.
const LISTS: [&str; 6] = [
    "attack",
    "false_positives",
    "blind_spots",
    "references",
    "reads",
    "allow",
];

/// Why a line of the header is no TOML, and how it is written; none where that cannot be told.
fn no_toml(file: &SqlFile, line: usize, message: &str) -> Option<(String, String)> {
    // What is of the wrong kind, or stands twice, is TOML.
    let is_toml = [
        "invalid type",
        "invalid value",
        "duplicate",
        "missing",
        "unknown",
        "wanted",
    ];
    if is_toml.iter().any(|start| message.starts_with(start)) {
        return None;
    }
    let text = file.header.lines().nth(line - 1)?.trim();
    let is_key = |key: &str| {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        !key.is_empty() && key.chars().all(letter)
    };
    let pair = |sign: char| {
        let (key, value) = text.split_once(sign)?;
        is_key(key.trim_end()).then(|| (key.trim_end(), value.trim()))
    };
    if let Some((key, value)) = pair('=') {
        return value_of_no_toml(key, value);
    }
    if let Some((key, value)) = pair(':') {
        let reason = format!("header: {key}: is YAML, and the header is TOML");
        return Some((reason, format!("write {}", written(key, value))));
    }
    if !text.is_empty() && text.chars().all(|sign| "-=*#".contains(sign)) {
        return Some((
            format!("header: {text} is no key"),
            "leave the line out".to_owned(),
        ));
    }
    let (key, value) = text.split_once(' ').unwrap_or((text, ""));
    if KEYS.contains(&key) {
        let reason = format!("header: {key} has no = behind it");
        return Some((reason, format!("write {}", written(key, value))));
    }
    let reason = format!("header: {text:?} is no key with a value");
    let mend = "put # before a remark, and into description = \"..\" what the detection is for";
    Some((reason, mend.to_owned()))
}

/// Why a value is no TOML.
fn value_of_no_toml(key: &str, value: &str) -> Option<(String, String)> {
    let quotes = value.starts_with(['"', '\'']);
    let closed = quotes && value.len() > 1 && value.ends_with(['"', '\'']);
    let bare = value.trim_start_matches('>').trim();
    Some(if closed {
        let reason = format!("header: {key} goes on behind the quote that closes its text");
        let mend = r#"write a quote inside of a text as \", or the text in ' '"#;
        (reason, mend.to_owned())
    } else if quotes {
        let reason = format!("header: the text of {key} has no quote behind it");
        (reason, format!("write {}", written(key, value)))
    } else if value.starts_with('{') {
        let reason = format!("header: {key} has a value that is no TOML");
        let mend = "write texts in double quotes, such as { key = [\"column\"], period = \"1h\" }";
        (reason, mend.to_owned())
    } else if bare.is_empty() {
        let reason = format!("header: {key} has no value");
        (reason, format!("write {}", written(key, "..")))
    } else {
        let reason = format!("header: {bare} is a text without double quotes");
        (reason, format!("write {}", written(key, bare)))
    })
}

/// A key with its value as TOML, whatever quotes it had.
fn written(key: &str, value: &str) -> String {
    let quotes = ['"', '\'', '\u{201c}', '\u{201d}', '\u{201e}', '[', ']'];
    let bare = value.trim_matches(quotes).replace('"', "\\\"");
    if LISTS.contains(&key) {
        let items = bare
            .split(',')
            .map(|item| format!("\"{}\"", item.trim().trim_matches(quotes)));
        return format!("{key} = [{}]", items.collect::<Vec<_>>().join(", "));
    }
    match key {
        "risk" => {
            let digits = bare.trim_matches(|letter: char| !letter.is_ascii_digit());
            format!("risk = {}", if digits.is_empty() { "50" } else { digits })
        }
        key => format!("{key} = \"{bare}\""),
    }
}

/// What to do about a header that is no TOML, or gives a value of the wrong kind.
fn toml_mend(message: &str) -> String {
    if message.starts_with("duplicate") {
        return "take one of them out: a key stands once".to_owned();
    }
    if message.contains("expected a duration") {
        return "write a time span such as \"30s\" or \"1h\" in double quotes".to_owned();
    }
    if message.starts_with("invalid value: integer") {
        return "give a whole number of 1 or more".to_owned();
    }
    if message.starts_with("wanted string") {
        return "write a word in double quotes".to_owned();
    }
    if message.starts_with("invalid type") {
        return "write texts in double quotes, numbers without, and lists as [\"a\", \"b\"]"
            .to_owned();
    }
    format!(
        "leading -- lines are TOML, such as title = \"..\", with the keys {}",
        KEYS.join(", ")
    )
}

/// Whether a key of the header stands after its end.
fn goes_on(file: &SqlFile) -> bool {
    let rest = file.sql.lines().skip(file.query_line - 1);
    let mut rest = rest.filter_map(|line| line.strip_prefix("--"));
    rest.any(|line| {
        let mut keys = KEYS.iter().chain(&DEDUP_KEYS);
        keys.any(|key| is_key(line, key))
    })
}
