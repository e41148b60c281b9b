//! `dogwatch-processor`: reads the command line and the configuration, runs the pipeline, ends with a code.
//!
//! Exit codes: 0 fine, 1 failure while running, 2 usage or configuration, 3 the environment lacks something.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use dogwatch_stream_processor::config::{Config, ConfigError, LogFormat, Overrides, RawLog};
use dogwatch_stream_processor::pipeline::{self, ProcessorError};
use dogwatch_stream_processor::shutdown::Shutdown;
use dogwatch_stream_processor::sink::Sink;
use dogwatch_stream_processor::source::Source;
use dogwatch_stream_processor::{metrics, topics};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs Dogwatch's detections over Kafka topics and publishes alerts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Match events and publish alerts until SIGTERM, which drains and commits.
    Run(Options),
    /// Check configuration, detections, brokers and topics; change nothing.
    Check(Options),
}

#[derive(Args)]
struct Options {
    /// Configuration file; processor.toml shows every setting.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Brokers, host:port separated by commas (kafka.bootstrap_servers).
    #[arg(long, value_name = "ADDRESS")]
    kafka: Option<String>,
    /// Folder of detections (detections.folder).
    #[arg(long, value_name = "DIR")]
    detections: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(options) => run(options),
        Command::Check(options) => check(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dogwatch-processor: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ProcessorError>() {
        Some(error) => error.exit_code(),
        None if error.is::<ConfigError>() => 2,
        None => 1,
    }
}

fn load(options: Options) -> anyhow::Result<Config> {
    let overrides = Overrides {
        bootstrap_servers: options.kafka,
        detections_folder: options.detections,
    };
    Ok(Config::load(options.config.as_deref(), overrides)?)
}

fn run(options: Options) -> anyhow::Result<()> {
    let config = load(options)?;
    log_to_stderr(&config.log)?;
    if let Some(listen) = config.metrics_listen {
        metrics::serve(listen);
    }
    let shutdown = Shutdown::new();
    end_on_signals(shutdown.clone())?;
    let summary = pipeline::run(&config, Source::Kafka, Sink::Kafka, &shutdown)?;
    tracing::info!(?summary, reason = shutdown.reason(), "processor ended");
    Ok(())
}

fn check(options: Options) -> anyhow::Result<()> {
    let config = load(options)?;
    let loaded = pipeline::check(&config)?;
    println!("configuration: fine");
    println!(
        "detections: {loaded} loaded from {}",
        config.detections_folder.display()
    );
    topics::prepare(&config, false).map_err(ProcessorError::from)?;
    println!(
        "brokers and topics at {}: fine",
        config.kafka.bootstrap_servers
    );
    Ok(())
}

fn log_to_stderr(log: &RawLog) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&log.level).with_context(|| format!("log.level = {:?}", log.level))?;
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if human {
        lines.init()
    } else {
        lines.json().init()
    }
    Ok(())
}

/// Waits for SIGTERM and SIGINT in a thread of its own; the second one of either ends the process at once.
fn end_on_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if shutdown.triggered() {
                    std::process::exit(1);
                }
                shutdown.trigger(name);
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}
