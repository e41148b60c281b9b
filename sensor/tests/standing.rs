//! Where the sensor may stand: the whole program beside a container that is older than it, on the cgroups of this host.
//!
//! Needs root, runc and busybox; `tests/kernels/run` runs it on other kernels and other layouts of the cgroups.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An emulated processor on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What runs in the container before the sensor does: it reads a sensitive file again and again, in a child.
const LOOP: &str = "while :; do /bin/busybox cat /etc/shadow; /bin/busybox sleep 0.3; done";

fn sensor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
}

#[test]
#[ignore = "needs root, runc and busybox: ./dogwatch.sh test"]
fn a_container_older_than_the_sensor_is_named_in_its_first_event() {
    let container = Container::start();
    let rows = container.watch(&["running", "execve", "openat"]);
    assert_eq!(rows[0]["proc_vpid"], 1, "{}", rows[0]);
    for row in &rows {
        assert_eq!(row["container_id"], container.id[..12], "{row}");
        assert_eq!(row["container_full_id"], *container.id, "{row}");
        assert_eq!(row["container_name"], "older", "{row}");
        assert_eq!(row["proc_stage"], "entrypoint", "{row}");
    }
    println!("records: {}", rows.len());
}

#[test]
#[ignore = "needs root, runc and busybox: ./dogwatch.sh test"]
fn a_private_cgroup_namespace_is_refused_with_the_mend() {
    let folder = a_cgroup();
    for arguments in [&["check"][..], &["run", "--output", "json"]] {
        let mut command = in_a_private_cgroup_namespace(&folder, Some(CAP_SYS_ADMIN));
        refused(&command.args(arguments).output().unwrap(), "cgroup: host");
    }
}

#[test]
#[ignore = "needs root, runc and busybox: ./dogwatch.sh test"]
fn a_private_cgroup_namespace_is_left_with_the_right_to() {
    let folder = a_cgroup();
    let mut command = in_a_private_cgroup_namespace(&folder, None);
    let output = command.arg("check").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// From linux/capability.h.
const CAP_SYS_ADMIN: libc::c_ulong = 21;

/// The sensor in a cgroup of its own, as a runtime would put it (from the root's, everything is still seen), which can
/// never have the capability `without`.
fn in_a_private_cgroup_namespace(folder: &Cgroup, without: Option<libc::c_ulong>) -> Command {
    let members = folder.0.join("cgroup.procs");
    let enter = move || {
        fs::write(&members, "0")?;
        // SAFETY: plain system calls.
        let failed = unsafe {
            libc::unshare(libc::CLONE_NEWCGROUP) != 0
                || without
                    .is_some_and(|capability| libc::prctl(libc::PR_CAPBSET_DROP, capability) != 0)
        };
        if failed {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    let mut command = sensor();
    // SAFETY: system calls only; the child has one thread.
    unsafe { command.pre_exec(enter) };
    command
}

#[test]
#[ignore = "needs root, runc and busybox: ./dogwatch.sh test"]
fn a_private_pid_namespace_is_refused_with_the_mend() {
    for arguments in [&["check"][..], &["run", "--output", "json"]] {
        let mut command = Command::new("/bin/busybox");
        command.args(["unshare", "-p", "-f", "-m", "--mount-proc"]);
        command.arg(env!("CARGO_BIN_EXE_dogwatch-sensor"));
        refused(&command.args(arguments).output().unwrap(), "pid: host");
    }
}

fn refused(output: &Output, mend: &str) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(mend), "{said}");
}

/// A cgroup made for a test, in the hierarchy the sensor uses; removed when dropped.
struct Cgroup(PathBuf);

fn a_cgroup() -> Cgroup {
    let mount = dogwatch_sensor::probe::Hierarchy::find().unwrap().mount;
    let folder = mount.join(format!("dogwatch-standing-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    Cgroup(folder)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Best effort: an empty cgroup that stays does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

/// A container as Docker starts one: its cgroup and its files are where Docker has them.
struct Container {
    id: String,
    folder: tempfile::TempDir,
}

impl Container {
    fn start() -> Self {
        let id: String = (0..64)
            .map(|_| char::from_digit(rand::random::<u32>() % 16, 16).unwrap())
            .collect();
        let container = Self {
            id,
            folder: tempfile::tempdir().unwrap(),
        };
        container.write_files();
        let bundle = container.path("bundle");
        container.runc(&["run", "--detach", "--bundle", bundle.to_str().unwrap()]);
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_files(&self) {
        let bundle = self.path("bundle");
        for folder in ["rootfs/bin", "rootfs/etc", "rootfs/proc"] {
            fs::create_dir_all(bundle.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        fs::write(bundle.join("rootfs/etc/shadow"), "root:*:0:0:99999:7:::\n").unwrap();
        write_json(&bundle.join("config.json"), &self.bundle_config());
        let docker = self.path("docker/containers").join(&self.id);
        fs::create_dir_all(&docker).unwrap();
        let config = json!({"ID": self.id, "Name": "/older", "Config": {"Image": "busybox:1"},
            "State": {"Running": true, "StartedAt": "2026-01-01T00:00:00Z"}});
        write_json(&docker.join("config.v2.json"), &config);
        write_json(&docker.join("hostconfig.json"), &json!({}));
    }

    fn bundle_config(&self) -> Value {
        let mut namespaces = vec!["pid", "mount", "ipc", "uts"];
        // Docker's default where there is nothing but version 2.
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            namespaces.push("cgroup");
        }
        let namespaces: Vec<Value> = namespaces
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
                "args": ["/bin/busybox", "sh", "-c", LOOP],
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/docker/{}", self.id)},
        })
    }

    fn runc(&self, arguments: &[&str]) {
        let log = fs::File::create(self.path("runc.log")).unwrap();
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("runc")).args(arguments);
        // The container keeps these, so no pipe may be among them.
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        let status = command.arg(&self.id).stderr(log).status().unwrap();
        let said = fs::read_to_string(self.path("runc.log")).unwrap();
        assert!(status.success(), "runc {arguments:?}: {said}");
    }

    /// Runs a sensor until it told all these of what reads /etc/shadow; returns all its rows of that up to then.
    fn watch(&self, kinds: &[&str]) -> Vec<Value> {
        let mut sensor = sensor()
            .args(["run", "--output", "json"])
            .env("DOGWATCH_CONTAINERS__DOCKER_ROOT", self.path("docker"))
            .env("DOGWATCH_HOST_ID", "standing")
            .env("DOGWATCH_STATE_FILE", self.path("state.json"))
            .env("DOGWATCH_METRICS__LISTEN", "")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("sensor.log")).unwrap())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(sensor.stdout.take().unwrap());
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let end = Instant::now() + PATIENCE;
        let mut rows: Vec<Value> = Vec::new();
        let told = |rows: &[Value], kind: &&str| rows.iter().any(|row| row["evt_type"] == **kind);
        while !kinds.iter().all(|kind| told(&rows, kind)) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                break;
            };
            let row: Value = serde_json::from_str(&line).unwrap();
            // By what it does, whatever the sensor takes it for.
            if row["proc_cmdline"]
                .as_str()
                .is_some_and(|line| line.contains("cat /etc/shadow"))
            {
                rows.push(row);
            }
        }
        stop(&mut sensor);
        let log = fs::read_to_string(self.path("sensor.log")).unwrap();
        let missing = kinds.iter().find(|kind| !told(&rows, kind));
        assert_eq!(missing, None, "{rows:?}\nthe sensor's log:\n{log}");
        rows
    }
}

fn write_json(path: &Path, value: &Value) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(value.to_string().as_bytes()).unwrap();
}

fn stop(sensor: &mut Child) {
    // SAFETY: a signal to the child, which was not waited for yet.
    unsafe { libc::kill(sensor.id() as i32, libc::SIGTERM) };
    sensor.wait().unwrap();
}

impl Drop for Container {
    fn drop(&mut self) {
        // Best effort: what is gone already needs no removing.
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("runc"));
        let _ = command.args(["delete", "--force", &self.id]).output();
    }
}
