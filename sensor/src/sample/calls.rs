//! Which calls of which processes failed, from the kernel part's table.

use std::collections::HashMap;

use dogwatch_ebpf::calls::numbers;
use dogwatch_ebpf::control::{Entry, Failure, FailureKey};
use dogwatch_schemas::Text;

use super::{Roots, TICK_NS, WAITING_MAX};
use crate::clock::Reading;
use crate::fact::{FailedCall, FailedRound};
use crate::probe::FailedCalls;

/// Says that the call has no number that any call has.
const NUMBER_UNKNOWN: u16 = u16::MAX;

/// Failures of a process by class, in the order of [`numbers::Class::ALL`].
pub(crate) type ByClass = [i64; 4];

/// See the module's description.
pub(super) struct Calls {
    table: FailedCalls,
    roots: Roots,
    own_pid: u32,
    read_ns: u64,
}

impl Calls {
    pub fn new(table: FailedCalls, roots: Roots) -> Self {
        Self {
            table,
            roots,
            own_pid: std::process::id(),
            read_ns: Reading::now().boot_ns,
        }
    }

    /// What failed since the last round, and failures that were counted nowhere since the start; none where the kernel does
    /// not tell: then the next round tells it all.
    pub fn round(&mut self) -> Option<(FailedRound, u64)> {
        let roots = &self.roots;
        let gone = |pid: u32| !roots.proc.join(pid.to_string()).exists();
        let failed = match self.table.read(&gone) {
            Ok(failed) => failed,
            Err(error) => {
                tracing::warn!(%error, "could not read which calls failed");
                return None;
            }
        };
        let now_ns = Reading::now().boot_ns;
        let since_ns = std::mem::replace(&mut self.read_ns, now_ns);
        let own_pid = self.own_pid;
        let others = failed.grown.iter().filter(|(key, _)| key.pid != own_pid);
        let round = FailedRound {
            boot_ns: now_ns,
            interval_ns: now_ns.saturating_sub(since_ns),
            calls: others.map(|(key, failure)| told(*key, failure)).collect(),
        };
        Some((round, failed.refused))
    }
}

fn told(key: FailureKey, failure: &Failure) -> FailedCall {
    let entry = key.entry();
    let name: Text = match numbers::name(key.number, entry) {
        Some(name) => name.into(),
        None if key.number == NUMBER_UNKNOWN => "syscall_unknown".into(),
        None => format!("syscall_{}", key.number).into(),
    };
    let comm = failure.comm.split(|&byte| byte == 0).next();
    FailedCall {
        pid: key.pid,
        start_ticks: key.start_ns / TICK_NS,
        cgroup_id: failure.cgroup_id,
        comm: comm.unwrap_or_default().to_vec(),
        call: name,
        entry: match entry {
            Entry::Native => "native",
            Entry::X32 => "x32",
            Entry::Ia32 => "ia32",
        }
        .into(),
        errno: key.errno(),
        count: failure.count,
    }
}

/// Whether a failure is counted by class: not one that only says "not yet" or "come again", which is how event loops ask.
pub(crate) fn is_counted(errno: u32) -> bool {
    const COME_AGAIN: [i32; 4] = [libc::EAGAIN, libc::EALREADY, libc::EINPROGRESS, libc::EINTR];
    !COME_AGAIN.contains(&(errno as i32))
}

/// Failures of processes that no row has told yet, by class.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    sums: HashMap<(u32, u64), ByClass>,
    /// There were more than can be kept: who has none here may have had some all the same.
    lost: bool,
}

impl Waiting {
    pub fn add(&mut self, round: &FailedRound) {
        if self.sums.len() > WAITING_MAX {
            self.sums.clear();
            self.lost = true;
        }
        for failed in round.calls.iter().filter(|failed| is_counted(failed.errno)) {
            let sum = self.sums.entry((failed.pid, failed.start_ticks));
            sum.or_default()[numbers::class(&failed.call) as usize] += failed.count as i64;
        }
    }

    #[cfg(test)]
    pub fn of<const N: usize>(sums: [((u32, u64), ByClass); N]) -> Self {
        Self {
            sums: HashMap::from(sums),
            lost: false,
        }
    }

    /// Takes what failed of a process; none where that is not known.
    pub fn take(&mut self, pid: u32, start_ticks: u64) -> Option<ByClass> {
        let sums = self.sums.remove(&(pid, start_ticks)).unwrap_or_default();
        (!self.lost).then_some(sums)
    }

    /// All processes have been looked at: what is left is of those that ended.
    pub fn end_round(&mut self) {
        self.sums.clear();
        self.sums.shrink_to_fit();
        self.lost = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: u16, error: u16, count: u64) -> FailedCall {
        let key = FailureKey {
            start_ns: 70_000_000,
            pid: 7,
            number,
            error,
        };
        let mut comm = [0; 16];
        comm[..2].copy_from_slice(b"sh");
        let failure = Failure {
            count,
            cgroup_id: 3,
            comm,
        };
        told(key, &failure)
    }

    #[test]
    fn a_call_has_its_name_by_number_and_entry() {
        let open = failed(5, 0x8000 | 2, 1);
        assert_eq!((&*open.call, &*open.entry, open.errno), ("open", "ia32", 2));
        assert_eq!((open.start_ticks, &*open.comm), (7, &b"sh"[..]));
        assert_eq!(&*failed(1000, 38, 1).call, "syscall_1000");
        assert_eq!(&*failed(u16::MAX, 38, 1).call, "syscall_unknown");
    }

    #[test]
    fn classes_leave_out_what_only_says_not_yet() {
        let number = |name: &str| {
            let of = |number: &u16| numbers::name(*number, Entry::Native) == Some(name);
            (0..1024).find(of).expect("a call of this architecture")
        };
        let calls = vec![
            failed(number("openat"), libc::ENOENT as u16, 50),
            failed(number("read"), libc::EAGAIN as u16, 1_000),
            failed(number("connect"), libc::ECONNREFUSED as u16, 3),
            failed(number("mmap"), libc::ENOMEM as u16, 2),
            failed(number("kill"), libc::ESRCH as u16, 1),
        ];
        let round = FailedRound {
            calls,
            ..FailedRound::default()
        };
        let mut waiting = Waiting::default();
        waiting.add(&round);
        // The round did not come to the process: the next one tells both.
        waiting.add(&round);
        assert_eq!(waiting.take(7, 8), Some([0; 4]), "another of that id");
        assert_eq!(waiting.take(7, 7), Some([100, 6, 4, 2]));
        assert_eq!(waiting.take(7, 7), Some([0; 4]));
        waiting.add(&round);
        waiting.end_round();
        assert_eq!(waiting.take(7, 7), Some([0; 4]), "it has ended");
    }
}
