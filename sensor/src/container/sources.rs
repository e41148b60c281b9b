//! Everything that says what a container is, in the order in which it is asked.
//!
//! ```text
//! Docker's files   complete: names, labels, healthcheck
//! the bundle       arguments, mounts, capabilities; names where its annotations have them
//!   + Docker's files below the data root that the bundle names
//!   + the storage of Podman and CRI-O
//! kubelet's logs   pod, namespace and container, where nobody else said them
//! ```

use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;

use super::docker::Docker;
use super::files::{FileError, Files};
use super::probes::{self, Probe};
use super::{Container, Membership, bundle, kubelet, podman};

/// Where runtimes keep bundles of containers that nobody announced: `ROOT/ID`, and below it.
const BUNDLE_ROOTS: [(&str, &str); 6] = [
    ("/run/containerd/io.containerd.runtime.v2.task/k8s.io", ""),
    (
        "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby",
        "",
    ),
    ("/run/containerd/io.containerd.runtime.v2.task/moby", ""),
    (
        "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
        "",
    ),
    ("/var/lib/containers/storage/overlay-containers", "userdata"),
    ("/run/containers/storage/overlay-containers", "userdata"),
];

/// What is asked about a container.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub membership: Membership,
    /// Its bundle, where whoever started it named it.
    pub bundle: Option<PathBuf>,
    /// Where its init's process id is written to.
    pub pid_file: Option<PathBuf>,
    /// Folders of bundles.
    pub roots: Vec<PathBuf>,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Sources {
    docker: Docker,
    probes: Vec<Probe>,
}

impl Sources {
    /// Files of this host; Docker's below `docker_root`, and labels of these names are kept however many others there are.
    pub fn new(docker_root: &Path, labels: &[Text], probes: &[Probe]) -> Self {
        Self {
            docker: Docker::new(docker_root, labels),
            probes: probes.to_vec(),
        }
    }

    /// Reads what is known of a container.
    ///
    /// # Errors
    /// Fails where nothing says more than the id; worth a retry while the container is being made.
    pub fn read(&self, files: &Files, request: &Request) -> Result<Container, FileError> {
        let membership = &request.membership;
        let may_be_dockers = matches!(membership.runtime, "docker" | "other");
        let dockers =
            may_be_dockers.then(|| self.docker.read(files, self.docker.root(), membership));
        let mut found = match dockers {
            Some(Ok(container)) => Ok(container),
            Some(Err(error)) => self.read_bundle(files, request).map_err(|other| {
                // Where there is a bundle, it is what should have been readable.
                let announced = request.bundle.is_some();
                if announced { other } else { error }
            }),
            None => self.read_bundle(files, request),
        };
        if found.is_err() {
            let mut container = Container::unknown(membership);
            if kubelet::complete(files, &membership.runtime_id, &mut container) {
                container.source = "kubelet_logs".into();
                found = Ok(container);
            }
        } else if let Ok(container) = &mut found {
            kubelet::complete(files, &membership.runtime_id, container);
        }
        if let Ok(container) = &mut found {
            container.probes.extend(probes::of(&self.probes, container));
        }
        found
    }

    fn read_bundle(&self, files: &Files, request: &Request) -> Result<Container, FileError> {
        let membership = &request.membership;
        let id = &*membership.runtime_id;
        let usual = BUNDLE_ROOTS
            .iter()
            .map(|(root, below)| Path::new(root).join(id).join(below));
        let seen = request.roots.iter().map(|root| root.join(id));
        let mut folders: Vec<PathBuf> = request.bundle.iter().cloned().chain(seen).collect();
        // A word is an id of any runtime, so only its own bundle is believed.
        if membership.given_name().is_none() {
            folders.extend(usual);
        }
        let mut failed = None;
        for folder in folders {
            let pid_file = request.pid_file.as_deref();
            match bundle::read(files, &folder, pid_file, membership) {
                Ok(read) => return Ok(self.completed(files, &folder, read, membership)),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        Err(failed.unwrap_or_else(|| FileError::Unreadable {
            path: "config.json".into(),
            source: std::io::ErrorKind::NotFound.into(),
        }))
    }

    fn completed(
        &self,
        files: &Files,
        folder: &Path,
        read: bundle::Read,
        membership: &Membership,
    ) -> Container {
        let bundle::Read {
            mut container,
            docker_root,
        } = read;
        if let Some(root) = docker_root
            && let Ok(dockers) = self.docker.read(files, &root, membership)
        {
            return dockers;
        }
        if matches!(&*container.runtime, "podman" | "cri-o") {
            podman::complete(files, folder, &membership.runtime_id, &mut container);
        }
        container
    }
}

#[cfg(test)]
mod tests;
