//! Holds what sensors publish against what the loaded detections need: which reads of files come every time, and which system
//! calls are seen.
//!
//! ```text
//! dogwatch.sensors, its last seconds ─► host, sensitive_read_paths, calls_off ─► detections that miss some ─► log, metrics
//! ```
//! At the start and every few minutes the newest statuses are read without a group, by a thread of its own: a topic that is
//! missing, forbidden or away costs this look and nothing else. A host is told once, and again when what it lacks changes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use dogwatch_kafka::{Fault, Logged, PATIENCE};
use dogwatch_schemas::calls;
use dogwatch_schemas::decode::{BatchDecoder, DecodeError, SchemaError};
use dogwatch_schemas::reads::{self, ReadPattern};
use dogwatch_schemas::records::SensorStatus;
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::Config;
use crate::detect::{Detection, DetectionSet, UnpublishedReads};
use crate::engine::now_ns;
use crate::metrics;
use crate::schema_lookup::SchemaLookup;

/// How often sensors are looked at.
const INTERVAL: Duration = Duration::from_secs(300);
/// How far back a look begins: two heartbeats, which come every 5 s, and a slow broker.
const LOOK_BACK: Duration = Duration::from_secs(15);
/// How long a look may take; hosts that it does not get to are looked at by a later one.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How soon the thread sees that it is to end.
const WAIT: Duration = Duration::from_millis(100);
/// Most hosts remembered, some 200 bytes each; those beyond are told again at each look.
const HOSTS_MAX: usize = 50_000;
/// Longest name of a host that is kept, in bytes.
const HOST_BYTES_MAX: usize = 256;
/// Hosts that one line of the log names.
const HOSTS_NAMED: usize = 5;
/// Calls that a status may switch off; the table has some 120.
const CALLS_MAX: usize = 1_024;
/// The columns of a status that are read.
const COLUMNS: [&str; 4] = ["host_id", "host_name", "sensitive_read_paths", "calls_off"];

/// A look at the sensors, now and every few minutes, until it is dropped.
pub(crate) struct SensorNeeds(Arc<AtomicBool>);

impl SensorNeeds {
    /// Starts to look; nothing to do where no detection needs anything by name.
    pub fn start(config: &Config, needs: Needs) -> Option<Self> {
        if needs.0.is_empty() {
            return None;
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (config, seen) = (config.clone(), Arc::clone(&ended));
        let look = move || {
            Looker {
                config,
                needs,
                told: Told::default(),
                ended: seen,
            }
            .run()
        };
        match std::thread::Builder::new()
            .name("sensors".to_owned())
            .spawn(look)
        {
            Ok(_) => Some(Self(ended)),
            Err(error) => {
                tracing::warn!(%error, "could not start a thread: whether sensors publish what detections need is not looked at");
                None
            }
        }
    }
}

impl Drop for SensorNeeds {
    fn drop(&mut self) {
        // Not waited for: the thread may be waiting for a broker, and holds nothing that must be put in order.
        self.0.store(true, Ordering::Release);
    }
}

/// What detections need of sensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs(Vec<Need>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    detection_id: String,
    reads: Vec<ReadPattern>,
    /// The types of events that it asks for by name.
    types: BTreeSet<String>,
}

impl Needs {
    pub fn of(set: &DetectionSet) -> Self {
        let need = |detection: &Detection| Need {
            detection_id: detection.id.clone(),
            reads: detection.header.reads.clone(),
            types: detection.event_types().cloned().unwrap_or_default(),
        };
        let needs = set.iter().map(need);
        Self(
            needs
                .filter(|need| !need.reads.is_empty() || !need.types.is_empty())
                .collect(),
        )
    }

    /// Sets the metrics to nothing missing: what is not needed any more is missed by nobody.
    pub fn clear_metrics(&self) {
        Counts::new(self).show();
    }

    /// What a sensor with these lists does not deliver, as far as it says.
    fn missing(&self, delivered: &Delivered) -> Vec<Missing> {
        let published = delivered.published.as_ref();
        let published = published.map(|list| reads::patterns(list.iter().map(String::as_str)));
        let calls_off = delivered.calls_off.as_deref().unwrap_or_default();
        let mut missing = Vec::new();
        for need in &self.0 {
            let uncovered = published.iter();
            let uncovered = uncovered.flat_map(|list| reads::uncovered(list, &need.reads));
            let reads: Vec<ReadPattern> = uncovered.cloned().collect();
            let detection_id = need.detection_id.clone();
            if !reads.is_empty() {
                missing.push(Missing::Reads(UnpublishedReads {
                    detection_id: detection_id.clone(),
                    reads,
                }));
            }
            let off = calls_off.iter().filter(|call| need.types.contains(*call));
            let types: Vec<String> = off
                .filter(|call| !calls::told_without_call(call))
                .cloned()
                .collect();
            if !types.is_empty() {
                missing.push(Missing::Calls {
                    detection_id,
                    types,
                });
            }
        }
        missing
    }
}

/// What a detection needs and a sensor does not deliver.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Missing {
    Reads(UnpublishedReads),
    Calls {
        detection_id: String,
        types: Vec<String>,
    },
}

/// Of how many hosts detections miss something, by detection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    reads: BTreeMap<String, usize>,
    calls: BTreeMap<String, usize>,
}

impl Counts {
    fn new(needs: &Needs) -> Self {
        let none = |need: &Need| (need.detection_id.clone(), 0);
        let reads = needs.0.iter().filter(|need| !need.reads.is_empty());
        let calls = needs.0.iter().filter(|need| !need.types.is_empty());
        Self {
            reads: reads.map(none).collect(),
            calls: calls.map(none).collect(),
        }
    }

    fn show(&self) {
        metrics::unpublished_reads(&self.reads);
        metrics::unseen_calls(&self.calls);
    }

    fn add(&mut self, missing: &Missing, hosts: usize) {
        let (counts, detection_id) = match missing {
            Missing::Reads(unpublished) => (&mut self.reads, &unpublished.detection_id),
            Missing::Calls { detection_id, .. } => (&mut self.calls, detection_id),
        };
        *counts.entry(detection_id.clone()).or_default() += hosts;
    }
}

/// What a sensor's newest status says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct HostStatus {
    name: String,
    delivered: Delivered,
}

/// The lists of a status as they travel; none where the sensor does not say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Delivered {
    published: Option<Vec<String>>,
    calls_off: Option<Vec<String>>,
}

/// What hosts lack, as it was last told: a hash, so that many hosts cost little.
#[derive(Default)]
struct Told(BTreeMap<String, u64>);

/// What is to be told of hosts that lack the same.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    hosts: Vec<String>,
    /// Their sensors do not say which reads they publish, and some are needed.
    silent: bool,
    missing: Vec<Missing>,
}

impl Told {
    /// Takes what was seen; returns what is new of it, and how many hosts lack something of each detection.
    fn take(&mut self, needs: &Needs, seen: BTreeMap<String, HostStatus>) -> (Vec<Lack>, Counts) {
        let mut by_lists: BTreeMap<Delivered, Vec<(String, String)>> = BTreeMap::new();
        for (host_id, host) in seen {
            by_lists
                .entry(host.delivered)
                .or_default()
                .push((host_id, host.name));
        }
        let needs_reads = needs.0.iter().any(|need| !need.reads.is_empty());
        let mut counts = Counts::new(needs);
        let mut news = Vec::new();
        for (delivered, hosts) in by_lists {
            let silent = needs_reads && delivered.published.is_none();
            let missing = needs.missing(&delivered);
            for missing in &missing {
                counts.add(missing, hosts.len());
            }
            let hash = hash_of(silent, &missing);
            let fine = !silent && missing.is_empty();
            let is_news =
                |(host_id, _): &(String, String)| self.change(host_id, (!fine).then_some(hash));
            let new: Vec<String> = hosts
                .into_iter()
                .filter(is_news)
                .map(|(_, name)| name)
                .collect();
            if !new.is_empty() {
                news.push(Lack {
                    hosts: new,
                    silent,
                    missing,
                });
            }
        }
        (news, counts)
    }

    /// Remembers what a host lacks; says whether that is news.
    fn change(&mut self, host_id: &str, lack: Option<u64>) -> bool {
        let full = self.0.len() >= HOSTS_MAX;
        match (self.0.entry(host_id.to_owned()), lack) {
            (Entry::Occupied(known), None) => {
                known.remove();
                false
            }
            (Entry::Vacant(_), None) => false,
            (Entry::Occupied(mut known), Some(hash)) => known.insert(hash) != hash,
            (Entry::Vacant(unknown), Some(hash)) => {
                if !full {
                    unknown.insert(hash);
                }
                true
            }
        }
    }
}

fn hash_of(silent: bool, missing: &[Missing]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (silent, missing).hash(&mut hasher);
    hasher.finish()
}

/// The thread's own.
struct Looker {
    config: Config,
    needs: Needs,
    told: Told,
    ended: Arc<AtomicBool>,
}

impl Looker {
    fn run(mut self) {
        let mut complained = false;
        while !self.ended() {
            let began = Instant::now();
            match self.look() {
                Ok(seen) => {
                    complained = false;
                    let (news, counts) = self.told.take(&self.needs, seen);
                    news.iter().for_each(tell);
                    counts.show();
                }
                Err(error) if complained => {
                    tracing::debug!(%error, "still cannot read what sensors publish")
                }
                Err(error) => {
                    complained = true;
                    tracing::warn!(%error, "could not read what sensors publish: whether detections get what they need is not known");
                }
            }
            while !self.ended() && began.elapsed() < INTERVAL {
                std::thread::sleep(WAIT);
            }
        }
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Reads the last seconds of the topic of sensors: the newest status of each host.
    fn look(&self) -> Result<BTreeMap<String, HostStatus>, Fault> {
        let names = Topics::new(self.config.kafka.topic_prefix.as_str());
        let topic = names.name(Topic::Sensors);
        let action = format!("read topic {topic}");
        let fault = |error: KafkaError| Fault::of(&action, &error);
        let mut settings = self.config.kafka.brokers().settings();
        settings
            .set("group.id", &self.config.kafka.group_id)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "latest")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", "4096")
            .set("fetch.wait.max.ms", "10");
        let consumer = Logged::consumer(&settings).map_err(fault)?;
        let metadata = consumer
            .fetch_metadata(Some(&topic), PATIENCE)
            .map_err(fault)?;
        let since_ms = now_ns() / 1_000_000 - LOOK_BACK.as_millis() as i64;
        let mut times = TopicPartitionList::new();
        for partition in metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions())
        {
            times
                .add_partition_offset(&topic, partition.id(), Offset::Offset(since_ms))
                .map_err(fault)?;
        }
        let mut statuses = Statuses::new(&self.config, names.name(Topic::Schemas))?;
        let mut unread = times.count();
        if unread == 0 {
            // No sensor has made the topic yet.
            return Ok(statuses.hosts);
        }
        let starts = consumer.offsets_for_times(times, PATIENCE).map_err(fault)?;
        consumer.assign(&starts).map_err(fault)?;
        let deadline = Instant::now() + LOOK_MAX;
        while unread > 0 && !self.ended() && Instant::now() < deadline {
            match consumer.poll(WAIT) {
                Some(Ok(message)) => statuses.take(message.payload().unwrap_or_default())?,
                Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
                Some(Err(error)) if Fault::of(&action, &error).environment() => {
                    return Err(fault(error));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "could not read statuses of sensors, trying on")
                }
                None => {}
            }
        }
        Ok(statuses.hosts)
    }
}

/// Tells which detections lack something of some hosts.
fn tell(lack: &Lack) {
    let named: Vec<&str> = lack
        .hosts
        .iter()
        .take(HOSTS_NAMED)
        .map(String::as_str)
        .collect();
    let (hosts, names) = (lack.hosts.len(), named.join(", "));
    if lack.silent {
        tracing::warn!(
            hosts,
            names,
            "sensors do not say which reads of files they publish: update them, or detections that need reads may miss some"
        );
    }
    for missing in &lack.missing {
        match missing {
            Missing::Reads(unpublished) => tracing::warn!(
                hosts,
                names,
                detection = unpublished.detection_id,
                "sensors publish reads once an hour that a detection needs every time: {unpublished}; add them to kernel.sensitive_read_paths there"
            ),
            Missing::Calls {
                detection_id,
                types,
            } => tracing::warn!(
                hosts,
                names,
                detection = detection_id,
                "sensors see no {}, which a detection asks for: kernel.calls switches them off there",
                types.join(", ")
            ),
        }
    }
}

/// Statuses of sensors, decoded with whatever schema they were written with.
struct Statuses<'c> {
    config: &'c Config,
    schemas_topic: String,
    /// Opened at the first schema that this program was not built with.
    lookup: Option<SchemaLookup>,
    decoder: BatchDecoder,
    hosts: BTreeMap<String, HostStatus>,
}

impl<'c> Statuses<'c> {
    fn new(config: &'c Config, schemas_topic: String) -> Result<Self, Fault> {
        let decoder = decoder()
            .map_err(|error| Fault::new("read statuses of sensors", None, error.to_string()))?;
        Ok(Self {
            config,
            schemas_topic,
            lookup: None,
            decoder,
            hosts: BTreeMap::new(),
        })
    }

    /// Takes a status; one that cannot be read says nothing.
    fn take(&mut self, framed: &[u8]) -> Result<(), Fault> {
        let pushed = match self.decoder.push(framed) {
            Err(DecodeError::UnknownSchema(fingerprint)) => {
                let lookup = match &mut self.lookup {
                    Some(lookup) => lookup,
                    none => {
                        let (brokers, topic) =
                            (self.config.kafka.brokers(), self.schemas_topic.clone());
                        let group_id = &self.config.kafka.group_id;
                        none.insert(SchemaLookup::open(&brokers, group_id, topic)?)
                    }
                };
                for (_, schema) in lookup.find(&[fingerprint])? {
                    if let Err(error) = self.decoder.register(schema) {
                        tracing::debug!(%error, "a schema is not that of a status");
                    }
                }
                self.decoder.push(framed)
            }
            pushed => pushed,
        };
        if let Err(error) = pushed {
            tracing::debug!(%error, "a status of a sensor cannot be read, passed over");
            return Ok(());
        }
        if let Some((host_id, host)) = newest(&mut self.decoder)
            && (self.hosts.len() < HOSTS_MAX || self.hosts.contains_key(&host_id))
        {
            self.hosts.insert(host_id, host);
        }
        Ok(())
    }
}

fn decoder() -> Result<BatchDecoder, SchemaError> {
    BatchDecoder::new(SensorStatus::SCHEMA, Some(&COLUMNS))
}

/// Takes the one row that was pushed: host id, name, and what is published.
fn newest(decoder: &mut BatchDecoder) -> Option<(String, HostStatus)> {
    let batch = decoder.finish();
    let text = |name: &str| {
        Some(
            batch
                .column_by_name(name)?
                .as_string_view()
                .value(0)
                .to_owned(),
        )
    };
    let (host_id, name) = (text(COLUMNS[0])?, text(COLUMNS[1])?);
    if host_id.len() > HOST_BYTES_MAX || name.len() > HOST_BYTES_MAX {
        return None;
    }
    let delivered = Delivered {
        published: list(&batch, COLUMNS[2], reads::PATTERNS_MAX)?,
        calls_off: list(&batch, COLUMNS[3], CALLS_MAX)?,
    };
    Some((host_id, HostStatus { name, delivered }))
}

/// A list of the one row, cut where no sensor of ours would send so much; the inner one is none where the row has null.
fn list(batch: &RecordBatch, column: &str, items_max: usize) -> Option<Option<Vec<String>>> {
    let lists = batch.column_by_name(column)?.as_list::<i32>();
    let list = (!lists.is_null(0)).then(|| {
        let items = lists.value(0);
        let items = items.as_string_view().iter().flatten();
        let mut bytes = 0;
        let within = |item: &&str| {
            bytes += item.len();
            bytes <= reads::LIST_BYTES_MAX
        };
        let kept = items.take(items_max).take_while(within);
        kept.map(str::to_owned).collect()
    });
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        let need = |id: &str, reads: &[&str], types: &[&str]| Need {
            detection_id: id.to_owned(),
            reads: reads::patterns(reads.iter().copied()),
            types: types.iter().map(|name| (*name).to_owned()).collect(),
        };
        Needs(vec![
            need("a", &["/etc/shadow"], &[]),
            need("b", &["*/.kube/config", "/srv"], &[]),
            need("c", &[], &["execve", "ptrace", "unlinkat"]),
        ])
    }

    type Seen<'a> = (&'a str, Option<&'a [&'a str]>, Option<&'a [&'a str]>);

    fn seen(hosts: &[Seen<'_>]) -> BTreeMap<String, HostStatus> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let host = |(id, published, calls_off): &Seen<'_>| {
            let status = HostStatus {
                name: format!("{id}.example"),
                delivered: Delivered {
                    published: published.map(texts),
                    calls_off: calls_off.map(texts),
                },
            };
            ((*id).to_owned(), status)
        };
        hosts.iter().map(host).collect()
    }

    /// What is told of these hosts, a line each, and of how many each of the detections misses something.
    fn look(told: &mut Told, hosts: &[Seen<'_>]) -> (Vec<String>, [usize; 3]) {
        let (news, counts) = told.take(&needs(), seen(hosts));
        let text = |missing: &Missing| match missing {
            Missing::Reads(unpublished) => unpublished.to_string(),
            Missing::Calls {
                detection_id,
                types,
            } => format!("{detection_id} sees no {}", types.join(", ")),
        };
        let line = |lack: &Lack| {
            let silent = lack.silent.then(|| "silent".to_owned());
            let missing: Vec<String> = silent
                .into_iter()
                .chain(lack.missing.iter().map(text))
                .collect();
            format!("{}: {}", lack.hosts.join(" "), missing.join("; "))
        };
        let counts = [counts.reads["a"], counts.reads["b"], counts.calls["c"]];
        (news.iter().map(line).collect(), counts)
    }

    #[test]
    fn a_host_is_told_once_and_again_when_what_it_lacks_changes() {
        let mut told = Told::default();
        let lacking: Option<&[&str]> = Some(&["/etc", "/srv"]);
        let all: Option<&[&str]> = Some(&["/"]);
        let lacks = "b needs reads of */.kube/config";
        let first = look(
            &mut told,
            &[("x", lacking, None), ("y", lacking, None), ("z", all, None)],
        );
        assert_eq!(
            first,
            (vec![format!("x.example y.example: {lacks}")], [0, 2, 0])
        );
        let same = look(&mut told, &[("x", lacking, None), ("y", all, None)]);
        assert_eq!(same, (vec![], [0, 1, 0]));
        let more = look(&mut told, &[("x", Some(&[]), None), ("y", lacking, None)]);
        let everything = "a needs reads of /etc/shadow; b needs reads of */.kube/config, /srv";
        assert_eq!(
            more.0,
            [
                format!("x.example: {everything}"),
                format!("y.example: {lacks}")
            ]
        );
        let silent = look(&mut told, &[("old", None, None)]);
        assert_eq!(silent, (vec!["old.example: silent".to_owned()], [0, 0, 0]));
        assert_eq!(
            look(&mut told, &[("old", None, None)]).0,
            Vec::<String>::new()
        );
        let silent = look(&mut told, &[("old", None, Some(&["ptrace"]))]);
        assert_eq!(silent.0, ["old.example: silent; c sees no ptrace"]);
        let hosts = seen(&[("older", None, None)]);
        let (news, _) = told.take(&Needs(vec![]), hosts);
        assert!(news.is_empty(), "no reads are needed: {news:?}");
    }

    #[test]
    fn calls_that_are_switched_off_are_told_where_a_detection_asks_for_them() {
        let mut told = Told::default();
        let all: Option<&[&str]> = Some(&["/"]);
        let told_off = look(&mut told, &[("x", all, Some(&["ptrace", "mprotect"]))]);
        let line = "x.example: c sees no ptrace".to_owned();
        assert_eq!(told_off, (vec![line], [0, 0, 1]));
        // Programs come all the same.
        let fine = look(&mut told, &[("x", all, Some(&["execve", "mprotect"]))]);
        assert_eq!(fine, (vec![], [0, 0, 0]));
    }

    #[test]
    fn what_is_remembered_of_hosts_is_bounded() {
        let mut told = Told::default();
        for number in 0..HOSTS_MAX + 10 {
            assert!(told.change(&number.to_string(), Some(1)));
        }
        assert_eq!(told.0.len(), HOSTS_MAX);
        assert!(!told.change("0", Some(1)));
        assert!(
            told.change(&HOSTS_MAX.to_string(), Some(1)),
            "told again, not forgotten"
        );
    }

    #[test]
    fn a_status_gives_host_and_lists_and_a_hostile_one_is_cut() {
        let mut decoder = decoder().expect("columns of the schema");
        let mut read = |list: Option<Vec<String>>| {
            let list = list.map(|list| list.into_iter().map(Into::into).collect::<Vec<_>>());
            let status = SensorStatus {
                host_id: "h".into(),
                host_name: "n".into(),
                sensitive_read_paths: list.clone(),
                calls_off: list,
                ..SensorStatus::default()
            };
            let mut framed = Vec::new();
            status.encode_framed(&mut framed);
            decoder.push(&framed).expect("readable");
            let (host_id, host) = newest(&mut decoder).expect("a row");
            assert_eq!((host_id.as_str(), host.name.as_str()), ("h", "n"));
            assert_eq!(host.delivered.published, host.delivered.calls_off);
            host.delivered.published
        };
        assert_eq!(read(None), None);
        assert_eq!(read(Some(vec![])), Some(vec![]));
        assert_eq!(read(Some(vec!["/a".into()])), Some(vec!["/a".to_owned()]));
        let cut = read(Some(vec!["x".repeat(1_000); 1_000])).expect("a list");
        assert_eq!(cut.len(), reads::LIST_BYTES_MAX / 1_000);
    }
}
