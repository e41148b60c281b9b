//! Writes the Rust form of every record in `*.avsc` to `$OUT_DIR/records.rs`.
//!
//! The schema files are the one definition; a field's documentation becomes the Rust field's.
//! How a value is written and read depends on its Rust type alone (`src/wire.rs`), so what is generated is a list of fields.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// One file a topic. The order is that of the generated code.
const SCHEMAS: [&str; 8] = [
    "event",
    "alert",
    "sensor_status",
    "container",
    "container_sample",
    "process_sample",
    "syscall_sample",
    "io_sample",
];

/// The sections of an event, each with its first column and what it holds: a writer may encode them one by one, and keep
/// the bytes of those that change seldom. Which columns a section has follows from the schema's order alone.
const EVENT_SECTIONS: [(&str, &str, &str); 6] = [
    (
        "Run",
        "host_id",
        "The run of the sensor: the same in all its events.",
    ),
    (
        "Happening",
        "seq",
        "What happened, when, and to which process.",
    ),
    (
        "Process",
        "proc_vpid",
        "The process, its ancestors and its session.",
    ),
    (
        "Lifecycle",
        "proc_stdin_type",
        "What only starts and ends of processes tell.",
    ),
    ("Place", "user_uid", "Users, container and pod."),
    ("Object", "fd_num", "The file or the connection."),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let mut records = Records::default();
    for name in SCHEMAS {
        let path = Path::new(&folder).join(format!("{name}.avsc"));
        println!("cargo:rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()));
        let schema: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{} is not JSON: {e}", path.display()));
        records.record(&schema);
        records.top_level(&schema, &path);
        if name == "event" {
            records.sections(&schema);
        }
    }
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("records.rs");
    fs::write(&out, records.code)
        .unwrap_or_else(|e| panic!("could not write {}: {e}", out.display()));
}

/// The generated code so far, and the records it holds.
#[derive(Default)]
struct Records {
    code: String,
    known: BTreeSet<String>,
}

impl Records {
    /// Adds a record's struct and its wire form; the records nested in it come first.
    fn record(&mut self, schema: &Value) -> String {
        let name = text(schema, "name").to_owned();
        assert!(
            self.known.insert(name.clone()),
            "record {name} is defined twice"
        );
        let (mut fields, mut writes, mut reads) = (String::new(), String::new(), String::new());
        for field in schema["fields"].as_array().expect("a record has fields") {
            let rust_type = self.rust_type(&field["type"]);
            let field_name = identifier(text(field, "name"));
            writeln!(fields, "    #[doc = {:?}]", rustdoc(text(field, "doc")))
                .expect("a String takes all");
            if rust_type.starts_with("Option<") {
                writeln!(
                    fields,
                    "    #[serde(skip_serializing_if = \"Option::is_none\")]"
                )
                .expect("a String takes all");
            }
            if let Some(module) = json_form(field, &rust_type) {
                writeln!(fields, "    #[serde(with = \"{module}\")]").expect("a String takes all");
            }
            writeln!(fields, "    pub {field_name}: {rust_type},").expect("a String takes all");
            writeln!(writes, "        Datum::write(&self.{field_name}, out);")
                .expect("a String takes all");
            writeln!(reads, "            {field_name}: Datum::read(input)?,")
                .expect("a String takes all");
        }
        let doc = rustdoc(text(schema, "doc"));
        write!(
            self.code,
            "#[doc = {doc:?}]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct {name} {{
{fields}}}

impl Datum for {name} {{
    fn write(&self, out: &mut Vec<u8>) {{
{writes}    }}

    fn read(input: &mut Input<'_>) -> Result<Self, WireError> {{
        Ok(Self {{
{reads}        }})
    }}
}}

"
        )
        .expect("a String takes all");
        name
    }

    /// Adds what only the record of a topic has: its schema and its framed form.
    fn top_level(&mut self, schema: &Value, path: &Path) {
        let name = text(schema, "name");
        write!(
            self.code,
            "impl {name} {{
    /// The record's Avro schema.
    pub const SCHEMA: &'static str = include_str!({path:?});

    /// Returns the fingerprint (CRC-64-AVRO) of the record's schema.
    pub fn fingerprint() -> Fingerprint {{
        static FINGERPRINT: OnceLock<Fingerprint> = OnceLock::new();
        *FINGERPRINT.get_or_init(|| own_fingerprint(Self::SCHEMA))
    }}

    /// Appends the record's Avro binary form, without framing. Allocates only where `out` must grow.
    pub fn encode(&self, out: &mut Vec<u8>) {{
        Datum::write(self, out);
    }}

    /// Appends the record as an Avro single object: marker, fingerprint, binary form.
    pub fn encode_framed(&self, out: &mut Vec<u8>) {{
        framing::write_header(Self::fingerprint(), out);
        Datum::write(self, out);
    }}

    /// Reads one framed record that was written with this very schema.
    ///
    /// # Errors
    /// When the framing or the fingerprint is another one, or the bytes are not exactly one record.
    pub fn decode_framed(framed: &[u8]) -> Result<Self, DecodeError> {{
        decode_own(framed, Self::fingerprint())
    }}
}}

"
        )
        .expect("a String takes all");
    }

    /// Adds an event's sections, and how each is encoded.
    fn sections(&mut self, schema: &Value) {
        let (mut variants, mut names, mut arms) = (String::new(), String::new(), String::new());
        let mut sections = EVENT_SECTIONS.iter().peekable();
        for field in schema["fields"].as_array().expect("a record has fields") {
            let name = text(field, "name");
            if let Some((section, _, doc)) = sections.next_if(|(_, first, _)| *first == name) {
                let end = if arms.is_empty() {
                    ""
                } else {
                    "            }\n"
                };
                write!(variants, "    /// {doc}\n    {section},\n").expect("a String takes all");
                write!(names, "Self::{section}, ").expect("a String takes all");
                writeln!(arms, "{end}            EventSection::{section} => {{")
                    .expect("a String takes all");
            }
            let field_name = identifier(name);
            writeln!(
                arms,
                "                Datum::write(&self.{field_name}, out);"
            )
            .expect("a String takes all");
        }
        assert!(
            sections.peek().is_none(),
            "no column {:?}, or not in this order",
            sections.peek()
        );
        write!(
            self.code,
            "/// A run of an event's columns that are encoded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventSection {{
{variants}}}

impl EventSection {{
    /// All of them: encoded one after the other they are the event.
    pub const ALL: [Self; {count}] = [{names}];
}}

impl Event {{
    /// Appends the binary form of one section's columns. Allocates only where `out` must grow.
    pub fn encode_section(&self, section: EventSection, out: &mut Vec<u8>) {{
        match section {{
{arms}            }}
        }}
    }}
}}

",
            count = EVENT_SECTIONS.len()
        )
        .expect("a String takes all");
    }

    fn rust_type(&mut self, schema: &Value) -> String {
        match schema {
            Value::String(name) => match name.as_str() {
                "string" => "Text".to_owned(),
                "long" => "i64".to_owned(),
                "boolean" => "bool".to_owned(),
                name => {
                    let name = name
                        .rsplit('.')
                        .next()
                        .expect("rsplit yields at least one part");
                    assert!(
                        self.known.contains(name),
                        "no Rust form for the Avro type {name}"
                    );
                    name.to_owned()
                }
            },
            Value::Array(branches) => match branches.as_slice() {
                [null, some] if null == "null" => format!("Option<{}>", self.rust_type(some)),
                _ => panic!("of unions only [\"null\", T] has a Rust form: {schema}"),
            },
            Value::Object(object) => match text(schema, "type") {
                "record" => self.record(schema),
                "array" => format!("Vec<{}>", self.rust_type(&object["items"])),
                "map" => format!("BTreeMap<Text, {}>", self.rust_type(&object["values"])),
                "long" => "i64".to_owned(),
                other => panic!("no Rust form for the Avro type {other}"),
            },
            _ => panic!("not an Avro type: {schema}"),
        }
    }
}

/// The module that writes a column as JSON, where it is a time: of the type `timestamp-nanos`, or marked as `times`.
fn json_form(field: &Value, rust_type: &str) -> Option<&'static str> {
    let is_time = |schema: &Value| schema["logicalType"] == "timestamp-nanos";
    let column = &field["type"];
    let time = is_time(column)
        || column
            .as_array()
            .is_some_and(|branches| branches.iter().any(is_time));
    match (rust_type, time || field["times"] == true) {
        ("i64", true) => Some("crate::time"),
        ("Option<i64>", true) => Some("crate::time::optional"),
        ("Option<Vec<i64>>", true) => Some("crate::time::list"),
        (other, true) => panic!("no JSON form for times in {other}"),
        (_, false) => None,
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is missing in {schema}"))
}

/// Documentation with the brackets escaped that rustdoc would take for links.
fn rustdoc(doc: &str) -> String {
    doc.replace('[', "\\[").replace(']', "\\]")
}

/// A field's name as Rust takes it.
fn identifier(name: &str) -> String {
    if name == "type" {
        "r#type".to_owned()
    } else {
        name.to_owned()
    }
}
