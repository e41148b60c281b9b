//! At least once: what the step says first, then what its tasks remember, then the input offsets.
//!
//! In this order a crash never loses: a checkpoint in the topic knows only input whose alerts are delivered,
//! so a restart that finds one beyond the committed offset begins there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dogwatch_kafka::Fault;
use rdkafka::producer::Producer;

use super::outgoing::Outgoing;
use super::producer::{self, RecordProducer};
use super::transactions::not_a_member;
use super::{Attempt, Places, SinkError, Work, native};
use crate::checkpoint::Head;
use crate::config::{Config, Fault as TestFault, FaultPoint};
use crate::kafka;
use crate::source::group::GroupInput;
use crate::step::{Partition, Step};

/// How long a record may take to be delivered, retries of the client included.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// An idempotent producer without transactions.
pub struct AtLeastOnce {
    producer: RecordProducer,
    fault: Option<TestFault>,
}

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
        Ok(Self {
            producer: created.map_err(|error| Fault::of("make a producer", &error))?,
            fault: config.fault.clone(),
        })
    }

    /// The producer.
    pub fn producer(&self) -> &RecordProducer {
        &self.producer
    }

    /// Publishes a step once.
    pub fn attempt(&self, work: &Work<'_>) -> Attempt {
        match self.deliver_and_commit(work) {
            Ok(attempt) => attempt,
            // Rights do not come back by asking again.
            Err(fault @ Fault::Unauthorised { .. }) => Attempt::Stop(fault.into()),
            Err(fault) => Attempt::Retry(fault.into()),
        }
    }

    fn deliver_and_commit(&self, work: &Work<'_>) -> Result<Attempt, Fault> {
        deliver_with(&self.producer, work.encoded.output(), DELIVERY_TIMEOUT)?;
        // What was lost before this is noticed here; later, the lineage in the checkpoint's base tells a zombie's.
        if !stands(work.step, work.input) {
            return Ok(Attempt::Superseded);
        }
        let state = work.encoded.state();
        deliver_with(&self.producer, state, DELIVERY_TIMEOUT)?;
        let said = work.encoded.said;
        let place = |number: usize| self.producer.context().offset(number - said);
        let Some(heads) = work.heads_placed(place) else {
            let reason = "a checkpoint's place is not known".to_owned();
            return Err(Fault::new("write a checkpoint", None, reason));
        };
        let fault = self.fault.as_ref().filter(|_| !state.is_empty());
        if fault.is_some_and(|fault| fault.strikes(FaultPoint::BeforeCommitCheckpoint)) {
            tracing::error!("dying as DOGWATCH_FAULT asks");
            std::process::abort();
        }
        Ok(commit_offsets(
            work.step,
            heads,
            work.places(place),
            work.input,
        ))
    }
}

fn stands(step: &Step, input: Option<&Arc<GroupInput>>) -> bool {
    input.is_none_or(|input| input.assignments.stands(&step.positions))
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
pub fn commit_offsets(
    step: &Step,
    heads: BTreeMap<Partition, Head>,
    places: Places,
    input: Option<&Arc<GroupInput>>,
) -> Attempt {
    let Some(input) = input.filter(|_| !step.positions.is_empty()) else {
        return Attempt::Committed(heads, places);
    };
    if !stands(step, Some(input)) {
        return Attempt::Superseded;
    }
    let error = match input.commit(&step.positions, &heads) {
        Ok(()) => return Attempt::Committed(heads, places),
        Err(error) => error,
    };
    match error.rdkafka_error_code() {
        Some(code) if not_a_member(code) => Attempt::NotAMember(error.to_string()),
        _ => Attempt::Retry(SinkError::from(Fault::of("commit offsets", &error))),
    }
}
