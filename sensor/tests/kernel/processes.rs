//! Forks, exits with their counters, and changes of namespace.

use dogwatch_ebpf::record::{PLACE_IDENTITY, Record, Value};
use dogwatch_sensor::probe::{Mode, ProbeOptions};

use crate::act;
use crate::watch::Watch;

#[test]
fn a_fork_names_the_child_before_the_child_does_anything() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    // The test's own forks are its own doing and filtered: its child makes the one looked at.
    let parent = act::in_child(|| _ = act::in_child(|| {}));
    let records = watch.records();
    let fork = records
        .iter()
        .position(|record| matches!(record, Record::Fork { .. }) && record.header().pid == parent);
    let Some(Record::Fork {
        header,
        child_pid,
        child_vpid,
        child_start_ns,
        child_cgroup_id,
        child,
        ..
    }) = fork.map(|index| &records[index])
    else {
        panic!("{records:?}")
    };
    let first = records
        .iter()
        .position(|record| record.header().pid == *child_pid)
        .unwrap();
    assert!(first > fork.unwrap());
    assert_eq!(child_vpid, child_pid);
    assert_eq!(
        (child.parent_pid, child.parent_start_ns),
        (parent, header.start_ns)
    );
    assert_eq!(*child_start_ns, records[first].header().start_ns);
    assert_eq!(*child_cgroup_id, header.cgroup_id);
}

#[test]
fn threads_are_not_processes_and_a_process_ends_once() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    for _ in 0..20 {
        // Threads of this very test binary in a process of its own: its worker threads end together with it.
        let output = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .output()
            .unwrap();
        assert!(output.status.success());
    }
    let pid = act::in_child(|| while cpu_ns() < 30_000_000 {});
    let records = watch.records();
    let mut ends = std::collections::BTreeMap::new();
    for record in &records {
        if let Record::Exit { header, .. } = record {
            *ends.entry((header.pid, header.start_ns)).or_insert(0) += 1;
        }
    }
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    let counters = records.iter().find_map(|record| match record {
        Record::Exit {
            header, counters, ..
        } if header.pid == pid => Some(counters),
        _ => None,
    });
    let counters = counters.expect("no exit");
    assert!(
        counters.utime_ns + counters.stime_ns > 20_000_000,
        "{counters:?}"
    );
    assert!(counters.min_flt > 0, "{counters:?}");
}

/// Makes this many threads, which end with the process.
fn make_threads(count: usize) {
    extern "C" fn wait(_: *mut libc::c_void) -> i32 {
        loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        }
    }
    const STACK: usize = 16 << 10;
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    for _ in 0..count {
        // SAFETY: each has a stack of its own and does nothing but wait.
        unsafe {
            let map = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let stack = libc::mmap(std::ptr::null_mut(), STACK, protection, map, -1, 0);
            libc::clone(wait, stack.byte_add(STACK), flags, std::ptr::null_mut());
        }
    }
}

#[test]
fn many_threads_are_told_whenever_they_are_twice_as_many() {
    let Some(mut watch) = Watch::start_at(Mode::Lifecycle) else {
        return;
    };
    let records = watch.see(|| make_threads(300));
    let told: Vec<(i64, Option<&str>)> = records
        .iter()
        .filter_map(|record| match record {
            Record::Threads { header } => Some((header.ret, header.call.map(|call| call.name))),
            _ => None,
        })
        .collect();
    let clone = Some("clone");
    assert_eq!(told, [(64, clone), (128, clone), (256, clone)]);
    // A process that has fewer, or of which it was told, is not told of.
    assert!(
        !watch
            .see(|| make_threads(62))
            .iter()
            .any(|record| matches!(record, Record::Threads { .. }))
    );
}

fn cpu_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[test]
fn off_keeps_everything_back() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let cgroup = crate::watch::own_cgroup(&watch.probe.hierarchy().clone());
    watch.probe.set_mode(cgroup, Mode::Off).unwrap();
    let filtered = watch.filtered("mode_off");
    assert_eq!(
        watch.see(|| _ = act::openat(libc::AT_FDCWD, c"/dogwatch/none", libc::O_RDONLY)),
        []
    );
    assert!(watch.filtered("mode_off") >= filtered + 2);
    watch.probe.forget(cgroup);
    assert_eq!(
        watch
            .see(|| _ = act::openat(libc::AT_FDCWD, c"/dogwatch/off-no-more", libc::O_RDONLY))
            .len(),
        2
    );
}

#[test]
fn changes_of_namespaces_are_seen_with_their_result() {
    let Some(mut watch) = Watch::start_at(Mode::Lifecycle) else {
        return;
    };
    let records = watch.see(|| unsafe {
        // SAFETY: no pointers but a path that ends in NUL.
        let before = libc::open(c"/proc/self/ns/mnt".as_ptr(), libc::O_RDONLY);
        libc::unshare(libc::CLONE_FILES);
        libc::unshare(libc::CLONE_NEWNS);
        libc::setns(before, libc::CLONE_NEWNS);
        libc::setns(-1, 0);
    });
    let seen: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Called(called) => match (called.argument("flags"), called.at(PLACE_IDENTITY)) {
                (Some(Value::Number(flags)), Some(Value::Identity(identity))) => {
                    let ret = called.header.ret;
                    Some((called.call.name, *flags as i32, ret, identity.mnt_ns))
                }
                _ => None,
            },
            _ => None,
        })
        .collect();
    let [files, unshared, returned, failed] = seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(files.1, libc::CLONE_FILES);
    let own = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/mnt").unwrap())
        as u32;
    let mount = libc::CLONE_NEWNS;
    assert_eq!((unshared.0, unshared.1, unshared.2), ("unshare", mount, 0));
    assert_ne!(unshared.3, own);
    assert_eq!(returned, ("setns", mount, 0, own));
    assert_eq!((failed.0, failed.2), ("setns", -i64::from(libc::EBADF)));
}
