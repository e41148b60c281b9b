//! What is found against what is expected: differences that a person can read.

use std::collections::{BTreeMap, VecDeque};

use dogwatch_schemas::records;
use serde_json::Value;

use super::{Alert, Cause, Late};
use crate::alert::size::{is_cut, is_cut_row};

/// How far two floats may be apart, relative to the larger: sums of states add in another order than sums of rows.
const TOLERANCE: f64 = 1e-9;

/// What was found of an alert, wherever it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The alert, as far as the oracle says anything of it.
    pub alert_id: String,
    /// The detection.
    pub detection_id: String,
    /// `create` or `update`.
    pub activity: String,
    /// `open`, `closed` or none.
    pub window_state: Option<String>,
    /// Whether a step of the clock closed the window.
    pub clock_stepped: bool,
    /// How many repeats it counts.
    pub folded: i64,
    /// The host.
    pub host_id: String,
    /// The sentence.
    pub message: String,
    /// What the SELECT yields; none when it is no JSON.
    pub row: Option<Value>,
    /// Start of the window.
    pub window_start: Option<i64>,
    /// End of the window.
    pub window_end: Option<i64>,
    /// Partition and offset of the event; none on windows.
    pub evidence: Option<(i32, i64)>,
    /// Whether HAVING or SELECT could not be computed.
    pub failed: bool,
}

impl From<&records::Alert> for Found {
    fn from(alert: &records::Alert) -> Self {
        let evidence = alert
            .evidence
            .first()
            .filter(|_| alert.window_start.is_none());
        Self {
            alert_id: alert.alert_id.to_string(),
            detection_id: alert.detection_id.to_string(),
            activity: alert.activity.to_string(),
            window_state: alert.window_state.as_ref().map(ToString::to_string),
            clock_stepped: alert.clock_stepped,
            folded: alert.folded,
            host_id: alert.host_id.to_string(),
            message: alert.message.to_string(),
            row: serde_json::from_str(&alert.row).ok(),
            window_start: alert.window_start,
            window_end: alert.window_end,
            evidence: evidence.map(|evidence| (evidence.partition as i32, evidence.offset)),
            failed: alert.error.is_some(),
        }
    }
}

impl From<&Alert> for Found {
    fn from(alert: &Alert) -> Self {
        Self {
            alert_id: alert.alert_id.clone(),
            detection_id: alert.detection_id.clone(),
            activity: alert.activity.clone(),
            window_state: alert.window_state.clone(),
            clock_stepped: alert.clock_stepped,
            folded: alert.folded,
            host_id: alert.host_id.clone(),
            message: alert.message.clone(),
            row: Some(Value::Object(alert.row.clone())),
            window_start: alert.window_start,
            window_end: alert.window_end,
            evidence: alert
                .evidence_offset
                .map(|offset| (alert.cause.partition, offset)),
            failed: alert.failed,
        }
    }
}

/// Compares by id: the words under one id must be the same, in the same order. No difference is an empty list.
#[must_use]
pub fn compare<'a>(
    expected: impl IntoIterator<Item = &'a Alert>,
    found: impl IntoIterator<Item = &'a records::Alert>,
) -> Vec<String> {
    let mut words: BTreeMap<String, (Vec<Found>, Vec<Found>)> = BTreeMap::new();
    for alert in expected.into_iter().map(Found::from) {
        words
            .entry(alert.alert_id.clone())
            .or_default()
            .0
            .push(alert);
    }
    for alert in found.into_iter().map(Found::from) {
        words
            .entry(alert.alert_id.clone())
            .or_default()
            .1
            .push(alert);
    }
    let mut differences = Vec::new();
    for (expected, found) in words.values() {
        for place in 0..expected.len().max(found.len()) {
            match (expected.get(place), found.get(place)) {
                (Some(expected), Some(found)) => differences.extend(differ(expected, found)),
                (Some(missing), None) => differences.push(format!("missing: {}", text(missing))),
                (None, Some(surplus)) if place > 0 && found[place - 1] == *surplus => {
                    differences.push(format!("said twice: {}", text(surplus)));
                }
                (None, Some(surplus)) => {
                    differences.push(format!("not expected: {}", text(surplus)))
                }
                (None, None) => {}
            }
        }
    }
    differences
}

/// Compares the order of alerts that are otherwise the same: each host's come in the order expected, and each partition's in
/// the order of the rows that caused them. What one row causes for several hosts may come in any order.
#[must_use]
pub fn compare_order<'a>(
    expected: impl IntoIterator<Item = &'a Alert>,
    found: impl IntoIterator<Item = &'a records::Alert>,
) -> Option<String> {
    let mut causes: BTreeMap<&str, VecDeque<(usize, Cause)>> = BTreeMap::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for alert in expected {
        let place = places.entry(&alert.host_id).or_default();
        *place += 1;
        let words = causes.entry(&alert.alert_id).or_default();
        words.push_back((*place, alert.cause));
    }
    let mut last_place: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last_offset: BTreeMap<i32, i64> = BTreeMap::new();
    for alert in found {
        let Some((place, cause)) = causes
            .get_mut(&*alert.alert_id)
            .and_then(VecDeque::pop_front)
        else {
            continue;
        };
        let last_place = last_place.entry(&alert.host_id).or_default();
        let last_offset = last_offset.entry(cause.partition).or_insert(i64::MIN);
        if place < *last_place || cause.offset < *last_offset {
            let word = text(&alert.into());
            return Some(format!(
                "out of order: {word}, which {}/{} causes",
                cause.partition, cause.offset
            ));
        }
        (*last_place, *last_offset) = (place, cause.offset);
    }
    None
}

/// Compares late rows: the same rows, each once, with the same detections.
#[must_use]
pub fn compare_late(expected: &[Late], found: &[Late]) -> Vec<String> {
    let sorted = |rows: &[Late]| {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    };
    let (expected, found) = (sorted(expected), sorted(found));
    let missing = expected.iter().filter(|late| !found.contains(late));
    let surplus = found.iter().filter(|late| !expected.contains(late));
    let twice = found
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| &pair[0]);
    missing
        .map(|late| format!("missing late row: {late:?}"))
        .chain(surplus.map(|late| format!("late row not expected: {late:?}")))
        .chain(twice.map(|late| format!("late row said twice: {late:?}")))
        .collect()
}

/// A word in one line.
fn text(word: &Found) -> String {
    let state = match (&word.window_state, word.window_start) {
        (Some(state), Some(start)) => format!(" {state} window {start}"),
        (None, None) => String::new(),
        (state, start) => format!(" window_state {state:?} with window_start {start:?}"),
    };
    let event = word
        .evidence
        .map(|(partition, offset)| format!(" of {partition}/{offset}"))
        .unwrap_or_default();
    let row = word
        .row
        .as_ref()
        .map_or_else(|| "no JSON".to_owned(), Value::to_string);
    format!(
        "{} {} {}{state}{event} on {} folded {}: {row}",
        word.detection_id, word.alert_id, word.activity, word.host_id, word.folded
    )
}

/// What is not the same in two words, in one line.
fn differ(expected: &Found, found: &Found) -> Option<String> {
    let mut fields = Vec::new();
    let mut field = |name: &str, same: bool, expected: String, found: String| {
        if !same {
            fields.push(format!("{name} is {found}, expected was {expected}"));
        }
    };
    macro_rules! check {
        ($($name:ident),*) => {
            $(field(
                stringify!($name),
                expected.$name == found.$name,
                format!("{:?}", expected.$name),
                format!("{:?}", found.$name),
            );)*
        };
    }
    check!(
        detection_id,
        activity,
        window_state,
        clock_stepped,
        folded,
        host_id,
        window_start,
        window_end,
        evidence,
        failed
    );
    let rows = match (&expected.row, &found.row) {
        // What was cut to fit says so; what was there before is not known here.
        (_, Some(found)) if is_cut_row(&found.to_string()) => true,
        (Some(expected), Some(found)) => alike(expected, found),
        (expected, found) => expected == found,
    };
    let shown = |row: &Option<Value>| {
        row.as_ref()
            .map_or_else(|| "no JSON".to_owned(), Value::to_string)
    };
    field("row", rows, shown(&expected.row), shown(&found.row));
    // A message that shows a float may differ in its last digits only where the row does.
    // Where the row could not be computed the sentence says why, in the engine's words.
    let exactly = expected.row == found.row && !expected.failed && !is_cut(&found.message);
    field(
        "message",
        !exactly || expected.message == found.message,
        expected.message.clone(),
        found.message.clone(),
    );
    (!fields.is_empty()).then(|| format!("differs: {}: {}", text(expected), fields.join("; ")))
}

/// Equal, floats up to the tolerance.
pub(crate) fn alike(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) if left.is_f64() || right.is_f64() => {
            let (left, right) = (
                left.as_f64().unwrap_or(f64::NAN),
                right.as_f64().unwrap_or(f64::NAN),
            );
            (left - right).abs() <= TOLERANCE * left.abs().max(right.abs())
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| alike(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, value)| right.get(key).is_some_and(|other| alike(value, other)))
        }
        _ => left == right,
    }
}
