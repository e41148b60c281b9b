//! Which rows of a round are sent where there are too many: the largest of each container, and of each its share.

use std::collections::HashMap;
use std::hash::Hash;

/// Rows of one container, or of the host, and round.
pub(crate) const OF_ONE_MAX: usize = 64;
/// Rows of all of them together.
pub(crate) const OF_ALL_MAX: usize = 512;

/// A row that may be sent, and how large it is among those of its container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate<P, T> {
    pub place: P,
    pub weight: u64,
    pub row: T,
}

/// What is not sent of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rest<P, T> {
    pub place: P,
    pub rows: Vec<T>,
}

/// What is sent, and what is left of each container that has more.
pub(crate) type Chosen<P, T> = (Vec<Candidate<P, T>>, Vec<Rest<P, T>>);

/// Those that are sent, `of_all` at most, and the rest of each container that has one. First comes the largest of each
/// container, then the second of each, until there are enough.
pub(crate) fn busiest<P: Clone + Eq + Hash, T>(
    mut candidates: Vec<Candidate<P, T>>,
    of_all: usize,
) -> Chosen<P, T> {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.weight));
    let mut so_far: HashMap<P, usize> = HashMap::new();
    let mut ranked = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let rank = so_far.entry(candidate.place.clone()).or_default();
        ranked.push((*rank, candidate));
        *rank += 1;
    }
    // Stable: of one rank the largest comes first.
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut sent = Vec::new();
    let mut rests: Vec<Rest<P, T>> = Vec::new();
    let mut at: HashMap<P, usize> = HashMap::new();
    for (rank, candidate) in ranked {
        if rank < OF_ONE_MAX && sent.len() < of_all {
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

    fn candidates(
        container: &str,
        weights: impl IntoIterator<Item = u64>,
    ) -> Vec<Candidate<String, u64>> {
        let all = weights.into_iter().map(|weight| Candidate {
            place: container.to_owned(),
            weight,
            row: weight,
        });
        all.collect()
    }

    #[test]
    fn one_container_has_no_more_than_its_own() {
        let (sent, rests) = busiest(candidates("a", 1..=100), OF_ALL_MAX);
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
        let (sent, rests) = busiest(all, OF_ALL_MAX);
        assert_eq!(sent.len(), OF_ALL_MAX);
        assert!(sent.iter().any(|sent| sent.weight == 1));
        let left: usize = rests.iter().map(|rest| rest.rows.len()).sum();
        assert_eq!(sent.len() + left, given, "all are sent or told");
        assert_eq!(rests.len(), 20);
    }

    #[test]
    fn few_are_sent_whole() {
        let (sent, rests) = busiest(candidates("a", [3, 9]), OF_ALL_MAX);
        assert_eq!((sent[0].weight, sent.len()), (9, 2));
        assert!(rests.is_empty());
    }
}
