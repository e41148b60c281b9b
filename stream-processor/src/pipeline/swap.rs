//! Other detections take the place of those that run, while the log goes on.
//!
//! ```text
//! compiled ─► all that was read is matched, stored and committed ─► the new engine takes each task over from there ─► go on
//! ```
//! It is a restart without one: every task is taken over at the offset that was just committed, so nothing is replayed, and
//! with the state that was just stored. What is compiled was compiled beside; what waits is the commit and the reading back.
//! Where nothing is stored, the state goes from one engine to the other in memory.
//! A set that reads other topics than the one before has the group joined anew for these, when it has taken over.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::Topic;

use super::steps::Steps;
use super::{ProcessorError, Stages};
use crate::checkpoint::{Inputs, Progress, Ran, State};
use crate::config::Stage;
use crate::detect::{Refusal, Sources};
use crate::engine::{Engine, EngineError, EvidenceTopics, now_ns};
use crate::hosts::{FLEET, number_of};
use crate::inventory::Inventory;
use crate::metrics;
use crate::reload::{self, Change, Neighbours, Next, Place, Reload};
use crate::sensor_needs::{Needs, SensorNeeds};
use crate::source::Assigned;
use crate::source::group::GroupInput;
use crate::source::placement::Start;
use crate::step::Partition;
use crate::tables::Table;

/// How long tasks wait for the published set that they were run with already.
const CATCH_UP: Duration = Duration::from_secs(10);
/// After this time a swap is tried again that a rebalance came into.
const AGAIN: Duration = Duration::from_millis(200);

/// Other detections than those that run, and what watches for them.
#[derive(Default)]
pub(super) struct Swaps {
    reload: Option<Reload>,
    sensor_needs: Option<SensorNeeds>,
    /// What that looks for.
    needs: Option<Needs>,
    /// What runs.
    inventory: Inventory,
    /// What tasks are run with.
    pub(super) ran: Ran,
    /// What is to run.
    next: Option<Box<Next>>,
    /// When that is tried again.
    again_at: Option<Instant>,
    /// What was handed on in memory, by log: names of pieces.
    handed_on: BTreeMap<Partition, Progress>,
}

impl Swaps {
    /// Where changes arrive.
    pub fn changes(&self) -> Option<&Receiver<Change>> {
        let reload = self.reload.as_ref()?;
        // One after the other: a later one waits where it is.
        self.next.is_none().then_some(&reload.changes)
    }

    /// What a task is run with that was run with something before: it keeps the highest number it ever had, so that whoever
    /// takes it over knows what there must be.
    pub fn ran_from(&self, before: &Ran, partitions: Option<i32>) -> Ran {
        let changed = before.partitions.filter(|_| partitions.is_some());
        let changed = changed.filter(|before| Some(*before) != partitions);
        Ran {
            epoch: self.ran.epoch.max(before.epoch),
            partitions: partitions.or(before.partitions),
            partitions_before: changed.or(before.partitions_before),
            ..self.ran.clone()
        }
    }

    /// When there is something to do.
    pub fn due(&self) -> Option<Instant> {
        self.next.as_ref().and(self.again_at)
    }
}

impl Steps {
    /// Looks from now on whether sensors publish what the detections need.
    pub fn look_at_sensors(&mut self, needs: Option<Needs>) {
        let needs = needs.filter(|_| self.ends.stores);
        if needs != self.swaps.needs {
            if let Some(before) = &self.swaps.needs {
                before.clear_metrics();
            }
            let started = |needs: Needs| SensorNeeds::start(&self.config, needs);
            self.swaps.sensor_needs = needs.clone().and_then(started);
            self.swaps.needs = needs;
        }
    }

    /// Watches from now on whether the detections of a place change; of what was found there some was refused.
    pub fn watch(
        &mut self,
        place: Place,
        topics: EvidenceTopics,
        found: Sources,
        refused: &[Refusal],
        inventory: Inventory,
    ) {
        self.swaps.inventory = inventory.clone();
        let compares = self.ends.stores && self.config.stage == Stage::Host;
        let neighbours = compares.then(|| Neighbours::new(&self.config));
        let place = (place, neighbours);
        let topics = (topics, self.inputs());
        self.swaps.reload = Reload::start(&self.config, place, topics, found, refused, inventory);
    }

    /// Says what tasks are run with from now on.
    pub fn run_with(&mut self, ran: Ran) {
        metrics::running_set(ran.epoch);
        self.swaps.ran = ran;
    }

    /// Lets other detections run, where there are some.
    pub(super) fn swap_when_due(&mut self, stages: &mut Stages) -> Result<(), ProcessorError> {
        if let Some(changes) = self.swaps.changes() {
            match changes.try_recv() {
                Ok(change) => self.take_change(change),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.swaps.reload = None,
            }
        }
        if self.swaps.due().is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        let Some(next) = self.swaps.next.take() else {
            return Ok(());
        };
        if let Some(next) = self.swap(next, stages)? {
            tracing::info!("partitions go or come, other detections run when they have");
            self.swaps.next = Some(next);
            self.swaps.again_at = Some(Instant::now() + AGAIN);
        }
        Ok(())
    }

    fn take_change(&mut self, change: Change) {
        // What is said of files is said by the stage of hosts, wherever that is.
        if self.config.stage == Stage::Host {
            self.next.alerts.extend(change.alerts);
        }
        (self.swaps.next, self.swaps.again_at) = (change.next, Some(Instant::now()));
    }

    /// Has the published set run that tasks were run with already, where this processor has not seen it yet: a task does not
    /// go back. Where that set is not to be had, what runs here goes on, and an alert says so.
    pub(super) fn catch_up(
        &mut self,
        assigned: &[Assigned],
        stages: &mut Stages,
    ) -> Result<(), ProcessorError> {
        let of = |assigned: &Assigned| assigned.start.memory.as_ref().ok()?.ran.epoch;
        let highest = assigned.iter().filter_map(of).max();
        let behind =
            |steps: &Self| steps.swaps.ran.epoch.is_some() && steps.swaps.ran.epoch < highest;
        let until = Instant::now() + CATCH_UP;
        while behind(self) && Instant::now() < until && !self.shutdown.triggered() {
            if let Some(next) = self.swaps.next.take() {
                self.swaps.next = self.swap(next, stages)?;
                if self.swaps.next.is_some() {
                    break;
                }
            } else if let Some(changes) = self.swaps.changes() {
                match changes.recv_timeout(AGAIN) {
                    Ok(change) => self.take_change(change),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => self.swaps.reload = None,
                }
            } else {
                break;
            }
        }
        if let (true, Some(own), Some(highest)) = (behind(self), self.swaps.ran.epoch, highest) {
            let alert = reload::older(own, highest, self.config.kafka.instance.as_deref());
            tracing::error!(
                own = own.number,
                before = highest.number,
                "tasks were run with a later set of detections, which is not to be had"
            );
            self.next.alerts.push(alert);
        }
        Ok(())
    }

    /// Lets other detections run; gives them back where partitions go or come meanwhile.
    fn swap(
        &mut self,
        next: Box<Next>,
        stages: &mut Stages,
    ) -> Result<Option<Box<Next>>, ProcessorError> {
        let started = Instant::now();
        self.drain(stages)?;
        self.forget_held_but(&[]);
        let Next {
            mut engine,
            needs,
            refused,
            inventory,
            difference,
            ran,
            alert,
            seen_at,
        } = *next;
        engine.learn_schemas(&self.engine)?;
        let group = stages.group().cloned().filter(|_| self.ends.stores);
        let before = mem::replace(&mut self.swaps.ran, ran);
        let engine = match group {
            Some(group) => self.take_over_by(engine, &group, stages)?,
            None => self.hand_on_to(engine)?,
        };
        if let Some(engine) = engine {
            let ran = mem::replace(&mut self.swaps.ran, before);
            return Ok(Some(Box::new(Next {
                engine,
                needs,
                refused,
                inventory,
                difference,
                ran,
                alert,
                seen_at,
            })));
        }
        let before = mem::replace(&mut self.swaps.inventory, inventory);
        if self.config.stage == Stage::Host {
            metrics::running_set(self.swaps.ran.epoch);
            metrics::swapped(started.elapsed());
            metrics::loaded(self.engine.detections().len(), refused);
            metrics::running(self.swaps.inventory.detections(), before.detections());
            let alert_ts = now_ns();
            self.next.alerts.push(Alert { alert_ts, ..alert });
            self.look_at_sensors(Some(needs));
        }
        self.call_for_fleet();
        tracing::info!(
            stage = self.config.stage.name(),
            detections = self.engine.detections().len(),
            refused,
            change = difference.words(),
            set = self.swaps.inventory.hash,
            stood_still_seconds = started.elapsed().as_secs_f64(),
            after_change_seconds = seen_at.elapsed().as_secs_f64(),
            "other detections run"
        );
        self.weigh();
        Ok(None)
    }

    /// Has another engine take all tasks over, as they were just stored and committed; gives it back where that is not so.
    fn take_over_by(
        &mut self,
        engine: Engine,
        group: &GroupInput,
        stages: &Stages,
    ) -> Result<Option<Engine>, ProcessorError> {
        let Some(assigned) = self.as_assigned(stages) else {
            return Ok(Some(engine));
        };
        let Some(mut memories) = self.recall(&assigned, group)? else {
            return Ok(Some(engine));
        };
        self.engine = engine;
        let count = assigned.len();
        for (number, assigned) in assigned.iter().enumerate() {
            let before = self.tasks.remove(assigned.partition);
            let taken_at = self.tasks.stagger(number, count, Instant::now());
            let memory = memories.remove(&assigned.partition);
            self.begin(assigned, memory, taken_at)?;
            if let (Some(task), Some(before)) = (self.tasks.task(assigned.partition), before) {
                task.go_on_from(&before);
            }
        }
        group.read_topics(&self.inputs())?;
        Ok(None)
    }

    /// The tasks as they would be assigned now; none where one is not committed as it is.
    fn as_assigned(&self, stages: &Stages) -> Option<Vec<Assigned>> {
        let assigned = self.tasks.iter().map(|(partition, task)| {
            let position = task.position();
            let memory = self.next.taken_over.get(&partition).cloned();
            let memory = memory.or_else(|| stages.publisher.memory(partition))?;
            let input = memory.head.inputs.get(&partition.0).copied()?;
            let as_it_is = memory.epoch == task.epoch && input == task.processed();
            as_it_is.then_some(Assigned {
                partition,
                epoch: task.epoch,
                start: Start {
                    at: input,
                    missed_from: None,
                    live_from: position.next,
                    partitions: memory.head.ran.partitions,
                    partitions_before: None,
                    memory: Ok(memory.head),
                },
            })
        });
        assigned.collect()
    }

    /// Hands what the engine remembers on to another one, in memory.
    fn hand_on_to(&mut self, mut engine: Engine) -> Result<Option<Engine>, EngineError> {
        for log in self.engine.logs() {
            let state = self.handed_on(log)?;
            // All that was taken was said.
            engine.restore_log(log, state, i64::MIN)?;
        }
        // The only partition there is without Kafka.
        let tables = Table::ALL.map(|table| (table.topic(), 0));
        for log in tables.into_iter().filter(|log| !self.engine.reads(*log)) {
            engine.begin_amid(log);
        }
        let state = self.handed_on((Topic::Exchange, number_of(Topic::Exchange, FLEET)))?;
        engine.restore_fleet(FLEET, state, &Inputs::new())?;
        self.engine = engine;
        Ok(None)
    }

    /// What the engine remembers of a log, whole.
    fn handed_on(&mut self, log: Partition) -> Result<State, EngineError> {
        let begin = || Progress::begin(0, Instant::now());
        let known = self.swaps.handed_on.entry(log).or_insert_with(begin);
        known.begin_anew();
        let records = self.engine.store_log(log, &known.renewal())?;
        let pieces = records.iter();
        let pieces = pieces.filter_map(|piece| Some((piece.key.clone(), piece.value.clone()?)));
        let state: State = pieces.collect();
        known.take(records, Inputs::new(), String::new, Instant::now());
        Ok(state)
    }

    /// The topics that are read.
    pub(super) fn inputs(&self) -> Vec<Topic> {
        self.engine.detections().inputs(self.config.stage)
    }
}
