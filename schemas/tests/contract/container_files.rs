//! Avro object container files of our records are any Avro tool's.

use crate::support::{CONTRACTS, arbitrary, from_avro, names, parse};
use apache_avro::{Reader, Writer};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::io::{Read, Seek};

/// What the spool does: a header with the schema, then blocks of records that the crate encoded.
#[test]
fn apache_avro_reads_a_file_of_our_records() {
    for contract in &CONTRACTS {
        let schema = parse(contract.schema);
        let strategy = arbitrary(&schema, &names(&schema));
        let mut runner = TestRunner::deterministic();
        let records: Vec<_> = (0..20)
            .map(|_| strategy.new_tree(&mut runner).unwrap().current())
            .collect();

        // The header is apache-avro's own; its last 16 bytes are the marker that ends each block.
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&schema, &mut file).unwrap();
        writer.flush().unwrap();
        drop(writer);
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let marker = bytes[bytes.len() - 16..].to_vec();
        for block in records.chunks(7) {
            let data: Vec<u8> = block
                .iter()
                .flat_map(|record| (contract.encode)(record))
                .collect();
            for count in [block.len(), data.len()] {
                dogwatch_schemas::wire::Datum::write(&i64::try_from(count).unwrap(), &mut bytes);
            }
            bytes.extend_from_slice(&data);
            bytes.extend_from_slice(&marker);
        }

        let read = Reader::new(bytes.as_slice())
            .unwrap()
            .map(|value| from_avro(value.unwrap()));
        assert_eq!(read.collect::<Vec<_>>(), records);
    }
}
