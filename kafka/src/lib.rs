//! How Dogwatch's programs speak to brokers: what a sensor, a processor and the console share.
//!
//! ```text
//! kafka.options ──► options: refused, secrets ──► Brokers ──► settings of a client ──► librdkafka
//! error code, last words ──► Fault: unreachable, unauthenticated, unauthorised, ... with the mend
//! Admin ──► topics: made as `dogwatch_schemas::topics` says, and checked
//! ```
//! It knows no record, no group and no transaction: what a program sends and reads stays with the program.
//!
//! The modules below stand in one order, held by a test: each may use those above it, none those below it.

pub mod fault;
pub mod lifeline;
pub mod options;
pub mod recurring;

pub mod context;
pub mod producer;

mod listener;

pub mod brokers;

pub mod topics;

pub use brokers::{
    BadAddress, Brokers, PATIENCE, REACH, ask_leaders, check_advertised, check_servers, reach, tend,
};
pub use context::{ErrorKeeper, Logged, log_error, log_line};
pub use fault::{Fault, LastError};
pub use lifeline::{Lifeline, STATISTICS_INTERVAL_MS};
pub use producer::ServedProducer;
pub use recurring::Recurring;
