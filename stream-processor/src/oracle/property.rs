//! The engine is the oracle, made fast: on random logs, cut into random steps, with checkpoints, crashes, aborted steps and
//! partitions that go and come back, it says the same.
//!
//! `PROPTEST_CASES` sets how many logs are tried. A failure prints the smallest log found, as lines, and how it was run.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::fs;

use dogwatch_schemas::records::{self, Event};
use dogwatch_schemas::topics::Topic;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
use serde_json::json;

use super::*;
use crate::alert::AlertMode;
use crate::checkpoint::{Inputs, Renewal};
use crate::detect::DetectionSet;
use crate::engine::{Engine, StepOutput};
use crate::window::WindowOptions;

mod exchange;
mod fleet;
mod swaps;

const SECOND_NS: i64 = 1_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;
/// When the logs begin: a whole number of every window.
const BEGIN_NS: i64 = 1_800_000_000 * SECOND_NS;
const HOST_SILENCE: Duration = Duration::from_secs(60);
/// Hosts and the partition of each.
const HOSTS: [(&str, i32); 5] = [("ant", 0), ("bee", 0), ("cat", 0), ("dog", 1), ("elk", 2)];
const PARTITIONS: [i32; 3] = [0, 1, 2];
/// Runs of a host's sensors: a task remembers no more.
const RUNS_MAX: u32 = 8;

/// Name, more header lines, query.
const DETECTIONS: [(&str, &str, &str); 30] = [
    ("bits", "", "SELECT host_id, bool_and(evt_failed) AS all_failed, bool_or(evt_failed) AS any_failed, bit_or(fd_num) AS seen, bit_xor(fd_num) AS odd
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '30 seconds') GROUP BY window_start, window_end, host_id"),
    ("count", "", "SELECT proc_name, container_id, count(*) AS n, window_start FROM tumble(events, INTERVAL '10 seconds')
        WHERE evt_type = 'execve' GROUP BY window_start, window_end, container_id, proc_name"),
    ("distinct", "", "SELECT container_id, count(DISTINCT fd_name) AS files, count(*) AS n
        FROM hop(events, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY container_id, window_end, window_start
        HAVING count(DISTINCT fd_name) >= 2 AND count(*) > 2"),
    ("eager", "-- out_of_orderness = \"0s\"\n", "SELECT host_id, count(*) AS n FROM tumble(events, INTERVAL '1 second')
        GROUP BY window_start, window_end, host_id HAVING count(*) >= 2"),
    ("edges", "", "SELECT container_id, first_value(proc_name ORDER BY ts, seq) AS first, last_value(proc_name ORDER BY ts, seq) AS last,
        min(ts) AS low, max(ts) AS high, max(proc_name) AS name
        FROM tumble(events, INTERVAL '15 seconds') WHERE evt_type <> 'clock_step' GROUP BY window_start, window_end, container_id"),
    ("either", "", "SELECT host_id, count(*) FILTER (WHERE evt_type = 'connect') AS connects, count(*) FILTER (WHERE evt_type = 'execve') AS starts
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY host_id, window_start, window_end
        HAVING count(*) FILTER (WHERE evt_type = 'connect') >= 1 AND 2 <= count(*) FILTER (WHERE evt_type = 'execve')"),
    ("event", "", "SELECT proc_name, fd_num, ts FROM events WHERE evt_type = 'connect' AND fd_num > 2"),
    ("event_folded", "-- dedup = { key = [\"proc_name\"], period = \"15s\", limit = 2 }\n", "SELECT proc_name, ts FROM events WHERE evt_type = 'execve'"),
    ("fails_argument", "", "SELECT host_id, sum(100 / fd_num) AS s, count(*) AS n
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '30 seconds') GROUP BY window_start, window_end, host_id"),
    ("fails_early", "", "SELECT container_id, 100 / (count(DISTINCT fd_name) - 1) AS r, count(*) AS n
        FROM tumble(events, INTERVAL '20 seconds') GROUP BY window_start, window_end, container_id HAVING count(*) >= 2"),
    ("fails_event", "", "SELECT proc_name, 12 / fd_num AS q FROM events WHERE evt_type = 'connect' AND 12 / fd_num > 2"),
    ("fails_filter", "", "SELECT host_id, count(*) FILTER (WHERE 12 / fd_num > 2) AS n
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY window_start, window_end, host_id"),
    ("fails_having", "", "SELECT container_id, sum(fd_num) AS s FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, container_id HAVING sum(fd_num) / sum(user_uid) > 2"),
    ("fails_key", "", "SELECT host_id, 12 / fd_num AS part, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, host_id, 12 / fd_num HAVING count(*) < 9"),
    ("fails_limited", "", "SELECT proc_name, host_id, sum(fd_num) / sum(user_uid) AS r FROM tumble(events, INTERVAL '20 seconds')
        GROUP BY window_start, window_end, host_id, proc_name ORDER BY proc_name LIMIT 2"),
    ("fails_where", "-- lateness = \"3s\"\n", "SELECT host_id, count(*) AS n FROM hop(events, INTERVAL '5 seconds', INTERVAL '20 seconds')
        WHERE 12 / fd_num > 2 AND evt_type <> 'clock_step' GROUP BY window_start, window_end, host_id"),
    ("few", "", "SELECT proc_name, container_id, count(*) AS n FROM tumble(events, INTERVAL '20 seconds')
        GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) < 3"),
    ("folded", "-- dedup = { key = [\"container_id\"], period = \"25s\" }\n", "SELECT proc_name, container_id, count(*) AS n
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY window_start, window_end, container_id, proc_name HAVING count(*) >= 2"),
    ("folded_closes", "-- dedup = { key = [], period = \"40s\", limit = 2 }\n", "SELECT host_id, sum(fd_num) AS s
        FROM tumble(events, INTERVAL '5 seconds') GROUP BY window_start, window_end, host_id"),
    ("keys", "", "SELECT host_id, user_uid, upper(proc_name) AS name, evt_type, count(fd_num) AS n
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY upper(proc_name), window_start, user_uid, host_id, window_end, evt_type"),
    ("late", "-- lateness = \"6s\"\n-- out_of_orderness = \"2s\"\n", "SELECT host_id, container_id, count(*) AS n, min(seq) AS low
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY window_start, window_end, host_id, container_id HAVING count(*) > 1"),
    ("list", "", "SELECT proc_name, host_id, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        WHERE proc_name IN (SELECT name FROM shells) AND fd_num IS NOT NULL GROUP BY proc_name, host_id, window_start, window_end"),
    ("long", "-- lateness = \"10s\"\n-- out_of_orderness = \"5s\"\n", "SELECT container_id, count(*) AS n, approx_distinct(proc_name) AS names
        FROM hop(events, INTERVAL '30 seconds', INTERVAL '2 minutes') GROUP BY window_start, window_end, container_id HAVING count(*) >= 4"),
    ("numbers", "", "SELECT container_id, sum(fd_num) AS s, avg(fd_num) AS mean, stddev(fd_num) AS deviation, var_pop(fd_num) AS variance, min(fd_num) AS low
        FROM hop(events, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, container_id"),
    ("ratio", "", "SELECT container_id, CAST(sum(fd_num) AS DOUBLE) / count(*) AS ratio, CASE WHEN max(fd_num) > 4 THEN 'high' ELSE 'low' END AS grade
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY window_start, window_end, container_id HAVING sum(fd_num) > 5"),
    ("sampled", "", "SELECT container_id, sample(proc_name, 2) AS names, sample(concat(proc_name, '/', fd_name), 3) AS pairs, count(*) AS n
        FROM tumble(events, INTERVAL '30 seconds') GROUP BY window_start, window_end, container_id"),
    ("ties", "", "SELECT proc_name, evt_type, count(*) AS n FROM hop(events, INTERVAL '10 seconds', INTERVAL '20 seconds')
        GROUP BY window_start, window_end, host_id, proc_name, evt_type ORDER BY n DESC LIMIT 3"),
    ("ties_of_all", "", "SELECT proc_name, fd_num FROM tumble(events, INTERVAL '20 seconds')
        GROUP BY window_start, window_end, container_id, proc_name, fd_num LIMIT 2 OFFSET 1"),
    ("top", "", "SELECT proc_name, host_id, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, host_id, proc_name HAVING count(*) >= 1 ORDER BY count(*) DESC, proc_name LIMIT 2"),
    ("uniform", "", "SELECT proc_name, host_id, count(*) AS n FROM hop(events, INTERVAL '10 seconds', INTERVAL '20 seconds')
        WHERE evt_type IN ('execve', 'connect') GROUP BY window_start, window_end, host_id, proc_name HAVING count(*) = 2"),
];

/// Writes the detections into a folder.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("lists")).expect("a folder");
    fs::create_dir_all(folder.path().join("tactic")).expect("a folder");
    fs::write(folder.path().join("lists/shells.csv"), "name\nsh\nbash\n").expect("a list");
    for (name, header, query) in DETECTIONS {
        let text = format!("{}{header}{query}\n", super::tests::HEADER);
        fs::write(folder.path().join(format!("tactic/{name}.sql")), text).expect("a detection");
    }
    folder
}

/// One thing that happens to a host.
#[derive(Debug, Clone)]
struct Happening {
    host: usize,
    /// How far the broker's time goes on before it, milliseconds.
    passes_ms: i64,
    what: What,
    row: RowValues,
}

#[derive(Debug, Clone)]
enum What {
    /// A row, so far after the host's last.
    Row {
        after_ms: i64,
    },
    /// A row of the past, which moves no clock.
    Past {
        before_ms: i64,
    },
    /// A row of a clock a year ahead.
    Ahead,
    /// A row of any time there is.
    Wild {
        ts: i64,
    },
    Mark {
        after_ms: i64,
    },
    /// The last record once more, or some of the last.
    Again {
        records: usize,
    },
    /// The clock is set; the sensor says so.
    Step {
        by_ms: i64,
    },
    /// The sensor starts again, after the clock was set.
    Restart {
        by_ms: i64,
        mark: bool,
    },
    /// The host's clock is the broker's, or so far behind it: it has a backlog.
    Behind {
        by_ms: i64,
    },
    /// A record under another host's name.
    Forged,
    /// Bytes that are none.
    Garbage,
}

/// What a row holds beside time.
#[derive(Debug, Clone)]
struct RowValues {
    kind: u8,
    name: u8,
    container: u8,
    file: Option<u8>,
    number: Option<i64>,
    user: Option<i64>,
    failed: bool,
}

fn happening() -> impl Strategy<Value = Happening> {
    let after = || prop_oneof![6 => 0_i64..1_500, 4 => 1_500_i64..6_000, 1 => 6_000_i64..40_000];
    let what = prop_oneof![
        24 => after().prop_map(|after_ms| What::Row { after_ms }),
        4 => (1_i64..3_000).prop_map(|before_ms| What::Past { before_ms }),
        2 => (3_000_i64..60_000).prop_map(|before_ms| What::Past { before_ms }),
        1 => Just(What::Ahead),
        1 => prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just(-1)].prop_map(|ts| What::Wild { ts }),
        3 => after().prop_map(|after_ms| What::Mark { after_ms }),
        2 => (1_usize..6).prop_map(|records| What::Again { records }),
        1 => prop_oneof![-30_000_i64..0, 0_i64..30_000].prop_map(|by_ms| What::Step { by_ms }),
        1 => (prop_oneof![-20_000_i64..-900, -900_i64..2_000], any::<bool>()).prop_map(|(by_ms, mark)| What::Restart { by_ms, mark }),
        1 => prop_oneof![Just(0), 1_000_i64..300_000].prop_map(|by_ms| What::Behind { by_ms }),
        1 => Just(What::Forged),
        1 => Just(What::Garbage),
    ];
    let passes = prop_oneof![12 => 0_i64..1_500, 3 => 1_500_i64..8_000, 1 => 55_000_i64..70_000];
    let row = (
        0_u8..4,
        0_u8..4,
        0_u8..3,
        prop::option::of(0_u8..4),
        prop::option::weighted(0.8, 0_i64..7),
        prop::option::of(0_i64..2),
        any::<bool>(),
    );
    let row = row.prop_map(
        |(kind, name, container, file, number, user, failed)| RowValues {
            kind,
            name,
            container,
            file,
            number,
            user,
            failed,
        },
    );
    // Some hosts speak more than others, so that some are silent.
    let host =
        prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(4)];
    (host, passes, what, row).prop_map(|(host, passes_ms, what, row)| Happening {
        host,
        passes_ms,
        what,
        row,
    })
}

/// A host as the log is written.
struct Sensor {
    clock: i64,
    run: u32,
    seq: i64,
    /// Places of its records.
    sent: Vec<usize>,
}

/// Writes the log; `ingest`: whether there is a broker that stamps records.
fn write_log(happenings: &[Happening], ingest: bool) -> Vec<InputRecord> {
    let mut now = BEGIN_NS;
    let sensor = |_| Sensor {
        clock: BEGIN_NS,
        run: 0,
        seq: 0,
        sent: Vec::new(),
    };
    let mut sensors: Vec<Sensor> = HOSTS.iter().map(sensor).collect();
    let mut log: Vec<InputRecord> = Vec::new();
    let mut offsets = BTreeMap::new();
    for happening in happenings {
        now += happening.passes_ms * MILLISECOND_NS;
        let (host_id, partition) = HOSTS[happening.host];
        let sensor = &mut sensors[happening.host];
        let kinds = ["execve", "connect", "openat", "execve"];
        let mut kind = kinds[usize::from(happening.row.kind)];
        let mut ts = sensor.clock;
        let mut garbage = false;
        let mut key = host_id;
        let ms = |ms: i64| ms * MILLISECOND_NS;
        let mut again = 0;
        match happening.what {
            What::Row { after_ms } => sensor.clock += ms(after_ms),
            What::Mark { after_ms } => {
                sensor.clock += ms(after_ms);
                kind = "mark";
            }
            What::Past { .. } | What::Ahead | What::Wild { .. } | What::Forged | What::Garbage => {}
            What::Again { records } => again = records,
            What::Step { by_ms } => {
                sensor.clock += ms(by_ms);
                kind = "clock_step";
            }
            What::Restart { .. } if sensor.run + 1 >= RUNS_MAX => {}
            What::Restart { by_ms, mark } => {
                sensor.clock += ms(by_ms);
                sensor.run += 1;
                sensor.seq = 0;
                if mark {
                    kind = "mark";
                }
            }
            What::Behind { by_ms } => sensor.clock = now - ms(by_ms),
        }
        match happening.what {
            What::Past { before_ms } => ts -= ms(before_ms),
            What::Ahead => ts += 365 * 86_400 * SECOND_NS,
            What::Wild { ts: any } => ts = any,
            What::Forged => {
                (ts, key) = (sensor.clock + ms(100_000), "fox");
            }
            What::Garbage => garbage = true,
            _ => ts = sensor.clock,
        }
        let offset = offsets.entry(partition).or_insert(0_i64);
        let mut push = |mut record: InputRecord| {
            record.offset = *offset;
            record.ingest_ts_ns = ingest.then_some(now);
            // Offsets of transactions leave holes.
            *offset += if *offset % 7 == 3 { 2 } else { 1 };
            log.push(record);
            log.len() - 1
        };
        if again > 0 {
            let from = sensor.sent.len().saturating_sub(again);
            let places = sensor.sent[from..].to_vec();
            let repeats: Vec<InputRecord> =
                places.iter().map(|place| log[*place].clone()).collect();
            for repeat in repeats {
                let offset = offsets.entry(partition).or_insert(0_i64);
                log.push(InputRecord {
                    offset: *offset,
                    ingest_ts_ns: ingest.then_some(now),
                    ..repeat
                });
                *offset += 1;
            }
            continue;
        }
        let row = &happening.row;
        let names = ["sh", "bash", "curl", "Sh"];
        let event = json!({
            "host_id": host_id, "host_name": host_id, "sensor_run": format!("{host_id}-{}", sensor.run), "seq": sensor.seq, "ts": ts,
            "evt_type": kind, "evt_failed": row.failed, "container_id": format!("c{}", row.container),
            "proc_name": names[usize::from(row.name)], "proc_key": "k", "fd_name": row.file.map(|file| format!("/f{file}")),
            "fd_num": row.number, "user_uid": row.user,
        });
        let event: Event = serde_json::from_value(event).expect("an event");
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        if garbage {
            value.truncate(9);
        }
        let record = InputRecord {
            topic: Topic::Events,
            partition,
            offset: 0,
            ingest_ts_ns: None,
            key: key.as_bytes().to_vec().into(),
            value: value.into(),
        };
        let place = push(record);
        if !garbage && !matches!(happening.what, What::Forged) {
            sensor.seq += 1;
            sensor.sent.push(place);
        }
    }
    log
}

/// One turn of the processor.
#[derive(Debug, Clone)]
enum Turn {
    /// So many records, committed.
    Step(usize),
    /// So many records, whose commit fails: the process starts again.
    Lost(usize),
    /// The state goes out with the step before; of what is stored so many eighths are written anew.
    Checkpoint { anew: u64 },
    /// The process starts again.
    Crash,
    /// A partition goes to another process and comes back.
    Move(usize),
    /// Another engine goes on where this one is: from what is stored, or from all that it hands out.
    Swap { in_memory: bool },
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let records = || prop_oneof![4 => 1_usize..6, 3 => 6_usize..40, 1 => Just(1_000)];
    let turn = prop_oneof![
        10 => records().prop_map(Turn::Step),
        1 => records().prop_map(Turn::Lost),
        6 => prop_oneof![3 => Just(0), 3 => 0_u64..8, 1 => Just(8)].prop_map(|anew| Turn::Checkpoint { anew }),
        1 => Just(Turn::Crash),
        1 => (0..PARTITIONS.len()).prop_map(Turn::Move),
        1 => any::<bool>().prop_map(|in_memory| Turn::Swap { in_memory }),
    ];
    prop::collection::vec(turn, 1..40)
}

/// A processor with a memory that survives it: what it said, where it was, what it stored.
struct Processor<'a> {
    folder: &'a Path,
    /// Whether every alert is let through, also the eleventh of a minute.
    open: bool,
    log: &'a [InputRecord],
    engine: Engine,
    /// Place of the next record.
    next: usize,
    /// Where the last checkpoint was, by partition.
    stored_at: BTreeMap<i32, usize>,
    stored: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    /// What the last checkpoint wrote.
    handed_out: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    alerts: Vec<records::Alert>,
    late: Vec<Late>,
    dead_letters: Vec<(i32, i64)>,
    unjudged: BTreeSet<(i32, i64, String)>,
}

impl<'a> Processor<'a> {
    fn new(folder: &'a Path, log: &'a [InputRecord]) -> Self {
        Self {
            folder,
            open: false,
            log,
            engine: begun(folder),
            next: 0,
            stored_at: BTreeMap::new(),
            stored: BTreeMap::new(),
            handed_out: BTreeMap::new(),
            alerts: Vec::new(),
            late: Vec::new(),
            dead_letters: Vec::new(),
            unjudged: BTreeSet::new(),
        }
    }

    fn turn(&mut self, turn: &Turn) {
        match turn {
            Turn::Step(records) => self.step(*records),
            Turn::Lost(records) => {
                let end = (self.next + records).min(self.log.len());
                self.engine
                    .step(self.log[self.next..end].to_vec())
                    .expect("a step");
                self.crash();
            }
            Turn::Checkpoint { anew } => self.checkpoint(*anew),
            Turn::Crash => self.crash(),
            Turn::Move(partition) => {
                let partition = PARTITIONS[*partition];
                self.engine.forget_partition(partition);
                self.restore(partition);
            }
            Turn::Swap { in_memory } => self.swap(*in_memory),
        }
    }

    /// Lets another engine go on: nothing is replayed.
    fn swap(&mut self, in_memory: bool) {
        self.checkpoint(if in_memory { 8 } else { 0 });
        if in_memory {
            // What was not handed out is not there.
            self.stored = std::mem::take(&mut self.handed_out);
        }
        self.crash();
    }

    fn step(&mut self, records: usize) {
        let end = (self.next + records).min(self.log.len());
        let output = self
            .engine
            .step(self.log[self.next..end].to_vec())
            .expect("a step");
        self.next = end;
        let to_be_stored = output.to_be_stored.clone();
        self.take(output);
        self.store(to_be_stored.into_iter().map(|log| log.1), 0);
    }

    fn take(&mut self, output: StepOutput) {
        let rows = output.failures.into_iter().filter(|row| !row.of_window);
        for row in rows {
            let said = (row.log.1, row.offset, row.detection_id);
            assert!(self.unjudged.insert(said.clone()), "said twice: {said:?}");
        }
        // What the engine says of itself has no detection's hash.
        let own = |alert: &records::Alert| !alert.detection_hash.is_empty();
        self.alerts.extend(output.alerts.into_iter().filter(own));
        self.late.extend(output.late.into_iter().map(|late| Late {
            partition: late.record.partition,
            offset: late.record.offset,
            detections: late.detections,
        }));
        let letters = output.dead_letters.iter().map(|letter| &letter.record);
        self.dead_letters
            .extend(letters.map(|record| (record.partition, record.offset)));
    }

    /// Stores what changed, as the topic of states does: a later record of a name replaces the earlier.
    fn checkpoint(&mut self, anew: u64) {
        self.store(PARTITIONS, anew);
    }

    fn store(&mut self, partitions: impl IntoIterator<Item = i32>, anew: u64) {
        for partition in partitions {
            let stored = self.stored.entry(partition).or_default();
            let chosen = |name: &&String| crate::detect::aggregates::hash(name) % 8 < anew;
            let names = stored.keys().filter(chosen).cloned().collect();
            let renewal = Renewal::new(names, u64::MAX);
            let records = self.engine.checkpoint(partition, &renewal);
            let records = records.expect("a checkpoint");
            let mut written = BTreeSet::new();
            let pieces = records.iter();
            let pieces = pieces.filter_map(|piece| Some((piece.key.clone(), piece.value.clone()?)));
            self.handed_out.insert(partition, pieces.collect());
            for record in records {
                match record.value {
                    Some(value) => {
                        assert!(value.len() <= 512 << 10, "a piece of {} bytes", value.len());
                        written.insert(record.key.clone());
                        stored.insert(record.key, value);
                    }
                    None => drop(stored.remove(&record.key)),
                }
            }
            let missing = stored.keys().filter(|name| !written.contains(*name));
            let missing: Vec<&String> = missing.filter(chosen).collect();
            assert!(missing.is_empty(), "not written anew: {missing:?}");
            self.stored_at.insert(partition, self.next);
        }
    }

    /// Ends the input; checks that nobody waits for more.
    fn finish(&mut self) {
        let waited = PARTITIONS
            .iter()
            .any(|partition| self.engine.waits(*partition));
        let output = self.engine.finish(0).expect("an end");
        assert!(
            waited || output.alerts.is_empty(),
            "nobody waited for {:?}",
            output.alerts
        );
        assert!(
            PARTITIONS
                .iter()
                .all(|partition| !self.engine.waits(*partition)),
            "waits after the end"
        );
        let size = self.engine.state_size();
        assert_eq!((size.panes, size.keys), (0, 0), "left over after the end");
        self.take(output);
    }

    fn crash(&mut self) {
        let engine = engine(self.folder);
        self.engine = match self.open {
            true => engine.without_throttle(),
            false => engine,
        };
        for partition in PARTITIONS {
            self.restore(partition);
        }
    }

    /// Takes a partition over: what was said since the last checkpoint is replayed, muted.
    fn restore(&mut self, partition: i32) {
        let of_partition = |records: &[InputRecord]| -> Vec<InputRecord> {
            records
                .iter()
                .filter(|record| record.partition == partition)
                .cloned()
                .collect()
        };
        let past = of_partition(&self.log[..self.next]);
        let live_from = past.last().map_or(0, |record| record.offset + 1);
        let state = self.stored.get(&partition).cloned().unwrap_or_default();
        self.engine
            .restore(partition, state, &of_events(live_from))
            .expect("restored");
        let from = self.stored_at.get(&partition).copied().unwrap_or(0);
        for records in of_partition(&self.log[from..self.next]).chunks(7) {
            let output = self.engine.step(records.to_vec()).expect("a step");
            assert!(
                output.alerts.is_empty()
                    && output.late.is_empty()
                    && output.dead_letters.is_empty(),
                "said again in a replay: {output:?}"
            );
        }
    }
}

fn of_events(offset: i64) -> Inputs {
    Inputs::from([(Topic::Events, offset)])
}

/// An engine that has taken all partitions over, of which nobody knows anything.
fn begun(folder: &Path) -> Engine {
    let mut engine = engine(folder);
    for partition in PARTITIONS {
        let nothing = BTreeMap::new();
        let start = of_events(0);
        engine.restore(partition, nothing, &start).expect("nothing");
    }
    engine
}

fn engine(folder: &Path) -> Engine {
    let report = DetectionSet::load(folder).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let options = WindowOptions {
        host_silence: HOST_SILENCE,
        ..WindowOptions::default()
    };
    Engine::new(report.set, AlertMode::Test)
        .expect("an engine")
        .with_windows(options)
        .expect("windows")
}

/// All differences between what the engine said on its way and what the oracle says.
fn differences(expected: &Expected, found: &Processor<'_>) -> Vec<String> {
    let mut differences = compare(&expected.alerts, &found.alerts);
    if differences.is_empty() {
        differences.extend(compare_order(&expected.alerts, &found.alerts));
    }
    differences.extend(compare_late(&expected.late, &found.late));
    if expected.unjudged != found.unjudged {
        differences.push(format!(
            "not judged are {:?}, expected were {:?}",
            found.unjudged, expected.unjudged
        ));
    }
    let mut dead_letters = found.dead_letters.clone();
    dead_letters.sort_unstable();
    if expected.dead_letters != dead_letters {
        differences.push(format!(
            "dead letters are {dead_letters:?}, expected were {:?}",
            expected.dead_letters
        ));
    }
    differences
}

/// What came of a case: a failed one is told with what was drawn, its log and what is wrong.
fn verdict(wrong: &[String], drawn: &str, log: &[InputRecord]) -> Result<(), TestCaseError> {
    if wrong.is_empty() {
        return Ok(());
    }
    let text = format!("{drawn}\n{}{}", describe(log), wrong.join("\n"));
    Err(TestCaseError::fail(text))
}

/// Fails with the reason of a case that failed, which says all that its values would.
fn told(outcome: Result<(), TestError<impl std::fmt::Debug>>) {
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, _)) => panic!("{}", reason.message()),
        Err(error) => panic!("{error}"),
    }
}

/// The log as lines, for a person.
fn describe(log: &[InputRecord]) -> String {
    let mut decoder =
        dogwatch_schemas::decode::BatchDecoder::new(Event::SCHEMA, None).expect("a decoder");
    let mut text = String::new();
    for record in log {
        let seconds = |ns: i64| ns.saturating_sub(BEGIN_NS) as f64 / 1e9;
        let _ = write!(
            text,
            "{}/{} {:?}",
            record.partition,
            record.offset,
            record.ingest_ts_ns.map(seconds)
        );
        if decoder.push(&record.value).is_ok() {
            let batch = decoder.finish();
            let value = |name: &str| {
                batch
                    .column_by_name(name)
                    .map(|column| crate::json::value(column.as_ref(), 0))
                    .unwrap_or_default()
            };
            let ts = value("ts").as_i64().unwrap_or_default();
            let _ = write!(text, " ts {}", seconds(ts));
            for name in [
                "host_id",
                "sensor_run",
                "seq",
                "evt_type",
                "proc_name",
                "container_id",
                "fd_name",
                "fd_num",
                "user_uid",
                "evt_failed",
            ] {
                let _ = write!(text, " {}", value(name));
            }
        }
        text.push('\n');
    }
    text
}

fn runner(cases: u32) -> TestRunner {
    let number = |name: &str, usual: u32| {
        let given = std::env::var(name).ok();
        given.and_then(|given| given.parse().ok()).unwrap_or(usual)
    };
    TestRunner::new(ProptestConfig {
        cases: number("PROPTEST_CASES", cases),
        max_shrink_iters: number("PROPTEST_MAX_SHRINK_ITERS", 300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn the_engine_says_what_the_oracle_says() {
    let folder = folder();
    let oracle = Oracle::load(folder.path())
        .expect("an oracle")
        .with_host_silence(HOST_SILENCE);
    let happenings = prop::collection::vec(happening(), 1..160);
    let input = prop_oneof![Just(Input::Bounded), Just(Input::Live)];
    let case = (happenings, turns(), input, prop::bool::weighted(0.85));
    let outcome = runner(40).run(&case, |(happenings, turns, input, ingest)| {
        let log = write_log(&happenings, ingest);
        let expected = oracle.run(&log, input).expect("an answer");
        let mut processor = Processor::new(folder.path(), &log);
        for turn in &turns {
            processor.turn(turn);
        }
        processor.step(usize::MAX / 2);
        if input == Input::Bounded {
            processor.finish();
        }
        let differences = differences(&expected, &processor);
        verdict(&differences, &format!("{input:?} {turns:?}"), &log)
    });
    told(outcome);
}

/// The logs would test nothing if nothing happened in them.
#[test]
fn random_logs_have_everything_in_them() {
    let folder = folder();
    let oracle = Oracle::load(folder.path())
        .expect("an oracle")
        .with_host_silence(HOST_SILENCE);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let happenings = prop::collection::vec(happening(), 100..140);
    let mut runner = TestRunner::new_with_rng(
        ProptestConfig::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    for _ in 0..20 {
        let happenings = proptest::strategy::ValueTree::current(
            &happenings.new_tree(&mut runner).expect("happenings"),
        );
        let said = oracle
            .run(&write_log(&happenings, true), Input::Live)
            .expect("an answer");
        let mut see = |what: String| *seen.entry(what).or_default() += 1;
        for alert in &said.alerts {
            see(format!(
                "{} {}",
                alert.detection_id,
                alert.window_state.as_deref().unwrap_or("event")
            ));
            if alert.clock_stepped {
                see("stepped".to_owned());
            }
            if alert.folded > 0 {
                see("folded".to_owned());
            }
        }
        let failed = said.alerts.iter().filter(|alert| alert.failed);
        failed.for_each(|alert| see(format!("{} failed", alert.detection_id)));
        let unjudged = said.unjudged.iter();
        unjudged.for_each(|(_, _, detection)| see(format!("{detection} not judged")));
        said.late.iter().for_each(|_| see("late".to_owned()));
        said.dead_letters
            .iter()
            .for_each(|_| see("dead letter".to_owned()));
        let table = &write_log(&happenings, true);
        let mut expected = Expected::default();
        let (table, records) = oracle
            .decode(crate::tables::Table::Events, table, &mut expected)
            .expect("a table");
        let scan = scan::scan(&table, &records, HOST_SILENCE.as_nanos() as i64, 0).expect("a scan");
        scan.rows
            .iter()
            .flat_map(|row| &row.silenced)
            .for_each(|_| see("silence".to_owned()));
        scan.rows
            .iter()
            .filter(|row| row.stepped)
            .for_each(|_| see("step".to_owned()));
    }
    for (name, _, query) in DETECTIONS {
        let closes = if query.contains("FROM events") {
            "event"
        } else {
            "closed"
        };
        assert!(
            seen.contains_key(&format!("{name} {closes}")),
            "{name}: {seen:?}"
        );
    }
    for what in [
        "stepped",
        "folded",
        "late",
        "dead letter",
        "silence",
        "step",
        "folded open",
        "distinct open",
        "long open",
        "either open",
        "fails_early failed",
        "fails_having failed",
        "fails_limited failed",
        "fails_argument not judged",
        "fails_event not judged",
        "fails_filter not judged",
        "fails_key not judged",
        "fails_where not judged",
    ] {
        assert!(
            seen.get(what).is_some_and(|count| *count > 1),
            "{what}: {seen:?}"
        );
    }
}

/// More hosts than a task remembers: those forgotten do not come back with a restart.
#[test]
fn a_task_that_forgot_hosts_is_stored_without_them() {
    let folder = folder();
    let record = |offset: i64| {
        let host_id = format!("host-{offset:06}");
        let event = json!({"host_id": &host_id, "sensor_run": "r", "seq": 0, "ts": BEGIN_NS, "evt_type": "mark"});
        let event: Event = serde_json::from_value(event).expect("an event");
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        InputRecord {
            topic: Topic::Events,
            partition: 0,
            offset,
            ingest_ts_ns: Some(BEGIN_NS),
            key: host_id.into_bytes().into(),
            value: value.into(),
        }
    };
    let log: Vec<InputRecord> = (0..16_400).map(record).collect();
    let mut processor = Processor::new(folder.path(), &log);
    processor.step(16_000);
    processor.checkpoint(0);
    processor.step(usize::MAX / 2);
    processor.checkpoint(8);
    assert!(processor.stored[&0].len() < 16_000);
    processor.crash();
    processor.checkpoint(8);
}
