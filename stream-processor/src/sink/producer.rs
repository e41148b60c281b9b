//! One Kafka producer: hands records over, and knows what became of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::outgoing::Outgoing;
use crate::kafka;

/// A producer whose own thread serves delivery reports.
pub type RecordProducer = ThreadedProducer<Deliveries>;

/// Keeps the first failed delivery since it was last asked.
#[derive(Debug, Default)]
pub struct Deliveries(Mutex<Option<KafkaError>>);

impl Deliveries {
    /// Takes the first failure since the last call.
    pub fn take_failure(&self) -> Option<KafkaError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        kafka::log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| error.clone());
        }
    }
}

/// Makes a producer.
///
/// # Errors
/// librdkafka's when it refuses a setting.
pub fn create(settings: &ClientConfig) -> KafkaResult<RecordProducer> {
    settings.create_with_context(Deliveries::default())
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
    producer.context().take_failure();
    for record in records {
        let mut message = message(record);
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

fn message(record: &Outgoing) -> BaseRecord<'_, [u8], [u8]> {
    let message = BaseRecord::to(&record.topic)
        .payload(record.value.as_slice())
        .key(record.key.as_slice());
    match &record.headers {
        Some(headers) => message.headers(headers.clone()),
        None => message,
    }
}
