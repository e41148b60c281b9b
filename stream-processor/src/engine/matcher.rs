//! One pass of all detections over a batch.
//!
//! ```text
//! rows ─ by evt_type ─► group of detections with the same types ─ take rows, group's columns ─► each detection's plan
//! ```
//! A group whose types do not occur costs nothing; the rows of a type are copied once for all detections of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};

use crate::detect::{DetectionSet, Match, Routes, project, take_rows};

/// A match and the place of its detection in the set.
pub(crate) type Found = (usize, Match);

/// A row that a detection could not judge.
#[derive(Debug)]
pub(crate) struct Unjudged {
    pub detection: usize,
    pub row: u32,
    pub error: DataFusionError,
}

/// Detections grouped by the event types they need.
pub(crate) struct Matcher {
    groups: Vec<Group>,
}

struct Group {
    /// None = every type.
    event_types: Option<BTreeSet<String>>,
    schema: SchemaRef,
    detections: Vec<usize>,
}

impl Matcher {
    /// Groups a set's detections; `events` is the schema of the batches to come.
    pub fn new(set: &DetectionSet, events: &SchemaRef) -> Self {
        let mut members: BTreeMap<Option<BTreeSet<String>>, Vec<usize>> = BTreeMap::new();
        for (index, detection) in set.iter().enumerate() {
            members
                .entry(detection.event_types().cloned())
                .or_default()
                .push(index);
        }
        let group = |(event_types, detections): (_, Vec<usize>)| {
            let columns: BTreeSet<&str> = detections
                .iter()
                .flat_map(|index| set.at(*index).columns())
                .collect();
            let fields = events
                .fields()
                .iter()
                .filter(|field| columns.contains(field.name().as_str()));
            Group {
                event_types,
                schema: Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>())),
                detections,
            }
        };
        Self {
            groups: members.into_iter().map(group).collect(),
        }
    }

    /// Shows the rows to every detection that may match them.
    /// Matches come back by row, then by detection; what a detection cannot judge comes back apart.
    pub fn run(
        &self,
        set: &DetectionSet,
        batch: &RecordBatch,
        routes: &Routes<'_>,
    ) -> Result<(Vec<Found>, Vec<Unjudged>)> {
        let (mut found, mut unjudged) = (Vec::new(), Vec::new());
        for group in &self.groups {
            let group_rows = routes.of(group.event_types.as_ref());
            if group_rows.is_empty() {
                continue;
            }
            let group_batch = take_rows(&project(batch, &group.schema)?, &group_rows)?;
            for detection in &group.detections {
                let mut judge = Judge {
                    set,
                    detection: *detection,
                    rows: &group_rows,
                    found: &mut found,
                    unjudged: &mut unjudged,
                };
                judge.run(&group_batch, 0);
            }
        }
        found.sort_by_key(|(detection, found)| (found.row, *detection));
        unjudged.sort_by_key(|unjudged| (unjudged.row, unjudged.detection));
        Ok((found, unjudged))
    }
}

/// One detection at work on a group's batch, whose rows are `rows` of the step's.
struct Judge<'a> {
    set: &'a DetectionSet,
    detection: usize,
    rows: &'a [u32],
    found: &'a mut Vec<Found>,
    unjudged: &'a mut Vec<Unjudged>,
}

impl Judge<'_> {
    /// Runs the detection over a slice that starts at `start`.
    /// Where it fails, halves are tried until the rows that it cannot judge stand alone: one crafted event must not blind
    /// a detection to the others, nor may an answer hang on which events share a batch.
    fn run(&mut self, batch: &RecordBatch, start: usize) {
        match self.set.at(self.detection).plan.run(batch) {
            Ok(matches) => {
                let placed = matches.into_iter().map(|found| {
                    let row = self.rows[start + found.row as usize];
                    (self.detection, Match { row, ..found })
                });
                self.found.extend(placed);
            }
            Err(error) if batch.num_rows() <= 1 => {
                let unjudged = Unjudged {
                    detection: self.detection,
                    row: self.rows[start],
                    error,
                };
                self.unjudged.push(unjudged);
            }
            Err(_) => {
                let half = batch.num_rows() / 2;
                self.run(&batch.slice(0, half), start);
                self.run(&batch.slice(half, batch.num_rows() - half), start + half);
            }
        }
    }
}
