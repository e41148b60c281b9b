//! Which container a cgroup belongs to.
//!
//! ```text
//! /docker/<64 hex>                                   docker (cgroupfs)
//! /system.slice/docker-<64 hex>.scope                docker (systemd)
//! /kubepods.slice/…/cri-containerd-<64 hex>.scope    containerd under Kubernetes
//! /kubepods/burstable/pod<uid>/<64 hex>              Kubernetes (cgroupfs), whatever runtime
//! /docker/<64 hex>/docker/<64 hex>                   a container in a container
//! /lxc.payload.NAME                                  LXC, LXD, Incus
//! /machine.slice/systemd-nspawn@NAME.service/payload systemd-nspawn; /machine.slice/machine-NAME.scope, too
//! /docker/buildkit/<25 letters and digits>           a step of a build
//! /default/NAME                                      whoever announced a container of this name ([`Cgroups::tell`])
//! ```
//! Of the last kinds the name is the runtime's id, and is the name of any other container some other day or under another
//! root; so their id is a hash of the path, the same whenever the path is.
//!
//! Whoever may make cgroups may name one like a container. So an id belongs to the path where it was first heard of, its home,
//! also while the container is stopped; another path of the same name gets a hash of its path for its id ([`Cgroups::enter`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use dogwatch_schemas::Text;
use sha2::{Digest, Sha256};

/// Types of containers that no files are read of.
pub(super) const WITHOUT_FILES: [&str; 3] = ["lxc", "systemd-nspawn", "namespaces"];

/// Containers that have ended of which is remembered where they lived.
const ENDED_MAX: usize = 4_096;

/// Cgroups that were told to be containers' at most.
const TOLD_MAX: usize = 4_096;

/// Which container a cgroup belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The outermost container's whole id.
    pub id: Text,
    /// The same as its runtime has it.
    pub runtime_id: Text,
    /// The runtime, as far as the path tells.
    pub runtime: &'static str,
    /// The innermost container's id, where containers are nested.
    pub nested: Option<Text>,
    /// The path up to the outermost container's own cgroup.
    pub path: Text,
}

impl Membership {
    /// The id as its runtime has it, where that is a name.
    pub(crate) fn given_name(&self) -> Option<Text> {
        (self.runtime_id != self.id).then(|| self.runtime_id.clone())
    }

    /// Whether whoever started it leaves files that are read.
    pub(crate) fn has_files(&self) -> bool {
        !WITHOUT_FILES.contains(&self.runtime)
    }

    fn named(name: &str, runtime: &'static str, path: &str) -> Self {
        Self {
            id: hashed(path),
            runtime_id: name.into(),
            runtime,
            nested: None,
            path: path.into(),
        }
    }
}

/// The cgroups that are containers' because somebody said so, and all others by their paths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    told: BTreeMap<Text, (Text, &'static str)>,
    /// Where each container lives whose path says its id, by id.
    homes: BTreeMap<Text, Text>,
    /// Those of these ids whose cgroups are gone, the oldest first: they may start again.
    ended: VecDeque<Text>,
    /// Paths that name a container that lived elsewhere when they were heard of; they stay what they are when it ends.
    claims: BTreeSet<Text>,
}

impl Cgroups {
    /// A cgroup is that of the container of this name. Returns whether that is news.
    pub fn tell(&mut self, path: &str, name: &str, runtime: &str) -> bool {
        let room = self.told.len() < TOLD_MAX;
        let says_itself = membership(path).is_some_and(|found| *found.path == *path);
        if !room || self.told.contains_key(path) || says_itself {
            return false;
        }
        self.told.insert(path.into(), (name.into(), kind(runtime)));
        true
    }

    /// Takes in a cgroup that is there: the container it belongs to, `None` for the host's own cgroups.
    pub fn enter(&mut self, path: &str) -> Option<Membership> {
        let found = self.membership(path)?;
        let says_id = membership(&found.path).is_some_and(|by_path| by_path.id == found.id);
        if !says_id {
            return Some(found);
        }
        match self.homes.get(&found.id) {
            Some(home) if *home == found.path => {
                self.ended.retain(|id| *id != found.id);
                Some(found)
            }
            Some(_) => {
                self.claims.insert(found.path);
                self.membership(path)
            }
            None => {
                self.homes.insert(found.id.clone(), found.path.clone());
                Some(found)
            }
        }
    }

    /// Whether a cgroup is in one that has the name of a container that lives elsewhere.
    pub fn is_claim(&self, path: &str) -> bool {
        self.membership(path)
            .is_some_and(|found| self.claims.contains(&found.path))
    }

    /// A container's own cgroup is gone, and with it what was in it.
    pub fn forget(&mut self, path: &str) {
        self.told.remove(path);
        self.claims.remove(path);
        let Some(found) = membership(path) else {
            return;
        };
        if self.homes.get(&found.id).is_none_or(|home| **home != *path) {
            return;
        }
        self.ended.push_back(found.id);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.homes.remove(&oldest);
        }
    }

    /// Finds the containers a cgroup's path names; `None` for the host's own cgroups.
    pub fn membership(&self, path: &str) -> Option<Membership> {
        let by_path = membership(path).map(|found| self.unclaimed(found));
        let Some(told) = self.told_membership(path) else {
            return by_path;
        };
        // The outermost is what counts.
        match by_path {
            Some(by_path) if by_path.path.len() < told.path.len() => Some(Membership {
                nested: Some(told.id),
                ..by_path
            }),
            Some(inner) => Some(Membership {
                nested: inner.nested.or(Some(inner.id)),
                ..told
            }),
            None => Some(told),
        }
    }

    /// What only bears a container's name is told by its path.
    fn unclaimed(&self, found: Membership) -> Membership {
        if !self.claims.contains(&found.path) {
            return found;
        }
        let id = hashed(&found.path);
        Membership {
            runtime_id: id.clone(),
            id,
            runtime: "other",
            ..found
        }
    }

    fn told_membership(&self, path: &str) -> Option<Membership> {
        if self.told.is_empty() {
            return None;
        }
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
        let mut folders = ends.chain([path.len()]).map(|end| &path[..end]);
        folders.find_map(|folder| {
            let (name, runtime) = self.told.get(folder)?;
            Some(Membership::named(name, runtime, folder))
        })
    }
}

/// The type of a container as it is named everywhere.
fn kind(runtime: &str) -> &'static str {
    const KINDS: [&str; 6] = ["buildkit", "containerd", "cri-o", "docker", "oci", "podman"];
    let known = KINDS.into_iter().find(|kind| *kind == runtime);
    known.unwrap_or("other")
}

/// An id that is the same whenever the path is.
fn hashed(path: &str) -> Text {
    let hash = Sha256::digest(path.as_bytes());
    hash.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// A cgroup of a container among those that are there, by id.
pub(crate) fn cgroup_of(
    cgroups: &HashMap<u64, Option<Membership>>,
    container: &Text,
) -> Option<u64> {
    let own = cgroups
        .iter()
        .filter(|(_, of)| of.as_ref().is_some_and(|of| of.id == *container));
    own.map(|(id, _)| *id).min()
}

/// Finds the containers a cgroup's path names; `None` for the host's own cgroups.
pub fn membership(cgroup_path: &str) -> Option<Membership> {
    let mut outermost: Option<Membership> = None;
    let mut end = 0;
    for component in cgroup_path.split('/') {
        end += component.len() + 1;
        let path = &cgroup_path[..end - 1];
        let Some((prefix, id)) = container_component(component) else {
            if let Some(named) = named(path, component) {
                take(&mut outermost, named);
            }
            continue;
        };
        let found = Membership {
            id: id.into(),
            runtime_id: id.into(),
            runtime: runtime(prefix, path),
            nested: None,
            path: path.into(),
        };
        take(&mut outermost, found);
    }
    outermost
}

/// The first container of a path is the outermost, the last another one is the innermost.
fn take(outermost: &mut Option<Membership>, found: Membership) {
    match outermost {
        None => *outermost = Some(found),
        Some(outer) if outer.id != found.id => outer.nested = Some(found.id),
        Some(_) => {}
    }
}

/// Containers whose cgroup has their name, with what stands before it; `path` ends with the component.
fn named(path: &str, component: &str) -> Option<Membership> {
    let parent = path.strip_suffix(component)?.strip_suffix('/')?;
    let folder = parent.rsplit('/').next()?;
    // The payload's cgroup is the container; its monitor and supervisor are the host's.
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return Some(Membership::named(name, "lxc", path));
    }
    if folder == "lxc.payload" || (parent == "/lxc" && !component.starts_with("lxc.")) {
        return Some(Membership::named(component, "lxc", path));
    }
    let unit = folder.strip_prefix("systemd-nspawn@");
    if let Some(name) = unit.and_then(|unit| unit.strip_suffix(".service"))
        && component == "payload"
    {
        return Some(Membership::named(name, "systemd-nspawn", path));
    }
    let scope = component.strip_prefix("machine-");
    if let Some(name) = scope.and_then(|scope| scope.strip_suffix(".scope"))
        && folder == "machine.slice"
    {
        // libvirt registers its machines here, too; those of QEMU are no containers.
        return match name.split_once("\\x2d") {
            Some(("qemu", _)) => None,
            Some(("lxc", _)) => Some(Membership::named(name, "lxc", path)),
            _ => Some(Membership::named(name, "systemd-nspawn", path)),
        };
    }
    let step = component.len() == 25
        && component
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (step && folder == "buildkit").then(|| Membership::named(component, "buildkit", path))
}

/// Splits a path component into what stands before the id, and the id.
fn container_component(component: &str) -> Option<(&str, &str)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let split = name.len().checked_sub(64)?;
    if !name.is_char_boundary(split) {
        return None;
    }
    let (prefix, id) = name.split_at(split);
    let is_id = id
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let prefix_ends = prefix.is_empty() || prefix.ends_with(['-', ':']);
    // A container's monitor has a cgroup with the container's id, but is not inside it.
    (is_id && prefix_ends && !prefix.contains("conmon")).then_some((prefix, id))
}

fn runtime(prefix: &str, path: &str) -> &'static str {
    let prefix = prefix.trim_end_matches(['-', ':']);
    match prefix.rsplit(':').next().unwrap_or(prefix) {
        "docker" => "docker",
        "cri-containerd" | "nerdctl" => "containerd",
        "crio" => "cri-o",
        "libpod" | "libpod-payload" => "podman",
        "" if path.contains("/docker/") => "docker",
        "" if path.contains("/libpod_parent/") => "podman",
        // Below kubepods, too: containerd, CRI-O and Docker name their cgroups alike there.
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn check(path: &str, expected: Option<(&str, &str, Option<&str>)>) {
        let found = membership(path);
        let found = found
            .as_ref()
            .map(|m| (&*m.id, m.runtime, m.nested.as_deref()));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn containers_are_recognised_by_their_cgroup() {
        let (a, b) = (id('a'), id('b'));
        check(&format!("/docker/{a}"), Some((&a, "docker", None)));
        check(&format!("/docker/{a}/init"), Some((&a, "docker", None)));
        check(
            &format!("/system.slice/docker-{a}.scope"),
            Some((&a, "docker", None)),
        );
        check(
            &format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{a}.scope"),
            Some((&a, "containerd", None)),
        );
        check(
            &format!("/system.slice/kubepods-pod1.slice:cri-containerd:{a}"),
            Some((&a, "containerd", None)),
        );
        check(
            &format!("/kubepods/besteffort/podx/{a}"),
            Some((&a, "other", None)),
        );
        check(
            &format!("/machine.slice/libpod-{a}.scope/container"),
            Some((&a, "podman", None)),
        );
        check(
            &format!("/system.slice/web.service/libpod-payload-{a}"),
            Some((&a, "podman", None)),
        );
        check(
            &format!("/kubepods.slice/crio-{a}.scope"),
            Some((&a, "cri-o", None)),
        );
        check(&format!("/mine/{a}"), Some((&a, "other", None)));
        check(
            &format!("/docker/{a}/docker/{b}"),
            Some((&a, "docker", Some(&b))),
        );
        check(&format!("/machine.slice/libpod-conmon-{a}.scope"), None);
        check("/system.slice/ssh.service", None);
        check("/docker", None);
        check("", None);
    }

    #[test]
    fn the_outermost_containers_own_path_is_kept() {
        let path = format!("/docker/{}/docker/{}", id('a'), id('b'));
        assert_eq!(
            *membership(&path).unwrap().path,
            format!("/docker/{}", id('a'))
        );
    }

    fn named(path: &str, name: &str, runtime: &str, own: &str) {
        let found = membership(path).unwrap();
        assert_eq!(
            (&*found.runtime_id, found.runtime),
            (name, runtime),
            "{path}"
        );
        assert_eq!(&*found.path, own, "{path}");
        assert_eq!(found.id.len(), 64);
        assert_eq!(found.given_name().as_deref(), Some(name));
        assert_eq!(
            membership(own).unwrap().id,
            found.id,
            "the same for all below"
        );
    }

    #[test]
    fn containers_that_are_none_of_an_oci_runtime_are_recognised_by_their_names() {
        named(
            "/lxc.payload.web/init.scope",
            "web",
            "lxc",
            "/lxc.payload.web",
        );
        named("/lxc/web", "web", "lxc", "/lxc/web");
        let nspawn = "/machine.slice/systemd-nspawn@web.service/payload";
        named(nspawn, "web", "systemd-nspawn", nspawn);
        let scope = "/machine.slice/machine-web.scope";
        named(&format!("{scope}/payload"), "web", "systemd-nspawn", scope);
        let step = format!("/docker/buildkit/{}", "a1".repeat(12) + "z");
        named(&step, &step[17..], "buildkit", &step);
        check("/lxc.monitor.web", None);
        check("/lxc.pivot", None);
        check("/machine.slice/systemd-nspawn@web.service/supervisor", None);
        check("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", None);
        check("/docker/buildkit", None);
        check("/system.slice/machine-x.scope", None);
    }

    #[test]
    fn told_containers_are_outermost_or_nested_as_their_paths_are() {
        let mut cgroups = Cgroups::default();
        assert!(cgroups.tell("/default/web", "web", "containerd"));
        assert!(
            !cgroups.tell("/default/web", "web", "containerd"),
            "no news"
        );
        assert_eq!(cgroups.membership("/default"), None);
        assert_eq!(cgroups.membership("/default/web2"), None);
        let web = cgroups.membership("/default/web").unwrap();
        assert_eq!((&*web.runtime_id, web.runtime), ("web", "containerd"));
        let inner = cgroups
            .membership(&format!("/default/web/docker/{}", id('a')))
            .unwrap();
        assert_eq!((inner.id, inner.path), (web.id.clone(), web.path.clone()));
        assert_eq!(inner.nested.as_deref(), Some(&*id('a')));
        let outer = format!("/docker/{}", id('b'));
        assert!(cgroups.tell(&format!("{outer}/box"), "box", "oci"));
        let nested = cgroups.membership(&format!("{outer}/box/x")).unwrap();
        assert_eq!(&*nested.id, id('b'));
        assert!(nested.nested.is_some());
        assert!(!cgroups.tell(&outer, "b", "oci"), "its path says it");
        cgroups.forget("/default/web");
        assert_eq!(cgroups.membership("/default/web"), None);
    }

    #[test]
    fn a_cgroup_named_like_a_container_that_lives_elsewhere_is_not_that_container() {
        for (home, claim) in [
            (format!("/docker/{}", id('a')), format!("/mine/{}", id('a'))),
            (
                format!("/system.slice/docker-{}.scope", id('a')),
                format!("/user.slice/docker-{}.scope", id('a')),
            ),
        ] {
            let mut cgroups = Cgroups::default();
            // Nobody may have heard of the container's own before one below it.
            let real = cgroups.enter(&format!("{home}/init")).unwrap();
            assert_eq!((&*real.id, &*real.path), (&*id('a'), &*home));
            let other = cgroups.enter(&claim).unwrap();
            assert_eq!((&*other.path, other.runtime), (&*claim, "other"));
            assert_eq!((other.id.len(), &other.nested), (64, &None));
            assert_ne!(other.id, real.id);
            assert_eq!(other.runtime_id, other.id);
            assert!(cgroups.is_claim(&format!("{claim}/below")));
            assert!(!cgroups.is_claim(&home));
            assert_eq!(
                cgroups.enter(&format!("{claim}/below")).unwrap().id,
                other.id
            );
            assert_eq!(cgroups.enter(&home).unwrap().id, real.id);

            cgroups.forget(&home);
            let below = cgroups.enter(&format!("{claim}/later")).unwrap();
            assert_eq!(
                below.id, other.id,
                "it does not become the container that ended"
            );
            assert_eq!(cgroups.enter(&home).unwrap().id, real.id, "started again");
            assert_eq!(cgroups.enter(&claim).unwrap().id, other.id);
        }
    }

    #[test]
    fn a_container_that_is_stopped_is_nobody_elses() {
        let mut cgroups = Cgroups::default();
        let (home, claim) = (format!("/docker/{}", id('a')), format!("/x/{}", id('a')));
        for _ in 0..3 {
            assert_eq!(*cgroups.enter(&home).unwrap().id, id('a'));
            cgroups.forget(&home);
            assert_ne!(*cgroups.enter(&claim).unwrap().id, id('a'));
            cgroups.forget(&claim);
        }
        assert_eq!(*cgroups.enter(&home).unwrap().id, id('a'));
        assert!(cgroups.ended.is_empty() && cgroups.claims.is_empty());
    }

    #[test]
    fn of_those_that_ended_the_last_are_remembered() {
        let mut cgroups = Cgroups::default();
        let home = |number: usize| format!("/docker/{number:064x}");
        let living = home(0);
        cgroups.enter(&living);
        for number in 1..=2 * ENDED_MAX {
            cgroups.enter(&home(number));
            cgroups.forget(&home(number));
        }
        assert_eq!(
            (cgroups.homes.len(), cgroups.ended.len()),
            (ENDED_MAX + 1, ENDED_MAX)
        );
        let claim = format!("/x/{:064x}", 0);
        assert_ne!(
            cgroups.enter(&claim).unwrap().id,
            cgroups.enter(&living).unwrap().id
        );
    }

    #[test]
    fn a_container_in_a_container_is_no_claim() {
        let mut cgroups = Cgroups::default();
        let inner = format!("/docker/{}/docker/{}", id('a'), id('b'));
        cgroups.enter(&format!("/docker/{}", id('b')));
        let found = cgroups.enter(&inner).unwrap();
        assert_eq!(
            (&*found.id, found.nested.as_deref()),
            (&*id('a'), Some(&*id('b')))
        );
    }
}
