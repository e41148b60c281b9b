//! What is kept of a living process that the table had no room for: enough to know it again.
//!
//! A process that is given up is heard again later. Its lineage and its stage cannot be found out anew then, and
//! guessing would make an intruder of a healthcheck, or the other way round.

use std::collections::{HashMap, VecDeque};

use dogwatch_schemas::Text;

use super::{Id, Process, Stage};
use crate::container::Place;

/// How many are kept; the map of them takes some 3 MiB then, and does not grow at the next one.
const REMAINS_MAX: usize = 28_672;

/// See the module's description.
#[derive(Debug)]
struct Remains {
    start_ns: u64,
    parent: Option<Id>,
    vpid: Option<u32>,
    uid: u32,
    gid: u32,
    cgroup_id: u64,
    place: Place,
    origin: Option<Text>,
    stage: Option<Stage>,
}

/// The remains of processes, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    by_pid: HashMap<u32, Remains>,
    order: VecDeque<Id>,
}

impl Evicted {
    /// Keeps what is known of a process.
    pub fn keep(&mut self, process: &Process) {
        let id = process.id;
        let remains = Remains {
            start_ns: process.start_ns,
            parent: process.parent,
            vpid: process.vpid,
            uid: process.uid,
            gid: process.gid,
            cgroup_id: process.cgroup_id,
            place: process.place.clone(),
            origin: process.origin.clone(),
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
        if self.order.len() > 2 * REMAINS_MAX {
            let by_pid = &self.by_pid;
            self.order.retain(|id| {
                by_pid
                    .get(&id.pid)
                    .is_some_and(|remains| remains.id(id.pid) == *id)
            });
        }
    }

    /// A process that is heard again, as far as it is known; `key` is its `proc_key`.
    pub fn take(&mut self, id: Id, key: Text) -> Option<Process> {
        let known = self.by_pid.get(&id.pid)?;
        if known.id(id.pid) != id {
            return None;
        }
        let Remains {
            start_ns,
            parent,
            vpid,
            uid,
            gid,
            cgroup_id,
            place,
            origin,
            stage,
        } = self.by_pid.remove(&id.pid)?;
        let mut process = Process::new(id, key, start_ns, uid, gid, cgroup_id, place);
        process.parent = parent;
        process.vpid = vpid;
        process.origin = origin;
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
        assert!(evicted.take(process.id, key()).is_none());
    }

    #[test]
    fn both_sides_are_bounded() {
        let mut evicted = Evicted::default();
        for round in 0..4u64 {
            for pid in 0..REMAINS_MAX as u32 {
                evicted.keep(&process(pid, round * 1_000_000_000));
                assert!(evicted.by_pid.len() <= REMAINS_MAX);
                assert!(evicted.order.len() <= 2 * REMAINS_MAX + 1);
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
