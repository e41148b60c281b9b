//! One pane of a group: the states of all hosts' keys in one piece of time.
//!
//! States come in pieces, one a batch, and are merged by size, so that each row is merged a few times only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::Result;

use super::plans::{Phases, Workbench};
use crate::engine::tasks::partition_of;

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
    /// What came since a partition's last checkpoint, by partition.
    pub fresh: HashMap<i32, Vec<RecordBatch>>,
    /// Numbers of the pieces that are stored, by partition.
    pub stored: BTreeMap<i32, BTreeSet<u64>>,
    /// Rows not counted because of the cap, by partition.
    pub overflow: HashMap<i32, u64>,
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

    /// How many keys a partition has here at most: those in several pieces are counted several times.
    /// Keys of hosts that are closed stay: they count against the cap as long as the pane is open for others.
    pub fn keys_at_most(&self, partition: i32) -> usize {
        let of_partition = |slot: &&i64| partition_of(**slot) == partition;
        let keys = |piece: &RecordBatch| slots(piece).iter().filter(of_partition).count();
        self.pieces.iter().map(keys).sum()
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) -> Result<()> {
        self.slots.retain(|slot| partition_of(*slot) != partition);
        self.fresh.remove(&partition);
        self.stored.remove(&partition);
        self.overflow.remove(&partition);
        let pieces = std::mem::take(&mut self.pieces);
        for piece in pieces {
            self.pieces
                .extend(rows_of(&piece, |slot| partition_of(slot) != partition)?);
        }
        Ok(())
    }
}

/// The slots of a piece's rows.
pub(super) fn slots(piece: &RecordBatch) -> &[i64] {
    piece
        .column(SLOT_COLUMN)
        .as_primitive::<Int64Type>()
        .values()
}

/// The rows of a piece whose slots are wanted; none when there are none.
pub(super) fn rows_of(
    piece: &RecordBatch,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<RecordBatch>> {
    let mut last = None;
    let mut verdict = false;
    let mask: Vec<bool> = slots(piece)
        .iter()
        .map(|slot| {
            if last != Some(*slot) {
                last = Some(*slot);
                verdict = wanted(*slot);
            }
            verdict
        })
        .collect();
    let count = mask.iter().filter(|wanted| **wanted).count();
    if count == 0 {
        return Ok(None);
    }
    if count == mask.len() {
        return Ok(Some(piece.clone()));
    }
    Ok(Some(filter_record_batch(piece, &BooleanArray::from(mask))?))
}
