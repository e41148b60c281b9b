//! The other tables: each has an engine of its own, with hosts, windows and periods of its own.
//!
//! A detection reads one table, and a table is a log for itself, so nothing that is said of one depends on how its records
//! lie between those of another: a host's time in a table comes from that table's rows and marks alone.
//! So the partition of a topic is a task: what is stored of it, and taken over, is of its log alone.

use std::collections::BTreeMap;

use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::topics::Topic;

use super::{Engine, EngineError, StepCounts, StepOutput};
use crate::alert::AlertMode;
use crate::alert::health;
use crate::checkpoint::{Inputs, Renewal, State, StateRecord};
use crate::decode::{InputRecord, Partition};
use crate::detect::DetectionSet;
use crate::hosts::{FLEET, number_of, task_of};
use crate::tables::Table;
use crate::window::topic_of;

/// Makes the engines of the tables, other than events, that detections read.
pub(super) fn engines(set: &DetectionSet, mode: AlertMode) -> Result<Vec<Engine>, EngineError> {
    let others = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Events);
    let sets = others.map(|table| set.of_table(table));
    let sets = sets.filter(|set| !set.is_empty());
    sets.map(|set| Engine::of_table(set, mode)).collect()
}

impl Engine {
    /// The engine of a log's table; none where no detection reads it.
    fn of_log(&self, (topic, _): Partition) -> Option<&Self> {
        match Table::of(topic) {
            None | Some(Table::Events) => Some(self),
            Some(table) => self.others.iter().find(|own| own.set.table() == table),
        }
    }

    /// As [`Engine::of_log`], to be changed.
    pub(super) fn of_log_mut(&mut self, (topic, _): Partition) -> Option<&mut Self> {
        match Table::of(topic) {
            None | Some(Table::Events) => Some(self),
            Some(table) => {
                let mut others = self.others.iter_mut();
                others.find(|own| own.set.table() == table)
            }
        }
    }

    /// The log of a task of its own table, or of the fleet.
    pub(super) fn log_of_task(&self, task: i32) -> Partition {
        match task <= FLEET {
            true => (Topic::Exchange, number_of(Topic::Exchange, task)),
            false => (self.set.table().topic(), task),
        }
    }

    /// The logs of tables that it knows something of.
    #[must_use]
    pub fn logs(&self) -> Vec<Partition> {
        let own = self.partitions().into_iter();
        let mut logs: Vec<Partition> = own.map(|task| self.log_of_task(task)).collect();
        logs.extend(self.others.iter().flat_map(Self::logs));
        logs
    }

    /// Whether some detection reads a log; that of events is always read.
    #[must_use]
    pub fn reads(&self, log: Partition) -> bool {
        self.of_log(log).is_some()
    }

    /// What changed in the task of a log, as [`Engine::checkpoint`].
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn store_log(
        &mut self,
        log: Partition,
        renewal: &Renewal,
    ) -> Result<Vec<StateRecord>, EngineError> {
        match self.of_log_mut(log) {
            Some(own) if log.0 == Topic::Exchange => own.store_fleet(task_of(log), renewal),
            Some(own) => own.checkpoint(task_of(log), renewal),
            None => Ok(Vec::new()),
        }
    }

    /// Takes the task of a log over, as [`Engine::restore`].
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore_log(
        &mut self,
        log: Partition,
        state: State,
        live_from: i64,
    ) -> Result<(), EngineError> {
        match self.of_log_mut(log) {
            Some(own) => own.restore(task_of(log), state, &Inputs::from([(log.0, live_from)])),
            None => Ok(()),
        }
    }

    /// Says that what was in a log until now was passed over, because no detection read it.
    pub fn begin_amid(&mut self, log: Partition) {
        if let Some(own) = self.of_log_mut(log) {
            own.windows.begin_amid(task_of(log));
        }
    }

    /// Forgets what it knows of a log that is no longer its own.
    pub fn forget_log(&mut self, log: Partition) {
        if log.0 == Topic::Exchange {
            return self.forget_partition(task_of(log));
        }
        if let Some(own) = self.of_log_mut(log) {
            own.forget_own(task_of(log));
        }
    }

    /// Says whether the task of a log waits for time to pass.
    #[must_use]
    pub fn log_waits(&self, log: Partition) -> bool {
        let others = self.others.iter().filter(|_| log.0 == Topic::Exchange);
        let mut reading = self.of_log(log).into_iter().chain(others);
        reading.any(|own| own.waits(task_of(log)))
    }

    /// The fingerprint of a record's schema when it must be registered before the record can be used.
    #[must_use]
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        self.of_log(record.log())?.reader.unknown_schema(record)
    }

    /// Hands the others what is theirs, and leaves out what nobody reads; gives the rest back.
    pub(super) fn give_to_others(
        &mut self,
        records: Vec<InputRecord>,
    ) -> Result<Vec<InputRecord>, EngineError> {
        let is_own = |record: &InputRecord| match record.topic {
            Topic::Exchange => self.others.is_empty(),
            topic => topic == Topic::Events,
        };
        if self.set.table() != Table::Events || records.iter().all(is_own) {
            return Ok(records);
        }
        let mut own = Vec::with_capacity(records.len());
        let mut theirs: BTreeMap<Table, Vec<InputRecord>> = BTreeMap::new();
        for record in records {
            match table_of(&record) {
                None | Some(Table::Events) => own.push(record),
                Some(table) => theirs.entry(table).or_default().push(record),
            }
        }
        for other in &mut self.others {
            if let Some(of_table) = theirs.remove(&other.set.table()) {
                other.take(of_table)?;
            }
        }
        Ok(own)
    }

    /// Adds what the others say of a step.
    pub(super) fn others_say(
        &mut self,
        now_ns: i64,
        output: &mut StepOutput,
    ) -> Result<(), EngineError> {
        for other in &mut self.others {
            output.add(other.say(now_ns)?);
        }
        Ok(())
    }

    /// Adds what the others say at the end of a bounded input.
    pub(super) fn others_finish(
        &mut self,
        now_ns: i64,
        output: &mut StepOutput,
    ) -> Result<(), EngineError> {
        for other in &mut self.others {
            output.add(other.finish(now_ns)?);
        }
        Ok(())
    }

    /// Makes a writer's schema known to whichever table it is of.
    pub(super) fn register_with_others(&mut self, schema: &str) -> Option<Fingerprint> {
        let mut others = self.others.iter_mut();
        others.find_map(|other| other.register_schema(schema).ok())
    }

    /// Makes a writer's schema of events known, as JSON.
    ///
    /// # Errors
    /// When the schema is no Avro schema or cannot be read as an event.
    pub fn register_schema(&mut self, schema: &str) -> Result<Fingerprint, EngineError> {
        if let Some(fingerprint) = self.register_with_others(schema) {
            return Ok(fingerprint);
        }
        for decoder in &mut self.decoders {
            decoder.register(schema)?;
        }
        let fingerprint = self.reader.register(schema)?;
        self.schemas.insert(fingerprint, schema.to_owned());
        Ok(fingerprint)
    }

    /// Makes the writers' schemas known that another engine knows.
    ///
    /// # Errors
    /// As [`Engine::register_schema`].
    pub fn learn_schemas(&mut self, other: &Self) -> Result<(), EngineError> {
        for schema in other.schemas.values() {
            self.register_schema(schema)?;
        }
        for theirs in &other.others {
            let table = theirs.set.table();
            let mut own = self.others.iter_mut();
            if let Some(own) = own.find(|own| own.set.table() == table) {
                own.learn_schemas(theirs)?;
            }
        }
        Ok(())
    }
}

/// The table that a record is of; none where it is of no table.
fn table_of(record: &InputRecord) -> Option<Table> {
    let topic = match record.topic {
        Topic::Exchange => topic_of(&record.value),
        topic => Some(topic),
    };
    topic.and_then(Table::of)
}

impl StepOutput {
    /// Adds what another table's engine said. Who reports and who does not is told by the events' engine alone.
    fn add(&mut self, other: Self) {
        let Self {
            alerts,
            dead_letters,
            late,
            unknown_schemas,
            failures,
            to_be_stored,
            exchange,
            counts,
        } = other;
        let alerts = alerts.into_iter();
        self.alerts
            .extend(alerts.filter(|alert| !health::is_of_host(&alert.detection_id)));
        self.dead_letters.extend(dead_letters);
        self.late.extend(late);
        self.unknown_schemas.extend(unknown_schemas);
        self.failures.extend(failures);
        self.to_be_stored.extend(to_be_stored);
        self.exchange.extend(exchange);
        self.counts.add(&counts);
    }
}

impl StepCounts {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.events += other.events;
        self.marks += other.marks;
        self.repeated += other.repeated;
        self.missing += other.missing;
        self.late += other.late;
        self.clock_replaced += other.clock_replaced;
        self.hosts_forgotten += other.hosts_forgotten;
    }
}
