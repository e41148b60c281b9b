//! A result as a Markdown table, ready for `docs/benchmarks.md`.

use std::fmt;

/// Rows under a heading, with notes below them.
pub struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// Starts a table with its column names.
    pub fn new(heading: &[&str]) -> Self {
        Self {
            heading: heading.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has not as many cells as the heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.heading.len(), "one cell a column");
        self.rows.push(cells);
    }

    /// Adds a sentence below the table.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.heading.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.heading.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        writeln!(f)?;
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "{note}."))
    }
}
