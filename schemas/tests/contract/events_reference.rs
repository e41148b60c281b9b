//! `docs/events.md` is what the schemas say; `UPDATE_EXPECT=1` writes it anew.

use crate::support::{CONTRACTS, names, parse};
use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};
use dogwatch_schemas::topics::{Cleanup, Key, Topic, Topics};
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

const HEAD: &str = "# Event reference

Every column of every record, generated from `schemas/*.avsc`.
Do not edit: `UPDATE_EXPECT=1 cargo test --release -p dogwatch-schemas --test contract events_reference` writes it anew.
What the columns mean together, and what will never change, is in [semantics.md](semantics.md).

A column marked with ○ is null when its value is not known; the others are never null.
A `timestamp` has nanoseconds and is UTC.
";

const CALLS: &str = "\n## System calls\n";

#[test]
fn the_event_reference_is_what_the_schemas_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    // What follows is made from the sensor's table of calls, by a test beside it.
    let calls = before.find(CALLS).map_or("", |at| &before[at..]);
    let expected = reference() + calls;
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is old: run the test with UPDATE_EXPECT=1",
        path.display()
    );
}

fn reference() -> String {
    let mut out = HEAD.to_owned();
    for (contract, topic) in CONTRACTS.iter().zip([
        Topic::Events,
        Topic::Alerts,
        Topic::Sensors,
        Topic::Containers,
        Topic::ContainerSamples,
        Topic::ProcessSamples,
        Topic::SyscallSamples,
        Topic::IoSamples,
    ]) {
        let schema = parse(contract.schema);
        let Schema::Record(record) = &schema else {
            panic!("a record")
        };
        let name = Topics::new("dogwatch").name(topic);
        writeln!(out, "\n## {}: topic `{name}`\n", contract.name).unwrap();
        writeln!(out, "{}", sentences(record.doc.as_deref().unwrap())).unwrap();
        writeln!(out, "Key: {}.", key(topic)).unwrap();
        if topic.cleanup() == Cleanup::Compact {
            writeln!(out, "Compacted: the newest record of each key stays.").unwrap();
        }
        table(&mut out, record);
        let mut nested: Vec<_> = names(&schema).into_values().collect();
        nested.sort_by_key(|schema| schema.name().map(|name| name.name().to_owned()));
        for schema in nested {
            match schema {
                Schema::Record(nested) if nested.name != record.name => {
                    writeln!(
                        out,
                        "\n### {}\n\n{}",
                        nested.name.name(),
                        sentences(nested.doc.as_deref().unwrap())
                    )
                    .unwrap();
                    table(&mut out, &nested);
                }
                _ => {}
            }
        }
    }
    out
}

/// One sentence a line, as all our Markdown.
fn sentences(doc: &str) -> String {
    doc.replace(". ", ".\n")
}

fn key(topic: Topic) -> &'static str {
    match topic.key() {
        Key::HostId => "the host id",
        Key::HostAndContainer => "`HOST_ID/CONTAINER_FULL_ID`",
        Key::DedupKey => "`dedup_key`",
        Key::Fingerprint => "the schema's fingerprint",
        Key::Original => "that of the original record",
        Key::StatePiece => "name of a piece of state",
        Key::SetNumber => "number of the set",
        Key::Source => "topic and partition that it is of",
    }
}

fn table(out: &mut String, record: &RecordSchema) {
    writeln!(
        out,
        "\n| column | type | | meaning |\n| --- | --- | --- | --- |"
    )
    .unwrap();
    for field in &record.fields {
        let nullable = if matches!(field.schema, Schema::Union(_)) {
            "○"
        } else {
            ""
        };
        let doc = field.doc.as_deref().unwrap().replace('|', "\\|") + &values(field);
        writeln!(
            out,
            "| `{}` | {} | {nullable} | {doc} |",
            field.name,
            type_name(&field.schema)
        )
        .unwrap();
    }
}

/// The values of a closed column, where its documentation does not name them all.
fn values(field: &RecordField) -> String {
    let doc = field.doc.as_deref().unwrap();
    let values = field.custom_attributes.get("values");
    let values = values.and_then(|values| values.as_array());
    let values = values
        .into_iter()
        .flatten()
        .map(|value| value.as_str().unwrap());
    let values: Vec<&str> = values.collect();
    if values.iter().all(|value| doc.contains(value)) {
        return String::new();
    }
    let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    format!(" Values: {}.", quoted.join(", "))
}

fn type_name(schema: &Schema) -> String {
    match schema {
        Schema::String => "text".to_owned(),
        Schema::Long => "bigint".to_owned(),
        Schema::Boolean => "boolean".to_owned(),
        Schema::TimestampNanos => "timestamp".to_owned(),
        Schema::Array(array) => format!("list of {}", type_name(&array.items)),
        Schema::Map(map) => format!("map of text to {}", type_name(&map.types)),
        Schema::Union(union) => type_name(&union.variants()[1]),
        Schema::Record(record) => record.name.name().to_owned(),
        Schema::Ref { name } => name.name().to_owned(),
        other => panic!("{other:?} is in no schema of ours"),
    }
}
