//! A step's records as they go to Kafka, encoded once and within the topics' limits.
//!
//! A record too large for its topic would fail its transaction at every retry. So sizes are checked
//! before the transaction begins: an alert's texts and lists are cut until it fits, and say so; a dead letter or late row gives up the end of its bytes, and a header says how many there were.
//! Pieces of state are small by the engine's promise, and the topic was checked to take them.

use std::collections::BTreeMap;

use dogwatch_schemas::framing;
use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::message::{Header, OwnedHeaders};

use crate::alert::size::fit;
use crate::checkpoint::{BASE_HEADER, Checkpoint, MANIFEST_KEY, key_of};
use crate::decode::{DeadLetter, InputRecord};
use crate::engine::LateRow;
use crate::step::{Partition, Step, class};
use crate::topics::TopicReport;
use crate::window::Flushed;

/// Room for key, headers and the batch's own header, in bytes.
const OVERHEAD: usize = 2_048;

/// Texts kept of a dead letter's error and key, in bytes.
const TEXT_BYTES_KEPT: usize = 512;

/// Names of detections kept in a header, in bytes.
const NAMES_BYTES_KEPT: usize = 1_024;

/// A record for Kafka.
#[derive(Debug)]
pub struct Outgoing {
    /// The topic's name.
    pub topic: String,
    /// The partition, where it is not the key that decides.
    pub partition: Option<i32>,
    /// Key; empty for none.
    pub key: Vec<u8>,
    /// Value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, where it has any.
    pub headers: Option<OwnedHeaders>,
    /// Whether somebody asks for its offset.
    pub placed: bool,
}

impl Outgoing {
    /// A record of which nothing is special.
    pub fn new(topic: &str, key: &[u8], value: Vec<u8>) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: None,
            key: key.to_vec(),
            value: Some(value),
            headers: None,
            placed: false,
        }
    }
}

/// A step's records.
#[derive(Debug, Default)]
pub struct Encoded {
    /// What it says, then what its tasks remember.
    pub records: Vec<Outgoing>,
    /// How many of the records say something.
    pub said: usize,
    /// Number of the first record of each checkpoint: a restore may begin there.
    pub firsts: BTreeMap<Partition, usize>,
}

impl Encoded {
    /// What the step says: alerts, dead letters, late rows and what the fleet is told.
    pub fn output(&self) -> &[Outgoing] {
        &self.records[..self.said]
    }

    /// What its tasks remember.
    pub fn state(&self) -> &[Outgoing] {
        &self.records[self.said..]
    }
}

/// Encodes steps.
#[derive(Debug)]
pub struct Encoder {
    alerts: String,
    dead_letters: String,
    late: String,
    state: String,
    exchange: String,
    names: Topics,
    alert_bytes_max: usize,
    dead_letter_bytes_max: usize,
    late_bytes_max: usize,
}

impl Encoder {
    /// Takes the topics' names and limits, and where tasks remember.
    pub fn new(names: Topics, state: Topic, limits: &TopicReport) -> Self {
        Self {
            alerts: names.name(Topic::Alerts),
            dead_letters: names.name(Topic::DeadLetters),
            late: names.name(Topic::Late),
            state: names.name(state),
            exchange: names.name(Topic::Exchange),
            names,
            alert_bytes_max: limits.alert_bytes_max.saturating_sub(OVERHEAD),
            dead_letter_bytes_max: limits.dead_letter_bytes_max.saturating_sub(OVERHEAD),
            late_bytes_max: limits.late_bytes_max.saturating_sub(OVERHEAD),
        }
    }

    /// Encodes what a step says and remembers; its checkpoints are moved out of it.
    pub fn encode(&self, step: &mut Step) -> Encoded {
        let alerts = step.alerts.iter().map(|alert| self.alert(alert));
        let dead_letters = step
            .dead_letters
            .iter()
            .map(|letter| self.dead_letter(letter));
        let late = step.late.iter().map(|row| self.late_row(row));
        let mut records: Vec<Outgoing> = alerts.chain(dead_letters).chain(late).collect();
        let flushed = std::mem::take(&mut step.exchange).into_iter();
        records.extend(flushed.map(|flushed| self.flushed(flushed)));
        let mut encoded = Encoded {
            said: records.len(),
            records,
            firsts: BTreeMap::new(),
        };
        for (partition, checkpoint) in &mut step.checkpoints {
            encoded.firsts.insert(*partition, encoded.records.len());
            self.checkpoint(*partition, checkpoint, &mut encoded.records);
        }
        encoded
    }

    fn checkpoint(&self, log: Partition, checkpoint: &mut Checkpoint, records: &mut Vec<Outgoing>) {
        let base = header(OwnedHeaders::new(), BASE_HEADER, &checkpoint.manifest.base);
        let first = records.len();
        let record = |key: &str, value: Option<Vec<u8>>| Outgoing {
            topic: self.state.clone(),
            partition: Some(log.1),
            key: key_of(log.0, key).into_bytes(),
            value,
            headers: Some(base.clone()),
            placed: false,
        };
        let pieces = std::mem::take(&mut checkpoint.records);
        records.extend(
            pieces
                .into_iter()
                .map(|piece| record(&piece.key, piece.value)),
        );
        let manifest = checkpoint.manifest.to_value();
        records.push(record(MANIFEST_KEY, Some(manifest)));
        records[first].placed = true;
    }

    fn flushed(&self, flushed: Flushed) -> Outgoing {
        let (topic, number) = flushed.source;
        let source = format!("{}/{number}", topic.suffix());
        Outgoing {
            partition: Some(flushed.partition),
            ..Outgoing::new(&self.exchange, source.as_bytes(), flushed.value)
        }
    }

    fn alert(&self, alert: &Alert) -> Outgoing {
        let mut value = Vec::new();
        alert.encode_framed(&mut value);
        if value.len() + alert.dedup_key.len() > self.alert_bytes_max {
            let mut smaller = alert.clone();
            if !fit(&mut smaller, self.alert_bytes_max) {
                return self.unsayable(alert, value);
            }
            value.clear();
            smaller.encode_framed(&mut value);
        }
        Outgoing::new(&self.alerts, alert.dedup_key.as_bytes(), value)
    }

    /// An alert that no cut makes small enough: its detection's own texts are too large.
    fn unsayable(&self, alert: &Alert, value: Vec<u8>) -> Outgoing {
        tracing::error!(alert_id = %alert.alert_id, detection = %alert.detection_id, bytes = value.len(),
            "alert is too large for its topic, sent to the dead letters");
        let reason = format!(
            "alert of detection {} has {} bytes",
            alert.detection_id,
            value.len()
        );
        let headers = [
            ("error_class", "alert_too_large".to_owned()),
            ("error", reason),
        ];
        self.letter(alert.dedup_key.as_bytes(), &value, headers)
    }

    fn dead_letter(&self, letter: &DeadLetter) -> Outgoing {
        let record = &letter.record;
        let mut about = self.origin(record);
        about.extend([
            ("error_class", class(letter).to_owned()),
            (
                "error",
                cut(&letter.error.to_string(), TEXT_BYTES_KEPT).to_owned(),
            ),
        ]);
        if let Ok((fingerprint, _)) = framing::split(&record.value) {
            about.push(("schema_fingerprint", fingerprint.to_string()));
        }
        self.letter(&record.key, &record.value, about)
    }

    fn late_row(&self, row: &LateRow) -> Outgoing {
        let mut about = self.origin(&row.record);
        about.extend([
            ("detections", names(&row.detections)),
            ("late_ms", (row.late_ns / 1_000_000).to_string()),
        ]);
        let (key, value) = (&row.record.key, &row.record.value);
        whole(&self.late, key, value, about, self.late_bytes_max)
    }

    fn origin(&self, record: &InputRecord) -> Vec<(&'static str, String)> {
        vec![
            ("topic", self.names.name(record.topic)),
            ("partition", record.partition.to_string()),
            ("offset", record.offset.to_string()),
        ]
    }

    fn letter(
        &self,
        key: &[u8],
        value: &[u8],
        about: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Outgoing {
        whole(
            &self.dead_letters,
            key,
            value,
            about,
            self.dead_letter_bytes_max,
        )
    }
}

/// A record handed on as it came, with headers that say what is the matter with it; the end is cut off when it must be.
fn whole(
    topic: &str,
    key: &[u8],
    value: &[u8],
    about: impl IntoIterator<Item = (&'static str, String)>,
    bytes_max: usize,
) -> Outgoing {
    let mut headers = OwnedHeaders::new();
    for (name, text) in about {
        headers = header(headers, name, &text);
    }
    // A key of a poisoned record may be as large as anything.
    let key = &key[..key.len().min(TEXT_BYTES_KEPT)];
    let room = bytes_max.saturating_sub(key.len());
    if value.len() > room {
        headers = header(headers, "truncated_from_bytes", &value.len().to_string());
    }
    Outgoing {
        headers: Some(headers),
        ..Outgoing::new(topic, key, value[..value.len().min(room)].to_vec())
    }
}

/// Names with commas between them; of too many, as many as have room and `...`.
fn names(of: &[String]) -> String {
    let all = of.join(",");
    if all.len() <= NAMES_BYTES_KEPT {
        return all;
    }
    let whole = cut(&all, NAMES_BYTES_KEPT)
        .rsplit_once(',')
        .map_or("", |(whole, _)| whole);
    format!("{whole},...")
}

fn header(headers: OwnedHeaders, key: &str, text: &str) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(text),
    })
}

/// The longest beginning of `text` that has at most `bytes_max` and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Inputs, Progress, StateRecord};
    use crate::decode::RejectError;
    use dogwatch_schemas::records::{AlertEvidence, AlertProcess};
    use rdkafka::message::Headers;

    fn encoder(bytes_max: usize) -> Encoder {
        let limits = TopicReport {
            created: Vec::new(),
            alert_bytes_max: bytes_max + OVERHEAD,
            dead_letter_bytes_max: bytes_max + OVERHEAD,
            late_bytes_max: bytes_max + OVERHEAD,
            state_bytes_max: 1_000_000,
            exchange_bytes_max: 1_000_000,
            exchange: crate::config::ExchangeTopics {
                partitions: 8,
                sources: 8,
            },
        };
        Encoder::new(Topics::new("dogwatch"), Topic::State, &limits)
    }

    fn alert() -> Alert {
        Alert {
            alert_id: "a".into(),
            dedup_key: "key".into(),
            row: "r".repeat(3_000).into(),
            evidence: vec![AlertEvidence {
                row: "e".repeat(5_000).into(),
                ..AlertEvidence::default()
            }],
            process: Some(AlertProcess {
                cmdline: Some("ü".repeat(2_000).into()),
                ..AlertProcess::default()
            }),
            ..Alert::default()
        }
    }

    fn sent(bytes_max: usize) -> Alert {
        let out = encoder(bytes_max).alert(&alert());
        let value = out.value.unwrap();
        assert!(value.len() <= bytes_max, "{} bytes", value.len());
        assert_eq!(out.topic, "dogwatch.alerts");
        Alert::decode_framed(&value).unwrap()
    }

    #[test]
    fn an_alert_gives_up_only_what_it_must() {
        assert_eq!(sent(20_000), alert());
        let cut = |text: &str| text.strip_suffix(" (truncated)").map(str::len);
        let smaller = sent(8_000);
        let cmdline = |alert: Alert| alert.process.unwrap().cmdline.unwrap();
        assert_eq!(cut(&smaller.evidence[0].row), Some(2_048));
        assert_eq!(cut(&smaller.row), Some(2_048));
        assert_eq!(cut(&cmdline(smaller)), Some(2_048));
        let short = cmdline(sent(1_500));
        assert_eq!(cut(&short), Some(128));
        assert!(short.ends_with("ü (truncated)"), "{short}");
    }

    #[test]
    fn an_alert_that_nothing_makes_small_enough_becomes_a_dead_letter() {
        let large = Alert {
            detection_description: "d".repeat(9_000).into(),
            ..alert()
        };
        let out = encoder(2_000).alert(&large);
        assert_eq!(out.topic, "dogwatch.dead-letters");
        assert_eq!(out.value.unwrap().len(), 2_000 - "key".len());
        let headers = out.headers.unwrap();
        assert_eq!(
            headers.get_as::<str>(0).unwrap().value,
            Some("alert_too_large")
        );
    }

    fn record(bytes: usize) -> InputRecord {
        InputRecord {
            topic: Topic::Events,
            partition: 3,
            offset: 77,
            ingest_ts_ns: None,
            key: "host".into(),
            value: vec![7; bytes].into(),
        }
    }

    fn texts(out: &Outgoing) -> Vec<(String, String)> {
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        let headers = out.headers.as_ref().unwrap();
        headers
            .iter()
            .map(|header| (header.key.to_owned(), text(header.value)))
            .collect()
    }

    fn assert_header(out: &Outgoing, name: &str, expected: &str) {
        let expected = (name.to_owned(), expected.to_owned());
        assert!(texts(out).contains(&expected), "{:?}", texts(out));
    }

    #[test]
    fn a_dead_letter_says_where_it_came_from_and_how_much_is_missing() {
        let letter = DeadLetter {
            record: record(500),
            error: RejectError::NoTable(Topic::Late),
        };
        let out = encoder(100).dead_letter(&letter);
        assert_eq!(out.value.as_ref().unwrap().len(), 96);
        assert_header(&out, "topic", "dogwatch.events");
        assert_header(&out, "partition", "3");
        assert_header(&out, "offset", "77");
        assert_header(&out, "truncated_from_bytes", "500");
    }

    #[test]
    fn a_late_row_is_its_original_and_says_for_whom_it_was_late() {
        let row = LateRow {
            record: record(50),
            detections: vec!["port_scan".to_owned(), "fork_bomb".to_owned()],
            late_ns: 2_500_000_000,
        };
        let out = encoder(100).late_row(&row);
        assert_eq!(
            (out.topic.as_str(), out.key.as_slice()),
            ("dogwatch.late", &b"host"[..])
        );
        assert_eq!(out.value.as_deref(), Some(&[7; 50][..]));
        assert_header(&out, "topic", "dogwatch.events");
        assert_header(&out, "partition", "3");
        assert_header(&out, "offset", "77");
        assert_header(&out, "detections", "port_scan,fork_bomb");
        assert_header(&out, "late_ms", "2500");

        let many = LateRow {
            record: record(500),
            detections: vec!["d".repeat(300); 9],
            late_ns: 0,
        };
        let out = encoder(100).late_row(&many);
        assert_header(
            &out,
            "detections",
            &format!("{0},{0},{0},...", "d".repeat(300)),
        );
        assert_header(&out, "truncated_from_bytes", "500");
    }

    #[test]
    fn a_checkpoint_goes_to_its_tasks_partition_and_ends_with_its_manifest() {
        let now = std::time::Instant::now();
        let piece = |key: &str, value: Option<&[u8]>| StateRecord {
            key: key.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        let pieces = vec![piece("a", Some(b"1")), piece("b", None)];
        let inputs = Inputs::from([(Topic::Events, 9)]);
        let checkpoint = Progress::begin(0, now).take(pieces, inputs, || "base".to_owned(), now);
        let manifest = checkpoint.manifest.to_value();
        let task = (Topic::Events, 3);
        let mut step = Step {
            alerts: vec![alert()],
            checkpoints: BTreeMap::from([(task, checkpoint)]),
            ..Step::default()
        };
        let encoded = encoder(20_000).encode(&mut step);
        assert_eq!(encoded.output().len(), 1);
        assert_eq!(encoded.firsts, BTreeMap::from([(task, 1)]));
        let state = encoded.state();
        let keys: Vec<&[u8]> = state.iter().map(|record| record.key.as_slice()).collect();
        assert_eq!(keys, [&b"a"[..], b"b", b"checkpoint"]);
        let values: Vec<_> = state.iter().map(|record| record.value.as_deref()).collect();
        assert_eq!(values, [Some(&b"1"[..]), None, Some(manifest.as_slice())]);
        for record in state {
            assert_eq!(
                (record.topic.as_str(), record.partition),
                ("dogwatch.state", Some(3))
            );
            assert_header(record, "base", "base");
        }
        assert!(state[0].placed && !state[1].placed && !encoded.output()[0].placed);
    }
}
