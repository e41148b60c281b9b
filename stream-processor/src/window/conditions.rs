//! The conditions of detections over windows: each is looked at once a step, however many detections and groups have it.

use datafusion::common::Result;

use super::Rows;
use super::group::plan_of;
use crate::detect::{DetectionSet, project, take_rows};
use crate::parallel::side_by_side;

/// The distinct conditions of a set's detections over windows.
pub(super) struct Conditions {
    /// For each, a detection that has it.
    detections: Vec<usize>,
}

impl Conditions {
    /// Finds the conditions of a set.
    pub fn new(set: &DetectionSet) -> Self {
        let mut conditions = Self {
            detections: Vec::new(),
        };
        for (detection, own) in set.iter().enumerate() {
            if own.plan.windowed().is_some() && conditions.find(set, detection).is_none() {
                conditions.detections.push(detection);
            }
        }
        conditions
    }

    fn find(&self, set: &DetectionSet, detection: usize) -> Option<usize> {
        let text = |detection: usize| &plan_of(set, detection).predicate.text;
        let mut known = self.detections.iter();
        known.position(|known| text(*known) == text(detection))
    }

    /// The place of a detection's condition.
    pub fn place(&self, set: &DetectionSet, detection: usize) -> usize {
        self.find(set, detection)
            .expect("the conditions of all detections over windows are known")
    }

    /// For each, which rows of the batch it is true for, of the shown ones; looked at in so many shares side by side.
    ///
    /// # Errors
    /// When a condition cannot be evaluated.
    pub fn matched(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        shares: usize,
    ) -> Result<Vec<Vec<bool>>> {
        let each = self.detections.len().div_ceil(shares).max(1);
        let matched = |share: &[usize]| -> Result<Vec<Vec<bool>>> {
            let detections = share.iter();
            detections
                .map(|detection| matches(set, *detection, rows))
                .collect()
        };
        let shares: Result<Vec<_>> = side_by_side(self.detections.chunks(each), matched)
            .into_iter()
            .collect();
        Ok(shares?.into_iter().flatten().collect())
    }
}

fn matches(set: &DetectionSet, detection: usize, rows: &Rows<'_>) -> Result<Vec<bool>> {
    let predicate = &plan_of(set, detection).predicate;
    let mut matches = vec![false; rows.batch.num_rows()];
    let routed = rows.routes.of(predicate.event_types.as_ref());
    let Some(schema) = predicate.schema() else {
        routed.iter().for_each(|row| matches[*row as usize] = true);
        return Ok(matches);
    };
    if routed.is_empty() {
        return Ok(matches);
    }
    let narrow = take_rows(&project(rows.batch, schema)?, &routed)?;
    for row in predicate.rows(&narrow)? {
        matches[routed[row as usize] as usize] = true;
    }
    Ok(matches)
}
