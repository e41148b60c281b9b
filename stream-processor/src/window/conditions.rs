//! The conditions of detections over windows: each is looked at once a step, however many detections and groups have it.
//!
//! Those on the same event types look at the same columns: what stands in several of them, such as `program(..)`, is computed
//! once.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::Rows;
use super::group::plan_of;
use crate::detect::{DetectionSet, Unjudged, by_halves, error_text, narrow, project, take_rows};
use crate::parallel::side_by_side;

/// The distinct conditions of a set's detections over windows.
pub(super) struct Conditions {
    /// For each, the detections that have it, and the place of those alike.
    each: Vec<(Vec<usize>, usize)>,
    alike: Vec<Alike>,
}

/// Conditions on the same event types.
struct Alike {
    event_types: Option<BTreeSet<String>>,
    /// The columns that they read.
    schema: SchemaRef,
}

/// The rows of some event types.
struct Routed {
    rows: Vec<u32>,
    batch: RecordBatch,
}

/// What came of looking at the conditions.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// For each condition, which rows of the batch it is true for, of the shown ones.
    pub rows: Vec<Vec<bool>>,
    /// Rows that a condition could not judge: it is not true for them.
    pub unjudged: Vec<Unjudged>,
}

impl Conditions {
    /// Finds the conditions of a set; `events` is the schema of the table.
    pub fn new(set: &DetectionSet, events: &SchemaRef) -> Self {
        let mut each: Vec<(Vec<usize>, usize)> = Vec::new();
        let mut by_types: BTreeMap<Option<&BTreeSet<String>>, usize> = BTreeMap::new();
        let mut columns: Vec<BTreeSet<String>> = Vec::new();
        for (detection, own) in set.iter().enumerate() {
            let Some(plan) = own.plan.windowed() else {
                continue;
            };
            if let Some(place) = find(&each, set, detection) {
                each[place].0.push(detection);
                continue;
            }
            let event_types = plan.predicate.event_types.as_ref();
            let alike = *by_types.entry(event_types).or_insert(columns.len());
            if alike == columns.len() {
                columns.push(BTreeSet::new());
            }
            columns[alike].extend(plan.predicate.columns().map(str::to_owned));
            each.push((vec![detection], alike));
        }
        let mut by_place: Vec<_> = by_types.into_iter().collect();
        by_place.sort_unstable_by_key(|(_, place)| *place);
        let alike = by_place.into_iter().zip(columns);
        let alike = alike.map(|((event_types, _), columns)| Alike {
            event_types: event_types.cloned(),
            schema: narrow(events, &columns),
        });
        Self {
            alike: alike.collect(),
            each,
        }
    }

    /// The place of a detection's condition.
    pub fn place(&self, set: &DetectionSet, detection: usize) -> usize {
        find(&self.each, set, detection)
            .expect("the conditions of all detections over windows are known")
    }

    /// Looks at all conditions, in so many shares side by side.
    ///
    /// # Errors
    /// When the rows cannot be handed to them.
    pub fn matched(&self, set: &DetectionSet, rows: &Rows<'_>, shares: usize) -> Result<Matched> {
        let share = |count: usize| count.div_ceil(shares).max(1);
        let routed = side_by_side(self.alike.chunks(share(self.alike.len())), |own| {
            own.iter().map(|alike| alike.rows(rows)).collect()
        });
        let routed: Result<Vec<Vec<Routed>>> = routed.into_iter().collect();
        let routed: Vec<Routed> = routed?.into_iter().flatten().collect();
        let matched = |share: &[(Vec<usize>, usize)]| {
            let mut matched = Matched::default();
            for (detections, alike) in share {
                matches(set, detections, rows, &routed[*alike], &mut matched);
            }
            matched
        };
        let mut all = Matched::default();
        for share in side_by_side(self.each.chunks(share(self.each.len())), matched) {
            all.rows.extend(share.rows);
            all.unjudged.extend(share.unjudged);
        }
        Ok(all)
    }
}

impl Alike {
    fn rows(&self, rows: &Rows<'_>) -> Result<Routed> {
        let routed = rows.routes.of(self.event_types.as_ref());
        Ok(Routed {
            batch: take_rows(&project(rows.batch, &self.schema)?, &routed)?,
            rows: routed,
        })
    }
}

/// The condition that a detection has, among those that are known.
fn find(known: &[(Vec<usize>, usize)], set: &DetectionSet, detection: usize) -> Option<usize> {
    let text = |detection: usize| &plan_of(set, detection).predicate.text;
    let mut known = known.iter();
    known.position(|(known, _)| text(known[0]) == text(detection))
}

/// Looks at the condition that some detections have.
fn matches(
    set: &DetectionSet,
    detections: &[usize],
    rows: &Rows<'_>,
    routed: &Routed,
    matched: &mut Matched,
) {
    let predicate = &plan_of(set, detections[0]).predicate;
    let mut matches = vec![false; rows.batch.num_rows()];
    let mut judge = |part: &RecordBatch| predicate.rows(part);
    let mut take = |start: usize, result: Result<Vec<u32>>| match result {
        Ok(found) => {
            for row in found {
                matches[routed.rows[start + row as usize] as usize] = true;
            }
        }
        Err(error) => {
            let error = error_text(&error);
            let own = detections.iter().map(|detection| Unjudged {
                detection: *detection,
                row: routed.rows[start],
                error: error.clone(),
            });
            matched.unjudged.extend(own);
        }
    };
    if !routed.rows.is_empty() {
        by_halves(&routed.batch, &mut judge, &mut |start, _, result| {
            take(start, result);
        });
    }
    matched.rows.push(matches);
}
