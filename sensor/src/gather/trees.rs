//! Trees of mounts that containers changed themselves: read of whoever changed one, or of the container's first process.

use std::collections::{HashMap, VecDeque};

use crate::fact::Fact;
use crate::mounts::Mounts;

/// Processes whose tree is still to be read.
const PENDING_MAX: usize = 16;
/// Trees that are remembered, so that what has not changed is not told again.
const TOLD_MAX: usize = 32;
/// Between two rounds of reading: whoever mounts without end costs no more than this.
const INTERVAL_NS: u64 = 1_000_000_000;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pending: VecDeque<u32>,
    told: HashMap<u32, Mounts>,
    due_ns: u64,
}

impl Trees {
    /// These processes may see another tree now.
    pub fn changed(&mut self, pids: impl Iterator<Item = u32>) {
        for pid in pids {
            if self.pending.len() < PENDING_MAX && !self.pending.contains(&pid) {
                self.pending.push_back(pid);
            }
        }
    }

    /// Reads what has changed, at once or when the last reading is a second ago.
    pub fn look(&mut self, now_ns: u64, host_mnt_ns: Option<u32>, facts: &mut Vec<Fact>) {
        if self.pending.is_empty() || now_ns < self.due_ns {
            return;
        }
        self.due_ns = now_ns + INTERVAL_NS;
        // Who has ended meanwhile has no tree any more.
        let pids = self.pending.drain(..);
        let found: Vec<(u32, Mounts)> = pids.filter_map(Mounts::of_tree).collect();
        for (mnt_ns, mounts) in found {
            if Some(mnt_ns) == host_mnt_ns || self.told.get(&mnt_ns) == Some(&mounts) {
                continue;
            }
            if self.told.len() >= TOLD_MAX {
                self.told.clear();
            }
            self.told.insert(mnt_ns, mounts.clone());
            facts.push(Fact::Tree { mnt_ns, mounts });
        }
    }
}
