//! The parts of the work: windows over the whole fleet have two, and each may be in other processes.

use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// A part of the work, with a consumer group, transactions and checkpoints of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reads events, and samples where detections do; of windows over the whole fleet it counts what its partitions have.
    Host,
    /// Reads what the first one says to windows over the whole fleet, and finishes these.
    Fleet,
}

/// The topics of windows over the whole fleet, as they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeTopics {
    /// Partitions of the exchange.
    pub partitions: i32,
    /// Partitions of the input: as many sources the exchange has.
    pub sources: i32,
}

impl Stage {
    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Fleet => "fleet",
        }
    }

    /// Returns the topic where its tasks remember.
    pub fn state(self) -> Topic {
        match self {
            Self::Host => Topic::State,
            Self::Fleet => Topic::FleetState,
        }
    }
}

impl Config {
    /// Returns the configuration of one of the stages: each has a group, and so transactions, of its own.
    #[must_use]
    pub fn of_stage(&self, stage: Stage) -> Self {
        let mut own = Self {
            stage,
            ..self.clone()
        };
        if stage == Stage::Fleet {
            own.kafka.group_id += "-fleet";
        }
        own
    }
}

pub(super) fn check(stages: &[Stage]) -> Result<(), ConfigError> {
    let once = |stage| stages.iter().filter(|own| **own == stage).count() <= 1;
    if !stages.is_empty() && once(Stage::Host) && once(Stage::Fleet) {
        return Ok(());
    }
    let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
    Err(ConfigError::Value {
        key: "stages",
        expected: "\"host\", \"fleet\", or both",
        found: format!("{names:?}"),
    })
}
