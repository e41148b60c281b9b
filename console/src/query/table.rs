//! Rows as people read them, as JSON or as CSV.
//!
//! ```text
//! ts                              proc_name  proc_cmdline
//! 2026-01-31T12:00:00.000000211Z  sh         sh -c id
//! ```
//! A table's columns are as wide as the first rows need. Names and command lines are the attacker's to choose: in a table
//! control characters and marks that turn text are written as `\x1b`, in JSON as `\u001b`.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use clap::ValueEnum;
use dogwatch_query::json::told_row;
use serde_json::Value;

use crate::render::printable;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; a value has at most 200 characters there
    Table,
    /// One JSON object a line, times in RFC 3339
    Json,
    /// Values separated by commas, the names first
    Csv,
}

/// Characters of a value that a table shows.
const VALUE_CHARACTERS_MAX: usize = 200;
/// More columns than this are written below each other.
const COLUMNS_MAX: usize = 24;
/// Rows that are looked at for a table's widths.
const WIDTH_ROWS: usize = 1_000;
/// How long rows wait for others to find the widths with.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes rows.
pub struct Writer<W: Write> {
    output: W,
    format: Format,
    /// Whether people look at the output as it comes.
    terminal: bool,
    /// The columns' names, each once.
    keys: Arc<[String]>,
    names: Vec<String>,
    /// Rows that wait for the widths.
    waiting: Vec<Vec<Cell>>,
    since: Option<Instant>,
    widths: Vec<usize>,
    begun: bool,
    /// Rows that came.
    pub rows: u64,
}

/// A value of a table.
struct Cell {
    text: String,
    number: bool,
}

impl<W: Write> Writer<W> {
    /// A writer of rows of this schema.
    pub fn new(output: W, format: Format, terminal: bool, schema: &SchemaRef) -> Self {
        let keys = keys(schema);
        let names: Vec<String> = keys.iter().map(|key| printable(key)).collect();
        Self {
            output,
            format,
            terminal,
            widths: names.iter().map(|name| name.chars().count()).collect(),
            names,
            keys: keys.into(),
            waiting: Vec::new(),
            since: None,
            begun: false,
            rows: 0,
        }
    }

    /// Writes a batch's rows, or keeps them for a moment.
    ///
    /// # Errors
    /// The output's.
    pub fn batch(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let keys = Arc::clone(&self.keys);
        let columns = keys
            .iter()
            .map(String::as_str)
            .zip(batch.columns().iter().cloned());
        let columns: Vec<(&str, ArrayRef)> = columns.collect();
        for row in 0..batch.num_rows() {
            self.rows += 1;
            match self.format {
                Format::Json => self.json(&columns, row)?,
                Format::Csv => self.csv(&columns, row)?,
                Format::Table if columns.len() > COLUMNS_MAX => self.block(&columns, row)?,
                Format::Table => {
                    self.waiting.push(cells(&columns, row));
                    self.since.get_or_insert_with(Instant::now);
                    if self.begun || self.waiting.len() >= WIDTH_ROWS {
                        self.lines()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what has waited long enough; called now and then.
    ///
    /// # Errors
    /// The output's.
    pub fn tick(&mut self) -> io::Result<()> {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.lines()?;
        }
        self.output.flush()
    }

    /// Writes the last rows; a table without rows still has its names.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(&mut self) -> io::Result<()> {
        let beside = self.names.len() <= COLUMNS_MAX;
        match self.format {
            Format::Table if beside => self.lines()?,
            Format::Csv => self.csv_names()?,
            Format::Table | Format::Json => {}
        }
        self.output.flush()
    }

    fn json(&mut self, columns: &[(&str, ArrayRef)], row: usize) -> io::Result<()> {
        let text = Value::Object(told_row(columns, row)).to_string();
        writeln!(self.output, "{}", escaped(&text))
    }

    fn csv_names(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
            writeln!(self.output, "{}", names.join(","))?;
        }
        Ok(())
    }

    fn csv(&mut self, columns: &[(&str, ArrayRef)], row: usize) -> io::Result<()> {
        self.csv_names()?;
        let told = told_row(columns, row);
        let values: Vec<String> = columns
            .iter()
            .map(|(name, _)| {
                let text = plain(told.get(*name).unwrap_or(&Value::Null));
                quoted(&if self.terminal {
                    printable(&text)
                } else {
                    text
                })
            })
            .collect();
        writeln!(self.output, "{}", values.join(","))
    }

    /// A row whose columns stand below each other, those that are not known left out.
    fn block(&mut self, columns: &[(&str, ArrayRef)], row: usize) -> io::Result<()> {
        let width = self.widths.iter().copied().max().unwrap_or(0);
        let cells = cells(columns, row);
        for (name, cell) in self.names.iter().zip(cells) {
            if !cell.text.is_empty() {
                writeln!(self.output, "{name:width$}  {}", cell.text)?;
            }
        }
        writeln!(self.output)
    }

    /// Writes the lines that wait, below the names.
    fn lines(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.since = None;
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            let names = self.names.iter().map(|name| Cell {
                text: name.clone(),
                number: false,
            });
            let names: Vec<Cell> = names.collect();
            line(&mut self.output, &self.widths, &names)?;
        }
        for row in &rows {
            line(&mut self.output, &self.widths, row)?;
        }
        Ok(())
    }
}

/// The names of columns; of two that are the same the second is `name_2`.
fn keys(schema: &SchemaRef) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for field in schema.fields() {
        let mut key = field.name().clone();
        let mut number = 1;
        while keys.contains(&key) {
            number += 1;
            key = format!("{}_{number}", field.name());
        }
        keys.push(key);
    }
    keys
}

fn line(output: &mut impl Write, widths: &[usize], cells: &[Cell]) -> io::Result<()> {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let missing = width.saturating_sub(cell.text.chars().count());
        let (before, after) = if cell.number {
            (missing, 0)
        } else {
            (0, missing)
        };
        text.extend(std::iter::repeat_n(' ', before));
        text += &cell.text;
        text.extend(std::iter::repeat_n(' ', after + 2));
    }
    writeln!(output, "{}", text.trim_end())
}

fn cells(columns: &[(&str, ArrayRef)], row: usize) -> Vec<Cell> {
    let told = told_row(columns, row);
    let cell = |(name, _): &(&str, ArrayRef)| {
        let value = told.get(*name).unwrap_or(&Value::Null);
        let text = plain(value);
        let text = match text.char_indices().nth(VALUE_CHARACTERS_MAX) {
            Some((end, _)) => printable(&text[..end]) + "…",
            None => printable(&text),
        };
        Cell {
            text,
            number: value.is_number(),
        }
    };
    columns.iter().map(cell).collect()
}

/// A value without quotes; nothing where it is not known.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A value of a CSV file.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// JSON in which nothing turns text or moves a cursor, and which says the same.
fn escaped(json: &str) -> String {
    let turns = |letter: char| matches!(letter, '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !json.contains(turns) {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match turns(letter) {
            true => text += &format!("\\u{:04x}", letter as u32),
            false => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray, TimestampNanosecondArray};

    use super::*;

    fn written(format: Format) -> String {
        written_to(false, format)
    }

    fn written_to(terminal: bool, format: Format) -> String {
        let ts = TimestampNanosecondArray::from(vec![Some(211), None]).with_timezone("+00:00");
        let batch = RecordBatch::try_from_iter([
            ("ts", Arc::new(ts) as ArrayRef),
            (
                "n",
                Arc::new(Int64Array::from(vec![Some(7), Some(1_000)])) as _,
            ),
            (
                "name",
                Arc::new(StringArray::from(vec![
                    Some("a\u{1b}[2J\u{202e}\nb,\"c\""),
                    None,
                ])) as _,
            ),
        ])
        .unwrap();
        let mut output = Vec::new();
        let mut writer = Writer::new(&mut output, format, terminal, &batch.schema());
        writer.batch(&batch).unwrap();
        writer.finish().unwrap();
        assert_eq!(writer.rows, 2);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_table_shows_hostile_text_as_text() {
        let expected = "\
ts                              n     name
1970-01-01T00:00:00.000000211Z     7  a\\x1b[2J\\u{202e}\\x0ab,\"c\"
                                1000
";
        assert_eq!(written(Format::Table), expected);
    }

    #[test]
    fn json_says_every_value_and_nothing_to_a_terminal() {
        let expected = "{\"ts\":\"1970-01-01T00:00:00.000000211Z\",\"n\":7,\"name\":\"a\\u001b[2J\\u202e\\nb,\\\"c\\\"\"}\n\
                        {\"ts\":null,\"n\":1000,\"name\":null}\n";
        let text = written(Format::Json);
        let (first, _) = text.split_once('\n').unwrap();
        let read: Value = serde_json::from_str(first).unwrap();
        assert_eq!(read["name"], "a\u{1b}[2J\u{202e}\nb,\"c\"");
        let sorted = |text: &str| -> Vec<Value> {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        assert_eq!(sorted(&text), sorted(expected));
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }

    #[test]
    fn csv_quotes_what_must_be() {
        let expected = "ts,n,name\n1970-01-01T00:00:00.000000211Z,7,\"a\u{1b}[2J\u{202e}\nb,\"\"c\"\"\"\n,1000,\n";
        assert_eq!(written(Format::Csv), expected);
        // A file has what there is; a terminal would obey it.
        let shown = "ts,n,name\n1970-01-01T00:00:00.000000211Z,7,\"a\\x1b[2J\\u{202e}\\x0ab,\"\"c\"\"\"\n,1000,\n";
        assert_eq!(written_to(true, Format::Csv), shown);
    }

    #[test]
    fn an_empty_answer_has_its_names() {
        let batch =
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        let schema = batch.unwrap().schema();
        for (format, expected) in [
            (Format::Table, "n\n"),
            (Format::Csv, "n\n"),
            (Format::Json, ""),
        ] {
            let mut output = Vec::new();
            Writer::new(&mut output, format, false, &schema)
                .finish()
                .unwrap();
            assert_eq!(String::from_utf8(output).unwrap(), expected);
        }
    }
}
