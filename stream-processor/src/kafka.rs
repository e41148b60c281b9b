//! Settings of this program's clients.
//!
//! ```text
//! Config ──► Brokers (dogwatch-kafka) ──► consumer of the group / producers ──► librdkafka
//! ```

use dogwatch_kafka::Fault;
use rdkafka::config::ClientConfig;

use crate::config::Config;

/// Largest message a producer hands over, in bytes; the topics' own limits are checked before.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Says what librdkafka has against the pass-through options, if anything.
///
/// # Errors
/// [`Fault::Options`], naming the option.
pub fn check_options(config: &Config) -> Result<(), Fault> {
    consumer(config)
        .create_native_config()
        .map(drop)
        .map_err(|error| Fault::of("make a Kafka client", &error))
}

/// Settings of the group's consumer.
///
/// `isolation.level=read_committed` matters even where the input is not transactional: only then
/// does a new owner of a partition wait for offsets that a transaction still holds.
pub fn consumer(config: &Config) -> ClientConfig {
    let kafka = &config.kafka;
    let brokers = kafka.brokers();
    let mut client = brokers.settings();
    client
        .set("group.id", &kafka.group_id)
        .set("partition.assignment.strategy", "range")
        .set(
            "session.timeout.ms",
            kafka.session_timeout.as_millis().to_string(),
        )
        .set(
            "heartbeat.interval.ms",
            (kafka.session_timeout.as_millis() / 5).to_string(),
        )
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // Says when a partition was read to its end, whatever lies there.
        .set("enable.partition.eof", "true");
    // A fetch that meets a full queue waits this long; the default is a second.
    brokers.default(&mut client, "fetch.queue.backoff.ms", "10");
    brokers.default(&mut client, "queued.max.messages.kbytes", "65536");
    // A few milliseconds' worth of a fleet's events: else each batch that any sensor appends is a fetch of its own.
    brokers.default(&mut client, "fetch.min.bytes", "65536");
    brokers.default(&mut client, "fetch.wait.max.ms", "10");
    // Partitions that are added are seen, and missing ones named, within so long; the default is five minutes.
    brokers.default(&mut client, "topic.metadata.refresh.interval.ms", "10000");
    if let Some(instance) = &kafka.instance {
        client.set("group.instance.id", instance);
    }
    client
}

/// Settings of a producer whose batches no topic with a limit of `batch_bytes` refuses.
pub fn producer(config: &Config, batch_bytes: usize) -> ClientConfig {
    let brokers = config.kafka.brokers();
    let mut client = brokers.settings();
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
        .set("batch.size", batch_bytes.min(1_000_000).to_string());
    brokers.default(&mut client, "linger.ms", "0");
    // Checkpoints are large and compress well; lz4 costs an alert next to nothing.
    if !brokers.options.contains_key("compression.codec") {
        brokers.default(&mut client, "compression.type", "lz4");
    }
    // What is deleted while it runs is not made anew with settings of the brokers' own.
    client.set("allow.auto.create.topics", "false");
    // A step that follows at once meets the markers of the last transaction: ask again soon.
    brokers.default(&mut client, "retry.backoff.ms", "5");
    client
}
