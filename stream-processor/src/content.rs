//! Tests of detections as data: what stands beside `<name>.sql`.
//!
//! | file | holds |
//! | --- | --- |
//! | `<name>.events.jsonl` | one event a line, fields left out take their default; at least one hit and one near miss |
//! | `<name>.alerts.jsonl` | what the detection must say of them, one alert a line, in order |
//!
//! The events are rows of the table that the detection reads; `_table`, which is no column, names it, and must where it is not
//! `events`. Lines that are empty or start with `#` are left out. An event's `seq` is the number of its line, whatever it says;
//! an expected alert of a single event names it, so that a reader finds the event. The alert of a window names the window, and
//! whether it is said early (`open`) or at the close. Windows go by the events' `ts`; `_ingest_ts`, which is no column, is when
//! the broker appended the event (none where it is left out). Times are RFC 3339 text, or nanoseconds since 1970. The file's end closes what is open.
//!
//! Every file runs through the engine at once and record by record, and through the [`oracle`]: all must say the
//! same.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use dogwatch_schemas::records::{
    Alert, ContainerSample, Event, IoSample, ProcessSample, SyscallSample,
};
use dogwatch_schemas::time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::alert::AlertMode;
use crate::decode::InputRecord;
use crate::detect::{DetectionSet, LoadError, Refusal, without_mark};
use crate::engine::{Engine, EngineError, StepOutput};
use crate::oracle::{self, Input, Late, Oracle, OracleError};
use crate::tables::Table;

mod remarks;
#[cfg(test)]
mod tests;

pub use remarks::{Remark, Weight, lint};

/// Each file is a log of its own, one after the other.
const PARTITION: i32 = 0;
/// What in a line of events is no column: the broker's time, nanoseconds.
const INGEST_TS: &str = "_ingest_ts";
/// What in a line is no column either: the table that it is a row of.
const TABLE: &str = "_table";

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
    /// The oracle cannot be asked.
    #[error(transparent)]
    Oracle(#[from] OracleError),
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
    /// Line of the event; none on windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<i64>,
    /// Start of the window; nanoseconds here, RFC 3339 text in the file.
    #[serde(
        default,
        with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    window_start: Option<i64>,
    /// End of the window, as its start.
    #[serde(
        default,
        with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    window_end: Option<i64>,
    /// `open` or `closed` on windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    window_state: Option<String>,
    /// `create`, which need not be written, or `update`.
    #[serde(default = "create", skip_serializing_if = "creates")]
    activity: String,
    /// How many repeats it counts.
    #[serde(default, skip_serializing_if = "none")]
    folded: i64,
    message: String,
    /// What the SELECT yields.
    row: Value,
}

fn create() -> String {
    "create".to_owned()
}

fn creates(activity: &str) -> bool {
    activity == "create"
}

fn none(count: &i64) -> bool {
    *count == 0
}

/// Runs the examples of every detection in a folder; with `update`, writes what they say as what is expected.
///
/// Must be called from a plain thread, not from an async task.
///
/// # Errors
/// When the folder holds no detections, or expected alerts cannot be written.
pub fn test(folder: &Path, update: bool) -> Result<ContentReport, ContentError> {
    let report = DetectionSet::load(folder)?;
    let own = report.set.iter();
    let detections: Vec<(String, PathBuf, Table)> = own
        .map(|own| (own.id.clone(), own.file.clone(), own.table))
        .collect();
    let files = detections.iter().map(|(_, file, _)| file.as_path());
    let mut examples = Examples {
        oracle: Oracle::load_files(folder, files)?.without_throttle(),
        engine: Engine::new(report.set, AlertMode::Test)?.without_throttle(),
        update,
    };
    let mut results = Vec::new();
    for (id, file, table) in detections {
        results.push(examples.test(id, &file, table)?);
    }
    Ok(ContentReport {
        results,
        refused: report.refused,
    })
}

/// What runs the examples.
struct Examples {
    engine: Engine,
    oracle: Oracle,
    update: bool,
}

/// What a detection said of its examples.
#[derive(Default)]
struct Said {
    alerts: Vec<Alert>,
    late: Vec<Late>,
    problems: Vec<String>,
}

impl Examples {
    fn test(
        &mut self,
        detection_id: String,
        file: &Path,
        table: Table,
    ) -> Result<ContentResult, ContentError> {
        let mut result = ContentResult {
            detection_id,
            events: 0,
            alerts: 0,
            problems: Vec::new(),
        };
        let records = match read_events(&file.with_extension("events.jsonl"), table) {
            Ok(records) => records,
            Err(problem) => {
                result.problems.push(problem);
                return Ok(result);
            }
        };
        result.events = records.len();
        let whole = self.run(&result.detection_id, &records, usize::MAX)?;
        let single = self.run(&result.detection_id, &records, 1)?;
        let oracle = self
            .oracle
            .run_of(&result.detection_id, &records, Input::Bounded)?;
        result.problems.extend(whole.problems.iter().cloned());
        for (how, said) in [("in one step", &whole), ("in many steps", &single)] {
            let differences = oracle::compare(&oracle.alerts, &said.alerts)
                .into_iter()
                .chain(oracle::compare_order(&oracle.alerts, &said.alerts))
                .chain(oracle::compare_late(&oracle.late, &said.late));
            let problems =
                differences.map(|difference| format!("{how}, held to the oracle: {difference}"));
            result.problems.extend(problems);
        }
        let own: Vec<ExpectedAlert> = whole.alerts.iter().map(expected_alert).collect();
        result.alerts = own.len();
        if own.is_empty() {
            result.problems.push("no event is a hit".to_owned());
        }
        // A window's near miss is a key that stays below, which no count of events tells.
        let windows = own.iter().any(|alert| alert.window_start.is_some());
        if !windows && own.len() == result.events {
            result.problems.push("no event is a near miss".to_owned());
        }
        let expected_file = file.with_extension("alerts.jsonl");
        if self.update {
            write_expected(&expected_file, &own).map_err(|source| ContentError::Write {
                file: expected_file,
                source,
            })?;
        } else {
            compare(&expected_file, &own, &mut result.problems);
        }
        Ok(result)
    }

    /// Runs the records as a log of their own, so many a step, to its end.
    fn run(
        &mut self,
        detection_id: &str,
        records: &[InputRecord],
        records_a_step: usize,
    ) -> Result<Said, ContentError> {
        let mut said = Said::default();
        for records in records.chunks(records_a_step) {
            said.take(detection_id, self.engine.step(records.to_vec())?);
        }
        said.take(detection_id, self.engine.finish(0)?);
        self.engine.forget_partition(PARTITION);
        Ok(said)
    }
}

impl Said {
    /// Adds what a step said, of this detection alone.
    fn take(&mut self, detection_id: &str, output: StepOutput) {
        let own = |id: &str| id == detection_id;
        self.alerts.extend(
            output
                .alerts
                .into_iter()
                .filter(|alert| own(&alert.detection_id)),
        );
        let late = output
            .late
            .into_iter()
            .filter(|late| late.detections.iter().any(|id| own(id)));
        self.late.extend(late.map(|late| Late {
            partition: late.record.partition,
            offset: late.record.offset,
            detections: vec![detection_id.to_owned()],
        }));
        self.problems.extend(
            output
                .dead_letters
                .iter()
                .map(|letter| format!("line {}: {}", letter.record.offset, letter.error)),
        );
        // The others see the events, too: what they cannot judge is told where they are tested.
        let failures = output.failures.iter();
        let failures = failures.filter(|failure| own(&failure.detection_id));
        self.problems.extend(failures.map(|failure| {
            let kind = if failure.of_window {
                "the window that it completes"
            } else {
                "it"
            };
            format!(
                "line {}: {} cannot judge {kind}: {}",
                failure.offset, failure.place, failure.error
            )
        }));
    }
}

/// A file beside a detection; the error of one that is not there says what makes it.
fn read(file: &Path, mend: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{} is missing: {mend}", file.display()),
        _ => format!("could not read {}: {error}", file.display()),
    })
}

/// The events of a file as records of a log of their own; a line's number is its seq and offset.
fn read_events(file: &Path, table: Table) -> Result<Vec<InputRecord>, String> {
    let text = read(
        file,
        "put events there that the detection must find and must not find, one JSON object a line",
    )?;
    let text = without_mark(&text);
    let mut records = Vec::new();
    for (line, text) in (1..)
        .zip(text.lines())
        .filter(|(_, text)| !text.trim().is_empty() && !text.starts_with('#'))
    {
        let explain = |error| format!("{}:{line}: {error}", file.display());
        let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(explain)?;
        let ingest_ts = fields.remove(INGEST_TS).unwrap_or_default();
        let ingest_ts_ns = time::optional::deserialize(ingest_ts).map_err(explain)?;
        let named = fields.remove(TABLE);
        if named
            .as_ref()
            .map_or(Table::Events.name(), |name| name.as_str().unwrap_or(""))
            != table.name()
        {
            return Err(format!(
                "{}:{line}: the detection reads {}: write \"{TABLE}\": \"{}\" into each line",
                file.display(),
                table.name(),
                table.name()
            ));
        }
        let (key, value) = record(table, fields, line).map_err(explain)?;
        records.push(InputRecord {
            topic: table.topic(),
            partition: PARTITION,
            offset: line,
            ingest_ts_ns,
            key: key.into(),
            value: value.into(),
        });
    }
    Ok(records)
}

/// A line's row as its table's record: key and bytes.
fn record(
    table: Table,
    fields: Map<String, Value>,
    line: i64,
) -> serde_json::Result<(Vec<u8>, Vec<u8>)> {
    macro_rules! encoded {
        ($record:ident) => {{
            let mut row: $record = serde_json::from_value(Value::Object(fields))?;
            row.seq = line;
            let mut value = Vec::new();
            row.encode_framed(&mut value);
            Ok((row.host_id.as_bytes().to_vec(), value))
        }};
    }
    match table {
        Table::Events => encoded!(Event),
        Table::ContainerSamples => encoded!(ContainerSample),
        Table::ProcessSamples => encoded!(ProcessSample),
        Table::SyscallSamples => encoded!(SyscallSample),
        Table::IoSamples => encoded!(IoSample),
    }
}

fn expected_alert(alert: &Alert) -> ExpectedAlert {
    let event = alert.evidence.first().map_or(0, |evidence| evidence.seq);
    ExpectedAlert {
        event: alert.window_start.is_none().then_some(event),
        window_start: alert.window_start,
        window_end: alert.window_end,
        window_state: alert.window_state.as_ref().map(ToString::to_string),
        activity: alert.activity.to_string(),
        folded: alert.folded,
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
    let mend =
        "`dogwatch detections test --update` writes what comes out; read it before it is committed";
    let text = match read(file, mend) {
        Ok(text) => text,
        Err(problem) => return problems.push(problem),
    };
    let text = without_mark(&text);
    let mut surplus = alerts.to_vec();
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, text)| !text.trim().is_empty());
    for (line, text) in lines {
        match serde_json::from_str::<ExpectedAlert>(text) {
            Ok(wanted) => match surplus.iter().position(|alert| *alert == wanted) {
                Some(place) => drop(surplus.remove(place)),
                None => problems.push(wanted.told("expected, but not said")),
            },
            Err(error) => problems.push(format!("{}:{line}: {error}", file.display())),
        }
    }
    problems.extend(
        surplus
            .iter()
            .map(|alert| alert.told("said, but not expected")),
    );
}

impl ExpectedAlert {
    /// Where it belongs, what is the matter with it, and what it says.
    fn told(&self, matter: &str) -> String {
        let place = match (self.event, self.window_start) {
            (Some(event), _) => format!("line {event}"),
            (None, start) => {
                let state = self.window_state.as_deref().unwrap_or_default();
                format!("window {}, {state}", time::text(start.unwrap_or_default()))
            }
        };
        let folded = match self.folded {
            0 => String::new(),
            count => format!("{count} folded: "),
        };
        format!("{place}: {matter}: {folded}{} {}", self.message, self.row)
    }
}
