//! Stage two: the states of all sources, merged by window and key, and what is said of them.
//!
//! A window speaks early at the flush that makes its counts reach their numbers, and last when all sources have passed it.
//! Since each source has decided what is late, what a closed window holds does not depend on how their flushes are mixed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{HashSet, Result};
use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use super::source::{KEYS_OVER_CAP, reach};
use super::states::States;
use super::{NOT_LOADED, Operators, Span, pane_end};
use crate::detect::{DetectionSet, guarded, take_rows};
use crate::hosts::Holes;
use crate::window::Word;
use crate::window::group::{FIXED_COLUMNS, pane_starts};
use crate::window::pane::slots;

/// Class of rows whose window had closed before their source was known.
const AFTER_CLOSE: &str = "after_close";

/// The keys of a window that spoke early, and the content of the detection under which they did.
type Fired = BTreeMap<i64, BTreeMap<String, Text>>;

/// The windows of a detection.
#[derive(Debug, Default)]
pub(super) struct Merge {
    pub panes: BTreeMap<i64, States>,
    /// Panes that something came to since they were stored.
    pub changed: BTreeSet<i64>,
    /// Names of the pieces that each pane is stored in.
    pub pieces: BTreeMap<i64, BTreeSet<String>>,
    /// By end and start.
    open: BTreeSet<(i64, i64)>,
    pub rest: Rest,
}

/// What is kept beside states.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rest {
    pub fired: Fired,
    pub holes: Holes,
    /// Windows that could not be looked at early: their end tells who has reached the numbers.
    #[serde(default)]
    unsure: BTreeSet<i64>,
    /// Whether the detection is new, and nothing has come yet that is not only replayed.
    #[serde(default)]
    pub new: bool,
    /// The content of the detection.
    #[serde(default)]
    pub content: Option<Text>,
    /// Whether that is another than what has spoken up to now, and nothing has come yet that is not only replayed.
    #[serde(default)]
    pub edited: bool,
}

/// The keys and windows that a flush brings something for.
#[derive(Debug, Default)]
pub(super) struct Touched {
    starts: BTreeSet<i64>,
    keys: HashSet<Vec<u8>>,
}

/// Turns the keys of states into bytes.
#[derive(Debug)]
pub(super) struct Keys {
    converter: Option<RowConverter>,
    count: usize,
}

impl Keys {
    /// Of states of so many keys.
    pub fn new(states: &SchemaRef, count: usize) -> Result<Self> {
        let fields = states.fields()[FIXED_COLUMNS..FIXED_COLUMNS + count].iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let converter = match count {
            0 => None,
            _ => Some(RowConverter::new(fields.collect())?),
        };
        Ok(Self { converter, count })
    }

    /// The keys of all rows; empty ones where there is nothing to tell rows apart by.
    fn of(&self, states: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        let Some(converter) = &self.converter else {
            return Ok(vec![Vec::new(); states.num_rows()]);
        };
        let columns = &states.columns()[FIXED_COLUMNS..FIXED_COLUMNS + self.count];
        let rows = converter.convert_columns(columns)?;
        Ok(rows.iter().map(|row| row.as_ref().to_vec()).collect())
    }
}

impl Merge {
    /// Whether a record is for it, which was said before where it is `muted`: a detection that is new is not shown what is only
    /// replayed. What came up to then, at the latest at this time of ingest, it misses.
    pub fn hears(&mut self, muted: bool, latest: i64) -> bool {
        if muted {
            return !self.rest.new;
        }
        self.rest.edited = false;
        if std::mem::take(&mut self.rest.new) {
            let lost = [(NOT_LOADED.into(), 1)].into();
            self.rest.holes.note(i64::MIN, latest, lost);
        }
        true
    }

    /// Takes a flush's states; windows that end up to `watermark` have closed.
    pub fn take(
        &mut self,
        operators: &Operators,
        states: &RecordBatch,
        watermark: i64,
        touched: &mut Touched,
    ) -> Result<()> {
        let Operators {
            group,
            bench,
            span,
            keys,
        } = operators;
        let mut by_pane: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let places = pane_starts(states).iter().zip(slots(states));
        for (row, (pane, skipped)) in (0..).zip(places) {
            let starts = span.starts(*pane).skip(*skipped as usize);
            let open: Vec<i64> = starts
                .filter(|start| !span.closed_at(*start, watermark))
                .collect();
            if !open.is_empty() {
                by_pane.entry(*pane).or_default().push(row);
                self.changed.insert(*pane);
                let ends = open.iter().map(|start| (start + span.size_ns, *start));
                self.open.extend(ends);
                touched.starts.extend(open);
            }
        }
        let kept: usize = by_pane.values().map(Vec::len).sum();
        if kept < states.num_rows() {
            // Of a source that nobody knew of: it holds no window back that has been told.
            let count = (states.num_rows() - kept) as i64;
            let (from, to) = reach(states, *span);
            let lost = [(AFTER_CLOSE.into(), count)].into();
            self.rest.holes.note(from, to, lost);
        }
        for (pane, rows) in by_pane {
            let own = take_rows(states, &rows)?;
            if operators.fires() {
                touched.keys.extend(keys.of(&own)?);
            }
            let left_out = self
                .panes
                .entry(pane)
                .or_default()
                .push(group, bench, own, u64::MAX)?;
            if left_out > 0 {
                let lost = [(KEYS_OVER_CAP.into(), left_out as i64)].into();
                self.rest.holes.note(pane, pane_end(pane, *span), lost);
            }
        }
        Ok(())
    }

    /// The windows that have reached their numbers with what a flush brought.
    pub fn cross(
        &mut self,
        operators: &Operators,
        set: &DetectionSet,
        content: &Text,
        touched: &Touched,
    ) -> Result<Vec<Word>> {
        if !operators.fires() || touched.starts.is_empty() {
            return Ok(Vec::new());
        }
        if self.rest.edited {
            // What is replayed was said under another text: the end tells what of it counts for this one.
            self.rest.unsure.extend(&touched.starts);
            return Ok(Vec::new());
        }
        let mut states = Vec::new();
        for start in &touched.starts {
            states.extend(self.states_of(operators, *start, Some(&touched.keys))?);
        }
        let finish = || operators.group.finished(&operators.bench, set, &states);
        let words = match guarded(finish) {
            Ok(words) => words,
            Err(error) => {
                self.rest.unsure.extend(&touched.starts);
                return Err(error);
            }
        };
        let mut crossed = Vec::new();
        for word in words {
            let fired = self.rest.fired.entry(word.start).or_default();
            // What has spoken before keeps the content that it spoke under.
            if let Entry::Vacant(place) = fired.entry(word.keys.clone()) {
                place.insert(content.clone());
                crossed.push(Word {
                    closed: false,
                    ..word
                });
            }
        }
        Ok(crossed)
    }

    /// The last words of windows that end up to `watermark`; they are forgotten, also where they cannot be computed.
    pub fn close(
        &mut self,
        operators: &Operators,
        set: &DetectionSet,
        watermark: i64,
    ) -> Result<Vec<Word>> {
        let span = operators.span;
        let mut states = Vec::new();
        let mut due = Vec::new();
        while let Some((end, start)) = self.open.first().copied() {
            if !span.closed_at(start, watermark) {
                break;
            }
            self.open.remove(&(end, start));
            due.push(start);
            let spoken = self.rest.fired.contains_key(&start);
            let speaks = !operators.fires() || spoken || self.rest.unsure.contains(&start);
            if speaks {
                states.extend(self.states_of(operators, start, None)?);
            }
        }
        let words = guarded(|| operators.group.finished(&operators.bench, set, &states));
        let words = words.map(|mut words| {
            words.retain_mut(|word| {
                let fired = self.rest.fired.get(&word.start);
                word.fired_under = fired.and_then(|fired| fired.get(&word.keys)).cloned();
                let unsure = self.rest.unsure.contains(&word.start);
                !operators.fires() || unsure || word.fired_under.is_some()
            });
            words
        });
        for start in due {
            self.rest.fired.remove(&start);
            self.rest.unsure.remove(&start);
        }
        // A pane is that of the window that begins with it, its last.
        self.panes
            .retain(|pane, _| !span.closed_at(*pane, watermark));
        let oldest = span.first_open(watermark);
        self.rest.holes.forget_before(oldest);
        words
    }

    /// The states of a window, of some keys.
    fn states_of(
        &self,
        operators: &Operators,
        start: i64,
        wanted: Option<&HashSet<Vec<u8>>>,
    ) -> Result<Vec<RecordBatch>> {
        let span = operators.span;
        let mut states = Vec::new();
        for (pane, own) in self.panes.range(start..start + span.size_ns) {
            let place = span.place(*pane, start);
            for piece in own.pieces() {
                let mut mask: Vec<bool> = slots(piece)
                    .iter()
                    .map(|skipped| *skipped <= place)
                    .collect();
                if let Some(wanted) = wanted {
                    let keys = operators.keys.of(piece)?;
                    let both = mask.iter_mut().zip(keys);
                    both.for_each(|(own, key)| *own &= wanted.contains(&key));
                }
                let mask = BooleanArray::from(mask);
                if mask.true_count() > 0 {
                    states.push(operators.group.in_fleet_window(piece, start, &mask)?);
                }
            }
        }
        Ok(states)
    }

    /// Opens the windows of restored states again.
    pub fn reopen(&mut self, span: Span, watermark: i64) {
        for (pane, states) in &self.panes {
            for skipped in states.pieces().iter().flat_map(slots) {
                let starts = span.starts(*pane).skip(*skipped as usize);
                let open = starts.filter(|start| !span.closed_at(*start, watermark));
                self.open
                    .extend(open.map(|start| (start + span.size_ns, start)));
            }
        }
    }

    /// Whether windows are open.
    pub fn waits(&self) -> bool {
        !self.open.is_empty()
    }
}
