//! `dogwatch alerts`: prints the alerts that a processor wrote to Kafka, committed ones only.
//!
//! ```text
//! dogwatch.alerts, each partition from --since ─► merged by time, as far as 64 MiB reach ─► printer
//!                                      └ --follow: on as they come, a second later
//! ```
//! Alerts of other versions are read by the schema they were written with.
//! It joins no group, commits nothing and makes no topic: nobody notices.

use std::time::{Duration, Instant};

use dogwatch_kafka::{Brokers, Fault, Logged, PATIENCE, REACH, ask_leaders, reach};
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_stream_processor::versions::Versions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use crate::brokers::{BrokersError, brokers};
use crate::merge::{Merge, Turn};
use crate::printer::{Format, PrintError, Printer};
use crate::readback::GROUP;
use crate::{cli, failure};

/// Bytes of alerts that wait to be put in order.
const ORDERED_BYTES_MAX: usize = 64 << 20;
/// Kibibytes that the client fetches ahead, of all partitions.
const FETCHED_KIB_MAX: &str = "16384";
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// How long a followed alert waits for earlier ones of other partitions.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(1);
/// How often a followed topic is looked at for new partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Alerts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// The settings do not name brokers.
    #[error(transparent)]
    Brokers(#[from] BrokersError),
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
    /// Records that are no alerts, or of a schema that nobody knows.
    #[error("{0} records could not be read: the log names each, with the reason")]
    Undecodable(u64),
    /// Something could not be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
}

impl AlertsError {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Brokers(_) | Self::Kafka(Fault::Options(_)) => 2,
            Self::NoTopic(_) | Self::Stalled { .. } => 3,
            Self::Kafka(fault) if fault.environment() => 3,
            Self::Kafka(_) | Self::Undecodable(_) => 1,
            Self::Print(error) => error.exit_code(),
        }
    }
}

/// Prints alerts until the topic's end, or for ever where it is followed.
///
/// # Errors
/// [`AlertsError`] names what is wrong, and the mend.
pub fn run(options: &cli::Alerts) -> Result<(), AlertsError> {
    let (brokers, names) = brokers(options.config.as_deref(), options.kafka.as_deref())?;
    let printer = Printer::new(Format::chosen(options.json), None)?;
    let mut reading = Reading::open(&brokers, &names, options)?;
    match reading.print(printer) {
        // Whoever reads has enough, as `head` has.
        Err(AlertsError::Print(PrintError::Output)) => Ok(()),
        result => result,
    }
}

/// Partitions of the alerts' topic that are being read.
struct Reading {
    consumer: BaseConsumer<Logged>,
    topic: String,
    follow: bool,
    versions: Versions<Alert>,
    merge: Merge,
    partitions: usize,
    undecodable: u64,
    begun: Instant,
}

impl Reading {
    fn open(brokers: &Brokers, names: &Topics, options: &cli::Alerts) -> Result<Self, AlertsError> {
        let topic = names.name(Topic::Alerts);
        let action = format!("read topic {topic}");
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let (_client, metadata) = reach(brokers, REACH)?;
        let partitions = partitions_of(&metadata, &topic);
        if partitions.is_empty() {
            return Err(AlertsError::NoTopic(topic));
        }
        let mut settings = brokers.settings();
        settings
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // What has expired since the begin was looked up is not missed.
            .set("auto.offset.reset", "earliest");
        brokers.default(&mut settings, "queued.max.messages.kbytes", FETCHED_KIB_MAX);
        let consumer = Logged::consumer(&settings).map_err(fault)?;
        let begin = match (options.since, options.follow) {
            (Some(moment), _) => Offset::Offset(moment.timestamp_millis().max(0)),
            (None, true) => Offset::End,
            (None, false) => Offset::Beginning,
        };
        let mut list = listed(&topic, &partitions, begin).map_err(fault)?;
        if options.since.is_some() {
            let ask = || consumer.offsets_for_times(list.clone(), PATIENCE);
            list = ask_leaders(PATIENCE, ask).map_err(fault)?;
        }
        consumer.assign(&list).map_err(fault)?;
        let schemas = (brokers.clone(), GROUP, names.name(Topic::Schemas));
        let patience = match options.follow {
            true => FOLLOW_PATIENCE,
            false => Duration::ZERO,
        };
        Ok(Self {
            consumer,
            topic,
            follow: options.follow,
            versions: Versions::new(Alert::SCHEMA, Alert::decode_framed, schemas),
            partitions: partitions.len(),
            merge: Merge::new(partitions, ORDERED_BYTES_MAX, patience),
            undecodable: 0,
            begun: Instant::now(),
        })
    }

    fn print(&mut self, mut printer: Printer) -> Result<(), AlertsError> {
        let (mut heard, mut looked) = (Instant::now(), Instant::now());
        let mut printed = 0u64;
        while self.follow || !(self.merge.caught_up() && self.merge.is_empty()) {
            if self.poll()? {
                heard = Instant::now();
            }
            if heard.elapsed() >= PATIENCE && !self.merge.caught_up() {
                self.give_up()?;
            }
            while let Some(alert) = self.merge.take(Instant::now()) {
                printer.alert(&alert, None)?;
                printed += 1;
            }
            self.turn()?;
            if self.follow && looked.elapsed() >= LOOK_INTERVAL {
                self.take_new_partitions()?;
                looked = Instant::now();
            }
        }
        tracing::info!(
            alerts = printed,
            out_of_order = self.merge.late(),
            seconds = self.begun.elapsed().as_secs_f64(),
            "read to the end"
        );
        printer.complete()?;
        match self.undecodable {
            0 => Ok(()),
            count => Err(AlertsError::Undecodable(count)),
        }
    }

    /// Takes what comes next; says whether anything came.
    fn poll(&mut self) -> Result<bool, AlertsError> {
        let message = match self.consumer.poll(POLL) {
            None => return Ok(false),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.merge.end(partition);
                return Ok(true);
            }
            Some(Err(error)) => return self.judge(&error).map(|()| false),
            Some(Ok(message)) => message,
        };
        let (partition, offset) = (message.partition(), message.offset());
        let framed = message.payload().unwrap_or_default();
        match self.versions.read(framed) {
            Ok(alert) => self
                .merge
                .push(partition, alert, framed.len(), Instant::now()),
            Err(error) => {
                self.undecodable += 1;
                let error = failure::in_full(&error);
                tracing::warn!(topic = self.topic, partition, offset, %error, "record skipped");
            }
        }
        Ok(true)
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

    /// Nothing has come for long though there should be more.
    fn give_up(&mut self) -> Result<(), AlertsError> {
        let topic = self.topic.clone();
        if !self.follow {
            return Err(AlertsError::Stalled { topic });
        }
        let seconds = PATIENCE.as_secs();
        tracing::warn!(
            topic,
            seconds,
            "nothing comes of some partitions; what others have is shown"
        );
        self.merge.end_all();
        Ok(())
    }

    /// Lets partitions that are ahead wait for the others.
    fn turn(&mut self) -> Result<(), Fault> {
        let Turn { pause, resume } = self.merge.turn();
        let action = format!("read topic {}", self.topic);
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let listed = |ids: &[i32]| listed(&self.topic, ids, Offset::Invalid).map_err(fault);
        if !pause.is_empty() {
            self.consumer.pause(&listed(&pause)?).map_err(fault)?;
        }
        if !resume.is_empty() {
            self.consumer.resume(&listed(&resume)?).map_err(fault)?;
        }
        Ok(())
    }

    /// Reads partitions that were added to the topic, from their beginning.
    fn take_new_partitions(&mut self) -> Result<(), Fault> {
        let action = format!("read topic {}", self.topic);
        let fault = |error: KafkaError| Fault::of(&action, &error);
        // A broker that does not answer now is asked again.
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), POLL * 10) else {
            return Ok(());
        };
        let known = self.partitions as i32;
        let mut new = partitions_of(&metadata, &self.topic);
        new.retain(|id| *id >= known);
        if new.is_empty() {
            return Ok(());
        }
        let list = listed(&self.topic, &new, Offset::Beginning).map_err(fault)?;
        self.consumer.incremental_assign(&list).map_err(fault)?;
        tracing::info!(
            topic = self.topic,
            partitions = new.len(),
            "partitions were added"
        );
        self.partitions += new.len();
        Ok(())
    }
}

fn partitions_of(metadata: &Metadata, topic: &str) -> Vec<i32> {
    let found = metadata.topics().iter().find(|of| of.name() == topic);
    let partitions = found.iter().flat_map(|topic| topic.partitions());
    partitions.map(|partition| partition.id()).collect()
}

fn listed(topic: &str, ids: &[i32], offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for id in ids {
        list.add_partition_offset(topic, *id, offset)?;
    }
    Ok(list)
}
