//! Writers that are older, newer or otherwise different: what they wrote becomes the reader's columns, or is refused for a stated reason.

use crate::support::{
    CONTRACTS, Names, arbitrary, contract, from_avro, names, parse, rows, to_avro,
};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::framing;
use dogwatch_schemas::records::{Event, EventSection};
use dogwatch_schemas::wire::WireError;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};

/// Frames a record as a writer with this schema would.
fn framed(schema: &Schema, names: &Names, record: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    framing::write_header(framing::fingerprint_of(schema), &mut out);
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    out.extend(
        writer
            .write_value_to_vec(to_avro(record, schema, names))
            .unwrap(),
    );
    out
}

/// A record schema of these fields.
fn schema_of(fields: &Json) -> String {
    json!({"type": "record", "name": "R", "fields": fields}).to_string()
}

/// Reads one record of the writer's into the reader's columns.
fn read(writer: &Json, reader: &Json, record: &Json) -> Result<Json, DecodeError> {
    let writer = schema_of(writer);
    let mut decoder = BatchDecoder::new(&schema_of(reader), None).unwrap();
    decoder.register(&writer).unwrap();
    let writer = parse(&writer);
    decoder.push(&framed(&writer, &names(&writer), record))?;
    Ok(rows(&decoder.finish())[0].clone())
}

/// Returns why a writer's schema is refused.
fn refused(writer: &Json, reader: &Json) -> String {
    let mut decoder = BatchDecoder::new(&schema_of(reader), None).unwrap();
    decoder
        .register(&schema_of(writer))
        .unwrap_err()
        .to_string()
}

/// Another version of a schema: its fields in another order, some of those with a default left out.
fn other_version(schema: &'static str) -> impl Strategy<Value = String> {
    let schema: Json = serde_json::from_str(schema).unwrap();
    let fields = schema["fields"].as_array().unwrap().clone();
    // Fields that define or name a record stay, so that a name is always defined before it is used.
    let named = |field: &Json| field["type"].to_string().contains("AlertProcess");
    let (pinned, free): (Vec<_>, Vec<_>) = fields.into_iter().partition(named);
    let keep = free.iter().map(|field| {
        if field.get("default").is_some() {
            any::<bool>().boxed()
        } else {
            Just(true).boxed()
        }
    });
    let kept = keep.collect::<Vec<_>>().prop_map(move |keep| {
        free.iter()
            .zip(keep)
            .filter(|(_, keep)| *keep)
            .map(|(field, _)| field.clone())
            .collect::<Vec<_>>()
    });
    kept.prop_shuffle().prop_map(move |fields| {
        let mut version = schema.clone();
        version["fields"] = pinned.iter().chain(&fields).cloned().collect();
        version.to_string()
    })
}

#[test]
fn any_two_versions_resolve_as_apache_avro_resolves_them() {
    for contract in &CONTRACTS {
        let versions = (
            other_version(contract.schema),
            other_version(contract.schema),
            any::<u64>(),
        );
        let config = Config {
            cases: 48,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&versions, |(writer_json, reader_json, seed)| {
                let (writer, reader) = (parse(&writer_json), parse(&reader_json));
                let names = names(&writer);
                let oracle = GenericDatumReader::builder(&writer)
                    .reader_schema(&reader)
                    .build()
                    .unwrap();
                let mut decoder = BatchDecoder::new(&reader_json, None).unwrap();
                decoder.register(&writer_json).unwrap();
                let mut expected = Vec::new();
                for record in some_records(&writer, &names, seed) {
                    let framed = framed(&writer, &names, &record);
                    expected.push(from_avro(oracle.read_value(&mut &framed[10..]).unwrap()));
                    decoder.push(&framed).unwrap();
                }
                prop_assert_eq!(rows(&decoder.finish()), expected);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", contract.name));
    }
}

/// Three records that a seed stands for.
fn some_records(schema: &Schema, names: &Names, seed: u64) -> Vec<Json> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    let seed: Vec<u8> = seed.to_le_bytes().repeat(4);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let records = arbitrary(schema, names);
    (0..3)
        .map(|_| records.new_tree(&mut runner).unwrap().current())
        .collect()
}

#[test]
fn a_newer_writers_fields_are_passed_over_whatever_their_type() {
    let newer = json!([
        {"name": "a", "type": "long"},
        {"name": "n1", "type": ["null", "string"], "default": null},
        {"name": "n2", "type": {"type": "array", "items": {"type": "record", "name": "N", "fields": [
            {"name": "x", "type": "boolean"}, {"name": "y", "type": {"type": "map", "values": "int"}}]}}},
        {"name": "n3", "type": ["null", "N"]},
        {"name": "b", "type": "string"}
    ]);
    let older = json!([{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]);
    let record = json!({
        "a": 1, "n1": "x", "n2": [{"x": true, "y": {"k": 1}}, {"x": false, "y": {}}], "n3": {"x": true, "y": {"z": 300}}, "b": "end"
    });
    assert_eq!(
        read(&newer, &older, &record),
        Ok(json!({"a": 1, "b": "end"}))
    );
}

/// The types that no schema of ours uses, by their bytes.
#[test]
fn types_without_a_column_are_passed_over() {
    let writer = schema_of(&json!([
        {"name": "d", "type": "double"}, {"name": "f", "type": "float"}, {"name": "y", "type": "bytes"},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "x", "type": {"type": "fixed", "name": "F", "size": 3}}, {"name": "n", "type": "null"},
        {"name": "m", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
        {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "t", "type": {"type": "int", "logicalType": "date"}},
        {"name": "a", "type": "long"}
    ]));
    let mut decoder =
        BatchDecoder::new(&schema_of(&json!([{"name": "a", "type": "long"}])), None).unwrap();
    let mut framed = Vec::new();
    framing::write_header(decoder.register(&writer).unwrap(), &mut framed);
    framed.extend(
        [
            [1; 8].as_slice(),
            &[1; 4],
            &[4, 9, 9],
            &[2],
            &[7; 3],
            &[2, 1],
            &[4, b'x', b'x'],
            &[6],
            &[84],
        ]
        .concat(),
    );
    decoder.push(&framed).unwrap();
    assert_eq!(rows(&decoder.finish()), [json!({"a": 42})]);
}

/// Events as sensors write them: section by section.
fn written_by_sensor(record: &Json) -> Vec<u8> {
    let event: Event = serde_json::from_value(record.clone()).unwrap();
    let mut out = Vec::new();
    framing::write_header(Event::fingerprint(), &mut out);
    for section in EventSection::ALL {
        event.encode_section(section, &mut out);
    }
    out
}

/// The events' schema as the first version had it, and as the next one may have it: with columns amid the others.
fn other_versions_of_events() -> [String; 2] {
    let mut next: Json = serde_json::from_str(Event::SCHEMA).unwrap();
    let fields = next["fields"].as_array_mut().unwrap();
    let map = json!({"type": "map", "values": {"type": "array", "items": "string"}});
    fields.insert(
        40,
        json!({"name": "next_map", "type": ["null", map], "default": null}),
    );
    fields.insert(
        3,
        json!({"name": "next_text", "type": ["null", "string"], "default": null}),
    );
    let first = include_str!("../../released/0.1/event.avsc");
    [first.to_owned(), next.to_string()]
}

/// What of a record a schema has columns for.
fn known_to(schema: &Schema, record: &Json) -> Json {
    let Schema::Record(fields) = schema else {
        panic!("a record")
    };
    let known = fields.fields.iter().filter_map(|field| {
        let value = record.get(&field.name)?;
        Some((field.name.clone(), value.clone()))
    });
    Json::Object(known.collect())
}

#[test]
fn an_older_processor_reads_the_events_of_a_newer_sensor() {
    // The sensor of today against the first processor, and the next sensor against that of today.
    let [first, next] = other_versions_of_events();
    let today = parse(Event::SCHEMA);
    for record in some_records(&today, &names(&today), 17) {
        let mut processor = BatchDecoder::new(&first, None).unwrap();
        processor.register(Event::SCHEMA).unwrap();
        processor.push(&written_by_sensor(&record)).unwrap();
        assert_eq!(
            rows(&processor.finish()),
            [known_to(&parse(&first), &record)]
        );
    }
    let newer = parse(&next);
    for record in some_records(&newer, &names(&newer), 18) {
        let mut processor = BatchDecoder::new(Event::SCHEMA, None).unwrap();
        processor.register(&next).unwrap();
        let bytes = framed(&newer, &names(&newer), &record);
        processor.push(&bytes).unwrap();
        assert_eq!(rows(&processor.finish()), [known_to(&today, &record)]);
    }
}

#[test]
fn a_newer_processor_reads_the_events_of_an_older_sensor() {
    let [first, next] = other_versions_of_events();
    let older = parse(&first);
    for record in some_records(&older, &names(&older), 19) {
        let mut processor = BatchDecoder::new(Event::SCHEMA, None).unwrap();
        processor.register(&first).unwrap();
        let bytes = framed(&older, &names(&older), &record);
        processor.push(&bytes).unwrap();
        assert_eq!(rows(&processor.finish()), [record]);
    }
    let today = parse(Event::SCHEMA);
    for record in some_records(&today, &names(&today), 20) {
        let mut processor = BatchDecoder::new(&next, None).unwrap();
        processor.register(Event::SCHEMA).unwrap();
        processor.push(&written_by_sensor(&record)).unwrap();
        assert_eq!(rows(&processor.finish()), [record]);
    }
}

#[test]
fn an_older_writers_missing_fields_take_their_defaults() {
    let older = json!([{"name": "a", "type": "long"}]);
    let newer = json!([
        {"name": "t", "type": "string", "default": "a text longer than a view holds"},
        {"name": "a", "type": "long"},
        {"name": "n", "type": ["null", "string"], "default": null},
        {"name": "l", "type": "long", "default": -1},
        {"name": "b", "type": "boolean", "default": true},
        {"name": "v", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "m", "type": {"type": "map", "values": "long"}, "default": {}},
        {"name": "r", "type": ["null", {"type": "record", "name": "N", "fields": [
            {"name": "x", "type": "string"}, {"name": "y", "type": {"type": "array", "items": "long"}}]}], "default": null}
    ]);
    let expected = json!({"t": "a text longer than a view holds", "a": 5, "l": -1, "b": true, "v": [], "m": {}});
    assert_eq!(read(&older, &newer, &json!({"a": 5})), Ok(expected));
}

#[test]
fn types_are_promoted() {
    let field = |of: Json| json!([{"name": "f", "type": of}]);
    let cases = [
        (json!("int"), json!("long"), json!(-7)),
        (json!("int"), json!(["null", "long"]), json!(-7)),
        (json!("string"), json!(["null", "string"]), json!("")),
        (json!(["null", "int"]), json!(["null", "long"]), json!(3)),
        (
            json!(["string", "null"]),
            json!(["null", "string"]),
            json!("a text longer than a view holds"),
        ),
        (json!(["null", "string"]), json!("string"), json!("x")),
        (json!(["int", "string"]), json!("long"), json!(4)),
        (
            json!({"type": "array", "items": "int"}),
            json!({"type": "array", "items": ["null", "long"]}),
            json!([1, 2]),
        ),
        (
            json!({"type": "map", "values": "int"}),
            json!(["null", {"type": "map", "values": "long"}]),
            json!({"k": 1}),
        ),
        (
            json!("long"),
            json!({"type": "long", "logicalType": "timestamp-nanos"}),
            json!(9),
        ),
    ];
    for (writer, reader, value) in cases {
        assert_eq!(
            read(&field(writer), &field(reader), &json!({"f": value})),
            Ok(json!({"f": value}))
        );
    }
}

#[test]
fn a_null_where_the_reader_takes_none_costs_its_record() {
    let writer = json!([{"name": "f", "type": ["null", "string"]}]);
    let reader = json!([{"name": "f", "type": "string"}]);
    let error = DecodeError::Field {
        field: "f".to_owned(),
        error: WireError::Branch(0),
    };
    assert_eq!(read(&writer, &reader, &json!({})), Err(error));
}

#[test]
fn renamed_fields_and_records_are_found_by_their_aliases() {
    let writer = json!([{"name": "old", "type": "long"}, {"name": "same", "type": "long"}]);
    let reader = json!([{"name": "new", "type": "long", "aliases": ["old"]}, {"name": "same", "type": "long"}]);
    assert_eq!(
        read(&writer, &reader, &json!({"old": 1, "same": 2})),
        Ok(json!({"new": 1, "same": 2}))
    );

    let reader =
        json!({"type": "record", "name": "New", "aliases": ["R"], "fields": writer}).to_string();
    BatchDecoder::new(&reader, None)
        .unwrap()
        .register(&schema_of(&writer))
        .unwrap();
}

#[test]
fn writers_that_cannot_be_read_are_refused_with_the_field() {
    let field = |of: Json| json!([{"name": "f", "type": of}]);
    let check = |writer: Json, reader: Json, expected: &str| {
        assert_eq!(refused(&field(writer), &field(reader)), expected)
    };
    let mismatch = |writer: &str| {
        format!("field f: the writer's type {writer} cannot be read as the reader's")
    };
    check(json!("string"), json!("long"), &mismatch("\"string\""));
    check(json!("double"), json!("long"), &mismatch("\"double\""));
    // In a union, because a fingerprint knows no units: the writer's must differ from the reader's.
    let micros = json!(["null", {"type": "long", "logicalType": "timestamp-micros"}]);
    check(
        micros,
        json!({"type": "long", "logicalType": "timestamp-nanos"}),
        &mismatch("[\"null\",\"long\"]"),
    );
    let empty = "field f: items of an array take no bytes, so their count has no bound";
    check(
        json!({"type": "array", "items": "null"}),
        json!({"type": "array", "items": ["null", "long"]}),
        empty,
    );

    let none = json!([]);
    let long = json!([{"name": "f", "type": "long"}]);
    assert_eq!(
        refused(&none, &long),
        "field f is missing in the writer's schema and has no default in the reader's"
    );
    let items = json!([{"name": "g", "type": {"type": "array", "items": {"type": "record", "name": "N", "fields": []}}}]);
    assert_eq!(
        refused(&items, &none),
        "field g: items of an array take no bytes, so their count has no bound"
    );
}

#[test]
fn recursive_and_exploding_schemas_are_refused() {
    let recursive = json!([{"name": "f", "type": {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}}]);
    let endless = json!([{"name": "f", "type": {"type": "array", "items": {"type": "record", "name": "N", "fields": [{"name": "next", "type": "N"}]}}}]);
    let mut twice = json!("long");
    for level in 0..40 {
        let name = format!("N{level}");
        twice = json!({"type": "record", "name": name, "fields": [
            {"name": "a", "type": twice}, {"name": "b", "type": if level == 0 { "long".to_owned() } else { format!("N{}", level - 1) }}]});
    }
    let exploding = json!([{"name": "f", "type": twice}]);
    for writer in [recursive, endless, exploding] {
        for reader in [
            json!([]),
            json!([{"name": "f", "type": ["null", "long"], "default": null}]),
            writer.clone(),
        ] {
            let Ok(mut decoder) = BatchDecoder::new(&schema_of(&reader), None) else {
                continue;
            };
            assert!(decoder.register(&schema_of(&writer)).is_err());
        }
        assert!(matches!(
            BatchDecoder::new(&schema_of(&writer), None),
            Err(SchemaError::TooLarge { .. })
        ));
    }
}

#[test]
fn writers_take_turns_within_a_batch() {
    let reader = contract("Event");
    let mut older: Json = serde_json::from_str(reader.schema).unwrap();
    older["fields"]
        .as_array_mut()
        .unwrap()
        .retain(|field| field["name"] != "proc_cmdline");
    let older = parse(&older.to_string());
    let mut decoder = BatchDecoder::new(reader.schema, Some(&["proc_cmdline", "seq"])).unwrap();
    let full = |seq: i64| {
        (reader.decode_framed)(&(reader.encode_framed)(
            &json!({"seq": seq, "proc_cmdline": "sh"}),
        ))
        .unwrap()
    };
    let by_older = |seq| framed(&older, &names(&older), &full(seq));

    let unknown = DecodeError::UnknownSchema(framing::fingerprint_of(&older));
    assert_eq!(decoder.push(&by_older(0)), Err(unknown));
    let fingerprint = decoder
        .register(&serde_json::to_string(&older).unwrap())
        .unwrap();
    assert!(decoder.knows(fingerprint));
    for seq in 0..6 {
        let message = if seq % 2 == 0 {
            by_older(seq)
        } else {
            (reader.encode_framed)(&full(seq))
        };
        decoder.push(&message).unwrap();
    }
    let expected = |seq| {
        if seq % 2 == 0 {
            json!({"seq": seq})
        } else {
            json!({"seq": seq, "proc_cmdline": "sh"})
        }
    };
    assert_eq!(
        rows(&decoder.finish()),
        (0..6).map(expected).collect::<Vec<_>>()
    );
}

#[test]
fn a_projection_is_the_same_columns_and_nothing_else() {
    let event = contract("Event");
    let schema = parse(event.schema);
    let records = some_records(&schema, &names(&schema), 7);
    let mut all = BatchDecoder::new(event.schema, None).unwrap();
    let projection = [
        "proc_args",
        "evt_type",
        "container_labels",
        "ts",
        "fd_name",
        "evt_failed",
    ];
    let mut some = BatchDecoder::new(event.schema, Some(&projection)).unwrap();
    let mut none = BatchDecoder::new(event.schema, Some(&[])).unwrap();
    for record in &records {
        let framed = (event.encode_framed)(record);
        [&mut all, &mut some, &mut none]
            .into_iter()
            .for_each(|decoder| decoder.push(&framed).unwrap());
    }
    let (all, some, none) = (all.finish(), some.finish(), none.finish());
    let names: Vec<_> = some
        .schema_ref()
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "ts",
            "evt_type",
            "evt_failed",
            "proc_args",
            "container_labels",
            "fd_name"
        ]
    );
    for name in projection {
        assert_eq!(some.column_by_name(name), all.column_by_name(name));
    }
    assert_eq!((none.num_columns(), none.num_rows()), (0, records.len()));
}

#[test]
fn unknown_columns_and_types_without_one_are_refused() {
    let event = contract("Event");
    let unknown = |names: &[&str]| {
        BatchDecoder::new(event.schema, Some(names))
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(
        unknown(&["ts", "nmae"]).as_deref(),
        Some("column nmae is not in the schema")
    );
    let double = schema_of(&json!([{"name": "f", "type": "double"}]));
    let error = BatchDecoder::new(&double, None)
        .err()
        .map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("field f: no column for the Avro type \"double\"")
    );
    assert!(matches!(
        BatchDecoder::new("\"long\"", None),
        Err(SchemaError::NotRecord)
    ));
    assert!(matches!(
        BatchDecoder::new("{", None),
        Err(SchemaError::Parse(_))
    ));
}

#[test]
fn a_record_of_another_topic_is_refused() {
    let mut decoder = BatchDecoder::new(contract("Event").schema, None).unwrap();
    let error = decoder.register(contract("Alert").schema).unwrap_err();
    assert_eq!(error.to_string(), "record Alert cannot be read as Event");
    let alert = (contract("Alert").encode_framed)(&json!({}));
    assert!(matches!(
        decoder.push(&alert),
        Err(DecodeError::UnknownSchema(_))
    ));
}
