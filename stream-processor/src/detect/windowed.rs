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

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder,
    Operator, SortExpr, TableScan,
};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Map, Value};

use super::aggregates::{self, DISTINCT_CAP, DISTINCT_CAP_MAX, TEXT_BYTES_MAX};
use super::filter::{BoundExpr, Predicate, unqualified};
use super::general::ROW;
use super::header::Header;
use super::held::HeldBatches;
use super::json;
use super::session::Session;
use super::sql_file::{Fault, SqlFile};
use super::window::{WINDOW_END, WINDOW_START, WindowSpec, find_scan};

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

/// A literal, or an expression over the columns of events.
pub(crate) enum Argument {
    Literal(ScalarValue),
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

    /// Whether it is `count(*)` of all rows.
    pub fn counts_rows(&self) -> bool {
        self.is_count_star() && self.filter.is_none()
    }
}

impl Argument {
    /// Its expression, where it is none but a literal.
    pub fn expr(&self) -> Option<&BoundExpr> {
        match self {
            Self::Literal(_) => None,
            Self::Expr { expr, .. } => Some(expr),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Literal(value) => format!("{value:?}"),
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

/// One row of a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResultRow {
    /// The group it comes from: its row in the batch of groups.
    pub group: usize,
    /// What the SELECT yields.
    pub values: Map<String, Value>,
}

impl WindowedPlan {
    /// Takes a checked query over windows apart; a fault says what cannot be kept in bounded memory.
    pub fn try_new(
        session: &Session,
        checked: &LogicalPlan,
        events: &SchemaRef,
        file: &SqlFile,
        header: &Header,
    ) -> Result<std::result::Result<Self, Fault>> {
        let state = session.context.state();
        let analyzed = state.analyzer().execute_and_check(
            checked.clone(),
            state.config_options(),
            |_, _| {},
        )?;
        let Some(spec) = find_scan(&analyzed) else {
            return internal_err!("the query reads no window");
        };
        let Some(aggregate) = find_aggregate(&analyzed) else {
            return Ok(Err(Fault::new(
                file.query_line,
                "the query keeps every row of a window",
                "count the rows: GROUP BY window_start, window_end and a key of one host, or read FROM events",
            )));
        };
        let schema = DFSchema::try_from(Arc::clone(events))?;
        let predicates = match predicates_below(&aggregate) {
            Some(predicates) => predicates,
            None => {
                return Ok(Err(Fault::new(
                    file.query_line,
                    "something other than WHERE stands between the window and GROUP BY",
                    "write one SELECT over the window: expressions go into GROUP BY and into the aggregates",
                )));
            }
        };
        let mut plan = match Parts::of(session, &aggregate, &schema, file)? {
            Ok(parts) => Self {
                spec,
                delay_ns: (header.lateness + header.out_of_orderness).as_nanos() as i64,
                predicate: Predicate::new(
                    session,
                    predicates.into_iter().reduce(Expr::and),
                    &schema,
                )?,
                keys: parts.keys,
                aggregates: parts.calls,
                thresholds: Vec::new(),
                result: ResultPlan::try_new(session, &analyzed, &aggregate, parts.places)?,
            },
            Err(fault) => return Ok(Err(fault)),
        };
        if !plan.result.limited {
            plan.thresholds = thresholds(&analyzed, &aggregate, &plan.aggregates);
        }
        for threshold in &plan.thresholds {
            let call = &mut plan.aggregates[threshold.aggregate];
            if let Err(reason) = call.tell_apart(threshold.least) {
                return Ok(Err(Fault::new(
                    file.line_of("having"),
                    reason,
                    format!("ask for at most {DISTINCT_CAP_MAX}, or use approx_distinct"),
                )));
            }
        }
        Ok(Ok(plan))
    }

    /// Whether its windows speak as soon as their counts reach its numbers.
    pub fn fires_early(&self) -> bool {
        !self.thresholds.is_empty()
    }

    /// The columns of events it reads.
    pub fn columns(&self) -> BTreeSet<&str> {
        let keys = self.keys.iter().flat_map(|key| key.expr.columns());
        let calls = self.aggregates.iter().flat_map(|call| {
            let ordered = call.order_by.iter().map(|(argument, ..)| argument);
            call.arguments
                .iter()
                .chain(ordered)
                .chain(&call.filter)
                .filter_map(Argument::expr)
                .flat_map(BoundExpr::columns)
        });
        self.predicate.columns().chain(keys).chain(calls).collect()
    }

    /// Bytes of one key's state in one pane at most: its keys, its aggregates and what the operators add.
    pub fn key_bytes(&self) -> u64 {
        let keys: u64 = self
            .keys
            .iter()
            .map(|key| value_bytes(&key.data_type))
            .sum();
        let calls: u64 = self.aggregates.iter().map(|call| call.state_bytes).sum();
        KEY_OVERHEAD_BYTES + keys + calls
    }
}

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

fn call_text(
    function: &AggregateUDF,
    arguments: &[Argument],
    order_by: &[(Argument, bool, bool)],
) -> String {
    let arguments: Vec<String> = arguments.iter().map(Argument::text).collect();
    let order_by: Vec<String> = order_by
        .iter()
        .map(|(argument, ascending, nulls_first)| {
            format!("{} {ascending} {nulls_first}", argument.text())
        })
        .collect();
    format!(
        "{}({}; {})",
        function.name(),
        arguments.join(", "),
        order_by.join(", ")
    )
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

/// Whether an expression reads the window itself.
fn reads_window(expr: &Expr) -> bool {
    expr.column_refs()
        .iter()
        .any(|column| column.name == WINDOW_START || column.name == WINDOW_END)
}

/// Where each column of the groups comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupColumn {
    WindowStart,
    WindowEnd,
    Key(usize),
    Aggregate(usize),
}

struct Parts {
    keys: Vec<Key>,
    calls: Vec<AggregateCall>,
    places: Vec<GroupColumn>,
}

impl Parts {
    fn of(
        session: &Session,
        aggregate: &Aggregate,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<std::result::Result<Self, Fault>> {
        let mut parts = Self {
            keys: Vec::new(),
            calls: Vec::new(),
            places: Vec::new(),
        };
        for expr in &aggregate.group_expr {
            if let Err(fault) = parts.add_key(session, expr, schema, file)? {
                return Ok(Err(fault));
            }
        }
        for expr in &aggregate.aggr_expr {
            if let Err(fault) = parts.add_call(session, expr, schema, file)? {
                return Ok(Err(fault));
            }
        }
        Ok(parts.check_keys(file).map(|()| parts))
    }

    fn add_key(
        &mut self,
        session: &Session,
        expr: &Expr,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<std::result::Result<(), Fault>> {
        let group_by = file.line_of("group by");
        let plain = match expr {
            Expr::Column(column) => Some(column.name.clone()),
            _ => None,
        };
        match plain.as_deref() {
            Some(WINDOW_START) => self.places.push(GroupColumn::WindowStart),
            Some(WINDOW_END) => self.places.push(GroupColumn::WindowEnd),
            _ if matches!(expr, Expr::GroupingSet(_)) => {
                return Ok(Err(Fault::new(
                    group_by,
                    "GROUPING SETS, ROLLUP and CUBE group in several ways at once",
                    "write a detection for each",
                )));
            }
            _ if reads_window(expr) => {
                return Ok(Err(Fault::new(
                    group_by,
                    format!("GROUP BY computes with the window: {expr}"),
                    "group by window_start and window_end themselves",
                )));
            }
            _ => {
                let Some(expr) = unqualified(expr) else {
                    return internal_err!("a key holds a subquery");
                };
                let data_type = expr.get_type(schema)?;
                if data_type.is_floating() || data_type.is_nested() {
                    return Ok(Err(Fault::new(
                        group_by,
                        format!(
                            "GROUP BY {expr} is of type {data_type}, whose equal values may differ"
                        ),
                        "group by text, whole numbers or booleans",
                    )));
                }
                self.places.push(GroupColumn::Key(self.keys.len()));
                self.keys.push(Key {
                    column: plain,
                    text: expr.to_string(),
                    expr: BoundExpr::new(session, expr, schema)?,
                    data_type,
                });
            }
        }
        Ok(Ok(()))
    }

    fn add_call(
        &mut self,
        session: &Session,
        expr: &Expr,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<std::result::Result<(), Fault>> {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
            return internal_err!("{expr} is no aggregate");
        };
        let line = file.line_of(&format!("{}(", func.name()));
        if reads_window(expr) {
            return Ok(Err(Fault::new(
                line,
                "an aggregate computes with the window",
                "use window_start and window_end outside of aggregates",
            )));
        }
        let argument = |expr: &Expr| argument(session, expr, schema);
        let mut arguments = params
            .args
            .iter()
            .map(argument)
            .collect::<Result<Vec<_>>>()?;
        let order_by = params
            .order_by
            .iter()
            .map(
                |SortExpr {
                     expr,
                     asc,
                     nulls_first,
                 }| Ok((argument(expr)?, *asc, *nulls_first)),
            )
            .collect::<Result<Vec<_>>>()?;
        let filter = params.filter.as_deref().map(argument).transpose()?;
        let text = arguments.first().is_some_and(
            |argument| matches!(argument, Argument::Expr { data_type, .. } if data_type.is_string()),
        );
        let size = arguments.get(1).and_then(|argument| match argument {
            Argument::Literal(ScalarValue::Int64(size)) => *size,
            _ => None,
        });
        let name = func.name();
        let state_bytes = match aggregates::state_bytes(name, params.distinct, text, size) {
            Ok(bytes) => bytes,
            Err((reason, mend)) => return Ok(Err(Fault::new(line, reason, mend))),
        };
        let by_place = ["ts", "boot_ts", "seq"];
        if matches!(name, "first_value" | "last_value") {
            let last = params.order_by.last().map(|sort| sort.expr.to_string());
            let named = last.as_deref().and_then(|last| last.rsplit('.').next());
            if !named.is_some_and(|last| by_place.contains(&last)) {
                let mend = format!("write {name}(value ORDER BY ts, seq)");
                let reason = format!("{name} without an order takes whichever row comes first");
                return Ok(Err(Fault::new(line, reason, mend)));
            }
        } else if !order_by.is_empty() {
            let reason = format!("{name} does not hang on an order");
            return Ok(Err(Fault::new(line, reason, "leave its ORDER BY out")));
        }
        let mut function = Arc::clone(func);
        // min and max of distinct values are those of all.
        if name == "count" && params.distinct {
            if arguments.len() != 1 {
                let reason = "count(DISTINCT ..) of several values";
                return Ok(Err(Fault::new(
                    line,
                    reason,
                    "count one, such as concat(a, '/', b)",
                )));
            }
            function = aggregates::distinct_count();
            arguments.push(Argument::Literal(ScalarValue::Int64(Some(DISTINCT_CAP))));
        }
        self.places.push(GroupColumn::Aggregate(self.calls.len()));
        self.calls.push(AggregateCall {
            text: call_text(&function, &arguments, &order_by),
            function,
            arguments,
            order_by,
            filter,
            state_bytes,
        });
        Ok(Ok(()))
    }

    fn check_keys(&self, file: &SqlFile) -> std::result::Result<(), Fault> {
        let line = file.line_of("group by");
        let window = [GroupColumn::WindowStart, GroupColumn::WindowEnd];
        if !self.places.iter().any(|place| window.contains(place)) {
            return Err(Fault::new(
                line,
                "GROUP BY lacks the window, so the query counts over all windows together",
                "add window_start and window_end to GROUP BY",
            ));
        }
        let of_one_host = self.keys.iter().any(|key| {
            key.column
                .as_deref()
                .is_some_and(|column| HOST_KEYS.contains(&column))
        });
        if !of_one_host {
            return Err(Fault::new(
                line,
                "GROUP BY has no key of one host, and windows over several hosts are not there yet",
                format!("add one of {} to GROUP BY", HOST_KEYS.join(", ")),
            ));
        }
        Ok(())
    }
}

fn argument(session: &Session, expr: &Expr, schema: &DFSchema) -> Result<Argument> {
    if let Expr::Literal(value, _) = expr {
        return Ok(Argument::Literal(value.clone()));
    }
    let Some(expr) = unqualified(expr) else {
        return internal_err!("an aggregate holds a subquery");
    };
    Ok(Argument::Expr {
        text: expr.to_string(),
        data_type: expr.get_type(schema)?,
        expr: BoundExpr::new(session, expr, schema)?,
    })
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

/// HAVING, SELECT, ORDER BY and LIMIT over finished groups.
pub(crate) struct ResultPlan {
    session: Session,
    source: Arc<HeldBatches>,
    plan: Arc<dyn ExecutionPlan>,
    /// Where the columns of its input come from.
    pub columns: Vec<GroupColumn>,
    /// The names of the SELECT's columns.
    pub outputs: Vec<String>,
    /// Whether a LIMIT makes the result hang on which groups are asked together.
    pub limited: bool,
}

impl ResultPlan {
    fn try_new(
        session: &Session,
        analyzed: &LogicalPlan,
        aggregate: &Aggregate,
        columns: Vec<GroupColumn>,
    ) -> Result<Self> {
        let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let row: FieldRef = Arc::new(Field::new(ROW, DataType::Int64, true));
        let qualified: Vec<_> = aggregate
            .schema
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), nullable(field)))
            .chain([(None, row)])
            .collect();
        let fields: Vec<FieldRef> = qualified
            .iter()
            .map(|(_, field)| Arc::clone(field))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let source = HeldBatches::new(Arc::clone(&schema));
        let table = StreamingTable::try_new(schema, vec![Arc::clone(&source) as _])?;
        let scan = LogicalPlan::TableScan(TableScan {
            table_name: "groups".into(),
            source: provider_as_source(Arc::new(table)),
            projection: None,
            projected_schema: Arc::new(DFSchema::new_with_metadata(qualified, Default::default())?),
            filters: Vec::new(),
            fetch: None,
            statistics_requests: Default::default(),
        });
        let outputs = analyzed
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let mut limited = false;
        let above = rebuild_above(analyzed, &scan, &mut limited)?;
        let session = session.again();
        let state = session.context.state();
        // Some functions are written for the simplified form only. Other rules would look for the scan's own names.
        let simplify = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
        let above = simplify.optimize(above, &state, |_, _| {})?;
        let plan = session.wait(state.query_planner().create_physical_plan(&above, &state))?;
        Ok(Self {
            session,
            source,
            plan,
            columns,
            outputs,
            limited,
        })
    }

    /// Runs over groups: a batch with a column for each of `columns`, in that order.
    pub fn run(&self, groups: Vec<ArrayRef>, count: usize) -> Result<Vec<ResultRow>> {
        let mut columns = groups;
        columns.push(Arc::new(Int64Array::from_iter_values(0..count as i64)));
        let groups = RecordBatch::try_new(Arc::clone(&self.source.schema), columns)?;
        let results = self
            .source
            .during(vec![groups], || self.session.run_again(&self.plan));
        let mut rows = Vec::new();
        for result in results? {
            let schema = result.schema();
            let place = schema.index_of(ROW)?;
            let groups = result.column(place).as_primitive::<Int64Type>().clone();
            let named: Vec<(&str, ArrayRef)> = self
                .outputs
                .iter()
                .map(String::as_str)
                .zip(
                    (0..result.num_columns())
                        .filter(|column| *column != place)
                        .map(|column| Arc::clone(result.column(column))),
                )
                .collect();
            rows.extend((0..result.num_rows()).map(|row| ResultRow {
                group: groups.value(row) as usize,
                values: json::row(&named, row),
            }));
        }
        Ok(rows)
    }
}

/// What stands above the GROUP BY, over the scan of groups instead; the hidden column goes through each projection.
fn rebuild_above(
    plan: &LogicalPlan,
    scan: &LogicalPlan,
    limited: &mut bool,
) -> Result<LogicalPlan> {
    if matches!(plan, LogicalPlan::Aggregate(_)) {
        return Ok(scan.clone());
    }
    let inputs = plan
        .inputs()
        .into_iter()
        .map(|input| rebuild_above(input, scan, limited))
        .collect::<Result<Vec<_>>>()?;
    match plan {
        LogicalPlan::Limit(_) => {
            *limited = true;
            plan.with_new_exprs(plan.expressions(), inputs)
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = inputs.into_iter().next() else {
                return internal_err!("a projection has one input");
            };
            let row = Expr::Column(Column::new_unqualified(ROW));
            let exprs: Vec<Expr> = projection.expr.iter().cloned().chain([row]).collect();
            LogicalPlanBuilder::from(input).project(exprs)?.build()
        }
        _ => plan.with_new_exprs(plan.expressions(), inputs),
    }
}
