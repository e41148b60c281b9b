//! What windows of the fleet use of a group: states of rows, and results of states. Its panes are not theirs.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::common::Result;

use super::layout::FleetCalls;
use super::{Group, Open};
use crate::detect::{DetectionSet, Unjudged, by_halves, error_text};
use crate::hosts::{FLEET, fleet_slot};
use crate::window::fleet::{FleetTold, parse_rows};
use crate::window::plans::{Finish, Workbench};
use crate::window::{Rows, WindowOutput, Word};

impl Group {
    /// Its condition on rows, among those of all windows.
    pub fn predicate(&self) -> usize {
        self.guards[0].predicate
    }

    /// The states of rows, and the rows of the batch that no state could be made of.
    pub fn states_of_rows(
        &self,
        bench: &Workbench,
        set: &DetectionSet,
        rows: &Rows<'_>,
        (matched, included): (&[Vec<bool>], &[usize]),
        output: &mut WindowOutput,
    ) -> Result<(Vec<RecordBatch>, Vec<u32>)> {
        if included.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let input = self.input(set, rows, matched, included, &mut output.unjudged)?;
        let (mut states, mut failed) = (Vec::new(), Vec::new());
        let mut run = |part: &RecordBatch| self.phases.partial(bench, part.clone());
        let mut take = |start: usize, result: Result<Vec<RecordBatch>>| match result {
            Ok(part) => states.extend(part),
            Err(error) => {
                let row = input.rows[start];
                failed.push(row);
                output.unjudged.push(Unjudged {
                    detection: self.members[0].detection,
                    row,
                    error: error_text(&error),
                });
            }
        };
        if input.batch.num_rows() > 0 {
            by_halves(&input.batch, &mut run, &mut |start, _, result| {
                take(start, result);
            });
        }
        Ok((states, failed))
    }

    /// Notes what a row was too late for.
    pub fn note_late(
        &self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        shown: usize,
        (matched, closed): (&[Vec<bool>], &[Open]),
        output: &mut WindowOutput,
    ) -> Result<()> {
        self.miss(set, rows, shown, matched, closed, output)
    }

    /// How many rows states are of.
    pub fn rows_in(&self, states: &RecordBatch) -> u64 {
        let column = self.phases.state_columns[self.members[0].rows].start;
        let counts = states.column(column).as_primitive::<Int64Type>();
        counts.iter().flatten().sum::<i64>().unsigned_abs()
    }

    /// Some rows of a pane's states, as part of a window of the fleet.
    pub fn in_fleet_window(
        &self,
        states: &RecordBatch,
        start: i64,
        wanted: &BooleanArray,
    ) -> Result<RecordBatch> {
        let own = filter_record_batch(states, wanted)?;
        let rows = own.num_rows();
        let mut columns = own.columns().to_vec();
        columns[0] = Arc::new(Int64Array::from_value(start, rows));
        columns[1] = Arc::new(Int64Array::from_value(fleet_slot(FLEET), rows));
        Ok(RecordBatch::try_new(states.schema(), columns)?)
    }

    /// What the detection says of the windows that states are part of.
    pub fn finished(
        &self,
        bench: &Workbench,
        set: &DetectionSet,
        states: &[RecordBatch],
    ) -> Result<Vec<Word>> {
        let mut words = Vec::new();
        for finisher in self.finishers.values().filter(|_| !states.is_empty()) {
            let taken = states.iter().map(|states| finisher.finish.taken(states));
            let taken = taken.collect::<Result<Vec<_>>>()?;
            for groups in finisher.finish.run(bench, taken)? {
                words.extend(self.results(set, 0, &finisher.finish, &groups)?);
            }
        }
        Ok(words)
    }
}

/// What a finished group says of hosts and rows.
pub(super) fn told(
    finish: &Finish,
    groups: &RecordBatch,
    calls: &FleetCalls,
    row: usize,
) -> FleetTold {
    let texts = |call: usize| -> Vec<String> {
        let lists = finish.column(groups, call).as_list::<i32>();
        if lists.is_null(row) {
            return Vec::new();
        }
        let list = lists.value(row);
        let texts = list.as_string::<i32>().iter().flatten();
        texts.map(str::to_owned).collect()
    };
    let count = finish.column(groups, calls.host_count);
    let hosts = texts(calls.hosts).into_iter();
    FleetTold {
        host_count: count.as_primitive::<Int64Type>().value(row),
        hosts: hosts.map(Into::into).collect(),
        rows: parse_rows(&texts(calls.rows)),
        ..FleetTold::default()
    }
}
