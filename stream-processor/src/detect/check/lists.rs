//! What a query may ask of lists: plain reads of them, which end.
//!
//! What is asked of lists alone is asked at load. A recursive query never ends, `unnest(range(..))` makes a table of
//! nothing, and a product of lists is walked for each event: these are refused by their shape.

use arrow::array::RecordBatch;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, TableScan};

use super::{explain, reads_events};
use crate::detect::lists::Lists;
use crate::detect::sql_file::{Fault, SqlFile};

/// Most rows of a product of lists, for each event.
const PRODUCT_ROWS_MAX: usize = 1_000_000;

const MEND: &str = "read a list of lists/ by its name, or write the values as IN ('a', 'b')";

/// Checks every subquery that reads no events.
pub(super) fn check_subqueries(
    plan: &LogicalPlan,
    file: &SqlFile,
    lists: &Lists,
) -> Result<(), Fault> {
    let mut refused = Ok(());
    let mut look = |expr: &Expr| {
        let subquery = match expr {
            Expr::Exists(exists) => &exists.subquery,
            Expr::InSubquery(within) => &within.subquery,
            Expr::ScalarSubquery(subquery) => subquery,
            Expr::SetComparison(comparison) => &comparison.subquery,
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        if !reads_events(&subquery.subquery)? {
            refused = check_reads(&subquery.subquery, file, lists);
        }
        Ok(match refused {
            Ok(()) => TreeNodeRecursion::Continue,
            Err(_) => TreeNodeRecursion::Stop,
        })
    };
    let walked =
        plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut look)));
    walked.map_err(|error| explain(file, &error, &[]))?;
    refused
}

/// Checks a plan that reads no events: it reads lists, and each step of it ends.
pub(super) fn check_reads(plan: &LogicalPlan, file: &SqlFile, lists: &Lists) -> Result<(), Fault> {
    let refuse = |keyword: &str, what: &str| {
        let reason = format!("{what} is no plain read of a list");
        Err(Fault::new(file.line_of(keyword), reason, MEND))
    };
    match plan {
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Values(_) => {}
        LogicalPlan::Join(join) => check_join(join, file, lists)?,
        LogicalPlan::RecursiveQuery(_) => return refuse("recursive", "a recursive query"),
        LogicalPlan::Unnest(_) => return refuse("unnest", "UNNEST"),
        LogicalPlan::EmptyRelation(_) => return refuse("select", "a SELECT without FROM"),
        LogicalPlan::Window(_) => return refuse("over", "a window function"),
        other => {
            let name = other.display().to_string();
            let operator = name.split([':', ' ']).next().unwrap_or("an operator");
            return refuse("select", operator);
        }
    }
    plan.inputs()
        .into_iter()
        .try_for_each(|input| check_reads(input, file, lists))
}

/// Refuses a product of lists that is too large to be walked for each event.
pub(super) fn check_join(join: &Join, file: &SqlFile, lists: &Lists) -> Result<(), Fault> {
    let rows = rows_at_most(&join.left, lists).saturating_mul(rows_at_most(&join.right, lists));
    if !join.on.is_empty() || rows <= PRODUCT_ROWS_MAX {
        return Ok(());
    }
    let reason = format!("a join without an equality makes {rows} rows of lists");
    let mend = "join them ON a.column = b.column";
    Err(Fault::new(file.line_of("join"), reason, mend))
}

/// How many rows of lists a plan yields at most, for one event.
fn rows_at_most(plan: &LogicalPlan, lists: &Lists) -> usize {
    let inputs = plan.inputs().into_iter();
    let rows = inputs.map(|input| rows_at_most(input, lists));
    match plan {
        LogicalPlan::TableScan(scan) => rows_of(scan, lists),
        LogicalPlan::Values(values) => values.values.len(),
        LogicalPlan::Union(_) => rows.sum(),
        // An equality may hold for all.
        LogicalPlan::Join(_) => rows.fold(1_usize, usize::saturating_mul),
        _ => rows.max().unwrap_or(1),
    }
}

/// The rows of a list; one for events.
fn rows_of(scan: &TableScan, lists: &Lists) -> usize {
    let list = lists.get(scan.table_name.table());
    list.map_or(1, RecordBatch::num_rows)
}
