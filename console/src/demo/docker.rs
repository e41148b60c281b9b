//! The demo's container, run by Docker.
//!
//! The image is made on the spot from a file tree (`docker import`); nothing is pulled, and both container and image
//! are removed at the end. The container has no network but its own loopback device.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::script::Limit;
use super::service;

/// The image's tag; its name carries the demo's process id, so two demos do not meet.
const TAG: &str = "1";
/// What the container may use: a fifth of a core, which it gets on a busy machine, too. The kernel of a host without accounts of swap would swap instead of killing.
const LIMITS: [&str; 4] = [
    "--cpus=0.2",
    "--memory=128m",
    "--memory-swap=128m",
    "--memory-swappiness=0",
];

/// Docker does not run the demo's container.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The `docker` program is missing or cannot be started.
    #[error("could not run docker {command}")]
    Spawn {
        /// The subcommand.
        command: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A `docker` command failed.
    #[error("docker {command} failed: {message}")]
    Failed {
        /// The subcommand.
        command: &'static str,
        /// Its last line of errors.
        message: String,
    },
    /// The daemon runs its containers on another kernel, where no sensor of ours looks.
    #[error(
        "the Docker daemon runs its containers on another machine, which this sensor does not watch"
    )]
    Elsewhere,
}

/// A running container; dropping it removes it and its image.
#[derive(Debug)]
pub struct Container {
    name: String,
    image: String,
    id: String,
    init_pid: u32,
    limits: Vec<Limit>,
}

/// Says whether a Docker daemon answers, and where it keeps its files.
///
/// # Errors
/// [`DockerError`] when none does.
pub fn root_folder() -> Result<PathBuf, DockerError> {
    Ok(docker("info", &["--format", "{{.DockerRootDir}}"])?.into())
}

impl Container {
    /// Makes an image of the tree at `root` and starts the service in it, with a healthcheck each second.
    ///
    /// # Errors
    /// [`DockerError`] when Docker refuses, or runs the container elsewhere.
    pub fn start(root: &Path) -> Result<Self, DockerError> {
        let name = format!("dogwatch-demo-{}", std::process::id());
        let image = format!("{name}:{TAG}");
        import(root, &image)?;
        // From here on dropping it removes what there is, whichever step fails.
        let mut container = Self {
            name,
            image,
            id: String::new(),
            init_pid: 0,
            limits: limits()?,
        };
        let mut arguments = vec![
            "--detach",
            "--name",
            &container.name,
            "--hostname",
            "shop",
            "--network",
            "none",
            // Docker's own /dev/shm refuses execution; Kubernetes' and many others' do not.
            "--tmpfs",
            "/dev/shm:rw,exec,nosuid,nodev,size=16m",
            "--health-interval",
            "1s",
            "--health-cmd",
            service::HEALTHCHECK,
        ];
        let limited = |limit: &Limit| {
            let beginning = match limit {
                Limit::Cpu => "--cpus",
                Limit::Memory => "--memory",
            };
            LIMITS
                .into_iter()
                .filter(move |option| option.starts_with(beginning))
        };
        arguments.extend(container.limits.iter().flat_map(limited));
        arguments.extend([&*container.image, service::PATH, service::SUBCOMMAND]);
        container.id = docker("run", &arguments)?;
        let pid = docker("inspect", &["--format", "{{.State.Pid}}", &container.name])?;
        container.init_pid = pid.parse().unwrap_or(0);
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if cgroups.contains(&container.id) {
            Ok(container)
        } else {
            Err(DockerError::Elsewhere)
        }
    }

    /// The container's whole id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether what the container may use of this is limited.
    pub fn has(&self, limit: Limit) -> bool {
        self.limits.contains(&limit)
    }

    /// The container's network namespace.
    pub fn network_namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.init_pid).into()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for (command, arguments) in [
            ("rm", ["--force", &self.name]),
            ("rmi", ["--force", &self.image]),
        ] {
            if let Err(error) = docker(command, &arguments) {
                tracing::warn!(name = self.name, %error, "could not remove the demo's container");
            }
        }
    }
}

/// What Docker can limit on this host.
fn limits() -> Result<Vec<Limit>, DockerError> {
    let can = docker("info", &["--format", "{{.CPUCfsQuota}} {{.MemoryLimit}}"])?;
    let limits = can.split(' ').zip([Limit::Cpu, Limit::Memory]);
    Ok(limits
        .filter(|(can, _)| *can == "true")
        .map(|(_, limit)| limit)
        .collect())
}

/// Streams the tree as an archive into `docker import`.
fn import(root: &Path, image: &str) -> Result<(), DockerError> {
    let spawn = |source| DockerError::Spawn {
        command: "import",
        source,
    };
    let mut archive = Command::new("tar");
    archive
        .arg("--create")
        .arg("--directory")
        .arg(root)
        .arg(".")
        .stdout(Stdio::piped());
    let mut archive = archive.spawn().map_err(spawn)?;
    let stream = archive.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let imported = Command::new("docker")
        .args(["import", "-", image])
        .stdin(stream)
        .output()
        .map_err(spawn)?;
    let archived = archive.wait().map_err(spawn)?;
    if !archived.success() {
        return Err(DockerError::Failed {
            command: "import",
            message: "tar could not archive the tree".to_owned(),
        });
    }
    checked("import", &imported).map(drop)
}

/// Runs a docker command and returns what it printed, without the line's end.
fn docker(command: &'static str, arguments: &[&str]) -> Result<String, DockerError> {
    let mut docker = Command::new("docker");
    docker.arg(command).args(arguments).stdin(Stdio::null());
    checked(
        command,
        &docker
            .output()
            .map_err(|source| DockerError::Spawn { command, source })?,
    )
}

fn checked(command: &'static str, output: &Output) -> Result<String, DockerError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let errors = text(&output.stderr);
    let message = errors
        .lines()
        .last()
        .unwrap_or("no reason given")
        .to_owned();
    Err(DockerError::Failed { command, message })
}
