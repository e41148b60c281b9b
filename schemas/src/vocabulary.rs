//! What is known of the values of the columns of events and samples beforehand: which there are, how long or how large.
//!
//! The schema says it beside the column, as `values`, `words`, `bytes_max`, `escaped`, `min`, `max`, `times`, `shape`, `keys` and `flags` (with `first` and `joined`), and `calls` where the names of system calls are values or those of their arguments keys; no reader of Avro needs these attributes.
//! A newer sensor may send more than is known here, so nothing is refused for what this module does not know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::Value;

use crate::arguments;
use crate::calls::{self, event_type};
use crate::errno;
use crate::flags::Flags;
use crate::records::{ContainerSample, Event, IoSample, ProcessSample, SyscallSample};

/// What is known of a column's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// All values there are; none where they are not a closed set.
    pub values: Option<Vec<String>>,
    /// Most bytes of a text.
    pub bytes_max: Option<usize>,
    /// Whether these bytes are the kernel's, so that each is written as the four of `\xNN` where it is no text.
    pub escaped: bool,
    /// Words that mean something of their own among the texts of an open column.
    pub words: Vec<String>,
    /// The least number.
    pub min: Option<i64>,
    /// The largest number.
    pub max: Option<i64>,
    /// Whether its numbers are times, nanoseconds since 1970, without having the type of one.
    pub times: bool,
    /// What every text looks like.
    pub shape: Option<Shape>,
    /// The keys of a map; none where they are not a closed set.
    pub keys: Option<Vec<String>>,
    /// The words that every text is made of.
    pub flags: Option<Flags>,
}

/// What every text of a column looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An IPv4 or IPv6 address in its one canonical form.
    Address,
    /// So many hexadecimal digits, or nothing.
    Hex(usize),
    /// A program's short name; it begins with no slash, unless the program says so of itself.
    Command,
    /// The last part of a path.
    FileName,
    /// A path from the root; of a file of memory alone its name.
    Path,
    /// The path of a folder: without a slash at its end, but for the root's.
    Folder,
    /// A file's path, or the address of a connection or a socket.
    Object,
    /// What stands behind the colon of an image.
    Tag,
}

impl Vocabulary {
    /// Whether a text is as short as those of the column, bytes that are no text counted as the one that they were.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let written = if self.escaped { ESCAPED_BYTES } else { 1 };
        let escapes = match self.escaped {
            true => escapes(text),
            false => 0,
        };
        let bytes = text.len() - escapes * (written - 1);
        self.bytes_max.is_none_or(|most| bytes <= most)
    }

    /// The most bytes of a text as it is written.
    #[must_use]
    pub fn written_bytes_max(&self) -> Option<usize> {
        let written = if self.escaped { ESCAPED_BYTES } else { 1 };
        Some(self.bytes_max? * written)
    }
}

/// The bytes of `\xNN`.
const ESCAPED_BYTES: usize = 4;

/// How many bytes of a text are written as `\xNN`.
fn escapes(text: &str) -> usize {
    let parts = text.split("\\x").skip(1);
    let escaped = parts.filter(|part| {
        let digits = part.bytes().take_while(|byte| is_digit(*byte)).count();
        digits >= 2
    });
    escaped.count()
}

impl Shape {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "address" => Self::Address,
            "hex16" => Self::Hex(16),
            "hex64" => Self::Hex(64),
            "command" => Self::Command,
            "filename" => Self::FileName,
            "path" => Self::Path,
            "folder" => Self::Folder,
            "object" => Self::Object,
            "tag" => Self::Tag,
            _ => return None,
        })
    }

    /// Whether a text looks so.
    #[must_use]
    pub fn holds(self, text: &str) -> bool {
        match self {
            Self::Address => match text.parse::<IpAddr>() {
                // An IPv4 address is told as one, and an IPv6 address in one way.
                Ok(IpAddr::V6(address)) => {
                    address.to_ipv4_mapped().is_none() && address.to_string() == text
                }
                parsed => parsed.is_ok(),
            },
            Self::Hex(digits) => {
                text.is_empty() || (text.len() == digits && text.bytes().all(is_digit))
            }
            Self::Command => !text.starts_with('/'),
            Self::FileName => !text.contains('/'),
            Self::Path | Self::Object => text.is_empty() || self.can_start(text),
            Self::Folder => {
                text.is_empty() || text == "/" || (self.can_start(text) && !text.ends_with('/'))
            }
            Self::Tag => !text.contains(['/', ':']),
        }
    }

    /// Whether a text that looks so can have a part, which stands at its start or end where `starts` or `ends` say so.
    #[must_use]
    pub fn can_have(self, part: &str, starts: bool, ends: bool) -> bool {
        match self {
            Self::Address => part
                .bytes()
                .all(|byte| is_digit(byte) || byte == b'.' || byte == b':'),
            Self::Hex(_) => part.bytes().all(is_digit),
            Self::Command => !(starts && part.starts_with('/')),
            Self::FileName | Self::Tag => self.holds(part),
            Self::Folder if starts && ends => self.holds(part),
            Self::Path | Self::Folder | Self::Object => {
                let can_end = self != Self::Folder || !ends || !part.ends_with('/');
                can_end && (!starts || self.can_start(part))
            }
        }
    }

    /// Whether a path or an address can begin so.
    fn can_start(self, part: &str) -> bool {
        let of_memory = part.starts_with(OF_MEMORY) || OF_MEMORY.starts_with(part);
        match self {
            Self::Object => of_memory || !part.starts_with(is_of_word),
            _ => of_memory || part.starts_with('/'),
        }
    }

    /// What it is, in words, with an example.
    #[must_use]
    pub fn told(self) -> String {
        match self {
            Self::Address => "an address such as '10.0.0.1' or 'fe80::1'".to_owned(),
            Self::Hex(digits) => format!("{digits} hexadecimal digits in lower case"),
            Self::Command => "a program's short name, such as 'sh', without its folder".to_owned(),
            Self::FileName => "the last part of a path, without a slash".to_owned(),
            Self::Path => "a path from the root, such as '/usr/bin/bash'".to_owned(),
            Self::Folder => {
                "a folder from the root without a slash at its end, such as '/etc'".to_owned()
            }
            Self::Object => {
                "a path from the root, such as '/etc/shadow', or an address with its port"
                    .to_owned()
            }
            Self::Tag => "what stands behind the image's colon, such as '1.27'".to_owned(),
        }
    }
}

/// What the name of a file of memory alone begins with.
const OF_MEMORY: &str = "memfd:";

/// Whether a letter begins a path as people write it that is from no root, and no address: `etc/passwd`, `~/.ssh`, `$HOME`.
fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphabetic() || "~.$".contains(letter)
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// What is known of a column of that name, in whichever table: an event's, or a sample's where events have none.
#[must_use]
pub fn of(column: &str) -> Option<&'static Vocabulary> {
    static COLUMNS: LazyLock<BTreeMap<String, Vocabulary>> = LazyLock::new(columns);
    COLUMNS.get(column)
}

/// What is known of a column of the records with this schema; none where nothing is.
#[must_use]
pub fn of_record(schema: &str, column: &str) -> Option<&'static Vocabulary> {
    static RECORDS: LazyLock<BTreeMap<&'static str, BTreeMap<String, Vocabulary>>> =
        LazyLock::new(|| SCHEMAS.map(|schema| (schema, columns_of(schema))).into());
    RECORDS.get(schema)?.get(column)
}

/// The schemas that say something of their columns' values, that of events first.
const SCHEMAS: [&str; 5] = [
    Event::SCHEMA,
    ContainerSample::SCHEMA,
    ProcessSample::SCHEMA,
    SyscallSample::SCHEMA,
    IoSample::SCHEMA,
];

fn columns() -> BTreeMap<String, Vocabulary> {
    let mut columns = BTreeMap::new();
    for schema in SCHEMAS {
        for (name, vocabulary) in columns_of(schema) {
            let known: &mut Vocabulary = columns.entry(name).or_insert_with(|| vocabulary.clone());
            // A table may have further values in a column of this name, such as the types of its rows.
            let further = vocabulary.values.into_iter().flatten();
            if let Some(values) = &mut known.values {
                let further: Vec<String> =
                    further.filter(|value| !values.contains(value)).collect();
                values.extend(further);
            }
        }
    }
    columns
}

fn columns_of(schema: &str) -> BTreeMap<String, Vocabulary> {
    let schema: Value =
        serde_json::from_str(schema).expect("the crate's own schemas parse, a test holds it");
    let fields = schema["fields"].as_array().into_iter().flatten();
    let known = fields.filter_map(|field| {
        let name = field["name"].as_str()?;
        let vocabulary = Vocabulary {
            values: values(name, field),
            bytes_max: field["bytes_max"].as_u64().map(|bytes| bytes as usize),
            escaped: field["escaped"] == true,
            words: texts(&field["words"]).map(str::to_owned).collect(),
            min: field["min"].as_i64(),
            max: field["max"].as_i64(),
            times: field["times"] == true,
            shape: field["shape"].as_str().and_then(Shape::named),
            keys: keys(field),
            flags: flags(field, &schema["fields"]),
        };
        (vocabulary != Vocabulary::default()).then(|| (name.to_owned(), vocabulary))
    });
    known.collect()
}

fn values(name: &str, field: &Value) -> Option<Vec<String>> {
    if name == "evt_res" {
        let names = errno::names().map(str::to_owned);
        return Some(std::iter::once("SUCCESS".to_owned()).chain(names).collect());
    }
    if name == "call_errno" {
        return Some(errno::names().map(str::to_owned).collect());
    }
    field["values"].as_array()?;
    let texts = texts(&field["values"]).map(str::to_owned);
    let calls = calls::names().filter(|call| name != "evt_type" || event_type(call) == *call);
    let calls = calls.filter(|_| field["calls"] == true).map(str::to_owned);
    Some(texts.chain(calls).collect())
}

/// The texts of a list; none where there is no list.
fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// The words of a field's texts; a field can name another one, whose words it has.
fn flags(field: &Value, fields: &Value) -> Option<Flags> {
    if let Some(other) = field["flags"].as_str() {
        let mut fields = fields.as_array().into_iter().flatten();
        let other = fields.find(|own| own["name"] == other)?;
        return flags(other, &Value::Null);
    }
    let joined = field["joined"].as_str()?.chars().next()?;
    let owned = |list: &Value| texts(list).map(str::to_owned).collect();
    Some(Flags {
        first: owned(&field["first"]),
        words: owned(&field["flags"]),
        joined,
        ..Flags::default()
    })
}

fn keys(field: &Value) -> Option<Vec<String>> {
    field["keys"].as_array()?;
    let mut keys: Vec<String> = texts(&field["keys"]).map(str::to_owned).collect();
    if field["calls"] == true {
        keys.extend(arguments::names().map(str::to_owned));
    }
    keys.sort();
    keys.dedup();
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_columns_are_known_from_the_schema() {
        let values = |column: &str| of(column).and_then(|known| known.values.clone());
        assert_eq!(
            values("evt_outcome").expect("closed"),
            ["success", "failed", "attempted"]
        );
        let types = values("evt_type").expect("closed");
        assert!(
            ["openat", "ptrace", "clone", "mark"]
                .iter()
                .all(|known| types.contains(&(*known).to_owned()))
        );
        assert!(!types.contains(&"vfork".to_owned()));
        let calls = values("evt_call").expect("closed");
        assert!(
            ["vfork", "fexecve", "openat"]
                .iter()
                .all(|known| calls.contains(&(*known).to_owned()))
        );
        assert!(
            values("evt_type")
                .expect("closed")
                .contains(&"execve".to_owned())
        );
        assert!(
            values("evt_res")
                .expect("closed")
                .contains(&"EACCES".to_owned())
        );
        assert_eq!(values("proc_cmdline"), None);
        assert_eq!(of("proc_name").and_then(|known| known.bytes_max), Some(15));
        assert_eq!(of("fd_sport").and_then(|known| known.max), Some(65_535));
        assert_eq!(of("mem_current_bytes").and_then(|known| known.min), Some(0));
    }

    #[test]
    fn bytes_that_are_no_text_count_once_where_they_are_written_longer() {
        let name = of("proc_name").expect("known");
        for text in [
            "fifteen_letters",
            r"\xff\xff\xff\xff\xff",
            r"12345678901234\xff",
        ] {
            assert!(name.fits(text), "{text}");
        }
        for text in [
            "sixteen_letters_",
            r"123456789012345\xff",
            r"\xzz-is-no-escape",
        ] {
            assert!(!name.fits(text), "{text}");
        }
        assert_eq!(name.written_bytes_max(), Some(60));
        let id = of("container_id").expect("known");
        assert!(!id.fits(r"1234567890\xff"));
        assert_eq!(id.written_bytes_max(), Some(12));
        assert_eq!(id.words, ["host", "unknown"]);
    }

    #[test]
    fn flags_are_known_from_the_schema() {
        let flags = |column: &str| {
            of(column)
                .and_then(|known| known.flags.as_ref())
                .expect("flags")
        };
        assert_eq!(flags("fd_flags").mend("O_WRONLY|O_CREAT"), None);
        assert!(flags("fd_flags").mend("O_WRONLY|O_CREATE").is_some());
        let capabilities = flags("thread_cap_effective");
        assert_eq!(capabilities.mend("CAP_CHOWN CAP_SYS_ADMIN"), None);
        assert_eq!(
            capabilities.mend("SYS_ADMIN").as_deref(),
            Some("did you mean 'CAP_SYS_ADMIN'?")
        );
        assert!(
            flags("thread_cap_permitted")
                .mend("CAP_SYS_ADMIN,CAP_CHOWN")
                .is_some()
        );
    }

    #[test]
    fn each_record_has_its_own_values() {
        let values =
            |schema: &str| of_record(schema, "evt_type").and_then(|known| known.values.clone());
        let (events, samples) = (values(Event::SCHEMA), values(ProcessSample::SCHEMA));
        assert_eq!(samples.expect("closed"), ["sample", "mark"]);
        assert!(!events.expect("closed").contains(&"sample".to_owned()));
        // A sample's path is cut, an event's is not.
        let whole = of_record(Event::SCHEMA, "proc_exepath");
        assert_eq!(whole.and_then(|known| known.bytes_max), None);
        let cut = of_record(ProcessSample::SCHEMA, "proc_exepath");
        assert_eq!(cut.and_then(|known| known.bytes_max), Some(256));
        assert_eq!(of_record("{}", "evt_type"), None);
    }

    #[test]
    fn keys_of_maps_are_those_of_the_table_of_calls_and_of_other_rows() {
        let keys = |column: &str| {
            of(column)
                .and_then(|known| known.keys.clone())
                .expect("keys")
        };
        let arguments = keys("evt_args");
        for key in [
            "sig",
            "request",
            "flags",
            "uid",
            "child_pid",
            "first_ts",
            "option",
        ] {
            assert!(arguments.contains(&key.to_owned()), "{key}: {arguments:?}");
        }
        // What has columns of its own is no key.
        for key in ["fd", "addr_in", "dirfd", "oldpath", "newpath", "pathname"] {
            assert!(!arguments.contains(&key.to_owned()), "{key}: {arguments:?}");
        }
        assert!(keys("proc_env").contains(&"LD_PRELOAD".to_owned()));
    }

    #[test]
    fn texts_of_a_shape_are_told_from_others() {
        fn check(shape: &str, right: &[&str], wrong: &[&str]) {
            let shape = Shape::named(shape).expect("a shape");
            for text in right {
                assert!(shape.holds(text), "{shape:?} {text}");
            }
            for text in wrong {
                assert!(!shape.holds(text), "{shape:?} {text}");
            }
        }
        let addresses = ["10.0.0.1", "::1", "fe80::1"];
        let none = [
            "10.0.0.256",
            "localhost",
            "10.0.0.0/8",
            "",
            "FE80::1",
            "::ffff:1.2.3.4",
            "0:0::1",
        ];
        check("address", &addresses, &none);
        check(
            "hex16",
            &["0123456789abcdef", ""],
            &["0123", "0123456789ABCDEF"],
        );
        check("command", &["sh", "kworker/0:1"], &["/bin/sh"]);
        check("filename", &["passwd", ""], &["/passwd", "a/b"]);
        check("folder", &["/etc", "/"], &["/etc/", "etc", "~"]);
        check(
            "path",
            &["/bin/sh", "memfd:x", ""],
            &["sh", "bin/sh", "~/x"],
        );
        check(
            "object",
            &[
                "/etc/shadow",
                "1.2.3.4:5->6.7.8.9:10",
                "[::1]:80",
                "->1.2.3.4:80",
                "@x",
                "memfd:x",
            ],
            &["etc/shadow", "shadow", "~/.ssh", "$HOME/x", "./x"],
        );
        check("tag", &["1.27", "latest"], &["nginx:1.27", "a/b"]);
        let address = Shape::Address;
        assert!(address.can_have("10.", true, false) && !address.can_have("/8", false, true));
        assert!(Shape::Folder.can_have("/etc/", true, false));
        assert!(!Shape::Folder.can_have("/etc/", false, true));
        assert!(
            Shape::Path.can_have("bin/", false, false) && Shape::Path.can_have("mem", true, false)
        );
        assert!(!Shape::Path.can_have("bin/", true, false));
        assert!(Shape::Object.can_have("etc/", false, false));
        assert!(!Shape::Object.can_have("etc/", true, false));
    }
}
