//! Partial states of keys, merged by size, up to a number of keys.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::{HashSet, Result};

use crate::window::group::Group;
use crate::window::pane::merge_small;
use crate::window::piece::{batch_bytes, gathered, row_bytes};
use crate::window::plans::Workbench;
use crate::window::room::KEY_BESIDE;

/// Pieces from which on the small ones are merged.
const PIECES_MAX: usize = 8;

/// States of keys; a key may stand in several pieces.
#[derive(Debug, Default)]
pub(super) struct States {
    pieces: Vec<RecordBatch>,
    /// How many keys there are at most.
    keys_at_most: usize,
    /// Bytes of what came since they were asked for.
    came: u64,
}

impl States {
    pub fn pieces(&self) -> &[RecordBatch] {
        &self.pieces
    }

    /// Adds states; keys beyond the caps on keys and bytes are left out, in the order in which they come. Returns how many rows
    /// these had.
    pub fn push(
        &mut self,
        group: &Group,
        bench: &Workbench,
        piece: RecordBatch,
        bytes_max: u64,
    ) -> Result<u64> {
        let (piece, left_out) = self.admit(group, bench, piece, bytes_max)?;
        if piece.num_rows() == 0 {
            return Ok(left_out);
        }
        self.keys_at_most += piece.num_rows();
        self.came += bytes_of(&piece);
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
        bytes_max: u64,
    ) -> Result<(RecordBatch, u64)> {
        let keys_max = group.keys_max;
        // What has come is more than what it is when it is merged.
        let fits = bytes_max == u64::MAX || self.came + bytes_of(&piece) <= bytes_max;
        if fits && self.keys_at_most + piece.num_rows() <= keys_max {
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
        self.came = self.bytes();
        let mut left = bytes_max.saturating_sub(self.came);
        let bytes = row_bytes(&piece);
        let keys = converter.encode(&piece)?;
        let admitted: BooleanArray = keys
            .iter()
            .zip(bytes)
            .map(|(key, bytes)| {
                let (key, bytes) = (key.as_ref(), (bytes + KEY_BESIDE) as u64);
                let room = known.len() < keys_max && left >= bytes;
                let new = !known.contains(key);
                if new && room {
                    known.insert(key.to_vec());
                    left -= bytes;
                }
                Some(!new || room)
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

    /// Bytes of its states.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(bytes_of).sum()
    }

    /// Bytes that came since this was asked, at most.
    pub fn take_came(&mut self) -> u64 {
        std::mem::take(&mut self.came)
    }

    /// Keeps some rows of the states; returns how many rows of events the others had.
    pub fn retain(
        &mut self,
        group: &Group,
        stays: impl Fn(&RecordBatch) -> Result<Vec<bool>>,
    ) -> Result<u64> {
        let mut gone = 0;
        for piece in &mut self.pieces {
            let stays = BooleanArray::from(stays(piece)?);
            let others = filter_record_batch(piece, &arrow::compute::not(&stays)?)?;
            gone += group.rows_in(&others);
            *piece = gathered(&filter_record_batch(piece, &stays)?)?;
        }
        self.pieces.retain(|piece| piece.num_rows() > 0);
        self.keys_at_most = self.pieces.iter().map(RecordBatch::num_rows).sum();
        Ok(gone)
    }

    /// Keys at most, and bytes.
    pub fn size(&self) -> (u64, u64) {
        let bytes = self.pieces.iter().map(RecordBatch::get_array_memory_size);
        (self.keys_at_most as u64, bytes.sum::<usize>() as u64)
    }
}

/// Bytes of states, with what their keys take beside.
fn bytes_of(states: &RecordBatch) -> u64 {
    let beside = states.num_rows() * KEY_BESIDE;
    (batch_bytes(states, 0..states.num_columns()) + beside) as u64
}
