//! Things children do: system calls only, since the test's process has other threads when it forks.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Runs `action` in a child and waits for it; returns its process id.
pub fn in_child(action: impl FnOnce()) -> u32 {
    // SAFETY: the child makes system calls only and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        action();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    pid as u32
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Opens by the very system call `openat` and closes again; returns the descriptor or the negative errno.
pub fn openat(directory: i32, path: &CStr, flags: i32) -> i64 {
    // SAFETY: the path ends in NUL and outlives the call.
    closed(unsafe { libc::syscall(libc::SYS_openat, directory, path.as_ptr(), flags, 0o600) })
}

pub fn closed(fd: i64) -> i64 {
    if fd >= 0 {
        // SAFETY: just opened here.
        unsafe { libc::close(fd as i32) };
    }
    fd
}

/// Takes the child into a mount namespace of its own with another root, and with these mounts (source, target) in it.
pub fn enter_root(root: &CStr, binds: &[(CString, CString)]) {
    let none: *const libc::c_char = std::ptr::null();
    let mount = |source: *const libc::c_char, target: *const libc::c_char, flags| {
        // SAFETY: source and target are null or end in NUL, and outlive the call.
        unsafe { libc::mount(source, target, none.cast(), flags, none.cast()) }
    };
    let mut failed = 0;
    // SAFETY: no pointers.
    failed |= unsafe { libc::unshare(libc::CLONE_NEWNS) };
    failed |= mount(none, c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    failed |= mount(root.as_ptr(), root.as_ptr(), libc::MS_BIND);
    for (source, target) in binds {
        failed |= mount(source.as_ptr(), target.as_ptr(), libc::MS_BIND);
    }
    // SAFETY: the paths end in NUL; the old root is stacked below the new one and let go.
    unsafe {
        failed |= libc::chdir(root.as_ptr());
        failed |= libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as i32;
        failed |= libc::umount2(c".".as_ptr(), libc::MNT_DETACH);
        failed |= libc::chdir(c"/".as_ptr());
    }
    if failed != 0 {
        // SAFETY: ends the child; the test then misses its opens.
        unsafe { libc::_exit(1) };
    }
}
