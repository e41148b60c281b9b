//! A host of a task: its time, the runs of its sensors, and where they say that events are lost.

use std::sync::Arc;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use super::holes::{Holes, Losses, OTHER, TEXT_BYTES, losses_bytes, sum_classes};
use super::presence::Turns;
use super::room::SETTLED_S;
use super::{Heard, SECOND_NS, SlotOwner};

/// Most runs of sensors remembered for a host: with two sensors under one host id, both are.
pub(super) const RUNS_MAX: usize = 8;
/// How long before a mark the events may be that it is the first to count as lost, of classes that are known late: the time
/// that a client may take to give a record up, with room.
const KNOWN_LATE_NS: i64 = 600 * SECOND_NS;
/// The classes that are known late.
const KNOWN_LATE: [&str; 1] = ["delivery_failed"];
/// A mark may tell of losses after its time.
const KNOWN_EARLY_NS: i64 = SECOND_NS;

/// A host of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Host {
    pub host_id: Text,
    pub host_name: Text,
    pub slot: u32,
    pub segment: Text,
    pub high: i64,
    pub flush_high: i64,
    pub ingest: Option<i64>,
    pub flushed: bool,
    /// Which of the task's records it was heard of with last.
    #[serde(default)]
    pub heard: u64,
    /// The second in which it was first heard of.
    #[serde(default)]
    pub since: i64,
    /// The second in which its clock was stepped back last.
    #[serde(default)]
    pub stepped: i64,
    /// Whether it stays as long as it is heard of.
    #[serde(default)]
    pub resident: bool,
    #[serde(skip)]
    pub leaves: bool,
    /// When it was heard of last, by the broker, before it was told to be silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<i64>,
    /// Since when its runs take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Whether input was not seen since its last row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_gap: bool,
    pub runs: Vec<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holes: Option<Arc<Holes>>,
}

/// A run of one of its sensors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub sensor_run: Text,
    pub seq: i64,
    pub offset: i64,
    /// The boot that it is of, where that is known.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub boot: Text,
    /// What it says is lost so far.
    #[serde(default, skip_serializing_if = "Losses::is_empty")]
    pub losses: Losses,
    /// Whether these are counted as one, for want of room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub summed: bool,
    /// Up to when its losses are known: the time of its last mark, or of its first row.
    #[serde(default)]
    pub known_to: i64,
}

impl Host {
    pub fn owner(&self) -> SlotOwner {
        SlotOwner {
            host_id: self.host_id.clone(),
            host_name: self.host_name.clone(),
            segment: self.segment.clone(),
            holes: self.holes.clone(),
        }
    }

    /// Whether it stays, and its time has been one for as long: whoever steps a clock begins windows anew.
    pub fn is_settled(&self, second: i64) -> bool {
        self.resident && second.saturating_sub(self.stepped) >= SETTLED_S
    }

    /// Takes what the last run says is lost so far: what is new of it is lost since it last said so. Returns from when to when.
    /// The host keeps to so many bytes.
    pub fn note_losses(
        &mut self,
        time: i64,
        mut losses: Losses,
        bytes_max: usize,
    ) -> [(i64, i64, Losses); 2] {
        let Some(run) = self.runs.last_mut() else {
            return Default::default();
        };
        if run.summed {
            sum_classes(&mut losses);
        }
        let new = losses.iter().filter_map(|(class, count)| {
            let more = count.saturating_sub(run.losses.get(class).copied().unwrap_or(0));
            (more > 0).then(|| (class.clone(), more))
        });
        // What is counted as one may be late, too.
        let summed = run.summed;
        let is_late = |(class, _): &(Text, i64)| {
            KNOWN_LATE.contains(&&**class) || (summed && &**class == OTHER)
        };
        let (late, lost): (Losses, Losses) = new.partition(is_late);
        let (from, to) = (run.known_to.min(time), time.saturating_add(KNOWN_EARLY_NS));
        run.known_to = time;
        run.losses = losses;
        // Of what is known late, from longer ago on.
        let new = [
            (from, to, lost),
            (from.saturating_sub(KNOWN_LATE_NS), to, late),
        ];
        if new.iter().any(|(_, _, lost)| !lost.is_empty()) {
            let holes = Arc::make_mut(self.holes.get_or_insert_default());
            for (from, to, lost) in new.clone() {
                holes.note(from, to, lost);
            }
        }
        self.fit(bytes_max);
        new
    }

    /// Bytes it takes, about.
    pub fn bytes(&self) -> usize {
        let texts = [&self.host_id, &self.host_name, &self.segment];
        let texts = texts
            .map(|text| text.len() + TEXT_BYTES)
            .iter()
            .sum::<usize>();
        let of_run = |run: &Run| {
            let texts = run.sensor_run.len() + run.boot.len() + 2 * TEXT_BYTES;
            size_of::<Run>() + texts + losses_bytes(&run.losses)
        };
        let runs = self.runs.iter().map(of_run).sum::<usize>();
        let holes = self.holes.as_ref().map_or(0, |holes| holes.bytes());
        size_of::<Self>() + texts + runs + holes
    }

    pub fn run(&self, sensor_run: &str) -> Option<usize> {
        self.runs
            .iter()
            .rposition(|run| &*run.sensor_run == sensor_run)
    }

    /// Counts the record to its run, which becomes the last; returns how many are missing before it. The host keeps to so many
    /// bytes.
    pub fn count(
        &mut self,
        heard: &Heard<'_>,
        run: Option<usize>,
        time: i64,
        bytes_max: usize,
    ) -> u64 {
        let Some(index) = run else {
            if self.runs.len() >= RUNS_MAX {
                self.runs.remove(0);
            }
            self.runs.push(Run {
                sensor_run: heard.sensor_run.into(),
                seq: heard.seq,
                offset: heard.offset,
                boot: Text::default(),
                losses: Losses::new(),
                summed: false,
                known_to: time,
            });
            self.fit(bytes_max);
            return 0;
        };
        // The last heard of stands last, the others keep their order: the first is the one to forget.
        self.runs[index..].rotate_left(1);
        let last = self.runs.len() - 1;
        let run = &mut self.runs[last];
        let missing = if heard.offset > run.offset {
            heard.seq.abs_diff(run.seq) - 1
        } else {
            0
        };
        (run.seq, run.offset) = (heard.seq, heard.offset);
        missing
    }
}

impl Run {
    /// Whether the log has had the record before; a log that was wound back is read again.
    pub fn repeats(&self, heard: &Heard<'_>) -> bool {
        heard.offset > self.offset && heard.seq <= self.seq
    }
}
