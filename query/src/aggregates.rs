//! The aggregates that windows allow, and the three that DataFusion does not have.
//!
//! An aggregate is allowed when its state is bounded, merging states is associative and commutative, and the merged result
//! is that of one pass: then panes, batches, crashes and moves cannot change an answer. Tests hold each to these laws.
//!
//! | function | says |
//! | --- | --- |
//! | `sample(value, k)` | up to `k` distinct values as a list, the smallest ones as text |
//! | `hosts_known(span)` | in a window over all hosts: how many hosts it has rows of that were heard of for longer than `span` |
//! | `distinct_count(value, cap)` | what `count(DISTINCT value)` becomes in a window: exact up to `cap`, then `cap` |

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use smallvec::SmallVec;

mod distinct;
mod hosts;
mod sample;

use distinct::HashesOfGroups;
use sample::TextsOfGroups;

pub use hosts::HOSTS_KNOWN;

/// Most values `sample` keeps.
const SAMPLE_MAX: i64 = 20;

/// Values that a distinct count tells apart at least; more where its threshold needs it.
pub const DISTINCT_CAP: i64 = 256;
/// Most values that a distinct count tells apart: 8 bytes each, in each key and pane.
pub const DISTINCT_CAP_MAX: i64 = 10_000;

/// Bytes of the state of `approx_distinct`: HyperLogLog registers.
const APPROX_DISTINCT_BYTES: u64 = 16 << 10;
/// Longest text that enters a window, bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Every function of this module.
pub fn all() -> Vec<Arc<AggregateUDF>> {
    vec![
        Arc::new(AggregateUDF::from(Keep::sample())),
        Arc::new(AggregateUDF::from(Keep::distinct_count())),
        Arc::new(AggregateUDF::from(hosts::HostsKnown::new())),
    ]
}

/// `distinct_count` by itself, for rewriting `count(DISTINCT ..)`.
pub fn distinct_count() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Keep::distinct_count()))
}

/// `sample` by itself.
pub fn sample() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(Keep::sample()))
}

/// Bytes of one key's state at most, when the aggregate is allowed in windows; else the reason and the mend.
///
/// `text`: whether its value is text. `size`: the literal second argument, where it has one.
pub fn state_bytes(
    name: &str,
    distinct: bool,
    text: bool,
    size: Option<i64>,
) -> Result<u64, (String, String)> {
    const NUMBER: u64 = 8;
    let value = if text { TEXT_BYTES_MAX as u64 } else { NUMBER };
    match (name, distinct) {
        ("count", false) => Ok(NUMBER),
        ("count", true) | ("distinct_count" | HOSTS_KNOWN, _) => {
            Ok(NUMBER * size.unwrap_or(DISTINCT_CAP).unsigned_abs())
        }
        ("sum", false) => Ok(NUMBER),
        ("bit_and" | "bit_or" | "bit_xor" | "bool_and" | "bool_or", _) => Ok(NUMBER),
        ("min" | "max", _) => Ok(value),
        ("avg", false) => Ok(2 * NUMBER),
        ("stddev" | "stddev_pop" | "var" | "var_pop", false) => Ok(3 * NUMBER),
        ("approx_distinct", _) => Ok(APPROX_DISTINCT_BYTES),
        ("first_value" | "last_value", _) => Ok(value + 3 * NUMBER),
        ("sample", _) => Ok(value * size.unwrap_or(SAMPLE_MAX).unsigned_abs()),
        (name, true) => Err((
            format!("{name}(DISTINCT ..) keeps every value it has seen"),
            "use count(DISTINCT ..), or the aggregate without DISTINCT".to_owned(),
        )),
        ("array_agg" | "string_agg", _) => Err((
            format!("{name} keeps every value it has seen"),
            "use sample(value, 5), which keeps up to 5 distinct values".to_owned(),
        )),
        ("median" | "percentile_cont" | "quantile_cont", _) => Err((
            format!("{name} keeps every value it has seen"),
            "use avg with stddev, or min and max".to_owned(),
        )),
        ("approx_percentile_cont" | "approx_percentile_cont_with_weight" | "approx_median", _) => Err((
            format!("{name} depends on the order in which states are merged, so a replay would not say the same"),
            "use avg with stddev, or min and max".to_owned(),
        )),
        (name, _) => Err((
            format!("{name} is none of the aggregates of windows"),
            "use count, sum, min, max, avg, stddev, var, bool_and, bool_or, bit_and, bit_or, bit_xor, approx_distinct, first_value, last_value, sample or hosts_known".to_owned(),
        )),
    }
}

/// Whether the state of an aggregate is what its name says, in plain columns: counts, sums, values, lists of them. The others'
/// are DataFusion's own, and another version may lay them out otherwise.
pub fn is_plain(name: &str) -> bool {
    const PLAIN: [&str; 12] = [
        "avg",
        "bit_and",
        "bit_or",
        "bit_xor",
        "bool_and",
        "bool_or",
        "count",
        "distinct_count",
        "max",
        "min",
        "sample",
        "sum",
    ];
    PLAIN.contains(&name)
}

/// An aggregate that keeps a bounded set of distinct values: always the smallest, so order does not matter.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Keep {
    what: What,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// The values themselves, as text.
    Texts,
    /// A hash of each, to count them.
    Hashes,
}

impl Keep {
    fn sample() -> Self {
        Self {
            what: What::Texts,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn distinct_count() -> Self {
        Self {
            what: What::Hashes,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn most(&self) -> i64 {
        match self.what {
            What::Texts => SAMPLE_MAX,
            What::Hashes => DISTINCT_CAP_MAX,
        }
    }

    /// How many values are kept: the literal second argument.
    fn size(&self, args: &AccumulatorArgs) -> Result<usize> {
        let size = args
            .exprs
            .get(1)
            .and_then(|expr| expr.downcast_ref::<Literal>())
            .and_then(|literal| match literal.value() {
                ScalarValue::Int64(size) => *size,
                _ => None,
            })
            .filter(|size| (1..=self.most()).contains(size));
        let Some(size) = size else {
            return exec_err!(
                "{} takes its size as a number from 1 to {}",
                self.name(),
                self.most()
            );
        };
        Ok(size as usize)
    }
}

impl AggregateUDFImpl for Keep {
    fn name(&self) -> &str {
        match self.what {
            What::Texts => "sample",
            What::Hashes => "distinct_count",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, argument_types: &[DataType]) -> Result<Vec<DataType>> {
        match argument_types {
            [value, size] if !value.is_nested() && size.is_integer() => {
                Ok(vec![DataType::Utf8View, DataType::Int64])
            }
            _ => plan_err!(
                "{} takes a value and a number from 1 to {}",
                self.name(),
                self.most()
            ),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Texts => list_of(DataType::Utf8),
            What::Hashes => DataType::Int64,
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let size = self.size(&args)?;
        Ok(match self.what {
            What::Texts => Box::new(Texts {
                size,
                values: BTreeSet::new(),
            }),
            What::Hashes => Box::new(Hashes {
                size,
                values: Kept::new(),
            }),
        })
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let size = self.size(&args)?;
        Ok(match self.what {
            What::Texts => Box::new(TextsOfGroups::new(size)),
            What::Hashes => Box::new(HashesOfGroups::new(size)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let item = match self.what {
            // Not as views: a slice of those holds all texts of its batch, wherever it is stored.
            What::Texts => DataType::Utf8,
            What::Hashes => DataType::UInt64,
        };
        Ok(vec![Arc::new(Field::new(args.name, list_of(item), true))])
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match self.what {
            What::Texts => ScalarValue::try_from(data_type),
            What::Hashes => Ok(ScalarValue::Int64(Some(0))),
        }
    }
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// Hands each text that counts on with its group.
fn each_text(
    values: &[ArrayRef],
    group_indices: &[usize],
    opt_filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, &str),
) -> Result<()> {
    let texts = cast(&values[0], &DataType::Utf8View)?;
    let texts = texts.as_string_view();
    for (row, group) in group_indices.iter().enumerate() {
        let counts = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        if counts && texts.is_valid(row) {
            take(*group, texts.value(row));
        }
    }
    Ok(())
}

/// What an accumulator that knows nothing yet keeps of each row by itself.
fn state_of_each(
    mut own: impl GroupsAccumulator,
    values: &[ArrayRef],
    opt_filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values[0].len();
    let each: Vec<usize> = (0..rows).collect();
    own.update_batch(values, &each, opt_filter, rows)?;
    own.state(EmitTo::All)
}

/// Values as a list for each group.
fn list_each(offsets: OffsetBuffer<i32>, values: ArrayRef) -> Result<ArrayRef> {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let lists = ListArray::try_new(item, offsets, values, None)?;
    Ok(Arc::new(lists))
}

/// Keeps the smallest texts.
#[derive(Debug)]
struct Texts {
    size: usize,
    values: BTreeSet<Box<str>>,
}

impl Texts {
    fn take(&mut self, text: &str) {
        let full = self.values.len() >= self.size;
        if full && self.values.last().is_some_and(|last| text >= &**last) {
            return;
        }
        if self.values.insert(text.into()) && full {
            self.values.pop_last();
        }
    }

    fn list(&self) -> ScalarValue {
        let values = StringArray::from_iter_values(self.values.iter());
        SingleRowListArrayBuilder::new(Arc::new(values)).build_list_scalar()
    }
}

impl Accumulator for Texts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let texts = cast(&values[0], &DataType::Utf8View)?;
        texts
            .as_string_view()
            .iter()
            .flatten()
            .for_each(|text| self.take(text));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in states[0].as_list::<i32>().iter().flatten() {
            let texts = list.as_string::<i32>().iter().flatten();
            texts.for_each(|text| self.take(text));
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.list()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.list())
    }

    fn size(&self) -> usize {
        let texts: usize = self
            .values
            .iter()
            .map(|text| text.len() + 2 * size_of::<usize>())
            .sum();
        size_of::<Self>() + texts
    }
}

/// Keeps the smallest hashes, in order.
#[derive(Debug)]
struct Hashes {
    size: usize,
    values: Kept,
}

/// Hashes in order. Most keys of a pane have one or two: these take no memory of their own.
type Kept = SmallVec<[u64; 2]>;

/// Takes a hash into a set of the `size` smallest, which is in order.
fn keep(values: &mut Kept, size: usize, hash: u64) {
    if values.len() >= size && values.last().is_some_and(|last| hash >= *last) {
        return;
    }
    if let Err(place) = values.binary_search(&hash) {
        values.insert(place, hash);
        values.truncate(size);
    }
}

impl Accumulator for Hashes {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let texts = cast(&values[0], &DataType::Utf8View)?;
        texts
            .as_string_view()
            .iter()
            .flatten()
            .for_each(|text| keep(&mut self.values, self.size, hash(text)));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in states[0].as_list::<i32>().iter().flatten() {
            for hash in list.as_primitive::<UInt64Type>().values() {
                keep(&mut self.values, self.size, *hash);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = arrow::array::UInt64Array::from(self.values.to_vec());
        Ok(vec![
            SingleRowListArrayBuilder::new(Arc::new(values)).build_list_scalar(),
        ])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.values.len() as i64)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.capacity() * size_of::<u64>()
    }
}

/// A hash that stays the same over versions and machines: states outlive both. Of 10,000 values two collide once in 4 * 10^11.
pub fn hash(text: &str) -> u64 {
    #[expect(
        deprecated,
        reason = "SipHash 2-4 by name; the hasher that replaces it may change"
    )]
    let mut hasher = std::hash::SipHasher::new_with_keys(0x646f_6777, 0x6174_6368);
    std::hash::Hasher::write(&mut hasher, text.as_bytes());
    std::hash::Hasher::finish(&hasher)
}
