//! Cgroups made, removed and moved into, and their modes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use dogwatch_ebpf::record::Record;
use dogwatch_sensor::probe::{Mode, ProbeOptions};

use crate::act::{c_path, openat};
use crate::watch::{Watch, text};

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
