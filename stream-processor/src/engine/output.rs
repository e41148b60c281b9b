//! What comes of a step.

use std::collections::BTreeSet;

use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::records::Alert;

use crate::decode::{DeadLetter, InputRecord, Partition};
use crate::window::Flushed;

/// What came of a step.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// The alerts, in the order of the records they come from, then of the detections' names.
    pub alerts: Vec<Alert>,
    /// The records that cannot be used.
    pub dead_letters: Vec<DeadLetter>,
    /// The rows that came after their windows had closed.
    pub late: Vec<LateRow>,
    /// The records whose schema is not known, but for those only replayed: look it up, register it, and hand them in again.
    pub unknown_schemas: Vec<(Fingerprint, InputRecord)>,
    /// Events that a detection could not judge; the other detections did.
    pub failures: Vec<Failure>,
    /// Logs whose tasks' state must be stored with the step: it holds what a replay would not find again.
    pub to_be_stored: BTreeSet<Partition>,
    /// What windows of the whole fleet are told, where another engine has their second stage.
    pub exchange: Vec<Flushed>,
    /// What was counted.
    pub counts: StepCounts,
}

/// An event that a detection could not judge, such as for a number out of range in a cast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The detection.
    pub detection_id: String,
    /// The log that the event is in.
    pub log: Partition,
    /// Offset of the event.
    pub offset: i64,
    /// Whether it is a group of a window, which the event made be asked.
    pub of_window: bool,
    /// File and line of the detection's query.
    pub place: String,
    /// What went wrong.
    pub error: String,
}

/// A row that came after a window had closed that it belongs to; detections on single events saw it nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    /// The record as it came.
    pub record: InputRecord,
    /// The detections whose windows miss it, by name.
    pub detections: Vec<String>,
    /// By how much its time is behind its host's watermark, nanoseconds.
    pub late_ns: i64,
}

/// How large the state of all tasks is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Open panes.
    pub panes: u64,
    /// Keys in them.
    pub keys: u64,
    /// Bytes of their states.
    pub bytes: u64,
    /// What they may grow to, by the caps.
    pub bound_bytes: u64,
}

impl StateSize {
    /// Adds that of another table.
    pub(super) fn add(&mut self, other: &Self) {
        self.panes += other.panes;
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.bound_bytes = self.bound_bytes.saturating_add(other.bound_bytes);
    }
}

/// What a step counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StepCounts {
    /// Records handed in.
    pub records: u64,
    /// Events shown to the detections.
    pub events: u64,
    /// Mark rows.
    pub marks: u64,
    /// Records that sensors sent again.
    pub repeated: u64,
    /// Records that never came, by gaps in sensors' counts.
    pub missing: u64,
    /// Rows that came too late for a window.
    pub late: u64,
    /// Events whose time was too far from the broker's.
    pub clock_replaced: u64,
    /// Hosts that were forgotten while they lived, for want of room.
    pub hosts_forgotten: u64,
}
