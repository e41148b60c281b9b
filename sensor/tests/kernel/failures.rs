//! Calls that failed, as the kernel part counts them.

use dogwatch_sensor::probe::Mode;

use crate::act;
use crate::watch::Watch;

/// The number of calls that have none, see `NUMBER_UNKNOWN` in `failures.h`.
const NUMBER_UNKNOWN: u16 = u16::MAX;

extern "C" fn handler(_: libc::c_int) {}

/// A sleep that a signal with a handler ends.
fn sleep_interrupted() {
    let second = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    // SAFETY: the action and both timers are valid for their calls, and all zero is a valid action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let mut timer: libc::itimerval = std::mem::zeroed();
        timer.it_value.tv_usec = 20_000;
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &timer, 0);
        if libc::nanosleep(&second, std::ptr::null_mut()) == 0 {
            libc::abort();
        }
    }
}

#[test]
fn the_way_back_from_a_signal_handler_is_no_failed_call() {
    let Some(mut watch) = Watch::start_at(Mode::Normal) else {
        return;
    };
    let mut calls = watch.probe.take_failed_calls().unwrap();
    let pid = act::in_child(|| {
        sleep_interrupted();
        // SAFETY: no pointers.
        unsafe { libc::syscall(-1) };
    });
    let grown = calls.read(&|_| false).unwrap().grown;
    let rows: Vec<_> = grown
        .iter()
        .filter(|(key, _)| key.pid == pid && key.number == NUMBER_UNKNOWN)
        .map(|(key, failure)| (key.errno() as i32, failure.count))
        .collect();
    assert_eq!(rows, [(libc::ENOSYS, 1)]);
}
