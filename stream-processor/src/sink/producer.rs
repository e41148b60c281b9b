//! One Kafka producer: hands records over, and knows what became of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch_kafka::{Lifeline, ServedProducer};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::statistics::Statistics;

use super::outgoing::Outgoing;

/// A producer whose own thread serves delivery reports.
pub type RecordProducer = ServedProducer<Deliveries>;

/// What became of the records handed over since [`send_all`] was last called.
#[derive(Debug, Default)]
pub struct Deliveries {
    delivered: Mutex<Delivered>,
    lifeline: Lifeline,
}

#[derive(Debug, Default)]
struct Delivered {
    /// The first failed delivery.
    failure: Option<KafkaError>,
    /// Offsets of the records whose place matters, by their number among those handed over.
    offsets: BTreeMap<usize, i64>,
}

/// Goes with a record: zero, or one more than its number when its place matters.
type Mark = usize;

impl Deliveries {
    /// Takes the first failure since the last call.
    pub fn take_failure(&self) -> Option<KafkaError> {
        self.lock().failure.take()
    }

    /// Returns the offset of a delivered record whose place matters.
    pub fn offset(&self, number: usize) -> Option<i64> {
        self.lock().offsets.get(&number).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        dogwatch_kafka::log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        dogwatch_kafka::log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.lifeline.look(&statistics);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Mark;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: Mark) {
        match result {
            Ok(message) => {
                if let Some(number) = mark.checked_sub(1) {
                    self.lock().offsets.insert(number, message.offset());
                }
            }
            Err((error, _)) => {
                self.lock().failure.get_or_insert_with(|| error.clone());
            }
        }
    }
}

/// Makes a producer.
///
/// # Errors
/// librdkafka's when it refuses a setting.
pub fn create(settings: &ClientConfig) -> KafkaResult<RecordProducer> {
    let producer: RecordProducer = settings.create_with_context(Deliveries::default())?;
    let lifeline = &producer.context().lifeline;
    lifeline.tie(producer.client(), settings);
    Ok(producer)
}

/// Hands all records over; waits for room in the producer's queue until `timeout`.
///
/// # Errors
/// librdkafka's when it refuses one.
pub fn send_all(
    producer: &RecordProducer,
    records: &[Outgoing],
    timeout: Duration,
) -> KafkaResult<()> {
    let deadline = Instant::now() + timeout;
    *producer.context().lock() = Delivered::default();
    for (number, record) in records.iter().enumerate() {
        let mut message = message(record, if record.placed { number + 1 } else { 0 });
        while let Err((error, refused)) = producer.send(message) {
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
            message = refused;
        }
    }
    Ok(())
}

fn message(record: &Outgoing, mark: Mark) -> BaseRecord<'_, [u8], [u8], Mark> {
    let mut message = BaseRecord::with_opaque_to(&record.topic, mark).key(record.key.as_slice());
    if let Some(value) = &record.value {
        message = message.payload(value.as_slice());
    }
    if let Some(partition) = record.partition {
        message = message.partition(partition);
    }
    match &record.headers {
        Some(headers) => message.headers(headers.clone()),
        None => message,
    }
}
