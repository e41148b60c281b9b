//! Traffic of a network namespace, as `/proc/PID/net/dev` tells it.

use dogwatch_schemas::records::ContainerSample;

use super::text::long;

/// Totals of some interfaces.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    rx_bytes: u64,
    rx_packets: u64,
    tx_bytes: u64,
    tx_packets: u64,
}

impl Traffic {
    /// Sums the interfaces that are wanted, by name; none where none is.
    pub fn of(dev: &str, mut wanted: impl FnMut(&str) -> bool) -> Option<Self> {
        let mut sum = Self::default();
        let mut found = false;
        for line in dev.lines() {
            let Some((name, numbers)) = line.split_once(':') else {
                continue;
            };
            let numbers: Vec<u64> = numbers
                .split_ascii_whitespace()
                .map_while(|number| number.parse().ok())
                .collect();
            // Bytes and packets come first of each direction's eight.
            let &[
                rx_bytes,
                rx_packets,
                _,
                _,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                ..,
            ] = &*numbers
            else {
                continue;
            };
            if wanted(name.trim()) {
                found = true;
                sum.rx_bytes = sum.rx_bytes.saturating_add(rx_bytes);
                sum.rx_packets = sum.rx_packets.saturating_add(rx_packets);
                sum.tx_bytes = sum.tx_bytes.saturating_add(tx_bytes);
                sum.tx_packets = sum.tx_packets.saturating_add(tx_packets);
            }
        }
        found.then_some(sum)
    }

    /// Writes the totals.
    pub fn set(self, reading: &mut ContainerSample) {
        reading.net_rx_bytes = Some(long(self.rx_bytes));
        reading.net_rx_packets = Some(long(self.rx_packets));
        reading.net_tx_bytes = Some(long(self.tx_bytes));
        reading.net_tx_packets = Some(long(self.tx_packets));
    }
}

/// What is not the host's own wire, where no interface shows a device behind it: loops, and ways into containers.
pub(super) fn leads_inside(name: &str) -> bool {
    const BEGINNINGS: [&str; 9] = [
        "veth", "docker", "br-", "virbr", "cni", "flannel", "cali", "cilium", "lxc",
    ];
    name == "lo" || BEGINNINGS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 900 9 0 0 0 0 0 0 900 9 0 0 0 0 0 0
  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0
  eth1:1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0
";

    #[test]
    fn interfaces_that_are_wanted_are_summed() {
        let traffic = Traffic::of(DEV, |name| name != "lo").unwrap();
        let expected = Traffic {
            rx_bytes: 1001,
            rx_packets: 11,
            tx_bytes: 2002,
            tx_packets: 22,
        };
        assert_eq!(traffic, expected);
        assert_eq!(Traffic::of(DEV, |name| name == "wlan0"), None);
        assert_eq!(Traffic::of("", |_| true), None);
    }
}
