//! What a detection's query may be: one SELECT over single events and the lists, or over windows of events.
//!
//! What any query may be is said in [`dogwatch_query::check`]; this module says no to what a detection cannot promise.

use datafusion::common::Result as PlanResult;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use dogwatch_query::check::{ONLY_SELECT, planned};
pub(crate) use dogwatch_query::check::{explain, only_query, parsed};

use super::lists::Lists;
use super::session::{EVENTS, Session};
use super::sql_file::{Fault, SqlFile};
use super::views::Views;
use super::window::{find_scan, spec_of};

mod lists;

/// What to write instead of a query that would need memory without bound.
const USE_A_WINDOW: &str = "put the condition into WHERE, or count over a window: FROM tumble(events, INTERVAL '1 minute') ... GROUP BY window_start, window_end, container_id";

/// What a query may name.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The columns of events.
    pub columns: &'a [&'a str],
    pub lists: &'a Lists,
    pub views: &'a Views,
}

/// Plans a file's query, parsed and with its views put in, and refuses what needs memory without bound or would not say the
/// same again.
pub(super) fn plan(
    session: &Session,
    file: &SqlFile,
    statement: Statement,
    known: &Known<'_>,
) -> Result<LogicalPlan, Fault> {
    let Known {
        columns,
        lists: tables,
        views,
    } = *known;
    let names: Vec<&str> = std::iter::once(EVENTS)
        .chain(tables.keys().map(String::as_str))
        .chain(views.names())
        .collect();
    let absent = |table: &str| {
        format!(
            "tables are {}; a list is a file lists/{table}.csv in the folder of detections, whose first line names its columns, a view a file views/{table}.sql",
            names.join(", ")
        )
    };
    let plan = planned(session, file, statement, &names, columns, absent)?;
    lists::check_subqueries(&plan, file, tables)?;
    if find_scan(&plan).is_some() {
        check_window_shape(&plan, file)?;
        return Ok(plan);
    }
    let scans = scans_of_events(&plan);
    if scans > 0 {
        check_shape(&plan, file, tables)?;
    }
    if scans != 1 {
        let reason = "the query does not read events exactly once";
        return Err(Fault::new(
            file.query_line,
            reason,
            "write SELECT ... FROM events WHERE ...",
        ));
    }
    Ok(plan)
}

/// The file's one statement, when it is one SELECT that names its columns.
pub(super) fn one_select(file: &SqlFile) -> Result<Statement, Fault> {
    let statement = parsed(file)?;
    let query = only_query(&statement, file)?;
    let ast::SetExpr::Select(select) = query.body.as_ref() else {
        return Err(Fault::new(
            file.query_line,
            "the query is no plain SELECT",
            ONLY_SELECT,
        ));
    };
    if select.into.is_some() {
        return Err(Fault::new(
            file.line_of("into"),
            "SELECT INTO writes a table",
            ONLY_SELECT,
        ));
    }
    if select.projection.iter().any(|item| {
        matches!(
            item,
            ast::SelectItem::Wildcard(_) | ast::SelectItem::QualifiedWildcard(..)
        )
    }) {
        return Err(Fault::new(
            file.line_of("*"),
            "the SELECT takes every column",
            "name the columns an analyst needs",
        ));
    }
    Ok(statement)
}

/// Refuses operators over events that look at more than one event.
fn check_shape(plan: &LogicalPlan, file: &SqlFile, tables: &Lists) -> Result<(), Fault> {
    if scans_of_events(plan) == 0 {
        return lists::check_reads(plan, file, tables);
    }
    let refuse = |keyword: &str, what: &str| {
        Err(Fault::new(
            file.line_of(keyword),
            format!("{what} over events needs memory without bound"),
            USE_A_WINDOW,
        ))
    };
    if subqueries_read_events(plan).map_err(|error| explain(file, &error, &[]))? {
        return refuse(EVENTS, "a subquery");
    }
    match plan {
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_) => {}
        LogicalPlan::Join(join) => {
            if scans_of_events(&join.left) + scans_of_events(&join.right) > 1 {
                return refuse("join", "a join of events with events");
            }
            lists::check_join(join, file, tables)?;
        }
        LogicalPlan::Aggregate(_) => return refuse("group by", "GROUP BY or an aggregate"),
        LogicalPlan::Window(_) => return refuse("over", "a window function"),
        LogicalPlan::Distinct(_) => return refuse("distinct", "DISTINCT"),
        LogicalPlan::Sort(_) => return refuse("order by", "ORDER BY"),
        LogicalPlan::Limit(_) => return refuse("limit", "LIMIT"),
        LogicalPlan::Union(_) => return refuse("union", "UNION"),
        LogicalPlan::Unnest(_) => return refuse("unnest", "UNNEST"),
        LogicalPlan::RecursiveQuery(_) => return refuse("recursive", "a recursive query"),
        other => {
            let name = other.display().to_string();
            let operator = name
                .split([':', ' '])
                .next()
                .unwrap_or("an operator")
                .to_owned();
            return refuse("select", &operator);
        }
    }
    plan.inputs()
        .into_iter()
        .try_for_each(|input| check_shape(input, file, tables))
}

/// Refuses what stands over a window and is no GROUP BY with what follows it.
fn check_window_shape(plan: &LogicalPlan, file: &SqlFile) -> Result<(), Fault> {
    let refuse = |keyword: &str, what: &str, mend: &str| {
        Err(Fault::new(
            file.line_of(keyword),
            format!("{what} over a window cannot be kept in bounded memory"),
            mend,
        ))
    };
    if subqueries_read_events(plan).map_err(|error| explain(file, &error, &[]))? {
        return refuse(
            "select",
            "a subquery on events",
            "ask lists in subqueries, events once in FROM",
        );
    }
    let one_select = "write one SELECT ... FROM the window WHERE ... GROUP BY ... HAVING ...";
    match plan {
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_) => {}
        LogicalPlan::Aggregate(aggregate) => {
            if contains_aggregate(&aggregate.input) {
                return refuse("group by", "a GROUP BY of a GROUP BY", one_select);
            }
        }
        LogicalPlan::Join(_) => {
            return refuse(
                "join",
                "a join without a bound",
                "ask lists as column IN (SELECT name FROM a_list); joins of events come with sequences",
            );
        }
        LogicalPlan::Window(_) => return refuse("over", "a window function", one_select),
        LogicalPlan::Distinct(_) => {
            return refuse(
                "distinct",
                "SELECT DISTINCT",
                "GROUP BY the columns instead",
            );
        }
        LogicalPlan::Union(_) => return refuse("union", "UNION", one_select),
        other => {
            let name = other.display().to_string();
            let operator = name.split([':', ' ']).next().unwrap_or("an operator");
            return refuse("select", operator, one_select);
        }
    }
    plan.inputs()
        .into_iter()
        .try_for_each(|input| check_window_shape(input, file))
}

fn contains_aggregate(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(_)) || plan.inputs().into_iter().any(contains_aggregate)
}

/// How often the plan reads events, subqueries not counted.
pub(crate) fn scans_of_events(plan: &LogicalPlan) -> usize {
    let own = matches!(plan, LogicalPlan::TableScan(scan) if scan.table_name.table() == EVENTS);
    usize::from(own)
        + plan
            .inputs()
            .into_iter()
            .map(scans_of_events)
            .sum::<usize>()
}

/// Whether a subquery in this node's expressions reads events.
fn subqueries_read_events(plan: &LogicalPlan) -> PlanResult<bool> {
    let mut reads = false;
    plan.apply_subqueries(|subquery| {
        reads |= reads_events(subquery)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}

/// Whether a plan reads events or a window of them, in its subqueries too.
fn reads_events(plan: &LogicalPlan) -> PlanResult<bool> {
    let mut reads = false;
    plan.apply_with_subqueries(|node| {
        reads |= matches!(node, LogicalPlan::TableScan(scan)
            if scan.table_name.table() == EVENTS || spec_of(scan).is_some());
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}
