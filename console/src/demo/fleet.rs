//! `dogwatch demo --fleet`: three hosts that are simulated, and an attack that only all of them together show.
//!
//! ```text
//! recorded container ─► three hosts, each with an id and a clock of its own ─► log of this process | broker ─► processor ─► table
//! ```
//! Each host replays the ordinary life of the recorded container. Then a scan goes through all three: each is refused at twelve
//! addresses of one port, which no detection on one host takes for a scan.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use chrono::Utc;
use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_sensor::pipeline::{
    Input, Loaded, OnHangup, Output, Shutdown, Stats, stop_on_signals,
};
use dogwatch_stream_processor::pipeline::{
    self as processor, ProcessorError, Stats as ProcessorStats,
};
use dogwatch_stream_processor::shutdown::Shutdown as ProcessorShutdown;
use dogwatch_stream_processor::sink::Sink;
use dogwatch_stream_processor::source::Source;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::{DemoError, RECORDED};
use crate::cli;
use crate::joined::Ended;
use crate::plan::{Plan, PlanError, Road};
use crate::printer::{Format, Printer};
use crate::readback::{Read, ReadBack, ReadBackError};
use crate::render;
use crate::session::SessionError;

/// The hosts, and how far the clock of each is from the true time, milliseconds.
const HOSTS: [(&str, i64); 3] = [("demo-ant", 0), ("demo-bee", 1_500), ("demo-cat", -2_500)];
/// What finds the attack.
const DETECTION: &str = "scan_over_hosts";
/// Addresses that each host is refused at, the port, and how many addresses of it the detection wants.
const ADDRESSES: usize = 12;
const PORT: i64 = 6_379;
const WANTED: usize = 30;
/// How long hosts live as ever before the scan, and how long the scan takes.
const ORDINARY: Duration = Duration::from_secs(2);
/// Since when a host must have been heard of to count, with room: in this process it is said to have been.
const KNOWN: Duration = Duration::from_secs(63);
const SCAN: Duration = Duration::from_secs(3);
/// How long the alert is awaited after that.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same through a broker, where two consumer groups have to form first.
const BROKER_PATIENCE: Duration = Duration::from_secs(180);
/// How long alerts of single hosts are awaited behind the answer.
const GRACE: Duration = Duration::from_secs(2);
/// How often hosts send.
const TURN: Duration = Duration::from_millis(100);
const QUEUE: usize = 8_192;

/// Gives the demo; returns whether the fleet saw the attack, and no host by itself did.
///
/// # Errors
/// [`DemoError`] when it cannot be given.
pub fn run(options: &cli::Demo) -> Result<bool, DemoError> {
    let shutdown = Shutdown::new();
    stop_on_signals(shutdown.clone(), OnHangup::End).map_err(DemoError::Signals)?;
    let printer = Printer::new(Format::chosen(options.watch.json), None)?;
    let mut capture = tempfile::NamedTempFile::new().map_err(DemoError::Scratch)?;
    capture.write_all(RECORDED).map_err(DemoError::Scratch)?;
    let input = Input::Replay(vec![capture.path().to_owned()]);
    let mut plan = Plan::new(&options.watch, input, &[], shutdown.clone())?;
    plan.one_host = false;
    let road = plan.road;
    printer.note(
        "SIMULATED: three hosts replay what was recorded in one container, each with an id and a clock of its own; \
         the scan's connections are made up, the detections are the real ones",
    )?;
    printer.note(&plan.detections_line())?;
    if let (Road::Broker, Some(address)) = (road, &options.watch.kafka) {
        printer.note(&format!(
            "through {address}, where the events stay as any others: the scan begins when the hosts have been heard of for a minute, since who was never heard of does not count"
        ))?;
    }
    let ordinary = match road {
        Road::Process => ORDINARY,
        Road::Broker => KNOWN,
    };
    let events = recorded(&plan)?;
    let running = Running::start(plan)?;
    let patience = match road {
        Road::Process => PATIENCE,
        Road::Broker => BROKER_PATIENCE,
    };
    let mut demo = Demo {
        hosts: HOSTS.map(|(name, behind)| Host::new(name, behind, &events)),
        running,
        printer,
        ordinary,
        began: Instant::now(),
        wanted_at: None,
        sent: 0,
        found: None,
        alone: BTreeSet::new(),
    };
    demo.play(&shutdown, patience)?;
    demo.finish()
}

/// What the recorded container did before anybody attacked it: its service and its healthcheck.
fn recorded(plan: &Plan) -> Result<Vec<Event>, DemoError> {
    let ended = |error: Ended| DemoError::Session(SessionError::Ended(error));
    let mut config = plan.sensor.clone();
    config.state_file = None;
    let loaded = Loaded::load(config, plan.input.clone())
        .map_err(|error| PlanError::from(Box::new(error)))?;
    let (output, log) = local::channel(QUEUE);
    let replay = spawn("sensor", move || {
        loaded.run(Output::Local(output), Shutdown::new(), Stats::default())
    })?;
    let records = log.into_iter();
    let events = records.filter(|record| record.topic == Topic::Events);
    let events = events.filter_map(|record| Event::decode_framed(&record.value).ok());
    let ordinary = |event: &Event| {
        let of_service = event.proc_name.as_deref() == Some("shop-api");
        of_service || event.proc_stage.as_deref() == Some("healthcheck")
    };
    let events: Vec<Event> = events.filter(ordinary).collect();
    let replayed = replay.join().map_err(|_| ended(Ended::Panicked))?;
    replayed.map_err(|error| ended(error.into()))?;
    Ok(events)
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, DemoError> {
    let thread = Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| PlanError::from(error).into())
}

/// One of the simulated hosts.
struct Host {
    name: &'static str,
    clock_ms: i64,
    run: String,
    seq: i64,
    /// What it does, again and again.
    life: VecDeque<Event>,
    /// How many addresses it was refused at.
    refused: usize,
}

impl Host {
    fn new(name: &'static str, clock_ms: i64, events: &[Event]) -> Self {
        Self {
            name,
            clock_ms,
            // Each demo is another run of its sensor: nothing is taken for a repeat.
            run: format!("demo-{:016x}", Utc::now().timestamp_micros()),
            seq: 0,
            life: events.iter().cloned().collect(),
            refused: 0,
        }
    }

    /// The event as this host sends it now.
    fn own(&mut self, event: Event) -> Event {
        let now = Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        let seq = self.seq;
        self.seq += 1;
        Event {
            host_id: self.name.into(),
            host_name: self.name.into(),
            sensor_run: self.run.as_str().into(),
            seq,
            ts: now + self.clock_ms * 1_000_000,
            ..event
        }
    }

    /// The next of what it always does.
    fn lives(&mut self) -> Option<Event> {
        self.life.rotate_left(1.min(self.life.len()));
        let event = self.life.back()?.clone();
        Some(self.own(event))
    }

    /// Says how far it is.
    fn mark(&mut self) -> Event {
        self.own(Event {
            evt_type: "mark".into(),
            evt_category: "sensor".into(),
            evt_outcome: "success".into(),
            ..Event::default()
        })
    }

    /// Is refused at one more address; nothing when it has tried all of its own.
    fn scans(&mut self, place: usize) -> Option<Event> {
        if self.refused >= ADDRESSES {
            return None;
        }
        let service = self
            .life
            .iter()
            .find(|event| event.proc_name.as_deref() == Some("shop-api"))?;
        let address = format!("10.20.{place}.{}", self.refused + 10);
        self.refused += 1;
        let event = Event {
            evt_type: "connect".into(),
            evt_category: "net".into(),
            evt_outcome: "failed".into(),
            evt_failed: true,
            evt_res: Some("ECONNREFUSED".into()),
            fd_type: Some("ipv4".into()),
            fd_family: Some("ipv4".into()),
            fd_l4proto: Some("tcp".into()),
            fd_name: Some(format!("->{address}:{PORT}").into()),
            fd_sip: Some(address.as_str().into()),
            fd_sport: Some(PORT),
            fd_rip: Some(address.as_str().into()),
            fd_rport: Some(PORT),
            ..service.clone()
        };
        Some(self.own(event))
    }
}

/// Where the hosts' events go.
enum Way {
    /// The log of this process.
    Log(SyncSender<LogRecord>),
    /// The topic of events.
    Broker(
        Box<ThreadedProducer<rdkafka::producer::DefaultProducerContext>>,
        String,
    ),
}

impl Way {
    fn send(&self, event: &Event) {
        self.send_at(event, Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX));
    }

    /// Sends it so that it comes into the log of this process at a time, nanoseconds; a broker has its own.
    fn send_at(&self, event: &Event, ingest_ts_ns: i64) {
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        match self {
            Self::Log(log) => {
                // A processor that has ended says so itself.
                let _ = log.send(LogRecord {
                    topic: Topic::Events,
                    key: event.host_id.clone(),
                    value,
                    ingest_ts_ns,
                });
            }
            Self::Broker(producer, topic) => {
                let record = BaseRecord::to(topic).key(&*event.host_id).payload(&value);
                if let Err((error, _)) = producer.send(record) {
                    tracing::warn!(%error, "an event was not taken");
                }
            }
        }
    }
}

/// Where alerts come from.
enum Alerts {
    Process(Receiver<Alert>),
    Broker(Box<ReadBack>),
}

/// A processor that runs, and what leads to it and from it.
struct Running {
    way: Way,
    alerts: Alerts,
    shutdown: ProcessorShutdown,
    processor: JoinHandle<Result<(), ProcessorError>>,
}

impl Running {
    fn start(plan: Plan) -> Result<Self, DemoError> {
        let shutdown = ProcessorShutdown::new();
        let (way, alerts, source, sink) = match plan.road {
            Road::Process => {
                let (log, source) = local::channel(QUEUE);
                let (sink, alerts) = sync_channel(QUEUE);
                let (source, sink) = (Source::Local(source), Sink::Local(sink));
                (Way::Log(log), Alerts::Process(alerts), source, sink)
            }
            Road::Broker => {
                let reader = ReadBack::open(&plan.processor, false).map_err(PlanError::from)?;
                let mut settings = plan.sensor.kafka.brokers().settings();
                settings
                    .set("enable.idempotence", "true")
                    .set("partitioner", "murmur2_random");
                let failed = |error| {
                    let fault = dogwatch_kafka::Fault::of("make a producer", &error);
                    PlanError::from(ReadBackError::from(fault))
                };
                let producer = settings.create().map_err(failed)?;
                let topic =
                    Topics::new(plan.sensor.kafka.topic_prefix.as_str()).name(Topic::Events);
                let way = Way::Broker(Box::new(producer), topic);
                let alerts = Alerts::Broker(Box::new(reader));
                (way, alerts, Source::Kafka, Sink::Kafka)
            }
        };
        let own = shutdown.clone();
        let processor = spawn("processor", move || {
            let stats = ProcessorStats::default();
            processor::run_watched(&plan.processor, source, sink, &own, &stats).map(drop)
        })?;
        Ok(Self {
            way,
            alerts,
            shutdown,
            processor,
        })
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Alert>, DemoError> {
        match &mut self.alerts {
            Alerts::Process(alerts) => match alerts.recv_timeout(wait) {
                Ok(alert) => Ok(Some(alert)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(wait);
                    Ok(None)
                }
            },
            Alerts::Broker(reader) => match reader.next(wait) {
                Ok(Some(Read::Alert(alert))) => Ok(Some(*alert)),
                Ok(_) => Ok(None),
                Err(error @ ReadBackError::Undecodable { .. }) => {
                    tracing::warn!(%error, "record skipped");
                    Ok(None)
                }
                Err(error) => Err(PlanError::from(error).into()),
            },
        }
    }
}

/// The demo while it runs.
struct Demo {
    hosts: [Host; 3],
    running: Running,
    printer: Printer,
    /// How long hosts live as ever before the scan.
    ordinary: Duration,
    began: Instant,
    /// When so many addresses were refused as the detection wants.
    wanted_at: Option<Instant>,
    /// How many were refused.
    sent: usize,
    /// How long the alert took from then on.
    found: Option<Duration>,
    /// What single hosts were said to do.
    alone: BTreeSet<(String, String)>,
}

impl Demo {
    /// Hosts live, the scan goes through them, and alerts are awaited.
    fn play(&mut self, shutdown: &Shutdown, patience: Duration) -> Result<(), DemoError> {
        let all = HOSTS.len() * ADDRESSES;
        self.were_heard_of();
        let mut found_at = None;
        let mut marked = 0;
        while shutdown.reason().is_none() && !self.running.processor.is_finished() {
            let now = self.began.elapsed();
            let over = match found_at {
                Some(at) => now > at + GRACE,
                None => now > self.ordinary + SCAN + patience,
            };
            if over {
                break;
            }
            let part = now.saturating_sub(self.ordinary).as_secs_f64() / SCAN.as_secs_f64();
            let due = ((part * all as f64) as usize).min(all);
            self.send(due, now.as_secs() >= marked);
            marked = now.as_secs() + 1;
            self.look(TURN)?;
            if self.found.is_some() {
                found_at.get_or_insert(now);
            }
        }
        Ok(())
    }

    /// In this process hosts were heard of a while before.
    fn were_heard_of(&mut self) {
        if let Way::Log(_) = self.running.way {
            for host in &mut self.hosts {
                let mut mark = host.mark();
                mark.ts -= KNOWN.as_nanos() as i64;
                self.running.way.send_at(&mark, mark.ts);
            }
        }
    }

    /// Sends what hosts do in a turn; of the scan what is due.
    fn send(&mut self, due: usize, marks: bool) {
        for host in &mut self.hosts {
            let event = host.lives();
            let mark = marks.then(|| host.mark());
            for event in event.into_iter().chain(mark) {
                self.running.way.send(&event);
            }
        }
        while self.sent < due {
            let place = self.sent % self.hosts.len();
            match self.hosts[place].scans(place) {
                Some(event) => self.running.way.send(&event),
                None => break,
            }
            self.sent += 1;
            if self.sent == WANTED {
                self.wanted_at = Some(Instant::now());
            }
        }
    }

    /// Takes the next alert, if one comes in time.
    fn look(&mut self, wait: Duration) -> Result<(), DemoError> {
        let Some(alert) = self.running.next(wait)? else {
            return Ok(());
        };
        let ours = |name: &str| HOSTS.iter().any(|(own, _)| *own == name);
        let of_fleet = alert.hosts.iter().flatten().all(|host| ours(host));
        let of_fleet = of_fleet && &*alert.host_id == "fleet";
        if ours(&alert.host_id) {
            self.alone
                .insert((alert.host_id.to_string(), alert.detection_id.to_string()));
        } else if !of_fleet {
            // Through a broker others' alerts come, too.
            return Ok(());
        }
        let latency = self.wanted_at.map(|at| at.elapsed());
        let is_answer = of_fleet && &*alert.detection_id == DETECTION;
        if is_answer && self.found.is_none() {
            self.found = Some(latency.unwrap_or_default());
        }
        self.printer.alert(&alert, latency.filter(|_| is_answer))?;
        Ok(())
    }

    /// Ends the processor and says what came of it.
    fn finish(mut self) -> Result<bool, DemoError> {
        if let Way::Broker(producer, _) = &self.running.way {
            // What is not taken by then is not missed: it was the hosts' ordinary life.
            let _ = producer.flush(GRACE);
        }
        self.running.shutdown.trigger("the demo is over");
        self.running.way = Way::Log(sync_channel(1).0);
        while !self.running.processor.is_finished() {
            self.look(TURN)?;
        }
        while let Some(alert) = self.last()? {
            self.printer.alert(&alert, None)?;
        }
        let ended = |error: Ended| DemoError::Session(SessionError::Ended(error));
        let processor = self.running.processor;
        let result = processor.join().map_err(|_| ended(Ended::Panicked))?;
        result.map_err(|error| ended(error.into()))?;
        let (text, passed) = table(self.found, &self.alone, &self.printer);
        self.printer.note(&text)?;
        Ok(passed)
    }

    /// What lies in this process still.
    fn last(&self) -> Result<Option<Alert>, DemoError> {
        Ok(match &self.running.alerts {
            Alerts::Process(alerts) => alerts.try_recv().ok(),
            Alerts::Broker(_) => None,
        })
    }
}

/// One line a host, one for the fleet, and the verdict.
fn table(
    found: Option<Duration>,
    alone: &BTreeSet<(String, String)>,
    printer: &Printer,
) -> (String, bool) {
    let colour = printer.colour();
    let mut text = String::from("\n");
    let mut line = |good: bool, what: String, result: String, whose: &str| {
        let result = colour.paint(if good { "32" } else { "1;31" }, &format!("{result:18}"));
        text += &format!("{what:58}  {result}  {whose}\n");
    };
    for (host, _) in HOSTS {
        let said = alone.iter().filter(|(of, _)| of == host);
        let said: Vec<&str> = said.map(|(_, detection)| detection.as_str()).collect();
        let result = if said.is_empty() { "silent" } else { "ALERT" };
        let what = format!("{host} by itself: {ADDRESSES} addresses refuse it at port {PORT}");
        line(said.is_empty(), what, result.to_owned(), &said.join(", "));
    }
    let result = match found {
        Some(latency) => format!("found in {}", render::duration(latency)),
        None => "NOT FOUND".to_owned(),
    };
    let what = format!(
        "all {} together: a scan of {} addresses",
        HOSTS.len(),
        HOSTS.len() * ADDRESSES
    );
    line(found.is_some(), what, result, DETECTION);
    let passed = found.is_some() && alone.is_empty();
    let verdict = match passed {
        true => "only the fleet saw it, as expected",
        false => "this did not come out as expected",
    };
    text += &colour.paint(if passed { "1;32" } else { "1;31" }, verdict);
    (text, passed)
}
