//! What the kernel part costs a program, nanoseconds an iteration: for developing it.
//!
//! A child does one thing over and over while the probe is loaded, and once before; the parent throws the records away.
//! Processor time is measured, so that what else the machine does counts little. With the argument `--without-network` bytes of
//! sends and receives are not counted.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use dogwatch_sensor::probe::{Probe, ProbeOptions, Rates};

const ROUNDS: usize = 3;
const ITERATIONS: u32 = 100_000;

fn main() {
    let folder = std::env::temp_dir().join(format!("dogwatch-cost-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files can be written to");
    for name in ["written", "read", "id_rsa"] {
        fs::write(folder.join(name), "x").expect("just made");
    }
    let before = measure(&folder, None);
    let mut probe = Probe::load(&options()).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(3)
    });
    let with = measure(&folder, Some(&mut probe));
    for ((name, without), (_, with)) in before.iter().zip(&with) {
        println!(
            "{name:<16} {without:>7.0} ns alone {with:>7.0} ns watched {:>7.0} ns more",
            with - without
        );
    }
    // Left over only when it cannot be removed, below the folder for temporary files.
    let _ = fs::remove_dir_all(&folder);
}

fn options() -> ProbeOptions {
    ProbeOptions {
        ring_bytes: 64 << 20,
        rates: Rates::UNLIMITED,
        net_bytes: !std::env::args().any(|argument| argument == "--without-network"),
        ..ProbeOptions::default()
    }
}

/// The fastest of the rounds for each case.
fn measure(folder: &std::path::Path, mut probe: Option<&mut Probe>) -> Vec<(&'static str, f64)> {
    let path = |name: &str| {
        std::ffi::CString::new(folder.join(name).as_os_str().as_encoded_bytes()).expect("no NUL")
    };
    let (written, read, sensitive) = (path("written"), path("read"), path("id_rsa"));
    let open = |path: &std::ffi::CStr, flags: i32| {
        // SAFETY: the path ends in NUL; what was opened is closed.
        unsafe {
            let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0);
            if fd >= 0 {
                libc::close(fd as i32);
            }
        }
    };
    let (client, server) = stream();
    let (from, to) = datagrams();
    let carry = |from: i32, to: i32| {
        let mut bytes = [7u8; 64];
        // SAFETY: the buffer is valid and writable for its length.
        unsafe {
            libc::send(from, bytes.as_ptr().cast(), bytes.len(), 0);
            libc::recv(
                to,
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                libc::MSG_WAITALL,
            );
        }
    };
    let cases: [(&str, &dyn Fn()); 8] = [
        // SAFETY: no arguments.
        ("getppid", &|| {
            _ = unsafe { libc::syscall(libc::SYS_getppid) }
        }),
        ("open to write", &|| open(&written, libc::O_WRONLY)),
        ("open sensitive", &|| open(&sensitive, libc::O_RDONLY)),
        ("open again", &|| open(&read, libc::O_RDONLY)),
        // SAFETY: the path ends in NUL.
        ("unlinkat missing", &|| unsafe {
            libc::syscall(
                libc::SYS_unlinkat,
                libc::AT_FDCWD,
                c"/dogwatch/none".as_ptr(),
                0,
            );
        }),
        ("open missing", &|| open(c"/dogwatch/none", libc::O_RDONLY)),
        ("send, recv: TCP", &|| {
            carry(client.as_raw_fd(), server.as_raw_fd());
        }),
        ("send, recv: UDP", &|| {
            carry(from.as_raw_fd(), to.as_raw_fd());
        }),
    ];
    let mut found: Vec<(&str, f64)> = cases.iter().map(|(name, _)| (*name, f64::MAX)).collect();
    for _ in 0..ROUNDS {
        for ((_, case), (_, best)) in cases.iter().zip(&mut found) {
            *best = best.min(in_child(case));
            if let Some(probe) = probe.as_deref_mut() {
                while !probe.drain(Duration::ZERO, &mut |_| {}).emptied {}
            }
        }
    }
    found
}

/// A connection on the loopback that does not wait for more to send.
fn stream() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a loopback");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("it listens");
    client.set_nodelay(true).expect("it is a TCP socket");
    (client, listener.accept().expect("one has come").0)
}

fn datagrams() -> (UdpSocket, UdpSocket) {
    let end = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a loopback");
    let (from, to) = (end(), end());
    let address = to.local_addr().expect("it is bound");
    from.connect(address).expect("an address of the loopback");
    (from, to)
}

/// Nanoseconds an iteration in a child.
fn in_child(case: &dyn Fn()) -> f64 {
    let mut ends = [0; 2];
    let mut took_ns = [0; 8];
    // SAFETY: the child makes system calls only and leaves by `_exit`; the buffers outlive the calls.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0, "could not make a pipe");
        let pid = libc::fork();
        assert!(pid >= 0, "could not fork");
        if pid == 0 {
            let start_ns = cpu_ns();
            (0..ITERATIONS).for_each(|_| case());
            let took_ns = (cpu_ns() - start_ns).to_ne_bytes();
            libc::write(ends[1], took_ns.as_ptr().cast(), 8);
            libc::_exit(0);
        }
        libc::close(ends[1]);
        libc::read(ends[0], took_ns.as_mut_ptr().cast(), 8);
        libc::close(ends[0]);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    u64::from_ne_bytes(took_ns) as f64 / f64::from(ITERATIONS)
}

/// Processor time of this process.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
