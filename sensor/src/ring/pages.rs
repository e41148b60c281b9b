//! The ring's memory: the positions of reader and writer, and the data.
//!
//! The kernel would map the data twice in a row, so that a record that goes on at the beginning lies in one piece; both
//! count as memory of this process. Here they are mapped once, and such a record, one in a round, comes in two pieces.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Before each record: its length with two flags, and a number of the kernel's own.
const HEADER_BYTES: usize = 8;
/// Still being written.
const BUSY: u32 = 1 << 31;
/// Given up by its writer.
const DISCARDED: u32 = 1 << 30;

/// What is next in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// Nothing that is whole.
    Nothing,
    /// Given up by its writer.
    Discarded,
    /// A record; the second piece is empty unless the ring's end is within it.
    Record(&'a [u8], &'a [u8]),
}

/// See the module's description.
pub(super) struct Pages {
    /// The page of the reader's position, the only one that this process may write.
    reader: Mapping,
    /// The page of the writers' position, and the data.
    written: Mapping,
    page_bytes: usize,
    data_bytes: usize,
    /// Up to here all was taken.
    taken: usize,
    /// Up to here was written when it was looked at last.
    produced: usize,
}

impl Pages {
    /// Maps the ring behind `fd`, which has `data_bytes` of data.
    pub fn new(fd: BorrowedFd<'_>, data_bytes: usize) -> io::Result<Self> {
        // SAFETY: a plain system call.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        if !data_bytes.is_power_of_two() || !data_bytes.is_multiple_of(page_bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let reader = Mapping::new(fd, 0, page_bytes, libc::PROT_READ | libc::PROT_WRITE)?;
        let bytes = page_bytes + data_bytes;
        let written = Mapping::new(fd, page_bytes, bytes, libc::PROT_READ)?;
        let taken = reader.position().load(Ordering::Acquire);
        Ok(Self {
            produced: taken,
            taken,
            reader,
            written,
            page_bytes,
            data_bytes,
        })
    }

    /// What is next; it stays so until it is passed.
    pub fn next(&mut self) -> Next<'_> {
        if self.taken == self.produced {
            // Written with release by the kernel: what comes before it is there.
            self.produced = self.written.position().load(Ordering::Acquire);
        }
        if self.taken == self.produced {
            return Next::Nothing;
        }
        let header = self.header();
        if header & BUSY != 0 {
            return Next::Nothing;
        }
        if header & DISCARDED != 0 {
            return Next::Discarded;
        }
        let start = (self.taken + HEADER_BYTES) % self.data_bytes;
        let bytes = length(header).min(self.data_bytes - HEADER_BYTES);
        let first = bytes.min(self.data_bytes - start);
        Next::Record(self.piece(start, first), self.piece(0, bytes - first))
    }

    /// What was next is done with: its room is the writers' again.
    pub fn pass(&mut self) {
        let bytes = HEADER_BYTES + length(self.header());
        self.taken = self.taken.wrapping_add(bytes.next_multiple_of(8));
        self.reader.position().store(self.taken, Ordering::Release);
    }

    /// The length and the flags of what is next. A header lies in one piece: all lengths are multiples of its own.
    fn header(&self) -> u32 {
        let header = self.at(self.taken % self.data_bytes).cast::<AtomicU32>();
        // SAFETY: within the data, and aligned, as all positions are multiples of eight; the kernel treats it as an atomic.
        unsafe { &*header }.load(Ordering::Acquire)
    }

    /// Some bytes of what is next.
    fn piece(&self, start: usize, bytes: usize) -> &[u8] {
        assert!(start + bytes <= self.data_bytes, "a piece is in the ring");
        // SAFETY: within the data, which is mapped as long as `self`; the kernel does not touch it until it is passed.
        unsafe { std::slice::from_raw_parts(self.at(start), bytes) }
    }

    fn at(&self, offset: usize) -> *const u8 {
        let start = self.written.start.as_ptr().cast::<u8>();
        start.wrapping_add(self.page_bytes + offset)
    }
}

fn length(header: u32) -> usize {
    (header & !(BUSY | DISCARDED)) as usize
}

/// A part of the ring's memory, mapped.
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: it is not bound to the thread that mapped it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: usize, bytes: usize, protection: i32) -> io::Result<Self> {
        let (fd, flags) = (fd.as_raw_fd(), libc::MAP_SHARED);
        // SAFETY: a new mapping; the kernel checks offset and length.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags,
                fd,
                offset as libc::off_t,
            )
        };
        match NonNull::new(start).filter(|_| start != libc::MAP_FAILED) {
            Some(start) => Ok(Self { start, bytes }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// The position at its beginning.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: at the beginning of a page that is mapped as long as `self`; both sides treat it as an atomic.
        unsafe { self.start.cast::<AtomicUsize>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing of it is borrowed any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd as _, FromRawFd as _};
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 4096;

    /// Memory laid out as the kernel's, and a writer in its place.
    struct Writer {
        memory: File,
        at: usize,
    }

    impl Writer {
        fn new() -> Self {
            // SAFETY: the name ends in NUL; the result is checked before it becomes an owned descriptor.
            let memory = unsafe { libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC) };
            assert!(memory >= 0);
            // SAFETY: just opened, owned by nobody else.
            let memory = unsafe { File::from_raw_fd(memory) };
            memory.set_len(3 * PAGE as u64).unwrap();
            Self { memory, at: 0 }
        }

        fn put(&self, mut at: usize, bytes: &[u8]) {
            for byte in bytes {
                let place = 2 * PAGE + at % PAGE;
                self.memory.write_all_at(&[*byte], place as u64).unwrap();
                at += 1;
            }
        }

        fn write(&mut self, flags: u32, bytes: &[u8]) {
            let header = flags | bytes.len() as u32;
            self.put(self.at, &header.to_le_bytes());
            self.put(self.at + HEADER_BYTES, bytes);
            self.at += (HEADER_BYTES + bytes.len()).next_multiple_of(8);
            let position = self.at.to_le_bytes();
            self.memory.write_all_at(&position, PAGE as u64).unwrap();
        }

        /// How far the reader says that it is.
        fn taken(&self) -> usize {
            let mut position = [0; size_of::<usize>()];
            self.memory.read_exact_at(&mut position, 0).unwrap();
            usize::from_le_bytes(position)
        }
    }

    fn record(pages: &mut Pages) -> Option<Vec<u8>> {
        loop {
            let found = match pages.next() {
                Next::Nothing => return None,
                Next::Discarded => None,
                Next::Record(first, rest) => Some([first, rest].concat()),
            };
            pages.pass();
            if found.is_some() {
                return found;
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whole_wherever_the_ring_ends(
            sizes in proptest::collection::vec((0usize..2_000, any::<bool>()), 1..40),
        ) {
            let mut writer = Writer::new();
            let mut pages = Pages::new(writer.memory.as_fd(), PAGE).unwrap();
            for (number, (size, given_up)) in sizes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..size).map(|index| (index * 7 + number) as u8).collect();
                writer.write(if given_up { DISCARDED } else { 0 }, &bytes);
                prop_assert_eq!(record(&mut pages), (!given_up).then_some(bytes));
                prop_assert_eq!(writer.taken(), writer.at);
            }
        }
    }

    #[test]
    fn what_is_still_written_holds_back_what_comes_after() {
        let mut writer = Writer::new();
        let mut pages = Pages::new(writer.memory.as_fd(), PAGE).unwrap();
        writer.write(BUSY, b"first");
        writer.write(0, b"second");
        assert_eq!(pages.next(), Next::Nothing);
        assert_eq!(writer.taken(), 0);
        writer.put(0, &5u32.to_le_bytes());
        assert_eq!(record(&mut pages).as_deref(), Some(&b"first"[..]));
        assert_eq!(record(&mut pages).as_deref(), Some(&b"second"[..]));
        assert_eq!(record(&mut pages), None);
    }

    #[test]
    fn another_reader_goes_on_where_the_first_stopped() {
        let mut writer = Writer::new();
        writer.write(0, b"first");
        let mut pages = Pages::new(writer.memory.as_fd(), PAGE).unwrap();
        assert!(record(&mut pages).is_some());
        drop(pages);
        writer.write(0, b"second");
        let mut pages = Pages::new(writer.memory.as_fd(), PAGE).unwrap();
        assert_eq!(record(&mut pages).as_deref(), Some(&b"second"[..]));
    }
}
