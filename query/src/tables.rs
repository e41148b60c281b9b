//! The tables that SQL can ask: each is a topic.

/// Name of the table of events.
pub const EVENTS: &str = "events";
