//! The bounded log that joins a sensor and a processor in one process, where there is no broker.
//!
//! It carries what a broker would: topic, key, framed record, and the time it was taken in.
//! A full channel holds the sensor back; nothing is dropped here.

use crate::Text;
use crate::topics::Topic;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// One record on its way from a sensor to a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The topic it would have on a broker.
    pub topic: Topic,
    /// The record's key, as on a broker.
    pub key: Text,
    /// The framed record.
    pub value: Vec<u8>,
    /// When it was put into the log, nanoseconds since 1970 UTC; stands for the broker's append time.
    pub ingest_ts_ns: i64,
}

/// Opens a log that holds at most `capacity` records.
pub fn channel(capacity: usize) -> (SyncSender<LogRecord>, Receiver<LogRecord>) {
    sync_channel(capacity)
}
