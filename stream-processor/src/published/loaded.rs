//! What the partitions of a group were last run with: it stands with their committed offsets. Those of events tell it of all
//! tables: who reads a partition runs the whole set.

use dogwatch_kafka::{Fault, Logged, PATIENCE};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::checkpoint::{Head, Ran};
use crate::config::Config;

/// What a partition was run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    /// The partition.
    pub partition: i32,
    /// The offset that is committed; none where nobody has read it.
    pub offset: Option<i64>,
    /// With what; none where only versions of before have read it.
    pub ran: Option<Ran>,
}

/// Asks what partitions are run with; joins no group.
pub struct Loaded {
    consumer: BaseConsumer<Logged>,
    topic: String,
}

impl Loaded {
    /// Makes the client.
    ///
    /// # Errors
    /// [`Fault`] when librdkafka refuses a setting.
    pub fn open(config: &Config) -> Result<Self, Fault> {
        let topic = Topics::new(config.kafka.topic_prefix.as_str()).name(Topic::Events);
        let mut settings = config.kafka.brokers().settings();
        settings.set("group.id", &config.kafka.group_id);
        let consumer = Logged::consumer(&settings)
            .map_err(|error| Fault::of("make a Kafka client", &error))?;
        Ok(Self { consumer, topic })
    }

    /// What each partition was run with at its last commit, in order.
    ///
    /// # Errors
    /// [`Fault`] when the brokers do not answer.
    pub fn look(&self) -> Result<Vec<Runs>, Fault> {
        // Nobody else takes what the client says of itself.
        dogwatch_kafka::tend(&self.consumer);
        let fault = |error: KafkaError| Fault::of("read what the group has committed", &error);
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), PATIENCE)
            .map_err(fault)?;
        let partitions = metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions());
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition(&self.topic, partition.id());
        }
        if asked.count() == 0 {
            return Ok(Vec::new());
        }
        let answer = match self.consumer.committed_offsets(asked, PATIENCE) {
            // A transaction holds them: what was committed before it is not told meanwhile.
            Err(error)
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnstableOffsetCommit) =>
            {
                return Ok(Vec::new());
            }
            answer => answer.map_err(fault)?,
        };
        let elements = answer.elements();
        let runs = elements.iter().map(|element| {
            let head = Head::of_metadata(element.metadata()).ok();
            let ran = head.map(|head| head.ran);
            Runs {
                partition: element.partition(),
                offset: element.offset().to_raw().filter(|offset| *offset >= 0),
                ran: ran.filter(|ran| !ran.set.is_empty()),
            }
        });
        let mut runs: Vec<Runs> = runs.collect();
        runs.sort_by_key(|runs| runs.partition);
        Ok(runs)
    }
}
