//! Puts the alerts of several partitions into the order of their events, within a bound.
//!
//! ```text
//! partition 0 ──► [share] ─┐
//! partition 1 ──► [share] ─┼──► the earliest, once each partition has half its share or has ended ──► printer
//! partition 2 ──► [share] ─┘
//! ```
//! A partition is in the order of its log, which is nearly that of its events: half a share is looked ahead. Whoever is
//! ahead of the others waits with a full share. It has no clock: times are handed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Alert;

/// Alerts that wait for their turn.
#[derive(Debug)]
pub struct Merge {
    partitions: BTreeMap<i32, Partition>,
    bytes_max: usize,
    /// How long an alert waits for earlier ones once the ends have been reached.
    patience: Duration,
    /// All alerts, by event time and then by arrival.
    alerts: BTreeMap<(i64, u64), Waiting>,
    /// When the waiting ones came, by arrival.
    came: BTreeMap<u64, Instant>,
    arrived: u64,
    bytes: usize,
    /// The time of the latest that was taken.
    latest: i64,
    late: u64,
}

#[derive(Debug)]
struct Waiting {
    alert: Alert,
    partition: i32,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Partition {
    bytes: usize,
    /// Its end, as it was, has been reached.
    ended: bool,
    paused: bool,
}

/// Partitions whose reading is to stop or to go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// They are ahead of the others.
    pub pause: Vec<i32>,
    /// They have room again.
    pub resume: Vec<i32>,
}

impl Merge {
    /// Holds at most some `bytes_max` of alerts of these partitions; `patience` is for those that come after the ends.
    pub fn new(
        partitions: impl IntoIterator<Item = i32>,
        bytes_max: usize,
        patience: Duration,
    ) -> Self {
        let partitions = partitions.into_iter().map(|id| (id, Partition::default()));
        Self {
            partitions: partitions.collect(),
            bytes_max,
            patience,
            alerts: BTreeMap::new(),
            came: BTreeMap::new(),
            arrived: 0,
            bytes: 0,
            latest: i64::MIN,
            late: 0,
        }
    }

    /// Takes an alert in that came at `now`, `bytes` long.
    pub fn push(&mut self, partition: i32, alert: Alert, bytes: usize, now: Instant) {
        self.arrived += 1;
        self.bytes += bytes;
        self.partitions.entry(partition).or_default().bytes += bytes;
        self.came.insert(self.arrived, now);
        let waiting = Waiting {
            bytes,
            partition,
            alert,
        };
        self.alerts
            .insert((waiting.alert.event_ts, self.arrived), waiting);
    }

    /// Notes that a partition's end was reached.
    pub fn end(&mut self, partition: i32) {
        self.partitions.entry(partition).or_default().ended = true;
    }

    /// Notes that partitions whose ends were not reached are waited for no more.
    pub fn end_all(&mut self) {
        self.partitions
            .values_mut()
            .for_each(|partition| partition.ended = true);
    }

    /// Says whether every partition's end was reached.
    pub fn caught_up(&self) -> bool {
        self.partitions.values().all(|partition| partition.ended)
    }

    /// Says whether no alert waits.
    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    /// Alerts that were taken after one of a later event.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes the earliest alert whose turn it is at `now`.
    pub fn take(&mut self, now: Instant) -> Option<Alert> {
        if !self.due(now) {
            return None;
        }
        let ((event_ts, arrival), waiting) = self.alerts.pop_first()?;
        self.came.remove(&arrival);
        self.bytes -= waiting.bytes;
        if let Some(partition) = self.partitions.get_mut(&waiting.partition) {
            partition.bytes -= waiting.bytes;
        }
        self.late += u64::from(event_ts < self.latest);
        self.latest = self.latest.max(event_ts);
        Some(waiting.alert)
    }

    fn due(&self, now: Instant) -> bool {
        if self.bytes > self.bytes_max {
            return true;
        }
        if self.caught_up() {
            let first = self.came.first_key_value();
            return first
                .is_some_and(|(_, came)| now.saturating_duration_since(*came) >= self.patience);
        }
        let ahead = self.share() / 2;
        self.partitions
            .values()
            .all(|partition| partition.ended || partition.bytes >= ahead)
    }

    fn share(&self) -> usize {
        self.bytes_max / self.partitions.len().max(1)
    }

    /// Says whose reading is to stop or to go on, each time once.
    pub fn turn(&mut self) -> Turn {
        let share = self.share();
        let mut turn = Turn::default();
        for (&id, partition) in &mut self.partitions {
            if !partition.paused && partition.bytes >= share {
                partition.paused = true;
                turn.pause.push(id);
            // Going on is dear, as the client fetches anew what it had; more than what is looked ahead is still there.
            } else if partition.paused && partition.bytes < share / 4 * 3 {
                partition.paused = false;
                turn.resume.push(id);
            }
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 10;

    fn alert(event_ts: i64) -> Alert {
        Alert {
            event_ts,
            ..Alert::default()
        }
    }

    fn taken(merge: &mut Merge, now: Instant) -> Vec<i64> {
        std::iter::from_fn(|| merge.take(now))
            .map(|alert| alert.event_ts)
            .collect()
    }

    #[test]
    fn alerts_come_in_order_of_time_and_then_of_arrival() {
        let now = Instant::now();
        let mut merge = Merge::new([0, 1], 1_000, Duration::ZERO);
        for (partition, event_ts) in [(0, 3), (0, 1), (1, 3), (1, 2)] {
            merge.push(partition, alert(event_ts), BYTES, now);
        }
        assert_eq!(taken(&mut merge, now), [0; 0], "no end was reached");
        merge.end(0);
        merge.end(1);
        assert_eq!(taken(&mut merge, now), [1, 2, 3, 3]);
        assert!(merge.is_empty() && merge.bytes == 0 && merge.came.is_empty());
        assert_eq!(merge.late(), 0);
    }

    /// Partitions that are much longer than what may wait, one of them handed out first, as brokers do.
    #[test]
    fn long_partitions_are_merged_within_the_bound() {
        const EACH: i64 = 5_000;
        let now = Instant::now();
        let mut merge = Merge::new([0, 1, 2], 600, Duration::ZERO);
        let (mut next, mut paused, mut shown) = ([0i64; 3], [false; 3], Vec::new());
        while !(merge.caught_up() && merge.is_empty()) {
            let open = (0..3).find(|of| !paused[*of] && next[*of] <= EACH);
            let of = open.expect("somebody can be read");
            let partition = of as i32;
            if next[of] == EACH {
                merge.end(partition);
            } else {
                // Neighbours are exchanged: within a partition time is not quite in order.
                let place = next[of] ^ 1;
                merge.push(
                    partition,
                    alert(place * 3 + i64::from(partition)),
                    BYTES,
                    now,
                );
            }
            next[of] += 1;
            shown.extend(taken(&mut merge, now));
            let turn = merge.turn();
            turn.pause.iter().for_each(|of| paused[*of as usize] = true);
            turn.resume
                .iter()
                .for_each(|of| paused[*of as usize] = false);
            assert!(merge.bytes <= 600 + BYTES, "{} bytes", merge.bytes);
        }
        assert_eq!(shown, (0..3 * EACH).collect::<Vec<_>>());
        assert_eq!(merge.late(), 0);
    }

    #[test]
    fn what_is_followed_waits_for_its_neighbours_and_no_longer() {
        let patience = Duration::from_secs(1);
        let begin = Instant::now();
        let mut merge = Merge::new([0, 1], 1_000, patience);
        merge.end(0);
        merge.end(1);
        merge.push(0, alert(5), BYTES, begin);
        let soon = begin + patience / 2;
        merge.push(1, alert(4), BYTES, soon);
        merge.push(1, alert(6), BYTES, soon);
        assert_eq!(taken(&mut merge, soon), [0; 0]);
        assert_eq!(taken(&mut merge, begin + patience), [4, 5]);
        assert_eq!(taken(&mut merge, soon + patience), [6]);
        merge.push(0, alert(1), BYTES, begin);
        assert_eq!(taken(&mut merge, begin + patience), [1]);
        assert_eq!(merge.late(), 1, "of an event before what was shown");
    }

    #[test]
    fn a_partition_that_gives_nothing_is_given_up() {
        let now = Instant::now();
        let mut merge = Merge::new([0, 1], 1_000, Duration::ZERO);
        merge.push(0, alert(1), BYTES, now);
        assert_eq!(taken(&mut merge, now), [0; 0]);
        merge.end_all();
        assert_eq!(taken(&mut merge, now), [1]);
        merge.push(0, alert(2), 2_000, now);
        assert_eq!(merge.turn().pause, [0]);
        assert_eq!(taken(&mut merge, now), [2], "larger than all that may wait");
    }
}
