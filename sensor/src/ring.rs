//! Reads the kernel's ring: waits a bounded time, then hands out what is there.
//!
//! The kernel part wakes nobody for a record (8 µs each, measured); it does once when the ring is a 16th full. So a wait
//! usually lasts its whole time, and what is there then is drained in one go.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};

/// Records handed out in one go, so that the caller gets to its other duties under a storm.
pub(crate) const BATCH_RECORDS_MAX: usize = 16_384;

/// What came of draining the ring once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Records handed out.
    pub records: usize,
    /// The ring was seen empty at the end; else more waits.
    pub emptied: bool,
}

/// The consumer's end of the ring.
pub(crate) struct Ring {
    ring: RingBuf<MapData>,
    wakeups: OwnedFd,
}

impl Ring {
    pub(crate) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        let wakeups = edge_triggered(ring.as_raw_fd())?;
        Ok(Self { ring, wakeups })
    }

    /// Waits at most `wait` for the kernel's wake-up, then hands records to `sink`, at most `records_max`.
    pub(crate) fn drain(
        &mut self,
        wait: Duration,
        records_max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Drained {
        self.wait(wait);
        for count in 0..records_max {
            match self.ring.next() {
                Some(record) => sink(&record),
                None => {
                    return Drained {
                        records: count,
                        emptied: true,
                    };
                }
            }
        }
        Drained {
            records: records_max,
            emptied: false,
        }
    }

    /// A signal ends the wait early, which does no harm.
    fn wait(&self, wait: Duration) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the descriptor is open as long as `self`, and there is room for the one event asked for.
        unsafe { libc::epoll_wait(self.wakeups.as_raw_fd(), &mut event, 1, wait_ms) };
    }
}

/// Edge-triggered, because a level-triggered wait returns at once while a single record is there: a steady trickle would
/// keep the reader busy record by record.
fn edge_triggered(ring: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked before it becomes an owned descriptor.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: 0,
    };
    // SAFETY: both descriptors are open and the event outlives the call.
    if unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, ring, &mut event) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(epoll)
}
