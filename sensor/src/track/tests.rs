//! Records in, events out: a container's life, an escape, waiting for what is known of a container.

use dogwatch_ebpf::calls::Call;
use dogwatch_ebpf::record::{
    Called, Exec, FileIdentity, PLACE_CWD, PLACE_IDENTITY, PLACE_PEER, SocketAddresses, Value,
};

use super::*;
use crate::container::membership;

const HOST_MNT: u32 = 100;
const HOST_PIDNS: u32 = 101;
const BOX_MNT: u32 = 200;
const BOX_PIDNS: u32 = 201;
const HOST_CGROUP: u64 = 1;
const BOX_CGROUP: u64 = 7;
const SECOND_NS: u64 = 1_000_000_000;

fn id() -> String {
    "ab".repeat(32)
}

/// Feeds a tracker and keeps what comes out.
struct Bench {
    tracker: Tracker,
    rows: Vec<Row>,
    now_ns: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with_bounds(16, 100)
    }

    fn with_bounds(metadata_queue_events: usize, processes_max: usize) -> Self {
        let host = Host {
            host_id: "h".into(),
            boot_id: "b".into(),
            mnt_ns: Some(HOST_MNT),
            pid_ns: Some(HOST_PIDNS),
            ..Host::default()
        };
        let options = TrackOptions {
            table: TableBounds {
                processes_max,
                bytes_max: 1 << 20,
                keep_after_exit: Duration::from_secs(1),
            },
            waiting: WaitingBounds {
                events_max: metadata_queue_events,
                bytes_max: 4 << 20,
                patient: true,
            },
            clock_step_min: Duration::from_millis(500),
            labels: vec!["app".into()],
            redactor: Redactor::new(true, &[]).unwrap(),
        };
        let mut bench = Self {
            tracker: Tracker::new(host, options),
            rows: Vec::new(),
            now_ns: 100 * SECOND_NS,
        };
        bench.fact(Fact::Clock(Reading {
            boot_ns: bench.now_ns,
            wall_ns: bench.now_ns as i64,
        }));
        bench.fact(Fact::Cgroup {
            id: HOST_CGROUP,
            path: "/".into(),
        });
        bench
    }

    fn fact(&mut self, fact: Fact) {
        self.tracker.step(Input::Fact(fact), &mut self.rows);
    }

    fn record(&mut self, record: Record) {
        let before = self.rows.len();
        self.tracker.step(Input::Record(record), &mut self.rows);
        // What the lint knows of the arguments' names is what is told.
        let known = dogwatch_schemas::vocabulary::of("evt_args");
        let keys = known.and_then(|known| known.keys.as_ref()).unwrap();
        let new = self.rows.iter().skip(before).filter_map(|row| match row {
            Row::Event(row) => Some(row.whole()),
            _ => None,
        });
        for event in new {
            let mut told = event.evt_args.iter().flatten().map(|(key, _)| &**key);
            let unknown = told.find(|key| !keys.iter().any(|known| known == key));
            assert_eq!(
                unknown, None,
                "{}: add it to keys in event.avsc",
                event.evt_type
            );
        }
    }

    fn header(&mut self, pid: u32, cgroup_id: u64) -> Header {
        self.now_ns += 1_000;
        Header {
            boot_ns: self.now_ns,
            cgroup_id,
            start_ns: u64::from(pid) * SECOND_NS,
            pid,
            tid: pid,
            vpid: pid,
            ..Header::default()
        }
    }

    fn running(&mut self, pid: u32, parent_pid: u32) {
        self.fact(Fact::Running(Box::new(Running {
            pid,
            start_ticks: u64::from(pid) * 100,
            parent_pid,
            sid: pid,
            vpid: pid,
            cgroup_id: HOST_CGROUP,
            mnt_ns: Some(HOST_MNT),
            pid_ns: Some(HOST_PIDNS),
            comm: b"shim".to_vec(),
            argv: b"shim\0".to_vec(),
            ..Running::default()
        })));
    }

    fn fork(&mut self, parent: u32, child_pid: u32, cgroup_id: u64, (mnt_ns, pid_ns): (u32, u32)) {
        let header = self.header(parent, self.cgroup(parent));
        let child_cgroup_id = if cgroup_id == 0 {
            header.cgroup_id
        } else {
            cgroup_id
        };
        let child = Identity {
            mnt_ns,
            pid_ns,
            ..identity(parent)
        };
        let child_start_ns = u64::from(child_pid) * SECOND_NS;
        self.record(Record::Fork {
            header,
            child_pid,
            child_vpid: child_pid,
            child_start_ns,
            child_cgroup_id,
            clone_flags: 0,
            child,
        });
    }

    fn cgroup(&self, pid: u32) -> u64 {
        self.tracker
            .table
            .with_pid(pid)
            .map_or(HOST_CGROUP, |process| process.cgroup_id)
    }

    fn enter(&mut self, by: u32, pid: u32, to_id: u64) {
        let header = self.header(by, self.cgroup(by));
        let start_ns = u64::from(pid) * SECOND_NS;
        self.record(Record::CgroupMove {
            header,
            pid,
            start_ns,
            to_id,
            path: Vec::new(),
        });
    }

    fn exec(&mut self, pid: u32, vpid: u32, (mnt_ns, pid_ns): (u32, u32), argv: &str) -> Event {
        let mut header = self.header(pid, self.cgroup(pid));
        header.vpid = vpid;
        let mut argv = argv.replace(' ', "\0").into_bytes();
        argv.push(0);
        let parent = self
            .tracker
            .table
            .with_pid(pid)
            .and_then(|process| process.parent)
            .map_or(0, |parent| parent.pid);
        let identity = Identity {
            mnt_ns,
            pid_ns,
            ..identity(parent)
        };
        let argv_bytes = argv.len() as u32;
        self.record(Record::Exec(Box::new(Exec {
            header,
            identity,
            argv,
            argv_bytes,
            path: b"/bin/x".to_vec(),
            ..Exec::default()
        })));
        self.last()
    }

    fn open(&mut self, pid: u32, path: &str, ret: i64, open_flags: u64) -> Event {
        let mut header = self.header(pid, self.cgroup(pid));
        header.ret = ret;
        header.call = Call::named("openat");
        let (path, raw): (Vec<u8>, Vec<u8>) = if ret < 0 {
            (Vec::new(), path.into())
        } else {
            (path.into(), path.into())
        };
        let file = FileIdentity {
            mode: 0o100644,
            ..FileIdentity::default()
        };
        self.record(Record::Open {
            header,
            open_flags,
            mode: 0,
            file,
            path,
            base: if raw.starts_with(b"/") {
                Vec::new()
            } else {
                b"/srv/app".to_vec()
            },
            raw,
            mnt_ns: BOX_MNT,
            fold: 0,
            place: Vec::new(),
        });
        self.last()
    }

    /// A container with an entrypoint: 10 (the shim) makes 11 (the runtime), which becomes the container's init.
    fn container(&mut self, healthcheck: Option<&str>) {
        self.running(10, 0);
        let header = self.header(10, HOST_CGROUP);
        let path = format!("/docker/{}", id()).into_bytes();
        self.record(Record::Cgroup {
            header,
            made: true,
            id: BOX_CGROUP,
            path,
        });
        let healthcheck = healthcheck.map(|check| check.split(' ').map(Text::from).collect());
        self.fact(Fact::Container(Box::new(known(healthcheck))));
        self.fork(10, 11, 0, (HOST_MNT, HOST_PIDNS));
        self.enter(10, 11, BOX_CGROUP);
    }

    fn last(&self) -> Event {
        self.events().last().unwrap()
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.rows.iter().filter_map(|row| match row {
            Row::Event(row) => Some(row.whole()),
            _ => None,
        })
    }

    fn of_type(&self, evt_type: &str) -> Vec<Event> {
        self.events()
            .filter(|event| *event.evt_type == *evt_type)
            .collect()
    }
}

fn identity(parent_pid: u32) -> Identity {
    Identity {
        parent_pid,
        parent_start_ns: u64::from(parent_pid) * SECOND_NS,
        comm: b"x".to_vec(),
        sid: 10,
        loginuid: u32::MAX,
        ..Identity::default()
    }
}

fn known(healthcheck: Option<Vec<Text>>) -> Container {
    let mut container = Container::unknown(&membership(&format!("/docker/{}", id())).unwrap());
    container.name = Some("web".into());
    container.source = "docker_files".into();
    container.healthcheck = healthcheck;
    container.mounts = vec![crate::container::Mount {
        source: Some("/srv".into()),
        destination: "/data".into(),
        ..Default::default()
    }];
    container
}

const INSIDE: (u32, u32) = (BOX_MNT, BOX_PIDNS);
const OUTSIDE: (u32, u32) = (HOST_MNT, HOST_PIDNS);

mod blocks_hold;

fn stage(event: &Event) -> &str {
    event.proc_stage.as_deref().unwrap()
}

#[test]
fn run_exec_and_healthcheck_are_told_apart() {
    let mut bench = Bench::new();
    bench.container(Some("/bin/sh -c true"));
    assert_eq!(stage(&bench.exec(11, 11, OUTSIDE, "runc init")), "runtime");
    let entry = bench.exec(11, 1, INSIDE, "web --password x");
    assert_eq!(
        (
            stage(&entry),
            &*entry.container_id,
            entry.container_name.as_deref()
        ),
        ("entrypoint", &id()[..12], Some("web"))
    );
    assert_eq!(
        entry.proc_cmdline.as_deref(),
        Some("web --password [redacted:option:1-7]")
    );
    assert!(entry.evt_redacted);
    bench.fork(11, 12, 0, INSIDE);
    assert_eq!(
        stage(&bench.exec(12, 2, INSIDE, "/bin/sh -c true")),
        "entrypoint"
    );
    for (pid, argv, expected) in [
        (20, "/bin/sh -c true", "healthcheck"),
        (21, "/bin/sh -c id", "exec"),
    ] {
        bench.fork(10, pid, 0, OUTSIDE);
        bench.enter(10, pid, BOX_CGROUP);
        assert_eq!(stage(&bench.exec(pid, 5, INSIDE, argv)), expected, "{argv}");
        bench.fork(pid, pid + 10, 0, INSIDE);
        assert_eq!(
            stage(&bench.exec(pid + 10, 6, INSIDE, "cat")),
            expected,
            "a child of {argv}"
        );
    }
    assert!(bench.of_type("container_move").is_empty());
    assert_eq!(stage(&bench.of_type("running")[0].clone()), "host");
}

#[test]
fn who_leaves_its_container_is_told_and_keeps_its_origin() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "sh");
    bench.enter(11, 11, HOST_CGROUP);
    let through_mount = bench.open(11, "/data/x", 3, 1);
    assert_eq!(through_mount.fd_host_name.as_deref(), Some("/srv/x"));
    let moved = bench.of_type("container_move");
    assert_eq!(moved.len(), 1);
    let arguments = moved[0].evt_args.as_ref().unwrap();
    assert_eq!(
        (&*arguments["from"], &*arguments["to"]),
        (&id()[..12], "host")
    );
    bench.fork(11, 12, 0, OUTSIDE);
    let escaped = bench.exec(12, 12, OUTSIDE, "sh");
    assert_eq!(
        (
            &*escaped.container_id,
            escaped.container_origin_id.as_deref()
        ),
        ("host", Some(&id()[..12]))
    );
    assert_eq!(
        (stage(&escaped), escaped.proc_in_host_mntns),
        ("entrypoint", Some(true))
    );
    assert_eq!(
        bench.open(12, "/etc/crontab", 3, 1).fd_host_name.as_deref(),
        Some("/etc/crontab")
    );
}

#[test]
fn a_child_made_into_the_hosts_cgroup_has_left_too() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "sh");
    bench.fork(11, 12, HOST_CGROUP, INSIDE);
    assert_eq!(bench.of_type("container_move").len(), 1);
    assert_eq!(
        bench
            .exec(12, 12, INSIDE, "sh")
            .container_origin_id
            .as_deref(),
        Some(&id()[..12])
    );
}

#[test]
fn lineage_goes_with_every_event() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    bench.fork(11, 12, 0, INSIDE);
    bench.exec(12, 2, INSIDE, "sh");
    let open = bench.open(12, "/data/x", -13, 0);
    assert_eq!(open.proc_apid.as_deref(), Some(&[11, 10][..]));
    assert_eq!(open.proc_pcmdline.as_deref(), Some("web"));
    assert_eq!(open.proc_key, proc_key("h", "b", 12, 1_200));
    assert_eq!(open.proc_pkey, Some(proc_key("h", "b", 11, 1_100)));
    assert_eq!(
        (&*open.evt_outcome, open.evt_res.as_deref(), open.fd_num),
        ("failed", Some("EACCES"), None)
    );
    assert_eq!(
        (
            open.fd_host_name.as_deref(),
            open.evt_path_source.as_deref()
        ),
        (Some("/srv/x"), Some("user_memory"))
    );
    assert!(open.evt_unresolved);
}

/// Bytes of a path or an argument list that are no UTF-8, as many as the kernel part hands over.
fn bad_bytes(count: usize) -> Vec<u8> {
    vec![0xff; count]
}

#[test]
fn no_row_is_too_large_whatever_it_is_made_of() {
    const FULL_BYTES_MAX: usize = 640 << 10;
    const BRIEF_BYTES_MAX: usize = 128 << 10;
    let mut bench = Bench::new();
    bench.container(None);
    let mut container = known(None);
    let labels = (0..4096).map(|n| (format!("{n:064}").into(), "x".repeat(960).into()));
    container.labels = Some(
        labels
            .chain([("app".into(), "y".repeat(1 << 20).into())])
            .collect(),
    );
    container.name = Some("n".repeat(1 << 20).into());
    container.image = container.name.clone();
    bench.fact(Fact::Container(Box::new(container)));
    let largest = |bench: &mut Bench, pid: u32, argv: Vec<u8>| {
        let header = bench.header(pid, BOX_CGROUP);
        bench.record(Record::Exec(Box::new(Exec {
            header,
            identity: identity(pid - 1),
            argv_bytes: argv.len() as u32,
            argv,
            path: bad_bytes(4096),
            cwd: bad_bytes(4096),
            filename: bad_bytes(4096),
            interp: bad_bytes(4095),
            ..Exec::default()
        })));
    };
    for pid in 11..22 {
        largest(&mut bench, pid, bad_bytes(32 << 10));
        bench.fork(pid, pid + 1, 0, INSIDE);
    }
    // As many arguments as there can be, and none of them has a byte.
    largest(&mut bench, 22, vec![0; 32 << 10]);
    for (flags, path) in [(0o101, bad_bytes(4096)), (0, Vec::new())] {
        let header = bench.header(22, BOX_CGROUP);
        bench.record(Record::Open {
            header,
            open_flags: flags,
            mode: 0,
            file: FileIdentity::default(),
            path,
            raw: bad_bytes(4096),
            base: bad_bytes(4096),
            mnt_ns: BOX_MNT,
            fold: 0,
            place: Vec::new(),
        });
    }
    let mut seen = 0;
    for row in &bench.rows {
        let Row::Event(row) = row else { continue };
        let mut framed = Vec::new();
        row.encode_framed(&mut framed);
        let bytes_max = if rows::tells_in_full(&row.event) {
            FULL_BYTES_MAX
        } else {
            BRIEF_BYTES_MAX
        };
        assert!(
            framed.len() <= bytes_max,
            "{}: {} bytes",
            row.event.evt_type,
            framed.len()
        );
        let whole = row.whole();
        seen += usize::from(
            whole
                .container_labels
                .is_some_and(|labels| labels.contains_key("app")),
        );
    }
    assert!(seen > 10, "{seen} rows have the named label");
}

#[test]
fn rows_in_brief_keep_what_the_page_says() {
    let mut bench = Bench::new();
    bench.container(None);
    let mut container = known(None);
    container.image_id = Some("f".repeat(64).into());
    let label = |name: &str, value: String| (Text::from(name), Text::from(value));
    container.labels = Some(BTreeMap::from([
        label("app", "a".repeat(100)),
        label("other", "b".into()),
    ]));
    bench.fact(Fact::Container(Box::new(container)));
    let line = format!("run {} {}", "p".repeat(200), "q".repeat(400));
    let exec = bench.exec(11, 1, INSIDE, &line);
    assert_eq!(exec.proc_cmdline.as_deref(), Some(&*line));
    assert_eq!(exec.proc_args.as_deref().map(<[_]>::len), Some(2));
    assert_eq!(exec.container_image_id.as_deref().map(str::len), Some(64));
    assert_eq!(exec.container_labels.as_ref().map(BTreeMap::len), Some(2));
    assert!(!exec.evt_truncated);
    bench.fork(11, 12, 0, INSIDE);
    let open = bench.open(12, "/data/x", 3, 0);
    assert_eq!(open.proc_cmdline.as_deref(), Some(&line[..512]));
    let args = open.proc_args.unwrap();
    assert_eq!(
        args.iter().map(|arg| arg.len()).collect::<Vec<_>>(),
        [200, 55]
    );
    assert_eq!(open.proc_pcmdline.as_deref(), Some(&line[..96]));
    assert_eq!(
        open.proc_acmdline.as_deref().map(|all| &*all[0]),
        Some(&line[..96])
    );
    // The shim, outside the container.
    bench.exec(10, 10, OUTSIDE, &line);
    let open_again = bench.open(12, "/data/x", 3, 0);
    let lines = open_again.proc_acmdline.as_deref().unwrap();
    assert_eq!((lines[0].len(), lines[1].len()), (96, 32));
    assert_eq!(open_again.proc_aexepath, None);
    assert_eq!(exec.proc_aexepath.as_deref().map(<[_]>::len), Some(1));
    assert_eq!(open.container_image_id, None);
    let kept = BTreeMap::from([label("app", "a".repeat(64))]);
    assert_eq!(open.container_labels, Some(kept));
    assert!(open.evt_truncated);
    assert_eq!(open.fd_host_name.as_deref(), Some("/srv/x"));
}

#[test]
fn ancestors_in_brief_end_with_who_brought_the_process_in() {
    let mut bench = Bench::new();
    bench.running(5, 0);
    bench.running(10, 5);
    bench.container(None);
    let exec = bench.exec(11, 1, INSIDE, "app");
    assert_eq!(exec.proc_apid.as_deref(), Some(&[10, 5][..]));
    bench.fork(11, 12, 0, INSIDE);
    let open = bench.open(12, "/data/x", 3, 0);
    assert_eq!(open.proc_apid.as_deref(), Some(&[11, 10][..]));
    let lengths = [
        open.proc_aname.map(|all| all.len()),
        open.proc_akey.map(|all| all.len()),
        open.proc_acmdline.map(|all| all.len()),
        open.proc_auid.map(|all| all.len()),
        open.proc_apid_ts.map(|all| all.len()),
    ];
    assert_eq!(lengths, [Some(2); 5]);
    assert!(!open.evt_truncated);
    // Of the host's own processes all are told.
    bench.fork(10, 20, 0, OUTSIDE);
    let outside = bench.open(20, "/etc/x", 3, 0);
    assert_eq!(outside.proc_apid.as_deref(), Some(&[10, 5][..]));
    // Who has left a container ends no list.
    bench.fork(11, 13, 0, INSIDE);
    bench.enter(11, 13, HOST_CGROUP);
    bench.fork(13, 14, 0, INSIDE);
    bench.enter(13, 14, BOX_CGROUP);
    let escaped = bench.open(14, "/data/x", 3, 0);
    assert_eq!(escaped.container_id.as_ref(), &id()[..12]);
    assert_eq!(escaped.proc_apid.as_deref(), Some(&[13, 11, 10][..]));
}

#[test]
fn names_and_flags_of_opens() {
    let mut bench = Bench::new();
    bench.running(10, 0);
    let failed = bench.open(10, "a/../b", -2, 0o1101);
    assert_eq!(
        (failed.fd_name.as_deref(), failed.fd_nameraw.as_deref()),
        (Some("/srv/app/a/../b"), Some("a/../b"))
    );
    assert_eq!(failed.fd_flags.as_deref(), Some("O_WRONLY|O_CREAT|O_TRUNC"));
    assert_eq!(
        (
            failed.evt_is_open_read,
            failed.evt_is_open_write,
            failed.evt_is_open_create
        ),
        (false, true, true)
    );
    let path_only = bench.open(10, "/x", 3, 0o10000002);
    assert!(!path_only.evt_is_open_read && !path_only.evt_is_open_write);
    assert_eq!(
        (
            path_only.fd_directory.as_deref(),
            path_only.fd_filename.as_deref()
        ),
        (Some("/"), Some("x"))
    );
    assert_eq!(
        (path_only.fd_type.as_deref(), path_only.fd_nameraw),
        (Some("file"), None)
    );
}

#[test]
fn an_exec_tells_what_it_runs_may_do_and_is_connected_with() {
    let mut bench = Bench::new();
    bench.container(None);
    let mut header = bench.header(11, BOX_CGROUP);
    header.vpid = 1;
    let mut socket = SocketAddresses {
        family: libc::AF_INET as u16,
        local_port: 4_000,
        remote_port: 80,
        ..SocketAddresses::default()
    };
    socket.local[..4].copy_from_slice(&[10, 0, 0, 1]);
    socket.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
    let mut exec = Exec {
        header,
        identity: identity(10),
        argv: b"./job\0-x\0".to_vec(),
        argc: 2,
        filename: b"./job".to_vec(),
        interp: b"/bin/sh".to_vec(),
        path: b"/bin/dash".to_vec(),
        cwd: b"/srv".to_vec(),
        sockets: 2,
        socket,
        ..Exec::default()
    };
    exec.identity.credentials = dogwatch_ebpf::record::Credentials {
        effective: 1 << 21,
        permitted: 1 << 21 | 1 << 12,
        saved_uid: 0,
        fs_uid: 1_000,
        ..Default::default()
    };
    // A pipe is in no folder: it has no path, and none is made up.
    exec.stdio[0] = dogwatch_ebpf::record::Stdio::File {
        mode: 0o010600,
        rdev: 0,
        fs_magic: 0x5049_5045,
        path: b"/".to_vec(),
    };
    bench.record(Record::Exec(Box::new(exec)));
    let event = bench.last();
    assert_eq!(event.proc_runs.as_deref(), Some("/srv/job"));
    assert_eq!((event.proc_argc, event.proc_sockets), (Some(2), Some(2)));
    assert_eq!(
        event.proc_socket_name.as_deref(),
        Some("10.0.0.1:4000->10.0.0.2:80")
    );
    assert_eq!(event.thread_cap_effective.as_deref(), Some("CAP_SYS_ADMIN"));
    assert_eq!(
        event.thread_cap_permitted.as_deref(),
        Some("CAP_NET_ADMIN CAP_SYS_ADMIN")
    );
    assert_eq!(event.thread_cap_inheritable.as_deref(), Some(""));
    assert_eq!(
        (event.user_host_suid, event.user_host_fsuid),
        (Some(0), Some(1_000))
    );
    assert_eq!(event.proc_stdin_type.as_deref(), Some("pipe"));
    assert_eq!(event.proc_stdin_name, None);
}

#[test]
fn an_open_tells_where_the_file_lies_and_whether_it_was_made() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "sh");
    let mut open = |path: &str, fs_magic: u64, overlay_upper: bool, created: bool| {
        let header = bench.header(11, BOX_CGROUP);
        let mut record = open_of(header, path);
        if let Record::Open { header, file, .. } = &mut record {
            header.flags.created = created;
            (file.fs_magic, file.overlay_upper) = (fs_magic, overlay_upper);
        }
        bench.record(record);
        let event = bench.last();
        (
            event.fd_from.as_deref().map(str::to_owned),
            event.fd_created,
            event.fd_name,
        )
    };
    let overlay = 0x794c_7630;
    for (path, fs_magic, upper, created, from) in [
        ("/bin/sh", overlay, false, false, Some("image")),
        ("/tmp/x", overlay, true, true, Some("upper")),
        ("/data/x", 0xef53, false, true, Some("mount")),
        ("/dev/shm/x", 0x0102_1994, false, true, Some("memory")),
        ("/proc/1/mem", 0x9fa0, false, false, Some("kernel")),
        ("/mnt/x", 0xef53, false, false, None),
    ] {
        let expected = (from.map(str::to_owned), Some(created), Some(path.into()));
        assert_eq!(open(path, fs_magic, upper, created), expected, "{path}");
    }
    let pipe = open("/", 0x5049_5045, false, false);
    assert_eq!(pipe, (Some("kernel".to_owned()), Some(false), None));
    let failed = bench.open(11, "/data/none", -2, 1);
    assert_eq!((failed.fd_from, failed.fd_created), (None, None));
}

#[test]
fn peers_of_connections() {
    let mut bench = Bench::new();
    bench.running(10, 0);
    let peer = |port| {
        let mut socket = SocketAddresses {
            family: 2,
            socket_type: 1,
            protocol: 6,
            remote_port: port,
            ..SocketAddresses::default()
        };
        socket.remote[..4].copy_from_slice(&[10, 0, 0, 9]);
        socket
    };
    let mut connect = |ret: i64, socket: SocketAddresses, asked: SocketAddresses| {
        let mut header = bench.header(10, HOST_CGROUP);
        header.ret = ret;
        let values = vec![
            (0, Value::Socket { fd: 3, socket }),
            (1, Value::Address(asked)),
        ];
        bench.record(called("connect", header, values));
        bench.last()
    };
    let mut local = peer(443);
    local.local_port = 50_000;
    local.local[..4].copy_from_slice(&[10, 0, 0, 2]);
    let made = connect(0, local, SocketAddresses::default());
    assert_eq!(
        made.fd_name.as_deref(),
        Some("10.0.0.2:50000->10.0.0.9:443")
    );
    assert_eq!(
        (made.fd_l4proto.as_deref(), made.fd_addr_source.as_deref()),
        (Some("tcp"), Some("kernel"))
    );
    // An address of IPv6 has colons of its own.
    let mut six = peer(443);
    six.family = libc::AF_INET6 as u16;
    six.remote = std::net::Ipv6Addr::LOCALHOST.octets();
    six.local_port = 50_000;
    six.local = six.remote;
    let both = connect(0, six.clone(), SocketAddresses::default());
    assert_eq!(both.fd_name.as_deref(), Some("[::1]:50000->[::1]:443"));
    assert_eq!(both.fd_sip.as_deref(), Some("::1"));
    six.local_port = 0;
    let one = connect(0, six, SocketAddresses::default());
    assert_eq!(one.fd_name.as_deref(), Some("->[::1]:443"));
    let refused = connect(-111, peer(0), peer(9));
    assert_eq!(
        (refused.fd_sport, refused.evt_res.as_deref()),
        (Some(9), Some("ECONNREFUSED"))
    );
    assert_eq!(refused.fd_addr_source.as_deref(), Some("user_memory"));
    let under_way = connect(-115, peer(80), SocketAddresses::default());
    assert_eq!(
        (&*under_way.evt_outcome, under_way.evt_failed),
        ("attempted", false)
    );
    let mut mapped = SocketAddresses {
        family: 10,
        remote_port: 80,
        ..peer(80)
    };
    mapped.remote = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9];
    let mapped = connect(0, mapped, SocketAddresses::default());
    assert_eq!(
        (mapped.fd_sip.as_deref(), mapped.fd_family.as_deref()),
        (Some("10.0.0.9"), Some("ipv4"))
    );
}

/// A container's cgroup is made and one process is in it, but nothing is known yet.
fn awaited(queue: usize) -> Bench {
    let mut bench = Bench::with_bounds(queue, 100);
    bench.running(10, 0);
    let header = bench.header(10, HOST_CGROUP);
    bench.record(Record::Cgroup {
        header,
        made: true,
        id: BOX_CGROUP,
        path: format!("/docker/{}", id()).into_bytes(),
    });
    bench.enter(10, 10, BOX_CGROUP);
    bench
}

#[test]
fn events_wait_for_what_is_known_and_no_longer() {
    let mut bench = awaited(2);
    let before = bench.rows.len();
    for _ in 0..2 {
        bench.open_quietly(10);
    }
    assert_eq!(bench.rows.len(), before, "two wait");
    bench.open_quietly(10);
    assert_eq!(
        bench.last().container_name,
        None,
        "the third goes out with the id alone"
    );
    assert_eq!(
        bench.tracker.shortfalls(),
        [Shortfall {
            class: Class::MetadataQueue,
            evt_type: "open".into(),
            count: 1
        }]
    );
    bench.fact(Fact::Container(Box::new(known(None))));
    let names: Vec<_> = bench
        .of_type("open")
        .iter()
        .map(|event| event.container_name.clone())
        .collect();
    assert_eq!(names, [None, Some("web".into()), Some("web".into())]);
}

/// The time of a mark made now.
fn mark_ns(bench: &Bench) -> u64 {
    bench.tracker.mark(&BTreeMap::new()).event.boot_ts as u64
}

#[test]
fn a_mark_never_passes_an_event_that_waits_or_is_still_to_come() {
    let mut bench = awaited(16);
    let clock = |bench: &mut Bench, boot_ns: u64| {
        bench.fact(Fact::Clock(Reading {
            boot_ns,
            wall_ns: boot_ns as i64,
        }));
    };
    let waiting_since_ns = {
        bench.open_quietly(10);
        bench.now_ns
    };
    clock(&mut bench, waiting_since_ns + SECOND_NS);
    assert_eq!(mark_ns(&bench), waiting_since_ns - 1);
    bench.fact(Fact::Container(Box::new(known(None))));
    let told_ns = bench.of_type("container")[0].boot_ts as u64;
    assert!(mark_ns(&bench) < told_ns, "a row of the sensor's own");
    assert_eq!(mark_ns(&bench), waiting_since_ns + SECOND_NS - 1);
}

#[test]
fn an_answer_that_never_comes_does_not_hold_marks_back_for_ever() {
    let mut bench = awaited(16);
    bench.open_quietly(10);
    let before = bench.of_type("open").len();
    let boot_ns = bench.now_ns + 12 * SECOND_NS;
    bench.fact(Fact::Clock(Reading {
        boot_ns,
        wall_ns: boot_ns as i64,
    }));
    assert_eq!(bench.of_type("open").len(), before + 1);
    assert_eq!(mark_ns(&bench), boot_ns - 1);
}

impl Bench {
    fn open_quietly(&mut self, pid: u32) {
        let header = self.header(pid, self.cgroup(pid));
        let file = FileIdentity::default();
        let path = b"/x".to_vec();
        self.record(Record::Open {
            header,
            open_flags: 0,
            mode: 0,
            file,
            raw: path.clone(),
            path,
            base: Vec::new(),
            mnt_ns: 0,
            fold: 0,
            place: Vec::new(),
        });
    }
}

#[test]
fn a_containers_life_is_told_in_band() {
    let mut bench = awaited(2);
    bench.fact(Fact::Container(Box::new(known(None))));
    bench.fact(Fact::Container(Box::new(known(None))));
    bench.fact(Fact::Container(Box::new(Container {
        name: Some("db".into()),
        ..known(None)
    })));
    let header = bench.header(10, HOST_CGROUP);
    bench.record(Record::Cgroup {
        header,
        made: false,
        id: BOX_CGROUP,
        path: format!("/docker/{}", id()).into_bytes(),
    });
    let actions: Vec<_> = bench
        .of_type("container")
        .iter()
        .map(|event| event.evt_args.as_ref().unwrap()["action"].to_string())
        .collect();
    assert_eq!(actions, ["start", "running", "change", "stop"]);
    let records: Vec<_> = bench
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Container(record) => Some((&*record.status, record.container_name.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(
        records,
        [
            ("running", Some("web")),
            ("running", Some("db")),
            ("removed", Some("db"))
        ]
    );
    assert_eq!(bench.tracker.known().1, 0);
}

#[test]
fn users_are_named_by_their_own_container() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.fact(Fact::Users {
        container: Some(id().into()),
        users: Users::parse("app:x:0:0:", "staff:x:0:", None),
    });
    bench.fact(Fact::Users {
        container: None,
        users: Users::parse("root:x:0:0:", "", None),
    });
    let inside = bench.exec(11, 1, INSIDE, "web");
    assert_eq!(
        (inside.user_name.as_deref(), inside.group_name.as_deref()),
        (Some("app"), Some("staff"))
    );
    bench.fork(10, 30, 0, OUTSIDE);
    assert_eq!(
        bench.exec(30, 30, OUTSIDE, "sh").user_name.as_deref(),
        Some("root")
    );
}

#[test]
fn a_process_never_heard_of_is_taken_in() {
    let mut bench = Bench::new();
    bench.container(None);
    let open = {
        let mut header = bench.header(77, BOX_CGROUP);
        header.ret = 3;
        let file = FileIdentity::default();
        let path = b"/x".to_vec();
        bench.record(Record::Open {
            header,
            open_flags: 0,
            mode: 0,
            file,
            raw: path.clone(),
            path,
            base: Vec::new(),
            mnt_ns: 0,
            fold: 0,
            place: Vec::new(),
        });
        bench.last()
    };
    assert_eq!(
        (open.proc_stage.as_deref(), open.proc_name.as_deref()),
        (None, None)
    );
    assert_eq!(&*open.container_id, &id()[..12]);
}

#[test]
fn a_step_of_the_clock_is_an_event() {
    let mut bench = Bench::new();
    bench.fact(Fact::Clock(Reading {
        boot_ns: 101 * SECOND_NS,
        wall_ns: 41 * SECOND_NS as i64,
    }));
    assert_eq!(
        &*bench.last().evt_args.as_ref().unwrap()["moved_ns"],
        "-60000000000"
    );
    assert_eq!(bench.last().ts, 41 * SECOND_NS as i64);
}

const OTHER_CGROUP: u64 = 8;

/// A second container beside [`Bench::container`]'s, whose cgroup exists already.
fn other_container(bench: &mut Bench) -> String {
    let id = "cd".repeat(32);
    bench.fact(Fact::Cgroup {
        id: OTHER_CGROUP,
        path: format!("/docker/{id}").into(),
    });
    let membership = membership(&format!("/docker/{id}")).unwrap();
    bench.fact(Fact::Container(Box::new(Container::unknown(&membership))));
    id
}

#[test]
fn a_full_table_keeps_no_event_back_and_makes_nobody_the_host() {
    let mut bench = Bench::with_bounds(16, 64);
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    let other = other_container(&mut bench);
    bench.fork(10, 20, OTHER_CGROUP, OUTSIDE);
    bench.exec(20, 5, INSIDE, "sh");
    for pid in 1_000..1_500 {
        bench.fork(11, pid, 0, INSIDE);
    }
    let forks = bench.of_type("clone").len();
    assert_eq!(forks, 2 + 500);
    for (pid, full_id) in [
        (1_000, &id()),
        (2_000, &id()),
        (20, &other),
        (2_001, &other),
    ] {
        let cgroup = if *full_id == other {
            OTHER_CGROUP
        } else {
            BOX_CGROUP
        };
        let mut header = bench.header(pid, cgroup);
        header.ret = 3;
        let record = open_of(header, "/etc/shadow");
        bench.record(record);
        let open = bench.last();
        assert_eq!(open.container_full_id.as_deref(), Some(&**full_id), "{pid}");
    }
    let known_again = bench
        .of_type("open")
        .iter()
        .map(|event| event.proc_stage.as_deref().map(String::from))
        .collect::<Vec<_>>();
    let expected = [Some("entrypoint"), None, Some("exec"), None];
    assert_eq!(known_again, expected.map(|stage| stage.map(String::from)));
    let ran = bench.exec(1_001, 7, INSIDE, "id");
    assert_eq!(
        (ran.proc_cmdline.as_deref(), stage(&ran)),
        (Some("id"), "entrypoint")
    );
    let shortfalls = bench.tracker.shortfalls();
    let count: u64 = shortfalls
        .iter()
        .filter(|shortfall| shortfall.class == Class::TableFull && &*shortfall.evt_type == "clone")
        .map(|shortfall| shortfall.count)
        .sum();
    assert!(count > 400, "{shortfalls:?}");
}

#[test]
fn a_file_reached_in_the_hosts_tree_has_its_host_name() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    let mut header = bench.header(11, BOX_CGROUP);
    header.ret = 3;
    let mut open = |mnt_ns| {
        let record = match open_of(header, "/etc/cron.d/x") {
            Record::Open {
                header,
                open_flags,
                mode,
                file,
                path,
                raw,
                base,
                fold,
                ..
            } => Record::Open {
                header,
                open_flags,
                mode,
                file,
                path,
                raw,
                base,
                mnt_ns,
                fold,
                place: Vec::new(),
            },
            other => other,
        };
        bench.record(record);
        bench.last().fd_host_name
    };
    assert_eq!(open(HOST_MNT).as_deref(), Some("/etc/cron.d/x"));
    assert_eq!(open(BOX_MNT), None);
}

#[test]
fn a_file_has_its_place_on_the_host_whatever_tree_it_is_reached_through() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "sh");
    let disk = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
    bench.fact(Fact::HostMounts(Mounts::parse(disk)));
    let mut open = |path: &str, in_file_system: &str, dev: u64, tree: u32| {
        let header = bench.header(11, BOX_CGROUP);
        let mut record = open_of(header, path);
        if let Record::Open {
            file,
            place,
            mnt_ns,
            ..
        } = &mut record
        {
            (file.dev, file.fs_magic) = (dev, 0xef53);
            *place = in_file_system.into();
            *mnt_ns = tree;
        }
        bench.record(record);
        let event = bench.last();
        let text = |text: Option<Text>| text.map(|text| text.to_string());
        (text(event.fd_host_name), text(event.fd_from))
    };
    let (disk, other) = (libc::makedev(8, 1), libc::makedev(8, 2));
    let some = |name: &str| Some(name.to_owned());
    let mount = some("mount");
    // The host's disk, mounted by the container; part of a volume, mounted elsewhere; another container's tree.
    let own = open("/mnt/etc/cron.d/x", "/etc/cron.d/x", disk, BOX_MNT);
    assert_eq!(own, (some("/etc/cron.d/x"), mount.clone()));
    let part = open("/tmp/p/x", "/srv/in/x", disk, BOX_MNT);
    assert_eq!(part, (some("/srv/in/x"), mount));
    let elsewhere = open("/data/x", "/data/x", other, BOX_MNT + 1);
    assert_eq!(elsewhere, (None, None));
    let hosts = open("/etc/x", "/etc/x", disk, HOST_MNT);
    assert_eq!(hosts, (some("/etc/x"), None));
}

#[test]
fn a_call_says_where_it_has_led_and_the_process_is_there() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    let header = bench.header(11, BOX_CGROUP);
    let path = |raw: &str, base: &str| Value::Path {
        raw: raw.into(),
        base: base.into(),
    };
    let cwd = (PLACE_CWD, Value::Text(b"/srv/app".to_vec()));
    bench.record(called(
        "chdir",
        header,
        vec![(0, path("app", "/srv/app")), cwd],
    ));
    let moved = bench.last();
    assert_eq!(moved.fd_name.as_deref(), Some("/srv/app"));
    assert_eq!(moved.evt_path_source.as_deref(), Some("kernel"));
    assert_eq!(moved.proc_cwd.as_deref(), Some("/srv/app"));
    let values = vec![
        (1, path("a", "/srv/app")),
        (3, path("/b", "/srv/app/jail")),
        (4, Value::Number(1)),
    ];
    bench.record(called("renameat2", header, values));
    let renamed = bench.last();
    assert_eq!(renamed.fs_path_source.as_deref(), Some("/srv/app/a"));
    assert_eq!(renamed.fs_path_target.as_deref(), Some("/srv/app/jail/b"));
    assert_eq!(&*renamed.evt_args.unwrap()["flags"], "RENAME_NOREPLACE");
    assert_eq!((renamed.fd_name, renamed.evt_unresolved), (None, true));
}

#[test]
fn who_a_process_is_follows_its_calls() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    let mut header = bench.header(11, BOX_CGROUP);
    header.uid = 1_000;
    let identity = Identity {
        sid: 11,
        mnt_ns: BOX_MNT,
        ns_uid: 1_000,
        comm: b"renamed".to_vec(),
        ..Identity::default()
    };
    let values = vec![
        (0, Value::Number(1_000)),
        (PLACE_IDENTITY, Value::Identity(identity)),
    ];
    bench.record(called("setuid", header, values));
    let after = bench.open(11, "/x", 3, 0);
    assert_eq!(after.proc_name.as_deref(), Some("renamed"));
    assert_eq!(
        (after.proc_sid, after.proc_mnt_ns),
        (Some(11), Some(i64::from(BOX_MNT)))
    );
}

#[test]
fn a_server_tells_its_own_end_and_a_refused_client_whom_the_kernel_tried() {
    let mut bench = Bench::new();
    bench.running(10, 0);
    let header = bench.header(10, HOST_CGROUP);
    let end = |local_port, remote_port| {
        let mut socket = SocketAddresses {
            family: 2,
            socket_type: 1,
            protocol: 6,
            local_port,
            remote_port,
            ..SocketAddresses::default()
        };
        socket.remote[..4].copy_from_slice(&[10, 0, 0, 9]);
        socket
    };
    let socket = |socket| Value::Socket { fd: 3, socket };
    bench.record(called("listen", header, vec![(0, socket(end(80, 0)))]));
    let listening = bench.last();
    assert_eq!(listening.fd_name.as_deref(), Some("0.0.0.0:80"));
    assert_eq!((listening.fd_sport, listening.fd_rport), (Some(80), None));
    assert_eq!(listening.fd_is_server, Some(true));
    bench.record(called("accept4", header, vec![(4, socket(end(80, 5_000)))]));
    let accepted = bench.last();
    assert_eq!(
        accepted.fd_name.as_deref(),
        Some("10.0.0.9:5000->0.0.0.0:80")
    );
    let refused = Header {
        ret: -i64::from(libc::ECONNREFUSED),
        ..header
    };
    let values = vec![
        (0, socket(end(0, 0))),
        (1, Value::Address(end(0, 1))),
        (PLACE_PEER, Value::Peer(end(0, 443))),
    ];
    bench.record(called("connect", refused, values));
    let connect = bench.last();
    assert_eq!(connect.fd_sport, Some(443));
    assert_eq!(connect.fd_addr_source.as_deref(), Some("kernel"));
}

fn called(name: &str, header: Header, values: Vec<(u8, Value)>) -> Record {
    let call = Call::named(name).unwrap();
    Record::Called(Box::new(Called {
        header: Header {
            call: Some(call),
            ..header
        },
        call,
        values,
    }))
}

fn open_of(header: Header, path: &str) -> Record {
    Record::Open {
        header,
        open_flags: 0,
        mode: 0,
        file: FileIdentity::default(),
        raw: path.into(),
        path: path.into(),
        base: Vec::new(),
        mnt_ns: 0,
        fold: 0,
        place: Vec::new(),
    }
}

#[test]
fn who_was_given_up_and_leaves_its_container_is_told() {
    let mut bench = Bench::with_bounds(16, 64);
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    for pid in 1_000..1_200 {
        bench.fork(11, pid, 0, INSIDE);
    }
    assert!(bench.tracker.table.with_pid(1_000).is_none());
    bench.enter(10, 1_000, HOST_CGROUP);
    let moved = bench.of_type("container_move");
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].container_origin_id.as_deref(), Some(&id()[..12]));
}

#[test]
fn a_cgroup_nothing_is_known_of_is_not_the_host() {
    let mut bench = Bench::new();
    let header = bench.header(50, 99);
    bench.record(open_of(header, "/etc/shadow"));
    let open = bench.last();
    assert_eq!(
        (&*open.container_id, open.container_type, open.proc_stage),
        ("unknown", None, None)
    );
    bench.fact(Fact::Cgroup {
        id: 99,
        path: format!("/docker/{}", id()).into(),
    });
    bench.fact(Fact::Container(Box::new(known(None))));
    let header = bench.header(50, 99);
    bench.record(open_of(header, "/etc/shadow"));
    assert_eq!(bench.last().container_full_id, Some(id().into()));
    assert!(bench.of_type("container_move").is_empty());
}

#[test]
fn leaving_through_an_unknown_cgroup_is_told_when_it_is_known() {
    let mut bench = Bench::new();
    bench.container(None);
    bench.exec(11, 1, INSIDE, "web");
    bench.enter(10, 11, 99);
    assert!(bench.of_type("container_move").is_empty());
    assert_eq!(
        bench.open(11, "/x", 3, 0).container_origin_id.as_deref(),
        Some(&id()[..12])
    );
    bench.fact(Fact::Cgroup {
        id: 99,
        path: "/user.slice".into(),
    });
    bench.open(11, "/x", 3, 0);
    assert_eq!(bench.of_type("container_move").len(), 1);
}

#[test]
fn a_stranger_has_the_stage_that_is_certain() {
    let mut bench = Bench::new();
    bench.container(Some("check me"));
    bench.exec(11, 1, INSIDE, "web");
    let exec = |bench: &mut Bench, pid: u32, parent: u32, argv: &str| {
        let mut header = bench.header(pid, BOX_CGROUP);
        header.vpid = 50;
        let identity = Identity {
            mnt_ns: BOX_MNT,
            pid_ns: BOX_PIDNS,
            ..identity(parent)
        };
        bench.record(Record::Exec(Box::new(Exec {
            header,
            identity,
            argv: argv.replace(' ', "\0").into_bytes(),
            ..Exec::default()
        })));
        bench.last().proc_stage.as_deref().map(String::from)
    };
    let told = |stage: &str| Some(stage.to_owned());
    assert_eq!(
        exec(&mut bench, 60, 10, "sh"),
        told("exec"),
        "from the host"
    );
    assert_eq!(
        exec(&mut bench, 61, 60, "sh"),
        told("exec"),
        "as its parent"
    );
    assert_eq!(
        exec(&mut bench, 62, 11, "sh"),
        None,
        "an orphan's parent is the init"
    );
    assert_eq!(
        exec(&mut bench, 63, 999, "sh"),
        None,
        "a parent nobody knows"
    );
    assert_eq!(exec(&mut bench, 64, 10, "check me"), told("healthcheck"));
}

#[test]
fn the_first_program_of_a_container_in_anothers_pid_namespace_is_its_entrypoint() {
    let mut bench = Bench::new();
    bench.container(None);
    let mut joined = known(None);
    joined.joins_pidns = true;
    joined.probes = vec![vec!["ready".into()]];
    bench.fact(Fact::Container(Box::new(joined)));
    assert_eq!(stage(&bench.exec(11, 11, OUTSIDE, "runc init")), "runtime");
    assert_eq!(stage(&bench.exec(11, 7, INSIDE, "web")), "entrypoint");
    for (pid, argv, expected) in [(20, "sh", "exec"), (21, "ready", "healthcheck")] {
        bench.fork(10, pid, 0, OUTSIDE);
        bench.enter(10, pid, BOX_CGROUP);
        assert_eq!(stage(&bench.exec(pid, 9, INSIDE, argv)), expected, "{argv}");
    }
}

#[test]
fn all_arguments_are_in_the_row_of_the_exec_alone() {
    let mut bench = Bench::new();
    bench.running(10, 0);
    bench.fork(10, 30, 0, OUTSIDE);
    let long = "y".repeat(30_000);
    let exec = bench.exec(30, 30, OUTSIDE, &format!("app {long}"));
    assert_eq!(exec.proc_cmdline.unwrap().len(), 4 + 30_000);
    assert_eq!(exec.proc_args.unwrap()[0].len(), 30_000);
    assert!(!exec.evt_truncated);
    let open = bench.open(30, "/x", 3, 0);
    assert_eq!(open.proc_cmdline.unwrap().len(), 512);
    assert!(open.evt_truncated);
}

#[test]
fn a_container_keeps_its_name_when_its_files_cannot_be_read_again() {
    let mut bench = awaited(16);
    bench.fact(Fact::Container(Box::new(known(Some(vec!["check".into()])))));
    let membership = membership(&format!("/docker/{}", id())).unwrap();
    bench.fact(Fact::Container(Box::new(Container::unknown(&membership))));
    let rows = bench.of_type("container");
    let last = rows.last().unwrap();
    assert_eq!(&*last.evt_args.as_ref().unwrap()["action"], "running");
    assert_eq!(last.container_name.as_deref(), Some("web"));
}

#[test]
fn one_container_does_not_take_the_whole_queue() {
    let mut bench = awaited(100_000);
    let other = "cd".repeat(32);
    bench.fact(Fact::Cgroup {
        id: OTHER_CGROUP,
        path: format!("/docker/{other}").into(),
    });
    for _ in 0..3_000 {
        bench.open_quietly(10);
    }
    assert!(!bench.tracker.shortfalls().is_empty());
    let before = bench.rows.len();
    let header = bench.header(70, OTHER_CGROUP);
    bench.record(open_of(header, "/x"));
    assert_eq!(bench.rows.len(), before, "the other's event waits");
}

#[test]
fn what_is_known_of_containers_and_users_is_bounded_in_bytes() {
    let mut bench = Bench::new();
    let container = |number: u32, label_bytes: usize| {
        let id = format!("{number:064x}");
        let path = format!("/docker/{id}");
        let mut container = Container::unknown(&membership(&path).unwrap());
        container.source = "docker_files".into();
        container.name = Some("web".into());
        container.labels = Some(BTreeMap::from([(
            "l".into(),
            "v".repeat(label_bytes).into(),
        )]));
        (path, container)
    };
    for number in 0..300 {
        let bytes = if number < 10 { 10 } else { 60 << 10 };
        let (path, container) = container(number, bytes);
        let id = Some(container.id.clone());
        bench.fact(Fact::Cgroup {
            id: 1_000 + u64::from(number),
            path: path.into(),
        });
        bench.fact(Fact::Container(Box::new(container)));
        let names: String = (0..100)
            .map(|uid| format!("{}{uid}:x:{uid}:\n", "n".repeat(bytes.min(200))))
            .collect();
        bench.fact(Fact::Users {
            container: id,
            users: Users::parse(&names, &names, None),
        });
    }
    assert!(bench.tracker.places.bytes() <= 6 << 20);
    let names: usize = bench.tracker.users.values().map(Users::bytes).sum();
    assert!(names <= USERS_BYTES_MAX);
    for number in 0..10 {
        let (_, small) = container(number, 10);
        assert_eq!(bench.tracker.places.container(&small.id), Some(&small));
        assert!(bench.tracker.users.contains_key(&Some(small.id)));
    }
    let (_, large) = container(299, 0);
    let kept = bench.tracker.places.container(&large.id).unwrap();
    assert_eq!(
        (kept.name.as_deref(), kept.truncated),
        (Some("web"), kept.labels == Some(BTreeMap::new()))
    );
}

#[test]
fn what_the_kernel_counted_is_told_as_rows_of_its_container() {
    let mut bench = Bench::new();
    bench.container(None);
    let mut header = bench.header(77, BOX_CGROUP);
    header.ret = -i64::from(libc::ENOENT);
    let failure = |fold| Record::Open {
        header,
        open_flags: 0,
        mode: 0,
        file: FileIdentity::default(),
        path: Vec::new(),
        raw: b"none".to_vec(),
        base: b"/etc".to_vec(),
        mnt_ns: BOX_MNT,
        fold,
        place: Vec::new(),
    };
    bench.record(failure(7));
    let first = bench.last();
    let counted = Counted {
        count: 41,
        first_ns: 1,
        last_ns: 2,
    };
    let folded = |fold| Fact::Folded {
        cgroup_id: BOX_CGROUP,
        fold,
        counted,
    };
    bench.fact(folded(7));
    let again = bench.last();
    let same = |event: &Event| {
        (
            event.evt_type.clone(),
            event.evt_res.clone(),
            event.fd_name.clone(),
            event.proc_key.clone(),
            event.container_id.clone(),
        )
    };
    assert_eq!(same(&again), same(&first));
    assert_eq!((first.evt_count, again.evt_count), (None, Some(41)));
    assert!(again.evt_args.unwrap().contains_key("last_ts"));
    // One that is no longer kept, and calls that were too many.
    bench.fact(folded(8));
    let unnamed = bench.last();
    assert_eq!((unnamed.evt_count, unnamed.fd_name), (Some(41), None));
    bench.fact(Fact::Limited {
        cgroup_id: BOX_CGROUP,
        kind: "connect".into(),
        counted,
    });
    let limited = bench.last();
    assert_eq!(&*limited.evt_type, "rate_limited");
    assert_eq!(&*limited.evt_args.unwrap()["kind"], "connect");
    for id in [unnamed.container_id, limited.container_id] {
        assert_eq!(id, first.container_id);
    }
    // What was counted is read when the container may have ended.
    bench.fact(Fact::CgroupGone { id: BOX_CGROUP });
    for (cgroup_id, id) in [(BOX_CGROUP, &*first.container_id), (999, "unknown")] {
        bench.fact(Fact::Limited {
            cgroup_id,
            kind: "connect".into(),
            counted,
        });
        assert_eq!(&*bench.last().container_id, id);
    }
}

#[test]
fn processes_in_namespaces_of_their_own_are_no_hosts() {
    let mut bench = Bench::new();
    bench.exec(
        10,
        10,
        (HOST_MNT, HOST_PIDNS),
        "unshare -pf --mount-proc sh",
    );
    bench.fork(10, 11, HOST_CGROUP, (300, 301));
    let event = bench.exec(11, 1, (300, 301), "sh");
    assert_eq!(event.container_type.as_deref(), Some("namespaces"));
    assert_eq!(
        event.container_full_id.as_ref().map(|id| id.len()),
        Some(64)
    );
    assert_eq!(event.proc_stage.as_deref(), Some("entrypoint"));
    let child = event.container_id;
    bench.fork(11, 12, HOST_CGROUP, (300, 301));
    let event = bench.exec(12, 2, (300, 301), "id");
    assert_eq!(event.container_id, child);
    bench.fork(10, 13, HOST_CGROUP, (HOST_MNT, HOST_PIDNS));
    let event = bench.exec(13, 13, (HOST_MNT, HOST_PIDNS), "id");
    assert_eq!(&*event.container_id, "host");
}
