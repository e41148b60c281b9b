//! How much memory this process may take: what its cgroup or its machine has, less what is not for states.
//!
//! Nothing is lowered by it: caps are the same on every processor, or results would depend on who holds a task. It is compared with
//! what the caps allow, and said. Near the real limit no more tasks are begun, which changes no result.

use std::fs;
use std::path::Path;

/// The part of the limit that states may take, per cent: the rest is for queries, queues, the client and the allocator.
const PER_CENT: u64 = 60;
/// The part of the limit beyond which no more tasks are begun, per cent.
const FULL_PER_CENT: u64 = 85;
/// And so many bytes of it are left in any case: what taking a task over takes on its way.
const FULL_BESIDE: u64 = 96 << 20;
/// A limit of cgroup v1 beyond this is none.
const NO_LIMIT: u64 = 1 << 60;

/// The bytes that states may take: those of the configuration, or a part of the limit that holds here.
pub fn bytes(configured: u64) -> Option<u64> {
    if configured > 0 {
        return Some(configured);
    }
    Some(limit_here()? / 100 * PER_CENT)
}

/// The bytes that are left for more tasks, as far as it is known. Where none are, `trims` is asked whether the allocator is to
/// give back what it keeps, which takes its time.
pub fn room(trims: impl FnOnce() -> bool) -> Option<u64> {
    let full = full(limit_here()?);
    let room = full.saturating_sub(resident_here()?);
    if room > 0 || !trims() {
        return Some(room);
    }
    // SAFETY: the call takes no pointer, and gives free pages back only.
    unsafe { libc::malloc_trim(0) };
    Some(full.saturating_sub(resident_here()?))
}

/// How much of a limit may be taken before no more tasks are begun.
fn full(limit: u64) -> u64 {
    (limit / 100 * FULL_PER_CENT).min(limit.saturating_sub(FULL_BESIDE))
}

/// The limit of this process.
fn limit_here() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = cgroup_files(&cgroups).into_iter();
    let limits = limits.filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    limits.chain(kib_of(&meminfo, "MemTotal:")).min()
}

/// What this process has of it.
fn resident_here() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// What a process has that cannot be read again from files, as its program can.
fn resident(status: &str) -> Option<u64> {
    let parts = ["RssAnon:", "RssShmem:"].map(|name| kib_of(status, name));
    parts.into_iter().sum()
}

/// The bytes of a line that names KiB, as of `/proc/meminfo`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

fn limit(text: &str) -> Option<u64> {
    let limit = text.trim().parse().ok()?;
    (limit < NO_LIMIT).then_some(limit)
}

/// The files that may hold a limit of a process in these cgroups: of its own and of all above it, of both versions.
fn cgroup_files(cgroups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(own)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            of if of.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let above = Path::new(own).ancestors();
        files.extend(above.map(|above| format!("{root}{}/{file}", plain(above))));
    }
    files
}

/// A path below a root, without the slash that ends the topmost one.
fn plain(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_cgroup_and_all_above_it() {
        assert_eq!(
            cgroup_files("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        let first = "7:cpu,cpuacct:/x\n4:memory:/docker/1\n1:name=systemd:/y\nnoise\n";
        let files = cgroup_files(first);
        assert_eq!(files.len(), 3);
        assert_eq!(
            files[0],
            "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes"
        );
        assert_eq!(cgroup_files(""), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_limit_is_none() {
        assert_eq!(limit("2147483648\n"), Some(2 << 30));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(
            kib_of("MemFree: 1 kB\nMemTotal:       2048 kB\n", "MemTotal:"),
            Some(2 << 20)
        );
        assert_eq!(kib_of("", "MemTotal:"), None);
        assert_eq!(bytes(7), Some(7));
        assert!(bytes(0).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(full(2 << 30), (2 << 30) / 100 * 85);
        assert_eq!((full(256 << 20), full(64 << 20)), (160 << 20, 0));
        // A test has far less than a machine.
        assert!(room(|| true).is_some_and(|room| room > 1 << 20));
        let status = "VmRSS:\t9 kB\nRssAnon:\t 3 kB\nRssFile:\t 4 kB\nRssShmem:\t 2 kB\n";
        assert_eq!(resident(status), Some(5 << 10));
        assert_eq!(resident("VmRSS:\t9 kB\n"), None);
        assert!(resident_here().is_some());
    }
}
