//! How long alerts take: from the event's append, from the system call, and over a processor's moves and falls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dogwatch_schemas::Text;
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::cache::repository;
use dogwatch_tests::docker::Container;
use dogwatch_tests::programs;
use dogwatch_tests::publish::Publisher;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use crate::measure::{Rounds, Stolen, spread};
use crate::stream::{
    PATIENCE, SENTINEL_EACH, consumer, make_sentinel, next, now_ns, spawn_processor,
    start_processor, write_sentinel,
};
use crate::table::Table;
use crate::{detections, events};

/// One event in so many is a sentinel.
const EACH: usize = 100;
/// Time that is not measured: connections, and what is compiled or opened at the first use.
const SETTLE: Duration = Duration::from_secs(2);
/// The group whose processors come and go.
const STANDSTILL: &str = "bench-standstill";
/// A window closes when its host's time is so far past its end; as by default.
const OUT_OF_ORDERNESS: Duration = Duration::from_secs(1);

/// What an alert is said about, and so what it is timed from.
#[derive(Debug, Clone, Copy)]
enum Sentinel {
    /// An event: from its append.
    Event,
    /// The event that makes a window's HAVING true before the window is over: from its append.
    FirstWord,
    /// The end of a window: from the append of the event by which its host's time has passed it.
    Close,
}

impl Sentinel {
    /// Writes the detection that finds it; over windows each sentinel is a key of its own.
    fn write(self, folder: &Path) -> Result<()> {
        let (window, having) = match self {
            Self::Event => return write_sentinel(folder, SENTINEL_EACH),
            Self::FirstWord => ("1 minute", "count(*) >= 1"),
            // What can become false again is said at the end alone.
            Self::Close => ("1 second", "count(*) < 1000"),
        };
        let rest = format!(
            "-- out_of_orderness = \"{}s\"\n\
             SELECT window_start, window_end, container_id, proc_cmdline, count(*) AS n FROM tumble(events, INTERVAL '{window}')\n\
             WHERE evt_type = 'execve' AND proc_name = 'dogwatch-bench'\n\
             GROUP BY window_start, window_end, container_id, proc_cmdline HAVING {having}\n",
            OUT_OF_ORDERNESS.as_secs()
        );
        write_sentinel(folder, &rest)
    }

    /// The event's append, or the time from which the window's host closes it; none for an alert that is not timed.
    fn begun(self, alert: &Alert) -> Option<i64> {
        match (self, alert.window_state.as_deref()) {
            (Self::Event, None) | (Self::FirstWord, Some("open")) => alert.ingest_ts,
            (Self::Close, Some("closed")) => {
                Some(alert.window_end? + OUT_OF_ORDERNESS.as_nanos() as i64)
            }
            _ => None,
        }
    }
}

/// What [`from_append`] publishes.
pub struct Pace {
    /// Events a second; one in a hundred is a sentinel.
    pub rate: usize,
    /// Seconds that are not measured: a new broker's Java compiles what it does often.
    pub warm_up: u64,
    /// Seconds that are measured.
    pub seconds: u64,
    /// As `seconds`, for first words: with its first nine tenths, which are waited for, a whole minute and so the end of one.
    pub first_words_seconds: u64,
}

impl Pace {
    /// What the bars are measured at.
    pub const FULL: Self = Self {
        rate: 20_000,
        warm_up: 20,
        seconds: 20,
        first_words_seconds: 70,
    };
    /// Enough to see that it runs.
    pub const SMOKE: Self = Self {
        rate: 2_000,
        warm_up: 2,
        seconds: 2,
        first_words_seconds: 2,
    };
}

/// Publishes events at an even pace and times the alerts on sentinels.
///
/// # Errors
/// When a client fails or alerts are missing.
pub fn from_append(pace: &Pace, rounds: &Rounds) -> Result<Table> {
    let mut table = Table::new(&[
        "delivery",
        "alerts",
        "p50 ms",
        "p99 ms",
        "lowest p99",
        "highest p99",
        "max ms",
        "stolen",
    ]);
    table.note(format!(
        "{} events/s for {} s after {} s that are not counted, 1 in {EACH} an alert, 11 detections; from the event's append to \
         the alert in the hands of a reader of committed records",
        pace.rate, pace.seconds, pace.warm_up
    ));
    table.note(
        format!(
            "First words: on a window, at the event that makes its HAVING true, for {} s: each run has the end of a minute, \
             when all that spoke in it close",
            pace.first_words_seconds
        ),
    );
    table.note(
        "Closes: windows of a second that speak at their end, all keys at once, from the append of the event by which their \
         host's time has passed their end"
            .into(),
    );
    table.note(rounds.note());
    let runs = [
        ("exactly_once", "exactly_once", Sentinel::Event),
        ("at_least_once", "at_least_once", Sentinel::Event),
        (
            "exactly_once, first words",
            "exactly_once",
            Sentinel::FirstWord,
        ),
        ("exactly_once, closes", "exactly_once", Sentinel::Close),
    ];
    table.note(Stolen::NOTE.into());
    let mut times: BTreeMap<&str, Vec<(Vec<f64>, f64)>> = BTreeMap::new();
    for round in 0..rounds.count {
        for (name, delivery, sentinel) in runs {
            if !rounds.wants(name) {
                continue;
            }
            let (own, stolen) = times_from_append(pace, delivery, sentinel)?;
            let p99 = quantile(&own, 0.99);
            eprintln!("round {round}, {name}: p99 {p99:.1} ms, {stolen:.1} % stolen");
            times.entry(name).or_default().push((own, stolen));
        }
    }
    for (name, times) in times {
        let of = |share: f64| spread(times.iter().map(|(times, _)| quantile(times, share)));
        let [p99, lowest, highest] = of(0.99);
        let alerts: usize = times.iter().map(|(times, _)| times.len()).sum();
        let stolen = Stolen::cell(times.iter().map(|(_, stolen)| *stolen));
        let cells = [of(0.5)[0], p99, lowest, highest, of(1.0)[2]].map(|ms| format!("{ms:.1}"));
        table.row(
            [name.to_owned(), alerts.to_string()]
                .into_iter()
                .chain(cells)
                .chain([stolen]),
        );
    }
    Ok(table)
}

/// The times of one run's alerts in milliseconds, sorted, and the percentage of CPU time that was stolen meanwhile.
fn times_from_append(pace: &Pace, delivery: &str, sentinel: Sentinel) -> Result<(Vec<f64>, f64)> {
    let Pace { rate, warm_up, .. } = *pace;
    // A close is due later than its sentinels: by the rest of their second and the out-of-orderness.
    let (seconds, tail) = match sentinel {
        Sentinel::Event => (pace.seconds, 0),
        Sentinel::FirstWord => (pace.first_words_seconds, 0),
        Sentinel::Close => (pace.seconds, 2),
    };
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    detections::write(folder.path(), 10)?;
    sentinel.write(folder.path())?;
    let settings = [("DELIVERY", delivery)];
    let process = start_processor(&broker, folder.path(), "bench-latency", &settings);
    let alerts = consumer(&broker, "bench-latency-alerts", Topic::Alerts)?;
    let address = broker.address();
    let length = Duration::from_secs(warm_up + seconds + tail);
    let sender = std::thread::spawn(move || send_paced(&address, rate, length));
    let mut times = Vec::new();
    let measured_from = now_ns() + Duration::from_secs(warm_up).as_nanos() as i64;
    let mut stolen = None;
    while times.len() < rate * seconds as usize / EACH * 9 / 10 {
        let (alert, arrived) = next_alert(&alerts)?;
        let Some(begun) = sentinel.begun(&alert).filter(|at| *at >= measured_from) else {
            continue;
        };
        stolen.get_or_insert_with(Stolen::start);
        times.push((alert.host_id, begun, arrived));
    }
    let stolen = stolen.context("no alert was measured")?.percent();
    join(sender);
    process.stop(PATIENCE);
    if let Sentinel::Close = sentinel {
        begin_at_append(&broker, rate * length.as_secs() as usize, &mut times)?;
    }
    let times = times
        .into_iter()
        .map(|(_, begun, arrived)| (arrived - begun) as f64 / 1e6);
    Ok((sorted(times.collect()), stolen))
}

/// Replaces each time that a host's windows were due at by the append of its first event since, of `count` in the topic.
fn begin_at_append(broker: &Broker, count: usize, times: &mut [(Text, i64, i64)]) -> Result<()> {
    let events = consumer(broker, "bench-latency-events", Topic::Events)?;
    let due: BTreeSet<i64> = times.iter().map(|(_, due, _)| *due).collect();
    let mut appends: BTreeMap<(Text, i64), i64> = BTreeMap::new();
    for _ in 0..count {
        let message = next(&events)?;
        let event = Event::decode_framed(message.payload().unwrap_or_default())?;
        let appended = message.timestamp().to_millis().context("append time")? * 1_000_000;
        // A window's time is never later than the broker's.
        let time = event.ts.min(appended);
        if let Some(due) = due.range(..=time).next_back() {
            appends.entry((event.host_id, *due)).or_insert(appended);
        }
    }
    for (host, begun, _) in times {
        let appended = appends.get(&(host.clone(), *begun));
        *begun = *appended.context("a window closed without an event")?;
    }
    Ok(())
}

/// How many alerts of one detection a container may have within a minute.
const ALERTS_EACH: usize = 10;

/// Times alerts from the system call in a container: sensor, broker and processor on this machine.
///
/// # Errors
/// When a program does not run or alerts are missing.
pub fn from_system_call(count: usize) -> Result<Table> {
    let mut table = Table::new(&HEADING);
    table.note(format!(
        "{count} opens of /etc/shadow by cat, 20 a second, {ALERTS_EACH} in each container; from the system call to the alert in the hands of \
         a reader of committed records"
    ));
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("processor.log");
    let found = repository().join("detections");
    let mut processor = programs::processor(&broker.address(), &found, None, &log);
    processor.wait_for_text("partitions assigned", PATIENCE);
    let sensor = programs::sensor(&broker.address(), &[], folder.path());
    let alerts = consumer(&broker, "bench-call-alerts", Topic::Alerts)?;
    // A detection alerts on one container ten times a minute, the rest is counted.
    let containers: Vec<Container> = (0..count.div_ceil(ALERTS_EACH))
        .map(|place| Container::idle(&format!("bench-calls-{place}"), &[]))
        .collect();
    sleep(SETTLE);
    let worker = std::thread::spawn(move || {
        let line = format!(
            "for i in $(seq {ALERTS_EACH}); do /bin/cat /etc/shadow >/dev/null; sleep 0.05; done"
        );
        for container in containers {
            container.shell(&line);
        }
    });
    let mut times = Vec::new();
    while times.len() < count {
        let (alert, arrived) = next_alert(&alerts)?;
        if &*alert.detection_id == "sensitive_file_read" {
            let called = alert.event_ts;
            times.push((arrived - called) as f64 / 1e6);
        }
    }
    worker
        .join()
        .map_err(|_| anyhow::anyhow!("the container failed"))?;
    sensor.stop(PATIENCE);
    processor.stop(PATIENCE);
    table.row(quantiles("exactly_once", times));
    Ok(table)
}

/// What happens to a processor while events come.
#[derive(Debug, Clone, Copy)]
pub enum Happening {
    /// A second one joins its group.
    Joined,
    /// One of two ends in order.
    Left,
    /// It is killed and restarted at once, under its name in the group.
    KilledWithInstance,
    /// It is killed and restarted at once, without a name.
    KilledWithout,
}

/// Everything that happens.
pub const HAPPENINGS: [Happening; 4] = [
    Happening::Joined,
    Happening::Left,
    Happening::KilledWithInstance,
    Happening::KilledWithout,
];

impl Happening {
    fn name(self) -> &'static str {
        match self {
            Self::Joined => "a second processor joins",
            Self::Left => "one of two leaves",
            Self::KilledWithInstance => "kill -9, restarted at once, kafka.instance",
            Self::KilledWithout => "kill -9, restarted at once",
        }
    }

    /// How long events come: longer than the standstill that is promised.
    fn length(self) -> Duration {
        match self {
            Self::KilledWithout => Duration::from_secs(90),
            _ => Duration::from_secs(25),
        }
    }
}

/// Times the longest wait for an alert when a processor joins, leaves or is killed.
///
/// # Errors
/// When a client fails or no alert comes again.
pub fn standstill(rate: usize, happenings: &[Happening]) -> Result<Table> {
    let mut table = Table::new(&["what happens", "longest wait for an alert, s", "alerts"]);
    table.note(format!(
        "{rate} events/s in 8 partitions, 1 in {EACH} an alert; default timeouts; from the event's append to the alert in the \
         hands of a reader of committed records"
    ));
    for happening in happenings {
        let waits = waits(rate, *happening)?;
        let longest = waits.iter().copied().fold(0.0, f64::max) / 1e3;
        table.row([
            happening.name().into(),
            format!("{longest:.1}"),
            waits.len().to_string(),
        ]);
    }
    Ok(table)
}

fn waits(rate: usize, happening: Happening) -> Result<Vec<f64>> {
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    write_sentinel(folder.path(), SENTINEL_EACH)?;
    let instance = matches!(happening, Happening::KilledWithInstance);
    let instance = instance.then_some(("KAFKA__INSTANCE", "a"));
    let start = |settings| start_processor(&broker, folder.path(), STANDSTILL, settings);
    let spawn = |settings| spawn_processor(&broker, folder.path(), STANDSTILL, settings);
    let mut first = Some(start(instance.as_slice()));
    let mut second = matches!(happening, Happening::Left).then(|| start(&[]));
    let alerts = consumer(&broker, "bench-standstill-alerts", Topic::Alerts)?;
    let address = broker.address();
    let length = happening.length();
    let sender = std::thread::spawn(move || send_paced(&address, rate, length));
    let begun = Instant::now();
    let mut waits = Vec::new();
    let mut happened = false;
    let due = (rate as f64 * length.as_secs_f64()) as usize / EACH;
    while waits.len() < due {
        if !happened && begun.elapsed() > 5 * SETTLE {
            happened = true;
            match happening {
                Happening::Joined => second = Some(spawn(&[])),
                Happening::Left => drop(second.take().map(|process| process.stop(PATIENCE))),
                Happening::KilledWithInstance | Happening::KilledWithout => {
                    if let Some(process) = first.take() {
                        process.crash();
                    }
                    first = Some(spawn(instance.as_slice()));
                }
            }
        }
        let (alert, arrived) = next_alert(&alerts)?;
        let appended = alert.ingest_ts.context("the topic stamps append time")?;
        waits.push((arrived - appended) as f64 / 1e6);
    }
    join(sender);
    for process in [first, second].into_iter().flatten() {
        process.stop(PATIENCE);
    }
    Ok(waits)
}

const HEADING: [&str; 5] = ["delivery", "alerts", "p50 ms", "p99 ms", "max ms"];

fn quantiles(name: &str, times: Vec<f64>) -> [String; 5] {
    let times = sorted(times);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| format!("{:.1}", quantile(&times, share)));
    [name.into(), times.len().to_string(), p50, p99, max]
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

/// The time that a share of sorted ones does not exceed.
fn quantile(times: &[f64], share: f64) -> f64 {
    times[((times.len() - 1) as f64 * share) as usize]
}

/// The next alert, and when it came.
fn next_alert(alerts: &BaseConsumer) -> Result<(Alert, i64)> {
    let message = next(alerts)?;
    let arrived = now_ns();
    let alert = Alert::decode_framed(message.payload().unwrap_or_default())?;
    Ok((alert, arrived))
}

fn join(sender: std::thread::JoinHandle<()>) {
    sender.join().expect("the sender does not panic");
}

/// Publishes at an even pace; every sentinel has a command line of its own.
fn send_paced(address: &str, rate: usize, length: Duration) {
    let publisher = Publisher::new(address);
    let topic = Topics::new("dogwatch").name(Topic::Events);
    let start = Instant::now();
    let mut message = Vec::new();
    let count = (rate as f64 * length.as_secs_f64()) as usize;
    for (index, mut event) in events::Stream::new(3, 60, 20_000).take(count).enumerate() {
        if index % EACH == 0 {
            make_sentinel(&mut event);
            event.proc_cmdline = Some(format!("sentinel {index}").as_str().into());
        }
        event.ts = now_ns();
        message.clear();
        event.encode_framed(&mut message);
        publisher.send(&topic, &event.host_id, &message);
        let due = Duration::from_secs_f64(index as f64 / rate as f64);
        let early = due.saturating_sub(start.elapsed());
        if early.as_millis() > 0 {
            sleep(early);
        }
    }
    publisher.flush();
}
