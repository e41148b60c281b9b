//! The end of windows: which are over, what their detections say of them, and which panes nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampNanosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::{DataFusionError, HashMap, Result};
use serde_json::{Map, Value};

use super::off::Trouble;
use super::{FIXED_COLUMNS, Group, Open, in_window, pane_starts, plan_of};
use crate::detect::window::WindowSpec;
use crate::detect::windowed::{GroupColumn, WindowedPlan};
use crate::detect::{DetectionSet, error_text, guarded};
use crate::hosts::{EndKind, partition_of};
use crate::json;
use crate::window::pane::{PaneId, of_slot, slots};
use crate::window::plans::{Finish, Workbench};
use crate::window::{Rows, WindowOutput, Word};

/// A window that is over for a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub spec: WindowSpec,
    pub start: i64,
    pub slot: i64,
    pub row: u32,
    pub stepped: bool,
}

/// The detections that a window is finished for.
pub(super) struct Finisher {
    pub members: Vec<usize>,
    pub finish: Finish,
    /// The columns of states that count the rows of the members.
    counts: Vec<usize>,
}

impl Finisher {
    /// What the members need of a piece, as part of a window: the keys of wanted slots that any of them has rows of.
    fn taken(
        &self,
        piece: &RecordBatch,
        start: i64,
        wanted: impl Fn(i64) -> bool,
    ) -> Result<Option<RecordBatch>> {
        let mut mask = vec![false; piece.num_rows()];
        for column in &self.counts {
            let counts = piece.column(*column).as_primitive::<Int64Type>().values();
            for (needed, count) in mask.iter_mut().zip(counts) {
                *needed |= *count > 0;
            }
        }
        let mut last = None;
        let mut verdict = false;
        for (needed, slot) in mask.iter_mut().zip(slots(piece)) {
            if *needed && last != Some(*slot) {
                last = Some(*slot);
                verdict = wanted(*slot);
            }
            *needed &= verdict;
        }
        if !mask.contains(&true) {
            return Ok(None);
        }
        let taken = self.finish.taken(piece)?;
        let own = filter_record_batch(&taken, &BooleanArray::from(mask))?;
        Ok(Some(in_window(&own, start)?))
    }
}

/// The windows of one kind that are over, by partition and start, then by host.
type Starts = BTreeMap<PaneId, HashMap<i64, Due>>;

/// Groups that are finished, and the hosts whose states cannot be.
type Finished = (Vec<RecordBatch>, Vec<(i64, DataFusionError)>);

/// Finishes states: all at once, or host by host where memory is short.
fn finished(bench: &Workbench, finish: &Finish, states: Vec<RecordBatch>) -> Result<Finished> {
    if let Ok(groups) = guarded(|| finish.run(bench, states.clone())) {
        return Ok((groups, Vec::new()));
    }
    let hosts: BTreeSet<i64> = states.iter().flat_map(slots).copied().collect();
    let (mut groups, mut failed) = (Vec::new(), Vec::new());
    for host in hosts {
        let own = states.iter().map(|states| of_slot(states, host));
        let own = own.collect::<Result<Vec<_>>>()?;
        match guarded(|| finish.run(bench, own)) {
            Ok(own) => groups.extend(own),
            Err(error) => failed.push((host, error)),
        }
    }
    Ok((groups, failed))
}

impl Group {
    /// What finishes the windows of a kind.
    pub(super) fn finisher(&self, bench: &Workbench, spec: WindowSpec) -> Result<Finisher> {
        let members: Vec<usize> = (0..self.members.len())
            .filter(|place| self.members[*place].spec == spec)
            .collect();
        let mut aggregates = Vec::new();
        let mut counts = BTreeSet::new();
        for member in members.iter().map(|place| &self.members[*place]) {
            aggregates.extend([member.rows, member.last_time]);
            aggregates.extend(&member.aggregates);
            aggregates.extend(member.fleet.iter().flat_map(|calls| calls.all()));
            counts.insert(self.phases.state_columns[member.rows].start);
        }
        let finish = self.phases.finish(bench, &aggregates)?;
        Ok(Finisher {
            members,
            finish,
            counts: counts.into_iter().collect(),
        })
    }

    /// The windows that the rows below `before` have closed.
    pub(super) fn due(&mut self, rows: &Rows<'_>, before: u32) -> Vec<Due> {
        let mut due = Vec::new();
        for end in rows.ends.iter().filter(|end| end.row <= before) {
            let Some(open) = self.open.get_mut(&end.slot) else {
                continue;
            };
            let (closed, rest): (BTreeSet<Open>, BTreeSet<Open>) = std::mem::take(open)
                .into_iter()
                .partition(|(window_end, start, _)| {
                    // What time had closed before that row is not closed by it.
                    let by_time = rows.progress.reaches(
                        end.slot,
                        window_end.saturating_add(self.delay_ns),
                        end.row,
                    );
                    by_time.is_none()
                        && match end.kind {
                            EndKind::Step { .. } => true,
                            EndKind::Silence { flush_high } => *start <= flush_high,
                        }
                });
            *open = rest;
            due.extend(closed.into_iter().map(|(_, start, spec)| Due {
                spec,
                start,
                slot: end.slot,
                row: end.row,
                stepped: matches!(end.kind, EndKind::Step { .. }),
            }));
        }
        for slot in rows.progress.slots() {
            let Some(open) = self.open.get_mut(&slot) else {
                continue;
            };
            while let Some((end, start, spec)) = open.first().copied() {
                let closes_at = end.saturating_add(self.delay_ns);
                let Some(row) = rows.progress.reaches(slot, closes_at, before) else {
                    break;
                };
                open.pop_first();
                due.push(Due {
                    spec,
                    start,
                    slot,
                    row,
                    stepped: false,
                });
            }
        }
        due
    }

    /// Lets windows that are over speak, and lets go of panes that nobody needs any more.
    pub(super) fn fire(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        due: Vec<Due>,
        output: &mut WindowOutput,
    ) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        for (spec, starts) in self.speaking(&due) {
            let finisher = &self.finishers[&spec];
            let mut states = Vec::new();
            for (id, slots) in &starts {
                let wanted = |slot| slots.contains_key(&slot);
                states.extend(self.states_of(finisher, spec, *id, wanted)?);
            }
            if states.is_empty() {
                continue;
            }
            let (all_groups, failed) = finished(bench, &finisher.finish, states)?;
            for (slot, error) in failed {
                let own = starts.values().filter_map(|slots| slots.get(&slot));
                if let Some(window) = own.max_by_key(|window| window.start) {
                    self.off.note(Trouble {
                        slot,
                        row: window.row,
                        time: window.start.saturating_add(spec.size_ns),
                        error: error_text(&error),
                    });
                }
            }
            for groups in &all_groups {
                self.say_closed(set, finisher, groups, &starts, output)?;
            }
        }
        self.release(&due);
        Ok(())
    }

    /// The windows that have something to say, by kind. What would have spoken before its end and has not has nothing to say.
    fn speaking(&self, due: &[Due]) -> BTreeMap<WindowSpec, Starts> {
        let mut kinds: BTreeMap<WindowSpec, Starts> = BTreeMap::new();
        for window in due {
            let own = (window.spec, window.start, window.slot);
            // Where keys went, or could not fire, some may have reached their numbers that nobody was told of.
            let amiss = || self.overflow(window.start, &window.spec, window.slot) > 0;
            let spoken = || self.fired.any(&own) || self.unsure.contains(&own) || amiss();
            if self.early.is_idle() || spoken() {
                let starts = kinds.entry(window.spec).or_default();
                let id = (partition_of(window.slot), window.start);
                let slots = starts.entry(id).or_default();
                slots.insert(window.slot, *window);
            }
        }
        kinds
    }

    /// Says what detections make of the groups of windows that are over.
    fn say_closed(
        &self,
        set: &DetectionSet,
        finisher: &Finisher,
        groups: &RecordBatch,
        starts: &Starts,
        output: &mut WindowOutput,
    ) -> Result<()> {
        for member in &finisher.members {
            for mut word in self.results(set, *member, &finisher.finish, groups)? {
                let slots = starts.get(&(partition_of(word.slot), word.start));
                let Some(window) = slots.and_then(|slots| slots.get(&word.slot)) else {
                    continue;
                };
                word.row = window.row;
                word.stepped = window.stepped;
                word.overflow = self.overflow(word.start, &window.spec, word.slot);
                let fired = self.fired.under(*member, word.start, word.slot, &word.keys);
                word.fired_under = fired.cloned();
                output.words.push(word);
            }
        }
        Ok(())
    }

    /// What the end of a partition's window takes of its states, of some slots.
    fn states_of(
        &self,
        finisher: &Finisher,
        spec: WindowSpec,
        (partition, start): PaneId,
        wanted: impl Fn(i64) -> bool,
    ) -> Result<Vec<RecordBatch>> {
        let mut states = Vec::new();
        for pane in self.panes_of(partition, start, spec) {
            for piece in pane.pieces() {
                states.extend(finisher.taken(piece, start, &wanted)?);
            }
        }
        Ok(states)
    }

    /// Rows that a window's panes did not count because of the cap.
    pub(super) fn overflow(&self, start: i64, spec: &WindowSpec, slot: i64) -> u64 {
        self.panes_of(partition_of(slot), start, *spec)
            .map(|pane| pane.overflow)
            .sum()
    }

    /// What one detection says of finished groups.
    pub(super) fn results(
        &self,
        set: &DetectionSet,
        member: usize,
        finish: &Finish,
        groups: &RecordBatch,
    ) -> Result<Vec<Word>> {
        let own = &self.members[member];
        let plan = plan_of(set, own.detection);
        let counts = finish.column(groups, own.rows).as_primitive::<Int64Type>();
        let own: BooleanArray = counts
            .iter()
            .map(|count| Some(count.unwrap_or(0) > 0))
            .collect();
        if own.true_count() == 0 {
            return Ok(Vec::new());
        }
        let own = if own.true_count() == groups.num_rows() {
            groups.clone()
        } else {
            filter_record_batch(groups, &own)?
        };
        let mut words = Vec::new();
        if !plan.result.limited {
            self.result(plan, member, finish, &own, &mut words)?;
            return Ok(words);
        }
        let windows: BTreeSet<(i64, i64)> = pane_starts(&own)
            .iter()
            .copied()
            .zip(slots(&own).iter().copied())
            .collect();
        for window in windows {
            let mask: BooleanArray = pane_starts(&own)
                .iter()
                .zip(slots(&own))
                .map(|(start, slot)| Some((*start, *slot) == window))
                .collect();
            let own = filter_record_batch(&own, &mask)?;
            self.result(plan, member, finish, &own, &mut words)?;
        }
        Ok(words)
    }

    fn result(
        &self,
        plan: &WindowedPlan,
        place: usize,
        finish: &Finish,
        groups: &RecordBatch,
        words: &mut Vec<Word>,
    ) -> Result<()> {
        let member = &self.members[place];
        let timestamps = |plus: i64| -> ArrayRef {
            let starts = pane_starts(groups).iter().map(|start| start + plus);
            Arc::new(TimestampNanosecondArray::from_iter_values(starts).with_timezone("+00:00"))
        };
        let columns = plan
            .result
            .columns
            .iter()
            .map(|column| match column {
                GroupColumn::WindowStart => timestamps(0),
                GroupColumn::WindowEnd => timestamps(member.spec.size_ns),
                GroupColumn::Key(key) => Arc::clone(groups.column(FIXED_COLUMNS + key)),
                GroupColumn::Aggregate(call) => {
                    Arc::clone(finish.column(groups, member.aggregates[*call]))
                }
            })
            .collect();
        let last_times = finish
            .column(groups, member.last_time)
            .as_primitive::<Int64Type>();
        for found in plan.result.judge(columns, groups.num_rows())? {
            let row = found.group;
            let (start, slot) = (pane_starts(groups)[row], slots(groups)[row]);
            let since = self.since.get(&(partition_of(slot), place));
            if since.is_some_and(|since| start <= *since) {
                continue;
            }
            let keys: Vec<Value> = (0..self.keys)
                .map(|key| json::value(groups.column(FIXED_COLUMNS + key).as_ref(), row))
                .collect();
            let named = plan.keys.iter().zip(&keys);
            let columns: Map<String, Value> = named
                .filter_map(|(key, value)| Some((key.column.clone()?, value.clone())))
                .collect();
            words.push(Word {
                row: 0,
                closed: true,
                detection: member.detection,
                slot,
                start,
                end: start + member.spec.size_ns,
                keys: Value::Array(keys).to_string(),
                columns,
                values: found.values,
                stepped: false,
                overflow: 0,
                last_time: if last_times.is_valid(row) {
                    last_times.value(row)
                } else {
                    start
                },
                fired_under: None,
                skipped: self.off.skipped(slot, start),
                error: found.error,
                fleet: member
                    .fleet
                    .map(|calls| Box::new(super::fleet::told(finish, groups, &calls, row))),
            });
        }
        Ok(())
    }

    /// Lets go of what only closed windows needed.
    fn release(&mut self, due: &[Due]) {
        let mut touched: BTreeSet<(PaneId, i64)> = BTreeSet::new();
        for window in due {
            let partition = partition_of(window.slot);
            let end = window.start + window.spec.size_ns;
            let panes = self
                .panes
                .range((partition, window.start)..(partition, end));
            touched.extend(panes.map(|(id, _)| (*id, window.slot)));
        }
        for (id, slot) in touched {
            let needed = self.open.get(&slot).is_some_and(|open| {
                open.iter()
                    .any(|(end, from, _)| *from <= id.1 && id.1 < *end)
            });
            if let Some(pane) = self.panes.get_mut(&id)
                && !needed
            {
                pane.slots.remove(&slot);
                if pane.slots.is_empty() {
                    self.drop_pane(id);
                }
            }
        }
        self.open.retain(|_, open| !open.is_empty());
        for window in due {
            let own = (window.spec, window.start, window.slot);
            self.unsure.remove(&own);
            self.over.extend(self.fired.close(&own));
        }
    }

    pub(super) fn drop_pane(&mut self, id: PaneId) {
        let Some(pane) = self.panes.remove(&id) else {
            return;
        };
        self.early.drop_pane(id);
        let (partition, start) = id;
        let stored = pane.stored();
        let mut over: Vec<String> = stored
            .map(|(shard, piece)| self.piece_name(start, shard, piece))
            .collect();
        if pane.overflow_stored > 0 {
            over.push(self.overflow_name(start));
        }
        let over = over.into_iter().map(|name| (partition, name));
        self.over.extend(over);
    }
}
