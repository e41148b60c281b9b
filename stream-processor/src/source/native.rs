//! Reads messages in bulk: librdkafka's batch call, which rdkafka does not wrap.
//!
//! A poll for each message costs three times as much of this thread as the batch call (480 against 154 ns).
//! The batch call must not be made on the consumer's own queue, where it would swallow rebalances.
//! So the partitions' queues are forwarded to one queue of ours, and the consumer's own is still polled for events.
//! All `unsafe` code of the sources is here.

use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;

/// The queue that the messages of all assigned partitions are forwarded to.
/// It must be dropped before its consumer.
#[derive(Debug)]
pub struct MessageQueue(*mut native::rd_kafka_queue_t);

// SAFETY: librdkafka's queues are made to be used from several threads.
unsafe impl Send for MessageQueue {}
// SAFETY: as above.
unsafe impl Sync for MessageQueue {}

impl MessageQueue {
    /// Makes the queue.
    pub fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client lives; the queue is ours and freed on drop.
        Self(unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) })
    }

    /// Has a partition's messages come here: those that wait in its own queue, then all later ones.
    ///
    /// It holds also for a fetch that has not begun; the end of a fetch undoes it, and happens later than the call that
    /// causes it. Between the two, messages wait in the partition's queue: nothing is lost when this is called again.
    pub fn forward<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        partition: i32,
    ) {
        let topic = CString::new(topic).expect("names of topics hold no NUL, they are checked");
        // SAFETY: client, name and our queue live through the calls; the partition's queue is ours until destroyed below.
        unsafe {
            let queue = native::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
            );
            if !queue.is_null() {
                native::rd_kafka_queue_forward(queue, self.0);
                native::rd_kafka_queue_destroy(queue);
            }
        }
    }

    /// Waits for a first message and takes what else is there already, up to `count_max`.
    pub fn read(&self, wait: Duration, count_max: usize) -> Messages {
        let mut messages = Messages(Vec::with_capacity(count_max.max(1)));
        // The call waits until it has as many as were asked for: only the first is waited for.
        self.fill(&mut messages, wait, 1);
        if !messages.0.is_empty() {
            self.fill(&mut messages, Duration::ZERO, count_max.saturating_sub(1));
        }
        messages
    }

    fn fill(&self, messages: &mut Messages, wait: Duration, count: usize) {
        let filled = messages.0.len();
        messages.0.reserve(count);
        // SAFETY: there is room for `count` pointers past the filled ones; the call says how many it wrote, each to a
        // message that is ours until destroyed. It returns -1 on an error, of which there is none for a live queue.
        unsafe {
            let read = native::rd_kafka_consume_batch_queue(
                self.0,
                i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
                messages.0.as_mut_ptr().add(filled).cast(),
                count,
            );
            messages
                .0
                .set_len(filled + usize::try_from(read).unwrap_or(0));
        }
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        // SAFETY: made in `new`, not used after this.
        unsafe { native::rd_kafka_queue_destroy(self.0) }
    }
}

/// Messages that were read together; freed on drop.
#[derive(Debug)]
pub struct Messages(Vec<Message>);

impl Messages {
    /// Returns them in the order they came.
    pub fn as_slice(&self) -> &[Message] {
        &self.0
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        for message in &self.0 {
            // SAFETY: each came from librdkafka once and is not used after this: what it lends is bound to `self`.
            unsafe { native::rd_kafka_message_destroy(message.0) }
        }
    }
}

/// A message, or an error that came in the place of one.
#[derive(Debug)]
#[repr(transparent)]
pub struct Message(*mut native::rd_kafka_message_t);

impl Message {
    fn raw(&self) -> &native::rd_kafka_message_t {
        // SAFETY: a live message: it is lent by the `Messages` that destroy it, and nobody writes to it.
        unsafe { &*self.0 }
    }

    /// Says what came instead of a message.
    pub fn error(&self) -> Option<KafkaError> {
        let code = self.raw().err;
        let is_error = code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        is_error.then(|| KafkaError::MessageConsumption(code.into()))
    }

    /// Says whether both are of one partition.
    pub fn is_neighbour_of(&self, other: &Self) -> bool {
        let (one, other) = (self.raw(), other.raw());
        one.partition == other.partition && one.rkt == other.rkt
    }

    /// Name of the topic; none when it is no UTF-8.
    pub fn topic(&self) -> Option<&str> {
        // SAFETY: a message holds on to its topic, whose name is a C string that lives as long.
        unsafe {
            let topic = self.raw().rkt;
            (!topic.is_null())
                .then(|| CStr::from_ptr(native::rd_kafka_topic_name(topic)))?
                .to_str()
                .ok()
        }
    }

    /// Number of the partition.
    pub fn partition(&self) -> i32 {
        self.raw().partition
    }

    /// Offset in the partition.
    pub fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// The key; empty where there is none.
    pub fn key(&self) -> &[u8] {
        let raw = self.raw();
        // SAFETY: pointer and length are of one buffer that the message holds on to.
        unsafe { bytes(raw.key, raw.key_len) }
    }

    /// The payload; empty where there is none.
    pub fn payload(&self) -> &[u8] {
        let raw = self.raw();
        // SAFETY: as in `key`.
        unsafe { bytes(raw.payload, raw.len) }
    }

    /// The broker's time of the record, nanoseconds since 1970; none for records written before the topic stamped it.
    pub fn append_time_ns(&self) -> Option<i64> {
        use native::rd_kafka_timestamp_type_t as Kind;
        let mut kind = Kind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: a live message, and a place for the kind.
        let ms = unsafe { native::rd_kafka_message_timestamp(self.0, &mut kind) };
        match kind {
            Kind::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => ms.checked_mul(1_000_000),
            _ => None,
        }
    }
}

/// # Safety
/// `length` bytes are readable at `start`, for as long as the caller's borrow, unless it is null.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast(), length) }
}
