//! One pane of a group: the states of a task's keys, of all its hosts, in one piece of time.
//!
//! States come in pieces, one a batch, and are merged by size, so that each row is merged a few times only.

use std::collections::BTreeSet;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::common::Result;

use super::plans::{Phases, Workbench};

/// A pane's partition and start.
pub(super) type PaneId = (i32, i64);
/// Place of the slot's column in states.
pub(super) const SLOT_COLUMN: usize = 1;
/// Pieces a pane may have before the small ones are merged.
const PIECES_MAX: usize = 8;

/// The states of a pane.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// States; a key may stand in several.
    pub pieces: Vec<RecordBatch>,
    /// The slots that have rows here and windows open.
    pub slots: BTreeSet<i64>,
    /// What came since the last checkpoint.
    pub fresh: Vec<RecordBatch>,
    /// Numbers of the pieces that are stored.
    pub stored: BTreeSet<u64>,
    /// Rows not counted because of the cap.
    pub overflow: u64,
}

impl Pane {
    /// Adds states.
    pub fn push(&mut self, phases: &Phases, bench: &Workbench, piece: RecordBatch) -> Result<()> {
        self.pieces.push(piece);
        if self.pieces.len() > PIECES_MAX {
            let mut rows = 0;
            let mut from = self.pieces.len();
            while from > 0 && self.pieces[from - 1].num_rows() <= 2 * rows.max(512) {
                from -= 1;
                rows += self.pieces[from].num_rows();
            }
            self.merge(phases, bench, from)?;
        }
        Ok(())
    }

    /// Merges all states into one piece.
    pub fn merge_all(&mut self, phases: &Phases, bench: &Workbench) -> Result<()> {
        if self.pieces.len() > 1 {
            self.merge(phases, bench, 0)?;
        }
        Ok(())
    }

    fn merge(&mut self, phases: &Phases, bench: &Workbench, from: usize) -> Result<()> {
        let pieces = self.pieces[from..].to_vec();
        let merged = phases.reduce(bench, pieces)?;
        self.pieces.truncate(from);
        self.pieces.extend(merged);
        Ok(())
    }

    /// How many keys it has at most: those in several pieces are counted several times.
    /// Keys of hosts that are closed stay: they count against the cap as long as the pane is open for others.
    pub fn keys_at_most(&self) -> usize {
        self.pieces.iter().map(RecordBatch::num_rows).sum()
    }
}

/// The slots of a piece's rows.
pub(super) fn slots(piece: &RecordBatch) -> &[i64] {
    piece
        .column(SLOT_COLUMN)
        .as_primitive::<Int64Type>()
        .values()
}
