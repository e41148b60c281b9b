//! Opens: the file really opened, failures, repeats, and what is published always.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use dogwatch_ebpf::record::Record;
use dogwatch_schemas::reads::{ReadPattern, default_patterns};
use dogwatch_sensor::probe::{Mode, ProbeOptions, Rates};
use libc::{AT_FDCWD, O_CREAT, O_PATH, O_RDONLY, O_TRUNC, O_WRONLY};

use crate::act::{c_path, closed, enter_root, openat};
use crate::watch::{Watch, text};

/// (call, result negative?, flags, path, raw, base) of each open.
fn opens(records: &[Record]) -> Vec<(&'static str, i64, u64, String, String, String)> {
    let one = |record: &Record| match record {
        Record::Open {
            header,
            open_flags,
            path,
            raw,
            base,
            ..
        } => Some((
            header.call.unwrap().name,
            header.ret.min(0),
            *open_flags,
            text(path),
            text(raw),
            text(base),
        )),
        _ => None,
    };
    records.iter().filter_map(one).collect()
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    (folder, real)
}

#[test]
fn the_path_is_that_of_the_file_really_opened() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (_folder, real) = folder();
    fs::create_dir(real.join("a")).unwrap();
    fs::write(real.join("file"), "x").unwrap();
    symlink(real.join("file"), real.join("a/link")).unwrap();
    let given = real.join("a/../a/link");
    let path = c_path(&given);
    let records = watch.see(|| _ = openat(AT_FDCWD, &path, O_RDONLY));
    let expected = (
        "openat",
        0,
        0,
        text_of(&real.join("file")),
        text_of(&given),
        String::new(),
    );
    assert_eq!(opens(&records), [expected]);

    let metadata = fs::metadata(real.join("file")).unwrap();
    let Record::Open {
        file,
        header,
        mnt_ns,
        ..
    } = &records[0]
    else {
        panic!("{records:?}")
    };
    assert_eq!(
        (file.ino, file.dev, u32::from(file.mode)),
        (metadata.ino(), metadata.dev(), metadata.mode())
    );
    assert_eq!(
        file.mtime_ns,
        metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
    );
    assert_eq!(
        file.ctime_ns,
        metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()
    );
    assert_eq!(u64::from(file.nlink), metadata.nlink());
    assert!(header.ret >= 0 && !header.flags.unresolved);
    assert_eq!(
        u64::from(*mnt_ns),
        fs::metadata("/proc/self/ns/mnt").unwrap().ino()
    );
}

/// Mounts a part of a file system elsewhere, in a tree of mounts of its own.
fn mount_apart(from: &std::ffi::CStr, to: &std::ffi::CStr) {
    // SAFETY: texts that end in NUL, and no other pointers.
    unsafe {
        let none: *const libc::c_char = std::ptr::null();
        libc::unshare(libc::CLONE_NEWNS);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(none, c"/".as_ptr(), none, private, none.cast());
        libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast());
    }
}

#[test]
fn a_file_lies_where_it_lies_whatever_tree_it_is_reached_through() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (_folder, real) = folder();
    fs::create_dir_all(real.join("a/b")).unwrap();
    fs::create_dir(real.join("m")).unwrap();
    for file in ["a/b/file", "n"] {
        fs::write(real.join(file), "x").unwrap();
    }
    let at = |path: &str| c_path(&real.join(path));
    let (a, m, n, file, through) = (at("a"), at("m"), at("n"), at("a/b/file"), at("m/b/file"));
    let records = watch.see(|| {
        mount_apart(&a, &m);
        openat(AT_FDCWD, &through, O_WRONLY);
        mount_apart(&file, &n);
        openat(AT_FDCWD, &n, O_WRONLY);
        openat(AT_FDCWD, c"/", O_RDONLY);
    });
    let found: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Open { path, place, .. } => Some((text(path), text(place))),
            _ => None,
        })
        .collect();
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    let name = |path: &str| text_of(&real.join(path));
    assert_eq!(paths, [&name("m/b/file"), &name("n"), "/"]);
    let places: Vec<_> = found.iter().map(|(_, place)| place.as_str()).collect();
    assert!(places[0].ends_with("/a/b/file"), "{places:?}");
    // The tree's own root is no mount of anything.
    assert_eq!(places[1..], [places[0], ""]);
}

fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_way_to_open_is_seen() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (_folder, real) = folder();
    let path = c_path(&real.join("new"));
    let how: [u64; 3] = [(O_WRONLY | O_TRUNC) as u64, 0, 0];
    let records = watch.see(|| unsafe {
        // SAFETY: paths end in NUL, `how` is an open_how, all outlive the calls.
        closed(libc::syscall(libc::SYS_creat, path.as_ptr(), 0o640));
        closed(libc::syscall(libc::SYS_open, path.as_ptr(), O_WRONLY, 0));
        closed(libc::syscall(
            libc::SYS_openat2,
            AT_FDCWD,
            path.as_ptr(),
            how.as_ptr(),
            24,
        ));
        closed(libc::syscall(
            libc::SYS_openat,
            AT_FDCWD,
            path.as_ptr(),
            O_WRONLY,
            0,
        ));
    });
    let new = text_of(&real.join("new"));
    let open = |call, flags: i32| {
        (
            call,
            0,
            flags as u64,
            new.clone(),
            new.clone(),
            String::new(),
        )
    };
    assert_eq!(
        opens(&records),
        [
            open("creat", O_WRONLY | O_CREAT | O_TRUNC),
            open("open", O_WRONLY),
            open("openat2", O_WRONLY | O_TRUNC),
            open("openat", O_WRONLY),
        ]
    );
    let Record::Open { mode, .. } = records[0] else {
        panic!("{records:?}")
    };
    assert_eq!(mode, 0o640);
    // Only the first has made the file.
    let created: Vec<_> = records
        .iter()
        .filter(|record| matches!(record, Record::Open { .. }))
        .map(|record| record.header().flags.created)
        .collect();
    assert_eq!(created, [true, false, false, false]);
}

#[test]
fn failures_keep_the_path_as_given_and_where_it_started() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (_folder, real) = folder();
    fs::create_dir(real.join("below")).unwrap();
    let (top, below) = (c_path(&real), c_path(&real.join("below")));
    let records = watch.see(|| unsafe {
        // SAFETY: paths end in NUL.
        libc::chdir(top.as_ptr());
        openat(AT_FDCWD, c"none", O_RDONLY);
        let directory = libc::open(below.as_ptr(), O_PATH);
        openat(directory, c"none", O_RDONLY);
        openat(AT_FDCWD, c"/none/at/all", O_WRONLY);
        openat(1 << 20, c"none", O_RDONLY);
    });
    let failed: Vec<_> = opens(&records)
        .into_iter()
        .filter(|open| open.1 < 0)
        .collect();
    let failure = |errno: i32, flags: i32, raw: &str, base: &Path| {
        (
            "openat",
            -i64::from(errno),
            flags as u64,
            String::new(),
            raw.to_owned(),
            text_of(base),
        )
    };
    assert_eq!(
        failed,
        [
            failure(libc::ENOENT, O_RDONLY, "none", &real),
            failure(libc::ENOENT, O_RDONLY, "none", &real.join("below")),
            failure(libc::ENOENT, O_WRONLY, "/none/at/all", Path::new("")),
            failure(libc::EBADF, O_RDONLY, "none", Path::new("")),
        ]
    );
}

#[test]
fn reads_repeat_once_an_hour_unless_sensitive() {
    let (_folder, real) = folder();
    let secret_folder = real.join("secret");
    fs::create_dir(&secret_folder).unwrap();
    for name in ["plain", "id_rsa", "secret/inside", "secretive"] {
        fs::write(real.join(name), "x").unwrap();
    }
    let sensitive_read_paths = vec![
        text_of(&secret_folder).parse().unwrap(),
        "*/id_rsa".parse().unwrap(),
    ];
    let options = ProbeOptions {
        sensitive_read_paths,
        ..ProbeOptions::default()
    };
    let Some(mut watch) = Watch::start(&options) else {
        return;
    };
    // (file, flags, how many of three opens are sent)
    let cases = [
        ("plain", O_RDONLY, 1),
        ("plain", O_WRONLY, 3),
        ("id_rsa", O_RDONLY, 3),
        ("secret/inside", O_RDONLY, 3),
        ("secretive", O_RDONLY, 1),
    ];
    for (name, flags, expected) in cases {
        let path = c_path(&real.join(name));
        let filtered = watch.filtered("repeated_open");
        let records = watch.see(|| (0..3).for_each(|_| _ = openat(AT_FDCWD, &path, flags)));
        assert_eq!(opens(&records).len(), expected, "{name} {flags}");
        assert!(
            watch.filtered("repeated_open") >= filtered + 3 - expected as u64,
            "{name} {flags}"
        );
    }
    // A read of the harmless name of a hard link does not hide the sensitive one.
    fs::hard_link(real.join("secret/inside"), real.join("harmless")).unwrap();
    fs::write(real.join("secret/other"), "x").unwrap();
    fs::hard_link(real.join("secret/other"), real.join("alias")).unwrap();
    let (alias, other) = (
        c_path(&real.join("alias")),
        c_path(&real.join("secret/other")),
    );
    let records = watch.see(|| {
        openat(AT_FDCWD, &alias, O_RDONLY);
        openat(AT_FDCWD, &other, O_RDONLY);
    });
    assert_eq!(opens(&records).len(), 2);
}

/// Files in a root of their own, so that absolute paths are what they say. Returns them with how many of two reads are sent.
fn make_root(root: &Path) -> Vec<(std::ffi::CString, usize)> {
    let mut files: Vec<(String, usize)> = Vec::new();
    for (number, pattern) in default_patterns().into_iter().enumerate() {
        let path = match pattern {
            ReadPattern::Path(path) => path,
            ReadPattern::PathStart(start) => format!("{start}x"),
            ReadPattern::Name(name) => format!(
                "/home/{number}/{}/{}{}",
                name.folder.as_deref().unwrap_or("any"),
                name.name,
                if name.open_end { "x" } else { "" }
            ),
        };
        files.push((path, 2));
    }
    for once in [
        "/etc/passwd",
        "/home/a/.kube/cache",
        "/home/a/kube/config",
        "/home/a/x.ssh/id_rsa.pub",
        "/home/a/.ssh/known_hosts",
        "/id",
    ] {
        files.push((once.to_owned(), 1));
    }
    let make = |path: &str| {
        let file = root.join(&path[1..]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "x").unwrap();
    };
    let path_of = |(path, count): &(String, usize)| {
        make(path);
        (c_path(Path::new(path)), *count)
    };
    files.iter().map(path_of).collect()
}

#[test]
fn every_read_of_the_default_list_is_sent_whatever_mounts_call_the_file() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (_folder, root) = folder();
    let files = make_root(&root);
    // Mounted names: a harmless name of a listed file, a harmless folder of one, and a listed name of a harmless file.
    let mounts = [
        ("kept/.kube/config", "seen/plain", "/seen/plain"),
        ("kept/.ssh", "seen/keys", "/seen/keys/id_other"),
        ("kept/data", "seen/.netrc", "/seen/.netrc"),
    ];
    for file in [
        "kept/.kube/config",
        "kept/.ssh/id_other",
        "kept/data",
        "seen/plain",
        "seen/.netrc",
    ] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), "x").unwrap();
    }
    fs::create_dir(root.join("seen/keys")).unwrap();
    let binds =
        mounts.map(|(source, target, _)| (c_path(&root.join(source)), c_path(&root.join(target))));
    let mounted = mounts.map(|(_, _, path)| (c_path(Path::new(path)), 2));
    let all: Vec<_> = files.into_iter().chain(mounted).collect();
    let new_root = c_path(&root);
    let records = watch.see(|| {
        enter_root(&new_root, &binds);
        for _ in 0..2 {
            for (path, _) in &all {
                openat(AT_FDCWD, path, O_RDONLY);
            }
        }
    });
    let seen = opens(&records);
    for (path, expected) in &all {
        let path = path.to_str().unwrap();
        let count = seen
            .iter()
            .filter(|open| open.3 == path && open.1 == 0)
            .count();
        assert_eq!(count, *expected, "{path}");
    }
}

#[test]
fn lifecycle_keeps_only_writes_below_the_hosts_paths() {
    let (_folder, real) = folder();
    fs::create_dir(real.join("etc")).unwrap();
    fs::write(real.join("etc/file"), "x").unwrap();
    fs::write(real.join("etcetera"), "x").unwrap();
    let hierarchy = dogwatch_sensor::probe::Hierarchy::find().unwrap();
    let modes = vec![(crate::watch::own_cgroup(&hierarchy), Mode::Lifecycle.into())];
    let host_write_paths = vec![text_of(&real.join("etc"))];
    let Some(mut watch) = Watch::start(&ProbeOptions {
        modes,
        host_write_paths,
        ..ProbeOptions::default()
    }) else {
        return;
    };
    let (inside, outside) = (
        c_path(&real.join("etc/file")),
        c_path(&real.join("etcetera")),
    );
    let filtered = watch.filtered("mode_lifecycle");
    let records = watch.see(|| {
        openat(AT_FDCWD, &inside, O_RDONLY);
        openat(AT_FDCWD, &outside, O_WRONLY);
        openat(AT_FDCWD, c"/none/at/all", O_WRONLY);
        openat(AT_FDCWD, &inside, O_WRONLY);
    });
    let paths: Vec<String> = opens(&records).into_iter().map(|open| open.3).collect();
    assert_eq!(paths, [text_of(&real.join("etc/file"))]);
    assert!(watch.filtered("mode_lifecycle") >= filtered + 3);
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    const OPENS: u32 = 20_000;
    // At full nothing is folded.
    let hierarchy = dogwatch_sensor::probe::Hierarchy::find().unwrap();
    let own_cgroup = crate::watch::own_cgroup(&hierarchy);
    let options = ProbeOptions {
        ring_bytes: 64 << 10,
        rates: Rates::UNLIMITED,
        modes: vec![(own_cgroup, Mode::Full.into())],
        ..ProbeOptions::default()
    };
    let Some(mut watch) = Watch::start(&options) else {
        return;
    };
    let sent = |watch: &Watch| watch.probe.counters().unwrap().sent["openat"];
    let sent_at_first = sent(&watch);
    watch.records();
    let before = watch.probe.counters().unwrap();
    crate::act::in_child(|| {
        (0..OPENS).for_each(|_| _ = openat(AT_FDCWD, c"/dogwatch/none", O_RDONLY))
    });
    let after = watch.probe.counters().unwrap();
    let (sent_now, dropped) = (
        after.sent["openat"] - before.sent["openat"],
        after.dropped["openat"] + after.crowded["openat"]
            - before.dropped["openat"]
            - before.crowded["openat"],
    );
    assert!(
        sent_now + dropped >= u64::from(OPENS),
        "{sent_now} sent, {dropped} dropped"
    );
    assert!(dropped > u64::from(OPENS) / 2, "the ring took {sent_now}");
    // What was sent is what comes out, the opens of other processes included.
    let drained = opens(&watch.records()).len() as u64;
    assert!(
        (sent_now..=sent(&watch) - sent_at_first).contains(&drained),
        "{drained} of {sent_now}"
    );
    // There is room again.
    assert_eq!(
        opens(&watch.see(|| _ = openat(AT_FDCWD, c"/dogwatch/again", O_RDONLY))).len(),
        1
    );
}

#[test]
fn the_sensors_own_opens_are_not_seen() {
    let Some(mut watch) = Watch::start_at(Mode::Full) else {
        return;
    };
    let filtered = watch.filtered("own_process");
    assert!(fs::File::open("/dogwatch/own").is_err());
    let own = watch.probe.own_pid();
    assert!(
        watch
            .records()
            .iter()
            .all(|record| record.header().pid != own)
    );
    assert!(watch.filtered("own_process") > filtered);
}
