//! Proves at start-up that the hooks fire, and learns the sensor's own process id as the kernel sees it.
//!
//! A program can load and attach and still never run (seen with fexit on 6.12), and a silent sensor is worse than none. So
//! the sensor opens a file that does not exist, connects a datagram socket on loopback (which sends nothing) and starts a
//! child, and looks for all of it in the ring. Other processes' records that come meanwhile are kept for the first drain.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch_ebpf::control::Settings;
use dogwatch_ebpf::record::Record;
use dogwatch_ebpf::{Raw, counted_as, parse};

use crate::probe::ProbeError;
use crate::ring::{BATCH_RECORDS_MAX, Ring};

const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of other processes' records kept meanwhile. Further ones are counted as records that found no room, so that a host
/// that is flooded can be watched all the same.
pub(crate) const KEPT_BYTES_MAX: usize = 4 << 20;

/// Who the canary is, as far as it can know by itself.
pub(crate) struct Canary {
    pid: u32,
    pid_ns: u32,
    marker: String,
}

/// What the canary brought.
pub(crate) struct Outcome {
    pub own_pid: u32,
    /// Records of other processes, in order.
    pub others: Vec<Vec<u8>>,
    /// Further ones that were not kept, by kind.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Canary {
    pub(crate) fn new() -> Result<Self, ProbeError> {
        let namespace = "/proc/self/ns/pid";
        let metadata = std::fs::metadata(namespace).map_err(|source| ProbeError::Unreadable {
            path: namespace.into(),
            source,
        })?;
        let pid = std::process::id();
        Ok(Self {
            pid,
            pid_ns: metadata.ino() as u32,
            marker: format!("/dogwatch-canary-{pid}-{}", rand::random::<u64>()),
        })
    }

    /// Lets the kernel part capture this process whatever its cgroup's mode.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            canary_pid_ns: self.pid_ns,
            canary_pid: self.pid,
            ..Settings::default()
        }
    }

    /// Does what must be seen and looks for it.
    pub(crate) fn run(&self, ring: &mut Ring) -> Result<Outcome, ProbeError> {
        let _ = std::fs::File::open(&self.marker);
        connect().map_err(|source| ProbeError::Canary {
            step: "a socket on loopback",
            source,
        })?;
        let child = start_child().map_err(|source| ProbeError::Canary {
            step: "starting /proc/self/exe",
            source,
        })?;

        let mut sightings = Sightings::default();
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mut dropped: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut kept_bytes = 0;
        let end = Instant::now() + PATIENCE;
        while !sightings.missing().is_empty() && Instant::now() < end {
            ring.drain(Duration::from_millis(1), BATCH_RECORDS_MAX, &mut |record| {
                sightings.look_at(record, &self.marker, child);
                if kept_bytes + record.len() <= KEPT_BYTES_MAX {
                    kept_bytes += record.len();
                    records.push(record.to_vec());
                } else if let Some(kind) = counted_as(record) {
                    *dropped.entry(kind).or_default() += 1;
                }
            });
        }
        let missing = sightings.missing();
        if !missing.is_empty() {
            return Err(ProbeError::SilentHooks {
                missing: missing.join(", "),
            });
        }
        let own = [sightings.own_pid, sightings.child_pid];
        records
            .retain(|record| !parse(record).is_ok_and(|raw| own.contains(&Some(raw.header().pid))));
        Ok(Outcome {
            own_pid: sightings.own_pid.unwrap_or(self.pid),
            others: records,
            dropped,
        })
    }
}

/// Where loopback is down the call fails, which is a record as well.
fn connect() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    let _ = socket.connect("127.0.0.1:9");
    Ok(())
}

/// Starts this very program and ends it at once: `spawn` returns when the exec is done. Returns its process id.
fn start_child() -> io::Result<u32> {
    let mut child = Command::new("/proc/self/exe")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.kill()?;
    child.wait()?;
    Ok(child.id())
}

/// What was seen so far. The open comes first in the ring and tells the own pid, the fork tells the child's.
#[derive(Debug, Default)]
struct Sightings {
    own_pid: Option<u32>,
    child_pid: Option<u32>,
    connected: bool,
    executed: bool,
    exited: bool,
}

impl Sightings {
    fn look_at(&mut self, record: &[u8], marker: &str, child: u32) {
        let Ok(raw) = parse(record) else { return };
        let pid = Some(raw.header().pid);
        match raw {
            Raw::Whole(Record::Open { header, raw, .. }) if raw == marker.as_bytes() => {
                self.own_pid = Some(header.pid)
            }
            Raw::Whole(Record::Called(called))
                if pid == self.own_pid && called.call.name == "connect" =>
            {
                self.connected = true
            }
            Raw::Whole(Record::Fork {
                child_pid,
                child_vpid,
                ..
            }) if pid == self.own_pid && child_vpid == child => {
                self.child_pid = Some(child_pid);
            }
            Raw::Whole(Record::Exec(_)) | Raw::ExecStart { .. } if pid == self.child_pid => {
                self.executed = true
            }
            Raw::Whole(Record::Exit { .. }) if pid == self.child_pid => self.exited = true,
            _ => {}
        }
    }

    fn missing(&self) -> Vec<&'static str> {
        let seen = [
            ("open", self.own_pid.is_some()),
            ("connect", self.connected),
            ("fork", self.child_pid.is_some()),
            ("exec", self.executed),
            ("exit", self.exited),
        ];
        seen.into_iter()
            .filter(|(_, seen)| !seen)
            .map(|(what, _)| what)
            .collect()
    }
}
