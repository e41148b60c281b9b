//! The columns of a process and of its place, encoded once and copied into each of its events.
//!
//! ```text
//! event = run ── happening ── [process] ── lifecycle ── [place] ── object       [ ] = from the process's block
//! ```
//! A block holds as long as everything it was made from has the same version: the process, its ancestors, its session's
//! first process, and what is known of containers, users and the clock ([`Blocks::outdate`]). Nobody has to remember which
//! blocks a change concerns; the versions are compared at each use.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{Event, EventSection};

use crate::process::Id;

/// Bytes that all blocks may take: some 2,200 busy processes. Those used least lately are made anew when they are needed.
pub(super) const BYTES_MAX: usize = 3 << 20;

/// Encoded columns of a process, and what they say of the whole row.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Box<[u8]>,
    /// Where the place's columns begin.
    place: usize,
    /// The container's, as in the row.
    pub container_id: Text,
    pub escaped: bool,
    pub redacted: bool,
    pub truncated: bool,
}

impl Block {
    /// Encodes the columns of process and place of an event that was made for this.
    pub fn of(event: &Event) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        event.encode_section(EventSection::Process, &mut bytes);
        let place = bytes.len();
        event.encode_section(EventSection::Place, &mut bytes);
        Self {
            bytes: bytes.into_boxed_slice(),
            place,
            container_id: event.container_id.clone(),
            escaped: event.evt_escaped,
            redacted: event.evt_redacted,
            truncated: event.evt_truncated,
        }
    }

    /// The encoded columns of a section, where the block has them.
    pub fn section(&self, section: EventSection) -> Option<&[u8]> {
        match section {
            EventSection::Process => Some(&self.bytes[..self.place]),
            EventSection::Place => Some(&self.bytes[self.place..]),
            EventSection::Run
            | EventSection::Happening
            | EventSection::Lifecycle
            | EventSection::Object => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    made_from: Box<[u64]>,
    block: Arc<Block>,
}

impl Entry {
    fn size(&self) -> usize {
        // The map's own slot, the entry, and the counts beside the block.
        2 * size_of::<(Id, Self)>()
            + size_of::<Block>()
            + self.block.bytes.len()
            + size_of_val(&*self.made_from)
    }
}

/// All blocks, in two generations: what is used moves to the young one, and when that has half of the bytes the old one goes.
#[derive(Debug)]
pub(super) struct Blocks {
    young: HashMap<Id, Entry>,
    old: HashMap<Id, Entry>,
    young_bytes: usize,
    bytes_max: usize,
    /// Blocks that had to go for others; they are encoded again when they are needed, which costs time alone.
    pub evicted: u64,
    /// Version of what is known beside processes.
    surroundings: u64,
}

impl Blocks {
    /// No blocks, and room for `bytes_max` bytes of them.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            bytes_max,
            evicted: 0,
            surroundings: 0,
        }
    }

    /// Something beside the processes changed that blocks may tell: none holds any more.
    pub fn outdate(&mut self) {
        self.surroundings += 1;
    }

    /// The process's block, if it was made from these versions.
    pub fn find(&mut self, id: Id, versions: impl Iterator<Item = u64>) -> Option<Arc<Block>> {
        let now = std::iter::once(self.surroundings).chain(versions);
        if let Some(entry) = self.young.get(&id) {
            return entry
                .made_from
                .iter()
                .copied()
                .eq(now)
                .then(|| entry.block.clone());
        }
        let entry = self.old.remove(&id)?;
        if !entry.made_from.iter().copied().eq(now) {
            return None;
        }
        let block = entry.block.clone();
        self.put(id, entry);
        Some(block)
    }

    /// Keeps a block that was made from these versions.
    pub fn keep(
        &mut self,
        id: Id,
        versions: impl Iterator<Item = u64>,
        block: Block,
    ) -> Arc<Block> {
        let block = Arc::new(block);
        let made_from = std::iter::once(self.surroundings).chain(versions).collect();
        let entry = Entry {
            made_from,
            block: block.clone(),
        };
        self.old.remove(&id);
        self.put(id, entry);
        block
    }

    /// A process ended: its block is not needed any more.
    pub fn forget(&mut self, id: Id) {
        if let Some(entry) = self.young.remove(&id) {
            self.young_bytes -= entry.size();
        } else {
            self.old.remove(&id);
        }
    }

    fn put(&mut self, id: Id, entry: Entry) {
        let size = entry.size();
        if self.young_bytes + size > self.bytes_max / 2 {
            let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.evicted += gone.len() as u64;
            self.young_bytes = 0;
        }
        if size > self.bytes_max / 2 {
            self.evicted += 1;
            return;
        }
        self.young_bytes += size;
        if let Some(before) = self.young.insert(id, entry) {
            self.young_bytes -= before.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(pid: u32) -> Id {
        Id::new(pid, u64::from(pid) * 10_000_000)
    }

    fn block(name_bytes: usize) -> Block {
        Block::of(&Event {
            proc_name: Some("x".repeat(name_bytes).into()),
            ..Event::default()
        })
    }

    fn bytes(blocks: &Blocks) -> usize {
        blocks
            .young
            .values()
            .chain(blocks.old.values())
            .map(Entry::size)
            .sum()
    }

    #[test]
    fn a_block_holds_until_one_of_its_versions_is_another() {
        let mut blocks = Blocks::new(1 << 20);
        blocks.keep(id(1), [5, 0, 3].into_iter(), block(1));
        assert!(blocks.find(id(1), [5, 0, 3].into_iter()).is_some());
        assert!(blocks.find(id(1), [6, 0, 3].into_iter()).is_none());
        assert!(blocks.find(id(1), [5, 0].into_iter()).is_none());
        assert!(blocks.find(id(1), [5, 0, 3, 2].into_iter()).is_none());
        assert!(blocks.find(id(2), [5, 0, 3].into_iter()).is_none());
        blocks.outdate();
        assert!(blocks.find(id(1), [5, 0, 3].into_iter()).is_none());
    }

    #[test]
    fn blocks_stay_within_their_bytes_and_the_busy_one_stays() {
        let bytes_max = 64 << 10;
        let mut blocks = Blocks::new(bytes_max);
        for pid in 0..10_000 {
            // Blocks of all sizes up to more than there is room for.
            let size = (pid as usize * 37) % 900;
            let size = if pid % 1_000 == 999 { bytes_max } else { size };
            blocks.keep(id(pid), [1].into_iter(), block(size));
            assert!(bytes(&blocks) <= bytes_max, "{} bytes", bytes(&blocks));
            assert_eq!(
                blocks.young_bytes,
                blocks.young.values().map(Entry::size).sum::<usize>()
            );
            if blocks.find(id(0), [1].into_iter()).is_none() {
                assert!(pid % 1_000 == 999 || pid == 0, "the busy one went at {pid}");
                blocks.keep(id(0), [1].into_iter(), block(10));
            }
            if pid % 3 == 0 && pid > 0 {
                blocks.forget(id(pid));
            }
        }
        assert!(blocks.evicted > 5_000, "{}", blocks.evicted);
    }
}
