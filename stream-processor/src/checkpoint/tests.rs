//! Metadata and manifests come back as they were written, folds yield the newest state, and old pieces are written anew in time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::config::RawCheckpoint;

fn piece(key: &str, value: &str) -> StateRecord {
    StateRecord {
        key: key.to_owned(),
        value: Some(value.as_bytes().to_vec()),
    }
}

fn gone(key: &str) -> StateRecord {
    StateRecord {
        key: key.to_owned(),
        value: None,
    }
}

fn settings() -> RawCheckpoint {
    RawCheckpoint {
        interval: Duration::from_secs(10),
        input_bytes: 1_000,
    }
}

fn of_events(input: i64) -> Inputs {
    Inputs::from([(Topic::Events, input)])
}

/// Takes a checkpoint with a base named after its number.
fn take(progress: &mut Progress, records: Vec<StateRecord>, input: i64) -> Checkpoint {
    let base = format!("base-{input}");
    progress.take(records, of_events(input), || base, Instant::now())
}

/// Feeds a checkpoint to a fold as the topic would, whose first record lies at a hundred times its input.
fn feed(fold: &mut Fold, checkpoint: &Checkpoint) {
    let base = checkpoint.manifest.base.as_bytes();
    let mut offset = checkpoint.manifest.inputs[&Topic::Events] * 100;
    let mut take = |key: &[u8], value: Option<&[u8]>| {
        fold.take(offset, key, Some(base), value).unwrap();
        offset += 1;
    };
    for record in &checkpoint.records {
        take(record.key.as_bytes(), record.value.as_deref());
    }
    let value = checkpoint.manifest.to_value();
    take(MANIFEST_KEY.as_bytes(), Some(&value));
}

fn state(pieces: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pieces
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

#[test]
fn metadata_comes_back_and_is_small() {
    let head = Head {
        format: FORMAT,
        epoch: EPOCH,
        number: u64::MAX,
        inputs: Inputs::from([(Topic::Events, i64::MAX), (Topic::Sensors, i64::MAX)]),
        state: i64::MAX,
        base: "0123456789abcdef".to_owned(),
        ran: Ran {
            set: "0123456789abcdef".to_owned(),
            epoch: Some(Epoch {
                began: i64::MAX,
                number: u64::MAX,
            }),
            folder: true,
            keys_max: Some(usize::MAX),
            state_bytes_max: Some(u64::MAX),
            partitions: Some(i32::MAX),
            partitions_before: Some(i32::MAX),
        },
    };
    let text = head.to_metadata();
    assert!(text.len() < 4_096 / 8, "{}", text.len());
    assert_eq!(Head::of_metadata(&text), Ok(head));
}

#[test]
fn metadata_of_other_versions_is_told_apart() {
    let before =
        r#"{"format":4,"epoch":0,"checkpoint":3,"inputs":{"events":7},"state":5,"base":"b"}"#;
    let before = Head::of_metadata(before).expect("what versions of before wrote");
    assert_eq!((before.number, before.ran), (3, Ran::default()));
    assert_eq!(Head::of_metadata(""), Err(MemoryError::None));
    let newer = r#"{"format":9,"epoch":0,"anything":"else"}"#;
    assert_eq!(
        Head::of_metadata(newer),
        Err(MemoryError::Newer { found: 9 })
    );
    for text in [
        "x",
        "{}",
        r#"{"format":1,"epoch":0}"#,
        r#"{"format":1,"epoch":1}"#,
    ] {
        let error = Head::of_metadata(text).unwrap_err();
        assert!(
            matches!(error, MemoryError::Unreadable(_)),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_fold_yields_the_newest_values_up_to_the_named_checkpoint() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 10);
    let second = take(
        &mut progress,
        vec![piece("a", "2"), gone("b"), piece("c", "1")],
        20,
    );
    let third = take(&mut progress, vec![piece("a", "3")], 30);
    assert!(first.begins && !second.begins && !third.begins);

    let mut fold = Fold::new(second.manifest.head(0));
    feed(&mut fold, &first);
    assert!(!fold.reached());
    feed(&mut fold, &second);
    assert!(fold.reached());
    let restored = fold.finish().unwrap();
    assert_eq!(restored.manifest, second.manifest);
    assert_eq!(restored.records, 7);
    assert_eq!(restored.places, BTreeMap::from([(1, 1_000), (2, 2_000)]));
    assert_eq!(restored.into_state(), state(&[("a", "2"), ("c", "1")]));
}

#[test]
fn pieces_after_the_last_manifest_do_not_count() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1")], 10);
    let mut fold = Fold::new(first.manifest.head(0));
    feed(&mut fold, &first);
    fold.take(1_100, b"a", Some(b"base-10"), Some(b"never finished"))
        .unwrap();
    assert_eq!(fold.finish().unwrap().into_state(), state(&[("a", "1")]));
}

#[test]
fn pieces_that_build_on_another_full_checkpoint_are_passed_over() {
    let mut progress = Progress::begin(0, Instant::now());
    let mut zombie = Progress::begin(0, Instant::now());
    let ours = take(
        &mut progress,
        vec![piece("a", "ours"), piece("b", "ours")],
        10,
    );
    let theirs = take(&mut zombie, vec![piece("a", "theirs")], 11);
    let next = take(&mut progress, vec![piece("b", "next")], 20);
    let mut fold = Fold::new(next.manifest.head(0));
    for checkpoint in [&ours, &theirs, &next] {
        feed(&mut fold, checkpoint);
    }
    fold.take(9_999, b"b", None, Some(b"a stranger's")).unwrap();
    assert_eq!(
        fold.finish().unwrap().into_state(),
        state(&[("a", "ours"), ("b", "next")])
    );
}

#[test]
fn a_later_complete_checkpoint_counts_as_reached() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1")], 10);
    let second = take(&mut progress, vec![piece("a", "2")], 20);
    let mut fold = Fold::new(first.manifest.head(0));
    feed(&mut fold, &first);
    feed(&mut fold, &second);
    assert_eq!(fold.finish().unwrap().manifest.inputs, of_events(20));
}

#[test]
fn what_is_not_there_is_noticed() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 10);
    let second = take(&mut progress, vec![piece("a", "2")], 20);
    let mut fold = Fold::new(second.manifest.head(0));
    feed(&mut fold, &first);
    assert_eq!(fold.finish(), Err(MemoryError::Missing { number: 2 }));

    // The first one is gone, the change is there: as after somebody deleted records.
    let mut fold = Fold::new(second.manifest.head(0));
    feed(&mut fold, &second);
    let expected = MemoryError::Incomplete {
        number: 2,
        expected: 2,
        found: 1,
    };
    assert_eq!(fold.finish(), Err(expected));
}

#[test]
fn a_manifest_of_a_newer_version_is_refused() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, Vec::new(), 10);
    let mut fold = Fold::new(first.manifest.head(0));
    let newer = br#"{"format":9,"epoch":0}"#;
    let error = fold.take(0, MANIFEST_KEY.as_bytes(), Some(b"base-10"), Some(newer));
    assert_eq!(error, Err(MemoryError::Newer { found: 9 }));
}

#[test]
fn a_checkpoint_is_due_when_input_is_old_or_much() {
    let start = Instant::now();
    let mut progress = Progress::begin(0, start);
    assert_eq!(progress.due_at(&settings()), None);
    progress.note_input(999);
    assert_eq!(
        progress.due_at(&settings()),
        Some(start + Duration::from_secs(10))
    );
    progress.note_input(1);
    assert_eq!(progress.due_at(&settings()), Some(start));
    take(&mut progress, Vec::new(), 1);
    assert!(!progress.behind());
    assert_eq!(progress.due_at(&settings()), None);
}

/// The names that the next checkpoint writes anew.
fn anew(progress: &mut Progress) -> BTreeSet<String> {
    let renewal = progress.renewal();
    renewal.below("").map(str::to_owned).collect()
}

/// Bytes of the checkpoints from the oldest one on that has a piece.
fn read(taken: &[Checkpoint]) -> u64 {
    let oldest = taken.last().map_or(0, |last| last.manifest.oldest);
    let read = taken.iter().filter(|taken| taken.manifest.number >= oldest);
    read.map(|taken| taken.manifest.bytes).sum()
}

#[test]
fn what_a_restore_reads_stays_near_the_size_of_the_state() {
    let text = "x".repeat(100 << 10);
    let names: Vec<String> = (0..400).map(|name| format!("{name:03}")).collect();
    let all = names.iter().map(|name| piece(name, &text)).collect();
    let size = 400 * (100 << 10);
    let mut progress = Progress::begin(0, Instant::now());
    let mut taken = vec![take(&mut progress, all, 0)];
    let mut rounds_anew = 0;
    for input in 1..400 {
        // The same tenth changes again and again.
        let mut changed: BTreeSet<String> = names[..40].iter().cloned().collect();
        let anew = anew(&mut progress);
        rounds_anew += usize::from(!anew.is_empty());
        changed.extend(anew);
        let records = changed.iter().map(|name| piece(name, &text)).collect();
        let checkpoint = take(&mut progress, records, input);
        assert!(
            checkpoint.manifest.bytes < 9 << 20,
            "no checkpoint is large"
        );
        taken.push(checkpoint);
        // Four times the state, and what is written until its oldest pieces are anew: once the state and what changes meanwhile.
        assert!(
            read(&taken) < 6 * size + (9 << 20),
            "{} bytes",
            read(&taken)
        );
    }
    assert!(rounds_anew > 100, "{rounds_anew}");
    // What is read yields what there is.
    let oldest = taken.last().unwrap().manifest.oldest;
    let mut fold = Fold::new(taken.last().unwrap().manifest.head(0));
    for checkpoint in taken.iter().filter(|taken| taken.manifest.number >= oldest) {
        feed(&mut fold, checkpoint);
    }
    assert_eq!(fold.finish().unwrap().into_state().len(), 400);
}

#[test]
fn a_small_state_is_not_written_anew_again_and_again() {
    let mut progress = Progress::begin(0, Instant::now());
    take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 0);
    for input in 1..1_000 {
        assert_eq!(anew(&mut progress), BTreeSet::new());
        let checkpoint = take(&mut progress, vec![piece("a", "2")], input);
        assert_eq!(checkpoint.manifest.oldest, 1);
    }
    let changed = vec![piece("b", "2")];
    assert_eq!(take(&mut progress, changed, 1_000).manifest.oldest, 1_000);
}

#[test]
fn what_begins_anew_holds_everything_and_ends_what_is_over() {
    let mut progress = Progress::begin(0, Instant::now());
    take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 0);
    progress.begin_anew();
    assert_eq!(anew(&mut progress), ["a", "b"].map(str::to_owned).into());
    let whole = take(&mut progress, vec![piece("b", "2")], 1);
    assert_eq!(whole.records, [piece("b", "2"), gone("a")]);
    assert_eq!((whole.manifest.keys, whole.manifest.records), (1, 2));
    assert_eq!((&*whole.manifest.base, whole.begins), ("base-1", true));
    assert_eq!(whole.manifest.oldest, 2);
}

#[test]
fn as_much_is_written_anew_as_there_is_room_for() {
    let names = ["pane/a", "pane/b", "period/c"].map(str::to_owned);
    let renewal = Renewal::new(names.into(), 10);
    assert_eq!(renewal.below("pane/").collect::<Vec<_>>(), ["a", "b"]);
    renewal.spend(9);
    assert_eq!(renewal.below("period/").collect::<Vec<_>>(), ["c"]);
    renewal.spend(9);
    assert!(!renewal.has_room());
    assert_eq!(renewal.below("pane/").count(), 0);
}

#[test]
fn a_restored_task_goes_on_where_it_was() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 0);
    let mut fold = Fold::new(first.manifest.head(0));
    feed(&mut fold, &first);
    let mut resumed = Progress::resume(&fold.finish().unwrap(), Instant::now());
    let second = take(&mut resumed, vec![piece("c", "1"), gone("a")], 1);
    let manifest = second.manifest;
    assert_eq!((manifest.number, manifest.keys, manifest.oldest), (2, 2, 1));
    assert_eq!(manifest.base, first.manifest.base);
    // With the last piece of the first one gone, nobody needs it.
    let third = take(&mut resumed, vec![piece("b", "2")], 2);
    assert_eq!(third.manifest.oldest, 2);
}

#[test]
fn what_is_too_large_for_a_record_goes_in_parts_and_comes_back_whole() {
    let large = |bytes: usize| -> StateRecord {
        let value = (0..bytes).map(|byte| (byte % 251) as u8).collect();
        StateRecord {
            key: "large".to_owned(),
            value: Some(value),
        }
    };
    let mut progress = Progress::begin(0, Instant::now());
    let sizes = [2_000_000, 700_000, 10, 1_300_000];
    let mut checkpoints = Vec::new();
    for (input, bytes) in (0..).zip(sizes) {
        let records = vec![piece("a", "1"), large(bytes), piece("z", "2")];
        let checkpoint = take(&mut progress, records, input);
        for record in &checkpoint.records {
            let bytes = record.value.as_ref().map_or(0, Vec::len);
            assert!(bytes <= PART_BYTES_MAX, "{bytes} bytes");
        }
        checkpoints.push(checkpoint);
        let mut fold = Fold::new(checkpoints.last().unwrap().manifest.head(0));
        checkpoints.iter().for_each(|taken| feed(&mut fold, taken));
        let restored = fold.finish().unwrap();
        let state = restored.into_state();
        assert_eq!(state.keys().collect::<Vec<_>>(), ["a", "large", "z"]);
        assert_eq!(Some(&state["large"]), large(bytes).value.as_ref());
    }
    // At its end nothing of it is left.
    checkpoints.push(take(&mut progress, vec![gone("large")], 9));
    let mut fold = Fold::new(checkpoints.last().unwrap().manifest.head(0));
    checkpoints.iter().for_each(|taken| feed(&mut fold, taken));
    let left = fold.finish().unwrap().pieces;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["a", "z"]);
}

#[test]
fn two_checkpoints_of_one_step_are_one() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 1);
    let second = take(&mut progress, vec![piece("b", "2"), gone("a")], 2);
    let joined = first.join(second);
    assert!(joined.begins);
    let mut fold = Fold::new(joined.manifest.head(0));
    feed(&mut fold, &joined);
    assert_eq!(fold.finish().unwrap().into_state(), state(&[("b", "2")]));
}

/// A record of the topic as format 3 wrote it: names and offsets without a topic.
const FORMER: [(&str, &str); 5] = [
    ("task", "a"),
    ("hosts/000000", "b"),
    ("hosts/000001", "c"),
    ("minute/0a", "d"),
    ("pane/5e/100/0-0/1", "e"),
];
const FORMER_MANIFEST: &str = r#"{"format":3,"epoch":0,"checkpoint":4,"input":77,"base":"old","oldest":4,"records":5,"bytes":50,"keys":5}"#;
const FORMER_HEAD: &str =
    r#"{"format":3,"epoch":0,"checkpoint":4,"input":77,"state":9,"base":"old"}"#;

#[test]
fn what_format_3_wrote_is_of_events() {
    let head = Head::of_metadata(FORMER_HEAD).unwrap();
    assert_eq!(head.inputs, of_events(77));
    let mut topic: Vec<(String, Option<Vec<u8>>)> = FORMER
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Some(value.as_bytes().to_vec())))
        .collect();
    topic.push((
        MANIFEST_KEY.to_owned(),
        Some(FORMER_MANIFEST.as_bytes().to_vec()),
    ));
    let restored = |topic: &[(String, Option<Vec<u8>>)], wanted: Head| {
        let mut fold = Fold::new(wanted);
        for (offset, (key, value)) in (9..).zip(topic) {
            let value = value.as_deref();
            fold.take(offset, key.as_bytes(), Some(b"old"), value)
                .unwrap();
        }
        fold.finish().unwrap()
    };
    let first = restored(&topic, head);
    let mut progress = Progress::resume(&first, Instant::now());
    let was = [
        ("hosts.events/000000", "b"),
        ("hosts.events/000001", "c"),
        ("log.events", "a"),
        ("minute.events/0a", "d"),
        ("pane/5e/100/0-0/1", "e"),
    ];
    assert_eq!(first.into_state(), state(&was));
    // What is written anew or over is not read under its old name again, whether the old records are still there or not.
    let changed = vec![
        piece("log.events", "2"),
        piece("hosts.events/000001", "2"),
        gone("minute.events/0a"),
    ];
    let second = take(&mut progress, changed, 90);
    assert_eq!(
        (second.manifest.keys, second.manifest.oldest, second.begins),
        (4, 4, false)
    );
    let head = second.manifest.head(9);
    let records = second.records.into_iter();
    topic.extend(records.map(|record| (record.key, record.value)));
    topic.push((MANIFEST_KEY.to_owned(), Some(second.manifest.to_value())));
    let is = [
        ("hosts.events/000000", "b"),
        ("hosts.events/000001", "2"),
        ("log.events", "2"),
        ("pane/5e/100/0-0/1", "e"),
    ];
    let whole = restored(&topic, head.clone());
    assert_eq!(whole.manifest.inputs, of_events(90));
    assert_eq!(whole.into_state(), state(&is));
    // Compaction leaves the last record of each name, and no ends.
    let last: BTreeMap<String, usize> = (0..)
        .zip(&topic)
        .map(|(at, (key, _))| (key.clone(), at))
        .collect();
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    let compacted: Vec<_> = kept.into_iter().map(|at| topic[at].clone()).collect();
    let compacted: Vec<_> = compacted
        .into_iter()
        .filter(|(_, value)| value.is_some())
        .collect();
    assert_eq!(compacted.len(), 5);
    assert_eq!(restored(&compacted, head).into_state(), state(&is));
}

#[test]
fn a_task_that_reads_two_topics_goes_on_in_both() {
    let inputs = Inputs::from([(Topic::Events, 700), (Topic::Sensors, 12)]);
    let mut progress = Progress::begin(0, Instant::now());
    let pieces = vec![piece("log.events", "1"), piece("log.sensors", "2")];
    let base = || "two".to_owned();
    let taken = progress.take(pieces, inputs.clone(), base, Instant::now());
    let head = taken.manifest.head(0);
    assert_eq!(Head::of_metadata(&head.to_metadata()), Ok(head.clone()));
    let mut fold = Fold::new(head);
    feed(&mut fold, &taken);
    let restored = fold.finish().unwrap();
    assert_eq!(restored.manifest.inputs, inputs);
    assert_eq!(
        restored.into_state(),
        state(&[("log.events", "1"), ("log.sensors", "2")])
    );
    // A topic that this version does not know cannot be gone on in.
    let text = r#"{"format":4,"epoch":0,"checkpoint":1,"inputs":{"events":7,"dreams":3},"state":0,"base":"b"}"#;
    let error = Head::of_metadata(text).unwrap_err();
    assert!(
        error.to_string().contains("there is no topic dreams"),
        "{error}"
    );
}

#[test]
fn tasks_of_several_topics_lie_in_one_partition_and_do_not_touch_each_other() {
    let events = key_of(Topic::Events, "log.events");
    let samples = key_of(Topic::ContainerSamples, "log.container-samples");
    assert_eq!(events, "log.events");
    assert_ne!(samples, "log.container-samples");
    assert_eq!(piece_of(&samples), "log.container-samples");
    // Names of pieces hold what containers call themselves.
    for name in ["minute/a\u{1e}b", "\u{1e}", "events", MANIFEST_KEY] {
        assert_eq!(piece_of(&key_of(Topic::Events, name)), name);
        assert_eq!(piece_of(&key_of(Topic::ProcessSamples, name)), name);
    }

    // One task's records come between those of the other, under keys and a base of its own.
    let mut own = Progress::begin(0, Instant::now());
    let mut other = Progress::begin(0, Instant::now());
    let first = take(&mut own, vec![piece("detections", "own")], 1);
    let between = other.take(
        vec![piece("detections", "other")],
        Inputs::from([(Topic::ContainerSamples, 5)]),
        || "other".to_owned(),
        Instant::now(),
    );
    let mut fold = Fold::new(first.manifest.head(0));
    let mut offset = 0;
    let mut feed = |checkpoint: &Checkpoint, topic| {
        let base = checkpoint.manifest.base.as_bytes();
        let manifest = (
            MANIFEST_KEY.to_owned(),
            Some(checkpoint.manifest.to_value()),
        );
        let records = checkpoint.records.iter();
        let records = records.map(|record| (record.key.clone(), record.value.clone()));
        for (key, value) in records.chain([manifest]) {
            let key = key_of(topic, &key);
            fold.take(offset, key.as_bytes(), Some(base), value.as_deref())
                .unwrap();
            offset += 1;
        }
    };
    feed(&between, Topic::ContainerSamples);
    feed(&first, Topic::Events);
    let restored = fold.finish().unwrap();
    assert_eq!(restored.manifest, first.manifest);
    assert_eq!(restored.into_state(), state(&[("detections", "own")]));
}

#[test]
fn what_others_write_between_counts_as_what_a_restore_reads() {
    let mut progress = Progress::begin(0, Instant::now());
    take(&mut progress, vec![piece("a", "1")], 1);
    take(&mut progress, vec![piece("b", "1")], 2);
    assert_eq!(progress.renewal().below("").count(), 0);
    progress.pass_over(5 << 20);
    let renewal = progress.renewal();
    assert_eq!(renewal.below("").collect::<Vec<_>>(), ["a", "b"]);
    take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 3);
    assert_eq!(progress.renewal().below("").count(), 0);
}
