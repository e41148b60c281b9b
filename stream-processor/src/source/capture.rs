//! Reads a capture: an Avro object container file of events, as any Avro tool writes one.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Reader, Schema};
use crossbeam_channel::Sender;
use dogwatch_schemas::framing::{self, Fingerprint};
use dogwatch_schemas::topics::Topic;

use super::{BATCH_ROWS_MAX, Batch, SourceError, SourceMessage};
use crate::decode::InputRecord;
use crate::metrics;
use crate::shutdown::Shutdown;

/// Opens the file and starts the thread that reads it to its end, or until nobody takes its records any more (`closed`).
///
/// # Errors
/// [`SourceError::CaptureUnreadable`] when it is no such file.
pub fn start(
    path: PathBuf,
    sender: Sender<SourceMessage>,
    shutdown: Shutdown,
    closed: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, SourceError> {
    let unreadable = |reason: String| SourceError::CaptureUnreadable {
        path: path.clone(),
        reason,
    };
    let file = File::open(&path).map_err(|error| unreadable(error.to_string()))?;
    let reader =
        Reader::new(BufReader::new(file)).map_err(|error| unreadable(error.to_string()))?;
    let read = move || {
        let end = match read(reader, &path, &sender, &|| {
            shutdown.triggered() || closed.load(Ordering::Acquire)
        }) {
            Ok(()) => SourceMessage::End,
            Err(error) => SourceMessage::Failed(error),
        };
        let _ = sender.send(end);
    };
    std::thread::Builder::new()
        .name("capture".to_owned())
        .spawn(read)
        .map_err(SourceError::Thread)
}

fn read(
    mut reader: Reader<'_, BufReader<File>>,
    path: &Path,
    sender: &Sender<SourceMessage>,
    ended: &dyn Fn() -> bool,
) -> Result<(), SourceError> {
    let unreadable = |reason: String| SourceError::CaptureUnreadable {
        path: path.to_owned(),
        reason,
    };
    let schema = reader.writer_schema().clone();
    let framer = Framer::new(&schema).map_err(|error| unreadable(error.to_string()))?;
    let json = serde_json::to_string(&schema).map_err(|error| unreadable(error.to_string()))?;
    if sender
        .send(SourceMessage::Schema(Topic::Events, json))
        .is_err()
    {
        return Ok(());
    }
    let mut next = 0;
    while !ended() {
        let mut records = Vec::new();
        let frames = reader
            .by_ref()
            .take(BATCH_ROWS_MAX)
            .map(|value| framer.frame(value?));
        let damage = frames
            .zip(next..)
            .try_for_each(|(framed, offset)| {
                framed.map(|(key, value)| records.push(record(offset, key, value)))
            })
            .err();
        next += records.len() as i64;
        let last = records.len() < BATCH_ROWS_MAX;
        metrics::read(
            records.len(),
            records.iter().map(|record| record.value.len()).sum(),
        );
        let batch = Batch {
            partition: (Topic::Events, 0),
            epoch: None,
            records,
        };
        let gone = sender.send(SourceMessage::Batch(batch)).is_err();
        if let Some(damage) = damage {
            return Err(SourceError::CaptureDamaged {
                path: path.to_owned(),
                records: next,
                reason: damage.to_string(),
            });
        }
        if last || gone {
            break;
        }
    }
    Ok(())
}

/// Gives a file's records the header that they have on a topic.
struct Framer<'s> {
    fingerprint: Fingerprint,
    writer: GenericDatumWriter<'s>,
}

impl<'s> Framer<'s> {
    fn new(schema: &'s Schema) -> Result<Self, apache_avro::Error> {
        Ok(Self {
            fingerprint: framing::fingerprint_of(schema),
            writer: GenericDatumWriter::builder(schema).build()?,
        })
    }

    /// Returns a record's key and framed value.
    fn frame(&self, value: Value) -> Result<(Vec<u8>, Vec<u8>), apache_avro::Error> {
        let mut framed = Vec::new();
        framing::write_header(self.fingerprint, &mut framed);
        self.writer.write_value_ref(&mut framed, &value)?;
        Ok((host_id(value), framed))
    }
}

/// The key that the sensor would have sent the event under.
fn host_id(event: Value) -> Vec<u8> {
    let Value::Record(fields) = event else {
        return Vec::new();
    };
    let host_id = fields.into_iter().find(|(name, _)| name == "host_id");
    match host_id {
        Some((_, Value::String(host_id))) => host_id.into_bytes(),
        _ => Vec::new(),
    }
}

fn record(offset: i64, key: Vec<u8>, value: Vec<u8>) -> InputRecord {
    InputRecord {
        topic: Topic::Events,
        partition: 0,
        offset,
        ingest_ts_ns: None,
        key: key.into(),
        value: value.into(),
    }
}
