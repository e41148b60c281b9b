//! What is loaded, and what became of it from one set to the next.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::detect::{DetectionSet, Sources};

/// Most names of a kind that are told; of the others their number.
const NAMES_MAX: usize = 50;

/// The detections of a set and the lists they lie beside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// The hash of all.
    pub hash: String,
    detections: BTreeMap<String, Loaded>,
    /// The hashes of lists, by file.
    lists: BTreeMap<String, String>,
}

/// A detection that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loaded {
    content: String,
    /// With what it reads of lists.
    query: String,
    /// Since when it is as it is, nanoseconds.
    since: i64,
}

/// What became of one set in the next, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    pub lists: Vec<String>,
}

impl Inventory {
    /// Of a set that was made of some files; what is as it was before has been there since then.
    pub fn new(set: &DetectionSet, sources: &Sources, before: &Self, now: i64) -> Self {
        let loaded = set.iter().map(|own| {
            let mut loaded = Loaded {
                content: own.content_hash.clone(),
                query: own.query_hash.clone(),
                since: now,
            };
            if let Some(before) = before.detections.get(&own.id)
                && (&before.content, &before.query) == (&loaded.content, &loaded.query)
            {
                loaded.since = before.since;
            }
            (own.id.clone(), loaded)
        });
        Self {
            hash: sources.hash(),
            detections: loaded.collect(),
            lists: sources.list_hashes(),
        }
    }

    /// What is other than before.
    pub fn since(&self, before: &Self) -> Difference {
        let (own, other) = (&self.detections, &before.detections);
        let changed = own.iter().filter(|(name, loaded)| {
            let before = other.get(*name);
            before.is_some_and(|before| {
                (&before.content, &before.query) != (&loaded.content, &loaded.query)
            })
        });
        let lists = self.lists.keys().chain(before.lists.keys());
        let mut lists: Vec<String> = lists
            .filter(|name| self.lists.get(*name) != before.lists.get(*name))
            .cloned()
            .collect();
        lists.sort_unstable();
        lists.dedup();
        Difference {
            added: missing(own, other),
            removed: missing(other, own),
            changed: changed.map(|(name, _)| name.clone()).collect(),
            lists,
        }
    }

    /// How many detections there are.
    pub fn len(&self) -> usize {
        self.detections.len()
    }

    /// Name, hash of the file and since when (nanoseconds) of each detection.
    pub fn detections(&self) -> impl Iterator<Item = (&str, &str, i64)> {
        let own = self.detections.iter();
        own.map(|(name, loaded)| (name.as_str(), loaded.content.as_str(), loaded.since))
    }
}

/// The names that the others do not have.
fn missing(own: &BTreeMap<String, Loaded>, others: &BTreeMap<String, Loaded>) -> Vec<String> {
    let own = own.keys().filter(|name| !others.contains_key(*name));
    own.cloned().collect()
}

impl Difference {
    /// Each kind with its names.
    fn kinds(&self) -> [(&'static str, &[String]); 4] {
        [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
            ("lists", &self.lists),
        ]
    }

    /// In words.
    pub fn words(&self) -> String {
        let kinds = self.kinds().into_iter();
        let kinds = kinds.filter(|(_, names)| !names.is_empty());
        let kinds: Vec<String> = kinds
            .map(|(kind, names)| format!("{kind} {}", told(names).join(", ")))
            .collect();
        match kinds.is_empty() {
            true => "what no detection reads changed".to_owned(),
            false => kinds.join("; "),
        }
    }

    /// For machines.
    pub fn row(&self) -> Map<String, Value> {
        let kinds = self.kinds().into_iter();
        kinds
            .map(|(kind, names)| (kind.to_owned(), told(names).into()))
            .collect()
    }
}

/// The first names, and how many more there are.
fn told(names: &[String]) -> Vec<String> {
    let mut told: Vec<String> = names.iter().take(NAMES_MAX).cloned().collect();
    if names.len() > NAMES_MAX {
        told.push(format!("and {} more", names.len() - NAMES_MAX));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(detections: &[(&str, &str, &str)], lists: &[(&str, &str)]) -> Inventory {
        let loaded = |(name, content, query): &(&str, &str, &str)| {
            let loaded = Loaded {
                content: (*content).to_owned(),
                query: (*query).to_owned(),
                since: 0,
            };
            ((*name).to_owned(), loaded)
        };
        let list = |(name, hash): &(&str, &str)| ((*name).to_owned(), (*hash).to_owned());
        Inventory {
            hash: String::new(),
            detections: detections.iter().map(loaded).collect(),
            lists: lists.iter().map(list).collect(),
        }
    }

    #[test]
    fn what_became_of_a_set_is_told_by_name() {
        let before = inventory(
            &[("a", "1", "q"), ("b", "1", "q"), ("c", "1", "q")],
            &[("l", "1"), ("m", "1"), ("n", "1")],
        );
        // A title is changed, a list that is read, one is gone, one is new.
        let after = inventory(
            &[("a", "2", "q"), ("b", "1", "r"), ("d", "1", "q")],
            &[("l", "1"), ("m", "2"), ("o", "1")],
        );
        let difference = after.since(&before);
        assert_eq!(
            difference.words(),
            "added d; removed c; changed a, b; lists m, n, o"
        );
        assert_eq!(
            Value::from(difference.row()),
            serde_json::json!({"added": ["d"], "removed": ["c"], "changed": ["a", "b"], "lists": ["m", "n", "o"]})
        );
        assert_eq!(before.since(&before), Difference::default());
    }

    #[test]
    fn of_many_names_the_first_are_told() {
        let names: Vec<String> = (0..NAMES_MAX + 7).map(|name| format!("n{name}")).collect();
        let told = told(&names);
        assert_eq!(told.len(), NAMES_MAX + 1);
        assert_eq!(told[NAMES_MAX], "and 7 more");
    }
}
