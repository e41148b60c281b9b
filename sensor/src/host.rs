//! Which host this is, and which run of the sensor.

use std::fs;
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
    #[error(
        "could not read {path}: mount the host's /proc, and run in the host's pid namespace (--pid host)"
    )]
    Proc {
        /// The file.
        path: &'static str,
    },
}

/// Processes that are in the host's own namespaces: init, and the kernel's threads where init is shielded from us.
pub(crate) const HOST_PIDS: [u32; 2] = [1, 2];

/// Identifies the host; the run gets a new random name.
///
/// # Errors
/// Fails without a host id, or where `/proc` does not show pid 1.
pub(crate) fn identify(config: &Config) -> Result<Host, HostError> {
    let read = |path: &'static str| {
        let text = fs::read_to_string(path).map_err(|_| HostError::Proc { path })?;
        Ok(Text::from(text.trim()))
    };
    let namespace = |kind, path| {
        let found = HOST_PIDS
            .into_iter()
            .find_map(|pid| scan::namespace(Path::new(&format!("/proc/{pid}")), kind));
        found.ok_or(HostError::Proc { path })
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
        mnt_ns: namespace("mnt", "/proc/1/ns/mnt")?,
        pid_ns: namespace("pid", "/proc/1/ns/pid")?,
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
