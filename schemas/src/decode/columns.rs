//! Columns under construction: they grow by a value a row and can be cut back to any earlier row.

use super::plan::{Constant, Read, Skip, Step};
use super::reader::{Kind, Type};
use crate::wire::{Input, WireError};
use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Int64Array, ListArray, MapArray,
    NullBufferBuilder, StringArray, StringViewArray, StructArray, TimestampNanosecondArray,
    make_view,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use std::mem;
use std::sync::Arc;

/// Longest text that a view holds itself; longer ones lie in the batch's buffer.
const INLINE_LEN_MAX: usize = 12;

/// Why a value was not appended.
pub(super) enum Failure {
    Wire(WireError),
    /// The batch has reached a limit of Arrow's 32-bit offsets.
    Full,
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// The texts of a batch that are longer than a view holds itself, one after the other; each is copied once.
pub(super) struct Texts {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Default for Texts {
    fn default() -> Self {
        // Arrow's views have signed 32-bit offsets in its specification.
        Self {
            bytes: Vec::new(),
            bytes_max: i32::MAX as usize,
        }
    }
}

impl Texts {
    /// Takes a lower limit than Arrow's, to be met in a test.
    #[cfg(test)]
    pub fn with_bytes_max(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub fn take(&mut self) -> Vec<u8> {
        take_vec(&mut self.bytes)
    }

    /// Returns the view of a text, which must be UTF-8.
    #[inline]
    fn view(&mut self, text: &[u8]) -> Result<u128, Failure> {
        if text.len() <= INLINE_LEN_MAX {
            return Ok(make_view(text, 0, 0));
        }
        let offset = self.bytes.len();
        if offset + text.len() > self.bytes_max {
            return Err(Failure::Full);
        }
        self.bytes.extend_from_slice(text);
        Ok(make_view(text, 0, offset as u32))
    }
}

/// A column under construction.
pub(super) struct Column {
    /// None where the column takes no nulls. It may end before the values do: the rows past its end hold a value.
    nulls: Option<NullBufferBuilder>,
    values: Values,
}

enum Values {
    Text(Vec<u128>),
    Long(Vec<i64>),
    Boolean(BooleanBufferBuilder),
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Keys,
        values: Box<Column>,
    },
    Record(Vec<Column>),
}

/// The keys of a column of maps.
struct Keys {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Column {
    pub fn new(of: &Type) -> Self {
        let values = match &of.kind {
            Kind::Text => Values::Text(Vec::new()),
            Kind::Long | Kind::Timestamp => Values::Long(Vec::new()),
            Kind::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            Kind::List(item) => Values::List {
                offsets: vec![0],
                items: Box::new(Self::new(item)),
            },
            Kind::Map(value) => Values::Map {
                offsets: vec![0],
                keys: Keys {
                    offsets: vec![0],
                    bytes: Vec::new(),
                },
                values: Box::new(Self::new(value)),
            },
            Kind::Record(record) => Values::Record(record.columns()),
        };
        Self {
            nulls: of.nullable.then(|| NullBufferBuilder::new(0)),
            values,
        }
    }

    /// Cuts the column back to its first rows.
    pub fn truncate(&mut self, rows: usize) {
        if let Some(nulls) = &mut self.nulls {
            nulls.truncate(rows);
        }
        match &mut self.values {
            Values::Text(views) => views.truncate(rows),
            Values::Long(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::List { offsets, items } => items.truncate(cut(offsets, rows)),
            Values::Map {
                offsets,
                keys,
                values,
            } => {
                let entries = cut(offsets, rows);
                let bytes = cut(&mut keys.offsets, entries);
                keys.bytes.truncate(bytes);
                values.truncate(entries);
            }
            Values::Record(columns) => columns.iter_mut().for_each(|column| column.truncate(rows)),
        }
    }

    /// Appends the value at the front of the input as this row; rows that were left out are null.
    #[inline]
    pub fn read_row(
        &mut self,
        row: usize,
        read: &Read,
        input: &mut Input<'_>,
        texts: &mut Texts,
    ) -> Result<(), Failure> {
        if self.nulls.is_some() && self.len() < row {
            self.fill_up(row);
        }
        self.read(read, input, texts)
    }

    /// Makes the rows that were left out null, up to this many rows.
    pub fn fill_up(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing > 0 {
            self.append_nulls(missing);
        }
    }

    fn len(&self) -> usize {
        match &self.values {
            Values::Text(views) => views.len(),
            Values::Long(values) => values.len(),
            Values::Boolean(values) => values.len(),
            Values::List { offsets, .. } | Values::Map { offsets, .. } => offsets.len() - 1,
            // A record without fields has no column; its children are as long as it.
            Values::Record(columns) => columns.first().map_or(0, Self::len),
        }
    }

    /// Appends the value at the front of the input.
    fn read(
        &mut self,
        read: &Read,
        input: &mut Input<'_>,
        texts: &mut Texts,
    ) -> Result<(), Failure> {
        match (read, &mut self.values) {
            (Read::Optional(some), _) => {
                if input.optional()? {
                    return self.read(some, input, texts);
                }
                self.append_nulls(1);
                return Ok(());
            }
            (Read::Union(branches), _) => {
                let branch = input.long()?;
                let read = usize::try_from(branch)
                    .ok()
                    .and_then(|index| branches.get(index)?.as_ref());
                return self.read(read.ok_or(WireError::Branch(branch))?, input, texts);
            }
            (Read::Null, _) => {
                self.append_nulls(1);
                return Ok(());
            }
            (Read::Text, Values::Text(views)) => views.push(texts.view(utf8(input)?)?),
            (Read::Long, Values::Long(values)) => values.push(input.long()?),
            (Read::Boolean, Values::Boolean(values)) => values.append(input.boolean()?),
            (Read::List(item), Values::List { offsets, items }) => {
                let count = read_items(input, |input| items.read(item, input, texts))?;
                push_offset(offsets, count)?;
            }
            (
                Read::Map(value),
                Values::Map {
                    offsets,
                    keys,
                    values,
                },
            ) => {
                let count = read_items(input, |input| {
                    keys.push(utf8(input)?)?;
                    values.read(value, input, texts)
                })?;
                push_offset(offsets, count)?;
            }
            (Read::Record(steps), Values::Record(columns)) => {
                for step in steps {
                    apply(step, columns, input, texts)?;
                }
            }
            _ => unreachable!("plans are compiled for the columns they fill"),
        }
        Ok(())
    }

    /// Appends a default.
    pub fn fill(&mut self, constant: &Constant, texts: &mut Texts) -> Result<(), Failure> {
        match (constant, &mut self.values) {
            (Constant::Null, _) => {
                self.append_nulls(1);
                return Ok(());
            }
            (Constant::Text(text), Values::Text(views)) => views.push(texts.view(text.as_bytes())?),
            (Constant::Long(value), Values::Long(values)) => values.push(*value),
            (Constant::Boolean(value), Values::Boolean(values)) => values.append(*value),
            (Constant::Empty, Values::List { .. } | Values::Map { .. }) => self.append_empty(1),
            _ => unreachable!("defaults are checked against their type when the schema is read"),
        }
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        self.note_values();
        self.append_empty(count);
        if let Some(nulls) = &mut self.nulls {
            nulls.append_n_nulls(count);
        }
    }

    /// Notes that the rows since the last null hold a value.
    fn note_values(&mut self) {
        let rows = self.len();
        if let Some(nulls) = &mut self.nulls {
            nulls.append_n_non_nulls(rows - nulls.len());
        }
    }

    /// Appends the value that stands below a null so many times, without saying whether it is one.
    fn append_empty(&mut self, count: usize) {
        match &mut self.values {
            Values::Text(views) => views.resize(views.len() + count, 0),
            Values::Long(values) => values.resize(values.len() + count, 0),
            Values::Boolean(values) => values.append_n(count, false),
            Values::List { offsets, .. } | Values::Map { offsets, .. } => {
                offsets.resize(offsets.len() + count, last(offsets));
            }
            // A child that takes no nulls gets empty values, which the parent's nulls cover.
            Values::Record(columns) => columns
                .iter_mut()
                .for_each(|column| column.append_nulls(count)),
        }
    }

    /// Returns the rows as an array and starts anew.
    pub fn finish(&mut self, data_type: &DataType, texts: &Buffer) -> ArrayRef {
        self.note_values();
        let nulls = self.nulls.as_mut().and_then(NullBufferBuilder::finish);
        match (&mut self.values, data_type) {
            (Values::Text(views), _) => Arc::new(text_array(take_vec(views), texts, nulls)),
            (Values::Long(values), DataType::Timestamp(..)) => Arc::new(
                TimestampNanosecondArray::new(take_vec(values).into(), nulls)
                    .with_timezone("+00:00"),
            ),
            (Values::Long(values), _) => Arc::new(Int64Array::new(take_vec(values).into(), nulls)),
            (Values::Boolean(values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::List { offsets, items }, DataType::List(item)) => {
                let items = items.finish(item.data_type(), texts);
                Arc::new(ListArray::new(
                    item.clone(),
                    take_offsets(offsets),
                    items,
                    nulls,
                ))
            }
            (
                Values::Map {
                    offsets,
                    keys,
                    values,
                },
                DataType::Map(entry, ordered),
            ) => {
                let DataType::Struct(fields) = entry.data_type() else {
                    unreachable!("a map's entries are a struct")
                };
                let values = values.finish(fields[1].data_type(), texts);
                let entries =
                    StructArray::new(fields.clone(), vec![Arc::new(keys.finish()), values], None);
                Arc::new(MapArray::new(
                    entry.clone(),
                    take_offsets(offsets),
                    entries,
                    nulls,
                    *ordered,
                ))
            }
            (Values::Record(columns), DataType::Struct(fields)) => {
                let children = columns
                    .iter_mut()
                    .zip(fields)
                    .map(|(column, field)| column.finish(field.data_type(), texts));
                Arc::new(StructArray::new(fields.clone(), children.collect(), nulls))
            }
            _ => unreachable!("columns and Arrow types come from the same schema"),
        }
    }
}

impl Keys {
    fn push(&mut self, key: &[u8]) -> Result<(), Failure> {
        self.bytes.extend_from_slice(key);
        let end = i32::try_from(self.bytes.len()).map_err(|_| Failure::Full)?;
        self.offsets.push(end);
        Ok(())
    }

    fn finish(&mut self) -> StringArray {
        let bytes = Buffer::from_vec(mem::take(&mut self.bytes));
        // SAFETY: every key was checked to be UTF-8 before it was appended, and the offsets are the keys' ends.
        unsafe { StringArray::new_unchecked(take_offsets(&mut self.offsets), bytes, None) }
    }
}

/// Takes the values out. The next batch is most likely as large: it need not grow by copying.
fn take_vec<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len());
    mem::replace(values, next)
}

/// Does with one field of a nested record what the plan says.
fn apply(
    step: &Step,
    columns: &mut [Column],
    input: &mut Input<'_>,
    texts: &mut Texts,
) -> Result<(), Failure> {
    match step {
        Step::Read(column, read) => columns[*column].read(read, input, texts),
        Step::Skip(skip) => Ok(pass(skip, input)?),
        Step::Fill(column, constant) => columns[*column].fill(constant, texts),
    }
}

/// Passes over a value.
pub(super) fn pass(skip: &Skip, input: &mut Input<'_>) -> Result<(), WireError> {
    match skip {
        Skip::Nothing => {}
        Skip::Varint => {
            input.pass_long()?;
        }
        Skip::Boolean => {
            input.boolean()?;
        }
        Skip::Fixed(size) => {
            input.take(*size)?;
        }
        Skip::Bytes => {
            input.bytes()?;
        }
        Skip::Array(item) => {
            read_items(input, |input| pass(item, input))?;
        }
        Skip::Map(value) => {
            read_items(input, |input| {
                input.bytes()?;
                pass(value, input)
            })?;
        }
        Skip::Record(fields) => {
            for field in fields {
                pass(field, input)?;
            }
        }
        Skip::Optional(some) => {
            if input.optional()? {
                pass(some, input)?;
            }
        }
        Skip::Union(branches) => {
            let branch = input.long()?;
            let skip = usize::try_from(branch)
                .ok()
                .and_then(|index| branches.get(index));
            pass(skip.ok_or(WireError::Branch(branch))?, input)?;
        }
    }
    Ok(())
}

/// Runs over the items of an array or a map, block by block, and returns how many there were.
fn read_items<'a, E: From<WireError>>(
    input: &mut Input<'a>,
    mut item: impl FnMut(&mut Input<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    let mut items = 0;
    loop {
        let count = input.block()?;
        if count == 0 {
            return Ok(items);
        }
        for _ in 0..count {
            item(input)?;
        }
        items += count;
    }
}

/// Reads a text and checks that it is UTF-8.
#[inline]
fn utf8<'a>(input: &mut Input<'a>) -> Result<&'a [u8], WireError> {
    let bytes = input.bytes()?;
    if bytes.is_ascii() || simdutf8::basic::from_utf8(bytes).is_ok() {
        Ok(bytes)
    } else {
        Err(WireError::NotUtf8)
    }
}

fn text_array(views: Vec<u128>, texts: &Buffer, nulls: Option<NullBuffer>) -> StringViewArray {
    // A column without long texts does not hold on to those of the others.
    let long = views
        .iter()
        .any(|&view| view as u32 as usize > INLINE_LEN_MAX);
    let buffers = if long {
        vec![texts.clone()]
    } else {
        Vec::new()
    };
    // SAFETY: `Texts::view` made each view of checked UTF-8, inline or within this buffer, which only ever grew since
    // (cutting back takes the views of what is cut away too); the views of nulls are 0, the empty text.
    unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), buffers, nulls) }
}

fn last(offsets: &[i32]) -> i32 {
    *offsets
        .last()
        .expect("offsets start with a 0 that is never cut away")
}

fn push_offset(offsets: &mut Vec<i32>, count: usize) -> Result<(), Failure> {
    let count = i32::try_from(count).map_err(|_| Failure::Full)?;
    offsets.push(last(offsets).checked_add(count).ok_or(Failure::Full)?);
    Ok(())
}

/// Cuts offsets back to those of the first rows and returns where the last one ends.
fn cut(offsets: &mut Vec<i32>, rows: usize) -> usize {
    offsets.truncate(rows + 1);
    last(offsets) as usize
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(mem::replace(offsets, vec![0]).into())
}
