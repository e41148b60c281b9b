//! The Dogwatch sensor: watches the containers of one host through eBPF and publishes what they do.
//!
//! ```text
//! kernel ──ring──► read ──► track ──► redact ──► encode ──► publish ──► Kafka, or a log inside the process
//!                    ▲        process table, containers
//!            capture ┘
//! ```
//! [`pipeline::run`] is the whole sensor; programs and tests call it with an input, an output and a [`pipeline::Shutdown`].
//! Every stage behind the reading is a pure function of what enters: no files, no clocks, no kernel. So a capture replays
//! to the same events, without privileges. The sensor never blocks or changes what it watches, and it knows no detections.

mod aside;
mod busiest;
mod canary;
mod capture;
pub mod check;
mod clock;
pub mod config;
mod container;
mod fact;
mod gather;
mod host;
pub mod log;
mod loss;
pub mod metrics;
mod mounts;
pub mod pipeline;
pub mod probe;
mod process;
mod publish;
mod read;
mod redact;
mod ring;
mod rooted;
mod sample;
mod scan;
pub mod sockets;
mod state;
mod status;
mod stop;
mod text;
mod track;
mod users;
