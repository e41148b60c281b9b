//! Seeks the brokers: reaches one, makes and checks the topics, writes our schemas. Until then no record goes out.
//!
//! What passes is tried again for ever, told at once and every 30 s; what a person has to mend ends the search.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use dogwatch_kafka::topics::{self, Admin, Counts};
use dogwatch_kafka::{Fault, ServedProducer, check_advertised};
use dogwatch_schemas::Text;
use dogwatch_schemas::records::{
    Container, ContainerSample, Event, IoSample, ProcessSample, SensorStatus, SyscallSample,
};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::producer::Producer as _;

use super::outage::REMINDER;
use super::{Claim, Context, KafkaError, Kind, Part, Reports, Undelivered, produce};
use crate::config::KafkaConfig;

/// How long one question to a broker may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long making and checking topics, and writing the schemas, may take each.
const WORK: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// One search; see the module's description.
pub(super) struct Search {
    pub producer: Arc<ServedProducer<Context>>,
    pub reports: Arc<Reports>,
    pub names: Arc<BTreeMap<Topic, String>>,
    pub config: KafkaConfig,
    pub begun: Instant,
}

/// A search in a thread of its own; it is given up when this is dropped.
pub(super) struct Seeking {
    thread: Option<JoinHandle<Result<(), KafkaError>>>,
    given_up: Arc<AtomicBool>,
}

impl Seeking {
    pub fn start(search: Search) -> Result<Self, KafkaError> {
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = given_up.clone();
        let thread = Builder::new()
            .name("seek kafka".into())
            .spawn(move || search.until_given_up(&stop))
            .map_err(|error| KafkaError::Fatal(format!("could not start a thread: {error}")))?;
        Ok(Self {
            thread: Some(thread),
            given_up,
        })
    }

    /// What came of it, once and when it has ended.
    pub fn ended(&mut self) -> Option<Result<(), KafkaError>> {
        let thread = self.thread.take_if(|thread| thread.is_finished())?;
        let panicked = || Err(KafkaError::Fatal("the search for brokers panicked".into()));
        Some(thread.join().unwrap_or_else(|_| panicked()))
    }
}

impl Drop for Seeking {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Search {
    /// Tries until it succeeds or the time is over.
    pub fn until<T>(
        &self,
        deadline: Instant,
        attempt: impl Fn(&Self, Instant) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        loop {
            match attempt(self, deadline) {
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE.min(deadline - Instant::now()));
                }
                result => return result.map_err(|error| self.with_cause(error)),
            }
        }
    }

    fn until_given_up(&self, given_up: &AtomicBool) -> Result<(), KafkaError> {
        let mut told: Option<Instant> = None;
        loop {
            match self.attempt(Instant::now() + WORK) {
                Err(_) if given_up.load(Ordering::Relaxed) => return Ok(()),
                Err(error) if error.is_passing() => {
                    if told.is_none_or(|told| told.elapsed() >= REMINDER) {
                        told = Some(Instant::now());
                        let error = self.with_cause(error);
                        tracing::warn!(
                            "{error}; watching goes on: events wait in memory (kafka.queue_bytes), the rest is lost and counted"
                        );
                    }
                    std::thread::sleep(PAUSE);
                }
                result => {
                    if result.is_ok() {
                        let servers = &self.config.bootstrap_servers;
                        tracing::info!(%servers, after_seconds = self.begun.elapsed().as_secs_f64(), "connected to Kafka");
                    }
                    return result;
                }
            }
        }
    }

    /// Reaches a broker, makes and checks the topics, writes our schemas.
    pub fn attempt(&self, deadline: Instant) -> Result<(), KafkaError> {
        let names = Topics::new(self.config.topic_prefix.as_str());
        let present = self.topics_present(&names, deadline)?;
        self.reports.connected.store(true, Ordering::Relaxed);
        let admin = self.admin(&names, deadline)?;
        let created = admin.create(&self.config.topics, &present, self.config.new_topics())?;
        if !created.is_empty() {
            tracing::info!(topics = created.join(", "), "topics made");
        }
        check(&admin, &names, &self.config.topics)?;
        self.publish_schemas();
        self.prove_write(deadline)
    }

    /// As [`Search::attempt`], but makes and writes nothing; returns the topics that it would make.
    pub fn look(&self, deadline: Instant) -> Result<Vec<String>, KafkaError> {
        let names = Topics::new(self.config.topic_prefix.as_str());
        let present = self.topics_present(&names, deadline)?;
        let admin = self.admin(&names, deadline)?.trying();
        let absent = admin.create(&self.config.topics, &present, self.config.new_topics())?;
        let there: Vec<Topic> = present
            .into_keys()
            .filter(|topic| self.config.topics.contains(topic))
            .collect();
        check(&admin, &names, &there)?;
        Ok(absent)
    }

    /// The error, with what the brokers' ports speak where that is its cause.
    fn with_cause(&self, error: KafkaError) -> KafkaError {
        match error {
            KafkaError::Brokers(fault) => self.config.brokers().look(fault).into(),
            error => error,
        }
    }

    fn admin(&self, names: &Topics, deadline: Instant) -> Result<Admin, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.max(Duration::from_secs(1));
        Admin::new(&self.config.brokers(), names, patience)
    }

    fn topics_present(&self, names: &Topics, deadline: Instant) -> Result<Counts, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        // All topics are asked for: naming one would make the broker create it with its own settings.
        let client = self.producer.client();
        let metadata = client
            .fetch_metadata(None, ANSWER.min(left))
            .map_err(|error| {
                let last = &self.reports.last_error;
                let waited = self.begun.elapsed();
                self.config.brokers().unanswered(waited, last, &error)
            })?;
        check_advertised(&self.config.brokers(), &metadata)?;
        Ok(topics::counts(&metadata, names))
    }

    /// A processor that does not know our schemas finds them on the topic.
    fn publish_schemas(&self) {
        let schemas = [
            (Event::fingerprint(), Event::SCHEMA),
            (SensorStatus::fingerprint(), SensorStatus::SCHEMA),
            (Container::fingerprint(), Container::SCHEMA),
            (ContainerSample::fingerprint(), ContainerSample::SCHEMA),
            (ProcessSample::fingerprint(), ProcessSample::SCHEMA),
            (SyscallSample::fingerprint(), SyscallSample::SCHEMA),
            (IoSample::fingerprint(), IoSample::SCHEMA),
        ];
        for (fingerprint, schema) in schemas {
            let key = fingerprint.to_string();
            let claim = Claim {
                kind: Kind::ANY,
                part: Part::Sensor,
                container: Text::default(),
            };
            // One that finds no room is written at the next start.
            let Some(ticket) = self.reports.room().take(&claim, schema.len()) else {
                continue;
            };
            let (producer, names) = (&self.producer, &self.names);
            let value = schema.as_bytes();
            if let Err((_, ticket)) = produce(producer, names, Topic::Schemas, &key, value, ticket)
            {
                self.reports.room().give_back(&ticket);
            }
        }
    }

    /// Whoever may not write learns it now, not from losses.
    fn prove_write(&self, deadline: Instant) -> Result<(), KafkaError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // What did not arrive in time waits in the queue like any record.
        let _ = self.producer.flush(left.max(Duration::from_secs(1)));
        match self.reports.take_undelivered() {
            Undelivered {
                reason: Some(reason),
                ..
            } => {
                let action = "write to the topics".to_owned();
                Err(Fault::Unauthorised { action, reason }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Append time is what windows and lateness stand on: a topic that takes the sender's word is refused. Brokers that do not
/// tell settings are not.
fn check(admin: &Admin, names: &Topics, topics: &[Topic]) -> Result<(), KafkaError> {
    if topics.is_empty() {
        return Ok(());
    }
    let settings = match admin.settings(topics) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::warn!(%error, "the topics' settings are not checked");
            return Ok(());
        }
    };
    for (topic, found) in &settings {
        topics::check_settings(*topic, &names.name(*topic), found)?;
    }
    Ok(())
}
