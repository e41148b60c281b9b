//! Marks for silent partitions: where nobody writes, windows that wait for time to pass would wait for ever.
//!
//! Idleness is a record like any other, so that a restart, a replay and the oracle see it: the partition's owner
//! appends a `mark` row to it, under a host id of its own. It goes outside of the steps' transactions by a producer
//! of its own, because it is input, not output.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch_kafka::Fault;
use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topics;
use rdkafka::producer::Producer;

use crate::config::Config;
use crate::engine::now_ns;
use crate::kafka;
use crate::metrics;
use crate::sink::{Outgoing, RecordProducer, create_producer, send_all};
use crate::step::Partition;

/// Host id and key of the rows that a processor writes.
pub const HOST_ID: &str = crate::hosts::PROCESSOR;

/// How long a mark may wait for the broker; a later one says the same.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes marks; its client is made for the first one.
pub struct Marks {
    config: Config,
    names: Topics,
    producer: Option<RecordProducer>,
    /// The beginning of this process's runs: each partition has one of its own, so that nobody misses numbers in it.
    run: String,
    seqs: BTreeMap<Partition, i64>,
}

impl Marks {
    /// Takes the names of the topics.
    pub fn new(config: &Config, names: Topics) -> Self {
        Self {
            config: config.clone(),
            names,
            producer: None,
            run: format!("{:016x}", rand::random::<u64>()),
            seqs: BTreeMap::new(),
        }
    }

    /// Sends a mark to a partition and does not wait for it.
    ///
    /// # Errors
    /// [`Fault`] when the client refuses it. What became of the last one is logged.
    pub fn write(&mut self, partition: Partition) -> Result<(), Fault> {
        let topic = self.names.name(partition.0);
        let action = format!("write a mark to {topic}");
        let producer = match &mut self.producer {
            Some(producer) => producer,
            empty => {
                let mut settings = kafka::producer(&self.config, usize::MAX);
                let timeout = DELIVERY_TIMEOUT.as_millis().to_string();
                settings.set("delivery.timeout.ms", timeout);
                let made = create_producer(&settings);
                empty.insert(made.map_err(|error| Fault::of(&action, &error))?)
            }
        };
        if let Some(error) = producer.context().take_failure() {
            tracing::warn!(topic, %error, "a mark did not reach its partition");
        }
        let seq = self.seqs.entry(partition).or_default();
        let mut value = Vec::new();
        mark(&self.run, partition, *seq, now_ns()).encode_framed(&mut value);
        *seq += 1;
        let record = Outgoing {
            partition: Some(partition.1),
            ..Outgoing::new(&topic, HOST_ID.as_bytes(), value)
        };
        send_all(producer, &[record], DELIVERY_TIMEOUT)
            .map_err(|error| Fault::of(&action, &error))?;
        tracing::debug!(topic, partition = partition.1, "silent partition marked");
        metrics::marked();
        Ok(())
    }
}

fn mark(run: &str, partition: Partition, seq: i64, now_ns: i64) -> Event {
    Event {
        host_id: HOST_ID.into(),
        host_name: HOST_ID.into(),
        boot_id: run.into(),
        sensor_run: format!("{run}-{}", partition.1).into(),
        seq,
        ts: now_ns,
        boot_ts: now_ns,
        evt_type: "mark".into(),
        evt_category: "internal".into(),
        evt_outcome: "success".into(),
        evt_backend: "processor".into(),
        evt_abi: "native".into(),
        container_id: "host".into(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch_schemas::topics::Topic;

    #[test]
    fn marks_are_numbered_by_partition() {
        let first = mark("r", (Topic::Events, 1), 0, 7);
        let second = mark("r", (Topic::Events, 2), 0, 7);
        assert_eq!(
            (&*first.evt_type, &*first.host_id, first.ts),
            ("mark", HOST_ID, 7)
        );
        assert_ne!(first.sensor_run, second.sensor_run);
    }
}
