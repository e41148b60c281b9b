//! Folding of repeats, row at a time: the naive reference.
//!
//! For each detection, host, container and `dedup` columns: the first `limit` alerts of a period are said, later ones are
//! counted; when the period is over and some were counted, the first is said again with their number.
//! Of a detection that folds nothing the first ten alerts of a host and container within a minute are said, the others are held
//! back; when the minute is over and some were, an alert of its own tells their number. A minute begins with an alert and goes by
//! the seconds of its partition's ingest; it is over at the first row of the partition whose second has reached its end.
//! A period is over at the first row of its host after which the host's time has reached its end, when the host's clock steps
//! back and when the host falls silent. The last word on a window follows the first: it is said when the first was said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::query::grouped_by;
use super::scan::Scan;
use super::{Alert, Cause, Stage, identity};

/// An alert before folding.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub alert: Alert,
    /// What it is folded with; none where its detection folds nothing.
    pub fold: Option<FoldKey>,
    /// Its container; empty where it has none.
    pub container: String,
    /// The detection's title.
    pub title: String,
    /// The close of a window that spoke before.
    pub second_word: bool,
    /// Its host's time after the row that caused it.
    pub fold_time: i64,
    /// Order among the alerts of one row and stage: window's end, detection, keys, host.
    pub order: (i64, String, String, String),
}

/// Detection, container and values of the `dedup` columns, with the period's length and limit.
#[derive(Debug, Clone)]
pub(super) struct FoldKey {
    pub key: Vec<String>,
    pub period_ns: i64,
    pub limit: u64,
}

/// Alerts of a minute that are said.
pub(super) const PER_MINUTE: u64 = 10;

/// A minute of a detection, host and container.
struct Minute {
    first: Alert,
    title: String,
    ends: i64,
    said: u64,
    held: i64,
}

impl Minute {
    /// The alert that tells what was held back.
    fn summary(self, container: &str, cause: Cause) -> Alert {
        let whose = match container {
            "" if self.first.host_id == "fleet" => "over the whole fleet".to_owned(),
            "" => "on this host".to_owned(),
            container => format!("in {container}"),
        };
        let row = json!({"container_id": container, "held": self.held});
        Alert {
            alert_id: identity(&["held", &self.first.alert_id]),
            activity: "create".to_owned(),
            window_state: None,
            clock_stepped: false,
            folded: self.held,
            message: format!(
                "{}: {} more alerts within a minute {whose}",
                self.title, self.held
            ),
            row: row.as_object().cloned().unwrap_or_default(),
            window_start: None,
            window_end: None,
            evidence_offset: None,
            cause,
            failed: false,
            ..self.first
        }
    }
}

struct Period {
    first: Alert,
    ends: i64,
    said: u64,
    counted: i64,
}

/// Says what of the candidates is said, in order.
pub(super) fn fold(
    scan: &Scan,
    mut candidates: Vec<Candidate>,
    bounded: bool,
    per_minute: u64,
) -> Vec<Alert> {
    candidates.sort_by(|left, right| left.place().cmp(&right.place()));
    let mut candidates = candidates.into_iter().peekable();
    let mut folding = Folding {
        per_minute,
        ..Folding::default()
    };
    for (partition, rows) in grouped_by(scan.rows.iter().map(|row| (row.partition, row))) {
        let mut second = i64::MIN;
        let mut take = |folding: &mut Folding, offset: i64, second: i64| {
            while let Some(candidate) =
                candidates.next_if(|next| next.alert.cause.of(partition, offset))
            {
                folding.take(candidate, second);
            }
        };
        for row in rows {
            folding.end(partition, row.offset, |host, ends| {
                row.silenced.iter().any(|silent| silent == host)
                    || *host == row.host && (row.stepped || row.high_after >= ends)
            });
            second = row.second;
            folding.end_minutes(partition, row.offset, second);
            take(&mut folding, row.offset, second);
        }
        if bounded {
            folding.end(partition, i64::MAX, |_, _| true);
            folding.end_minutes(partition, i64::MAX, i64::MAX);
            take(&mut folding, i64::MAX, second);
            folding.end(partition, i64::MAX, |_, _| true);
            folding.end_minutes(partition, i64::MAX, i64::MAX);
        }
    }
    folding.said
}

impl Candidate {
    fn place(&self) -> impl Ord + '_ {
        (&self.alert.cause, &self.order)
    }
}

#[derive(Default)]
pub(super) struct Folding {
    /// How many alerts of a minute are said.
    per_minute: u64,
    /// What stands for the partition of all alerts, where they are of none.
    task: Option<i32>,
    /// The periods that run, by task, host and key.
    periods: BTreeMap<(i32, String, Vec<String>), Period>,
    /// The minutes that run, by task, detection, host and container.
    minutes: BTreeMap<(i32, String, String, String), Minute>,
    /// First words that were counted, by id: the last word on them is not said.
    counted: BTreeSet<(i32, String)>,
    pub said: Vec<Alert>,
}

impl Folding {
    /// Of alerts that are of no partition.
    pub fn of_task(task: i32, per_minute: u64) -> Self {
        Self {
            per_minute,
            task: Some(task),
            ..Self::default()
        }
    }

    fn task_of(&self, partition: i32) -> i32 {
        self.task.unwrap_or(partition)
    }

    pub fn take(&mut self, candidate: Candidate, second: i64) {
        let task = self.task_of(candidate.alert.cause.partition);
        let identity = (task, candidate.alert.alert_id.clone());
        if candidate.second_word {
            if !self.counted.contains(&identity) {
                self.said.push(candidate.alert);
            }
            return;
        }
        if candidate.fold.is_none() {
            return self.throttle(candidate, second);
        }
        let (alert, Some(fold)) = (candidate.alert, candidate.fold) else {
            return;
        };
        let key = (task, alert.host_id.clone(), fold.key);
        match self.periods.get_mut(&key) {
            None => {
                let first = alert.clone();
                let ends = candidate.fold_time.saturating_add(fold.period_ns);
                self.periods.insert(
                    key,
                    Period {
                        first,
                        ends,
                        said: 1,
                        counted: 0,
                    },
                );
                self.said.push(alert);
            }
            Some(period) if period.said < fold.limit => {
                period.said += 1;
                self.said.push(alert);
            }
            Some(period) => {
                period.counted += 1;
                self.counted.insert(identity);
            }
        }
    }

    fn throttle(&mut self, candidate: Candidate, second: i64) {
        let alert = candidate.alert;
        let task = self.task_of(alert.cause.partition);
        let key = (
            task,
            alert.detection_id.clone(),
            alert.host_id.clone(),
            candidate.container,
        );
        let minute = self.minutes.entry(key).or_insert_with(|| Minute {
            first: alert.clone(),
            title: candidate.title,
            ends: second.saturating_add(60),
            said: 0,
            held: 0,
        });
        if minute.said < self.per_minute {
            minute.said += 1;
            self.said.push(alert);
        } else {
            minute.held += 1;
            self.counted.insert((task, alert.alert_id));
        }
    }

    /// Ends the minutes of a task that are over at a second, and says what they held back, in the order of their ids.
    pub fn end_minutes(&mut self, partition: i32, offset: i64, second: i64) {
        let cause = Cause {
            partition,
            offset,
            stage: Stage::Summary,
        };
        let own = self.task_of(partition);
        let over = self.minutes.extract_if(.., |(task, ..), minute| {
            *task == own && minute.ends <= second
        });
        let held = over.filter(|(_, minute)| minute.held > 0);
        let summaries = held.map(|((.., container), minute)| minute.summary(&container, cause));
        let mut summaries: Vec<Alert> = summaries.collect();
        summaries.sort_by(|left, right| left.alert_id.cmp(&right.alert_id));
        self.said.append(&mut summaries);
    }

    /// Ends the periods of a task that are over, and says what they counted, in the order of their ids.
    pub fn end(&mut self, partition: i32, offset: i64, over: impl Fn(&String, i64) -> bool) {
        let mut summaries = Vec::new();
        let own = self.task_of(partition);
        self.periods.retain(|(task, host, _), period| {
            if *task != own || !over(host, period.ends) {
                return true;
            }
            if period.counted > 0 {
                summaries.push(Alert {
                    activity: "update".to_owned(),
                    folded: period.counted,
                    cause: Cause {
                        partition,
                        offset,
                        stage: Stage::Summary,
                    },
                    ..period.first.clone()
                });
            }
            false
        });
        summaries.sort_by(|left, right| left.alert_id.cmp(&right.alert_id));
        self.said.append(&mut summaries);
    }
}
