//! Alerts before they are built: what they come from, and their order.

use serde_json::Value;

use crate::alert::health::Health;
use crate::detect::{DetectionSet, Match};
use crate::hosts::{Finding, Forgotten, Presence, is_of_fleet};
use crate::window::{Overflow, SwitchedOff, Word};

/// An alert before it is known whether it is published or counted.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    /// The row that caused it; beyond all rows at the end of a bounded input.
    pub row: u32,
    pub slot: i64,
    /// Its host's time after that row.
    pub time: i64,
    pub kind: Kind<'a>,
}

/// What an alert comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// A match of the detection at a place in the set.
    Match(usize, &'a Match),
    /// The result of a window.
    Result(&'a Word),
    /// A group of detections that counts no further keys.
    Overflow(&'a Overflow),
    /// Detections that are off for a while.
    SwitchedOff(&'a SwitchedOff),
    /// Living hosts that were forgotten.
    Forgotten(&'a Forgotten),
    /// What was found of a host.
    Host(&'a Finding),
    /// A finding of the engine's own.
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

impl Notice<'_> {
    /// What it is about: the id of a detection; empty where it is about the host.
    pub fn about<'s>(&self, set: &'s DetectionSet) -> &'s str {
        self.detection.map_or("", |own| set.at(own).id.as_str())
    }

    /// What happened, in words.
    pub fn happened(&self) -> String {
        match self.health {
            Health::ClockReplaced => "its events carry times too far from the broker's".to_owned(),
            _ => format!("cannot judge an event: {}", self.error),
        }
    }

    /// What machines are told of it beside.
    pub fn details(&self, set: &DetectionSet) -> Vec<(&'static str, Value)> {
        match self.detection {
            Some(_) => vec![
                ("detection_id", self.about(set).into()),
                ("error", self.error.into()),
            ],
            None => Vec::new(),
        }
    }
}

/// What a row causes, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// What a second of a partition makes the fleet say, before it closes anything.
    FleetEarly,
    Close,
    Early,
    Single,
    /// What the engine finds of the row, and of which detection.
    Notice(Health, Option<usize>),
}

/// What is the matter with a host.
pub(super) fn health_of(what: &Presence) -> Health {
    match what {
        Presence::Silent { .. } | Presence::Back { .. } => Health::HostSilent,
        Presence::Twins(_) => Health::HostTwice,
    }
}

impl<'a> Candidate<'a> {
    /// Where it stands among others: by the row that caused it, never by how rows were cut into steps.
    pub fn order(&self) -> impl Ord + use<'a> {
        let (class, end, detection, keys) = match self.kind {
            Kind::Match(detection, _) => (Class::Single, i64::MIN, Some(detection), ""),
            Kind::Result(word) => {
                let class = match (word.closed, word.slot) {
                    (true, _) => Class::Close,
                    (false, slot) if is_of_fleet(slot) => Class::FleetEarly,
                    (false, _) => Class::Early,
                };
                (class, word.end, Some(word.detection), word.keys.as_str())
            }
            Kind::Overflow(overflow) => (Class::Early, overflow.end, None, ""),
            Kind::SwitchedOff(_) => (Class::Early, i64::MAX, None, ""),
            Kind::Forgotten(_) => (
                Class::Notice(Health::HostsForgotten, None),
                i64::MIN,
                None,
                "",
            ),
            Kind::Host(finding) => {
                let health = health_of(&finding.what);
                (Class::Notice(health, None), i64::MIN, None, "")
            }
            Kind::Notice(notice) => {
                let class = Class::Notice(notice.health, notice.detection);
                (class, i64::MIN, None, "")
            }
        };
        (self.row, class, end, detection, keys)
    }
}
