//! How far all hosts of a task are: the time that windows of the fleet go by.
//!
//! It moves when a second of the partition's ingest is over ([`Tick`]), so it is a function of the log, and a row's place in it
//! comes from the rows of earlier seconds alone. A host that is behind holds it for `fleet_patience` at most, be it silent, its
//! clock slow or a mark forged.

use serde::{Deserialize, Serialize};

use super::holes::{Holes, Losses};
use super::log::Log;
use super::{PROCESSOR, SECOND_NS};

/// A second of a partition's ingest that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    /// The first row of the batch that is not of it.
    pub row: u32,
    pub partition: i32,
    pub number: i64,
    /// The second before that had rows, where there was one.
    pub previous: Option<i64>,
    /// How far all hosts are: what comes behind it is late.
    pub watermark: i64,
    /// What hosts of the partition said in it is lost.
    pub holes: Holes,
}

/// Where a row stands in the fleet's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FleetMoment {
    pub partition: i32,
    pub offset: i64,
    /// The second of ingest that it belongs to.
    pub second: i64,
    /// How far all hosts were before that second.
    pub watermark: i64,
}

/// How far all hosts of a task are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FleetTime {
    /// The second that runs.
    second: Option<i64>,
    /// The one before.
    previous: Option<i64>,
    /// The latest time of ingest.
    ingest_high: i64,
    watermark: i64,
    /// What came to light in the second that runs.
    #[serde(default)]
    holes: Holes,
    /// What was not seen before the next row.
    #[serde(default)]
    unseen: Losses,
}

impl Default for FleetTime {
    fn default() -> Self {
        Self {
            second: None,
            previous: None,
            ingest_high: i64::MIN,
            watermark: i64::MIN,
            holes: Holes::default(),
            unseen: Losses::default(),
        }
    }
}

impl FleetTime {
    /// Where a row stands that comes now.
    pub fn moment(&self, partition: i32, offset: i64) -> FleetMoment {
        FleetMoment {
            partition,
            offset,
            second: self.second.unwrap_or(i64::MIN),
            watermark: self.watermark,
        }
    }

    /// Ends the second that runs, at the end of a bounded input.
    pub fn last_tick(&mut self, partition: i32) -> Option<Tick> {
        let number = self.second.take()?;
        Some(Tick {
            row: u32::MAX,
            partition,
            number,
            previous: self.previous.replace(number),
            watermark: self.watermark,
            holes: std::mem::take(&mut self.holes),
        })
    }

    /// Whether it has seen anything.
    pub fn began(&self) -> bool {
        self.second.is_some() || !self.unseen.is_empty()
    }

    /// Notes that rows were not seen before the next one.
    pub fn miss(&mut self, lost: Losses) {
        self.unseen.extend(lost);
    }

    /// Ends what was not seen, with a row of this time of ingest: nobody knows whose rows these were.
    fn end_unseen(&mut self, at: i64) {
        if !self.unseen.is_empty() {
            let lost = std::mem::take(&mut self.unseen);
            self.holes
                .note(self.watermark, at.max(self.watermark), lost);
        }
    }

    /// Notes what a host says is lost.
    pub fn note_losses(&mut self, from: i64, to: i64, lost: &Losses) {
        self.holes.note(from, to, lost.clone());
    }
}

impl Log {
    /// Moves on to a row's time of ingest; returns the second that is over with it.
    pub(super) fn tick(
        &mut self,
        (partition, row): (i32, u32),
        at: i64,
        patience_ns: i64,
    ) -> Option<Tick> {
        self.fleet.end_unseen(at);
        let second = at.div_euclid(SECOND_NS);
        let before = self.fleet.ingest_high;
        let high = before.max(at);
        self.fleet.ingest_high = high;
        let number = match self.fleet.second {
            Some(number) if second <= number => return None,
            number => number,
        };
        self.fleet.second = Some(second);
        let number = number?;
        let reach = high.saturating_sub(patience_ns);
        let hosts = self.hosts.iter();
        let hosts = hosts.filter(|host| &*host.host_id != PROCESSOR);
        let slowest = hosts.map(|host| host.high.max(reach)).min();
        let watermark = slowest.unwrap_or(before).max(self.fleet.watermark);
        self.fleet.watermark = watermark;
        Some(Tick {
            row,
            partition,
            number,
            previous: self.fleet.previous.replace(number),
            watermark,
            holes: std::mem::take(&mut self.fleet.holes),
        })
    }
}
