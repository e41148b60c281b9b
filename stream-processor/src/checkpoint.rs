//! Checkpoints: what a task remembers, as it lies in the topic of states, and when it is due.
//!
//! ```text
//! partition of the task:  piece piece … manifest 1 │ piece … manifest 2 │ piece … manifest 3 │
//!                         └ full, offset S        │ what changed       │ what changed
//! metadata of the committed offset: checkpoint 3, input K, state S, base
//! ```
//! A checkpoint is what changed since the last one, or all of it (*full*), and ends with its manifest.
//! A restart reads from the last full one to the manifest that the committed offset names, and folds the pieces by
//! key. Each full checkpoint draws a name, the *base*, which all that builds on it carries in a header: pieces of
//! somebody else, of before or from a zombie, are told apart and passed over.
//!
//! No clock and no I/O: times and names are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::RawCheckpoint;

/// The form of what is written here. A higher one is not read.
pub const FORMAT: u32 = 2;

/// The number of the loaded set of detections; sets are not swapped yet while the program runs.
pub const EPOCH: u64 = 0;

/// Key of the manifest; no piece of state has it.
pub const MANIFEST_KEY: &str = "checkpoint";

/// Header that names the full checkpoint a record builds on.
pub const BASE_HEADER: &str = "base";

/// A checkpoint is full again when what was written since the last full one is so many times its size.
const GROWTH_MAX: u64 = 4;

/// Less than this, in bytes, is read in no time: it is not written anew to save it.
const FULL_BYTES_MIN: u64 = 1 << 20;

/// A piece of a task's state; a checkpoint takes it apart where it is too large for the topic of states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRecord {
    /// Its name in the task; a later piece of the same name replaces it.
    pub key: String,
    /// Its bytes; none when the piece is over.
    pub value: Option<Vec<u8>>,
}

/// Most bytes of a record: what is larger goes in parts. The topic is checked to take more.
const PART_BYTES_MAX: usize = 512 << 10;
/// What stands in a key between the name of a piece and the number of its further part.
const PART: char = '\u{1f}';

impl StateRecord {
    /// The record, in parts where it is too large for one: then the name of each but the first says which it is.
    fn parts(self) -> Vec<Self> {
        let value = match self.value {
            Some(value) if value.len() > PART_BYTES_MAX => value,
            value => return vec![Self { value, ..self }],
        };
        let key = |number: usize| match number {
            0 => self.key.clone(),
            number => format!("{}{PART}{number:06}", self.key),
        };
        let parts = value.chunks(PART_BYTES_MAX).enumerate();
        parts
            .map(|(number, part)| Self {
                key: key(number),
                value: Some(part.to_vec()),
            })
            .collect()
    }
}

/// Puts the parts of what was stored together again.
#[must_use]
pub fn whole(state: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let mut whole: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    // The first part of a name comes before the others, which are in their order.
    for (key, value) in state {
        match key.split_once(PART) {
            Some((name, _)) => whole.entry(name.to_owned()).or_default().extend(value),
            None => drop(whole.insert(key, value)),
        }
    }
    whole
}

/// Why what was remembered cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// An offset of a version that had no checkpoints, or one that an operator set.
    #[error("the committed offset names no checkpoint")]
    None,
    /// The committed offset is beyond the end of the log.
    #[error("the topic of the input was made anew")]
    OtherLog,
    /// Written by a newer version.
    #[error("format {found} is newer than {FORMAT}, the newest this version reads")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Not in the form we write.
    #[error("could not be read: {0}")]
    Unreadable(String),
    /// The topic of states does not hold the checkpoint.
    #[error("checkpoint {number} is not in the topic of states")]
    Missing {
        /// Its number.
        number: u64,
    },
    /// Pieces are missing.
    #[error("checkpoint {number} has {expected} pieces, {found} are there")]
    Incomplete {
        /// Its number.
        number: u64,
        /// Pieces it was written with.
        expected: u64,
        /// Pieces that were found.
        found: u64,
    },
}

/// Where a task's memory is: the metadata of its committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The form of this and of the pieces.
    pub format: u32,
    /// The set of detections it was made with.
    pub epoch: u64,
    /// The checkpoint's number; 0 before the first one, when nothing is remembered yet.
    #[serde(rename = "checkpoint")]
    pub number: u64,
    /// Offset of the first input record that the checkpoint does not know.
    pub input: i64,
    /// Offset in the topic of states where a restore begins.
    pub state: i64,
    /// Name of the full checkpoint it builds on.
    pub base: String,
}

impl Head {
    /// The memory of a task that begins empty at an offset.
    pub fn empty(input: i64) -> Self {
        Self {
            format: FORMAT,
            epoch: EPOCH,
            number: 0,
            input,
            state: 0,
            base: String::new(),
        }
    }

    /// Writes it as a committed offset's metadata: some 120 bytes, of the 4,096 that a broker takes.
    pub fn to_metadata(&self) -> String {
        serde_json::to_string(self).expect("numbers and a text are plain data")
    }

    /// Reads a committed offset's metadata.
    ///
    /// # Errors
    /// [`MemoryError`] when there is none or this version does not understand it.
    pub fn of_metadata(text: &str) -> Result<Self, MemoryError> {
        if text.is_empty() {
            return Err(MemoryError::None);
        }
        parse(text.as_bytes())
    }
}

/// The last record of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this and of the pieces.
    pub format: u32,
    /// The set of detections it was made with.
    pub epoch: u64,
    /// Its number, counted per task.
    #[serde(rename = "checkpoint")]
    pub number: u64,
    /// Offset of the first input record that it does not know.
    pub input: i64,
    /// Name of the full checkpoint it builds on.
    pub base: String,
    /// Whether it is that one.
    pub full: bool,
    /// Records before this one that belong to it.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Pieces that the whole state has now.
    pub keys: u64,
}

impl Manifest {
    /// Returns where the checkpoint is, given where a restore begins to read.
    pub fn head(&self, state: i64) -> Head {
        Head {
            format: self.format,
            epoch: self.epoch,
            number: self.number,
            input: self.input,
            state,
            base: self.base.clone(),
        }
    }

    /// Writes it as a record's value.
    pub fn to_value(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and a text are plain data")
    }
}

/// Reads one of the above; the format is looked at first, so that a newer one may have any form.
fn parse<T: for<'t> Deserialize<'t>>(text: &[u8]) -> Result<T, MemoryError> {
    #[derive(Deserialize)]
    struct Form {
        format: u32,
        epoch: u64,
    }
    let unreadable = |error: serde_json::Error| MemoryError::Unreadable(error.to_string());
    let form: Form = serde_json::from_slice(text).map_err(unreadable)?;
    if form.format > FORMAT {
        return Err(MemoryError::Newer { found: form.format });
    }
    if form.epoch > EPOCH {
        let reason = format!("it is of detection epoch {}, after ours", form.epoch);
        return Err(MemoryError::Unreadable(reason));
    }
    serde_json::from_slice(text).map_err(unreadable)
}

/// One checkpoint of one task, on its way to the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its last record.
    pub manifest: Manifest,
    /// Its pieces, tombstones included.
    pub records: Vec<StateRecord>,
}

impl Checkpoint {
    /// Adds a later one of the same task, taken for the same step.
    #[must_use]
    pub fn join(self, later: Self) -> Self {
        // A full one holds all there is, under a name of its own.
        if later.manifest.full {
            return later;
        }
        let (mut records, first) = (self.records, self.manifest);
        records.extend(later.records);
        let manifest = Manifest {
            full: first.full,
            records: first.records + later.manifest.records,
            bytes: first.bytes + later.manifest.bytes,
            ..later.manifest
        };
        Self { manifest, records }
    }
}

/// How far a task's checkpoints are, and when the next is due.
#[derive(Debug, Clone)]
pub struct Progress {
    number: u64,
    base: String,
    keys: BTreeSet<String>,
    full_due: bool,
    full_bytes: u64,
    written_bytes: u64,
    taken_at: Instant,
    input_bytes: u64,
    new_input: bool,
}

impl Progress {
    /// A task whose first checkpoint is full: it begins empty, or its writers cannot be told apart.
    pub fn begin(number: u64, taken_at: Instant) -> Self {
        Self {
            number,
            base: String::new(),
            keys: BTreeSet::new(),
            full_due: true,
            full_bytes: 0,
            written_bytes: 0,
            taken_at,
            input_bytes: 0,
            new_input: false,
        }
    }

    /// A task that goes on from a checkpoint.
    pub fn resume(restored: &Restored, taken_at: Instant) -> Self {
        let held = |(key, value): (&String, &Vec<u8>)| (key.len() + value.len()) as u64;
        Self {
            base: restored.manifest.base.clone(),
            keys: restored.state.keys().cloned().collect(),
            full_due: false,
            full_bytes: restored.state.iter().map(held).sum(),
            written_bytes: restored.bytes,
            ..Self::begin(restored.manifest.number, taken_at)
        }
    }

    /// Makes the next checkpoint full, whatever it builds on.
    pub fn begin_anew(&mut self) {
        self.full_due = true;
    }

    /// Notes input that the engine has taken.
    pub fn note_input(&mut self, bytes: u64) {
        self.input_bytes += bytes;
        self.new_input = true;
    }

    /// Says whether there is anything to store.
    pub fn behind(&self) -> bool {
        self.new_input
    }

    /// Returns when the next checkpoint is due; none while there is nothing to store.
    pub fn due_at(&self, settings: &RawCheckpoint) -> Option<Instant> {
        let early = self.input_bytes >= settings.input_bytes;
        let wait = if early {
            Duration::ZERO
        } else {
            settings.interval
        };
        self.new_input.then(|| self.taken_at + wait)
    }

    /// Says whether the next checkpoint holds everything.
    pub fn full(&self) -> bool {
        let grown = GROWTH_MAX * self.full_bytes.max(FULL_BYTES_MIN);
        self.full_due || self.written_bytes > grown
    }

    /// Makes the checkpoint of what the engine handed out at `input`, which was everything if it is
    /// [`Progress::full`]; `base` is a name nobody used.
    pub fn take(
        &mut self,
        mut records: Vec<StateRecord>,
        input: i64,
        base: impl FnOnce() -> String,
        now: Instant,
    ) -> Checkpoint {
        let full = self.full();
        records = self.in_parts(records);
        if full {
            self.base = base();
            records.extend(self.tombstones(&records));
        }
        for record in &records {
            debug_assert_ne!(record.key, MANIFEST_KEY);
            match record.value {
                Some(_) => self.keys.insert(record.key.clone()),
                None => self.keys.remove(&record.key),
            };
        }
        let size =
            |record: &StateRecord| record.key.len() + record.value.as_ref().map_or(0, Vec::len);
        let bytes = records.iter().map(size).sum::<usize>() as u64;
        if full {
            (self.full_due, self.full_bytes, self.written_bytes) = (false, bytes, 0);
        } else {
            self.written_bytes += bytes;
        }
        self.number += 1;
        (self.taken_at, self.input_bytes, self.new_input) = (now, 0, false);
        Checkpoint {
            manifest: Manifest {
                format: FORMAT,
                epoch: EPOCH,
                number: self.number,
                input,
                base: self.base.clone(),
                full,
                records: records.len() as u64,
                bytes,
                keys: self.keys.len() as u64,
            },
            records,
        }
    }

    /// Records in parts, with the end of the parts that they have no longer.
    fn in_parts(&self, records: Vec<StateRecord>) -> Vec<StateRecord> {
        let mut all = Vec::with_capacity(records.len());
        for record in records {
            let further = format!("{}{PART}", record.key);
            let before = self.keys.range(further.clone()..);
            let before = before.take_while(|key| key.starts_with(&further));
            let parts = record.parts();
            let gone = before.filter(|key| parts.iter().all(|part| part.key != **key));
            let gone = gone.map(|key| StateRecord {
                key: key.clone(),
                value: None,
            });
            let gone: Vec<StateRecord> = gone.collect();
            all.extend(parts);
            all.extend(gone);
        }
        all
    }

    /// What was there and is not in a full checkpoint: nobody reads it any more, but only this has it removed.
    fn tombstones(&self, full: &[StateRecord]) -> Vec<StateRecord> {
        let held: BTreeSet<&str> = full.iter().map(|record| record.key.as_str()).collect();
        let gone = self.keys.iter().filter(|key| !held.contains(key.as_str()));
        gone.map(|key| StateRecord {
            key: key.clone(),
            value: None,
        })
        .collect()
    }
}

/// What a task remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The newest value of each key; [`whole`] puts parts together.
    pub state: BTreeMap<String, Vec<u8>>,
    /// The checkpoint it is.
    pub manifest: Manifest,
    /// Records that were read.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Folds the records of a task's partition up to a checkpoint.
#[derive(Debug)]
pub struct Fold {
    wanted: Head,
    state: BTreeMap<String, Vec<u8>>,
    /// Since the last manifest: they count when the next one comes.
    pending: Vec<(String, Option<Vec<u8>>)>,
    found: Option<Manifest>,
    records: u64,
    bytes: u64,
}

impl Fold {
    /// Looks for the checkpoint that `wanted` names.
    pub fn new(wanted: Head) -> Self {
        Self {
            wanted,
            state: BTreeMap::new(),
            pending: Vec::new(),
            found: None,
            records: 0,
            bytes: 0,
        }
    }

    /// Takes the next record of the partition.
    ///
    /// # Errors
    /// [`MemoryError`] when it is a manifest this version does not understand.
    pub fn take(
        &mut self,
        key: &[u8],
        base: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), MemoryError> {
        self.records += 1;
        self.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        if base != Some(self.wanted.base.as_bytes()) {
            return Ok(());
        }
        let key = std::str::from_utf8(key)
            .map_err(|_| MemoryError::Unreadable("a key is no text".to_owned()))?;
        if key != MANIFEST_KEY {
            self.pending
                .push((key.to_owned(), value.map(<[u8]>::to_vec)));
            return Ok(());
        }
        let Some(value) = value else {
            return Ok(());
        };
        self.found = Some(parse(value)?);
        for (key, value) in self.pending.drain(..) {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
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
        let found = self.state.len() as u64;
        if found != manifest.keys {
            return Err(MemoryError::Incomplete {
                number: manifest.number,
                expected: manifest.keys,
                found,
            });
        }
        Ok(Restored {
            state: self.state,
            manifest,
            records: self.records,
            bytes: self.bytes,
        })
    }
}

/// The records whose name begins with a prefix, without it.
pub(crate) fn with_prefix<'a>(
    state: &'a BTreeMap<String, Vec<u8>>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Vec<u8>)> {
    state
        .range(prefix.to_owned()..)
        .map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

#[cfg(test)]
mod tests;
