//! Windows over all hosts: on random logs, cut into random steps, with checkpoints and crashes, the two stages say what the oracle
//! says; and however the logs of partitions are mixed, the closes are the same and each window that reached its threshold is
//! said first exactly once.

use super::*;
use crate::window::Exchange;

const PATIENCE: Duration = Duration::from_secs(5);

/// Name, more header lines, query.
const DETECTIONS: [(&str, &str, &str); 15] = [
    ("all", "", "SELECT window_start, count(*) AS n, count(DISTINCT host_id) AS hosts FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end"),
    ("bits", "", "SELECT proc_name, bool_and(evt_failed) AS all_failed, bit_or(fd_num) AS seen, bit_xor(fd_num) AS odd
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '30 seconds') GROUP BY window_start, window_end, proc_name"),
    ("eager", "-- out_of_orderness = \"0s\"\n", "SELECT evt_type, count(*) AS n FROM tumble(events, INTERVAL '1 second')
        GROUP BY window_start, window_end, evt_type HAVING count(*) >= 2"),
    ("edges", "", "SELECT proc_name, first_value(host_id ORDER BY ts, host_id, sensor_run, seq) AS first,
        last_value(fd_name ORDER BY ts, host_id, sensor_run, seq) AS last, min(ts) AS low, max(ts) AS high
        FROM tumble(events, INTERVAL '15 seconds') WHERE evt_type <> 'clock_step' GROUP BY window_start, window_end, proc_name"),
    ("fails_early", "", "SELECT proc_name, 100 / (count(DISTINCT fd_name) - 1) AS r, count(*) AS n
        FROM tumble(events, INTERVAL '20 seconds') GROUP BY window_start, window_end, proc_name HAVING count(*) >= 2"),
    ("fails_key", "", "SELECT 12 / fd_num AS part, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, 12 / fd_num HAVING count(*) < 9"),
    ("folded", "-- dedup = { key = [\"proc_name\"], period = \"25s\" }\n", "SELECT proc_name, count(*) AS n
        FROM tumble(events, INTERVAL '10 seconds') GROUP BY window_start, window_end, proc_name HAVING count(*) >= 2"),
    ("hosts", "", "SELECT proc_name, count(DISTINCT host_id) AS hosts, sample(host_id, 3) AS some
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '1 minute') WHERE evt_type = 'execve'
        GROUP BY window_start, window_end, proc_name HAVING count(DISTINCT host_id) >= 2"),
    ("known", "", "SELECT proc_name, hosts_known(INTERVAL '8 seconds') AS known, hosts_known(INTERVAL '30 seconds') AS settled
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '30 seconds') GROUP BY window_start, window_end, proc_name
        HAVING hosts_known(INTERVAL '8 seconds') >= 2"),
    ("late", "-- lateness = \"6s\"\n-- out_of_orderness = \"2s\"\n", "SELECT fd_name, count(*) AS n, min(seq) AS low
        FROM hop(events, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, fd_name HAVING count(*) > 1"),
    ("list", "", "SELECT proc_name, count(*) FILTER (WHERE evt_type = 'connect') AS connects FROM tumble(events, INTERVAL '10 seconds')
        WHERE proc_name IN (SELECT name FROM shells) GROUP BY proc_name, window_start, window_end"),
    ("numbers", "", "SELECT user_uid, sum(fd_num) AS s, avg(fd_num) AS mean, stddev(fd_num) AS deviation
        FROM hop(events, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, user_uid"),
    ("same", "", "SELECT proc_name, count(DISTINCT host_id) AS hosts, sample(host_id, 3) AS some
        FROM hop(events, INTERVAL '10 seconds', INTERVAL '1 minute') WHERE evt_type = 'execve'
        GROUP BY window_start, window_end, proc_name HAVING count(DISTINCT host_id) >= 3"),
    ("single", "", "SELECT proc_name, host_id, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, proc_name, host_id HAVING count(*) >= 2"),
    ("top", "", "SELECT proc_name, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')
        GROUP BY window_start, window_end, proc_name ORDER BY count(*) DESC, proc_name LIMIT 2"),
];

pub(super) fn fleet_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("lists")).expect("a folder");
    fs::create_dir_all(folder.path().join("fleet")).expect("a folder");
    fs::write(folder.path().join("lists/shells.csv"), "name\nsh\nbash\n").expect("a list");
    for (name, header, query) in DETECTIONS {
        let text = format!("{}{header}{query}\n", crate::oracle::tests::HEADER);
        fs::write(folder.path().join(format!("fleet/{name}.sql")), text).expect("a detection");
    }
    folder
}

/// What happens while a log is read.
#[derive(Debug, Clone)]
pub(super) enum FleetTurn {
    Step(usize),
    Checkpoint,
    Crash,
}

fn fleet_turns() -> impl Strategy<Value = Vec<FleetTurn>> {
    let turn = prop_oneof![
        8 => (1_usize..25).prop_map(FleetTurn::Step),
        2 => Just(FleetTurn::Checkpoint),
        1 => Just(FleetTurn::Crash),
    ];
    prop::collection::vec(turn, 1..30)
}

/// A processor of all partitions, which is stored whole.
pub(super) struct Whole<'a> {
    folder: &'a Path,
    throttled: bool,
    log: &'a [InputRecord],
    engine: Engine,
    next: usize,
    /// State by partition, of the fleet too, and how far the log was then.
    stored: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    stored_at: usize,
    pub(super) alerts: Vec<records::Alert>,
    late: Vec<Late>,
}

const FLEET: i32 = -1;

impl<'a> Whole<'a> {
    pub(super) fn new(folder: &'a Path, throttled: bool, log: &'a [InputRecord]) -> Self {
        Self {
            folder,
            throttled,
            log,
            engine: fleet_engine(folder, throttled),
            next: 0,
            stored: BTreeMap::new(),
            stored_at: 0,
            alerts: Vec::new(),
            late: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, turns: &[FleetTurn], input: Input) {
        for turn in turns {
            match turn {
                FleetTurn::Step(records) => self.step(*records),
                FleetTurn::Checkpoint => self.checkpoint(),
                FleetTurn::Crash => self.crash(),
            }
        }
        self.step(usize::MAX / 2);
        if input == Input::Bounded {
            let output = self.engine.finish(0).expect("an end");
            self.take(output);
            let size = self.engine.state_size();
            assert_eq!((size.panes, size.keys), (0, 0), "left over after the end");
        }
    }

    fn step(&mut self, records: usize) {
        let end = (self.next + records).min(self.log.len());
        let records = self.log[self.next..end].to_vec();
        let output = self.engine.step(records).expect("a step");
        self.next = end;
        self.take(output);
    }

    fn take(&mut self, output: StepOutput) {
        let own = |alert: &records::Alert| !alert.detection_hash.is_empty();
        self.alerts.extend(output.alerts.into_iter().filter(own));
        self.late.extend(output.late.into_iter().map(|late| Late {
            partition: late.record.partition,
            offset: late.record.offset,
            detections: late.detections,
        }));
    }

    fn checkpoint(&mut self) {
        for partition in PARTITIONS.into_iter().chain([FLEET]) {
            let records = self.engine.checkpoint(partition, &Renewal::default());
            let stored = self.stored.entry(partition).or_default();
            for record in records.expect("a checkpoint") {
                match record.value {
                    Some(value) => drop(stored.insert(record.key, value)),
                    None => drop(stored.remove(&record.key)),
                }
            }
        }
        self.stored_at = self.next;
    }

    /// A new engine takes all over; what was said since the checkpoint is replayed, muted.
    fn crash(&mut self) {
        self.engine = fleet_engine(self.folder, self.throttled);
        let state = |partition: i32| self.stored.get(&partition).cloned().unwrap_or_default();
        for partition in PARTITIONS {
            let past = self.log[..self.next].iter();
            let past = past.filter(|record| record.partition == partition);
            let live_from = past.last().map_or(0, |record| record.offset + 1);
            let restored = self
                .engine
                .restore(partition, state(partition), &of_events(live_from));
            restored.expect("restored");
        }
        let restored = self.engine.restore(FLEET, state(FLEET), &Inputs::new());
        restored.expect("restored");
        let records = self.log[self.stored_at..self.next].to_vec();
        let output = self.engine.step(records).expect("a step");
        assert_eq!(
            (output.alerts, output.late),
            (Vec::new(), Vec::new()),
            "said again"
        );
    }
}

fn fleet_engine(folder: &Path, throttled: bool) -> Engine {
    fleet_engine_of(folder, throttled, Exchange::Inside)
}

pub(super) fn fleet_engine_of(folder: &Path, throttled: bool, exchange: Exchange) -> Engine {
    let report = DetectionSet::load(folder).expect("detections");
    assert_eq!(report.refused, Vec::new());
    let options = WindowOptions {
        host_silence: HOST_SILENCE,
        fleet_patience: PATIENCE,
        exchange,
        ..WindowOptions::default()
    };
    let engine = Engine::new(report.set, AlertMode::Test).expect("an engine");
    let engine = engine.with_windows(options).expect("windows");
    let engine = engine.with_sources(&PARTITIONS);
    match throttled {
        true => engine,
        false => engine.without_throttle(),
    }
}

fn fleet_oracle(folder: &Path) -> Oracle {
    Oracle::load(folder)
        .expect("an oracle")
        .with_host_silence(HOST_SILENCE)
        .with_fleet(PATIENCE, &PARTITIONS)
}

#[test]
fn both_stages_say_what_the_oracle_says() {
    let folder = fleet_folder();
    let oracle = fleet_oracle(folder.path());
    let happenings = prop::collection::vec(happening(), 1..160);
    let input = prop_oneof![Just(Input::Bounded), Just(Input::Live)];
    let case = (happenings, fleet_turns(), input, prop::bool::weighted(0.85));
    told(runner(40).run(&case, |(happenings, turns, input, ingest)| {
        let log = write_log(&happenings, ingest);
        let expected = oracle.run(&log, input).expect("an answer");
        let mut whole = Whole::new(folder.path(), true, &log);
        whole.run(&turns, input);
        let mut differences = compare(&expected.alerts, &whole.alerts);
        if differences.is_empty() {
            differences.extend(compare_order(&expected.alerts, &whole.alerts));
        }
        differences.extend(compare_late(&expected.late, &whole.late));
        verdict(&differences, &format!("{input:?} {turns:?}"), &log)
    }));
}

/// Another mixture of the same logs: each partition's records are in their order.
fn mixed(log: &[InputRecord], choices: &[u8]) -> Vec<InputRecord> {
    let mut rest: Vec<VecDeque<InputRecord>> = PARTITIONS
        .iter()
        .map(|partition| {
            let own = log.iter().filter(|record| record.partition == *partition);
            own.cloned().collect()
        })
        .collect();
    let mut mixed = Vec::new();
    let mut choices = choices.iter().cycle();
    while mixed.len() < log.len() {
        let choice = usize::from(*choices.next().expect("a choice"));
        // Some partitions are far ahead of others.
        let places = (0..PARTITIONS.len()).map(|next| (choice + next) % PARTITIONS.len());
        let mut places = places.filter(|place| !rest[*place].is_empty());
        let place = places.next().expect("records are left");
        let own = &mut rest[place];
        let count = (choice / PARTITIONS.len() + 1).min(own.len());
        mixed.extend(own.drain(..count));
    }
    mixed
}

/// What must be the same however logs are mixed: closes whole, first words by their ids. What is folded and held back depends on
/// which comes first.
pub(super) fn settled<'a>(
    alerts: impl Iterator<Item = (&'a str, &'a str, Option<&'a str>, String)>,
) -> (Vec<String>, Vec<String>) {
    let (mut closes, mut first) = (Vec::new(), Vec::new());
    for (detection, id, state, text) in alerts.filter(|(detection, ..)| *detection != "folded") {
        match state {
            Some("closed") => closes.push(format!("{detection} {id} {text}")),
            Some("open") => first.push(format!("{detection} {id}")),
            _ => {}
        }
    }
    closes.sort();
    first.sort();
    (closes, first)
}

/// Alerts as [`settled`] takes them.
pub(super) fn settled_of(
    alerts: &[records::Alert],
) -> impl Iterator<Item = (&str, &str, Option<&str>, String)> {
    alerts.iter().map(|alert| {
        let state = alert.window_state.as_deref();
        let evidence = alert.evidence.iter();
        let evidence: Vec<String> = evidence
            .map(|row| format!("{}/{}/{} {}", row.host_id, row.sensor_run, row.seq, row.row))
            .collect();
        // The last digits of a sum of floats depend on its order.
        let text = match &*alert.detection_id {
            "numbers" => String::new(),
            _ => alert.row.to_string(),
        };
        let (count, hosts) = (alert.host_count, &alert.hosts);
        let text = format!("{text} {count:?} {hosts:?} {evidence:?}");
        (&*alert.detection_id, &*alert.alert_id, state, text)
    })
}

#[test]
fn however_logs_are_mixed_windows_end_the_same_and_are_said_first_once() {
    let folder = fleet_folder();
    let happenings = prop::collection::vec(happening(), 1..160);
    let choices = prop::collection::vec(0_u8..60, 1..40);
    let case = (happenings, fleet_turns(), fleet_turns(), choices);
    told(
        runner(30).run(&case, |(happenings, turns, other_turns, choices)| {
            let log = write_log(&happenings, true);
            let other = mixed(&log, &choices);
            let mut said = Vec::new();
            for (log, turns) in [(&log, &turns), (&other, &other_turns)] {
                let mut whole = Whole::new(folder.path(), false, log);
                whole.run(turns, Input::Live);
                said.push(settled(settled_of(&whole.alerts)));
            }
            prop_assert_eq!(&said[0], &said[1], "{}", describe(&log));
            let mut first = said[0].1.clone();
            first.dedup();
            prop_assert_eq!(&first, &said[0].1, "said first twice");
            Ok(())
        }),
    );
}
