//! Judging by halves: where an expression cannot judge a batch, the rows that it cannot judge are found and stand alone.
//!
//! One crafted row must not blind a detection to the others, nor may an answer depend on which rows share a batch.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};

/// Longest text of an error that is kept, bytes: it may hold the value that could not be judged.
const ERROR_BYTES_MAX: usize = 256;

/// A row that a detection could not judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unjudged {
    /// The detection's place in the set.
    pub detection: usize,
    /// Row of the batch.
    pub row: u32,
    /// What went wrong.
    pub error: String,
}

/// Judges a batch; where that fails its halves, and so on. `taken` gets each part's first row, its rows, and what came of it:
/// an error of single rows only.
pub(crate) fn by_halves<T>(
    batch: &RecordBatch,
    judge: &mut dyn FnMut(&RecordBatch) -> Result<T>,
    taken: &mut dyn FnMut(usize, usize, Result<T>),
) {
    if batch.num_rows() == 0 {
        return;
    }
    // Later parts wait on a stack of our own, in their order.
    let mut waiting = vec![(0, batch.num_rows())];
    while let Some((start, rows)) = waiting.pop() {
        // The whole batch as it is: its columns are the same for all who look at it.
        let part = match rows == batch.num_rows() {
            true => batch.clone(),
            false => batch.slice(start, rows),
        };
        match guarded(|| judge(&part)) {
            Err(_) if rows > 1 => {
                let half = rows / 2;
                waiting.push((start + half, rows - half));
                waiting.push((start, half));
            }
            result => taken(start, rows, result),
        }
    }
}

/// Runs something of the SQL engine's; a panic in it is an error like others.
///
/// What it was working on must be dropped, or stay as it was before.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

pub(super) fn panicked(panic: &(dyn Any + Send)) -> DataFusionError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown cause");
    exec_datafusion_err!("the SQL engine panicked: {text}")
}

/// An error's text, as it is told: once, on one line, and not too long.
pub(crate) fn error_text(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.len() > ERROR_BYTES_MAX {
        true => format!("{}…", &line[..line.floor_char_boundary(ERROR_BYTES_MAX)]),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::common::exec_err;
    use proptest::prelude::*;

    use super::*;

    fn batch(numbers: Vec<i64>) -> RecordBatch {
        let column = Arc::new(Int64Array::from(numbers)) as _;
        RecordBatch::try_from_iter([("number", column)]).expect("a batch")
    }

    proptest! {
        #[test]
        fn every_row_comes_once_in_order_and_only_bad_ones_stand_alone(numbers in prop::collection::vec(0_i64..9, 0..60)) {
            let mut seen = Vec::new();
            let mut judge = |part: &RecordBatch| {
                let numbers = part.column(0).as_primitive::<Int64Type>().values().to_vec();
                match numbers.iter().find(|number| **number == 7) {
                    Some(_) if numbers.len() % 2 == 0 => panic!("seven"),
                    Some(_) => exec_err!("seven"),
                    None => Ok(numbers),
                }
            };
            by_halves(&batch(numbers.clone()), &mut judge, &mut |start, rows, result| {
                assert_eq!(start, seen.len());
                match result {
                    Ok(part) => {
                        assert_eq!(part.len(), rows);
                        seen.extend(part);
                    }
                    Err(_) => seen.push(7),
                }
            });
            prop_assert_eq!(seen, numbers);
        }
    }

    #[test]
    fn an_error_is_told_in_one_short_line() {
        let long = exec_datafusion_err!("cannot cast\n {}", "ü".repeat(1_000)).context("casting");
        let text = error_text(&long);
        assert!(text.starts_with("Execution error: cannot cast ü"), "{text}");
        assert!(text.len() <= ERROR_BYTES_MAX + 3, "{}", text.len());
    }
}
