//! Tables as a sensor writes them: of a capture, or of this host while it is looked at.
//!
//! ```text
//! capture, kernel ─► the sensor's stages ─► [1024 records] ─► Feed ─► the query
//! ```
//! A capture goes through the same stages as on the host that it is from; it needs no privileges.
//! This host is watched by a sensor of its own, which ends with the query. A query that is slow holds it back, and what it
//! loses then is counted and told.

use std::path::{Path, PathBuf};
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
use dogwatch_sensor::pipeline::{Input, Loaded, Output, SensorError, Shutdown, Stats, Summary};

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
    /// The capture; none for this host.
    capture: Option<PathBuf>,
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
    /// A capture, which is opened once to see that it is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn capture(file: &Path, progress: &Progress) -> Result<Self, WatchError> {
        let config = config()?;
        Loaded::load(config.clone(), Input::Replay(file.to_owned())).map_err(Box::new)?;
        Ok(Self {
            config,
            capture: Some(file.to_owned()),
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
            capture: None,
            ends,
            loaded: Mutex::new(Some(loaded)),
            progress: progress.clone(),
        })
    }

    fn load(&self) -> Result<Loaded, SourceError> {
        match &self.capture {
            Some(file) => Loaded::load(self.config.clone(), Input::Replay(file.clone()))
                .map_err(|error| Box::new(error) as SourceError),
            None => {
                let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
                loaded.take().ok_or_else(|| {
                    "this host can be read once in a query: record a capture, and ask that".into()
                })
            }
        }
    }
}

impl Source for SensorSource {
    fn open(&self, rows: Rows) -> Result<Batches, SourceError> {
        let loaded = self.load()?;
        let topic = rows.table.topic;
        let live = self.capture.is_none();
        let (feed, batches) = Feed::new(rows, self.progress.clone());
        let (output, log) = local::channel(LOG_RECORDS);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let sensor = Builder::new()
            .name("sensor".to_owned())
            .spawn(move || loaded.run(Output::Local(output), stop, Stats::default()))?;
        let reading = Reading {
            topic,
            live,
            log,
            shutdown,
            sensor,
        };
        Builder::new()
            .name("rows".to_owned())
            .spawn(move || reading.run(feed))?;
        Ok(batches)
    }

    fn refuses(&self, table: &Table) -> Option<(String, String)> {
        if table.of_sensor {
            return None;
        }
        let here = if self.capture.is_some() {
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

/// A sensor that runs, and the table that is wanted of it.
struct Reading {
    topic: Topic,
    live: bool,
    log: LogReceiver<LogRecord>,
    shutdown: Shutdown,
    sensor: JoinHandle<Result<Summary, SensorError>>,
}

impl Reading {
    fn run(self, mut feed: Feed) {
        let mut offset = 0;
        loop {
            if feed.closed() {
                self.shutdown.trigger_because("the query has ended");
                if !feed.wanted() {
                    break;
                }
            }
            match self.log.recv_timeout(PATIENCE) {
                Ok(record) if record.topic == self.topic => {
                    let record = Record {
                        offset,
                        ingest_ts_ns: self.live.then_some(record.ingest_ts_ns),
                        key: record.key.as_bytes(),
                        value: &record.value,
                        ..Record::default()
                    };
                    offset += 1;
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
        drop(self.log);
        match self.sensor.join() {
            Ok(Ok(summary)) => {
                tell_losses(&summary, self.live);
                feed.finish();
            }
            Ok(Err(error)) => feed.fail(error),
            Err(_) => feed.fail(std::io::Error::other("the sensor panicked, see above")),
        }
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
