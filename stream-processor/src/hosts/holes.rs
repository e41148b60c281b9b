//! Where in a host's time events are lost.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

/// Most holes remembered for a host's timeline; beyond them the two that are closest become one.
pub(super) const HOLES_MAX: usize = 16;
/// Most classes of losses that a sensor tells of, and that a hole has beside [`OTHER`].
pub(crate) const CLASSES_MAX: usize = 16;
/// Longest name of a class of losses, bytes; more is cut.
pub(crate) const CLASS_BYTES_MAX: usize = 64;
/// What of other classes is counted by, where there are too many.
pub(super) const OTHER: &str = "other";
/// What stands beside a text in memory, about.
pub(super) const TEXT_BYTES: usize = 48;

/// Events lost, by class.
pub(crate) type Losses = BTreeMap<Text, i64>;

/// A range of a host's time in which events are lost, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hole {
    pub from: i64,
    pub to: i64,
    pub lost: Losses,
}

/// Where events of a host are lost, in the order of their beginnings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holes(Vec<Hole>);

impl Holes {
    /// What is lost, at most, from one time to before another.
    pub fn between(&self, start: i64, end: i64) -> Losses {
        let mut losses = Losses::new();
        let own = self
            .0
            .iter()
            .filter(|hole| hole.from < end && hole.to >= start);
        for hole in own {
            count(&mut losses, &hole.lost);
        }
        losses
    }

    /// Notes what is lost from one time to another.
    pub fn note(&mut self, from: i64, to: i64, lost: Losses) {
        self.add(Hole { from, to, lost });
    }

    /// Notes the holes of others.
    pub fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|hole| self.add(hole.clone()));
    }

    /// Forgets holes that end before a time.
    pub fn forget_before(&mut self, time: i64) {
        self.0.retain(|hole| hole.to >= time);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes a hole, unless nothing is lost in it.
    pub(super) fn add(&mut self, hole: Hole) {
        if hole.lost.is_empty() {
            return;
        }
        let place = self.0.partition_point(|other| other.from <= hole.from);
        self.0.insert(place, hole);
        if self.0.len() > HOLES_MAX {
            self.join_closest();
        }
    }

    /// Ends those that have no end yet.
    pub(super) fn end_at(&mut self, time: i64) {
        let open = self.0.iter_mut().filter(|hole| hole.to == i64::MAX);
        open.for_each(|hole| hole.to = time.max(hole.from));
    }

    /// Makes one hole of the two that are closest; whether there were two.
    pub(super) fn join_closest(&mut self) -> bool {
        let gap = |pair: &usize| {
            let (left, right) = (&self.0[*pair], &self.0[*pair + 1]);
            right.from.saturating_sub(left.to)
        };
        let Some(pair) = (0..self.0.len().saturating_sub(1)).min_by_key(gap) else {
            return false;
        };
        let right = self.0.remove(pair + 1);
        let left = &mut self.0[pair];
        left.to = left.to.max(right.to);
        count(&mut left.lost, &right.lost);
        true
    }

    /// Counts all that each hole lost as one class; whether that makes them smaller.
    pub(super) fn sum_classes(&mut self) -> bool {
        let sums = self.0.iter_mut().map(|hole| sum_classes(&mut hole.lost));
        sums.fold(false, |any, summed| any | summed)
    }

    /// Bytes it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let own = self.0.iter();
        own.map(|hole| size_of::<Hole>() + losses_bytes(&hole.lost))
            .sum()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Adds losses to others; beyond [`CLASSES_MAX`] classes what is new is counted as [`OTHER`].
fn count(sum: &mut Losses, more: &Losses) {
    for (class, more) in more {
        let known = sum.len() < CLASSES_MAX || sum.contains_key(class);
        let class = if known { class.clone() } else { OTHER.into() };
        let count = sum.entry(class).or_default();
        *count = count.saturating_add(*more);
    }
}

/// Counts all classes as one; whether there were others.
pub(super) fn sum_classes(losses: &mut Losses) -> bool {
    let is_sum = losses.keys().all(|class| &**class == OTHER);
    if !is_sum {
        let all = losses
            .values()
            .fold(0, |all: i64, count| all.saturating_add(*count));
        *losses = Losses::from([(OTHER.into(), all)]);
    }
    !is_sum
}

/// Bytes that losses take, about.
pub(super) fn losses_bytes(losses: &Losses) -> usize {
    losses.keys().map(|class| class.len() + TEXT_BYTES).sum()
}
