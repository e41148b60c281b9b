//! Mounts of the host: where on the host a file lies, whatever tree of mounts it was reached through.
//!
//! ```text
//! the file's device 254:1, its path in its own file system /etc/cron.d/x
//! the host's mountinfo: 254:1 with the root / at /          ──► /etc/cron.d/x
//! ```

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use crate::host::HOST_PIDS;

/// Bytes read of a process's mounts at most.
const FILE_BYTES_MAX: u64 = 4 << 20;

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

/// See the module's description.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostMounts(Vec<Mount>);

impl HostMounts {
    /// Reads them of a process that is in the host's mount namespace.
    pub(crate) fn read(host_mnt_ns: u32) -> Option<Self> {
        HOST_PIDS.into_iter().find_map(|pid| {
            let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino();
            if namespace != u64::from(host_mnt_ns) {
                return None;
            }
            let file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
            // What was cut off ends in the middle of a line.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n')?;
            Some(Self::parse(&String::from_utf8_lossy(&bytes[..whole])))
        })
    }

    /// From `/proc/PID/mountinfo`: `id parent major:minor root mount-point options … - type source options`.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(2);
            let (major, minor) = fields.next()?.split_once(':')?;
            let (root, point) = (fields.next()?, fields.next()?);
            let kind = file_system.split(' ').next()?;
            if PASSED_OVER.contains(&kind) && point != "/" {
                return None;
            }
            Some(Mount {
                dev: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
                root: unescape(root),
                point: unescape(point),
            })
        });
        Self(mounts.take(MOUNTS_MAX).collect())
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
        let mounts = HostMounts::parse(
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
    fn octal_digits_are_read_back() {
        assert_eq!(&*unescape("a\\040b\\134c\\011"), "a b\\c\t");
        assert_eq!(&*unescape("a\\9\\"), "a\\9\\");
    }
}
