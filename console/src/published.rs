//! `dogwatch detections publish`, `rollback`, `loaded`, `list --kafka` and `keygen`: one set of detections for all processors.
//!
//! The work is the stream processor's; here it becomes text and an exit code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dogwatch_kafka::{Fault, REACH, reach};
use dogwatch_settings::Flag;
use dogwatch_stream_processor::config::{Config, ConfigError};
use dogwatch_stream_processor::published::{self, Asked, Done, Loaded, PublishError, Runs};
use dogwatch_stream_processor::signing::{KeyError, SecretKey};

use crate::cli::{Brokers, Publishing};
use crate::detections::Report;

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The set was not published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// A key that cannot be read.
    #[error("could not read {}: {source}", file.display())]
    Unreadable {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key that is none.
    #[error("{}: {source}", file.display())]
    Key {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// A key that cannot be written.
    #[error("could not make a key in {}: {source}; name a file that is not there yet", file.display())]
    NotMade {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl PublishedError {
    /// The program's exit code: 1 failure while running, 2 what was asked for cannot be, 3 environment.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Publish(error) => error.exit_code(),
            Self::Kafka(fault) if fault.environment() => 3,
            Self::Kafka(_) | Self::NotMade { .. } => 1,
            Self::Config(_) | Self::Unreadable { .. } | Self::Key { .. } => 2,
        }
    }
}

impl Brokers {
    /// Whether brokers are named.
    #[must_use]
    pub fn named(&self) -> bool {
        self.config.is_some() || self.kafka.is_some()
    }

    /// The settings, once the brokers have answered.
    fn reached(&self) -> Result<Config, PublishedError> {
        let flag = |servers| ("kafka.bootstrap_servers", servers);
        let flags: Vec<Flag> = self.kafka.clone().map(flag).into_iter().collect();
        let config = Config::load(self.config.as_deref(), &flags)?;
        reach(&config.kafka.brokers(), REACH)?;
        Ok(config)
    }
}

/// Publishes a folder.
///
/// # Errors
/// [`PublishedError`] names what is wrong, and the mend.
pub fn publish(folder: &Path, how: &Publishing) -> Result<Report, PublishedError> {
    put(how, |config, asked| {
        published::publish(config, folder, asked)
    })
}

/// Publishes a set of before once more.
///
/// # Errors
/// As [`publish`].
pub fn roll_back(number: u64, how: &Publishing) -> Result<Report, PublishedError> {
    put(how, |config, asked| {
        published::roll_back(config, number, asked)
    })
}

fn put(
    how: &Publishing,
    put: impl Fn(&Config, &Asked<'_>) -> Result<Done, PublishError>,
) -> Result<Report, PublishedError> {
    let key = how.key.as_deref().map(read_key).transpose()?;
    let config = how.brokers.reached()?;
    let asked = Asked {
        by: who(),
        key: key.as_ref(),
        force: how.force,
        only_tell: how.dry_run,
    };
    let done = put(&config, &asked)?;
    Ok(Report {
        text: told(&done),
        passed: true,
    })
}

/// Says what was done.
fn told(done: &Done) -> String {
    let mut text = String::new();
    if let Some(topic) = &done.topic_made {
        let _ = writeln!(text, "topic {topic} made");
    }
    if let Some(difference) = &done.difference {
        let before = match done.before {
            Some(number) => format!("since set {number}"),
            None => "no set before".to_owned(),
        };
        let _ = writeln!(text, "{before}: {difference}");
    }
    let number = done.number.unwrap_or_default();
    let _ = match (done.published, &done.difference) {
        (true, _) => writeln!(
            text,
            "set {number} published: {} detections{}",
            done.detections,
            match done.signed {
                true => "",
                false => "; it is not signed, so processors with detections.trusted_keys refuse it",
            }
        ),
        (false, Some(_)) => writeln!(text, "not published: it was only asked what changes"),
        (false, None) => writeln!(text, "nothing changes: set {number} is the same"),
    };
    text
}

/// Prints the sets that are published, the newest first.
///
/// # Errors
/// As [`publish`].
pub fn list(brokers: &Brokers) -> Result<Report, PublishedError> {
    let config = brokers.reached()?;
    let shelf = published::history(&config)?;
    let mut text = String::new();
    for set in shelf.sets().rev() {
        let label = &set.label;
        let at = dogwatch_schemas::time::text(label.at.saturating_mul(1_000_000));
        let at = at.split('.').next().unwrap_or_default();
        let signed = match set.signed_with {
            Some(key) => format!("signed with {}", &key.to_string()[..16]),
            None => "not signed".to_owned(),
        };
        let again = label.again.map(|number| format!(", set {number} again"));
        let _ = writeln!(
            text,
            "{:>4}  {at}Z  {}  {:>4} detections  {}, {signed}{}",
            label.epoch.number,
            label.set,
            label.detections,
            label.by,
            again.unwrap_or_default()
        );
    }
    if text.is_empty() {
        text = "no set is published: dogwatch detections publish DIR\n".to_owned();
    }
    if let Some(trouble) = shelf.trouble() {
        let _ = writeln!(text, "{trouble}");
    }
    Ok(Report {
        passed: shelf.trouble().is_none(),
        text,
    })
}

/// Prints what the partitions were last run with.
///
/// # Errors
/// As [`publish`].
pub fn loaded(brokers: &Brokers) -> Result<Report, PublishedError> {
    let config = brokers.reached()?;
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Runs { partition, ran, .. } in Loaded::open(&config)?.look()? {
        let set = match ran {
            None => "nothing that is known".to_owned(),
            Some(ran) => match (ran.epoch, ran.folder) {
                (Some(epoch), false) => format!("set {epoch} ({})", ran.set),
                (Some(epoch), true) => format!("a folder ({}), after set {epoch}", ran.set),
                (None, _) => format!("a folder ({})", ran.set),
            },
        };
        sets.entry(set).or_default().push(partition.to_string());
    }
    let mut text = String::new();
    for (set, partitions) in &sets {
        let _ = writeln!(text, "{set}: partitions {}", partitions.join(", "));
    }
    if text.is_empty() {
        text = "the topic of events is not there yet, so nothing was run\n".to_owned();
    }
    let newest = published::history(&config)?;
    if let Some(newest) = newest.newest() {
        let _ = writeln!(
            text,
            "set {} ({}) is the newest that is published",
            newest.label.epoch, newest.label.set
        );
    }
    Ok(Report { text, passed: true })
}

/// Makes a key for signing.
///
/// # Errors
/// [`PublishedError::NotMade`].
pub fn make_key(file: &Path) -> Result<Report, PublishedError> {
    let public = published::make_key(file).map_err(|source| PublishedError::NotMade {
        file: file.to_owned(),
        source,
    })?;
    Ok(Report {
        text: format!(
            "the key is in {}: keep it\nfor processors: [detections] trusted_keys = [\"{public}\"]\n",
            file.display()
        ),
        passed: true,
    })
}

fn read_key(file: &Path) -> Result<SecretKey, PublishedError> {
    let named = file.to_owned();
    let text = std::fs::read_to_string(file).map_err(|source| PublishedError::Unreadable {
        file: named.clone(),
        source,
    })?;
    SecretKey::of_pem(&text).map_err(|source| PublishedError::Key {
        file: named,
        source,
    })
}

/// Who this is: user and machine.
fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = user.unwrap_or_else(|| "somebody".to_owned());
    format!("{user}@{}", machine.trim())
}
