//! What processes have open, as the kernel part's iterator tells it.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use dogwatch_ebpf::record::OpenFile;
use dogwatch_sensor::probe::Mode;

use crate::watch::Watch;

/// Descriptors of a process that are looked at, see `DESCRIPTORS_MAX` in `open_files.h`.
const DESCRIPTORS_MAX: i32 = 4_096;
const FAR: u64 = 100;
const TCP_ESTABLISHED: u16 = 1;
const TCP_LISTEN: u16 = 10;

/// More descriptors than are looked at; a machine of `tests/kernels` has a hard limit of as many.
fn allow_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is valid and writable.
    assert_eq!(
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) },
        0
    );
    limit.rlim_max = limit.rlim_max.max(8_192);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the limit is valid.
    assert_eq!(
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) },
        0
    );
    assert!(limit.rlim_cur > DESCRIPTORS_MAX as u64 + FAR, "{limit:?}");
}

#[test]
fn files_and_sockets_of_a_process_are_told_up_to_a_bound() {
    let Some(mut watch) = Watch::start_at(Mode::Normal) else {
        return;
    };
    let mut files = watch.probe.take_open_files().unwrap().unwrap();
    allow_descriptors();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 1_000]).unwrap();
    file.seek(SeekFrom::Start(600)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(&[7; 500]).unwrap();
    let far: Vec<OwnedFd> = (0..FAR)
        .map(|_| {
            // SAFETY: numbers alone; what comes is a new descriptor.
            let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, DESCRIPTORS_MAX) };
            assert!(fd >= DESCRIPTORS_MAX);
            // SAFETY: nobody else has it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        })
        .collect();

    let mut own: Vec<OpenFile> = Vec::new();
    let mut told = 0;
    let begun = Instant::now();
    let until = begun + Duration::from_secs(60);
    let walk = files
        .walk(until, &mut |file| {
            told += 1;
            if file.pid == std::process::id() {
                own.push(file.clone());
            }
        })
        .unwrap();
    eprintln!("open files: {told} in {:?}", begun.elapsed());
    let of = |fd: i32| own.iter().find(|file| file.fd == fd as u32).unwrap();
    let plain = of(file.as_raw_fd());
    assert_eq!((plain.position, plain.size, plain.links), (600, 1_000, 0));
    assert_eq!(u32::from(plain.mode) & libc::S_IFMT, libc::S_IFREG);
    assert_eq!(plain.flags as i32 & libc::O_ACCMODE, libc::O_RDWR);
    assert!(plain.socket.is_none() && plain.ino > 0 && plain.start_ns > 0);
    let listening = of(listener.as_raw_fd());
    assert_eq!((listening.state, listening.backlog), (TCP_LISTEN, 1));
    assert_eq!(listening.backlog_max, 128);
    let socket = listening.socket.as_ref().unwrap();
    assert_eq!(socket.local_port, address.port());
    let connected = of(client.as_raw_fd());
    assert_eq!(connected.state, TCP_ESTABLISHED);
    assert_eq!(connected.net_ns, listening.net_ns);
    assert_eq!(
        connected.socket.as_ref().unwrap().remote_port,
        address.port()
    );
    // The first segment is counted as a byte.
    assert_eq!(connected.acked, 501);
    assert!(connected.segments_out >= 2);
    assert!(own.iter().all(|file| file.fd < DESCRIPTORS_MAX as u32));
    assert_eq!(walk.left.get(&plain.share), Some(&FAR));
    assert!(!walk.cut);

    // The counts of a round are its own, and one that has no time is cut.
    drop(far);
    let walk = files.walk(until, &mut |_| ()).unwrap();
    assert_eq!(walk.left.get(&plain.share), None);
    assert!(files.walk(Instant::now(), &mut |_| ()).unwrap().cut);
}
