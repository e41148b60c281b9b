//! What a capture's stages know by now of cgroups, containers, users and mounts, and what was counted: the next file of a
//! rotation begins with it.
//!
//! It follows the facts and records as they are written, and does no I/O. What is gone is forgotten.

use std::collections::{BTreeMap, VecDeque};

use dogwatch_ebpf::record::Record;
use dogwatch_schemas::Text;

use crate::container::Cgroups;
use crate::fact::Fact;
use crate::text::text;

/// Trees of mounts that are remembered, as many as by the stages.
const TREES_MAX: usize = 32;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Paths by id.
    cgroups: BTreeMap<u64, Text>,
    /// Cgroups that are containers' though their paths do not say it.
    told: Cgroups,
    told_facts: BTreeMap<Text, Fact>,
    containers: BTreeMap<Text, Fact>,
    users: BTreeMap<Option<Text>, Fact>,
    host_mounts: Option<Fact>,
    /// By mount namespace, the oldest first.
    trees: VecDeque<(u32, Fact)>,
    /// Counts since the start: counters, unparsed records, rounds of samples.
    counts: [Option<Fact>; 3],
}

impl Standing {
    /// Takes a fact in.
    pub fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Cgroup { id, path } => self.enter(*id, path.clone()),
            Fact::CgroupGone { id } => self.gone(*id),
            Fact::ContainerCgroup {
                path,
                name,
                runtime,
            } => {
                self.told.tell(path, name, runtime);
                self.told_facts.insert(path.clone(), fact.clone());
            }
            Fact::Container(container) => {
                self.containers.insert(container.id.clone(), fact.clone());
            }
            Fact::Users { container, .. } => {
                self.users.insert(container.clone(), fact.clone());
            }
            Fact::HostMounts(_) => self.host_mounts = Some(fact.clone()),
            Fact::Tree { mnt_ns, .. } => {
                self.trees.retain(|(other, _)| other != mnt_ns);
                self.trees.push_back((*mnt_ns, fact.clone()));
                if self.trees.len() > TREES_MAX {
                    self.trees.pop_front();
                }
            }
            Fact::Counters(_) => self.counts[0] = Some(fact.clone()),
            Fact::Unparsed(_) => self.counts[1] = Some(fact.clone()),
            Fact::Sampled(_) => self.counts[2] = Some(fact.clone()),
            Fact::Clock(_)
            | Fact::Running(_)
            | Fact::Limited { .. }
            | Fact::ContainerSample(_)
            | Fact::ProcessSamples(_)
            | Fact::FailedCalls(_)
            | Fact::OpenFiles(_)
            | Fact::Folded { .. }
            | Fact::Before(_) => {}
        }
    }

    /// Takes a record in: cgroups that come and go.
    pub fn record(&mut self, record: &Record) {
        if let Record::Cgroup { made, id, path, .. } = record {
            if *made {
                self.enter(*id, text(path, &mut false));
            } else {
                self.gone(*id);
            }
        }
    }

    /// All of it, in the order in which a sensor tells it at its start.
    pub fn facts(&self) -> impl Iterator<Item = Fact> {
        // A container's own come before those that have its name only, which would be taken for it.
        let (claims, own): (Vec<_>, Vec<_>) = self
            .cgroups
            .iter()
            .partition(|(_, path)| self.told.is_claim(path));
        let cgroups = own
            .into_iter()
            .chain(claims)
            .map(|(id, path)| Fact::Cgroup {
                id: *id,
                path: path.clone(),
            });
        let counts = self.counts.iter().flatten().cloned();
        let trees = self.trees.iter().map(|(_, fact)| fact.clone());
        counts
            .map(|fact| Fact::Before(Box::new(fact)))
            .chain(self.told_facts.values().cloned())
            .chain(cgroups)
            .chain(self.containers.values().cloned())
            .chain(self.users.values().cloned())
            .chain(self.host_mounts.clone())
            .chain(trees)
    }

    fn enter(&mut self, id: u64, path: Text) {
        self.told.enter(&path);
        self.cgroups.insert(id, path);
    }

    /// With its own cgroup a container is gone.
    fn gone(&mut self, id: u64) {
        let Some(path) = self.cgroups.remove(&id) else {
            return;
        };
        let of = self.told.membership(&path);
        if let Some(of) = of.filter(|of| *of.path == *path) {
            self.containers.remove(&of.id);
            self.users.remove(&Some(of.id));
        }
        self.told.forget(&path);
        self.told_facts.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Container, membership};
    use crate::fact::Counters;

    #[test]
    fn a_container_stands_until_its_cgroup_is_gone() {
        let path = format!("/docker/{}", "ab".repeat(32));
        let of = membership(&path).unwrap();
        let mut standing = Standing::default();
        let cgroup = Fact::Cgroup {
            id: 7,
            path: (*path).into(),
        };
        let container = Fact::Container(Box::new(Container::unknown(&of)));
        let users = Fact::Users {
            container: Some(of.id),
            users: Default::default(),
        };
        let counters = Fact::Counters(Counters::default());
        for fact in [&cgroup, &container, &users, &counters] {
            standing.fact(fact);
            standing.fact(fact);
        }
        let before = Fact::Before(Box::new(counters));
        let found: Vec<Fact> = standing.facts().collect();
        assert_eq!(found, [before.clone(), cgroup, container, users]);
        standing.fact(&Fact::CgroupGone { id: 7 });
        let found: Vec<Fact> = standing.facts().collect();
        assert_eq!(found, [before]);
    }
}
