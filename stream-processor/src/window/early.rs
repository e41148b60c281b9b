//! Early firing: a window whose HAVING only asks whether counts have reached numbers speaks at the row that makes it true.
//!
//! For each key and pane the counts are kept beside the states; a distinct count is kept as what it is at most, and looked at
//! exactly only when that reaches its number.
//!
//! ```text
//! states of a step ─► counts ─► keys that may cross ─► look: their rows, one by one ─► crossings ─► finish: one run a detection
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use datafusion::common::{HashMap, HashSet, Result};

use super::group::{FIXED_COLUMNS, Group, pane_runs, pane_starts, plan_of};
use super::pane::{PaneId, slots};
use crate::detect::window::WindowSpec;
use crate::detect::{DetectionSet, take_rows};

mod crossing;
mod look;

pub(super) use crossing::{Crossing, CrossingFinisher, KeyStates};

/// What a key takes in the tables of early firing, beside its bytes and counts.
const EARLY_BESIDE: usize = 96;

/// A key as bytes: its slot and what the rows were grouped by.
type Key = Box<[u8]>;

/// Turns slot and keys of batches into bytes that are equal when they are.
#[derive(Debug, Clone)]
pub(super) struct KeyConverter {
    converter: Arc<RowConverter>,
    keys: usize,
}

impl KeyConverter {
    fn new(group: &Group) -> Result<Self> {
        let fields = group.input_schema.fields()[1..FIXED_COLUMNS + group.keys]
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        Ok(Self {
            converter: Arc::new(RowConverter::new(fields)?),
            keys: group.keys,
        })
    }

    /// The keys of rows or states.
    pub fn encode(&self, batch: &RecordBatch) -> Result<EncodedRows> {
        Ok(self
            .converter
            .convert_columns(&batch.columns()[1..FIXED_COLUMNS + self.keys])?)
    }

    /// The keys of some rows.
    fn encode_rows(&self, batch: &RecordBatch, rows: &[u32]) -> Result<EncodedRows> {
        let columns: Vec<usize> = (0..FIXED_COLUMNS + self.keys).collect();
        self.encode(&take_rows(&batch.project(&columns)?, rows)?)
    }
}

/// A count that a threshold asks for.
#[derive(Debug)]
struct Tracked {
    /// The group's aggregate.
    aggregate: usize,
    /// Its column in states.
    column: usize,
    /// Whether it counts distinct values.
    distinct: bool,
}

/// A detection that fires early: what it asks of which tracked counts.
#[derive(Debug)]
struct Watch {
    member: usize,
    spec: WindowSpec,
    asks: Vec<(usize, i64)>,
}

/// A window of a key, of a detection, in a partition.
type Place = (i32, usize, i64, Key);
/// The keys that any pane has, each with a number that is cheaper to look up than its bytes.
#[derive(Debug, Default)]
struct Keys {
    numbers: HashMap<Arc<[u8]>, u32>,
    keys: Vec<Arc<[u8]>>,
    /// By number: the counts of all panes together. No window has more.
    totals: Vec<i64>,
    /// By number: how many panes have it.
    panes: Vec<u32>,
    free: Vec<u32>,
}

impl Keys {
    /// The number of a key, a new one with `tracked` counts of nothing.
    fn number(&mut self, key: &[u8], tracked: usize) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let key: Arc<[u8]> = key.into();
        let number = match self.free.pop() {
            Some(number) => {
                self.keys[number as usize] = Arc::clone(&key);
                number
            }
            None => {
                self.keys.push(Arc::clone(&key));
                self.panes.push(0);
                self.totals.resize(self.totals.len() + tracked, 0);
                (self.keys.len() - 1) as u32
            }
        };
        self.numbers.insert(key, number);
        number
    }

    fn totals(&self, number: u32, tracked: usize) -> &[i64] {
        &self.totals[number as usize * tracked..][..tracked]
    }

    /// Takes a pane's counts away, and the key where no other pane has it.
    fn release(&mut self, number: u32, counts: &[i64]) {
        let place = number as usize;
        let totals = &mut self.totals[place * counts.len()..][..counts.len()];
        add(totals, counts.iter().map(|count| -count));
        self.panes[place] -= 1;
        if self.panes[place] == 0 {
            totals.fill(0);
            self.numbers.remove(&self.keys[place]);
            self.keys[place] = Arc::default();
            self.free.push(number);
        }
    }
}

fn add(counts: &mut [i64], more: impl IntoIterator<Item = i64>) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

/// The counts of a pane's keys.
#[derive(Debug, Default)]
struct Counts {
    /// Where each key's counts begin.
    places: HashMap<u32, usize>,
    counts: Vec<i64>,
}

/// States, and the key and tracked counts of each row; without early firing only states.
pub(super) struct Counted {
    pub states: RecordBatch,
    numbers: Vec<u32>,
    counts: Vec<i64>,
}

/// The counts of a group's keys.
#[derive(Debug, Default)]
pub(super) struct Early {
    tracked: Vec<Tracked>,
    watches: Vec<Watch>,
    converter: Option<KeyConverter>,
    keys: Keys,
    counts: BTreeMap<PaneId, Counts>,
    /// Where a distinct count at most reached its number and exactly did not: how much it must be to be looked at again.
    again: HashMap<Place, i64>,
}

impl Early {
    /// Finds the detections of a group that fire early.
    pub fn new(group: &Group, set: &DetectionSet) -> Result<Self> {
        let mut early = Self {
            converter: Some(KeyConverter::new(group)?),
            ..Self::default()
        };
        for (place, member) in group.members.iter().enumerate() {
            let plan = plan_of(set, member.detection);
            if !plan.fires_early() {
                continue;
            }
            let asks = plan
                .thresholds
                .iter()
                .map(|threshold| {
                    let aggregate = member.aggregates[threshold.aggregate];
                    let distinct = plan.aggregates[threshold.aggregate].function.name() != "count";
                    (early.track(group, aggregate, distinct), threshold.least)
                })
                .collect();
            early.watches.push(Watch {
                member: place,
                spec: member.spec,
                asks,
            });
        }
        Ok(early)
    }

    fn track(&mut self, group: &Group, aggregate: usize, distinct: bool) -> usize {
        let known = self
            .tracked
            .iter()
            .position(|tracked| tracked.aggregate == aggregate);
        known.unwrap_or_else(|| {
            self.tracked.push(Tracked {
                aggregate,
                column: group.phases.state_columns[aggregate].start,
                distinct,
            });
            self.tracked.len() - 1
        })
    }

    /// Whether no detection of the group fires early.
    pub fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }

    /// What turns keys into bytes.
    pub fn converter(&self) -> KeyConverter {
        self.converter
            .clone()
            .expect("a group's early firing is made with its converter")
    }

    /// Takes the keys and counts out of states, and adds them to the totals; [`Early::count`] must follow.
    pub fn take_in(&mut self, states: RecordBatch) -> Result<Counted> {
        let tracked = self.tracked.len();
        let mut counted = Counted {
            states,
            numbers: Vec::new(),
            counts: Vec::new(),
        };
        if self.is_idle() {
            return Ok(counted);
        }
        let encoded = self.converter().encode(&counted.states)?;
        let numbers = encoded
            .iter()
            .map(|key| self.keys.number(key.as_ref(), tracked));
        counted.numbers = numbers.collect();
        counted.counts = self.counts_of(&counted.states);
        for (_, _, number, counts) in counted.rows(tracked) {
            let totals = &mut self.keys.totals[number as usize * tracked..][..tracked];
            add(totals, counts.iter().copied());
        }
        Ok(counted)
    }

    /// Adds states to the counts of their panes.
    pub fn count(&mut self, counted: &Counted) {
        if self.is_idle() {
            return;
        }
        let tracked = self.tracked.len();
        let mut rows = counted.rows(tracked);
        for (id, run) in pane_runs(&counted.states) {
            let pane = self.counts.entry(id).or_default();
            for (_, _, number, more) in rows.by_ref().take(run.len()) {
                let place = *pane.places.entry(number).or_insert_with(|| {
                    self.keys.panes[number as usize] += 1;
                    pane.counts.resize(pane.counts.len() + tracked, 0);
                    pane.counts.len() - tracked
                });
                add(&mut pane.counts[place..], more.iter().copied());
            }
        }
    }

    /// The tracked counts of states, row by row.
    fn counts_of(&self, states: &RecordBatch) -> Vec<i64> {
        let mut counts = vec![0; states.num_rows() * self.tracked.len()];
        for (place, tracked) in self.tracked.iter().enumerate() {
            let own = counts.iter_mut().skip(place).step_by(self.tracked.len());
            let column = states.column(tracked.column);
            if tracked.distinct {
                let lists = column.as_list::<i32>();
                for (row, count) in own.enumerate() {
                    *count = i64::from(lists.value_length(row));
                }
            } else {
                let values = column.as_primitive::<Int64Type>();
                for (value, count) in values.iter().zip(own) {
                    *count = value.unwrap_or(0);
                }
            }
        }
        counts
    }

    /// Forgets a pane, and what was only of windows that end with it.
    pub fn drop_pane(&mut self, id: PaneId) {
        self.drop_counts(id);
        let (partition, start) = id;
        self.again
            .retain(|(of, _, window, _), _| *of != partition || *window > start);
    }

    /// Forgets keys of a pane, those of some states.
    pub fn drop_keys(&mut self, id: PaneId, gone: &[RecordBatch]) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        let converter = self.converter();
        let tracked = self.tracked.len();
        let mut going = HashSet::new();
        for states in gone {
            let encoded = converter.encode(states)?;
            going.extend(encoded.iter().map(|key| Key::from(key.as_ref())));
        }
        let Some(pane) = self.counts.get_mut(&id) else {
            return Ok(());
        };
        for key in &going {
            let number = self.keys.numbers.get(&**key).copied();
            let place = number.and_then(|number| pane.places.remove(&number));
            if let (Some(number), Some(place)) = (number, place) {
                let counts = &mut pane.counts[place..][..tracked];
                self.keys.release(number, counts);
                counts.fill(0);
            }
        }
        self.again
            .retain(|(of, _, _, key), _| *of != id.0 || !going.contains(key));
        Ok(())
    }

    /// What a key takes in its counts, beside its bytes.
    pub fn bytes_beside(&self) -> usize {
        match self.is_idle() {
            true => 0,
            false => EARLY_BESIDE + 2 * size_of::<i64>() * self.tracked.len(),
        }
    }

    fn drop_counts(&mut self, id: PaneId) {
        let Some(pane) = self.counts.remove(&id) else {
            return;
        };
        for (number, place) in pane.places {
            let own = &pane.counts[place..][..self.tracked.len()];
            self.keys.release(number, own);
        }
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        let panes = self.counts.keys().copied();
        let own: Vec<PaneId> = panes.filter(|(of, _)| *of == partition).collect();
        own.into_iter().for_each(|id| self.drop_counts(id));
        self.again.retain(|(of, ..), _| *of != partition);
    }

    /// Forgets a host: its counts.
    pub fn forget_slot(&mut self, slot: i64) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        // A key begins with its slot.
        let slots = RowConverter::new(vec![SortField::new(DataType::Int64)])?;
        let begin = slots.convert_columns(&[Arc::new(Int64Array::from(vec![slot])) as _])?;
        let begin = begin.row(0);
        self.again
            .retain(|(_, _, _, key), _| !key.starts_with(begin.as_ref()));
        let tracked = self.tracked.len();
        for pane in self.counts.values_mut() {
            let keys = &self.keys.keys;
            let own = |number: &u32| keys[*number as usize].starts_with(begin.as_ref());
            let gone: Vec<(u32, usize)> = pane.places.extract_if(|number, _| own(number)).collect();
            for (number, place) in gone {
                let counts = &mut pane.counts[place..][..tracked];
                self.keys.release(number, counts);
                counts.fill(0);
            }
        }
        Ok(())
    }

    /// Bytes of the counts.
    pub fn bytes(&self) -> u64 {
        let counts = 8 * self.tracked.len() as u64;
        let texts: u64 = self.keys.keys.iter().map(|key| key.len() as u64).sum();
        let of_key = counts + (2 * size_of::<Arc<[u8]>>() + 3 * size_of::<u32>()) as u64;
        let of_pane = counts + size_of::<(u32, usize)>() as u64;
        let in_panes: usize = self.counts.values().map(|pane| pane.places.len()).sum();
        texts + self.keys.keys.len() as u64 * of_key + in_panes as u64 * of_pane
    }
}

impl Counted {
    /// Each row's pane, slot, key and counts.
    fn rows(&self, tracked: usize) -> impl Iterator<Item = (i64, i64, u32, &[i64])> {
        let places = pane_starts(&self.states).iter().zip(slots(&self.states));
        // A group without early firing counts nothing.
        let counts = self.counts.chunks_exact(tracked.max(1));
        let keys = self.numbers.iter().zip(counts);
        places
            .zip(keys)
            .map(|((start, slot), (number, counts))| (*start, *slot, *number, counts))
    }
}
