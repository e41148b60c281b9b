//! Reads the input topics as a member of the consumer group, in a thread of its own.
//!
//! Rebalances are synchronous: the callback runs in this thread, inside the poll, and returns only
//! when the step thread has settled what it read of the partitions that go away. The assignor is
//! `range`, which gives equal partition numbers of all topics to one member, where all members read them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use dogwatch_kafka::{Fault, Lifeline, Recurring};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::assignments::Assignments;
use super::native::{Message, MessageQueue};
use super::placement::{Start, place, skip_gaps};
use super::{
    Assigned, BATCH_BYTES, BATCH_ROWS_MAX, Batch, Gap, Settled, SourceError, SourceMessage,
};
use crate::checkpoint::Head;
use crate::config::{Config, Stage};
use crate::decode::InputRecord;
use crate::kafka;
use crate::metrics;
use crate::shutdown::Shutdown;
use crate::step::{Partition, Position};

mod stateless;

/// How long one read waits for a first record; also how soon a rebalance or a shutdown is seen.
const READ: Duration = Duration::from_millis(20);

/// How often the partitions' queues are forwarded anew: see [`MessageQueue::forward`] for what may undo it.
const FORWARD_INTERVAL: Duration = Duration::from_millis(500);

/// Repeats of one error of the client are logged at most this often.
const ERROR_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The group's consumer, shared by the poll thread and the publishing thread.
pub struct GroupInput {
    /// The client.
    pub consumer: BaseConsumer<GroupContext>,
    /// What it owns.
    pub assignments: Arc<Assignments>,
    /// The topics' names.
    pub names: Topics,
    /// Set when the step thread is done, also where it failed: the poll thread ends, the consumer may leave the group.
    pub finished: Arc<AtomicBool>,
}

/// Sees rebalances, statistics and errors of the group's consumer.
pub struct GroupContext {
    assignments: Arc<Assignments>,
    names: Topics,
    sender: Sender<SourceMessage>,
    shutdown: Shutdown,
    /// Where the partitions' messages go while the poll thread reads.
    queue: Mutex<Option<Arc<MessageQueue>>>,
    /// Offset of the record to be read next in each partition. The client's own position does not say it: it is none
    /// after an assignment, and counts the message that says that a partition was read to its end.
    next: Mutex<BTreeMap<Partition, i64>>,
    finished: Arc<AtomicBool>,
    lifeline: Lifeline,
    stage: Stage,
    /// The topics that are read.
    inputs: Mutex<Vec<Topic>>,
    /// Partitions of ours that are not read; see [`stateless`].
    stateless: Mutex<Vec<Partition>>,
    /// When they were complained of.
    told: Mutex<Recurring<Vec<Partition>>>,
}

impl GroupInput {
    /// Joins the group for some topics; reading begins with [`GroupInput::start`].
    ///
    /// # Errors
    /// [`SourceError`] when the client refuses its settings.
    pub fn join(
        config: &Config,
        inputs: Vec<Topic>,
        sender: Sender<SourceMessage>,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, SourceError> {
        let names = Topics::new(config.kafka.topic_prefix.as_str());
        let assignments = Arc::new(Assignments::default());
        let finished = Arc::new(AtomicBool::new(false));
        let context = GroupContext {
            assignments: assignments.clone(),
            names: names.clone(),
            sender,
            shutdown,
            queue: Mutex::default(),
            next: Mutex::default(),
            finished: finished.clone(),
            lifeline: Lifeline::default(),
            stage: config.stage,
            inputs: Mutex::new(inputs),
            stateless: Mutex::default(),
            told: Mutex::default(),
        };
        let action = format!("join group {}", config.kafka.group_id);
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let settings = kafka::consumer(config);
        let consumer: BaseConsumer<GroupContext> =
            settings.create_with_context(context).map_err(fault)?;
        let lifeline = &consumer.context().lifeline;
        lifeline.tie(consumer.client(), &settings);
        consumer.context().subscribe(&consumer).map_err(fault)?;
        Ok(Arc::new(Self {
            consumer,
            assignments,
            names,
            finished,
        }))
    }

    /// Reads these topics from now on. Where they are others than before, the group is joined anew: all partitions are given
    /// back and taken over again.
    ///
    /// # Errors
    /// [`Fault`] when the client refuses them.
    pub fn read_topics(&self, inputs: &[Topic]) -> Result<(), Fault> {
        let context = self.consumer.context();
        {
            let mut own = context
                .inputs
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *own == inputs {
                return Ok(());
            }
            *own = inputs.to_vec();
        }
        tracing::info!(
            topics = context.names_of_inputs().join(", "),
            "other topics are read"
        );
        let subscribed = context.subscribe(&self.consumer);
        subscribed.map_err(|error| Fault::of("read other topics", &error))
    }

    /// Starts the poll thread.
    ///
    /// # Errors
    /// [`SourceError::Thread`] when the system has none.
    pub fn start(self: &Arc<Self>, config: &Config) -> Result<JoinHandle<()>, SourceError> {
        let (input, kafka) = (self.clone(), config.kafka.clone());
        let poll = move || {
            let context = input.consumer.context().clone();
            let failed = match input.poll_until_shutdown(&context) {
                Ok(()) => SourceMessage::End,
                Err(PollEnd::StepThreadGone) => return,
                Err(PollEnd::Refused(error)) => SourceMessage::Failed(explain(&error, &kafka)),
            };
            if context.sender.send(failed).is_err() {
                return;
            }
            // The step thread still commits what it has: the group must not hear of a leave before.
            while !input.finished.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        std::thread::Builder::new()
            .name("poll".to_owned())
            .spawn(poll)
            .map_err(SourceError::Thread)
    }

    /// Returns positions as the client takes them, each with where its task's memory is.
    ///
    /// # Errors
    /// librdkafka's when it refuses one.
    pub fn offsets(
        &self,
        positions: &BTreeMap<Partition, Position>,
        heads: &BTreeMap<Partition, Head>,
    ) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), position) in positions {
            let name = self.names.name(*topic);
            list.add_partition_offset(&name, *partition, Offset::Offset(position.next))?;
            if let (Some(head), Some(mut element)) = (
                heads.get(&(*topic, *partition)),
                list.find_partition(&name, *partition),
            ) {
                element.set_metadata(head.to_metadata());
            }
        }
        Ok(list)
    }

    /// Commits positions outside of a transaction.
    ///
    /// # Errors
    /// The coordinator's.
    pub fn commit(
        &self,
        positions: &BTreeMap<Partition, Position>,
        heads: &BTreeMap<Partition, Head>,
    ) -> KafkaResult<()> {
        self.consumer
            .commit(&self.offsets(positions, heads)?, CommitMode::Sync)
    }

    /// Lets records of partitions come that were held back while their memory was read, from where reading stands.
    ///
    /// A pause keeps the client's own position, which is wrong after an error message of the partition: librdkafka (2.12
    /// at least) takes it for a record, and begins at "stored" (-1001 + 1), where nothing is, for good.
    pub fn resume(&self, partitions: &[Partition]) {
        let held = list(&self.names, partitions);
        // Sought while it is paused: a record that came in between would be read twice.
        let resumed = self
            .consumer
            .context()
            .set_next(&held)
            .and_then(|()| self.consumer.seek_partitions(held.clone(), Duration::ZERO))
            .and_then(|_| self.consumer.resume(&held));
        // One that was taken away meanwhile is resumed when it comes back.
        if let Err(error) = resumed {
            tracing::debug!(%error, "could not resume partitions");
        }
    }

    /// Waits whether the group says that another processor took this one's name over; it answers each heartbeat.
    pub fn replaced(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if self.consumer.client().fatal_error().is_some() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn poll_until_shutdown(&self, context: &GroupContext) -> Result<(), PollEnd> {
        let queue = Arc::new(MessageQueue::new(&self.consumer));
        let _open = context.open(&queue);
        let mut errors = ErrorLog::default();
        let mut forwarded_at = Instant::now();
        let mut looked_at = Instant::now();
        while !context.shutdown.triggered() && !self.finished.load(Ordering::Acquire) {
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Err(error)) => self.handle(error, context, &mut errors)?,
                // Forwarded before its first fetch, a partition never delivers here; its order would be lost.
                Some(Ok(_)) => return Err(PollEnd::Refused(KafkaError::Canceled)),
            }
            if forwarded_at.elapsed() >= FORWARD_INTERVAL {
                context.forward(&self.consumer, &self.assignments.partitions());
                forwarded_at = Instant::now();
            }
            if looked_at.elapsed() >= stateless::INTERVAL {
                looked_at = Instant::now();
                self.look_for_state(context).map_err(PollEnd::Refused)?;
            }
            self.read(&queue, context, &mut errors)?;
        }
        Ok(())
    }

    /// Reads what is there and hands it on, a batch for each run of one partition.
    fn read(
        &self,
        queue: &MessageQueue,
        context: &GroupContext,
        errors: &mut ErrorLog,
    ) -> Result<(), PollEnd> {
        let messages = queue.read(READ, BATCH_ROWS_MAX);
        for run in messages.as_slice().chunk_by(|one, next| {
            one.error().is_none() && next.error().is_none() && one.is_neighbour_of(next)
        }) {
            match run[0].error() {
                Some(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) =>
                {
                    let topic = run[0].topic().and_then(|name| self.names.topic(name));
                    self.assignments.reach_end(topic, run[0].partition());
                }
                Some(error) => self.handle(error, context, errors)?,
                None => self.hand_on(run, context)?,
            }
        }
        Ok(())
    }

    fn hand_on(&self, run: &[Message], context: &GroupContext) -> Result<(), PollEnd> {
        let Some(topic) = run[0].topic().and_then(|name| self.names.topic(name)) else {
            return Ok(());
        };
        let partition = (topic, run[0].partition());
        // What a closed assignment still delivers is read again by the next owner.
        let Some(epoch) = self.assignments.read(partition) else {
            return Ok(());
        };
        context.read_up_to(partition, run[run.len() - 1].offset() + 1);
        let mut rest = run;
        while !rest.is_empty() {
            let (of_batch, later) = rest.split_at(count_of_batch(rest));
            rest = later;
            context
                .sender
                .send(SourceMessage::Batch(batch(partition, epoch, of_batch)))
                .map_err(|_| PollEnd::StepThreadGone)?;
        }
        Ok(())
    }

    fn handle(
        &self,
        error: KafkaError,
        context: &GroupContext,
        errors: &mut ErrorLog,
    ) -> Result<(), PollEnd> {
        use RDKafkaErrorCode as Code;
        if let KafkaError::PartitionEOF(number) = error {
            self.assignments.reach_end(None, number);
            return Ok(());
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset) => {
                self.start_over_the_gap(context).map_err(PollEnd::Refused)
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(PollEnd::Refused(error))
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::FencedInstanceId,
            ) => Err(PollEnd::Refused(error)),
            _ => {
                errors.log(&error);
                Ok(())
            }
        }
    }

    /// Begins again where reading stopped because the input expired under it.
    fn start_over_the_gap(&self, context: &GroupContext) -> KafkaResult<()> {
        let mut list = self.consumer.assignment()?;
        context.set_next(&list)?;
        for (name, number, from, to) in skip_gaps(&self.consumer, &mut list, &|| context.ends())? {
            context.state_gap(&name, number, from, to);
            if let Some(topic) = self.names.topic(&name) {
                context.read_up_to((topic, number), to);
            }
        }
        self.consumer.assign(&list)
    }
}

/// Why the poll loop ended before a shutdown.
enum PollEnd {
    StepThreadGone,
    Refused(KafkaError),
}

fn explain(error: &KafkaError, kafka: &crate::config::RawKafka) -> SourceError {
    match (error.rdkafka_error_code(), &kafka.instance) {
        (Some(RDKafkaErrorCode::FencedInstanceId), Some(instance)) => SourceError::InstanceTaken {
            group: kafka.group_id.clone(),
            instance: instance.clone(),
        },
        _ => Fault::of(&format!("read as group {}", kafka.group_id), error).into(),
    }
}

/// Copies messages of one partition into a batch: all keys and values into one buffer.
fn batch(partition: Partition, epoch: u64, messages: &[Message]) -> Batch {
    let sizes = messages
        .iter()
        .map(|message| message.key().len() + message.payload().len());
    let mut buffer = Vec::with_capacity(sizes.sum());
    let mut places = Vec::with_capacity(messages.len());
    let mut key = 0..0;
    for message in messages {
        // Neighbours are often of one host: they share the key.
        if buffer[key.clone()] != *message.key() {
            key = append(&mut buffer, message.key());
        }
        places.push((key.clone(), append(&mut buffer, message.payload())));
    }
    let buffer = Bytes::from(buffer);
    let record = |(message, (key, value)): (&Message, (Range<usize>, Range<usize>))| InputRecord {
        topic: partition.0,
        partition: partition.1,
        offset: message.offset(),
        ingest_ts_ns: message.append_time_ns(),
        key: buffer.slice(key),
        value: buffer.slice(value),
    };
    metrics::read(messages.len(), buffer.len());
    Batch {
        partition,
        epoch: Some(epoch),
        records: messages.iter().zip(places).map(record).collect(),
    }
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    start..buffer.len()
}

/// How many of the messages, at least one, make a batch of at most [`BATCH_BYTES`].
fn count_of_batch(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&Message| {
        bytes += message.payload().len();
        bytes <= BATCH_BYTES
    };
    messages.iter().take_while(fits).count().max(1)
}

/// Closes the context's queue on drop, so that no partition holds on to it longer than the consumer lives.
struct Open<'a>(&'a GroupContext);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set_queue(None);
    }
}

impl GroupContext {
    fn names_of_inputs(&self) -> Vec<String> {
        let inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        inputs.iter().map(|topic| self.names.name(*topic)).collect()
    }

    fn subscribe(&self, consumer: &BaseConsumer<Self>) -> KafkaResult<()> {
        let inputs = self.names_of_inputs();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        consumer.subscribe(&inputs)
    }

    /// Has the partitions that are assigned from now on deliver to `queue`, until the returned value is dropped.
    fn open(&self, queue: &Arc<MessageQueue>) -> Open<'_> {
        self.set_queue(Some(queue.clone()));
        Open(self)
    }

    fn set_queue(&self, queue: Option<Arc<MessageQueue>>) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }

    fn forward(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            for (topic, partition) in partitions {
                queue.forward(consumer, &self.names.name(*topic), *partition);
            }
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, wanted: &mut TopicPartitionList) {
        let wanted = &mut self.with_state(consumer, wanted);
        let placed = match place(consumer, &self.names, wanted, &|| self.ends()) {
            Ok(placed) => placed,
            // The end comes next, and nothing of these was read.
            Err(_) if self.ends() => {
                self.report("leave the assigned partitions", consumer.unassign());
                return;
            }
            Err(error) => {
                let fault = Fault::of("learn where to begin in the assigned partitions", &error);
                self.tell(SourceMessage::Failed(fault.into()));
                return;
            }
        };
        let assigned = self.take_over(placed);
        let (waiting, reading) = split(&assigned);
        self.forward(
            consumer,
            &assigned
                .iter()
                .map(|assigned| assigned.partition)
                .collect::<Vec<_>>(),
        );
        let taken = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(wanted),
            _ => consumer.assign(wanted),
        };
        self.report("take the assigned partitions", taken);
        // While the step thread reads what they remembered, polling goes on, so the group does not think us dead;
        // and a pause outlives an assignment.
        let held = consumer
            .pause(&list(&self.names, &waiting))
            .and_then(|()| consumer.resume(&list(&self.names, &reading)));
        self.report("hold the assigned partitions back", held);
        // Only now: what is resumed before it is paused would stay paused for good.
        self.tell(SourceMessage::Assigned(assigned));
    }

    /// Makes partitions ours, and states what is missing in them.
    fn take_over(&self, starts: Vec<(Partition, Start)>) -> Vec<Assigned> {
        let partitions: Vec<Partition> = starts.iter().map(|(partition, _)| *partition).collect();
        self.assignments.assign(&partitions);
        let mut assigned = Vec::new();
        for (partition, start) in starts {
            if let Some(from) = start.missed_from {
                self.state_gap(&self.names.name(partition.0), partition.1, from, start.at);
            }
            self.read_up_to(partition, start.at);
            let epoch = self.assignments.epoch(partition);
            assigned.extend(epoch.map(|epoch| Assigned {
                partition,
                epoch,
                start,
            }));
        }
        assigned
    }

    /// Says whether nothing that is read now is of use any more. A consumer that is being closed still calls back.
    fn ends(&self) -> bool {
        self.shutdown.triggered() || self.finished.load(Ordering::Acquire)
    }

    fn read_up_to(&self, partition: Partition, next: i64) {
        let mut all = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(partition, next);
    }

    /// Sets the offsets of a list to the records to be read next, where these are known.
    fn set_next(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        let all = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        for element in &mut list.elements() {
            let topic = self.names.topic(element.topic());
            if let Some(next) = topic.and_then(|topic| all.get(&(topic, element.partition()))) {
                element.set_offset(Offset::Offset(*next))?;
            }
        }
        Ok(())
    }

    fn state_gap(&self, name: &str, number: i32, from: i64, to: i64) {
        if let Some(topic) = self.names.topic(name) {
            let partition = (topic, number);
            self.tell(SourceMessage::Gap(Gap {
                partition,
                from,
                to,
            }));
        }
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions = self.partitions(list);
        let (settled, wait) = bounded(0);
        if consumer.assignment_lost() {
            self.assignments.release(&partitions);
            self.tell(SourceMessage::Lost(partitions, Settled(settled)));
        } else {
            self.assignments.leave(&partitions);
            self.tell(SourceMessage::Revoked(partitions, Settled(settled)));
        }
        // Nothing is ever sent: the step thread drops its side, also when it ends.
        let _ = wait.recv();
        self.assignments.release(&self.partitions(list));
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        self.report("give partitions back", unassigned);
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        let ours = |(name, partition): (String, i32)| Some((self.names.topic(&name)?, partition));
        list.to_topic_map().into_keys().filter_map(ours).collect()
    }

    /// A step thread that is gone needs to know nothing.
    fn tell(&self, message: SourceMessage) {
        let _ = self.sender.send(message);
    }

    fn report(&self, action: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            self.tell(SourceMessage::Failed(Fault::of(action, &error).into()));
        }
    }
}

fn list(names: &Topics, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(&names.name(*topic), *partition);
    }
    list
}

/// The partitions that are held back until the step thread has taken them over, and those that are not: all or none. While it
/// reads what some remember it takes records of none, and what came of the others would fill the way to it until polling stood
/// still.
fn split(assigned: &[Assigned]) -> (Vec<Partition>, Vec<Partition>) {
    let all = assigned.iter().map(|assigned| assigned.partition).collect();
    match are_held(assigned) {
        true => (all, Vec::new()),
        false => (Vec::new(), all),
    }
}

/// Whether partitions that were assigned together are held back until [`GroupInput::resume`].
pub fn are_held(assigned: &[Assigned]) -> bool {
    assigned.iter().any(|assigned| assigned.start.restores())
}

impl ClientContext for GroupContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        dogwatch_kafka::log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        dogwatch_kafka::log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.lifeline.look(&statistics);
        for (name, topic) in &statistics.topics {
            let Some(topic_of_ours) = self.names.topic(name) else {
                continue;
            };
            for (partition, state) in &topic.partitions {
                if self
                    .assignments
                    .epoch((topic_of_ours, *partition))
                    .is_some()
                    && state.consumer_lag >= 0
                {
                    metrics::lag(name, *partition, state.consumer_lag);
                }
            }
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        }
    }
}

/// Logs an error when it is new or was silent for a while.
#[derive(Default)]
struct ErrorLog {
    last: Option<(KafkaError, Instant)>,
}

impl ErrorLog {
    fn log(&mut self, error: &KafkaError) {
        let repeated =
            |(last, at): &(KafkaError, Instant)| last == error && at.elapsed() < ERROR_LOG_INTERVAL;
        if !self.last.as_ref().is_some_and(repeated) {
            tracing::warn!(%error, "the brokers do not answer as they should, reading goes on");
            self.last = Some((error.clone(), Instant::now()));
        }
    }
}
