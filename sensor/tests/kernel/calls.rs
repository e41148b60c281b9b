//! Every system call of the table: one real call a row, and its record must say what was done. A row without an example fails.

use dogwatch_ebpf::calls::{ArgumentKind, CALLS, Call, Effect};
use dogwatch_ebpf::record::{Called, PLACE_CWD, PLACE_IDENTITY, PLACE_PEER, Record, Value};
use dogwatch_sensor::probe::{CallSet, Mode, ProbeOptions};

use crate::examples::{Anyhow, Badly, EXAMPLES, Scene, Well, message, perform};
use crate::watch::{Watch, text};

/// The record of a call as text: its arguments by name, and what else it tells.
fn describe(called: &Called) -> String {
    let one = |(place, value): &(u8, Value)| match *place {
        PLACE_IDENTITY => "identity".to_owned(),
        PLACE_CWD => format!("cwd={}", told(ArgumentKind::String, value)),
        PLACE_PEER => format!("peer={}", told(ArgumentKind::Sockaddr, value)),
        place => {
            let argument = &called.call.arguments[usize::from(place)];
            format!("{}={}", argument.name, told(argument.kind, value))
        }
    };
    called.values.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn told(kind: ArgumentKind, value: &Value) -> String {
    match (value, kind) {
        (Value::Number(number), ArgumentKind::Flags(names)) => names.flags(*number),
        (Value::Number(number), ArgumentKind::Enum(names)) => names.number(*number),
        (Value::Number(number), _) => (*number as i32).to_string(),
        (Value::Text(bytes), _) => text(bytes),
        (Value::Path { raw, base }, _) => format!("{}@{}", text(raw), text(base)),
        (Value::File { path, .. }, _) => text(path),
        (Value::Socket { .. }, _) => "socket".to_owned(),
        (Value::Address(end) | Value::Peer(end), _) => {
            let [a, b, c, d, ..] = end.remote;
            format!("{a}.{b}.{c}.{d}:{}", end.remote_port)
        }
        (Value::Identity(_), _) => String::new(),
    }
}

/// Does what an example does, in a child; returns its record.
fn see(
    watch: &mut Watch,
    scene: &Scene,
    call: &Call,
    arguments: fn(&Scene) -> [usize; 6],
) -> Option<Called> {
    call.x86_64?;
    let records = watch.see(|| perform(scene, call, arguments));
    records.into_iter().rev().find_map(|record| match record {
        Record::Called(called) if called.call == call => Some(*called),
        _ => None,
    })
}

#[test]
fn every_row_has_an_example_and_its_record_says_what_was_done() {
    let Some(mut watch) = Watch::start_at(Mode::Normal) else {
        return;
    };
    let mut wrong = Vec::new();
    for (name, ends, expected, arguments) in EXAMPLES {
        let scene = Scene::new();
        let call = Call::named(name).unwrap_or_else(|| panic!("no row {name}"));
        let Some(called) = see(&mut watch, &scene, call, *arguments) else {
            wrong.push(format!("{name}: no record"));
            continue;
        };
        let folder = scene.folder.path().canonicalize().unwrap();
        let expected = expected.replace('%', folder.to_str().unwrap());
        let found = describe(&called);
        let expected_end = match ends {
            Well => called.header.ret >= 0,
            Badly(errno) => called.header.ret == -i64::from(*errno),
            Anyhow => true,
        };
        // Where the kernel refused the call there is no descriptor to tell of.
        let said = match called.header.ret < 0 {
            true => without_result(call, &found) == without_result(call, &expected),
            false => found == expected,
        };
        if !said || !expected_end {
            wrong.push(format!(
                "{name}: {found:?} = {}, not {expected:?}",
                called.header.ret
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Without the descriptor that a call returns.
fn without_result(call: &Call, told: &str) -> String {
    let returned = call.arguments.iter();
    let returned = returned.filter(|argument| argument.kind == ArgumentKind::Returned);
    let names: Vec<String> = returned
        .map(|argument| format!("{}=", argument.name))
        .collect();
    let parts = told.split(", ");
    let parts = parts.filter(|part| !names.iter().any(|name| part.starts_with(name)));
    parts.collect::<Vec<_>>().join(", ")
}

/// Rows that are tested elsewhere: opens have records of their own, and one is a call of the 32-bit entry alone.
#[test]
fn no_row_is_without_an_example() {
    let has_one = |call: &&Call| EXAMPLES.iter().any(|(name, ..)| *name == call.name);
    let missing: Vec<_> = CALLS
        .iter()
        .filter(|call| call.effect != Effect::Open && call.x86_64.is_some())
        .filter(|call| !has_one(call))
        .map(|call| call.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_is_switched_off_leaves_no_record() {
    let words = ["all".to_owned(), "-unlinkat".to_owned(), "-open".to_owned()];
    let options = ProbeOptions {
        calls: CallSet::parse(&words).unwrap(),
        ..ProbeOptions::default()
    };
    let Some(mut watch) = Watch::start(&options) else {
        return;
    };
    let records = watch.see(|| {
        // SAFETY: the paths end in NUL.
        unsafe {
            libc::syscall(
                libc::SYS_unlinkat,
                libc::AT_FDCWD,
                c"/dogwatch/none".as_ptr(),
                0,
            );
            libc::syscall(libc::SYS_open, c"/dogwatch/none".as_ptr(), 0);
            libc::syscall(libc::SYS_unlink, c"/dogwatch/none".as_ptr());
        }
    });
    let seen: Vec<_> = records
        .iter()
        .filter_map(|record| record.header().call)
        .map(|call| call.name)
        .collect();
    assert_eq!(seen, ["unlink"]);
}

/// What is of no interest costs no record.
#[test]
fn gates_let_through_what_matters_alone() {
    let Some(mut watch) = Watch::start_at(Mode::Full) else {
        return;
    };
    let records = watch.see(|| {
        // SAFETY: no pointers but what is new here.
        unsafe {
            let own = libc::getpid();
            libc::kill(own, libc::SIGURG);
            libc::kill(999_999, 0);
            libc::syscall(libc::SYS_personality, 0xffff_ffff_u64);
            libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            libc::prctl(libc::PR_GET_NAME, message());
            libc::dup2(1, 9);
            libc::mmap(std::ptr::null_mut(), 4096, 1, 0x22, -1, 0);
            libc::syscall(
                libc::SYS_setxattr,
                c"/tmp".as_ptr(),
                c"user.x".as_ptr(),
                c"".as_ptr(),
                0,
                0,
            );
            libc::ptrace(libc::PTRACE_PEEKDATA, 999_999, 0, 0);
            // BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_LOOKUP_BATCH, BPF_ITER_CREATE, and no command.
            for command in [0, 1, 24, 33, 64, u64::from(u32::MAX)] {
                libc::syscall(libc::SYS_bpf, command, 0, 0);
            }
        }
    });
    let seen: Vec<_> = records
        .iter()
        .filter_map(|record| record.header().call)
        .map(|call| call.name)
        .collect();
    assert!(seen.is_empty(), "{seen:?}");
}
