//! `dogwatch-sensor check`: the steps of a start, each one gone through, and how it stands.
//!
//! A step that fails does not keep the next ones from being tried, so that one check names all there is to mend.
//! Nothing is published, no topic is made, and no file stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};

use dogwatch_schemas::Text;

use super::load::{
    give_up_rights, load_probe, start_sockets, without_net_bytes, without_open_files,
};
use crate::check::{Finding, Report, State, finding, look};
use crate::config::{Config, KafkaConfig};
use crate::container::{Container, Membership};
use crate::fact::Host;
use crate::gather::known::{Read, Survey};
use crate::host::{self, HostError};
use crate::probe::{Hierarchy, HierarchyKind, ProbeError};
use crate::publish::try_kafka;
use crate::scan;
use crate::sockets::Sockets;
use crate::state::StateFile;

/// Goes through the steps of a start. Afterwards the calling thread has the few rights of a sensor that runs.
pub fn check(config: &Config) -> Report {
    let hierarchy = Hierarchy::find();
    let host = host::identify(config);
    // First of all, as at a start.
    let mut sockets = start_sockets(config);
    let mut findings = look(config);
    findings.push(cgroups(&hierarchy));
    if let Ok(hierarchy) = &hierarchy {
        findings.extend(behind_sockets(&mut sockets));
        let sockets = sockets.as_mut().ok().and_then(Option::as_mut);
        let mut survey = Survey::of(&config.containers, &hierarchy.mount, sockets);
        findings.extend(runtimes(&survey));
        findings.push(recognised(hierarchy, &mut survey));
    }
    findings.push(identity(&host));
    findings.extend(
        hierarchy
            .into_iter()
            .flat_map(|hierarchy| hooks(config, hierarchy)),
    );
    findings.push(rights(config));
    findings.push(kafka(&config.kafka));
    findings.push(state_file(config));
    findings.extend(config.metrics_listen.map(metrics));
    Report { findings }
}

fn cgroups(hierarchy: &Result<Hierarchy, ProbeError>) -> Finding {
    match hierarchy {
        Ok(hierarchy) => {
            let kind = match hierarchy.kind {
                HierarchyKind::Unified => "version 2".to_owned(),
                kind => format!("version 1, {}", kind.controller()),
            };
            finding(
                "cgroups",
                State::Works,
                format!("{kind}, at {}", hierarchy.mount.display()),
            )
        }
        Err(error) => finding("cgroups", State::Refused, error.to_string()),
    }
}

/// Each socket that is configured, and who answers there.
fn behind_sockets(sockets: &mut Result<Option<Sockets>, Text>) -> Vec<Finding> {
    let feature = "runtimes' sockets";
    let sockets = match sockets {
        Ok(Some(sockets)) => sockets,
        Ok(None) => return Vec::new(),
        Err(sentence) => return vec![finding(feature, State::Missing, &**sentence)],
    };
    let greetings = sockets.greet().into_iter();
    let each = greetings.map(|(socket, greeting)| match greeting {
        Ok(who) => {
            let detail = format!("{socket}: {who} answers; {}", socket.delivers());
            finding(feature, State::Works, detail)
        }
        Err(why) => {
            let detail = format!("{socket}: {why}; not delivered: {}", socket.delivers());
            finding(feature, State::Missing, detail)
        }
    });
    each.collect()
}

/// Each runtime whose containers run, and what is known of them.
fn runtimes(survey: &Survey) -> Vec<Finding> {
    let mut by_runtime: BTreeMap<Text, Vec<&(Membership, Read)>> = BTreeMap::new();
    for one in survey.found.values() {
        let runtime = match &one.1 {
            Ok(container) => container.runtime.clone(),
            Err(_) => one.0.runtime.into(),
        };
        by_runtime.entry(runtime).or_default().push(one);
    }
    let found = by_runtime.iter();
    found
        .map(|(runtime, containers)| of_runtime(runtime, containers))
        .collect()
}

fn of_runtime(runtime: &str, containers: &[&(Membership, Read)]) -> Finding {
    let feature = "containers' files";
    let count = containers.len();
    let unread = containers.iter().find_map(|(membership, read)| {
        // Of some kinds nothing is ever read.
        let error = read.as_ref().err().filter(|_| membership.has_files())?;
        let reason = std::error::Error::source(error).map(ToString::to_string);
        Some(format!("{error}: {}", reason.unwrap_or_default()))
    });
    if let Some(error) = unread {
        let detail = format!(
            "{runtime}: {count} run, known by their ids alone ({error}); see docs/containers.md"
        );
        return finding(feature, State::Missing, detail);
    }
    let mut lacking: BTreeSet<Text> = BTreeSet::new();
    let mut sources: BTreeSet<Text> = BTreeSet::new();
    for (membership, read) in containers {
        let unknown = Container::unknown(membership);
        let container = read.as_ref().unwrap_or(&unknown);
        sources.insert(container.metadata_source());
        lacking.extend(
            container
                .record("running")
                .not_delivered
                .into_iter()
                .flatten()
                .map(|(column, _)| column),
        );
    }
    let join = |texts: &BTreeSet<Text>| {
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        texts.join(", ")
    };
    let lacking = match lacking.is_empty() {
        true => "all columns are delivered".to_owned(),
        false => format!("not delivered: {}", join(&lacking)),
    };
    let detail = format!(
        "{runtime}: {count} run, known by {}; {lacking}",
        join(&sources)
    );
    finding(feature, State::Works, detail)
}

/// A process in namespaces of its own, in a cgroup that names no container, is probably in one that is not recognised.
fn recognised(hierarchy: &Hierarchy, survey: &mut Survey) -> Finding {
    let feature = "containers recognised";
    let strangers = scan::unrecognised(hierarchy, |path| survey.membership(path).is_some());
    let Some(first) = strangers.first() else {
        return finding(
            feature,
            State::Works,
            "every process in pid and mount namespaces of its own is in a container's cgroup",
        );
    };
    let detail = format!(
        "{} processes are in pid and mount namespaces of their own, and in a cgroup that names no container \
         (process {} in {}): of their containers (type namespaces) nothing else is known, and they are watched as the host is; \
         docs/containers.md says how a container is recognised",
        strangers.len(),
        first.pid,
        first.cgroup,
    );
    finding(feature, State::Missing, detail)
}

fn identity(host: &Result<Host, HostError>) -> Finding {
    let feature = "host";
    match host {
        Ok(host) => {
            let detail = format!("{}, host_id {}", host.host_name, host.host_id);
            finding(feature, State::Works, detail)
        }
        Err(error) => finding(feature, State::Refused, error.to_string()),
    }
}

fn hooks(config: &Config, hierarchy: Hierarchy) -> Vec<Finding> {
    let seen = "loaded, and exec, fork, exit, open and connect of the check's own were seen";
    let mut probe = match load_probe(config, hierarchy) {
        Ok(probe) => probe,
        Err(error) => return vec![finding("hooks", State::Refused, error.to_string())],
    };
    let mut findings = vec![finding("hooks", State::Works, seen)];
    let (feature, told) = (
        "files of processes",
        "the kernel tells what is open, for io_samples",
    );
    findings.extend(match probe.take_open_files() {
        Ok(files) => files.map(|_| finding(feature, State::Works, told)),
        Err(error) => Some(finding(feature, State::Missing, without_open_files(&error))),
    });
    let (feature, told) = (
        "bytes of processes",
        "the kernel tells what sends and receives return, for process_samples and UDP in io_samples",
    );
    findings.extend(match probe.take_net_bytes() {
        Ok(bytes) => bytes.map(|_| finding(feature, State::Works, told)),
        Err(error) => {
            without_net_bytes(&error).map(|detail| finding(feature, State::Missing, detail))
        }
    });
    findings
}

fn rights(config: &Config) -> Finding {
    let feature = "giving up rights";
    match give_up_rights(config) {
        Ok(()) => finding(
            feature,
            State::Works,
            "capabilities and system calls are given up before anything is read",
        ),
        Err(error) => finding(feature, State::Refused, error.to_string()),
    }
}

fn kafka(config: &KafkaConfig) -> Finding {
    let feature = "Kafka";
    match try_kafka(config) {
        Ok(absent) => {
            let servers = &config.bootstrap_servers;
            let topics = match absent.as_slice() {
                [] => "its topics fit".to_owned(),
                absent => format!("a start makes {}", absent.join(", ")),
            };
            finding(
                feature,
                State::Works,
                format!("{servers} answers, and {topics}"),
            )
        }
        Err(error) if error.is_passing() => {
            let detail = format!(
                "{error}; a sensor watches meanwhile, and keeps kafka.queue_bytes of events"
            );
            finding(feature, State::Missing, detail)
        }
        Err(error) => finding(feature, State::Refused, error.to_string()),
    }
}

fn state_file(config: &Config) -> Finding {
    let feature = "state file";
    let Some(path) = &config.state_file else {
        let detail = "none: every start reports the time since boot as not watched; set state_file";
        return finding(feature, State::Missing, detail);
    };
    match StateFile::new(Some(path.clone())).try_out() {
        Ok(()) => finding(
            feature,
            State::Works,
            format!("{} can be written", path.display()),
        ),
        Err(error) => {
            let detail = format!(
                "{}: {error}; the next start reports the time since boot as not watched; see state_file",
                path.display()
            );
            finding(feature, State::Missing, detail)
        }
    }
}

fn metrics(listen: SocketAddr) -> Finding {
    let feature = "metrics";
    match TcpListener::bind(listen) {
        Ok(_) => finding(feature, State::Works, format!("can be served at {listen}")),
        Err(error) => {
            let detail = format!("{listen}: {error}; they are not served: see metrics.listen");
            finding(feature, State::Missing, detail)
        }
    }
}
