//! Tests of detections as data: what stands beside `<name>.sql`.
//!
//! | file | holds |
//! | --- | --- |
//! | `<name>.events.jsonl` | one event a line, fields left out take their default; at least one hit and one near miss |
//! | `<name>.alerts.jsonl` | what the detection must say of them, one alert a line, in order |
//!
//! Lines of events that are empty or start with `#` are left out. An event's `seq` is the number of its line, whatever it says;
//! an expected alert of a single event names it, so that a reader finds the event. The alert of a window names the window, and
//! whether it is said early (`open`) or at the close. Windows go by the events' `ts`; `_ingest_ts`, which is no column, is when
//! the broker appended the event (none where it is left out). Times are RFC 3339 text, or nanoseconds since 1970. The file's end closes what is open.
//!
//! Every file runs through the engine at once and record by record, and through the [`oracle`]: all must say the
//! same.

use std::fs;
use std::path::{Path, PathBuf};

use dogwatch_schemas::reads::{self, ReadPattern};
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::time;
use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::alert::AlertMode;
use crate::decode::InputRecord;
use crate::detect::{Detection, DetectionSet, LoadError, Refusal, Warning, without_mark};
use crate::engine::{Engine, EngineError, StepOutput};
use crate::oracle::{self, Input, Late, Oracle, OracleError};

/// Each file is a log of its own, one after the other.
const PARTITION: i32 = 0;
/// What in a line of events is no column: the broker's time, nanoseconds.
const INGEST_TS: &str = "_ingest_ts";

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
    let detections: Vec<(String, PathBuf)> = report
        .set
        .iter()
        .map(|detection| (detection.id.clone(), detection.file.clone()))
        .collect();
    let files = detections.iter().map(|(_, file)| file.as_path());
    let mut examples = Examples {
        oracle: Oracle::load_files(folder, files)?.without_throttle(),
        engine: Engine::new(report.set, AlertMode::Test)?.without_throttle(),
        update,
    };
    let mut results = Vec::new();
    for (id, file) in detections {
        results.push(examples.test(id, &file)?);
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
    fn test(&mut self, detection_id: String, file: &Path) -> Result<ContentResult, ContentError> {
        let mut result = ContentResult {
            detection_id,
            events: 0,
            alerts: 0,
            problems: Vec::new(),
        };
        let records = match read_events(&file.with_extension("events.jsonl")) {
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

/// The events of a file as records of a log of their own; a line's number is its seq and offset.
fn read_events(file: &Path) -> Result<Vec<InputRecord>, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("could not read {}: {error}", file.display()))?;
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
        let mut event: Event = serde_json::from_value(Value::Object(fields)).map_err(explain)?;
        event.seq = line;
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        records.push(InputRecord {
            topic: Topic::Events,
            partition: PARTITION,
            offset: line,
            ingest_ts_ns,
            key: event.host_id.as_bytes().to_vec().into(),
            value: value.into(),
        });
    }
    Ok(records)
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
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return problems.push(format!("could not read {}: {error}", file.display())),
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

/// How much something matters that a linter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The detection may never say anything, or leave out what it should not.
    Warning,
    /// An author should know.
    Remark,
}

impl Weight {
    /// The word before what is said.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Remark => "remark",
        }
    }
}

/// What a linter says of one detection that loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Line in the file, from 1.
    pub line: usize,
    /// How much it matters.
    pub weight: Weight,
    /// What to know, and what to do about it.
    pub text: String,
}

/// Says what is wrong with a detection and what an author should know of it, where sensors publish these reads every time.
#[must_use]
pub fn lint(detection: &Detection, published: &[ReadPattern]) -> Vec<Remark> {
    let warning = |line: usize, text: String| Remark {
        line,
        weight: Weight::Warning,
        text,
    };
    let own = detection
        .warnings()
        .map(|Warning(fault)| warning(fault.line, format!("{}; {}", fault.reason, fault.mend)));
    let unpublished =
        unpublished_reads(detection, published).map(|text| warning(detection.reads_line, text));
    let general = lint_header(detection).into_iter().map(|text| Remark {
        line: 1,
        weight: Weight::Remark,
        text,
    });
    own.chain(unpublished).chain(general).collect()
}

/// Says which of the declared reads no sensor publishes every time.
fn unpublished_reads(detection: &Detection, published: &[ReadPattern]) -> Option<String> {
    let missing: Vec<String> = reads::uncovered(published, &detection.header.reads)
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "reads of {} are published once an hour, not every time; add {} to kernel.sensitive_read_paths of the sensors",
            missing.join(", "),
            if missing.len() == 1 { "it" } else { "them" },
        )
    })
}

fn lint_header(detection: &Detection) -> Vec<String> {
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
        (
            "dedup",
            header.dedup.key.is_empty() && header.dedup.period.is_none(),
        ),
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
            let remarks = lint(detection, &reads::default_patterns());
            assert_eq!(remarks, [], "{}", detection.id);
        }
        assert_eq!(report.list_warnings, []);
    }

    #[test]
    fn shipped_detections_declare_every_read_that_an_example_is_a_hit_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detections");
        let report = DetectionSet::load(&folder).expect("detections");
        let mut reads = 0;
        for detection in report.set.iter() {
            let text = |extension: &str| {
                fs::read_to_string(detection.file.with_extension(extension)).expect("examples")
            };
            let (events, alerts) = (text("events.jsonl"), text("alerts.jsonl"));
            let events: Vec<&str> = events.lines().collect();
            for alert in alerts.lines() {
                let alert: Value = serde_json::from_str(alert).expect("an alert");
                let Some(line) = alert["event"].as_u64() else {
                    continue;
                };
                let event: Value =
                    serde_json::from_str(events[line as usize - 1]).expect("an event");
                let is = |column: &str| event[column] == Value::Bool(true);
                if !is("evt_is_open_read")
                    || is("evt_is_open_write")
                    || is("evt_is_open_create")
                    || is("evt_failed")
                {
                    continue;
                }
                reads += 1;
                let paths = ["fd_name", "fd_host_name"].map(|column| event[column].as_str());
                let declared =
                    |path: &str| detection.header.reads.iter().any(|own| own.matches(path));
                assert!(
                    paths.into_iter().flatten().any(declared),
                    "{}: line {line}: {paths:?}",
                    detection.id
                );
            }
        }
        assert!(reads > 10, "{reads} examples are reads");
    }

    /// The alerts of a detection that is named `d`, on these events, and its file's hash.
    fn alerts_of(query: &str, header: &str, events: &[Value]) -> (Vec<Alert>, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let tactic = folder.path().join("execution");
        fs::create_dir_all(&tactic).expect("a folder");
        let text = format!(
            "-- title = \"t\"\n-- description = \"d\"\n-- severity = \"low\"\n-- status = \"stable\"\n{header}\n{query}\n"
        );
        fs::write(tactic.join("d.sql"), text).expect("a detection");
        let file = folder.path().join("events.jsonl");
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        fs::write(&file, lines.join("\n")).expect("events");
        let report = DetectionSet::load(folder.path()).expect("detections");
        assert_eq!(report.refused, []);
        let hash = report.set.at(0).content_hash.clone();
        let mut engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
        let records = read_events(&file).expect("events");
        let mut alerts = engine.step(records).expect("a step").alerts;
        alerts.extend(engine.finish(0).expect("the end").alerts);
        (alerts, hash)
    }

    /// Hexadecimal digits of the SHA-256 over parts joined by NUL.
    fn digest(parts: &[&str], bytes: usize) -> String {
        use sha2::{Digest, Sha256};
        crate::detect::hex(&Sha256::digest(parts.join("\0").as_bytes())[..bytes])
    }

    const TIME: &str = "1750003200000000211";
    const TIME_TEXT: &str = "2025-06-15T16:00:00.000000211Z";

    fn timed_event() -> Value {
        serde_json::json!({
            "evt_type": "execve", "host_id": "h", "sensor_run": "r", "container_id": "c",
            "ts": TIME_TEXT, "proc_pid_ts": 1_750_003_200_000_000_211_i64, "proc_apid_ts": [7],
        })
    }

    #[test]
    fn identities_of_single_events_are_of_numbers_and_what_is_told_is_text() {
        let (alerts, hash) = alerts_of(
            "SELECT container_id, ts, boot_ts, proc_apid_ts FROM events WHERE evt_type = 'execve'",
            "-- message = \"at {ts}, {proc_apid_ts}\"\n-- dedup = { key = [\"ts\"] }",
            &[timed_event()],
        );
        let [alert] = &alerts[..] else {
            panic!("{alerts:?}")
        };
        assert_eq!(&*alert.alert_id, digest(&["d", &hash, "h", "r", "1"], 16));
        assert_eq!(
            *alert.dedup_key,
            format!("d/{}", digest(&["h", "c", TIME], 8))
        );
        let ancestor = "1970-01-01T00:00:00.000000007Z";
        assert_eq!(&*alert.message, format!("at {TIME_TEXT}, {ancestor}"));
        let row: Value = serde_json::from_str(&alert.row).expect("JSON");
        let told = serde_json::json!({"container_id": "c", "ts": TIME_TEXT, "boot_ts": 0, "proc_apid_ts": [ancestor]});
        assert_eq!(row, told);
        let evidence: Value = serde_json::from_str(&alert.evidence[0].row).expect("JSON");
        assert_eq!(
            (&evidence["ts"], &evidence["proc_pid_ts"]),
            (&TIME_TEXT.into(), &TIME_TEXT.into())
        );
        let whole = serde_json::to_value(alert).expect("JSON");
        assert_eq!(whole["event_ts"], TIME_TEXT);
    }

    #[test]
    fn identities_of_windows_are_of_numbers_and_what_is_told_is_text() {
        let (alerts, hash) = alerts_of(
            "SELECT window_start, container_id, proc_pid_ts, max(ts) AS newest FROM tumble(events, INTERVAL '1 hour') \
             GROUP BY window_start, window_end, container_id, proc_pid_ts",
            "-- message = \"from {window_start} to {newest}\"\n-- dedup = { key = [\"window_start\", \"newest\"] }",
            &[timed_event()],
        );
        let [alert] = &alerts[..] else {
            panic!("{alerts:?}")
        };
        let (start, start_text) = ("1750003200000000000", "2025-06-15T16:00:00.000000000Z");
        let keys = format!("[\"c\",{TIME}]");
        let identity = ["d", &hash, "window", "h", &keys, start, ""];
        assert_eq!(&*alert.alert_id, digest(&identity, 16));
        assert_eq!(
            *alert.dedup_key,
            format!("d/{}", digest(&["h", "c", start, TIME], 8))
        );
        assert_eq!(&*alert.message, format!("from {start_text} to {TIME_TEXT}"));
        let row: Value = serde_json::from_str(&alert.row).expect("JSON");
        let told = serde_json::json!({"container_id": "c", "newest": TIME_TEXT, "proc_pid_ts": TIME_TEXT, "window_start": start_text});
        assert_eq!(row, told);
    }

    #[test]
    fn a_detection_that_cannot_judge_is_not_blamed_on_its_neighbour() {
        let folder = tempfile::tempdir().expect("a folder");
        let tactic = folder.path().join("execution");
        fs::create_dir_all(&tactic).expect("a folder");
        let header = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{proc_name}\"\n-- severity = \"low\"\n-- status = \"stable\"\n";
        for (name, more) in [
            ("good", ""),
            ("fails", " AND CAST(proc_name AS BIGINT) > 0"),
        ] {
            let query = format!("SELECT proc_name FROM events WHERE evt_type = 'execve'{more}\n");
            fs::write(
                tactic.join(format!("{name}.sql")),
                format!("{header}{query}"),
            )
            .expect("a detection");
            let alert = if name == "good" { ALERT } else { "" };
            fs::write(tactic.join(format!("{name}.alerts.jsonl")), alert).expect("alerts");
            fs::write(
                tactic.join(format!("{name}.events.jsonl")),
                format!("{HIT}{MISS}"),
            )
            .expect("events");
        }
        let report = test(folder.path(), false).expect("a report");
        let [fails, good] = &report.results[..] else {
            panic!("two detections")
        };
        assert_eq!(good.problems, Vec::<String>::new());
        let told = |problem: &String| {
            problem.contains("line 1: ") && problem.contains("fails.sql:6 cannot judge it: ")
        };
        assert!(fails.problems.iter().any(told), "{:?}", fails.problems);
    }

    /// What is said to be wrong with a detection on execve of these examples.
    fn problems(events: &str, alerts: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let tactic = folder.path().join("execution");
        fs::create_dir_all(&tactic).expect("a folder");
        let query = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"{proc_name}\"\n-- severity = \"low\"\n\
                     -- status = \"stable\"\nSELECT proc_name FROM events WHERE evt_type = 'execve'\n";
        fs::write(tactic.join("d.sql"), query).expect("a detection");
        fs::write(tactic.join("d.events.jsonl"), events).expect("events");
        fs::write(tactic.join("d.alerts.jsonl"), alerts).expect("alerts");
        let report = test(folder.path(), false).expect("a report");
        assert_eq!(report.refused, Vec::new());
        let [result] = &report.results[..] else {
            panic!("one detection")
        };
        result.problems.clone()
    }

    const HIT: &str = "{\"evt_type\": \"execve\", \"proc_name\": \"sh\", \"_ingest_ts\": 7}\n";
    const MISS: &str = "# no execve\n{\"evt_type\": \"open\"}\n";
    const ALERT: &str = "{\"event\":1,\"message\":\"sh\",\"row\":{\"proc_name\":\"sh\"}}\n";

    #[test]
    fn what_is_wrong_with_examples_is_named() {
        fn check(events: &str, alerts: &str, words: &str) {
            let problems = problems(events, alerts);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(words), "{problems:?}");
        }
        let examples = format!("{HIT}{MISS}");
        assert_eq!(problems(&examples, ALERT), Vec::<String>::new());
        check(HIT, ALERT, "no event is a near miss");
        check(&examples, "", "line 1: said, but not expected: sh {");
        let two = format!("{ALERT}{ALERT}");
        check(&examples, &two, "line 1: expected, but not said: sh {");
        check("{\"evt_type\": 1}", "", "events.jsonl:1: invalid type");
    }
}
