//! Where the memory of each task is: what every commit carries as its offset's metadata.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::{Checkpoint, Head};
use crate::step::{Memory, Partition, Step};

/// The memory of the tasks whose steps are published here; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Heads(Arc<Mutex<BTreeMap<Partition, Memory>>>);

impl Heads {
    /// Where the memory of a task is, by the last commit.
    pub fn of(&self, partition: Partition) -> Option<Memory> {
        self.lock().get(&partition).cloned()
    }

    /// Learns what a step says of tasks that were taken over.
    pub fn learn(&mut self, step: &Step) {
        self.lock().extend(step.taken_over.clone());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the commit of a step says of its tasks: the step's own checkpoints, or the last ones before.
    /// `placed` tells the offset of a checkpoint's first record; nothing is returned when one that begins has none.
    pub fn of_step(
        &self,
        step: &Step,
        placed: impl Fn(Partition) -> Option<i64>,
    ) -> Option<BTreeMap<Partition, Head>> {
        let mut heads = BTreeMap::new();
        let memories = self.lock();
        for (partition, position) in &step.positions {
            let before = memories.get(partition);
            let before = before.filter(|memory| memory.epoch == position.epoch);
            let head = match step.checkpoints.get(partition) {
                Some(taken) if taken.begins => Some(taken.manifest.head(placed(*partition)?)),
                // Without a place the restore begins at the topic's first record: slower, not wrong.
                Some(taken) => {
                    let state = before.map_or(0, |memory| memory.begin(taken));
                    Some(taken.manifest.head(state))
                }
                None => before.map(|memory| memory.head.clone()),
            };
            heads.extend(head.map(|head| (*partition, head)));
        }
        Some(heads)
    }

    /// Keeps what the commit of a step said, and where its checkpoints lie.
    pub fn keep(
        &mut self,
        step: &Step,
        committed: BTreeMap<Partition, Head>,
        placed: impl Fn(Partition) -> Option<i64>,
    ) {
        let mut memories = self.lock();
        for (partition, head) in committed {
            let Some(epoch) = step
                .positions
                .get(&partition)
                .map(|position| position.epoch)
            else {
                continue;
            };
            let before = memories.remove(&partition);
            let before =
                before.filter(|memory| memory.epoch == epoch && memory.head.base == head.base);
            let mut places = before.map(|memory| memory.places).unwrap_or_default();
            if let Some(taken) = step.checkpoints.get(&partition) {
                places.retain(|_, place| *place >= head.state);
                places.extend(placed(partition).map(|place| (taken.manifest.number, place)));
            }
            let memory = Memory {
                epoch,
                head,
                places,
            };
            memories.insert(partition, memory);
        }
    }
}

impl Memory {
    /// The last place before which no piece of a checkpoint's state lies, as far as it is known.
    fn begin(&self, taken: &Checkpoint) -> i64 {
        let place = self.places.range(..=taken.manifest.oldest).next_back();
        place.map_or(self.head.state, |(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Inputs, Progress, StateRecord};
    use crate::step::Position;
    use dogwatch_schemas::topics::Topic;
    use std::time::Instant;

    const TASK: Partition = (Topic::Events, 3);

    fn of_events(input: i64) -> Inputs {
        Inputs::from([(Topic::Events, input)])
    }

    fn empty() -> Head {
        Head::empty(of_events(5))
    }

    fn taken_over(epoch: u64) -> Memory {
        Memory {
            epoch,
            head: empty(),
            places: BTreeMap::new(),
        }
    }

    fn step(epoch: u64, next: i64) -> Step {
        Step {
            positions: BTreeMap::from([(TASK, Position { epoch, next })]),
            ..Step::default()
        }
    }

    /// Commits a step whose checkpoints begin at `placed`, and returns what was said of the task.
    fn commit(heads: &mut Heads, step: &Step, placed: i64) -> Option<Head> {
        heads.learn(step);
        let said = heads.of_step(step, |_| Some(placed)).unwrap();
        heads.keep(step, said.clone(), |_| Some(placed));
        said.get(&TASK).cloned()
    }

    #[test]
    fn every_commit_names_the_last_checkpoint() {
        let mut heads = Heads::default();
        let mut first = step(1, 10);
        first.taken_over.insert(TASK, taken_over(1));
        assert_eq!(commit(&mut heads, &first, 0), Some(empty()));

        let mut progress = Progress::begin(0, Instant::now());
        let mut checkpoint = |next: i64, pieces: &[&str]| {
            let piece = |name: &&str| StateRecord {
                key: (*name).to_owned(),
                value: Some(Vec::new()),
            };
            let pieces = pieces.iter().map(piece).collect();
            let mut step = step(1, next);
            let taken = progress.take(
                pieces,
                of_events(next),
                || "base".to_owned(),
                Instant::now(),
            );
            step.checkpoints.insert(TASK, taken);
            step
        };
        let begins = checkpoint(20, &["a", "b"]);
        let head = commit(&mut heads, &begins, 77).unwrap();
        assert_eq!(
            (head.number, head.inputs[&Topic::Events], head.state),
            (1, 20, 77)
        );
        assert_eq!(commit(&mut heads, &step(1, 30), 0), Some(head));

        let change = checkpoint(40, &["a"]);
        let head = commit(&mut heads, &change, 99).unwrap();
        assert_eq!(
            (head.number, head.inputs[&Topic::Events], head.state),
            (2, 40, 77)
        );
        // With the last piece of the first one gone, a restore begins with the second, whose place is known by now.
        let change = checkpoint(50, &["b"]);
        let head = commit(&mut heads, &change, 120).unwrap();
        assert_eq!(
            (head.number, head.inputs[&Topic::Events], head.state),
            (3, 50, 99)
        );
        let change = checkpoint(60, &["a", "b"]);
        let head = commit(&mut heads, &change, 140).unwrap();
        assert_eq!((head.number, head.state), (4, 120));
    }

    #[test]
    fn a_head_of_an_earlier_assignment_is_not_said() {
        let mut heads = Heads::default();
        let mut first = step(1, 10);
        first.taken_over.insert(TASK, taken_over(1));
        commit(&mut heads, &first, 0);
        assert_eq!(commit(&mut heads, &step(2, 10), 0), None);
    }

    #[test]
    fn a_first_checkpoint_whose_place_is_not_known_is_not_committed() {
        let mut first = step(1, 20);
        let taken = Progress::begin(0, Instant::now()).take(
            Vec::new(),
            of_events(20),
            || "base".to_owned(),
            Instant::now(),
        );
        first.checkpoints.insert(TASK, taken);
        assert_eq!(Heads::default().of_step(&first, |_| None), None);
    }
}
