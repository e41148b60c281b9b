//! Samples on their way out: their tables have sequence numbers, losses and marks of their own.

use std::collections::BTreeMap;

use dogwatch_schemas::records::{ContainerSample, IoSample, Loss, ProcessSample, SyscallSample};

use super::Stage;
use crate::fact::Sampled;
use crate::loss::Ledger;
use crate::publish::Kind;
use crate::sample::SamplePlan;

/// What is remembered of the tables.
pub(super) struct Samples {
    plan: SamplePlan,
    containers: Ledger,
    processes: Ledger,
    calls: Ledger,
    io: Ledger,
    /// Counters that were smaller than before.
    pub went_back: u64,
}

impl Samples {
    pub fn new(plan: SamplePlan) -> Self {
        Self {
            plan,
            containers: Ledger::default(),
            processes: Ledger::default(),
            calls: Ledger::default(),
            io: Ledger::default(),
            went_back: 0,
        }
    }

    fn ledgers(&self) -> [&Ledger; 4] {
        [&self.containers, &self.processes, &self.calls, &self.io]
    }

    /// What a round says was not sampled, each with the ledger that counts it.
    fn unsampled(&mut self, round: &Sampled) -> [(&mut Ledger, Kind, u64); 4] {
        [
            (
                &mut self.containers,
                Kind::CONTAINER_SAMPLE,
                round.containers_unsampled,
            ),
            (
                &mut self.processes,
                Kind::PROCESS_SAMPLE,
                round.processes_unsampled,
            ),
            (&mut self.calls, Kind::SYSCALL_SAMPLE, round.calls_unsampled),
            (&mut self.io, Kind::IO_SAMPLE, round.files_unsampled),
        ]
    }

    /// Takes a round of before this file, whose losses an earlier one tells.
    pub fn before(&mut self, round: &Sampled, now_ns: i64) {
        for (ledger, kind, count) in self.unsampled(round) {
            ledger.before(|ledger| ledger.unsampled(kind.name(), count, now_ns));
        }
    }

    /// Samples lost in this run, by class.
    pub fn losses(&self) -> BTreeMap<String, u64> {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for ledger in self.ledgers() {
            for (class, count) in ledger.totals() {
                *sum.entry(class.to_string()).or_default() += count;
            }
        }
        sum
    }
}

impl Stage {
    /// Where losses of a kind are counted: marks of a table tell of that table alone.
    pub(super) fn ledger_of(&mut self, kind: &str) -> &mut Ledger {
        if kind == Kind::CONTAINER_SAMPLE.name() {
            &mut self.samples.containers
        } else if kind == Kind::PROCESS_SAMPLE.name() {
            &mut self.samples.processes
        } else if kind == Kind::SYSCALL_SAMPLE.name() {
            &mut self.samples.calls
        } else if kind == Kind::IO_SAMPLE.name() {
            &mut self.samples.io
        } else {
            &mut self.ledger
        }
    }

    /// Whether there are losses that no status has told.
    pub(super) fn has_news(&self) -> bool {
        let samples = self.samples.ledgers();
        self.ledger.has_news() || samples.iter().any(|ledger| ledger.has_news())
    }

    pub(super) fn take_news(&mut self) -> Vec<Loss> {
        let mut news = self.ledger.take();
        news.extend(self.samples.containers.take());
        news.extend(self.samples.processes.take());
        news.extend(self.samples.calls.take());
        news.extend(self.samples.io.take());
        news
    }

    pub(super) fn put_back(&mut self, losses: Vec<Loss>) {
        for loss in losses {
            let kind = loss.kind.clone();
            self.ledger_of(&kind).put_back(vec![loss]);
        }
    }

    pub(super) fn publish_container_sample(&mut self, mut sample: ContainerSample) {
        let handed = self.publisher.container_sample(&mut sample);
        self.count(handed, Kind::CONTAINER_SAMPLE, sample.ts);
    }

    pub(super) fn publish_process_sample(&mut self, mut sample: ProcessSample) {
        let handed = self.publisher.process_sample(&mut sample);
        self.count(handed, Kind::PROCESS_SAMPLE, sample.ts);
    }

    pub(super) fn publish_syscall_sample(&mut self, mut sample: SyscallSample) {
        let handed = self.publisher.syscall_sample(&mut sample);
        self.count(handed, Kind::SYSCALL_SAMPLE, sample.ts);
    }

    pub(super) fn publish_io_sample(&mut self, mut sample: IoSample) {
        let handed = self.publisher.io_sample(&mut sample);
        self.count(handed, Kind::IO_SAMPLE, sample.ts);
    }

    /// A round has ended, or did not come. A mark follows one that ended: what it left out is told by then.
    pub(super) fn sampled(&mut self, round: Sampled, now_ns: i64) {
        self.samples.went_back = round.went_back;
        for (ledger, kind, count) in self.samples.unsampled(&round) {
            ledger.unsampled(kind.name(), count, now_ns);
        }
        let Some(ended_ns) = round.ended_ns else {
            return;
        };
        self.count_undelivered(now_ns);
        if self.samples.plan.containers {
            let mark = self
                .tracker
                .container_mark(ended_ns, self.samples.containers.totals());
            self.publish_container_sample(mark);
        }
        if self.samples.plan.processes {
            let mark = self
                .tracker
                .process_mark(ended_ns, self.samples.processes.totals());
            self.publish_process_sample(mark);
        }
        if self.samples.plan.calls {
            let mark = self
                .tracker
                .syscall_mark(ended_ns, self.samples.calls.totals());
            self.publish_syscall_sample(mark);
        }
        if self.samples.plan.io {
            let mark = self.tracker.io_mark(ended_ns, self.samples.io.totals());
            self.publish_io_sample(mark);
        }
    }
}
