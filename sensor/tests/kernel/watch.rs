//! A loaded probe and what it sees of one child.
//!
//! Loading takes a third of a second, and seconds where the processor is emulated, so a test hands its probe on to the
//! next one that wants the same.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch_ebpf::record::Record;
use dogwatch_ebpf::{Joiner, parse};
use dogwatch_sensor::probe::{Hierarchy, Mode, Probe, ProbeOptions};

use crate::act;

pub struct Watch {
    pub probe: Lent,
    joiner: Joiner,
    /// Records of all processes seen.
    seen: usize,
}

/// A probe that goes back to the idle ones.
pub struct Lent {
    probe: Option<Probe>,
    options: ProbeOptions,
}

static IDLE: Mutex<Vec<Lent>> = Mutex::new(Vec::new());

/// Another compiler's kernel programs, where the environment names a file.
static OBJECT: LazyLock<Option<&'static [u8]>> = LazyLock::new(|| {
    let path = std::env::var_os("DOGWATCH_OBJECT")?;
    let object = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    Some(object.leak())
});

fn under_test(options: &ProbeOptions) -> ProbeOptions {
    ProbeOptions {
        object: OBJECT.unwrap_or(options.object),
        ..options.clone()
    }
}

impl Lent {
    fn take(options: ProbeOptions) -> Self {
        let found = {
            let mut idle = idle();
            let wanted = description(&options);
            let same = idle
                .iter()
                .position(|lent| description(&lent.options) == wanted);
            same.map(|index| idle.swap_remove(index))
        };
        found.unwrap_or_else(|| {
            let probe = Probe::load(&options).unwrap_or_else(|error| panic!("{error}"));
            let probe = Some(probe);
            Self { probe, options }
        })
    }
}

/// All options but the programs, which are the same for all.
fn description(options: &ProbeOptions) -> String {
    let options = ProbeOptions {
        object: &[],
        ..options.clone()
    };
    format!("{options:?}")
}

fn idle() -> MutexGuard<'static, Vec<Lent>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Lent {
    type Target = Probe;
    fn deref(&self) -> &Probe {
        self.probe.as_ref().unwrap()
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Probe {
        self.probe.as_mut().unwrap()
    }
}

impl Drop for Lent {
    /// As it was when it was loaded; a test that failed leaves nothing to the next.
    fn drop(&mut self) {
        let Some(mut probe) = self.probe.take() else {
            return;
        };
        if std::thread::panicking() {
            return;
        }
        probe.forget(own_cgroup(probe.hierarchy()));
        for (id, mode) in &self.options.modes {
            probe.set_mode(*id, *mode).unwrap();
        }
        let options = self.options.clone();
        let probe = Some(probe);
        idle().push(Self { probe, options });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Counted where the test runs on other kernels.
        eprintln!("records: {}", self.seen);
    }
}

impl Watch {
    /// `None`, with the reason on standard error, where this process may not load kernel programs.
    pub fn start(options: &ProbeOptions) -> Option<Self> {
        // SAFETY: no arguments, cannot fail.
        let reason = if unsafe { libc::geteuid() } != 0 {
            "not root"
        } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            "the kernel has no type information"
        } else {
            let mut watch = Self {
                probe: Lent::take(under_test(options)),
                joiner: Joiner::default(),
                seen: 0,
            };
            // What happened while nobody watched.
            watch.records();
            watch.seen = 0;
            return Some(watch);
        };
        eprintln!("not run: {reason}");
        None
    }

    /// With this mode for the cgroup the test runs in.
    pub fn start_at(mode: Mode) -> Option<Self> {
        let hierarchy = Hierarchy::find().ok()?;
        let modes = vec![(own_cgroup(&hierarchy), mode.into())];
        Self::start(&ProbeOptions {
            modes,
            ..ProbeOptions::default()
        })
    }

    /// Runs `action` in a child and returns the child's records, its exit's included.
    pub fn see(&mut self, action: impl FnOnce()) -> Vec<Record> {
        let pid = act::in_child(action);
        self.records()
            .into_iter()
            .filter(|record| record.header().pid == pid)
            .collect()
    }

    /// Runs `action` in a child and returns its process id and the records of all processes since the last look.
    pub fn see_all(&mut self, action: impl FnOnce()) -> (u32, Vec<Record>) {
        let pid = act::in_child(action);
        (pid, self.records())
    }

    /// All records up to now.
    pub fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        let Self { probe, joiner, .. } = self;
        let mut take =
            |bytes: &[u8]| joiner.push(parse(bytes).unwrap(), &mut |record| records.push(record));
        while probe.drain(Duration::ZERO, &mut take).records > 0 {}
        self.seen += records.len();
        records
    }

    pub fn filtered(&self, reason: &str) -> u64 {
        self.probe.counters().unwrap().filtered[reason]
    }
}

pub fn own_cgroup(hierarchy: &Hierarchy) -> u64 {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = cgroups
        .lines()
        .find_map(|line| hierarchy.path_in(line))
        .unwrap();
    let folder = hierarchy.mount.join(path.trim_start_matches('/'));
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(folder).unwrap())
}

/// Bytes as text, for comparing and for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
