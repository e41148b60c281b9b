//! Kafka: topics made or checked at the start, records handed to librdkafka's bounded queue.
//!
//! Records are keyed by host id, acknowledged by all replicas, and neither reordered nor repeated (idempotence).
//! librdkafka keeps them as long as its queue has room, however long the broker is away; beyond that they are lost and
//! counted by kind. Keys are placed as Java clients place them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dogwatch_schemas::records::{Container, Event, SensorStatus};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{FromClientConfig as _, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::util::Timeout;

use super::{Handed, Kind};
use crate::config::KafkaConfig;

mod lifeline;

use lifeline::{Lifeline, STATISTICS_INTERVAL_MS};

/// Topics a sensor writes to.
const TOPICS: [Topic; 4] = [
    Topic::Events,
    Topic::Sensors,
    Topic::Containers,
    Topic::Schemas,
];

/// Why Kafka cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// An option librdkafka does not take: the configuration's fault.
    #[error("could not set up the Kafka client: {0}; see kafka.options")]
    Options(#[source] ClientError),
    /// Nobody answers: the environment's fault; the sensor may be started again later.
    #[error(
        "could not reach Kafka at {servers} within {waited:?}: {reason}; check kafka.bootstrap_servers and the network"
    )]
    Unreachable {
        /// The configured servers.
        servers: String,
        /// How long was waited.
        waited: Duration,
        /// librdkafka's last word.
        reason: String,
    },
    /// The broker does not let us in, or not do what is needed.
    #[error(
        "Kafka at {servers} refused: {reason}; check the user and its rights in kafka.options and the broker's ACLs"
    )]
    Unauthorised {
        /// The configured servers.
        servers: String,
        /// What was refused.
        reason: String,
    },
    /// A topic is missing and may not be made.
    #[error(
        "topic {topic} does not exist and could not be made: {reason}; make it with message.timestamp.type=LogAppendTime"
    )]
    MissingTopic {
        /// Its name.
        topic: String,
        /// Why.
        reason: String,
    },
    /// A topic is not set up as it must be.
    #[error(
        "topic {topic} has {setting}={found}, but needs {needed}: set it with kafka-configs --alter --add-config {setting}={needed}"
    )]
    WrongTopic {
        /// Its name.
        topic: String,
        /// The setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// The client ended for good while it ran.
    #[error("the Kafka client ended: {0}")]
    Fatal(String),
}

/// Reports of records that did not arrive, and librdkafka's errors; shared with its threads.
#[derive(Debug, Default)]
struct Reports {
    undelivered: [AtomicU64; Kind::ALL.len()],
    last_undelivered: Mutex<Option<String>>,
    last_error: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

#[derive(Default)]
struct Context {
    reports: Arc<Reports>,
    lifeline: Lifeline,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "kafka client");
            }
            // librdkafka repeats itself while a broker is away; its errors come to `error` as well.
            _ => tracing::debug!(facility, message, "kafka client"),
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        if let (Ok(mut last), Some(code)) =
            (self.reports.last_error.lock(), error.rdkafka_error_code())
        {
            // That a single broker or all are away follows from an authentication that failed, and says less.
            let weaker = matches!(code, RDKafkaErrorCode::AllBrokersDown);
            if !(weaker && last.is_some()) {
                *last = Some((code, reason.to_owned()));
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.lifeline.look(&statistics);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, kind: usize) {
        let Err((error, _)) = result else { return };
        if let Some(count) = self.reports.undelivered.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(mut last) = self.reports.last_undelivered.lock() {
            *last = Some(error.to_string());
        }
    }
}

/// The connection to Kafka.
pub(super) struct KafkaSink {
    producer: ThreadedProducer<Context>,
    reports: Arc<Reports>,
    names: BTreeMap<Topic, String>,
    drain_timeout: Duration,
}

impl KafkaSink {
    /// Connects, makes or checks the topics, and publishes our schemas.
    pub fn connect(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let context = Context::default();
        let reports = context.reports.clone();
        let settings = producer_config(config);
        let producer: ThreadedProducer<Context> =
            ThreadedProducer::from_config_and_context(&settings, context)
                .map_err(KafkaError::Options)?;
        let lifeline = &producer.context().lifeline;
        lifeline.tie(producer.client(), &settings);
        let topics = Topics::new(config.topic_prefix.as_str());
        let names = TOPICS
            .into_iter()
            .map(|topic| (topic, topics.name(topic)))
            .collect();
        let sink = Self {
            producer,
            reports,
            names,
            drain_timeout: config.drain_timeout,
        };
        let deadline = Instant::now() + config.start_timeout;
        let present = sink.topics_present(config, deadline)?;
        let admin = Admin::new(config)?;
        let missing: Vec<Topic> = TOPICS
            .into_iter()
            .filter(|topic| !present.contains(&sink.names[topic]))
            .collect();
        if !missing.is_empty() {
            admin.create(&missing, &sink.names, deadline)?;
        }
        admin.check(&sink.names, deadline)?;
        sink.publish_schemas();
        sink.prove_write(config, deadline)?;
        Ok(sink)
    }

    fn topics_present(
        &self,
        config: &KafkaConfig,
        deadline: Instant,
    ) -> Result<Vec<String>, KafkaError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // All topics are asked for: naming one would make the broker create it with its own settings.
            let wait = left
                .min(Duration::from_secs(2))
                .max(Duration::from_millis(100));
            match self.producer.client().fetch_metadata(None, wait) {
                Ok(metadata) => {
                    return Ok(metadata
                        .topics()
                        .iter()
                        .map(|topic| topic.name().to_owned())
                        .collect());
                }
                Err(error) => {
                    let last = self
                        .reports
                        .last_error
                        .lock()
                        .ok()
                        .and_then(|last| last.clone());
                    if let Some((
                        RDKafkaErrorCode::Authentication
                        | RDKafkaErrorCode::SaslAuthenticationFailed,
                        reason,
                    )) = last
                    {
                        return Err(KafkaError::Unauthorised {
                            servers: config.bootstrap_servers.clone(),
                            reason,
                        });
                    }
                    if left.is_zero() {
                        return Err(KafkaError::Unreachable {
                            servers: config.bootstrap_servers.clone(),
                            waited: config.start_timeout,
                            reason: last.map_or_else(|| error.to_string(), |(_, reason)| reason),
                        });
                    }
                }
            }
        }
    }

    /// A processor that does not know our schemas finds them on the topic.
    fn publish_schemas(&self) {
        let schemas = [
            (Event::fingerprint(), Event::SCHEMA),
            (SensorStatus::fingerprint(), SensorStatus::SCHEMA),
            (Container::fingerprint(), Container::SCHEMA),
        ];
        for (fingerprint, schema) in schemas {
            self.send(
                Topic::Schemas,
                &fingerprint.to_string(),
                schema.as_bytes(),
                Kind::Any,
            );
        }
    }

    /// Whoever may not write learns it now, not from losses.
    fn prove_write(&self, config: &KafkaConfig, deadline: Instant) -> Result<(), KafkaError> {
        let servers = config.bootstrap_servers.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        // What did not arrive in time waits in the queue like any record.
        let _ = self.producer.flush(left.max(Duration::from_secs(1)));
        match self.undelivered() {
            (lost, Some(reason)) if !lost.is_empty() => {
                Err(KafkaError::Unauthorised { servers, reason })
            }
            _ => Ok(()),
        }
    }

    /// Hands a record to librdkafka's queue.
    pub fn send(&self, topic: Topic, key: &str, value: &[u8], kind: Kind) -> Handed {
        let record = BaseRecord::with_opaque_to(&self.names[&topic], kind as usize)
            .key(key)
            .payload(value);
        match self.producer.send(record) {
            Ok(()) => Handed::Over,
            Err((ClientError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                Handed::QueueFull
            }
            Err(_) => Handed::Refused,
        }
    }

    /// Reports of records that did not arrive, since the last call.
    pub fn undelivered(&self) -> (Vec<(Kind, u64)>, Option<String>) {
        let counts = Kind::ALL.into_iter().zip(&self.reports.undelivered);
        let lost = counts
            .map(|(kind, count)| (kind, count.swap(0, Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0);
        let lost: Vec<_> = lost.collect();
        let reason = self
            .reports
            .last_undelivered
            .lock()
            .ok()
            .and_then(|mut last| last.take());
        (lost, reason)
    }

    /// The error after which an idempotent producer sends nothing more.
    pub fn fatal(&self) -> Option<KafkaError> {
        self.producer
            .client()
            .fatal_error()
            .map(|(_, reason)| KafkaError::Fatal(reason))
    }

    /// Waits for the queue to empty; returns how many records are left.
    pub fn drain(&self) -> usize {
        // What is left is what this returns; the error says no more.
        let _ = self.producer.flush(self.drain_timeout);
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }
}

fn producer_config(config: &KafkaConfig) -> ClientConfig {
    let mut client = base_config(config);
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", &config.compression)
        .set("linger.ms", config.linger.as_millis().to_string())
        .set(
            "queue.buffering.max.kbytes",
            (config.queue_bytes / 1024).to_string(),
        )
        .set(
            "queue.buffering.max.messages",
            config.queue_records.to_string(),
        )
        // Records wait in the bounded queue, not against a clock: an outage loses nothing before it is full.
        .set("message.timeout.ms", "0")
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
    client
}

fn base_config(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "dogwatch-sensor");
    for (name, value) in &config.options {
        client.set(name, value);
    }
    client.set("bootstrap.servers", &config.bootstrap_servers);
    client
}

/// Makes and checks topics.
struct Admin<'a> {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    config: &'a KafkaConfig,
}

impl<'a> Admin<'a> {
    fn new(config: &'a KafkaConfig) -> Result<Self, KafkaError> {
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

    fn create(
        &self,
        missing: &[Topic],
        names: &BTreeMap<Topic, String>,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        let refused = |topic: &str, reason: String| KafkaError::MissingTopic {
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
            .map_err(|error| refused(&names[&missing[0]], error.to_string()))?;
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
                Err((topic, code)) => return Err(refused(&topic, code.to_string())),
            }
        }
        tracing::info!(topics = ?settings.iter().map(|(name, _)| name).collect::<Vec<_>>(), "topics made");
        Ok(())
    }

    /// Append time is what windows and lateness stand on: a topic that takes the sender's word is refused.
    fn check(&self, names: &BTreeMap<Topic, String>, deadline: Instant) -> Result<(), KafkaError> {
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

fn options(deadline: Instant) -> AdminOptions {
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_secs(1));
    AdminOptions::new()
        .request_timeout(Some(Timeout::After(left)))
        .operation_timeout(Some(Timeout::After(left)))
}
