//! What is shown of a run: new alerts as they come, losses when they grow, a line now and then.
//!
//! ```text
//! Joined ──arrival──► repeats? ──► tally ──► printer
//!    └────figures────► losses grown? due? ──► note
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use dogwatch_schemas::Text;
use dogwatch_schemas::records::Alert;

use crate::joined::{Arrival, Ended, Joined};
use crate::printer::{PrintError, Printer};
use crate::repeats::Repeats;
use crate::tally::{self, Tally};

/// Ids a generation of [`Repeats`] holds: at most 131,072 ids are remembered, some 12 MB.
const REPEATS_IDS: usize = 65_536;
/// Time between two lines about a run that goes well.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Whether the time from event to alert means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// The events happen now.
    Live,
    /// The events were recorded.
    Recorded,
}

/// A run and what was shown of it.
pub struct Session {
    joined: Joined,
    printer: Printer,
    timing: Timing,
    started: Instant,
    line_at: Instant,
    tally: Tally,
    /// The figures of the last line.
    told: Tally,
    repeats: Repeats,
}

/// What came next.
#[derive(Debug)]
pub enum Next {
    /// A new alert; it was printed. The latency is unknown where the events were recorded.
    Alert(Box<Alert>, Option<Duration>),
    /// A later word on an alert: its window is over, or repeats were folded into it. It was printed.
    Update(Box<Alert>),
    /// Nothing, in the time given.
    Nothing,
    /// Sensor and processor have ended.
    End,
}

impl Session {
    /// Shows `joined` through `printer`.
    pub fn new(joined: Joined, printer: Printer, timing: Timing) -> Self {
        let now = Instant::now();
        Self {
            joined,
            printer,
            timing,
            started: now,
            line_at: now,
            tally: Tally::default(),
            told: Tally::default(),
            repeats: Repeats::new(REPEATS_IDS),
        }
    }

    /// The run.
    pub fn joined(&self) -> &Joined {
        &self.joined
    }

    /// The printer, for notes.
    pub fn printer(&self) -> &Printer {
        &self.printer
    }

    /// Opens the alerts' file anew: it was moved away.
    pub fn reopen(&mut self) {
        self.printer.reopen();
    }

    /// Waits at most `wait` for a new alert and prints it.
    ///
    /// # Errors
    /// [`PrintError`] when it cannot be printed.
    pub fn next(&mut self, wait: Duration) -> Result<Next, PrintError> {
        let deadline = Instant::now() + wait;
        loop {
            match self.joined.arrivals().recv_deadline(deadline) {
                Ok(arrival) => {
                    if let Some(next) = self.show(arrival)? {
                        return Ok(next);
                    }
                    // However many events come, the time given is over.
                    if Instant::now() >= deadline {
                        return Ok(Next::Nothing);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Next::Nothing),
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::End),
            }
        }
    }

    /// Prints an alert, or a later word on one, that was not shown yet.
    fn show(&mut self, arrival: Arrival) -> Result<Option<Next>, PrintError> {
        let (alert, at_ns) = match arrival {
            Arrival::Alert { alert, at_ns } => (alert, at_ns),
            Arrival::Event(line) => {
                self.printer.event(&line)?;
                return Ok(None);
            }
        };
        if !self.repeats.first_time(&word_of(&alert)) {
            self.tally.repeats += 1;
            return Ok(None);
        }
        if *alert.activity == *UPDATE {
            self.tally.updates += 1;
            self.printer.alert(&alert, None)?;
            return Ok(Some(Next::Update(alert)));
        }
        let latency = (self.timing == Timing::Live)
            .then(|| Duration::from_nanos(u64::try_from(at_ns - alert.event_ts).unwrap_or(0)));
        self.tally.alerts += 1;
        if let Some(latency) = latency {
            self.tally.latency.record(latency);
        }
        self.printer.alert(&alert, latency)?;
        Ok(Some(Next::Alert(alert, latency)))
    }

    /// Says what was lost since it was last called, and now and then how the run goes.
    ///
    /// # Errors
    /// [`PrintError`] when it cannot be said.
    pub fn heartbeat(&mut self) -> Result<(), PrintError> {
        let sensor = self.joined.sensor();
        let grown = grown(&self.tally.losses, &sensor.losses);
        if !grown.is_empty() {
            self.printer
                .note(&format!("lost: {}", tally::losses(&grown)))?;
        }
        (self.tally.events, self.tally.bytes, self.tally.losses) =
            (sensor.events, sensor.bytes, sensor.losses);
        self.tally.containers = sensor.containers;
        let processor = self.joined.processor();
        self.tally.matched = processor.records;
        self.tally.unjudged = processor.unjudged;
        self.tally.unreadable = processor.dead_letters.values().sum();
        if self.line_at.elapsed() >= LINE_INTERVAL {
            self.line_at = Instant::now();
            let line = self.tally.line(&self.told);
            self.told = self.tally.clone();
            self.printer.note(&line)?;
        }
        Ok(())
    }

    /// Ends a run whose output nobody reads any more; a file of alerts gets what still comes.
    ///
    /// # Errors
    /// [`SessionError`] when the file is not written, or sensor or processor failed.
    pub fn leave(mut self) -> Result<(), SessionError> {
        self.joined.end();
        loop {
            match self.next(Duration::from_secs(1)) {
                Ok(Next::End) => break,
                Ok(_) | Err(PrintError::Output) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.joined.join()?;
        Ok(self.printer.complete()?)
    }

    /// Waits for sensor and processor, shows what still comes, and returns the figures of the whole run.
    ///
    /// # Errors
    /// [`SessionError`] when something cannot be printed, or sensor or processor failed.
    pub fn finish(mut self) -> Result<(Printer, String), SessionError> {
        self.joined.end();
        while !matches!(self.next(Duration::from_secs(1))?, Next::End) {}
        self.heartbeat()?;
        let summary = self.tally.summary(self.started.elapsed());
        self.joined.join()?;
        Ok((self.printer, summary))
    }
}

/// A run could not be shown or failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Something could not be printed.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Sensor or processor failed.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// The activity of a later word on an alert.
const UPDATE: &str = "update";

/// What tells one word on an alert from its others; the same word sent again has the same.
fn word_of(alert: &Alert) -> Text {
    let state = alert.window_state.as_deref().unwrap_or_default();
    format!(
        "{}/{}/{state}/{}",
        alert.alert_id, alert.activity, alert.folded
    )
    .into()
}

/// By how much each class of loss has grown.
fn grown(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(class, count): (&String, &u64)| {
        let earlier = before.get(class).copied().unwrap_or(0);
        (*count > earlier).then(|| (class.clone(), count - earlier))
    };
    now.iter().filter_map(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_words_on_an_alert_are_no_repeats() {
        let word = |activity: &str, state: Option<&str>, folded: i64| {
            word_of(&Alert {
                alert_id: "a".into(),
                activity: activity.into(),
                window_state: state.map(Into::into),
                folded,
                ..Alert::default()
            })
        };
        let words = [
            word("create", Some("open"), 0),
            word("update", Some("closed"), 0),
            word("update", Some("open"), 3),
            word("update", Some("open"), 5),
        ];
        let mut repeats = Repeats::new(9);
        assert!(words.iter().all(|word| repeats.first_time(word)));
        assert!(!words.iter().any(|word| repeats.first_time(word)));
    }

    #[test]
    fn only_what_is_new_has_grown() {
        let losses = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(class, count)| ((*class).to_owned(), *count))
                .collect()
        };
        let before: BTreeMap<String, u64> = losses(&[("ring_full", 3), ("queue_full", 1)]);
        let now: BTreeMap<String, u64> =
            losses(&[("ring_full", 5), ("queue_full", 1), ("table_full", 2)]);
        assert_eq!(
            grown(&before, &now),
            losses(&[("ring_full", 2), ("table_full", 2)])
        );
        assert!(grown(&now, &now).is_empty());
    }
}
