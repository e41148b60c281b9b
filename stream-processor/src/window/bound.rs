//! How much memory a detection over windows can take at most.
//!
//! `panes × keys × bytes a key`, for each task; it is what the caps allow, not what is usual. Panes are counted for a host
//! that is in time; one that drains its backlog has as many of its own, and shares the cap on keys in each.

use std::fmt;

use crate::detect::window::interval;
use crate::detect::{Detection, DetectionSet};

/// Panes beyond a window's own that are open at once: the one that fills, and one that waits to close.
const PANES_BESIDE: u64 = 2;

/// What a key's place among those of early firing takes beside its bytes.
const KEY_PLACE_BYTES: u64 = 96;
/// What a window that has fired takes beside the text of its keys.
const MARK_BYTES: u64 = 128;

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
    /// What goes to where windows of the fleet are finished; none where they are of one host.
    pub travels: Option<Travels>,
}

/// What a task says to the fleet of a second of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Travels {
    /// Keys at most.
    pub keys_max: u64,
    /// Bytes of a key and its states at most.
    pub key_bytes: u64,
}

impl Travels {
    /// Bytes of a second at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keys_max.saturating_mul(self.key_bytes)
    }
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
        let keys = match self.keys.is_empty() {
            true => "none".to_owned(),
            false => self.keys.join(", "),
        };
        let whose = match self.travels {
            Some(_) => "of all hosts together, and window",
            None => "of one host and window",
        };
        writeln!(formatter, "keys      {keys} ({whose})")?;
        let early = match (self.early, self.travels) {
            (true, None) => "at the row that crosses its threshold, and again at the close",
            (true, Some(_)) => "in the second that crosses its threshold, and again at the close",
            (false, _) => "at the close",
        };
        writeln!(formatter, "fires     {early}")?;
        if let Some(travels) = self.travels {
            writeln!(
                formatter,
                "travels   keys and partial states, once a second of each partition that has any; at most {} keys x {} bytes = {} MiB",
                travels.keys_max,
                travels.key_bytes,
                travels.bytes().div_ceil(1 << 20)
            )?;
        }
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
    // Early firing keeps each key and its counts again, in its pane and of all panes together; and what has fired, as text.
    let early = plan.fires_early();
    let counts = if early {
        let values = plan.key_values_bytes();
        2 * (32 + 8 * plan.thresholds.len() as u64)
            + values
            + KEY_PLACE_BYTES
            + 2 * values
            + MARK_BYTES
    } else {
        0
    };
    // Beyond the cap some are kept for hosts that have few.
    let kept = match plan.fleet {
        true => 0,
        false => keys_max as u64 / 2,
    };
    Some(Bound {
        windows: plan.spec.to_string(),
        keys: plan.keys.iter().map(|key| key.text.clone()).collect(),
        delay: interval(plan.delay_ns),
        panes: plan.spec.panes() as u64 + waiting + PANES_BESIDE,
        keys_max: keys_max as u64 + kept,
        // A key stands twice in a pane at most: in what is stored and in what came since.
        key_bytes: 2 * plan.key_bytes() + counts,
        early,
        travels: plan.fleet.then(|| Travels {
            keys_max: keys_max as u64,
            key_bytes: plan.key_bytes(),
        }),
    })
}
