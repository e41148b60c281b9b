//! The settings that exist: those of the programs' commented files.

use std::sync::OnceLock;

use toml::{Table, Value};

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `dogwatch-sensor`.
    Sensor,
    /// `dogwatch-processor`.
    Processor,
    /// A program that takes a file of either, for what both have.
    Either,
}

/// Tables whose keys are the user's own.
const OPEN_TABLES: [&str; 2] = ["host_tags", "kafka.options"];

/// A program's name, its commented file, and what that holds.
struct File {
    program: &'static str,
    name: &'static str,
    text: &'static str,
    table: OnceLock<Table>,
}

static FILES: [File; 2] = [
    File {
        program: "dogwatch-sensor",
        name: "sensor.toml",
        text: include_str!("../../sensor/sensor.toml"),
        table: OnceLock::new(),
    },
    File {
        program: "dogwatch-processor",
        name: "processor.toml",
        text: include_str!("../../stream-processor/processor.toml"),
        table: OnceLock::new(),
    },
];

impl File {
    fn table(&self) -> &Table {
        let parse = || {
            let parsed = self.text.parse();
            parsed.expect("a test parses the commented file of this build")
        };
        self.table.get_or_init(parse)
    }
}

impl Program {
    fn files(self) -> &'static [File] {
        match self {
            Self::Sensor => &FILES[..1],
            Self::Processor => &FILES[1..],
            Self::Either => &FILES,
        }
    }

    /// Returns the files that list this program's settings, in words.
    pub fn listed_in(self) -> String {
        let names: Vec<&str> = self.files().iter().map(|file| file.name).collect();
        names.join(" and ")
    }

    /// Returns the commented files of this program, which state every default.
    pub fn defaults(self) -> impl Iterator<Item = &'static str> {
        self.files().iter().map(|file| file.text)
    }

    /// Says whether a key (levels joined by dots) is a setting of this program.
    pub fn has(self, key: &str) -> bool {
        let found = |file: &File| is_setting(file.table(), key);
        self.files().iter().any(found)
    }

    /// Says whether a key is a section of this program's settings.
    pub fn has_section(self, key: &str) -> bool {
        let is_table = |file: &File| at(file.table(), key).is_some_and(Value::is_table);
        self.files().iter().any(is_table)
    }

    /// Returns this program's settings, levels joined by dots.
    pub fn settings(self) -> Vec<String> {
        let mut found = Vec::new();
        for file in self.files() {
            collect(file.table(), "", &mut found);
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Returns the program, other than `program`, that has a setting.
pub fn other_with(program: Program, key: &str) -> Option<&'static str> {
    if program.has(key) {
        return None;
    }
    let has = |file: &&File| is_setting(file.table(), key);
    let file = Program::Either.files().iter().find(has)?;
    Some(file.program)
}

/// Returns the program, other than `program`, that has a section.
pub fn other_with_section(program: Program, key: &str) -> Option<&'static str> {
    let has = |file: &&File| at(file.table(), key).is_some_and(Value::is_table);
    let file = Program::Either.files().iter().find(has)?;
    (!program.has_section(key)).then_some(file.program)
}

/// The section of the user's own names that a key lies in, and the name there.
pub fn in_open_table(key: &str) -> Option<(&'static str, &str)> {
    OPEN_TABLES.into_iter().find_map(|table| {
        let name = key.strip_prefix(table)?.strip_prefix('.')?;
        Some((table, name))
    })
}

/// Sections of the user's own names.
pub fn open_tables() -> [&'static str; 2] {
    OPEN_TABLES
}

/// Returns the word most like one that is none of those known, if one is like it.
pub fn nearest_word<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn is_setting(table: &Table, key: &str) -> bool {
    match in_open_table(key) {
        Some((open, _)) => at(table, open).is_some(),
        None => at(table, key).is_some_and(|value| !value.is_table()),
    }
}

fn at<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let value = table.get(first)?;
    match rest {
        Some(rest) => at(value.as_table()?, rest),
        None => Some(value),
    }
}

fn collect(table: &Table, above: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{above}{name}");
        match value.as_table() {
            Some(below) => collect(below, &format!("{key}."), found),
            None => found.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_files_list_the_settings() {
        assert!(Program::Sensor.has("kernel.ring_bytes"));
        assert!(Program::Sensor.has("host_tags.site"));
        assert!(Program::Sensor.has("kafka.options.security.protocol"));
        assert!(!Program::Sensor.has("kafka"));
        assert!(Program::Sensor.has_section("kafka"));
        assert!(!Program::Sensor.has("kafka.group_id"));
        assert!(Program::Processor.has("kafka.instance"));
        assert!(!Program::Processor.has("host_tags.site"));
        assert!(Program::Either.has("kafka.group_id") && Program::Either.has("host_id"));
        let other = other_with(Program::Sensor, "kafka.group_id");
        assert_eq!(other, Some("dogwatch-processor"));
        assert_eq!(other_with(Program::Sensor, "host_id"), None);
        assert!(Program::Processor.settings().len() > 20);
    }
}
