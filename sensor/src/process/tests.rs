//! The table under forks, ends, reused pids and its bound.

use super::*;
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;

fn process(pid: u32, start_ns: u64, parent: Option<Id>) -> Process {
    let mut process = Process::new(
        Id::new(pid, start_ns),
        format!("key{pid}").into(),
        start_ns,
        0,
        0,
        1,
        Place::Host,
    );
    process.parent = parent;
    process
}

fn table(processes_max: usize) -> ProcessTable {
    bounded(processes_max, 1 << 30)
}

fn bounded(processes_max: usize, bytes_max: usize) -> ProcessTable {
    ProcessTable::new(TableBounds {
        processes_max,
        bytes_max,
        keep_after_exit: Duration::from_secs(1),
    })
}

/// A chain of processes, pid 1 first, each the child of the one before.
fn chain(table: &mut ProcessTable, length: u32) -> Vec<Id> {
    let mut ids: Vec<Id> = Vec::new();
    for pid in 1..=length {
        let next = process(pid, u64::from(pid) * SECOND_NS, ids.last().copied());
        ids.push(next.id);
        table.insert(next);
    }
    ids
}

fn ancestor_pids(table: &ProcessTable, id: Id) -> Vec<u32> {
    table
        .ancestors(table.find(id).unwrap())
        .map(|ancestor| ancestor.id.pid)
        .collect()
}

#[test]
fn ancestors_come_parent_first_and_end_at_eight() {
    let mut table = table(100);
    let ids = chain(&mut table, 12);
    assert_eq!(ancestor_pids(&table, ids[11]), [11, 10, 9, 8, 7, 6, 5, 4]);
    assert_eq!(ancestor_pids(&table, ids[1]), [1]);
}

#[test]
fn a_pid_used_again_is_another_process() {
    let mut table = table(100);
    let first = process(7, 0, None);
    let id = first.id;
    table.insert(first);
    table.insert(process(7, 5 * SECOND_NS, None));
    assert!(table.find(id).is_none());
    assert!(table.find(Id::new(7, 5 * SECOND_NS)).is_some());
}

#[test]
fn the_ended_stay_for_a_second() {
    let mut table = table(100);
    let ids = chain(&mut table, 1);
    table.exit(ids[0], 10 * SECOND_NS);
    table.reap(10 * SECOND_NS + SECOND_NS / 2);
    assert!(table.find(ids[0]).is_some());
    table.reap(11 * SECOND_NS);
    assert!(table.find(ids[0]).is_none());
}

#[test]
fn lineage_survives_the_parents_death_and_ends_with_the_children() {
    let mut table = table(100);
    let ids = chain(&mut table, 3);
    table.exit(ids[0], SECOND_NS);
    table.exit(ids[1], SECOND_NS);
    table.reap(60 * SECOND_NS);
    assert_eq!(ancestor_pids(&table, ids[2]), [2, 1]);
    table.exit(ids[2], 60 * SECOND_NS);
    table.reap(62 * SECOND_NS);
    assert_eq!(table.len(), 0);
}

#[test]
fn a_session_leader_is_not_younger_than_its_session() {
    let mut table = table(100);
    let mut member = process(9, 9 * SECOND_NS, None);
    member.sid = Some(5);
    table.insert(process(5, 5 * SECOND_NS, None));
    assert_eq!(
        table.session_leader(&member).map(|leader| leader.id.pid),
        Some(5)
    );
    table.insert(process(5, 10 * SECOND_NS, None));
    assert!(table.session_leader(&member).is_none());
}

proptest! {
    /// Whatever happens, the bound holds, and after all have ended nothing is left behind.
    #[test]
    fn the_bound_holds_and_nothing_leaks(steps in proptest::collection::vec((1u32..40, 1u32..40, any::<bool>()), 1..300)) {
        let mut table = table(16);
        let mut now_ns = SECOND_NS;
        for (pid, parent, exits) in steps {
            now_ns += SECOND_NS / 4;
            if exits {
                if let Some(id) = table.with_pid(pid).map(|process| process.id) {
                    table.exit(id, now_ns);
                }
            } else {
                let parent = table.with_pid(parent).map(|process| process.id);
                table.insert(process(pid, now_ns, parent));
            }
            table.reap(now_ns);
            prop_assert!(table.len() <= 16);
        }
        let ids: Vec<Id> = (1..40).filter_map(|pid| table.with_pid(pid).map(|process| process.id)).collect();
        for id in ids {
            table.exit(id, now_ns);
        }
        table.reap(now_ns + 2 * SECOND_NS);
        prop_assert_eq!(table.len(), 0);
    }
}

fn in_container(mut process: Process, name: &str) -> Process {
    process.place = Place::Container(name.into());
    process
}

fn with_line(mut process: Process, bytes: usize) -> Process {
    process.program = Some(Arc::new(Program::new(&["x".repeat(bytes).into()])));
    process
}

#[test]
fn who_uses_most_of_the_memory_loses_first() {
    let mut table = bounded(100_000, 256 << 10);
    for pid in 1..=20 {
        table.insert(in_container(process(pid, 0, None), "small"));
    }
    for pid in 100..5_100 {
        let flood = with_line(process(pid, 0, None), 4_000);
        table.insert(in_container(flood, "large"));
        assert!(table.shares.bytes() <= 256 << 10);
    }
    let kept = (1..=20).filter(|&pid| table.with_pid(pid).is_some());
    assert_eq!(kept.count(), 20);
    assert!(table.len() > 40, "{}", table.len());
    assert_eq!(table.living_evicted, 5_020 - table.len() as u64);
}

#[test]
fn the_ended_go_first_and_who_is_heard_of_last() {
    let mut table = table(64);
    for pid in 1..=64 {
        table.insert(process(pid, 0, None));
    }
    table.exit(Id::new(60, 0), SECOND_NS);
    table.with_pid(1).unwrap().hear();
    table.insert(process(100, 0, None));
    assert!(table.with_pid(60).is_none());
    assert!(table.with_pid(1).is_some(), "heard of");
    assert!(table.with_pid(2).is_none(), "the oldest of the others");
    assert!(table.with_pid(100).is_some());
}

#[test]
fn whoever_just_came_in_and_parents_of_the_living_stay() {
    let mut table = table(64);
    let ids = chain(&mut table, 64);
    let last = process(1_000, 65 * SECOND_NS, Some(ids[63]));
    let id = last.id;
    table.insert(last);
    assert_eq!(ancestor_pids(&table, id)[..2], [64, 63]);
    let mut other = bounded(64, 1_000);
    other.insert(with_line(process(1, 0, None), 4_000));
    other.insert(with_line(process(2, 0, None), 4_000));
    assert!(other.with_pid(1).is_none() && other.with_pid(2).is_some());
}

#[test]
fn who_was_given_up_is_known_again() {
    let mut table = table(64);
    let mut first = in_container(process(1, 0, None), "a");
    first.stage = Some(Stage::Healthcheck);
    let id = first.id;
    table.insert(first);
    for pid in 2..=65 {
        table.insert(in_container(process(pid, 0, None), "a"));
    }
    assert!(table.find(id).is_none());
    assert!(table.revive(id, "key".into()));
    let known = table.find(id).unwrap();
    assert_eq!(known.stage, Some(Stage::Healthcheck));
    assert_eq!(known.place, Place::Container("a".into()));
    assert!(!table.revive(Id::new(1_000, 0), "key".into()));
}

#[test]
fn a_program_is_held_once_for_all_that_share_it() {
    let mut table = bounded(100_000, 1 << 30);
    let parent = with_line(process(1, 0, None), 4_000);
    let id = parent.id;
    table.insert(parent);
    let one = table.shares.bytes();
    for pid in 2..=101 {
        let parent = table.find(id).unwrap();
        let child = parent.child(Id::new(pid, 0), "k".into(), 0, 1);
        table.insert(child);
    }
    assert_eq!(table.shares.bytes() - one, 100 * PROCESS_BYTES);
    table.exit(id, SECOND_NS);
    for pid in 2..=101 {
        table.exit(Id::new(pid, 0), SECOND_NS);
    }
    table.reap(60 * SECOND_NS);
    assert_eq!((table.len(), table.shares.bytes()), (0, 0));
}

#[test]
fn arguments_are_kept_as_one_line_and_told_apart() {
    let check = |arguments: &[&str], line: &str, cut: bool| {
        let arguments: Vec<Text> = arguments.iter().map(|&argument| argument.into()).collect();
        let program = Program::new(&arguments);
        assert_eq!(program.cmdline.as_deref(), Some(line));
        assert_eq!(program.cut, cut);
        let args = program.args().unwrap();
        if !cut {
            assert_eq!(args, arguments.get(1..).unwrap_or_default());
        }
        args
    };
    check(&[], "", false);
    check(&["a"], "a", false);
    check(&["a", "", "b c", ""], "a  b c ", false);
    let long = "ü".repeat(3_000);
    let args = check(&["a", &long], &format!("a {}", "ü".repeat(2_047)), true);
    assert_eq!(args[0].len(), 4_094);
    let many = vec!["x"; 30_000];
    let args = check(&many, "x ".repeat(2_048).trim_end(), true);
    assert_eq!(args.len(), 2_047);
    assert!(Program::new(&vec!["x".into(); 30_000]).bytes() < 3 * CMDLINE_BYTES_MAX);
}

proptest! {
    /// Whatever happens in however many containers, bytes and accounts agree with what is there.
    #[test]
    fn accounts_agree_with_the_table(
        steps in proptest::collection::vec((1u32..60, 1u32..60, 0u8..6, 0usize..4_000), 1..400)
    ) {
        let bytes_max = 40 << 10;
        let mut table = bounded(40, bytes_max);
        let mut now_ns = SECOND_NS;
        for (pid, other, what, bytes) in steps {
            // Some are made in the same tick.
            now_ns += if bytes % 3 == 0 { SECOND_NS / 7 } else { 1_000 };
            let known = table.with_pid(pid).map(|process| process.id);
            let parent = table.with_pid(other).map(|process| process.id);
            let place = Place::Container(format!("c{}", other % 3).into());
            match (what, known) {
                (0, Some(id)) => table.exit(id, now_ns),
                (1, Some(id)) => {
                    let line = Text::from("x".repeat(bytes));
                    table.update(id, |process| process.program = Some(Arc::new(Program::new(&[line]))));
                }
                (2, Some(id)) => _ = table.update(id, |process| process.place = place),
                // Whoever is said to have made it, itself and its children included.
                (3, Some(id)) => {
                    table.update(id, |process| process.parent = parent.or(process.parent));
                }
                _ => {
                    let mut next = with_line(process(pid, now_ns, parent), bytes);
                    next.place = place;
                    // A known process is changed, not taken in again; of one pid and tick there is one.
                    if known != Some(next.id) {
                        table.insert(next);
                    }
                }
            }
            table.reap(now_ns);
            prop_assert!(table.len() <= 40);
            prop_assert!(table.shares.bytes() <= bytes_max);
            let programs = table.by_pid.values().map(|process| {
                PROCESS_BYTES + process.program.as_ref().map_or(0, |program| program.bytes())
            });
            prop_assert_eq!(programs.sum::<usize>(), table.shares.bytes());
            for process in table.by_pid.values() {
                prop_assert!(table.ancestors(process).all(|ancestor| ancestor.id != process.id));
            }
        }
        let ids: Vec<Id> = table.by_pid.values().map(|process| process.id).collect();
        for id in ids {
            table.exit(id, now_ns);
        }
        table.reap(now_ns + 2 * SECOND_NS);
        table.reap(now_ns + 2 * SECOND_NS);
        prop_assert_eq!((table.len(), table.shares.bytes()), (0, 0));
    }
}

#[test]
fn nobody_is_made_by_a_descendant_or_a_younger_one() {
    let mut table = table(100);
    // All of one tick.
    for pid in 1..=3 {
        let parent = (pid > 1).then(|| Id::new(pid - 1, SECOND_NS));
        table.insert(process(pid, SECOND_NS + u64::from(pid), parent));
    }
    let [first, second, third] = [1, 2, 3].map(|pid| Id::new(pid, SECOND_NS));
    for made_by in [first, second, third, Id::new(9, 2 * SECOND_NS)] {
        table.update(first, |process| process.parent = Some(made_by));
        assert_eq!(table.find(first).unwrap().parent, None);
    }
    table.update(third, |process| process.parent = Some(first));
    assert_eq!(ancestor_pids(&table, third), [1]);
    table.insert(process(4, SECOND_NS, Some(Id::new(4, SECOND_NS))));
    table.insert(process(5, SECOND_NS, Some(Id::new(9, 2 * SECOND_NS))));
    assert_eq!(table.with_pid(5).unwrap().parent, None);
    for pid in 1..=5 {
        table.exit(Id::new(pid, SECOND_NS), SECOND_NS);
    }
    table.reap(60 * SECOND_NS);
    assert_eq!((table.len(), table.shares.bytes()), (0, 0));
}
