//! What programs do so that the sensor stumbles or tells something else than the kernel did.

use std::ffi::CString;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use dogwatch_ebpf::calls::{CALLS, Effect};
use dogwatch_ebpf::record::{PLACE_PEER, Record, Value};
use dogwatch_sensor::probe::{Mode, ProbeOptions};

use crate::act;
use crate::watch::Watch;

/// Points nowhere, and is no process, no descriptor, and no set of flags that a call takes.
const GARBAGE: usize = 0x7fff_dead_beef_1230;

#[test]
fn six_pointers_to_nowhere_leave_a_record_of_every_call_that_is_always_sent() {
    let Some(mut watch) = Watch::start_at(Mode::Normal) else {
        return;
    };
    let mut seen = 0;
    for call in CALLS.iter().filter(|call| call.effect != Effect::Open) {
        let Some(number) = call.x86_64 else { continue };
        // These would make a process.
        if ["fork", "vfork", "clone", "clone3"].contains(&call.name) {
            continue;
        }
        let records = watch.see(|| {
            let [a, b, c, d, e, f] = [GARBAGE; 6];
            // SAFETY: the kernel refuses what the arguments point to, and nobody has this descriptor or process id.
            unsafe { libc::syscall(i64::from(number), a, b, c, d, e, f) };
        });
        seen += records
            .iter()
            .filter(|record| record.header().call == Some(call))
            .count();
        // The child's end is told whatever it did before.
        assert!(
            records
                .iter()
                .any(|record| matches!(record, Record::Exit { .. })),
            "{}",
            call.name
        );
    }
    assert!(seen > CALLS.len() / 2, "{seen} of {}", CALLS.len());
}

#[test]
fn a_path_of_any_bytes_comes_as_it_was_given() {
    let Some(mut watch) = Watch::start_at(Mode::Normal) else {
        return;
    };
    let mut long = b"/tmp/\n\xff\xfe\x1b[31m".to_vec();
    // Names of at most 255 bytes, 4,095 in all.
    while long.len() < 4_095 {
        let byte = if long.len().is_multiple_of(200) {
            b'/'
        } else {
            b'\n'
        };
        long.push(byte);
    }
    let path = CString::new(long.clone()).unwrap();
    let records = watch.see(|| {
        // SAFETY: the path ends in NUL and outlives the call.
        unsafe {
            path.as_ptr().read_volatile();
            path.as_ptr().add(4_094).read_volatile();
            libc::unlink(path.as_ptr());
        }
    });
    let given = records.iter().find_map(|record| match record {
        Record::Called(called) if called.call.name.starts_with("unlink") => called.argument("path"),
        _ => None,
    });
    assert!(
        matches!(given, Some(Value::Path { raw, .. }) if *raw == long),
        "{given:?}"
    );
}

/// A second thread changes one byte as long as the first one calls.
fn racing(byte: &AtomicU8, values: [u8; 2], deed: impl Fn()) {
    let done = AtomicU8::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Relaxed) == 0 {
                byte.store(values[0], Relaxed);
                byte.store(values[1], Relaxed);
            }
        });
        for _ in 0..2_000 {
            deed();
        }
        done.store(1, Relaxed);
    });
}

#[test]
fn an_open_whose_path_is_rewritten_meanwhile_is_told_as_the_kernel_took_it() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let inode = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
    };
    let inodes = [inode("a"), inode("b")];
    let path = act::c_path(&folder.join("a")).into_bytes_with_nul();
    let path: Vec<AtomicU8> = path.into_iter().map(AtomicU8::new).collect();
    let last = &path[path.len() - 2];
    let (pid, records) = watch.see_all(|| {
        racing(last, *b"ab", || {
            // SAFETY: the path ends in NUL whatever its last letter is; what was opened is closed.
            unsafe {
                let path = path.as_ptr().cast::<libc::c_char>();
                let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_WRONLY, 0);
                act::closed(fd);
            }
        });
    });
    let mut opened = [0; 2];
    for record in &records {
        if let Record::Open {
            header, file, path, ..
        } = record
            && header.pid == pid
            && header.ret >= 0
            && path.starts_with(folder.as_os_str().as_encoded_bytes())
        {
            let which = usize::from(path.ends_with(b"b"));
            assert_eq!(file.ino, inodes[which], "{record:?}");
            opened[which] += 1;
        }
    }
    assert!(opened.iter().sum::<u32>() > 1_000, "{opened:?}");
}

#[test]
fn a_connect_whose_address_is_rewritten_meanwhile_is_told_as_the_kernel_took_it() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    // 127.0.0.1 and 127.0.0.2, port 1, where nobody listens.
    let address = [2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0].map(AtomicU8::new);
    let (pid, records) = watch.see_all(|| {
        racing(&address[7], [1, 2], || {
            // SAFETY: the address has the length given; the socket is closed.
            unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
                libc::connect(socket, address.as_ptr().cast(), 16);
                libc::close(socket);
            }
        });
    });
    let mut told = [0; 3];
    for record in &records {
        if let Record::Called(called) = record
            && called.header.pid == pid
            && called.call.name == "connect"
        {
            let Some(Value::Peer(peer)) = called.at(PLACE_PEER) else {
                panic!("{called:?}");
            };
            told[usize::from(peer.remote[3].min(2))] += 1;
        }
    }
    assert_eq!(told[0], 0);
    assert!(told[1] + told[2] > 1_000, "{told:?}");
}
