//! What the demo attacks: the best container this machine allows, or a recording.

use std::path::{Path, PathBuf};

use dogwatch_sensor::probe::{Probe, ProbeOptions};
use tempfile::TempDir;

use super::script::Limit;
use super::{DemoError, docker, namespace, tree};
use crate::cli::Target;
use crate::failure::in_full;
use crate::printer::Printer;

/// What the demo attacks.
pub enum Chosen {
    /// A container that runs.
    Live(Live),
    /// A recording, and why.
    Recording(String),
}

/// A container of the demo's, and what belongs to it.
pub struct Live {
    container: Container,
    /// Where the sensor finds what is known of containers.
    pub docker_root: PathBuf,
    /// The package manager the container has.
    pub package_manager: Option<&'static str>,
    /// Holds the tree and the mounts; removed after the container.
    scratch: TempDir,
}

enum Container {
    Docker(docker::Container),
    Namespaces(namespace::Container),
}

impl Live {
    /// The container's whole id.
    pub fn container_id(&self) -> &str {
        match &self.container {
            Container::Docker(container) => container.id(),
            Container::Namespaces(container) => container.id(),
        }
    }

    /// Whether what the container may use of this is limited.
    pub fn has(&self, limit: Limit) -> bool {
        match &self.container {
            Container::Docker(container) => container.has(limit),
            Container::Namespaces(container) => container.has(limit),
        }
    }

    /// The container's network namespace.
    pub fn network_namespace(&self) -> PathBuf {
        match &self.container {
            Container::Docker(container) => container.network_namespace(),
            Container::Namespaces(container) => container.network_namespace(),
        }
    }

    /// A folder for files of the demo.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// Starts what is asked for, or the first of Docker and namespaces that works; says what did not.
///
/// # Errors
/// [`DemoError::Refused`] when what was asked for is not to be had; other variants when files or output refuse.
pub fn choose(asked: Option<Target>, printer: &Printer) -> Result<Chosen, DemoError> {
    if asked == Some(Target::Replay) {
        return Ok(Chosen::Recording("it was asked for".to_owned()));
    }
    // Loading the kernel part and letting it go again is the one proof that this kernel and these privileges suffice.
    if let Err(error) = Probe::load(&ProbeOptions::default()) {
        return otherwise(asked, in_full(&error));
    }
    let scratch = TempDir::with_prefix("dogwatch-demo-").map_err(DemoError::Scratch)?;
    let root = scratch.path().join("tree");
    std::fs::create_dir(&root).map_err(DemoError::Scratch)?;
    let package_manager = match tree::build(&root) {
        Ok(package_manager) => package_manager,
        Err(error) => return otherwise(asked, in_full(&error)),
    };
    let live = |container, docker_root, scratch| {
        Ok(Chosen::Live(Live {
            container,
            docker_root,
            package_manager,
            scratch,
        }))
    };
    if asked != Some(Target::Namespaces) {
        let started =
            docker::root_folder().and_then(|folder| Ok((docker::Container::start(&root)?, folder)));
        match started {
            Ok((container, folder)) => return live(Container::Docker(container), folder, scratch),
            Err(error) if asked.is_some() => return otherwise(asked, in_full(&error)),
            Err(error) => printer.note(&format!(
                "no Docker, so the demo makes a container itself: {}",
                in_full(&error)
            ))?,
        }
    }
    match namespace::Container::start(&root, scratch.path()) {
        Ok(container) => {
            let folder = namespace::root_folder(scratch.path());
            live(Container::Namespaces(container), folder, scratch)
        }
        Err(error) => otherwise(asked, in_full(&error)),
    }
}

/// A recording, unless something else was asked for.
fn otherwise(asked: Option<Target>, reason: String) -> Result<Chosen, DemoError> {
    match asked {
        Some(Target::Docker) => Err(DemoError::Refused {
            target: "docker",
            reason,
        }),
        Some(Target::Namespaces) => Err(DemoError::Refused {
            target: "namespaces",
            reason,
        }),
        Some(Target::Replay) | None => Ok(Chosen::Recording(reason)),
    }
}
