//! Finishes windows at the row that crossed: all of a detection in one run of the operators.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use datafusion::common::{DataFusionError, HashMap, Result};
use serde_json::Value;

use super::Early;
use crate::detect::{guarded, take_rows};
use crate::hosts::partition_of;
use crate::json;
use crate::window::group::{FIXED_COLUMNS, Group};
use crate::window::pane::slots;
use crate::window::plans::{Finish, Workbench};

/// Most rows of states and of the step that are finished at once.
const RUN_ROWS_MAX: usize = 65_536;
/// Most bytes of the states among them, about: a row of distinct values may have 80 KB.
const RUN_BYTES_MAX: usize = 64 << 20;

/// A window that has just crossed its threshold.
#[derive(Debug)]
pub(in crate::window) struct Crossing {
    pub member: usize,
    pub start: i64,
    pub slot: i64,
    /// The row of the batch that made it cross.
    pub row: u32,
    /// The number of its key.
    pub number: u32,
    /// The rows of the input that count in it, up to that row.
    pub rows: Vec<u32>,
}

/// The states of some keys in the panes.
#[derive(Default)]
pub(in crate::window) struct KeyStates {
    pieces: Vec<RecordBatch>,
    /// About how many bytes a row of each piece has.
    row_bytes: Vec<usize>,
    /// By key: pane, piece and row.
    places: HashMap<u32, Vec<(i64, usize, u32)>>,
}

impl KeyStates {
    /// Finds the states of wanted keys in these windows, each of a slot.
    pub fn find(
        group: &Group,
        early: &Early,
        windows: impl Iterator<Item = (i64, Range<i64>)>,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Self> {
        let mut reach: BTreeMap<i32, (Range<i64>, BTreeSet<i64>)> = BTreeMap::new();
        for (slot, window) in windows {
            let first = || (window.clone(), BTreeSet::new());
            let (range, slots) = reach.entry(partition_of(slot)).or_insert_with(first);
            *range = range.start.min(window.start)..range.end.max(window.end);
            slots.insert(slot);
        }
        let mut found = Self::default();
        for (partition, (range, slots)) in reach {
            let panes = (partition, range.start)..(partition, range.end);
            for ((_, start), pane) in group.panes.range(panes) {
                for piece in pane.pieces() {
                    found.add(early, *start, piece, &slots, &wanted)?;
                }
            }
        }
        Ok(found)
    }

    fn add(
        &mut self,
        early: &Early,
        start: i64,
        piece: &RecordBatch,
        of_slots: &BTreeSet<i64>,
        wanted: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        // Only rows of these hosts are encoded: a pane holds the keys of all hosts of its partition.
        let places = slots(piece).iter().enumerate();
        let rows: Vec<u32> = places
            .filter(|(_, slot)| of_slots.contains(*slot))
            .map(|(row, _)| row as u32)
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let keys = early.converter().encode_rows(piece, &rows)?;
        let number = self.pieces.len();
        for (key, row) in keys.iter().zip(&rows) {
            let known = early.keys.numbers.get(key.as_ref());
            if let Some(key) = known.filter(|key| wanted(**key)) {
                let places = self.places.entry(*key).or_default();
                places.push((start, number, *row));
            }
        }
        let bytes = piece.get_array_memory_size() / piece.num_rows();
        self.row_bytes.push(bytes);
        self.pieces.push(piece.clone());
        Ok(())
    }

    /// A key's states in the panes of a window: pieces and rows.
    pub fn rows(
        &self,
        number: u32,
        window: &Range<i64>,
    ) -> impl Iterator<Item = (&RecordBatch, usize)> {
        self.of(number, window)
            .map(|(piece, row)| (&self.pieces[piece], row as usize))
    }

    fn of(&self, number: u32, window: &Range<i64>) -> impl Iterator<Item = (usize, u32)> {
        let places = self.places.get(&number).into_iter().flatten();
        places
            .filter(|(pane, ..)| window.contains(pane))
            .map(|(_, piece, row)| (*piece, *row))
    }
}

/// Rows of a batch, each as part of a window.
#[derive(Default)]
struct Gathered {
    rows: Vec<u32>,
    starts: Vec<i64>,
}

impl Gathered {
    fn add(&mut self, row: u32, start: i64) {
        self.rows.push(row);
        self.starts.push(start);
    }

    fn of(self, batch: &RecordBatch) -> Result<RecordBatch> {
        let taken = take_rows(batch, &self.rows)?;
        let mut columns = taken.columns().to_vec();
        columns[0] = Arc::new(Int64Array::from(self.starts));
        Ok(RecordBatch::try_new(taken.schema(), columns)?)
    }
}

/// What came of crossings: finished groups, and those that could not be finished.
#[derive(Default)]
pub(in crate::window) struct Finished<'c> {
    pub groups: Vec<RecordBatch>,
    pub failed: Vec<(&'c Crossing, DataFusionError)>,
}

/// What finishes crossings of one detection.
pub(in crate::window) struct CrossingFinisher<'a> {
    pub group: &'a Group,
    pub bench: &'a Workbench,
    pub finish: &'a Finish,
    pub states: &'a KeyStates,
    pub input: &'a RecordBatch,
}

impl CrossingFinisher<'_> {
    /// Finishes the windows as they are at the rows that crossed, in as few runs as memory allows.
    pub fn run<'c>(&self, crossings: &'c [Crossing]) -> Finished<'c> {
        let mut finished = Finished::default();
        let mut rest = crossings;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fit(rest));
            self.by_halves(now, &mut finished);
            rest = later;
        }
        finished
    }

    /// How many of the crossings are finished at once: one at least.
    fn fit(&self, crossings: &[Crossing]) -> usize {
        let (mut rows, mut bytes) = (0, 0);
        let fits = crossings.iter().take_while(|crossing| {
            rows += crossing.rows.len();
            for (piece, _) in self.states.of(crossing.number, &self.window(crossing)) {
                rows += 1;
                bytes += self.states.row_bytes[piece];
            }
            rows <= RUN_ROWS_MAX && bytes <= RUN_BYTES_MAX
        });
        fits.count().max(1)
    }

    fn by_halves<'c>(&self, crossings: &'c [Crossing], finished: &mut Finished<'c>) {
        match (guarded(|| self.groups(crossings)), crossings) {
            (Ok(groups), _) => finished.groups.extend(groups),
            (Err(error), [crossing]) => finished.failed.push((crossing, error)),
            (Err(_), crossings) => {
                let (left, right) = crossings.split_at(crossings.len() / 2);
                self.by_halves(left, finished);
                self.by_halves(right, finished);
            }
        }
    }

    fn window(&self, crossing: &Crossing) -> Range<i64> {
        let size_ns = self.group.members[crossing.member].spec.size_ns;
        crossing.start..crossing.start + size_ns
    }

    /// The windows' groups: their states in the panes, and those of the step's rows up to the ones that crossed.
    fn groups(&self, crossings: &[Crossing]) -> Result<Vec<RecordBatch>> {
        let mut of_pieces: BTreeMap<usize, Gathered> = BTreeMap::new();
        let mut of_input = Gathered::default();
        for crossing in crossings {
            for (piece, row) in self.states.of(crossing.number, &self.window(crossing)) {
                let own = of_pieces.entry(piece).or_default();
                own.add(row, crossing.start);
            }
            let rows = crossing.rows.iter();
            rows.for_each(|row| of_input.add(*row, crossing.start));
        }
        let mut states = Vec::with_capacity(of_pieces.len() + 1);
        for (piece, gathered) in of_pieces {
            states.push(gathered.of(&self.states.pieces[piece])?);
        }
        let rows = of_input.of(self.input)?;
        states.extend(self.group.phases.partial(self.bench, rows)?);
        let taken: Result<Vec<_>> = states.iter().map(|own| self.finish.taken(own)).collect();
        self.finish.run(self.bench, taken?)
    }

    /// The keys of a crossing, as a result has them: one compact JSON array.
    pub fn keys(&self, crossing: &Crossing) -> String {
        let row = crossing.rows.last().copied().unwrap_or_default() as usize;
        let keys = (0..self.group.keys).map(|key| {
            let column = self.input.column(FIXED_COLUMNS + key);
            json::value(column.as_ref(), row)
        });
        Value::Array(keys.collect()).to_string()
    }
}
