//! Gathers facts from beside the ring: cgroups, what is known of containers, users.
//!
//! It sits at the edge, beside the reading of the ring, and looks at every record before the stages see it:
//! a container's cgroup is made, so its runtime's files are read; a container executes its first program, so its user
//! database is. What it finds is put into the stream, so that the stages behind it read nothing.

pub(crate) mod known;
mod replaced;
mod trees;
mod unheard;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dogwatch_ebpf::record::Record;
use dogwatch_schemas::Text;

use crate::aside::{Answer, Aside};
use crate::clock::Reading;
use crate::config::ContainersConfig;
use crate::container::{self, Bundles, Cgroups, Files, Membership, cgroup_of, membership};
use crate::fact::{Fact, Running};
use crate::host::HOST_PIDS;
use crate::mounts::Mounts;
use crate::probe::Policy;
use crate::sample::Subject;
use crate::sockets::Sockets;
use crate::text::text;
use crate::users::reader::{Request, Root, UserReader};
use crate::users::{Users, Wanted};
use unheard::{Gone, Strays};

const SECOND_NS: u64 = 1_000_000_000;
/// A cgroup of which nothing was heard makes the tree be walked again, at most this often.
const WALK_INTERVAL_NS: u64 = SECOND_NS;
/// After its start a container's files say when that was.
const FIRST_REREAD_NS: u64 = SECOND_NS;
/// How many times a container's user database is asked for between two looks at its files.
const USER_ATTEMPTS_MAX: u32 = 64;
const O_ACCMODE: u64 = 3;

/// What the kernel part must be told of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ModeChange {
    Set(u64, Policy),
    Forget(u64),
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Gatherer {
    config: ContainersConfig,
    bundles: Bundles,
    told: Cgroups,
    reader: Aside<container::Request, known::Read>,
    sockets: Option<Sockets>,
    cgroup_root: PathBuf,
    host_mnt_ns: Option<u32>,
    host_pid_ns: Option<u32>,
    cgroups: HashMap<u64, Option<Membership>>,
    containers: BTreeMap<Text, Watched>,
    user_reader: UserReader,
    /// Cgroup, user and group of the record before.
    last_user: (u64, u32, u32),
    host_users: Option<Users>,
    host_users_due_ns: u64,
    host_mounts: Option<Mounts>,
    /// Somebody has mounted something; not looked at before `host_mounts_due_ns`.
    mounts_changed: bool,
    host_mounts_due_ns: u64,
    trees: trees::Trees,
    /// Not before; see [`WALK_INTERVAL_NS`].
    walk_allowed_ns: u64,
    /// At the latest.
    walk_due_ns: u64,
    /// Cgroups that a walk did not find any more.
    gone: Gone,
    strays: Strays,
    now_ns: u64,
    warned: bool,
    /// What the kernel part must be told; the reader takes it.
    pub changes: Vec<ModeChange>,
}

#[derive(Debug)]
struct Watched {
    membership: Membership,
    /// Its own cgroup, or the first below it that was heard of.
    cgroup_id: u64,
    /// The making of its cgroup was seen.
    made: bool,
    /// Its files are waited for until then; 0 = no longer.
    patience_ends_ns: u64,
    due_ns: u64,
    /// Its files have not answered yet.
    under_way: bool,
    /// They did not in time, and are not asked again before whoever waits for them has come back.
    silent: bool,
    /// What a runtime's socket says of it.
    asked: known::Asked,
    /// What was read of its files last, since `repeat`.
    user_attempts: u32,
    /// Ids that were seen in it.
    wanted: Wanted,
    /// Their names are to be looked up.
    users_due: bool,
    /// Their databases were changed: to be read then; 0 = they were not.
    users_again_ns: u64,
    /// Does not answer in time, and is not waited for again.
    users_silent: bool,
    /// The process whose root has the databases: its init where that is known, else the first that was seen inside.
    root: Option<Root>,
}

/// Every cgroup below a hierarchy's mount: its id and its path, the oldest first. Of two that name one container, the
/// older is more likely its own; ids grow until they wrap.
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
    found.sort_unstable_by_key(|(id, _)| *id);
    found
}

/// The modes of cgroups that exist before the sensor.
pub(crate) fn modes(cgroups: &[(u64, Text)], config: &ContainersConfig) -> Vec<(u64, Policy)> {
    let ids: HashMap<&str, u64> = cgroups.iter().map(|(id, path)| (&**path, *id)).collect();
    let policy_of = |(id, path): &(u64, Text)| {
        let own_id = |path: &str| ids.get(path).copied();
        (*id, policy(*id, membership(path).as_ref(), config, own_id))
    };
    cgroups.iter().map(policy_of).collect()
}

/// What is captured of a cgroup. Those below a container's own use its share; `own_id` finds a cgroup's id by its path.
fn policy(
    id: u64,
    membership: Option<&Membership>,
    config: &ContainersConfig,
    own_id: impl Fn(&str) -> Option<u64>,
) -> Policy {
    match membership {
        Some(membership) => Policy {
            mode: config.mode,
            container: Some(own_id(&membership.path).unwrap_or(id)),
        },
        None => config.host_mode.into(),
    }
}

impl Gatherer {
    /// A gatherer for the hierarchy mounted at `cgroup_root`.
    pub fn new(config: ContainersConfig, cgroup_root: &Path, host_mnt_ns: Option<u32>) -> Self {
        Self {
            bundles: Bundles::default(),
            told: Cgroups::default(),
            reader: known::reader(&config),
            sockets: None,
            config,
            cgroup_root: cgroup_root.to_owned(),
            host_mnt_ns,
            host_pid_ns: None,
            cgroups: HashMap::new(),
            containers: BTreeMap::new(),
            user_reader: UserReader::default(),
            last_user: (0, 0, 0),
            host_users: None,
            host_users_due_ns: 0,
            host_mounts: None,
            mounts_changed: true,
            host_mounts_due_ns: 0,
            trees: trees::Trees::default(),
            walk_allowed_ns: 0,
            walk_due_ns: 0,
            gone: Gone::default(),
            strays: Strays::default(),
            now_ns: 0,
            warned: false,
            changes: Vec::new(),
        }
    }

    /// Believes runtimes in this pid namespace alone: what runs in another is in a container, whether that is known as one or
    /// not.
    pub fn believing(mut self, host_pid_ns: Option<u32>) -> Self {
        self.host_pid_ns = host_pid_ns;
        self
    }

    /// Asks runtimes' sockets what their files lack.
    pub fn asking(mut self, sockets: Option<Sockets>) -> Self {
        self.sockets = sockets;
        self
    }

    /// Looks in these hierarchies, too, with every walk that is due, for containers that are in none that is watched.
    pub fn looking_elsewhere(mut self, roots: Vec<PathBuf>) -> Self {
        self.strays = Strays::new(roots);
        self
    }

    /// What is there before the first record: cgroups, containers, users; then come the processes.
    pub fn start(&mut self, now_ns: u64) -> Vec<Fact> {
        self.now_ns = now_ns;
        let mut facts = Vec::new();
        self.bundles = known::bundles(&Files::of_host());
        self.walk_again(&mut facts);
        self.host_users(&mut facts);
        self.look_at_mounts(&mut facts);
        facts
    }

    /// Processes that are there before the first record, after the names of their users.
    pub fn running(&mut self, running: Vec<Running>) -> Vec<Fact> {
        let mut facts = Vec::new();
        for process in &running {
            self.want(
                process.cgroup_id,
                process.inner_uid.unwrap_or(u32::MAX),
                process.inner_gid.unwrap_or(u32::MAX),
            );
            let root = (process.pid, process.mnt_ns.unwrap_or_default());
            self.rooted(process.cgroup_id, root, process.vpid == 1);
        }
        let containers: Vec<Text> = self.containers.keys().cloned().collect();
        for container in containers {
            self.look_up_users(&container, None, &mut facts);
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
            Record::Exec(exec) => {
                self.announced(exec);
                None
            }
            Record::Cgroup {
                made: true, path, ..
            } => {
                self.recognise(&text(path, &mut false), &mut facts);
                None
            }
            Record::CgroupMove { to_id, path, .. } => {
                self.enter(*to_id, &text(path, &mut false), false, &mut facts);
                None
            }
            Record::Cgroup {
                made: false, id, ..
            } => {
                self.wait_no_longer(*id, &mut facts);
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
        self.seen_users(record, &mut facts);
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
            } if header.ret >= 0 && open_flags & O_ACCMODE != 0 && replaced::is_database(path) => {
                // Nothing is written to it yet.
                self.users_changed(header.cgroup_id, false);
            }
            Record::Called(called) if called.header.ret >= 0 => {
                if replaced::changes_mounts(called) {
                    self.mounts_changed = true;
                    let root = self.watched(called.header.cgroup_id);
                    let root = root.and_then(|watched| watched.root).map(|(pid, _)| pid);
                    let pids = [called.header.pid].into_iter().chain(root);
                    self.trees.changed(called.header.cgroup_id, pids);
                    self.trees.look(self.now_ns, self.host_mnt_ns, &mut facts);
                }
                if replaced::replaces_database(called) {
                    self.users_changed(called.header.cgroup_id, true);
                }
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
            self.wait_no_longer(id, &mut facts);
            if self.leave(id) {
                facts.push(Fact::CgroupGone { id });
            }
        }
        if now_ns >= self.walk_due_ns {
            self.walk_again(&mut facts);
            self.strays
                .look(&self.cgroup_root, |id| self.containers.contains_key(id));
        }
        if now_ns >= self.host_users_due_ns {
            self.host_users(&mut facts);
            self.mounts_changed = true;
        }
        if self.mounts_changed && now_ns >= self.host_mounts_due_ns {
            self.look_at_mounts(&mut facts);
        }
        self.trees.look(now_ns, self.host_mnt_ns, &mut facts);
        self.late_users(&mut facts);
        self.late_containers(&mut facts);
        self.hear_sockets();
        let due: Vec<Text> = self
            .containers
            .iter()
            .filter(|(_, watched)| watched.due_ns <= now_ns)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.look_up(&id, &mut facts);
        }
        self.read_again();
        let users_due = self
            .containers
            .iter()
            .find(|(_, watched)| watched.users_due);
        if let Some(id) = users_due.map(|(id, _)| id.clone()) {
            self.look_up_users(&id, None, &mut facts);
        }
        facts
    }

    /// Every container that runs, to be sampled.
    pub fn subjects(&self) -> Vec<Subject> {
        let containers = self.containers.values();
        let subjects = containers.map(|watched| Subject {
            id: watched.membership.id.clone(),
            path: watched.membership.path.clone(),
            made: watched.made,
        });
        subjects.collect()
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
        if !made {
            self.recognise(path, facts);
        }
        let membership = self.told.enter(path);
        match self.cgroups.get(&id) {
            // A walk was ahead of the record of its making, after which the stages wait for what is known of it.
            Some(Some(known)) if made => {
                let container = known.id.clone();
                return self.look_up(&container, facts);
            }
            // It turned out to be a container's.
            Some(None) if membership.is_some() => {}
            Some(_) => return,
            None => {}
        }
        let own_id = |own: &str| {
            let folder = self.cgroup_root.join(own.trim_start_matches('/'));
            if own == path {
                Some(id)
            } else {
                Some(fs::metadata(folder).ok()?.ino())
            }
        };
        let policy = policy(id, membership.as_ref(), &self.config, own_id);
        self.changes.push(ModeChange::Set(id, policy));
        self.cgroups.insert(id, membership.clone());
        if !made {
            facts.push(Fact::Cgroup {
                id,
                path: path.into(),
            });
        }
        let Some(membership) = membership else { return };
        let own_cgroup = *membership.path == *path && !self.lives_elsewhere(&membership.id, id);
        if own_cgroup || !self.containers.contains_key(&membership.id) {
            let container = membership.id.clone();
            let patience_ends_ns = self.now_ns + self.config.metadata_patience.as_nanos() as u64;
            let watched = Watched {
                membership,
                cgroup_id: id,
                made,
                patience_ends_ns,
                due_ns: 0,
                under_way: false,
                silent: false,
                asked: known::Asked::default(),
                user_attempts: 0,
                wanted: Wanted::default(),
                users_due: false,
                users_again_ns: 0,
                users_silent: false,
                root: None,
            };
            self.containers.insert(container.clone(), watched);
            self.look_up(&container, facts);
        }
    }

    /// Whether a container has a cgroup that is there, another one than this: whoever has cgroups of its own may name one like
    /// anybody's.
    fn lives_elsewhere(&self, container: &Text, id: u64) -> bool {
        let watched = self.containers.get(container);
        watched.is_some_and(|watched| {
            watched.cgroup_id != id && self.cgroups.contains_key(&watched.cgroup_id)
        })
    }

    /// A container goes before its files could be read: what is known by now is told of it, so that its end is not all there is.
    fn wait_no_longer(&mut self, cgroup_id: u64, facts: &mut Vec<Fact>) {
        let now_ns = self.now_ns;
        let Some(watched) = self
            .watched(cgroup_id)
            .filter(|watched| watched.cgroup_id == cgroup_id && watched.patience_ends_ns > now_ns)
        else {
            return;
        };
        watched.patience_ends_ns = now_ns;
        let container = watched.membership.id.clone();
        // Files that are gone with their container say nothing against the folder.
        let warned = std::mem::replace(&mut self.warned, true);
        self.look_up(&container, facts);
        self.warned = warned;
    }

    /// A cgroup was removed; false where that was known.
    fn leave(&mut self, id: u64) -> bool {
        self.changes.push(ModeChange::Forget(id));
        let Some(membership) = self.cgroups.remove(&id) else {
            return false;
        };
        if let Some(membership) = membership
            && let Some(watched) = self.containers.get_mut(&membership.id)
            && watched.cgroup_id == id
        {
            if let Some(left) = cgroup_of(&self.cgroups, &membership.id) {
                // A removal was not seen, or somebody made a cgroup of its name.
                watched.cgroup_id = left;
                return true;
            }
            self.containers.remove(&membership.id);
            self.told.forget(&membership.path);
            self.bundles
                .forget(&membership.runtime_id, &membership.path);
        }
        true
    }

    /// The users a record shows, and where their names may be read.
    fn seen_users(&mut self, record: &Record, facts: &mut Vec<Fact>) {
        let header = record.header();
        let (cgroup_id, uid, gid, root) = match record {
            Record::Exec(exec) => (
                header.cgroup_id,
                exec.identity.ns_uid,
                exec.identity.ns_gid,
                Some((header.pid, exec.identity.mnt_ns)),
            ),
            Record::Fork {
                child_cgroup_id,
                child,
                ..
            } => (*child_cgroup_id, child.ns_uid, child.ns_gid, None),
            // Where ids are not translated these are the inner ones; else the names are not asked for in vain often.
            _ => (header.cgroup_id, header.uid, header.gid, None),
        };
        let user = (cgroup_id, uid, gid);
        if root.is_none() && self.last_user == user {
            return;
        }
        self.last_user = user;
        self.want(cgroup_id, uid, gid);
        if let Some(root) = root {
            self.rooted(cgroup_id, root, header.vpid == 1);
        }
        if let Some(Some(membership)) = self.cgroups.get(&cgroup_id) {
            let container = membership.id.clone();
            self.look_up_users(&container, root, facts);
        }
    }

    fn watched(&mut self, cgroup_id: u64) -> Option<&mut Watched> {
        let membership = self.cgroups.get(&cgroup_id)?.as_ref()?;
        self.containers.get_mut(&membership.id)
    }

    fn want(&mut self, cgroup_id: u64, uid: u32, gid: u32) {
        if let Some(watched) = self.watched(cgroup_id) {
            watched.users_due |= watched.wanted.add(uid, gid);
        }
    }

    /// A process is inside a container, perhaps as its init. The runtime's own part still has the host's root.
    fn rooted(&mut self, cgroup_id: u64, root: Root, init: bool) {
        let inside = is_inside(root, self.host_mnt_ns);
        if let Some(watched) = self.watched(cgroup_id)
            && inside
            && (init || watched.root.is_none())
        {
            watched.root = Some(root);
        }
    }

    /// Looks names up that are due; `newest` is a process that is surely alive.
    fn look_up_users(&mut self, container: &Text, newest: Option<Root>, facts: &mut Vec<Fact>) {
        let host_mnt_ns = self.host_mnt_ns;
        let Some(watched) = self.containers.get_mut(container) else {
            return;
        };
        let newest = newest.filter(|root| is_inside(*root, host_mnt_ns));
        let roots: Vec<Root> = watched.root.into_iter().chain(newest).collect();
        if !watched.users_due
            || watched.users_silent
            || roots.is_empty()
            || watched.user_attempts >= USER_ATTEMPTS_MAX
        {
            return;
        }
        let request = Request {
            roots,
            wanted: watched.wanted.clone(),
        };
        match self.user_reader.ask(container, request, self.now_ns) {
            Answer::Busy | Answer::Refused => {}
            Answer::Waiting => (watched.users_due, watched.users_silent) = (false, true),
            Answer::Read(users) => {
                watched.user_attempts += 1;
                // The process may have ended, or be on its way in: the next one tells.
                watched.users_due = users.is_none() && newest.is_some();
                if users.is_none() {
                    watched.root = newest;
                }
                facts.extend(users.map(|users| told(container, users)));
            }
        }
    }

    /// Names that took longer than anybody waits.
    fn late_users(&mut self, facts: &mut Vec<Fact>) {
        if let Some((container, Some(users))) = self.user_reader.late(self.now_ns) {
            facts.push(told(&container, users));
        }
    }

    /// A database is being written to, or is another one by now (`whole`): read in a moment, when it is as it will be. Once a
    /// second, however often a container does it.
    fn users_changed(&mut self, cgroup_id: u64, whole: bool) {
        let again_ns = self.now_ns + SECOND_NS;
        if let Some(watched) = self.watched(cgroup_id) {
            watched.users_due |= whole;
            if watched.users_again_ns == 0 {
                watched.users_again_ns = again_ns;
            }
        }
    }

    /// Databases that were changed a moment ago.
    fn read_again(&mut self) {
        let now_ns = self.now_ns;
        let changed = self
            .containers
            .values_mut()
            .filter(|watched| (1..=now_ns).contains(&watched.users_again_ns));
        for watched in changed {
            watched.users_again_ns = 0;
            watched.user_attempts = 0;
            watched.users_due = true;
        }
    }

    /// Reads the host's mounts, once a second at most.
    fn look_at_mounts(&mut self, facts: &mut Vec<Fact>) {
        self.mounts_changed = false;
        self.host_mounts_due_ns = self.now_ns + SECOND_NS;
        let found = self.host_mnt_ns.and_then(Mounts::read);
        if found.is_some() && found != self.host_mounts {
            facts.extend(found.clone().map(Fact::HostMounts));
            self.host_mounts = found;
        }
    }

    fn host_users(&mut self, facts: &mut Vec<Fact>) {
        self.host_users_due_ns = self.now_ns + self.config.repeat.as_nanos() as u64;
        let users = self.host_mnt_ns.and_then(|mnt_ns| {
            HOST_PIDS
                .into_iter()
                .find_map(|pid| Users::read(pid, mnt_ns, None))
        });
        if users.is_some() && users != self.host_users {
            facts.extend(users.clone().map(|users| Fact::Users {
                container: None,
                users,
            }));
            self.host_users = users;
        }
    }
}

/// Whether a process is in a mount namespace that is not the host's; roots that may not be seen are not looked into either.
fn is_inside(root: Root, host_mnt_ns: Option<u32>) -> bool {
    root.1 != 0 && host_mnt_ns.is_some_and(|host| host != root.1)
}

fn told(container: &Text, users: Users) -> Fact {
    Fact::Users {
        container: Some(container.clone()),
        users,
    }
}

#[cfg(test)]
mod tests;
