//! Pieces: states as records of the topic of states.
//!
//! A piece is an Arrow IPC stream of some states of one shard: pane, slot and keys, then the columns of its aggregates, each
//! named by what it is of ([`column_name`]). So whoever reads it takes the columns that it knows, wherever they stand.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::Result;

use crate::detect::take_rows;

/// Most bytes of a piece; the topic's limit is above.
pub(super) const PIECE_BYTES_MAX: usize = 480 << 10;
/// What a piece takes beside its values, about: its schema.
const HEAD_BYTES: usize = 16 << 10;

/// Name of one of the columns of an aggregate's state.
pub(super) fn column_name(label: &str, place: usize) -> String {
    format!("{label}.{place}")
}

/// States as pieces that are not too large, each a copy of just its rows: what states share with others is not stored.
/// `schema` has the stored names of their columns.
pub(super) fn encode(states: &RecordBatch, schema: &SchemaRef) -> Result<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    for rows in cut(&row_bytes(states)) {
        let rows: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
        let own = gathered(&take_rows(states, &rows)?)?;
        pieces.push(encode_stream(schema, &own)?);
    }
    Ok(pieces)
}

/// Reads a piece: its states under the names that they are stored by.
///
/// # Errors
/// When it is none.
pub(super) fn decode(value: &[u8]) -> Result<Vec<RecordBatch>> {
    let reader = StreamReader::try_new(Cursor::new(value), None)?;
    Ok(reader.collect::<std::result::Result<Vec<_>, _>>()?)
}

/// The schema under which states are stored: their own, with the columns of aggregates named by these.
pub(super) fn stored_schema(states: &SchemaRef, keys_end: usize, names: &[String]) -> SchemaRef {
    let fields = states.fields().iter().enumerate();
    let fields = fields.map(|(place, field)| {
        let field = field.as_ref().clone();
        match place.checked_sub(keys_end) {
            Some(column) => field.with_name(&names[column]),
            None => field,
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Rows that make a piece each: as many as fit, or a single one that does not.
fn cut(row_bytes: &[usize]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (row, own) in row_bytes.iter().enumerate() {
        match pieces.last_mut() {
            Some(piece) if bytes + own <= PIECE_BYTES_MAX - HEAD_BYTES => piece.end += 1,
            _ => {
                pieces.push(row..row + 1);
                bytes = 0;
            }
        }
        bytes += own;
    }
    pieces
}

/// Bytes of each row of states, as they are stored.
pub(super) fn row_bytes(states: &RecordBatch) -> Vec<usize> {
    let mut rows = vec![0; states.num_rows()];
    for column in states.columns() {
        for (row, bytes) in rows.iter_mut().enumerate() {
            *bytes += value_bytes(column, row..row + 1);
        }
    }
    rows
}

/// Bytes of some columns of states, as they are stored.
pub(super) fn batch_bytes(states: &RecordBatch, columns: Range<usize>) -> usize {
    let columns = states.columns()[columns].iter();
    columns
        .map(|column| value_bytes(column, 0..states.num_rows()))
        .sum()
}

/// Bytes of some values of a column, their offsets or views included.
fn value_bytes(column: &ArrayRef, rows: Range<usize>) -> usize {
    let count = rows.len();
    match column.data_type() {
        DataType::Utf8View => {
            let views = &column.as_string_view().views()[rows];
            let texts = views.iter().map(|view| *view as u32 as usize);
            16 * count + texts.filter(|bytes| *bytes > 12).sum::<usize>()
        }
        DataType::Utf8 => 4 * count + span(column.as_string::<i32>().value_offsets(), rows).len(),
        DataType::Binary => 4 * count + span(column.as_binary::<i32>().value_offsets(), rows).len(),
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            4 * count + value_bytes(lists.values(), span(lists.value_offsets(), rows))
        }
        kind => count * kind.primitive_width().unwrap_or(16) + count.div_ceil(8),
    }
}

fn span(offsets: &[i32], rows: Range<usize>) -> Range<usize> {
    offsets[rows.start] as usize..offsets[rows.end] as usize
}

fn encode_stream(schema: &SchemaRef, states: &RecordBatch) -> Result<Vec<u8>> {
    let states = RecordBatch::try_new(Arc::clone(schema), states.columns().to_vec())?;
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    writer.write(&states)?;
    writer.finish()?;
    Ok(writer.into_inner()?)
}

/// A copy that holds no more than its rows: texts are views into what all rows of their batch share.
pub(super) fn gathered(states: &RecordBatch) -> Result<RecordBatch> {
    let columns = states
        .columns()
        .iter()
        .map(|column| match column.as_string_view_opt() {
            Some(texts) => Arc::new(texts.gc()) as ArrayRef,
            None => Arc::clone(column),
        })
        .collect();
    Ok(RecordBatch::try_new(states.schema(), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray, StringViewArray, UInt64Array};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;

    /// States of keys, of which every tenth is `long` bytes long, each with a list of hashes and one of texts.
    fn states(rows: usize, long: usize) -> RecordBatch {
        let text = |row: usize| {
            let width = if row.is_multiple_of(10) { long } else { 1 };
            format!("{row:0width$}")
        };
        let item = |kind: DataType| Arc::new(Field::new_list_field(kind, true));
        let offsets = || OffsetBuffer::from_lengths(std::iter::repeat_n(3, rows));
        let thrice = || (0..rows).flat_map(|row| std::iter::repeat_n(row, 3));
        let hashes = UInt64Array::from_iter_values(thrice().map(|row| row as u64));
        let samples = StringArray::from(thrice().map(text).collect::<Vec<_>>());
        let hashes = ListArray::new(item(DataType::UInt64), offsets(), Arc::new(hashes), None);
        let samples = ListArray::new(item(DataType::Utf8), offsets(), Arc::new(samples), None);
        let numbers = || Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef;
        let keys = StringViewArray::from_iter_values((0..rows).map(text));
        let columns = [
            ("_pane", numbers()),
            ("_slot", numbers()),
            ("k0", Arc::new(keys) as ArrayRef),
            ("a0[count]", numbers()),
            ("a1[distinct]", Arc::new(hashes) as ArrayRef),
            ("a2[sample]", Arc::new(samples) as ArrayRef),
        ];
        let fields = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let columns = columns.into_iter().map(|(_, column)| column);
        RecordBatch::try_new(Arc::new(schema), columns.collect()).expect("states")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn pieces_fit_and_hold_every_row_once_in_order(
            rows in 1usize..20_000,
            long in 1usize..1_000,
            slice in 0usize..1_000,
        ) {
            // States are often some of those of a batch, which all its rows share.
            let all = states(rows + slice, long);
            let states = all.slice(slice, rows);
            let names: Vec<String> = ["0123456789abcdef.0", "a.0", "a.1"].map(str::to_owned).into();
            let stored = stored_schema(&states.schema(), 3, &names);
            let pieces = encode(&states, &stored).expect("pieces");
            let mut held = Vec::new();
            let mut bytes = 0;
            for piece in &pieces {
                prop_assert!(piece.len() <= PIECE_BYTES_MAX, "{} bytes", piece.len());
                bytes += piece.len();
                for batch in decode(piece).expect("states") {
                    prop_assert_eq!(batch.schema(), Arc::clone(&stored));
                    held.push(batch);
                }
            }
            let schema = states.schema();
            let plain = |batch: RecordBatch| {
                RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
            };
            let held: Result<Vec<RecordBatch>, _> = held.into_iter().map(plain).collect();
            let held = held.expect("the same columns");
            prop_assert_eq!(
                arrow::compute::concat_batches(&schema, &held).expect("states"),
                states.clone()
            );
            // As large as their rows, and no more of them than these need.
            let own: usize = row_bytes(&states).iter().sum();
            prop_assert!(bytes <= own + pieces.len() * HEAD_BYTES, "{bytes} bytes for {own}");
            let fewest = own.div_ceil(PIECE_BYTES_MAX - HEAD_BYTES);
            prop_assert!(pieces.len() <= 2 * fewest, "{} pieces for {fewest}", pieces.len());
        }
    }

    /// Whatever aggregate windows allow: its state is stored as it is, not with what it shares.
    #[test]
    fn a_single_row_of_any_state_is_small() {
        let all = states(5_000, 900);
        for row in [0, 1, 4_990] {
            let pieces = encode(&all.slice(row, 1), &all.schema()).expect("a piece");
            assert_eq!(pieces.len(), 1);
            assert!(pieces[0].len() < 8_000, "{} bytes", pieces[0].len());
        }
    }
}
