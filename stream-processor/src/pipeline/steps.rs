//! The steps: what the step thread does with each message, and when.
//!
//! ```text
//! message ─► gather ─► take (engine, in chunks) ─► step (engine) ─► checkpoint, where one is due ─► submit
//! ```
//! A partition that comes is taken over with what its task remembered; one that goes is drained first.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, Sender, TryRecvError};
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::topics::Topic;

use super::failing::Failing;
use super::held::Held;
use super::sources::SourceWatch;
use super::swap::Swaps;
use super::waiting::Waiting;
use super::{ProcessorError, Stages, Stats, Summary};
use crate::budget;
use crate::checkpoint::{Head, Inputs, MemoryError, Progress, Restored, State};
use crate::config::{Config, Delivery, FaultPoint, Stage};
use crate::decode::{DeadLetter, InputRecord, RejectError};
use crate::engine::{Engine, StepOutput, now_ns};
use crate::hosts::Unseen;
use crate::idle::{self, Marks};
use crate::metrics;
use crate::restore::{self, Memories};
use crate::schema_lookup::SchemaLookup;
use crate::shutdown::Shutdown;
use crate::sink::{Outcome, SinkError};
use crate::source::group::{GroupInput, are_held};
use crate::source::{Assigned, Batch, Gap, SourceMessage};
use crate::step::{Memory, Partition, Step};
use crate::tasks::{Task, Tasks};

/// How many times as long records wait for others while a step is in flight: fewer, larger steps leave the processor's cores
/// to the commit, and what is gathered when that is done goes with the next.
const LINGER_WHILE_BUSY: u32 = 4;

/// Bytes of checkpoints after which a step takes no further one: alerts wait for what is written with them.
const CHECKPOINT_STEP_BYTES: u64 = 4 << 20;

/// How often producer and consumer are made anew without a step being committed; then the reason is another.
const START_OVERS_MAX: u32 = 3;

/// How often the size of the state is measured.
const SIZE_INTERVAL: Duration = Duration::from_secs(1);

/// What input and output are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Whether what tasks remember is stored.
    pub stores: bool,
    /// Whether the input has an end at which every window closes.
    pub bounded: bool,
}

/// Records of the next step.
#[derive(Default)]
struct Gathered {
    /// Those that the engine has not taken yet.
    records: Vec<InputRecord>,
    /// How many there are with those it has.
    count: usize,
    /// Bytes of all, of each task.
    bytes: BTreeMap<Partition, u64>,
    since: Option<Instant>,
    /// How long the engine took so far.
    matching: Duration,
}

/// The step thread's state.
pub(super) struct Steps {
    pub(super) engine: Engine,
    lookup: Option<SchemaLookup>,
    failing: Failing,
    /// Where silent partitions are marked.
    marks: Option<Marks>,
    pub(super) ends: Ends,
    pub(super) config: Config,
    pub(super) shutdown: Shutdown,
    gathered: Gathered,
    /// What is matched and not yet handed to the publishing thread.
    pub(super) next: Step,
    committed_at: Instant,
    /// How often producer and consumer were made anew since a step was committed.
    start_overs: u32,
    sized_at: Option<Instant>,
    pub(super) tasks: Tasks,
    /// Other detections than those that run.
    pub(super) swaps: Swaps,
    /// Partitions that windows of the whole fleet wait for.
    pub(super) sources: SourceWatch,
    /// Tasks that there is no memory for.
    pub(super) waiting: Waiting,
    /// Tasks that were given back a moment ago.
    pub(super) held: Held,
    /// Told when a detection of the whole fleet runs.
    pub(super) fleet_wanted: Option<Sender<()>>,
    /// What was done so far.
    pub summary: Summary,
    /// Where the summary is told while it grows.
    pub stats: Stats,
}

/// What the step thread does after a message.
enum Then {
    Continue,
    End,
}

impl Steps {
    /// No step yet.
    pub fn new(
        engine: Engine,
        lookup: Option<SchemaLookup>,
        marks: Option<Marks>,
        ends: Ends,
        config: &Config,
        shutdown: &Shutdown,
    ) -> Self {
        Self {
            engine,
            lookup,
            failing: Failing::default(),
            marks,
            ends,
            config: config.clone(),
            shutdown: shutdown.clone(),
            gathered: Gathered::default(),
            next: Step::default(),
            committed_at: Instant::now(),
            start_overs: 0,
            sized_at: None,
            tasks: Tasks::new(config.checkpoint.clone(), config.windows.host_silence),
            swaps: Swaps::default(),
            sources: SourceWatch::new(config),
            waiting: Waiting::new(config),
            held: Held::default(),
            fleet_wanted: None,
            summary: Summary::default(),
            stats: Stats::default(),
        }
    }

    /// Calls for what finishes windows of the whole fleet, where there are some, and has silent partitions marked for them.
    pub(super) fn call_for_fleet(&mut self) {
        let counted = self.engine.counted_topics();
        let wanted = self.fleet_wanted.as_ref().filter(|_| !counted.is_empty());
        self.tasks.mark_each_second(counted);
        if let Some(wanted) = wanted {
            // Told once, it stays.
            let _ = wanted.try_send(());
        }
    }

    /// Takes messages and steps until the source ends.
    pub fn run(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        let messages = stages.opened.messages.clone();
        loop {
            match self.receive(stages, &messages) {
                Ok(message) => {
                    if let Then::End = self.handle(message, stages)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The source's thread died of a panic, which the panic hook reported.
                Err(RecvTimeoutError::Disconnected) => return self.drain(stages),
            }
            self.note(stages.publisher.look()?);
            self.swap_when_due(stages)?;
            self.look_at_sources(stages);
            self.look_at_waiting(stages)?;
            self.step_when_due(stages)?;
        }
    }

    /// Waits for a message until something is due: a step, a commit, a checkpoint, a mark; or the step in flight is done.
    fn receive(
        &self,
        stages: &Stages,
        messages: &Receiver<SourceMessage>,
    ) -> Result<SourceMessage, RecvTimeoutError> {
        let busy = stages.publisher.busy();
        let step_due = self.step_due(busy);
        let commit_due = (!busy && !self.next.empty())
            .then(|| self.committed_at + self.config.step.idle_commit_interval);
        let may_store = self.ends.stores && self.next.checkpoints.is_empty();
        let checkpoint_due = self.tasks.next_checkpoint().filter(|_| may_store);
        let mark_due = self.tasks.next_mark().filter(|_| self.marks.is_some());
        let due = [step_due, commit_due, checkpoint_due, mark_due];
        let due = due
            .into_iter()
            .chain([self.swaps.due(), self.sources.due(), self.waiting.due()]);
        let mut ready = Select::new();
        ready.recv(messages);
        if let Some(changes) = self.swaps.changes() {
            ready.recv(changes);
        }
        if busy {
            ready.recv(stages.publisher.outcomes());
        }
        match due.flatten().min() {
            Some(due) => ready
                .ready_deadline(due)
                .map_err(|_| RecvTimeoutError::Timeout)?,
            None => ready.ready(),
        };
        messages.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    fn handle(
        &mut self,
        message: SourceMessage,
        stages: &mut Stages,
    ) -> Result<Then, ProcessorError> {
        match message {
            SourceMessage::Batch(batch) => self.gather(batch, stages)?,
            SourceMessage::Schema(_, schema) => {
                self.engine.register_schema(&schema)?;
            }
            SourceMessage::Assigned(assigned) => self.take_over(assigned, stages)?,
            SourceMessage::Revoked(partitions, _settled) => {
                self.drain(stages)?;
                self.give_and_hold(&partitions, stages);
            }
            SourceMessage::Lost(partitions, _settled) => {
                // Assignments are lost as a whole: what was read has no owner but the next one's reading.
                self.drop_input();
                self.settle(stages)?;
                self.give(&partitions, |_| false);
            }
            SourceMessage::Gap(gap) => self.meet_gap(&gap)?,
            SourceMessage::Failed(error) => {
                self.drain(stages)?;
                return Err(error.into());
            }
            SourceMessage::End => {
                self.drain(stages)?;
                if self.ends.bounded {
                    self.finish(stages)?;
                }
                return Ok(Then::End);
            }
        }
        Ok(Then::Continue)
    }

    /// Takes records for the next step; the engine takes them on as soon as there are as many as it likes at once.
    fn gather(&mut self, batch: Batch, stages: &Stages) -> Result<(), ProcessorError> {
        let now = Instant::now();
        let mut records = batch.records;
        if let (Some(epoch), Some(group)) = (batch.epoch, stages.group()) {
            // Read before a rebalance, or never taken over: the partition's next owner reads it again.
            let task = self
                .tasks
                .task(batch.partition)
                .filter(|task| task.epoch == epoch);
            let Some(task) = task.filter(|_| group.assignments.takes(batch.partition, epoch))
            else {
                return Ok(());
            };
            records = task.gather(records, idle::HOST_ID.as_bytes(), now);
        }
        if records.is_empty() {
            return Ok(());
        }
        let bytes: u64 = records.iter().map(|record| record.value.len() as u64).sum();
        self.summary.bytes += bytes;
        *self.gathered.bytes.entry(batch.partition).or_default() += bytes;
        self.gathered.count += records.len();
        self.gathered.since.get_or_insert(now);
        self.gathered.records.extend(records);
        if self.gathered.records.len() >= self.engine.chunk_rows() {
            self.take()?;
        }
        Ok(())
    }

    /// Has the engine take what it has not taken of what is gathered.
    fn take(&mut self) -> Result<(), ProcessorError> {
        let started = Instant::now();
        let next = Vec::with_capacity(self.gathered.records.len());
        let records = mem::replace(&mut self.gathered.records, next);
        self.find_schemas(&records)?;
        self.engine.take(records)?;
        self.gathered.matching += started.elapsed();
        Ok(())
    }

    fn step_when_due(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        let busy = stages.publisher.busy();
        let due = self.step_due(busy).is_some_and(|due| due <= Instant::now());
        if due || self.gathered.count >= self.config.step.rows_max {
            self.step()?;
        }
        let now = Instant::now();
        if self.next.checkpoints.is_empty() {
            self.checkpoint(self.tasks.checkpoints_due(now), CHECKPOINT_STEP_BYTES)?;
        }
        self.mark_silent(stages, now);
        let commit_due = self.committed_at.elapsed() >= self.config.step.idle_commit_interval;
        let ready = self.next.urgent() || (commit_due && !self.next.empty());
        let full = self.next.records >= self.config.step.rows_max;
        if ready && (full || !busy) {
            self.submit(stages)?;
        }
        Ok(())
    }

    /// When what is gathered is matched: later while a step is in flight, which nothing can overtake; at once where the next
    /// one goes now, since it would wait for that whole transaction.
    fn step_due(&self, busy: bool) -> Option<Instant> {
        let linger = self.config.step.linger;
        let wait = match busy {
            true => linger * LINGER_WHILE_BUSY,
            false if self.next.urgent() => Duration::ZERO,
            false => linger,
        };
        // What the engine took meanwhile is no waiting: with more records there, the step grows.
        Some(self.gathered.since? + self.gathered.matching + wait)
    }

    /// Matches what is gathered; the step in flight commits meanwhile.
    fn step(&mut self) -> Result<(), ProcessorError> {
        if self.gathered.count == 0 {
            return Ok(());
        }
        self.take()?;
        let gathered = mem::take(&mut self.gathered);
        let started = Instant::now();
        let output = self.engine.say(now_ns())?;
        metrics::matched(gathered.count, gathered.matching + started.elapsed());
        self.next.records += gathered.count;
        for (partition, bytes) in gathered.bytes {
            let Some(task) = self.tasks.task(partition) else {
                continue;
            };
            task.process(bytes);
            if task.live() {
                self.next.positions.insert(partition, task.position());
            }
        }
        let due = output.to_be_stored.iter().copied().collect();
        self.take_output(output);
        self.checkpoint(due, u64::MAX)
    }

    /// Adds what tasks remember to the next step, until it has `bytes_max` of it.
    fn checkpoint(&mut self, due: Vec<Partition>, bytes_max: u64) -> Result<(), ProcessorError> {
        if due.is_empty() {
            return Ok(());
        }
        // What the engine has taken is in its state.
        self.step()?;
        let mut bytes = 0;
        for partition in due.into_iter().filter(|_| self.ends.stores) {
            let Some(task) = self.tasks.task(partition) else {
                continue;
            };
            if bytes >= bytes_max {
                break;
            }
            let started = Instant::now();
            let renewal = task.progress.renewal();
            let records = self.engine.store_log(partition, &renewal)?;
            let inputs = Inputs::from([(partition.0, task.processed())]);
            let base = || format!("{:016x}", rand::random::<u64>());
            let taken = task.progress.take(records, inputs, base, Instant::now());
            metrics::checkpoint(&taken, started.elapsed());
            bytes += taken.manifest.bytes;
            self.next.positions.insert(partition, task.position());
            self.tasks.pass_over(partition, taken.manifest.bytes);
            let joined = match self.next.checkpoints.remove(&partition) {
                Some(earlier) => earlier.join(taken),
                None => taken,
            };
            self.next.checkpoints.insert(partition, joined);
        }
        Ok(())
    }

    /// Marks partitions that fell silent and whose windows wait for time to pass.
    fn mark_silent(&mut self, stages: &Stages, now: Instant) {
        let (Some(marks), Some(group)) = (&mut self.marks, stages.group()) else {
            return;
        };
        for partition in self.tasks.silent(now) {
            self.tasks.note_marked(partition, now);
            let needed = self.tasks.counts_seconds(partition.0)
                || self.engine.log_waits(partition)
                || self.engine.watches_hosts(partition);
            if !group.assignments.at_end(partition) || !needed {
                continue;
            }
            if let Err(error) = marks.write(partition) {
                tracing::warn!(%error, "could not mark a silent partition");
            }
        }
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
                    tracing::error!(%fingerprint, %error, "schema cannot be read as a row of a table, its records become dead letters");
                    unusable.push((fingerprint, in_full(&error)));
                }
            }
        }
        unusable
            .into_iter()
            .for_each(|(fingerprint, reason)| lookup.discard(fingerprint, reason));
        Ok(())
    }

    fn take_output(&mut self, output: StepOutput) {
        let unusable = self.lookup.as_ref().map(SchemaLookup::unusable);
        let unknown = |(fingerprint, record): (Fingerprint, InputRecord)| {
            let reason = unusable.and_then(|reasons| reasons.get(&fingerprint));
            let error = match reason {
                Some(reason) => DecodeError::UnusableSchema {
                    fingerprint,
                    reason: reason.clone(),
                },
                None => DecodeError::UnknownSchema(fingerprint),
            };
            DeadLetter {
                record,
                error: RejectError::Undecodable(error),
            }
        };
        let failures = output.failures.len() as u64;
        self.next.alerts.extend(output.alerts);
        self.next.late.extend(output.late);
        self.next.exchange.extend(output.exchange);
        self.next.dead_letters.extend(output.dead_letters);
        self.next
            .dead_letters
            .extend(output.unknown_schemas.into_iter().map(unknown));
        self.failing.tell(&output.failures);
        metrics::failed(&output.failures);
        metrics::counted(&output.counts);
        self.summary.steps += 1;
        self.summary.records += output.counts.records;
        self.summary.repeated += output.counts.repeated;
        self.summary.missing += output.counts.missing;
        self.summary.late += output.counts.late;
        self.summary.unjudged += failures;
        self.stats.set(&self.summary);
    }

    /// Hands what is matched to the publishing thread, when the step before it is committed.
    fn submit(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        if self.next.empty() {
            return Ok(());
        }
        let step = mem::take(&mut self.next);
        if let Some(lookup) = &self.lookup {
            lookup.tend();
        }
        self.measure();
        self.summary.alerts += step.alerts.len() as u64;
        for (class, count) in step.dead_letters_by_class() {
            *self.summary.dead_letters.entry(class).or_default() += count;
        }
        self.stats.set(&self.summary);
        self.committed_at = Instant::now();
        let outcome = stages.publisher.submit(step)?;
        self.note(outcome);
        Ok(())
    }

    /// Measures the state, now and then.
    fn measure(&mut self) {
        let recent = |at: &Instant| at.elapsed() < SIZE_INTERVAL;
        if !self.sized_at.as_ref().is_some_and(recent) {
            let size = self.engine.state_size();
            match self.config.stage {
                Stage::Host => metrics::state_size(&size),
                Stage::Fleet => metrics::fleet(&size, self.engine.fleet_delay(now_ns())),
            }
            self.sized_at = Some(Instant::now());
        }
    }

    /// Waits for the step in flight.
    fn settle(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        let outcome = stages.publisher.settle()?;
        self.note(outcome);
        Ok(())
    }

    /// Matches, publishes and commits all that was read and is remembered: the next owner then has nothing to replay.
    pub(super) fn drain(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        self.step()?;
        if !self.next.checkpoints.is_empty() {
            self.submit(stages)?;
        }
        self.checkpoint(self.tasks.behind(), u64::MAX)?;
        self.submit(stages)?;
        self.settle(stages)
    }

    /// Says what the windows hold that are still open at the end of a bounded input.
    fn finish(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        let output = self.engine.finish(now_ns())?;
        self.take_output(output);
        self.submit(stages)?;
        self.settle(stages)
    }

    /// Takes tasks over with what they remember, and lets their records come.
    fn take_over(
        &mut self,
        assigned: Vec<Assigned>,
        stages: &mut Stages,
    ) -> Result<(), ProcessorError> {
        let Some(group) = stages.group().cloned() else {
            return Ok(());
        };
        self.forget_held_but(&assigned);
        self.catch_up(&assigned, stages)?;
        if are_held(&assigned) {
            self.waiting.add(assigned);
            return self.begin_waiting(&group);
        }
        if self.begin_all(&assigned, &group)? {
            self.weigh();
        }
        Ok(())
    }

    /// Begins tasks with what they remember; says whether they were still ours then, and the end had not come.
    pub(super) fn begin_all(
        &mut self,
        assigned: &[Assigned],
        group: &GroupInput,
    ) -> Result<bool, ProcessorError> {
        let started = Instant::now();
        let Some(mut memories) = self.recall(assigned, group)? else {
            tracing::info!("partitions went away, or the end came, while their state was read");
            return Ok(false);
        };
        let count = assigned.len();
        let held = self.count_held(assigned);
        let mut records = 0;
        for (number, assigned) in assigned.iter().enumerate() {
            let memory = memories.remove(&assigned.partition);
            let taken_at = self.tasks.stagger(number, count, Instant::now());
            records += memory
                .as_ref()
                .and_then(|memory| memory.as_ref().ok())
                .map_or(0, |restored| restored.records);
            self.begin(assigned, memory, taken_at)?;
        }
        let partitions: Vec<Partition> =
            assigned.iter().map(|assigned| assigned.partition).collect();
        self.tell_partitions();
        metrics::restored(count, records, started.elapsed());
        tracing::info!(
            partitions = named(&partitions),
            records,
            held,
            took_seconds = started.elapsed().as_secs_f64(),
            "partitions assigned"
        );
        Ok(true)
    }

    /// Compares what the tasks may grow to with the memory that there is for them, and says so where it is more.
    pub(super) fn weigh(&self) {
        if self.config.stage != Stage::Host {
            return;
        }
        let Some(budget) = budget::bytes(self.config.windows.budget_bytes) else {
            return;
        };
        let tasks = self.tasks.numbers() as u64;
        let needed = self.engine.task_bound().of(tasks);
        metrics::budget(budget);
        if needed > budget {
            tracing::warn!(
                tasks,
                may_take_mib = needed.div_ceil(1 << 20),
                budget_mib = budget >> 20,
                state_bytes_max_that_fits = self.engine.state_bytes_within(tasks, budget),
                "the tasks may take more memory than there is for them: give this processor more of it, run more processors, or lower windows.state_bytes_max of all of them"
            );
        }
    }

    /// Reads what the tasks remember; nothing when they are not ours any more, or the end came.
    pub(super) fn recall(
        &self,
        assigned: &[Assigned],
        group: &GroupInput,
    ) -> Result<Option<Memories>, ProcessorError> {
        let head = |assigned: &Assigned| {
            let memory = assigned.start.memory.as_ref();
            let head = memory.ok().filter(|_| assigned.start.restores())?;
            if self.held.fits(assigned) {
                return None;
            }
            Some((assigned.partition, head.clone()))
        };
        let heads: BTreeMap<Partition, Head> = assigned.iter().filter_map(head).collect();
        let wanted = || {
            let ours =
                |assigned: &Assigned| group.assignments.takes(assigned.partition, assigned.epoch);
            assigned.iter().all(ours) && !self.shutdown.triggered()
        };
        if heads.is_empty() {
            return Ok(Some(Memories::new()));
        }
        let memories = restore::restore(&self.config, &heads, wanted)?;
        let fault = self.config.fault.as_ref();
        let strikes = |_| fault.is_some_and(|fault| fault.strikes(FaultPoint::DuringRestore));
        if heads.keys().any(strikes) {
            tracing::error!("dying as DOGWATCH_FAULT asks");
            std::process::abort();
        }
        Ok(memories)
    }

    /// Begins a task: with its memory, empty where there never was one, or empty with a complaint. A log that no detection reads
    /// any more has none: what comes of it until the group knows is passed over, and what is stored and committed stays.
    pub(super) fn begin(
        &mut self,
        assigned: &Assigned,
        memory: Option<Result<Restored, MemoryError>>,
        taken_at: Instant,
    ) -> Result<(), ProcessorError> {
        let (partition, start) = (assigned.partition, &assigned.start);
        if !self.engine.reads(partition) {
            return Ok(());
        }
        let now = Instant::now();
        let begun = match self.held.take(assigned) {
            Some((task, memory)) => Ok((
                task.of_epoch(assigned.epoch),
                memory.of_epoch(assigned.epoch),
            )),
            None => {
                self.engine.forget_log(partition);
                let memory = match (memory, &start.memory) {
                    (Some(memory), _) => memory.map(Some),
                    (None, Ok(_)) => Ok(None),
                    (None, Err(error)) => Err(error.clone()),
                };
                memory.and_then(|restored| self.resume(assigned, restored, taken_at, now))
            }
        };
        let (mut task, mut memory) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.begin_cold(assigned, &error)?;
                let unseen = match error {
                    MemoryError::OtherLog => Unseen::TopicMadeAnew,
                    _ => Unseen::ColdStart,
                };
                self.engine.miss(partition, unseen);
                let live_from = start.live_from;
                let progress = Progress::begin(0, taken_at);
                let task = Task::new(assigned.epoch, progress, live_from, live_from, now);
                let memory = Memory {
                    epoch: assigned.epoch,
                    head: Head::empty(Inputs::from([(partition.0, live_from)])),
                    places: BTreeMap::new(),
                };
                (task, memory)
            }
        };
        if let (Some(from), Ok(_)) = (start.missed_from, &start.memory) {
            self.engine
                .miss(partition, Unseen::Expired(start.at - from));
        }
        if self.config.delivery == Delivery::AtLeastOnce {
            // Nobody is fenced here: what this process writes must not mix with what a zombie may write.
            task.progress.begin_anew();
        }
        if let Some((before, now)) = start.repartitioned() {
            tracing::warn!(
                topic = partition.0.suffix(),
                partition = partition.1,
                before,
                now,
                "the topic has another number of partitions: hosts are read in other ones, and windows from before are not seen whole"
            );
            self.engine.miss(partition, Unseen::Repartitioned);
        }
        let ran = self.swaps.ran_from(&memory.head.ran, start.partitions);
        memory.head.ran.clone_from(&ran);
        task.progress.ran = ran;
        self.tasks.insert(partition, task);
        self.next.taken_over.insert(partition, memory);
        Ok(())
    }

    /// Hands the engine what a task remembered; nothing where it begins for the first time.
    fn resume(
        &mut self,
        assigned: &Assigned,
        restored: Option<Restored>,
        taken_at: Instant,
        now: Instant,
    ) -> Result<(Task, Memory), MemoryError> {
        let (partition, start) = (assigned.partition, &assigned.start);
        let begun = start.memory.clone()?;
        let (mut progress, mut head) = (Progress::begin(0, taken_at), begun);
        let (mut places, mut state) = (BTreeMap::new(), State::new());
        if let Some(restored) = restored {
            progress = Progress::resume(&restored, taken_at);
            head = restored.manifest.head(head.state);
            places.clone_from(&restored.places);
            state = restored.into_state();
        }
        let input = head.inputs.get(&partition.0).copied();
        let input = input.unwrap_or(start.live_from);
        // Where records come before the offsets, a checkpoint may be ahead of these: all it knows was said.
        let live_from = start.live_from.max(input);
        self.engine
            .restore_log(partition, state, live_from)
            .map_err(|error| MemoryError::Unreadable(error.to_string()))?;
        let task = Task::new(assigned.epoch, progress, input, live_from, now);
        let memory = Memory {
            epoch: assigned.epoch,
            head,
            places,
        };
        Ok((task, memory))
    }

    /// Says that a task begins without what it remembered.
    fn begin_cold(
        &mut self,
        assigned: &Assigned,
        error: &MemoryError,
    ) -> Result<(), ProcessorError> {
        let ((topic, partition), start) = (assigned.partition, &assigned.start);
        tracing::error!(
            topic = topic.suffix(),
            partition,
            from = start.live_from,
            reason = %error,
            "what this task remembered cannot be used: it begins empty at the committed offset; windows and repeats that began before it are not seen whole"
        );
        metrics::cold_start();
        let log = assigned.partition;
        self.engine.forget_log(log);
        self.engine
            .restore_log(log, State::new(), start.live_from)?;
        Ok(())
    }

    /// Tells how many partitions of events there are; those of samples and of the exchange are of no interest.
    fn tell_partitions(&self) {
        if self.config.stage == Stage::Host {
            metrics::partitions(self.tasks.count_of(Topic::Events));
        }
    }

    /// Gives tasks back; the engine goes on knowing what is held.
    pub(super) fn give(&mut self, partitions: &[Partition], is_held: impl Fn(Partition) -> bool) {
        self.waiting
            .retain(|waiting| !partitions.contains(&waiting.partition));
        self.waiting.given_back();
        for partition in partitions {
            drop(self.tasks.remove(*partition));
            if !is_held(*partition) {
                self.engine.forget_log(*partition);
            }
            self.next.taken_over.remove(partition);
        }
        self.tell_partitions();
        tracing::info!(partitions = named(partitions), "partitions given back");
    }

    /// Says whether the brokers gave this process up, nobody else took its place, and a new beginning may help.
    pub fn may_start_over(&self, stages: &Stages, error: &ProcessorError) -> bool {
        if !given_up(error) || self.start_overs >= START_OVERS_MAX || self.shutdown.triggered() {
            return false;
        }
        // A random name is nobody else's. Who took a given one over has fenced our membership too, which the
        // group says at the next heartbeat; two may be lost.
        let heartbeats = self.config.kafka.session_timeout * 3 / 5;
        let replaced = |group: &Arc<GroupInput>| group.replaced(heartbeats);
        self.config.kafka.instance.is_none() || !stages.group().is_some_and(replaced)
    }

    /// Forgets all tasks, and what was matched of them: they are taken over anew.
    pub fn forget(&mut self) {
        self.waiting.retain(|_| false);
        self.forget_held_but(&[]);
        for partition in self.tasks.clear() {
            self.engine.forget_log(partition);
        }
        self.drop_input();
        self.start_overs += 1;
    }

    /// Drops what was read and matched and is not with the publishing thread.
    fn drop_input(&mut self) {
        self.gathered = Gathered::default();
        self.engine.discard();
        self.next = Step::default();
    }

    /// Goes on behind a gap: what was not seen is a hole of all hosts; a topic that was made anew is begun without memory.
    fn meet_gap(&mut self, gap: &Gap) -> Result<(), ProcessorError> {
        self.state_gap(gap);
        if self.tasks.task(gap.partition).is_none() {
            // Of a task that is about to be taken over its start says so; one that waits has had its start before.
            self.waiting.note(gap);
            return Ok(());
        }
        self.go_on_behind(gap)
    }

    /// The same of a task that runs.
    pub(super) fn go_on_behind(&mut self, gap: &Gap) -> Result<(), ProcessorError> {
        self.step()?;
        let unseen = match gap.to < gap.from {
            true => Unseen::TopicMadeAnew,
            false => Unseen::Expired(gap.to - gap.from),
        };
        if unseen == Unseen::TopicMadeAnew {
            self.begin_other_log(gap)?;
        }
        self.engine.miss(gap.partition, unseen);
        Ok(())
    }

    /// Begins a task anew at the first record of a topic that was made anew while it was read.
    fn begin_other_log(&mut self, gap: &Gap) -> Result<(), ProcessorError> {
        let partition = gap.partition;
        let Some(before) = self.tasks.remove(partition) else {
            return Ok(());
        };
        let inputs = Inputs::from([(partition.0, gap.to)]);
        self.engine.restore_log(partition, State::new(), gap.to)?;
        let (epoch, mut progress) = (before.epoch, before.progress);
        progress.begin_anew();
        let head = Head {
            ran: progress.ran.clone(),
            ..Head::empty(inputs)
        };
        let task = Task::new(epoch, progress, gap.to, gap.to, Instant::now());
        self.next.checkpoints.remove(&partition);
        self.next.positions.insert(partition, task.position());
        self.tasks.insert(partition, task);
        let memory = Memory {
            epoch,
            head,
            places: BTreeMap::new(),
        };
        self.next.taken_over.insert(partition, memory);
        Ok(())
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
        let expired = u64::try_from(gap.to - gap.from).unwrap_or(0);
        metrics::gap(expired);
        self.summary.expired += expired;
    }

    fn note(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Committed) => self.start_overs = 0,
            Some(Outcome::Superseded) => {
                metrics::superseded();
                tracing::warn!(
                    "step dropped: its partitions went to another processor, which reads the same input"
                );
            }
            None => {}
        }
    }
}

/// Whether the brokers gave this process up: nothing of its last step was committed.
pub(super) fn given_up(error: &ProcessorError) -> bool {
    match error {
        ProcessorError::Sink(SinkError::Fenced { .. } | SinkError::Stuck { .. }) => true,
        ProcessorError::Sink(SinkError::Exhausted { last, .. }) => {
            matches!(**last, SinkError::NotAMember(_))
        }
        _ => false,
    }
}

/// The partitions' numbers as text, in order; those of samples by topic behind the others.
pub(super) fn named(partitions: &[Partition]) -> String {
    let mut by_topic: BTreeMap<Topic, BTreeSet<i32>> = BTreeMap::new();
    for (topic, number) in partitions {
        by_topic.entry(*topic).or_default().insert(*number);
    }
    let named = by_topic.into_iter().map(|(topic, numbers)| {
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        match topic {
            Topic::Events | Topic::Exchange => numbers.join(","),
            of_samples => format!("{}:{}", of_samples.suffix(), numbers.join(",")),
        }
    });
    named.collect::<Vec<_>>().join(" ")
}

/// An error with what it came of.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
