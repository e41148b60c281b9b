//! Stopping: one request in, everything drained out.
//!
//! A signal's sender is known to the kernel and told in the sensor's goodbye: who stops a sensor may be the attacker.
//! Signals are noted by a handler from the first moment on, so a second Ctrl-C ends the process at once even while the kernel
//! part is loaded; a thread that is made later, with the rights that are left, acts on them.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

mod terminal;

use terminal::Terminal;

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

/// What SIGHUP means to a program.
#[derive(Debug, Clone, Default)]
pub enum OnHangup {
    /// The terminal is gone: the program ends in order, as with SIGTERM.
    #[default]
    End,
    /// Files were moved away: they are to be opened anew, unless the terminal it was started from is gone.
    Reopen(Reopen),
}

/// Says that files are to be opened anew; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reopen(Arc<AtomicBool>);

impl Reopen {
    /// Asks for it.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Says whether it was asked for since the last call.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Acquire)
    }
}

/// The signals that are taken.
const SIGNALS: [(libc::c_int, &str); 3] = [
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGHUP, "SIGHUP"),
];

/// Those of [`SIGNALS`] that came and were not acted on: [`CAME_BIT`] and the sender's pid, zero for none that came.
static WAITING: [AtomicU64; SIGNALS.len()] = [const { AtomicU64::new(0) }; SIGNALS.len()];
/// Marks a signal that came, in the upper half: its sender may be nobody.
const CAME_BIT: u64 = 1 << 32;
/// When the end was asked for, milliseconds since boot, and zero before: a later SIGTERM or SIGINT is the last word.
static ENDING_MS: AtomicU64 = AtomicU64::new(0);
/// Signals so soon after each other are one: who runs a program, as `timeout` does, sends them to it and to its group.
const ONE_SIGNAL_MS: u64 = 100;
/// The thread that waits is woken through it.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// The terminal that the program was started from.
static STARTED_FROM: OnceLock<Terminal> = OnceLock::new();

/// Takes SIGTERM, SIGINT and SIGHUP from now on; they wait until [`stop_on_signals`]. The second SIGTERM or SIGINT ends the
/// process at once, whatever it does. A SIGHUP that the process was started to ignore (`nohup`) stays ignored.
pub fn hold_signals() {
    STARTED_FROM.get_or_init(Terminal::of_this_process);
    if WAKE.load(Ordering::Acquire) < 0 {
        // SAFETY: no pointer is passed.
        let made = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        WAKE.store(made, Ordering::Release);
    }
    for (signal, _) in SIGNALS {
        take(signal);
    }
}

fn take(signal: libc::c_int) {
    // SAFETY: zeroed is a valid sigaction; both structs live through the calls, and the handler is of the kind that
    // SA_SIGINFO asks for.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut before);
        if signal == libc::SIGHUP && before.sa_sigaction == libc::SIG_IGN {
            return;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// Milliseconds since boot, at least one; may be asked for in a handler.
fn now_ms() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000).max(1)
}

/// Notes a signal and wakes who waits: nothing that a handler must not do.
extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let ends = signal != libc::SIGHUP;
    if ends {
        let now = now_ms();
        let first = ENDING_MS.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        if first.is_err_and(|asked| now.saturating_sub(asked) >= ONE_SIGNAL_MS) {
            // SAFETY: ends the process.
            unsafe { libc::_exit(1) };
        }
    }
    // SAFETY: the kernel passes a valid pointer.
    let info = unsafe { &*info };
    // A terminal's Ctrl-C comes from the kernel: it has no sender.
    // SAFETY: the union's pid is valid for signals sent by kill and its friends.
    let pid = if info.si_code <= 0 {
        unsafe { info.si_pid() }
    } else {
        0
    };
    for ((number, _), waiting) in SIGNALS.iter().zip(&WAITING) {
        if *number == signal {
            waiting.store(CAME_BIT | pid as u64, Ordering::Release);
        }
    }
    let one = 1u64;
    // SAFETY: write may be called here, and eight bytes are what an eventfd takes; whoever was interrupted finds its errno
    // as it was.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKE.load(Ordering::Acquire), (&raw const one).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// Keeps signals from this thread and those it makes, so that they interrupt none of its calls. The thread of
/// [`stop_on_signals`] takes them.
pub fn leave_signals() {
    mask(libc::SIG_BLOCK);
}

fn mask(how: libc::c_int) {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the others add to; no old mask is asked for.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for (signal, _) in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Waits for signals in a thread of its own, which has the rights of the caller; the caller's thread and those it makes
/// from now on are left alone by them.
///
/// # Errors
/// Fails when the thread cannot be made.
pub fn stop_on_signals(shutdown: Shutdown, on_hangup: OnHangup) -> io::Result<()> {
    hold_signals();
    leave_signals();
    let act = move || {
        mask(libc::SIG_UNBLOCK);
        loop {
            let Some((signal, reason)) = next_signal() else {
                wait();
                continue;
            };
            if signal == libc::SIGHUP
                && let OnHangup::Reopen(files) = &on_hangup
                && STARTED_FROM.get().is_none_or(Terminal::is_there)
            {
                tracing::info!(signal = reason.what, "opening files anew");
                files.ask();
                continue;
            }
            tracing::info!(
                signal = reason.what,
                sender = reason.pid,
                comm = reason.comm,
                "stopping"
            );
            // A Ctrl-C after a SIGHUP is not the first that asks for the end.
            ENDING_MS.store(now_ms(), Ordering::Release);
            shutdown.trigger(reason);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(act)?;
    Ok(())
}

/// Waits until the handler has noted a signal since the last call.
fn wait() {
    let mut woken = 0u64;
    // SAFETY: eight bytes are what an eventfd gives.
    unsafe { libc::read(WAKE.load(Ordering::Acquire), (&raw mut woken).cast(), 8) };
}

/// The next signal that was noted and not acted on.
fn next_signal() -> Option<(libc::c_int, StopReason)> {
    let came =
        |waiting: &AtomicU64| Some(waiting.swap(0, Ordering::AcqRel)).filter(|&came| came != 0);
    let mut next = SIGNALS.iter().zip(&WAITING);
    let (&(signal, what), came) = next.find_map(|(of, waiting)| Some((of, came(waiting)?)))?;
    let pid = Some(came as u32).filter(|&pid| pid != 0);
    let comm = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    let reason = StopReason {
        what: what.into(),
        pid,
        comm: comm.map(|comm| comm.trim_end().to_owned()),
    };
    Some((signal, reason))
}
