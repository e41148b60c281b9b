//! Panes as records of the topic of states.
//!
//! A checkpoint writes what came to a pane since the one before, as one more piece; a pane with many pieces is written whole
//! and the pieces are ended. A piece is an Arrow IPC stream that says which aggregates its states are of.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::{HashMap, HashSet, Result};
use sha2::{Digest, Sha256};

use super::group::{Group, pane_starts};
use super::pane::slots;
use super::plans::Workbench;
use crate::checkpoint::StateRecord;
use crate::detect::windowed::WindowedPlan;
use crate::detect::{DetectionSet, hex, take_rows};
use crate::hosts::partition_of;

/// What the names of panes' pieces begin with.
pub(super) const PREFIX: &str = "pane/";
/// Most bytes of a piece; the topic's limit is above.
const PIECE_BYTES_MAX: usize = 480 << 10;
/// What a piece takes beside its values, about: its schema and the names of its aggregates.
const HEAD_BYTES: usize = 16 << 10;
/// Pieces of a pane before it is written whole again.
const PIECES_MAX: usize = 16;
/// Key of a piece's schema under which its aggregates stand.
const LABELS: &str = "dogwatch.labels";
/// Key of a piece's schema under which stands how many rows were not counted.
const OVERFLOW: &str = "dogwatch.overflow";
/// States are DataFusion's own: another version may lay them out otherwise.
const STATES_OF: &str = datafusion::DATAFUSION_VERSION;

/// Name of a piece.
pub(super) fn key(group: &str, start: i64, piece: u64) -> String {
    format!("{PREFIX}{group}/{start}/{piece}")
}

/// Name of the states of a group, by one of its detections: what they are grouped by, when they speak, how time is cut.
pub(super) fn group_hash(plan: &WindowedPlan, pane_ns: i64) -> String {
    let mut hash = Sha256::new();
    for key in &plan.keys {
        hash.update(key.text.as_bytes());
        hash.update([0]);
    }
    let (early, delay_ns) = (plan.fires_early(), plan.delay_ns);
    hash.update(format!("{early} {pane_ns} {delay_ns} {STATES_OF}"));
    hex(&hash.finalize()[..8])
}

impl Group {
    /// What changed in a partition since the last call, or all of it.
    pub fn store(
        &mut self,
        bench: &Workbench,
        partition: i32,
        full: bool,
    ) -> Result<Vec<StateRecord>> {
        let mut records = Vec::new();
        let (over, others) = std::mem::take(&mut self.over)
            .into_iter()
            .partition(|(of, _)| *of == partition);
        self.over = others;
        records.extend(
            over.into_iter()
                .map(|(_, key)| StateRecord { key, value: None }),
        );
        records.extend(self.off.store(&self.hash, partition, full));
        let own = (partition, i64::MIN)..=(partition, i64::MAX);
        for ((_, start), pane) in self.panes.range_mut(own) {
            let whole = full || pane.whole || pane.stored.len() >= PIECES_MAX;
            pane.whole = false;
            let states = pane.store(&self.phases, bench, whole);
            if whole {
                let ended = std::mem::take(&mut pane.stored);
                records.extend(ended.iter().map(|piece| StateRecord {
                    key: key(&self.hash, *start, *piece),
                    value: None,
                }));
            }
            for state in states {
                for value in encode(&state, &self.labels, pane.overflow)? {
                    let piece = self.next_piece;
                    self.next_piece += 1;
                    pane.stored.insert(piece);
                    records.push(StateRecord {
                        key: key(&self.hash, *start, piece),
                        value: Some(value),
                    });
                }
            }
        }
        Ok(records)
    }

    /// Takes a partition's pieces back; `slots` holds each slot's time and what silence has closed.
    /// Returns how many pieces were this group's.
    pub fn restore(
        &mut self,
        bench: &Workbench,
        set: &DetectionSet,
        partition: i32,
        state: &BTreeMap<String, Vec<u8>>,
        live: &HashMap<i64, (i64, i64)>,
    ) -> Result<usize> {
        let prefix = format!("{PREFIX}{}/", self.hash);
        let mut taken = 0;
        let own = state
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix));
        for (key, value) in own {
            let Some((start, piece)) = parse(&key[prefix.len()..]) else {
                continue;
            };
            self.next_piece = self.next_piece.max(piece + 1);
            let Some((states, overflow)) = self.decode(value)? else {
                self.over.push((partition, key.clone()));
                continue;
            };
            taken += 1;
            for states in states {
                self.take_back(bench, partition, start, states, overflow, live)?;
            }
            match self.panes.get_mut(&(partition, start)) {
                Some(pane) => {
                    pane.keep(&self.phases, bench);
                    pane.stored.insert(piece);
                }
                None => self.over.push((partition, key.clone())),
            }
        }
        self.off.restore(&self.hash, partition, state);
        self.recall(bench, set, partition)?;
        Ok(taken)
    }

    /// Reads a piece; none when it is of other aggregates.
    fn decode(&self, value: &[u8]) -> Result<Option<(Vec<RecordBatch>, u64)>> {
        let reader = StreamReader::try_new(Cursor::new(value), None)?;
        let stored = reader.schema();
        let labels: Vec<String> = stored
            .metadata()
            .get(LABELS)
            .and_then(|labels| serde_json::from_str(labels).ok())
            .unwrap_or_default();
        if labels != self.labels {
            return Ok(None);
        }
        let overflow = stored
            .metadata()
            .get(OVERFLOW)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
        let schema = self.phases.state_schema();
        let mut batches = Vec::new();
        for batch in reader {
            let batch = batch?;
            batches.push(RecordBatch::try_new(
                Arc::clone(&schema),
                batch.columns().to_vec(),
            )?);
        }
        Ok(Some((batches, overflow)))
    }

    /// Puts states back into their pane and opens the windows that their slots have not closed.
    fn take_back(
        &mut self,
        bench: &Workbench,
        partition: i32,
        start: i64,
        states: RecordBatch,
        overflow: u64,
        live: &HashMap<i64, (i64, i64)>,
    ) -> Result<()> {
        debug_assert!(pane_starts(&states).iter().all(|own| *own == start));
        let distinct: HashSet<i64> = slots(&states).iter().copied().collect();
        let mut waiting = HashSet::new();
        for slot in distinct {
            let Some((high, flush_high)) = live.get(&slot) else {
                continue;
            };
            let open = self.still_open(start, *high, *flush_high);
            if !open.is_empty() {
                self.open.entry(slot).or_default().extend(open);
                waiting.insert(slot);
            }
        }
        let id = (partition, start);
        let known = self.panes.contains_key(&id);
        if waiting.is_empty() && !known {
            return Ok(());
        }
        let counted = self.early.take_in(states)?;
        self.push(bench, &counted, u32::MAX)?;
        if let Some(pane) = self.panes.get_mut(&id) {
            pane.slots.extend(waiting);
            pane.overflow = overflow;
        }
        Ok(())
    }

    /// What had fired before the checkpoint: the windows whose thresholds are reached.
    fn recall(&mut self, bench: &Workbench, set: &DetectionSet, partition: i32) -> Result<()> {
        if self.early.is_idle() {
            return Ok(());
        }
        let mut windows: BTreeMap<(super::WindowSpec, i64), HashSet<i64>> = BTreeMap::new();
        for (slot, open) in &self.open {
            if partition_of(*slot) == partition {
                for (_, start, spec) in open {
                    windows.entry((*spec, *start)).or_default().insert(*slot);
                }
            }
        }
        for ((spec, start), slots) in windows {
            let wanted = |slot| slots.contains(&slot);
            for (member, word) in self.words_of(bench, set, spec, (partition, start), wanted)? {
                self.early.fire(member, &word);
            }
        }
        Ok(())
    }
}

/// States as pieces that are not too large, each a copy of just its rows: what states share with others is not stored.
fn encode(states: &RecordBatch, labels: &[String], overflow: u64) -> Result<Vec<Vec<u8>>> {
    // What the states are of; names of detections are not in it.
    let labels = serde_json::to_string(labels).unwrap_or_default();
    let metadata = std::collections::HashMap::from([
        (LABELS.to_owned(), labels),
        (OVERFLOW.to_owned(), overflow.to_string()),
    ]);
    let schema = states.schema().as_ref().clone().with_metadata(metadata);
    let schema = Arc::new(schema);
    let mut pieces = Vec::new();
    for rows in cut(&row_bytes(states)) {
        let rows: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
        let own = gathered(&take_rows(states, &rows)?)?;
        pieces.push(encode_stream(&schema, &own)?);
    }
    Ok(pieces)
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
fn row_bytes(states: &RecordBatch) -> Vec<usize> {
    let mut rows = vec![0; states.num_rows()];
    for column in states.columns() {
        for (row, bytes) in rows.iter_mut().enumerate() {
            *bytes += value_bytes(column, row..row + 1);
        }
    }
    rows
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
fn gathered(states: &RecordBatch) -> Result<RecordBatch> {
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

/// Start and number of a piece from the end of its name.
fn parse(rest: &str) -> Option<(i64, u64)> {
    let (start, piece) = rest.split_once('/')?;
    Some((start.parse().ok()?, piece.parse().ok()?))
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
            let labels = vec!["0123456789abcdef".to_owned(); 40];
            let pieces = encode(&states, &labels, 7).expect("pieces");
            let mut held = Vec::new();
            let mut bytes = 0;
            for piece in &pieces {
                prop_assert!(piece.len() <= PIECE_BYTES_MAX, "{} bytes", piece.len());
                bytes += piece.len();
                let reader = StreamReader::try_new(Cursor::new(piece), None).expect("a stream");
                let stored = reader.schema();
                prop_assert_eq!(&stored.metadata()[OVERFLOW], "7");
                held.extend(reader.map(|batch| batch.expect("states")));
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
            let pieces = encode(&all.slice(row, 1), &[], 0).expect("a piece");
            assert_eq!(pieces.len(), 1);
            assert!(pieces[0].len() < 8_000, "{} bytes", pieces[0].len());
        }
    }
}
