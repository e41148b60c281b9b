//! Trees of mounts that containers changed themselves: read of whoever changed one, or of the container's first process.

use std::collections::{HashMap, VecDeque};

use crate::fact::Fact;
use crate::mounts::Mounts;

/// Processes whose tree is still to be read.
const PENDING_MAX: usize = 16;
/// Of these the processes of one cgroup: a container that mounts without end leaves room for the others.
const PENDING_OF_A_CGROUP_MAX: usize = 4;
/// Trees that are remembered, so that what has not changed is not told again. Fewer than the tracker keeps, so that
/// a tree that the tracker has given up is told again.
const TOLD_MAX: usize = 16;
/// Between two rounds of reading: whoever mounts without end costs no more than this.
const INTERVAL_NS: u64 = 1_000_000_000;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// The cgroup that changed something, and the process.
    pending: VecDeque<(u64, u32)>,
    told: HashMap<u32, Mounts>,
    due_ns: u64,
}

impl Trees {
    /// These processes may see another tree now, by what one of this cgroup did.
    pub fn changed(&mut self, cgroup_id: u64, pids: impl Iterator<Item = u32>) {
        for pid in pids {
            let of_cgroup = self.pending.iter().filter(|(id, _)| *id == cgroup_id);
            if self.pending.len() < PENDING_MAX
                && of_cgroup.count() < PENDING_OF_A_CGROUP_MAX
                && self.pending.iter().all(|(_, known)| *known != pid)
            {
                self.pending.push_back((cgroup_id, pid));
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
        let pids = self.pending.drain(..).map(|(_, pid)| pid);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_mounts_without_end_leaves_room_for_others() {
        let mut trees = Trees::default();
        trees.changed(1, 10..100);
        trees.changed(2, 10..12);
        trees.changed(2, 200..202);
        let expected = [(1, 10), (1, 11), (1, 12), (1, 13), (2, 200), (2, 201)];
        assert_eq!(trees.pending, expected);
        (3..20).for_each(|cgroup| trees.changed(cgroup, [cgroup as u32 + 300].into_iter()));
        assert_eq!(trees.pending.len(), PENDING_MAX);
    }
}
