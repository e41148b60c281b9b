//! `dogwatch-processor`: reads the command line and the configuration, runs the pipeline, ends with a code.
//!
//! Exit codes: 0 fine, 1 failure while running, 2 usage or configuration, 3 the environment lacks something.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Parser, Subcommand};
use dogwatch_schemas::topics::Topics;
use dogwatch_settings::{Flag, Program};
use dogwatch_stream_processor::config::{Config, ConfigError, DetectionsFrom, LogFormat, RawLog};
use dogwatch_stream_processor::metrics;
use dogwatch_stream_processor::pipeline::{self, Checked, ProcessorError, Summary};
use dogwatch_stream_processor::running::{self, Running, RunningError};
use dogwatch_stream_processor::shutdown::Shutdown;
use dogwatch_stream_processor::sink::Sink;
use dogwatch_stream_processor::source::Source;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXIT_CODES: &str = "\
Exit codes:
  0  it ended as it was asked to
  1  it could not go on: a failure while running
  2  the command line, the configuration or the detections cannot be used
  3  the environment lacks something: a broker, rights, a topic as it must be";

/// Runs Dogwatch's detections over Kafka topics and publishes alerts.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Match events and publish alerts until SIGTERM, SIGINT or SIGHUP, which drain and commit.
    Run,
    /// Check what run needs: configuration, detections, brokers, topics, the group, a transaction; change nothing.
    Check,
    /// Print every setting in force and where it is from, secrets masked.
    Config,
    /// Ask the processor that runs here which detections it runs: name, hash of the file, since when.
    Loaded,
}

#[derive(Args)]
struct Options {
    /// Configuration file; processor.toml shows every setting.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Brokers, host:port separated by commas (kafka.bootstrap_servers).
    #[arg(long, global = true, value_name = "ADDRESS")]
    kafka: Option<String>,
    /// Folder of detections (detections.folder).
    #[arg(long, global = true, value_name = "DIR")]
    detections: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Arguments { options, command } = Arguments::parse();
    let done = match command {
        Command::Run => run(options),
        Command::Check => check(options),
        Command::Config => show(options),
        Command::Loaded => loaded(options),
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
        None if error.is::<RunningError>() => 3,
        None => 1,
    }
}

impl Options {
    fn flags(&self) -> Vec<Flag> {
        let folder = self.detections.as_ref();
        let folder = folder.map(|folder| ("detections.folder", folder.display().to_string()));
        let servers = self.kafka.clone();
        let servers = servers.map(|servers| ("kafka.bootstrap_servers", servers));
        folder.into_iter().chain(servers).collect()
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), &self.flags())
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let config = options.load()?;
    log_to_stderr(&config.log)?;
    dogwatch_settings::tell_unknown(Program::Processor, std::env::vars_os());
    if let Some(listen) = config.metrics_listen {
        metrics::serve(listen);
    }
    let shutdown = Shutdown::new();
    end_on_signals(shutdown.clone())?;
    let summary = pipeline::run(&config, Source::Kafka, Sink::Kafka, &shutdown)?;
    tell(&summary, shutdown.reason());
    Ok(())
}

/// Says what a run came to.
fn tell(summary: &Summary, reason: Option<&str>) {
    for (class, records) in &summary.dead_letters {
        tracing::info!(class, records, "records could not be read");
    }
    tracing::info!(
        records = summary.records,
        bytes = summary.bytes,
        steps = summary.steps,
        alerts = summary.alerts,
        dead_letters = summary.dead_letters.values().sum::<u64>(),
        repeated = summary.repeated,
        missing = summary.missing,
        expired = summary.expired,
        late = summary.late,
        reason,
        "processor ended"
    );
}

fn check(options: Options) -> anyhow::Result<()> {
    let config = options.load()?;
    let Checked { detections, tables } = pipeline::check(&config)?;
    let place = match config.detections_from {
        DetectionsFrom::Folder => config.detections_folder.display().to_string(),
        DetectionsFrom::Topic => "the newest set that is published".to_owned(),
    };
    let topics = Topics::new(config.kafka.topic_prefix.as_str());
    let read = tables.iter().map(|table| topics.name(table.topic()));
    let read: Vec<String> = read.collect();
    dogwatch_settings::print(&format!(
        "configuration: fine\ndetections: {detections} loaded from {place}; they read {}\n",
        read.join(", ")
    ))?;
    let missing = pipeline::check_brokers(&config, &tables)?;
    if !missing.is_empty() {
        let missing = missing.join(", ");
        dogwatch_settings::print(&format!("topics that a start makes: {missing}\n"))?;
    }
    let servers = &config.kafka.bootstrap_servers;
    dogwatch_settings::print(&format!(
        "brokers, topics, group and transactions at {servers}: fine\n"
    ))?;
    Ok(())
}

fn show(options: Options) -> anyhow::Result<()> {
    let shown = Config::show(options.config.as_deref(), &options.flags())?;
    dogwatch_settings::print(&shown)?;
    Ok(())
}

fn loaded(options: Options) -> anyhow::Result<()> {
    let config = options.load()?;
    let listen = config.metrics_listen.ok_or(RunningError::Silent)?;
    let mut text = String::new();
    for Running {
        detection,
        content,
        since,
    } in running::ask(listen)?
    {
        let since = DateTime::<Utc>::from(since).to_rfc3339_opts(SecondsFormat::Secs, true);
        text += &format!("{since}  {content}  {detection}\n");
    }
    dogwatch_settings::print(&text)?;
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
        lines.json().flatten_event(true).init()
    }
    Ok(())
}

/// Signals so soon after each other are one: who runs a program, as `timeout` does, sends them to it and to its group.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// Waits for SIGTERM, SIGINT and SIGHUP in a thread of its own; the second one of the first two ends the process at once.
fn end_on_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let ignores_hangup = ignores_hangup();
    let (mut terminate, mut interrupt, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            let mut asked: Option<Instant> = None;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv() => "SIGHUP",
                };
                if name == "SIGHUP" && (ignores_hangup || shutdown.triggered()) {
                    continue;
                }
                match asked {
                    Some(asked) if asked.elapsed() >= ONE_SIGNAL => std::process::exit(1),
                    Some(_) => {}
                    None => asked = Some(Instant::now()),
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

/// Says whether the process was started to ignore SIGHUP (`nohup`).
fn ignores_hangup() -> bool {
    // SAFETY: zeroed is a valid sigaction, which the call fills; nothing is set.
    unsafe {
        let mut found: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut found);
        found.sa_sigaction == libc::SIG_IGN
    }
}
