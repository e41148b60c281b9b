//! Logs: for people on a terminal, as JSON otherwise; always on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Begins logging with a filter as `tracing` has it, such as `info` or `dogwatch_sensor=debug`.
///
/// # Errors
/// Fails when the filter does not parse.
pub fn start(filter: &str) -> Result<(), ParseError> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter.parse::<EnvFilter>()?)
        .with_writer(std::io::stderr);
    // A second start (two programs in one process) keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        log.with_target(false).try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
    Ok(())
}
