//! Where the memory of each task is: what every commit carries as its offset's metadata.

use std::collections::BTreeMap;

use crate::checkpoint::Head;
use crate::step::{Partition, Step};

/// The memory of the tasks whose steps are published here, each with the assignment it holds for.
#[derive(Debug, Default)]
pub struct Heads(BTreeMap<Partition, (u64, Head)>);

impl Heads {
    /// Learns what a step says of tasks that were taken over.
    pub fn learn(&mut self, step: &Step) {
        self.0.extend(step.taken_over.clone());
    }

    /// Returns what the commit of a step says of its tasks: the step's own checkpoints, or the last ones before.
    /// `placed` tells the offset of a full checkpoint's first record; nothing is returned when one has none.
    pub fn of_step(
        &self,
        step: &Step,
        placed: impl Fn(Partition) -> Option<i64>,
    ) -> Option<BTreeMap<Partition, Head>> {
        let mut heads = BTreeMap::new();
        for (partition, position) in &step.positions {
            let before = self.0.get(partition);
            let before = before.filter(|(epoch, _)| *epoch == position.epoch);
            let head = match step.checkpoints.get(partition) {
                Some(taken) if taken.manifest.full => {
                    Some(taken.manifest.head(placed(*partition)?))
                }
                // Without a place the restore begins at the topic's first record: slower, not wrong.
                Some(taken) => {
                    let state = before.map_or(0, |(_, head)| head.state);
                    Some(taken.manifest.head(state))
                }
                None => before.map(|(_, head)| head.clone()),
            };
            heads.extend(head.map(|head| (*partition, head)));
        }
        Some(heads)
    }

    /// Keeps what the commit of a step said.
    pub fn keep(&mut self, step: &Step, committed: BTreeMap<Partition, Head>) {
        for (partition, head) in committed {
            if let Some(position) = step.positions.get(&partition) {
                self.0.insert(partition, (position.epoch, head));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Progress;
    use crate::step::Position;
    use dogwatch_schemas::topics::Topic;
    use std::time::Instant;

    const TASK: Partition = (Topic::Events, 3);

    fn step(epoch: u64, next: i64) -> Step {
        Step {
            positions: BTreeMap::from([(TASK, Position { epoch, next })]),
            ..Step::default()
        }
    }

    /// Commits a step whose full checkpoints begin at `placed`, and returns what was said of the task.
    fn commit(heads: &mut Heads, step: &Step, placed: i64) -> Option<Head> {
        heads.learn(step);
        let said = heads.of_step(step, |_| Some(placed)).unwrap();
        heads.keep(step, said.clone());
        said.get(&TASK).cloned()
    }

    #[test]
    fn every_commit_names_the_last_checkpoint() {
        let mut heads = Heads::default();
        let mut first = step(1, 10);
        first.taken_over.insert(TASK, (1, Head::empty(5)));
        assert_eq!(commit(&mut heads, &first, 0), Some(Head::empty(5)));

        let mut progress = Progress::begin(0, Instant::now());
        let mut full = step(1, 20);
        let taken = progress.take(Vec::new(), 20, || "base".to_owned(), Instant::now());
        full.checkpoints.insert(TASK, taken);
        let head = commit(&mut heads, &full, 77).unwrap();
        assert_eq!((head.number, head.input, head.state), (1, 20, 77));
        assert_eq!(commit(&mut heads, &step(1, 30), 0), Some(head));

        let mut change = step(1, 40);
        let taken = progress.take(Vec::new(), 40, String::new, Instant::now());
        change.checkpoints.insert(TASK, taken);
        let head = commit(&mut heads, &change, 99).unwrap();
        assert_eq!((head.number, head.input, head.state), (2, 40, 77));
    }

    #[test]
    fn a_head_of_an_earlier_assignment_is_not_said() {
        let mut heads = Heads::default();
        let mut first = step(1, 10);
        first.taken_over.insert(TASK, (1, Head::empty(5)));
        commit(&mut heads, &first, 0);
        assert_eq!(commit(&mut heads, &step(2, 10), 0), None);
    }

    #[test]
    fn a_full_checkpoint_whose_place_is_not_known_is_not_committed() {
        let mut full = step(1, 20);
        let taken = Progress::begin(0, Instant::now()).take(
            Vec::new(),
            20,
            || "base".to_owned(),
            Instant::now(),
        );
        full.checkpoints.insert(TASK, taken);
        assert_eq!(Heads::default().of_step(&full, |_| None), None);
    }
}
