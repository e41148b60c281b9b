//! Detections over the whole fleet, by simulation: so many hosts send what container hosts send, each with a mark a second, in
//! eight partitions, and both stages run over it one second of ingest after the other, beside the same detections by host.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::alert::AlertMode;
use dogwatch_stream_processor::decode::InputRecord;
use dogwatch_stream_processor::detect::DetectionSet;
use dogwatch_stream_processor::engine::Engine;
use dogwatch_stream_processor::window::{Exchange, WindowOptions};
use dogwatch_tests::cache::repository;

use crate::events::Stream;
use crate::measure::process_cpu;
use crate::table::Table;

const SOURCES: usize = 8;
const TARGETS: i32 = 8;
const SECOND_NS: i64 = 1_000_000_000;
/// How long a record is on its way to the broker.
const ON_ITS_WAY_NS: i64 = 50_000_000;
const HEADER: &str = "-- title = \"t\"\n-- description = \"d\"\n-- message = \"m\"\n-- severity = \"low\"\n\
     -- status = \"experimental\"\n";
/// By what the twenty detections count, and of which events.
const KEYS: [(&str, &str); 5] = [
    ("proc_exepath", "execve"),
    ("fd_sip, fd_sport", "connect"),
    ("fd_name", "openat"),
    ("fd_directory", "openat"),
    ("container_image", "procexit"),
];
/// How many hosts each wants: nobody has so many, the last of them aside.
const LEAST: [usize; 4] = [180, 190, 200, 3];

/// Which detections run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those of the fleet that come with Dogwatch: what hosts do all day concerns hardly any.
    Shipped,
    /// Twenty that count nearly every event: the most that there can be.
    Broad,
    /// The same by host.
    ByHost,
}

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Hosts.
    pub hosts: usize,
    /// Events of each in a second, beside its mark.
    pub each: usize,
    /// Seconds of ingest.
    pub seconds: usize,
}

/// Each number of hosts with few events and with many, and one more with few.
pub fn sizes(hosts: &[usize], seconds: usize, more: Option<usize>) -> Vec<Size> {
    let with = |hosts: usize, each: usize| Size {
        hosts,
        each,
        seconds,
    };
    let sizes = hosts
        .iter()
        .flat_map(|hosts| [with(*hosts, 2), with(*hosts, 20)]);
    sizes.chain(more.map(|hosts| with(hosts, 2))).collect()
}

/// What one simulation came to.
#[derive(Debug, Default)]
struct Cost {
    /// CPU of the first stage, of the second, and of the same by host.
    first: Duration,
    second: Duration,
    by_host: Option<Duration>,
    events: usize,
    input_bytes: usize,
    exchange_bytes: usize,
    records: usize,
    state_bytes: u64,
    /// From the end of a window to the second in which it closed, nanoseconds.
    delays: Vec<i64>,
}

/// Simulates each size.
///
/// # Errors
/// When a detection is refused.
pub fn run(sizes: &[Size]) -> Result<Table> {
    let mut table = Table::new(&[
        "detections",
        "hosts",
        "events/s",
        "stage one, events/s a core",
        "of the same by host",
        "stage two, of stage one's CPU",
        "exchange, of the input's bytes",
        "records/s",
        "close delay, most",
        "states of both",
        "memory",
    ]);
    table.note(format!(
        "Broad: 20 detections over windows of 10 s that count nearly every event, with evidence of each key; {SOURCES} partitions of events, {TARGETS} of the exchange; both stages in this process, without a broker; close delay in the log's time, of which up to 2 s are out_of_orderness and a second"
    ));
    for (name, which) in [("shipped", Which::Shipped), ("broad", Which::Broad)] {
        let mut costs = Vec::new();
        for size in sizes {
            let cost = simulate(*size, which)?;
            table.row(told(name, *size, &cost)?);
            costs.push((*size, cost));
        }
        if let Some((event_ns, host_ns)) = fitted(&costs) {
            table.note(format!(
                "CPU of both stages, {name} = {:.2} µs an event + {:.1} µs a host and second (least squares over the rows)",
                event_ns / 1e3,
                host_ns / 1e3
            ));
        }
    }
    Ok(table)
}

/// The cells of a simulation.
fn told(name: &str, size: Size, cost: &Cost) -> Result<[String; 11]> {
    let core = |time: Duration| cost.events as f64 / time.as_secs_f64();
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let percent = |part: f64, whole: f64| format!("{:.2} %", 100.0 * part / whole);
    let (first, second) = (cost.first.as_secs_f64(), cost.second.as_secs_f64());
    let by_host = cost.by_host.map_or_else(
        || "–".to_owned(),
        |time| format!("{:.2}", time.as_secs_f64() / first),
    );
    let delay = cost.delays.iter().max();
    let delay = delay.map_or_else(
        || "–".to_owned(),
        |delay| format!("{:.1} s", *delay as f64 / 1e9),
    );
    Ok([
        name.to_owned(),
        size.hosts.to_string(),
        (size.hosts * size.each).to_string(),
        format!("{:.0}", core(cost.first)),
        by_host,
        percent(second, first),
        percent(cost.exchange_bytes as f64, cost.input_bytes as f64),
        format!("{:.0}", cost.records as f64 / size.seconds as f64),
        delay,
        mib(cost.state_bytes as f64),
        mib(resident()? as f64),
    ])
}

/// The shipped ones over the fleet, with the views and lists that they read.
fn shipped() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for tactic in fs::read_dir(repository().join("detections"))? {
        let tactic = tactic?;
        let target = folder.path().join(tactic.file_name());
        fs::create_dir(&target)?;
        let all = ["views", "lists"]
            .iter()
            .any(|own| tactic.file_name() == *own);
        for file in fs::read_dir(tactic.path())? {
            let file = file?;
            let text = fs::read_to_string(file.path())?;
            let wanted = all || text.contains("hosts_known(");
            if wanted && !file.file_name().to_string_lossy().ends_with(".jsonl") {
                fs::write(target.join(file.file_name()), text)?;
            }
        }
    }
    Ok(folder)
}

/// Twenty detections, over the fleet or by host.
fn broad(by_host: bool) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let tactic = folder.path().join("execution");
    fs::create_dir(&tactic)?;
    for (number, (keys, kind)) in KEYS.into_iter().enumerate() {
        for (variant, least) in LEAST.into_iter().enumerate() {
            let (host, having) = match by_host {
                true => ("host_id, ", format!("count(*) >= {}", least * 1_000)),
                false => ("", format!("count(DISTINCT host_id) >= {least}")),
            };
            let sql = format!(
                "{HEADER}-- dedup = {{ key = [], period = \"1h\" }}\n\
                 SELECT window_start, {host}{keys}, count(*) AS n FROM tumble(events, INTERVAL '10 seconds')\n\
                 WHERE evt_type = '{kind}' AND seq % 4 <> {variant}\n\
                 GROUP BY window_start, window_end, {host}{keys} HAVING {having}\n"
            );
            fs::write(tactic.join(format!("d{number}_{variant}.sql")), sql)?;
        }
    }
    Ok(folder)
}

fn engine(which: Which, exchange: Exchange) -> Result<Engine> {
    let folder = match which {
        Which::Shipped => shipped()?,
        Which::Broad | Which::ByHost => broad(which == Which::ByHost)?,
    };
    let report = DetectionSet::load(folder.path())?;
    anyhow::ensure!(report.refused.is_empty(), "{:?}", report.refused);
    let options = WindowOptions {
        exchange,
        ..WindowOptions::default()
    };
    let sources: Vec<i32> = (0..SOURCES as i32).collect();
    let engine = Engine::new(report.set, AlertMode::Live)?.with_windows(options)?;
    Ok(engine.with_sources(&sources))
}

/// Writes what hosts send, second by second.
struct Hosts {
    events: Stream,
    seqs: Vec<i64>,
    offsets: [i64; SOURCES],
    begin: i64,
}

impl Hosts {
    fn new(hosts: usize) -> Self {
        let mut events = Stream::new(7, 20, 20_000);
        let begin = events.next().map_or(0, |event| event.ts);
        Self {
            events,
            seqs: vec![0; hosts],
            offsets: [0; SOURCES],
            begin,
        }
    }

    fn second(&mut self, number: usize, each: usize) -> Vec<InputRecord> {
        let from = self.begin + number as i64 * SECOND_NS;
        let mut records = Vec::new();
        for place in 0..=each {
            for host in 0..self.seqs.len() {
                let Some(event) = self.events.next() else {
                    continue;
                };
                let mut event = Event {
                    ts: from + place as i64 * SECOND_NS / (each as i64 + 1),
                    ..event
                };
                if place == each {
                    event = Event {
                        ts: event.ts,
                        evt_type: "mark".into(),
                        ..Event::default()
                    };
                }
                records.push(self.record(host, event));
            }
        }
        records
    }

    fn record(&mut self, host: usize, event: Event) -> InputRecord {
        let name = format!("{host:032x}");
        let event = Event {
            host_id: name.as_str().into(),
            host_name: format!("node-{host}").into(),
            sensor_run: "5f2e8a1b9c3d4e5f".into(),
            seq: self.seqs[host],
            ..event
        };
        self.seqs[host] += 1;
        let partition = host % SOURCES;
        self.offsets[partition] += 1;
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        InputRecord {
            topic: Topic::Events,
            partition: partition as i32,
            offset: self.offsets[partition],
            ingest_ts_ns: Some(event.ts + ON_ITS_WAY_NS),
            key: name.into_bytes().into(),
            value: value.into(),
        }
    }
}

/// Runs both stages and the same by host over what hosts send.
fn simulate(size: Size, which: Which) -> Result<Cost> {
    let mut first = engine(which, Exchange::Sent(TARGETS))?;
    let mut second = engine(which, Exchange::Received(TARGETS))?;
    let beside = (which == Which::Broad).then(|| engine(Which::ByHost, Exchange::Inside));
    let mut beside = beside.transpose()?;
    let mut hosts = Hosts::new(size.hosts);
    let mut cost = Cost::default();
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    for number in 0..size.seconds {
        let records = hosts.second(number, size.each);
        cost.events += size.hosts * size.each;
        cost.input_bytes += records
            .iter()
            .map(|record| record.value.len())
            .sum::<usize>();
        if let Some(by_host) = &mut beside {
            let again = records.clone();
            let began = process_cpu();
            by_host.step(again)?;
            *cost.by_host.get_or_insert_default() += process_cpu() - began;
        }
        let began = process_cpu();
        let output = first.step(records)?;
        cost.first += process_cpu() - began;
        let sent = output.exchange.into_iter().map(|flushed| {
            let offset = offsets.entry(flushed.partition).or_default();
            *offset += 1;
            InputRecord {
                topic: Topic::Exchange,
                partition: flushed.partition,
                offset: *offset,
                ingest_ts_ns: None,
                key: Vec::new().into(),
                value: flushed.value.into(),
            }
        });
        let sent: Vec<InputRecord> = sent.collect();
        cost.records += sent.len();
        cost.exchange_bytes += sent.iter().map(|record| record.value.len()).sum::<usize>();
        let began = process_cpu();
        let output = second.step(sent)?;
        cost.second += process_cpu() - began;
        let now = hosts.begin + (number as i64 + 1) * SECOND_NS;
        cost.delays
            .extend(output.alerts.iter().filter_map(|alert| delay(alert, now)));
        let bytes = first.state_size().bytes + second.state_size().bytes;
        cost.state_bytes = cost.state_bytes.max(bytes);
    }
    let closes = which == Which::Shipped || !cost.delays.is_empty();
    anyhow::ensure!(closes, "no window closed");
    Ok(cost)
}

/// How long after its end a window closed that is said to be closed now.
fn delay(alert: &Alert, now: i64) -> Option<i64> {
    let closed = alert.window_state.as_deref() == Some("closed");
    closed.then_some(now - alert.window_end?)
}

/// What an event costs and what a host costs a second, nanoseconds: by least squares, where the sizes tell them apart.
fn fitted(costs: &[(Size, Cost)]) -> Option<(f64, f64)> {
    let (mut ee, mut eh, mut hh, mut ec, mut hc) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (size, cost) in costs {
        let time = (cost.first + cost.second).as_nanos() as f64;
        let events = cost.events as f64;
        let hosts = (size.hosts * size.seconds) as f64;
        // Each row counts the same.
        let (events, hosts) = (events / time, hosts / time);
        ee += events * events;
        eh += events * hosts;
        hh += hosts * hosts;
        ec += events;
        hc += hosts;
    }
    let determinant = ee * hh - eh * eh;
    let known = costs.len() > 1 && determinant.abs() > 1e-9 * ee * hh;
    known.then(|| {
        (
            (ec * hh - hc * eh) / determinant,
            (hc * ee - ec * eh) / determinant,
        )
    })
}

/// Resident bytes of this process.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = status.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4_096)
}
