//! Time, runs, losses and room, record by record.

use std::collections::{BTreeMap, BTreeSet};

use super::holes::HOLES_MAX;
use super::host::RUNS_MAX;
use super::room::{HOST_BYTES_MAX, RESIDENTS_MAX};
use super::*;
use crate::checkpoint::{Renewal, State};

const S: i64 = SECOND_NS;

/// The log of partition 0.
const LOG: Partition = (Topic::Events, 0);

struct Tape(Hosts);

impl Tape {
    fn new() -> Self {
        Self(Hosts::new(Duration::from_secs(600), CLOCK_ERROR_MAX))
    }

    /// Takes a record of partition 0; times in seconds.
    fn take(
        &mut self,
        offset: i64,
        host: &str,
        run: &str,
        seq: i64,
        ts: i64,
        ingest: i64,
    ) -> Place {
        self.heard(offset, host, run, seq, ts, ingest, false)
    }

    #[expect(clippy::too_many_arguments, reason = "a record in a line")]
    fn heard(
        &mut self,
        offset: i64,
        host: &str,
        run: &str,
        seq: i64,
        ts: i64,
        ingest: i64,
        step: bool,
    ) -> Place {
        self.0.take(&Heard {
            log: LOG,
            offset,
            row: offset as u32,
            host_id: host,
            sensor_run: run,
            seq,
            ts: ts * S,
            ingest_ts: Some(ingest * S),
            clock_step: step,
        })
    }
}

fn moment(place: Place) -> Moment {
    match place {
        Place::New { moment, .. } => moment,
        Place::Repeated => panic!("repeated"),
    }
}

#[test]
fn what_was_sent_again_is_known_and_moves_nothing() {
    let mut log = Tape::new();
    moment(log.take(0, "host", "a", 7, 10, 10));
    moment(log.take(1, "host", "a", 8, 11, 11));
    assert_eq!(log.take(2, "host", "a", 7, 99, 99), Place::Repeated);
    assert_eq!(log.take(3, "host", "a", 8, 99, 99), Place::Repeated);
    assert_eq!(moment(log.take(4, "host", "b", 0, 12, 12)).high, 11 * S);
    let Place::New { missing, .. } = log.take(5, "host", "a", 12, 13, 13) else {
        panic!("repeated")
    };
    assert_eq!(missing, 3);
}

#[test]
fn time_is_the_hosts_own_and_never_the_future() {
    let mut log = Tape::new();
    let year = 365 * 86_400;
    assert_eq!(moment(log.take(0, "a", "r", 0, year, 100)).time, 100 * S);
    assert_eq!(moment(log.take(1, "b", "r", 0, 40, 101)).high, i64::MIN);
    let next = moment(log.take(2, "a", "r", 1, 90, 102));
    assert_eq!(
        (next.high, next.time, next.high_after),
        (100 * S, 90 * S, 100 * S)
    );
}

#[test]
fn a_step_back_begins_a_stretch_of_its_own() {
    let mut log = Tape::new();
    let before = moment(log.take(0, "a", "r", 0, 100, 100));
    let after = moment(log.heard(1, "a", "r", 1, 40, 101, true));
    assert_ne!(before.slot, after.slot);
    assert_eq!(after.high, i64::MIN);
    assert_eq!(
        log.0.ends(),
        [End {
            row: 1,
            slot: before.slot,
            kind: EndKind::Step {
                high: 40 * S,
                next: after.slot
            }
        }]
    );
    assert_eq!(&*log.0.owner(before.slot).segment, "");
    assert_eq!(&*log.0.owner(after.slot).segment, "r/1");
    // A new sensor a second behind is no step, one far behind is.
    let run = moment(log.take(2, "a", "s", 0, 39, 102));
    assert_eq!(run.slot, after.slot);
    assert_ne!(moment(log.take(3, "a", "t", 0, 10, 103)).slot, after.slot);
}

#[test]
fn a_silent_host_is_closed_once_by_the_others() {
    let mut log = Tape::new();
    let silent = moment(log.take(0, "a", "r", 0, 100, 100));
    log.take(1, "b", "r", 0, 100, 100);
    log.take(2, "b", "r", 1, 700, 700);
    assert_eq!(log.0.ends(), []);
    log.take(3, "b", "r", 2, 701, 701);
    log.take(4, "b", "r", 3, 702, 702);
    let kind = EndKind::Silence {
        flush_high: 100 * S,
    };
    assert_eq!(
        log.0.ends(),
        [End {
            row: 3,
            slot: silent.slot,
            kind
        }]
    );
    assert_eq!(
        moment(log.take(5, "a", "r", 1, 101, 703)).flush_high,
        100 * S
    );
}

#[test]
fn of_many_runs_the_one_not_heard_of_for_longest_is_forgotten() {
    let mut log = Tape::new();
    let runs = ["0", "1", "2", "3", "4", "5", "6", "7"];
    assert_eq!(runs.len(), RUNS_MAX);
    for (offset, run) in (0..).zip(runs) {
        log.take(offset, "a", run, 5, 100, 100);
    }
    log.take(8, "a", "0", 6, 100, 100);
    log.take(9, "a", "8", 0, 100, 100);
    for (offset, run) in (10..).zip(["0", "7", "6", "2"]) {
        assert_eq!(
            log.take(offset, "a", run, 5, 100, 100),
            Place::Repeated,
            "{run}"
        );
    }
    assert_ne!(log.take(20, "a", "1", 5, 100, 100), Place::Repeated);
}

/// The state after it was stored once more.
fn stored(log: &mut Tape, mut state: State, renewal: &Renewal) -> State {
    for record in log.0.store(0, renewal).expect("stored") {
        match record.value {
            Some(value) => drop(state.insert(record.key, value)),
            None => drop(state.remove(&record.key)),
        }
    }
    state
}

#[test]
fn only_pieces_whose_hosts_were_heard_of_are_written() {
    let mut log = Tape::new();
    let hosts = 3 * HOSTS_PER_PIECE as i64;
    for offset in 0..hosts {
        log.take(offset, &offset.to_string(), "r", 0, 100, 100);
    }
    let names = |log: &mut Tape, renewal: &[&str]| -> Vec<String> {
        let names = renewal.iter().map(|name| (*name).to_owned()).collect();
        let records = log.0.store(0, &Renewal::new(names, 1)).expect("stored");
        records.into_iter().map(|record| record.key).collect()
    };
    let all = [
        "log.events",
        "hosts.events/000000",
        "hosts.events/000001",
        "hosts.events/000002",
    ];
    assert_eq!(names(&mut log, &[]), all);
    assert_eq!(names(&mut log, &[]), all[..1]);
    log.take(hosts, "64", "r", 1, 100, 100);
    assert_eq!(names(&mut log, &[]), [all[0], all[2]]);
    assert_eq!(names(&mut log, &all[3..]), [all[0], all[3]]);
    // Silence changes them all.
    log.take(hosts + 1, "64", "r", 2, 900, 900);
    assert_eq!(names(&mut log, &[]), all);
}

#[test]
fn a_stored_task_goes_on_where_it_was() {
    let mut log = Tape::new();
    for (offset, host) in [(0, "a"), (1, "b"), (2, "c")] {
        log.take(offset, host, "r", 5, 100, 100);
    }
    log.0
        .note_losses(LOG, 2, 100 * S, Losses::from([("ring_full".into(), 3)]));
    let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
    let mut again = Tape::new();
    again.0.restore(0, &mut state).expect("restored");
    assert_eq!(again.take(3, "c", "r", 5, 101, 101), Place::Repeated);
    let holes = again.0.holes(LOG).expect("a hole");
    assert_eq!(holes.between(100 * S, 101 * S)["ring_full"], 3);
    assert_eq!(again.0.second(LOG), 100);
    let new = moment(again.take(4, "d", "r", 0, 101, 101));
    assert_eq!(new.slot, 3);
    assert_eq!(
        [1, 3].map(|slot| again.0.owner(slot).host_id),
        ["b".into(), "d".into()]
    );
}

#[test]
fn what_is_lost_is_known_at_every_row_of_a_batch() {
    let lost = |count| Losses::from([("ring_full".into(), count)]);
    let mut log = Tape::new();
    let slot = moment(log.take(0, "a", "r", 0, 100, 100)).slot;
    log.0.note_losses(LOG, 0, 100 * S, lost(3));
    log.0.begin_batch();
    log.take(1, "a", "r", 1, 101, 101);
    log.take(2, "a", "s", 0, 102, 102);
    log.take(3, "a", "r", 2, 103, 103);
    log.0.note_losses(LOG, 3, 103 * S, lost(5));
    // The clock is put back under a new run: its time has no hole yet.
    let next = moment(log.take(4, "a", "t", 0, 40, 104)).slot;
    let until = |slot, row| {
        let holes = log.0.holes_until(slot, row);
        let losses = holes.map(|holes| holes.between(i64::MIN, i64::MAX));
        losses.map_or(0, |losses| losses["ring_full"])
    };
    assert_eq!([1, 2, 3, 4].map(|row| until(slot, row)), [3, 3, 5, 5]);
    assert_ne!(next, slot);
    assert_eq!(until(next, 4), 0);
}

#[test]
fn a_window_misses_what_was_lost_in_it_and_nothing_else() {
    let mut log = Tape::new();
    let mut marks = 0;
    let mut mark = |at: i64, class: &str, count: i64| {
        log.take(marks, "a", "r", marks, at, at);
        log.0.note_losses(
            LOG,
            marks as u32,
            at * S,
            Losses::from([(class.into(), count)]),
        );
        marks += 1;
        let holes = log.0.holes(LOG).unwrap_or_default();
        move |from: i64, to: i64| holes.between(from * S, to * S).into_values().sum::<i64>()
    };
    let _ = mark(100, "ring_full", 0);
    let _ = mark(110, "ring_full", 5);
    let lost = mark(120, "ring_full", 5);
    assert_eq!(
        [
            lost(60, 100),
            lost(60, 101),
            lost(105, 106),
            lost(111, 120),
            lost(112, 120)
        ],
        [0, 5, 5, 5, 0]
    );
    // What the brokers did not take may be minutes old.
    let _ = mark(1_000, "ring_full", 5);
    let lost = mark(1_001, "delivery_failed", 2);
    assert_eq!(
        [lost(390, 400), lost(390, 401), lost(1_003, 1_010)],
        [0, 2, 0]
    );
    // A sensor that loses all the time has few holes, which hide nothing.
    let mut lost = lost;
    for at in 0..1_000 {
        lost = mark(2_000 + 10 * at, "ring_full", 6 + at);
    }
    assert_eq!(log.0.holes(LOG).expect("holes").len(), HOLES_MAX);
    assert_eq!(lost(0, 20_000), 5 + 2 + 1_005);
    assert!(lost(5_000, 5_010) > 0);
    assert_eq!(lost(112, 390), 0);
}

/// A log in which `known` hosts were heard of for two minutes, and its next offset.
fn settled(known: i64) -> (Tape, i64) {
    let mut log = Tape::new();
    for (round, second) in (0..3).zip([100, 160, 220]) {
        for host in 0..known {
            let offset = round * known + host;
            moment(log.take(offset, &format!("known-{host}"), "r", round, second, second));
        }
    }
    (log, 3 * known)
}

#[test]
fn a_flood_of_invented_hosts_forgets_none_that_lives() {
    let (mut log, first) = settled(12);
    let slots = |log: &Tape| -> Vec<i64> {
        let task = log.0.log(LOG).unwrap();
        let known = (0..12).map(|host| task.by_id[&*format!("known-{host}")]);
        known
            .map(|index| i64::from(task.hosts[index].slot))
            .collect()
    };
    let before = slots(&log);
    let mut told = Vec::new();
    for number in 0..20_000 {
        log.0.begin_batch();
        log.take(
            first + number,
            &format!("invented-{number}"),
            "r",
            0,
            221,
            221,
        );
        told.extend(log.0.take_forgotten());
        assert!(log.0.log(LOG).unwrap().hosts.len() <= HOSTS_MAX);
    }
    assert_eq!(slots(&log), before);
    // It is told at once, and then once an hour.
    assert_eq!(told.len(), 1);
    let next = log.take(first + 20_000, "known-3", "r", 3, 222, 222);
    assert_eq!(moment(next).high, 220 * S);
}

#[test]
fn a_forgotten_host_that_comes_back_is_another_and_misses_what_it_was() {
    let mut log = Tape::new();
    for number in 0..HOSTS_MAX as i64 {
        log.take(number, &format!("guest-{number}"), "r", 0, 100, 100);
    }
    log.0.begin_batch();
    log.take(HOSTS_MAX as i64, "one-more", "r", 0, 101, 101);
    let first = slot(0, 0);
    let end = End {
        row: HOSTS_MAX as u32,
        slot: first,
        kind: EndKind::Silence {
            flush_high: 100 * S,
        },
    };
    assert!(log.0.ends().contains(&end));
    let missed = |holes: Option<Arc<Holes>>, from: i64, to: i64| {
        let losses = holes.unwrap_or_default().between(from * S, to * S);
        losses.contains_key("host_forgotten")
    };
    assert_eq!(&*log.0.owner(first).host_id, "guest-0");
    assert!(missed(log.0.holes_until(first, HOSTS_MAX as u32), 90, 110));
    let back = moment(log.take(HOSTS_MAX as i64 + 1, "guest-0", "s", 7, 105, 105));
    let owner = log.0.owner(back.slot);
    assert_eq!(&*owner.segment, "s/7");
    assert!(missed(owner.holes.clone(), 90, 110));
    assert!(!missed(owner.holes, 101, 110));
}

#[test]
fn the_silent_go_first_and_residents_leave_room_to_become_known() {
    let mut log = Tape::new();
    let mut offset = 0;
    let mut hear = |log: &mut Tape, name: String, second: i64| {
        log.take(offset, &name, "r", offset, second, second);
        offset += 1;
    };
    for second in [100, 161] {
        for number in 0..HOSTS_MAX {
            hear(&mut log, format!("old-{number}"), second);
        }
    }
    assert_eq!(log.0.log(LOG).unwrap().residents, RESIDENTS_MAX);
    // All but a few fall silent: those make room, and none of the few.
    for second in [700, 800] {
        for number in 0..10 {
            hear(&mut log, format!("old-{number}"), second);
        }
    }
    for number in 0..2_000 {
        hear(&mut log, format!("new-{number}"), 801);
    }
    let task = log.0.log(LOG).unwrap();
    assert!((0..10).all(|number| task.by_id.contains_key(&*format!("old-{number}"))));
    assert!((0..2_000).all(|number| task.by_id.contains_key(&*format!("new-{number}"))));
    assert_eq!(task.forgotten, 0);
    assert!(log.0.take_forgotten().is_empty());
}

#[test]
fn more_residents_than_may_be_are_cut_to_those_heard_of_last() {
    let mut log = Tape::new();
    for offset in 0..HOSTS_MAX as i64 {
        log.take(offset, &offset.to_string(), "r", 0, 100, 100);
    }
    // An earlier version let all of them stay.
    let hosts = log.0.log_mut(LOG).expect("the log").hosts.iter_mut();
    hosts.for_each(|host| host.resident = true);
    let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
    let mut again = Tape::new();
    again.0.restore(0, &mut state).expect("restored");
    let task = again.0.log(LOG).expect("the log");
    assert_eq!(task.residents, RESIDENTS_MAX);
    let beyond = HOSTS_MAX - RESIDENTS_MAX;
    let mut hosts = task.hosts.iter().enumerate();
    assert!(hosts.all(|(index, host)| host.resident == (index >= beyond)));
    assert_eq!(task.changed.len(), beyond.div_ceil(HOSTS_PER_PIECE));
}

/// The most that a sensor may say of itself, everything at its longest.
#[test]
fn a_host_has_a_bound_in_bytes_whatever_it_says() {
    let mut log = Tape::new();
    let long = |letter: char, length: usize| letter.to_string().repeat(length);
    let host = long('h', 256);
    for mark in 0..400_i64 {
        let run = format!("{:03}{}", mark % 12, long('r', 253));
        let second = 100 + 10 * mark;
        log.take(mark, &host, &run, mark, second, second);
        log.0.note_name(LOG, &long('n', 256));
        let class = |number| {
            let name = format!("{mark:03}{number:02}{}", long('c', CLASS_BYTES_MAX - 5));
            (Text::from(name), i64::MAX)
        };
        let losses = (0..CLASSES_MAX).map(class).collect();
        log.0.note_losses(LOG, mark as u32, second * S, losses);
        let host = &log.0.log(LOG).unwrap().hosts[0];
        assert!(host.bytes() <= HOST_BYTES_MAX, "{}", host.bytes());
        assert!(!host.runs.is_empty());
    }
    // What was lost is still known, and that it was of many kinds.
    let losses = log.0.holes(LOG).expect("holes").between(0, i64::MAX);
    assert!(losses.contains_key("other") && losses.len() <= CLASSES_MAX + 1);
}

/// What is known of holes at a row does not depend on which rows come in one batch with it.
#[test]
fn a_new_run_that_leaves_less_room_for_holes_changes_none_of_before() {
    let mut log = Tape::new();
    let mut slot = 0;
    for mark in 0..400_i64 {
        let second = 100 + 10 * mark;
        slot = moment(log.take(mark, "h", "r", mark, second, second)).slot;
        let class = |number| (Text::from(format!("class {number}")), mark + 1);
        log.0
            .note_losses(LOG, mark as u32, second * S, (0..8).map(class).collect());
    }
    let before = log.0.holes(LOG);
    log.take(400, "h", &"n".repeat(256), 0, 4_100, 4_100);
    let after = log.0.holes(LOG);
    assert_ne!(before, after);
    assert_eq!(log.0.holes_until(slot, 399), before);
    assert_eq!(log.0.holes_until(slot, 400), after);
}

/// As many hosts as there may be, each of which says the most that it can.
#[test]
fn hosts_keep_to_their_bytes_however_many_there_are() {
    let mut log = Tape::new();
    let long = |number: i64, letter: char, length: usize| {
        format!("{number:05}{}", letter.to_string().repeat(length - 5))
    };
    let mut offset = 0;
    for round in 0..3_i64 {
        for number in 0..HOSTS_MAX as i64 {
            let (host, run) = (long(number, 'h', 256), long(number, 'r', 256));
            let second = 100 + round;
            log.take(offset, &host, &run, round, second, second);
            log.0.note_name(LOG, &long(number, 'n', 256));
            log.0.note_boot(LOG, &long(number, 'b', 36));
            let class = |place: usize| {
                let name = long(place as i64, 'c', CLASS_BYTES_MAX);
                (Text::from(name), 10 * (round + 1))
            };
            let losses = (0..CLASSES_MAX).map(class).collect();
            log.0.note_losses(LOG, offset as u32, second * S, losses);
            offset += 1;
        }
    }
    let task = log.0.log(LOG).unwrap();
    assert_eq!(task.hosts.len(), HOSTS_MAX);
    let bytes: usize = task.hosts.iter().map(Host::bytes).sum();
    assert!(bytes <= HOSTS_BYTES_MAX, "{bytes}");
    // All that was lost is counted, though nobody knows of which class.
    let all = 30 * CLASSES_MAX as i64;
    for host in &task.hosts {
        let losses = host.holes.as_ref().unwrap().between(0, i64::MAX);
        assert_eq!(losses, Losses::from([("other".into(), all)]));
    }
}

/// Fleets as they are keep where events are lost.
#[test]
fn a_crowd_of_plain_hosts_keeps_its_holes() {
    let mut log = Tape::new();
    let mut offset = 0;
    for round in 0..10_i64 {
        for number in 0..4_000_i64 {
            let host = format!("4c4c4544-0034-4a10-8057-{number:012}");
            let (run, second) = (format!("{number:036}"), 100 + 10 * round);
            log.take(offset, &host, &run, round, second, second);
            let lost = ["ring_full", "rate_limited", "queue_full"];
            let losses = lost.map(|class| (class.into(), round + 1));
            log.0
                .note_losses(LOG, offset as u32, second * S, losses.into());
            offset += 1;
        }
    }
    let task = log.0.log(LOG).unwrap();
    for host in &task.hosts {
        let holes = host.holes.as_ref().unwrap();
        assert_eq!(holes.len(), 10);
        assert_eq!(holes.between(0, i64::MAX)["ring_full"], 10);
    }
}

#[test]
fn who_stays_is_stored() {
    let (mut log, first) = settled(2);
    let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
    let mut again = Tape::new();
    again.0.restore(0, &mut state).expect("restored");
    for log in [&mut log, &mut again] {
        for number in 0..HOSTS_MAX as i64 {
            log.take(
                first + number,
                &format!("invented-{number}"),
                "r",
                0,
                221,
                221,
            );
        }
        let task = log.0.log(LOG).unwrap();
        assert_eq!(task.residents, 2);
        assert!(task.by_id.contains_key("known-0"));
    }
    let ids =
        |log: &Tape| -> BTreeSet<Text> { log.0.log(LOG).unwrap().by_id.keys().cloned().collect() };
    assert_eq!(ids(&log), ids(&again));
}

/// A task reads two topics: one host sends to both, with counts, offsets and times of their own.
#[test]
fn topics_of_a_task_know_nothing_of_one_another() {
    const OTHER: Partition = (Topic::Sensors, 0);
    let heard = |log: Partition, offset: i64, host_id: &'static str, seq: i64, second: i64| Heard {
        log,
        offset,
        row: offset as u32,
        host_id,
        sensor_run: "r",
        seq,
        ts: second * S,
        ingest_ts: Some(second * S),
        clock_step: false,
    };
    let mut log = Tape::new();
    let events = moment(log.0.take(&heard(LOG, 70, "a", 5, 100)));
    let others = moment(log.0.take(&heard(OTHER, 3, "a", 5, 900)));
    // The same number at a later offset is no repeat, a later second closes nothing, a later time is not the host's.
    assert_ne!(events.slot, others.slot);
    assert_eq!((others.high, log.0.ends().len()), (i64::MIN, 0));
    let next = moment(log.0.take(&heard(LOG, 71, "b", 0, 101)));
    let lost = Losses::from([("ring_full".into(), 3)]);
    log.0.note_losses(OTHER, 3, 900 * S, lost);
    let mut state = stored(&mut log, BTreeMap::new(), &Renewal::default());
    let names: Vec<&str> = state.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "hosts.events/000000",
            "hosts.sensors/000000",
            "log.events",
            "log.sensors"
        ]
    );
    let mut again = Tape::new();
    again.0.restore(0, &mut state).expect("restored");
    assert!(state.is_empty());
    for tape in [&mut log, &mut again] {
        let Tape(hosts) = tape;
        hosts.begin_batch();
        assert_eq!([LOG, OTHER].map(|log| hosts.second(log)), [101, 900]);
        let slots = [events, others, next].map(|moment| moment.slot);
        assert_eq!(
            slots.map(|slot| hosts.log_of(slot)),
            [Some(LOG), Some(OTHER), Some(LOG)]
        );
        assert_eq!(
            slots.map(|slot| hosts.high(slot)),
            [100 * S, 900 * S, 101 * S]
        );
        let holes = slots.map(|slot| hosts.owner(slot).holes.is_some());
        assert_eq!(holes, [false, true, false]);
        assert_eq!(hosts.slots(0).len(), 3);
        // What one of them has had, the other has not.
        assert_eq!(hosts.take(&heard(LOG, 72, "a", 5, 102)), Place::Repeated);
        let new = moment(hosts.take(&heard(OTHER, 4, "a", 6, 901)));
        assert_eq!((new.slot, new.high), (others.slot, 900 * S));
        let first = moment(hosts.take(&heard(OTHER, 5, "b", 0, 901)));
        assert_eq!(first.slot, 3, "no two have one number");
    }
}

/// What was found of hosts, each with its row's second.
fn found(log: &mut Tape) -> Vec<(i64, Presence)> {
    let found = log.0.take_findings().into_iter();
    found.map(|found| (found.second, found.what)).collect()
}

/// The same as it comes back after a restart.
fn restarted(log: &mut Tape) -> Tape {
    let anew = Renewal::default();
    let records = log.0.store(0, &anew).expect("stored");
    let pieces = records.into_iter();
    let mut state: State = pieces
        .filter_map(|piece| Some((piece.key, piece.value?)))
        .collect();
    let mut again = Tape::new();
    again.0.restore(0, &mut state).expect("restored");
    again
}

/// Has hosts heard of every 30 seconds up to a time, each with a count of its own.
fn every_half_minute(log: &mut Tape, hosts: &[&str], from: i64, to: i64) {
    for second in (from..to).step_by(30) {
        for (place, host) in (0..).zip(hosts) {
            log.take(second * 10 + place, host, "r", second, second, second);
        }
    }
}

#[test]
fn a_host_that_stops_reporting_is_told_once_and_told_when_it_is_back() {
    let mut log = Tape::new();
    every_half_minute(&mut log, &["a", "b"], 0, 91);
    every_half_minute(&mut log, &["b"], 120, 690);
    assert_eq!(found(&mut log), []);
    // A restart knows as much.
    let mut log = restarted(&mut log);
    every_half_minute(&mut log, &["b"], 690, 900);
    let last = 90 * S;
    assert_eq!(found(&mut log), [(720, Presence::Silent { last })]);
    let mut log = restarted(&mut log);
    every_half_minute(&mut log, &["b"], 900, 990);
    assert_eq!(found(&mut log), []);
    every_half_minute(&mut log, &["a"], 1_000, 1_060);
    assert_eq!(found(&mut log), [(1_000, Presence::Back { last })]);
}

#[test]
fn where_nobody_wrote_nobody_was_silent() {
    let mut log = Tape::new();
    every_half_minute(&mut log, &["a", "b", "c"], 0, 91);
    // The brokers were away for an hour: who comes back within a minute was not silent.
    every_half_minute(&mut log, &["a"], 3_600, 3_640);
    every_half_minute(&mut log, &["b"], 3_650, 3_655);
    every_half_minute(&mut log, &["a"], 3_660, 3_690);
    let silent = Presence::Silent { last: 90 * S };
    assert_eq!(found(&mut log), [(3_660, silent)], "c alone");
}

#[test]
fn marks_of_a_processor_show_that_a_host_is_silent_and_a_passing_one_is_none() {
    let mut log = Tape::new();
    every_half_minute(&mut log, &["a"], 0, 91);
    every_half_minute(&mut log, &["guest"], 60, 61);
    assert!(log.0.watches(LOG));
    for mark in 0..5 {
        let second = 692 + 60 * mark;
        log.take(second * 10, PROCESSOR, "m", mark, second, second);
    }
    let last = 90 * S;
    assert_eq!(found(&mut log), [(752, Presence::Silent { last })]);
    assert!(!log.0.watches(LOG), "nobody is left to wait for");
}

#[test]
fn two_sensors_under_one_id_are_told_once_and_a_restarted_one_is_none() {
    let mut log = Tape::new();
    for second in 0..90 {
        for (place, run) in (0..).zip(["x", "y"]) {
            log.take(second * 10 + place, "host", run, second, second, second);
            log.0.note_boot(LOG, &format!("boot of {run}"));
        }
    }
    let run = |name: &str| (name.into(), format!("boot of {name}").into());
    let twins = Presence::Twins([run("x"), run("y")]);
    assert_eq!(found(&mut log), [(21, twins)]);
    // What a run left behind comes after the first rows of the next.
    let mut log = Tape::new();
    for (offset, run, seq) in [(0, "x", 0), (1, "y", 0), (2, "x", 1), (3, "y", 1)] {
        log.take(offset, "host", run, seq, 5, 5);
    }
    for second in 6..200 {
        log.take(10 + second, "host", "y", second, second, second);
    }
    assert_eq!(found(&mut log), []);
}

#[test]
fn rows_that_never_came_are_a_hole_of_their_host() {
    let mut log = Tape::new();
    log.take(0, "a", "r", 0, 100, 100);
    log.take(1, "a", "r", 4, 105, 105);
    let lost = |log: &Tape, from: i64, to: i64| {
        let holes = log.0.holes(LOG).unwrap_or_default();
        holes.between(from * S, to * S)
    };
    let missing = Losses::from([("missing".into(), 3)]);
    assert_eq!(lost(&log, 90, 101), missing);
    assert_eq!(lost(&log, 105, 110), missing);
    assert_eq!(lost(&log, 106, 110), Losses::new());
    log.take(2, "b", "r", 0, 105, 105);
    assert_eq!(
        lost(&log, 0, 200),
        Losses::new(),
        "another host misses none"
    );
}

#[test]
fn input_that_was_not_seen_is_a_hole_of_all_hosts_until_they_are_heard_of() {
    let mut log = Tape::new();
    log.take(0, "a", "r", 0, 100, 100);
    log.0.miss(LOG, Unseen::Expired(7));
    let mut log = restarted(&mut log);
    let lost = |log: &Tape, from: i64, to: i64| {
        let holes = log.0.holes(LOG).unwrap_or_default();
        holes.between(from * S, to * S)
    };
    let expired = Losses::from([("expired".into(), 7)]);
    log.take(9, "a", "r", 1, 160, 160);
    assert_eq!(lost(&log, 40, 100), Losses::new());
    assert_eq!(lost(&log, 40, 101), expired);
    assert_eq!(lost(&log, 160, 220), expired);
    assert_eq!(lost(&log, 161, 220), Losses::new());
    // One that comes later may have been there before.
    log.take(10, "b", "r", 5, 170, 170);
    assert_eq!(lost(&log, 120, 180), expired);
    assert_eq!(lost(&log, 161, 180), Losses::new());
}
