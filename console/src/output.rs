//! Standard output, which may be a disk that is full, or a pipe whose reader stands still.
//!
//! ```text
//! line ─► [16 MiB] ─► thread "output" ─► standard output
//!           └► full: the line is dropped and counted
//! ```
//! Whoever reads never holds back what is watched: what waits is bounded, and what finds no room is counted and told.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

/// Bytes that wait for a reader: some 8,000 events.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// How long the end waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Nobody reads standard output any more.
#[derive(Debug)]
pub struct Gone;

/// Standard output. Until [`Output::detach`] whoever writes waits for whoever reads.
#[derive(Debug, Default)]
pub struct Output {
    state: Arc<State>,
    thread: Option<Sender<Line>>,
}

#[derive(Debug)]
struct Line {
    text: String,
    /// A line that is missing is counted.
    counted: bool,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: AtomicUsize,
    /// Alerts and events that were not written.
    unwritten: AtomicU64,
    /// It may hold a half line.
    torn: AtomicBool,
    gone: AtomicBool,
}

impl Output {
    /// From now on lines are written by a thread of its own, with the rights of the thread that calls.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn detach(&mut self) -> io::Result<()> {
        let (sender, lines) = unbounded::<Line>();
        let state = Arc::clone(&self.state);
        let write = move || {
            for line in lines {
                state.write(&line);
                let bytes = line.text.len();
                state.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
        };
        Builder::new().name("output".to_owned()).spawn(write)?;
        self.thread = Some(sender);
        Ok(())
    }

    /// Writes an alert or an event.
    ///
    /// # Errors
    /// [`Gone`] when nobody reads any more.
    pub fn line(&self, text: String) -> Result<(), Gone> {
        self.take(Line {
            text,
            counted: true,
        })
    }

    /// Writes a line about what goes on.
    ///
    /// # Errors
    /// [`Gone`] when nobody reads any more.
    pub fn note(&self, text: String) -> Result<(), Gone> {
        self.take(Line {
            text,
            counted: false,
        })
    }

    /// Whether somebody may read it yet.
    ///
    /// # Errors
    /// [`Gone`] when nobody does.
    pub fn read(&self) -> Result<(), Gone> {
        match self.state.gone.load(Ordering::Acquire) {
            true => Err(Gone),
            false => Ok(()),
        }
    }

    /// How many alerts and events were not written. Those that wait are waited for while somebody takes some.
    #[must_use]
    pub fn unwritten(&self) -> u64 {
        self.drain();
        let waiting = self.thread.as_ref().map_or(0, Sender::len) as u64;
        self.state.unwritten.load(Ordering::Acquire) + waiting
    }

    fn drain(&self) {
        let (mut last, mut since) = (usize::MAX, Instant::now());
        loop {
            let waiting = self.state.waiting_bytes.load(Ordering::Acquire);
            if waiting == 0 || self.read().is_err() {
                return;
            }
            if waiting != last {
                (last, since) = (waiting, Instant::now());
            } else if since.elapsed() >= PATIENCE {
                return;
            }
            sleep(LOOK_INTERVAL);
        }
    }

    fn take(&self, line: Line) -> Result<(), Gone> {
        let Some(thread) = &self.thread else {
            self.state.write(&line);
            return self.read();
        };
        self.read()?;
        let bytes = line.text.len();
        let waiting = self.state.waiting_bytes.load(Ordering::Acquire);
        if waiting + bytes > WAITING_BYTES_MAX {
            let why = "whoever reads standard output does not keep up";
            self.state.missing(&line, why);
            return Ok(());
        }
        self.state.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        // The thread lives as long as we do.
        let _ = thread.send(line);
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.drain();
    }
}

impl State {
    /// Writes a line; a half line before it is closed first.
    fn write(&self, line: &Line) {
        let mut output = io::stdout().lock();
        let begin = if self.torn.load(Ordering::Acquire) {
            "\n"
        } else {
            ""
        };
        let written = output
            .write_all(format!("{begin}{}", line.text).as_bytes())
            .and_then(|()| output.flush());
        self.torn.store(written.is_err(), Ordering::Release);
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone.store(true, Ordering::Release);
            }
            Err(_) => self.missing(line, "standard output takes no more"),
        }
    }

    fn missing(&self, line: &Line, why: &str) {
        if line.counted && self.unwritten.fetch_add(1, Ordering::AcqRel) == 0 {
            let said =
                format!("dogwatch: {why}; watching goes on, what is not written is counted\n");
            // There is no other place to say it.
            let _ = io::stderr().write_all(said.as_bytes());
        }
    }
}
