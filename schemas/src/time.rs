//! Times as JSON: RFC 3339 text in UTC with nine digits, as most readers of JSON keep 53 bits of a number and a time in
//! nanoseconds has 61.
//!
//! Written is text, and read are both: text of any offset, and nanoseconds since 1970.
//! Every time of i64 has a text, from 1677 to 2262.
//! Formats that no person reads, such as Avro's, have the number.

use std::fmt;

use chrono::{DateTime, SecondsFormat};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serialize, Serializer};

/// Writes nanoseconds since 1970 as text, such as `2025-06-15T16:00:00.000000001Z`.
#[must_use]
pub fn text(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Reads RFC 3339 text as nanoseconds since 1970; none when it is none, or beyond what an i64 holds.
#[must_use]
pub fn nanoseconds(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text)
        .ok()?
        .timestamp_nanos_opt()
}

/// Writes a time, for serde's `with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(ns: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    Time(*ns).serialize(serializer)
}

/// Reads a time, for serde's `with`.
///
/// # Errors
/// When it is neither a number nor RFC 3339 text.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_any(TimeVisitor)
    } else {
        deserializer.deserialize_i64(TimeVisitor)
    }
}

/// A time: text where people read it, otherwise its number.
struct Time(i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&text(self.0))
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

/// A time as text or number.
struct TimeRead(i64);

impl<'de> serde::Deserialize<'de> for TimeRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = i64;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a time: RFC 3339 text, or nanoseconds since 1970")
    }

    fn visit_i64<E: Error>(self, ns: i64) -> Result<i64, E> {
        Ok(ns)
    }

    fn visit_u64<E: Error>(self, ns: u64) -> Result<i64, E> {
        ns.try_into()
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(ns), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
        nanoseconds(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Times that may be missing.
pub mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Time, TimeRead};

    /// Writes a time that may be missing, for serde's `with`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(ns: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        ns.map(Time).serialize(serializer)
    }

    /// Reads a time that may be missing, for serde's `with`.
    ///
    /// # Errors
    /// When it is neither null nor a time.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<i64>, D::Error> {
        let read = Option::<TimeRead>::deserialize(deserializer)?;
        Ok(read.map(|read| read.0))
    }
}

/// Lists of times that may be missing.
pub mod list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Time, TimeRead};

    /// Writes a list that may be missing, for serde's `with`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        times: &Option<Vec<i64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let times = times
            .as_ref()
            .map(|times| times.iter().map(|ns| Time(*ns)).collect::<Vec<_>>());
        times.serialize(serializer)
    }

    /// Reads a list that may be missing, for serde's `with`.
    ///
    /// # Errors
    /// When an item is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<i64>>, D::Error> {
        let read = Option::<Vec<TimeRead>>::deserialize(deserializer)?;
        Ok(read.map(|times| times.into_iter().map(|read| read.0).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::{Alert, Event};

    #[test]
    fn times_of_records_are_text_and_other_numbers_stay_numbers() {
        let event = Event {
            ts: 1_750_003_200_000_000_211,
            boot_ts: 9_007_199_254_740_993,
            proc_pid_ts: Some(1),
            proc_apid_ts: Some(vec![1_750_003_200_123_456_789]),
            ..Event::default()
        };
        let json = serde_json::to_value(&event).expect("JSON");
        assert_eq!(json["ts"], "2025-06-15T16:00:00.000000211Z");
        assert_eq!(json["proc_pid_ts"], "1970-01-01T00:00:00.000000001Z");
        assert_eq!(json["proc_apid_ts"][0], "2025-06-15T16:00:00.123456789Z");
        assert_eq!(json["boot_ts"], 9_007_199_254_740_993_i64);
        assert_eq!(
            serde_json::from_value::<Event>(json).expect("an event"),
            event
        );
    }

    #[test]
    fn numbers_are_read_as_ever_and_what_is_no_time_is_refused() {
        let alert: Alert = serde_json::from_str(
            "{\"event_ts\": 7, \"window_end\": \"1970-01-01T01:00:00+01:00\"}",
        )
        .expect("an alert");
        assert_eq!(
            (alert.event_ts, alert.window_end, alert.window_start),
            (7, Some(0), None)
        );
        let error =
            serde_json::from_str::<Alert>("{\"event_ts\": \"today\"}").expect_err("no time");
        assert!(error.to_string().contains("RFC 3339"), "{error}");
    }

    #[test]
    fn avro_has_times_as_numbers() {
        let event = Event {
            ts: 1_750_003_200_000_000_211,
            proc_pid_ts: Some(1),
            proc_apid_ts: Some(vec![2]),
            ..Event::default()
        };
        let schema = apache_avro::Schema::parse_str(Event::SCHEMA).expect("a schema");
        let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build();
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        writer
            .expect("a writer")
            .write_ser(&mut theirs, &event)
            .expect("an event fits its schema");
        event.encode(&mut ours);
        assert_eq!(theirs, ours);
        let value = apache_avro::to_value(&event).expect("a value");
        assert_eq!(
            apache_avro::from_value::<Event>(&value).expect("an event"),
            event
        );
    }

    proptest! {
        #[test]
        fn every_time_is_read_as_it_was_written(ns: i64) {
            prop_assert_eq!(nanoseconds(&text(ns)), Some(ns));
            prop_assert_eq!(text(ns).len(), "2025-06-15T16:00:00.000000211Z".len());
        }
    }
}
