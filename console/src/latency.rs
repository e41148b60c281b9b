//! Quantiles of the time from an event to its alert, in bounded memory.
//!
//! A log-linear histogram: eight buckets for every power of two, so a quantile is at most an eighth above the truth.
//! It does not keep single values.

use std::time::Duration;

/// Buckets for every power of two.
const STEPS: u64 = 8;
/// Enough for every `u64` of microseconds.
const BUCKETS: usize = 64 * STEPS as usize;

/// Counts durations from one microsecond to ages.
#[derive(Debug, Clone)]
pub struct Latency {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
    }

    /// Returns the duration that `share` (0 to 1) of the counted ones do not exceed, or `None` when none was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(Duration::from_micros(upper_bound(index)));
            }
        }
        None
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2());
    let step = (micros >> (power - STEPS.ilog2() as u64)) - STEPS;
    ((power - STEPS.ilog2() as u64 + 1) * STEPS + step) as usize
}

/// The largest number of microseconds that falls into the bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS) << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_holds_its_bounds() {
        for micros in (0..100_000).chain([u64::from(u32::MAX), u64::MAX / 3]) {
            let index = bucket(micros);
            let upper = upper_bound(index);
            assert!(
                micros <= upper && upper - micros <= micros / 8,
                "{micros} in bucket up to {upper}"
            );
            assert!(
                index == 0 || upper_bound(index - 1) < micros,
                "{micros} belongs into an earlier bucket"
            );
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for millis in 1..=100 {
            latency.record(Duration::from_millis(millis));
        }
        let within = |share, millis: u64| {
            let found = latency.quantile(share).expect("values were recorded");
            let exact = Duration::from_millis(millis);
            assert!(
                found >= exact && found <= exact * 9 / 8,
                "{share}: {found:?}, exact {exact:?}"
            );
        };
        within(0.5, 50);
        within(0.99, 99);
        within(1.0, 100);
    }
}
