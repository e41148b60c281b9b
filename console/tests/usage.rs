//! Real loads in real containers: what uses up what it may is told, and the same load with room is not.
//!
//! The shipped detections on samples run over ten seconds instead of minutes. Needs root, a kernel that loads eBPF, Docker,
//! iproute2 and `cc`.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Some windows, and a machine with other work.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a container does, with which options of `docker run`, and the detection that it must be found by.
struct Load {
    kind: &'static str,
    number: u32,
    options: &'static [&'static str],
    expected: Option<&'static str>,
}

const fn load(
    kind: &'static str,
    number: u32,
    options: &'static [&'static str],
    expected: &'static str,
) -> Load {
    let expected = Some(expected);
    Load {
        kind,
        number,
        options,
        expected,
    }
}

const fn with_room(kind: &'static str, number: u32, options: &'static [&'static str]) -> Load {
    Load {
        kind,
        number,
        options,
        expected: None,
    }
}

const LOADS: [Load; 18] = [
    load("burn", 0, &["--cpus=0.1"], "cpu_at_limit"),
    with_room("burn", 1, &["--cpus=2"]),
    load(
        "memory",
        60,
        &["--memory=64m", "--memory-swap=64m"],
        "memory_near_limit",
    ),
    with_room("memory", 61, &["--memory=256m", "--memory-swap=256m"]),
    load(
        "child",
        80,
        &["--memory=16m", "--memory-swap=16m"],
        "out_of_memory_kill",
    ),
    with_room("memory", 10, &["--memory=64m", "--memory-swap=64m"]),
    load("threads", 95, &["--pids-limit=100"], "tasks_near_limit"),
    with_room("threads", 96, &["--pids-limit=1000"]),
    load("threads", 2_100, &["--pids-limit=-1"], "thread_bomb"),
    with_room("threads", 1_500, &["--pids-limit=-1"]),
    load(
        "descriptors",
        95,
        &["--ulimit=nofile=100"],
        "descriptors_near_limit",
    ),
    with_room("descriptors", 96, &["--ulimit=nofile=1000"]),
    load("waiting", 2, &[], "accept_queue_full"),
    with_room("waiting", 100, &[]),
    load("send", 60, &[], "egress_far_above_ingress"),
    with_room("send", 5, &[]),
    load("refused", 1_000, &["--user=1000"], "many_refused_calls"),
    with_room("refused", 100, &["--user=1000"]),
];

/// An image of the load alone, and containers of it; all are removed when dropped.
struct Containers {
    image: String,
    names: Vec<String>,
}

impl Containers {
    fn new(folder: &Path) -> Self {
        let root = folder.join("root");
        fs::create_dir(&root).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usage/load.c");
        run(
            "cc",
            &[
                "-static",
                "-O1",
                "-pthread",
                "-o",
                text(&root.join("load")),
                text(&source),
            ],
        );
        let tar = folder.join("image.tar");
        run("tar", &["-C", text(&root), "-cf", text(&tar), "load"]);
        let image = format!("dogwatch-usage-{}:1", std::process::id());
        run("docker", &["import", text(&tar), &image]);
        Self {
            image,
            names: Vec::new(),
        }
    }

    fn start(&mut self, load: &Load) {
        let name = name_of(load);
        let number = load.number.to_string();
        let mut arguments = vec!["run", "--detach", "--network=none", "--name", &name];
        arguments.extend(load.options);
        arguments.extend([&*self.image, "/load", load.kind, &number]);
        self.names.push(name.clone());
        run("docker", &arguments);
        if load.kind == "send" {
            wire(&name, load.number);
        }
    }
}

/// Gives a container a wire to this machine, which ends with the container; nobody is at its other end.
fn wire(container: &str, number: u32) {
    let pid = run(
        "docker",
        &["inspect", "--format", "{{.State.Pid}}", container],
    );
    let pid = pid.trim();
    let outer = format!("dwusage{number}");
    let pair = [
        "link", "add", "wire", "netns", pid, "type", "veth", "peer", "name", &outer,
    ];
    run("ip", &pair);
    run("ip", &["link", "set", &outer, "up"]);
    let inside =
        |arguments: &[&str]| run("nsenter", &[&["-t", pid, "-n", "ip"], arguments].concat());
    inside(&["address", "add", "192.0.2.1/24", "dev", "wire"]);
    inside(&["link", "set", "wire", "up"]);
    let end = ["192.0.2.2", "lladdr", "02:00:00:00:00:01", "dev", "wire"];
    inside(&[&["neighbour", "replace"][..], &end].concat());
}

impl Drop for Containers {
    fn drop(&mut self) {
        // Best effort: what is not there needs no removing.
        let remove = ["rm", "--force"].into_iter();
        let names = self.names.iter().map(String::as_str);
        let _ = Command::new("docker").args(remove.chain(names)).output();
        let _ = Command::new("docker").args(["rmi", &self.image]).output();
    }
}

fn name_of(load: &Load) -> String {
    format!("{}-{}-{}", load.kind, load.number, std::process::id())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The shipped detections; windows of samples are of ten seconds, and what has to come together in them is as much less.
fn copy_detections(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_detections(&from, &to);
            continue;
        }
        let content = fs::read_to_string(&from).unwrap();
        let is_over_samples = content.contains("_samples, INTERVAL") && !is_over_hosts(&content);
        fs::write(
            to,
            if is_over_samples {
                shorter(&content)
            } else {
                content
            },
        )
        .unwrap();
    }
}

/// What several hosts together show is tried with several hosts (tests/tests/fleet).
fn is_over_hosts(sql: &str) -> bool {
    sql.contains("count(DISTINCT host_id)")
}

fn shorter(sql: &str) -> String {
    sql.replace("INTERVAL '5 minutes'", "INTERVAL '10 seconds'")
        .replace("INTERVAL '1 minute'", "INTERVAL '10 seconds'")
        .replace(">= 240000000000", ">= 8000000000")
        .replace(">= 1000000000\n", ">= 33000000\n")
}

/// `dogwatch local`, which watches; ended when dropped.
struct Local(Child);

impl Local {
    fn start(detections: &Path, alerts: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
        command.args(["local", "--detections", text(detections)]);
        command.args(["--alerts", text(alerts)]);
        command.env("DOGWATCH_STATE_FILE", "");
        command.env("DOGWATCH_SAMPLES__INTERVAL", "1s");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with("watching this machine")));
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: a plain system call on a child that was not waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// Names of containers with the detections that found something in them.
fn told(alerts: &Path) -> BTreeSet<(String, String)> {
    let lines = fs::read_to_string(alerts).unwrap_or_default();
    let alerts = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    alerts
        .map(|alert| (text(&alert["container_name"]), text(&alert["detection_id"])))
        .collect()
}

#[test]
#[ignore = "needs root, a kernel that loads eBPF, Docker, iproute2 and cc"]
fn containers_that_use_up_what_they_may_are_told_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let detections: PathBuf = folder.path().join("detections");
    copy_detections(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections"),
        &detections,
    );
    let alerts = folder.path().join("alerts.jsonl");
    let mut containers = Containers::new(folder.path());
    let local = Local::start(&detections, &alerts);
    LOADS.iter().for_each(|load| containers.start(load));
    let expected: BTreeSet<(String, String)> = LOADS
        .iter()
        .filter_map(|load| Some((name_of(load), load.expected?.to_owned())))
        .collect();
    let end = Instant::now() + PATIENCE;
    while !expected.is_subset(&told(&alerts)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
    // Another window: what has room stays silent in that one, too.
    std::thread::sleep(Duration::from_secs(12));
    let told = told(&alerts);
    drop((local, containers));
    let missing: Vec<_> = expected.difference(&told).collect();
    assert!(missing.is_empty(), "{missing:?} of {told:?}");
    let quiet: BTreeSet<String> = LOADS
        .iter()
        .filter(|load| load.expected.is_none())
        .map(name_of)
        .collect();
    let wrong: Vec<_> = told
        .iter()
        .filter(|(name, _)| quiet.contains(name))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Each shipped detection on samples has a load here.
#[test]
fn no_detection_on_samples_is_left_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let tactics = fs::read_dir(folder).unwrap().flatten();
    let files = tactics.flat_map(|tactic| fs::read_dir(tactic.path()).into_iter().flatten());
    let paths = files.flatten().map(|file| file.path());
    let is_on_samples = |path: &PathBuf| {
        let is_sql = path.extension().is_some_and(|end| end == "sql");
        let reads = |sql: String| {
            let mut lines = sql.lines().filter(|line| line.starts_with("FROM "));
            lines.any(|line| line.contains("_samples")) && !is_over_hosts(&sql)
        };
        is_sql && fs::read_to_string(path).is_ok_and(reads)
    };
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let shipped: BTreeSet<String> = paths.filter(is_on_samples).map(name).collect();
    let tried = LOADS.iter().filter_map(|load| load.expected);
    assert_eq!(shipped, tried.map(str::to_owned).collect());
}
