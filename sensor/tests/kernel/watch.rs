//! A loaded probe and what it sees of one child.

use std::path::Path;
use std::time::Duration;

use dogwatch_ebpf::record::Record;
use dogwatch_ebpf::{Joiner, parse};
use dogwatch_sensor::probe::{Hierarchy, Mode, Probe, ProbeOptions};

use crate::act;

pub struct Watch {
    pub probe: Probe,
    joiner: Joiner,
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
            let probe = Probe::load(options).unwrap_or_else(|error| panic!("{error}"));
            return Some(Self {
                probe,
                joiner: Joiner::default(),
            });
        };
        eprintln!("not run: {reason}");
        None
    }

    /// With this mode for the cgroup the test runs in.
    pub fn start_at(mode: Mode) -> Option<Self> {
        let hierarchy = Hierarchy::find().ok()?;
        let modes = vec![(own_cgroup(&hierarchy), mode)];
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
        let Self { probe, joiner } = self;
        let mut take =
            |bytes: &[u8]| joiner.push(parse(bytes).unwrap(), &mut |record| records.push(record));
        while probe.drain(Duration::ZERO, &mut take) > 0 {}
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
