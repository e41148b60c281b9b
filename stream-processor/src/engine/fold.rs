//! Folding of repeats: the first alerts of a period are said, the rest is counted, and the count is said at the period's end.
//!
//! Periods run in the host's own time, so what is folded does not depend on when it was read.
//! The first alert of a period is stored once, when the period begins; of each repeat only counts are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Alert;

use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::detect::Dedup;
use crate::hosts::partition_of;

/// Most periods that run in a task; beyond them alerts are said unfolded.
const PERIODS_MAX: usize = 20_000;
/// What the names of stored periods begin with: when it ends, and its first alert.
const PERIOD: &str = "period/";
/// What the names of the counts of stored periods begin with.
const COUNTS: &str = "count/";
/// What the names of stored first words begin with that were counted and not said.
const COUNTED: &str = "counted/";

/// What becomes of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Say,
    Count,
}

/// The periods of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Folds {
    slots: HashMap<i64, Periods>,
    running: HashMap<i32, usize>,
    /// Ids of windows whose first word was counted: their last word is not said either.
    counted: HashMap<i32, BTreeSet<Text>>,
    /// What changed since a task's last checkpoint.
    dirty: BTreeSet<(i64, Text, Part)>,
    dirty_counted: BTreeSet<(i32, Text)>,
}

/// The periods that run in a slot.
#[derive(Debug, Default)]
struct Periods {
    by_key: BTreeMap<Text, Period>,
    /// When the first of them ends: asked for each alert, so that it must not be looked for.
    first_end: Option<i64>,
}

impl Periods {
    fn insert(&mut self, key: Text, period: Period) {
        let first = self.first_end.map_or(period.end, |end| end.min(period.end));
        self.first_end = Some(first);
        self.by_key.insert(key, period);
    }

    /// Takes out those that are over at a time.
    fn take_over(&mut self, until: i64) -> BTreeMap<Text, Period> {
        let over = self
            .by_key
            .extract_if(.., |_, period| period.end <= until)
            .collect();
        let ends = self.by_key.values().map(|period| period.end);
        self.first_end = ends.min();
        over
    }
}

#[derive(Debug, Clone)]
struct Period {
    end: i64,
    said: u64,
    folded: i64,
    /// The first alert, framed.
    first: Vec<u8>,
}

/// Which of a period's two records changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Period,
    Counts,
}

impl Part {
    fn prefix(self) -> &'static str {
        match self {
            Self::Period => PERIOD,
            Self::Counts => COUNTS,
        }
    }

    /// As it is stored: whole numbers, the least significant byte first.
    fn of(self, period: &Period) -> Vec<u8> {
        match self {
            Self::Period => [&period.end.to_le_bytes(), &period.first[..]].concat(),
            Self::Counts => [period.said.to_le_bytes(), period.folded.to_le_bytes()].concat(),
        }
    }
}

impl Period {
    /// A period as it was stored; counts that were never stored are those of one that has just begun.
    fn restored(period: &[u8], counts: Option<&Vec<u8>>) -> Option<Self> {
        let (end, first) = period.split_first_chunk()?;
        let (said, folded) = match counts {
            None => (1, 0),
            Some(counts) => {
                let (said, rest) = counts.split_first_chunk()?;
                let folded = rest.first_chunk()?;
                (u64::from_le_bytes(*said), i64::from_le_bytes(*folded))
            }
        };
        Some(Self {
            end: i64::from_le_bytes(*end),
            said,
            folded,
            first: first.to_vec(),
        })
    }
}

impl Folds {
    /// Takes an alert of a detection that folds, at its host's time; periods that are over by then must have been ended.
    pub fn take(&mut self, slot: i64, time: i64, dedup: &Dedup, alert: &Alert) -> Verdict {
        let Some(period) = dedup.period else {
            return Verdict::Say;
        };
        let key = &alert.dedup_key;
        let periods = self.slots.entry(slot).or_default();
        let Some(known) = periods.by_key.get_mut(key) else {
            let running = self.running.entry(partition_of(slot)).or_default();
            if *running < PERIODS_MAX {
                *running += 1;
                let mut first = Vec::new();
                alert.encode_framed(&mut first);
                let length = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX);
                let begun = Period {
                    end: time.saturating_add(length),
                    said: 1,
                    folded: 0,
                    first,
                };
                periods.insert(key.clone(), begun);
                self.dirty.insert((slot, key.clone(), Part::Period));
            }
            return Verdict::Say;
        };
        self.dirty.insert((slot, key.clone(), Part::Counts));
        if known.said < dedup.limit {
            known.said += 1;
            return Verdict::Say;
        }
        known.folded += 1;
        Verdict::Count
    }

    /// Counts a finding of the engine's own when it repeats one of a period that runs; also when no further period has room,
    /// since nobody needs more of them than of alerts.
    pub fn repeats(&mut self, slot: i64, key: &str) -> bool {
        let periods = self.slots.get_mut(&slot);
        if let Some(period) = periods.and_then(|periods| periods.by_key.get_mut(key)) {
            period.folded += 1;
            self.dirty.insert((slot, key.into(), Part::Counts));
            return true;
        }
        let running = self.running.get(&partition_of(slot));
        running.is_some_and(|running| *running >= PERIODS_MAX)
    }

    /// Notes that the first word of a window was counted.
    pub fn count_window(&mut self, partition: i32, alert_id: &Text) {
        self.counted
            .entry(partition)
            .or_default()
            .insert(alert_id.clone());
        self.dirty_counted.insert((partition, alert_id.clone()));
    }

    /// Whether the first word of a window that speaks again was counted; it is forgotten then.
    pub fn was_counted(&mut self, partition: i32, alert_id: &Text) -> bool {
        let counted = self.counted.get_mut(&partition);
        let known = counted.is_some_and(|counted| counted.remove(alert_id));
        if known {
            self.dirty_counted.insert((partition, alert_id.clone()));
        }
        known
    }

    /// Ends a slot's periods up to a time; returns what is to be said of each that counted, with its end, by their ids:
    /// the same order whatever ended together.
    pub fn end(&mut self, slot: i64, until: i64) -> Vec<(i64, Alert)> {
        let Some(periods) = self.slots.get_mut(&slot) else {
            return Vec::new();
        };
        let mut summaries = Vec::new();
        for (key, period) in periods.take_over(until) {
            if let Some(running) = self.running.get_mut(&partition_of(slot)) {
                *running = running.saturating_sub(1);
            }
            summaries.extend(period.summary().map(|alert| (period.end, alert)));
            self.dirty.insert((slot, key.clone(), Part::Period));
            self.dirty.insert((slot, key, Part::Counts));
        }
        if periods.by_key.is_empty() {
            self.slots.remove(&slot);
        }
        summaries.sort_by(|(_, left), (_, right)| left.alert_id.cmp(&right.alert_id));
        summaries
    }

    /// Whether any of a slot's periods is over at a time.
    pub fn due(&self, slot: i64, time: i64) -> bool {
        let first_end = self.slots.get(&slot).and_then(|periods| periods.first_end);
        first_end.is_some_and(|end| end <= time)
    }

    /// Whether a partition has periods that run.
    pub fn waits(&self, partition: i32) -> bool {
        self.running.get(&partition).is_some_and(|count| *count > 0)
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.slots
            .retain(|slot, _| partition_of(*slot) != partition);
        self.running.remove(&partition);
        self.counted.remove(&partition);
        self.dirty
            .retain(|(slot, ..)| partition_of(*slot) != partition);
        self.dirty_counted.retain(|(of, _)| *of != partition);
    }

    /// What changed in a partition since the last call, and the pieces that are to be written anew.
    pub fn store(&mut self, partition: i32, renewal: &Renewal) -> Vec<StateRecord> {
        let mut records = Vec::new();
        self.renew(partition, renewal);
        let (own, others) = std::mem::take(&mut self.dirty)
            .into_iter()
            .partition(|(slot, ..)| partition_of(*slot) == partition);
        self.dirty = others;
        for (slot, key, part) in own {
            let periods = self.slots.get(&slot);
            let period = periods.and_then(|periods| periods.by_key.get(&key));
            records.push(StateRecord {
                key: format!("{}{}/{key}", part.prefix(), slot as u32),
                value: period.map(|period| part.of(period)),
            });
        }
        let (own, others) = std::mem::take(&mut self.dirty_counted)
            .into_iter()
            .partition(|(of, _)| *of == partition);
        self.dirty_counted = others;
        for (_, id) in own {
            let known = self
                .counted
                .get(&partition)
                .is_some_and(|counted| counted.contains(&id));
            records.push(StateRecord {
                key: format!("{COUNTED}{id}"),
                value: known.then(|| b"1".to_vec()),
            });
        }
        records
    }

    /// Notes that pieces are to be written anew, of those that are there.
    fn renew(&mut self, partition: i32, renewal: &Renewal) {
        for part in [Part::Period, Part::Counts] {
            for name in renewal.below(part.prefix()) {
                let Some((slot, key)) = place_of(partition, name) else {
                    continue;
                };
                let periods = self.slots.get(&slot);
                if let Some(period) = periods.and_then(|periods| periods.by_key.get(key)) {
                    renewal.spend(part.of(period).len());
                    self.dirty.insert((slot, key.into(), part));
                }
            }
        }
        let counted = self.counted.get(&partition);
        for id in renewal.below(COUNTED) {
            if let Some(id) = counted.and_then(|counted| counted.get(id)) {
                renewal.spend(id.len());
                self.dirty_counted.insert((partition, id.clone()));
            }
        }
    }

    /// Takes a partition's stored periods back, out of its state. One that cannot be read is over: what it folded is said once
    /// more.
    pub fn restore(&mut self, partition: i32, state: &mut State) {
        let counts: HashMap<String, Vec<u8>> = take_below(state, COUNTS).into_iter().collect();
        for (name, value) in take_below(state, PERIOD) {
            let period = Period::restored(&value, counts.get(&name));
            let (Some((slot, key)), Some(period)) = (place_of(partition, &name), period) else {
                continue;
            };
            self.slots
                .entry(slot)
                .or_default()
                .insert(key.into(), period);
            *self.running.entry(partition).or_default() += 1;
        }
        let counted = take_below(state, COUNTED).into_iter();
        let counted = counted.map(|(id, _)| Text::from(id)).collect();
        self.counted.insert(partition, counted);
    }
}

/// Slot and key of a period, by the rest of its name.
fn place_of(partition: i32, name: &str) -> Option<(i64, &str)> {
    let (number, key) = name.split_once('/')?;
    let number: u32 = number.parse().ok()?;
    Some(((i64::from(partition) << 32) | i64::from(number), key))
}

impl Period {
    /// The first alert again, with the number of those that were counted; none when none were.
    fn summary(&self) -> Option<Alert> {
        if self.folded == 0 {
            return None;
        }
        // Written by this version, or by one whose alerts this one cannot read: then the count is lost, not the alerts.
        let mut alert = Alert::decode_framed(&self.first).ok()?;
        alert.activity = "update".into();
        alert.folded = self.folded;
        Some(alert)
    }
}
