//! Shares: what each container may send, which share a cgroup uses, and what the kernel part counted instead of sending.

use std::collections::HashMap;

use aya::Pod;
use aya::maps::{self, MapData};
use dogwatch_ebpf::control::{
    CgroupPolicy, Failure, FailureKey, FoldedKey, LimitedKey, Mode, NetBytes, NetBytesKey, Rate,
    RateClass, Tally, Walked, counted_name,
};

use super::{ProbeError, map_error};

const SECOND_NS: u64 = 1_000_000_000;
/// One part in so many of a container's rate is its own, whatever all others send.
const ASSURED_PART: u64 = 10;
/// A count that has not moved for so long is forgotten.
const IDLE_NS: u64 = 60 * SECOND_NS;
/// Entries read in one go; both maps are smaller, and a map that changes meanwhile may show some twice.
const ENTRIES_MAX: usize = 32_768;

/// Records a second; 0 = no limit. A burst of two seconds is let through; while more than an
/// eighth of the ring waits to be read, one of a quarter of a second beyond the assured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of one container, or of one cgroup that is in none. Opens of sensitive files may use up two of them: what all calls
    /// have in common, and then their own.
    pub container: ClassRates,
    /// Of all together. The tenth part of each container's own is never refused.
    pub total: ClassRates,
    /// Bytes of long arguments and paths a second that one container's execs may have.
    pub exec_text_bytes: u64,
}

/// Records a second by class; 0 = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassRates {
    /// Execs.
    pub exec: u64,
    /// Forks, exits, and cgroups made, removed and entered.
    pub process: u64,
    /// Changes of namespaces.
    pub namespace: u64,
    /// System calls of which many are usual.
    pub call: u64,
    /// Opens of sensitive files beyond that.
    pub sensitive: u64,
    /// Calls that change what a process may do or see, or that reach into others.
    pub privilege: u64,
    /// Connections accepted, and the first words to new peers.
    pub traffic: u64,
}

impl ClassRates {
    /// No limit of any class.
    pub const UNLIMITED: Self = Self {
        exec: 0,
        process: 0,
        namespace: 0,
        call: 0,
        sensitive: 0,
        privilege: 0,
        traffic: 0,
    };

    fn of(&self, class: RateClass) -> u64 {
        match class {
            RateClass::Exec => self.exec,
            RateClass::Process => self.process,
            RateClass::Namespace => self.namespace,
            RateClass::Call => self.call,
            RateClass::Sensitive => self.sensitive,
            RateClass::Privilege => self.privilege,
            RateClass::Traffic => self.traffic,
        }
    }
}

impl Rates {
    /// No limit of any kind.
    pub const UNLIMITED: Self = Self {
        container: ClassRates::UNLIMITED,
        total: ClassRates::UNLIMITED,
        exec_text_bytes: 0,
    };

    /// The global `rates` of the kernel part.
    pub(super) fn costs(&self) -> Vec<PodRate> {
        let cost = |class: &RateClass| {
            let rate = self.container.of(*class);
            let assured = rate.div_ceil(ASSURED_PART);
            PodRate(Rate {
                assured_ns: cost_ns(assured),
                // A rate of one has nothing beyond what is assured: then a record costs an hour.
                further_ns: if rate == 1 {
                    3600 * SECOND_NS
                } else {
                    cost_ns(rate - assured)
                },
                total_ns: cost_ns(self.total.of(*class)),
            })
        };
        RateClass::ALL.iter().map(cost).collect()
    }

    /// The global `text_byte_ns` of the kernel part.
    pub(super) fn text_byte_ns(&self) -> u64 {
        cost_ns(self.exec_text_bytes)
    }
}

impl Default for Rates {
    /// As in `sensor.toml`, which says why.
    fn default() -> Self {
        Self {
            container: ClassRates {
                exec: 2_000,
                process: 6_000,
                namespace: 200,
                call: 8_000,
                sensitive: 500,
                privilege: 500,
                traffic: 2_000,
            },
            total: ClassRates {
                exec: 6_000,
                process: 18_000,
                namespace: 1_000,
                call: 16_000,
                sensitive: 2_000,
                privilege: 2_000,
                traffic: 6_000,
            },
            exec_text_bytes: 2 << 20,
        }
    }
}

fn cost_ns(rate: u64) -> u64 {
    SECOND_NS.checked_div(rate).map_or(0, |cost| cost.max(1))
}

/// What is captured of a cgroup, and whose share it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is captured.
    pub mode: Mode,
    /// The own cgroup of the container it belongs to; `None` where it belongs to none.
    pub container: Option<u64>,
}

impl From<Mode> for Policy {
    fn from(mode: Mode) -> Self {
        Self {
            mode,
            container: None,
        }
    }
}

impl Policy {
    pub(super) fn of_cgroup(self, id: u64) -> PodPolicy {
        PodPolicy(CgroupPolicy {
            mode: self.mode as u32,
            contained: self.container.is_some().into(),
            share: self.container.unwrap_or(id),
        })
    }
}

/// Records of one kind that a share refused since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// The cgroup whose share it is: a container's own, or one that is in no container.
    pub cgroup_id: u64,
    /// Their kind, or the call's name.
    pub kind: &'static str,
    /// How many.
    pub counted: Counted,
}

/// Repeats of one failed open since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The cgroup whose share counted them.
    pub cgroup_id: u64,
    /// The `fold` of the record that was sent.
    pub fold: u64,
    /// How many.
    pub counted: Counted,
}

/// How many of something there were, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// The first of them, or the one before it; nanoseconds since boot.
    pub first_ns: u64,
    /// The last of them.
    pub last_ns: u64,
}

/// Reads what the kernel part counted instead of sending it.
pub(super) struct Tallies {
    limited: maps::HashMap<MapData, PodLimitedKey, PodTally>,
    folded: maps::HashMap<MapData, PodFoldedKey, PodTally>,
    /// What was read before.
    limited_before: HashMap<LimitedKey, Tally>,
    folded_before: HashMap<FoldedKey, Tally>,
}

impl Tallies {
    pub(super) fn new(
        limited: maps::HashMap<MapData, PodLimitedKey, PodTally>,
        folded: maps::HashMap<MapData, PodFoldedKey, PodTally>,
    ) -> Self {
        Self {
            limited,
            folded,
            limited_before: HashMap::new(),
            folded_before: HashMap::new(),
        }
    }

    /// What shares refused since the last call; `now_ns` is since boot.
    pub(super) fn limited(&mut self, now_ns: u64) -> Result<Vec<Limited>, ProbeError> {
        let mut news = Vec::new();
        let mut idle = Vec::new();
        for entry in self.limited.iter().take(ENTRIES_MAX) {
            let (PodLimitedKey(key), PodTally(tally)) =
                entry.map_err(|source| map_error("read what was refused", source))?;
            let before = self.limited_before.insert(key, tally);
            match since(before, tally) {
                Some(counted) => news.push(Limited {
                    cgroup_id: key.share,
                    kind: counted_name(key.counted as usize).unwrap_or("unknown"),
                    counted,
                }),
                None if tally.last_ns + IDLE_NS < now_ns => idle.push(key),
                None => {}
            }
        }
        for key in idle {
            // The only way to fail is that it is not there.
            let _ = self.limited.remove(&PodLimitedKey(key));
            self.limited_before.remove(&key);
        }
        Ok(news)
    }

    /// Repeats of failed opens since the last call.
    pub(super) fn folded(&mut self) -> Result<Vec<Folded>, ProbeError> {
        let mut news = Vec::new();
        let mut now = HashMap::with_capacity(self.folded_before.len());
        for entry in self.folded.iter().take(ENTRIES_MAX) {
            let (PodFoldedKey(key), PodTally(tally)) =
                entry.map_err(|source| map_error("read the repeats of failed opens", source))?;
            let before = now.insert(key, tally);
            let before = before.or_else(|| self.folded_before.get(&key).copied());
            let same = before.filter(|before| before.hash == tally.hash);
            if let Some(counted) = since(same, tally) {
                news.push(Folded {
                    cgroup_id: key.share,
                    fold: tally.hash,
                    counted,
                });
            }
        }
        self.folded_before = now;
        Ok(news)
    }
}

fn since(before: Option<Tally>, tally: Tally) -> Option<Counted> {
    let before = before.unwrap_or(Tally {
        last_ns: tally.first_ns,
        ..Tally::default()
    });
    // An entry that was removed and made again begins at its own start.
    let count = tally.count.checked_sub(before.count).unwrap_or(tally.count);
    (count > 0).then_some(Counted {
        count,
        first_ns: before.last_ns.max(tally.first_ns),
        last_ns: tally.last_ns,
    })
}

macro_rules! pod {
    ($($pod:ident($of:ty))*) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(super) struct $pod(pub(super) $of);
        // SAFETY: integers only, no padding.
        unsafe impl Pod for $pod {}
    )*};
}

pod! {
    PodRate(Rate)
    PodPolicy(CgroupPolicy)
    PodLimitedKey(LimitedKey)
    PodFoldedKey(FoldedKey)
    PodTally(Tally)
    PodFailureKey(FailureKey)
    PodFailure(Failure)
    PodNetBytesKey(NetBytesKey)
    PodNetBytes(NetBytes)
    PodWalked(Walked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_is_assured_and_what_goes_beyond() {
        let mut rates = Rates::UNLIMITED;
        rates.container.call = 1000;
        rates.total.call = 500;
        let PodRate(call) = rates.costs()[RateClass::Call as usize];
        assert_eq!(
            call,
            Rate {
                assured_ns: 10_000_000,
                further_ns: 1_111_111,
                total_ns: 2_000_000
            }
        );
        let PodRate(exec) = rates.costs()[RateClass::Exec as usize];
        assert_eq!(exec, Rate::default());
    }

    #[test]
    fn the_least_rate_is_no_unlimited_one() {
        let mut rates = Rates::UNLIMITED;
        rates.container.exec = 1;
        let PodRate(exec) = rates.costs()[RateClass::Exec as usize];
        assert_eq!(exec.assured_ns, SECOND_NS);
        assert!(exec.further_ns > 0);
    }

    #[test]
    fn counts_are_told_once_and_joined_in_time() {
        let tally = |count, last_ns| Tally {
            hash: 1,
            count,
            first_ns: 10,
            last_ns,
        };
        let counted = |count, first_ns, last_ns| {
            Some(Counted {
                count,
                first_ns,
                last_ns,
            })
        };
        assert_eq!(since(None, tally(3, 40)), counted(3, 10, 40));
        assert_eq!(since(Some(tally(3, 40)), tally(3, 40)), None);
        assert_eq!(since(Some(tally(3, 40)), tally(5, 70)), counted(2, 40, 70));
    }
}
