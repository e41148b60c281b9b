//! Lists: CSV files below `lists/`, tables to every detection.
//!
//! The first line names the columns; every column is text, an empty cell is NULL, lines that start with `#` are comments.
//! A byte-order mark, blank lines and CRLF are overlooked.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use csv::StringRecord;

use crate::sql_file::Warning;
use crate::sql_file::{Fault, Refusal, without_mark};
use crate::window::names_window;

/// Most rows a list may have: lists are held in memory and looked through for each event.
pub const ROWS_MAX: usize = 100_000;
/// Most warnings of one list that are told one by one.
const WARNINGS_MAX: usize = 10;

/// The lists by table name.
pub type Lists = BTreeMap<String, RecordBatch>;

/// What came of the files of lists.
#[derive(Default)]
pub struct Loaded {
    /// The lists that are tables.
    pub lists: Lists,
    /// The files that are none, and why.
    pub refused: Vec<Refusal>,
    /// What is wrong with lists that loaded nevertheless.
    pub warnings: Vec<Warning>,
}

/// Reads the texts of CSV files; those that are broken are refused, the others are tables. `is_table` says which names
/// queries know as something else.
pub fn load<'a>(
    files: impl Iterator<Item = (&'a Path, &'a Result<Arc<str>, Fault>)>,
    is_table: impl Fn(&str) -> bool,
) -> Loaded {
    let mut loaded = Loaded::default();
    let mut sources: HashMap<String, &Path> = HashMap::new();
    for (file, text) in files {
        match load_one(file, text, &is_table) {
            Ok((name, list)) => {
                if let Some(other) = sources.get(&name) {
                    let reason =
                        format!("{} has the same name, and a table has one", other.display());
                    let fault = Fault::new(1, reason, "give it another name");
                    loaded.refused.push(fault.in_file(file));
                    continue;
                }
                let warnings = list.warnings.into_iter().map(|fault| Warning {
                    fault: fault.in_file(file),
                    code: None,
                });
                loaded.warnings.extend(warnings);
                sources.insert(name.clone(), file);
                loaded.lists.insert(name, list.rows);
            }
            Err(fault) => loaded.refused.push(fault.in_file(file)),
        }
    }
    loaded
}

/// One list.
#[derive(Debug)]
pub struct List {
    /// Its rows, all text.
    pub rows: RecordBatch,
    /// What is wrong with it, though it can be read.
    pub warnings: Vec<Fault>,
}

fn load_one(
    file: &Path,
    text: &Result<Arc<str>, Fault>,
    is_table: impl Fn(&str) -> bool,
) -> Result<(String, List), Fault> {
    let name = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if is_table(name) {
        let reason = format!("there is a table {name}, which queries would read instead");
        return Err(Fault::new(1, reason, "give the file another name"));
    }
    if !is_snake_case(name) || names_window(name) {
        return Err(Fault::new(
            1,
            format!("{name:?} cannot be a table's name"),
            "name the file in snake case, and not tumble or hop",
        ));
    }
    let list = parse(text.as_deref().map_err(Fault::clone)?)?;
    let rows = list.rows.num_rows();
    if rows > ROWS_MAX {
        let reason = format!("the list has {rows} rows");
        return Err(Fault::new(1, reason, format!("keep it to {ROWS_MAX}")));
    }
    Ok((name.to_owned(), list))
}

/// Reads a list's text.
///
/// # Errors
/// When it is no CSV, or its first line names no columns.
pub fn parse(text: &str) -> Result<List, Fault> {
    // Lines are counted by their ends, and a CRLF would be half read at the end of a row.
    let text = without_mark(text).replace("\r\n", "\n");
    let text = format!("{text}\n{LAST_ROW}\n");
    let mut rows = Rows::new(&text);
    let (line, header) = rows.next().transpose()?.unwrap_or((1, StringRecord::new()));
    let columns: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let mend = "write a first line of column names, such as name, then rows of as many cells";
    if columns.iter().all(|column| column.is_empty()) {
        return Err(Fault::new(
            line,
            "the list's first line names no columns",
            mend,
        ));
    }
    if let Some(wrong) = columns.iter().find(|column| !is_snake_case(column)) {
        let reason =
            format!("the list's first line names the column {wrong:?}, which is not in snake case");
        return Err(Fault::new(line, reason, mend));
    }
    if let Some((_, twice)) = columns
        .iter()
        .enumerate()
        .find(|(place, column)| columns[..*place].contains(column))
    {
        let reason = format!("the list's first line names the column {twice} twice");
        return Err(Fault::new(
            line,
            reason,
            "give each column a name of its own",
        ));
    }
    let mut builders: Vec<StringViewBuilder> =
        columns.iter().map(|_| StringViewBuilder::new()).collect();
    let mut judge = Judge::new(&columns);
    for row in rows {
        let (line, record) = row?;
        if record.len() != columns.len() {
            let reason = format!(
                "the row's cells are {}, and the columns {}",
                record.len(),
                columns.len()
            );
            let mend =
                "write a cell for each column, and put a cell that has a comma into double quotes";
            return Err(Fault::new(line, reason, mend));
        }
        for (builder, cell) in builders.iter_mut().zip(&record) {
            builder.append_option((!cell.is_empty()).then_some(cell));
        }
        judge.look(line, &record);
    }
    let fields = columns
        .iter()
        .map(|name| Field::new(name, DataType::Utf8View, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = builders
        .into_iter()
        .map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
    let rows = RecordBatch::try_new(schema, arrays.collect())
        .map_err(|error| Fault::new(1, format!("the list is no table: {error}"), mend))?;
    Ok(List {
        rows,
        warnings: judge.finish(),
    })
}

/// A row behind the last one of a list: where a double quote is open, it becomes part of that one's cell.
const LAST_ROW: &str = "\u{1}end";

/// The rows of a text, each with its line from 1.
struct Rows<'a>(csv::StringRecordsIntoIter<&'a [u8]>);

impl<'a> Rows<'a> {
    fn new(text: &'a str) -> Self {
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .from_reader(text.as_bytes());
        Self(reader.into_records())
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(usize, StringRecord), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.next()?;
        // Where a row begins is told before comments and blank lines are left out: it is reckoned from its end.
        let end = self.0.reader().position().line() as usize;
        Some(match row {
            Ok(row) if row.len() == 1 && &row[0] == LAST_ROW => return None,
            Ok(row) => {
                let breaks = row.iter().map(|cell| cell.matches('\n').count());
                let breaks = breaks.sum::<usize>();
                match row.iter().any(|cell| cell.contains(LAST_ROW)) {
                    // The end of its last line is within the cell.
                    true => Err(open_quote(&row, end.saturating_sub(breaks).max(1))),
                    false => Ok((end.saturating_sub(1 + breaks).max(1), row)),
                }
            }
            Err(error) => {
                let reason = format!("the list is no CSV: {error}");
                Err(Fault::new(end, reason, "write it as CSV in UTF-8"))
            }
        })
    }
}

/// The refusal of a row in which a double quote is opened and never closed, in the line where that is.
fn open_quote(row: &StringRecord, line: usize) -> Fault {
    let before = row.iter().take_while(|cell| !cell.contains(LAST_ROW));
    let breaks = before.map(|cell| cell.matches('\n').count());
    Fault::new(
        line + breaks.sum::<usize>(),
        "a double quote is open to the end of the list",
        "close it at the cell's end, and write one that belongs to a cell as two within quotes",
    )
}

/// What an author should know of a list's rows.
struct Judge<'a> {
    columns: &'a [String],
    /// Lines by what stands in them.
    seen: HashMap<Vec<String>, usize>,
    warnings: Vec<Fault>,
    more: usize,
}

impl<'a> Judge<'a> {
    fn new(columns: &'a [String]) -> Self {
        Self {
            columns,
            seen: HashMap::new(),
            warnings: Vec::new(),
            more: 0,
        }
    }

    fn look(&mut self, line: usize, record: &StringRecord) {
        for (column, cell) in self.columns.iter().zip(record) {
            if let Some((first, _)) = cell.split_once('\n') {
                let reason =
                    format!("the cell of {column} that begins with {first:?} has a line break");
                let mend =
                    "close the double quote before it, if no text with a line break is meant";
                self.warn(Fault::new(line, reason, mend));
                continue;
            }
            if !cell.is_empty() && cell.trim() != cell {
                let reason = format!(
                    "{column} is {cell:?}, and only a text with the same blanks around it equals that"
                );
                self.warn(Fault::new(line, reason, "take the blanks out"));
            }
        }
        // Other columns may well be left open; the first is what the list is of.
        if record.get(0).is_some_and(|cell| cell.is_empty()) {
            let reason = format!(
                "the cell of {} is blank, which is NULL: nothing is NOT IN a list with a NULL",
                self.columns[0]
            );
            self.warn(Fault::new(line, reason, "fill it, or take the row out"));
        }
        let cells: Vec<String> = record.iter().map(str::to_owned).collect();
        match self.seen.get(&cells) {
            Some(first) => {
                let reason = format!("the row stands in line {first} already");
                self.warn(Fault::new(line, reason, "take one of them out"));
            }
            None => {
                self.seen.insert(cells, line);
            }
        }
    }

    fn warn(&mut self, fault: Fault) {
        match self.warnings.len() < WARNINGS_MAX {
            true => self.warnings.push(fault),
            false => self.more += 1,
        }
    }

    fn finish(mut self) -> Vec<Fault> {
        if let (true, Some(last)) = (self.more > 0, self.warnings.last()) {
            let reason = format!("{} more of this kind follow", self.more);
            self.warnings
                .push(Fault::new(last.line, reason, "correct these first"));
        }
        self.warnings
    }
}

/// Lower-case letters, digits and underscores, a letter first.
pub fn is_snake_case(name: &str) -> bool {
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
        let text = "# why\nname,note\nsh,\"a, b\"\n# more\nbash,\n";
        let with_mark = format!("\u{feff}\r\n\r\n{}", text.replace('\n', "\r\n"));
        for text in [text, &with_mark] {
            let list = parse(text).expect("a list");
            assert_eq!(list.warnings, []);
            let rows = list.rows;
            assert_eq!(rows.num_rows(), 2);
            assert_eq!(rows.column(0).as_string_view().value(1), "bash");
            assert_eq!(rows.column(1).as_string_view().value(0), "a, b");
            assert!(rows.column(1).is_null(1));
        }
        assert_eq!(parse("name\n").expect("an empty list").rows.num_rows(), 0);
    }

    #[test]
    fn broken_lists_are_refused_with_their_line() {
        fn check(text: &str, line: usize, reason: &str) {
            let fault = parse(text).expect_err(text);
            assert_eq!(fault.line, line, "{fault:?}");
            assert!(fault.reason.contains(reason), "{fault:?}");
        }
        check("", 1, "names no columns");
        check("a b,c\n1,2\n", 1, "\"a b\", which is not in snake case");
        check("a,a\n1,2\n", 1, "a twice");
        check(
            "a,b\n1,2\n\"3\n\",4\n# c\n1",
            6,
            "cells are 1, and the columns 2",
        );
        for (text, line) in [
            ("name\nsh\n\"bash\nzsh\n", 3),
            ("name\n\"", 2),
            ("\"name", 1),
            ("name,why\nsh,\"a\nb\"\nbash,\"c", 4),
            ("name,why\n\"a\nb\",\"c\n\n", 3),
            ("name\n\"sh\"\"\nbash\n", 2),
        ] {
            check(text, line, "a double quote is open to the end");
        }
    }

    #[test]
    fn blanks_and_repeated_rows_are_told_with_their_line() {
        fn check(text: &str, line: usize, reason: &str) {
            let warnings = parse(text).expect("a list").warnings;
            let [warning] = &warnings[..] else {
                panic!("{warnings:?}")
            };
            assert_eq!(warning.line, line, "{warning:?}");
            assert!(warning.reason.contains(reason), "{warning:?}");
        }
        check(
            "name,why\ncron,jobs\n,to be filled in\nsh,\n",
            3,
            "name is blank, which is NULL",
        );
        check(
            "name,why\n\"sh,a\nbash,\",b\n",
            2,
            "\"sh,a\" has a line break",
        );
        check("name\nsh\n\nbash \n", 4, "\"bash \"");
        check("\u{feff}\r\nname\r\nsh\r\n\r\nbash \r\n", 5, "\"bash \"");
        check("name,why\nsh,a\nsh,b\nsh,a\n", 4, "line 2 already");
        let many = "sh\n".repeat(100);
        let warnings = parse(&format!("name\n{many}")).expect("a list").warnings;
        assert_eq!(warnings.len(), WARNINGS_MAX + 1);
        assert!(
            warnings[WARNINGS_MAX].reason.starts_with("89 more"),
            "{warnings:?}"
        );
    }
}
