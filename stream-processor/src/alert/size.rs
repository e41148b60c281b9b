//! How large an alert may be, and what gives way when it is larger.
//!
//! Whoever starts a program chooses its arguments, whoever builds an image its labels; both stand several times in an alert.
//! What is cut says so: texts and lists end with `(truncated)`, rows of evidence have `evt_truncated`.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{Alert, AlertProcess};
use serde_json::Value;

/// Most bytes of an alert, framed and with its key, whatever the events held.
pub(crate) const ALERT_BYTES_MAX: usize = 64 << 10;
/// What stands for a row that no cut makes small enough.
const TRUNCATED: &str = r#"{"truncated":true}"#;
/// What a cut text ends with, and a list in place of what is missing.
const MARK: &str = "(truncated)";
/// Longest texts, bytes, tried one after the other; lists have a sixteenth as many items.
const TEXT_BYTES: [usize; 4] = [8 << 10, 2 << 10, 512, 128];
/// Items of lists for each byte of texts.
const TEXT_BYTES_PER_ITEM: usize = 16;

/// Cuts an alert until it has at most so many bytes, no further than it must; false when what is left is the detection's own
/// texts and they are too large.
pub(crate) fn fit(alert: &mut Alert, bytes_max: usize) -> bool {
    let fits = |alert: &Alert| bytes(alert) <= bytes_max;
    if fits(alert) {
        return true;
    }
    for text_bytes in TEXT_BYTES {
        shorten(alert, text_bytes);
        if fits(alert) {
            return true;
        }
    }
    for evidence in &mut alert.evidence {
        evidence.row = TRUNCATED.into();
    }
    if fits(alert) {
        return true;
    }
    alert.row = TRUNCATED.into();
    fits(alert)
}

/// Whether a text was cut to fit.
pub(crate) fn is_cut(text: &str) -> bool {
    text.ends_with(MARK)
}

/// Whether a row of an alert was cut to fit.
pub(crate) fn is_cut_row(row: &str) -> bool {
    row == TRUNCATED || row.contains(MARK)
}

/// An alert's bytes as a record: its value, framed, and its key.
fn bytes(alert: &Alert) -> usize {
    let mut value = Vec::with_capacity(16 << 10);
    alert.encode_framed(&mut value);
    value.len() + alert.dedup_key.len()
}

/// Shortens whatever comes from events.
fn shorten(alert: &mut Alert, text_bytes: usize) {
    let texts = [
        &mut alert.message,
        &mut alert.host_name,
        &mut alert.container_id,
    ];
    texts
        .into_iter()
        .for_each(|text| shorten_text(text, text_bytes));
    let optional = [
        &mut alert.container_full_id,
        &mut alert.container_name,
        &mut alert.container_type,
        &mut alert.container_image,
        &mut alert.container_image_repository,
        &mut alert.container_image_tag,
        &mut alert.container_image_digest,
        &mut alert.k8s_pod_name,
        &mut alert.k8s_ns_name,
        &mut alert.proc_stage,
        &mut alert.proc_exe_sha256,
        &mut alert.error,
    ];
    for text in optional.into_iter().flatten() {
        shorten_text(text, text_bytes);
    }
    let maps = [&mut alert.host_tags, &mut alert.container_labels];
    for map in maps.into_iter().flatten() {
        shorten_map(map, text_bytes);
    }
    let items_max = items(text_bytes);
    if alert.ancestors.len() > items_max {
        alert.ancestors.truncate(items_max);
        alert.ancestors.push(AlertProcess {
            key: MARK.into(),
            ..AlertProcess::default()
        });
    }
    let processes = alert
        .process
        .iter_mut()
        .chain(&mut alert.ancestors)
        .chain(&mut alert.session);
    processes.for_each(|process| shorten_process(process, text_bytes));
    for evidence in &mut alert.evidence {
        shorten_row(&mut evidence.row, text_bytes, true);
    }
    shorten_row(&mut alert.row, text_bytes, false);
}

fn items(text_bytes: usize) -> usize {
    text_bytes / TEXT_BYTES_PER_ITEM
}

fn shorten_process(process: &mut AlertProcess, text_bytes: usize) {
    shorten_text(&mut process.key, text_bytes);
    let texts = [
        &mut process.name,
        &mut process.exepath,
        &mut process.cmdline,
        &mut process.user_name,
    ];
    for text in texts.into_iter().flatten() {
        shorten_text(text, text_bytes);
    }
}

fn shorten_map(map: &mut BTreeMap<Text, Text>, text_bytes: usize) {
    let missing = map.len().saturating_sub(items(text_bytes));
    let entries = std::mem::take(map).into_iter().take(items(text_bytes));
    for (mut name, mut value) in entries {
        shorten_text(&mut name, text_bytes);
        shorten_text(&mut value, text_bytes);
        map.insert(name, value);
    }
    if missing > 0 {
        map.insert(MARK.into(), format!("{missing} more").into());
    }
}

fn shorten_text(text: &mut Text, text_bytes: usize) {
    if let Some(shorter) = shorter(text, text_bytes) {
        *text = shorter.into();
    }
}

/// The beginning of a text that is longer than it may be.
fn shorter(text: &str, text_bytes: usize) -> Option<String> {
    let cut = text.strip_suffix(MARK).unwrap_or(text);
    (cut.len() > text_bytes + MARK.len()).then(|| {
        let kept = &cut[..cut.floor_char_boundary(text_bytes)];
        format!("{kept} {MARK}")
    })
}

/// Shortens a row of JSON; one of events stays an event.
fn shorten_row(row: &mut Text, text_bytes: usize, of_events: bool) {
    let Ok(mut value) = serde_json::from_str::<Value>(row) else {
        return shorten_text(row, text_bytes);
    };
    if !shorten_value(&mut value, text_bytes, of_events) {
        return;
    }
    if let (true, Value::Object(fields)) = (of_events, &mut value) {
        fields.insert("evt_truncated".to_owned(), true.into());
    }
    *row = value.to_string().into();
}

/// Shortens texts, lists and maps; true when anything gave way.
fn shorten_value(value: &mut Value, text_bytes: usize, of_events: bool) -> bool {
    let items_max = items(text_bytes);
    match value {
        Value::String(text) => match shorter(text, text_bytes) {
            Some(shorter) => {
                *text = shorter;
                true
            }
            None => false,
        },
        Value::Array(list) => {
            let missing = list.len().saturating_sub(items_max + 1);
            if missing > 0 {
                list.truncate(items_max);
                // A list of numbers in an event holds numbers only.
                if !of_events || list.iter().all(Value::is_string) {
                    list.push(MARK.into());
                }
            }
            let cut = list
                .iter_mut()
                .map(|item| shorten_value(item, text_bytes, of_events));
            cut.fold(missing > 0, |any, cut| any | cut)
        }
        Value::Object(fields) => {
            // An event has 150 columns; only what they hold may be large.
            let missing = match of_events && fields.contains_key("evt_type") {
                true => 0,
                false => fields.len().saturating_sub(items_max + 1),
            };
            if missing > 0 {
                let kept = std::mem::take(fields).into_iter().take(items_max);
                *fields = kept.collect();
                fields.insert(MARK.to_owned(), format!("{missing} more").into());
            }
            let cut = fields
                .iter_mut()
                .map(|(_, field)| shorten_value(field, text_bytes, of_events));
            cut.fold(missing > 0, |any, cut| any | cut)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use dogwatch_schemas::records::{AlertEvidence, Event};
    use serde_json::json;

    use super::*;

    /// An alert whose every text from events has this many bytes, and whose maps and lists have so many entries.
    fn alert(text_bytes: usize, entries: usize) -> Alert {
        let text = |name: &str| Text::from(format!("{name}{}", "ü\"".repeat(text_bytes / 3)));
        let map = || -> BTreeMap<Text, Text> {
            let entry = |entry| (text(&format!("{entry:05}")), text("v"));
            (0..entries).map(entry).collect()
        };
        let list = || Some((0..entries).map(|_| text("l")).collect::<Vec<Text>>());
        let process = || AlertProcess {
            key: text("k"),
            name: Some(text("n")),
            exepath: Some(text("e")),
            cmdline: Some(text("c")),
            user_name: Some(text("u")),
            ..AlertProcess::default()
        };
        let event = Event {
            evt_type: "execve".into(),
            proc_cmdline: Some(text("c")),
            proc_args: list(),
            proc_apid: Some((0..entries as i64).collect()),
            container_labels: Some(map()),
            ..Event::default()
        };
        let row = json!({"a": &*text("a"), "list": list(), "map": map()});
        Alert {
            alert_id: "a".into(),
            dedup_key: "d/0".into(),
            message: text("m"),
            host_name: text("h"),
            container_id: text("c"),
            container_name: Some(text("n")),
            container_labels: Some(map()),
            process: Some(process()),
            ancestors: (0..entries).map(|_| process()).collect(),
            row: row.to_string().into(),
            evidence: vec![AlertEvidence {
                row: serde_json::to_string(&event).expect("JSON").into(),
                ..AlertEvidence::default()
            }],
            ..Alert::default()
        }
    }

    #[test]
    fn an_alert_of_any_event_fits() {
        for (text_bytes, entries) in [
            (30, 3),
            (3_000, 3),
            (31_000, 8),
            (900_000, 1),
            (3, 10_000),
            (300, 1_000),
        ] {
            let whole = alert(text_bytes, entries);
            let mut cut = whole.clone();
            assert!(fit(&mut cut, ALERT_BYTES_MAX));
            let size = bytes(&cut);
            assert!(size <= ALERT_BYTES_MAX, "{text_bytes} {entries}: {size}");
            assert_eq!(cut == whole, bytes(&whole) <= ALERT_BYTES_MAX);
            // No further than it must.
            assert!(
                cut == whole || size > ALERT_BYTES_MAX / 64,
                "{text_bytes} {entries}: {size}"
            );
            serde_json::from_str::<Value>(&cut.row).expect("JSON");
            if &*cut.evidence[0].row != TRUNCATED {
                let event: Event = serde_json::from_str(&cut.evidence[0].row).expect("an event");
                assert_eq!(event.evt_truncated, cut.evidence != whole.evidence);
            }
        }
    }

    #[test]
    fn what_is_cut_says_so() {
        let mut cut = alert(31_000, 400);
        assert!(fit(&mut cut, ALERT_BYTES_MAX));
        assert!(is_cut(&cut.message), "{}", cut.message);
        let labels = cut.container_labels.expect("labels");
        assert!(labels.contains_key(MARK), "{:?}", labels.keys().last());
        assert_eq!(cut.ancestors.last().map(|last| &*last.key), Some(MARK));
        assert!(is_cut_row(&cut.row));
    }

    #[test]
    fn the_detections_own_texts_are_not_cut() {
        let mut large = Alert {
            detection_description: "d".repeat(9_000).into(),
            ..alert(30, 3)
        };
        assert!(!fit(&mut large, 4_000));
    }
}
