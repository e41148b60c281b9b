//! What Docker wrote down about a container, read from its own files.
//!
//! `config.v2.json` and `hostconfig.json` are complete 66 to 92 ms before the container's cgroup appears (measured),
//! so reading them then needs neither a root-equivalent socket nor waiting.
//! `parse` is pure; [`Docker::read`] is its edge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;
use serde::Deserialize;

use super::{Container, Membership, Mount};

/// Larger files are refused: a container's configuration is some kilobytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a container's files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The file cannot be read: not Docker's container, another data root, or no permission.
    #[error("could not read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any configuration should be.
    #[error("could not read {path}: larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what Docker writes, or is being written.
    #[error("could not parse {path}")]
    Unparsable {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
}

/// Docker's data root.
#[derive(Debug, Clone)]
pub struct Docker {
    root: PathBuf,
}

impl Docker {
    /// Docker's files below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Reads what Docker knows of a container.
    ///
    /// # Errors
    /// Fails when a file is missing, too large or not JSON; worth a retry while the container is being made.
    pub fn read(&self, membership: &Membership) -> Result<Container, DockerError> {
        let folder = self.root.join("containers").join(&*membership.id);
        let config: ConfigFile = read_json(&folder.join("config.v2.json"))?;
        let host: HostFile = read_json(&folder.join("hostconfig.json"))?;
        // The image's names are a convenience: without them the container is known nevertheless.
        let images = config.driver.as_deref().map(|driver| {
            self.root
                .join("image")
                .join(driver)
                .join("repositories.json")
        });
        let repositories: RepositoriesFile = images
            .and_then(|path| read_json(&path).ok())
            .unwrap_or_default();
        Ok(parse(membership, config, host, &repositories))
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DockerError> {
    let unreadable = |source| DockerError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(DockerError::TooLarge {
            path: path.to_owned(),
        });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&bytes).map_err(|source| DockerError::Unparsable {
        path: path.to_owned(),
        source,
    })
}

/// The part of `config.v2.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFile {
    state: State,
    created: String,
    config: Config,
    image: String,
    name: String,
    driver: Option<String>,
    mount_points: Option<BTreeMap<String, MountPoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: u32,
    started_at: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    user: Text,
    cmd: Option<Vec<Text>>,
    entrypoint: Option<Vec<Text>>,
    healthcheck: Option<Healthcheck>,
    shell: Option<Vec<Text>>,
    image: Text,
    labels: Option<BTreeMap<Text, Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountPoint {
    #[serde(rename = "Source")]
    source: Text,
    #[serde(rename = "Destination")]
    destination: Text,
    #[serde(rename = "RW")]
    writable: bool,
    #[serde(rename = "Type")]
    kind: Text,
}

/// The part of `hostconfig.json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostFile {
    privileged: bool,
    pid_mode: String,
    network_mode: String,
    cap_add: Option<Vec<Text>>,
    tmpfs: Option<BTreeMap<Text, String>>,
}

/// `repositories.json`: repository -> reference -> image id.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RepositoriesFile {
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

fn parse(
    membership: &Membership,
    file: ConfigFile,
    host: HostFile,
    images: &RepositoriesFile,
) -> Container {
    let reference = Reference::split(&file.config.image, images, &file.image);
    let running = file.state.running;
    let healthcheck = file.config.healthcheck.and_then(|check| check.test);
    Container {
        id: membership.id.clone(),
        name: Some(file.name.trim_start_matches('/').into()),
        runtime: "docker".into(),
        image_id: Some(file.image.trim_start_matches("sha256:").into()),
        image: Some(file.config.image),
        repository: reference.repository,
        tag: reference.tag,
        digest: reference.digest,
        privileged: Some(host.privileged),
        host_pid: Some(host.pid_mode == "host"),
        host_network: Some(host.network_mode == "host"),
        cap_add: Some(host.cap_add.unwrap_or_default()),
        // A stopped container's file still holds the start before.
        init_pid: Some(file.state.pid).filter(|&pid| running && pid > 0),
        start_ns: timestamp_ns(&file.state.started_at).filter(|_| running),
        created_ns: timestamp_ns(&file.created),
        labels: Some(file.config.labels.unwrap_or_default()),
        entrypoint: Some(file.config.entrypoint.unwrap_or_default()),
        command: Some(file.config.cmd.unwrap_or_default()),
        healthcheck: healthcheck_arguments(healthcheck, file.config.shell),
        user: Some(file.config.user),
        mounts: mounts(
            file.mount_points.unwrap_or_default(),
            host.tmpfs.unwrap_or_default(),
        ),
        cgroup_path: membership.path.clone(),
        source: "docker_files".into(),
    }
}

/// What Docker executes for a healthcheck; `None` when there is none.
fn healthcheck_arguments(test: Option<Vec<Text>>, shell: Option<Vec<Text>>) -> Option<Vec<Text>> {
    let test = test?;
    let (kind, rest) = test.split_first()?;
    match &**kind {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let shell = shell
                .filter(|shell| !shell.is_empty())
                .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            Some(shell.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

fn mounts(points: BTreeMap<String, MountPoint>, tmpfs: BTreeMap<Text, String>) -> Vec<Mount> {
    let points = points.into_values().map(|point| Mount {
        kind: point.kind,
        source: Some(point.source).filter(|source| !source.is_empty()),
        destination: point.destination,
        writable: point.writable,
    });
    let memory = tmpfs.into_iter().map(|(destination, options)| Mount {
        kind: "tmpfs".into(),
        source: None,
        destination,
        writable: !options.split(',').any(|option| option == "ro"),
    });
    points.chain(memory).collect()
}

/// An image reference in its parts.
#[derive(Debug, Default, PartialEq)]
struct Reference {
    repository: Option<Text>,
    tag: Option<Text>,
    digest: Option<Text>,
}

impl Reference {
    /// Splits a reference; an image named by its id is looked up, a digest that is not given too.
    fn split(reference: &str, images: &RepositoriesFile, image_id: &str) -> Self {
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

fn known_name<'a>(images: &'a RepositoriesFile, image_id: &str) -> Option<&'a str> {
    images
        .repositories
        .values()
        .flatten()
        .find(|(reference, id)| *id == image_id && !reference.contains('@'))
        .map(|(reference, _)| reference.as_str())
}

/// The digest the image was pulled by; Docker leaves `docker.io/` and `library/` out of its names.
fn known_digest(images: &RepositoriesFile, repository: &str, image_id: &str) -> Option<Text> {
    let plain = repository
        .trim_start_matches("docker.io/")
        .trim_start_matches("library/");
    images
        .repositories
        .get(plain)
        .or_else(|| images.repositories.get(repository))?
        .iter()
        .filter(|(_, id)| *id == image_id)
        .find_map(|(reference, _)| reference.split_once('@').map(|(_, digest)| digest.into()))
}

/// Nanoseconds since 1970 of an RFC 3339 time; `None` for Go's zero time.
fn timestamp_ns(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    time.timestamp_nanos_opt().filter(|&ns| ns > 0)
}

#[cfg(test)]
mod tests;
