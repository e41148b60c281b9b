//! Windows over all hosts: which rows count in them, when they close, and how their alerts are folded.
//!
//! A row counts in a window unless all hosts of its partition had passed it before the row's second of ingest. What a second
//! brings is seen when it is over: then a window speaks early whose rows of seconds that are over reach the threshold, and those
//! close that all partitions have passed. The seconds are taken in the order in which they end; what a closed window holds is the
//! same in any order. At the end of a bounded input the seconds that run end, and then everything closes.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};

use super::fold::{Candidate, Folding};
use super::query::{Answer, Grouped, Query, grouped_by};
use super::scan::Scan;
use super::{Alert, Cause, Log, OracleError, Stage, Unjudged, fold_key, identity};

/// What stands for the partition of the fleet's folding.
const TASK: i32 = -1;
const SECOND_NS: i64 = 1_000_000_000;

/// The seconds of all partitions, in the order in which they end.
pub(super) struct Seconds {
    /// Partition and number of each, where it is known by.
    places: BTreeMap<(i32, i64), usize>,
    /// What ends each, and how far all partitions are then.
    ends: Vec<(Cause, i64)>,
    bounded: bool,
}

/// An alert of the fleet, by the second that causes it.
pub(super) type Caused = (usize, Candidate);

impl Seconds {
    pub fn of(scan: &Scan, sources: &[i32], bounded: bool) -> Self {
        let mut reached: BTreeMap<i32, i64> = BTreeMap::new();
        let (mut places, mut ends) = (BTreeMap::new(), Vec::new());
        let mut end = |partition: i32, number: i64, (offset, of): (i64, i32), fleet: i64| {
            reached.insert(partition, fleet);
            let all = sources.iter().all(|source| reached.contains_key(source));
            let slowest = reached.values().min().copied();
            let slowest = slowest.filter(|_| all).unwrap_or(i64::MIN);
            places.insert((partition, number), ends.len());
            let (partition, stage) = (of, Stage::Second);
            let cause = Cause {
                partition,
                offset,
                stage,
            };
            ends.push((cause, slowest));
        };
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for second in &scan.seconds {
            let row = &scan.rows[second.row];
            let place = (row.offset, row.partition);
            end(second.partition, second.number, place, second.fleet);
        }
        for row in &scan.rows {
            last.insert(row.partition, row.second);
        }
        if bounded {
            for (partition, number) in last {
                let own = scan.rows.iter().rfind(|row| row.partition == partition);
                let fleet = own.map_or(i64::MIN, |row| row.fleet);
                end(partition, number, (i64::MAX, TASK), fleet);
            }
        }
        Self {
            places,
            ends,
            bounded,
        }
    }

    /// The place of a row's second; none where it is not over.
    fn place(&self, partition: i32, second: i64) -> Option<usize> {
        self.places.get(&(partition, second)).copied()
    }

    /// The second by whose end all partitions have passed a time; none where they have not.
    fn passes(&self, time: i64, from: usize) -> Option<usize> {
        let passed = (from..self.ends.len()).find(|place| self.ends[*place].1 >= time);
        passed.or_else(|| {
            self.bounded
                .then(|| self.ends.len().checked_sub(1))
                .flatten()
        })
    }

    /// Whether a second is one of those that the end of the input ends.
    fn at_end(&self, place: usize) -> bool {
        self.ends[place].0.offset == i64::MAX
    }

    /// Says what of the alerts is said, in order.
    pub fn fold(&self, mut candidates: Vec<Caused>, per_minute: u64) -> Vec<Alert> {
        let place = |place: usize| match self.at_end(place) {
            true => self.ends.len(),
            false => place,
        };
        candidates.sort_by(|(left, one), (right, other)| {
            let own = (place(*left), one.alert.cause.stage, &one.order);
            own.cmp(&(place(*right), other.alert.cause.stage, &other.order))
        });
        let mut candidates = candidates.into_iter().peekable();
        let mut folding = Folding::of_task(TASK, per_minute);
        let mut second = 0;
        for (number, (cause, time)) in self.ends.iter().enumerate() {
            if self.at_end(number) {
                break;
            }
            if *time > i64::MIN {
                second = time.div_euclid(SECOND_NS);
                folding.end(cause.partition, cause.offset, |_, ends| ends <= *time);
                folding.end_minutes(cause.partition, cause.offset, second);
            }
            while let Some((_, candidate)) = candidates.next_if(|(own, _)| *own == number) {
                folding.take(candidate, second);
            }
        }
        if self.bounded {
            let reached = self.ends.last().map_or(i64::MIN, |(_, time)| *time);
            if reached > i64::MIN {
                second = reached.div_euclid(SECOND_NS);
            }
            folding.end(TASK, i64::MAX, |_, _| true);
            folding.end_minutes(TASK, i64::MAX, i64::MAX);
            candidates.for_each(|(_, candidate)| folding.take(candidate, second));
            folding.end(TASK, i64::MAX, |_, _| true);
            folding.end_minutes(TASK, i64::MAX, i64::MAX);
        }
        folding.said
    }
}

impl Log {
    /// What a query says of every window of the fleet.
    pub(super) fn of_fleet(
        &self,
        query: &Query,
        grouped: &Grouped,
        seconds: &Seconds,
        candidates: &mut Vec<Caused>,
        late: &mut Vec<((i32, i64), String)>,
        unjudged: &mut Unjudged,
    ) -> Result<(), OracleError> {
        let rows = self.scan.rows.iter().enumerate();
        let pairs: Vec<(usize, i64)> = rows
            .filter(|(_, row)| !row.mark)
            .flat_map(|(at, row)| {
                grouped
                    .windows
                    .starts(row.time)
                    .map(move |start| (at, start))
            })
            .collect();
        let (mut judged, mut members, mut count) = (Vec::new(), Vec::new(), 0);
        for pairs in pairs.chunks(super::ROWS_MAX) {
            let mut passing = Vec::new();
            self.passing(query, pairs, &mut passing, &mut judged, unjudged)?;
            for (at, start) in passing {
                let place: u32 = count;
                count += 1;
                let row = &self.scan.rows[at];
                if start + grouped.windows.size_ns + query.delay_ns <= row.fleet {
                    late.push(((row.partition, row.offset), query.detection_id.clone()));
                } else if let Some(second) = seconds.place(row.partition, row.second) {
                    members.push((start, (second, place)));
                }
            }
        }
        let Some(schema) = judged.first().map(RecordBatch::schema) else {
            return Ok(());
        };
        let judged = concat_batches(&schema, &judged)?;
        for (start, mut rows) in grouped_by(members) {
            rows.sort_by_key(|(second, _)| *second);
            self.of_fleet_window(query, grouped, seconds, (start, &rows), &judged, candidates)?;
        }
        Ok(())
    }

    /// What a query says of one window; `rows` are those of seconds that are over, by second.
    fn of_fleet_window(
        &self,
        query: &Query,
        grouped: &Grouped,
        seconds: &Seconds,
        (start, rows): (i64, &[(usize, u32)]),
        judged: &RecordBatch,
        candidates: &mut Vec<Caused>,
    ) -> Result<(), OracleError> {
        let first = |count: usize| {
            let places = rows[..count].iter().map(|(_, place)| *place);
            let own = take_record_batch(judged, &UInt32Array::from_iter_values(places))?;
            Ok::<_, OracleError>(query.of_window(&own)?)
        };
        let reach = start + grouped.windows.size_ns + query.delay_ns;
        let mut say = |second: usize, stage: Stage, answer: Answer| {
            let (cause, time) = seconds.ends[second];
            let time = match seconds.at_end(second) {
                true => seconds.ends.last().map_or(i64::MIN, |(_, time)| *time),
                false => time,
            };
            let cause = Cause { stage, ..cause };
            let candidate = fleet_alert(query, grouped, start, answer, (cause, time));
            candidates.push((second, candidate));
        };
        let mut said: Vec<String> = Vec::new();
        let last = rows.last().map_or(0, |(second, _)| *second);
        if grouped.monotone {
            for (number, (second, _)) in rows.iter().enumerate() {
                if rows.get(number + 1).is_some_and(|(next, _)| next == second) {
                    continue;
                }
                for answer in first(number + 1)? {
                    if !said.contains(&answer.keys) {
                        said.push(answer.keys.clone());
                        say(*second, Stage::Second, answer);
                    }
                }
            }
        }
        if let Some(second) = seconds.passes(reach, last) {
            for answer in first(rows.len())? {
                say(second, Stage::Close, answer);
            }
        }
        Ok(())
    }
}

fn fleet_alert(
    query: &Query,
    grouped: &Grouped,
    start: i64,
    answer: Answer,
    (cause, time): (Cause, i64),
) -> Candidate {
    let end = start + grouped.windows.size_ns;
    let closed = cause.stage == Stage::Close;
    let second_word = closed && grouped.monotone;
    let begin = start.to_string();
    let parts = [
        &query.detection_id,
        &query.content_hash,
        "window",
        "fleet",
        &answer.keys,
        &begin,
        "",
    ];
    let alert = Alert {
        failed: answer.failed,
        alert_id: identity(&parts),
        detection_id: query.detection_id.clone(),
        activity: if second_word { "update" } else { "create" }.to_owned(),
        window_state: Some(if closed { "closed" } else { "open" }.to_owned()),
        clock_stepped: false,
        folded: 0,
        host_id: "fleet".to_owned(),
        message: query.message.render(&answer.row),
        row: answer.row,
        window_start: Some(start),
        window_end: Some(end),
        evidence_offset: None,
        cause,
    };
    Candidate {
        fold: fold_key(query, &alert, None),
        container: String::new(),
        title: query.title.clone(),
        order: (end, query.detection_id.clone(), answer.keys, String::new()),
        second_word,
        fold_time: time,
        alert,
    }
}
