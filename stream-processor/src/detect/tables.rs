//! Which table a query reads. A query of samples is planned as one of events: the name is put in place of the table's.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableFactor, VisitMut,
    VisitorMut,
};

use super::session::EVENTS;
use super::sql_file::{Fault, SqlFile};
use super::views::folded;
use super::window::names_window;
use crate::tables::Table;

/// Whether queries know a name as a table's, so that no list and no view can have it.
pub(super) fn is_table(name: &str) -> bool {
    Table::named(name).is_some()
}

/// Names events where a statement names another table, and says which that is.
///
/// # Errors
/// When it names more than one.
pub(super) fn take(statement: &mut Statement, file: &SqlFile) -> Result<Table, Fault> {
    let mut named = Named::default();
    if let Statement::Statement(inner) = statement {
        let _: ControlFlow<()> = inner.visit(&mut named);
    }
    let mut tables = named.0.into_iter();
    match (tables.next(), tables.next()) {
        (None, _) => Ok(Table::Events),
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => {
            let reason = format!("the query reads {} and {}", one.name(), other.name());
            let mend = "write a detection for each table: one reads a single table";
            Err(Fault::new(file.line_of(other.name()), reason, mend))
        }
    }
}

/// The tables that a statement names, beside lists and views.
#[derive(Default)]
struct Named(BTreeSet<Table>);

impl Named {
    fn take(&mut self, name: &mut Ident) {
        let Some(table) = Table::named(&folded(name)) else {
            return;
        };
        self.0.insert(table);
        if table != Table::Events {
            *name = Ident::with_span(name.span, EVENTS);
        }
    }
}

impl VisitorMut for Named {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args, .. } = table else {
            return ControlFlow::Continue(());
        };
        let [ObjectNamePart::Identifier(table_name)] = &name.0[..] else {
            return ControlFlow::Continue(());
        };
        match args {
            None => {
                let mut table_name = table_name.clone();
                self.take(&mut table_name);
                *name = ObjectName::from(vec![table_name]);
            }
            Some(args) if names_window(&folded(table_name)) => {
                if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(
                    argument,
                )))) = args.args.first_mut()
                {
                    self.take(argument);
                }
            }
            Some(_) => {}
        }
        ControlFlow::Continue(())
    }
}
