//! The topics as data: name, key and settings, so that who creates one and who checks one agree.

/// A topic of Dogwatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What happened on hosts; records are [`crate::records::Event`].
    Events,
    /// What containers and hosts use; records are [`crate::records::ContainerSample`].
    ContainerSamples,
    /// What processes use; records are [`crate::records::ProcessSample`].
    ProcessSamples,
    /// Calls that failed; records are [`crate::records::SyscallSample`].
    SyscallSamples,
    /// What processes have open; records are [`crate::records::IoSample`].
    IoSamples,
    /// What sensors say of themselves; records are [`crate::records::SensorStatus`].
    Sensors,
    /// What containers are; records are [`crate::records::Container`].
    Containers,
    /// What detections said; records are [`crate::records::Alert`].
    Alerts,
    /// Records that could not be decoded: the original key, bytes and headers.
    DeadLetters,
    /// Rows that came too late for their window.
    Late,
    /// Every Avro schema that a sensor or processor writes with, as JSON.
    Schemas,
    /// What tasks remember: checkpoints, each in the partition of its task's number; internal.
    State,
    /// Published sets of detections, one record a set.
    Detections,
    /// What the partitions of tables say to windows of the whole fleet, second by second; internal.
    Exchange,
    /// What the tasks of the fleet remember, each in the partition of its partition of the exchange; internal.
    FleetState,
}

/// What the key of a topic's records is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The host id: all of a host is in order in one partition.
    HostId,
    /// `HOST_ID/CONTAINER_ID`, with the container's full id.
    HostAndContainer,
    /// The alert's `dedup_key`.
    DedupKey,
    /// The schema's fingerprint, 16 hexadecimal digits.
    Fingerprint,
    /// The key that the record came with.
    Original,
    /// A piece of a task's state, by a name that only the writer understands.
    StatePiece,
    /// The number of the set.
    SetNumber,
    /// The topic and partition that a record of the exchange is of.
    Source,
}

/// What the broker removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Records older than the retention.
    Delete,
    /// All but the newest record of a key.
    Compact,
}

/// Checkpoints replace each other every few seconds: small segments, cleaned early, keep the topic near the size of
/// what it holds. What is younger than ten minutes stays whatever replaced it: a checkpoint that a crash left without
/// its end must not have cost the one before it. A tombstone outlives any restore by far.
const STATE_SETTINGS: [(&str, &str); 5] = [
    ("segment.bytes", "67108864"),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("min.compaction.lag.ms", "600000"),
    ("delete.retention.ms", "3600000"),
];

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 15] = [
        Self::Events,
        Self::ContainerSamples,
        Self::ProcessSamples,
        Self::SyscallSamples,
        Self::IoSamples,
        Self::Sensors,
        Self::Containers,
        Self::Alerts,
        Self::DeadLetters,
        Self::Late,
        Self::Schemas,
        Self::State,
        Self::Detections,
        Self::Exchange,
        Self::FleetState,
    ];

    /// Returns the name without prefix.
    pub fn suffix(self) -> &'static str {
        self.row().0
    }

    /// Returns the topic of a name without prefix; none when it is not one of ours.
    pub fn named(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.suffix() == suffix)
    }

    /// Returns what the key of its records is.
    pub fn key(self) -> Key {
        self.row().1
    }

    /// Returns what the broker removes from it.
    pub fn cleanup(self) -> Cleanup {
        self.row().2
    }

    /// Says whether its partition numbers are those of the tasks: such topics have equal partition counts.
    pub fn by_task(self) -> bool {
        self.key() == Key::HostId || self == Self::State
    }

    /// Says whether it has one partition, which is read whole: what lies there is few and in order.
    pub fn in_one_partition(self) -> bool {
        matches!(self, Self::Schemas | Self::Detections)
    }

    /// Says whether its partition numbers are those of the fleet's tasks: such topics have equal partition counts, too.
    pub fn by_fleet_task(self) -> bool {
        matches!(self, Self::Exchange | Self::FleetState)
    }

    /// Returns the settings it is created with and checked for, by Kafka's names.
    /// Every topic stamps the broker's time, which is `ingest_ts`: a sensor's clock cannot forge it.
    pub fn settings(self) -> Vec<(&'static str, &'static str)> {
        let cleanup = match self.cleanup() {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        };
        let mut settings = vec![
            ("cleanup.policy", cleanup),
            ("message.timestamp.type", "LogAppendTime"),
        ];
        match self {
            // A dead letter is its original and headers, so is a late row: these take more than the others do.
            Self::DeadLetters | Self::Late => settings.push(("max.message.bytes", "4194304")),
            Self::State | Self::FleetState => settings.extend(STATE_SETTINGS),
            // A set is one record, and a large one where its lists are.
            Self::Detections => settings.push(("max.message.bytes", "8388608")),
            _ => {}
        }
        settings
    }

    fn row(self) -> (&'static str, Key, Cleanup) {
        match self {
            Self::Events => ("events", Key::HostId, Cleanup::Delete),
            Self::ContainerSamples => ("container-samples", Key::HostId, Cleanup::Delete),
            Self::ProcessSamples => ("process-samples", Key::HostId, Cleanup::Delete),
            Self::SyscallSamples => ("syscall-samples", Key::HostId, Cleanup::Delete),
            Self::IoSamples => ("io-samples", Key::HostId, Cleanup::Delete),
            Self::Sensors => ("sensors", Key::HostId, Cleanup::Delete),
            Self::Containers => ("containers", Key::HostAndContainer, Cleanup::Compact),
            Self::Alerts => ("alerts", Key::DedupKey, Cleanup::Delete),
            Self::DeadLetters => ("dead-letters", Key::Original, Cleanup::Delete),
            Self::Late => ("late", Key::Original, Cleanup::Delete),
            Self::Schemas => ("schemas", Key::Fingerprint, Cleanup::Compact),
            Self::State => ("state", Key::StatePiece, Cleanup::Compact),
            Self::Detections => ("detections", Key::SetNumber, Cleanup::Compact),
            Self::Exchange => ("exchange", Key::Source, Cleanup::Delete),
            Self::FleetState => ("fleet-state", Key::StatePiece, Cleanup::Compact),
        }
    }
}

/// The topics' names below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// Takes the prefix, such as `dogwatch`; a dot joins it to the rest.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Returns a topic's name on the broker.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.suffix())
    }

    /// Returns the topic of a name on the broker; none when it is not one of ours.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        let suffix = name.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        Topic::named(suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_found_by_its_name() {
        let topics = Topics::new("site.dogwatch");
        for topic in Topic::ALL {
            assert_eq!(topics.topic(&topics.name(topic)), Some(topic));
        }
        assert_eq!(
            topics.name(Topic::DeadLetters),
            "site.dogwatch.dead-letters"
        );
        assert_eq!(topics.topic("site.dogwatch2.events"), None);
        assert_eq!(topics.topic("events"), None);
    }

    #[test]
    fn what_is_looked_up_by_key_is_compacted() {
        let compacted: Vec<_> = Topic::ALL
            .into_iter()
            .filter(|t| t.cleanup() == Cleanup::Compact)
            .collect();
        let by_key = [
            Topic::Containers,
            Topic::Schemas,
            Topic::State,
            Topic::Detections,
            Topic::FleetState,
        ];
        assert_eq!(compacted, by_key);
    }

    #[test]
    fn state_lies_in_the_partition_of_its_task() {
        let by_task: Vec<_> = Topic::ALL.into_iter().filter(|t| t.by_task()).collect();
        let expected = [
            Topic::Events,
            Topic::ContainerSamples,
            Topic::ProcessSamples,
            Topic::SyscallSamples,
            Topic::IoSamples,
            Topic::Sensors,
            Topic::State,
        ];
        assert_eq!(by_task, expected);
        let of_fleet: Vec<_> = Topic::ALL
            .into_iter()
            .filter(|t| t.by_fleet_task())
            .collect();
        assert_eq!(of_fleet, [Topic::Exchange, Topic::FleetState]);
    }

    #[test]
    fn every_topic_stamps_the_brokers_time() {
        for topic in Topic::ALL {
            assert!(
                topic
                    .settings()
                    .contains(&("message.timestamp.type", "LogAppendTime"))
            );
        }
    }
}
