//! Who may use how much of the queue before Kafka, so that no container takes the room of the others.
//!
//! ```text
//! 0 ────────────────────── 4/8 ─── 6/8 ──────────── 7/8 ──────────── kafka.queue_bytes
//! │ samples                 │       │                │
//! │ calls: opens, connections, …     │                │
//! │ lifecycle: executions, forks, exits, cgroups, containers
//! │ the sensor's own: marks, statuses, steps of the clock            │
//! ```
//! Of the calls, and of the lifecycle, a container may have twice what it leaves free in the part. So a single one gets two
//! thirds of it, two get two fifths each, and the next one always finds room; who comes later gets less, never nothing.
//!
//! Records that are in are never thrown out for others: a mark behind them has promised that they come. What finds no room
//! is lost and counted before the mark of its time.

use std::collections::HashMap;

use dogwatch_schemas::Text;

use super::super::Kind;

/// The part of the queue that a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// What is used: it comes again, and says so of the same subject.
    Samples,
    /// What containers do beside living: opens, connections, executions that failed.
    Calls,
    /// Executions, forks, exits, cgroups, containers: without them nothing else is understood.
    Lifecycle,
    /// Marks, statuses, steps of the clock.
    Sensor,
}

impl Part {
    /// Up to how many eighths of the queue it reaches.
    fn eighths(self) -> u64 {
        match self {
            Self::Samples => 4,
            Self::Calls => 6,
            Self::Lifecycle => 7,
            Self::Sensor => 8,
        }
    }
}

/// What a record asks of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// The record's kind.
    pub kind: Kind,
    /// The part it may use.
    pub part: Part,
    /// The container it is of, `host` or `unknown`; of no meaning for the sensor's own.
    pub container: Text,
}

/// What the queues need for a record beside key and value: their allocations, librdkafka's message.
const RECORD_OVERHEAD_BYTES: u64 = 256;
/// How many times what stays free a container may hold.
const TIMES_FREE: u64 = 2;

/// A record's place in the queue; it is given back when the record is delivered or lost.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The record's kind.
    pub kind: Kind,
    bytes: u64,
    /// Whose share it is of.
    share: Option<(Text, Part)>,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: u64,
    /// No record counts for less, which bounds their number.
    record_bytes_min: u64,
    used_bytes: u64,
    records: usize,
    /// Bytes of those that have records here.
    shares: HashMap<(Text, Part), u64>,
}

impl Room {
    /// Room for `bytes_max` bytes and `records_max` records.
    pub fn new(bytes_max: u64, records_max: u64) -> Self {
        Self {
            bytes_max,
            record_bytes_min: bytes_max.div_ceil(records_max.max(1)),
            used_bytes: 0,
            records: 0,
            shares: HashMap::new(),
        }
    }

    /// Takes room for a record with `bytes` of key and value, where there is enough for it.
    pub fn take(&mut self, claim: &Claim, bytes: usize) -> Option<Box<Ticket>> {
        let bytes = (bytes as u64 + RECORD_OVERHEAD_BYTES).max(self.record_bytes_min);
        let limit = self.bytes_max / 8 * claim.part.eighths();
        let free = limit.checked_sub(self.used_bytes + bytes)?;
        let share = (claim.part != Part::Sensor).then(|| (claim.container.clone(), claim.part));
        if let Some(share) = &share {
            let held = self.shares.get(share).copied().unwrap_or(0) + bytes;
            if held > TIMES_FREE * free {
                return None;
            }
            self.shares.insert(share.clone(), held);
        }
        self.used_bytes += bytes;
        self.records += 1;
        Some(Box::new(Ticket {
            kind: claim.kind,
            bytes,
            share,
        }))
    }

    /// Takes a place back.
    pub fn give_back(&mut self, ticket: &Ticket) {
        self.used_bytes -= ticket.bytes;
        self.records -= 1;
        let Some(share) = &ticket.share else { return };
        let held = self.shares.get(share).copied().unwrap_or(0);
        if held > ticket.bytes {
            self.shares.insert(share.clone(), held - ticket.bytes);
        } else {
            self.shares.remove(share);
        }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Records that have a place.
    pub fn records(&self) -> usize {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: u64 = 1 << 20;
    const ROW: usize = 1_000;

    fn claim(container: &str, part: Part) -> Claim {
        Claim {
            kind: Kind::ANY,
            part,
            container: container.into(),
        }
    }

    /// Takes room until there is none; returns how many records got in.
    fn flood(room: &mut Room, container: &str, part: Part) -> usize {
        let claim = claim(container, part);
        (0..1_000_000)
            .take_while(|_| room.take(&claim, ROW).is_some())
            .count()
    }

    #[test]
    fn one_that_floods_leaves_room_for_others_and_for_every_ones_lifecycle() {
        let mut room = Room::new(BYTES_MAX, u64::MAX);
        let opens = flood(&mut room, "loud", Part::Calls);
        assert!(opens > 300, "{opens} of some 840");
        let executions = flood(&mut room, "loud", Part::Lifecycle);
        assert!(executions > 50, "{executions}");
        assert!(flood(&mut room, "quiet", Part::Lifecycle) > 50);
        assert!(flood(&mut room, "host", Part::Lifecycle) > 20);
        // Two that flood with both leave less, and still something.
        let mut room = Room::new(BYTES_MAX, u64::MAX);
        flood(&mut room, "loud", Part::Calls);
        assert!(flood(&mut room, "quiet", Part::Calls) > 100);
    }

    #[test]
    fn marks_and_statuses_find_room_whatever_the_containers_do() {
        let mut room = Room::new(BYTES_MAX, u64::MAX);
        for container in 0..1_000 {
            for part in [Part::Calls, Part::Lifecycle] {
                flood(&mut room, &container.to_string(), part);
            }
        }
        let marks = flood(&mut room, "", Part::Sensor);
        assert!(marks as u64 >= BYTES_MAX / 8 / 1_256, "{marks}");
        assert!(room.used_bytes() <= BYTES_MAX);
    }

    #[test]
    fn the_number_of_records_is_bounded_too() {
        let mut room = Room::new(BYTES_MAX, 100);
        assert!(flood(&mut room, "", Part::Sensor) <= 100);
    }

    #[test]
    fn what_is_larger_than_the_room_is_refused() {
        let mut room = Room::new(BYTES_MAX, u64::MAX);
        let whole = claim("", Part::Sensor);
        assert!(room.take(&whole, BYTES_MAX as usize).is_none());
        assert!(room.take(&whole, BYTES_MAX as usize - 256).is_some());
    }

    proptest! {
        #[test]
        fn room_is_bounded_and_comes_back_whole(
            records in prop::collection::vec((0u8..4, 0usize..3, 0usize..40_000, any::<bool>()), 0..500)
        ) {
            let mut room = Room::new(BYTES_MAX, 1_000);
            let mut tickets = Vec::new();
            for (container, part, bytes, gives_back) in records {
                let part = [Part::Calls, Part::Lifecycle, Part::Sensor][part];
                tickets.extend(room.take(&claim(&container.to_string(), part), bytes));
                prop_assert!(room.used_bytes() <= BYTES_MAX);
                if gives_back && !tickets.is_empty() {
                    room.give_back(&tickets.swap_remove(tickets.len() / 2));
                }
            }
            for ticket in tickets {
                room.give_back(&ticket);
            }
            prop_assert_eq!(room.used_bytes(), 0);
            prop_assert!(room.shares.is_empty());
        }
    }
}
