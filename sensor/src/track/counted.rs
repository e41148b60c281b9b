//! Rows for what the kernel part counted instead of sending: calls beyond a container's share, and repeats of failed opens.
//!
//! ```text
//! Limited { cgroup, open, 5120 }    rate_limited  container web   evt_count 5120  {kind: open, first_ts, last_ts}
//! Open /etc/none, ENOENT, fold 7    openat ENOENT                 evt_count null
//! Folded { 7, 41 }                  openat ENOENT, the same row   evt_count 41    {first_ts, last_ts}
//! ```
//! The record of a failure that repeats is kept for that, [`KEPT_BYTES_MAX`] of them in all.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dogwatch_ebpf::record::{Header, Record};
use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use super::rows;
use crate::clock::Clock;
use crate::fact::Counted;

/// Bytes of records that are kept, about 4,000 with paths of usual length.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// Bytes of each path of one that is kept; a longer one is cut, and its rows say so.
const TEXT_BYTES_MAX: usize = 1024;
/// The kernel part counts no more failures of one container at a time.
const KEPT_OF_A_CGROUP_MAX: usize = 256;

/// Records of failed opens whose repeats are counted; see the module's description.
#[derive(Debug, Default)]
pub(super) struct Failures {
    kept: HashMap<u64, Kept>,
    /// The names of each cgroup's, oldest first: what has to go is taken from the cgroup with most.
    by_cgroup: HashMap<u64, VecDeque<u64>>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    record: Record,
    bytes: usize,
}

impl Failures {
    /// Keeps the record of an open if repeats of it will be counted.
    pub fn keep(&mut self, record: &Record) {
        let Record::Open { header, fold, .. } = record else {
            return;
        };
        if *fold == 0 || self.kept.contains_key(fold) {
            return;
        }
        let record = shortened(record);
        let bytes = bytes_of(&record);
        let names = self.by_cgroup.entry(header.cgroup_id).or_default();
        names.push_back(*fold);
        self.kept.insert(*fold, Kept { record, bytes });
        self.bytes += bytes;
        if names.len() > KEPT_OF_A_CGROUP_MAX {
            self.drop_oldest(header.cgroup_id);
        }
        while self.bytes > KEPT_BYTES_MAX {
            let most = self.by_cgroup.iter().max_by_key(|(_, names)| names.len());
            let Some((&cgroup, _)) = most else { break };
            self.drop_oldest(cgroup);
        }
    }

    /// The record that `fold` names, when it is still there.
    pub fn record(&self, fold: u64) -> Option<&Record> {
        Some(&self.kept.get(&fold)?.record)
    }

    fn drop_oldest(&mut self, cgroup_id: u64) {
        let Some(names) = self.by_cgroup.get_mut(&cgroup_id) else {
            return;
        };
        if let Some(kept) = names.pop_front().and_then(|fold| self.kept.remove(&fold)) {
            self.bytes -= kept.bytes;
        }
        if names.is_empty() {
            self.by_cgroup.remove(&cgroup_id);
        }
    }
}

fn shortened(record: &Record) -> Record {
    let mut record = record.clone();
    if let Record::Open {
        header, raw, base, ..
    } = &mut record
    {
        header.flags.truncated |= raw.len().max(base.len()) > TEXT_BYTES_MAX;
        raw.truncate(TEXT_BYTES_MAX);
        base.truncate(TEXT_BYTES_MAX);
        raw.shrink_to_fit();
        base.shrink_to_fit();
    }
    record
}

/// Memory of a kept record, its places in both tables included.
fn bytes_of(record: &Record) -> usize {
    let texts = match record {
        Record::Open { raw, base, .. } => raw.capacity() + base.capacity(),
        _ => 0,
    };
    texts + size_of::<Kept>() + 4 * size_of::<u64>()
}

/// The header of a row that stands for calls of a process up to now.
pub(super) fn header_now(header: &Header, boot_ns: u64) -> Header {
    Header { boot_ns, ..*header }
}

/// Columns of a row that stands for several calls.
pub(super) fn set_counted(event: &mut Event, counted: &Counted, clock: &Clock) {
    event.evt_count = Some(i64::try_from(counted.count).unwrap_or(i64::MAX));
    let time = |boot_ns: u64| Text::from(clock.wall_ns(boot_ns).to_string());
    event.evt_args.get_or_insert_with(BTreeMap::new).extend([
        ("first_ts".into(), time(counted.first_ns)),
        ("last_ts".into(), time(counted.last_ns)),
    ]);
}

/// The row of a failed open that repeated, without its process and container.
pub(super) fn set_failure(event: &mut Event, record: &Record, counted: &Counted, clock: &Clock) {
    rows::set_record(event, record);
    set_counted(event, counted, clock);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch_ebpf::record::FileIdentity;

    fn failure(cgroup_id: u64, fold: u64, raw: usize) -> Record {
        Record::Open {
            header: Header {
                cgroup_id,
                ..Header::default()
            },
            open_flags: 0,
            mode: 0,
            file: FileIdentity::default(),
            path: Vec::new(),
            raw: vec![b'x'; raw],
            base: vec![b'y'; raw],
            mnt_ns: 1,
            fold,
            place: Vec::new(),
        }
    }

    #[test]
    fn a_container_pushes_out_its_own_failures() {
        let mut failures = Failures::default();
        failures.keep(&failure(1, 1, 10));
        for fold in 2..10_000 {
            failures.keep(&failure(2, fold, 4096));
        }
        assert!(failures.record(1).is_some());
        assert!(failures.record(2).is_none());
        assert!(failures.record(9_999).is_some());
        assert_eq!(failures.by_cgroup[&2].len(), KEPT_OF_A_CGROUP_MAX);
    }

    #[test]
    fn the_bytes_are_bounded_and_the_largest_lose_first() {
        let mut failures = Failures::default();
        failures.keep(&failure(1, 1, 10));
        for fold in 2..20_000 {
            failures.keep(&failure(fold % 200 + 2, fold, 4096));
            assert!(failures.bytes <= KEPT_BYTES_MAX);
        }
        assert!(failures.record(1).is_some());
        let kept: usize = failures
            .kept
            .values()
            .map(|kept| bytes_of(&kept.record))
            .sum();
        assert_eq!(kept, failures.bytes);
        assert_eq!(
            failures.kept.len(),
            failures
                .by_cgroup
                .values()
                .map(VecDeque::len)
                .sum::<usize>()
        );
    }

    #[test]
    fn what_is_not_counted_is_not_kept_and_long_paths_are_cut() {
        let mut failures = Failures::default();
        failures.keep(&failure(1, 0, 10));
        assert!(failures.kept.is_empty());
        failures.keep(&failure(1, 5, 4096));
        let Some(Record::Open { header, raw, .. }) = failures.record(5) else {
            panic!("not kept")
        };
        assert!(header.flags.truncated && raw.len() == TEXT_BYTES_MAX);
    }
}
