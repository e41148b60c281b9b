//! State that no loaded detection has: it is carried on as it is for a while, should its detection come back.
//!
//! Names of pieces that belong to a time say which: `KIND/WHAT/START/..`. They are given up a day after it.

use std::collections::BTreeMap;

use crate::checkpoint::{Renewal, State, StateRecord};

/// How long after its time a piece is carried, nanoseconds: the longest window, and an hour for a rollout.
const CARRIED_FOR_NS: i64 = 25 * 3_600_000_000_000;

/// What all tasks carry.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pieces: BTreeMap<i32, State>,
    /// Names of pieces that nobody needs, since a task's last checkpoint.
    over: BTreeMap<i32, Vec<String>>,
}

impl Carried {
    /// What is written anew of a task, and what is given up at its latest time, nanoseconds.
    pub fn store(
        &mut self,
        partition: i32,
        renewal: &Renewal,
        latest: Option<i64>,
    ) -> Vec<StateRecord> {
        let mut over = self.over.remove(&partition).unwrap_or_default();
        let mut records = Vec::new();
        if let Some(pieces) = self.pieces.get_mut(&partition) {
            let past = |name: &String, _: &mut Vec<u8>| {
                let until = time_of(name).map(|time| time.saturating_add(CARRIED_FOR_NS));
                until < latest
            };
            over.extend(pieces.extract_if(.., past).map(|(name, _)| name));
            for name in renewal.below("") {
                if let Some(value) = pieces.get(name) {
                    renewal.spend(value.len());
                    records.push(StateRecord {
                        key: name.to_owned(),
                        value: Some(value.clone()),
                    });
                }
            }
        }
        let over = over.into_iter();
        records.extend(over.map(|key| StateRecord { key, value: None }));
        records
    }

    /// Takes what is left of a task's state.
    pub fn restore(&mut self, partition: i32, state: State) {
        let (kept, over): (State, State) = state
            .into_iter()
            .partition(|(name, _)| time_of(name).is_some());
        self.over.insert(partition, over.into_keys().collect());
        self.pieces.insert(partition, kept);
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.pieces.remove(&partition);
        self.over.remove(&partition);
    }

    /// Bytes of what is carried.
    pub fn size(&self) -> u64 {
        let pieces = self.pieces.values().flatten();
        pieces
            .map(|(name, value)| (name.len() + value.len()) as u64)
            .sum()
    }
}

/// The time that a piece belongs to, by its name.
fn time_of(name: &str) -> Option<i64> {
    name.split('/').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_carried_for_a_day_and_then_ended() {
        let names = ["off/a/all", "pane/a/1000/0-0/3", "pane/b/2000/0-0/4"];
        let state = names.map(|name| (name.to_owned(), name.as_bytes().to_vec()));
        let mut carried = Carried::default();
        carried.restore(7, state.into());
        let store = |carried: &mut Carried, renewal: &[&str], latest: i64| {
            let names = renewal.iter().map(|name| (*name).to_owned()).collect();
            let renewal = Renewal::new(names, u64::MAX);
            let records = carried.store(7, &renewal, Some(latest));
            let record = |record: StateRecord| (record.key, record.value.is_some());
            records.into_iter().map(record).collect::<Vec<_>>()
        };
        let own = |name: &str, alive: bool| (name.to_owned(), alive);
        assert_eq!(store(&mut carried, &[], 0), [own("off/a/all", false)]);
        assert_eq!(store(&mut carried, &[], 3_000), []);
        let all = names.map(|name| name);
        let anew = store(&mut carried, &all, CARRIED_FOR_NS + 1_001);
        assert_eq!(anew, [own(names[2], true), own(names[1], false)]);
        assert!(carried.size() > 0);
        carried.forget(7);
        assert_eq!((store(&mut carried, &all, 0), carried.size()), (vec![], 0));
    }
}
