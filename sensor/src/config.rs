//! Configuration: a raw form that mirrors `sensor.toml`, and the checked form the sensor uses.
//!
//! Where values come from is `dogwatch-settings`' matter. Nothing else of the sensor reads files or variables for settings.

mod raw;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch_kafka::options::{self, Decided, OptionError};
use dogwatch_kafka::topics::NewTopics;
use dogwatch_kafka::{BadAddress, Brokers, check_servers};
use dogwatch_schemas::Text;
use dogwatch_schemas::reads::{LIST_BYTES_MAX, PATTERNS_MAX, ReadPattern};
use dogwatch_schemas::topics::Topic;
use dogwatch_settings::{Program, Settings, SettingsError, nearest_word};

pub use self::raw::{RawConfig, Size};
use crate::container::{Probe, SOCKETS_MAX, Socket};
use crate::probe::{CallSet, ClassRates, ProbeOptions, Rates, UnknownCall};
use crate::redact::Redactor;
use crate::sample::SamplePlan;
use dogwatch_ebpf::calls::CALLS;
use dogwatch_ebpf::control::Mode;
pub use dogwatch_settings::Flag;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Configured host id; `None` = the machine id.
    pub host_id: Option<Text>,
    /// Configured host name; `None` = the kernel's.
    pub host_name: Option<Text>,
    /// The operator's tags of this host; `None` when there are none.
    pub host_tags: Option<BTreeMap<Text, Text>>,
    /// File that remembers the last moment watched.
    pub state_file: Option<PathBuf>,
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Bytes of the kernel's ring, a power of two.
    pub ring_bytes: u32,
    /// Path prefixes whose opens for writing are published for host processes.
    pub host_write_paths: Vec<String>,
    /// Files whose reading is published every time.
    pub sensitive_read_paths: Vec<ReadPattern>,
    /// Which system calls are seen.
    pub calls: CallSet,
    /// How much each container may send, and all together.
    pub rates: Rates,
    /// Containers.
    pub containers: ContainersConfig,
    /// Upper bound of remembered processes.
    pub processes_max: usize,
    /// Upper bound of the memory for them, bytes.
    pub processes_bytes_max: usize,
    /// How long a process is remembered after its end.
    pub keep_after_exit: Duration,
    /// What is sampled.
    pub samples: SamplePlan,
    /// What is replaced in arguments.
    pub redactor: Redactor,
    /// Least jump of the wall clock that is an event.
    pub clock_step_min: Duration,
    /// `tracing` filter.
    pub log_filter: String,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
}

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// Brokers to begin with.
    pub bootstrap_servers: String,
    /// Topics that are written to.
    pub topics: Vec<Topic>,
    /// Prefix of all topics.
    pub topic_prefix: String,
    /// Whether missing topics are made.
    pub create_topics: bool,
    /// Partitions of topics that are made.
    pub partitions: i32,
    /// Copies of topics that are made.
    pub replication_factor: i32,
    /// `none`, `lz4` or `zstd`.
    pub compression: String,
    /// Bound of librdkafka's queue, bytes.
    pub queue_bytes: u64,
    /// Bound of librdkafka's queue, records.
    pub queue_records: u32,
    /// How long records are gathered.
    pub linger: Duration,
    /// Patience of a replay for the brokers.
    pub start_timeout: Duration,
    /// Patience at the end.
    pub drain_timeout: Duration,
    /// Options for librdkafka; none contradicts a field above.
    pub options: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// Returns the brokers and how they are spoken to.
    pub fn brokers(&self) -> Brokers {
        Brokers {
            servers: self.bootstrap_servers.clone(),
            options: self.options.clone(),
            client_id: "dogwatch-sensor".to_owned(),
        }
    }

    /// Returns how missing topics are made.
    pub fn new_topics(&self) -> NewTopics {
        NewTopics {
            allowed: self.create_topics,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
        }
    }

    /// Whether the client starts programs: for Kerberos, librdkafka's choice where a login is asked for and no mechanism
    /// is named, it runs `kinit`.
    pub fn starts_programs(&self) -> bool {
        let option = |name: &str| self.options.get(name).map(|value| value.to_lowercase());
        let mechanism = option("sasl.mechanisms").or_else(|| option("sasl.mechanism"));
        match mechanism {
            Some(mechanism) => mechanism == "gssapi",
            None => option("security.protocol").is_some_and(|value| value.starts_with("sasl")),
        }
    }
}

/// How containers are watched and known.
#[derive(Debug, Clone)]
pub struct ContainersConfig {
    /// Mode of containers' cgroups.
    pub mode: Mode,
    /// Mode of all other cgroups.
    pub host_mode: Mode,
    /// Docker's data root.
    pub docker_root: PathBuf,
    /// How long events wait for what is known of their container.
    pub metadata_patience: Duration,
    /// How many events may wait.
    pub metadata_queue_events: usize,
    /// How many bytes they may take.
    pub metadata_queue_bytes: usize,
    /// How often what is known is looked up and repeated.
    pub repeat: Duration,
    /// Names of the labels that every row of a container keeps.
    pub labels: Vec<Text>,
    /// Commands that are healthchecks, by image.
    pub probes: Vec<Probe>,
    /// Sockets of runtimes that are asked what files lack.
    pub sockets: Vec<Socket>,
}

/// Why a configuration was refused. The user's to mend; never worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// File or environment could not be read, or hold what no setting has.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value out of its range.
    #[error("configuration {key} = {value}: {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The brokers' addresses are none.
    #[error("configuration kafka.bootstrap_servers: {0}")]
    Servers(BadAddress),
    /// A librdkafka option that a named field already decides, or a secret that cannot be read.
    #[error("configuration: {0}")]
    Option(#[from] OptionError),
}

impl Config {
    /// Reads file, environment and flags, and checks all of it.
    ///
    /// # Errors
    /// Fails when the file cannot be read, a key is unknown, or a value is out of range.
    pub fn load(file: Option<&Path>, flags: &[Flag]) -> Result<Self, ConfigError> {
        Self::check(read(file, flags)?.take()?)
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

    /// How the kernel part is to be loaded; hierarchy and modes are for the caller.
    pub fn probe_options(&self) -> ProbeOptions {
        ProbeOptions {
            ring_bytes: self.ring_bytes,
            host_write_paths: self.host_write_paths.clone(),
            sensitive_read_paths: self.sensitive_read_paths.clone(),
            calls: self.calls.clone(),
            rates: self.rates,
            failed_calls: self.samples.calls,
            open_files: self.samples.io,
            net_bytes: self.samples.counts_bytes(),
            ..ProbeOptions::default()
        }
    }

    /// Files of containers whose successful reads are published every time: all at mode `full`, none below `normal`.
    pub fn published_reads(&self) -> Vec<ReadPattern> {
        match self.containers.mode {
            Mode::Full => vec![ReadPattern::Path(String::new())],
            Mode::Normal => self.sensitive_read_paths.clone(),
            Mode::Lifecycle | Mode::Off => Vec::new(),
        }
    }

    /// Checks a raw configuration.
    ///
    /// # Errors
    /// Fails when a value is out of range or a librdkafka option contradicts a named field.
    pub fn check(raw: RawConfig) -> Result<Self, ConfigError> {
        if let Some(fault) = dogwatch_settings::filter_fault(&raw.log.filter) {
            return Err(bad("log.filter", raw.log.filter, &fault));
        }
        let ring_bytes = raw.kernel.ring_bytes.0;
        if !ring_bytes.is_power_of_two() || !(64 << 10..=1 << 30).contains(&ring_bytes) {
            return Err(bad(
                "kernel.ring_bytes",
                ring_bytes,
                "a power of two from 64KiB to 1GiB",
            ));
        }
        let listen = raw.metrics.listen.trim();
        let metrics_listen = match listen {
            "" => None,
            _ => Some(listen.parse().map_err(|_| {
                bad(
                    "metrics.listen",
                    listen,
                    "an address such as 127.0.0.1:9464",
                )
            })?),
        };
        let samples = check_samples(&raw.samples)?;
        let redactor = Redactor::new(raw.redaction.usual_secrets, &raw.redaction.arguments)
            .map_err(|error| bad("redaction.arguments", &error.pattern, error.reason))?;
        let host_tags = (!raw.host_tags.is_empty()).then(|| {
            raw.host_tags
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect()
        });
        Ok(Self {
            host_id: given(&raw.host_id).map(Text::from),
            host_name: given(&raw.host_name).map(Text::from),
            host_tags,
            state_file: given(&raw.state_file).map(PathBuf::from),
            kafka: check_kafka(raw.kafka, topics(&samples))?,
            samples,
            ring_bytes: ring_bytes as u32,
            rates: check_rates(&raw.kernel)?,
            host_write_paths: raw.kernel.host_write_paths,
            sensitive_read_paths: check_reads(raw.kernel.sensitive_read_paths)?,
            calls: check_calls(&raw.kernel.calls)?,
            containers: check_containers(raw.containers)?,
            processes_max: processes_max(raw.processes.capacity)?,
            processes_bytes_max: size_within("processes.memory", raw.processes.memory, 1 << 20)?,
            keep_after_exit: raw.processes.keep_after_exit,
            redactor,
            clock_step_min: raw.clock.step_min,
            log_filter: raw.log.filter,
            metrics_listen,
        })
    }
}

fn read(file: Option<&Path>, flags: &[Flag]) -> Result<Settings, ConfigError> {
    let variables = std::env::vars_os();
    Ok(Settings::read(Program::Sensor, file, variables, flags)?)
}

fn check_rates(raw: &raw::RawKernel) -> Result<Rates, ConfigError> {
    Ok(Rates {
        container: class_rates("kernel.container_rates", &raw.container_rates)?,
        total: class_rates("kernel.total_rates", &raw.total_rates)?,
        exec_text_bytes: raw.container_exec_text.0,
    })
}

/// A rate beyond a record a nanosecond is none.
fn class_rates(key: &'static str, raw: &raw::RawRates) -> Result<ClassRates, ConfigError> {
    let rates = ClassRates {
        exec: raw.exec,
        process: raw.process,
        namespace: raw.namespace,
        call: raw.call,
        sensitive: raw.sensitive,
        privilege: raw.privilege,
        traffic: raw.traffic,
    };
    let highest = [
        rates.exec,
        rates.process,
        rates.namespace,
        rates.call,
        rates.sensitive,
        rates.privilege,
        rates.traffic,
    ];
    match highest.into_iter().find(|rate| *rate > 1_000_000_000) {
        Some(rate) => Err(bad(key, rate, "at most 1000000000 a second; 0 = no limit")),
        None => Ok(rates),
    }
}

fn check_samples(raw: &raw::RawSamples) -> Result<SamplePlan, ConfigError> {
    let range = Duration::from_secs(1)..=Duration::from_secs(300);
    if !range.contains(&raw.interval) {
        let value = format!("{:?}", raw.interval);
        return Err(bad("samples.interval", value, "from 1s to 5m"));
    }
    Ok(SamplePlan {
        interval: raw.interval,
        containers: raw.containers,
        processes: raw.processes,
        calls: raw.calls,
        io: raw.io,
        network: raw.network,
    })
}

/// What is not sent needs no topic.
fn topics(samples: &SamplePlan) -> Vec<Topic> {
    let mut topics = vec![Topic::Events];
    topics.extend(samples.containers.then_some(Topic::ContainerSamples));
    topics.extend(samples.processes.then_some(Topic::ProcessSamples));
    topics.extend(samples.calls.then_some(Topic::SyscallSamples));
    topics.extend(samples.io.then_some(Topic::IoSamples));
    topics.extend([Topic::Sensors, Topic::Containers, Topic::Schemas]);
    topics
}

fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

fn bad(key: &'static str, value: impl ToString, reason: impl ToString) -> ConfigError {
    ConfigError::BadValue {
        key,
        value: value.to_string(),
        reason: reason.to_string(),
    }
}

fn processes_max(capacity: usize) -> Result<usize, ConfigError> {
    if !(64..=4_194_304).contains(&capacity) {
        return Err(bad("processes.capacity", capacity, "from 64 to 4194304"));
    }
    Ok(capacity)
}

/// A size in memory, from `least` bytes to 16 GiB.
fn size_within(key: &'static str, size: Size, least: u64) -> Result<usize, ConfigError> {
    if !(least..=16 << 30).contains(&size.0) {
        return Err(bad(key, size.0, format!("from {least} bytes to 16GiB")));
    }
    Ok(size.0 as usize)
}

fn check_calls(words: &[String]) -> Result<CallSet, ConfigError> {
    CallSet::parse(words).map_err(|UnknownCall(word)| {
        let known = CALLS.iter().flat_map(|call| [call.name, call.category]);
        let near = nearest_word(&word, known.chain(["all"]))
            .map_or_else(String::new, |near| format!(": did you mean {near}?"));
        let reason = format!("no system call and no category of docs/events.md{near}");
        bad("kernel.calls", word, reason)
    })
}

fn check_reads(list: Vec<String>) -> Result<Vec<ReadPattern>, ConfigError> {
    let key = "kernel.sensitive_read_paths";
    let bytes: usize = list.iter().map(String::len).sum();
    if list.len() > PATTERNS_MAX || bytes > LIST_BYTES_MAX {
        let found = format!("{} entries of {bytes} bytes", list.len());
        let most = format!("at most {PATTERNS_MAX} entries of {LIST_BYTES_MAX} bytes together");
        return Err(bad(key, found, most));
    }
    let parse = |text: String| text.parse().map_err(|error| bad(key, &text, error));
    list.into_iter().map(parse).collect()
}

fn check_kafka(raw: raw::RawKafka, topics: Vec<Topic>) -> Result<KafkaConfig, ConfigError> {
    check_servers(&raw.bootstrap_servers).map_err(ConfigError::Servers)?;
    let prefix_fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if raw.topic_prefix.is_empty()
        || raw.topic_prefix.len() > 200
        || !raw.topic_prefix.chars().all(prefix_fits)
    {
        return Err(bad(
            "kafka.topic_prefix",
            &raw.topic_prefix,
            "1 to 200 letters, digits, dots, dashes, underscores",
        ));
    }
    if raw.partitions < 1 {
        return Err(bad("kafka.partitions", raw.partitions, "at least 1"));
    }
    if raw.replication_factor < 1 {
        return Err(bad(
            "kafka.replication_factor",
            raw.replication_factor,
            "at least 1",
        ));
    }
    if !["none", "lz4", "zstd"].contains(&raw.compression.as_str()) {
        return Err(bad(
            "kafka.compression",
            &raw.compression,
            "none, lz4 or zstd",
        ));
    }
    if !(1 << 20..=2 << 30).contains(&raw.queue_bytes.0) {
        return Err(bad(
            "kafka.queue_bytes",
            raw.queue_bytes.0,
            "from 1MiB to 2GiB",
        ));
    }
    if !(1_000..=10_000_000).contains(&raw.queue_records) {
        return Err(bad(
            "kafka.queue_records",
            raw.queue_records,
            "from 1000 to 10000000",
        ));
    }
    Ok(KafkaConfig {
        options: options::checked(raw.options, &DECIDED)?,
        bootstrap_servers: raw.bootstrap_servers,
        topics,
        topic_prefix: raw.topic_prefix,
        create_topics: raw.create_topics,
        partitions: raw.partitions,
        replication_factor: raw.replication_factor,
        compression: raw.compression,
        queue_bytes: raw.queue_bytes.0,
        queue_records: raw.queue_records,
        linger: raw.linger,
        start_timeout: raw.start_timeout,
        drain_timeout: raw.drain_timeout,
    })
}

/// librdkafka's options that settings of the sensor decide.
const DECIDED: [Decided; 8] = [
    ("compression.codec", "set kafka.compression"),
    ("compression.type", "set kafka.compression"),
    ("queue.buffering.max.kbytes", "set kafka.queue_bytes"),
    ("queue.buffering.max.messages", "set kafka.queue_records"),
    ("linger.ms", "set kafka.linger"),
    ("queue.buffering.max.ms", "set kafka.linger"),
    ("message.timeout.ms", "records wait in the bounded queue"),
    ("delivery.timeout.ms", "records wait in the bounded queue"),
];

/// Bytes of all probes.
const PROBES_BYTES_MAX: usize = 16 << 10;
/// Labels that every row of a container may keep, and bytes of each one's name.
const LABELS_MAX: usize = 8;
const LABEL_NAME_BYTES_MAX: usize = 128;

fn check_containers(raw: raw::RawContainers) -> Result<ContainersConfig, ConfigError> {
    if raw.metadata_patience > Duration::from_secs(10) {
        return Err(bad(
            "containers.metadata_patience",
            format!("{:?}", raw.metadata_patience),
            "at most 10s",
        ));
    }
    if raw.repeat < Duration::from_secs(1) {
        return Err(bad(
            "containers.repeat",
            format!("{:?}", raw.repeat),
            "at least 1s",
        ));
    }
    if raw.metadata_queue_events > 1_000_000 {
        return Err(bad(
            "containers.metadata_queue_events",
            raw.metadata_queue_events,
            "at most 1000000",
        ));
    }
    let host_mode = mode("containers.host_mode", &raw.host_mode)?;
    if host_mode == Mode::Off {
        return Err(bad(
            "containers.host_mode",
            &raw.host_mode,
            "lifecycle is the least: the sensor proves at its start that it sees itself, and tells entrypoints from \
             intruders by what the container runtime does on the host",
        ));
    }
    if raw.labels.len() > LABELS_MAX {
        let reason = format!("at most {LABELS_MAX} names: they go with every row");
        return Err(bad("containers.labels", raw.labels.join(","), reason));
    }
    if let Some(long) = raw
        .labels
        .iter()
        .find(|name| name.len() > LABEL_NAME_BYTES_MAX)
    {
        let reason = format!("names of at most {LABEL_NAME_BYTES_MAX} bytes");
        return Err(bad("containers.labels", long, reason));
    }
    Ok(ContainersConfig {
        mode: mode("containers.mode", &raw.mode)?,
        host_mode,
        docker_root: PathBuf::from(raw.docker_root),
        metadata_patience: raw.metadata_patience,
        metadata_queue_events: raw.metadata_queue_events,
        metadata_queue_bytes: size_within(
            "containers.metadata_queue_bytes",
            raw.metadata_queue_bytes,
            64 << 10,
        )?,
        repeat: raw.repeat,
        labels: raw.labels.into_iter().map(Text::from).collect(),
        probes: probes(&raw.probes)?,
        sockets: sockets(&raw.sockets)?,
    })
}

fn probes(lines: &[String]) -> Result<Vec<Probe>, ConfigError> {
    let key = "containers.probes";
    let bytes: usize = lines.iter().map(String::len).sum();
    if bytes > PROBES_BYTES_MAX {
        let reason = format!(
            "at most {PROBES_BYTES_MAX} bytes together: every container may have all of them"
        );
        return Err(bad(key, format!("{bytes} bytes"), reason));
    }
    let parsed = lines.iter().map(|line| {
        let reason = "an image (with * at its end: all that begin so), a blank, and the arguments, those with blanks in quotes";
        Probe::parse(line).ok_or_else(|| bad(key, line, reason))
    });
    parsed.collect()
}

fn sockets(given: &[String]) -> Result<Vec<Socket>, ConfigError> {
    let key = "containers.sockets";
    if given.len() > SOCKETS_MAX {
        return Err(bad(key, given.join(","), format!("at most {SOCKETS_MAX}")));
    }
    let parse = |text: &String| text.parse().map_err(|expected| bad(key, text, expected));
    given.iter().map(parse).collect()
}

fn mode(key: &'static str, value: &str) -> Result<Mode, ConfigError> {
    match value {
        "off" => Ok(Mode::Off),
        "lifecycle" => Ok(Mode::Lifecycle),
        "normal" => Ok(Mode::Normal),
        "full" => Ok(Mode::Full),
        _ => Err(bad(key, value, "off, lifecycle, normal or full")),
    }
}

#[cfg(test)]
mod tests;
