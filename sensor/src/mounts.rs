//! Mounts of the host, and of trees that containers made: where on the host a file lies, whatever tree it was reached through.
//!
//! ```text
//! the file's device 254:1, its path in its own file system /etc/cron.d/x
//! the host's mountinfo: 254:1 with the root / at /          ──► /etc/cron.d/x
//! ```

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::host::HOST_PIDS;

/// Bytes read of a process's mounts at most.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Bytes read of the mounts of a tree that a container made.
const TREE_BYTES_MAX: u64 = 256 << 10;
/// Of these mounts how many are remembered, and the bytes of their texts, both without the root's. The newest stay: a
/// container could hide its next mount behind many others otherwise.
const TREE_MOUNTS_MAX: usize = 255;
const TREE_TEXT_BYTES_MAX: usize = 64 << 10;

/// Mounts of the host that are remembered; each container has some, and what comes first is the host's own.
const MOUNTS_MAX: usize = 4_096;

/// File systems of which the host has no other view: a container's own root, and what the kernel makes up.
const PASSED_OVER: [&str; 16] = [
    "overlay",
    "proc",
    "sysfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "mqueue",
    "nsfs",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
    "configfs",
    "binfmt_misc",
    "autofs",
];

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mount {
    /// Device as `stat` gives it.
    dev: u64,
    /// Which part of the file system is mounted.
    root: Text,
    /// Where.
    point: Text,
}

impl Mount {
    fn text_bytes(&self) -> usize {
        self.root.len() + self.point.len()
    }
}

/// See the module's description.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads them of a process that is in the host's mount namespace.
    pub(crate) fn read(host_mnt_ns: u32) -> Option<Self> {
        HOST_PIDS.into_iter().find_map(|pid| {
            let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino();
            if namespace != u64::from(host_mnt_ns) {
                return None;
            }
            Some(Self::parse(&mountinfo(pid, FILE_BYTES_MAX)?))
        })
    }

    /// Those of the tree that a process sees, and its mount namespace. None where the process's root is not the tree's: it
    /// sees a part of the tree, below other paths.
    pub(crate) fn of_tree(pid: u32) -> Option<(u32, Self)> {
        let namespace = || {
            let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
            u32::try_from(namespace.ino()).ok()
        };
        let before = namespace()?;
        let mounts = Self::parse_all(&mountinfo(pid, TREE_BYTES_MAX)?)?;
        // It may have gone into another one meanwhile, or be another process.
        (namespace()? == before).then_some((before, mounts))
    }

    /// From `/proc/PID/mountinfo`: `id parent major:minor root mount-point options … - type source options`.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mounts = mounts_in(mountinfo)
            .filter(|(kind, mount)| !PASSED_OVER.contains(kind) || &*mount.point == "/");
        Self(mounts.map(|(_, mount)| mount).take(MOUNTS_MAX).collect())
    }

    /// The same, with all kinds of file systems: what lies below one of them is in no other. The root and the newest of the
    /// others; none where there is no root, which is so where a process has changed its root to a plain folder.
    pub(crate) fn parse_all(mountinfo: &str) -> Option<Self> {
        let mut root = None;
        let mut newest = VecDeque::new();
        let mut bytes = 0;
        for (_, mount) in mounts_in(mountinfo) {
            if &*mount.point == "/" {
                root = Some(mount);
                continue;
            }
            bytes += mount.text_bytes();
            newest.push_back(mount);
            while newest.len() > TREE_MOUNTS_MAX || bytes > TREE_TEXT_BYTES_MAX {
                bytes -= newest
                    .pop_front()
                    .map_or(bytes, |oldest: Mount| oldest.text_bytes());
            }
        }
        Some(Self([root?].into_iter().chain(newest).collect()))
    }

    /// The device of the file system that a path of this tree leads into, and its path there.
    pub(crate) fn place_of(&self, path: &str) -> Option<(u64, String)> {
        let holding = self.0.iter().filter_map(|mount| {
            let rest = path.strip_prefix(mount.point.trim_end_matches('/'))?;
            let within = rest.is_empty() || rest.starts_with('/');
            within.then_some((mount, rest))
        });
        // Of those at one point the last lies on top.
        let (mount, rest) = holding.max_by_key(|(mount, _)| mount.point.len())?;
        let place = format!("{}{rest}", mount.root.trim_end_matches('/'));
        Some((mount.dev, if place.is_empty() { "/".into() } else { place }))
    }

    /// Where the host has the file with this path in the file system on this device: through the mount of the largest part
    /// of it, the first of those that are alike.
    pub(crate) fn path_of(&self, dev: u64, path: &str) -> Option<Text> {
        let holding = self.0.iter().filter_map(|mount| {
            let rest = path.strip_prefix(mount.root.trim_end_matches('/'))?;
            let within = rest.is_empty() || rest.starts_with('/');
            (mount.dev == dev && within).then_some((mount, rest))
        });
        let (mount, rest) = holding.min_by_key(|(mount, _)| mount.root.len())?;
        let joined = format!("{}{rest}", mount.point.trim_end_matches('/'));
        Some(if joined.is_empty() {
            "/".into()
        } else {
            joined.into()
        })
    }
}

/// A process's mounts as the kernel writes them, whole lines alone.
fn mountinfo(pid: u32, bytes_max: u64) -> Option<String> {
    let file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).ok()?;
    // What was cut off ends in the middle of a line.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n')?;
    Some(String::from_utf8_lossy(&bytes[..whole]).into_owned())
}

/// Each mount with the kind of its file system.
fn mounts_in(mountinfo: &str) -> impl Iterator<Item = (&str, Mount)> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (major, minor) = fields.next()?.split_once(':')?;
        let (root, point) = (fields.next()?, fields.next()?);
        let mount = Mount {
            dev: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
            root: unescape(root),
            point: unescape(point),
        };
        Some((file_system.split(' ').next()?, mount))
    })
}

/// `mountinfo` writes blank, tab, newline and backslash as octal digits.
fn unescape(field: &str) -> Text {
    let mut rest = field;
    let mut whole = String::with_capacity(field.len());
    while let Some((before, after)) = rest.split_once('\\') {
        whole.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(byte) => {
                whole.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                whole.push('\\');
                rest = after;
            }
        }
    }
    whole.push_str(rest);
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_where_the_host_has_its_file_system() {
        let mounts = Mounts::parse(
            "21 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             22 21 254:1 /home /mnt/home rw shared:1 - ext4 /dev/vda1 rw\n\
             23 21 254:2 /@ /srv rw - btrfs /dev/vdb rw\n\
             24 21 254:2 /@logs /var/log rw - btrfs /dev/vdb rw\n\
             25 21 0:40 / /run/user\\0401 rw - tmpfs tmpfs rw\n\
             26 21 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n\
             damaged\n27 21 x:y / / rw - ext4 a rw\n",
        );
        for ((major, minor), path, expected) in [
            ((254, 1), "/etc/cron.d/x", Some("/etc/cron.d/x")),
            ((254, 1), "/home/me/f", Some("/home/me/f")),
            ((254, 1), "/", Some("/")),
            ((254, 2), "/@/data", Some("/srv/data")),
            ((254, 2), "/@logs/a", Some("/var/log/a")),
            ((254, 2), "/@other/a", None),
            ((0, 40), "/bus", Some("/run/user 1/bus")),
            ((0, 50), "/etc/passwd", None),
            ((8, 1), "/etc/passwd", None),
        ] {
            let found = mounts.path_of(libc::makedev(major, minor), path);
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_path_leads_through_the_mount_that_lies_on_top() {
        let tree = Mounts::parse_all(
            "21 1 0:50 / / rw - overlay overlay rw\n\
             22 21 0:5 / /proc rw - proc proc rw\n\
             23 21 254:1 /srv/data /data rw - ext4 /dev/vda1 rw\n\
             24 21 254:1 / /mnt rw - ext4 /dev/vda1 rw\n\
             25 24 0:60 / /mnt/etc rw - tmpfs tmpfs rw\n\
             26 21 254:2 / /data rw - ext4 /dev/vdb rw\n",
        )
        .unwrap();
        for (path, major, minor, expected) in [
            ("/etc/passwd", 0, 50, "/etc/passwd"),
            ("/mnt/root/x", 254, 1, "/root/x"),
            ("/mnt", 254, 1, "/"),
            ("/mnt/etc/shadow", 0, 60, "/shadow"),
            ("/data/x", 254, 2, "/x"),
            ("/database", 0, 50, "/database"),
        ] {
            let expected = Some((libc::makedev(major, minor), expected.to_owned()));
            assert_eq!(tree.place_of(path), expected, "{path}");
        }
    }

    /// A `mountinfo` of a root, this many mounts with points of this length, and one last mount at `/new`.
    fn many(count: usize, len: usize) -> String {
        let mounts = (0..count).map(|at| format!("9 1 0:50 / /{at:0len$} rw - tmpfs tmpfs rw\n"));
        let new = "9 1 254:1 /etc /new rw - ext4 /dev/vda1 rw\n".to_owned();
        ["9 1 0:40 / / rw - overlay overlay rw\n".to_owned()]
            .into_iter()
            .chain(mounts)
            .chain([new])
            .collect()
    }

    #[test]
    fn a_tree_keeps_its_root_and_its_newest_mounts() {
        for (count, len, kept) in [(10, 1, 12), (2_000, 6, 256), (200, 1_000, 67)] {
            let tree = Mounts::parse_all(&many(count, len)).unwrap();
            assert_eq!(tree.0.len(), kept);
            assert!(tree.0.iter().map(Mount::text_bytes).sum::<usize>() <= TREE_TEXT_BYTES_MAX + 2);
            let new = Some((libc::makedev(254, 1), "/etc/x".to_owned()));
            assert_eq!(tree.place_of("/new/x"), new);
            let below_root = Some((libc::makedev(0, 40), "/x".to_owned()));
            assert_eq!(tree.place_of("/x"), below_root);
        }
    }

    #[test]
    fn a_root_within_the_tree_tells_nothing_of_the_tree() {
        let inside = "22 21 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(Mounts::parse_all(inside), None);
    }

    #[test]
    fn octal_digits_are_read_back() {
        assert_eq!(&*unescape("a\\040b\\134c\\011"), "a b\\c\t");
        assert_eq!(&*unescape("a\\9\\"), "a\\9\\");
    }
}
