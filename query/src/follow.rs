//! Tables as they lie on brokers: read without a group, from a time or the end, and nothing is committed.
//!
//! ```text
//! topic, each partition from --since ─► Feed ─► the query
//!                    └ up to the end as it was when the query began, or on for ever
//! ```
//! Only what is committed is read. Whoever else reads the topics does not notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dogwatch_kafka::{Brokers, Fault, Logged, PATIENCE, ask_leaders};
use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::feed::{Batches, Feed, Progress, Source, SourceError};
use crate::rows::{Record, Rows};
use crate::schema_lookup::SchemaLookup;
use crate::tables::Table;

/// What brokers see as the name of this reader's group, which has no members.
pub const GROUP: &str = "dogwatch-console";
/// Kibibytes that the client fetches ahead, of all partitions.
const FETCHED_KIB_MAX: &str = "16384";
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);
/// How often a followed topic is looked at for new partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Records may reach their topic so much before the time of their event, where clocks disagree.
const CLOCKS_APART_MS: i64 = 60_000;
/// Records may reach their topic so much after their event: what a sensor held back while its brokers were away.
const DELAYED_MS: i64 = 3_600_000;

/// Topics of brokers.
#[derive(Debug, Clone)]
pub struct Follow {
    /// The brokers.
    pub brokers: Brokers,
    /// The topics' names.
    pub names: Topics,
    /// From when on, milliseconds since 1970; none is all that is kept, or the end where it goes on.
    pub since_ms: Option<i64>,
    /// Until when, milliseconds since 1970.
    pub until_ms: Option<i64>,
    /// Whether it goes on with what comes.
    pub on: bool,
    /// Whether somebody will ask for the end nevertheless.
    pub ends: bool,
    /// What was read.
    pub progress: Progress,
}

/// Why a topic is not read on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// It is not there.
    #[error(
        "topic {0} does not exist: nobody has written it with these brokers; check kafka.bootstrap_servers and kafka.topic_prefix"
    )]
    NoTopic(String),
    /// Its end was not reached.
    #[error(
        "could not read {topic} to its end: nothing came for {}s; check that the leaders of its partitions run",
        PATIENCE.as_secs()
    )]
    Stalled {
        /// The topic.
        topic: String,
    },
}

impl FollowError {
    /// Whether address, rights or topics are at fault, not this run.
    #[must_use]
    pub fn environment(&self) -> bool {
        match self {
            Self::Kafka(fault) => fault.environment(),
            Self::NoTopic(_) | Self::Stalled { .. } => true,
        }
    }
}

impl Source for Follow {
    fn open(&self, rows: Rows) -> Result<Batches, SourceError> {
        let reading = Reading::open(self, rows.table)?;
        let (feed, batches) = Feed::new(rows, self.progress.clone());
        let thread = std::thread::Builder::new().name("follow".to_owned());
        thread.spawn(move || reading.run(feed))?;
        Ok(batches)
    }

    fn refuses(&self, _: &Table) -> Option<(String, String)> {
        None
    }

    fn endless(&self) -> bool {
        self.on && !self.ends
    }

    fn end_mend(&self) -> &'static str {
        "leave --follow out, or give it an end with --for 1m"
    }
}

/// A topic that is being read.
struct Reading {
    consumer: BaseConsumer<Logged>,
    topic: String,
    schemas: Schemas,
    /// Where each partition that is not read yet ends.
    ends: BTreeMap<i32, i64>,
    /// All partitions that are read.
    known: Vec<i32>,
    on: bool,
}

/// Where schemas are looked up, opened when the first that is not known comes.
struct Schemas {
    brokers: Brokers,
    topic: String,
    lookup: Option<SchemaLookup>,
}

impl Reading {
    fn open(follow: &Follow, table: &Table) -> Result<Self, FollowError> {
        let name = follow.names.name(table.topic);
        let action = format!("read topic {name}");
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let mut settings = follow.brokers.settings();
        settings
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // What has expired since the begin was looked up is not missed.
            .set("auto.offset.reset", "earliest");
        follow
            .brokers
            .default(&mut settings, "queued.max.messages.kbytes", FETCHED_KIB_MAX);
        let consumer = Logged::consumer(&settings).map_err(fault)?;
        let mut reading = Self {
            consumer,
            topic: name,
            schemas: Schemas {
                brokers: follow.brokers.clone(),
                topic: follow.names.name(Topic::Schemas),
                lookup: None,
            },
            ends: BTreeMap::new(),
            known: Vec::new(),
            on: follow.on,
        };
        // What says how things are is read from its start, whenever that was written.
        let since_ms = follow
            .since_ms
            .map(|ms| if table.says_what_is() { 0 } else { ms });
        let begins = reading.begins(follow, since_ms)?;
        reading.consumer.assign(&begins).map_err(fault)?;
        Ok(reading)
    }

    /// Where each partition begins; notes where it ends.
    fn begins(
        &mut self,
        follow: &Follow,
        since_ms: Option<i64>,
    ) -> Result<TopicPartitionList, FollowError> {
        let action = format!("read topic {}", self.topic);
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let partitions = self.partitions()?;
        if partitions.is_empty() {
            return Err(FollowError::NoTopic(self.topic.clone()));
        }
        let at = |ms: i64| -> Result<BTreeMap<i32, i64>, FollowError> {
            let mut list = TopicPartitionList::new();
            for partition in &partitions {
                list.add_partition_offset(&self.topic, *partition, Offset::Offset(ms.max(0)))
                    .map_err(fault)?;
            }
            let ask = || self.consumer.offsets_for_times(list.clone(), PATIENCE);
            let found = ask_leaders(PATIENCE, ask).map_err(fault)?;
            let offsets = found
                .elements()
                .into_iter()
                .filter_map(|found| match found.offset() {
                    Offset::Offset(offset) => Some((found.partition(), offset)),
                    _ => None,
                });
            Ok(offsets.collect())
        };
        let since = since_ms.map(|ms| at(ms - CLOCKS_APART_MS)).transpose()?;
        let until = follow.until_ms.map(|ms| at(ms + DELAYED_MS)).transpose()?;
        self.known.clone_from(&partitions);
        let mut begins = TopicPartitionList::new();
        for partition in partitions {
            let ask = || {
                let consumer = &self.consumer;
                consumer.fetch_watermarks(&self.topic, partition, PATIENCE)
            };
            let (low, high) = ask_leaders(PATIENCE, ask).map_err(fault)?;
            // A time after the last record is the end.
            let begin = match (&since, follow.on) {
                (Some(since), _) => since.get(&partition).copied().unwrap_or(high).max(low),
                (None, true) => high,
                (None, false) => low,
            };
            let end = until
                .as_ref()
                .and_then(|until| until.get(&partition).copied());
            let end = end.unwrap_or(high);
            begins
                .add_partition_offset(&self.topic, partition, Offset::Offset(begin))
                .map_err(fault)?;
            if begin < end && !follow.on {
                follow.progress.expect((end - begin) as u64);
                self.ends.insert(partition, end);
            }
        }
        Ok(begins)
    }

    fn partitions(&self) -> Result<Vec<i32>, FollowError> {
        let action = format!("read topic {}", self.topic);
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), PATIENCE)
            .map_err(|error| Fault::of(&action, &error))?;
        let topics = metadata.topics().iter();
        let partitions = topics.flat_map(|topic| topic.partitions());
        Ok(partitions.map(|partition| partition.id()).collect())
    }

    /// Reads to the ends, or until nobody wants more.
    fn run(mut self, mut feed: Feed) {
        // Of polls, not of time: who reads the answer may well stand still.
        let mut quiet = Duration::ZERO;
        let mut looked = Instant::now();
        while !feed.closed() && (self.on || !self.ends.is_empty()) {
            match self.consumer.poll(POLL) {
                None => quiet += POLL,
                Some(Ok(message)) => {
                    quiet = Duration::ZERO;
                    let (partition, offset) = (message.partition(), message.offset());
                    let end = self.ends.get(&partition).copied();
                    if self.on || end.is_some_and(|end| offset < end) {
                        self.schemas.take(&message, &mut feed);
                    }
                    if end.is_some_and(|end| offset + 1 >= end) {
                        self.ends.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    quiet = Duration::ZERO;
                    self.ends.remove(&partition);
                }
                Some(Err(error)) => {
                    let fault = Fault::of(&format!("read topic {}", self.topic), &error);
                    if fault.is_final() {
                        return feed.fail(FollowError::Kafka(fault));
                    }
                    quiet += POLL;
                    tracing::warn!(topic = self.topic, %error, "could not read, trying on");
                }
            }
            if !self.on && quiet >= PATIENCE {
                return feed.fail(FollowError::Stalled { topic: self.topic });
            }
            if self.on && looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                self.take_new_partitions();
            }
            feed.tick();
        }
        feed.finish();
    }

    /// Reads partitions that were added to the topic, from their beginning. A broker that does not answer is asked again.
    fn take_new_partitions(&mut self) {
        let Ok(partitions) = self.partitions() else {
            return;
        };
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            if !self.known.contains(&partition) {
                self.known.push(partition);
                list.add_partition(&self.topic, partition);
            }
        }
        if list.count() == 0 {
            return;
        }
        let begun = list
            .set_all_offsets(Offset::Beginning)
            .and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(error) = begun {
            tracing::warn!(topic = self.topic, %error, "could not read the partitions that were added");
        }
    }
}

impl Schemas {
    /// Takes a record in, with its schema looked up where it is not known.
    fn take(&mut self, message: &BorrowedMessage<'_>, feed: &mut Feed) {
        let record = record(message);
        let Err(DecodeError::UnknownSchema(fingerprint)) = feed.push(&record) else {
            return;
        };
        let found = match self.find(fingerprint) {
            Ok(schema) => feed.register(&schema),
            Err(reason) => Err(reason),
        };
        let pushed = found.and_then(|()| feed.push(&record).map_err(|error| error.to_string()));
        if let Err(reason) = pushed {
            feed.unreadable(&record, &reason);
        }
    }

    fn find(&mut self, fingerprint: dogwatch_schemas::Fingerprint) -> Result<String, String> {
        let told = |fault: Fault| fault.to_string();
        let lookup = match &mut self.lookup {
            Some(lookup) => lookup,
            none => {
                let opened = SchemaLookup::open(&self.brokers, GROUP, self.topic.clone());
                none.insert(opened.map_err(told)?)
            }
        };
        let found = lookup
            .find(&[fingerprint])
            .map_err(told)?
            .into_iter()
            .next();
        match found {
            Some((_, schema)) => Ok(schema.to_owned()),
            None => Err(format!(
                "its schema {fingerprint} is not in topic {}",
                self.topic
            )),
        }
    }
}

fn record<'m>(message: &'m BorrowedMessage<'_>) -> Record<'m> {
    let headers = message.headers();
    let headers = headers.iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        ingest_ts_ns: message.timestamp().to_millis().map(|ms| ms * 1_000_000),
        key: message.key().unwrap_or_default(),
        value: message.payload().unwrap_or_default(),
        headers: headers
            .filter_map(|header| Some((header.key, header.value?)))
            .collect(),
    }
}
