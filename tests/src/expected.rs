//! What must come of a log, and how it compares with what came.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::{Engine, WindowOptions};

use crate::reader::RawRecord;

/// How many differences are kept to be shown.
const SHOWN_MAX: usize = 5;

/// The alerts that a log must yield, in no order.
///
/// # Panics
/// When the detections cannot be loaded or the log cannot be judged.
pub fn expected(detections: &Path, log: &[RawRecord], host_silence: Duration) -> Vec<Alert> {
    let report = DetectionSet::load(detections).expect("the detections are there");
    let options = WindowOptions {
        host_silence,
        ..WindowOptions::default()
    };
    let mut engine = Engine::new(report.set, AlertMode::Live)
        .expect("the detections can be run")
        .with_windows(options);
    let output = engine.step(log.iter().map(input_record).collect());
    output.expect("the log can be judged").alerts
}

fn input_record(record: &RawRecord) -> InputRecord {
    InputRecord {
        topic: Topic::Events,
        partition: record.partition,
        offset: record.offset,
        ingest_ts_ns: record.append_ms.map(|ms| ms * 1_000_000),
        key: record.key.clone(),
        value: record.value.clone(),
    }
}

/// Where the records lie that must become dead letters: what is no event, or another host's.
pub fn unreadable(log: &[RawRecord]) -> BTreeSet<(i32, i64)> {
    let is_bad = |record: &&RawRecord| {
        let event = Event::decode_framed(&record.value);
        event.map_or(true, |event| event.host_id.as_bytes() != record.key)
    };
    log.iter()
        .filter(is_bad)
        .map(|record| (record.partition, record.offset))
        .collect()
}

/// How two piles of alerts differ; each word under an identity counts.
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
    /// Words whose content is another one.
    pub changed: usize,
    /// Some of these, for people.
    pub shown: Vec<String>,
}

impl Difference {
    /// Says whether there is none.
    pub fn none(&self) -> bool {
        (self.missing, self.extra, self.double, self.changed) == (0, 0, 0, 0)
    }

    fn show(&mut self, what: &str, alert: &Alert) {
        if self.shown.len() < SHOWN_MAX {
            let Alert {
                alert_id,
                detection_id,
                host_id,
                container_id,
                row,
                ..
            } = alert;
            let window = alert
                .window_start
                .map_or_else(String::new, |start| format!(" window {start}"));
            let word = Word::of(alert);
            let row: String = row.chars().take(300).collect();
            self.shown.push(format!(
                "{what} {detection_id} {host_id} {container_id}{window} {} {:?} folded {}: {alert_id} {row}",
                word.activity, word.window_state, word.folded
            ));
        }
    }
}

/// What tells the words under one identity apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Word {
    alert_id: String,
    activity: String,
    window_state: Option<String>,
    folded: i64,
}

impl Word {
    fn of(alert: &Alert) -> Word {
        Word {
            alert_id: alert.alert_id.to_string(),
            activity: alert.activity.to_string(),
            window_state: alert.window_state.as_deref().map(str::to_owned),
            folded: alert.folded,
        }
    }
}

/// Compares what must be there with what is.
pub fn compare(expected: &[Alert], found: &[Alert]) -> Difference {
    let mut difference = Difference {
        expected: expected.len(),
        ..Difference::default()
    };
    let (due, there) = (by_word(expected), by_word(found));
    for (word, alerts) in &due {
        let Some(copies) = there.get(word) else {
            difference.missing += alerts.len();
            difference.show("missing", alerts[0]);
            continue;
        };
        if copies.len() > alerts.len() {
            difference.double += copies.len() - alerts.len();
            difference.show("double", copies[0]);
        }
        if copies.len() < alerts.len() {
            difference.missing += alerts.len() - copies.len();
            difference.show("missing", alerts[0]);
        }
        if let Some(other) = copies.iter().find(|copy| !says_the_same(alerts[0], copy)) {
            difference.changed += 1;
            difference.show("expected", alerts[0]);
            difference.show("but found", other);
        }
    }
    for (word, copies) in &there {
        if !due.contains_key(word) {
            difference.extra += copies.len();
            difference.show("extra", copies[0]);
        }
    }
    difference
}

fn by_word(alerts: &[Alert]) -> BTreeMap<Word, Vec<&Alert>> {
    let mut words: BTreeMap<Word, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        words.entry(Word::of(alert)).or_default().push(alert);
    }
    words
}

/// All but when it was said, and the last digits of floats, must be the same; what was cut away to fit the topic need not.
fn says_the_same(expected: &Alert, found: &Alert) -> bool {
    let same_row = found.row == expected.row
        || &*found.row == TRUNCATED
        || numbers_close(&expected.row, &found.row);
    same_row
        && found.detection_id == expected.detection_id
        && found.host_id == expected.host_id
        && found.container_id == expected.container_id
        && found.dedup_key == expected.dedup_key
        && found.window_start == expected.window_start
        && found.window_end == expected.window_end
        && found.clock_stepped == expected.clock_stepped
        && found.incomplete == expected.incomplete
        && found.delayed == expected.delayed
        && found.event_ts == expected.event_ts
}

/// What stands for a part of an alert that was too large for its topic.
const TRUNCATED: &str = r#"{"truncated":true}"#;

fn numbers_close(left: &str, right: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text);
    match (parse(left), parse(right)) {
        (Ok(left), Ok(right)) => close(&left, &right),
        _ => false,
    }
}

fn close(left: &serde_json::Value, right: &serde_json::Value) -> bool {
    use serde_json::Value as Json;
    match (left, right) {
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, value)| right.get(key).is_some_and(|other| close(value, other)))
        }
        (Json::Number(left), Json::Number(right)) if left.is_f64() || right.is_f64() => {
            let (left, right) = (
                left.as_f64().unwrap_or(f64::NAN),
                right.as_f64().unwrap_or(f64::NAN),
            );
            (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1.0)
        }
        _ => left == right,
    }
}
