//! Reading a task's checkpoints back.

use std::collections::BTreeMap;

use super::{Head, MANIFEST_KEY, Manifest, MemoryError, PART, format, parse, piece_of};

/// A piece of the state, and which checkpoint wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// That checkpoint's number.
    pub number: u64,
    /// Whether it lies there under the name of an earlier format.
    pub renamed: bool,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// What one checkpoint wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrote {
    /// Bytes of keys and values, of pieces that are over, too.
    pub bytes: u64,
    /// Pieces of it that are alive.
    pub pieces: u64,
}

/// What a task remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The newest value of each key.
    pub pieces: BTreeMap<String, Piece>,
    /// The checkpoint it is.
    pub manifest: Manifest,
    /// What each checkpoint wrote that was read, by number.
    pub written: BTreeMap<u64, Wrote>,
    /// Offset of the first record of each of them.
    pub places: BTreeMap<u64, i64>,
    /// Records that were read.
    pub records: u64,
}

impl Restored {
    /// The state by name: what went in parts is put together again.
    #[must_use]
    pub fn into_state(self) -> BTreeMap<String, Vec<u8>> {
        let mut state: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        // The first part of a name comes before the others, which are in their order.
        for (key, piece) in self.pieces {
            match key.split_once(PART) {
                Some((name, _)) => state
                    .entry(name.to_owned())
                    .or_default()
                    .extend(piece.value),
                None => drop(state.insert(key, piece.value)),
            }
        }
        state
    }
}

/// Folds the records of a task's partition up to a checkpoint.
#[derive(Debug)]
pub struct Fold {
    wanted: Head,
    pieces: BTreeMap<String, Piece>,
    /// Since the last manifest: they count when the next one comes.
    pending: Vec<(String, Option<Vec<u8>>)>,
    /// Where the first of these lies, and how many bytes they are.
    pending_at: Option<i64>,
    pending_bytes: u64,
    found: Option<Manifest>,
    written: BTreeMap<u64, Wrote>,
    places: BTreeMap<u64, i64>,
    records: u64,
}

impl Fold {
    /// Looks for the checkpoint that `wanted` names.
    pub fn new(wanted: Head) -> Self {
        Self {
            wanted,
            pieces: BTreeMap::new(),
            pending: Vec::new(),
            pending_at: None,
            pending_bytes: 0,
            found: None,
            written: BTreeMap::new(),
            places: BTreeMap::new(),
            records: 0,
        }
    }

    /// Takes the next record of the partition.
    ///
    /// # Errors
    /// [`MemoryError`] when it is a manifest this version does not understand.
    pub fn take(
        &mut self,
        offset: i64,
        key: &[u8],
        base: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), MemoryError> {
        self.records += 1;
        if base != Some(self.wanted.base.as_bytes()) {
            return Ok(());
        }
        let place = *self.pending_at.get_or_insert(offset);
        let key = std::str::from_utf8(key)
            .map_err(|_| MemoryError::Unreadable("a key is no text".to_owned()))?;
        let key = piece_of(key);
        if key != MANIFEST_KEY {
            self.pending_bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            self.pending
                .push((key.to_owned(), value.map(<[u8]>::to_vec)));
            return Ok(());
        }
        let Some(value) = value else {
            return Ok(());
        };
        let manifest: Manifest = parse(value)?;
        let number = manifest.number;
        for (key, value) in self.pending.drain(..) {
            let renamed = format::renamed(&key);
            let piece = |value| Piece {
                number,
                renamed: renamed.is_some(),
                value,
            };
            let piece = value.map(piece);
            let key = renamed.unwrap_or(key);
            match piece {
                Some(piece) => drop(self.pieces.insert(key, piece)),
                None => drop(self.pieces.remove(&key)),
            }
        }
        let wrote = Wrote {
            bytes: std::mem::take(&mut self.pending_bytes),
            pieces: 0,
        };
        self.written.insert(number, wrote);
        self.places.insert(number, place);
        self.pending_at = None;
        self.found = Some(manifest);
        Ok(())
    }

    /// Says whether the wanted checkpoint, or a later one, is complete.
    pub fn reached(&self) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|found| found.number >= self.wanted.number)
    }

    /// Returns what was remembered.
    ///
    /// # Errors
    /// [`MemoryError`] when the checkpoint or some of its pieces are not there.
    pub fn finish(self) -> Result<Restored, MemoryError> {
        let number = self.wanted.number;
        let manifest = self
            .found
            .filter(|found| found.number >= number)
            .ok_or(MemoryError::Missing { number })?;
        let found = self.pieces.len() as u64;
        if found != manifest.keys {
            return Err(MemoryError::Incomplete {
                number: manifest.number,
                expected: manifest.keys,
                found,
            });
        }
        Ok(Restored {
            pieces: self.pieces,
            manifest,
            written: self.written,
            places: self.places,
            records: self.records,
        })
    }
}
