//! Synthetic events of a small fleet, in the proportions that a container host shows.
//!
//! The generator is seeded: every run and every peer sees the same events, in the hour it runs.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use dogwatch_stream_processor::decode::InputRecord;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Hosts, containers on each, and programs they run.
pub const HOSTS: usize = 64;
const CONTAINERS: usize = 60;
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("nginx", "/usr/sbin/nginx", "nginx: worker process"),
    (
        "java",
        "/usr/bin/java",
        "java -Xmx512m -jar /srv/app/orders.jar --port 8080",
    ),
    (
        "postgres",
        "/usr/lib/postgresql/15/bin/postgres",
        "postgres: writer process",
    ),
    ("node", "/usr/local/bin/node", "node /srv/app/server.js"),
    (
        "python3",
        "/usr/bin/python3.11",
        "python3 -m gunicorn app:application --workers 4",
    ),
    ("sh", "/usr/bin/dash", "sh -c /srv/app/cleanup.sh"),
];
/// First second of the synthetic time: this hour's, since windows do not believe a time far from the broker's.
static EPOCH_NS: LazyLock<i64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    (seconds - seconds % 3_600) as i64 * 1_000_000_000
});

/// Makes `count` events from a seed.
pub fn synthetic(count: usize, seed: u64) -> Vec<Event> {
    Stream::new(seed, CONTAINERS, 20_000).take(count).collect()
}

/// Events without an end.
pub struct Stream {
    random: StdRng,
    seq: usize,
    containers: usize,
    step_ns: i64,
}

impl Stream {
    /// So many containers on each host, and so many nanoseconds from event to event.
    pub fn new(seed: u64, containers: usize, step_ns: i64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            seq: 0,
            containers,
            step_ns,
        }
    }
}

impl Iterator for Stream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let event = one(self.seq, self.containers, self.step_ns, &mut self.random);
        self.seq += 1;
        Some(event)
    }
}

fn one(seq: usize, containers: usize, step_ns: i64, random: &mut StdRng) -> Event {
    let host = random.random_range(0..HOSTS);
    let container = random.random_range(0..containers);
    let (name, path, cmdline) = PROGRAMS[container % PROGRAMS.len()];
    let pid = 2000 + (container * 7 + random.random_range(0..5)) as i64;
    let boot_ts = 1_000_000_000 + seq as i64 * step_ns;
    let mut event = Event {
        host_id: format!("{host:032x}").into(),
        host_name: format!("node-{host}").into(),
        boot_id: "8c1f4a52-3f0e-4a3b-9d55-0a4f3b2c1d00".into(),
        sensor_run: "5f2e8a1b9c3d4e5f".into(),
        seq: seq as i64,
        ts: *EPOCH_NS + boot_ts,
        boot_ts,
        evt_outcome: "success".into(),
        evt_res: text("SUCCESS"),
        evt_backend: "tracepoint".into(),
        evt_hook: "sys_exit".into(),
        evt_abi: "native".into(),
        evt_cpu: Some(random.random_range(0..8)),
        proc_key: format!("{:016x}", pid * 7919 + host as i64).into(),
        proc_pid: pid,
        thread_tid: pid,
        proc_vpid: Some(1 + pid % 40),
        proc_name: text(name),
        proc_exe: text(cmdline.split(' ').next().unwrap_or(name)),
        proc_exepath: text(path),
        proc_cmdline: text(cmdline),
        proc_args: Some(cmdline.split(' ').skip(1).map(Text::from).collect()),
        proc_cwd: text("/srv/app"),
        proc_tty: Some(0),
        proc_sid: Some(pid - pid % 5),
        proc_stage: text("entrypoint"),
        proc_ppid: Some(1900),
        proc_pkey: text("00000000deadbeef"),
        proc_pname: text("containerd-shim"),
        proc_aname: Some(vec!["containerd-shim".into(), "systemd".into()]),
        proc_akey: Some(vec!["00000000deadbeef".into(), "0000000000000001".into()]),
        proc_apid: Some(vec![1900, 1]),
        user_uid: Some(1000),
        user_host_uid: Some(1000),
        user_name: text("app"),
        container_id: format!("{container:012x}").into(),
        container_full_id: text(&format!("{container:064x}")),
        container_name: text(&format!("orders-{container}")),
        container_type: text("docker"),
        container_image: text("registry.example/shop/orders:1.4.2"),
        container_image_repository: text("registry.example/shop/orders"),
        container_image_tag: text("1.4.2"),
        container_privileged: Some(false),
        ..Event::default()
    };
    match random.random_range(0..100) {
        0..55 => opened(&mut event, random),
        55..75 => connected(&mut event, random),
        75..90 => executed(&mut event, random),
        _ => ended(&mut event, random),
    }
    event
}

fn opened(event: &mut Event, random: &mut StdRng) {
    const FOLDERS: [&str; 5] = [
        "/srv/app/data",
        "/var/log/app",
        "/tmp",
        "/etc",
        "/usr/lib/x86_64-linux-gnu",
    ];
    let folder = FOLDERS.choose(random).expect("the list is not empty");
    let file = format!("part-{:04}.dat", random.random_range(0..400));
    event.evt_type = "openat".into();
    event.evt_category = "file".into();
    event.evt_is_open_write = random.random_bool(0.6);
    event.evt_is_open_read = !event.evt_is_open_write;
    event.evt_path_source = text("kernel");
    event.fd_num = Some(random.random_range(3..200));
    event.fd_type = text("file");
    event.fd_name = text(&format!("{folder}/{file}"));
    event.fd_directory = text(folder);
    event.fd_filename = text(&file);
    event.fd_flags = text("O_WRONLY|O_CREAT|O_CLOEXEC");
}

fn connected(event: &mut Event, random: &mut StdRng) {
    let server = format!(
        "10.{}.{}.{}",
        random.random_range(0..4),
        random.random_range(0..20),
        random.random_range(1..20)
    );
    event.evt_type = "connect".into();
    event.evt_category = "net".into();
    event.fd_type = text("ipv4");
    event.fd_family = text("ipv4");
    event.fd_l4proto = text("tcp");
    event.fd_name = text(&format!("172.17.0.2:40000->{server}:5432"));
    event.fd_cip = text("172.17.0.2");
    event.fd_cport = Some(40_000);
    event.fd_sip = text(&server);
    event.fd_sport = Some(5432);
}

fn executed(event: &mut Event, random: &mut StdRng) {
    event.evt_type = "execve".into();
    event.evt_category = "process".into();
    event.evt_hook = "sched_process_exec".into();
    event.proc_exe_from = text("image");
    event.proc_exe_ino = Some(random.random_range(1..100_000));
    event.proc_stdin_type = text("null");
}

fn ended(event: &mut Event, random: &mut StdRng) {
    event.evt_type = "procexit".into();
    event.evt_category = "process".into();
    event.proc_exit_code = Some(0);
    event.proc_duration_ns = Some(random.random_range(1_000_000..9_000_000_000));
    event.proc_cpu_user_ns = Some(random.random_range(100_000..900_000_000));
}

fn text(value: &str) -> Option<Text> {
    Some(value.into())
}

/// Events as they lie in partition 0, appended when they happened.
pub fn records(events: &[Event]) -> Vec<InputRecord> {
    events.iter().enumerate().map(record).collect()
}

fn record((offset, event): (usize, &Event)) -> InputRecord {
    let mut value = Vec::new();
    event.encode_framed(&mut value);
    InputRecord {
        topic: Topic::Events,
        partition: 0,
        offset: offset as i64,
        ingest_ts_ns: Some(event.ts),
        key: event.host_id.as_bytes().to_vec().into(),
        value: value.into(),
    }
}
