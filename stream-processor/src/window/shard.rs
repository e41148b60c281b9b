//! Shards: the states of a pane, cut by a hash of their keys.
//!
//! What is stored of a pane is cut so that each shard can be written anew by itself: no checkpoint has to write a large pane
//! at once. A pane begins as one shard; one that grows is written as two, four or more, whose hashes begin with further bits.

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::Result;

use super::pane::SLOT_COLUMN;

/// Most bits of a hash that tell shards apart.
const BITS_MAX: u32 = 24;

/// The keys whose hashes begin with these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardId {
    bits: u32,
    prefix: u64,
}

impl ShardId {
    /// All keys.
    pub const ALL: Self = Self { bits: 0, prefix: 0 };

    /// The shard of a hash, where hashes are told apart by so many bits.
    pub fn of(hash: u64, bits: u32) -> Self {
        let prefix = hash.checked_shr(u64::BITS - bits).unwrap_or(0);
        Self { bits, prefix }
    }

    /// By how many bits it is told apart.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// By how many bits its keys are to be told apart when they take so many bytes, and a shard may take `bytes_max`.
    pub fn bits_for(self, bytes: usize, bytes_max: usize) -> u32 {
        let shards = bytes.div_ceil(bytes_max).max(1).next_power_of_two();
        (self.bits + shards.ilog2()).min(BITS_MAX)
    }

    /// Reads its name.
    pub fn named(name: &str) -> Option<Self> {
        let (bits, prefix) = name.split_once('-')?;
        let (bits, prefix) = (bits.parse().ok()?, u64::from_str_radix(prefix, 16).ok()?);
        (bits <= BITS_MAX && prefix >> bits == 0).then_some(Self { bits, prefix })
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{:x}", self.bits, self.prefix)
    }
}

/// A hash of slot and keys of each row, of the columns from the slot's up to `end`. It stays the same over versions and
/// machines, since what is stored is cut by it.
pub(super) fn key_hashes(states: &RecordBatch, end: usize) -> Result<Vec<u64>> {
    let mut texts = vec![Vec::new(); states.num_rows()];
    for column in &states.columns()[SLOT_COLUMN..end] {
        append(column, &mut texts)?;
    }
    Ok(texts.iter().map(|text| hash(text)).collect())
}

/// Appends each row's value to its text: how long it is, then its bytes.
fn append(column: &ArrayRef, texts: &mut [Vec<u8>]) -> Result<()> {
    let mut push = |row: usize, value: &[u8]| {
        let text = &mut texts[row];
        if column.is_null(row) {
            text.extend(u32::MAX.to_le_bytes());
        } else {
            text.extend((value.len() as u32).to_le_bytes());
            text.extend(value);
        }
    };
    match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            (0..values.len()).for_each(|row| push(row, &[u8::from(values.value(row))]));
        }
        kind if kind.primitive_width().is_some() => {
            let width = kind.primitive_width().unwrap_or(8);
            let data = column.to_data();
            let values = &data.buffers()[0].as_slice()[data.offset() * width..];
            let values = values.chunks_exact(width).take(column.len());
            values.enumerate().for_each(|(row, value)| push(row, value));
        }
        _ => {
            let values = cast(column, &DataType::Utf8View)?;
            let values = values.as_string_view();
            (0..values.len()).for_each(|row| push(row, values.value(row).as_bytes()));
        }
    }
    Ok(())
}

fn hash(text: &[u8]) -> u64 {
    #[expect(
        deprecated,
        reason = "SipHash 2-4 by name; the hasher that replaces it may change"
    )]
    let mut hasher = std::hash::SipHasher::new_with_keys(0x646f_6777, 0x6174_6368);
    std::hash::Hasher::write(&mut hasher, text);
    std::hash::Hasher::finish(&hasher)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let hash = 0xfedc_ba98_7654_3210;
        for bits in [0, 1, 7, BITS_MAX] {
            let id = ShardId::of(hash, bits);
            assert_eq!(ShardId::named(&id.to_string()), Some(id));
        }
        assert_eq!(ShardId::of(hash, 0), ShardId::ALL);
        for name in ["", "1", "1-2", "25-0", "-1-0", "1-g"] {
            assert_eq!(ShardId::named(name), None, "{name}");
        }
    }

    #[test]
    fn as_many_bits_as_the_bytes_need() {
        let bits = |bytes| ShardId::of(0, 3).bits_for(bytes, 1_000);
        assert_eq!(
            [0, 1_000, 1_001, 2_001, 1 << 60].map(bits),
            [3, 3, 4, 5, BITS_MAX]
        );
    }

    /// What is stored by an older version is cut in the same way by this one.
    #[test]
    fn hashes_are_these_for_ever() {
        let columns: [(&str, ArrayRef); 4] = [
            ("_pane", Arc::new(Int64Array::from(vec![9, 9, 8]))),
            ("_slot", Arc::new(Int64Array::from(vec![1, 1, 1]))),
            (
                "k0",
                Arc::new(StringViewArray::from(vec![Some("sh"), None, Some("sh")])),
            ),
            ("k1", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        let states = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
        let states = states.expect("states");
        let hashes = key_hashes(&states, 4).expect("hashes");
        assert_eq!(hashes[0], hashes[2], "a pane's start is no part of a key");
        assert_eq!(
            hashes[..2],
            [12_482_124_565_244_557_706, 16_818_349_584_738_260_206]
        );
        // A slice of them hashes alike.
        let slice = states.slice(1, 2);
        assert_eq!(key_hashes(&slice, 4).expect("hashes"), hashes[1..]);
    }
}
