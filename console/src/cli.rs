//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::query::table::Format;
use crate::{demo, moment};

/// Watches the containers of this machine and says when one of them is attacked.
#[derive(Debug, Parser)]
#[command(
    name = "dogwatch",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
First steps:
  dogwatch demo                 see a real attack on a real container being found
  sudo dogwatch local           watch this machine; alerts come to the terminal
  dogwatch detections list      what is looked for
  dogwatch query --tables       what can be asked, of captures and of a fleet
  dogwatch alerts --follow      alerts of a processor that writes to Kafka

Exit codes:
  0  fine
  1  failure while running
  2  usage or configuration
  3  the environment lacks something: kernel, privileges, broker")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this machine: sensor and stream processor in one process, no Kafka needed.
    ///
    /// Alerts are printed as they come, and once more when there is a later word on them, such as a window's final figures:
    /// for people on a terminal (plain when piped, or when NO_COLOR is set), as JSON with --json. What was lost is said as
    /// soon as it is known. Ends on Ctrl-C, SIGTERM or with its terminal, with a summary; a second Ctrl-C ends it at once.
    ///
    /// Watching needs root and a kernel with BTF; `dogwatch-sensor check` says what this one allows.
    Local(Local),
    /// Attack a container of its own with real processes and show what is found.
    ///
    /// The container is made of a few of this machine's own programs: by Docker when a daemon answers, otherwise from
    /// namespaces and cgroups. Nothing is downloaded, nothing leaves the machine (the attacker's addresses live on the
    /// container's own loopback device), and everything is removed afterwards.
    ///
    /// Without root, without BTF or when the kernel refuses, a recorded attack is replayed instead, and the demo says
    /// so. Exits with 1 when a step was not found, or when the container's healthcheck raised an alert.
    Demo(Demo),
    /// Ask one SELECT of a capture, of a fleet's topics, or of this host
    ///
    /// Tables are events, containers, container_samples, process_samples, syscall_samples, io_samples, sensors, and of a fleet alerts, dead_letters and late; --tables and --columns TABLE
    /// describe them. Without --read, --kafka and --config this host is watched, as root, until Ctrl-C. Nothing is changed, no
    /// consumer group is joined, nothing is committed.
    ///
    /// A filter with some columns gives its rows as they are read, in the order of each partition's log; GROUP BY, ORDER BY,
    /// DISTINCT and joins answer when all is read. Exits with 130 when Ctrl-C cut an answer short.
    Query(Query),
    /// Print the alerts that a processor wrote to Kafka
    ///
    /// They come in the order of their events, whatever host and partition they are of, as far as 64 MiB of alerts reach;
    /// with --follow, those of the same second do. Alerts of other versions are shown with what they have in common with
    /// this one. Only what is committed is read, nothing is changed, no consumer group is joined.
    Alerts(Alerts),
    /// List, check and test the detections
    Detections(Detections),
    /// The demo's victim, inside its container.
    #[command(name = demo::service::SUBCOMMAND, hide = true)]
    DemoService,
    /// The demo's own container runtime, where there is no Docker.
    #[command(name = demo::runtime::SUBCOMMAND, hide = true)]
    DemoRuntime {
        /// The tree, a folder for mounts, and the cgroups.
        arguments: Vec<OsString>,
    },
}

/// What `local` and `demo` share.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Folder of detections [default: found beside the program, in the repository around it or around the working
    /// directory, or in /usr/share/dogwatch/detections; the start-up line says which]
    #[arg(long, value_name = "DIR")]
    pub detections: Option<PathBuf>,

    /// Settings of the sensor (see sensor.toml); with --kafka its kafka section holds for the processor too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Run through a Kafka broker instead of inside this process: the sensor publishes, the processor consumes, and
    /// the alerts shown are read back from the alerts' topic, committed ones only
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,

    /// Write each alert as one line of JSON to standard output; everything else goes to standard error
    #[arg(long)]
    pub json: bool,
}

/// Options of `local`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo dogwatch local
  sudo dogwatch local --json | jq .message
  sudo dogwatch local --json --events | jq 'select(.evt_type == \"connect\") | .fd_name'
  sudo dogwatch local --alerts /var/log/dogwatch/alerts.jsonl
  sudo dogwatch local --kafka 127.0.0.1:9092")]
pub struct Local {
    /// What `local` and `demo` share.
    #[command(flatten)]
    pub watch: Watch,

    /// With --json: write each event to standard output, too; events have `evt_type`, alerts `alert_id`
    ///
    /// Events come before their alerts. With --kafka they are read back from their topic, those of other hosts, too.
    #[arg(long, requires = "json")]
    pub events: bool,

    /// Append each alert, and each later word on it, as one line of JSON to FILE as well
    ///
    /// The file may be moved away (it is made anew with the next alert, at once on SIGHUP) or copied and cut. While it
    /// cannot be written, as on a full disk, watching goes on; what is missing is counted, and the exit code is 1.
    #[arg(long, value_name = "FILE")]
    pub alerts: Option<PathBuf>,
}

/// Options of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo dogwatch demo
  dogwatch demo --with replay
  dogwatch demo --fleet
  sudo dogwatch demo --kafka 127.0.0.1:9092")]
pub struct Demo {
    /// What `local` and `demo` share.
    #[command(flatten)]
    pub watch: Watch,

    /// What to attack [default: the first that works]
    #[arg(long, value_name = "WHAT")]
    pub with: Option<Target>,

    /// Simulate three hosts, and an attack that only all of them together show
    ///
    /// They replay what was recorded in one container, each with an id and a clock of its own. No root is needed.
    #[arg(long, conflicts_with = "with")]
    pub fleet: bool,
}

/// Options of `alerts`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch alerts --since 1h
  dogwatch alerts --follow --kafka broker:9092
  dogwatch alerts --config /etc/dogwatch/processor.toml --json | jq .message

Settings come from the file, then the environment (DOGWATCH_KAFKA__BOOTSTRAP_SERVERS,
DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD_FILE), then --kafka.")]
pub struct Alerts {
    /// Settings of a processor or a sensor: brokers, topics, TLS, SASL (see processor.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Brokers, host:port separated by commas (kafka.bootstrap_servers)
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,

    /// Begin so long ago, such as 1h, or at a time, such as 2026-01-31T12:00:00Z [default: with all that is kept; with
    /// --follow now]
    #[arg(long, value_name = "SPAN", value_parser = moment::begin, allow_hyphen_values = true)]
    pub since: Option<DateTime<Utc>>,

    /// Write each alert as one line of JSON
    #[arg(long)]
    pub json: bool,

    /// Go on with the alerts that come, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
}

/// Options of `query`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dogwatch query --tables
  dogwatch query --columns events
  dogwatch query --read some.capture \"SELECT ts, proc_cmdline FROM events WHERE evt_type = 'execve'\"
  dogwatch query --read some.capture.* \"SELECT evt_type, count(*) FROM events GROUP BY 1\"
  dogwatch query --config /etc/dogwatch/processor.toml --since 1h \"SELECT container_name, count(*) FROM events GROUP BY 1\"
  sudo dogwatch query \"SELECT proc_name, fd_name FROM events WHERE evt_type = 'connect'\"
  sudo dogwatch query --for 10s \"SELECT proc_name, count(*) AS n FROM events GROUP BY 1 ORDER BY n DESC LIMIT 10\"

Times are UTC. Settings come from the file, then the environment (DOGWATCH_KAFKA__BOOTSTRAP_SERVERS), then --kafka.")]
pub struct Query {
    /// The query: one SELECT
    #[arg(value_name = "SELECT", allow_hyphen_values = true)]
    pub query: Option<String>,

    /// More captures, as a shell writes --read some.capture.*
    #[arg(value_name = "FILE")]
    pub more: Vec<String>,

    /// Ask a capture (dogwatch-sensor record), or several in the order of their times; needs no privileges
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["kafka", "config"])]
    pub read: Vec<PathBuf>,

    /// Settings of a processor or a sensor: brokers, topics, TLS, SASL (see processor.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Brokers, host:port separated by commas (kafka.bootstrap_servers)
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,

    /// Only what happened since then: so long ago, such as 1h, or a time [default: all that is kept; with --follow now]
    #[arg(long, value_name = "TIME", value_parser = moment::begin, allow_hyphen_values = true)]
    pub since: Option<DateTime<Utc>>,

    /// Only what happened before then
    ///
    /// Topics are read to an hour beyond it: what a sensor sent later than that is not looked at.
    #[arg(long, value_name = "TIME", value_parser = moment::moment, allow_hyphen_values = true, conflicts_with_all = ["follow", "span"])]
    pub until: Option<DateTime<Utc>>,

    /// Only what happened then: the minute of '2026-01-31 12:00', the second of 2026-01-31T12:00:05Z
    #[arg(long, value_name = "TIME", value_parser = moment::stretch, allow_hyphen_values = true, conflicts_with_all = ["since", "until", "follow", "span"])]
    pub at: Option<(DateTime<Utc>, DateTime<Utc>)>,

    /// How rows are written
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,

    /// Go on with the rows that come, until Ctrl-C; for filters and columns
    #[arg(long, conflicts_with = "read")]
    pub follow: bool,

    /// Read for so long what comes, such as 10s, and answer then
    #[arg(long = "for", value_name = "SPAN", value_parser = moment::span, allow_hyphen_values = true, conflicts_with = "read")]
    pub span: Option<Duration>,

    /// Most memory that the answer may take, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1_024, value_parser = memory)]
    pub memory: usize,

    /// Print how the query is run, and do not run it
    #[arg(long)]
    pub explain: bool,

    /// Describe the tables
    #[arg(long, exclusive = true)]
    pub tables: bool,

    /// Describe the columns of a table
    #[arg(long, value_name = "TABLE", exclusive = true)]
    pub columns: Option<String>,
}

/// MiB of memory, within what a machine may have.
fn memory(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(mib @ 16..=1_048_576) => Ok(mib),
        _ => Err("give a number of MiB from 16 to 1048576".to_owned()),
    }
}

/// What the demo attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A container run by Docker
    Docker,
    /// A container made of namespaces and cgroups by the demo itself
    Namespaces,
    /// Nothing: a recorded attack is replayed, without privileges
    Replay,
}

/// List, check and test the detections.
#[derive(Debug, Args)]
pub struct Detections {
    /// What to do with them.
    #[command(subcommand)]
    pub action: DetectionsAction,
}

/// What to do with detections.
#[derive(Debug, Subcommand)]
pub enum DetectionsAction {
    /// Print what each detection looks for; with --kafka or --config the sets that are published
    List(List),
    /// Check that every file loads: header, SQL, columns; exits with 1 when one is refused
    ///
    /// Warnings say what is wrong with files that load: a value that no sensor sends, conditions that no event passes,
    /// negations that leave out what is unknown, reads of files that no sensor publishes every time, blank cells in lists.
    /// Each has its line and its mend. Remarks say what a header leaves open.
    Lint(Lint),
    /// Print how each detection is run, and the most memory that one over windows can take
    Explain(Folder),
    /// Run every detection over the events beside it (NAME.events.jsonl) and compare with the alerts it must give
    /// (NAME.alerts.jsonl); exits with 1 and prints the difference when they are not the same
    Test(Test),
    /// Publish a folder as the set that all processors with detections.source = "topic" run from then on
    ///
    /// Every file must load. What changes is printed; a set that loses more than half of the detections that run is refused
    /// without --force.
    Publish(Publish),
    /// Publish a set of before once more, under the next number
    Rollback(Rollback),
    /// Print which set each partition was last run with
    Loaded(Brokers),
    /// Make a key for signing sets, in a new file; prints the public half for detections.trusted_keys
    Keygen {
        /// Where the key goes; nobody but you may read it
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Where sets of detections are published.
#[derive(Debug, Args)]
pub struct Brokers {
    /// Settings of a processor: brokers, topics, TLS, SASL, trusted keys (see processor.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Brokers, host:port separated by commas (kafka.bootstrap_servers)
    #[arg(long, value_name = "ADDRESS")]
    pub kafka: Option<String>,
}

/// What `list` prints.
#[derive(Debug, Args)]
pub struct List {
    /// The folder.
    #[command(flatten)]
    pub folder: Folder,

    /// The brokers.
    #[command(flatten)]
    pub brokers: Brokers,
}

/// How a set is published.
#[derive(Debug, Args)]
pub struct Publishing {
    /// The brokers.
    #[command(flatten)]
    pub brokers: Brokers,

    /// Sign it with the key in this file (PEM, Ed25519)
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Publish it though more than half of what runs is lost, or nothing changes
    #[arg(long)]
    pub force: bool,

    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// What `publish` does.
#[derive(Debug, Args)]
pub struct Publish {
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// How.
    #[command(flatten)]
    pub how: Publishing,
}

/// What `rollback` does.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The number of the set, as `list --kafka` prints it
    #[arg(value_name = "NUMBER")]
    pub number: u64,

    /// How.
    #[command(flatten)]
    pub how: Publishing,
}

/// A folder of detections.
#[derive(Debug, Args)]
pub struct Folder {
    /// The folder [default: found as `dogwatch local` finds it]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// What `lint` does with a folder.
#[derive(Debug, Args)]
pub struct Lint {
    /// The folder.
    #[command(flatten)]
    pub folder: Folder,

    /// Settings of the sensors (see sensor.toml): which reads they publish every time [default: those of sensor.toml]
    #[arg(long, value_name = "FILE")]
    pub sensor_config: Option<PathBuf>,

    /// Exit with 1 for warnings, too
    #[arg(long)]
    pub strict: bool,
}

/// What `test` does with a folder.
#[derive(Debug, Args)]
pub struct Test {
    /// The folder.
    #[command(flatten)]
    pub folder: Folder,

    /// Write what comes out as what is expected; read the difference before it is committed
    #[arg(long)]
    pub update: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
