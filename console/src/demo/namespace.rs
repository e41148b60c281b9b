//! The demo's container where no Docker answers: cgroups, namespaces and an overlay of our own.
//!
//! This side makes the cgroups (named as Docker names them, so that it is recognised as a container) and the files a
//! runtime leaves behind about it, starts [`super::runtime`] and cleans up. Everything lives in one scratch folder and
//! in `<hierarchy>/dogwatch-demo`.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::script::Limit;
use super::{runtime, service};

/// Our own folder in each cgroup hierarchy.
const CGROUP: &str = "dogwatch-demo";
/// Hierarchies of version 1 that the sensor may look at, and that account for what is used.
const CONTROLLERS: [&str; 4] = ["pids", "memory", "cpu", "cpuacct"];
/// Files that limit what a cgroup may use, of version 1 and 2, and what is written to them: a fifth of a core, and 128 MiB without swap.
const CPU: [(&str, &str); 2] = [("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 100000")];
const MEMORY: [(&str, &str); 2] = [
    ("memory.limit_in_bytes", "134217728"),
    ("memory.max", "134217728"),
];
const NO_SWAP: [(&str, &str); 2] = [("memory.swappiness", "0"), ("memory.swap.max", "0")];
/// How long the kernel may take to let a cgroup go after its last process.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);

/// The demo cannot make a container of its own.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A file or cgroup could not be made or read.
    #[error("could not {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The part that enters the namespaces did not start.
    #[error("could not start the demo's container: {message}")]
    Runtime {
        /// What it said.
        message: String,
    },
}

/// A running container; dropping it ends its processes and removes its cgroups.
#[derive(Debug)]
pub struct Container {
    id: String,
    runtime: Child,
    cgroups: Vec<PathBuf>,
    limits: Vec<Limit>,
}

/// The folder below `scratch` that holds what Docker would keep in its data root.
pub fn root_folder(scratch: &Path) -> PathBuf {
    scratch.join("docker")
}

impl Container {
    /// Starts the service on the tree at `root`; `scratch` is an empty folder that outlives the container.
    ///
    /// # Errors
    /// [`NamespaceError`] when the kernel refuses a namespace, a mount or a cgroup.
    pub fn start(root: &Path, scratch: &Path) -> Result<Self, NamespaceError> {
        let id = random_id()?;
        describe(&root_folder(scratch), &id)?;
        let mounts = scratch.join("mounts");
        attempt("make", &mounts, std::fs::create_dir(&mounts))?;
        let cgroups = make_cgroups(&id)?;
        let limits = limit(&cgroups);
        let mut command = Command::new(attempt(
            "find",
            Path::new("/proc/self/exe"),
            std::env::current_exe(),
        )?);
        command
            .arg(runtime::SUBCOMMAND)
            .arg(root)
            .arg(mounts)
            .args(&cgroups);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A Ctrl-C is for the demo, which ends its container in order.
        command.process_group(0);
        let runtime = command.spawn().map_err(|error| NamespaceError::Runtime {
            message: error.to_string(),
        })?;
        // From here on dropping it cleans up, whichever step fails.
        let mut container = Self {
            id,
            runtime,
            cgroups,
            limits,
        };
        container.await_ready()?;
        Ok(container)
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
        format!("/proc/{}/ns/net", self.runtime.id()).into()
    }

    fn await_ready(&mut self) -> Result<(), NamespaceError> {
        let mut line = String::new();
        if let Some(stdout) = self.runtime.stdout.take() {
            // An unreadable pipe is an empty line, and standard error says more.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        if line.trim_end() == runtime::READY {
            return Ok(());
        }
        let mut message = String::new();
        if let Some(mut stderr) = self.runtime.stderr.take() {
            let _ = stderr.read_to_string(&mut message);
        }
        Err(NamespaceError::Runtime {
            message: message.trim().to_owned(),
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // With the runtime its first process dies, and with that every process of the namespace.
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
        for cgroup in &self.cgroups {
            if let Err(error) = remove_cgroup(cgroup) {
                tracing::warn!(cgroup = %cgroup.display(), %error, "could not remove the demo's cgroup");
            }
        }
    }
}

fn random_id() -> Result<String, NamespaceError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    attempt(
        "read",
        path,
        std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)),
    )?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes what a runtime writes about a container: name, image, command and healthcheck.
fn describe(docker_root: &Path, id: &str) -> Result<(), NamespaceError> {
    let folder = docker_root.join("containers").join(id);
    attempt("make", &folder, std::fs::create_dir_all(&folder))?;
    let now = chrono::Utc::now().to_rfc3339();
    let config = serde_json::json!({
        "ID": id,
        "Created": now,
        "State": { "Running": false, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z" },
        "Name": "/dogwatch-demo",
        "Image": "",
        "Config": {
            "Image": "dogwatch-demo:1",
            "Cmd": [service::PATH, service::SUBCOMMAND],
            "Healthcheck": { "Test": ["CMD-SHELL", service::HEALTHCHECK] },
        },
    });
    let host = serde_json::json!({
        "NetworkMode": "none",
        "Privileged": false,
        "Tmpfs": { "/dev/shm": "rw,exec,nosuid,nodev,size=16m" },
    });
    for (name, content) in [("config.v2.json", config), ("hostconfig.json", host)] {
        let path = folder.join(name);
        attempt("write", &path, std::fs::write(&path, content.to_string()))?;
    }
    Ok(())
}

/// Makes a cgroup that is named like a container's in every hierarchy a sensor may look at.
fn make_cgroups(id: &str) -> Result<Vec<PathBuf>, NamespaceError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = attempt("read", path, std::fs::read_to_string(path))?;
    let mut cgroups = Vec::new();
    for hierarchy in hierarchies(&mounts) {
        let cgroup = hierarchy.join(CGROUP).join("docker").join(id);
        attempt("make the cgroup", &cgroup, std::fs::create_dir_all(&cgroup))?;
        cgroups.push(cgroup);
    }
    Ok(cgroups)
}

/// Limits what the container may use, and returns what could be limited: of version 2 what the host has given to cgroups below
/// its root.
fn limit(cgroups: &[PathBuf]) -> Vec<Limit> {
    for cgroup in cgroups {
        // Our own two folders, from above.
        let above: Vec<&Path> = cgroup.ancestors().skip(1).take(2).collect();
        for folder in above.iter().rev() {
            for controller in ["+cpu", "+memory"] {
                let _ = std::fs::write(folder.join("cgroup.subtree_control"), controller);
            }
        }
    }
    let written = |files: [(&str, &str); 2]| {
        let mut all = cgroups.iter().flat_map(|cgroup| {
            files.map(|(name, limit)| {
                let path = cgroup.join(name);
                path.exists() && std::fs::write(path, limit).is_ok()
            })
        });
        all.any(|written| written)
    };
    let mut limits = Vec::new();
    limits.extend(written(CPU).then_some(Limit::Cpu));
    // The kernel of a host with swap would swap instead of killing.
    limits.extend((written(NO_SWAP) && written(MEMORY)).then_some(Limit::Memory));
    limits
}

/// Mount points of the unified hierarchy and of those of version 1 that hold one of [`CONTROLLERS`].
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = front.split(' ').nth(4) else {
            continue;
        };
        let mut back = back.split(' ');
        let kind = back.next().unwrap_or_default();
        let options = back.nth(1).unwrap_or_default();
        let wanted = kind == "cgroup2"
            || options
                .split(',')
                .any(|option| CONTROLLERS.contains(&option));
        if kind.starts_with("cgroup") && wanted {
            found.push(mount_point.into());
        }
    }
    found
}

/// Removes the container's cgroup and our folders above it that are empty then.
fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    let deadline = Instant::now() + REMOVAL_PATIENCE;
    while let Err(error) = std::fs::remove_dir(cgroup) {
        if Instant::now() > deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Another demo may still use them: then they are not empty and stay.
    for folder in cgroup.ancestors().skip(1).take(2) {
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}

fn attempt<T>(
    attempt: &'static str,
    path: &Path,
    result: io::Result<T>,
) -> Result<T, NamespaceError> {
    result.map_err(|source| NamespaceError::File {
        attempt,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions() {
        let mountinfo = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,pids
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
35 25 0:31 / /mnt rw - ext4 /dev/pids rw,memory
";
        let expected: Vec<PathBuf> = ["unified", "pids", "cpu,cpuacct", "memory"]
            .iter()
            .map(|name| Path::new("/sys/fs/cgroup").join(name))
            .collect();
        assert_eq!(hierarchies(mountinfo), expected);
    }

    #[test]
    fn files_name_the_healthcheck_as_docker_does() {
        let folder = tempfile::tempdir().unwrap();
        describe(folder.path(), "ab").unwrap();
        let text =
            std::fs::read_to_string(folder.path().join("containers/ab/config.v2.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            config["Config"]["Healthcheck"]["Test"][1],
            service::HEALTHCHECK
        );
    }
}
