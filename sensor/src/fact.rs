//! What enters the stages: the kernel's records, and facts from beside the ring.
//!
//! Everything the stages after [`crate::read`] know of the world is in here, in order:
//! files, clocks and counters are read before, never later. That is why a capture replays to the same events.

use std::collections::BTreeMap;

use dogwatch_ebpf::record::{Exec, Record};
use dogwatch_schemas::Text;
use dogwatch_schemas::records::{ContainerSample, IoSample, ProcessSample};
use serde::{Deserialize, Serialize};

use crate::clock::Reading;
use crate::container::Container;
use crate::mounts::Mounts;
use crate::users::Users;

/// One thing that enters.
#[derive(Debug)]
pub(crate) enum Input {
    /// A record of the kernel's ring.
    Record(Record),
    /// A fact.
    Fact(Fact),
}

impl Input {
    /// What it takes in memory, bytes, about: its texts are what can be large.
    pub fn bytes(&self) -> usize {
        let beside = match self {
            Self::Record(record) => text_bytes(record),
            Self::Fact(Fact::Container(container)) => container.bytes(),
            Self::Fact(Fact::Users { users, .. }) => users.bytes(),
            Self::Fact(Fact::ContainerSample(_)) => size_of::<ContainerSample>() + 64,
            Self::Fact(Fact::ProcessSamples(samples)) => samples.len() * size_of::<ProcessUsage>(),
            Self::Fact(Fact::FailedCalls(round)) => round.calls.iter().map(FailedCall::bytes).sum(),
            Self::Fact(Fact::OpenFiles(round)) => round.files.iter().map(FileUsage::bytes).sum(),
            Self::Fact(Fact::Running(running)) => size_of::<Running>() + running.argv.len(),
            Self::Fact(_) => 0,
        };
        size_of::<Self>() + beside
    }
}

fn text_bytes(record: &Record) -> usize {
    match record {
        Record::Exec(exec) => {
            size_of::<Exec>()
                + exec.argv.capacity()
                + exec.env.len()
                + exec.path.len()
                + exec.cwd.len()
                + exec.filename.len()
        }
        Record::Open {
            path, raw, base, ..
        } => path.len() + raw.len() + base.len(),
        Record::Called(called) => called.bytes(),
        Record::Cgroup { path, .. } | Record::CgroupMove { path, .. } => path.len(),
        _ => 0,
    }
}

/// Something learned beside the ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// How far the reading has come, on both clocks: every record up to then came before, or is in the counters before.
    /// Comes with every poll of the ring and drives all that is due.
    Clock(Reading),
    /// A cgroup that existed before the sensor, or whose making was not seen.
    Cgroup {
        /// Its id.
        id: u64,
        /// Its path below the hierarchy's root.
        path: Text,
    },
    /// A cgroup is a container's though its path does not say it; before whatever else is told of the cgroup.
    ContainerCgroup {
        /// Its path below the hierarchy's root.
        path: Text,
        /// The container's id as its runtime has it.
        name: Text,
        /// The runtime.
        runtime: Text,
    },
    /// A cgroup that is gone, whose removal was not seen.
    CgroupGone {
        /// Its id.
        id: u64,
    },
    /// A process found by the start-up scan.
    Running(Box<Running>),
    /// What is known of a container; again when it changes and when it is due to be repeated.
    Container(Box<Container>),
    /// Names of users: of a container by its id, of the host without.
    Users {
        /// The container.
        container: Option<Text>,
        /// The names.
        users: Users,
    },
    /// The host's mounts; again when they change.
    HostMounts(Mounts),
    /// A tree of mounts that a container has changed, as it is now.
    Tree {
        /// The mount namespace.
        mnt_ns: u32,
        /// Its mounts.
        mounts: Mounts,
    },
    /// The kernel part's counters, since it was loaded.
    Counters(Counters),
    /// Records of the ring that could not be parsed, since the start.
    Unparsed(u64),
    /// Records of one kind that were more than a container may send, since the last such fact.
    Limited {
        /// The container's own cgroup, or one that is in no container.
        cgroup_id: u64,
        /// The records' kind.
        kind: Text,
        /// Their number.
        counted: Counted,
    },
    /// What a container used, by its whole id, or the host, without one: the columns that were read.
    ContainerSample(Box<ContainerSample>),
    /// What some processes used.
    ProcessSamples(Vec<ProcessUsage>),
    /// Which calls failed since the last such fact; before whatever else the round tells.
    FailedCalls(FailedRound),
    /// What processes have open, and what went through it.
    OpenFiles(FilesRound),
    /// A round of samples has come to its end, or did not come.
    Sampled(Sampled),
    /// Repeats of one failed open, since the last such fact.
    Folded {
        /// The container's own cgroup, or one that is in no container.
        cgroup_id: u64,
        /// Names the record of the open that was sent.
        fold: u64,
        /// Their number.
        counted: Counted,
    },
    /// Counts as they were before a file of a rotation began: losses that an earlier file tells.
    Before(Box<Fact>),
}

/// What the kernel part counted since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Records put into the ring, by kind.
    pub sent: BTreeMap<Text, u64>,
    /// Records the ring had no room for, by kind.
    pub dropped: BTreeMap<Text, u64>,
    /// Records for which the rest of the ring was not meant, by kind.
    #[serde(default)]
    pub crowded: BTreeMap<Text, u64>,
    /// Records that were more than a container may send, by kind.
    #[serde(default)]
    pub limited: BTreeMap<Text, u64>,
    /// Records that came while another one was being made on their CPU, by kind.
    #[serde(default)]
    pub interrupted: BTreeMap<Text, u64>,
    /// Records rejected, by reason.
    pub filtered: BTreeMap<Text, u64>,
    /// Runs of programs that the kernel skipped, by kind.
    #[serde(default)]
    pub missed: BTreeMap<Text, u64>,
    /// Records that the ring took and the sensor had no time to read at its end, by kind.
    #[serde(default)]
    pub unread: BTreeMap<Text, u64>,
    /// Cgroups that are not captured as configured, because the kernel part had no room for it.
    #[serde(default)]
    pub modes_refused: u64,
}

/// What a process used, with what tells which one it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessUsage {
    pub start_ticks: u64,
    pub comm: Vec<u8>,
    /// The columns that were read, `proc_pid` among them.
    pub sample: ProcessSample,
}

/// Which calls failed in an interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedRound {
    /// When it was read, nanoseconds since boot.
    pub boot_ns: u64,
    pub interval_ns: u64,
    pub calls: Vec<FailedCall>,
}

/// Calls of a process that failed in the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedCall {
    pub pid: u32,
    pub start_ticks: u64,
    /// The process's cgroup, and its name, at the first of them.
    pub cgroup_id: u64,
    pub comm: Vec<u8>,
    /// The call's name, and by which entry of the kernel it came.
    pub call: Text,
    pub entry: Text,
    pub errno: u32,
    pub count: u64,
}

impl FailedCall {
    /// What it takes in memory, bytes.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.comm.capacity() + self.call.len() + self.entry.len()
    }
}

/// What processes have open, and what went through it in an interval: the busiest of each share, and the rest of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilesRound {
    /// When it was read, nanoseconds since boot.
    pub boot_ns: u64,
    /// None in the first round.
    pub interval_ns: Option<u64>,
    pub files: Vec<FileUsage>,
    pub rests: Vec<FilesRest>,
}

/// A file or socket that a process has open. What is shared by several is told of the first of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileUsage {
    pub pid: u32,
    pub start_ticks: u64,
    /// The container's own cgroup, or the process's where it is in none.
    pub cgroup_id: u64,
    pub comm: Vec<u8>,
    /// Path of a file, where it could be read.
    pub path: Option<Vec<u8>>,
    /// Both ends of a socket.
    pub ends: Option<SocketEnds>,
    /// The columns that were read.
    pub sample: Box<IoSample>,
}

/// Both ends of a socket, as `SocketAddresses` has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketEnds {
    pub family: u16,
    pub socket_type: u16,
    pub protocol: u16,
    pub local_port: u16,
    pub remote_port: u16,
    pub local: [u8; 16],
    pub remote: [u8; 16],
    pub is_server: bool,
}

impl FileUsage {
    /// What it takes in memory, bytes.
    fn bytes(&self) -> usize {
        let path = self.path.as_ref().map_or(0, Vec::capacity);
        size_of::<Self>() + size_of::<IoSample>() + self.comm.capacity() + path
    }

    /// What went through it: forward, received, sent.
    pub fn bytes_through(&self) -> [Option<i64>; 3] {
        let sample = &self.sample;
        [
            sample.fd_forward_bytes,
            sample.fd_rx_bytes,
            sample.fd_tx_bytes,
        ]
    }
}

/// What a row of open files is ranked by among those of its container: sockets that listen come first, since few bytes say
/// nothing of them; then what most bytes went through.
pub(crate) fn files_weight(backlog: Option<i64>, bytes_through: [Option<i64>; 3]) -> u64 {
    if let Some(backlog) = backlog {
        return 1 << 63 | backlog as u64;
    }
    let bytes = bytes_through.iter().flatten().map(|count| *count as u64);
    bytes.fold(0, u64::saturating_add).min(1 << 62)
}

/// What is not told one by one of a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilesRest {
    pub cgroup_id: u64,
    /// How many rows it stands for.
    pub rows: u64,
    /// Open files that were not looked at.
    pub left: u64,
    /// Sums of what is known.
    pub forward_bytes: i64,
    pub rx_bytes: i64,
    pub tx_bytes: i64,
}

impl FilesRest {
    /// Takes a row in, by what went through it: forward, received, sent.
    pub fn add(&mut self, bytes_through: [Option<i64>; 3]) {
        let [forward_bytes, rx_bytes, tx_bytes] = bytes_through.map(Option::unwrap_or_default);
        self.plus(&Self {
            rows: 1,
            forward_bytes,
            rx_bytes,
            tx_bytes,
            ..Self::default()
        });
    }

    /// Takes another rest in.
    pub fn plus(&mut self, more: &Self) {
        self.rows += more.rows;
        self.left += more.left;
        self.forward_bytes = self.forward_bytes.saturating_add(more.forward_bytes);
        self.rx_bytes = self.rx_bytes.saturating_add(more.rx_bytes);
        self.tx_bytes = self.tx_bytes.saturating_add(more.tx_bytes);
    }
}

/// How a round of samples ended; the counts are since the sensor's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sampled {
    /// When all was read, nanoseconds since boot; none where the round did not come, because one was under way.
    pub ended_ns: Option<u64>,
    /// Rounds of containers that did not come.
    pub containers_unsampled: u64,
    /// Rounds of processes that did not come, and processes that a round did not look at.
    pub processes_unsampled: u64,
    /// Failed calls that the kernel part had no room to count.
    #[serde(default)]
    pub calls_unsampled: u64,
    /// Rounds of open files that did not come or were cut short, and openings that found no room in one.
    #[serde(default)]
    pub files_unsampled: u64,
    /// Counters that were smaller than before.
    pub went_back: u64,
}

/// How many of something the kernel part counted instead of sending, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub count: u64,
    /// The first of them, or the last one told before; nanoseconds since boot.
    pub first_ns: u64,
    pub last_ns: u64,
}

/// A process found by the start-up scan; bytes are as `/proc` gave them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub pid: u32,
    pub start_ticks: u64,
    pub parent_pid: u32,
    pub sid: u32,
    pub pgid: u32,
    pub tty: u32,
    /// Process id in its own pid namespace.
    pub vpid: u32,
    /// Effective ids on the host.
    pub uid: u32,
    pub gid: u32,
    /// Effective ids in its user namespace.
    pub inner_uid: Option<u32>,
    pub inner_gid: Option<u32>,
    pub login_uid: Option<u32>,
    pub mnt_ns: Option<u32>,
    pub pid_ns: Option<u32>,
    pub cgroup_id: u64,
    pub comm: Vec<u8>,
    /// Path inside its own root.
    pub exe: Option<Vec<u8>>,
    /// Arguments, each ended by NUL.
    pub argv: Vec<u8>,
    pub cwd: Option<Vec<u8>>,
    /// Descriptors 0 to 2 as the links below `/proc/PID/fd`; `None` = closed or not to be read.
    pub stdio: [Option<Vec<u8>>; 3],
}

/// The host a run of the sensor is on; the same for all its records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub host_id: Text,
    pub host_name: Text,
    pub host_tags: Option<BTreeMap<Text, Text>>,
    pub boot_id: Text,
    /// Names this run.
    pub sensor_run: Text,
    pub kernel_release: Text,
    pub arch: Text,
    /// The host's mount and pid namespaces (those of pid 1), where they may be read.
    pub mnt_ns: Option<u32>,
    pub pid_ns: Option<u32>,
}

impl Host {
    /// Whether a mount namespace is the host's, where both are known.
    pub fn has_mount_namespace(&self, mnt_ns: Option<u32>) -> Option<bool> {
        Some(mnt_ns? == self.mnt_ns?)
    }
}
