//! The record of the exchange: what a source says of one second of its ingest, for whoever finishes windows of the fleet.
//!
//! ```text
//! "DWX" 1, or 2 of samples │ length of the head, 4 bytes, least first │ head: JSON │ payload of each part, one after the other
//! ```
//! A part is of one state, and says what its payload is: `states` is an Arrow IPC stream of partial states, whose columns are
//! named by what they are of, as in `dogwatch.state`. A payload of another kind is for another reader; whoever cannot read it
//! has a hole there.

use datafusion::common::{DataFusionError, Result, exec_err};
use dogwatch_schemas::topics::Topic;
use serde::{Deserialize, Serialize};

use crate::hosts::{Holes, Tick};

/// What a record begins with: its name and version.
const MAGIC: [u8; 4] = *b"DWX\x01";
/// The same of another table than events: who knows of events alone must not take it for theirs.
const MAGIC_OF_TABLE: [u8; 4] = *b"DWX\x02";
/// The payload of partial states.
pub(super) const STATES: &str = "states";

/// What a source says of one second of its ingest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The source: a topic, without the prefix of its cluster, and a partition of it.
    pub topic: String,
    pub partition: i32,
    /// The second.
    pub number: i64,
    /// The second before that had rows; none for the first of the source.
    pub previous: Option<i64>,
    /// How far all hosts of the source are: it sends nothing more for windows that are over by then.
    pub watermark: i64,
    /// Which of the second's records for its partition of the exchange it is, and how many there are.
    pub place: u32,
    pub places: u32,
    /// How many partitions of the exchange its source knows of.
    pub partitions: i32,
    /// The hashes of the states that its source kept for the whole second.
    pub carried: Vec<String>,
    /// Where its hosts said that events are lost.
    #[serde(default)]
    pub holes: Holes,
    pub parts: Vec<PartHead>,
}

/// What a second of a source is sent with.
#[derive(Debug, Clone)]
pub(super) struct Envelope<'a> {
    /// The topic of its source.
    pub topic: Topic,
    pub tick: &'a Tick,
    pub partitions: i32,
    pub carried: &'a [String],
}

/// Bytes of payloads from which on a record takes no further part: with one more it fits into any topic.
const RECORD_BYTES: usize = 256 << 10;

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartHead {
    /// The hash of what its state is of.
    pub state: String,
    /// What its payload is.
    pub payload: String,
    /// Bytes of that.
    pub bytes: usize,
    /// Where rows do not count for whoever has this state.
    #[serde(default)]
    pub holes: Holes,
}

/// A part of a record, or of what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub head: PartHead,
    pub payload: Vec<u8>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flush {
    pub head: Head,
    /// The payloads of its parts.
    pub payloads: Vec<Vec<u8>>,
}

impl Part {
    /// A part of partial states.
    pub fn of_states(state: &str, holes: Holes, payload: Vec<u8>) -> Self {
        let head = PartHead {
            state: state.to_owned(),
            payload: STATES.to_owned(),
            bytes: payload.len(),
            holes,
        };
        Self { head, payload }
    }
}

impl Flush {
    /// The records of a second that is over, at least one.
    pub fn all(envelope: &Envelope<'_>, parts: Vec<Part>) -> Vec<Self> {
        let mut records: Vec<Vec<Part>> = vec![Vec::new()];
        let mut bytes = 0;
        for part in parts {
            if bytes >= RECORD_BYTES {
                records.push(Vec::new());
                bytes = 0;
            }
            bytes += part.payload.len();
            if let Some(last) = records.last_mut() {
                last.push(part);
            }
        }
        let places = records.len() as u32;
        let records = (0..places).zip(records);
        let record = |(place, parts)| Self::new(envelope, (place, places), parts);
        records.map(record).collect()
    }

    fn new(envelope: &Envelope<'_>, (place, places): (u32, u32), parts: Vec<Part>) -> Self {
        let (parts, payloads) = parts
            .into_iter()
            .map(|part| (part.head, part.payload))
            .unzip();
        let tick = envelope.tick;
        let head = Head {
            topic: envelope.topic.suffix().to_owned(),
            partition: tick.partition,
            number: tick.number,
            previous: tick.previous,
            watermark: tick.watermark,
            place,
            places,
            partitions: envelope.partitions,
            carried: envelope.carried.to_vec(),
            holes: tick.holes.clone(),
            parts,
        };
        Self { head, payloads }
    }

    /// Its parts.
    pub fn parts(&self) -> impl Iterator<Item = (&PartHead, &[u8])> {
        let payloads = self.payloads.iter().map(Vec::as_slice);
        self.head.parts.iter().zip(payloads)
    }

    /// Writes it.
    ///
    /// # Errors
    /// When its head is no JSON, which none is.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head).map_err(external)?;
        let length = (head.len() as u32).to_le_bytes();
        let magic = match self.head.topic == Topic::Events.suffix() {
            true => MAGIC,
            false => MAGIC_OF_TABLE,
        };
        let mut record = [&magic[..], &length, &head].concat();
        self.payloads
            .iter()
            .for_each(|payload| record.extend(payload));
        Ok(record)
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is none of this version, or cut.
    pub fn decode(record: &[u8]) -> Result<Self> {
        let (head, mut rest) = split(record)?;
        let head: Head = serde_json::from_slice(head).map_err(external)?;
        let mut payloads = Vec::with_capacity(head.parts.len());
        for part in &head.parts {
            let Some((payload, after)) = rest.split_at_checked(part.bytes) else {
                return exec_err!(
                    "a record of the exchange is cut in a part of {}",
                    part.state
                );
            };
            payloads.push(payload.to_vec());
            rest = after;
        }
        if !rest.is_empty() {
            return exec_err!("a record of the exchange has {} bytes too many", rest.len());
        }
        Ok(Self { head, payloads })
    }
}

/// The head of a record, as JSON, and its payloads.
fn split(record: &[u8]) -> Result<(&[u8], &[u8])> {
    let Some((length, rest)) = record
        .strip_prefix(&MAGIC)
        .or_else(|| record.strip_prefix(&MAGIC_OF_TABLE))
        .and_then(<[u8]>::split_first_chunk)
    else {
        return exec_err!("no record of the exchange, or one of another version");
    };
    let length = u32::from_le_bytes(*length) as usize;
    match rest.split_at_checked(length) {
        Some(parts) => Ok(parts),
        None => exec_err!("a record of the exchange is cut in its head"),
    }
}

/// What the head of a record says of its source's topic.
#[derive(Deserialize)]
struct Source {
    topic: String,
}

/// The topic of a record's source, where it is one of ours.
pub(crate) fn topic_of(record: &[u8]) -> Option<Topic> {
    let (head, _) = split(record).ok()?;
    let source: Source = serde_json::from_slice(head).ok()?;
    Topic::named(&source.topic)
}

pub(super) fn external(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written_and_damage_is_told() {
        let mut holes = Holes::default();
        holes.note(5, 9, [("late_rows".into(), 2)].into());
        let tick = Tick {
            row: 3,
            partition: 7,
            number: 1_800_000_000,
            previous: Some(1_799_999_998),
            watermark: 1_799_999_990_000_000_001,
            holes: holes.clone(),
        };
        let parts = vec![
            Part::of_states("aa", holes, b"states".to_vec()),
            Part::of_states("bb", Holes::default(), Vec::new()),
        ];
        let carried = ["aa".to_owned()];
        let envelope = Envelope {
            topic: Topic::ContainerSamples,
            tick: &tick,
            partitions: 4,
            carried: &carried,
        };
        let flush = Flush::all(&envelope, parts).remove(0);
        let record = flush.encode().expect("a record");
        assert_eq!(Flush::decode(&record).expect("a record"), flush);
        assert_eq!(topic_of(&record), Some(Topic::ContainerSamples));
        assert_eq!(record[3], 2, "no record of events");
        for end in 0..record.len() {
            assert!(Flush::decode(&record[..end]).is_err(), "cut at {end}");
        }
        assert!(Flush::decode(&[&record[..], b"x"].concat()).is_err());
        let mut newer = record.clone();
        newer[3] = 3;
        let error = Flush::decode(&newer).expect_err("another version");
        assert!(error.to_string().contains("another version"), "{error}");

        let large = |_| Part::of_states("aa", Holes::default(), vec![0; RECORD_BYTES / 2]);
        let records = Flush::all(&envelope, (0..5).map(large).collect());
        let places = records.iter().map(|record| {
            let head = &record.head;
            (head.place, head.places, head.parts.len())
        });
        assert_eq!(
            places.collect::<Vec<_>>(),
            [(0, 3, 2), (1, 3, 2), (2, 3, 1)]
        );
    }
}
