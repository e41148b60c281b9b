//! Why the kernel part could not be loaded, and what helps.

use std::error::Error;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::capabilities;
use super::limits::too_few_open_files;

/// How the host's pid namespace is shared.
pub(crate) const SHARE_PIDS: &str = "share the host's, with `pid: host` in a Compose file, `--pid=host` for docker run, \
                                     `hostPID: true` in a pod";

/// Why the kernel part could not be loaded. All of these are the environment's: a retry without a change does not help.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel does not describe its types.
    #[error(
        "could not read the kernel's type information from {path}: \
         the sensor needs a kernel with CONFIG_DEBUG_INFO_BTF (Debian 11, Ubuntu 22.04, RHEL 9 and newer have it); \
         in a container, mount the host's /sys/kernel/btf"
    )]
    NoTypeInformation {
        /// Where it was looked for.
        path: PathBuf,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The process may not load kernel programs.
    #[error(
        "may not load kernel programs: {missing} missing; run as root, or give the process CAP_BPF and CAP_PERFMON \
         (Docker before 23: SYS_ADMIN)"
    )]
    MissingCapability {
        /// The capabilities, joined.
        missing: String,
    },
    /// The kernel is locked down.
    #[error(
        "the kernel's lockdown mode is confidentiality, which forbids reading kernel memory: \
         boot with lockdown=integrity or none"
    )]
    LockedDown,
    /// Something else refuses, although the capabilities are there.
    #[error(
        "the kernel refused the programs ({reason}) although the capabilities are there: \
         a seccomp profile or a security module may forbid bpf()"
    )]
    Refused {
        /// The kernel's answer.
        reason: io::Error,
    },
    /// The kernel has no such hook.
    #[error(
        "the kernel has no hook {hook}, which the sensor needs: it runs on Linux 5.10 and newer"
    )]
    MissingHook {
        /// The tracepoint.
        hook: &'static str,
    },
    /// The kernel does not tell what sends and receives returned.
    #[error(
        "the kernel has no tracepoints sock_send_length and sock_recv_length, which came with Linux 6.3"
    )]
    NoNetBytes,
    /// A program or map could not be loaded for another reason.
    #[error("could not load {what} into the kernel: {}", causes(source.as_ref()))]
    Load {
        /// Which part.
        what: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Hooks were attached and did not fire.
    #[error(
        "the hooks for {missing} are attached but do not fire on this kernel: events would be missed unseen"
    )]
    SilentHooks {
        /// What was not seen, joined.
        missing: String,
    },
    /// The canary's own steps failed.
    #[error("could not try out the hooks: {step} failed")]
    Canary {
        /// Which step.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// No cgroup hierarchy is mounted.
    #[error(
        "found no cgroup hierarchy (version 2, or version 1 with pids or memory): mount it at /sys/fs/cgroup; \
         in a container, mount the host's /sys/fs/cgroup read-only"
    )]
    NoHierarchy,
    /// The process is in a cgroup namespace of its own.
    #[error(
        "the sensor is in a private cgroup namespace (it sees another process in {example}), where containers that run \
         already cannot be told from the host: share the host's, with `cgroup: host` in a Compose file \
         (docker-compose.cgroup2.yml), `--cgroupns=host` for docker run; or give it CAP_SYS_ADMIN, to enter the host's \
         and give the capability up afterwards (`SYS_ADMIN` in a pod, where nothing shares that namespace)"
    )]
    PrivateCgroups {
        /// A path that leads out of the namespace.
        example: String,
    },
    /// Only the own part of the cgroups is mounted.
    #[error(
        "only a part of the cgroup hierarchy is mounted at {mount}, without the containers beside this one: \
         mount the host's /sys/fs/cgroup read-only"
    )]
    PartOfHierarchy {
        /// Where.
        mount: PathBuf,
    },
    /// The process, or its `/proc`, is in a pid namespace of its own.
    #[error(
        "the sensor is process {on_host} on the host, and {inside} where it runs: in a private pid namespace the host's \
         processes are not to be seen: {SHARE_PIDS}"
    )]
    PrivatePids {
        /// The own process id in that namespace; 0 where its `/proc` does not show it.
        inside: u32,
        /// The own process id on the host.
        on_host: u32,
    },
    /// Maps count as locked memory here, and too little may be locked.
    #[error(
        "the kernel did not make the maps: before Linux 5.11 they count as locked memory, of which this process may have \
         {limit} bytes: give it CAP_SYS_RESOURCE, or raise the limit (ulimit -l unlimited; `ulimits: memlock: -1` in a \
         Compose file)"
    )]
    LockedMemory {
        /// The limit, bytes.
        limit: u64,
    },
    /// Too few files may be open.
    #[error("{}", too_few_open_files(*limit))]
    OpenFiles {
        /// The limit.
        limit: u64,
    },
    /// A file of the system could not be read.
    #[error("could not read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A path of the configuration cannot be matched in the kernel.
    #[error(
        "cannot match the path {path:?} of {list} in the kernel: it must be absolute and at most 250 bytes long"
    )]
    BadPath {
        /// The configuration's list.
        list: &'static str,
        /// The path.
        path: String,
    },
    /// A map of the kernel part could not be changed or read.
    #[error("could not {doing} in the kernel: {}", causes(source.as_ref()))]
    Map {
        /// What was tried.
        doing: &'static str,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// System calls could not be given up.
    #[error(
        "could not refuse system calls to this process: {0}; the kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Seccomp(String),
    /// Capabilities could not be given up.
    #[error("could not give up capabilities: {0}")]
    Capabilities(String),
}

/// Chooses the error that says what helps.
pub(super) fn refusal(what: &str, source: impl Error + Send + Sync + 'static) -> ProbeError {
    let not_permitted =
        io_cause(&source).filter(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let Some(errno) = not_permitted.map(|error| error.raw_os_error().unwrap_or(libc::EPERM)) else {
        return ProbeError::Load {
            what: what.to_owned(),
            source: Box::new(source),
        };
    };
    let missing = capabilities::missing_to_load();
    if !missing.is_empty() {
        return ProbeError::MissingCapability {
            missing: missing.join(" and "),
        };
    }
    if lockdown() == Some(Lockdown::Confidentiality) {
        return ProbeError::LockedDown;
    }
    // The verifier says EACCES, with a log; a policy says EPERM, without.
    if errno == libc::EACCES {
        return ProbeError::Load {
            what: what.to_owned(),
            source: Box::new(source),
        };
    }
    if let Some(limit) = locked_memory_limit().filter(|_| counts_locked_memory()) {
        return ProbeError::LockedMemory { limit };
    }
    ProbeError::Refused {
        reason: io::Error::from_raw_os_error(errno),
    }
}

/// Kernels before 5.11 count maps as locked memory.
pub(crate) fn counts_locked_memory() -> bool {
    super::kernel_version() < (5, 11)
}

/// The bytes this process may lock; `None` without a limit.
pub(crate) fn locked_memory_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a plain system call that fills the struct.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// How far the kernel is locked down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lockdown {
    None,
    Integrity,
    Confidentiality,
}

/// `None` where it cannot be read (securityfs is not mounted).
pub(crate) fn lockdown() -> Option<Lockdown> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    if modes.contains("[confidentiality]") {
        Some(Lockdown::Confidentiality)
    } else if modes.contains("[integrity]") {
        Some(Lockdown::Integrity)
    } else {
        Some(Lockdown::None)
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// An error and what caused it, on one line: aya's messages alone do not say the kernel's answer.
fn causes(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
