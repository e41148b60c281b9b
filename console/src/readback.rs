//! Reads alerts back from their topic, committed ones only, from the moment it is opened.
//!
//! It joins no group and commits nothing: whoever else reads the topic does not notice.

use std::time::{Duration, Instant};

use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{ErrorKeeper, Fault, PATIENCE};
use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_stream_processor::config::Config;
use dogwatch_stream_processor::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

/// Pause before a topic is looked at again that had no leaders.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(100);

/// The alerts' topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackError {
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// The topic is missing or not as it must be.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A record is none this program can read.
    #[error(
        "could not read the alert at {topic}/{partition}/{offset}; was it written by another version of Dogwatch?"
    )]
    Undecodable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
        /// Why it failed.
        source: DecodeError,
    },
}

impl ReadBackError {
    /// Whether address, rights or topics are at fault, not this run.
    pub fn environment(&self) -> bool {
        match self {
            Self::Kafka(fault) => fault.environment(),
            Self::Topic(error) => error.environment(),
            Self::Undecodable { .. } => false,
        }
    }
}

/// An open reader.
pub struct ReadBack {
    consumer: BaseConsumer<ErrorKeeper>,
}

impl ReadBack {
    /// Creates missing topics where the configuration allows it, and stands at the end of the alerts' topic.
    ///
    /// # Errors
    /// [`ReadBackError`] when the broker or the topic refuse.
    pub fn open(config: &Config) -> Result<Self, ReadBackError> {
        topics::prepare(config, config.kafka.create_topics)?;
        let mut settings = config.kafka.brokers().settings();
        settings
            .set("group.id", "dogwatch-console")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error");
        let consumer = ErrorKeeper::consumer(&settings).map_err(failed)?;
        let topic = Topics::new(config.kafka.topic_prefix.as_str()).name(Topic::Alerts);
        consumer
            .assign(&ends(&consumer, &topic).map_err(failed)?)
            .map_err(failed)?;
        Ok(Self { consumer })
    }

    /// Returns the next alert, or `None` when none came within `wait`.
    ///
    /// # Errors
    /// [`ReadBackError`]; after [`ReadBackError::Undecodable`] the next call goes on behind the record.
    pub fn next(&self, wait: Duration) -> Result<Option<Alert>, ReadBackError> {
        let Some(polled) = self.consumer.poll(wait) else {
            return Ok(None);
        };
        let message = polled.map_err(failed)?;
        let alert = Alert::decode_framed(message.payload().unwrap_or_default());
        alert
            .map(Some)
            .map_err(|source| ReadBackError::Undecodable {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                offset: message.offset(),
                source,
            })
    }
}

/// The ends of a topic's partitions: resolved here and now, so that nothing said from now on is missed.
///
/// A topic made just now has no leaders for a moment.
fn ends(
    consumer: &BaseConsumer<ErrorKeeper>,
    topic: &str,
) -> Result<TopicPartitionList, KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ends_now(consumer, topic) {
            Ok(ends) if ends.count() > 0 => return Ok(ends),
            result if Instant::now() > deadline => return result,
            _ => std::thread::sleep(LEADERLESS_PAUSE),
        }
    }
}

fn ends_now(
    consumer: &BaseConsumer<ErrorKeeper>,
    topic: &str,
) -> Result<TopicPartitionList, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut ends = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
        ends.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    Ok(ends)
}

fn failed(error: KafkaError) -> Fault {
    Fault::of("read the topic of alerts", &error)
}
