//! Tables as a sensor writes them: of a capture, or of this host while it is looked at.
//!
//! ```text
//! capture, kernel ─► the sensor's stages ─► [1024 records] ─► Feed ─► the query
//! ```
//! A capture goes through the same stages as on the host that it is from; it needs no privileges.
//! This host is watched by a sensor of its own, which ends with the query. A query that is slow holds it back, and what it
//! loses then is counted and told.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver as LogReceiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use dogwatch_query::feed::{Batches, Feed, Progress, Source, SourceError};
use dogwatch_query::rows::{Record, Rows};
use dogwatch_query::tables::Table;
use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::topics::Topic;
use dogwatch_sensor::config::{Config, ConfigError};
use dogwatch_sensor::pipeline::{
    Input, Loaded, Output, SensorError, Shutdown, Stats, Summary, runs,
};

/// Records between the sensor and the query.
const LOG_RECORDS: usize = 1_024;
/// How long the next record is waited for before the rows so far are handed on.
const PATIENCE: Duration = Duration::from_millis(50);

/// This host cannot be watched, or the capture not be read.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The sensor's configuration was refused.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// The sensor says no.
    #[error(transparent)]
    Sensor(#[from] Box<SensorError>),
    /// Neither a place to read from was named, nor may this host be watched.
    #[error(
        "say where to read: --read FILE for a capture, --kafka ADDRESS or --config FILE for what sensors sent; as root this host is watched"
    )]
    Nowhere,
}

impl WatchError {
    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Nowhere => 2,
            Self::Sensor(error) => error.exit_code(),
        }
    }
}

/// A sensor whose records are tables.
pub struct SensorSource {
    config: Config,
    /// The captures, those of each run of a sensor together; none for this host.
    runs: Vec<Vec<PathBuf>>,
    /// Whether somebody asks for the end.
    ends: bool,
    /// The sensor of this host, until it is taken.
    loaded: Mutex<Option<Loaded>>,
    progress: Progress,
}

impl std::fmt::Debug for SensorSource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SensorSource")
    }
}

/// The settings of a sensor that leaves no trace: nothing that it remembers is written.
fn config() -> Result<Config, WatchError> {
    let forget = [("state_file", String::new())];
    Ok(Config::load(None, &forget).map_err(Box::new)?)
}

impl SensorSource {
    /// Captures, each of which is opened once to see that it is one.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn captures(files: &[PathBuf], progress: &Progress) -> Result<Self, WatchError> {
        let runs = runs(files).map_err(|error| Box::new(SensorError::from(error)))?;
        Ok(Self {
            config: config()?,
            runs,
            ends: true,
            loaded: Mutex::default(),
            progress: progress.clone(),
        })
    }

    /// This host; `ends` says whether somebody will ask for the end. The calling thread gives up the rights that only loading needs, for good.
    ///
    /// # Errors
    /// When the kernel or the rights of this program do not allow it.
    pub fn this_host(progress: &Progress, ends: bool) -> Result<Self, WatchError> {
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } != 0 {
            return Err(WatchError::Nowhere);
        }
        let config = config()?;
        let loaded = Loaded::load(config.clone(), Input::Kernel).map_err(Box::new)?;
        Ok(Self {
            config,
            runs: Vec::new(),
            ends,
            loaded: Mutex::new(Some(loaded)),
            progress: progress.clone(),
        })
    }

    /// This host's sensor, once.
    fn this_hosts(&self) -> Result<Loaded, SourceError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.take().ok_or_else(|| {
            "this host can be read once in a query: record a capture, and ask that".into()
        })
    }
}

impl Source for SensorSource {
    fn open(&self, rows: Rows) -> Result<Batches, SourceError> {
        let mut runs: VecDeque<_> = self.runs.clone().into();
        let first = match runs.pop_front() {
            Some(files) => Loaded::load(self.config.clone(), Input::Replay(files))?,
            None => self.this_hosts()?,
        };
        let reading = Reading {
            topic: rows.table.topic,
            live: self.runs.is_empty(),
            config: self.config.clone(),
            runs,
            offset: 0,
        };
        let (feed, batches) = Feed::new(rows, self.progress.clone());
        let sensor = Sensor::start(first)?;
        Builder::new()
            .name("rows".to_owned())
            .spawn(move || reading.run(sensor, feed))?;
        Ok(batches)
    }

    fn refuses(&self, table: &Table) -> Option<(String, String)> {
        if table.of_sensor {
            return None;
        }
        let here = if !self.runs.is_empty() {
            "a capture"
        } else {
            "a sensor alone"
        };
        let reason = format!("{here} has no {}: a processor writes them", table.name);
        let mend = "ask a processor's topics with --kafka ADDRESS or --config FILE".to_owned();
        Some((reason, mend))
    }

    fn endless(&self) -> bool {
        !self.ends
    }
}

/// A sensor that runs.
struct Sensor {
    log: LogReceiver<LogRecord>,
    shutdown: Shutdown,
    thread: JoinHandle<Result<Summary, SensorError>>,
}

impl Sensor {
    fn start(loaded: Loaded) -> std::io::Result<Self> {
        let (output, log) = local::channel(LOG_RECORDS);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let thread = Builder::new()
            .name("sensor".to_owned())
            .spawn(move || loaded.run(Output::Local(output), stop, Stats::default()))?;
        Ok(Self {
            log,
            shutdown,
            thread,
        })
    }
}

/// The table that is wanted of a sensor, or of one after another.
struct Reading {
    topic: Topic,
    live: bool,
    config: Config,
    /// Captures that are still to be read.
    runs: VecDeque<Vec<PathBuf>>,
    offset: i64,
}

impl Reading {
    fn run(mut self, first: Sensor, mut feed: Feed) {
        let mut sensor = first;
        loop {
            match self.read(sensor, &mut feed) {
                Ok(summary) => tell_losses(&summary, self.live),
                Err(damage) if damage.is_damage() => return feed.finish_cut(damage.to_string()),
                Err(error) => return feed.fail(error),
            }
            let Some(files) = self.runs.pop_front().filter(|_| feed.wanted()) else {
                return feed.finish();
            };
            let loaded = Loaded::load(self.config.clone(), Input::Replay(files));
            let started =
                loaded.and_then(|loaded| Sensor::start(loaded).map_err(SensorError::Thread));
            match started {
                Ok(next) => sensor = next,
                Err(error) => return feed.fail(error),
            }
        }
    }

    /// Hands on all rows of a sensor.
    fn read(&mut self, sensor: Sensor, feed: &mut Feed) -> Result<Summary, SensorError> {
        loop {
            if feed.closed() {
                sensor.shutdown.trigger_because("the query has ended");
                if !feed.wanted() {
                    break;
                }
            }
            match sensor.log.recv_timeout(PATIENCE) {
                Ok(record) if record.topic == self.topic => {
                    let record = Record {
                        offset: self.offset,
                        ingest_ts_ns: self.live.then_some(record.ingest_ts_ns),
                        key: record.key.as_bytes(),
                        value: &record.value,
                        ..Record::default()
                    };
                    self.offset += 1;
                    // A sensor writes with our own schemas.
                    if let Err(error) = feed.push(&record) {
                        feed.unreadable(&record, &error.to_string());
                    }
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            feed.tick();
        }
        // The sensor ends when nobody takes its records.
        drop(sensor.log);
        sensor.thread.join().map_err(|_| SensorError::Reader)?
    }
}

/// Says what was lost while this host was watched.
fn tell_losses(summary: &Summary, live: bool) {
    for (class, count) in &summary.losses {
        if live && class != "not_watching" {
            eprintln!("dogwatch: {count} events were lost: {class}");
        }
    }
}
