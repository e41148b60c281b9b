//! Kafka: brokers are sought in the background, records wait in a bounded queue meanwhile.
//!
//! ```text
//! record ──► room? ──► waiting, until the topics are checked ──► librdkafka's queue ──► brokers
//!                      └────── kafka.queue_bytes, both together ──────┘
//!              seek: reach a broker ► make missing topics ► check them ► write our schemas
//! ```
//! Records are keyed by host id, acknowledged by all replicas, and neither reordered nor repeated (idempotence).
//! They are kept as long as the queues have room, however long the brokers are away, each container its share of it
//! ([`room`]); beyond that they are lost and counted by kind. Brokers that are away are waited for; brokers that refuse us
//! end the sensor, because a person has to mend that.
//! Keys are placed as Java clients place them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch_kafka::fault::is_refusal;
use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{Fault, LastError, Lifeline, ServedProducer};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::statistics::Statistics;

use super::{Handed, Kind};
use crate::config::KafkaConfig;

mod outage;
mod room;
mod seek;
mod waiting;

use outage::Outage;
pub(super) use room::{Claim, Part};
use room::{Room, Ticket};
use seek::{Search, Seeking};
use waiting::{Record, Waiting};

/// Why Kafka cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The brokers said no, or nothing; a sensor that watches waits for brokers that are away.
    #[error(transparent)]
    Brokers(#[from] Fault),
    /// A topic is missing or not as it must be; a sensor that watches waits where it could not be made for now.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// Standard output cannot be written to.
    #[error("could not write to standard output: {0}")]
    Stdout(#[source] std::io::Error),
    /// The client ended for good while it ran.
    #[error("the Kafka client ended: {0}")]
    Fatal(String),
}

impl KafkaError {
    /// Whether waiting may mend it.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Brokers(fault) => !fault.is_final(),
            Self::Topics(error) => !error.is_final(),
            Self::Stdout(_) | Self::Fatal(_) => false,
        }
    }
}

/// What librdkafka's threads report.
#[derive(Debug)]
struct Reports {
    /// Who has how much of the queues; a record's place is free when something was reported of it.
    room: Mutex<Room>,
    /// A broker is connected, as far as the last statistics and errors tell.
    connected: AtomicBool,
    undelivered: Mutex<Undelivered>,
    last_error: LastError,
}

/// Records that did not arrive.
#[derive(Debug, Default)]
pub(crate) struct Undelivered {
    /// Their number by kind.
    pub lost: BTreeMap<&'static str, u64>,
    /// Why the last one did not.
    pub reason: Option<String>,
}

impl Reports {
    fn new(config: &KafkaConfig) -> Self {
        Self {
            room: Mutex::new(Room::new(config.queue_bytes, config.queue_records.into())),
            connected: AtomicBool::new(false),
            undelivered: Mutex::default(),
            last_error: LastError::default(),
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Nothing panics between two states of it.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_undelivered(&self, kind: Kind, reason: &str) {
        let mut undelivered = self
            .undelivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *undelivered.lost.entry(kind.name()).or_default() += 1;
        undelivered.reason = Some(reason.to_owned());
    }

    /// Records that did not arrive, since the last call.
    fn take_undelivered(&self) -> Undelivered {
        let mut undelivered = self
            .undelivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *undelivered)
    }
}

struct Context {
    reports: Arc<Reports>,
    lifeline: Lifeline,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reports.last_error.note_line(facility, message);
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
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.reports.connected.store(false, Ordering::Relaxed);
        }
        self.reports.last_error.note(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let connected = statistics.brokers.values().any(|of| of.state == "UP");
        self.reports.connected.store(connected, Ordering::Relaxed);
        self.lifeline.look(&statistics);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        self.reports.room().give_back(&ticket);
        match result {
            Ok(_) => self.reports.connected.store(true, Ordering::Relaxed),
            Err((error, message)) => self
                .reports
                .note_undelivered(ticket.kind, &refusal(error, message.topic())),
        }
    }
}

/// Why a record did not arrive, and what to do where a person can do something.
fn refusal(error: &ClientError, topic: &str) -> String {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            format!(
                "topic {topic} is gone: it was deleted, or has fewer partitions; start this sensor again, which makes it where kafka.create_topics is on, or make it"
            )
        }
        _ => format!("{topic}: {error}"),
    }
}

/// The connection to Kafka; see the module's description.
pub(super) struct KafkaSink {
    producer: Arc<ServedProducer<Context>>,
    reports: Arc<Reports>,
    names: Arc<BTreeMap<Topic, String>>,
    stage: Stage,
    waiting: Waiting,
    outage: Outage,
    drain_timeout: Duration,
}

/// How far the connection has come.
enum Stage {
    /// The topics have not been checked: nothing goes out.
    Seeking(Seeking),
    /// Records go out.
    Open,
    /// Nothing ever goes out; the error until it is taken.
    Refused(Option<KafkaError>),
}

/// How it stands with Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// A broker is connected, and the topics have been checked.
    pub connected: bool,
    /// Bytes that wait to be acknowledged.
    pub queued_bytes: u64,
}

impl KafkaSink {
    /// Begins to look for the brokers in the background; records wait meanwhile.
    ///
    /// # Errors
    /// Only for options that librdkafka does not take. What the brokers refuse comes from [`KafkaSink::fatal`].
    pub fn open(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let mut sink = Self::new(config)?;
        let search = sink.search(config);
        sink.stage = Stage::Seeking(Seeking::start(search)?);
        Ok(sink)
    }

    /// Looks for the brokers before it returns, at most `kafka.start_timeout`.
    ///
    /// # Errors
    /// When they cannot be reached in time, do not let us in, or their topics do not fit.
    pub fn open_and_wait(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let sink = Self::new(config)?;
        let deadline = Instant::now() + config.start_timeout;
        sink.search(config).until(deadline, Search::attempt)?;
        Ok(sink)
    }

    fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let reports = Arc::new(Reports::new(config));
        let context = Context {
            reports: reports.clone(),
            lifeline: Lifeline::default(),
        };
        let settings = producer_config(config);
        let producer: ServedProducer<Context> = settings
            .create_with_context(context)
            .map_err(|error| Fault::of("make a Kafka client", &error))?;
        let lifeline = &producer.context().lifeline;
        lifeline.tie(producer.client(), &settings);
        let topics = Topics::new(config.topic_prefix.as_str());
        let names = config.topics.iter();
        let names = names.map(|topic| (*topic, topics.name(*topic))).collect();
        Ok(Self {
            producer: Arc::new(producer),
            reports,
            names: Arc::new(names),
            stage: Stage::Open,
            waiting: Waiting::default(),
            outage: Outage::new(config.bootstrap_servers.clone()),
            drain_timeout: config.drain_timeout,
        })
    }

    fn search(&self, config: &KafkaConfig) -> Search {
        Search {
            producer: self.producer.clone(),
            reports: self.reports.clone(),
            names: self.names.clone(),
            config: config.clone(),
            begun: Instant::now(),
        }
    }

    /// Hands a record to the queue, if there is room for it: ours until the topics are checked and it is empty, then
    /// librdkafka's.
    pub fn send(&mut self, topic: Topic, key: &str, value: &[u8], claim: &Claim) -> Handed {
        self.advance();
        let Some(ticket) = self.reports.room().take(claim, key.len() + value.len()) else {
            return Handed::QueueFull;
        };
        let ticket = if self.is_open() && self.waiting.is_empty() {
            match self.produce(topic, key, value, ticket) {
                Ok(()) => return Handed::Over,
                Err((Handed::QueueFull, ticket)) => ticket,
                Err((handed, ticket)) => {
                    self.reports.room().give_back(&ticket);
                    return handed;
                }
            }
        } else {
            ticket
        };
        self.waiting.push(Record {
            topic,
            key: key.into(),
            value: value.into(),
            ticket,
        });
        Handed::Over
    }

    /// Looks whether the search has ended, and hands over what waits as far as librdkafka's queue has room.
    fn advance(&mut self) {
        if let Stage::Seeking(seeking) = &mut self.stage
            && let Some(ended) = seeking.ended()
        {
            self.stage = match ended {
                Ok(()) => Stage::Open,
                Err(error) => Stage::Refused(Some(error)),
            };
        }
        if !self.is_open() {
            return;
        }
        while let Some(record) = self.waiting.pop() {
            let Record {
                topic,
                key,
                value,
                ticket,
            } = record;
            match self.produce(topic, &key, &value, ticket) {
                Ok(()) => {}
                Err((Handed::QueueFull, ticket)) => {
                    return self.waiting.put_back(Record {
                        topic,
                        key,
                        value,
                        ticket,
                    });
                }
                Err((_, ticket)) => {
                    self.reports.room().give_back(&ticket);
                    self.reports.note_undelivered(ticket.kind, "refused");
                }
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    fn produce(
        &self,
        topic: Topic,
        key: &str,
        value: &[u8],
        ticket: Box<Ticket>,
    ) -> Result<(), (Handed, Box<Ticket>)> {
        produce(&self.producer, &self.names, topic, key, value, ticket)
    }

    /// Reports of records that did not arrive, since the last call.
    pub fn undelivered(&self) -> Undelivered {
        if !self.is_open() {
            // The search waits for reports of its own.
            return Undelivered::default();
        }
        self.reports.take_undelivered()
    }

    /// What ends the sensor: the brokers refuse us, or the idempotent producer sends nothing more.
    /// Of a refusal while the brokers are sought the search tells more than the producer, which meets it first.
    pub fn fatal(&mut self) -> Option<KafkaError> {
        self.advance();
        match &mut self.stage {
            Stage::Seeking(_) => None,
            Stage::Refused(error) => error.take(),
            Stage::Open => {
                let (code, reason) = self.producer.client().fatal_error()?;
                Some(Self::ended(code, reason))
            }
        }
    }

    /// Why the producer sends nothing more.
    fn ended(code: RDKafkaErrorCode, reason: String) -> KafkaError {
        if is_refusal(code) {
            let action = "write to the topics".to_owned();
            return Fault::Unauthorised { action, reason }.into();
        }
        KafkaError::Fatal(reason)
    }

    /// How it stands; to be asked about once a second, because an outage is told in the log from here.
    pub fn connection(&mut self) -> Connection {
        let connected = self.is_open() && self.reports.connected.load(Ordering::Relaxed);
        // The search tells of its own troubles.
        if self.is_open() {
            self.outage.look(connected, self.producer.in_flight_count());
        }
        Connection {
            connected,
            queued_bytes: self.reports.room().used_bytes(),
        }
    }

    /// Waits for the queues to empty, as long as records are taken and at most `kafka.drain_timeout`; returns how many are
    /// left.
    pub fn drain(&mut self) -> usize {
        let begun = Instant::now();
        let mut left = self.left();
        let mut taken = begun;
        while left > 0 && !matches!(self.stage, Stage::Refused(_)) {
            let connected = self.reports.connected.load(Ordering::Relaxed);
            let patience = if connected {
                ANSWER_AT_END
            } else {
                ABSENCE_AT_END
            };
            if taken.elapsed() >= patience || begun.elapsed() >= self.drain_timeout {
                break;
            }
            self.advance();
            let round = Duration::from_millis(20);
            if self.waiting.is_empty() {
                // Sends what linger would keep; what is not taken by then is the next round's.
                let _ = self.producer.flush(round);
            } else {
                std::thread::sleep(round);
            }
            let before = std::mem::replace(&mut left, self.left());
            if left < before {
                taken = Instant::now();
            }
        }
        left
    }

    /// Records of which nothing was reported yet.
    fn left(&self) -> usize {
        self.reports.room().records()
    }
}

/// How long an end waits for the next delivery: where brokers are there, and where none is.
const ANSWER_AT_END: Duration = Duration::from_secs(2);
const ABSENCE_AT_END: Duration = Duration::from_secs(1);

/// How long a check waits for the brokers.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);

/// Makes the client as a start does, and looks at brokers and topics; makes and writes none. Returns the topics that a
/// start would make.
///
/// # Errors
/// As a start: options that do not do, brokers that do not answer or refuse us, topics that do not fit.
pub fn try_kafka(config: &KafkaConfig) -> Result<Vec<String>, KafkaError> {
    let sink = KafkaSink::new(config)?;
    let deadline = Instant::now() + CHECK_PATIENCE;
    sink.search(config).until(deadline, Search::look)
}

/// Hands a record to librdkafka's queue; the ticket of one that it does not take comes back.
fn produce(
    producer: &BaseProducer<Context>,
    names: &BTreeMap<Topic, String>,
    topic: Topic,
    key: &str,
    value: &[u8],
    ticket: Box<Ticket>,
) -> Result<(), (Handed, Box<Ticket>)> {
    let record = BaseRecord::with_opaque_to(&names[&topic], ticket)
        .key(key)
        .payload(value);
    producer.send(record).map_err(|(error, record)| {
        let handed = match error {
            ClientError::MessageProduction(RDKafkaErrorCode::QueueFull) => Handed::QueueFull,
            _ => Handed::Refused,
        };
        (handed, record.delivery_opaque)
    })
}

fn producer_config(config: &KafkaConfig) -> ClientConfig {
    let mut client = config.brokers().settings();
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        // What is deleted while it runs is not made anew with settings of the brokers' own.
        .set("allow.auto.create.topics", "false")
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
        .set("message.timeout.ms", "0");
    client
}

#[cfg(test)]
mod tests;
