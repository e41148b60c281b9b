//! Samples: what containers, processes and the host use, read on a thread of its own.
//!
//! ```text
//! ring's reader ── round: containers and their cgroups ──► thread "sample" ── cgroup files, /proc ──► facts, in pieces
//!        ▲                                                                                                 │
//!        └──────────────────────────────── takes what is there, never waits ──────────────────────────────┘
//! ```
//! The reader has the clock: it asks for a round when one is due. A round that is still under way then is not joined by a
//! second one: what was due is counted as lost (`unsampled`). So a file system that hangs costs samples, and nothing else.
//! What grew since the last reading is computed here, so a capture holds what a row tells, and a replay the same rows.

pub(crate) mod calls;
mod carried;
mod cgroups;
mod files;
mod growth;
mod machine;
mod network;
mod opened;
mod openings;
mod processes;
mod text;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use dogwatch_schemas::Text;

use crate::clock::Reading;
use crate::fact::{Fact, Sampled};
use crate::probe::{CarriedBytes, FailedCalls, OpenFiles, ProbeError, tells_net_bytes};
use calls::Calls;
use carried::CarriedRounds;
use cgroups::Containers;
pub(crate) use cgroups::{Accounts, Subject};
use files::Files;
use machine::Machine;
use processes::{Counts as OfProcesses, Processes};

/// Pieces of a round that wait to be taken; the thread waits while there are more.
const PIECES_MAX: usize = 4;
/// A round may take this part of the interval; what has not been looked at by then is counted.
const ROUND_PART: u32 = 2;
/// What is open may take this part of it.
const FILES_PART: u32 = 4;
/// A tick of `/proc/PID/stat`.
const TICK_NS: u64 = 10_000_000;
/// Processes of which something waits for their row; more only where rounds are cut again and again.
const WAITING_MAX: usize = 28_672;

/// What is sampled, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplePlan {
    /// Time between two rounds.
    pub interval: Duration,
    /// Whether containers and the host are sampled.
    pub containers: bool,
    /// Whether processes are sampled.
    pub processes: bool,
    /// Whether calls that fail are counted.
    pub calls: bool,
    /// Whether open files and connections are sampled.
    pub io: bool,
    /// Whether the bytes of processes and of sockets of UDP are counted, where the kernel can.
    pub network: bool,
}

impl SamplePlan {
    /// Whether anything is sampled at all.
    pub(crate) fn has_any(&self) -> bool {
        self.containers || self.processes || self.calls || self.io
    }

    /// Whether there is a table that tells bytes of processes or of sockets of UDP.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.network && (self.processes || self.io)
    }
}

/// What the samples take over of the kernel part.
#[derive(Default)]
pub(crate) struct Counts {
    pub failed_calls: Option<FailedCalls>,
    pub open_files: Option<OpenFiles>,
    pub carried_bytes: Option<CarriedBytes>,
}

/// Where the kernel's files are.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// The reader's side of the thread; see the module's description.
#[derive(Debug)]
pub(crate) struct Sampler {
    plan: SamplePlan,
    asked: SyncSender<Vec<Subject>>,
    pieces: Receiver<Vec<Fact>>,
    under_way: bool,
    due_ns: u64,
    /// So far in this run, rounds that did not come and processes that were not looked at.
    sampled: Sampled,
    warned: bool,
}

impl Sampler {
    /// Starts the thread, with the rights of the calling one.
    ///
    /// # Errors
    /// When the system has no thread.
    pub fn start(
        plan: SamplePlan,
        roots: Roots,
        cgroup_root: PathBuf,
        counts: Counts,
    ) -> std::io::Result<Self> {
        let (asked, rounds) = sync_channel::<Vec<Subject>>(1);
        let (sender, pieces) = sync_channel(PIECES_MAX);
        let worker = move || {
            let mut reading = Rounds::new(plan, roots, cgroup_root, counts);
            for subjects in rounds {
                let mut hand_over = |facts: Vec<Fact>| sender.send(facts).is_ok();
                if !reading.round(&subjects, &mut hand_over) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sample".into());
        thread.spawn(worker)?;
        Ok(Self {
            plan,
            asked,
            pieces,
            under_way: false,
            due_ns: 0,
            sampled: Sampled::default(),
            warned: false,
        })
    }

    /// Whether a round is due: then [`Sampler::ask`] wants to know what runs.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }

    /// Asks for a round; returns what there is to tell where one cannot be had.
    pub fn ask(&mut self, now_ns: u64, subjects: Vec<Subject>) -> Option<Fact> {
        self.due_ns = now_ns + self.plan.interval.as_nanos() as u64;
        if !self.under_way && self.asked.try_send(subjects).is_ok() {
            self.under_way = true;
            return None;
        }
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "a round of samples is still under way when the next one is due: it is left out, and counted as unsampled"
            );
        }
        self.sampled.containers_unsampled += u64::from(self.plan.containers);
        self.sampled.processes_unsampled += u64::from(self.plan.processes);
        self.sampled.files_unsampled += u64::from(self.plan.io);
        Some(Fact::Sampled(Sampled {
            ended_ns: None,
            ..self.sampled
        }))
    }

    /// What has come since the last call; never waits.
    pub fn taken(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        while self.under_way {
            match self.pieces.try_recv() {
                Ok(piece) => facts.extend(piece),
                // Of a thread that is gone nothing comes any more, and each round is counted.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            if let Some(Fact::Sampled(round)) = facts.last_mut() {
                // The thread tells what this round left out.
                self.sampled.processes_unsampled += round.processes_unsampled;
                self.sampled.files_unsampled += round.files_unsampled;
                self.sampled.went_back += round.went_back;
                // The kernel part counts since the start.
                self.sampled.calls_unsampled =
                    self.sampled.calls_unsampled.max(round.calls_unsampled);
                *round = Sampled {
                    ended_ns: round.ended_ns,
                    ..self.sampled
                };
                self.under_way = false;
                self.warned = false;
            }
        }
        facts
    }
}

/// The thread's side: what was read before, to compare with.
struct Rounds {
    plan: SamplePlan,
    machine: Machine,
    containers: Containers,
    processes: Processes,
    calls: Option<Calls>,
    failed: calls::Waiting,
    files: Option<Files>,
    carried: Option<CarriedRounds>,
}

impl Rounds {
    fn new(plan: SamplePlan, roots: Roots, cgroup_root: PathBuf, counts: Counts) -> Self {
        let failed_calls = counts.failed_calls.filter(|_| plan.calls);
        let open_files = counts.open_files.filter(|_| plan.io);
        Self {
            plan,
            calls: failed_calls.map(|table| Calls::new(table, roots.clone())),
            failed: calls::Waiting::default(),
            files: open_files.map(|files| Files::new(files, roots.clone())),
            carried: counts
                .carried_bytes
                .map(|table| CarriedRounds::new(table, roots.clone())),
            machine: Machine::new(roots.clone()),
            containers: Containers::new(&roots, cgroup_root),
            processes: Processes::new(roots),
        }
    }

    /// Reads everything once and hands it over in pieces; false when nobody takes them any more.
    fn round(
        &mut self,
        subjects: &[Subject],
        hand_over: &mut dyn FnMut(Vec<Fact>) -> bool,
    ) -> bool {
        let mut round = Sampled::default();
        let begun_ns = Reading::now().boot_ns;
        let mut failed = None;
        if let Some((calls, refused)) = self.calls.as_mut().and_then(Calls::round) {
            round.calls_unsampled = refused;
            self.failed.add(&calls);
            failed = Some(&mut self.failed);
            if !hand_over(vec![Fact::FailedCalls(calls)]) {
                return false;
            }
        }
        if self.plan.containers {
            let host = self
                .machine
                .sample(Reading::now().boot_ns, &mut round.went_back);
            if !hand_over(vec![Fact::ContainerSample(Box::new(host))]) {
                return false;
            }
            for some in subjects.chunks(64) {
                let samples = self.containers.samples(some, &mut round.went_back);
                let facts = samples.into_iter();
                let facts = facts.map(|sample| Fact::ContainerSample(Box::new(sample)));
                if !hand_over(facts.collect()) {
                    return false;
                }
            }
            self.containers.end_round(begun_ns);
        }
        let until = std::time::Instant::now() + self.plan.interval / FILES_PART;
        if let Some(files) = &mut self.files {
            let (told, unsampled) = match files.round(until) {
                Some((told, unsampled)) => (Some(told), unsampled),
                None => (None, 1),
            };
            round.files_unsampled += unsampled;
            if !told.is_none_or(|told| hand_over(vec![Fact::OpenFiles(told)])) {
                return false;
            }
        }
        // Also where no rows tell them: else the kernel's table fills.
        let carried = self.carried.as_mut().and_then(CarriedRounds::round);
        let carried = carried.map(|(carried, refused)| {
            round.processes_unsampled += u64::from(self.plan.processes) * refused.of_processes;
            round.files_unsampled += u64::from(self.plan.io) * refused.of_sockets;
            carried
        });
        if self.plan.processes {
            let until = std::time::Instant::now() + self.plan.interval / ROUND_PART;
            let counts = OfProcesses { failed, carried };
            let taken = self
                .processes
                .round(until, counts, &mut round, &mut |some| {
                    hand_over(vec![Fact::ProcessSamples(some)])
                });
            if !taken {
                return false;
            }
        }
        round.ended_ns = Some(Reading::now().boot_ns);
        hand_over(vec![Fact::Sampled(round)])
    }
}

/// The columns that `samples.network` is for.
pub(crate) const OF_NETWORK: &str = "proc_net_rx_bytes, proc_net_tx_bytes in process_samples, and fd_rx_bytes, fd_tx_bytes of UDP in io_samples";

/// What samples cannot have on this host, one line each: the columns, and why.
pub(crate) fn lacking(plan: &SamplePlan, accounts: &Accounts, proc: &Path) -> Vec<(Text, Text)> {
    let mut lacking = Vec::new();
    if plan.containers {
        lacking.extend(accounts.lacking());
    }
    if plan.processes {
        lacking.extend(processes::lacking(proc));
    }
    if plan.io {
        lacking.extend(files::lacking());
    }
    if plan.counts_bytes() && !tells_net_bytes() {
        lacking.push((OF_NETWORK.into(), ProbeError::NoNetBytes.to_string().into()));
    }
    lacking
}

#[cfg(test)]
mod tests;
