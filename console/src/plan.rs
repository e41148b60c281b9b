//! What is to run: configuration, detections, and the road between sensor and processor.
//!
//! There is one configuration, the sensor's; the processor beside it takes brokers, topics and options from there.

use std::path::PathBuf;

use dogwatch_sensor::check;
use dogwatch_sensor::config::{Config as SensorConfig, ConfigError as SensorConfigError, Flag};
use dogwatch_sensor::pipeline::{Input, SensorError, Shutdown};
use dogwatch_settings::Program;
use dogwatch_stream_processor::config::{
    Config as ProcessorConfig, ConfigError as ProcessorConfigError, Delivery, RawConfig, RawKafka,
};
use dogwatch_stream_processor::detect::{
    DetectionSet, LoadError, LoadReport, Refusal, UnpublishedReads,
};

use crate::cli::Watch;
use crate::detections;
use crate::locate;
use crate::readback::ReadBackError;

/// What is to run.
pub struct Plan {
    /// Whether each event is shown as a line of JSON, too.
    pub tell_events: bool,
    /// Whether all events are this host's, where no broker has others'.
    pub one_host: bool,
    pub(crate) sensor: SensorConfig,
    pub(crate) input: Input,
    pub(crate) processor: ProcessorConfig,
    pub(crate) road: Road,
    pub(crate) shutdown: Shutdown,
    loaded: usize,
    /// How many of them are over the whole fleet.
    of_fleet: usize,
    refused: Vec<Refusal>,
    /// Detections that need reads which the sensor does not publish every time.
    unpublished: Vec<UnpublishedReads>,
    /// What detections do not see because calls are switched off, one sentence each.
    unseen: Vec<String>,
}

/// How the sensor's records reach the processor, and alerts come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    /// The log inside the process.
    Process,
    /// A Kafka broker.
    Broker,
}

/// Nothing can be run as asked.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No folder of detections.
    #[error(transparent)]
    NotFound(#[from] locate::NotFound),
    /// The folder of detections cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The sensor's configuration was refused.
    #[error(transparent)]
    Sensor(#[from] Box<SensorConfigError>),
    /// What the sensor's section `[kafka]` says does not do for the processor.
    #[error("the processor cannot use the sensor's [kafka] settings")]
    Processor(#[from] Box<ProcessorConfigError>),
    /// The sensor's kernel part cannot be loaded, or its capture not be opened.
    #[error(transparent)]
    Start(#[from] Box<SensorError>),
    /// The broker cannot be read.
    #[error(transparent)]
    ReadBack(#[from] ReadBackError),
    /// A thread cannot be started.
    #[error("could not start a thread")]
    Thread(#[from] std::io::Error),
}

impl PlanError {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) | Self::Load(_) | Self::Sensor(_) | Self::Processor(_) => 2,
            Self::Start(error) => error.exit_code(),
            Self::ReadBack(error) if error.environment() => 3,
            Self::ReadBack(_) | Self::Thread(_) => 1,
        }
    }
}

impl Plan {
    /// Reads configuration and detections; `overrides` win over the sensor's file and environment, `shutdown` ends
    /// the run.
    ///
    /// # Errors
    /// [`PlanError`] names what is wrong with them.
    pub fn new(
        options: &Watch,
        input: Input,
        overrides: &[Flag],
        shutdown: Shutdown,
    ) -> Result<Self, PlanError> {
        let mut overrides = overrides.to_vec();
        overrides.extend(
            options
                .kafka
                .iter()
                .map(|address| ("kafka.bootstrap_servers", address.clone())),
        );
        let sensor = SensorConfig::load(options.config.as_deref(), &overrides).map_err(Box::new)?;
        dogwatch_settings::tell_unknown(Program::Sensor, std::env::vars_os());
        let folder = locate::detections(options.detections.as_deref())?;
        let LoadReport { set, refused, .. } = DetectionSet::load(&folder)?;
        let road = match options.kafka.is_some() {
            true => Road::Broker,
            false => Road::Process,
        };
        let processor =
            ProcessorConfig::check(processor_settings(&sensor, folder, road)).map_err(Box::new)?;
        // What a capture holds, its own sensor decided.
        let unpublished = match input {
            Input::Replay(_) => Vec::new(),
            Input::Kernel | Input::Recorded(..) => set.unpublished_reads(&sensor.published_reads()),
        };
        let absent: Vec<&str> = match input {
            Input::Replay(_) => Vec::new(),
            Input::Kernel | Input::Recorded(..) => sensor.calls.absent_types().collect(),
        };
        let blind = set.without_types(&absent).into_iter();
        let unseen = blind
            .map(|(detection, types)| detections::unseen(&detection.id, &types))
            .collect();
        Ok(Self {
            tell_events: false,
            one_host: true,
            sensor,
            input,
            processor,
            road,
            shutdown,
            loaded: set.len(),
            of_fleet: set.of_fleet().count(),
            refused,
            unpublished,
            unseen,
        })
    }

    /// Asks the run for its end, from any thread.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// What this host cannot deliver and why, one sentence each.
    pub fn not_delivered(&self) -> Vec<String> {
        let findings = check::look(&self.sensor);
        let mut sentences = check::Report { findings }.not_delivered();
        sentences.extend(self.unpublished.iter().map(|unpublished| {
            format!("every read of a file: {unpublished}; add them to kernel.sensitive_read_paths")
        }));
        sentences.extend(self.unseen.iter().cloned());
        sentences
    }

    /// Says which detections run and what became of the others, one line each.
    pub fn detections_line(&self) -> String {
        let folder = self.processor.detections_folder.display();
        let mut text = format!("detections: {} from {folder}", self.loaded);
        if self.of_fleet > 0 {
            let (of_fleet, road) = (self.of_fleet, self.road);
            text += &format!(", {of_fleet} of them over the whole fleet");
            if road == Road::Process && self.one_host {
                text += ", which is this host alone";
            }
        }
        if !self.refused.is_empty() {
            text += &format!(", {} refused:", self.refused.len());
        }
        for refusal in &self.refused {
            text += &format!("\n  {refusal}");
        }
        text
    }
}

/// The processor beside a sensor: the same brokers and topics, the folder given, no server of its own.
fn processor_settings(sensor: &SensorConfig, folder: PathBuf, road: Road) -> RawConfig {
    let kafka = &sensor.kafka;
    let mut raw = RawConfig {
        delivery: if road == Road::Broker {
            Delivery::ExactlyOnce
        } else {
            Delivery::AtLeastOnce
        },
        kafka: RawKafka {
            bootstrap_servers: kafka.bootstrap_servers.clone(),
            topic_prefix: kafka.topic_prefix.clone(),
            create_topics: kafka.create_topics,
            partitions: kafka.partitions,
            replication_factor: kafka.replication_factor,
            options: kafka.options.clone(),
            ..RawKafka::default()
        },
        ..RawConfig::default()
    };
    raw.detections.folder = folder;
    raw.metrics.listen = String::new();
    raw
}
