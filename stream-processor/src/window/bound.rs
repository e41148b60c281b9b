//! How much memory a detection over windows can take at most.
//!
//! `panes × keys × bytes a key`, for each task; it is what the caps allow, not what is usual. Panes are counted for a host
//! that is in time; one that drains its backlog has as many of its own, and shares the cap on keys in each.

use std::fmt;

use crate::detect::window::interval;
use crate::detect::{Detection, DetectionSet};

/// Panes beyond a window's own that are open at once: the one that fills, and one that waits to close.
const PANES_BESIDE: u64 = 2;

/// The most that a detection over windows takes in one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its windows, such as `hop 5 minutes every 30 seconds`.
    pub windows: String,
    /// What its rows are grouped by beside host and window.
    pub keys: Vec<String>,
    /// How long a window waits beyond its end, such as `1 second`.
    pub delay: String,
    /// Panes open at once.
    pub panes: u64,
    /// Keys in a pane at most.
    pub keys_max: u64,
    /// Bytes of a key's state at most.
    pub key_bytes: u64,
    /// Whether it fires before a window is over.
    pub early: bool,
}

impl Bound {
    /// Bytes in one task.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.panes
            .saturating_mul(self.keys_max)
            .saturating_mul(self.key_bytes)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "windows   {}, close {} after their end",
            self.windows, self.delay
        )?;
        writeln!(
            formatter,
            "keys      {} (of one host and window)",
            self.keys.join(", ")
        )?;
        let early = if self.early {
            "at the row that crosses its threshold, and again at the close"
        } else {
            "at the close"
        };
        writeln!(formatter, "fires     {early}")?;
        write!(
            formatter,
            "bound     {} panes x {} keys x {} bytes = {} MiB a task",
            self.panes,
            self.keys_max,
            self.key_bytes,
            self.bytes().div_ceil(1 << 20)
        )
    }
}

/// How much memory each detection over windows can take in one task, by name.
#[must_use]
pub fn bounds(set: &DetectionSet, keys_max: usize) -> Vec<(&str, Bound)> {
    set.iter()
        .filter_map(|detection| Some((detection.id.as_str(), bound(detection, keys_max)?)))
        .collect()
}

/// The bound of a detection; none when it keeps nothing.
fn bound(detection: &Detection, keys_max: usize) -> Option<Bound> {
    let plan = detection.plan.windowed()?;
    let waiting = plan.delay_ns.div_euclid(plan.spec.slide_ns) as u64;
    // Early firing keeps each key's counts again: in its pane, and of all panes together.
    let early = plan.fires_early();
    let counts = if early {
        2 * (32 + 8 * plan.thresholds.len() as u64)
    } else {
        0
    };
    Some(Bound {
        windows: plan.spec.to_string(),
        keys: plan.keys.iter().map(|key| key.text.clone()).collect(),
        delay: interval(plan.delay_ns),
        panes: plan.spec.panes() as u64 + waiting + PANES_BESIDE,
        keys_max: keys_max as u64,
        // A key stands twice in a pane at most: in what is stored and in what came since.
        key_bytes: 2 * plan.key_bytes() + counts,
        early,
    })
}
