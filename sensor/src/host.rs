//! Which host this is, and which run of the sensor.

use std::fs;
use std::io;
use std::path::Path;

use dogwatch_schemas::Text;

use crate::config::Config;
use crate::fact::Host;
use crate::scan;

/// Why the host could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no machine id.
    #[error(
        "could not read a host id from /etc/machine-id: set host_id in the configuration (or DOGWATCH_HOST_ID)"
    )]
    NoMachineId,
    /// `/proc` does not show what it must.
    #[error("could not read {path}: {source}; mount the host's /proc")]
    Proc {
        /// The file.
        path: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Processes that are in the host's own namespaces: init, and the kernel's threads where init is shielded from us.
pub(crate) const HOST_PIDS: [u32; 2] = [1, 2];

/// This process; it runs in the host's pid namespace, or the kernel part refuses to start.
const OWN: &str = "/proc/self";

/// Identifies the host; the run gets a new random name.
///
/// # Errors
/// Fails without a host id, or where `/proc` is not there.
pub(crate) fn identify(config: &Config) -> Result<Host, HostError> {
    let read = |path: &'static str| {
        let text = fs::read_to_string(path).map_err(|source| HostError::Proc { path, source })?;
        Ok(Text::from(text.trim()))
    };
    Ok(Host {
        host_id: config
            .host_id
            .clone()
            .or_else(machine_id)
            .ok_or(HostError::NoMachineId)?,
        host_name: config
            .host_name
            .clone()
            .map_or_else(|| read("/proc/sys/kernel/hostname"), Ok)?,
        host_tags: config.host_tags.clone(),
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        sensor_run: format!("{:016x}", rand::random::<u64>()).into(),
        kernel_release: read("/proc/sys/kernel/osrelease")?,
        arch: std::env::consts::ARCH.into(),
        mnt_ns: mount_namespace(),
        pid_ns: host_namespace("pid").or_else(|| scan::namespace(Path::new(OWN), "pid")),
    })
}

/// A namespace of the host's own processes; it may be read with CAP_SYS_PTRACE.
fn host_namespace(kind: &str) -> Option<u32> {
    HOST_PIDS
        .into_iter()
        .find_map(|pid| scan::namespace(Path::new(&format!("/proc/{pid}")), kind))
}

/// The host's mount namespace. Without the right to look, it is our own where we and pid 1 see the same mount: each copy of
/// a namespace numbers its mounts anew.
pub(crate) fn mount_namespace() -> Option<u32> {
    let first_mount = |folder: &str| {
        let mounts = fs::read_to_string(format!("{folder}/mountinfo")).ok()?;
        Some(mounts.split(' ').next()?.to_owned())
    };
    host_namespace("mnt").or_else(|| {
        let shared = first_mount(OWN)? == first_mount("/proc/1")?;
        shared.then(|| scan::namespace(Path::new(OWN), "mnt"))?
    })
}

/// The machine id; of the host, where the sensor runs in a container and sees the host's processes.
fn machine_id() -> Option<Text> {
    [
        "/proc/1/root/etc/machine-id",
        "/proc/2/root/etc/machine-id",
        "/etc/machine-id",
    ]
    .into_iter()
    .filter_map(|path| fs::read_to_string(path).ok())
    .map(|text| text.trim().to_owned())
    .find(|text| !text.is_empty())
    .map(Text::from)
}
