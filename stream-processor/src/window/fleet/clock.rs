//! How far each source is, and so how far all are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::Head;
use crate::hosts::SECOND_NS;

/// What a source said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    number: i64,
    watermark: i64,
}

/// The sources.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Those whose time is waited for, heard of or not.
    expected: BTreeSet<i32>,
    known: BTreeMap<i32, Known>,
}

/// Seconds that a source sent no record of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// How far all its hosts were known to be.
    pub known_to: i64,
    /// The end of the last of them, nanoseconds.
    pub to: i64,
    /// How many there are at most, where that is known.
    pub seconds: i64,
}

/// What a record is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It was there before.
    Repeated,
    Next {
        missing: Option<Missing>,
    },
}

impl Clock {
    pub fn expect(&mut self, sources: &[i32]) {
        self.expected = sources.iter().copied().collect();
    }

    /// Takes the next record of a source.
    pub fn accept(&mut self, head: &Head) -> Accepted {
        let last = self.known.get(&head.partition).copied();
        if last.is_some_and(|last| head.number <= last.number) {
            return Accepted::Repeated;
        }
        let missing = (head.previous != last.map(|last| last.number)).then(|| Missing {
            known_to: last.map_or(i64::MIN, |last| last.watermark),
            to: head.number.saturating_mul(SECOND_NS),
            seconds: last.map_or(1, |last| head.number - last.number - 1),
        });
        let known = Known {
            number: head.number,
            watermark: head.watermark,
        };
        self.known.insert(head.partition, known);
        Accepted::Next { missing }
    }

    /// How far all sources are; at the beginning of time while one that is waited for said nothing.
    pub fn watermark(&self) -> i64 {
        if self
            .expected
            .iter()
            .any(|source| !self.known.contains_key(source))
        {
            return i64::MIN;
        }
        let known = self.known.values().map(|known| known.watermark);
        known.min().unwrap_or(i64::MIN)
    }

    /// The end of the latest second of a source, nanoseconds; the beginning of time where none said anything.
    pub fn latest(&self) -> i64 {
        let latest = self.known.values().map(|known| known.number).max();
        let end = |number: i64| (number + 1).saturating_mul(SECOND_NS);
        latest.map_or(i64::MIN, end)
    }

    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// As it is stored.
    ///
    /// # Errors
    /// When it is no JSON, which it is.
    pub fn store(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.known)
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn restore(&mut self, stored: &[u8]) -> serde_json::Result<()> {
        self.known = serde_json::from_slice(stored)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Holes;

    fn head(partition: i32, number: i64, previous: Option<i64>, watermark: i64) -> Head {
        Head {
            topic: "events".to_owned(),
            partition,
            number,
            previous,
            watermark,
            holes: Holes::default(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn the_slowest_source_is_waited_for_repeats_are_dropped_and_gaps_are_told() {
        let mut clock = Clock::default();
        clock.expect(&[0, 1]);
        let next = Accepted::Next { missing: None };
        assert_eq!(clock.accept(&head(0, 10, None, 9)), next);
        assert_eq!(clock.watermark(), i64::MIN, "one said nothing yet");
        assert_eq!(clock.accept(&head(1, 12, None, 3)), next);
        assert_eq!(clock.watermark(), 3);
        assert_eq!(clock.accept(&head(1, 12, None, 90)), Accepted::Repeated);
        assert_eq!(clock.accept(&head(1, 13, Some(12), 90)), next);
        assert_eq!(clock.watermark(), 9);
        let missing = Missing {
            known_to: 9,
            to: 17 * SECOND_NS,
            seconds: 6,
        };
        let gap = Accepted::Next {
            missing: Some(missing),
        };
        assert_eq!(clock.accept(&head(0, 17, Some(15), 20)), gap);
        let mut again = Clock::default();
        again.expect(&[0, 1]);
        again
            .restore(&clock.store().expect("JSON"))
            .expect("a clock");
        assert_eq!((again.watermark(), again.known), (20, clock.known));
    }
}
