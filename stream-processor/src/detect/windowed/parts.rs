//! What stands in GROUP BY and in the aggregates, taken apart; what cannot be kept in bounded memory is refused.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::common::{DFSchema, ScalarValue, internal_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable, SortExpr};

use super::{AggregateCall, Argument, HOST_KEYS, IDENTITY, Key};
use crate::detect::aggregates::{self, DISTINCT_CAP, HOSTS_KNOWN};
use crate::detect::filter::{BoundExpr, unqualified};
use crate::detect::session::Session;
use crate::detect::sql_file::{Fault, PlanError, SqlFile};
use crate::detect::window::{WINDOW_END, WINDOW_START, literal_ns};

/// The column that settles the order of a host's rows: times may be equal, and which of two equal ones comes first would
/// depend on how states were merged.
const PLACE: &str = "seq";

const SECOND_NS: i64 = 1_000_000_000;
/// For how long `hosts_known` may ask that a host was heard of, seconds.
const KNOWN_SECONDS: RangeInclusive<i64> = 1..=30 * 86_400;

/// Where each column of the groups comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupColumn {
    WindowStart,
    WindowEnd,
    Key(usize),
    Aggregate(usize),
}

/// A query's GROUP BY and aggregates.
pub(super) struct Parts {
    pub keys: Vec<Key>,
    pub calls: Vec<AggregateCall>,
    /// Where each column of the groups comes from, in their order.
    pub places: Vec<GroupColumn>,
    /// Whether no key says whose the rows are.
    pub fleet: bool,
}

impl Parts {
    /// Takes them apart; expressions are bound to `schema`, the columns of events.
    pub fn of(
        session: &Session,
        aggregate: &Aggregate,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<Self, PlanError> {
        let mut parts = Self {
            keys: Vec::new(),
            calls: Vec::new(),
            places: Vec::new(),
            fleet: false,
        };
        for expr in &aggregate.group_expr {
            parts.add_key(session, expr, schema, file)?;
        }
        let of_host = |column: &str| HOST_KEYS.contains(&column);
        let mut keys = parts.keys.iter();
        parts.fleet = !keys.any(|key| key.column.as_deref().is_some_and(of_host));
        for expr in &aggregate.aggr_expr {
            parts.add_call(session, expr, schema, file)?;
        }
        parts.check_keys(file)?;
        Ok(parts)
    }

    fn add_key(
        &mut self,
        session: &Session,
        expr: &Expr,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<(), PlanError> {
        let refuse = |reason: String, mend: &str| -> Result<(), PlanError> {
            Err(Fault::new(file.line_of("group by"), reason, mend).into())
        };
        let plain = match expr {
            Expr::Column(column) => Some(column.name.clone()),
            _ => None,
        };
        match plain.as_deref() {
            Some(WINDOW_START) => {
                self.places.push(GroupColumn::WindowStart);
                return Ok(());
            }
            Some(WINDOW_END) => {
                self.places.push(GroupColumn::WindowEnd);
                return Ok(());
            }
            _ => {}
        }
        if matches!(expr, Expr::GroupingSet(_)) {
            let reason = "GROUPING SETS, ROLLUP and CUBE group in several ways at once";
            return refuse(reason.to_owned(), "write a detection for each");
        }
        if reads_window(expr) {
            let reason = format!("GROUP BY computes with the window: {expr}");
            return refuse(reason, "group by window_start and window_end themselves");
        }
        let Some(expr) = unqualified(expr) else {
            return Ok(internal_err!("a key holds a subquery")?);
        };
        let data_type = expr.get_type(schema)?;
        if data_type.is_floating() || data_type.is_nested() {
            let reason =
                format!("GROUP BY {expr} is of type {data_type}, whose equal values may differ");
            return refuse(reason, "group by text, whole numbers or booleans");
        }
        self.places.push(GroupColumn::Key(self.keys.len()));
        self.keys.push(Key {
            column: plain,
            text: expr.to_string(),
            expr: BoundExpr::new(session, expr, schema)?,
            data_type,
        });
        Ok(())
    }

    fn add_call(
        &mut self,
        session: &Session,
        expr: &Expr,
        schema: &DFSchema,
        file: &SqlFile,
    ) -> Result<(), PlanError> {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let Expr::AggregateFunction(call) = expr else {
            return Ok(internal_err!("{expr} is no aggregate")?);
        };
        let line = file.line_of(&format!("{}(", call.func.name()));
        if reads_window(expr) {
            let mend = "use window_start and window_end outside of aggregates";
            return Err(Fault::new(line, "an aggregate computes with the window", mend).into());
        }
        let argument = |expr: &Expr| argument(session, expr, schema);
        let arguments = call.params.args.iter().map(argument);
        let mut arguments = arguments.collect::<Result<Vec<_>, PlanError>>()?;
        if call.func.name() == HOSTS_KNOWN {
            arguments = vec![self.known_host(&arguments, line)?];
        }
        let mut order_by = Vec::new();
        for by in &call.params.order_by {
            let SortExpr {
                expr,
                asc,
                nulls_first,
            } = by;
            order_by.push((argument(expr)?, *asc, *nulls_first));
        }
        let filter = call.params.filter.as_deref().map(argument).transpose()?;
        let state_bytes = state_bytes(call, &arguments)
            .map_err(|(reason, mend)| Fault::new(line, reason, mend))?;
        check_order(call, line, self.fleet)?;
        let mut function = Arc::clone(&call.func);
        // min and max of distinct values are those of all.
        if call.func.name() == "count" && call.params.distinct {
            if arguments.len() != 1 {
                let mend = "count one, such as concat(a, '/', b)";
                let reason = "count(DISTINCT ..) of several values";
                return Err(Fault::new(line, reason, mend).into());
            }
            function = aggregates::distinct_count();
            arguments.push(Argument::Literal(ScalarValue::Int64(Some(DISTINCT_CAP))));
        }
        if call.func.name() == HOSTS_KNOWN {
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
        Ok(())
    }

    /// What `hosts_known` counts: hosts by the span that they must have been heard of for.
    fn known_host(&self, arguments: &[Argument], line: usize) -> Result<Argument, Fault> {
        if !self.fleet {
            let mend = "leave the keys that name a host out of GROUP BY, or use count(*)";
            let reason = "hosts_known counts hosts, and the window is of one";
            return Err(Fault::new(line, reason, mend));
        }
        let seconds = match arguments {
            [Argument::Literal(span)] => literal_ns(span).map(|ns| ns / SECOND_NS),
            _ => None,
        };
        match seconds.filter(|seconds| KNOWN_SECONDS.contains(seconds)) {
            Some(seconds) => Ok(Argument::KnownHost(seconds)),
            None => Err(Fault::new(
                line,
                "hosts_known takes a span from 1 second to 30 days",
                "write hosts_known(INTERVAL '10 minutes')",
            )),
        }
    }

    fn check_keys(&self, file: &SqlFile) -> Result<(), Fault> {
        let line = file.line_of("group by");
        let window = [GroupColumn::WindowStart, GroupColumn::WindowEnd];
        if !self.places.iter().any(|place| window.contains(place)) {
            return Err(Fault::new(
                line,
                "GROUP BY lacks the window, so the query counts over all windows together",
                "add window_start and window_end to GROUP BY",
            ));
        }
        Ok(())
    }
}

/// Bytes of the state of one key at most; the error is reason and mend.
fn state_bytes(call: &AggregateFunction, arguments: &[Argument]) -> Result<u64, (String, String)> {
    let text = arguments.first().is_some_and(
        |argument| matches!(argument, Argument::Expr { data_type, .. } if data_type.is_string()),
    );
    let size = arguments.get(1).and_then(|argument| match argument {
        Argument::Literal(ScalarValue::Int64(size)) => *size,
        _ => None,
    });
    aggregates::state_bytes(call.func.name(), call.params.distinct, text, size)
}

/// Refuses a first and last value without an order, and an order where none matters. Over all hosts it must tell these apart.
fn check_order(call: &AggregateFunction, line: usize, fleet: bool) -> Result<(), Fault> {
    let name = call.func.name();
    let order_by = &call.params.order_by;
    if !matches!(name, "first_value" | "last_value") {
        if order_by.is_empty() {
            return Ok(());
        }
        let reason = format!("{name} does not depend on an order");
        return Err(Fault::new(line, reason, "leave its ORDER BY out"));
    }
    let texts: Vec<String> = order_by.iter().map(|sort| sort.expr.to_string()).collect();
    let names = texts.iter().filter_map(|text| text.rsplit('.').next());
    let names: Vec<&str> = names.collect();
    let hosts_apart = !fleet || IDENTITY.iter().all(|column| names.contains(column));
    if names.last() == Some(&PLACE) && hosts_apart {
        return Ok(());
    }
    let order = match fleet {
        true => format!("ts, {}", IDENTITY.join(", ")),
        false => format!("ts, {PLACE}"),
    };
    let mend = format!("write {name}(value ORDER BY {order})");
    let reason = match names.last() {
        None => format!("{name} without an order takes whichever row comes first"),
        Some(&PLACE) => format!("{name} does not tell rows of several hosts apart by its order"),
        Some(_) => format!("{name} does not end its order with {PLACE}, so rows may tie"),
    };
    Err(Fault::new(line, reason, mend))
}

/// Whether an expression reads the window itself.
fn reads_window(expr: &Expr) -> bool {
    expr.column_refs()
        .iter()
        .any(|column| column.name == WINDOW_START || column.name == WINDOW_END)
}

/// What a call says, without its FILTER.
pub(super) fn call_text(
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

fn argument(session: &Session, expr: &Expr, schema: &DFSchema) -> Result<Argument, PlanError> {
    if let Expr::Literal(value, _) = expr {
        return Ok(Argument::Literal(value.clone()));
    }
    let Some(expr) = unqualified(expr) else {
        return Ok(internal_err!("an aggregate holds a subquery")?);
    };
    Ok(Argument::Expr {
        text: expr.to_string(),
        data_type: expr.get_type(schema)?,
        expr: BoundExpr::new(session, expr, schema)?,
    })
}
