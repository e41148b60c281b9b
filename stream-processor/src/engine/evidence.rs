//! How evidence names the topics that it is from.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::topics::{Topic, Topics};

/// What evidence calls the topics that it is in.
#[derive(Debug, Clone)]
pub struct EvidenceTopics(BTreeMap<Topic, Text>);

impl EvidenceTopics {
    /// One name for all, such as `local` or `capture`.
    #[must_use]
    pub fn same(name: &str) -> Self {
        Self::named(|_| name.to_owned())
    }

    /// The names on the broker.
    #[must_use]
    pub fn kafka(names: &Topics) -> Self {
        Self::named(|topic| names.name(topic))
    }

    fn named(name: impl Fn(Topic) -> String) -> Self {
        let name = |topic| (topic, name(topic).into());
        Self(Topic::ALL.into_iter().map(name).collect())
    }

    /// What it calls a topic.
    #[must_use]
    pub fn name(&self, topic: Topic) -> &str {
        self.0.get(&topic).map_or("", |name| name)
    }
}
