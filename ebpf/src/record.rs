//! The kernel's records as Rust values, parsed from the bytes of the ring.
//!
//! `bpf/record.h` is the one definition of the layout; what stands here is its parsed form.
//! Nothing here interprets: paths are bytes, numbers are the kernel's.

use crate::calls::Call;

/// What every record starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Nanoseconds since boot, suspends included.
    pub boot_ns: u64,
    /// Id of the cgroup in the hierarchy the sensor was told to use.
    pub cgroup_id: u64,
    /// When the thread group leader started, nanoseconds since boot.
    pub start_ns: u64,
    /// Process id (thread group id) in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Process id inside the process's own pid namespace.
    pub vpid: u32,
    /// Effective user id on the host.
    pub uid: u32,
    /// Effective group id on the host.
    pub gid: u32,
    /// The call's return value; negative errno where it failed, 0 where there is none.
    pub ret: i64,
    /// CPU it happened on.
    pub cpu: u16,
    /// Per-CPU counter of records tried, sent or not: a gap is a loss.
    pub cpu_seq: u32,
    /// Flags of the record.
    pub flags: Flags,
    /// The system call behind it; `None` where there is none or it is not known.
    pub call: Option<&'static Call>,
}

/// Flags of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// A text was longer than its limit.
    pub truncated: bool,
    /// Some memory could not be read.
    pub fault: bool,
    /// The path or address is from user memory, not the kernel's own.
    pub unresolved: bool,
    /// The call came through the 32-bit entry.
    pub ia32: bool,
    /// The call carried the x32 bit.
    pub x32: bool,
    /// The open made the file.
    pub created: bool,
}

/// Who a process is: sent with exec, fork and the start-up scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Parent's process id in the initial pid namespace.
    pub parent_pid: u32,
    /// When the parent's thread group leader started, nanoseconds since boot.
    pub parent_start_ns: u64,
    /// Session id in the initial pid namespace.
    pub sid: u32,
    /// Process group id in the initial pid namespace.
    pub pgid: u32,
    /// Controlling terminal's device number, 0 = none.
    pub tty: u32,
    /// Login uid, `u32::MAX` = none.
    pub loginuid: u32,
    /// Inode of the mount namespace.
    pub mnt_ns: u32,
    /// Inode of the pid namespace.
    pub pid_ns: u32,
    /// Effective user id inside the process's user namespace; `u32::MAX` = not mapped, or mapped in more than five ranges.
    pub ns_uid: u32,
    /// Effective group id inside the process's user namespace; `u32::MAX` as for `ns_uid`.
    pub ns_gid: u32,
    /// Inode of the pid namespace of the children that it makes from now on.
    pub children_pid_ns: u32,
    /// Its credentials beside the effective ids.
    pub credentials: Credentials,
    /// The kernel's name of the process.
    pub comm: Vec<u8>,
}

/// What a process may do, and the ids that it has beside the effective ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Capabilities in effect, by their bits.
    pub effective: u64,
    /// Those that it may put into effect.
    pub permitted: u64,
    /// Those that an exec may keep.
    pub inheritable: u64,
    /// Saved user id on the host.
    pub saved_uid: u32,
    /// Saved group id on the host.
    pub saved_gid: u32,
    /// User id for access to files, on the host.
    pub fs_uid: u32,
    /// Group id for access to files, on the host.
    pub fs_gid: u32,
}

/// A file as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileIdentity {
    /// Device number in the user-space encoding (as `stat` gives it).
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// File type and permission bits.
    pub mode: u16,
    /// Number of links; 0 = deleted or never linked (memfd).
    pub nlink: u32,
    /// The file system's magic number (`statfs.f_type`).
    pub fs_magic: u64,
    /// True when the file lies in an overlay's upper layer; false when it does not or is in no overlay.
    pub overlay_upper: bool,
}

/// One of file descriptors 0 to 2 at exec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stdio {
    /// Not open.
    #[default]
    Closed,
    /// A socket with its addresses.
    Socket(SocketAddresses),
    /// Anything else: mode, device number of a device file (`st_rdev`), file system, path.
    File {
        /// File type and permission bits.
        mode: u16,
        /// `st_rdev` of a device file.
        rdev: u64,
        /// File system magic, tells pipes and anonymous inodes apart.
        fs_magic: u64,
        /// Path inside the mount namespace; empty where there is none.
        path: Vec<u8>,
    },
}

/// Both ends of a socket; ports in host order; addresses v4 (first 4 bytes) or v6.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketAddresses {
    /// `AF_INET` 2, `AF_INET6` 10, `AF_UNIX` 1, or another.
    pub family: u16,
    /// `SOCK_STREAM` 1, `SOCK_DGRAM` 2, `SOCK_RAW` 3 ...
    pub socket_type: u16,
    /// `IPPROTO_TCP` 6, `IPPROTO_UDP` 17 ...
    pub protocol: u16,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Local address.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Path of a unix socket's peer, a leading `@` for an abstract name.
    pub unix_path: Vec<u8>,
}

/// A file or socket that a process has open, as the iterator tells it. Counters are since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenFile {
    /// Names this opening, which several descriptors and processes may share.
    pub file: u64,
    /// Inode number.
    pub ino: u64,
    /// Device number of a file's file system, as `stat` has it.
    pub dev: u64,
    /// When the process began, nanoseconds since boot.
    pub start_ns: u64,
    /// The process.
    pub pid: u32,
    /// The descriptor.
    pub fd: u32,
    /// The process's name, ended by NUL.
    pub comm: [u8; 16],
    /// The container's own cgroup, or the process's where it is in none.
    pub share: u64,
    /// File type and permission bits.
    pub mode: u16,
    /// Flags of the opening (`O_WRONLY`, `O_APPEND` ...).
    pub flags: u32,
    /// Names that a file has.
    pub links: u32,
    /// Where a file is read or written next.
    pub position: i64,
    /// Size of a file.
    pub size: i64,
    /// Both ends, of a socket.
    pub socket: Option<SocketAddresses>,
    /// The socket's network namespace.
    pub net_ns: u32,
    /// State of TCP; 0 of all else.
    pub state: u16,
    /// Bytes that a TCP connection received; of a socket of UDP, that its receives returned.
    pub received: u64,
    /// Bytes that it sent and the other end acknowledged; of UDP, that its sends returned.
    pub acked: u64,
    /// Of a socket of UDP: whether these two are known.
    pub counted: bool,
    /// Segments received.
    pub segments_in: u32,
    /// Segments sent, those sent again included.
    pub segments_out: u32,
    /// Segments sent again.
    pub retransmitted: u32,
    /// Connections that a socket refused which listens.
    pub dropped: u32,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// How many may wait.
    pub backlog_max: u32,
}

/// A parsed record of the ring.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A program was executed (`sched_process_exec`).
    Exec(Box<Exec>),
    /// A process (not a thread) was made.
    Fork {
        /// Common part, of the parent (the caller).
        header: Header,
        /// The child's process id in the initial pid namespace.
        child_pid: u32,
        /// The child's process id inside its own pid namespace.
        child_vpid: u32,
        /// The child's start, nanoseconds since boot.
        child_start_ns: u64,
        /// The child's cgroup.
        child_cgroup_id: u64,
        /// The flags it was made with; 0 where the call has none, or they are not known.
        clone_flags: u64,
        /// The child's identity.
        child: Identity,
    },
    /// A process has twice as many threads as when this was told last, at first 64.
    Threads {
        /// Common part; `ret` is how many threads it has.
        header: Header,
    },
    /// The last thread of a process ended.
    Exit {
        /// Common part.
        header: Header,
        /// Exit status as `wait` gives it: status << 8 | signal.
        status: u32,
        /// Final counters.
        counters: Counters,
    },
    /// A file was opened, or failed to be.
    Open {
        /// Common part; `ret` is the descriptor or the negative errno.
        header: Header,
        /// Open flags as given (x86-64 values whatever the caller's ABI).
        open_flags: u64,
        /// Mode bits as given.
        mode: u32,
        /// The file really opened; default where it failed.
        file: FileIdentity,
        /// Path inside the mount namespace of the file really opened; empty where it failed.
        path: Vec<u8>,
        /// The path as the program gave it.
        raw: Vec<u8>,
        /// The directory a relative raw path of a failed call starts from, where known.
        base: Vec<u8>,
        /// Inode of the mount namespace in which the file was reached, 0 = in none; of a failure the process's.
        mnt_ns: u32,
        /// Names what repeats of this failure are counted under ([`crate::control::Tally::hash`]); 0 = they are not counted.
        fold: u64,
        /// Its path in its own file system, whatever tree of mounts it was reached through; empty of a file that lies on the
        /// tree's root, and where it is not known.
        place: Vec<u8>,
    },
    /// A system call of which the arguments tell all.
    Called(Box<Called>),
    /// A cgroup was made or removed, in the hierarchy the sensor uses.
    Cgroup {
        /// Common part, of the process that did it.
        header: Header,
        /// True when made.
        made: bool,
        /// The cgroup's id.
        id: u64,
        /// Its path below the hierarchy's root.
        path: Vec<u8>,
    },
    /// A process was moved into another cgroup of the hierarchy the sensor uses.
    CgroupMove {
        /// Common part, of the process that did it.
        header: Header,
        /// The moved process.
        pid: u32,
        /// Its start, nanoseconds since boot.
        start_ns: u64,
        /// The cgroup it went to.
        to_id: u64,
        /// The destination's path below the hierarchy's root.
        path: Vec<u8>,
    },
}

impl Record {
    /// What the record starts with.
    pub fn header(&self) -> &Header {
        match self {
            Record::Exec(exec) => &exec.header,
            Record::Called(called) => &called.header,
            Record::Fork { header, .. }
            | Record::Threads { header }
            | Record::Exit { header, .. }
            | Record::Open { header, .. }
            | Record::Cgroup { header, .. }
            | Record::CgroupMove { header, .. } => header,
        }
    }
}

/// Where a [`Called`] has who the process is after the call.
pub const PLACE_IDENTITY: u8 = 6;
/// Its working directory after the call.
pub const PLACE_CWD: u8 = 7;
/// Where the kernel tried to connect to.
pub const PLACE_PEER: u8 = 8;

/// A system call with what its row says of its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// Common part.
    pub header: Header,
    /// Which call.
    pub call: &'static Call,
    /// Each value with its place: an argument's (0 to 5), or one of those above.
    pub values: Vec<(u8, Value)>,
}

impl Called {
    /// The value at a place, if there is one.
    pub fn at(&self, place: u8) -> Option<&Value> {
        let found = self.values.iter().find(|(at, _)| *at == place);
        found.map(|(_, value)| value)
    }

    /// What it takes in memory, bytes.
    pub fn bytes(&self) -> usize {
        let texts = self.values.iter().map(|(_, value)| match value {
            Value::Text(text) | Value::File { path: text, .. } => text.len(),
            Value::Path { raw, base } => raw.len() + base.len(),
            Value::Socket { socket, .. } | Value::Address(socket) | Value::Peer(socket) => {
                socket.unix_path.len()
            }
            Value::Identity(identity) => identity.comm.len(),
            Value::Number(_) => 0,
        });
        size_of::<Self>() + self.values.len() * size_of::<(u8, Value)>() + texts.sum::<usize>()
    }

    /// The value of the argument of this name.
    pub fn argument(&self, name: &str) -> Option<&Value> {
        let place = self
            .call
            .arguments
            .iter()
            .position(|argument| argument.name == name)?;
        self.at(place as u8)
    }
}

/// A value of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// As it was in the register.
    Number(u64),
    /// A text as the program gave it; at [`PLACE_CWD`] the kernel's own path.
    Text(Vec<u8>),
    /// A path as the program gave it, and the folder it starts from as the kernel knows it; that is empty where it is not
    /// known.
    Path {
        /// As given.
        raw: Vec<u8>,
        /// Where it starts from.
        base: Vec<u8>,
    },
    /// The file that a descriptor is.
    File {
        /// The descriptor.
        fd: i64,
        /// The file.
        file: FileIdentity,
        /// Its path inside the mount namespace.
        path: Vec<u8>,
    },
    /// The socket that a descriptor is.
    Socket {
        /// The descriptor.
        fd: i64,
        /// Both ends as the kernel has them.
        socket: SocketAddresses,
    },
    /// An address as the program gave it, as the remote end.
    Address(SocketAddresses),
    /// An address as the kernel took it.
    Peer(SocketAddresses),
    /// Who the process is.
    Identity(Identity),
}

/// A successful exec, its continuation records already joined.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exec {
    /// Common part.
    pub header: Header,
    /// Who the process is now.
    pub identity: Identity,
    /// The executed file.
    pub file: FileIdentity,
    /// Its path inside the mount namespace.
    pub path: Vec<u8>,
    /// The name as given to the kernel (`bprm->filename`).
    pub filename: Vec<u8>,
    /// The interpreter when it is a script (`bprm->interp` where it differs).
    pub interp: Vec<u8>,
    /// Working directory inside the mount namespace.
    pub cwd: Vec<u8>,
    /// Arguments, each ended by NUL, from the new image's memory.
    pub argv: Vec<u8>,
    /// How many bytes of arguments there were; more than `argv.len()` when cut.
    pub argv_bytes: u32,
    /// Descriptors 0, 1 and 2.
    pub stdio: [Stdio; 3],
    /// The first bytes of the environment, each variable ended by NUL; what is cut has no NUL.
    pub env: Vec<u8>,
    /// How many bytes of it there were.
    pub env_bytes: u32,
    /// How many arguments there were.
    pub argc: u32,
    /// How many of the descriptors 3 to 63 are sockets.
    pub sockets: u32,
    /// The first of them that is connected over the internet; without a remote port where none is.
    pub socket: SocketAddresses,
}

/// A process's final counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// User CPU time, nanoseconds.
    pub utime_ns: u64,
    /// System CPU time, nanoseconds.
    pub stime_ns: u64,
    /// Minor faults.
    pub min_flt: u64,
    /// Major faults.
    pub maj_flt: u64,
    /// Bytes asked for by reads.
    pub rchar: u64,
    /// Bytes handed to writes.
    pub wchar: u64,
    /// Bytes from storage.
    pub read_bytes: u64,
    /// Bytes to storage.
    pub write_bytes: u64,
}
