//! How this program talks to brokers: the settings of its clients and what their errors mean.
//!
//! ```text
//! Config ──► consumer / producer settings ──► librdkafka
//! error code ──► Fault: unreachable, unauthorised, insecure, ... with the mend
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::statistics::Statistics;

use crate::config::{Config, RawKafka};

mod lifeline;

pub use lifeline::{Lifeline, STATISTICS_INTERVAL_MS};

/// How long a broker may take to answer at start.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Largest message a producer hands over, in bytes; the topics' own limits are checked before.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What an error of a client means, and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody answers.
    #[error("could not reach a broker at {servers} within {}s: {reason}; check kafka.bootstrap_servers and that the broker runs", PATIENCE.as_secs())]
    Unreachable {
        /// Where it was looked for.
        servers: String,
        /// The client's last word.
        reason: String,
    },
    /// The broker does not accept who we are.
    #[error(
        "the broker at {servers} refused to authenticate this processor: {reason}; check security.protocol and sasl.* in kafka.options"
    )]
    Unauthenticated {
        /// The broker's address.
        servers: String,
        /// The client's last word.
        reason: String,
    },
    /// No TLS session could be made.
    #[error(
        "could not make a TLS connection to {servers}: {reason}; check security.protocol and ssl.* in kafka.options"
    )]
    Tls {
        /// The broker's address.
        servers: String,
        /// The client's last word.
        reason: String,
    },
    /// The broker knows us and says no.
    #[error("not allowed to {action}: {reason}; grant it to this processor's principal")]
    Unauthorised {
        /// What was attempted.
        action: String,
        /// The broker's answer.
        reason: String,
    },
    /// Anything else.
    #[error("could not {action}: {reason}")]
    Other {
        /// What was attempted.
        action: String,
        /// The client's answer.
        reason: String,
    },
}

impl Fault {
    /// Names what `code` means for `action`.
    pub fn new(action: &str, code: Option<RDKafkaErrorCode>, reason: String) -> Self {
        use RDKafkaErrorCode as Code;
        let action = action.to_owned();
        match code {
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::DelegationTokenAuthorizationFailed,
            ) => Self::Unauthorised { action, reason },
            _ => Self::Other { action, reason },
        }
    }

    /// Names what an error of the client library means for `action`.
    pub fn of(action: &str, error: &KafkaError) -> Self {
        Self::new(action, error.rdkafka_error_code(), error.to_string())
    }

    /// Says whether the environment is at fault (address, rights), not this run.
    pub fn environment(&self) -> bool {
        !matches!(self, Self::Other { .. })
    }
}

/// Logs what a client says of its connections; it tries again by itself.
pub fn log_error(error: &KafkaError, reason: &str) {
    // The end of a partition is no error, it only comes as one.
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
        tracing::warn!(%error, reason, "Kafka client reports an error");
    }
}

/// Logs librdkafka's own lines where they disturb nobody: its errors come through [`log_error`] too.
pub fn log_line(facility: &str, line: &str) {
    tracing::debug!(target: "librdkafka", facility, "{line}");
}

/// Context of a client that only logs.
#[derive(Debug, Default)]
pub struct Logged(Lifeline);

impl Logged {
    /// Makes a consumer that reads without a group.
    ///
    /// # Errors
    /// librdkafka's when it refuses a setting.
    pub fn consumer(settings: &ClientConfig) -> KafkaResult<BaseConsumer<Self>> {
        let consumer: BaseConsumer<Self> = settings.create_with_context(Self::default())?;
        consumer.context().0.tie(consumer.client(), settings);
        Ok(consumer)
    }
}

impl ClientContext for Logged {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.look(&statistics);
    }
}

impl ConsumerContext for Logged {}

/// Remembers the last thing the client said of its connections, which names the cause that error codes do not.
#[derive(Debug, Default)]
pub struct ErrorKeeper(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl ErrorKeeper {
    fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for ErrorKeeper {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers down" follows every cause and says less.
        if last.is_none() || code != RDKafkaErrorCode::AllBrokersDown {
            *last = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for ErrorKeeper {}

/// Asks the brokers for their topics, for at most [`PATIENCE`].
///
/// # Errors
/// [`Fault`]; a refused authentication is reported at once, an unreachable broker after the patience.
pub fn reach(config: &Config) -> Result<(BaseConsumer<ErrorKeeper>, Metadata), Fault> {
    let client: BaseConsumer<ErrorKeeper> = base(&config.kafka)
        .create_with_context(ErrorKeeper::default())
        .map_err(|error| Fault::of("make a Kafka client", &error))?;
    let started = Instant::now();
    loop {
        let error = match client.fetch_metadata(None, Duration::from_secs(1)) {
            Ok(metadata) => return Ok((client, metadata)),
            Err(error) => error,
        };
        tend(&client);
        let (code, reason) = client
            .context()
            .last()
            .unwrap_or((RDKafkaErrorCode::BrokerTransportFailure, error.to_string()));
        use RDKafkaErrorCode as Code;
        let servers = config.kafka.bootstrap_servers.clone();
        let late = started.elapsed() >= PATIENCE;
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => {
                return Err(Fault::Unauthenticated { servers, reason });
            }
            Code::SSL => return Err(Fault::Tls { servers, reason }),
            // A listener without TLS just hangs up during the handshake.
            _ if late && reason.contains("SSL_HANDSHAKE") => {
                return Err(Fault::Tls { servers, reason });
            }
            _ if late => return Err(Fault::Unreachable { servers, reason }),
            _ => {}
        }
    }
}

/// Hands what an idle client has to say to its context. A poll that met a log line looks like one
/// that met nothing, so it polls a fixed number of times.
pub fn tend<C: ConsumerContext>(client: &BaseConsumer<C>) {
    for _ in 0..16 {
        let _ = client.poll(Duration::ZERO);
    }
}

/// Says what librdkafka has against the pass-through options, if anything.
///
/// # Errors
/// librdkafka's words, naming the option.
pub fn check_options(config: &Config) -> Result<(), String> {
    consumer(config)
        .create_native_config()
        .map(drop)
        .map_err(|error| match error {
            KafkaError::ClientConfig(_, description, key, value) => {
                format!("{key} = {value:?}: {description}")
            }
            other => other.to_string(),
        })
}

/// Settings every client shares.
pub fn base(kafka: &RawKafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (option, value) in &kafka.options {
        client.set(option, value);
    }
    client.set("bootstrap.servers", &kafka.bootstrap_servers);
    client.set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
    // A broker that was away for a while is found again within a second, not ten.
    default(&mut client, kafka, "reconnect.backoff.max.ms", "1000");
    if !kafka.options.contains_key("client.id") {
        client.set(
            "client.id",
            kafka.instance.as_deref().unwrap_or("dogwatch-processor"),
        );
    }
    client
}

/// Settings of the group's consumer.
///
/// `isolation.level=read_committed` matters even where the input is not transactional: only then
/// does a new owner of a partition wait for offsets that a transaction still holds.
pub fn consumer(config: &Config) -> ClientConfig {
    let kafka = &config.kafka;
    let mut client = base(kafka);
    client
        .set("group.id", &kafka.group_id)
        .set("partition.assignment.strategy", "range")
        .set(
            "session.timeout.ms",
            kafka.session_timeout.as_millis().to_string(),
        )
        .set(
            "heartbeat.interval.ms",
            (kafka.session_timeout.as_millis() / 5).to_string(),
        )
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // Says when a partition was read to its end, whatever lies there.
        .set("enable.partition.eof", "true");
    // A fetch that meets a full queue waits this long; the default is a second.
    default(&mut client, kafka, "fetch.queue.backoff.ms", "10");
    default(&mut client, kafka, "queued.max.messages.kbytes", "65536");
    // A few milliseconds' worth of a fleet's events: else each batch that any sensor appends is a fetch of its own.
    default(&mut client, kafka, "fetch.min.bytes", "65536");
    default(&mut client, kafka, "fetch.wait.max.ms", "10");
    if let Some(instance) = &kafka.instance {
        client.set("group.instance.id", instance);
    }
    client
}

/// Settings of a producer whose batches no topic with a limit of `batch_bytes` refuses.
pub fn producer(config: &Config, batch_bytes: usize) -> ClientConfig {
    let kafka = &config.kafka;
    let mut client = base(kafka);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
        .set("batch.size", batch_bytes.min(1_000_000).to_string());
    default(&mut client, kafka, "linger.ms", "0");
    // Checkpoints are large and compress well; lz4 costs an alert next to nothing.
    if !kafka.options.contains_key("compression.codec") {
        default(&mut client, kafka, "compression.type", "lz4");
    }
    // A step that follows at once meets the markers of the last transaction: ask again soon.
    default(&mut client, kafka, "retry.backoff.ms", "5");
    client
}

fn default(client: &mut ClientConfig, kafka: &RawKafka, option: &str, value: &str) {
    if !kafka.options.contains_key(option) {
        client.set(option, value);
    }
}
