//! Files and sockets that processes have open: an iterator of the kernel part, read once a round of samples.
//!
//! The iterator is loaded and linked at start, with the rights that it takes; a round only opens it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Instant;

use aya::maps::{self, MapData};
use aya::programs::{Iter, ProgramError};
use aya::{Btf, Ebpf};
use dogwatch_ebpf::record::OpenFile;
use dogwatch_ebpf::{OPEN_FILE_BYTES, open_file};

use super::shares::PodWalked;
use super::{ProbeError, error, map_error, take};

const PROGRAM: &str = "on_open_file";
/// Commands of bpf(2), and the attach type of iterators (include/uapi/linux/bpf.h).
const LINK_CREATE: libc::c_long = 28;
const ITER_CREATE: libc::c_long = 33;
const TRACE_ITER: u32 = 28;
/// The kernel hands over 32 KiB at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Shares read in one go; the map is smaller.
const SHARES_MAX: usize = 8_192;

/// Reads what is open.
pub struct OpenFiles {
    link: OwnedFd,
    walked: maps::HashMap<MapData, u64, PodWalked>,
    /// The bytes of sockets of UDP are counted.
    tells_bytes: bool,
}

/// What a walk over all processes left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// By share, open files that were not looked at: beyond the 4,096th descriptor of a process, or 4,096 of a share.
    pub left: HashMap<u64, u64>,
    /// It took too long, and some processes were not come to.
    pub cut: bool,
}

impl OpenFiles {
    /// Loads the iterator.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn load(programs: &mut Ebpf, types: &Btf) -> Result<Self, ProbeError> {
        let refused = |source: ProgramError| error::refusal(PROGRAM, source);
        let program = programs
            .program_mut(PROGRAM)
            .expect("the object is built with this crate and has this program");
        let program: &mut Iter = program.try_into().map_err(refused)?;
        program.load("task_file", types).map_err(refused)?;
        let program = program.fd().map_err(refused)?.as_fd();
        let link = command(LINK_CREATE, [program.as_raw_fd() as u32, 0, TRACE_ITER, 0])
            .map_err(|source| error::refusal(PROGRAM, source))?;
        let walked = take(programs, "walked")?;
        Ok(Self {
            link,
            walked,
            tells_bytes: false,
        })
    }

    /// The programs that count bytes of sockets of UDP run from now on.
    pub(super) fn tell_bytes(&mut self) {
        self.tells_bytes = true;
    }

    /// Hands each open file of each process to `each`, until `until` at most.
    ///
    /// # Errors
    /// When the kernel refuses to open or read the iterator, or its map.
    pub fn walk(
        &mut self,
        until: Instant,
        each: &mut dyn FnMut(&OpenFile),
    ) -> Result<Walk, ProbeError> {
        let doing = "read which files are open";
        let iterator = command(ITER_CREATE, [self.link.as_raw_fd() as u32, 0, 0, 0])
            .map_err(|source| map_error(doing, source))?;
        let tells_bytes = self.tells_bytes;
        let whole = read_all(File::from(iterator), until, &mut |mut file| {
            // What the iterator says of them holds where the programs run.
            file.counted &= tells_bytes;
            each(&file);
        });
        // Also after a walk that failed: its counts are not the next one's.
        let left = self.left();
        let whole = whole.map_err(|source| map_error(doing, source))?;
        Ok(Walk { left, cut: !whole })
    }

    /// What was not looked at; clears the counts for the next round.
    fn left(&mut self) -> HashMap<u64, u64> {
        let mut left = HashMap::new();
        let shares: Vec<u64> = self.walked.keys().take(SHARES_MAX).flatten().collect();
        for share in shares {
            if let Ok(PodWalked(walked)) = self.walked.get(&share, 0)
                && walked.left > 0
            {
                left.insert(share, walked.left);
            }
            // The only way to fail is that it is not there.
            let _ = self.walked.remove(&share);
        }
        left
    }
}

/// True when it was read to its end.
fn read_all(
    mut iterator: File,
    until: Instant,
    each: &mut dyn FnMut(OpenFile),
) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    while Instant::now() < until {
        match iterator.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(true),
            Ok(read) => filled += read,
            // A million descriptors in a row of which nothing is told: the next read goes on from there.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let whole = filled - filled % OPEN_FILE_BYTES;
        for bytes in buffer[..whole].chunks_exact(OPEN_FILE_BYTES) {
            if let Ok(file) = open_file(bytes) {
                each(file);
            }
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
    Ok(false)
}

/// A command of bpf(2) whose attributes begin with four words and that returns a descriptor.
fn command(command: libc::c_long, words: [u32; 4]) -> io::Result<OwnedFd> {
    // What follows the words is zero: what a newer kernel asks for there is not wanted.
    let mut attributes = [0u32; 16];
    attributes[..4].copy_from_slice(&words);
    // SAFETY: the kernel reads as many bytes as are said and writes none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const attributes,
            mem::size_of_val(&attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}
