//! Options that are passed through to librdkafka: their names mended, those that a setting decides refused.

use std::collections::BTreeMap;

/// An option, by librdkafka's name, that may not be passed through, and the mend.
pub type Decided = (&'static str, &'static str);

/// What every program decides.
const DECIDED: [Decided; 7] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("acks", "all is needed: what was acknowledged is not lost"),
    (
        "request.required.acks",
        "all is needed: what was acknowledged is not lost",
    ),
    ("enable.idempotence", "order without repeats needs it"),
    ("partitioner", "all producers must agree on murmur2_random"),
    (
        "statistics.interval.ms",
        "metrics and lost connections are seen in the statistics",
    ),
];

/// A librdkafka option that a named setting decides.
#[derive(Debug, thiserror::Error)]
#[error("kafka.options may not set {option}: {mend}")]
pub struct Contradiction {
    /// The option.
    pub option: String,
    /// What to set instead.
    pub mend: &'static str,
}

/// Returns the options by librdkafka's names; `decided` are those that the program decides beside what all do.
///
/// # Errors
/// [`Contradiction`] for the first of them that is given.
pub fn checked(
    given: BTreeMap<String, String>,
    decided: &[Decided],
) -> Result<BTreeMap<String, String>, Contradiction> {
    let options = dotted(given);
    let contradicts = |(option, _): &&Decided| options.contains_key(*option);
    match DECIDED.iter().chain(decided).find(contradicts) {
        Some((option, mend)) => Err(Contradiction {
            option: (*option).to_owned(),
            mend,
        }),
        None => Ok(options),
    }
}

/// Variables of the environment cannot hold dots; librdkafka's options hold nothing else between words.
fn dotted(options: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mend = |(key, value): (String, String)| (key.replace('_', "."), value);
    options.into_iter().map(mend).collect()
}
