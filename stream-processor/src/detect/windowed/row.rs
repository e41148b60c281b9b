//! The state of one key must fit one record of state: it cannot be cut.
//!
//! Detections that share their keys share their states, so it is the sum of theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{AggregateCall, Argument, WindowedPlan, value_bytes};
use crate::detect::Detection;
use crate::detect::sql_file::Fault;

/// Most bytes of a key's state, of all detections that share it; a record takes 512 KiB.
pub(in crate::detect) const ROW_BYTES_MAX: u64 = 448 << 10;

/// What detections that share their states have in common: keys, when they fire and close, how far their windows move on. One
/// of the fleet shares with nobody: its name.
type Shared<'a> = (Vec<&'a str>, bool, i64, i64, Option<&'a str>);

/// The states of detections that share them.
#[derive(Default)]
struct Row<'a> {
    bytes: u64,
    /// What they compute: equal aggregates under equal conditions stand there once.
    calls: BTreeSet<[String; 3]>,
    detections: Vec<&'a str>,
}

/// The detections, by place, whose states have no room beside those of others by which they are grouped.
pub(in crate::detect) fn too_large(detections: &[Detection]) -> Vec<(usize, Fault)> {
    let mut rows: BTreeMap<Shared<'_>, Row<'_>> = BTreeMap::new();
    let mut refused = Vec::new();
    for (place, detection) in detections.iter().enumerate() {
        let Some(plan) = detection.plan.windowed() else {
            continue;
        };
        let fleet = plan.fleet.then_some(detection.id.as_str());
        let row = rows.entry(shared(plan, fleet)).or_default();
        let own = plan.aggregates.iter().map(|call| (call, said(plan, call)));
        let new: BTreeMap<[String; 3], u64> = own
            .filter(|(_, said)| !row.calls.contains(said))
            .map(|(call, said)| (said, call.state_bytes))
            .collect();
        let keys = match row.detections.is_empty() {
            true => plan
                .keys
                .iter()
                .map(|key| value_bytes(&key.data_type))
                .sum(),
            false => 0,
        };
        let bytes = row.bytes + keys + new.values().sum::<u64>();
        if bytes > ROW_BYTES_MAX {
            refused.push((place, fault(detection, bytes, &row.detections)));
            continue;
        }
        row.bytes = bytes;
        row.calls.extend(new.into_keys());
        row.detections.push(&detection.id);
    }
    refused
}

fn shared<'a>(plan: &'a WindowedPlan, fleet: Option<&'a str>) -> Shared<'a> {
    let keys = plan.keys.iter().map(|key| key.text.as_str()).collect();
    let (early, delay_ns, pane_ns) = (plan.fires_early(), plan.delay_ns, plan.spec.slide_ns);
    (keys, early, delay_ns, pane_ns, fleet)
}

/// What tells an aggregate from others.
fn said(plan: &WindowedPlan, call: &AggregateCall) -> [String; 3] {
    let filter = call.filter.as_ref().map(Argument::text);
    [
        call.text.clone(),
        filter.unwrap_or_default(),
        plan.predicate.text.clone(),
    ]
}

fn fault(detection: &Detection, bytes: u64, others: &[&str]) -> Fault {
    let beside = match others.is_empty() {
        true => String::new(),
        false => format!(
            " with that of {}, which it shares its keys and slide with",
            others.join(", ")
        ),
    };
    let reason = format!(
        "the state of one key may take {bytes} bytes{beside}; {ROW_BYTES_MAX} fit one record of dogwatch.state"
    );
    let mend = "ask for fewer values in count(DISTINCT ..) and sample(..), or group by another key";
    Fault::new(detection.query_line, reason, mend)
}
