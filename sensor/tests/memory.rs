//! The sensor's memory under an attack on its tables, and what it tells meanwhile.
//!
//! A container fills the process table with sleepers of 32 KiB arguments, 4,000 of them, or as many as
//! `DOGWATCH_SLEEPERS` says (40,000 take 4 GiB and some minutes); ten thousand processes open files again and again. Needs root, a kernel with type information and `cc`, and
//! fails without.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[path = "memory/compiled.rs"]
mod compiled;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use dogwatch_sensor::probe::Hierarchy;
use serde_json::Value;

use crate::compiled::compiled;

static RUNS: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(120);
/// The goal of the sensor's memory: its own at its highest, and the locked memory of its maps.
const BYTES_MAX: u64 = 64 << 20;

/// A cgroup that is named as a container's.
struct Container {
    id: String,
    folder: PathBuf,
}

impl Container {
    fn new(parent: &Path, digit: char) -> Self {
        let id = digit.to_string().repeat(64);
        let folder = parent.join(&id);
        fs::create_dir_all(&folder).unwrap();
        Self { id, folder }
    }

    /// A command whose process is in the container before it executes.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        let enter = format!(
            "echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"",
            self.folder.display()
        );
        command.args(["-c", &enter]).arg(program);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end && fs::remove_dir(&self.folder).is_err() {
            let members = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                // SAFETY: plain system call; only what the test put there is in this cgroup.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A sensor whose events are read, line by line.
struct Sensor {
    process: Child,
    rows: Receiver<Value>,
}

impl Sensor {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
            .args(["run", "--output", "json"])
            .env("DOGWATCH_STATE_FILE", "")
            .env("DOGWATCH_METRICS__LISTEN", "")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, rows) = channel();
        let output = process.stdout.take().unwrap();
        std::thread::spawn(move || read_rows(output, |row| sender.send(row).is_ok()));
        Self { process, rows }
    }

    /// The next row that is looked for.
    fn find(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let row = self.rows.recv_timeout(left);
            let row = row.unwrap_or_else(|_| panic!("no row came: {what}"));
            if wanted(&row) {
                return row;
            }
        }
    }

    /// What it takes from now on is its highest: a start needs the kernel's types for a moment.
    fn forget_highest(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    /// Its resident memory at its highest and its maps' locked memory, bytes.
    fn memory(&self) -> (u64, u64) {
        let folder = PathBuf::from(format!("/proc/{}", self.process.id()));
        let number = |text: &str, name: &str| -> Option<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_ascii_whitespace().next()?.parse().ok()
        };
        let status = fs::read_to_string(folder.join("status")).unwrap();
        let highest = number(&status, "VmHWM:").unwrap() << 10;
        let mut maps = std::collections::BTreeMap::new();
        for entry in fs::read_dir(folder.join("fdinfo")).unwrap().flatten() {
            let info = fs::read_to_string(entry.path()).unwrap_or_default();
            if let (Some(id), Some(bytes)) = (number(&info, "map_id:"), number(&info, "memlock:")) {
                maps.insert(id, bytes);
            }
        }
        (highest, maps.values().sum())
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        // SAFETY: plain system call on a child that was not waited for.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGTERM) };
        let _ = self.process.wait();
    }
}

/// Marks and what is about one file; the rest is too much to be parsed.
fn read_rows(output: ChildStdout, mut take: impl FnMut(Value) -> bool) {
    let mut lines = BufReader::with_capacity(1 << 20, output);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|bytes| bytes > 0)
    {
        let short = line.len() < 32 << 10;
        let text = String::from_utf8_lossy(if short { &line } else { &[] });
        if (text.contains("\"mark\"") || text.contains("/etc/shadow"))
            && !take(serde_json::from_str(&text).unwrap())
        {
            return;
        }
        line.clear();
    }
}

fn reads_shadow(container: &Container) {
    let ended = container
        .command(Path::new("/bin/cat"))
        .arg("/etc/shadow")
        .stdout(Stdio::null())
        .status();
    assert!(ended.unwrap().success());
}

/// Nanoseconds since boot.
fn since_boot() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Each test has containers of its own: whoever is done ends all that is in his.
fn parent_of_containers() -> PathBuf {
    let run = RUNS.fetch_add(1, Relaxed);
    let name = format!("dogwatch-memory-{}-{run}", std::process::id());
    Hierarchy::find().unwrap().mount.join(name)
}

fn await_done(child: &mut Child) {
    let mut done = [0; 4];
    let mut words = child.stdout.take().unwrap();
    words.read_exact(&mut done).unwrap();
    assert_eq!(&done, b"done");
}

fn attack(settings: &[(&str, &str)], sleepers: &str) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled("sleeper", folder.path());
    let parent = parent_of_containers();
    let sensor = Sensor::start(settings);
    sensor.find("a mark of the start", |row| row["evt_type"] == "mark");
    let (flooded, beside) = (Container::new(&parent, 'a'), Container::new(&parent, 'b'));

    let mut spawner = flooded
        .command(&program)
        .args(["spawn", sleepers, "32000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    await_done(&mut spawner);
    // What was in the ring of the flood's end is told, or counted, by then.
    let flooded_by = since_boot();
    sensor.find("a mark of after the flood", |row| {
        row["evt_type"] == "mark" && row["boot_ts"].as_i64() > Some(flooded_by)
    });

    for container in [&flooded, &beside] {
        reads_shadow(container);
        let of = |row: &Value| row["container_full_id"] == *container.id;
        sensor.find("the exec", |row| {
            of(row) && row["evt_type"] == "execve" && row["proc_name"] == "cat"
        });
        sensor.find("the open", |row| of(row) && row["fd_name"] == "/etc/shadow");
    }
    let mark = sensor.find("a mark with table_full", |row| {
        row["evt_losses"]["table_full"].as_i64() > Some(0)
    });
    println!("losses: {}", mark["evt_losses"]);
    let memory = sensor.memory();
    spawner.kill().unwrap();
    spawner.wait().unwrap();
    drop((flooded, beside));
    let _ = fs::remove_dir(&parent);
    memory
}

#[test]
fn a_container_full_of_sleepers_costs_no_more_than_the_goal_and_hides_nothing() {
    let sleepers = std::env::var("DOGWATCH_SLEEPERS").unwrap_or_else(|_| "4000".into());
    let (highest, locked) = attack(&[], &sleepers);
    println!(
        "{sleepers} sleepers: VmHWM {} KiB, maps {} KiB",
        highest >> 10,
        locked >> 10
    );
    assert!(highest + locked <= BYTES_MAX, "{highest} + {locked}");
}

#[test]
fn a_small_table_hides_nothing_either() {
    attack(&[("DOGWATCH_PROCESSES__CAPACITY", "256")], "500");
}

/// In eight containers, because of one a round looks at 4,096 openings: together more than it remembers, all of them new
/// each three seconds.
#[test]
fn ten_thousand_processes_that_open_files_cost_no_more_than_the_goal() {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled("opener", folder.path());
    let parent = parent_of_containers();
    let sensor = Sensor::start(&[("DOGWATCH_SAMPLES__INTERVAL", "3s")]);
    sensor.find("a mark of the start", |row| row["evt_type"] == "mark");
    sensor.forget_highest();
    let containers: Vec<_> = ('1'..='8')
        .map(|digit| Container::new(&parent, digit))
        .collect();
    let files = ["a", "b", "c", "d"].map(|name| folder.path().join(name));
    files.iter().for_each(|file| fs::write(file, "").unwrap());
    let start = |container: &Container| {
        let mut command = container.command(&program);
        command.args(["1250", "4", "0", "3"]).args(&files);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut openers: Vec<Child> = containers.iter().map(start).collect();
    openers.iter_mut().for_each(await_done);
    let all_open = since_boot();
    sensor.find("a mark of five rounds later", |row| {
        row["evt_type"] == "mark" && row["boot_ts"].as_i64() > Some(all_open + 15_000_000_000)
    });
    let (highest, locked) = sensor.memory();
    println!(
        "40,000 openings: VmHWM {} KiB, maps {} KiB",
        highest >> 10,
        locked >> 10
    );
    for opener in &mut openers {
        opener.kill().unwrap();
        opener.wait().unwrap();
    }
    drop(containers);
    let _ = fs::remove_dir(&parent);
    assert!(highest + locked <= BYTES_MAX, "{highest} + {locked}");
}
