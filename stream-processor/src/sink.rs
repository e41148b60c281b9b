//! Where alerts go: Kafka, a channel of this process, or a file of JSON lines.
//!
//! A step is published whole. What fails for a passing reason is tried again, the same step, with
//! growing pauses; after `RETRY_PAUSES` the pipeline stops with the reason and has lost nothing:
//! the input's offsets were not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use dogwatch_kafka::Fault;
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::Topics;
use rdkafka::producer::Producer;

use crate::checkpoint::Head;
use crate::config::{Config, Delivery};
use crate::metrics;
use crate::source::group::GroupInput;
use crate::step::{Partition, Step};
use crate::topics::TopicReport;

mod at_least_once;
mod heads;
mod native;
mod offsets;
mod outgoing;
mod producer;
pub mod publisher;
mod transactions;

use at_least_once::AtLeastOnce;
pub(crate) use at_least_once::deliver;
use heads::Heads;
pub(crate) use outgoing::Outgoing;
use outgoing::{Encoded, Encoder};
pub(crate) use producer::{RecordProducer, create as create_producer, send_all};
use transactions::Transactions;
pub(crate) use transactions::{transactional_id, try_transaction};

/// Pauses before each further attempt with the same step.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// How long the brokers may take to list their topics after an attempt that failed.
const METADATA_PATIENCE: Duration = Duration::from_secs(3);

/// Where a pipeline writes.
#[derive(Debug)]
pub enum Sink {
    /// The topics of the configured brokers, with the configured delivery.
    Kafka,
    /// A reader in this process, at least once; a full channel holds the pipeline back.
    Local(SyncSender<Alert>),
    /// JSON lines appended to a file, at least once.
    File(PathBuf),
}

/// Why nothing more can be published.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// Another producer took the transactional id over, or the broker timed it out.
    #[error(
        "fenced as {id}: {reason}; another processor runs with the same kafka.instance, or this one or its brokers stood still for longer than kafka.transaction_timeout ({timeout:?}); nothing is lost, start it again"
    )]
    Fenced {
        /// The transactional id.
        id: String,
        /// The broker's patience.
        timeout: Duration,
        /// librdkafka's words.
        reason: String,
    },
    /// The client does not come back from sending offsets.
    #[error(
        "the client did not come back from sending offsets as {id} within {timeout:?}: the group's coordinator went away; nothing is lost, start it again"
    )]
    Stuck {
        /// The transactional id.
        id: String,
        /// How long the call may take.
        timeout: Duration,
    },
    /// Every attempt with one step failed.
    #[error(
        "gave up after {attempts} attempts with the same step, its input stays uncommitted: {last}"
    )]
    Exhausted {
        /// How often it was tried.
        attempts: usize,
        /// The last failure.
        last: Box<SinkError>,
    },
    /// A topic that the step is written to is not there any more.
    #[error(
        "topic {topic} is gone from {servers}: it was deleted, or this program may not see it any more; nothing is lost, its input stays uncommitted: start it again, which makes the topic where kafka.create_topics is on, or make it first"
    )]
    TopicGone {
        /// The topic.
        topic: String,
        /// The brokers.
        servers: String,
    },
    /// The group does not take the offsets, though no rebalance was seen.
    #[error("could not commit offsets: {0}")]
    NotAMember(String),
    /// The reader of alerts in this process went away.
    #[error("the reader of alerts is gone")]
    ReaderGone,
    /// The file could not be written.
    #[error("could not write alerts to {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("could not start the publishing thread: {0}")]
    Thread(std::io::Error),
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is published, with its offsets.
    Committed,
    /// Its partitions went to another processor, which reads the same input again.
    Superseded,
}

/// The offset of the first record of each task's checkpoint.
type Places = BTreeMap<Partition, i64>;

/// What became of one attempt.
enum Attempt {
    /// With what the commit says of the tasks' memory, and where the checkpoints lie.
    Committed(BTreeMap<Partition, Head>, Places),
    Superseded,
    /// The coordinator does not know us: either a rebalance is about to be seen, or something is wrong.
    NotAMember(String),
    Retry(SinkError),
    Stop(SinkError),
}

/// One step to be published.
struct Work<'s> {
    step: &'s Step,
    encoded: &'s Encoded,
    /// Whose offsets go with it.
    input: Option<&'s Arc<GroupInput>>,
    heads: &'s Heads,
}

impl Work<'_> {
    /// What the commit says of the tasks' memory, when `offset` knows the place of each record that is asked for.
    fn heads_placed(
        &self,
        offset: impl Fn(usize) -> Option<i64>,
    ) -> Option<BTreeMap<Partition, Head>> {
        let place = |partition| offset(*self.encoded.firsts.get(&partition)?);
        self.heads.of_step(self.step, place)
    }

    /// Whether an offset can name the step's checkpoints only once their place is known.
    fn waits_for_places(&self) -> bool {
        let mut checkpoints = self.step.checkpoints.values();
        checkpoints.any(|taken| taken.begins)
    }

    /// Where the checkpoints lie, as far as it is known.
    fn places(&self, offset: impl Fn(usize) -> Option<i64>) -> Places {
        let firsts = self.encoded.firsts.iter();
        firsts
            .filter_map(|(partition, number)| Some((*partition, offset(*number)?)))
            .collect()
    }
}

/// An open sink.
pub struct Publish {
    writer: Writer,
    heads: Heads,
    /// Whose offsets go with the steps; none where the source has none.
    input: Option<Arc<GroupInput>>,
    /// How long a lost membership may take to be noticed.
    session_timeout: Duration,
    /// The brokers, as configured.
    servers: String,
}

/// A closed set: each variant has its own promise.
enum Writer {
    ExactlyOnce(Encoder, Transactions),
    AtLeastOnce(Encoder, AtLeastOnce),
    Local(SyncSender<Alert>),
    File(PathBuf, std::fs::File),
}

impl Publish {
    /// Opens a sink; `limits` are those of the topics, where it is Kafka, `id` names its transactions.
    ///
    /// # Errors
    /// [`SinkError`] when it cannot be written.
    pub fn open(
        sink: Sink,
        config: &Config,
        limits: Option<&TopicReport>,
        id: &str,
    ) -> Result<Self, SinkError> {
        let writer = match (sink, limits) {
            (Sink::Local(sender), _) => Writer::Local(sender),
            (Sink::File(path), _) => {
                let opened = std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(&path);
                let file = opened.map_err(|source| SinkError::File {
                    path: path.clone(),
                    source,
                })?;
                Writer::File(path, file)
            }
            (Sink::Kafka, limits) => {
                let limits = limits.expect("the pipeline prepares the topics of a Kafka sink");
                let names = Topics::new(config.kafka.topic_prefix.as_str());
                let encoder = Encoder::new(names, config.stage.state(), limits);
                let batch_bytes = limits.batch_bytes_max();
                match config.delivery {
                    Delivery::ExactlyOnce => {
                        let transactions = Transactions::open(config, id.to_owned(), batch_bytes)?;
                        Writer::ExactlyOnce(encoder, transactions)
                    }
                    Delivery::AtLeastOnce => {
                        Writer::AtLeastOnce(encoder, AtLeastOnce::open(config, batch_bytes)?)
                    }
                }
            }
        };
        Ok(Self {
            writer,
            heads: Heads::default(),
            input: None,
            session_timeout: config.kafka.session_timeout,
            servers: config.kafka.bootstrap_servers.clone(),
        })
    }

    /// Names the source whose offsets are committed with the steps.
    pub fn commit_to(&mut self, input: Arc<GroupInput>) {
        self.input = Some(input);
    }

    /// Where the memory of tasks is, by the last commit.
    fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// Publishes a step with its offsets.
    ///
    /// # Errors
    /// [`SinkError`] when no attempt succeeded.
    pub fn publish(&mut self, mut step: Step) -> Result<Outcome, SinkError> {
        let encoded = match &self.writer {
            Writer::ExactlyOnce(encoder, _) | Writer::AtLeastOnce(encoder, _) => {
                encoder.encode(&mut step)
            }
            Writer::Local(_) | Writer::File(..) => Encoded::default(),
        };
        self.heads.learn(&step);
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let started = Instant::now();
            let error = match self.attempt(&encoded, &step) {
                Attempt::Committed(heads, places) => {
                    metrics::committed(&step, started.elapsed());
                    let place = |partition| places.get(&partition).copied();
                    self.heads.keep(&step, heads, place);
                    return Ok(Outcome::Committed);
                }
                Attempt::Superseded => return Ok(self.supersede(&step)),
                Attempt::Stop(error) => return Err(error),
                Attempt::Retry(error) => error,
                Attempt::NotAMember(reason) => {
                    if self.moves_away(&step) {
                        return Ok(self.supersede(&step));
                    }
                    SinkError::NotAMember(reason)
                }
            };
            if let Some(topic) = self.topic_gone(&encoded) {
                let servers = self.servers.clone();
                return Err(SinkError::TopicGone { topic, servers });
            }
            let Some(pause) = pauses.next() else {
                let attempts = RETRY_PAUSES.len() + 1;
                return Err(SinkError::Exhausted {
                    attempts,
                    last: Box::new(error),
                });
            };
            metrics::retried();
            tracing::warn!(%error, pause_seconds = pause.as_secs_f64(), "could not publish a step, trying the same one again");
            std::thread::sleep(*pause);
        }
    }

    /// Drops a step; no later one of the same assignments may be committed over the gap.
    fn supersede(&self, step: &Step) -> Outcome {
        if let Some(input) = &self.input {
            input.assignments.forfeit(&step.positions);
        }
        Outcome::Superseded
    }

    fn attempt(&mut self, encoded: &Encoded, step: &Step) -> Attempt {
        let work = Work {
            step,
            encoded,
            input: self.input.as_ref(),
            heads: &self.heads,
        };
        match &mut self.writer {
            Writer::ExactlyOnce(_, transactions) => transactions.attempt(&work),
            Writer::AtLeastOnce(_, producer) => producer.attempt(&work),
            Writer::Local(sender) => {
                report_unwritten(step);
                let mut alerts = step.alerts.iter();
                if alerts.all(|alert| sender.send(alert.clone()).is_ok()) {
                    at_least_once::commit_offsets(step, BTreeMap::new(), Places::new(), work.input)
                } else {
                    Attempt::Stop(SinkError::ReaderGone)
                }
            }
            Writer::File(path, file) => {
                report_unwritten(step);
                match write_lines(file, &step.alerts) {
                    Ok(()) => at_least_once::commit_offsets(
                        step,
                        BTreeMap::new(),
                        Places::new(),
                        work.input,
                    ),
                    Err(source) => Attempt::Stop(SinkError::File {
                        path: path.clone(),
                        source,
                    }),
                }
            }
        }
    }

    /// The topic among those of a step that the brokers do not list; none where they cannot be asked.
    fn topic_gone(&self, encoded: &Encoded) -> Option<String> {
        let producer = match &self.writer {
            Writer::ExactlyOnce(_, transactions) => transactions.producer(),
            Writer::AtLeastOnce(_, producer) => producer.producer(),
            Writer::Local(_) | Writer::File(..) => return None,
        };
        // All are asked for: asking for one by its name may make it, with settings of the brokers' own.
        let metadata = producer.client().fetch_metadata(None, METADATA_PATIENCE);
        let metadata = metadata.ok()?;
        let there: BTreeSet<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        // Brokers that have just started may list nothing yet: that does not say that a topic was deleted.
        if there.is_empty() {
            return None;
        }
        let mut written = encoded.records.iter().map(|record| record.topic.as_str());
        let gone = written.find(|topic| !there.contains(topic));
        gone.map(str::to_owned)
    }

    /// Waits for the rebalance that a refused membership announces; says whether it takes the step's partitions.
    /// One that waits for this very step takes them too: what is not committed is read again by the next owner.
    fn moves_away(&self, step: &Step) -> bool {
        let Some(input) = &self.input else {
            return false;
        };
        let deadline = Instant::now() + self.session_timeout;
        while !input.assignments.moves(&step.positions) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Without topics of dead letters and late rows they are told in the log: counted, with the first as a sample.
fn report_unwritten(step: &Step) {
    if let Some(first) = step.dead_letters.first() {
        tracing::warn!(
            records = step.dead_letters.len(),
            offset = first.record.offset,
            error = %first.error,
            "records could not be read"
        );
    }
    if let Some(first) = step.late.first() {
        tracing::info!(
            rows = step.late.len(),
            offset = first.record.offset,
            detections = first.detections.join(", "),
            "rows came after their windows had closed"
        );
    }
}

fn write_lines(file: &mut std::fs::File, alerts: &[Alert]) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for alert in alerts {
        serde_json::to_writer(&mut lines, alert)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)
}
