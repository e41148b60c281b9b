//! Configuration: a TOML file, then the environment (`DOGWATCH_…`), then flags.
//!
//! [`RawConfig`] is what is written there; [`Config`] is what the program uses, checked once.
//! Unknown keys are refused with the nearest known name and the place they came from.
//! Every default stands in `processor.toml`; a test holds the two equal.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch_kafka::options::{self, Decided, OptionError};
use dogwatch_kafka::{BadAddress, Brokers, check_servers};
use dogwatch_settings::{Flag, Program, Settings, SettingsError};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

use crate::signing::PublicKey;

mod caps;
mod fault;
mod stage;
#[cfg(test)]
mod tests;

pub use caps::{Caps, KEYS_MAX, STATE_BYTES, STATE_BYTES_MAX};
pub use fault::{Fault, FaultPoint};
pub use stage::{ExchangeTopics, Stage};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// File or environment could not be read, or hold what no setting has.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value outside its range.
    #[error("{key} must be {expected}, not {found}")]
    Value {
        /// The key with its sections.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The brokers' addresses are none.
    #[error("kafka.bootstrap_servers: {0}")]
    Servers(BadAddress),
    /// A librdkafka option that a named setting decides, or a secret that cannot be read.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// How alerts and input offsets are tied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Alerts, dead letters and offsets in one Kafka transaction.
    ExactlyOnce,
    /// Alerts first, offsets afterwards.
    AtLeastOnce,
}

impl Delivery {
    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// The settings as written; see `processor.toml` for what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// How alerts and input offsets are tied together.
    #[serde(deserialize_with = "dogwatch_settings::word")]
    pub delivery: Delivery,
    /// What parts of the work this process does. In the environment they are separated by commas.
    #[serde(deserialize_with = "stages")]
    pub stages: Vec<Stage>,
    /// Brokers, names and timeouts.
    pub kafka: RawKafka,
    /// What is looked for.
    pub detections: RawDetections,
    /// How input is cut into steps.
    pub step: RawStep,
    /// How often what tasks remember is stored.
    pub checkpoint: RawCheckpoint,
    /// What windows may take.
    pub windows: RawWindows,
    /// Where Prometheus reads.
    pub metrics: RawMetrics,
    /// What is logged, and how.
    pub log: RawLog,
}

/// Section `[kafka]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawKafka {
    /// Brokers to start from, `host:port` separated by commas.
    pub bootstrap_servers: String,
    /// What every topic's name begins with.
    pub topic_prefix: String,
    /// The consumer group.
    pub group_id: String,
    /// This processor's stable name in its group; written as an empty text where there is none.
    #[serde(with = "name_or_empty")]
    pub instance: Option<String>,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// Partitions of created topics.
    pub partitions: i32,
    /// Replicas of created topics.
    pub replication_factor: i32,
    /// Silence after which the group gives partitions to others.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Time after which the broker aborts an open transaction.
    #[serde(with = "humantime_serde")]
    pub transaction_timeout: Duration,
    /// Options for librdkafka.
    pub options: BTreeMap<String, String>,
}

impl RawKafka {
    /// Returns the brokers as [`Config::check`] left them.
    pub fn brokers(&self) -> Brokers {
        let mut brokers = Brokers {
            servers: self.bootstrap_servers.clone(),
            options: self.options.clone(),
            client_id: self
                .instance
                .clone()
                .unwrap_or_else(|| "dogwatch-processor".to_owned()),
        };
        // A broker that was away for a while is found again within a second, not ten.
        brokers
            .options
            .entry("reconnect.backoff.max.ms".to_owned())
            .or_insert_with(|| "1000".to_owned());
        brokers
    }
}

/// Where detections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectionsFrom {
    /// A folder of this machine.
    Folder,
    /// The topic that sets are published in.
    Topic,
}

/// Section `[detections]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawDetections {
    /// Where they come from.
    #[serde(deserialize_with = "dogwatch_settings::word")]
    pub source: DetectionsFrom,
    /// Folder with one SQL file a detection.
    pub folder: PathBuf,
    /// How often folder or topic is looked at for changes; nothing = never.
    #[serde(with = "humantime_serde")]
    pub watch: Duration,
    /// Who may publish sets: public keys, in hexadecimal digits. In the environment they are separated by commas.
    #[serde(deserialize_with = "list_or_text")]
    pub trusted_keys: Vec<String>,
}

/// Section `[step]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawStep {
    /// Most records in a step.
    pub rows_max: usize,
    /// How long a first record waits for others when no step is being committed.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How often offsets are committed when nothing is said.
    #[serde(with = "humantime_serde")]
    pub idle_commit_interval: Duration,
}

/// Section `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawCheckpoint {
    /// A task with new input stores what it remembers this often.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// It does so earlier after this much input.
    pub input_bytes: u64,
}

/// Section `[windows]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawWindows {
    /// A host not heard of for so long has its windows closed.
    #[serde(with = "humantime_serde")]
    pub host_silence: Duration,
    /// Windows take the broker's time for events whose own is further from it, either way.
    #[serde(with = "humantime_serde")]
    pub clock_error_max: Duration,
    /// Most keys counted in one task and pane by detections that share their state.
    pub keys_max: usize,
    /// Most bytes that the states of one task's windows may take.
    pub state_bytes_max: u64,
    /// Most memory that queries may take together, beside the states they keep.
    pub memory_bytes_max: usize,
    /// Bytes that the states of all tasks may take; 0 = 60 % of what the cgroup or the machine has.
    pub budget_bytes: u64,
    /// How long windows of the whole fleet wait for the slowest host.
    #[serde(with = "humantime_serde")]
    pub fleet_patience: Duration,
    /// Windows of the whole fleet that wait for a partition for longer are told of.
    #[serde(with = "humantime_serde")]
    pub fleet_delay_max: Duration,
}

/// Section `[metrics]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawMetrics {
    /// `address:port`, or empty for none.
    pub listen: String,
}

/// Section `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    /// Level or filter.
    pub level: String,
    /// Human or JSON.
    #[serde(deserialize_with = "dogwatch_settings::word")]
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// A name that may be missing, as a text that may be empty.
mod name_or_empty {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(name: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name.as_deref().unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        let name = String::deserialize(from)?;
        Ok(Some(name).filter(|name| !name.is_empty()))
    }
}

/// A list, or a text with commas, as the environment has it.
fn list_or_text<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Written::deserialize(from)? {
        Written::List(list) => list,
        Written::Text(text) => {
            let parts = text.split(',').map(str::trim);
            let parts = parts.filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        }
    })
}

/// The stages as [`list_or_text`] has their names.
fn stages<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<Stage>, D::Error> {
    let names = list_or_text(from)?;
    let stages = names.into_iter();
    stages
        .map(|name| Stage::deserialize(name.into_deserializer()))
        .collect()
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            delivery: Delivery::ExactlyOnce,
            stages: vec![Stage::Host, Stage::Fleet],
            kafka: RawKafka::default(),
            detections: RawDetections::default(),
            step: RawStep::default(),
            checkpoint: RawCheckpoint::default(),
            windows: RawWindows::default(),
            metrics: RawMetrics::default(),
            log: RawLog::default(),
        }
    }
}

impl Default for RawKafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "dogwatch".to_owned(),
            group_id: "dogwatch-processor".to_owned(),
            instance: None,
            create_topics: true,
            partitions: 8,
            replication_factor: 1,
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            options: BTreeMap::new(),
        }
    }
}

impl Default for RawDetections {
    fn default() -> Self {
        Self {
            source: DetectionsFrom::Folder,
            folder: PathBuf::from("detections"),
            watch: Duration::from_secs(1),
            trusted_keys: Vec::new(),
        }
    }
}

impl Default for RawStep {
    fn default() -> Self {
        Self {
            rows_max: 65_536,
            linger: Duration::from_millis(5),
            idle_commit_interval: Duration::from_millis(500),
        }
    }
}

impl Default for RawCheckpoint {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            input_bytes: 64 << 20,
        }
    }
}

impl Default for RawWindows {
    fn default() -> Self {
        Self {
            host_silence: Duration::from_secs(600),
            clock_error_max: Duration::from_secs(30 * 24 * 3_600),
            keys_max: 100_000,
            state_bytes_max: STATE_BYTES,
            memory_bytes_max: 512 << 20,
            budget_bytes: 0,
            fleet_patience: Duration::from_secs(10),
            fleet_delay_max: Duration::from_secs(300),
        }
    }
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9465".to_owned(),
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How alerts and input offsets are tied together.
    pub delivery: Delivery,
    /// What parts of the work this process does.
    pub stages: Vec<Stage>,
    /// Which of them this is the configuration of.
    pub stage: Stage,
    /// The topics of windows over the whole fleet; none where one engine has both of their stages.
    pub exchange: Option<ExchangeTopics>,
    /// Brokers, names and timeouts.
    pub kafka: RawKafka,
    /// Where detections come from.
    pub detections_from: DetectionsFrom,
    /// Folder with one SQL file a detection.
    pub detections_folder: PathBuf,
    /// How often that is looked at for changes; `None` = never.
    pub detections_watch: Option<Duration>,
    /// Who may publish sets; nobody is asked for a signature where there are none.
    pub trusted_keys: Vec<PublicKey>,
    /// How input is cut into steps.
    pub step: RawStep,
    /// How often what tasks remember is stored.
    pub checkpoint: RawCheckpoint,
    /// What windows may take.
    pub windows: RawWindows,
    /// Where Prometheus reads; `None` = nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: RawLog,
    /// A crash asked for by a test; see [`Fault`].
    pub fault: Option<Fault>,
}

/// Environment variable that asks for a [`Fault`].
const FAULT_VARIABLE: &str = "DOGWATCH_FAULT";

impl Config {
    /// Reads `file` (none: the defaults), the environment and `flags`, and checks all of it.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and what would be right.
    pub fn load(file: Option<&Path>, flags: &[Flag]) -> Result<Self, ConfigError> {
        let mut config = Self::check(read(file, flags)?.take()?)?;
        if let Ok(fault) = std::env::var(FAULT_VARIABLE) {
            config.fault = Some(Fault::parse(&fault)?);
        }
        Ok(config)
    }

    /// Returns what is in force as a commented file, each value with its origin, secrets masked.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn show(file: Option<&Path>, flags: &[Flag]) -> Result<String, ConfigError> {
        let settings = read(file, flags)?;
        let raw: RawConfig = settings.take()?;
        Self::check(raw.clone())?;
        Ok(dogwatch_settings::show(&raw, &settings, options::is_secret))
    }

    /// Checks settings that did not come from a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and what would be right.
    pub fn check(mut raw: RawConfig) -> Result<Self, ConfigError> {
        raw.kafka.options = options::checked(raw.kafka.options, &DECIDED)?;
        check_ranges(&raw)?;
        let metrics_listen = match raw.metrics.listen.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| ConfigError::Value {
                key: "metrics.listen",
                expected: "address:port such as 127.0.0.1:9465, or empty",
                found: format!("{text:?}"),
            })?),
        };
        let keys = raw.detections.trusted_keys.iter();
        let trusted_keys = keys.map(|key| {
            key.parse().map_err(|_| ConfigError::Value {
                key: "detections.trusted_keys",
                expected: "a list of public keys, each the 64 hexadecimal digits that dogwatch detections keygen prints",
                found: format!("{key:?}"),
            })
        });
        Ok(Self {
            delivery: raw.delivery,
            stages: raw.stages,
            stage: Stage::Host,
            exchange: None,
            kafka: raw.kafka,
            trusted_keys: trusted_keys.collect::<Result<_, _>>()?,
            detections_from: raw.detections.source,
            detections_folder: raw.detections.folder,
            detections_watch: Some(raw.detections.watch).filter(|every| !every.is_zero()),
            step: raw.step,
            checkpoint: raw.checkpoint,
            windows: raw.windows,
            metrics_listen,
            log: raw.log,
            fault: None,
        })
    }
}

fn read(file: Option<&Path>, flags: &[Flag]) -> Result<Settings, ConfigError> {
    let variables = std::env::vars_os();
    Ok(Settings::read(Program::Processor, file, variables, flags)?)
}

/// librdkafka options that settings of this program, or exactly-once itself, decide.
const DECIDED: [Decided; 12] = [
    ("group.id", "set kafka.group_id"),
    ("group.instance.id", "set kafka.instance"),
    ("transactional.id", "set kafka.instance"),
    ("session.timeout.ms", "set kafka.session_timeout"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout"),
    (
        "enable.auto.commit",
        "offsets are committed with the alerts",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed with the alerts",
    ),
    (
        "auto.offset.reset",
        "expired input is counted and stated, never skipped silently",
    ),
    ("isolation.level", "recovery needs read_committed"),
    (
        "enable.partition.eof",
        "the end of a partition must be noticed",
    ),
    (
        "partition.assignment.strategy",
        "topics are assigned together by range",
    ),
    ("group.protocol", "the classic protocol is used"),
];

fn check_ranges(raw: &RawConfig) -> Result<(), ConfigError> {
    let refuse = |key, expected, found: String| {
        Err(ConfigError::Value {
            key,
            expected,
            found,
        })
    };
    if let Some(fault) = dogwatch_settings::filter_fault(&raw.log.level) {
        return refuse("log.level", "a level or a filter", fault);
    }
    check_servers(&raw.kafka.bootstrap_servers).map_err(ConfigError::Servers)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if raw.kafka.topic_prefix.is_empty() || !raw.kafka.topic_prefix.chars().all(legal) {
        let expected = "one or more of a-z, A-Z, 0-9, '.', '_' and '-'";
        return refuse(
            "kafka.topic_prefix",
            expected,
            format!("{:?}", raw.kafka.topic_prefix),
        );
    }
    if raw.kafka.group_id.is_empty() {
        return refuse("kafka.group_id", "a name", "empty".to_owned());
    }
    if raw.kafka.partitions < 1 {
        return refuse(
            "kafka.partitions",
            "1 or more",
            raw.kafka.partitions.to_string(),
        );
    }
    if raw.kafka.replication_factor < 1 {
        let found = raw.kafka.replication_factor.to_string();
        return refuse("kafka.replication_factor", "1 or more", found);
    }
    for (key, timeout) in [
        ("kafka.session_timeout", raw.kafka.session_timeout),
        ("kafka.transaction_timeout", raw.kafka.transaction_timeout),
    ] {
        if !(1..=900).contains(&timeout.as_secs()) {
            return refuse(key, "between 1s and 15m", format!("{timeout:?}"));
        }
    }
    if !(1..=1_000_000).contains(&raw.step.rows_max) {
        return refuse(
            "step.rows_max",
            "between 1 and 1000000",
            raw.step.rows_max.to_string(),
        );
    }
    for (key, wait) in [
        ("step.linger", raw.step.linger),
        ("step.idle_commit_interval", raw.step.idle_commit_interval),
    ] {
        if wait > Duration::from_secs(10) {
            return refuse(key, "at most 10s", format!("{wait:?}"));
        }
    }
    let watch = raw.detections.watch;
    if !watch.is_zero()
        && !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&watch)
    {
        return refuse(
            "detections.watch",
            "between 100ms and 1h, or 0s",
            format!("{watch:?}"),
        );
    }
    stage::check(&raw.stages)?;
    check_checkpoint(&raw.checkpoint)?;
    check_windows(&raw.windows)
}

fn check_checkpoint(checkpoint: &RawCheckpoint) -> Result<(), ConfigError> {
    within(
        "checkpoint.interval",
        "between 100ms and 10m",
        Duration::from_millis(100)..=Duration::from_secs(600),
        checkpoint.interval,
    )?;
    within(
        "checkpoint.input_bytes",
        "between 65536 and 17179869184",
        65_536..=(16 << 30),
        checkpoint.input_bytes,
    )
}

fn check_windows(windows: &RawWindows) -> Result<(), ConfigError> {
    let seconds = |least, most| Duration::from_secs(least)..=Duration::from_secs(most);
    within(
        "windows.host_silence",
        "between 1s and 24h",
        seconds(1, 86_400),
        windows.host_silence,
    )?;
    within(
        "windows.fleet_patience",
        "between 1s and 1h",
        seconds(1, 3_600),
        windows.fleet_patience,
    )?;
    within(
        "windows.fleet_delay_max",
        "between 5s and 24h",
        seconds(5, 86_400),
        windows.fleet_delay_max,
    )?;
    within(
        "windows.clock_error_max",
        "between 1m and 3650days",
        seconds(60, 3_650 * 86_400),
        windows.clock_error_max,
    )?;
    within(
        "windows.keys_max",
        "between 1 and 10000000",
        KEYS_MAX,
        windows.keys_max,
    )?;
    within(
        "windows.state_bytes_max",
        "between 1048576 and 1099511627776",
        STATE_BYTES_MAX,
        windows.state_bytes_max,
    )?;
    within(
        "windows.memory_bytes_max",
        "between 16777216 and 1099511627776",
        (16 << 20)..=(1 << 40),
        windows.memory_bytes_max,
    )
}

/// Refuses a value that is out of its range, which `expected` says in words.
fn within<T: PartialOrd + std::fmt::Debug>(
    key: &'static str,
    expected: &'static str,
    range: RangeInclusive<T>,
    found: T,
) -> Result<(), ConfigError> {
    match range.contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Value {
            key,
            expected,
            found: format!("{found:?}"),
        }),
    }
}
