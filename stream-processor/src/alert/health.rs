//! What the engine has to say of itself: detections that cannot judge, hosts whose clocks are broken, too many hosts.
//!
//! These are alerts like others, under ids of the engine's own; a detection of the same name cannot be told from them by id
//! alone, but by its hash, which they do not have.

use dogwatch_schemas::records::Alert;
use serde_json::{Map, Value};

use super::{Occasion, as_json, digest};
use crate::hosts::SlotOwner;

/// What is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// A detection cannot judge rows.
    CannotJudge,
    /// Detections over windows ran out of memory, or failed, and are off for a while.
    SwitchedOff,
    /// A host's clock is too far from the broker's to be believed.
    ClockReplaced,
    /// More hosts send events in a partition than a task remembers.
    HostsForgotten,
}

/// What does not change from alert to alert.
struct Texts {
    id: &'static str,
    title: &'static str,
    description: &'static str,
    severity: &'static str,
    priority: &'static str,
    risk: i64,
    response: &'static str,
}

const CANNOT_JUDGE: Texts = Texts {
    id: "detection_cannot_judge",
    title: "A detection cannot judge events",
    description: "An expression of the detection fails on these events, such as a CAST of text that is no number. They do not count for this detection; others see them. Whoever chooses such values hides from it.",
    severity: "medium",
    priority: "Warning",
    risk: 45,
    response: "Write the detection so that it judges every event: TRY_CAST, NULLIF(x, 0), or CASE WHEN; and look at what the event hides.",
};

const SWITCHED_OFF: Texts = Texts {
    id: "detection_switched_off",
    title: "Detections are switched off for a while",
    description: "The windows of these detections could not be computed, most likely for want of memory. What they had counted is gone, and they see nothing until they are tried again.",
    severity: "high",
    priority: "Error",
    risk: 60,
    response: "Look at what the host does so many different things of; raise windows.memory_bytes_max, or give the detection fewer keys.",
};

const CLOCK_REPLACED: Texts = Texts {
    id: "clock_replaced",
    title: "A host's clock is not to be believed",
    description: "Events of this host carry times that are too far from the broker's. Windows go by the broker's time for them; detections on single events see them as ever.",
    severity: "medium",
    priority: "Warning",
    risk: 40,
    response: "Set the host's clock, and find out who set it wrong; windows.clock_error_max says how far is too far.",
};

const HOSTS_FORGOTTEN: Texts = Texts {
    id: "hosts_forgotten",
    title: "More hosts than a partition's task remembers",
    description: "So many hosts have sent events within minutes that some were forgotten while they lived: those heard of for less than a minute. Their windows were closed early and say so under losses; detections on single events are not affected. Where the fleet is smaller, somebody invents hosts.",
    severity: "high",
    priority: "Error",
    risk: 60,
    response: "Look at which client writes to the partition, and whose credentials it has; a fleet that is really so large needs more partitions.",
};

impl Health {
    const ALL: [Self; 4] = [
        Self::CannotJudge,
        Self::SwitchedOff,
        Self::ClockReplaced,
        Self::HostsForgotten,
    ];

    fn texts(self) -> &'static Texts {
        match self {
            Self::CannotJudge => &CANNOT_JUDGE,
            Self::SwitchedOff => &SWITCHED_OFF,
            Self::ClockReplaced => &CLOCK_REPLACED,
            Self::HostsForgotten => &HOSTS_FORGOTTEN,
        }
    }

    /// What stands for a detection's id in the alert.
    pub fn id(self) -> &'static str {
        self.texts().id
    }

    /// By what repeats are told on one host: the matter and what it is about.
    pub fn dedup_key(self, host_id: &str, about: &str) -> String {
        format!("{}/{}", self.id(), digest([host_id, about], 8))
    }
}

/// Whether an id stands for a finding of the engine's.
pub(super) fn is_id(id: &str) -> bool {
    Health::ALL.iter().any(|health| health.id() == id)
}

/// One finding.
pub(crate) struct Finding<'a> {
    pub health: Health,
    /// What it is about: the ids of detections, a partition; empty where it is about the host.
    pub about: &'a str,
    /// What happened, in words.
    pub happened: String,
    /// The record that showed it, as a function of the log: `run/seq`, or a window.
    pub shown_by: String,
    /// When, in the host's time, nanoseconds.
    pub time: i64,
    /// More to say, for machines.
    pub row: Map<String, Value>,
}

/// Builds the alert of a finding.
pub(crate) fn build(finding: &Finding<'_>, owner: &SlotOwner, occasion: &Occasion) -> Alert {
    let texts = finding.health.texts();
    let identity = [texts.id, finding.about, &owner.host_id, &finding.shown_by];
    let subject = match finding.about {
        "" => &*owner.host_name,
        about => about,
    };
    Alert {
        alert_id: digest(identity, 16).into(),
        dedup_key: finding
            .health
            .dedup_key(&owner.host_id, finding.about)
            .into(),
        message: format!("{subject}: {}", finding.happened).into(),
        detection_id: texts.id.into(),
        detection_title: texts.title.into(),
        detection_description: texts.description.into(),
        detection_status: "stable".into(),
        severity: texts.severity.into(),
        priority: texts.priority.into(),
        risk: texts.risk,
        response: Some(texts.response.into()),
        event_ts: finding.time,
        alert_ts: occasion.alert_ts_ns,
        host_id: owner.host_id.clone(),
        host_name: owner.host_name.clone(),
        row: as_json(&finding.row),
        mode: occasion.mode.name().into(),
        activity: "create".into(),
        clock_replaced: finding.health == Health::ClockReplaced,
        ..Alert::default()
    }
}
