//! Wall time from boot time.
//!
//! Records carry nanoseconds since boot; wall time is that plus an offset measured with every reading.
//! The offset in use is renewed once a second, so that neighbouring events keep their order;
//! a jump beyond the threshold is a step, which becomes an event of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Nanoseconds since boot, suspends included (`CLOCK_BOOTTIME`).
    pub boot_ns: u64,
    /// Nanoseconds since 1970 UTC (`CLOCK_REALTIME`).
    pub wall_ns: i64,
}

impl Reading {
    /// Reads both clocks now.
    pub fn now() -> Self {
        Self {
            boot_ns: read(libc::CLOCK_BOOTTIME) as u64,
            wall_ns: read(libc::CLOCK_REALTIME),
        }
    }

    /// The same two clocks at another moment.
    pub(crate) fn at(self, boot_ns: u64) -> Self {
        Self {
            boot_ns,
            wall_ns: boot_ns as i64 + self.offset_ns(),
        }
    }

    fn offset_ns(self) -> i64 {
        self.wall_ns - self.boot_ns as i64
    }
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec; both clocks exist on every Linux we run on.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// How often the offset is renewed.
const RENEWAL_NS: u64 = 1_000_000_000;

/// The offset between the clocks.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Option<Reading>,
    boot_ns: u64,
    step_min_ns: i64,
}

impl Clock {
    /// A clock that calls a jump of at least `step_min` a step.
    pub fn new(step_min: Duration) -> Self {
        Self {
            last: None,
            boot_ns: 0,
            step_min_ns: step_min.as_nanos() as i64,
        }
    }

    /// Takes a reading; returns by how many nanoseconds the wall clock was stepped, if it was.
    pub fn take(&mut self, reading: Reading) -> Option<i64> {
        self.boot_ns = reading.boot_ns;
        let Some(last) = self.last else {
            self.last = Some(reading);
            return None;
        };
        let moved_ns = reading.offset_ns() - last.offset_ns();
        let stepped = moved_ns.abs() >= self.step_min_ns;
        if stepped || reading.boot_ns.saturating_sub(last.boot_ns) >= RENEWAL_NS {
            self.last = Some(reading);
        }
        stepped.then_some(moved_ns)
    }

    /// The boot time of the last reading.
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// Wall time of a boot time.
    pub fn wall_ns(&self, boot_ns: u64) -> i64 {
        boot_ns as i64 + self.last.map_or(0, Reading::offset_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot_ns: u64, wall_ns: i64) -> Reading {
        Reading { boot_ns, wall_ns }
    }

    #[test]
    fn drift_is_followed_each_second_and_is_no_step() {
        let mut clock = Clock::new(Duration::from_millis(500));
        assert_eq!(clock.take(reading(0, 1_000)), None);
        assert_eq!(clock.take(reading(500_000_000, 500_002_000)), None);
        assert_eq!(clock.wall_ns(500_000_000), 500_001_000);
        assert_eq!(clock.take(reading(1_000_000_000, 1_000_002_000)), None);
        assert_eq!(clock.wall_ns(1_000_000_000), 1_000_002_000);
    }

    #[test]
    fn a_jump_is_a_step_at_once() {
        let mut clock = Clock::new(Duration::from_millis(500));
        clock.take(reading(0, 0));
        assert_eq!(
            clock.take(reading(1_000, -3_600_000_000_000)),
            Some(-3_600_000_001_000)
        );
        assert_eq!(clock.wall_ns(2_000), -3_599_999_999_000);
    }
}
