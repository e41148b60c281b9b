//! One log of a task: who is heard of in it, when, and what was there before.

use std::collections::BTreeSet;

use datafusion::common::HashMap;
use dogwatch_schemas::Text;

use super::fleet::FleetTime;
use super::gaps::Gap;
use super::host::Host;
use super::room::{host_bytes_max, take_slot};
use super::{
    Batch, End, EndKind, Finding, HOSTS_PER_PIECE, Heard, Limits, Moment, Place, SECOND_NS, slot,
};

/// Times of windows lie between 1970 and 2200: sums with any length of a window stay whole numbers.
const TIME_MAX_NS: i64 = 7_258_118_400_000_000_000;
/// A sensor's new run that begins this far behind its host's time began after the clock was put back, nanoseconds.
const RESTART_STEP_NS: i64 = 1_000_000_000;

/// What a task knows of one of its logs.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub hosts: Vec<Host>,
    pub by_id: HashMap<Text, usize>,
    pub by_slot: HashMap<u32, usize>,
    /// The latest second of ingest; without a broker of the rows' own times.
    pub second: Option<i64>,
    /// Records taken: the order in which hosts were heard of.
    pub records: u64,
    /// How many hosts are residents.
    pub residents: usize,
    /// The latest time of a host that was forgotten: up to there windows may have been counted that nobody knows of.
    pub forgotten_high: Option<i64>,
    /// Hosts that were forgotten while they were heard of, since that was told last.
    pub forgotten: u64,
    /// The second in which it was told last.
    pub told: Option<i64>,
    /// The second in which it was written to again after nobody had for a while.
    pub resumed: i64,
    /// Input that was not seen.
    pub gaps: Vec<Gap>,
    /// The host of the last record: rows of one host come together.
    pub last: usize,
    /// Pieces whose hosts changed since they were stored.
    pub changed: BTreeSet<usize>,
    /// How many pieces are stored.
    pub pieces: usize,
    /// How far all its hosts are.
    pub fleet: FleetTime,
}

impl Log {
    /// Takes its next record.
    pub fn take(
        &mut self,
        heard: &Heard<'_>,
        limits: &Limits,
        next_slot: &mut u32,
        batch: &mut Batch,
    ) -> Place {
        let known = self.find(heard.host_id);
        self.last = known.unwrap_or(self.last);
        let run = known.and_then(|index| self.hosts[index].run(heard.sensor_run));
        let last = known.zip(run);
        if last.is_some_and(|(index, run)| self.hosts[index].runs[run].repeats(heard)) {
            return Place::Repeated;
        }
        self.close_silent(heard, limits.host_silence_ns, batch);
        let (time, clock_replaced) = window_time(heard, limits.clock_error_max_ns);
        let patience_ns = limits.fleet_patience_ns;
        if let Some(patience_ns) = patience_ns {
            let at = heard.ingest_ts.map_or(time, |at| at.clamp(0, TIME_MAX_NS));
            let place = (heard.log.1, heard.row);
            batch.ticks.extend(self.tick(place, at, patience_ns));
        }
        let second = heard.ingest_ts.unwrap_or(time).div_euclid(SECOND_NS);
        self.second = self.second.max(Some(second));
        self.end_gap(heard.ingest_ts.unwrap_or(time));
        let index = known.unwrap_or_else(|| self.add(heard, next_slot, batch));
        self.settle(index);
        self.last = index;
        self.records += 1;
        self.changed.insert(index / HOSTS_PER_PIECE);
        let bytes_max = host_bytes_max(self.hosts.len());
        let host = &mut self.hosts[index];
        let now = slot(heard.log.1, host.slot);
        let back = if heard.clock_step {
            time < host.high
        } else {
            run.is_none() && time < host.high.saturating_sub(RESTART_STEP_NS)
        };
        let found = host.find(run, second).into_iter().flatten();
        batch.findings.extend(found.map(|what| Finding {
            row: heard.row,
            slot: now,
            second,
            what,
        }));
        // A run that is new may leave less room for where holes are: rows before this one are within those of before.
        let before = run.is_none().then(|| host.holes.clone());
        let missing = host.count(heard, run, time, bytes_max);
        if let Some(before) = before.filter(|before| *before != host.holes) {
            batch.note_holes(now, heard.row, before, host.holes.clone());
        }
        if back {
            batch.past.insert(now, host.owner());
            batch.ends.push(End {
                row: heard.row,
                slot: now,
                kind: EndKind::Step {
                    high: time,
                    next: slot(heard.log.1, *next_slot),
                },
            });
            self.by_slot.remove(&host.slot);
            host.slot = take_slot(next_slot);
            self.by_slot.insert(host.slot, index);
            host.segment = segment(heard);
            (host.high, host.flush_high) = (i64::MIN, i64::MIN);
            host.stepped = second;
            (host.holes, host.in_gap) = (None, false);
            // In the new time nobody knows where the losses are that come to light next.
            let runs = host.runs.iter_mut();
            runs.for_each(|run| run.known_to = i64::MIN);
        }
        if host.in_gap || missing > 0 {
            let before = host.holes.clone();
            if missing > 0 && patience_ns.is_some() {
                let from = host.runs.last().map_or(time, |run| run.known_to.min(time));
                let lost = [("missing".into(), missing.cast_signed())].into();
                self.fleet.note_losses(from, time, &lost);
            }
            host.miss(missing, time, bytes_max);
            let of = slot(heard.log.1, host.slot);
            batch.note_holes(of, heard.row, before, host.holes.clone());
        }
        let high = host.high;
        host.high = high.max(time);
        host.heard = self.records;
        if heard.ingest_ts.is_some() {
            host.ingest = heard.ingest_ts;
        }
        host.flushed = false;
        let among = match host.is_settled(second) {
            true => self.residents,
            false => 0,
        };
        Place::New {
            missing,
            begins: run.is_none(),
            moment: Moment {
                slot: slot(heard.log.1, host.slot),
                time,
                high,
                flush_high: host.flush_high,
                high_after: host.high,
                clock_replaced,
                among,
                known_s: self.second.unwrap_or(second).saturating_sub(host.since),
            },
        }
    }

    /// The place of a host.
    fn find(&self, host_id: &str) -> Option<usize> {
        let last = self.hosts.get(self.last);
        match last.is_some_and(|host| &*host.host_id == host_id) {
            true => Some(self.last),
            false => self.by_id.get(host_id).copied(),
        }
    }

    /// Its hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of the record taken last.
    pub fn last_host(&self) -> Option<&Host> {
        self.hosts.get(self.last)
    }

    /// The same, to be changed, and how many bytes it may have.
    pub fn change_last(&mut self) -> Option<(&mut Host, usize)> {
        self.changed.insert(self.last / HOSTS_PER_PIECE);
        let bytes_max = host_bytes_max(self.hosts.len());
        Some((self.hosts.get_mut(self.last)?, bytes_max))
    }

    /// The host whose slot has a number.
    pub fn host(&self, number: u32) -> Option<&Host> {
        self.hosts.get(*self.by_slot.get(&number)?)
    }

    /// The latest of its hosts' times.
    pub fn latest_high(&self) -> Option<i64> {
        self.hosts.iter().map(|host| host.high).max()
    }

    pub fn index(&mut self) {
        let places = self.hosts.iter().enumerate();
        self.by_id = places
            .map(|(index, host)| (host.host_id.clone(), index))
            .collect();
        let places = self.hosts.iter().enumerate();
        self.by_slot = places.map(|(index, host)| (host.slot, index)).collect();
        self.last = 0;
        self.residents = self.hosts.iter().filter(|host| host.resident).count();
    }

    /// Closes the windows of hosts that were silent for too long, and finds these; looked at once a second of ingest time.
    fn close_silent(&mut self, heard: &Heard<'_>, host_silence_ns: i64, batch: &mut Batch) {
        let Some(ingest) = heard.ingest_ts else {
            return;
        };
        let second = ingest.div_euclid(SECOND_NS);
        if self.second.is_some_and(|last| second <= last) {
            return;
        }
        self.resume(second);
        self.second = Some(second);
        self.find_silent(heard, ingest, host_silence_ns, &mut batch.findings);
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let silent = host
                .ingest
                .is_some_and(|last| ingest.saturating_sub(last) > host_silence_ns);
            if silent && !host.flushed {
                host.flushed = true;
                host.flush_high = host.high;
                self.changed.insert(index / HOSTS_PER_PIECE);
                batch.ends.push(End {
                    row: heard.row,
                    slot: slot(heard.log.1, host.slot),
                    kind: EndKind::Silence {
                        flush_high: host.high,
                    },
                });
            }
        }
    }
}

/// The time that windows go by, and whether it is not the row's own: the event's, or the broker's where that is earlier,
/// and the broker's where the event's is too far from it. Without a broker's the event's, where it is a time at all.
fn window_time(heard: &Heard<'_>, clock_error_max_ns: i64) -> (i64, bool) {
    match heard.ingest_ts {
        Some(ingest) => {
            let ingest = ingest.clamp(0, TIME_MAX_NS);
            let apart = heard.ts.saturating_sub(ingest).saturating_abs();
            if apart > clock_error_max_ns || heard.ts < 0 {
                return (ingest, true);
            }
            (heard.ts.min(ingest), false)
        }
        None => {
            let time = heard.ts.clamp(0, TIME_MAX_NS);
            (time, time != heard.ts)
        }
    }
}

/// Name of the stretch of a host's time that begins with a record.
pub(super) fn segment(heard: &Heard<'_>) -> Text {
    format!("{}/{}", heard.sensor_run, heard.seq).into()
}
