//! What groups remember, in the topic of states.
//!
//! | name | what it is |
//! | --- | --- |
//! | `pane/GROUP/START/SHARD/PIECE` | states of a pane: [`super::piece`] |
//! | `overflow/GROUP/START` | how many rows a pane did not count because of the cap |
//! | `fired/STATE.ID/START/PIECE` | what has fired before its window was over: [`super::fired`] |
//! | `off/GROUP/WHO` | a pause of detections: [`super::group`] |
//!
//! A group is named by what its detections have in common, and a column by what it is of; no name depends on which other
//! detections there are. So each detection finds what is of it, whatever set it was stored with.
//! A checkpoint writes what came to a pane since the one before, as further pieces of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::{DataFusionError, HashMap, HashSet, Result, ScalarValue};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use dogwatch_schemas::Text;
use sha2::{Digest, Sha256};

use super::fired::SlotWindow;
use super::group::{FIXED_COLUMNS, Group, Replay};
use super::pane::{PaneId, Wanted, slots};
use super::piece::{column_name, decode, encode, stored_schema};
use super::plans::{Phases, Workbench};
use super::shard::ShardId;
use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::detect::hex;
use crate::detect::window::WindowSpec;
use crate::detect::windowed::WindowedPlan;
use crate::hosts::partition_of;

/// What the names of panes' pieces begin with.
pub(super) const PREFIX: &str = "pane/";
/// What the names of panes' overflows begin with.
const OVERFLOW: &str = "overflow/";

/// Name of the states of a group, by one of its detections: what they are grouped by, when they speak, how time is cut.
pub(super) fn group_hash(plan: &WindowedPlan) -> String {
    let mut hash = Sha256::new();
    for key in &plan.keys {
        hash.update(key.text.as_bytes());
        hash.update([0]);
    }
    let (early, delay_ns, pane_ns) = (plan.fires_early(), plan.delay_ns, plan.spec.slide_ns);
    hash.update(format!("{early} {delay_ns} {pane_ns}"));
    hex(&hash.finalize()[..8])
}

/// The hash of what the state of a detection is of: its group's, its window, and the labels of its aggregates.
pub(super) fn state_hash(group: &str, spec: WindowSpec, labels: &BTreeSet<&str>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{group} {}", spec.size_ns));
    labels
        .iter()
        .for_each(|label| hash.update(format!(" {label}")));
    hex(&hash.finalize()[..8])
}

/// How the states of a group are stored.
pub(super) struct StoredStates {
    /// Their schema, with columns named by what they are of.
    schema: SchemaRef,
    /// For each column of an aggregate, what it holds of no rows.
    nothing: Vec<ScalarValue>,
}

impl StoredStates {
    /// Of aggregates that are labelled by what they are of.
    ///
    /// # Errors
    /// When an aggregate has no state.
    pub fn new(
        phases: &Phases,
        calls: &[Arc<AggregateFunctionExpr>],
        labels: &[String],
        keys: usize,
    ) -> Result<Self> {
        let keys_end = FIXED_COLUMNS + keys;
        let (mut names, mut nothing) = (Vec::new(), Vec::new());
        for (call, label) in calls.iter().zip(labels) {
            let empty = call.create_accumulator()?.state()?;
            names.extend((0..empty.len()).map(|place| column_name(label, place)));
            nothing.extend(empty);
        }
        let states = phases.state_schema();
        for (nothing, field) in nothing.iter_mut().zip(&states.fields()[keys_end..]) {
            *nothing = nothing.cast_to(field.data_type())?;
        }
        Ok(Self {
            schema: stored_schema(&states, keys_end, &names),
            nothing,
        })
    }
}

impl StoredStates {
    /// Their schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// A stored piece taken apart.
pub(super) struct Known {
    /// The columns that this group has, with nothing in those that are not there.
    pub states: Option<RecordBatch>,
    /// The columns of detections that are not there.
    carried: Option<RecordBatch>,
}

impl Group {
    /// Name of a stored piece.
    pub(super) fn piece_name(&self, start: i64, shard: ShardId, piece: u64) -> String {
        format!("{PREFIX}{}/{start}/{shard}/{piece}", self.hash)
    }

    /// Name of how much a pane did not count.
    pub(super) fn overflow_name(&self, start: i64) -> String {
        format!("{OVERFLOW}{}/{start}", self.hash)
    }

    /// What changed in a partition since the last call, and the pieces that are to be written anew.
    pub fn store(
        &mut self,
        bench: &Workbench,
        partition: i32,
        renewal: &Renewal,
    ) -> Result<Vec<StateRecord>> {
        let own = self.over.extract_if(.., |(of, _)| *of == partition);
        let own = own.map(|(_, key)| StateRecord { key, value: None });
        let mut records: Vec<StateRecord> = own.collect();
        records.extend(self.off.store(&self.hash, partition, renewal));
        let fired = self.fired.store(partition, renewal);
        records.extend(fired.map_err(external)?);
        let anew = self.anew(renewal);
        let panes = (partition, i64::MIN)..=(partition, i64::MAX);
        let starts: Vec<i64> = self
            .panes
            .range(panes)
            .map(|((_, start), _)| *start)
            .collect();
        let none = BTreeSet::new();
        for start in starts {
            let Some(pane) = self.panes.get_mut(&(partition, start)) else {
                continue;
            };
            let wanted = Wanted {
                keys_end: FIXED_COLUMNS + self.keys,
                shards: anew.get(&start).unwrap_or(&none),
                room: &|| renewal.has_room(),
                spend: &|bytes| renewal.spend(bytes),
            };
            let stored = pane.store(&self.phases, bench, &wanted)?;
            let overflow = (pane.overflow != pane.overflow_stored).then_some(pane.overflow);
            pane.overflow_stored = pane.overflow;
            let over = stored.over.into_iter();
            records.extend(over.map(|(shard, piece)| StateRecord {
                key: self.piece_name(start, shard, piece),
                value: None,
            }));
            if let Some(overflow) = overflow {
                records.push(StateRecord {
                    key: self.overflow_name(start),
                    value: Some(overflow.to_string().into_bytes()),
                });
            }
            for fresh in stored.fresh {
                let schema = match fresh.carried {
                    true => fresh.states.schema(),
                    false => Arc::clone(&self.stored.schema),
                };
                for value in encode(&fresh.states, &schema)? {
                    let piece = self.next_piece;
                    self.next_piece += 1;
                    if let Some(pane) = self.panes.get_mut(&(partition, start)) {
                        pane.note(fresh.shard, piece, value.len());
                    }
                    records.push(StateRecord {
                        key: self.piece_name(start, fresh.shard, piece),
                        value: Some(value),
                    });
                }
            }
        }
        Ok(records)
    }

    /// The shards that are to be written anew, by pane.
    fn anew(&mut self, renewal: &Renewal) -> BTreeMap<i64, BTreeSet<ShardId>> {
        let mut anew: BTreeMap<i64, BTreeSet<ShardId>> = BTreeMap::new();
        let prefix = format!("{PREFIX}{}/", self.hash);
        for (start, shard, _) in renewal.below(&prefix).filter_map(parse) {
            anew.entry(start).or_default().insert(shard);
        }
        let prefix = format!("{OVERFLOW}{}/", self.hash);
        for start in renewal
            .below(&prefix)
            .filter_map(|start| start.parse::<i64>().ok())
        {
            for (_, pane) in self.panes.iter_mut().filter(|((_, own), _)| *own == start) {
                pane.overflow_stored = 0;
            }
        }
        anew
    }

    /// Takes a partition's pieces back, out of its state; `live` holds each slot's time and what silence has closed.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        bench: &Workbench,
        partition: i32,
        state: &mut State,
        live: &HashMap<i64, (i64, i64)>,
        texts: &BTreeMap<usize, Option<Text>>,
    ) -> Result<()> {
        for (name, value) in take_below(state, &format!("{PREFIX}{}/", self.hash)) {
            let Some((start, shard, piece)) = parse(&name) else {
                continue;
            };
            self.next_piece = self.next_piece.max(piece + 1);
            let place = (shard, piece, value.len());
            if !self.take_back(bench, (partition, start), place, decode(&value)?, live)? {
                let name = self.piece_name(start, shard, piece);
                self.over.push((partition, name));
            }
        }
        self.restore_overflows(partition, state);
        self.off.restore(&self.hash, partition, state);
        let open = |(spec, start, slot): &SlotWindow| {
            let window = (start + spec.size_ns, *start, *spec);
            let open = self.open.get(slot);
            open.is_some_and(|open| open.contains(&window))
        };
        let over = self.fired.restore(partition, state, open);
        self.over.extend(over.map_err(external)?);
        self.doubt(partition, texts);
        Ok(())
    }

    /// Notes the windows whose detections have another text than when these were stored: their thresholds may be others.
    fn doubt(&mut self, partition: i32, texts: &BTreeMap<usize, Option<Text>>) {
        for (place, member) in self.members.iter().enumerate() {
            if let Some(content) = texts.get(&member.detection) {
                let replay = Replay {
                    content: content.clone(),
                    until: u32::MAX,
                };
                self.replayed.insert((partition, place), replay);
            }
        }
        let own = self.members.iter();
        let own = own.filter(|member| texts.contains_key(&member.detection));
        let specs: BTreeSet<WindowSpec> = own.map(|member| member.spec).collect();
        let slots = self.open.iter();
        for (slot, open) in slots.filter(|(slot, _)| partition_of(**slot) == partition) {
            let doubted = open.iter().filter(|(_, _, spec)| specs.contains(spec));
            self.unsure
                .extend(doubted.map(|(_, start, spec)| (*spec, *start, *slot)));
        }
    }

    fn restore_overflows(&mut self, partition: i32, state: &mut State) {
        for (start, value) in take_below(state, &format!("{OVERFLOW}{}/", self.hash)) {
            let Ok(start) = start.parse() else {
                continue;
            };
            let count = std::str::from_utf8(&value).unwrap_or_default().parse();
            match self.panes.get_mut(&(partition, start)) {
                Some(pane) => {
                    pane.overflow = count.unwrap_or(0);
                    pane.overflow_stored = pane.overflow;
                }
                None => self.over.push((partition, self.overflow_name(start))),
            }
        }
    }

    /// Puts a piece back into its pane and opens the windows that its slots have not closed; says whether it is needed.
    fn take_back(
        &mut self,
        bench: &Workbench,
        id: PaneId,
        place: (ShardId, u64, usize),
        batches: Vec<RecordBatch>,
        live: &HashMap<i64, (i64, i64)>,
    ) -> Result<bool> {
        let (mut states, mut carried) = (Vec::new(), Vec::new());
        let mut waiting = BTreeSet::new();
        for batch in batches {
            waiting.extend(self.reopen(id.1, &batch, live));
            let known = self.known(&batch)?;
            states.extend(known.states);
            carried.extend(known.carried);
        }
        let needed = !(states.is_empty() && carried.is_empty());
        if !needed || waiting.is_empty() && !self.panes.contains_key(&id) {
            return Ok(false);
        }
        let mut kept = Vec::new();
        for states in states {
            self.note_came(id.0, &states);
            let counted = self.early.take_in(states)?;
            self.early.count(&counted);
            kept.push(counted.states);
        }
        let pane = self.panes.entry(id).or_default();
        pane.slots.extend(waiting);
        pane.restore(&self.phases, bench, place, kept, carried);
        Ok(true)
    }

    /// Opens the windows over a pane that its slots have not closed; returns these slots.
    fn reopen(
        &mut self,
        start: i64,
        batch: &RecordBatch,
        live: &HashMap<i64, (i64, i64)>,
    ) -> Vec<i64> {
        let distinct: HashSet<i64> = slots(batch).iter().copied().collect();
        let mut waiting = Vec::new();
        for slot in distinct {
            let Some((high, flush_high)) = live.get(&slot) else {
                continue;
            };
            let open = self.still_open(start, *high, *flush_high);
            if !open.is_empty() {
                self.open.entry(slot).or_default().extend(open);
                waiting.push(slot);
            }
        }
        waiting
    }

    /// Takes a piece apart into what the group knows of it and what it does not.
    pub(super) fn known(&self, batch: &RecordBatch) -> Result<Known> {
        let keys_end = FIXED_COLUMNS + self.keys;
        let own = &self.stored.schema;
        let stored = batch.schema();
        let is_own = |place: usize| {
            let column = own.column_with_name(stored.field(place).name());
            column.is_some_and(|(_, own)| own.data_type() == stored.field(place).data_type())
        };
        if batch.num_columns() < keys_end || !(0..keys_end).all(is_own) {
            let (states, carried) = (None, None);
            return Ok(Known { states, carried });
        }
        let mut columns: Vec<ArrayRef> = batch.columns()[..keys_end].to_vec();
        let mut any = false;
        for (field, nothing) in own.fields()[keys_end..].iter().zip(&self.stored.nothing) {
            let column = batch.column_by_name(field.name());
            let column = column.filter(|column| column.data_type() == field.data_type());
            any |= column.is_some();
            columns.push(match column {
                Some(column) => Arc::clone(column),
                None => nothing.to_array_of_size(batch.num_rows())?,
            });
        }
        let states = match any {
            true => self.with_rows(RecordBatch::try_new(self.phases.state_schema(), columns)?)?,
            false => None,
        };
        let others = (keys_end..batch.num_columns()).filter(|place| !is_own(*place));
        let others: Vec<usize> = (0..keys_end).chain(others).collect();
        let carried = (others.len() > keys_end)
            .then(|| batch.project(&others))
            .transpose()?;
        Ok(Known { states, carried })
    }

    /// The states of keys that any detection has rows of.
    fn with_rows(&self, states: RecordBatch) -> Result<Option<RecordBatch>> {
        let mut mask = vec![false; states.num_rows()];
        for member in &self.members {
            let counts = states.column(self.phases.state_columns[member.rows].start);
            let counts = counts.as_primitive::<Int64Type>();
            for (needed, count) in mask.iter_mut().zip(counts) {
                *needed |= count.unwrap_or(0) > 0;
            }
        }
        let mask = BooleanArray::from(mask);
        if mask.true_count() == mask.len() {
            return Ok(Some(states));
        }
        let own = filter_record_batch(&states, &mask)?;
        Ok((own.num_rows() > 0).then_some(own))
    }
}

fn external(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Start, shard and number of a piece from the end of its name.
fn parse(rest: &str) -> Option<(i64, ShardId, u64)> {
    let mut parts = rest.split('/');
    let parsed = (
        parts.next()?.parse().ok()?,
        ShardId::named(parts.next()?)?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(parsed)
}
