//! `dogwatch local`: what someone with one server runs.

use std::time::Duration;

use dogwatch_sensor::pipeline::{
    Input, OnHangup, Reopen, Shutdown, Summary, hold_signals, stop_on_signals,
};

use crate::cli;
use crate::joined::Joined;
use crate::plan::{Plan, PlanError};
use crate::printer::{Format, PrintError, Printer};
use crate::session::{Next, Session, SessionError, Timing};

/// How often losses are looked at.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// `local` could not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The command line or the configuration is wrong, or the parts cannot be started.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something could not be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Sensor or processor failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Signals cannot be waited for.
    #[error("could not wait for signals")]
    Signals(#[source] std::io::Error),
    /// Standard output has no thread.
    #[error("could not start the thread of standard output")]
    Thread(#[source] std::io::Error),
}

impl LocalError {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Plan(error) => error.exit_code(),
            Self::Session(SessionError::Ended(error)) => error.exit_code(),
            Self::Print(error) | Self::Session(SessionError::Print(error)) => error.exit_code(),
            Self::Signals(_) | Self::Thread(_) => 1,
        }
    }
}

/// Watches until a signal comes.
///
/// # Errors
/// [`LocalError`] when it cannot start, or sensor or processor fail.
pub fn run(options: &cli::Local) -> Result<(), LocalError> {
    ignore_file_size_limit();
    let mut printer = Printer::new(
        Format::chosen(options.watch.json),
        options.alerts.as_deref(),
    )?;
    let shutdown = Shutdown::new();
    let reopen = Reopen::default();
    let on_hangup = match options.alerts {
        Some(_) => OnHangup::Reopen(reopen.clone()),
        None => OnHangup::End,
    };
    hold_signals();
    let mut plan = Plan::new(&options.watch, Input::Kernel, &[], shutdown.clone())?;
    plan.tell_events = options.events;
    introduce(&printer, &plan)?;
    let joined = Joined::start(plan)?;
    stop_on_signals(shutdown, on_hangup).map_err(LocalError::Signals)?;
    // After the sensor was loaded: a thread has the rights of the one that starts it.
    printer.detach().map_err(LocalError::Thread)?;
    let mut session = Session::new(joined, printer, Timing::Live);
    match watch(&mut session, &reopen) {
        // Whoever reads has enough, as `head` has.
        Err(PrintError::Output) => return Ok(session.leave()?),
        result => result?,
    }
    let (printer, summary) = session.finish()?;
    printer.note(summary.trim_end())?;
    Ok(printer.complete()?)
}

/// Shows a run until its end.
fn watch(session: &mut Session, reopen: &Reopen) -> Result<(), PrintError> {
    let mut announced = false;
    loop {
        if let Next::End = session.next(HEARTBEAT)? {
            return Ok(());
        }
        if reopen.take() {
            session.reopen();
        }
        if !announced {
            announced = announce(session)?;
        }
        session.printer().read()?;
        session.heartbeat()?;
    }
}

/// A file at the limit of the process (`ulimit -f`) is as full as a disk: the write fails, the process goes on.
fn ignore_file_size_limit() {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Says what runs, and what this machine does not allow.
///
/// # Errors
/// [`PrintError`] when it cannot be said.
pub fn introduce(printer: &Printer, plan: &Plan) -> Result<(), PrintError> {
    printer.note(&plan.detections_line())?;
    for missing in plan.not_delivered() {
        printer.note(&format!("not delivered on this machine: {missing}"))?;
    }
    Ok(())
}

/// Says what is watched, once the sensor has looked around; returns whether it has.
///
/// # Errors
/// [`PrintError`] when it cannot be said.
pub fn announce(session: &Session) -> Result<bool, PrintError> {
    let Summary {
        processes,
        containers,
        ..
    } = session.joined().sensor();
    if processes > 0 {
        session.printer().note(&watching(containers, processes))?;
    }
    Ok(processes > 0)
}

fn watching(containers: usize, processes: usize) -> String {
    let plural = if containers == 1 { "" } else { "s" };
    format!(
        "watching this machine: {containers} container{plural}, {processes} processes; Ctrl-C ends it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_line() {
        assert_eq!(
            watching(1, 120),
            "watching this machine: 1 container, 120 processes; Ctrl-C ends it"
        );
        assert_eq!(
            watching(0, 120),
            "watching this machine: 0 containers, 120 processes; Ctrl-C ends it"
        );
    }
}
