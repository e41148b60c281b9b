//! The calls of librdkafka that rdkafka's own wrappers make slow or do not make.
//!
//! rdkafka flushes before a commit by polling an empty queue in slices of 100 ms, while the delivery
//! reports go to the producer's own thread: 105 ms a transaction instead of 5. Called directly,
//! librdkafka flushes by itself and returns at once. And rdkafka hides generation and member of the group metadata.
//! All `unsafe` code of the sinks is here.

use std::ffi::CStr;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafka;

/// What a transactional call failed with.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct NativeError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words.
    pub reason: String,
    /// The producer is of no further use.
    pub fatal: bool,
    /// The transaction must be aborted.
    pub abort: bool,
    /// The same call may succeed when made again.
    pub retriable: bool,
}

impl NativeError {
    /// Says whether the same call is to be made again.
    pub fn resumable(&self) -> bool {
        self.retriable && !self.fatal
    }
}

/// Takes over an error object; null is success.
///
/// # Safety
/// `error` is null or an error that librdkafka just returned to us, not used afterwards.
unsafe fn check(error: *mut native::rd_kafka_error_t) -> Result<(), NativeError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a live error object (see above); its string lives until it is destroyed below.
    unsafe {
        let text = CStr::from_ptr(native::rd_kafka_error_string(error));
        let result = NativeError {
            code: native::rd_kafka_error_code(error).into(),
            reason: text.to_string_lossy().into_owned(),
            fatal: native::rd_kafka_error_is_fatal(error) != 0,
            abort: native::rd_kafka_error_txn_requires_abort(error) != 0,
            retriable: native::rd_kafka_error_is_retriable(error) != 0,
        };
        native::rd_kafka_error_destroy(error);
        Err(result)
    }
}

fn ms(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

fn pointer<C: ProducerContext>(producer: &BaseProducer<C>) -> *mut RDKafka {
    producer.client().native_ptr()
}

/// Aborts what an earlier producer of the same transactional id left open, and fences it.
///
/// # Errors
/// [`NativeError`]; retriable ones are to be called again.
pub fn init_transactions<C: ProducerContext>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), NativeError> {
    // SAFETY: the client outlives the call; the returned error is ours.
    unsafe {
        check(native::rd_kafka_init_transactions(
            pointer(producer),
            ms(timeout),
        ))
    }
}

/// Opens a transaction.
///
/// # Errors
/// [`NativeError`].
pub fn begin_transaction<C: ProducerContext>(
    producer: &BaseProducer<C>,
) -> Result<(), NativeError> {
    // SAFETY: the client outlives the call; the returned error is ours.
    unsafe { check(native::rd_kafka_begin_transaction(pointer(producer))) }
}

/// Adds input offsets to the open transaction, under the group's metadata.
///
/// # Errors
/// [`NativeError`]; retriable ones are to be called again.
pub fn send_offsets<C: ProducerContext>(
    producer: &BaseProducer<C>,
    offsets: &TopicPartitionList,
    metadata: &GroupMetadata,
    timeout: Duration,
) -> Result<(), NativeError> {
    // SAFETY: client, list and metadata outlive the call; the returned error is ours.
    unsafe {
        check(native::rd_kafka_send_offsets_to_transaction(
            pointer(producer),
            offsets.ptr(),
            metadata.0,
            ms(timeout),
        ))
    }
}

/// Waits for all records and commits the open transaction.
///
/// # Errors
/// [`NativeError`]; retriable ones are to be called again.
pub fn commit_transaction<C: ProducerContext>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), NativeError> {
    // SAFETY: the client outlives the call; its thread serves the event queue; the returned error is ours.
    unsafe {
        check(native::rd_kafka_commit_transaction(
            pointer(producer),
            ms(timeout),
        ))
    }
}

/// Drops what is not sent and aborts the open transaction.
///
/// # Errors
/// [`NativeError`]; retriable ones are to be called again.
pub fn abort_transaction<C: ProducerContext>(
    producer: &BaseProducer<C>,
    timeout: Duration,
) -> Result<(), NativeError> {
    // SAFETY: as in `commit_transaction`.
    unsafe {
        check(native::rd_kafka_abort_transaction(
            pointer(producer),
            ms(timeout),
        ))
    }
}

/// Waits until every record is delivered or has failed; says whether that was in time.
pub fn flush<C: ProducerContext>(producer: &BaseProducer<C>, timeout: Duration) -> bool {
    // SAFETY: the client outlives the call; its thread serves the event queue.
    let code = unsafe { native::rd_kafka_flush(pointer(producer), ms(timeout)) };
    code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Stops this process as SIGSTOP does, until somebody sends SIGCONT; for tests.
pub fn stop_this_process() {
    // SAFETY: raise takes an integer and touches no memory of ours.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// The group's member and generation at one moment.
pub struct GroupMetadata(*mut native::rd_kafka_consumer_group_metadata_t);

// SAFETY: a copy of plain values that belongs to whoever holds the pointer, and to no thread.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    /// Reads it; none when this consumer is not a member of a generation.
    pub fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client outlives the call; the object is ours and freed on drop.
        let metadata =
            unsafe { native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        if metadata.is_null() {
            return None;
        }
        let metadata = Self(metadata);
        // SAFETY: a live object; the member's name lives as long as it.
        let member = unsafe {
            let generation = native::rd_kafka_consumer_group_metadata_generation_id(metadata.0);
            let name = native::rd_kafka_consumer_group_metadata_member_id(metadata.0);
            generation >= 0 && !name.is_null() && *name != 0
        };
        member.then_some(metadata)
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: created by librdkafka, not used after this.
        unsafe { native::rd_kafka_consumer_group_metadata_destroy(self.0) }
    }
}
