//! Runs of nulls, which the decoder passes over eight at a time, and integers, which it reads eight bytes at a time:
//! every place where such a stride can begin and end, against apache-avro.

use crate::support::{Names, arbitrary, from_avro, names, parse, rows, to_avro};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError};
use dogwatch_schemas::framing;
use dogwatch_schemas::wire::WireError;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value as Json, json};

/// Types of fields that may be null.
const OPTIONAL: [&str; 6] = [
    r#"["null", "string"]"#,
    r#"["null", "long"]"#,
    r#"["null", "boolean"]"#,
    r#"["null", {"type": "array", "items": ["null", "string"]}]"#,
    r#"["null", {"type": "map", "values": "long"}]"#,
    r#"["null", {"type": "long", "logicalType": "timestamp-nanos"}]"#,
];
/// Types of fields that are always there.
const REQUIRED: [&str; 3] = [r#""long""#, r#""string""#, r#""boolean""#];

/// A record schema with fields `f0`, `f1`, ... of these types.
fn schema_of<'t>(types: impl IntoIterator<Item = &'t str>) -> String {
    let fields: Vec<Json> = types
        .into_iter()
        .enumerate()
        .map(|(index, of)| {
            let of: Json = serde_json::from_str(of).unwrap();
            json!({"name": format!("f{index}"), "type": of})
        })
        .collect();
    json!({"type": "record", "name": "R", "fields": fields}).to_string()
}

/// Bytes of a record as apache-avro writes them, behind our header.
fn framed(schema: &Schema, names: &Names, record: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    framing::write_header(framing::fingerprint_of(schema), &mut out);
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    let datum = writer.write_value_to_vec(to_avro(record, schema, names));
    out.extend(datum.unwrap());
    out
}

/// The fields of a record that a projection leaves.
fn projected(record: &Json, names: &[&str]) -> Json {
    let fields = record.as_object().unwrap().iter();
    fields
        .filter(|(name, _)| names.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// Holds that these records come out as they went in, under a projection, also with broken and unknown ones between them.
fn check(schema_json: &str, records: &[Json], projection: &[&str]) {
    let schema = parse(schema_json);
    let names = names(&schema);
    let oracle = GenericDatumReader::builder(&schema).build().unwrap();
    let mut decoder = BatchDecoder::new(schema_json, Some(projection)).unwrap();
    for _ in 0..2 {
        let mut expected = Vec::new();
        for record in records {
            let good = framed(&schema, &names, record);
            let mut left = &good[10..];
            let theirs = from_avro(oracle.read_value(&mut left).unwrap());
            assert_eq!(&theirs, record, "the oracle reads what it wrote");
            expected.push(projected(&theirs, projection));

            decoder.push(&good[..good.len() - 1]).unwrap_err();
            let mut unknown = good.clone();
            unknown[2] ^= 0xff;
            let refused = decoder.push(&unknown);
            assert!(matches!(refused, Err(DecodeError::UnknownSchema(_))));
            decoder.push(&good).unwrap();
        }
        let batch = decoder.finish();
        assert_eq!(rows(&batch), expected);
        for column in batch.columns() {
            column.to_data().validate_full().unwrap();
        }
    }
}

/// A value that is not null, for a type of [`OPTIONAL`].
fn some_value(index: usize) -> Json {
    match index % OPTIONAL.len() {
        0 => json!("a text of more than twelve bytes"),
        1 => json!(-300),
        2 => json!(true),
        3 => json!(["x", null, "y"]),
        4 => json!({"k": 1}),
        _ => json!(1_790_000_000_123_456_789_i64),
    }
}

#[test]
fn a_run_of_nulls_begins_and_ends_anywhere() {
    const FIELDS: usize = 19;
    let schema = schema_of((0..FIELDS).map(|index| OPTIONAL[index % OPTIONAL.len()]));
    let field_names: Vec<String> = (0..FIELDS).map(|index| format!("f{index}")).collect();
    let field_names: Vec<&str> = field_names.iter().map(String::as_str).collect();
    let mut records = Vec::new();
    for start in 0..=FIELDS {
        for end in start..=FIELDS {
            let fields = (0..FIELDS).filter(|index| !(start..end).contains(index));
            let record: Map<_, _> = fields
                .map(|index| (format!("f{index}"), some_value(index)))
                .collect();
            records.push(Json::from(record));
        }
    }
    let every_other: Vec<&str> = field_names.iter().copied().step_by(2).collect();
    for projection in [
        &[][..],
        &field_names,
        &every_other,
        &["f0"],
        &["f18"],
        &["f8", "f9"],
    ] {
        check(&schema, &records, projection);
    }
}

/// Lengths of one byte, of two, of three, and the last and first of each.
#[test]
fn texts_of_every_length_are_passed_over_to_the_end_of_the_record() {
    let schema = schema_of([
        r#""string""#,
        OPTIONAL[0],
        r#""long""#,
        OPTIONAL[0],
        r#""string""#,
    ]);
    let lengths = (0..140).chain(8_180..8_200).chain([20_000]);
    let records: Vec<Json> = lengths
        .map(|length| {
            let (text, other) = ("t".repeat(length), "o".repeat(length / 2));
            json!({"f0": text, "f1": other, "f2": -300, "f3": text, "f4": other})
        })
        .collect();
    for projection in [&["f2"][..], &["f0", "f2"], &["f1", "f4"], &[]] {
        check(&schema, &records, projection);
    }
}

#[test]
fn any_pattern_of_nulls_between_any_fields_is_read_as_apache_avro_reads_it() {
    let of = prop_oneof![
        5 => prop::sample::select(OPTIONAL.as_slice()),
        1 => prop::sample::select(REQUIRED.as_slice()),
    ];
    let cases = prop::collection::vec(of, 1..40).prop_flat_map(|types| {
        let json = schema_of(types);
        let schema = parse(&json);
        // Sparse ones: of each ten fields that may be null, nine are.
        let records = prop::collection::vec(
            (
                arbitrary(&schema, &names(&schema)),
                prop::collection::vec(0..10u8, 40),
            ),
            1..6,
        );
        (
            Just(json),
            records,
            prop::collection::vec(any::<Index>(), 0..40),
        )
    });
    let config = Config {
        cases: 256,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&cases, |(json, records, chosen)| {
            let Schema::Record(schema) = parse(&json) else {
                unreachable!("a record")
            };
            let sparse = records.into_iter().map(|(mut record, keep)| {
                let fields = record.as_object_mut().unwrap();
                for (field, keep) in schema.fields.iter().zip(keep) {
                    if matches!(field.schema, Schema::Union(_)) && keep > 0 {
                        fields.remove(&field.name);
                    }
                }
                record
            });
            let names: Vec<&str> = chosen
                .iter()
                .map(|index| index.get(&schema.fields).name.as_str())
                .collect();
            check(&json, &sparse.collect::<Vec<_>>(), &names);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Reads a long that is followed by so many bytes of zero; also where it is passed over.
fn long_before(datum: &[u8], zeros: usize) -> Result<Json, DecodeError> {
    let types = [r#""long""#].into_iter().chain(vec![r#""long""#; zeros]);
    let schema = schema_of(types);
    let mut reading = BatchDecoder::new(&schema, Some(&["f0"])).unwrap();
    let mut passing = BatchDecoder::new(&schema, Some(&[])).unwrap();
    let mut framed = Vec::new();
    framing::write_header(reading.register(&schema).unwrap(), &mut framed);
    framed.extend_from_slice(datum);
    framed.extend(vec![0; zeros]);
    let read = reading.push(&framed);
    assert_eq!(passing.push(&framed), read);
    read?;
    Ok(rows(&reading.finish())[0]["f0"].clone())
}

#[test]
fn integers_of_every_width_are_read_before_any_number_of_bytes() {
    let widths = (0..64).flat_map(|bit| [1i64 << bit, (1i64 << bit).wrapping_sub(1)]);
    for value in widths.flat_map(|value| [value, value.wrapping_neg(), !value]) {
        let mut datum = Vec::new();
        dogwatch_schemas::wire::Datum::write(&value, &mut datum);
        for zeros in 0..12 {
            assert_eq!(long_before(&datum, zeros), Ok(json!(value)), "{zeros}");
        }
    }
}

#[test]
fn longer_forms_of_an_integer_are_read_and_too_long_ones_refused() {
    for zeros in 0..12 {
        for length in 1..10 {
            // 1 (zigzag 2) with continued zeros behind it.
            let mut datum = vec![0x80; length];
            datum[0] = 0x82;
            datum.push(0);
            assert_eq!(long_before(&datum, zeros), Ok(json!(1)), "{length}");
        }
        for last in [2, 0x7f, 0x80] {
            let datum: Vec<u8> = [0xff; 9].into_iter().chain([last]).collect();
            let expected = DecodeError::Field {
                field: "f0".to_owned(),
                error: WireError::Overlong,
            };
            assert_eq!(long_before(&datum, zeros), Err(expected), "{last}");
        }
    }
}

#[test]
fn a_null_in_a_longer_form_is_a_null_and_another_branch_is_refused() {
    let schema = schema_of([OPTIONAL[1]; 3]);
    for projection in [&["f0", "f1", "f2"][..], &["f1"], &[]] {
        let mut decoder = BatchDecoder::new(&schema, Some(projection)).unwrap();
        let mut header = Vec::new();
        framing::write_header(decoder.register(&schema).unwrap(), &mut header);
        let mut push = |datum: &[u8]| decoder.push(&[&header, datum].concat());
        push(&[0, 0x80, 0, 2, 6]).unwrap();
        push(&[0x80, 0x80, 0, 2, 8, 0]).unwrap();
        let refused = |branch| DecodeError::Field {
            field: "f1".to_owned(),
            error: WireError::Branch(branch),
        };
        assert_eq!(push(&[0, 4, 0]), Err(refused(2)));
        assert_eq!(push(&[0, 1, 0]), Err(refused(-1)));
        let all = [json!({"f2": 3}), json!({"f1": 4})];
        let expected: Vec<_> = all
            .iter()
            .map(|record| projected(record, projection))
            .collect();
        assert_eq!(rows(&decoder.finish()), expected);
    }
}
