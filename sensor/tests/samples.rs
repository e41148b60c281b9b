//! A known load, and what the samples say of it: held against the cgroup's files and `/proc`, within 5 %.
//!
//! Needs root and a kernel with type information.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[path = "samples/beside.rs"]
mod beside;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dogwatch_schemas::records::{ContainerSample, IoSample, ProcessSample, SyscallSample};

use crate::beside::{Cgroups, PATIENCE, Rows, beside};

/// Set in the process that is the load.
const LOAD: &str = "DOGWATCH_SAMPLES_LOAD";
const MEMORY_BYTES: usize = 100 << 20;
const FILES: usize = 50;
const WRITES: usize = 1_000;
const WRITE_BYTES: usize = 4_096;
/// Opens that fail, of the load and of a child that ends at once.
const FAILING: usize = 500;
/// Bytes that a connection carries, and a pair of UDP sockets, each way.
const CARRIED_BYTES: usize = 10 << 20;
const DATAGRAM_BYTES: usize = 8 << 10;
/// Connections that nobody accepts.
const WAITING: i64 = 3;
const CPU: Duration = Duration::from_millis(1_500);

/// The load itself, where this program was started as one: memory, files, writes, reads, CPU; then it waits to be killed.
#[test]
#[ignore = "is started by the other test: ./dogwatch.sh test"]
fn load() {
    if std::env::var_os(LOAD).is_none() {
        return;
    }
    let mut memory = vec![0u8; MEMORY_BYTES];
    memory.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
    let files: Vec<File> = (0..FILES)
        .map(|_| File::open("/dev/null").unwrap())
        .collect();
    fail();
    // SAFETY: the child makes system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        fail();
        // SAFETY: a plain system call.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: waits for a child of this process.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let mut file = tempfile::tempfile().unwrap();
    let block = vec![7u8; WRITE_BYTES];
    for _ in 0..WRITES {
        file.write_all(&block).unwrap();
    }
    let mut zeros = File::open("/dev/zero").unwrap();
    let mut block = vec![0; WRITE_BYTES];
    for _ in 0..WRITES {
        zeros.read_exact(&mut block).unwrap();
    }
    let mut time = cpu_time();
    let end = time + CPU;
    while time < end {
        time = cpu_time();
    }
    let network = Network::make();
    println!("\nconnection {}", network.told());
    println!("the load is done");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(PATIENCE * 2);
    drop((memory, files, file, network));
}

/// A socket with connections that nobody accepts, and a connection that carried something, both of its ends; and the same of
/// UDP, where one datagram in four was looked at before it was taken.
struct Network {
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
    client: TcpStream,
    _server: TcpStream,
    datagrams: [UdpSocket; 2],
}

impl Network {
    fn make() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        for (from, to) in [(&client, &server), (&server, &client)] {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut from = from;
                    from.write_all(&vec![7; CARRIED_BYTES]).unwrap();
                });
                let mut to = to;
                to.read_exact(&mut vec![0; CARRIED_BYTES]).unwrap();
            });
        }
        let waiting = (0..WAITING).map(|_| TcpStream::connect(address).unwrap());
        Self {
            _waiting: waiting.collect(),
            _listener: listener,
            client,
            _server: server,
            datagrams: Self::datagrams(),
        }
    }

    fn datagrams() -> [UdpSocket; 2] {
        let ends = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [one, other] = &ends;
        one.connect(other.local_addr().unwrap()).unwrap();
        other.connect(one.local_addr().unwrap()).unwrap();
        let mut datagram = [7; DATAGRAM_BYTES];
        for (from, to) in [(one, other), (other, one)] {
            for number in 0..CARRIED_BYTES / DATAGRAM_BYTES {
                from.send(&datagram).unwrap();
                if number % 4 == 0 {
                    assert_eq!(to.peek(&mut datagram).unwrap(), DATAGRAM_BYTES);
                }
                assert_eq!(to.recv(&mut datagram).unwrap(), DATAGRAM_BYTES);
            }
        }
        ends
    }

    /// The client's port and what TCP_INFO has of it, which is what `ss` shows: bytes received and acknowledged, segments
    /// received and sent; and the port of a UDP socket.
    fn told(&self) -> String {
        let mut info = [0u8; 144];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`.
        let result = unsafe {
            libc::getsockopt(
                self.client.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        // Where struct tcp_info (include/uapi/linux/tcp.h) has them.
        let long = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap());
        let port = self.client.local_addr().unwrap().port();
        let (received, acked) = (long(128), long(120));
        let udp = self.datagrams[0].local_addr().unwrap().port();
        format!(
            "{port} {received} {acked} {} {} {udp}",
            word(140),
            word(136)
        )
    }
}

/// Opens what is not there, and asks a terminal of what is none.
fn fail() {
    for _ in 0..FAILING {
        // SAFETY: the path ends with NUL, and nothing is opened.
        let opened = unsafe { libc::open(c"/dogwatch/none".as_ptr(), libc::O_RDONLY) };
        assert_eq!(opened, -1);
    }
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Load(Child);

impl Load {
    /// Starts this program as the load, in these cgroups.
    fn start(cgroups: &Cgroups) -> Self {
        Self(cgroups.start(Self::command()))
    }

    /// Starts it where this program is, which is no container.
    fn start_on_host() -> Self {
        Self(Self::command().spawn().unwrap())
    }

    fn command() -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "--nocapture", "load"])
            .env(LOAD, "1")
            // Cargo's search path for libraries: the loader would look into each of its folders in vain.
            .env_remove("LD_LIBRARY_PATH")
            .stdout(Stdio::piped());
        command
    }

    /// Waits until it is done; returns what it says of its connection, see [`Network::told`].
    fn is_done(&mut self) -> Vec<i64> {
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let mut connection = Vec::new();
        for line in output.lines() {
            let line = line.unwrap();
            if let Some(numbers) = line.strip_prefix("connection ") {
                let numbers = numbers.split(' ').map(|number| number.parse().unwrap());
                connection = numbers.collect();
            }
            if line.contains("the load is done") {
                return connection;
            }
        }
        panic!("the load ended before it was done")
    }

    /// CPU of its children that ended, as proc(5) has it in hundredths of a second: no row of its own process tells it.
    fn children_ns(&self) -> i64 {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let of_children = fields.split(' ').skip(13).take(2);
        let ticks: i64 = of_children.map(|field| field.parse::<i64>().unwrap()).sum();
        ticks * 10_000_000
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Best effort: one that has ended cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number in the first of these files of a container that there is.
fn number(cgroups: &Cgroups, files: &[&str]) -> Option<i64> {
    let text = text(cgroups, files)?;
    text.trim().parse().ok()
}

fn text(cgroups: &Cgroups, files: &[&str]) -> Option<String> {
    let mut paths = cgroups
        .folders
        .iter()
        .flat_map(|folder| files.iter().map(|file| folder.join(file)));
    paths.find_map(|path| fs::read_to_string(path).ok())
}

/// CPU time of a container so far, nanoseconds.
fn cpu_ns(cgroups: &Cgroups) -> i64 {
    number(cgroups, &["cpuacct.usage"]).unwrap_or_else(|| {
        let stat = text(cgroups, &["cpu.stat"]).unwrap();
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        1_000 * usage.unwrap().parse::<i64>().unwrap()
    })
}

/// What the kernel has told user and system apart of it: on cgroup v1 by the clock's ticks, of which a busy machine hands out
/// too few.
fn user_and_system_ns(cgroups: &Cgroups) -> i64 {
    let ticks = text(cgroups, &["cpuacct.stat"]);
    let unit = if ticks.is_some() { 10_000_000 } else { 1_000 };
    let stat = ticks.or_else(|| text(cgroups, &["cpu.stat"])).unwrap();
    let numbers = stat.lines().filter_map(|line| line.split_once(' '));
    let own = numbers
        .filter(|(name, _)| matches!(*name, "user" | "system" | "user_usec" | "system_usec"));
    own.map(|(_, number)| unit * number.parse::<i64>().unwrap())
        .sum()
}

/// Holds the opens that failed to what the load did: its own, and those of its child, which is gone.
fn failed_opens(rows: &Rows, container: &str, pid: i64) {
    let of_container = |row: &&SyscallSample| row.container_full_id.as_deref() == Some(container);
    let opens: Vec<_> = rows
        .calls
        .iter()
        .filter(of_container)
        .filter(|row| row.call_errno.as_deref() == Some("ENOENT"))
        .filter(|row| matches!(row.call_name.as_deref(), Some("open" | "openat")))
        .collect();
    let sum = |own: bool| -> i64 {
        let rows = opens.iter().filter(|row| (row.proc_pid == pid) == own);
        rows.filter_map(|row| row.call_failed).sum()
    };
    near("opens that failed", sum(true), FAILING as i64, 10);
    near(
        "and of a child that has ended",
        sum(false),
        FAILING as i64,
        0,
    );
    let of_process = rows.processes.iter().filter(|row| row.proc_pid == pid);
    let counted: i64 = of_process.filter_map(|row| row.calls_failed_file).sum();
    near("failed calls of the process", counted, FAILING as i64, 50);
    let of_container = |row: &&ContainerSample| row.container_full_id.as_deref() == Some(container);
    let samples = rows.containers.iter().filter(of_container);
    let counted: i64 = samples.filter_map(|row| row.calls_failed_file).sum();
    near("and of the container", counted, 2 * FAILING as i64, 100);
    let refused = rows.calls.iter().filter_map(|row| row.evt_losses.as_ref());
    assert!(refused.flatten().all(|(_, count)| *count == 0));
}

/// Holds files and sockets of the load to what `/proc` and TCP_INFO say of them.
fn open_files(rows: &Rows, load: &Load, container: &str, connection: &[i64]) {
    // On a slow machine a round is cut, which is told: what is new then has no growth, and the last processes have no rows.
    let losses = rows.io.iter().filter_map(|row| row.evt_losses.as_ref());
    let lost: Vec<_> = losses.flatten().filter(|(_, count)| **count > 0).collect();
    if !lost.is_empty() {
        assert!(
            lost.iter().all(|(class, _)| &***class == "unsampled"),
            "{lost:?}"
        );
        eprintln!("not held to the load, which was not read whole: {lost:?}");
        return;
    }
    let pid = i64::from(load.0.id());
    let own = |row: &&IoSample| row.proc_pid == pid;
    let rows_of_load: Vec<_> = rows.io.iter().filter(own).collect();
    assert!(
        rows_of_load
            .iter()
            .all(|row| row.container_full_id.as_deref() == Some(container))
    );

    let written = format!("{}/", std::env::temp_dir().display());
    let of_file = |row: &&&IoSample| {
        row.fd_deleted == Some(true)
            && row
                .fd_name
                .as_deref()
                .is_some_and(|name| name.starts_with(&*written))
    };
    let files: Vec<_> = rows_of_load.iter().filter(of_file).collect();
    let file = files.last().expect("the file that was written");
    let info = load.proc(&format!("fdinfo/{}", file.fd_num.unwrap()));
    let position = info.lines().find_map(|line| line.strip_prefix("pos:"));
    let position: i64 = position.unwrap().trim().parse().unwrap();
    let forward: i64 = files.iter().filter_map(|row| row.fd_forward_bytes).sum();
    near("bytes written to a file", forward, position, 0);
    assert_eq!(position, (WRITES * WRITE_BYTES) as i64);
    assert_eq!(
        (file.fd_position, file.fd_size_bytes),
        (Some(position), Some(position))
    );
    assert_eq!(file.fd_access.as_deref(), Some("both"));
    assert_eq!((file.fd_openings, file.fd_holders), (Some(1), Some(1)));

    let [port, received, acked, segments_in, segments_out, udp] = connection else {
        panic!("the load told {connection:?}")
    };
    let of_port = |row: &&&IoSample| row.fd_lport == Some(*port);
    let client: Vec<_> = rows_of_load.iter().filter(of_port).collect();
    let sum =
        |of: fn(&IoSample) -> Option<i64>| -> i64 { client.iter().filter_map(|row| of(row)).sum() };
    near("bytes received", sum(|row| row.fd_rx_bytes), *received, 0);
    near("bytes sent", sum(|row| row.fd_tx_bytes), *acked, 0);
    near(
        "segments received",
        sum(|row| row.fd_rx_segments),
        *segments_in,
        0,
    );
    near(
        "segments sent",
        sum(|row| row.fd_tx_segments),
        *segments_out,
        0,
    );
    assert!(*received >= CARRIED_BYTES as i64 && *acked >= CARRIED_BYTES as i64);
    let client = client.last().unwrap();
    assert_eq!(client.fd_state.as_deref(), Some("established"));
    assert_eq!(client.fd_lip.as_deref(), Some("127.0.0.1"));
    // Its own listener is the other end's.
    let of_server = |row: &&&IoSample| row.fd_rport == Some(*port);
    let server = rows_of_load.iter().find(of_server).expect("the other end");
    assert_eq!(server.fd_is_server, Some(true));
    assert_eq!(server.fd_lport, client.fd_rport);
    assert_eq!(server.fd_name, client.fd_name);

    let of_udp: Vec<_> = rows_of_load
        .iter()
        .filter(|row| row.fd_l4proto.as_deref() == Some("udp"))
        .filter(|row| row.fd_lport == Some(*udp))
        .collect();
    let told = |of: fn(&IoSample) -> Option<i64>| -> Vec<i64> {
        of_udp.iter().filter_map(|row| of(row)).collect()
    };
    assert!(!of_udp.is_empty(), "a socket of UDP has a row");
    let (received, sent) = (told(|row| row.fd_rx_bytes), told(|row| row.fd_tx_bytes));
    if counts_bytes() {
        let carried = CARRIED_BYTES as i64;
        near("bytes received by UDP", received.iter().sum(), carried, 0);
        near("bytes sent by UDP", sent.iter().sum(), carried, 0);
    } else {
        assert_eq!((received, sent), (vec![], vec![]));
    }
    assert_eq!(told(|row| row.fd_rx_segments), [0i64; 0]);

    let listens = |row: &&&IoSample| row.fd_state.as_deref() == Some("listen");
    let listener = rows_of_load.iter().rfind(listens).expect("the listener");
    let inode = format!(" {} ", listener.fd_ino.unwrap());
    let table = load.proc("net/tcp");
    let line = table.lines().find(|line| line.contains(&inode)).unwrap();
    let (_, waiting) = line
        .split_whitespace()
        .nth(4)
        .unwrap()
        .split_once(':')
        .unwrap();
    assert_eq!(i64::from_str_radix(waiting, 16).unwrap(), WAITING);
    assert_eq!(listener.fd_backlog, Some(WAITING));
    assert_eq!(
        listener.fd_backlog_limit,
        Some(128),
        "what std::net asks for"
    );
    assert_eq!(listener.fd_rx_bytes, None);

    let seqs: Vec<i64> = rows.io.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>());
}

/// Whether the kernel tells what sends and receives return.
fn counts_bytes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6u32, 3u32)
}

/// Holds the bytes of the load to what it sent and received: both ends are its own, of TCP and of UDP, there and back.
fn carried_bytes(rows: &Rows, pid: i64) {
    let own: Vec<_> = rows
        .processes
        .iter()
        .filter(|row| row.proc_pid == pid)
        .collect();
    let told = |of: fn(&ProcessSample) -> Option<i64>| -> Vec<i64> {
        own.iter().filter_map(|row| of(row)).collect()
    };
    let received = told(|row| row.proc_net_rx_bytes);
    let sent = told(|row| row.proc_net_tx_bytes);
    if !counts_bytes() {
        assert_eq!((received, sent), (vec![], vec![]));
        return;
    }
    let carried = 4 * CARRIED_BYTES as i64;
    near("received by the process", received.iter().sum(), carried, 0);
    near("sent by the process", sent.iter().sum(), carried, 0);
    let counted = own.iter().all(|row| {
        row.proc_net_rx_bytes.is_some() == row.sample_interval_ns.is_some()
            && row.proc_net_tx_bytes.is_some() == row.sample_interval_ns.is_some()
    });
    assert!(counted, "0 where there was nothing");
}

/// Holds a number to what it should be.
fn near(what: &str, told: i64, real: i64, slack: i64) {
    let allowed = real / 20 + slack;
    assert!(
        (told - real).abs() <= allowed,
        "{what}: told {told}, and it is {real}"
    );
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn a_known_load_is_told_within_a_twentieth() {
    beside(Duration::from_secs(1), |rows| {
        let cgroups = Cgroups::make();
        let mut load = Load::start(&cgroups);
        load.is_done();
        rows.rounds(3);
        let own = |row: &&ContainerSample| row.container_full_id.as_deref() == Some(&cgroups.id);
        let of_container: Vec<_> = rows.containers.iter().filter(own).collect();
        let last = of_container.last().unwrap();
        let added = |of: fn(&ContainerSample) -> Option<i64>| -> i64 {
            of_container.iter().filter_map(|row| of(row)).sum()
        };
        let cpu = added(|row| row.cpu_total_ns);
        near("CPU of the container", cpu, cpu_ns(&cgroups), 20_000_000);
        assert!(cpu >= CPU.as_nanos() as i64);
        let user_and_system = added(|row| Some(row.cpu_user_ns? + row.cpu_system_ns?));
        let told_apart = user_and_system_ns(&cgroups);
        near("user and system", user_and_system, told_apart, 20_000_000);
        if let Some(memory) = number(&cgroups, &["memory.usage_in_bytes", "memory.current"]) {
            near("memory", last.mem_current_bytes.unwrap(), memory, 1 << 20);
            assert!(last.mem_anon_bytes.unwrap() >= MEMORY_BYTES as i64);
        } else {
            assert_eq!(last.mem_current_bytes, None);
        }
        let tasks = number(&cgroups, &["pids.current"]);
        assert_eq!(last.pids_current, tasks);

        let pid = i64::from(load.0.id());
        let own = |row: &&ProcessSample| row.proc_pid == pid;
        let of_process: Vec<_> = rows.processes.iter().filter(own).collect();
        let last = of_process.last().unwrap();
        assert_eq!(last.container_id, cgroups.id[..12].into());
        let added = |of: fn(&ProcessSample) -> Option<i64>| -> i64 {
            of_process.iter().filter_map(|row| of(row)).sum()
        };
        let of_processes = added(|row| Some(row.proc_cpu_user_ns? + row.proc_cpu_system_ns?));
        let of_child = load.children_ns();
        near(
            "CPU of its processes",
            of_processes + of_child,
            cpu,
            50_000_000,
        );
        let io = load.proc("io");
        let io = |name: &str| -> i64 {
            let number = io.lines().find_map(|line| line.strip_prefix(name));
            number.unwrap().trim().parse().unwrap()
        };
        near(
            "reads",
            added(|row| row.proc_read_chars),
            io("rchar:"),
            4_096,
        );
        near(
            "writes",
            added(|row| row.proc_write_chars),
            io("wchar:"),
            4_096,
        );
        let calls = added(|row| row.proc_write_calls);
        near("calls that write", calls, io("syscw:"), 2);
        assert!(added(|row| row.proc_read_chars) >= (WRITES * WRITE_BYTES) as i64);
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as i64;
        assert_eq!(last.proc_fdopencount, Some(open));
        let statm = load.proc("statm");
        let pages: i64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        near(
            "resident",
            last.proc_vmrss_bytes.unwrap(),
            pages * 4_096,
            2 << 20,
        );

        failed_opens(rows, &cgroups.id, pid);
        carried_bytes(rows, pid);
        let host: Vec<_> = rows
            .containers
            .iter()
            .filter(|row| &*row.container_id == "host" && &*row.evt_type == "sample")
            .collect();
        let of_host: i64 = host.iter().filter_map(|row| row.cpu_total_ns).sum();
        assert!(
            of_host + 100_000_000 >= cpu,
            "the host has its containers in it"
        );
        // Nothing is missing between the rows of a table.
        let seqs: Vec<i64> = rows.containers.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>());
        let losses = rows
            .processes
            .iter()
            .filter_map(|row| row.evt_losses.as_ref());
        assert!(losses.flatten().all(|(_, count)| *count == 0));
    });
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn what_a_known_load_has_open_is_told_within_a_twentieth() {
    beside(Duration::from_secs(1), |rows| {
        let cgroups = Cgroups::make();
        let mut load = Load::start(&cgroups);
        let connection = load.is_done();
        rows.rounds(2);
        open_files(rows, &load, &cgroups.id, &connection);
    });
}

#[test]
#[ignore = "needs root: ./dogwatch.sh test"]
fn what_a_known_load_on_the_host_sends_is_told_within_a_twentieth() {
    beside(Duration::from_secs(1), |rows| {
        let mut load = Load::start_on_host();
        load.is_done();
        rows.rounds(2);
        let pid = i64::from(load.0.id());
        let own = rows.processes.iter().find(|row| row.proc_pid == pid);
        assert_eq!(&*own.unwrap().container_id, "host");
        carried_bytes(rows, pid);
    });
}
