//! Rows of a batch by their event type: what a detection that needs certain types is shown.

use std::collections::BTreeSet;

use arrow::array::StringViewArray;
use datafusion::common::HashMap;

/// Rows of a batch by event type.
pub(crate) struct Routes<'a> {
    all: Vec<u32>,
    by_type: HashMap<&'a str, Vec<u32>>,
}

impl<'a> Routes<'a> {
    /// Sorts rows, which come in order, by their type.
    pub fn new(event_types: &'a StringViewArray, rows: Vec<u32>) -> Self {
        let mut by_type: HashMap<&str, Vec<u32>> = HashMap::new();
        for row in &rows {
            let own = by_type.entry(event_types.value(*row as usize));
            own.or_default().push(*row);
        }
        Self { all: rows, by_type }
    }

    /// The rows of some types, in their order; all without.
    pub fn of(&self, event_types: Option<&BTreeSet<String>>) -> Vec<u32> {
        let Some(event_types) = event_types else {
            return self.all.clone();
        };
        let mut rows: Vec<u32> = event_types
            .iter()
            .filter_map(|event_type| self.by_type.get(event_type.as_str()))
            .flatten()
            .copied()
            .collect();
        // One sorted run for each type: that is what a stable sort is quick at.
        rows.sort();
        rows
    }
}
