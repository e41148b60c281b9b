//! Whether the other processors of the group run the same detections: each commit says with what a partition was run.
//!
//! While a set is swapped, processors differ for a moment, and a partition to which nobody writes keeps what it was run with.
//! So others differ where a partition was committed twice with another set than the one that runs here, while that stayed the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dogwatch_kafka::Fault;

use crate::checkpoint::Ran;
use crate::config::Config;
use crate::published::{Loaded, Runs};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(15);

/// Partitions that are run with another set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Differ {
    pub partitions: Vec<i32>,
    pub ran: Ran,
}

impl Differ {
    /// In words.
    pub fn words(&self, own: &Ran) -> String {
        let partitions: Vec<String> = self.partitions.iter().map(i32::to_string).collect();
        format!(
            "partitions {} are run by another processor with {}, and this one runs {}",
            partitions.join(", "),
            named(&self.ran),
            named(own)
        )
    }
}

/// A set by what tells it apart, and the caps on what windows hold.
fn named(ran: &Ran) -> String {
    let set = match ran.epoch.filter(|_| !ran.folder) {
        Some(epoch) => format!("the published set {epoch} ({})", ran.set),
        None => format!("a folder of detections ({})", ran.set),
    };
    let keys = ran.keys_max.map(|keys| format!("keys_max = {keys}"));
    let bytes = ran.state_bytes_max;
    let bytes = bytes.map(|bytes| format!("state_bytes_max = {bytes}"));
    let caps = keys.into_iter().chain(bytes);
    let caps: Vec<String> = caps.map(|cap| format!("windows.{cap}")).collect();
    match caps.is_empty() {
        true => set,
        false => format!("{set} and {}", caps.join(", ")),
    }
}

/// What results depend on: the set and the caps.
fn told_apart(ran: &Ran) -> Kind {
    (ran.set.clone(), ran.keys_max, ran.state_bytes_max)
}

/// The look at the other processors.
pub(crate) struct Neighbours {
    config: Config,
    loaded: Option<Loaded>,
    looked_at: Instant,
    compared: Compared,
}

impl Neighbours {
    /// Of the group in the configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            loaded: None,
            looked_at: Instant::now(),
            compared: Compared::default(),
        }
    }

    /// Looks, where it is time to; returns what is to be told.
    pub(super) fn look(&mut self, own: &Ran) -> Vec<Differ> {
        if self.looked_at.elapsed() < EVERY {
            return Vec::new();
        }
        self.looked_at = Instant::now();
        match self.committed() {
            Ok(runs) => self.compared.take(own, runs),
            Err(fault) => {
                tracing::debug!(%fault, "could not look what other processors run");
                Vec::new()
            }
        }
    }

    fn committed(&mut self) -> Result<Vec<Runs>, Fault> {
        let loaded = match &mut self.loaded {
            Some(loaded) => loaded,
            none => none.insert(Loaded::open(&self.config)?),
        };
        loaded.look()
    }
}

/// What tells apart with what partitions are run.
type Kind = (String, Option<usize>, Option<u64>);

/// What was seen of others since what runs here is the same.
#[derive(Debug, Default)]
struct Compared {
    own: Kind,
    /// What other partitions were run with, and how far they were when that was seen first.
    seen: BTreeMap<i32, (Kind, i64)>,
    /// What was told.
    told: BTreeSet<Kind>,
}

impl Compared {
    /// Takes what is committed; returns what is to be told: each other set once.
    fn take(&mut self, own: &Ran, runs: Vec<Runs>) -> Vec<Differ> {
        let own = told_apart(own);
        if self.own != own {
            *self = Self {
                own: own.clone(),
                ..Self::default()
            };
        }
        let mut others: BTreeMap<Kind, Differ> = BTreeMap::new();
        let mut now = BTreeMap::new();
        for Runs {
            partition,
            offset,
            ran,
        } in runs
        {
            let Some((offset, ran)) = offset.zip(ran) else {
                continue;
            };
            let kind = told_apart(&ran);
            if kind == own {
                continue;
            }
            let before = self.seen.get(&partition);
            let before = before.filter(|(seen, _)| *seen == kind);
            let first = before.map_or(offset, |(_, first)| *first);
            now.insert(partition, (kind.clone(), first));
            if offset > first && !self.told.contains(&kind) {
                let differ = others.entry(kind).or_insert_with(|| Differ {
                    partitions: Vec::new(),
                    ran,
                });
                differ.partitions.push(partition);
            }
        }
        self.seen = now;
        self.told.extend(others.keys().cloned());
        others.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(committed: &[(i32, i64, &str)]) -> Vec<Runs> {
        let run = |(partition, offset, set): &(i32, i64, &str)| Runs {
            partition: *partition,
            offset: Some(*offset),
            ran: Some(Ran {
                set: (*set).to_owned(),
                ..Ran::default()
            }),
        };
        committed.iter().map(run).collect()
    }

    #[test]
    fn another_set_is_told_once_it_goes_on_being_committed() {
        let mut compared = Compared::default();
        let mut take = |own: &str, committed: &[(i32, i64, &str)]| -> Vec<(String, Vec<i32>)> {
            let own = Ran {
                set: own.to_owned(),
                ..Ran::default()
            };
            let told = compared.take(&own, runs(committed));
            told.into_iter()
                .map(|differ| (differ.ran.set, differ.partitions))
                .collect()
        };
        // The other one has not swapped yet, or nobody writes there.
        assert_eq!(take("a", &[(0, 5, "a"), (1, 5, "b"), (2, 7, "b")]), []);
        assert_eq!(take("a", &[(0, 9, "a"), (1, 5, "b"), (2, 7, "b")]), []);
        // It goes on with it; a third one comes.
        let told = take("a", &[(0, 9, "a"), (1, 6, "b"), (2, 8, "b"), (3, 1, "c")]);
        assert_eq!(told, [("b".to_owned(), vec![1, 2])]);
        let told = take("a", &[(1, 9, "b"), (2, 9, "b"), (3, 2, "c")]);
        assert_eq!(told, [("c".to_owned(), vec![3])]);
        // This one has another set, and all are looked at anew.
        assert_eq!(take("b", &[(1, 9, "b"), (3, 2, "c")]), []);
        assert_eq!(take("b", &[(1, 9, "b"), (3, 3, "c")]).len(), 1);
        assert_eq!(take("b", &[(1, 9, "b"), (3, 4, "c")]), []);
    }
}
