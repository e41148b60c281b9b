//! Joins the stages: opens source and sink, runs the steps, ends cleanly.
//!
//! A step takes what is ready: few records after [`RawStep::linger`](crate::config::RawStep), up to
//! `rows_max` when more are waiting, so steps grow under load and stay quick without. Steps that say
//! nothing leave only positions, which are committed at the next alert or after `idle_commit_interval`.
//!
//! # What a restart forgets
//! Alerts are of single events and their identity comes from the event, so offsets in the transaction
//! suffice: what was committed is not read again, what was not is read again and says the same.
//! The engine's own memory is not stored yet. For each partition it forgets, at a restart or a rebalance:
//! - the last `seq` of each sensor's run: a record the sensor sent twice, once before and once after,
//!   is not recognised as a repeat and yields the same alert (same `alert_id`) again;
//!   a gap between the two is not counted as missing;
//! - the losses that marks announced: alerts between the restart and the host's next mark
//!   (one second) are not flagged `incomplete`.
//!
//! Both become exact when checkpoints store this memory beside the offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};

use crate::alert::AlertMode;
use crate::config::{Config, RawStep};
use crate::decode::{DeadLetter, InputRecord, RejectError};
use crate::detect::{DetectionSet, LoadError, Refusal};
use crate::engine::{Engine, EngineError, StepOutput};
use crate::kafka::Fault;
use crate::metrics;
use crate::schema_lookup::SchemaLookup;
use crate::shutdown::Shutdown;
use crate::sink::publisher::Publisher;
use crate::sink::{Outcome, Publish, Sink, SinkError};
use crate::source::group::GroupInput;
use crate::source::{
    Batch, Gap, QUEUE_BATCHES, Source, SourceError, SourceMessage, capture, local,
};
use crate::step::{Partition, Position, Step};
use crate::topics::{self, TopicError, TopicReport};

#[cfg(test)]
mod tests;

/// How soon a failed commit is seen when no input comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Detections were refused, where all must load.
    #[error("{} detections refused:{}", .0.len(), .0.iter().map(|refusal| format!("\n  {refusal}")).collect::<String>())]
    Refused(Vec<Refusal>),
    /// The engine failed as a whole.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The topics are not fit.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// The topic of schemas could not be read or written.
    #[error(transparent)]
    Schemas(#[from] Fault),
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
            Self::Detections(_) | Self::NoDetections { .. } | Self::Refused(_) => return 2,
            Self::Source(SourceError::CaptureUnreadable { .. }) => return 2,
            Self::Topics(error) => error.environment(),
            Self::Schemas(fault) | Self::Source(SourceError::Kafka(fault)) => fault.environment(),
            Self::Sink(SinkError::Kafka(fault)) => fault.environment(),
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
    let (set, refused) = load(config)?;
    metrics::loaded(set.len(), refused.len());
    let detections = set.len();
    let names = Topics::new(config.kafka.topic_prefix.as_str());
    let evidence_topic = match &source {
        Source::Kafka => names.name(Topic::Events),
        Source::Local(_) => "local".to_owned(),
        Source::Capture(_) => "capture".to_owned(),
    };
    let engine = Engine::new(set, AlertMode::Live)?.with_evidence_topic(&evidence_topic);
    let kafka = matches!(source, Source::Kafka) || matches!(sink, Sink::Kafka);
    let (limits, lookup) = if kafka {
        prepare_topics(config, &names)?
    } else {
        (None, None)
    };
    let mut publish = Publish::open(sink, config, limits.as_ref())?;
    let opened = Opened::open(source, config, shutdown)?;
    if let Some(group) = &opened.group {
        publish.commit_to(group.clone());
    }
    tracing::info!(
        detections,
        refused = refused.len(),
        folder = %config.detections_folder.display(),
        input = evidence_topic,
        delivery = ?config.delivery,
        group = kafka.then_some(&config.kafka.group_id),
        instance = config.kafka.instance,
        "processor started"
    );
    let mut steps = Steps {
        engine,
        lookup,
        group: opened.group.clone(),
        publisher: Publisher::start(publish)?,
        settings: config.step.clone(),
        gathered: Gathered::default(),
        next: Step::default(),
        committed_at: Instant::now(),
        assigned: BTreeSet::new(),
        summary: Summary::default(),
    };
    let result = steps.run(&opened.messages);
    opened.close();
    steps.publisher.stop();
    result.map(|()| steps.summary)
}

/// Loads the detections and says what was refused.
fn load(config: &Config) -> Result<(DetectionSet, Vec<Refusal>), ProcessorError> {
    let report = DetectionSet::load(&config.detections_folder)?;
    for refusal in &report.refused {
        tracing::error!("detection refused: {refusal}");
    }
    if report.set.is_empty() {
        return Err(ProcessorError::NoDetections {
            folder: config.detections_folder.clone(),
            refused: report.refused.len(),
        });
    }
    Ok((report.set, report.refused))
}

/// Loads the detections and compiles them, without running anything; returns how many there are.
///
/// # Errors
/// [`ProcessorError`] when one is refused: each one's reason is in the error.
pub fn check(config: &Config) -> Result<usize, ProcessorError> {
    let report = DetectionSet::load(&config.detections_folder)?;
    if !report.refused.is_empty() {
        return Err(ProcessorError::Refused(report.refused));
    }
    let loaded = report.set.len();
    Engine::new(report.set, AlertMode::Test)?;
    Ok(loaded)
}

fn prepare_topics(
    config: &Config,
    names: &Topics,
) -> Result<(Option<TopicReport>, Option<SchemaLookup>), ProcessorError> {
    let report = topics::prepare(config, config.kafka.create_topics)?;
    for topic in &report.created {
        tracing::info!(topic, "topic created");
    }
    let lookup = SchemaLookup::open(config, names.name(Topic::Schemas))?;
    lookup.publish(config, &[(Alert::fingerprint(), Alert::SCHEMA)])?;
    Ok((Some(report), Some(lookup)))
}

/// A source whose thread runs.
struct Opened {
    messages: Receiver<SourceMessage>,
    group: Option<Arc<GroupInput>>,
    thread: JoinHandle<()>,
}

impl Opened {
    fn open(source: Source, config: &Config, shutdown: &Shutdown) -> Result<Self, SourceError> {
        let (sender, messages) = bounded(QUEUE_BATCHES);
        let shutdown = shutdown.clone();
        let (group, thread) = match source {
            Source::Kafka => {
                let group = GroupInput::join(config, sender, shutdown)?;
                let thread = group.start(config)?;
                (Some(group), thread)
            }
            Source::Local(log) => (None, local::start(log, sender, shutdown)?),
            Source::Capture(path) => (None, capture::start(path, sender, shutdown)?),
        };
        Ok(Self {
            messages,
            group,
            thread,
        })
    }

    /// Ends the source's thread. Without a receiver its next send fails, and no rebalance waits any more.
    fn close(self) {
        drop(self.messages);
        if let Some(group) = &self.group {
            group.finished.store(true, Ordering::Release);
        }
        // A panic there was reported by the panic hook; nothing is left to do for it.
        let _ = self.thread.join();
    }
}

/// Records waiting for the next step.
#[derive(Default)]
struct Gathered {
    records: Vec<InputRecord>,
    positions: BTreeMap<Partition, Position>,
    since: Option<Instant>,
}

/// The step thread's state.
struct Steps {
    engine: Engine,
    lookup: Option<SchemaLookup>,
    group: Option<Arc<GroupInput>>,
    publisher: Publisher,
    settings: RawStep,
    gathered: Gathered,
    /// What is matched and not yet handed to the publishing thread.
    next: Step,
    committed_at: Instant,
    assigned: BTreeSet<Partition>,
    summary: Summary,
}

/// What the step thread does after a message.
enum Then {
    Continue,
    End,
}

impl Steps {
    fn run(&mut self, messages: &Receiver<SourceMessage>) -> Result<(), ProcessorError> {
        loop {
            match self.receive(messages) {
                Ok(message) => {
                    if let Then::End = self.handle(message)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The source's thread died of a panic, which the panic hook reported.
                Err(RecvTimeoutError::Disconnected) => return self.drain(),
            }
            note(self.publisher.look()?);
            self.step_when_due()?;
        }
    }

    /// Waits for a message until something is due: a step, a commit, or a look at the step in flight.
    fn receive(
        &self,
        messages: &Receiver<SourceMessage>,
    ) -> Result<SourceMessage, RecvTimeoutError> {
        let step_due = self
            .gathered
            .since
            .map(|since| since + self.settings.linger);
        let commit_due =
            (!self.next.empty()).then(|| self.committed_at + self.settings.idle_commit_interval);
        let look_due = self
            .publisher
            .busy()
            .then(|| Instant::now() + LOOK_INTERVAL);
        match [step_due, commit_due, look_due].into_iter().flatten().min() {
            Some(due) => messages.recv_deadline(due),
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn handle(&mut self, message: SourceMessage) -> Result<Then, ProcessorError> {
        match message {
            SourceMessage::Batch(batch) => self.gather(batch),
            SourceMessage::Schema(_, schema) => {
                self.engine.register_schema(&schema)?;
            }
            SourceMessage::Assigned(partitions) => self.take(&partitions),
            SourceMessage::Revoked(partitions, _settled) => {
                self.drop_gathered(&partitions);
                self.submit()?;
                self.settle()?;
                self.give(&partitions);
            }
            SourceMessage::Lost(partitions, _settled) => {
                self.drop_gathered(&partitions);
                self.next
                    .positions
                    .retain(|partition, _| !partitions.contains(partition));
                self.settle()?;
                self.give(&partitions);
            }
            SourceMessage::Gap(gap) => self.state_gap(&gap),
            SourceMessage::Failed(error) => {
                self.drain()?;
                return Err(error.into());
            }
            SourceMessage::End => {
                self.drain()?;
                return Ok(Then::End);
            }
        }
        Ok(Then::Continue)
    }

    fn gather(&mut self, batch: Batch) {
        if let (Some(epoch), Some(group)) = (batch.epoch, &self.group) {
            // Read before a rebalance: the partition's next owner reads it again.
            if !group.assignments.takes(batch.partition, epoch) {
                return;
            }
            if let Some(last) = batch.records.last() {
                let position = Position {
                    epoch,
                    next: last.offset + 1,
                };
                self.gathered.positions.insert(batch.partition, position);
            }
        }
        if !batch.records.is_empty() {
            self.gathered.since.get_or_insert_with(Instant::now);
            self.gathered.records.extend(batch.records);
        }
    }

    fn step_when_due(&mut self) -> Result<(), ProcessorError> {
        let lingered = self
            .gathered
            .since
            .is_some_and(|since| since.elapsed() >= self.settings.linger);
        if lingered || self.gathered.records.len() >= self.settings.rows_max {
            self.step()?;
        }
        let commit_due = self.committed_at.elapsed() >= self.settings.idle_commit_interval;
        if !self.next.silent() || (commit_due && !self.next.empty()) {
            self.submit()?;
        }
        Ok(())
    }

    /// Matches what is gathered; the step in flight commits meanwhile.
    fn step(&mut self) -> Result<(), ProcessorError> {
        let gathered = mem::take(&mut self.gathered);
        if gathered.records.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let count = gathered.records.len();
        self.summary.bytes += gathered
            .records
            .iter()
            .map(|record| record.value.len() as u64)
            .sum::<u64>();
        self.find_schemas(&gathered.records)?;
        let output = self.engine.step(gathered.records)?;
        metrics::matched(count, started.elapsed());
        self.next.positions.extend(gathered.positions);
        self.take_output(output);
        Ok(())
    }

    /// Makes the schemas of all records known before the first is matched, so their order stays.
    fn find_schemas(&mut self, records: &[InputRecord]) -> Result<(), ProcessorError> {
        let Some(lookup) = &mut self.lookup else {
            return Ok(());
        };
        let unknown: BTreeSet<Fingerprint> = records
            .iter()
            .filter_map(|record| self.engine.unknown_schema(record))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<Fingerprint> = unknown.into_iter().collect();
        let mut unusable = Vec::new();
        for (fingerprint, schema) in lookup.find(&unknown)? {
            match self.engine.register_schema(schema) {
                Ok(_) => tracing::info!(%fingerprint, "schema of a newer or older sensor found"),
                Err(error) => {
                    tracing::error!(%fingerprint, %error, "schema cannot be read as an event, its records become dead letters");
                    unusable.push(fingerprint);
                }
            }
        }
        unusable
            .into_iter()
            .for_each(|fingerprint| lookup.discard(fingerprint));
        Ok(())
    }

    fn take_output(&mut self, output: StepOutput) {
        let unknown = |(fingerprint, record): (Fingerprint, InputRecord)| DeadLetter {
            record,
            error: RejectError::Undecodable(DecodeError::UnknownSchema(fingerprint)),
        };
        self.next.alerts.extend(output.alerts);
        self.next.dead_letters.extend(output.dead_letters);
        self.next
            .dead_letters
            .extend(output.unknown_schemas.into_iter().map(unknown));
        if let Some(first) = output.failures.first() {
            tracing::error!(
                failures = output.failures.len(),
                detection = first.detection_id,
                partition = first.partition,
                offset = first.offset,
                error = first.error,
                "detections could not judge events"
            );
            metrics::failed(&output.failures);
        }
        metrics::counted(&output.counts);
        self.summary.steps += 1;
        self.summary.records += output.counts.records;
        self.summary.repeated += output.counts.repeated;
        self.summary.missing += output.counts.missing;
    }

    /// Hands what is matched to the publishing thread, when the step before it is committed.
    fn submit(&mut self) -> Result<(), ProcessorError> {
        if self.next.empty() {
            return Ok(());
        }
        let step = mem::take(&mut self.next);
        if let Some(lookup) = &self.lookup {
            lookup.tend();
        }
        self.summary.alerts += step.alerts.len() as u64;
        for (class, count) in step.dead_letters_by_class() {
            *self.summary.dead_letters.entry(class).or_default() += count;
        }
        self.committed_at = Instant::now();
        let outcome = self.publisher.submit(step)?;
        note(outcome);
        Ok(())
    }

    /// Waits for the step in flight.
    fn settle(&mut self) -> Result<(), ProcessorError> {
        note(self.publisher.settle()?);
        Ok(())
    }

    /// Matches, publishes and commits all that was read.
    fn drain(&mut self) -> Result<(), ProcessorError> {
        self.step()?;
        self.submit()?;
        self.settle()
    }

    fn take(&mut self, partitions: &[Partition]) {
        self.assigned.extend(partitions);
        metrics::partitions(self.assigned.len());
        tracing::info!(partitions = ?numbers(partitions), "partitions assigned");
    }

    fn give(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.engine.forget_partition(partition.1);
        }
        metrics::partitions(self.assigned.len());
        tracing::info!(partitions = ?numbers(partitions), "partitions given back");
    }

    fn drop_gathered(&mut self, partitions: &[Partition]) {
        let stays = |record: &InputRecord| !partitions.contains(&(record.topic, record.partition));
        self.gathered.records.retain(stays);
        self.gathered
            .positions
            .retain(|partition, _| !partitions.contains(partition));
    }

    fn state_gap(&mut self, gap: &Gap) {
        let (topic, partition) = gap.partition;
        tracing::error!(
            topic = topic.suffix(),
            partition,
            from = gap.from,
            to = gap.to,
            "input is gone before it was read: it expired or the topic was made anew; reading goes on with the first record there is"
        );
        metrics::gap(gap);
        self.summary.expired += u64::try_from(gap.to - gap.from).unwrap_or(0);
    }
}

fn note(outcome: Option<Outcome>) {
    if outcome == Some(Outcome::Superseded) {
        metrics::superseded();
        tracing::warn!(
            "step dropped: its partitions went to another processor, which reads the same input"
        );
    }
}

fn numbers(partitions: &[Partition]) -> Vec<i32> {
    let mut numbers: Vec<i32> = partitions.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    numbers
}
