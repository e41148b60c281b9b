//! How the logs of a task are stored: of each what is known beside its hosts, and its hosts in pieces.
//!
//! | name | what it is |
//! | --- | --- |
//! | `log.TOPIC` | its latest second, what it has forgotten, and the number of the task's next slot |
//! | `hosts.TOPIC/PIECE` | some of its hosts |

use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};

use super::fleet::FleetTime;
use super::gaps::Gap;
use super::host::Host;
use super::log::Log;
use super::{HOSTS_PER_PIECE, Hosts, Task};
use crate::checkpoint::{Renewal, State, StateRecord, take_below};

/// What the names of stored logs begin with.
const LOG: &str = "log.";
/// What the names of stored hosts begin with.
const HOSTS: &str = "hosts.";

/// A log as it is stored, but for its hosts.
#[derive(Debug, Serialize, Deserialize)]
struct StoredLog {
    second: Option<i64>,
    next_slot: u32,
    #[serde(default)]
    records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten_high: Option<i64>,
    #[serde(default)]
    forgotten: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<i64>,
    #[serde(default)]
    resumed: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<Gap>,
    /// How far all its hosts are, where anything goes by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fleet: Option<FleetTime>,
}

impl Hosts {
    /// What changed in a task since the last call, and the pieces that are to be written anew.
    ///
    /// # Errors
    /// When a piece cannot be written.
    pub fn store(
        &mut self,
        partition: i32,
        renewal: &Renewal,
    ) -> serde_json::Result<Vec<StateRecord>> {
        let mut records = Vec::new();
        if let Some(Task { logs, next_slot }) = self.tasks.get_mut(&partition) {
            for (topic, log) in logs {
                log.store(*topic, *next_slot, renewal, &mut records)?;
            }
        }
        Ok(records)
    }

    /// Takes a stored task back, out of its state.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(&mut self, partition: i32, state: &mut State) -> serde_json::Result<()> {
        let mut task = Task::default();
        for (name, stored) in take_below(state, LOG) {
            let Some(topic) = Topic::named(&name) else {
                continue;
            };
            let stored: StoredLog = serde_json::from_slice(&stored)?;
            task.next_slot = task.next_slot.max(stored.next_slot);
            let pieces = take_below(state, &hosts_of(topic));
            let mut log = Log::restored(stored, pieces)?;
            if self.fleet_patience_ns.is_none() {
                // No second is counted now: when they are again, it is from then on.
                log.fleet = FleetTime::default();
            }
            task.logs.insert(topic, log);
        }
        self.tasks.insert(partition, task);
        Ok(())
    }
}

/// What the names of a log's hosts begin with.
fn hosts_of(topic: Topic) -> String {
    format!("{HOSTS}{}/", topic.suffix())
}

impl Log {
    /// Adds what changed of it since the last call, and the pieces that are to be written anew.
    fn store(
        &mut self,
        topic: Topic,
        next_slot: u32,
        renewal: &Renewal,
        records: &mut Vec<StateRecord>,
    ) -> serde_json::Result<()> {
        let prefix = hosts_of(topic);
        let anew = renewal.below(&prefix);
        self.changed
            .extend(anew.filter_map(|piece| piece.parse::<usize>().ok()));
        let mut pieces: Vec<&[Host]> = self.hosts.chunks(HOSTS_PER_PIECE).collect();
        let count = pieces.len();
        // Fewer than before: those beyond are over.
        pieces.resize(count.max(self.pieces), &[]);
        let stored = StoredLog {
            second: self.second,
            next_slot,
            records: self.records,
            forgotten_high: self.forgotten_high,
            forgotten: self.forgotten,
            told: self.told,
            resumed: self.resumed,
            gaps: self.gaps.clone(),
            fleet: self.fleet.began().then(|| self.fleet.clone()),
        };
        records.push(StateRecord {
            key: format!("{LOG}{}", topic.suffix()),
            value: Some(serde_json::to_vec(&stored)?),
        });
        for (piece, hosts) in pieces.into_iter().enumerate() {
            let over = piece >= count;
            if over || self.changed.contains(&piece) {
                let value = (!over).then(|| serde_json::to_vec(hosts)).transpose()?;
                let key = format!("{prefix}{piece:06}");
                records.push(StateRecord { key, value });
            }
        }
        self.changed.clear();
        self.pieces = count;
        Ok(())
    }

    fn restored(stored: StoredLog, pieces: Vec<(String, Vec<u8>)>) -> serde_json::Result<Self> {
        let mut log = Self {
            second: stored.second,
            records: stored.records,
            forgotten_high: stored.forgotten_high,
            forgotten: stored.forgotten,
            told: stored.told,
            resumed: stored.resumed,
            gaps: stored.gaps,
            fleet: stored.fleet.unwrap_or_default(),
            pieces: pieces.len(),
            ..Self::default()
        };
        for (_, hosts) in pieces {
            let hosts: Vec<Host> = serde_json::from_slice(&hosts)?;
            log.hosts.extend(hosts);
        }
        log.index();
        log.limit_residents();
        Ok(log)
    }
}
