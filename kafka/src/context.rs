//! What clients say: logged, or kept as the cause of a failure. Statistics are looked at, never logged.

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::fault::LastError;
use crate::lifeline::Lifeline;

/// Logs what a client says of its connections; it tries again by itself.
pub fn log_error(error: &KafkaError, reason: &str) {
    // The end of a partition is no error, it only comes as one.
    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
        tracing::warn!(%error, reason, "Kafka client reports an error");
    }
}

/// Logs librdkafka's own lines where they disturb nobody: its errors come through [`log_error`] too.
pub fn log_line(facility: &str, line: &str) {
    tracing::debug!(target: "librdkafka", facility, "{line}");
}

/// Context of a client that only logs.
#[derive(Debug, Default)]
pub struct Logged(Lifeline);

impl Logged {
    /// Makes a consumer that reads without a group.
    ///
    /// # Errors
    /// librdkafka's when it refuses a setting.
    pub fn consumer(settings: &ClientConfig) -> KafkaResult<BaseConsumer<Self>> {
        let consumer: BaseConsumer<Self> = settings.create_with_context(Self::default())?;
        consumer.context().0.tie(consumer.client(), settings);
        Ok(consumer)
    }
}

impl ClientContext for Logged {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.look(&statistics);
    }
}

impl ConsumerContext for Logged {}

/// Context of a client whose last word is wanted, for [`Brokers::unanswered`](crate::Brokers::unanswered).
#[derive(Debug, Default)]
pub struct ErrorKeeper {
    last: LastError,
    lifeline: Lifeline,
}

impl ErrorKeeper {
    /// Makes a consumer that reads without a group.
    ///
    /// # Errors
    /// librdkafka's when it refuses a setting.
    pub fn consumer(settings: &ClientConfig) -> KafkaResult<BaseConsumer<Self>> {
        let consumer: BaseConsumer<Self> = settings.create_with_context(Self::default())?;
        let lifeline = &consumer.context().lifeline;
        lifeline.tie(consumer.client(), settings);
        Ok(consumer)
    }

    /// Returns the last thing the client said of its connections.
    pub fn last(&self) -> &LastError {
        &self.last
    }
}

impl ClientContext for ErrorKeeper {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
        self.last.note_line(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.last.note(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.lifeline.look(&statistics);
    }
}

impl ConsumerContext for ErrorKeeper {}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn a_client_without_brokers_gets_them_anew() {
        let cluster = MockCluster::new(1).unwrap();
        // Without servers it is as one that let go of them.
        let mut settings = ClientConfig::new();
        settings
            .set("group.id", "lifeline")
            .set("statistics.interval.ms", "50");
        let consumer: BaseConsumer<Logged> =
            settings.create_with_context(Logged::default()).unwrap();
        let connected = || {
            let metadata = consumer.fetch_metadata(None, Duration::from_millis(500));
            metadata.is_ok()
        };
        assert!(consumer.poll(Duration::from_millis(200)).is_none());
        assert!(!connected());

        settings.set("bootstrap.servers", cluster.bootstrap_servers());
        consumer.context().0.tie(consumer.client(), &settings);
        let start = Instant::now();
        while !connected() {
            assert!(start.elapsed() < Duration::from_secs(30));
            consumer.poll(Duration::from_millis(100));
        }
    }
}
