//! How an engine is set up before its first step, those of the other tables with it.

use super::{Engine, EngineError, EvidenceTopics, SOURCES, hosts, listed};
use crate::decode::table_schema;
use crate::window::{WindowOptions, Windows};

impl Engine {
    /// Says what windows may take; before the first step.
    ///
    /// # Errors
    /// When the windows' operators cannot be made.
    pub fn with_windows(mut self, options: WindowOptions) -> Result<Self, EngineError> {
        self.set.memory().limit(options.memory_bytes_max);
        let table = table_schema(self.set.table());
        self.windows = Windows::new(&self.set, &table, &options)?;
        self.windows.expect_sources(&SOURCES);
        self.hosts = hosts(&self.windows, &options);
        self.roster = listed(&self.set, &self.windows);
        self.options = options;
        let others = std::mem::take(&mut self.others).into_iter();
        let others = others.map(|other| {
            let own = options.of_table(other.set.table());
            other.with_windows(own)
        });
        self.others = others.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Names the partitions whose time windows of the fleet wait for; after [`Engine::with_windows`]. Others join with their
    /// first second.
    #[must_use]
    pub fn with_sources(mut self, partitions: &[i32]) -> Self {
        self.windows.expect_sources(partitions);
        let others = std::mem::take(&mut self.others).into_iter();
        self.others = others.map(|other| other.with_sources(partitions)).collect();
        self
    }

    /// Lets every alert through, also the eleventh of a minute: for trying what detections find.
    #[must_use]
    pub fn without_throttle(mut self) -> Self {
        self.throttles.open();
        let others = std::mem::take(&mut self.others).into_iter();
        self.others = others.map(Self::without_throttle).collect();
        self
    }

    /// Names the topics that evidence is said to come from; `local` by default.
    #[must_use]
    pub fn with_evidence_topics(mut self, topics: EvidenceTopics) -> Self {
        for other in &mut self.others {
            other.evidence_topics = topics.clone();
        }
        self.evidence_topics = topics;
        self
    }
}
