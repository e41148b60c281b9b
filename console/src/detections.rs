//! `dogwatch detections`: what is looked for, whether it loads, whether it finds what it must.
//!
//! The work is the stream processor's; here it becomes text and an exit code.

use std::fmt::Write as _;
use std::path::Path;

use dogwatch_schemas::reads::{ReadPattern, default_patterns};
use dogwatch_sensor::config::{Config, ConfigError};
use dogwatch_stream_processor::content::{self, ContentError, ContentReport, Remark, Weight};
use dogwatch_stream_processor::detect::{Code, DetectionSet, LoadError, LoadReport, Refusal};
use dogwatch_stream_processor::engine::TaskBound;
use dogwatch_stream_processor::tables::Table;
use dogwatch_stream_processor::window::{self, WindowOptions};

/// What to print, and whether all was well.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Lines for standard output.
    pub text: String,
    /// False when a file was refused or an example failed.
    pub passed: bool,
}

/// Describes each detection of a folder, by tactic.
///
/// # Errors
/// [`LoadError`] when the folder cannot be read or holds none.
pub fn list(folder: &Path) -> Result<Report, LoadError> {
    let LoadReport { set, refused, .. } = DetectionSet::load(folder)?;
    let mut detections: Vec<_> = set.iter().collect();
    detections.sort_by_key(|detection| (&detection.tactic, &detection.id));
    let id_width = detections
        .iter()
        .map(|detection| detection.id.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let mut tactic = None;
    for detection in &detections {
        if tactic != Some(&detection.tactic) {
            let _ = writeln!(text, "{}", detection.tactic);
            tactic = Some(&detection.tactic);
        }
        let header = &detection.header;
        let attack = header.attack.join(" ");
        let (severity, status) = (header.severity.name(), header.status.name());
        let _ = writeln!(
            text,
            "  {:id_width$}  {severity:13}  {status:12}  {}{}{attack}",
            detection.id,
            header.title,
            if attack.is_empty() { "" } else { "  " }
        );
    }
    let _ = writeln!(
        text,
        "{} in {}{}",
        count(detections.len(), "detection"),
        folder.display(),
        refusals(&refused)
    );
    Ok(Report {
        text,
        passed: refused.is_empty(),
    })
}

/// Says what keeps files of a folder from loading, and what an author should know about the others, where sensors are so;
/// `strict` makes warnings count as refusals do.
///
/// # Errors
/// [`LoadError`] when the folder cannot be read or holds none.
pub fn lint(folder: &Path, sensor: &SensorView, strict: bool) -> Result<Report, LoadError> {
    let LoadReport {
        set,
        refused,
        list_warnings,
    } = DetectionSet::load(folder)?;
    let mut text = String::new();
    let published = &sensor.published_reads;
    let mut blind = set.without_types(&sensor.absent_types);
    blind.retain(|(detection, _)| !detection.allows(Code::UnseenTypes));
    let mut warnings = list_warnings.len() + blind.len();
    for warning in &list_warnings {
        let _ = writeln!(text, "{warning}");
    }
    for (detection, types) in blind {
        let warning = unseen(&detection.id, &types);
        let (file, code) = (detection.file.display(), Code::UnseenTypes.name());
        let _ = writeln!(text, "{file}:1: warning: {warning} [{code}]");
    }
    for detection in set.iter() {
        for Remark {
            line,
            weight,
            text: said,
        } in content::lint(detection, published)
        {
            let file = detection.file.display();
            let _ = writeln!(text, "{file}:{line}: {}: {said}", weight.name());
            warnings += usize::from(weight == Weight::Warning);
        }
    }
    let _ = writeln!(
        text,
        "{} loaded{}{}",
        count(set.len(), "detection"),
        match warnings {
            0 => String::new(),
            some => format!(", {}", count(some, "warning")),
        },
        refusals(&refused)
    );
    Ok(Report {
        text,
        passed: refused.is_empty() && !(strict && warnings > 0),
    })
}

/// What sensors show of the events that detections ask for.
#[derive(Debug, Clone)]
pub struct SensorView {
    /// The reads that they publish every time.
    pub published_reads: Vec<ReadPattern>,
    /// The types of events that they never send.
    pub absent_types: Vec<&'static str>,
}

impl SensorView {
    /// Of sensors with these settings; without a file that of an untouched sensor.
    ///
    /// # Errors
    /// [`ConfigError`] when the file is refused.
    pub fn of(sensor_config: Option<&Path>) -> Result<Self, Box<ConfigError>> {
        let Some(file) = sensor_config else {
            return Ok(Self {
                published_reads: default_patterns(),
                absent_types: Vec::new(),
            });
        };
        let config = Config::load(Some(file), &[])?;
        Ok(Self {
            published_reads: config.published_reads(),
            absent_types: config.calls.absent_types().collect(),
        })
    }
}

/// What a detection does not see where calls are switched off.
pub(crate) fn unseen(detection: &str, types: &[String]) -> String {
    format!(
        "{detection} sees no {}: kernel.calls of the sensor switches it off",
        types.join(", ")
    )
}

/// Tasks that `explain` tells the memory of: the partitions of a topic, where nothing else is configured.
const TASKS: u64 = 8;

/// Says how each detection of a folder is run, and what those over windows can take of memory at most.
///
/// # Errors
/// [`LoadError`] when the folder cannot be read or holds none.
pub fn explain(folder: &Path) -> Result<Report, LoadError> {
    let LoadReport { set, refused, .. } = DetectionSet::load(folder)?;
    let options = WindowOptions::default();
    let bounds = window::bounds(&set, &options);
    let mut text = String::new();
    for detection in set.iter() {
        let _ = writeln!(text, "{}", detection.id);
        let events = detection.event_types().map_or_else(
            || "every event".to_owned(),
            |types| types.iter().cloned().collect::<Vec<_>>().join(", "),
        );
        let table = detection.table;
        let events = match table {
            Table::Events => events,
            _ => format!("every row of {}", table.name()),
        };
        let _ = writeln!(text, "  looks at  {events}");
        match bounds.iter().find(|(id, _)| *id == detection.id) {
            Some((_, bound)) => {
                for line in bound.to_string().lines() {
                    let _ = writeln!(text, "  {line}");
                }
            }
            None => {
                let _ = writeln!(text, "  keeps     nothing: single events");
            }
        }
        if let Some(asked) = &detection.asked {
            let _ = writeln!(text, "  asks      {asked}");
        }
        let dedup = &detection.header.dedup;
        if let Some(period) = dedup.period {
            let _ = writeln!(
                text,
                "  folds     all but {} in {period:?}",
                count(dedup.limit as usize, "alert")
            );
        }
    }
    let bound = TaskBound::new(&set, &options);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let of_fleet = match bound.of_fleet() {
        0 => String::new(),
        _ => format!(
            ", and {} MiB a task that finishes windows of the fleet",
            mib(bound.of_fleet())
        ),
    };
    let _ = writeln!(
        text,
        "{}, {} over windows: with hosts, repeats and alerts at most {} MiB a task{of_fleet}; {TASKS} partitions at most {} MiB{}",
        count(set.len(), "detection"),
        bounds.len(),
        mib(bound.of_hosts),
        mib(bound.of(TASKS)),
        refusals(&refused)
    );
    Ok(Report {
        text,
        passed: refused.is_empty(),
    })
}

/// Runs the examples of each detection; with `update`, writes what comes out as what is expected.
///
/// # Errors
/// [`ContentError`] when the folder holds none, the engine fails or a file cannot be written.
pub fn test(folder: &Path, update: bool) -> Result<Report, ContentError> {
    let report = content::test(folder, update)?;
    let mut text = String::new();
    for result in &report.results {
        let verdict = if result.problems.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        let (alerts, events) = (count(result.alerts, "alert"), count(result.events, "event"));
        let _ = writeln!(
            text,
            "{verdict:6}  {}: {alerts} from {events}",
            result.detection_id
        );
        for problem in &result.problems {
            let _ = writeln!(text, "        {problem}");
        }
    }
    let _ = writeln!(text, "{}{}", verdict(&report), refusals(&report.refused));
    Ok(Report {
        text,
        passed: report.passed(),
    })
}

fn verdict(report: &ContentReport) -> String {
    let failed = report
        .results
        .iter()
        .filter(|result| !result.problems.is_empty())
        .count();
    let total = count(report.results.len(), "detection");
    if failed == 0 {
        format!("{total} passed")
    } else {
        format!("{failed} of {total} failed")
    }
}

/// One line for each refused file, to follow a line of figures.
fn refusals(refused: &[Refusal]) -> String {
    let mut text = String::new();
    if !refused.is_empty() {
        let _ = write!(text, ", {} refused:", count(refused.len(), "file"));
    }
    for refusal in refused {
        let _ = write!(text, "\n{refusal}");
    }
    text
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}
