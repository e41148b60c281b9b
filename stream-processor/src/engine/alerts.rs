//! The way of an alert: decided by its key, in the order of the log; then built, on all cores; then published in that order.
//!
//! ```text
//! matches ─┐
//! results ─┼─► candidates ─► repeated in its period? ─► the eleventh of its minute? ─► drafts ─► built ─► published
//! notices ─┘                      counted                    held back                   ▲
//!                            period over ───────────────────► how many ──────────────────┘
//! ```

use std::time::Duration;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Alert;

use super::build::{Builder, Decoding};
use super::candidate::{Candidate, Kind, Notice};
use super::fold::{Begin, Repeats, Verdict};
use super::taken::Taken;
use super::throttle::{Arrival, Minute, Source};
use super::{Engine, StepOutput};
use crate::alert::size::ALERT_BYTES_MAX;
use crate::alert::{self, health::Health};
use crate::decode::Partition;
use crate::hosts::{
    End, FLEET, Finding, Forgotten, SECOND_NS, fleet_log, fleet_slot, is_of_fleet, partition_of,
};
use crate::parallel::side_by_side;
use crate::window::{Progress, WindowOutput, Word};

/// From how many alerts on they are built side by side: below, a thread costs more than it saves.
const PARALLEL_DRAFTS_MIN: usize = if cfg!(test) { 2 } else { 256 };
/// How the engine's own findings are folded: one an hour and host, with the count of the others.
const NOTICE_PERIOD: Duration = Duration::from_secs(3_600);
/// Where alerts of a row stand among what it ends.
const ALERT_STAGE: u8 = 2;
/// Most bytes of such an alert: its texts are short.
const NOTICE_BYTES: u32 = 8 << 10;
/// Bytes of what a detection says of itself in an alert, about.
const DETECTION_BYTES: usize = 2 << 10;

/// An alert that is to be published and not built yet.
#[derive(Debug)]
struct Draft<'a> {
    /// The row that causes it; beyond all rows at the end of a bounded input.
    row: u32,
    content: Content<'a>,
    /// Whether it begins a period: it is built although nobody is to hear it again.
    begins: bool,
    /// Whether it tells what only the end of a bounded input has ended.
    at_end: bool,
}

#[derive(Debug)]
enum Content<'a> {
    /// What a period has counted.
    Repeats(Repeats),
    /// What a minute has held back.
    Held(Box<Minute>),
    /// A candidate, and what its repeats are told by.
    Alert(Candidate<'a>, Text),
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy)]
enum Decision {
    Publish,
    /// It is published and begins a period of this length, whose first alert has at most so many bytes.
    Begin(Duration, u32),
    Count,
}

impl Draft<'_> {
    /// What a row ends comes before what it causes.
    fn stage(&self) -> u8 {
        match (&self.content, self.at_end) {
            (Content::Repeats(_), false) => 0,
            (Content::Held(_), false) => 1,
            (Content::Alert(..), _) => ALERT_STAGE,
            (Content::Repeats(_), true) => 3,
            (Content::Held(_), true) => 4,
        }
    }
}

impl Engine {
    /// Publishes what follows of all that was taken.
    pub(super) fn alert(
        &mut self,
        taken: &Taken,
        windows: &WindowOutput,
        now_ns: i64,
        output: &mut StepOutput,
    ) {
        let (progress, seconds) = (&taken.admitted.progress, &taken.admitted.seconds);
        let mut drafts = Vec::new();
        let mut ends = self.hosts.ends().to_vec().into_iter().peekable();
        let forgotten = self.hosts.take_forgotten();
        let findings = self.hosts.take_findings();
        for candidate in self.candidates(taken, windows, &forgotten, &findings) {
            let row = candidate.row;
            while let Some(end) = ends.next_if(|end| end.row <= row) {
                self.end_timeline(progress, end, &mut drafts);
            }
            self.end_periods(progress, candidate.slot, candidate.time, &mut drafts);
            let log = self.log_of(taken, &candidate);
            let second = seconds.at(log, row);
            let second = second.unwrap_or_else(|| self.second(log));
            self.end_minutes(seconds, log, second, &mut drafts);
            self.decide(taken, candidate, (log, second), &mut drafts);
        }
        for end in ends {
            self.end_timeline(progress, end, &mut drafts);
        }
        for (slot, high) in progress.highs() {
            self.end_periods(progress, slot, high, &mut drafts);
        }
        for (log, second) in seconds.highs() {
            self.end_minutes(seconds, log, second, &mut drafts);
        }
        self.publish(taken, &drafts, now_ns, output);
    }

    /// Publishes what follows of the end of a bounded input: all periods and minutes end, before the last windows close and
    /// once more after it.
    pub(super) fn alert_at_end(&mut self, words: &[Word], now_ns: i64, output: &mut StepOutput) {
        let taken = Taken::default();
        let mut candidates: Vec<Candidate<'_>> = words
            .iter()
            .map(|word| Candidate {
                row: u32::MAX,
                slot: word.slot,
                time: match word.slot {
                    slot if is_of_fleet(slot) => self.fleet_time(partition_of(slot)),
                    slot => self.hosts.high(slot),
                },
                kind: Kind::Result(word),
            })
            .collect();
        candidates.sort_by_cached_key(Candidate::order);
        let mut drafts = Vec::new();
        self.end_all(&mut drafts);
        for candidate in candidates {
            let log = match candidate.slot {
                slot if is_of_fleet(slot) => Some(fleet_log(partition_of(slot))),
                slot => self.hosts.log_of(slot),
            };
            let Some(log) = log else {
                continue;
            };
            let at = (log, self.second(log));
            self.decide(&taken, candidate, at, &mut drafts);
        }
        let last = drafts.len();
        self.end_all(&mut drafts);
        drafts[last..]
            .iter_mut()
            .for_each(|draft| draft.at_end = true);
        self.publish(&taken, &drafts, now_ns, output);
    }

    /// The log that a candidate's row is in, or its host is heard of in.
    fn log_of(&self, taken: &Taken, candidate: &Candidate<'_>) -> Partition {
        if is_of_fleet(candidate.slot) {
            return fleet_log(partition_of(candidate.slot));
        }
        let log = taken.records[candidate.row as usize].log();
        // The row at which a step fails as a whole is not one of every task.
        match log.1 == partition_of(candidate.slot) {
            true => log,
            false => self.hosts.log_of(candidate.slot).unwrap_or(log),
        }
    }

    /// All that may become an alert, in the order of the log.
    fn candidates<'a>(
        &self,
        taken: &'a Taken,
        windows: &'a WindowOutput,
        forgotten: &'a [Forgotten],
        findings: &'a [Finding],
    ) -> Vec<Candidate<'a>> {
        let admitted = &taken.admitted;
        let of_row = |row: u32, kind: Kind<'a>| {
            let moment = &admitted.shown_at(row)?.moment;
            Some(Candidate {
                row,
                slot: moment.slot,
                time: moment.high_after,
                kind,
            })
        };
        let of_slot = |row: u32, slot: i64, kind: Kind<'a>| Candidate {
            row,
            slot,
            time: i64::MIN,
            kind,
        };
        let notice = |health, detection, error| {
            Kind::Notice(Notice {
                health,
                detection,
                error,
            })
        };
        let found = taken.found.iter();
        let found = found.filter_map(|(own, found)| of_row(found.row, Kind::Match(*own, found)));
        let results = windows.words.iter().map(|word| {
            let (slot, time) = admitted.fold_place(word, self.hosts.ends());
            Candidate {
                row: word.row,
                slot,
                time,
                kind: Kind::Result(word),
            }
        });
        let full = windows.overflows.iter();
        let full = full.map(|own| of_slot(own.row, own.slot, Kind::Overflow(own)));
        let off = windows.off.iter();
        let off = off.map(|own| of_slot(own.row, own.slot, Kind::SwitchedOff(own)));
        let forgotten = forgotten.iter();
        let forgotten = forgotten.map(|own| of_slot(own.row, own.slot, Kind::Forgotten(own)));
        let findings = findings.iter();
        let findings = findings.map(|own| of_slot(own.row, own.slot, Kind::Host(own)));
        let replaced = admitted.shown.iter();
        let replaced = replaced.filter(|shown| shown.moment.clock_replaced);
        let replaced =
            replaced.filter_map(|shown| of_row(shown.row, notice(Health::ClockReplaced, None, "")));
        let unjudged = taken.unjudged.iter().filter_map(|own| {
            let health = Health::CannotJudge;
            of_row(own.row, notice(health, Some(own.detection), &own.error))
        });
        let mut candidates: Vec<Candidate<'a>> = found
            .chain(results)
            .chain(full)
            .chain(off)
            .chain(forgotten)
            .chain(findings)
            .chain(replaced)
            .chain(unjudged)
            .collect();
        candidates.sort_by(|left, right| left.order().cmp(&right.order()));
        candidates
    }

    /// Publishes a candidate, or counts it; all that needs is its key, and the log and its second where it comes.
    fn decide<'a>(
        &mut self,
        taken: &Taken,
        candidate: Candidate<'a>,
        at: (Partition, i64),
        drafts: &mut Vec<Draft<'a>>,
    ) {
        let Some(key) = self.key(taken, &candidate) else {
            return;
        };
        let decision = match candidate.kind {
            Kind::Overflow(_) | Kind::SwitchedOff(_) | Kind::Forgotten(_) | Kind::Host(_) => {
                Decision::Publish
            }
            Kind::Notice(_) => match self.folds.take(candidate.slot, &key, 1, || NOTICE_BYTES) {
                Verdict::Begin(weight) => Decision::Begin(NOTICE_PERIOD, weight),
                // Nobody needs more of them than of alerts.
                Verdict::Publish | Verdict::Count | Verdict::Full => Decision::Count,
            },
            Kind::Match(detection, _) => self.fold(taken, &candidate, detection, &key, at),
            Kind::Result(word) if word.closed && word.fired_under.is_some() => {
                self.follow(&candidate, word)
            }
            Kind::Result(word) => {
                let decision = self.fold(taken, &candidate, word.detection, &key, at);
                if let (Decision::Count, false) = (decision, word.closed) {
                    let (partition, id) = (partition_of(candidate.slot), self.window_id(word));
                    self.folds.count_window(partition, &id);
                }
                decision
            }
        };
        match decision {
            Decision::Count => return,
            Decision::Publish => {}
            Decision::Begin(period, weight) => {
                let begin = Begin {
                    period,
                    weight,
                    draft: drafts.len(),
                };
                self.folds
                    .begin(candidate.slot, candidate.time, &key, begin);
            }
        }
        drafts.push(Draft {
            row: candidate.row,
            content: Content::Alert(candidate, key),
            begins: matches!(decision, Decision::Begin(..)),
            at_end: false,
        });
    }

    /// The last alert of a window follows its first.
    fn follow(&mut self, candidate: &Candidate<'_>, word: &Word) -> Decision {
        let (partition, id) = (partition_of(candidate.slot), self.window_id(word));
        match self.folds.was_counted(partition, &id) {
            true => Decision::Count,
            false => Decision::Publish,
        }
    }

    /// Folds and throttles an alert of a detection.
    fn fold(
        &mut self,
        taken: &Taken,
        candidate: &Candidate<'_>,
        detection: usize,
        key: &Text,
        at: (Partition, i64),
    ) -> Decision {
        let dedup = &self.set.at(detection).header.dedup;
        if let Some(period) = dedup.period {
            let weight = || weight(taken, candidate);
            match self.folds.take(candidate.slot, key, dedup.limit, weight) {
                Verdict::Publish => return Decision::Publish,
                Verdict::Begin(weight) => return Decision::Begin(period, weight),
                Verdict::Count => return Decision::Count,
                Verdict::Full => {}
            }
        }
        match self.throttle(taken, candidate, detection, at) {
            true => Decision::Publish,
            false => Decision::Count,
        }
    }

    /// Whether an alert is among the first of its minute.
    fn throttle(
        &mut self,
        taken: &Taken,
        candidate: &Candidate<'_>,
        detection: usize,
        (log, second): (Partition, i64),
    ) -> bool {
        let own = self.set.at(detection);
        let hosts = &self.hosts;
        let source = match candidate.kind {
            Kind::Result(word) => {
                let owner = hosts.owner(word.slot);
                Source::new(&owner.host_id, &own.id, alert::window_container(word))
            }
            _ => match taken.subject(candidate.row) {
                Some(subject) => Source::new(subject.host_id, &own.id, subject.container_id),
                None => return true,
            },
        };
        let arrival = Arrival {
            log,
            second,
            source,
            time: candidate.time,
        };
        self.throttles.take(arrival, || {
            let owner = hosts.owner(candidate.slot);
            let id = match candidate.kind {
                Kind::Result(word) => alert::window_identity(own, word, &hosts.owner(word.slot)),
                _ => match taken.subject(candidate.row) {
                    Some(subject) => alert::identity(own, &subject),
                    None => Text::default(),
                },
            };
            (id, owner.host_name)
        })
    }

    /// The latest second that a log, or the whole fleet, was heard in.
    fn second(&self, log: Partition) -> i64 {
        match log.1 {
            task if task <= FLEET => self.fleet_time(task).max(0).div_euclid(SECOND_NS),
            _ => self.hosts.second(log),
        }
    }

    /// How far all partitions are, as a task of the fleet knows it; the beginning of time where not all were heard of.
    fn fleet_time(&self, task: i32) -> i64 {
        self.fleet_times.get(&task).copied().unwrap_or(i64::MIN)
    }

    /// What a candidate's repeats are told by; empty for what is never folded.
    fn key(&self, taken: &Taken, candidate: &Candidate<'_>) -> Option<Text> {
        Some(match candidate.kind {
            Kind::Match(detection, found) => {
                let subject = taken.subject(candidate.row)?;
                let value = |column: &str| found.value(column);
                let own = self.set.at(detection);
                alert::dedup_key(own, subject.host_id, subject.container_id, value)
            }
            Kind::Result(word) => {
                let own = self.set.at(word.detection);
                alert::window_dedup_key(own, word, &self.hosts.owner(word.slot))
            }
            Kind::Notice(notice) => {
                let owner = self.hosts.owner(candidate.slot);
                let about = notice.about(&self.set);
                notice.health.dedup_key(&owner.host_id, about).into()
            }
            Kind::Overflow(_) | Kind::SwitchedOff(_) | Kind::Forgotten(_) | Kind::Host(_) => {
                Text::default()
            }
        })
    }

    fn window_id(&self, word: &Word) -> Text {
        let own = self.set.at(word.detection);
        alert::window_identity(own, word, &self.hosts.owner(word.slot))
    }

    /// Ends the periods of a slot up to a time; each with the row that ended it.
    fn end_periods<'a>(
        &mut self,
        progress: &Progress,
        slot: i64,
        time: i64,
        drafts: &mut Vec<Draft<'a>>,
    ) {
        if !self.folds.due(slot, time) {
            return;
        }
        let ended = self.folds.end(slot, time).into_iter();
        drafts.extend(ended.map(|(end, repeats)| {
            let row = progress.reaches(slot, end, u32::MAX).unwrap_or(0);
            Draft::of_repeats(row, repeats)
        }));
    }

    /// Ends all periods of a slot whose windows end: each with the row that ended it.
    fn end_timeline<'a>(&mut self, progress: &Progress, end: End, drafts: &mut Vec<Draft<'a>>) {
        let ended = self.folds.end(end.slot, i64::MAX).into_iter();
        drafts.extend(ended.map(|(period_end, repeats)| {
            let before = end.row.saturating_add(1);
            let row = progress.reaches(end.slot, period_end, before);
            Draft::of_repeats(row.unwrap_or(end.row), repeats)
        }));
    }

    /// Ends the minutes of a log that are over at a second; each with the row that ended it.
    fn end_minutes<'a>(
        &mut self,
        seconds: &Progress<Partition>,
        log: Partition,
        second: i64,
        drafts: &mut Vec<Draft<'a>>,
    ) {
        if !self.throttles.due(log, second) {
            return;
        }
        let ended = self.throttles.end(log, second).into_iter();
        drafts.extend(ended.map(|(end, minute)| {
            let row = seconds.reaches(log, end, u32::MAX);
            Draft::of_minute(row.unwrap_or(0), minute)
        }));
    }

    /// Ends all periods and minutes.
    fn end_all(&mut self, drafts: &mut Vec<Draft<'_>>) {
        for partition in self.hosts.partitions().into_iter().chain([FLEET]) {
            let mut slots: Vec<i64> = match partition {
                FLEET => vec![fleet_slot(FLEET)],
                _ => self.hosts.slots(partition).into_keys().collect(),
            };
            slots.sort_unstable();
            for slot in slots {
                let ended = self.folds.end(slot, i64::MAX).into_iter();
                drafts.extend(ended.map(|(_, repeats)| Draft::of_repeats(u32::MAX, repeats)));
            }
            let ended = self.throttles.end_all(partition).into_iter();
            drafts.extend(ended.map(|minute| Draft::of_minute(u32::MAX, minute)));
        }
    }

    /// Builds drafts and publishes them in the order of the rows that caused them.
    fn publish(
        &mut self,
        taken: &Taken,
        drafts: &[Draft<'_>],
        now_ns: i64,
        output: &mut StepOutput,
    ) {
        let muted = |row: u32| {
            let record = taken.records.get(row as usize);
            record.is_some_and(|record| self.muted(record))
        };
        let muted: Vec<bool> = drafts.iter().map(|draft| muted(draft.row)).collect();
        let mut alerts = self.build(taken, drafts, &muted, now_ns, output);
        for (place, draft) in drafts.iter().enumerate() {
            if let (Content::Repeats(repeats), false) = (&draft.content, muted[place]) {
                alerts[place] = repeats.alert(&alerts);
            }
        }
        self.folds.settle(&alerts);
        let mut published: Vec<(u32, u8, Alert)> = Vec::with_capacity(drafts.len());
        let built = alerts.into_iter().zip(drafts).zip(muted);
        for ((alert, draft), _) in built.filter(|(_, muted)| !muted) {
            if let Some(mut alert) = alert {
                alert.alert_ts = now_ns;
                published.push((draft.row, draft.stage(), alert));
            }
        }
        // What ends together comes by its ids, whatever order it ended in.
        published.sort_by(|(row, stage, left), (other_row, other_stage, right)| {
            let place = (row, stage).cmp(&(other_row, other_stage));
            place.then_with(|| match *stage {
                ALERT_STAGE => std::cmp::Ordering::Equal,
                _ => left.alert_id.cmp(&right.alert_id),
            })
        });
        let alerts = published.into_iter().map(|(_, _, alert)| alert);
        output.alerts.extend(alerts);
    }

    /// Builds drafts, but for those that are muted and begin nothing, and what periods counted.
    fn build(
        &mut self,
        taken: &Taken,
        drafts: &[Draft<'_>],
        muted: &[bool],
        now_ns: i64,
        output: &mut StepOutput,
    ) -> Vec<Option<Alert>> {
        let builder = Builder {
            set: &self.set,
            hosts: &self.hosts,
            taken,
            topics: &self.evidence_topics,
            mode: self.mode,
            keys_max: self.options.keys_max,
            now_ns,
        };
        let shares = match drafts.len() < PARALLEL_DRAFTS_MIN {
            true => 1,
            false => self.decoders.len(),
        };
        let each = drafts.len().div_ceil(shares).max(1);
        let share = drafts.chunks(each).zip(muted.chunks(each));
        let built = side_by_side(
            share.zip(&mut self.decoders),
            |((drafts, muted), decoder)| {
                let mut decoding = Decoding::default();
                let build = |(draft, muted): (&Draft<'_>, &bool)| match &draft.content {
                    Content::Alert(candidate, key) if draft.begins || !muted => {
                        builder.alert(candidate, key, decoder, &mut decoding)
                    }
                    Content::Held(minute) if !muted => Some(builder.of_minute(minute)),
                    _ => None,
                };
                let alerts: Vec<_> = drafts.iter().zip(muted).map(build).collect();
                (alerts, decoding.rejected)
            },
        );
        let mut alerts = Vec::with_capacity(drafts.len());
        let mut last = None;
        for (own, rejected) in built {
            alerts.extend(own);
            for (row, error) in rejected {
                // The shares meet within a row.
                if last.replace(row) != Some(row) {
                    self.reject(&taken.records[row as usize], error, output);
                }
            }
        }
        alerts
    }
}

/// How many bytes the alert of a candidate has at most, as far as its event and its row tell.
fn weight(taken: &Taken, candidate: &Candidate<'_>) -> u32 {
    let record = taken.records.get(candidate.row as usize);
    let event = record.map_or(0, |record| record.value.len());
    let bytes = match candidate.kind {
        Kind::Result(word) => {
            let row = serde_json::to_string(&word.values).map_or(0, |row| row.len());
            // What makes a window of the fleet speak is no event: what it has of some is told with it.
            match &word.fleet {
                Some(told) => 3 * row + told.bytes(),
                None => 3 * (event + row),
            }
        }
        _ => 6 * event,
    };
    (DETECTION_BYTES + bytes).min(ALERT_BYTES_MAX) as u32
}

impl Draft<'_> {
    fn of_repeats(row: u32, repeats: Repeats) -> Self {
        Self {
            row,
            content: Content::Repeats(repeats),
            begins: false,
            at_end: false,
        }
    }

    fn of_minute(row: u32, minute: Minute) -> Self {
        Self {
            row,
            content: Content::Held(Box::new(minute)),
            begins: false,
            at_end: false,
        }
    }
}
