//! Reads a topic from its first record, again and again up to the end it has by then: few records, looked up by many.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use dogwatch_kafka::{Brokers, Fault, Logged, PATIENCE};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// When nothing comes for so long, it is asked whether the topic is there at all.
const QUIET: Duration = Duration::from_secs(2);

/// A topic, and how far it was read.
pub struct WholeTopic {
    consumer: BaseConsumer<Logged>,
    topic: String,
    /// Offset of the next record, for each partition.
    next: HashMap<i32, i64>,
}

impl WholeTopic {
    /// Opens a topic; nothing of it is read yet. The group's name is given for the brokers' rights alone.
    ///
    /// # Errors
    /// [`Fault`] when the brokers do not answer.
    pub fn open(brokers: &Brokers, group_id: &str, topic: String) -> Result<Self, Fault> {
        let action = format!("read topic {topic}");
        let fault = |error: KafkaError| Fault::of(&action, &error);
        // No group: the topic is read whole at each start, nothing is committed.
        let mut settings = brokers.settings();
        settings
            .set("group.id", group_id)
            .set("enable.auto.commit", "false")
            // Where a topic was made anew, too.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            // An empty end is answered after this time.
            .set("fetch.wait.max.ms", "10");
        let consumer = Logged::consumer(&settings).map_err(fault)?;
        let mut opened = Self {
            consumer,
            topic,
            next: HashMap::new(),
        };
        opened.exists()?;
        Ok(opened)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.topic
    }

    /// Says whether it is there.
    ///
    /// # Errors
    /// [`Fault`] when the brokers do not answer.
    pub fn exists(&mut self) -> Result<bool, Fault> {
        if self.next.is_empty() {
            let partitions = self.partitions()?;
            self.next = partitions.map(|partition| (partition, 0)).collect();
        }
        Ok(!self.next.is_empty())
    }

    fn partitions(&self) -> Result<impl Iterator<Item = i32>, Fault> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), PATIENCE)
            .map_err(|error| self.fault(&error))?;
        let partitions = metadata.topics().iter();
        let partitions = partitions.flat_map(|topic| topic.partitions());
        let partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        Ok(partitions.into_iter())
    }

    fn fault(&self, error: &KafkaError) -> Fault {
        Fault::of(&format!("read topic {}", self.topic), error)
    }

    /// Takes what the client has to log; between readings nobody else does.
    pub fn tend(&self) {
        // Without an assignment no record can come.
        dogwatch_kafka::tend(&self.consumer);
    }

    /// Reads every partition up to the end it has now.
    ///
    /// Each call assigns anew where the last one ended: an end-of-partition event then is one of
    /// this call, whatever lies at the end (compacted records and markers of transactions are not seen).
    ///
    /// # Errors
    /// [`Fault`] when the topic may not be read, or not within [`PATIENCE`].
    pub fn read_to_end(&mut self, mut take: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), Fault> {
        self.exists()?;
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.next {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))
                .map_err(|error| self.fault(&error))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.fault(&error))?;
        let mut heard = Instant::now();
        let deadline = heard + PATIENCE;
        let mut unread: HashSet<i32> = self.next.keys().copied().collect();
        while !unread.is_empty() {
            if heard.elapsed() >= QUIET {
                heard = Instant::now();
                if self.partitions()?.next().is_none() {
                    // It is gone: should it be made anew, it is read from its first record.
                    self.next.clear();
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                let reason = "its end was not reached in time".to_owned();
                return Err(Fault::new(
                    &format!("read topic {}", self.topic),
                    None,
                    reason,
                ));
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    take(&message);
                    self.next.insert(message.partition(), message.offset() + 1);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.remove(&partition);
                }
                Some(Err(error)) => {
                    let fault = self.fault(&error);
                    if fault.is_final() {
                        return Err(fault);
                    }
                    tracing::warn!(topic = self.topic, %error, "could not read the topic, trying on");
                }
                None => {}
            }
        }
        self.consumer.unassign().map_err(|error| self.fault(&error))
    }
}
