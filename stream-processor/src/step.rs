//! One step: the input it read, by position, and everything that came of it.
//!
//! A step is committed as a whole or not at all, and retried as it is: what it says never changes.

use std::collections::BTreeMap;

use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::records::Alert;

use crate::checkpoint::{Checkpoint, Head};
use crate::decode::{DeadLetter, RejectError};
use crate::engine::LateRow;
use crate::window::Flushed;

pub use crate::decode::Partition;

/// Where the next step begins in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The assignment under which the records were read; a commit needs it to stand still.
    pub epoch: u64,
    /// Offset of the first record that is not in the step.
    pub next: i64,
}

/// What one step says, and the input it says it of.
#[derive(Debug, Default)]
pub struct Step {
    /// How many records were matched for it.
    pub records: usize,
    /// Where each partition's input ends; empty where the source has no offsets to commit.
    pub positions: BTreeMap<Partition, Position>,
    /// What detections said.
    pub alerts: Vec<Alert>,
    /// Records that could not be read.
    pub dead_letters: Vec<DeadLetter>,
    /// Rows that came after their windows had closed.
    pub late: Vec<LateRow>,
    /// What windows of the whole fleet are told.
    pub exchange: Vec<Flushed>,
    /// What tasks remember where the step ends.
    pub checkpoints: BTreeMap<Partition, Checkpoint>,
    /// Where the memory of tasks was when they were taken over, since the step before.
    pub taken_over: BTreeMap<Partition, Memory>,
}

/// Where the memory of a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The assignment it holds for.
    pub epoch: u64,
    /// What a commit says of it.
    pub head: Head,
    /// Offsets of the first records of the checkpoints that a restore may begin with, by number.
    pub places: BTreeMap<u64, i64>,
}

impl Memory {
    /// The same under another assignment.
    pub fn of_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }
}

impl Step {
    /// Says whether nothing but positions and state would be committed.
    pub fn silent(&self) -> bool {
        self.alerts.is_empty()
            && self.dead_letters.is_empty()
            && self.late.is_empty()
            && self.exchange.is_empty()
    }

    /// Says whether the step holds neither output nor positions.
    pub fn empty(&self) -> bool {
        self.silent() && self.positions.is_empty()
    }

    /// Says whether the step should not wait for others: somebody waits for what it says, or it holds state.
    pub fn urgent(&self) -> bool {
        !self.silent() || !self.checkpoints.is_empty()
    }

    /// Counts the dead letters by class.
    pub fn dead_letters_by_class(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for letter in &self.dead_letters {
            *counts.entry(class(letter)).or_default() += 1;
        }
        counts
    }
}

/// Names what is wrong with a dead letter, for headers and counters.
pub fn class(letter: &DeadLetter) -> &'static str {
    match &letter.error {
        // Told apart: it is mended by putting the schema into the topic of schemas, not at the sender.
        RejectError::Undecodable(DecodeError::UnknownSchema(_)) => "unknown_schema",
        RejectError::Undecodable(DecodeError::UnusableSchema { .. }) => "unusable_schema",
        error => error.reason(),
    }
}
