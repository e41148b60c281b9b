//! Every schema stays readable, in both directions, by every version that was ever released.
//!
//! `released/VERSION/*.avsc` are copies made at each release; they are never changed afterwards.

use crate::support::{CONTRACTS, parse};
use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde_json::Value as Json;
use std::fs;
use std::path::Path;

/// Calls with version, the schema as released, the schema as it is.
fn for_each_released(check: impl Fn(&str, &str, &str)) {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    let mut versions = 0;
    for folder in fs::read_dir(released).unwrap().map(Result::unwrap) {
        versions += 1;
        for contract in &CONTRACTS {
            let path = folder.path().join(contract.file);
            // A record that is newer than the version has no copy there.
            if let Ok(old) = fs::read_to_string(&path) {
                check(&path.display().to_string(), &old, contract.schema);
            }
        }
    }
    assert!(versions > 0);
}

#[test]
fn every_released_version_reads_and_is_read() {
    for_each_released(|path, old, new| {
        let (old, new) = (parse(old), parse(new));
        assert_eq!(
            SchemaCompatibility::mutual_read(&old, &new),
            Ok(Compatibility::Full),
            "{path}"
        );
    });
}

#[test]
fn released_columns_stay_as_they_are_and_added_ones_have_defaults() {
    for_each_released(|path, old, new| {
        let (old, new): (Json, Json) = (
            serde_json::from_str(old).unwrap(),
            serde_json::from_str(new).unwrap(),
        );
        compare_records(path, &old, &new);
    });
}

/// Compares the fields of a record, and of the records nested in them.
fn compare_records(path: &str, old: &Json, new: &Json) {
    for (name, field) in fields(old) {
        let now = fields(new)
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("{path}: {name} is gone"))
            .1;
        assert_eq!(
            field.get("default"),
            now.get("default"),
            "{path}: default of {name}"
        );
        match (nested_record(&field["type"]), nested_record(&now["type"])) {
            (Some(old), Some(new)) => compare_records(&format!("{path}: {name}"), old, new),
            _ => assert_eq!(field["type"], now["type"], "{path}: type of {name}"),
        }
    }
    for (name, field) in fields(new) {
        let added = fields(old).all(|(n, _)| n != name);
        assert!(
            !added || field.get("default").is_some(),
            "{path}: {name} was added without a default"
        );
    }
}

fn fields(record: &Json) -> impl Iterator<Item = (&str, &Json)> {
    record["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field["name"].as_str().unwrap(), field))
}

/// The record that a type is, or is a list or the nullable form of.
fn nested_record(of: &Json) -> Option<&Json> {
    match of {
        Json::Array(branches) => branches.iter().find_map(nested_record),
        Json::Object(object) if object["type"] == "record" => Some(of),
        Json::Object(object) => object.get("items").and_then(nested_record),
        _ => None,
    }
}

#[test]
fn this_version_has_its_copy() {
    let version = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap().0;
    for contract in &CONTRACTS {
        let copy = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("released")
            .join(version)
            .join(contract.file);
        assert!(
            copy.exists(),
            "copy {} to {}",
            contract.file,
            copy.display()
        );
    }
}

/// Checks a schema and all within it.
fn check_schema(path: &str, schema: &Schema) {
    match schema {
        Schema::Record(record) => {
            assert!(
                record.doc.as_ref().is_some_and(|doc| doc.ends_with('.')),
                "{path} has no sentence of documentation"
            );
            for field in &record.fields {
                let path = format!("{path}.{}", field.name);
                let documented = field.doc.as_ref().is_some_and(|doc| doc.ends_with('.'));
                assert!(documented, "{path} has no sentence of documentation");
                let nullable = matches!(&field.schema, Schema::Union(_));
                let null_by_default = field.default == Some(Json::Null);
                assert_eq!(
                    nullable, null_by_default,
                    "{path}: what may be null is null by default"
                );
                check_schema(&path, &field.schema);
            }
        }
        Schema::Array(array) => check_schema(path, &array.items),
        Schema::Map(map) => check_schema(path, &map.types),
        Schema::Union(union) => union
            .variants()
            .iter()
            .for_each(|variant| check_schema(path, variant)),
        // Left out on purpose: int and float (what grows is a long), enum (a new symbol breaks old readers), bytes and fixed.
        Schema::Null
        | Schema::Boolean
        | Schema::Long
        | Schema::String
        | Schema::TimestampNanos
        | Schema::Ref { .. } => {}
        other => panic!("{path}: {other:?} is not among the types our schemas use"),
    }
}

#[test]
fn every_field_is_documented_and_of_a_type_that_can_evolve() {
    for contract in &CONTRACTS {
        check_schema(contract.name, &parse(contract.schema));
    }
}

#[test]
fn times_are_timestamps_and_names_say_so() {
    for contract in &CONTRACTS {
        let Schema::Record(record) = parse(contract.schema) else {
            panic!("a record")
        };
        for field in record.fields {
            let of = match &field.schema {
                Schema::Union(union) => &union.variants()[1],
                of => of,
            };
            if matches!(of, Schema::TimestampNanos) {
                let time = ["_ts", "_mtime", "_ctime", "window_start", "window_end"]
                    .iter()
                    .any(|end| field.name.ends_with(end));
                assert!(
                    time || field.name == "ts",
                    "{}.{}",
                    contract.name,
                    field.name
                );
            }
        }
    }
}
