//! What was added between two readings of the same accounts.
//!
//! A reading has the kernel's totals in the columns of a sample; of sizes nothing is taken away. A total that is smaller than
//! before says nothing of the interval: it is null, and the next interval begins with it.

use dogwatch_schemas::records::ContainerSample;

/// What a counter grew by; none where one of both is not known, or it went back, which is counted.
pub(super) fn difference(
    now: Option<i64>,
    before: Option<i64>,
    went_back: &mut u64,
) -> Option<i64> {
    let grown = now?.checked_sub(before?)?;
    if grown < 0 {
        *went_back += 1;
        return None;
    }
    Some(grown)
}

/// What a reading is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Before<'a> {
    /// The reading before.
    Read(&'a ContainerSample),
    /// It began since then, nanoseconds since boot: all of it is new.
    Begun(u64),
    /// Nothing: it was there, and was not read.
    Unknown,
}

macro_rules! growing {
    ($sample:ident, $each:expr; $($column:ident)*) => {
        $( $sample.$column = $each($sample.$column, |before: &ContainerSample| before.$column); )*
    };
}

/// The sample of a reading.
pub(super) fn sample(
    reading: &ContainerSample,
    before: Before<'_>,
    went_back: &mut u64,
) -> ContainerSample {
    let mut sample = reading.clone();
    let since_ns = match before {
        Before::Read(before) => Some(before.boot_ts),
        Before::Begun(since_ns) => Some(since_ns as i64),
        Before::Unknown => None,
    };
    sample.sample_interval_ns = since_ns.map(|since_ns| (sample.boot_ts - since_ns).max(0));
    let mut each = |now: Option<i64>, of: fn(&ContainerSample) -> Option<i64>| match before {
        Before::Read(before) => difference(now, of(before), went_back),
        Before::Begun(_) => now,
        Before::Unknown => None,
    };
    growing!(sample, each;
        cpu_total_ns cpu_user_ns cpu_system_ns cpu_periods cpu_throttled_periods cpu_throttled_ns
        mem_limit_hits mem_oom_kills
        io_read_bytes io_write_bytes io_read_ops io_write_ops
        net_rx_bytes net_tx_bytes net_rx_packets net_tx_packets
        psi_cpu_some_ns psi_memory_some_ns psi_memory_full_ns psi_io_some_ns psi_io_full_ns);
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot_ts: i64, cpu: Option<i64>, memory: i64) -> ContainerSample {
        ContainerSample {
            boot_ts,
            cpu_total_ns: cpu,
            mem_current_bytes: Some(memory),
            ..ContainerSample::default()
        }
    }

    #[test]
    fn counters_become_growth_and_sizes_stay() {
        let (first, second) = (reading(10, Some(100), 7), reading(30, Some(150), 5));
        let mut back = 0;
        let sample = sample(&second, Before::Read(&first), &mut back);
        assert_eq!(sample.sample_interval_ns, Some(20));
        assert_eq!(sample.cpu_total_ns, Some(50));
        assert_eq!(sample.mem_current_bytes, Some(5));
        assert_eq!(sample.io_read_bytes, None, "not accounted for stays null");
        assert_eq!(back, 0);
    }

    #[test]
    fn a_counter_that_goes_back_is_null_and_counted() {
        let (first, second) = (reading(10, Some(100), 7), reading(30, Some(50), 5));
        let mut back = 0;
        assert_eq!(
            sample(&second, Before::Read(&first), &mut back).cpu_total_ns,
            None
        );
        assert_eq!(back, 1);
        let appeared = sample(&second, Before::Read(&reading(10, None, 7)), &mut back);
        assert_eq!((appeared.cpu_total_ns, back), (None, 1));
    }

    #[test]
    fn what_begins_is_counted_from_its_beginning_and_what_was_there_is_not() {
        let read = reading(30, Some(150), 5);
        let mut back = 0;
        let begun = sample(&read, Before::Begun(20), &mut back);
        assert_eq!(
            (begun.sample_interval_ns, begun.cpu_total_ns),
            (Some(10), Some(150))
        );
        let first = sample(&read, Before::Unknown, &mut back);
        assert_eq!((first.sample_interval_ns, first.cpu_total_ns), (None, None));
        assert_eq!(first.mem_current_bytes, Some(5));
    }
}
