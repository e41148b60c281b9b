//! Bytes that processes send and receive by IP sockets, as the kernel part counts them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dogwatch_sensor::probe::{Carried, CarriedBytes, ProbeError, ProbeOptions};

use crate::act;
use crate::watch::Watch;

/// New processes of a share between two readings, see `NET_BYTES_NEW_MAX` in `net_bytes.h`.
const NEW_MAX: u64 = 2_048;

/// A probe's counts can be taken once: a ring of another size makes it another test's.
fn options(test: u32) -> ProbeOptions {
    ProbeOptions {
        ring_bytes: 1 << (17 + test),
        ..ProbeOptions::default()
    }
}

/// None where the kernel has no tracepoints, which holds for those before 6.3.
fn start(test: u32) -> Option<(Watch, CarriedBytes)> {
    let mut watch = Watch::start(&options(test))?;
    match watch.probe.take_net_bytes() {
        Ok(bytes) => Some((watch, bytes.unwrap())),
        Err(ProbeError::NoNetBytes) => {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
            let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
            assert!(version < (6, 3), "{release}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Received and sent, of a process.
fn of(carried: &Carried, pid: u32) -> Vec<(u64, u64)> {
    let own = carried.grown.iter().filter(|grown| grown.pid == pid);
    own.map(|grown| (grown.rx_bytes, grown.tx_bytes)).collect()
}

fn send(fd: RawFd, bytes: &[u8]) -> isize {
    // SAFETY: the buffer is valid for its length.
    unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) }
}

fn receive(fd: RawFd, bytes: &mut [u8], flags: libc::c_int) -> isize {
    // SAFETY: the buffer is valid and writable for its length.
    unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), flags) }
}

/// Sends so much in pieces and receives it at the other end, in one process.
fn carry(from: RawFd, to: RawFd, bytes: &mut [u8], times: usize) {
    for _ in 0..times {
        assert_eq!(send(from, bytes), bytes.len() as isize);
        let got = receive(to, bytes, libc::MSG_WAITALL);
        assert_eq!(got, bytes.len() as isize);
    }
}

fn udp_pair() -> (UdpSocket, UdpSocket) {
    let [one, other] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    one.connect(other.local_addr().unwrap()).unwrap();
    other.connect(one.local_addr().unwrap()).unwrap();
    (one, other)
}

#[test]
fn bytes_are_those_that_calls_on_ip_sockets_returned() {
    let Some((_watch, mut bytes)) = start(0) else {
        return;
    };
    let (one, other) = udp_pair();
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let (left, right) = UnixStream::pair().unwrap();
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let unheard = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    nobody.connect(unheard.local_addr().unwrap()).unwrap();
    drop(unheard);
    let fds = [
        one.as_raw_fd(),
        other.as_raw_fd(),
        client.as_raw_fd(),
        server.as_raw_fd(),
        left.as_raw_fd(),
        right.as_raw_fd(),
        nobody.as_raw_fd(),
    ];
    let mut block = vec![7; 1_000];
    let mut large = vec![7; 70_000];
    let pid = act::in_child(|| {
        let [one, other, client, server, left, right, nobody] = fds;
        carry(one, other, &mut block, 5);
        carry(client, server, &mut block, 20);
        carry(server, client, &mut block, 3);
        // What was looked at first counts once, and by its length in the queue, not in the buffer.
        assert_eq!(send(other, &block), 1_000);
        assert_eq!(receive(one, &mut block, libc::MSG_PEEK), 1_000);
        assert_eq!(receive(one, &mut block, libc::MSG_PEEK), 1_000);
        assert_eq!(receive(one, &mut block, 0), 1_000);
        // Another family's.
        carry(left, right, &mut block, 4);
        // What fails: too long, nothing there, and refused by the other end, which the first send learns too late.
        assert_eq!(send(one, &large), -1);
        assert_eq!(receive(one, &mut large, libc::MSG_DONTWAIT), -1);
        assert_eq!(send(nobody, &block[..7]), 7);
        assert_eq!(send(nobody, &block), -1);
    });
    let carried = bytes.read(&|gone| gone == pid).unwrap();
    let received = 1_000 * (5 + 20 + 3 + 1);
    assert_eq!(of(&carried, pid), [(received, received + 7)]);
    assert_eq!((carried.refused, carried.refused_of_sockets), (0, 0));
    let carried = bytes.read(&|_| false).unwrap();
    assert_eq!(of(&carried, pid), [], "it has ended, and was told");
}

#[test]
fn a_socket_of_two_processes_has_the_bytes_of_both() {
    let Some((mut watch, mut bytes)) = start(1) else {
        return;
    };
    let mut files = watch.probe.take_open_files().unwrap().unwrap();
    let (one, other) = udp_pair();
    let quiet = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (from, to) = (one.as_raw_fd(), other.as_raw_fd());
    let mut block = vec![7; 500];
    let first = act::in_child(|| carry(from, to, &mut block, 2));
    let second = act::in_child(|| {
        assert_eq!(send(from, &block), 500);
        assert_eq!(send(from, &block), 500);
    });
    let third = act::in_child(|| {
        assert_eq!(receive(to, &mut block, 0), 500);
    });
    let carried = bytes.read(&|_| false).unwrap();
    assert_eq!(of(&carried, first), [(1_000, 1_000)]);
    assert_eq!(of(&carried, second), [(0, 1_000)]);
    assert_eq!(of(&carried, third), [(500, 0)]);
    let mut told = HashMap::new();
    let until = Instant::now() + Duration::from_secs(60);
    let walk = files.walk(until, &mut |file| {
        if file.pid == std::process::id() {
            told.insert(file.fd as RawFd, (file.counted, file.received, file.acked));
        }
    });
    walk.unwrap();
    assert_eq!(told[&from], (true, 0, 2_000));
    assert_eq!(told[&to], (true, 1_500, 0));
    assert_eq!(told[&quiet.as_raw_fd()], (true, 0, 0));
}

#[test]
fn what_is_not_asked_for_is_not_counted() {
    let Some(mut watch) = Watch::start(&ProbeOptions {
        net_bytes: false,
        ..options(3)
    }) else {
        return;
    };
    assert!(watch.probe.take_net_bytes().unwrap().is_none());
    let mut files = watch.probe.take_open_files().unwrap().unwrap();
    let (one, other) = udp_pair();
    let mut block = vec![7; 500];
    carry(one.as_raw_fd(), other.as_raw_fd(), &mut block, 2);
    let mut counted = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    let walk = files.walk(until, &mut |file| {
        if file.pid == std::process::id() && file.fd == one.as_raw_fd() as u32 {
            counted.push((file.counted, file.acked));
        }
    });
    walk.unwrap();
    assert_eq!(counted, [(false, 0)]);
}

#[test]
fn a_share_has_no_more_new_processes_than_it_may_and_the_others_are_counted() {
    let Some((_watch, mut bytes)) = start(2) else {
        return;
    };
    let (one, other) = udp_pair();
    let (from, to) = (one.as_raw_fd(), other.as_raw_fd());
    let beyond = 60;
    let mut byte = [7];
    bytes.read(&|_| false).unwrap();
    for _ in 0..NEW_MAX + beyond {
        act::in_child(|| carry(from, to, &mut byte, 1));
    }
    let carried = bytes.read(&|_| true).unwrap();
    let ones = carried.grown.iter().filter(|grown| !grown.whole);
    let told = ones
        .filter(|grown| (grown.rx_bytes, grown.tx_bytes) == (1, 1))
        .count() as u64;
    // Other tests of this cgroup have some as well; each child sends once and receives once.
    assert!((NEW_MAX - 50..=NEW_MAX).contains(&told), "{told}");
    assert!(carried.refused >= 2 * beyond, "{}", carried.refused);
    // And then again.
    let pid = act::in_child(|| carry(from, to, &mut byte, 1));
    let carried = bytes.read(&|_| true).unwrap();
    assert_eq!(of(&carried, pid), [(1, 1)]);
    assert!(carried.grown.len() < 100, "the others were removed");
}
