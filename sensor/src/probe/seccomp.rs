//! System calls that are refused once the kernel part is loaded: what a sensor never does, and an intruder in it would.
//!
//! A filter belongs to a thread and to all threads and programs that it starts; it cannot be taken off. It looks at
//! numbers, never at memory. What is refused fails with EPERM; `clone3` with ENOSYS, because its flags lie in memory and the
//! C library then uses `clone`, whose flags can be looked at.
//!
//! It is no sandbox: files can still be read and written as the user id allows. `docs/security.md` says what stays open.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::ProbeError;

/// Whether programs may be started afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// No.
    Refused,
    /// Yes: librdkafka renews Kerberos tickets by starting `kinit`.
    Allowed,
}

/// Starting programs.
const STARTS: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// Refused whatever the arguments.
const REFUSED: [libc::c_long; 40] = [
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Files around the permissions of their folders.
    libc::SYS_open_by_handle_at,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Its operations pass by this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Taking more rights where somebody left a way.
    libc::SYS_personality,
    libc::SYS_capset,
];

/// Commands of bpf(2) that stay: elements of maps, links, iterators, and information on a descriptor at hand.
const BPF_ALLOWED: [u64; 13] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    15, // BPF_OBJ_GET_INFO_BY_FD
    21, // BPF_MAP_LOOKUP_AND_DELETE_ELEM
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE
    33, // BPF_ITER_CREATE
    34, // BPF_LINK_DETACH
];

/// A process in a new user namespace has all capabilities there.
const CLONE_NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    0x80, // CLONE_NEWTIME
];

/// Puts the filter on the calling thread; those it starts from now on have it, too.
///
/// # Errors
/// When the kernel has no seccomp filters, or refuses this one.
pub fn refuse_calls(programs: Programs) -> Result<(), ProbeError> {
    let filter = filter(programs).map_err(|error| ProbeError::Seccomp(error.to_string()))?;
    apply_filter(&filter).map_err(|error| ProbeError::Seccomp(error.to_string()))
}

/// Leaves the calling thread these calls alone, and some where bits of an argument (call, its index, bits, their value) are as
/// stated. All others fail with EPERM.
///
/// # Errors
/// As [`refuse_calls`].
pub(crate) fn allow_only(
    calls: &[libc::c_long],
    conditional: &[(libc::c_long, u8, u64, u64)],
) -> Result<(), ProbeError> {
    let filter = allowed(calls, conditional);
    let filter = filter.map_err(|error| ProbeError::Seccomp(error.to_string()))?;
    apply_filter(&filter).map_err(|error| ProbeError::Seccomp(error.to_string()))
}

fn allowed(
    calls: &[libc::c_long],
    conditional: &[(libc::c_long, u8, u64, u64)],
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.iter().map(|call| (*call, Vec::new())).collect();
    for (call, argument, bits, value) in conditional {
        let operator = SeccompCmpOp::MaskedEq(*bits);
        let condition =
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator, *value)?;
        rules.insert(*call, vec![SeccompRule::new(vec![condition])?]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    BpfProgram::try_from(filter)
}

fn filter(programs: Programs) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    if programs == Programs::Refused {
        rules.extend(STARTS.map(|call| (call, Vec::new())));
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_kexec_file_load, Vec::new());
    let none_of_them: Result<Vec<_>, _> = BPF_ALLOWED
        .into_iter()
        .map(|command| first_argument(SeccompCmpOp::Ne, command))
        .collect();
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(none_of_them?)?]);
    let namespaces: Result<Vec<_>, _> = CLONE_NAMESPACES
        .into_iter()
        .map(|flag| {
            let flag = flag as u64;
            let set = first_argument(SeccompCmpOp::MaskedEq(flag), flag)?;
            SeccompRule::new(vec![set])
        })
        .collect();
    rules.insert(libc::SYS_clone, namespaces?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let mut program = by_number();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

fn first_argument(
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
}

/// What stands before the rules: `clone3`, and the calls of x32, which have numbers of their own under the same
/// architecture.
fn by_number() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32_BIT: u32 = 0x4000_0000;
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    vec![
        // The first word of seccomp_data is the number.
        instruction(LOAD_WORD, 0, 0),
        instruction(IF_EQUAL, 1, libc::SYS_clone3 as u32),
        instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        instruction(IF_AT_LEAST, 1, X32_BIT),
        instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a call with these arguments, 0 when there is none.
    fn attempt(call: libc::c_long, arguments: [libc::c_long; 4]) -> i32 {
        let [a, b, c, d] = arguments;
        // SAFETY: the kernel checks all addresses; none given here is valid.
        let result = unsafe { libc::syscall(call, a, b, c, d) };
        if result >= 0 {
            return 0;
        }
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }

    fn under(programs: Programs, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let confined = scope.spawn(move || {
                refuse_calls(programs).unwrap();
                test();
            });
            confined.join().unwrap();
        });
    }

    #[test]
    fn what_is_refused_fails_whatever_the_arguments() {
        under(Programs::Refused, || {
            for call in REFUSED.into_iter().chain(STARTS) {
                assert_eq!(attempt(call, [0, 0, 0, 0]), libc::EPERM, "call {call}");
                assert_eq!(attempt(call, [-1, -1, -1, -1]), libc::EPERM, "call {call}");
            }
        });
    }

    #[test]
    fn no_program_can_be_started_unless_allowed() {
        let start = || std::process::Command::new("/bin/true").status();
        under(Programs::Refused, move || {
            let refused = start().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        });
        under(Programs::Allowed, move || {
            assert!(start().unwrap().success());
        });
    }

    #[test]
    fn of_bpf_only_elements_links_and_iterators_stay() {
        under(Programs::Refused, || {
            for command in 0..64 {
                let error = attempt(libc::SYS_bpf, [command, 0, 0, 0]);
                let allowed = BPF_ALLOWED.contains(&(command as u64));
                // What is allowed fails for its arguments, or because this test is not root.
                if !allowed {
                    assert_eq!(error, libc::EPERM, "command {command}");
                }
            }
        });
    }

    #[test]
    fn new_namespaces_and_x32_are_refused_and_threads_are_not() {
        under(Programs::Refused, || {
            for flag in CLONE_NAMESPACES {
                let flags = libc::c_long::from(flag) | libc::c_long::from(libc::SIGCHLD);
                assert_eq!(attempt(libc::SYS_clone, [flags, 0, 0, 0]), libc::EPERM);
            }
            assert_eq!(attempt(libc::SYS_clone3, [0, 0, 0, 0]), libc::ENOSYS);
            #[cfg(target_arch = "x86_64")]
            assert_eq!(attempt(0x4000_0000 | 521, [0, 0, 0, 0]), libc::EPERM);
            let sum = std::thread::spawn(|| 1 + 1).join().unwrap();
            assert_eq!(sum, 2);
        });
    }

    #[test]
    fn what_is_not_allowed_by_name_and_argument_fails() {
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                let calls = [
                    libc::SYS_write,
                    libc::SYS_futex,
                    libc::SYS_madvise,
                    libc::SYS_munmap,
                    libc::SYS_rt_sigprocmask,
                    libc::SYS_sigaltstack,
                    libc::SYS_exit,
                ];
                let own = u64::from(u32::MAX);
                allow_only(&calls, &[(libc::SYS_socket, 0, own, libc::AF_UNIX as u64)]).unwrap();
                let socket = |family| {
                    let kind = libc::c_long::from(libc::SOCK_STREAM);
                    attempt(libc::SYS_socket, [libc::c_long::from(family), kind, 0, 0])
                };
                let opened = attempt(libc::SYS_openat, [0, 0, 0, 0]);
                (socket(libc::AF_UNIX), socket(libc::AF_INET), opened)
            });
            let found = confined.join().unwrap();
            assert_eq!(found, (0, libc::EPERM, libc::EPERM));
        });
    }

    #[test]
    fn later_threads_have_it_and_none_can_take_it_off() {
        under(Programs::Refused, || {
            let status = std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status"));
            let status = status.join().unwrap().unwrap();
            assert!(status.contains("Seccomp:\t2"), "{status}");
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        });
    }
}
