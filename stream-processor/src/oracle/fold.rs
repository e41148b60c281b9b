//! Folding of repeats, row at a time: the naive reference.
//!
//! For each detection, host, container and `dedup` columns: the first `limit` alerts of a period are said, later ones are
//! counted; when the period is over and some were counted, the first is said again with their number.
//! A period is over at the first row of its host after which the host's time has reached its end, when the host's clock steps
//! back and when the host falls silent. The last word on a window follows the first: it is said when the first was said.

use std::collections::{BTreeMap, BTreeSet};

use super::query::grouped_by;
use super::scan::Scan;
use super::{Alert, Cause, Stage};

/// An alert before folding.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub alert: Alert,
    /// What it is folded with; none where its detection folds nothing.
    pub fold: Option<FoldKey>,
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

struct Period {
    first: Alert,
    ends: i64,
    said: u64,
    counted: i64,
}

/// Says what of the candidates is said, in order.
pub(super) fn fold(scan: &Scan, mut candidates: Vec<Candidate>, bounded: bool) -> Vec<Alert> {
    candidates.sort_by(|left, right| left.place().cmp(&right.place()));
    let mut candidates = candidates.into_iter().peekable();
    let mut folding = Folding::default();
    for (partition, rows) in grouped_by(scan.rows.iter().map(|row| (row.partition, row))) {
        let mut take = |folding: &mut Folding, offset: i64| {
            while let Some(candidate) =
                candidates.next_if(|next| next.alert.cause.of(partition, offset))
            {
                folding.take(candidate);
            }
        };
        for row in rows {
            folding.end(partition, row.offset, |host, ends| {
                row.silenced.iter().any(|silent| silent == host)
                    || *host == row.host && (row.stepped || row.high_after >= ends)
            });
            take(&mut folding, row.offset);
        }
        if bounded {
            folding.end(partition, i64::MAX, |_, _| true);
            take(&mut folding, i64::MAX);
            folding.end(partition, i64::MAX, |_, _| true);
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
struct Folding {
    /// The periods that run, by task, host and key.
    periods: BTreeMap<(i32, String, Vec<String>), Period>,
    /// First words that were counted, by id: the last word on them is not said.
    counted: BTreeSet<(i32, String)>,
    said: Vec<Alert>,
}

impl Folding {
    fn take(&mut self, candidate: Candidate) {
        let alert = candidate.alert;
        let identity = (alert.cause.partition, alert.alert_id.clone());
        let Some(fold) = candidate.fold.filter(|_| !candidate.second_word) else {
            if !self.counted.contains(&identity) {
                self.said.push(alert);
            }
            return;
        };
        let key = (alert.cause.partition, alert.host_id.clone(), fold.key);
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

    /// Ends the periods of a task that are over, and says what they counted, in the order of their ids.
    fn end(&mut self, partition: i32, offset: i64, over: impl Fn(&String, i64) -> bool) {
        let mut summaries = Vec::new();
        self.periods.retain(|(task, host, _), period| {
            if *task != partition || !over(host, period.ends) {
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
