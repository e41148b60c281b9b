//! Which hosts a task remembers: as many as it has room for, and those first that live.
//!
//! ```text
//! new host ─► guest ── heard of for a minute ──► resident
//! table full: silent ones go, whose windows are closed anyway; then guests; each kind by how long it was not heard of
//! ```
//! Whoever may write into a partition can invent hosts. They push each other out; a resident stays as long as it is heard of.

use std::sync::Arc;

use dogwatch_schemas::Text;

use super::holes::{Hole, Holes, Losses, sum_classes};
use super::host::Host;
use super::log::{Log, segment};
use super::{Batch, End, EndKind, HOSTS_PER_PIECE, Heard, slot};

/// Most hosts remembered for a partition.
pub(crate) const HOSTS_MAX: usize = 8_192;
/// Most of them that cannot be pushed out; the others have the rest of the room to become known.
pub(super) const RESIDENTS_MAX: usize = HOSTS_MAX / 4 * 3;
/// Most bytes that the hosts of a partition of a topic take.
pub(crate) const HOSTS_BYTES_MAX: usize = 16 << 20;
/// Most bytes of a host while there are few: its texts, runs and holes.
pub(super) const HOST_BYTES_MAX: usize = 5 << 10;
/// For how many seconds of ingest a host must be heard of to stay.
pub(super) const SETTLED_S: i64 = 60;
/// Hosts that go at once: looking for them means looking at all.
const LEAVING: usize = 512;
/// How often it is told that living hosts are forgotten, seconds of ingest.
const TOLD_EVERY_S: i64 = 3_600;
/// The class of what a forgotten host's windows miss.
const FORGOTTEN: &str = "host_forgotten";

/// Hosts that were forgotten while they were heard of, for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The row that wanted the room.
    pub row: u32,
    /// That row's host.
    pub slot: i64,
    /// How many, since it was told last.
    pub hosts: u64,
    /// The second of ingest.
    pub second: i64,
}

impl Log {
    /// Takes a new host in; the log has seen its record's second.
    pub(super) fn add(
        &mut self,
        heard: &Heard<'_>,
        next_slot: &mut u32,
        batch: &mut Batch,
    ) -> usize {
        if self.hosts.len() >= HOSTS_MAX {
            let lived = self.make_room(heard, batch);
            self.forgotten += lived;
            batch.forgotten_count += lived;
        }
        // It may have been here before: its windows are not those that were closed then.
        let segment = match self.forgotten_high {
            Some(_) => segment(heard),
            None => Text::default(),
        };
        let index = self.hosts.len();
        let slot = take_slot(next_slot);
        self.hosts.push(Host {
            host_id: heard.host_id.into(),
            host_name: Text::default(),
            slot,
            segment,
            high: i64::MIN,
            flush_high: i64::MIN,
            ingest: None,
            flushed: false,
            heard: self.records,
            since: self.second.unwrap_or(0),
            stepped: 0,
            resident: false,
            leaves: false,
            silent: None,
            turns: None,
            in_gap: false,
            runs: Vec::new(),
            holes: self.gaps_of_new(),
        });
        self.by_slot.insert(slot, index);
        self.by_id.insert(heard.host_id.into(), index);
        self.fit_all(heard, batch);
        let told = self.tell_forgotten(heard.row, self::slot(heard.log.1, slot));
        batch.forgotten.extend(told);
        index
    }

    /// Lets a host stay that was heard of for long enough, while there is room.
    pub(super) fn settle(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let heard_for = self.second.unwrap_or(0).saturating_sub(host.since);
        if !host.resident && heard_for >= SETTLED_S && self.residents < RESIDENTS_MAX {
            host.resident = true;
            self.residents += 1;
        }
    }

    /// Lets those stay that were heard of last, where more are stored as residents than may be: an earlier version let more
    /// stay, and residents that cannot be pushed out would keep the table above its bound.
    pub(super) fn limit_residents(&mut self) {
        let hosts = self.hosts.iter().enumerate();
        let residents = hosts.filter(|(_, host)| host.resident);
        let mut residents: Vec<(u64, usize)> =
            residents.map(|(index, host)| (host.heard, index)).collect();
        residents.sort_unstable();
        let beyond = residents.len().saturating_sub(RESIDENTS_MAX);
        for (_, index) in &residents[..beyond] {
            self.hosts[*index].resident = false;
            self.residents -= 1;
            self.changed.insert(index / HOSTS_PER_PIECE);
        }
    }

    /// Lets all hosts keep to fewer bytes, where the one that came makes them so many.
    fn fit_all(&mut self, heard: &Heard<'_>, batch: &mut Batch) {
        let count = self.hosts.len();
        let bytes_max = host_bytes_max(count);
        if bytes_max == host_bytes_max(count - 1) {
            return;
        }
        for host in &mut self.hosts {
            let before = host.holes.clone();
            host.fit(bytes_max);
            if host.holes != before {
                let slot = slot(heard.log.1, host.slot);
                batch.note_holes(slot, heard.row, before, host.holes.clone());
            }
        }
        self.changed = (0..count.div_ceil(HOSTS_PER_PIECE)).collect();
    }

    /// Makes room for a new host; how many of those that leave were heard of lately.
    fn make_room(&mut self, heard: &Heard<'_>, batch: &mut Batch) -> u64 {
        let may_leave = |(index, host): (usize, &Host)| {
            let leaves = host.flushed || !host.resident;
            leaves.then_some((!host.flushed, host.heard, index))
        };
        let hosts = self.hosts.iter().enumerate();
        let mut leaving: Vec<(bool, u64, usize)> = hosts.filter_map(may_leave).collect();
        leaving.sort_unstable();
        leaving.truncate(LEAVING);
        for (lives, _, index) in &leaving {
            let host = &mut self.hosts[*index];
            self.forgotten_high = self.forgotten_high.max(Some(host.high));
            self.residents -= usize::from(host.resident);
            let slot = slot(heard.log.1, host.slot);
            if *lives {
                batch.end_forgotten(slot, heard.row, host);
            }
            batch.past.insert(slot, host.owner());
            host.leaves = true;
        }
        self.hosts.retain(|host| !host.leaves);
        self.changed = (0..self.hosts.len().div_ceil(HOSTS_PER_PIECE)).collect();
        self.index();
        leaving.iter().filter(|(lives, ..)| *lives).count() as u64
    }

    /// What is to be told of hosts that were forgotten while they lived; once an hour.
    fn tell_forgotten(&mut self, row: u32, slot: i64) -> Option<Forgotten> {
        let second = self.second.unwrap_or(0);
        let told_lately = self
            .told
            .is_some_and(|told| second.saturating_sub(told) < TOLD_EVERY_S);
        if self.forgotten == 0 || told_lately {
            return None;
        }
        self.told = Some(second);
        Some(Forgotten {
            row,
            slot,
            hosts: std::mem::take(&mut self.forgotten),
            second,
        })
    }

    /// Where a new host may have been before, and what that time misses.
    pub(super) fn holes_of_new(&self) -> Option<Arc<Holes>> {
        self.forgotten_high.map(|high| hole(i64::MIN, high))
    }
}

impl Batch {
    /// Ends the windows of a host that is forgotten: all they could still have counted is missing.
    fn end_forgotten(&mut self, slot: i64, row: u32, host: &mut Host) {
        let before = host.holes.clone();
        let holes = Arc::make_mut(host.holes.get_or_insert_default());
        holes.add(forgotten(host.high, i64::MAX));
        self.note_holes(slot, row, before, host.holes.clone());
        self.ends.push(End {
            row,
            slot,
            kind: EndKind::Silence {
                flush_high: host.high,
            },
        });
    }
}

impl Host {
    /// Gives up what it remembers of its past, the least needed first, until it has as many bytes as it may: where holes are,
    /// runs of before, and of which class losses are.
    pub(super) fn fit(&mut self, bytes_max: usize) {
        while self.bytes() > bytes_max {
            let holes = self.holes.as_mut();
            if holes.is_some_and(|holes| Arc::make_mut(holes).join_closest()) {
                continue;
            }
            if self.runs.len() > 1 {
                self.runs.remove(0);
            } else if !self.sum_classes() {
                return;
            }
        }
    }

    /// Counts losses of all classes as one; whether that makes it smaller.
    fn sum_classes(&mut self) -> bool {
        let holes = self.holes.as_mut();
        let mut any = holes.is_some_and(|holes| Arc::make_mut(holes).sum_classes());
        for run in &mut self.runs {
            any |= sum_classes(&mut run.losses);
            run.summed = true;
        }
        any
    }
}

/// How many bytes each of so many hosts may have: fewer where there are many, in steps, so that it seldom changes for all.
pub(super) fn host_bytes_max(hosts: usize) -> usize {
    HOST_BYTES_MAX.min(HOSTS_BYTES_MAX / hosts.next_power_of_two())
}

/// The next number of a slot.
pub(super) fn take_slot(next_slot: &mut u32) -> u32 {
    *next_slot += 1;
    *next_slot - 1
}

fn hole(from: i64, to: i64) -> Arc<Holes> {
    let mut holes = Holes::default();
    holes.add(forgotten(from, to));
    Arc::new(holes)
}

fn forgotten(from: i64, to: i64) -> Hole {
    let lost = Losses::from([(FORGOTTEN.into(), 1)]);
    Hole { from, to, lost }
}
