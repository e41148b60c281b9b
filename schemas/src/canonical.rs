//! The Parsing Canonical Form of a schema, which its fingerprint is taken of.
//!
//! Not apache-avro's: its version 0.22 writes a long with a logical type as `{"type":"long"}` where the specification, Java, and arrow-avro write `"long"`, so its fingerprints are no other reader's.

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};

/// Returns the canonical form.
pub(crate) fn canonical_form(schema: &Schema) -> String {
    match schema {
        Schema::Null => quoted("null"),
        Schema::Boolean => quoted("boolean"),
        Schema::Int | Schema::Date | Schema::TimeMillis => quoted("int"),
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => quoted("long"),
        Schema::Float => quoted("float"),
        Schema::Double => quoted("double"),
        Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => quoted("bytes"),
        Schema::String | Schema::Uuid(UuidSchema::String) => quoted("string"),
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => quoted("bytes"),
            InnerDecimalSchema::Fixed(fixed) => {
                named(&fixed.name, "fixed", &format!("\"size\":{}", fixed.size))
            }
        },
        Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
            named(&fixed.name, "fixed", &format!("\"size\":{}", fixed.size))
        }
        Schema::Enum(of) => named(
            &of.name,
            "enum",
            &format!(
                "\"symbols\":[{}]",
                joined(of.symbols.iter().map(|s| quoted(s)))
            ),
        ),
        Schema::Array(array) => format!(
            "{{\"type\":\"array\",\"items\":{}}}",
            canonical_form(&array.items)
        ),
        Schema::Map(map) => format!(
            "{{\"type\":\"map\",\"values\":{}}}",
            canonical_form(&map.types)
        ),
        Schema::Union(union) => {
            format!("[{}]", joined(union.variants().iter().map(canonical_form)))
        }
        Schema::Record(record) => {
            let fields = record.fields.iter().map(|field| {
                format!(
                    "{{\"name\":{},\"type\":{}}}",
                    quoted(&field.name),
                    canonical_form(&field.schema)
                )
            });
            named(
                &record.name,
                "record",
                &format!("\"fields\":[{}]", joined(fields)),
            )
        }
        Schema::Ref { name } => quoted(&name.fullname(None)),
    }
}

fn named(name: &Name, avro_type: &str, rest: &str) -> String {
    format!(
        "{{\"name\":{},\"type\":\"{avro_type}\",{rest}}}",
        quoted(&name.fullname(None))
    )
}

/// Avro's names and symbols are letters, digits and underscores: nothing to escape.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: &str, expected: &str) {
        assert_eq!(
            canonical_form(&Schema::parse_str(schema).unwrap()),
            expected
        );
    }

    #[test]
    fn primitives_lose_their_attributes() {
        check(r#"{"type":"long"}"#, r#""long""#);
        check(
            r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
            r#""long""#,
        );
        check(r#"{"type":"int","logicalType":"date"}"#, r#""int""#);
        check(r#"{"type":"string","logicalType":"uuid"}"#, r#""string""#);
        check(
            r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
            r#""bytes""#,
        );
        check(
            r#"["null",{"type":"long","logicalType":"timestamp-micros"}]"#,
            r#"["null","long"]"#,
        );
    }

    #[test]
    fn named_types_have_full_names_and_nothing_but_their_parts() {
        check(
            r#"{"type":"record","name":"R","namespace":"n","doc":"d","aliases":["Q"],"fields":[
                {"name":"f","type":{"type":"fixed","name":"F","size":4},"doc":"d","aliases":["q"]},
                {"name":"g","type":["null","F"],"default":null},
                {"name":"h","type":{"type":"enum","name":"m.E","symbols":["A","B"],"default":"A"}},
                {"name":"i","type":{"type":"map","values":{"type":"array","items":"R"}}}]}"#,
            concat!(
                r#"{"name":"n.R","type":"record","fields":["#,
                r#"{"name":"f","type":{"name":"n.F","type":"fixed","size":4}},"#,
                r#"{"name":"g","type":["null","n.F"]},"#,
                r#"{"name":"h","type":{"name":"m.E","type":"enum","symbols":["A","B"]}},"#,
                r#"{"name":"i","type":{"type":"map","values":{"type":"array","items":"n.R"}}}]}"#
            ),
        );
    }
}
