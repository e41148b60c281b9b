//! Which rows count, and where: windows that are open for them, rows that are late, the cap on keys.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use datafusion::common::{HashMap, HashSet, Result};

use super::input::Input;
use super::layout::Member;
use super::{Group, Open, pane_runs};
use crate::detect::window::{WindowSpec, floor_to};
use crate::detect::{DetectionSet, Unjudged};
use crate::hosts::{Moment, partition_of};
use crate::window::early::KeyConverter;
use crate::window::pane::{Pane, PaneId, slots};
use crate::window::plans::Workbench;
use crate::window::{Missed, Overflow, Rows, Shown, WindowOutput};

/// What becomes of a row.
pub(super) enum Fate {
    /// It counts in all its windows.
    Counts,
    /// It is too late for some; whether it counts in others.
    Misses { closed: Vec<Open>, counts: bool },
}

impl Group {
    /// Which windows a row counts in. Opens those that it is the first row of; `placed` is the pane of each slot's last row.
    pub(super) fn place(&mut self, moment: &Moment, placed: &mut HashMap<i64, i64>) -> Fate {
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

    pub(super) fn is_open(&self, slot: i64, window: &Open) -> bool {
        self.open
            .get(&slot)
            .is_some_and(|open| open.contains(window))
    }

    /// The windows over a pane that a slot's time has not closed.
    pub fn still_open(&self, pane: i64, high: i64, flush_high: i64) -> Vec<Open> {
        windows_over(&self.specs, pane)
            .filter(|(end, start, _)| !self.closed(*start, *end, high, flush_high))
            .collect()
    }

    /// Notes what a row was too late for, and what cannot judge it.
    pub(super) fn miss(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        shown: usize,
        matched: &[Vec<bool>],
        closed: &[Open],
        output: &mut WindowOutput,
    ) -> Result<()> {
        let Shown { row, moment } = &rows.shown[shown];
        for (place, guard) in self.guards.iter().enumerate() {
            let late = |member: &&Member| {
                member.guard == place && closed.iter().any(|(_, _, spec)| *spec == member.spec)
            };
            let members: Vec<&Member> = self.members.iter().filter(late).collect();
            if members.is_empty() || !matched[guard.predicate][*row as usize] {
                continue;
            }
            if let Some(error) = self.fault_of(set, rows, *row, place)? {
                output
                    .unjudged
                    .extend(members.iter().map(|member| Unjudged {
                        detection: member.detection,
                        row: *row,
                        error: error.clone(),
                    }));
                continue;
            }
            let missed: &mut Missed = output.late.entry(*row).or_default();
            missed
                .detections
                .extend(members.iter().map(|member| member.detection));
            missed.late_ns = missed.late_ns.max(moment.high.saturating_sub(moment.time));
        }
        Ok(())
    }

    /// Which rows may count under the cap on keys; none when all may.
    pub(super) fn admit(
        &mut self,
        bench: &Workbench,
        input: &Input,
        states: &[RecordBatch],
        output: &mut WindowOutput,
    ) -> Result<Option<BooleanArray>> {
        let mut new: BTreeMap<PaneId, usize> = BTreeMap::new();
        for (id, rows) in states.iter().flat_map(pane_runs) {
            *new.entry(id).or_default() += rows.len();
        }
        let (mut full, mut crowded) = (Vec::new(), Vec::new());
        for (id, count) in new {
            let Some(pane) = self.panes.get_mut(&id) else {
                continue;
            };
            if pane.keys_at_most + count <= self.keys_max {
                continue;
            }
            if let Err(error) = pane.compact(&self.phases, bench) {
                crowded.push((id, error));
            }
            pane.keys_at_most = keys_of(&self.early.converter(), pane)?.len();
            if pane.keys_at_most + count > self.keys_max {
                full.push(id);
            }
        }
        let row = input.rows.last().copied().unwrap_or(u32::MAX);
        for (id, error) in crowded {
            self.note_crowded(id, row, &error);
        }
        if full.is_empty() {
            return Ok(None);
        }
        self.admit_in_order(input, &full, output).map(Some)
    }

    /// Admits keys in the order of the log until a pane is full.
    fn admit_in_order(
        &mut self,
        input: &Input,
        full: &[PaneId],
        output: &mut WindowOutput,
    ) -> Result<BooleanArray> {
        let converter = self.early.converter();
        let Input {
            batch: input,
            rows: input_rows,
        } = input;
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
}

/// The windows of some kinds that a time lies in.
fn windows_over(specs: &[WindowSpec], time: i64) -> impl Iterator<Item = Open> {
    specs.iter().flat_map(move |spec| {
        spec.starts(time)
            .map(|start| (start + spec.size_ns, start, *spec))
    })
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
