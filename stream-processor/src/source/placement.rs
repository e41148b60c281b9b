//! Where reading begins in a partition that was just assigned.
//!
//! `auto.offset.reset` is `error`: a client that jumps over expired input by itself says nothing of it.
//! So the place is looked up and every gap is stated.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::checkpoint::{Head, Inputs, MemoryError, Ran};
use crate::step::Partition;

/// How long the look-up may take. It runs inside a rebalance, which the group ends after
/// `max.poll.interval.ms` (5 minutes). It covers what it has to wait for: a broker that restarts,
/// and the transaction of a crashed predecessor, whose offsets are unstable until the broker aborts it.
const PATIENCE: Duration = Duration::from_secs(240);

/// How long the brokers may take to say how many partitions there are: a start does not wait for it.
const COUNT_PATIENCE: Duration = Duration::from_secs(2);
/// How often an offset is asked for that a transaction holds.
const COUNT_TRIES: usize = 10;

/// How often a look-up that takes long is spoken of: an open transaction ends in less by default.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);

/// Where to begin, and what is missing before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Offset of the first record to read.
    pub at: i64,
    /// The offset that should have been the first, if its record is gone.
    pub missed_from: Option<i64>,
    /// The committed offset: what is before it was said, and is read for the windows' sake alone.
    pub live_from: i64,
    /// The checkpoint that knows the input before `at`; why there is none, otherwise.
    pub memory: Result<Head, MemoryError>,
    /// How many partitions the topic has, where that is known.
    pub partitions: Option<i32>,
    /// How many it had when the group committed last, where another number is known.
    pub partitions_before: Option<i32>,
}

impl Start {
    /// How many partitions the topic had and has, where these are not the same.
    pub fn repartitioned(&self) -> Option<(i32, i32)> {
        let (before, now) = self.partitions_before.zip(self.partitions)?;
        (before != now).then_some((before, now))
    }

    /// Says whether the topic of states must be read before the first record.
    pub fn restores(&self) -> bool {
        self.memory.as_ref().is_ok_and(|head| head.number > 0)
    }
}

/// What a group committed for a partition: an offset, and where the task's memory is.
pub type Committed = (i64, Result<Head, MemoryError>);

/// Decides where to begin in a partition that holds offsets `low..=high`.
///
/// A group that is new here begins at the first record. So does one that stands outside of the log:
/// behind it (input expired) or beyond its end (the topic was made anew). One with a checkpoint begins where
/// that one ends and comes to the committed offset again, muted; one whose checkpoint knows nothing of the topic yet begins at
/// the committed offset.
pub fn decide(topic: Topic, committed: Option<Committed>, low: i64, high: i64) -> Start {
    let Some((offset, memory)) = committed else {
        return Start {
            at: low,
            missed_from: None,
            live_from: low,
            memory: Ok(Head::empty(Inputs::from([(topic, low)]))),
            partitions: None,
            partitions_before: None,
        };
    };
    if offset > high {
        return Start {
            at: low,
            missed_from: Some(offset),
            live_from: low,
            memory: Err(MemoryError::OtherLog),
            partitions: None,
            partitions_before: None,
        };
    }
    let memory = memory.and_then(|head| {
        let input = head.inputs.get(&topic).copied().unwrap_or(offset);
        let fits = (0..=offset).contains(&input);
        let reason = || format!("it ends at offset {input}, beyond the committed one");
        fits.then_some((head, input))
            .ok_or_else(|| MemoryError::Unreadable(reason()))
    });
    let wanted = memory.as_ref().map_or(offset, |(_, input)| *input);
    let memory = memory.map(|(head, _)| head);
    Start {
        at: wanted.max(low),
        missed_from: (wanted < low).then_some(wanted),
        live_from: offset.max(low),
        memory,
        partitions: None,
        partitions_before: None,
    }
}

/// Decides where to go on in a partition that is being read, and whose record `next` may be gone.
pub fn go_on(next: i64, low: i64, high: i64) -> (i64, Option<i64>) {
    if (low..=high).contains(&next) {
        (next, None)
    } else {
        (low, Some(next))
    }
}

/// Sets the offsets of `list` to where reading begins, and returns that.
///
/// # Errors
/// The client's last error when the brokers did not answer within `PATIENCE`, or when it was `given_up`.
pub fn place<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    names: &Topics,
    list: &mut TopicPartitionList,
    given_up: &dyn Fn() -> bool,
) -> KafkaResult<Vec<(Partition, Start)>> {
    if list.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = patiently(given_up, || committed(consumer, list))?;
    let mut starts = Vec::new();
    for element in &mut list.elements() {
        let (name, partition) = (element.topic().to_owned(), element.partition());
        let Some(topic) = names.topic(&name) else {
            continue;
        };
        let found = committed.find_partition(&name, partition);
        let committed = found.and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some((offset, Head::of_metadata(found.metadata()))),
            _ => None,
        });
        let (low, high) = bounds(consumer, &name, partition, given_up)?;
        let start = decide(topic, committed, low, high);
        element.set_offset(Offset::Offset(start.at))?;
        starts.push(((topic, partition), start));
    }
    count_partitions(consumer, names, &mut starts);
    Ok(starts)
}

/// Learns how many partitions the topics have, and had when the group committed last. Where the brokers do not say, nothing is
/// known of it, and the next assignment asks again.
fn count_partitions<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    names: &Topics,
    starts: &mut [(Partition, Start)],
) {
    let topics: BTreeSet<Topic> = starts.iter().map(|((topic, _), _)| *topic).collect();
    for topic in topics {
        let name = names.name(topic);
        let metadata = consumer.fetch_metadata(Some(&name), COUNT_PATIENCE);
        let found = metadata.ok().and_then(|metadata| {
            let found = metadata
                .topics()
                .first()
                .map(|topic| topic.partitions().len());
            found.and_then(|count| i32::try_from(count).ok())
        });
        let own = || starts.iter().filter(|((of, _), _)| *of == topic);
        let ran = |start: &Start| start.memory.as_ref().ok().map(|head| head.ran.clone());
        let before = |start: &Start| ran(start)?.partitions;
        let others = own().filter_map(|(_, start)| ran(start));
        let known = others.filter(|ran| ran.partitions.is_some());
        let known = known.min_by_key(|ran| ran.partitions);
        // One that is new says nothing, nor do others that came with it.
        let any_new = own().any(|((_, number), start)| *number > 0 && before(start).is_none());
        let known = known.or_else(|| any_new.then(|| ran_before(consumer, &name)).flatten());
        for ((_, number), start) in starts.iter_mut().filter(|((of, _), _)| *of == topic) {
            start.partitions = found.filter(|count| *count > 0);
            let unread = || known.as_ref()?.partitions_without(*number);
            start.partitions_before = before(start).or_else(unread);
        }
    }
}

/// What the first partition of a topic was run with when it was committed last, which somebody else may be about to do.
fn ran_before<C: ConsumerContext>(consumer: &BaseConsumer<C>, name: &str) -> Option<Ran> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(name, 0);
    for _ in 0..COUNT_TRIES {
        let answer = consumer.committed_offsets(asked.clone(), COUNT_PATIENCE);
        if let Ok(answer) = answer
            && let [element] = &answer.elements()[..]
            && element.error().is_ok()
        {
            return Some(Head::of_metadata(element.metadata()).ok()?.ran);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

/// Sets the offsets of `list`, which are those to read next, to where there are records;
/// returns the partitions where some are gone, with the offset they were expected at and the one they begin at.
///
/// # Errors
/// As [`place`].
pub fn skip_gaps<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &mut TopicPartitionList,
    given_up: &dyn Fn() -> bool,
) -> KafkaResult<Vec<(String, i32, i64, i64)>> {
    let mut gaps = Vec::new();
    for element in &mut list.elements() {
        let Offset::Offset(next) = element.offset() else {
            continue;
        };
        let (topic, partition) = (element.topic().to_owned(), element.partition());
        let (low, high) = bounds(consumer, &topic, partition, given_up)?;
        let (at, missed_from) = go_on(next, low, high);
        element.set_offset(Offset::Offset(at))?;
        if let Some(from) = missed_from {
            gaps.push((topic, partition, from, at));
        }
    }
    Ok(gaps)
}

fn bounds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    given_up: &dyn Fn() -> bool,
) -> KafkaResult<(i64, i64)> {
    patiently(given_up, || {
        consumer.fetch_watermarks(topic, partition, Duration::from_secs(10))
    })
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

fn patiently<T>(given_up: &dyn Fn() -> bool, ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    let mut complained = started;
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if started.elapsed() > PATIENCE || given_up() || forbidden(&error) {
            return Err(error);
        }
        if complained.elapsed() >= COMPLAINT_INTERVAL {
            complained = Instant::now();
            tracing::warn!(
                %error,
                waited_seconds = started.elapsed().as_secs_f64(),
                "could not learn yet where to begin, asking again; should a transaction hold the group's offsets that never ends, \
                 kafka-transactions.sh find-hanging names it and kafka-transactions.sh abort ends it"
            );
        }
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

    const TOPIC: Topic = Topic::Events;

    fn head(input: i64) -> Head {
        Head::empty(Inputs::from([(TOPIC, input)]))
    }

    /// A committed offset with a checkpoint that ends at `input`.
    fn committed(offset: i64, input: i64) -> Option<Committed> {
        Some((offset, Ok(head(input))))
    }

    #[test]
    fn a_new_group_begins_at_the_first_record() {
        let start = decide(TOPIC, None, 10, 20);
        assert_eq!(
            (start.at, start.missed_from, start.live_from),
            (10, None, 10)
        );
        assert_eq!(start.memory, Ok(head(10)));
    }

    #[test]
    fn reading_begins_where_the_checkpoint_ends_and_gaps_are_stated() {
        let check = |offset, input, expected| {
            let start = decide(TOPIC, committed(offset, input), 10, 20);
            assert_eq!((start.at, start.missed_from, start.live_from), expected);
            assert_eq!(start.memory, Ok(head(input)));
        };
        check(15, 15, (15, None, 15));
        check(15, 12, (12, None, 15));
        check(20, 10, (10, None, 20));
        check(20, 20, (20, None, 20));
        // Said before it expired, but the windows miss it.
        check(15, 3, (10, Some(3), 15));
        check(5, 3, (10, Some(3), 10));
    }

    #[test]
    fn without_memory_reading_begins_at_the_committed_offset() {
        let check = |memory: MemoryError| {
            let start = decide(TOPIC, Some((15, Err(memory.clone()))), 10, 20);
            assert_eq!(
                (start.at, start.missed_from, start.live_from),
                (15, None, 15)
            );
            assert_eq!(start.memory, Err(memory));
            assert!(!start.restores());
        };
        check(MemoryError::None);
        check(MemoryError::Newer { found: 9 });
        let start = decide(TOPIC, committed(15, 16), 10, 20);
        assert_eq!(start.at, 15);
        assert!(matches!(start.memory, Err(MemoryError::Unreadable(_))));
    }

    #[test]
    fn a_topic_that_a_checkpoint_knows_nothing_of_begins_at_its_committed_offset() {
        let start = decide(Topic::Sensors, committed(15, 3), 10, 20);
        assert_eq!(
            (start.at, start.missed_from, start.live_from),
            (15, None, 15)
        );
        assert_eq!(start.memory, Ok(head(3)));
    }

    #[test]
    fn a_topic_made_anew_is_read_from_its_first_record_with_no_memory() {
        let start = decide(TOPIC, committed(21, 12), 10, 20);
        assert_eq!(
            (start.at, start.missed_from, start.live_from),
            (10, Some(21), 10)
        );
        assert_eq!(start.memory, Err(MemoryError::OtherLog));
    }

    #[test]
    fn a_partition_that_was_added_is_new_also_when_others_were_committed_since() {
        let ran = |partitions, partitions_before| Ran {
            partitions: Some(partitions),
            partitions_before,
            ..Ran::default()
        };
        // A group that begins: all are new, and none was added.
        assert_eq!(ran(3, None).partitions_without(2), Some(3));
        // Others were committed before it was added, or after that.
        assert_eq!(ran(2, None).partitions_without(2), Some(2));
        assert_eq!(ran(3, Some(2)).partitions_without(2), Some(2));
        assert_eq!(ran(3, Some(2)).partitions_without(1), Some(3));
    }

    #[test]
    fn reading_goes_on_over_a_gap() {
        assert_eq!(go_on(15, 10, 20), (15, None));
        assert_eq!(go_on(20, 10, 20), (20, None));
        assert_eq!(go_on(3, 10, 20), (10, Some(3)));
        assert_eq!(go_on(21, 10, 20), (10, Some(21)));
    }
}
