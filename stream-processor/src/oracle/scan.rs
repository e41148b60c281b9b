//! The scan: one pass over the log, row by row, that writes beside each row what time it is for its host.
//!
//! | column | says |
//! | --- | --- |
//! | `time` | `least(ts, ingest_ts)`; `ingest_ts` where `ts` is further than 30 days from it |
//! | `high` | the host's highest time before this row; none at a segment's first |
//! | `flush` | up to which start the host's windows were closed by its silence |
//! | `segment` | the stretch of the log between two steps of the host's clock |
//! | `fleet` | how far all hosts of the partition were before the row's second of ingest |
//!
//! Of a partition 8,192 hosts are known. For one more the 512 go that come first of those that are silent, and after them those
//! that are no residents, each by when they were heard of last; a resident is who was heard of in two seconds of the partition
//! that are a minute apart, while there are fewer than 6,144. Who comes after somebody has gone begins under a segment's name.
//!
//! Nothing here knows windows or detections.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use datafusion::common::Result;

use super::query::texts;
use crate::decode::InputRecord;

/// How far a new run may be behind its host's time before the clock counts as stepped back.
const STEP_NS: i64 = 1_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const YEAR_2200_NS: i64 = 7_258_118_400 * SECOND_NS;
/// Hosts that are known of a partition, how many may be residents, and how many go at once.
const HOSTS_MAX: usize = 8_192;
const RESIDENTS_MAX: usize = 6_144;
const LEAVING: usize = 512;
const SETTLED_S: i64 = 60;

/// A row that counts: neither sent again nor of a record that cannot be used.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its place in the batch.
    pub index: usize,
    pub partition: i32,
    pub offset: i64,
    pub host: String,
    pub time: i64,
    /// Mark rows move time, no more.
    pub mark: bool,
    pub high: Option<i64>,
    pub flush: Option<i64>,
    pub segment: usize,
    /// Its place among the segment's ticks.
    pub tick: usize,
    /// The host's high after it.
    pub high_after: i64,
    /// Hosts that this row's ingest time showed to be silent.
    pub silenced: Vec<String>,
    /// The row begins a segment that is not its host's first.
    pub stepped: bool,
    /// The partition's latest second of ingest; without a broker of its rows' times.
    pub second: i64,
    /// How far all hosts of the partition were before that second.
    pub fleet: i64,
    /// For how many seconds the partition has heard of its host.
    pub known_s: i64,
}

/// A second of a partition's ingest that is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Second {
    pub partition: i32,
    pub number: i64,
    /// The row that is of a later one.
    pub row: usize,
    /// How far all its hosts are.
    pub fleet: i64,
}

/// A stretch of one host's log in which time runs forward.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub partition: i32,
    pub host: String,
    /// Empty for the first, else `<sensor_run>/<seq>` of its first row.
    pub name: String,
    /// All that moved its time, in order.
    pub ticks: Vec<Tick>,
}

/// One thing that moved a segment's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick {
    /// Which row it came with, by place among the scan's rows.
    pub row: usize,
    pub kind: TickKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TickKind {
    /// The host's high is this now.
    High(i64),
    /// The host was silent: whatever is open closes.
    Silence,
    /// The segment is over.
    Step,
}

/// What the scan wrote.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub rows: Vec<Row>,
    pub segments: Vec<Segment>,
    /// The seconds that are over, in order.
    pub seconds: Vec<Second>,
    /// Records whose key is not their host, by place in the batch.
    pub forged: Vec<usize>,
}

#[derive(Default)]
struct Host {
    high: Option<i64>,
    flush: Option<i64>,
    ingest: Option<i64>,
    segment: usize,
    silent: bool,
    /// The partition's second when it was heard of first.
    since: i64,
    resident: bool,
    /// The scan's row that it was heard of with last.
    heard: usize,
    /// Last seq of each run.
    runs: BTreeMap<String, i64>,
}

/// Scans the decoded records of a log; row `n` of the batch is `records[n]`.
pub(super) fn scan(
    batch: &RecordBatch,
    records: &[InputRecord],
    host_silence_ns: i64,
    fleet_patience_ns: i64,
) -> Result<Scan> {
    let (host_ids, runs) = (texts(batch, "host_id")?, texts(batch, "sensor_run")?);
    let types = texts(batch, "evt_type")?;
    let column = |name: &str| batch.schema_ref().index_of(name).map(|at| batch.column(at));
    let seqs = column("seq")?.as_primitive::<Int64Type>();
    let times = column("ts")?.as_primitive::<TimestampNanosecondType>();
    let mut scan = Scan::default();
    let mut hosts: BTreeMap<(i32, String), Host> = BTreeMap::new();
    let mut seconds: BTreeMap<i32, i64> = BTreeMap::new();
    let mut latest: BTreeMap<i32, i64> = BTreeMap::new();
    let mut fleets: BTreeMap<i32, Fleet> = BTreeMap::new();
    let mut crowds: BTreeMap<i32, Crowd> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let (host_id, run, seq) = (host_ids.value(index), runs.value(index), seqs.value(index));
        if record.key != host_id.as_bytes() {
            scan.forged.push(index);
            continue;
        }
        let (partition, row) = (record.partition, scan.rows.len());
        let key = (partition, host_id.to_owned());
        let known = hosts.get(&key).and_then(|host| host.runs.get(run));
        if known.is_some_and(|last| seq <= *last) {
            continue;
        }
        let new_run = known.is_none();

        // Silence first: it was there before this row.
        let mut silenced = Vec::new();
        if let Some(ingest) = record.ingest_ts_ns {
            let second = ingest.div_euclid(SECOND_NS);
            let newest = seconds.entry(partition).or_insert(i64::MIN);
            if second > *newest {
                *newest = second;
                for ((_, name), host) in hosts.range_mut(of_partition(partition)) {
                    let since = host.ingest.map(|last| ingest.saturating_sub(last));
                    if since.is_some_and(|since| since > host_silence_ns) && !host.silent {
                        host.silent = true;
                        host.flush = host.high;
                        silenced.push(name.clone());
                        let kind = TickKind::Silence;
                        scan.segments[host.segment].ticks.push(Tick { row, kind });
                    }
                }
            }
        }

        let time = believed(times.value(index), record.ingest_ts_ns);
        let at = record
            .ingest_ts_ns
            .map_or(time, |at| at.clamp(0, YEAR_2200_NS));
        let fleet = fleets.entry(partition).or_default();
        let own = hosts.range(of_partition(partition));
        let real = own.filter(|((_, name), _)| name != "dogwatch-processor");
        let highs = real.filter_map(|(_, host)| host.high);
        if let Some(number) = fleet.hear(at, highs, fleet_patience_ns) {
            let fleet = fleet.reached;
            scan.seconds.push(Second {
                partition,
                number,
                row,
                fleet,
            });
        }
        let fleet = fleet.reached;
        let heard = record.ingest_ts_ns.unwrap_or(time).div_euclid(SECOND_NS);
        let second = latest.entry(partition).or_insert(heard);
        *second = heard.max(*second);
        let second = *second;
        let first = !hosts.contains_key(&key);
        let crowd = crowds.entry(partition).or_default();
        if first && crowd.hosts == HOSTS_MAX {
            for (name, host) in leaving(&mut hosts, partition) {
                crowd.leave(&host);
                if !host.silent {
                    let kind = TickKind::Silence;
                    scan.segments[host.segment].ticks.push(Tick { row, kind });
                    silenced.push(name);
                }
            }
        }
        let host = hosts.entry(key).or_default();
        if first {
            crowd.hosts += 1;
            host.since = second;
        }
        if !host.resident && second - host.since >= SETTLED_S && crowd.residents < RESIDENTS_MAX {
            host.resident = true;
            crowd.residents += 1;
        }
        host.heard = row;
        let stepped = host.high.is_some_and(|high| {
            types.value(index) == "clock_step" && time < high
                || new_run && time < high.saturating_sub(STEP_NS)
        });
        if stepped {
            let kind = TickKind::Step;
            scan.segments[host.segment].ticks.push(Tick { row, kind });
        }
        if first || stepped {
            host.segment = scan.segments.len();
            (host.high, host.flush) = (None, None);
            scan.segments.push(Segment {
                partition,
                host: host_id.to_owned(),
                name: if first && !crowd.left {
                    String::new()
                } else {
                    format!("{run}/{seq}")
                },
                ticks: Vec::new(),
            });
        }
        host.runs.insert(run.to_owned(), seq);
        host.ingest = record.ingest_ts_ns.or(host.ingest);
        host.silent = false;
        let high_after = host.high.map_or(time, |high| high.max(time));
        let ticks = &mut scan.segments[host.segment].ticks;
        scan.rows.push(Row {
            index,
            partition,
            offset: record.offset,
            host: host_id.to_owned(),
            time,
            mark: types.value(index) == "mark",
            high: host.high,
            flush: host.flush,
            segment: host.segment,
            tick: ticks.len(),
            high_after,
            silenced,
            stepped,
            second,
            fleet,
            known_s: second.saturating_sub(host.since),
        });
        let kind = TickKind::High(high_after);
        ticks.push(Tick { row, kind });
        host.high = Some(high_after);
    }
    Ok(scan)
}

/// How far all hosts of a partition are: the slowest, or as far as the broker's time less the patience. It moves with seconds of
/// ingest, and never back. Where there is no host it is as far as the broker was.
struct Fleet {
    second: Option<i64>,
    high: i64,
    reached: i64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            second: None,
            high: i64::MIN,
            reached: i64::MIN,
        }
    }
}

impl Fleet {
    /// Takes a row's time of ingest; returns the second that is over with it.
    fn hear(&mut self, at: i64, highs: impl Iterator<Item = i64>, patience: i64) -> Option<i64> {
        let second = at.div_euclid(SECOND_NS);
        let before = self.high;
        self.high = before.max(at);
        if self.second.is_some_and(|own| second <= own) {
            return None;
        }
        let over = self.second.replace(second)?;
        let bounded = highs.map(|high| high.max(self.high - patience));
        self.reached = self.reached.max(bounded.min().unwrap_or(before));
        Some(over)
    }
}

/// How many hosts a partition has.
#[derive(Default)]
struct Crowd {
    hosts: usize,
    residents: usize,
    /// Whether somebody has gone.
    left: bool,
}

impl Crowd {
    fn leave(&mut self, host: &Host) {
        self.hosts -= 1;
        self.residents -= usize::from(host.resident);
        self.left = true;
    }
}

/// Takes out who goes for want of room.
fn leaving(hosts: &mut BTreeMap<(i32, String), Host>, partition: i32) -> Vec<(String, Host)> {
    let own = hosts.range(of_partition(partition));
    let may_go = own.filter(|(_, host)| host.silent || !host.resident);
    let mut going: Vec<(bool, usize, String)> = may_go
        .map(|((_, name), host)| (!host.silent, host.heard, name.clone()))
        .collect();
    going.sort();
    going.truncate(LEAVING);
    let names = going.into_iter().map(|(_, _, name)| name);
    names
        .filter_map(|name| Some((name.clone(), hosts.remove(&(partition, name))?)))
        .collect()
}

/// The time that a row counts at: its own, or the broker's where that is earlier or 30 days away.
fn believed(ts: i64, ingest: Option<i64>) -> i64 {
    const THIRTY_DAYS_NS: i128 = 30 * 86_400 * 1_000_000_000;
    let Some(ingest) = ingest.map(|ingest| ingest.clamp(0, YEAR_2200_NS)) else {
        return ts.clamp(0, YEAR_2200_NS);
    };
    let apart = i128::from(ts) - i128::from(ingest);
    if ts < 0 || apart.abs() > THIRTY_DAYS_NS {
        ingest
    } else {
        ts.min(ingest)
    }
}

fn of_partition(partition: i32) -> std::ops::Range<(i32, String)> {
    // No partition is the last number there is.
    (partition, String::new())..(partition + 1, String::new())
}
