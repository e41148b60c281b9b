//! The tables that detections read: each is a topic of records under the host's key.
//!
//! A detection reads one of them. Within a query it is planned as `events` is, whichever it is ([`crate::detect`]).

use dogwatch_schemas::records::{ContainerSample, Event, IoSample, ProcessSample, SyscallSample};
use dogwatch_schemas::topics::Topic;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// What happened on hosts.
    Events,
    /// What containers and hosts used in an interval.
    ContainerSamples,
    /// What processes used in an interval.
    ProcessSamples,
    /// Which calls failed in an interval.
    SyscallSamples,
    /// What processes have open, and what went through it in an interval.
    IoSamples,
}

impl Table {
    /// All of them, that of events first.
    pub const ALL: [Self; 5] = [
        Self::Events,
        Self::ContainerSamples,
        Self::ProcessSamples,
        Self::SyscallSamples,
        Self::IoSamples,
    ];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::ContainerSamples => "container_samples",
            Self::ProcessSamples => "process_samples",
            Self::SyscallSamples => "syscall_samples",
            Self::IoSamples => "io_samples",
        }
    }

    /// Its topic.
    #[must_use]
    pub fn topic(self) -> Topic {
        match self {
            Self::Events => Topic::Events,
            Self::ContainerSamples => Topic::ContainerSamples,
            Self::ProcessSamples => Topic::ProcessSamples,
            Self::SyscallSamples => Topic::SyscallSamples,
            Self::IoSamples => Topic::IoSamples,
        }
    }

    /// The table of a topic; none of one that is no table.
    #[must_use]
    pub fn of(topic: Topic) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.topic() == topic)
    }

    /// The table of a name; none where there is no such table.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The Avro schema of its records.
    #[must_use]
    pub fn record(self) -> &'static str {
        match self {
            Self::Events => Event::SCHEMA,
            Self::ContainerSamples => ContainerSample::SCHEMA,
            Self::ProcessSamples => ProcessSample::SCHEMA,
            Self::SyscallSamples => SyscallSample::SCHEMA,
            Self::IoSamples => IoSample::SCHEMA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_by_its_name_and_by_its_topic() {
        for table in Table::ALL {
            assert_eq!(Table::named(table.name()), Some(table));
            assert_eq!(Table::of(table.topic()), Some(table));
        }
        assert_eq!(Table::of(Topic::Sensors), None);
        assert_eq!(Table::named("sensors"), None);
    }
}
