//! Finds the schema of a fingerprint this program was not built with, in the topic `dogwatch.schemas`.
//!
//! Sensors put their schemas there before their first record, so "the topic read to its present end
//! and not found" is an answer, not a matter of waiting longer. Answers are kept: schemas for ever,
//! "not found" for [`ABSENCE_REMEMBERED`], so that a stream of nonsense does not ask the broker each step.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dogwatch_kafka::{Brokers, Fault};
use dogwatch_schemas::Fingerprint;
use rdkafka::message::Message;

use crate::whole_topic::WholeTopic;

/// How long a fingerprint that was not found is not looked for again.
pub const ABSENCE_REMEMBERED: Duration = Duration::from_secs(5);

/// Most absent fingerprints remembered; beyond it all are forgotten and asked for again.
const ABSENT_MAX: usize = 10_000;

/// Most schemas kept: far more than sensors have versions, little enough to hold (about 20 KiB each).
const SCHEMAS_MAX: usize = 1_000;

/// Reads the topic of schemas and remembers what it holds.
pub struct SchemaLookup {
    topic: WholeTopic,
    schemas: HashMap<Fingerprint, String>,
    absent: HashMap<Fingerprint, Instant>,
    /// Schemas that stand there and cannot be used, and why.
    unusable: HashMap<Fingerprint, String>,
}

impl SchemaLookup {
    /// Opens the topic and reads it to its end. The group's name is given for the brokers' rights alone.
    ///
    /// # Errors
    /// [`Fault`] when the topic cannot be read.
    pub fn open(brokers: &Brokers, group_id: &str, topic: String) -> Result<Self, Fault> {
        let mut lookup = Self {
            topic: WholeTopic::open(brokers, group_id, topic)?,
            schemas: HashMap::new(),
            absent: HashMap::new(),
            unusable: HashMap::new(),
        };
        lookup.read_to_end()?;
        Ok(lookup)
    }

    /// The topic that it reads.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.name()
    }

    /// Says whether a schema stands in the topic as far as it was read.
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.schemas.contains_key(&fingerprint)
    }

    /// Looks schemas up, reading the topic on to its present end when one is not known yet.
    /// Returns those that were found.
    ///
    /// # Errors
    /// [`Fault`] when the topic cannot be read within [`dogwatch_kafka::PATIENCE`]; nothing can be said then.
    pub fn find(&mut self, wanted: &[Fingerprint]) -> Result<Vec<(Fingerprint, &str)>, Fault> {
        let unknown = |lookup: &Self, fingerprint: &Fingerprint| {
            let absent = lookup.absent.get(fingerprint);
            !lookup.holds(*fingerprint)
                && !lookup.unusable.contains_key(fingerprint)
                && absent.is_none_or(|since| since.elapsed() > ABSENCE_REMEMBERED)
        };
        if wanted.iter().any(|fingerprint| unknown(self, fingerprint)) {
            self.read_to_end()?;
        }
        for fingerprint in wanted {
            if unknown(self, fingerprint) {
                if self.absent.len() >= ABSENT_MAX {
                    self.absent.clear();
                }
                self.absent.insert(*fingerprint, Instant::now());
            }
        }
        let found = |fingerprint: &Fingerprint| {
            Some((*fingerprint, self.schemas.get(fingerprint)?.as_str()))
        };
        Ok(wanted.iter().filter_map(found).collect())
    }

    /// Takes what the client has to log; between look-ups nobody else does.
    pub fn tend(&self) {
        self.topic.tend();
    }

    /// Forgets a schema that cannot be used, but for the reason: it is not found any more.
    pub fn discard(&mut self, fingerprint: Fingerprint, reason: String) {
        self.schemas.remove(&fingerprint);
        if self.unusable.len() < SCHEMAS_MAX {
            self.unusable.insert(fingerprint, reason);
        }
    }

    /// The schemas that stand in the topic and cannot be used, each with the reason.
    #[must_use]
    pub fn unusable(&self) -> &HashMap<Fingerprint, String> {
        &self.unusable
    }

    /// Reads on to the present end.
    fn read_to_end(&mut self) -> Result<(), Fault> {
        let Self { topic, schemas, .. } = self;
        let name = topic.name().to_owned();
        topic.read_to_end(|message| {
            if let Some(schema) = message.payload() {
                take(&name, schemas, String::from_utf8_lossy(schema).into_owned());
            }
        })
    }
}

fn take(topic: &str, schemas: &mut HashMap<Fingerprint, String>, schema: String) {
    let parsed = match apache_avro::Schema::parse_str(&schema) {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(topic, %error, "a record is not an Avro schema, passed over");
            return;
        }
    };
    if schemas.len() < SCHEMAS_MAX {
        // The key is what somebody wrote; the fingerprint is what the schema is.
        let fingerprint = dogwatch_schemas::framing::fingerprint_of(&parsed);
        schemas.insert(fingerprint, schema);
    } else {
        tracing::error!(
            topic,
            SCHEMAS_MAX,
            "too many schemas, a further one is not kept"
        );
    }
}
