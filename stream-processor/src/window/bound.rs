//! How much memory a detection over windows can take at most.
//!
//! All windows of a task share `windows.state_bytes_max` ([`super::room`]). By its own keys a detection may want less: `panes ×
//! keys × bytes a key`, with texts of the greatest length. Panes are counted for a host that is in time.

use std::fmt;

use super::WindowOptions;
use super::room::second_bytes;
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
    /// Bytes that the windows of a task may take, which all detections share.
    pub state_bytes_max: u64,
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
    /// Bytes of a second at most.
    pub second_bytes: u64,
}

impl Travels {
    /// Bytes of a second at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let keys = self.keys_max.saturating_mul(self.key_bytes);
        keys.min(self.second_bytes)
    }
}

impl Bound {
    /// Bytes that its keys can want in one task.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.panes
            .saturating_mul(self.keys_max)
            .saturating_mul(self.key_bytes)
    }

    /// Bytes in one task.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.wanted().min(self.state_bytes_max)
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
                "travels   keys and partial states, once a second of each partition that has any; at most {} KiB, a key {} bytes",
                travels.bytes().div_ceil(1 << 10),
                travels.key_bytes
            )?;
        }
        write!(
            formatter,
            "bound     {} MiB a task{}; {} panes, a key at most {} bytes in each",
            self.bytes().div_ceil(1 << 20),
            match self.wanted() > self.state_bytes_max {
                true => ", shared with all others (windows.state_bytes_max)",
                false => "",
            },
            self.panes,
            self.key_bytes
        )
    }
}

/// How much memory each detection over windows can take in one task, by name.
#[must_use]
pub fn bounds<'s>(set: &'s DetectionSet, options: &WindowOptions) -> Vec<(&'s str, Bound)> {
    set.iter()
        .filter_map(|detection| Some((detection.id.as_str(), bound(detection, options)?)))
        .collect()
}

/// The bound of a detection; none when it keeps nothing.
fn bound(detection: &Detection, options: &WindowOptions) -> Option<Bound> {
    let options = options.of_table(detection.table);
    let keys_max = options.keys_max;
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
        state_bytes_max: options.state_bytes_max,
        early,
        travels: plan.fleet.then(|| Travels {
            keys_max: keys_max as u64,
            key_bytes: plan.key_bytes(),
            second_bytes: second_bytes(options.state_bytes_max),
        }),
    })
}
