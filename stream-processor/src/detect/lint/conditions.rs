//! The conditions that an event must pass for an alert, and the names that events go by in a query.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchemaRef, TableReference};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, JoinType, LogicalPlan};
use dogwatch_schemas::vocabulary::{self, Vocabulary};

use super::handed::{self, Handed};
use super::origin;
use crate::detect::check::scans_of_events;
use crate::detect::session::EVENTS;
use crate::detect::window::{find_scan, spec_of};
use crate::tables::Table;

/// One condition and the columns that it may name.
#[derive(Debug, Clone)]
pub(in crate::detect) struct Condition {
    pub expr: Expr,
    pub schema: DFSchemaRef,
}

/// The conditions between events and the result: all must hold.
#[derive(Debug, Clone)]
pub(in crate::detect) struct Conditions {
    pub all: Vec<Condition>,
    /// The table that is called events here.
    table: Table,
    /// Names by which columns of events are qualified; the first stands for events in what the lint adds.
    pub names: BTreeSet<TableReference>,
    /// The aggregates that hand on values of events.
    pub handed: Vec<Handed>,
}

impl Conditions {
    /// Collects WHERE, HAVING and the ON of inner joins, whatever stands between them, over the columns of events.
    pub fn of(plan: &LogicalPlan, table: Table) -> Self {
        let mut conditions = Self {
            all: Vec::new(),
            table,
            names: BTreeSet::new(),
            handed: Vec::new(),
        };
        conditions.collect(plan);
        conditions
    }

    fn collect(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::TableScan(scan) if is_events(plan) => {
                self.names.insert(scan.table_name.clone());
            }
            LogicalPlan::SubqueryAlias(alias) if keeps_columns(&alias.input) => {
                self.names.insert(alias.alias.clone());
            }
            LogicalPlan::Aggregate(aggregate) => self.handed.extend(handed::all_of(aggregate)),
            LogicalPlan::Filter(filter) => self.add(&filter.predicate, &filter.input),
            LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
                if let Some(filter) = &join.filter {
                    self.add(filter, plan);
                }
            }
            _ => {}
        }
        let inputs = plan.inputs().into_iter();
        for input in inputs.filter(|input| scans_of_events(input) > 0 || find_scan(input).is_some())
        {
            self.collect(input);
        }
    }

    /// As these, with one more, which stands over this plan.
    pub fn with(&self, predicate: &Expr, over: &LogicalPlan) -> Self {
        let mut all = self.clone();
        all.add(predicate, over);
        all
    }

    fn add(&mut self, predicate: &Expr, over: &LogicalPlan) {
        let schema = Arc::new(origin::schema(over));
        let parts = split_conjunction(predicate).into_iter();
        self.all.extend(parts.map(|expr| Condition {
            expr: origin::resolved(expr, over),
            schema: Arc::clone(&schema),
        }));
    }

    /// What is known of the values of a column of the table.
    pub fn vocabulary(&self, column: &str) -> Option<&'static Vocabulary> {
        vocabulary::of_record(self.table.record(), column)
    }

    /// The column of events that an expression is.
    pub fn column<'e>(&self, expr: &'e Expr) -> Option<&'e Column> {
        match expr {
            Expr::Alias(alias) => self.column(&alias.expr),
            Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => {
                let own = column.relation.as_ref()?;
                self.names.contains(own).then_some(column)
            }
            _ => None,
        }
    }
}

impl Conditions {
    /// The column of events whose values an expression has: itself, or what an aggregate hands on.
    pub fn values_of<'e>(&'e self, expr: &'e Expr) -> Option<&'e Column> {
        self.column(expr)
            .or_else(|| self.values_of(&self.handed_in(expr)?.of))
    }

    /// The aggregate that an expression is, where it hands on values.
    pub fn handed_in(&self, expr: &Expr) -> Option<&Handed> {
        match expr {
            Expr::Alias(alias) => self.handed_in(&alias.expr),
            Expr::Column(Column {
                relation: None,
                name,
                ..
            }) => self.handed.iter().find(|own| own.name == *name),
            _ => None,
        }
    }
}

impl Condition {
    /// The type of a part of the condition; none where it has none by itself.
    pub fn data_type(&self, part: &Expr) -> Option<DataType> {
        part.get_type(self.schema.as_ref()).ok()
    }
}

/// Whether a plan has columns of events alone under their own names, and others under names that events have not.
fn keeps_columns(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => keeps_columns(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => keeps_columns(&alias.input),
        LogicalPlan::Projection(projection) => {
            let of_events = |name: &str| {
                let fields = projection.input.schema().fields();
                fields.iter().any(|field| field.name() == name)
            };
            let keeps = |expr: &Expr| match expr {
                Expr::Column(_) => true,
                Expr::Alias(alias) => match alias.expr.as_ref() {
                    Expr::Column(column) if column.name == alias.name => true,
                    _ => !of_events(&alias.name),
                },
                expr => !of_events(&expr.schema_name().to_string()),
            };
            projection.expr.iter().all(keeps) && keeps_columns(&projection.input)
        }
        plan => is_events(plan),
    }
}

/// Whether a plan is the table of events or windows of it, and nothing more.
fn is_events(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::TableScan(scan)
        if scan.table_name.table() == EVENTS || spec_of(scan).is_some())
}
