//! Accounts of both versions, from files as the kernel writes them.

use super::*;

/// A folder with files of these texts.
fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn subject(path: &str, made: bool) -> Subject {
    Subject {
        id: "ab".repeat(32).into(),
        path: path.into(),
        made,
    }
}

const UNIFIED: &[(&str, &str)] = &[
    ("cg/cgroup.controllers", "cpu io memory pids\n"),
    ("cg/docker/x/cgroup.procs", ""),
    (
        "cg/docker/x/cpu.stat",
        "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 70\n",
    ),
    ("cg/docker/x/cpu.max", "50000 100000\n"),
    ("cg/docker/x/memory.current", "5000\n"),
    ("cg/docker/x/memory.max", "8000\n"),
    ("cg/docker/x/memory.swap.current", "0\n"),
    (
        "cg/docker/x/memory.stat",
        "anon 3000\nfile 1500\ninactive_file 1000\n",
    ),
    (
        "cg/docker/x/memory.events",
        "low 0\nhigh 0\nmax 6\noom 1\noom_kill 2\n",
    ),
    ("cg/docker/x/pids.current", "7\n"),
    ("cg/docker/x/pids.max", "max\n"),
    (
        "cg/docker/x/io.stat",
        "8:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n253:0 rbytes=100 wbytes=200 rios=3 wios=4\n",
    ),
    (
        "cg/docker/x/cpu.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
    ),
    (
        "proc/devices",
        "Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n253 device-mapper\n",
    ),
    ("proc/pressure/cpu", ""),
];

fn containers(folder: &Path, mounts: &str) -> Containers {
    let mounts = mounts.replace("ROOT", &folder.display().to_string());
    fs::create_dir_all(folder.join("proc/self")).unwrap();
    fs::write(folder.join("proc/self/mountinfo"), mounts).unwrap();
    let roots = Roots {
        proc: folder.join("proc"),
        sys: folder.join("sys"),
    };
    Containers::new(&roots, folder.join("cg"))
}

const UNIFIED_MOUNT: &str = "1 1 0:1 / ROOT/cg rw - cgroup2 cgroup2 rw\n";

#[test]
fn accounts_of_version_2_are_read() {
    let folder = fixture(UNIFIED);
    let containers = containers(folder.path(), UNIFIED_MOUNT);
    let reading = containers.read(&subject("/docker/x", false)).unwrap();
    let expected = ContainerSample {
        boot_ts: reading.boot_ts,
        container_full_id: Some("ab".repeat(32).into()),
        cpu_total_ns: Some(3_000_000),
        cpu_user_ns: Some(2_000_000),
        cpu_system_ns: Some(1_000_000),
        cpu_limit_millicores: Some(500),
        cpu_periods: Some(10),
        cpu_throttled_periods: Some(4),
        cpu_throttled_ns: Some(70_000),
        mem_current_bytes: Some(5_000),
        mem_working_set_bytes: Some(4_000),
        mem_anon_bytes: Some(3_000),
        mem_file_bytes: Some(1_500),
        mem_limit_bytes: Some(8_000),
        mem_swap_bytes: Some(0),
        mem_limit_hits: Some(6),
        mem_oom_kills: Some(2),
        pids_current: Some(7),
        io_read_bytes: Some(100),
        io_write_bytes: Some(200),
        io_read_ops: Some(3),
        io_write_ops: Some(4),
        psi_cpu_some_ns: Some(9_000),
        ..ContainerSample::default()
    };
    assert_eq!(reading, expected);
    assert!(containers.accounts.lacking().is_empty());
}

const OLD: &[(&str, &str)] = &[
    ("cg/docker/x/cgroup.procs", ""),
    ("cg/docker/x/pids.current", "3"),
    ("cg/docker/x/pids.max", "100"),
    ("cpu/docker/x/cpu.cfs_quota_us", "-1\n"),
    ("cpu/docker/x/cpu.cfs_period_us", "100000\n"),
    (
        "cpu/docker/x/cpu.stat",
        "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    ),
    ("cpuacct/docker/x/cpuacct.usage", "3000\n"),
    ("cpuacct/docker/x/cpuacct.usage_user", "2000\n"),
    ("cpuacct/docker/x/cpuacct.usage_sys", "1000\n"),
    ("memory/docker/x/memory.usage_in_bytes", "5000\n"),
    (
        "memory/docker/x/memory.limit_in_bytes",
        "9223372036854771712\n",
    ),
    ("memory/docker/x/memory.failcnt", "0\n"),
    (
        "memory/docker/x/memory.stat",
        "cache 9\nrss 9\ntotal_cache 1500\ntotal_rss 3000\ntotal_inactive_file 1000\n",
    ),
    (
        "memory/docker/x/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    ),
    (
        "blkio/docker/x/blkio.throttle.io_service_bytes",
        "8:0 Read 100\n8:0 Write 200\n8:0 Sync 300\nTotal 300\n",
    ),
    (
        "blkio/docker/x/blkio.throttle.io_serviced",
        "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
    ),
];

const OLD_MOUNTS: &str = "1 1 0:1 / ROOT/cg rw - cgroup cgroup rw,pids
1 1 0:1 / ROOT/cpu rw - cgroup cgroup rw,cpu
1 1 0:1 / ROOT/cpuacct rw - cgroup cgroup rw,cpuacct
1 1 0:1 / ROOT/memory rw - cgroup cgroup rw,memory
1 1 0:1 / ROOT/blkio rw - cgroup cgroup rw,blkio
1 1 0:1 /part ROOT/other rw - cgroup cgroup rw,cpu
";

#[test]
fn accounts_of_version_1_are_read() {
    let folder = fixture(OLD);
    let containers = containers(folder.path(), OLD_MOUNTS);
    let reading = containers.read(&subject("/docker/x", false)).unwrap();
    let expected = ContainerSample {
        boot_ts: reading.boot_ts,
        container_full_id: Some("ab".repeat(32).into()),
        cpu_total_ns: Some(3_000),
        cpu_user_ns: Some(2_000),
        cpu_system_ns: Some(1_000),
        mem_current_bytes: Some(5_000),
        mem_working_set_bytes: Some(4_000),
        mem_anon_bytes: Some(3_000),
        mem_file_bytes: Some(1_500),
        mem_limit_hits: Some(0),
        mem_oom_kills: Some(2),
        pids_current: Some(3),
        pids_limit: Some(100),
        io_read_bytes: Some(100),
        io_write_bytes: Some(200),
        io_read_ops: Some(3),
        io_write_ops: Some(4),
        ..ContainerSample::default()
    };
    assert_eq!(
        reading, expected,
        "no limit, no swap accounts, no pressure: null and not 0"
    );
    let lacking = containers.accounts.lacking();
    assert_eq!(lacking.len(), 1, "{lacking:?}");
    assert!(lacking[0].0.starts_with("psi_"));
}

#[test]
fn a_controller_that_is_nowhere_is_said_to_be_missing() {
    let folder = fixture(OLD);
    let mounts = OLD_MOUNTS.replace("rw,memory", "rw,cpuset");
    let containers = containers(folder.path(), &mounts);
    let reading = containers.read(&subject("/docker/x", false)).unwrap();
    assert_eq!(reading.mem_current_bytes, None);
    let lacking = containers.accounts.lacking();
    assert!(
        lacking
            .iter()
            .any(|(columns, why)| columns.starts_with("mem_") && why.contains("memory"))
    );
}

#[test]
fn paths_that_differ_are_those_of_the_processes_and_the_root_is_nobodys() {
    let mut files = OLD.to_vec();
    files.retain(|(path, _)| !path.starts_with("cpuacct"));
    files.push(("cg/docker/x/below/cgroup.procs", "42\n"));
    files.push(("cpuacct/elsewhere/cpuacct.usage", "77\n"));
    files.push(("cpuacct/cpuacct.usage", "1000000\n"));
    files.push((
        "proc/42/cgroup",
        "3:cpuacct:/elsewhere\n2:memory:/docker/x\n",
    ));
    let folder = fixture(&files);
    let containers = containers(folder.path(), OLD_MOUNTS);
    let read = || containers.read(&subject("/docker/x", false)).unwrap();
    assert_eq!(read().cpu_total_ns, Some(77));
    fs::write(folder.path().join("proc/42/cgroup"), "3:cpuacct:/\n").unwrap();
    assert_eq!(read().cpu_total_ns, None);
}

#[test]
fn what_vanished_has_no_row_and_what_began_is_counted_from_its_beginning() {
    let folder = fixture(UNIFIED);
    let mut containers = containers(folder.path(), UNIFIED_MOUNT);
    let mut back = 0;
    let there = subject("/docker/x", false);
    let first = containers.samples(std::slice::from_ref(&there), &mut back);
    assert_eq!((first.len(), first[0].cpu_total_ns), (1, None));
    containers.end_round(1);
    let second = containers.samples(std::slice::from_ref(&there), &mut back);
    assert_eq!(second[0].cpu_total_ns, Some(0));
    // Not among the subjects of a whole round: forgotten.
    containers.end_round(2);
    containers.end_round(3);
    let made = containers.samples(&[subject("/docker/x", true)], &mut back);
    assert_eq!(made[0].cpu_total_ns, Some(3_000_000));
    fs::remove_dir_all(folder.path().join("cg/docker")).unwrap();
    assert!(containers.samples(&[there], &mut back).is_empty());
    assert_eq!(back, 0);
}
