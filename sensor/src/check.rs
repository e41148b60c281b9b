//! What this kernel, these capabilities, these mounts and this configuration allow, and what will be missing.
//!
//! Here is what can be looked up, for every start; [`crate::pipeline::check`] tries the rest.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::Capability;
use dogwatch_ebpf::control::Mode;

use crate::config::Config;
use crate::host;
use crate::probe::{
    self, KEPT, Lockdown, SHARE_PIDS, counts_locked_memory, lockdown, locked_memory_limit,
    missing_to_load,
};
use crate::sample::{self, Accounts, SamplePlan};

/// Inode number of the pid namespace the kernel starts with (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The kernels, Debian's, on which `tests/kernels` runs the tests of the kernel part.
const TRIED: &str = "5.10, 6.1 and 6.12";

/// How a feature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There.
    Works,
    /// The sensor runs without it; the detail says what will be missing.
    Missing,
    /// The sensor does not run; the detail says what helps.
    Refused,
}

/// One feature and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub feature: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found, what will be missing, what helps.
    pub detail: String,
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order to read them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// True when the sensor can run here, though something may be missing.
    pub fn can_run(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.state != State::Refused)
    }

    /// Exit code of `check`: 0 when the sensor can run, 3 when the environment lacks something it needs.
    pub fn exit_code(&self) -> u8 {
        if self.can_run() { 0 } else { 3 }
    }

    /// What this host cannot deliver and why, one sentence each: for the sensor's status.
    pub fn not_delivered(&self) -> Vec<String> {
        let lacking = self
            .findings
            .iter()
            .filter(|finding| finding.state != State::Works);
        lacking
            .map(|finding| format!("{}: {}", finding.feature, finding.detail))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .findings
            .iter()
            .map(|finding| finding.feature.len())
            .max()
            .unwrap_or(0);
        for Finding {
            feature,
            state,
            detail,
        } in &self.findings
        {
            let state = match state {
                State::Works => "works  ",
                State::Missing => "missing",
                State::Refused => "REFUSED",
            };
            writeln!(f, "{state}  {feature:width$}  {detail}")?;
        }
        let end = if self.can_run() {
            "the sensor can run here"
        } else {
            "the sensor cannot run here"
        };
        writeln!(f, "{end}")
    }
}

/// What can be told without trying anything: the sensor uses it for its status.
pub fn look(config: &Config) -> Vec<Finding> {
    let mut findings = vec![kernel(), type_information(), loading()];
    findings.extend(locked_memory());
    findings.push(open_files());
    findings.extend(skipped_runs());
    findings.extend(kept());
    findings.extend(mount_namespace(host::mount_namespace()));
    findings.extend([process_table(), io_uring()]);
    findings.extend(containers_mode(config.containers.mode));
    findings.extend(samples(&config.samples));
    findings.push(docker_files(&config.containers.docker_root));
    findings
}

pub(crate) fn finding(feature: &'static str, state: State, detail: impl Into<String>) -> Finding {
    Finding {
        feature,
        state,
        detail: detail.into(),
    }
}

fn kernel() -> Finding {
    let (major, minor) = probe::kernel_version();
    let state = if (major, minor) >= (5, 10) {
        State::Works
    } else {
        State::Refused
    };
    finding(
        "kernel",
        state,
        format!("Linux {major}.{minor}; 5.10 is the oldest, and each version is tried on {TRIED}"),
    )
}

fn type_information() -> Finding {
    match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(_) => finding(
            "type information (BTF)",
            State::Works,
            "/sys/kernel/btf/vmlinux is there",
        ),
        Err(error) => {
            let mend = "the kernel needs CONFIG_DEBUG_INFO_BTF; in a container, mount the host's /sys/kernel/btf";
            finding(
                "type information (BTF)",
                State::Refused,
                format!("/sys/kernel/btf/vmlinux: {error}; {mend}"),
            )
        }
    }
}

fn loading() -> Finding {
    let missing = missing_to_load();
    if !missing.is_empty() {
        let detail = format!(
            "{} missing; run as root or add them (Docker before 23: SYS_ADMIN)",
            missing.join(" and ")
        );
        return finding("loading kernel programs", State::Refused, detail);
    }
    match lockdown() {
        Some(Lockdown::Confidentiality) => finding(
            "loading kernel programs",
            State::Refused,
            "lockdown=confidentiality forbids reading kernel memory",
        ),
        _ => finding("loading kernel programs", State::Works, given_up()),
    }
}

fn given_up() -> &'static str {
    if probe::kernel_version() < (5, 19) {
        return "CAP_BPF, or CAP_SYS_ADMIN in its place, stays after loading: this kernel (before 5.19) asks for it at \
                every access to a map";
    }
    "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, given up after loading"
}

fn kept() -> Vec<Finding> {
    let one = |(capability, read): &(Capability, &'static str)| {
        let feature = match capability {
            Capability::CAP_SYS_PTRACE => "CAP_SYS_PTRACE",
            _ => "CAP_DAC_READ_SEARCH",
        };
        match probe::has(*capability) {
            true => finding(
                feature,
                State::Works,
                format!("stays after loading, to read {read}"),
            ),
            false => finding(
                feature,
                State::Missing,
                format!("without it stay unknown: {read}"),
            ),
        }
    };
    KEPT.iter().map(one).collect()
}

fn process_table() -> Finding {
    let initial = fs::metadata("/proc/self/ns/pid")
        .is_ok_and(|metadata| metadata.ino() == INITIAL_PID_NAMESPACE);
    if initial {
        return finding(
            "processes at start",
            State::Works,
            "all processes of the host are in /proc",
        );
    }
    let detail =
        format!("in a private pid namespace the host's processes are not to be seen: {SHARE_PIDS}");
    finding("processes at start", State::Refused, detail)
}

/// Maps count as locked memory before Linux 5.11, the ring of 8 MiB above all.
fn locked_memory() -> Option<Finding> {
    if !counts_locked_memory() {
        return None;
    }
    let feature = "locked memory";
    if probe::has(Capability::CAP_SYS_RESOURCE) {
        return Some(finding(
            feature,
            State::Works,
            "CAP_SYS_RESOURCE lifts the limit, under which this kernel (before 5.11) counts the maps",
        ));
    }
    let Some(limit) = locked_memory_limit() else {
        return Some(finding(feature, State::Works, "without a limit"));
    };
    let detail = format!(
        "this kernel (before 5.11) counts the maps under the limit of {limit} bytes: add CAP_SYS_RESOURCE or raise it \
         (ulimit -l unlimited; `ulimits: memlock: -1` in a Compose file)"
    );
    Some(finding(feature, State::Missing, detail))
}

/// A start raises the limit as far as it may, and so does this look.
fn open_files() -> Finding {
    let feature = "open files";
    match probe::raise_open_files() {
        Ok(()) => finding(feature, State::Works, "as many as it takes may be open"),
        Err(error) => finding(feature, State::Refused, error.to_string()),
    }
}

/// What is told as loss of the class `missed` elsewhere.
fn skipped_runs() -> Option<Finding> {
    let detail = "this kernel (before 5.12) does not count runs of kernel programs that it skips: losses of the class \
                  missed stay unknown";
    (probe::kernel_version() < (5, 12)).then(|| finding("skipped programs", State::Missing, detail))
}

/// Before 6.6 there is no switch: it is always allowed where the kernel has it.
fn io_uring() -> Finding {
    let feature = "io_uring";
    // SAFETY: without the struct the call can only fail, and says whether there is such a call.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
    let absent = made < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
    if absent {
        return finding(feature, State::Works, "this kernel is built without it");
    }
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let who = match switch.trim() {
        "2" => {
            return finding(
                feature,
                State::Works,
                "disabled on this host: nothing escapes through it",
            );
        }
        "1" => "open to root and one group (kernel.io_uring_disabled=1); ",
        _ => "",
    };
    let detail = format!(
        "{who}opens and connects made through io_uring are not seen, and containers may use it under the default profiles \
         of Docker 20.10 to 24; Docker 25 and newer forbid it, \
         sysctl kernel.io_uring_disabled=2 (Linux 6.6) does for all"
    );
    finding(feature, State::Missing, detail)
}

/// Without it the runtime's own part cannot be told from what it brings in.
fn mount_namespace(found: Option<u32>) -> Option<Finding> {
    let detail = "it may not be read: the stage (proc_stage) of what is brought into running containers stays unknown; \
                  add CAP_SYS_PTRACE, or run the sensor in the host's mount namespace";
    found
        .is_none()
        .then(|| finding("host's mount namespace", State::Missing, detail))
}

/// What the operator chose not to see is missing all the same.
fn containers_mode(mode: Mode) -> Option<Finding> {
    let detail = match mode {
        Mode::Off => "containers.mode is off: containers are not watched",
        Mode::Lifecycle => {
            "containers.mode is lifecycle: what containers open and connect to is not seen"
        }
        Mode::Normal | Mode::Full => return None,
    };
    Some(finding("containers", State::Missing, detail))
}

/// Columns of samples that this kernel cannot give, and what is switched off.
fn samples(plan: &SamplePlan) -> Vec<Finding> {
    let feature = "samples";
    let mut findings = Vec::new();
    for (wanted, key, table) in [
        (plan.containers, "samples.containers", "container_samples"),
        (plan.processes, "samples.processes", "process_samples"),
        (plan.calls, "samples.calls", "syscall_samples"),
        (plan.io, "samples.io", "io_samples"),
    ] {
        if !wanted {
            let more = if table == "syscall_samples" {
                "; null are calls_failed_file to calls_failed_other"
            } else {
                ""
            };
            let detail = format!("{key} is false: {table} has no rows of this host{more}");
            findings.push(finding(feature, State::Missing, detail));
        }
    }
    if !plan.network && (plan.processes || plan.io) {
        let detail = format!("samples.network is false: null are {}", sample::OF_NETWORK);
        findings.push(finding(feature, State::Missing, detail));
    }
    let proc = Path::new("/proc");
    for (columns, why) in sample::lacking(plan, &Accounts::find(proc), proc) {
        let detail = format!("null are {columns}: {why}");
        findings.push(finding(feature, State::Missing, detail));
    }
    if findings.is_empty() {
        let detail = "all columns of container_samples, process_samples, syscall_samples and io_samples can be given";
        findings.push(finding(feature, State::Works, detail));
    }
    findings
}

fn docker_files(docker_root: &Path) -> Finding {
    let folder = docker_root.join("containers");
    match fs::read_dir(&folder) {
        Ok(_) => finding(
            "Docker's files",
            State::Works,
            format!("{} can be read", folder.display()),
        ),
        Err(error) => {
            let detail = format!(
                "{}: {error}; containers get their id but no name, image and labels; mount it read-only or set \
                 containers.docker_root",
                folder.display()
            );
            finding("Docker's files", State::Missing, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> Report {
        Report {
            findings: states
                .iter()
                .map(|state| finding("some feature", *state, "a detail"))
                .collect(),
        }
    }

    #[test]
    fn only_a_refusal_stops_the_sensor() {
        assert_eq!(report(&[State::Works, State::Missing]).exit_code(), 0);
        assert_eq!(report(&[State::Works, State::Refused]).exit_code(), 3);
    }

    #[test]
    fn what_lacks_is_named() {
        let report = report(&[State::Works, State::Missing]);
        assert_eq!(report.not_delivered(), ["some feature: a detail"]);
        let expected = "works    some feature  a detail\nmissing  some feature  a detail\nthe sensor can run here\n";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn what_is_not_to_be_seen_by_choice_or_for_want_of_rights_is_missing() {
        assert_eq!(containers_mode(Mode::Normal), None);
        for mode in [Mode::Off, Mode::Lifecycle] {
            assert_eq!(containers_mode(mode).unwrap().state, State::Missing);
        }
        assert!(mount_namespace(None).is_some());
        assert_eq!(mount_namespace(Some(1)), None);
    }

    #[test]
    fn absent_docker_files_are_missing_not_refused() {
        let found = docker_files(Path::new("/dogwatch/none"));
        assert_eq!(found.state, State::Missing);
        assert!(
            found.detail.contains("/dogwatch/none/containers"),
            "{found:?}"
        );
    }
}
