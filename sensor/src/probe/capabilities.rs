//! Capabilities: what loading needs, what stays afterwards and why, and giving up the rest.

use std::collections::HashSet;

use caps::{CapSet, Capability};

use super::ProbeError;

/// What stays after loading, with what it reads, for `check` and the documentation.
pub const KEPT: [(Capability, &str); 2] = [
    (
        Capability::CAP_SYS_PTRACE,
        "exe, cwd and root of other users' processes in /proc",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "container metadata and user databases that only their owners may read",
    ),
];

/// Names of the capabilities that loading needs and the process does not have; empty when it may load.
pub(crate) fn missing_to_load() -> Vec<&'static str> {
    if has(Capability::CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [
        (Capability::CAP_BPF, "CAP_BPF"),
        (Capability::CAP_PERFMON, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter(|(capability, _)| !has(*capability))
    .map(|(_, name)| name)
    .collect()
}

/// True when the calling thread has the capability now.
pub(crate) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Gives up all capabilities of the calling thread but [`KEPT`], and the way to new ones. Call it after loading and
/// before other threads start: they inherit what is left, those that run already keep theirs.
///
/// Kernels before 5.19 ask for CAP_BPF (or CAP_SYS_ADMIN) at every access to a map; there it stays as well.
///
/// # Errors
/// When the kernel refuses; the process then still has what it had.
pub fn drop_capabilities() -> Result<(), ProbeError> {
    let had = read(CapSet::Permitted)?;
    let mut keep: HashSet<Capability> = KEPT.iter().map(|(capability, _)| *capability).collect();
    if super::kernel_version() < (5, 19) {
        keep.insert(if had.contains(&Capability::CAP_BPF) {
            Capability::CAP_BPF
        } else {
            Capability::CAP_SYS_ADMIN
        });
    }
    let keep = &keep & &had;
    if had.contains(&Capability::CAP_SETPCAP) {
        let bounding = read(CapSet::Bounding)?;
        for capability in bounding.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(refused)?;
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::set(None, CapSet::Effective, &keep).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(refused)?;
    // SAFETY: a plain system call without pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(ProbeError::Capabilities(
            std::io::Error::last_os_error().to_string(),
        ));
    }
    Ok(())
}

fn read(set: CapSet) -> Result<HashSet<Capability>, ProbeError> {
    caps::read(None, set).map_err(refused)
}

fn refused(error: caps::errors::CapsError) -> ProbeError {
    ProbeError::Capabilities(error.to_string())
}
