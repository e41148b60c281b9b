//! Rows as the operators of a group take them: pane, slot, keys, arguments, and which conditions are true.
//!
//! All expressions are evaluated over all rows at once. Where that fails, each is evaluated by halves over the rows of those
//! that use it: a row that an expression cannot judge does not count for the detections that need it, and counts for the others.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewBuilder,
    UInt32Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat, filter_record_batch, not, nullif, take};
use datafusion::common::Result;

use super::Group;
use super::layout::{Filter, InputColumn, Source};
use crate::detect::aggregates::TEXT_BYTES_MAX;
use crate::detect::window::floor_to;
use crate::detect::{DetectionSet, Unjudged, by_halves, error_text, guarded, project, take_rows};
use crate::window::Rows;
use crate::window::fleet::evidence;

/// Rows as the operators take them.
pub(super) struct Input {
    pub batch: RecordBatch,
    /// The row of the step's batch that each is.
    pub rows: Vec<u32>,
}

/// What the expressions say of rows.
struct Values {
    /// By source.
    sources: Vec<ArrayRef>,
    /// For each guard, which rows it lets count.
    guards: Vec<Vec<bool>>,
}

impl Group {
    /// The included rows as the operators take them, but for those that no detection can judge.
    pub(super) fn input(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        included: &[usize],
        unjudged: &mut Vec<Unjudged>,
    ) -> Result<Input> {
        let indices: Vec<u32> = included
            .iter()
            .map(|shown| rows.shown[*shown].row)
            .collect();
        let narrow = take_rows(&project(rows.batch, &self.needed)?, &indices)?;
        let guards = self.guards.iter().map(|guard| {
            let matched = &matched[guard.predicate];
            let own = indices.iter().map(|row| matched[*row as usize]);
            own.collect()
        });
        let mut values = Values {
            sources: Vec::new(),
            guards: guards.collect(),
        };
        let together = guarded(|| self.values(set, &narrow));
        let apart = together.is_err();
        match together {
            Ok(sources) => values.sources = sources,
            Err(_) => self.judge_apart(set, &narrow, &indices, &mut values, unjudged)?,
        }
        let batch = self.columns(rows, included, &narrow, &values)?;
        let input = Input {
            batch,
            rows: indices,
        };
        if apart {
            input.without_unjudged(&values.guards)
        } else {
            Ok(input)
        }
    }

    /// The values of all sources, over all rows.
    fn values(&self, set: &DetectionSet, narrow: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let sources = self.sources.iter();
        sources
            .map(|source| Ok(cut(source.expr(set, &self.members).evaluate(narrow)?)))
            .collect()
    }

    /// The values of each source by itself, of the rows that count for whoever uses it; those that it cannot judge count no more.
    fn judge_apart(
        &self,
        set: &DetectionSet,
        narrow: &RecordBatch,
        indices: &[u32],
        values: &mut Values,
        unjudged: &mut Vec<Unjudged>,
    ) -> Result<()> {
        for source in &self.sources {
            let guards = &values.guards;
            let used = |row: &u32| {
                let mut own = source.guards.iter();
                own.any(|guard| guards[*guard][*row as usize])
            };
            let wanted: Vec<u32> = (0..indices.len() as u32).filter(used).collect();
            let (own, failed) = self.by_halves(set, source, narrow, &wanted)?;
            values.sources.push(own);
            for (row, error) in failed {
                for guard in &source.guards {
                    let counts = &mut values.guards[*guard][row as usize];
                    if std::mem::replace(counts, false) {
                        let detections = self.guards[*guard].detections.iter();
                        unjudged.extend(detections.map(|detection| Unjudged {
                            detection: *detection,
                            row: indices[row as usize],
                            error: error.clone(),
                        }));
                    }
                }
            }
        }
        Ok(())
    }

    /// The values of a source for some rows, NULL for the others; and the rows that it cannot judge.
    fn by_halves(
        &self,
        set: &DetectionSet,
        source: &Source,
        narrow: &RecordBatch,
        wanted: &[u32],
    ) -> Result<(ArrayRef, Vec<(u32, String)>)> {
        if wanted.is_empty() {
            let nothing = new_null_array(&source.data_type, narrow.num_rows());
            return Ok((nothing, Vec::new()));
        }
        let mut parts: Vec<ArrayRef> = Vec::new();
        let mut failed = Vec::new();
        let expr = source.expr(set, &self.members);
        let mut judge = |part: &RecordBatch| Ok(cut(expr.evaluate(part)?));
        let own = take_rows(narrow, wanted)?;
        by_halves(&own, &mut judge, &mut |start, _, result| match result {
            Ok(values) => parts.push(values),
            Err(error) => {
                parts.push(new_null_array(&source.data_type, 1));
                failed.push((wanted[start], error_text(&error)));
            }
        });
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let values = concat(&parts)?;
        let mut places = vec![None; narrow.num_rows()];
        for (place, row) in (0..).zip(wanted) {
            places[*row as usize] = Some(place);
        }
        Ok((take(&values, &UInt32Array::from(places), None)?, failed))
    }

    /// The columns of the operators' input.
    fn columns(
        &self,
        rows: &Rows<'_>,
        included: &[usize],
        narrow: &RecordBatch,
        values: &Values,
    ) -> Result<RecordBatch> {
        let moments = || included.iter().map(|shown| &rows.shown[*shown].moment);
        let panes = moments().map(|moment| floor_to(moment.time, self.pane_ns));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(panes)),
            Arc::new(Int64Array::from_iter_values(
                moments().map(|moment| moment.slot),
            )),
        ];
        for column in &self.columns {
            columns.push(match column {
                InputColumn::Source(source) => Arc::clone(&values.sources[*source]),
                InputColumn::Time => Arc::new(Int64Array::from_iter_values(
                    moments().map(|moment| moment.time),
                )),
                InputColumn::Condition(condition) => self.condition(*condition, values)?,
                InputColumn::Host => {
                    let place = narrow.schema_ref().index_of("host_id")?;
                    Arc::clone(narrow.column(place))
                }
                InputColumn::KnownHost(seconds) => {
                    let known: BooleanArray = moments()
                        .map(|moment| Some(moment.known_s >= *seconds))
                        .collect();
                    let place = narrow.schema_ref().index_of("host_id")?;
                    nullif(narrow.column(place), &not(&known)?)?
                }
                InputColumn::Evidence => evidence::column(rows, included, narrow)?,
            });
        }
        let schema = Arc::clone(&self.input_schema);
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// For which rows a condition is true.
    fn condition(&self, condition: usize, values: &Values) -> Result<ArrayRef> {
        let condition = &self.conditions[condition];
        let counts = &values.guards[condition.guard];
        let own = BooleanBuffer::collect_bool(counts.len(), |row| counts[row]);
        let own = BooleanArray::new(own, None);
        Ok(match condition.filter {
            Filter::None => Arc::new(own),
            Filter::Literal(verdict) => {
                let verdicts = std::iter::repeat_n(verdict, counts.len());
                Arc::new(arrow::compute::and_kleene(&own, &verdicts.collect())?)
            }
            Filter::Source(source) => {
                let verdicts = values.sources[source].as_boolean();
                Arc::new(arrow::compute::and_kleene(&own, verdicts)?)
            }
        })
    }

    /// Why a row does not count under a guard whose condition is true for it, where it does not.
    pub(super) fn fault_of(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        row: u32,
        guard: usize,
    ) -> Result<Option<String>> {
        if !self.guards[guard].can_fail {
            return Ok(None);
        }
        let narrow = take_rows(&project(rows.batch, &self.needed)?, &[row])?;
        let own = self.sources.iter();
        for source in own.filter(|source| source.guards.contains(&guard)) {
            let expr = source.expr(set, &self.members);
            if let Err(error) = guarded(|| expr.evaluate(&narrow)) {
                return Ok(Some(error_text(&error)));
            }
        }
        Ok(None)
    }
}

impl Input {
    /// Without the rows that no guard lets count.
    fn without_unjudged(self, guards: &[Vec<bool>]) -> Result<Self> {
        let counts: Vec<bool> = (0..self.rows.len())
            .map(|row| guards.iter().any(|guard| guard[row]))
            .collect();
        self.only(&BooleanArray::from(counts))
    }

    /// Some of the rows.
    pub fn only(self, wanted: &BooleanArray) -> Result<Self> {
        let rows = self.rows.iter().zip(wanted.iter());
        Ok(Self {
            batch: filter_record_batch(&self.batch, wanted)?,
            rows: rows
                .filter(|(_, wanted)| *wanted == Some(true))
                .map(|(row, _)| *row)
                .collect(),
        })
    }
}

/// Cuts texts that are too long for a window.
fn cut(values: ArrayRef) -> ArrayRef {
    let Some(texts) = values.as_string_view_opt() else {
        return values;
    };
    let long = |view: &u128| *view as u32 as usize > TEXT_BYTES_MAX;
    if !texts.views().iter().any(long) {
        return values;
    }
    let mut builder = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        builder.append_option(text.map(|text| &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]));
    }
    Arc::new(builder.finish())
}
