//! Where reading begins in a partition that was just assigned.
//!
//! `auto.offset.reset` is `error`: a client that jumps over expired input by itself says nothing of it.
//! So the place is looked up and every gap is stated.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::shutdown::Shutdown;

/// How long the look-up may take. It runs inside a rebalance, which the group ends after
/// `max.poll.interval.ms` (5 minutes). It covers what it has to wait for: a broker that restarts,
/// and the transaction of a crashed predecessor, whose offsets are unstable until the broker aborts it.
const PATIENCE: Duration = Duration::from_secs(240);

/// Where to begin, and what is missing before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Offset of the first record to read.
    pub at: i64,
    /// The offset that should have been the first, if its record is gone.
    pub missed_from: Option<i64>,
}

/// Decides where to begin in a partition that holds offsets `low..high`.
///
/// A group that is new here begins at the first record. So does one that stands outside of the log:
/// behind it (input expired) or beyond its end (the topic was made anew).
pub fn decide(wanted: Option<i64>, low: i64, high: i64) -> Start {
    match wanted {
        None => Start {
            at: low,
            missed_from: None,
        },
        Some(offset) if (low..=high).contains(&offset) => Start {
            at: offset,
            missed_from: None,
        },
        Some(offset) => Start {
            at: low,
            missed_from: Some(offset),
        },
    }
}

/// Sets the offsets of `list` to where reading begins and returns the places where records are missing.
/// `wanted` offers offsets known better than the committed ones.
///
/// # Errors
/// The client's last error when the brokers did not answer within `PATIENCE`, or on `shutdown`.
pub fn place<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &mut TopicPartitionList,
    wanted: &TopicPartitionList,
    shutdown: &Shutdown,
) -> KafkaResult<Vec<(String, i32, Start)>> {
    if list.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = patiently(shutdown, || committed(consumer, list))?;
    let mut missed = Vec::new();
    for element in &mut list.elements() {
        let (topic, partition) = (element.topic().to_owned(), element.partition());
        let known =
            |list: &TopicPartitionList| match list.find_partition(&topic, partition)?.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
        let watermarks = || consumer.fetch_watermarks(&topic, partition, Duration::from_secs(10));
        let (low, high) = patiently(shutdown, watermarks)?;
        let start = decide(known(wanted).or_else(|| known(&committed)), low, high);
        element.set_offset(Offset::Offset(start.at))?;
        if start.missed_from.is_some() {
            missed.push((topic, partition, start));
        }
    }
    Ok(missed)
}

/// Reads the group's offsets. One that an open transaction holds comes as an error of its element:
/// taken for "none" it would begin at the first record and repeat every alert.
fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> KafkaResult<TopicPartitionList> {
    let committed = consumer.committed_offsets(list.clone(), Duration::from_secs(10))?;
    for element in committed.elements() {
        element.error()?;
    }
    Ok(committed)
}

fn patiently<T>(shutdown: &Shutdown, ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if started.elapsed() > PATIENCE || shutdown.triggered() || forbidden(&error) {
            return Err(error);
        }
        tracing::debug!(%error, "could not learn where to begin, asking again");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn forbidden(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: Option<i64>, at: i64, missed_from: Option<i64>) {
        assert_eq!(decide(wanted, 10, 20), Start { at, missed_from });
    }

    #[test]
    fn reading_begins_where_the_group_stands_and_gaps_are_stated() {
        check(None, 10, None);
        check(Some(15), 15, None);
        check(Some(10), 10, None);
        check(Some(20), 20, None);
        check(Some(3), 10, Some(3));
        check(Some(21), 10, Some(21));
    }
}
