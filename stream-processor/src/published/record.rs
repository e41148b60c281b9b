//! A set as a record: what is said of it, who says so, and its files.
//!
//! ```text
//! dogwatch-detections 1
//! ed25519 <public key> <signature of the first and the third line>      or      unsigned
//! {"topic":"dogwatch.detections","number":7,..,"sha256":"<of the rest>"}
//! {"execution/shell.sql":"-- title = ..", ..}
//! ```
//! All of it is hostile until the signature stands: lines are split and hashed, nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::Epoch;
use crate::config::{Caps, STATE_BYTES};
use crate::detect::{Origin, Sources, hex};
use crate::signing::{PublicKey, SecretKey};

/// The first line.
const FORM: &str = "dogwatch-detections 1";
/// The second one, where nobody has signed.
const UNSIGNED: &str = "unsigned";
/// How the second one begins otherwise.
const SIGNED: &str = "ed25519";
/// Most bytes of a record's value: the topic takes 8 MiB with key and batch, and so does a producer.
const BYTES_MAX: usize = (8 << 20) - (64 << 10);

/// Most letters of who has published a set.
const BY_MAX: usize = 120;

/// What is said of a set, and signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The topic it is published in: in another one it says nothing.
    pub topic: String,
    /// Its number, and when the topic's first set was published.
    #[serde(flatten)]
    pub epoch: Epoch,
    /// Who published it.
    pub by: String,
    /// When, by their clock, milliseconds.
    pub at: i64,
    /// The number of the set that it is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// What its windows may hold.
    #[serde(flatten)]
    pub caps: Caps,
    /// How many detections it has.
    pub detections: usize,
    /// The hash that processors tell of it.
    pub set: String,
    /// The SHA-256 of its files as they stand below.
    #[serde(default)]
    sha256: String,
}

impl Label {
    /// Of a set with so many detections, in nobody's name.
    pub(super) fn new(topic: &str, epoch: Epoch, at: i64, set: (usize, &str)) -> Self {
        Self {
            topic: topic.to_owned(),
            epoch,
            by: String::new(),
            at,
            again: None,
            caps: Caps {
                keys_max: 1,
                state_bytes_max: STATE_BYTES,
            },
            detections: set.0,
            set: set.1.to_owned(),
            sha256: String::new(),
        }
    }
}

/// A published set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// What is said of it.
    pub label: Label,
    /// The key that it is signed with.
    pub signed_with: Option<PublicKey>,
    files: BTreeMap<String, String>,
}

/// Why a record is not used, or a set not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// It does not fit into a record.
    #[error("the set has {bytes} bytes, and {BYTES_MAX} fit into a record: make its lists smaller")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Written by a newer version, or no set at all.
    #[error("it is no set of detections in a form that this version reads: {0:?}")]
    OtherForm(String),
    /// It is not what was written.
    #[error("it is damaged: {0}; publish the set again")]
    Damaged(String),
    /// Nobody has signed it.
    #[error("it is not signed, and detections.trusted_keys asks for that: publish it with --key")]
    Unsigned,
    /// Somebody unknown has signed it.
    #[error("it is signed with {0}, which is not among detections.trusted_keys")]
    Untrusted(String),
    /// The signature is of something else.
    #[error("its signature is not of what it says: it was changed on its way, or forged")]
    Forged,
    /// It was published elsewhere.
    #[error("it was published in {found}, and copied here")]
    OtherTopic {
        /// Where.
        found: String,
    },
    /// It is of before.
    #[error("it is set {found} of before, and set {newest} is there: nothing goes back by itself")]
    Older {
        /// Its number.
        found: Epoch,
        /// The newest one's.
        newest: Epoch,
    },
    /// Another one has its number.
    #[error("{by} published another set {found} at the same time, and that one was first")]
    Taken {
        /// Its number.
        found: Epoch,
        /// Who published the first one.
        by: String,
    },
}

impl Set {
    /// A set that is about to be written.
    pub(super) fn new(label: Label, files: BTreeMap<String, String>) -> Self {
        Self {
            label,
            signed_with: None,
            files,
        }
    }

    /// Whether it is the one that was written.
    pub(super) fn is_as_written(&self, written: &Self) -> bool {
        let said = |set: &Self| (set.label.epoch, set.label.at, set.label.by.clone());
        said(self) == said(written) && self.files == written.files
    }

    /// Its files, as they are compiled.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let Label {
            topic,
            epoch,
            by,
            at,
            again,
            caps,
            ..
        } = &self.label;
        let origin = Origin {
            epoch: *epoch,
            by: by.clone(),
            at: *at,
            again: *again,
            signed_with: self.signed_with.map(|key| key.to_string()),
            caps: *caps,
        };
        Sources::of_set(topic, origin, self.files.clone())
    }

    /// Writes it as a record's value.
    ///
    /// # Errors
    /// [`SetError::TooLarge`].
    pub(super) fn write(&self, key: Option<&SecretKey>) -> Result<Vec<u8>, SetError> {
        let body = json(&self.files);
        let label = Label {
            sha256: hex(&Sha256::digest(&body)),
            ..self.label.clone()
        };
        let label = json(&label);
        let by = match key {
            None => UNSIGNED.to_owned(),
            Some(key) => {
                let (public, signature) = (key.public(), key.sign(&signed(&label)));
                format!("{SIGNED} {public} {signature}")
            }
        };
        let value = [FORM.as_bytes(), by.as_bytes(), &label, &body].join(&b'\n');
        match value.len() {
            bytes if bytes > BYTES_MAX => Err(SetError::TooLarge { bytes }),
            _ => Ok(value),
        }
    }

    /// Reads it from a record's value of a topic. Where keys are trusted, one of them must have signed it.
    ///
    /// # Errors
    /// [`SetError`] says what is wrong with it.
    pub(super) fn read(value: &[u8], topic: &str, trusted: &[PublicKey]) -> Result<Self, SetError> {
        if value.len() > BYTES_MAX {
            return Err(SetError::TooLarge { bytes: value.len() });
        }
        let mut parts = value.splitn(4, |byte| *byte == b'\n');
        let mut part = || parts.next().unwrap_or_default();
        let (form, by, label, body) = (part(), part(), part(), part());
        if form != FORM.as_bytes() {
            let found = String::from_utf8_lossy(&form[..form.len().min(80)]);
            return Err(SetError::OtherForm(found.into_owned()));
        }
        let signed_with = signer(by, label)?;
        match signed_with {
            None if !trusted.is_empty() => return Err(SetError::Unsigned),
            Some(key) if !trusted.is_empty() && !trusted.contains(&key) => {
                return Err(SetError::Untrusted(key.to_string()));
            }
            _ => {}
        }
        let damaged = |error: serde_json::Error| SetError::Damaged(error.to_string());
        let mut label: Label = serde_json::from_slice(label).map_err(damaged)?;
        label.by = said(&label.by);
        if !label.caps.allowed() {
            let reason = format!("its caps are {:?}", label.caps);
            return Err(SetError::Damaged(reason));
        }
        if hex(&Sha256::digest(body)) != label.sha256 {
            let reason = "its files are not those that were published".to_owned();
            return Err(SetError::Damaged(reason));
        }
        if label.topic != topic {
            return Err(SetError::OtherTopic { found: label.topic });
        }
        Ok(Self {
            files: serde_json::from_slice(body).map_err(damaged)?,
            label,
            signed_with,
        })
    }
}

/// Who has signed a label, by the line that says so; none where nobody has.
fn signer(by: &[u8], label: &[u8]) -> Result<Option<PublicKey>, SetError> {
    let no_line = || SetError::Damaged("the line of its signature cannot be read".to_owned());
    let by = std::str::from_utf8(by).map_err(|_| no_line())?;
    if by == UNSIGNED {
        return Ok(None);
    }
    let [SIGNED, key, signature] = by.split(' ').collect::<Vec<_>>()[..] else {
        return Err(no_line());
    };
    let key: PublicKey = key.parse().map_err(|_| no_line())?;
    match key.signed(&signed(label), signature) {
        true => Ok(Some(key)),
        false => Err(SetError::Forged),
    }
}

/// What is signed.
fn signed(label: &[u8]) -> Vec<u8> {
    [FORM.as_bytes(), label].join(&b'\n')
}

/// What somebody says of themselves, as it may be printed.
pub(super) fn said(by: &str) -> String {
    let letters = by.chars().filter(|letter| !letter.is_control());
    letters.take(BY_MAX).collect()
}

fn json(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).expect("texts and numbers are plain data")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const TOPIC: &str = "dogwatch.detections";

    pub fn set(began: i64, number: u64) -> Set {
        let label = Label::new(TOPIC, Epoch { began, number }, 5, (1, "0123"));
        let files = BTreeMap::from([("a/x.sql".to_owned(), format!("-- {number}\nSELECT"))]);
        Set::new(label, files)
    }

    #[test]
    fn a_set_comes_back_with_who_signed_it() {
        let (key, other) = (SecretKey::draw(), SecretKey::draw());
        let trusted = [key.public()];
        let plain = set(1, 7).write(None).expect("a record");
        let signed = set(1, 7).write(Some(&key)).expect("a record");
        let foreign = set(1, 7).write(Some(&other)).expect("a record");
        let read = |value: &[u8], trusted: &[PublicKey]| Set::read(value, TOPIC, trusted);
        for (value, by) in [(&plain, None), (&signed, Some(key.public()))] {
            let found = read(value, &[]).expect("a set");
            assert_eq!((found.signed_with, &found.files), (by, &set(1, 7).files));
            assert_eq!(
                found.label.epoch,
                Epoch {
                    began: 1,
                    number: 7
                }
            );
        }
        assert!(read(&signed, &trusted).is_ok());
        let mut loud = set(1, 7);
        loud.label.by = format!("\u{1b}[2Jalice{}", "!".repeat(500));
        let heard = read(&loud.write(None).expect("a record"), &[]).expect("a set");
        assert_eq!(heard.label.by.len(), BY_MAX);
        assert!(heard.label.by.starts_with("[2Jalice!"));
        assert_eq!(read(&plain, &trusted), Err(SetError::Unsigned));
        let foreign = read(&foreign, &trusted);
        assert_eq!(
            foreign,
            Err(SetError::Untrusted(other.public().to_string()))
        );
        let elsewhere = Set::read(&signed, "test.detections", &trusted);
        assert!(matches!(elsewhere, Err(SetError::OtherTopic { .. })));
    }

    #[test]
    fn no_byte_of_a_signed_set_can_be_changed() {
        let key = SecretKey::draw();
        let value = set(1, 7).write(Some(&key)).expect("a record");
        let trusted = [key.public()];
        for place in 0..value.len() {
            let mut other = value.clone();
            other[place] ^= 1;
            assert!(Set::read(&other, TOPIC, &trusted).is_err(), "byte {place}");
            let cut = Set::read(&value[..place], TOPIC, &trusted);
            assert!(cut.is_err(), "cut at {place}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_sent() {
        let mut large = set(1, 1);
        let text = "x".repeat(BYTES_MAX);
        large.files.insert("lists/l.csv".to_owned(), text);
        assert!(matches!(large.write(None), Err(SetError::TooLarge { .. })));
        let read = Set::read(&vec![b'x'; BYTES_MAX + 1], TOPIC, &[]);
        assert!(matches!(read, Err(SetError::TooLarge { .. })));
    }
}
