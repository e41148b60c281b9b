//! The program `dogwatch-sensor`: run, record, replay, check.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use dogwatch_sensor::config::{Config, ConfigError, Flag};
use dogwatch_sensor::pipeline::{
    Input, Loaded, OnHangup, Output, Rotation, SensorError, Shutdown, Stats, Summary, check,
    hold_signals, rotation, stop_on_signals,
};
use dogwatch_sensor::{log, metrics};
use dogwatch_settings::Program;

const EXIT_CODES: &str = "\
Exit codes:
  0  it ended as it was asked to; what was lost by then, or not delivered, is counted in the log
  1  it could not go on: a damaged capture, a client of Kafka's that ended, a defect
  2  the command line or the configuration cannot be used
  3  the environment lacks something that it needs; `check` says what";

/// Watches the containers of this host and publishes what they do.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    /// Configuration file (TOML); see sensor.toml for every setting and its default.
    #[arg(long, global = true, env = "DOGWATCH_SENSOR_CONFIG")]
    config: Option<PathBuf>,
    /// Kafka brokers, host:port joined by commas; the same as kafka.bootstrap_servers.
    #[arg(long, global = true, value_name = "ADDRESS")]
    kafka: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch this host until SIGTERM, SIGINT or SIGHUP.
    Run {
        /// Where events go.
        #[arg(long, value_enum, default_value = "kafka")]
        output: To,
    },
    /// Write everything that enters into a capture file, publishing nothing.
    ///
    /// A capture holds what the kernel saw before anything is redacted: whole command lines with the passwords and tokens
    /// in them, paths, and user names of every container. The file can be read by its owner alone (mode 0600): keep it so,
    /// and delete it when it has served.
    #[command(group = ArgGroup::new("rotates").args(["rotate_size", "rotate_every"]).multiple(true))]
    Record {
        /// The file to make; one that is there is overwritten. Where it rotates, its files are FILE.000001, FILE.000002 and
        /// so on, each of which can be read alone; they follow those that are there.
        file: PathBuf,
        /// Go on in the next file when one has this size, such as 100MB or 1GiB.
        #[arg(long, value_name = "SIZE", value_parser = rotation::size, allow_hyphen_values = true)]
        rotate_size: Option<u64>,
        /// Go on in the next file after this time, such as 10m or 1h.
        #[arg(long, value_name = "SPAN", value_parser = rotation::every, allow_hyphen_values = true)]
        rotate_every: Option<Duration>,
        /// Files that stay: the oldest is removed for the next, those of earlier recordings of this name included [default: all].
        #[arg(long, value_name = "FILES", value_parser = rotation::keep, allow_hyphen_values = true, requires = "rotates")]
        keep: Option<usize>,
    },
    /// Feed a capture through the same stages; needs no privileges.
    Replay {
        /// The capture; of one that rotates, its files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where events go.
        #[arg(long, value_enum, default_value = "kafka")]
        output: To,
    },
    /// Print every setting in force and where it is from, secrets masked.
    Config,
    /// Go through the steps of a start, publishing nothing, and say what is missing. It ends with 3 where `run` would end.
    Check,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// The configured Kafka.
    Kafka,
    /// Standard output, one JSON object a line.
    Json,
}

impl From<To> for Output {
    fn from(to: To) -> Self {
        match to {
            To::Kafka => Self::Kafka,
            To::Json => Self::Lines,
        }
    }
}

fn main() -> ExitCode {
    dogwatch_sensor::sockets::serve_if_asked();
    return_large_memory();
    match execute(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dogwatch-sensor: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<SensorError>() {
        Some(error) => error.exit_code(),
        None if error.is::<ConfigError>() => 2,
        None => 1,
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let servers = arguments.kafka;
    let flag = |servers| ("kafka.bootstrap_servers", servers);
    let flags: Vec<Flag> = servers.map(flag).into_iter().collect();
    let file = arguments.config.as_deref();
    let config = Config::load(file, &flags)?;
    log::start(&config.log_filter).map_err(|error| ConfigError::BadValue {
        key: "log.filter",
        value: config.log_filter.clone(),
        reason: error.to_string(),
    })?;
    let (input, output) = match arguments.command {
        Command::Run { output } => (Input::Kernel, output.into()),
        Command::Record {
            file,
            rotate_size: size,
            rotate_every: every,
            keep,
        } => {
            let rotation = Rotation { size, every, keep };
            (Input::Recorded(file, rotation), Output::Discard)
        }
        Command::Replay { files, output } => (Input::Replay(files), output.into()),
        Command::Check => return say_what_is_possible(&config),
        Command::Config => {
            dogwatch_settings::print(&Config::show(file, &flags)?)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    dogwatch_settings::tell_unknown(Program::Sensor, std::env::vars_os());
    let listen = config.metrics_listen.filter(|_| input == Input::Kernel);
    hold_signals();
    // First of all: threads made before keep every right.
    let sensor = Loaded::load(config, input)?;
    let shutdown = Shutdown::new();
    stop_on_signals(shutdown.clone(), OnHangup::End)?;
    if let Some(listen) = listen
        && let Err(error) = metrics::serve(listen)
    {
        tracing::warn!(%listen, %error, "metrics are not served: see metrics.listen");
    }
    let Summary {
        events,
        bytes,
        losses,
        ..
    } = sensor.run(output, shutdown, Stats::default())?;
    for (class, lost) in &losses {
        tracing::info!(class, lost, "events were lost");
    }
    let lost: u64 = losses.values().sum();
    tracing::info!(events, bytes, lost, "ended");
    Ok(ExitCode::SUCCESS)
}

fn say_what_is_possible(config: &Config) -> anyhow::Result<ExitCode> {
    let report = check(config);
    dogwatch_settings::print(&report.to_string())?;
    Ok(ExitCode::from(report.exit_code()))
}

/// Large rows come and go. By itself the allocator keeps room for the largest it ever saw, which is some 4 MB, and a heap of
/// its own for each thread, which others free into: one heap is some 5 MB smaller under a flood, and not slower.
fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread is there yet; a value that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
