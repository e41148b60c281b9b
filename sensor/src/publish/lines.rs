//! Events as lines of JSON on standard output.
//!
//! A reader that stands still holds the sensor back, as any pipe does, down to the kernel's ring, which counts what it has
//! no room for. Once the sensor was told to end, nobody is waited for: what is not taken then is lost and counted.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Event;

use super::Handed;
use crate::stop::Shutdown;

/// A pipe that takes anything takes so much at once, without making the writer wait (PIPE_BUF, pipe(7)).
const PIECE_BYTES: usize = 4_096;
/// Lines are gathered up to this.
const BUFFER_BYTES: usize = 16 << 10;
/// How often a writer that waits looks whether the sensor is to end.
const LOOK: Duration = Duration::from_millis(50);
/// After the sensor was told to end: how long nothing may be taken, and how long the rest may take.
const STALLED: Duration = Duration::from_millis(500);
const END: Duration = Duration::from_secs(5);

/// See the module's description.
pub(super) struct Lines {
    output: File,
    shutdown: Shutdown,
    buffer: Vec<u8>,
    /// When it was seen that the sensor is to end.
    ending: Option<Instant>,
    closed: bool,
    /// Why it was closed, where it is not the reader that left or did not read.
    failed: Option<io::Error>,
}

impl Lines {
    /// Lines on standard output, until `shutdown` at least.
    ///
    /// # Errors
    /// Fails where standard output is closed.
    pub fn on_stdout(shutdown: Shutdown) -> io::Result<Self> {
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(output.into(), shutdown))
    }

    fn new(output: File, shutdown: Shutdown) -> Self {
        Self {
            output,
            shutdown,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES),
            ending: None,
            closed: false,
            failed: None,
        }
    }

    /// Writes an event, sooner or later.
    pub fn event(&mut self, framed: &[u8]) -> Handed {
        let event = Event::decode_framed(framed).expect("what was just encoded can be decoded");
        let before = self.buffer.len();
        if self.closed || serde_json::to_writer(&mut self.buffer, &event).is_err() {
            self.buffer.truncate(before);
            return Handed::Closed;
        }
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
        Handed::Over
    }

    /// Writes what was gathered.
    pub fn flush(&mut self) {
        let mut written = 0;
        while written < self.buffer.len() && !self.closed {
            match self.write(written) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.close(error),
            }
        }
        self.buffer.drain(..written);
    }

    fn close(&mut self, error: io::Error) {
        self.closed = true;
        if matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::TimedOut
        ) {
            tracing::warn!(%error, "nobody reads standard output any more: what is left is lost");
        } else {
            self.failed = Some(error);
        }
    }

    /// What ends the sensor, once: a disk that is full and the like.
    pub fn failed(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// How many events were handed over and not taken.
    pub fn left(&self) -> usize {
        self.buffer.iter().filter(|byte| **byte == b'\n').count()
    }

    fn write(&mut self, from: usize) -> io::Result<usize> {
        self.wait()?;
        let rest = &self.buffer[from..];
        self.output.write(&rest[..rest.len().min(PIECE_BYTES)])
    }

    /// Waits until the reader takes something.
    fn wait(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while !is_writable(&self.output)? {
            if self.shutdown.reason().is_none() {
                continue;
            }
            let ending = *self.ending.get_or_insert_with(Instant::now);
            if begun.max(ending).elapsed() >= STALLED || ending.elapsed() >= END {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

/// Waits for a moment; true when a write would not wait, also because it would fail.
fn is_writable(output: &File) -> io::Result<bool> {
    let mut polled = libc::pollfd {
        fd: output.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid entry, whose descriptor is open.
    match unsafe { libc::poll(&raw mut polled, 1, LOOK.as_millis() as libc::c_int) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn framed() -> Vec<u8> {
        let mut framed = Vec::new();
        Event::default().encode_framed(&mut framed);
        framed
    }

    fn pipe(shutdown: &Shutdown) -> (io::PipeReader, Lines) {
        let (reader, writer) = io::pipe().unwrap();
        let output = std::os::fd::OwnedFd::from(writer).into();
        (reader, Lines::new(output, shutdown.clone()))
    }

    #[test]
    fn what_is_taken_is_whole() {
        let shutdown = Shutdown::new();
        let (mut reader, mut lines) = pipe(&shutdown);
        let writer = std::thread::spawn(move || {
            for _ in 0..1_000 {
                assert_eq!(lines.event(&framed()), Handed::Over);
            }
            lines.flush();
            lines.left()
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(writer.join().unwrap(), 0);
        assert_eq!(text.lines().count(), 1_000);
        for line in text.lines() {
            serde_json::from_str::<Event>(line).unwrap();
        }
    }

    #[test]
    fn who_does_not_read_is_not_waited_for_at_the_end_and_every_event_is_counted() {
        let shutdown = Shutdown::new();
        let (mut reader, mut lines) = pipe(&shutdown);
        shutdown.trigger_because("a test");
        let begun = Instant::now();
        let (mut over, mut lost) = (0, 0);
        for _ in 0..1_000 {
            match lines.event(&framed()) {
                Handed::Over => over += 1,
                _ => lost += 1,
            }
        }
        let left = lines.left();
        drop(lines);
        assert!(begun.elapsed() < Duration::from_secs(2));
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        let taken = text.iter().filter(|byte| **byte == b'\n').count();
        assert!(lost > 0 && taken > 0);
        assert_eq!(taken + left, over);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is() {
        let (reader, lines) = pipe(&Shutdown::new());
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let full = Lines::new(full, Shutdown::new());
        for (mut lines, fails) in [(lines, false), (full, true)] {
            assert_eq!(lines.event(&framed()), Handed::Over);
            lines.flush();
            assert_eq!(lines.event(&framed()), Handed::Closed);
            assert_eq!(lines.failed().is_some(), fails);
        }
    }
}
