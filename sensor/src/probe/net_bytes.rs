//! Bytes that sends and receives returned, by process: two programs of their own, on tracepoints that not every kernel has, and
//! the table that they keep, read and cleared every round of samples.

use std::collections::HashMap;

use aya::maps::{self, Array, MapData};
use aya::programs::ProgramError;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::{Btf, Ebpf};
use dogwatch_ebpf::control::{NetBytes, NetBytesKey};

use super::shares::{PodNetBytes, PodNetBytesKey};
use super::{ProbeError, TYPES, error, map_error, program, take};

/// Program and tracepoint.
const HOOKS: [(&str, &str); 2] = [
    ("on_sent", "sock_send_length"),
    ("on_received", "sock_recv_length"),
];
/// Entries read in one go; the map is smaller, and one that changes meanwhile may show some twice.
const ENTRIES_MAX: usize = 32_768;
/// Entries of one share that stay for the next round; they are the most that grow in it at once.
const STAYING_MAX: usize = 2_048;
/// Places of `net_bytes_refused`.
const OF_PROCESSES: u32 = 0;
const OF_SOCKETS: u32 = 1;

/// Bytes that processes sent and received by IP sockets.
pub struct CarriedBytes {
    bytes: maps::HashMap<MapData, PodNetBytesKey, PodNetBytes>,
    fresh: maps::HashMap<MapData, u64, u64>,
    refused: Array<MapData, u64>,
    /// What was read before.
    before: HashMap<NetBytesKey, NetBytes>,
    /// What was refused by then.
    refused_before: [u64; 2],
}

/// What was sent and received since the last reading.
#[derive(Debug, Default)]
pub struct Carried {
    /// Each process with what was added.
    pub grown: Vec<Grown>,
    /// Sends and receives of processes that were counted nowhere: there may be some of each process that has no row here, or
    /// whose row is not whole.
    pub refused: u64,
    /// Those that were not counted of sockets of UDP.
    pub refused_of_sockets: u64,
}

/// What a process sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// When the process began, nanoseconds since boot.
    pub start_ns: u64,
    /// The process.
    pub pid: u32,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// The process was counted before this interval, so nothing of it was refused in it.
    pub whole: bool,
}

/// Whether the kernel has the tracepoints. Where its types cannot be read nothing can be loaded, which is told by itself.
pub(crate) fn tells() -> bool {
    let Ok(types) = std::fs::read(TYPES) else {
        return true;
    };
    HOOKS.iter().all(|(_, hook)| {
        let name = format!("btf_trace_{hook}");
        let mut names = types.split(|byte| *byte == 0);
        names.any(|text| text == name.as_bytes())
    })
}

/// Loads and attaches the programs; returns their links.
///
/// # Errors
/// When the kernel has no such tracepoints, or refuses the programs.
pub(super) fn attach(
    programs: &mut Ebpf,
    types: &Btf,
) -> Result<Vec<(&'static str, BtfTracePointLinkId)>, ProbeError> {
    for (name, hook) in HOOKS {
        program(programs, name)?
            .load(hook, types)
            .map_err(|source| match source {
                ProgramError::Btf(_) => ProbeError::NoNetBytes,
                source => error::refusal(name, source),
            })?;
    }
    let attached = HOOKS.into_iter().map(|(name, _)| {
        let link = program(programs, name)?.attach();
        Ok((name, link.map_err(|source| error::refusal(name, source))?))
    });
    attached.collect()
}

impl CarriedBytes {
    pub(super) fn new(programs: &mut Ebpf) -> Result<Self, ProbeError> {
        Ok(Self {
            bytes: take(programs, "net_bytes")?,
            fresh: take(programs, "net_bytes_new")?,
            refused: take(programs, "net_bytes_refused")?,
            before: HashMap::new(),
            refused_before: [0; 2],
        })
    }

    /// What was sent and received since the last call. Entries that have not grown are removed, and those of processes that
    /// are `gone`. Each is read once more just before: only what is sent between that reading and the removal is not counted.
    ///
    /// # Errors
    /// When the kernel refuses to read the maps.
    pub fn read(&mut self, gone: &dyn Fn(u32) -> bool) -> Result<Carried, ProbeError> {
        let mut now = HashMap::with_capacity(self.before.len());
        let mut carried = Carried::default();
        let mut over = Vec::new();
        let mut staying: HashMap<u64, usize> = HashMap::new();
        for entry in self.bytes.iter().take(ENTRIES_MAX) {
            let (PodNetBytesKey(key), PodNetBytes(bytes)) =
                entry.map_err(|source| map_error("read what processes sent", source))?;
            if now.contains_key(&key) {
                continue;
            }
            let before = self.before.get(&key);
            let has_grown = before.is_none_or(|before| !is_same(before, &bytes));
            let of_share = staying.entry(bytes.share).or_default();
            now.insert(key, bytes);
            if !has_grown || *of_share >= STAYING_MAX || gone(key.pid) {
                over.push(key);
            } else {
                *of_share += 1;
                carried.grown.push(grown(key, before, &bytes));
            }
        }
        for key in over {
            let read = now.remove(&key);
            let last = self.bytes.get(&PodNetBytesKey(key), 0).ok();
            let last = last.map(|PodNetBytes(bytes)| bytes).or(read);
            // The only way to fail is that it is not there.
            let _ = self.bytes.remove(&PodNetBytesKey(key));
            let before = self.before.get(&key);
            if let Some(last) = last.filter(|last| before.is_none_or(|own| !is_same(own, last))) {
                carried.grown.push(grown(key, before, &last));
            }
        }
        self.before = now;
        self.clear_fresh();
        let refused = [self.refused(OF_PROCESSES)?, self.refused(OF_SOCKETS)?];
        let before = std::mem::replace(&mut self.refused_before, refused);
        carried.refused = refused[0].saturating_sub(before[0]);
        carried.refused_of_sockets = refused[1].saturating_sub(before[1]);
        Ok(carried)
    }

    fn refused(&self, of: u32) -> Result<u64, ProbeError> {
        self.refused
            .get(&of, 0)
            .map_err(|source| map_error("read how many sends found no room", source))
    }

    /// Each share may have new entries again.
    fn clear_fresh(&mut self) {
        let shares = self.fresh.keys().take(ENTRIES_MAX).flatten();
        for share in shares.collect::<Vec<u64>>() {
            // As above.
            let _ = self.fresh.remove(&share);
        }
    }
}

fn is_same(before: &NetBytes, now: &NetBytes) -> bool {
    (before.rx, before.tx) == (now.rx, now.tx)
}

/// What an entry grew by; one that is smaller than before was made anew.
fn grown(key: NetBytesKey, before: Option<&NetBytes>, now: &NetBytes) -> Grown {
    let before = before.filter(|before| before.rx <= now.rx && before.tx <= now.tx);
    let (rx, tx) = before.map_or((0, 0), |before| (before.rx, before.tx));
    Grown {
        start_ns: key.start_ns,
        pid: key.pid,
        rx_bytes: now.rx - rx,
        tx_bytes: now.tx - tx,
        whole: before.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_made_anew_counts_from_its_own_beginning_and_may_not_be_whole() {
        let key = NetBytesKey {
            start_ns: 5,
            pid: 7,
            pad: 0,
        };
        let bytes = |rx, tx| NetBytes { rx, tx, share: 3 };
        let told = |before: Option<NetBytes>, now| {
            let grown = grown(key, before.as_ref(), &now);
            assert_eq!((grown.start_ns, grown.pid), (5, 7));
            (grown.rx_bytes, grown.tx_bytes, grown.whole)
        };
        assert_eq!(told(None, bytes(3, 4)), (3, 4, false));
        assert_eq!(told(Some(bytes(3, 4)), bytes(5, 4)), (2, 0, true));
        assert_eq!(told(Some(bytes(3, 9)), bytes(5, 4)), (5, 4, false));
    }
}
