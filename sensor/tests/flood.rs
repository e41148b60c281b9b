//! One container floods, another one executes programs: all of those arrive, and what the flooder tried is all accounted for.
//!
//! The sensor runs as a program, on the real kernel; containers are cgroups with a container's name, their inhabitants this
//! very test program again (the test `inhabitant` does what the environment tells it). Needs root and a kernel with type
//! information. `DOGWATCH_FLOOD_SECONDS` and `DOGWATCH_FLOOD_EXECS` make it longer; 3 and 200 otherwise.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use dogwatch_sensor::probe::Hierarchy;
use serde::Deserialize;

const DEEDS: [&str; 6] = ["missing", "shadow", "connect", "setuid", "exec", "unlink"];
const MARKER: &str = "dogwatch-flood-victim";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// The columns that are looked at.
#[derive(Deserialize)]
struct Row {
    #[serde(with = "dogwatch_schemas::time")]
    ts: i64,
    evt_type: String,
    evt_count: Option<u64>,
    evt_losses: Option<BTreeMap<String, u64>>,
    evt_args: Option<BTreeMap<String, String>>,
    container_id: String,
    proc_args: Option<Vec<String>>,
}

/// What the sensor told of a run.
#[derive(Debug, Default)]
struct Told {
    /// Events of the flooder by type.
    events: BTreeMap<String, u64>,
    /// What rows of the flooder stand for beyond themselves: repeats and refusals, by kind.
    counted: BTreeMap<String, u64>,
    /// Programs the victim executed.
    victims: std::collections::BTreeSet<String>,
    losses: BTreeMap<String, u64>,
}

impl Told {
    fn add(&mut self, row: Row, flooder: &str) {
        if let Some(losses) = row.evt_losses {
            self.losses = losses;
        }
        if row.evt_type == "execve"
            && let Some([marker, number]) = row.proc_args.as_deref()
            && marker == MARKER
        {
            self.victims.insert(number.clone());
        }
        if row.container_id != flooder[..12] {
            return;
        }
        match row.evt_count {
            Some(count) if row.evt_type == "rate_limited" => {
                let kind = row.evt_args.unwrap()["kind"].clone();
                *self.counted.entry(kind).or_default() += count;
            }
            Some(count) => *self.counted.entry("openat".into()).or_default() += count,
            None => *self.events.entry(row.evt_type).or_default() += 1,
        }
    }

    /// Events of a kind that were published or counted.
    fn accounted(&self, kind: &str, types: &[&str]) -> u64 {
        let events: u64 = types.iter().filter_map(|of| self.events.get(*of)).sum();
        events + self.counted.get(kind).copied().unwrap_or_default()
    }

    /// Missing rows of all containers, of whatever kind, that are in no row of a container.
    fn lost_elsewhere(&self) -> u64 {
        // In rows of their container, and rows that are there and say less.
        let elsewhere = ["rate_limited", "table_full", "metadata_queue"];
        let others = self
            .losses
            .iter()
            .filter(|(class, _)| !elsewhere.contains(&class.as_str()));
        others.map(|(_, count)| count).sum()
    }
}

/// A cgroup that looks like a container's; removed when dropped.
struct Container {
    id: String,
    folder: PathBuf,
}

impl Container {
    fn new(hierarchy: &Hierarchy, digit: char) -> Self {
        let id = format!("{digit}{:0>63}", std::process::id());
        let folder = hierarchy.mount.join(&id);
        fs::create_dir_all(&folder).unwrap();
        Self { id, folder }
    }

    /// Runs this program in it; its standard output is what the deed says.
    fn run(&self, deed: &str, amount: u64) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inhabitant", "--nocapture", "--test-threads=1"])
            .env("DOGWATCH_FLOOD_DEED", deed)
            .env("DOGWATCH_FLOOD_AMOUNT", amount.to_string())
            .env("DOGWATCH_FLOOD_CGROUP", &self.folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its processes may still be ending.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How often a deed was done, as the inhabitant said it.
fn done(child: Child) -> u64 {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find_map(|line| line.split("did ").nth(1)?.trim().parse().ok())
        .unwrap_or_else(|| panic!("the inhabitant said: {text}"))
}

#[test]
fn a_flood_hides_nothing_of_other_containers() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 || !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return eprintln!("not run: not root, or the kernel has no type information");
    }
    for deed in DEEDS {
        flood(deed);
    }
}

fn flood(deed: &str) {
    let (seconds, execs) = (
        setting("DOGWATCH_FLOOD_SECONDS", 3),
        setting("DOGWATCH_FLOOD_EXECS", 200),
    );
    let hierarchy = Hierarchy::find().unwrap();
    let (flooder, victim) = (
        Container::new(&hierarchy, 'f'),
        Container::new(&hierarchy, 'e'),
    );
    let (mut sensor, told_up_to, reader) = start(&flooder.id);
    let flooding = flooder.run(deed, seconds);
    let suffering = victim.run("live", execs);
    let (tried, lived) = (done(flooding), done(suffering));
    until_told(&told_up_to);
    // SAFETY: a signal to our own child.
    unsafe { libc::kill(sensor.id() as i32, libc::SIGTERM) };
    assert!(sensor.wait().unwrap().success());
    let told = reader.join().unwrap();
    println!(
        "{deed}: tried {tried}, published {:?}, counted {:?}, lost {:?}, execs of the other {} of {lived}",
        told.events,
        told.counted,
        told.losses,
        told.victims.len()
    );
    assert_eq!(told.victims.len() as u64, lived, "{deed}: {told:?}");
    let kinds: &[(&str, &[&str])] = match deed {
        "missing" | "shadow" => &[("openat", &["openat"])],
        "connect" => &[("connect", &["connect"])],
        "exec" => &[
            ("fork", &["clone"]),
            ("exec", &["execve"]),
            ("exit", &["procexit"]),
        ],
        "setuid" => &[("setuid", &["setuid"])],
        "unlink" => &[("unlinkat", &["unlinkat"])],
        other => panic!("no such deed: {other}"),
    };
    for (kind, types) in kinds {
        let accounted = told.accounted(kind, types);
        println!("{deed}: {kind} {accounted} accounted for of {tried}");
        // The inhabitant's own few opens and execs come on top.
        assert!(
            accounted + told.lost_elsewhere() >= tried && accounted <= tried + 2_000,
            "{deed}: {tried} tried, {accounted} of {kind} accounted for: {told:?}"
        );
    }
}

/// Starts a sensor and waits until it watches; the thread reads what it tells.
fn start(flooder: &str) -> (Child, Arc<AtomicI64>, thread::JoinHandle<Told>) {
    let mut sensor = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
        .args(["run", "--output", "json"])
        .env("DOGWATCH_STATE_FILE", "")
        .env("DOGWATCH_METRICS__LISTEN", "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::with_capacity(1 << 20, sensor.stdout.take().unwrap()).lines();
    let first = lines
        .by_ref()
        .find(|line| line.as_ref().unwrap().contains("\"mark\""));
    assert!(first.is_some(), "the sensor ended at its start");
    let flooder = flooder.to_owned();
    let told_up_to = Arc::new(AtomicI64::new(0));
    let up_to = told_up_to.clone();
    let reader = thread::spawn(move || {
        let mut told = Told::default();
        for line in lines {
            let row: Row = serde_json::from_str(&line.unwrap()).unwrap();
            if row.evt_type == "mark" {
                up_to.store(row.ts, Ordering::Relaxed);
            }
            told.add(row, &flooder);
        }
        told
    });
    (sensor, told_up_to, reader)
}

/// Waits until a mark says that everything up to now has been told; a slow machine takes its time for that.
fn until_told(told_up_to: &AtomicI64) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    // What a container did before may still be counted when the next look is taken.
    let wanted_ns = (now + Duration::from_secs(2)).as_nanos() as i64;
    while told_up_to.load(Ordering::Relaxed) < wanted_ns {
        assert!(Instant::now() < deadline, "the sensor does not catch up");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Not a test: what runs in the containers.
#[test]
fn inhabitant() {
    let Ok(deed) = std::env::var("DOGWATCH_FLOOD_DEED") else {
        return;
    };
    let cgroup = PathBuf::from(std::env::var_os("DOGWATCH_FLOOD_CGROUP").unwrap());
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let amount = setting("DOGWATCH_FLOOD_AMOUNT", 1);
    let count = match deed.as_str() {
        "live" => live(amount),
        deed => repeat(Duration::from_secs(amount), deed),
    };
    println!("\ndid {count}");
}

/// Executes programs, 100 a second.
fn live(execs: u64) -> u64 {
    for number in 0..execs {
        let status = Command::new("/bin/true")
            .args([MARKER, &number.to_string()])
            .status();
        assert!(status.unwrap().success());
        thread::sleep(Duration::from_millis(10));
    }
    execs
}

fn repeat(time: Duration, deed: &str) -> u64 {
    let arguments = "x".repeat(32 << 10);
    let end = Instant::now() + time;
    let mut count = 0;
    // SAFETY: system calls with paths that end in NUL, and numbers.
    while Instant::now() < end {
        for _ in 0..if deed == "exec" { 1 } else { 100 } {
            unsafe {
                match deed {
                    "missing" => open(&format!("/dogwatch/{count}\0")),
                    "shadow" => open("/etc/shadow\0"),
                    "connect" => connect(),
                    "setuid" => _ = libc::syscall(libc::SYS_setuid, libc::geteuid()),
                    "unlink" => _ = libc::unlinkat(libc::AT_FDCWD, c"/dogwatch/none".as_ptr(), 0),
                    "exec" => _ = Command::new("/bin/true").arg(&arguments).status().unwrap(),
                    other => panic!("no such deed: {other}"),
                }
            }
            count += 1;
        }
    }
    count
}

/// # Safety
/// The path ends in NUL.
unsafe fn open(path: &str) {
    // SAFETY: as promised; what was opened is closed.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::O_RDONLY,
            0,
        );
        if fd >= 0 {
            libc::close(fd as i32);
        }
    }
}

/// To a port where nobody listens.
fn connect() {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 1u16.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: the address outlives the call and has the length given.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        libc::connect(
            fd,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        );
        libc::close(fd);
    }
}
