//! What a process has open, as one row: what grew in the interval, and the rows that are told where there are too many.

use std::collections::HashMap;

use dogwatch_ebpf::record::OpenFile;

use crate::busiest::{Candidate, busiest};
use crate::fact::{FilesRest, files_weight};

/// Rows of a round that are handed on; the tracker knows the containers and chooses among them.
pub(super) const ROWS_MAX: usize = 1_024;
/// The state of a TCP socket that listens.
pub(super) const LISTENING: u16 = 10;

/// What is counted of an opening since it was made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    position: i64,
    received: u64,
    acked: u64,
    segments_in: u32,
    segments_out: u32,
    retransmitted: u32,
    dropped: u32,
}

impl Counted {
    pub fn of(file: &OpenFile) -> Self {
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
    pub fn of(file: &OpenFile, before: Counted) -> Self {
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
            0 if !file.counted => Self::default(),
            0 => Self {
                rx_bytes: bytes(file.received, before.received),
                tx_bytes: bytes(file.acked, before.acked),
                ..Self::default()
            },
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

    pub fn moved(&self) -> bool {
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
    pub fn plus(&self, more: &Self) -> Self {
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

    fn bytes_through(&self) -> [Option<i64>; 3] {
        let growth = &self.growth;
        [growth.forward, growth.rx_bytes, growth.tx_bytes]
    }

    fn weight(&self) -> u64 {
        let backlog = (self.first.state == LISTENING).then(|| i64::from(self.first.backlog));
        files_weight(backlog, self.bytes_through())
    }
}

/// Rows are large, and are sorted and chosen from.
pub(super) type Rows = Vec<Box<Row>>;

/// The rows of a round that may be told: twice [`ROWS_MAX`] while it goes on, the busiest [`ROWS_MAX`] at its end.
///
/// Which those are is decided in parts, and is the same as of all at once: a row that is left out has enough before it that are
/// larger or of containers with fewer, and there can only be more of these later.
#[derive(Debug, Default)]
pub(super) struct Told {
    rows: Vec<Candidate<u64, Box<Row>>>,
    rests: HashMap<u64, FilesRest>,
}

impl Told {
    pub fn add(&mut self, row: Box<Row>) {
        self.rows.push(Candidate {
            place: row.first.share,
            weight: row.weight(),
            row,
        });
        if self.rows.len() >= 2 * ROWS_MAX {
            self.choose();
        }
    }

    fn choose(&mut self) {
        let (told, rests) = busiest(std::mem::take(&mut self.rows), ROWS_MAX);
        self.rows = told;
        for rest in rests {
            let sum = self.rests.entry(rest.place).or_default();
            rest.rows
                .iter()
                .for_each(|row| sum.add(row.bytes_through()));
        }
    }

    /// The rows that are told, and what is left of each share; `left`: by share, what was not looked at.
    pub fn end(&mut self, left: &HashMap<u64, u64>) -> (Rows, Vec<FilesRest>) {
        self.choose();
        for (share, left) in left {
            self.rests.entry(*share).or_default().left = *left;
        }
        let rows = std::mem::take(&mut self.rows);
        let rests = std::mem::take(&mut self.rests).into_iter();
        let rests = rests.map(|(cgroup_id, rest)| FilesRest { cgroup_id, ..rest });
        (
            rows.into_iter().map(|told| told.row).collect(),
            rests.collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(share: u64, forward: Option<i64>) -> Box<Row> {
        Box::new(Row {
            growth: Growth {
                forward,
                ..Growth::default()
            },
            ..Row::of(&OpenFile {
                share,
                ..OpenFile::default()
            })
        })
    }

    #[test]
    fn what_is_not_told_is_added_up_by_share() {
        let mut told = Told::default();
        (0..70).for_each(|bytes| told.add(row(1, Some(bytes))));
        told.add(row(2, None));
        let (rows, mut rests) = told.end(&HashMap::from([(2, 9)]));
        assert_eq!(rows.len(), 65);
        rests.sort_by_key(|rest| rest.cgroup_id);
        let left: Vec<_> = rests
            .iter()
            .map(|rest| (rest.cgroup_id, rest.rows, rest.left, rest.forward_bytes))
            .collect();
        assert_eq!(left, [(1, 6, 0, 15), (2, 0, 9, 0)]);
    }

    /// A plain run of numbers that looks like chance.
    fn drawn(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 33
    }

    #[test]
    fn a_choice_in_parts_is_that_of_all_at_once() {
        for seed in 0..20 {
            let mut drawing = seed;
            let shares = 1 + drawn(&mut drawing) % 300;
            let count = drawn(&mut drawing) as usize % (6 * ROWS_MAX);
            // Each weight once: of equal ones any may be chosen.
            let rows: Vec<(u64, i64)> = (0..count)
                .map(|at| {
                    let share = drawn(&mut drawing) % shares;
                    let larger = (drawn(&mut drawing) % 1_000) as i64;
                    (share, larger * 100_000 + at as i64)
                })
                .collect();
            let mut told = Told::default();
            for (share, forward) in &rows {
                told.add(row(*share, Some(*forward)));
                assert!(told.rows.len() < 2 * ROWS_MAX);
            }
            let (in_parts, rests) = told.end(&HashMap::new());
            let mut in_parts: Vec<i64> = in_parts
                .iter()
                .filter_map(|row| row.growth.forward)
                .collect();
            let all = rows.iter().map(|(share, forward)| Candidate {
                place: *share,
                weight: *forward as u64,
                row: *forward,
            });
            let (at_once, _) = busiest(all.collect(), ROWS_MAX);
            let mut at_once: Vec<i64> = at_once.iter().map(|told| told.row).collect();
            in_parts.sort_unstable();
            at_once.sort_unstable();
            assert_eq!(in_parts, at_once, "seed {seed}");
            let all: i64 = rows.iter().map(|(_, forward)| forward).sum();
            let left: i64 = rests.iter().map(|rest| rest.forward_bytes).sum();
            assert_eq!(in_parts.iter().sum::<i64>() + left, all, "seed {seed}");
        }
    }
}
