//! `dogwatch demo`: `local` plus a scripted attack of real processes on a container of its own.
//!
//! ```text
//! tree ─► container (Docker | namespaces) ─► sensor and processor ─► script, step by step ─► table
//!                │ none possible                                          ▲
//!                └──────────► recorded attack ────────────────────────────┘ the same detections
//! ```
//! With `--fleet` three hosts are simulated instead (`fleet`).
//! [`script`] is the whole plot, [`board`] judges it; [`service`] is the victim, [`attacker`] the intruder.
//! Live the detections are copied, because windows of minutes are too long for a demo.

pub mod attacker;
pub mod board;
pub mod docker;
mod fleet;
pub mod namespace;
pub mod runtime;
pub mod script;
pub mod service;
pub mod target;
pub mod tree;
mod windows;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use chrono::Utc;
use dogwatch_sensor::pipeline::{Input, OnHangup, Shutdown, stop_on_signals};

use self::attacker::{AttackError, Attacker, Shell};
use self::board::Board;
use self::script::{Action, Expected, Step, steps};
use self::target::{Chosen, Live};
use crate::cli::{self, Watch};
use crate::joined::Joined;
use crate::local::{announce, introduce};
use crate::locate;
use crate::plan::{Plan, PlanError};
use crate::printer::{Format, PrintError, Printer};
use crate::render;
use crate::session::{Next, Session, SessionError, Timing};

/// The attack as `dogwatch-sensor record` took it down on a real kernel, for machines where there can be none.
const RECORDED: &[u8] = include_bytes!("../demo.capture");
/// How long the answer to a step is awaited.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// The same through a broker, where a consumer group has to form first.
const BROKER_PATIENCE: Duration = Duration::from_secs(15);
/// The same where the answer comes with the samples of a window.
const WINDOW_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two samples.
const SAMPLES_INTERVAL: &str = "1s";
/// How long nothing may be said after the step that must stay silent.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long the sensor may take until it says what it watches.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a step, so that a reader can follow.
const PAUSE: Duration = Duration::from_millis(300);
/// Lines of a command's output that are shown.
const OUTPUT_LINES: usize = 3;

/// The demo could not be given.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The command line or the configuration is wrong, or the parts cannot be started.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Something could not be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Sensor or processor failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The attack could not go on.
    #[error(transparent)]
    Attack(#[from] AttackError),
    /// A folder or file for the demo could not be made.
    #[error("could not prepare the demo's files below {}", std::env::temp_dir().display())]
    Scratch(#[source] io::Error),
    /// The container asked for cannot be made.
    #[error("this machine allows no demo with {target}: {reason}")]
    Refused {
        /// What was asked for.
        target: &'static str,
        /// Why not.
        reason: String,
    },
    /// Signals cannot be waited for.
    #[error("could not wait for signals")]
    Signals(#[source] io::Error),
    /// The detections cannot be copied.
    #[error("could not copy the detections for the demo")]
    Detections(#[source] io::Error),
}

impl DemoError {
    /// The program's exit code: 1 failure while running, 2 configuration, 3 environment.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Plan(error) => error.exit_code(),
            Self::Session(SessionError::Ended(error)) => error.exit_code(),
            Self::Refused { .. } | Self::Scratch(_) | Self::Detections(_) => 3,
            Self::Print(_) | Self::Session(_) | Self::Attack(_) | Self::Signals(_) => 1,
        }
    }
}

/// Gives the demo; returns whether every step came out as expected.
///
/// # Errors
/// [`DemoError`] when it cannot be given; a step that is not found is no error.
pub fn run(options: &cli::Demo) -> Result<bool, DemoError> {
    if options.fleet {
        return fleet::run(options);
    }
    let shutdown = Shutdown::new();
    stop_on_signals(shutdown.clone(), OnHangup::End).map_err(DemoError::Signals)?;
    let printer = Printer::new(Format::chosen(options.watch.json), None)?;
    match target::choose(options.with, &printer)? {
        Chosen::Live(live) => attack(options, printer, shutdown, &live),
        Chosen::Recording(reason) => {
            printer.note("NOT LIVE: an attack recorded earlier is replayed; the detections are the real ones")?;
            printer.note(&format!("because {reason}"))?;
            replay(options, printer, shutdown)
        }
    }
}

/// The live demo.
fn attack(
    options: &cli::Demo,
    printer: Printer,
    shutdown: Shutdown,
    live: &Live,
) -> Result<bool, DemoError> {
    let overrides = [
        (
            "containers.docker_root",
            live.docker_root.display().to_string(),
        ),
        (
            "state_file",
            live.scratch().join("sensor.json").display().to_string(),
        ),
        ("samples.interval", SAMPLES_INTERVAL.to_owned()),
    ];
    let shipped =
        locate::detections(options.watch.detections.as_deref()).map_err(PlanError::from)?;
    let detections = live.scratch().join("detections");
    windows::copy(&shipped, &detections).map_err(DemoError::Detections)?;
    let watch = Watch {
        detections: Some(detections),
        ..options.watch.clone()
    };
    let plan = Plan::new(&watch, Input::Kernel, &overrides, shutdown)?;
    introduce(&printer, &plan)?;
    printer.note(&format!(
        "a copy of {}, where cpu_at_limit looks at five seconds instead of five minutes; samples come every second",
        shipped.display()
    ))?;
    if let Some(address) = &options.watch.kafka {
        printer.note(&format!(
            "through {address}: the first alert waits until the consumer group has formed"
        ))?;
    }
    let patience = if options.watch.kafka.is_some() {
        BROKER_PATIENCE
    } else {
        ANSWER_PATIENCE
    };
    let script = steps(|limit| live.has(limit));
    let mut demo = Demo {
        session: Session::new(Joined::start_apart(plan)?, printer, Timing::Live),
        board: Board::new(&script),
        script,
        patience,
    };
    let host_id = demo.session.joined().host_id().to_owned();
    demo.board.only(&host_id, live.container_id());
    if demo.await_sensor()? {
        demo.play(live)?;
    }
    demo.finish()
}

/// The recorded demo.
fn replay(options: &cli::Demo, printer: Printer, shutdown: Shutdown) -> Result<bool, DemoError> {
    let mut capture = tempfile::NamedTempFile::new().map_err(DemoError::Scratch)?;
    capture.write_all(RECORDED).map_err(DemoError::Scratch)?;
    let input = Input::Replay(vec![capture.path().to_owned()]);
    let plan = Plan::new(&options.watch, input, &[], shutdown)?;
    printer.note(&plan.detections_line())?;
    // It has no samples in it.
    let script = steps(|_| false);
    let mut demo = Demo {
        session: Session::new(Joined::start(plan)?, printer, Timing::Recorded),
        board: Board::new(&script),
        script,
        patience: Duration::ZERO,
    };
    for index in 0..demo.script.len() {
        demo.board.ran(index, None);
    }
    while demo.look(PAUSE)? {}
    demo.finish()
}

/// A demo that runs.
struct Demo {
    session: Session,
    board: Board,
    script: Vec<Step>,
    /// How long the answer to a step is awaited.
    patience: Duration,
}

impl Demo {
    /// Waits until the sensor says what it watches; false when it ends instead.
    fn await_sensor(&mut self) -> Result<bool, DemoError> {
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline && self.look(Duration::from_millis(20))? {
            if announce(&self.session)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs the script, step by step, until it ends or somebody asks for the end.
    fn play(&mut self, live: &Live) -> Result<(), DemoError> {
        let attacker = Attacker::prepare(&live.network_namespace())?;
        attacker.await_service()?;
        let mut shell = None;
        for (index, step) in self.script.clone().iter().enumerate() {
            self.pause(PAUSE)?;
            if self.session.joined().ending() {
                break;
            }
            let title = format!("\nstep {}: {}", index + 1, step.title);
            self.session
                .printer()
                .note(&self.session.printer().colour().paint("1;34", &title))?;
            let since = Utc::now().timestamp_nanos_opt();
            let output = perform(step, &attacker, &mut shell, live.package_manager)?;
            for line in output.iter().take(OUTPUT_LINES) {
                self.session
                    .printer()
                    .note(&format!("    {}", render::printable(line)))?;
            }
            self.board.ran(index, since);
            self.await_answer(index, step)?;
        }
        Ok(())
    }

    fn await_answer(&mut self, index: usize, step: &Step) -> Result<(), DemoError> {
        let patience = match (step.action, step.expected) {
            (_, Expected::Silence { .. }) => SILENCE,
            (Action::UseUp(..), _) => self.patience.max(WINDOW_PATIENCE),
            _ => self.patience,
        };
        let deadline = Instant::now() + patience;
        while !self.board.answered(index)
            && Instant::now() < deadline
            && self.look(Duration::from_millis(20))?
        {}
        Ok(())
    }

    fn pause(&mut self, pause: Duration) -> Result<(), DemoError> {
        let deadline = Instant::now() + pause;
        while Instant::now() < deadline && self.look(Duration::from_millis(20))? {}
        Ok(())
    }

    /// Takes the next alert, if one comes within `wait`; false when the run has ended.
    fn look(&mut self, wait: Duration) -> Result<bool, DemoError> {
        match self.session.next(wait)? {
            Next::Alert(alert, latency) => self.board.note(&alert, latency),
            // The board asks whether a step was found, which the first word says.
            Next::Update(_) => {}
            Next::Nothing => self.session.heartbeat()?,
            Next::End => return Ok(false),
        }
        Ok(true)
    }

    /// Ends the run and prints what it amounts to; returns whether every step came out as expected.
    fn finish(mut self) -> Result<bool, DemoError> {
        self.session.joined().end();
        while self.look(PAUSE)? {}
        let (printer, summary) = self.session.finish()?;
        printer.note(&format!("\n{summary}"))?;
        printer.note(self.board.table(printer.colour()).trim_end())?;
        Ok(self.board.passed())
    }
}

/// Makes a step happen and returns what it printed.
fn perform(
    step: &Step,
    attacker: &Attacker,
    shell: &mut Option<Shell>,
    package_manager: Option<&str>,
) -> Result<Vec<String>, AttackError> {
    let command = match step.action {
        Action::BreakIn => {
            *shell = Some(attacker.break_in()?);
            return Ok(Vec::new());
        }
        Action::Healthcheck => {
            attacker.await_healthchecks(1)?;
            return Ok(Vec::new());
        }
        Action::Command(command) | Action::UseUp(_, command) => command.to_owned(),
        Action::InstallPackage => {
            format!("{} install nmap 2>&1", package_manager.unwrap_or("apt-get"))
        }
    };
    let shell = match shell {
        Some(shell) => shell,
        None => shell.insert(attacker.break_in()?),
    };
    let mut shown = vec![format!("$ {command}")];
    shown.extend(shell.run(&command)?);
    Ok(shown)
}
