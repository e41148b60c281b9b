//! Detections over windows that share panes: equal keys, equal delay, and windows of one slide.
//!
//! ```text
//! rows ─► admit: late? one key too many? ─► input: keys, arguments, conditions ─► partial states ─► early ─► panes
//!                                                              time goes on ─► close: HAVING, SELECT ─► words
//! ```
//! Those that fire early are kept apart from those that speak at the close: the close reads all states of a window again,
//! and of the former it needs only those of the few that have spoken.
//! Their aggregates stand side by side in one state, each under the condition of its detection; equal ones stand there once
//! ([`layout`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::{HashMap, HashSet, Result};
use dogwatch_schemas::Text;

use super::conditions::Conditions;
use super::early::{Counted, Crossing, CrossingFinisher, Early, KeyStates};
use super::fired::{Fired, SlotWindow};
use super::pane::{Pane, PaneId, slots};
use super::plans::{Phases, Workbench};
use super::store::StoredStates;
use super::{Progress, Rows, WindowOutput};
use crate::detect::window::WindowSpec;
use crate::detect::windowed::WindowedPlan;
use crate::detect::{DetectionSet, by_halves, error_text, take_rows};
use crate::hosts::partition_of;

mod admit;
mod close;
mod fleet;
mod input;
mod layout;
mod off;
mod room;

pub(super) use layout::arrange;

use admit::Fate;
use close::{Due, Finisher};
use input::Input;
use layout::{Condition, Guard, InputColumn, Layout, Member, Source};
use off::{Off, Trouble};

/// What a mark of a window that has fired takes beside the text of its keys.
const MARK_BYTES: u64 = 128;

/// Columns of states before the keys: pane and slot.
pub(super) const FIXED_COLUMNS: usize = 2;

/// An open window of a slot: end, start and which of the group's windows it is.
pub(super) type Open = (i64, i64, WindowSpec);

/// Detections that share panes.
pub(super) struct Group {
    pub members: Vec<Member>,
    specs: Vec<WindowSpec>,
    pub pane_ns: i64,
    delay_ns: i64,
    pub keys_max: usize,
    guards: Vec<Guard>,
    conditions: Vec<Condition>,
    sources: Vec<Source>,
    columns: Vec<InputColumn>,
    pub input_schema: SchemaRef,
    /// The columns of events that keys and arguments read.
    needed: SchemaRef,
    pub keys: usize,
    pub phases: Phases,
    /// What finishes the windows of each kind.
    finishers: BTreeMap<WindowSpec, Finisher>,
    /// How its states are stored.
    pub stored: StoredStates,
    /// For each aggregate, the input columns of its condition and of its first argument, where it has them.
    pub call_inputs: Vec<(Option<usize>, Option<usize>)>,
    pub panes: BTreeMap<PaneId, Pane>,
    pub open: HashMap<i64, BTreeSet<Open>>,
    pub early: Early,
    pub fired: Fired,
    /// Windows that were open when a detection whose threshold may be another one took them over: that they have not fired
    /// does not say that they do not reach it.
    pub unsure: HashSet<SlotWindow>,
    /// Members that had another text when rows were told that are replayed now, by partition and place.
    pub replayed: BTreeMap<(i32, usize), Replay>,
    /// From when on members speak, by partition and place; those that are not named do always.
    pub since: BTreeMap<(i32, usize), i64>,
    /// Name of the group's states.
    pub hash: String,
    /// Panes that are over since a partition's last checkpoint: the keys of their stored pieces.
    pub over: Vec<(i32, String)>,
    pub next_piece: u64,
    pub off: Off,
    /// Bytes that came to each partition since they were asked for, at most.
    pub came: BTreeMap<i32, u64>,
    /// Partitions of which no further keys fire before their windows are over: what has fired takes as much as it may.
    fired_full: BTreeSet<i32>,
}

/// Rows that are only replayed, and were told under another text.
#[derive(Debug)]
pub(super) struct Replay {
    /// The hash of that text; none where it is not known what it said.
    pub content: Option<Text>,
    /// The first row of the batch that is not only replayed; beyond all rows while the replay goes on.
    pub until: u32,
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

    /// Takes the next rows; `matched` says for each condition which of them it is true for.
    pub fn step(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        output: &mut WindowOutput,
    ) -> Result<()> {
        let own: BTreeSet<usize> = self.guards.iter().map(|guard| guard.predicate).collect();
        let mut by_any = vec![false; rows.batch.num_rows()];
        for predicate in own {
            let both = by_any.iter_mut().zip(&matched[predicate]);
            both.for_each(|(any, own)| *any |= own);
        }
        let sizes = self.specs.iter().map(|spec| spec.size_ns);
        let reach_ns = sizes.max().unwrap_or(0).saturating_add(self.delay_ns);
        let candidates: Vec<usize> = (0..rows.shown.len())
            .filter(|shown| by_any[rows.shown[*shown].row as usize])
            .filter(|shown| self.off.admits(&rows.shown[*shown].moment, reach_ns))
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
                        self.miss(set, rows, *shown, matched, &closed, output)?;
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
                // A replay that ended in this batch is over.
                self.replayed.retain(|_, replay| replay.until == u32::MAX);
                return self.settle(rows.progress, rows.last(), output);
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
        self.fire(bench, set, due, output)?;
        self.settle(&Progress::default(), row, output)
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
        let mut input = self.input(set, rows, matched, included, &mut output.unjudged)?;
        let mut states = self.partial(bench, &input);
        if let Some(admitted) = self.admit(bench, rows, &input, &states, output)? {
            input = input.only(&admitted)?;
            states = self.partial(bench, &input);
        }
        let counted: Result<Vec<_>> = states
            .into_iter()
            .map(|states| self.early.take_in(states))
            .collect();
        let counted = counted?;
        self.cross(bench, set, &input, &counted, output)?;
        let row = input.rows.last().copied().unwrap_or(u32::MAX);
        for counted in &counted {
            self.push(bench, counted, row)?;
        }
        Ok(())
    }

    /// The states of rows; of so many at once as memory allows.
    fn partial(&mut self, bench: &Workbench, input: &Input) -> Vec<RecordBatch> {
        let mut states = Vec::new();
        let (phases, off) = (&self.phases, &mut self.off);
        let mut run = |part: &RecordBatch| phases.partial(bench, part.clone());
        by_halves(
            &input.batch,
            &mut run,
            &mut |start, _, result| match result {
                Ok(part) => states.extend(part),
                Err(error) => off.note(Trouble {
                    slot: slots(&input.batch)[start],
                    row: input.rows[start],
                    time: pane_starts(&input.batch)[start],
                    error: error_text(&error),
                }),
            },
        );
        states
    }

    /// Lets early firing look at the rows before they are in the panes.
    fn cross(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        input: &Input,
        counted: &[Counted],
        output: &mut WindowOutput,
    ) -> Result<()> {
        if self.early.is_idle() {
            return Ok(());
        }
        let mut early = std::mem::take(&mut self.early);
        let looked = early.look(self, &input.batch, &input.rows, counted);
        self.early = early;
        let (crossings, states) = looked?;
        let mut of_members: BTreeMap<usize, Vec<Crossing>> = BTreeMap::new();
        for crossing in crossings {
            let own = of_members.entry(crossing.member).or_default();
            own.push(crossing);
        }
        for (member, crossings) in of_members {
            let crossed = (&states, crossings.as_slice());
            self.fire_early(bench, set, &input.batch, member, crossed, output)?;
        }
        Ok(())
    }

    /// Makes the results of a detection's windows that have crossed their threshold.
    fn fire_early(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        input: &RecordBatch,
        member: usize,
        (states, crossings): (&KeyStates, &[Crossing]),
        output: &mut WindowOutput,
    ) -> Result<()> {
        let spec = self.members[member].spec;
        let finish = &self.finishers[&spec].finish;
        let finisher = CrossingFinisher {
            group: self,
            bench,
            finish,
            states,
            input,
        };
        let finished = finisher.run(crossings);
        let place = |crossing: &Crossing| {
            let keys = finisher.keys(crossing);
            ((crossing.slot, crossing.start, keys), crossing.row)
        };
        let rows: HashMap<(i64, i64, String), u32> = crossings.iter().map(place).collect();
        let mut words = Vec::with_capacity(crossings.len());
        for groups in &finished.groups {
            words.extend(self.results(set, member, finish, groups)?);
        }
        for (crossing, error) in finished.failed {
            self.off.note(Trouble {
                slot: crossing.slot,
                row: crossing.row,
                time: crossing.start,
                error: error_text(&error),
            });
        }
        for mut word in words {
            let place = (word.slot, word.start, word.keys.clone());
            let Some(row) = rows.get(&place) else {
                continue;
            };
            let (start, slot) = (word.start, word.slot);
            if self.fired.under(member, start, slot, &word.keys).is_some() {
                continue;
            }
            let replay = self.replayed.get(&(partition_of(slot), member));
            let replay = replay.filter(|replay| *row < replay.until);
            if replay.is_some_and(|replay| replay.content.is_none()) {
                // Whether it was told is not known: its end tells.
                self.unsure.insert((spec, start, slot));
                continue;
            }
            word.fired_under = replay.and_then(|replay| replay.content.clone());
            if self.fired_full.contains(&partition_of(slot)) {
                // Its end tells, also after a restart: the pane says that something is amiss.
                self.unsure.insert((spec, start, slot));
                let panes = (partition_of(slot), start)..(partition_of(slot), start + spec.size_ns);
                if let Some((_, pane)) = self.panes.range_mut(panes).next_back() {
                    pane.overflow += 1;
                }
                continue;
            }
            let under = word.fired_under.as_ref();
            *self.came.entry(partition_of(slot)).or_default() +=
                word.keys.len() as u64 + MARK_BYTES;
            self.fired.fire(member, (start, slot), &word.keys, under);
            word.row = *row;
            word.closed = false;
            word.overflow = self.overflow(word.start, &spec, word.slot);
            output.words.push(word);
        }
        Ok(())
    }

    /// Adds states to their panes.
    pub fn push(&mut self, bench: &Workbench, counted: &Counted, row: u32) -> Result<()> {
        self.early.count(counted);
        for (id, piece) in by_pane(&counted.states)? {
            self.note_came(id.0, &piece);
            let pane = self.panes.entry(id).or_default();
            if let Err(error) = pane.push(&self.phases, bench, piece) {
                self.note_crowded(id, row, &error);
            }
        }
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

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.panes.retain(|(of, _), _| *of != partition);
        self.over.retain(|(of, _)| *of != partition);
        self.open.retain(|slot, _| partition_of(*slot) != partition);
        self.early.forget(partition);
        self.fired.forget(partition);
        self.unsure
            .retain(|(_, _, slot)| partition_of(*slot) != partition);
        self.since.retain(|(of, _), _| *of != partition);
        self.replayed.retain(|(of, _), _| *of != partition);
        self.off.forget(partition);
        self.came.remove(&partition);
        self.fired_full.remove(&partition);
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
        let mut bytes = self.early.bytes() + self.fired.size();
        // Texts are views into buffers that pieces of one batch share.
        let mut shared = HashSet::new();
        for (piece, carried) in self.panes.values().flat_map(all_pieces) {
            keys += if carried { 0 } else { piece.num_rows() as u64 };
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

/// The states of a pane, and whether they are only carried.
fn all_pieces(pane: &Pane) -> impl Iterator<Item = (&RecordBatch, bool)> {
    let own = pane.pieces().map(|piece| (piece, false));
    own.chain(pane.carried().map(|piece| (piece, true)))
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
