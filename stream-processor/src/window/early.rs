//! Early firing: a window whose HAVING only asks whether counts have reached numbers speaks at the row that makes it true.
//!
//! For each key and pane the counts are kept beside the states; a distinct count is kept as what it is at most, and looked at
//! exactly only when that reaches its number. What has fired need not be stored: it is what has crossed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use datafusion::common::{HashMap, Result};

use super::Word;
use super::group::{FIXED_COLUMNS, Group, in_window, pane_starts, plan_of};
use super::pane::slots;
use super::plans::Workbench;
use crate::detect::DetectionSet;
use crate::detect::aggregates::hash;
use crate::detect::window::WindowSpec;
use crate::engine::tasks::partition_of;

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

/// One count for each tracked, by key.
type Counts = HashMap<Key, Box<[i64]>>;
/// A window of a slot.
type SlotWindow = (WindowSpec, i64, i64);
/// A window of a key, of a detection.
type Place = (usize, i64, Key);

/// The counts of a group's keys.
#[derive(Debug, Default)]
pub(super) struct Early {
    tracked: Vec<Tracked>,
    watches: Vec<Watch>,
    converter: Option<KeyConverter>,
    /// By pane and partition, by key: one count for each tracked.
    counts: BTreeMap<(i64, i32), Counts>,
    /// By partition, by key: the counts of all its panes together. No window has more.
    totals: HashMap<i32, Counts>,
    /// What has spoken: by window and slot, the member and its keys.
    fired: HashMap<SlotWindow, HashSet<(usize, String)>>,
    /// Where a distinct count at most reached its number and exactly did not: how much it must be to be looked at again.
    again: HashMap<Place, i64>,
}

/// A window that has just crossed its threshold.
#[derive(Debug)]
pub(super) struct Crossing {
    pub member: usize,
    pub start: i64,
    pub slot: i64,
    /// The row of the batch that made it cross.
    pub row: u32,
    key: Key,
    /// The rows of the input that count in it, up to that row.
    rows: Vec<usize>,
}

impl Crossing {
    /// The states of the window as they are at the row that crossed.
    pub fn states(
        &self,
        group: &Group,
        bench: &Workbench,
        input: &RecordBatch,
    ) -> Result<Vec<RecordBatch>> {
        let mut states = Vec::new();
        let spec = group.members[self.member].spec;
        let converter = group.early.converter();
        for (_, pane) in group.panes.range(self.start..self.start + spec.size_ns) {
            for piece in &pane.pieces {
                let encoded = converter.encode(piece)?;
                let own: BooleanArray = encoded
                    .iter()
                    .map(|row| Some(row.as_ref() == &*self.key))
                    .collect();
                if own.true_count() > 0 {
                    states.push(in_window(&filter_record_batch(piece, &own)?, self.start)?);
                }
            }
        }
        let mut mask = vec![false; input.num_rows()];
        self.rows.iter().for_each(|row| mask[*row] = true);
        let own = filter_record_batch(input, &BooleanArray::from(mask))?;
        states.extend(group.phases.partial(bench, in_window(&own, self.start)?)?);
        Ok(states)
    }
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
            if plan.thresholds.is_empty() {
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
                column: group.state_columns[aggregate],
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

    /// Adds a piece of states to the counts.
    pub fn count(&mut self, start: i64, piece: &RecordBatch) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        let encoded = self.converter().encode(piece)?;
        let columns = self.columns(piece);
        for (row, slot) in slots(piece).iter().enumerate() {
            let partition = partition_of(*slot);
            let key = encoded.row(row);
            for counts in [
                self.counts.entry((start, partition)).or_default(),
                self.totals.entry(partition).or_default(),
            ] {
                match counts.get_mut(key.as_ref()) {
                    Some(known) => known
                        .iter_mut()
                        .zip(&columns)
                        .for_each(|(count, column)| *count += column[row]),
                    None => {
                        let new = columns.iter().map(|column| column[row]).collect();
                        counts.insert(key.as_ref().into(), new);
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds the windows that cross their threshold with these rows, whose states are not in the panes yet.
    pub fn look(
        &mut self,
        group: &Group,
        input: &RecordBatch,
        input_rows: &[u32],
        states: &[RecordBatch],
    ) -> Result<Vec<Crossing>> {
        let mut crossings = Vec::new();
        let mut encoded_input = None;
        for (key, (slot, new)) in self.touched(states)? {
            let Some(open) = group.open.get(&slot) else {
                continue;
            };
            if !self.may_cross(&key, slot, &new) {
                continue;
            }
            let known = self.known(&key, slot, &new, group);
            for watch in &self.watches {
                let sum = |start: i64, ask: usize| -> i64 {
                    let window = start..start + watch.spec.size_ns;
                    let of = |counts: &[(i64, Box<[i64]>)]| -> i64 {
                        counts
                            .iter()
                            .filter(|(pane, _)| window.contains(pane))
                            .map(|(_, counts)| counts[ask])
                            .sum()
                    };
                    of(&known) + of(&new)
                };
                let starts: BTreeSet<i64> = new
                    .iter()
                    .filter(|(_, counts)| watch.asks.iter().any(|(ask, _)| counts[*ask] > 0))
                    .flat_map(|(pane, _)| watch.spec.starts(*pane))
                    .collect();
                for start in starts {
                    let end = start + watch.spec.size_ns;
                    if !watch
                        .asks
                        .iter()
                        .all(|(ask, least)| sum(start, *ask) >= *least)
                        || !open.contains(&(end, start, watch.spec))
                    {
                        continue;
                    }
                    let place = (watch.member, start, key.clone());
                    let at_most: i64 = watch.asks.iter().map(|(ask, _)| sum(start, *ask)).sum();
                    if self.again.get(&place).is_some_and(|again| at_most < *again) {
                        continue;
                    }
                    if encoded_input.is_none() {
                        encoded_input = Some(self.converter().encode(input)?);
                    }
                    let Some(encoded) = &encoded_input else {
                        continue;
                    };
                    let window = Window {
                        watch,
                        start,
                        slot,
                        key: &key,
                    };
                    match self.walk(group, &window, &known, input, input_rows, encoded)? {
                        Walk::Crossed(crossing) => {
                            // It speaks once: nothing is enough to be looked at again.
                            self.again.insert(place, i64::MAX);
                            crossings.push(crossing);
                        }
                        Walk::Before => {
                            self.again.insert(place, i64::MAX);
                        }
                        Walk::Missing(missing) => {
                            self.again.insert(place, at_most + missing);
                        }
                    }
                }
            }
        }
        crossings.sort_by(|left, right| {
            (left.row, left.member, left.start, &left.key).cmp(&(
                right.row,
                right.member,
                right.start,
                &right.key,
            ))
        });
        Ok(crossings)
    }

    /// The keys of states: slot, and counts by pane.
    #[expect(
        clippy::type_complexity,
        reason = "used once, and the parts are named where they are taken"
    )]
    fn touched(
        &self,
        states: &[RecordBatch],
    ) -> Result<HashMap<Key, (i64, Vec<(i64, Box<[i64]>)>)>> {
        let mut touched: HashMap<Key, (i64, Vec<(i64, Box<[i64]>)>)> = HashMap::new();
        for state in states {
            let encoded = self.converter().encode(state)?;
            let columns = self.columns(state);
            for (row, (slot, start)) in slots(state).iter().zip(pane_starts(state)).enumerate() {
                let counts: Box<[i64]> = columns.iter().map(|column| column[row]).collect();
                if counts.iter().any(|count| *count > 0) {
                    let key: Key = encoded.row(row).as_ref().into();
                    let own = touched.entry(key).or_insert_with(|| (*slot, Vec::new()));
                    own.1.push((*start, counts));
                }
            }
        }
        Ok(touched)
    }

    /// Whether a key has enough for any detection, if all its panes were one window.
    fn may_cross(&self, key: &[u8], slot: i64, new: &[(i64, Box<[i64]>)]) -> bool {
        let totals = self.totals.get(&partition_of(slot));
        let known = totals.and_then(|totals| totals.get(key));
        let most = |ask: usize| -> i64 {
            let new: i64 = new.iter().map(|(_, counts)| counts[ask]).sum();
            new + known.map_or(0, |known| known[ask])
        };
        let enough = |(ask, least): &(usize, i64)| most(*ask) >= *least;
        self.watches
            .iter()
            .any(|watch| watch.asks.iter().all(enough))
    }

    /// A key's counts in the panes that the windows of its new rows reach.
    fn known(
        &self,
        key: &[u8],
        slot: i64,
        new: &[(i64, Box<[i64]>)],
        group: &Group,
    ) -> Vec<(i64, Box<[i64]>)> {
        let reach = self
            .watches
            .iter()
            .map(|watch| watch.spec.size_ns)
            .max()
            .unwrap_or(0);
        let first = new.iter().map(|(pane, _)| *pane).min().unwrap_or(0) - reach;
        let last = new.iter().map(|(pane, _)| *pane).max().unwrap_or(0) + reach;
        let partition = partition_of(slot);
        group
            .panes
            .range(first..=last)
            .filter_map(|(pane, _)| {
                let counts = self.counts.get(&(*pane, partition))?.get(key)?;
                Some((*pane, counts.clone()))
            })
            .collect()
    }

    /// The tracked counts of each row of states.
    fn columns(&self, states: &RecordBatch) -> Vec<Vec<i64>> {
        self.tracked
            .iter()
            .map(|tracked| {
                let column = states.column(tracked.column);
                if tracked.distinct {
                    let lists = column.as_list::<i32>();
                    (0..lists.len())
                        .map(|row| i64::from(lists.value_length(row)))
                        .collect()
                } else {
                    let counts = column.as_primitive::<Int64Type>();
                    counts.iter().map(|count| count.unwrap_or(0)).collect()
                }
            })
            .collect()
    }

    /// Walks the rows of a key until its window crosses.
    fn walk(
        &self,
        group: &Group,
        window: &Window<'_>,
        known: &[(i64, Box<[i64]>)],
        input: &RecordBatch,
        input_rows: &[u32],
        encoded: &EncodedRows,
    ) -> Result<Walk> {
        let range = window.start..window.start + window.watch.spec.size_ns;
        let mut gauges = Vec::new();
        for (ask, least) in &window.watch.asks {
            gauges.push(self.gauge(group, window, known, *ask, *least, input)?);
        }
        if gauges.iter().all(Gauge::reached) {
            return Ok(Walk::Before);
        }
        let mut rows = Vec::new();
        for (row, pane) in pane_starts(input).iter().enumerate() {
            if !range.contains(pane) || encoded.row(row).as_ref() != window.key {
                continue;
            }
            rows.push(row);
            gauges.iter_mut().for_each(|gauge| gauge.add(row));
            if gauges.iter().all(Gauge::reached) {
                return Ok(Walk::Crossed(Crossing {
                    member: window.watch.member,
                    start: window.start,
                    slot: window.slot,
                    row: input_rows[row],
                    key: window.key.into(),
                    rows,
                }));
            }
        }
        let missing = gauges.iter().map(|gauge| gauge.least - gauge.count()).max();
        Ok(Walk::Missing(missing.unwrap_or(1).max(1)))
    }

    fn gauge(
        &self,
        group: &Group,
        window: &Window<'_>,
        known: &[(i64, Box<[i64]>)],
        ask: usize,
        least: i64,
        input: &RecordBatch,
    ) -> Result<Gauge> {
        let tracked = &self.tracked[ask];
        let range = window.start..window.start + window.watch.spec.size_ns;
        let (flag, argument) = group.call_inputs[tracked.aggregate];
        let mut gauge = Gauge {
            least,
            counted: 0,
            values: None,
            flags: flag.map(|column| input.column(column).as_boolean().clone()),
            argument: argument
                .map(|column| cast(input.column(column), &DataType::Utf8View))
                .transpose()?,
        };
        if !tracked.distinct {
            gauge.counted = known
                .iter()
                .filter(|(pane, _)| range.contains(pane))
                .map(|(_, counts)| counts[ask])
                .sum();
            return Ok(gauge);
        }
        let mut values = HashSet::new();
        let converter = self.converter();
        for (_, pane) in group.panes.range(range) {
            for piece in &pane.pieces {
                let encoded = converter.encode(piece)?;
                let lists = piece.column(tracked.column).as_list::<i32>();
                for (row, key) in encoded.iter().enumerate() {
                    if key.as_ref() == window.key && lists.is_valid(row) {
                        values.extend(lists.value(row).as_primitive::<UInt64Type>().values());
                    }
                }
            }
        }
        gauge.values = Some(values);
        Ok(gauge)
    }

    /// Notes that a window has spoken.
    pub fn fire(&mut self, member: usize, word: &Word) {
        let Some(watch) = self.watches.iter().find(|watch| watch.member == member) else {
            return;
        };
        self.fired
            .entry((watch.spec, word.start, word.slot))
            .or_default()
            .insert((member, word.keys.clone()));
    }

    /// Whether a member fires early.
    pub fn watches(&self, member: usize) -> bool {
        self.watches.iter().any(|watch| watch.member == member)
    }

    /// Whether any detection that fires early has spoken of a window.
    pub fn has_spoken(&self, spec: WindowSpec, start: i64, slot: i64) -> bool {
        self.fired.contains_key(&(spec, start, slot))
    }

    /// Whether a window had spoken before it was over.
    pub fn has_fired(&self, member: usize, word: &Word) -> bool {
        let spec = self.watches.iter().find(|watch| watch.member == member);
        spec.and_then(|watch| self.fired.get(&(watch.spec, word.start, word.slot)))
            .is_some_and(|fired| fired.contains(&(member, word.keys.clone())))
    }

    /// Forgets what a window that is over has said.
    pub fn close(&mut self, start: i64, spec: WindowSpec, slot: i64) {
        self.fired.remove(&(spec, start, slot));
    }

    /// Forgets a pane, and what was only of windows that end with it.
    pub fn drop_pane(&mut self, start: i64) {
        let own: Vec<(i64, i32)> = self
            .counts
            .range((start, i32::MIN)..=(start, i32::MAX))
            .map(|(place, _)| *place)
            .collect();
        for place in own {
            let (Some(counts), Some(totals)) =
                (self.counts.remove(&place), self.totals.get_mut(&place.1))
            else {
                continue;
            };
            for (key, counts) in counts {
                let Some(total) = totals.get_mut(&key) else {
                    continue;
                };
                total
                    .iter_mut()
                    .zip(&counts)
                    .for_each(|(total, count)| *total -= count);
                if total.iter().all(|count| *count == 0) {
                    totals.remove(&key);
                }
            }
        }
        self.again.retain(|(_, window, _), _| *window > start);
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.counts.retain(|(_, of), _| *of != partition);
        self.totals.remove(&partition);
        self.fired
            .retain(|(_, _, slot), _| partition_of(*slot) != partition);
        self.again.clear();
    }

    /// Bytes of the counts.
    pub fn bytes(&self) -> u64 {
        let each = 8 * self.tracked.len() as u64 + 2 * size_of::<Key>() as u64;
        let of = |counts: &Counts| {
            let keys: u64 = counts.keys().map(|key| key.len() as u64).sum();
            keys + counts.len() as u64 * each
        };
        self.counts
            .values()
            .chain(self.totals.values())
            .map(of)
            .sum()
    }
}

/// A key's window of a detection.
struct Window<'a> {
    watch: &'a Watch,
    start: i64,
    slot: i64,
    key: &'a [u8],
}

/// What walking over rows found.
enum Walk {
    Crossed(Crossing),
    /// It had crossed before these rows.
    Before,
    /// So much is missing at least.
    Missing(i64),
}

/// One count, row by row.
struct Gauge {
    least: i64,
    counted: i64,
    values: Option<HashSet<u64>>,
    flags: Option<BooleanArray>,
    argument: Option<arrow::array::ArrayRef>,
}

impl Gauge {
    fn count(&self) -> i64 {
        self.values
            .as_ref()
            .map_or(self.counted, |values| values.len() as i64)
    }

    fn reached(&self) -> bool {
        self.count() >= self.least
    }

    fn add(&mut self, row: usize) {
        let flagged = self
            .flags
            .as_ref()
            .is_none_or(|flags| flags.is_valid(row) && flags.value(row));
        let value = match &self.argument {
            Some(argument) if argument.is_null(row) => return,
            Some(argument) => argument.as_string_view().value(row),
            None => "",
        };
        if !flagged {
            return;
        }
        match &mut self.values {
            Some(values) => {
                values.insert(hash(value));
            }
            None => self.counted += 1,
        }
    }
}
