//! The `dogwatch` program: what people start by hand.
//!
//! ```text
//! local       sensor ─► processor ─► terminal, file        one machine, no Kafka
//! demo        the same, and an attack of its own
//! query       one SELECT over a capture, a fleet's topics or this host
//! alerts      what a processor wrote to Kafka
//! detections  list, lint, test                             no privileges
//! ```
//! It holds no detection and no stage of its own: it joins the libraries of sensor and stream processor and shows what
//! comes of it.

pub mod alerts;
pub mod alerts_file;
pub mod brokers;
pub mod cli;
pub mod demo;
pub mod detections;
pub mod failure;
pub mod joined;
pub mod latency;
pub mod local;
pub mod locate;
pub mod merge;
pub mod moment;
pub mod output;
pub mod plan;
pub mod printer;
pub mod published;
pub mod query;
pub mod readback;
pub mod render;
pub mod repeats;
pub mod session;
pub mod tally;
