//! Reads the log of a sensor in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use dogwatch_schemas::local::LogRecord;
use dogwatch_schemas::topics::Topic;

use super::{BATCH_ROWS_MAX, Batch, SourceError, SourceMessage};
use crate::decode::InputRecord;
use crate::metrics;
use crate::shutdown::Shutdown;
use crate::tables::Table;

/// How long one wait for a first record lasts; also how soon a shutdown is seen.
const WAIT: Duration = Duration::from_millis(50);

/// How long the log is emptied after a shutdown, should its sensor not stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Starts the thread that moves records from `log` into batches, until the sensor's side is dropped or nobody takes them
/// any more (`closed`). On a shutdown it first empties the log, for at most `DRAIN`.
///
/// # Errors
/// [`SourceError::Thread`] when the system has none.
pub fn start(
    log: Receiver<LogRecord>,
    sender: Sender<SourceMessage>,
    shutdown: Shutdown,
    closed: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, SourceError> {
    let pump = move || {
        let mut offset = 0;
        let mut drain_until = None;
        while !closed.load(Ordering::Acquire) {
            if shutdown.triggered()
                && *drain_until.get_or_insert_with(|| Instant::now() + DRAIN) < Instant::now()
            {
                break;
            }
            let first = match log.recv_timeout(WAIT) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) if !shutdown.triggered() => continue,
                Err(_) => break,
            };
            let batch = batch(first, &log, &mut offset);
            if !batch.records.is_empty() && sender.send(SourceMessage::Batch(batch)).is_err() {
                return;
            }
        }
        let _ = sender.send(SourceMessage::End);
    };
    std::thread::Builder::new()
        .name("local".to_owned())
        .spawn(pump)
        .map_err(SourceError::Thread)
}

fn batch(first: LogRecord, log: &Receiver<LogRecord>, offset: &mut i64) -> Batch {
    let mut records = Vec::new();
    let mut bytes = 0;
    for record in std::iter::once(first)
        .chain(log.try_iter())
        .take(BATCH_ROWS_MAX)
    {
        if Table::of(record.topic).is_some() {
            bytes += record.value.len();
            records.push(InputRecord {
                topic: record.topic,
                partition: 0,
                offset: *offset,
                ingest_ts_ns: Some(record.ingest_ts_ns),
                key: record.key.as_bytes().to_vec().into(),
                value: record.value.into(),
            });
            *offset += 1;
        }
    }
    metrics::read(records.len(), bytes);
    Batch {
        partition: (Topic::Events, 0),
        epoch: None,
        records,
    }
}
