//! Records as JSON: made at random from their schema, and read back from each of the codecs that are compared.
//! A null field is a missing one, so that values of all origins compare.

use apache_avro::Schema;
use apache_avro::schema::{Name, ResolvedSchema};
use apache_avro::types::Value;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampNanosecondType};
use dogwatch_schemas::decode::DecodeError;
use dogwatch_schemas::framing::Fingerprint;
use dogwatch_schemas::records::{
    Alert, Container, ContainerSample, Event, IoSample, ProcessSample, SensorStatus, SyscallSample,
};
use dogwatch_schemas::time;
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

/// A record of the crate, by its name.
pub struct Contract {
    pub name: &'static str,
    pub file: &'static str,
    pub schema: &'static str,
    pub fingerprint: fn() -> Fingerprint,
    pub encode: fn(&Json) -> Vec<u8>,
    pub encode_framed: fn(&Json) -> Vec<u8>,
    pub decode_framed: fn(&[u8]) -> Result<Json, DecodeError>,
}

macro_rules! contract {
    ($record:ident, $file:literal) => {
        Contract {
            name: stringify!($record),
            file: $file,
            schema: $record::SCHEMA,
            fingerprint: $record::fingerprint,
            encode: |json| {
                let mut out = Vec::new();
                serde_json::from_value::<$record>(json.clone())
                    .expect("JSON of the record")
                    .encode(&mut out);
                out
            },
            encode_framed: |json| {
                let mut out = Vec::new();
                serde_json::from_value::<$record>(json.clone())
                    .expect("JSON of the record")
                    .encode_framed(&mut out);
                out
            },
            decode_framed: |framed| {
                let json = serde_json::to_value($record::decode_framed(framed)?)
                    .expect("records become JSON");
                Ok(with_numbers(json))
            },
        }
    };
}

/// JSON with each time as the number that Avro has: text that is exactly as times are written is one.
pub fn with_numbers(json: Json) -> Json {
    match json {
        Json::String(text) => match time::nanoseconds(&text) {
            Some(ns) if time::text(ns) == text => ns.into(),
            _ => Json::String(text),
        },
        Json::Array(items) => items.into_iter().map(with_numbers).collect(),
        Json::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name, with_numbers(value)));
            Json::Object(fields.collect())
        }
        other => other,
    }
}

pub const CONTRACTS: [Contract; 8] = [
    contract!(Event, "event.avsc"),
    contract!(Alert, "alert.avsc"),
    contract!(SensorStatus, "sensor_status.avsc"),
    contract!(Container, "container.avsc"),
    contract!(ContainerSample, "container_sample.avsc"),
    contract!(ProcessSample, "process_sample.avsc"),
    contract!(SyscallSample, "syscall_sample.avsc"),
    contract!(IoSample, "io_sample.avsc"),
];

pub fn contract(name: &str) -> &'static Contract {
    CONTRACTS
        .iter()
        .find(|contract| contract.name == name)
        .expect("one of ours")
}

/// Owned definitions of a schema's named types.
pub type Names = HashMap<Name, Schema>;

pub fn names(schema: &Schema) -> Names {
    let resolved = ResolvedSchema::new(schema).expect("names resolve");
    resolved
        .get_names()
        .iter()
        .map(|(name, &definition)| (name.clone(), definition.clone()))
        .collect()
}

pub fn parse(schema: &str) -> Schema {
    Schema::parse_str(schema).expect("schema parses")
}

/// Values of a schema.
pub fn arbitrary(schema: &Schema, names: &Names) -> BoxedStrategy<Json> {
    match schema {
        Schema::Null => Just(Json::Null).boxed(),
        Schema::Boolean => any::<bool>().prop_map(Json::from).boxed(),
        Schema::Int => any::<i32>().prop_map(Json::from).boxed(),
        Schema::Long | Schema::TimestampNanos => prop_oneof![3 => -100..100i64, 1 => any::<i64>()]
            .prop_map(Json::from)
            .boxed(),
        Schema::String => text().prop_map(Json::from).boxed(),
        Schema::Array(array) => prop::collection::vec(arbitrary(&array.items, names), 0..4)
            .prop_map(Json::from)
            .boxed(),
        Schema::Map(map) => prop::collection::btree_map(text(), arbitrary(&map.types, names), 0..4)
            .prop_map(|entries| Json::from(entries.into_iter().collect::<Map<_, _>>()))
            .boxed(),
        Schema::Union(union) => {
            prop::strategy::Union::new(union.variants().iter().map(|v| arbitrary(v, names))).boxed()
        }
        Schema::Record(record) => {
            let field_names: Vec<_> = record
                .fields
                .iter()
                .map(|field| field.name.clone())
                .collect();
            let values: Vec<_> = record
                .fields
                .iter()
                .map(|field| arbitrary(&field.schema, names))
                .collect();
            values
                .prop_map(move |values| {
                    let fields = field_names.iter().cloned().zip(values);
                    Json::from(
                        fields
                            .filter(|(_, value)| !value.is_null())
                            .collect::<Map<_, _>>(),
                    )
                })
                .boxed()
        }
        Schema::Ref { name } => arbitrary(&names[name], names),
        other => panic!("no values for {other:?}"),
    }
}

/// Short ones that a view holds itself, its limit of 12 bytes from both sides, long ones, and such beyond ASCII.
fn text() -> BoxedStrategy<String> {
    prop_oneof!["[a-z/]{0,3}", "[ -~]{11,13}", "[ -~]{14,80}", "\\PC{0,20}"].boxed()
}

/// A value as apache-avro takes it.
pub fn to_avro(json: &Json, schema: &Schema, names: &Names) -> Value {
    let long = || json.as_i64().expect("a long");
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(json.as_bool().expect("a boolean")),
        Schema::Int => Value::Int(i32::try_from(long()).expect("an int")),
        Schema::Long => Value::Long(long()),
        Schema::TimestampNanos => Value::TimestampNanos(long()),
        Schema::String => Value::String(json.as_str().expect("a text").to_owned()),
        Schema::Array(array) => {
            let items = json.as_array().expect("an array").iter();
            Value::Array(
                items
                    .map(|item| to_avro(item, &array.items, names))
                    .collect(),
            )
        }
        Schema::Map(map) => {
            let entries = json.as_object().expect("a map").iter();
            Value::Map(
                entries
                    .map(|(key, value)| (key.clone(), to_avro(value, &map.types, names)))
                    .collect(),
            )
        }
        Schema::Union(union) => {
            let is_null = |variant: &Schema| matches!(variant, Schema::Null);
            let branch = union
                .variants()
                .iter()
                .position(|v| is_null(v) == json.is_null())
                .expect("a branch");
            Value::Union(
                branch as u32,
                Box::new(to_avro(json, &union.variants()[branch], names)),
            )
        }
        Schema::Record(record) => {
            let field = |name: &String| json.get(name).unwrap_or(&Json::Null);
            let fields = record
                .fields
                .iter()
                .map(|f| (f.name.clone(), to_avro(field(&f.name), &f.schema, names)));
            Value::Record(fields.collect())
        }
        Schema::Ref { name } => to_avro(json, &names[name], names),
        other => panic!("no values for {other:?}"),
    }
}

/// A value as apache-avro gives it.
pub fn from_avro(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Long(value) | Value::TimestampNanos(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Array(items) => items.into_iter().map(from_avro).collect(),
        Value::Map(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, from_avro(value)))
            .collect(),
        Value::Union(_, value) => from_avro(*value),
        Value::Record(fields) => without_nulls(
            fields
                .into_iter()
                .map(|(name, value)| (name, from_avro(value))),
        ),
        other => panic!("no JSON for {other:?}"),
    }
}

/// Row of a batch.
pub fn row(batch: &RecordBatch, row: usize) -> Json {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    without_nulls(columns.map(|(field, column)| (field.name().clone(), cell(column, row))))
}

/// All rows of a batch.
pub fn rows(batch: &RecordBatch) -> Vec<Json> {
    (0..batch.num_rows())
        .map(|index| row(batch, index))
        .collect()
}

fn cell(array: &dyn Array, row: usize) -> Json {
    if array.is_null(row) {
        return Json::Null;
    }
    match array.data_type() {
        DataType::Utf8View => json!(array.as_string_view().value(row)),
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Timestamp(..) => {
            json!(array.as_primitive::<TimestampNanosecondType>().value(row))
        }
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|index| cell(&items, index)).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let key = |index| {
                cell(entries.column(0), index)
                    .as_str()
                    .expect("keys are texts")
                    .to_owned()
            };
            (0..entries.len())
                .map(|index| (key(index), cell(entries.column(1), index)))
                .collect()
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            without_nulls(columns.map(|(field, column)| (field.name().clone(), cell(column, row))))
        }
        other => panic!("no JSON for {other}"),
    }
}

fn without_nulls(fields: impl Iterator<Item = (String, Json)>) -> Json {
    fields
        .filter(|(_, value)| !value.is_null())
        .collect::<Map<_, _>>()
        .into()
}
