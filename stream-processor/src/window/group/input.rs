//! Rows as the operators of a group take them: pane, slot, keys, arguments, and which conditions are true.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewBuilder,
};
use arrow::buffer::BooleanBuffer;
use datafusion::common::{Result, ScalarValue};

use super::layout::InputColumn;
use super::{Group, plan_of};
use crate::detect::aggregates::TEXT_BYTES_MAX;
use crate::detect::window::floor_to;
use crate::detect::windowed::{Argument, WindowedPlan};
use crate::detect::{DetectionSet, project, take_rows};
use crate::window::Rows;

impl Group {
    /// The rows as the operators take them.
    pub(super) fn input(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
        included: &[usize],
    ) -> Result<RecordBatch> {
        let indices: Vec<u32> = included
            .iter()
            .map(|shown| rows.shown[*shown].row)
            .collect();
        let narrow = take_rows(&project(rows.batch, &self.needed)?, &indices)?;
        let moments = || included.iter().map(|shown| &rows.shown[*shown].moment);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                moments().map(|moment| floor_to(moment.time, self.pane_ns)),
            )),
            Arc::new(Int64Array::from_iter_values(
                moments().map(|moment| moment.slot),
            )),
        ];
        for column in &self.columns {
            columns.push(match column {
                InputColumn::Key(key) => {
                    let plan = plan_of(set, self.members[0].detection);
                    cut(plan.keys[*key].expr.evaluate(&narrow)?)
                }
                InputColumn::Argument(member, call, argument) => {
                    let plan = plan_of(set, self.members[*member].detection);
                    let argument = argument_of(plan, *call, *argument);
                    let expr = argument.expr().expect("only expressions have columns");
                    cut(expr.evaluate(&narrow)?)
                }
                InputColumn::Time => Arc::new(Int64Array::from_iter_values(
                    moments().map(|moment| moment.time),
                )),
                InputColumn::Condition(condition) => {
                    let condition = &self.conditions[*condition];
                    let flags = &matched[condition.predicate];
                    let own = BooleanBuffer::collect_bool(indices.len(), |row| {
                        flags[indices[row] as usize]
                    });
                    let own = BooleanArray::new(own, None);
                    match condition.filter {
                        None => Arc::new(own),
                        Some((member, call)) => {
                            let plan = plan_of(set, self.members[member].detection);
                            let filter = plan.aggregates[call].filter.as_ref();
                            let verdicts = filter_values(filter, &narrow)?;
                            Arc::new(arrow::compute::and_kleene(&own, &verdicts)?)
                        }
                    }
                }
            });
        }
        Ok(RecordBatch::try_new(
            Arc::clone(&self.input_schema),
            columns,
        )?)
    }
}

/// An argument of a call; those of its order follow the others.
fn argument_of(plan: &WindowedPlan, call: usize, argument: usize) -> &Argument {
    let call = &plan.aggregates[call];
    match call.arguments.get(argument) {
        Some(argument) => argument,
        None => &call.order_by[argument - call.arguments.len()].0,
    }
}

fn filter_values(filter: Option<&Argument>, rows: &RecordBatch) -> Result<BooleanArray> {
    match filter {
        Some(Argument::Expr { expr, .. }) => Ok(expr.evaluate(rows)?.as_boolean().clone()),
        Some(Argument::Literal(ScalarValue::Boolean(value))) => {
            Ok(std::iter::repeat_n(*value, rows.num_rows()).collect())
        }
        _ => Ok(std::iter::repeat_n(Some(true), rows.num_rows()).collect()),
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
