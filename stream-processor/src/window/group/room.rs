//! What the keys of a group take, and how they go where there is no room for them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::{HashMap, HashSet, Result};

use super::{FIXED_COLUMNS, Group, all_pieces};
use crate::hosts::partition_of;
use crate::window::pane::{Pane, PaneId, slots};
use crate::window::piece::{batch_bytes, gathered, row_bytes};
use crate::window::room::{Held, KEY_BESIDE, Lost, Shares, going};
use crate::window::shard::key_hashes;

/// What an open window takes, or a host's place in a pane.
const PLACE_BYTES: u64 = 64;

impl Group {
    /// Bytes of a partition's keys, by slot.
    pub fn held(&self, partition: i32) -> HashMap<i64, u64> {
        let mut held: HashMap<i64, u64> = HashMap::new();
        for (_, piece, _) in self.pieces_of(partition) {
            for (slot, bytes) in slots(piece).iter().zip(self.bytes_of_rows(piece)) {
                *held.entry(*slot).or_default() += bytes as u64;
            }
        }
        held
    }

    /// Bytes of what a partition keeps beside its keys: open windows, and what has fired.
    pub fn held_beside(&self, partition: i32) -> u64 {
        let open = self.open.iter();
        let open = open.filter(|(slot, _)| partition_of(**slot) == partition);
        let open: usize = open.map(|(_, open)| open.len()).sum();
        let panes = self.panes_of_partition(partition);
        let slots: usize = panes.map(|(_, pane)| pane.slots.len()).sum();
        (open + slots) as u64 * PLACE_BYTES + self.fired.size_of(partition)
    }

    /// Notes that states came to a partition.
    pub fn note_came(&mut self, partition: i32, states: &RecordBatch) {
        let beside = self.beside(states.num_rows());
        let keys: usize = match self.early.is_idle() {
            true => 0,
            false => batch_bytes(states, 0..FIXED_COLUMNS + self.keys),
        };
        let bytes = batch_bytes(states, 0..states.num_columns()) + keys + beside;
        *self.came.entry(partition).or_default() += bytes as u64;
    }

    /// Notes whether what has fired takes as much as it may: no further keys do before their windows are over, then.
    pub fn note_fired_full(&mut self, partition: i32, full: bool) {
        match full {
            true => self.fired_full.insert(partition),
            false => self.fired_full.remove(&partition),
        };
    }

    /// The partitions of which what has fired was noted to take as much as it may.
    pub fn fired_full_tasks(&self) -> impl Iterator<Item = i32> {
        self.fired_full.iter().copied()
    }

    /// Takes keys out of a partition's panes, so that each slot keeps its share.
    pub fn shed(&mut self, partition: i32, shares: &Shares) -> Result<Lost> {
        let mut lost = Lost::default();
        let mut by_pane: BTreeMap<PaneId, HashSet<u64>> = BTreeMap::new();
        for (slot, keys) in self.keys_of_losers(partition, shares)? {
            let all: u64 = keys.iter().map(|key| key.bytes).sum();
            for key in going(keys, shares.keeps(slot, all)) {
                by_pane.entry(key.pane).or_default().insert(key.hash);
                *lost.slots.entry(slot).or_default() += 1;
            }
        }
        // What a pane lost is stored with it, so one alert a pane also holds across restarts.
        let untold = |id: &&PaneId| self.panes.get(*id).is_some_and(|pane| pane.overflow == 0);
        let mut untold = by_pane.keys().filter(untold).map(|id| id.1);
        let first = untold.next();
        lost.panes = first.map(|first| (first, untold.next_back().unwrap_or(first)));
        for (id, hashes) in by_pane {
            self.shed_of_pane(id, &hashes)?;
        }
        Ok(lost)
    }

    /// The keys of slots that lose some.
    fn keys_of_losers(
        &self,
        partition: i32,
        shares: &Shares,
    ) -> Result<HashMap<i64, Vec<Held<PaneId>>>> {
        let mut known: HashMap<(PaneId, u64), (i64, u64, u64)> = HashMap::new();
        for (pane, piece, carried) in self.pieces_of(partition) {
            let all = slots(piece);
            if !all.iter().any(|slot| shares.loses(*slot)) {
                continue;
            }
            let hashes = key_hashes(piece, FIXED_COLUMNS + self.keys)?;
            let rows = match carried {
                true => vec![0; all.len()],
                false => self.rows_of(piece),
            };
            let bytes = self.bytes_of_rows(piece);
            for (row, slot) in all
                .iter()
                .enumerate()
                .filter(|(_, slot)| shares.loses(**slot))
            {
                let key = known.entry((pane, hashes[row])).or_insert((*slot, 0, 0));
                key.1 += rows[row].unsigned_abs();
                key.2 += bytes[row] as u64;
            }
        }
        let mut by_slot: HashMap<i64, Vec<Held<PaneId>>> = HashMap::new();
        for ((pane, hash), (slot, rows, bytes)) in known {
            by_slot.entry(slot).or_default().push(Held {
                pane,
                hash,
                rows,
                bytes,
            });
        }
        Ok(by_slot)
    }

    /// Takes keys out of a pane, and notes that their rows do not count.
    fn shed_of_pane(&mut self, id: PaneId, going: &HashSet<u64>) -> Result<()> {
        let Some(mut pane) = self.panes.remove(&id) else {
            return Ok(());
        };
        let keys_end = FIXED_COLUMNS + self.keys;
        let mut gone = Vec::new();
        let mut rows = 0;
        for piece in pane.pieces() {
            let hashes = key_hashes(piece, keys_end)?;
            let goes: BooleanArray = hashes.iter().map(|own| Some(going.contains(own))).collect();
            let own = filter_record_batch(piece, &goes)?;
            rows += self.rows_of(&own).iter().sum::<i64>();
            gone.push(own);
        }
        pane.filter(|piece| {
            let hashes = key_hashes(piece, keys_end)?;
            let stays: BooleanArray = hashes
                .iter()
                .map(|own| Some(!going.contains(own)))
                .collect();
            gathered(&filter_record_batch(piece, &stays)?)
        })?;
        pane.keys_at_most = pane.pieces().map(RecordBatch::num_rows).sum();
        pane.overflow += rows.unsigned_abs();
        self.panes.insert(id, pane);
        self.early.drop_keys(id, &gone)
    }

    /// The rows that each key has, of the detection that has most.
    fn rows_of(&self, piece: &RecordBatch) -> Vec<i64> {
        let mut rows = vec![0; piece.num_rows()];
        let columns: BTreeSet<usize> = self
            .members
            .iter()
            .map(|member| self.phases.state_columns[member.rows].start)
            .collect();
        for column in columns {
            let counts = piece.column(column).as_primitive::<Int64Type>();
            for (most, count) in rows.iter_mut().zip(counts) {
                *most = (*most).max(count.unwrap_or(0));
            }
        }
        rows
    }

    /// What each row of states takes.
    fn bytes_of_rows(&self, piece: &RecordBatch) -> Vec<usize> {
        let mut bytes = row_bytes(piece);
        let beside = self.beside(1);
        bytes.iter_mut().for_each(|own| *own += beside);
        if !self.early.is_idle() {
            let keys: Vec<usize> = (0..FIXED_COLUMNS + self.keys).collect();
            if let Ok(keys) = piece.project(&keys) {
                let again = row_bytes(&keys).into_iter();
                bytes
                    .iter_mut()
                    .zip(again)
                    .for_each(|(own, again)| *own += again);
            }
        }
        bytes
    }

    fn beside(&self, keys: usize) -> usize {
        keys * (KEY_BESIDE + self.early.bytes_beside())
    }

    fn panes_of_partition(&self, partition: i32) -> impl Iterator<Item = (&PaneId, &Pane)> {
        self.panes
            .range((partition, i64::MIN)..=(partition, i64::MAX))
    }

    /// All states of a partition, and whether they are only carried.
    fn pieces_of(&self, partition: i32) -> impl Iterator<Item = (PaneId, &RecordBatch, bool)> {
        let panes = self.panes_of_partition(partition);
        panes.flat_map(|(id, pane)| {
            let pieces = all_pieces(pane);
            pieces.map(|(piece, carried)| (*id, piece, carried))
        })
    }
}
