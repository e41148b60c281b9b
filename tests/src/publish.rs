//! Writes chosen bytes to a topic, as a sensor or a stranger would.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dogwatch_kafka::{Lifeline, STATISTICS_INTERVAL_MS, ServedProducer};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;

/// A producer that knows how many of its records the broker has acknowledged.
pub struct Publisher {
    producer: ServedProducer<Deliveries>,
    sent: AtomicUsize,
}

impl Publisher {
    /// Connects as sensors do: idempotent, acknowledged by all, keys hashed as Java clients do, batches of 20 ms.
    ///
    /// # Panics
    /// When the client cannot be made.
    pub fn new(address: &str) -> Publisher {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", address)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            // Tests stop brokers, and this client must come back as ours do.
            .set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        let producer: ServedProducer<Deliveries> = settings
            .create_with_context(Deliveries::default())
            .expect("a producer can be made");
        let lifeline = &producer.context().lifeline;
        lifeline.tie(producer.client(), &settings);
        Publisher {
            producer,
            sent: AtomicUsize::new(0),
        }
    }

    /// Hands over one record; waits while the queue is full.
    ///
    /// # Panics
    /// When the client refuses it for another reason.
    pub fn send(&self, topic: &str, key: &str, value: &[u8]) {
        self.hand_over(|| BaseRecord::to(topic).key(key).payload(value));
    }

    /// As [`Publisher::send`], to a partition of the test's choice.
    ///
    /// # Panics
    /// As [`Publisher::send`].
    pub fn send_to(&self, topic: &str, partition: i32, key: &str, value: &[u8]) {
        self.hand_over(|| {
            BaseRecord::to(topic)
                .partition(partition)
                .key(key)
                .payload(value)
        });
    }

    fn hand_over<'a>(&self, record: impl Fn() -> BaseRecord<'a, str, [u8]>) {
        loop {
            match self.producer.send(record()) {
                Ok(()) => break,
                Err((
                    KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    _,
                )) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("could not publish: {error}"),
            }
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the broker has everything.
    ///
    /// # Panics
    /// When a record was refused or is not acknowledged in time.
    pub fn flush(&self) {
        self.flush_within(Duration::from_secs(30));
    }

    /// As [`Publisher::flush`], with a patience that outlasts what the test does to the broker.
    ///
    /// # Panics
    /// As [`Publisher::flush`].
    pub fn flush_within(&self, patience: Duration) {
        self.producer
            .flush(patience)
            .expect("the broker takes what was published");
        let deliveries = self.producer.context();
        let refused = deliveries
            .refused
            .lock()
            .expect("no delivery callback panics");
        assert!(
            refused.is_empty(),
            "the broker refused records: {refused:?}"
        );
        let acknowledged = deliveries.acknowledged.load(Ordering::Relaxed);
        assert_eq!(
            acknowledged,
            self.sent.load(Ordering::Relaxed),
            "records the broker has acknowledged"
        );
    }
}

#[derive(Default)]
struct Deliveries {
    acknowledged: AtomicUsize,
    refused: Mutex<Vec<String>>,
    lifeline: Lifeline,
}

impl ClientContext for Deliveries {
    fn stats(&self, statistics: Statistics) {
        self.lifeline.look(&statistics);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => self
                .refused
                .lock()
                .expect("nobody panics with it")
                .push(error.to_string()),
        }
    }
}
