//! What Docker wrote down about a container, read from its own files.
//!
//! `config.v2.json` and `hostconfig.json` are complete 66 to 92 ms before the container's cgroup appears (measured),
//! so reading them then needs neither a root-equivalent socket nor waiting.
//! `parse` is pure; [`Docker::read`] is its edge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::bounded::{Line, List, Map, Measured, Named, Values};
use super::files::{FileError, Files};
use super::{Container, Membership, Mount};

/// Docker's data root.
#[derive(Debug, Clone)]
pub struct Docker {
    root: PathBuf,
    labels: Vec<Text>,
}

impl Docker {
    /// Docker's files below `root`; labels of these names are kept, however many others there are.
    pub fn new(root: &Path, labels: &[Text]) -> Self {
        Self {
            root: root.to_owned(),
            labels: labels.to_vec(),
        }
    }

    /// The configured data root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what Docker knows of a container, below this data root.
    ///
    /// # Errors
    /// Fails when a file is missing, too large or not JSON; worth a retry while the container is being made.
    pub fn read(
        &self,
        files: &Files,
        root: &Path,
        membership: &Membership,
    ) -> Result<Container, FileError> {
        let folder = root.join("containers").join(&*membership.runtime_id);
        let config: ConfigFile = files.json(&folder.join("config.v2.json"))?;
        let host: HostFile = files.json(&folder.join("hostconfig.json"))?;
        // The image's names are a convenience: without them the container is known nevertheless.
        let images = config.driver.as_ref().map(|driver| {
            root.join("image")
                .join(&*driver.text)
                .join("repositories.json")
        });
        let repositories = images
            .and_then(|path| {
                let image = OfImage(&config.image.text);
                files.parse(&path, |parser| image.deserialize(parser)).ok()
            })
            .unwrap_or_default();
        let labels_cut = config.config.labels.as_ref().is_some_and(|map| map.cut);
        let mut container = parse(membership, config, host, &repositories);
        if labels_cut && let Some(labels) = &mut container.labels {
            labels.extend(self.named_labels(files, &folder));
        }
        Ok(container)
    }

    /// Labels that must not go with those there was no room for; only where the file changed meanwhile there are none.
    fn named_labels(&self, files: &Files, folder: &Path) -> BTreeMap<Text, Text> {
        let named = Named {
            path: &["Config", "Labels"],
            names: &self.labels,
        };
        let path = folder.join("config.v2.json");
        files
            .parse(&path, |parser| named.deserialize(parser))
            .unwrap_or_default()
    }
}

/// The part of `config.v2.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFile {
    state: State,
    created: Line,
    config: Config,
    image: Line,
    name: Line,
    driver: Option<Line>,
    mount_points: Option<Values<MountPoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: u32,
    started_at: Line,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    user: Line,
    cmd: Option<List>,
    entrypoint: Option<List>,
    healthcheck: Option<Healthcheck>,
    shell: Option<List>,
    image: Line,
    labels: Option<Map>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<List>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountPoint {
    #[serde(rename = "Source")]
    source: Line,
    #[serde(rename = "Destination")]
    destination: Line,
    #[serde(rename = "RW")]
    writable: bool,
    #[serde(rename = "Type")]
    kind: Line,
}

impl Measured for MountPoint {
    fn bytes(&self) -> usize {
        self.source.text.len() + self.destination.text.len() + self.kind.text.len()
    }

    fn whole(&self) -> bool {
        !self.source.cut && !self.destination.cut
    }
}

/// The part of `hostconfig.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostFile {
    privileged: bool,
    pid_mode: Line,
    network_mode: Line,
    cap_add: Option<List>,
    tmpfs: Option<Map>,
}

/// What `repositories.json` says of one image: repository -> reference -> image id.
#[derive(Debug, Default)]
struct Repositories(BTreeMap<String, BTreeMap<String, String>>);

/// Reads `repositories.json` for one image, holding a single repository of the others at a time.
#[derive(Clone, Copy)]
struct OfImage<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for OfImage<'_> {
    type Value = Repositories;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Repositories, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OfImage<'_> {
    type Value = Repositories;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("repositories")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Repositories, A::Error> {
        /// The map of the key `Repositories`.
        struct Inner<'a>(OfImage<'a>);
        impl<'de> DeserializeSeed<'de> for Inner<'_> {
            type Value = Repositories;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Repositories, D::Error> {
                deserializer.deserialize_map(self)
            }
        }
        impl<'de> Visitor<'de> for Inner<'_> {
            type Value = Repositories;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a map of repositories")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Repositories, A::Error> {
                let OfImage(image) = self.0;
                let mut found = BTreeMap::new();
                while let Some((name, mut references)) =
                    map.next_entry::<String, BTreeMap<String, String>>()?
                {
                    references.retain(|_, id| id == image);
                    if !references.is_empty() {
                        found.insert(name, references);
                    }
                }
                Ok(Repositories(found))
            }
        }
        let mut found = Repositories::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "Repositories" {
                found = map.next_value_seed(Inner(self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

fn parse(
    membership: &Membership,
    file: ConfigFile,
    host: HostFile,
    images: &Repositories,
) -> Container {
    let image = &file.config.image;
    let reference = Reference::split(&image.text, images, &file.image.text);
    let running = file.state.running;
    let healthcheck = file.config.healthcheck.and_then(|check| check.test);
    let points = file.mount_points.unwrap_or_default();
    let tmpfs = host.tmpfs.unwrap_or_default();
    let mut truncated = file.name.cut | image.cut | file.config.user.cut | points.cut | tmpfs.cut;
    let mut whole = |list: List| {
        truncated |= list.cut;
        list
    };
    let (cap_add, entrypoint) = (
        whole(host.cap_add.unwrap_or_default()),
        whole(file.config.entrypoint.unwrap_or_default()),
    );
    let (command, shell) = (
        whole(file.config.cmd.unwrap_or_default()),
        file.config.shell.map(&mut whole),
    );
    // A part of a healthcheck is another program's arguments.
    let healthcheck = healthcheck.map(whole).filter(|check| !check.cut);
    let labels = file.config.labels.unwrap_or_default();
    Container {
        id: membership.id.clone(),
        name: Some(file.name.text.trim_start_matches('/').into()),
        runtime: "docker".into(),
        image_id: Some(file.image.text.trim_start_matches("sha256:").into()),
        image: Some(file.config.image.text),
        repository: reference.repository,
        tag: reference.tag,
        digest: reference.digest,
        privileged: Some(host.privileged),
        host_pid: Some(&*host.pid_mode.text == "host"),
        joins_pidns: host.pid_mode.text.starts_with("container:"),
        host_network: Some(&*host.network_mode.text == "host"),
        cap_add: Some(cap_add.items),
        // A stopped container's file still holds the start before.
        init_pid: Some(file.state.pid).filter(|&pid| running && pid > 0),
        start_ns: timestamp_ns(&file.state.started_at.text).filter(|_| running),
        created_ns: timestamp_ns(&file.created.text),
        entrypoint: Some(entrypoint.items),
        command: Some(command.items),
        healthcheck: healthcheck.and_then(|check| {
            let shell = shell.map(|shell| shell.items);
            healthcheck_arguments(&check.items, shell, "/bin/sh")
        }),
        user: Some(file.config.user.text),
        mounts: mounts(points, tmpfs),
        cgroup_path: membership.path.clone(),
        source: "docker_files".into(),
        truncated: truncated | labels.cut,
        sandbox: Some(is_sandbox(&labels)),
        labels: Some(labels.entries),
        ..Container::default()
    }
}

/// Kubernetes over Docker marks the container that holds a pod's namespaces.
fn is_sandbox(labels: &Map) -> bool {
    labels
        .entries
        .get("io.kubernetes.docker.type")
        .is_some_and(|kind| &**kind == "podsandbox")
}

/// What is executed for a healthcheck; `None` when there is none. A command in one text goes to the shell that the image
/// names, or to `default_shell`.
pub(crate) fn healthcheck_arguments(
    test: &[Text],
    shell: Option<Vec<Text>>,
    default_shell: &str,
) -> Option<Vec<Text>> {
    let (kind, rest) = test.split_first()?;
    match &**kind {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let shell = shell
                .filter(|shell| !shell.is_empty())
                .unwrap_or_else(|| vec![default_shell.into(), "-c".into()]);
            Some(shell.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

fn mounts(points: Values<MountPoint>, tmpfs: Map) -> Vec<Mount> {
    let points = points.items.into_iter().map(|point| Mount {
        kind: point.kind.text,
        source: Some(point.source.text).filter(|source| !source.is_empty()),
        destination: point.destination.text,
        writable: point.writable,
    });
    let memory = tmpfs
        .entries
        .into_iter()
        .map(|(destination, options)| Mount {
            kind: "tmpfs".into(),
            source: None,
            destination,
            writable: !options.split(',').any(|option| option == "ro"),
        });
    points.chain(memory).collect()
}

/// An image reference in its parts.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reference {
    pub repository: Option<Text>,
    pub tag: Option<Text>,
    pub digest: Option<Text>,
}

impl Reference {
    /// Splits a reference of which nothing else is known.
    pub fn of(reference: &str) -> Self {
        Self::split(reference, &Repositories::default(), "")
    }

    /// Splits a reference; an image named by its id is looked up, a digest that is not given too.
    fn split(reference: &str, images: &Repositories, image_id: &str) -> Self {
        let is_id = reference.starts_with("sha256:")
            || (reference.len() >= 12
                && image_id
                    .trim_start_matches("sha256:")
                    .starts_with(reference));
        let reference = if is_id {
            known_name(images, image_id)
        } else {
            Some(reference)
        };
        let Some(reference) = reference.filter(|reference| !reference.is_empty()) else {
            return Self::default();
        };
        let (name, digest) = match reference.split_once('@') {
            Some((name, digest)) => (name, Some(Text::from(digest))),
            None => (reference, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (repository, tag) = match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => (repository, Some(tag.into())),
            None => (name, digest.is_none().then(|| "latest".into())),
        };
        let digest = digest.or_else(|| known_digest(images, repository, image_id));
        Self {
            repository: Some(repository.into()),
            tag,
            digest,
        }
    }
}

fn known_name<'a>(images: &'a Repositories, image_id: &str) -> Option<&'a str> {
    images
        .0
        .values()
        .flatten()
        .find(|(reference, id)| *id == image_id && !reference.contains('@'))
        .map(|(reference, _)| reference.as_str())
}

/// The digest the image was pulled by; Docker leaves `docker.io/` and `library/` out of its names.
fn known_digest(images: &Repositories, repository: &str, image_id: &str) -> Option<Text> {
    let plain = repository
        .trim_start_matches("docker.io/")
        .trim_start_matches("library/");
    images
        .0
        .get(plain)
        .or_else(|| images.0.get(repository))?
        .iter()
        .filter(|(_, id)| *id == image_id)
        .find_map(|(reference, _)| reference.split_once('@').map(|(_, digest)| digest.into()))
}

/// Nanoseconds since 1970 of an RFC 3339 time; `None` for Go's zero time.
pub(super) fn timestamp_ns(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    time.timestamp_nanos_opt().filter(|&ns| ns > 0)
}

#[cfg(test)]
mod tests;
