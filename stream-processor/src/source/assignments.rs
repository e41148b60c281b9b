//! Which partitions this processor owns, and since which assignment.
//!
//! The poll thread writes it inside rebalance callbacks; the step thread asks it before it takes a
//! batch, the publishing thread before it commits. The broker checks member and generation of a
//! commit, but not who owns a partition, and librdkafka hands out the *current* generation:
//! only the epoch tells a step read before a rebalance from one read after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dogwatch_schemas::topics::Topic;

use crate::step::{Partition, Position};

/// The partitions owned now.
#[derive(Debug, Default)]
pub struct Assignments(Mutex<Owned>);

#[derive(Debug, Default)]
struct Owned {
    last_epoch: u64,
    partitions: HashMap<Partition, Ownership>,
}

#[derive(Debug, Clone, Copy)]
struct Ownership {
    epoch: u64,
    /// Commits still stand, but nothing more of it is taken into a step.
    leaving: bool,
    /// A step of this assignment was dropped: no later one may be committed over the gap.
    forfeited: bool,
    /// All that the log holds was read.
    at_end: bool,
}

impl Assignments {
    /// Takes partitions over, in a new epoch.
    pub fn assign(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        owned.last_epoch += 1;
        let ownership = Ownership {
            epoch: owned.last_epoch,
            leaving: false,
            forfeited: false,
            at_end: false,
        };
        owned
            .partitions
            .extend(partitions.iter().map(|partition| (*partition, ownership)));
    }

    /// Marks partitions that are about to be given away: what is read is dropped, what is in flight may finish.
    pub fn leave(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        for partition in partitions {
            if let Some(ownership) = owned.partitions.get_mut(partition) {
                ownership.leaving = true;
            }
        }
    }

    /// Gives partitions away: no commit of theirs stands any more.
    pub fn release(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        for partition in partitions {
            owned.partitions.remove(partition);
        }
    }

    /// Returns the partitions that are owned.
    pub fn partitions(&self) -> Vec<Partition> {
        self.lock().partitions.keys().copied().collect()
    }

    /// Returns the epoch of a partition that is owned.
    pub fn epoch(&self, partition: Partition) -> Option<u64> {
        self.lock()
            .partitions
            .get(&partition)
            .map(|ownership| ownership.epoch)
    }

    /// Notes that a record was read, and returns the epoch of its partition when that is owned.
    pub fn read(&self, partition: Partition) -> Option<u64> {
        let mut owned = self.lock();
        let ownership = owned.partitions.get_mut(&partition)?;
        ownership.at_end = false;
        Some(ownership.epoch)
    }

    /// Notes that all of a partition was read. Where the client names only its number it is true of one of several topics at
    /// least; what it is asked for, a mark at the end of a log, is then early and not wrong.
    pub fn reach_end(&self, topic: Option<Topic>, number: i32) {
        for ((of, partition), ownership) in &mut self.lock().partitions {
            if *partition == number && topic.is_none_or(|topic| topic == *of) {
                ownership.at_end = true;
            }
        }
    }

    /// Says whether all of a partition was read.
    pub fn at_end(&self, partition: Partition) -> bool {
        let owned = self.lock();
        let ownership = owned.partitions.get(&partition);
        ownership.is_some_and(|ownership| ownership.at_end)
    }

    /// Says whether records read in `epoch` may still enter a step.
    pub fn takes(&self, partition: Partition, epoch: u64) -> bool {
        let owned = self.lock();
        let ownership = owned.partitions.get(&partition);
        ownership.is_some_and(|ownership| {
            ownership.epoch == epoch && !ownership.leaving && !ownership.forfeited
        })
    }

    /// Says whether a commit of all these positions stands.
    pub fn stands(&self, positions: &BTreeMap<Partition, Position>) -> bool {
        let owned = self.lock();
        let stands = |(partition, position): (&Partition, &Position)| {
            let ownership = owned.partitions.get(partition);
            ownership
                .is_some_and(|ownership| ownership.epoch == position.epoch && !ownership.forfeited)
        };
        positions.iter().all(stands)
    }

    /// Says whether a partition of these positions is gone, or about to go.
    pub fn moves(&self, positions: &BTreeMap<Partition, Position>) -> bool {
        let taken =
            |(partition, position): (&Partition, &Position)| self.takes(*partition, position.epoch);
        !positions.iter().all(taken)
    }

    /// Gives up what these positions were read under: their step was dropped, and one that was read after it
    /// must not be committed over the gap.
    pub fn forfeit(&self, positions: &BTreeMap<Partition, Position>) {
        let mut owned = self.lock();
        for (partition, position) in positions {
            if let Some(ownership) = owned.partitions.get_mut(partition) {
                ownership.forfeited |= ownership.epoch == position.epoch;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: Partition = (Topic::Events, 0);
    const P1: Partition = (Topic::Events, 1);

    fn positions(of: &[(Partition, u64)]) -> BTreeMap<Partition, Position> {
        of.iter()
            .map(|(partition, epoch)| {
                (
                    *partition,
                    Position {
                        epoch: *epoch,
                        next: 1,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn a_step_in_flight_may_finish_while_its_partition_leaves() {
        let owned = Assignments::default();
        owned.assign(&[P0, P1]);
        let epoch = owned.epoch(P0).unwrap();
        owned.leave(&[P0]);
        assert!(!owned.takes(P0, epoch));
        assert!(owned.takes(P1, epoch));
        assert!(owned.stands(&positions(&[(P0, epoch), (P1, epoch)])));
        owned.release(&[P0]);
        assert!(!owned.stands(&positions(&[(P0, epoch), (P1, epoch)])));
        assert!(owned.stands(&positions(&[(P1, epoch)])));
    }

    #[test]
    fn nothing_is_committed_over_a_dropped_step() {
        let owned = Assignments::default();
        owned.assign(&[P0, P1]);
        let epoch = owned.epoch(P0).unwrap();
        assert!(!owned.moves(&positions(&[(P0, epoch), (P1, epoch)])));
        owned.leave(&[P0]);
        assert!(owned.moves(&positions(&[(P0, epoch), (P1, epoch)])));
        owned.forfeit(&positions(&[(P0, epoch)]));
        assert!(!owned.stands(&positions(&[(P0, epoch)])));
        owned.release(&[P0]);
        owned.assign(&[P0]);
        let epoch = owned.epoch(P0).unwrap();
        assert!(owned.takes(P0, epoch) && owned.stands(&positions(&[(P0, epoch)])));
        owned.forfeit(&positions(&[(P0, epoch - 1)]));
        assert!(owned.takes(P0, epoch));
    }

    #[test]
    fn the_end_of_a_partition_is_left_with_the_next_record() {
        let owned = Assignments::default();
        owned.assign(&[P0, P1]);
        assert!(!owned.at_end(P0));
        owned.reach_end(None, 0);
        assert!(owned.at_end(P0) && !owned.at_end(P1));
        assert_eq!(owned.read(P0), owned.epoch(P0));
        assert!(!owned.at_end(P0));
        let samples = (Topic::ContainerSamples, 0);
        owned.assign(&[samples]);
        owned.reach_end(Some(Topic::ContainerSamples), 0);
        assert!(owned.at_end(samples) && !owned.at_end(P0));
    }

    #[test]
    fn a_partition_that_came_back_does_not_stand_for_what_was_read_before() {
        let owned = Assignments::default();
        owned.assign(&[P0]);
        let before = owned.epoch(P0).unwrap();
        owned.release(&[P0]);
        owned.assign(&[P0]);
        assert!(!owned.takes(P0, before));
        assert!(!owned.stands(&positions(&[(P0, before)])));
        assert!(owned.takes(P0, owned.epoch(P0).unwrap()));
    }
}
