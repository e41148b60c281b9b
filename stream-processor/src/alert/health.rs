//! What the engine has to say of itself: detections that cannot judge, hosts whose clocks are broken, too many hosts, other
//! detections than before.
//!
//! These are alerts like others, under ids of the engine's own; a detection of the same name cannot be told from them by id
//! alone, but by its hash, which they do not have.

use std::sync::atomic::{AtomicU64, Ordering};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Alert;
use serde_json::{Map, Value};

use super::size::{ALERT_BYTES_MAX, fit};
use super::{AlertMode, Occasion, as_json, digest};
use crate::hosts::{Losses, SlotOwner};

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
    /// Nothing is heard of a host any more.
    HostSilent,
    /// Two sensors send under one host's id.
    HostTwice,
    /// Other detections run from now on.
    DetectionsChanged,
    /// A file of the folder of detections cannot be used, or a published set.
    DetectionRefused,
    /// Detections run that are older than those of before.
    DetectionsOlder,
    /// Processors of one group run different detections.
    DetectionsDiffer,
    /// Nobody processes a partition that windows over the whole fleet wait for.
    FleetHeld,
    /// A processor has no memory for all of its tasks.
    TasksWait,
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

const HOST_SILENT: Texts = Texts {
    id: "host_silent",
    title: "A host stopped reporting",
    description: "Nothing of this host has reached the broker for windows.host_silence, while others or the processors wrote on. A further alert under the same id says when it is back.",
    severity: "medium",
    priority: "Warning",
    risk: 45,
    response: "Look whether the host is there, its sensor runs and reaches the brokers; whoever stops a sensor is not seen any more.",
};

const HOST_TWICE: Texts = Texts {
    id: "host_twice",
    title: "Two sensors send under one host's id",
    description: "Two runs of sensors take turns under one host id: a machine that was cloned with its /etc/machine-id, or a sensor that was started twice. What they say is told twice, or mixed up.",
    severity: "medium",
    priority: "Warning",
    risk: 45,
    response: "Give a cloned machine an id of its own (systemd-machine-id-setup), or stop the second sensor; host_id in sensor.toml names a host otherwise.",
};

const DETECTIONS_CHANGED: Texts = Texts {
    id: "detections_changed",
    title: "Other detections run",
    description: "The files of the folder of detections changed, or another set was published, and the processor runs what they hold now. Windows of what did not change go on; what is new speaks of windows that begin from now on.",
    severity: "informational",
    priority: "Informational",
    risk: 5,
    response: "Look whether it was one of yours who changed them.",
};

const DETECTION_REFUSED: Texts = Texts {
    id: "detection_refused",
    title: "Changed detections cannot be used",
    description: "The processor read a changed file and refused it. Its last version that could be used runs on, where there is one; all other files are loaded. Of a published set that cannot be believed or read nothing is used, and what runs goes on.",
    severity: "medium",
    priority: "Warning",
    risk: 45,
    response: "Mend the file as the message says; dogwatch detections lint says the same beforehand.",
};

const DETECTIONS_OLDER: Texts = Texts {
    id: "detections_older",
    title: "Older detections run than before",
    description: "The processor was given partitions that had been run with a later published set of detections, and does not find it. It runs the newest one that it has.",
    severity: "high",
    priority: "Error",
    risk: 60,
    response: "Look with dogwatch detections list --kafka ADDRESS at what is published and publish the later set again; find out who took the later set out of the topic, or whose keys are missing in detections.trusted_keys.",
};

const DETECTIONS_DIFFER: Texts = Texts {
    id: "detections_differ",
    title: "Processors of one group run different detections",
    description: "Another processor of this group commits partitions that it runs with another set of detections than this one, or other caps on keys and bytes. What is looked for on a host depends on who holds its partition, and changes when partitions move.",
    severity: "medium",
    priority: "Warning",
    risk: 40,
    response: "Give all processors the same folder and the same windows.keys_max and windows.state_bytes_max, or publish one set for all of them (dogwatch detections publish); dogwatch detections loaded --kafka ADDRESS names what each partition is run with.",
};

const FLEET_HELD: Texts = Texts {
    id: "fleet_held",
    title: "Windows over the whole fleet wait for a partition",
    description: "Nothing of this partition has come to the windows over the whole fleet for windows.fleet_delay_max: nobody processes it, or what processes it does not get on. Until it goes on, these windows do not end and what they hold grows; what reaches a threshold is said all the same. Nothing is lost by it.",
    severity: "high",
    priority: "Error",
    risk: 60,
    response: "Look at the processors with the stage host: whether one has this partition, what it logs, and its lag (dogwatch_source_lag_records).",
};

const TASKS_WAIT: Texts = Texts {
    id: "tasks_wait",
    title: "A processor has no memory for all of its tasks",
    description: "The processor takes nearly all of the memory of its cgroup or machine, and does not begin further tasks that the group gave it. Their events stay in the topics and are read as soon as there is memory, or the group gives the tasks to somebody else; until then nothing is found on their hosts.",
    severity: "high",
    priority: "Error",
    risk: 60,
    response: "Give the processor more memory or run more processors: others take these tasks only when the group rebalances, as it does when a processor joins or this one is restarted. dogwatch detections explain says what tasks may take.",
};

impl Health {
    const ALL: [Self; 12] = [
        Self::CannotJudge,
        Self::SwitchedOff,
        Self::ClockReplaced,
        Self::HostsForgotten,
        Self::HostSilent,
        Self::HostTwice,
        Self::DetectionsChanged,
        Self::DetectionRefused,
        Self::DetectionsOlder,
        Self::DetectionsDiffer,
        Self::FleetHeld,
        Self::TasksWait,
    ];

    fn texts(self) -> &'static Texts {
        match self {
            Self::CannotJudge => &CANNOT_JUDGE,
            Self::SwitchedOff => &SWITCHED_OFF,
            Self::ClockReplaced => &CLOCK_REPLACED,
            Self::HostsForgotten => &HOSTS_FORGOTTEN,
            Self::HostSilent => &HOST_SILENT,
            Self::HostTwice => &HOST_TWICE,
            Self::DetectionsChanged => &DETECTIONS_CHANGED,
            Self::DetectionRefused => &DETECTION_REFUSED,
            Self::DetectionsOlder => &DETECTIONS_OLDER,
            Self::DetectionsDiffer => &DETECTIONS_DIFFER,
            Self::FleetHeld => &FLEET_HELD,
            Self::TasksWait => &TASKS_WAIT,
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

/// Whether an id is that of what is said of hosts: who reports, and who does twice.
pub(crate) fn is_of_host(id: &str) -> bool {
    [Health::HostSilent, Health::HostTwice]
        .iter()
        .any(|own| own.id() == id)
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

/// Who speaks of this process where no host and no record has shown what there is to say.
#[derive(Debug)]
pub(crate) struct Reporter {
    owner: SlotOwner,
    /// A name of this process.
    run: String,
    /// What people call it: two may be on one machine.
    named: String,
    said: AtomicU64,
}

impl Reporter {
    /// Under this host id, and the name of this machine; `instance` is what the configuration calls this process.
    pub fn of_this_process(host_id: &str, instance: Option<&str>) -> Self {
        let named = match instance {
            Some(instance) => instance.to_owned(),
            None => format!("pid {}", std::process::id()),
        };
        Self {
            owner: SlotOwner {
                host_id: host_id.into(),
                host_name: machine().into(),
                segment: Text::default(),
                holes: None,
            },
            run: format!("{:016x}", rand::random::<u64>()),
            named,
            said: AtomicU64::new(0),
        }
    }

    /// What shows the next finding: nothing in the log does, so it is a number of this process.
    pub fn next(&self) -> String {
        format!("{}/{}", self.run, self.said.fetch_add(1, Ordering::Relaxed))
    }

    /// The alert of a finding, made at this time, nanoseconds.
    pub fn alert(&self, finding: &Finding<'_>, now: i64) -> Alert {
        let occasion = Occasion {
            alert_ts_ns: now,
            mode: AlertMode::Live,
            losses: Losses::new(),
            clock_replaced: false,
        };
        let mut row = finding.row.clone();
        row.insert("processor".to_owned(), self.named.as_str().into());
        let finding = Finding {
            health: finding.health,
            about: finding.about,
            happened: finding.happened.clone(),
            shown_by: finding.shown_by.clone(),
            time: finding.time,
            row,
        };
        let mut alert = build(&finding, &self.owner, &occasion);
        fit(&mut alert, ALERT_BYTES_MAX);
        alert
    }
}

/// The name of this machine; `/proc` may be hidden from a service.
fn machine() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is as long as is said; the call writes no more.
    let found = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) };
    let end = name.iter().position(|byte| *byte == 0);
    let end = end.filter(|_| found == 0).unwrap_or(0);
    String::from_utf8_lossy(&name[..end]).into_owned()
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
