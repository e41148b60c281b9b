//! How far a task's checkpoints are, when the next is due, and which old pieces it writes anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{
    Checkpoint, EPOCH, FORMAT, Inputs, MANIFEST_KEY, Manifest, PART, Ran, Restored, StateRecord,
    Wrote, format,
};
use crate::config::RawCheckpoint;

/// The oldest pieces are written anew when a restore would read more than so many times the state.
const GROWTH_MAX: u64 = 4;

/// Less than this, in bytes, is read in no time: nothing is written anew to save it.
const READ_BYTES_MIN: u64 = 4 << 20;

/// Bytes of old pieces that one checkpoint writes anew, about; as many as it has changes where these are more.
const RENEWED_BYTES: u64 = 4 << 20;

/// The pieces that a checkpoint writes anew beside what changed, and how many bytes that may be.
#[derive(Debug, Default)]
pub struct Renewal {
    names: BTreeSet<String>,
    /// Shared with what is below a prefix.
    left: Arc<AtomicU64>,
}

impl Renewal {
    /// Of these pieces, until so many bytes are written.
    pub fn new(names: BTreeSet<String>, bytes: u64) -> Self {
        Self {
            names,
            left: Arc::new(AtomicU64::new(bytes)),
        }
    }

    /// What is below a prefix, within the same bytes.
    pub fn of_below(&self, prefix: &str) -> Self {
        Self {
            names: self.below(prefix).map(str::to_owned).collect(),
            left: Arc::clone(&self.left),
        }
    }

    /// The rest of the names below a prefix, while there are bytes left.
    pub fn below<'r>(&'r self, prefix: &'r str) -> impl Iterator<Item = &'r str> {
        let names = self.names.range(prefix.to_owned()..);
        names
            .map_while(move |name| name.strip_prefix(prefix))
            .take_while(|_| self.has_room())
    }

    /// Whether more may be written anew.
    pub fn has_room(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }

    /// Notes that so many bytes are written anew.
    pub fn spend(&self, bytes: usize) {
        let rest = |left: u64| Some(left.saturating_sub(bytes as u64));
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }
}

/// A piece of the state as it is now.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The checkpoint that wrote it.
    number: u64,
    bytes: u64,
    /// Whether it lies there under the name of an earlier format.
    renamed: bool,
}

/// How far a task's checkpoints are, and when the next is due.
#[derive(Debug, Clone)]
pub struct Progress {
    number: u64,
    base: String,
    pieces: BTreeMap<String, Piece>,
    /// Bytes of all pieces.
    bytes: u64,
    /// What each checkpoint wrote, from the oldest on that has a piece.
    written: BTreeMap<u64, Wrote>,
    /// Bytes that the last checkpoint wrote because they had changed.
    changed: u64,
    /// Bytes that the next one writes anew.
    anew: u64,
    /// Whether the next checkpoint draws a name, and holds everything.
    begins: bool,
    taken_at: Instant,
    input_bytes: u64,
    new_input: bool,
    /// What the task is run with.
    pub ran: Ran,
}

impl Progress {
    /// A task that begins empty.
    pub fn begin(number: u64, taken_at: Instant) -> Self {
        Self {
            number,
            base: String::new(),
            pieces: BTreeMap::new(),
            bytes: 0,
            written: BTreeMap::new(),
            changed: 0,
            anew: 0,
            begins: true,
            taken_at,
            input_bytes: 0,
            new_input: false,
            ran: Ran::default(),
        }
    }

    /// A task that goes on from a checkpoint.
    pub fn resume(restored: &Restored, taken_at: Instant) -> Self {
        let mut written = restored.written.clone();
        written.values_mut().for_each(|wrote| wrote.pieces = 0);
        let mut pieces = BTreeMap::new();
        for (key, piece) in &restored.pieces {
            written.entry(piece.number).or_default().pieces += 1;
            let bytes = (key.len() + piece.value.len()) as u64;
            let (number, renamed) = (piece.number, piece.renamed);
            let piece = Piece {
                number,
                bytes,
                renamed,
            };
            pieces.insert(key.clone(), piece);
        }
        Self {
            base: restored.manifest.base.clone(),
            bytes: pieces.values().map(|piece| piece.bytes).sum(),
            pieces,
            written,
            begins: false,
            ..Self::begin(restored.manifest.number, taken_at)
        }
    }

    /// Has the next checkpoint draw a name and hold everything: those who may write under the old name cannot be told apart.
    pub fn begin_anew(&mut self) {
        self.begins = true;
    }

    /// Notes input that the engine has taken.
    pub fn note_input(&mut self, bytes: u64) {
        self.input_bytes += bytes;
        self.new_input = true;
    }

    /// Notes that others wrote so much behind its last checkpoint: a restore reads over it.
    pub fn pass_over(&mut self, bytes: u64) {
        if let Some(mut last) = self.written.last_entry() {
            last.get_mut().bytes += bytes;
        }
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

    /// What the next checkpoint writes anew beside what changed: the oldest pieces, when a restore would read too much, or
    /// everything, when it begins anew. There is room for as much in any case.
    pub fn renewal(&mut self) -> Renewal {
        let name = |key: &String| key.split(PART).next().unwrap_or(key).to_owned();
        if self.begins {
            return Renewal::new(self.pieces.keys().map(name).collect(), u64::MAX);
        }
        let room = RENEWED_BYTES.max(self.changed);
        let read: u64 = self.written.values().map(|wrote| wrote.bytes).sum();
        if read <= READ_BYTES_MIN.max(GROWTH_MAX * self.bytes) {
            return Renewal::new(BTreeSet::new(), room);
        }
        let mut oldest: Vec<(&String, &Piece)> = self.pieces.iter().collect();
        oldest.sort_by_key(|(_, piece)| piece.number);
        let mut bytes = 0;
        let within = |(_, piece): &(&String, &Piece)| {
            let fits = bytes < room;
            bytes += piece.bytes;
            fits
        };
        let oldest = oldest.into_iter().take_while(within);
        let names = oldest.map(|(key, _)| name(key)).collect();
        self.anew = bytes.min(room);
        Renewal::new(names, room)
    }

    /// Makes the checkpoint of what the engine handed out at `inputs`, with what [`Progress::renewal`] asked for;
    /// `base` is a name nobody used.
    pub fn take(
        &mut self,
        records: Vec<StateRecord>,
        inputs: Inputs,
        base: impl FnOnce() -> String,
        now: Instant,
    ) -> Checkpoint {
        let mut records = self.in_parts(records);
        self.number += 1;
        let begins = std::mem::take(&mut self.begins);
        if begins {
            self.base = base();
            records.extend(self.tombstones(&records));
            self.written.clear();
        }
        let mut wrote = Wrote::default();
        for record in &records {
            debug_assert_ne!(record.key, MANIFEST_KEY);
            wrote.bytes += (record.key.len() + record.value.as_ref().map_or(0, Vec::len)) as u64;
        }
        self.written.insert(self.number, wrote);
        records.iter().for_each(|record| self.note(record));
        self.changed = wrote.bytes.saturating_sub(std::mem::take(&mut self.anew));
        let number = self.number;
        let mut alive = false;
        self.written.retain(|own, wrote| {
            alive |= wrote.pieces > 0 || *own == number;
            alive
        });
        (self.taken_at, self.input_bytes, self.new_input) = (now, 0, false);
        Checkpoint {
            manifest: Manifest {
                format: FORMAT,
                epoch: EPOCH,
                number,
                inputs,
                base: self.base.clone(),
                oldest: self.written.keys().next().copied().unwrap_or(number),
                records: records.len() as u64,
                bytes: wrote.bytes,
                keys: self.pieces.len() as u64,
                ran: self.ran.clone(),
            },
            records,
            begins,
        }
    }

    /// Notes a record of the checkpoint that is taken.
    fn note(&mut self, record: &StateRecord) {
        let before = match &record.value {
            Some(value) => {
                let bytes = (record.key.len() + value.len()) as u64;
                let number = self.number;
                self.bytes += bytes;
                self.written.entry(number).or_default().pieces += 1;
                let piece = Piece {
                    number,
                    bytes,
                    renamed: false,
                };
                self.pieces.insert(record.key.clone(), piece)
            }
            None => self.pieces.remove(&record.key),
        };
        if let Some(before) = before {
            self.bytes -= before.bytes;
            if let Some(wrote) = self.written.get_mut(&before.number) {
                wrote.pieces -= 1;
            }
        }
    }

    /// Records in parts, with the end of the parts that they have no longer.
    fn in_parts(&self, records: Vec<StateRecord>) -> Vec<StateRecord> {
        let mut all = Vec::with_capacity(records.len());
        for record in records {
            let further = format!("{}{PART}", record.key);
            let before = self.pieces.range(further.clone()..);
            let before = before.map(|(key, _)| key);
            let before = before.take_while(|key| key.starts_with(&further));
            let parts = record.parts();
            let gone = before.filter(|key| parts.iter().all(|part| part.key != **key));
            let gone: Vec<StateRecord> = gone.map(|key| ended(key)).collect();
            for record in parts.into_iter().chain(gone) {
                all.extend(self.former(&record.key));
                all.push(record);
            }
        }
        all
    }

    /// The end of a piece's name of an earlier format: it comes before the piece, which is read under either name.
    fn former(&self, key: &str) -> Option<StateRecord> {
        let piece = self.pieces.get(key)?;
        let former = piece.renamed.then(|| format::former(key))?;
        Some(ended(&former?))
    }

    /// What was there and is not in a checkpoint of everything: nobody reads it any more, but only this has it removed.
    fn tombstones(&self, whole: &[StateRecord]) -> Vec<StateRecord> {
        let held: BTreeSet<&str> = whole.iter().map(|record| record.key.as_str()).collect();
        let gone = self.pieces.keys();
        let gone = gone.filter(|key| !held.contains(key.as_str()));
        let ends = |key: &String| self.former(key).into_iter().chain([ended(key)]);
        gone.flat_map(ends).collect()
    }
}

fn ended(key: &str) -> StateRecord {
    StateRecord {
        key: key.to_owned(),
        value: None,
    }
}
