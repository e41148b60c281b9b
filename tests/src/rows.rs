//! A sensor whose rows a test reads as they come, from its standard output.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{programs, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// What containers run to be told: it reads a sensitive file again and again, in a child.
pub const LOOP: [&str; 3] = [
    "/bin/sh",
    "-c",
    "while :; do /bin/busybox cat /etc/shadow; /bin/busybox sleep 0.2; done",
];

/// The sensor's rows as they come; it ends when dropped.
#[derive(Debug)]
pub struct Sensor {
    child: Child,
    rows: Receiver<String>,
    folder: PathBuf,
}

impl Sensor {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come to watch.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    /// Starts it with further settings (`CONTAINERS__REPEAT`, without the prefix).
    ///
    /// # Panics
    /// When it does not come to watch.
    pub fn start_with(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter();
        let mut child = programs::command("dogwatch-sensor")
            .args(["run", "--output", "json"])
            .envs(settings.map(|(name, value)| (format!("DOGWATCH_{name}"), value)))
            .env("DOGWATCH_HOST_ID", "runtimes")
            .env("DOGWATCH_STATE_FILE", folder.join("state.json"))
            .env("DOGWATCH_METRICS__LISTEN", "")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("sensor.log")).unwrap())
            .spawn()
            .unwrap();
        let (sender, rows) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        // No row is taken: the first may be the one that is asked for.
        wait::until("the sensor's start", PATIENCE, || {
            let log = fs::read_to_string(folder.join("sensor.log")).ok()?;
            log.contains("\"watching\"").then_some(())
        });
        Self {
            child,
            rows,
            folder: folder.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next row that fits.
    ///
    /// # Panics
    /// When none comes.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.rows.recv_timeout(left) else {
                let log = fs::read_to_string(self.folder.join("sensor.log")).unwrap();
                panic!("no {what}; the sensor's log:\n{log}");
            };
            let row: Value = serde_json::from_str(&line).unwrap();
            if fits(&row) {
                return row;
            }
        }
    }

    /// The row of the sensitive file in the container of this name, and the row that tells of the container.
    ///
    /// # Panics
    /// When either does not come, or they differ.
    pub fn attack(&self, name: &str) -> (Value, Value) {
        let told = self.wait_for(&format!("row of the container {name}"), |row| {
            row["evt_type"] == "container" && row["container_name"] == name
        });
        let attack = self.wait_for(&format!("attack in {name}"), |row| {
            row["evt_type"] == "openat"
                && row["fd_name"] == "/etc/shadow"
                && row["container_name"] == name
        });
        assert_eq!(attack["container_id"], told["container_id"], "{attack}");
        assert_eq!(attack["proc_stage"], "entrypoint", "{attack}");
        assert_eq!(attack["container_sandbox"], told["container_sandbox"]);
        (attack, told)
    }

    /// An attack in this container from now on.
    ///
    /// # Panics
    /// When it takes long.
    pub fn next_attack(&self, name: &str) -> Value {
        while self.rows.try_recv().is_ok() {}
        let start = Instant::now();
        let attack = self.wait_for(&format!("attack in {name}"), |row| {
            row["evt_type"] == "openat"
                && row["fd_name"] == "/etc/shadow"
                && row["container_name"] == name
        });
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        attack
    }

    /// Memory it has had at most, MiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn memory_max(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() >> 10
    }

    /// CPU time so far.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        // SAFETY: a signal to the child, which was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}
