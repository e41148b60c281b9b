//! What has fired before its window was over, and under which content of its detection.
//!
//! It is stored as it is, not found again from the states: a threshold that was changed since would find something else. The
//! end of a window is told under the name that its first alert had, whatever became of the detection's text.
//!
//! | name | what it is |
//! | --- | --- |
//! | `fired/STATE.ID/START/PIECE` | the windows of a detection that start then and have fired: slot, size, keys, content |

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::HashMap;
use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::detect::window::WindowSpec;
use crate::hosts::partition_of;

/// What the names of stored pieces begin with.
const PREFIX: &str = "fired/";
/// Most bytes of a stored piece, about.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// A window of a slot.
pub(super) type SlotWindow = (WindowSpec, i64, i64);

/// A detection of the group, as its windows are stored.
#[derive(Debug, Clone)]
pub(super) struct Firing {
    /// Its place in the group.
    pub member: usize,
    pub spec: WindowSpec,
    /// What its state is: `STATE.ID`.
    pub name: String,
    /// Its content.
    pub content: Text,
}

/// A key of a window that has fired.
#[derive(Debug)]
struct Mark {
    /// The content of the detection under which it did.
    content: Text,
    /// The piece that holds it; none before it is stored.
    piece: Option<u64>,
}

/// A mark as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMark {
    slot: u32,
    content: Text,
    keys: String,
}

/// A stored piece: partition, member, start of its windows, number.
type Piece = (i32, usize, i64, u64);

/// What has fired, of a group.
#[derive(Debug, Default)]
pub(super) struct Fired {
    firing: Vec<Firing>,
    windows: HashMap<SlotWindow, HashMap<(usize, String), Mark>>,
    /// How many marks each stored piece holds.
    pieces: BTreeMap<Piece, usize>,
    /// Windows with marks that are not stored.
    fresh: BTreeSet<SlotWindow>,
    next_piece: u64,
}

impl Fired {
    /// Nothing yet, of these detections.
    pub fn new(firing: Vec<Firing>) -> Self {
        Self {
            firing,
            ..Self::default()
        }
    }

    fn firing(&self, member: usize) -> Option<&Firing> {
        self.firing.iter().find(|firing| firing.member == member)
    }

    /// Notes that a key of a window has fired, under another content than the detection's own where that is given.
    pub fn fire(
        &mut self,
        member: usize,
        (start, slot): (i64, i64),
        keys: &str,
        under: Option<&Text>,
    ) {
        let Some(firing) = self.firing(member) else {
            return;
        };
        let window = (firing.spec, start, slot);
        let mark = Mark {
            content: under.unwrap_or(&firing.content).clone(),
            piece: None,
        };
        let marks = self.windows.entry(window).or_default();
        marks.insert((member, keys.to_owned()), mark);
        self.fresh.insert(window);
    }

    /// Whether any key of a window has fired.
    pub fn any(&self, window: &SlotWindow) -> bool {
        self.windows.contains_key(window)
    }

    /// The content of the detection under which a key of a window has fired.
    pub fn under(&self, member: usize, start: i64, slot: i64, keys: &str) -> Option<&Text> {
        let window = (self.firing(member)?.spec, start, slot);
        let marks = self.windows.get(&window)?;
        let mark = marks.get(&(member, keys.to_owned()))?;
        Some(&mark.content)
    }

    /// Forgets a window that is over; returns the names of pieces that nobody needs any more, each with its partition.
    pub fn close(&mut self, window: &SlotWindow) -> Vec<(i32, String)> {
        self.fresh.remove(window);
        let marks = self.windows.remove(window).unwrap_or_default();
        let (_, start, slot) = *window;
        let mut over = Vec::new();
        for ((member, _), mark) in marks {
            let Some(number) = mark.piece else {
                continue;
            };
            let piece = (partition_of(slot), member, start, number);
            let left = self.pieces.get_mut(&piece).map(|left| {
                *left -= 1;
                *left
            });
            if left == Some(0) {
                self.pieces.remove(&piece);
                over.extend(self.name(piece).map(|name| (piece.0, name)));
            }
        }
        over
    }

    /// Forgets a slot; returns as [`Fired::close`].
    pub fn forget_slot(&mut self, slot: i64) -> Vec<(i32, String)> {
        let windows = self.windows.keys();
        let own: Vec<SlotWindow> = windows.filter(|(_, _, of)| *of == slot).copied().collect();
        own.iter().flat_map(|window| self.close(window)).collect()
    }

    /// Forgets a partition.
    pub fn forget(&mut self, partition: i32) {
        self.windows
            .retain(|(_, _, slot), _| partition_of(*slot) != partition);
        self.fresh
            .retain(|(_, _, slot)| partition_of(*slot) != partition);
        self.pieces.retain(|(of, ..), _| *of != partition);
    }

    /// Ends all of a partition's pieces, and forgets them; returns as [`Fired::close`].
    pub fn clear(&mut self, partition: i32) -> Vec<(i32, String)> {
        let own = self.pieces.keys().filter(|(of, ..)| *of == partition);
        let names = own.filter_map(|piece| self.name(*piece));
        let over = names.map(|name| (partition, name)).collect();
        self.forget(partition);
        over
    }

    /// Bytes of what is kept.
    pub fn size(&self) -> u64 {
        bytes(self.windows.values().flatten())
    }

    /// Bytes of what is kept of a partition.
    pub fn size_of(&self, partition: i32) -> u64 {
        let own = self.windows.iter();
        let own = own.filter(|((_, _, slot), _)| partition_of(*slot) == partition);
        bytes(own.flat_map(|(_, marks)| marks))
    }

    fn name(&self, (_, member, start, number): Piece) -> Option<String> {
        let name = &self.firing(member)?.name;
        Some(format!("{PREFIX}{name}/{start}/{number}"))
    }

    /// What has fired in a partition since the last call, and the pieces that are to be written anew.
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn store(
        &mut self,
        partition: i32,
        renewal: &Renewal,
    ) -> serde_json::Result<Vec<StateRecord>> {
        let mut records = self.renew(partition, renewal);
        let own = self
            .fresh
            .extract_if(.., |(_, _, slot)| partition_of(*slot) == partition);
        let own: Vec<SlotWindow> = own.collect();
        let mut fresh: BTreeMap<(usize, i64), Vec<(SlotWindow, String)>> = BTreeMap::new();
        for window in own {
            for ((member, keys), mark) in self.windows.get(&window).into_iter().flatten() {
                if mark.piece.is_none() {
                    let same = fresh.entry((*member, window.1)).or_default();
                    same.push((window, keys.clone()));
                }
            }
        }
        for ((member, start), mut marks) in fresh {
            // The same order whatever the order of a hash table is.
            marks.sort_unstable();
            let mut marks = marks.as_slice();
            while !marks.is_empty() {
                let mut bytes = 0;
                let within = |(_, keys): &&(SlotWindow, String)| {
                    bytes += keys.len() + 64;
                    bytes <= PIECE_BYTES_MAX
                };
                let count = marks.iter().take_while(within).count().max(1);
                let (piece, rest) = marks.split_at(count);
                records.extend(self.store_piece(partition, member, start, piece)?);
                marks = rest;
            }
        }
        Ok(records)
    }

    /// Stores marks as one piece.
    fn store_piece(
        &mut self,
        partition: i32,
        member: usize,
        start: i64,
        marks: &[(SlotWindow, String)],
    ) -> serde_json::Result<Option<StateRecord>> {
        let number = self.next_piece;
        self.next_piece += 1;
        let mut stored = Vec::with_capacity(marks.len());
        for (window, keys) in marks {
            let own = self.windows.get_mut(window);
            if let Some(mark) = own.and_then(|own| own.get_mut(&(member, keys.clone()))) {
                mark.piece = Some(number);
                stored.push(StoredMark {
                    slot: window.2 as u32,
                    content: mark.content.clone(),
                    keys: keys.clone(),
                });
            }
        }
        let piece = (partition, member, start, number);
        self.pieces.insert(piece, stored.len());
        let value = Some(serde_json::to_vec(&stored)?);
        let record = |key: String| StateRecord { key, value };
        Ok(self.name(piece).map(record))
    }

    /// Has the marks of pieces stored anew; these pieces are over.
    fn renew(&mut self, partition: i32, renewal: &Renewal) -> Vec<StateRecord> {
        let mut anew = BTreeSet::new();
        for firing in &self.firing {
            let prefix = format!("{PREFIX}{}/", firing.name);
            for (start, number) in renewal.below(&prefix).filter_map(parse) {
                anew.insert((partition, firing.member, start, number));
            }
        }
        anew.retain(|piece| self.pieces.contains_key(piece));
        if anew.is_empty() {
            return Vec::new();
        }
        for (window, marks) in &mut self.windows {
            for ((member, keys), mark) in marks {
                let piece = mark
                    .piece
                    .map(|number| (partition_of(window.2), *member, window.1, number));
                if piece.is_some_and(|piece| anew.contains(&piece)) {
                    renewal.spend(keys.len() + 64);
                    mark.piece = None;
                    self.fresh.insert(*window);
                }
            }
        }
        self.pieces.retain(|piece, _| !anew.contains(piece));
        let names = anew.iter().filter_map(|piece| self.name(*piece));
        names.map(|key| StateRecord { key, value: None }).collect()
    }

    /// Takes a partition's pieces back, out of its state; `open` says whether a window is. Returns as [`Fired::close`].
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(
        &mut self,
        partition: i32,
        state: &mut State,
        open: impl Fn(&SlotWindow) -> bool,
    ) -> serde_json::Result<Vec<(i32, String)>> {
        let mut over = Vec::new();
        for Firing {
            member, spec, name, ..
        } in self.firing.clone()
        {
            for (rest, value) in take_below(state, &format!("{PREFIX}{name}/")) {
                let Some((start, number)) = parse(&rest) else {
                    continue;
                };
                self.next_piece = self.next_piece.max(number + 1);
                let stored: Vec<StoredMark> = serde_json::from_slice(&value)?;
                let mut held = 0;
                for StoredMark {
                    slot,
                    content,
                    keys,
                } in stored
                {
                    let slot = (i64::from(partition) << 32) | i64::from(slot);
                    let window = (spec, start, slot);
                    if open(&window) {
                        let piece = Some(number);
                        let marks = self.windows.entry(window).or_default();
                        marks.insert((member, keys), Mark { content, piece });
                        held += 1;
                    }
                }
                if held > 0 {
                    self.pieces.insert((partition, member, start, number), held);
                } else {
                    over.push((partition, format!("{PREFIX}{name}/{rest}")));
                }
            }
        }
        Ok(over)
    }
}

/// Start and number of a piece from the end of its name.
fn parse(rest: &str) -> Option<(i64, u64)> {
    let (start, number) = rest.split_once('/')?;
    Some((start.parse().ok()?, number.parse().ok()?))
}

/// Bytes of marks.
fn bytes<'m>(marks: impl Iterator<Item = (&'m (usize, String), &'m Mark)>) -> u64 {
    let beside = size_of::<(usize, String)>() + size_of::<Mark>();
    marks
        .map(|((_, keys), _)| (keys.len() + beside) as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: WindowSpec = WindowSpec {
        size_ns: 60,
        slide_ns: 20,
    };

    fn fired(content: &str) -> Fired {
        Fired::new(vec![Firing {
            member: 3,
            spec: SPEC,
            name: "5e.scan".to_owned(),
            content: content.into(),
        }])
    }

    /// Stores what changed.
    fn store(fired: &mut Fired, state: &mut State, renewal: &Renewal) {
        for record in fired.store(0, renewal).expect("stored") {
            match record.value {
                Some(value) => drop(state.insert(record.key, value)),
                None => drop(state.remove(&record.key)),
            }
        }
    }

    #[test]
    fn what_has_fired_comes_back_under_the_content_it_fired_under() {
        let mut first = fired("old");
        let mut state = State::new();
        first.fire(3, (20, 7), "[\"a\"]", None);
        store(&mut first, &mut state, &Renewal::default());
        first.fire(3, (20, 8), "[\"b\"]", None);
        first.fire(3, (40, 7), "[\"a\"]", None);
        store(&mut first, &mut state, &Renewal::default());
        assert_eq!(state.len(), 3);
        let mut second = fired("new");
        let over = second.restore(0, &mut state.clone(), |(_, start, _)| *start == 20);
        assert_eq!(
            over.expect("restored"),
            [(0, "fired/5e.scan/40/2".to_owned())]
        );
        second.fire(3, (20, 7), "[\"c\"]", None);
        let under = |slot, keys| second.under(3, 20, slot, keys).map(|content| &**content);
        assert_eq!(under(7, "[\"a\"]"), Some("old"));
        assert_eq!(under(8, "[\"b\"]"), Some("old"));
        assert_eq!(under(7, "[\"c\"]"), Some("new"));
        assert_eq!(under(7, "[\"b\"]"), None);
        assert!(second.any(&(SPEC, 20, 7)) && !second.any(&(SPEC, 40, 7)));
    }

    #[test]
    fn pieces_are_ended_with_their_last_window_and_written_anew_when_they_are_old() {
        let mut fired = fired("x");
        let mut state = State::new();
        for slot in [1, 2] {
            fired.fire(3, (20, slot), "[]", None);
        }
        store(&mut fired, &mut state, &Renewal::default());
        let old: BTreeSet<String> = state.keys().cloned().collect();
        store(&mut fired, &mut state, &Renewal::new(old.clone(), 1));
        assert_eq!(state.len(), 1);
        assert!(state.keys().all(|name| !old.contains(name)), "{state:?}");
        assert_eq!(fired.close(&(SPEC, 20, 1)), []);
        let over = fired.close(&(SPEC, 20, 2));
        assert_eq!(
            over,
            [(0, state.keys().next().cloned().unwrap_or_default())]
        );
        assert_eq!(fired.size(), 0);
    }

    #[test]
    fn pieces_are_small() {
        let mut fired = fired("x");
        let mut state = State::new();
        for key in 0..5_000 {
            fired.fire(3, (20, 1), &format!("[\"{key:0200}\"]"), None);
        }
        store(&mut fired, &mut state, &Renewal::default());
        assert!(state.len() > 3);
        for value in state.values() {
            assert!(value.len() <= 2 * PIECE_BYTES_MAX, "{}", value.len());
        }
    }
}
