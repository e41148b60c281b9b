//! What a consumer group has committed, read as any tool would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

/// A committed offset.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Offset of the next record.
    pub offset: i64,
    /// Its metadata: where the task's memory is. Null where there is none.
    pub checkpoint: Value,
    /// Offset of the partition's end.
    pub end: i64,
}

/// Reads what a group has committed for the partitions of a topic; those with nothing are left out.
///
/// # Panics
/// When the broker does not answer, or metadata is no JSON.
pub fn committed(address: &str, group: &str, topic: &str) -> BTreeMap<i32, Committed> {
    let patience = Duration::from_secs(10);
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", group)
        .create()
        .expect("a client can be made");
    let metadata = client
        .fetch_metadata(Some(topic), patience)
        .expect("the broker answers");
    let mut list = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        list.add_partition(topic, partition.id());
    }
    // Brokers that were just started agree on the coordinator while they are asked.
    let deadline = Instant::now() + patience;
    let list = loop {
        match client.committed_offsets(list.clone(), patience) {
            Err(error)
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotCoordinator)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer => break answer.expect("the coordinator answers"),
        }
    };
    let committed = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let Offset::Offset(offset) = element.offset() else {
            return None;
        };
        let bounds = client.fetch_watermarks(topic, element.partition(), patience);
        let checkpoint = match element.metadata() {
            "" => Value::Null,
            text => serde_json::from_str(text).expect("metadata is JSON"),
        };
        let found = Committed {
            offset,
            checkpoint,
            end: bounds.expect("the broker answers").1,
        };
        Some((element.partition(), found))
    };
    list.elements().iter().filter_map(committed).collect()
}
