//! Checkpoints: what a task remembers, as it lies in the topic of states, and when it is due.
//!
//! ```text
//! partition of the task:  piece piece … manifest 1 │ piece … manifest 2 │ piece … manifest 3 │
//!                                                  └ state S: no piece before is alive
//! metadata of the committed offset: checkpoint 3, input K, state S, base
//! ```
//! A checkpoint is what changed since the last one, and ends with its manifest. There is no checkpoint of everything, so a
//! transaction is bounded whatever the state is: when a restart would have to read much more than there is, a checkpoint
//! writes some of the oldest pieces anew, too ([`Renewal`]), and what lies before the oldest piece that is alive is not
//! read any more. A restart reads from there to the manifest that the committed offset names, and folds the pieces by key.
//! A task that begins draws a name, the *base*, which all that builds on it carries in a header: pieces of somebody else,
//! of another topic's task, of before or from a zombie, are told apart and passed over.
//!
//! No clock and no I/O: times and names are handed in.

use std::collections::BTreeMap;
use std::fmt;

use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};

mod fold;
mod format;
mod progress;
#[cfg(test)]
mod tests;

pub use fold::{Fold, Restored, Wrote};
pub use progress::{Progress, Renewal};

/// The form of what is written here. A higher one is not read; one lower is read as the module `format` says.
pub const FORMAT: u32 = 4;

/// How far a task has read: of each topic, the offset of the first record that is not known.
pub type Inputs = BTreeMap<Topic, i64>;

/// What stands for the set of detections where versions of before look for it; [`Ran`] says which it is.
pub const EPOCH: u64 = 0;

/// The number of a published set of detections. Sets of a topic that was made anew come after all of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// When the first set of the topic was published, milliseconds.
    pub began: i64,
    /// Its number among those of the topic, from 1.
    pub number: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.number)
    }
}

/// What a task was last run with. Versions of before do not write it, and pass it over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// The hash of the set of detections.
    #[serde(default)]
    pub set: String,
    /// Its number, of a published one: the highest that the task was run with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Whether it is run with a folder: the number is that of a set of before, then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub folder: bool,
    /// The cap on keys (`windows.keys_max`), on which results may hang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_max: Option<usize>,
    /// The cap on the bytes of a task's windows (`windows.state_bytes_max`), on which results may hang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_bytes_max: Option<u64>,
    /// How many partitions its topic had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How many it had before that changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions_before: Option<i32>,
}

impl Ran {
    /// How many partitions the topic had when one of this number, of which nothing was committed yet, was not read: before it
    /// was added, where that is known.
    #[must_use]
    pub fn partitions_without(&self, number: i32) -> Option<i32> {
        let before = self.partitions_before.filter(|before| number >= *before);
        before.or(self.partitions)
    }
}

/// Key of the manifest; no piece of state has it.
pub const MANIFEST_KEY: &str = "checkpoint";

/// What stands in a record's key between the topic of a task's log and the name of a piece, where that is no topic of those that
/// were the only ones.
const OF_TOPIC: char = '\u{1e}';

/// The key of a task's piece: tasks of several topics share a partition of the topic of states, and must not replace each other's.
#[must_use]
pub fn key_of(topic: Topic, piece: &str) -> String {
    match topic {
        Topic::Events | Topic::Exchange => piece.to_owned(),
        _ => format!("{}{OF_TOPIC}{piece}", topic.suffix()),
    }
}

/// The name of the piece that a key is of.
fn piece_of(key: &str) -> &str {
    match key.split_once(OF_TOPIC) {
        Some((topic, piece)) if Topic::named(topic).is_some() => piece,
        _ => key,
    }
}

/// Header that names what a record builds on.
pub const BASE_HEADER: &str = "base";

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
    /// [`EPOCH`].
    pub epoch: u64,
    /// The checkpoint's number; 0 before the first one, when nothing is remembered yet.
    #[serde(rename = "checkpoint")]
    pub number: u64,
    /// The first input records that the checkpoint does not know.
    #[serde(alias = "input", with = "format")]
    pub inputs: Inputs,
    /// Offset in the topic of states where a restore begins.
    pub state: i64,
    /// Name of what it builds on.
    pub base: String,
    /// What the task was run with.
    #[serde(default)]
    pub ran: Ran,
}

impl Head {
    /// The memory of a task that begins empty at some offsets.
    pub fn empty(inputs: Inputs) -> Self {
        Self {
            format: FORMAT,
            epoch: EPOCH,
            number: 0,
            inputs,
            state: 0,
            base: String::new(),
            ran: Ran::default(),
        }
    }

    /// Writes it as a committed offset's metadata: some 200 bytes, of the 4,096 that a broker takes.
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
    /// [`EPOCH`].
    pub epoch: u64,
    /// Its number, counted per task.
    #[serde(rename = "checkpoint")]
    pub number: u64,
    /// The first input records that it does not know.
    #[serde(alias = "input", with = "format")]
    pub inputs: Inputs,
    /// Name of what it builds on.
    pub base: String,
    /// Number of the oldest checkpoint that has a piece of the state as it is now: a restore begins there.
    pub oldest: u64,
    /// Records before this one that belong to it.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Pieces that the whole state has now.
    pub keys: u64,
    /// What the task was run with.
    #[serde(default)]
    pub ran: Ran,
}

impl Manifest {
    /// Returns where the checkpoint is, given where a restore begins to read.
    pub fn head(&self, state: i64) -> Head {
        Head {
            format: self.format,
            epoch: self.epoch,
            number: self.number,
            inputs: self.inputs.clone(),
            state,
            base: self.base.clone(),
            ran: self.ran.clone(),
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
    /// Whether it is the first under its base: its place must be known before an offset can name it.
    pub begins: bool,
}

impl Checkpoint {
    /// Adds a later one of the same task, taken for the same step.
    #[must_use]
    pub fn join(self, later: Self) -> Self {
        // What begins anew holds all there is, under a name of its own.
        if later.manifest.base != self.manifest.base {
            return later;
        }
        let (mut records, earlier) = (self.records, self.manifest);
        records.extend(later.records);
        let manifest = Manifest {
            records: earlier.records + later.manifest.records,
            bytes: earlier.bytes + later.manifest.bytes,
            ..later.manifest
        };
        Self {
            manifest,
            records,
            begins: self.begins,
        }
    }
}

/// What a task remembers, by name.
pub type State = BTreeMap<String, Vec<u8>>;

/// Takes the pieces whose names begin with a prefix out of a state; each with the rest of its name.
pub(crate) fn take_below(state: &mut State, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let below = |key: &String, _: &mut Vec<u8>| key.starts_with(prefix);
    // Names with a prefix stand together: what comes after them begins with something greater.
    let end = format!("{prefix}{}", char::MAX);
    let own = state.extract_if(prefix.to_owned()..end, below);
    own.map(|(key, value)| (key[prefix.len()..].to_owned(), value))
        .collect()
}
