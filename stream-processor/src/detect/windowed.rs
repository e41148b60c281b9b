//! Queries over windows, cut at their GROUP BY.
//!
//! ```text
//! SELECT .. FROM hop(events, ..) WHERE .. │ GROUP BY .. aggregates │ HAVING .. ORDER BY .. LIMIT ..
//!          predicate on single events     │  keys, aggregates      │  ResultPlan over finished groups
//! ```
//! What stands left of the cut is asked of each row; the keys and aggregates are kept as partial states by
//! [`crate::window`], which shares them between detections; what stands right of it is asked once a window is over.
//! No row is kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue, internal_err};
use datafusion::logical_expr::{Aggregate, AggregateUDF, BinaryExpr, Expr, LogicalPlan, Operator};

use super::aggregates::{self, DISTINCT_CAP, DISTINCT_CAP_MAX, TEXT_BYTES_MAX};
use super::filter::{BoundExpr, Predicate, unqualified};
use super::header::Header;
use super::session::Session;
use super::sql_file::{Fault, PlanError, SqlFile};
use super::window::{WindowSpec, find_scan};

mod parts;
mod result;
pub(in crate::detect) mod row;

pub(crate) use parts::GroupColumn;
pub(crate) use result::ResultPlan;

use parts::{Parts, call_text};

/// Keys by which a window is of one host.
pub(super) const HOST_KEYS: [&str; 7] = [
    "host_id",
    "host_name",
    "container_id",
    "container_full_id",
    "proc_key",
    "proc_pkey",
    "proc_skey",
];

/// A query over windows, ready to be shared with others.
pub(crate) struct WindowedPlan {
    /// Its windows.
    pub spec: WindowSpec,
    /// How long a window waits beyond its end, of its host's time.
    pub delay_ns: i64,
    /// What WHERE asks of a row.
    pub predicate: Predicate,
    /// What rows are grouped by, the window left out, in GROUP BY order.
    pub keys: Vec<Key>,
    /// What is computed of each group.
    pub aggregates: Vec<AggregateCall>,
    /// The conditions under which a window fires before it is over; empty when it does not.
    pub thresholds: Vec<Threshold>,
    /// What stands above the groups.
    pub result: ResultPlan,
    /// Whether its windows are of all hosts together: no key says whose they are.
    pub fleet: bool,
}

/// One expression that rows are grouped by.
pub(crate) struct Key {
    /// Name of the column it is; none for other expressions.
    pub column: Option<String>,
    /// What it says, for comparing it with others.
    pub text: String,
    /// Its value for each row.
    pub expr: BoundExpr,
    /// Its type.
    pub data_type: DataType,
}

/// One aggregate, taken apart so that others with equal parts can share its state.
pub(crate) struct AggregateCall {
    /// What it says, without its FILTER.
    pub text: String,
    /// The function.
    pub function: Arc<AggregateUDF>,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// Its ORDER BY.
    pub order_by: Vec<(Argument, bool, bool)>,
    /// Its FILTER.
    pub filter: Option<Argument>,
    /// Bytes of its state at most, for one key and pane.
    pub state_bytes: u64,
}

/// A literal, an expression over the columns of events, or what the engine knows of a row's host.
pub(crate) enum Argument {
    Literal(ScalarValue),
    /// The row's host, where it was heard of for so many seconds.
    KnownHost(i64),
    Expr {
        text: String,
        expr: BoundExpr,
        data_type: DataType,
    },
}

impl AggregateCall {
    /// Whether it is `count(*)`, of all rows or those of its FILTER.
    pub fn is_count_star(&self) -> bool {
        let literal = matches!(&self.arguments[..], [Argument::Literal(value)] if !value.is_null());
        literal && self.function.name() == "count"
    }

    /// Its arguments, then those of its order.
    pub fn all_arguments(&self) -> impl Iterator<Item = &Argument> {
        let ordered = self.order_by.iter().map(|(argument, ..)| argument);
        self.arguments.iter().chain(ordered)
    }

    /// One of [`AggregateCall::all_arguments`].
    pub fn argument(&self, place: usize) -> Option<&Argument> {
        self.all_arguments().nth(place)
    }

    /// What its expressions say that may fail, its FILTER's too.
    pub fn fallible(&self) -> impl Iterator<Item = &str> {
        let all = self.all_arguments().chain(&self.filter);
        all.filter_map(|argument| match argument {
            Argument::Expr { text, expr, .. } if expr.can_fail => Some(text.as_str()),
            _ => None,
        })
    }

    /// Whether it is `count(*)` of all rows.
    pub fn counts_rows(&self) -> bool {
        self.is_count_star() && self.filter.is_none()
    }
}

impl Argument {
    /// Its expression, where it is none but a literal.
    pub fn expr(&self) -> Option<&BoundExpr> {
        match self {
            Self::Literal(_) | Self::KnownHost(_) => None,
            Self::Expr { expr, .. } => Some(expr),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::Literal(value) => format!("{value:?}"),
            Self::KnownHost(seconds) => format!("host known for {seconds} s"),
            Self::Expr { text, .. } => text.clone(),
        }
    }
}

/// `aggregate >= least`, where the aggregate never falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold {
    /// Place of the aggregate in the query's.
    pub aggregate: usize,
    /// What it must reach.
    pub least: i64,
}

impl WindowedPlan {
    /// Takes a checked query over windows apart.
    ///
    /// # Errors
    /// A refusal says what cannot be kept in bounded memory.
    pub fn try_new(
        session: &Session,
        checked: &LogicalPlan,
        events: &SchemaRef,
        file: &SqlFile,
        header: &Header,
    ) -> Result<Self, PlanError> {
        let state = session.context.state();
        let analyzed = state.analyzer().execute_and_check(
            checked.clone(),
            state.config_options(),
            |_, _| {},
        )?;
        let Some(spec) = find_scan(&analyzed) else {
            return Ok(internal_err!("the query reads no window")?);
        };
        let Some(aggregate) = find_aggregate(&analyzed) else {
            let mend = "count the rows: GROUP BY window_start, window_end and a key of one host, or read FROM events";
            let reason = "the query keeps every row of a window";
            return Err(Fault::new(file.query_line, reason, mend).into());
        };
        let Some(predicates) = predicates_below(&aggregate) else {
            let mend = "write one SELECT over the window: expressions go into GROUP BY and into the aggregates";
            let reason = "something other than WHERE stands between the window and GROUP BY";
            return Err(Fault::new(file.query_line, reason, mend).into());
        };
        let schema = DFSchema::try_from(Arc::clone(events))?;
        let parts = Parts::of(session, &aggregate, &schema, file)?;
        let predicate = predicates.into_iter().reduce(Expr::and);
        let mut plan = Self {
            spec,
            delay_ns: (header.lateness + header.out_of_orderness).as_nanos() as i64,
            predicate: Predicate::new(session, predicate, &schema)?,
            keys: parts.keys,
            aggregates: parts.calls,
            thresholds: Vec::new(),
            fleet: parts.fleet,
            result: ResultPlan::try_new(session, &analyzed, &aggregate, parts.places)?,
        };
        if !plan.result.limited {
            plan.thresholds = thresholds(&analyzed, &aggregate, &plan.aggregates);
        }
        for threshold in &plan.thresholds {
            let call = &mut plan.aggregates[threshold.aggregate];
            if let Err(reason) = call.tell_apart(threshold.least) {
                let mend = format!("ask for at most {DISTINCT_CAP_MAX}, or use approx_distinct");
                return Err(Fault::new(file.line_of("having"), reason, mend).into());
            }
        }
        Ok(plan)
    }

    /// Whether its windows speak as soon as their counts reach its numbers.
    pub fn fires_early(&self) -> bool {
        !self.thresholds.is_empty()
    }

    /// The columns of events it reads.
    pub fn columns(&self) -> BTreeSet<&str> {
        let keys = self.keys.iter().flat_map(|key| key.expr.columns());
        let calls = self.aggregates.iter().flat_map(|call| {
            call.all_arguments()
                .chain(&call.filter)
                .filter_map(Argument::expr)
                .flat_map(BoundExpr::columns)
        });
        let own = self.predicate.columns().chain(keys).chain(calls);
        let of_fleet = IDENTITY.iter().chain(&EVIDENCE).copied();
        own.chain(of_fleet.filter(|_| self.fleet)).collect()
    }

    /// Bytes of a key's values at most.
    pub fn key_values_bytes(&self) -> u64 {
        let values = self.keys.iter();
        values.map(|key| value_bytes(&key.data_type)).sum()
    }

    /// Bytes of one key's state in one pane at most: its keys, its aggregates and what the operators add.
    pub fn key_bytes(&self) -> u64 {
        let keys = self.key_values_bytes();
        let calls: u64 = self.aggregates.iter().map(|call| call.state_bytes).sum();
        let fleet = if self.fleet { FLEET_BYTES } else { 0 };
        KEY_OVERHEAD_BYTES + keys + calls + fleet
    }
}

/// What tells the hosts of a fleet and their events apart.
pub(crate) const IDENTITY: [&str; 3] = ["host_id", "sensor_run", "seq"];

/// What each row of evidence says, whatever the query reads.
const EVIDENCE: [&str; 2] = ["evt_type", "ts"];

/// Most hosts that a window of the fleet tells apart.
pub(crate) const FLEET_HOSTS_MAX: i64 = 256;
/// How many of them it names.
pub(crate) const FLEET_HOSTS_NAMED: i64 = 20;
/// How many of its rows it keeps as evidence.
pub(crate) const FLEET_ROWS: i64 = 5;
/// Most bytes of such a row, with what it is told apart by.
pub(crate) const FLEET_ROW_BYTES: usize = 2 << 10;
/// Bytes of the hosts and rows that a window of the fleet keeps of a key.
const FLEET_BYTES: u64 = 8 * FLEET_HOSTS_MAX as u64
    + 272 * FLEET_HOSTS_NAMED as u64
    + FLEET_ROWS as u64 * FLEET_ROW_BYTES as u64;

/// Bytes that a key costs beside its values: its host, its pane, its count of rows, its place in a hash table.
const KEY_OVERHEAD_BYTES: u64 = 64;

/// Bytes of a value at most, its offset or view included.
fn value_bytes(data_type: &DataType) -> u64 {
    if data_type.is_string() {
        16 + TEXT_BYTES_MAX as u64
    } else {
        8
    }
}

impl AggregateCall {
    /// Makes a distinct count tell `least` values apart; the error says that it cannot.
    fn tell_apart(&mut self, least: i64) -> std::result::Result<(), String> {
        if self.function.name() != aggregates::distinct_count().name() {
            return Ok(());
        }
        let cap = DISTINCT_CAP
            .max(least.saturating_mul(2))
            .min(DISTINCT_CAP_MAX);
        if least > DISTINCT_CAP_MAX {
            return Err(format!(
                "count(DISTINCT ..) cannot tell {least} values apart in bounded memory"
            ));
        }
        if let Some(Argument::Literal(size)) = self.arguments.get_mut(1) {
            *size = ScalarValue::Int64(Some(cap));
        }
        self.state_bytes = 8 * cap.unsigned_abs();
        self.text = call_text(&self.function, &self.arguments, &self.order_by);
        Ok(())
    }
}

/// The one GROUP BY of a plan.
fn find_aggregate(plan: &LogicalPlan) -> Option<Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some(aggregate.clone()),
        _ => plan.inputs().into_iter().find_map(find_aggregate),
    }
}

/// The conditions between GROUP BY and the window; none when something else stands there.
fn predicates_below(aggregate: &Aggregate) -> Option<Vec<Expr>> {
    let mut predicates = Vec::new();
    let mut input = aggregate.input.as_ref();
    loop {
        match input {
            LogicalPlan::Filter(filter) => {
                predicates.push(unqualified(&filter.predicate)?);
                input = &filter.input;
            }
            LogicalPlan::SubqueryAlias(alias) => input = &alias.input,
            LogicalPlan::TableScan(_) => return Some(predicates),
            _ => return None,
        }
    }
}

/// The conditions of HAVING, when each of them says that a count has reached a number: such a window fires at once.
fn thresholds(
    plan: &LogicalPlan,
    aggregate: &Aggregate,
    calls: &[AggregateCall],
) -> Vec<Threshold> {
    let mut conditions = Vec::new();
    let mut node = plan;
    while !matches!(node, LogicalPlan::Aggregate(_)) {
        if let LogicalPlan::Filter(filter) = node {
            conditions.extend(datafusion::logical_expr::utils::split_conjunction(
                &filter.predicate,
            ));
        }
        match node.inputs().first() {
            Some(input) => node = input,
            None => return Vec::new(),
        }
    }
    conditions
        .into_iter()
        .map(|condition| threshold(condition, aggregate, calls))
        .collect::<Option<Vec<_>>>()
        .unwrap_or_default()
}

fn threshold(
    condition: &Expr,
    aggregate: &Aggregate,
    calls: &[AggregateCall],
) -> Option<Threshold> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let (column, op, number) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(number, _)) => (column, *op, number),
        (Expr::Literal(number, _), Expr::Column(column)) => (column, op.swap()?, number),
        _ => return None,
    };
    let ScalarValue::Int64(Some(number)) = number else {
        return None;
    };
    let least = match op {
        Operator::GtEq => *number,
        Operator::Gt => number.checked_add(1)?,
        _ => return None,
    };
    let place = aggregate
        .schema
        .index_of_column(column)
        .ok()?
        .checked_sub(aggregate.group_expr.len())?;
    let name = calls.get(place)?.function.name();
    let counts = name == "count" || name == aggregates::distinct_count().name();
    (counts && least >= 1).then_some(Threshold {
        aggregate: place,
        least,
    })
}
