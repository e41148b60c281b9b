//! The pipeline: the only file that knows all stages.
//!
//! ```text
//!  kernel ring ──►┌──────────────┐  16 batches  ┌──────────────────────────────────┐ librdkafka's queue
//!  capture ──────►│ read, gather ├─────────────►│ track ► (redact) ► encode ►publish├──────────────────► Kafka
//!                 └──────────────┘  of ≤ 512    └──────────────────────────────────┘ kafka.queue_bytes
//!                     thread                         the caller's thread
//! ```
//! Data goes forward only. A slow stage holds the one before it back, down to the kernel's ring, which counts what it
//! has no room for. Arguments are redacted where the process table takes them in, so nothing behind it holds a secret.
//!
//! Shutdown: the reader detaches the kernel's programs, reads the ring out within a bounded time and drops its sender; the
//! rest follows from that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dogwatch_kafka::{Fault, Recurring};
use dogwatch_schemas::Text;
use dogwatch_schemas::reads::ReadPattern;
use dogwatch_schemas::records::Container;

use crate::capture::CaptureError;
use crate::config::Config;
use crate::fact::{Counters, Fact, Host, Input as Entering};
use crate::host::HostError;
use crate::loss::{Class, Ledger, Reminders};
use crate::metrics;
use crate::probe::ProbeError;
use crate::process::TableBounds;
use crate::publish::{self, Handed, KafkaError, Kind, Publisher, Undelivered};
use crate::read::Batch;
use crate::redact::key::Key;
use crate::state::{LastWatched, StateFile, blind_since};
use crate::status::{self, Circumstances};
use crate::track::{EventRow, Row, Shortfall, TrackOptions, Tracker, WaitingBounds};

mod check;
mod load;
mod samples;

pub use self::check::check;
pub use self::load::Loaded;
use self::samples::Samples;
pub use crate::capture::chain::runs;
pub use crate::capture::rotation::{self, Rotation};
pub use crate::publish::Output;
pub use crate::sample::SamplePlan;
pub use crate::stop::{
    OnHangup, Reopen, Shutdown, StopReason, hold_signals, leave_signals, stop_on_signals,
};

/// Batches between reading and tracking: at most 8 × (128 KiB and one exec of 40 KB) are under 1.5 MB;
/// at 100,000 records a second they bridge 20 ms of encoding or of a full queue, and the ring bridges more.
const BATCHES_MAX: usize = 8;
const HEARTBEAT_INTERVAL_NS: u64 = 5_000_000_000;

/// Where the sensor's input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The kernel of this host.
    Kernel,
    /// The kernel of this host; everything that enters is also written to this capture file, or to several of its name.
    Recorded(PathBuf, Rotation),
    /// The capture files of one recording, in any order.
    Replay(Vec<PathBuf>),
}

/// Why a sensor could not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The kernel part could not be used.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The host could not be identified.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kafka could not be used.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A capture could not be written or read to its end.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A thread could not be made.
    #[error("could not start the reading thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The reading thread panicked: a defect.
    #[error("the reading thread ended unexpectedly")]
    Reader,
}

impl SensorError {
    /// Whether a capture is damaged: all before the damage was read.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Capture(CaptureError::Damaged { .. }))
    }

    /// The exit code of a program that ends with this: 2 where it was asked for what it cannot do, 3 where the environment
    /// lacks something, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Kafka(KafkaError::Fatal(_) | KafkaError::Stdout(_)) => 1,
            Self::Kafka(KafkaError::Brokers(Fault::Options(_))) => 2,
            Self::Capture(CaptureError::Open { .. }) => 2,
            Self::Probe(_) | Self::Host(_) | Self::Kafka(_) => 3,
            Self::Capture(_) | Self::Thread(_) | Self::Reader => 1,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events handed to the output.
    pub events: u64,
    /// Their bytes as framed, before compression.
    pub bytes: u64,
    /// Events lost, by class.
    pub losses: BTreeMap<String, u64>,
    /// Records the kernel rejected on purpose, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Processes known.
    pub processes: usize,
    /// Containers known.
    pub containers: usize,
    /// Encoded columns of processes that had to make room for others.
    pub blocks_evicted: u64,
    /// Samples handed to the output, marks included.
    pub samples: u64,
    /// Samples lost, by class.
    pub sample_losses: BTreeMap<String, u64>,
    /// Counters of the kernel that were smaller than before, so that their growth is not known.
    pub counters_went_back: u64,
}

/// The summary of a run, to be read while it goes on; clones are the same. Renewed once a second.
#[derive(Debug, Clone, Default)]
pub struct Stats(Arc<Mutex<Summary>>);

impl Stats {
    /// The summary up to now.
    pub fn now(&self) -> Summary {
        // A writer that panicked leaves a whole summary behind.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn set(&self, summary: Summary) {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = summary;
    }
}

/// Runs a sensor until it is told to stop, or its capture ends: [`Loaded::load`] and [`Loaded::run`].
///
/// # Errors
/// As these.
pub fn run(
    config: Config,
    input: Input,
    output: Output,
    shutdown: Shutdown,
) -> Result<Summary, SensorError> {
    Loaded::load(config, input)?.run(output, shutdown, Stats::default())
}

impl Loaded {
    /// Runs until it is told to stop, or the capture ends; `stats` can be read meanwhile.
    ///
    /// # Errors
    /// Fails when Kafka refuses us or its client ends for good, or when a capture is damaged; what came before was handed
    /// over.
    pub fn run(
        self,
        output: Output,
        shutdown: Shutdown,
        stats: Stats,
    ) -> Result<Summary, SensorError> {
        let Self {
            config,
            origin,
            host,
            live,
            not_delivered,
        } = self;
        // A recording publishes nothing, so it must not move the moment up to which was published.
        let publishes = live && !matches!(output, Output::Discard);
        let publisher =
            Publisher::open(output, &config.kafka, host.host_id.clone(), live, &shutdown)?;
        let (sender, receiver) = sync_channel(BATCHES_MAX);
        let stop = shutdown.clone();
        let reader = std::thread::Builder::new()
            .name("read".into())
            .spawn(move || origin.run(sender, &stop))
            .map_err(SensorError::Thread)?;
        let mut stage = Stage::new(&config, host, publisher, live, publishes, stats);
        stage.not_delivered = not_delivered;
        let ran = stage.run(receiver, &shutdown);
        let read = reader.join().map_err(|_| SensorError::Reader)?;
        stage.finish(&shutdown);
        ran?;
        read?;
        Ok(stage.summary())
    }
}

/// The files whose reading is published every time, for the statuses.
fn published_reads(config: &Config) -> Vec<Text> {
    let text = |pattern: &ReadPattern| Text::from(pattern.to_string());
    config.published_reads().iter().map(text).collect()
}

fn calls_off(config: &Config) -> Vec<Text> {
    let names = config.calls.switched_off().iter();
    names.map(|name| Text::from(*name)).collect()
}

/// The key of the marks of redacted secrets, beside the state file; without it marks have no hash.
fn redaction_key(state_file: Option<&Path>) -> Option<Key> {
    let path = state_file?.with_extension("key");
    let key = Key::read_or_make(&path);
    if let Err(error) = &key {
        tracing::warn!(path = %path.display(), %error, "marks of redacted secrets have no hash: the key could not be had");
    }
    key.ok()
}

/// The stages after reading, and what is due by the clock.
struct Stage {
    host: Host,
    tracker: Tracker,
    publisher: Publisher,
    ledger: Ledger,
    samples: Samples,
    counters: Counters,
    state: StateFile,
    live: bool,
    not_delivered: Vec<Text>,
    /// What statuses say of reads; none where a capture is replayed.
    sensitive_read_paths: Option<Vec<Text>>,
    calls_off: Option<Vec<Text>>,
    rows: Vec<Row>,
    /// Counters have come that no mark has told yet.
    counted: bool,
    heartbeat_due_ns: u64,
    started: bool,
    /// The log says that the sensor watches.
    told: bool,
    reminders: Reminders,
    /// Why Kafka did not take records, as far as it was told.
    refusals: Recurring<String>,
    closed: bool,
    stats: Stats,
}

impl Stage {
    fn new(
        config: &Config,
        host: Host,
        publisher: Publisher,
        live: bool,
        publishes: bool,
        stats: Stats,
    ) -> Self {
        let state_file = config.state_file.clone().filter(|_| publishes);
        let key = redaction_key(state_file.as_deref());
        let options = TrackOptions {
            table: TableBounds {
                processes_max: config.processes_max,
                bytes_max: config.processes_bytes_max,
                keep_after_exit: config.keep_after_exit,
            },
            waiting: WaitingBounds {
                events_max: config.containers.metadata_queue_events,
                bytes_max: config.containers.metadata_queue_bytes,
                patient: !config.containers.metadata_patience.is_zero(),
            },
            clock_step_min: config.clock_step_min,
            labels: config.containers.labels.clone(),
            redactor: config.redactor.clone().with_key(key),
        };
        Self {
            tracker: Tracker::new(host.clone(), options),
            host,
            publisher,
            ledger: Ledger::default(),
            samples: Samples::new(config.samples),
            counters: Counters::default(),
            state: StateFile::new(state_file),
            live,
            not_delivered: Vec::new(),
            sensitive_read_paths: live.then(|| published_reads(config)),
            calls_off: live.then(|| calls_off(config)),
            rows: Vec::new(),
            counted: false,
            heartbeat_due_ns: 0,
            started: false,
            told: false,
            reminders: Reminders::default(),
            refusals: Recurring::default(),
            closed: false,
            stats,
        }
    }

    /// Runs until the reader is done; a fatal error of the output stops the reader, and is returned.
    fn run(&mut self, receiver: Receiver<Batch>, shutdown: &Shutdown) -> Result<(), SensorError> {
        for batch in receiver {
            for input in batch {
                self.step(input);
            }
            if let Some(fatal) = self.publisher.fatal() {
                shutdown.trigger_because("the output failed");
                return Err(fatal.into());
            }
            if self.closed {
                // What is read meanwhile is counted as the rest of the run's.
                shutdown.trigger_because("nobody takes records any more");
            }
        }
        Ok(())
    }

    fn step(&mut self, input: Entering) {
        let now_ns = self.tracker.clock().wall_ns(self.tracker.clock().boot_ns());
        let mut ticked = false;
        let mut sampled = None;
        match &input {
            Entering::Fact(Fact::Sampled(round)) => sampled = Some(*round),
            Entering::Fact(Fact::Clock(_)) => ticked = true,
            Entering::Fact(Fact::Counters(counters)) => {
                self.ledger.counters(counters, now_ns);
                self.counters = counters.clone();
                self.counted = true;
            }
            Entering::Fact(Fact::Unparsed(count)) => self.ledger.unparsed(*count, now_ns),
            Entering::Fact(Fact::Before(counts)) => self.counted_before(counts, now_ns),
            _ => {}
        }
        self.tracker.step(input, &mut self.rows);
        for Shortfall {
            class,
            evt_type,
            count,
        } in self.tracker.shortfalls()
        {
            let kind = publish::kind(&evt_type).name();
            self.ledger.add(class, kind, count, now_ns, now_ns);
        }
        self.publish_rows();
        if let Some(round) = sampled {
            self.sampled(round, now_ns);
        }
        if ticked {
            self.tick();
        }
    }

    /// Counts of an earlier file are where those of this one begin.
    fn counted_before(&mut self, counts: &Fact, now_ns: i64) {
        match counts {
            Fact::Counters(counters) => self
                .ledger
                .before(|ledger| ledger.counters(counters, now_ns)),
            Fact::Unparsed(count) => self.ledger.before(|ledger| ledger.unparsed(*count, now_ns)),
            Fact::Sampled(round) => self.samples.before(round, now_ns),
            _ => {}
        }
    }

    fn publish_rows(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        for row in rows.drain(..) {
            match row {
                Row::Event(event) => self.publish_event(event),
                Row::Container(container) => self.publish_container(*container),
                Row::ContainerSample(sample) => self.publish_container_sample(*sample),
                Row::ProcessSample(sample) => self.publish_process_sample(*sample),
                Row::SyscallSample(sample) => self.publish_syscall_sample(*sample),
                Row::IoSample(sample) => self.publish_io_sample(*sample),
            }
        }
        self.rows = rows;
    }

    fn publish_event(&mut self, mut row: EventRow) {
        let handed = self.publisher.event(&mut row);
        self.count(handed, publish::kind(&row.event.evt_type), row.event.ts);
    }

    fn publish_container(&mut self, mut container: Container) {
        let handed = self.publisher.container(&mut container);
        self.count(handed, Kind::CONTAINER, container.ts);
    }

    fn count(&mut self, handed: Handed, kind: Kind, ts_ns: i64) {
        let class = match handed {
            Handed::Over => return,
            Handed::QueueFull => Class::QueueFull,
            Handed::Refused => Class::Refused,
            Handed::Closed => {
                self.closed = true;
                Class::UndeliveredAtEnd
            }
        };
        let ledger = self.ledger_of(kind.name());
        ledger.add(class, kind.name(), 1, ts_ns, ts_ns);
    }

    /// What is due by the clock that just came in.
    fn tick(&mut self) {
        let boot_ns = self.tracker.clock().boot_ns();
        if !self.started {
            self.started = true;
            self.hello();
            self.heartbeat_due_ns = boot_ns + HEARTBEAT_INTERVAL_NS;
        }
        // A mark stands on counters: it comes as often as they do, with the first clock behind them.
        if std::mem::take(&mut self.counted) {
            self.mark();
            self.remember(None);
            self.tell(boot_ns);
        }
        if boot_ns >= self.heartbeat_due_ns {
            self.heartbeat_due_ns = boot_ns + HEARTBEAT_INTERVAL_NS;
            self.status("heartbeat", None);
        }
        self.publisher.flush();
    }

    fn hello(&mut self) {
        let clock = self.tracker.clock();
        let (boot_ns, now_ns) = (clock.boot_ns(), clock.wall_ns(clock.boot_ns()));
        if self.live {
            let last = self.state.read();
            if let Err(error) = &last {
                tracing::warn!(%error, "what was remembered of the last watch cannot be read: see state_file");
            }
            let (from_ns, detail) = blind_since(&last, &self.host.boot_id, now_ns - boot_ns as i64);
            self.ledger.not_watching(from_ns, now_ns, detail);
        }
        self.status("hello", None);
        self.remember(None);
        for sentence in &self.not_delivered {
            tracing::warn!("{sentence}");
        }
    }

    /// What a person should know, in the log: once that everything is there, and what is lost.
    fn tell(&mut self, boot_ns: u64) {
        if !std::mem::replace(&mut self.told, true) {
            let (processes, containers) = self.tracker.known();
            let doing = if self.live { "watching" } else { "replaying" };
            tracing::info!(host_id = %self.host.host_id, containers, processes, "{doing}");
        }
        for (class, count) in self.reminders.due(self.ledger.totals(), boot_ns) {
            tracing::warn!(class, count, "events were lost");
        }
    }

    /// Published up to the mark's time but for what is lost, and lost up to then at least.
    fn mark(&mut self) {
        let now_ns = self.tracker.clock().wall_ns(self.tracker.clock().boot_ns());
        self.count_undelivered(now_ns);
        let mark = self.tracker.mark(self.ledger.totals());
        self.publish_event(mark);
        let connection = self.publisher.connection();
        // While no broker hears it, heartbeats tell it soon enough, and take less of the queue.
        if self.has_news() && connection.is_none_or(|kafka| kafka.connected) {
            self.status("loss", None);
        }
        let summary = self.summary();
        metrics::record(&summary, &self.counters, connection);
        self.stats.set(summary);
    }

    fn count_undelivered(&mut self, now_ns: i64) {
        let Undelivered { lost, reason } = self.publisher.undelivered();
        let records: u64 = lost.values().sum();
        for (kind, count) in lost {
            let ledger = self.ledger_of(kind);
            ledger.add(Class::DeliveryFailed, kind, count, now_ns, now_ns);
        }
        if let Some(reason) = reason {
            let told = self.refusals.note(reason.clone(), records, Instant::now());
            if let Some(records) = told {
                tracing::error!(records, reason, "Kafka did not take records");
            }
        }
    }

    /// Tells a status with what is new among the losses; where it cannot be handed over they stay new.
    fn status(&mut self, name: &str, goodbye: Option<&StopReason>) {
        let losses = self.take_news();
        // At the hello nothing has been read of the host yet.
        let known = (name != "hello").then(|| self.tracker.known());
        let now = Circumstances {
            host: &self.host,
            clock: self.tracker.clock(),
            backend: if self.live { "tracepoint" } else { "replay" },
            counters: &self.counters,
            publisher: &self.publisher,
            known,
            not_delivered: &self.not_delivered,
            sensitive_read_paths: self.sensitive_read_paths.as_deref(),
            calls_off: self.calls_off.as_deref(),
        };
        let mut status = status::status(name, &now, &self.ledger, losses);
        if let Some(reason) = goodbye {
            status::set_goodbye(&mut status, reason);
        }
        if self.publisher.status(&mut status) != Handed::Over {
            self.put_back(status.losses);
        }
    }

    fn remember(&mut self, ended_by: Option<String>) {
        let clock = self.tracker.clock();
        let wall_ns = clock.wall_ns(clock.boot_ns());
        self.state.write(&LastWatched {
            boot_id: self.host.boot_id.to_string(),
            wall_ns,
            ended_by,
        });
    }

    /// Everything has been read: what still waits goes out, then the goodbye.
    fn finish(&mut self, shutdown: &Shutdown) {
        self.tracker.finish(&mut self.rows);
        self.publish_rows();
        self.mark();
        let ended = StopReason {
            what: "the input ended".into(),
            ..StopReason::default()
        };
        let reason = shutdown.reason().unwrap_or(&ended);
        self.status("goodbye", Some(reason));
        let left = self.publisher.drain();
        let now_ns = self.tracker.clock().wall_ns(self.tracker.clock().boot_ns());
        self.count_undelivered(now_ns);
        if left > 0 {
            tracing::error!(
                records = left,
                "records were not delivered before the end: lost"
            );
            self.ledger.add(
                Class::UndeliveredAtEnd,
                Kind::ANY.name(),
                left as u64,
                now_ns,
                now_ns,
            );
        }
        self.remember(Some(reason.what.clone()));
        self.stats.set(self.summary());
    }

    fn summary(&self) -> Summary {
        let texts = |map: &BTreeMap<Text, u64>| {
            map.iter()
                .map(|(name, count)| (name.to_string(), *count))
                .collect()
        };
        let (processes, containers) = self.tracker.known();
        Summary {
            events: self.publisher.events,
            bytes: self.publisher.bytes,
            losses: texts(self.ledger.totals()),
            filtered: texts(&self.counters.filtered),
            processes,
            containers,
            blocks_evicted: self.tracker.blocks_evicted(),
            samples: self.publisher.samples,
            sample_losses: self.samples.losses(),
            counters_went_back: self.samples.went_back,
        }
    }
}

#[cfg(test)]
mod tests;
