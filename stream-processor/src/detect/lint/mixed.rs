//! AND and OR side by side without parentheses: `a AND b OR c` reads as `(a AND b) OR c`, and is often meant otherwise.
//!
//! Looked for in the text as it is parsed: a plan knows no parentheses.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Spanned, Visit, Visitor};
use dogwatch_query::check::parsed;

use crate::detect::sql_file::{Fault, SqlFile};

/// Most characters of a condition that are shown.
const SHOWN_MAX: usize = 48;

/// Says where AND and OR stand side by side, so that one of them may be meant to bind otherwise.
pub(super) fn check(file: &SqlFile) -> Vec<Fault> {
    let Ok(Statement::Statement(statement)) = parsed(file) else {
        return Vec::new();
    };
    let mut mixed = Mixed {
        file,
        faults: Vec::new(),
    };
    let _ = statement.visit(&mut mixed);
    mixed.faults.dedup();
    mixed.faults
}

struct Mixed<'f> {
    file: &'f SqlFile,
    faults: Vec<Fault>,
}

impl Visitor for Mixed<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let alternatives = operands(expr, &BinaryOperator::Or);
        if alternatives.len() < 2 {
            return ControlFlow::Continue(());
        }
        let (joined, alone): (Vec<&Expr>, Vec<&Expr>) = alternatives
            .into_iter()
            .partition(|own| operands(own, &BinaryOperator::And).len() > 1);
        let doubtful = joined.iter().find_map(|joined| {
            let mut alone = alone.iter().filter(|alone| !is_one_of_kinds(joined, alone));
            Some((joined, alone.next()?))
        });
        if let Some((joined, alone)) = doubtful {
            let line = joined.span().start.line as usize;
            let line = if line == 0 {
                self.file.query_line
            } else {
                line
            };
            let parts = operands(joined, &BinaryOperator::And);
            let (first, last) = (parts.first(), parts.last());
            let (first, last) = (
                first.map_or_else(String::new, shown),
                last.map_or_else(String::new, shown),
            );
            let alone = shown(alone);
            let reason = format!(
                "AND binds before OR, so that {alone} is enough whatever stands before AND"
            );
            let mend = format!(
                "write the parentheses that are meant: ({first} AND {last}) OR {alone}, or {first} AND ({last} OR {alone})"
            );
            self.faults.push(Fault::new(line, reason, mend));
        }
        ControlFlow::Continue(())
    }
}

/// What an operator joins, through itself alone; an expression of another kind is the one operand.
fn operands<'e>(expr: &'e Expr, operator: &BinaryOperator) -> Vec<&'e Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } if op == operator => {
            let mut all = operands(left, operator);
            all.extend(operands(right, operator));
            all
        }
        expr => vec![expr],
    }
}

/// Whether two alternatives are of different kinds of events, as their first conditions say: `evt_type = 'a' AND .. OR
/// evt_type = 'b'`. The parts of one that is alone are its only one.
fn is_one_of_kinds(joined: &Expr, alone: &Expr) -> bool {
    let parts = operands(joined, &BinaryOperator::And);
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return false;
    };
    let own = columns(alone);
    let shares = |part: &Expr| columns(part).intersection(&own).next().is_some();
    shares(first) && !shares(last)
}

fn columns(expr: &Expr) -> BTreeSet<String> {
    let mut columns = Columns(BTreeSet::new());
    let _ = expr.visit(&mut columns);
    columns.0
}

/// The names of the columns of an expression.
struct Columns(BTreeSet<String>);

impl Visitor for Columns {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let name = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(names) => names.last(),
            _ => None,
        };
        self.0.extend(name.map(|name| name.value.to_lowercase()));
        ControlFlow::Continue(())
    }
}

fn shown(expr: &&Expr) -> String {
    let whole = expr.to_string();
    match whole.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}
