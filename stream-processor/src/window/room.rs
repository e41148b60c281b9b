//! Room: how many bytes the states of a task's windows take, and which keys go where it is more than they may.
//!
//! ```text
//! step ─► bytes that came ─► held + came > cap? ─► measured: more than 7/8? ─► keys go until it is 3/4
//! ```
//! By host first: those that stay share what there is among them before others have any of it, and who has less than its share
//! loses nothing. Of a host those keys go that have the fewest rows, the latest first; windows that lose keys say so.
//! It happens between two steps of a task, never while it replays, and the caller stores the task with the step: so whoever
//! goes on with it has the same keys.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::{HashMap, Result};

use super::{Overflow, Placed, WindowOutput, Windows};

/// Of a full task's bytes so many eighths may be held when they are measured.
const HELD_EIGHTHS: u64 = 7;
/// So many are left when keys go.
const LEFT_EIGHTHS: u64 = 6;
/// What a key takes beside the bytes of its states: its place in hash tables and lists.
pub(super) const KEY_BESIDE: usize = 48;
/// The part of a task's bytes that one second of a detection of the fleet may take before it is flushed.
const SECOND_PART: u64 = 16;
/// The part of a task's bytes that marks of what has fired may take.
pub(super) const FIRED_PART: u64 = 4;

/// Bytes of a detection's second, where a task has so many.
pub(crate) fn second_bytes(state_bytes_max: u64) -> u64 {
    state_bytes_max / SECOND_PART
}

/// How full a task is, as far as it is known.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Fill {
    /// Bytes when they were measured last.
    held: u64,
    /// Bytes that came since, at most.
    came: u64,
}

/// How many bytes each of some may keep, so that they have no more than `all` together and none loses while it has less than
/// the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level(u64);

impl Level {
    fn of(mut bytes: Vec<u64>, all: u64) -> Self {
        bytes.sort_unstable();
        let mut left = all;
        let mut count = bytes.len() as u64;
        for own in bytes {
            let share = left / count;
            if own > share {
                return Self(share);
            }
            left -= own;
            count -= 1;
        }
        Self(u64::MAX)
    }
}

/// What each slot of a task may keep of what it has.
#[derive(Debug)]
pub(super) struct Shares {
    /// What it has, and what it may keep of it.
    slots: HashMap<i64, (u64, u64)>,
}

impl Shares {
    /// Of so many bytes for all; `known` says who stays.
    fn new(held: &HashMap<i64, u64>, all: u64, known: &dyn Fn(i64) -> bool) -> Self {
        let all_held = held.iter().map(|(slot, bytes)| (*slot, *bytes));
        let (stay, others): (Vec<_>, Vec<_>) = all_held.partition(|(slot, _)| known(*slot));
        let sizes = |some: &[(i64, u64)]| -> Vec<u64> { some.iter().map(|own| own.1).collect() };
        let of_others: u64 = sizes(&others).iter().sum();
        let for_those = all.saturating_sub(of_others).max(all / 2);
        let mut slots = HashMap::new();
        let mut left = all;
        for (some, all) in [(stay, Some(for_those)), (others, None)] {
            let level = Level::of(sizes(&some), all.unwrap_or(left));
            for (slot, held) in some {
                let kept = held.min(level.0);
                left = left.saturating_sub(kept);
                slots.insert(slot, (held, kept));
            }
        }
        Self { slots }
    }

    /// How many of so many bytes of a slot it may keep.
    pub fn keeps(&self, slot: i64, bytes: u64) -> u64 {
        let Some((held, kept)) = self.slots.get(&slot) else {
            return bytes;
        };
        let kept = u128::from(bytes) * u128::from(*kept) / u128::from(*held).max(1);
        kept as u64
    }

    /// Whether a slot loses something.
    pub fn loses(&self, slot: i64) -> bool {
        self.slots
            .get(&slot)
            .is_some_and(|(held, kept)| kept < held)
    }
}

impl Windows {
    /// The tasks whose windows may hold more than they may, as far as it is known without measuring.
    pub fn full(&mut self) -> Vec<i32> {
        self.note_fired_over();
        let came = self.groups.iter_mut();
        let mut came: Vec<(i32, u64)> = came
            .flat_map(|placed| std::mem::take(&mut placed.group.came))
            .collect();
        came.extend(self.fleet.came());
        for (task, bytes) in came {
            self.fills.entry(task).or_default().came += bytes;
        }
        let fills = self.fills.iter();
        let full = fills.filter(|(_, fill)| fill.held + fill.came > self.state_bytes_max);
        full.map(|(task, _)| *task).collect()
    }

    /// Measures what a task's windows hold, and takes keys out where that is too much, at a row; says whether any went.
    ///
    /// # Errors
    /// When states cannot be taken apart.
    pub fn make_room(
        &mut self,
        task: i32,
        row: u32,
        known: &dyn Fn(i64) -> bool,
        output: &mut WindowOutput,
    ) -> Result<bool> {
        let held = self.held(task);
        let eighth = self.state_bytes_max / 8;
        let fired_full = self.is_fired_full(task);
        for placed in &mut self.groups {
            placed.group.note_fired_full(task, fired_full);
        }
        let sheds = held > HELD_EIGHTHS * eighth;
        if sheds {
            self.shed(task, row, LEFT_EIGHTHS * eighth, known, output)?;
        }
        let held = if sheds { self.held(task) } else { held };
        self.fills.insert(task, Fill { held, came: 0 });
        Ok(sheds)
    }

    /// Bytes that a task's windows hold.
    pub fn held(&self, task: i32) -> u64 {
        let groups = self.groups.iter();
        let keys = groups.map(|placed| placed.group.held(task).values().sum::<u64>());
        keys.sum::<u64>() + self.beside(task) + self.fleet.held(task, self.state_bytes_max)
    }

    /// Bytes that a task's windows take beside their keys, as far as they count: no key that goes makes them fewer, so they
    /// leave the keys at least half of what there is after some have gone.
    fn beside(&self, task: i32) -> u64 {
        let groups = self.groups.iter();
        let all: u64 = groups.map(|placed| placed.group.held_beside(task)).sum();
        all.min(self.state_bytes_max / 8 * LEFT_EIGHTHS / 2)
    }

    /// Whether what has fired in a task takes as much as it may.
    pub fn is_fired_full(&self, task: i32) -> bool {
        self.fired_bytes(task) > self.state_bytes_max / FIRED_PART
    }

    /// Lets tasks fire early again whose windows that have fired are over. Most are over while the task is not full, so this
    /// does not wait until the task is measured.
    fn note_fired_over(&mut self) {
        let groups = self.groups.iter();
        let noted: BTreeSet<i32> = groups
            .flat_map(|placed| placed.group.fired_full_tasks())
            .collect();
        for task in noted {
            if self.is_fired_full(task) {
                continue;
            }
            for placed in &mut self.groups {
                placed.group.note_fired_full(task, false);
            }
        }
    }

    fn fired_bytes(&self, task: i32) -> u64 {
        let groups = self.groups.iter();
        groups.map(|placed| placed.group.fired.size_of(task)).sum()
    }

    /// Takes keys out until a task's windows hold so many bytes.
    fn shed(
        &mut self,
        task: i32,
        row: u32,
        bytes: u64,
        known: &dyn Fn(i64) -> bool,
        output: &mut WindowOutput,
    ) -> Result<()> {
        let mut held: HashMap<i64, u64> = HashMap::new();
        for Placed { group, .. } in &self.groups {
            for (slot, bytes) in group.held(task) {
                *held.entry(slot).or_default() += bytes;
            }
        }
        self.fleet.shed(task, bytes, self.state_bytes_max)?;
        let all = bytes.saturating_sub(self.beside(task));
        let shares = Shares::new(&held, all, known);
        for Placed { group, .. } in &mut self.groups {
            let lost = group.shed(task, &shares)?;
            let most = lost
                .slots
                .iter()
                .max_by_key(|(slot, keys)| (**keys, **slot));
            if let (Some((slot, _)), Some((first, last))) = (most, lost.panes) {
                output.overflows.push(Overflow {
                    row,
                    slot: *slot,
                    detections: group.members.iter().map(|own| own.detection).collect(),
                    start: first,
                    end: last.saturating_add(group.pane_ns),
                    bytes: Some(self.state_bytes_max),
                });
            }
        }
        Ok(())
    }

    /// Forgets how full a task is.
    pub(super) fn forget_fill(&mut self, task: i32) {
        self.fills.remove(&task);
    }
}

/// A key of a pane, and what it has.
#[derive(Debug)]
pub(super) struct Held<P> {
    pub pane: P,
    pub hash: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// The keys that go, so that the others take no more than so many bytes. Those with the most rows stay, and of equal ones those
/// of the oldest panes.
pub(super) fn going<P: Ord + Copy>(mut keys: Vec<Held<P>>, bytes: u64) -> Vec<Held<P>> {
    keys.sort_unstable_by_key(|key| (Reverse(key.rows), key.pane, key.hash));
    let mut left = bytes;
    keys.retain(|key| {
        let rest = left.checked_sub(key.bytes);
        left = rest.unwrap_or(0);
        rest.is_none()
    });
    keys
}

/// Keys that went, of a group.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// How many of each slot.
    pub slots: BTreeMap<i64, u64>,
    /// The first and the last pane that had some and is told of now: one that lost rows before was told of then.
    pub panes: Option<(i64, i64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_than_a_share_keeps_it() {
        assert_eq!(Level::of(vec![10, 20, 300], 90), Level(60));
        assert_eq!(Level::of(vec![10, 20, 30], 60), Level(u64::MAX));
        assert_eq!(Level::of(vec![50, 50], 60), Level(30));
        assert_eq!(Level::of(Vec::new(), 0), Level(u64::MAX));
    }

    #[test]
    fn who_stays_has_its_share_before_others() {
        let held = HashMap::from([(1, 40), (2, 100), (10, 1_000), (11, 1_000)]);
        let shares = Shares::new(&held, 200, &|slot| slot < 10);
        // Half is for the two that stay: one keeps all of it, the other what is left; the others share the rest.
        assert_eq!(shares.keeps(1, 40), 40);
        assert_eq!(shares.keeps(2, 100), 60);
        assert_eq!(shares.keeps(10, 1_000), 50);
        assert_eq!(shares.keeps(11, 500), 25);
        assert!(!shares.loses(1) && shares.loses(2) && shares.loses(10));
        // Where others leave room it is theirs, too.
        let held = HashMap::from([(1, 150), (10, 20), (11, 30)]);
        let shares = Shares::new(&held, 200, &|slot| slot < 10);
        assert!([1, 10, 11].iter().all(|slot| !shares.loses(*slot)));
    }
}
