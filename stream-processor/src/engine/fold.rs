//! Folding of repeats: the first alerts of a period are published, the rest is counted, and the count is published at its end.
//!
//! Whether an alert is counted is known by its key, before it is built.
//! Periods run in the host's own time, so what is folded does not depend on when it was read.
//! The first alert of a period is stored once, when the period begins; of each repeat only counts are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Alert;

use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::hosts::partition_of;

/// Most periods that run in a task; beyond them alerts are as those of detections without a period.
const PERIODS_MAX: usize = 20_000;
/// Most bytes that their first alerts may have together, by their weights.
pub(super) const PERIODS_BYTES_MAX: u64 = 4 << 20;
/// Most windows of a task of which it is remembered that their first alert was counted; the close of others is published.
pub(super) const COUNTED_MAX: u64 = 8_000;
/// What the names of stored periods begin with: when it ends, and its first alert.
const PERIOD: &str = "period/";
/// What the names of the counts of stored periods begin with.
const COUNTS: &str = "count/";
/// What the names of stored windows begin with whose first alert was counted.
const COUNTED: &str = "counted/";

/// What becomes of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is published.
    Publish,
    /// It is counted.
    Count,
    /// It is published and begins a period, whose first alert has at most so many bytes: [`Folds::begin`] must follow.
    Begin(u32),
    /// It would begin a period, and there is no room for one.
    Full,
}

/// The first alert of a period.
#[derive(Debug, Clone)]
pub(crate) enum First {
    /// Which of the step's drafts it is: not built yet.
    OfStep(usize),
    /// Framed.
    Stored(Vec<u8>),
}

/// The beginning of a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    pub period: Duration,
    /// As [`Verdict::Begin`] said.
    pub weight: u32,
    /// Which of the step's drafts is its first alert.
    pub draft: usize,
}

/// What a period that is over has counted.
#[derive(Debug, Clone)]
pub(crate) struct Repeats {
    pub first: First,
    pub folded: i64,
}

impl Repeats {
    /// The alert that tells them: the first again, with their number. `drafts` holds the step's own, as far as they were built.
    pub fn alert(&self, drafts: &[Option<Alert>]) -> Option<Alert> {
        let first = match &self.first {
            First::OfStep(draft) => drafts.get(*draft)?.clone()?,
            // Written by this version, or by one whose alerts this one cannot read: then the count is lost, not the alerts.
            First::Stored(framed) => Alert::decode_framed(framed).ok()?,
        };
        Some(Alert {
            activity: "update".into(),
            folded: self.folded,
            ..first
        })
    }
}

/// The periods of all tasks.
#[derive(Debug)]
pub(crate) struct Folds {
    /// How much of what a task may take is theirs: one in so many.
    part: u64,
    slots: HashMap<i64, Periods>,
    running: HashMap<i32, Running>,
    /// Periods that began in this step.
    begun: Vec<(i64, Text)>,
    /// Ids of windows whose first alert was counted: their last is not published either.
    counted: HashMap<i32, BTreeSet<Text>>,
    /// What changed since a task's last checkpoint.
    dirty: BTreeSet<(i64, Text, Part)>,
    dirty_counted: BTreeSet<(i32, Text)>,
}

/// How much runs in a task.
#[derive(Debug, Clone, Copy, Default)]
struct Running {
    periods: usize,
    bytes: u64,
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
    published: u64,
    folded: i64,
    /// Most bytes of its first alert, known before it is built, whatever the steps are.
    weight: u32,
    first: First,
    /// Whether its counts changed since they were stored.
    counted: bool,
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
            Self::Period => {
                let (end, weight) = (period.end.to_le_bytes(), period.weight.to_le_bytes());
                [&end[..], &weight, period.first.framed()].concat()
            }
            Self::Counts => [period.published.to_le_bytes(), period.folded.to_le_bytes()].concat(),
        }
    }
}

impl First {
    /// As it is stored. Between steps every first alert is built.
    fn framed(&self) -> &[u8] {
        match self {
            Self::Stored(framed) => framed,
            Self::OfStep(_) => &[],
        }
    }
}

impl Period {
    /// A period as it was stored; counts that were never stored are those of one that has just begun.
    fn restored(period: &[u8], counts: Option<&Vec<u8>>) -> Option<Self> {
        let (end, rest) = period.split_first_chunk()?;
        let (weight, first) = rest.split_first_chunk()?;
        let (published, folded) = match counts {
            None => (1, 0),
            Some(counts) => {
                let (published, rest) = counts.split_first_chunk()?;
                let folded = rest.first_chunk()?;
                (u64::from_le_bytes(*published), i64::from_le_bytes(*folded))
            }
        };
        Some(Self {
            end: i64::from_le_bytes(*end),
            published,
            folded,
            weight: u32::from_le_bytes(*weight),
            first: First::Stored(first.to_vec()),
            counted: false,
        })
    }
}

impl Folds {
    /// Of tasks that have one part in so many of the room.
    pub fn new(part: u64) -> Self {
        Self {
            part,
            slots: HashMap::new(),
            running: HashMap::new(),
            begun: Vec::new(),
            counted: HashMap::new(),
            dirty: BTreeSet::new(),
            dirty_counted: BTreeSet::new(),
        }
    }

    /// Takes an alert of a detection that folds; periods that are over by then must have been ended.
    /// `weight` says how many bytes it has at most, should it begin one.
    pub fn take(
        &mut self,
        slot: i64,
        key: &Text,
        limit: u64,
        weight: impl FnOnce() -> u32,
    ) -> Verdict {
        let periods = self.slots.get_mut(&slot);
        let Some(known) = periods.and_then(|periods| periods.by_key.get_mut(key)) else {
            let running = self.running.get(&partition_of(slot));
            let running = running.copied().unwrap_or_default();
            let weight = weight();
            let fits = running.periods < PERIODS_MAX
                && running.bytes + u64::from(weight) <= PERIODS_BYTES_MAX / self.part;
            return match fits {
                true => Verdict::Begin(weight),
                false => Verdict::Full,
            };
        };
        if !known.counted {
            known.counted = true;
            self.dirty.insert((slot, key.clone(), Part::Counts));
        }
        if known.published < limit {
            known.published += 1;
            return Verdict::Publish;
        }
        known.folded += 1;
        Verdict::Count
    }

    /// Begins a period with a draft of the step, at its host's time.
    pub fn begin(&mut self, slot: i64, time: i64, key: &Text, begin: Begin) {
        let length = i64::try_from(begin.period.as_nanos()).unwrap_or(i64::MAX);
        let period = Period {
            end: time.saturating_add(length),
            published: 1,
            folded: 0,
            weight: begin.weight,
            first: First::OfStep(begin.draft),
            counted: false,
        };
        self.add_running(slot, &period);
        let periods = self.slots.entry(slot).or_default();
        periods.insert(key.clone(), period);
        self.begun.push((slot, key.clone()));
        self.dirty.insert((slot, key.clone(), Part::Period));
    }

    fn add_running(&mut self, slot: i64, period: &Period) {
        let running = self.running.entry(partition_of(slot)).or_default();
        running.periods += 1;
        running.bytes += u64::from(period.weight);
    }

    /// Takes the first alerts of the periods that began in the step and still run.
    pub fn settle(&mut self, drafts: &[Option<Alert>]) {
        for (slot, key) in std::mem::take(&mut self.begun) {
            let periods = self.slots.get_mut(&slot);
            let Some(period) = periods.and_then(|periods| periods.by_key.get_mut(&key)) else {
                continue;
            };
            if let First::OfStep(draft) = period.first {
                let mut framed = Vec::new();
                if let Some(Some(alert)) = drafts.get(draft) {
                    alert.encode_framed(&mut framed);
                }
                period.first = First::Stored(framed);
            }
        }
    }

    /// Notes that the first alert of a window was counted.
    pub fn count_window(&mut self, partition: i32, alert_id: &Text) {
        let counted = self.counted.entry(partition).or_default();
        if (counted.len() as u64) < COUNTED_MAX / self.part {
            counted.insert(alert_id.clone());
            self.dirty_counted.insert((partition, alert_id.clone()));
        }
    }

    /// Whether the first alert of a window that closes was counted; it is forgotten then.
    pub fn was_counted(&mut self, partition: i32, alert_id: &Text) -> bool {
        let counted = self.counted.get_mut(&partition);
        let known = counted.is_some_and(|counted| counted.remove(alert_id));
        if known {
            self.dirty_counted.insert((partition, alert_id.clone()));
        }
        known
    }

    /// Ends a slot's periods up to a time; returns those that counted, each with its end.
    pub fn end(&mut self, slot: i64, until: i64) -> Vec<(i64, Repeats)> {
        let Some(periods) = self.slots.get_mut(&slot) else {
            return Vec::new();
        };
        let mut ended = Vec::new();
        for (key, period) in periods.take_over(until) {
            if let Some(running) = self.running.get_mut(&partition_of(slot)) {
                running.periods = running.periods.saturating_sub(1);
                running.bytes = running.bytes.saturating_sub(u64::from(period.weight));
            }
            self.dirty.insert((slot, key.clone(), Part::Period));
            self.dirty.insert((slot, key, Part::Counts));
            if period.folded > 0 {
                let (first, folded) = (period.first, period.folded);
                ended.push((period.end, Repeats { first, folded }));
            }
        }
        if periods.by_key.is_empty() {
            self.slots.remove(&slot);
        }
        ended
    }

    /// Whether any of a slot's periods is over at a time.
    pub fn due(&self, slot: i64, time: i64) -> bool {
        let first_end = self.slots.get(&slot).and_then(|periods| periods.first_end);
        first_end.is_some_and(|end| end <= time)
    }

    /// Whether a partition has periods that run.
    pub fn waits(&self, partition: i32) -> bool {
        let running = self.running.get(&partition);
        running.is_some_and(|running| running.periods > 0)
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
            let periods = self.slots.get_mut(&slot);
            let mut period = periods.and_then(|periods| periods.by_key.get_mut(&key));
            if let (Some(period), Part::Counts) = (&mut period, part) {
                period.counted = false;
            }
            records.push(StateRecord {
                key: format!("{}{}/{key}", part.prefix(), slot as u32),
                value: period.map(|period| part.of(&*period)),
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

    /// Takes a partition's stored periods back, out of its state. One that cannot be read is over: what it folded is published
    /// once more.
    pub fn restore(&mut self, partition: i32, state: &mut State) {
        let counts: HashMap<String, Vec<u8>> = take_below(state, COUNTS).into_iter().collect();
        for (name, value) in take_below(state, PERIOD) {
            let period = Period::restored(&value, counts.get(&name));
            let (Some((slot, key)), Some(period)) = (place_of(partition, &name), period) else {
                continue;
            };
            self.add_running(slot, &period);
            let periods = self.slots.entry(slot).or_default();
            periods.insert(key.into(), period);
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
