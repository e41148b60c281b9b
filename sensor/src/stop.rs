//! Stopping: one request in, everything drained out.
//!
//! A signal's sender is known to the kernel and told in the sensor's goodbye: who stops a sensor may be the attacker.

use std::io;
use std::sync::{Arc, OnceLock};

/// Why the sensor stops.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReason {
    /// The signal's name, or another reason in words.
    pub what: String,
    /// Process id of the signal's sender.
    pub pid: Option<u32>,
    /// Name of the signal's sender.
    pub comm: Option<String>,
}

/// A handle that stops a sensor; clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    reason: Arc<OnceLock<StopReason>>,
}

impl Shutdown {
    /// A handle that nobody has triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the sensor to stop; the first reason counts.
    pub fn trigger(&self, reason: StopReason) {
        // A second request changes nothing.
        let _ = self.reason.set(reason);
    }

    /// Asks the sensor to stop for a reason in words.
    pub fn trigger_because(&self, what: &str) {
        self.trigger(StopReason {
            what: what.to_owned(),
            ..StopReason::default()
        });
    }

    /// The reason, once it was triggered.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }
}

/// Blocks SIGTERM and SIGINT in this and all later threads; they wait until [`stop_on_signals`]. Call it before any other
/// thread is made.
pub fn hold_signals() {
    let signals = signal_set();
    // SAFETY: the set is initialised, no old mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
}

/// Waits for SIGTERM and SIGINT in a thread of its own, which has the rights of the caller.
/// A second signal ends the process at once.
///
/// # Errors
/// Fails when the thread cannot be made.
pub fn stop_on_signals(shutdown: Shutdown) -> io::Result<()> {
    hold_signals();
    let signals = signal_set();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            let Some(reason) = wait_for_signal(&signals) else { continue };
            if shutdown.reason().is_some() {
                std::process::exit(1);
            }
            tracing::info!(signal = %reason.what, sender = ?reason.pid, comm = ?reason.comm, "stopping");
            shutdown.trigger(reason);
        }
    })?;
    Ok(())
}

fn signal_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the others add to.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}

fn wait_for_signal(signals: &libc::sigset_t) -> Option<StopReason> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: both pointers are valid; the kernel fills `info`.
    let signal = unsafe { libc::sigwaitinfo(signals, info.as_mut_ptr()) };
    let what = match signal {
        libc::SIGTERM => "SIGTERM",
        libc::SIGINT => "SIGINT",
        _ => return None,
    };
    // SAFETY: sigwaitinfo returned a signal, so `info` is filled; si_pid is valid for these signals.
    let info = unsafe { info.assume_init() };
    // A terminal's Ctrl-C comes from the kernel: it has no sender.
    // SAFETY: the union's pid is valid for signals sent by kill and friends, and zero otherwise (zeroed above).
    let pid = (info.si_code <= 0)
        .then(|| unsafe { info.si_pid() } as u32)
        .filter(|&pid| pid != 0);
    let comm = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Some(StopReason {
        what: what.into(),
        pid,
        comm: comm.map(|comm| comm.trim_end().to_owned()),
    })
}
