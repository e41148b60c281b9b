//! What format 3 wrote otherwise: its tasks read one topic, and what was of that topic did not say so.

use std::collections::BTreeMap;

use dogwatch_schemas::topics::Topic;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use super::Inputs;

/// The topic of all that format 3 wrote.
const TOPIC: Topic = Topic::Events;

/// How the names of pieces began that are of a topic, and how they do.
const RENAMED: [(&str, &str); 3] = [
    ("task", "log.events"),
    ("hosts/", "hosts.events/"),
    ("minute/", "minute.events/"),
];

/// The name of a piece that format 3 wrote under another one.
pub(super) fn renamed(key: &str) -> Option<String> {
    RENAMED.iter().find_map(|(old, new)| {
        let rest = key.strip_prefix(old)?;
        let whole = old.ends_with('/') || rest.is_empty();
        whole.then(|| format!("{new}{rest}"))
    })
}

/// The name that a piece had in format 3.
pub(super) fn former(key: &str) -> Option<String> {
    RENAMED.iter().find_map(|(old, new)| {
        let rest = key.strip_prefix(new)?;
        Some(format!("{old}{rest}"))
    })
}

/// Offsets of format 3 are a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    OfOne(i64),
    ByTopic(BTreeMap<String, i64>),
}

pub(super) fn serialize<S: Serializer>(inputs: &Inputs, serializer: S) -> Result<S::Ok, S::Error> {
    let named = inputs.iter();
    serializer.collect_map(named.map(|(topic, offset)| (topic.suffix(), offset)))
}

pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Inputs, D::Error> {
    let named = match Written::deserialize(deserializer)? {
        Written::OfOne(offset) => return Ok(Inputs::from([(TOPIC, offset)])),
        Written::ByTopic(named) => named.into_iter(),
    };
    let topic = |(name, offset): (String, i64)| {
        let topic = Topic::named(&name);
        let topic = topic.ok_or_else(|| D::Error::custom(format!("there is no topic {name}")));
        Ok((topic?, offset))
    };
    named.map(topic).collect()
}
