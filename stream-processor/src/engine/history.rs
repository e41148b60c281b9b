//! What a task remembers of its log: the last record of each sensor's run, and what that run says is lost.
//!
//! It is a function of the log alone, so it can be stored with the offsets and comes out the same on a replay.
//! Its size is bounded: of more than [`RUNS_MAX`] runs in a partition, the half not heard of for longest is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dogwatch_schemas::Text;

/// Most runs of sensors remembered for a partition.
const RUNS_MAX: usize = 16_384;

/// Events lost, by class.
pub(crate) type Losses = BTreeMap<Text, i64>;

/// What a record is to the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next of its run; so many before it never came.
    New { missing: u64 },
    /// Sent again: it was in the log before.
    Repeated,
}

/// The histories of the partitions an engine is given.
#[derive(Debug, Default)]
pub(crate) struct History {
    partitions: HashMap<i32, HashMap<RunKey, Run>>,
}

/// Host id and sensor run.
type RunKey = (Text, Text);

#[derive(Debug)]
struct Run {
    seq: i64,
    offset: i64,
    losses: Arc<Losses>,
}

impl History {
    /// Takes the next record of a partition.
    pub fn take(
        &mut self,
        partition: i32,
        offset: i64,
        host_id: &str,
        sensor_run: &str,
        seq: i64,
    ) -> Place {
        let runs = self.partitions.entry(partition).or_default();
        let key = (Text::from(host_id), Text::from(sensor_run));
        let Some(run) = runs.get_mut(&key) else {
            if runs.len() >= RUNS_MAX {
                forget_half(runs);
            }
            runs.insert(
                key,
                Run {
                    seq,
                    offset,
                    losses: Arc::default(),
                },
            );
            return Place::New { missing: 0 };
        };
        // The log was wound back, by a new assignment or an aborted step: this is not the sensor sending again.
        if offset <= run.offset {
            *run = Run {
                seq,
                offset,
                losses: Arc::default(),
            };
            return Place::New { missing: 0 };
        }
        run.offset = offset;
        if seq <= run.seq {
            return Place::Repeated;
        }
        let missing = seq.abs_diff(run.seq) - 1;
        run.seq = seq;
        Place::New { missing }
    }

    /// Notes what a run's mark says is lost so far.
    pub fn note_losses(&mut self, partition: i32, host_id: &str, sensor_run: &str, losses: Losses) {
        let run = self
            .partitions
            .get_mut(&partition)
            .and_then(|runs| runs.get_mut(&(host_id.into(), sensor_run.into())));
        if let Some(run) = run {
            run.losses = Arc::new(losses);
        }
    }

    /// What a run said is lost, up to here.
    pub fn losses(&self, partition: i32, host_id: &str, sensor_run: &str) -> Arc<Losses> {
        let run = self
            .partitions
            .get(&partition)
            .and_then(|runs| runs.get(&(host_id.into(), sensor_run.into())));
        run.map(|run| Arc::clone(&run.losses)).unwrap_or_default()
    }

    /// Forgets a partition that is no longer this engine's.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }
}

fn forget_half(runs: &mut HashMap<RunKey, Run>) {
    let mut offsets: Vec<i64> = runs.values().map(|run| run.offset).collect();
    offsets.sort_unstable();
    let middle = offsets[offsets.len() / 2];
    runs.retain(|_, run| run.offset >= middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Place = Place::New { missing: 0 };

    #[test]
    fn what_was_sent_again_is_known() {
        let mut history = History::default();
        let mut take = |offset, run, seq| history.take(0, offset, "host", run, seq);
        assert_eq!(take(0, "a", 7), NEW);
        assert_eq!(take(1, "a", 8), NEW);
        assert_eq!(take(2, "a", 7), Place::Repeated);
        assert_eq!(take(3, "a", 8), Place::Repeated);
        assert_eq!(take(4, "b", 0), NEW);
        assert_eq!(take(5, "a", 12), Place::New { missing: 3 });
    }

    #[test]
    fn a_log_wound_back_is_read_again() {
        let mut history = History::default();
        for (offset, seq) in [(0, 0), (1, 1), (2, 2), (1, 1), (2, 2)] {
            assert_eq!(history.take(0, offset, "host", "a", seq), NEW, "{offset}");
        }
        assert_eq!(history.take(0, 3, "host", "a", 1), Place::Repeated);
        history.forget(0);
        assert_eq!(history.take(0, 4, "host", "a", 1), NEW);
    }

    #[test]
    fn partitions_and_hosts_do_not_mix() {
        let mut history = History::default();
        assert_eq!(history.take(0, 0, "one", "a", 5), NEW);
        assert_eq!(history.take(0, 1, "two", "a", 5), NEW);
        assert_eq!(history.take(1, 2, "one", "a", 5), NEW);
    }

    #[test]
    fn losses_hang_on_the_run_that_said_them() {
        let mut history = History::default();
        history.take(0, 0, "host", "a", 0);
        history.note_losses(0, "host", "a", Losses::from([("ring_full".into(), 3)]));
        history.take(0, 1, "host", "b", 0);
        assert_eq!(history.losses(0, "host", "a").get("ring_full"), Some(&3));
        assert!(history.losses(0, "host", "b").is_empty());
        assert!(history.losses(1, "host", "a").is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut history = History::default();
        for offset in 0..3 * RUNS_MAX as i64 {
            history.take(0, offset, &offset.to_string(), "a", 0);
            assert!(history.partitions[&0].len() <= RUNS_MAX);
        }
        let last = 3 * RUNS_MAX as i64 - 1;
        assert_eq!(
            history.take(0, last + 1, &last.to_string(), "a", 0),
            Place::Repeated
        );
    }
}
