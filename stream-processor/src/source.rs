//! Where records come from: Kafka, the log inside this process, or a capture file.
//!
//! Each variant runs a thread of its own that fills one bounded channel; the step thread empties it.
//!
//! ```text
//! Kafka   ─ poll thread ──┐
//! Local   ─ pump thread ──┼─► [SourceMessage; 64] ─► step thread
//! Capture ─ read thread ──┘
//! ```

use std::path::PathBuf;
use std::sync::mpsc::Receiver as LocalReceiver;

use crossbeam_channel::Sender;
use dogwatch_kafka::Fault;
use dogwatch_schemas::local::LogRecord;
use dogwatch_schemas::topics::Topic;

use crate::decode::InputRecord;
use crate::step::Partition;
use placement::Start;

pub mod assignments;
pub mod capture;
pub mod group;
pub mod local;
mod native;
pub mod placement;

/// Most records in one batch; a batch is of one partition.
pub const BATCH_ROWS_MAX: usize = 1_000;

/// Bytes of values after which a batch is handed on.
pub const BATCH_BYTES: usize = 1 << 20;

/// Batches between source and step: 64 MiB at most, and enough rows (64,000) for one full step
/// to gather while another is matched.
pub const QUEUE_BATCHES: usize = 64;

/// Where a pipeline reads.
#[derive(Debug)]
pub enum Source {
    /// The input topics of the configured brokers, as a member of the configured group.
    Kafka,
    /// The log of a sensor in this process; ends when the sensor drops its side.
    Local(LocalReceiver<LogRecord>),
    /// An Avro object container file of events; ends at its end.
    Capture(PathBuf),
}

/// What a source tells the step thread.
#[derive(Debug)]
pub enum SourceMessage {
    /// Records of one partition, in offset order.
    Batch(Batch),
    /// A schema that the records to come were written with.
    Schema(Topic, String),
    /// Partitions that are read from now on, and where their memory is.
    Assigned(Vec<Assigned>),
    /// Partitions that go to another processor: finish what is in flight, then drop `settled`.
    Revoked(Vec<Partition>, Settled),
    /// Partitions that are gone already: abort what is in flight, then drop `settled`.
    Lost(Vec<Partition>, Settled),
    /// Input that expired before it was read.
    Gap(Gap),
    /// The source cannot go on.
    Failed(SourceError),
    /// All was read.
    End,
}

/// A partition that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The partition.
    pub partition: Partition,
    /// Its assignment.
    pub epoch: u64,
    /// Where it begins.
    pub start: Start,
}

/// Keeps a rebalance waiting until it is dropped.
#[derive(Debug)]
pub struct Settled(pub Sender<()>);

/// Records of one partition.
#[derive(Debug)]
pub struct Batch {
    /// Where they come from.
    pub partition: Partition,
    /// The assignment they were read under; `None` where there are no offsets to commit.
    pub epoch: Option<u64>,
    /// The records, in offset order.
    pub records: Vec<InputRecord>,
}

/// Input that nobody can read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where it was.
    pub partition: Partition,
    /// Offset of the first record that should have been read.
    pub from: i64,
    /// Offset of the first record that can be read.
    pub to: i64,
}

/// Why a source ended early.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// Somebody else uses this processor's name.
    #[error(
        "another processor joined group {group} with kafka.instance = {instance:?}; each needs its own"
    )]
    InstanceTaken {
        /// The group.
        group: String,
        /// The name.
        instance: String,
    },
    /// The capture file could not be opened.
    #[error("could not open capture file {path}: {reason}")]
    CaptureUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the Avro reader says.
        reason: String,
    },
    /// The capture file is damaged.
    #[error(
        "capture file {path} is damaged after {records} records: {reason}; what came before was processed"
    )]
    CaptureDamaged {
        /// The file.
        path: PathBuf,
        /// Records read before the damage.
        records: i64,
        /// What the Avro reader says.
        reason: String,
    },
    /// A thread could not be started.
    #[error("could not start the source's thread: {0}")]
    Thread(std::io::Error),
}
