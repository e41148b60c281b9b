//! The process table: who a process is, who started it, and what it belongs to.
//!
//! It is built from fork, exec and exit records and the start-up scan; a process seen in two of them is one entry.
//! A process is its pid and its start: a pid used again is another process.
//! Ended processes stay for a moment, because a late record of a dying thread may follow,
//! and as long as a child of theirs lives, so that lineage survives the parents' death.
//!
//! This module has no clock and does no input: time comes with the calls.

pub(crate) mod stage;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dogwatch_schemas::Text;

pub(crate) use self::stage::Stage;

/// Nanoseconds of one start tick, as `/proc/PID/stat` counts them.
const TICK_NS: u64 = 10_000_000;
/// How many ancestors are told.
pub(crate) const ANCESTORS_MAX: usize = 8;

/// A process over all time: its pid, and its start in ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    pub pid: u32,
    pub start_ticks: u64,
}

impl Id {
    /// From a start in nanoseconds since boot.
    pub fn new(pid: u32, start_ns: u64) -> Self {
        Self {
            pid,
            start_ticks: start_ns / TICK_NS,
        }
    }
}

/// What is known of a process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub id: Id,
    /// `proc_key`.
    pub key: Text,
    /// Start, nanoseconds since boot; whole ticks where only `/proc` told it.
    pub start_ns: u64,
    /// Who made it; stays what it was when that one ends.
    pub parent: Option<Id>,
    pub vpid: Option<u32>,
    pub sid: Option<u32>,
    pub pgid: Option<u32>,
    pub tty: Option<u32>,
    pub login_uid: Option<u32>,
    /// Effective ids on the host.
    pub uid: u32,
    pub gid: u32,
    /// Effective ids in its user namespace, and the host's they belong to.
    pub inner_ids: Option<InnerIds>,
    pub mnt_ns: Option<u32>,
    pub pid_ns: Option<u32>,
    pub cgroup_id: u64,
    /// The outermost container it is in.
    pub container: Option<Text>,
    /// The container it came from and has left.
    pub origin: Option<Text>,
    pub stage: Stage,
    pub comm: Option<Text>,
    pub program: Option<Program>,
    /// Some text of it was not UTF-8.
    pub escaped: bool,
    /// Nanoseconds since boot of its end.
    pub exit_ns: Option<u64>,
    children: u32,
    /// It waits among the ended.
    queued: bool,
}

/// Effective ids inside a user namespace, with the host's ids they were seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InnerIds {
    pub uid: u32,
    pub gid: u32,
    pub host_uid: u32,
    pub host_gid: u32,
}

/// The program a process executes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    pub exepath: Option<Text>,
    pub arg0: Option<Text>,
    /// All arguments, joined by blanks.
    pub cmdline: Option<Text>,
    /// Arguments after the first.
    pub args: Option<Vec<Text>>,
    pub cwd: Option<Text>,
    /// A secret was replaced in its arguments.
    pub redacted: bool,
    /// Its arguments were cut.
    pub truncated: bool,
}

impl Process {
    /// A process of which only this is known.
    pub fn new(id: Id, key: Text, start_ns: u64, uid: u32, gid: u32, cgroup_id: u64) -> Self {
        Self {
            id,
            key,
            start_ns,
            parent: None,
            vpid: None,
            sid: None,
            pgid: None,
            tty: None,
            login_uid: None,
            uid,
            gid,
            inner_ids: None,
            mnt_ns: None,
            pid_ns: None,
            cgroup_id,
            container: None,
            origin: None,
            stage: Stage::Host,
            comm: None,
            program: None,
            escaped: false,
            exit_ns: None,
            children: 0,
            queued: false,
        }
    }

    /// A child: the same program and the same place, until a record says otherwise.
    pub fn child(&self, id: Id, key: Text, start_ns: u64, cgroup_id: u64) -> Self {
        let fresh = Self {
            id,
            key,
            start_ns,
            cgroup_id,
            parent: Some(self.id),
            exit_ns: None,
            ..self.clone()
        };
        Self {
            children: 0,
            queued: false,
            ..fresh
        }
    }

    /// The effective user id inside its user namespace, as far as it is known.
    pub fn inner_uid(&self) -> Option<u32> {
        self.inner_ids
            .and_then(|ids| translate(self.uid, ids.host_uid, ids.uid))
    }

    /// The effective group id inside its user namespace.
    pub fn inner_gid(&self) -> Option<u32> {
        self.inner_ids
            .and_then(|ids| translate(self.gid, ids.host_gid, ids.gid))
    }
}

/// Ids change after exec (setuid); without a mapping every host id is the inner one, else only the one seen is known.
fn translate(now: u32, host: u32, inner: u32) -> Option<u32> {
    (now == host)
        .then_some(inner)
        .or((host == inner).then_some(now))
}

/// All processes that are remembered.
#[derive(Debug)]
pub(crate) struct ProcessTable {
    by_pid: HashMap<u32, Process>,
    /// Ended processes in the order of their end.
    ended: VecDeque<Id>,
    capacity: usize,
    keep_ns: u64,
    /// Processes forgotten early, or not taken in, because the table was full.
    pub evicted: u64,
}

impl ProcessTable {
    /// A table of at most `capacity` processes that keeps ended ones for `keep_after_exit`.
    pub fn new(capacity: usize, keep_after_exit: Duration) -> Self {
        let keep_ns = keep_after_exit.as_nanos() as u64;
        Self {
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            capacity,
            keep_ns,
            evicted: 0,
        }
    }

    /// How many processes are remembered.
    pub fn len(&self) -> usize {
        self.by_pid.len()
    }

    /// The process, if it is remembered.
    pub fn find(&self, id: Id) -> Option<&Process> {
        self.by_pid.get(&id.pid).filter(|process| process.id == id)
    }

    /// The process, to be changed.
    pub fn find_mut(&mut self, id: Id) -> Option<&mut Process> {
        self.by_pid
            .get_mut(&id.pid)
            .filter(|process| process.id == id)
    }

    /// The process that has this pid now.
    pub fn with_pid(&self, pid: u32) -> Option<&Process> {
        self.by_pid.get(&pid)
    }

    /// Takes a process in; one of another start under its pid is forgotten. A full table forgets the longest dead.
    pub fn insert(&mut self, process: Process) {
        let id = process.id;
        debug_assert!(
            self.find(id).is_none(),
            "a known process is changed, not taken in again"
        );
        self.forget(id.pid);
        while self.by_pid.len() >= self.capacity {
            self.evicted += 1;
            match self.ended.pop_front() {
                Some(dead) if self.find(dead).is_some() => self.forget(dead.pid),
                Some(_) => self.evicted -= 1,
                None => return,
            }
        }
        self.hold(process.parent);
        self.by_pid.insert(id.pid, process);
    }

    /// Marks a process as ended.
    pub fn exit(&mut self, id: Id, boot_ns: u64) {
        if let Some(process) = self.find_mut(id)
            && process.exit_ns.is_none()
        {
            process.exit_ns = Some(boot_ns);
            process.queued = true;
            self.ended.push_back(id);
        }
    }

    /// Forgets processes whose time after their end is over and that have no living children.
    pub fn reap(&mut self, boot_ns: u64) {
        while let Some(&id) = self.ended.front() {
            let keep_ns = self.keep_ns;
            let Some(process) = self.find_mut(id) else {
                self.ended.pop_front();
                continue;
            };
            if process.exit_ns.is_some_and(|end| end + keep_ns > boot_ns) {
                return;
            }
            process.queued = false;
            if process.children == 0 {
                self.forget(id.pid);
            }
            self.ended.pop_front();
        }
    }

    /// The ancestors, parent first, at most [`ANCESTORS_MAX`].
    pub fn ancestors<'a>(&'a self, process: &Process) -> impl Iterator<Item = &'a Process> {
        std::iter::successors(process.parent.and_then(|id| self.find(id)), |ancestor| {
            ancestor.parent.and_then(|id| self.find(id))
        })
        .take(ANCESTORS_MAX)
    }

    /// The first process of the session `process` is in.
    pub fn session_leader(&self, process: &Process) -> Option<&Process> {
        // The leader's pid is the session's id; a younger process of that pid is not it.
        self.with_pid(process.sid?)
            .filter(|leader| leader.start_ns <= process.start_ns)
    }

    fn hold(&mut self, parent: Option<Id>) {
        if let Some(parent) = parent.and_then(|id| self.find_mut(id)) {
            parent.children += 1;
        }
    }

    /// A child is gone: a dead parent that waited for it goes too, and so upwards.
    fn release(&mut self, mut parent: Option<Id>) {
        while let Some(id) = parent {
            let Some(process) = self.find_mut(id) else {
                return;
            };
            process.children = process.children.saturating_sub(1);
            if process.children > 0 || process.exit_ns.is_none() || process.queued {
                return;
            }
            parent = process.parent;
            self.by_pid.remove(&id.pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        if let Some(gone) = self.by_pid.remove(&pid) {
            self.release(gone.parent);
        }
    }
}

#[cfg(test)]
mod tests;
