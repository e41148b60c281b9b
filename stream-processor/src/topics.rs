//! The topics this program needs: creates what is missing and may be created, checks what is there.
//!
//! What must hold is data in `dogwatch_schemas::topics`: the broker stamps append time on every
//! topic, topics that are looked up by key are compacted, topics that are cut by task have equal partition counts.

use std::collections::BTreeMap;

use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use crate::config::Config;
use crate::kafka::{self, Fault, PATIENCE};

/// The topics that detections read.
pub const INPUTS: [Topic; 1] = [Topic::Events];

/// The topics that must exist before this program runs.
const NEEDED: [Topic; 6] = [
    Topic::Events,
    Topic::Alerts,
    Topic::DeadLetters,
    Topic::Late,
    Topic::Schemas,
    Topic::State,
];

/// Least that the topic of states must take, in bytes: a piece of 512 KiB with key, header and batch.
const STATE_BYTES_MIN: usize = 600_000;

/// Kafka's own limit where the topic's is not known, in bytes.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;

/// Why the topics are not fit for work.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The brokers could not be asked.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// A topic is missing and creating is switched off.
    #[error(
        "topic {0} does not exist; create it with message.timestamp.type=LogAppendTime, or set kafka.create_topics = true"
    )]
    Missing(String),
    /// The broker did not create a topic.
    #[error("could not create topic {name}: {reason}; {mend}")]
    NotCreated {
        /// The topic.
        name: String,
        /// The broker's answer.
        reason: RDKafkaErrorCode,
        /// What to do.
        mend: &'static str,
    },
    /// A topic has a setting that breaks a promise.
    #[error(
        "topic {name} has {setting}={found}, {why}; mend it: kafka-configs --alter --entity-type topics --entity-name {name} --add-config {setting}={expected}"
    )]
    Setting {
        /// The topic.
        name: String,
        /// Kafka's name of the setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: &'static str,
        /// What breaks otherwise.
        why: &'static str,
    },
    /// A piece of state does not fit into its topic.
    #[error(
        "topic {name} takes messages of at most {found} bytes, too few for a checkpoint; mend it: kafka-configs --alter --entity-type topics --entity-name {name} --add-config max.message.bytes=1048588"
    )]
    StateTooSmall {
        /// The topic.
        name: String,
        /// Its limit.
        found: usize,
    },
    /// Two topics that are cut by task differ in partitions.
    #[error(
        "topics {first} and {second} must have equal partition counts, one for each task, but have {first_count} and {second_count}; add partitions to the smaller one"
    )]
    Partitions {
        /// A topic.
        first: String,
        /// Its partitions.
        first_count: usize,
        /// Another.
        second: String,
        /// Its partitions.
        second_count: usize,
    },
}

impl TopicError {
    /// Says whether the environment is at fault: address, rights or the topics themselves.
    pub fn environment(&self) -> bool {
        !matches!(self, Self::Kafka(fault) if !fault.environment())
    }
}

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
    /// Largest message of the topic of states, in bytes.
    pub state_bytes_max: usize,
}

impl TopicReport {
    /// The largest batch that every topic takes, in bytes.
    pub fn batch_bytes_max(&self) -> usize {
        self.alert_bytes_max
            .min(self.dead_letter_bytes_max)
            .min(self.late_bytes_max)
            .min(self.state_bytes_max)
    }
}

/// Creates what is missing, if `create`, and checks the rest.
///
/// # Errors
/// [`TopicError`], naming the topic and the mend.
pub fn prepare(config: &Config, create: bool) -> Result<TopicReport, TopicError> {
    let names = Topics::new(config.kafka.topic_prefix.as_str());
    let (_client, metadata) = kafka::reach(config)?;
    let counts = partition_counts(&metadata, &names);
    let missing: Vec<Topic> = NEEDED
        .into_iter()
        .filter(|t| !counts.contains_key(t))
        .collect();
    if let Some(first) = missing.first().filter(|_| !create) {
        return Err(TopicError::Missing(names.name(*first)));
    }
    check_partitions(&counts, &names)?;
    let admin: AdminClient<DefaultClientContext> = kafka::base(&config.kafka)
        .create()
        .map_err(|error| Fault::of("make a Kafka client", &error))?;
    create_topics(&admin, &missing, &counts, &names, config)?;
    let settings = describe(&admin, &names)?;
    for topic in NEEDED {
        if let Some(settings) = settings.get(&names.name(topic)) {
            check_settings(topic, &names.name(topic), settings)?;
        }
    }
    let bytes_max = |topic| message_bytes_max(settings.get(&names.name(topic)));
    let state_bytes_max = bytes_max(Topic::State);
    if state_bytes_max < STATE_BYTES_MIN {
        return Err(TopicError::StateTooSmall {
            name: names.name(Topic::State),
            found: state_bytes_max,
        });
    }
    Ok(TopicReport {
        created: missing.into_iter().map(|topic| names.name(topic)).collect(),
        alert_bytes_max: bytes_max(Topic::Alerts),
        dead_letter_bytes_max: bytes_max(Topic::DeadLetters),
        late_bytes_max: bytes_max(Topic::Late),
        state_bytes_max,
    })
}

fn partition_counts(metadata: &Metadata, names: &Topics) -> BTreeMap<Topic, usize> {
    let ours = |topic: &rdkafka::metadata::MetadataTopic| {
        let known = names
            .topic(topic.name())
            .filter(|_| topic.error().is_none())?;
        Some((known, topic.partitions().len()))
    };
    metadata.topics().iter().filter_map(ours).collect()
}

fn check_partitions(counts: &BTreeMap<Topic, usize>, names: &Topics) -> Result<(), TopicError> {
    let mut by_task = counts.iter().filter(|(topic, _)| topic.by_task());
    let Some((first, first_count)) = by_task.next() else {
        return Ok(());
    };
    match by_task.find(|(_, count)| *count != first_count) {
        None => Ok(()),
        Some((second, second_count)) => Err(TopicError::Partitions {
            first: names.name(*first),
            first_count: *first_count,
            second: names.name(*second),
            second_count: *second_count,
        }),
    }
}

fn create_topics(
    admin: &AdminClient<DefaultClientContext>,
    missing: &[Topic],
    counts: &BTreeMap<Topic, usize>,
    names: &Topics,
    config: &Config,
) -> Result<(), TopicError> {
    if missing.is_empty() {
        return Ok(());
    }
    // A topic of the tasks that is there decides for those that are not.
    let by_task = counts.iter().find(|(topic, _)| topic.by_task());
    let partitions = by_task.map_or(config.kafka.partitions, |(_, count)| *count as i32);
    let full_names: Vec<String> = missing.iter().map(|topic| names.name(*topic)).collect();
    let new = missing.iter().zip(&full_names).map(|(topic, name)| {
        // Schemas are few and read whole: one partition keeps them in order.
        let partitions = if *topic == Topic::Schemas {
            1
        } else {
            partitions
        };
        let replication = TopicReplication::Fixed(config.kafka.replication_factor);
        let mut new = NewTopic::new(name, partitions, replication);
        for (setting, value) in topic.settings() {
            new = new.set(setting, value);
        }
        new
    });
    let new: Vec<NewTopic> = new.collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE));
    let results = futures::executor::block_on(admin.create_topics(&new, &options))
        .map_err(|error| Fault::of("create topics", &error))?;
    for result in results {
        match result {
            // Another processor or a sensor was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, reason)) => return Err(not_created(name, reason)),
        }
    }
    Ok(())
}

fn not_created(name: String, reason: RDKafkaErrorCode) -> TopicError {
    let mend = match reason {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "allow this principal to create and describe it, or create it beforehand"
        }
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "set kafka.replication_factor to at most the number of brokers"
        }
        _ => "create it beforehand with message.timestamp.type=LogAppendTime",
    };
    TopicError::NotCreated { name, reason, mend }
}

fn describe(
    admin: &AdminClient<DefaultClientContext>,
    names: &Topics,
) -> Result<BTreeMap<String, ConfigResource>, TopicError> {
    let full_names = NEEDED.map(|topic| names.name(topic));
    let resources = full_names
        .each_ref()
        .map(|name| ResourceSpecifier::Topic(name));
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let results = futures::executor::block_on(admin.describe_configs(&resources, &options))
        .map_err(|error| Fault::of("read the topics' settings", &error))?;
    let mut settings = BTreeMap::new();
    for (name, result) in full_names.into_iter().zip(results) {
        match result {
            Ok(resource) => {
                settings.insert(name, resource);
            }
            // What the settings promise is then seen on the records themselves.
            Err(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ) => {
                tracing::warn!(
                    topic = name,
                    "not allowed to read the topic's settings, they are not checked"
                );
            }
            // Created just now by us: it has what we gave it.
            Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
            Err(code) => {
                let action = format!("read the settings of topic {name}");
                return Err(Fault::new(&action, Some(code), code.to_string()).into());
            }
        }
    }
    Ok(settings)
}

fn check_settings(topic: Topic, name: &str, found: &ConfigResource) -> Result<(), TopicError> {
    for (setting, expected) in topic.settings() {
        let Some(value) = found.get(setting).and_then(|entry| entry.value.as_deref()) else {
            continue;
        };
        // How long alerts are kept, and whether repeats of a key are folded, is the operator's matter;
        // a schema that expires is a record that nobody can read.
        let why = match setting {
            "message.timestamp.type" => "so nothing says when the broker took a record in",
            "cleanup.policy" if topic == Topic::Schemas => {
                "so schemas expire and records become unreadable"
            }
            "cleanup.policy" if topic == Topic::State => {
                "so checkpoints expire and a restart begins with empty windows"
            }
            _ => continue,
        };
        if value != expected {
            return Err(TopicError::Setting {
                name: name.to_owned(),
                setting,
                found: value.to_owned(),
                expected,
                why,
            });
        }
    }
    Ok(())
}

fn message_bytes_max(settings: Option<&ConfigResource>) -> usize {
    settings
        .and_then(|settings| {
            settings
                .get("max.message.bytes")?
                .value
                .as_ref()?
                .parse()
                .ok()
        })
        .unwrap_or(MESSAGE_BYTES_DEFAULT)
        .min(kafka::MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_the_tasks_with_unequal_partitions_are_refused() {
        let names = Topics::new("dogwatch");
        let equal = BTreeMap::from([(Topic::Events, 8), (Topic::Sensors, 8), (Topic::Alerts, 3)]);
        assert!(check_partitions(&equal, &names).is_ok());
        let unequal = BTreeMap::from([(Topic::Events, 8), (Topic::Sensors, 4)]);
        let message = check_partitions(&unequal, &names).unwrap_err().to_string();
        assert!(
            message.contains("dogwatch.events and dogwatch.sensors"),
            "{message}"
        );
        assert!(message.contains("8 and 4"), "{message}");
        let unequal = BTreeMap::from([(Topic::Events, 8), (Topic::State, 4)]);
        let message = check_partitions(&unequal, &names).unwrap_err().to_string();
        assert!(
            message.contains("dogwatch.events and dogwatch.state"),
            "{message}"
        );
    }
}
