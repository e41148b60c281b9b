//! Gathers facts from beside the ring: cgroups, what is known of containers, users.
//!
//! It sits at the edge, beside the reading of the ring, and looks at every record before the stages see it:
//! a container's cgroup is made, so its runtime's files are read; a container executes its first program, so its user
//! database is. What it finds is put into the stream, so that the stages behind it read nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use dogwatch_ebpf::control::Mode;
use dogwatch_ebpf::record::Record;
use dogwatch_schemas::Text;

use crate::clock::Reading;
use crate::config::ContainersConfig;
use crate::container::docker::Docker;
use crate::container::{Container, Membership, membership};
use crate::fact::{Fact, Running};
use crate::host::HOST_PIDS;
use crate::text::text;
use crate::users::Users;

const SECOND_NS: u64 = 1_000_000_000;
/// A cgroup of which nothing was heard makes the tree be walked again, at most this often.
const WALK_INTERVAL_NS: u64 = SECOND_NS;
/// After its start a container's files say when that was.
const FIRST_REREAD_NS: u64 = SECOND_NS;
/// Attempts to read the users of a container that has no user database.
const USER_ATTEMPTS_MAX: u32 = 16;
const O_ACCMODE: u64 = 3;

/// What the kernel part must be told of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ModeChange {
    Set(u64, Mode),
    Forget(u64),
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Gatherer {
    config: ContainersConfig,
    docker: Docker,
    cgroup_root: std::path::PathBuf,
    host_mnt_ns: u32,
    cgroups: HashMap<u64, Option<Membership>>,
    containers: BTreeMap<Text, Watched>,
    host_users: Option<Users>,
    host_users_due_ns: u64,
    /// Not before; see [`WALK_INTERVAL_NS`].
    walk_allowed_ns: u64,
    /// At the latest.
    walk_due_ns: u64,
    /// Cgroups that a walk did not find any more.
    gone: Gone,
    now_ns: u64,
    warned: bool,
    /// What the kernel part must be told; the reader takes it.
    pub changes: Vec<ModeChange>,
}

/// Cgroups that are gone though no record has said so. One may still be in the ring, with the last events of the cgroup
/// before it, so they count as gone only when everything that was in the ring at the walk has been read.
#[derive(Debug, Default)]
struct Gone {
    ids: Vec<u64>,
    walked_ns: u64,
    /// The latest record that was read.
    heard_ns: u64,
    /// None was read since the last look.
    quiet: bool,
}

impl Gone {
    fn take(&mut self) -> Vec<u64> {
        let quiet = std::mem::replace(&mut self.quiet, true);
        if quiet || self.heard_ns > self.walked_ns {
            std::mem::take(&mut self.ids)
        } else {
            Vec::new()
        }
    }
}

#[derive(Debug)]
struct Watched {
    membership: Membership,
    /// Its own cgroup, or the first below it that was heard of.
    cgroup_id: u64,
    /// Its files are waited for until then; 0 = no longer.
    patience_ends_ns: u64,
    due_ns: u64,
    user_attempts: u32,
}

/// Whether a path is one of the user databases, or a new version on its way to replace one (`/etc/passwd+`).
fn names_users(path: &[u8]) -> bool {
    path.starts_with(b"/etc/passwd") || path.starts_with(b"/etc/group")
}

/// Every cgroup below a hierarchy's mount: its id and its path.
pub(crate) fn walk(root: &Path) -> Vec<(u64, Text)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // Removed while walking: gone is gone.
        let Ok(metadata) = fs::metadata(&folder) else {
            continue;
        };
        let below = folder
            .strip_prefix(root)
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        found.push((metadata.ino(), format!("/{below}").into()));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// The modes of cgroups that exist before the sensor.
pub(crate) fn modes(cgroups: &[(u64, Text)], config: &ContainersConfig) -> Vec<(u64, Mode)> {
    cgroups
        .iter()
        .map(|(id, path)| {
            (
                *id,
                if membership(path).is_some() {
                    config.mode
                } else {
                    config.host_mode
                },
            )
        })
        .collect()
}

impl Gatherer {
    /// A gatherer for the hierarchy mounted at `cgroup_root`.
    pub fn new(config: ContainersConfig, cgroup_root: &Path, host_mnt_ns: u32) -> Self {
        Self {
            docker: Docker::new(&config.docker_root),
            config,
            cgroup_root: cgroup_root.to_owned(),
            host_mnt_ns,
            cgroups: HashMap::new(),
            containers: BTreeMap::new(),
            host_users: None,
            host_users_due_ns: 0,
            walk_allowed_ns: 0,
            walk_due_ns: 0,
            gone: Gone::default(),
            now_ns: 0,
            warned: false,
            changes: Vec::new(),
        }
    }

    /// Everything that is there before the first record: cgroups, containers, users, then the processes themselves.
    pub fn start(&mut self, now_ns: u64, running: Vec<Running>) -> Vec<Fact> {
        self.now_ns = now_ns;
        let mut facts = Vec::new();
        self.walk_again(&mut facts);
        self.host_users(&mut facts);
        for process in &running {
            self.users(
                process.cgroup_id,
                process.pid,
                process.mnt_ns.unwrap_or_default(),
                &mut facts,
            );
        }
        facts.extend(
            running
                .into_iter()
                .map(|process| Fact::Running(Box::new(process))),
        );
        facts
    }

    /// What the stages must know before they see a record.
    pub fn before(&mut self, record: &Record) -> Vec<Fact> {
        let mut facts = Vec::new();
        self.gone.heard_ns = self.gone.heard_ns.max(record.header().boot_ns);
        self.gone.quiet = false;
        let mentioned = match record {
            Record::Fork {
                child_cgroup_id, ..
            } => Some(*child_cgroup_id),
            Record::CgroupMove { to_id, path, .. } => {
                self.enter(*to_id, &text(path, &mut false), false, &mut facts);
                None
            }
            _ => None,
        };
        let ids = [Some(record.header().cgroup_id), mentioned]
            .into_iter()
            .flatten();
        let unknown = ids.into_iter().any(|id| !self.cgroups.contains_key(&id));
        if unknown && self.now_ns >= self.walk_allowed_ns {
            self.walk_again(&mut facts);
        }
        if let Record::Exec(exec) = record {
            self.users(
                exec.header.cgroup_id,
                exec.header.pid,
                exec.identity.mnt_ns,
                &mut facts,
            );
        }
        facts
    }

    /// What follows from a record.
    pub fn after(&mut self, record: &Record) -> Vec<Fact> {
        let mut facts = Vec::new();
        match record {
            Record::Cgroup {
                made: true,
                id,
                path,
                ..
            } => self.enter(*id, &text(path, &mut false), true, &mut facts),
            Record::Cgroup {
                made: false, id, ..
            } => _ = self.leave(*id),
            Record::Open {
                header,
                open_flags,
                path,
                ..
            } if header.ret >= 0 && open_flags & O_ACCMODE != 0 && names_users(path) => {
                self.users_changed(header.cgroup_id);
            }
            _ => {}
        }
        facts
    }

    /// What is due by now.
    pub fn due(&mut self, now_ns: u64) -> Vec<Fact> {
        self.now_ns = now_ns;
        let mut facts = Vec::new();
        for id in self.gone.take() {
            if self.leave(id) {
                facts.push(Fact::CgroupGone { id });
            }
        }
        if now_ns >= self.walk_due_ns {
            self.walk_again(&mut facts);
        }
        if now_ns >= self.host_users_due_ns {
            self.host_users(&mut facts);
        }
        let due: Vec<Text> = self
            .containers
            .iter()
            .filter(|(_, watched)| watched.due_ns <= now_ns)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.look_up(&id, &mut facts);
        }
        facts
    }

    /// Records of cgroups were lost: what was made and removed meanwhile is found by a walk.
    pub fn lost_cgroups(&mut self) {
        self.walk_due_ns = self.walk_allowed_ns;
    }

    fn walk_again(&mut self, facts: &mut Vec<Fact>) {
        self.walk_allowed_ns = self.now_ns + WALK_INTERVAL_NS;
        self.walk_due_ns = self.now_ns + self.config.repeat.as_nanos() as u64;
        let found = walk(&self.cgroup_root);
        // What was removed unnoticed must not stay for ever.
        let ids: std::collections::HashSet<u64> = found.iter().map(|(id, _)| *id).collect();
        let gone = self.cgroups.keys().filter(|id| !ids.contains(id));
        self.gone.ids = gone.copied().collect();
        self.gone.walked_ns = Reading::now().boot_ns;
        for (id, path) in found {
            self.enter(id, &path, false, facts);
        }
    }

    /// A cgroup is new to us. One whose making the stages saw needs no fact of its own.
    fn enter(&mut self, id: u64, path: &str, made: bool, facts: &mut Vec<Fact>) {
        if let Some(known) = self.cgroups.get(&id) {
            // A walk was ahead of the record of its making, after which the stages wait for what is known of it.
            if let Some(membership) = known.as_ref().filter(|_| made) {
                let container = membership.id.clone();
                self.look_up(&container, facts);
            }
            return;
        }
        let membership = membership(path);
        let mode = if membership.is_some() {
            self.config.mode
        } else {
            self.config.host_mode
        };
        self.changes.push(ModeChange::Set(id, mode));
        self.cgroups.insert(id, membership.clone());
        if !made {
            facts.push(Fact::Cgroup {
                id,
                path: path.into(),
            });
        }
        let Some(membership) = membership else { return };
        let own_cgroup = *membership.path == *path;
        if own_cgroup || !self.containers.contains_key(&membership.id) {
            let container = membership.id.clone();
            let patience_ends_ns = self.now_ns + self.config.metadata_patience.as_nanos() as u64;
            let watched = Watched {
                membership,
                cgroup_id: id,
                patience_ends_ns,
                due_ns: 0,
                user_attempts: 0,
            };
            self.containers.insert(container.clone(), watched);
            self.look_up(&container, facts);
        }
    }

    /// A cgroup was removed; false where that was known.
    fn leave(&mut self, id: u64) -> bool {
        self.changes.push(ModeChange::Forget(id));
        let Some(membership) = self.cgroups.remove(&id) else {
            return false;
        };
        if let Some(membership) = membership
            && self
                .containers
                .get(&membership.id)
                .is_some_and(|watched| watched.cgroup_id == id)
        {
            self.containers.remove(&membership.id);
        }
        true
    }

    /// Reads what is known of a container, or gives up waiting for it.
    fn look_up(&mut self, id: &Text, facts: &mut Vec<Fact>) {
        let Some(watched) = self.containers.get_mut(id) else {
            return;
        };
        let first = watched.patience_ends_ns != 0;
        let docker = matches!(watched.membership.runtime, "docker" | "other");
        let known = match docker.then(|| self.docker.read(&watched.membership)) {
            Some(Ok(container)) => container,
            // Being made: the next poll looks again.
            Some(Err(_)) if self.now_ns < watched.patience_ends_ns => return,
            Some(Err(error)) => {
                if first && !self.warned && watched.membership.runtime == "docker" {
                    let reason = std::error::Error::source(&error)
                        .map(|source| source.to_string())
                        .unwrap_or_default();
                    tracing::warn!(
                        container = %watched.membership.id, %error, reason,
                        "containers are known by their id alone: set containers.docker_root, or mount Docker's data root"
                    );
                    self.warned = true;
                }
                Container::unknown(&watched.membership)
            }
            None => Container::unknown(&watched.membership),
        };
        watched.patience_ends_ns = 0;
        let started = known.start_ns.is_some() || !docker;
        let repeat_ns = self.config.repeat.as_nanos() as u64;
        watched.due_ns = self.now_ns
            + if first && !started {
                FIRST_REREAD_NS.min(repeat_ns)
            } else {
                repeat_ns
            };
        facts.push(Fact::Container(Box::new(known)));
    }

    fn users(&mut self, cgroup_id: u64, pid: u32, mnt_ns: u32, facts: &mut Vec<Fact>) {
        let Some(Some(membership)) = self.cgroups.get(&cgroup_id) else {
            return;
        };
        let Some(watched) = self.containers.get_mut(&membership.id) else {
            return;
        };
        // The runtime's own part still has the host's root.
        if mnt_ns == self.host_mnt_ns || mnt_ns == 0 || watched.user_attempts >= USER_ATTEMPTS_MAX {
            return;
        }
        watched.user_attempts += 1;
        if let Some(users) = Users::read(pid, mnt_ns) {
            watched.user_attempts = USER_ATTEMPTS_MAX;
            facts.push(Fact::Users {
                container: Some(membership.id.clone()),
                users,
            });
        }
    }

    fn users_changed(&mut self, cgroup_id: u64) {
        if let Some(Some(membership)) = self.cgroups.get(&cgroup_id)
            && let Some(watched) = self.containers.get_mut(&membership.id)
        {
            watched.user_attempts = 0;
        }
    }

    fn host_users(&mut self, facts: &mut Vec<Fact>) {
        self.host_users_due_ns = self.now_ns + self.config.repeat.as_nanos() as u64;
        let users = HOST_PIDS
            .into_iter()
            .find_map(|pid| Users::read(pid, self.host_mnt_ns));
        if users.is_some() && users != self.host_users {
            facts.extend(users.clone().map(|users| Fact::Users {
                container: None,
                users,
            }));
            self.host_users = users;
        }
    }
}

#[cfg(test)]
mod tests;
