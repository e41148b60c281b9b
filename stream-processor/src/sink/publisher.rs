//! The publishing thread: one step is committed here while the next is matched.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Heads, Outcome, Publish, SinkError};
use crate::step::{Memory, Partition, Step};

/// Hands steps to the publishing thread, one at a time.
pub struct Publisher {
    steps: Sender<Step>,
    outcomes: Receiver<Result<Outcome, SinkError>>,
    thread: JoinHandle<()>,
    heads: Heads,
    in_flight: bool,
}

impl Publisher {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`SinkError::Thread`] when the system has none.
    pub fn start(mut publish: Publish) -> Result<Self, SinkError> {
        // One step in flight: a second would have to be taken back when the first fails.
        let (steps, to_publish) = bounded::<Step>(1);
        let (published, outcomes) = bounded(1);
        let heads = publish.heads();
        let run = move || {
            for step in to_publish {
                if published.send(publish.publish(step)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(run);
        Ok(Self {
            steps,
            outcomes,
            thread: thread.map_err(SinkError::Thread)?,
            heads,
            in_flight: false,
        })
    }

    /// Waits for the step in flight, if any, then hands the next over.
    ///
    /// # Errors
    /// What the step in flight failed with; the next one is dropped then.
    pub fn submit(&mut self, step: Step) -> Result<Option<Outcome>, SinkError> {
        let outcome = self.settle()?;
        self.steps
            .send(step)
            .expect("the publishing thread runs as long as its channel");
        self.in_flight = true;
        Ok(outcome)
    }

    /// Waits for the step in flight, if any.
    ///
    /// # Errors
    /// What it failed with.
    pub fn settle(&mut self) -> Result<Option<Outcome>, SinkError> {
        if !std::mem::take(&mut self.in_flight) {
            return Ok(None);
        }
        let outcome = self
            .outcomes
            .recv()
            .expect("the publishing thread answers each step");
        outcome.map(Some)
    }

    /// Where the memory of a task is, by the last commit.
    pub fn memory(&self, partition: Partition) -> Option<Memory> {
        self.heads.of(partition)
    }

    /// What became of the step in flight arrives here; [`Publisher::look`] takes it.
    pub fn outcomes(&self) -> &Receiver<Result<Outcome, SinkError>> {
        &self.outcomes
    }

    /// Says whether a step is in flight.
    pub fn busy(&self) -> bool {
        self.in_flight
    }

    /// Looks whether the step in flight is done, without waiting.
    ///
    /// # Errors
    /// What it failed with.
    pub fn look(&mut self) -> Result<Option<Outcome>, SinkError> {
        let Ok(outcome) = self.outcomes.try_recv() else {
            return Ok(None);
        };
        self.in_flight = false;
        outcome.map(Some)
    }

    /// Ends the thread and closes the sink.
    pub fn stop(self) {
        drop(self.steps);
        // A panic there was reported by the panic hook; nothing is left to do for it.
        let _ = self.thread.join();
    }
}
