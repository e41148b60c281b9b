//! One pass of all detections on single events over a batch.
//!
//! ```text
//! rows ─ by evt_type ─► class of types that the same detections ask for ─ take rows, their columns ─► each detection's filter
//! ```
//! Classes have no type in common, so a row is copied once, however many detections look at it, and what stands in several of
//! them is computed once. A class whose types do not occur costs nothing.
//! What is more than a filter costs much for each batch, so it is shown all its rows at once.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use crate::detect::{
    DetectionSet, Match, Routes, Unjudged, by_halves, error_text, narrow, project, take_rows,
};

/// A match and the place of its detection in the set.
pub(crate) type Found = (usize, Match);

/// Detections by the event types they need.
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
        let mut of_type: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut of_types: BTreeMap<Option<&BTreeSet<String>>, Vec<usize>> = BTreeMap::new();
        let own = set.iter().enumerate();
        for (index, detection) in own.filter(|(_, own)| own.plan.windowed().is_none()) {
            let event_types = detection.event_types();
            match event_types.filter(|_| detection.filters()) {
                Some(event_types) => event_types
                    .iter()
                    .for_each(|one| of_type.entry(one).or_default().push(index)),
                None => of_types.entry(event_types).or_default().push(index),
            }
        }
        let mut classes: BTreeMap<Vec<usize>, BTreeSet<String>> = BTreeMap::new();
        for (event_type, detections) in of_type {
            let class = classes.entry(detections).or_default();
            class.insert(event_type.to_owned());
        }
        let classes = classes.into_iter();
        let classes = classes.map(|(detections, event_types)| (Some(event_types), detections));
        let others = of_types.into_iter();
        let others = others.map(|(event_types, detections)| (event_types.cloned(), detections));
        let group = |(event_types, detections): (_, Vec<usize>)| {
            let columns = detections
                .iter()
                .flat_map(|index| set.at(*index).columns())
                .map(str::to_owned)
                .collect();
            Group {
                event_types,
                schema: narrow(events, &columns),
                detections,
            }
        };
        Self {
            groups: classes.chain(others).map(group).collect(),
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
