//! What an OCI runtime is told about a container: its bundle's `config.json`, the same for all of them.
//!
//! `runc|crun … create --bundle DIR ID` reads it, so it is complete before the container's cgroup appears, whoever wrote it.
//! It has arguments, user, capabilities, mounts and namespaces; names stand in its annotations, or nowhere in it.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;
use serde::Deserialize;
use serde::de::{DeserializeSeed as _, Deserializer, IgnoredAny};

use super::annotations::{NAMES, Told};
use super::bounded::{Chosen, Entries, Line, List, Measured, Values};
use super::docker::Reference;
use super::files::{FileError, Files};
use super::manifest::Checks;
use super::{Container, Membership, Mount};
use crate::host::HOST_PIDS;

/// What runtimes leave a container without being asked: Docker's and containerd's list, of which the others' are parts.
const CAPABILITIES_BY_DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Capabilities up to Linux 3.16; a container that has as many has all its runtime knows of.
const CAPABILITIES_ALL: usize = 38;
/// Written by the runtime or its shim: the init's process id.
const PID_FILES: [&str; 2] = ["init.pid", "pidfile"];

/// The part of `config.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    process: Option<Process>,
    root: Option<Root>,
    mounts: Option<Values<SpecMount>>,
    linux: Option<Linux>,
    #[serde(deserialize_with = "annotations")]
    annotations: Entries,
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
    Chosen(&NAMES).deserialize(deserializer)
}

/// The same of a pod's sandbox.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotated {
    #[serde(deserialize_with = "annotations")]
    annotations: Entries,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    args: Option<List>,
    user: User,
    capabilities: Option<Capabilities>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    uid: u32,
    gid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    bounding: Option<List>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Root {
    path: Line,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecMount {
    destination: Line,
    #[serde(rename = "type")]
    kind: Option<Line>,
    source: Option<Line>,
    options: Option<List>,
}

impl Measured for SpecMount {
    fn bytes(&self) -> usize {
        let source = self.source.as_ref().map_or(0, |source| source.text.len());
        let options = self.options.iter().flat_map(|options| &options.items);
        self.destination.text.len() + source + options.map(|option| option.len()).sum::<usize>()
    }

    fn whole(&self) -> bool {
        !self.destination.cut && self.source.as_ref().is_none_or(|source| !source.cut)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Option<Values<Namespace>>,
    masked_paths: Option<List>,
    seccomp: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: Line,
    path: Option<Line>,
}

impl Measured for Namespace {
    fn bytes(&self) -> usize {
        self.kind.text.len() + self.path.as_ref().map_or(0, |path| path.text.len())
    }

    fn whole(&self) -> bool {
        true
    }
}

/// What a bundle says of a container, and what it says of other files.
#[derive(Debug)]
pub(super) struct Read {
    pub container: Container,
    /// Docker's data root, where the container is Docker's.
    pub docker_root: Option<PathBuf>,
}

/// Reads a container's bundle.
///
/// # Errors
/// Fails when `config.json` is missing, too large or not JSON.
pub(super) fn read(
    files: &Files,
    folder: &Path,
    pid_file: Option<&Path>,
    membership: &Membership,
) -> Result<Read, FileError> {
    let path = folder.join("config.json");
    let spec: Spec = files.json(&path)?;
    let mut told = Told::of(spec.annotations.clone());
    if told.sandbox == Some(false) && told.manifest.is_none() {
        let sandbox = told.sandbox_id.as_deref();
        told.manifest = sandbox.and_then(|id| manifest_of(files, folder, membership, id));
    }
    let written_ns = files
        .metadata(&path)
        .map(|metadata| metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec());
    let docker_root = docker_root(&spec, &membership.runtime_id);
    let runtime = told
        .runtime
        .unwrap_or_else(|| runtime(folder, membership.runtime));
    let mut container = container(membership, spec, told, |path| is_hosts(files, path));
    container.runtime = runtime.into();
    container.created_ns = container.created_ns.or(written_ns);
    (container.init_pid, container.start_ns) = init(files, folder, pid_file).unzip();
    Ok(Read {
        container,
        docker_root,
    })
}

/// The manifest among the annotations of a container's sandbox, whose bundle lies beside the container's own.
fn manifest_of(
    files: &Files,
    folder: &Path,
    membership: &Membership,
    sandbox: &str,
) -> Option<Text> {
    let is_id = sandbox.len() == 64 && sandbox.bytes().all(|byte| byte.is_ascii_hexdigit());
    let own = OsStr::new(&*membership.runtime_id);
    let parts = folder.iter();
    let beside = parts.map(|part| {
        if part == own {
            OsStr::new(sandbox)
        } else {
            part
        }
    });
    let path: PathBuf = beside.collect();
    if !is_id || path == folder {
        return None;
    }
    let sandbox: Annotated = files.json(&path.join("config.json")).ok()?;
    Told::of(sandbox.annotations).manifest
}

fn container(
    membership: &Membership,
    spec: Spec,
    told: Told,
    is_hosts: impl Fn(&str) -> Option<bool>,
) -> Container {
    let process = spec.process.unwrap_or_default();
    let linux = spec.linux.unwrap_or_default();
    let capabilities = process.capabilities.and_then(|sets| sets.bounding);
    let capabilities = capabilities.unwrap_or_default();
    let unmasked = linux
        .masked_paths
        .is_none_or(|paths| paths.items.is_empty());
    let all = capabilities.items.len() >= CAPABILITIES_ALL;
    let privileged = told
        .privileged
        .unwrap_or(all && unmasked && linux.seccomp.is_none());
    let namespaces = linux.namespaces.unwrap_or_default().items;
    let shares = |kind: &str| shares(&namespaces, kind, &is_hosts);
    let args = process.args.unwrap_or_default();
    let mounts = spec.mounts.unwrap_or_default();
    let labels_cut = told.labels.as_ref().is_some_and(|labels| labels.cut);
    let truncated = args.cut | mounts.cut | spec.annotations.cut | labels_cut;
    let reference = told.image.as_deref().map(Reference::of).unwrap_or_default();
    let checks = Checks::of(
        told.manifest.as_deref(),
        told.pre_stop.as_deref(),
        told.name.as_deref(),
    );
    Container {
        id: membership.id.clone(),
        name: told.name.or_else(|| membership.given_name()),
        image: told.image,
        image_id: told.image_id,
        repository: reference.repository,
        tag: reference.tag,
        digest: reference.digest.or(told.digest),
        privileged: Some(privileged),
        host_pid: shares("pid"),
        host_network: shares("network"),
        cap_add: Some(added(&capabilities.items, privileged)),
        created_ns: told.created_ns,
        labels: told.labels.map(|labels| labels.entries),
        command: Some(args.items),
        user: Some(format!("{}:{}", process.user.uid, process.user.gid).into()),
        mounts: mounts.items.into_iter().filter_map(mount).collect(),
        cgroup_path: membership.path.clone(),
        source: "bundle".into(),
        truncated,
        pod_name: told.pod_name,
        pod_namespace: told.pod_namespace,
        pod_uid: told.pod_uid,
        // Whoever makes sandboxes says so.
        sandbox: told.sandbox.or(Some(false)),
        healthcheck: checks.healthcheck,
        probes: checks.others,
        has_manifest: checks.has_manifest,
        joins_pidns: joins(&namespaces, "pid"),
        ..Container::default()
    }
}

/// Who started a container whose annotations do not say it.
pub(super) fn runtime(folder: &Path, by_cgroup: &'static str) -> &'static str {
    let folder = folder.to_string_lossy();
    match by_cgroup {
        _ if folder.contains("/buildkit/") => "buildkit",
        _ if folder.contains("/moby/") => "docker",
        _ if folder.contains("/io.containerd.runtime.") => "containerd",
        _ if folder.contains("-containers/") && folder.ends_with("/userdata") => "podman",
        "other" => "oci",
        known => known,
    }
}

/// Capabilities beyond those everybody has, without their prefix; all of them are `ALL`, as Docker has it. What is
/// privileged needs none added.
fn added(bounding: &[Text], privileged: bool) -> Vec<Text> {
    if privileged {
        return Vec::new();
    }
    if bounding.len() >= CAPABILITIES_ALL {
        return vec!["ALL".into()];
    }
    let plain = bounding
        .iter()
        .map(|name| name.strip_prefix("CAP_").unwrap_or(name));
    plain
        .filter(|name| !CAPABILITIES_BY_DEFAULT.contains(name))
        .map(Text::from)
        .collect()
}

/// Whether a container has the host's namespace: it has where none is made and none is named.
fn shares(
    namespaces: &[Namespace],
    kind: &str,
    is_hosts: impl Fn(&str) -> Option<bool>,
) -> Option<bool> {
    let mut of_kind = namespaces.iter().filter(|one| &*one.kind.text == kind);
    let Some(one) = of_kind.next() else {
        return Some(true);
    };
    let path = one.path.as_ref().filter(|path| !path.text.is_empty());
    path.map_or(Some(false), |path| is_hosts(&path.text))
}

/// Whether a container is put into a namespace that is there already.
fn joins(namespaces: &[Namespace], kind: &str) -> bool {
    let mut of_kind = namespaces.iter().filter(|one| &*one.kind.text == kind);
    let path = of_kind.next().and_then(|one| one.path.as_ref());
    path.is_some_and(|path| !path.text.is_empty())
}

/// Whether a path names the host's namespace of its kind.
fn is_hosts(files: &Files, path: &str) -> Option<bool> {
    let inode = |path: &str| Some(std::fs::metadata(path).ok()?.ino());
    let (kind, named) = if path.starts_with("/proc/") {
        (path.rsplit('/').next()?, inode(path)?)
    } else {
        // A network that outlives its processes: the only kind that is kept as a file.
        ("net", files.metadata(Path::new(path))?.ino())
    };
    let hosts = |pid: &u32| inode(&format!("/proc/{pid}/ns/{kind}"));
    Some(HOST_PIDS.iter().find_map(hosts)? == named)
}

/// Mounts from outside the image: what the kernel itself provides is none.
fn mount(mount: SpecMount) -> Option<Mount> {
    let options = mount.options.unwrap_or_default().items;
    let has = |option: &str| options.iter().any(|one| &**one == option);
    let kind = mount.kind.map(|kind| kind.text).unwrap_or_default();
    let bind = &*kind == "bind" || has("bind") || has("rbind");
    let devices = &*mount.destination.text == "/dev" || mount.destination.text.starts_with("/dev/");
    let memory = &*kind == "tmpfs" && !devices;
    (bind || memory).then(|| Mount {
        kind: if bind { "bind".into() } else { "tmpfs".into() },
        source: mount.source.map(|source| source.text).filter(|_| bind),
        destination: mount.destination.text,
        writable: !has("ro"),
    })
}

/// The container's init and when it was made, from whoever wrote its process id down.
fn init(files: &Files, folder: &Path, pid_file: Option<&Path>) -> Option<(u32, i64)> {
    let usual = PID_FILES.iter().map(|name| folder.join(name));
    let paths = pid_file.map(Path::to_owned).into_iter().chain(usual);
    paths.into_iter().find_map(|path| {
        let (text, metadata) = files.short_text(&path)?;
        let pid = text.trim().parse().ok().filter(|&pid: &u32| pid > 0)?;
        let written_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        Some((pid, written_ns))
    })
}

/// Docker's data root, from the files that it mounts into each container or from the container's root.
fn docker_root(spec: &Spec, id: &str) -> Option<PathBuf> {
    let marker = format!("/containers/{id}/");
    let mounts = spec.mounts.iter().flat_map(|mounts| &mounts.items);
    let sources = mounts.filter_map(|mount| Some(&*mount.source.as_ref()?.text));
    let by_mount = sources
        .filter_map(|source| source.split_once(&*marker))
        .map(|(root, _)| PathBuf::from(root))
        .next();
    by_mount.or_else(|| {
        let root = &spec.root.as_ref()?.path.text;
        let (root, _) = root.split_once("/overlay2/")?;
        Some(root.into())
    })
}

#[cfg(test)]
mod tests;
