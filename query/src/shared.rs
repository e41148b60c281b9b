//! Equal parts of expressions, computed once for each batch.
//!
//! `program(proc_exepath, proc_exe, proc_args)` stands in most detections of execs, often several times. Each such call becomes
//! a function that remembers its last answers by the very columns it was given: another detection that asks the same of the
//! same rows gets the same answer. What other rows were left by a condition is other columns, so nothing is computed that would
//! not be computed anyway.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{HashMap, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// Functions that cost more than looking for their answer.
const SHARED: [&str; 6] = [
    "program",
    "concat",
    "concat_ws",
    "array_to_string",
    "lower",
    "upper",
];
/// Answers that are remembered of each call: some for each core that asks, for the rows left by different conditions.
const ANSWERS_MAX: usize = 8;

/// The calls of a set's expressions.
#[derive(Debug, Clone, Default)]
pub struct SharedCalls(Arc<Mutex<HashMap<String, Arc<Answers>>>>);

impl SharedCalls {
    /// Lets the calls in an expression share their answers with equal calls in others.
    ///
    /// # Errors
    /// When the expression cannot be rewritten.
    pub fn share(&self, expr: Expr) -> Result<Expr> {
        let shared = expr.transform_up(|part| match part {
            Expr::ScalarFunction(call) if SHARED.contains(&call.name()) => {
                Ok(Transformed::yes(self.once(call)))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(shared?.data)
    }

    fn once(&self, call: ScalarFunction) -> Expr {
        let text = Expr::ScalarFunction(call.clone()).to_string();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = Arc::clone(known.entry(text).or_default());
        let once = Once {
            signature: Signature::any(call.args.len(), Volatility::Immutable),
            function: call.func,
            answers,
        };
        ScalarUDF::from(once).call(call.args)
    }
}

/// The last answers of a call.
#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

struct Answer {
    arguments: Vec<ColumnarValue>,
    rows: usize,
    value: ColumnarValue,
}

impl Answers {
    fn find(&self, arguments: &[ColumnarValue], rows: usize) -> Option<ColumnarValue> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = known.iter();
        let found = known.find(|known| {
            known.rows == rows
                && known
                    .arguments
                    .iter()
                    .zip(arguments)
                    .all(|(l, r)| same(l, r))
        });
        found.map(|answer| answer.value.clone())
    }

    fn keep(&self, answer: Answer) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ANSWERS_MAX {
            known.remove(0);
        }
        known.push(answer);
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Answers")
    }
}

/// Whether two arguments are the same column, not only equal ones.
fn same(left: &ColumnarValue, right: &ColumnarValue) -> bool {
    match (left, right) {
        (ColumnarValue::Array(left), ColumnarValue::Array(right)) => {
            ptr::addr_eq(Arc::as_ptr(left), Arc::as_ptr(right))
        }
        (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => left == right,
        _ => false,
    }
}

/// A function that remembers its last answers.
#[derive(Debug)]
struct Once {
    function: Arc<ScalarUDF>,
    answers: Arc<Answers>,
    signature: Signature,
}

impl PartialEq for Once {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function && Arc::ptr_eq(&self.answers, &other.answers)
    }
}

impl Eq for Once {}

impl Hash for Once {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
        Arc::as_ptr(&self.answers).hash(state);
    }
}

impl ScalarUDFImpl for Once {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.function.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(value) = self.answers.find(&args.args, args.number_rows) {
            return Ok(value);
        }
        let (arguments, rows) = (args.args.clone(), args.number_rows);
        let value = self.function.invoke_with_args(args)?;
        self.answers.keep(Answer {
            arguments,
            rows,
            value: value.clone(),
        });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, StringViewArray};
    use arrow::datatypes::Field;
    use datafusion::common::config::ConfigOptions;

    use super::*;

    /// Counts how often it is asked.
    #[derive(Debug)]
    struct Counting(Arc<AtomicUsize>, Signature);

    impl PartialEq for Counting {
        fn eq(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.0, &other.0)
        }
    }

    impl Eq for Counting {}

    impl Hash for Counting {
        fn hash<H: Hasher>(&self, state: &mut H) {
            Arc::as_ptr(&self.0).hash(state);
        }
    }

    impl ScalarUDFImpl for Counting {
        fn name(&self) -> &str {
            "program"
        }

        fn signature(&self) -> &Signature {
            &self.1
        }

        fn return_type(&self, _: &[DataType]) -> Result<DataType> {
            Ok(DataType::Utf8View)
        }

        fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(args.args[0].clone())
        }
    }

    #[test]
    fn equal_calls_on_the_same_rows_are_made_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Counting(Arc::clone(&calls), Signature::any(1, Volatility::Immutable));
        let function = ScalarUDF::from(counting);
        let shared = SharedCalls::default();
        let call = |column: &str| {
            let argument = datafusion::logical_expr::col(column);
            match shared.share(function.call(vec![argument])).expect("shared") {
                Expr::ScalarFunction(call) => call.func,
                other => panic!("{other}"),
            }
        };
        let (first, again, other) = (call("a"), call("a"), call("b"));
        let field: FieldRef = Arc::new(Field::new("x", DataType::Utf8View, true));
        let ask = |function: &ScalarUDF, column: &ArrayRef| {
            let args = ScalarFunctionArgs {
                args: vec![ColumnarValue::Array(Arc::clone(column))],
                arg_fields: vec![Arc::clone(&field)],
                number_rows: column.len(),
                return_field: Arc::clone(&field),
                config_options: Arc::new(ConfigOptions::default()),
            };
            let answer = function.invoke_with_args(args).expect("an answer");
            let ColumnarValue::Array(answer) = answer else {
                panic!("a column")
            };
            assert_eq!(&answer, column);
            calls.load(Ordering::Relaxed)
        };
        let column = |text: &str| -> ArrayRef { Arc::new(StringViewArray::from(vec![text])) };
        let (rows, others) = (column("x"), column("y"));
        assert_eq!(
            [ask(&first, &rows), ask(&again, &rows), ask(&first, &rows)],
            [1, 1, 1]
        );
        // Other rows, be they equal, and another call are asked anew.
        assert_eq!(
            [
                ask(&again, &others),
                ask(&first, &column("x")),
                ask(&other, &rows)
            ],
            [2, 3, 4]
        );
        for _ in 0..2 * ANSWERS_MAX {
            ask(&first, &column("z"));
        }
        assert_eq!(first_answers(&shared), ANSWERS_MAX);
    }

    fn first_answers(shared: &SharedCalls) -> usize {
        let known = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = known.values().map(|answers| {
            let answers = answers.0.lock().unwrap_or_else(PoisonError::into_inner);
            answers.len()
        });
        answers.max().unwrap_or(0)
    }
}
