//! Kafka: brokers are sought in the background, records wait in a bounded queue meanwhile.
//!
//! ```text
//! record ──► waiting, until the topics are checked ──► librdkafka's queue ──► brokers
//!            └────── kafka.queue_bytes, both together ──────┘
//!              seek: reach a broker ► make missing topics ► check them ► write our schemas
//! ```
//! Records are keyed by host id, acknowledged by all replicas, and neither reordered nor repeated (idempotence).
//! They are kept as long as the queues have room, however long the brokers are away; beyond that they are lost and counted
//! by kind. Brokers that are away are waited for; brokers that refuse us end the sensor, because a person has to mend that.
//! Keys are placed as Java clients place them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dogwatch_kafka::fault::is_refusal;
use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{Fault, LastError, Lifeline};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;

use super::{Handed, Kind};
use crate::config::KafkaConfig;

mod outage;
mod seek;
mod waiting;

use outage::Outage;
use seek::{Search, Seeking};
use waiting::Waiting;

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
    /// The brokers said no, or nothing; a sensor that watches waits for brokers that are away.
    #[error(transparent)]
    Brokers(#[from] Fault),
    /// A topic is missing or not as it must be; a sensor that watches waits where it could not be made for now.
    #[error(transparent)]
    Topics(#[from] TopicError),
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
            Self::Fatal(_) => false,
        }
    }
}

/// Reports of records that did not arrive, and librdkafka's errors; shared with its threads.
#[derive(Debug)]
struct Reports {
    /// Bytes handed to librdkafka of which nothing was reported yet.
    outstanding_bytes: AtomicU64,
    /// A broker is connected, as far as the last statistics and errors tell.
    connected: AtomicBool,
    /// By kind.
    undelivered: Vec<AtomicU64>,
    last_undelivered: Mutex<Option<String>>,
    last_error: LastError,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            outstanding_bytes: AtomicU64::default(),
            connected: AtomicBool::default(),
            undelivered: (0..Kind::count()).map(|_| AtomicU64::default()).collect(),
            last_undelivered: Mutex::default(),
            last_error: LastError::default(),
        }
    }
}

impl Reports {
    fn note_undelivered(&self, kind: usize, reason: &str) {
        if let Some(count) = self.undelivered.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(mut last) = self.last_undelivered.lock() {
            *last = Some(reason.to_owned());
        }
    }

    /// Records that did not arrive by kind, and the last reason, since the last call.
    fn take_undelivered(&self) -> (Vec<(Kind, u64)>, Option<String>) {
        let counts = self.undelivered.iter().enumerate();
        let lost = counts
            .map(|(kind, count)| (Kind::from_number(kind), count.swap(0, Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let last = self.last_undelivered.lock();
        (lost, last.ok().and_then(|mut last| last.take()))
    }
}

#[derive(Default)]
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
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, kind: usize) {
        let (Ok(message) | Err((_, message))) = result;
        let bytes = (message.key_len() + message.payload_len()) as u64;
        self.reports
            .outstanding_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        match result {
            Ok(_) => self.reports.connected.store(true, Ordering::Relaxed),
            Err((error, _)) => self.reports.note_undelivered(kind, &error.to_string()),
        }
    }
}

/// The connection to Kafka; see the module's description.
pub(super) struct KafkaSink {
    producer: Arc<ThreadedProducer<Context>>,
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
        let context = Context::default();
        let reports = context.reports.clone();
        let settings = producer_config(config);
        let producer: ThreadedProducer<Context> =
            ThreadedProducer::from_config_and_context(&settings, context)
                .map_err(|error| Fault::of("make a Kafka client", &error))?;
        let lifeline = &producer.context().lifeline;
        lifeline.tie(producer.client(), &settings);
        let topics = Topics::new(config.topic_prefix.as_str());
        let names = TOPICS.map(|topic| (topic, topics.name(topic))).into();
        Ok(Self {
            producer: Arc::new(producer),
            reports,
            names: Arc::new(names),
            stage: Stage::Open,
            waiting: Waiting::new(config.queue_bytes, config.queue_records as usize),
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

    /// Hands a record to the queue: ours until the topics are checked and it is empty, then librdkafka's.
    pub fn send(&mut self, topic: Topic, key: &str, value: &[u8], kind: Kind) -> Handed {
        self.advance();
        if self.is_open() && self.waiting.is_empty() {
            return self.produce(topic, key, value, kind);
        }
        let outstanding = self.reports.outstanding_bytes.load(Ordering::Relaxed);
        if self.waiting.push(topic, key, value, kind, outstanding) {
            Handed::Over
        } else {
            Handed::QueueFull
        }
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
            match self.produce(record.topic, &record.key, &record.value, record.kind) {
                Handed::QueueFull => return self.waiting.put_back(record),
                Handed::Refused => self
                    .reports
                    .note_undelivered(record.kind.number(), "refused"),
                Handed::Over | Handed::Closed => {}
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    fn produce(&self, topic: Topic, key: &str, value: &[u8], kind: Kind) -> Handed {
        produce(&self.producer, &self.names, topic, key, value, kind)
    }

    /// Reports of records that did not arrive, since the last call.
    pub fn undelivered(&self) -> (Vec<(Kind, u64)>, Option<String>) {
        if !self.is_open() {
            // The search waits for reports of its own.
            return Default::default();
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
        let outstanding = self.reports.outstanding_bytes.load(Ordering::Relaxed);
        Connection {
            connected,
            queued_bytes: self.waiting.bytes() + outstanding,
        }
    }

    /// Waits for the queues to empty; returns how many records are left.
    pub fn drain(&mut self) -> usize {
        let deadline = Instant::now() + self.drain_timeout;
        loop {
            self.advance();
            let left = deadline.saturating_duration_since(Instant::now());
            let handed_over = self.is_open() && self.waiting.is_empty();
            if handed_over || left.is_zero() || matches!(self.stage, Stage::Refused(_)) {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        // What is left is what this returns; the error says no more.
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = self.producer.flush(left);
        self.waiting.len() + usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }
}

/// How long a check waits for the brokers.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);

/// Makes the client as a start does, and looks at brokers and topics; makes and writes none.
///
/// # Errors
/// As a start: options that do not do, brokers that do not answer or refuse us, topics that do not fit.
pub fn try_kafka(config: &KafkaConfig) -> Result<(), KafkaError> {
    let sink = KafkaSink::new(config)?;
    let deadline = Instant::now() + CHECK_PATIENCE;
    sink.search(config).until(deadline, Search::look)
}

/// Hands a record to librdkafka's queue.
fn produce(
    producer: &ThreadedProducer<Context>,
    names: &BTreeMap<Topic, String>,
    topic: Topic,
    key: &str,
    value: &[u8],
    kind: Kind,
) -> Handed {
    let bytes = (key.len() + value.len()) as u64;
    let record = BaseRecord::with_opaque_to(&names[&topic], kind.number())
        .key(key)
        .payload(value);
    let outstanding = &producer.context().reports.outstanding_bytes;
    // Counted before: the report may come before `send` returns.
    outstanding.fetch_add(bytes, Ordering::Relaxed);
    match producer.send(record) {
        Ok(()) => Handed::Over,
        Err((error, _)) => {
            outstanding.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                ClientError::MessageProduction(RDKafkaErrorCode::QueueFull) => Handed::QueueFull,
                _ => Handed::Refused,
            }
        }
    }
}

fn producer_config(config: &KafkaConfig) -> ClientConfig {
    let mut client = config.brokers().settings();
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
        .set("message.timeout.ms", "0");
    client
}
