//! Encoding and decoding, nanoseconds per event, beside apache-avro and arrow-avro on the same bytes.

use crate::measure::cpu_time;
use crate::{events, table::Table};
use anyhow::{Context, Result};
use apache_avro::Schema;
use arrow::record_batch::RecordBatch;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use dogwatch_schemas::decode::BatchDecoder;
use dogwatch_schemas::framing;
use dogwatch_schemas::records::Event;
use std::hint::black_box;

/// Columns of a usual set of detections: what projection leaves.
const PROJECTION: [&str; 12] = [
    "evt_type",
    "evt_outcome",
    "container_id",
    "container_name",
    "proc_name",
    "proc_exepath",
    "proc_cmdline",
    "proc_stage",
    "proc_tty",
    "fd_name",
    "fd_sip",
    "evt_is_open_write",
];

/// Runs the comparison over `count` events, `runs` times each, and returns the table.
///
/// # Errors
/// When a peer refuses our schema or bytes.
pub fn run(count: usize, runs: usize) -> Result<Table> {
    let events = events::synthetic(count, 1);
    let messages = framed(&events);
    let bytes: usize = messages.iter().map(Vec::len).sum();
    let schema = Schema::parse_str(Event::SCHEMA)?;
    let mut table = Table::new(&[
        "codec",
        "ns/event (median)",
        "ns/event (best)",
        "ratio to ours",
    ]);
    table.note(format!(
        "{count} events of {} bytes on average, framed",
        bytes / count
    ));

    let mut row = |name: &str, base: Option<f64>, work: &mut dyn FnMut()| {
        let times = cpu_time(runs, work);
        let median = times.median_ns(count);
        table.row([
            name.to_owned(),
            format!("{median:.0}"),
            format!("{:.0}", times.best_ns(count)),
            format!("{:.1}", median / base.unwrap_or(median)),
        ]);
        median
    };
    let mut buffer = Vec::with_capacity(bytes);
    let encode = row("encode: ours", None, &mut || {
        buffer.clear();
        events
            .iter()
            .for_each(|event| event.encode_framed(&mut buffer));
        black_box(&buffer);
    });
    row("encode: apache-avro, serde", Some(encode), &mut || {
        encode_by_apache(&schema, &events)
    });

    let mut decoder = BatchDecoder::new(Event::SCHEMA, None)?;
    let decode = row("decode: ours, all columns", None, &mut || {
        drop(black_box(decode_ours(&mut decoder, &messages)))
    });
    let mut decoder = BatchDecoder::new(Event::SCHEMA, Some(&PROJECTION))?;
    row("decode: ours, 12 columns", Some(decode), &mut || {
        drop(black_box(decode_ours(&mut decoder, &messages)))
    });
    row("decode: apache-avro, Value", Some(decode), &mut || {
        decode_by_apache(&schema, &messages)
    });
    let mut arrow_reader = arrow_decoder(count)?;
    row(
        "decode: arrow-avro, Utf8, all columns",
        Some(decode),
        &mut || {
            drop(black_box(decode_by_arrow(&mut arrow_reader, &messages)));
        },
    );
    Ok(table)
}

fn framed(events: &[Event]) -> Vec<Vec<u8>> {
    events
        .iter()
        .map(|event| {
            let mut message = Vec::new();
            event.encode_framed(&mut message);
            message
        })
        .collect()
}

fn decode_ours(decoder: &mut BatchDecoder, messages: &[Vec<u8>]) -> RecordBatch {
    for message in messages {
        decoder.push(message).expect("the message is ours");
    }
    decoder.finish()
}

fn encode_by_apache(schema: &Schema, events: &[Event]) {
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(schema)
        .build()
        .expect("the schema is ours");
    let mut buffer = Vec::new();
    for event in events {
        writer
            .write_ser(&mut buffer, event)
            .expect("the event fits its schema");
    }
    black_box(buffer);
}

fn decode_by_apache(schema: &Schema, messages: &[Vec<u8>]) {
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(schema)
        .build()
        .expect("the schema is ours");
    for message in messages {
        let (_, mut datum) = framing::split(message).expect("the message is ours");
        black_box(reader.read_value(&mut datum).expect("the message is ours"));
    }
}

fn arrow_decoder(batch: usize) -> Result<arrow_avro::reader::Decoder> {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Rabin);
    let schema = AvroSchema::new(Event::SCHEMA.to_owned());
    store.set(Fingerprint::Rabin(Event::fingerprint().0), schema.clone())?;
    ReaderBuilder::new()
        .with_batch_size(batch)
        .with_writer_schema_store(store)
        .with_reader_schema(schema)
        .build_decoder()
        .context("arrow-avro refused our schema")
}

fn decode_by_arrow(decoder: &mut arrow_avro::reader::Decoder, messages: &[Vec<u8>]) -> RecordBatch {
    for message in messages {
        let read = decoder.decode(message).expect("the message is ours");
        assert_eq!(read, message.len(), "arrow-avro read the whole message");
    }
    decoder
        .flush()
        .expect("the batch is whole")
        .expect("the batch is not empty")
}
