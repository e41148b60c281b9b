//! Cgroups made, removed and moved into, and their modes.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;

use dogwatch_ebpf::record::Record;
use std::path::Path;
use std::process::Command;

use dogwatch_sensor::probe::{HierarchyKind, Mode, ProbeOptions};

use crate::act::{c_path, openat};
use crate::watch::{Watch, own_cgroup, text};

#[test]
fn cgroups_come_go_and_are_entered() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let mount = watch.probe.hierarchy().mount.clone();
    let name = format!("dogwatch-test-{}", std::process::id());
    let folder = mount.join(&name);
    let members = c_path(&folder.join("cgroup.procs"));
    let other = c_path(&folder);
    // Own doing is filtered for events of the process, but cgroups are seen whoever makes them.
    fs::create_dir(&folder).unwrap();
    let id = fs::metadata(&folder).unwrap().ino();
    let enter = || unsafe {
        // SAFETY: paths end in NUL and the text has the length given.
        let fd = libc::open(members.as_ptr(), libc::O_WRONLY);
        libc::write(fd, c"0".as_ptr().cast(), 1);
        libc::close(fd);
    };
    let inside = watch.see_all(|| {
        enter();
        openat(libc::AT_FDCWD, c"/dogwatch/inside", libc::O_RDONLY);
    });
    watch.probe.set_mode(id, Mode::Lifecycle).unwrap();
    let quiet = watch.see(|| {
        enter();
        openat(libc::AT_FDCWD, c"/dogwatch/inside", libc::O_RDONLY);
    });
    // SAFETY: the path ends in NUL.
    let removed = watch.see_all(|| _ = unsafe { libc::rmdir(other.as_ptr()) });

    let path = format!("/{name}");
    assert!(inside.1.iter().any(|record| matches!(record,
        Record::Cgroup { made: true, id: made, path: at, .. } if *made == id && text(at) == path)));
    let moves: Vec<_> = inside
        .1
        .iter()
        .filter(|record| {
            matches!(record, Record::CgroupMove { pid, to_id, path: at, .. }
        if *pid == inside.0 && *to_id == id && text(at) == path)
        })
        .collect();
    assert_eq!(moves.len(), 1, "{:?}", inside.1);
    assert!(inside.1.iter().any(|record| matches!(record,
        Record::Open { header, raw, .. } if header.cgroup_id == id && raw == b"/dogwatch/inside")));
    assert!(
        !quiet
            .iter()
            .any(|record| matches!(record, Record::Open { raw, .. } if raw == b"/dogwatch/inside"))
    );
    assert!(
        matches!(quiet.last(), Some(Record::Exit { header, .. }) if header.cgroup_id == id),
        "{quiet:?}"
    );
    assert!(removed.1.iter().any(
        |record| matches!(record, Record::Cgroup { made: false, id: gone, .. } if *gone == id)
    ));
}

#[test]
fn a_process_has_the_mode_of_the_cgroup_it_was_moved_into() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let mount = watch.probe.hierarchy().mount.clone();
    let made = |name: &str| {
        let folder = mount.join(format!("dogwatch-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let members = c_path(&folder.join("cgroup.procs"));
        (fs::metadata(&folder).unwrap().ino(), folder, members)
    };
    let (brief, told, off) = (made("brief"), made("told"), made("off"));
    watch.probe.set_mode(brief.0, Mode::Lifecycle).unwrap();
    watch.probe.set_mode(off.0, Mode::Off).unwrap();
    let enter = |members: &CStr| unsafe {
        // SAFETY: the path ends in NUL and the text has the length given.
        let fd = libc::open(members.as_ptr(), libc::O_WRONLY);
        libc::write(fd, c"0".as_ptr().cast(), 1);
        libc::close(fd);
    };
    let records = watch.see(|| {
        for members in [&brief.2, &told.2, &off.2, &told.2, &brief.2] {
            enter(members);
            openat(libc::AT_FDCWD, c"/dev/full", libc::O_WRONLY);
        }
    });
    for (_, folder, _) in [&brief, &told, &off] {
        fs::remove_dir(folder).unwrap();
    }
    let cgroups: Vec<u64> = records
        .iter()
        .filter_map(|record| match record {
            Record::Open { header, raw, .. } if raw == b"/dev/full" => Some(header.cgroup_id),
            _ => None,
        })
        .collect();
    assert_eq!(cgroups, [told.0, told.0]);
}

/// The file of a cgroup into which a thread's id is written; it makes a test start a process that does that.
const THREADS_FILE: &str = "DOGWATCH_THREADS_FILE";

#[test]
fn a_thread_put_elsewhere_stays_with_its_process() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let hierarchy = watch.probe.hierarchy().clone();
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = cgroups.lines().find_map(|line| hierarchy.path_in(line));
    let own = hierarchy.mount.join(own.unwrap().trim_start_matches('/'));
    let folder = own.join(format!("dogwatch-thread-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let file = if hierarchy.kind == HierarchyKind::Unified {
        fs::write(folder.join("cgroup.type"), "threaded").unwrap();
        folder.join("cgroup.threads")
    } else {
        folder.join("tasks")
    };
    let this = std::fs::read_link("/proc/self/exe").unwrap();
    let status = Command::new(this)
        .args([
            "--exact",
            "cgroups::moves_a_thread_of_its_own",
            "--nocapture",
        ])
        .env(THREADS_FILE, &file)
        .status()
        .unwrap();
    assert!(status.success());
    let records = watch.records();
    fs::remove_dir(&folder).unwrap();

    let opened = records.iter().find_map(|record| match record {
        Record::Open { header, raw, .. } if raw == b"/dogwatch/from-a-thread" => Some(header),
        _ => None,
    });
    let header = opened.expect("no open");
    assert_ne!(header.pid, header.tid);
    assert_eq!(header.cgroup_id, own_cgroup(&hierarchy));
    let moves = records
        .iter()
        .filter(|record| matches!(record, Record::CgroupMove { pid, .. } if *pid == header.pid));
    assert_eq!(moves.count(), 0);
}

/// What the test above starts; by itself it does nothing.
#[test]
fn moves_a_thread_of_its_own() {
    let Some(file) = std::env::var_os(THREADS_FILE) else {
        return;
    };
    let home = Path::new(&file).parent().and_then(Path::parent).unwrap();
    let home = home.join(Path::new(&file).file_name().unwrap());
    let elsewhere = std::thread::spawn(move || {
        // SAFETY: no arguments.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        fs::write(&file, tid.to_string()).unwrap();
        openat(libc::AT_FDCWD, c"/dogwatch/from-a-thread", libc::O_RDONLY);
        // The cgroup can be removed when the thread is out of it.
        fs::write(home, tid.to_string()).unwrap();
    });
    elsewhere.join().unwrap();
}
