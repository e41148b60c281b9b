//! Samples where there is very much, or something in the way: each costs a bounded time and memory, and is counted.
//!
//! Needs root, a kernel with type information and `cc`.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[path = "samples/beside.rs"]
mod beside;
#[path = "memory/compiled.rs"]
mod compiled;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{ContainerSample, IoSample};

use crate::beside::{Cgroups, beside};
use crate::compiled::compiled;

const CONTAINERS: usize = 8;
/// Processes of a container.
const PROCESSES: usize = 1_250;
/// What each of them has open.
const OPENINGS: usize = 3;
/// What one process has open: the kernel allows a million, this machine may allow less.
const DESCRIPTORS: usize = 100_000;
/// Openings that a round remembers, and those of a container that it looks at.
const REMEMBERED: i64 = 28_672;
const OF_A_CONTAINER: i64 = 4_096;

/// Processes that have files open; ended when dropped.
struct Openers(Vec<Child>);

impl Openers {
    fn start(program: &Path, containers: &[Cgroups], descriptors: usize) -> Self {
        let mut openers = Self(Vec::new());
        for (at, container) in containers.iter().enumerate() {
            let own = if at == 0 { descriptors } else { 0 };
            let mut command = Command::new(program);
            let numbers = [PROCESSES, OPENINGS, own].map(|number| number.to_string());
            command.args(numbers).args(["0", "/etc/hostname"]);
            // A file that they all hold is none of theirs.
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            openers.0.push(container.start(command));
        }
        for opener in &mut openers.0 {
            let mut done = [0; 4];
            let mut words = opener.stdout.take().unwrap();
            words.read_exact(&mut done).unwrap();
            assert_eq!(&done, b"done");
        }
        openers
    }
}

impl Drop for Openers {
    fn drop(&mut self) {
        for opener in &mut self.0 {
            // Best effort: its children end with it.
            let _ = opener.kill();
            let _ = opener.wait();
        }
    }
}

/// Raises the limit of descriptors for what is started, as far as it goes; returns how many a process may have for itself.
fn allowed_descriptors() -> usize {
    let wanted = DESCRIPTORS as u64 + 100;
    let mut limit = libc::rlimit {
        rlim_cur: wanted,
        rlim_max: wanted,
    };
    // SAFETY: the structure is valid, and the kernel writes to it in the second call alone.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
            limit.rlim_cur = limit.rlim_max.min(wanted);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        }
    }
    limit.rlim_cur as usize - 100
}

/// What the last mark of a table counts as lost; nothing is lost otherwise.
fn unsampled<'a>(losses: impl Iterator<Item = &'a Option<BTreeMap<Text, i64>>>) -> i64 {
    let last = losses.flatten().last().cloned().unwrap_or_default();
    let others = last.iter().filter(|(class, _)| &***class != "unsampled");
    assert!(others.into_iter().all(|(_, count)| *count == 0), "{last:?}");
    last.get("unsampled").copied().unwrap_or_default()
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn ten_thousand_processes_and_very_many_descriptors_are_told_or_counted() {
    let descriptors = allowed_descriptors();
    let folder = tempfile::tempdir().unwrap();
    let program = compiled("opener", folder.path());
    beside(Duration::from_secs(5), |rows| {
        let containers: Vec<Cgroups> = (0..CONTAINERS).map(|_| Cgroups::make()).collect();
        let openers = Openers::start(&program, &containers, descriptors);
        // A round that reads all of it is not left out because the one before it still goes on.
        let begun = Instant::now();
        rows.rounds(3);
        assert!(begun.elapsed() < Duration::from_secs(25));
        let pid = i64::from(openers.0[0].id());
        drop(openers);

        let is_rest = |row: &&IoSample| &*row.evt_type == "rest";
        let rests: Vec<_> = containers
            .iter()
            .map(|container| {
                let own = |row: &&IoSample| row.container_full_id.as_deref() == Some(&container.id);
                let last = rows.io.iter().filter(own).rfind(is_rest);
                last.expect("each container has more than it may tell")
            })
            .collect();
        let all_of_first = (descriptors + PROCESSES * OPENINGS) as i64;
        let left = rests[0].fds_left_out.unwrap();
        assert!(
            (left + OF_A_CONTAINER - all_of_first).abs() <= 100,
            "{left}"
        );
        let open = (CONTAINERS - 1) as i64 * (PROCESSES * OPENINGS) as i64 + OF_A_CONTAINER;
        assert!(open > REMEMBERED, "{open}");
        let not_remembered = unsampled(rows.io.iter().map(|row| &row.evt_losses));
        assert!(not_remembered >= open - REMEMBERED, "{not_remembered}");

        let process = rows.processes.iter().rfind(|row| row.proc_pid == pid);
        let counted = process.unwrap().proc_fdopencount.unwrap() - descriptors as i64;
        assert!((0..20).contains(&counted), "{counted}");
        let pids: BTreeSet<i64> = rows.processes.iter().map(|row| row.proc_pid).collect();
        let not_looked_at = unsampled(rows.processes.iter().map(|row| &row.evt_losses));
        let told = pids.len() as i64;
        assert!(told + not_looked_at >= 10_000, "{told} and {not_looked_at}");
        assert!(told > 5_000, "{told}");
    });
}

/// A file system in user space that nobody serves: whoever looks into it waits for ever.
struct Hung {
    folder: tempfile::TempDir,
    _serving: std::fs::File,
}

impl Hung {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let serving = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let path = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            serving.as_raw_fd()
        );
        let options = CString::new(options).unwrap();
        // SAFETY: texts that end with NUL; the kernel copies them.
        let result = unsafe {
            libc::mount(
                c"hung".as_ptr(),
                path.as_ptr(),
                c"fuse".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self {
            folder,
            _serving: serving,
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let path = CString::new(self.folder.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: a text that ends with NUL. Who waits goes on when the descriptor is closed after it.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn a_file_system_that_does_not_answer_holds_no_round_up() {
    beside(Duration::from_secs(1), |rows| {
        let container = Cgroups::make();
        let hung = Hung::mount();
        let mut look = Command::new("/bin/cat");
        look.arg(hung.folder.path().join("x")).stderr(Stdio::null());
        let mut waiting = container.start(look);
        let begun = Instant::now();
        rows.rounds(5);
        assert!(begun.elapsed() < Duration::from_secs(15));
        assert_eq!(waiting.try_wait().unwrap(), None, "it waits");
        let pid = i64::from(waiting.id());
        assert!(rows.processes.iter().any(|row| row.proc_pid == pid));
        assert_eq!(
            unsampled(rows.processes.iter().map(|row| &row.evt_losses)),
            0
        );
        assert_eq!(
            unsampled(rows.containers.iter().map(|row| &row.evt_losses)),
            0
        );
        drop(hung);
        waiting.wait().unwrap();
    });
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn containers_that_vanish_while_they_are_read_have_no_half_rows() {
    beside(Duration::from_secs(1), |rows| {
        let stays = Cgroups::make();
        let mut sleeper = Command::new("/bin/sleep");
        sleeper.arg("600");
        let mut sleeper = stays.start(sleeper);
        let done = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            let vanishing = scope.spawn(|| {
                let mut made = Vec::new();
                while !done.load(Relaxed) {
                    let gone: Vec<Cgroups> = (0..20).map(|_| Cgroups::make()).collect();
                    // Some of them with a process that ends by itself.
                    for container in gone.iter().step_by(4) {
                        let ended = container.start(Command::new("/bin/true")).wait();
                        assert!(ended.unwrap().success());
                    }
                    made.extend(gone.iter().map(|container| container.id.clone()));
                }
                made
            });
            rows.rounds(6);
            done.store(true, Relaxed);
            vanishing.join().unwrap()
        });
        rows.rounds(2);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let of = |id: &str| {
            let own = |row: &&ContainerSample| row.container_full_id.as_deref() == Some(id);
            rows.containers.iter().filter(own).count()
        };
        println!("{} came and went", made.len());
        assert!(made.len() > 100, "{}", made.len());
        assert!(
            of(&stays.id) >= 6,
            "the one that stays has a row in each round"
        );
        assert!(made.iter().all(|id| of(id) <= 2));
        assert_eq!(
            unsampled(rows.containers.iter().map(|row| &row.evt_losses)),
            0
        );
        let seqs: Vec<i64> = rows.containers.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>());
    });
}
