//! Runs that the kernel skipped: a program is not started on a CPU on which it already runs.
//!
//! The kernel counts them in `bpf_prog_info.recursion_misses` (from 5.12 on; before, the field is not filled and nothing is
//! counted). A skipped run would not always have sent a record: the count says at most how many are missing.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::Ebpf;
use aya::programs::Program;

/// Number of the command `BPF_OBJ_GET_INFO_BY_FD` of bpf(2).
const OBJECT_INFO: libc::c_long = 15;
/// Where `recursion_misses` lies in `struct bpf_prog_info` (include/uapi/linux/bpf.h), which only ever grows at its end.
const MISSES_OFFSET: usize = 208;
const INFO_BYTES: usize = MISSES_OFFSET + size_of::<u64>();

/// Programs and the kind of record they send; the one of all system calls sends several.
const SENDS: [(&str, &str); 8] = [
    ("on_exec", "exec"),
    ("on_fork", "fork"),
    ("on_exit", "exit"),
    ("on_sys_exit", "any"),
    // It only notes what the one of all calls tells.
    ("on_tcp_state", "any"),
    ("on_cgroup_mkdir", "cgroup"),
    ("on_cgroup_rmdir", "cgroup"),
    ("on_cgroup_attach_task", "cgroup_move"),
];

/// `union bpf_attr` for [`OBJECT_INFO`].
#[repr(C)]
struct Attributes {
    descriptor: u32,
    info_bytes: u32,
    info: u64,
}

/// Skipped runs of all programs since they were loaded, by kind of record.
pub(super) fn count(programs: &Ebpf) -> BTreeMap<&'static str, u64> {
    let mut missed = BTreeMap::new();
    for (name, kind) in SENDS {
        let runs = programs.program(name).and_then(skipped_runs);
        *missed.entry(kind).or_default() += runs.unwrap_or_default();
    }
    missed
}

fn skipped_runs(program: &Program) -> Option<u64> {
    let descriptor = program.fd().ok()?;
    recursion_misses(descriptor.as_fd())
}

fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0u64; INFO_BYTES / 8];
    let mut attributes = Attributes {
        descriptor: program.as_raw_fd() as u32,
        info_bytes: INFO_BYTES as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `info_bytes` to `info` and the size it has into `attributes`; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJECT_INFO,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let filled = result == 0 && attributes.info_bytes as usize >= INFO_BYTES;
    filled.then(|| info[MISSES_OFFSET / 8])
}

#[cfg(test)]
mod tests {
    use dogwatch_ebpf::control::Kind;

    use super::*;

    #[test]
    fn every_kind_is_one_that_records_have_or_any() {
        for (program, kind) in SENDS {
            let known = Kind::ALL.iter().any(|one| one.name() == kind);
            assert!(known || kind == "any", "{program}: {kind}");
        }
        let hooks: Vec<_> = super::super::HOOKS.iter().map(|(name, _)| *name).collect();
        assert_eq!(hooks, SENDS.map(|(name, _)| name));
    }
}
