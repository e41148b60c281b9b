//! What containers use, from the accounts of their cgroups: version 1, version 2, or some of each.
//!
//! Each controller is in one hierarchy. A container's cgroup has the same path in all of them, as every runtime makes it;
//! where it has not, the path is that of its processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::ContainerSample;

use super::Roots;
use super::growth::{self, Before};
use super::machine::set_pressure;
use super::network::Traffic;
use super::text::{limit, long, named, number, read};
use crate::clock::Reading;
use crate::host::HOST_PIDS;

/// How deep below its own cgroup a process of a container is looked for, and among how many cgroups.
const DEPTH_MAX: usize = 4;
const FOLDERS_MAX: usize = 64;

/// A container to be sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its whole id.
    pub id: Text,
    /// Its own cgroup's path in the hierarchy that is watched.
    pub path: Text,
    /// Its making was seen.
    pub made: bool,
}

/// The controllers whose accounts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Blkio,
}

impl Controller {
    const ALL: [Self; 5] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Memory,
        Self::Pids,
        Self::Blkio,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Blkio => "blkio",
        }
    }

    /// What version 2 calls it; CPU time is accounted for there without a controller.
    fn unified_name(self) -> &'static str {
        match self {
            Self::Blkio => "io",
            Self::Cpuacct => "cpu",
            of => of.name(),
        }
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Cpu => {
                "cpu_limit_millicores, cpu_periods, cpu_throttled_periods, cpu_throttled_ns"
            }
            Self::Cpuacct => "cpu_total_ns, cpu_user_ns, cpu_system_ns",
            Self::Memory => "mem_ (all columns)",
            Self::Pids => "pids_current, pids_limit",
            Self::Blkio => "io_ (all columns)",
        }
    }
}

/// Where the accounts of a host are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    /// Mounts of version 1, by controller.
    old: BTreeMap<Controller, PathBuf>,
    /// The mount of version 2.
    unified: Option<PathBuf>,
    /// Controllers of version 2, as its root has them.
    unified_has: BTreeSet<String>,
    /// The kernel has pressure of cgroups.
    pressure: bool,
}

impl Accounts {
    /// Looks where the hierarchies are mounted.
    pub fn find(proc: &Path) -> Self {
        let mounts = read(&proc.join("self/mountinfo")).unwrap_or_default();
        let mut found = Self::of(&mounts);
        if let Some(unified) = &found.unified {
            let has = read(&unified.join("cgroup.controllers")).unwrap_or_default();
            found.unified_has = has.split_ascii_whitespace().map(String::from).collect();
        }
        found.pressure = proc.join("pressure").is_dir();
        found
    }

    fn of(mounts: &str) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let mut before = before.split(' ').skip(3);
            let (Some(root), Some(point)) = (before.next(), before.next()) else {
                continue;
            };
            let mut after = after.split(' ');
            let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
            let mount = PathBuf::from(point.replace("\\040", " "));
            match kind {
                Some("cgroup2") if root == "/" => found.unified = Some(mount),
                Some("cgroup") if root == "/" => {
                    for controller in Controller::ALL {
                        if options.split(',').any(|option| option == controller.name()) {
                            found.old.insert(controller, mount.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn has(&self, controller: Controller) -> bool {
        self.old.contains_key(&controller) || self.unified_has.contains(controller.unified_name())
    }

    /// Columns that no container of this host has, and why.
    pub fn lacking(&self) -> Vec<(Text, Text)> {
        let mut lacking = Vec::new();
        for controller in Controller::ALL {
            if !self.has(controller) {
                let name = controller.name();
                let why = format!("no cgroup hierarchy has the controller {name}");
                lacking.push((controller.columns().into(), why.into()));
            }
        }
        if !self.pressure {
            let why = "this kernel has no pressure stall information: Linux 4.20 with CONFIG_PSI, and psi=1 where it is off by default";
            lacking.push(("psi_ (all columns)".into(), why.into()));
        } else if self.old.contains_key(&Controller::Memory) {
            let why = "cgroup version 1 has no pressure; the host's row has it";
            lacking.push(("psi_ (all columns) of containers".into(), why.into()));
        }
        lacking
    }
}

/// Reads containers' accounts; see the module's description.
#[derive(Debug)]
pub(super) struct Containers {
    proc: PathBuf,
    accounts: Accounts,
    /// The hierarchy in which subjects' paths are.
    watched: PathBuf,
    /// Devices that are built of others: what goes through them is counted below, too.
    built: BTreeSet<u64>,
    before: BTreeMap<Text, Last>,
    /// When the round before began; containers made since then are counted from their beginning.
    round_ns: Option<u64>,
}

#[derive(Debug)]
struct Last {
    reading: ContainerSample,
    /// Read in this round.
    current: bool,
}

impl Containers {
    pub fn new(roots: &Roots, watched: PathBuf) -> Self {
        let devices = read(&roots.proc.join("devices")).unwrap_or_default();
        Self {
            accounts: Accounts::find(&roots.proc),
            proc: roots.proc.clone(),
            watched,
            built: built(&devices),
            before: BTreeMap::new(),
            round_ns: None,
        }
    }

    /// What these used since they were read last; one that vanishes while it is read has no row.
    pub fn samples(&mut self, subjects: &[Subject], went_back: &mut u64) -> Vec<ContainerSample> {
        let mut samples = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let Some(reading) = self.read(subject) else {
                continue;
            };
            let before = match (self.before.get(&subject.id), self.round_ns) {
                (Some(last), _) => Before::Read(&last.reading),
                (None, Some(round_ns)) if subject.made => Before::Begun(round_ns),
                (None, _) => Before::Unknown,
            };
            samples.push(growth::sample(&reading, before, went_back));
            let last = Last {
                reading,
                current: true,
            };
            self.before.insert(subject.id.clone(), last);
        }
        samples
    }

    /// Forgets those that were not in the round.
    pub fn end_round(&mut self, begun_ns: u64) {
        self.before
            .retain(|_, last| std::mem::take(&mut last.current));
        self.round_ns = Some(begun_ns);
    }

    fn read(&self, subject: &Subject) -> Option<ContainerSample> {
        let path = subject.path.trim_start_matches('/');
        let own = self.watched.join(path);
        let mut reading = ContainerSample {
            container_full_id: Some(subject.id.clone()),
            boot_ts: long(Reading::now().boot_ns),
            ..ContainerSample::default()
        };
        let pid = first_process(&own);
        let cgroups = pid.and_then(|pid| read(&self.proc.join(pid.to_string()).join("cgroup")));
        let folder = |controller| self.folder(controller, path, cgroups.as_deref());
        if let Some(folder) = folder(Controller::Cpuacct) {
            set_cpu_time(&mut reading, &folder);
        }
        if let Some(folder) = folder(Controller::Cpu) {
            set_cpu_limit(&mut reading, &folder);
        }
        if let Some(folder) = folder(Controller::Memory) {
            set_memory(&mut reading, &folder);
        }
        if let Some(folder) = folder(Controller::Pids) {
            reading.pids_current = number(&folder.path.join("pids.current")).map(long);
            let max = read(&folder.path.join("pids.max"));
            reading.pids_limit = max.and_then(|max| limit(&max)).map(long);
        }
        if let Some(folder) = folder(Controller::Blkio) {
            self.set_io(&mut reading, &folder);
        }
        if let Some(unified) = self.unified(path).filter(|_| self.accounts.pressure) {
            set_pressure(&mut reading, |kind| {
                read(&unified.join(format!("{kind}.pressure")))
            });
        }
        if let Some(pid) = pid {
            self.set_network(&mut reading, pid);
        }
        own.is_dir().then_some(reading)
    }

    /// Where a controller accounts for a cgroup.
    fn folder(&self, controller: Controller, path: &str, cgroups: Option<&str>) -> Option<Folder> {
        let Some(mount) = self.accounts.old.get(&controller) else {
            let path = self.unified(path)?;
            return Some(Folder {
                path,
                unified: true,
            });
        };
        let same = mount.join(path);
        let path = if same.is_dir() {
            same
        } else {
            let other = path_of(controller, cgroups?)?;
            mount.join(other.trim_start_matches('/'))
        };
        // Of the root, everything else would be counted as the container's.
        (path != *mount).then_some(Folder {
            path,
            unified: false,
        })
    }

    fn unified(&self, path: &str) -> Option<PathBuf> {
        let folder = self.accounts.unified.as_ref()?.join(path);
        (!path.is_empty() && folder.is_dir()).then_some(folder)
    }

    fn set_io(&self, reading: &mut ContainerSample, folder: &Folder) {
        let io = if folder.unified {
            read(&folder.path.join("io.stat")).map(|text| unified_io(&text, &self.built))
        } else {
            let of = |what: &str| {
                let file =
                    |end: &str| read(&folder.path.join(format!("blkio.throttle.{what}{end}")));
                let text = file("_recursive").or_else(|| file(""))?;
                Some(old_io(&text, &self.built))
            };
            let (bytes, ops) = (of("io_service_bytes"), of("io_serviced"));
            bytes.zip(ops).map(|(bytes, ops)| Io { bytes, ops })
        };
        if let Some(Io { bytes, ops }) = io {
            reading.io_read_bytes = Some(long(bytes.0));
            reading.io_write_bytes = Some(long(bytes.1));
            reading.io_read_ops = Some(long(ops.0));
            reading.io_write_ops = Some(long(ops.1));
        }
    }

    /// In the host's namespace its traffic is everybody's, and cannot be told apart.
    fn set_network(&self, reading: &mut ContainerSample, pid: u32) {
        let namespace = |pid: u32| {
            let path = self.proc.join(pid.to_string()).join("ns/net");
            fs::metadata(path).ok().map(|metadata| metadata.ino())
        };
        let host = HOST_PIDS.into_iter().find_map(namespace);
        let (Some(own), Some(host)) = (namespace(pid), host) else {
            return;
        };
        if own == host {
            return;
        }
        let dev = read(&self.proc.join(pid.to_string()).join("net/dev")).unwrap_or_default();
        // With lo alone nothing was ever sent out: that is known, and none.
        let traffic = Traffic::of(&dev, |name| name != "lo");
        let alone = Traffic::of(&dev, |_| true).map(|_| Traffic::default());
        if let Some(traffic) = traffic.or(alone) {
            traffic.set(reading);
        }
    }
}

struct Folder {
    path: PathBuf,
    unified: bool,
}

/// Reads and writes.
struct Io {
    bytes: (u64, u64),
    ops: (u64, u64),
}

/// The first process of a cgroup, or of those below it.
fn first_process(cgroup: &Path) -> Option<u32> {
    let mut folders = vec![(cgroup.to_owned(), 0)];
    let mut looked = 0;
    while let Some((folder, depth)) = folders.pop() {
        looked += 1;
        if let Some(text) = read(&folder.join("cgroup.procs"))
            && let Some(pid) = text.lines().find_map(|line| line.trim().parse().ok())
        {
            return Some(pid);
        }
        if depth < DEPTH_MAX && looked < FOLDERS_MAX {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let below = below.take(FOLDERS_MAX);
            folders.extend(below.map(|entry| (entry.path(), depth + 1)));
        }
    }
    None
}

/// The path of a controller in a file `/proc/PID/cgroup`.
fn path_of(controller: Controller, cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let named = controllers.split(',').any(|name| name == controller.name());
        named.then_some(path)
    })
}

fn set_cpu_time(reading: &mut ContainerSample, folder: &Folder) {
    if folder.unified {
        let stat = read(&folder.path.join("cpu.stat")).unwrap_or_default();
        let ns = |name| named(&stat, name).map(|micros| long(micros.saturating_mul(1_000)));
        reading.cpu_total_ns = ns("usage_usec");
        reading.cpu_user_ns = ns("user_usec");
        reading.cpu_system_ns = ns("system_usec");
    } else {
        let of = |name: &str| number(&folder.path.join(name)).map(long);
        reading.cpu_total_ns = of("cpuacct.usage");
        reading.cpu_user_ns = of("cpuacct.usage_user");
        reading.cpu_system_ns = of("cpuacct.usage_sys");
    }
}

/// The limit and what it cost; without one nothing is held back, and nothing is told of it.
fn set_cpu_limit(reading: &mut ContainerSample, folder: &Folder) {
    let quota = if folder.unified {
        let max = read(&folder.path.join("cpu.max")).unwrap_or_default();
        max.split_once(' ').and_then(|(quota, period)| {
            Some((quota.trim().parse().ok()?, period.trim().parse().ok()?))
        })
    } else {
        let of = |name: &str| number(&folder.path.join(name));
        of("cpu.cfs_quota_us").zip(of("cpu.cfs_period_us"))
    };
    let Some(millicores) =
        quota.and_then(|(quota, period): (u64, u64)| quota.checked_mul(1_000)?.checked_div(period))
    else {
        return;
    };
    reading.cpu_limit_millicores = Some(long(millicores));
    let stat = read(&folder.path.join("cpu.stat")).unwrap_or_default();
    reading.cpu_periods = named(&stat, "nr_periods").map(long);
    reading.cpu_throttled_periods = named(&stat, "nr_throttled").map(long);
    let throttled = if folder.unified {
        named(&stat, "throttled_usec").map(|micros| micros.saturating_mul(1_000))
    } else {
        named(&stat, "throttled_time")
    };
    reading.cpu_throttled_ns = throttled.map(long);
}

fn set_memory(reading: &mut ContainerSample, folder: &Folder) {
    let file = |name: &str| read(&folder.path.join(name)).unwrap_or_default();
    let stat = file("memory.stat");
    let (current, max, hits, prefix) = if folder.unified {
        let events = file("memory.events");
        reading.mem_oom_kills = named(&events, "oom_kill").map(long);
        reading.mem_swap_bytes = number(&folder.path.join("memory.swap.current")).map(long);
        reading.mem_anon_bytes = named(&stat, "anon").map(long);
        reading.mem_file_bytes = named(&stat, "file").map(long);
        let hits = named(&events, "max");
        (file("memory.current"), file("memory.max"), hits, "")
    } else {
        reading.mem_oom_kills = named(&file("memory.oom_control"), "oom_kill").map(long);
        reading.mem_swap_bytes = named(&stat, "total_swap").map(long);
        reading.mem_anon_bytes = named(&stat, "total_rss").map(long);
        reading.mem_file_bytes = named(&stat, "total_cache").map(long);
        let hits = number(&folder.path.join("memory.failcnt"));
        (
            file("memory.usage_in_bytes"),
            file("memory.limit_in_bytes"),
            hits,
            "total_",
        )
    };
    reading.mem_limit_hits = hits.map(long);
    reading.mem_limit_bytes = limit(&max).map(long);
    let current: Option<u64> = current.trim().parse().ok();
    reading.mem_current_bytes = current.map(long);
    let inactive = named(&stat, &format!("{prefix}inactive_file"));
    let used = current.zip(inactive);
    reading.mem_working_set_bytes = used.map(|(all, idle)| long(all.saturating_sub(idle)));
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, a device a line.
fn unified_io(text: &str, built: &BTreeSet<u64>) -> Io {
    let mut io = Io {
        bytes: (0, 0),
        ops: (0, 0),
    };
    for line in text.lines() {
        if is_built(line, built) {
            continue;
        }
        for field in line.split_ascii_whitespace() {
            let Some((name, number)) = field.split_once('=') else {
                continue;
            };
            let number: u64 = number.parse().unwrap_or(0);
            match name {
                "rbytes" => io.bytes.0 += number,
                "wbytes" => io.bytes.1 += number,
                "rios" => io.ops.0 += number,
                "wios" => io.ops.1 += number,
                _ => {}
            }
        }
    }
    io
}

/// `8:0 Read 1`, `8:0 Write 2` and others, and `Total 3` at the end.
fn old_io(text: &str, built: &BTreeSet<u64>) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in text.lines().filter(|line| !is_built(line, built)) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[_, what, number] = &*fields else {
            continue;
        };
        let number: u64 = number.parse().unwrap_or(0);
        match what {
            "Read" => sums.0 += number,
            "Write" => sums.1 += number,
            _ => {}
        }
    }
    sums
}

fn is_built(line: &str, built: &BTreeSet<u64>) -> bool {
    let major = line
        .split_once(':')
        .and_then(|(major, _)| major.parse().ok());
    major.is_some_and(|major| built.contains(&major))
}

/// Numbers of the drivers that build devices of others, from `/proc/devices`.
fn built(devices: &str) -> BTreeSet<u64> {
    let blocks = devices
        .split_once("Block devices:")
        .map_or("", |(_, rest)| rest);
    let built = blocks.lines().filter_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        let of_others = ["loop", "md", "mdp", "device-mapper", "drbd", "bcache"];
        of_others
            .contains(&name.trim())
            .then(|| major.parse().ok())?
    });
    built.collect()
}

#[cfg(test)]
mod tests;
