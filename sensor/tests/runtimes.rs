//! Real containers of several runtimes, none of which the sensor is told about: each reads a sensitive file, and the row says
//! which container it was.
//!
//! Needs root, Docker, containerd, Podman, LXC, runc and busybox, and fails where one is missing.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// What every container runs: it reads a sensitive file again and again, in a child.
const LOOP: &str = "while :; do /bin/busybox cat /etc/shadow; /bin/busybox sleep 0.2; done";

/// The sensor's rows as they come; it ends when dropped.
struct Sensor {
    child: Child,
    rows: Receiver<String>,
    folder: PathBuf,
}

impl Sensor {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
            .args(["run", "--output", "json"])
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
        let folder = folder.to_owned();
        let sensor = Self {
            child,
            rows,
            folder,
        };
        sensor.wait_for("the first row", |_| true);
        sensor
    }

    /// The next row that fits.
    fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
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
    fn attack(&self, name: &str) -> (Value, Value) {
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

    /// CPU time so far.
    fn cpu(&self) -> Duration {
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

/// Undoes something when dropped.
struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        // Best effort: what is gone already needs no removing.
        let _ = Command::new(&self.0[0]).args(&self.0[1..]).output();
    }
}

fn undo(command: &[&str]) -> Undo {
    Undo(command.iter().map(|word| (*word).to_owned()).collect())
}

/// Runs a command to its end.
fn run(folder: &Path, command: &[&str]) {
    let log = folder.join("command.log");
    let file = fs::File::create(&log).unwrap();
    // A container may keep these, so no pipe may be among them.
    let status = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .status();
    let said = fs::read_to_string(log).unwrap();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}; install it"));
    assert!(status.success(), "{command:?}: {said}");
}

/// A root file system of busybox alone, and its archive.
fn rootfs(folder: &Path) -> PathBuf {
    let root = folder.join("rootfs");
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/shadow"), "root:*:0:0:99999:7:::\n").unwrap();
    let archive = folder.join("rootfs.tar");
    run(
        folder,
        &[
            "tar",
            "-C",
            root.to_str().unwrap(),
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ],
    );
    root
}

/// A bundle for `runc` with these arguments.
fn bundle(folder: &Path, root: &Path, arguments: &[&str]) {
    let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": arguments},
        "root": {"path": root},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A name that no other run has.
fn unique(name: &str) -> String {
    format!("dogwatch-{name}-{}", std::process::id())
}

#[test]
#[ignore = "needs root, Docker and Podman: ./dogwatch.sh test"]
fn docker_and_podman_tell_names_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    rootfs(folder.path());
    let sensor = Sensor::start(folder.path());

    let name = unique("docker");
    let image = format!("{name}:1");
    run(
        folder.path(),
        &["docker", "import", &path("rootfs.tar"), &image],
    );
    let _image = undo(&["docker", "rmi", "--force", &image]);
    let _container = undo(&["docker", "rm", "--force", &name]);
    let docker = [
        "docker",
        "run",
        "--detach",
        "--network",
        "none",
        "--name",
        &name,
    ];
    let program = ["/bin/sh", "-c", LOOP];
    run(folder.path(), &[&docker[..], &[&image], &program].concat());
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "docker");
    assert_eq!(attack["container_image"], image);

    let name = unique("podman");
    let (graph, state) = (path("graph"), path("state"));
    let podman = ["podman", "--root", &graph, "--runroot", &state];
    let podman = |arguments: &[&str]| run(folder.path(), &[&podman[..], arguments].concat());
    podman(&[
        "import",
        "--quiet",
        &path("rootfs.tar"),
        "localhost/dogwatch:1",
    ]);
    let _container = undo(&[
        "podman",
        "--root",
        &graph,
        "--runroot",
        &state,
        "rm",
        "--force",
        "--time",
        "0",
        &name,
    ]);
    // Podman's own limits need rights that not every machine gives.
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    let options = [
        "run",
        "--detach",
        "--runtime",
        "runc",
        "--network",
        "none",
        "--name",
        &name,
    ];
    podman(&[&options[..], &limits, &["localhost/dogwatch:1"], &program].concat());
    let (attack, told) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "podman");
    assert_eq!(attack["container_image"], "localhost/dogwatch:1");
    assert_eq!(attack["container_image_repository"], "localhost/dogwatch");
    assert_eq!(told["container_privileged"], false);
}

#[test]
#[ignore = "needs root, containerd, LXC and runc: ./dogwatch.sh test"]
fn containers_with_names_for_ids_are_no_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let root = rootfs(folder.path());
    let older = unique("older");
    bundle(
        &folder.path().join("older"),
        &root,
        &["/bin/sh", "-c", LOOP],
    );
    let runc = |bundle: &str, name: &str| {
        run(
            folder.path(),
            &["runc", "run", "--detach", "--bundle", &path(bundle), name],
        );
        undo(&["runc", "delete", "--force", name])
    };
    let _older = runc("older", &older);
    let sensor = Sensor::start(folder.path());
    let (attack, _) = sensor.attack(&older);
    assert_eq!(
        attack["container_type"], "oci",
        "it is older than the sensor"
    );

    let name = unique("runc");
    bundle(
        &folder.path().join("bundle"),
        &root,
        &["/bin/sh", "-c", LOOP],
    );
    let _container = runc("bundle", &name);
    let (attack, told) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "oci");
    assert_eq!(
        told["container_host_network"], true,
        "it has no network of its own"
    );

    let name = unique("ctr");
    let containerd = Containerd::start(folder.path(), &root);
    let _container = containerd.run(&name);
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "containerd");

    let name = unique("lxc");
    let (lxc, config) = (path("lxc"), path("lxc.conf"));
    fs::create_dir(&lxc).unwrap();
    fs::write(
        &config,
        format!("lxc.rootfs.path = dir:{}\nlxc.uts.name = {name}\nlxc.net.0.type = none\nlxc.apparmor.profile = unconfined\n", root.display()),
    )
    .unwrap();
    let _container = undo(&["lxc-stop", "--kill", "--lxcpath", &lxc, "--name", &name]);
    let start = [
        "lxc-start",
        "--lxcpath",
        &lxc,
        "--name",
        &name,
        "--rcfile",
        &config,
        "--daemon",
    ];
    run(
        folder.path(),
        &[&start[..], &["--", "/bin/sh", "-c", LOOP]].concat(),
    );
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "lxc");
    let check = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
        .arg("check")
        .output()
        .unwrap();
    let check = String::from_utf8_lossy(&check.stdout);
    for runtime in ["oci: ", "containerd: ", "lxc: "] {
        assert!(check.contains(runtime), "{check}");
    }
}

/// A daemon of its own, with its state where no configuration says it.
struct Containerd {
    daemon: Child,
    folder: PathBuf,
    root: PathBuf,
}

impl Containerd {
    fn start(folder: &Path, root: &Path) -> Self {
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let log = fs::File::create(folder.join("containerd.log")).unwrap();
        let daemon = Command::new("containerd")
            .args(["--root", &at("ctr-root"), "--state", &at("ctr-state")])
            .args(["--address", &at("ctr.sock")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd can be started");
        let end = Instant::now() + PATIENCE;
        while !folder.join("ctr.sock").exists() {
            assert!(Instant::now() < end, "containerd does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self {
            daemon,
            folder: folder.to_owned(),
            root: root.to_owned(),
        }
    }

    fn run(&self, name: &str) -> Undo {
        let socket = self.folder.join("ctr.sock");
        let ctr = ["ctr", "--address", socket.to_str().unwrap()];
        let run_it = [
            "run",
            "--detach",
            "--rootfs",
            self.root.to_str().unwrap(),
            name,
        ];
        run(
            &self.folder,
            &[&ctr[..], &run_it, &["/bin/sh", "-c", LOOP]].concat(),
        );
        undo(&[&ctr[..], &["task", "rm", "--force", name]].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SAFETY: a signal to the child, which was not waited for yet.
        unsafe { libc::kill(self.daemon.id() as i32, libc::SIGTERM) };
        let _ = self.daemon.wait();
    }
}

#[test]
#[ignore = "needs root and runc, and takes 20 s: ./dogwatch.sh test"]
fn containers_that_live_for_a_moment_are_named_in_their_first_event() {
    const CONTAINERS: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let root = rootfs(folder.path());
    let sensor = Sensor::start(folder.path());
    let before = sensor.cpu();
    let short = ["/bin/busybox", "usleep", "50000"];
    for number in 0..CONTAINERS {
        let bundle_folder = folder.path().join(format!("b{number}"));
        bundle(&bundle_folder, &root, &short);
        let name = unique(&format!("short-{number}"));
        let arguments = [
            "runc",
            "run",
            "--bundle",
            bundle_folder.to_str().unwrap(),
            &name,
        ];
        run(folder.path(), &arguments);
        // As a runtime does at its end.
        fs::remove_dir_all(bundle_folder).unwrap();
    }
    let each = (sensor.cpu() - before) / CONTAINERS as u32;
    let (mut named, mut seen) = (0, std::collections::BTreeSet::new());
    while seen.len() < CONTAINERS {
        let row = sensor.wait_for("all containers", |row| {
            row["evt_type"] == "execve"
                && row["proc_cmdline"] == "/bin/busybox usleep 50000"
                && row["proc_stage"] != "runtime"
        });
        if seen.insert(row["container_id"].as_str().unwrap().to_owned()) {
            let name = row["container_name"].as_str().unwrap_or_default();
            // Only its bundle says that it has no network of its own.
            let known = row["container_host_network"] == true;
            named += usize::from(name.starts_with("dogwatch-short-") && known);
        }
    }
    // Whatever else runs on the host is in it, too: that is for a quiet machine to judge.
    println!("{named} of {CONTAINERS} named in their first event, {each:?} of CPU each");
    assert!(named >= 95, "{named} of {CONTAINERS}");
}
