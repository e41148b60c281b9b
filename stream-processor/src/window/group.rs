//! Detections over windows that share panes: equal keys, equal delay, and windows that one pane divides.
//!
//! Those that fire early are kept apart from those that speak at the close: the close reads all states of a window again,
//! and of the former it needs only those of the few that have spoken.
//! Their aggregates stand side by side in one state, each under the condition of its detection; equal ones stand there once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewBuilder,
    TimestampNanosecondArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{HashMap, HashSet, Result, ScalarValue};
use datafusion::functions_aggregate::{count::count_udaf, min_max::max_udaf};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::PhysicalGroupBy;
use serde_json::{Map, Value};

use super::conditions::Conditions;
use super::early::{Counted, Early, KeyConverter};
use super::pane::{Pane, PaneId, SLOT_COLUMN, slots};
use super::plans::{Finish, Phases, Workbench};
use super::{Missed, Overflow, Rows, WindowOutput, Word};
use crate::detect::aggregates::TEXT_BYTES_MAX;
use crate::detect::window::{PANES_MAX, WindowSpec, floor_to};
use crate::detect::windowed::{Argument, GroupColumn, WindowedPlan};
use crate::detect::{DetectionSet, json, project, take_rows};
use crate::engine::tasks::{EndKind, Moment, partition_of};

/// Columns of states before the keys: pane and slot.
pub(super) const FIXED_COLUMNS: usize = 2;

/// Puts a set's detections over windows into groups; each is a list of places in the set.
pub(super) fn arrange(set: &DetectionSet) -> Vec<Vec<usize>> {
    type Alike<'a> = (Vec<&'a str>, i64, bool);
    let mut alike: BTreeMap<Alike<'_>, Vec<(WindowSpec, usize)>> = BTreeMap::new();
    for (place, detection) in set.iter().enumerate() {
        if let Some(plan) = detection.plan.windowed() {
            let keys = plan.keys.iter().map(|key| key.text.as_str()).collect();
            let members = alike.entry((keys, plan.delay_ns, plan.fires_early()));
            let members = members.or_default();
            members.push((plan.spec, place));
        }
    }
    let mut groups = Vec::new();
    for mut members in alike.into_values() {
        members.sort_by_key(|(spec, place)| (spec.slide_ns, *place));
        let mut panes: Vec<(i64, Vec<usize>)> = Vec::new();
        for (spec, place) in members {
            let fits =
                |pane_ns: i64| spec.slide_ns % pane_ns == 0 && spec.size_ns / pane_ns <= PANES_MAX;
            match panes.iter_mut().find(|(pane_ns, _)| fits(*pane_ns)) {
                Some((_, group)) => group.push(place),
                None => panes.push((spec.slide_ns, vec![place])),
            }
        }
        groups.extend(panes.into_iter().map(|(_, group)| group));
    }
    groups
}

/// A detection in its group.
#[derive(Debug)]
pub(super) struct Member {
    /// Its place in the set.
    pub detection: usize,
    pub spec: WindowSpec,
    /// Its condition on rows, among those of all windows.
    predicate: usize,
    /// Its aggregates, among the group's.
    pub aggregates: Vec<usize>,
    /// The group's aggregate that counts its rows.
    pub rows: usize,
    /// The group's aggregate that holds the time of its last row.
    last_time: usize,
}

/// A condition under which an aggregate counts a row: that of a detection and perhaps one FILTER.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    predicate: usize,
    /// Where its FILTER stands: member and aggregate.
    filter: Option<(usize, usize)>,
    text: String,
}

/// Where an input column's values come from.
#[derive(Debug, Clone, Copy)]
enum InputColumn {
    Key(usize),
    /// Member, its aggregate, and the argument of it; arguments of its order follow the others.
    Argument(usize, usize, usize),
    Time,
    Condition(usize),
}

/// An open window of a slot: end, start and which of the group's windows it is.
pub(super) type Open = (i64, i64, WindowSpec);

/// A window that is over for a slot.
#[derive(Debug, Clone, Copy)]
struct Due {
    spec: WindowSpec,
    start: i64,
    slot: i64,
    row: u32,
    stepped: bool,
}

/// The detections that a window is finished for.
pub(super) struct Finisher {
    pub members: Vec<usize>,
    finish: Finish,
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

/// Detections that share panes.
pub(super) struct Group {
    pub members: Vec<Member>,
    specs: Vec<WindowSpec>,
    pub pane_ns: i64,
    delay_ns: i64,
    keys_max: usize,
    conditions: Vec<Condition>,
    columns: Vec<InputColumn>,
    pub input_schema: SchemaRef,
    /// The columns of events that keys and arguments read.
    needed: SchemaRef,
    pub keys: usize,
    pub phases: Phases,
    /// What finishes the windows of each kind.
    finishers: BTreeMap<WindowSpec, Finisher>,
    /// What each of the group's aggregates says, under which its states are stored.
    pub labels: Vec<String>,
    /// For each aggregate, the input columns of its condition and of its first argument, where it has them.
    pub call_inputs: Vec<(Option<usize>, Option<usize>)>,
    pub panes: BTreeMap<PaneId, Pane>,
    pub open: HashMap<i64, BTreeSet<Open>>,
    pub early: Early,
    /// Name of the group's states.
    pub hash: String,
    /// Panes that are over since a partition's last checkpoint: the keys of their stored pieces.
    pub over: Vec<(i32, String)>,
    pub next_piece: u64,
}

/// The plan of a member.
pub(super) fn plan_of(set: &DetectionSet, detection: usize) -> &WindowedPlan {
    set.at(detection)
        .plan
        .windowed()
        .expect("groups are made of detections over windows")
}

impl Group {
    pub fn new(
        bench: &Workbench,
        set: &DetectionSet,
        places: &[usize],
        known: &Conditions,
        events: &SchemaRef,
        keys_max: usize,
    ) -> Result<Self> {
        Layout::of(set, places, known).into_group(bench, set, events, keys_max)
    }

    /// What finishes the windows of a kind.
    fn finisher(&self, bench: &Workbench, spec: WindowSpec) -> Result<Finisher> {
        let members: Vec<usize> = (0..self.members.len())
            .filter(|place| self.members[*place].spec == spec)
            .collect();
        let mut aggregates = Vec::new();
        let mut counts = BTreeSet::new();
        for member in members.iter().map(|place| &self.members[*place]) {
            aggregates.extend([member.rows, member.last_time]);
            aggregates.extend(&member.aggregates);
            counts.insert(self.phases.state_columns[member.rows].start);
        }
        let finish = self.phases.finish(bench, &aggregates)?;
        Ok(Finisher {
            members,
            finish,
            counts: counts.into_iter().collect(),
        })
    }

    /// Takes the next rows; `matched` says for each condition which of them it is true for.
    pub fn step(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        output: &mut WindowOutput,
    ) -> Result<()> {
        let own: BTreeSet<usize> = self.members.iter().map(|member| member.predicate).collect();
        let mut by_any = vec![false; rows.batch.num_rows()];
        for predicate in own {
            let both = by_any.iter_mut().zip(&matched[predicate]);
            both.for_each(|(any, own)| *any |= own);
        }
        let candidates: Vec<usize> = (0..rows.shown.len())
            .filter(|shown| by_any[rows.shown[*shown].row as usize])
            .collect();
        let mut from = 0;
        loop {
            let mut placed = HashMap::new();
            let mut included = Vec::new();
            let mut until = candidates.len();
            for (place, shown) in candidates.iter().enumerate().skip(from) {
                let moment = &rows.shown[*shown].moment;
                match self.place(moment, &mut placed) {
                    Fate::Counts => included.push(*shown),
                    Fate::Misses { closed, counts } => {
                        // What it is late for is due but has not spoken yet: it must not count there.
                        let due = closed
                            .iter()
                            .any(|window| self.is_open(moment.slot, window));
                        if due && place > from {
                            until = place;
                            break;
                        }
                        if due {
                            let due = self.due(rows, rows.shown[*shown].row);
                            self.fire(bench, set, due, output)?;
                            placed.clear();
                        }
                        self.miss(rows, *shown, matched, &closed, output);
                        if counts {
                            included.push(*shown);
                        }
                    }
                }
            }
            let before = candidates
                .get(until)
                .map_or(u32::MAX, |shown| rows.shown[*shown].row);
            self.fold(bench, set, rows, matched, &included, output)?;
            let due = self.due(rows, before);
            self.fire(bench, set, due, output)?;
            if until == candidates.len() {
                return Ok(());
            }
            from = until;
        }
    }

    /// Closes all windows of some slots.
    pub fn finish(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        slots: &[i64],
        row: u32,
        output: &mut WindowOutput,
    ) -> Result<()> {
        let mut due = Vec::new();
        for slot in slots {
            let open = self.open.remove(slot).unwrap_or_default();
            due.extend(open.into_iter().map(|(_, start, spec)| Due {
                spec,
                start,
                slot: *slot,
                row,
                stepped: false,
            }));
        }
        self.fire(bench, set, due, output)
    }

    /// Which windows a row counts in. Opens those that it is the first row of; `placed` is the pane of each slot's last row.
    fn place(&mut self, moment: &Moment, placed: &mut HashMap<i64, i64>) -> Fate {
        let in_time = self.specs.iter().all(|spec| {
            let last = floor_to(moment.time, spec.slide_ns);
            let first = last - spec.size_ns + spec.slide_ns;
            !self.closed(first, first + spec.size_ns, moment.high, moment.flush_high)
        });
        // Most rows are in time: their windows are listed only where they are the first of their pane.
        let (closed, still_open): (Vec<Open>, Vec<Open>) = if in_time {
            (Vec::new(), Vec::new())
        } else {
            windows_over(&self.specs, moment.time).partition(|(end, start, _)| {
                self.closed(*start, *end, moment.high, moment.flush_high)
            })
        };
        let counts = in_time || !still_open.is_empty();
        let start = floor_to(moment.time, self.pane_ns);
        if counts && placed.insert(moment.slot, start) != Some(start) {
            let id = (partition_of(moment.slot), start);
            let pane = self.panes.entry(id).or_default();
            if pane.slots.insert(moment.slot) {
                let open = self.open.entry(moment.slot).or_default();
                if in_time {
                    open.extend(windows_over(&self.specs, moment.time));
                } else {
                    open.extend(still_open);
                }
            }
        }
        if in_time {
            Fate::Counts
        } else {
            Fate::Misses { closed, counts }
        }
    }

    /// Whether a window is closed at a time of its host, or because the host had been silent.
    fn closed(&self, start: i64, end: i64, high: i64, flush_high: i64) -> bool {
        end.saturating_add(self.delay_ns) <= high || start <= flush_high
    }

    fn is_open(&self, slot: i64, window: &Open) -> bool {
        self.open
            .get(&slot)
            .is_some_and(|open| open.contains(window))
    }

    /// Notes what a row was too late for.
    fn miss(
        &self,
        rows: &Rows<'_>,
        shown: usize,
        matched: &[Vec<bool>],
        closed: &[Open],
        output: &mut WindowOutput,
    ) {
        let moment = &rows.shown[shown].moment;
        for member in &self.members {
            let late = closed.iter().any(|(_, _, spec)| *spec == member.spec);
            if late && matched[member.predicate][rows.shown[shown].row as usize] {
                let missed: &mut Missed = output.late.entry(rows.shown[shown].row).or_default();
                missed.detections.push(member.detection);
                missed.late_ns = missed.late_ns.max(moment.high.saturating_sub(moment.time));
            }
        }
    }

    /// Adds rows to their panes.
    fn fold(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        included: &[usize],
        output: &mut WindowOutput,
    ) -> Result<()> {
        if included.is_empty() {
            return Ok(());
        }
        let mut input = self.input(set, rows, matched, included)?;
        let mut input_rows: Vec<u32> = included
            .iter()
            .map(|shown| rows.shown[*shown].row)
            .collect();
        let mut states = self.phases.partial(bench, input.clone())?;
        if let Some(admitted) = self.admit(bench, &input, &states, &input_rows, output)? {
            input = filter_record_batch(&input, &admitted)?;
            input_rows = input_rows
                .iter()
                .zip(admitted.iter())
                .filter(|(_, admitted)| *admitted == Some(true))
                .map(|(row, _)| *row)
                .collect();
            states = self.phases.partial(bench, input.clone())?;
        }
        let counted: Result<Vec<_>> = states
            .into_iter()
            .map(|states| self.early.take_in(states))
            .collect();
        let counted = counted?;
        self.cross(bench, set, &input, &input_rows, &counted, output)?;
        for counted in &counted {
            self.push(bench, counted)?;
        }
        Ok(())
    }

    /// Lets early firing look at the rows before they are in the panes.
    fn cross(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        input: &RecordBatch,
        input_rows: &[u32],
        counted: &[Counted],
        output: &mut WindowOutput,
    ) -> Result<()> {
        if self.early.is_idle() {
            return Ok(());
        }
        let mut early = std::mem::take(&mut self.early);
        let crossings = early.look(self, input, input_rows, counted);
        self.early = early;
        for crossing in crossings? {
            let spec = self.members[crossing.member].spec;
            let finish = &self.finishers[&spec].finish;
            let states = crossing.states(self, bench, input)?;
            let taken: Result<Vec<_>> = states.iter().map(|states| finish.taken(states)).collect();
            let groups = finish.run(bench, taken?)?;
            let overflow = self.overflow(crossing.start, &spec, crossing.slot);
            for group in &groups {
                for mut word in self.results(set, crossing.member, finish, group)? {
                    word.row = crossing.row;
                    word.closed = false;
                    word.overflow = overflow;
                    self.early.fire(crossing.member, &word);
                    output.words.push(word);
                }
            }
        }
        Ok(())
    }

    /// Adds states to their panes.
    pub fn push(&mut self, bench: &Workbench, counted: &Counted) -> Result<()> {
        self.early.count(counted);
        for (id, piece) in by_pane(&counted.states)? {
            let pane = self.panes.entry(id).or_default();
            pane.push(&self.phases, bench, piece)?;
        }
        Ok(())
    }

    /// Which rows may count under the cap on keys; none when all may.
    fn admit(
        &mut self,
        bench: &Workbench,
        input: &RecordBatch,
        states: &[RecordBatch],
        input_rows: &[u32],
        output: &mut WindowOutput,
    ) -> Result<Option<BooleanArray>> {
        let mut new: BTreeMap<PaneId, usize> = BTreeMap::new();
        for (id, rows) in states.iter().flat_map(pane_runs) {
            *new.entry(id).or_default() += rows.len();
        }
        let mut full = Vec::new();
        for (id, count) in new {
            let Some(pane) = self.panes.get_mut(&id) else {
                continue;
            };
            if pane.keys_at_most + count <= self.keys_max {
                continue;
            }
            pane.compact(&self.phases, bench)?;
            pane.keys_at_most = keys_of(&self.early.converter(), pane)?.len();
            if pane.keys_at_most + count > self.keys_max {
                full.push(id);
            }
        }
        if full.is_empty() {
            return Ok(None);
        }
        self.admit_in_order(input, input_rows, &full, output)
            .map(Some)
    }

    /// Admits keys in the order of the log until a pane is full.
    fn admit_in_order(
        &mut self,
        input: &RecordBatch,
        input_rows: &[u32],
        full: &[PaneId],
        output: &mut WindowOutput,
    ) -> Result<BooleanArray> {
        let converter = self.early.converter();
        let encoded = converter.encode(input)?;
        let mut known: HashMap<PaneId, HashSet<Vec<u8>>> = HashMap::new();
        for id in full {
            if let Some(pane) = self.panes.get(id) {
                known.insert(*id, keys_of(&converter, pane)?);
            }
        }
        let mut admitted = Vec::with_capacity(input.num_rows());
        for (id, row) in pane_runs(input)
            .into_iter()
            .flat_map(|(id, rows)| rows.map(move |row| (id, row)))
        {
            let Some(keys) = known.get_mut(&id) else {
                admitted.push(true);
                continue;
            };
            let key = encoded.row(row);
            let fits = keys.contains(key.as_ref())
                || (keys.len() < self.keys_max && keys.insert(key.as_ref().to_vec()));
            admitted.push(fits);
            if !fits && let Some(pane) = self.panes.get_mut(&id) {
                pane.overflow += 1;
                if pane.overflow == 1 {
                    output.overflows.push(Overflow {
                        row: input_rows[row],
                        slot: slots(input)[row],
                        detections: self.members.iter().map(|member| member.detection).collect(),
                        start: id.1,
                        end: id.1 + self.pane_ns,
                    });
                }
            }
        }
        Ok(BooleanArray::from(admitted))
    }

    /// The rows as the operators take them.
    fn input(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        included: &[usize],
    ) -> Result<RecordBatch> {
        let indices: Vec<u32> = included
            .iter()
            .map(|shown| rows.shown[*shown].row)
            .collect();
        let narrow = take_rows(&project(rows.batch, &self.needed)?, &indices)?;
        let moments = || included.iter().map(|shown| &rows.shown[*shown].moment);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                moments().map(|moment| floor_to(moment.time, self.pane_ns)),
            )),
            Arc::new(Int64Array::from_iter_values(
                moments().map(|moment| moment.slot),
            )),
        ];
        for column in &self.columns {
            columns.push(match column {
                InputColumn::Key(key) => {
                    let plan = plan_of(set, self.members[0].detection);
                    cut(plan.keys[*key].expr.evaluate(&narrow)?)
                }
                InputColumn::Argument(member, call, argument) => {
                    let plan = plan_of(set, self.members[*member].detection);
                    let argument = argument_of(plan, *call, *argument);
                    let expr = argument.expr().expect("only expressions have columns");
                    cut(expr.evaluate(&narrow)?)
                }
                InputColumn::Time => Arc::new(Int64Array::from_iter_values(
                    moments().map(|moment| moment.time),
                )),
                InputColumn::Condition(condition) => {
                    let condition = &self.conditions[*condition];
                    let flags = &matched[condition.predicate];
                    let own = BooleanBuffer::collect_bool(indices.len(), |row| {
                        flags[indices[row] as usize]
                    });
                    let own = BooleanArray::new(own, None);
                    match condition.filter {
                        None => Arc::new(own),
                        Some((member, call)) => {
                            let plan = plan_of(set, self.members[member].detection);
                            let filter = plan.aggregates[call].filter.as_ref();
                            let verdicts = filter_values(filter, &narrow)?;
                            Arc::new(arrow::compute::and_kleene(&own, &verdicts)?)
                        }
                    }
                }
            });
        }
        Ok(RecordBatch::try_new(
            Arc::clone(&self.input_schema),
            columns,
        )?)
    }

    /// The windows that the rows below `before` have closed.
    fn due(&mut self, rows: &Rows<'_>, before: u32) -> Vec<Due> {
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
    fn fire(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        due: Vec<Due>,
        output: &mut WindowOutput,
    ) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        type BySlot = HashMap<i64, Due>;
        let mut kinds: BTreeMap<WindowSpec, BTreeMap<PaneId, BySlot>> = BTreeMap::new();
        for window in &due {
            // What would have spoken before its end and has not has nothing to say.
            let silent = !self.early.is_idle()
                && !self
                    .early
                    .has_spoken(window.spec, window.start, window.slot);
            if silent {
                continue;
            }
            let starts = kinds.entry(window.spec).or_default();
            starts
                .entry((partition_of(window.slot), window.start))
                .or_default()
                .insert(window.slot, *window);
        }
        for (spec, starts) in kinds {
            let finisher = &self.finishers[&spec];
            let mut states = Vec::new();
            for (id, slots) in &starts {
                let wanted = |slot| slots.contains_key(&slot);
                states.extend(self.states_of(finisher, spec, *id, wanted)?);
            }
            if states.is_empty() {
                continue;
            }
            let finish = &finisher.finish;
            for groups in &finish.run(bench, states)? {
                for member in &finisher.members {
                    for mut word in self.results(set, *member, finish, groups)? {
                        let Some(window) = starts
                            .get(&(partition_of(word.slot), word.start))
                            .and_then(|slots| slots.get(&word.slot))
                        else {
                            continue;
                        };
                        word.row = window.row;
                        word.stepped = window.stepped;
                        word.overflow = self.overflow(word.start, &spec, word.slot);
                        word.repeated = self.early.has_fired(*member, &word);
                        output.words.push(word);
                    }
                }
            }
        }
        self.release(&due);
        Ok(())
    }

    /// The panes of a partition's window.
    pub fn panes_of(
        &self,
        partition: i32,
        start: i64,
        spec: WindowSpec,
    ) -> impl Iterator<Item = &Pane> {
        let window = (partition, start)..(partition, start + spec.size_ns);
        self.panes.range(window).map(|(_, pane)| pane)
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

    /// What all detections would say of a partition's window as it is now, of some slots; by member.
    pub fn words_of(
        &self,
        bench: &Workbench,
        set: &DetectionSet,
        spec: WindowSpec,
        window: PaneId,
        wanted: impl Fn(i64) -> bool,
    ) -> Result<Vec<(usize, Word)>> {
        let finisher = &self.finishers[&spec];
        let finish = &finisher.finish;
        let mut words = Vec::new();
        for groups in finish.run(bench, self.states_of(finisher, spec, window, wanted)?)? {
            for member in &finisher.members {
                let own = self.results(set, *member, finish, &groups)?;
                words.extend(own.into_iter().map(|word| (*member, word)));
            }
        }
        Ok(words)
    }

    /// The windows over a pane that a slot's time has not closed.
    pub fn still_open(&self, pane: i64, high: i64, flush_high: i64) -> Vec<Open> {
        windows_over(&self.specs, pane)
            .filter(|(end, start, _)| !self.closed(*start, *end, high, flush_high))
            .collect()
    }

    /// Rows that a window's panes did not count because of the cap.
    fn overflow(&self, start: i64, spec: &WindowSpec, slot: i64) -> u64 {
        self.panes_of(partition_of(slot), start, *spec)
            .map(|pane| pane.overflow)
            .sum()
    }

    /// What one detection says of finished groups.
    fn results(
        &self,
        set: &DetectionSet,
        member: usize,
        finish: &Finish,
        groups: &RecordBatch,
    ) -> Result<Vec<Word>> {
        let member = &self.members[member];
        let plan = plan_of(set, member.detection);
        let counts = finish
            .column(groups, member.rows)
            .as_primitive::<Int64Type>();
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
        member: &Member,
        finish: &Finish,
        groups: &RecordBatch,
        words: &mut Vec<Word>,
    ) -> Result<()> {
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
        for found in plan.result.run(columns, groups.num_rows())? {
            let row = found.group;
            let start = pane_starts(groups)[row];
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
                slot: slots(groups)[row],
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
                repeated: false,
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
            self.early.close(window.start, window.spec, window.slot);
        }
    }

    fn drop_pane(&mut self, id: PaneId) {
        let Some(pane) = self.panes.remove(&id) else {
            return;
        };
        self.early.drop_pane(id);
        let (partition, start) = id;
        let key = |piece: &u64| (partition, super::store::key(&self.hash, start, *piece));
        self.over.extend(pane.stored.iter().map(key));
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.panes.retain(|(of, _), _| *of != partition);
        self.over.retain(|(of, _)| *of != partition);
        self.open.retain(|slot, _| partition_of(*slot) != partition);
        self.early.forget(partition);
    }

    /// Whether a partition has open windows.
    pub fn waits(&self, partition: i32) -> bool {
        self.open
            .keys()
            .any(|slot| partition_of(*slot) == partition)
    }

    /// Panes, keys and bytes.
    pub fn size(&self) -> (u64, u64, u64) {
        let mut keys = 0;
        let mut bytes = self.early.bytes();
        // Texts are views into buffers that pieces of one batch share.
        let mut shared = HashSet::new();
        for piece in self.panes.values().flat_map(Pane::pieces) {
            keys += piece.num_rows() as u64;
            for column in piece.columns() {
                let Some(texts) = column.as_string_view_opt() else {
                    bytes += column.get_array_memory_size() as u64;
                    continue;
                };
                bytes += size_of_val(&**texts.views()) as u64;
                for buffer in texts.data_buffers() {
                    if shared.insert(buffer.as_ptr()) {
                        bytes += buffer.capacity() as u64;
                    }
                }
            }
        }
        (self.panes.len() as u64, keys, bytes)
    }
}

/// The windows of some kinds that a time lies in.
fn windows_over(specs: &[WindowSpec], time: i64) -> impl Iterator<Item = Open> {
    specs.iter().flat_map(move |spec| {
        spec.starts(time)
            .map(|start| (start + spec.size_ns, start, *spec))
    })
}

/// What becomes of a row.
enum Fate {
    /// It counts in all its windows.
    Counts,
    /// It is too late for some; whether it counts in others.
    Misses { closed: Vec<Open>, counts: bool },
}

/// The start of each row's pane, or window.
pub(super) fn pane_starts(batch: &RecordBatch) -> &[i64] {
    batch.column(0).as_primitive::<Int64Type>().values()
}

/// The panes of rows, one after the other: a pane's rows come in few runs.
pub(super) fn pane_runs(batch: &RecordBatch) -> Vec<(PaneId, Range<usize>)> {
    let mut runs: Vec<(PaneId, Range<usize>)> = Vec::new();
    let places = pane_starts(batch).iter().zip(slots(batch));
    for (row, (start, slot)) in places.enumerate() {
        let id = (partition_of(*slot), *start);
        match runs.last_mut() {
            Some((last, rows)) if *last == id => rows.end += 1,
            _ => runs.push((id, row..row + 1)),
        }
    }
    runs
}

/// The keys of a pane, as bytes.
fn keys_of(converter: &KeyConverter, pane: &Pane) -> Result<HashSet<Vec<u8>>> {
    let mut keys = HashSet::new();
    for piece in pane.pieces() {
        let rows = converter.encode(piece)?;
        keys.extend(rows.iter().map(|row| row.as_ref().to_vec()));
    }
    Ok(keys)
}

/// States by the pane they belong to.
fn by_pane(states: &RecordBatch) -> Result<Vec<(PaneId, RecordBatch)>> {
    let mut rows: BTreeMap<PaneId, Vec<u32>> = BTreeMap::new();
    for (id, run) in pane_runs(states) {
        let run = run.start as u32..run.end as u32;
        rows.entry(id).or_default().extend(run);
    }
    if rows.len() == 1 {
        return Ok(rows.into_keys().map(|id| (id, states.clone())).collect());
    }
    rows.into_iter()
        .map(|(id, rows)| Ok((id, take_rows(states, &rows)?)))
        .collect()
}

/// States of a pane as part of a window.
pub(super) fn in_window(state: &RecordBatch, start: i64) -> Result<RecordBatch> {
    let mut columns = state.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from_value(start, state.num_rows()));
    Ok(RecordBatch::try_new(state.schema(), columns)?)
}

/// An argument of a call; those of its order follow the others.
fn argument_of(plan: &WindowedPlan, call: usize, argument: usize) -> &Argument {
    let call = &plan.aggregates[call];
    match call.arguments.get(argument) {
        Some(argument) => argument,
        None => &call.order_by[argument - call.arguments.len()].0,
    }
}

fn filter_values(filter: Option<&Argument>, rows: &RecordBatch) -> Result<BooleanArray> {
    match filter {
        Some(Argument::Expr { expr, .. }) => Ok(expr.evaluate(rows)?.as_boolean().clone()),
        Some(Argument::Literal(ScalarValue::Boolean(value))) => {
            Ok(std::iter::repeat_n(*value, rows.num_rows()).collect())
        }
        _ => Ok(std::iter::repeat_n(Some(true), rows.num_rows()).collect()),
    }
}

/// Cuts texts that are too long for a window.
fn cut(values: ArrayRef) -> ArrayRef {
    let Some(texts) = values.as_string_view_opt() else {
        return values;
    };
    let long = |view: &u128| *view as u32 as usize > TEXT_BYTES_MAX;
    if !texts.views().iter().any(long) {
        return values;
    }
    let mut builder = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        builder.append_option(text.map(|text| &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]));
    }
    Arc::new(builder.finish())
}

/// A group while it is put together.
struct Layout {
    members: Vec<Member>,
    specs: BTreeSet<WindowSpec>,
    conditions: Vec<Condition>,
    columns: Vec<InputColumn>,
    fields: Vec<Field>,
    /// Expression arguments by what they say: their column.
    arguments: HashMap<String, usize>,
    calls: Vec<Call>,
}

/// One of the group's aggregates.
struct Call {
    label: String,
    source: CallSource,
    condition: usize,
}

#[derive(Clone, Copy)]
enum CallSource {
    /// Member and its aggregate.
    Own(usize, usize),
    Rows,
    LastTime(usize),
}

impl Layout {
    fn of(set: &DetectionSet, places: &[usize], known: &Conditions) -> Self {
        let mut layout = Self {
            members: Vec::new(),
            specs: BTreeSet::new(),
            conditions: Vec::new(),
            columns: Vec::new(),
            fields: vec![
                Field::new("_pane", DataType::Int64, false),
                Field::new("_slot", DataType::Int64, false),
            ],
            arguments: HashMap::new(),
            calls: Vec::new(),
        };
        for (key, spec) in plan_of(set, places[0]).keys.iter().enumerate() {
            layout.column(
                InputColumn::Key(key),
                &format!("k{key}"),
                spec.data_type.clone(),
            );
        }
        let time = layout.column(InputColumn::Time, "_time", DataType::Int64);
        for detection in places {
            layout.add_member(set, *detection, known, time);
        }
        layout
    }

    /// Adds a column of the operators' input; returns its place.
    fn column(&mut self, column: InputColumn, name: &str, data_type: DataType) -> usize {
        self.columns.push(column);
        self.fields.push(Field::new(name, data_type, true));
        self.fields.len() - 1
    }

    fn add_member(
        &mut self,
        set: &DetectionSet,
        detection: usize,
        known: &Conditions,
        time: usize,
    ) {
        let plan = plan_of(set, detection);
        let member = self.members.len();
        let predicate = known.place(set, detection);
        self.specs.insert(plan.spec);
        self.members.push(Member {
            detection,
            spec: plan.spec,
            predicate,
            aggregates: Vec::new(),
            rows: 0,
            last_time: 0,
        });
        let bare = self.condition(predicate, None, String::new());
        let predicate_text = &plan.predicate.text;
        let rows = self.call(format!("rows if {predicate_text}"), CallSource::Rows, bare);
        let last_time = self.call(
            format!("last time if {predicate_text}"),
            CallSource::LastTime(time),
            bare,
        );
        let mut aggregates = Vec::new();
        for (place, call) in plan.aggregates.iter().enumerate() {
            let ordered = call.order_by.iter().map(|(argument, ..)| argument);
            for (index, argument) in call.arguments.iter().chain(ordered).enumerate() {
                if let Argument::Expr {
                    text, data_type, ..
                } = argument
                    && !self.arguments.contains_key(text)
                {
                    let column = InputColumn::Argument(member, place, index);
                    let name = format!("x{}", self.arguments.len());
                    let column = self.column(column, &name, data_type.clone());
                    self.arguments.insert(text.clone(), column);
                }
            }
            let filter = match &call.filter {
                None => (None, String::new()),
                Some(Argument::Expr { text, .. }) => (Some((member, place)), text.clone()),
                Some(Argument::Literal(value)) => (Some((member, place)), value.to_string()),
            };
            if call.counts_rows() {
                aggregates.push(rows);
                continue;
            }
            let condition = self.condition(predicate, filter.0, filter.1.clone());
            let label = format!("{} if {predicate_text} and {}", call.text, filter.1);
            aggregates.push(self.call(label, CallSource::Own(member, place), condition));
        }
        let own = &mut self.members[member];
        (own.aggregates, own.rows, own.last_time) = (aggregates, rows, last_time);
    }

    fn condition(
        &mut self,
        predicate: usize,
        filter: Option<(usize, usize)>,
        text: String,
    ) -> usize {
        let same = |other: &Condition| other.predicate == predicate && other.text == text;
        if let Some(place) = self.conditions.iter().position(same) {
            return place;
        }
        self.conditions.push(Condition {
            predicate,
            filter,
            text,
        });
        self.conditions.len() - 1
    }

    fn call(&mut self, label: String, source: CallSource, condition: usize) -> usize {
        if let Some(place) = self.calls.iter().position(|call| call.label == label) {
            return place;
        }
        self.calls.push(Call {
            label,
            source,
            condition,
        });
        self.calls.len() - 1
    }

    fn into_group(
        mut self,
        bench: &Workbench,
        set: &DetectionSet,
        events: &SchemaRef,
        keys_max: usize,
    ) -> Result<Group> {
        // One condition for all: rows for which it is not true do not come this far.
        let conditional = self.conditions.len() > 1;
        let mut flags = Vec::new();
        if conditional {
            for condition in 0..self.conditions.len() {
                let name = format!("f{condition}");
                flags.push(self.column(
                    InputColumn::Condition(condition),
                    &name,
                    DataType::Boolean,
                ));
            }
        }
        let plan = plan_of(set, self.members[0].detection);
        let keys = plan.keys.len();
        let delay_ns = plan.delay_ns;
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let column = |place: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(place).name(), place))
        };
        let mut built = Vec::new();
        let mut filters = Vec::new();
        let mut call_inputs = Vec::new();
        for (place, call) in self.calls.iter().enumerate() {
            let function = self.build_call(set, call, place, &schema)?;
            let argument = match call.source {
                CallSource::Own(member, own) => {
                    match plan_of(set, self.members[member].detection).aggregates[own]
                        .arguments
                        .first()
                    {
                        Some(Argument::Expr { text, .. }) => Some(self.arguments[text]),
                        _ => None,
                    }
                }
                CallSource::Rows | CallSource::LastTime(_) => None,
            };
            let flag = conditional.then(|| flags[call.condition]);
            call_inputs.push((flag, argument));
            filters.push(flag.map(column));
            built.push(Arc::new(function));
        }
        let group_by = (0..FIXED_COLUMNS + keys)
            .map(|place| (column(place), schema.field(place).name().clone()))
            .collect();
        let phases = Phases::new(
            bench,
            Arc::clone(&schema),
            PhysicalGroupBy::new_single(group_by),
            built,
            filters,
        )?;
        let mut names = BTreeSet::new();
        for member in &self.members {
            names.extend(
                plan_of(set, member.detection)
                    .columns()
                    .into_iter()
                    .map(str::to_owned),
            );
        }
        let needed = events
            .fields()
            .iter()
            .filter(|field| names.contains(field.name()));
        let pane_ns = self
            .specs
            .iter()
            .map(|spec| spec.slide_ns)
            .min()
            .unwrap_or(1);
        let labels: Vec<String> = self.calls.into_iter().map(|call| call.label).collect();
        let hash = super::store::group_hash(plan, pane_ns);
        let mut group = Group {
            specs: self.specs.into_iter().collect(),
            pane_ns,
            delay_ns,
            keys_max,
            conditions: self.conditions,
            columns: self.columns,
            needed: Arc::new(Schema::new(needed.cloned().collect::<Vec<_>>())),
            keys,
            finishers: BTreeMap::new(),
            early: Early::default(),
            members: self.members,
            input_schema: schema,
            phases,
            labels,
            call_inputs,
            panes: BTreeMap::new(),
            open: HashMap::new(),
            hash,
            over: Vec::new(),
            next_piece: 0,
        };
        group.early = Early::new(&group, set)?;
        for spec in group.specs.clone() {
            let finisher = group.finisher(bench, spec)?;
            group.finishers.insert(spec, finisher);
        }
        Ok(group)
    }

    fn build_call(
        &self,
        set: &DetectionSet,
        call: &Call,
        place: usize,
        schema: &SchemaRef,
    ) -> Result<datafusion::physical_expr::aggregate::AggregateFunctionExpr> {
        let column = |place: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(place).name(), place))
        };
        let argument = |argument: &Argument| -> Arc<dyn PhysicalExpr> {
            match argument {
                Argument::Literal(value) => Arc::new(Literal::new(value.clone())),
                Argument::Expr { text, .. } => column(self.arguments[text]),
            }
        };
        // Of a column without nulls: a literal would become an array of its own in each run.
        let each_row = || column(SLOT_COLUMN);
        let builder = match call.source {
            CallSource::Rows => AggregateExprBuilder::new(count_udaf(), vec![each_row()]),
            CallSource::LastTime(time) => AggregateExprBuilder::new(max_udaf(), vec![column(time)]),
            CallSource::Own(member, place) => {
                let own = &plan_of(set, self.members[member].detection).aggregates[place];
                let order_by = own
                    .order_by
                    .iter()
                    .map(|(by, ascending, nulls_first)| PhysicalSortExpr {
                        expr: argument(by),
                        options: arrow::compute::SortOptions {
                            descending: !ascending,
                            nulls_first: *nulls_first,
                        },
                    })
                    .collect();
                let arguments = if own.is_count_star() {
                    vec![each_row()]
                } else {
                    own.arguments.iter().map(argument).collect()
                };
                AggregateExprBuilder::new(Arc::clone(&own.function), arguments).order_by(order_by)
            }
        };
        builder
            .schema(Arc::clone(schema))
            .alias(format!("a{place}"))
            .build()
    }
}
