//! Records that wait until the brokers are there, oldest first. What bounds them is the room they have taken.

use std::collections::VecDeque;

use dogwatch_schemas::topics::Topic;

use super::room::Ticket;

/// A record that waits.
#[derive(Debug)]
pub(super) struct Record {
    pub topic: Topic,
    pub key: Box<str>,
    pub value: Box<[u8]>,
    pub ticket: Box<Ticket>,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    records: VecDeque<Record>,
}

impl Waiting {
    /// Takes a record that has room.
    pub fn push(&mut self, record: Record) {
        self.records.push_back(record);
    }

    /// The oldest record.
    pub fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        if self.records.is_empty() {
            // It is empty from the first connection on.
            self.records = VecDeque::new();
        }
        Some(record)
    }

    /// Puts the oldest record back.
    pub fn put_back(&mut self, record: Record) {
        self.records.push_front(record);
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
