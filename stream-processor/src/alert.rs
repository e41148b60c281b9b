//! An alert from a detection's match: everything an analyst needs to act, by value.
//!
//! Its identity depends on the detection's content and the event's own identity, never on offsets or time:
//! the same event seen live, replayed or back-tested gives the same `alert_id`.

use dogwatch_schemas::records::{Alert, AlertEvidence, AlertProcess, Event};

use dogwatch_schemas::{Text, time};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::decode::Whole;
use crate::detect::{Detection, hex};
use crate::hosts::{FLEET_HOST_ID, Losses, SlotOwner, partition_of};
use crate::window::{FirstRow, FleetTold, Overflow, Word};

pub(crate) mod health;
pub(crate) mod size;

const SECOND_NS: i64 = 1_000_000_000;
/// An event older than this when the broker appends it makes its alerts `delayed`, nanoseconds.
const DELAYED_AFTER_NS: i64 = 60_000_000_000;

/// What the alerts of an engine are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertMode {
    /// The fleet as it is now.
    Live,
    /// History, run again.
    Backtest,
    /// A detection's own examples.
    Test,
}

impl AlertMode {
    /// The word in the alert.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backtest => "backtest",
            Self::Test => "test",
        }
    }
}

/// Where and when an event came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub ingest_ts_ns: Option<i64>,
}

/// When and what for an alert is made, and what is missing beside it.
#[derive(Debug)]
pub(crate) struct Occasion {
    pub alert_ts_ns: i64,
    pub mode: AlertMode,
    /// Events of the host known to be lost around what the alert tells of, by class; empty when none are.
    pub losses: Losses,
    /// Whether windows go by the broker's time for the event.
    pub clock_replaced: bool,
}

/// What names an event, and where it happened: known of every row without decoding it whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub host_id: &'a str,
    pub sensor_run: &'a str,
    pub seq: i64,
    pub ts: i64,
    pub container_id: &'a str,
}

/// Whether the engine speaks of itself in an alert, under an id of its own and not for a detection.
#[must_use]
pub fn is_own(alert: &Alert) -> bool {
    let id = &*alert.detection_id;
    alert.detection_hash.is_empty() && (id == STATE_OVERFLOW || health::is_id(id))
}

/// Builds the alert of a match whose event cannot be decoded whole: what matched is known, the evidence is not. Its identity
/// is missing, too.
pub(crate) fn build_unread(
    detection: &Detection,
    subject: &Subject<'_>,
    owner: &SlotOwner,
    row: &Map<String, Value>,
    origin: &Origin<'_>,
    occasion: Occasion,
) -> Alert {
    Alert {
        event_ts: subject.ts,
        ingest_ts: origin.ingest_ts_ns,
        host_id: subject.host_id.into(),
        host_name: owner.host_name.clone(),
        container_id: subject.container_id.into(),
        evidence: vec![AlertEvidence {
            host_id: subject.host_id.into(),
            sensor_run: subject.sensor_run.into(),
            seq: subject.seq,
            row: r#"{"undecodable":true}"#.into(),
            ..place_of(origin)
        }],
        delayed: is_delayed(origin, subject.ts),
        error: Some("the event could not be decoded whole".into()),
        ..told_by_detection(detection, row, occasion)
    }
}

/// Whether an alert was larger than it may be: its longest texts and lists were cut.
#[must_use]
pub fn was_cut(alert: &Alert) -> bool {
    let mut evidence = alert.evidence.iter();
    size::is_cut(&alert.message)
        || size::is_cut_row(&alert.row)
        || evidence.any(|evidence| size::is_cut_row(&evidence.row))
}

/// Builds the alert that an event tells, all but its identity.
pub(crate) fn build(
    detection: &Detection,
    event: &Whole,
    row: &Map<String, Value>,
    origin: &Origin<'_>,
    occasion: Occasion,
) -> Alert {
    Alert {
        related: related(event),
        event_ts: event.ts,
        ingest_ts: origin.ingest_ts_ns,
        host_id: event.host_id.clone(),
        host_name: event.host_name.clone(),
        host_tags: event.host_tags.clone(),
        container_id: event.container_id.clone(),
        container_full_id: event.container_full_id.clone(),
        container_name: event.container_name.clone(),
        container_type: event.container_type.clone(),
        container_image: event.container_image.clone(),
        container_image_repository: event.container_image_repository.clone(),
        container_image_tag: event.container_image_tag.clone(),
        container_image_digest: event.container_image_digest.clone(),
        container_privileged: event.container_privileged,
        container_labels: event.container_labels.clone(),
        k8s_pod_name: event.k8s_pod_name.clone(),
        k8s_ns_name: event.k8s_ns_name.clone(),
        process: process(event),
        ancestors: ancestors(event),
        session: session(event),
        proc_stage: event.proc_stage.clone(),
        proc_exe_sha256: event.proc_exe_sha256.clone(),
        evidence: vec![evidence(event, origin)],
        delayed: is_delayed(origin, event.ts),
        ..told_by_detection(detection, row, occasion)
    }
}

/// What a window that is over tells of an alert, all but its identity: its rows are not kept, only what they were grouped by.
fn told_by_keys(
    detection: &Detection,
    word: &Word,
    owner: &SlotOwner,
    occasion: Occasion,
) -> Alert {
    Alert {
        event_ts: word.last_time,
        host_id: owner.host_id.clone(),
        host_name: owner.host_name.clone(),
        container_id: key_text(word, "container_id").unwrap_or_default(),
        container_full_id: key_text(word, "container_full_id"),
        container_name: key_text(word, "container_name"),
        container_type: key_text(word, "container_type"),
        container_image: key_text(word, "container_image"),
        container_image_repository: key_text(word, "container_image_repository"),
        k8s_pod_name: key_text(word, "k8s_pod_name"),
        k8s_ns_name: key_text(word, "k8s_ns_name"),
        process: key_text(word, "proc_key")
            .filter(|key| !key.is_empty())
            .map(|key| AlertProcess {
                key,
                name: key_text(word, "proc_name"),
                ..AlertProcess::default()
            }),
        ..told_by_detection(detection, &word.values, occasion)
    }
}

/// What is known of an alert whoever did it.
fn told_by_detection(detection: &Detection, row: &Map<String, Value>, occasion: Occasion) -> Alert {
    let header = &detection.header;
    let row = &detection.told(row);
    let incomplete = !occasion.losses.is_empty();
    Alert {
        message: header.message.render(row).into(),
        detection_id: detection.id.as_str().into(),
        detection_title: header.title.as_str().into(),
        detection_description: header.description.as_str().into(),
        detection_hash: detection.content_hash.as_str().into(),
        detection_status: header.status.name().into(),
        severity: header.severity.name().into(),
        priority: header.severity.priority().into(),
        risk: header.risk,
        attack: texts(&header.attack),
        references: texts(&header.references),
        response: header.response.as_deref().map(Into::into),
        false_positives: texts(&header.false_positives),
        alert_ts: occasion.alert_ts_ns,
        row: as_json(row),
        incomplete,
        losses: incomplete.then_some(occasion.losses),
        mode: occasion.mode.name().into(),
        activity: "create".into(),
        clock_replaced: occasion.clock_replaced,
        ..Alert::default()
    }
}

/// Builds the alert of a window, all but its identity.
///
/// One that has just crossed its threshold is told by the event that made it cross, which is given then.
pub(crate) fn build_window(
    detection: &Detection,
    word: &Word,
    event: Option<(&Whole, &Origin<'_>)>,
    owner: &SlotOwner,
    occasion: Occasion,
) -> Alert {
    let mut alert = match event {
        Some((event, origin)) => build(detection, event, &word.values, origin, occasion),
        None => told_by_keys(detection, word, owner, occasion),
    };
    alert.window_start = Some(word.start);
    alert.window_end = Some(word.end);
    alert.window_state = Some(if word.closed { "closed" } else { "open" }.into());
    alert.clock_stepped = word.stepped;
    if word.closed && word.fired_under.is_some() {
        alert.activity = "update".into();
    }
    if let Some(error) = &word.error {
        let title = &detection.header.title;
        alert.message = format!("{title}: could not be computed: {error}").into();
        alert.error = Some(error.as_str().into());
    }
    let lost = [
        ("keys_over_cap", word.overflow),
        ("switched_off", word.skipped),
    ];
    for (class, count) in lost.into_iter().filter(|(_, count)| *count > 0) {
        alert.incomplete = true;
        let losses = alert.losses.get_or_insert_default();
        losses.insert(class.into(), count as i64);
    }
    alert
}

/// Adds to the alert of a window of the fleet which hosts and rows are in it.
pub(crate) fn told_by_fleet(alert: Alert, told: &FleetTold, topic: &str) -> Alert {
    let evidence = |row: &FirstRow| AlertEvidence {
        host_id: row.host_id.clone(),
        sensor_run: row.sensor_run.clone(),
        seq: row.seq,
        topic: topic.into(),
        partition: i64::from(row.partition),
        offset: row.offset,
        row: row.said.clone(),
    };
    Alert {
        host_count: Some(told.host_count),
        hosts: Some(told.hosts.clone()),
        evidence: told.rows.iter().map(evidence).collect(),
        ..alert
    }
}

/// Builds the alert that says that a group of detections counts no further keys in a pane, or that keys went.
pub(crate) fn build_overflow(
    detections: &[&str],
    overflow: &Overflow,
    keys_max: usize,
    owner: &SlotOwner,
    occasion: &Occasion,
) -> Alert {
    let names = detections.join(", ");
    let start = overflow.start.to_string();
    let number = partition_of(overflow.slot);
    let partition = number.to_string();
    let identity = digest([STATE_OVERFLOW, &names, &partition, &start], 16);
    let mut row = serde_json::json!({
        "detections": detections, "partition": number, "keys_max": keys_max,
        "window_start": time::text(overflow.start), "window_end": time::text(overflow.end),
    });
    let (message, mend) = match overflow.bytes {
        None => (
            format!(
                "{names}: {keys_max} keys in partition {partition} and one pane of their windows are counted, rows of further keys are not"
            ),
            "Look at which key grows; raise windows.keys_max if the fleet is this large.",
        ),
        Some(bytes) => {
            row["state_bytes_max"] = bytes.into();
            (
                format!(
                    "{names}: the windows of partition {partition} took more than {bytes} bytes, so keys with the fewest rows went, first of the hosts that have most"
                ),
                "Look at which host and key grow; raise windows.state_bytes_max of all processors, with memory for it, if the fleet is this large.",
            )
        }
    };
    Alert {
        alert_id: identity.as_str().into(),
        dedup_key: format!("{STATE_OVERFLOW}/{}", digest([&*names, &partition], 8)).into(),
        message: message.into(),
        detection_id: STATE_OVERFLOW.into(),
        detection_title: "Windows are full".into(),
        detection_description: "More keys came than windows.keys_max or windows.state_bytes_max allow; what these detections say of it is incomplete. Somebody may be flooding them.".into(),
        detection_status: "stable".into(),
        severity: "medium".into(),
        priority: "Warning".into(),
        risk: 45,
        response: Some(mend.into()),
        event_ts: overflow.start,
        alert_ts: occasion.alert_ts_ns,
        window_start: Some(overflow.start),
        window_end: Some(overflow.end),
        window_state: Some("open".into()),
        host_id: owner.host_id.clone(),
        host_name: owner.host_name.clone(),
        row: row.to_string().into(),
        incomplete: true,
        mode: occasion.mode.name().into(),
        activity: "create".into(),
        ..Alert::default()
    }
}

/// Alerts of a detection, host and container that were held back within a minute.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub detection_id: &'a Text,
    pub host_id: &'a Text,
    pub host_name: &'a Text,
    /// Empty where the alerts name none.
    pub container_id: &'a Text,
    /// Id of the first alert of the minute.
    pub first_id: &'a str,
    pub count: i64,
    /// The host's time when the last was held back.
    pub last_time: i64,
}

/// Builds the alert that tells how many alerts were held back. The detection may be gone.
pub(crate) fn build_held(
    detection: Option<&Detection>,
    held: &Held<'_>,
    occasion: Occasion,
) -> Alert {
    let whose = match (&**held.container_id, &**held.host_id) {
        ("", FLEET_HOST_ID) => "over the whole fleet".to_owned(),
        ("", _) => "on this host".to_owned(),
        (container, _) => format!("in {container}"),
    };
    let mut row = Map::new();
    row.insert("container_id".to_owned(), (&**held.container_id).into());
    row.insert("held".to_owned(), held.count.into());
    let told = match detection {
        Some(detection) => told_by_detection(detection, &row, occasion),
        None => Alert {
            detection_title: held.detection_id.clone(),
            alert_ts: occasion.alert_ts_ns,
            mode: occasion.mode.name().into(),
            activity: "create".into(),
            row: as_json(&row),
            ..Alert::default()
        },
    };
    let title = &told.detection_title;
    let message = format!(
        "{title}: {} more alerts within a minute {whose}",
        held.count
    );
    let key = digest([&**held.host_id, held.container_id], 8);
    Alert {
        alert_id: digest(["held", held.first_id], 16).into(),
        dedup_key: format!("{}/{key}", held.detection_id).into(),
        message: message.into(),
        detection_id: held.detection_id.clone(),
        event_ts: held.last_time,
        host_id: held.host_id.clone(),
        host_name: held.host_name.clone(),
        container_id: held.container_id.clone(),
        folded: held.count,
        ..told
    }
}

/// What stands for a detection where the engine itself speaks of its windows.
const STATE_OVERFLOW: &str = "state_overflow";

fn key_text(word: &Word, column: &str) -> Option<Text> {
    word.columns.get(column)?.as_str().map(Into::into)
}

/// 32 hexadecimal digits of the SHA-256 over detection id, content hash, host, keys, start and stretch of the host's time.
/// A window that fired early keeps the content hash that it fired under.
pub(crate) fn window_identity(detection: &Detection, word: &Word, owner: &SlotOwner) -> Text {
    let start = word.start.to_string();
    let parts = [
        detection.id.as_str(),
        word.fired_under
            .as_deref()
            .unwrap_or(&detection.content_hash),
        "window",
        &owner.host_id,
        &word.keys,
        &start,
        &owner.segment,
    ];
    digest(parts, 16).into()
}

/// What a window's repeats are told by; the container is the key of that name, where there is one.
pub(crate) fn window_dedup_key(detection: &Detection, word: &Word, owner: &SlotOwner) -> Text {
    let value = |column: &str| word.values.get(column).cloned();
    dedup_key(detection, &owner.host_id, window_container(word), value)
}

/// The container that a window is of, where that is one of its keys.
pub(crate) fn window_container(word: &Word) -> &str {
    let container = word.columns.get("container_id");
    container.and_then(Value::as_str).unwrap_or_default()
}

/// 32 hexadecimal digits of the SHA-256 over detection id, content hash, host id, sensor run and seq, joined by NUL.
pub(crate) fn identity(detection: &Detection, subject: &Subject<'_>) -> Text {
    let seq = subject.seq.to_string();
    let parts = [
        detection.id.as_str(),
        &detection.content_hash,
        subject.host_id,
        subject.sensor_run,
        &seq,
    ];
    digest(parts, 16).into()
}

/// The detection's id and 16 hexadecimal digits over host, container and the columns that the header names.
pub(crate) fn dedup_key(
    detection: &Detection,
    host_id: &str,
    container_id: &str,
    value: impl Fn(&str) -> Option<Value>,
) -> Text {
    let columns = detection.header.dedup.key.iter();
    let values = columns.map(|column| value(column).map_or_else(String::new, |v| v.to_string()));
    let values: Vec<String> = values.collect();
    let parts = [host_id, container_id]
        .into_iter()
        .chain(values.iter().map(String::as_str));
    format!("{}/{}", detection.id, digest(parts, 8)).into()
}

pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a str>, bytes: usize) -> String {
    let mut hash = Sha256::new();
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            hash.update([0]);
        }
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize()[..bytes])
}

/// What the alerts of what one process did at once have in common: 16 hexadecimal digits over host, process and whole second.
fn related(event: &Event) -> Option<Text> {
    let second = event.ts.div_euclid(SECOND_NS).to_string();
    let parts = [&*event.host_id, &*event.proc_key, &*second];
    (!event.proc_key.is_empty()).then(|| digest(parts, 8).into())
}

/// The process that did it; none on rows that have no process.
fn process(event: &Event) -> Option<AlertProcess> {
    (!event.proc_key.is_empty()).then(|| AlertProcess {
        key: event.proc_key.clone(),
        pid: event.proc_pid,
        name: event.proc_name.clone(),
        exepath: event.proc_exepath.clone(),
        cmdline: event.proc_cmdline.clone(),
        uid: event.user_host_uid,
        user_name: event.user_name.clone(),
        start: event.proc_pid_ts,
    })
}

/// Its ancestors, the parent first; the lists beside `proc_akey` may be shorter or unknown.
fn ancestors(event: &Event) -> Vec<AlertProcess> {
    let keys = event.proc_akey.as_deref().unwrap_or_default();
    let ancestor = |(index, key): (usize, &Text)| AlertProcess {
        key: key.clone(),
        pid: number_at(&event.proc_apid, index).unwrap_or_default(),
        name: text_at(&event.proc_aname, index),
        exepath: text_at(&event.proc_aexepath, index),
        cmdline: text_at(&event.proc_acmdline, index),
        uid: number_at(&event.proc_auid, index),
        user_name: None,
        start: number_at(&event.proc_apid_ts, index),
    };
    keys.iter().enumerate().map(ancestor).collect()
}

/// The first process of its session, where it is known.
fn session(event: &Event) -> Option<AlertProcess> {
    let key = event.proc_skey.clone()?;
    Some(AlertProcess {
        key,
        pid: event.proc_sid.unwrap_or_default(),
        name: event.proc_sname.clone(),
        cmdline: event.proc_scmdline.clone(),
        start: event.proc_sid_ts,
        ..AlertProcess::default()
    })
}

fn evidence(event: &Whole, origin: &Origin<'_>) -> AlertEvidence {
    AlertEvidence {
        host_id: event.host_id.clone(),
        sensor_run: event.sensor_run.clone(),
        seq: event.seq,
        row: event.json(),
        ..place_of(origin)
    }
}

/// Evidence that says where a record stands, and no more.
fn place_of(origin: &Origin<'_>) -> AlertEvidence {
    AlertEvidence {
        topic: origin.topic.into(),
        partition: origin.partition.into(),
        offset: origin.offset,
        ..AlertEvidence::default()
    }
}

fn is_delayed(origin: &Origin<'_>, event_ts: i64) -> bool {
    let ingest_ts = origin.ingest_ts_ns;
    ingest_ts.is_some_and(|ingest_ts| ingest_ts.saturating_sub(event_ts) > DELAYED_AFTER_NS)
}

fn as_json(value: &impl serde::Serialize) -> Text {
    // Records and JSON maps have text keys and no numbers beyond JSON, so this cannot fail.
    serde_json::to_string(value).unwrap_or_default().into()
}

fn texts(texts: &[String]) -> Vec<Text> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

/// In the lists of ancestors an empty text stands for one that is not known.
fn text_at(texts: &Option<Vec<Text>>, index: usize) -> Option<Text> {
    texts
        .as_ref()?
        .get(index)
        .filter(|text| !text.is_empty())
        .cloned()
}

fn number_at(numbers: &Option<Vec<i64>>, index: usize) -> Option<i64> {
    numbers.as_ref()?.get(index).copied()
}
