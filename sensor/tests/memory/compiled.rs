//! The programs of tests that are compiled where they run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles one of those beside this file into a folder.
pub fn compiled(name: &str, folder: &Path) -> PathBuf {
    let program = folder.join(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory");
    let source = sources.join(format!("{name}.c"));
    let made = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .args([&program, &source])
        .status();
    assert!(made.unwrap().success());
    program
}
