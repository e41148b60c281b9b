//! At most ten alerts a minute: of a detection without a period, for each host and container.
//!
//! ```text
//! alert ─► its minute: begun by the first, [`PER_MINUTE`] are published, the rest is held ─► minute over: how many were held
//! ```
//! A minute runs in the broker's time of its log, so it holds the same after a replay; a host that drains a backlog is
//! throttled by when its events arrive, not by when they happened. Without a broker rows' own times count.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::HashMap;
use dogwatch_schemas::Text;
use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::decode::Partition;

/// Alerts of a minute that are published.
const PER_MINUTE: u64 = 10;
const MINUTE_S: i64 = 60;
/// Most minutes that run for a host in a log that has all of the room, since a host chooses the names of its containers; beyond
/// them its containers share one.
const MINUTES_PER_HOST_MAX: u64 = 1_024;
/// Most minutes that run in a log, some 3 MB; beyond them alerts are published: held ones would hide those of other hosts.
pub(super) const MINUTES_MAX: u64 = 6_000;
/// Longest id of a container that is told from others, bytes.
const CONTAINER_BYTES_MAX: usize = 64;
/// What the names of stored minutes begin with: `minute.TOPIC/HASH`.
const MINUTE: &str = "minute.";

/// Whose alerts share a minute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Source {
    pub host_id: Text,
    pub detection_id: Text,
    /// Empty for those of a host that has too many.
    pub container_id: Text,
}

impl Source {
    /// Makes one; what an event says of its container may be of any length.
    pub fn new(host_id: &str, detection_id: &str, container_id: &str) -> Self {
        let cut = container_id.floor_char_boundary(CONTAINER_BYTES_MAX);
        Self {
            host_id: host_id.into(),
            detection_id: detection_id.into(),
            container_id: container_id[..cut].into(),
        }
    }
}

/// A minute of a source's alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Minute {
    pub source: Source,
    pub host_name: Text,
    /// When it is over, in seconds of the log's ingest time.
    end: i64,
    published: u64,
    /// How many were held back.
    pub held: i64,
    /// Id of the first alert.
    pub first_id: Text,
    /// The host's time when the last was held.
    pub last_time: i64,
}

/// What is known of an alert to be throttled.
pub(crate) struct Arrival {
    /// The log that its row is in.
    pub log: Partition,
    /// The log's second.
    pub second: i64,
    pub source: Source,
    /// Its host's time.
    pub time: i64,
}

/// The minutes of all logs.
#[derive(Debug)]
pub(crate) struct Throttles {
    logs: HashMap<Partition, Log>,
    per_minute: u64,
    /// How much of what a log may take is theirs: one in so many.
    part: u64,
}

#[derive(Debug, Default)]
struct Log {
    minutes: BTreeMap<Source, Running>,
    of_hosts: HashMap<Text, usize>,
    /// When the first of them is over: asked for each alert.
    first_end: Option<i64>,
    /// Names of stored minutes that are over.
    over: Vec<String>,
}

#[derive(Debug)]
struct Running {
    minute: Minute,
    /// Whether it changed since it was stored.
    dirty: bool,
}

impl Throttles {
    /// Of logs that have one part in so many of the room.
    pub fn new(part: u64) -> Self {
        Self {
            logs: HashMap::new(),
            per_minute: PER_MINUTE,
            part,
        }
    }

    /// Holds nothing back.
    pub fn open(&mut self) {
        self.per_minute = u64::MAX;
    }

    /// Takes an alert; whether it is published. Minutes that are over by then must have been ended.
    /// `first` is asked for the alert's id and its host's name when it begins a minute.
    pub fn take(&mut self, arrival: Arrival, first: impl FnOnce() -> (Text, Text)) -> bool {
        let log = self.logs.entry(arrival.log).or_default();
        let mut source = arrival.source;
        let of_host = log.of_hosts.get(&source.host_id).copied().unwrap_or(0);
        let of_host_max = MINUTES_PER_HOST_MAX / self.part;
        if of_host as u64 >= of_host_max && !log.minutes.contains_key(&source) {
            source.container_id = Text::default();
        }
        if let Some(running) = log.minutes.get_mut(&source) {
            running.dirty = true;
            let minute = &mut running.minute;
            if minute.published < self.per_minute {
                minute.published += 1;
                return true;
            }
            minute.held += 1;
            minute.last_time = arrival.time;
            return false;
        }
        if (log.minutes.len() as u64) < MINUTES_MAX / self.part {
            let (first_id, host_name) = first();
            let minute = Minute {
                source,
                host_name,
                end: arrival.second.saturating_add(MINUTE_S),
                published: 1,
                held: 0,
                first_id,
                last_time: arrival.time,
            };
            log.insert(minute, true);
        }
        true
    }

    /// Whether any of a log's minutes is over at a second.
    pub fn due(&self, log: Partition, second: i64) -> bool {
        let log = self.logs.get(&log);
        let first_end = log.and_then(|log| log.first_end);
        first_end.is_some_and(|end| end <= second)
    }

    /// Ends the minutes of a log that are over at a second; returns those that held alerts back, each with its end.
    pub fn end(&mut self, log: Partition, second: i64) -> Vec<(i64, Minute)> {
        let Some(log) = self.logs.get_mut(&log) else {
            return Vec::new();
        };
        let over = |_: &Source, running: &mut Running| running.minute.end <= second;
        let ended: Vec<_> = log.minutes.extract_if(.., over).collect();
        let mut held = Vec::new();
        for (source, Running { minute, .. }) in ended {
            if let Some(of_host) = log.of_hosts.get_mut(&source.host_id) {
                *of_host -= 1;
                if *of_host == 0 {
                    log.of_hosts.remove(&source.host_id);
                }
            }
            log.over.push(name(&source));
            if minute.held > 0 {
                held.push((minute.end, minute));
            }
        }
        let ends = log.minutes.values().map(|running| running.minute.end);
        log.first_end = ends.min();
        held
    }

    /// Ends all minutes of a task.
    pub fn end_all(&mut self, partition: i32) -> Vec<Minute> {
        let mut own: Vec<Partition> = self.logs.keys().copied().collect();
        own.retain(|(_, of)| *of == partition);
        own.sort_unstable();
        let ended = own.into_iter().flat_map(|log| self.end(log, i64::MAX));
        ended.map(|(_, minute)| minute).collect()
    }

    /// Whether a task holds alerts back whose number is to be published.
    pub fn waits(&self, partition: i32) -> bool {
        let mut own = self.logs.iter().filter(|((_, of), _)| *of == partition);
        own.any(|(_, log)| {
            let mut minutes = log.minutes.values();
            minutes.any(|running| running.minute.held > 0)
        })
    }

    /// Forgets a task.
    pub fn forget(&mut self, partition: i32) {
        self.logs.retain(|(_, of), _| *of != partition);
    }

    /// What changed in a task since the last call, and the pieces that are to be written anew.
    pub fn store(&mut self, partition: i32, renewal: &Renewal) -> Vec<StateRecord> {
        let mut records = BTreeMap::new();
        for ((topic, of), log) in &mut self.logs {
            if *of == partition {
                log.store(*topic, renewal, &mut records);
            }
        }
        let records = records.into_iter();
        records
            .map(|(key, value)| StateRecord { key, value })
            .collect()
    }

    /// Takes a task's stored minutes back, out of its state; one that cannot be read is over.
    pub fn restore(&mut self, partition: i32, state: &mut State) {
        for (name, value) in take_below(state, MINUTE) {
            let topic = name.split('/').next().and_then(Topic::named);
            if let (Some(topic), Ok(minute)) = (topic, serde_json::from_slice(&value)) {
                let log = self.logs.entry((topic, partition)).or_default();
                log.insert(minute, false);
            }
        }
    }
}

impl Log {
    /// Adds what changed of it since the last call, and the pieces that are to be written anew.
    fn store(
        &mut self,
        topic: Topic,
        renewal: &Renewal,
        records: &mut BTreeMap<String, Option<Vec<u8>>>,
    ) {
        let over = std::mem::take(&mut self.over).into_iter();
        let prefix = minutes_of(topic);
        records.extend(over.map(|source| (format!("{prefix}{source}"), None)));
        let anew: BTreeSet<&str> = renewal.below(&prefix).collect();
        for (source, running) in &mut self.minutes {
            if !running.dirty && anew.is_empty() {
                continue;
            }
            let name = name(source);
            let is_anew = anew.contains(&*name);
            if running.dirty || is_anew {
                running.dirty = false;
                // A struct of texts and numbers is always JSON.
                let value = serde_json::to_vec(&running.minute).unwrap_or_default();
                if is_anew {
                    renewal.spend(value.len());
                }
                records.insert(format!("{prefix}{name}"), Some(value));
            }
        }
    }

    fn insert(&mut self, minute: Minute, dirty: bool) {
        let end = self.first_end.map_or(minute.end, |end| end.min(minute.end));
        self.first_end = Some(end);
        let source = minute.source.clone();
        *self.of_hosts.entry(source.host_id.clone()).or_default() += 1;
        self.minutes.insert(source, Running { minute, dirty });
    }
}

/// What the names of a log's minutes begin with.
fn minutes_of(topic: Topic) -> String {
    format!("{MINUTE}{}/", topic.suffix())
}

/// The name that a source's minute is stored under, in its log.
fn name(source: &Source) -> String {
    let parts = [
        &*source.detection_id,
        &*source.host_id,
        &*source.container_id,
    ];
    crate::alert::digest(parts, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Partition = (Topic::Events, 0);

    fn arrival(second: i64, host: &str, container: &str) -> Arrival {
        Arrival {
            log: LOG,
            second,
            source: Source::new(host, "d", container),
            time: second,
        }
    }

    fn first() -> (Text, Text) {
        ("id".into(), "name".into())
    }

    fn take(throttles: &mut Throttles, count: usize, second: i64, container: &str) -> usize {
        let alerts = (0..count).filter(|_| {
            let arrival = arrival(second, "h", container);
            throttles.take(arrival, first)
        });
        alerts.count()
    }

    #[test]
    fn ten_alerts_a_minute_are_published_and_the_others_counted() {
        let mut throttles = Throttles::new(1);
        assert_eq!(take(&mut throttles, 7, 100, "a"), 7);
        assert_eq!(take(&mut throttles, 50, 130, "a"), 3);
        assert_eq!(take(&mut throttles, 9, 130, "b"), 9);
        assert!(throttles.waits(0) && !throttles.due(LOG, 159) && throttles.due(LOG, 160));
        let ended = throttles.end(LOG, 160);
        let held: Vec<_> = ended
            .iter()
            .map(|(end, minute)| (*end, minute.held))
            .collect();
        assert_eq!(held, [(160, 47)]);
        assert_eq!(take(&mut throttles, 9, 160, "a"), 9);
        assert_eq!(throttles.end(LOG, 190), []);
        assert!(!throttles.waits(0));
    }

    #[test]
    fn a_stored_minute_goes_on_where_it_was() {
        let mut throttles = Throttles::new(1);
        take(&mut throttles, 14, 100, "a");
        take(&mut throttles, 2, 100, "b");
        let mut state = State::new();
        let none = Renewal::default();
        let mut keep = |records: Vec<StateRecord>| {
            let count = records.len();
            for StateRecord { key, value } in records {
                match value {
                    Some(value) => drop(state.insert(key, value)),
                    None => drop(state.remove(&key)),
                }
            }
            (count, state.clone())
        };
        assert_eq!(keep(throttles.store(0, &none)).0, 2);
        take(&mut throttles, 2, 101, "a");
        let (count, mut stored) = keep(throttles.store(0, &none));
        assert_eq!((count, stored.len()), (1, 2));
        let mut again = Throttles::new(1);
        let names = stored.keys().cloned().collect();
        again.restore(0, &mut stored);
        assert!(stored.is_empty());
        assert_eq!(keep(again.store(0, &none)).0, 0);
        assert_eq!(keep(again.store(0, &Renewal::new(names, u64::MAX))).0, 2);
        assert_eq!(take(&mut again, 9, 101, "b"), 8);
        let ended = again.end(LOG, 160);
        let held = ended.iter().map(|(_, minute)| minute.held);
        assert_eq!(held.sum::<i64>(), 6 + 1);
        assert_eq!(keep(again.store(0, &none)).1.len(), 0);
    }

    #[test]
    fn minutes_run_in_the_time_of_their_own_topic() {
        const OTHER: Partition = (Topic::Sensors, 0);
        let mut throttles = Throttles::new(1);
        take(&mut throttles, 14, 100, "a");
        for _ in 0..12 {
            let arrival = Arrival {
                log: OTHER,
                ..arrival(500, "h", "a")
            };
            throttles.take(arrival, first);
        }
        let records = throttles.store(0, &Renewal::default());
        let mut state: State = records
            .into_iter()
            .filter_map(|record| Some((record.key, record.value?)))
            .collect();
        let names: Vec<&str> = state.keys().map(|name| &name[..13]).collect();
        assert_eq!(names, ["minute.events", "minute.sensor"]);
        let mut again = Throttles::new(1);
        again.restore(0, &mut state);
        for mut throttles in [throttles, again] {
            assert!(!throttles.due(OTHER, 559) && throttles.due(LOG, 559));
            let held = |ended: Vec<(i64, Minute)>| ended.iter().map(|(_, own)| own.held).sum();
            let held: [i64; 2] = [
                held(throttles.end(OTHER, 559)),
                held(throttles.end(LOG, 559)),
            ];
            assert_eq!(held, [0, 4]);
            assert!(throttles.waits(0));
            let rest = throttles.end_all(0);
            assert_eq!(rest.iter().map(|own| own.held).sum::<i64>(), 2);
            throttles.forget(0);
            assert!(throttles.logs.is_empty());
        }
    }

    #[test]
    fn a_host_with_many_containers_takes_no_room_from_others() {
        for part in [1, 4] {
            let mut throttles = Throttles::new(part);
            let per_host = (MINUTES_PER_HOST_MAX / part) as usize;
            let mut published = 0;
            for container in 0..3 * per_host {
                published += take(&mut throttles, 2, 0, &container.to_string());
            }
            assert_eq!(published, 2 * per_host + PER_MINUTE as usize);
            assert!(throttles.logs[&LOG].minutes.len() <= per_host + 1);
            for host in 0..2 * MINUTES_MAX as usize {
                throttles.take(arrival(0, &host.to_string(), "c"), first);
            }
            let minutes = throttles.logs[&LOG].minutes.len() as u64;
            assert_eq!(minutes, MINUTES_MAX / part);
            throttles.end(LOG, MINUTE_S);
            let log = &throttles.logs[&LOG];
            assert!(log.minutes.is_empty() && log.of_hosts.is_empty());
        }
    }
}
