//! Finds the windows that cross their threshold in a step, and the row at which each does.
//!
//! By the counts alone it is known which windows of which keys may cross. Only of these keys the rows of the step and the
//! states of the panes are looked up, all in one pass, by the number of the key.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::{HashMap, Result};

use super::crossing::{Crossing, KeyStates};
use super::{Counted, Early, Key, Watch};
use crate::detect::aggregates::hash;
use crate::hosts::partition_of;
use crate::window::group::{Group, pane_starts};

/// Counts of a key in a pane, by pane.
type ByPane = Vec<(i64, Box<[i64]>)>;

/// A key of which some windows may cross.
struct Suspect {
    number: u32,
    slot: i64,
    key: Key,
    /// Its counts before the step.
    known: ByPane,
    windows: Vec<SuspectWindow>,
}

struct SuspectWindow {
    /// Which watch asks.
    watch: usize,
    start: i64,
    /// The sum of its counts, each as much as it can be.
    at_most: i64,
}

/// What walking over rows found.
enum Walk {
    Crossed(Crossing),
    /// It had crossed before these rows.
    Before,
    /// So much is missing at least.
    Missing(i64),
}

/// What is known of the step's rows and of the states of suspects.
struct Evidence<'a> {
    input_rows: &'a [u32],
    /// Each row's pane.
    panes: &'a [i64],
    /// By key: rows of the step.
    rows: HashMap<u32, Vec<u32>>,
    states: KeyStates,
    /// For each tracked count.
    columns: Vec<Countable>,
}

/// Which rows count, and what is counted of each.
struct Countable {
    flags: Option<BooleanArray>,
    argument: Option<StringViewArray>,
}

impl Early {
    /// Finds the windows that cross their threshold with these rows, whose states are not in the panes yet; and the states of
    /// their keys, for finishing them.
    pub fn look(
        &mut self,
        group: &Group,
        input: &RecordBatch,
        input_rows: &[u32],
        counted: &[Counted],
    ) -> Result<(Vec<Crossing>, KeyStates)> {
        let suspects = self.suspects(group, counted);
        if suspects.is_empty() {
            return Ok((Vec::new(), KeyStates::default()));
        }
        let evidence = self.evidence(group, &suspects, input, input_rows)?;
        let mut crossings = Vec::new();
        for suspect in &suspects {
            for window in &suspect.windows {
                let again = match self.walk(suspect, window, &evidence) {
                    Walk::Crossed(crossing) => {
                        crossings.push(crossing);
                        // It fires once: nothing is enough to be looked at again.
                        i64::MAX
                    }
                    Walk::Before => i64::MAX,
                    Walk::Missing(missing) => window.at_most.saturating_add(missing),
                };
                let member = self.watches[window.watch].member;
                let partition = partition_of(suspect.slot);
                let place = (partition, member, window.start, suspect.key.clone());
                self.again.insert(place, again);
            }
        }
        Ok((crossings, evidence.states))
    }

    /// The keys that have enough for a window that has not fired, by what their counts are at most.
    fn suspects(&self, group: &Group, counted: &[Counted]) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (number, (slot, new)) in self.candidates(counted) {
            let Some(open) = group.open.get(&slot) else {
                continue;
            };
            let mut suspect = Suspect {
                number,
                slot,
                key: self.keys.keys[number as usize].as_ref().into(),
                known: self.known(number, slot, &new),
                windows: Vec::new(),
            };
            for (place, watch) in self.watches.iter().enumerate() {
                for start in starts_of(watch, &new) {
                    let end = start + watch.spec.size_ns;
                    let sum = |ask: usize| {
                        sum(&suspect.known, watch, start, ask) + sum(&new, watch, start, ask)
                    };
                    let reached = watch.asks.iter().all(|(ask, least)| sum(*ask) >= *least);
                    if !reached || !open.contains(&(end, start, watch.spec)) {
                        continue;
                    }
                    let at_most = watch.asks.iter().map(|(ask, _)| sum(*ask)).sum();
                    let again = (partition_of(slot), watch.member, start, suspect.key.clone());
                    if self.again.get(&again).is_none_or(|again| at_most >= *again) {
                        suspect.windows.push(SuspectWindow {
                            watch: place,
                            start,
                            at_most,
                        });
                    }
                }
            }
            if !suspect.windows.is_empty() {
                suspects.push(suspect);
            }
        }
        suspects
    }

    /// The keys of states that have enough for any detection, if all their panes were one window: slot, and new counts.
    fn candidates(&self, counted: &[Counted]) -> HashMap<u32, (i64, ByPane)> {
        let tracked = self.tracked.len();
        let mut candidates: HashMap<u32, (i64, ByPane)> = HashMap::new();
        for counted in counted {
            for (start, slot, number, new) in counted.rows(tracked) {
                let totals = self.keys.totals(number, tracked);
                let enough = |(ask, least): &(usize, i64)| totals[*ask] >= *least;
                let may_cross = |watch: &Watch| watch.asks.iter().all(enough);
                if new.iter().any(|count| *count > 0) && self.watches.iter().any(may_cross) {
                    let own = candidates
                        .entry(number)
                        .or_insert_with(|| (slot, Vec::new()));
                    own.1.push((start, new.into()));
                }
            }
        }
        candidates
    }

    /// A key's counts in the panes that the windows of its new rows reach.
    fn known(&self, number: u32, slot: i64, new: &[(i64, Box<[i64]>)]) -> ByPane {
        let sizes = self.watches.iter().map(|watch| watch.spec.size_ns);
        let reach = sizes.max().unwrap_or(0);
        let first = new.iter().map(|(pane, _)| *pane).min().unwrap_or(0) - reach;
        let last = new.iter().map(|(pane, _)| *pane).max().unwrap_or(0) + reach;
        let partition = partition_of(slot);
        self.counts
            .range((partition, first)..=(partition, last))
            .filter_map(|((_, pane), counts)| {
                let place = *counts.places.get(&number)?;
                let own = &counts.counts[place..][..self.tracked.len()];
                Some((*pane, own.into()))
            })
            .collect()
    }

    /// Looks up the rows and states of suspects.
    fn evidence<'a>(
        &self,
        group: &Group,
        suspects: &[Suspect],
        input: &'a RecordBatch,
        input_rows: &'a [u32],
    ) -> Result<Evidence<'a>> {
        let numbers = suspects.iter().map(|suspect| suspect.number);
        let mut rows: HashMap<u32, Vec<u32>> = numbers.map(|own| (own, Vec::new())).collect();
        for (row, key) in (0..).zip(self.converter().encode(input)?.iter()) {
            let number = self.keys.numbers.get(key.as_ref());
            if let Some(own) = number.and_then(|number| rows.get_mut(number)) {
                own.push(row);
            }
        }
        let windows = suspects.iter().flat_map(|suspect| {
            suspect.windows.iter().map(|window| {
                let size_ns = self.watches[window.watch].spec.size_ns;
                (suspect.slot, window.start..window.start + size_ns)
            })
        });
        let states = KeyStates::find(group, self, windows, |number| rows.contains_key(&number))?;
        let columns = self.tracked.iter().map(|tracked| {
            let (flag, argument) = group.call_inputs[tracked.aggregate];
            let text = |column: usize| cast(input.column(column), &DataType::Utf8View);
            let argument = argument.map(text).transpose()?;
            Ok(Countable {
                flags: flag.map(|column| input.column(column).as_boolean().clone()),
                argument: argument.map(|argument| argument.as_string_view().clone()),
            })
        });
        Ok(Evidence {
            input_rows,
            panes: pane_starts(input),
            columns: columns.collect::<Result<_>>()?,
            rows,
            states,
        })
    }

    /// Walks the rows of a key until its window crosses.
    fn walk(&self, suspect: &Suspect, window: &SuspectWindow, evidence: &Evidence<'_>) -> Walk {
        let watch = &self.watches[window.watch];
        let range = window.start..window.start + watch.spec.size_ns;
        let gauge = |(ask, least): &(usize, i64)| Gauge {
            least: *least,
            counted: sum(&suspect.known, watch, window.start, *ask),
            values: self.tracked[*ask].distinct.then(|| {
                let column = self.tracked[*ask].column;
                distinct(&evidence.states, suspect.number, &range, column)
            }),
            countable: &evidence.columns[*ask],
        };
        let mut gauges: Vec<Gauge<'_>> = watch.asks.iter().map(gauge).collect();
        if gauges.iter().all(Gauge::reached) {
            return Walk::Before;
        }
        let mut rows = Vec::new();
        for row in &evidence.rows[&suspect.number] {
            if !range.contains(&evidence.panes[*row as usize]) {
                continue;
            }
            rows.push(*row);
            gauges.iter_mut().for_each(|gauge| gauge.add(*row as usize));
            if gauges.iter().all(Gauge::reached) {
                return Walk::Crossed(Crossing {
                    member: watch.member,
                    start: window.start,
                    slot: suspect.slot,
                    row: evidence.input_rows[*row as usize],
                    number: suspect.number,
                    rows,
                });
            }
        }
        let missing = gauges.iter().map(|gauge| gauge.least - gauge.count()).max();
        Walk::Missing(missing.unwrap_or(1).max(1))
    }
}

/// The starts of the windows of a watch in which counts that it asks for have grown.
fn starts_of(watch: &Watch, new: &[(i64, Box<[i64]>)]) -> BTreeSet<i64> {
    let grown = |counts: &[i64]| watch.asks.iter().any(|(ask, _)| counts[*ask] > 0);
    let panes = new.iter().filter(|(_, counts)| grown(counts));
    panes
        .flat_map(|(pane, _)| watch.spec.starts(*pane))
        .collect()
}

/// A count of a window, over its panes.
fn sum(counts: &[(i64, Box<[i64]>)], watch: &Watch, start: i64, ask: usize) -> i64 {
    let window = start..start + watch.spec.size_ns;
    let own = counts.iter().filter(|(pane, _)| window.contains(pane));
    own.map(|(_, counts)| counts[ask]).sum()
}

/// The hashes of a key's distinct values in the panes of a window.
fn distinct(states: &KeyStates, key: u32, window: &Range<i64>, column: usize) -> HashSet<u64> {
    let mut values = HashSet::new();
    for (piece, row) in states.rows(key, window) {
        let lists = piece.column(column).as_list::<i32>();
        if lists.is_valid(row) {
            let hashes = lists.value(row);
            values.extend(hashes.as_primitive::<UInt64Type>().values());
        }
    }
    values
}

/// One count, row by row.
struct Gauge<'a> {
    least: i64,
    counted: i64,
    values: Option<HashSet<u64>>,
    countable: &'a Countable,
}

impl Gauge<'_> {
    fn count(&self) -> i64 {
        self.values
            .as_ref()
            .map_or(self.counted, |values| values.len() as i64)
    }

    fn reached(&self) -> bool {
        self.count() >= self.least
    }

    fn add(&mut self, row: usize) {
        let Countable { flags, argument } = self.countable;
        let flagged = |flags: &BooleanArray| flags.is_valid(row) && flags.value(row);
        if !flags.as_ref().is_none_or(flagged) {
            return;
        }
        let value = match argument {
            Some(argument) if argument.is_null(row) => return,
            Some(argument) => argument.value(row),
            None => "",
        };
        match &mut self.values {
            Some(values) => {
                values.insert(hash(value));
            }
            None => self.counted += 1,
        }
    }
}
