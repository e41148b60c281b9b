//! The first stage: reads the kernel's ring, or a capture, and hands on what enters, in order.
//!
//! ```text
//! ring ──► raw record ──► (capture file) ──► parse, join ──►  facts before · record · facts after  ──► batches
//! ```
//! A live run and a replay deliver the same, because both follow [`Intake`]'s rules:
//! facts before the raw record they belong to, its records, the facts that follow from them.
//! When the stages behind are slow, the bounded channel holds this one back, the ring fills, and the kernel counts the loss.
//!
//! **The clock fact is a promise**: every record up to its time has been handed on, or is counted in the counters before it.
//! So each poll reads the clock, then the counters, then the ring; and the clock that is handed on stands [`SETTLE_NS`]
//! before that reading, or before the last record read where the ring was not emptied.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use dogwatch_ebpf::record::Record;
use dogwatch_ebpf::{Joiner, counted_as, parse};

use dogwatch_schemas::Text;

use crate::capture::chain::Chain;
use crate::capture::rotation::Recorder;
use crate::capture::{CaptureError, Frame};
use crate::clock::Reading;
use crate::fact::{Counted, Counters, Fact, Input};
use crate::gather::{Gatherer, ModeChange};
use crate::probe::{self, CarriedBytes, Drained, KernelCounters, OpenFiles, Probe};
use crate::ring::BATCH_RECORDS_MAX;
use crate::sample::{Counts, Roots, SamplePlan, Sampler};
use crate::scan;
use crate::stop::Shutdown;

/// Inputs of a batch.
const BATCH_INPUTS_MAX: usize = 512;
/// Bytes of a batch, but for the last input: an exec with all its arguments takes 40 KB.
const BATCH_BYTES_MAX: usize = 128 << 10;
/// How long a poll of the ring waits.
const POLL: Duration = Duration::from_millis(20);
/// How long the ring is read before what is due by the clock is done, however much waits and however slow the stages behind
/// are: marks, and looks for what is known of containers.
const DRAIN_MAX: Duration = Duration::from_millis(200);
/// How often the kernel's counters are read, and a mark follows. A window waits for its host's time to pass its end by a
/// second at least (`out_of_orderness`): by then a mark has told what was lost up to that end.
const COUNTERS_INTERVAL_NS: u64 = 800_000_000;
/// A program reads the time first and puts its record into the ring last. That takes microseconds, and longer only where
/// the hypervisor takes the CPU away in between; what is this old has arrived.
const SETTLE_NS: u64 = 50_000_000;
const _: () = assert!(
    COUNTERS_INTERVAL_NS + 2 * POLL.as_nanos() as u64 + SETTLE_NS < 1_000_000_000,
    "a window would close before the losses of its last moments are told"
);
/// How long the ring is read after the programs were detached. A full ring of 8 MiB takes about that; what is left in it then
/// is counted as lost, so that an end never waits for what comes in.
const END_READING: Duration = Duration::from_secs(1);
/// Processes that the start-up scan holds at once; some 6 KiB each at most.
const SCAN_PIECE: usize = 256;
/// How often repeats of failed opens are asked for; a row a failure each time is enough, and the kernel keeps a number 30 s.
const FOLDED_INTERVAL_NS: u64 = 10_000_000_000;

/// What goes to the next stage at once.
pub(crate) type Batch = Vec<Input>;

/// Parses and joins records, the same way live and replayed.
#[derive(Debug, Default)]
struct Intake {
    joiner: Joiner,
    unparsed: u64,
    /// The newest record so far, nanoseconds since boot.
    newest_ns: u64,
}

impl Intake {
    fn record(&mut self, bytes: &[u8]) -> Vec<Record> {
        let mut records = Vec::with_capacity(1);
        match parse(bytes) {
            Ok(raw) => {
                self.newest_ns = self.newest_ns.max(raw.header().boot_ns);
                self.joiner.push(raw, &mut |record| records.push(record));
            }
            Err(_) => self.unparsed += 1,
        }
        records
    }

    /// Execs up to a time that wait for a piece that will not come any more; they go before the clock fact of that time.
    fn settle(&mut self, up_to_ns: u64) -> Vec<Record> {
        let mut records = Vec::new();
        self.joiner
            .flush(up_to_ns, &mut |record| records.push(record));
        records
    }
}

/// Collects inputs into batches and sends them.
struct Outlet {
    batch: Batch,
    batch_bytes: usize,
    sender: SyncSender<Batch>,
    /// The next stage is gone.
    closed: bool,
}

impl Outlet {
    fn new(sender: SyncSender<Batch>) -> Self {
        Self {
            batch: Vec::new(),
            batch_bytes: 0,
            sender,
            closed: false,
        }
    }

    fn push(&mut self, input: Input) {
        self.batch_bytes += input.bytes();
        self.batch.push(input);
        if self.batch.len() >= BATCH_INPUTS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if !batch.is_empty() && self.sender.send(batch).is_err() {
            self.closed = true;
        }
    }
}

/// Reads the kernel's ring until it is told to stop.
pub(crate) struct KernelReader {
    pub probe: Probe,
    pub gatherer: Gatherer,
    pub capture: Option<Recorder>,
    pub samples: SamplePlan,
    pub open_files: Option<OpenFiles>,
    pub carried_bytes: Option<CarriedBytes>,
}

struct Live {
    gatherer: Gatherer,
    capture: Option<Recorder>,
    intake: Intake,
    outlet: Outlet,
    failed: Option<CaptureError>,
    counters_due_ns: u64,
    cgroups_lost: u64,
    /// The last clock handed on; it never goes back.
    settled_ns: u64,
    folded_due_ns: u64,
    sampler: Option<Sampler>,
}

impl KernelReader {
    /// Runs until the shutdown is triggered; then the recording ends and the ring is read out, for a bounded time.
    ///
    /// # Errors
    /// Fails when the capture file cannot be written.
    pub fn run(self, sender: SyncSender<Batch>, shutdown: &Shutdown) -> Result<(), CaptureError> {
        let Self {
            mut probe,
            gatherer,
            capture,
            samples,
            open_files,
            carried_bytes,
        } = self;
        let mut live = Live {
            gatherer,
            capture,
            intake: Intake::default(),
            outlet: Outlet::new(sender),
            failed: None,
            counters_due_ns: 0,
            cgroups_lost: 0,
            settled_ns: 0,
            folded_due_ns: 0,
            sampler: None,
        };
        live.start(&mut probe);
        live.sampler = start_sampler(samples, &mut probe, open_files, carried_bytes);
        let mut wait = POLL;
        while shutdown.reason().is_none() && !live.ended() {
            let drained = poll(&mut probe, &mut live, wait, shutdown);
            // Where more waits, it is not waited for.
            wait = if drained.emptied {
                POLL
            } else {
                Duration::ZERO
            };
        }
        if !live.ended() {
            read_out(&mut probe, &mut live);
        }
        live.finish()
    }
}

/// Reads clock, counters and ring once, in this order, and hands on what came of it.
fn poll(probe: &mut Probe, live: &mut Live, wait: Duration, shutdown: &Shutdown) -> Drained {
    apply(probe, &mut live.gatherer.changes);
    let now = Reading::now();
    let counters = live
        .counters_due(now.boot_ns)
        .then(|| counters(probe))
        .flatten();
    let drained = drain(probe, live, wait, shutdown);
    let read_up_to_ns = if drained.emptied {
        now.boot_ns
    } else {
        now.boot_ns.min(live.intake.newest_ns)
    };
    live.due(Reading::now().boot_ns);
    live.sample(now.boot_ns);
    if let Some(counters) = counters {
        live.counters(counters);
        live.limited(now, probe);
        live.folded(now, probe);
    }
    live.clock(now, read_up_to_ns.saturating_sub(SETTLE_NS));
    if live.next_file_due() {
        live.next_file(now, probe);
    }
    live.outlet.flush();
    drained
}

/// Reads the ring, a batch at a time: the stages behind may be slow, and an end that is asked for must not wait for them.
fn drain(probe: &mut Probe, live: &mut Live, mut wait: Duration, shutdown: &Shutdown) -> Drained {
    let mut all = Drained {
        records: 0,
        emptied: false,
    };
    let deadline = Instant::now() + DRAIN_MAX;
    while !all.emptied
        && all.records < BATCH_RECORDS_MAX
        && Instant::now() < deadline
        && !live.ended()
        && !live.next_file_due()
        && shutdown.reason().is_none()
    {
        let some = probe.drain_some(wait, BATCH_INPUTS_MAX, &mut |bytes| live.record(bytes));
        all.records += some.records;
        all.emptied = some.emptied;
        wait = Duration::ZERO;
    }
    all
}

/// Ends the recording, then reads what the ring holds for a bounded time; the rest is counted.
fn read_out(probe: &mut Probe, live: &mut Live) {
    probe.detach();
    // Programs that run at this moment come to their end meanwhile; nothing comes afterwards.
    std::thread::sleep(Duration::from_nanos(SETTLE_NS));
    let detached = Reading::now();
    let deadline = Instant::now() + END_READING;
    // Few at a time: the stages behind may be slow.
    while !live.ended() && Instant::now() < deadline {
        let drained = probe.drain_some(Duration::ZERO, BATCH_INPUTS_MAX, &mut |bytes| {
            live.record(bytes);
        });
        if drained.emptied {
            break;
        }
    }
    let records = live.intake.settle(u64::MAX);
    live.records(records);
    let unread = count_unread(probe);
    if let Some(counters) = counters(probe) {
        live.counters(Counters { unread, ..counters });
    }
    live.folded_due_ns = 0;
    live.limited(detached, probe);
    live.folded(detached, probe);
    // All records up to the end have been handed on by now, or are counted.
    live.clock(detached, detached.boot_ns);
}

/// Empties the ring without looking at more than the kind of each record.
fn count_unread(probe: &mut Probe) -> BTreeMap<Text, u64> {
    let mut unread = BTreeMap::new();
    let mut count = |bytes: &[u8]| {
        let name = counted_as(bytes).unwrap_or("any");
        *unread.entry(name.into()).or_default() += 1;
    };
    while !probe.drain(Duration::ZERO, &mut count).emptied {}
    unread
}

fn apply(probe: &mut Probe, changes: &mut Vec<ModeChange>) {
    for change in changes.drain(..) {
        match change {
            // A full map leaves the cgroup at normal: more is seen, not less. The probe counts it.
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
    /// What is there before the first record.
    fn start(&mut self, probe: &mut Probe) {
        let now = Reading::now();
        self.settled_ns = now.boot_ns;
        self.fact(Fact::Clock(now));
        let facts = self.gatherer.start(now.boot_ns);
        self.facts(facts);
        for pids in scan::pids().chunks(SCAN_PIECE) {
            let running = scan::processes(pids, probe.hierarchy());
            let facts = self.gatherer.running(running);
            self.facts(facts);
            probe.keep_early();
        }
        self.write(Recorder::started);
    }

    fn record(&mut self, bytes: &[u8]) {
        let records = self.intake.record(bytes);
        let facts: Vec<Fact> = records
            .iter()
            .flat_map(|record| self.gatherer.before(record))
            .collect();
        self.facts(facts);
        self.write(|capture| capture.record(bytes));
        self.records(records);
    }

    fn records(&mut self, records: Vec<Record>) {
        let facts: Vec<Fact> = records
            .iter()
            .flat_map(|record| self.gatherer.after(record))
            .collect();
        for record in records {
            self.write(|capture| {
                capture.see(&record);
                Ok(())
            });
            self.outlet.push(Input::Record(record));
        }
        self.facts(facts);
    }

    /// Does something with the capture, where there is one that can still be written.
    fn write(&mut self, write: impl FnOnce(&mut Recorder) -> Result<(), CaptureError>) {
        if let Some(capture) = &mut self.capture
            && self.failed.is_none()
            && let Err(error) = write(capture)
        {
            self.failed = Some(error);
        }
    }

    fn next_file_due(&self) -> bool {
        self.capture.as_ref().is_some_and(Recorder::due)
    }

    /// Goes on in the next file, which begins as a recording does: with what lives.
    fn next_file(&mut self, now: Reading, probe: &mut Probe) {
        let clock = now.at(self.settled_ns);
        self.write(|capture| capture.next_file(clock));
        for pids in scan::pids().chunks(SCAN_PIECE) {
            for process in scan::processes(pids, probe.hierarchy()) {
                let fact = Fact::Running(Box::new(process));
                self.write(|capture| capture.fact(&fact));
            }
            probe.keep_early();
        }
        self.write(Recorder::started);
    }

    fn counters_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.counters_due_ns;
        if due {
            self.counters_due_ns = now_ns + COUNTERS_INTERVAL_NS;
        }
        due
    }

    fn counters(&mut self, counters: Counters) {
        let cgroups_lost = lost_cgroups(&counters);
        if std::mem::replace(&mut self.cgroups_lost, cgroups_lost) != cgroups_lost {
            self.gatherer.lost_cgroups();
        }
        self.fact(Fact::Unparsed(self.intake.unparsed));
        self.fact(Fact::Counters(counters));
    }

    /// What the gatherer has to look up by now.
    fn due(&mut self, now_ns: u64) {
        let due = self.gatherer.due(now_ns);
        self.facts(due);
    }

    /// How far the reading has come, on both clocks.
    fn clock(&mut self, now: Reading, settled_ns: u64) {
        self.settled_ns = self.settled_ns.max(settled_ns);
        let records = self.intake.settle(self.settled_ns);
        self.records(records);
        self.fact(Fact::Clock(now.at(self.settled_ns)));
    }

    fn ended(&self) -> bool {
        self.outlet.closed || self.failed.is_some()
    }

    fn finish(mut self) -> Result<(), CaptureError> {
        self.outlet.flush();
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.capture.map_or(Ok(()), Recorder::finish)
    }

    fn limited(&mut self, now: Reading, probe: &mut Probe) {
        match probe.limited(now.boot_ns) {
            Ok(news) => news.into_iter().for_each(|one| {
                self.fact(Fact::Limited {
                    cgroup_id: one.cgroup_id,
                    kind: one.kind.into(),
                    counted: counted(one.counted),
                });
            }),
            Err(error) => tracing::warn!(%error, "could not read the kernel's counts"),
        }
    }

    fn folded(&mut self, now: Reading, probe: &mut Probe) {
        if now.boot_ns < self.folded_due_ns {
            return;
        }
        self.folded_due_ns = now.boot_ns + FOLDED_INTERVAL_NS;
        match probe.folded() {
            Ok(news) => news.into_iter().for_each(|one| {
                self.fact(Fact::Folded {
                    cgroup_id: one.cgroup_id,
                    fold: one.fold,
                    counted: counted(one.counted),
                });
            }),
            Err(error) => tracing::warn!(%error, "could not read the kernel's counts"),
        }
    }

    /// What was sampled by now, and the next round where it is due.
    fn sample(&mut self, now_ns: u64) {
        let Some(sampler) = &mut self.sampler else {
            return;
        };
        let mut facts = sampler.taken();
        if sampler.is_due(now_ns) {
            facts.extend(sampler.ask(now_ns, self.gatherer.subjects()));
        }
        self.facts(facts);
    }

    fn facts(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.fact(fact);
        }
    }

    fn fact(&mut self, fact: Fact) {
        self.write(|capture| capture.fact(&fact));
        self.outlet.push(Input::Fact(fact));
    }
}

/// Starts the thread that reads what is used, where something is wanted of it.
fn start_sampler(
    plan: SamplePlan,
    probe: &mut Probe,
    open_files: Option<OpenFiles>,
    carried_bytes: Option<CarriedBytes>,
) -> Option<Sampler> {
    if !plan.has_any() {
        return None;
    }
    let cgroup_root = probe.hierarchy().mount.clone();
    let counts = Counts {
        failed_calls: probe.take_failed_calls(),
        open_files,
        carried_bytes,
    };
    match Sampler::start(plan, Roots::default(), cgroup_root, counts) {
        Ok(sampler) => Some(sampler),
        Err(error) => {
            tracing::error!(%error, "no thread could be started for samples: there are none");
            None
        }
    }
}

fn counters(probe: &Probe) -> Option<Counters> {
    match probe.counters() {
        Ok(counters) => Some(owned(counters)),
        Err(error) => {
            tracing::warn!(%error, "could not read the kernel's counters");
            None
        }
    }
}

/// Records of cgroups that were not sent.
fn lost_cgroups(counters: &Counters) -> u64 {
    let lost = [&counters.dropped, &counters.limited, &counters.interrupted];
    lost.iter().filter_map(|counts| counts.get("cgroup")).sum()
}

fn counted(counted: probe::Counted) -> Counted {
    Counted {
        count: counted.count,
        first_ns: counted.first_ns,
        last_ns: counted.last_ns,
    }
}

/// As a fact; of most calls there is nothing to tell.
fn owned(counters: KernelCounters) -> Counters {
    let texts = |map: BTreeMap<&'static str, u64>| {
        map.into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.into(), count))
            .collect()
    };
    Counters {
        sent: texts(counters.sent),
        dropped: texts(counters.dropped),
        crowded: texts(counters.crowded),
        limited: texts(counters.limited),
        interrupted: texts(counters.interrupted),
        filtered: texts(counters.filtered),
        missed: texts(counters.missed),
        unread: BTreeMap::new(),
        modes_refused: counters.modes_refused,
    }
}

/// Reads captures to their end, or to the first damage.
///
/// # Errors
/// Fails when one is damaged; all before the damage was handed on.
pub(crate) fn replay(
    mut captures: Chain,
    sender: SyncSender<Batch>,
    shutdown: &Shutdown,
) -> Result<(), CaptureError> {
    let mut intake = Intake::default();
    let mut outlet = Outlet::new(sender);
    let ended = loop {
        match captures.next() {
            Ok(Some(Frame::Record(bytes))) => {
                for record in intake.record(&bytes) {
                    outlet.push(Input::Record(record));
                }
            }
            Ok(Some(Frame::Fact(fact))) => {
                if let Fact::Clock(reading) = fact {
                    settle(&mut intake, reading.boot_ns, &mut outlet);
                }
                outlet.push(Input::Fact(fact));
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if outlet.closed || shutdown.reason().is_some() {
            break Ok(());
        }
    };
    settle(&mut intake, u64::MAX, &mut outlet);
    outlet.push(Input::Fact(Fact::Unparsed(intake.unparsed)));
    outlet.flush();
    ended
}

fn settle(intake: &mut Intake, up_to_ns: u64, outlet: &mut Outlet) {
    for record in intake.settle(up_to_ns) {
        outlet.push(Input::Record(record));
    }
}

/// A capture to be read, or the kernel.
pub(crate) enum Origin {
    Kernel(Box<KernelReader>),
    Capture(Box<Chain>),
}

impl Origin {
    /// Runs the stage to its end.
    pub fn run(self, sender: SyncSender<Batch>, shutdown: &Shutdown) -> Result<(), CaptureError> {
        match self {
            Self::Kernel(reader) => reader.run(sender, shutdown),
            Self::Capture(captures) => replay(*captures, sender, shutdown),
        }
    }
}
