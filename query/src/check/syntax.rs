//! What a query may be written with: what is not known here is refused, because the planner passes over much of what it parses.
//!
//! `FROM events TABLESAMPLE BERNOULLI (50)` is planned as `FROM events`: its author would get twice the alerts that were asked for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, Select, SelectFlavor, Statement, TableFactor, Visit, Visitor,
};

use crate::sql_file::{Fault, SqlFile};

/// Of `a IS DISTINCT FROM true AND b` the parser takes `true AND b` for what `a` is compared with.
const DISTINCT: &str = "IS [NOT] DISTINCT FROM";

/// Refuses clauses that are parsed and would not be obeyed, in subqueries too.
pub(super) fn check(statement: &Statement, file: &SqlFile) -> Result<(), Fault> {
    let ControlFlow::Break(clause) = statement.visit(&mut Known) else {
        return Ok(());
    };
    if clause == DISTINCT {
        let reason =
            format!("{DISTINCT} takes the AND or OR behind it for a part of what it compares with");
        let mend = "put it into parentheses: (a IS DISTINCT FROM b) AND c";
        return Err(Fault::new(file.line_of("distinct from"), reason, mend));
    }
    let word = clause.split(' ').next().unwrap_or(clause);
    let reason = format!("{clause} is no part of a query here");
    let mend = "leave it out: SELECT, FROM, WHERE, GROUP BY, HAVING, ORDER BY and LIMIT are there";
    Err(Fault::new(file.line_of(word), reason, mend))
}

/// Stops at the first clause that is not known, with its name.
struct Known;

impl Visitor for Known {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<&'static str> {
        let Query {
            with: _,
            body: _,
            order_by: _,
            limit_clause: _,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        first_of([
            (fetch.is_some(), "FETCH"),
            (!locks.is_empty(), "FOR UPDATE"),
            (for_clause.is_some(), "FOR XML"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
            (!pipe_operators.is_empty(), "|>"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<&'static str> {
        let Select {
            select_token: _,
            optimizer_hints,
            // Refused with a better mend, by the plan.
            distinct: _,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection: _,
            exclude,
            into: _,
            from: _,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by: _,
            cluster_by,
            distribute_by,
            sort_by,
            having: _,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        first_of([
            (!optimizer_hints.is_empty(), "a hint /*+"),
            (select_modifiers.is_some(), "a MySQL modifier"),
            (top.is_some(), "TOP"),
            (exclude.is_some(), "EXCLUDE"),
            (!lateral_views.is_empty(), "LATERAL VIEW"),
            (prewhere.is_some(), "PREWHERE"),
            (!connect_by.is_empty(), "CONNECT BY"),
            (!cluster_by.is_empty(), "CLUSTER BY"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!sort_by.is_empty(), "SORT BY"),
            (!named_window.is_empty(), "WINDOW"),
            (qualify.is_some(), "QUALIFY"),
            (value_table_mode.is_some(), "AS STRUCT"),
            (*flavor != SelectFlavor::Standard, "FROM before SELECT"),
        ])
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<&'static str> {
        let (Expr::IsDistinctFrom(_, with) | Expr::IsNotDistinctFrom(_, with)) = expr else {
            return ControlFlow::Continue(());
        };
        let Expr::BinaryOp { op, .. } = with.as_ref() else {
            return ControlFlow::Continue(());
        };
        let joins = [BinaryOperator::And, BinaryOperator::Or, BinaryOperator::Xor].contains(op);
        first_of([(joins, DISTINCT)])
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<&'static str> {
        match table {
            TableFactor::Table {
                name: _,
                alias: _,
                args: _,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => first_of([
                (!with_hints.is_empty(), "WITH a hint"),
                (version.is_some(), "FOR SYSTEM_TIME"),
                (*with_ordinality, "WITH ORDINALITY"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "a path into a table"),
                (sample.is_some(), "TABLESAMPLE"),
                (!index_hints.is_empty(), "a hint on an index"),
            ]),
            TableFactor::Derived {
                lateral,
                subquery: _,
                alias: _,
                sample,
            } => first_of([(*lateral, "LATERAL"), (sample.is_some(), "TABLESAMPLE")]),
            // UNNEST is refused with a better mend, by the plan.
            TableFactor::NestedJoin { .. } | TableFactor::UNNEST { .. } => {
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break("this kind of table"),
        }
    }
}

fn first_of<const N: usize>(clauses: [(bool, &'static str); N]) -> ControlFlow<&'static str> {
    match clauses.into_iter().find(|(there, _)| *there) {
        Some((_, clause)) => ControlFlow::Break(clause),
        None => ControlFlow::Continue(()),
    }
}
