//! What tasks remember stays here over a rebalance that gives them back to this processor.
//!
//! ```text
//! revoked ─► all is stored and committed ─► held ─► assigned again, and committed as it was? ─► yes: goes on, nothing is read
//!                                                           │ no, or to somebody else: forgotten, read as ever
//! ```
//! Whoever joins or leaves has the group take all partitions from all members, and most come back to those who had them.
//! Without this each rebalance has every processor read the state of all its tasks.
//!
//! What is held is what a restore would give: the group committed the offset at which the task stands and the checkpoint that was
//! taken there, and a checkpoint's name and number are given once. Nothing is held of what was lost, where what somebody else
//! does meanwhile is not fenced, and over a change of detections.

use std::collections::BTreeMap;

use super::Stages;
use super::steps::Steps;
use crate::config::Delivery;
use crate::metrics;
use crate::source::Assigned;
use crate::step::{Memory, Partition};
use crate::tasks::Task;

/// Tasks that were given back and not taken over since; the engine still knows what they remember.
#[derive(Default)]
pub(super) struct Held(BTreeMap<Partition, (Task, Memory)>);

impl Held {
    /// Whether a task goes on where it is held.
    pub fn fits(&self, assigned: &Assigned) -> bool {
        self.0
            .get(&assigned.partition)
            .is_some_and(|held| is_as_committed(held, assigned))
    }

    /// Takes out a task that goes on where it is held.
    pub fn take(&mut self, assigned: &Assigned) -> Option<(Task, Memory)> {
        let held = self.0.remove(&assigned.partition)?;
        is_as_committed(&held, assigned).then_some(held)
    }
}

fn is_as_committed((task, memory): &(Task, Memory), assigned: &Assigned) -> bool {
    let start = &assigned.start;
    start.live_from == task.processed() && start.memory.as_ref() == Ok(&memory.head)
}

impl Steps {
    /// Gives tasks back whose all was stored and committed, and holds what they remember until it is known who has them next.
    pub(super) fn give_and_hold(&mut self, partitions: &[Partition], stages: &Stages) {
        let holds = self.ends.stores && self.config.delivery == Delivery::ExactlyOnce;
        let held = partitions.iter().filter_map(|partition| {
            let task = self.tasks.task(*partition).filter(|_| holds)?;
            let memory = stages.publisher.memory(*partition)?;
            let input = memory.head.inputs.get(&partition.0);
            let is_stored = memory.epoch == task.epoch
                && input == Some(&task.processed())
                && !task.progress.behind();
            is_stored.then(|| (*partition, (task.clone(), memory)))
        });
        let held: BTreeMap<Partition, (Task, Memory)> = held.collect();
        self.give(partitions, |partition| held.contains_key(&partition));
        self.held.0.extend(held);
    }

    /// Forgets what is held and not among these.
    pub(super) fn forget_held_but(&mut self, assigned: &[Assigned]) {
        let comes = |partition| assigned.iter().any(|own| own.partition == partition);
        let gone: Vec<Partition> = self
            .held
            .0
            .keys()
            .copied()
            .filter(|own| !comes(*own))
            .collect();
        for partition in gone {
            self.held.0.remove(&partition);
            self.engine.forget_log(partition);
        }
    }

    /// Counts the tasks that go on where they are held.
    pub(super) fn count_held(&self, assigned: &[Assigned]) -> usize {
        let held = assigned.iter().filter(|own| self.held.fits(own)).count();
        metrics::held(held);
        held
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use dogwatch_schemas::topics::Topic;

    use super::*;
    use crate::checkpoint::{Head, Inputs, Progress};
    use crate::source::placement::decide;

    const TASK: Partition = (Topic::Events, 3);

    fn head(number: u64, base: &str) -> Head {
        Head {
            number,
            base: base.to_owned(),
            ..Head::empty(Inputs::from([(Topic::Events, 70)]))
        }
    }

    /// A task that was given back at offset 70 with its seventh checkpoint.
    fn held() -> Held {
        let progress = Progress::begin(7, Instant::now());
        let task = Task::new(1, progress, 70, 60, Instant::now());
        let memory = Memory {
            epoch: 1,
            head: head(7, "a"),
            places: BTreeMap::new(),
        };
        Held(BTreeMap::from([(TASK, (task, memory))]))
    }

    #[test]
    fn a_task_goes_on_only_where_the_group_committed_what_is_held() {
        let assigned = |offset, head| Assigned {
            partition: TASK,
            epoch: 2,
            start: decide(Topic::Events, Some((offset, head)), 0, 100),
        };
        assert!(held().fits(&assigned(70, Ok(head(7, "a")))));
        let others = [
            // Somebody else went on, with or without a checkpoint, or wrote one of the same number.
            assigned(71, Ok(head(7, "a"))),
            assigned(70, Ok(head(8, "a"))),
            assigned(70, Ok(head(7, "b"))),
            // The topic was made anew, the memory is gone, or another set ran.
            assigned(101, Ok(head(7, "a"))),
            assigned(70, Err(crate::checkpoint::MemoryError::None)),
            assigned(
                70,
                Ok(Head {
                    ran: crate::checkpoint::Ran {
                        partitions: Some(5),
                        ..Default::default()
                    },
                    ..head(7, "a")
                }),
            ),
        ];
        for other in others {
            assert!(!held().fits(&other), "{other:?}");
            assert!(held().take(&other).is_none(), "{other:?}");
        }
        let mut own = held();
        let (task, memory) = own.take(&assigned(70, Ok(head(7, "a")))).expect("it fits");
        assert_eq!((task.processed(), memory.head.number), (70, 7));
        assert!(!own.fits(&assigned(70, Ok(head(7, "a")))), "taken out");
    }
}
