//! Tasks that are this processor's and are not begun yet, because it is near the limit of its memory.
//!
//! ```text
//! assigned ─► waiting ─► is there memory for one more? ─► yes: begun, with what it remembered
//!                ▲                      │ no: looked again in a second; after ten an alert
//!                └──────────────────────┘
//! ```
//! Nothing that is found depends on it: the records of a waiting task stay in its topics, nothing is committed of them, and
//! whoever begins it, here or elsewhere, does so where it was committed last. A processor that takes more than it has memory
//! for is killed, and hands all of its tasks to others, which are killed in turn.
//! One task is always begun, and what is taken over with no memory at all is not held back: it has nothing to read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Alert;

use super::steps::{Steps, named};
use super::{ProcessorError, Stages};
use crate::alert::health::{Finding, Health, Reporter};
use crate::budget;
use crate::config::{Config, Stage};
use crate::engine::now_ns;
use crate::idle;
use crate::metrics;
use crate::source::group::GroupInput;
use crate::source::{Assigned, Gap};
use crate::step::Partition;

/// How often is looked whether there is memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the allocator is asked to give back what it keeps, while there is none.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);
/// After so long an alert says that tasks wait.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// The tasks that wait.
pub(super) struct Waiting {
    assigned: Vec<Assigned>,
    /// What is gone of their input since they came.
    gaps: Vec<Gap>,
    reporter: Reporter,
    look_at: Option<Instant>,
    trim_at: Option<Instant>,
    /// Since when some wait.
    since: Option<Instant>,
    told: bool,
}

impl Waiting {
    /// None yet.
    pub fn new(config: &Config) -> Self {
        Self {
            assigned: Vec::new(),
            gaps: Vec::new(),
            reporter: Reporter::of_this_process(idle::HOST_ID, config.kafka.instance.as_deref()),
            look_at: None,
            trim_at: None,
            since: None,
            told: false,
        }
    }

    /// When it is looked next whether there is memory for them.
    pub fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Has tasks wait.
    pub fn add(&mut self, assigned: Vec<Assigned>) {
        self.assigned.extend(assigned);
    }

    /// Forgets those that are not this processor's any more.
    pub fn retain(&mut self, ours: impl Fn(&Assigned) -> bool) {
        self.assigned.retain(ours);
        let assigned = &self.assigned;
        self.gaps.retain(|gap| holds(assigned, gap));
    }

    /// Keeps a gap for when its task begins: the task's start was looked up before it. Says whether that task waits.
    pub fn note(&mut self, gap: &Gap) -> bool {
        let waits = holds(&self.assigned, gap);
        if waits {
            self.gaps.push(gap.clone());
        }
        waits
    }

    /// Notes that tasks were given back: what they took may be with the allocator.
    pub fn given_back(&mut self) {
        self.trim_at = None;
    }

    /// Whether the allocator is to give back what it keeps.
    fn trims(&mut self, now: Instant) -> bool {
        let due = self.trim_at.is_none_or(|at| at <= now);
        if due {
            self.trim_at = Some(now + TRIM_INTERVAL);
        }
        due
    }

    /// Takes out the gaps of tasks that begin.
    fn gaps_of(&mut self, begun: &[Assigned]) -> Vec<Gap> {
        self.gaps.extract_if(.., |gap| holds(begun, gap)).collect()
    }

    /// Takes out those to be begun now: of as many numbers as there is memory for, where each takes so many bytes at most, and
    /// one where there is less, since most take little; tasks of one number come together. One is begun in any case where
    /// `none_runs`.
    fn next(&mut self, room: Option<u64>, each: u64, none_runs: bool) -> Vec<Assigned> {
        let one = none_runs || room.is_none_or(|room| room > 0);
        let fit = room.map_or(u64::MAX, |room| room / each.max(1));
        let fit = fit.max(u64::from(one));
        let numbers: BTreeSet<i32> = self.assigned.iter().map(|own| own.partition.1).collect();
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        let begun: BTreeSet<i32> = numbers.into_iter().take(fit).collect();
        let all = std::mem::take(&mut self.assigned).into_iter();
        let (next, rest) = all.partition(|own| begun.contains(&own.partition.1));
        self.assigned = rest;
        next
    }

    /// Notes that it was looked, and says what there is to say of those that still wait.
    fn tell(&mut self, now: Instant) -> Option<Alert> {
        let partitions: Vec<Partition> = self.assigned.iter().map(|own| own.partition).collect();
        metrics::waiting(partitions.len());
        if partitions.is_empty() {
            if self.told {
                tracing::info!("all tasks are begun");
            }
            (self.look_at, self.since, self.told) = (None, None, false);
            return None;
        }
        self.look_at = Some(now + LOOK_INTERVAL);
        let since = *self.since.get_or_insert(now);
        if self.told || now.duration_since(since) < TOLD_AFTER {
            return None;
        }
        self.told = true;
        let (partitions, tasks) = (named(&partitions), partitions.len());
        tracing::error!(
            partitions,
            "this processor is near the limit of its memory: it does not begin these tasks"
        );
        let row = [
            ("tasks".to_owned(), tasks.into()),
            ("partitions".to_owned(), partitions.as_str().into()),
        ];
        let finding = Finding {
            health: Health::TasksWait,
            about: "",
            happened: format!(
                "{tasks} tasks of partitions {partitions} wait, since this processor is near the limit of its memory"
            ),
            shown_by: self.reporter.next(),
            time: now_ns(),
            row: row.into_iter().collect(),
        };
        Some(self.reporter.alert(&finding, now_ns()))
    }
}

/// Whether a gap is in the input of one of these.
fn holds(assigned: &[Assigned], gap: &Gap) -> bool {
    let mut partitions = assigned.iter().map(|own| own.partition);
    partitions.any(|partition| partition == gap.partition)
}

impl Steps {
    /// Begins tasks that wait, as far as there is memory for them.
    pub(super) fn begin_waiting(&mut self, group: &GroupInput) -> Result<(), ProcessorError> {
        let takes =
            |assigned: &Assigned| group.assignments.takes(assigned.partition, assigned.epoch);
        self.waiting.retain(takes);
        let bound = self.engine.task_bound();
        let each = match self.config.stage {
            Stage::Host => bound.of_hosts,
            Stage::Fleet => bound.of_fleet(),
        };
        let mut begun = Vec::new();
        while !self.waiting.assigned.is_empty() {
            let none_runs = self.tasks.numbers() == 0;
            let room = budget::room(|| self.waiting.trims(Instant::now()));
            let next = self.waiting.next(room, each, none_runs);
            let gaps = self.waiting.gaps_of(&next);
            // Where some went away meanwhile, those before them still go on.
            if next.is_empty() || !self.begin_all(&next, group)? {
                break;
            }
            for gap in &gaps {
                self.go_on_behind(gap)?;
            }
            begun.extend(next.iter().map(|assigned| assigned.partition));
        }
        // All together, so that no records come while others are restored.
        group.resume(&begun);
        if !begun.is_empty() {
            self.weigh();
        }
        let alert = self.waiting.tell(Instant::now());
        self.next.alerts.extend(alert);
        Ok(())
    }

    /// Looks whether there is memory for tasks that wait, where that is due.
    pub(super) fn look_at_waiting(&mut self, stages: &Stages) -> Result<(), ProcessorError> {
        let due = self.waiting.due().is_some_and(|due| due <= Instant::now());
        match stages.group().filter(|_| due) {
            Some(group) => self.begin_waiting(&group.clone()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch_schemas::topics::Topic;

    use super::*;
    use crate::config::RawConfig;
    use crate::source::placement::decide;

    const MIB: u64 = 1 << 20;

    fn waiting(partitions: &[Partition]) -> Waiting {
        let config = Config::check(RawConfig::default()).expect("a configuration");
        let mut waiting = Waiting::new(&config.of_stage(Stage::Host));
        let assigned = partitions.iter().map(|partition| Assigned {
            partition: *partition,
            epoch: 1,
            start: decide(partition.0, None, 0, 0),
        });
        waiting.add(assigned.collect());
        waiting
    }

    fn begun(waiting: &mut Waiting, room: Option<u64>, none_runs: bool) -> Vec<Partition> {
        let next = waiting.next(room, 100 * MIB, none_runs);
        next.iter().map(|assigned| assigned.partition).collect()
    }

    #[test]
    fn as_many_are_begun_as_there_is_memory_for() {
        let (events, samples) = (Topic::Events, Topic::ContainerSamples);
        let all = [(events, 2), (events, 0), (events, 1), (samples, 0)];
        let mut own = waiting(&all);
        // Those of one number come together.
        let first = begun(&mut own, Some(250 * MIB), true);
        assert_eq!(first, [(events, 0), (events, 1), (samples, 0)]);
        assert_eq!(begun(&mut own, Some(0), false), []);
        assert_eq!(begun(&mut own, Some(MIB), false), [(events, 2)]);
        assert_eq!(begun(&mut own, None, true), []);
        // One is begun in any case, all where no limit is known.
        assert_eq!(begun(&mut waiting(&all[..3]), Some(0), true), [(events, 0)]);
        assert_eq!(begun(&mut waiting(&all), None, false).len(), 4);
    }

    #[test]
    fn gaps_wait_with_their_tasks() {
        let mut own = waiting(&[(Topic::Events, 1), (Topic::Events, 2), (Topic::Events, 3)]);
        let gap = |number| Gap {
            partition: (Topic::Events, number),
            from: 5,
            to: 9,
        };
        // A task that does not wait, which runs or is about to come, has its own.
        assert!(own.note(&gap(1)) && own.note(&gap(2)) && own.note(&gap(3)) && !own.note(&gap(4)));
        own.retain(|assigned| assigned.partition.1 != 3);
        own.add(waiting(&[(Topic::Events, 3)]).assigned);
        let first = own.next(Some(0), 1, true);
        assert_eq!(own.gaps_of(&first), [gap(1)]);
        let others = own.next(None, 1, false);
        assert_eq!(others.len(), 2);
        assert_eq!(own.gaps_of(&others), [gap(2)]);
        assert!(own.gaps.is_empty());
    }

    #[test]
    fn the_allocator_is_asked_seldom() {
        let mut own = waiting(&[]);
        let start = Instant::now();
        let trims = |own: &mut Waiting, second| own.trims(start + Duration::from_secs(second));
        assert!(trims(&mut own, 0) && !trims(&mut own, 1) && !trims(&mut own, 29));
        assert!(trims(&mut own, 30) && !trims(&mut own, 31));
        own.given_back();
        assert!(trims(&mut own, 32) && !trims(&mut own, 33));
    }

    #[test]
    fn who_waits_for_long_is_told_once_until_all_are_begun() {
        let mut own = waiting(&[(Topic::Events, 3)]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(own.tell(at(0)).is_none() && own.tell(at(9)).is_none());
        let alert = own.tell(at(10)).expect("an alert");
        assert_eq!(&*alert.detection_id, "tasks_wait");
        assert!(
            alert.message.contains("1 tasks of partitions 3 wait"),
            "{}",
            alert.message
        );
        assert!(own.tell(at(11)).is_none() && own.due().is_some());
        assert_eq!(begun(&mut own, None, false).len(), 1);
        assert!(own.tell(at(12)).is_none() && own.due().is_none());
        own.add(waiting(&[(Topic::Events, 3)]).assigned);
        assert!(own.tell(at(20)).is_none() && own.tell(at(30)).is_some());
    }
}
