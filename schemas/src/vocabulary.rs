//! What is known of the values of the columns of events and samples beforehand: which there are, how long or how large.
//!
//! The schema says it beside the column, as `values`, `bytes_max`, `min`, `max` and `times`, and `calls` where the names of system calls are values; no reader of Avro needs these attributes.
//! A newer sensor may send more than is known here, so nothing is refused for what this module does not know.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::errno;
use crate::records::{ContainerSample, Event, ProcessSample, SyscallSample};

/// What is known of a column's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// All values there are; none where they are not a closed set.
    pub values: Option<Vec<String>>,
    /// Most bytes of a text.
    pub bytes_max: Option<usize>,
    /// The least number.
    pub min: Option<i64>,
    /// The largest number.
    pub max: Option<i64>,
    /// Whether its numbers are times, nanoseconds since 1970, without having the type of one.
    pub times: bool,
}

/// What is known of a column of events or samples; none where nothing is.
#[must_use]
pub fn of(column: &str) -> Option<&'static Vocabulary> {
    static COLUMNS: LazyLock<BTreeMap<String, Vocabulary>> = LazyLock::new(columns);
    COLUMNS.get(column)
}

fn columns() -> BTreeMap<String, Vocabulary> {
    let mut columns = columns_of(Event::SCHEMA);
    for schema in [
        ContainerSample::SCHEMA,
        ProcessSample::SCHEMA,
        SyscallSample::SCHEMA,
    ] {
        for (name, vocabulary) in columns_of(schema) {
            let known = columns.entry(name).or_insert_with(|| vocabulary.clone());
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
            min: field["min"].as_i64(),
            max: field["max"].as_i64(),
            times: field["times"] == true,
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
    let values = field["values"].as_array()?;
    let texts = values.iter().filter_map(Value::as_str).map(str::to_owned);
    let calls = calls().filter(|call| name != "evt_type" || event_type(call) == *call);
    let calls = calls.filter(|_| field["calls"] == true).map(str::to_owned);
    Some(texts.chain(calls).collect())
}

/// The system calls that sensors see: the names in their table of calls.
fn calls() -> impl Iterator<Item = &'static str> {
    let rows = include_str!("../../ebpf/bpf/calls.def").lines();
    rows.filter_map(|row| row.strip_prefix("CALL(")?.split(',').next())
}

/// What an event of a system call is called: what processes are made by is one type, whichever call it was.
#[must_use]
pub fn event_type(call: &str) -> &str {
    match call {
        "fork" | "vfork" | "clone3" => "clone",
        call => call,
    }
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
}
