//! The first stage: reads the kernel's ring, or a capture, and hands on what enters, in order.
//!
//! ```text
//! ring ──► raw record ──► (capture file) ──► parse, join ──►  facts before · record · facts after  ──► batches
//! ```
//! A live run and a replay deliver the same, because both follow [`Intake`]'s rules:
//! facts before the raw record they belong to, its records, the facts that follow from them.
//! When the stages behind are slow, the bounded channel holds this one back, the ring fills, and the kernel counts the loss.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use dogwatch_ebpf::record::Record;
use dogwatch_ebpf::{Joiner, parse};

use crate::capture::{self, CaptureError, Frame};
use crate::clock::Reading;
use crate::fact::{Counters, Fact, Input};
use crate::gather::{Gatherer, ModeChange};
use crate::probe::{KernelCounters, Probe};
use crate::scan;
use crate::stop::Shutdown;

/// Inputs of a batch; about 250 KB.
pub(crate) const BATCH_INPUTS_MAX: usize = 512;
/// How long a poll of the ring waits.
const POLL: Duration = Duration::from_millis(20);
const COUNTERS_INTERVAL_NS: u64 = 1_000_000_000;

/// What goes to the next stage at once.
pub(crate) type Batch = Vec<Input>;

/// Parses and joins records, the same way live and replayed.
#[derive(Debug, Default)]
struct Intake {
    joiner: Joiner,
    /// Nothing came since the last clock reading.
    idle: bool,
    unparsed: u64,
}

impl Intake {
    fn record(&mut self, bytes: &[u8]) -> Vec<Record> {
        self.idle = false;
        let mut records = Vec::with_capacity(1);
        match parse(bytes) {
            Ok(raw) => self.joiner.push(raw, &mut |record| records.push(record)),
            Err(_) => self.unparsed += 1,
        }
        records
    }

    /// At a clock reading: what waits for a piece that will not come any more.
    fn clock(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        if std::mem::replace(&mut self.idle, true) {
            self.joiner.flush(&mut |record| records.push(record));
        }
        records
    }
}

/// Collects inputs into batches and sends them.
struct Outlet {
    batch: Batch,
    sender: SyncSender<Batch>,
    /// The next stage is gone.
    closed: bool,
}

impl Outlet {
    fn new(sender: SyncSender<Batch>) -> Self {
        Self {
            batch: Vec::with_capacity(BATCH_INPUTS_MAX),
            sender,
            closed: false,
        }
    }

    fn push(&mut self, input: Input) {
        self.batch.push(input);
        if self.batch.len() >= BATCH_INPUTS_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_INPUTS_MAX));
        if !batch.is_empty() && self.sender.send(batch).is_err() {
            self.closed = true;
        }
    }
}

/// Reads the kernel's ring until it is told to stop.
pub(crate) struct KernelReader {
    pub probe: Probe,
    pub gatherer: Gatherer,
    pub capture: Option<capture::Writer>,
    pub shutdown: Shutdown,
}

struct Live {
    gatherer: Gatherer,
    capture: Option<capture::Writer>,
    intake: Intake,
    outlet: Outlet,
    failed: Option<CaptureError>,
    counters_due_ns: u64,
    cgroups_lost: u64,
}

impl KernelReader {
    /// Runs until the shutdown is triggered and the ring is empty.
    ///
    /// # Errors
    /// Fails when the capture file cannot be written.
    pub fn run(mut self, sender: SyncSender<Batch>) -> Result<(), CaptureError> {
        let mut live = Live {
            gatherer: self.gatherer,
            capture: self.capture,
            intake: Intake::default(),
            outlet: Outlet::new(sender),
            failed: None,
            counters_due_ns: 0,
            cgroups_lost: 0,
        };
        let now = Reading::now();
        live.fact(Fact::Clock(now));
        let running = scan::processes(self.probe.hierarchy());
        for fact in live.gatherer.start(now.boot_ns, running) {
            live.fact(fact);
        }
        loop {
            apply(&mut self.probe, &mut live.gatherer.changes);
            let stopping = self.shutdown.reason().is_some();
            let wait = if stopping { Duration::ZERO } else { POLL };
            let drained = self.probe.drain(wait, &mut |bytes| live.record(bytes));
            live.clock(Reading::now(), &self.probe);
            if let Some(error) = live.failed {
                return Err(error);
            }
            if live.outlet.closed || (stopping && drained == 0) {
                break;
            }
        }
        live.capture.map_or(Ok(()), capture::Writer::finish)
    }
}

fn apply(probe: &mut Probe, changes: &mut Vec<ModeChange>) {
    for change in changes.drain(..) {
        match change {
            // A full map leaves the cgroup at normal: more is seen, not less.
            ModeChange::Set(id, mode) => {
                if let Err(error) = probe.set_mode(id, mode) {
                    tracing::debug!(cgroup = id, %error, "could not set the mode of a cgroup");
                }
            }
            ModeChange::Forget(id) => probe.forget(id),
        }
    }
}

impl Live {
    fn record(&mut self, bytes: &[u8]) {
        let records = self.intake.record(bytes);
        let facts: Vec<Fact> = records
            .iter()
            .flat_map(|record| self.gatherer.before(record))
            .collect();
        self.facts(facts);
        if let Some(capture) = &mut self.capture
            && let Err(error) = capture.record(bytes)
        {
            self.failed.get_or_insert(error);
        }
        self.records(records);
    }

    fn records(&mut self, records: Vec<Record>) {
        let facts: Vec<Fact> = records
            .iter()
            .flat_map(|record| self.gatherer.after(record))
            .collect();
        for record in records {
            self.outlet.push(Input::Record(record));
        }
        self.facts(facts);
    }

    /// The end of a poll: the time, and what is due by it.
    fn clock(&mut self, now: Reading, probe: &Probe) {
        let records = self.intake.clock();
        self.fact(Fact::Clock(now));
        self.records(records);
        let due = self.gatherer.due(now.boot_ns);
        self.facts(due);
        if now.boot_ns >= self.counters_due_ns {
            self.counters_due_ns = now.boot_ns + COUNTERS_INTERVAL_NS;
            self.fact(Fact::Unparsed(self.intake.unparsed));
            match probe.counters() {
                Ok(counters) => {
                    let lost = counters.dropped.get("cgroup").copied().unwrap_or_default();
                    if std::mem::replace(&mut self.cgroups_lost, lost) != lost {
                        self.gatherer.lost_cgroups();
                    }
                    self.fact(Fact::Counters(owned(counters)));
                }
                Err(error) => tracing::warn!(%error, "could not read the kernel's counters"),
            }
        }
        self.outlet.flush();
    }

    fn facts(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.fact(fact);
        }
    }

    fn fact(&mut self, fact: Fact) {
        if let Some(capture) = &mut self.capture
            && let Err(error) = capture.fact(&fact)
        {
            self.failed.get_or_insert(error);
        }
        self.outlet.push(Input::Fact(fact));
    }
}

fn owned(counters: KernelCounters) -> Counters {
    let texts = |map: std::collections::BTreeMap<&'static str, u64>| {
        map.into_iter()
            .map(|(name, count)| (name.into(), count))
            .collect()
    };
    Counters {
        sent: texts(counters.sent),
        dropped: texts(counters.dropped),
        filtered: texts(counters.filtered),
    }
}

/// Reads a capture to its end, or to its damage.
///
/// # Errors
/// Fails when the capture is damaged; all before the damage was handed on.
pub(crate) fn replay(
    mut reader: capture::Reader,
    sender: SyncSender<Batch>,
    shutdown: &Shutdown,
) -> Result<(), CaptureError> {
    let mut intake = Intake::default();
    let mut outlet = Outlet::new(sender);
    let ended = loop {
        match reader.next() {
            Ok(Some(Frame::Record(bytes))) => {
                for record in intake.record(&bytes) {
                    outlet.push(Input::Record(record));
                }
            }
            Ok(Some(Frame::Fact(fact))) => {
                let records = if matches!(fact, Fact::Clock(_)) {
                    intake.clock()
                } else {
                    Vec::new()
                };
                outlet.push(Input::Fact(fact));
                for record in records {
                    outlet.push(Input::Record(record));
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if outlet.closed || shutdown.reason().is_some() {
            break Ok(());
        }
    };
    outlet.flush();
    ended
}

/// A capture to be read, or the kernel.
pub(crate) enum Origin {
    Kernel(Box<KernelReader>),
    Capture(Box<capture::Reader>),
}

impl Origin {
    /// Runs the stage to its end.
    pub fn run(self, sender: SyncSender<Batch>, shutdown: &Shutdown) -> Result<(), CaptureError> {
        match self {
            Self::Kernel(reader) => reader.run(sender),
            Self::Capture(reader) => replay(*reader, sender, shutdown),
        }
    }
}
