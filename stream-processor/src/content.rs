//! Tests of detections as data: what stands beside `<name>.sql`.
//!
//! | file | holds |
//! | --- | --- |
//! | `<name>.events.jsonl` | one event a line, fields left out take their default; at least one hit and one near miss |
//! | `<name>.alerts.jsonl` | what the detection must say of them, one alert a line, in order |
//!
//! Lines of events that are empty or start with `#` are left out. An event's `seq` is the number of its line, whatever it says;
//! an expected alert names it, so that a reader finds the event. The events run through the engine as they would from the log.

use std::fs;
use std::path::{Path, PathBuf};

use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::alert::AlertMode;
use crate::decode::InputRecord;
use crate::detect::{Detection, DetectionSet, LoadError, Refusal};
use crate::engine::{Engine, EngineError};

/// What became of one detection's examples.
#[derive(Debug)]
pub struct ContentResult {
    /// The detection.
    pub detection_id: String,
    /// How many events there were.
    pub events: usize,
    /// How many of them were hits.
    pub alerts: usize,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
}

/// What became of a folder's examples.
#[derive(Debug)]
pub struct ContentReport {
    /// By detection, in the order of names.
    pub results: Vec<ContentResult>,
    /// Files that did not load.
    pub refused: Vec<Refusal>,
}

impl ContentReport {
    /// True when every file loaded and every example said what it must.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.refused.is_empty() && self.results.iter().all(|result| result.problems.is_empty())
    }
}

/// Why a folder's examples could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The folder holds no detections to test.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine cannot be made, or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The expected alerts could not be written.
    #[error("could not write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// What is expected of an alert: the part that an author decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedAlert {
    /// Line of the event.
    event: i64,
    message: String,
    /// What the SELECT yields.
    row: Value,
}

/// Runs the examples of every detection in a folder; with `update`, writes what they say as what is expected.
///
/// Must be called from a plain thread, not from an async task.
///
/// # Errors
/// When the folder holds no detections, or expected alerts cannot be written.
pub fn test(folder: &Path, update: bool) -> Result<ContentReport, ContentError> {
    let report = DetectionSet::load(folder)?;
    let mut engine = Engine::new(report.set, AlertMode::Test)?;
    let detections: Vec<(String, PathBuf)> = engine
        .detections()
        .iter()
        .map(|detection| (detection.id.clone(), detection.file.clone()))
        .collect();
    let mut results = Vec::new();
    for (partition, (id, file)) in (0..).zip(detections) {
        results.push(test_one(&mut engine, partition, id, &file, update)?);
    }
    Ok(ContentReport {
        results,
        refused: report.refused,
    })
}

fn test_one(
    engine: &mut Engine,
    partition: i32,
    detection_id: String,
    file: &Path,
    update: bool,
) -> Result<ContentResult, ContentError> {
    let mut result = ContentResult {
        detection_id,
        events: 0,
        alerts: 0,
        problems: Vec::new(),
    };
    let records = match read_events(&file.with_extension("events.jsonl"), partition) {
        Ok(records) => records,
        Err(problem) => {
            result.problems.push(problem);
            return Ok(result);
        }
    };
    result.events = records.len();
    let output = engine.step(records)?;
    result.problems.extend(
        output
            .dead_letters
            .iter()
            .map(|letter| format!("line {}: {}", letter.record.offset, letter.error)),
    );
    result.problems.extend(
        output
            .failures
            .iter()
            .map(|failure| format!("line {}: {}", failure.offset, failure.error)),
    );
    let own: Vec<ExpectedAlert> = output
        .alerts
        .iter()
        .filter(|alert| *alert.detection_id == *result.detection_id)
        .map(expected)
        .collect();
    result.alerts = own.len();
    if own.is_empty() {
        result.problems.push("no event is a hit".to_owned());
    }
    if own.len() == result.events {
        result.problems.push("no event is a near miss".to_owned());
    }
    let expected_file = file.with_extension("alerts.jsonl");
    if update {
        write_expected(&expected_file, &own).map_err(|source| ContentError::Write {
            file: expected_file,
            source,
        })?;
    } else {
        compare(&expected_file, &own, &mut result.problems);
    }
    Ok(result)
}

/// The events of a file as records of a log of their own; a line's number is its seq and offset.
fn read_events(file: &Path, partition: i32) -> Result<Vec<InputRecord>, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("could not read {}: {error}", file.display()))?;
    let mut records = Vec::new();
    for (line, text) in (1..)
        .zip(text.lines())
        .filter(|(_, text)| !text.trim().is_empty() && !text.starts_with('#'))
    {
        let mut event: Event = serde_json::from_str(text)
            .map_err(|error| format!("{}:{line}: {error}", file.display()))?;
        event.seq = line;
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        records.push(InputRecord {
            topic: Topic::Events,
            partition,
            offset: line,
            ingest_ts_ns: None,
            key: event.host_id.as_bytes().to_vec().into(),
            value: value.into(),
        });
    }
    Ok(records)
}

fn expected(alert: &Alert) -> ExpectedAlert {
    ExpectedAlert {
        event: alert.evidence.first().map_or(0, |evidence| evidence.seq),
        message: alert.message.to_string(),
        row: serde_json::from_str(&alert.row).unwrap_or_default(),
    }
}

fn write_expected(file: &Path, alerts: &[ExpectedAlert]) -> std::io::Result<()> {
    let mut text = String::new();
    for alert in alerts {
        text.push_str(&serde_json::to_string(alert)?);
        text.push('\n');
    }
    fs::write(file, text)
}

fn compare(file: &Path, alerts: &[ExpectedAlert], problems: &mut Vec<String>) {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return problems.push(format!("could not read {}: {error}", file.display())),
    };
    let mut wanted = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        match serde_json::from_str::<ExpectedAlert>(text) {
            Ok(alert) => wanted.push(alert),
            Err(error) => problems.push(format!("{}:{line}: {error}", file.display())),
        }
    }
    for missing in wanted.iter().filter(|alert| !alerts.contains(alert)) {
        problems.push(format!(
            "line {}: expected, but not said: {} {}",
            missing.event, missing.message, missing.row
        ));
    }
    for surplus in alerts.iter().filter(|alert| !wanted.contains(alert)) {
        problems.push(format!(
            "line {}: said, but not expected: {} {}",
            surplus.event, surplus.message, surplus.row
        ));
    }
}

/// What a linter says of one detection: nothing is wrong, but an author should know.
#[must_use]
pub fn lint(detection: &Detection) -> Vec<String> {
    let mut remarks = Vec::new();
    let header = &detection.header;
    if detection.event_types().is_none() {
        remarks.push("no condition on evt_type: it is shown every event".to_owned());
    }
    if !detection.filters() {
        remarks.push("more than a filter: it costs a plan's run for each batch".to_owned());
    }
    if !detection
        .outputs
        .iter()
        .any(|column| column == "container_id")
    {
        remarks.push("its row does not name container_id".to_owned());
    }
    let empty = [
        ("attack", header.attack.is_empty()),
        ("false_positives", header.false_positives.is_empty()),
        ("blind_spots", header.blind_spots.is_empty()),
        ("references", header.references.is_empty()),
        ("dedup_key", header.dedup_key.is_empty()),
        ("response", header.response.is_none()),
    ];
    remarks.extend(
        empty
            .into_iter()
            .filter(|(_, empty)| *empty)
            .map(|(key, _)| format!("its header says nothing of {key}")),
    );
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set to write what detections say of their events as what is expected of them; review the difference like code.
    const UPDATE_VARIABLE: &str = "DOGWATCH_UPDATE_EXPECTED";

    #[test]
    fn shipped_detections_say_what_is_expected_of_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
        let report =
            test(&folder, std::env::var_os(UPDATE_VARIABLE).is_some()).expect("detections");
        let problems: Vec<String> = report
            .results
            .iter()
            .flat_map(|result| {
                result
                    .problems
                    .iter()
                    .map(|problem| format!("{}: {problem}", result.detection_id))
            })
            .chain(report.refused.iter().map(ToString::to_string))
            .collect();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn shipped_detections_leave_nothing_to_remark() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
        let report = DetectionSet::load(&folder).expect("detections");
        for detection in report.set.iter() {
            assert_eq!(lint(detection), Vec::<String>::new(), "{}", detection.id);
        }
    }
}
