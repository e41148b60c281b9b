//! Detections that are switched off for a while, because an operator failed: for the host that is the cause, and where
//! there are many such hosts, for a whole task.
//!
//! Memory that operators take depends on how the log is cut into steps, so when they fail does too. A pause begins after
//! the step, which stores it in its own transaction: a replay begins behind it, and does the same. It ends by the host's
//! own time, and what the windows missed is said of each that it touches.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::{DataFusionError, HashMap, Result};
use serde::{Deserialize, Serialize};

use super::{Group, pane_starts};
use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::detect::error_text;
use crate::hosts::{Moment, partition_of};
use crate::window::pane::{PaneId, slots};
use crate::window::{Progress, SwitchedOff, WindowOutput};

/// How long a pause lasts, of the host's time, nanoseconds.
pub(super) const PAUSE_NS: i64 = 600_000_000_000;
/// With more hosts paused than this the whole task is: then it is not the hosts.
const HOSTS_MAX: usize = 8;
/// What the names of stored pauses begin with.
pub(in crate::window) const PREFIX: &str = "off/";

/// Who is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// A host's slot.
    Host(i64),
    /// A partition.
    Task(i32),
}

impl Who {
    fn partition(self) -> i32 {
        match self {
            Self::Host(slot) => partition_of(slot),
            Self::Task(partition) => partition,
        }
    }

    /// Its name in its task.
    fn name(self) -> String {
        match self {
            Self::Host(slot) => (slot as u32).to_string(),
            Self::Task(_) => "all".to_owned(),
        }
    }

    fn named(partition: i32, name: &str) -> Option<Self> {
        if name == "all" {
            return Some(Self::Task(partition));
        }
        let number: u32 = name.parse().ok()?;
        Some(Self::Host((i64::from(partition) << 32) | i64::from(number)))
    }
}

/// A pause.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Pause {
    /// Rows from this time on count again.
    until: i64,
    /// Rows that did not count.
    skipped: u64,
}

/// An operator failed.
#[derive(Debug)]
pub(in crate::window) struct Trouble {
    pub slot: i64,
    /// The row after which it did.
    pub row: u32,
    /// The host's time then, where nothing later is known.
    pub time: i64,
    pub error: String,
}

/// The pauses of a group.
#[derive(Debug, Default)]
pub(in crate::window) struct Off {
    pauses: BTreeMap<Who, Pause>,
    /// Those that changed since the last checkpoint of their task.
    changed: BTreeSet<Who>,
    /// What failed in the turn that is not over.
    troubles: Vec<Trouble>,
}

impl Off {
    /// Notes that an operator failed.
    pub fn note(&mut self, trouble: Trouble) {
        self.troubles.push(trouble);
    }

    /// Whether a row may count; `reach_ns` is how long a pause is remembered after it.
    pub fn admits(&mut self, moment: &Moment, reach_ns: i64) -> bool {
        if self.pauses.is_empty() {
            return true;
        }
        let mut admits = true;
        for who in [Who::Host(moment.slot), Who::Task(partition_of(moment.slot))] {
            let Some(pause) = self.pauses.get_mut(&who) else {
                continue;
            };
            if moment.time < pause.until {
                pause.skipped += 1;
                self.changed.insert(who);
                admits = false;
            } else if pause.until.saturating_add(reach_ns) <= moment.high {
                self.pauses.remove(&who);
                self.changed.insert(who);
            }
        }
        admits
    }

    /// Rows that a slot's window which starts here does not hold.
    pub fn skipped(&self, slot: i64, start: i64) -> u64 {
        let pauses = [Who::Host(slot), Who::Task(partition_of(slot))];
        let own = pauses.iter().filter_map(|who| self.pauses.get(who));
        own.filter(|pause| start < pause.until)
            .map(|pause| pause.skipped)
            .sum()
    }

    fn pause(&mut self, who: Who, until: i64) {
        let skipped = self.pauses.get(&who).map_or(0, |pause| pause.skipped);
        self.pauses.insert(who, Pause { until, skipped });
        self.changed.insert(who);
    }

    /// How many hosts of a task are paused.
    fn hosts(&self, partition: i32) -> usize {
        let own = self.pauses.keys();
        own.filter(|who| matches!(who, Who::Host(slot) if partition_of(*slot) == partition))
            .count()
    }

    /// What changed in a partition since the last call, and the pieces that are to be written anew.
    pub fn store(&mut self, group: &str, partition: i32, renewal: &Renewal) -> Vec<StateRecord> {
        let prefix = format!("{PREFIX}{group}/");
        let anew = renewal.below(&prefix);
        let anew = anew.filter_map(|name| Who::named(partition, name));
        let known: BTreeSet<Who> = anew.filter(|who| self.pauses.contains_key(who)).collect();
        self.changed.extend(known);
        let (own, others) = std::mem::take(&mut self.changed)
            .into_iter()
            .partition(|who| who.partition() == partition);
        self.changed = others;
        let own: BTreeSet<Who> = own;
        let record = |who: Who| StateRecord {
            key: format!("{prefix}{}", who.name()),
            value: self
                .pauses
                .get(&who)
                .and_then(|pause| serde_json::to_vec(pause).ok()),
        };
        own.into_iter().map(record).collect()
    }

    /// Takes a partition's pauses back, out of its state.
    pub fn restore(&mut self, group: &str, partition: i32, state: &mut State) {
        for (name, value) in take_below(state, &format!("{PREFIX}{group}/")) {
            let who = Who::named(partition, &name);
            if let (Some(who), Ok(pause)) = (who, serde_json::from_slice(&value)) {
                self.pauses.insert(who, pause);
            }
        }
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.pauses.retain(|who, _| who.partition() != partition);
        self.changed.retain(|who| who.partition() != partition);
        self.troubles.clear();
    }
}

impl Group {
    /// Notes that a pane is too large to be merged: the host with most keys in it is the cause.
    pub(super) fn note_crowded(&mut self, id: PaneId, row: u32, error: &DataFusionError) {
        let mut keys: HashMap<i64, usize> = HashMap::new();
        let pieces = self.panes.get(&id).into_iter();
        for slot in pieces.flat_map(|pane| pane.pieces()).flat_map(slots) {
            *keys.entry(*slot).or_default() += 1;
        }
        let most = keys.into_iter().max_by_key(|(slot, keys)| (*keys, *slot));
        let slot = most.map_or(i64::from(id.0) << 32, |(slot, _)| slot);
        self.off.note(Trouble {
            slot,
            row,
            time: id.1.saturating_add(self.pane_ns),
            error: error_text(error),
        });
    }

    /// Ends a turn, whose last row is `last`: what made operators fail in it is switched off.
    pub(super) fn settle(
        &mut self,
        progress: &Progress,
        last: u32,
        output: &mut WindowOutput,
    ) -> Result<()> {
        let mut seen = BTreeSet::new();
        for trouble in std::mem::take(&mut self.off.troubles) {
            if !seen.insert(trouble.slot) {
                continue;
            }
            let time = progress
                .at(trouble.slot, u32::MAX)
                .map_or(trouble.time, |high| high.max(trouble.time));
            let until = time.saturating_add(PAUSE_NS);
            let partition = partition_of(trouble.slot);
            let host = self.off.hosts(partition) < HOSTS_MAX;
            if host {
                self.off.pause(Who::Host(trouble.slot), until);
                self.drop_host(trouble.slot)?;
            } else {
                self.off.pause(Who::Task(partition), until);
                self.clear(partition);
            }
            output.off.push(SwitchedOff {
                row: trouble.row.min(last),
                slot: trouble.slot,
                of_host: host,
                detections: self.detections(),
                time,
                until,
                error: trouble.error,
            });
        }
        Ok(())
    }

    /// Switches off everything in the partitions of a step that failed as a whole; `times` holds a slot of each, and its time.
    pub fn switch_off(
        &mut self,
        times: &[(i64, i64)],
        row: u32,
        error: &DataFusionError,
        output: &mut WindowOutput,
    ) {
        self.off.troubles.clear();
        let mut latest: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        for (slot, time) in times {
            let own = latest.entry(partition_of(*slot)).or_insert((*slot, *time));
            own.1 = own.1.max(*time);
        }
        for (partition, (slot, time)) in latest {
            let until = time.saturating_add(PAUSE_NS);
            self.off.pause(Who::Task(partition), until);
            self.clear(partition);
            output.off.push(SwitchedOff {
                row,
                slot,
                of_host: false,
                detections: self.detections(),
                time,
                until,
                error: error_text(error),
            });
        }
    }

    fn detections(&self) -> Vec<usize> {
        self.members.iter().map(|member| member.detection).collect()
    }

    /// Lets go of all windows of a partition; the pieces that are stored of them are ended with the next checkpoint.
    fn clear(&mut self, partition: i32) {
        let own = self
            .panes
            .range((partition, i64::MIN)..=(partition, i64::MAX));
        let own: Vec<PaneId> = own.map(|(id, _)| *id).collect();
        own.into_iter().for_each(|id| self.drop_pane(id));
        self.open.retain(|slot, _| partition_of(*slot) != partition);
        self.early.forget(partition);
        self.over.extend(self.fired.clear(partition));
    }

    /// Lets go of all windows of a host, and of its keys in the panes that others share.
    fn drop_host(&mut self, slot: i64) -> Result<()> {
        self.open.remove(&slot);
        self.over.extend(self.fired.forget_slot(slot));
        let partition = partition_of(slot);
        let own = self
            .panes
            .range((partition, i64::MIN)..=(partition, i64::MAX));
        let own: Vec<PaneId> = own.map(|(id, _)| *id).collect();
        for id in own {
            let Some(pane) = self.panes.get_mut(&id) else {
                continue;
            };
            pane.slots.remove(&slot);
            if pane.slots.is_empty() {
                self.drop_pane(id);
            } else {
                pane.filter(|piece| without(piece, slot))?;
            }
        }
        self.early.forget_slot(slot)
    }
}

/// States without those of a slot.
fn without(piece: &RecordBatch, slot: i64) -> Result<RecordBatch> {
    debug_assert_eq!(pane_starts(piece).len(), piece.num_rows());
    let others: BooleanArray = slots(piece).iter().map(|own| Some(*own != slot)).collect();
    Ok(filter_record_batch(piece, &others)?)
}
