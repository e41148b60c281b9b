//! Which rows of a round are sent where there are too many: the largest of each container, and of each its share.

use std::collections::HashMap;

use crate::container::Place;

/// Rows of one container, or of the host, and round.
pub(super) const OF_ONE_MAX: usize = 64;
/// Rows of all of them together.
pub(super) const OF_ALL_MAX: usize = 512;

/// A row that may be sent, and how large it is among those of its container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate<T> {
    pub place: Place,
    pub weight: u64,
    pub row: T,
}

/// What is not sent of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rest<T> {
    pub place: Place,
    pub rows: Vec<T>,
}

/// Those that are sent, and the rest of each container that has one. First comes the largest of each container, then
/// the second of each, until there are enough.
pub(super) fn busiest<T>(mut candidates: Vec<Candidate<T>>) -> (Vec<Candidate<T>>, Vec<Rest<T>>) {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.weight));
    let mut so_far: HashMap<Place, usize> = HashMap::new();
    let mut ranked = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let rank = so_far.entry(candidate.place.clone()).or_default();
        ranked.push((*rank, candidate));
        *rank += 1;
    }
    // Stable: of one rank the largest comes first.
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut sent = Vec::new();
    let mut rests: Vec<Rest<T>> = Vec::new();
    let mut at: HashMap<Place, usize> = HashMap::new();
    for (rank, candidate) in ranked {
        if rank < OF_ONE_MAX && sent.len() < OF_ALL_MAX {
            sent.push(candidate);
            continue;
        }
        let place = *at.entry(candidate.place.clone()).or_insert(rests.len());
        if place == rests.len() {
            rests.push(Rest {
                place: candidate.place,
                rows: Vec::new(),
            });
        }
        rests[place].rows.push(candidate.row);
    }
    (sent, rests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(container: &str, weights: impl IntoIterator<Item = u64>) -> Vec<Candidate<u64>> {
        let place = Place::Container(container.into());
        let all = weights.into_iter().map(|weight| Candidate {
            place: place.clone(),
            weight,
            row: weight,
        });
        all.collect()
    }

    #[test]
    fn one_container_has_no_more_than_its_own() {
        let (sent, rests) = busiest(candidates("a", 1..=100));
        assert_eq!(sent.len(), OF_ONE_MAX);
        assert!(sent.iter().all(|sent| sent.weight > 36));
        assert_eq!(rests.len(), 1);
        assert_eq!(rests[0].rows.iter().sum::<u64>(), (1..=36).sum::<u64>());
    }

    #[test]
    fn a_quiet_one_is_heard_beside_many_busy_ones() {
        let mut all: Vec<_> = (0..20)
            .flat_map(|one| candidates(&format!("busy{one}"), 1_000..1_100))
            .collect();
        all.extend(candidates("quiet", [1]));
        let given = all.len();
        let (sent, rests) = busiest(all);
        assert_eq!(sent.len(), OF_ALL_MAX);
        assert!(sent.iter().any(|sent| sent.weight == 1));
        let left: usize = rests.iter().map(|rest| rest.rows.len()).sum();
        assert_eq!(sent.len() + left, given, "all are sent or told");
        assert_eq!(rests.len(), 20);
    }

    #[test]
    fn few_are_sent_whole() {
        let (sent, rests) = busiest(candidates("a", [3, 9]));
        assert_eq!((sent[0].weight, sent.len()), (9, 2));
        assert!(rests.is_empty());
    }
}
