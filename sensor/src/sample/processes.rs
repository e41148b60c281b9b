//! What processes use, from `/proc`: those that changed, and all of them once a minute.
//!
//! One file a process says whether it changed; the others are read only where it has a row. So an idle process costs one
//! small read a round.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::ProcessSample;

use super::Roots;
use super::calls::{self, ByClass};
use super::carried::Waiting;
use super::growth::difference;
use super::text::{long, named, read};
use crate::clock::Reading;
use crate::fact::{ProcessUsage, Sampled};
use crate::probe::{has, kernel_version};

/// Processes that a round looks at, and that are remembered to the next: as many as a table of 32,768 places holds, 5 MiB.
const PROCESSES_MAX: usize = 28_672;
/// Rows that are handed over at once.
const PIECE: usize = 128;
/// Each process has a row as often as this.
const FULL_NS: u64 = 60_000_000_000;
/// Descriptors that a round counts one by one at most: the kernel tells their number from 6.2 on.
const COUNTED_MAX: u64 = 200_000;
/// A tick of `/proc/PID/stat`.
const TICK_NS: i64 = 10_000_000;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Processes {
    roots: Roots,
    own_pid: u32,
    /// The size of `/proc/PID/fd` is the number of descriptors.
    kernel_counts: bool,
    page_bytes: i64,
    known: HashMap<u32, Known>,
    rounds: u64,
    /// When the round before began, nanoseconds since boot.
    round_ns: Option<u64>,
}

#[derive(Debug)]
struct Known {
    start_ticks: u64,
    stat: Stat,
    io: Option<[i64; 6]>,
    /// When it was looked at last: it had used nothing more by then.
    looked_ns: u64,
    row_due_ns: u64,
    round: u64,
}

/// What `/proc/PID/stat` tells; a difference is a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stat {
    user_ticks: i64,
    system_ticks: i64,
    minor_faults: i64,
    major_faults: i64,
    threads: i64,
    virtual_bytes: i64,
    resident_pages: i64,
}

/// What the kernel part counts of processes, where it does.
#[derive(Debug, Default)]
pub(super) struct Counts<'a> {
    /// What failed since the last round.
    pub failed: Option<&'a mut calls::Waiting>,
    /// What was sent and received.
    pub carried: Option<&'a mut Waiting>,
}

/// Of one process: none where it is not counted, or not known.
#[derive(Debug, Clone, Copy)]
struct Counted {
    failed: Option<ByClass>,
    carried: Option<[i64; 2]>,
}

impl Counts<'_> {
    fn of(&mut self, pid: u32, start_ticks: u64) -> Counted {
        let (failed, carried) = (self.failed.as_mut(), self.carried.as_mut());
        Counted {
            failed: failed.and_then(|waiting| waiting.take(pid, start_ticks)),
            carried: carried.and_then(|waiting| waiting.take(pid, start_ticks)),
        }
    }
}

impl Counts<'_> {
    fn end_round(self) {
        self.failed.map(calls::Waiting::end_round);
        self.carried.map(Waiting::end_round);
    }
}

impl Counted {
    fn has_any(&self) -> bool {
        self.failed.is_some_and(|sums| sums != [0; 4])
            || self.carried.is_some_and(|bytes| bytes != [0; 2])
    }
}

struct Looked {
    comm: Vec<u8>,
    start_ticks: u64,
    stat: Stat,
}

impl Processes {
    pub fn new(roots: Roots) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Self {
            kernel_counts: roots.proc == Path::new("/proc") && kernel_version() >= (6, 2),
            roots,
            own_pid: std::process::id(),
            page_bytes,
            known: HashMap::new(),
            rounds: 0,
            round_ns: None,
        }
    }

    /// Looks at all processes but this one, until `until` at most, and hands over the rows of those that have one; false when
    /// nobody takes them.
    pub fn round(
        &mut self,
        until: Instant,
        mut counts: Counts<'_>,
        round: &mut Sampled,
        hand_over: &mut dyn FnMut(Vec<ProcessUsage>) -> bool,
    ) -> bool {
        self.rounds += 1;
        let begun_ns = Reading::now().boot_ns;
        let mut rows = Vec::new();
        let mut counted = 0;
        let pids = self.pids();
        let mut whole = true;
        for (looked, &pid) in pids.iter().enumerate() {
            if looked >= PROCESSES_MAX || Instant::now() >= until {
                round.processes_unsampled += (pids.len() - looked) as u64;
                whole = false;
                break;
            }
            rows.extend(self.process(pid, &mut counts, &mut counted, &mut round.went_back));
            if rows.len() >= PIECE && !hand_over(std::mem::take(&mut rows)) {
                return false;
            }
        }
        // Those that were not looked at may be there still.
        if whole || self.known.len() > PROCESSES_MAX {
            let rounds = self.rounds;
            self.known.retain(|_, known| known.round == rounds);
            // A round in which many ended leaves no room behind that nobody uses.
            self.known.shrink_to_fit();
        }
        if whole {
            counts.end_round();
        }
        self.round_ns = Some(begun_ns);
        rows.is_empty() || hand_over(rows)
    }

    fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.roots.proc).into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.own_pid).collect()
    }

    /// Looks at a process; none where it ended meanwhile, or has no row.
    fn process(
        &mut self,
        pid: u32,
        counts: &mut Counts<'_>,
        counted: &mut u64,
        back: &mut u64,
    ) -> Option<ProcessUsage> {
        let folder = self.roots.proc.join(pid.to_string());
        let Looked {
            comm,
            start_ticks,
            stat,
        } = look(&folder)?;
        let now_ns = Reading::now().boot_ns;
        let of_kernel = counts.of(pid, start_ticks);
        let before = self
            .known
            .remove(&pid)
            .filter(|known| known.start_ticks == start_ticks);
        if let Some(mut known) = before {
            if known.stat == stat && !of_kernel.has_any() && now_ns < known.row_due_ns {
                known.looked_ns = now_ns;
                known.round = self.rounds;
                self.known.insert(pid, known);
                return None;
            }
            let sample = self.sample(&folder, stat, Some(&known), now_ns, counted, back);
            let row = self.row(pid, start_ticks, comm, stat, sample);
            return Some(with_counted(row, of_kernel));
        }
        // What began since the last round is compared with nothing used at all.
        let start_ns = start_ticks.saturating_mul(TICK_NS as u64);
        let begun = self.round_ns.is_some_and(|round_ns| start_ns >= round_ns);
        let nothing = Known {
            start_ticks,
            stat: Stat::default(),
            io: Some([0; 6]),
            looked_ns: start_ns,
            row_due_ns: 0,
            round: 0,
        };
        let before = begun.then_some(&nothing);
        let sample = self.sample(&folder, stat, before, now_ns, counted, back);
        let row = self.row(pid, start_ticks, comm, stat, sample);
        Some(with_counted(row, of_kernel))
    }

    fn row(
        &mut self,
        pid: u32,
        start_ticks: u64,
        comm: Vec<u8>,
        stat: Stat,
        (sample, io): (ProcessSample, Option<[i64; 6]>),
    ) -> ProcessUsage {
        let looked_ns = sample.boot_ts as u64;
        let known = Known {
            start_ticks,
            stat,
            io,
            looked_ns,
            row_due_ns: looked_ns + FULL_NS,
            round: self.rounds,
        };
        self.known.insert(pid, known);
        ProcessUsage {
            start_ticks,
            comm,
            sample: ProcessSample {
                proc_pid: i64::from(pid),
                ..sample
            },
        }
    }

    /// What it used since `before`, and its totals of input and output.
    fn sample(
        &self,
        folder: &Path,
        stat: Stat,
        before: Option<&Known>,
        now_ns: u64,
        counted: &mut u64,
        back: &mut u64,
    ) -> (ProcessSample, Option<[i64; 6]>) {
        let io = read(&folder.join("io")).and_then(|text| totals(&text));
        let mut grown = |now: i64, of: fn(&Stat) -> i64| {
            difference(Some(now), before.map(|known| of(&known.stat)), back)
        };
        let user = grown(stat.user_ticks, |stat| stat.user_ticks);
        let system = grown(stat.system_ticks, |stat| stat.system_ticks);
        let minor = grown(stat.minor_faults, |stat| stat.minor_faults);
        let major = grown(stat.major_faults, |stat| stat.major_faults);
        let mut added = |at: usize| {
            let before = before.and_then(|known| known.io).map(|io| io[at]);
            difference(io.map(|io| io[at]), before, back)
        };
        let sample = ProcessSample {
            boot_ts: long(now_ns),
            sample_interval_ns: before.map(|known| long(now_ns.saturating_sub(known.looked_ns))),
            proc_cpu_user_ns: user.map(|ticks| ticks.saturating_mul(TICK_NS)),
            proc_cpu_system_ns: system.map(|ticks| ticks.saturating_mul(TICK_NS)),
            proc_vmsize_bytes: Some(stat.virtual_bytes),
            proc_vmrss_bytes: Some(stat.resident_pages.saturating_mul(self.page_bytes)),
            proc_pfminor: minor,
            proc_pfmajor: major,
            proc_nthreads: Some(stat.threads),
            proc_fdopencount: descriptors(folder, self.kernel_counts, counted),
            proc_fdlimit: read(&folder.join("limits")).and_then(|text| descriptor_limit(&text)),
            proc_read_chars: added(0),
            proc_write_chars: added(1),
            proc_read_calls: added(2),
            proc_write_calls: added(3),
            proc_read_bytes: added(4),
            proc_write_bytes: added(5),
            ..ProcessSample::default()
        };
        (sample, io)
    }
}

/// Failures by class and bytes; none of them known where they are not counted, or the interval is not known.
fn with_counted(mut row: ProcessUsage, counted: Counted) -> ProcessUsage {
    if row.sample.sample_interval_ns.is_none() {
        return row;
    }
    let failed = counted.failed;
    let of = |class: usize| failed.map(|sums| sums[class]);
    row.sample.calls_failed_file = of(0);
    row.sample.calls_failed_net = of(1);
    row.sample.calls_failed_memory = of(2);
    row.sample.calls_failed_other = of(3);
    row.sample.proc_net_rx_bytes = counted.carried.map(|[rx, _]| rx);
    row.sample.proc_net_tx_bytes = counted.carried.map(|[_, tx]| tx);
    row
}

/// `pid (comm) state ppid …`; comm may hold blanks and parentheses.
fn look(folder: &Path) -> Option<Looked> {
    let text = fs::read(folder.join("stat")).ok()?;
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
    // One that has ended and waits for its parent uses nothing any more.
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(Looked {
        comm,
        start_ticks: u64::try_from(number(19)?).ok()?,
        stat: Stat {
            minor_faults: number(7)?,
            major_faults: number(9)?,
            user_ticks: number(11)?,
            system_ticks: number(12)?,
            threads: number(17)?,
            virtual_bytes: number(20)?,
            resident_pages: number(21)?,
        },
    })
}

/// Totals of `/proc/PID/io`, in the order of the columns.
fn totals(io: &str) -> Option<[i64; 6]> {
    let of = |name: &str| named(io, name).map(long);
    Some([
        of("rchar")?,
        of("wchar")?,
        of("syscr")?,
        of("syscw")?,
        of("read_bytes")?,
        of("write_bytes")?,
    ])
}

/// How many descriptors are open; none where that is not to be known, or would have to be counted for too long.
fn descriptors(folder: &Path, kernel_counts: bool, counted: &mut u64) -> Option<i64> {
    let folder = folder.join("fd");
    if kernel_counts {
        return fs::metadata(&folder).ok().map(|folder| long(folder.len()));
    }
    if *counted >= COUNTED_MAX {
        return None;
    }
    let entries = fs::read_dir(&folder).ok()?;
    let left = COUNTED_MAX - *counted;
    let found = entries.take(left as usize).count() as u64;
    *counted += found;
    (found < left).then_some(long(found))
}

/// The soft limit; none where there is none.
fn descriptor_limit(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What cannot be read of other users' processes, and why.
pub(super) fn lacking(proc: &Path) -> Vec<(Text, Text)> {
    let mut lacking = Vec::new();
    let io: PathBuf = proc.join("self/io");
    if read(&io).is_none() {
        let why = "this kernel is built without TASK_IO_ACCOUNTING";
        lacking.push(("proc_read_chars to proc_write_bytes".into(), why.into()));
    }
    if !has(caps::Capability::CAP_SYS_PTRACE) {
        let why = "without CAP_SYS_PTRACE these files of other users' processes may not be read";
        lacking.push((
            "proc_fdopencount, proc_read_chars to proc_write_bytes".into(),
            why.into(),
        ));
    }
    lacking
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::{Carried, Grown};

    fn stat(pid: u32, user: u32, start: u64) -> String {
        format!(
            "{pid} (a) b) S 1 1 1 0 -1 4194560 11 0 2 0 {user} 5 0 0 20 0 3 0 {start} 8192 2 1 1\n"
        )
    }

    fn process(proc: &Path, pid: u32, user: u32, start: u64) {
        let folder = proc.join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).unwrap();
        fs::write(folder.join("stat"), stat(pid, user, start)).unwrap();
        let io = format!(
            "rchar: {user}\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 0\n"
        );
        fs::write(folder.join("io"), io).unwrap();
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 1048576              files     \n";
        fs::write(folder.join("limits"), limits).unwrap();
        for fd in 0..3 {
            fs::write(folder.join("fd").join(fd.to_string()), "").unwrap();
        }
    }

    fn round(processes: &mut Processes) -> (Vec<ProcessUsage>, Sampled) {
        let mut rows = Vec::new();
        let mut told = Sampled::default();
        let until = Instant::now() + Duration::from_secs(60);
        assert!(
            processes.round(until, Counts::default(), &mut told, &mut |some| {
                rows.extend(some);
                true
            })
        );
        (rows, told)
    }

    fn processes(proc: &Path) -> Processes {
        Processes::new(Roots {
            proc: proc.to_owned(),
            sys: proc.to_owned(),
        })
    }

    #[test]
    fn one_that_sent_something_has_a_row_with_it() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 100, 50);
        process(proc.path(), 8, 100, 50);
        let mut processes = processes(proc.path());
        let mut told = Sampled::default();
        let mut round = |waiting: &mut Waiting| {
            let mut rows = Vec::new();
            let counts = Counts {
                failed: None,
                carried: Some(waiting),
            };
            let until = Instant::now() + Duration::from_secs(60);
            assert!(processes.round(until, counts, &mut told, &mut |some| {
                rows.extend(some);
                true
            }));
            let bytes = |row: &ProcessUsage| {
                let sample = &row.sample;
                (
                    sample.proc_pid,
                    sample.proc_net_rx_bytes,
                    sample.proc_net_tx_bytes,
                )
            };
            let mut rows: Vec<_> = rows.iter().map(bytes).collect();
            rows.sort_unstable();
            rows
        };
        let mut waiting = Waiting::default();
        waiting.add(&carried(7, 5, 1, 0));
        let first = round(&mut waiting);
        assert_eq!(
            first,
            [(7, None, None), (8, None, None)],
            "of an interval that is not known"
        );
        waiting.add(&carried(7, 5, 1, 0));
        assert_eq!(round(&mut waiting), [(7, Some(5), Some(1))]);
        assert_eq!(round(&mut waiting), [], "told once");
        process(proc.path(), 8, 101, 50);
        assert_eq!(round(&mut waiting), [(8, Some(0), Some(0))]);
        process(proc.path(), 8, 102, 50);
        waiting.add(&carried(7, 5, 1, 3));
        assert_eq!(
            round(&mut waiting),
            [(8, None, None)],
            "some were counted nowhere"
        );
    }

    fn carried(pid: u32, rx_bytes: u64, tx_bytes: u64, refused: u64) -> Carried {
        let grown = Grown {
            start_ns: 50 * TICK_NS as u64,
            pid,
            rx_bytes,
            tx_bytes,
            whole: false,
        };
        Carried {
            grown: vec![grown],
            refused,
            refused_of_sockets: 0,
        }
    }

    #[test]
    fn only_what_changed_has_a_row_with_what_was_added() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 100, 50);
        process(proc.path(), 8, 100, 50);
        let mut processes = processes(proc.path());
        let (first, _) = round(&mut processes);
        assert_eq!(first.len(), 2, "all are told at first");
        let sample = &first[0].sample;
        assert_eq!(
            (sample.sample_interval_ns, sample.proc_cpu_user_ns),
            (None, None)
        );
        assert_eq!(
            (sample.proc_nthreads, sample.proc_fdlimit),
            (Some(3), Some(1024))
        );
        assert_eq!(sample.proc_fdopencount, Some(3));
        assert!(round(&mut processes).0.is_empty());
        process(proc.path(), 8, 103, 50);
        let (rows, told) = round(&mut processes);
        let sample = &rows[0].sample;
        assert_eq!((rows.len(), sample.proc_pid), (1, 8));
        assert_eq!(sample.proc_cpu_user_ns, Some(3 * TICK_NS));
        assert_eq!(sample.proc_cpu_system_ns, Some(0));
        assert_eq!(
            (sample.proc_read_chars, sample.proc_write_bytes),
            (Some(3), Some(0))
        );
        assert_eq!(told, Sampled::default());
        assert_eq!(rows[0].comm, b"a) b");
    }

    #[test]
    fn a_process_whose_calls_fail_has_a_row() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 100, 50);
        process(proc.path(), 8, 100, 50);
        let mut processes = processes(proc.path());
        round(&mut processes);
        let mut failed = calls::Waiting::of([((7, 50), [3, 0, 0, 1]), ((8, 49), [9, 9, 9, 9])]);
        let mut rows = Vec::new();
        let mut until = |until: Instant, rows: &mut Vec<ProcessUsage>| {
            let counts = Counts {
                failed: Some(&mut failed),
                carried: None,
            };
            processes.round(until, counts, &mut Sampled::default(), &mut |some| {
                rows.extend(some);
                true
            });
        };
        until(Instant::now(), &mut rows);
        assert!(rows.is_empty(), "a round that came to none of them");
        until(Instant::now() + Duration::from_secs(60), &mut rows);
        assert_eq!(
            rows.len(),
            1,
            "the other one is of a process that had the pid before"
        );
        let sample = &rows[0].sample;
        assert_eq!((sample.proc_pid, sample.calls_failed_file), (7, Some(3)));
        assert_eq!(
            (sample.calls_failed_net, sample.calls_failed_other),
            (Some(0), Some(1))
        );
    }

    #[test]
    fn a_pid_used_again_is_another_process_and_what_begins_is_counted_whole() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 100, 50);
        let mut processes = processes(proc.path());
        round(&mut processes);
        let now_ticks = Reading::now().boot_ns / TICK_NS as u64;
        process(proc.path(), 7, 30, now_ticks + 1);
        let (rows, told) = round(&mut processes);
        assert_eq!(rows[0].sample.proc_cpu_user_ns, Some(30 * TICK_NS));
        assert_eq!(told.went_back, 0);
        fs::remove_dir_all(proc.path().join("7")).unwrap();
        assert!(round(&mut processes).0.is_empty());
        assert!(processes.known.is_empty());
    }

    #[test]
    fn counters_that_go_back_are_null_and_counted() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 100, 50);
        let mut processes = processes(proc.path());
        round(&mut processes);
        process(proc.path(), 7, 90, 50);
        let (rows, told) = round(&mut processes);
        assert_eq!(rows[0].sample.proc_cpu_user_ns, None);
        assert_eq!(rows[0].sample.proc_cpu_system_ns, Some(0));
        assert_eq!(told.went_back, 2, "ticks, and bytes read");
    }

    #[test]
    fn a_round_has_an_end_and_counts_what_it_did_not_look_at() {
        let proc = tempfile::tempdir().unwrap();
        for pid in 1..=10 {
            process(proc.path(), pid, 1, 50);
        }
        let mut processes = processes(proc.path());
        let mut told = Sampled::default();
        assert!(processes.round(Instant::now(), Counts::default(), &mut told, &mut |_| true));
        assert_eq!(told.processes_unsampled, 10);
    }

    #[test]
    fn what_is_remembered_has_a_size() {
        let places = (PROCESSES_MAX * 8).div_ceil(7).next_power_of_two();
        assert!(places * (size_of::<(u32, Known)>() + 1) <= 5 << 20);
    }

    #[test]
    fn descriptors_are_counted_up_to_a_bound() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 7, 1, 50);
        let mut counted = COUNTED_MAX - 3;
        let folder = proc.path().join("7");
        assert_eq!(descriptors(&folder, false, &mut counted), None);
        assert_eq!(descriptors(&folder, false, &mut counted), None);
        assert_eq!(descriptors(&folder, false, &mut 0), Some(3));
    }
}
