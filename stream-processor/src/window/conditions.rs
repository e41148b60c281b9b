//! The conditions of detections over windows: each is looked at once a step, however many detections and groups have it.

use arrow::array::RecordBatch;
use datafusion::common::Result;

use super::Rows;
use super::group::plan_of;
use crate::detect::{DetectionSet, Unjudged, by_halves, error_text, project, take_rows};
use crate::parallel::side_by_side;

/// The distinct conditions of a set's detections over windows.
pub(super) struct Conditions {
    /// For each, the detections that have it.
    detections: Vec<Vec<usize>>,
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
    /// Finds the conditions of a set.
    pub fn new(set: &DetectionSet) -> Self {
        let mut conditions = Self {
            detections: Vec::new(),
        };
        for (detection, own) in set.iter().enumerate() {
            if own.plan.windowed().is_none() {
                continue;
            }
            match conditions.find(set, detection) {
                Some(place) => conditions.detections[place].push(detection),
                None => conditions.detections.push(vec![detection]),
            }
        }
        conditions
    }

    fn find(&self, set: &DetectionSet, detection: usize) -> Option<usize> {
        let text = |detection: usize| &plan_of(set, detection).predicate.text;
        let mut known = self.detections.iter();
        known.position(|known| text(known[0]) == text(detection))
    }

    /// The place of a detection's condition.
    pub fn place(&self, set: &DetectionSet, detection: usize) -> usize {
        self.find(set, detection)
            .expect("the conditions of all detections over windows are known")
    }

    /// Looks at all conditions, in so many shares side by side.
    ///
    /// # Errors
    /// When the rows cannot be handed to them.
    pub fn matched(&self, set: &DetectionSet, rows: &Rows<'_>, shares: usize) -> Result<Matched> {
        let each = self.detections.len().div_ceil(shares).max(1);
        let matched = |share: &[Vec<usize>]| -> Result<Matched> {
            let mut matched = Matched::default();
            for detections in share {
                matches(set, detections, rows, &mut matched)?;
            }
            Ok(matched)
        };
        let mut all = Matched::default();
        for share in side_by_side(self.detections.chunks(each), matched) {
            let share = share?;
            all.rows.extend(share.rows);
            all.unjudged.extend(share.unjudged);
        }
        Ok(all)
    }
}

/// Looks at the condition that some detections have.
fn matches(
    set: &DetectionSet,
    detections: &[usize],
    rows: &Rows<'_>,
    matched: &mut Matched,
) -> Result<()> {
    let predicate = &plan_of(set, detections[0]).predicate;
    let mut matches = vec![false; rows.batch.num_rows()];
    let routed = rows.routes.of(predicate.event_types.as_ref());
    match predicate.schema() {
        None => routed.iter().for_each(|row| matches[*row as usize] = true),
        Some(_) if routed.is_empty() => {}
        Some(schema) => {
            let narrow = take_rows(&project(rows.batch, schema)?, &routed)?;
            let mut judge = |part: &RecordBatch| predicate.rows(part);
            by_halves(&narrow, &mut judge, &mut |start, _, result| match result {
                Ok(found) => {
                    for row in found {
                        matches[routed[start + row as usize] as usize] = true;
                    }
                }
                Err(error) => {
                    let error = error_text(&error);
                    let own = detections.iter().map(|detection| Unjudged {
                        detection: *detection,
                        row: routed[start],
                        error: error.clone(),
                    });
                    matched.unjudged.extend(own);
                }
            });
        }
    }
    matched.rows.push(matches);
    Ok(())
}
