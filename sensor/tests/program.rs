//! The program itself on this machine's kernel: what its threads may do, what it promises under load, how it starts without
//! Kafka and how it ends.
//!
//! Needs root and a kernel with type information, and fails without: there is nothing to prove elsewhere.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use caps::Capability;
use dogwatch_sensor::probe::KEPT;
use serde_json::Value;
use tempfile::TempDir;

/// A port of loopback where nobody listens: reserved, never assigned.
const NOBODY: &str = "127.0.0.1:1";
const PATIENCE: Duration = Duration::from_secs(60);
/// 2 s are promised on a machine that has time for the sensor; the loads and whatever else runs here leave it less.
const END_MAX: Duration = Duration::from_secs(4);
const SECOND_NS: i64 = 1_000_000_000;

/// One at a time: each loads the machine, and sees what the others do.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running program; killed when dropped.
struct Sensor {
    child: Child,
    folder: TempDir,
}

impl Sensor {
    /// Starts it with these arguments and variables; its log goes to a file.
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn(program(arguments, variables))
    }

    fn spawn(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        dies_with_its_starter(&mut command);
        let child = command.stderr(log).spawn().unwrap();
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until its log has `text`.
    fn says(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{text:?} is not in its log ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its log has `text` now that it has ended.
    fn says_now(&self, text: &str) {
        assert!(self.log().contains(text), "{}", self.log());
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: takes numbers; the child was not waited for, so its id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Asks it to end, which it does in order and within [`END_MAX`].
    fn ends_in_time(&mut self) {
        let (took, code) = self.end();
        assert_eq!(code, Some(0), "{}", self.log());
        println!("it took {took:?}");
        assert!(took < END_MAX, "it took {took:?}");
    }

    /// Asks it to end; returns how long that took and its exit code.
    fn end(&mut self) -> (Duration, Option<i32>) {
        let begin = Instant::now();
        self.signal(libc::SIGTERM);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (begin.elapsed(), status.code());
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "it does not end:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Collects its events until its output ends.
    fn events(&mut self) -> JoinHandle<Vec<Value>> {
        let output: ChildStdout = self.child.stdout.take().unwrap();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines
                .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
                .collect()
        })
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch-sensor"));
    command
        .args(arguments)
        .env("DOGWATCH_STATE_FILE", "")
        .env("DOGWATCH_METRICS__LISTEN", "")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// A shell that starts children as fast as it can; stopped when dropped.
struct Load(Child);

impl Load {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do (:); done"]);
        dies_with_its_starter(&mut command);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the kernel kill the child with the test, and lets it hear a SIGHUP even where the tests were started to ignore it.
fn dies_with_its_starter(command: &mut Command) {
    // SAFETY: prctl and signal are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
}

fn boot_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid and writable.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec * SECOND_NS + time.tv_nsec
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What the program serves to Prometheus.
fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The value of a line of metrics that begins so.
fn metric(port: u16, begin: &str) -> Option<f64> {
    let text = metrics(port);
    let line = text.lines().find(|line| line.starts_with(begin))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn wait_for(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < deadline, "{what} was not seen");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Bits that a thread may have: those kept, and before 5.19 the one for access to maps.
fn allowed_bits() -> u64 {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let mut allowed: Vec<Capability> = KEPT.iter().map(|(capability, _)| *capability).collect();
    if version < (5, 19) {
        allowed.push(Capability::CAP_BPF);
    }
    allowed.iter().map(|one| 1 << one.index()).sum()
}

/// Whether it runs under these circumstances, and what `check` says of them.
fn check_and_run_agree(
    variables: &[(&str, &str)],
    restrict: impl Fn(&mut Command),
    runs: bool,
    said: &str,
) {
    let mut command = program(&["check", "--kafka", NOBODY], variables);
    restrict(&mut command);
    let output = command.output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let lacking = |line: &str| line.contains(said) && !line.starts_with("works");
    assert!(report.lines().any(lacking), "{said}:\n{report}");
    let code = if runs { Some(0) } else { Some(3) };
    assert_eq!(output.status.code(), code, "{said}:\n{report}");

    let mut command = program(&["run", "--kafka", NOBODY], variables);
    restrict(&mut command);
    let mut sensor = Sensor::spawn(command);
    if runs {
        sensor.says("watching");
    } else {
        let status = sensor.child.wait().unwrap();
        assert!(!status.success(), "{said}:\n{}", sensor.log());
    }
    assert!(sensor.log().contains(said), "{said}:\n{}", sensor.log());
}

fn without_ptrace(command: &mut Command) {
    let restrict = || {
        caps::drop(None, caps::CapSet::Bounding, Capability::CAP_SYS_PTRACE)
            .map_err(std::io::Error::other)
    };
    // SAFETY: system calls; the child has one thread.
    unsafe { command.pre_exec(restrict) };
}

/// As in a container that has neither the right to look into other processes nor the host's machine id.
fn without_machine_id(command: &mut Command) {
    without_ptrace(command);
    let restrict = || {
        let mount = |from: &CStr, at: &CStr, flags| {
            // SAFETY: the texts outlive the call, no file system's own data is passed.
            let done = unsafe {
                let none = std::ptr::null();
                libc::mount(from.as_ptr(), at.as_ptr(), none, flags, none.cast())
            };
            if done == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        };
        // SAFETY: a plain system call.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        match fs::exists("/etc/machine-id")? {
            true => mount(c"/dev/null", c"/etc/machine-id", libc::MS_BIND),
            false => Ok(()),
        }
    };
    // SAFETY: system calls; the child has one thread.
    unsafe { command.pre_exec(restrict) };
}

/// As under `ulimit -n 24`, without the right to raise it.
fn with_few_files(command: &mut Command) {
    let restrict = || {
        let limit = libc::rlimit {
            rlim_cur: 24,
            rlim_max: 24,
        };
        // SAFETY: a plain system call that reads the struct.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        caps::drop(None, caps::CapSet::Bounding, Capability::CAP_SYS_RESOURCE)
            .map_err(std::io::Error::other)
    };
    // SAFETY: system calls; the child has one thread.
    unsafe { command.pre_exec(restrict) };
}

#[test]
fn check_and_run_agree_on_what_is_there_and_what_is_not() {
    let _alone = alone();
    let unrestricted = |_: &mut Command| {};
    let ptrace = "without it stay unknown: exe, cwd and root";
    check_and_run_agree(&[], without_ptrace, true, ptrace);
    // In a mount namespace of its own, the host's stays unknown.
    let named = [("DOGWATCH_HOST_ID", "named")];
    let stage = "the stage (proc_stage)";
    check_and_run_agree(&named, without_machine_id, true, stage);
    check_and_run_agree(&[], without_machine_id, false, "/etc/machine-id");
    check_and_run_agree(&[], with_few_files, false, "LimitNOFILE=1024");
    let option = [("DOGWATCH_KAFKA__OPTIONS__NO_SUCH_OPTION", "1")];
    check_and_run_agree(&option, unrestricted, false, "no.such.option");
    let off = [("DOGWATCH_CONTAINERS__MODE", "off")];
    check_and_run_agree(&off, unrestricted, true, "containers are not watched");
    let state = [("DOGWATCH_STATE_FILE", "/proc/version/state.json")];
    check_and_run_agree(&state, unrestricted, true, "state_file");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let metrics = [("DOGWATCH_METRICS__LISTEN", listen.as_str())];
    check_and_run_agree(&metrics, unrestricted, true, "metrics.listen");
}

#[test]
fn every_thread_has_only_what_it_needs() {
    let _alone = alone();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let variables = [("DOGWATCH_METRICS__LISTEN", listen.as_str())];
    let mut sensor = Sensor::start(&["run", "--kafka", NOBODY], &variables);
    sensor.says("watching");
    let mut names = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", sensor.child.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap().rsplit('\t').next().unwrap().to_owned()
        };
        let name = field("Name:");
        for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
            let bits = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(bits & !allowed_bits(), 0, "{name}: {set} {bits:x}");
        }
        assert_eq!(field("CapInh:"), "0000000000000000", "{name}");
        assert_eq!(field("NoNewPrivs:"), "1", "{name}");
        assert_eq!(field("Seccomp:"), "2", "{name}");
        names.push(name);
    }
    for expected in ["dogwatch-sensor", "read", "signals", "seek kafka"] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
    // The server of metrics, librdkafka's threads and the one that polls it.
    assert!(names.len() >= 7, "{names:?}");
}

#[test]
fn a_hangup_ends_it_in_order_and_a_second_interrupt_at_once() {
    let _alone = alone();
    let quick = [("DOGWATCH_KAFKA__DRAIN_TIMEOUT", "1s")];
    let mut sensor = Sensor::start(&["run", "--kafka", NOBODY], &quick);
    sensor.says("watching");
    sensor.signal(libc::SIGHUP);
    assert_eq!(sensor.child.wait().unwrap().code(), Some(0));
    sensor.says_now("SIGHUP");

    // The first waits for brokers that are away.
    let slow = [("DOGWATCH_KAFKA__DRAIN_TIMEOUT", "60s")];
    let mut sensor = Sensor::start(&["run", "--kafka", NOBODY], &slow);
    sensor.says("watching");
    sensor.signal(libc::SIGINT);
    sensor.says("stopping");
    // Who runs programs, as `timeout` does, sends a signal to one and to its group: that is one signal.
    sensor.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(sensor.child.try_wait().unwrap().is_none());
    let begin = Instant::now();
    sensor.signal(libc::SIGINT);
    assert_eq!(sensor.child.wait().unwrap().code(), Some(1));
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn started_by_nohup_it_outlives_a_hangup() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let log = File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new("nohup");
    command
        .arg(env!("CARGO_BIN_EXE_dogwatch-sensor"))
        .args(["run", "--output", "json"])
        .env("DOGWATCH_STATE_FILE", "")
        .env("DOGWATCH_METRICS__LISTEN", "")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    dies_with_its_starter(&mut command);
    let child = command.spawn().unwrap();
    let mut sensor = Sensor { child, folder };
    sensor.says("watching");
    sensor.signal(libc::SIGHUP);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(sensor.child.try_wait().unwrap(), None, "{}", sensor.log());
    assert_eq!(sensor.end().1, Some(0));
}

#[test]
fn without_a_broker_it_watches_and_counts_what_finds_no_room() {
    let _alone = alone();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let variables = [
        ("DOGWATCH_METRICS__LISTEN", listen.as_str()),
        ("DOGWATCH_KAFKA__QUEUE_BYTES", "1MiB"),
    ];
    let mut sensor = Sensor::start(&["run", "--kafka", NOBODY], &variables);
    sensor.says("could not reach Kafka at 127.0.0.1:1");
    let _load = Load::start();
    let full = "dogwatch_lost_events_total{class=\"queue_full\"}";
    wait_for("a full queue", || metric(port, full) > Some(0.0));
    assert_eq!(metric(port, "dogwatch_kafka_connected"), Some(0.0));
    assert!(metric(port, "dogwatch_publish_events_total") > Some(100.0));
    let queued = metric(port, "dogwatch_kafka_queued_bytes");
    assert!(
        queued > Some(0.0) && queued <= Some(1048576.0),
        "{queued:?}"
    );
    sensor.ends_in_time();
    let log = sensor.log();
    assert!(log.contains("undelivered_at_end"), "{log}");
    assert!(log.contains("queue_full"), "{log}");
}

#[test]
fn an_end_does_not_wait_for_who_does_not_read() {
    let _alone = alone();
    let variables = [("DOGWATCH_CONTAINERS__DOCKER_ROOT", "/dogwatch/none")];
    let mut sensor = Sensor::start(&["run", "--output", "json"], &variables);
    // What is missing is told before the first event.
    sensor.says("/dogwatch/none");
    let _load = [Load::start(), Load::start()];
    // Standard output is a pipe of 64 KiB that nobody reads.
    thread::sleep(Duration::from_secs(3));
    sensor.ends_in_time();
    let log = sensor.log();
    assert!(log.contains("undelivered_at_end"), "{log}");
}

/// A window over the time asks the marks: they must not promise what had not been published, nor keep a loss to themselves.
#[test]
fn a_reader_that_stood_still_under_load_overtakes_nothing_and_hides_no_loss() {
    let _alone = alone();
    let variables = [("DOGWATCH_KERNEL__RING_BYTES", "64KiB")];
    let mut sensor = Sensor::start(&["run", "--output", "json"], &variables);
    let events = sensor.events();
    sensor.says("watching");
    let _load = [Load::start(), Load::start()];
    thread::sleep(Duration::from_millis(2_500));
    sensor.signal(libc::SIGSTOP);
    let stopped_ns = boot_ns();
    thread::sleep(Duration::from_secs(2));
    sensor.signal(libc::SIGCONT);
    thread::sleep(Duration::from_millis(2_500));
    let (_, code) = sensor.end();
    assert_eq!(code, Some(0), "{}", sensor.log());

    let (mut marked_ns, mut late) = (0, 0);
    let mut marks = Vec::new();
    let events = events.join().unwrap();
    for event in &events {
        let boot_ns = event["boot_ts"].as_i64().unwrap();
        if event["evt_type"] == "mark" {
            marked_ns = marked_ns.max(boot_ns);
            let full = event["evt_losses"]["ring_full"].as_i64().unwrap_or(0);
            marks.push((boot_ns, full));
        } else if boot_ns <= marked_ns {
            late += 1;
        }
    }
    assert_eq!(
        late,
        0,
        "of {} events came after a mark of a later time",
        events.len()
    );
    let lost = |from_ns: i64, to_ns: i64| {
        let within = marks
            .iter()
            .filter(|(at_ns, _)| (from_ns..to_ns).contains(at_ns));
        within.map(|(_, full)| *full).collect::<Vec<_>>()
    };
    let before = *lost(0, stopped_ns).last().expect("a mark before the stop");
    // The ring of 64 KiB is full within a fraction of the first second.
    let after = lost(stopped_ns + SECOND_NS, i64::MAX);
    assert!(after.len() > 1, "{marks:?}");
    assert!(after.iter().all(|full| *full > before), "{marks:?}");
}

#[test]
fn an_end_under_load_does_not_wait_for_the_load() {
    let _alone = alone();
    let mut sensor = Sensor::start(&["run", "--output", "json"], &[]);
    let events = sensor.events();
    sensor.says("watching");
    let _load = [Load::start(), Load::start(), Load::start()];
    thread::sleep(Duration::from_secs(2));
    let asked_ns = boot_ns();
    sensor.ends_in_time();
    // The load goes on, the recording does not.
    let events = events.join().unwrap();
    let newest_ns = events
        .iter()
        .filter_map(|event| event["boot_ts"].as_i64())
        .max();
    let went_on_ns = newest_ns.unwrap() - asked_ns;
    assert!(went_on_ns < SECOND_NS, "it recorded for {went_on_ns} ns");
    assert_eq!(events.last().unwrap()["evt_type"], "mark");
}
