//! A step's records as they go to Kafka, encoded once and within the topics' limits.
//!
//! A record too large for its topic would fail its transaction at every retry. So sizes are checked
//! before the transaction begins: an alert gives up its largest parts, each replaced by a note that
//! says so; a dead letter gives up the end of its bytes, and a header says how many there were.

use dogwatch_schemas::framing;
use dogwatch_schemas::records::{Alert, AlertProcess};
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::message::{Header, OwnedHeaders};

use crate::decode::DeadLetter;
use crate::step::{Step, class};
use crate::topics::TopicReport;

/// What stands for a part of an alert that was too large.
const TRUNCATED: &str = r#"{"truncated":true}"#;

/// Room for key, headers and the batch's own header, in bytes.
const OVERHEAD: usize = 2_048;

/// Texts kept of an alert's processes and message when they must be cut, in bytes.
const TEXT_BYTES_KEPT: usize = 512;

/// A record for Kafka.
#[derive(Debug)]
pub struct Outgoing {
    /// The topic's name.
    pub topic: String,
    /// Key; empty for none.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Headers, where it has any.
    pub headers: Option<OwnedHeaders>,
}

/// Encodes steps.
#[derive(Debug)]
pub struct Encoder {
    alerts: String,
    dead_letters: String,
    names: Topics,
    alert_bytes_max: usize,
    dead_letter_bytes_max: usize,
}

impl Encoder {
    /// Takes the topics' names and limits.
    pub fn new(names: Topics, limits: &TopicReport) -> Self {
        Self {
            alerts: names.name(Topic::Alerts),
            dead_letters: names.name(Topic::DeadLetters),
            names,
            alert_bytes_max: limits.alert_bytes_max.saturating_sub(OVERHEAD),
            dead_letter_bytes_max: limits.dead_letter_bytes_max.saturating_sub(OVERHEAD),
        }
    }

    /// Encodes what a step says.
    pub fn encode(&self, step: &Step) -> Vec<Outgoing> {
        let alerts = step.alerts.iter().map(|alert| self.alert(alert));
        let dead_letters = step
            .dead_letters
            .iter()
            .map(|letter| self.dead_letter(letter));
        alerts.chain(dead_letters).collect()
    }

    fn alert(&self, alert: &Alert) -> Outgoing {
        let mut value = Vec::new();
        alert.encode_framed(&mut value);
        if value.len() + alert.dedup_key.len() > self.alert_bytes_max {
            let Some(smaller) = fit(alert, self.alert_bytes_max) else {
                return self.unsayable(alert, value);
            };
            value = smaller;
        }
        Outgoing {
            topic: self.alerts.clone(),
            key: alert.dedup_key.as_bytes().to_vec(),
            value,
            headers: None,
        }
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
        let mut about = vec![
            ("topic", self.names.name(record.topic)),
            ("partition", record.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("error_class", class(letter).to_owned()),
            (
                "error",
                cut(&letter.error.to_string(), TEXT_BYTES_KEPT).to_owned(),
            ),
        ];
        if let Ok((fingerprint, _)) = framing::split(&record.value) {
            about.push(("schema_fingerprint", fingerprint.to_string()));
        }
        self.letter(&record.key, &record.value, about)
    }

    fn letter(
        &self,
        key: &[u8],
        value: &[u8],
        about: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Outgoing {
        let header = |headers: OwnedHeaders, key: &str, text: &str| {
            headers.insert(Header {
                key,
                value: Some(text),
            })
        };
        let mut headers = OwnedHeaders::new();
        for (name, text) in about {
            headers = header(headers, name, &text);
        }
        // A key of a poisoned record may be as large as anything.
        let key = &key[..key.len().min(TEXT_BYTES_KEPT)];
        let room = self.dead_letter_bytes_max.saturating_sub(key.len());
        if value.len() > room {
            headers = header(headers, "truncated_from_bytes", &value.len().to_string());
        }
        Outgoing {
            topic: self.dead_letters.clone(),
            key: key.to_vec(),
            value: value[..value.len().min(room)].to_vec(),
            headers: Some(headers),
        }
    }
}

/// Cuts an alert part by part, the least needed first, until it has at most `bytes_max`; none when it cannot.
fn fit(alert: &Alert, bytes_max: usize) -> Option<Vec<u8>> {
    let cuts: [fn(&mut Alert); 4] = [
        |alert| {
            alert
                .evidence
                .iter_mut()
                .for_each(|row| row.row = TRUNCATED.into())
        },
        |alert| alert.row = TRUNCATED.into(),
        |alert| {
            let processes = alert
                .process
                .iter_mut()
                .chain(&mut alert.ancestors)
                .chain(&mut alert.session);
            processes.for_each(shorten);
            alert.container_labels = None;
            alert.host_tags = None;
        },
        |alert| {
            alert.message = format!("{} (truncated)", cut(&alert.message, TEXT_BYTES_KEPT)).into()
        },
    ];
    let mut smaller = alert.clone();
    for cut in cuts {
        cut(&mut smaller);
        let mut value = Vec::new();
        smaller.encode_framed(&mut value);
        if value.len() + alert.dedup_key.len() <= bytes_max {
            return Some(value);
        }
    }
    None
}

fn shorten(process: &mut AlertProcess) {
    for text in [&mut process.cmdline, &mut process.exepath]
        .into_iter()
        .flatten()
    {
        if text.len() > TEXT_BYTES_KEPT {
            *text = format!("{} (truncated)", cut(text, TEXT_BYTES_KEPT)).into();
        }
    }
}

/// The longest beginning of `text` that has at most `bytes_max` and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{InputRecord, RejectError};
    use dogwatch_schemas::records::AlertEvidence;
    use rdkafka::message::Headers;

    fn encoder(bytes_max: usize) -> Encoder {
        let limits = TopicReport {
            created: Vec::new(),
            alert_bytes_max: bytes_max + OVERHEAD,
            dead_letter_bytes_max: bytes_max + OVERHEAD,
        };
        Encoder::new(Topics::new("dogwatch"), &limits)
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
        assert!(out.value.len() <= bytes_max, "{} bytes", out.value.len());
        assert_eq!(out.topic, "dogwatch.alerts");
        Alert::decode_framed(&out.value).unwrap()
    }

    #[test]
    fn an_alert_gives_up_only_what_it_must() {
        assert_eq!(sent(20_000), alert());
        let without_evidence = sent(8_000);
        assert_eq!(&*without_evidence.evidence[0].row, TRUNCATED);
        assert_eq!(without_evidence.row, alert().row);
        let without_row = sent(5_000);
        assert_eq!(&*without_row.row, TRUNCATED);
        assert_eq!(without_row.process, alert().process);
        let short = sent(1_500).process.unwrap().cmdline.unwrap();
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
        assert_eq!(out.value.len(), 2_000 - "key".len());
        let headers = out.headers.unwrap();
        assert_eq!(
            headers.get_as::<str>(0).unwrap().value,
            Some("alert_too_large")
        );
    }

    #[test]
    fn a_dead_letter_says_where_it_came_from_and_how_much_is_missing() {
        let record = InputRecord {
            topic: Topic::Events,
            partition: 3,
            offset: 77,
            ingest_ts_ns: None,
            key: "host".into(),
            value: vec![7; 500].into(),
        };
        let letter = DeadLetter {
            record,
            error: RejectError::NoTable(Topic::Late),
        };
        let out = encoder(100).dead_letter(&letter);
        assert_eq!(out.value.len(), 96);
        let headers = out.headers.unwrap();
        let texts: Vec<(&str, &str)> = headers
            .iter()
            .map(|header| {
                (
                    header.key,
                    std::str::from_utf8(header.value.unwrap()).unwrap(),
                )
            })
            .collect();
        assert!(texts.contains(&("topic", "dogwatch.events")));
        assert!(texts.contains(&("partition", "3")));
        assert!(texts.contains(&("offset", "77")));
        assert!(texts.contains(&("truncated_from_bytes", "500")));
    }
}
