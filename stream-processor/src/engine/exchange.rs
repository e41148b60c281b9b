//! An engine that has one of the two stages of windows over the whole fleet; the other is in another engine.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch_schemas::topics::Topic;

use super::taken::Taken;
use super::{Engine, EngineError, StepOutput};
use crate::checkpoint::State;
use crate::decode::RejectError;
use crate::detect::error_text;
use crate::hosts::task_of;
use crate::window::{Exchange, Received, WindowOutput};

impl Engine {
    /// Whether each second of a silent partition must be marked, because windows of the whole fleet wait for all partitions.
    #[must_use]
    pub fn counts_seconds(&self) -> bool {
        matches!(self.options.exchange, Exchange::Sent(_)) && self.windows.any_of_fleet()
    }

    /// How far windows of the whole fleet are behind a time, as far as the slowest partition lets them; nothing where not all
    /// partitions were heard of.
    #[must_use]
    pub fn fleet_delay(&self, now_ns: i64) -> Option<Duration> {
        let slowest = self.fleet_times.values().min()?;
        let behind = now_ns.saturating_sub(*slowest).max(0);
        Some(Duration::from_nanos(behind.unsigned_abs()))
    }

    /// For each partition that a task of the fleet waits for, the end of its last second, nanoseconds, if it was heard of; nothing
    /// where no window waits.
    pub(crate) fn fleet_sources(&self, task: i32) -> Option<BTreeMap<i32, Option<i64>>> {
        let waits = self.receives() && self.windows.any_of_fleet();
        waits.then(|| self.windows.fleet_sources(task))
    }

    /// Whether its input is the exchange.
    pub(super) fn receives(&self) -> bool {
        matches!(self.options.exchange, Exchange::Received(_))
    }

    /// Takes back what a task of the fleet remembered.
    pub(super) fn restore_fleet(&mut self, task: i32, mut state: State) -> Result<(), EngineError> {
        // One that has stored nothing yet begins with its log.
        let begins = state.is_empty();
        self.folds.restore(task, &mut state);
        self.throttles.restore(task, &mut state);
        self.windows.restore_fleet((task, begins), &mut state)?;
        let time = self.windows.fleet_time(task);
        if time > i64::MIN {
            self.fleet_times.insert(task, time);
        }
        Ok(())
    }

    /// Hands the windows what was taken of the exchange.
    pub(super) fn receive(&mut self, taken: &Taken, output: &mut StepOutput) -> WindowOutput {
        let mut received = Vec::new();
        for (row, record) in (0..).zip(&taken.records) {
            let muted = self.muted(record);
            if record.topic != Topic::Exchange {
                self.reject(record, RejectError::NoTable(record.topic), output);
                continue;
            }
            match Received::read(row, task_of(record.log()), muted, &record.value) {
                Ok(record) => received.push(record),
                Err(error) => {
                    let error = RejectError::NoFlush(error_text(&error));
                    self.reject(record, error, output);
                }
            }
        }
        self.windows.receive(&self.set, &received)
    }
}
