//! The tables of `docs/semantics.md` hold for the schemas: each named column exists, may be null where the table says so, and names its values.

use crate::support::{contract, parse};
use apache_avro::Schema;
use apache_avro::schema::RecordField;

const SEMANTICS: &str = include_str!("../../../docs/semantics.md");

/// Heading of the tables that say what columns mean.
const HEADING: &str = "| columns | null | values | meaning |";

/// A row of a table `| columns | null | values | meaning |`.
struct Row {
    columns: Vec<&'static str>,
    null: &'static str,
    values: Vec<&'static str>,
}

fn rows() -> Vec<Row> {
    // Other tables of the page have other headings.
    let mut of_columns = false;
    let tables = SEMANTICS.lines().filter(move |line| {
        of_columns = line.starts_with('|') && (of_columns || *line == HEADING);
        of_columns && line.starts_with("| `")
    });
    let rows = tables.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [columns, null, values, _meaning] = cells[..] else {
            panic!("not four cells: {line}")
        };
        Row {
            columns: code_in(columns),
            null,
            values: code_in(values),
        }
    });
    rows.collect()
}

/// What stands between backticks.
fn code_in(cell: &'static str) -> Vec<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn field(name: &str) -> RecordField {
    let Schema::Record(event) = parse(contract("Event").schema) else {
        panic!("a record")
    };
    let field = event.fields.into_iter().find(|field| field.name == name);
    field.unwrap_or_else(|| panic!("semantics.md names {name}, which is no column of Event"))
}

#[test]
fn columns_are_null_only_where_their_meaning_says_so() {
    for row in rows() {
        for column in &row.columns {
            let nullable = matches!(field(column).schema, Schema::Union(_));
            match row.null {
                "never" => assert!(!nullable, "{column} is said to be never null"),
                "not known" | "none" => assert!(nullable, "{column} is said to be null at times"),
                other => panic!("{column}: null is never, not known or none, not {other}"),
            }
        }
    }
}

#[test]
fn values_are_those_that_the_schema_documents() {
    for row in rows() {
        let doc = field(row.columns[0]).doc.unwrap();
        let words: Vec<_> = doc
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for value in row.values {
            assert!(
                words.contains(&value),
                "{}: {value} is not in the schema's documentation",
                row.columns[0]
            );
        }
    }
}

/// The columns whose meaning was fixed first; without their row the page would promise less.
#[test]
fn every_frozen_meaning_is_on_the_page() {
    let on_page: Vec<_> = rows().into_iter().flat_map(|row| row.columns).collect();
    for column in [
        "container_id",
        "container_full_id",
        "container_nested_id",
        "container_origin_id",
        "proc_key",
        "proc_pkey",
        "ts",
        "boot_ts",
        "boot_id",
        "evt_outcome",
        "evt_failed",
        "evt_is_open_read",
        "evt_is_open_write",
        "evt_is_open_create",
        "fd_name",
        "fd_nameraw",
        "evt_path_source",
        "user_uid",
        "user_name",
        "user_host_uid",
        "proc_name",
        "proc_exepath",
        "proc_cmdline",
        "proc_stage",
        "proc_stdin_type",
        "proc_stdin_name",
        "proc_exe_dev",
        "proc_exe_ino",
        "proc_exe_ino_mtime",
        "proc_exe_ino_ctime",
        "proc_exe_from",
        "proc_exe_sha256",
        "host_id",
        "sensor_run",
        "seq",
        "evt_type",
        "evt_escaped",
    ] {
        assert!(
            on_page.contains(&column),
            "semantics.md says nothing of {column}"
        );
    }
}
