//! Our own programs, as they were just built.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// A command that runs one of our programs: `dogwatch`, `dogwatch-sensor` or `dogwatch-processor`.
///
/// # Panics
/// When it has not been built; cargo builds no other package's programs for a test.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(path(name));
    // A developer's own settings must not reach a test.
    for (variable, _) in env::vars().filter(|(variable, _)| variable.starts_with("DOGWATCH_")) {
        command.env_remove(variable);
    }
    command
}

/// Path of one of our programs.
///
/// # Panics
/// As [`command`].
pub fn path(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests lie in target/<profile>/deps");
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{} is missing: run cargo build --release --workspace",
        path.display()
    );
    path
}
