//! Stage one: the partial states of each source, one second of its ingest after the other.
//!
//! Which windows a row is late for is decided here, at the row, by how far all hosts of its source were before its second.
//! States say for how many of their pane's windows, the earliest, their rows came too late: where another slot would stand.
//! A record says which states its source kept for the whole second ([`Carried`]): windows that had begun before are not whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use datafusion::common::{HashMap, Result};
use serde::{Deserialize, Serialize};

use super::record::Part;
use super::states::States;
use super::{Own, Span, pane_end};
use crate::detect::take_rows;
use crate::hosts::{Holes, Tick};
use crate::window::group::{Group, pane_starts};
use crate::window::pane::{SLOT_COLUMN, slots};
use crate::window::piece::encode;
use crate::window::plans::Workbench;

/// The states that a partition keeps, by hash: each with the first second of which it has all rows, once that is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Carried(BTreeMap<String, Option<i64>>);

impl Carried {
    /// Of a log that is seen from its beginning on.
    pub fn begin(&mut self, detections: &[Own]) {
        let states = detections.iter().map(|own| own.operators.state());
        self.0 = states
            .map(|state| (state.to_owned(), Some(i64::MIN)))
            .collect();
    }

    /// Of a log whose beginning was not seen.
    pub fn amid(detections: &[Own]) -> Self {
        Self::default().restored(detections)
    }

    /// As others left it, of those detections that there are now.
    pub fn restored(mut self, detections: &[Own]) -> Self {
        let states = detections.iter().map(|own| own.operators.state());
        let known = states.map(|state| (state.to_owned(), self.0.remove(state).flatten()));
        Self(known.collect())
    }

    /// The states of which it has all rows of a second.
    pub fn whole_in(&self, second: i64) -> Vec<String> {
        let whole = self.0.iter();
        let whole = whole.filter(|(_, from)| from.is_some_and(|from| from <= second));
        whole.map(|(state, _)| state.clone()).collect()
    }

    /// Notes that a second is over, and the next one is not only replayed: it has all of that.
    pub fn pass(&mut self, second: i64) {
        let new = self.0.values_mut().filter(|from| from.is_none());
        new.for_each(|from| *from = Some(second.saturating_add(1)));
    }
}

/// A second of a source.
pub(super) type Second = (i32, i64);

/// What a second of a source holds up to now.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub states: States,
    pub holes: Holes,
}

/// The seconds of all sources that are not flushed.
#[derive(Debug)]
pub(super) struct Source {
    pub pending: BTreeMap<Second, Pending>,
    /// Bytes that the states of a second may take.
    second_bytes: u64,
}

/// Numbers for what rows are told apart by beside their keys: their second, and how many windows they are too late for.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    known: HashMap<(Second, i64), i64>,
    all: Vec<(Second, i64)>,
}

impl Numbers {
    pub fn of(&mut self, second: Second, skipped: i64) -> i64 {
        let next = self.all.len() as i64;
        let number = *self.known.entry((second, skipped)).or_insert(next);
        if number == next {
            self.all.push((second, skipped));
        }
        number
    }
}

impl Source {
    /// Of seconds whose states may take so many bytes.
    pub fn new(second_bytes: u64) -> Self {
        Self {
            pending: BTreeMap::new(),
            second_bytes,
        }
    }

    pub fn note_hole(&mut self, second: Second, (from, to): (i64, i64), class: &str, count: u64) {
        let pending = self.pending.entry(second).or_default();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        pending.holes.note(from, to, [(class.into(), count)].into());
    }

    /// Adds states whose slots are numbers.
    pub fn push(
        &mut self,
        group: &Group,
        bench: &Workbench,
        span: Span,
        numbers: &Numbers,
        states: &RecordBatch,
    ) -> Result<()> {
        let mut by_number: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, number) in (0..).zip(slots(states)) {
            by_number.entry(*number).or_default().push(row);
        }
        for (number, rows) in by_number {
            let (second, skipped) = numbers.all[number as usize];
            let own = take_rows(states, &rows)?;
            let mut columns = own.columns().to_vec();
            columns[SLOT_COLUMN] = Arc::new(Int64Array::from_value(skipped, rows.len()));
            let own = RecordBatch::try_new(own.schema(), columns)?;
            let reach = reach(&own, span);
            let pending = self.pending.entry(second).or_default();
            let left_out = pending.states.push(group, bench, own, self.second_bytes)?;
            if left_out > 0 {
                self.note_hole(second, reach, KEYS_OVER_CAP, left_out);
            }
        }
        Ok(())
    }

    /// What the source says of a second that is over, as parts of its record.
    pub fn flush(&mut self, group: &Group, bench: &Workbench, tick: &Tick) -> Result<Vec<Part>> {
        match self.pending.remove(&(tick.partition, tick.number)) {
            None => Ok(Vec::new()),
            Some(mut pending) => {
                // Where memory is short, a key stands there several times.
                let _ = pending.states.merge(group, bench);
                pending.parts(group)
            }
        }
    }

    pub fn forget(&mut self, partition: i32) {
        self.pending.retain(|(of, _), _| *of != partition);
    }
}

impl Pending {
    /// As parts: the first has the holes.
    pub fn parts(&self, group: &Group) -> Result<Vec<Part>> {
        parts(group, self.states.pieces(), self.holes.clone())
    }
}

/// Class of rows that do not count because there are too many keys.
pub(super) const KEYS_OVER_CAP: &str = "keys_over_cap";

/// States as parts; the first has the holes.
pub(super) fn parts(group: &Group, pieces: &[RecordBatch], holes: Holes) -> Result<Vec<Part>> {
    let state = &group.members[0].state;
    let mut parts = Vec::new();
    for piece in pieces {
        for payload in encode(piece, group.stored.schema())? {
            parts.push(Part::of_states(state, Holes::default(), payload));
        }
    }
    match parts.first_mut() {
        Some(first) => first.head.holes = holes,
        None if !holes.is_empty() => parts.push(Part::of_states(state, holes, Vec::new())),
        None => {}
    }
    Ok(parts)
}

/// From when to when the panes of states are.
pub(super) fn reach(states: &RecordBatch, span: Span) -> (i64, i64) {
    let starts = pane_starts(states).iter().copied();
    let first = starts.clone().min().unwrap_or(i64::MAX);
    (
        first,
        starts.max().map_or(i64::MIN, |last| pane_end(last, span)),
    )
}
