//! Captures as they are made and asked: recordings that rotate, a full disk, many events.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dogwatch_tests::cache::repository;
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;

const PATIENCE: Duration = Duration::from_secs(60);
/// Magic word, version, table of calls.
const HEAD_BYTES: usize = 16;

/// A query over captures as a shell writes it with a glob, answered as CSV without its first line.
fn answer(captures: &[PathBuf], query: &str) -> Vec<String> {
    let mut command = programs::command("dogwatch");
    command.args(["query", "--format", "csv", "--read"]);
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(captures).arg(query).output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{query}: {errors}");
    let text = String::from_utf8(stdout).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end != "log"));
    files.sort();
    files
}

fn recorder(arguments: &[&str]) -> Command {
    let mut command = programs::command("dogwatch-sensor");
    command.arg("record").args(arguments);
    command.env("DOGWATCH_CONTAINERS__HOST_MODE", "full");
    command.env("DOGWATCH_STATE_FILE", "");
    command
}

#[test]
#[ignore = "needs root and a kernel with BTF: ./dogwatch.sh test"]
fn a_recording_rotates_and_its_last_file_can_be_read_alone() {
    const KEEP: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let log = |name: &str| folder.path().join(name);
    // It started before any file.
    let _early = Process::start(
        "sleep",
        Command::new("sleep").arg("86321"),
        &log("sleep.log"),
    );
    let name = folder.path().join("some.capture");
    let arguments = [
        name.to_str().unwrap(),
        "--rotate-size",
        "4MB",
        "--keep",
        "3",
    ];
    let recorder = Process::start("record", &mut recorder(&arguments), &log("record.log"));
    let deadline = Instant::now() + PATIENCE;
    let last = folder.path().join("some.capture.000005");
    while !last.exists() {
        assert!(
            Instant::now() < deadline,
            "{:?}: {}",
            files(folder.path()),
            recorder.log()
        );
        for _ in 0..20 {
            Command::new("true")
                .arg("a".repeat(20_000))
                .status()
                .unwrap();
        }
    }
    let ended = recorder.stop(PATIENCE);
    assert!(ended.success());

    let files = files(folder.path());
    assert_eq!(files.len(), KEEP, "{files:?}");
    for file in &files {
        let bytes = fs::metadata(file).unwrap().len();
        // The ring is read out at the end.
        let most = if file == &files[KEEP - 1] { 14 } else { 6 };
        assert!(bytes < most << 20, "{file:?}: {bytes} bytes");
    }
    let early = "SELECT proc_cmdline FROM events \
                 WHERE evt_type = 'running' AND proc_args[1] = '86321'";
    for file in &files {
        let found = answer(std::slice::from_ref(file), early);
        assert_eq!(found, ["sleep 86321"], "{file:?}");
    }
    // Of one recording a process that runs is told once, and each event.
    assert_eq!(answer(&files, early), ["sleep 86321"]);
    let execs = "SELECT count(*) FROM events WHERE evt_type = 'execve' AND proc_name = 'true'";
    let count = |files: &[PathBuf]| answer(files, execs)[0].parse::<u64>().unwrap();
    let each: u64 = files.chunks(1).map(&count).sum();
    let all = count(&files);
    // An exec of which one file has the begin and the next one the rest is in both.
    assert!(all > 100 && all.abs_diff(each) <= 2, "{all} {each}");
}

#[test]
#[ignore = "needs root and a kernel with BTF: ./dogwatch.sh test"]
fn a_full_disk_ends_a_recording_with_a_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // The disk is there for these programs alone.
    let script = "mount -t tmpfs -o size=6m none \"$1\" || exit 9; \"$2\" record \"$1/x\" & \
                  while kill -0 $! 2>/dev/null; do seq 1 3000 | xargs -n 1000 true; done; \
                  wait $!; echo \"ended with $?\"; \
                  \"$3\" query --read \"$1/x\" 'SELECT count(*) > 100 AS enough FROM events'";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.args([
        &disk,
        &programs::path("dogwatch-sensor"),
        &programs::path("dogwatch"),
    ]);
    command.env("DOGWATCH_CONTAINERS__HOST_MODE", "full");
    let mut shell = Process::start("shell", &mut command, &folder.path().join("log"));
    let ended = shell.wait(PATIENCE);
    let log = shell.log();
    assert!(ended.success(), "{log}");
    for words in ["No space left", "/disk/x", "ended with 1", "true"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("damaged"), "{log}");
}

#[test]
fn a_rotation_that_cannot_be_is_refused_with_the_mend() {
    for (arguments, words) in [
        (&["--rotate-size", "12"][..], "at least 1MB"),
        (&["--rotate-size", "-5MB"], "at least 1MB"),
        (&["--rotate-every", "10"], "such as 10m"),
        (&["--rotate-every", "5m", "--keep", "0"], "from 1"),
        (&["--keep", "3"], "--rotate-size"),
    ] {
        let mut command = recorder(&["/nowhere/x"]);
        let Output { status, stderr, .. } = command.args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

/// A capture's head with its host, and the frames that follow.
fn demo() -> (Vec<u8>, Vec<Vec<u8>>) {
    let bytes = fs::read(repository().join("console/demo.capture")).unwrap();
    let mut frames = Vec::new();
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        frames.push(bytes[at..at + 8 + length].to_vec());
        at += 8 + length;
    }
    let head = [&bytes[..HEAD_BYTES], &frames.remove(0)].concat();
    (head, frames)
}

#[test]
fn captures_of_one_recording_are_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (head, frames) = demo();
    let is_clock = |at: &usize| frames[*at][8..].starts_with(b"\x01{\"Clock\"");
    let clocks: Vec<usize> = (0..frames.len()).filter(is_clock).collect();
    let middle = clocks[clocks.len() / 2];
    let (first, second) = (folder.path().join("a 2"), folder.path().join("a 1"));
    for (path, frames) in [(&first, &frames[..middle]), (&second, &frames[middle..])] {
        fs::write(path, [&head[..], &frames.concat()].concat()).unwrap();
    }
    let query = "SELECT * FROM events";
    let whole = answer(&[repository().join("console/demo.capture")], query);
    assert!(whole.len() > 100);
    let part = answer(std::slice::from_ref(&first), query);
    assert!(
        part.len() > 10 && part.len() < whole.len(),
        "{} of {}",
        part.len(),
        whole.len()
    );
    // In any order, and one that is named twice is read once.
    assert!(answer(&[second.clone(), first.clone(), second.clone()], query) == whole);
    let repeated = |tail: &[&str]| {
        let mut command = programs::command("dogwatch");
        command.args(["query", "--format", "csv", "--read"]);
        command.arg(&first).arg("--read").arg(&second).args(tail);
        command.output().unwrap()
    };
    let lines = repeated(&[query])
        .stdout
        .iter()
        .filter(|b| **b == b'\n')
        .count();
    assert!(lines > whole.len());
    let refused = |output: Output, words: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    };
    refused(repeated(&[]), "write a query");
    refused(repeated(&[query, "SELECT 1"]), "too much");
    let mut two = programs::command("dogwatch");
    two.args(["query", query, "SELECT 1"]);
    refused(two.output().unwrap(), "too much");
}

/// The demo's capture, in which one open of a file stands `opens` times more.
fn many_events(path: &Path, opens: usize) {
    let (head, frames) = demo();
    let names_shadow = |frame: &Vec<u8>| frame.windows(11).any(|text| text == b"/etc/shadow");
    // A program with that argument is executed, and opens it.
    let open = frames.iter().rposition(names_shadow).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&head).unwrap();
    for (at, frame) in frames.iter().enumerate() {
        let times = if at == open { 1 + opens } else { 1 };
        for _ in 0..times {
            file.write_all(frame).unwrap();
        }
    }
    file.flush().unwrap();
}

#[test]
fn a_million_events_are_counted_in_bounded_time_and_memory() {
    const MOST_MEMORY_KIB: i64 = 192 << 10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.capture");
    let count = "SELECT count(*) FROM events WHERE fd_name = '/etc/shadow'";
    let few = answer(&[repository().join("console/demo.capture")], count);
    let few: usize = few[0].parse().unwrap();
    let opens = 1_000_000;
    many_events(&path, opens);
    let mut command = programs::command("dogwatch");
    command.args(["query", "--format", "csv", "--read"]);
    command.arg(&path).arg(count);
    #[expect(
        clippy::zombie_processes,
        reason = "`wait4` reaps it, and says what it used"
    )]
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    // SAFETY: all zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both places are valid and ours; the child is reaped by nobody else.
    unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    // Of the CPU: what else runs here does not count.
    let time = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let took = time(usage.ru_utime) + time(usage.ru_stime);
    let text = std::io::read_to_string(child.stdout.unwrap()).unwrap();
    println!("{took:.1} s, {} KiB", usage.ru_maxrss);
    assert_eq!(status, 0);
    assert_eq!(text.lines().nth(1), Some(&*(few + opens).to_string()));
    assert!(took < 60.0, "{took:.1} s");
    assert!(usage.ru_maxrss < MOST_MEMORY_KIB, "{} KiB", usage.ru_maxrss);
}
