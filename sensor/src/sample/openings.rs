//! What processes have open, compared with the round before: what grew, and which rows there are to tell.
//!
//! ```text
//! opening (one position, one socket) ── compared with itself ──► growth ── added up by file ──► rows of a process ──► those told
//! ```
//! The kernel tells one process after the other, so there are rows of one of them at a time, and of all of them those that may
//! be told: how much there is open costs what is remembered of it from one round to the next, and nothing else.
//! An opening that several processes share is told of the first of them alone, so the rows of a round add up.

use std::collections::{HashMap, HashSet};

use dogwatch_ebpf::record::OpenFile;

use super::opened::{Counted, Growth, LISTENING, Row, Rows, Told};
use crate::fact::FilesRest;

/// Openings of a round: no more are remembered to the next, and while that goes on there are twice as many. As many as a table
/// of 32,768 places holds.
pub(super) const OPENINGS_MAX: usize = 28_672;
/// Each row is told as often as this, whether anything moved or not.
const FULL_NS: u64 = 60_000_000_000;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Openings {
    known: HashMap<u64, Known>,
    /// The process that is told of, its pid and its beginning, and its rows by device and inode.
    process: (u32, u64),
    rows: HashMap<(u64, u64), Box<Row>>,
    told: Told,
    /// Ports that sockets listen at, with their network namespace: in this round, and in the one before.
    listening: HashSet<(u32, u16)>,
    listened: HashSet<(u32, u16)>,
    round: u32,
    now_ns: u64,
    /// When the round before read, nanoseconds since boot.
    before_ns: Option<u64>,
    /// What the round before left out: what is new there now may have been there.
    left_out: LeftOut,
    /// Openings of this round, and those that found no room.
    seen: usize,
    pub refused: u64,
    /// Whose those are that found no room.
    refused_shares: HashSet<u64>,
}

/// What a round did not look at.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// By share, how many openings were left out.
    pub shares: HashMap<u64, u64>,
    /// Anything may have been left out: the walk did not come to its end.
    pub any: bool,
}

/// An opening of the round before, or of this one. Its size is what the table costs.
#[derive(Debug, Clone, Copy)]
struct Known {
    dev: u64,
    ino: u64,
    counted: Counted,
    due_ns: u64,
    round: u32,
    /// The last process that it was seen in, and in how many it was in this round.
    pid: u32,
    holders: u32,
    state: u16,
    /// A connection that came to a listening socket, which may have been closed since.
    is_server: bool,
}

impl Openings {
    /// Begins a round; returns how long it tells of.
    pub fn begin(&mut self, now_ns: u64) -> Option<u64> {
        self.round = self.round.wrapping_add(1);
        self.now_ns = now_ns;
        (self.seen, self.refused) = (0, 0);
        self.refused_shares.clear();
        self.listened = std::mem::take(&mut self.listening);
        Some(now_ns.saturating_sub(self.before_ns?))
    }

    /// Takes in what a descriptor of a process leads to.
    pub fn see(&mut self, file: &OpenFile) {
        if self.process != (file.pid, file.start_ns) {
            self.end_process();
            self.process = (file.pid, file.start_ns);
        }
        let before = self.known.get_mut(&file.file);
        // The same address may be that of another opening by now.
        let mut before = before.filter(|known| (known.dev, known.ino) == (file.dev, file.ino));
        if let Some(known) = &mut before
            && known.round == self.round
        {
            // By dup in the same process, or shared with another one.
            known.holders += u32::from(known.pid != file.pid);
            known.pid = file.pid;
            return;
        }
        // Those of the round before as well as new ones: else each round could add as many to what is remembered.
        if self.seen >= OPENINGS_MAX {
            self.refused += 1;
            self.refused_shares.insert(file.share);
            return;
        }
        if let Some(known) = before.copied() {
            let growth = Growth::of(file, known.counted);
            let is_due = self.now_ns >= known.due_ns;
            let went_back = file.socket.is_none() && growth.forward.is_none();
            let has_changed = known.state != file.state || growth.moved() || went_back;
            let told = is_due || has_changed || file.backlog > 0;
            let due_ns = if told { self.next_due() } else { known.due_ns };
            self.add(file, growth, told, due_ns, known.is_server);
            return;
        }
        let growth = self.growth_of_new(file);
        self.add(file, growth, true, self.next_due(), false);
    }

    fn next_due(&self) -> u64 {
        self.now_ns + FULL_NS
    }

    /// What was made since the round before is counted from its beginning.
    fn growth_of_new(&self, file: &OpenFile) -> Growth {
        let was_left_out = self.left_out.any || self.left_out.shares.contains_key(&file.share);
        if self.before_ns.is_none() || was_left_out {
            return Growth::default();
        }
        // The first write puts its position to the file's end.
        let appends = file.socket.is_none() && file.flags & libc::O_APPEND as u32 != 0;
        if appends {
            return Growth::default();
        }
        Growth::of(file, Counted::default())
    }

    fn add(&mut self, file: &OpenFile, growth: Growth, told: bool, due_ns: u64, was_server: bool) {
        self.seen += 1;
        let port = port_of(file);
        if file.state == LISTENING {
            self.listening.extend(port);
        }
        let came = is_connection(file) && port.is_some_and(|port| self.listened.contains(&port));
        let known = Known {
            dev: file.dev,
            ino: file.ino,
            counted: Counted::of(file),
            due_ns,
            round: self.round,
            pid: file.pid,
            holders: 1,
            state: file.state,
            is_server: was_server || came,
        };
        self.known.insert(file.file, known);
        if let Some(row) = self.rows.get_mut(&(file.dev, file.ino)) {
            row.openings += 1;
            row.growth = row.growth.plus(&growth);
            row.told |= told;
            return;
        }
        let row = Row {
            growth,
            told,
            ..Row::of(file)
        };
        self.rows.insert((file.dev, file.ino), Box::new(row));
    }

    /// All of the process has been seen; a thread with descriptors of its own may come later and has rows of its own then.
    fn end_process(&mut self) {
        for (_, row) in self.rows.drain() {
            if row.told {
                self.told.add(row);
            }
        }
    }

    /// The rows of the round that are told, and the rest of each share. What was not seen is forgotten.
    pub fn end(&mut self, mut left_out: LeftOut) -> (Rows, Vec<FilesRest>) {
        self.end_process();
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        // A round in which many ended leaves no room behind that nobody uses.
        self.known.shrink_to_fit();
        self.rows.shrink_to_fit();
        self.before_ns = Some(self.now_ns);
        let (mut rows, rests) = self.told.end(&left_out.shares);
        let refused = self.refused_shares.drain().map(|share| (share, 0));
        left_out.shares.extend(refused);
        self.left_out = left_out;
        for row in &mut rows {
            row.is_server = row.first.state == LISTENING;
            let Some(known) = self.known.get_mut(&row.first.file) else {
                continue;
            };
            row.holders = i64::from(known.holders);
            if is_connection(&row.first) {
                let port = port_of(&row.first);
                known.is_server |= port.is_some_and(|port| self.listening.contains(&port));
                row.is_server = known.is_server;
            }
        }
        (rows, rests)
    }
}

/// The port of a socket, in its network namespace.
fn port_of(file: &OpenFile) -> Option<(u32, u16)> {
    let socket = file.socket.as_ref()?;
    Some((file.net_ns, socket.local_port))
}

/// Whether it is a TCP socket with another end.
fn is_connection(file: &OpenFile) -> bool {
    let socket = file.socket.as_ref();
    file.state != 0 && socket.is_some_and(|socket| socket.remote_port != 0)
}

#[cfg(test)]
mod tests;
