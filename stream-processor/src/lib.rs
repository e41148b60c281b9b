//! The Dogwatch stream processor: reads events from Kafka, matches them against detections written
//! in SQL, and publishes alerts, each exactly once.
//!
//! ```text
//! source ─► [SourceMessage; 64] ─► step: decode, detect ─► [Step; 1] ─► publish: one transaction
//! poll thread                      step thread                          publishing thread
//! ```
//!
//! Three threads, two bounded channels: a slow broker holds the matching back, a slow detection holds
//! the reading back, and nothing is dropped between them. While one step commits, the next is matched.
//! [`pipeline::run`] joins the stages; everything between source and sink is a function of the input.
//!
//! What tasks remember goes to the topic of states in the same transaction and is read back by whoever takes a task
//! over ([`checkpoint`], [`restore`]); there is no state on disk that could disagree with it.
//!
//! Deliberately absent: unbounded query plans and threads for each partition (partitions share one batch).
//!
//! The modules below stand in one order, held by a test: each may use those above it, none those below it.

pub(crate) use dogwatch_query::{json, whole_topic};

mod budget;
mod parallel;
pub mod shutdown;
pub mod signing;

pub mod config;
pub mod kafka;
pub mod topics;

pub mod checkpoint;
pub mod tables;

pub mod decode;
mod hosts;

pub mod detect;
pub mod window;

pub mod alert;
pub mod engine;

pub mod oracle;

pub mod content;
pub mod step;

pub mod metrics;
pub mod restore;
pub mod running;
pub mod source;
pub mod tasks;

pub mod sink;

pub mod idle;
mod inventory;

pub mod published;
pub mod schema_lookup;
mod sensor_needs;
pub mod versions;

mod reload;

pub mod pipeline;
