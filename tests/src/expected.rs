//! What must come of a log, and how it compares with what came.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::alert::{AlertMode, is_own, was_cut};
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::Engine;
use dogwatch_stream_processor::oracle::{self, Input, Oracle};
use dogwatch_stream_processor::window::WindowOptions;
use serde_json::Value;

use crate::reader::RawRecord;

/// How many differences are kept to be shown.
const SHOWN_MAX: usize = 8;

/// What a log must yield.
#[derive(Debug)]
pub struct Expected {
    /// As the oracle has it.
    pub oracle: oracle::Expected,
    /// As our own engine has it, with all fields, when nothing happens to it: one step, no pause, no restart.
    pub undisturbed: Vec<Alert>,
    /// Partition and offset of what is no event, or claims another host than its key's.
    pub unreadable: BTreeSet<(i32, i64)>,
    /// Files that the engine refuses.
    pub refused: Vec<String>,
}

/// Says what a log must yield.
///
/// # Panics
/// When the detections cannot be loaded or the log cannot be judged.
pub fn expected(detections: &Path, log: &[RawRecord], host_silence: Duration) -> Expected {
    let records: Vec<InputRecord> = log.iter().map(input_record).collect();
    let report = DetectionSet::load(detections).expect("the detections are there");
    let loaded: BTreeSet<String> = report
        .set
        .iter()
        .map(|detection| detection.id.clone())
        .collect();
    // Side by side: together they take longer than what they judge.
    let (oracle, undisturbed) = std::thread::scope(|scope| {
        let judged = scope.spawn(|| judged(detections, &records, host_silence));
        let undisturbed = undisturbed(report.set, &records, host_silence);
        (judged.join(), undisturbed)
    });
    let mut oracle = oracle.expect("the oracle judges the log");
    // One that is refused is told as such, not as thousands of missing alerts.
    oracle
        .alerts
        .retain(|alert| loaded.contains(&alert.detection_id));
    for late in &mut oracle.late {
        late.detections.retain(|id| loaded.contains(id));
    }
    oracle.late.retain(|late| !late.detections.is_empty());
    Expected {
        oracle,
        undisturbed,
        unreadable: unreadable(log),
        refused: report.refused.iter().map(ToString::to_string).collect(),
    }
}

fn judged(detections: &Path, records: &[InputRecord], host_silence: Duration) -> oracle::Expected {
    let oracle = Oracle::load(detections).expect("the oracle reads the detections");
    oracle
        .with_host_silence(host_silence)
        .run(records, Input::Live)
        .expect("the oracle judges the log")
}

fn undisturbed(set: DetectionSet, records: &[InputRecord], host_silence: Duration) -> Vec<Alert> {
    let options = WindowOptions {
        host_silence,
        ..WindowOptions::default()
    };
    let mut engine = Engine::new(set, AlertMode::Live)
        .expect("the detections can be run")
        .with_windows(options)
        .expect("the windows can be run");
    let output = engine.step(records.to_vec());
    output.expect("the engine judges the log").alerts
}

/// A record of events as the engine takes it.
pub fn input_record(record: &RawRecord) -> InputRecord {
    InputRecord {
        topic: Topic::Events,
        partition: record.partition,
        offset: record.offset,
        ingest_ts_ns: record.append_ms.map(|ms| ms * 1_000_000),
        key: record.key.clone().into(),
        value: record.value.clone().into(),
    }
}

fn unreadable(log: &[RawRecord]) -> BTreeSet<(i32, i64)> {
    let is_bad = |record: &&RawRecord| {
        let event = Event::decode_framed(&record.value);
        event.map_or(true, |event| event.host_id.as_bytes() != record.key)
    };
    let bad = log.iter().filter(is_bad);
    bad.map(|record| (record.partition, record.offset))
        .collect()
}

/// How what was said differs from what must be; each word under an identity counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Words that must be there.
    pub expected: usize,
    /// Words that must be there and are not.
    pub missing: usize,
    /// Words that nothing asks for.
    pub extra: usize,
    /// Words that are there more than once.
    pub double: usize,
    /// Words that are right, but come in a wrong order or say something else.
    pub changed: usize,
    /// Words that are right, but say something else than the engine does when nothing happens to it.
    pub disturbed: usize,
    /// Some of these, for people.
    pub shown: Vec<String>,
}

impl Difference {
    /// Says whether there is none.
    pub fn none(&self) -> bool {
        let Self {
            missing,
            extra,
            double,
            changed,
            disturbed,
            ..
        } = self;
        [missing, extra, double, changed, disturbed]
            .iter()
            .all(|count| **count == 0)
    }
}

/// What tells the words under one identity apart.
type Word = (String, String, Option<String>, i64);

/// Compares what must be said with what was; both in the order of their log.
pub fn compare(expected: &Expected, found: &[Alert]) -> Difference {
    let due = counted(expected.oracle.alerts.iter().map(|alert| {
        let oracle::Alert {
            alert_id,
            activity,
            window_state,
            folded,
            ..
        } = alert;
        (
            alert_id.clone(),
            activity.clone(),
            window_state.clone(),
            *folded,
        )
    }));
    // What the engine says of itself is not the oracle's to know: it can only be said twice.
    let (health, found): (Vec<Alert>, Vec<Alert>) = found.iter().cloned().partition(is_own);
    let there = counted(found.iter().map(word));
    let mut difference = Difference {
        expected: expected.oracle.alerts.len(),
        double: counted(health.iter().map(word))
            .values()
            .map(|times| times - 1)
            .sum(),
        ..Difference::default()
    };
    for (word, times) in &due {
        let found = there.get(word).copied().unwrap_or(0);
        difference.missing += times.saturating_sub(found);
        difference.double += found.saturating_sub(*times);
    }
    let asked_for = |word: &Word| due.contains_key(word);
    difference.extra = there
        .iter()
        .filter(|(word, _)| !asked_for(word))
        .map(|(_, times)| times)
        .sum();
    let whole: Vec<Alert> = found
        .iter()
        .map(|alert| whole(alert, &expected.undisturbed))
        .collect();
    let mut shown = oracle::compare(&expected.oracle.alerts, &whole);
    let changed = shown
        .iter()
        .filter(|line| line.starts_with("differs"))
        .count();
    let disturbed = disturbed(&expected.undisturbed, &whole);
    difference.changed = changed;
    difference.disturbed = disturbed.len();
    shown.extend(disturbed);
    shown.truncate(SHOWN_MAX);
    difference.shown = shown;
    difference
}

fn word(alert: &Alert) -> Word {
    let state = alert.window_state.as_ref().map(ToString::to_string);
    (
        alert.alert_id.to_string(),
        alert.activity.to_string(),
        state,
        alert.folded,
    )
}

fn counted(words: impl Iterator<Item = Word>) -> BTreeMap<Word, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

/// An alert with what was cut away to fit its topic.
fn whole(alert: &Alert, undisturbed: &[Alert]) -> Alert {
    if !was_cut(alert) {
        return alert.clone();
    }
    let original = undisturbed.iter().find(|other| word(other) == word(alert));
    original.map_or_else(
        || alert.clone(),
        |original| Alert {
            alert_ts: alert.alert_ts,
            ..original.clone()
        },
    )
}

/// Alerts whose fields are not those that the engine says when nothing happens to it.
fn disturbed(undisturbed: &[Alert], found: &[Alert]) -> Vec<String> {
    let due: BTreeMap<Word, &Alert> = undisturbed
        .iter()
        .map(|alert| (word(alert), alert))
        .collect();
    let other = |alert: &Alert| {
        let (due, there) = (comparable(due.get(&word(alert))?), comparable(alert));
        let names: BTreeSet<&String> = due.keys().chain(there.keys()).collect();
        let differing = names
            .into_iter()
            .filter(|name| there.get(*name) != due.get(*name));
        let shown =
            |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), Value::to_string);
        let fields: Vec<String> = differing
            .map(|name| {
                format!(
                    "{name} is {}, undisturbed it is {}",
                    shown(there.get(name)),
                    shown(due.get(name))
                )
            })
            .collect();
        (!fields.is_empty()).then(|| {
            format!(
                "differs: {} {}: {}",
                alert.detection_id,
                alert.alert_id,
                fields.join("; ")
            )
        })
    };
    found.iter().filter_map(other).collect()
}

/// Its fields but for when it was said, what the topic of evidence is called, and rows, whose floats the oracle compares.
fn comparable(alert: &Alert) -> serde_json::Map<String, Value> {
    let mut alert = alert.clone();
    alert.alert_ts = 0;
    alert.row = "".into();
    alert.message = "".into();
    alert
        .evidence
        .iter_mut()
        .for_each(|evidence| evidence.topic = "".into());
    match serde_json::to_value(&alert) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a record is an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events;

    /// A log of one host with two intruders, and what must come of it.
    fn two_intruders() -> Expected {
        let record = |seq: i64| {
            let mut value = Vec::new();
            let event = events::exec("host-a", seq, events::INTRUDER);
            event.encode_framed(&mut value);
            RawRecord {
                partition: 0,
                offset: seq,
                append_ms: Some(event.ts / 1_000_000),
                key: b"host-a".to_vec(),
                value,
            }
        };
        let mut log = vec![record(0), record(1), record(2)];
        log[1].key = b"host-b".to_vec();
        expected(events::detections().path(), &log, Duration::from_secs(600))
    }

    fn counts(difference: &Difference) -> [usize; 6] {
        let Difference {
            expected,
            missing,
            extra,
            double,
            changed,
            disturbed,
            ..
        } = *difference;
        [expected, missing, extra, double, changed, disturbed]
    }

    #[test]
    fn every_kind_of_difference_is_counted() {
        let due = two_intruders();
        assert_eq!(due.unreadable, BTreeSet::from([(0, 1)]));
        let said = due.undisturbed.clone();
        assert_eq!(counts(&compare(&due, &said)), [2, 0, 0, 0, 0, 0]);
        assert_eq!(counts(&compare(&due, &said[1..])), [2, 1, 0, 0, 0, 0]);
        let twice = [&said[..], &said[..1]].concat();
        assert_eq!(counts(&compare(&due, &twice)), [2, 0, 0, 1, 0, 0]);
        let mut other = said.clone();
        other[0].alert_id = "another".into();
        assert_eq!(counts(&compare(&due, &other)), [2, 1, 1, 0, 0, 0]);
        // What the oracle knows, and what only the undisturbed engine does.
        let mut another_row = said.clone();
        another_row[1].row = r#"{"container_id":"elsewhere"}"#.into();
        assert_eq!(counts(&compare(&due, &another_row)), [2, 0, 0, 0, 1, 0]);
        // The second is incomplete as it is: the row between them, which cannot be read, never came.
        assert_eq!(
            said.iter()
                .map(|alert| alert.incomplete)
                .collect::<Vec<_>>(),
            [false, true]
        );
        let mut incomplete = said.clone();
        incomplete[0].incomplete = true;
        let difference = compare(&due, &incomplete);
        assert_eq!(counts(&difference), [2, 0, 0, 0, 0, 1]);
        assert!(
            difference.shown[0].contains("incomplete is true"),
            "{:?}",
            difference.shown
        );
        // What was cut to fit the topic is as good as whole.
        let mut cut = said;
        cut[0].row = r#"{"truncated":true}"#.into();
        assert!(compare(&due, &cut).none());
    }
}
