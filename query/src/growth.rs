//! Functions whose answer may be much larger than what they are given, under a bound.
//!
//! `repeat(proc_name, 200000000)` is one allocation that ends the process, and who starts a program chooses what a
//! detection repeats. So the size of the answer is reckoned before it is made: a row that would have more than
//! [`VALUE_BYTES_MAX`] cannot be judged, and rows that would have more than `BATCH_BYTES_MAX` together are judged in
//! halves, as wherever rows cannot be judged.
//!
//! The operator `||` is no function; [`bound_concatenation`] makes it one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

/// Largest value that a function makes of one row, bytes.
pub const VALUE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes that a function makes of one batch.
const BATCH_BYTES_MAX: u64 = 256 << 20;
/// Most steps that a function takes for one row.
const STEPS_MAX: u64 = 16 << 20;

const DAY_NS: i64 = 86_400_000_000_000;

/// How large an answer is, of the sizes of the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// All arguments together.
    Sum,
    /// The first as often as the second says.
    Times,
    /// As [`Growth::Times`], in a list.
    TimesItem,
    /// As many items or characters as the second says, each as large as the third (or one character).
    UpTo,
    /// The first, with each place of the second replaced by the third.
    Replace,
    /// As [`Growth::Replace`], where a place is whatever a pattern matches.
    ReplacePattern,
    /// The first, with the second between its items.
    Join,
    /// As many numbers as lie between the first and the second.
    Range,
    /// No larger than its arguments, but as many steps as their product.
    Steps,
    /// As [`Growth::Steps`], by the items of two lists.
    StepsOfItems,
    /// Two bytes for each of the first.
    Double,
}

/// The functions that are bounded.
const BOUNDED: [(&str, Growth); 25] = [
    ("repeat", Growth::Times),
    ("array_repeat", Growth::TimesItem),
    ("lpad", Growth::UpTo),
    ("rpad", Growth::UpTo),
    ("array_resize", Growth::UpTo),
    ("replace", Growth::Replace),
    ("array_replace", Growth::ReplacePattern),
    ("array_replace_n", Growth::ReplacePattern),
    ("array_replace_all", Growth::ReplacePattern),
    ("regexp_replace", Growth::ReplacePattern),
    ("array_to_string", Growth::Join),
    ("concat_ws", Growth::Join),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
    ("concat", Growth::Sum),
    ("make_array", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("array_append", Growth::Sum),
    ("array_prepend", Growth::Sum),
    ("array_union", Growth::Sum),
    ("overlay", Growth::Sum),
    ("levenshtein", Growth::Steps),
    ("array_has_any", Growth::StepsOfItems),
    ("array_has_all", Growth::StepsOfItems),
    ("encode", Growth::Double),
];

/// The functions that make a value of any type that is named.
const OF_ANY_TYPE: [&str; 2] = ["arrow_cast", "arrow_try_cast"];

/// The same functions, those that grow under their bound, and of those that make any type those types that grow not.
pub fn bounded(functions: Vec<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let bound = |function: Arc<ScalarUDF>| {
        let known = BOUNDED.iter().find(|(name, _)| *name == function.name());
        match known {
            Some((_, growth)) => Arc::new(ScalarUDF::from(Bounded {
                inner: function,
                growth: *growth,
            })),
            None if OF_ANY_TYPE.contains(&function.name()) => {
                Arc::new(ScalarUDF::from(Typed { inner: function }))
            }
            None => function,
        }
    };
    functions.into_iter().map(bound).collect()
}

/// Puts a bounded function in the place of each `||` over texts.
pub fn bound_concatenation(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| match part {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::StringConcat,
            right,
        }) => {
            let function = Arc::new(ScalarUDF::from(Joined::new()));
            let call = ScalarFunction::new_udf(function, vec![*left, *right]);
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    })
}

/// A function that is asked only for what it may make.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check(self.name(), self.growth, &args.args, args.number_rows)?;
        self.inner.invoke_with_args(args)
    }

    // `simplify` is left out: what a function becomes when it is simplified would have no bound.
    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Original(args))
    }
}

/// A function that is asked only for types whose values are as large as what they are made of: an item of a list of fixed size
/// may be told to be two thousand million, and a number to have more places behind the point than it has.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Typed {
    inner: Arc<ScalarUDF>,
}

impl Typed {
    fn check(&self, kind: &DataType) -> Result<()> {
        let plain = match kind {
            DataType::Decimal32(places, scale)
            | DataType::Decimal64(places, scale)
            | DataType::Decimal128(places, scale)
            | DataType::Decimal256(places, scale) => (0..=*places as i8).contains(scale),
            DataType::Dictionary(..) | DataType::RunEndEncoded(..) => false,
            DataType::FixedSizeBinary(_) => false,
            kind => !kind.is_nested(),
        };
        match plain {
            true => Ok(()),
            false => plan_err!(
                "{} makes no {kind} here: use CAST, or a type of plain values",
                self.inner.name()
            ),
        }
    }
}

impl ScalarUDFImpl for Typed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        self.check(field.data_type())?;
        Ok(field)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(args.return_field.data_type())?;
        self.inner.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let simplified = self.inner.simplify(args, context)?;
        // A condition is simplified before anybody asks for its type.
        if let ExprSimplifyResult::Simplified(
            Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }),
        ) = &simplified
        {
            self.check(field.data_type())?;
        }
        Ok(simplified)
    }
}

/// `left || right` over texts: NULL where either is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    signature: Signature,
}

impl Joined {
    fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        "joined"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The operator's: columns above are known by it.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args
            .iter()
            .map(|arg| arg.schema_name().to_string())
            .collect();
        Ok(names.join(" || "))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [left, right] if !left.is_nested() && !right.is_nested() => {
                Ok(vec![DataType::Utf8View, DataType::Utf8View])
            }
            _ => plan_err!("|| joins texts; use array_concat for lists"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check("||", Growth::Sum, &args.args, args.number_rows)?;
        let left = crate::functions::texts(&args.args[0], args.number_rows)?;
        let right = crate::functions::texts(&args.args[1], args.number_rows)?;
        let joined: arrow::array::StringViewArray = left
            .iter()
            .zip(&right)
            .map(|(left, right)| Some([left?, right?].concat()))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(joined)))
    }
}

/// Refuses to make more than a row, or a batch, may have.
fn check(name: &str, growth: Growth, args: &[ColumnarValue], rows: usize) -> Result<()> {
    let args: Vec<Argument> = args.iter().map(Argument::of).collect::<Result<_>>()?;
    // Of constants alone there is one answer.
    let rows = if args.iter().all(|argument| argument.constant) {
        1
    } else {
        rows
    };
    let mut sum: u64 = 0;
    for row in 0..rows {
        let bytes = growth.bytes(&args, row);
        let most = match growth {
            Growth::Steps | Growth::StepsOfItems => STEPS_MAX,
            _ => VALUE_BYTES_MAX,
        };
        if bytes > most {
            return exec_err!("{name} would make {bytes} bytes of one row, more than {most}");
        }
        sum = sum.saturating_add(bytes);
    }
    if sum > BATCH_BYTES_MAX && rows > 1 {
        return exec_err!("{name} would make {sum} bytes of {rows} rows");
    }
    Ok(())
}

impl Growth {
    fn bytes(self, args: &[Argument], row: usize) -> u64 {
        let bytes = |place: usize| args.get(place).map_or(0, |argument| argument.bytes(row));
        let number = |place: usize| args.get(place).map_or(0, |argument| argument.number(row));
        let items = |place: usize| args.get(place).map_or(0, |argument| argument.items(row));
        match self {
            Self::Sum => (0..args.len()).fold(0, |sum, place| sum.saturating_add(bytes(place))),
            Self::Times => bytes(0).saturating_mul(number(1).max(0) as u64),
            Self::TimesItem => {
                let item = bytes(0).saturating_add(16);
                item.saturating_mul(number(1).max(0) as u64)
            }
            // The engine takes it for a number without a sign, also where there is nothing to fill.
            Self::UpTo if number(1) < 0 => u64::MAX,
            // Of nothing there is nothing.
            Self::UpTo if args.first().is_none_or(|argument| argument.is_null(row)) => 0,
            Self::UpTo => {
                let each = bytes(2).clamp(4, 1 << 20);
                let more = (number(1).max(0) as u64).saturating_mul(each);
                bytes(0).saturating_add(more)
            }
            Self::Replace => {
                let (Some(text), Some(from)) = (text(args, 0, row), text(args, 1, row)) else {
                    return bytes(0);
                };
                let places = match from.is_empty() {
                    true => text.chars().count() + 1,
                    false => text.matches(from).count(),
                };
                bytes(0).saturating_add((places as u64).saturating_mul(bytes(2)))
            }
            Self::ReplacePattern => {
                let places = items(0).saturating_add(1);
                // A reference such as \1 stands for as much as was matched.
                let references = text(args, 2, row).map_or(0, |to| to.matches(['\\', '$']).count());
                let matched = bytes(0).saturating_mul(references as u64);
                bytes(0)
                    .saturating_add(places.saturating_mul(bytes(2)))
                    .saturating_add(matched)
            }
            Self::Join => {
                let all =
                    (0..args.len()).fold(0_u64, |sum, place| sum.saturating_add(bytes(place)));
                // The separator stands behind a list, and before single texts.
                let of_list = args.first().is_some_and(Argument::is_list);
                let (places, separator) = match of_list {
                    true => (items(0), bytes(1)),
                    false => (args.len() as u64, bytes(0)),
                };
                all.saturating_add(places.saturating_mul(separator))
            }
            Self::Range
                if args
                    .get(2)
                    .is_some_and(|step| is_interval(step.array.data_type())) =>
            {
                let steps = args[0].span(row, &args[1]).zip(args[2].interval(row));
                // One whose parts go both ways may come back to where it began.
                steps.map_or(0, |(span, step)| match step {
                    0 => u64::MAX,
                    step => u64::try_from(span / step.abs())
                        .map_or(u64::MAX, |steps| steps.saturating_add(1).saturating_mul(8)),
                })
            }
            Self::Range => {
                let (from, to) = match args.len() {
                    1 => (0, number(0)),
                    _ => (number(0), number(1)),
                };
                let step = args.get(2).map_or(1, |argument| argument.number(row));
                let apart = to.abs_diff(from) / step.unsigned_abs().max(1);
                apart.saturating_add(1).saturating_mul(8)
            }
            Self::Steps => bytes(0).saturating_mul(bytes(1)),
            Self::StepsOfItems => items(0).saturating_mul(items(1)),
            Self::Double => bytes(0).saturating_mul(2),
        }
    }
}

fn text(args: &[Argument], place: usize, row: usize) -> Option<&str> {
    let argument = args.get(place)?;
    let row = argument.row(row);
    let texts = argument.array.as_string_view_opt()?;
    texts.is_valid(row).then(|| texts.value(row))
}

/// An argument, of which sizes are asked.
struct Argument {
    /// Texts as views, whole numbers as 64 bits, the rest as it came.
    array: ArrayRef,
    constant: bool,
    /// Of dates and times, what one more is.
    unit_ns: i64,
}

impl Argument {
    fn of(value: &ColumnarValue) -> Result<Self> {
        let (array, constant) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) => (scalar.to_array_of_size(1)?, true),
        };
        let kind = array.data_type();
        let unit_ns = match kind {
            DataType::Date32 => DAY_NS,
            DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
            DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
            DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
            _ => 1,
        };
        let array = if kind.is_string() {
            cast(&array, &DataType::Utf8View)?
        } else if kind.is_integer() || kind.is_temporal() && !is_interval(kind) {
            cast(&array, &DataType::Int64)?
        } else {
            array
        };
        Ok(Self {
            array,
            constant,
            unit_ns,
        })
    }

    /// Nanoseconds between this and another date or time; none where either is NULL.
    fn span(&self, row: usize, to: &Self) -> Option<i128> {
        (!self.is_null(row) && !to.is_null(row)).then(|| {
            let apart = i128::from(to.number(row)) - i128::from(self.number(row));
            apart.abs() * i128::from(self.unit_ns)
        })
    }

    /// Nanoseconds of an interval, its months as the shortest; 0 where its parts go both ways, none where it is NULL.
    fn interval(&self, row: usize) -> Option<i128> {
        let own = self.array.as_primitive_opt::<IntervalMonthDayNanoType>()?;
        let row = self.row(row);
        own.is_valid(row).then(|| {
            let (months, days, nanoseconds) = IntervalMonthDayNanoType::to_parts(own.value(row));
            let parts = [
                i128::from(months) * 28 * i128::from(DAY_NS),
                i128::from(days) * i128::from(DAY_NS),
                i128::from(nanoseconds),
            ];
            let both = parts.iter().any(|part| *part > 0) && parts.iter().any(|part| *part < 0);
            if both { 0 } else { parts.iter().sum() }
        })
    }

    fn is_list(&self) -> bool {
        matches!(self.array.data_type(), DataType::List(_))
    }

    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(self.row(row))
    }

    fn row(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    fn bytes(&self, row: usize) -> u64 {
        bytes_of(&self.array, self.row(row))
    }

    /// Items of a list, characters of a text.
    fn items(&self, row: usize) -> u64 {
        let row = self.row(row);
        match self.array.as_list_opt::<i32>() {
            Some(lists) => u64::try_from(lists.value_length(row)).unwrap_or(0),
            None if self.array.data_type().is_string() => bytes_of(&self.array, row),
            None => 1,
        }
    }

    fn number(&self, row: usize) -> i64 {
        let row = self.row(row);
        match self.array.as_primitive_opt::<Int64Type>() {
            Some(numbers) if numbers.is_valid(row) => numbers.value(row),
            _ => 0,
        }
    }
}

fn is_interval(kind: &DataType) -> bool {
    matches!(kind, DataType::Interval(_) | DataType::Duration(_))
}

/// Bytes of one value.
fn bytes_of(array: &ArrayRef, row: usize) -> u64 {
    if array.is_null(row) {
        return 0;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).len() as u64,
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).len() as u64,
        DataType::Utf8View => array.as_string_view().value(row).len() as u64,
        DataType::Binary => array.as_binary::<i32>().value(row).len() as u64,
        DataType::LargeBinary => array.as_binary::<i64>().value(row).len() as u64,
        DataType::BinaryView => array.as_binary_view().value(row).len() as u64,
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len())
                .map(|item| 16 + bytes_of(&items, item))
                .sum()
        }
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;
    use datafusion::execution::SessionStateDefaults;

    use super::*;

    #[test]
    fn every_bounded_function_is_there() {
        let functions = SessionStateDefaults::default_scalar_functions();
        let names = BOUNDED.map(|(name, _)| name);
        for name in names.into_iter().chain(OF_ANY_TYPE) {
            assert!(
                functions.iter().any(|function| function.name() == name),
                "{name}"
            );
        }
    }

    #[test]
    fn types_whose_values_grow_are_not_made() {
        let functions = bounded(SessionStateDefaults::default_scalar_functions());
        for name in OF_ANY_TYPE {
            let function = functions.iter().find(|function| function.name() == name);
            let function = function.expect("it is there");
            let asked = |kind: &str| {
                let value = Arc::new(arrow::datatypes::Field::new("a", DataType::Int64, true));
                let kind_field = Arc::new(arrow::datatypes::Field::new("b", DataType::Utf8, false));
                let kind = ScalarValue::from(kind);
                function.return_field_from_args(ReturnFieldArgs {
                    arg_fields: &[value, kind_field],
                    scalar_arguments: &[None, Some(&kind)],
                })
            };
            for kind in [
                "FixedSizeList(2000000000, Int64)",
                "FixedSizeBinary(2000000000)",
                "Decimal128(38, -128)",
            ] {
                let error = asked(kind).expect_err(kind).to_string();
                assert!(error.contains("use CAST"), "{error}");
            }
            for kind in ["Utf8", "Decimal128(38, 2)", "Timestamp(Nanosecond, None)"] {
                asked(kind).expect(kind);
            }
        }
    }

    fn texts(value: &str) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::from(value))
    }

    fn number(value: i64) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::from(value))
    }

    #[test]
    fn what_would_grow_too_large_is_refused_before_it_is_made() {
        let long = "x".repeat(32 << 10);
        let refused = |growth: Growth, args: &[ColumnarValue]| {
            check("f", growth, args, 1).expect_err("too large");
        };
        let allowed = |growth: Growth, args: &[ColumnarValue]| {
            check("f", growth, args, 1).expect("small enough");
        };
        refused(Growth::Times, &[texts("sh"), number(200_000_000)]);
        refused(Growth::Times, &[texts("sh"), number(i64::MAX)]);
        allowed(Growth::Times, &[texts("sh"), number(10)]);
        allowed(Growth::Times, &[texts("sh"), number(-1)]);
        refused(Growth::UpTo, &[texts("sh"), number(1 << 30)]);
        allowed(Growth::UpTo, &[texts("sh"), number(100), texts(" ")]);
        refused(Growth::Replace, &[texts(&long), texts("x"), texts(&long)]);
        refused(Growth::Replace, &[texts(&long), texts(""), texts(&long)]);
        allowed(Growth::Replace, &[texts(&long), texts("y"), texts(&long)]);
        allowed(Growth::Replace, &[texts(&long), texts("x"), texts("")]);
        let twice = texts(r"\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1");
        refused(
            Growth::ReplacePattern,
            &[texts(&long), texts("(.*)"), twice],
        );
        allowed(
            Growth::ReplacePattern,
            &[texts(&long), texts("[0-9]+"), texts("<n>")],
        );
        refused(Growth::Range, &[number(1), number(3_000_000)]);
        refused(Growth::Range, &[number(i64::MIN), number(i64::MAX)]);
        allowed(Growth::Range, &[number(1), number(100)]);
        let day = |day| ColumnarValue::Scalar(ScalarValue::Date32(Some(day)));
        let step = |months, days, nanoseconds| {
            let step = IntervalMonthDayNanoType::make_value(months, days, nanoseconds);
            ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(step)))
        };
        // January the first, a month on and 31 days back.
        refused(Growth::Range, &[day(0), day(0), step(1, -31, 0)]);
        refused(Growth::Range, &[day(0), day(1), step(0, 0, 0)]);
        refused(Growth::Range, &[day(0), day(30), step(0, 0, 1_000_000)]);
        allowed(Growth::Range, &[day(0), day(3_650), step(0, -1, 0)]);
        allowed(Growth::Range, &[day(0), day(3_650), step(1, 0, 0)]);
        refused(Growth::UpTo, &[texts("sh"), number(-5)]);
        refused(Growth::Double, &[texts(&"x".repeat(1 << 20))]);
        let bytes = ScalarValue::Binary(Some(vec![0; 1 << 20]));
        refused(Growth::Double, &[ColumnarValue::Scalar(bytes)]);
        let numbers: Vec<ScalarValue> = (0..5_000).map(ScalarValue::from).collect();
        let list = ScalarValue::List(ScalarValue::new_list_nullable(&numbers, &DataType::Int32));
        let list = || ColumnarValue::Scalar(list.clone());
        refused(Growth::StepsOfItems, &[list(), list()]);
        allowed(Growth::StepsOfItems, &[list(), texts("one")]);
        refused(Growth::Steps, &[texts(&long), texts(&long)]);
        allowed(Growth::Steps, &[texts("kitten"), texts(&long)]);
        let megabyte = "x".repeat(1 << 20);
        refused(Growth::Sum, &[texts(&megabyte), texts("y")]);
    }

    #[test]
    fn rows_that_are_too_many_together_are_asked_in_halves() {
        let rows: arrow::array::StringViewArray =
            (0..1_000).map(|_| Some("x".repeat(1_000))).collect();
        let rows = ColumnarValue::Array(Arc::new(rows));
        let args = [rows, number(1_000)];
        check("f", Growth::Times, &args, 1_000).expect_err("too many");
        check("f", Growth::Times, &args, 100).expect("few enough");
    }
}
