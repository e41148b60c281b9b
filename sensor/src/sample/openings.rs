//! What processes have open, compared with the round before: what grew, and which rows there are to tell.
//!
//! ```text
//! opening (one position, one socket) ── compared with itself ──► growth ── added up by process and file ──► row
//! ```
//! An opening that several processes share is told of the first of them alone, so the rows of a round add up.

use std::collections::{HashMap, HashSet};

use dogwatch_ebpf::record::OpenFile;

/// Openings of a round: no more are remembered to the next, and while that goes on there are twice as many.
pub(super) const OPENINGS_MAX: usize = 32_768;
/// Each row is told as often as this, whether anything moved or not.
const FULL_NS: u64 = 60_000_000_000;
/// The state of a TCP socket that listens.
pub(super) const LISTENING: u16 = 10;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Openings {
    known: HashMap<u64, Known>,
    rows: HashMap<RowKey, Box<Row>>,
    round: u64,
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
    /// Shares of which some openings were left out.
    pub shares: HashSet<u64>,
    /// Anything may have been left out: the walk did not come to its end.
    pub any: bool,
}

/// A process and what it has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RowKey {
    pid: u32,
    start_ns: u64,
    dev: u64,
    ino: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    dev: u64,
    ino: u64,
    counted: Counted,
    state: u16,
    row: RowKey,
    /// The last process that it was seen in.
    pid: u32,
    /// A connection that came to a listening socket, which may have been closed since.
    is_server: bool,
    round: u64,
    due_ns: u64,
}

/// What is counted of an opening since it was made.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    position: i64,
    received: u64,
    acked: u64,
    segments_in: u32,
    segments_out: u32,
    retransmitted: u32,
    dropped: u32,
}

impl Counted {
    fn of(file: &OpenFile) -> Self {
        Self {
            position: file.position,
            received: file.received,
            acked: file.acked,
            segments_in: file.segments_in,
            segments_out: file.segments_out,
            retransmitted: file.retransmitted,
            dropped: file.dropped,
        }
    }
}

/// What grew in the interval; none where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub forward: Option<i64>,
    pub rx_bytes: Option<i64>,
    pub tx_bytes: Option<i64>,
    pub rx_segments: Option<i64>,
    pub tx_segments: Option<i64>,
    pub retransmits: Option<i64>,
    pub refused: Option<i64>,
}

impl Growth {
    /// What an opening grew by, since `before`. A position or counter that went back says nothing of the interval.
    fn of(file: &OpenFile, before: Counted) -> Self {
        let bytes = |now: u64, before: u64| now.checked_sub(before).map(|grown| grown as i64);
        // These begin again behind their last number.
        let wrapping = |now: u32, before: u32| Some(i64::from(now.wrapping_sub(before)));
        if file.socket.is_none() {
            let forward = file.position.checked_sub(before.position);
            return Self {
                forward: forward.filter(|forward| *forward >= 0),
                ..Self::default()
            };
        }
        match file.state {
            0 => Self::default(),
            LISTENING => Self {
                refused: wrapping(file.dropped, before.dropped),
                ..Self::default()
            },
            _ => Self {
                rx_bytes: bytes(file.received, before.received),
                tx_bytes: bytes(file.acked, before.acked),
                rx_segments: wrapping(file.segments_in, before.segments_in),
                tx_segments: wrapping(file.segments_out, before.segments_out),
                retransmits: wrapping(file.retransmitted, before.retransmitted),
                ..Self::default()
            },
        }
    }

    fn moved(&self) -> bool {
        let all = [
            self.forward,
            self.rx_bytes,
            self.tx_bytes,
            self.rx_segments,
            self.tx_segments,
            self.refused,
        ];
        all.iter().flatten().any(|grown| *grown > 0)
    }

    /// Of two openings together: not known where one is not.
    fn plus(&self, more: &Self) -> Self {
        let sum = |own: Option<i64>, more: Option<i64>| Some(own?.saturating_add(more?));
        Self {
            forward: sum(self.forward, more.forward),
            rx_bytes: sum(self.rx_bytes, more.rx_bytes),
            tx_bytes: sum(self.tx_bytes, more.tx_bytes),
            rx_segments: sum(self.rx_segments, more.rx_segments),
            tx_segments: sum(self.tx_segments, more.tx_segments),
            retransmits: sum(self.retransmits, more.retransmits),
            refused: sum(self.refused, more.refused),
        }
    }
}

/// What a process has open.
#[derive(Debug)]
pub(super) struct Row {
    /// The first of its openings.
    pub first: OpenFile,
    pub openings: i64,
    /// Processes that share the first one.
    pub holders: i64,
    pub growth: Growth,
    /// It listens, or is a connection that came to a socket which listens.
    pub is_server: bool,
    /// Something moved, or it is due.
    pub told: bool,
}

/// Rows are large, and are sorted and chosen from.
pub(super) type Rows = Vec<Box<Row>>;

impl Row {
    pub fn of(file: &OpenFile) -> Self {
        Self {
            first: file.clone(),
            openings: 1,
            holders: 1,
            growth: Growth::default(),
            is_server: false,
            told: false,
        }
    }
}

impl Openings {
    /// Begins a round; returns how long it tells of.
    pub fn begin(&mut self, now_ns: u64) -> Option<u64> {
        self.round += 1;
        self.now_ns = now_ns;
        (self.seen, self.refused) = (0, 0);
        self.refused_shares.clear();
        self.rows.clear();
        Some(now_ns.saturating_sub(self.before_ns?))
    }

    /// Takes in what a descriptor of a process leads to.
    pub fn see(&mut self, file: &OpenFile) {
        let before = self.known.get_mut(&file.file);
        // The same address may be that of another opening by now.
        let mut before = before.filter(|known| (known.dev, known.ino) == (file.dev, file.ino));
        if let Some(known) = &mut before
            && known.round == self.round
        {
            seen_again(known, file, &mut self.rows);
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
        let was_left_out = self.left_out.any || self.left_out.shares.contains(&file.share);
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
        let key = RowKey {
            pid: file.pid,
            start_ns: file.start_ns,
            dev: file.dev,
            ino: file.ino,
        };
        let known = Known {
            dev: file.dev,
            ino: file.ino,
            counted: Counted::of(file),
            state: file.state,
            row: key,
            pid: file.pid,
            is_server: was_server,
            round: self.round,
            due_ns,
        };
        self.known.insert(file.file, known);
        if let Some(row) = self.rows.get_mut(&key) {
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
        self.rows.insert(key, Box::new(row));
    }

    /// The rows of the round that are to be told. What was not seen is forgotten.
    pub fn end(&mut self, mut left_out: LeftOut) -> Rows {
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        // A round in which many ended leaves no room behind that nobody uses.
        self.known.shrink_to_fit();
        self.before_ns = Some(self.now_ns);
        left_out.shares.extend(self.refused_shares.drain());
        self.left_out = left_out;
        let rows = std::mem::take(&mut self.rows);
        let listens = rows.values().filter(|row| row.first.state == LISTENING);
        let listened: HashSet<_> = listens.filter_map(|row| port_of(&row.first)).collect();
        let mut told = Vec::new();
        for mut row in rows.into_values() {
            row.is_server = row.first.state == LISTENING;
            if is_connection(&row.first)
                && let Some(known) = self.known.get_mut(&row.first.file)
            {
                known.is_server |= port_of(&row.first).is_some_and(|port| listened.contains(&port));
                row.is_server = known.is_server;
            }
            if row.told {
                told.push(row);
            }
        }
        told
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

/// The opening is in this round already: by dup in the same process, or shared with another one.
fn seen_again(known: &mut Known, file: &OpenFile, rows: &mut HashMap<RowKey, Box<Row>>) {
    if std::mem::replace(&mut known.pid, file.pid) == file.pid {
        return;
    }
    if let Some(row) = rows.get_mut(&known.row)
        && row.first.file == file.file
    {
        row.holders += 1;
    }
}

#[cfg(test)]
mod tests {
    use dogwatch_ebpf::record::SocketAddresses;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn file(opening: u64, pid: u32, position: i64) -> OpenFile {
        OpenFile {
            file: opening,
            ino: 7,
            pid,
            position,
            share: 3,
            ..OpenFile::default()
        }
    }

    fn tcp(opening: u64, state: u16, received: u64) -> OpenFile {
        OpenFile {
            ino: opening,
            socket: Some(SocketAddresses {
                local_port: 80,
                ..SocketAddresses::default()
            }),
            state,
            received,
            segments_in: received as u32,
            ..file(opening, 10, 0)
        }
    }

    /// One round; its rows by process.
    fn round(openings: &mut Openings, second: u64, seen: &[OpenFile]) -> Rows {
        openings.begin(second * SECOND_NS);
        seen.iter().for_each(|file| openings.see(file));
        let mut rows = openings.end(LeftOut::default());
        rows.sort_by_key(|row| (row.first.pid, row.first.ino));
        rows
    }

    fn forward(rows: &[Box<Row>]) -> Vec<Option<i64>> {
        rows.iter().map(|row| row.growth.forward).collect()
    }

    #[test]
    fn what_was_there_before_the_sensor_has_no_growth_and_what_is_new_has_all() {
        let mut openings = Openings::default();
        assert_eq!(openings.begin(SECOND_NS), None);
        let rows = round(&mut openings, 1, &[file(1, 10, 100)]);
        assert_eq!(forward(&rows), [None]);
        assert_eq!(openings.begin(3 * SECOND_NS), Some(2 * SECOND_NS));
        let rows = round(&mut openings, 3, &[file(1, 10, 150), file(2, 11, 30)]);
        assert_eq!(forward(&rows), [Some(50), Some(30)]);
    }

    #[test]
    fn only_what_moved_is_told_and_all_once_a_minute() {
        let mut openings = Openings::default();
        let seen = [file(1, 10, 100), file(2, 11, 5)];
        assert_eq!(round(&mut openings, 1, &seen).len(), 2);
        assert!(round(&mut openings, 2, &seen).is_empty());
        let rows = round(&mut openings, 3, &[file(1, 10, 101), file(2, 11, 5)]);
        assert_eq!((rows.len(), rows[0].first.pid), (1, 10));
        let rows = round(&mut openings, 61, &[file(1, 10, 101), file(2, 11, 5)]);
        assert_eq!((rows.len(), rows[0].first.pid), (1, 11));
    }

    #[test]
    fn openings_of_a_file_are_one_row_and_what_is_shared_is_told_once() {
        let mut openings = Openings::default();
        round(&mut openings, 1, &[]);
        let seen = [
            file(1, 10, 100),
            file(2, 10, 20),  // opened once more
            file(1, 10, 100), // by dup
            file(1, 11, 100), // by fork
            file(1, 11, 100),
            file(1, 12, 100),
        ];
        let rows = round(&mut openings, 2, &seen);
        assert_eq!(forward(&rows), [Some(120)]);
        assert_eq!((rows[0].openings, rows[0].holders), (2, 3));
    }

    #[test]
    fn what_goes_back_appends_or_was_left_out_is_not_known() {
        let mut openings = Openings::default();
        round(&mut openings, 1, &[file(1, 10, 100)]);
        let appending = OpenFile {
            flags: (libc::O_WRONLY | libc::O_APPEND) as u32,
            ..file(2, 11, 1_000)
        };
        let rows = round(&mut openings, 62, &[file(1, 10, 40), appending.clone()]);
        assert_eq!(forward(&rows), [None, None]);
        let appended = OpenFile {
            position: 1_010,
            ..appending
        };
        openings.begin(63 * SECOND_NS);
        openings.see(&appended);
        let left_out = LeftOut {
            shares: [3].into(),
            any: false,
        };
        let rows = openings.end(left_out);
        assert_eq!(forward(&rows), [Some(10)]);
        let rows = round(&mut openings, 64, &[file(9, 12, 500)]);
        assert_eq!(forward(&rows), [None], "it may have been there");
    }

    #[test]
    fn sockets_grow_by_their_counters_and_listeners_say_their_ports() {
        let mut openings = Openings::default();
        round(&mut openings, 1, &[tcp(1, 1, u64::from(u32::MAX))]);
        openings.begin(2 * SECOND_NS);
        let listening = OpenFile {
            backlog: 3,
            dropped: 2,
            net_ns: 5,
            ..tcp(2, LISTENING, 0)
        };
        let now = tcp(1, 1, u64::from(u32::MAX) + 11);
        [now, listening].iter().for_each(|file| openings.see(file));
        let mut rows = openings.end(LeftOut::default());
        rows.sort_by_key(|row| row.first.ino);
        assert_eq!(rows[0].growth.rx_bytes, Some(11));
        assert_eq!(rows[0].growth.rx_segments, Some(11), "its 32 bits are over");
        assert_eq!(rows[1].growth.refused, Some(2));
        assert_eq!(rows[1].growth.rx_bytes, None);
        let is_server: Vec<_> = rows.iter().map(|row| row.is_server).collect();
        assert_eq!(is_server, [false, true], "in another network namespace");
    }

    #[test]
    fn a_connection_came_to_its_listener_also_when_that_is_closed() {
        let mut openings = Openings::default();
        let with_remote = |opening, received, remote_port| {
            let mut file = tcp(opening, 1, received);
            file.socket.as_mut().unwrap().remote_port = remote_port;
            file
        };
        let bound = |opening| tcp(opening, 7, 0);
        let seen = [with_remote(1, 5, 40_000), bound(2), tcp(3, LISTENING, 0)];
        let servers = |rows: &[Box<Row>]| -> Vec<_> {
            rows.iter()
                .map(|row| (row.first.ino, row.is_server))
                .collect()
        };
        let rows = round(&mut openings, 1, &seen);
        assert_eq!(servers(&rows), [(1, true), (2, false), (3, true)]);
        let seen = [with_remote(1, 6, 40_000), with_remote(4, 6, 40_001)];
        let rows = round(&mut openings, 2, &seen);
        assert_eq!(servers(&rows), [(1, true), (4, false)]);
    }

    #[test]
    fn another_opening_at_the_same_address_is_new() {
        let mut openings = Openings::default();
        round(&mut openings, 1, &[file(1, 10, 100)]);
        let another = OpenFile {
            ino: 8,
            ..file(1, 10, 120)
        };
        assert_eq!(forward(&round(&mut openings, 2, &[another])), [Some(120)]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut openings = Openings::default();
        openings.begin(SECOND_NS);
        for opening in 0..OPENINGS_MAX as u64 + 3 {
            openings.see(&file(opening, 10, 0));
        }
        assert_eq!(openings.refused, 3);
        assert_eq!(openings.end(LeftOut::default()).len(), 1);
        // Of another share all is known, of this one some may have been there.
        let of_other = OpenFile {
            share: 4,
            ..file(u64::MAX, 11, 30)
        };
        let of_share = file(u64::MAX - 1, 12, 30);
        let rows = round(&mut openings, 2, &[of_other, of_share]);
        assert_eq!(forward(&rows), [Some(30), None]);
    }

    #[test]
    fn what_is_remembered_is_bounded_over_rounds() {
        let mut openings = Openings::default();
        let all = OPENINGS_MAX as u64;
        openings.begin(SECOND_NS);
        (0..all).for_each(|opening| openings.see(&file(opening, 10, 0)));
        openings.end(LeftOut::default());
        openings.begin(2 * SECOND_NS);
        // New ones first, then those of the round before.
        (all..2 * all).for_each(|opening| openings.see(&file(opening, 10, 0)));
        (0..all).for_each(|opening| openings.see(&file(opening, 11, 0)));
        assert_eq!(openings.refused, all);
        openings.end(LeftOut::default());
        assert_eq!(openings.known.len(), OPENINGS_MAX);
        round(&mut openings, 3, &[]);
        assert_eq!(openings.known.capacity(), 0);
    }

    #[test]
    fn an_opening_takes_as_much_memory_as_the_settings_say() {
        // A table has, for as many entries, twice as many places, and a byte more for each.
        let kept = 2 * (size_of::<(u64, Known)>() + 1);
        let read = size_of::<Row>() + 2 * (size_of::<(RowKey, Box<Row>)>() + 1);
        assert!(kept <= 250, "{kept}");
        assert!(read <= 600, "{read}");
        // While a round goes on those of the round before are there, too.
        let at_most = [kept, 2 * kept + read].map(|bytes| (bytes * OPENINGS_MAX) >> 20);
        assert!(at_most[0] < 8 && at_most[1] < 36, "{at_most:?}");
    }
}
