//! What stands before a record's bytes and names the schema they were written with.
//!
//! Today that is Avro's single-object encoding: `C3 01`, the schema's CRC-64-AVRO fingerprint (8 bytes, little endian), the binary form.
//! [`Framing`] is an enum so that a registry's framing is one variant more.

use crate::canonical::canonical_form;
use apache_avro::Schema;
use std::fmt;

/// First bytes of an Avro single object.
const SINGLE_OBJECT_MARKER: [u8; 2] = [0xC3, 0x01];
/// Marker and fingerprint.
const SINGLE_OBJECT_HEADER_LEN: usize = 10;

/// How a message names its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Avro's single-object encoding.
    #[default]
    SingleObject,
}

impl Framing {
    /// Splits a message into its schema's fingerprint and the record's bytes.
    ///
    /// # Errors
    /// When the message is shorter than the header or does not start with the marker.
    pub fn split(self, message: &[u8]) -> Result<(Fingerprint, &[u8]), FramingError> {
        match self {
            Self::SingleObject => split_single_object(message),
        }
    }
}

/// CRC-64-AVRO of a schema's canonical form; shown as 16 hexadecimal digits, which is also its key in the topic of schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a message has no readable header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Fewer bytes than a header has.
    #[error(
        "message of {len} bytes is shorter than the {SINGLE_OBJECT_HEADER_LEN} bytes of its header"
    )]
    Short {
        /// Length of the message in bytes.
        len: usize,
    },
    /// The first two bytes are not C3 01.
    #[error("message starts with {:02x} {:02x}, not with Avro's single-object marker c3 01", found[0], found[1])]
    Marker {
        /// The first two bytes.
        found: [u8; 2],
    },
}

/// Splits a message framed the default way; see [`Framing::split`].
///
/// # Errors
/// When the message is shorter than the header or does not start with the marker.
pub fn split(message: &[u8]) -> Result<(Fingerprint, &[u8]), FramingError> {
    Framing::default().split(message)
}

/// Appends the header of a message whose record is written with this schema.
pub fn write_header(fingerprint: Fingerprint, out: &mut Vec<u8>) {
    out.extend_from_slice(&SINGLE_OBJECT_MARKER);
    out.extend_from_slice(&fingerprint.0.to_le_bytes());
}

/// Returns the fingerprint of a schema.
pub fn fingerprint_of(schema: &Schema) -> Fingerprint {
    Fingerprint(crc_64_avro(canonical_form(schema).as_bytes()))
}

/// The algorithm of the Avro specification, bit by bit: a schema is hashed once.
fn crc_64_avro(bytes: &[u8]) -> u64 {
    /// Both the polynomial and the fingerprint of nothing.
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    let shift = |crc: u64| (crc >> 1) ^ if crc & 1 == 1 { EMPTY } else { 0 };
    bytes.iter().fold(EMPTY, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| shift(crc))
    })
}

fn split_single_object(message: &[u8]) -> Result<(Fingerprint, &[u8]), FramingError> {
    if let Some(&found) = message.first_chunk::<2>()
        && found != SINGLE_OBJECT_MARKER
    {
        return Err(FramingError::Marker { found });
    }
    let Some((header, datum)) = message.split_first_chunk::<SINGLE_OBJECT_HEADER_LEN>() else {
        return Err(FramingError::Short { len: message.len() });
    };
    let [_, _, fingerprint @ ..] = *header;
    Ok((Fingerprint(u64::from_le_bytes(fingerprint)), datum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_splits_off_again() {
        let mut message = Vec::new();
        write_header(Fingerprint(0x0102_0304_0506_0708), &mut message);
        message.extend_from_slice(b"datum");
        assert_eq!(message[..4], [0xC3, 0x01, 0x08, 0x07]);
        assert_eq!(
            split(&message),
            Ok((Fingerprint(0x0102_0304_0506_0708), &b"datum"[..]))
        );
    }

    #[test]
    fn every_short_message_is_refused() {
        let mut message = Vec::new();
        write_header(Fingerprint(1), &mut message);
        for len in 0..message.len() {
            assert_eq!(split(&message[..len]), Err(FramingError::Short { len }));
        }
        assert_eq!(split(&message), Ok((Fingerprint(1), &[][..])));
    }

    #[test]
    fn another_framing_is_named() {
        let error = split(&[0, 0, 0, 0, 42, 9, 9, 9, 9, 9, 9]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "message starts with 00 00, not with Avro's single-object marker c3 01"
        );
    }

    /// The value is the one the Avro specification's own algorithm yields for `"int"`.
    #[test]
    fn fingerprints_are_crc_64_avro() {
        let schema = Schema::parse_str("\"int\"").unwrap();
        assert_eq!(fingerprint_of(&schema), Fingerprint(0x7275_d51a_3f39_5c8f));
        assert_eq!(Fingerprint(0x2a).to_string(), "000000000000002a");
    }
}
