//! Constants that cannot be computed, and functions that fail with the constants they are given.
//!
//! The former is certain. The latter is tried, on values of many kinds: where a function fails on each of them, its
//! constants are most likely wrong, such as `date_trunc('mnute', ts)`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use super::Subject;
use super::parts::{is_constant, text};
use super::text::{line_of, sql};
use super::values::each_expr;
use crate::detect::filter::{BoundExpr, can_fail};
use crate::detect::sql_file::Fault;
use crate::detect::{error_text, guarded};

/// What functions are tried on: texts of many kinds.
const TEXTS: [&str; 10] = [
    "",
    "1",
    "x",
    "/etc/passwd",
    "10.0.0.1",
    "2025-06-15T16:00:00Z",
    "2025-06-15",
    "true",
    "{}",
    "YWJj",
];
const NUMBERS: [i64; 5] = [1, 0, 2, 443, 1_750_000_000_000_000_000];

/// Refuses constants that cannot be computed.
pub(super) fn check(subject: &Subject<'_>) -> std::result::Result<(), Fault> {
    let empty = DFSchema::empty();
    let mut refused = None;
    each_outermost(subject.plan, &is_constant, &mut |expr, _| {
        if refused.is_some() || matches!(expr, Expr::Literal(..)) {
            return;
        }
        if let Err(error) = value_of(subject, expr, &empty, &one_row()) {
            let line = line_of(subject.file, expr);
            let reason = format!("{} cannot be computed: {}", sql(expr), error_text(&error));
            refused = Some(Fault::new(
                line,
                reason,
                "correct it: it is the same for every event",
            ));
        }
    });
    each_expr(subject.plan, &mut |part| {
        if refused.is_none() && divides_by_zero(part) {
            let reason = format!("{} cannot be computed: it divides by zero", sql(part));
            let mend = "divide by another number: it is the same for every event";
            refused = Some(Fault::new(line_of(subject.file, part), reason, mend));
        }
    });
    refused.map_or(Ok(()), Err)
}

/// Whether a whole number is divided by a zero that is written so.
fn divides_by_zero(expr: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        op: Operator::Divide | Operator::Modulo,
        right,
        ..
    }) = expr
    else {
        return false;
    };
    matches!(
        right.as_ref(),
        Expr::Literal(ScalarValue::Int64(Some(0)), _)
    )
}

/// Says which functions fail on whatever they are tried on.
pub(super) fn doubts(subject: &Subject<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let with_constants = |expr: &Expr| match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let (constants, varying): (Vec<&Expr>, Vec<&Expr>) =
                args.iter().partition(|argument| is_constant(argument));
            // What reads texts of a form of its own is tried on none of that form.
            !constants.is_empty()
                && !varying.is_empty()
                && !func.name().starts_with("to_")
                && varying.into_iter().all(never_fails)
        }
        _ => false,
    };
    each_outermost(subject.plan, &with_constants, &mut |expr, schema| {
        let Some(error) = fails_on_all(subject, expr, schema) else {
            return;
        };
        let reason = format!(
            "{} fails on whatever it is tried on: {}",
            sql(expr),
            error_text(&error)
        );
        faults.push(Fault::new(
            line_of(subject.file, expr),
            reason,
            "correct its constants",
        ));
    });
    faults
}

/// Whether an argument can be computed whatever the event holds, so that a failure is not of its making.
fn never_fails(argument: &Expr) -> bool {
    !can_fail(argument).unwrap_or(true)
}

/// Says which patterns of LIKE are written as a shell's: `*` stands for itself there.
pub(super) fn globs(subject: &Subject<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    each_expr(subject.plan, &mut |part| {
        let Expr::Like(like) = part else { return };
        let Expr::Literal(pattern, _) = like.pattern.as_ref() else {
            return;
        };
        let Some(pattern) = text(pattern).filter(|text| text.contains('*') && !text.contains('%'))
        else {
            return;
        };
        let reason =
            format!("LIKE '{pattern}' looks for a *: LIKE knows % for any text and _ for a letter");
        let mend = format!("write '{}'", pattern.replace('*', "%"));
        faults.push(Fault::new(line_of(subject.file, part), reason, mend));
    });
    faults
}

/// Looks at the outermost expressions of a kind, with the columns they may name.
fn each_outermost(
    plan: &LogicalPlan,
    kind: &dyn Fn(&Expr) -> bool,
    look: &mut dyn FnMut(&Expr, &DFSchemaRef),
) {
    let _ = plan.apply_with_subqueries(|node| {
        let schema = match node.inputs()[..] {
            [] => return Ok(TreeNodeRecursion::Continue),
            [input] => input.schema(),
            _ => node.schema(),
        };
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if !kind(part) {
                    return Ok(TreeNodeRecursion::Continue);
                }
                look(part, schema);
                Ok(TreeNodeRecursion::Jump)
            })
        })
    });
}

/// The error of a function that fails on every row it is tried on; none where it does not, or cannot be tried.
fn fails_on_all(
    subject: &Subject<'_>,
    expr: &Expr,
    schema: &DFSchemaRef,
) -> Option<DataFusionError> {
    let columns = expr.column_refs();
    let fields: Option<Vec<_>> = columns
        .into_iter()
        .map(|column| schema.qualified_field_from_column(column).ok())
        .collect();
    let qualified: Vec<_> = fields?
        .into_iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
        .collect();
    let own = Arc::new(Schema::new(
        qualified
            .iter()
            .map(|(_, field)| Field::new(field.name(), field.data_type().clone(), true))
            .collect::<Vec<_>>(),
    ));
    let types = own.fields().iter().map(|field| field.data_type());
    let tried: Vec<Vec<ArrayRef>> = types.map(samples).collect();
    let rows = tried.iter().map(Vec::len).max()?;
    let names = DFSchema::new_with_metadata(qualified, Default::default()).ok()?;
    let bound = BoundExpr::new(subject.session, expr.clone(), &names).ok()?;
    let mut error = None;
    for row in 0..rows {
        let columns = tried
            .iter()
            .map(|values| Arc::clone(&values[row % values.len()]));
        let batch = RecordBatch::try_new(Arc::clone(&own), columns.collect()).ok()?;
        match guarded(|| bound.evaluate(&batch)) {
            Ok(_) => return None,
            Err(own) => error = Some(own),
        }
    }
    error
}

fn value_of(
    subject: &Subject<'_>,
    expr: &Expr,
    schema: &DFSchema,
    batch: &RecordBatch,
) -> Result<ArrayRef> {
    guarded(|| BoundExpr::new(subject.session, expr.clone(), schema)?.evaluate(batch))
}

fn one_row() -> RecordBatch {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::new(Schema::empty())))
}

/// Values of a type, one row each.
fn samples(kind: &DataType) -> Vec<ArrayRef> {
    let texts = || TEXTS.iter().map(|text| ScalarValue::from(*text));
    let values: Vec<ScalarValue> = match kind {
        DataType::List(item) if item.data_type().is_string() => {
            let lists = texts().map(|text| {
                ScalarValue::List(ScalarValue::new_list(&[text], &DataType::Utf8, true))
            });
            lists.collect()
        }
        kind if kind.is_string() => texts().collect(),
        DataType::Boolean => [true, false].map(ScalarValue::from).into(),
        DataType::Int64 | DataType::Timestamp(..) => NUMBERS.map(ScalarValue::from).into(),
        _ => Vec::new(),
    };
    let rows = values
        .into_iter()
        .filter_map(|value| arrow::compute::cast(&value.to_array().ok()?, kind).ok());
    let mut rows: Vec<ArrayRef> = rows.collect();
    if rows.is_empty() {
        rows.push(new_null_array(kind, 1));
    }
    rows
}
