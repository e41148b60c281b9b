//! One pane of a group: the states of a task's keys, of all its hosts, in one piece of time.
//!
//! States come in pieces, one a batch, and are merged by size, so that each row is merged a few times only.

use std::collections::BTreeSet;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::Result;

use super::plans::{Phases, Workbench};

/// A pane's partition and start.
pub(super) type PaneId = (i32, i64);
/// Place of the slot's column in states.
pub(super) const SLOT_COLUMN: usize = 1;
/// Fresh pieces a pane may have before the small ones are merged.
const PIECES_MAX: usize = 8;

/// The states of a pane.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// States that are stored; a key may stand in several pieces.
    kept: Vec<RecordBatch>,
    /// States that came since the last checkpoint.
    fresh: Vec<RecordBatch>,
    /// How many keys it has at most: those that came in several pieces may be counted several times.
    /// Keys of hosts that are closed stay: they count against the cap as long as the pane is open for others.
    pub keys_at_most: usize,
    /// The slots that have rows here and windows open.
    pub slots: BTreeSet<i64>,
    /// Numbers of the pieces that are stored.
    pub stored: BTreeSet<u64>,
    /// Rows not counted because of the cap.
    pub overflow: u64,
    /// Whether what is stored of it holds more than it does: it is written whole next.
    pub whole: bool,
}

impl Pane {
    /// All its states.
    pub fn pieces(&self) -> impl Iterator<Item = &RecordBatch> {
        self.kept.iter().chain(&self.fresh)
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

    /// Merges states until a key stands there twice at most: in what is stored and in what is fresh.
    pub fn compact(&mut self, phases: &Phases, bench: &Workbench) -> Result<()> {
        for pieces in [&mut self.kept, &mut self.fresh] {
            if pieces.len() > 1 {
                // Where memory is short, they stay as they are.
                *pieces = phases.reduce(bench, pieces.clone())?;
            }
        }
        Ok(())
    }

    /// Notes that all its states are stored. Where memory is short they are not merged.
    pub fn keep(&mut self, phases: &Phases, bench: &Workbench) {
        self.kept.append(&mut self.fresh);
        let _ = merge_small(&mut self.kept, phases, bench);
    }

    /// Takes rows out of all states.
    pub fn filter(&mut self, some: impl Fn(&RecordBatch) -> Result<RecordBatch>) -> Result<()> {
        for piece in self.kept.iter_mut().chain(&mut self.fresh) {
            *piece = some(piece)?;
        }
        self.kept.retain(|piece| piece.num_rows() > 0);
        self.fresh.retain(|piece| piece.num_rows() > 0);
        self.whole = true;
        Ok(())
    }

    /// The states to be stored, merged where memory allows: what is fresh, or everything. They are kept from then on.
    pub fn store(&mut self, phases: &Phases, bench: &Workbench, whole: bool) -> Vec<RecordBatch> {
        let mut states = if whole {
            std::mem::take(&mut self.kept)
        } else {
            Vec::new()
        };
        states.append(&mut self.fresh);
        if states.len() > 1 {
            states = phases.reduce(bench, states.clone()).unwrap_or(states);
        }
        self.fresh.clone_from(&states);
        self.keep(phases, bench);
        states
    }
}

/// Merges the last piece with those before it that are not much larger: each is twice as large as the next, then.
fn merge_small(pieces: &mut Vec<RecordBatch>, phases: &Phases, bench: &Workbench) -> Result<()> {
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
                let stored = pane.store(&phases, &bench, push % 5 == 0);
                assert_eq!(stored.len(), 1);
                assert_eq!(stored[0].num_rows(), KEYS as usize);
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
