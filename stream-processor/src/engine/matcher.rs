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
use datafusion::common::Result;

use crate::detect::{
    DetectionSet, Match, Routes, Unjudged, by_halves, error_text, project, take_rows,
};

/// A match and the place of its detection in the set.
pub(crate) type Found = (usize, Match);

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
                let mut judge = |part: &RecordBatch| set.at(*detection).plan.run(part);
                by_halves(
                    &group_batch,
                    &mut judge,
                    &mut |start, _, result| match result {
                        Ok(matches) => found.extend(matches.into_iter().map(|found| {
                            let row = group_rows[start + found.row as usize];
                            (*detection, found.at_row(row))
                        })),
                        Err(error) => unjudged.push(Unjudged {
                            detection: *detection,
                            row: group_rows[start],
                            error: error_text(&error),
                        }),
                    },
                );
            }
        }
        found.sort_by_key(|(detection, found)| (found.row, *detection));
        unjudged.sort_by_key(|unjudged| (unjudged.row, unjudged.detection));
        Ok((found, unjudged))
    }
}
