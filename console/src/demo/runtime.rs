//! The part of the demo's own container that goes into the namespaces: a hidden subcommand of the program.
//!
//! It does what a container runtime does, in the same order, and nothing else:
//!
//! ```text
//! open cgroups ─► unshare ─► overlay, /dev, /dev/shm ─► loopback up ─► pivot_root ─► service as process 1
//!                                                                                └─► healthcheck each second
//! ```
//! It ends when its standard input closes, that is with the demo, and takes every process of the container along.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::service;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "demo-runtime";
/// What it prints when the service was started.
pub const READY: &str = "ready";
/// Time between two healthchecks.
const HEALTHCHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Device files of the container: name, major and minor number.
const DEVICES: [(&str, u32, u32); 4] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("random", 1, 8),
    ("urandom", 1, 9),
];

/// A step of the container's set-up was refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {attempt}: {source}")]
pub struct RuntimeError {
    attempt: &'static str,
    source: io::Error,
}

/// Runs the container until standard input closes or the service ends.
///
/// `arguments` are the tree, an empty folder for mounts, and the container's cgroups.
///
/// # Errors
/// [`RuntimeError`] names the step that the kernel refused.
pub fn run(arguments: &[OsString]) -> Result<(), RuntimeError> {
    let [tree, mounts, cgroups @ ..] = arguments else {
        return Err(RuntimeError {
            attempt: "read the arguments",
            source: io::ErrorKind::InvalidInput.into(),
        });
    };
    std::thread::spawn(end_with_the_demo);
    let open = |cgroup| {
        File::options()
            .write(true)
            .open(Path::new(cgroup).join("cgroup.procs"))
    };
    let cgroups = attempt(
        "open the cgroups",
        cgroups.iter().map(open).collect::<io::Result<Vec<_>>>(),
    )?;
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: unshare takes a number.
    attempt(
        "make namespaces",
        result(unsafe { libc::unshare(namespaces) }),
    )?;
    let root = file_system(Path::new(tree), Path::new(mounts))?;
    attempt("start the loopback device", loopback_up())?;
    attempt("change the root", change_root(&root))?;

    let service = inside(&[service::PATH, service::SUBCOMMAND], &cgroups, Role::Init).spawn();
    let mut service = attempt("start the service", service)?;
    println!("{READY}");
    attempt("say so", io::stdout().flush())?;
    let mut healthcheck = inside(
        &["/bin/sh", "-c", service::HEALTHCHECK],
        &cgroups,
        Role::Healthcheck,
    );
    while attempt("wait for the service", service.try_wait())?.is_none() {
        // A failed healthcheck is the service's matter, not the container's.
        let _ = healthcheck.status();
        std::thread::sleep(HEALTHCHECK_INTERVAL);
    }
    Ok(())
}

/// Ends the process when the demo has closed the pipe: the kernel kills process 1 with us, and the rest with that.
fn end_with_the_demo() {
    // Nothing is ever written to the pipe: any result means the end.
    let _ = io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// Mounts an overlay over the tree, with devices and a shared-memory folder, and returns its root.
fn file_system(tree: &Path, mounts: &Path) -> Result<PathBuf, RuntimeError> {
    attempt(
        "keep mounts private",
        mount(
            c"none",
            Path::new("/"),
            None,
            libc::MS_REC | libc::MS_PRIVATE,
            "",
        ),
    )?;
    attempt(
        "mount the scratch folder",
        mount(c"tmpfs", mounts, Some(c"tmpfs"), 0, "mode=755"),
    )?;
    let root = mounts.join("root");
    for folder in ["root", "upper", "work"] {
        attempt("make a folder", std::fs::create_dir(mounts.join(folder)))?;
    }
    let (tree, mounts) = (tree.display(), mounts.display());
    let layers = format!("lowerdir={tree},upperdir={mounts}/upper,workdir={mounts}/work");
    attempt(
        "mount the overlay",
        mount(c"overlay", &root, Some(c"overlay"), 0, &layers),
    )?;
    let devices = root.join("dev");
    attempt(
        "mount /dev",
        mount(
            c"tmpfs",
            &devices,
            Some(c"tmpfs"),
            libc::MS_NOSUID,
            "mode=755",
        ),
    )?;
    for (name, major, minor) in DEVICES {
        attempt(
            "make a device",
            make_device(&devices.join(name), major, minor),
        )?;
    }
    let shared_memory = devices.join("shm");
    attempt("make /dev/shm", std::fs::create_dir(&shared_memory))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    attempt(
        "mount /dev/shm",
        mount(
            c"shm",
            &shared_memory,
            Some(c"tmpfs"),
            flags,
            "mode=1777,size=16m",
        ),
    )?;
    Ok(root)
}

/// What a process of the container is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Process 1.
    Init,
    /// A check that the runtime starts.
    Healthcheck,
}

/// A command that joins the cgroups before it is executed; process 1 also mounts `/proc` and dies with us.
fn inside(words: &[&str], cgroups: &[File], role: Role) -> Command {
    let cgroups: Vec<_> = cgroups.iter().map(AsRawFd::as_raw_fd).collect();
    let enter = move || {
        for cgroup in &cgroups {
            // SAFETY: the descriptor is open until the runtime ends; "0" stands for the writer.
            let written = unsafe { libc::write(*cgroup, c"0".as_ptr().cast(), 1) };
            if written != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        if role == Role::Init {
            mount(c"proc", Path::new("/proc"), Some(c"proc"), 0, "")?;
            // SAFETY: prctl takes numbers.
            result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        }
        Ok(())
    };
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: this process has one other thread, blocked in a read that holds no allocator lock; so what runs
    // between fork and exec may allocate.
    unsafe { command.pre_exec(enter) };
    command
}

/// Makes `root` the root of this mount namespace and lets the old one go.
fn change_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // SAFETY: both arguments are texts that end with NUL. The old root lands below the new one, at the same place.
    if unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the argument is a text that ends with NUL.
    result(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    std::env::set_current_dir("/")
}

fn mount(
    source: &CStr,
    target: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    let options = CString::new(options)?;
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all texts end with NUL and live through the call; a null file system type is allowed with these flags.
    result(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind,
            flags,
            options.as_ptr().cast(),
        )
    })
}

fn make_device(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a text that ends with NUL and lives through the call.
    result(unsafe {
        libc::mknod(
            path.as_ptr(),
            libc::S_IFCHR | 0o666,
            libc::makedev(major, minor),
        )
    })
}

fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: all of ifreq is plain data, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is a valid ifreq that lives through the call.
    result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn attempt<T>(attempt: &'static str, result: io::Result<T>) -> Result<T, RuntimeError> {
    result.map_err(|source| RuntimeError { attempt, source })
}
