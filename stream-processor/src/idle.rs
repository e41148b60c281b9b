//! Marks for silent partitions: where nobody writes, windows that wait for time to pass would wait for ever.
//!
//! Idleness is a record like any other, so that a restart, a replay and the oracle see it: the partition's owner
//! appends a `mark` row to it, under a host id of its own. It goes outside of the steps' transactions by a producer
//! of its own, because it is input, not output.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch_kafka::Fault;
use dogwatch_schemas::Text;
use dogwatch_schemas::records::{ContainerSample, Event, IoSample, ProcessSample, SyscallSample};
use dogwatch_schemas::topics::Topics;
use rdkafka::producer::Producer;

use crate::config::Config;
use crate::engine::now_ns;
use crate::kafka;
use crate::metrics;
use crate::sink::{Outgoing, RecordProducer, create_producer, send_all};
use crate::step::Partition;
use crate::tables::Table;

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
        let value = mark(&self.run, partition, *seq, now_ns());
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

/// A mark as a record of its table.
fn mark(run: &str, (topic, number): Partition, seq: i64, now_ns: i64) -> Vec<u8> {
    let run_of_partition = Text::from(format!("{run}-{number}"));
    let mut value = Vec::new();
    // Each table's rows are of a type of their own, with these columns in common.
    macro_rules! mark {
        ($record:ident { $($more:ident: $of_table:expr),* }) => {
            $record {
                host_id: HOST_ID.into(),
                host_name: HOST_ID.into(),
                boot_id: run.into(),
                sensor_run: run_of_partition,
                seq,
                ts: now_ns,
                boot_ts: now_ns,
                evt_type: "mark".into(),
                container_id: "host".into(),
                $($more: $of_table.into(),)*
                ..$record::default()
            }
            .encode_framed(&mut value)
        };
    }
    match Table::of(topic) {
        Some(Table::ContainerSamples) => mark!(ContainerSample {}),
        Some(Table::ProcessSamples) => mark!(ProcessSample {}),
        Some(Table::SyscallSamples) => mark!(SyscallSample {}),
        Some(Table::IoSamples) => mark!(IoSample {}),
        Some(Table::Events) | None => mark!(Event {
            evt_category: "internal",
            evt_outcome: "success",
            evt_backend: "processor",
            evt_abi: "native"
        }),
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::AlertMode;
    use crate::decode::InputRecord;
    use crate::detect::DetectionSet;
    use crate::engine::Engine;

    #[test]
    fn a_mark_is_a_row_of_its_table_and_numbered_by_partition() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("impact")).unwrap();
        for table in Table::ALL {
            let table = table.name();
            let text = format!(
                "-- title = \"t\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n\
                 -- status = \"stable\"\n-- dedup = {{ key = [] }}\nSELECT host_id FROM {table}"
            );
            std::fs::write(folder.path().join(format!("impact/{table}.sql")), text).unwrap();
        }
        let set = DetectionSet::load(folder.path()).unwrap().set;
        assert_eq!(set.len(), Table::ALL.len());
        let mut engine = Engine::new(set, AlertMode::Test).unwrap();
        for table in Table::ALL {
            let record = |number: i32, offset: i64| InputRecord {
                topic: table.topic(),
                partition: number,
                offset,
                ingest_ts_ns: Some(7),
                key: HOST_ID.as_bytes().to_vec().into(),
                value: mark("r", (table.topic(), number), offset, 7).into(),
            };
            let records = vec![record(1, 0), record(1, 1), record(2, 0)];
            let output = engine.step(records).unwrap();
            assert_eq!(output.dead_letters, [], "{table:?}");
            assert_eq!((output.counts.marks, output.counts.missing), (3, 0));
        }
    }
}
