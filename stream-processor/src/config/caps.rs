//! What the windows of a task may hold.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::RawWindows;

/// What `windows.keys_max` may be.
pub const KEYS_MAX: RangeInclusive<usize> = 1..=10_000_000;

/// What `windows.state_bytes_max` may be.
pub const STATE_BYTES_MAX: RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// Bytes of the states of windows over the events of a task, where nothing else is said: with the shipped detections eight partitions fit into 2 GiB.
pub const STATE_BYTES: u64 = 20 << 20;

/// What the windows of a task may hold: the same on all processors, since results may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// `windows.keys_max`.
    pub keys_max: usize,
    /// `windows.state_bytes_max`.
    #[serde(default = "state_bytes")]
    pub state_bytes_max: u64,
}

/// Sets that were published before it was there say nothing of it.
fn state_bytes() -> u64 {
    STATE_BYTES
}

impl Caps {
    /// Whether they may be configured.
    #[must_use]
    pub fn allowed(self) -> bool {
        KEYS_MAX.contains(&self.keys_max) && STATE_BYTES_MAX.contains(&self.state_bytes_max)
    }

    /// How these differ from those before, where they do.
    #[must_use]
    pub fn changed(self, before: Self) -> Option<String> {
        let keys = (before.keys_max, self.keys_max);
        let bytes = (before.state_bytes_max, self.state_bytes_max);
        let keys =
            (keys.0 != keys.1).then(|| format!("windows.keys_max from {} to {}", keys.0, keys.1));
        let bytes = (bytes.0 != bytes.1)
            .then(|| format!("windows.state_bytes_max from {} to {}", bytes.0, bytes.1));
        let words: Vec<String> = keys.into_iter().chain(bytes).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl RawWindows {
    /// What the windows of a task may hold.
    #[must_use]
    pub fn caps(&self) -> Caps {
        Caps {
            keys_max: self.keys_max,
            state_bytes_max: self.state_bytes_max,
        }
    }
}
