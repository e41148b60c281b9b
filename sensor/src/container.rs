//! Containers: which one a cgroup belongs to ([`cgroups`]), and what is known of it.
//!
//! What is known beyond the id comes from files ([`sources`]); this module only holds it.

mod annotations;
mod announced;
mod bounded;
mod bundle;
mod cgroups;
mod docker;
mod files;
mod kubelet;
mod lacking;
mod manifest;
mod podman;
mod probes;
mod socket;
mod sources;
mod states;

use std::collections::BTreeMap;

use dogwatch_schemas::{Text, records};
use serde::{Deserialize, Serialize};

pub(crate) use annotations::image_id;
pub(crate) use announced::{Announcement, Bundles};
pub(crate) use cgroups::{Cgroups, cgroup_of};
pub use cgroups::{Membership, membership};
pub(crate) use docker::healthcheck_arguments;
pub(crate) use files::{FileError, Files};
pub(crate) use manifest::{Checks, MANIFEST, PRE_STOP};
pub use probes::Probe;
pub use socket::Socket;
pub(crate) use socket::{LABELS_BYTES_MAX, Protocol, Question, SOCKETS_MAX, SocketAnswer, Told};
pub(crate) use sources::{Request, Sources};
pub(crate) use states::of_running;

/// Where something is, as its cgroup tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// In no container.
    #[default]
    Host,
    /// In this one, the outermost where containers are nested.
    Container(Text),
    /// In a cgroup nothing is known of.
    Unknown,
}

impl Place {
    /// The container's whole id.
    pub fn container(&self) -> Option<&Text> {
        match self {
            Self::Container(id) => Some(id),
            Self::Host | Self::Unknown => None,
        }
    }

    /// The value of `container_id`.
    pub fn name(&self) -> Text {
        match self {
            Self::Host => "host".into(),
            Self::Container(id) => short(id),
            Self::Unknown => "unknown".into(),
        }
    }
}

/// What is known of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The whole id.
    pub id: Text,
    /// Name without a leading slash.
    pub name: Option<Text>,
    /// The runtime.
    pub runtime: Text,
    /// The image as the container was created with it.
    pub image: Option<Text>,
    /// The image's id, 64 hexadecimal digits.
    pub image_id: Option<Text>,
    /// The image's repository.
    pub repository: Option<Text>,
    /// The image's tag.
    pub tag: Option<Text>,
    /// The image's repository digest.
    pub digest: Option<Text>,
    /// Runs privileged.
    pub privileged: Option<bool>,
    /// Shares the host's pid namespace.
    pub host_pid: Option<bool>,
    /// Shares the host's network namespace.
    pub host_network: Option<bool>,
    /// Capabilities added.
    pub cap_add: Option<Vec<Text>>,
    /// Process id of its init, while it runs.
    pub init_pid: Option<u32>,
    /// Start, nanoseconds since 1970.
    pub start_ns: Option<i64>,
    /// Creation, nanoseconds since 1970.
    pub created_ns: Option<i64>,
    /// Labels.
    pub labels: Option<BTreeMap<Text, Text>>,
    /// Configured entrypoint.
    pub entrypoint: Option<Vec<Text>>,
    /// Configured command.
    pub command: Option<Vec<Text>>,
    /// The healthcheck's arguments as they are executed.
    pub healthcheck: Option<Vec<Text>>,
    /// Configured user.
    pub user: Option<Text>,
    /// Mounts from outside the image.
    pub mounts: Vec<Mount>,
    /// The container's cgroup.
    pub cgroup_path: Text,
    /// Where this is known from: `docker_files`, `bundle`, `bundle_and_storage`, `kubelet_logs`, or `cgroup` where no file says
    /// more than the id.
    pub source: Text,
    /// Something of it was too large and is not whole.
    #[serde(default)]
    pub truncated: bool,
    /// The pod, where its labels do not say it.
    #[serde(default)]
    pub pod_name: Option<Text>,
    /// The pod's namespace, likewise.
    #[serde(default)]
    pub pod_namespace: Option<Text>,
    /// The pod's uid, likewise.
    #[serde(default)]
    pub pod_uid: Option<Text>,
    /// Holds a pod's namespaces and does nothing else.
    #[serde(default)]
    pub sandbox: Option<bool>,
    /// Further commands that are healthchecks of it: its pod's manifest or the operator names them.
    #[serde(default)]
    pub probes: Vec<Vec<Text>>,
    /// The pod's manifest says what its probes and hooks are.
    #[serde(default)]
    pub has_manifest: bool,
    /// Its pid namespace was there before it, so its init is not that one's.
    #[serde(default)]
    pub joins_pidns: bool,
    /// A runtime's socket has filled in what files lack.
    #[serde(default)]
    pub socket_told: bool,
    /// Why no socket has, though some are configured.
    #[serde(default)]
    pub socket_fault: Option<Text>,
}

/// A mount from outside the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs` …
    pub kind: Text,
    /// Path on the host, where it has one.
    pub source: Option<Text>,
    /// Path inside the container.
    pub destination: Text,
    /// Whether the container may write to it.
    pub writable: bool,
}

impl Container {
    /// A container of which only the cgroup is known.
    pub fn unknown(membership: &Membership) -> Self {
        Self {
            id: membership.id.clone(),
            name: membership.given_name(),
            runtime: membership.runtime.into(),
            cgroup_path: membership.path.clone(),
            source: "cgroup".into(),
            ..Self::default()
        }
    }

    /// What it takes in memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        // A text on the heap, and its place in a list or map.
        const EACH: usize = 64;
        let labels = self.labels.iter().flatten();
        let lists = [
            &self.cap_add,
            &self.entrypoint,
            &self.command,
            &self.healthcheck,
        ];
        let lists = lists.into_iter().flatten().chain(&self.probes).flatten();
        let mounts = self.mounts.iter().map(|mount| {
            let source = mount.source.as_ref().map_or(0, |source| source.len());
            source + mount.destination.len() + 2 * EACH
        });
        let names = [
            &self.name,
            &self.image,
            &self.repository,
            &self.tag,
            &self.digest,
            &self.pod_name,
            &self.pod_namespace,
            &self.pod_uid,
            &self.socket_fault,
        ];
        size_of::<Self>()
            + 20 * EACH
            + labels
                .map(|(name, value)| name.len() + value.len() + 2 * EACH)
                .sum::<usize>()
            + lists.map(|text| text.len() + EACH).sum::<usize>()
            + mounts.sum::<usize>()
            + names
                .into_iter()
                .flatten()
                .map(|text| text.len())
                .sum::<usize>()
    }

    /// Keeps what was known before of the same container and could not be found out again.
    pub(crate) fn keep(&mut self, before: &Self) {
        let keep = |now: &mut Option<Text>, before: &Option<Text>| {
            if now.is_none() {
                now.clone_from(before);
            }
        };
        // Another image's parts are none of this one's.
        if self.image.is_none() || self.image == before.image {
            keep(&mut self.image, &before.image);
            keep(&mut self.image_id, &before.image_id);
            keep(&mut self.repository, &before.repository);
            keep(&mut self.tag, &before.tag);
            keep(&mut self.digest, &before.digest);
        }
        keep(&mut self.name, &before.name);
        keep(&mut self.user, &before.user);
        keep(&mut self.pod_name, &before.pod_name);
        keep(&mut self.pod_namespace, &before.pod_namespace);
        keep(&mut self.pod_uid, &before.pod_uid);
        self.sandbox = self.sandbox.or(before.sandbox);
        self.privileged = self.privileged.or(before.privileged);
        self.host_pid = self.host_pid.or(before.host_pid);
        self.host_network = self.host_network.or(before.host_network);
        self.created_ns = self.created_ns.or(before.created_ns);
    }

    /// Leaves what tells it apart from others and these labels, and gives up what can be large.
    pub(crate) fn shed(&mut self, labels: Option<BTreeMap<Text, Text>>) {
        self.labels = labels;
        self.entrypoint = None;
        self.command = None;
        self.mounts = Vec::new();
        self.truncated = true;
    }

    /// The mount that holds a path: the longest destination wins.
    pub fn mount_of(&self, path: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .filter(|mount| below(path, &mount.destination).is_some())
            .max_by_key(|mount| mount.destination.len())
    }

    /// Where a path of the container lies on the host; `None` for paths of the image.
    pub fn host_path(&self, path: &str) -> Option<Text> {
        let mount = self.mount_of(path)?;
        let rest = below(path, &mount.destination)?;
        let source = mount.source.as_deref()?.trim_end_matches('/');
        let joined = format!("{source}{rest}");
        Some(if joined.is_empty() {
            "/".into()
        } else {
            joined.into()
        })
    }

    fn label(&self, name: &str) -> Option<Text> {
        self.labels.as_ref()?.get(name).cloned()
    }

    /// The pod's name.
    pub fn pod_name(&self) -> Option<Text> {
        let known = self.pod_name.clone();
        known.or_else(|| self.label("io.kubernetes.pod.name"))
    }

    /// The pod's namespace.
    pub fn pod_namespace(&self) -> Option<Text> {
        let known = self.pod_namespace.clone();
        known.or_else(|| self.label("io.kubernetes.pod.namespace"))
    }

    /// The pod's uid.
    pub fn pod_uid(&self) -> Option<Text> {
        let known = self.pod_uid.clone();
        known.or_else(|| self.label("io.kubernetes.pod.uid"))
    }

    /// The value of `metadata_source`.
    pub fn metadata_source(&self) -> Text {
        match self.socket_told {
            true => format!("{}_and_socket", self.source).into(),
            false => self.source.clone(),
        }
    }

    /// The container's record for `dogwatch.containers`; who says it, and when, is for the caller.
    pub fn record(&self, status: &str) -> records::Container {
        records::Container {
            status: status.into(),
            container_id: short(&self.id),
            container_full_id: self.id.clone(),
            container_name: self.name.clone(),
            container_type: self.runtime.clone(),
            container_image: self.image.clone(),
            container_image_id: self.image_id.clone(),
            container_image_repository: self.repository.clone(),
            container_image_tag: self.tag.clone(),
            container_image_digest: self.digest.clone(),
            container_privileged: self.privileged,
            container_host_pid: self.host_pid,
            container_host_network: self.host_network,
            container_cap_add: self.cap_add.clone(),
            container_start_ts: self.start_ns,
            container_created_ts: self.created_ns,
            container_labels: self.labels.clone(),
            container_entrypoint: self.entrypoint.clone(),
            container_command: self.command.clone(),
            container_healthcheck: self.healthcheck.clone(),
            container_user: self.user.clone(),
            container_mounts: self.mounts.iter().map(Mount::record).collect(),
            container_sandbox: self.sandbox,
            k8s_pod_name: self.pod_name(),
            k8s_ns_name: self.pod_namespace(),
            k8s_pod_uid: self.pod_uid(),
            cgroup_path: Some(self.cgroup_path.clone()),
            metadata_source: Some(self.metadata_source()),
            not_delivered: Some(lacking::reasons(self)).filter(|reasons| !reasons.is_empty()),
            ..records::Container::default()
        }
    }
}

impl Mount {
    fn record(&self) -> records::ContainerMount {
        records::ContainerMount {
            r#type: self.kind.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            writable: self.writable,
        }
    }
}

/// The first 12 characters of an id.
pub fn short(id: &str) -> Text {
    id.get(..12).unwrap_or(id).into()
}

/// What is left of a path below a folder, with its leading slash; empty for the folder itself.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: Option<&str>, destination: &str) -> Mount {
        Mount {
            kind: "bind".into(),
            source: source.map(Text::from),
            destination: destination.into(),
            writable: true,
        }
    }

    #[test]
    fn host_paths_go_through_the_longest_mount() {
        let container = Container {
            mounts: vec![
                mount(Some("/"), "/host"),
                mount(Some("/srv/data"), "/data"),
                mount(Some("/x"), "/data/in"),
                mount(None, "/tmp"),
            ],
            ..Container::default()
        };
        for (path, expected) in [
            ("/data/a/b", Some("/srv/data/a/b")),
            ("/data/in/c", Some("/x/c")),
            ("/data", Some("/srv/data")),
            ("/database", None),
            ("/host/etc/crontab", Some("/etc/crontab")),
            ("/host", Some("/")),
            ("/tmp/a", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(container.host_path(path).as_deref(), expected, "{path}");
        }
    }
}
