//! Lists: CSV files below `lists/`, tables to every detection.
//!
//! The first line names the columns; every column is text, an empty cell is NULL, lines that start with `#` are comments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema};

use super::sql_file::{Fault, Refusal};

/// Most rows a list may have: lists are held in memory and looked through for each event.
pub(super) const ROWS_MAX: usize = 100_000;

/// The lists by table name.
pub(crate) type Lists = BTreeMap<String, RecordBatch>;

/// Reads the given CSV files; those that are broken are refused, the others are tables.
pub(crate) fn load(files: &[PathBuf]) -> (Lists, Vec<Refusal>) {
    let mut lists = Lists::new();
    let mut refused = Vec::new();
    for file in files {
        match load_one(file) {
            Ok((name, rows)) => {
                lists.insert(name, rows);
            }
            Err(fault) => refused.push(fault.in_file(file)),
        }
    }
    (lists, refused)
}

fn load_one(file: &Path) -> Result<(String, RecordBatch), Fault> {
    let name = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if !is_snake_case(name) || name == "events" {
        return Err(Fault::new(
            1,
            format!("{name:?} cannot be a table's name"),
            "name the file in snake case, not events",
        ));
    }
    let text = fs::read_to_string(file).map_err(|error| {
        Fault::new(
            1,
            format!("could not read the list: {error}"),
            "make it a readable UTF-8 file",
        )
    })?;
    let rows = parse(&text).map_err(|reason| {
        Fault::new(
            1,
            reason,
            "write a first line of column names, then rows of as many cells",
        )
    })?;
    if rows.num_rows() > ROWS_MAX {
        let reason = format!("the list has {} rows", rows.num_rows());
        return Err(Fault::new(1, reason, format!("keep it to {ROWS_MAX}")));
    }
    Ok((name.to_owned(), rows))
}

pub(super) fn parse(text: &str) -> Result<RecordBatch, String> {
    let format = Format::default().with_header(true).with_comment(b'#');
    let explain = |error: arrow::error::ArrowError| format!("the list is no CSV: {error}");
    let (named, _) = format
        .infer_schema(text.as_bytes(), Some(0))
        .map_err(explain)?;
    let columns: Vec<Field> = named
        .fields()
        .iter()
        .map(|field| Field::new(field.name().trim(), DataType::Utf8View, true))
        .collect();
    if columns.is_empty() || columns.iter().any(|column| !is_snake_case(column.name())) {
        return Err("the list's first line names no columns in snake case".to_owned());
    }
    let schema = Arc::new(Schema::new(columns));
    let reader = ReaderBuilder::new(Arc::clone(&schema))
        .with_format(format)
        .build(text.as_bytes())
        .map_err(explain)?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(explain)?;
    arrow::compute::concat_batches(&schema, &batches).map_err(explain)
}

/// Lower-case letters, digits and underscores, a letter first.
pub(crate) fn is_snake_case(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn a_list_is_a_table_of_text() {
        let rows = parse("# why\nname,note\nsh,\"a, b\"\n# more\nbash,\n").expect("a list");
        assert_eq!(rows.num_rows(), 2);
        assert_eq!(rows.column(0).as_string_view().value(1), "bash");
        assert_eq!(rows.column(1).as_string_view().value(0), "a, b");
        assert!(rows.column(1).is_null(1));
        assert_eq!(parse("name\n").expect("an empty list").num_rows(), 0);
    }

    #[test]
    fn broken_lists_are_refused() {
        for text in ["", "a b,c\n1,2\n", "a,b\n1\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
