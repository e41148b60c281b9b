//! Which hosts stopped reporting, and which have two sensors: what a task finds of its hosts beside their time.
//!
//! A host is silent when the broker took nothing of it for `host_silence`, while others or the processor itself wrote on. The
//! time that nobody wrote is nobody's silence: after it hosts have a minute to come back. Two sensors under one host id write
//! in turns, which a restarted one and the one before it never do for long.

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use super::host::{Host, Run};
use super::log::Log;
use super::{Heard, PROCESSOR, SECOND_NS, slot};

/// A partition that was quiet for longer than this was not written to by anybody: marks come each minute.
const QUIET_S: i64 = 120;
/// How long hosts have to come back after that.
const GRACE_S: i64 = 60;
/// Runs that take turns for so long are of two sensors.
const TURNS_S: i64 = 20;
/// Without a turn for so long they do so no more.
const CALM_S: i64 = 60;

/// What was found of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The row that shows it.
    pub row: u32,
    pub slot: i64,
    /// The broker's second of that row.
    pub second: i64,
    pub what: Presence,
}

/// Whether a host is there, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing was heard of it since this time of the broker's, nanoseconds.
    Silent { last: i64 },
    /// It is back from such a silence.
    Back { last: i64 },
    /// Two sensors send under its id: their runs, each with the boot it is of, where that is known.
    Twins([(Text, Text); 2]),
}

/// Runs of a host's sensors that take turns, in seconds of ingest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turns {
    first: i64,
    last: i64,
    told: bool,
}

impl Log {
    /// Notes that a partition is written to again, before the second is noted in which it is.
    pub(super) fn resume(&mut self, second: i64) {
        let quiet = |last: i64| second.saturating_sub(last) > QUIET_S;
        if self.second.is_none_or(quiet) {
            self.resumed = second;
        }
    }

    /// Finds hosts that were silent for too long, but for the one that is heard of; once a second.
    pub(super) fn find_silent(
        &mut self,
        heard: &Heard<'_>,
        ingest: i64,
        host_silence_ns: i64,
        findings: &mut Vec<Finding>,
    ) {
        let second = ingest.div_euclid(SECOND_NS);
        if second.saturating_sub(self.resumed) < GRACE_S {
            return;
        }
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let Some(last) = host.ingest.filter(|_| host.is_watched()) else {
                continue;
            };
            let silent = ingest.saturating_sub(last) > host_silence_ns;
            if silent && host.silent.is_none() && &*host.host_id != heard.host_id {
                host.silent = Some(last);
                self.changed.insert(index / super::HOSTS_PER_PIECE);
                findings.push(Finding {
                    row: heard.row,
                    slot: slot(heard.log.1, host.slot),
                    second,
                    what: Presence::Silent { last },
                });
            }
        }
    }

    /// Whether hosts are there whose silence would be told.
    pub(super) fn watches(&self) -> bool {
        let mut hosts = self.hosts.iter();
        hosts.any(|host| host.is_watched() && host.ingest.is_some() && host.silent.is_none())
    }
}

impl Host {
    /// Whether its silence is told: it was there for a while, and is none of the processors.
    fn is_watched(&self) -> bool {
        self.resident && &*self.host_id != PROCESSOR
    }

    /// What a record of one of its runs shows of it in a second, before it is counted.
    pub(super) fn find(&mut self, run: Option<usize>, second: i64) -> [Option<Presence>; 2] {
        let back = self.silent.take().map(|last| Presence::Back { last });
        let other = self.runs.len().checked_sub(1);
        let turn = run.zip(other).filter(|(run, other)| run < other);
        let told = turn.filter(|_| self.take_turn(second));
        let twins = told.map(|(run, other)| {
            let name = |run: &Run| (run.sensor_run.clone(), run.boot.clone());
            Presence::Twins([name(&self.runs[run]), name(&self.runs[other])])
        });
        [back, twins]
    }

    /// Notes that a run has its turn again; whether that is to be told.
    fn take_turn(&mut self, second: i64) -> bool {
        let before = self.turns;
        let before = before.filter(|turns| second.saturating_sub(turns.last) <= CALM_S);
        let mut turns = before.unwrap_or(Turns {
            first: second,
            last: second,
            told: false,
        });
        turns.last = turns.last.max(second);
        let tell = !turns.told && second.saturating_sub(turns.first) >= TURNS_S;
        turns.told |= tell;
        self.turns = Some(turns);
        tell
    }
}
