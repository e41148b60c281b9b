//! Reads alerts back from their topic, committed ones only, and events where they are wanted, from the moment it is opened.
//!
//! It joins no group and commits nothing: whoever else reads the topic does not notice.

use std::time::{Duration, Instant};

use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{ErrorKeeper, Fault, PATIENCE, ask_leaders};
pub(crate) use dogwatch_query::follow::GROUP;
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_stream_processor::config::Config;
use dogwatch_stream_processor::topics;
use dogwatch_stream_processor::versions::{Unreadable, Versions};
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
    #[error("could not read the record at {topic}/{partition}/{offset}")]
    Undecodable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
        /// Why it failed.
        source: Box<Unreadable>,
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

/// What was read.
#[derive(Debug)]
pub enum Read {
    /// An alert.
    Alert(Box<Alert>),
    /// An event, of whatever host.
    Event(Box<Event>),
}

/// An open reader.
pub struct ReadBack {
    consumer: BaseConsumer<ErrorKeeper>,
    alerts_topic: String,
    alerts: Versions<Alert>,
    events: Versions<Event>,
}

impl ReadBack {
    /// Creates missing topics where the configuration allows it, and stands at the end of the alerts' topic, and of the
    /// events' where they are wanted.
    ///
    /// # Errors
    /// [`ReadBackError`] when the broker or the topic refuse.
    pub fn open(config: &Config, with_events: bool) -> Result<Self, ReadBackError> {
        topics::prepare(config, &[])?;
        let mut settings = config.kafka.brokers().settings();
        settings
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error");
        let consumer = ErrorKeeper::consumer(&settings).map_err(failed)?;
        let names = Topics::new(config.kafka.topic_prefix.as_str());
        let alerts_topic = names.name(Topic::Alerts);
        let mut list = ends(&consumer, &alerts_topic).map_err(failed)?;
        if with_events {
            let events = ends(&consumer, &names.name(Topic::Events)).map_err(failed)?;
            for end in events.elements() {
                list.add_partition_offset(end.topic(), end.partition(), end.offset())
                    .map_err(failed)?;
            }
        }
        consumer.assign(&list).map_err(failed)?;
        let schemas = || {
            let brokers = config.kafka.brokers();
            (brokers, GROUP, names.name(Topic::Schemas))
        };
        Ok(Self {
            consumer,
            alerts_topic,
            alerts: Versions::new(Alert::SCHEMA, Alert::decode_framed, schemas()),
            events: Versions::new(Event::SCHEMA, Event::decode_framed, schemas()),
        })
    }

    /// Returns the next record, or `None` when none came within `wait`.
    ///
    /// # Errors
    /// [`ReadBackError`]; after [`ReadBackError::Undecodable`] the next call goes on behind the record.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Read>, ReadBackError> {
        let Some(polled) = self.consumer.poll(wait) else {
            return Ok(None);
        };
        let message = polled.map_err(failed)?;
        let framed = message.payload().unwrap_or_default();
        let read = match message.topic() == self.alerts_topic {
            true => self.alerts.read(framed).map(Box::new).map(Read::Alert),
            false => self.events.read(framed).map(Box::new).map(Read::Event),
        };
        read.map(Some).map_err(|source| ReadBackError::Undecodable {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            source: Box::new(source),
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
        let ask = || consumer.fetch_watermarks(topic, partition.id(), PATIENCE);
        let (_, end) = ask_leaders(PATIENCE, ask)?;
        ends.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    Ok(ends)
}

fn failed(error: KafkaError) -> Fault {
    Fault::of("read the topic of alerts", &error)
}
