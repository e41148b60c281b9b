//! Partitions of inputs whose tasks have no place in the topic of states.
//!
//! Somebody may add partitions to an input while processors run. What such a task remembers could not be stored, so its
//! partition is not read, and the log says what to do; all others are read on. When the topic of states has caught up, the
//! group is joined anew.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{GroupContext, GroupInput, list};
use crate::step::Partition;

/// How often the topic of states is looked at where it lacks partitions.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// How long the broker may take to tell its partitions; the group waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

impl GroupInput {
    /// Joins the group anew when the topic of states has got the partitions that were missing, and complains until then.
    pub(super) fn look_for_state(&self, context: &GroupContext) -> KafkaResult<()> {
        let stateless = context.stateless().clone();
        let Some(highest) = stateless.iter().map(|(_, number)| *number).max() else {
            return Ok(());
        };
        if context
            .tasks(&self.consumer)
            .is_none_or(|tasks| tasks <= highest)
        {
            context.complain(&stateless);
            return Ok(());
        }
        tracing::info!("the topic of states has the partitions that were missing: all are read");
        self.consumer.unsubscribe();
        context.subscribe(&self.consumer)
    }
}

impl GroupContext {
    /// Returns those of the partitions whose tasks have a place in the topic of states. Where partitions were added to an
    /// input alone, the others are read on as before.
    pub(super) fn with_state(
        &self,
        consumer: &BaseConsumer<Self>,
        wanted: &TopicPartitionList,
    ) -> TopicPartitionList {
        let (kept, stateless): (Vec<Partition>, Vec<Partition>) = match self.tasks(consumer) {
            Some(tasks) => {
                let has_state = |partition: &Partition| partition.1 < tasks;
                self.partitions(wanted).into_iter().partition(has_state)
            }
            // What cannot be asked now is seen when the state is written.
            None => (self.partitions(wanted), Vec::new()),
        };
        self.complain(&stateless);
        *self.stateless() = stateless;
        list(&self.names, &kept)
    }

    /// How many partitions the topic of states has.
    fn tasks(&self, consumer: &BaseConsumer<Self>) -> Option<i32> {
        let state = self.names.name(self.stage.state());
        let metadata = consumer.fetch_metadata(Some(&state), PATIENCE);
        let metadata = metadata.ok()?;
        let count = metadata.topics().first()?.partitions().len();
        i32::try_from(count).ok().filter(|count| *count > 0)
    }

    fn stateless(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.stateless
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is not read and what to do, at once and then at growing intervals.
    fn complain(&self, stateless: &[Partition]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if stateless.is_empty() || told.note(stateless.to_vec(), 1, Instant::now()).is_none() {
            return;
        }
        let state = self.names.name(self.stage.state());
        let inputs: BTreeSet<String> = stateless
            .iter()
            .map(|(topic, _)| self.names.name(*topic))
            .collect();
        let highest = stateless.iter().map(|(_, number)| *number).max();
        let needed = highest.map_or(0, |number| number + 1);
        let numbers: Vec<String> = stateless.iter().map(|of| of.1.to_string()).collect();
        tracing::error!(
            partitions = numbers.join(","),
            "topic {} has partitions that {state} has not: they are not read, the others are; add them: \
             kafka-topics --alter --topic {state} --partitions {needed}",
            inputs.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
}
