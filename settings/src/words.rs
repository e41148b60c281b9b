//! Values that are words: one of a few, or a filter of log lines.

use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer};

/// Levels of log lines.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads a word that is one of an enumeration's: a wrong one is told with those that there are.
///
/// # Errors
/// The reader's.
pub fn word<'d, T: Deserialize<'d>, D: Deserializer<'d>>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    T::deserialize(StrDeserializer::<D::Error>::new(&text))
}

/// What is wrong with a filter of log lines that would be read as one: a level that is none is a part of the program to its
/// reader, and then nothing is logged.
#[must_use]
pub fn filter_fault(filter: &str) -> Option<String> {
    let parts = filter.split(',').map(str::trim);
    let mut wrong = parts.filter(|part| {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        let is_level = LEVELS.contains(&level.to_lowercase().as_str());
        let is_part = !part.contains('=')
            && (part.contains("::") || part.contains('[') || part.starts_with("dogwatch"));
        let is_number = level.parse::<u8>().is_ok_and(|level| level <= 5);
        !(part.is_empty() || is_level || is_part || is_number)
    });
    let wrong = wrong.next()?;
    Some(format!(
        "{wrong:?} names no level: {}; dogwatch_kafka=debug is one of a part",
        LEVELS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_whose_level_is_none_is_told() {
        for right in [
            "info",
            "INFO",
            "",
            "warn,dogwatch_kafka=debug",
            "dogwatch_sensor",
            "info,rdkafka=off",
            "dogwatch_stream_processor::sink[step]=trace",
            "4",
        ] {
            assert_eq!(filter_fault(right), None, "{right}");
        }
        for wrong in [
            "loud",
            "verbose",
            "info,dogwatch_kafka=loud",
            "warning",
            "9",
        ] {
            let told = filter_fault(wrong).unwrap_or_default();
            assert!(told.contains("off, error, warn"), "{wrong}: {told}");
        }
    }
}
