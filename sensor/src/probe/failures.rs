//! What the kernel part counted of calls that failed, read and cleared every round of samples.

use std::collections::HashMap;

use aya::maps::{self, Array, MapData};
use dogwatch_ebpf::control::{Failure, FailureKey};

use super::shares::{PodFailure, PodFailureKey};
use super::{ProbeError, map_error};

/// Entries read in one go; the map is smaller, and one that changes meanwhile may show some twice.
const ENTRIES_MAX: usize = 32_768;
/// Entries of one cgroup that stay for the next round; they are the most that grow in it at once.
const STAYING_MAX: usize = 2_048;

/// Calls that failed, by process, call and errno.
pub struct FailedCalls {
    failures: maps::HashMap<MapData, PodFailureKey, PodFailure>,
    fresh: maps::HashMap<MapData, u64, u64>,
    refused: Array<MapData, u64>,
    /// What was read before.
    before: HashMap<FailureKey, u64>,
}

/// What failed since the last reading.
#[derive(Debug, Default)]
pub struct Failed {
    /// Each with what was added to its count.
    pub grown: Vec<(FailureKey, Failure)>,
    /// Since the start, failures that were counted nowhere.
    pub refused: u64,
}

impl FailedCalls {
    pub(super) fn new(
        failures: maps::HashMap<MapData, PodFailureKey, PodFailure>,
        fresh: maps::HashMap<MapData, u64, u64>,
        refused: Array<MapData, u64>,
    ) -> Self {
        Self {
            failures,
            fresh,
            refused,
            before: HashMap::new(),
        }
    }

    /// What failed since the last call. Entries that have not grown are removed, and those of processes that are `gone`. Each
    /// is read once more just before: only a call that fails between that reading and the removal is not counted.
    ///
    /// # Errors
    /// When the kernel refuses to read the maps.
    pub fn read(&mut self, gone: &dyn Fn(u32) -> bool) -> Result<Failed, ProbeError> {
        let mut now = HashMap::with_capacity(self.before.len());
        let mut failed = Failed::default();
        let mut over = Vec::new();
        let mut staying: HashMap<u64, usize> = HashMap::new();
        for entry in self.failures.iter().take(ENTRIES_MAX) {
            let (PodFailureKey(key), PodFailure(failure)) =
                entry.map_err(|source| map_error("read which calls failed", source))?;
            if now.contains_key(&key) {
                continue;
            }
            let added = added_since(self.before.get(&key).copied(), failure.count);
            let of_cgroup = staying.entry(failure.cgroup_id).or_default();
            now.insert(key, failure.count);
            let row = failed.grow(None, key, &failure, added);
            if added == 0 || *of_cgroup >= STAYING_MAX || gone(key.pid) {
                over.push((key, row));
            } else {
                *of_cgroup += 1;
            }
        }
        for (key, row) in over {
            let before = now.remove(&key);
            if let Ok(PodFailure(failure)) = self.failures.get(&PodFailureKey(key), 0) {
                failed.grow(row, key, &failure, added_since(before, failure.count));
            }
            // The only way to fail is that it is not there.
            let _ = self.failures.remove(&PodFailureKey(key));
        }
        self.before = now;
        self.clear_fresh();
        failed.refused = self
            .refused
            .get(&0, 0)
            .map_err(|source| map_error("read how many failures found no room", source))?;
        Ok(failed)
    }

    /// Each share may have new entries again.
    fn clear_fresh(&mut self) {
        let shares = self.fresh.keys().take(ENTRIES_MAX).flatten();
        for share in shares.collect::<Vec<u64>>() {
            // As above.
            let _ = self.fresh.remove(&share);
        }
    }
}

impl Failed {
    /// Adds to the row of a key, or makes it; returns which one it is.
    fn grow(
        &mut self,
        row: Option<usize>,
        key: FailureKey,
        failure: &Failure,
        added: u64,
    ) -> Option<usize> {
        if added == 0 {
            return row;
        }
        if let Some((_, known)) = row.and_then(|row| self.grown.get_mut(row)) {
            known.count += added;
            return row;
        }
        let count = added;
        self.grown.push((key, Failure { count, ..*failure }));
        Some(self.grown.len() - 1)
    }
}

/// What a count grew by; one that is smaller than before is of an entry that was made anew.
fn added_since(before: Option<u64>, count: u64) -> u64 {
    count.checked_sub(before.unwrap_or(0)).unwrap_or(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_made_anew_counts_from_its_own_beginning() {
        assert_eq!(added_since(None, 3), 3);
        assert_eq!(added_since(Some(3), 3), 0);
        assert_eq!(added_since(Some(3), 5), 2);
        assert_eq!(added_since(Some(9), 2), 2);
    }

    #[test]
    fn what_fails_while_it_is_read_is_in_the_same_row() {
        let key = FailureKey {
            start_ns: 1,
            pid: 7,
            number: 2,
            error: 2,
        };
        let failure = Failure {
            count: 9,
            cgroup_id: 3,
            comm: [0; 16],
        };
        let mut failed = Failed::default();
        assert_eq!(failed.grow(None, key, &failure, 0), None);
        let row = failed.grow(None, key, &failure, 4);
        assert_eq!(failed.grow(row, key, &failure, 0), row);
        assert_eq!(failed.grow(row, key, &failure, 2), row);
        let told: Vec<_> = failed.grown.iter().map(|(_, row)| row.count).collect();
        assert_eq!(told, [6]);
    }
}
