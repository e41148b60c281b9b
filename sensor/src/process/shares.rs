//! Who uses how much of the process table: an account for each container, one for the host, one for what is not known.
//!
//! A full table takes room from the account that uses most of it, so a container that floods the table forgets itself
//! and not the others. Within an account the ended go first, then the oldest processes without children.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::container::Place;

/// Bytes that are on an account for as long as this lives.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    bytes: AtomicUsize,
    total: Arc<AtomicUsize>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.bytes, Relaxed);
        self.account.total.fetch_sub(self.bytes, Relaxed);
    }
}

/// A process without children, in the order in which they are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// The ended come first.
    pub living: bool,
    /// Then whoever came first.
    pub order: u64,
    pub pid: u32,
}

#[derive(Debug)]
struct Share {
    account: Arc<Account>,
    candidates: BTreeSet<Candidate>,
    processes: usize,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_place: HashMap<Place, Share>,
    total: Arc<AtomicUsize>,
}

/// The account to take room from, and how far.
#[derive(Debug)]
pub(super) struct Largest {
    pub place: Place,
    /// What the next one uses: below that the other is the largest.
    pub next_bytes: usize,
}

impl Shares {
    /// Bytes on all accounts.
    pub fn bytes(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// Bytes on one account.
    pub fn bytes_of(&self, place: &Place) -> usize {
        self.by_place
            .get(place)
            .map_or(0, |share| share.account.bytes.load(Relaxed))
    }

    /// A process of `bytes` is in the table.
    pub fn join(&mut self, place: &Place, bytes: usize) -> Charge {
        let share = self.share(place);
        share.processes += 1;
        charge(&share.account, bytes)
    }

    /// It is not any more. Accounts of places without processes end, even while a program is still on them.
    pub fn leave(&mut self, place: &Place, candidate: Candidate) {
        let Some(share) = self.by_place.get_mut(place) else {
            return;
        };
        share.candidates.remove(&candidate);
        share.processes = share.processes.saturating_sub(1);
        if share.processes == 0 {
            self.by_place.remove(place);
        }
    }

    /// More bytes on an account.
    pub fn charge(&mut self, place: &Place, bytes: usize) -> Charge {
        charge(&self.share(place).account, bytes)
    }

    /// A process may be given up.
    pub fn offer(&mut self, place: &Place, candidate: Candidate) {
        if let Some(share) = self.by_place.get_mut(place) {
            share.candidates.insert(candidate);
        }
    }

    /// A process may not be given up.
    pub fn withhold(&mut self, place: &Place, candidate: Candidate) {
        if let Some(share) = self.by_place.get_mut(place) {
            share.candidates.remove(&candidate);
        }
    }

    /// The account that uses most among those that can give something up besides `keep`.
    pub fn largest(&self, keep: u32) -> Option<Largest> {
        let mut largest: Option<(&Place, usize)> = None;
        let mut next_bytes = 0;
        for (place, share) in &self.by_place {
            if !share.candidates.iter().take(2).any(|one| one.pid != keep) {
                continue;
            }
            let bytes = share.account.bytes.load(Relaxed);
            match largest {
                Some((_, most)) if bytes <= most => next_bytes = next_bytes.max(bytes),
                _ => {
                    next_bytes = largest.map_or(0, |(_, most)| most);
                    largest = Some((place, bytes));
                }
            }
        }
        largest.map(|(place, _)| Largest {
            place: place.clone(),
            next_bytes,
        })
    }

    /// Who of an account is given up next, besides `keep`.
    pub fn first(&self, place: &Place, keep: u32) -> Option<Candidate> {
        self.by_place
            .get(place)?
            .candidates
            .iter()
            .find(|candidate| candidate.pid != keep)
            .copied()
    }

    fn share(&mut self, place: &Place) -> &mut Share {
        let total = &self.total;
        self.by_place.entry(place.clone()).or_insert_with(|| Share {
            account: Arc::new(Account {
                bytes: AtomicUsize::new(0),
                total: total.clone(),
            }),
            candidates: BTreeSet::new(),
            processes: 0,
        })
    }
}

fn charge(account: &Arc<Account>, bytes: usize) -> Charge {
    account.bytes.fetch_add(bytes, Relaxed);
    account.total.fetch_add(bytes, Relaxed);
    Charge {
        bytes,
        account: account.clone(),
    }
}
