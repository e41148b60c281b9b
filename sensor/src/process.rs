//! The process table: who a process is, who started it, and what it belongs to.
//!
//! It is built from fork, exec and exit records and the start-up scan; a process seen in two of them is one entry.
//! A process is its pid and its start: a pid used again is another process.
//! Ended processes stay for a moment, because a late record of a dying thread may follow,
//! and as long as a child of theirs lives, so that lineage survives the parents' death.
//!
//! The table has one budget in bytes. When it is used up, the container that uses most of it loses processes first
//! ([`shares`]); of the living ones enough is kept to know them again ([`remains`]). Whoever just came in always stays, so
//! no event depends on there being room.
//!
//! This module has no clock and does no input: time comes with the calls.

mod remains;
mod shares;
pub(crate) mod stage;

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dogwatch_schemas::Text;

use self::remains::Evicted;
use self::shares::{Candidate, Charge, Shares};
pub(crate) use self::stage::Stage;
use crate::container::Place;

/// Nanoseconds of one start tick, as `/proc/PID/stat` counts them.
const TICK_NS: u64 = 10_000_000;
/// What a process takes in the table beside its program: itself, its key and name, its places in maps and sets.
const PROCESS_BYTES: usize = size_of::<Process>() + 256;
/// What a text on the heap takes beside its bytes.
const TEXT_BYTES: usize = 32;
/// Arguments kept in the table, as one line, bytes; all of them are in the row of the exec alone.
pub(crate) const CMDLINE_BYTES_MAX: usize = 4_096;
/// How many processes of one tick can be each other's ancestors; none makes a child in less than 10 µs.
const SAME_TICK_MAX: usize = 1_024;
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
#[derive(Debug)]
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
    /// Where it is: the host, or the outermost container.
    pub place: Place,
    /// The container it came from and has left.
    pub origin: Option<Text>,
    /// `None` = not known: its beginning was not seen.
    pub stage: Option<Stage>,
    pub comm: Option<Text>,
    /// Shared with the children that did not execute anything else.
    pub program: Option<Arc<Program>>,
    /// Some text of it was not UTF-8.
    pub escaped: bool,
    /// Nanoseconds since boot of its end.
    pub exit_ns: Option<u64>,
    /// Another one after every change, and for every process.
    version: u64,
    children: u32,
    /// It waits among the ended.
    queued: bool,
    /// Something was heard of it since it was last considered for being given up.
    heard: Cell<bool>,
    order: u64,
    charge: Option<Charge>,
    program_charge: Option<Arc<Charge>>,
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
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Program {
    pub exepath: Option<Text>,
    pub arg0: Option<Text>,
    /// Arguments, joined by blanks, at most [`CMDLINE_BYTES_MAX`].
    pub cmdline: Option<Text>,
    /// Where each argument ends in `cmdline`.
    ends: Box<[u16]>,
    pub cwd: Option<Text>,
    /// A secret was replaced in its arguments.
    pub redacted: bool,
    /// The line of its arguments is not whole.
    pub cut: bool,
}

impl Program {
    /// A program with these arguments, the first included, as they may be told; keeps of them what fits.
    pub fn new(arguments: &[Text]) -> Self {
        let mut line = String::new();
        let mut ends = Vec::new();
        let mut cut = false;
        for (index, argument) in arguments.iter().enumerate() {
            let blank = usize::from(index > 0);
            let room = CMDLINE_BYTES_MAX.saturating_sub(line.len() + blank);
            if room == 0 {
                cut = true;
                break;
            }
            if index > 0 {
                line.push(' ');
            }
            let fits = argument.floor_char_boundary(room);
            line.push_str(&argument[..fits]);
            ends.push(line.len() as u16);
            cut |= fits < argument.len();
        }
        Self {
            arg0: arguments
                .first()
                .map(|first| crate::text::cut(first, CMDLINE_BYTES_MAX)),
            cmdline: Some(line.into()),
            ends: ends.into(),
            cut,
            ..Self::default()
        }
    }

    /// The arguments after the first, as far as they are kept; `None` when they are not known.
    pub fn args(&self) -> Option<Vec<Text>> {
        let line = self.cmdline.as_deref()?;
        let rest = self.ends.windows(2).map(|pair| {
            let (start, end) = (usize::from(pair[0]) + 1, usize::from(pair[1]));
            Text::from(line.get(start..end).unwrap_or_default())
        });
        Some(rest.collect())
    }

    /// What it takes in memory, bytes.
    fn bytes(&self) -> usize {
        let texts = [&self.exepath, &self.arg0, &self.cmdline, &self.cwd];
        let texts = texts
            .into_iter()
            .flatten()
            .map(|text| text.len() + TEXT_BYTES);
        size_of::<Self>() + TEXT_BYTES + size_of_val(&*self.ends) + texts.sum::<usize>()
    }
}

impl Process {
    /// A process of which only this is known.
    pub fn new(
        id: Id,
        key: Text,
        start_ns: u64,
        uid: u32,
        gid: u32,
        cgroup_id: u64,
        place: Place,
    ) -> Self {
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
            stage: (place == Place::Host).then_some(Stage::Host),
            place,
            origin: None,
            comm: None,
            program: None,
            escaped: false,
            exit_ns: None,
            version: 0,
            children: 0,
            queued: false,
            heard: Cell::new(false),
            order: 0,
            charge: None,
            program_charge: None,
        }
    }

    /// A child: the same program and the same place, until a record says otherwise.
    pub fn child(&self, id: Id, key: Text, start_ns: u64, cgroup_id: u64) -> Self {
        let place = self.place.clone();
        Self {
            parent: Some(self.id),
            vpid: self.vpid,
            sid: self.sid,
            pgid: self.pgid,
            tty: self.tty,
            login_uid: self.login_uid,
            inner_ids: self.inner_ids,
            mnt_ns: self.mnt_ns,
            pid_ns: self.pid_ns,
            origin: self.origin.clone(),
            stage: self.stage,
            comm: self.comm.clone(),
            program: self.program.clone(),
            escaped: self.escaped,
            program_charge: self.program_charge.clone(),
            ..Self::new(id, key, start_ns, self.uid, self.gid, cgroup_id, place)
        }
    }

    /// Names this state of this process: what was made from it is outdated once the number is another.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Notes that something was heard of it: others are given up first.
    pub fn hear(&self) {
        self.heard.set(true);
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            living: self.exit_ns.is_none(),
            order: self.order,
            pid: self.id.pid,
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
    by_pid: HashMap<u32, Box<Process>>,
    /// Ended processes in the order of their end.
    ended: VecDeque<Id>,
    shares: Shares,
    evicted: Evicted,
    bounds: TableBounds,
    orders: u64,
    versions: u64,
    /// Living processes given up because the table was full.
    pub living_evicted: u64,
}

/// Bounds of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableBounds {
    /// Processes remembered at most.
    pub processes_max: usize,
    /// Bytes they take at most.
    pub bytes_max: usize,
    /// How long a process is remembered after its end.
    pub keep_after_exit: Duration,
}

impl ProcessTable {
    /// An empty table.
    pub fn new(bounds: TableBounds) -> Self {
        Self {
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            shares: Shares::default(),
            evicted: Evicted::default(),
            bounds,
            orders: 0,
            versions: 0,
            living_evicted: 0,
        }
    }

    /// How many processes are remembered.
    pub fn len(&self) -> usize {
        self.by_pid.len()
    }

    /// The process, if it is remembered.
    pub fn find(&self, id: Id) -> Option<&Process> {
        self.with_pid(id.pid).filter(|process| process.id == id)
    }

    /// The process that has this pid now.
    pub fn with_pid(&self, pid: u32) -> Option<&Process> {
        self.by_pid.get(&pid).map(|process| &**process)
    }

    /// Changes a process, which gets another version; `None` when it is not remembered.
    pub fn update<T>(&mut self, id: Id, change: impl FnOnce(&mut Process) -> T) -> Option<T> {
        let process = entry(&mut self.by_pid, id)?;
        let place = process.place.clone();
        let program = process.program.as_ref().map(Arc::as_ptr);
        let (exit_ns, parent) = (process.exit_ns, process.parent);
        let result = change(process);
        self.versions += 1;
        process.version = self.versions;
        debug_assert_eq!(exit_ns, process.exit_ns, "ends are told by exit");
        process.hear();
        let adopter = process.parent.filter(|_| process.parent != parent);
        let moved = process.place != place;
        if moved {
            self.shares.leave(&place, process.candidate());
            process.charge = Some(self.shares.join(&process.place, PROCESS_BYTES));
            offer(&mut self.shares, process);
        }
        if process.program.as_ref().map(Arc::as_ptr) != program {
            charge_program(&mut self.shares, process);
            self.make_room(id.pid);
        }
        if adopter.is_some() {
            self.adopt(id, adopter, parent);
        }
        Some(result)
    }

    /// A process has another parent than before.
    fn adopt(&mut self, id: Id, adopter: Option<Id>, before: Option<Id>) {
        if let Some(adopter) = adopter.filter(|&adopter| self.may_have_made(adopter, id)) {
            self.hold(Some(adopter));
            self.release(before);
        } else if let Some(process) = entry(&mut self.by_pid, id) {
            process.parent = before;
        }
    }

    /// Nobody is made by a younger one, nor by a descendant; who says so is wrong, and lineage would have no end. Of the same
    /// tick all are looked at: a chain of more than [`SAME_TICK_MAX`] was not made in one.
    fn may_have_made(&self, parent: Id, child: Id) -> bool {
        let mut ancestor = Some(parent);
        for _ in 0..SAME_TICK_MAX {
            match ancestor {
                Some(id) if id == child => return false,
                Some(id) if id.start_ticks == child.start_ticks => {
                    ancestor = self.find(id).and_then(|process| process.parent);
                }
                _ => return parent.start_ticks <= child.start_ticks,
            }
        }
        false
    }

    /// Takes a process in; one of another start under its pid is forgotten. Where there is no room, others make it.
    pub fn insert(&mut self, mut process: Process) {
        let id = process.id;
        debug_assert!(
            self.find(id).is_none(),
            "a known process is changed, not taken in again"
        );
        self.forget(id.pid);
        process.parent = process
            .parent
            .filter(|&parent| self.may_have_made(parent, id));
        self.orders += 1;
        process.order = self.orders;
        self.versions += 1;
        process.version = self.versions;
        process.charge = Some(self.shares.join(&process.place, PROCESS_BYTES));
        if process.program_charge.is_none() {
            charge_program(&mut self.shares, &mut process);
        }
        self.hold(process.parent);
        offer(&mut self.shares, &process);
        self.by_pid.insert(id.pid, Box::new(process));
        self.make_room(id.pid);
    }

    /// Takes a process in again that was given up, with what was kept of it; false when nothing was.
    pub fn revive(&mut self, id: Id, key: Text) -> bool {
        match self.evicted.take(id, key) {
            Some(process) => {
                self.insert(process);
                true
            }
            None => false,
        }
    }

    /// Marks a process as ended.
    pub fn exit(&mut self, id: Id, boot_ns: u64) {
        if let Some(process) = entry(&mut self.by_pid, id)
            && process.exit_ns.is_none()
        {
            self.shares.withhold(&process.place, process.candidate());
            process.exit_ns = Some(boot_ns);
            process.queued = true;
            offer(&mut self.shares, process);
            self.ended.push_back(id);
            self.tidy_ended();
        }
    }

    /// Forgets processes whose time after their end is over and that have no living children.
    pub fn reap(&mut self, boot_ns: u64) {
        let keep_ns = self.bounds.keep_after_exit.as_nanos() as u64;
        let is_kept = |end_ns: u64| end_ns.saturating_add(keep_ns) > boot_ns;
        while let Some(&id) = self.ended.front() {
            let Some(process) = entry(&mut self.by_pid, id) else {
                self.ended.pop_front();
                continue;
            };
            if process.exit_ns.is_some_and(is_kept) {
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

    /// Gives processes up until the bounds hold, and a little more, so that not every newcomer has to look for room.
    fn make_room(&mut self, keep: u32) {
        let (processes_max, bytes_max) = (self.bounds.processes_max, self.bounds.bytes_max);
        if self.len() <= processes_max && self.shares.bytes() <= bytes_max {
            return;
        }
        let enough = (
            processes_max - processes_max / 64,
            bytes_max - bytes_max / 64,
        );
        while self.len() > enough.0 || self.shares.bytes() > enough.1 {
            let Some(largest) = self.shares.largest(keep) else {
                return;
            };
            let mut first = true;
            while (self.len() > enough.0 || self.shares.bytes() > enough.1)
                && (first || self.shares.bytes_of(&largest.place) > largest.next_bytes)
                && let Some(candidate) = self.shares.first(&largest.place, keep)
            {
                first = false;
                self.give_up(candidate);
            }
        }
    }

    /// Forgets one without children; a living one of which something was heard meanwhile has another turn.
    fn give_up(&mut self, candidate: Candidate) {
        let Some(process) = self.by_pid.get_mut(&candidate.pid) else {
            return;
        };
        if candidate.living && process.heard.take() {
            self.shares.withhold(&process.place, candidate);
            self.orders += 1;
            process.order = self.orders;
            offer(&mut self.shares, process);
            return;
        }
        if candidate.living {
            self.living_evicted += 1;
            self.evicted.keep(process);
        }
        self.forget(candidate.pid);
    }

    fn hold(&mut self, parent: Option<Id>) {
        if let Some(parent) = parent.and_then(|id| entry(&mut self.by_pid, id)) {
            self.shares.withhold(&parent.place, parent.candidate());
            parent.children += 1;
        }
    }

    /// A child is gone: a dead parent that waited for it goes too, and so upwards.
    fn release(&mut self, mut parent: Option<Id>) {
        while let Some(id) = parent {
            let Some(process) = entry(&mut self.by_pid, id) else {
                return;
            };
            process.children = process.children.saturating_sub(1);
            if process.children > 0 {
                return;
            }
            if process.exit_ns.is_none() || process.queued {
                offer(&mut self.shares, process);
                return;
            }
            parent = process.parent;
            self.remove(id.pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        if let Some(gone) = self.remove(pid) {
            self.release(gone.parent);
        }
    }

    fn remove(&mut self, pid: u32) -> Option<Box<Process>> {
        let gone = self.by_pid.remove(&pid)?;
        self.shares.leave(&gone.place, gone.candidate());
        Some(gone)
    }

    /// Ended processes that were given up are still in the queue; it must not outgrow the table for that.
    fn tidy_ended(&mut self) {
        if self.ended.len() > 2 * self.by_pid.len() + 1_024 {
            let by_pid = &self.by_pid;
            self.ended
                .retain(|id| by_pid.get(&id.pid).is_some_and(|process| process.id == *id));
        }
    }
}

/// Borrows the map alone, so that the shares can be changed meanwhile.
fn entry(by_pid: &mut HashMap<u32, Box<Process>>, id: Id) -> Option<&mut Process> {
    by_pid
        .get_mut(&id.pid)
        .map(|process| &mut **process)
        .filter(|process| process.id == id)
}

/// Lets a process without children be given up.
fn offer(shares: &mut Shares, process: &Process) {
    if process.children == 0 {
        shares.offer(&process.place, process.candidate());
    }
}

fn charge_program(shares: &mut Shares, process: &mut Process) {
    process.program_charge = process
        .program
        .as_ref()
        .map(|program| Arc::new(shares.charge(&process.place, program.bytes())));
}

#[cfg(test)]
mod tests;
