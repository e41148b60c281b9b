//! Exactly once: alerts, state, dead letters, late rows and input offsets in one Kafka transaction.
//!
//! ```text
//! begin ─► records ─► group metadata ─► every epoch stands? ─► send offsets ─► commit
//!             └ a task's first checkpoint: wait for its place, which goes into the offsets' metadata
//! ```
//!
//! The order is the fence. The metadata is read first and the epochs are checked after it: if a
//! partition went away before the metadata was read, its epoch no longer stands; if it goes away
//! later, the metadata's generation is outdated and the broker refuses the offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch_kafka::{Fault, PATIENCE};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer;

use super::native::{self, GroupMetadata, NativeError};
use super::offsets::{OffsetSender, Stuck};
use super::producer::{self, RecordProducer};
use super::{Attempt, SinkError, Work};
use crate::checkpoint::Head;
use crate::config::{Config, Fault as TestFault, FaultPoint};
use crate::kafka;
use crate::step::Partition;

/// How long the start waits for the transaction coordinator: a broker that just started makes its topic first.
const INIT_PATIENCE: Duration = Duration::from_secs(60);

/// How long one call that opens transactions may take.
const INIT_CALL: Duration = Duration::from_secs(5);

/// A transactional producer.
pub struct Transactions {
    producer: Arc<RecordProducer>,
    offsets: OffsetSender,
    id: String,
    timeout: Duration,
    fault: Option<TestFault>,
}

/// Names the transactions of this process: stable where the configuration names the instance, random otherwise.
pub fn transactional_id(config: &Config) -> String {
    match &config.kafka.instance {
        Some(instance) => format!("{}-{instance}", config.kafka.group_id),
        None => format!("{}-{:016x}", config.kafka.group_id, rand::random::<u64>()),
    }
}

impl Transactions {
    /// Makes the producer and fences any other with the same transactional id.
    /// Must come before the group is joined: what an earlier run left open is aborted here,
    /// and its offsets would hold the assignment up.
    ///
    /// # Errors
    /// [`SinkError`] when the brokers refuse it.
    pub fn open(config: &Config, id: String, batch_bytes: usize) -> Result<Self, SinkError> {
        let producer = Arc::new(open_producer(config, &id, batch_bytes, INIT_PATIENCE)?);
        Ok(Self {
            offsets: OffsetSender::start(producer.clone()).map_err(SinkError::Thread)?,
            producer,
            id,
            timeout: config.kafka.transaction_timeout,
            fault: config.fault.clone(),
        })
    }

    /// The producer.
    pub fn producer(&self) -> &RecordProducer {
        &self.producer
    }

    /// Publishes a step once; on failure the transaction is aborted.
    pub fn attempt(&mut self, work: &Work<'_>) -> Attempt {
        match self.transact(work) {
            Ok(heads) => {
                let places = work.places(|number| self.producer.context().offset(number));
                Attempt::Committed(heads, places)
            }
            Err(failure) => self.abort_after(failure),
        }
    }

    fn transact(&self, work: &Work<'_>) -> Result<BTreeMap<Partition, Head>, Failure> {
        native::begin_transaction(&self.producer)?;
        producer::send_all(&self.producer, &work.encoded.records, self.timeout)?;
        let mut heads = BTreeMap::new();
        if let Some(input) = work.input.filter(|_| !work.step.positions.is_empty()) {
            heads = self.heads(work)?;
            let metadata = GroupMetadata::of(&input.consumer).ok_or(Failure::NotAMember)?;
            if !input.assignments.stands(&work.step.positions) {
                return Err(Failure::Moved);
            }
            let offsets = input.offsets(&work.step.positions, &heads)?;
            self.offsets.send(offsets, metadata, self.timeout)??;
        }
        self.fail_if_asked(work);
        self.commit()?;
        Ok(heads)
    }

    /// Commits. A call that timed out is still open in the client, where only the same call may follow it: so it is made
    /// again for as long as the broker lets a transaction be open, counted from the first answer and not from a begin that
    /// may lie before a standstill.
    fn commit(&self) -> Result<(), Failure> {
        let commit = || native::commit_transaction(&self.producer, self.timeout);
        match commit() {
            Err(error) if error.resumable() => {}
            result => return Ok(result?),
        }
        match repeat(Instant::now() + self.timeout, commit) {
            Err(error) if error.resumable() => Err(Failure::Stuck),
            result => Ok(result?),
        }
    }

    /// What the offsets say of the tasks' memory. Only a task's first checkpoint has to be delivered before.
    fn heads(&self, work: &Work<'_>) -> Result<BTreeMap<Partition, Head>, Failure> {
        let in_time = !work.waits_for_places() || native::flush(&self.producer, self.timeout);
        let heads = work.heads_placed(|number| self.producer.context().offset(number));
        heads.ok_or_else(|| match self.producer.context().take_failure() {
            Some(error) => Failure::Kafka(error),
            None => Failure::NotDelivered { in_time },
        })
    }

    fn fail_if_asked(&self, work: &Work<'_>) {
        let Some(fault) = &self.fault else {
            return;
        };
        let checkpoint = !work.step.checkpoints.is_empty();
        if fault.strikes(FaultPoint::AfterSendOffsets)
            || checkpoint && fault.strikes(FaultPoint::BeforeCommitCheckpoint)
        {
            tracing::error!("dying as DOGWATCH_FAULT asks");
            std::process::abort();
        }
        if fault.strikes(FaultPoint::StopInTransaction) {
            tracing::error!("stopping as DOGWATCH_FAULT asks");
            native::stop_this_process();
        }
    }

    fn abort_after(&self, failure: Failure) -> Attempt {
        match &failure {
            Failure::Native(error) if error.fatal => return Attempt::Stop(self.explain(error)),
            // Not even an abort is possible while another call is open.
            Failure::Stuck => return Attempt::Stop(self.stuck()),
            _ => {}
        }
        let deadline = Instant::now() + self.timeout;
        match repeat(deadline, || {
            native::abort_transaction(&self.producer, self.timeout)
        }) {
            Err(error) if error.fatal => return Attempt::Stop(self.explain(&error)),
            // Nothing was begun, or it is aborted already: the next begin tells.
            Err(error) => tracing::warn!(%error, "could not abort the transaction"),
            Ok(()) => {}
        }
        match failure {
            Failure::Moved => Attempt::Superseded,
            Failure::Stuck => Attempt::Stop(self.stuck()),
            Failure::NotAMember => Attempt::NotAMember("not a member of the group".to_owned()),
            Failure::NotDelivered { in_time } => {
                let why = if in_time {
                    "its place is not known"
                } else {
                    "not confirmed in time"
                };
                self.retry(None, format!("a checkpoint was not delivered: {why}"))
            }
            Failure::Native(error) if not_a_member(error.code) => Attempt::NotAMember(error.reason),
            Failure::Native(error) => self.retry(Some(error.code), error.reason),
            Failure::Kafka(error) => self.retry(error.rdkafka_error_code(), error.to_string()),
        }
    }

    fn retry(&self, code: Option<RDKafkaErrorCode>, reason: String) -> Attempt {
        if code == Some(RDKafkaErrorCode::UnknownPartition) {
            // Partitions were added since this client looked; what it learns here it knows in the next attempt.
            let _ = self.producer.client().fetch_metadata(None, self.timeout);
        }
        let fault = Fault::new("commit a transaction", code, reason);
        // Rights do not come back by asking again.
        match fault {
            Fault::Unauthorised { .. } => Attempt::Stop(fault.into()),
            _ => Attempt::Retry(fault.into()),
        }
    }

    fn stuck(&self) -> SinkError {
        SinkError::Stuck {
            id: self.id.clone(),
            timeout: self.timeout,
        }
    }

    fn explain(&self, error: &NativeError) -> SinkError {
        use RDKafkaErrorCode as Code;
        match error.code {
            Code::Fenced
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::InvalidTransactionalState => SinkError::Fenced {
                id: self.id.clone(),
                timeout: self.timeout,
                reason: error.reason.clone(),
            },
            code => Fault::new("commit a transaction", Some(code), error.reason.clone()).into(),
        }
    }
}

/// Makes a producer whose transactions are open; waits for the brokers' coordinator for at most `patience`.
fn open_producer(
    config: &Config,
    id: &str,
    batch_bytes: usize,
    patience: Duration,
) -> Result<RecordProducer, Fault> {
    let mut settings = kafka::producer(config, batch_bytes);
    let timeout = config.kafka.transaction_timeout.as_millis();
    settings
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout.to_string());
    let action = format!("open transactions as {id}");
    let producer = producer::create(&settings).map_err(|error| Fault::of(&action, &error))?;
    let deadline = Instant::now() + patience;
    let missing = |waited| Fault::NoCoordinator {
        action: action.clone(),
        waited,
    };
    let opened = repeat(deadline, || {
        let result = native::init_transactions(&producer, INIT_CALL);
        if result.as_ref().is_err_and(NativeError::resumable) {
            tracing::warn!("{}; trying on", missing(INIT_CALL));
        }
        result
    });
    match opened {
        Ok(()) => Ok(producer),
        Err(error) if error.resumable() => Err(missing(patience)),
        Err(error) => Err(Fault::new(&action, Some(error.code), error.reason)),
    }
}

/// Opens a transaction under a name of its own and aborts it: nothing is written, and no processor is fenced.
///
/// # Errors
/// [`Fault`] when the brokers do not let this program, or cannot.
pub fn try_transaction(config: &Config) -> Result<(), Fault> {
    let id = format!(
        "{}-check-{:016x}",
        config.kafka.group_id,
        rand::random::<u64>()
    );
    let producer = open_producer(config, &id, usize::MAX, PATIENCE)?;
    let failed = |error: NativeError| {
        Fault::new(
            &format!("use transactions as {id}"),
            Some(error.code),
            error.reason,
        )
    };
    native::begin_transaction(&producer).map_err(failed)?;
    native::abort_transaction(&producer, PATIENCE).map_err(failed)
}

/// Why a transaction was not committed.
enum Failure {
    /// A partition of the step is no longer ours.
    Moved,
    /// The group does not know us now.
    NotAMember,
    /// A checkpoint's first record has no offset.
    NotDelivered {
        in_time: bool,
    },
    /// The client does not come back from a call.
    Stuck,
    Native(NativeError),
    Kafka(KafkaError),
}

impl From<Stuck> for Failure {
    fn from(_: Stuck) -> Self {
        Self::Stuck
    }
}

impl From<NativeError> for Failure {
    fn from(error: NativeError) -> Self {
        Self::Native(error)
    }
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

/// Says whether the group coordinator did not take us for a member of the present generation.
pub fn not_a_member(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::FencedInstanceId
            | Code::RebalanceInProgress
    )
}

/// Makes a call again while librdkafka says that this may help, until `deadline`.
pub(super) fn repeat(
    deadline: Instant,
    call: impl Fn() -> Result<(), NativeError>,
) -> Result<(), NativeError> {
    loop {
        match call() {
            Err(error) if error.resumable() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
