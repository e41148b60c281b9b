//! Reads the kernel's ring: waits a bounded time, then hands out what is there.
//!
//! The kernel part wakes nobody for a record (8 µs each, measured); it does once when the ring is a 16th full. So a wait
//! usually lasts its whole time, and what is there then is drained in one go.

mod pages;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use aya::maps::MapData;

use self::pages::{Next, Pages};

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
    pages: Pages,
    /// A record of which the ring's end was within.
    whole: Vec<u8>,
    wakeups: OwnedFd,
    /// Open as long as it is waited for.
    _map: MapData,
}

impl Ring {
    pub(crate) fn new(map: MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let fd = map.fd().as_fd();
        Ok(Self {
            pages: Pages::new(fd, info.max_entries() as usize)?,
            whole: Vec::new(),
            wakeups: edge_triggered(fd)?,
            _map: map,
        })
    }

    /// Waits at most `wait` for the kernel's wake-up, then hands records to `sink`, at most `records_max`.
    pub(crate) fn drain(
        &mut self,
        wait: Duration,
        records_max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Drained {
        self.wait(wait);
        let mut records = 0;
        while records < records_max {
            match self.pages.next() {
                Next::Nothing => {
                    return Drained {
                        records,
                        emptied: true,
                    };
                }
                Next::Discarded => {}
                Next::Record(record, []) => {
                    sink(record);
                    records += 1;
                }
                Next::Record(first, rest) => {
                    self.whole.clear();
                    self.whole.extend_from_slice(first);
                    self.whole.extend_from_slice(rest);
                    sink(&self.whole);
                    records += 1;
                }
            }
            self.pages.pass();
        }
        Drained {
            records,
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
fn edge_triggered(ring: BorrowedFd<'_>) -> io::Result<OwnedFd> {
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
    let (fd, ring) = (epoll.as_raw_fd(), ring.as_raw_fd());
    // SAFETY: both descriptors are open and the event outlives the call.
    if unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, ring, &mut event) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(epoll)
}
