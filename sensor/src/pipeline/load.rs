//! The start, in the one order that leaves no thread with more rights than it needs:
//!
//! ```text
//! look around ► identify the host ► start the process that asks sockets ► load and attach the kernel part ► give up capabilities ► refuse system calls
//!             ► threads, sockets, files
//! ```
//! `check` goes through the same steps.
//!
//! Rights belong to threads, and a thread has those of the one that starts it. So whoever calls [`Loaded::load`] starts its
//! threads afterwards, or calls it in a thread of its own.

use dogwatch_ebpf::control::Mode;
use dogwatch_schemas::Text;

use super::{Input, SensorError};
use crate::capture::chain::Chain;
use crate::capture::rotation::Recorder;
use crate::check;
use crate::config::{Config, ContainersConfig};
use crate::fact::Host;
use crate::gather::{self, Gatherer};
use crate::host;
use crate::probe::{
    Hierarchy, Policy, Probe, ProbeError, ProbeOptions, Programs, drop_capabilities,
    raise_open_files, refuse_calls,
};
use crate::read::{KernelReader, Origin};
use crate::sample;
use crate::scan;
use crate::sockets::Sockets;

/// A sensor whose kernel part records already, and whose thread has given up what only loading needs.
pub struct Loaded {
    pub(super) config: Config,
    pub(super) origin: Origin,
    pub(super) host: Host,
    pub(super) live: bool,
    /// What this host cannot deliver, for the statuses.
    pub(super) not_delivered: Vec<Text>,
}

impl Loaded {
    /// The host's id: of a replay that of the capture.
    #[must_use]
    pub fn host_id(&self) -> &str {
        &self.host.host_id
    }

    /// Loads the kernel part and gives up privileges of the calling thread; a replay needs and changes none.
    ///
    /// # Errors
    /// Fails when the kernel or the host do not allow it, or when the capture cannot be opened or made.
    pub fn load(mut config: Config, input: Input) -> Result<Self, SensorError> {
        let recording = match input {
            Input::Replay(files) => {
                let (captures, host) = Chain::open(&files)?;
                if let Some(sentence) = passed_over(&config, &host) {
                    tracing::warn!("{sentence}");
                }
                return Ok(Self {
                    config,
                    origin: Origin::Capture(Box::new(captures)),
                    host,
                    live: false,
                    not_delivered: Vec::new(),
                });
            }
            Input::Recorded(file, rotation) => Some((file, rotation)),
            Input::Kernel => None,
        };
        raise_open_files()?;
        let hierarchy = Hierarchy::find()?;
        let host = host::identify(&config)?;
        let sockets = start_sockets(&config);
        let mut not_delivered = not_delivered(&config);
        not_delivered.extend(sockets.as_ref().err().cloned());
        let mut probe = load_probe(&config, hierarchy)?;
        let open_files = probe.take_open_files().unwrap_or_else(|error| {
            not_delivered.push(without_open_files(&error).into());
            None
        });
        // No mark promises what cannot come.
        config.samples.io &= open_files.is_some();
        let carried_bytes = probe.take_net_bytes().unwrap_or_else(|error| {
            not_delivered.extend(without_net_bytes(&error).map(Text::from));
            None
        });
        let cgroup_root = &probe.hierarchy().mount;
        let gatherer = Gatherer::new(config.containers.clone(), cgroup_root, host.mnt_ns)
            .looking_elsewhere(probe.hierarchy().others())
            .believing(host.pid_ns)
            .asking(sockets.unwrap_or_default());
        let record = |(file, rotation)| Recorder::create(file, rotation, host.clone());
        let capture = recording.map(record).transpose()?;
        give_up_rights(&config)?;
        let samples = config.samples;
        Ok(Self {
            config,
            origin: Origin::Kernel(Box::new(KernelReader {
                probe,
                gatherer,
                capture,
                samples,
                open_files,
                carried_bytes,
            })),
            host,
            live: true,
            not_delivered,
        })
    }
}

/// Starts the process that asks runtimes' sockets, where some are configured; the error says what is missing without it.
pub(crate) fn start_sockets(config: &Config) -> Result<Option<Sockets>, Text> {
    let ContainersConfig {
        sockets, labels, ..
    } = &config.containers;
    Sockets::start(sockets, labels).map_err(|error| {
        let sentence = format!(
            "containers.sockets are not asked, since the process that does cannot be started: {error}"
        );
        tracing::warn!("{sentence}");
        sentence.into()
    })
}

/// What is missing where the kernel refuses the iterator.
pub(crate) fn without_open_files(error: &ProbeError) -> String {
    format!(
        "io_samples has no rows of this host, since the kernel refuses its iterator: {error}; samples.io = false says so"
    )
}

/// What is missing where the kernel refuses the programs that count bytes; none where it has nothing to attach them to, which
/// is told without trying.
pub(crate) fn without_net_bytes(error: &ProbeError) -> Option<String> {
    let refused = !matches!(error, ProbeError::NoNetBytes);
    refused.then(|| {
        format!(
            "null are {}, since the kernel refuses the programs that count them: {error}; samples.network = false says so",
            sample::OF_NETWORK
        )
    })
}

/// Loads and attaches the kernel part as configured.
pub(crate) fn load_probe(config: &Config, hierarchy: Hierarchy) -> Result<Probe, ProbeError> {
    Probe::load(&ProbeOptions {
        modes: modes(&hierarchy, config),
        hierarchy: Some(hierarchy),
        ..config.probe_options()
    })
}

/// Takes from the calling thread what only loading needs.
pub(crate) fn give_up_rights(config: &Config) -> Result<(), ProbeError> {
    drop_capabilities()?;
    refuse_calls(if config.kafka.starts_programs() {
        Programs::Allowed
    } else {
        Programs::Refused
    })
}

/// The modes of the cgroups that exist. Where containers are not watched and the sensor is in one, its own is watched until
/// the canary has been seen; then the reader sets it as configured.
fn modes(hierarchy: &Hierarchy, config: &Config) -> Vec<(u64, Policy)> {
    let own = scan::own_cgroup_id(hierarchy);
    let mut modes = gather::modes(&gather::walk(&hierarchy.mount), &config.containers);
    for (id, policy) in &mut modes {
        if Some(*id) == own && policy.mode == Mode::Off {
            policy.mode = Mode::Lifecycle;
        }
    }
    modes
}

/// What the configuration says of the host and a replay passes over: a capture's host is the one that it was recorded on,
/// and the keys of its processes are made of that.
fn passed_over(config: &Config, captured: &Host) -> Option<String> {
    let given = [
        ("host_id", config.host_id.as_ref(), &captured.host_id),
        ("host_name", config.host_name.as_ref(), &captured.host_name),
    ];
    let given = given.into_iter().filter_map(|(key, given, own)| {
        let given = given.filter(|given| *given != own)?;
        Some(format!("{key} = {given:?} is passed over for {own:?}"))
    });
    let tags = config.host_tags != captured.host_tags && config.host_tags.is_some();
    let tags = tags.then(|| "host_tags are passed over".to_owned());
    let given: Vec<String> = given.chain(tags).collect();
    let why = "a replay tells the host that the capture was recorded on";
    (!given.is_empty()).then(|| format!("{why}: {}", given.join(", ")))
}

/// What this host cannot deliver, for the statuses.
fn not_delivered(config: &Config) -> Vec<Text> {
    let report = check::Report {
        findings: check::look(config),
    };
    report.not_delivered().into_iter().map(Text::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_tells_which_settings_of_the_host_it_passes_over() {
        let captured = Host {
            host_id: "h1".into(),
            host_name: "web".into(),
            ..Host::default()
        };
        let passed_over = |settings: &[(&'static str, &str)]| {
            let flags: Vec<_> = settings
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned()))
                .collect();
            passed_over(&Config::load(None, &flags).expect("settings"), &captured)
        };
        assert_eq!(passed_over(&[]), None);
        assert_eq!(passed_over(&[("host_id", "h1")]), None);
        let told = passed_over(&[("host_id", "h2"), ("host_name", "db")]).expect("told");
        assert!(
            told.contains("the host that the capture was recorded on"),
            "{told}"
        );
        assert!(
            told.contains("host_id = \"h2\" is passed over for \"h1\""),
            "{told}"
        );
        assert!(
            told.contains("host_name = \"db\" is passed over for \"web\""),
            "{told}"
        );
    }
}
