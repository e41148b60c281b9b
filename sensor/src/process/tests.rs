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
    );
    process.parent = parent;
    process
}

fn table(capacity: usize) -> ProcessTable {
    ProcessTable::new(capacity, Duration::from_secs(1))
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
