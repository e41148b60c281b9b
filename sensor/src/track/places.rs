//! Where processes are: cgroups and the containers they belong to, and the events that wait for a container to be known.

use std::collections::{HashMap, VecDeque};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use super::{Row, rows};
use crate::container::{Container, Membership, membership};

/// See the module's description.
#[derive(Debug)]
pub(super) struct Places {
    /// Containers' cgroups; the host's own are not kept.
    cgroups: HashMap<u64, Membership>,
    known: HashMap<Text, Place>,
    /// Events of containers not yet known, in their order.
    waiting: VecDeque<(Text, Event)>,
    waiting_max: usize,
    patient: bool,
    /// Events that did not wait because too many did.
    pub overflowed: u64,
}

#[derive(Debug)]
struct Place {
    container: Container,
    /// What is known beyond the id is still being looked up.
    awaited: bool,
    /// Its making was seen.
    made: bool,
    entrypoint_seen: bool,
}

impl Places {
    pub fn new(waiting_max: usize, patient: bool) -> Self {
        Self {
            cgroups: HashMap::new(),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_max,
            patient,
            overflowed: 0,
        }
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
        let Some(membership) = membership(path) else {
            return;
        };
        let own_cgroup = *membership.path == *path;
        if own_cgroup || !self.known.contains_key(&membership.id) {
            let place = Place {
                container: Container::unknown(&membership),
                awaited: true,
                made,
                entrypoint_seen: false,
            };
            // The same container started again is as new: its init is another process.
            self.known.insert(membership.id.clone(), place);
        }
        self.cgroups.insert(id, membership);
    }

    /// A cgroup was removed; returns its container when it was the container's own.
    pub fn removed(&mut self, id: u64, path: &str) -> Option<Text> {
        let membership = self.cgroups.remove(&id)?;
        (*membership.path == *path).then_some(membership.id)
    }

    /// Forgets a container that was removed.
    pub fn forget(&mut self, container: &Text, out: &mut Vec<Row>) {
        self.release(container, out);
        self.known.remove(container);
    }

    /// Takes what is known of a container; returns what happened to it and whether that is news, or `None` for one that
    /// is gone by now.
    pub fn learn(&mut self, container: Container) -> Option<(&'static str, bool)> {
        let place = self.known.get_mut(&container.id)?;
        let told = match (place.awaited, place.made) {
            (true, true) => ("start", true),
            (true, false) => ("running", true),
            (false, _) if place.container != container => ("change", true),
            (false, _) => ("running", false),
        };
        place.awaited = false;
        place.container = container;
        Some(told)
    }

    pub fn container_of(&self, cgroup_id: u64) -> Option<Text> {
        Some(self.cgroups.get(&cgroup_id)?.id.clone())
    }

    pub fn nested(&self, cgroup_id: u64) -> Option<&Text> {
        self.cgroups.get(&cgroup_id)?.nested.as_ref()
    }

    pub fn container(&self, id: &Text) -> Option<&Container> {
        Some(&self.known.get(id)?.container)
    }

    pub fn containers(&self) -> usize {
        self.known.len()
    }

    pub fn has_entrypoint(&self, id: &Text) -> bool {
        self.known
            .get(id)
            .is_some_and(|place| place.entrypoint_seen)
    }

    pub fn entrypoint_seen(&mut self, id: &Text) {
        if let Some(place) = self.known.get_mut(id) {
            place.entrypoint_seen = true;
        }
    }

    /// Sends an event of a process in `container` (that it has left: `origin`), or lets it wait.
    pub fn send(
        &mut self,
        mut event: Event,
        container: Option<Text>,
        origin: Option<&Text>,
        out: &mut Vec<Row>,
    ) {
        let Some(id) = container else {
            rows::set_host_place(&mut event, origin.and_then(|id| self.container(id)));
            out.push(Row::Event(Box::new(event)));
            return;
        };
        if self.patient && self.known.get(&id).is_some_and(|place| place.awaited) {
            if self.waiting.len() < self.waiting_max {
                self.waiting.push_back((id, event));
                return;
            }
            self.overflowed += 1;
        }
        self.complete(&id, event, out);
    }

    fn complete(&self, id: &Text, mut event: Event, out: &mut Vec<Row>) {
        match self.known.get(id) {
            Some(place) => rows::set_container(&mut event, &place.container),
            // Removed while a process of it still ended.
            None => rows::set_container(
                &mut event,
                &Container {
                    id: id.clone(),
                    runtime: "other".into(),
                    ..Container::default()
                },
            ),
        }
        out.push(Row::Event(Box::new(event)));
    }

    /// Hands out what waited for a container.
    pub fn release(&mut self, container: &Text, out: &mut Vec<Row>) {
        if self.waiting.iter().all(|(id, _)| id != container) {
            return;
        }
        for (id, event) in std::mem::take(&mut self.waiting) {
            if id == *container {
                self.complete(&id, event, out);
            } else {
                self.waiting.push_back((id, event));
            }
        }
    }

    /// Hands out everything that waits.
    pub fn release_all(&mut self, out: &mut Vec<Row>) {
        for (id, event) in std::mem::take(&mut self.waiting) {
            self.complete(&id, event, out);
        }
    }
}
