//! The records as Rust structs, generated from the `*.avsc` files by `build.rs`.
//!
//! Avro's string is [`Text`], long and timestamp are `i64`, boolean is `bool`, `["null", T]` is `Option<T>`, array is `Vec`, map is `BTreeMap<Text, _>`.
//! As JSON, fields that are missing take their default and unknown fields are refused.

use crate::Text;
use crate::decode::DecodeError;
use crate::framing::{self, Fingerprint};
use crate::wire::{Datum, Input, WireError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;

include!(concat!(env!("OUT_DIR"), "/records.rs"));

fn own_fingerprint(schema: &str) -> Fingerprint {
    let schema = apache_avro::Schema::parse_str(schema)
        .expect("the crate's own schemas parse, a test holds it");
    framing::fingerprint_of(&schema)
}

/// Reads a framed record whose writer's schema is the reader's.
fn decode_own<T: Datum>(framed: &[u8], own: Fingerprint) -> Result<T, DecodeError> {
    let (fingerprint, datum) = framing::split(framed)?;
    if fingerprint != own {
        return Err(DecodeError::UnknownSchema(fingerprint));
    }
    let mut input = Input::new(datum);
    let record = T::read(&mut input)?;
    input.end()?;
    Ok(record)
}
