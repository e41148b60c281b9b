//! Names of users and groups, from a container's own databases.
//!
//! Uid 1000 of a container is whoever the container's `/etc/passwd` says, not the host's user of that number.
//! The files belong to the container and are not trusted: paths are resolved by the kernel inside the container's root
//! (`openat2` with `RESOLVE_IN_ROOT`), only regular files are read, and both size and number of entries are bounded.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

/// Bytes read of each file at most.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Entries kept of each file at most.
const ENTRIES_MAX: usize = 4_096;

/// User and group names of one container, or of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Users {
    /// Names by uid.
    pub users: BTreeMap<u32, Text>,
    /// Names by gid.
    pub groups: BTreeMap<u32, Text>,
}

impl Users {
    /// Parses the two databases.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: entries(passwd),
            groups: entries(group),
        }
    }

    /// Reads the databases below a process's root, if that root is in the mount namespace `mnt_ns`.
    ///
    /// Returns `None` when the process is gone, is another one by now, or has no databases.
    pub fn read(pid: u32, mnt_ns: u32) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let root = File::open(process.join("root")).ok()?;
        // Checked after the root is open: a pid used again, or not yet inside its container, is not believed.
        let namespace = std::fs::metadata(process.join("ns/mnt")).ok()?.ino();
        if namespace != u64::from(mnt_ns) {
            return None;
        }
        let passwd = read_in_root(&root, c"etc/passwd")?;
        let group = read_in_root(&root, c"etc/group").unwrap_or_default();
        Some(Self::parse(&passwd, &group))
    }
}

/// `name:password:id:…` a line; the first name of an id wins, as in the C library.
fn entries(database: &str) -> BTreeMap<u32, Text> {
    let mut names = BTreeMap::new();
    for line in database.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(id) = id.parse::<u32>() else { continue };
        if names.len() < ENTRIES_MAX && !name.is_empty() && name.len() <= 64 {
            names.entry(id).or_insert_with(|| Text::from(name));
        }
    }
    names
}

/// `struct open_how` of `openat2`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Links are followed as the container would follow them, never out of its root.
const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

fn read_in_root(root: &File, path: &CStr) -> Option<String> {
    // A pipe in place of the file must not block the sensor.
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
    let how = OpenHow {
        flags,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    // SAFETY: the descriptor is open, the path ends with NUL, `how` is a valid open_how of the size given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd as i32) };
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
        );
        assert_eq!(
            users.users,
            BTreeMap::from([(0, "root".into()), (1000, "app".into())])
        );
        assert_eq!(users.groups, BTreeMap::from([(10, "wheel".into())]));
    }

    #[test]
    fn entries_are_bounded() {
        let many: String = (0..10_000).map(|id| format!("u{id}:x:{id}:\n")).collect();
        assert_eq!(entries(&many).len(), ENTRIES_MAX);
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
        assert_eq!(read_in_root(&root, c"etc/passwd"), None);
        std::fs::write(inside.path().join("etc/group"), "root:x:0:").unwrap();
        assert_eq!(
            read_in_root(&root, c"etc/group").as_deref(),
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
            read_in_root(&File::open(inside.path()).unwrap(), c"fifo"),
            None
        );
    }
}
