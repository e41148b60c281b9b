//! Detections that cannot judge, in the log.

use std::collections::BTreeMap;
use std::time::Instant;

use dogwatch_kafka::Recurring;

use crate::engine::Failure;

/// Which detections were told of, and when.
#[derive(Default)]
pub(super) struct Failing(Recurring<String>);

impl Failing {
    /// Names each detection that could not judge, with the first record of the step that it failed on: at once, then with
    /// their number at growing intervals.
    pub fn tell(&mut self, failures: &[Failure]) {
        let now = Instant::now();
        let mut first: BTreeMap<&str, (u64, &Failure)> = BTreeMap::new();
        for failure in failures {
            first.entry(&failure.detection_id).or_insert((0, failure)).0 += 1;
        }
        for (detection, (failures, first)) in first {
            let Some(failures) = self.0.note(detection.to_owned(), failures, now) else {
                continue;
            };
            tracing::error!(
                failures,
                detection,
                file = first.place,
                topic = first.log.0.suffix(),
                partition = first.log.1,
                offset = first.offset,
                error = first.error,
                "a detection could not judge events or windows"
            );
        }
    }
}
