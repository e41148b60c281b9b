//! The two stages of windows over the whole fleet: in one process, or each in others.
//!
//! ```text
//! dogwatch.events ─► host: source, steps, publisher ─► alerts, dogwatch.exchange ─► fleet: source, steps, publisher ─► alerts
//! ```
//! The second one is the same pipeline with another input, another topic of states and a group of its own. It begins when a
//! detection needs it, and ends with the first.

use crossbeam_channel::{RecvError, bounded};

use super::{ProcessorError, Running, Stats, Summary};
use crate::config::{Config, Stage};
use crate::shutdown::Shutdown;
use crate::sink::{Sink, SinkError};
use crate::source::Source;

/// Runs the configured stages until the shutdown, or until one cannot go on.
pub(super) fn run(
    config: &Config,
    shutdown: &Shutdown,
    stats: &Stats,
) -> Result<Summary, ProcessorError> {
    let run = |running: Running<'_>| running.run(Source::Kafka, Sink::Kafka);
    let of_stage = |stage, stats| Running::new(&config.of_stage(stage), shutdown, stats);
    match config.stages[..] {
        [stage] => run(of_stage(stage, stats)),
        _ => {
            let own_stats = Stats::default();
            let (hosts, fleet) = (
                of_stage(Stage::Host, stats),
                of_stage(Stage::Fleet, &own_stats),
            );
            both(hosts, fleet, shutdown)
        }
    }
}

/// Ends both stages when one of them has ended, a panic included.
struct Together<'s>(&'s Shutdown);

impl Drop for Together<'_> {
    fn drop(&mut self) {
        self.0.trigger("a stage has ended");
    }
}

/// Runs both stages; the second from when it is needed.
fn both(
    mut hosts: Running<'_>,
    mut fleet: Running<'_>,
    shutdown: &Shutdown,
) -> Result<Summary, ProcessorError> {
    let (wanted, calls) = bounded(1);
    hosts.fleet_wanted = Some(wanted);
    // Tests ask the stage of hosts to fail.
    fleet.config.fault = None;
    let of_fleet = move || {
        let _together = Together(shutdown);
        match calls.recv() {
            Ok(()) => fleet.run(Source::Kafka, Sink::Kafka),
            // The first stage has ended, and never needed it.
            Err(RecvError) => Ok(Summary::default()),
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fleet".to_owned());
        let thread = thread
            .spawn_scoped(scope, of_fleet)
            .map_err(|error| ProcessorError::Sink(SinkError::Thread(error)))?;
        let together = Together(shutdown);
        let of_hosts = hosts.run(Source::Kafka, Sink::Kafka);
        drop(together);
        let of_fleet = match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let of_hosts = of_hosts?;
        let of_fleet = of_fleet?;
        Ok(Summary {
            alerts: of_hosts.alerts + of_fleet.alerts,
            unjudged: of_hosts.unjudged + of_fleet.unjudged,
            ..of_hosts
        })
    })
}
