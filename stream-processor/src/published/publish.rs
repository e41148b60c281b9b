//! Publishing a set: what a processor would refuse is refused before, and what changes is said.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dogwatch_kafka::topics::TopicError;
use dogwatch_kafka::{Fault, PATIENCE};

use super::record::{self, Label, Set, SetError};
use super::shelf::{self, Shelf};
use super::{KEPT, history, name};
use crate::alert::AlertMode;
use crate::config::{Caps, Config};
use crate::detect::{DetectionSet, LoadError, Refusal, Sources};
use crate::engine::{Engine, EngineError};
use crate::inventory::Inventory;
use crate::signing::SecretKey;
use crate::sink::{self, Outgoing};
use crate::topics;

/// Refusals in lines, those of one reason once.
fn each_once(refusals: &[Refusal]) -> String {
    let mut lines: Vec<(&Refusal, usize)> = Vec::new();
    for refusal in refusals {
        let alike = |(known, _): &&mut (&Refusal, usize)| {
            (&known.reason, &known.mend) == (&refusal.reason, &refusal.mend)
        };
        match lines.iter_mut().find(alike) {
            Some((_, more)) => *more += 1,
            None => lines.push((refusal, 0)),
        }
    }
    let line = |(refusal, more): (&Refusal, usize)| match more {
        0 => format!("\n  {refusal}"),
        1 => format!("\n  {refusal} (and one more file)"),
        more => format!("\n  {refusal} (and {more} more files)"),
    };
    lines.into_iter().map(line).collect()
}

/// How long who publishes the first set of a topic looks whether somebody else does the same.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How a set is to be published.
pub struct Asked<'a> {
    /// Who publishes it.
    pub by: String,
    /// What it is signed with.
    pub key: Option<&'a SecretKey>,
    /// Whether to publish it though much of what runs is lost, or nothing changes.
    pub force: bool,
    /// Whether to say what would change, and no more.
    pub only_tell: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The number of the set; that of the one before, where it was not published.
    pub number: Option<u64>,
    /// The number of the one before.
    pub before: Option<u64>,
    /// How many detections it has.
    pub detections: usize,
    /// What is other than in the one before, in words; none where nothing is.
    pub difference: Option<String>,
    /// Whether it was published.
    pub published: bool,
    /// Whether it is signed.
    pub signed: bool,
    /// The topic, where it was made for it.
    pub topic_made: Option<String>,
}

/// Why a set was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The folder cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Files of it are refused.
    #[error("not published: {} refused, and no processor could use {}:{}",
        if .0.len() == 1 { "a file is".to_owned() } else { format!("{} files are", .0.len()) },
        if .0.len() == 1 { "it" } else { "them" },
        each_once(.0))]
    Refused(Vec<Refusal>),
    /// It would not be signed, and those before are.
    #[error(
        "not published: set {number} is signed, and processors that trust keys would refuse one that is not; name a key with --key, or force it with --force where no processor has detections.trusted_keys"
    )]
    NotSigned {
        /// The set that is signed.
        number: u64,
    },
    /// It does not compile as a whole.
    #[error("not published: the detections do not compile together: {0}")]
    Engine(#[from] EngineError),
    /// It does not fit, or is not what it should be.
    #[error("not published: {0}")]
    Set(#[from] SetError),
    /// The brokers said no, or nothing.
    #[error(transparent)]
    Kafka(#[from] Fault),
    /// The topic is missing or not as it must be.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// More than half of what runs would be gone.
    #[error(
        "not published: {removed} of the {of} detections of set {number} would be gone ({names}); is {place} the right one? --force publishes it all the same"
    )]
    LosesTooMuch {
        /// How many would be gone.
        removed: usize,
        /// Of how many.
        of: usize,
        /// The number of the set that has them.
        number: u64,
        /// Their names.
        names: String,
        /// What was to be published.
        place: String,
    },
    /// There is no such set.
    #[error("there is no set {number} in topic {topic}; {there}")]
    NoSuchSet {
        /// The number.
        number: u64,
        /// The topic.
        topic: String,
        /// Those that are there.
        there: String,
    },
    /// Nobody would believe it.
    #[error(
        "not published: detections.trusted_keys asks for a signature: name the file of a key with --key"
    )]
    KeyNeeded,
    /// Nobody would believe this key.
    #[error(
        "not published: the key is not among detections.trusted_keys: add {public} there, of all processors, or use another key"
    )]
    NotTrusted {
        /// Its public half.
        public: String,
    },
    /// Somebody else was faster.
    #[error(
        "{by} published set {number} at the same time, and processors run that one: look at it with dogwatch detections list --kafka ADDRESS, and publish again"
    )]
    Overtaken {
        /// Who.
        by: String,
        /// The number.
        number: u64,
    },
}

impl PublishError {
    /// The program's exit code: 1 failure while running, 2 what was asked for cannot be, 3 environment.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Kafka(Fault::Options(_)) => 2,
            Self::Kafka(fault) if fault.environment() => 3,
            Self::Topic(error) if error.environment() => 3,
            Self::Kafka(_) | Self::Topic(_) | Self::Overtaken { .. } => 1,
            _ => 2,
        }
    }
}

/// Publishes the detections of a folder.
///
/// # Errors
/// [`PublishError`] says why not; then nothing was written, but for [`PublishError::Overtaken`].
pub fn publish(config: &Config, folder: &Path, asked: &Asked<'_>) -> Result<Done, PublishError> {
    check_key(config, asked)?;
    let sources = Sources::read(folder)?;
    let files = sources
        .texts()
        .map_err(|refusal| PublishError::Refused(vec![refusal]))?;
    let compiled = compile(&sources)?;
    let topic_made = match asked.only_tell {
        true => None,
        false => topics::prepare_published(config)?,
    };
    let shelf = history(config)?;
    let place = folder.display().to_string();
    let new = New {
        files,
        compiled,
        place,
        again: None,
        caps: config.windows.caps(),
    };
    let done = put(config, &shelf, new, asked)?;
    Ok(Done { topic_made, ..done })
}

/// Publishes the files of a set of before once more, under the next number.
///
/// # Errors
/// As [`publish`].
pub fn roll_back(config: &Config, number: u64, asked: &Asked<'_>) -> Result<Done, PublishError> {
    check_key(config, asked)?;
    let shelf = history(config)?;
    let set = shelf.numbered(number).ok_or_else(|| {
        let numbers: Vec<String> = shelf
            .sets()
            .map(|set| set.label.epoch.to_string())
            .collect();
        let there = match numbers.is_empty() {
            true => "there is none at all: dogwatch detections publish DIR".to_owned(),
            false => format!("there are {}", numbers.join(", ")),
        };
        let topic = name(config);
        PublishError::NoSuchSet {
            number,
            topic,
            there,
        }
    })?;
    let sources = set.sources();
    let files = sources
        .texts()
        .map_err(|refusal| PublishError::Refused(vec![refusal]))?;
    let new = New {
        files,
        compiled: compile(&sources)?,
        place: format!("set {number}"),
        again: Some(number),
        caps: set.label.caps,
    };
    put(config, &shelf, new, asked)
}

/// A set that is to be published.
struct New {
    files: BTreeMap<String, String>,
    compiled: Inventory,
    /// Where it is from.
    place: String,
    /// The number of the set that it is again.
    again: Option<u64>,
    /// What its windows may hold.
    caps: Caps,
}

fn check_key(config: &Config, asked: &Asked<'_>) -> Result<(), PublishError> {
    if config.trusted_keys.is_empty() || asked.only_tell {
        return Ok(());
    }
    let public = asked.key.ok_or(PublishError::KeyNeeded)?.public();
    match config.trusted_keys.contains(&public) {
        true => Ok(()),
        false => Err(PublishError::NotTrusted {
            public: public.to_string(),
        }),
    }
}

/// Compiles files as a processor would; what it would refuse is an error.
fn compile(sources: &Sources) -> Result<Inventory, PublishError> {
    let report = DetectionSet::load_sources(sources)?;
    if !report.refused.is_empty() {
        return Err(PublishError::Refused(report.refused));
    }
    let inventory = Inventory::new(&report.set, sources, &Inventory::default(), 0);
    Engine::new(report.set, AlertMode::Test)?;
    Ok(inventory)
}

/// Puts a set into the topic, unless it is the same as the newest or loses too much of it.
fn put(config: &Config, shelf: &Shelf, new: New, asked: &Asked<'_>) -> Result<Done, PublishError> {
    let newest = shelf.newest();
    let before = newest.map(|set| set.label.epoch.number);
    let now_runs = newest.map(running).transpose()?.unwrap_or_default();
    let difference = new.compiled.since(&now_runs);
    let removed = difference.removed.len();
    if let Some(number) = before
        && removed * 2 > now_runs.len()
        && !asked.force
        && !asked.only_tell
    {
        let mut names: Vec<String> = difference.removed.iter().take(5).cloned().collect();
        if removed > names.len() {
            names.push(format!("and {} more", removed - names.len()));
        }
        return Err(PublishError::LosesTooMuch {
            removed,
            of: now_runs.len(),
            number,
            names: names.join(", "),
            place: new.place,
        });
    }
    if let (Some(number), None, false, false) = (
        newest.filter(|set| set.signed_with.is_some()).and(before),
        asked.key,
        asked.force,
        asked.only_tell,
    ) {
        return Err(PublishError::NotSigned { number });
    }
    let caps = newest.and_then(|set| new.caps.changed(set.label.caps));
    let same = newest.is_some() && new.compiled.hash == now_runs.hash && caps.is_none();
    let words = [Some(difference.words()), caps];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let mut done = Done {
        number: before,
        before,
        detections: new.compiled.len(),
        difference: (!same).then(|| words.join("; ")),
        published: false,
        signed: asked.key.is_some(),
        topic_made: None,
    };
    if asked.only_tell || (same && !asked.force) {
        return Ok(done);
    }
    done.number = Some(write(config, shelf, new, asked)?);
    done.published = true;
    Ok(done)
}

/// What a set of the topic runs. Files that this version cannot use, which a set of another version may have, run nowhere here.
fn running(set: &Set) -> Result<Inventory, LoadError> {
    let sources = set.sources();
    let report = DetectionSet::load_sources(&sources)?;
    Ok(Inventory::new(
        &report.set,
        &sources,
        &Inventory::default(),
        0,
    ))
}

/// Writes a set, gives up those beyond the last ones, and looks whether it is the newest; returns its number.
fn write(config: &Config, shelf: &Shelf, new: New, asked: &Asked<'_>) -> Result<u64, PublishError> {
    let topic = name(config);
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    let epoch = shelf.next(at);
    let mut label = Label::new(&topic, epoch, at, (new.compiled.len(), &new.compiled.hash));
    (label.by, label.again) = (record::said(&asked.by), new.again);
    label.caps = new.caps;
    let set = Set::new(label, new.files);
    let outgoing = |key: String, value: Option<Vec<u8>>| Outgoing {
        partition: Some(0),
        value,
        ..Outgoing::new(&topic, key.as_bytes(), Vec::new())
    };
    let key = shelf::key(&set.label);
    let mut records = vec![outgoing(key.clone(), Some(set.write(asked.key)?))];
    let old = shelf.sets().rev().skip(KEPT - 1);
    records.extend(old.map(|set| outgoing(shelf::key(&set.label), None)));
    sink::deliver(config, &records, PATIENCE)?;
    if shelf.is_untouched() {
        // Who found the topic empty at the same moment writes a first set, too: the later of them by its clock is the newest.
        std::thread::sleep(FIRST_WAIT);
    }
    let shelf = history(config)?;
    let first = shelf.sets().find(|other| other.label.epoch == epoch);
    if first.is_some_and(|first| !first.is_as_written(&set)) {
        // Nobody reads it: it is taken away, so that nobody is told of it for ever.
        sink::deliver(config, &[outgoing(key, None)], PATIENCE)?;
    }
    match shelf.newest() {
        Some(newest) if newest.is_as_written(&set) => Ok(epoch.number),
        newest => Err(PublishError::Overtaken {
            by: newest.map_or_else(|| "somebody".to_owned(), |set| set.label.by.clone()),
            number: newest.map_or(epoch.number, |set| set.label.epoch.number),
        }),
    }
}

/// Makes a key for signing, in a new file that its owner alone may read; returns its public half.
///
/// # Errors
/// When the file is there or cannot be written.
pub fn make_key(file: &Path) -> std::io::Result<String> {
    let key = SecretKey::draw();
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    opened.write_all(key.to_pem().as_bytes())?;
    opened.sync_all()?;
    Ok(key.public().to_string())
}
