//! One pane of a group: the states of a task's keys, of all its hosts, in one piece of time.
//!
//! States come in pieces, one a batch, and are merged by size, so that each row is merged a few times only. Those that are
//! stored lie in shards by a hash of their keys, so that each can be stored anew by itself.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::Result;

use super::piece::{gathered, row_bytes};
use super::plans::{Phases, Workbench};
use super::shard::{ShardId, key_hashes};
use crate::detect::take_rows;

/// A pane's partition and start.
pub(super) type PaneId = (i32, i64);
/// Place of the slot's column in states.
pub(super) const SLOT_COLUMN: usize = 1;
/// Fresh pieces a pane may have before the small ones are merged.
const PIECES_MAX: usize = 8;
/// Bytes of a shard when it is written whole; of twice as many it is written as several.
const SHARD_BYTES: usize = 512 << 10;
/// Stored pieces of a shard from which on it is better written whole.
const STORED_MAX: usize = 16;

/// The states of a pane.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// States that are stored; a key may stand in several pieces.
    shards: BTreeMap<ShardId, Shard>,
    /// States that came since the last checkpoint.
    fresh: Vec<RecordBatch>,
    /// How many keys it has at most: those that came in several pieces may be counted several times.
    /// Keys of hosts that are closed stay: they count against the cap as long as the pane is open for others.
    pub keys_at_most: usize,
    /// The slots that have rows here and windows open.
    pub slots: BTreeSet<i64>,
    /// Rows not counted because of the cap.
    pub overflow: u64,
    /// That many of them are stored.
    pub overflow_stored: u64,
}

/// States of keys whose hashes begin alike.
#[derive(Debug, Default)]
struct Shard {
    kept: Vec<RecordBatch>,
    /// States of aggregates that no detection has: columns under the names that they were stored by.
    carried: Vec<RecordBatch>,
    /// Numbers of the pieces that are stored.
    stored: BTreeSet<u64>,
    /// Bytes of these, about.
    bytes: usize,
    /// Whether what is stored of it holds more than it does: it is written whole next.
    stale: bool,
}

/// States of a shard that are to be stored.
#[derive(Debug)]
pub(super) struct Fresh {
    pub shard: ShardId,
    pub states: RecordBatch,
    /// Whether they are of aggregates that no detection has, under the names that they were stored by.
    pub carried: bool,
}

/// What is to be stored of a pane: pieces that are over, and states.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub over: Vec<(ShardId, u64)>,
    pub fresh: Vec<Fresh>,
}

/// What of a pane is stored, beside what is fresh.
pub(super) struct Wanted<'w> {
    /// The columns of states before those of aggregates.
    pub keys_end: usize,
    /// Shards that are to be written whole.
    pub shards: &'w BTreeSet<ShardId>,
    /// Whether more may be written whole.
    pub room: &'w dyn Fn() -> bool,
    /// Notes that so many bytes are written that were stored before.
    pub spend: &'w dyn Fn(usize),
}

impl Pane {
    /// All its states.
    pub fn pieces(&self) -> impl Iterator<Item = &RecordBatch> {
        let kept = self.shards.values().flat_map(|shard| &shard.kept);
        kept.chain(&self.fresh)
    }

    /// States that it carries for detections that are not there.
    pub fn carried(&self) -> impl Iterator<Item = &RecordBatch> {
        self.shards.values().flat_map(|shard| &shard.carried)
    }

    /// Its stored pieces.
    pub fn stored(&self) -> impl Iterator<Item = (ShardId, u64)> {
        let shards = self.shards.iter();
        shards.flat_map(|(id, shard)| shard.stored.iter().map(|piece| (*id, *piece)))
    }

    /// Adds states.
    pub fn push(&mut self, phases: &Phases, bench: &Workbench, piece: RecordBatch) -> Result<()> {
        self.keys_at_most += piece.num_rows();
        self.fresh.push(piece);
        if self.fresh.len() > PIECES_MAX {
            merge_small(&mut self.fresh, phases, bench)?;
        }
        Ok(())
    }

    /// Takes a stored piece of so many bytes back: its states, and those that it carries for detections that are not there.
    pub fn restore(
        &mut self,
        phases: &Phases,
        bench: &Workbench,
        (shard, piece, bytes): (ShardId, u64, usize),
        states: Vec<RecordBatch>,
        carried: Vec<RecordBatch>,
    ) {
        self.keys_at_most += states.iter().map(RecordBatch::num_rows).sum::<usize>();
        let shard = self.shards.entry(shard).or_default();
        shard.stored.insert(piece);
        shard.bytes += bytes;
        shard.carried.extend(carried);
        for states in states {
            shard.kept.push(states);
            // Where memory is short, they stay as they are.
            let _ = merge_small(&mut shard.kept, phases, bench);
        }
    }

    /// Merges states until a key stands there twice at most: in what is stored and in what is fresh.
    pub fn compact(&mut self, phases: &Phases, bench: &Workbench) -> Result<()> {
        let kept = self.shards.values_mut().map(|shard| &mut shard.kept);
        for pieces in kept.chain([&mut self.fresh]) {
            if pieces.len() > 1 {
                // Where memory is short, they stay as they are.
                *pieces = phases.reduce(bench, pieces.clone())?;
            }
        }
        Ok(())
    }

    /// Takes rows out of all states.
    pub fn filter(&mut self, some: impl Fn(&RecordBatch) -> Result<RecordBatch>) -> Result<()> {
        for shard in self.shards.values_mut() {
            for piece in shard.kept.iter_mut().chain(&mut shard.carried) {
                let rows = piece.num_rows();
                *piece = some(piece)?;
                shard.stale |= piece.num_rows() < rows;
            }
            shard.kept.retain(|piece| piece.num_rows() > 0);
            shard.carried.retain(|piece| piece.num_rows() > 0);
        }
        for piece in &mut self.fresh {
            *piece = some(piece)?;
        }
        self.fresh.retain(|piece| piece.num_rows() > 0);
        Ok(())
    }

    /// What is to be stored: fresh states, and all of those shards that are written whole. They are kept from then on;
    /// [`Pane::note`] tells their pieces. States are merged where memory allows.
    pub fn store(
        &mut self,
        phases: &Phases,
        bench: &Workbench,
        wanted: &Wanted<'_>,
    ) -> Result<Stored> {
        let mut stored = Stored::default();
        let fresh = merged(std::mem::take(&mut self.fresh), phases, bench);
        let mut fresh = self.by_shard(fresh, wanted.keys_end)?;
        let ids: BTreeSet<ShardId> = self.shards.keys().chain(fresh.keys()).copied().collect();
        for id in ids {
            let own = fresh.remove(&id).unwrap_or_default();
            let shard = self.shards.entry(id).or_default();
            let bytes: usize = own.iter().map(bytes_of).sum();
            let grown = bytes > 0
                && (shard.stored.len() >= STORED_MAX || shard.bytes + bytes > 2 * SHARD_BYTES);
            let asked = wanted.shards.contains(&id);
            // To write anew what is no more than what is new costs little. Shards grow together: else there must be room.
            let cheap = grown && shard.bytes <= bytes;
            if shard.stale || cheap || (asked || grown) && (wanted.room)() {
                (wanted.spend)(shard.bytes);
                self.rewrite(phases, bench, id, own, wanted.keys_end, &mut stored)?;
                continue;
            }
            for states in own {
                shard.kept.push(states.clone());
                let _ = merge_small(&mut shard.kept, phases, bench);
                stored.fresh.push(Fresh {
                    shard: id,
                    states,
                    carried: false,
                });
            }
        }
        Ok(stored)
    }

    /// Has a shard written whole, with fresh states; as several where it is too large.
    fn rewrite(
        &mut self,
        phases: &Phases,
        bench: &Workbench,
        id: ShardId,
        fresh: Vec<RecordBatch>,
        keys_end: usize,
        stored: &mut Stored,
    ) -> Result<()> {
        let Some(shard) = self.shards.remove(&id) else {
            return Ok(());
        };
        let old = shard.stored.into_iter();
        stored.over.extend(old.map(|piece| (id, piece)));
        let mut kept = shard.kept;
        kept.extend(fresh);
        let kept = merged(kept, phases, bench);
        let bytes: usize = kept.iter().chain(&shard.carried).map(bytes_of).sum();
        let bits = id.bits_for(bytes, SHARD_BYTES);
        for (states, carried) in [(kept, false), (shard.carried, true)] {
            for states in states {
                for (shard, states) in split(&states, keys_end, &|hash| ShardId::of(hash, bits))? {
                    let own = self.shards.entry(shard).or_default();
                    match carried {
                        false => own.kept.push(states.clone()),
                        true => own.carried.push(states.clone()),
                    }
                    stored.fresh.push(Fresh {
                        shard,
                        states,
                        carried,
                    });
                }
            }
        }
        Ok(())
    }

    /// Notes that a piece of so many bytes is stored.
    pub fn note(&mut self, shard: ShardId, piece: u64, bytes: usize) {
        let shard = self.shards.entry(shard).or_default();
        shard.stored.insert(piece);
        shard.bytes += bytes;
    }

    /// States by shard: that one which has their keys, or a new one.
    fn by_shard(
        &self,
        states: Vec<RecordBatch>,
        keys_end: usize,
    ) -> Result<BTreeMap<ShardId, Vec<RecordBatch>>> {
        let all_bits: BTreeSet<u32> = self.shards.keys().map(|id| id.bits()).collect();
        let most = all_bits.last().copied().unwrap_or(0);
        let shard = |hash: u64| {
            let mut known = all_bits.iter().map(|bits| ShardId::of(hash, *bits));
            let known = known.find(|id| self.shards.contains_key(id));
            known.unwrap_or_else(|| ShardId::of(hash, most))
        };
        let mut by_shard: BTreeMap<ShardId, Vec<RecordBatch>> = BTreeMap::new();
        for states in states {
            if most == 0 {
                by_shard.entry(ShardId::ALL).or_default().push(states);
                continue;
            }
            for (id, own) in split(&states, keys_end, &shard)? {
                by_shard.entry(id).or_default().push(own);
            }
        }
        Ok(by_shard)
    }
}

/// States by shard, each a copy of its own.
fn split(
    states: &RecordBatch,
    keys_end: usize,
    shard: &dyn Fn(u64) -> ShardId,
) -> Result<Vec<(ShardId, RecordBatch)>> {
    let mut rows: BTreeMap<ShardId, Vec<u32>> = BTreeMap::new();
    for (row, hash) in (0..).zip(key_hashes(states, keys_end)?) {
        rows.entry(shard(hash)).or_default().push(row);
    }
    if rows.len() == 1 {
        return Ok(rows.into_keys().map(|id| (id, states.clone())).collect());
    }
    let own = |(id, rows): (ShardId, Vec<u32>)| Ok((id, gathered(&take_rows(states, &rows)?)?));
    rows.into_iter().map(own).collect()
}

/// Bytes of states, as they are stored.
fn bytes_of(states: &RecordBatch) -> usize {
    row_bytes(states).iter().sum()
}

/// States merged where there are several and memory allows.
fn merged(states: Vec<RecordBatch>, phases: &Phases, bench: &Workbench) -> Vec<RecordBatch> {
    if states.len() < 2 {
        return states;
    }
    phases.reduce(bench, states.clone()).unwrap_or(states)
}

/// Merges the last piece with those before it that are not much larger: each is twice as large as the next, then.
pub(super) fn merge_small(
    pieces: &mut Vec<RecordBatch>,
    phases: &Phases,
    bench: &Workbench,
) -> Result<()> {
    let mut rows = 0;
    let mut from = pieces.len();
    while from > 0 && (rows == 0 || pieces[from - 1].num_rows() <= 2 * rows.max(512)) {
        from -= 1;
        rows += pieces[from].num_rows();
    }
    if pieces.len() - from > 1 {
        let merged = phases.reduce(bench, pieces[from..].to_vec())?;
        pieces.truncate(from);
        pieces.extend(merged);
    }
    Ok(())
}

/// The slots of a piece's rows.
pub(super) fn slots(piece: &RecordBatch) -> &[i64] {
    piece
        .column(SLOT_COLUMN)
        .as_primitive::<Int64Type>()
        .values()
}

/// The rows of a piece that are of a slot.
pub(super) fn of_slot(piece: &RecordBatch, slot: i64) -> Result<RecordBatch> {
    let slots = slots(piece);
    let own = BooleanBuffer::collect_bool(slots.len(), |row| slots[row] == slot);
    Ok(filter_record_batch(piece, &BooleanArray::new(own, None))?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ScalarValue;
    use datafusion::functions_aggregate::count::count_udaf;
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::{Column, Literal};
    use datafusion::physical_plan::aggregates::PhysicalGroupBy;

    use super::*;

    const KEYS: i64 = 3_000;

    /// The phases of a count by pane, slot and key.
    fn count(bench: &Workbench) -> (Phases, RecordBatch) {
        let names = ["_pane", "_slot", "k0"];
        let fields = names.map(|name| Field::new(name, DataType::Int64, false));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let group_by = names.iter().enumerate().map(|(place, name)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, place));
            (column, (*name).to_owned())
        });
        let group_by = PhysicalGroupBy::new_single(group_by.collect());
        let one = Arc::new(Literal::new(ScalarValue::Int64(Some(1))));
        let call = AggregateExprBuilder::new(count_udaf(), vec![one])
            .schema(Arc::clone(&schema))
            .alias("a0")
            .build()
            .expect("a count");
        let phases = Phases::new(
            bench,
            Arc::clone(&schema),
            group_by,
            vec![Arc::new(call)],
            vec![None],
        )
        .expect("phases");
        let zeros = || Arc::new(Int64Array::from_value(0, KEYS as usize));
        let keys = Arc::new(Int64Array::from_iter_values(0..KEYS));
        let rows = RecordBatch::try_new(schema, vec![zeros(), zeros(), keys]).expect("rows");
        (phases, rows)
    }

    /// Stores a pane as a checkpoint does, with so much room to write anew; the bytes of pieces are those of their rows.
    fn store(
        pane: &mut Pane,
        (phases, bench): (&Phases, &Workbench),
        shards: &BTreeSet<ShardId>,
        room: usize,
    ) -> Vec<Fresh> {
        let left = Cell::new(room as i64);
        let wanted = Wanted {
            keys_end: 3,
            shards,
            room: &|| left.get() > 0,
            spend: &|bytes| left.set(left.get() - bytes as i64),
        };
        let stored = pane.store(phases, bench, &wanted).expect("states");
        for (piece, fresh) in (0..).zip(&stored.fresh) {
            pane.note(fresh.shard, piece, bytes_of(&fresh.states));
        }
        stored.fresh
    }

    /// A pane that grows is stored as shards, never much of it at once; each key stands in one of them.
    #[test]
    fn a_large_pane_is_stored_in_shards() {
        const ROOM: usize = 1 << 20;
        let bench = Workbench::of_bytes(256 << 20);
        let (phases, rows) = count(&bench);
        let mut pane = Pane::default();
        let bytes = |stored: &[Fresh]| -> usize {
            stored.iter().map(|fresh| bytes_of(&fresh.states)).sum()
        };
        for round in 0..80 {
            let keys = Int64Array::from_iter_values((0..KEYS).map(|key| key + round * KEYS));
            let mut columns = rows.columns().to_vec();
            columns[2] = Arc::new(keys);
            let rows = RecordBatch::try_new(rows.schema(), columns).expect("rows");
            for piece in phases.partial(&bench, rows).expect("states") {
                pane.push(&phases, &bench, piece).expect("states");
            }
            let stored = store(&mut pane, (&phases, &bench), &BTreeSet::new(), ROOM);
            let bytes = bytes(&stored);
            assert!(bytes < ROOM + 5 * SHARD_BYTES, "{bytes} bytes at once");
        }
        let (state, shards) = (
            pane.pieces().map(bytes_of).sum::<usize>(),
            pane.shards.len(),
        );
        assert!(state > 8 << 20, "{state} bytes");
        assert!((8..64).contains(&shards), "{shards} shards");
        let one = pane.stored().map(|(shard, _)| shard).take(1).collect();
        let anew = store(&mut pane, (&phases, &bench), &one, 1);
        let bytes = bytes(&anew);
        assert!((1..=4 * SHARD_BYTES).contains(&bytes), "{bytes} bytes");
        let mut keys = BTreeSet::new();
        for piece in pane.pieces() {
            let own = piece.column(2).as_primitive::<Int64Type>().values();
            keys.extend(own.iter().copied());
        }
        assert_eq!(keys.len() as i64, 80 * KEYS);
        let rows: usize = pane.pieces().map(RecordBatch::num_rows).sum();
        assert_eq!(rows as i64, 80 * KEYS, "every key stands in one shard");
    }

    #[test]
    fn a_key_that_comes_again_and_again_takes_no_more_memory() {
        let bench = Workbench::of_bytes(64 << 20);
        let (phases, rows) = count(&bench);
        let mut pane = Pane::default();
        let cap = 2 * KEYS as usize;
        for push in 1..=200 {
            if pane.keys_at_most + KEYS as usize > cap {
                pane.compact(&phases, &bench).expect("merged states");
                pane.keys_at_most = KEYS as usize;
            }
            for piece in phases.partial(&bench, rows.clone()).expect("states") {
                pane.push(&phases, &bench, piece).expect("states");
            }
            if push % 7 == 0 {
                let all: BTreeSet<ShardId> = pane.stored().map(|(shard, _)| shard).collect();
                let anew = if push % 5 == 0 { all } else { BTreeSet::new() };
                let stored = store(&mut pane, (&phases, &bench), &anew, 1);
                let rows = stored.iter().map(|fresh| fresh.states.num_rows());
                assert_eq!(rows.sum::<usize>(), KEYS as usize);
            }
            let held: usize = pane.pieces().map(RecordBatch::num_rows).sum();
            assert!(held <= 2 * cap, "{held} rows of states after {push} pieces");
        }
        let counts = pane.pieces().flat_map(|piece| {
            piece
                .column(3)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        });
        assert_eq!(counts.sum::<i64>(), 200 * KEYS);
    }

    #[test]
    fn pieces_without_a_cap_in_sight_are_merged_too() {
        let bench = Workbench::of_bytes(64 << 20);
        let (phases, rows) = count(&bench);
        let mut pane = Pane::default();
        for _ in 0..100 {
            for piece in phases.partial(&bench, rows.clone()).expect("states") {
                pane.push(&phases, &bench, piece).expect("states");
            }
            assert!(pane.pieces().count() <= PIECES_MAX);
        }
    }
}
