//! Rows as evidence: what a window of the fleet keeps of the first that counted.
//!
//! A row is kept as one text that begins with its time, host, run and number, so the least texts are the first rows, whatever
//! order they come in: what is kept is the same on every run.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewBuilder};
use arrow::datatypes::Int64Type;
use datafusion::common::Result;
use dogwatch_schemas::Text;
use serde_json::{Map, Value};

use crate::detect::windowed::{FLEET_ROW_BYTES, IDENTITY};
use crate::json;
use crate::window::Rows;

/// Most bytes of what a row says, as JSON.
const SAID_BYTES_MAX: usize = FLEET_ROW_BYTES / 2;
/// Most bytes of a text in it.
const TEXT_BYTES_MAX: usize = 160;
/// What parts are divided by: it is less than whatever stands in a name.
const DIVIDER: char = '\0';

/// One of the first rows of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirstRow {
    pub host_id: Text,
    pub sensor_run: Text,
    pub seq: i64,
    pub partition: i32,
    pub offset: i64,
    /// What it says, as a JSON object.
    pub said: Text,
}

/// The included rows as texts; `narrow` holds the columns of events that are read of them.
pub(in crate::window) fn column(
    rows: &Rows<'_>,
    included: &[usize],
    narrow: &RecordBatch,
) -> Result<ArrayRef> {
    let schema = narrow.schema_ref();
    let column =
        |name: &str| Ok::<_, arrow::error::ArrowError>(narrow.column(schema.index_of(name)?));
    let [host, run, seq] = IDENTITY.map(column);
    let (hosts, runs) = (host?.as_string_view(), run?.as_string_view());
    let seqs = seq?.as_primitive::<Int64Type>();
    let told = json::named(narrow);
    let told = told.into_iter();
    let told: Vec<_> = told.filter(|(name, _)| !IDENTITY.contains(name)).collect();
    let mut texts = StringViewBuilder::with_capacity(included.len());
    for (row, shown) in included.iter().enumerate() {
        let (moment, place) = (&rows.shown[*shown].moment, &rows.fleet.moments[*shown]);
        // Numbers below nothing come before those above.
        let seq = (seqs.value(row) as u64) ^ (1 << 63);
        let time = (moment.time as u64) ^ (1 << 63);
        let parts = [
            format!("{time:020}"),
            plain(hosts.value(row)),
            plain(runs.value(row)),
            format!("{seq:020}"),
            place.partition.to_string(),
            place.offset.to_string(),
            said(json::told_row(&told, row)),
        ];
        texts.append_value(parts.join(&DIVIDER.to_string()));
    }
    Ok(Arc::new(texts.finish()))
}

/// A name without dividers.
fn plain(name: &str) -> String {
    name.replace(DIVIDER, "\u{fffd}")
}

/// What a row says, as much as there is room for: texts are cut, and columns that find no room are left out.
fn said(row: Map<String, Value>) -> String {
    let mut said = Map::new();
    let mut bytes = 2;
    for (name, value) in row.into_iter().filter(|(_, value)| !value.is_null()) {
        let value = match value {
            Value::String(text) => {
                let end = text.floor_char_boundary(TEXT_BYTES_MAX);
                Value::String(text[..end].to_owned())
            }
            value => value,
        };
        let own = name.len() + value.to_string().len() + 4;
        if bytes + own <= SAID_BYTES_MAX {
            bytes += own;
            said.insert(name, value);
        }
    }
    Value::Object(said).to_string()
}

/// Reads a text of [`column()`]; none where it is no such text.
pub(super) fn parse(text: &str) -> Option<FirstRow> {
    let mut parts = text.splitn(7, DIVIDER).skip(1);
    let (host_id, sensor_run) = (parts.next()?, parts.next()?);
    let seq: u64 = parts.next()?.parse().ok()?;
    Some(FirstRow {
        host_id: host_id.into(),
        sensor_run: sensor_run.into(),
        seq: (seq ^ (1 << 63)) as i64,
        partition: parts.next()?.parse().ok()?,
        offset: parts.next()?.parse().ok()?,
        said: parts.next()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_says_much_is_cut_and_stays_json() {
        let mut row = Map::new();
        for column in 0..40 {
            row.insert(format!("c{column:02}"), "\u{e9}\"".repeat(300).into());
        }
        row.insert("z".to_owned(), Value::Null);
        let text = said(row);
        assert!(text.len() <= SAID_BYTES_MAX, "{} bytes", text.len());
        let read: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
        assert!(read.len() > 1 && read.contains_key("c00"));
    }

    #[test]
    fn a_text_is_read_as_it_is_written() {
        let seq = (-3_i64 as u64) ^ (1 << 63);
        let text = [
            "1",
            "h",
            "r",
            &format!("{seq:020}"),
            "4",
            "77",
            "{\"a\":\"\\u0000\"}",
        ];
        let row = parse(&text.join("\0")).expect("a row");
        assert_eq!((&*row.host_id, &*row.sensor_run, row.seq), ("h", "r", -3));
        assert_eq!((row.partition, row.offset), (4, 77));
        assert_eq!(&*row.said, "{\"a\":\"\\u0000\"}");
        assert_eq!(parse("1\0h"), None);
    }
}
