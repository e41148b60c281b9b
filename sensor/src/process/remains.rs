//! What is kept of a living process that the table had no room for: enough to know it again.
//!
//! A process that is given up is heard again later. Its lineage and its stage cannot be found out anew then, and
//! guessing would make an intruder of a healthcheck, or the other way round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use dogwatch_schemas::Text;

use super::{Id, Process, Stage};
use crate::container::Place;

/// How many are kept; the map of them takes some 2 MiB then, and does not grow at the next one.
const REMAINS_MAX: usize = 28_672;
/// How many wait to be forgotten, those that are known again already among them.
const ORDER_MAX: usize = 32_768;

/// See the module's description. Small, because there are many.
#[derive(Debug)]
struct Remains {
    start_ns: u64,
    /// Of the parent; pid 0 = it has none that is known.
    parent_pid: u32,
    vpid: Option<u32>,
    parent_ticks: u64,
    uid: u32,
    gid: u32,
    cgroup_id: u64,
    whereabouts: Arc<Whereabouts>,
    stage: Option<Stage>,
}

/// Where a process is, and which container it has left; shared by neighbours.
#[derive(Debug, PartialEq)]
struct Whereabouts {
    place: Place,
    origin: Option<Text>,
}

/// The remains of processes, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    by_pid: HashMap<u32, Remains>,
    order: VecDeque<Id>,
    /// Of who was kept last.
    last: Option<Arc<Whereabouts>>,
}

impl Evicted {
    /// Keeps what is known of a process.
    pub fn keep(&mut self, process: &Process) {
        let id = process.id;
        let parent = process.parent.unwrap_or(Id {
            pid: 0,
            start_ticks: 0,
        });
        let remains = Remains {
            start_ns: process.start_ns,
            parent_pid: parent.pid,
            parent_ticks: parent.start_ticks,
            vpid: process.vpid,
            uid: process.uid,
            gid: process.gid,
            cgroup_id: process.cgroup_id,
            whereabouts: self.whereabouts(process),
            stage: process.stage,
        };
        while self.by_pid.len() >= REMAINS_MAX {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.forget(oldest);
        }
        self.by_pid.insert(id.pid, remains);
        self.order.push_back(id);
        if self.order.len() >= ORDER_MAX {
            let by_pid = &self.by_pid;
            self.order.retain(|id| {
                by_pid
                    .get(&id.pid)
                    .is_some_and(|remains| remains.id(id.pid) == *id)
            });
        }
    }

    fn whereabouts(&mut self, process: &Process) -> Arc<Whereabouts> {
        let last = self
            .last
            .take()
            .filter(|last| last.place == process.place && last.origin == process.origin);
        let shared = last.unwrap_or_else(|| {
            Arc::new(Whereabouts {
                place: process.place.clone(),
                origin: process.origin.clone(),
            })
        });
        self.last = Some(shared.clone());
        shared
    }

    /// A process that is heard again, as far as it is known; `key` is its `proc_key`.
    pub fn take(&mut self, id: Id, key: Text) -> Option<Process> {
        let known = self.by_pid.get(&id.pid)?;
        if known.id(id.pid) != id {
            return None;
        }
        let Remains {
            start_ns,
            parent_pid,
            parent_ticks,
            vpid,
            uid,
            gid,
            cgroup_id,
            whereabouts,
            stage,
        } = self.by_pid.remove(&id.pid)?;
        let Whereabouts { place, origin } = &*whereabouts;
        let mut process = Process::new(id, key, start_ns, uid, gid, cgroup_id, place.clone());
        process.parent = (parent_pid != 0).then_some(Id {
            pid: parent_pid,
            start_ticks: parent_ticks,
        });
        process.vpid = vpid;
        process.origin = origin.clone();
        process.stage = stage;
        Some(process)
    }

    /// Forgets a process.
    fn forget(&mut self, id: Id) {
        if self
            .by_pid
            .get(&id.pid)
            .is_some_and(|known| known.id(id.pid) == id)
        {
            self.by_pid.remove(&id.pid);
        }
    }
}

impl Remains {
    fn id(&self, pid: u32) -> Id {
        Id::new(pid, self.start_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, start_ns: u64) -> Process {
        let id = Id::new(pid, start_ns);
        let mut process = Process::new(id, "k".into(), start_ns, 0, 0, 1, Place::Host);
        process.stage = Some(Stage::Healthcheck);
        process.parent = Some(Id::new(1, 10_000_000));
        process.origin = Some("left".into());
        process
    }

    #[test]
    fn a_process_is_known_again_once_and_another_of_its_pid_is_not() {
        let mut evicted = Evicted::default();
        let process = process(7, 1_000_000_000);
        evicted.keep(&process);
        let key = || Text::from("k");
        assert!(evicted.take(Id::new(7, 2_000_000_000), key()).is_none());
        let known = evicted.take(process.id, key()).unwrap();
        assert_eq!(known.stage, Some(Stage::Healthcheck));
        assert_eq!(known.parent, process.parent);
        assert_eq!(
            (known.place, known.origin),
            (process.place.clone(), process.origin.clone())
        );
        assert!(evicted.take(process.id, key()).is_none());
    }

    #[test]
    fn both_sides_are_bounded() {
        let mut evicted = Evicted::default();
        for round in 0..4u64 {
            for pid in 0..REMAINS_MAX as u32 {
                evicted.keep(&process(pid, round * 1_000_000_000));
                assert!(evicted.by_pid.len() <= REMAINS_MAX);
                assert!(evicted.order.len() < ORDER_MAX);
            }
        }
        evicted.keep(&process(REMAINS_MAX as u32, 0));
        let mut known = |pid| {
            evicted
                .take(Id::new(pid, 3_000_000_000), "k".into())
                .is_some()
        };
        assert!(!known(0), "the oldest goes");
        assert!(known(1));
    }
}
