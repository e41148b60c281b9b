//! Shares, repeats of failures, and reads that are judged by program and path.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dogwatch_ebpf::record::Record;
use dogwatch_sensor::probe::{ClassRates, Hierarchy, Mode, Policy, ProbeOptions, Rates};
use libc::{AT_FDCWD, O_RDONLY, O_WRONLY};

use crate::act::{self, c_path, openat};
use crate::watch::{Watch, own_cgroup, text};

/// A cgroup of its own, so that no other test uses up its share; removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mount = Hierarchy::find().unwrap().mount;
        Self::below(&mount, &format!("dogwatch-{name}-{}", std::process::id()))
    }

    fn below(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    /// For use in a child: system calls only.
    fn entrance(&self) -> impl Fn() + use<> {
        let members = c_path(&self.0.join("cgroup.procs"));
        // SAFETY: the path ends in NUL and the text has the length given.
        move || unsafe {
            let fd = libc::open(members.as_ptr(), O_WRONLY);
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Opens among the records, by the path as given.
fn opens(records: &[Record], name: &str) -> usize {
    let is_it =
        |record: &&Record| matches!(record, Record::Open { raw, .. } if text(raw).contains(name));
    records.iter().filter(is_it).count()
}

fn limits(container: ClassRates) -> ProbeOptions {
    let rates = Rates {
        container,
        ..Rates::UNLIMITED
    };
    ProbeOptions {
        rates,
        ..ProbeOptions::default()
    }
}

#[test]
fn a_share_is_used_up_and_what_it_refused_is_counted() {
    let call = 100;
    let Some(mut watch) = Watch::start(&limits(ClassRates {
        call,
        ..ClassRates::UNLIMITED
    })) else {
        return;
    };
    let (flooder, quiet) = (Cgroup::new("flooder"), Cgroup::new("quiet"));
    let (enter, enter_quiet) = (flooder.entrance(), quiet.entrance());
    let began = Instant::now();
    let records = watch.see(|| {
        enter();
        (0..2_000).for_each(|_| _ = openat(AT_FDCWD, c"/dev/null", O_WRONLY));
    });
    let sent = opens(&records, "/dev/null");
    // Two seconds' worth at once, and what came back meanwhile: much, where the processor is emulated and has other work.
    let earned = began.elapsed().as_secs() as usize * call as usize;
    assert!((180..500 + earned).contains(&sent), "{sent} sent");
    assert!(matches!(records.last(), Some(Record::Exit { .. })));
    let refused = watch.probe.limited(0).unwrap();
    let own: Vec<_> = refused
        .iter()
        .filter(|one| one.cgroup_id == flooder.id())
        .collect();
    let [one] = own[..] else {
        panic!("{refused:?}")
    };
    assert_eq!((one.cgroup_id, one.kind), (flooder.id(), "openat"));
    assert_eq!(one.counted.count as usize + sent, 2_000);
    assert!(one.counted.first_ns < one.counted.last_ns);
    let (own_id, count) = (one.cgroup_id, one.counted.count);
    let again = watch.probe.limited(0).unwrap();
    assert!(again.iter().all(|one| one.cgroup_id != own_id), "{again:?}");
    assert!(watch.probe.counters().unwrap().limited["openat"] >= count);
    let beside = watch.see(|| {
        enter_quiet();
        openat(AT_FDCWD, c"/dev/null", O_WRONLY);
    });
    assert_eq!(opens(&beside, "/dev/null"), 1);
}

/// One container, allowed `rate` calls a second, opens this 700 times at once while nobody reads the ring; then another one
/// does what it is assured of. Returns how many opens of the first were sent, less those that the time it took allows.
fn burst(name: &str, path: &CStr, rate: u64) -> Option<usize> {
    let mut options = limits(ClassRates {
        call: rate,
        ..ClassRates::UNLIMITED
    });
    // Two seconds' worth of records would fill it to where it is kept for others.
    options.ring_bytes = 128 << 10;
    let mut watch = Watch::start(&options)?;
    // What else runs on this machine fills the ring, too.
    let own = own_cgroup(watch.probe.hierarchy());
    watch.probe.set_mode(own, Mode::Off).unwrap();
    watch.records();
    let (cgroup, quiet) = (Cgroup::new(name), Cgroup::new(&format!("beside-{name}")));
    let (enter, enter_quiet) = (cgroup.entrance(), quiet.entrance());
    let began = Instant::now();
    act::in_child(|| {
        enter();
        (0..700).for_each(|_| _ = openat(AT_FDCWD, path, O_WRONLY));
    });
    let earned = began.elapsed().as_millis() as usize * rate as usize / 1_000;
    // A tenth of two seconds.
    let assured = rate / 5;
    act::in_child(|| {
        enter_quiet();
        (0..assured).for_each(|_| _ = openat(AT_FDCWD, c"/dev/zero", O_WRONLY));
    });
    let records = watch.records();
    assert_eq!(opens(&records, "/dev/zero"), assured as usize);
    let sent = opens(&records, path.to_str().unwrap());
    assert!(sent > 0);
    Some(sent.saturating_sub(earned))
}

#[test]
fn a_burst_of_one_container_leaves_the_ring_to_others() {
    let Some(sent) = burst("burst", c"/dev/null", 250) else {
        return;
    };
    // What fills an eighth of the ring, 250 ms beyond that, and what is its own.
    assert!(sent < 300, "{sent}");
}

#[test]
fn a_burst_of_long_paths_leaves_no_less() {
    let path = c_path(Path::new(&format!("/{}", "x".repeat(3_990))));
    let Some(sent) = burst("long", &path, 50) else {
        return;
    };
    // Each is worth eight records.
    assert!(sent < 20, "{sent}");
}

#[test]
fn a_flood_of_opens_does_not_hide_a_sensitive_one() {
    let Some(mut watch) = Watch::start(&limits(ClassRates {
        call: 10,
        sensitive: 10,
        ..ClassRates::UNLIMITED
    })) else {
        return;
    };
    let cgroup = Cgroup::new("sensitive");
    let enter = cgroup.entrance();
    let records = watch.see(|| {
        enter();
        (0..500).for_each(|_| _ = openat(AT_FDCWD, c"/dev/null", O_WRONLY));
        openat(AT_FDCWD, c"/etc/shadow", O_RDONLY);
        (0..500).for_each(|_| _ = openat(AT_FDCWD, c"/etc/shadow", O_RDONLY));
    });
    assert!(opens(&records, "/dev/null") < 100);
    assert!((1..100).contains(&opens(&records, "/etc/shadow")));
}

#[test]
fn cgroups_below_a_containers_bring_no_share_of_their_own() {
    let call = 100;
    let Some(mut watch) = Watch::start(&limits(ClassRates {
        call,
        ..ClassRates::UNLIMITED
    })) else {
        return;
    };
    let container = Cgroup::new("container");
    let policy = Policy {
        mode: Mode::Normal,
        container: Some(container.id()),
    };
    watch.probe.set_mode(container.id(), policy).unwrap();
    flood_below(&mut watch, &container);
}

#[test]
fn nor_do_they_where_the_kernel_part_can_hold_no_more_modes() {
    // A rate of its own, so that no other test gets a probe whose programs have seen a full map.
    let Some(mut watch) = Watch::start(&limits(ClassRates {
        call: 101,
        ..ClassRates::UNLIMITED
    })) else {
        return;
    };
    let container = Cgroup::new("crowd");
    let mut none = 1 << 50..;
    let filled = none.find(|id| watch.probe.set_mode(*id, Mode::Off).is_err());
    flood_below(&mut watch, &container);
    open_below(&mut watch, &container);
    (1 << 50..filled.unwrap()).for_each(|id| watch.probe.forget(id));
}

/// What is open in a cgroup below a container's is the container's.
fn open_below(watch: &mut Watch, container: &Cgroup) {
    let mut files = watch.probe.take_open_files().unwrap().unwrap();
    let nested = Cgroup::below(&container.0, "open");
    let enter = nested.entrance();
    let mut command = Command::new("/bin/sleep");
    command.arg("600").stdin(tempfile::tempfile().unwrap());
    // SAFETY: system calls alone.
    let entered = unsafe {
        command.pre_exec(move || {
            enter();
            Ok(())
        })
    };
    let mut child = entered.spawn().unwrap();
    let mut shares = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    let walked = files.walk(until, &mut |file| {
        if file.pid == child.id() {
            shares.push(file.share);
        }
    });
    child.kill().unwrap();
    child.wait().unwrap();
    walked.unwrap();
    assert!(!shares.is_empty());
    assert!(
        shares.iter().all(|share| *share == container.id()),
        "{shares:?}"
    );
}

/// Four cgroups below a container's open more than it may; all of what is refused is refused to the container.
fn flood_below(watch: &mut Watch, container: &Cgroup) {
    let nested: Vec<_> = (0..4)
        .map(|n| Cgroup::below(&container.0, &n.to_string()))
        .collect();
    let entrances: Vec<_> = nested.iter().map(Cgroup::entrance).collect();
    let began = Instant::now();
    let records = watch.see(|| {
        for enter in &entrances {
            enter();
            (0..500).for_each(|_| _ = openat(AT_FDCWD, c"/dev/null", O_WRONLY));
        }
    });
    let earned = began.elapsed().as_millis() as usize / 10;
    assert!(opens(&records, "/dev/null") < 500 + 2 * earned);
    let refused: Vec<u64> = watch
        .probe
        .limited(0)
        .unwrap()
        .iter()
        .map(|one| one.cgroup_id)
        .collect();
    assert!(refused.contains(&container.id()), "{refused:?}");
    let nested_ids: Vec<u64> = nested.iter().map(Cgroup::id).collect();
    assert!(
        nested_ids.iter().all(|id| !refused.contains(id)),
        "{refused:?}"
    );
}

#[test]
fn a_failure_that_repeats_is_sent_once_and_counted() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let cgroup = Cgroup::new("failures");
    let enter = cgroup.entrance();
    let records = watch.see(|| {
        enter();
        for _ in 0..50 {
            openat(AT_FDCWD, c"/dogwatch/missing", O_RDONLY);
            openat(AT_FDCWD, c"/dogwatch/missing", O_WRONLY);
            openat(AT_FDCWD, c"/dogwatch/other", O_RDONLY);
            openat(AT_FDCWD, c"/proc/self/none", O_RDONLY);
        }
    });
    assert_eq!(opens(&records, "/dogwatch/missing"), 2);
    assert_eq!(opens(&records, "/dogwatch/other"), 1);
    assert_eq!(opens(&records, "/proc/self/none"), 1);
    let names: Vec<u64> = records
        .iter()
        .filter_map(|record| match record {
            Record::Open { fold, header, .. } if header.ret < 0 => Some(*fold),
            _ => None,
        })
        .collect();
    let folded = watch.probe.folded().unwrap();
    let mine: Vec<_> = folded
        .iter()
        .filter(|one| names.contains(&one.fold))
        .collect();
    assert_eq!(mine.len(), 4, "{folded:?}");
    assert!(
        mine.iter()
            .all(|one| one.counted.count == 49 && one.cgroup_id == cgroup.id()),
        "{mine:?}"
    );
    assert!(
        watch
            .probe
            .folded()
            .unwrap()
            .iter()
            .all(|one| !names.contains(&one.fold))
    );
    assert!(watch.filtered("folded_open") >= 4 * 49);
}

#[test]
fn failures_that_meet_in_a_slot_do_not_push_each_other_out() {
    const PATHS: usize = 128; // half of the slots that a share has
    const TIMES: usize = 4;
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let cgroup = Cgroup::new("slots");
    let enter = cgroup.entrance();
    let paths: Vec<_> = (0..PATHS)
        .map(|n| c_path(Path::new(&format!("/dogwatch/slot-{n}"))))
        .collect();
    let records = watch.see(|| {
        enter();
        for path in paths.iter().cycle().take(PATHS * TIMES) {
            openat(AT_FDCWD, path, O_RDONLY);
        }
    });
    let sent = opens(&records, "/dogwatch/slot-");
    let folded = watch.probe.folded().unwrap();
    let mine = folded.iter().filter(|one| one.cgroup_id == cgroup.id());
    let counted: u64 = mine.map(|one| one.counted.count).sum();
    assert_eq!(sent + counted as usize, PATHS * TIMES);
    // Those that find no slot are sent each time. Of one slot a path, some 27 would find none; of four, one or two.
    let unfolded = (sent - PATHS) / (TIMES - 1);
    assert!(unfolded <= 9, "{unfolded} of {PATHS} were not folded");
}

#[test]
fn refusals_are_never_folded() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("closed");
    fs::write(&file, "x").unwrap();
    let path = c_path(&file);
    let records = watch.see(|| unsafe {
        // SAFETY: no pointers. Nobody may not read root's files once the mode forbids it.
        libc::chmod(path.as_ptr(), 0);
        libc::setgid(65_534);
        libc::setuid(65_534);
        (0..5).for_each(|_| _ = openat(AT_FDCWD, &path, O_RDONLY));
    });
    assert_eq!(opens(&records, "closed"), 5);
}

#[test]
fn another_program_that_reads_the_same_is_news() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("settings");
    fs::write(&file, "x").unwrap();
    let path = c_path(&file);
    let of_cat = |watch: &mut Watch| {
        watch.records();
        assert!(
            std::process::Command::new("cat")
                .arg(&file)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        opens(&watch.records(), "settings")
    };
    assert_eq!(
        opens(
            &watch.see(|| _ = openat(AT_FDCWD, &path, O_RDONLY)),
            "settings"
        ),
        1
    );
    assert_eq!(
        opens(
            &watch.see(|| _ = openat(AT_FDCWD, &path, O_RDONLY)),
            "settings"
        ),
        0
    );
    assert_eq!(of_cat(&mut watch), 1);
    assert_eq!(of_cat(&mut watch), 0);
}

#[test]
fn a_path_that_changed_is_judged_again() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    fs::create_dir_all(real.join("plain/deep")).unwrap();
    fs::write(real.join("plain/deep/file"), "x").unwrap();
    let options = ProbeOptions {
        sensitive_read_paths: vec![
            real.join("secret").to_str().unwrap().parse().unwrap(),
            "*/id_rsa".parse().unwrap(),
        ],
        ..ProbeOptions::default()
    };
    let Some(mut watch) = Watch::start(&options) else {
        return;
    };
    let mut seen = |path: &str| {
        let path = c_path(&real.join(path));
        let records = watch.see(|| _ = openat(AT_FDCWD, &path, O_RDONLY));
        records
            .iter()
            .filter(|record| matches!(record, Record::Open { .. }))
            .count()
    };
    assert_eq!([seen("plain/deep/file"), seen("plain/deep/file")], [1, 0]);
    // Something else is renamed: the path is walked again, and is the same.
    fs::write(real.join("one"), "x").unwrap();
    fs::rename(real.join("one"), real.join("two")).unwrap();
    assert_eq!(seen("plain/deep/file"), 0);
    // The file itself gets a sensitive name, and loses it.
    fs::rename(real.join("plain/deep/file"), real.join("plain/deep/id_rsa")).unwrap();
    assert_eq!(
        [seen("plain/deep/id_rsa"), seen("plain/deep/id_rsa")],
        [1, 1]
    );
    fs::rename(real.join("plain/deep/id_rsa"), real.join("plain/deep/file")).unwrap();
    assert_eq!(seen("plain/deep/file"), 0);
    // A folder above it is moved to a sensitive place, by the host itself.
    fs::rename(real.join("plain"), real.join("secret")).unwrap();
    assert_eq!([seen("secret/deep/file"), seen("secret/deep/file")], [1, 1]);
    // And to another harmless one: a new path is news once.
    fs::rename(real.join("secret"), real.join("moved")).unwrap();
    assert_eq!([seen("moved/deep/file"), seen("moved/deep/file")], [1, 0]);
}

#[test]
fn an_exec_first_loses_its_long_texts() {
    let options = ProbeOptions {
        rates: Rates {
            exec_text_bytes: 1,
            ..Rates::UNLIMITED
        },
        ..ProbeOptions::default()
    };
    let Some(mut watch) = Watch::start(&options) else {
        return;
    };
    let long = "x".repeat(30_000);
    for _ in 0..3 {
        assert!(
            std::process::Command::new("/bin/true")
                .arg(&long)
                .status()
                .unwrap()
                .success()
        );
    }
    let records = watch.records();
    let arguments: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Exec(exec) if exec.argv.starts_with(b"/bin/true\0xxxx") => {
                Some((exec.argv.len(), exec.header.flags.truncated))
            }
            _ => None,
        })
        .collect();
    assert_eq!(arguments.len(), 3);
    // The first is paid afterwards.
    assert!(arguments[0].0 > 30_000 && !arguments[0].1, "{arguments:?}");
    assert_eq!(arguments[1..], [(1024, true), (1024, true)]);
}
