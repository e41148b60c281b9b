//! The tables that SQL can ask. Each is a topic, and one row of [`ALL`]; its columns come from the topic's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use dogwatch_schemas::decode::BatchDecoder;
use dogwatch_schemas::records::{
    Alert, Container, ContainerSample, Event, IoSample, ProcessSample, SensorStatus, SyscallSample,
};
use dogwatch_schemas::topics::{Cleanup, Topic};
use serde_json::Value;

/// Name of the table of events.
pub const EVENTS: &str = "events";

/// When a record was appended to its topic.
pub const INGEST_TS: &str = "ingest_ts";

/// A table: the records of a topic as rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in SQL.
    pub name: &'static str,
    /// The topic.
    pub topic: Topic,
    /// What a row is.
    pub about: &'static str,
    /// The schema of its records; none where they are kept as they came.
    pub record: Option<&'static str>,
    /// The column of the time that a row is of.
    pub time: &'static str,
    /// The columns that stand beside the record.
    pub beside: &'static [Beside],
    /// Whether a sensor writes it: then a capture and this host have it, too.
    pub of_sensor: bool,
}

impl Table {
    /// Whether the newest row of each key is kept, and so says what is.
    #[must_use]
    pub fn says_what_is(&self) -> bool {
        self.topic.cleanup() == Cleanup::Compact
    }
}

/// A column that stands beside the record.
#[derive(Debug, PartialEq, Eq)]
pub struct Beside {
    /// Its name.
    pub name: &'static str,
    /// Where it is from.
    pub origin: Origin,
    /// What it says.
    pub about: &'static str,
}

/// Where a column beside the record is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The text of the header of its name.
    Text,
    /// The number in the header of its name.
    Number,
    /// The record's key.
    Key,
    /// How many bytes the record has.
    Bytes,
    /// The first bytes of the record, as hexadecimal digits.
    Hex,
}

const fn beside(name: &'static str, origin: Origin, about: &'static str) -> Beside {
    Beside {
        name,
        origin,
        about,
    }
}

const TOPIC: Beside = beside("topic", Origin::Text, "The topic that it came from.");
const PARTITION: Beside = beside("partition", Origin::Number, "Its partition there.");
const OFFSET: Beside = beside("offset", Origin::Number, "Its offset there.");
const CUT: Beside = beside(
    "truncated_from_bytes",
    Origin::Number,
    "How many bytes it had, where its end was cut off.",
);

/// Every table.
pub const ALL: &[Table] = &[
    Table {
        name: EVENTS,
        topic: Topic::Events,
        about: "What happened on hosts: executions, files opened, connections, ends of processes, one row each.",
        record: Some(Event::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "containers",
        topic: Topic::Containers,
        about: "What containers are: a row at each start, change and end, and of each that runs now and then.",
        record: Some(Container::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "container_samples",
        topic: Topic::ContainerSamples,
        about: "What containers and hosts used in an interval: CPU, memory, disk, network, pressure.",
        record: Some(ContainerSample::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "process_samples",
        topic: Topic::ProcessSamples,
        about: "What processes used in an interval; those that changed, and all once a minute.",
        record: Some(ProcessSample::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "syscall_samples",
        topic: Topic::SyscallSamples,
        about: "Which calls of which processes failed in an interval, and how often.",
        record: Some(SyscallSample::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "io_samples",
        topic: Topic::IoSamples,
        about: "What processes have open: files, connections and listening sockets, and what went through them in an interval.",
        record: Some(IoSample::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "sensors",
        topic: Topic::Sensors,
        about: "What sensors say of themselves every few seconds, with all that was lost.",
        record: Some(SensorStatus::SCHEMA),
        time: "ts",
        beside: &[],
        of_sensor: true,
    },
    Table {
        name: "alerts",
        topic: Topic::Alerts,
        about: "What detections said, and each later word on it.",
        record: Some(Alert::SCHEMA),
        time: "event_ts",
        beside: &[],
        of_sensor: false,
    },
    Table {
        name: "dead_letters",
        topic: Topic::DeadLetters,
        about: "Records that could not be read, with the reason.",
        record: None,
        time: INGEST_TS,
        beside: &[
            TOPIC,
            PARTITION,
            OFFSET,
            beside("error_class", Origin::Text, "The kind of reason."),
            beside("error", Origin::Text, "Why it could not be read."),
            beside(
                "schema_fingerprint",
                Origin::Text,
                "The schema that it was written with.",
            ),
            CUT,
            beside("key", Origin::Key, "Its key: the host id, in most topics."),
            beside("bytes", Origin::Bytes, "How many bytes it has."),
            beside(
                "hex",
                Origin::Hex,
                "Its first 256 bytes as hexadecimal digits.",
            ),
        ],
        of_sensor: false,
    },
    Table {
        name: "late",
        topic: Topic::Late,
        about: "Events that came too late for their windows, as they were.",
        record: Some(Event::SCHEMA),
        time: "ts",
        beside: &[
            TOPIC,
            PARTITION,
            OFFSET,
            beside(
                "detections",
                Origin::Text,
                "The detections that did not see it, with commas between them.",
            ),
            beside(
                "late_ms",
                Origin::Number,
                "By how many milliseconds it was late.",
            ),
            CUT,
        ],
        of_sensor: false,
    },
];

/// The table of a name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Table> {
    ALL.iter().find(|table| table.name == name)
}

/// A column as it is described.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds, in words: text, bigint, time ...
    pub kind: String,
    /// What it says.
    pub about: String,
}

impl Table {
    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = Vec::new();
        if let Some(record) = self.record {
            let own = BatchDecoder::new(record, None)
                .expect("the contract's own schemas compile, a test holds it");
            fields.extend(own.arrow_schema().fields().iter().cloned());
        }
        let add =
            |name: &str, kind: DataType, nullable: bool| Arc::new(Field::new(name, kind, nullable));
        for column in self.beside {
            let kind = match column.origin {
                Origin::Text | Origin::Key | Origin::Hex => DataType::Utf8View,
                Origin::Number | Origin::Bytes => DataType::Int64,
            };
            fields.push(add(column.name, kind, true));
        }
        fields.push(add("_partition", DataType::Int32, false));
        fields.push(add("_offset", DataType::Int64, false));
        // An alert has the time of its event there.
        if !fields.iter().any(|field| field.name() == INGEST_TS) {
            fields.push(add(INGEST_TS, time_type(), true));
        }
        Arc::new(Schema::new(fields))
    }

    /// Its columns as they are described, in order.
    #[must_use]
    pub fn columns(&self) -> Vec<Column> {
        let about = |name: &str| {
            let beside = self.beside.iter().find(|column| column.name == name);
            let own = self.record.and_then(|record| doc(record, name));
            match (own, beside, name) {
                (Some(own), _, _) => own,
                (None, Some(beside), _) => beside.about.to_owned(),
                (None, None, "_partition") => "The partition of the topic.".to_owned(),
                (None, None, "_offset") => "The record's offset in its partition.".to_owned(),
                _ => "When the broker appended the record; null in a capture.".to_owned(),
            }
        };
        let schema = self.schema();
        let described = schema.fields().iter().map(|field| Column {
            name: field.name().clone(),
            kind: kind_of(field.data_type()),
            about: about(field.name()),
        });
        described.collect()
    }
}

/// The type of times.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()))
}

/// What a schema says of a field.
fn doc(record: &str, name: &str) -> Option<String> {
    let schema: Value = serde_json::from_str(record).ok()?;
    let fields = schema["fields"].as_array()?;
    let field = fields.iter().find(|field| field["name"] == name)?;
    Some(field["doc"].as_str()?.to_owned())
}

/// A type in the words of SQL.
fn kind_of(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::List(item) => format!("list of {}", kind_of(item.data_type())),
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("map of text to {}", kind_of(pair[1].data_type()))
            }
            _ => "map".to_owned(),
        },
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("record ({})", names.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_described_and_named_once() {
        for table in ALL {
            let columns = table.columns();
            for (place, column) in columns.iter().enumerate() {
                assert!(column.about.len() > 3, "{}.{}", table.name, column.name);
                let twice = columns[..place]
                    .iter()
                    .any(|other| other.name == column.name);
                assert!(!twice, "{}.{} stands twice", table.name, column.name);
            }
            assert!(columns.iter().any(|column| column.name == table.time));
            assert_eq!(named(table.name), Some(table));
        }
    }
}
