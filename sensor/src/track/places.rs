//! Where processes are: cgroups and the containers they belong to, and the events that wait for a container to be known.

use std::collections::{HashMap, VecDeque};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use super::apart::Apart;
use super::row::{EventRow, Row, RunColumns};
use super::{Shortfall, rows};
use crate::container::{Cgroups, Container, Membership, Place, cgroup_of};
use crate::loss::Class;

/// Cgroups remembered at most; some 4 MiB. The kernel part tells no more of them apart.
const CGROUPS_MAX: usize = 32_768;

/// Cgroups that are remembered when they are gone: what the kernel part counted of them is read after their end.
const GONE_MAX: usize = 1_024;

/// Bytes of what is known of all containers; beyond, the largest give up their mounts, arguments and the labels that only rows
/// in full have, and where that is not enough those of all rows, too.
const KNOWN_BYTES_MAX: usize = 6 << 20;

/// Bounds of what waits for metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitingBounds {
    /// Events that wait at most.
    pub events_max: usize,
    /// Bytes they take at most; a single container has a quarter of them.
    pub bytes_max: usize,
    /// False: events never wait.
    pub patient: bool,
}

/// The longest `containers.metadata_patience`, and a second for the answer.
const WAIT_MAX_NS: u64 = 11_000_000_000;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Places {
    /// All cgroups; `None` = one of the host's own.
    cgroups: HashMap<u64, Option<Membership>>,
    /// Whose those were that went last; their ids are not used again.
    gone: VecDeque<(u64, Place)>,
    /// Those that are a container's though their paths do not say it.
    told: Cgroups,
    /// Containers that no cgroup tells of.
    pub apart: Apart,
    known: HashMap<Text, Known>,
    known_bytes: usize,
    /// Events of containers not yet known, in their order.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    bounds: WaitingBounds,
    run: RunColumns,
    /// Names of the labels that every row keeps.
    labels: Vec<Text>,
    /// The host's mounts are known: where a file that was opened lies is told by its own file system.
    pub mounts_known: bool,
    /// What could not be kept.
    pub shortfalls: Vec<Shortfall>,
}

#[derive(Debug)]
struct Waiting {
    container: Text,
    event: Box<Event>,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    container: Container,
    /// Its own cgroup, or the first below it that was heard of.
    cgroup_id: u64,
    /// What is known beyond the id is still being looked up.
    awaited: bool,
    /// Its making was seen.
    made: bool,
    entrypoint_seen: bool,
    /// It gave up what is large.
    shed: bool,
    /// Bytes of its events that wait.
    waiting_bytes: usize,
}

impl Places {
    pub fn new(bounds: WaitingBounds, run: RunColumns, labels: Vec<Text>) -> Self {
        Self {
            cgroups: HashMap::new(),
            gone: VecDeque::new(),
            told: Cgroups::default(),
            apart: Apart::default(),
            known: HashMap::new(),
            known_bytes: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            bounds,
            run,
            labels,
            mounts_known: false,
            shortfalls: Vec::new(),
        }
    }

    /// A cgroup is that of a container of this name.
    pub fn tell(&mut self, path: &str, name: &str, runtime: &str) {
        self.told.tell(path, name, runtime);
    }

    /// A cgroup that exists already.
    pub fn found(&mut self, id: u64, path: &str) {
        self.enter(id, path, false);
    }

    /// A cgroup that was just made.
    pub fn made(&mut self, id: u64, path: &str) {
        self.enter(id, path, true);
    }

    fn enter(&mut self, id: u64, path: &str, made: bool) {
        if self.cgroups.len() >= CGROUPS_MAX && !self.cgroups.contains_key(&id) {
            self.shortfalls.push(Shortfall {
                class: Class::TableFull,
                evt_type: "cgroup_mkdir".into(),
                count: 1,
            });
            return;
        }
        let mut membership = self.told.enter(path);
        if let Some(membership) = &mut membership {
            let own_cgroup = *membership.path == *path;
            match self.known.get_mut(&membership.id) {
                // Its own is there: whoever has cgroups of its own may name one like anybody's.
                Some(known)
                    if known.cgroup_id != id && self.cgroups.contains_key(&known.cgroup_id) => {}
                // The same container started again: its init is another process, the rest is as it was.
                Some(known) if own_cgroup => {
                    known.cgroup_id = id;
                    known.container.init_pid = None;
                    known.container.start_ns = None;
                    known.awaited = true;
                    known.made = made;
                    known.entrypoint_seen = false;
                }
                Some(_) => {}
                None => {
                    let known = Known {
                        container: Container::unknown(membership),
                        cgroup_id: id,
                        awaited: true,
                        made,
                        entrypoint_seen: false,
                        shed: false,
                        waiting_bytes: 0,
                    };
                    self.known_bytes += known.container.bytes();
                    self.known.insert(membership.id.clone(), known);
                }
            }
            // One text for all cgroups of a container.
            if let Some((id, _)) = self.known.get_key_value(&membership.id) {
                membership.id = id.clone();
            }
        }
        self.cgroups.insert(id, membership);
    }

    /// A cgroup was removed; returns its container when it was the container's own.
    pub fn removed(&mut self, id: u64) -> Option<Text> {
        let place = self.place_of(id);
        let membership = self.cgroups.remove(&id)?;
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((id, place));
        let membership = membership?;
        let known = self.known.get_mut(&membership.id)?;
        if known.cgroup_id != id {
            return None;
        }
        if let Some(left) = cgroup_of(&self.cgroups, &membership.id) {
            // A removal was not seen, or somebody made a cgroup of its name.
            known.cgroup_id = left;
            return None;
        }
        self.told.forget(&membership.path);
        Some(membership.id)
    }

    /// Forgets a container that was removed.
    pub fn forget(&mut self, container: &Text, out: &mut Vec<Row>) {
        self.release(container, out);
        if let Some(gone) = self.known.remove(container) {
            self.known_bytes -= gone.container.bytes();
        }
        self.apart.forget(container);
    }

    /// Takes what is known of a container; returns what happened to it and whether that is news, or `None` for one that
    /// is gone by now. Where only the id could be found out, what was known before stays.
    pub fn learn(&mut self, mut container: Container) -> Option<(&'static str, bool)> {
        let known = self.known.get_mut(&container.id)?;
        container.keep(&known.container);
        // Still no room for what it gave up: that is no change.
        if known.shed && self.known_bytes + container.bytes() > KNOWN_BYTES_MAX {
            let labels = container
                .labels
                .as_ref()
                .filter(|_| known.container.labels.is_some());
            let labels = labels.map(|all| rows::named_labels(all, &self.labels));
            container.shed(labels);
        } else {
            known.shed = false;
        }
        let learned = container.source.as_ref() != "cgroup";
        let better = learned || known.container.source.as_ref() == "cgroup";
        let told = match (known.awaited, known.made) {
            (true, true) => ("start", true),
            (true, false) => ("running", true),
            (false, _) if better && known.container != container => ("change", true),
            (false, _) => ("running", false),
        };
        known.awaited = false;
        if better {
            self.known_bytes -= known.container.bytes();
            self.known_bytes += container.bytes();
            known.container = container;
            self.bound_known();
        }
        Some(told)
    }

    fn bound_known(&mut self) {
        while self.known_bytes > KNOWN_BYTES_MAX {
            // Those that are whole come first.
            let sheddable = self
                .known
                .values_mut()
                .filter(|known| !known.shed || known.container.labels.is_some());
            let Some(largest) =
                sheddable.max_by_key(|known| (!known.shed, known.container.bytes()))
            else {
                return;
            };
            self.known_bytes -= largest.container.bytes();
            let labels = largest.container.labels.take().filter(|_| !largest.shed);
            let labels = labels.map(|all| rows::named_labels(&all, &self.labels));
            largest.container.shed(labels);
            largest.shed = true;
            self.known_bytes += largest.container.bytes();
        }
    }

    /// Where a cgroup is: the only way from a cgroup to a container.
    pub fn place_of(&self, cgroup_id: u64) -> Place {
        match self.cgroups.get(&cgroup_id) {
            Some(Some(membership)) => Place::Container(membership.id.clone()),
            Some(None) => Place::Host,
            None => {
                let mut gone = self.gone.iter().rev();
                let gone = gone.find(|(id, _)| *id == cgroup_id);
                gone.map_or(Place::Unknown, |(_, place)| place.clone())
            }
        }
    }

    pub fn nested(&self, cgroup_id: u64) -> Option<&Text> {
        self.cgroups.get(&cgroup_id)?.as_ref()?.nested.as_ref()
    }

    pub fn container(&self, id: &Text) -> Option<&Container> {
        Some(&self.known.get(id)?.container)
    }

    /// Bytes of what is known of all containers.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.known
            .values()
            .map(|known| known.container.bytes())
            .sum()
    }

    pub fn containers(&self) -> usize {
        self.known.len()
    }

    pub fn has_entrypoint(&self, id: &Text) -> bool {
        self.known
            .get(id)
            .is_some_and(|known| known.entrypoint_seen)
    }

    pub fn entrypoint_seen(&mut self, id: &Text) {
        if let Some(known) = self.known.get_mut(id) {
            known.entrypoint_seen = true;
        }
    }

    /// Whether events of this place wait for what is known of its container.
    pub fn is_awaited(&self, place: &Place) -> bool {
        let known = place.container().and_then(|id| self.known.get(id));
        self.bounds.patient && known.is_some_and(|known| known.awaited)
    }

    /// Sends an event of a process at `place` (that has left the container `origin`), or lets it wait.
    pub fn send(
        &mut self,
        mut event: Box<Event>,
        place: &Place,
        origin: Option<&Text>,
        out: &mut Vec<Row>,
    ) {
        if let Some(id) = place.container().filter(|_| self.is_awaited(place)) {
            match self.wait(id, event) {
                None => return,
                Some(unwaited) => event = unwaited,
            }
        }
        self.complete(place, origin, event, out);
    }

    /// Lets an event wait; gives it back where there is no room for it.
    fn wait(&mut self, id: &Text, event: Box<Event>) -> Option<Box<Event>> {
        let bytes = rows::bytes(&event);
        let WaitingBounds {
            events_max,
            bytes_max,
            ..
        } = self.bounds;
        let known = self.known.get_mut(id)?;
        let room = self.waiting.len() < events_max
            && self.waiting_bytes + bytes <= bytes_max
            && known.waiting_bytes + bytes <= bytes_max / 4;
        if !room {
            self.shortfalls.push(Shortfall {
                class: Class::MetadataQueue,
                evt_type: event.evt_type.clone(),
                count: 1,
            });
            return Some(event);
        }
        known.waiting_bytes += bytes;
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting {
            container: id.clone(),
            event,
            bytes,
        });
        None
    }

    fn complete(
        &self,
        place: &Place,
        origin: Option<&Text>,
        mut event: Box<Event>,
        out: &mut Vec<Row>,
    ) {
        self.set_place(&mut event, place);
        let in_host_mntns = event.proc_in_host_mntns == Some(true);
        self.set_host_name(&mut event, in_host_mntns, place, origin);
        out.push(Row::Event(EventRow::alone(&self.run, event)));
    }

    /// Columns of where a process is.
    pub fn set_place(&self, event: &mut Event, place: &Place) {
        let Some(id) = place.container() else {
            return rows::set_no_container(event, place);
        };
        match self.container(id) {
            Some(container) => rows::set_container(event, container, &self.labels),
            // Nobody knows more of it, or it was removed while a process of it still ended.
            None => rows::set_container(
                event,
                &Container {
                    id: id.clone(),
                    runtime: if self.apart.has(id) {
                        "namespaces"
                    } else {
                        "other"
                    }
                    .into(),
                    ..Container::default()
                },
                &self.labels,
            ),
        }
    }

    /// Where the event's file lies on the host; whoever left its container still has that one's mounts.
    pub fn set_host_name(
        &self,
        event: &mut Event,
        in_host_mntns: bool,
        place: &Place,
        origin: Option<&Text>,
    ) {
        let mounts_of = place.container().or(origin);
        let container = mounts_of.and_then(|id| self.container(id));
        // An open that succeeded has said where its file lies, or that the host has it nowhere: it may have been reached in
        // another container's tree.
        let container = container.filter(|_| event.fd_created.is_none() || !self.mounts_known);
        rows::set_host_name(event, in_host_mntns, container);
    }

    fn complete_waiting(&self, waiting: Waiting, out: &mut Vec<Row>) {
        let place = Place::Container(waiting.container);
        self.complete(&place, None, waiting.event, out);
    }

    /// Hands out what waited for a container.
    pub fn release(&mut self, container: &Text, out: &mut Vec<Row>) {
        match self.known.get_mut(container) {
            Some(known) if known.waiting_bytes == 0 => return,
            Some(known) => known.waiting_bytes = 0,
            None => {}
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.container == *container {
                self.waiting_bytes -= waiting.bytes;
                self.complete_waiting(waiting, out);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// The time of the oldest event that waits.
    pub fn oldest_waiting_ns(&self) -> Option<u64> {
        let times = self
            .waiting
            .iter()
            .map(|waiting| waiting.event.boot_ts as u64);
        times.min()
    }

    /// Hands out everything when something waits for longer than any configuration allows: no mark passes by what waits,
    /// so an answer that never comes must not hold back the host's windows.
    pub fn release_overdue(&mut self, now_ns: u64, out: &mut Vec<Row>) {
        let oldest_ns = self
            .waiting
            .front()
            .map(|waiting| waiting.event.boot_ts as u64);
        if oldest_ns.is_some_and(|oldest_ns| now_ns.saturating_sub(oldest_ns) > WAIT_MAX_NS) {
            self.release_all(out);
        }
    }

    /// Hands out everything that waits.
    pub fn release_all(&mut self, out: &mut Vec<Row>) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.complete_waiting(waiting, out);
        }
        self.waiting_bytes = 0;
        for known in self.known.values_mut() {
            known.waiting_bytes = 0;
        }
    }
}
