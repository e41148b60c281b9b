//! Joins the stages: opens source and sink, runs the steps, ends cleanly.
//!
//! A step takes what is ready: few records after [`RawStep::linger`](crate::config::RawStep), up to
//! `rows_max` when more are waiting, so steps grow under load and stay quick without. Steps that say
//! nothing leave only positions, which are committed at the next alert or after `idle_commit_interval`.
//! While a step is in flight the next one grows, up to `rows_max`, and follows as soon as the first is done.
//!
//! # What a restart remembers
//! Every `checkpoint.interval` a step also holds what the engine remembers of a task: last `seq` of each sensor's run,
//! losses, windows, folds ([`crate::checkpoint`]). Each commit names the last checkpoint in its offset's metadata.
//! Whoever takes a partition over reads that checkpoint, begins where it ends, and replays muted up to the committed
//! offset. So nothing is forgotten: what a task says is the same, whoever says it and however often that one fell.
//! Where a checkpoint is lost or written by a newer version, the task begins empty at the committed offset, which is
//! an error in the log and in the metrics; alerts on single events are not affected.
//!
//! # When the broker gives this process up
//! A process that stood still (SIGSTOP, a suspended machine) finds its transaction aborted, its producer fenced or its
//! membership gone. Nothing of it was committed, so producer and consumer are made anew and the tasks are taken over
//! from what is committed, as after a restart. Only when the group says that another process took the same
//! `kafka.instance` over does this one end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{Fault, Logged, PATIENCE, REACH, reach};
use dogwatch_schemas::records::{
    Alert, ContainerSample, Event, IoSample, ProcessSample, SyscallSample,
};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::alert::AlertMode;
use crate::config::{Config, Delivery, DetectionsFrom, Stage};
use crate::detect::{DetectionSet, LoadError, LoadReport, Refusal, Sources, Warning};
use crate::engine::{Engine, EngineError, EvidenceTopics, now_ns};
use crate::idle::Marks;
use crate::inventory::Inventory;
use crate::kafka;
use crate::metrics;
use crate::published::Feed;
use crate::reload::{self, Place};
use crate::schema_lookup::{self, SchemaLookup};
use crate::sensor_needs::Needs;
use crate::shutdown::Shutdown;
use crate::sink::publisher::Publisher;
use crate::sink::{Publish, Sink, SinkError, transactional_id, try_transaction};
use crate::source::group::GroupInput;
use crate::source::{QUEUE_BATCHES, Source, SourceError, SourceMessage, capture, local};
use crate::tables::Table;
use crate::topics::{self, TopicReport};

mod failing;
mod fleet;
mod held;
mod sources;
mod steps;
mod swap;
#[cfg(test)]
mod tests;
mod waiting;

use steps::{Ends, Steps, given_up};

/// How soon it is seen that the source's thread has ended.
const CLOSE_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How soon the broker looks for transactions that timed out: transaction.abort.timed.out.transaction.cleanup.interval.ms.
const BROKER_SCAN: Duration = Duration::from_secs(10);

/// Why the processor did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// No detection folder.
    #[error(transparent)]
    Detections(#[from] LoadError),
    /// Not one detection could be loaded.
    #[error(
        "none of the {refused} detections in {folder} could be loaded; each one's reason is logged above"
    )]
    NoDetections {
        /// The folder.
        folder: PathBuf,
        /// How many files were refused.
        refused: usize,
    },
    /// No set of detections is published, or none that can be used.
    #[error("{0}")]
    NotPublished(String),
    /// Detections were refused, where all must load.
    #[error("{} detections refused:{}", .0.len(), .0.iter().map(|refusal| format!("\n  {refusal}")).collect::<String>())]
    Refused(Vec<Refusal>),
    /// The engine failed as a whole.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The topics are not fit.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// The brokers said no, or nothing, or a client could not be made.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// The source ended early.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The sink takes no more.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl ProcessorError {
    /// Returns the program's exit code: 2 configuration, 3 environment, 1 anything else.
    pub fn exit_code(&self) -> u8 {
        let environment = match self {
            Self::Kafka(Fault::Options(_))
            | Self::Detections(_)
            | Self::NoDetections { .. }
            | Self::Refused(_) => return 2,
            Self::Source(SourceError::CaptureUnreadable { .. }) => return 2,
            Self::Topics(error) => error.environment(),
            Self::Kafka(fault) | Self::Source(SourceError::Kafka(fault)) => fault.environment(),
            Self::Sink(SinkError::Kafka(fault)) => fault.environment(),
            Self::Sink(SinkError::TopicGone { .. }) => true,
            Self::NotPublished(_) => true,
            Self::Engine(_) | Self::Source(_) | Self::Sink(_) => false,
        };
        if environment { 3 } else { 1 }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records read.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Steps matched.
    pub steps: u64,
    /// Alerts said.
    pub alerts: u64,
    /// Records that could not be read, by class.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Records that sensors had sent before.
    pub repeated: u64,
    /// Records that sensors counted and nobody sent.
    pub missing: u64,
    /// Offsets that expired before they were read.
    pub expired: u64,
    /// Rows that came too late for a window.
    pub late: u64,
    /// Events and windows that a detection could not judge, once a detection.
    pub unjudged: u64,
}

/// The summary of a run, to be read while it goes on; clones are the same. Renewed at each step.
#[derive(Debug, Clone, Default)]
pub struct Stats(Arc<Mutex<Summary>>);

impl Stats {
    /// The summary up to now.
    #[must_use]
    pub fn now(&self) -> Summary {
        // A writer that panicked leaves a whole summary behind.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, summary: &Summary) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(summary);
    }
}

/// Runs until the source ends or `shutdown` is triggered; drains and commits before it returns.
///
/// Must be called from a plain thread, not from an async task.
///
/// # Errors
/// [`ProcessorError`] when it could not start or had to stop; what was not committed is read again.
pub fn run(
    config: &Config,
    source: Source,
    sink: Sink,
    shutdown: &Shutdown,
) -> Result<Summary, ProcessorError> {
    run_watched(config, source, sink, shutdown, &Stats::default())
}

/// As [`run`], for a caller that watches what it does.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    config: &Config,
    source: Source,
    sink: Sink,
    shutdown: &Shutdown,
    stats: &Stats,
) -> Result<Summary, ProcessorError> {
    kafka::check_options(config)?;
    match (&source, &sink) {
        (Source::Kafka, Sink::Kafka) => fleet::run(config, shutdown, stats),
        _ => {
            let stage = Running::new(config, shutdown, stats);
            stage.run(source, sink)
        }
    }
}

/// One of the stages of the work, as it runs: windows over the whole fleet have two.
struct Running<'r> {
    config: Config,
    shutdown: &'r Shutdown,
    stats: &'r Stats,
    /// Told when a detection of the whole fleet runs.
    fleet_wanted: Option<Sender<()>>,
}

impl<'r> Running<'r> {
    fn new(config: &Config, shutdown: &'r Shutdown, stats: &'r Stats) -> Self {
        Self {
            config: config.clone(),
            shutdown,
            stats,
            fleet_wanted: None,
        }
    }

    fn run(mut self, source: Source, sink: Sink) -> Result<Summary, ProcessorError> {
        let through_broker = matches!(source, Source::Kafka) || matches!(sink, Sink::Kafka);
        let through_kafka = matches!((&source, &sink), (Source::Kafka, Sink::Kafka));
        let of_hosts = self.config.stage == Stage::Host;
        let (found, place) = match source {
            Source::Kafka => find_detections(&self.config)?,
            _ => {
                let found = Sources::read(&self.config.detections_folder)?;
                (found, Place::Folder)
            }
        };
        // Both stages have the same files: they are told once.
        let tells = of_hosts || self.config.stages == [Stage::Fleet];
        let (set, refused) = load(&found, tells)?;
        let (detections, inputs) = (set.len(), set.inputs(self.config.stage));
        let inventory = Inventory::new(&set, &found, &Inventory::default(), now_ns());
        if of_hosts {
            metrics::loaded(set.len(), refused.len());
            metrics::running(inventory.detections(), std::iter::empty());
        }
        let names = Topics::new(self.config.kafka.topic_prefix.as_str());
        let evidence_topics = match &source {
            Source::Kafka => EvidenceTopics::kafka(&names),
            Source::Local(_) => EvidenceTopics::same("local"),
            Source::Capture(_) => EvidenceTopics::same("capture"),
        };
        let needs = (matches!(source, Source::Kafka) && of_hosts).then(|| Needs::of(&set));
        let bounded = matches!(source, Source::Capture(_));
        let (limits, lookup) = if through_broker {
            prepare_topics(&self.config, &names, &inputs)?
        } else {
            (None, None)
        };
        if let (true, Some(limits)) = (through_kafka, &limits) {
            self.config.exchange = Some(limits.exchange);
        }
        let config = &self.config;
        let ran = reload::ran(config, &inventory, &found);
        let caps = found.caps(config.windows.caps());
        let engine = reload::engine(config, set, caps, evidence_topics.clone())?;
        let id = transactional_id(config);
        let named = inputs.iter().map(|input| evidence_topics.name(*input));
        let named: BTreeSet<String> = named.map(str::to_owned).collect();
        let ends = (source, sink, inputs);
        let stages = Stages::open(ends, config, limits.as_ref(), &id, self.shutdown)?;
        tracing::info!(
            stage = config.stage.name(),
            detections,
            refused = refused.len(),
            from = place.name(config),
            set = ran.epoch.map(|epoch| epoch.number),
            input = named.into_iter().collect::<Vec<_>>().join(", "),
            delivery = config.delivery.name(),
            group = through_broker.then_some(&config.kafka.group_id),
            instance = config.kafka.instance,
            "processor started"
        );
        if through_broker && of_hosts {
            announce_standstill(config);
        }
        let marks = (through_kafka && of_hosts).then(|| Marks::new(config, names));
        let ends = Ends {
            stores: through_kafka,
            bounded,
        };
        let mut steps = Steps::new(engine, lookup, marks, ends, config, self.shutdown);
        steps.stats = self.stats.clone();
        steps.fleet_wanted = self.fleet_wanted.clone();
        steps.call_for_fleet();
        steps.look_at_sensors(needs);
        steps.run_with(ran);
        if !bounded {
            steps.watch(place, evidence_topics, found, &refused, inventory);
        }
        self.go_on(steps, stages, (limits.as_ref(), &id))
    }

    /// Runs the steps; where the brokers gave this process up, producer and consumer are made anew.
    fn go_on(
        &self,
        mut steps: Steps,
        mut stages: Stages,
        (limits, id): (Option<&TopicReport>, &str),
    ) -> Result<Summary, ProcessorError> {
        let (through_kafka, shutdown) = (steps.ends.stores, self.shutdown);
        loop {
            let result = steps.run(&mut stages);
            let over = match result {
                Err(error) if through_kafka && steps.may_start_over(&stages, &error) => error,
                Err(error) if through_kafka && given_up(&error) && shutdown.triggered() => {
                    tracing::warn!(%error, "the brokers had given this processor up before it was told to stop: what it read last is read again by the next");
                    stages.close();
                    return Ok(steps.summary);
                }
                result => {
                    stages.close();
                    return result.map(|()| steps.summary);
                }
            };
            tracing::warn!(%over, "the brokers gave this processor up, or its client the brokers, taking its tasks over anew");
            metrics::started_over();
            stages.close();
            steps.forget();
            let ends = (Source::Kafka, Sink::Kafka, steps.inputs());
            stages = Stages::open(ends, &self.config, limits, id, shutdown)?;
        }
    }
}

/// Finds the detections of a processor of a group, and where they are.
fn find_detections(config: &Config) -> Result<(Sources, Place), ProcessorError> {
    match config.detections_from {
        DetectionsFrom::Folder => Ok((Sources::read(&config.detections_folder)?, Place::Folder)),
        DetectionsFrom::Topic => {
            let (_client, _) = reach(&config.kafka.brokers(), REACH)?;
            let feed = Feed::open(config)?;
            let found = feed.first().map_err(ProcessorError::NotPublished)?;
            Ok((found, Place::Topic(Box::new(feed))))
        }
    }
}

/// Says how long the tasks of a killed processor stand still, which the configuration decides.
fn announce_standstill(config: &Config) {
    let (session, transaction) = (
        config.kafka.session_timeout,
        config.kafka.transaction_timeout,
    );
    let others = match config.delivery {
        Delivery::ExactlyOnce => session + transaction + BROKER_SCAN,
        Delivery::AtLeastOnce => session,
    };
    let restarted = match &config.kafka.instance {
        Some(_) => Duration::ZERO,
        None => others,
    };
    tracing::info!(
        after_restart_seconds = restarted.as_secs_f64(),
        before_others_go_on_seconds = others.as_secs_f64(),
        "should this processor be killed, its tasks stand still at most so long, and for the restore"
    );
}

/// Loads the detections, and where it `tells` says what was refused.
fn load(found: &Sources, tells: bool) -> Result<(DetectionSet, Vec<Refusal>), ProcessorError> {
    let report = DetectionSet::load_sources(found)?;
    if tells {
        tell(&report);
    }
    if report.set.is_empty() {
        return Err(ProcessorError::NoDetections {
            folder: found.folder().to_owned(),
            refused: report.refused.len(),
        });
    }
    Ok((report.set, report.refused))
}

/// Says what was refused, what is left out, and what may be wrong.
fn tell(report: &LoadReport) {
    for refusal in &report.refused {
        tracing::error!("detection refused: {refusal}");
    }
    for Warning { fault, code } in report.warnings() {
        let Refusal {
            file,
            line,
            reason,
            mend,
        } = fault;
        tracing::warn!(file = %file.display(), line, reason, mend, code, "detection may be wrong");
    }
}

/// What a check of the detections finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many there are.
    pub detections: usize,
    /// The tables that they read.
    pub tables: BTreeSet<Table>,
}

/// Loads the detections and compiles them, without running anything.
///
/// # Errors
/// [`ProcessorError`] when one is refused: each one's reason is in the error.
pub fn check(config: &Config) -> Result<Checked, ProcessorError> {
    kafka::check_options(config)?;
    let (found, _) = find_detections(config)?;
    let report = DetectionSet::load_sources(&found)?;
    if !report.refused.is_empty() {
        return Err(ProcessorError::Refused(report.refused));
    }
    let (detections, tables) = (report.set.len(), report.set.tables());
    Engine::new(report.set, AlertMode::Test)?;
    Ok(Checked { detections, tables })
}

/// Tries what a run needs of the brokers: topics, the topic of schemas, the consumer group and, where delivery is exactly
/// once, a transaction, which is aborted. Nothing is made and nothing is written. `tables` are those that detections read.
///
/// # Errors
/// [`ProcessorError`], naming what is missing and the mend.
pub fn check_brokers(
    config: &Config,
    tables: &BTreeSet<Table>,
) -> Result<Vec<String>, ProcessorError> {
    let inputs: Vec<Topic> = tables.iter().map(|table| table.topic()).collect();
    let missing = topics::look(config, &inputs)?.created;
    let names = Topics::new(config.kafka.topic_prefix.as_str());
    if !missing.contains(&names.name(Topic::Schemas)) {
        open_schemas(config, &names)?;
    }
    for stage in &config.stages {
        let config = config.of_stage(*stage);
        let input = match stage {
            Stage::Host => Topic::Events,
            Stage::Fleet => Topic::Exchange,
        };
        try_group(&config, names.name(input))?;
        if config.delivery == Delivery::ExactlyOnce {
            try_transaction(&config)?;
        }
    }
    Ok(missing)
}

fn open_schemas(config: &Config, names: &Topics) -> Result<SchemaLookup, Fault> {
    let (brokers, topic) = (config.kafka.brokers(), names.name(Topic::Schemas));
    SchemaLookup::open(&brokers, &config.kafka.group_id, topic)
}

/// Asks the group's coordinator for an offset, as every start does; joins nothing.
fn try_group(config: &Config, input: String) -> Result<(), Fault> {
    let group = &config.kafka.group_id;
    let action = format!("read the offsets of group {group}");
    let fault = |error: KafkaError| Fault::of(&action, &error);
    let mut settings = config.kafka.brokers().settings();
    settings.set("group.id", group);
    let consumer = Logged::consumer(&settings).map_err(fault)?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&input, 0);
    let ask = || -> Result<(), KafkaError> {
        let answer = consumer.committed_offsets(asked.clone(), PATIENCE)?;
        let elements = answer.elements();
        elements.iter().try_for_each(|element| element.error())
    };
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if is_settling(&error) && started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer => return answer.map_err(fault),
        }
    }
}

/// Whether brokers still agree on who coordinates a group, as they do when the first is asked for.
fn is_settling(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator | Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress
        )
    )
}

fn prepare_topics(
    config: &Config,
    names: &Topics,
    inputs: &[Topic],
) -> Result<(Option<TopicReport>, Option<SchemaLookup>), ProcessorError> {
    let report = topics::prepare(config, inputs)?;
    for topic in &report.created {
        tracing::info!(topic, "topic created");
    }
    let lookup = open_schemas(config, names)?;
    // The tables too: this program writes marks.
    let own = [
        (Alert::fingerprint(), Alert::SCHEMA),
        (Event::fingerprint(), Event::SCHEMA),
        (ContainerSample::fingerprint(), ContainerSample::SCHEMA),
        (ProcessSample::fingerprint(), ProcessSample::SCHEMA),
        (SyscallSample::fingerprint(), SyscallSample::SCHEMA),
        (IoSample::fingerprint(), IoSample::SCHEMA),
    ];
    schema_lookup::publish(&lookup, config, &own)?;
    Ok((Some(report), Some(lookup)))
}

/// A source whose thread runs.
struct Opened {
    messages: Receiver<SourceMessage>,
    group: Option<Arc<GroupInput>>,
    thread: JoinHandle<()>,
    /// Tells the thread that nobody takes its messages any more.
    closed: Arc<AtomicBool>,
}

impl Opened {
    fn open(
        source: Source,
        inputs: Vec<Topic>,
        config: &Config,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        let (sender, messages) = bounded(QUEUE_BATCHES);
        let shutdown = shutdown.clone();
        let closed = Arc::new(AtomicBool::new(false));
        let (group, thread) = match source {
            Source::Kafka => {
                let group = GroupInput::join(config, inputs, sender, shutdown)?;
                let thread = group.start(config)?;
                (Some(group), thread)
            }
            Source::Local(log) => (None, local::start(log, sender, shutdown, closed.clone())?),
            Source::Capture(path) => (
                None,
                capture::start(path, sender, shutdown, closed.clone())?,
            ),
        };
        Ok(Self {
            messages,
            group,
            thread,
            closed,
        })
    }

    /// Ends the source's thread. It may wait for room in the channel, or in a rebalance for a message that lies
    /// in it to be settled: what still comes is dropped until the thread has ended.
    fn close(self) {
        self.closed.store(true, Ordering::Release);
        if let Some(group) = &self.group {
            group.finished.store(true, Ordering::Release);
        }
        while !self.thread.is_finished() {
            let _ = self.messages.recv_timeout(CLOSE_LOOK_INTERVAL);
        }
        // A panic there was reported by the panic hook; nothing is left to do for it.
        let _ = self.thread.join();
    }
}

/// The stages around the steps: the input's thread and the publishing thread.
struct Stages {
    opened: Opened,
    publisher: Publisher,
}

impl Stages {
    /// Opens the sink first: what an earlier producer left open is aborted before its offsets are asked for.
    fn open(
        (source, sink, inputs): (Source, Sink, Vec<Topic>),
        config: &Config,
        limits: Option<&TopicReport>,
        id: &str,
        shutdown: &Shutdown,
    ) -> Result<Self, ProcessorError> {
        let mut publish = Publish::open(sink, config, limits, id)?;
        let opened = Opened::open(source, inputs, config, shutdown)?;
        if let Some(group) = &opened.group {
            publish.commit_to(group.clone());
        }
        Ok(Self {
            opened,
            publisher: Publisher::start(publish)?,
        })
    }

    fn group(&self) -> Option<&Arc<GroupInput>> {
        self.opened.group.as_ref()
    }

    fn close(self) {
        self.opened.close();
        self.publisher.stop();
    }
}
