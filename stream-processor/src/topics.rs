//! The topics this program needs: those of `dogwatch_schemas::topics` that it reads and writes.

use std::time::{Duration, Instant};

use dogwatch_kafka::topics::{self, Admin, Internal, NewTopics, Settings, TopicError};
use dogwatch_kafka::{ErrorKeeper, Fault, PATIENCE, REACH, reach};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::config::{Config, Delivery, ExchangeTopics};
use crate::kafka::MESSAGE_BYTES_MAX;

/// How long the brokers of a cluster may take to come one after the other.
const CLUSTER_START: Duration = Duration::from_secs(8);

/// The topics that must exist before this program runs, beside those of samples that detections read.
const NEEDED: [Topic; 8] = [
    Topic::Events,
    Topic::Alerts,
    Topic::DeadLetters,
    Topic::Late,
    Topic::Schemas,
    Topic::State,
    Topic::Exchange,
    Topic::FleetState,
];

/// Least that the topics of states and the exchange must take, in bytes: a piece of 512 KiB with key, header and batch.
const STATE_BYTES_MIN: usize = 600_000;

/// Kafka's own limit where the topic's is not known, in bytes.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;

/// What is known of the topics after the check.
#[derive(Debug, Clone)]
pub struct TopicReport {
    /// Topics that were created just now.
    pub created: Vec<String>,
    /// Largest message of the topic of alerts, in bytes.
    pub alert_bytes_max: usize,
    /// Largest message of the topic of dead letters, in bytes.
    pub dead_letter_bytes_max: usize,
    /// Largest message of the topic of late rows, in bytes.
    pub late_bytes_max: usize,
    /// Largest message of the topics of states, in bytes.
    pub state_bytes_max: usize,
    /// Largest message of the exchange, in bytes.
    pub exchange_bytes_max: usize,
    /// The exchange and its sources.
    pub exchange: ExchangeTopics,
}

impl TopicReport {
    /// The largest batch that every topic takes, in bytes.
    pub fn batch_bytes_max(&self) -> usize {
        self.alert_bytes_max
            .min(self.dead_letter_bytes_max)
            .min(self.late_bytes_max)
            .min(self.state_bytes_max)
            .min(self.exchange_bytes_max)
    }
}

/// Creates what is missing, where that is allowed, and checks the rest; `inputs` are the topics that detections read.
///
/// # Errors
/// [`TopicError`], naming the topic and the mend.
pub fn prepare(config: &Config, inputs: &[Topic]) -> Result<TopicReport, TopicError> {
    prepare_by(config, inputs, |admin| admin)
}

/// As [`prepare`], but makes nothing: `created` are the topics that the brokers would let it make.
///
/// # Errors
/// As [`prepare`].
pub fn look(config: &Config, inputs: &[Topic]) -> Result<TopicReport, TopicError> {
    prepare_by(config, inputs, Admin::trying)
}

/// Makes the topic that sets of detections are published in, where it is missing; returns its name if so.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_published(config: &Config) -> Result<Option<String>, TopicError> {
    let names = Topics::new(config.kafka.topic_prefix.as_str());
    let brokers = config.kafka.brokers();
    let (_client, metadata) = reach(&brokers, REACH)?;
    let present = topics::counts(&metadata, &names);
    let admin = Admin::new(&brokers, &names, PATIENCE)?;
    let created = admin.create(&[Topic::Detections], &present, new_topics(config))?;
    for (topic, found) in admin.settings(&[Topic::Detections])? {
        topics::check_settings(topic, &names.name(topic), &found)?;
    }
    Ok(created.into_iter().next())
}

fn new_topics(config: &Config) -> NewTopics {
    NewTopics {
        allowed: config.kafka.create_topics,
        partitions: config.kafka.partitions,
        replication_factor: config.kafka.replication_factor,
    }
}

fn prepare_by(
    config: &Config,
    inputs: &[Topic],
    how: impl FnOnce(Admin) -> Admin,
) -> Result<TopicReport, TopicError> {
    let further = inputs.iter().filter(|input| !NEEDED.contains(input));
    let needed: Vec<Topic> = NEEDED.iter().chain(further).copied().collect();
    let names = Topics::new(config.kafka.topic_prefix.as_str());
    let brokers = config.kafka.brokers();
    let (client, metadata) = reach(&brokers, REACH)?;
    let present = topics::counts(&metadata, &names);
    topics::check_partitions(&present, &names)?;
    let admin = how(Admin::new(&brokers, &names, PATIENCE)?);
    wait_for_internal(config, &admin, &client)?;
    let created = admin.create(&needed, &present, new_topics(config))?;
    let settings = admin.settings(&needed)?;
    for (topic, found) in &settings {
        topics::check_settings(*topic, &names.name(*topic), found)?;
    }
    let bytes_max = |topic| message_bytes_max(topic, &settings);
    let count = |topic| match present.get(&topic) {
        Some(count) => *count as i32,
        None => topics::partitions_of(topic, &present, new_topics(config)),
    };
    Ok(TopicReport {
        created,
        alert_bytes_max: bytes_max(Topic::Alerts),
        dead_letter_bytes_max: bytes_max(Topic::DeadLetters),
        late_bytes_max: bytes_max(Topic::Late),
        state_bytes_max: internal_bytes_max(Topic::State, &names, &settings)?
            .min(internal_bytes_max(Topic::FleetState, &names, &settings)?),
        exchange_bytes_max: internal_bytes_max(Topic::Exchange, &names, &settings)?,
        exchange: ExchangeTopics {
            partitions: count(Topic::Exchange),
            sources: count(Topic::Events),
        },
    })
}

/// The brokers must be able to make their own topics; those of a cluster that starts come one after the other.
fn wait_for_internal(
    config: &Config,
    admin: &Admin,
    client: &BaseConsumer<ErrorKeeper>,
) -> Result<(), TopicError> {
    let needed: &[Internal] = match config.delivery {
        Delivery::ExactlyOnce => &[Internal::Transactions, Internal::Groups],
        Delivery::AtLeastOnce => &[Internal::Groups],
    };
    let deadline = Instant::now() + CLUSTER_START;
    loop {
        let metadata = client
            .fetch_metadata(None, PATIENCE)
            .map_err(|error| Fault::of("ask the brokers for their topics", &error))?;
        match admin.check_internal(needed, &metadata) {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
            Ok(()) => return Ok(()),
        }
    }
}

/// A piece of state, or a record of the exchange, must fit into its topic.
fn internal_bytes_max(
    topic: Topic,
    names: &Topics,
    settings: &Settings,
) -> Result<usize, TopicError> {
    let found = message_bytes_max(topic, settings);
    if found < STATE_BYTES_MIN {
        return Err(TopicError::Setting {
            name: names.name(topic),
            setting: "max.message.bytes",
            found: found.to_string(),
            expected: "1048588",
            why: "too few for a checkpoint",
        });
    }
    Ok(found)
}

fn message_bytes_max(topic: Topic, settings: &Settings) -> usize {
    let limit = |settings: &Settings| {
        let entry = settings.get(&topic)?.get("max.message.bytes")?;
        entry.value.as_ref()?.parse().ok()
    };
    limit(settings)
        .unwrap_or(MESSAGE_BYTES_DEFAULT)
        .min(MESSAGE_BYTES_MAX)
}
