//! The live demo on this machine's kernel: every step found, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch_console::alerts_file::{AlertsFile, Written};

fn demo(target: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
    let detections = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    command
        .arg("demo")
        .arg("--detections")
        .arg(detections)
        .args(["--with", target]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Cgroups of demos that are there now.
fn cgroups() -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let own = hierarchies.map(|entry| entry.path().join("dogwatch-demo"));
    own.chain([PathBuf::from("/sys/fs/cgroup/dogwatch-demo")])
        .filter(|path| path.exists())
        .collect()
}

#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn attack_in_namespaces_is_found_and_leaves_nothing() {
    let output = demo("namespaces").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("all 10 steps came out as expected"), "{text}");
    assert!(!text.contains("NOT LIVE"), "{text}");
    assert_eq!(cgroups(), Vec::<PathBuf>::new());
}

/// Detections and alerts come from others: no thread that handles them may do more than the sensor needs.
#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn no_thread_of_local_keeps_what_only_loading_needs() {
    let detections = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let mut child = Command::new(env!("CARGO_BIN_EXE_dogwatch"))
        .arg("local")
        .arg("--detections")
        .arg(detections)
        .env("DOGWATCH_STATE_FILE", "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let watching = lines
        .by_ref()
        .map(Result::unwrap)
        .any(|line| line.starts_with("watching this machine"));
    assert!(watching);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let statuses: Vec<String> = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .collect();
    // SAFETY: kill takes numbers; the child was not waited for yet, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    assert!(lines.map(Result::unwrap).count() > 0, "it says what it did");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let named = |name: &str| {
        let line = format!("Name:\t{name}\n");
        statuses.iter().any(|status| status.contains(&line))
    };
    for name in [
        "dogwatch",
        "read",
        "sensor",
        "processor",
        "signals",
        "collect",
    ] {
        assert!(named(name), "{name} is not among them");
    }
    for status in &statuses {
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:\t"));
        let bits = u64::from_str_radix(effective.unwrap(), 16).unwrap();
        const SYS_PTRACE_AND_DAC_READ_SEARCH: u64 = 1 << 19 | 1 << 2;
        // Before Linux 5.19 maps cannot be read without it.
        const BPF: u64 = 1 << 39;
        assert_eq!(
            bits & !(SYS_PTRACE_AND_DAC_READ_SEARCH | BPF),
            0,
            "{status}"
        );
    }
}

/// `dogwatch local` with everything as JSON, and what it prints, line by line.
fn listened() -> (Child, Lines<BufReader<ChildStdout>>) {
    let detections = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let mut child = Command::new(env!("CARGO_BIN_EXE_dogwatch"))
        .args(["local", "--json", "--events", "--detections"])
        .arg(detections)
        .env("DOGWATCH_STATE_FILE", "")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Whoever pipes it sees what happened and what was said of it, each as a line of JSON that any parser keeps whole.
#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn events_of_local_can_be_listened_to() {
    let (mut child, mut lines) = listened();
    let events = lines.by_ref().map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        line
    });
    // The sensor's marks come each second, whatever else happens.
    let mark = events
        .filter(|line| line.get("evt_type").is_some())
        .find(|event| event["evt_type"] == "mark")
        .unwrap();
    assert!(mark["ts"].as_str().unwrap().ends_with('Z'), "{mark}");
    // SAFETY: kill takes numbers; the child was not waited for yet, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    for line in lines {
        serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// As with `| head`: whoever has read enough ends it in order.
#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn a_reader_that_goes_ends_it_in_order() {
    let (mut child, mut lines) = listened();
    assert!(lines.next().unwrap().unwrap().starts_with('{'));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Nobody takes a byte of its output: the sensor loses nothing by that, and alerts go on to the file.
#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn a_reader_that_stands_still_holds_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let detection = "-- title = \"Marked\"\n-- description = \"A test's own shell.\"\n-- message = \"{proc_cmdline}\"\n-- severity = \"low\"\n\
        -- status = \"experimental\"\n-- risk = 10\n-- attack = [\"T1059\"]\n\
        -- false_positives = []\n-- blind_spots = []\n-- references = []\n\
        SELECT container_id, proc_cmdline FROM events\n\
        WHERE evt_type = 'execve' AND proc_cmdline LIKE '%after-the-stop%'\n";
    std::fs::create_dir_all(at("detections/execution")).unwrap();
    std::fs::write(at("detections/execution/marked.sql"), detection).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dogwatch"))
        .args(["local", "--json", "--events", "--detections"])
        .arg(at("detections"))
        .arg("--alerts")
        .arg(at("alerts"))
        .env("DOGWATCH_STATE_FILE", "")
        .stdout(Stdio::piped())
        .stderr(File::create(at("errors")).unwrap())
        .spawn()
        .unwrap();
    let shell = |script: &str| {
        let status = Command::new("sh").args(["-c", script]).status();
        assert!(status.unwrap().success());
    };
    let until = |name: &str, words: &str, act: &str| {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let text = std::fs::read_to_string(at(name)).unwrap_or_default();
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "no {words:?} in {text}");
            shell(act);
        }
    };
    until("errors", "watching this machine", "sleep 0.1");
    let many = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); /bin/true; done";
    until("errors", "does not keep up", many);
    until("alerts", "after-the-stop", ": after-the-stop; sleep 0.2");
    signal(&child, libc::SIGINT);
    let asked = Instant::now();
    let ended = child.wait().unwrap();
    let errors = std::fs::read_to_string(at("errors")).unwrap();
    assert_eq!(ended.code(), Some(1), "{errors}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{errors}");
    assert!(
        errors.contains("could not be written to standard output"),
        "{errors}"
    );
    for class in ["ring_full", "queue_full"] {
        assert!(!errors.contains(class), "{errors}");
    }
}

#[test]
#[ignore = "needs root, a kernel that loads eBPF, and Docker"]
fn interrupted_attack_in_docker_leaves_no_container() {
    let mut child = demo("docker").spawn().unwrap();
    let name = format!("dogwatch-demo-{}", child.id());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.starts_with("step 2"))
        .unwrap();
    // SAFETY: kill takes numbers; the child was not waited for yet, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.ends_with("steps were not run"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let left = Command::new("docker")
        .args(["ps", "--all", "--quiet", "--filter"])
        .arg(format!("name={name}"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let left = Command::new("docker")
        .args(["images", "--quiet", &name])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

/// `dogwatch local` with these arguments, ready and watching; what it prints comes line by line.
fn watching(
    arguments: &[&str],
    prepare: impl FnOnce(&mut Command),
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let detections = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
    command
        .arg("local")
        .arg("--detections")
        .arg(detections)
        .args(arguments)
        .env("DOGWATCH_STATE_FILE", "")
        .stdout(Stdio::piped());
    // Whoever starts tests may ignore it, as nohup does: then it would be ignored here, too.
    // SAFETY: signal may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        })
    };
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let watches = lines
        .by_ref()
        .map(Result::unwrap)
        .any(|line| line.starts_with("watching this machine"));
    assert!(watches);
    (child, lines)
}

/// Its last words are there, and its exit code is that of an end in order.
fn ends_in_order(mut child: Child, lines: Lines<BufReader<ChildStdout>>) {
    assert!(ends_in_order_of(lines));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Whether its last words come.
fn ends_in_order_of(lines: Lines<BufReader<ChildStdout>>) -> bool {
    let mut lines = lines.map(Result::unwrap);
    lines.any(|line| line.starts_with("ran for"))
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: kill takes numbers; the child was not waited for yet, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn a_hangup_opens_the_file_of_alerts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (
        folder.path().join("a.jsonl"),
        folder.path().join("a.jsonl.1"),
    );
    std::fs::write(&path, "{\"alert_id\":\"x\",\"mess").unwrap();
    // In a session of its own, as a service is.
    let apart = |command: &mut Command| {
        // SAFETY: setsid may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
    };
    let (mut child, lines) = watching(&["--alerts", path.to_str().unwrap()], apart);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "",
        "the half line is gone"
    );
    std::fs::rename(&path, &old).unwrap();
    signal(&child, libc::SIGHUP);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, libc::SIGTERM);
    ends_in_order(child, lines);
}

#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn a_hangup_ends_it_where_there_is_no_file() {
    let (child, lines) = watching(&[], |_| {});
    signal(&child, libc::SIGHUP);
    ends_in_order(child, lines);
}

#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn a_terminal_that_goes_takes_it_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let (mut master, mut slave) = (0, 0);
    let (name, termios, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: both numbers are written; no name, no settings.
    let opened = unsafe { libc::openpty(&mut master, &mut slave, name, termios, size) };
    assert_eq!(opened, 0);
    let on_terminal = |command: &mut Command| {
        // SAFETY: setsid and ioctl may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                libc::ioctl(slave, libc::TIOCSCTTY, 0);
                libc::close(master);
                Ok(())
            })
        };
    };
    let (child, lines) = watching(&["--alerts", path.to_str().unwrap()], on_terminal);
    // SAFETY: nobody else uses these.
    unsafe {
        libc::close(slave);
        libc::close(master);
    }
    ends_in_order(child, lines);
}

#[test]
#[ignore = "needs root to mount a small disk"]
fn a_full_disk_costs_lines_and_leaves_no_half_one() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |command: &mut Command| assert!(command.status().unwrap().success());
    mount(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16k", "none"])
            .arg(&disk),
    );
    let path = disk.join("alerts.jsonl");
    let (mut file, _) = AlertsFile::open(&path).unwrap();
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1_000));
    let written = (0..30)
        .filter(|_| file.append(line.as_bytes()) == Written::Well)
        .count();
    assert!((10..20).contains(&written), "{written}");
    assert_eq!(file.unwritten() as usize, 30 - written);
    let whole = line.repeat(written);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    // Room again: it goes on by itself and says what is missing.
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    let again = file.append(line.as_bytes());
    assert_eq!(again, Written::Again((30 - written) as u64));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
    drop(file);
    mount(Command::new("umount").arg(&disk));
}

/// Rows of this host come as they happen, from a sensor that keeps no rights; a question that needs an end has one.
#[test]
#[ignore = "needs root and a kernel that loads eBPF"]
fn this_host_is_asked_while_it_goes_on() {
    let query = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
        command.args(["query", "--format", "json"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut child = query(&[
        "SELECT proc_name FROM events WHERE evt_type = 'execve' AND proc_cmdline LIKE '%asked-live%'",
    ]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (done, acting) = std::sync::mpsc::channel::<()>();
    let actor = std::thread::spawn(move || {
        while acting.recv_timeout(Duration::from_millis(200))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let acted = Command::new("sh").args(["-c", ": asked-live"]).status();
            assert!(acted.unwrap().success());
        }
    });
    assert_eq!(lines.next().unwrap().unwrap(), "{\"proc_name\":\"sh\"}");
    for task in std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
    }
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let counted = query(&["--for", "2s", "SELECT count(*) > 3 AS many FROM events"]);
    let counted = counted.wait_with_output().unwrap();
    assert_eq!(counted.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&counted.stdout),
        "{\"many\":true}\n"
    );
    drop(done);
    actor.join().unwrap();
}
