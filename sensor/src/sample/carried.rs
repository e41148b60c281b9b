//! Bytes that processes sent and received by IP sockets, from the kernel part's table.

use std::collections::HashMap;

use super::{Roots, TICK_NS, WAITING_MAX};
use crate::probe::{Carried, CarriedBytes};

/// See the module's description.
pub(super) struct CarriedRounds {
    table: CarriedBytes,
    roots: Roots,
    waiting: Waiting,
}

/// Bytes that no row has told yet, by process.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: HashMap<(u32, u64), Bytes>,
    /// Some were not counted: who has none here may have had some all the same.
    refused: bool,
}

#[derive(Debug, Default)]
struct Bytes {
    rx: i64,
    tx: i64,
    /// Nothing of them was left out.
    whole: bool,
}

/// Sends and receives of a round that were counted nowhere.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub of_processes: u64,
    pub of_sockets: u64,
}

impl CarriedRounds {
    pub fn new(table: CarriedBytes, roots: Roots) -> Self {
        Self {
            table,
            roots,
            waiting: Waiting::default(),
        }
    }

    /// What was sent and received since the last round, and what was counted nowhere; none where the kernel does not tell:
    /// then the next round tells it all.
    pub fn round(&mut self) -> Option<(&mut Waiting, Refused)> {
        let roots = &self.roots;
        let gone = |pid: u32| !roots.proc.join(pid.to_string()).exists();
        match self.table.read(&gone) {
            Ok(carried) => {
                self.waiting.add(&carried);
                let refused = Refused {
                    of_processes: carried.refused,
                    of_sockets: carried.refused_of_sockets,
                };
                Some((&mut self.waiting, refused))
            }
            Err(error) => {
                tracing::warn!(%error, "could not read what processes sent and received");
                None
            }
        }
    }
}

impl Waiting {
    pub fn add(&mut self, carried: &Carried) {
        if self.bytes.len() > WAITING_MAX {
            self.bytes.clear();
            self.refused = true;
        }
        self.refused |= carried.refused > 0;
        for grown in &carried.grown {
            let process = (grown.pid, grown.start_ns / TICK_NS);
            let known = self.bytes.entry(process).or_insert(Bytes {
                whole: true,
                ..Bytes::default()
            });
            known.rx = known.rx.saturating_add_unsigned(grown.rx_bytes);
            known.tx = known.tx.saturating_add_unsigned(grown.tx_bytes);
            // An entry that was made in this interval, while there was no room for all, may have been refused first.
            known.whole &= grown.whole || carried.refused == 0;
        }
    }

    /// Takes what a process received and sent; none where that is not known.
    pub fn take(&mut self, pid: u32, start_ticks: u64) -> Option<[i64; 2]> {
        match self.bytes.remove(&(pid, start_ticks)) {
            Some(bytes) => bytes.whole.then_some([bytes.rx, bytes.tx]),
            None => (!self.refused).then_some([0; 2]),
        }
    }

    /// All processes have been looked at: what is left is of those that ended.
    pub fn end_round(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to_fit();
        self.refused = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Grown;

    fn carried(pid: u32, rx_bytes: u64, whole: bool, refused: u64) -> Carried {
        let start_ns = 5 * TICK_NS + 3;
        Carried {
            grown: vec![Grown {
                start_ns,
                pid,
                rx_bytes,
                tx_bytes: 1,
                whole,
            }],
            refused,
            refused_of_sockets: 0,
        }
    }

    #[test]
    fn bytes_are_told_once_to_whom_they_belong() {
        let mut waiting = Waiting::default();
        waiting.add(&carried(7, 3, false, 0));
        assert_eq!(
            waiting.take(7, 6),
            Some([0, 0]),
            "another process of that id"
        );
        assert_eq!(waiting.take(7, 5), Some([3, 1]));
        assert_eq!(waiting.take(7, 5), Some([0, 0]));
    }

    #[test]
    fn what_a_round_did_not_come_to_waits_for_the_next_one() {
        let mut waiting = Waiting::default();
        waiting.add(&carried(7, 3, false, 0));
        waiting.add(&carried(7, 4, true, 0));
        assert_eq!(waiting.take(7, 5), Some([7, 2]));
        waiting.add(&carried(8, 3, true, 0));
        waiting.end_round();
        assert_eq!(waiting.take(8, 5), Some([0, 0]), "it has ended");
    }

    #[test]
    fn where_some_were_counted_nowhere_what_may_lack_some_is_not_known() {
        let mut waiting = Waiting::default();
        waiting.add(&carried(7, 3, true, 2));
        waiting.add(&carried(8, 3, false, 1));
        assert_eq!(waiting.take(7, 5), Some([3, 1]), "it was counted before");
        assert_eq!(waiting.take(8, 5), None, "its first ones may be missing");
        assert_eq!(waiting.take(9, 5), None);
        waiting.end_round();
        assert_eq!(waiting.take(9, 5), Some([0, 0]));
    }
}
