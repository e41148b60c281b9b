//! Metadata and manifests come back as they were written, folds yield the newest state, and a full checkpoint comes in time.

use super::*;

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

/// Takes a checkpoint with a base named after its number.
fn take(progress: &mut Progress, records: Vec<StateRecord>, input: i64) -> Checkpoint {
    let base = format!("base-{input}");
    progress.take(records, input, || base, Instant::now())
}

/// Feeds a checkpoint to a fold as the topic would.
fn feed(fold: &mut Fold, checkpoint: &Checkpoint) {
    let base = checkpoint.manifest.base.as_bytes();
    for record in &checkpoint.records {
        fold.take(record.key.as_bytes(), Some(base), record.value.as_deref())
            .unwrap();
    }
    let value = checkpoint.manifest.to_value();
    fold.take(MANIFEST_KEY.as_bytes(), Some(base), Some(&value))
        .unwrap();
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
        input: i64::MAX,
        state: i64::MAX,
        base: "0123456789abcdef".to_owned(),
    };
    let text = head.to_metadata();
    assert!(text.len() < 4_096 / 8, "{}", text.len());
    assert_eq!(Head::of_metadata(&text), Ok(head));
}

#[test]
fn metadata_of_other_versions_is_told_apart() {
    assert_eq!(Head::of_metadata(""), Err(MemoryError::None));
    let newer = r#"{"format":3,"epoch":0,"anything":"else"}"#;
    assert_eq!(
        Head::of_metadata(newer),
        Err(MemoryError::Newer { found: 3 })
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
    assert!(first.manifest.full && !second.manifest.full && !third.manifest.full);

    let mut fold = Fold::new(second.manifest.head(0));
    feed(&mut fold, &first);
    assert!(!fold.reached());
    feed(&mut fold, &second);
    assert!(fold.reached());
    let restored = fold.finish().unwrap();
    assert_eq!(restored.state, state(&[("a", "2"), ("c", "1")]));
    assert_eq!(restored.manifest, second.manifest);
    assert_eq!(restored.records, 7);
}

#[test]
fn pieces_after_the_last_manifest_do_not_count() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1")], 10);
    let mut fold = Fold::new(first.manifest.head(0));
    feed(&mut fold, &first);
    fold.take(b"a", Some(b"base-10"), Some(b"never finished"))
        .unwrap();
    assert_eq!(fold.finish().unwrap().state, state(&[("a", "1")]));
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
    fold.take(b"b", None, Some(b"a stranger's")).unwrap();
    assert_eq!(
        fold.finish().unwrap().state,
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
    assert_eq!(fold.finish().unwrap().manifest.input, 20);
}

#[test]
fn what_is_not_there_is_noticed() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 10);
    let second = take(&mut progress, vec![piece("a", "2")], 20);
    let mut fold = Fold::new(second.manifest.head(0));
    feed(&mut fold, &first);
    assert_eq!(fold.finish(), Err(MemoryError::Missing { number: 2 }));

    // The full one is gone, the change is there: as after somebody deleted records.
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
    let error = fold.take(MANIFEST_KEY.as_bytes(), Some(b"base-10"), Some(newer));
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

#[test]
fn what_a_restore_reads_stays_near_the_size_of_the_state() {
    let mut progress = Progress::begin(0, Instant::now());
    let large = "x".repeat(1 << 20);
    let all = || vec![piece("a", &large), piece("b", &large)];
    assert!(take(&mut progress, all(), 0).manifest.full);
    let mut since_full = 0;
    let mut fulls = 0;
    for input in 1..50 {
        let full = progress.full();
        let records = if full {
            all()
        } else {
            vec![piece("a", &large)]
        };
        assert_eq!(take(&mut progress, records, input).manifest.full, full);
        since_full = if full { 0 } else { since_full + 1 };
        fulls += usize::from(full);
        assert!(since_full <= 9, "{since_full} MiB on a state of 2");
    }
    assert_eq!(fulls, 4);
}

#[test]
fn a_small_state_is_not_written_whole_again_and_again() {
    let mut progress = Progress::begin(0, Instant::now());
    take(&mut progress, vec![piece("a", "1")], 0);
    for input in 1..1_000 {
        assert!(!progress.full());
        take(&mut progress, vec![piece("a", "2")], input);
    }
}

#[test]
fn a_full_checkpoint_removes_what_is_over() {
    let mut progress = Progress::begin(0, Instant::now());
    take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 0);
    progress.begin_anew();
    let full = take(&mut progress, vec![piece("b", "2")], 1);
    assert_eq!(full.records, [piece("b", "2"), gone("a")]);
    assert_eq!((full.manifest.keys, full.manifest.records), (1, 2));
    assert_eq!(full.manifest.base, "base-1");
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
    assert_eq!(
        (manifest.number, manifest.keys, manifest.full),
        (2, 2, false)
    );
    assert_eq!(manifest.base, first.manifest.base);
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
        let state = whole(restored.state);
        assert_eq!(state.keys().collect::<Vec<_>>(), ["a", "large", "z"]);
        assert_eq!(Some(&state["large"]), large(bytes).value.as_ref());
    }
    // At its end nothing of it is left.
    checkpoints.push(take(&mut progress, vec![gone("large")], 9));
    let mut fold = Fold::new(checkpoints.last().unwrap().manifest.head(0));
    checkpoints.iter().for_each(|taken| feed(&mut fold, taken));
    let left = fold.finish().unwrap().state;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["a", "z"]);
}

#[test]
fn two_checkpoints_of_one_step_are_one() {
    let mut progress = Progress::begin(0, Instant::now());
    let first = take(&mut progress, vec![piece("a", "1"), piece("b", "1")], 1);
    let second = take(&mut progress, vec![piece("b", "2"), gone("a")], 2);
    let joined = first.join(second);
    assert!(joined.manifest.full);
    let mut fold = Fold::new(joined.manifest.head(0));
    feed(&mut fold, &joined);
    assert_eq!(fold.finish().unwrap().state, state(&[("b", "2")]));
}
