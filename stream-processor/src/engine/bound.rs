//! How much memory a task can take in all.

use super::{Engine, fold, throttle};
use crate::hosts::{HOST_BYTES_MAX, HOSTS_MAX};
use crate::window::{self, Bound};

/// Bytes that a task remembers at most beside its windows: hosts, first alerts of periods, minutes of throttling, windows whose
/// first alert was counted.
pub const BESIDE_WINDOWS: u64 = (HOSTS_MAX * HOST_BYTES_MAX) as u64
    + fold::PERIODS_BYTES_MAX
    + (throttle::MINUTES_MAX * MINUTE_BYTES + fold::COUNTED_MAX * COUNTED_BYTES) as u64;
/// Bytes of a minute of throttling.
const MINUTE_BYTES: usize = 512;
/// Bytes of a window whose first alert was counted.
const COUNTED_BYTES: usize = 128;

impl Engine {
    /// How much memory each detection over windows can take in one task, by name.
    #[must_use]
    pub fn bounds(&self) -> Vec<(&str, Bound)> {
        window::bounds(&self.whole, self.options.keys_max)
    }

    /// The cap on keys.
    #[must_use]
    pub fn keys_max(&self) -> usize {
        self.options.keys_max
    }

    /// How many bytes the tasks of one number can take in all, one of each table: their windows, and what is remembered beside
    /// them.
    #[must_use]
    pub fn task_bound(&self) -> u64 {
        let others = self.others.iter().map(Self::own_bound);
        others.fold(self.own_bound(), u64::saturating_add)
    }

    /// How many bytes a task of its own table can take.
    pub(super) fn own_bound(&self) -> u64 {
        let windows = window::bounds(&self.set, self.options.keys_max).into_iter();
        let windows = windows.map(|(_, bound)| bound.bytes());
        windows.fold(BESIDE_WINDOWS, u64::saturating_add)
    }

    /// What is remembered beside windows by the tasks of one number.
    fn beside_windows(&self) -> u64 {
        BESIDE_WINDOWS.saturating_mul(1 + self.others.len() as u64)
    }

    /// The cap on keys with which the tasks of so many numbers would take so many bytes; none where what is beside windows takes
    /// them all, or nothing hangs on keys.
    #[must_use]
    pub fn keys_max_within(&self, tasks: u64, bytes: u64) -> Option<u64> {
        let left = (bytes / tasks.max(1)).checked_sub(self.beside_windows())?;
        let bounds = self.bounds().into_iter();
        let a_key = bounds.map(|(_, bound)| bound.panes.saturating_mul(bound.key_bytes));
        let a_key: u64 = a_key.fold(0, u64::saturating_add);
        // Half as many again are kept for hosts that have few.
        let keys = (left / 3).checked_div(a_key)?.saturating_mul(2);
        (keys > 0).then_some(keys)
    }
}
