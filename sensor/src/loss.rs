//! The ledger of losses: nothing is lost without being counted by class and kind, and told.
//!
//! Totals go into every `mark`; what is new goes into the next record of `dogwatch.sensors`,
//! and stays new until such a record has been handed over.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Loss;

use crate::fact::Counters;

/// Count of a loss that cannot be known.
pub(crate) const UNKNOWN: i64 = -1;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    totals: BTreeMap<Text, u64>,
    fresh: BTreeMap<(Text, Text), Loss>,
    dropped: BTreeMap<Text, u64>,
    unparsed: u64,
    /// When counters were compared last.
    checked_ns: i64,
}

impl Ledger {
    /// Counts a loss of `count` records between two wall times.
    pub fn add(&mut self, class: &str, kind: &str, count: u64, from_ns: i64, to_ns: i64) {
        if count == 0 {
            return;
        }
        *self.totals.entry(class.into()).or_default() += count;
        let loss = self.entry(class, kind, from_ns, to_ns);
        loss.count += count as i64;
    }

    /// Notes a time that was not watched at all.
    pub fn not_watching(&mut self, from_ns: i64, to_ns: i64, detail: String) {
        let loss = self.entry("not_watching", "any", from_ns, to_ns);
        loss.count = UNKNOWN;
        loss.detail = Some(detail.into());
    }

    /// Takes the kernel's counters: what its ring had no room for since the last time.
    pub fn counters(&mut self, counters: &Counters, now_ns: i64) {
        let from_ns = if self.checked_ns == 0 {
            now_ns
        } else {
            self.checked_ns
        };
        for (kind, &count) in &counters.dropped {
            let before = self.dropped.insert(kind.clone(), count).unwrap_or_default();
            self.add(
                "ring_full",
                kind,
                count.saturating_sub(before),
                from_ns,
                now_ns,
            );
        }
        self.checked_ns = now_ns;
    }

    /// Takes the count of records that could not be parsed.
    pub fn unparsed(&mut self, count: u64, now_ns: i64) {
        let before = std::mem::replace(&mut self.unparsed, count);
        self.add(
            "unparsed",
            "any",
            count.saturating_sub(before),
            now_ns,
            now_ns,
        );
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
    fn what_could_not_be_told_is_told_later() {
        let mut ledger = Ledger::default();
        ledger.add("queue_full", "open", 3, 10, 20);
        ledger.not_watching(1, 2, "stopped".into());
        let losses = ledger.take();
        ledger.add("queue_full", "open", 2, 30, 40);
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
