//! A writer's schema compiled against the reader's: what to do with each field, in the writer's order.

use super::SchemaError;
use super::reader::{self, Kind, Record, Type};
use crate::canonical::canonical_form;
use crate::wire::{Leap, Over};
use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, NamesRef, RecordSchema, ResolvedSchema, UuidSchema};

/// Most types a schema may have, written out; the largest of ours has some 300.
/// A schema comes from a topic: what refers to itself, or doubles with every level, must not fill the memory.
pub(super) const TYPES_MAX: usize = 4_096;
/// Most levels of nesting.
pub(super) const DEPTH_MAX: usize = 64;

/// How a writer's records become rows.
pub(super) struct Plan {
    /// One for each of the writer's fields, in their order.
    pub fields: Vec<Field>,
    /// The same, as [`Input::pass_fields`](crate::wire::Input::pass_fields) sees them.
    pub leaps: Vec<Leap>,
    /// Columns that the writer has no field for, and what fills them; those that are null are not here.
    pub fills: Vec<(usize, Constant)>,
}

/// What is done with one of the record's own fields.
///
/// Most are unions of null and another type, and most of these are null.
/// A null asks nothing of us: columns are filled up with nulls when they next get a value.
/// So a run of nulls is passed over as what it is, a run of zero bytes, whether its fields are read or not.
pub(super) struct Field {
    /// Whether it is such a union.
    pub optional: bool,
    /// What is done with the value; in such a union, when it is not null.
    pub action: Action,
    /// The field's name.
    pub name: String,
}

/// What is done with a value.
pub(super) enum Action {
    /// Read it into the column of this index.
    Read(usize, Read),
    /// Pass over it.
    Skip(Skip),
}

/// What is done with one field of a record inside the record.
pub(super) enum Step {
    /// Read it into the column of this index.
    Read(usize, Read),
    /// Pass over it.
    Skip(Skip),
    /// The writer has no such field: fill the column of this index.
    Fill(usize, Constant),
}

/// How the bytes of a writer's type become a value of a column.
pub(super) enum Read {
    Text,
    Long,
    Boolean,
    List(Box<Read>),
    Map(Box<Read>),
    Record(Vec<Step>),
    /// The writer's null: no bytes.
    Null,
    /// The union of null and one other type, in this order: most fields are one, so it has a way of its own.
    Optional(Box<Read>),
    /// By branch of the writer's union; none = the column cannot take this branch.
    Union(Vec<Option<Read>>),
}

/// How the bytes of a writer's type are passed over.
pub(super) enum Skip {
    Nothing,
    Varint,
    Boolean,
    Fixed(usize),
    /// A length and that many bytes: text and bytes.
    Bytes,
    Array(Box<Skip>),
    Map(Box<Skip>),
    Record(Vec<Skip>),
    /// As [`Read::Optional`].
    Optional(Box<Skip>),
    Union(Vec<Skip>),
}

/// A default of the reader's schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Null,
    Text(String),
    Long(i64),
    Boolean(bool),
    /// A list or a map of no items.
    Empty,
}

impl Plan {
    pub fn compile(writer: &Schema, reader: &Record) -> Result<Self, SchemaError> {
        let resolved = ResolvedSchema::new(writer).map_err(Box::new)?;
        let Schema::Record(record) = writer else {
            return Err(SchemaError::NotRecord);
        };
        if !reader.names.iter().any(|name| name == record.name.name()) {
            return Err(SchemaError::OtherRecord {
                writer: record.name.name().to_owned(),
                reader: reader.names[0].clone(),
            });
        }
        let mut compiler = Compiler {
            names: resolved.get_names(),
            types_left: TYPES_MAX,
            depth: 0,
        };
        let mut names = record.fields.iter().map(|field| field.name.clone());
        let mut plan = Self {
            fields: Vec::with_capacity(record.fields.len()),
            leaps: Vec::new(),
            fills: Vec::new(),
        };
        for step in compiler.record(record, reader, "")? {
            let (optional, action) = match step {
                Step::Read(column, Read::Optional(some)) => (true, Action::Read(column, *some)),
                Step::Read(column, read) => (false, Action::Read(column, read)),
                Step::Skip(Skip::Optional(some)) => (true, Action::Skip(*some)),
                Step::Skip(skip) => (false, Action::Skip(skip)),
                Step::Fill(_, Constant::Null) => continue,
                Step::Fill(column, constant) => {
                    plan.fills.push((column, constant));
                    continue;
                }
            };
            plan.fields.push(Field {
                optional,
                action,
                name: names.next().unwrap_or_default(),
            });
        }
        let mut optional_run = 0_u8;
        let leaps = plan.fields.iter().rev().map(|field| {
            optional_run = match field.optional {
                true => optional_run.saturating_add(1),
                false => 0,
            };
            Leap {
                optional_run,
                over: field.over(),
            }
        });
        plan.leaps = leaps.collect();
        plan.leaps.reverse();
        Ok(plan)
    }
}

impl Field {
    fn over(&self) -> Over {
        match self.action {
            Action::Skip(Skip::Bytes) => Over::Bytes,
            Action::Skip(Skip::Varint) => Over::Varint,
            Action::Skip(Skip::Boolean) => Over::Boolean,
            Action::Skip(_) | Action::Read(..) => Over::Nothing,
        }
    }
}

struct Compiler<'s> {
    names: &'s NamesRef<'s>,
    types_left: usize,
    depth: usize,
}

impl Compiler<'_> {
    /// One step for each of the writer's fields, then one for each of the reader's that the writer lacks.
    fn record(
        &mut self,
        writer: &RecordSchema,
        reader: &Record,
        path: &str,
    ) -> Result<Vec<Step>, SchemaError> {
        let mut steps = Vec::with_capacity(writer.fields.len());
        let mut filled = vec![false; reader.fields.len()];
        for field in &writer.fields {
            let path = format!("{path}{}", field.name);
            steps.push(match column_of(&field.name, &reader.fields) {
                Some(column) if !filled[column] => {
                    filled[column] = true;
                    let read = self.read(&field.schema, &reader.fields[column].of, &path)?;
                    Step::Read(column, read.ok_or_else(|| mismatch(&field.schema, &path))?)
                }
                _ => Step::Skip(self.skip(&field.schema, &path)?),
            });
        }
        for (column, field) in reader
            .fields
            .iter()
            .enumerate()
            .filter(|&(column, _)| !filled[column])
        {
            let missing = || SchemaError::Missing {
                field: format!("{path}{}", field.name),
            };
            steps.push(Step::Fill(
                column,
                field.default.clone().ok_or_else(missing)?,
            ));
        }
        Ok(steps)
    }

    /// Returns how a writer's type is read, none when it cannot become the reader's.
    fn read(
        &mut self,
        writer: &Schema,
        reader: &Type,
        path: &str,
    ) -> Result<Option<Read>, SchemaError> {
        self.enter()?;
        let read = match (writer, &reader.kind) {
            (Schema::Ref { name }, _) => match self.names.get(name) {
                Some(definition) => self.read(definition, reader, path)?,
                None => None,
            },
            (Schema::Union(union), _) => self.read_union(union.variants(), reader, path)?,
            (Schema::Null, _) if reader.nullable => Some(Read::Null),
            (Schema::String | Schema::Bytes, Kind::Text) => Some(Read::Text),
            (Schema::Int | Schema::Long, Kind::Long | Kind::Timestamp) => Some(Read::Long),
            // A timestamp of another unit would be read as a wrong time.
            (Schema::TimestampNanos, Kind::Long | Kind::Timestamp) => Some(Read::Long),
            (Schema::Boolean, Kind::Boolean) => Some(Read::Boolean),
            (Schema::Array(array), Kind::List(item)) => {
                match self.read(&array.items, item, &format!("{path}[]"))? {
                    Some(read) => {
                        self.refuse_empty(&array.items, path)?;
                        Some(Read::List(Box::new(read)))
                    }
                    None => None,
                }
            }
            (Schema::Map(map), Kind::Map(value)) => self
                .read(&map.types, value, &format!("{path}{{}}"))?
                .map(|read| Read::Map(Box::new(read))),
            (Schema::Record(record), Kind::Record(reader))
                if reader.names.iter().any(|n| n == record.name.name()) =>
            {
                Some(Read::Record(self.record(
                    record,
                    reader,
                    &format!("{path}."),
                )?))
            }
            _ => None,
        };
        self.depth -= 1;
        Ok(read)
    }

    fn read_union(
        &mut self,
        variants: &[Schema],
        reader: &Type,
        path: &str,
    ) -> Result<Option<Read>, SchemaError> {
        let branches = variants
            .iter()
            .map(|branch| self.read(branch, reader, path));
        let mut branches = branches.collect::<Result<Vec<_>, _>>()?;
        if let [Some(Read::Null), some] = branches.as_mut_slice()
            && let Some(read) = some.take()
        {
            return Ok(Some(Read::Optional(Box::new(read))));
        }
        Ok(branches
            .iter()
            .any(Option::is_some)
            .then_some(Read::Union(branches)))
    }

    fn skip(&mut self, writer: &Schema, path: &str) -> Result<Skip, SchemaError> {
        self.enter()?;
        let skip = match writer {
            Schema::Null => Skip::Nothing,
            Schema::Boolean => Skip::Boolean,
            Schema::Int | Schema::Long | Schema::Enum(_) | Schema::Date => Skip::Varint,
            Schema::TimeMillis | Schema::TimeMicros => Skip::Varint,
            Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
                Skip::Varint
            }
            Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Skip::Varint,
            Schema::Float => Skip::Fixed(4),
            Schema::Double => Skip::Fixed(8),
            Schema::Bytes | Schema::String | Schema::BigDecimal => Skip::Bytes,
            Schema::Uuid(UuidSchema::Bytes | UuidSchema::String) => Skip::Bytes,
            Schema::Fixed(fixed)
            | Schema::Duration(fixed)
            | Schema::Uuid(UuidSchema::Fixed(fixed)) => Skip::Fixed(fixed.size),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Skip::Bytes,
                InnerDecimalSchema::Fixed(fixed) => Skip::Fixed(fixed.size),
            },
            Schema::Array(array) => {
                let item = self.skip(&array.items, path)?;
                self.refuse_empty(&array.items, path)?;
                Skip::Array(Box::new(item))
            }
            Schema::Map(map) => Skip::Map(Box::new(self.skip(&map.types, path)?)),
            Schema::Record(record) => {
                Skip::Record(self.skip_all(record.fields.iter().map(|f| &f.schema), path)?)
            }
            Schema::Union(union) => match union.variants() {
                [Schema::Null, some] => Skip::Optional(Box::new(self.skip(some, path)?)),
                variants => Skip::Union(self.skip_all(variants.iter(), path)?),
            },
            Schema::Ref { name } => match self.names.get(name) {
                Some(definition) => self.skip(definition, path)?,
                None => return Err(mismatch(writer, path)),
            },
        };
        self.depth -= 1;
        Ok(skip)
    }

    fn skip_all<'a>(
        &mut self,
        schemas: impl Iterator<Item = &'a Schema>,
        path: &str,
    ) -> Result<Vec<Skip>, SchemaError> {
        schemas.map(|schema| self.skip(schema, path)).collect()
    }

    fn enter(&mut self) -> Result<(), SchemaError> {
        self.types_left = self.types_left.saturating_sub(1);
        self.depth += 1;
        if self.types_left == 0 || self.depth > DEPTH_MAX {
            return Err(SchemaError::TooLarge {
                types_max: TYPES_MAX,
            });
        }
        Ok(())
    }

    /// Refuses items that take no bytes. The items are compiled by then, so no type is inside itself.
    fn refuse_empty(&self, item: &Schema, path: &str) -> Result<(), SchemaError> {
        if self.takes_no_bytes(item) {
            Err(SchemaError::EmptyItems {
                field: path.to_owned(),
            })
        } else {
            Ok(())
        }
    }

    fn takes_no_bytes(&self, schema: &Schema) -> bool {
        match schema {
            Schema::Null => true,
            Schema::Fixed(fixed) => fixed.size == 0,
            Schema::Record(record) => record
                .fields
                .iter()
                .all(|field| self.takes_no_bytes(&field.schema)),
            Schema::Ref { name } => self
                .names
                .get(name)
                .is_some_and(|definition| self.takes_no_bytes(definition)),
            _ => false,
        }
    }
}

/// Finds the reader's field for a writer's: by its name, else by an alias.
fn column_of(writer: &str, fields: &[reader::Field]) -> Option<usize> {
    let by_name = fields.iter().position(|field| field.name == writer);
    by_name.or_else(|| {
        fields
            .iter()
            .position(|field| field.aliases.iter().any(|alias| alias == writer))
    })
}

fn mismatch(writer: &Schema, path: &str) -> SchemaError {
    SchemaError::Mismatch {
        field: path.to_owned(),
        writer: canonical_form(writer),
    }
}
