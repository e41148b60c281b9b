//! Rounds of this machine, and of one whose files hang.

use std::fs;
use std::time::Instant;

use super::*;

const PLAN: SamplePlan = SamplePlan {
    interval: Duration::from_secs(1),
    containers: true,
    processes: true,
    calls: true,
    io: true,
    network: true,
};

fn roots(folder: &Path) -> Roots {
    Roots {
        proc: folder.join("proc"),
        sys: folder.join("sys"),
    }
}

/// Takes what comes until a round has ended, or ten seconds.
fn until_ended(sampler: &mut Sampler) -> Vec<Fact> {
    let begun = Instant::now();
    let mut facts = Vec::new();
    while sampler.under_way && begun.elapsed() < Duration::from_secs(10) {
        facts.extend(sampler.taken());
        std::thread::sleep(Duration::from_millis(5));
    }
    facts
}

fn ended(fact: &Fact) -> Sampled {
    match fact {
        Fact::Sampled(round) => *round,
        other => panic!("no end of a round: {other:?}"),
    }
}

#[test]
fn a_round_of_this_machine_has_the_host_and_its_processes() {
    let mut sampler = Sampler::start(
        PLAN,
        Roots::default(),
        "/sys/fs/cgroup".into(),
        Counts::default(),
    )
    .unwrap();
    assert!(sampler.is_due(0));
    assert_eq!(sampler.ask(1, Vec::new()), None);
    assert!(!sampler.is_due(2) && sampler.is_due(1_000_000_001));
    let facts = until_ended(&mut sampler);
    let Fact::ContainerSample(host) = &facts[0] else {
        panic!("the host comes first: {facts:?}")
    };
    assert_eq!(host.container_full_id, None);
    assert_eq!(host.cpu_total_ns, None, "nothing to compare with");
    assert!(host.mem_limit_bytes > host.mem_working_set_bytes);
    assert!(host.pids_current > Some(1) && host.pids_limit > host.pids_current);
    let processes = facts.iter().filter_map(|fact| match fact {
        Fact::ProcessSamples(some) => Some(some.len()),
        _ => None,
    });
    assert!(processes.sum::<usize>() > 0);
    let round = ended(facts.last().unwrap());
    assert!(round.ended_ns >= Some(host.boot_ts as u64));
    // The next one tells what was added.
    sampler.ask(2, Vec::new());
    let facts = until_ended(&mut sampler);
    let Fact::ContainerSample(host) = &facts[0] else {
        panic!("{facts:?}")
    };
    assert!(host.cpu_total_ns >= Some(0) && host.sample_interval_ns > Some(0));
}

/// A pipe that nobody writes to is read for ever, as a file on a file system that hangs.
#[test]
fn a_file_system_that_hangs_costs_samples_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let proc = folder.path().join("proc");
    fs::create_dir_all(proc.join("7")).unwrap();
    let hung = proc.join("7/stat");
    let path = std::ffi::CString::new(hung.to_str().unwrap()).unwrap();
    // SAFETY: a path that ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let mut sampler = Sampler::start(
        PLAN,
        roots(folder.path()),
        folder.path().into(),
        Counts::default(),
    )
    .unwrap();
    let begun = Instant::now();
    assert_eq!(sampler.ask(0, Vec::new()), None);
    for round in 1..=3 {
        sampler.taken();
        let left_out = ended(&sampler.ask(round, Vec::new()).unwrap());
        assert_eq!(left_out.ended_ns, None);
        assert_eq!(left_out.containers_unsampled, round);
        assert_eq!(left_out.processes_unsampled, round);
        assert_eq!(left_out.files_unsampled, round);
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    // It answers after all: the round ends, and what was left out stays counted.
    drop(fs::File::options().write(true).open(&hung).unwrap());
    let facts = until_ended(&mut sampler);
    let round = ended(facts.last().unwrap());
    assert!(round.ended_ns.is_some());
    assert_eq!(
        (round.containers_unsampled, round.processes_unsampled),
        (3, 3)
    );
    assert_eq!(sampler.ask(9, Vec::new()), None);
}
