//! The tasks of this processor: how far each partition was taken, what of it was said before, when its next checkpoint
//! is due, and whether it fell silent.
//!
//! No clock and no I/O: times are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dogwatch_schemas::topics::Topic;

use crate::checkpoint::Progress;
use crate::config::RawCheckpoint;
use crate::decode::InputRecord;
use crate::step::{Partition, Position};

/// Marks that a silent partition needs are written at most this often.
const MARK_INTERVAL: Duration = Duration::from_secs(60);

/// Marks that windows of the whole fleet need, which count the seconds of each partition.
const SECOND: Duration = Duration::from_secs(1);

/// A silence is ended by the broker's clock, which this much later says so too.
const MARK_MARGIN: Duration = Duration::from_secs(1);

/// The work of one partition of one topic: a log that depends on no other.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its assignment.
    pub epoch: u64,
    /// How far its checkpoints are.
    pub progress: Progress,
    /// Offset of the next record to be gathered; what is before it is known.
    gathered: i64,
    /// Offset of the next record for the engine.
    processed: i64,
    /// What is before this offset was committed by somebody.
    live_from: i64,
    heard_at: Instant,
    marked_at: Option<Instant>,
}

impl Task {
    /// A task whose engine state ends at `processed`; what is before `live_from` is replayed muted.
    pub fn new(
        epoch: u64,
        progress: Progress,
        processed: i64,
        live_from: i64,
        now: Instant,
    ) -> Self {
        Self {
            epoch,
            progress,
            gathered: processed,
            processed,
            live_from,
            heard_at: now,
            marked_at: None,
        }
    }

    /// The same under another assignment.
    pub fn of_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }

    /// Takes records for the next step: those that its state does not know yet.
    pub fn gather(
        &mut self,
        mut records: Vec<InputRecord>,
        own: &[u8],
        now: Instant,
    ) -> Vec<InputRecord> {
        let from = self.gathered;
        records.retain(|record| record.offset >= from);
        if let Some(last) = records.last() {
            self.gathered = last.offset + 1;
        }
        // What we wrote because it is silent does not make it less so.
        if records.iter().any(|record| record.key != own) {
            self.heard_at = now;
        }
        records
    }

    /// Notes that the engine has taken all that was gathered.
    pub fn process(&mut self, bytes: u64) {
        self.processed = self.gathered;
        self.progress.note_input(bytes);
    }

    /// Offset of the next record for the engine: where a checkpoint made now ends.
    pub fn processed(&self) -> i64 {
        self.processed
    }

    /// What a commit says of it: never less than was committed, also while that is replayed.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            next: self.processed.max(self.live_from),
        }
    }

    /// Goes on with the silence of the same task as it was before.
    pub fn go_on_from(&mut self, before: &Self) {
        (self.heard_at, self.marked_at) = (before.heard_at, before.marked_at);
    }

    /// Says whether there is something to commit that was not committed by somebody.
    pub fn live(&self) -> bool {
        self.processed > self.live_from
    }

    /// Returns when it needs a mark, should it stay silent.
    fn mark_due_at(&self, host_silence: Duration, each_second: bool) -> Instant {
        if each_second {
            return self.marked_at.unwrap_or(self.heard_at).max(self.heard_at) + SECOND;
        }
        let silent = self.heard_at + host_silence + MARK_MARGIN;
        let again = self
            .marked_at
            .map(|marked_at| marked_at + host_silence.min(MARK_INTERVAL));
        again.map_or(silent, |again| again.max(silent))
    }
}

/// All tasks.
#[derive(Debug)]
pub struct Tasks {
    tasks: BTreeMap<Partition, Task>,
    checkpoint: RawCheckpoint,
    host_silence: Duration,
    /// The topics of which each second of a silence is marked.
    each_second: BTreeSet<Topic>,
}

impl Tasks {
    /// None yet.
    pub fn new(checkpoint: RawCheckpoint, host_silence: Duration) -> Self {
        Self {
            tasks: BTreeMap::new(),
            checkpoint,
            host_silence,
            each_second: BTreeSet::new(),
        }
    }

    /// Names the topics of which each second of a silence is marked.
    pub fn mark_each_second(&mut self, topics: BTreeSet<Topic>) {
        self.each_second = topics;
    }

    /// Whether each second of a silence is marked in a topic.
    pub fn counts_seconds(&self, topic: Topic) -> bool {
        self.each_second.contains(&topic)
    }

    /// Takes a task on.
    pub fn insert(&mut self, partition: Partition, task: Task) {
        self.tasks.insert(partition, task);
    }

    /// Gives a task up.
    pub fn remove(&mut self, partition: Partition) -> Option<Task> {
        self.tasks.remove(&partition)
    }

    /// Gives all up and returns which they were.
    pub fn clear(&mut self) -> Vec<Partition> {
        std::mem::take(&mut self.tasks).into_keys().collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &Task)> {
        self.tasks
            .iter()
            .map(|(partition, task)| (*partition, task))
    }

    /// How many there are of a topic.
    pub fn count_of(&self, topic: Topic) -> usize {
        let own = self.tasks.keys().filter(|(of, _)| *of == topic);
        own.count()
    }

    /// How many numbers they have: those of one number are assigned together.
    pub fn numbers(&self) -> usize {
        let numbers: BTreeSet<i32> = self.tasks.keys().map(|(_, number)| *number).collect();
        numbers.len()
    }

    /// Tells the tasks that lie in the same partition of the topic of states how many bytes another one has written there.
    pub fn pass_over(&mut self, written: Partition, bytes: u64) {
        let beside = self.tasks.iter_mut();
        let beside = beside.filter(|(own, _)| own.1 == written.1 && **own != written);
        beside.for_each(|(_, task)| task.progress.pass_over(bytes));
    }

    /// A task.
    pub fn task(&mut self, partition: Partition) -> Option<&mut Task> {
        self.tasks.get_mut(&partition)
    }

    /// Those with input that no checkpoint knows.
    pub fn behind(&self) -> Vec<Partition> {
        let behind = self.tasks.iter().filter(|(_, task)| task.progress.behind());
        behind.map(|(partition, _)| *partition).collect()
    }

    /// Those whose checkpoint is due, the longest overdue first.
    pub fn checkpoints_due(&self, now: Instant) -> Vec<Partition> {
        let due_at = |(partition, task): (&Partition, &Task)| {
            let at = task.progress.due_at(&self.checkpoint)?;
            (at <= now).then_some((at, *partition))
        };
        let mut due: Vec<(Instant, Partition)> = self.tasks.iter().filter_map(due_at).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, partition)| partition).collect()
    }

    /// Returns when the first of them has a checkpoint due.
    pub fn next_checkpoint(&self) -> Option<Instant> {
        let due_at = |task: &Task| task.progress.due_at(&self.checkpoint);
        self.tasks.values().filter_map(due_at).min()
    }

    /// Those that were silent for so long that they may need a mark.
    pub fn silent(&self, now: Instant) -> Vec<Partition> {
        let silent = self.tasks.iter();
        let silent = silent.filter(|(partition, task)| self.mark_due_at(**partition, task) <= now);
        silent.map(|(partition, _)| *partition).collect()
    }

    /// Returns when the first of them may need a mark.
    pub fn next_mark(&self) -> Option<Instant> {
        let tasks = self.tasks.iter();
        let due = tasks.map(|(partition, task)| self.mark_due_at(*partition, task));
        due.min()
    }

    fn mark_due_at(&self, (topic, _): Partition, task: &Task) -> Instant {
        task.mark_due_at(self.host_silence, self.counts_seconds(topic))
    }

    /// Notes that a task was looked at for its silence, and marked where it needed that.
    pub fn note_marked(&mut self, partition: Partition, now: Instant) {
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.marked_at = Some(now);
        }
    }

    /// When the first checkpoint of the `number`th of `count` tasks that are taken over together counts from:
    /// spread over the interval, so that they are not written all at once.
    pub fn stagger(&self, number: usize, count: usize, now: Instant) -> Instant {
        let left = count.saturating_sub(number + 1) as u32;
        let early = self.checkpoint.interval * left / count.max(1) as u32;
        now.checked_sub(early).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: Partition = (Topic::Events, 0);
    const P1: Partition = (Topic::Events, 1);
    const OWN: &[u8] = b"own";

    fn tasks() -> Tasks {
        let checkpoint = RawCheckpoint {
            interval: 10 * SECOND,
            input_bytes: 1_000,
        };
        Tasks::new(checkpoint, 600 * SECOND)
    }

    fn task(processed: i64, live_from: i64, now: Instant) -> Task {
        Task::new(7, Progress::begin(0, now), processed, live_from, now)
    }

    fn records(key: &[u8], offsets: std::ops::Range<i64>) -> Vec<InputRecord> {
        let record = |offset| InputRecord {
            topic: Topic::Events,
            partition: 0,
            offset,
            ingest_ts_ns: None,
            key: key.to_vec().into(),
            value: Vec::new().into(),
        };
        offsets.map(record).collect()
    }

    #[test]
    fn what_the_state_knows_is_not_taken_again() {
        let now = Instant::now();
        let mut task = task(5, 5, now);
        let taken = task.gather(records(b"host", 3..8), OWN, now);
        assert_eq!(taken, records(b"host", 5..8));
        assert!(task.gather(records(b"host", 0..8), OWN, now).is_empty());
        assert_eq!(task.processed(), 5);
        task.process(1);
        assert_eq!(task.processed(), 8);
    }

    #[test]
    fn a_replay_never_commits_less_than_was_committed() {
        let now = Instant::now();
        let mut task = task(5, 10, now);
        task.gather(records(b"host", 5..8), OWN, now);
        task.process(1);
        assert_eq!((task.processed(), task.position().next), (8, 10));
        assert!(!task.live());
        task.gather(records(b"host", 8..12), OWN, now);
        task.process(1);
        assert_eq!((task.processed(), task.position().next), (12, 12));
        assert!(task.live());
    }

    #[test]
    fn checkpoints_of_tasks_taken_over_together_do_not_come_together() {
        let now = Instant::now();
        let mut tasks = tasks();
        for (number, partition) in [P0, P1].into_iter().enumerate() {
            let taken_at = tasks.stagger(number, 2, now);
            let mut task = Task::new(7, Progress::begin(0, taken_at), 0, 0, now);
            task.process(1);
            tasks.insert(partition, task);
        }
        assert!(tasks.checkpoints_due(now + 4 * SECOND).is_empty());
        assert_eq!(tasks.next_checkpoint(), Some(now + 5 * SECOND));
        assert_eq!(tasks.checkpoints_due(now + 6 * SECOND), [P0]);
        assert_eq!(tasks.checkpoints_due(now + 11 * SECOND), [P0, P1]);
        assert_eq!(tasks.behind(), [P0, P1]);
    }

    #[test]
    fn a_silent_task_is_marked_once_a_minute_and_no_mark_ends_its_silence() {
        let now = Instant::now();
        let mut tasks = tasks();
        tasks.insert(P0, task(0, 0, now));
        assert!(tasks.silent(now + 600 * SECOND).is_empty());
        let due = now + 601 * SECOND;
        assert_eq!(tasks.next_mark(), Some(due));
        assert_eq!(tasks.silent(due), [P0]);
        tasks.note_marked(P0, due);
        tasks.task(P0).unwrap().gather(records(OWN, 0..1), OWN, due);
        assert!(tasks.silent(due + 59 * SECOND).is_empty());
        assert_eq!(tasks.silent(due + 60 * SECOND), [P0]);
        let heard = due + 61 * SECOND;
        tasks
            .task(P0)
            .unwrap()
            .gather(records(b"host", 1..2), OWN, heard);
        assert_eq!(tasks.next_mark(), Some(heard + 601 * SECOND));
        // Windows of the whole fleet count its seconds.
        tasks.mark_each_second([Topic::ContainerSamples].into());
        assert_ne!(tasks.next_mark(), Some(heard + SECOND));
        tasks.mark_each_second([Topic::Events].into());
        assert_eq!(tasks.next_mark(), Some(heard + SECOND));
        tasks.note_marked(P0, heard + 2 * SECOND);
        assert_eq!(tasks.next_mark(), Some(heard + 3 * SECOND));
    }
}
