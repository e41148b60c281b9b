//! Files are opened below a root that is not ours, and never outside it.

use std::ffi::{CStr, c_long};
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

/// Links are followed as whoever has that root would follow them, never out of it.
const RESOLVE_IN_ROOT: u64 = 0x10;
/// Links of `/proc` that lead to where no path leads are refused.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// What is mounted below the root is refused.
pub const RESOLVE_NO_XDEV: u64 = 0x01;

/// `struct open_how` of `openat2`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a file as if `root` were the file system's root; `resolve` forbids more than leaving it.
///
/// # Errors
/// The kernel's.
pub fn open(root: &File, path: &CStr, flags: i32, resolve: u64) -> std::io::Result<File> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | resolve,
    };
    // SAFETY: the descriptor is open, the path ends with NUL, `how` is a valid open_how of the size given.
    let fd: c_long = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}
