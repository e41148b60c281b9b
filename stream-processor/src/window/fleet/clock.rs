//! How far each source is, and so how far all are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::Head;
use crate::hosts::SECOND_NS;

/// What a source said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    number: i64,
    /// The record of that second that came last, and how many it has.
    place: u32,
    places: u32,
    watermark: i64,
    /// How many partitions of the exchange it knows of.
    partitions: i32,
}

impl Known {
    /// Whether a record is the one after this.
    fn is_before(&self, head: &Head) -> bool {
        match head.place {
            0 => head.previous == Some(self.number) && self.place + 1 == self.places,
            place => head.number == self.number && place == self.place + 1,
        }
    }
}

/// The sources.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Those whose time is waited for, heard of or not.
    expected: BTreeSet<i32>,
    known: BTreeMap<i32, Known>,
}

/// What a source was known to have said before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// How far all its hosts were; the beginning of time where nothing of it was known.
    pub known_to: i64,
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
        before: Before,
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
        let at = (head.number, head.place);
        if last.is_some_and(|last| at <= (last.number, last.place)) {
            return Accepted::Repeated;
        }
        let follows = match last {
            Some(last) => last.is_before(head),
            None => head.previous.is_none() && head.place == 0,
        };
        let known_to = last.map_or(i64::MIN, |last| last.watermark);
        let missing = (!follows).then(|| Missing {
            known_to,
            to: head.number.saturating_mul(SECOND_NS),
            seconds: last.map_or(1, |last| (head.number - last.number - 1).max(1)),
        });
        // What it sends for open windows has come when the last record of the second has.
        let whole = head.place + 1 == head.places;
        let watermark = if whole { head.watermark } else { i64::MIN };
        let known = Known {
            number: head.number,
            place: head.place,
            places: head.places,
            watermark: watermark.max(known_to),
            partitions: head.partitions,
        };
        self.known.insert(head.partition, known);
        Accepted::Next {
            before: Before { known_to },
            missing,
        }
    }

    /// Whether another source knows of another number of partitions of the exchange.
    pub fn disagrees(&self, head: &Head) -> bool {
        let mut known = self.known.values();
        known.any(|known| known.partitions != head.partitions)
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

    /// For each source the end of its last second, nanoseconds, if it was heard of.
    pub fn heard(&self) -> BTreeMap<i32, Option<i64>> {
        let end = |known: &Known| known.number.saturating_add(1).saturating_mul(SECOND_NS);
        let sources = self.expected.iter().chain(self.known.keys());
        sources
            .map(|source| (*source, self.known.get(source).map(end)))
            .collect()
    }

    /// The end of the latest second of a source, nanoseconds; the beginning of time where none said anything.
    pub fn latest(&self) -> i64 {
        let latest = self.known.values().map(|known| known.number).max();
        let end = |number: i64| number.saturating_add(1).saturating_mul(SECOND_NS);
        latest.map_or(i64::MIN, end)
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

    /// Forgets sources beyond those that are expected: of a topic that was made anew with fewer partitions.
    pub fn forget_gone(&mut self) {
        let last = self.expected.last().copied();
        self.known.retain(|source, _| Some(*source) <= last);
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
            place: 0,
            places: 1,
            partitions: 1,
            carried: Vec::new(),
            holes: Holes::default(),
            parts: Vec::new(),
        }
    }

    fn next(known_to: i64, missing: Option<Missing>) -> Accepted {
        Accepted::Next {
            before: Before { known_to },
            missing,
        }
    }

    #[test]
    fn the_slowest_source_is_waited_for_repeats_are_dropped_and_gaps_are_told() {
        let mut clock = Clock::default();
        clock.expect(&[0, 1]);
        assert_eq!(clock.accept(&head(0, 10, None, 9)), next(i64::MIN, None));
        assert_eq!(clock.watermark(), i64::MIN, "one said nothing yet");
        assert_eq!(clock.accept(&head(1, 12, None, 3)), next(i64::MIN, None));
        assert_eq!(clock.watermark(), 3);
        assert_eq!(clock.accept(&head(1, 12, None, 90)), Accepted::Repeated);
        assert_eq!(clock.accept(&head(1, 13, Some(12), 90)), next(3, None));
        assert_eq!(clock.watermark(), 9);
        let missing = Missing {
            known_to: 9,
            to: 17 * SECOND_NS,
            seconds: 6,
        };
        let gap = next(9, Some(missing));
        assert_eq!(clock.accept(&head(0, 17, Some(15), 20)), gap);
        let mut again = Clock::default();
        again.expect(&[0, 1]);
        again
            .restore(&clock.store().expect("JSON"))
            .expect("a clock");
        assert_eq!((again.watermark(), again.known), (20, clock.known));
    }

    #[test]
    fn a_second_of_several_records_counts_when_the_last_has_come() {
        let mut clock = Clock::default();
        clock.expect(&[0]);
        let part = |number, previous, place, watermark| Head {
            place,
            places: 2,
            ..head(0, number, previous, watermark)
        };
        assert_eq!(clock.accept(&part(10, None, 0, 9)), next(i64::MIN, None));
        assert_eq!(clock.watermark(), i64::MIN);
        assert_eq!(clock.accept(&part(10, None, 1, 9)), next(i64::MIN, None));
        assert_eq!(clock.watermark(), 9);
        assert_eq!(clock.accept(&part(10, None, 0, 9)), Accepted::Repeated);
        // Of the next second one record never comes.
        clock.accept(&part(11, Some(10), 0, 15));
        let missing = Missing {
            known_to: 9,
            to: 12 * SECOND_NS,
            seconds: 1,
        };
        assert_eq!(
            clock.accept(&part(12, Some(11), 0, 20)),
            next(9, Some(missing))
        );
    }
}
