//! How much memory a task can take in all, and what keeps its windows within that.

use std::collections::BTreeSet;

use super::{Engine, EngineError, StepOutput, fold, throttle};
use crate::decode::InputRecord;
use crate::detect::DetectionSet;
use crate::hosts::{HOSTS_BYTES_MAX, task_of};
use crate::tables::Table;
use crate::window::{self, WindowOptions, WindowOutput};

/// Bytes that a task remembers at most beside windows and hosts: first alerts of periods, minutes of throttling, windows whose
/// first alert was counted.
const ALERTS_BYTES: u64 = fold::PERIODS_BYTES_MAX
    + throttle::MINUTES_MAX * MINUTE_BYTES
    + fold::COUNTED_MAX * COUNTED_BYTES;
/// Bytes of the hosts of a task.
const HOSTS_BYTES: u64 = HOSTS_BYTES_MAX as u64;
/// Bytes of a minute of throttling.
const MINUTE_BYTES: u64 = 512;
/// Bytes of a window whose first alert was counted.
const COUNTED_BYTES: u64 = 128;

/// A table of samples has one in so many of the bytes for repeats and minutes of alerts: few detections read it.
const SAMPLES_ALERTS_PART: u64 = 4;

/// Of what a task of events may take for repeats and minutes of alerts, one of this table has one in so many.
pub(super) fn part_of_alerts(table: Table) -> u64 {
    match table {
        Table::Events => 1,
        _ => SAMPLES_ALERTS_PART,
    }
}

/// Bytes that a task of a table remembers at most beside windows.
fn beside_windows(table: Table) -> u64 {
    HOSTS_BYTES + ALERTS_BYTES / part_of_alerts(table)
}

/// How many bytes tasks can take. Where a great many windows are open, what they take beside their keys comes on top: it counts
/// for a part of the windows' bytes at most, so that it does not push all keys out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskBound {
    /// The tasks of a number, one of each table.
    pub of_hosts: u64,
    /// By table: bytes of a task that finishes windows of the fleet, and how many of them there are at most.
    fleet: [(u64, u64); Table::ALL.len()],
}

impl TaskBound {
    /// Of tasks that run a set.
    #[must_use]
    pub fn new(set: &DetectionSet, options: &WindowOptions) -> Self {
        let mut bound = Self::default();
        for table in set.tables() {
            bound.add(set, table, &options.of_table(table));
        }
        bound
    }

    /// Adds those of a table, with its own options.
    fn add(&mut self, set: &DetectionSet, table: Table, options: &WindowOptions) {
        let of_fleet = set.of_fleet().filter(|own| own.table == table);
        let of_fleet = of_fleet.count() as u64;
        let windows = options.state_bytes_max;
        let seconds = of_fleet.saturating_mul(window::second_bytes(windows));
        let of_hosts = beside_windows(table)
            .saturating_add(windows)
            .saturating_add(seconds);
        self.of_hosts = self.of_hosts.saturating_add(of_hosts);
        if of_fleet > 0 {
            let a_task = windows.saturating_add(ALERTS_BYTES / part_of_alerts(table));
            // All of a detection is finished by one task.
            self.fleet[table as usize] = (a_task, of_fleet);
        }
    }

    /// One task that finishes windows of the whole fleet, of all tables.
    #[must_use]
    pub fn of_fleet(&self) -> u64 {
        self.finishing(1)
    }

    /// So many tasks that finish windows of the whole fleet.
    fn finishing(&self, tasks: u64) -> u64 {
        let all = self.fleet.iter();
        let all = all.map(|(bytes, most)| bytes.saturating_mul(tasks.min(*most)));
        all.fold(0, u64::saturating_add)
    }

    /// Of so many tasks of hosts, and all of the fleet.
    #[must_use]
    pub fn of(self, tasks: u64) -> u64 {
        let of_hosts = self.of_hosts.saturating_mul(tasks);
        of_hosts.saturating_add(self.finishing(tasks))
    }
}

impl Engine {
    /// How many bytes the tasks of one number can take in all, one of each table: their windows, and what is remembered beside
    /// them.
    #[must_use]
    pub fn task_bound(&self) -> TaskBound {
        TaskBound::new(&self.whole, &self.options)
    }

    /// How many bytes a task of its own table can take.
    pub(super) fn own_bound(&self) -> TaskBound {
        let mut bound = TaskBound::default();
        bound.add(&self.set, self.set.table(), &self.options);
        bound
    }

    /// The largest `windows.state_bytes_max`, in whole MiB, with which so many tasks take so many bytes; none where there is none.
    #[must_use]
    pub fn state_bytes_within(&self, tasks: u64, bytes: u64) -> Option<u64> {
        let needed = |mib: u64| {
            let options = WindowOptions {
                state_bytes_max: mib << 20,
                ..self.options
            };
            TaskBound::new(&self.whole, &options).of(tasks)
        };
        let (mut fits, mut too_many) = (0, (self.options.state_bytes_max >> 20) + 1);
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            match needed(middle) <= bytes {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        (fits > 0).then_some(fits << 20)
    }

    /// Takes keys out of the windows of tasks that hold more than they may. It is done where nothing is replayed, and these
    /// tasks are stored with the step: whoever goes on with them holds the same.
    pub(super) fn make_room(
        &mut self,
        records: &[InputRecord],
        windows: &mut WindowOutput,
        output: &mut StepOutput,
    ) -> Result<(), EngineError> {
        let replayed: BTreeSet<i32> = self.live_from.keys().map(|log| task_of(*log)).collect();
        let full = self.windows.full().into_iter();
        for task in full.filter(|task| !replayed.contains(task)) {
            let hosts = &self.hosts;
            let stays = |slot| hosts.stays(slot);
            let row = last_row(records, task);
            if self.windows.make_room(task, row, &stays, windows)? {
                output.to_be_stored.insert(self.log_of_task(task));
            }
        }
        Ok(())
    }
}

/// The last row of a task; the last of all where it has none. An alert at another task's row would be muted with that task.
pub(super) fn last_row(records: &[InputRecord], task: i32) -> u32 {
    let own = records
        .iter()
        .rposition(|record| task_of(record.log()) == task);
    own.unwrap_or(records.len().saturating_sub(1)) as u32
}
