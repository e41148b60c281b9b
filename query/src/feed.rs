//! Where rows come from: a thread that reads records, and the batches that it hands on.
//!
//! ```text
//! reading thread: record ─► Feed ─► [2 batches] ─► the query
//! ```
//! A query that wants no more drops its end, and the thread ends with its next record.

use std::error::Error;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use dogwatch_schemas::decode::DecodeError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::rows::{Record, Rows};
use crate::tables::Table;

/// Batches that wait for the query.
const BATCHES: usize = 2;
/// How long rows wait for others to make a batch with.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why a source cannot be read, or not be read on.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Where a feed's batches come out.
pub type Batches = Receiver<Result<RecordBatch, SourceError>>;

/// Something that tables can be read from.
pub trait Source: Debug + Send + Sync {
    /// Starts to read the table that `rows` are of.
    ///
    /// # Errors
    /// When it cannot be read.
    fn open(&self, rows: Rows) -> Result<Batches, SourceError>;

    /// Why a table cannot be read from here, with the mend; none where it can.
    fn refuses(&self, table: &Table) -> Option<(String, String)>;

    /// Whether rows come until somebody ends it.
    fn endless(&self) -> bool;

    /// What to do about a question that needs the end of what is endless.
    fn end_mend(&self) -> &'static str {
        "give it an end with --for 1m"
    }
}

/// What came of reading so far; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    /// How many there are, where that is known.
    of: AtomicU64,
    unreadable: AtomicU64,
    first_reason: Mutex<Option<String>>,
    cut: Mutex<Option<String>>,
    enough: AtomicBool,
}

impl Progress {
    /// Records that were read.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.0.records.load(Ordering::Relaxed)
    }

    /// How many there are, where that is known.
    #[must_use]
    pub fn of(&self) -> Option<u64> {
        Some(self.0.of.load(Ordering::Relaxed)).filter(|of| *of > 0)
    }

    /// Says that so many more are to be read.
    pub fn expect(&self, records: u64) {
        self.0.of.fetch_add(records, Ordering::Relaxed);
    }

    /// Notes a record that cannot be read.
    pub fn unreadable(&self, reason: impl FnOnce() -> String) {
        self.0.unreadable.fetch_add(1, Ordering::Relaxed);
        let mut first = self
            .0
            .first_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(reason);
    }

    /// How many records could not be read, with the reason of the first.
    #[must_use]
    pub fn unread(&self) -> Option<(u64, String)> {
        let count = self.0.unreadable.load(Ordering::Relaxed);
        let first = self
            .0
            .first_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        first.clone().map(|reason| (count, reason))
    }

    /// Why not all could be read, where what came before is answered with.
    #[must_use]
    pub fn cut(&self) -> Option<String> {
        let cut = self.0.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.clone()
    }

    /// Asks endless sources for their end: what came until now is all.
    pub fn end(&self) {
        self.0.enough.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.enough.load(Ordering::Acquire)
    }
}

/// Takes records, hands batches on.
#[derive(Debug)]
pub struct Feed {
    rows: Rows,
    sender: Sender<Result<RecordBatch, SourceError>>,
    progress: Progress,
    /// When the first of the waiting rows came.
    since: Option<Instant>,
}

impl Feed {
    /// A feed of rows, and the end where their batches come out.
    #[must_use]
    pub fn new(rows: Rows, progress: Progress) -> (Self, Batches) {
        let (sender, receiver) = channel(BATCHES);
        let feed = Self {
            rows,
            sender,
            progress,
            since: None,
        };
        (feed, receiver)
    }

    /// Whether nobody wants more, or the end was asked for.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.sender.is_closed() || self.progress.ended()
    }

    /// Whether somebody still takes what was read.
    #[must_use]
    pub fn wanted(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Takes a record in.
    ///
    /// # Errors
    /// When its schema is not known: it may be looked up and pushed again. All other records that cannot be read are counted.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), DecodeError> {
        match self.rows.push(record) {
            Err(DecodeError::BatchFull { .. }) => {
                self.hand_on();
                self.push(record)
            }
            Err(error @ DecodeError::UnknownSchema(_)) => Err(error),
            Err(error) => {
                self.unreadable(record, &error.to_string());
                Ok(())
            }
            Ok(()) => {
                self.progress.0.records.fetch_add(1, Ordering::Relaxed);
                self.since.get_or_insert_with(Instant::now);
                if self.rows.full() {
                    self.hand_on();
                }
                Ok(())
            }
        }
    }

    /// Makes a writer's schema known; says whether its records can become rows.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn register(&mut self, schema: &str) -> Result<(), String> {
        self.rows
            .register(schema)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Counts a record that cannot be read.
    pub fn unreadable(&self, record: &Record<'_>, reason: &str) {
        self.progress.0.records.fetch_add(1, Ordering::Relaxed);
        let topic = self.rows.table.topic.suffix();
        let (partition, offset) = (record.partition, record.offset);
        self.progress
            .unreadable(|| format!("{topic}/{partition}/{offset}: {reason}"));
    }

    /// Hands on what has waited long enough; called when nothing came, and now and then.
    pub fn tick(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.hand_on();
        }
    }

    /// Hands the last rows on.
    pub fn finish(mut self) {
        self.hand_on();
    }

    /// Hands the last rows on; what comes after them cannot be read, for this reason.
    pub fn finish_cut(self, reason: String) {
        let cut = &self.progress.0.cut;
        *cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.finish();
    }

    /// Ends with the reason why there is no more.
    pub fn fail(mut self, error: impl Into<SourceError>) {
        self.hand_on();
        // Nobody is there any more when the query has ended.
        let _ = self.sender.blocking_send(Err(error.into()));
    }

    fn hand_on(&mut self) {
        self.since = None;
        if self.rows.waiting() > 0 {
            let batch = self.rows.finish().map_err(SourceError::from);
            // As above; the next look at `closed` ends the reading.
            let _ = self.sender.blocking_send(batch);
        }
    }
}
