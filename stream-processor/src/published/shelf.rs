//! The sets of a topic: which is the newest, and what is wrong with what came after it.
//!
//! No clock and no I/O: records are handed in, in the order of the log.

use std::collections::BTreeMap;

use super::record::{Label, Set, SetError};
use crate::checkpoint::Epoch;
use crate::signing::PublicKey;

/// The sets of a topic, as far as it was read.
#[derive(Debug)]
pub struct Shelf {
    topic: String,
    trusted: Vec<PublicKey>,
    /// How many are kept here.
    keep: usize,
    sets: BTreeMap<Epoch, Set>,
    /// The newest there ever was: what is older changes nothing.
    highest: Option<Epoch>,
    /// What is wrong with a record that came after the newest.
    trouble: Option<String>,
}

impl Shelf {
    /// An empty one, of a topic whose sets must be signed by one of these keys, where there are any.
    #[must_use]
    pub fn new(topic: String, trusted: Vec<PublicKey>, keep: usize) -> Self {
        Self {
            topic,
            trusted,
            keep,
            sets: BTreeMap::new(),
            highest: None,
            trouble: None,
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`SetError`] says why it is not used; what was the newest still is.
    pub fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), SetError> {
        let Some(value) = value else {
            let gone = |_: &Epoch, set: &mut Set| key == Some(self::key(&set.label).as_bytes());
            self.sets.extract_if(.., gone).for_each(drop);
            let of_this = self.not_used(key);
            self.trouble
                .take_if(|trouble| trouble.starts_with(&of_this));
            return Ok(());
        };
        let taken = Set::read(value, &self.topic, &self.trusted).and_then(|set| self.put(set));
        self.trouble = taken
            .as_ref()
            .err()
            .map(|error| format!("{}{error}", self.not_used(key)));
        taken
    }

    /// How it begins to be told that the record of a key is not used.
    fn not_used(&self, key: Option<&[u8]>) -> String {
        let key = String::from_utf8_lossy(key.unwrap_or_default());
        let key: String = key.chars().take(80).collect();
        format!("set {key:?} of topic {} is not used: ", self.topic)
    }

    fn put(&mut self, set: Set) -> Result<(), SetError> {
        let found = set.label.epoch;
        if let Some(newest) = self.highest.filter(|newest| *newest > found) {
            return Err(SetError::Older { found, newest });
        }
        // Of two that were published at once under one number all read the first; who wrote the other is told.
        if let Some(first) = self.sets.get(&found)
            && !first.is_as_written(&set)
        {
            let by = first.label.by.clone();
            return Err(SetError::Taken { found, by });
        }
        self.highest = Some(found);
        self.sets.insert(found, set);
        while self.sets.len() > self.keep {
            self.sets.pop_first();
        }
        Ok(())
    }

    /// Whether there never was a set.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.highest.is_none()
    }

    /// The newest set.
    #[must_use]
    pub fn newest(&self) -> Option<&Set> {
        self.sets.values().next_back()
    }

    /// All that are there, the oldest first.
    pub fn sets(&self) -> impl DoubleEndedIterator<Item = &Set> {
        self.sets.values()
    }

    /// The set of a number, of the topic as it is now.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Option<&Set> {
        self.sets
            .values()
            .rev()
            .find(|set| set.label.epoch.number == number)
    }

    /// The number that comes next, at this time in milliseconds.
    pub(super) fn next(&self, now: i64) -> Epoch {
        let first = Epoch {
            began: now,
            number: 1,
        };
        self.highest.map_or(first, |highest| Epoch {
            number: highest.number.saturating_add(1),
            ..highest
        })
    }

    /// What is wrong with a record that came after the newest set.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// The key of a set's record: its own, also where two are published at once under one number, so that compaction keeps both
/// and whoever reads the topic later sees the same one first.
pub(super) fn key(label: &Label) -> String {
    let Epoch { began, number } = label.epoch;
    let set: String = label.set.chars().take(16).collect();
    format!("{began}.{number}.{}.{set}", label.at)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{TOPIC, set};
    use super::*;
    use crate::signing::SecretKey;

    struct Scene {
        secret: SecretKey,
        shelf: Shelf,
    }

    impl Scene {
        fn new(keep: usize) -> Self {
            let secret = SecretKey::draw();
            let shelf = Shelf::new(TOPIC.to_owned(), vec![secret.public()], keep);
            Self { secret, shelf }
        }

        fn take(&mut self, set: &Set) -> Result<(), SetError> {
            let value = set.write(Some(&self.secret)).expect("a record");
            let key = key(&set.label);
            self.shelf.take(Some(key.as_bytes()), Some(&value))
        }

        /// Takes the record of a set away.
        fn bury(&mut self, began: i64, number: u64) {
            let key = key(&set(began, number).label);
            self.shelf
                .take(Some(key.as_bytes()), None)
                .expect("a tombstone");
        }

        fn newest(&self) -> Option<u64> {
            self.shelf.newest().map(|set| set.label.epoch.number)
        }
    }

    #[test]
    fn only_what_is_newer_takes_the_place_of_what_is_there() {
        let mut scene = Scene::new(1);
        assert_eq!(scene.newest(), None);
        for number in [1, 2, 2] {
            assert_eq!(scene.take(&set(100, number)), Ok(()));
        }
        // Somebody copies a set of before to the end.
        let copied = scene.take(&set(100, 1)).expect_err("older");
        assert!(matches!(copied, SetError::Older { .. }), "{copied}");
        let trouble = scene.shelf.trouble().expect("it is told");
        assert!(trouble.starts_with("set \"100.1."));
        assert_eq!(scene.newest(), Some(2));
        // Somebody else writes what they like.
        for value in [&b""[..], b"x", b"dogwatch-detections 1\nunsigned\n{}\n{}"] {
            assert!(scene.shelf.take(None, Some(value)).is_err());
            assert!(scene.shelf.trouble().is_some());
        }
        assert_eq!(scene.newest(), Some(2));
        assert_eq!(scene.take(&set(100, 3)), Ok(()));
        assert_eq!((scene.newest(), scene.shelf.trouble()), (Some(3), None));
        // The topic was made anew; a set of the one before is of before.
        assert_eq!(scene.take(&set(200, 1)), Ok(()));
        assert!(scene.take(&set(100, 4)).is_err());
        assert_eq!(scene.newest(), Some(1));
        // Its record is taken away: nothing older takes its place.
        scene.bury(200, 1);
        assert_eq!(scene.newest(), None);
        assert!(scene.take(&set(100, 9)).is_err());
    }

    #[test]
    fn the_first_of_two_under_one_number_is_read_by_all() {
        let mut scene = Scene::new(usize::MAX);
        let (first, mut second) = (set(100, 1), set(100, 1));
        second.label.by = "somebody else".to_owned();
        assert_ne!(first, second);
        assert_eq!(scene.take(&first), Ok(()));
        let taken = scene.take(&second).expect_err("taken");
        assert!(matches!(taken, SetError::Taken { .. }), "{taken}");
        assert!(scene.shelf.trouble().is_some());
        assert_eq!(
            scene.shelf.newest().map(|set| &set.label.by),
            Some(&first.label.by)
        );

        // Who wrote the second takes it away again, and nothing is wrong any more.
        second.label.at += 1;
        assert!(scene.take(&second).is_err());
        let key = key(&second.label);
        scene
            .shelf
            .take(Some(key.as_bytes()), None)
            .expect("a tombstone");
        assert_eq!(scene.shelf.trouble(), None);
        assert_eq!(scene.newest(), Some(1));
    }

    #[test]
    fn those_that_are_kept_are_found_by_number() {
        let mut scene = Scene::new(usize::MAX);
        for (began, number) in [(100, 1), (100, 2), (200, 1), (200, 2), (200, 3)] {
            assert_eq!(scene.take(&set(began, number)), Ok(()));
        }
        scene.bury(200, 2);
        let numbered = |number| Some(scene.shelf.numbered(number)?.label.epoch.began);
        assert_eq!(
            [1, 2, 3, 4].map(numbered),
            [Some(200), Some(100), Some(200), None]
        );
        assert_eq!(scene.shelf.sets().count(), 4);
    }
}
