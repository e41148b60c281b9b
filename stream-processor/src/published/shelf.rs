//! The sets of a topic: which is the newest, and what is wrong with what came after it.
//!
//! No clock and no I/O: records are handed in, in the order of the log.

use std::collections::BTreeMap;

use super::record::{Set, SetError};
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
            let gone = |epoch: &Epoch, _: &mut Set| key == Some(self::key(*epoch).as_bytes());
            self.sets.extract_if(.., gone).for_each(drop);
            return Ok(());
        };
        let taken = Set::read(value, &self.topic, &self.trusted).and_then(|set| self.put(set));
        self.trouble = taken.as_ref().err().map(|error| {
            let key = String::from_utf8_lossy(key.unwrap_or_default());
            let key: String = key.chars().take(80).collect();
            format!("set {key:?} of topic {} is not used: {error}", self.topic)
        });
        taken
    }

    fn put(&mut self, set: Set) -> Result<(), SetError> {
        let found = set.label.epoch;
        // Of two that were published at once under one number the later one is read by all.
        if let Some(newest) = self.highest.filter(|newest| *newest > found) {
            return Err(SetError::Older { found, newest });
        }
        self.highest = Some(found);
        self.sets.insert(found, set);
        while self.sets.len() > self.keep {
            self.sets.pop_first();
        }
        Ok(())
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

/// The key of a set's record.
pub(super) fn key(epoch: Epoch) -> String {
    format!("{}.{}", epoch.began, epoch.number)
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
            let key = key(set.label.epoch);
            self.shelf.take(Some(key.as_bytes()), Some(&value))
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
        assert!(trouble.starts_with("set \"100.1\" of topic dogwatch.detections is not used: "));
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
        scene.shelf.take(Some(b"200.1"), None).expect("a tombstone");
        assert_eq!(scene.newest(), None);
        assert!(scene.take(&set(100, 9)).is_err());
    }

    #[test]
    fn those_that_are_kept_are_found_by_number() {
        let mut scene = Scene::new(usize::MAX);
        for (began, number) in [(100, 1), (100, 2), (200, 1), (200, 2), (200, 3)] {
            assert_eq!(scene.take(&set(began, number)), Ok(()));
        }
        scene.shelf.take(Some(b"200.2"), None).expect("a tombstone");
        let numbered = |number| Some(scene.shelf.numbered(number)?.label.epoch.began);
        assert_eq!(
            [1, 2, 3, 4].map(numbered),
            [Some(200), Some(100), Some(200), None]
        );
        assert_eq!(scene.shelf.sets().count(), 4);
    }
}
