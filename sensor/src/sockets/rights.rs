//! What the process that asks sockets gives up, and the system calls that are left to it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use caps::{CapSet, Capability};

use crate::container::Socket;
use crate::probe::{Programs, allow_only, has, refuse_calls};

/// Nobody's, on every distribution.
const NOBODY: u32 = 65_534;

/// All that asking takes: memory, time, and sockets of this host. No file can be opened.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Gives up the user id where the sockets can be reached without it, all capabilities, and the way to new ones.
///
/// # Errors
/// Fails where the kernel refuses; the process must end then.
pub(super) fn give_up(sockets: &[Socket]) -> io::Result<()> {
    if has(Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            // Newer than this kernel, perhaps.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    if has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID) {
        let reachable = sockets.iter().all(|socket| groups_reach(&socket.path));
        become_nobody(sockets, reachable)?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    // SAFETY: plain calls without pointers.
    let refused = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0;
    if refused {
        return Err(io::Error::last_os_error());
    }
    // Who has the same user, and nothing more, shall not get its connections.
    // SAFETY: as above.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Copies of its memory would have labels in them, and answers.
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit lives until then.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    refuse_calls(Programs::Refused).map_err(io::Error::other)
}

/// Leaves [`CALLS`] alone.
///
/// # Errors
/// As [`give_up`].
pub(super) fn leave_calls_alone() -> io::Result<()> {
    let own = u64::from(u32::MAX);
    let executable = libc::PROT_EXEC as u64;
    let conditional = [
        (libc::SYS_socket, 0, own, libc::AF_UNIX as u64),
        // No memory becomes a program.
        (libc::SYS_mmap, 2, executable, 0),
        (libc::SYS_mprotect, 2, executable, 0),
        // It may end itself, and nobody else of its user.
        (libc::SYS_tgkill, 0, own, u64::from(std::process::id())),
        (libc::SYS_ioctl, 1, own, libc::FIONBIO),
    ];
    allow_only(CALLS, &conditional).map_err(io::Error::other)
}

/// Whether members of the socket's group may connect; of one that is not there yet nobody knows.
pub(super) fn groups_reach(path: &Path) -> bool {
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_SEARCH: u32 = 0o001;
    let searched = path.ancestors().skip(1);
    let may_search = searched
        .filter_map(|folder| folder.metadata().ok())
        .all(|folder| folder.mode() & OTHERS_SEARCH != 0);
    let socket = path.metadata();
    may_search && socket.is_ok_and(|socket| socket.mode() & GROUP_WRITES != 0)
}

/// Becomes a user who owns nothing, in the sockets' groups; where these do not reach, only the groups go.
fn become_nobody(sockets: &[Socket], reachable: bool) -> io::Result<()> {
    let owner = |socket: &Socket| socket.path.metadata().map_or(0, |socket| socket.gid());
    let groups: Vec<libc::gid_t> = sockets.iter().map(owner).collect();
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the list lives until then.
    done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    if reachable {
        // SAFETY: plain calls without pointers.
        done(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
        // SAFETY: as above.
        done(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })?;
    }
    Ok(())
}
