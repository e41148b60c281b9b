//! Rounds over openings that are made up.

use dogwatch_ebpf::record::SocketAddresses;

use super::super::opened::ROWS_MAX;
use super::*;
use crate::busiest::OF_ONE_MAX;

const SECOND_NS: u64 = 1_000_000_000;

fn file(opening: u64, pid: u32, position: i64) -> OpenFile {
    OpenFile {
        file: opening,
        ino: 7,
        pid,
        position,
        share: 3,
        ..OpenFile::default()
    }
}

fn tcp(opening: u64, state: u16, received: u64) -> OpenFile {
    OpenFile {
        ino: opening,
        socket: Some(SocketAddresses {
            local_port: 80,
            ..SocketAddresses::default()
        }),
        state,
        received,
        segments_in: received as u32,
        ..file(opening, 10, 0)
    }
}

/// One round; its rows by process.
fn round(openings: &mut Openings, second: u64, seen: &[OpenFile]) -> Rows {
    openings.begin(second * SECOND_NS);
    seen.iter().for_each(|file| openings.see(file));
    let mut rows = openings.end(LeftOut::default()).0;
    rows.sort_by_key(|row| (row.first.pid, row.first.ino));
    rows
}

fn forward(rows: &[Box<Row>]) -> Vec<Option<i64>> {
    rows.iter().map(|row| row.growth.forward).collect()
}

#[test]
fn what_was_there_before_the_sensor_has_no_growth_and_what_is_new_has_all() {
    let mut openings = Openings::default();
    assert_eq!(openings.begin(SECOND_NS), None);
    let rows = round(&mut openings, 1, &[file(1, 10, 100)]);
    assert_eq!(forward(&rows), [None]);
    assert_eq!(openings.begin(3 * SECOND_NS), Some(2 * SECOND_NS));
    let rows = round(&mut openings, 3, &[file(1, 10, 150), file(2, 11, 30)]);
    assert_eq!(forward(&rows), [Some(50), Some(30)]);
}

#[test]
fn only_what_moved_is_told_and_all_once_a_minute() {
    let mut openings = Openings::default();
    let seen = [file(1, 10, 100), file(2, 11, 5)];
    assert_eq!(round(&mut openings, 1, &seen).len(), 2);
    assert!(round(&mut openings, 2, &seen).is_empty());
    let rows = round(&mut openings, 3, &[file(1, 10, 101), file(2, 11, 5)]);
    assert_eq!((rows.len(), rows[0].first.pid), (1, 10));
    let rows = round(&mut openings, 61, &[file(1, 10, 101), file(2, 11, 5)]);
    assert_eq!((rows.len(), rows[0].first.pid), (1, 11));
}

#[test]
fn openings_of_a_file_are_one_row_and_what_is_shared_is_told_once() {
    let mut openings = Openings::default();
    round(&mut openings, 1, &[]);
    let seen = [
        file(1, 10, 100),
        file(2, 10, 20),  // opened once more
        file(1, 10, 100), // by dup
        file(1, 11, 100), // by fork
        file(1, 11, 100),
        file(1, 12, 100),
    ];
    let rows = round(&mut openings, 2, &seen);
    assert_eq!(forward(&rows), [Some(120)]);
    assert_eq!((rows[0].openings, rows[0].holders), (2, 3));
}

#[test]
fn what_goes_back_appends_or_was_left_out_is_not_known() {
    let mut openings = Openings::default();
    round(&mut openings, 1, &[file(1, 10, 100)]);
    let appending = OpenFile {
        flags: (libc::O_WRONLY | libc::O_APPEND) as u32,
        ..file(2, 11, 1_000)
    };
    let rows = round(&mut openings, 62, &[file(1, 10, 40), appending.clone()]);
    assert_eq!(forward(&rows), [None, None]);
    let appended = OpenFile {
        position: 1_010,
        ..appending
    };
    openings.begin(63 * SECOND_NS);
    openings.see(&appended);
    let left_out = LeftOut {
        shares: [(3, 1)].into(),
        any: false,
    };
    let rows = openings.end(left_out).0;
    assert_eq!(forward(&rows), [Some(10)]);
    let rows = round(&mut openings, 64, &[file(9, 12, 500)]);
    assert_eq!(forward(&rows), [None], "it may have been there");
}

#[test]
fn sockets_grow_by_their_counters_and_listeners_say_their_ports() {
    let mut openings = Openings::default();
    round(&mut openings, 1, &[tcp(1, 1, u64::from(u32::MAX))]);
    openings.begin(2 * SECOND_NS);
    let listening = OpenFile {
        backlog: 3,
        dropped: 2,
        net_ns: 5,
        ..tcp(2, LISTENING, 0)
    };
    let now = tcp(1, 1, u64::from(u32::MAX) + 11);
    [now, listening].iter().for_each(|file| openings.see(file));
    let mut rows = openings.end(LeftOut::default()).0;
    rows.sort_by_key(|row| row.first.ino);
    assert_eq!(rows[0].growth.rx_bytes, Some(11));
    assert_eq!(rows[0].growth.rx_segments, Some(11), "its 32 bits are over");
    assert_eq!(rows[1].growth.refused, Some(2));
    assert_eq!(rows[1].growth.rx_bytes, None);
    let is_server: Vec<_> = rows.iter().map(|row| row.is_server).collect();
    assert_eq!(is_server, [false, true], "in another network namespace");
}

#[test]
fn a_connection_came_to_its_listener_also_when_that_is_closed() {
    let mut openings = Openings::default();
    let with_remote = |opening, received, remote_port| {
        let mut file = tcp(opening, 1, received);
        file.socket.as_mut().unwrap().remote_port = remote_port;
        file
    };
    let bound = |opening| tcp(opening, 7, 0);
    let seen = [with_remote(1, 5, 40_000), bound(2), tcp(3, LISTENING, 0)];
    let servers = |rows: &[Box<Row>]| -> Vec<_> {
        rows.iter()
            .map(|row| (row.first.ino, row.is_server))
            .collect()
    };
    let rows = round(&mut openings, 1, &seen);
    assert_eq!(servers(&rows), [(1, true), (2, false), (3, true)]);
    let seen = [with_remote(1, 6, 40_000), with_remote(4, 6, 40_001)];
    let rows = round(&mut openings, 2, &seen);
    assert_eq!(
        servers(&rows),
        [(1, true), (4, true)],
        "since the last round"
    );
    let seen = [with_remote(1, 7, 40_000), with_remote(5, 7, 40_002)];
    let rows = round(&mut openings, 3, &seen);
    assert_eq!(servers(&rows), [(1, true), (5, false)]);
}

#[test]
fn another_opening_at_the_same_address_is_new() {
    let mut openings = Openings::default();
    round(&mut openings, 1, &[file(1, 10, 100)]);
    let another = OpenFile {
        ino: 8,
        ..file(1, 10, 120)
    };
    assert_eq!(forward(&round(&mut openings, 2, &[another])), [Some(120)]);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut openings = Openings::default();
    openings.begin(SECOND_NS);
    for opening in 0..OPENINGS_MAX as u64 + 3 {
        openings.see(&file(opening, 10, 0));
    }
    assert_eq!(openings.refused, 3);
    assert_eq!(openings.end(LeftOut::default()).0.len(), 1);
    // Of another share all is known, of this one some may have been there.
    let of_other = OpenFile {
        share: 4,
        ..file(u64::MAX, 11, 30)
    };
    let of_share = file(u64::MAX - 1, 12, 30);
    let rows = round(&mut openings, 2, &[of_other, of_share]);
    assert_eq!(forward(&rows), [Some(30), None]);
}

#[test]
fn what_is_remembered_is_bounded_over_rounds() {
    let mut openings = Openings::default();
    let all = OPENINGS_MAX as u64;
    openings.begin(SECOND_NS);
    (0..all).for_each(|opening| openings.see(&file(opening, 10, 0)));
    openings.end(LeftOut::default());
    openings.begin(2 * SECOND_NS);
    // New ones first, then those of the round before.
    (all..2 * all).for_each(|opening| openings.see(&file(opening, 10, 0)));
    (0..all).for_each(|opening| openings.see(&file(opening, 11, 0)));
    assert_eq!(openings.refused, all);
    openings.end(LeftOut::default());
    assert_eq!(openings.known.len(), OPENINGS_MAX);
    round(&mut openings, 3, &[]);
    assert_eq!(openings.known.capacity(), 0);
}

#[test]
fn rows_of_each_process_are_ended_with_it() {
    let mut openings = Openings::default();
    openings.begin(SECOND_NS);
    for pid in 0..5_000 {
        openings.see(&file(u64::from(pid) + 1, pid, 0));
        assert_eq!(openings.rows.len(), 1);
    }
    let (rows, rests) = openings.end(LeftOut::default());
    assert_eq!(rows.len(), OF_ONE_MAX);
    assert_eq!(rests.len(), 1);
    assert_eq!(rests[0].rows as usize, 5_000 - OF_ONE_MAX);
}

#[test]
fn an_opening_takes_as_much_memory_as_the_settings_say() {
    // A place of the table, and a byte for each.
    let place = size_of::<(u64, Known)>() + 1;
    assert!(place <= 105, "{place}");
    let places = (OPENINGS_MAX * 8).div_ceil(7).next_power_of_two();
    assert_eq!(places, 32_768);
    // While a round goes on those of the round before are there, too; a table that grows is there twice for a moment.
    let kept = places * place;
    let read = 3 * kept + 3 * ROWS_MAX * size_of::<Row>();
    let at_most = [kept, read].map(|bytes| bytes >> 20);
    assert!(at_most[0] < 4 && at_most[1] < 12, "{at_most:?}");
}

#[test]
fn bytes_of_udp_are_told_where_they_are_counted() {
    let udp = |received, acked, counted| OpenFile {
        acked,
        counted,
        segments_in: 0,
        ..tcp(1, 0, received)
    };
    let mut openings = Openings::default();
    let told = |openings: &mut Openings, second, file: OpenFile| {
        let rows = round(openings, second, &[file]);
        rows.first().map(|row| {
            let growth = row.growth;
            (growth.rx_bytes, growth.tx_bytes, growth.rx_segments)
        })
    };
    let first = told(&mut openings, 1, udp(10, 20, true));
    assert_eq!(first, Some((None, None, None)), "nothing to compare with");
    let grown = told(&mut openings, 2, udp(15, 20, true));
    assert_eq!(grown, Some((Some(5), Some(0), None)));
    assert_eq!(told(&mut openings, 3, udp(15, 20, true)), None, "nothing");
    let due = told(&mut openings, 70, udp(0, 0, false));
    assert_eq!(due, Some((None, None, None)), "not known any more");
}
