//! The whole pipeline without a kernel: a capture in, records out.

use std::path::Path;
use std::sync::mpsc::Receiver;

use dogwatch_ebpf::calls::Call;
use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::{
    ContainerSample, IoSample, ProcessSample, SensorStatus, SyscallSample,
};
use dogwatch_schemas::topics::Topic;

use dogwatch_schemas::records::Event;

use super::*;
use crate::capture;
use crate::clock::Reading;
use crate::config::RawConfig;
use crate::container::{Container as Known, membership};
use crate::fact::Fact;
use crate::fact::{
    FailedCall, FailedRound, FileUsage, FilesRest, FilesRound, ProcessUsage, Running, Sampled,
    SocketEnds,
};

const SECOND_NS: u64 = 1_000_000_000;
const KIND_CALL: u16 = 6;
const KIND_CGROUP: u16 = 7;
const VALUE_STRING: u8 = 2;

/// A record as the kernel part writes it (`ebpf/bpf/record.h`): header, fixed part, texts.
fn raw(kind: u16, boot_ns: u64, ret: i64, fixed: &[u64], texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    for long in [boot_ns, 1, 10 * SECOND_NS] {
        bytes.extend(long.to_le_bytes());
    }
    for word in [10u32, 10, 10, 0, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(ret.to_le_bytes());
    bytes.extend(fixed.iter().flat_map(|long| long.to_le_bytes()));
    for text in texts {
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn clock(second: u64) -> Fact {
    Fact::Clock(Reading {
        boot_ns: second * SECOND_NS,
        wall_ns: (second * SECOND_NS) as i64,
    })
}

/// A capture of three seconds: one process, a container made and removed, a failed exec, some drops.
fn write_capture(path: &Path) {
    let host = Host {
        host_id: "h".into(),
        sensor_run: "r".into(),
        mnt_ns: Some(1),
        pid_ns: Some(1),
        ..Host::default()
    };
    let cgroup = format!("/docker/{}", "cd".repeat(32));
    let mut writer = capture::Writer::create(path, &host).unwrap();
    writer.fact(&clock(100)).unwrap();
    let shell = Running {
        pid: 10,
        start_ticks: 1_000,
        cgroup_id: 1,
        comm: b"sh".to_vec(),
        argv: b"sh\0".to_vec(),
        ..Running::default()
    };
    writer.fact(&Fact::Running(Box::new(shell))).unwrap();
    writer
        .record(&raw(
            KIND_CGROUP,
            100 * SECOND_NS + 1,
            0,
            &[7, 1],
            &[&cgroup],
        ))
        .unwrap();
    writer
        .fact(&Fact::Container(Box::new(Known::unknown(
            &membership(&cgroup).unwrap(),
        ))))
        .unwrap();
    writer.record(&exec_failed(2)).unwrap();
    writer.record(b"not a record").unwrap();
    writer.fact(&Fact::Unparsed(1)).unwrap();
    let dropped = BTreeMap::from([("open".into(), 5)]);
    writer
        .fact(&Fact::Counters(Counters {
            dropped,
            ..Counters::default()
        }))
        .unwrap();
    writer.fact(&clock(102)).unwrap();
    writer
        .record(&raw(
            KIND_CGROUP,
            102 * SECOND_NS + 1,
            0,
            &[7, 0],
            &[&cgroup],
        ))
        .unwrap();
    writer.fact(&clock(103)).unwrap();
    writer.flush().unwrap();
}

fn replay(path: &Path) -> (Result<Summary, SensorError>, Vec<LogRecord>) {
    let (sender, receiver): (_, Receiver<LogRecord>) = local::channel(1_000);
    let config = Config::check(RawConfig::default()).unwrap();
    let ended = run(
        config,
        Input::Replay(vec![path.to_owned()]),
        Output::Local(sender),
        Shutdown::new(),
    );
    (ended, receiver.into_iter().collect())
}

fn events(records: &[LogRecord]) -> Vec<Event> {
    let events = records
        .iter()
        .filter(|record| record.topic == Topic::Events);
    events
        .map(|record| Event::decode_framed(&record.value).unwrap())
        .collect()
}

fn statuses(records: &[LogRecord]) -> Vec<SensorStatus> {
    let statuses = records
        .iter()
        .filter(|record| record.topic == Topic::Sensors);
    statuses
        .map(|record| SensorStatus::decode_framed(&record.value).unwrap())
        .collect()
}

#[test]
fn a_capture_goes_through_all_stages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_capture(&path);
    let (ended, records) = replay(&path);
    let summary = ended.unwrap();
    let events = events(&records);
    let types: Vec<_> = events.iter().map(|event| &*event.evt_type).collect();
    assert_eq!(
        types,
        [
            "running",
            "cgroup_mkdir",
            "container",
            "execve",
            "mark",
            "cgroup_rmdir",
            "container",
            "mark"
        ],
        "marks behind the counters, and at the end"
    );
    assert!(
        events
            .iter()
            .enumerate()
            .all(|(seq, event)| event.seq == seq as i64),
        "numbered without a gap"
    );
    assert!(
        events
            .iter()
            .all(|event| &*event.host_id == "h" && &*event.sensor_run == "r")
    );
    assert!(records.iter().all(|record| record.key.starts_with('h')));
    let losses = events.last().unwrap().evt_losses.as_ref().unwrap();
    assert_eq!((losses["ring_full"], losses["unparsed"]), (5, 1));
    assert_eq!(
        (summary.events, summary.losses["ring_full"]),
        (events.len() as u64, 5)
    );
    let statuses = statuses(&records);
    let names: Vec<_> = statuses.iter().map(|status| &*status.status).collect();
    assert_eq!(names, ["hello", "loss", "goodbye"]);
    let told: Vec<_> = statuses[1]
        .losses
        .iter()
        .map(|loss| (&*loss.class, &*loss.kind, loss.count))
        .collect();
    assert_eq!(told, [("ring_full", "open", 5), ("unparsed", "any", 1)]);
    assert_eq!(
        statuses[2].goodbye_signal.as_deref(),
        Some("the input ended")
    );
}

#[test]
fn the_same_capture_gives_the_same_events() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_capture(&path);
    assert_eq!(events(&replay(&path).1), events(&replay(&path).1));
}

#[test]
fn a_damaged_capture_is_used_up_to_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_capture(&path);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (ended, records) = replay(&path);
    let error = ended.unwrap_err();
    assert!(
        error.to_string().contains("is damaged at offset"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);
    let types: Vec<_> = events(&records)
        .iter()
        .map(|event| event.evt_type.to_string())
        .collect();
    assert_eq!(
        types[..6],
        [
            "running",
            "cgroup_mkdir",
            "container",
            "execve",
            "mark",
            "cgroup_rmdir"
        ]
    );
}

#[test]
fn an_output_that_is_gone_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_capture(&path);
    let (sender, receiver) = local::channel(1);
    drop(receiver);
    let config = Config::check(RawConfig::default()).unwrap();
    let shutdown = Shutdown::new();
    run(
        config,
        Input::Replay(vec![path]),
        Output::Local(sender),
        shutdown.clone(),
    )
    .unwrap();
    assert!(shutdown.reason().is_some());
}

#[test]
fn a_broker_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_capture(&path);
    let mut raw = RawConfig::default();
    raw.kafka.bootstrap_servers = "127.0.0.1:1".into();
    raw.kafka.start_timeout = std::time::Duration::from_millis(300);
    let error = run(
        Config::check(raw).unwrap(),
        Input::Replay(vec![path]),
        Output::Kafka,
        Shutdown::new(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert_eq!(error.exit_code(), 3);
}

/// A failed exec of the shell; `boot_ns` after the capture's second 100.
fn exec_failed(boot_ns: u64) -> Vec<u8> {
    let call = Call::named("execve").unwrap();
    let mut bytes = raw(KIND_CALL, 100 * SECOND_NS + boot_ns, -2, &[], &[]);
    bytes[60..64].copy_from_slice(&call.number().to_le_bytes());
    let program = b"/bin/nothing";
    bytes.extend([0, VALUE_STRING, program.len() as u8, 0]);
    bytes.extend(program);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Writes a capture with the shell running since second 100, then what `fill` adds.
fn write_frames(path: &Path, fill: impl FnOnce(&mut capture::Writer)) {
    let host = Host {
        host_id: "h".into(),
        sensor_run: "r".into(),
        ..Host::default()
    };
    let mut writer = capture::Writer::create(path, &host).unwrap();
    writer.fact(&clock(100)).unwrap();
    let shell = Running {
        pid: 10,
        start_ticks: 1_000,
        cgroup_id: 1,
        ..Running::default()
    };
    writer.fact(&Fact::Running(Box::new(shell))).unwrap();
    fill(&mut writer);
    writer.flush().unwrap();
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<Text, u64> {
    pairs
        .iter()
        .map(|(kind, count)| (Text::from(*kind), *count))
        .collect()
}

#[test]
fn published_and_lost_make_what_was_attempted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    // The kernel's side: 40 failed execs put into the ring, 7 not; 3 of the 40 were not read at the end, 2 are damaged.
    let (sent, dropped, unread, damaged) = (40, 7, 3, 2);
    write_frames(&path, |writer| {
        for count in 0..sent - unread - damaged {
            writer.record(&exec_failed(count)).unwrap();
        }
        for _ in 0..damaged {
            writer.record(b"not a record").unwrap();
        }
        let early = Counters {
            sent: counts(&[("execve", sent - 5)]),
            dropped: counts(&[("execve", dropped - 5)]),
            ..Counters::default()
        };
        writer.fact(&Fact::Counters(early.clone())).unwrap();
        writer.fact(&clock(102)).unwrap();
        let last = Counters {
            sent: counts(&[("execve", sent)]),
            dropped: counts(&[("execve", dropped)]),
            missed: counts(&[("any", 1)]),
            unread: counts(&[("execve", unread)]),
            ..early
        };
        writer.fact(&Fact::Unparsed(damaged)).unwrap();
        writer.fact(&Fact::Counters(last)).unwrap();
        writer.fact(&clock(103)).unwrap();
    });
    let (ended, records) = replay(&path);
    let summary = ended.unwrap();
    let events = events(&records);
    let published = events
        .iter()
        .filter(|event| &*event.evt_type == "execve")
        .count() as u64;
    let lost = |class: &str| summary.losses[class];
    assert_eq!(
        published + lost("ring_full") + lost("undelivered_at_end") + lost("unparsed"),
        sent + dropped
    );
    assert_eq!(lost("missed"), 1);
    let at_end = events.last().unwrap().evt_losses.as_ref().unwrap();
    let told: u64 = at_end.values().map(|count| *count as u64).sum();
    assert_eq!(
        told,
        summary.losses.values().sum::<u64>(),
        "the last mark tells the last second's losses, too"
    );
    let in_statuses: i64 = statuses(&records)
        .iter()
        .flat_map(|status| status.losses.iter().map(|loss| loss.count))
        .filter(|count| *count > 0)
        .sum();
    assert_eq!(in_statuses as u64, told, "so do the statuses, each once");
}

#[test]
fn a_mark_tells_the_losses_counted_before_its_time_and_no_event_follows_with_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    write_frames(&path, |writer| {
        writer.record(&exec_failed(SECOND_NS / 2)).unwrap();
        writer
            .fact(&Fact::Counters(Counters {
                dropped: counts(&[("open", 5)]),
                ..Counters::default()
            }))
            .unwrap();
        writer.fact(&clock(101)).unwrap();
        writer.record(&exec_failed(SECOND_NS + 1)).unwrap();
        writer.fact(&clock(102)).unwrap();
    });
    let (ended, records) = replay(&path);
    ended.unwrap();
    let events = events(&records);
    let mut marked_ns = 0;
    for event in &events {
        if &*event.evt_type == "mark" {
            marked_ns = event.boot_ts;
        } else {
            assert!(event.boot_ts > marked_ns, "{event:?}");
        }
    }
    let mark = events.iter().find(|event| &*event.evt_type == "mark");
    let losses = mark.unwrap().evt_losses.as_ref().unwrap();
    assert_eq!(losses["ring_full"], 5);
}

fn sampled_capture(path: &Path) {
    let host = Host {
        host_id: "h".into(),
        sensor_run: "r".into(),
        ..Host::default()
    };
    let mut writer = capture::Writer::create(path, &host).unwrap();
    let cgroup: Text = format!("/docker/{}", "cd".repeat(32)).into();
    let mut facts = vec![
        clock(100),
        Fact::Cgroup {
            id: 7,
            path: cgroup.clone(),
        },
        Fact::Container(Box::new(Known {
            image: Some("web:1".into()),
            ..Known::unknown(&membership(&cgroup).unwrap())
        })),
        Fact::Running(Box::new(Running {
            pid: 10,
            start_ticks: 1_000,
            cgroup_id: 7,
            comm: b"web".to_vec(),
            exe: Some(b"/bin/web".to_vec()),
            ..Running::default()
        })),
    ];
    let failed = |pid, call: &str, errno, count| FailedCall {
        pid,
        start_ticks: 1_000,
        cgroup_id: 7,
        comm: b"gone".to_vec(),
        call: call.into(),
        entry: "native".into(),
        errno,
        count,
    };
    facts.push(Fact::FailedCalls(FailedRound {
        boot_ns: 101 * SECOND_NS,
        interval_ns: SECOND_NS,
        calls: vec![
            failed(10, "openat", 2, 50),
            failed(10, "read", 11, 1_000),
            failed(12, "connect", 111, 3),
        ],
    }));
    facts.push(open_files());
    // A first round, of which nothing is known.
    facts.push(Fact::OpenFiles(FilesRound {
        boot_ns: 101 * SECOND_NS,
        interval_ns: None,
        files: Vec::new(),
        rests: vec![FilesRest {
            cgroup_id: 7,
            rows: 1,
            ..FilesRest::default()
        }],
    }));
    // The next round is due while this one is still under way, and is left out.
    facts.push(Fact::Sampled(Sampled::default()));
    for (id, at) in [(None, 101), (Some("cd".repeat(32).into()), 102)] {
        facts.push(Fact::ContainerSample(Box::new(ContainerSample {
            container_full_id: id,
            boot_ts: at * SECOND_NS as i64,
            cpu_total_ns: Some(5),
            sample_interval_ns: Some(SECOND_NS as i64),
            ..ContainerSample::default()
        })));
    }
    let usage = |pid, comm: &[u8]| ProcessUsage {
        start_ticks: 1_000,
        comm: comm.to_vec(),
        sample: ProcessSample {
            proc_pid: pid,
            boot_ts: 103 * SECOND_NS as i64,
            proc_nthreads: Some(2),
            ..ProcessSample::default()
        },
    };
    facts.push(Fact::ProcessSamples(vec![
        usage(10, b"other"),
        usage(11, b"stranger"),
    ]));
    let round = Sampled {
        ended_ns: Some(104 * SECOND_NS),
        processes_unsampled: 3,
        calls_unsampled: 2,
        files_unsampled: 1,
        ..Sampled::default()
    };
    facts.push(Fact::Sampled(round));
    // One that did not come has no mark.
    facts.push(Fact::Sampled(Sampled {
        ended_ns: None,
        containers_unsampled: 1,
        processes_unsampled: 4,
        ..round
    }));
    facts.push(Fact::Counters(Counters::default()));
    facts.push(clock(106));
    for fact in &facts {
        writer.fact(fact).unwrap();
    }
    writer.flush().unwrap();
}

#[test]
fn samples_are_joined_with_what_is_known_and_marked_by_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    sampled_capture(&path);
    let (ended, records) = replay(&path);
    let summary = ended.unwrap();
    let of = |topic| records.iter().filter(move |record| record.topic == topic);
    let containers: Vec<_> = of(Topic::ContainerSamples)
        .map(|record| ContainerSample::decode_framed(&record.value).unwrap())
        .collect();
    let told: Vec<_> = containers
        .iter()
        .map(|row| (row.seq, &*row.evt_type, &*row.container_id, row.boot_ts))
        .collect();
    let second = SECOND_NS as i64;
    let expected = [
        (0, "sample", "host", 101 * second),
        (1, "sample", "cdcdcdcdcdcd", 102 * second),
        (2, "mark", "host", 104 * second),
    ];
    assert_eq!(told, expected);
    assert_eq!(containers[1].container_image.as_deref(), Some("web:1"));
    assert_eq!(containers[1].ts, 102 * second);
    assert!(containers.iter().all(|row| &*row.host_id == "h"));
    let processes: Vec<_> = of(Topic::ProcessSamples)
        .map(|record| ProcessSample::decode_framed(&record.value).unwrap())
        .collect();
    let known = &processes[0];
    assert_eq!(known.proc_name.as_deref(), Some("web"));
    assert_eq!(known.proc_exepath.as_deref(), Some("/bin/web"));
    assert_eq!(&*known.container_id, "cdcdcdcdcdcd");
    assert_eq!(known.proc_key.len(), 16);
    let stranger = &processes[1];
    assert_eq!(stranger.proc_name.as_deref(), Some("stranger"));
    assert_eq!(&*stranger.container_id, "unknown");
    let mark = &processes[2];
    assert_eq!((&*mark.evt_type, mark.seq), ("mark", 2));
    assert_eq!(mark.evt_losses.as_ref().unwrap()["unsampled"], 3);
    assert_eq!(processes.len(), 3);
    assert_eq!(summary.samples, 77);
    assert_eq!(summary.sample_losses["unsampled"], 8);
    assert!(
        summary.losses.is_empty(),
        "events' marks tell nothing of them"
    );
    let losses: Vec<_> = statuses(&records)
        .into_iter()
        .flat_map(|status| status.losses)
        .map(|loss| (loss.class.to_string(), loss.kind.to_string(), loss.count))
        .collect();
    let unsampled = |kind: &str, count| ("unsampled".to_owned(), kind.to_owned(), count);
    assert_eq!(
        losses,
        [
            unsampled("container_sample", 1),
            unsampled("process_sample", 4),
            unsampled("syscall_sample", 2),
            unsampled("io_sample", 1)
        ]
    );
}

/// A file, a socket that listens and more files than are told of one container, and what was left out of it.
fn open_files() -> Fact {
    let usage = |sample: IoSample| FileUsage {
        pid: 10,
        start_ticks: 1_000,
        cgroup_id: 7,
        comm: b"other".to_vec(),
        path: None,
        ends: None,
        sample: Box::new(sample),
    };
    let mut files = vec![FileUsage {
        path: Some(b"/var/log/web.log".to_vec()),
        ..usage(IoSample {
            fd_type: Some("file".into()),
            fd_forward_bytes: Some(500),
            ..IoSample::default()
        })
    }];
    let mut local = [0; 16];
    local[..4].copy_from_slice(&[10, 0, 0, 1]);
    let waiting = |sample: IoSample| FileUsage {
        ends: Some(SocketEnds {
            family: libc::AF_INET as u16,
            socket_type: libc::SOCK_STREAM as u16,
            protocol: libc::IPPROTO_TCP as u16,
            local_port: 80,
            remote_port: 0,
            local,
            remote: [0; 16],
            is_server: true,
        }),
        ..usage(sample)
    };
    files.push(waiting(IoSample {
        fd_state: Some("listen".into()),
        fd_backlog: Some(0),
        ..IoSample::default()
    }));
    files.push(waiting(IoSample {
        fd_state: Some("close".into()),
        fd_rx_bytes: Some(400),
        ..IoSample::default()
    }));
    files.extend((1..=62).map(|bytes| {
        usage(IoSample {
            fd_forward_bytes: Some(bytes),
            ..IoSample::default()
        })
    }));
    Fact::OpenFiles(FilesRound {
        boot_ns: 101 * SECOND_NS,
        interval_ns: Some(SECOND_NS),
        files,
        rests: vec![FilesRest {
            cgroup_id: 7,
            rows: 4,
            left: 9,
            forward_bytes: 40,
            ..FilesRest::default()
        }],
    })
}

#[test]
fn open_files_are_told_listeners_first_and_the_rest_in_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    sampled_capture(&path);
    let (_, records) = replay(&path);
    let rows: Vec<_> = records
        .iter()
        .filter(|record| record.topic == Topic::IoSamples)
        .map(|record| IoSample::decode_framed(&record.value).unwrap())
        .collect();
    let in_container = |row: &&IoSample| &*row.container_id == "cdcdcdcdcdcd";
    assert_eq!(rows.iter().filter(in_container).count(), 66);
    let listener = &rows[0];
    assert_eq!(listener.fd_name.as_deref(), Some("10.0.0.1:80"));
    assert_eq!(listener.fd_type.as_deref(), Some("ipv4"));
    assert_eq!(listener.fd_l4proto.as_deref(), Some("tcp"));
    assert_eq!((listener.fd_lport, listener.fd_rport), (Some(80), None));
    assert_eq!(listener.fd_is_server, Some(true));
    let file = &rows[1];
    assert_eq!(file.fd_name.as_deref(), Some("/var/log/web.log"));
    assert_eq!(file.proc_name.as_deref(), Some("web"));
    assert_eq!(file.sample_interval_ns, Some(SECOND_NS as i64));
    assert_eq!(file.proc_key.len(), 16);
    let bound = &rows[2];
    assert_eq!(bound.fd_name.as_deref(), Some("10.0.0.1:80"));
    assert_eq!(bound.fd_is_server, Some(false), "it does not listen");
    // The smallest was left out here, the others where they were read.
    let rest = &rows[64];
    assert_eq!((&*rest.evt_type, rest.seq), ("rest", 64));
    assert_eq!((rest.rows_left_out, rest.fds_left_out), (Some(5), Some(9)));
    assert_eq!(rest.fd_forward_bytes, Some(41));
    assert!(rest.proc_key.is_empty());
    let of_first_round = &rows[65];
    assert_eq!(of_first_round.rows_left_out, Some(1));
    assert_eq!(of_first_round.fd_forward_bytes, None);
    let mark = &rows[66];
    assert_eq!((&*mark.evt_type, rows.len()), ("mark", 67));
    assert_eq!(mark.evt_losses.as_ref().unwrap()["unsampled"], 1);
}

#[test]
fn failed_calls_are_told_by_call_and_summed_by_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.capture");
    sampled_capture(&path);
    let (_, records) = replay(&path);
    let of = |topic| records.iter().filter(move |record| record.topic == topic);
    let calls: Vec<_> = of(Topic::SyscallSamples)
        .map(|record| SyscallSample::decode_framed(&record.value).unwrap())
        .collect();
    let told: Vec<_> = calls
        .iter()
        .map(|row| {
            (
                row.proc_name.as_deref(),
                row.call_name.as_deref(),
                row.call_class.as_deref(),
                row.call_errno.as_deref(),
                row.call_failed,
            )
        })
        .collect();
    let row = |name, call, class, errno, count| {
        (
            Some(name),
            Some(call),
            Some(class),
            Some(errno),
            Some(count),
        )
    };
    let expected = [
        row("web", "read", "file", "EAGAIN", 1_000),
        row("web", "openat", "file", "ENOENT", 50),
        row("gone", "connect", "net", "ECONNREFUSED", 3),
        (None, None, None, None, None),
    ];
    assert_eq!(told, expected);
    let samples = &calls[..3];
    assert!(
        samples
            .iter()
            .all(|row| &*row.container_id == "cdcdcdcdcdcd")
    );
    let mark = &calls[3];
    assert_eq!((&*mark.evt_type, mark.seq), ("mark", 3));
    assert_eq!(mark.evt_losses.as_ref().unwrap()["unsampled"], 2);
    for container in of(Topic::ContainerSamples) {
        let row = ContainerSample::decode_framed(&container.value).unwrap();
        let sums = (
            row.calls_failed_file,
            row.calls_failed_net,
            row.calls_failed_memory,
        );
        match &*row.evt_type {
            "mark" => assert_eq!(sums, (None, None, None)),
            _ => assert_eq!(
                sums,
                (Some(50), Some(3), Some(0)),
                "what says not yet is not in it"
            ),
        }
    }
}
