//! Records that wait until the brokers are there, oldest first, bounded in bytes and in number.

use std::collections::VecDeque;

use dogwatch_schemas::topics::Topic;

use super::Kind;

/// What the queue itself needs for a record, roughly: three allocations and their heads.
const RECORD_OVERHEAD_BYTES: u64 = 128;

/// A record that waits.
#[derive(Debug)]
pub(super) struct Record {
    pub topic: Topic,
    pub key: Box<str>,
    pub value: Box<[u8]>,
    pub kind: Kind,
}

impl Record {
    fn bytes(&self) -> u64 {
        bytes(&self.key, &self.value)
    }
}

fn bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + RECORD_OVERHEAD_BYTES
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Waiting {
    records: VecDeque<Record>,
    bytes: u64,
    bytes_max: u64,
    records_max: usize,
}

impl Waiting {
    pub fn new(bytes_max: u64, records_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            bytes_max,
            records_max,
        }
    }

    /// Takes a record, unless it and `outstanding` bytes elsewhere would be more than the bound; then it is lost.
    pub fn push(
        &mut self,
        topic: Topic,
        key: &str,
        value: &[u8],
        kind: Kind,
        outstanding: u64,
    ) -> bool {
        let bytes = bytes(key, value);
        if self.bytes + bytes + outstanding > self.bytes_max || self.len() >= self.records_max {
            return false;
        }
        self.bytes += bytes;
        self.records.push_back(Record {
            topic,
            key: key.into(),
            value: value.into(),
            kind,
        });
        true
    }

    /// The oldest record.
    pub fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.bytes -= record.bytes();
        if self.records.is_empty() {
            // It is empty from the first connection on.
            self.records = VecDeque::new();
        }
        Some(record)
    }

    /// Puts the oldest record back.
    pub fn put_back(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push_front(record);
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(waiting: &mut Waiting, value: &[u8], outstanding: u64) -> bool {
        waiting.push(Topic::Events, "h", value, Kind::EXEC, outstanding)
    }

    #[test]
    fn it_is_bounded_in_bytes_and_takes_again_what_fits() {
        let mut waiting = Waiting::new(10_000, 1_000);
        let taken = (0..1_000)
            .filter(|_| push(&mut waiting, &[7; 900], 0))
            .count();
        assert_eq!(taken, 9);
        assert!(waiting.bytes() <= 10_000);
        assert!(!push(&mut waiting, &[7; 20_000], 0), "the largest record");
        assert_eq!(waiting.pop().unwrap().value.len(), 900);
        assert!(
            !push(&mut waiting, &[7; 900], 5_000),
            "others hold the room"
        );
        assert!(push(&mut waiting, &[7; 900], 0));
        while waiting.pop().is_some() {}
        assert_eq!(waiting.bytes(), 0);
    }

    #[test]
    fn it_is_bounded_in_records() {
        let mut waiting = Waiting::new(1 << 20, 3);
        let taken = (0..10).filter(|_| push(&mut waiting, b"x", 0)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn the_order_stays() {
        let mut waiting = Waiting::new(1 << 20, 10);
        for value in [b"1", b"2", b"3"] {
            assert!(push(&mut waiting, value, 0));
        }
        let first = waiting.pop().unwrap();
        waiting.put_back(first);
        let mut values = Vec::new();
        while let Some(record) = waiting.pop() {
            values.extend_from_slice(&record.value);
        }
        assert_eq!(values, b"123");
    }
}
