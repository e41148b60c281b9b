//! Every system call of the table from inside a real container: the row of each says which container it was, and what was done.
//!
//! Needs root, runc and a kernel with type information, and fails where one is missing.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[path = "kernel/act.rs"]
#[allow(dead_code, reason = "the tests of the kernel part use all of it")]
mod act;
#[path = "kernel/examples.rs"]
#[allow(dead_code, reason = "the tests of the kernel part use all of it")]
mod examples;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use dogwatch_ebpf::calls::{ArgumentKind, Call};
use serde_json::{Value, json};

use examples::{EXAMPLES, Example, Scene, Well, at, with};

const PATIENCE: Duration = Duration::from_secs(40);
/// Where the test is inside the container.
const INSIDE: &str = "DOGWATCH_TEST_INSIDE";
const NAME: &str = "each_call_of_the_table_is_told_from_inside_a_container";

/// Calls whose records are no call's own: the kernel part's tests of opens look closer.
const OPENS: &[Example] = &[
    ("open", Well, "name=%/file@/", |s| {
        with([s.file(), libc::O_WRONLY as usize])
    }),
    ("openat", Well, "name=file@%", |s| {
        with([s.dir_fd, at(c"file"), libc::O_RDWR as usize])
    }),
    ("openat2", Well, "name=file@%", |s| {
        with([s.dir_fd, at(c"file"), HOW.as_ptr() as usize, 24])
    }),
    ("creat", Well, "name=%/new@/", |s| {
        with([s.new_one(), 0o600])
    }),
];

/// Flags, mode and restrictions, as `openat2` takes them.
static HOW: [u64; 3] = [libc::O_WRONLY as u64, 0, 0];

fn examples() -> impl Iterator<Item = &'static Example> {
    EXAMPLES.iter().chain(OPENS)
}

/// What was done inside: who did it, and where.
struct Done {
    vpid: i64,
    folder: String,
}

/// Does what every example does, each in a process of its own, and says so on standard output.
fn act_inside() {
    for (name, _, _, arguments) in examples() {
        let scene = Scene::new();
        let call = Call::named(name).unwrap();
        let pid = act::in_child(|| examples::perform(&scene, call, *arguments));
        println!("did {name} {pid} {}", scene.folder.path().display());
        // More at once than a container may send would be counted alone.
        std::thread::sleep(Duration::from_millis(20));
    }
    act_below_a_mount_of_its_own();
}

/// The capabilities that may be given on, by bit.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT \
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP";

/// What this process has, for a machine may have given it less than all.
fn own_capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let bits = u64::from_str_radix(bits.trim(), 16).unwrap();
    let names = CAPABILITIES.split_ascii_whitespace().enumerate();
    let names = names.filter(|(bit, _)| bits >> bit & 1 == 1);
    names.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// What it mounts itself, and removes below that: no configuration of the container tells of it.
const OWN_MOUNT: &str = "own-mount";

fn act_below_a_mount_of_its_own() {
    let scene = Scene::new();
    let point = scene.folder.path().canonicalize().unwrap().join("inner");
    let (point, name) = (
        act::c_path(&point),
        act::c_path(&point.join("dogwatch-none")),
    );
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: the paths end in NUL and outlive the call.
    let mounted = unsafe {
        libc::mount(
            c"/usr".as_ptr(),
            point.as_ptr(),
            none,
            libc::MS_BIND,
            none.cast(),
        )
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    // Trees of mounts are looked at once a second.
    std::thread::sleep(Duration::from_millis(1_200));
    let pid = act::in_child(|| {
        // SAFETY: as above.
        unsafe { libc::unlink(name.as_ptr()) };
    });
    println!("did {OWN_MOUNT} {pid} {}", scene.folder.path().display());
    // SAFETY: as above; what is mounted there keeps the folder from being removed.
    unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
}

/// A bundle whose program is this very test; its libraries are the host's.
fn bundle(folder: &Path) {
    let root = folder.join("rootfs");
    for name in ["usr", "proc", "tmp", "dev", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    fs::write(root.join("test"), "").unwrap();
    let own = std::env::current_exe().unwrap();
    let read_only = |source: &Path, destination: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro"]});
    let capabilities = own_capabilities();
    let sets = ["bounding", "effective", "permitted"].map(|set| (set, &capabilities));
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "env": [format!("{INSIDE}=1")],
            "args": ["/test", "--exact", NAME, "--include-ignored", "--nocapture"],
            "capabilities": BTreeMap::from(sets),
        },
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            read_only(Path::new("/usr"), "/usr"),
            read_only(&own, "/test"),
        ],
        "linux": {"namespaces": namespaces},
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// The sensor and its rows; it ends when dropped.
struct Sensor(Child, Receiver<String>);

impl Sensor {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"))
            .args(["run", "--output", "json"])
            .env("DOGWATCH_STATE_FILE", "")
            .env("DOGWATCH_METRICS__LISTEN", "")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, rows) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut lines = output.lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        let sensor = Self(child, rows);
        sensor.1.recv_timeout(PATIENCE).unwrap();
        sensor
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        // SAFETY: a signal to the child, which was not waited for yet.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// Runs the container to its end; what was done in it, by the call's name.
fn run_container(folder: &Path, name: &str) -> BTreeMap<String, Done> {
    bundle(folder);
    let ran = Command::new("runc")
        .args(["run", "--bundle", folder.to_str().unwrap(), name])
        .stdin(Stdio::null())
        .output()
        .expect("runc runs; install it");
    let (said, errors) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{said}\n{errors}");
    let done = said.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_once("did ")?.1.split(' ').collect();
        let &[call, vpid, folder] = &words[..] else {
            return None;
        };
        let (vpid, folder) = (vpid.parse().ok()?, folder.to_owned());
        Some((call.to_owned(), Done { vpid, folder }))
    });
    done.collect()
}

/// The path of an example, `given@base`, as it is told.
fn path_told(given: &str, base: &str) -> String {
    match (given, base) {
        (given, "" | "/") => given.to_owned(),
        (given, base) => format!("{base}/{}", given.trim_start_matches('/')),
    }
}

/// What a row does not say of what its example must say, `None` where it says all.
fn missing(row: &Value, call: &Call, expected: &str) -> Option<String> {
    let failed = row["evt_failed"] == true;
    let paths = ["fd_name", "fs_path_source", "fs_path_target"].map(|column| &row[column]);
    for part in expected.split(", ").filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let argument = call.arguments.iter().find(|one| one.name == name);
        let kind = argument.map(|argument| argument.kind);
        let argument = &row["evt_args"][name];
        let said = match (name, kind) {
            // Where the kernel refused the call there is no descriptor to tell of.
            (_, Some(ArgumentKind::Returned)) if failed => true,
            ("identity", _) => row["thread_cap_effective"].is_string(),
            ("cwd", _) => row["fd_name"] == value,
            ("peer", _) => {
                value.ends_with(&format!(":{}", row["fd_sport"])) && row["fd_sip"] == "127.0.0.1"
            }
            (_, Some(ArgumentKind::Sockaddr | ArgumentKind::Msghdr)) => row["fd_type"].is_string(),
            _ if value == "socket" => row["fd_type"].is_string(),
            _ if value.contains('@') => {
                let (given, base) = value.split_once('@').unwrap();
                // Where a changed root leads is told by the kernel: the new root is the tree's.
                let told = path_told(given, base);
                paths.iter().any(|path| **path == told) || call.name == "chroot"
            }
            (_, Some(ArgumentKind::Fd | ArgumentKind::Returned)) => row["fd_name"] == value,
            (_, Some(ArgumentKind::Target)) => row["fs_path_source"] == value,
            (
                _,
                Some(
                    ArgumentKind::Mode | ArgumentKind::Dev | ArgumentKind::Size | ArgumentKind::Ptr,
                ),
            ) => argument.is_string(),
            _ => *argument == value,
        };
        if !said {
            return Some(part.to_owned());
        }
    }
    None
}

#[test]
#[ignore = "needs root and runc: ./dogwatch.sh test"]
fn each_call_of_the_table_is_told_from_inside_a_container() {
    if std::env::var_os(INSIDE).is_some() {
        return act_inside();
    }
    let folder = tempfile::tempdir().unwrap();
    let sensor = Sensor::start();
    let name = format!("dogwatch-calls-{}", std::process::id());
    let mut done = run_container(folder.path(), &name);
    let asked: Vec<&str> = examples().map(|(name, ..)| *name).collect();
    let own_mount = done.remove(OWN_MOUNT).expect("a mount of its own");
    let told: Vec<&String> = done
        .keys()
        .filter(|name| !asked.contains(&name.as_str()))
        .collect();
    assert_eq!((done.len(), told), (asked.len(), Vec::new()));

    let mut wrong: BTreeMap<&str, String> = asked
        .iter()
        .chain(&[OWN_MOUNT])
        .map(|name| (*name, "no row".to_owned()))
        .collect();
    let end = Instant::now() + PATIENCE;
    while !wrong.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(line) = sensor.1.recv_timeout(left) else {
            break;
        };
        let row: Value = serde_json::from_str(&line).unwrap();
        if row["container_name"] != *name
            || row["container_id"].as_str().is_none_or(|id| id == "host")
        {
            continue;
        }
        if row["evt_call"] == "unlink" && row["proc_vpid"] == own_mount.vpid {
            let name = format!("{}/inner/dogwatch-none", own_mount.folder);
            assert_eq!(row["fd_name"], name);
            assert_eq!(row["fd_host_name"], "/usr/dogwatch-none", "{row}");
            wrong.remove(OWN_MOUNT);
        }
        for (name, _, expected, _) in examples() {
            let (call, done) = (Call::named(name).unwrap(), &done[*name]);
            if row["evt_call"] == *name && row["proc_vpid"] == done.vpid {
                match missing(&row, call, &expected.replace('%', &done.folder)) {
                    None => _ = wrong.remove(name),
                    Some(part) => _ = wrong.insert(name, format!("no {part:?} in {row}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
