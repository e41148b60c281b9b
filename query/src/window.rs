//! Windows as relations: `tumble(events, size)` and `hop(events, slide, size)`.
//!
//! ```text
//! FROM hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')
//!   ──► every row of events once a window it lies in, with window_start and window_end
//! ```
//! A window is `[start, end)`, aligned to 1970; a row lies in `size / slide` of them. The same text over a plain table is
//! plain SQL: what stands for the relation is the caller's, here it only is planned.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};

use crate::tables::EVENTS;

/// Name of the column of a window's start.
pub const WINDOW_START: &str = "window_start";
/// Name of the column of a window's end.
pub const WINDOW_END: &str = "window_end";

/// The shortest window.
const SIZE_MIN: Duration = Duration::from_secs(1);
/// The longest window: longer memories are baselines.
const SIZE_MAX: Duration = Duration::from_secs(24 * 3_600);
const SECOND_NS: i64 = 1_000_000_000;
/// Most windows a row lies in, which is how many panes a window is made of.
pub const PANES_MAX: i64 = 60;

/// Key of a table's schema under which the windows stand that it is a relation of.
const METADATA: &str = "dogwatch.window";

/// How time is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowSpec {
    /// How long a window is, nanoseconds.
    pub size_ns: i64,
    /// How far apart two windows start, nanoseconds; the size where they do not overlap.
    pub slide_ns: i64,
}

impl WindowSpec {
    /// How many windows a row lies in.
    pub fn panes(self) -> i64 {
        self.size_ns / self.slide_ns
    }

    /// The starts of the windows that a time lies in, the earliest first.
    pub fn starts(self, time_ns: i64) -> impl Iterator<Item = i64> {
        let last = floor_to(time_ns, self.slide_ns);
        (0..self.panes())
            .rev()
            .map(move |back| last - back * self.slide_ns)
    }

    fn checked(slide_ns: i64, size_ns: i64) -> Result<Self> {
        let bounds = SIZE_MIN.as_nanos() as i64..=SIZE_MAX.as_nanos() as i64;
        if !bounds.contains(&size_ns) {
            return plan_err!(
                "a window of {} is not between 1 second and 24 hours; longer memories are baselines",
                interval(size_ns)
            );
        }
        if slide_ns <= 0 {
            return plan_err!("a hop's slide must be more than nothing");
        }
        if slide_ns > size_ns {
            return plan_err!(
                "hop takes the slide first and then the size, and a slide of {} is longer than a window of {}; write hop(events, INTERVAL '{}', INTERVAL '{}')",
                interval(slide_ns),
                interval(size_ns),
                interval(size_ns),
                interval(slide_ns)
            );
        }
        if size_ns % slide_ns != 0 || size_ns / slide_ns > PANES_MAX {
            let mend = nearest_slide(slide_ns, size_ns);
            return plan_err!(
                "a hop of {} does not divide a window of {} into 1 to {PANES_MAX} parts; the nearest that does is INTERVAL '{}'",
                interval(slide_ns),
                interval(size_ns),
                interval(mend)
            );
        }
        Ok(Self { size_ns, slide_ns })
    }
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.size_ns == self.slide_ns {
            write!(formatter, "tumble {}", interval(self.size_ns))
        } else {
            write!(
                formatter,
                "hop {} every {}",
                interval(self.size_ns),
                interval(self.slide_ns)
            )
        }
    }
}

/// The largest multiple of `step` that is not above `value`.
pub fn floor_to(value: i64, step: i64) -> i64 {
    value - value.rem_euclid(step)
}

/// A span of time as SQL's interval takes it.
pub fn interval(ns: i64) -> String {
    const UNITS: [(i64, &str); 4] = [
        (3_600_000_000_000, "hour"),
        (60_000_000_000, "minute"),
        (1_000_000_000, "second"),
        (1_000_000, "millisecond"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| ns != 0 && ns % unit == 0);
    match unit {
        Some((unit, name)) => {
            let count = ns / unit;
            format!("{count} {name}{}", if count == 1 { "" } else { "s" })
        }
        None => format!("{ns} nanoseconds"),
    }
}

/// The slide nearest to `slide_ns` that cuts `size_ns` into whole parts, at most [`PANES_MAX`] of them; of whole seconds
/// where the window is.
fn nearest_slide(slide_ns: i64, size_ns: i64) -> i64 {
    let unit = if size_ns % SECOND_NS == 0 {
        SECOND_NS
    } else {
        1
    };
    (1..=PANES_MAX)
        .filter(|parts| size_ns % (parts * unit) == 0)
        .map(|parts| size_ns / parts)
        .min_by_key(|slide| slide.abs_diff(slide_ns))
        .unwrap_or(size_ns)
}

/// Makes the table that stands for a relation of windows; it is given the relation's schema.
pub type WindowTables =
    Arc<dyn Fn(WindowSpec, SchemaRef) -> Result<Arc<dyn TableProvider>> + Send + Sync>;

/// The table functions `tumble` and `hop` over rows of `events`.
pub fn table_functions(
    events: &SchemaRef,
    tables: &WindowTables,
) -> HashMap<String, Arc<TableFunction>> {
    let function = |kind: Kind| {
        let name = kind.name().to_owned();
        let function = WindowFunction {
            kind,
            events: Arc::clone(events),
            tables: Arc::clone(tables),
        };
        let table = TableFunction::new(name.clone(), Arc::new(function));
        (name, Arc::new(table))
    };
    HashMap::from([function(Kind::Tumble), function(Kind::Hop)])
}

/// Whether a name is that of a relation of windows.
pub fn names_window(name: &str) -> bool {
    [Kind::Tumble, Kind::Hop]
        .iter()
        .any(|kind| kind.name() == name)
}

/// The windows that a scan is a relation of; none for any other table.
pub fn spec_of(scan: &TableScan) -> Option<WindowSpec> {
    let schema = scan.source.schema();
    let (slide, size) = schema.metadata().get(METADATA)?.split_once('/')?;
    Some(WindowSpec {
        slide_ns: slide.parse().ok()?,
        size_ns: size.parse().ok()?,
    })
}

/// The scan of windows in a plan, subqueries not counted, when there is one.
pub fn find_scan(plan: &LogicalPlan) -> Option<WindowSpec> {
    match plan {
        LogicalPlan::TableScan(scan) => spec_of(scan),
        _ => plan.inputs().into_iter().find_map(find_scan),
    }
}

/// The schema of events with the columns of a window.
fn windowed(events: &SchemaRef, spec: WindowSpec) -> SchemaRef {
    let timestamp = || DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
    let mut fields = events.fields().to_vec();
    for name in [WINDOW_START, WINDOW_END] {
        fields.push(Arc::new(Field::new(name, timestamp(), false)));
    }
    let metadata = HashMap::from([(
        METADATA.to_owned(),
        format!("{}/{}", spec.slide_ns, spec.size_ns),
    )]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tumble,
    Hop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "write tumble(events, INTERVAL '1 minute')",
            Self::Hop => {
                "write hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes'): slide, then size"
            }
        }
    }
}

struct WindowFunction {
    kind: Kind,
    events: SchemaRef,
    tables: WindowTables,
}

impl fmt::Debug for WindowFunction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.kind.name())
    }
}

impl TableFunctionImpl for WindowFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (name, usage) = (self.kind.name(), self.kind.usage());
        let Some((table, spans)) = args.exprs().split_first() else {
            return plan_err!("{name} says no table and no window; {usage}");
        };
        if !matches!(table, Expr::Column(column) if column.relation.is_none() && column.name == EVENTS)
        {
            return plan_err!("{name} is of {table}, but windows are of {EVENTS}; {usage}");
        }
        let spans = spans
            .iter()
            .map(|span| {
                span_ns(span).map_or_else(
                    || plan_err!("{name}: {} is no fixed span of time; {usage}", shown(span)),
                    Ok,
                )
            })
            .collect::<Result<Vec<i64>>>()?;
        let spec = match (self.kind, spans.as_slice()) {
            (Kind::Tumble, [size]) => WindowSpec::checked(*size, *size),
            (Kind::Hop, [slide, size]) => WindowSpec::checked(*slide, *size),
            _ => plan_err!(
                "{name} takes other spans of time, a window without an end grows for ever; {usage}"
            ),
        }?;
        (self.tables)(spec, windowed(&self.events, spec))
    }
}

/// An expression that is no span, as an author writes it.
fn shown(expr: &Expr) -> String {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) => {
            let months = span.months;
            format!(
                "INTERVAL '{months} month{}'",
                if months == 1 { "" } else { "s" }
            )
        }
        Expr::Literal(ScalarValue::IntervalYearMonth(Some(months)), _) => {
            format!(
                "INTERVAL '{months} month{}'",
                if *months == 1 { "" } else { "s" }
            )
        }
        Expr::Literal(value, _) => match value.try_as_str().flatten() {
            Some(text) => format!("'{text}'"),
            None => value.to_string(),
        },
        expr => expr.human_display().to_string(),
    }
}

/// The nanoseconds of a literal interval; none when it is not of fixed length.
fn span_ns(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => literal_ns(value),
        _ => None,
    }
}

/// The nanoseconds of an interval; none when it is not of fixed length.
pub fn literal_ns(value: &ScalarValue) -> Option<i64> {
    const DAY_NS: i64 = 86_400_000_000_000;
    match value {
        ScalarValue::IntervalMonthDayNano(Some(span)) if span.months == 0 => i64::from(span.days)
            .checked_mul(DAY_NS)?
            .checked_add(span.nanoseconds),
        ScalarValue::IntervalDayTime(Some(span)) => i64::from(span.days)
            .checked_mul(DAY_NS)?
            .checked_add(i64::from(span.milliseconds) * 1_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_time_lies_in_every_window_that_covers_it() {
        let spec = WindowSpec::checked(30 * SECOND, 120 * SECOND).expect("a hop");
        for time in [
            -45 * SECOND,
            0,
            29 * SECOND,
            30 * SECOND,
            1_000_000 * SECOND + 7,
        ] {
            let starts: Vec<i64> = spec.starts(time).collect();
            assert_eq!(starts.len(), 4);
            assert!(starts.is_sorted());
            for start in starts {
                assert!(start % (30 * SECOND) == 0 && start <= time && time < start + 120 * SECOND);
            }
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_the_nearest_that_is() {
        fn check(slide: i64, size: i64, mend: &str) {
            let refused = WindowSpec::checked(slide * SECOND, size * SECOND).expect_err("refused");
            assert!(refused.to_string().contains(mend), "{refused}");
        }
        check(7, 60, "INTERVAL '6 seconds'");
        check(45, 60, "INTERVAL '1 minute'");
        check(
            300,
            30,
            "write hop(events, INTERVAL '30 seconds', INTERVAL '5 minutes')",
        );
        check(1, 300, "INTERVAL '5 seconds'");
        check(0, 60, "more than nothing");
        check(200_000, 200_000, "24 hours");
        assert_eq!(interval(90 * SECOND), "90 seconds");
        assert_eq!(interval(60 * SECOND), "1 minute");
    }
}
