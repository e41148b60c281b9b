//! `dogwatch query`: one SELECT over a capture, the topics of a fleet, or this host.
//!
//! ```text
//! --read FILE ──────► the sensor's stages ─┐
//! this host, as root ► a sensor of its own ┼─► tables ─► plan ─► rows ─► table, JSON, CSV
//! --kafka, --config ─► topics, no group ───┘
//! ```
//! It reads and changes nothing. What is shown was chosen by whoever is watched: see [`table`].

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dogwatch_kafka::{Fault, REACH, reach};
use dogwatch_query::ask::{Answer, AskError, Next, Question};
use dogwatch_query::feed::{Progress, Source};
use dogwatch_query::follow::{Follow, FollowError};
use dogwatch_query::rows::Bounds;
use dogwatch_query::sql_file::{Fault as Mistake, nearest};
use dogwatch_query::tables;
use dogwatch_sensor::pipeline::{OnHangup, SensorError, Shutdown, hold_signals, stop_on_signals};

use crate::brokers::{BrokersError, brokers};
use crate::cli;
use crate::query::sensor::{SensorSource, WatchError};
use crate::query::table::{Format, Writer};

pub mod sensor;
pub mod table;

/// How often it is looked whether the query is to end.
const TICK: Duration = Duration::from_millis(100);
/// How often people are told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// A query could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is no query that is answered.
    #[error("line {}: {}; {}", .0.line, .0.reason, .0.mend)]
    Mistake(Mistake),
    /// Options that do not go together, or lack something.
    #[error("{0}")]
    Usage(String),
    /// The settings do not name brokers.
    #[error(transparent)]
    Brokers(#[from] BrokersError),
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// This host cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The answer ended before its end.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Some records could not be read.
    #[error("{0} records could not be read, the first of them {1}")]
    Unread(u64, String),
    /// The answer is of what could be read.
    #[error("{0}")]
    Cut(String),
    /// The answer cannot be written.
    #[error("could not write the answer: {0}")]
    Output(#[source] io::Error),
    /// The engine's surroundings, or the thread of signals, cannot be made.
    #[error("could not start: {0}")]
    Start(#[source] io::Error),
}

impl QueryError {
    /// The program's exit code: 1 failure while running, 2 usage or configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Mistake(_)
            | Self::Usage(_)
            | Self::Brokers(_)
            | Self::Kafka(Fault::Options(_)) => 2,
            Self::Kafka(fault) if fault.environment() => 3,
            Self::Watch(error) => error.exit_code(),
            Self::Ask(AskError::Source(source)) => {
                let kafka = source.downcast_ref::<FollowError>();
                let sensor = source.downcast_ref::<SensorError>();
                match (kafka, sensor) {
                    (Some(error), _) if error.environment() => 3,
                    (_, Some(error)) => error.exit_code(),
                    _ => 1,
                }
            }
            Self::Kafka(_)
            | Self::Ask(_)
            | Self::Unread(..)
            | Self::Cut(_)
            | Self::Output(_)
            | Self::Start(_) => 1,
        }
    }
}

/// How a query ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its last row, or because nobody reads on.
    Whole,
    /// A signal cut it short.
    Cut(i32),
}

impl Ended {
    /// The program's exit code: as a shell tells it of a program that a signal ends.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Cut(signal) => 128 + signal as u8,
        }
    }
}

/// Answers a query, or describes the tables.
///
/// # Errors
/// [`QueryError`] names what is wrong, and the mend.
pub fn run(options: &cli::Query) -> Result<Ended, QueryError> {
    if options.tables {
        return printed(&described_tables());
    }
    if let Some(name) = &options.columns {
        return printed(&described_columns(name)?);
    }
    let (text, captures) = words(options)?;
    let bounds = bounds(options)?;
    let progress = Progress::default();
    let shutdown = Shutdown::new();
    hold_signals();
    // First of all: threads made before a sensor is loaded keep every right.
    let source = source(options, &captures, bounds, &progress)?;
    stop_on_signals(shutdown.clone(), OnHangup::End).map_err(QueryError::Start)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(QueryError::Start)?;
    let memory_bytes = options.memory << 20;
    let question = Question::ask(&text, &source, bounds, memory_bytes, Arc::new(runtime))
        .map_err(QueryError::Mistake)?;
    if options.explain {
        return printed(&format!("{}\n", question.explained()?));
    }
    let answer = question.run()?;
    let running = Running {
        progress: progress.clone(),
        shutdown,
        endless: source.endless(),
        end_at: options.span.map(|span| Instant::now() + span),
    };
    let ended = running.print(answer, options.format)?;
    if let Some(reason) = progress.cut() {
        return Err(QueryError::Cut(reason));
    }
    match progress.unread() {
        Some((count, first)) => Err(QueryError::Unread(count, first)),
        None => Ok(ended),
    }
}

/// The query and the captures. A shell makes several words of `--read some.capture.*`.
fn words(options: &cli::Query) -> Result<(String, Vec<PathBuf>), QueryError> {
    let mut captures = options.read.clone();
    let mut words: Vec<String> = options.query.iter().chain(&options.more).cloned().collect();
    if words.is_empty() && captures.len() > 1 {
        let behind = captures.drain(1..);
        words = behind
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
    }
    let is_file = |word: &String| Path::new(word).is_file();
    let query = words.iter().rposition(|word| !is_file(word));
    let query = query.map(|at| words.remove(at));
    let Some(text) = query else {
        let usage =
            "write a query: dogwatch query \"SELECT ... FROM events\"; --tables says what there is";
        return Err(QueryError::Usage(usage.to_owned()));
    };
    let is_wrong = |word: &&String| captures.is_empty() || !is_file(word);
    if let Some(word) = words.iter().find(is_wrong) {
        let usage = format!(
            "{word:?} is too much: write one query in quotes; behind --read stand files that are there"
        );
        return Err(QueryError::Usage(usage));
    }
    captures.extend(words.into_iter().map(PathBuf::from));
    Ok((text, captures))
}

/// Prints a text; nobody has to read it.
fn printed(text: &str) -> Result<Ended, QueryError> {
    dogwatch_settings::print(text).map_err(QueryError::Output)?;
    Ok(Ended::Whole)
}

fn bounds(options: &cli::Query) -> Result<Bounds, QueryError> {
    let ns = |moment: DateTime<Utc>| {
        let outside = || QueryError::Usage("that time is outside of 1678 to 2262".to_owned());
        moment.timestamp_nanos_opt().ok_or_else(outside)
    };
    let (since, until) = match options.at {
        Some((begin, end)) => (Some(begin), Some(end)),
        None => (options.since, options.until),
    };
    let bounds = Bounds {
        since_ns: since.map(ns).transpose()?,
        until_ns: until.map(ns).transpose()?,
    };
    match (bounds.since_ns, bounds.until_ns) {
        (Some(since), Some(until)) if since >= until => {
            let usage = "--since is not before --until: nothing lies between them";
            Err(QueryError::Usage(usage.to_owned()))
        }
        _ => Ok(bounds),
    }
}

fn source(
    options: &cli::Query,
    captures: &[PathBuf],
    bounds: Bounds,
    progress: &Progress,
) -> Result<Arc<dyn Source>, QueryError> {
    if !captures.is_empty() {
        let source = SensorSource::captures(captures, progress)?;
        return Ok(Arc::new(source));
    }
    if options.kafka.is_none() && options.config.is_none() {
        if options.since.is_some() || options.until.is_some() || options.at.is_some() {
            let usage = "this host has no past: --since, --until and --at go with --read FILE, --kafka ADDRESS or --config FILE";
            return Err(QueryError::Usage(usage.to_owned()));
        }
        let source = SensorSource::this_host(progress, options.span.is_some())?;
        return Ok(Arc::new(source));
    }
    let (brokers, names) = brokers(options.config.as_deref(), options.kafka.as_deref())?;
    reach(&brokers, REACH)?;
    let ms = |ns: i64| ns.div_euclid(1_000_000);
    Ok(Arc::new(Follow {
        brokers,
        names,
        since_ms: bounds.since_ns.map(ms),
        until_ms: bounds.until_ns.map(ms),
        on: options.follow || options.span.is_some(),
        ends: options.span.is_some(),
        progress: progress.clone(),
    }))
}

/// A query that runs.
struct Running {
    progress: Progress,
    shutdown: Shutdown,
    endless: bool,
    end_at: Option<Instant>,
}

impl Running {
    fn print(&self, mut answer: Answer, format: Format) -> Result<Ended, QueryError> {
        let output = io::stdout();
        let terminal = output.is_terminal();
        let output = BufWriter::new(output.lock());
        let mut writer = Writer::new(output, format, terminal, &answer.schema());
        let mut told = Told::default();
        let mut cut = None;
        let ended = loop {
            if let Some(reason) = self.shutdown.reason() {
                match self.end_at {
                    // What never ends by itself ends so.
                    _ if self.endless => self.progress.end(),
                    // The answer of what came until then is an answer, and less than was asked for.
                    Some(_) => {
                        cut = Some(signal(&reason.what));
                        self.progress.end();
                    }
                    None => break Ended::Cut(signal(&reason.what)),
                }
            }
            if self.end_at.is_some_and(|end| Instant::now() >= end) {
                self.progress.end();
            }
            let written = match answer.next(TICK) {
                Ok(Next::Rows(rows)) => told.clear().and_then(|()| writer.batch(&rows)),
                Ok(Next::Nothing) => Ok(()),
                Ok(Next::End) => break cut.map_or(Ended::Whole, Ended::Cut),
                Err(error) => {
                    // What came before stands.
                    let _ = told.clear().and_then(|()| writer.finish());
                    return Err(error.into());
                }
            };
            let written = written.and_then(|()| writer.tick());
            match written {
                Ok(()) => told.tell(&self.progress),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended::Whole),
                Err(error) => return Err(QueryError::Output(error)),
            }
        };
        let written = told.clear().and_then(|()| writer.finish());
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(QueryError::Output(error))
            }
            _ => Ok(ended),
        }
    }
}

fn signal(name: &str) -> i32 {
    match name {
        "SIGTERM" => 15,
        "SIGHUP" => 1,
        _ => 2,
    }
}

/// The line that tells people how far it is, on a terminal only.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    shown: bool,
}

impl Told {
    fn tell(&mut self, progress: &Progress) {
        let due = self.at.get_or_insert_with(Instant::now).elapsed() >= PROGRESS_INTERVAL;
        if !due || !io::stderr().is_terminal() {
            return;
        }
        self.at = Some(Instant::now());
        self.shown = true;
        let read = progress.records();
        let of = progress
            .of()
            .map(|of| format!(" of {of}"))
            .unwrap_or_default();
        // A terminal that is gone is told nothing.
        let _ = write!(io::stderr(), "\r\x1b[Kread {read}{of} records");
    }

    /// Takes the line away before rows come.
    fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        Ok(())
    }
}

fn described_tables() -> String {
    let width = tables::ALL.iter().map(|table| table.name.len()).max();
    let width = width.unwrap_or(0);
    let lines = tables::ALL.iter().map(|table| {
        let times = format!("its times are {}", table.time);
        format!("{:width$}  {} ({times})\n", table.name, table.about)
    });
    lines.collect()
}

fn described_columns(name: &str) -> Result<String, QueryError> {
    let Some(table) = tables::named(name) else {
        let names: Vec<&str> = tables::ALL.iter().map(|table| table.name).collect();
        let mend = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("tables are {}", names.join(", ")),
        };
        return Err(QueryError::Usage(format!(
            "there is no table {name}; {mend}"
        )));
    };
    let columns = table.columns();
    let widest = |of: fn(&tables::Column) -> usize| columns.iter().map(of).max().unwrap_or(0);
    let (names, kinds) = (
        widest(|column| column.name.len()),
        widest(|column| column.kind.len().min(24)),
    );
    let lines = columns.iter().map(|column| {
        format!(
            "{:names$}  {:kinds$}  {}\n",
            column.name, column.kind, column.about
        )
    });
    Ok(lines.collect())
}
