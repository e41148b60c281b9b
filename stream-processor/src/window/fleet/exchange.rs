//! What goes between the two stages, and where.

use datafusion::common::Result;

use super::record::Flush;
use crate::decode::Partition;
use crate::hosts::FLEET;

/// Where the records between the two stages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exchange {
    /// From one to the other, in this engine: it has all partitions.
    #[default]
    Inside,
    /// Out, to so many partitions of the topic: this engine has the first stage.
    Sent(i32),
    /// They come in, from some of so many partitions of the topic: this engine has the second stage.
    Received(i32),
}

impl Exchange {
    /// How many partitions it has.
    pub(super) fn partitions(self) -> i32 {
        match self {
            Self::Inside => 1,
            Self::Sent(partitions) | Self::Received(partitions) => partitions.max(1),
        }
    }

    /// The task that has all of a state, by its hash.
    pub(super) fn task_of(self, state: &str) -> i32 {
        let number = state
            .get(..8)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let number = i64::from(number.unwrap_or_default()) % i64::from(self.partitions());
        FLEET - number as i32
    }
}

/// A record for the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// The log that it is of.
    pub source: Partition,
    /// The partition of the exchange that it is for.
    pub partition: i32,
    /// What it says.
    pub value: Vec<u8>,
}

/// A record of the exchange that came.
pub(crate) struct Received {
    /// Its row of the batch.
    pub row: u32,
    /// The task that it is of.
    pub task: i32,
    /// Whether what it says was said before.
    pub muted: bool,
    pub(super) flush: Flush,
}

impl Received {
    /// The topic of its source, without the prefix of its cluster.
    pub fn topic(&self) -> &str {
        &self.flush.head.topic
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is none of this version, or damaged.
    pub fn read(row: u32, task: i32, muted: bool, record: &[u8]) -> Result<Self> {
        let flush = Flush::decode(record)?;
        Ok(Self {
            row,
            task,
            muted,
            flush,
        })
    }
}
