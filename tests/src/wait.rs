//! Waiting for what another process does, always with a bound.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `look` until it yields something.
///
/// # Panics
/// When it has not within `patience`; the message names `what`.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain for {what}"
        );
        std::thread::sleep(INTERVAL);
    }
}
