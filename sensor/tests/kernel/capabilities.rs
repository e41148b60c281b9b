//! What goes on after the capabilities are given up, and what is said where they are missing.

use std::thread;

use caps::{CapSet, Capability};
use dogwatch_sensor::check::State;
use dogwatch_sensor::config::{Config, RawConfig};
use dogwatch_sensor::pipeline::check;
use dogwatch_sensor::probe::{KEPT, Mode, ProbeOptions, drop_capabilities};

use crate::act::openat;
use crate::watch::Watch;

#[test]
fn the_sensor_works_on_without_the_capabilities_it_loaded_with() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    // Capabilities belong to threads: this one gives its own up, the test's others keep theirs.
    let records = thread::scope(|scope| {
        let without = scope.spawn(|| {
            drop_capabilities().unwrap();
            let left = caps::read(None, CapSet::Effective).unwrap();
            assert!(!left.contains(&Capability::CAP_SYS_ADMIN), "{left:?}");
            // Kernels before 5.19 ask for it at every access to a map.
            let kept = |one: &Capability| KEPT.iter().any(|(kept, _)| kept == one);
            let stays = |one: &Capability| before_5_19() && *one == Capability::CAP_BPF;
            assert!(left.iter().all(|one| kept(one) || stays(one)), "{left:?}");
            watch.probe.set_mode(1 << 60, Mode::Full).unwrap();
            watch.probe.forget(1 << 60);
            watch.probe.counters().unwrap();
            watch.see(|| _ = openat(libc::AT_FDCWD, c"/dogwatch/without", libc::O_RDONLY))
        });
        without.join().unwrap()
    });
    assert_eq!(records.len(), 2, "{records:?}");
}

fn before_5_19() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) < (5, 19)
}

#[test]
fn loading_without_capabilities_says_which() {
    let Some(_allowed) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let message = thread::spawn(|| {
        drop_capabilities().unwrap();
        dogwatch_sensor::probe::Probe::load(&ProbeOptions::default())
            .err()
            .map(|error| error.to_string())
    });
    let message = message.join().unwrap().unwrap();
    let missing = if before_5_19() {
        "programs: CAP_PERFMON missing"
    } else {
        "programs: CAP_BPF and CAP_PERFMON missing"
    };
    assert!(message.contains(missing), "{message}");
}

#[test]
fn check_tries_what_it_says() {
    let Some(_allowed) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let mut raw = RawConfig {
        host_id: "kernel".into(),
        ..RawConfig::default()
    };
    raw.containers.docker_root = "/dogwatch/none".into();
    let config = Config::check(raw).unwrap();
    // It gives up rights as a start does: its thread's.
    let report = thread::spawn(move || check(&config)).join().unwrap();
    assert!(report.can_run(), "{report}");
    let hooks = report
        .findings
        .iter()
        .find(|finding| finding.feature == "hooks")
        .unwrap();
    assert_eq!(hooks.state, State::Works, "{report}");
    assert!(
        report
            .not_delivered()
            .iter()
            .any(|line| line.contains("/dogwatch/none/containers")),
        "{report}"
    );
}
