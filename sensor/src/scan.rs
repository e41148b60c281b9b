//! The start-up scan: every process that runs already, from `/proc`.
//!
//! It runs after the probes are attached and before the first record is handed on:
//! what starts meanwhile is in both, and is merged by its pid and start.
//! A host may have more processes than fit into memory with their arguments, so they are read in pieces.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::fact::Running;
use crate::host::HOST_PIDS;
use crate::probe::Hierarchy;

/// Arguments kept of each process, bytes.
const ARGV_BYTES_MAX: u64 = 4_096;

/// Every process but this one, in the order of their starts: parents come before their children.
pub(crate) fn pids() -> Vec<u32> {
    let Ok(folder) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own_pid = std::process::id();
    let mut found: Vec<(u64, u32)> = folder
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != own_pid)
        .filter_map(|pid| {
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((parse_stat(&stat)?.start_ticks, pid))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// Reads these processes; one that has ended is not running any more.
pub(crate) fn processes(pids: &[u32], hierarchy: &Hierarchy) -> Vec<Running> {
    let found = pids.iter().filter_map(|&pid| process(pid, hierarchy));
    found.collect()
}

/// A process by its program, arguments and working directory.
pub(crate) struct CommandLine {
    pub uid: u32,
    pub program: Vec<u8>,
    pub argv: Vec<u8>,
    pub cwd: Vec<u8>,
}

/// Every process whose name begins with one of these words.
pub(crate) fn named(words: &[&str]) -> Vec<CommandLine> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_number))
        .filter_map(|entry| {
            let folder = entry.path();
            let comm = read_start(&folder.join("comm"), 64)?;
            let wanted = words.iter().any(|word| comm.starts_with(word.as_bytes()));
            wanted.then(|| command_line(&folder)).flatten()
        })
        .collect()
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

fn command_line(folder: &Path) -> Option<CommandLine> {
    let argv = read_start(&folder.join("cmdline"), ARGV_BYTES_MAX)?;
    let first = argv.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(CommandLine {
        uid: fs::metadata(folder).ok()?.uid(),
        program: link(&folder.join("exe")).unwrap_or_else(|| first.to_vec()),
        cwd: link(&folder.join("cwd"))?,
        argv,
    })
}

/// The cgroup of the calling process.
pub(crate) fn own_cgroup_id(hierarchy: &Hierarchy) -> Option<u64> {
    cgroup_id(Path::new("/proc/self"), hierarchy)
}

fn process(pid: u32, hierarchy: &Hierarchy) -> Option<Running> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let mut running = parse_stat(&fs::read(folder.join("stat")).ok()?)?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    (running.uid, running.gid, running.vpid) = parse_status(&status)?;
    running.pid = pid;
    running.inner_uid = read_mapped(&folder.join("uid_map"), running.uid);
    running.inner_gid = read_mapped(&folder.join("gid_map"), running.gid);
    running.login_uid = read_number(&folder.join("loginuid")).filter(|&uid| uid != u32::MAX);
    running.mnt_ns = namespace(&folder, "mnt");
    running.pid_ns = namespace(&folder, "pid");
    // No cgroup has this id: where the process is stays unknown.
    running.cgroup_id = cgroup_id(&folder, hierarchy).unwrap_or(0);
    running.exe = link(&folder.join("exe"));
    running.cwd = link(&folder.join("cwd"));
    running.argv = read_start(&folder.join("cmdline"), ARGV_BYTES_MAX).unwrap_or_default();
    running.stdio = [0, 1, 2].map(|fd| link(&folder.join("fd").join(fd.to_string())));
    Some(running)
}

/// The inode of a process's namespace.
pub(crate) fn namespace(folder: &Path, kind: &str) -> Option<u32> {
    Some(fs::metadata(folder.join("ns").join(kind)).ok()?.ino() as u32)
}

/// The first bytes of a file of any size.
fn read_start(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(bytes_max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn link(path: &Path) -> Option<Vec<u8>> {
    Some(fs::read_link(path).ok()?.into_os_string().into_vec())
}

fn read_number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `pid (comm) state ppid pgrp session tty_nr … starttime`; comm may hold blanks and parentheses.
fn parse_stat(stat: &[u8]) -> Option<Running> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let comm = stat.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Running {
        parent_pid: number(1)? as u32,
        pgid: number(2)? as u32,
        sid: number(3)? as u32,
        tty: fields.get(4)?.parse::<i32>().ok()? as u32,
        start_ticks: number(19)?,
        comm,
        ..Running::default()
    })
}

/// Effective uid and gid, and the process id in its own namespace.
fn parse_status(status: &str) -> Option<(u32, u32, u32)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = |line: &str| line.split_ascii_whitespace().nth(1)?.parse().ok();
    let vpid = field("NSpid:")?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()?;
    Some((effective(field("Uid:")?)?, effective(field("Gid:")?)?, vpid))
}

fn read_mapped(map: &Path, host_id: u32) -> Option<u32> {
    mapped(&fs::read_to_string(map).ok()?, host_id)
}

/// Translates an id of the host through a `uid_map`: lines of inner start, outer start, count.
fn mapped(map: &str, host_id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line
            .split_ascii_whitespace()
            .map(|number| number.parse::<u32>().ok());
        let (inner, outer, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = host_id
            .checked_sub(outer)
            .filter(|&offset| offset < count)?;
        inner.checked_add(offset)
    })
}

fn cgroup_path(folder: &Path, hierarchy: &Hierarchy) -> Option<String> {
    let cgroups = fs::read_to_string(folder.join("cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| hierarchy.path_in(line))?;
    Some(path.to_owned())
}

/// A process that is shielded like a container's and is in no container's cgroup.
pub(crate) struct Unrecognised {
    pub pid: u32,
    pub cgroup: String,
}

/// All processes in pid and mount namespaces that are not the host's, whose cgroup names no container.
pub(crate) fn unrecognised(
    hierarchy: &Hierarchy,
    mut is_container: impl FnMut(&str) -> bool,
) -> Vec<Unrecognised> {
    let of_host = |kind| {
        HOST_PIDS
            .into_iter()
            .find_map(|pid| namespace(&PathBuf::from(format!("/proc/{pid}")), kind))
    };
    let (Some(host_pid_ns), Some(host_mnt_ns)) = (of_host("pid"), of_host("mnt")) else {
        return Vec::new();
    };
    let shielded = |folder: &Path| {
        namespace(folder, "pid").is_some_and(|ns| ns != host_pid_ns)
            && namespace(folder, "mnt").is_some_and(|ns| ns != host_mnt_ns)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let cgroup = cgroup_path(&folder, hierarchy).filter(|path| !is_container(path))?;
            shielded(&folder).then_some(Unrecognised { pid, cgroup })
        })
        .collect()
}

fn cgroup_id(folder: &Path, hierarchy: &Hierarchy) -> Option<u64> {
    let path = cgroup_path(folder, hierarchy)?;
    Some(
        fs::metadata(hierarchy.mount.join(path.trim_start_matches('/')))
            .ok()?
            .ino(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_may_hold_anything() {
        let stat = b"42 (a) b (c) S 7 42 6 34816 42 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        let running = parse_stat(stat).unwrap();
        assert_eq!(
            (
                running.comm.as_slice(),
                running.parent_pid,
                running.pgid,
                running.sid
            ),
            (&b"a) b (c"[..], 7, 42, 6)
        );
        assert_eq!((running.tty, running.start_ticks), (34816, 12345));
    }

    #[test]
    fn the_effective_ids_and_the_innermost_pid_are_taken() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t900\t12\t1\n";
        assert_eq!(parse_status(status), Some((2, 6, 1)));
    }

    #[test]
    fn ids_are_translated_through_the_map() {
        let map = "         0     100000      65536\n     70000 300000 1\n";
        assert_eq!(mapped(map, 101_000), Some(1_000));
        assert_eq!(mapped(map, 300_000), Some(70_000));
        assert_eq!(mapped(map, 0), None);
    }
}
