//! Calls through the 32-bit entry and with the x32 bit: the same numbers mean other calls there.

use std::arch::asm;

use dogwatch_ebpf::record::{Record, Value};
use dogwatch_sensor::probe::{Mode, ProbeOptions};

use crate::watch::{Watch, text};

/// A system call through int 0x80, which any 64-bit program may use. Addresses must lie below 4 GiB.
fn ia32(number: u64, args: [u64; 4]) -> i64 {
    let result: u64;
    // SAFETY: the kernel's 32-bit entry; it changes rax and, on some kernels, r8 to r11. rbx is the compiler's own.
    unsafe {
        asm!(
            "xchg {first}, rbx", "int 0x80", "xchg {first}, rbx",
            first = inout(reg) args[0] => _,
            inout("rax") number => result,
            in("rcx") args[1], in("rdx") args[2], in("rsi") args[3],
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    i64::from(result as i32)
}

/// Copies bytes below 4 GiB; returns where.
fn low_memory(bytes: &[u8]) -> u64 {
    // SAFETY: a new mapping, large enough for what is copied into it.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let at = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len());
        at as u64
    }
}

const ENOSYS: i64 = libc::ENOSYS as i64;

#[test]
fn calls_of_the_32_bit_entry_are_read_as_what_they_are() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let name = low_memory(b"/dogwatch/ia32\0");
    let address = low_memory(&[2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } as u64;
    let packed: Vec<u8> = [socket as u32, address as u32, 16]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let packed = low_memory(&packed);
    if ia32(20, [0; 4]) == -ENOSYS {
        return eprintln!("not run: the kernel has no 32-bit entry");
    }
    let records = watch.see(|| {
        ia32(5, [name, 0, 0, 0]);
        ia32(295, [(-100i32) as u32 as u64, name, 1, 0]);
        ia32(8, [name, 0o600, 0, 0]);
        ia32(362, [socket, address, 16, 0]);
        ia32(102, [3, packed, 0, 0]);
        ia32(11, [name, 0, 0, 0]);
        ia32(310, [libc::CLONE_NEWNS as u64, 0, 0, 0]);
    });
    assert!(
        records
            .iter()
            .all(|record| record.header().flags.ia32 || matches!(record, Record::Exit { .. }))
    );
    let enoent = -i64::from(libc::ENOENT);
    let seen: Vec<String> = records.iter().map(describe).collect();
    assert_eq!(
        seen,
        [
            format!("open /dogwatch/ia32 {enoent}"),
            format!("openat /dogwatch/ia32 {enoent}"),
            format!("creat /dogwatch/ia32 {enoent}"),
            "connect 127.0.0.1:1".to_owned(),
            "connect 127.0.0.1:1".to_owned(),
            format!("exec /dogwatch/ia32 {enoent}"),
            "unshare 0".to_owned(),
            "exit".to_owned(),
        ]
    );
}

fn describe(record: &Record) -> String {
    match record {
        Record::Open { header, raw, .. } => {
            format!("{} {} {}", header.call.unwrap().name, text(raw), header.ret)
        }
        Record::Called(called) => match called.values.last() {
            Some((_, Value::Address(asked) | Value::Peer(asked))) => {
                let [a, b, c, d, ..] = asked.remote;
                let name = called.call.name;
                format!("{name} {a}.{b}.{c}.{d}:{}", asked.remote_port)
            }
            Some((_, Value::Text(path))) => format!("exec {} {}", text(path), called.header.ret),
            _ => format!("{} {}", called.call.name, called.header.ret),
        },
        Record::Exit { .. } => "exit".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn native_calls_with_those_numbers_are_not_misread() {
    let Some(mut watch) = Watch::start_at(Mode::Full) else {
        return;
    };
    let records = watch.see(|| {
        for number in [5, 8, 11, 102, 295, 346, 358, 362] {
            // SAFETY: descriptors and addresses that do not exist.
            unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
        }
    });
    assert!(matches!(records[..], [Record::Exit { .. }]), "{records:?}");
}

#[test]
fn the_x32_bit_is_no_other_number() {
    let Some(mut watch) = Watch::start_at(Mode::Full) else {
        return;
    };
    let open = 0x4000_0000 | libc::SYS_open;
    // SAFETY: the path ends in NUL.
    let unknown = unsafe { libc::syscall(open, c"/dogwatch/x32".as_ptr(), 0) == -1 }
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
    // SAFETY: as above.
    let records = watch.see(|| _ = unsafe { libc::syscall(open, c"/dogwatch/x32".as_ptr(), 0) });
    if unknown {
        return assert!(matches!(records[..], [Record::Exit { .. }]), "{records:?}");
    }
    let Record::Open { header, raw, .. } = &records[0] else {
        panic!("{records:?}")
    };
    assert!(header.flags.x32 && raw == b"/dogwatch/x32", "{records:?}");
}
