//! Alerts before their repeats are folded, and their order.

use dogwatch_schemas::records::{Alert, Event};
use serde_json::{Map, Value};

use crate::alert::health::{self, Finding, Health};
use crate::alert::{self, AlertMode, Occasion, Origin};
use crate::decode::InputRecord;
use crate::detect::{DetectionSet, Match};
use crate::hosts::{Hosts, Losses, partition_of};
use crate::parallel::{cores, side_by_side};
use crate::window::{Overflow, Shown, SwitchedOff, Word};

/// From how many words of windows on their alerts are built side by side: below, a thread costs more than it saves.
const PARALLEL_WORDS_MIN: usize = if cfg!(test) { 2 } else { 256 };

/// What is not lost.
pub(super) static NO_LOSSES: Losses = Losses::new();

/// An alert before its repeats are folded.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub order: Order<'a>,
    pub slot: i64,
    /// Its host's time after the row that caused it.
    pub time: i64,
    /// The last word on a window that spoke before.
    pub repeated: bool,
    /// The first word on a window that is not over.
    pub early: bool,
    pub said: Said<'a>,
}

/// What is said, or would be.
#[derive(Debug)]
pub(super) enum Said<'a> {
    Alert(Box<Alert>),
    /// A finding of the engine's own; its alert is built when it is no repeat.
    Notice(Notice<'a>),
}

/// What is the matter, where, and with what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice<'a> {
    pub health: Health,
    /// The detection's place in the set.
    pub detection: Option<usize>,
    pub error: &'a str,
}

/// Where an alert stands among others: by the row that caused it, never by how rows were cut into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order<'a> {
    pub row: u32,
    class: Class,
    end: i64,
    /// Its place in the set, which is in the order of names; none where the engine itself speaks.
    pub detection: Option<usize>,
    keys: &'a str,
}

/// What a row causes, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Close,
    Early,
    Single,
    /// What the engine finds of the row, and of which detection.
    Notice(Health, Option<usize>),
}

/// A window's word, and the slot and time at which its repeats are folded.
pub(super) struct Spoken<'a> {
    pub word: &'a Word,
    pub fold_place: (i64, i64),
    /// What made it cross its threshold, where it is not over yet.
    pub cause: Option<Cause<'a>>,
}

/// The row that an alert comes from.
pub(super) struct Cause<'a> {
    pub event: Box<Event>,
    pub record: &'a InputRecord,
    pub losses: &'a Losses,
    /// Whether windows go by the broker's time for it.
    pub clock_replaced: bool,
}

/// Builds alerts.
pub(super) struct Builder<'a> {
    pub set: &'a DetectionSet,
    pub hosts: &'a Hosts,
    pub topic: &'a str,
    pub mode: AlertMode,
    pub now_ns: i64,
}

impl Builder<'_> {
    /// The alert of a match.
    pub fn single(
        &self,
        detection: usize,
        found: &Match,
        shown: &Shown,
        cause: &Cause<'_>,
    ) -> Candidate<'static> {
        let own = self.set.at(detection);
        let origin = self.origin(cause.record);
        let occasion = self.occasion(cause.losses, cause.clock_replaced);
        Candidate {
            order: Order {
                row: found.row,
                class: Class::Single,
                end: i64::MIN,
                detection: Some(detection),
                keys: "",
            },
            slot: shown.moment.slot,
            time: shown.moment.high_after,
            repeated: false,
            early: false,
            said: Said::Alert(Box::new(alert::build(
                own,
                &cause.event,
                &found.values,
                &origin,
                &occasion,
            ))),
        }
    }

    /// The alerts of windows. When a minute is over, thousands may speak at once.
    pub fn words<'w>(&self, spoken: &[Spoken<'w>]) -> Vec<Candidate<'w>> {
        let build = |share: &[Spoken<'w>]| -> Vec<Candidate<'w>> {
            share.iter().map(|spoken| self.word(spoken)).collect()
        };
        if spoken.len() < PARALLEL_WORDS_MIN {
            return build(spoken);
        }
        let shares = spoken.chunks(spoken.len().div_ceil(cores()));
        side_by_side(shares, build).into_iter().flatten().collect()
    }

    fn word<'w>(&self, spoken: &Spoken<'w>) -> Candidate<'w> {
        let word = spoken.word;
        let own = self.set.at(word.detection);
        let owner = self.hosts.owner(word.slot);
        let cause = spoken.cause.as_ref();
        let of_window = self.hosts.losses_until(word.slot, word.row);
        let losses = match cause {
            Some(cause) => cause.losses,
            None => of_window.as_deref().unwrap_or(&NO_LOSSES),
        };
        let event = cause.map(|cause| (&*cause.event, self.origin(cause.record)));
        let event = event.as_ref().map(|(event, origin)| (*event, origin));
        let replaced = cause.is_some_and(|cause| cause.clock_replaced);
        let occasion = self.occasion(losses, replaced);
        let (slot, time) = spoken.fold_place;
        Candidate {
            order: Order {
                row: word.row,
                class: if word.closed {
                    Class::Close
                } else {
                    Class::Early
                },
                end: word.end,
                detection: Some(word.detection),
                keys: &word.keys,
            },
            slot,
            time,
            repeated: word.closed && word.repeated,
            early: !word.closed,
            said: Said::Alert(Box::new(alert::build_window(
                own, word, event, &owner, &occasion,
            ))),
        }
    }

    /// The alert that says that windows are full.
    pub fn overflow(&self, overflow: &Overflow, keys_max: usize) -> Candidate<'static> {
        let owner = self.hosts.owner(overflow.slot);
        let names = overflow.detections.iter();
        let mut names: Vec<&str> = names
            .map(|detection| self.set.at(*detection).id.as_str())
            .collect();
        names.sort_unstable();
        let occasion = self.occasion(&NO_LOSSES, false);
        Candidate {
            order: Order {
                row: overflow.row,
                class: Class::Early,
                end: overflow.end,
                detection: None,
                keys: "",
            },
            slot: overflow.slot,
            time: i64::MIN,
            repeated: false,
            early: false,
            said: Said::Alert(Box::new(alert::build_overflow(
                &names, overflow, keys_max, &owner, &occasion,
            ))),
        }
    }

    fn origin(&self, record: &InputRecord) -> Origin<'_> {
        Origin {
            topic: self.topic,
            partition: record.partition,
            offset: record.offset,
            ingest_ts_ns: record.ingest_ts_ns,
        }
    }

    /// The alert that says that detections are switched off.
    pub fn switched_off(&self, off: &SwitchedOff) -> Candidate<'static> {
        let owner = self.hosts.owner(off.slot);
        let names = off.detections.iter();
        let mut names: Vec<&str> = names
            .map(|detection| self.set.at(*detection).id.as_str())
            .collect();
        names.sort_unstable();
        let about = names.join(", ");
        let partition = partition_of(off.slot);
        let whom = match off.of_host {
            true => format!("host {}", owner.host_name),
            false => format!("all hosts of partition {partition}"),
        };
        let row: [(&str, Value); 5] = [
            ("detections", names.clone().into()),
            ("partition", partition.into()),
            ("of_host", off.of_host.into()),
            ("until", off.until.into()),
            ("error", off.error.as_str().into()),
        ];
        let row = row.into_iter();
        let finding = Finding {
            health: Health::SwitchedOff,
            about: &about,
            happened: format!("off for {whom} for 10 minutes: {}", off.error),
            shown_by: format!("{partition}/{}/{}", off.until, off.of_host),
            time: off.time,
            row: row.map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let occasion = self.occasion(&NO_LOSSES, false);
        Candidate {
            order: Order {
                row: off.row,
                class: Class::Early,
                end: i64::MAX,
                detection: None,
                keys: "",
            },
            slot: off.slot,
            time: i64::MIN,
            repeated: false,
            early: false,
            said: Said::Alert(Box::new(health::build(&finding, &owner, &occasion))),
        }
    }

    /// A finding of a row, to be folded.
    pub fn notice<'n>(&self, shown: &Shown, notice: Notice<'n>) -> Candidate<'n> {
        Candidate {
            order: Order {
                row: shown.row,
                class: Class::Notice(notice.health, notice.detection),
                end: i64::MIN,
                detection: None,
                keys: "",
            },
            slot: shown.moment.slot,
            time: shown.moment.high_after,
            repeated: false,
            early: false,
            said: Said::Notice(notice),
        }
    }

    /// The alert of a notice, which a record has shown.
    pub fn finding(
        &self,
        slot: i64,
        time: i64,
        notice: &Notice<'_>,
        event: &Event,
        record: &InputRecord,
    ) -> Alert {
        let own = notice.detection.map(|detection| self.set.at(detection));
        let about = own.map_or("", |own| own.id.as_str());
        let happened = match notice.health {
            Health::ClockReplaced => "its events carry times too far from the broker's".to_owned(),
            _ => format!("cannot judge an event: {}", notice.error),
        };
        let mut row = Map::new();
        let mut note = |name: &str, value: Value| row.insert(name.to_owned(), value);
        if let Some(own) = own {
            note("detection_id", own.id.as_str().into());
            note("error", notice.error.into());
        }
        note("partition", record.partition.into());
        note("offset", record.offset.into());
        note("container_id", (&*event.container_id).into());
        note("event_ts", event.ts.into());
        note("ingest_ts", record.ingest_ts_ns.into());
        let finding = Finding {
            health: notice.health,
            about,
            happened,
            shown_by: format!("{}/{}", event.sensor_run, event.seq),
            time,
            row,
        };
        let occasion = self.occasion(&NO_LOSSES, false);
        health::build(&finding, &self.hosts.owner(slot), &occasion)
    }

    fn occasion<'l>(&self, losses: &'l Losses, clock_replaced: bool) -> Occasion<'l> {
        Occasion {
            alert_ts_ns: self.now_ns,
            mode: self.mode,
            losses,
            clock_replaced,
        }
    }
}
