//! What README and `docs/` tell a reader to type does what they say.
//!
//! Each command and each SQL block bears a mark in the line before it: `<!-- run -->`, or `<!-- not run: REASON -->`.
//! `cargo test --release --workspace --test documents -- --nocapture` prints both lists.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dogwatch_tests::cache::repository;
use dogwatch_tests::programs;

/// Languages that a reader runs.
const RUNNABLE: [&str; 5] = ["sh", "bash", "console", "shell", "sql"];

/// A fenced block of a document.
struct Block {
    place: String,
    language: String,
    text: String,
    mark: Mark,
}

enum Mark {
    Run,
    NotRun(String),
    Missing,
}

/// The blocks of a document that a reader runs.
fn blocks(file: &Path) -> Vec<Block> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let name = file.strip_prefix(repository()).unwrap().display();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(language) = lines[at].trim_start().strip_prefix("```") else {
            at += 1;
            continue;
        };
        let content = &lines[at + 1..];
        let length = content
            .iter()
            .position(|line| line.trim_start().starts_with("```"));
        let length = length.unwrap_or_else(|| panic!("{name}:{}: a block without an end", at + 1));
        if RUNNABLE.contains(&language) {
            blocks.push(Block {
                place: format!("{name}:{}", at + 1),
                language: language.to_owned(),
                text: content[..length].join("\n") + "\n",
                mark: mark(at.checked_sub(1).map_or("", |before| lines[before])),
            });
        }
        at += length + 2;
    }
    blocks
}

fn mark(line: &str) -> Mark {
    let inner = line.trim().strip_prefix("<!-- ");
    match inner.and_then(|inner| inner.strip_suffix(" -->")) {
        Some("run") => Mark::Run,
        Some(other) => match other.strip_prefix("not run: ") {
            Some(reason) => Mark::NotRun(reason.to_owned()),
            None => Mark::Missing,
        },
        None => Mark::Missing,
    }
}

fn documents() -> Vec<PathBuf> {
    let mut files = vec![repository().join("README.md")];
    let docs = fs::read_dir(repository().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    files.extend(docs.filter(|file| file.extension().is_some_and(|end| end == "md")));
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Runs a block as a reader would, in a folder with the shipped detections, a copy of them as the reader's own, and a capture.
fn run_commands(block: &Block) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["detections", "my-detections"] {
        copy(&repository().join("detections"), &folder.path().join(name));
    }
    let capture = repository().join("console/demo.capture");
    fs::copy(capture, folder.path().join("some.capture")).unwrap();
    let programs = programs::path("dogwatch").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command
        .args(["-euc", &block.text])
        .current_dir(folder.path());
    command.env("PATH", path).env("HOST_ID", "host-1");
    command.env("PID", std::process::id().to_string());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}\n{}{}",
        block.place,
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Loads a block as a detection beside the shipped lists, without a warning.
fn load_detection(block: &Block) {
    let folder = tempfile::tempdir().unwrap();
    copy(
        &repository().join("detections/lists"),
        &folder.path().join("lists"),
    );
    let tactic = folder.path().join("execution");
    fs::create_dir(&tactic).unwrap();
    fs::write(tactic.join("example.sql"), &block.text).unwrap();
    // The example on declared reads says itself that its file is not on the sensors' list.
    let settings = folder.path().join("sensor.toml");
    fs::write(&settings, "[kernel]\nsensitive_read_paths = [\"/\"]\n").unwrap();
    let mut command = programs::command("dogwatch");
    command.args(["detections", "lint", "--strict", "--sensor-config"]);
    let output = command.arg(&settings).arg(folder.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}{}",
        block.place,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn what_documents_tell_to_type_is_run_or_says_why_not() {
    let blocks: Vec<Block> = documents().iter().flat_map(|file| blocks(file)).collect();
    let unmarked: Vec<&str> = blocks
        .iter()
        .filter(|block| matches!(block.mark, Mark::Missing))
        .map(|block| block.place.as_str())
        .collect();
    assert!(
        unmarked.is_empty(),
        "write <!-- run --> or <!-- not run: REASON --> before {unmarked:?}"
    );
    println!("run:");
    for block in blocks
        .iter()
        .filter(|block| matches!(block.mark, Mark::Run))
    {
        match block.language.as_str() {
            "sql" => load_detection(block),
            _ => run_commands(block),
        }
        println!("  {} ({})", block.place, block.language);
    }
    println!("not run:");
    for block in &blocks {
        if let Mark::NotRun(reason) = &block.mark {
            println!("  {} ({}): {reason}", block.place, block.language);
        }
    }
}

#[test]
fn the_script_helps_and_names_what_it_does_not_know() {
    let run = |words: &[&str]| {
        let script = repository().join("dogwatch.sh");
        Command::new(script).args(words).output().unwrap()
    };
    for word in ["help", "--help", "-h"] {
        let output = run(&[word]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{word}");
        for command in ["demo", "test", "faults", "bench", "install"] {
            assert!(text.contains(&format!("./dogwatch.sh {command}")), "{text}");
        }
    }
    for (words, said) in [
        (&["dmeo"][..], "dmeo is no command or option"),
        (&["demo", "--yess"], "--yess is no command or option"),
        (&[], "say what to do"),
    ] {
        let output = run(words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text.starts_with(&format!("dogwatch.sh: {said}")), "{text}");
        assert!(text.contains("./dogwatch.sh demo"), "{text}");
    }
}

#[test]
fn a_block_without_a_mark_is_found() {
    assert!(matches!(mark("Some text."), Mark::Missing));
    assert!(matches!(mark("<!-- run -->"), Mark::Run));
    assert!(
        matches!(mark("<!-- not run: needs root -->"), Mark::NotRun(why) if why == "needs root")
    );
    assert!(matches!(mark("<!-- not run: -->"), Mark::Missing));
}
