//! Processes in pid and mount namespaces of their own whose cgroup is no container's: `unshare`, sandboxes, tools that nobody
//! knows. They are in a container of the type `namespaces`, one for each pid namespace.
//!
//! Whoever enters the namespaces of a container from the host (`nsenter`), or has left its cgroup, is where its cgroup is.

use std::collections::HashMap;

use dogwatch_schemas::Text;
use sha2::{Digest, Sha256};

use crate::container::Place;
use crate::fact::Host;

/// Namespaces remembered of each kind; some 100 bytes each.
const REMEMBERED_MAX: usize = 4_096;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Pid namespaces of containers that have cgroups, with the containers.
    contained: HashMap<u32, Text>,
    /// Pid namespaces of those that have none, with the ids they are given.
    ids: HashMap<u32, Text>,
}

impl Apart {
    /// Where a process is, by its cgroup and its namespaces.
    pub fn place(
        &mut self,
        host: &Host,
        by_cgroup: Place,
        mnt_ns: Option<u32>,
        pid_ns: Option<u32>,
    ) -> Place {
        let own_mounts = host.has_mount_namespace(mnt_ns) == Some(false);
        let own = pid_ns.filter(|&pid_ns| {
            own_mounts && pid_ns != 0 && host.pid_ns.is_some_and(|host| host != pid_ns)
        });
        let Some(pid_ns) = own else {
            return by_cgroup;
        };
        match by_cgroup {
            Place::Host if !self.contained.contains_key(&pid_ns) => {
                Place::Container(self.id(host, pid_ns))
            }
            Place::Container(container) => {
                self.contain(pid_ns, &container);
                Place::Container(container)
            }
            place => place,
        }
    }

    fn contain(&mut self, pid_ns: u32, container: &Text) {
        if self.contained.len() < REMEMBERED_MAX && !self.contained.contains_key(&pid_ns) {
            self.contained.insert(pid_ns, container.clone());
            self.ids.remove(&pid_ns);
        }
    }

    fn id(&mut self, host: &Host, pid_ns: u32) -> Text {
        if self.ids.len() >= REMEMBERED_MAX {
            self.ids.clear();
        }
        let made = || {
            let hash = Sha256::digest(format!("{} {pid_ns}", host.boot_id));
            let digits: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            digits.concat().into()
        };
        self.ids.entry(pid_ns).or_insert_with(made).clone()
    }

    /// Whether this is the id of namespaces without a cgroup.
    pub fn has(&self, container: &Text) -> bool {
        self.ids.values().any(|id| id == container)
    }

    /// The first process of a pid namespace has ended, and the namespace with it: the kernel gives its number to the next one.
    pub fn ended(&mut self, pid_ns: u32) {
        self.contained.remove(&pid_ns);
    }

    /// A container is gone, and its namespaces with it.
    pub fn forget(&mut self, container: &Text) {
        self.contained.retain(|_, of| of != container);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            boot_id: "b".into(),
            mnt_ns: Some(1),
            pid_ns: Some(2),
            ..Host::default()
        }
    }

    #[test]
    fn both_namespaces_of_its_own_make_a_container() {
        let mut apart = Apart::default();
        let mut place = |mnt_ns, pid_ns| apart.place(&host(), Place::Host, mnt_ns, pid_ns);
        for (mnt_ns, pid_ns) in [
            (Some(1), Some(2)),
            (Some(3), Some(2)),
            (Some(1), Some(4)),
            (None, Some(4)),
            (Some(3), None),
            (Some(3), Some(0)),
        ] {
            assert_eq!(place(mnt_ns, pid_ns), Place::Host, "{mnt_ns:?} {pid_ns:?}");
        }
        let found = place(Some(3), Some(4));
        assert_eq!(found, place(Some(5), Some(4)), "by the pid namespace");
        assert_ne!(found, place(Some(3), Some(6)));
        let id = found.container().unwrap().clone();
        assert_eq!(id.len(), 64);
        assert!(apart.has(&id) && !apart.has(&"a".into()));
    }

    #[test]
    fn the_namespaces_of_a_container_are_none_of_their_own_on_the_host() {
        let mut apart = Apart::default();
        let container = Place::Container("a".into());
        let before = apart.place(&host(), Place::Host, Some(3), Some(4));
        assert!(
            before.container().is_some(),
            "its cgroup is not yet entered"
        );
        let inside = apart.place(&host(), container.clone(), Some(3), Some(4));
        assert_eq!(inside, container);
        assert!(!apart.has(before.container().unwrap()));
        let entered = apart.place(&host(), Place::Host, Some(3), Some(4));
        assert_eq!(entered, Place::Host);
        apart.forget(&"a".into());
        let again = apart.place(&host(), Place::Host, Some(3), Some(4));
        assert_eq!(again, before);
    }
}
