//! `distinct_count` for many groups at once.
//!
//! DataFusion would make one [`Accumulator`](datafusion::logical_expr::Accumulator) a group, and an array of one row for each
//! time that it is asked: with tens of thousands of keys that was half of a step over windows. What it says is held against
//! that of the accumulator by a test.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::UInt64Type;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{Kept, each_text, hash, keep, list_each, state_of_each};

/// Keeps the smallest hashes of each group, in order.
#[derive(Debug)]
pub(super) struct HashesOfGroups {
    size: usize,
    groups: Vec<Kept>,
    /// Hashes of all groups.
    count: usize,
}

impl HashesOfGroups {
    /// Keeps so many of each group.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            groups: Vec::new(),
            count: 0,
        }
    }

    fn take(&mut self, group: usize, hash: u64) {
        let values = &mut self.groups[group];
        let before = values.len();
        keep(values, self.size, hash);
        self.count += values.len() - before;
    }

    fn emit(&mut self, emit_to: EmitTo) -> Vec<Kept> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.count -= groups.iter().map(Kept::len).sum::<usize>();
        groups
    }
}

impl GroupsAccumulator for HashesOfGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Kept::new);
        each_text(values, group_indices, opt_filter, |group, text| {
            self.take(group, hash(text));
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
        let hashes = lists.values().as_primitive::<UInt64Type>().values();
        let offsets = lists.offsets();
        for (row, group) in group_indices.iter().enumerate() {
            if lists.is_null(row) {
                continue;
            }
            let own = &hashes[offsets[row] as usize..offsets[row + 1] as usize];
            let known = &mut self.groups[*group];
            // A list comes in order and fits: states are made here.
            if known.is_empty() {
                known.extend_from_slice(own);
                self.count += own.len();
                continue;
            }
            for hash in own {
                self.take(*group, *hash);
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.emit(emit_to);
        let offsets = OffsetBuffer::from_lengths(groups.iter().map(Kept::len));
        let values = UInt64Array::from(groups.concat());
        Ok(vec![list_each(offsets, Arc::new(values))?])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emit(emit_to);
        let counts = groups.iter().map(|values| values.len() as i64);
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        state_of_each(Self::new(self.size), values, opt_filter)
    }

    fn size(&self) -> usize {
        // A set that grows by doubling holds twice its values at most.
        size_of::<Self>()
            + self.groups.capacity() * size_of::<Kept>()
            + 2 * self.count * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Accumulator;
    use proptest::prelude::*;

    use super::super::Hashes;
    use super::*;

    const GROUPS: usize = 4;

    fn batch(rows: &[(usize, Option<u8>, Option<bool>)]) -> (ArrayRef, Vec<usize>, BooleanArray) {
        let texts = rows
            .iter()
            .map(|(_, text, _)| text.map(|text| text.to_string()));
        (
            Arc::new(StringViewArray::from_iter(texts)),
            rows.iter().map(|(group, _, _)| *group).collect(),
            rows.iter().map(|(_, _, counts)| *counts).collect(),
        )
    }

    /// What one accumulator for each group keeps of the same rows.
    fn one_each(size: usize, rows: &[(usize, Option<u8>, Option<bool>)]) -> Vec<Kept> {
        (0..GROUPS)
            .map(|group| {
                let mut own = Hashes {
                    size,
                    values: Kept::new(),
                };
                let texts = rows
                    .iter()
                    .filter(|(of, _, counts)| *of == group && *counts == Some(true))
                    .map(|(_, text, _)| text.map(|text| text.to_string()));
                let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts));
                own.update_batch(&[texts]).expect("texts");
                own.values
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
            let mut merged = HashesOfGroups::new(size);
            let mut rest = &rows[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let cut = (*cuts.next().expect("a cycle")).min(rest.len());
                let (texts, groups, filter) = batch(&rest[..cut]);
                let mut part = HashesOfGroups::new(size);
                part.update_batch(&[texts], &groups, Some(&filter), GROUPS).expect("texts");
                let state = part.state(EmitTo::All).expect("a state");
                prop_assert_eq!(part.count, 0);
                let each: Vec<usize> = (0..GROUPS).collect();
                merged.merge_batch(&state, &each, GROUPS).expect("a state");
                rest = &rest[cut..];
            }
            merged.groups.resize_with(GROUPS, Kept::new);
            let due = one_each(size, &rows);
            prop_assert_eq!(&merged.groups, &due);
            prop_assert_eq!(merged.count, due.iter().map(Kept::len).sum::<usize>());
            let first = merged.evaluate(EmitTo::First(1)).expect("a count");
            let first = ScalarValue::try_from_array(&first, 0).expect("a count");
            prop_assert_eq!(first, ScalarValue::Int64(Some(due[0].len() as i64)));
            prop_assert_eq!(&merged.groups, &due[1..]);
        }
    }
}
