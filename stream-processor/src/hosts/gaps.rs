//! Input that a log's task never saw: it expired, its topic was made anew, what the task remembered is gone, or hosts came
//! from other partitions.
//!
//! Nobody knows whose rows were in it. A host that is known misses what came after its last row and before its next; one that
//! comes later may have been there before, up to when the log was read again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::HOSTS_PER_PIECE;
use super::holes::{Hole, Holes, Losses};
use super::host::Host;
use super::log::Log;
use super::room::host_bytes_max;

/// Most gaps that a log remembers for hosts that come later: of more the oldest is forgotten.
const GAPS_MAX: usize = 4;

/// Why input was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// So many records expired before they were read.
    Expired(i64),
    /// The topic was made anew.
    TopicMadeAnew,
    /// What the task remembered cannot be used.
    ColdStart,
    /// The topic has more partitions than before: hosts are read in other ones.
    Repartitioned,
}

/// A gap as hosts see it that come later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    lost: Losses,
    /// The time of the first record after it; none before that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
}

impl Unseen {
    pub(super) fn losses(self) -> Losses {
        let (class, count) = match self {
            Self::Expired(records) => ("expired", records.max(1)),
            Self::TopicMadeAnew => ("topic_made_anew", 1),
            Self::ColdStart => ("cold_start", 1),
            Self::Repartitioned => ("partitions_changed", 1),
        };
        Losses::from([(class.into(), count)])
    }
}

impl Log {
    /// Notes that input was not seen before the next record.
    pub(super) fn miss(&mut self, unseen: Unseen) {
        let lost = unseen.losses();
        let bytes_max = host_bytes_max(self.hosts.len());
        for host in &mut self.hosts {
            let hole = Hole {
                from: host.high,
                to: i64::MAX,
                lost: lost.clone(),
            };
            host.add_hole(hole, bytes_max);
            host.in_gap = true;
        }
        self.changed = (0..self.hosts.len().div_ceil(HOSTS_PER_PIECE)).collect();
        if self.gaps.len() >= GAPS_MAX {
            self.gaps.remove(0);
        }
        self.gaps.push(Gap { lost, until: None });
    }

    /// Ends the gap before a record of this time, where there is one.
    pub(super) fn end_gap(&mut self, time: i64) {
        let open = self.gaps.iter_mut().filter(|gap| gap.until.is_none());
        open.for_each(|gap| gap.until = Some(time));
    }

    /// Where a host that comes now may have been before, and what of that time was not seen.
    pub(super) fn gaps_of_new(&self) -> Option<Arc<Holes>> {
        let mut holes = self.holes_of_new();
        for gap in &self.gaps {
            Arc::make_mut(holes.get_or_insert_default()).add(Hole {
                from: i64::MIN,
                to: gap.until.unwrap_or(i64::MAX),
                lost: gap.lost.clone(),
            });
        }
        holes
    }
}

impl Host {
    fn add_hole(&mut self, hole: Hole, bytes_max: usize) {
        Arc::make_mut(self.holes.get_or_insert_default()).add(hole);
        self.fit(bytes_max);
    }

    /// Ends the gap that the host was in, with a row of this time, and notes rows of its last run that never came before it. The
    /// host keeps to so many bytes.
    pub(super) fn miss(&mut self, missing: u64, time: i64, bytes_max: usize) {
        if std::mem::take(&mut self.in_gap)
            && let Some(holes) = &mut self.holes
        {
            Arc::make_mut(holes).end_at(time);
        }
        let Some(run) = self.runs.last().filter(|_| missing > 0) else {
            return;
        };
        let hole = Hole {
            from: run.known_to.min(time),
            to: time,
            lost: Losses::from([("missing".into(), missing.cast_signed())]),
        };
        self.add_hole(hole, bytes_max);
    }
}
