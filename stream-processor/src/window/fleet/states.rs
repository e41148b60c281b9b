//! Partial states of keys, merged by size, up to a number of keys.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::{HashSet, Result};

use crate::window::group::Group;
use crate::window::pane::merge_small;
use crate::window::plans::Workbench;

/// Pieces from which on the small ones are merged.
const PIECES_MAX: usize = 8;

/// States of keys; a key may stand in several pieces.
#[derive(Debug, Default)]
pub(super) struct States {
    pieces: Vec<RecordBatch>,
    /// How many keys there are at most.
    keys_at_most: usize,
}

impl States {
    pub fn pieces(&self) -> &[RecordBatch] {
        &self.pieces
    }

    /// Adds states; keys beyond the cap are left out, in the order in which they come. Returns how many rows these had.
    pub fn push(&mut self, group: &Group, bench: &Workbench, piece: RecordBatch) -> Result<u64> {
        let (piece, left_out) = self.admit(group, bench, piece)?;
        if piece.num_rows() == 0 {
            return Ok(left_out);
        }
        self.keys_at_most += piece.num_rows();
        self.pieces.push(piece);
        if self.pieces.len() > PIECES_MAX {
            // Where memory is short, they stay as they are.
            let _ = merge_small(&mut self.pieces, &group.phases, bench);
        }
        Ok(left_out)
    }

    fn admit(
        &mut self,
        group: &Group,
        bench: &Workbench,
        piece: RecordBatch,
    ) -> Result<(RecordBatch, u64)> {
        let keys_max = group.keys_max;
        if self.keys_at_most + piece.num_rows() <= keys_max {
            return Ok((piece, 0));
        }
        let _ = self.merge(group, bench);
        let converter = group.early.converter();
        let mut known: HashSet<Vec<u8>> = HashSet::new();
        for own in &self.pieces {
            let keys = converter.encode(own)?;
            known.extend(keys.iter().map(|key| key.as_ref().to_vec()));
        }
        self.keys_at_most = known.len();
        let keys = converter.encode(&piece)?;
        let admitted: BooleanArray = keys
            .iter()
            .map(|key| {
                let key = key.as_ref();
                Some(known.contains(key) || known.len() < keys_max && known.insert(key.to_vec()))
            })
            .collect();
        if admitted.true_count() == piece.num_rows() {
            return Ok((piece, 0));
        }
        let others = filter_record_batch(&piece, &arrow::compute::not(&admitted)?)?;
        Ok((
            filter_record_batch(&piece, &admitted)?,
            group.rows_in(&others),
        ))
    }

    /// Merges all that can be.
    pub fn merge(&mut self, group: &Group, bench: &Workbench) -> Result<()> {
        if self.pieces.len() > 1 {
            self.pieces = group.phases.reduce(bench, self.pieces.clone())?;
        }
        Ok(())
    }

    /// Keys at most, and bytes.
    pub fn size(&self) -> (u64, u64) {
        let bytes = self.pieces.iter().map(RecordBatch::get_array_memory_size);
        (self.keys_at_most as u64, bytes.sum::<usize>() as u64)
    }
}
