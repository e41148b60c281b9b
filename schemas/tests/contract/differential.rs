//! The crate's codec against two others: apache-avro and, from bytes to Arrow, arrow-avro with plain `Utf8` texts.

use crate::support::{CONTRACTS, Contract, arbitrary, from_avro, names, parse, row, rows, to_avro};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, SchemaStore};
use dogwatch_schemas::decode::BatchDecoder;
use dogwatch_schemas::framing;
use dogwatch_schemas::records::{Event, EventSection};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value as Json;

/// Runs a check on many random records of each schema.
fn for_all_records(cases: u32, check: impl Fn(&Contract, Vec<Json>)) {
    for contract in &CONTRACTS {
        let schema = parse(contract.schema);
        let records = prop::collection::vec(arbitrary(&schema, &names(&schema)), 1..5);
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&records, |records| {
                check(contract, records);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", contract.name));
    }
}

/// Whether the order of entries cannot differ: apache-avro's maps are hash maps.
fn maps_have_one_order(value: &Value) -> bool {
    match value {
        Value::Map(entries) => entries.len() < 2,
        Value::Array(items) => items.iter().all(maps_have_one_order),
        Value::Record(fields) => fields.iter().all(|(_, value)| maps_have_one_order(value)),
        Value::Union(_, value) => maps_have_one_order(value),
        _ => true,
    }
}

#[test]
fn apache_avro_reads_what_we_write() {
    for_all_records(64, |contract, records| {
        let schema = parse(contract.schema);
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        for record in records {
            let bytes = (contract.encode)(&record);
            let mut left = bytes.as_slice();
            assert_eq!(from_avro(reader.read_value(&mut left).unwrap()), record);
            assert!(left.is_empty());
        }
    });
}

#[test]
fn the_sections_of_an_event_are_the_event() {
    let schema = parse(Event::SCHEMA);
    let records = prop::collection::vec(arbitrary(&schema, &names(&schema)), 2..5);
    TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    })
    .run(&records, |records| {
        // Sections of several events joined are an event, too: that of the columns each was taken from.
        let events: Vec<Event> = records
            .iter()
            .map(|record| serde_json::from_value(record.clone()).unwrap())
            .collect();
        let (mut whole, mut joined, mut mixed) = (Vec::new(), Vec::new(), Vec::new());
        events[0].encode(&mut whole);
        for (index, section) in EventSection::ALL.into_iter().enumerate() {
            events[0].encode_section(section, &mut joined);
            events[index % events.len()].encode_section(section, &mut mixed);
        }
        prop_assert_eq!(&whole, &joined);
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let read = from_avro(reader.read_value(&mut mixed.as_slice()).unwrap());
        prop_assert_eq!(&read["host_id"], &records[0]["host_id"]);
        prop_assert_eq!(&read["seq"], &records[1]["seq"]);
        let of_last = 5 % events.len();
        prop_assert_eq!(read.get("fd_rip"), records[of_last].get("fd_rip"));
        Ok(())
    })
    .unwrap();
}

#[test]
fn our_bytes_are_apache_avros() {
    for_all_records(64, |contract, records| {
        let schema = parse(contract.schema);
        let names = names(&schema);
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        for record in records {
            let value = to_avro(&record, &schema, &names);
            let one_order = maps_have_one_order(&value);
            let theirs = writer.write_value_to_vec(value).unwrap();
            let ours = (contract.encode)(&record);
            assert_eq!(ours.len(), theirs.len());
            if one_order {
                assert_eq!(ours, theirs);
            }
            let mut framed = Vec::new();
            framing::write_header((contract.fingerprint)(), &mut framed);
            framed.extend_from_slice(&theirs);
            assert_eq!((contract.decode_framed)(&framed).unwrap(), record);
        }
    });
}

#[test]
fn batches_hold_what_was_encoded() {
    for_all_records(64, |contract, records| {
        let mut decoder = BatchDecoder::new(contract.schema, None).unwrap();
        // Twice: the second batch shows what the first left behind.
        for _ in 0..2 {
            for record in &records {
                decoder.push(&(contract.encode_framed)(record)).unwrap();
            }
            assert_eq!(decoder.rows(), records.len());
            let batch = decoder.finish();
            assert_eq!(rows(&batch), records);
            for column in batch.columns() {
                column.to_data().validate_full().unwrap();
            }
        }
    });
}

#[test]
fn arrow_avro_reads_the_same() {
    for_all_records(48, |contract, records| {
        let mut store = SchemaStore::new();
        let fingerprint = store
            .register(AvroSchema::new(contract.schema.to_owned()))
            .unwrap();
        assert_eq!(fingerprint, Fingerprint::Rabin((contract.fingerprint)().0));
        let builder = ReaderBuilder::new()
            .with_batch_size(records.len())
            .with_writer_schema_store(store);
        let mut theirs = builder
            .with_active_fingerprint(fingerprint)
            .build_decoder()
            .unwrap();
        for record in &records {
            let framed = (contract.encode_framed)(record);
            assert_eq!(theirs.decode(&framed).unwrap(), framed.len());
        }
        let batch = theirs.flush().unwrap().unwrap();
        for (index, record) in records.iter().enumerate() {
            assert_eq!(&row(&batch, index), record);
        }
    });
}
