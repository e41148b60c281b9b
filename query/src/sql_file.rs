//! The one file format of SQL content: leading `-- ` lines are TOML, the rest is one query.
//!
//! ```text
//! -- title = "Shell with a terminal in a container"     line 1: header
//! -- severity = "medium"                                line 2: header
//! SELECT ...                                            line 3: the query
//! ```
//! The header's lines are SQL comments, so the SQL parser is given the whole file and its line numbers are the file's.
//! A byte-order mark, blank lines before the header and CRLF are what editors leave behind, and are overlooked.

use std::fmt;
use std::path::{Path, PathBuf};

use datafusion::common::DataFusionError;
use sha2::{Digest, Sha256};

/// Why a file was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {reason}; {mend}", file.display())]
pub struct Refusal {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1; the header's lines count.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

/// A refusal before its file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

impl Fault {
    /// A fault in a line, with its mend.
    pub fn new(line: usize, reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
            mend: mend.into(),
        }
    }

    /// The refusal of the file that it is in.
    #[must_use]
    pub fn in_file(self, file: &Path) -> Refusal {
        Refusal {
            file: file.to_owned(),
            line: self.line,
            reason: self.reason,
            mend: self.mend,
        }
    }
}

/// What is wrong with a file that loads nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it is, what is wrong and what to do about it.
    pub fault: Refusal,
    /// By which a detection's header can allow it; none of a list's.
    pub code: Option<&'static str>,
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal {
            file,
            line,
            reason,
            mend,
        } = &self.fault;
        write!(out, "{}:{line}: warning: {reason}; {mend}", file.display())?;
        match self.code {
            Some(code) => write!(out, " [{code}]"),
            None => Ok(()),
        }
    }
}

/// Why a query has no plan.
#[derive(Debug)]
pub enum PlanError {
    /// It is refused, with the mend.
    Refused(Fault),
    /// The SQL engine says no.
    Engine(DataFusionError),
}

impl From<Fault> for PlanError {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

impl From<DataFusionError> for PlanError {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}

/// A file of SQL content, taken apart but not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlFile {
    /// The header as TOML, each line where it stands in the file.
    pub header: String,
    /// The whole text: the header is comments to an SQL parser.
    pub sql: String,
    /// Line of the query's start, from 1.
    pub query_line: usize,
    /// The first 16 hexadecimal digits of the text's SHA-256.
    pub content_hash: String,
}

impl SqlFile {
    /// Takes a text apart: the leading lines that start with `--` are the header.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let sql = without_mark(text);
        let blank = |line: &&str| line.trim().is_empty();
        let blank_lines = sql.lines().take_while(blank).count();
        let header = sql.lines().skip(blank_lines);
        let header = header.map_while(|line| line.strip_prefix("--"));
        let header: Vec<&str> = std::iter::repeat_n("", blank_lines)
            .chain(header.map(|line| line.strip_prefix(' ').unwrap_or(line)))
            .collect();
        Self {
            query_line: header.len() + 1,
            header: header.join("\n"),
            content_hash: hex(&Sha256::digest(text.as_bytes())[..8]),
            sql: sql.to_owned(),
        }
    }

    /// First line of the query that holds `needle` in any case, else the query's first line.
    pub fn line_of(&self, needle: &str) -> usize {
        let needle = needle.to_lowercase();
        let mut lines = self.sql.lines().enumerate().skip(self.query_line - 1);
        lines
            .find(|(_, line)| line.to_lowercase().contains(&needle))
            .map_or(self.query_line, |(index, _)| index + 1)
    }
}

/// A text without the byte-order mark that some editors put before it.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// 16 hexadecimal digits of the SHA-256 over some texts, joined by NUL.
pub fn digest<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize()[..8])
}

/// Lower-case hexadecimal digits of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is another but for its case or one letter more, less, other or out of order, and not the same.
pub fn is_one_slip(word: &str, text: &str) -> bool {
    let distance = strsim::damerau_levenshtein(&word.to_lowercase(), &text.to_lowercase());
    word != text && distance <= 1
}

/// The candidate that looks most like `name`, when one looks like it at all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.55;
    dogwatch_schemas::nearest::nearest(name, candidates, ALIKE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_query_keep_the_lines_of_the_file() {
        let file = SqlFile::parse("-- a = 1\n--\n-- b = 2\nSELECT x\nFROM Events -- note\n");
        assert_eq!(file.header, "a = 1\n\nb = 2");
        assert_eq!(file.query_line, 4);
        assert_eq!(file.line_of("events"), 5);
        assert_eq!(file.line_of("nowhere"), 4);
        assert_eq!(file.content_hash.len(), 16);
    }

    #[test]
    fn what_editors_leave_before_the_header_is_overlooked() {
        let file = SqlFile::parse("\u{feff}\r\n-- a = 1\r\nSELECT x\r\n");
        assert_eq!(file.header.trim(), "a = 1");
        assert_eq!((file.query_line, file.line_of("select")), (3, 3));
    }

    #[test]
    fn one_slip_is_told_from_another_word() {
        for text in ["Host", "HOST", "hots", "hosts", "hst", "gost"] {
            assert!(is_one_slip("host", text), "{text}");
        }
        for text in ["host", "", "ghosts", "c0ffee012345"] {
            assert!(!is_one_slip("host", text), "{text}");
        }
    }

    #[test]
    fn nearest_names_what_was_meant_and_nothing_else() {
        let columns = ["proc_name", "proc_pname", "fd_name"];
        assert_eq!(nearest("proc_nme", columns), Some("proc_name"));
        assert_eq!(nearest("Proc_Name", columns), Some("proc_name"));
        assert_eq!(nearest("zzz", columns), None);
        for columns in [["proc_name", "proc_sname"], ["proc_sname", "proc_name"]] {
            assert_eq!(nearest("proces_name", columns), Some("proc_name"));
        }
    }
}
