//! Sensor and stream processor in one process, joined by a log inside it or by a broker.
//!
//! ```text
//!         [8192]             [1024]           [1024]
//! sensor ───────► processor ───────► collect ───────► who shows alerts
//!
//! sensor ──► broker ──► processor ──► broker ──► collect ──► the same: alerts are read back
//! ```
//! The sensor's kernel part is loaded before any thread is made: the threads of both then have none of the rights that
//! loading needs, and the calls that a sensor never makes are refused to them. What is shown comes from attackers, and what
//! is matched from whoever wrote the detections.
//!
//! At least once inside the process, exactly once through a broker. A full queue holds back what stands before it; what
//! the sensor then loses it counts itself. It ends in the order of the data: sensor, processor, collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use chrono::Utc;
use crossbeam_channel::{Receiver, Sender, bounded};
use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_schemas::topics::Topic;
use dogwatch_sensor::pipeline::{
    Loaded, Output, SensorError, Shutdown as SensorShutdown, Stats, Summary, leave_signals,
};
use dogwatch_stream_processor::pipeline::{
    self as processor, ProcessorError, Stats as ProcessorStats,
};
use dogwatch_stream_processor::shutdown::Shutdown as ProcessorShutdown;
use dogwatch_stream_processor::sink::Sink;
use dogwatch_stream_processor::source::Source;

use crate::plan::{Plan, PlanError, Road};
use crate::readback::{Read, ReadBack, ReadBackError};

/// Records between sensor and processor: half a second of 16,000 events a second, some 8 MB.
const LOG_RECORDS: usize = 8_192;
/// Alerts that wait to be shown; more hold the processor back.
const ALERTS: usize = 1_024;
/// What the sensor sent last needs this long through broker and processor; also how long alerts are awaited at the end.
const BROKER_GRACE: Duration = Duration::from_secs(2);
/// How often a broker's reader looks whether it is to end.
const READ_WAIT: Duration = Duration::from_millis(50);

/// What comes to whoever shows the run.
#[derive(Debug)]
pub enum Arrival {
    /// An alert, and when it came (nanoseconds since 1970).
    Alert {
        /// The alert.
        alert: Box<Alert>,
        /// When it came.
        at_ns: i64,
    },
    /// An event, as a line of JSON.
    Event(String),
}

impl Arrival {
    fn now(alert: Alert) -> Self {
        // The wall clock's nanoseconds fit until 2262.
        Self::Alert {
            alert: Box::new(alert),
            at_ns: Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX),
        }
    }

    fn event(event: &Event) -> Self {
        // A record of texts, numbers and lists of them always has a JSON form.
        Self::Event(serde_json::to_string(event).unwrap_or_default())
    }
}

/// A sensor and a processor that run.
pub struct Joined {
    host_id: String,
    arrivals: Receiver<Arrival>,
    stats: Stats,
    processor_stats: ProcessorStats,
    shutdown: SensorShutdown,
    sensor: JoinHandle<Result<(), SensorError>>,
    processor: JoinHandle<Result<(), ProcessorError>>,
    collector: JoinHandle<Result<(), ReadBackError>>,
}

/// A part of the run failed.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The sensor.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// The stream processor.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The reader of alerts.
    #[error(transparent)]
    ReadBack(#[from] ReadBackError),
    /// A thread panicked; the panic's own words were printed.
    #[error("a part of the program panicked, see above")]
    Panicked,
}

impl Ended {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Sensor(error) => error.exit_code(),
            Self::Processor(error) => error.exit_code(),
            Self::ReadBack(error) if error.environment() => 3,
            Self::ReadBack(_) | Self::Panicked => 1,
        }
    }
}

/// What is put between sensor, processor and who shows alerts.
struct Ends {
    output: Output,
    source: Source,
    sink: Sink,
    collector: JoinHandle<Result<(), ReadBackError>>,
}

impl Joined {
    /// Starts everything from a thread of its own: the caller keeps its rights, for a demo that attacks containers.
    ///
    /// # Errors
    /// As [`Joined::start`].
    pub fn start_apart(plan: Plan) -> Result<Self, PlanError> {
        let starting = spawn("start", move || Self::start(plan))?;
        starting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts everything. The calling thread gives up its rights for good, so it starts no program afterwards.
    ///
    /// # Errors
    /// [`PlanError`] when the kernel, the broker or the system refuse; what fails later comes from [`Joined::join`].
    pub fn start(plan: Plan) -> Result<Self, PlanError> {
        let shutdown = plan.shutdown();
        let loaded = Loaded::load(plan.sensor, plan.input).map_err(Box::new)?;
        let host_id = loaded.host_id().to_owned();
        leave_signals();
        let stats = Stats::default();
        let (arrived, arrivals) = bounded(ALERTS);
        let processor_ended = Arc::new(AtomicBool::new(false));
        let ends = match plan.road {
            Road::Process => through_process(arrived, plan.tell_events)?,
            Road::Broker => {
                let reader = ReadBack::open(&plan.processor, plan.tell_events)?;
                through_broker(reader, arrived, processor_ended.clone())?
            }
        };
        let processor_shutdown = ProcessorShutdown::new();
        let processor_stats = ProcessorStats::default();
        let processor = {
            let (own, sensor, config) =
                (processor_shutdown.clone(), shutdown.clone(), plan.processor);
            let stats = processor_stats.clone();
            spawn("processor", move || {
                let _ending = Ending {
                    processor_ended,
                    sensor,
                };
                processor::run_watched(&config, ends.source, ends.sink, &own, &stats).map(drop)
            })?
        };
        let written = stats.clone();
        let sensor = spawn("sensor", move || {
            let result = loaded.run(ends.output, plan.shutdown, written).map(drop);
            if plan.road == Road::Broker {
                std::thread::sleep(BROKER_GRACE);
                processor_shutdown.trigger("the sensor has ended");
            }
            result
        })?;
        Ok(Self {
            host_id,
            arrivals,
            stats,
            processor_stats,
            shutdown,
            sensor,
            processor,
            collector: ends.collector,
        })
    }

    /// The host as the sensor calls it; on brokers there may be others.
    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// Alerts as they come; ends when sensor and processor have.
    pub fn arrivals(&self) -> &Receiver<Arrival> {
        &self.arrivals
    }

    /// What the sensor did so far; nothing is known in its first second.
    pub fn sensor(&self) -> Summary {
        self.stats.now()
    }

    /// What the processor did so far.
    pub fn processor(&self) -> processor::Summary {
        self.processor_stats.now()
    }

    /// Asks for the end; alerts still come until [`Joined::arrivals`] ends.
    pub fn end(&self) {
        self.shutdown.trigger_because("the end was asked for");
    }

    /// Whether the end was asked for, by [`Joined::end`] or by a signal.
    pub fn ending(&self) -> bool {
        self.shutdown.reason().is_some()
    }

    /// Waits for every part.
    ///
    /// # Errors
    /// [`Ended`] holds the cause when one failed: a processor that fails takes the sensor along.
    pub fn join(self) -> Result<(), Ended> {
        let (sensor, processor, collector) = (
            self.sensor.join(),
            self.processor.join(),
            self.collector.join(),
        );
        processor.map_err(|_| Ended::Panicked)??;
        sensor.map_err(|_| Ended::Panicked)??;
        collector.map_err(|_| Ended::Panicked)??;
        Ok(())
    }
}

/// Tells the others that the processor has ended, also when it panics: nobody waits for one that is gone.
struct Ending {
    processor_ended: Arc<AtomicBool>,
    sensor: SensorShutdown,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.processor_ended.store(true, Ordering::Release);
        self.sensor.trigger_because("the processor has ended");
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

fn through_process(arrived: Sender<Arrival>, tell_events: bool) -> Result<Ends, PlanError> {
    let (output, mut source) = local::channel(LOG_RECORDS);
    if tell_events {
        source = told(source, arrived.clone())?;
    }
    let (sink, alerts) = sync_channel(ALERTS);
    let collector = spawn("collect", move || {
        for alert in alerts {
            if arrived.send(Arrival::now(alert)).is_err() {
                break;
            }
        }
        Ok(())
    })?;
    Ok(Ends {
        output: Output::Local(output),
        source: Source::Local(source),
        sink: Sink::Local(sink),
        collector,
    })
}

/// Hands each event of a log to whoever shows the run before it goes on to the processor.
///
/// Slow readers hold the sensor back as a slow processor does; what it then loses it counts.
fn told(
    log: mpsc::Receiver<LogRecord>,
    arrived: Sender<Arrival>,
) -> Result<mpsc::Receiver<LogRecord>, PlanError> {
    // The log before it is the queue; this one only joins two threads.
    let (forward, source) = local::channel(1);
    spawn("tell", move || {
        for record in log {
            let event =
                (record.topic == Topic::Events).then(|| Event::decode_framed(&record.value));
            if let Some(Ok(event)) = event {
                // Nobody is there any more when the run has failed.
                let _ = arrived.send(Arrival::event(&event));
            }
            if forward.send(record).is_err() {
                break;
            }
        }
    })?;
    Ok(source)
}

fn through_broker(
    mut reader: ReadBack,
    arrived: Sender<Arrival>,
    processor_ended: Arc<AtomicBool>,
) -> Result<Ends, PlanError> {
    let collector = spawn("collect", move || {
        let mut heard_at = Instant::now();
        while !processor_ended.load(Ordering::Acquire) || heard_at.elapsed() < BROKER_GRACE {
            match reader.next(READ_WAIT) {
                Ok(None) => {}
                Ok(Some(read)) => {
                    let arrival = match read {
                        Read::Alert(alert) => {
                            heard_at = Instant::now();
                            Arrival::now(*alert)
                        }
                        Read::Event(event) => Arrival::event(&event),
                    };
                    if arrived.send(arrival).is_err() {
                        break;
                    }
                }
                Err(error @ ReadBackError::Undecodable { .. }) => {
                    tracing::warn!(%error, "record skipped")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    Ok(Ends {
        output: Output::Kafka,
        source: Source::Kafka,
        sink: Sink::Kafka,
        collector,
    })
}
