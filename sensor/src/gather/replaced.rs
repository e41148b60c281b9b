//! Which records tell that a user database, or the tree of mounts, is another one now.

use dogwatch_ebpf::record::{Called, Value};

/// Calls that put a file, or a link to one, where another was.
const REPLACE: [&str; 11] = [
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mount",
    "move_mount",
    "umount",
    "umount2",
];

/// Calls after which the host's mounts may be others.
const MOUNT: [&str; 5] = ["mount", "move_mount", "umount", "umount2", "pivot_root"];

/// Whether a call may have changed mounts.
pub(super) fn changes_mounts(called: &Called) -> bool {
    MOUNT.contains(&called.call.name)
}

/// Whether a path is one of the user databases, or a new version on its way to replace one (`/etc/passwd+`).
pub(super) fn is_database(path: &[u8]) -> bool {
    path.starts_with(b"/etc/passwd") || path.starts_with(b"/etc/group")
}

/// Whether a call that succeeded may have replaced a database. By the last word of its paths alone: links and `..` in them
/// are not resolved, and reading once in vain costs little.
pub(super) fn replaces_database(called: &Called) -> bool {
    let named = |path: &[u8]| {
        let name = path.rsplit(|byte| *byte == b'/').next();
        matches!(name, Some(b"passwd" | b"group"))
    };
    called.header.ret >= 0
        && REPLACE.contains(&called.call.name)
        && called
            .values
            .iter()
            .any(|(_, value)| matches!(value, Value::Path { raw, .. } if named(raw)))
}
