//! `dogwatch alerts`: prints the alerts that a processor wrote to Kafka, committed ones only.
//!
//! ```text
//! dogwatch.alerts, each partition from --since ─► in order of time, as far as 64 MiB reach ─► printer
//!                                      └ --follow: on as they come
//! ```
//! It joins no group, commits nothing and makes no topic: nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dogwatch_kafka::options::{self, OptionError};
use dogwatch_kafka::{BadAddress, Brokers, Fault, Logged, PATIENCE, check_servers, reach};
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_settings::{Flag, Program, Settings, SettingsError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::cli;
use crate::printer::{Format, PrintError, Printer};

/// Bytes of alerts that wait to be put in order.
const ORDERED_BYTES_MAX: usize = 64 << 20;
/// How long one poll waits: so late is an alert of a topic that is followed.
const POLL: Duration = Duration::from_millis(100);

/// Alerts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// The configuration was refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An option of the client was refused.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An address of a broker is none.
    #[error("kafka.bootstrap_servers: {0}")]
    Address(#[from] BadAddress),
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// No processor wrote here.
    #[error(
        "topic {0} does not exist: no processor has run with these brokers; check kafka.bootstrap_servers and kafka.topic_prefix"
    )]
    NoTopic(String),
    /// The topic's end was not reached.
    #[error(
        "could not read {topic} to its end: nothing came for {}s; check that the leaders of its partitions run",
        PATIENCE.as_secs()
    )]
    Stalled {
        /// The topic.
        topic: String,
    },
    /// Records that are no alerts of this version.
    #[error(
        "{0} records could not be read: they were written by another version of Dogwatch, or are no alerts"
    )]
    Undecodable(u64),
    /// Something could not be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
}

impl AlertsError {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Option(_)
            | Self::Address(_)
            | Self::Kafka(Fault::Options(_)) => 2,
            Self::NoTopic(_) | Self::Stalled { .. } => 3,
            Self::Kafka(fault) if fault.environment() => 3,
            Self::Kafka(_) | Self::Undecodable(_) => 1,
            Self::Print(error) => error.exit_code(),
        }
    }
}

/// What is needed of a sensor's or a processor's settings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    kafka: GivenKafka,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct GivenKafka {
    bootstrap_servers: String,
    topic_prefix: String,
    options: BTreeMap<String, String>,
}

impl Default for GivenKafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "dogwatch".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// Prints alerts until the topic's end, or for ever where it is followed.
///
/// # Errors
/// [`AlertsError`] names what is wrong, and the mend.
pub fn run(options: &cli::Alerts) -> Result<(), AlertsError> {
    let (brokers, names) = brokers(options)?;
    let printer = Printer::new(Format::chosen(options.json), None)?;
    let mut reading = Reading::open(&brokers, &names, options)?;
    match reading.print(printer, options.follow) {
        // Whoever reads has enough, as `head` has.
        Err(AlertsError::Print(PrintError::Output(_))) => Ok(()),
        result => result,
    }
}

fn brokers(options: &cli::Alerts) -> Result<(Brokers, Topics), AlertsError> {
    let servers = options.kafka.clone();
    let flag = |servers| ("kafka.bootstrap_servers", servers);
    let flags: Vec<Flag> = servers.map(flag).into_iter().collect();
    let (file, variables) = (options.config.as_deref(), std::env::vars_os());
    let settings = Settings::read(Program::Either, file, variables, &flags)?;
    let Given { kafka } = settings.take()?;
    check_servers(&kafka.bootstrap_servers)?;
    let brokers = Brokers {
        servers: kafka.bootstrap_servers,
        options: options::checked(kafka.options, &[])?,
        client_id: "dogwatch-console".to_owned(),
    };
    Ok((brokers, Topics::new(kafka.topic_prefix)))
}

/// Where alerts are read from: a moment, for `--since`.
///
/// # Errors
/// What is accepted, for the command line.
pub fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let span = humantime::parse_duration(text).map_err(|error| {
        format!(
            "{error}; give a time span such as 1h or 2days, or a time such as 2026-01-31T12:00:00Z"
        )
    })?;
    let span = chrono::Duration::from_std(span).map_err(|error| error.to_string())?;
    Utc::now()
        .checked_sub_signed(span)
        .ok_or_else(|| format!("{text} ago is before all time"))
}

/// Partitions of the alerts' topic that are being read.
struct Reading {
    consumer: BaseConsumer<Logged>,
    topic: String,
    /// Partitions that were not read to the end they have now.
    unread: BTreeSet<i32>,
    ordered: Ordered,
    undecodable: u64,
    begun: Instant,
}

impl Reading {
    fn open(brokers: &Brokers, names: &Topics, options: &cli::Alerts) -> Result<Self, AlertsError> {
        let topic = names.name(Topic::Alerts);
        let action = format!("read topic {topic}");
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let (_client, metadata) = reach(brokers, PATIENCE)?;
        let found = metadata.topics().iter().find(|of| of.name() == topic);
        let partitions: Vec<i32> = found
            .iter()
            .flat_map(|topic| topic.partitions())
            .map(|partition| partition.id())
            .collect();
        if partitions.is_empty() {
            return Err(AlertsError::NoTopic(topic));
        }
        let mut settings = brokers.settings();
        settings
            .set("group.id", "dogwatch-console")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // What has expired since the begin was looked up is not missed.
            .set("auto.offset.reset", "earliest");
        let consumer = Logged::consumer(&settings).map_err(fault)?;
        let begin = match (options.since, options.follow) {
            (Some(moment), _) => Offset::Offset(moment.timestamp_millis().max(0)),
            (None, true) => Offset::End,
            (None, false) => Offset::Beginning,
        };
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition_offset(&topic, *partition, begin)
                .map_err(fault)?;
        }
        if options.since.is_some() {
            list = consumer.offsets_for_times(list, PATIENCE).map_err(fault)?;
        }
        consumer.assign(&list).map_err(fault)?;
        Ok(Self {
            consumer,
            topic,
            unread: partitions.into_iter().collect(),
            ordered: Ordered::default(),
            undecodable: 0,
            begun: Instant::now(),
        })
    }

    fn print(&mut self, mut printer: Printer, follow: bool) -> Result<(), AlertsError> {
        let mut heard = Instant::now();
        let mut printed = 0u64;
        while follow || !self.unread.is_empty() {
            match self.consumer.poll(POLL) {
                None if !self.unread.is_empty() && !follow && heard.elapsed() >= PATIENCE => {
                    let topic = self.topic.clone();
                    return Err(AlertsError::Stalled { topic });
                }
                None => {}
                Some(Ok(message)) => {
                    heard = Instant::now();
                    match alert_of(&message) {
                        Some(alert) => self.ordered.push(alert, message.payload_len()),
                        None => self.undecodable += 1,
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    self.unread.remove(&partition);
                }
                Some(Err(error)) => self.judge(&error)?,
            }
            // What is there is put in order; what comes later is shown as it comes.
            while self.unread.is_empty() || self.ordered.is_full() {
                let Some(alert) = self.ordered.pop() else {
                    break;
                };
                printer.alert(&alert, None)?;
                printed += 1;
            }
        }
        while let Some(alert) = self.ordered.pop() {
            printer.alert(&alert, None)?;
            printed += 1;
        }
        tracing::info!(
            alerts = printed,
            seconds = self.begun.elapsed().as_secs_f64(),
            "read to the end"
        );
        printer.complete()?;
        match self.undecodable {
            0 => Ok(()),
            count => Err(AlertsError::Undecodable(count)),
        }
    }

    /// A broker that is away comes back; one that refuses does not change its mind.
    fn judge(&self, error: &KafkaError) -> Result<(), AlertsError> {
        let fault = Fault::of(&format!("read topic {}", self.topic), error);
        if fault.is_final() {
            return Err(fault.into());
        }
        tracing::warn!(%error, "could not read alerts, trying on");
        Ok(())
    }
}

fn alert_of(message: &BorrowedMessage<'_>) -> Option<Alert> {
    let decoded = Alert::decode_framed(message.payload().unwrap_or_default());
    match decoded {
        Ok(alert) => Some(alert),
        Err(error) => {
            let (topic, partition, offset) =
                (message.topic(), message.partition(), message.offset());
            tracing::warn!(topic, partition, offset, %error, "record skipped");
            None
        }
    }
}

/// Alerts in the order of their events, as far as they can be held.
#[derive(Debug, Default)]
struct Ordered {
    /// By time and arrival.
    alerts: BTreeMap<(i64, u64), (Alert, usize)>,
    arrived: u64,
    bytes: usize,
}

impl Ordered {
    fn push(&mut self, alert: Alert, bytes: usize) {
        self.bytes += bytes;
        self.arrived += 1;
        self.alerts
            .insert((alert.event_ts, self.arrived), (alert, bytes));
    }

    fn is_full(&self) -> bool {
        self.bytes > ORDERED_BYTES_MAX
    }

    fn pop(&mut self) -> Option<Alert> {
        let (_, (alert, bytes)) = self.alerts.pop_first()?;
        self.bytes -= bytes;
        Some(alert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_time() {
        let ago = Utc::now() - since("90m").unwrap();
        assert!((ago - chrono::Duration::minutes(90)).num_seconds().abs() < 5);
        let moment = since("2026-01-31T12:00:00+01:00").unwrap();
        assert_eq!(moment.to_rfc3339(), "2026-01-31T11:00:00+00:00");
        let said = since("yesterday").unwrap_err();
        assert!(
            said.contains("1h or 2days, or a time such as 2026-01-31T12:00:00Z"),
            "{said}"
        );
        assert!(since("999999999999days").is_err());
    }

    #[test]
    fn alerts_are_in_order_of_time_and_then_of_arrival() {
        let alert = |event_ts, id: &str| Alert {
            event_ts,
            alert_id: id.into(),
            ..Alert::default()
        };
        let mut ordered = Ordered::default();
        for (event_ts, id) in [(3, "c"), (1, "a"), (3, "d"), (2, "b")] {
            ordered.push(alert(event_ts, id), 10);
        }
        assert_eq!(ordered.bytes, 40);
        let ids: Vec<String> = std::iter::from_fn(|| ordered.pop())
            .map(|alert| alert.alert_id.to_string())
            .collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);
        assert_eq!(ordered.bytes, 0);
        ordered.push(alert(1, "large"), ORDERED_BYTES_MAX + 1);
        assert!(ordered.is_full());
    }
}
