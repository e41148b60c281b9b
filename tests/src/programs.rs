//! Our own programs, as they were just built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::repository;
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
    // Tests lie in target/<profile>/deps, benchmarks in target/<profile> like our programs.
    let own = env::current_exe().expect("a program knows its own path");
    let path = own
        .ancestors()
        .skip(1)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    path.unwrap_or_else(|| panic!("{name} is missing: run cargo build --release --workspace"))
}

/// Starts a processor that reads `detections`, reports to `log` and says nothing to Prometheus.
/// With an `instance` a restart continues at once.
///
/// # Panics
/// When it cannot be started.
pub fn processor(address: &str, detections: &Path, instance: Option<&str>, log: &Path) -> Process {
    let settings = instance.map(|instance| ("KAFKA__INSTANCE", instance));
    processor_with(address, detections, settings.as_slice(), log)
}

/// Starts a processor with further settings (`CHECKPOINT__INTERVAL`, without the prefix).
///
/// # Panics
/// When it cannot be started.
pub fn processor_with(
    address: &str,
    detections: &Path,
    settings: &[(&str, &str)],
    log: &Path,
) -> Process {
    let mut command = command("dogwatch-processor");
    command.args(["run", "--kafka", address, "--detections"]);
    command.arg(detections).env("DOGWATCH_METRICS__LISTEN", "");
    for (name, value) in settings {
        command.env(format!("DOGWATCH_{name}"), value);
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

/// `dogwatch local` with the shipped detections, which writes its alerts into a file; it watches when this returns.
///
/// # Panics
/// When it cannot be started, or does not watch within `patience`.
pub fn local(alerts: &Path, log: &Path, patience: Duration) -> Process {
    let mut command = command("dogwatch");
    command
        .args(["local", "--detections"])
        .arg(repository().join("detections"))
        .arg("--alerts")
        .arg(alerts)
        .env("DOGWATCH_STATE_FILE", "");
    let mut local = Process::start("dogwatch", &mut command, log);
    local.wait_for_text("watching this machine", patience);
    local
}
