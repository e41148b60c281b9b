//! What was taken of a step and is not published yet.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, TimestampNanosecondArray,
};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use arrow::error::ArrowError;
use serde_json::Value;

use super::matcher::Found;
use super::{EVENT_TYPE, StepOutput, cut};
use crate::alert::Subject;
use crate::decode::{Decoded, InputRecord, Partition};
use crate::detect::Unjudged;
use crate::hosts::{
    CLASS_BYTES_MAX, CLASSES_MAX, End, EndKind, FleetMoment, Holes, Losses, is_of_fleet,
};
use crate::json;
use crate::window::{Progress, Shown, Word};

/// What was taken of a step. Rows are counted over all of it.
#[derive(Default)]
pub(super) struct Taken {
    /// One for each row.
    pub records: Vec<InputRecord>,
    /// The columns that windows read, in chunks; none where there are no windows.
    pub batches: Vec<RecordBatch>,
    /// The engine's own columns, in chunks, each with its first row.
    pub columns: Vec<(u32, Columns)>,
    pub admitted: Admitted,
    /// Matches of detections on single events, by row, then by detection.
    pub found: Vec<Found>,
    pub unjudged: Vec<Unjudged>,
    /// What is counted and set apart so far.
    pub output: StepOutput,
}

impl Taken {
    /// Forgets what is published; the memory is for the next step, which need not ask the system for it and have it zeroed.
    pub fn clear(&mut self) {
        self.records.clear();
        self.batches.clear();
        self.columns.clear();
        self.admitted.shown.clear();
        self.admitted.holes.clear();
        self.admitted.fleet.clear();
        self.admitted.progress = Progress::default();
        self.admitted.seconds = Progress::default();
        self.found.clear();
        self.unjudged.clear();
    }

    /// What names a row's event.
    pub fn subject(&self, row: u32) -> Option<Subject<'_>> {
        let chunk = self.columns.partition_point(|(first, _)| *first <= row);
        let (first, columns) = self.columns.get(chunk.checked_sub(1)?)?;
        Some(columns.subject((row - first) as usize))
    }
}

/// The rows of a step that detections may see, and how time went on in it.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    pub shown: Vec<Shown>,
    /// The holes of each shown row's host that were known then.
    pub holes: Vec<Option<Arc<Holes>>>,
    /// Where each shown row stands in the time of all hosts; none where no detection is of the fleet.
    pub fleet: Vec<FleetMoment>,
    /// Each host's time, by slot; and that of all.
    pub progress: Progress,
    /// Each log's seconds of ingest.
    pub seconds: Progress<Partition>,
}

impl Admitted {
    pub fn place(&self, row: u32) -> Option<usize> {
        self.shown
            .binary_search_by_key(&row, |shown| shown.row)
            .ok()
    }

    pub fn shown_at(&self, row: u32) -> Option<&Shown> {
        self.place(row).map(|place| &self.shown[place])
    }

    /// What was lost of a row's host between two times, as far as it was known then.
    pub fn losses(&self, row: u32, start: i64, end: i64) -> Losses {
        let holes = self.place(row).and_then(|place| self.holes[place].as_ref());
        holes.map_or_else(Losses::new, |holes| holes.between(start, end))
    }

    /// The slot in whose periods the result of a window is folded, and the host's time after the row that made it fire.
    pub fn fold_place(&self, word: &Word, ends: &[End]) -> (i64, i64) {
        let of_word = || {
            ends.iter()
                .filter(|end| end.row == word.row && end.slot == word.slot)
        };
        // What a step closes is told in the time that begins with it: nothing would end a period of the time that is over.
        let stepped = of_word().find_map(|end| match end.kind {
            EndKind::Step { high, next } => Some((next, high)),
            EndKind::Silence { .. } => None,
        });
        let silent = of_word().find_map(|end| match end.kind {
            EndKind::Silence { flush_high } => Some(flush_high),
            EndKind::Step { .. } => None,
        });
        stepped.unwrap_or_else(|| {
            let time = self.progress.at(word.slot, word.row).or(silent);
            let unknown = match word.slot {
                // Until all partitions are heard of, time has not begun.
                slot if is_of_fleet(slot) => i64::MIN,
                _ => word.end,
            };
            (word.slot, time.unwrap_or(unknown))
        })
    }
}

/// The columns that the engine itself reads.
pub(super) struct Columns {
    pub host_id: StringViewArray,
    pub host_name: StringViewArray,
    pub ts: TimestampNanosecondArray,
    pub sensor_run: StringViewArray,
    pub seq: Int64Array,
    pub event_type: StringViewArray,
    container_id: StringViewArray,
    losses: ArrayRef,
}

impl Columns {
    pub fn of(decoded: &Decoded) -> Result<Self, ArrowError> {
        let batch = &decoded.batch;
        let column =
            |name: &str| Ok::<_, ArrowError>(batch.column(batch.schema_ref().index_of(name)?));
        let text = |name: &str| Ok::<_, ArrowError>(column(name)?.as_string_view().clone());
        Ok(Self {
            host_id: text("host_id")?,
            host_name: text("host_name")?,
            ts: column("ts")?
                .as_primitive::<TimestampNanosecondType>()
                .clone(),
            sensor_run: text("sensor_run")?,
            seq: column("seq")?.as_primitive::<Int64Type>().clone(),
            event_type: text(EVENT_TYPE)?,
            container_id: text("container_id")?,
            losses: Arc::clone(column("evt_losses")?),
        })
    }

    fn subject(&self, row: usize) -> Subject<'_> {
        Subject {
            host_id: self.host_id.value(row),
            sensor_run: self.sensor_run.value(row),
            seq: self.seq.value(row),
            ts: self.ts.value(row),
            container_id: self.container_id.value(row),
        }
    }

    /// The losses above zero of a mark row.
    pub fn losses(&self, row: usize) -> Losses {
        if self.losses.is_null(row) {
            return Losses::new();
        }
        let Value::Object(losses) = json::value(self.losses.as_ref(), row) else {
            return Losses::new();
        };
        let above_zero = |(class, count): (String, Value)| {
            let count = count.as_i64().filter(|count| *count > 0)?;
            Some((cut(&class, CLASS_BYTES_MAX).into(), count))
        };
        let above_zero = losses.into_iter().filter_map(above_zero);
        above_zero.take(CLASSES_MAX).collect()
    }
}
