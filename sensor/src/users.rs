//! Names of users and groups, from a container's own databases.
//!
//! Uid 1000 of a container is whoever the container's `/etc/passwd` says, not the host's user of that number.
//! The files belong to the container and are not trusted: paths are resolved by the kernel inside the container's root
//! (`openat2` with `RESOLVE_IN_ROOT`), only regular files of local file systems are read, and both what is read and what is
//! kept of it is bounded: of a container only the names of ids that were seen in it.

pub(crate) mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::rooted::{self, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV};

/// Bytes read of each file at most.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of names kept of each file at most.
const NAMES_BYTES_MAX: usize = 32 << 10;
/// Longer names are no names: `LOGIN_NAME_MAX`.
const NAME_BYTES_MAX: usize = 256;
/// What a name takes in memory beside its bytes.
const ENTRY_BYTES: usize = 64;
/// Ids of each kind whose names are looked up in one container.
const WANTED_MAX: usize = 256;

/// Ids that were seen in a container, so that their names are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Wanted {
    /// Adds ids; true when one of them is new.
    pub fn add(&mut self, uid: u32, gid: u32) -> bool {
        let add = |ids: &mut BTreeSet<u32>, id: u32| {
            id != u32::MAX && ids.len() < WANTED_MAX && ids.insert(id)
        };
        add(&mut self.users, uid) | add(&mut self.groups, gid)
    }
}

/// User and group names of one container, or of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Users {
    /// Names by uid.
    pub users: BTreeMap<u32, Text>,
    /// Names by gid.
    pub groups: BTreeMap<u32, Text>,
}

impl Users {
    /// Parses the two databases; keeps the names that are wanted, all of them where nothing is said.
    pub(crate) fn parse(passwd: &str, group: &str, wanted: Option<&Wanted>) -> Self {
        Self {
            users: entries(passwd, wanted.map(|wanted| &wanted.users)),
            groups: entries(group, wanted.map(|wanted| &wanted.groups)),
        }
    }

    /// What they take in memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let names = self.users.values().chain(self.groups.values());
        names.map(|name| name.len() + ENTRY_BYTES).sum()
    }

    /// Reads the databases below a process's root, if that root is in the mount namespace `mnt_ns`.
    ///
    /// Returns `None` when the process is gone, is another one by now, or has no databases on a local file system.
    pub(crate) fn read(pid: u32, mnt_ns: u32, wanted: Option<&Wanted>) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let root = File::open(process.join("root")).ok()?;
        // Checked after the root is open: a pid used again, or not yet inside its container, is not believed.
        let namespace = std::fs::metadata(process.join("ns/mnt")).ok()?.ino();
        if namespace != u64::from(mnt_ns) {
            return None;
        }
        let mut mounts = String::new();
        File::open(process.join("mountinfo"))
            .ok()?
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut mounts)
            .ok()?;
        let local = Local::of(&mounts)?;
        let passwd = read_in_root(&root, c"etc/passwd", local)?;
        let group = read_in_root(&root, c"etc/group", local).unwrap_or_default();
        Some(Self::parse(&passwd, &group, wanted))
    }
}

/// File systems of which a read comes back: those of this machine's disks and memory, and the kernel's own.
const LOCAL: [&str; 30] = [
    "overlay",
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "bcachefs",
    "jfs",
    "tmpfs",
    "ramfs",
    "rootfs",
    "squashfs",
    "erofs",
    "iso9660",
    "vfat",
    "proc",
    "sysfs",
    "devpts",
    "devtmpfs",
    "mqueue",
    "cgroup",
    "cgroup2",
    "hugetlbfs",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
];

/// How far a path below a root may lead.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Local {
    /// Over the mounts as well: all of them are local.
    All,
    /// Not beyond the root's own file system.
    Root,
}

impl Local {
    /// From `mountinfo`: `id parent device root mount-point options … - type source options`. `None`: not even the root is
    /// local.
    fn of(mountinfo: &str) -> Option<Self> {
        let mut root_is_local = false;
        let mut all = true;
        for line in mountinfo.lines() {
            let mount_point = line.split(' ').nth(4)?;
            let (_, file_system) = line.split_once(" - ")?;
            let local = LOCAL.contains(&file_system.split(' ').next()?);
            all &= local;
            // A later mount on the root hides the one before.
            if mount_point == "/" {
                root_is_local = local;
            }
        }
        root_is_local.then_some(if all { Self::All } else { Self::Root })
    }
}

/// `name:password:id:…` a line; the first name of an id wins, as in the C library.
fn entries(database: &str, wanted: Option<&BTreeSet<u32>>) -> BTreeMap<u32, Text> {
    let mut names = BTreeMap::new();
    let mut bytes = 0;
    for line in database.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(id) = id.parse::<u32>() else { continue };
        let usable = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !names.contains_key(&id);
        if usable && wanted.is_none_or(|wanted| wanted.contains(&id)) {
            bytes += name.len() + ENTRY_BYTES;
            if bytes > NAMES_BYTES_MAX {
                break;
            }
            names.insert(id, Text::from(name));
        }
    }
    names
}

fn read_in_root(root: &File, path: &CStr, local: Local) -> Option<String> {
    // A pipe in place of the file must not block the sensor.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = match local {
        Local::All => RESOLVE_NO_MAGICLINKS,
        Local::Root => RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    let file = rooted::open(root, path, flags, resolve).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_parsed_and_bad_lines_passed_over() {
        let users = Users::parse(
            "root:x:0:0::/root:/bin/sh\n# x\nbad\ntoor:x:0:0\napp:x:1000:1000\n:x:5:5",
            "wheel:x:10:\n",
            None,
        );
        assert_eq!(
            users.users,
            BTreeMap::from([(0, "root".into()), (1000, "app".into())])
        );
        assert_eq!(users.groups, BTreeMap::from([(10, "wheel".into())]));
    }

    #[test]
    fn only_what_is_wanted_is_kept_and_that_is_bounded() {
        let many: String = (0..8_192)
            .map(|id| format!("u{id}{}:x:{id}:\n", "n".repeat(200)))
            .collect();
        let mut wanted = Wanted::default();
        assert!(wanted.add(8_000, 1));
        assert!(!wanted.add(8_000, u32::MAX));
        let users = Users::parse(&many, "", Some(&wanted));
        assert_eq!(users.users.len(), 1);
        assert!(users.users[&8_000].starts_with("u8000"));
        assert!(Users::parse(&many, &many, None).bytes() <= 2 * NAMES_BYTES_MAX);
        for id in 0..10_000 {
            wanted.add(id, id);
        }
        assert!(Users::parse(&many, &many, Some(&wanted)).bytes() <= 2 * NAMES_BYTES_MAX);
        assert_eq!(wanted.users.len(), WANTED_MAX);
    }

    #[test]
    fn only_local_file_systems_are_read() {
        let line = |point: &str, kind: &str| format!("1 2 0:30 / {point} rw - {kind} none rw\n");
        let check = |mounts: &[(&str, &str)], expected: Option<Local>| {
            let mountinfo: String = mounts
                .iter()
                .map(|(point, kind)| line(point, kind))
                .collect();
            assert_eq!(Local::of(&mountinfo), expected, "{mountinfo}");
        };
        check(&[("/", "overlay"), ("/proc", "proc")], Some(Local::All));
        check(&[("/", "overlay"), ("/data", "nfs4")], Some(Local::Root));
        check(&[("/", "fuse.sshfs"), ("/proc", "proc")], None);
        check(&[("/", "ext4"), ("/", "fuse")], None);
        check(&[("/proc", "proc")], None);
        let own = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(Local::of(&own).is_some(), "{own}");
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "evil:x:0:").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(
            outside.path().join("passwd"),
            inside.path().join("etc/passwd"),
        )
        .unwrap();
        let root = File::open(inside.path()).unwrap();
        assert_eq!(read_in_root(&root, c"etc/passwd", Local::All), None);
        std::fs::write(inside.path().join("etc/group"), "root:x:0:").unwrap();
        assert_eq!(
            read_in_root(&root, c"etc/group", Local::All).as_deref(),
            Some("root:x:0:")
        );
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let inside = tempfile::tempdir().unwrap();
        let path = std::ffi::CString::new(inside.path().join("fifo").to_str().unwrap()).unwrap();
        // SAFETY: the path ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        assert_eq!(
            read_in_root(&File::open(inside.path()).unwrap(), c"fifo", Local::All),
            None
        );
    }
}
