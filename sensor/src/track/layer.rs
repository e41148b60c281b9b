//! Where a file lies: in the image, written since, outside of both, in memory, or in the kernel itself.

use dogwatch_ebpf::record::FileIdentity;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
const RAMFS_MAGIC: u64 = 0x8584_58f6;
const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;

/// File systems that hold no data of anybody's: reading them asks the kernel, writing to them tells it to do something.
const KERNEL: [u64; 22] = [
    PIPEFS_MAGIC,
    SOCKFS_MAGIC,
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1980_0202, // mqueue
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x0904_1934, // anonymous inodes
    0x6e73_6673, // namespaces
    0x5049_4446, // pidfs
    0xf97c_ff8c, // selinux
    0x4249_4e4d, // binfmt_misc
    0x6265_6570, // configfs
    0x5345_434d, // secretmem
    0x0765_5821, // resctrl
];

/// Whether the file has no path: a pipe or a socket, which are in no folder.
pub(super) fn has_no_path(fs_magic: u64) -> bool {
    [PIPEFS_MAGIC, SOCKFS_MAGIC].contains(&fs_magic)
}

/// A file of memory alone that never had a name in a folder (`memfd_create`).
pub(super) fn is_memfd(file: &FileIdentity, path: &str) -> bool {
    // The kernel names such files `memfd:<name>`.
    let name = path.strip_prefix('/').unwrap_or(path);
    [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&file.fs_magic)
        && file.nlink == 0
        && name.starts_with("memfd:")
}

/// `fd_from` as far as the file's own file system tells it; mounts of a container are told by who knows the container.
pub(super) fn of(file: &FileIdentity, path: &str) -> Option<&'static str> {
    if is_memfd(file, path) {
        return Some("memfd");
    }
    match file.fs_magic {
        OVERLAYFS_MAGIC if file.overlay_upper => Some("upper"),
        OVERLAYFS_MAGIC => Some("image"),
        TMPFS_MAGIC | HUGETLBFS_MAGIC | RAMFS_MAGIC => Some("memory"),
        magic if KERNEL.contains(&magic) => Some("kernel"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_tells_where_its_files_are() {
        let file = |fs_magic, nlink, overlay_upper| FileIdentity {
            fs_magic,
            nlink,
            overlay_upper,
            ..FileIdentity::default()
        };
        for (file, path, expected) in [
            (file(OVERLAYFS_MAGIC, 1, false), "/bin/sh", Some("image")),
            (file(OVERLAYFS_MAGIC, 1, true), "/tmp/x", Some("upper")),
            (file(TMPFS_MAGIC, 0, false), "/memfd:x", Some("memfd")),
            (file(TMPFS_MAGIC, 1, false), "/memfd:x", Some("memory")),
            (file(TMPFS_MAGIC, 0, false), "/dev/shm/x", Some("memory")),
            (file(0x9fa0, 1, false), "/proc/1/mem", Some("kernel")),
            (file(PIPEFS_MAGIC, 1, false), "/", Some("kernel")),
            (file(0xef53, 1, false), "/data/x", None),
        ] {
            assert_eq!(of(&file, path), expected, "{path}");
        }
    }
}
