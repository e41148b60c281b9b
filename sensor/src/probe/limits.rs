//! Limits of this process that a start raises as far as it may.

use super::ProbeError;

/// Maps, programs, links, what is read of `/proc`, and the connections to some brokers.
const FILES_MIN: u64 = 256;
/// What a process has by default where nobody says otherwise.
const FILES_WANTED: u64 = 1024;

/// What helps where only `limit` files may be open.
pub(super) fn too_few_open_files(limit: u64) -> String {
    format!(
        "this process may have {limit} files open and needs {FILES_MIN}: raise the limit (ulimit -n {FILES_WANTED}; \
         LimitNOFILE={FILES_WANTED} in a systemd unit; `ulimits: nofile: {FILES_WANTED}` in a Compose file), or give it \
         CAP_SYS_RESOURCE"
    )
}

/// Raises the limit of open files where it is low: to what is allowed, or beyond with `CAP_SYS_RESOURCE`.
///
/// # Errors
/// When it stays too low. What fails for want of a descriptor later says less.
pub(crate) fn raise_open_files() -> Result<(), ProbeError> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE);
    if limit.rlim_cur < FILES_WANTED {
        let raised = |max: u64| libc::rlimit {
            rlim_cur: FILES_WANTED.min(max),
            rlim_max: max,
        };
        let beyond = limit.rlim_max.max(FILES_WANTED);
        if !set(libc::RLIMIT_NOFILE, &raised(beyond)) {
            set(libc::RLIMIT_NOFILE, &raised(limit.rlim_max));
        }
        limit = limit_of(libc::RLIMIT_NOFILE);
    }
    if limit.rlim_cur < FILES_MIN {
        return Err(ProbeError::OpenFiles {
            limit: limit.rlim_cur,
        });
    }
    Ok(())
}

/// Kernels before 5.11 count maps as locked memory. Where it may not be raised, loading says what was refused.
pub(super) fn raise_locked_memory_limit() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    set(libc::RLIMIT_MEMLOCK, &unlimited);
}

fn limit_of(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a plain system call that fills the struct.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

fn set(resource: libc::__rlimit_resource_t, limit: &libc::rlimit) -> bool {
    // SAFETY: a plain system call that reads the struct.
    unsafe { libc::setrlimit(resource, limit) == 0 }
}
