//! Brokers and topics as a sensor's or a processor's settings name them, for those who only read.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch_kafka::options::{self, OptionError};
use dogwatch_kafka::{BadAddress, Brokers, check_servers};
use dogwatch_schemas::topics::Topics;
use dogwatch_settings::{Flag, Program, Settings, SettingsError};
use serde::Deserialize;

/// The settings do not name brokers.
#[derive(Debug, thiserror::Error)]
pub enum BrokersError {
    /// The configuration was refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An option of the client was refused.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An address of a broker is none.
    #[error("kafka.bootstrap_servers: {0}")]
    Address(#[from] BadAddress),
}

/// What is needed of a sensor's or a processor's settings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    kafka: GivenKafka,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct GivenKafka {
    bootstrap_servers: String,
    topic_prefix: String,
    options: BTreeMap<String, String>,
}

impl Default for GivenKafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "dogwatch".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// Takes brokers and the topics' names from a file, the environment and a flag, the later over the earlier.
///
/// # Errors
/// [`BrokersError`] names what is wrong, and the mend.
pub fn brokers(
    file: Option<&Path>,
    servers: Option<&str>,
) -> Result<(Brokers, Topics), BrokersError> {
    let flag = |servers: &str| ("kafka.bootstrap_servers", servers.to_owned());
    let flags: Vec<Flag> = servers.map(flag).into_iter().collect();
    let settings = Settings::read(Program::Either, file, std::env::vars_os(), &flags)?;
    let Given { kafka } = settings.take()?;
    check_servers(&kafka.bootstrap_servers)?;
    let brokers = Brokers {
        servers: kafka.bootstrap_servers,
        options: options::checked(kafka.options, &[])?,
        client_id: "dogwatch-console".to_owned(),
    };
    Ok((brokers, Topics::new(kafka.topic_prefix)))
}
