//! Sets of detections that are published in the topic `dogwatch.detections`, for all processors at once.
//!
//! ```text
//! folder ─► compile ─► difference ─► sign ─► one record, under the next number ─► read back        dogwatch detections publish
//!                                                  │
//! Shelf: form? signature? newer? ◄─────────────────┘ each second                                    every processor
//!   └► Sources ─► as a folder that has changed
//! ```
//! A set is one record, so it is there whole or not at all. Its number only grows: going back to set 5 is publishing its
//! files again as set 9. What is not newer than what runs is passed over, so a record that somebody copies from before
//! changes nothing; a topic that was made anew begins later than the one before, and all its sets are newer.

use dogwatch_kafka::Fault;
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::message::Message;

use crate::config::Config;
use crate::detect::Sources;
use crate::whole_topic::WholeTopic;

mod loaded;
mod publish;
mod record;
mod shelf;

pub use loaded::{Loaded, Runs};
pub use publish::{Asked, Done, PublishError, make_key, publish, roll_back};
pub use record::{Label, Set, SetError};
pub use shelf::Shelf;

/// How many sets are kept.
pub const KEPT: usize = 10;

/// What is read of the topic, as a watch over a folder finds it: a set, or why there is none.
pub type Found = Result<Sources, String>;

/// The topic, read on at each look.
pub struct Feed {
    topic: WholeTopic,
    shelf: Shelf,
    /// What was found at the last look that reached the brokers.
    last: Found,
}

impl Feed {
    /// Opens the topic and reads it to its end.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    pub fn open(config: &Config) -> Result<Self, Fault> {
        let topic = name(config);
        let brokers = config.kafka.brokers();
        let mut feed = Self {
            topic: WholeTopic::open(&brokers, &config.kafka.group_id, topic.clone())?,
            shelf: Shelf::new(topic, config.trusted_keys.clone(), 1),
            last: Err(String::new()),
        };
        feed.read()?;
        Ok(feed)
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        self.topic.name()
    }

    /// The set to begin with, whatever came after it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn first(&self) -> Found {
        let newest = self.shelf.newest().map(Set::sources);
        newest.map_or_else(|| self.last.clone(), Ok)
    }

    /// Reads on to the present end: the set that is to run, or why what runs goes on. Brokers that do not answer change
    /// nothing.
    pub fn look(&mut self) -> Found {
        if let Err(fault) = self.read() {
            if !fault.is_final() {
                tracing::warn!(%fault, "could not look for published detections, trying on");
                return self.last.clone();
            }
            self.last = Err(fault.to_string());
        }
        self.last.clone()
    }

    fn read(&mut self) -> Result<(), Fault> {
        let topic = self.topic.name().to_owned();
        read_on(&mut self.topic, &mut self.shelf, |offset, error| {
            tracing::warn!(topic, offset, %error, "a published set is not used");
        })?;
        if !self.topic.exists()? {
            self.last = Err(missing(&topic));
            return Ok(());
        }
        self.last = match (self.shelf.trouble(), self.shelf.newest()) {
            (Some(trouble), _) => Err(trouble.to_owned()),
            (None, Some(set)) => Ok(set.sources()),
            // It was there: what runs goes on.
            (None, None) if self.last.is_ok() => return Ok(()),
            (None, None) => Err(missing(&topic)),
        };
        Ok(())
    }
}

/// Reads all sets that are kept.
///
/// # Errors
/// [`Fault`] when the topic cannot be read.
pub fn history(config: &Config) -> Result<Shelf, Fault> {
    let (brokers, topic) = (config.kafka.brokers(), name(config));
    let mut shelf = Shelf::new(topic.clone(), config.trusted_keys.clone(), usize::MAX);
    let mut whole = WholeTopic::open(&brokers, &config.kafka.group_id, topic)?;
    if whole.exists()? {
        // Whoever asks tells it in its own words.
        read_on(&mut whole, &mut shelf, |_, _| {})?;
    }
    Ok(shelf)
}

/// Has a shelf take what has come to the topic; what is not used is told by its offset.
fn read_on(
    whole: &mut WholeTopic,
    shelf: &mut Shelf,
    mut tell: impl FnMut(i64, SetError),
) -> Result<(), Fault> {
    whole.read_to_end(|message| {
        if let Err(error) = shelf.take(message.key(), message.payload()) {
            tell(message.offset(), error);
        }
    })
}

/// The topic's name.
fn name(config: &Config) -> String {
    Topics::new(config.kafka.topic_prefix.as_str()).name(Topic::Detections)
}

fn missing(topic: &str) -> String {
    format!(
        "there is no set of detections in topic {topic}; publish one: dogwatch detections publish DIR"
    )
}
