//! What is kept of a living process that the table had no room for: enough to know it again.
//!
//! A process that is given up is heard again later. Its lineage and its stage cannot be found out anew then, and
//! guessing would make an intruder of a healthcheck, or the other way round.

use std::collections::HashMap;
use std::sync::Arc;

use dogwatch_schemas::Text;

use super::{Id, Process, Stage};
use crate::container::Place;

/// How many are kept; they take some 2.5 MiB then, and up to 5 where no neighbours share their whereabouts.
const REMAINS_MAX: usize = 28_672;

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
///
/// They are in a ring, found by an index: a map of them would hold twice the room for those that come and go.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    ring: Vec<Option<(u32, Remains)>>,
    /// Where the next one goes.
    next: usize,
    by_pid: HashMap<u32, u32>,
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
        if let Some(before) = self.by_pid.get(&id.pid) {
            self.ring[*before as usize] = None;
        }
        self.by_pid.insert(id.pid, self.next as u32);
        let kept = Some((id.pid, remains));
        if self.next == self.ring.len() {
            self.ring.push(kept);
        } else if let Some((oldest, _)) = std::mem::replace(&mut self.ring[self.next], kept) {
            self.by_pid.remove(&oldest);
        }
        self.next = (self.next + 1) % REMAINS_MAX;
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
        let slot = *self.by_pid.get(&id.pid)? as usize;
        let (_, known) = self.ring[slot].take_if(|(pid, known)| known.id(*pid) == id)?;
        self.by_pid.remove(&id.pid);
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
        } = known;
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
                assert!(evicted.ring.len() <= REMAINS_MAX);
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
