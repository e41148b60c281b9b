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
        rows: &Rows<'_>,
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
            pane.keys_at_most = Keys::of(&self.early.converter(), pane)?.all.len();
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
        self.admit_in_order(rows, input, &full, output).map(Some)
    }

    /// Admits keys in the order of the log until a pane is full, and beyond that those of hosts that have few.
    fn admit_in_order(
        &mut self,
        rows: &Rows<'_>,
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
        let mut known: HashMap<PaneId, Keys> = HashMap::new();
        for id in full {
            if let Some(pane) = self.panes.get(id) {
                known.insert(*id, Keys::of(&converter, pane)?);
            }
        }
        let among = rows.shown.iter();
        let among: HashMap<u32, usize> =
            among.map(|shown| (shown.row, shown.moment.among)).collect();
        let slots = slots(input);
        let mut admitted = Vec::with_capacity(input.num_rows());
        for (id, row) in pane_runs(input)
            .into_iter()
            .flat_map(|(id, rows)| rows.map(move |row| (id, row)))
        {
            let Some(keys) = known.get_mut(&id) else {
                admitted.push(true);
                continue;
            };
            let among = among.get(&input_rows[row]).copied().unwrap_or(0);
            let fits = keys.admit(encoded.row(row).as_ref(), slots[row], self.keys_max, among);
            admitted.push(fits);
            if !fits && let Some(pane) = self.panes.get_mut(&id) {
                pane.overflow += 1;
                if pane.overflow == 1 {
                    output.overflows.push(Overflow {
                        row: input_rows[row],
                        slot: slots[row],
                        detections: self.members.iter().map(|member| member.detection).collect(),
                        start: id.1,
                        end: id.1 + self.pane_ns,
                        bytes: None,
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

/// Least number of hosts among which what is kept for them is shared.
const SHARED_BY: usize = 8;

/// The keys of a pane, as bytes.
#[derive(Default)]
struct Keys {
    all: HashSet<Vec<u8>>,
    /// How many of them each slot has.
    own: HashMap<i64, usize>,
}

impl Keys {
    fn of(converter: &KeyConverter, pane: &Pane) -> Result<Self> {
        let mut keys = Self::default();
        for piece in pane.pieces() {
            let rows = converter.encode(piece)?;
            for (key, slot) in rows.iter().zip(slots(piece)) {
                keys.insert(key.as_ref(), *slot);
            }
        }
        Ok(keys)
    }

    fn insert(&mut self, key: &[u8], slot: i64) {
        if !self.all.contains(key) {
            self.all.insert(key.to_vec());
            *self.own.entry(slot).or_default() += 1;
        }
    }

    /// Says whether a key counts, and takes it in: one that is there, one for which there is room, and one of a host that is
    /// known, has few and is `among` so many. Half as many keys as the cap are kept for these, so whoever floods a pane, or
    /// invents hosts for it, leaves each of the others its share.
    fn admit(&mut self, key: &[u8], slot: i64, keys_max: usize, among: usize) -> bool {
        if self.all.contains(key) {
            return true;
        }
        let kept = keys_max / 2;
        let own = self.own.get(&slot).copied().unwrap_or(0);
        let has_share = among > 0 && own < kept / among.max(SHARED_BY);
        let fits = self.all.len() < keys_max || has_share && self.all.len() < keys_max + kept;
        if fits {
            self.insert(key, slot);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of keys, each of a host that is among so many.
    fn admitted(keys: &mut Keys, keys_max: usize, offered: &[(i64, u8, usize)]) -> Vec<bool> {
        let offered = offered.iter();
        offered
            .map(|(slot, key, among)| keys.admit(&[*slot as u8, *key], *slot, keys_max, *among))
            .collect()
    }

    #[test]
    fn a_flood_leaves_each_known_host_its_share() {
        let mut keys = Keys::default();
        // A hundred invented hosts, of which none is known.
        let flood: Vec<(i64, u8, usize)> = (100..200).map(|slot| (slot, 0, 0)).collect();
        let taken = admitted(&mut keys, 64, &flood);
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 64);
        // Of 32 that are kept, each of eight known hosts has four, and no more.
        for slot in 0..8 {
            let own: Vec<(i64, u8, usize)> = (0..6).map(|key| (slot, key, 2)).collect();
            let taken = admitted(&mut keys, 64, &own);
            assert_eq!(taken, [true, true, true, true, false, false], "{slot}");
        }
        assert_eq!(admitted(&mut keys, 64, &[(9, 0, 2)]), [false]);
        // What is there counts on.
        assert_eq!(
            admitted(&mut keys, 64, &[(100, 0, 0), (3, 2, 0)]),
            [true, true]
        );
    }

    #[test]
    fn who_has_more_than_a_share_leaves_the_others_theirs() {
        let mut keys = Keys::default();
        let own: Vec<(i64, u8, usize)> = (0..80).map(|key| (1, key, 2)).collect();
        let taken = admitted(&mut keys, 64, &own);
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 64);
        assert_eq!(
            admitted(&mut keys, 64, &[(2, 0, 2), (2, 1, 2)]),
            [true, true]
        );
        // Of many hosts each has less, and where there are more hosts than keys none.
        assert_eq!(
            admitted(&mut keys, 64, &[(3, 0, 32), (3, 1, 32)]),
            [true, false]
        );
        assert_eq!(admitted(&mut keys, 64, &[(4, 0, 33)]), [false]);
    }
}
