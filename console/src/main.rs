//! `dogwatch`: reads the command line, runs the subcommand, ends with a code.
//!
//! Exit codes: 0 fine, 1 failure while running, 2 usage or configuration, 3 the environment lacks something.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use dogwatch_console::cli::{Cli, Command, Detections, DetectionsAction, Folder};
use dogwatch_console::demo::{self, runtime, service};
use dogwatch_console::detections::{self, Report};
use dogwatch_console::failure::in_full;
use dogwatch_console::published::{self, PublishedError};
use dogwatch_console::{alerts, local, locate, query};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    dogwatch_sensor::sockets::serve_if_asked();
    let cli = Cli::parse();
    log_to_standard_error();
    match cli.command {
        Command::Local(options) => ended(
            local::run(&options).map(|()| true),
            local::LocalError::exit_code,
        ),
        Command::Demo(options) => ended(demo::run(&options), demo::DemoError::exit_code),
        Command::Query(options) => match query::run(&options) {
            Ok(ended) => ExitCode::from(ended.exit_code()),
            Err(error) => {
                eprintln!("dogwatch: {}", in_full(&error));
                ExitCode::from(error.exit_code())
            }
        },
        Command::Alerts(options) => ended(
            alerts::run(&options).map(|()| true),
            alerts::AlertsError::exit_code,
        ),
        Command::Detections(options) => judge(&options),
        Command::DemoService => ended(service::serve().map(|()| true), |_| 1),
        Command::DemoRuntime { arguments } => ended(runtime::run(&arguments).map(|()| true), |_| 3),
    }
}

/// The exit code of a subcommand: 0 when `true` came of it, 1 when `false`, the error's own otherwise.
fn ended<E: Error>(result: Result<bool, E>, code: impl Fn(&E) -> u8) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dogwatch: {}", in_full(&error));
            ExitCode::from(code(&error))
        }
    }
}

fn judge(options: &Detections) -> ExitCode {
    let named = match &options.action {
        DetectionsAction::List(list) if list.brokers.named() => {
            return told(published::list(&list.brokers), PublishedError::exit_code);
        }
        DetectionsAction::Publish(publish) => {
            let done = published::publish(&publish.folder, &publish.how);
            return told(done, PublishedError::exit_code);
        }
        DetectionsAction::Rollback(rollback) => {
            let done = published::roll_back(rollback.number, &rollback.how);
            return told(done, PublishedError::exit_code);
        }
        DetectionsAction::Loaded(brokers) => {
            return told(published::loaded(brokers), PublishedError::exit_code);
        }
        DetectionsAction::Keygen { file } => {
            return told(published::make_key(file), PublishedError::exit_code);
        }
        DetectionsAction::List(list) => &list.folder,
        DetectionsAction::Explain(folder) => folder,
        DetectionsAction::Lint(lint) => &lint.folder,
        DetectionsAction::Test(test) => &test.folder,
    };
    let run = |named: &Folder| -> Result<Report, Box<dyn Error>> {
        let folder = locate::detections(named.folder.as_deref())?;
        Ok(match &options.action {
            DetectionsAction::Lint(lint) => {
                let sensor = detections::SensorView::of(lint.sensor_config.as_deref())?;
                detections::lint(&folder, &sensor, lint.strict)?
            }
            DetectionsAction::Explain(_) => detections::explain(&folder)?,
            DetectionsAction::Test(test) => detections::test(&folder, test.update)?,
            _ => detections::list(&folder)?,
        })
    };
    told(run(named), |_| 2)
}

/// Prints what came of a subcommand, and returns its exit code.
fn told<E: Into<Box<dyn Error>>>(report: Result<Report, E>, code: impl Fn(&E) -> u8) -> ExitCode {
    let failed = |error: Box<dyn Error>, code: u8| {
        eprintln!("dogwatch: {}", in_full(&*error));
        ExitCode::from(code)
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let code = code(&error);
            return failed(error.into(), code);
        }
    };
    match dogwatch_settings::print(&report.text) {
        Ok(()) if report.passed => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => failed(error.into(), 1),
    }
}

/// Warnings and errors of all parts; `RUST_LOG=info` shows more.
fn log_to_standard_error() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        subscriber.init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}
