//! `sample` for many groups at once.
//!
//! DataFusion would make one [`Accumulator`](datafusion::logical_expr::Accumulator) a group, with a set and texts of its own, and
//! an array of one row each time that it is asked: that was a quarter of a step of the shipped detections. What it keeps is held
//! against that of the accumulator by a test.

use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::OffsetBuffer;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use smallvec::SmallVec;

use super::{each_text, list_each, state_of_each};

/// Bytes of texts that were pushed out before the others are moved together, beside as many as are kept.
const PUSHED_OUT_MIN: usize = 64 << 10;

/// Keeps the smallest texts of each group.
#[derive(Debug)]
pub(super) struct TextsOfGroups {
    size: usize,
    groups: Vec<Kept>,
    texts: Texts,
    /// Texts of all groups.
    count: usize,
}

/// Where a group's texts stand, in the order of the texts. Most keys of a pane have one or two.
type Kept = SmallVec<[Range<usize>; 2]>;

/// The texts of all groups, and between them those that were pushed out.
#[derive(Debug, Default)]
struct Texts {
    all: String,
    /// Bytes of those that are kept.
    kept: usize,
}

impl Texts {
    fn get(&self, place: &Range<usize>) -> &str {
        &self.all[place.clone()]
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.all.len();
        self.all.push_str(text);
        self.kept += text.len();
        start..self.all.len()
    }
}

impl TextsOfGroups {
    /// Keeps so many of each group.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            groups: Vec::new(),
            texts: Texts::default(),
            count: 0,
        }
    }

    fn take(&mut self, group: usize, text: &str) {
        let (own, texts) = (&mut self.groups[group], &mut self.texts);
        let full = own.len() >= self.size;
        if full && own.last().is_some_and(|last| text >= texts.get(last)) {
            return;
        }
        let Err(place) = own.binary_search_by(|known| texts.get(known).cmp(text)) else {
            return;
        };
        if full && let Some(last) = own.pop() {
            texts.kept -= last.len();
            self.count -= 1;
        }
        own.insert(place, texts.push(text));
        self.count += 1;
        if texts.all.len() > 2 * texts.kept + PUSHED_OUT_MIN {
            self.move_together();
        }
    }

    /// Forgets the texts that were pushed out.
    fn move_together(&mut self) {
        let mut moved = Texts::default();
        for place in self.groups.iter_mut().flatten() {
            *place = moved.push(self.texts.get(place));
        }
        self.texts = moved;
    }

    /// The texts of the first groups, a list for each.
    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let offsets = OffsetBuffer::from_lengths(groups.iter().map(Kept::len));
        let places: Vec<Range<usize>> = groups.into_iter().flatten().collect();
        let texts = places.iter().map(|place| self.texts.get(place));
        let values = StringArray::from_iter_values(texts);
        self.count -= values.len();
        self.texts.kept -= values.value_data().len();
        if self.groups.is_empty() {
            self.texts = Texts::default();
        }
        list_each(offsets, Arc::new(values))
    }
}

impl GroupsAccumulator for TextsOfGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Kept::new);
        each_text(values, group_indices, opt_filter, |group, text| {
            self.take(group, text);
        })
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Kept::new);
        let lists = values[0].as_list::<i32>();
        let texts = lists.values().as_string::<i32>();
        let offsets = lists.offsets();
        for (row, group) in group_indices.iter().enumerate() {
            if lists.is_null(row) {
                continue;
            }
            for place in offsets[row] as usize..offsets[row + 1] as usize {
                self.take(*group, texts.value(place));
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.emit(emit_to)?])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emit(emit_to)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        state_of_each(Self::new(self.size), values, opt_filter)
    }

    fn size(&self) -> usize {
        // A list that grows by doubling holds twice its places at most.
        size_of::<Self>()
            + self.groups.capacity() * size_of::<Kept>()
            + 2 * self.count * size_of::<Range<usize>>()
            + self.texts.all.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::StringViewArray;
    use datafusion::logical_expr::Accumulator;
    use proptest::prelude::*;

    use super::super::Texts as TextsOfOne;
    use super::*;

    const GROUPS: usize = 4;
    type Rows = [(usize, Option<u8>, Option<bool>)];

    /// Texts of all lengths, so that some stand in a view and others beside it.
    fn text(number: u8) -> String {
        format!("{number:03}{}", "x".repeat(usize::from(number) % 40))
    }

    fn column<'a>(rows: impl Iterator<Item = &'a (usize, Option<u8>, Option<bool>)>) -> ArrayRef {
        let texts = rows.map(|(_, number, _)| number.map(text));
        Arc::new(StringViewArray::from_iter(texts))
    }

    /// What one accumulator for each group keeps of the same rows.
    fn one_each(size: usize, rows: &Rows) -> Vec<Vec<String>> {
        (0..GROUPS)
            .map(|group| {
                let mut own = TextsOfOne {
                    size,
                    values: BTreeSet::new(),
                };
                let rows = rows.iter();
                let rows = rows.filter(|(of, _, counts)| *of == group && *counts == Some(true));
                own.update_batch(&[column(rows)]).expect("texts");
                own.values.iter().map(|text| text.to_string()).collect()
            })
            .collect()
    }

    fn lists(lists: &ArrayRef) -> Vec<Vec<String>> {
        let own = lists.as_list::<i32>().iter().flatten();
        own.map(|list| {
            let texts = list.as_string::<i32>().iter().flatten();
            texts.map(str::to_owned).collect()
        })
        .collect()
    }

    proptest! {
        #[test]
        fn many_groups_at_once_keep_what_each_by_itself_does(
            rows in prop::collection::vec((0..GROUPS, any::<Option<u8>>(), any::<Option<bool>>()), 0..80),
            cuts in prop::collection::vec(1usize..20, 1..10),
            size in 1usize..6,
        ) {
            let mut merged = TextsOfGroups::new(size);
            let each: Vec<usize> = (0..GROUPS).collect();
            let mut rest = &rows[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = (*cuts.next().expect("a cycle")).min(rest.len());
                let part = &rest[..cut];
                let groups: Vec<usize> = part.iter().map(|(group, _, _)| *group).collect();
                let filter: BooleanArray = part.iter().map(|(_, _, counts)| *counts).collect();
                let mut own = TextsOfGroups::new(size);
                own.update_batch(&[column(part.iter())], &groups, Some(&filter), GROUPS).expect("texts");
                own.move_together();
                let state = own.state(EmitTo::All).expect("a state");
                prop_assert_eq!((own.count, own.texts.kept), (0, 0));
                merged.merge_batch(&state, &each, GROUPS).expect("a state");
                rest = &rest[cut..];
            }
            merged.groups.resize_with(GROUPS, Kept::new);
            let due = one_each(size, &rows);
            prop_assert_eq!(merged.count, due.iter().map(Vec::len).sum::<usize>());
            let first = merged.evaluate(EmitTo::First(1)).expect("lists");
            prop_assert_eq!(&lists(&first), &due[..1]);
            let others = merged.evaluate(EmitTo::All).expect("lists");
            prop_assert_eq!(&lists(&others), &due[1..]);
        }
    }

    #[test]
    fn what_was_pushed_out_takes_no_room() {
        let mut own = TextsOfGroups::new(2);
        own.groups.resize_with(1, Kept::new);
        for number in (0..100_000).rev() {
            own.take(0, &format!("{number:06}{}", "x".repeat(100)));
        }
        assert_eq!((own.count, own.texts.kept), (2, 2 * 106));
        assert!(own.size() < 4 * PUSHED_OUT_MIN, "{}", own.size());
    }
}
