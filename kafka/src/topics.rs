//! Topics: what is missing is made where that is allowed, what is there is checked.
//!
//! What must hold is data in `dogwatch_schemas::topics`: the broker stamps append time on every topic, topics that are
//! looked up by key are compacted, topics that are cut by task have equal partition counts.
//! A record sent to a topic that is missing would make many brokers create it, with settings of their own: so nothing is
//! sent before this.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch_schemas::topics::{Topic, Topics};
use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::{Metadata, MetadataTopic};

use crate::brokers::Brokers;
use crate::context::Logged;
use crate::fault::{Fault, is_refusal};

/// Our topics that are there, and their partitions.
pub type Counts = BTreeMap<Topic, usize>;

/// The settings of topics, as far as they may be read.
pub type Settings = BTreeMap<Topic, ConfigResource>;

/// How missing topics are made.
#[derive(Debug, Clone, Copy)]
pub struct NewTopics {
    /// Whether they may be made.
    pub allowed: bool,
    /// Partitions, where no topic that is there decides.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication_factor: i32,
}

/// A topic that brokers make for themselves when it is first needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internal {
    /// Where groups keep their offsets.
    Groups,
    /// Where transactions are kept.
    Transactions,
}

impl Internal {
    /// Its name, the brokers' setting of its copies, and what it is for.
    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Groups => (
                "__consumer_offsets",
                "offsets.topic.replication.factor",
                "consumer groups",
            ),
            Self::Transactions => (
                "__transaction_state",
                "transaction.state.log.replication.factor",
                "transactions",
            ),
        }
    }
}

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
    /// The brokers cannot make a topic of their own.
    #[error(
        "the brokers cannot make {topic}, which they need for {purpose}: {setting}={copies}, and there {} {brokers}; set it to at most the number of brokers (and transaction.state.log.min.isr no higher), or start more brokers",
        if *brokers == 1 { "is" } else { "are" }
    )]
    Internal {
        /// The brokers' topic.
        topic: &'static str,
        /// What it is for.
        purpose: &'static str,
        /// The brokers' setting of its copies.
        setting: &'static str,
        /// Copies asked for.
        copies: usize,
        /// Brokers that are there.
        brokers: usize,
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

    /// Says whether only a person can mend it: waiting does not. That there are too few brokers for the copies asked
    /// for passes while a cluster starts.
    pub fn is_final(&self) -> bool {
        use RDKafkaErrorCode as Code;
        match self {
            Self::Kafka(fault) => fault.is_final(),
            Self::NotCreated { reason, .. } => {
                let refused = matches!(
                    reason,
                    Code::InvalidTopic
                        | Code::InvalidPartitions
                        | Code::InvalidConfig
                        | Code::PolicyViolation
                );
                refused || is_refusal(*reason)
            }
            Self::Internal { .. } => false,
            Self::Missing(_) | Self::Setting { .. } | Self::Partitions { .. } => true,
        }
    }
}

/// Returns our topics among all that there are.
pub fn counts(metadata: &Metadata, names: &Topics) -> Counts {
    let ours = |topic: &MetadataTopic| {
        let known = names
            .topic(topic.name())
            .filter(|_| topic.error().is_none())?;
        Some((known, topic.partitions().len()))
    };
    metadata.topics().iter().filter_map(ours).collect()
}

/// Checks that topics that are cut by task have equal partition counts: those of hosts' tasks, and those of the fleet's.
///
/// # Errors
/// [`TopicError::Partitions`].
pub fn check_partitions(counts: &Counts, names: &Topics) -> Result<(), TopicError> {
    for kind in [Topic::by_task, Topic::by_fleet_task] {
        let mut own = counts.iter().filter(|(topic, _)| kind(**topic));
        let Some((first, first_count)) = own.next() else {
            continue;
        };
        if let Some((second, second_count)) = own.find(|(_, count)| *count != first_count) {
            return Err(TopicError::Partitions {
                first: names.name(*first),
                first_count: *first_count,
                second: names.name(*second),
                second_count: *second_count,
            });
        }
    }
    Ok(())
}

/// How many partitions a topic gets that is not there: as many as those it goes with, where one of them is.
pub fn partitions_of(topic: Topic, present: &Counts, new: NewTopics) -> i32 {
    if topic.in_one_partition() {
        return 1;
    }
    let goes_with: fn(Topic) -> bool = match topic.by_fleet_task() {
        true => Topic::by_fleet_task,
        false => Topic::by_task,
    };
    let other = present.iter().find(|(topic, _)| goes_with(**topic));
    other.map_or(new.partitions, |(_, count)| *count as i32)
}

/// Checks a topic's settings.
///
/// # Errors
/// [`TopicError::Setting`].
pub fn check_settings(topic: Topic, name: &str, found: &ConfigResource) -> Result<(), TopicError> {
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
            "cleanup.policy" if matches!(topic, Topic::State | Topic::FleetState) => {
                "so checkpoints expire and a restart begins with empty windows"
            }
            "cleanup.policy" if topic == Topic::Detections => {
                "so sets of detections expire and a restart finds none"
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

fn options(patience: Duration) -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(patience))
        .request_timeout(Some(patience))
}

/// Makes topics and reads their settings.
pub struct Admin {
    client: AdminClient<Logged>,
    names: Topics,
    options: AdminOptions,
    /// Those of making topics.
    making: AdminOptions,
}

impl Admin {
    /// Makes a client whose calls take at most `patience` each.
    ///
    /// # Errors
    /// [`Fault`] when librdkafka refuses a setting.
    pub fn new(brokers: &Brokers, names: &Topics, patience: Duration) -> Result<Self, Fault> {
        let client = AdminClient::from_config_and_context(&brokers.settings(), Logged::default())
            .map_err(|error| Fault::of("make a Kafka client", &error))?;
        Ok(Self {
            client,
            names: names.clone(),
            options: options(patience),
            making: options(patience),
        })
    }

    /// The same, that only asks whether topics could be made.
    #[must_use]
    pub fn trying(self) -> Self {
        Self {
            making: self.making.validate_only(true),
            ..self
        }
    }

    /// Makes those of `needed` that are not among `present`, or asks whether it could; returns their names.
    ///
    /// # Errors
    /// [`TopicError`], naming the topic and the mend.
    pub fn create(
        &self,
        needed: &[Topic],
        present: &Counts,
        new: NewTopics,
    ) -> Result<Vec<String>, TopicError> {
        let missing = needed.iter().filter(|topic| !present.contains_key(topic));
        let missing: Vec<(Topic, String)> = missing
            .map(|topic| (*topic, self.names.name(*topic)))
            .collect();
        let Some((_, first)) = missing.first() else {
            return Ok(Vec::new());
        };
        if !new.allowed {
            return Err(TopicError::Missing(first.clone()));
        }
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|(topic, name)| {
                let partitions = partitions_of(*topic, present, new);
                let copies = TopicReplication::Fixed(new.replication_factor);
                let settings = topic.settings();
                settings
                    .into_iter()
                    .fold(NewTopic::new(name, partitions, copies), |topic, setting| {
                        topic.set(setting.0, setting.1)
                    })
            })
            .collect();
        let results = block_on(self.client.create_topics(&topics, &self.making))
            .map_err(|error| Fault::of("create topics", &error))?;
        for result in results {
            match result {
                // Another program was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, reason)) => return Err(not_created(name, reason)),
            }
        }
        Ok(missing.into_iter().map(|(_, name)| name).collect())
    }

    /// Reads the settings of `topics`: of those that are there and may be read.
    ///
    /// # Errors
    /// [`Fault`] when the brokers do not answer.
    pub fn settings(&self, topics: &[Topic]) -> Result<Settings, Fault> {
        let names: Vec<String> = topics.iter().map(|topic| self.names.name(*topic)).collect();
        let resources: Vec<ResourceSpecifier<'_>> = names
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let results = block_on(self.client.describe_configs(&resources, &self.options))
            .map_err(|error| Fault::of("read the topics' settings", &error))?;
        let mut settings = Settings::new();
        for ((topic, name), result) in topics.iter().zip(names).zip(results) {
            match result {
                Ok(resource) => {
                    settings.insert(*topic, resource);
                }
                // What the settings promise is then seen on the records themselves.
                Err(code) if is_refusal(code) => {
                    tracing::warn!(
                        topic = name,
                        "not allowed to read the topic's settings, they are not checked"
                    );
                }
                // Created just now by us: it has what we gave it.
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Err(code) => {
                    let action = format!("read the settings of topic {name}");
                    return Err(Fault::new(&action, Some(code), code.to_string()));
                }
            }
        }
        Ok(settings)
    }
}

impl Admin {
    /// Checks that the brokers can make the topics of their own that `needed` stand for, where these are missing: with
    /// Kafka's defaults a single broker cannot, and clients wait for ever.
    ///
    /// # Errors
    /// [`TopicError::Internal`]. Settings of brokers that may not be read are not checked.
    pub fn check_internal(
        &self,
        needed: &[Internal],
        metadata: &Metadata,
    ) -> Result<(), TopicError> {
        let present = |topic: &str| metadata.topics().iter().any(|of| of.name() == topic);
        for (topic, setting, purpose) in needed.iter().map(|of| of.row()) {
            let Some(broker) = metadata.brokers().first().filter(|_| !present(topic)) else {
                continue;
            };
            let asked = [ResourceSpecifier::Broker(broker.id())];
            let answer = block_on(self.client.describe_configs(&asked, &self.options));
            let copies = answer.ok().and_then(|mut answer| {
                let settings = answer.pop()?.ok()?;
                settings.get(setting)?.value.as_ref()?.parse().ok()
            });
            let brokers = metadata.brokers().len();
            if let Some(copies) = copies
                && copies > brokers
            {
                return Err(TopicError::Internal {
                    topic,
                    purpose,
                    setting,
                    copies,
                    brokers,
                });
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_the_tasks_with_unequal_partitions_are_refused() {
        let names = Topics::new("dogwatch");
        let equal = Counts::from([(Topic::Events, 8), (Topic::Sensors, 8), (Topic::Alerts, 3)]);
        assert!(check_partitions(&equal, &names).is_ok());
        let unequal = Counts::from([(Topic::Events, 8), (Topic::Sensors, 4)]);
        let message = check_partitions(&unequal, &names).unwrap_err().to_string();
        assert!(
            message.contains("dogwatch.events and dogwatch.sensors"),
            "{message}"
        );
        assert!(message.contains("8 and 4"), "{message}");
        let unequal = Counts::from([(Topic::Events, 8), (Topic::State, 4)]);
        let message = check_partitions(&unequal, &names).unwrap_err().to_string();
        assert!(
            message.contains("dogwatch.events and dogwatch.state"),
            "{message}"
        );
        let fleet = Counts::from([
            (Topic::Events, 8),
            (Topic::Exchange, 4),
            (Topic::FleetState, 4),
        ]);
        assert!(check_partitions(&fleet, &names).is_ok());
        let unequal = Counts::from([(Topic::Exchange, 4), (Topic::FleetState, 2)]);
        assert!(check_partitions(&unequal, &names).is_err());
    }
}
