//! Our own programs, as they were just built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;

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

/// Starts a processor that reads `detections`, reports to `log` and says nothing to Prometheus.
/// With an `instance` a restart continues at once.
///
/// # Panics
/// When it cannot be started.
pub fn processor(address: &str, detections: &Path, instance: Option<&str>, log: &Path) -> Process {
    let mut command = command("dogwatch-processor");
    command.args(["run", "--kafka", address, "--detections"]);
    command.arg(detections).env("DOGWATCH_METRICS__LISTEN", "");
    if let Some(instance) = instance {
        command.env("DOGWATCH_KAFKA__INSTANCE", instance);
    }
    Process::start("dogwatch-processor", &mut command, log)
}

/// Starts a sensor with further settings (`KAFKA__QUEUE_BYTES`, without the prefix) and its state in `folder`.
///
/// # Panics
/// When it cannot be started.
pub fn sensor(address: &str, settings: &[(&str, &str)], folder: &Path) -> Process {
    let mut command = command("dogwatch-sensor");
    command.args(["run", "--kafka", address]);
    command.env("DOGWATCH_METRICS__LISTEN", "");
    command.env("DOGWATCH_STATE_FILE", folder.join("sensor.json"));
    for (name, value) in settings {
        command.env(format!("DOGWATCH_{name}"), value);
    }
    Process::start("dogwatch-sensor", &mut command, &folder.join("sensor.log"))
}
