//! The topics: looked for, made and checked before the first record goes out.
//!
//! A record sent to a topic that is missing would make many brokers create it, with settings of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dogwatch_schemas::topics::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::util::Timeout;

use super::{KafkaError, base_config};
use crate::config::KafkaConfig;

/// Makes and checks topics.
pub(super) struct Admin<'a> {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    config: &'a KafkaConfig,
}

impl<'a> Admin<'a> {
    pub fn new(config: &'a KafkaConfig) -> Result<Self, KafkaError> {
        let client = AdminClient::from_config(&base_config(config)).map_err(KafkaError::Options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| KafkaError::Fatal(format!("could not start its runtime: {error}")))?;
        Ok(Self {
            client,
            runtime,
            config,
        })
    }

    /// Makes the topics of `missing` that are still missing.
    pub fn create(
        &self,
        missing: &[Topic],
        names: &BTreeMap<Topic, String>,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        let refused = |topic: &str, reason: String| KafkaError::MissingTopic {
            topic: topic.to_owned(),
            reason,
        };
        let not_yet = |topic: &str, reason: String| KafkaError::TopicNotMade {
            topic: topic.to_owned(),
            reason,
        };
        if !self.config.create_topics {
            return Err(refused(
                &names[&missing[0]],
                "kafka.create_topics is false".into(),
            ));
        }
        let settings: Vec<_> = missing
            .iter()
            .map(|topic| (names[topic].as_str(), topic.settings()))
            .collect();
        let new_topics: Vec<NewTopic<'_>> = settings
            .iter()
            .map(|(name, settings)| {
                let replication = TopicReplication::Fixed(self.config.replication_factor);
                let topic = NewTopic::new(name, self.config.partitions, replication);
                settings
                    .iter()
                    .fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let results = self
            .runtime
            .block_on(self.client.create_topics(&new_topics, &options(deadline)))
            .map_err(|error| not_yet(&names[&missing[0]], error.to_string()))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((
                    topic,
                    code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed),
                )) => {
                    let servers = self.config.bootstrap_servers.clone();
                    let reason = format!("making topic {topic}: {code}");
                    return Err(KafkaError::Unauthorised { servers, reason });
                }
                Err((topic, code)) if is_final(code) => {
                    return Err(refused(&topic, code.to_string()));
                }
                Err((topic, code)) => return Err(not_yet(&topic, code.to_string())),
            }
        }
        tracing::info!(topics = ?settings.iter().map(|(name, _)| name).collect::<Vec<_>>(), "topics made");
        Ok(())
    }

    /// Append time is what windows and lateness stand on: a topic that takes the sender's word is refused.
    pub fn check(
        &self,
        names: &BTreeMap<Topic, String>,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        let resources: Vec<_> = names
            .values()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described = match self
            .runtime
            .block_on(self.client.describe_configs(&resources, &options(deadline)))
        {
            Ok(described) => described,
            Err(error) => {
                tracing::warn!(%error, "could not check the topics' settings");
                return Ok(());
            }
        };
        for ((topic, name), resource) in names.iter().zip(described) {
            let resource = match resource {
                Ok(resource) => resource,
                // Topics just made may not be known everywhere yet; rights to describe may be missing.
                Err(error) => {
                    tracing::warn!(topic = name, %error, "could not check the topic's settings");
                    continue;
                }
            };
            for (setting, needed) in topic.settings() {
                let Some(found) = resource.get(setting).and_then(|entry| entry.value.clone())
                else {
                    continue;
                };
                if setting == "message.timestamp.type" && found != needed {
                    return Err(KafkaError::WrongTopic {
                        topic: name.clone(),
                        setting,
                        found,
                        needed,
                    });
                }
            }
        }
        Ok(())
    }
}

/// What no waiting mends: somebody must change the configuration, ours or the brokers'. That there are too few brokers for
/// the copies asked for passes while a cluster starts.
fn is_final(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidPartitions
            | RDKafkaErrorCode::InvalidConfig
            | RDKafkaErrorCode::PolicyViolation
    )
}

fn options(deadline: Instant) -> AdminOptions {
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_secs(1));
    AdminOptions::new()
        .request_timeout(Some(Timeout::After(left)))
        .operation_timeout(Some(Timeout::After(left)))
}
