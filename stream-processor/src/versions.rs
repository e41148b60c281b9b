//! Reads records of any version of their schema, for programs that show them.
//!
//! ```text
//! record ─┬─ own schema ──────────────────────────────────────────► T
//!         └─ another one ─► looked up ─► what both have in common ─► T, the rest as its defaults
//! ```
//! The engine is stricter (`decode`): a detection must not judge half an event. Whoever looks at alerts sees what there is.

use std::collections::BTreeMap;

use dogwatch_kafka::{Brokers, Fault};
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::{Fingerprint, framing};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::decode::first_record;
use crate::schema_lookup::SchemaLookup;

/// Most writers' schemas that are compiled at once, some 100 KiB each; beyond it all are compiled anew.
const DECODERS_MAX: usize = 100;

/// A record that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its bytes are no record of its schema.
    #[error(transparent)]
    Record(#[from] DecodeError),
    /// Nobody knows the schema it was written with.
    #[error("its schema {fingerprint} is not in topic {topic}")]
    NoSchema {
        /// The schema's fingerprint.
        fingerprint: Fingerprint,
        /// Where schemas are looked up.
        topic: String,
    },
    /// Its schema is that of something else.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Its values are none of such a record.
    #[error("could not read its fields: {0}")]
    Fields(#[from] serde_json::Error),
    /// Schemas cannot be looked up.
    #[error(transparent)]
    Kafka(#[from] Fault),
}

/// Reads records of one kind.
pub struct Versions<T> {
    schema: &'static str,
    own: fn(&[u8]) -> Result<T, DecodeError>,
    schemas: Schemas,
    decoders: BTreeMap<Fingerprint, BatchDecoder>,
}

/// The topic of schemas, opened when the first of another version comes.
struct Schemas {
    brokers: Brokers,
    group_id: String,
    topic: String,
    lookup: Option<SchemaLookup>,
}

impl<T: DeserializeOwned> Versions<T> {
    /// Reads records of `schema` by `own`, which is that record's `decode_framed`; other versions by what stands in `topic`.
    pub fn new(
        schema: &'static str,
        own: fn(&[u8]) -> Result<T, DecodeError>,
        (brokers, group_id, topic): (Brokers, &str, String),
    ) -> Self {
        let schemas = Schemas {
            brokers,
            group_id: group_id.to_owned(),
            topic,
            lookup: None,
        };
        Self {
            schema,
            own,
            schemas,
            decoders: BTreeMap::new(),
        }
    }

    /// Reads one framed record.
    ///
    /// # Errors
    /// [`Unreadable`] says why it cannot be shown.
    pub fn read(&mut self, framed: &[u8]) -> Result<T, Unreadable> {
        match (self.own)(framed) {
            Err(DecodeError::UnknownSchema(_)) => {}
            record => return Ok(record?),
        }
        let (fingerprint, _) = framing::split(framed).map_err(DecodeError::from)?;
        if !self.decoders.contains_key(&fingerprint) {
            let decoder = common(self.schema, self.schemas.find(fingerprint)?)?;
            if self.decoders.len() >= DECODERS_MAX {
                self.decoders.clear();
            }
            self.decoders.insert(fingerprint, decoder);
        }
        let decoder = self.decoders.get_mut(&fingerprint);
        let decoder = decoder.ok_or(DecodeError::UnknownSchema(fingerprint))?;
        decoder.push(framed)?;
        Ok(first_record(&decoder.finish())?)
    }
}

impl Schemas {
    fn find(&mut self, fingerprint: Fingerprint) -> Result<&str, Unreadable> {
        let lookup = match &mut self.lookup {
            Some(lookup) => lookup,
            none => none.insert(SchemaLookup::open(
                &self.brokers,
                &self.group_id,
                self.topic.clone(),
            )?),
        };
        let found = lookup.find(&[fingerprint])?.into_iter().next();
        found
            .map(|(_, schema)| schema)
            .ok_or_else(|| Unreadable::NoSchema {
                fingerprint,
                topic: self.topic.clone(),
            })
    }
}

/// Compiles a decoder for the columns of `own` that records of `writer` can fill; the others are left out.
fn common(own: &str, writer: &str) -> Result<BatchDecoder, SchemaError> {
    let mut columns = columns(own);
    loop {
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut decoder = BatchDecoder::new(own, Some(&names))?;
        let error = match decoder.register(writer) {
            Ok(_) => return Ok(decoder),
            Err(error) => error,
        };
        let (SchemaError::Mismatch { field, .. } | SchemaError::Missing { field }) = &error else {
            return Err(error);
        };
        // A path within the record begins with the column's name.
        let column = field.split(['.', '[', '{']).next().unwrap_or_default();
        let before = columns.len();
        columns.retain(|name| name != column);
        if columns.len() == before {
            return Err(error);
        }
    }
}

/// The names of a record's fields.
fn columns(schema: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = schema["fields"].as_array();
    let name = |field: &Value| field["name"].as_str().map(str::to_owned);
    fields.into_iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::types::Value as Avro;
    use apache_avro::writer::datum::GenericDatumWriter;
    use dogwatch_schemas::records::{Alert, AlertProcess};

    use super::*;

    /// An alert as a program of another version would write it.
    fn written(alert: &Alert, change: impl Fn(&mut Vec<Value>)) -> (String, Vec<u8>) {
        let mut json: Value = serde_json::from_str(Alert::SCHEMA).unwrap();
        change(json["fields"].as_array_mut().unwrap());
        let schema = Schema::parse(&json).unwrap();
        let value = apache_avro::to_value(alert).unwrap();
        let Avro::Record(mut fields) = value else {
            panic!("an alert is a record")
        };
        let of = |name: &str| {
            json["fields"]
                .as_array()
                .unwrap()
                .iter()
                .find(|field| field["name"] == name)
                .cloned()
        };
        fields.retain(|(name, _)| of(name).is_some());
        for (name, value) in &mut fields {
            if of(name).unwrap()["type"] == "string" && matches!(value, Avro::Long(_)) {
                *value = Avro::String("seven".to_owned());
            }
        }
        fields.push(("of_tomorrow".to_owned(), Avro::Long(1)));
        let value = Avro::Record(fields).resolve(&schema).unwrap();
        let mut framed = Vec::new();
        framing::write_header(framing::fingerprint_of(&schema), &mut framed);
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        framed.extend(writer.write_value_to_vec(value).unwrap());
        (json.to_string(), framed)
    }

    fn read(schema: &str, framed: &[u8]) -> Alert {
        let mut decoder = common(Alert::SCHEMA, schema).unwrap();
        decoder.push(framed).unwrap();
        first_record(&decoder.finish()).unwrap()
    }

    fn of_tomorrow(fields: &mut Vec<Value>) {
        fields.push(serde_json::json!({"name": "of_tomorrow", "type": "long"}));
    }

    fn alert() -> Alert {
        Alert {
            alert_id: "a".into(),
            message: "somebody read /etc/shadow".into(),
            event_ts: 1_750_003_200_000_000_211,
            window_start: Some(7),
            risk: 80,
            folded: 3,
            process: Some(AlertProcess {
                pid: 12,
                ..AlertProcess::default()
            }),
            ..Alert::default()
        }
    }

    #[test]
    fn alerts_of_a_newer_version_are_read_without_what_is_new() {
        let (schema, framed) = written(&alert(), of_tomorrow);
        assert_eq!(read(&schema, &framed), alert());
    }

    #[test]
    fn fields_that_went_or_became_something_else_are_left_out() {
        let (schema, framed) = written(&alert(), |fields| {
            of_tomorrow(fields);
            fields.retain(|field| field["name"] != "risk");
            let folded = fields.iter_mut().find(|field| field["name"] == "folded");
            folded.unwrap()["type"] = "string".into();
        });
        let common = Alert {
            risk: 0,
            folded: 0,
            ..alert()
        };
        assert_eq!(read(&schema, &framed), common);
    }

    #[test]
    fn records_of_something_else_are_refused() {
        let other = r#"{"type": "record", "name": "Order", "fields": []}"#;
        let error = common(Alert::SCHEMA, other).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "record Order cannot be read as Alert");
    }
}
