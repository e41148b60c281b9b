//! Reads what tasks remembered, from the topic of states.
//!
//! ```text
//! heads (from the offsets' metadata) ─► dogwatch.state, each partition from its tasks' first S ─► fold to the named checkpoints
//! ```
//! The markers of one transaction reach the partitions one by one: the offsets may be committed while the checkpoint
//! is still hidden from readers of committed records, and an open transaction of a zombie hides it for as long as the
//! broker lets that stand. So "not there" is said only of a partition that was read to an end that hides nothing.
//! That end is the broker's, not the last record's: markers and compacted records lie there too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dogwatch_kafka::{Fault, Logged};
use dogwatch_schemas::topics::Topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::checkpoint::{BASE_HEADER, Fold, Head, MemoryError, Restored};
use crate::config::{Config, Delivery};
use crate::step::Partition;

/// How long one poll waits; also how soon a rebalance or a shutdown is seen.
const POLL: Duration = Duration::from_millis(50);

/// Pause before a broker that gave no answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the broker may take to say where a partition ends, before it is asked again.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What became of each task's memory.
pub type Memories = BTreeMap<Partition, Result<Restored, MemoryError>>;

/// Reads the memory of tasks, each from where its head says.
/// Returns nothing when `wanted` says that it is not wanted any more: a rebalance or a shutdown came.
///
/// # Errors
/// [`Fault`] when the topic may not be read. A broker that is away is waited for.
pub fn restore(
    config: &Config,
    heads: &BTreeMap<Partition, Head>,
    wanted: impl Fn() -> bool,
) -> Result<Option<Memories>, Fault> {
    let topic = Topics::new(config.kafka.topic_prefix.as_str()).name(config.stage.state());
    let action = format!("read topic {topic}");
    let reader = Reader::open(config, topic).map_err(|error| Fault::of(&action, &error))?;
    // Tasks of several topics lie in the same partition: it is read once for all of them.
    let mut readings: BTreeMap<i32, Reading> = BTreeMap::new();
    for (log, head) in heads {
        let reading = readings.entry(log.1).or_insert_with(|| Reading {
            next: head.state,
            tasks: BTreeMap::new(),
            done: false,
        });
        reading.next = reading.next.min(head.state);
        let task = (head.state, Ok(Fold::new(head.clone())));
        reading.tasks.insert(*log, task);
    }
    while readings.values().any(|reading| !reading.done) {
        match reader.pass(&mut readings, &wanted) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                let fault = Fault::of(&action, &error);
                if fault.environment() {
                    return Err(fault);
                }
                if !wanted() {
                    return Ok(None);
                }
                tracing::warn!(%error, "could not read what the tasks remember, trying on");
                std::thread::sleep(PAUSE);
            }
        }
    }
    let tasks = readings.into_values().flat_map(|reading| reading.tasks);
    let memories = tasks.map(|(log, (_, fold))| (log, fold.and_then(Fold::finish)));
    Ok(Some(memories.collect()))
}

/// How far one partition was read.
struct Reading {
    next: i64,
    /// What is found of each task there, and from which offset on it may be.
    tasks: BTreeMap<Partition, (i64, Result<Fold, MemoryError>)>,
    done: bool,
}

impl Reading {
    fn reached(&self) -> bool {
        // What cannot be understood does not get better further on.
        let reached = |fold: &Result<Fold, _>| fold.as_ref().map_or(true, Fold::reached);
        self.tasks.values().all(|(_, fold)| reached(fold))
    }

    /// Hands a record to the tasks that it may be of; those that have their checkpoint take more only where `newest` counts.
    fn take(&mut self, message: &BorrowedMessage<'_>, newest: bool) {
        let offset = message.offset();
        self.next = offset + 1;
        let tasks = self.tasks.values_mut();
        for (_, own) in tasks.filter(|(from, _)| *from <= offset) {
            let Ok(fold) = own else {
                continue;
            };
            if fold.reached() && !newest {
                continue;
            }
            let key = message.key().unwrap_or_default();
            if let Err(error) = fold.take(offset, key, base(message), message.payload()) {
                *own = Err(error);
            }
        }
    }
}

fn base<'m>(message: &'m BorrowedMessage<'_>) -> Option<&'m [u8]> {
    let mut headers = message.headers()?.iter();
    headers.find(|header| header.key == BASE_HEADER)?.value
}

struct Reader {
    topic: String,
    committed: BaseConsumer<Logged>,
    /// Sees what open transactions hold back.
    all: BaseConsumer<Logged>,
    /// Whether checkpoints beyond the named one count: where records come before the offsets.
    newest: bool,
}

impl Reader {
    fn open(config: &Config, topic: String) -> KafkaResult<Self> {
        let consumer = |isolation: &str| {
            // No group: nothing is committed, the offsets are ours.
            let mut settings = config.kafka.brokers().settings();
            settings
                .set("group.id", &config.kafka.group_id)
                .set("enable.auto.commit", "false")
                .set("auto.offset.reset", "earliest")
                .set("enable.partition.eof", "true")
                .set("isolation.level", isolation)
                .set("fetch.queue.backoff.ms", "10")
                // An empty end is answered after this time.
                .set("fetch.wait.max.ms", "10");
            Logged::consumer(&settings)
        };
        Ok(Self {
            topic,
            committed: consumer("read_committed")?,
            all: consumer("read_uncommitted")?,
            newest: config.delivery == Delivery::AtLeastOnce,
        })
    }

    /// Reads every partition that is not done up to the end it has now; says whether that is still wanted.
    fn pass(
        &self,
        readings: &mut BTreeMap<i32, Reading>,
        wanted: &impl Fn() -> bool,
    ) -> KafkaResult<bool> {
        let mut list = TopicPartitionList::new();
        let mut bare = BTreeSet::new();
        for (partition, reading) in readings.iter().filter(|(_, reading)| !reading.done) {
            if self.hides_nothing(*partition)? {
                bare.insert(*partition);
            }
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(reading.next))?;
        }
        // Assigned anew, so an end that is reported is one of this pass.
        self.committed.assign(&list)?;
        let mut unread: BTreeSet<i32> = list
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect();
        while !unread.is_empty() {
            if !wanted() {
                return Ok(false);
            }
            match self.committed.poll(POLL) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    if let Some(reading) = readings.get_mut(&partition)
                        && unread.contains(&partition)
                    {
                        reading.take(&message, self.newest);
                        if reading.reached() && !self.newest {
                            reading.done = true;
                            unread.remove(&partition);
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(reading) = readings.get_mut(&partition) {
                        reading.done |= reading.reached() || bare.contains(&partition);
                    }
                    unread.remove(&partition);
                }
                Some(Err(error)) if passing(&error) => {
                    tracing::debug!(%error, "could not read states, trying on");
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        self.committed.unassign()?;
        Ok(wanted())
    }

    /// Says whether no open transaction holds records of a partition back.
    fn hides_nothing(&self, partition: i32) -> KafkaResult<bool> {
        let end = |consumer: &BaseConsumer<Logged>| {
            let bounds = consumer.fetch_watermarks(&self.topic, partition, END_PATIENCE);
            bounds.map(|(_, end)| end)
        };
        // In this order: what is begun between the two is seen as hidden, never the other way round.
        let stable = end(&self.committed)?;
        Ok(end(&self.all)? == stable)
    }
}

fn passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    !matches!(
        error.rdkafka_error_code(),
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed)
    )
}
