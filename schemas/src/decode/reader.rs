//! The reader's side: which columns there are, of which type, and what fills them where a writer has no such field.

use super::SchemaError;
use super::columns::Column;
use super::plan::{Constant, DEPTH_MAX, TYPES_MAX};
use crate::canonical::canonical_form;
use apache_avro::Schema;
use apache_avro::schema::{NamesRef, RecordSchema, ResolvedSchema};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema, TimeUnit};
use serde_json::Value as Json;
use std::sync::Arc;

/// A record of the reader's schema.
pub(super) struct Record {
    /// Its name without namespace, then its aliases.
    pub names: Vec<String>,
    pub fields: Vec<Field>,
}

/// A field of a record: a column, or the child of one.
pub(super) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub default: Option<Constant>,
    pub of: Type,
}

/// A type that has a column.
pub(super) struct Type {
    pub nullable: bool,
    pub kind: Kind,
}

/// What a type is, null aside.
pub(super) enum Kind {
    Text,
    Long,
    Timestamp,
    Boolean,
    List(Box<Type>),
    Map(Box<Type>),
    Record(Record),
}

impl Record {
    pub fn parse(json: &str) -> Result<Self, SchemaError> {
        let schema = Schema::parse_str(json).map_err(Box::new)?;
        let resolved = ResolvedSchema::new(&schema).map_err(Box::new)?;
        let Schema::Record(record) = &schema else {
            return Err(SchemaError::NotRecord);
        };
        let mut parser = Parser {
            names: resolved.get_names(),
            types_left: TYPES_MAX,
            depth: 0,
        };
        parser.record(record, "")
    }

    /// Keeps the named fields, in the schema's order.
    pub fn project(&mut self, names: &[&str]) -> Result<(), SchemaError> {
        for &name in names {
            if !self.fields.iter().any(|field| field.name == name) {
                return Err(SchemaError::UnknownColumn(name.to_owned()));
            }
        }
        self.fields
            .retain(|field| names.contains(&field.name.as_str()));
        Ok(())
    }

    pub fn arrow_schema(&self) -> ArrowSchema {
        ArrowSchema::new(self.arrow_fields())
    }

    pub fn columns(&self) -> Vec<Column> {
        self.fields
            .iter()
            .map(|field| Column::new(&field.of))
            .collect()
    }

    fn arrow_fields(&self) -> Vec<ArrowField> {
        self.fields
            .iter()
            .map(|field| field.of.arrow_field(&field.name))
            .collect()
    }
}

impl Type {
    fn arrow_field(&self, name: &str) -> ArrowField {
        ArrowField::new(name, self.data_type(), self.nullable)
    }

    fn data_type(&self) -> DataType {
        match &self.kind {
            Kind::Text => DataType::Utf8View,
            Kind::Long => DataType::Int64,
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
            Kind::Boolean => DataType::Boolean,
            Kind::List(item) => DataType::List(Arc::new(item.arrow_field("item"))),
            Kind::Map(value) => {
                let key = ArrowField::new("keys", DataType::Utf8, false);
                let entry =
                    DataType::Struct([key, value.arrow_field("values")].into_iter().collect());
                DataType::Map(Arc::new(ArrowField::new("entries", entry, false)), false)
            }
            Kind::Record(record) => DataType::Struct(record.arrow_fields().into()),
        }
    }
}

struct Parser<'s> {
    names: &'s NamesRef<'s>,
    types_left: usize,
    depth: usize,
}

impl Parser<'_> {
    fn record(&mut self, schema: &RecordSchema, path: &str) -> Result<Record, SchemaError> {
        let aliases = schema
            .aliases
            .iter()
            .flatten()
            .map(|alias| alias.name().to_owned());
        let names = std::iter::once(schema.name.name().to_owned())
            .chain(aliases)
            .collect();
        let fields = schema.fields.iter().map(|field| {
            let path = format!("{path}{}", field.name);
            let of = self.of(&field.schema, &path)?;
            let default = field
                .default
                .as_ref()
                .map(|json| constant(json, &of, &path))
                .transpose()?;
            Ok(Field {
                name: field.name.clone(),
                aliases: field.aliases.clone(),
                default,
                of,
            })
        });
        Ok(Record {
            names,
            fields: fields.collect::<Result<_, SchemaError>>()?,
        })
    }

    fn of(&mut self, schema: &Schema, path: &str) -> Result<Type, SchemaError> {
        let Schema::Union(union) = schema else {
            return Ok(Type {
                nullable: false,
                kind: self.kind(schema, path)?,
            });
        };
        match union.variants() {
            [Schema::Null, some] | [some, Schema::Null] => Ok(Type {
                nullable: true,
                kind: self.kind(some, path)?,
            }),
            _ => Err(no_column(schema, path)),
        }
    }

    fn kind(&mut self, schema: &Schema, path: &str) -> Result<Kind, SchemaError> {
        self.types_left = self.types_left.saturating_sub(1);
        self.depth += 1;
        if self.types_left == 0 || self.depth > DEPTH_MAX {
            return Err(SchemaError::TooLarge {
                types_max: TYPES_MAX,
            });
        }
        let kind = match schema {
            Schema::String => Kind::Text,
            Schema::Int | Schema::Long => Kind::Long,
            Schema::TimestampNanos => Kind::Timestamp,
            Schema::Boolean => Kind::Boolean,
            Schema::Array(array) => {
                Kind::List(Box::new(self.of(&array.items, &format!("{path}[]"))?))
            }
            Schema::Map(map) => Kind::Map(Box::new(self.of(&map.types, &format!("{path}{{}}"))?)),
            Schema::Record(record) if !record.fields.is_empty() => {
                Kind::Record(self.record(record, &format!("{path}."))?)
            }
            Schema::Ref { name } => match self.names.get(name) {
                Some(definition) => self.kind(definition, path)?,
                None => return Err(no_column(schema, path)),
            },
            _ => return Err(no_column(schema, path)),
        };
        self.depth -= 1;
        Ok(kind)
    }
}

fn no_column(schema: &Schema, path: &str) -> SchemaError {
    SchemaError::NoColumn {
        field: path.to_owned(),
        avro_type: canonical_form(schema),
    }
}

/// The value of a default, if it is one of the simple ones.
fn constant(json: &Json, of: &Type, path: &str) -> Result<Constant, SchemaError> {
    let unsupported = || SchemaError::Default {
        field: path.to_owned(),
        default: json.to_string(),
    };
    match (json, &of.kind) {
        (Json::Null, _) if of.nullable => Ok(Constant::Null),
        (Json::String(text), Kind::Text) => Ok(Constant::Text(text.clone())),
        (Json::Number(number), Kind::Long | Kind::Timestamp) => {
            number.as_i64().map(Constant::Long).ok_or_else(unsupported)
        }
        (Json::Bool(value), Kind::Boolean) => Ok(Constant::Boolean(*value)),
        (Json::Array(items), Kind::List(_)) if items.is_empty() => Ok(Constant::Empty),
        (Json::Object(entries), Kind::Map(_)) if entries.is_empty() => Ok(Constant::Empty),
        _ => Err(unsupported()),
    }
}
