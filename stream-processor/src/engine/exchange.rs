//! An engine that has one of the two stages of windows over the whole fleet; the other is in another engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dogwatch_schemas::topics::Topic;

use super::taken::Taken;
use super::{Engine, EngineError, StepOutput};
use crate::checkpoint::{Inputs, Renewal, State, StateRecord, take_below};
use crate::decode::{Partition, RejectError};
use crate::detect::error_text;
use crate::hosts::task_of;
use crate::tables::Table;
use crate::window::{Exchange, Received, WindowOutput};

/// What names of a table's states begin with in a task of the fleet.
fn prefix(table: Table) -> String {
    format!("{}:", table.name())
}

impl Engine {
    /// The topics whose silent partitions are marked each second, because windows of the whole fleet wait for all of them.
    #[must_use]
    pub fn counted_topics(&self) -> BTreeSet<Topic> {
        let own = matches!(self.options.exchange, Exchange::Sent(_)) && self.windows.any_of_fleet();
        let own = own.then(|| self.set.table().topic()).into_iter();
        own.chain(self.others.iter().flat_map(Self::counted_topics))
            .collect()
    }

    /// How far windows of the whole fleet are behind a time, as far as the slowest partition lets them; nothing where not all
    /// partitions were heard of.
    #[must_use]
    pub fn fleet_delay(&self, now_ns: i64) -> Option<Duration> {
        let engines = std::iter::once(self).chain(&self.others);
        let engines = engines.filter(|own| own.windows.any_of_fleet());
        let slowest = engines.map(|own| own.fleet_times.values().min().copied());
        let slowest: Vec<i64> = slowest.collect::<Option<_>>()?;
        let behind = now_ns.saturating_sub(slowest.into_iter().min()?).max(0);
        Some(Duration::from_nanos(behind.unsigned_abs()))
    }

    /// For each log that a task of the fleet waits for, the end of its last second, nanoseconds, if it was heard of; nothing
    /// where no window waits.
    pub(crate) fn fleet_sources(&self, task: i32) -> BTreeMap<Partition, Option<i64>> {
        let waits = self.receives() && self.windows.any_of_fleet();
        let own = waits.then(|| self.windows.fleet_sources(task));
        let topic = self.set.table().topic();
        let own = own.into_iter().flatten();
        let own = own.map(|(number, heard)| ((topic, number), heard));
        let others = self.others.iter();
        own.chain(others.flat_map(|other| other.fleet_sources(task)))
            .collect()
    }

    /// What changed in a task of the fleet, of all tables, as [`Engine::checkpoint`]. Names of other tables than events begin with
    /// the table's.
    pub(super) fn store_fleet(
        &mut self,
        task: i32,
        renewal: &Renewal,
    ) -> Result<Vec<StateRecord>, EngineError> {
        let mut records = self.checkpoint(task, renewal)?;
        for other in &mut self.others {
            let prefix = prefix(other.set.table());
            let own = other.checkpoint(task, &renewal.of_below(&prefix))?;
            records.extend(own.into_iter().map(|record| StateRecord {
                key: format!("{prefix}{}", record.key),
                ..record
            }));
        }
        Ok(records)
    }

    /// Takes a task of the fleet over, of all tables, as [`Engine::restore`].
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore_fleet(
        &mut self,
        task: i32,
        mut state: State,
        live_from: &Inputs,
    ) -> Result<(), EngineError> {
        // One that has stored nothing yet begins with its log.
        let begins = state.is_empty();
        for other in &mut self.others {
            let own = take_below(&mut state, &prefix(other.set.table()));
            other.restore_own_fleet((task, begins), own.into_iter().collect(), live_from)?;
        }
        self.restore_own_fleet((task, begins), state, live_from)
    }

    /// Whether its input is the exchange.
    pub(super) fn receives(&self) -> bool {
        matches!(self.options.exchange, Exchange::Received(_))
    }

    /// Takes back what a task of the fleet remembered of its own table; `begins` where it begins with its log.
    fn restore_own_fleet(
        &mut self,
        (task, begins): (i32, bool),
        mut state: State,
        live_from: &Inputs,
    ) -> Result<(), EngineError> {
        self.forget_own(task);
        self.replay_until(task, live_from);
        if !self.windows.any_of_fleet() {
            // Nothing of the table says how far the fleet is: periods would never end.
            return Ok(());
        }
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
                Ok(record) if record.topic() == self.set.table().topic().suffix() => {
                    received.push(record);
                }
                // Of a table that no detection over the fleet reads here, or of a newer version's.
                Ok(_) => {}
                Err(error) => {
                    let error = RejectError::NoFlush(error_text(&error));
                    self.reject(record, error, output);
                }
            }
        }
        self.windows.receive(&self.set, &received)
    }
}
