//! Partitions of events and samples that nobody processes: windows over the whole fleet wait for them, and somebody must be told.
//!
//! Each partition sends a record a second to the exchange, silent ones too. Whoever has read the exchange to its end and has
//! no record of a partition that is younger than `windows.fleet_delay_max` says so, once until it goes on. It is said by the
//! processor that has the first partition of the exchange: every source sends to each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};

use super::Stages;
use super::steps::Steps;
use crate::alert::health::{Finding, Health, Reporter};
use crate::config::{Config, Stage};
use crate::engine::now_ns;
use crate::hosts::FLEET;
use crate::idle;
use crate::metrics;
use crate::step::Partition;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The partition of the exchange whose owner tells.
const TELLS: Partition = (Topic::Exchange, 0);

/// What is known of partitions that hold the fleet back.
pub(super) struct SourceWatch {
    reporter: Reporter,
    topics: Topics,
    delay_max: Duration,
    look_at: Option<Instant>,
    /// When it looked first for a topic since it tells, nanoseconds: a partition that was never heard of is late from then on.
    since: BTreeMap<Topic, i64>,
    /// Those of which was told that nobody processes them.
    told: BTreeSet<Partition>,
    /// Those that metrics show.
    shown: BTreeSet<Partition>,
}

impl SourceWatch {
    /// Of the stage that finishes windows of the fleet; in the other one it never looks.
    pub fn new(config: &Config) -> Self {
        Self {
            reporter: Reporter::of_this_process(idle::HOST_ID, config.kafka.instance.as_deref()),
            topics: Topics::new(config.kafka.topic_prefix.as_str()),
            delay_max: config.windows.fleet_delay_max,
            look_at: (config.stage == Stage::Fleet).then(Instant::now),
            since: BTreeMap::new(),
            told: BTreeSet::new(),
            shown: BTreeSet::new(),
        }
    }

    /// When it looks next.
    pub fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Says what there is to say at a time, nanoseconds, of how far each source has come, as far as it was heard of.
    fn look(&mut self, heard: &BTreeMap<Partition, Option<i64>>, now: i64) -> Vec<Alert> {
        let waited_for = |topic: &Topic| heard.keys().any(|(own, _)| own == topic);
        self.since.retain(|topic, _| waited_for(topic));
        let mut alerts = Vec::new();
        for (source, at) in heard {
            let since = *self.since.entry(source.0).or_insert(now);
            let behind = now.saturating_sub(at.unwrap_or(since)).max(0);
            let behind = Duration::from_nanos(behind.unsigned_abs());
            metrics::fleet_source(*source, behind);
            if behind <= self.delay_max {
                if self.told.remove(source) {
                    let (topic, partition) = (source.0.suffix(), source.1);
                    tracing::info!(topic, partition, "the partition goes on");
                }
            } else if self.told.insert(*source) {
                alerts.push(self.alert(*source, behind, now));
            }
        }
        self.told.retain(|source| heard.contains_key(source));
        for gone in self.shown.iter().filter(|own| !heard.contains_key(own)) {
            metrics::fleet_source(*gone, Duration::ZERO);
        }
        self.shown = heard.keys().copied().collect();
        alerts
    }

    fn alert(&self, (topic, partition): Partition, behind: Duration, now: i64) -> Alert {
        let seconds = behind.as_secs();
        let topic = self.topics.name(topic);
        tracing::error!(
            topic,
            partition,
            seconds,
            "nobody processes a partition: windows over the whole fleet wait for it"
        );
        let row: [(&str, serde_json::Value); 3] = [
            ("topic", topic.as_str().into()),
            ("partition", partition.into()),
            ("seconds", seconds.into()),
        ];
        let row = row.map(|(name, value)| (name.to_owned(), value));
        let finding = Finding {
            health: Health::FleetHeld,
            about: &format!("{topic}/{partition}"),
            happened: format!(
                "nothing of this partition has come to the windows over the whole fleet for {seconds} s, and they wait for it"
            ),
            shown_by: self.reporter.next(),
            time: now,
            row: row.into_iter().collect(),
        };
        self.reporter.alert(&finding, now)
    }
}

impl Steps {
    /// Looks whether all sources are processed, where that is due and all of the exchange was read.
    pub(super) fn look_at_sources(&mut self, stages: &Stages) {
        let now = Instant::now();
        if self.sources.due().is_none_or(|due| due > now) {
            return;
        }
        self.sources.look_at = Some(now + LOOK_INTERVAL);
        if self.tasks.task(TELLS).is_none() {
            // Another one tells.
            self.sources.look(&BTreeMap::new(), now_ns());
            return;
        }
        let at_end = stages.group();
        let at_end = at_end.is_some_and(|group| group.assignments.at_end(TELLS));
        // Who reads what had gathered knows nothing of now. The look is put off and does not begin anew: in a busy exchange
        // there is something left to read at many looks.
        if !at_end {
            return;
        }
        let heard = self.engine.fleet_sources(FLEET);
        let alerts = self.sources.look(&heard, now_ns());
        self.next.alerts.extend(alerts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    const SECOND: i64 = 1_000_000_000;
    const BEGIN: i64 = 1_800_000_000 * SECOND;

    fn watch() -> SourceWatch {
        let mut raw = RawConfig::default();
        raw.windows.fleet_delay_max = Duration::from_secs(60);
        let config = Config::check(raw).expect("a configuration");
        SourceWatch::new(&config.of_stage(Stage::Fleet))
    }

    fn told(watch: &mut SourceWatch, heard: &[(i32, Option<i64>)], seconds: i64) -> Vec<String> {
        let at = |seconds: i64| BEGIN.saturating_add(seconds.saturating_mul(SECOND));
        let heard = heard.iter();
        let heard = heard.map(|(number, at_second)| {
            let source = (Topic::Events, *number);
            (source, at_second.map(at))
        });
        let alerts = watch.look(&heard.collect(), at(seconds));
        alerts
            .iter()
            .map(|alert| alert.message.to_string())
            .collect()
    }

    #[test]
    fn who_is_held_is_told_once_until_it_goes_on() {
        let mut watch = watch();
        let fine = [(0, Some(99)), (1, Some(90))];
        assert_eq!(told(&mut watch, &fine, 100), [""; 0]);
        let held = [(0, Some(159)), (1, Some(90))];
        let said = told(&mut watch, &held, 160);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("dogwatch.events/1: "), "{said:?}");
        assert!(said[0].contains("for 70 s"), "{said:?}");
        assert_eq!(told(&mut watch, &held, 161), [""; 0], "once");
        assert_eq!(
            told(&mut watch, &[(0, Some(199)), (1, Some(198))], 200),
            [""; 0]
        );
        assert_eq!(
            told(&mut watch, &[(0, Some(299)), (1, Some(198))], 300).len(),
            1
        );
    }

    #[test]
    fn one_that_was_never_heard_of_is_late_from_the_first_look_on() {
        let mut watch = watch();
        let heard = [(0, Some(0)), (1, None)];
        assert_eq!(told(&mut watch, &heard, 0), [""; 0]);
        let said = told(&mut watch, &[(0, Some(61)), (1, None)], 61);
        assert_eq!(said.len(), 1, "{said:?}");
        // No record brings a time that it cannot be compared with.
        let ends = [(0, Some(i64::MAX)), (1, Some(i64::MIN))];
        assert_eq!(told(&mut watch, &ends, 62).len(), 0, "it was told");
    }
}
