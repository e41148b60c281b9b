//! The ledger of losses: nothing is lost without being counted by class and kind, and told.
//!
//! ```text
//! the kernel's counters ─┐              ┌─► every mark: totals by class
//! stages that lose ──────┴─► the ledger ┴─► the next status: what is new, by class and kind, until it is handed over
//! ```

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Loss;

use crate::fact::Counters;

/// Count of a loss that cannot be known.
pub(crate) const UNKNOWN: i64 = -1;

/// How records are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The kernel's ring had no room.
    RingFull,
    /// A container sent more than it may.
    RateLimited,
    /// The kernel skipped runs of a program; at most so many records.
    Missed,
    /// A record of the ring could not be taken apart.
    Unparsed,
    /// A table had no room: rows say less than they could.
    TableFull,
    /// The events that wait for their container were too many: rows have its id alone.
    MetadataQueue,
    /// The queue before Kafka had no room.
    QueueFull,
    /// The client refused the record, or has ended.
    Refused,
    /// The brokers did not take the record.
    DeliveryFailed,
    /// The sensor ended before the record was read or delivered.
    UndeliveredAtEnd,
    /// A sample was due and not taken.
    Unsampled,
    /// No sensor watched.
    NotWatching,
}

impl Class {
    /// All of them; the documentation is held against it.
    #[cfg(test)]
    const ALL: [Self; 12] = [
        Self::RingFull,
        Self::RateLimited,
        Self::Missed,
        Self::Unparsed,
        Self::TableFull,
        Self::MetadataQueue,
        Self::QueueFull,
        Self::Refused,
        Self::DeliveryFailed,
        Self::UndeliveredAtEnd,
        Self::Unsampled,
        Self::NotWatching,
    ];

    /// The name in marks and statuses.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::RateLimited => "rate_limited",
            Self::Missed => "missed",
            Self::Unparsed => "unparsed",
            Self::TableFull => "table_full",
            Self::MetadataQueue => "metadata_queue",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::DeliveryFailed => "delivery_failed",
            Self::UndeliveredAtEnd => "undelivered_at_end",
            Self::Unsampled => "unsampled",
            Self::NotWatching => "not_watching",
        }
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    totals: BTreeMap<Text, u64>,
    fresh: BTreeMap<(Text, Text), Loss>,
    /// Counters as they were last taken, by class and kind.
    counted: BTreeMap<(Class, Text), u64>,
    /// When counters were compared last.
    checked_ns: i64,
    /// See [`Self::before`].
    passes_over: bool,
}

impl Ledger {
    /// Counts a loss of `count` records between two wall times.
    pub fn add(&mut self, class: Class, kind: &str, count: u64, from_ns: i64, to_ns: i64) {
        if count == 0 {
            return;
        }
        *self.totals.entry(class.name().into()).or_default() += count;
        let loss = self.entry(class.name(), kind, from_ns, to_ns);
        loss.count += count as i64;
    }

    /// Notes a time that was not watched at all.
    pub fn not_watching(&mut self, from_ns: i64, to_ns: i64, detail: String) {
        let loss = self.entry(Class::NotWatching.name(), "any", from_ns, to_ns);
        loss.count = UNKNOWN;
        loss.detail = Some(detail.into());
    }

    /// Takes the kernel's counters: what was lost before the stages since the last time, and why.
    pub fn counters(&mut self, counters: &Counters, now_ns: i64) {
        let from_ns = if self.checked_ns == 0 {
            now_ns
        } else {
            self.checked_ns
        };
        let ring_full = added(&counters.dropped, &counters.crowded);
        let missed = added(&counters.missed, &counters.interrupted);
        let lost = [
            (Class::RingFull, &ring_full),
            (Class::RateLimited, &counters.limited),
            (Class::Missed, &missed),
            (Class::UndeliveredAtEnd, &counters.unread),
        ];
        for (class, counts) in lost {
            for (kind, &count) in counts {
                self.grown(class, kind, count, from_ns, now_ns);
            }
        }
        let refused = counters.modes_refused;
        self.grown(Class::TableFull, "cgroup", refused, from_ns, now_ns);
        self.checked_ns = now_ns;
    }

    /// Takes counts as those before the first: what they grew by is no loss of ours.
    pub fn before(&mut self, take: impl FnOnce(&mut Self)) {
        self.passes_over = true;
        take(self);
        self.passes_over = false;
    }

    /// Takes the count of records that could not be parsed.
    pub fn unparsed(&mut self, count: u64, now_ns: i64) {
        self.grown(Class::Unparsed, "any", count, now_ns, now_ns);
    }

    /// Takes the count of samples of a kind that were due and not taken.
    pub fn unsampled(&mut self, kind: &str, count: u64, now_ns: i64) {
        self.grown(Class::Unsampled, kind, count, now_ns, now_ns);
    }

    /// Takes a counter that only grows: what it grew by is lost.
    fn grown(&mut self, class: Class, kind: &str, count: u64, from_ns: i64, to_ns: i64) {
        let before = self.counted.insert((class, kind.into()), count);
        if self.passes_over {
            return;
        }
        let lost = count.saturating_sub(before.unwrap_or_default());
        self.add(class, kind, lost, from_ns, to_ns);
    }

    /// Events lost in this run, by class.
    pub fn totals(&self) -> &BTreeMap<Text, u64> {
        &self.totals
    }

    /// Whether there is something new.
    pub fn has_news(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Takes what is new.
    pub fn take(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.fresh).into_values().collect()
    }

    /// Gives back what could not be told.
    pub fn put_back(&mut self, losses: Vec<Loss>) {
        for loss in losses {
            let told = self.entry(&loss.class, &loss.kind, loss.from_ts, loss.to_ts);
            told.count = if loss.count == UNKNOWN {
                UNKNOWN
            } else {
                told.count + loss.count
            };
            told.detail = told.detail.take().or(loss.detail);
        }
    }

    fn entry(&mut self, class: &str, kind: &str, from_ns: i64, to_ns: i64) -> &mut Loss {
        let loss = self
            .fresh
            .entry((class.into(), kind.into()))
            .or_insert_with(|| Loss {
                class: class.into(),
                kind: kind.into(),
                from_ts: from_ns,
                to_ts: to_ns,
                ..Loss::default()
            });
        loss.from_ts = loss.from_ts.min(from_ns);
        loss.to_ts = loss.to_ts.max(to_ns);
        loss
    }
}

/// How often one class of losses is told in the log.
const REMINDER_NS: u64 = 60_000_000_000;

/// Tells losses in the log, each class at most once a minute.
#[derive(Debug, Default)]
pub(crate) struct Reminders {
    /// By class, how many were told and when, nanoseconds since boot.
    told: BTreeMap<Text, (u64, u64)>,
}

impl Reminders {
    /// The classes to be told now, each with the number since it was told last.
    pub fn due(&mut self, totals: &BTreeMap<Text, u64>, boot_ns: u64) -> Vec<(String, u64)> {
        let mut due = Vec::new();
        for (class, &total) in totals {
            let (count, told_ns) = self.told.get(class).copied().unwrap_or_default();
            let again = count == 0 || boot_ns >= told_ns + REMINDER_NS;
            if total > count && again {
                self.told.insert(class.clone(), (total, boot_ns));
                due.push((class.to_string(), total - count));
            }
        }
        due
    }
}

/// Two counts of one class, by kind.
fn added(one: &BTreeMap<Text, u64>, other: &BTreeMap<Text, u64>) -> BTreeMap<Text, u64> {
    let mut sum = one.clone();
    for (kind, count) in other {
        *sum.entry(kind.clone()).or_default() += count;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(open: u64) -> Counters {
        Counters {
            dropped: BTreeMap::from([("open".into(), open)]),
            ..Counters::default()
        }
    }

    #[test]
    fn the_documentation_has_every_class_in_its_order() {
        let documented: Vec<&str> = include_str!("../../docs/semantics.md")
            .split_once("| class | lost were |")
            .unwrap()
            .1
            .lines()
            .skip(2)
            .map_while(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        // The last one is no row's: it is told in words below the table.
        let known = Class::ALL.map(Class::name);
        assert_eq!(documented, known[..known.len() - 1]);
        // Each is there once: an enumeration that grew by one would miss it in the list above.
        let distinct: std::collections::BTreeSet<Class> = Class::ALL.into();
        assert_eq!(distinct.len(), Class::NotWatching as usize + 1);
    }

    #[test]
    fn counters_become_losses_once() {
        let mut ledger = Ledger::default();
        ledger.counters(&dropped(0), 100);
        ledger.counters(&dropped(5), 200);
        ledger.counters(&dropped(5), 300);
        ledger.counters(&dropped(7), 400);
        let losses = ledger.take();
        assert_eq!(losses.len(), 1);
        assert_eq!(
            (&*losses[0].class, &*losses[0].kind, losses[0].count),
            ("ring_full", "open", 7)
        );
        assert_eq!((losses[0].from_ts, losses[0].to_ts), (100, 400));
        assert_eq!(ledger.totals()["ring_full"], 7);
        assert!(ledger.take().is_empty());
    }

    #[test]
    fn what_was_counted_before_a_file_is_no_loss_of_it() {
        let mut ledger = Ledger::default();
        ledger.before(|ledger| ledger.counters(&dropped(5), 100));
        assert!(ledger.take().is_empty());
        ledger.counters(&dropped(7), 200);
        assert_eq!(ledger.take()[0].count, 2);
        // Read after the file before it, a file changes nothing.
        ledger.before(|ledger| ledger.counters(&dropped(7), 200));
        ledger.counters(&dropped(8), 300);
        assert_eq!(ledger.take()[0].count, 1);
    }

    #[test]
    fn a_class_of_losses_is_told_at_once_and_then_once_a_minute() {
        let mut reminders = Reminders::default();
        let mut due = |count: u64, second: u64| {
            let totals = BTreeMap::from([("ring_full".into(), count)]);
            let due = reminders.due(&totals, second * 1_000_000_000);
            due.into_iter().map(|(_, count)| count).sum::<u64>()
        };
        let told = [
            (5, 1),
            (9, 2),
            (9, 60),
            (9, 61),
            (9, 200),
            (10, 201),
            (12, 260),
            (13, 261),
        ];
        assert_eq!(
            told.map(|(count, second)| due(count, second)),
            [5, 0, 0, 4, 0, 1, 0, 3]
        );
    }

    #[test]
    fn every_counter_of_the_kernel_has_its_class() {
        let one = |kind: &str| BTreeMap::from([(Text::from(kind), 1)]);
        let counters = Counters {
            dropped: one("open"),
            missed: one("any"),
            unread: one("exec"),
            modes_refused: 1,
            ..Counters::default()
        };
        let mut ledger = Ledger::default();
        ledger.counters(&counters, 100);
        ledger.counters(&counters, 200);
        let told: Vec<_> = ledger
            .take()
            .into_iter()
            .map(|loss| (loss.class.to_string(), loss.kind.to_string(), loss.count))
            .collect();
        let expected = [
            ("missed", "any", 1),
            ("ring_full", "open", 1),
            ("table_full", "cgroup", 1),
            ("undelivered_at_end", "exec", 1),
        ];
        assert_eq!(
            told,
            expected.map(|(class, kind, count)| (class.to_owned(), kind.to_owned(), count))
        );
    }

    #[test]
    fn what_could_not_be_told_is_told_later() {
        let mut ledger = Ledger::default();
        ledger.add(Class::QueueFull, "open", 3, 10, 20);
        ledger.not_watching(1, 2, "stopped".into());
        let losses = ledger.take();
        ledger.add(Class::QueueFull, "open", 2, 30, 40);
        ledger.put_back(losses);
        let losses = ledger.take();
        let counts: Vec<_> = losses
            .iter()
            .map(|loss| (&*loss.class, loss.count, loss.from_ts, loss.to_ts))
            .collect();
        assert_eq!(
            counts,
            [("not_watching", UNKNOWN, 1, 2), ("queue_full", 5, 10, 40)]
        );
        assert_eq!(ledger.totals()["queue_full"], 5);
    }
}
