//! A detection's own SQL text over plain tables, and nothing of the engine's planning.
//!
//! ```text
//! file ─► header's times, SQL ─► logical plan ─┬─ below the GROUP BY ─► which rows pass WHERE
//!                                              └─ with the keys beside the result ─► the rows of one window
//! ```
//! `tumble` and `hop` are tables here: the caller puts rows in, each with the window it is to count in, and runs the text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    UInt32Array,
};
use arrow::compute::{cast, concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue, not_impl_err, plan_err};
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateDefaults, TaskContext};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SortExpr, Volatility,
};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use super::OracleError;
use crate::decode::table_schema;
use crate::detect::aggregates::{HOSTS_KNOWN, all as own_aggregates};
use crate::detect::views::Views;
use crate::detect::{Lists, SqlFile, Template, functions, growth};
use crate::json;
use crate::tables::Table;

/// The hidden column: which row of the caller's this is.
const PLACE: &str = "_place";
/// Longest text that enters a window, bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// How time is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub slide_ns: i64,
    pub size_ns: i64,
}

impl Windows {
    /// The starts of the windows that a time lies in.
    pub fn starts(self, time_ns: i64) -> impl Iterator<Item = i64> {
        let newest = time_ns.div_euclid(self.slide_ns) * self.slide_ns;
        (0..self.size_ns / self.slide_ns).map(move |back| newest - back * self.slide_ns)
    }
}

/// How repeats are folded, as the header says it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Folding {
    #[serde(default)]
    pub key: Vec<String>,
    #[serde(default, with = "humantime_serde")]
    pub period: Option<Duration>,
    pub limit: Option<u64>,
}

/// What of a header has to do with time; the rest is not the oracle's.
#[derive(Deserialize)]
struct Header {
    title: String,
    message: String,
    #[serde(default, with = "humantime_serde")]
    lateness: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    out_of_orderness: Option<Duration>,
    #[serde(default)]
    dedup: Folding,
}

/// One detection as its file says it.
pub(super) struct Query {
    pub detection_id: String,
    pub content_hash: String,
    /// The table that it reads.
    pub source: Table,
    pub title: String,
    pub message: Template,
    pub folding: Folding,
    /// How far a window waits beyond its end.
    pub delay_ns: i64,
    pub shape: Shape,
    table: Arc<Swap>,
    session: SessionContext,
    runtime: Arc<Runtime>,
}

/// What a query reads.
pub(super) enum Shape {
    /// Single events.
    Events(Arc<dyn ExecutionPlan>),
    /// Windows.
    Windows(Box<Grouped>),
}

/// A query over windows, cut into what the oracle asks of it.
pub(super) struct Grouped {
    pub windows: Windows,
    /// HAVING only ever turns true as rows come, and every result row is an alert.
    pub monotone: bool,
    /// Which of the group's keys are not the window itself, in GROUP BY order.
    identity: Vec<usize>,
    /// Name of each key, where it is a plain column.
    key_names: Vec<String>,
    /// Whether no key says whose the rows are.
    pub fleet: bool,
    /// Columns of `judged` that hold a host which must have been heard of for so many seconds.
    known_hosts: Vec<(usize, i64)>,
    /// Whether a LIMIT chooses among groups.
    limited: bool,
    /// The rows that pass WHERE, with what the GROUP BY and the aggregates compute of each.
    passing: Arc<dyn ExecutionPlan>,
    /// What those of a window are put into.
    judged: Arc<Swap>,
    /// The groups of a window, and what HAVING and SELECT make of them.
    groups: Arc<dyn ExecutionPlan>,
    result: Arc<dyn ExecutionPlan>,
}

/// One row of a result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// What the SELECT yields, as it is told.
    pub row: Map<String, Value>,
    /// The group's keys without the window, as one compact JSON array; empty on single events.
    pub keys: String,
    /// The key `container_id`, where it is one.
    pub container_id: Option<String>,
    /// Whether HAVING or SELECT cannot judge the group; the row holds its keys and aggregates then.
    pub failed: bool,
}

impl Query {
    /// Reads and plans a file.
    pub fn load(
        file: &Path,
        lists: &Lists,
        views: &Views,
        runtime: &Arc<Runtime>,
    ) -> Result<Self, OracleError> {
        let text =
            std::fs::read_to_string(file).map_err(|error| OracleError::file(file, &error))?;
        let sql_file = SqlFile::parse(&text);
        let (text, content_hash, source) = views
            .asked(&sql_file)
            .map_err(|reason| OracleError::file(file, &reason))?;
        let header: Header =
            toml::from_str(&sql_file.header).map_err(|error| OracleError::file(file, &error))?;
        let message =
            Template::parse(&header.message).map_err(|error| OracleError::file(file, &error))?;
        let delay = header.lateness.unwrap_or_default()
            + header.out_of_orderness.unwrap_or(Duration::from_secs(1));
        let planned = plan_shape(&text, lists, &table_schema(source), runtime);
        let (shape, table, session) = planned.map_err(|error| OracleError::file(file, &error))?;
        Ok(Self {
            detection_id: file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            content_hash,
            source,
            title: header.title,
            message,
            folding: header.dedup,
            delay_ns: i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX),
            shape,
            table,
            session,
            runtime: Arc::clone(runtime),
        })
    }

    /// What the query says of events.
    pub fn of_events(&self, rows: &RecordBatch) -> Result<Vec<Answer>> {
        let Shape::Events(plan) = &self.shape else {
            return plan_err!("the query reads windows");
        };
        let mut answers = Vec::new();
        for batch in self.run(plan, rows, &[])? {
            answers.extend((0..batch.num_rows()).map(|row| answer(&batch, row, &[], &[])));
        }
        Ok(answers)
    }

    /// Which of the rows pass WHERE, each in its window, and what is computed of them.
    pub fn passing(&self, rows: &RecordBatch, starts: &[i64]) -> Result<(Vec<usize>, RecordBatch)> {
        let grouped = self.grouped()?;
        let batches = self.run(&grouped.passing, rows, starts)?;
        let schema = grouped.passing.schema();
        let all = concat_batches(&schema, &batches)?;
        let places = all.column(0).as_primitive::<Int64Type>();
        let in_order = sort_to_indices(places, None, None)?;
        let all = take_record_batch(&all, &in_order)?;
        let places = all.column(0).as_primitive::<Int64Type>().values();
        let places = places.iter().map(|place| *place as usize).collect();
        let computed: Vec<usize> = (1..all.num_columns()).collect();
        let columns = all.project(&computed)?.columns().to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(all.num_rows()));
        let schema = Arc::clone(&grouped.judged.schema);
        let judged = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok((places, judged))
    }

    /// Which columns of what [`Query::passing`] computes wait for the host of each row, where it was heard of for so many seconds.
    pub fn known_hosts(&self) -> &[(usize, i64)] {
        match &self.shape {
            Shape::Windows(grouped) => &grouped.known_hosts,
            Shape::Events(_) => &[],
        }
    }

    /// What the query says of the rows of one window, as [`Query::passing`] computed them.
    pub fn of_window(&self, rows: &RecordBatch) -> Result<Vec<Answer>> {
        let grouped = self.grouped()?;
        if let Ok(answers) = self.answers(grouped, rows) {
            return Ok(answers);
        }
        // Group by group: those that HAVING and SELECT cannot judge are told as they are.
        let (mut good, mut alone, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for own in self.by_group(grouped, rows)?.into_values() {
            let of_group = take_record_batch(rows, &UInt32Array::from(own.clone()))?;
            match self.answers(grouped, &of_group) {
                Ok(own_answers) => {
                    if !own_answers.is_empty() {
                        good.extend(own);
                    }
                    alone.extend(own_answers);
                }
                Err(_) => answers.push(self.failed(grouped, &of_group)?),
            }
        }
        if !grouped.limited {
            answers.extend(alone);
            return Ok(answers);
        }
        let good = take_record_batch(rows, &UInt32Array::from(good))?;
        answers.extend(self.answers(grouped, &good).unwrap_or(alone));
        Ok(answers)
    }

    fn answers(&self, grouped: &Grouped, rows: &RecordBatch) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for batch in self.run_judged(&grouped.result, grouped, rows)? {
            answers.extend(
                (0..batch.num_rows())
                    .map(|row| answer(&batch, row, &grouped.key_names, &grouped.identity)),
            );
        }
        Ok(answers)
    }

    /// The rows of each group, by what its keys are as text.
    fn by_group(
        &self,
        grouped: &Grouped,
        rows: &RecordBatch,
    ) -> Result<BTreeMap<String, Vec<u32>>> {
        let keys = &rows.columns()[..grouped.key_names.len()];
        let key = |row: usize| -> String {
            let values: Vec<Value> = keys
                .iter()
                .map(|key| json::value(key.as_ref(), row))
                .collect();
            Value::Array(values).to_string()
        };
        Ok(grouped_by(
            (0..rows.num_rows()).map(|row| (key(row), row as u32)),
        ))
    }

    /// The group that these rows are, as it is.
    fn failed(&self, grouped: &Grouped, rows: &RecordBatch) -> Result<Answer> {
        let batches = self.run_judged(&grouped.groups, grouped, rows)?;
        let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1) else {
            return plan_err!("these rows are no group");
        };
        // The keys once more, as a result has them.
        let keys = (0..grouped.key_names.len()).map(|key| Arc::clone(batch.column(key)));
        let fields = batch.schema().fields().iter().cloned().collect::<Vec<_>>();
        let carried = (0..grouped.key_names.len())
            .map(|key| Arc::new(fields[key].as_ref().clone().with_name(format!("_key{key}"))));
        let schema = Schema::new(fields.iter().cloned().chain(carried).collect::<Vec<_>>());
        let columns = batch.columns().iter().cloned().chain(keys).collect();
        let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
        Ok(Answer {
            failed: true,
            ..answer(&batch, 0, &grouped.key_names, &grouped.identity)
        })
    }

    fn run_judged(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        grouped: &Grouped,
        rows: &RecordBatch,
    ) -> Result<Vec<RecordBatch>> {
        grouped.judged.put(rows.clone());
        let plan = reset_plan_states(Arc::clone(plan))?;
        self.runtime
            .block_on(collect(plan, self.session.task_ctx()))
    }

    fn grouped(&self) -> Result<&Grouped> {
        match &self.shape {
            Shape::Windows(grouped) => Ok(grouped),
            Shape::Events(_) => plan_err!("the query reads single events"),
        }
    }

    /// Runs a plan over these rows; `starts` holds the window of each.
    fn run(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        rows: &RecordBatch,
        starts: &[i64],
    ) -> Result<Vec<RecordBatch>> {
        let size_ns = match &self.shape {
            Shape::Windows(grouped) => grouped.windows.size_ns,
            Shape::Events(_) => 0,
        };
        let columns = self.table.schema.fields().iter().map(|field| {
            Ok(match field.name().as_str() {
                PLACE => {
                    Arc::new(Int64Array::from_iter_values(0..rows.num_rows() as i64)) as ArrayRef
                }
                "window_start" => timestamps(starts.iter().copied()),
                "window_end" => timestamps(starts.iter().map(|start| start + size_ns)),
                name => Arc::clone(rows.column(rows.schema_ref().index_of(name)?)),
            })
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let batch = RecordBatch::try_new_with_options(
            Arc::clone(&self.table.schema),
            columns.collect::<Result<Vec<_>>>()?,
            &options,
        )?;
        self.table.put(batch);
        let plan = reset_plan_states(Arc::clone(plan))?;
        self.runtime
            .block_on(collect(plan, self.session.task_ctx()))
    }
}

fn timestamps(times: impl Iterator<Item = i64>) -> ArrayRef {
    let times: arrow::array::TimestampNanosecondArray = times.map(Some).collect();
    Arc::new(times.with_timezone("+00:00"))
}

/// A row of a result: the SELECT's columns, then the keys.
fn answer(batch: &RecordBatch, row: usize, key_names: &[String], identity: &[usize]) -> Answer {
    let named = json::named(batch);
    let (selected, keys) = named.split_at(named.len() - key_names.len());
    let key = |index: &usize| json::value(keys[*index].1.as_ref(), row);
    let container = identity
        .iter()
        .find(|index| key_names[**index] == "container_id");
    Answer {
        row: json::told_row(selected, row),
        keys: Value::Array(identity.iter().map(key).collect()).to_string(),
        container_id: container.and_then(|index| key(index).as_str().map(str::to_owned)),
        failed: false,
    }
}

/// Plans the text twice: over all columns to learn which it names, then over these.
fn plan_shape(
    sql: &str,
    lists: &Lists,
    events: &SchemaRef,
    runtime: &Arc<Runtime>,
) -> Result<(Shape, Arc<Swap>, SessionContext)> {
    let first = Planned::new(sql, lists, events, runtime)?;
    let names = column_names(&first.logical)?;
    let fields = events.fields().iter();
    let narrow: Vec<_> = fields
        .filter(|field| names.contains(field.name()))
        .cloned()
        .collect();
    let planned = Planned::new(sql, lists, &Arc::new(Schema::new(narrow)), runtime)?;
    let physical =
        |plan: &LogicalPlan| runtime.block_on(planned.session.state().create_physical_plan(plan));
    let Some((table, windows)) = planned.relation else {
        let shape = Shape::Events(physical(&planned.logical)?);
        return Ok((shape, planned.events, planned.session));
    };
    let Some(aggregate) = find_aggregate(&planned.logical) else {
        return plan_err!("a query over windows needs a GROUP BY");
    };
    let keys: Vec<Column> = aggregate
        .schema
        .columns()
        .into_iter()
        .take(aggregate.group_expr.len())
        .collect();
    let is_window =
        |column: &Column| ["window_start", "window_end"].contains(&column.name.as_str());
    let place = aggregate
        .input
        .schema()
        .qualified_field_with_unqualified_name(PLACE)?;
    let (computed, calls, known_hosts) = computed(aggregate)?;
    let place = Expr::Column(Column::from(place));
    let passing = LogicalPlanBuilder::from(aggregate.input.as_ref().clone())
        .project(std::iter::once(place).chain(computed))?
        .build()?;
    let fields = passing.schema().fields().iter().skip(1);
    let fields = fields.map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    let judged = Swap::new(fields.collect());
    let groups = groups(aggregate, &judged, calls)?;
    let result = carry_keys(&planned.logical, &keys, &groups)?;
    let grouped = Grouped {
        fleet: !aggregate.group_expr.iter().any(of_a_host),
        limited: has_limit(&planned.logical),
        known_hosts,
        judged,
        groups: physical(&groups)?,
        windows,
        monotone: monotone(&planned.logical, aggregate),
        identity: (0..keys.len())
            .filter(|index| !is_window(&keys[*index]))
            .collect(),
        key_names: keys.iter().map(|key| key.name.clone()).collect(),
        passing: physical(&passing)?,
        result: physical(&result)?,
    };
    Ok((Shape::Windows(Box::new(grouped)), table, planned.session))
}

/// A text, planned over a table of given columns.
struct Planned {
    logical: LogicalPlan,
    events: Arc<Swap>,
    relation: Option<(Arc<Swap>, Windows)>,
    session: SessionContext,
}

impl Planned {
    fn new(sql: &str, lists: &Lists, events: &SchemaRef, runtime: &Arc<Runtime>) -> Result<Self> {
        let relation = Arc::new(Mutex::new(None));
        let mut scalars = growth::bounded(SessionStateDefaults::default_scalar_functions());
        scalars.extend(functions::all());
        let mut aggregates = SessionStateDefaults::default_aggregate_functions();
        aggregates.extend(own_aggregates());
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(scalars)
            .with_aggregate_functions(aggregates)
            .with_table_functions(relations(events, &relation))
            .build();
        let session = SessionContext::new_with_state(state);
        let table = Swap::new(events.fields().iter().cloned().collect());
        session.register_table("events", table.provider()?)?;
        for (name, rows) in lists {
            let list = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
            session.register_table(name.as_str(), Arc::new(list))?;
        }
        let logical = runtime.block_on(session.state().create_logical_plan(sql))?;
        let relation = relation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(Self {
            logical,
            events: table,
            relation,
            session,
        })
    }
}

/// The relation that a text named, left by its table function.
type Named = Arc<Mutex<Option<(Arc<Swap>, Windows)>>>;

fn relations(events: &SchemaRef, named: &Named) -> HashMap<String, Arc<TableFunction>> {
    let relation = |name: &str| {
        let function = Relation {
            events: Arc::clone(events),
            named: Arc::clone(named),
        };
        let table = TableFunction::new(name.to_owned(), Arc::new(function));
        (name.to_owned(), Arc::new(table))
    };
    HashMap::from([relation("tumble"), relation("hop")])
}

/// `tumble(events, size)` and `hop(events, slide, size)`: one table, to be filled later.
#[derive(Debug)]
struct Relation {
    events: SchemaRef,
    named: Named,
}

impl TableFunctionImpl for Relation {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let spans: Vec<i64> = args.exprs().iter().filter_map(nanoseconds).collect();
        let (Some(slide_ns), Some(size_ns)) = (spans.first().copied(), spans.last().copied())
        else {
            return plan_err!("a relation of windows needs an interval");
        };
        let timestamp = DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
        let mut fields: Vec<_> = self.events.fields().iter().cloned().collect();
        for name in ["window_start", "window_end"] {
            fields.push(Arc::new(Field::new(name, timestamp.clone(), false)));
        }
        fields.push(Arc::new(Field::new(PLACE, DataType::Int64, false)));
        let table = Swap::new(fields);
        let provider = table.provider()?;
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((table, Windows { slide_ns, size_ns }));
        Ok(provider)
    }
}

fn nanoseconds(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) => {
            Some(i64::from(span.days) * 86_400_000_000_000 + span.nanoseconds)
        }
        _ => None,
    }
}

/// Whether HAVING is a conjunction of counts that are to reach a number, and nothing after it drops a row.
fn monotone(plan: &LogicalPlan, aggregate: &Aggregate) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => monotone(&projection.input, aggregate),
        LogicalPlan::Filter(filter) => {
            matches!(filter.input.as_ref(), LogicalPlan::Aggregate(_))
                && reaches(&filter.predicate, aggregate)
        }
        _ => false,
    }
}

fn reaches(predicate: &Expr, aggregate: &Aggregate) -> bool {
    let Expr::BinaryExpr(binary) = predicate else {
        return false;
    };
    let (column, number, least) = match binary.op {
        Operator::And => {
            return reaches(&binary.left, aggregate) && reaches(&binary.right, aggregate);
        }
        Operator::Gt => (&binary.left, &binary.right, 0),
        Operator::GtEq => (&binary.left, &binary.right, 1),
        Operator::Lt => (&binary.right, &binary.left, 0),
        Operator::LtEq => (&binary.right, &binary.left, 1),
        _ => return false,
    };
    // What every group reaches is no threshold.
    counts(column, aggregate)
        && matches!(number.as_ref(), Expr::Literal(ScalarValue::Int64(Some(number)), _) if *number >= least)
}

/// Whether an expression is the aggregate's `count(..)`.
fn counts(expr: &Expr, aggregate: &Aggregate) -> bool {
    let Expr::Column(column) = expr else {
        return false;
    };
    aggregate.aggr_expr.iter().any(|candidate| {
        let named = candidate.schema_name().to_string() == column.name;
        let mut inner = candidate;
        while let Expr::Alias(alias) = inner {
            inner = &alias.expr;
        }
        named && matches!(inner, Expr::AggregateFunction(call) if ["count", HOSTS_KNOWN].contains(&call.func.name()))
    })
}

fn find_aggregate(plan: &LogicalPlan) -> Option<&Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some(aggregate),
        _ => plan.inputs().into_iter().find_map(find_aggregate),
    }
}

/// Puts the group's keys behind the result's columns; `groups` stands for the GROUP BY.
fn carry_keys(plan: &LogicalPlan, keys: &[Column], groups: &LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Aggregate(_) => Ok(groups.clone()),
        LogicalPlan::Projection(projection) => {
            let input = carry_keys(&projection.input, keys, groups)?;
            let carried = keys.iter().enumerate().map(|(index, key)| {
                let name = format!("_key{index}");
                let below = input.schema().has_column_with_unqualified_name(&name);
                let column = if below {
                    Column::new_unqualified(&name)
                } else {
                    key.clone()
                };
                Expr::Column(column).alias(name)
            });
            let exprs: Vec<Expr> = projection.expr.iter().cloned().chain(carried).collect();
            LogicalPlanBuilder::from(input).project(exprs)?.build()
        }
        LogicalPlan::Filter(_) => {
            let input = carry_keys(plan.inputs()[0], keys, groups)?;
            plan.with_new_exprs(plan.expressions(), vec![input])
        }
        LogicalPlan::Sort(sort) => {
            let input = carry_keys(&sort.input, keys, groups)?;
            let by = sort.expr.iter().cloned().chain(by_keys(&input, keys));
            LogicalPlanBuilder::from(input)
                .sort(by.collect::<Vec<_>>())?
                .build()
        }
        LogicalPlan::Limit(limit) => {
            let mut input = carry_keys(&limit.input, keys, groups)?;
            if !has_sort(&limit.input) {
                let by = by_keys(&input, keys);
                input = LogicalPlanBuilder::from(input).sort(by)?.build()?;
            }
            plan.with_new_exprs(plan.expressions(), vec![input])
        }
        other => not_impl_err!("the oracle knows no {} above a GROUP BY", other.display()),
    }
}

/// An order by the group's keys, which settles what a query leaves open.
fn by_keys(input: &LogicalPlan, keys: &[Column]) -> Vec<SortExpr> {
    let key = |(index, key): (usize, &Column)| {
        let name = format!("_key{index}");
        let carried = input.schema().has_column_with_unqualified_name(&name);
        let column = if carried {
            Column::new_unqualified(&name)
        } else {
            key.clone()
        };
        Expr::Column(column).sort(true, false)
    };
    keys.iter().enumerate().map(key).collect()
}

fn has_sort(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Sort(_)) || plan.inputs().into_iter().any(has_sort)
}

/// What is computed of each row, the aggregates over that, and which columns are hosts that must be known for so many seconds.
type Computed = (Vec<Expr>, Vec<Expr>, Vec<(usize, i64)>);

/// What a GROUP BY and its aggregates compute of each row, the keys first, texts cut; and the aggregates over these columns.
fn computed(aggregate: &Aggregate) -> Result<Computed> {
    let schema = aggregate.input.schema();
    let mut computed: Vec<Expr> = Vec::new();
    let mut column = |expr: Expr| {
        let name = format!("_v{}", computed.len());
        let value = match expr.get_type(schema) {
            Ok(kind) if kind.is_string() => ScalarUDF::from(Cut::new()).call(vec![expr]),
            _ => expr,
        };
        computed.push(value.alias(&name));
        Expr::Column(Column::new_unqualified(name))
    };
    for key in &aggregate.group_expr {
        column(key.clone());
    }
    let mut known_hosts = Vec::new();
    let mut calls = Vec::new();
    for call in &aggregate.aggr_expr {
        let mut call = call.clone();
        while let Expr::Alias(alias) = call {
            call = *alias.expr;
        }
        if let Expr::AggregateFunction(call) = &mut call
            && call.func.name() == HOSTS_KNOWN
        {
            let Some(span) = call.params.args.first().and_then(nanoseconds) else {
                return plan_err!("hosts_known takes a span");
            };
            let seconds = span / 1_000_000_000;
            // The query may read no host: the caller knows whose rows these are.
            let host = column(Expr::Literal(ScalarValue::Utf8(None), None));
            let place = computed_place(&host);
            known_hosts.push((place, seconds));
            call.func = count_udaf();
            call.params.distinct = true;
            call.params.args = vec![host];
        } else if let Expr::AggregateFunction(call) = &mut call {
            let params = &mut call.params;
            let ordered = params.order_by.iter_mut().map(|sort| &mut sort.expr);
            let filter = params.filter.iter_mut().map(|filter| filter.as_mut());
            for expr in params.args.iter_mut().chain(ordered).chain(filter) {
                if !matches!(expr, Expr::Literal(..)) {
                    *expr = column(expr.clone());
                }
            }
        }
        calls.push(call);
    }
    Ok((computed, calls, known_hosts))
}

/// The place of a computed column, by its name.
fn computed_place(column: &Expr) -> usize {
    let name = column.schema_name().to_string();
    let number = name
        .strip_prefix("_v")
        .and_then(|number| number.parse().ok());
    number.unwrap_or(usize::MAX)
}

/// The groups of a window, under the names that the query knows them by.
fn groups(aggregate: &Aggregate, judged: &Arc<Swap>, calls: Vec<Expr>) -> Result<LogicalPlan> {
    let scan = LogicalPlanBuilder::scan("_judged", provider_as_source(judged.provider()?), None)?;
    let count = aggregate.group_expr.len();
    let keys = (0..count).map(|key| {
        Expr::Column(Column::new_unqualified(format!("_v{key}"))).alias(format!("_in{key}"))
    });
    let calls = calls.into_iter().enumerate();
    let calls = calls.map(|(index, call)| call.alias(format!("_in{}", count + index)));
    let named = aggregate.schema.columns().into_iter().enumerate();
    let named = named.map(|(index, column)| {
        Expr::Column(Column::new_unqualified(format!("_in{index}")))
            .alias_qualified(column.relation, column.name)
    });
    scan.aggregate(keys.collect::<Vec<_>>(), calls.collect::<Vec<_>>())?
        .project(named)?
        .build()
}

/// Whether a key says which host a row is of.
fn of_a_host(key: &Expr) -> bool {
    let names = [
        "host_id",
        "host_name",
        "container_id",
        "container_full_id",
        "proc_key",
        "proc_pkey",
        "proc_skey",
    ];
    matches!(key, Expr::Column(column) if names.contains(&column.name.as_str()))
}

fn has_limit(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Limit(_)) || plan.inputs().into_iter().any(has_limit)
}

/// Names of all columns in a plan's expressions.
fn column_names(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = part {
                    names.insert(column.name.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        if let LogicalPlan::Join(join) = node {
            let sides = join.on.iter().flat_map(|(left, right)| [left, right]);
            for side in sides {
                names.extend(
                    side.column_refs()
                        .into_iter()
                        .map(|column| column.name.clone()),
                );
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(names)
}

/// A table whose one batch is exchanged before each run.
#[derive(Debug)]
struct Swap {
    schema: SchemaRef,
    rows: Mutex<RecordBatch>,
}

impl Swap {
    fn new(fields: Vec<Arc<Field>>) -> Arc<Self> {
        let schema = Arc::new(Schema::new(fields));
        Arc::new(Self {
            rows: Mutex::new(RecordBatch::new_empty(Arc::clone(&schema))),
            schema,
        })
    }

    fn provider(self: &Arc<Self>) -> Result<Arc<dyn TableProvider>> {
        let table = StreamingTable::try_new(Arc::clone(&self.schema), vec![Arc::clone(self) as _])?;
        Ok(Arc::new(table))
    }

    fn put(&self, rows: RecordBatch) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

impl PartitionStream for Swap {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self
            .rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let stream = futures::stream::iter([Ok(rows)]);
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream,
        ))
    }
}

/// Cuts a text to the bytes that enter a window, at a character.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Cut {
    signature: Signature,
}

impl Cut {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Cut {
    fn name(&self) -> &str {
        "_cut"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let kind = values.data_type().clone();
        let texts = cast(&values, &DataType::Utf8View)?;
        let cut: StringViewArray = texts
            .as_string_view()
            .iter()
            .map(|text| text.map(|text| &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]))
            .collect();
        Ok(ColumnarValue::Array(cast(&cut, &kind)?))
    }
}

/// The lists of a folder of detections; what is broken there is the loader's to refuse.
pub(super) fn lists(folder: &Path) -> Result<Lists, OracleError> {
    Ok(crate::detect::load_lists(folder)?.lists)
}

/// The column of a batch that holds texts, by name.
pub(super) fn texts<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a StringViewArray> {
    Ok(rows
        .column(rows.schema_ref().index_of(name)?)
        .as_string_view())
}

/// Groups things by a key, in the order of keys.
pub(super) fn grouped_by<K: Ord, V>(
    pairs: impl IntoIterator<Item = (K, V)>,
) -> BTreeMap<K, Vec<V>> {
    let mut groups = BTreeMap::<K, Vec<V>>::new();
    for (key, value) in pairs {
        groups.entry(key).or_default().push(value);
    }
    groups
}
