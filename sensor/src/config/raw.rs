//! The configuration as it is written, with its defaults; `sensor.toml` says what each field means.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch_schemas::reads::SENSITIVE_READ_PATHS;
use serde::{Deserialize, Serialize};

use crate::probe::{ClassRates, HOST_WRITE_PATHS, Rates};

/// Everything a file, the environment and flags can say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "documented in sensor.toml, the one place users read"
)]
pub struct RawConfig {
    pub host_id: String,
    pub host_name: String,
    pub state_file: String,
    pub host_tags: BTreeMap<String, String>,
    pub kafka: RawKafka,
    pub kernel: RawKernel,
    pub containers: RawContainers,
    pub processes: RawProcesses,
    pub samples: RawSamples,
    pub redaction: RawRedaction,
    pub clock: RawClock,
    pub log: RawLog,
    pub metrics: RawMetrics,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            host_id: String::new(),
            host_name: String::new(),
            state_file: "/var/lib/dogwatch/sensor.json".into(),
            host_tags: BTreeMap::new(),
            kafka: RawKafka::default(),
            kernel: RawKernel::default(),
            containers: RawContainers::default(),
            processes: RawProcesses::default(),
            samples: RawSamples::default(),
            redaction: RawRedaction::default(),
            clock: RawClock::default(),
            log: RawLog::default(),
            metrics: RawMetrics::default(),
        }
    }
}

/// A number of bytes: an integer, or one with KiB, MiB or GiB behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let text = text.trim();
        let digits = text
            .trim_end_matches(|c: char| c.is_ascii_alphabetic())
            .trim_end();
        let factor: u64 = match text[digits.len()..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            unit => {
                return Err(format!(
                    "unknown unit {unit} in {text}: use KiB, MiB or GiB"
                ));
            }
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("{text} is not a size such as 32MiB"))?;
        number
            .checked_mul(factor)
            .map(Self)
            .ok_or_else(|| format!("{text} is too large"))
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|&(_, factor)| size.0 > 0 && size.0.is_multiple_of(factor))
            .map_or_else(
                || size.0.to_string(),
                |(unit, factor)| format!("{}{unit}", size.0 / factor),
            )
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawKafka {
    pub bootstrap_servers: String,
    pub topic_prefix: String,
    pub create_topics: bool,
    pub partitions: i32,
    pub replication_factor: i32,
    pub compression: String,
    pub queue_bytes: Size,
    pub queue_records: u32,
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    pub options: BTreeMap<String, String>,
}

impl Default for RawKafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".into(),
            topic_prefix: "dogwatch".into(),
            create_topics: true,
            partitions: 8,
            replication_factor: 1,
            compression: "lz4".into(),
            queue_bytes: Size(32 << 20),
            queue_records: 200_000,
            linger: Duration::from_millis(20),
            start_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(5),
            options: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawKernel {
    pub ring_bytes: Size,
    #[serde(deserialize_with = "list")]
    pub host_write_paths: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub sensitive_read_paths: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub calls: Vec<String>,
    #[serde(deserialize_with = "container_rates")]
    pub container_rates: RawRates,
    #[serde(deserialize_with = "total_rates")]
    pub total_rates: RawRates,
    pub container_exec_text: Size,
}

impl Default for RawKernel {
    fn default() -> Self {
        Self {
            ring_bytes: Size(8 << 20),
            host_write_paths: HOST_WRITE_PATHS.map(String::from).to_vec(),
            sensitive_read_paths: SENSITIVE_READ_PATHS.map(String::from).to_vec(),
            calls: vec!["all".to_owned()],
            container_rates: Rates::default().container.into(),
            total_rates: Rates::default().total.into(),
            container_exec_text: Size(Rates::default().exec_text_bytes),
        }
    }
}

/// Records a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawRates {
    pub exec: u64,
    pub process: u64,
    pub namespace: u64,
    pub call: u64,
    pub sensitive: u64,
    pub privilege: u64,
    pub traffic: u64,
}

impl From<ClassRates> for RawRates {
    fn from(rates: ClassRates) -> Self {
        Self {
            exec: rates.exec,
            process: rates.process,
            namespace: rates.namespace,
            call: rates.call,
            sensitive: rates.sensitive,
            privilege: rates.privilege,
            traffic: rates.traffic,
        }
    }
}

/// Rates as they are given: each of them or not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenRates {
    exec: Option<u64>,
    process: Option<u64>,
    namespace: Option<u64>,
    call: Option<u64>,
    privilege: Option<u64>,
    traffic: Option<u64>,
    sensitive: Option<u64>,
}

fn rates<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    default: ClassRates,
) -> Result<RawRates, D::Error> {
    let given = GivenRates::deserialize(deserializer)?;
    Ok(RawRates {
        exec: given.exec.unwrap_or(default.exec),
        process: given.process.unwrap_or(default.process),
        namespace: given.namespace.unwrap_or(default.namespace),
        call: given.call.unwrap_or(default.call),
        privilege: given.privilege.unwrap_or(default.privilege),
        traffic: given.traffic.unwrap_or(default.traffic),
        sensitive: given.sensitive.unwrap_or(default.sensitive),
    })
}

fn container_rates<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RawRates, D::Error> {
    rates(from, Rates::default().container)
}

fn total_rates<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RawRates, D::Error> {
    rates(from, Rates::default().total)
}

/// What tells a fleet's owner whose container it is: Compose, and the labels that Kubernetes recommends.
const LABELS: [&str; 8] = [
    "com.docker.compose.project",
    "com.docker.compose.service",
    "app",
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawContainers {
    pub mode: String,
    pub host_mode: String,
    pub docker_root: String,
    #[serde(with = "humantime_serde")]
    pub metadata_patience: Duration,
    pub metadata_queue_events: usize,
    pub metadata_queue_bytes: Size,
    #[serde(with = "humantime_serde")]
    pub repeat: Duration,
    #[serde(deserialize_with = "list")]
    pub labels: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub probes: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub sockets: Vec<String>,
}

impl Default for RawContainers {
    fn default() -> Self {
        Self {
            mode: "normal".into(),
            host_mode: "lifecycle".into(),
            docker_root: "/var/lib/docker".into(),
            metadata_patience: Duration::from_millis(250),
            metadata_queue_events: 4096,
            metadata_queue_bytes: Size(4 << 20),
            repeat: Duration::from_secs(60),
            labels: LABELS.map(String::from).to_vec(),
            probes: Vec::new(),
            sockets: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawProcesses {
    pub memory: Size,
    pub capacity: usize,
    #[serde(with = "humantime_serde")]
    pub keep_after_exit: Duration,
}

impl Default for RawProcesses {
    fn default() -> Self {
        Self {
            memory: Size(8 << 20),
            capacity: 32_768,
            keep_after_exit: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawSamples {
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    pub containers: bool,
    pub processes: bool,
    pub calls: bool,
    pub io: bool,
    pub network: bool,
}

impl Default for RawSamples {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            containers: true,
            processes: true,
            calls: true,
            io: true,
            network: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawRedaction {
    pub usual_secrets: bool,
    #[serde(deserialize_with = "list")]
    pub arguments: Vec<String>,
}

impl Default for RawRedaction {
    fn default() -> Self {
        Self {
            usual_secrets: true,
            arguments: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawClock {
    #[serde(with = "humantime_serde")]
    pub step_min: Duration,
}

impl Default for RawClock {
    fn default() -> Self {
        Self {
            step_min: Duration::from_millis(500),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawLog {
    pub filter: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            filter: "info".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in sensor.toml")]
pub struct RawMetrics {
    pub listen: String,
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9464".into(),
        }
    }
}

/// A list, or (from the environment) one text joined by commas.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Joined(String),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::List(list) => list,
        Written::Joined(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(String::from)
            .collect(),
    })
}
