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
//! Deliberately absent: unbounded query plans, tasks for each partition (partitions share one batch),
//! and state that outlives the process. What a restart forgets is said in [`pipeline`].

pub mod alert;
pub mod config;
pub mod content;
pub mod decode;
pub mod detect;
pub mod engine;
pub mod kafka;
pub mod metrics;
pub mod oracle;
pub mod pipeline;
pub mod schema_lookup;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod step;
pub mod topics;
pub mod window;
