//! Which cgroup hierarchy containers are found in, and where it is mounted.
//!
//! On a host with one unified hierarchy there is no choice. A hybrid host has the version 1 hierarchies and an almost empty
//! unified one, in which some runtimes make cgroups (runc from 1.1) and some do not: there the hierarchy with the most of the
//! running containers is used, and without any the version 1 hierarchy, in which every runtime makes them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use super::ProbeError;
use crate::host::HOST_PIDS;

/// A cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Which one.
    pub kind: HierarchyKind,
    /// Its number in `/proc/PID/cgroup`; 0 for the unified one.
    pub id: u32,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// The hierarchies that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HierarchyKind {
    /// Version 2.
    Unified = 0,
    /// Version 1 with the controller `pids`.
    Pids = 1,
    /// Version 1 with the controller `memory`.
    Memory = 2,
}

impl HierarchyKind {
    const BY_PREFERENCE: [HierarchyKind; 3] = [Self::Unified, Self::Pids, Self::Memory];

    /// The controller's name; empty for the unified hierarchy.
    pub fn controller(self) -> &'static str {
        match self {
            Self::Unified => "",
            Self::Pids => "pids",
            Self::Memory => "memory",
        }
    }
}

impl Hierarchy {
    /// Finds the hierarchy of this host. In a private cgroup namespace the calling thread enters the host's first, where it
    /// has `CAP_SYS_ADMIN`: a pod has no other way but to be privileged.
    ///
    /// # Errors
    /// When none of them is mounted where this process sees it, and when it sees only a part: from a private cgroup
    /// namespace, or through a mount of its own cgroup. The paths of containers are not to be had there.
    pub fn find() -> Result<Self, ProbeError> {
        match look() {
            Err(ProbeError::PrivateCgroups { .. }) if enter_host_namespace().is_ok() => look(),
            found => found,
        }
    }

    /// Where the other hierarchies of this host are mounted in which containers may be.
    pub(crate) fn others(&self) -> Vec<PathBuf> {
        let mounts = read("/proc/self/mountinfo").unwrap_or_default();
        HierarchyKind::BY_PREFERENCE
            .into_iter()
            .filter(|kind| *kind != self.kind)
            .filter_map(|kind| mount_of(kind, &mounts))
            .filter_map(|(whole, mount)| whole.then_some(mount))
            .collect()
    }

    /// The path of a line of `/proc/PID/cgroup`, when the line is this hierarchy's.
    pub fn path_in<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (id, rest) = line.split_once(':')?;
        let (_, path) = rest.split_once(':')?;
        (id.parse() == Ok(self.id)).then_some(path)
    }
}

fn look() -> Result<Hierarchy, ProbeError> {
    find(
        &read("/proc/self/mountinfo")?,
        &read("/proc/self/cgroup")?,
        &all_cgroup_files(),
    )
}

/// Enters the cgroup namespace of the host's first processes. It changes what paths look like, and moves the thread nowhere.
fn enter_host_namespace() -> io::Result<()> {
    let namespace = HOST_PIDS
        .into_iter()
        .find_map(|pid| fs::File::open(format!("/proc/{pid}/ns/cgroup")).ok())
        .ok_or(io::ErrorKind::PermissionDenied)?;
    // SAFETY: a plain system call on a descriptor that is open.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWCGROUP) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn find(mounts: &str, own_cgroups: &str, cgroup_files: &[String]) -> Result<Hierarchy, ProbeError> {
    let mounted = HierarchyKind::BY_PREFERENCE.into_iter().filter_map(|kind| {
        let (whole, mount) = mount_of(kind, mounts)?;
        let id = number(kind, own_cgroups)?;
        Some((whole, Hierarchy { kind, id, mount }))
    });
    let (whole, hierarchy) =
        choose(mounted.collect(), cgroup_files).ok_or(ProbeError::NoHierarchy)?;
    // Seen from the initial namespace no path leads above the root.
    let outside = paths_in(&hierarchy, cgroup_files)
        .find(|path| *path == "/.." || path.starts_with("/../"))
        .map(str::to_owned);
    if let Some(example) = outside {
        return Err(ProbeError::PrivateCgroups { example });
    }
    if !whole {
        return Err(ProbeError::PartOfHierarchy {
            mount: hierarchy.mount,
        });
    }
    Ok(hierarchy)
}

fn read(path: &str) -> Result<String, ProbeError> {
    fs::read_to_string(path).map_err(|source| ProbeError::Unreadable {
        path: path.into(),
        source,
    })
}

fn number(kind: HierarchyKind, own_cgroups: &str) -> Option<u32> {
    own_cgroups.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (controllers, _) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|name| name == kind.controller())
            .then(|| id.parse().ok())?
    })
}

/// Where a hierarchy is mounted, and whether that is all of it; a part only where the whole is nowhere.
fn mount_of(kind: HierarchyKind, mounts: &str) -> Option<(bool, PathBuf)> {
    let mut found: Vec<(bool, PathBuf)> = mounts
        .lines()
        .filter_map(|line| mount_in(kind, line))
        .collect();
    found.sort_by_key(|(whole, _)| !whole);
    found.into_iter().next()
}

/// From a line of mountinfo: whether the whole hierarchy is mounted, and where. Format: proc_pid_mountinfo(5).
fn mount_in(kind: HierarchyKind, line: &str) -> Option<(bool, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (file_system, options) = (after.next()?, after.nth(1)?);
    let matches = match kind {
        HierarchyKind::Unified => file_system == "cgroup2",
        _ => {
            file_system == "cgroup" && options.split(',').any(|option| option == kind.controller())
        }
    };
    matches.then(|| (root == "/", PathBuf::from(point.replace("\\040", " "))))
}

fn all_cgroup_files() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbered = folder
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    numbered
        .filter_map(|entry| fs::read_to_string(entry.path().join("cgroup")).ok())
        .collect()
}

fn choose(mounted: Vec<(bool, Hierarchy)>, cgroup_files: &[String]) -> Option<(bool, Hierarchy)> {
    let containers: Vec<usize> = mounted
        .iter()
        .map(|(_, hierarchy)| {
            let named = paths_in(hierarchy, cgroup_files).filter_map(container_named);
            named.collect::<BTreeSet<_>>().len()
        })
        .collect();
    let most = containers.iter().copied().max().filter(|most| *most > 0);
    let with_most = most.and_then(|most| containers.iter().position(|count| *count == most));
    let without = mounted
        .iter()
        .position(|(_, hierarchy)| hierarchy.kind != HierarchyKind::Unified);
    mounted.into_iter().nth(with_most.or(without).unwrap_or(0))
}

/// Where processes are in a hierarchy, by their `/proc/PID/cgroup`.
fn paths_in<'a>(
    hierarchy: &Hierarchy,
    cgroup_files: &'a [String],
) -> impl Iterator<Item = &'a str> {
    cgroup_files
        .iter()
        .flat_map(|file| file.lines())
        .filter_map(|line| hierarchy.path_in(line))
}

/// Every runtime puts the container's id, 64 hexadecimal digits, into the cgroup's name.
fn container_named(path: &str) -> Option<&str> {
    path.split(|c: char| !c.is_ascii_hexdigit())
        .find(|part| part.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        38 30 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        35 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "8:pids:/\n4:memory:/x\n2:cpu,cpuacct:/\n0::/\n";
    const ID: &str = "2fae751611410123456789abcdef0123456789abcdef0123456789abcdef0123";

    fn check(mounts: &str, cgroup_file: &str, expected: Option<(HierarchyKind, u32, &str)>) {
        let expected = expected.map(|(kind, id, mount)| Hierarchy {
            kind,
            id,
            mount: mount.into(),
        });
        let found = find(mounts, OWN, &[cgroup_file.to_owned()]);
        assert_eq!(found.ok(), expected);
    }

    #[test]
    fn the_running_containers_decide() {
        let unified = Some((HierarchyKind::Unified, 0, "/sys/fs/cgroup/unified"));
        let pids = Some((HierarchyKind::Pids, 8, "/sys/fs/cgroup/pids"));
        let memory = Some((HierarchyKind::Memory, 4, "/sys/fs/cgroup/memory"));
        check(
            HYBRID,
            &format!("8:pids:/docker/{ID}\n0::/docker/{ID}\n"),
            unified,
        );
        check(HYBRID, &format!("8:pids:/docker/{ID}\n0::/\n"), pids);
        check(
            HYBRID,
            &format!("8:pids:/\n4:memory:/docker/{ID}\n0::/\n"),
            memory,
        );
        // Of two runtimes, one that makes cgroups in the unified hierarchy and one that does not: all are in the other.
        let second = ID.replace('2', "3");
        check(
            HYBRID,
            &format!("8:pids:/docker/{ID}\n0::/docker/{ID}\n8:pids:/docker/{second}\n0::/\n"),
            pids,
        );
        check(HYBRID, "8:pids:/\n0::/\n", pids);
        check(
            UNIFIED,
            "0::/\n",
            Some((HierarchyKind::Unified, 0, "/sys/fs/cgroup")),
        );
        check("", "0::/\n", None);
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part() {
        let part = UNIFIED.replace(" / ", " /../.. ");
        let whole = UNIFIED.replace(" /sys/fs/cgroup ", " /host/cgroup\\0402 ");
        assert_eq!(
            mount_of(HierarchyKind::Unified, &format!("{part}{whole}")),
            Some((true, "/host/cgroup 2".into()))
        );
        assert_eq!(
            mount_of(HierarchyKind::Unified, &part),
            Some((false, "/sys/fs/cgroup".into()))
        );
    }

    #[test]
    fn a_part_of_the_hierarchy_is_refused_with_the_mend() {
        let refused = |mounts: &str, cgroup_file: &str| {
            let found = find(mounts, OWN, &[cgroup_file.to_owned()]);
            found
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        // A container's own namespace with its own mount, and with the host's mount beside it.
        let outside = format!("0::/../{ID}\n");
        assert!(refused(UNIFIED, &outside).contains("cgroup: host"));
        let through_host = UNIFIED.replace(" / ", " /../.. ");
        assert!(refused(&through_host, "0::/../..\n").contains("cgroup: host"));
        // The host's namespace, and a mount of the own cgroup alone: version 1 in Docker.
        let own = UNIFIED.replace(" / ", &format!(" /docker/{ID} "));
        assert!(refused(&own, "0::/\n").contains("/sys/fs/cgroup"));
        assert_eq!(refused(UNIFIED, "0::/..name\n"), "");
    }

    #[test]
    fn lines_of_other_hierarchies_have_no_path() {
        let hierarchy = Hierarchy {
            kind: HierarchyKind::Pids,
            id: 8,
            mount: "/x".into(),
        };
        assert_eq!(hierarchy.path_in("8:pids:/a:b"), Some("/a:b"));
        assert_eq!(hierarchy.path_in("0::/a"), None);
    }
}
