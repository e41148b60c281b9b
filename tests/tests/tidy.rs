//! The rules of the house that a program can check.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dogwatch_tests::cache::repository;

/// Which of our crates each may see. `tests` may see all, `benches` those and the brokers of `tests`; nobody else sees them.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("settings", &[]),
    ("kafka", &["schemas"]),
    ("query", &["schemas", "kafka"]),
    ("ebpf", &[]),
    ("sensor", &["schemas", "settings", "kafka", "ebpf"]),
    (
        "stream-processor",
        &["schemas", "settings", "kafka", "query"],
    ),
    (
        "console",
        &[
            "schemas",
            "settings",
            "kafka",
            "query",
            "sensor",
            "stream-processor",
        ],
    ),
    (
        "tests",
        &[
            "schemas",
            "settings",
            "kafka",
            "query",
            "ebpf",
            "sensor",
            "stream-processor",
            "console",
        ],
    ),
    (
        "benches",
        &[
            "schemas",
            "settings",
            "kafka",
            "query",
            "ebpf",
            "sensor",
            "stream-processor",
            "console",
            "tests",
        ],
    ),
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "common", "core", "utils", "util", "helpers", "types", "manager", "misc",
];

#[test]
fn dependencies_point_one_way() {
    for (krate, allowed) in MAY_SEE {
        let manifest = repository().join(krate).join("Cargo.toml");
        let manifest: toml::Table = read(&manifest).parse().unwrap();
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(seen) = manifest.get(section).and_then(|section| section.as_table()) else {
                continue;
            };
            for other in seen
                .keys()
                .filter_map(|name| name.strip_prefix("dogwatch-"))
            {
                assert!(
                    allowed.contains(&other),
                    "{krate} may not see {other} ([{section}])"
                );
            }
        }
    }
}

#[test]
fn the_table_of_crates_is_whole() {
    let manifest: toml::Table = read(&repository().join("Cargo.toml")).parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<_> = members
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    assert_eq!(members, MAY_SEE.iter().map(|(krate, _)| *krate).collect());
}

/// Crates whose `lib.rs` lists its modules in one order: each uses those above it, none those below it.
const IN_ORDER: &[&str] = &["settings", "kafka", "query", "stream-processor"];

#[test]
fn modules_stand_in_one_order_without_a_circle() {
    for krate in IN_ORDER {
        let source = repository().join(krate).join("src");
        let order = modules(&read(&source.join("lib.rs")));
        let place = |name: &str| order.iter().position(|module| module == name);
        let mut wrong = Vec::new();
        for file in files(&source, "rs") {
            let own = file.strip_prefix(&source).unwrap().iter().next().unwrap();
            let own = own.to_str().unwrap().trim_end_matches(".rs");
            let Some(own_place) = place(own) else {
                continue;
            };
            for used in used_modules(&product_code(&file)) {
                if place(&used).is_some_and(|used| used > own_place) {
                    wrong.push(format!("{} uses {used}", file.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "against the order of lib.rs: {wrong:#?}");
    }
}

/// The modules that a `lib.rs` declares, in its order.
fn modules(lib: &str) -> Vec<String> {
    let declared = lib.lines().filter_map(|line| {
        let (_, name) = line.strip_suffix(';')?.split_once("mod ")?;
        Some(name.to_owned())
    });
    declared.collect()
}

/// A file without its tests; nothing of a file that is all tests.
fn product_code(file: &Path) -> String {
    let name = file.file_stem().unwrap().to_str().unwrap();
    if TEST_FILES.contains(&name) {
        return String::new();
    }
    let text = read(file);
    let tests = text.find("\n#[cfg(test)]\nmod tests {");
    text[..tests.unwrap_or(text.len())].to_owned()
}

/// Names of files that hold tests only.
const TEST_FILES: &[&str] = &["tests", "laws", "property"];

/// The modules of its own crate that a text names, outside of comments.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let named = code.flat_map(|line| line.split("crate::").skip(1));
    let name = |rest: &str| {
        let word = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        word.into_iter().next().unwrap_or_default().to_owned()
    };
    named.map(name).collect()
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = rust_files()
        .into_iter()
        .filter(|file| !read(file).starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these do not open with //!: {silent:#?}");
}

#[test]
fn module_names_say_what_is_inside() {
    for file in rust_files() {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(
            !EMPTY_NAMES.contains(&name) && name != "mod",
            "{} needs a better name",
            file.display()
        );
    }
}

#[test]
fn only_programs_use_anyhow() {
    for file in rust_files() {
        let is_program =
            file.ends_with("main.rs") || file.starts_with(repository().join("benches"));
        let names_it = read(&file)
            .lines()
            .any(|line| line.trim_start().starts_with("use anyhow") || line.contains("anyhow::"));
        assert!(
            is_program || file.ends_with("tidy.rs") || !names_it,
            "{} uses anyhow",
            file.display()
        );
    }
}

/// A field `?value` is Rust's debug text, which no reader of JSON can use.
#[test]
fn log_fields_are_values() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for call in product_code(&file).split("tracing::").skip(1) {
            let fields = call.split(");").next().unwrap();
            let is_log = ["error!(", "warn!(", "info!(", "debug!(", "trace!("]
                .iter()
                .any(|name| fields.starts_with(name));
            let debug = ["= ?", "(?", " ?"].iter().any(|sign| {
                let outside: String = fields.split('"').step_by(2).collect();
                outside.contains(sign)
            });
            if is_log && debug {
                wrong.push(format!("{}: {fields}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The shipped detections; views have no examples of their own.
fn detections() -> Vec<PathBuf> {
    let folder = repository().join("detections");
    let mut detections = files(&folder, "sql");
    detections.retain(|file| !file.starts_with(folder.join("views")));
    detections
}

#[test]
fn a_detection_is_three_files() {
    let detections = detections();
    assert!(detections.len() >= 9, "{detections:?}");
    for sql in detections {
        let name = sql.file_stem().unwrap().to_str().unwrap();
        let snake = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(snake, "{name} is not in snake case");
        for extension in ["events.jsonl", "alerts.jsonl"] {
            let file = sql.with_extension(extension);
            assert!(
                file.exists() && !read(&file).trim().is_empty(),
                "{} is missing or empty",
                file.display()
            );
        }
        assert!(
            !read(&sql).contains("SELECT *"),
            "{name} must name its columns"
        );
    }
}

/// Rules in Falco's default set, each of which has a row in docs/coverage.md.
const FALCO_RULES: usize = 93;

#[test]
fn the_tables_of_detections_name_those_that_are_shipped() {
    let shipped: BTreeSet<String> = detections()
        .iter()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();

    let coverage = read(&repository().join("docs/coverage.md"));
    let rules: Vec<_> = rows(&coverage)
        .into_iter()
        .filter(|row| row.len() == 4)
        .collect();
    assert_eq!(rules.len(), FALCO_RULES);
    for row in &rules {
        let named = row[2].split(", ").filter(|name| *name != "–");
        for name in named {
            let known = shipped.contains(name.trim_matches('`'));
            assert!(known, "docs/coverage.md: {}: no detection {name}", row[0]);
        }
        assert!(!row[3].is_empty(), "docs/coverage.md: {}", row[0]);
        let reason = row[3].starts_with("not wanted") || row[3].starts_with("missing fact");
        assert_eq!(row[2] == "–", reason, "docs/coverage.md: {}", row[0]);
    }

    let content = read(&repository().join("docs/content.md"));
    let rows = rows(&content);
    let told: BTreeSet<Vec<&str>> = rows.iter().map(|row| row[..4].to_vec()).collect();
    for sql in detections() {
        let header = header(&sql);
        let name = format!("`{}`", sql.file_stem().unwrap().to_str().unwrap());
        let key = |key: &str| header[key].as_str().unwrap();
        let row = vec![name.as_str(), key("title"), key("severity"), key("status")];
        assert!(told.contains(&row), "docs/content.md lacks {row:?}");
    }
    assert_eq!(told.len(), shipped.len(), "docs/content.md has more rows");
}

/// The rows of a document's tables, cell by cell, without those that name the columns.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut below_head = false;
    for line in text.lines() {
        if line.starts_with("| --- ") {
            below_head = true;
        } else if !line.starts_with('|') {
            below_head = false;
        } else if below_head {
            rows.push(line.trim_matches('|').split('|').map(str::trim).collect());
        }
    }
    rows
}

/// The header of a detection.
fn header(sql: &Path) -> toml::Table {
    let text = read(sql);
    let lines = text.lines().map_while(|line| line.strip_prefix("-- "));
    lines.collect::<Vec<_>>().join("\n").parse().unwrap()
}

#[test]
fn markdown_has_one_sentence_a_line() {
    let mut found = Vec::new();
    for file in files(&repository(), "md") {
        let mut in_code = false;
        for (number, line) in read(&file).lines().enumerate() {
            in_code ^= line.starts_with("```");
            if !in_code && !line.starts_with('|') && has_two_sentences(line) {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A full stop, a blank and a capital letter, outside of code in backticks.
fn has_two_sentences(line: &str) -> bool {
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
    let letters: Vec<char> = prose.chars().collect();
    letters.windows(4).any(|next| {
        next[0].is_lowercase() && next[1] == '.' && next[2] == ' ' && next[3].is_uppercase()
    })
}

#[test]
fn tests_and_compose_file_run_the_same_kafka() {
    let compose = read(&repository().join("docker-compose.yml"));
    let version = compose
        .split("apache/kafka:")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let pom = read(&repository().join("tests/kafka/pom.xml"));
    assert_eq!(
        pom.matches(&format!("<version>{version}</version>"))
            .count(),
        2,
        "docker-compose.yml runs {version}"
    );
}

fn rust_files() -> Vec<PathBuf> {
    files(&repository(), "rs")
}

/// Every file with that extension, build results and hidden folders left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if name
            .rsplit_once('.')
            .is_some_and(|(_, last)| last == extension)
        {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}
