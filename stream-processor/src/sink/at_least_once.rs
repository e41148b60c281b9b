//! At least once: records first, input offsets when all of them are delivered.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::producer::Producer;

use super::outgoing::Outgoing;
use super::producer::{self, RecordProducer};
use super::transactions::not_a_member;
use super::{Attempt, SinkError, native};
use crate::config::Config;
use crate::kafka::{self, Fault};
use crate::source::group::GroupInput;
use crate::step::Step;

/// How long a record may take to be delivered, retries of the client included.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// An idempotent producer without transactions.
pub struct AtLeastOnce(RecordProducer);

impl AtLeastOnce {
    /// Makes the producer.
    ///
    /// # Errors
    /// [`SinkError`] when the client refuses its settings.
    pub fn open(config: &Config, batch_bytes: usize) -> Result<Self, SinkError> {
        let mut settings = kafka::producer(config, batch_bytes);
        settings.set(
            "delivery.timeout.ms",
            DELIVERY_TIMEOUT.as_millis().to_string(),
        );
        let created = producer::create(&settings);
        Ok(Self(
            created.map_err(|error| Fault::of("make a producer", &error))?,
        ))
    }

    /// Delivers all records; the error says what to do about it.
    pub fn deliver(&self, records: &[Outgoing]) -> Result<(), Attempt> {
        deliver_with(&self.0, records, DELIVERY_TIMEOUT).map_err(|fault| match fault {
            // Rights do not come back by asking again.
            Fault::Unauthorised { .. } => Attempt::Stop(fault.into()),
            _ => Attempt::Retry(fault.into()),
        })
    }
}

/// Delivers records once, with a producer made for it.
///
/// # Errors
/// [`Fault`] when one was not delivered within `timeout`.
pub fn deliver(config: &Config, records: &[Outgoing], timeout: Duration) -> Result<(), Fault> {
    let mut settings = kafka::producer(config, usize::MAX);
    settings.set("delivery.timeout.ms", timeout.as_millis().to_string());
    let producer =
        producer::create(&settings).map_err(|error| Fault::of("make a producer", &error))?;
    deliver_with(&producer, records, timeout)
}

fn deliver_with(
    producer: &RecordProducer,
    records: &[Outgoing],
    timeout: Duration,
) -> Result<(), Fault> {
    let Some(first) = records.first() else {
        return Ok(());
    };
    let action = format!("write to {}", first.topic);
    producer::send_all(producer, records, timeout).map_err(|error| Fault::of(&action, &error))?;
    // The client gives up by itself at the timeout; its failure says more than ours.
    let in_time = native::flush(producer, timeout * 2);
    match producer.context().take_failure() {
        Some(error) => Err(Fault::of(&action, &error)),
        None if in_time => Ok(()),
        None => Err(Fault::new(
            &action,
            None,
            "not confirmed in time".to_owned(),
        )),
    }
}

/// Commits a step's offsets on their own, after its records.
pub fn commit_offsets(step: &Step, input: Option<&Arc<GroupInput>>) -> Attempt {
    let Some(input) = input.filter(|_| !step.positions.is_empty()) else {
        return Attempt::Committed;
    };
    if !input.assignments.stands(&step.positions) {
        return Attempt::Superseded;
    }
    let error = match input.commit(&step.positions) {
        Ok(()) => return Attempt::Committed,
        Err(error) => error,
    };
    match error.rdkafka_error_code() {
        Some(code) if not_a_member(code) => Attempt::NotAMember(error.to_string()),
        _ => Attempt::Retry(SinkError::from(Fault::of("commit offsets", &error))),
    }
}
