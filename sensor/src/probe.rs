//! The kernel side: loads the programs of `dogwatch-ebpf`, attaches them, proves that they fire, and talks to them.
//!
//! ```text
//! Probe::load:  types of the kernel ─► object with constants ─► maps filled ─► attached ─► canary ─► own pid known
//! afterwards:   drain (records) · set_mode, forget (cgroups) · counters (sent, dropped, filtered, missed) · detach
//! ```
//!
//! **Modes.** The kernel part looks the mode of a process's cgroup up in a map. A cgroup that is not in the map is at
//! [`Mode::Normal`], so the first event of a container is captured before anybody knows of it. The owner of a `Probe`
//! therefore gives [`ProbeOptions::modes`] of all cgroups that exist and are no container's (usually [`Mode::Lifecycle`]),
//! and calls [`Probe::set_mode`] when one appears that is no container's, [`Probe::forget`] when one goes.
//! The making and removing of cgroups and moves between them come whatever the mode.
//!
//! It does not parse records: the ring's bytes go out as they are.

mod calls;
mod capabilities;
mod error;
mod failures;
mod hierarchy;
mod limits;
mod missed;
mod net_bytes;
mod open_files;
mod seccomp;
mod shares;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use dogwatch_ebpf::control::{self, CpuCounters, FilterReason, PathEntry, Settings};
use dogwatch_schemas::reads::{self, ReadPattern};

pub use calls::{CallSet, UnknownCall};
pub use capabilities::{KEPT, drop_capabilities};
pub(crate) use capabilities::{has, missing_to_load};
pub use dogwatch_ebpf::control::Mode;
pub use error::ProbeError;
pub(crate) use error::{Lockdown, SHARE_PIDS, counts_locked_memory, lockdown, locked_memory_limit};
pub use failures::{Failed, FailedCalls};
pub use hierarchy::{Hierarchy, HierarchyKind};
use limits::raise_locked_memory_limit;
pub(crate) use limits::raise_open_files;
pub(crate) use net_bytes::tells as tells_net_bytes;
pub use net_bytes::{Carried, CarriedBytes, Grown};
pub use open_files::{OpenFiles, Walk};
pub(crate) use seccomp::allow_only;
pub use seccomp::{Programs, refuse_calls};
pub use shares::{ClassRates, Counted, Folded, Limited, Policy, Rates};
use shares::{PodPolicy, Tallies};

use crate::canary::{self, KEPT_BYTES_MAX};
pub use crate::ring::Drained;
use crate::ring::{BATCH_RECORDS_MAX, Ring};

/// Program and tracepoint, all needed.
const HOOKS: [(&str, &str); 8] = [
    ("on_exec", "sched_process_exec"),
    ("on_fork", "sched_process_fork"),
    ("on_exit", "sched_process_exit"),
    ("on_sys_exit", "sys_exit"),
    ("on_tcp_state", "inet_sock_set_state"),
    ("on_cgroup_mkdir", "cgroup_mkdir"),
    ("on_cgroup_rmdir", "cgroup_rmdir"),
    ("on_cgroup_attach_task", "cgroup_attach_task"),
];

const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Host paths of which every opening for writing is captured at [`Mode::Lifecycle`]; each with all below it.
pub const HOST_WRITE_PATHS: [&str; 13] = [
    "/etc",
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/boot",
    "/root/.ssh",
    "/var/spool/cron",
];

/// How to load the kernel part.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Size of the ring, bytes; raised to the next power of two that is a multiple of the page size.
    pub ring_bytes: u32,
    /// See [`HOST_WRITE_PATHS`], the default.
    pub host_write_paths: Vec<String>,
    /// Files whose reading is captured every time; [`reads::default_patterns`] where nothing else is said.
    pub sensitive_read_paths: Vec<ReadPattern>,
    /// The hierarchy to use; found by [`Hierarchy::find`] when not given.
    pub hierarchy: Option<Hierarchy>,
    /// How much each container may send, and all together.
    pub rates: Rates,
    /// Which system calls are seen; all, the default.
    pub calls: CallSet,
    /// Modes known before the programs are attached. The sensor's own cgroup must not be at [`Mode::Off`]: the canary's
    /// child would not be seen. What the map (16,384 cgroups) has no room for stays at [`Mode::Normal`].
    pub modes: Vec<(u64, Policy)>,
    /// Whether calls that fail are counted, for samples.
    pub failed_calls: bool,
    /// Whether open files are to be read, for samples.
    pub open_files: bool,
    /// Whether bytes that processes send and receive are counted, for samples, where the kernel can.
    pub net_bytes: bool,
    /// The kernel programs, as clang made them; [`dogwatch_ebpf::OBJECT`], the default, but in tests of other compilers.
    pub object: &'static [u8],
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            host_write_paths: HOST_WRITE_PATHS.map(String::from).to_vec(),
            sensitive_read_paths: reads::default_patterns(),
            hierarchy: None,
            rates: Rates::default(),
            calls: CallSet::default(),
            modes: Vec::new(),
            failed_calls: true,
            open_files: true,
            net_bytes: true,
            object: dogwatch_ebpf::OBJECT,
        }
    }
}

/// What the kernel part counted since it was loaded, all CPUs together. A kind is that of a record, or a system call's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Records the ring took, by kind.
    pub sent: BTreeMap<&'static str, u64>,
    /// Records the ring had no room for, by kind.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records for which the rest of the ring was not meant, by kind.
    pub crowded: BTreeMap<&'static str, u64>,
    /// Records for which a share had nothing left, by kind.
    pub limited: BTreeMap<&'static str, u64>,
    /// Records that came while another one was being made on their CPU, by kind.
    pub interrupted: BTreeMap<&'static str, u64>,
    /// What was seen and not sent, by reason.
    pub filtered: BTreeMap<&'static str, u64>,
    /// Runs of programs that the kernel skipped, by the kind of record they send; from 5.12 on.
    pub missed: BTreeMap<&'static str, u64>,
    /// Cgroups that are captured at [`Mode::Normal`], each with a share of its own, since no room was left for what was set.
    pub modes_refused: u64,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCounters(CpuCounters);
// SAFETY: integers only, no padding.
unsafe impl Pod for PodCounters {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodSettings(Settings);
// SAFETY: integers only, no padding.
unsafe impl Pod for PodSettings {}

/// The loaded and attached kernel part; detached by [`Probe::detach`] or when dropped.
pub struct Probe {
    ring: Ring,
    modes: HashMap<MapData, u64, PodPolicy>,
    settings: Array<MapData, PodSettings>,
    counters: PerCpuArray<MapData, PodCounters>,
    tallies: Tallies,
    hierarchy: Hierarchy,
    own_pid: u32,
    /// Records that came while the canary ran, for the first `drain`.
    early: Vec<Vec<u8>>,
    /// Records that came while the canary ran and were not kept, by kind.
    early_dropped: BTreeMap<&'static str, u64>,
    /// Cgroups for which the map of modes had no room.
    modes_refused: u64,
    /// Calls that failed, until the samples take them.
    failed_calls: Option<FailedCalls>,
    /// The way to read open files, until the samples take it; or why there is none.
    open_files: Result<Option<OpenFiles>, ProbeError>,
    /// Bytes that processes sent and received, until the samples take them; or why there are none.
    net_bytes: Result<Option<CarriedBytes>, ProbeError>,
    /// Holds the programs and their links.
    programs: Ebpf,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
}

impl Probe {
    /// Loads and attaches the kernel part and proves with a canary (an exec, fork, exit, open and connect of its own)
    /// that its hooks fire.
    ///
    /// # Errors
    /// When the kernel, the capabilities or the mounts do not allow it; the message says what helps.
    pub fn load(options: &ProbeOptions) -> Result<Self, ProbeError> {
        let hierarchy = options.hierarchy.clone().map_or_else(Hierarchy::find, Ok)?;
        let types = Btf::from_sys_fs().map_err(|source| ProbeError::NoTypeInformation {
            path: TYPES.into(),
            source: source.into(),
        })?;
        raise_locked_memory_limit();
        let mut programs = load_object(options, &hierarchy, &types)?;
        load_programs(&mut programs, &types)?;
        fill_path_lists(&mut programs, options)?;
        let mut probe = Self::from_maps(programs, hierarchy)?;
        if options.open_files {
            probe.open_files = OpenFiles::load(&mut probe.programs, &types).map(Some);
        }
        if options.net_bytes {
            probe.net_bytes = probe.count_net_bytes(&types).map(Some);
        }
        // Parsed type information holds 27 MB; without the trim the allocator keeps it.
        drop(types);
        trim_memory();

        probe.set_modes(&options.modes);
        let canary = canary::Canary::new()?;
        probe.change_settings(canary.settings())?;
        probe.links.extend(attach(&mut probe.programs)?);
        let outcome = canary.run(&mut probe.ring)?;
        refuse_private_pids(outcome.own_pid)?;
        probe.own_pid = outcome.own_pid;
        probe.early = outcome.others;
        probe.early_dropped = outcome.dropped;
        probe.change_settings(Settings {
            own_pid: outcome.own_pid,
            ..Settings::default()
        })?;
        Ok(probe)
    }

    fn from_maps(mut programs: Ebpf, hierarchy: Hierarchy) -> Result<Self, ProbeError> {
        let Map::RingBuf(ring) = take_map(&mut programs, "ring") else {
            unreachable!("the object is built with this crate, and its ring is one");
        };
        let ring = Ring::new(ring).map_err(|source| map_error("map the ring", source))?;
        let limited = take(&mut programs, "limited")?;
        let folded = take(&mut programs, "folded")?;
        let failures = take(&mut programs, "failures")?;
        let fresh = take(&mut programs, "failures_new")?;
        let refused = take(&mut programs, "failures_refused")?;
        Ok(Self {
            ring,
            tallies: Tallies::new(limited, folded),
            modes: take(&mut programs, "modes")?,
            settings: take(&mut programs, "settings")?,
            counters: take(&mut programs, "counters")?,
            hierarchy,
            own_pid: 0,
            early: Vec::new(),
            early_dropped: BTreeMap::new(),
            modes_refused: 0,
            failed_calls: Some(FailedCalls::new(failures, fresh, refused)),
            open_files: Ok(None),
            net_bytes: Ok(None),
            programs,
            links: Vec::new(),
        })
    }

    /// Counts bytes from now on; of sockets of UDP the iterator of open files tells them.
    fn count_net_bytes(&mut self, types: &Btf) -> Result<CarriedBytes, ProbeError> {
        self.links
            .extend(net_bytes::attach(&mut self.programs, types)?);
        if let Ok(Some(files)) = &mut self.open_files {
            files.tell_bytes();
        }
        CarriedBytes::new(&mut self.programs)
    }

    /// The cgroup hierarchy in use.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The sensor's process id in the initial pid namespace.
    pub fn own_pid(&self) -> u32 {
        self.own_pid
    }

    /// A host with more cgroups than the map holds is watched all the same: of the rest more is seen, not less.
    fn set_modes(&mut self, modes: &[(u64, Policy)]) {
        let refused = modes
            .iter()
            .filter(|(cgroup_id, policy)| self.set_mode(*cgroup_id, *policy).is_err())
            .count();
        if refused > 0 {
            tracing::warn!(
                cgroups = modes.len(),
                refused,
                "there are more cgroups than the kernel part can hold: the rest is captured at normal"
            );
        }
    }

    /// Sets what is captured of a cgroup's processes, and whose share they use. A cgroup at [`Mode::Normal`] with a share of
    /// its own takes no room: it is what the kernel part takes one for that is not in the map.
    ///
    /// # Errors
    /// When the map (16,384 cgroups) is full; [`KernelCounters::modes_refused`] counts it.
    pub fn set_mode(
        &mut self,
        cgroup_id: u64,
        policy: impl Into<Policy>,
    ) -> Result<(), ProbeError> {
        let policy = policy.into();
        if policy.mode == Mode::Normal && policy.container.is_none_or(|own| own == cgroup_id) {
            self.forget(cgroup_id);
            return Ok(());
        }
        let set = self.modes.insert(cgroup_id, policy.of_cgroup(cgroup_id), 0);
        self.modes_refused += u64::from(set.is_err());
        set.map_err(|source| map_error("set a cgroup's mode", source))
    }

    /// Forgets a cgroup that is gone; one that is not known is fine.
    pub fn forget(&mut self, cgroup_id: u64) {
        // The only way to fail is that it is not there.
        let _ = self.modes.remove(&cgroup_id);
    }

    /// Waits at most `wait` (20 ms is usual), then hands each waiting record to `sink`, oldest first.
    /// Stops after 16,384 records, so that the caller gets to its other duties.
    pub fn drain(&mut self, wait: Duration, sink: &mut dyn FnMut(&[u8])) -> Drained {
        self.drain_some(wait, BATCH_RECORDS_MAX, sink)
    }

    /// As [`Probe::drain`], but stops after `records_max`; those kept early come on top.
    pub fn drain_some(
        &mut self,
        wait: Duration,
        records_max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Drained {
        let early = std::mem::take(&mut self.early);
        early.iter().for_each(|record| sink(record));
        let mut drained = self.ring.drain(wait, records_max, sink);
        drained.records += early.len();
        drained
    }

    /// Takes records out of the ring for the first `drain`, so that it does not fill while the caller looks around; no more
    /// than 4 MiB, the rest stays in the ring.
    pub fn keep_early(&mut self) {
        let early = &mut self.early;
        let mut kept_bytes: usize = early.iter().map(Vec::len).sum();
        let mut emptied = false;
        while !emptied && kept_bytes < KEPT_BYTES_MAX {
            let mut keep = |record: &[u8]| {
                kept_bytes += record.len();
                early.push(record.to_vec());
            };
            emptied = self.ring.drain(Duration::ZERO, 16, &mut keep).emptied;
        }
    }

    /// Ends the recording; what is in the ring can still be drained, and the counters be read.
    pub fn detach(&mut self) {
        for (name, link) in self.links.drain(..) {
            // Detaching closes a descriptor: it cannot fail in a way that leaves the program attached.
            if let Ok(program) = program(&mut self.programs, name) {
                let _ = program.detach(link);
            }
        }
    }

    /// What was counted since the start.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn counters(&self) -> Result<KernelCounters, ProbeError> {
        let cpus = self
            .counters
            .get(&0, 0)
            .map_err(|source| map_error("read the counters", source))?;
        let mut total = KernelCounters::default();
        for PodCounters(cpu) in cpus.iter() {
            for (number, name) in control::counted_names() {
                for (sum, counts) in [
                    (&mut total.sent, &cpu.sent),
                    (&mut total.dropped, &cpu.dropped),
                    (&mut total.crowded, &cpu.crowded),
                    (&mut total.limited, &cpu.limited),
                    (&mut total.interrupted, &cpu.interrupted),
                ] {
                    *sum.entry(name).or_default() += counts[number];
                }
            }
            for reason in FilterReason::ALL {
                *total.filtered.entry(reason.name()).or_default() += cpu.filtered[*reason as usize];
            }
        }
        total.missed = missed::count(&self.programs);
        total.modes_refused = self.modes_refused;
        for (kind, count) in &self.early_dropped {
            *total.dropped.entry(kind).or_default() += count;
        }
        Ok(total)
    }

    /// What shares refused since the last call; `now_ns` is since boot.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn limited(&mut self, now_ns: u64) -> Result<Vec<Limited>, ProbeError> {
        self.tallies.limited(now_ns)
    }

    /// The counts of calls that failed; who takes them reads them from then on.
    pub fn take_failed_calls(&mut self) -> Option<FailedCalls> {
        self.failed_calls.take()
    }

    /// The way to read open files, once; none where it was not asked for.
    ///
    /// # Errors
    /// When the kernel refused the iterator; all else of the sensor runs without it.
    pub fn take_open_files(&mut self) -> Result<Option<OpenFiles>, ProbeError> {
        std::mem::replace(&mut self.open_files, Ok(None))
    }

    /// The counts of bytes that processes send and receive, once; none where they were not asked for.
    ///
    /// # Errors
    /// When the kernel has no such tracepoints or refused the programs; all else of the sensor runs without them.
    pub fn take_net_bytes(&mut self) -> Result<Option<CarriedBytes>, ProbeError> {
        std::mem::replace(&mut self.net_bytes, Ok(None))
    }

    /// Repeats of failed opens since the last call. The kernel part keeps a number 30 s for it.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn folded(&mut self) -> Result<Vec<Folded>, ProbeError> {
        self.tallies.folded()
    }

    fn change_settings(&mut self, settings: Settings) -> Result<(), ProbeError> {
        self.settings
            .set(0, PodSettings(settings), 0)
            .map_err(|source| map_error("change the settings", source))
    }
}

fn load_object(
    options: &ProbeOptions,
    hierarchy: &Hierarchy,
    types: &Btf,
) -> Result<Ebpf, ProbeError> {
    let ring_bytes = options
        .ring_bytes
        .clamp(64 << 10, 1 << 30)
        .next_power_of_two();
    let costs = options.rates.costs();
    // Where nothing counts them, the iterator of open files is not to ask for them either.
    let net_bytes = options.net_bytes && net_bytes::tells();
    EbpfLoader::new()
        .btf(Some(types))
        .map_max_entries("ring", ring_bytes)
        .override_global("wake_bytes", &u64::from(ring_bytes / 16), true)
        .override_global("crowded_bytes", &u64::from(ring_bytes / 4 * 3), true)
        .override_global("texts_bytes", &u64::from(ring_bytes / 2), true)
        .override_global("rates", costs.as_slice(), true)
        .override_global("text_byte_ns", &options.rates.text_byte_ns(), true)
        .override_global("hash_seed", &rand::random::<u64>(), true)
        .override_global("burst_bytes", &u64::from(ring_bytes / 8), true)
        .override_global("switched_off", options.calls.off().as_slice(), true)
        .override_global("failures_wanted", &u8::from(options.failed_calls), true)
        .override_global("net_bytes_wanted", &u8::from(net_bytes), true)
        .override_global("hierarchy_kind", &(hierarchy.kind as u32), true)
        .override_global("hierarchy_id", &hierarchy.id, true)
        .load(options.object)
        .map_err(|source| error::refusal("the programs and their maps", source))
}

fn load_programs(programs: &mut Ebpf, types: &Btf) -> Result<(), ProbeError> {
    for (name, hook) in HOOKS {
        program(programs, name)?
            .load(hook, types)
            .map_err(|source| match source {
                ProgramError::Btf(_) => ProbeError::MissingHook { hook },
                source => error::refusal(name, source),
            })?;
    }
    Ok(())
}

fn attach(programs: &mut Ebpf) -> Result<Vec<(&'static str, BtfTracePointLinkId)>, ProbeError> {
    HOOKS
        .into_iter()
        .map(|(name, _)| {
            let link = program(programs, name)?.attach();
            Ok((name, link.map_err(|source| error::refusal(name, source))?))
        })
        .collect()
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, ProbeError> {
    let program = programs
        .program_mut(name)
        .expect("the object is built with this crate and has all of HOOKS");
    program
        .try_into()
        .map_err(|source| error::refusal(name, source))
}

fn take<M: TryFrom<Map, Error = MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<M, ProbeError> {
    take_map(programs, name)
        .try_into()
        .map_err(|source| map_error("open a map", source))
}

fn take_map(programs: &mut Ebpf, name: &'static str) -> Map {
    programs
        .take_map(name)
        .expect("the object is built with this crate and has this map")
}

fn map_error(doing: &'static str, source: impl Error + Send + Sync + 'static) -> ProbeError {
    ProbeError::Map {
        doing,
        source: Box::new(source),
    }
}

fn fill_path_lists(programs: &mut Ebpf, options: &ProbeOptions) -> Result<(), ProbeError> {
    let (mut paths, mut names) = (Vec::new(), Vec::new());
    for pattern in &options.sensitive_read_paths {
        let in_list = match pattern {
            ReadPattern::Path(path) => control::path_entries(path).map(|own| paths.extend(own)),
            ReadPattern::PathStart(start) => control::start_entry(start).map(|own| paths.push(own)),
            ReadPattern::Name(name) => name_entry(name).map(|own| names.push(own)),
        };
        in_list.ok_or_else(|| bad_path("sensitive_read_paths", &pattern.to_string()))?;
    }
    fill_list(programs, "sensitive_names", &names)?;
    fill_list(programs, "sensitive_reads", &paths)?;
    let mut writes = Vec::new();
    for path in &options.host_write_paths {
        let own = control::path_entries(path).ok_or_else(|| bad_path("host_write_paths", path))?;
        writes.extend(own);
    }
    fill_list(programs, "host_writes", &writes)
}

/// The entry of a name in the kernel's list: by itself, or behind its folder's.
fn name_entry(name: &reads::Name) -> Option<PathEntry> {
    let end = match &name.folder {
        Some(folder) => format!("/{folder}/{}", name.name),
        None => name.name.clone(),
    };
    if name.open_end {
        control::start_entry(&end)
    } else {
        control::name_entry(&end)
    }
}

fn bad_path(list: &'static str, path: &str) -> ProbeError {
    ProbeError::BadPath {
        list,
        path: path.to_owned(),
    }
}

fn fill_list(
    programs: &mut Ebpf,
    map: &'static str,
    entries: &[PathEntry],
) -> Result<(), ProbeError> {
    let mut trie: LpmTrie<MapData, [u8; control::PATH_KEY_BYTES], u32> = take(programs, map)?;
    for (bits, bytes) in entries {
        let key = Key::new(*bits, *bytes);
        trie.insert(&key, 1, 0)
            .map_err(|source| map_error("fill a list of paths", source))?;
    }
    Ok(())
}

/// What `/proc` shows must be the processes that the kernel part sees.
fn refuse_private_pids(on_host: u32) -> Result<(), ProbeError> {
    let in_proc = std::fs::read_link("/proc/self")
        .ok()
        .and_then(|link| link.to_str()?.parse().ok())
        .unwrap_or(0);
    match [std::process::id(), in_proc]
        .into_iter()
        .find(|pid| *pid != on_host)
    {
        Some(inside) => Err(ProbeError::PrivatePids { inside, on_host }),
        None => Ok(()),
    }
}

fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The running kernel's version, (0, 0) when it cannot be told.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release =
        std::fs::read_to_string(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
