//! Troubles that go on: each is told at once, then at growing intervals with how often it came meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a trouble is not told again after the first time; each further pause is three times as long.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A trouble that did not come for so long, and for a whole pause, is a new one.
const OVER: Duration = Duration::from_secs(600);
/// Most troubles that are remembered; beyond it all are forgotten, and told again.
const TROUBLES_MAX: usize = 1_024;

/// What was told, by what it is about.
#[derive(Debug)]
pub struct Recurring<K>(BTreeMap<K, Told>);

#[derive(Debug)]
struct Told {
    at: Instant,
    pause: Duration,
    /// When it came last.
    last: Instant,
    /// How often it came since it was told.
    held: u64,
}

impl<K> Default for Recurring<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Recurring<K> {
    /// Notes that a trouble came so many times. When it is to be told now, returns how often it came since it was told
    /// last, these times included.
    pub fn note(&mut self, trouble: K, times: u64, now: Instant) -> Option<u64> {
        if let Some(told) = self.0.get_mut(&trouble) {
            return told.note(times, now);
        }
        if self.0.len() >= TROUBLES_MAX {
            self.0.clear();
        }
        let told = Told {
            at: now,
            pause: PAUSE_FIRST,
            last: now,
            held: 0,
        };
        self.0.insert(trouble, told);
        Some(times)
    }
}

impl Told {
    fn note(&mut self, times: u64, now: Instant) -> Option<u64> {
        let silence = now.duration_since(std::mem::replace(&mut self.last, now));
        self.held += times;
        if now.duration_since(self.at) < self.pause {
            return None;
        }
        self.pause = match silence >= self.pause.max(OVER) {
            true => PAUSE_FIRST,
            false => (self.pause * 3).min(PAUSE_MAX),
        };
        self.at = now;
        Some(std::mem::take(&mut self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_goes_on_is_told_at_growing_intervals_with_its_count() {
        let start = Instant::now();
        let mut recurring = Recurring::default();
        let mut told = Vec::new();
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            if let Some(times) = recurring.note("x", 2, now) {
                told.push((second, times));
            }
        }
        let first = [(0, 2), (10, 20), (40, 60), (130, 180), (400, 540)];
        assert_eq!(told[..5], first);
        assert_eq!(told.len(), 8, "{told:?}");
        // Another trouble is told at once, and this one after an hour at most.
        let now = start + Duration::from_secs(10_000);
        assert_eq!(recurring.note("y", 1, now), Some(1));
        let later = now + PAUSE_MAX;
        assert!(recurring.note("x", 1, later).is_some());
        // It has begun anew.
        let soon = later + PAUSE_FIRST;
        assert_eq!(recurring.note("x", 1, soon), Some(1));
    }

    #[test]
    fn what_comes_now_and_then_is_not_told_each_time() {
        let start = Instant::now();
        let mut recurring = Recurring::default();
        let times = (0..180).map(|minute| start + Duration::from_secs(minute * 60));
        let told = times.filter_map(|now| recurring.note("x", 1, now)).count();
        assert!(told < 12, "{told}");
    }

    #[test]
    fn a_bound_on_troubles_is_kept() {
        let mut recurring = Recurring::default();
        for trouble in 0..5_000 {
            assert_eq!(recurring.note(trouble, 1, Instant::now()), Some(1));
        }
        assert!(recurring.0.len() <= TROUBLES_MAX);
    }
}
