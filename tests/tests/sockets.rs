//! Sockets of real runtimes: they say what files lack, where they are configured; one that hangs holds nothing up.
//!
//! Needs root, Docker, containerd and Podman, and fails where one is missing.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dogwatch_tests::cri::PodConfig;
use dogwatch_tests::process::Process;
use dogwatch_tests::rows::{LOOP, Sensor};
use dogwatch_tests::runtimes::{Ground, POD_IMAGE, unique};
use dogwatch_tests::{programs, wait};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

const POD: PodConfig<'_> = PodConfig {
    name: "web-0",
    namespace: "shop",
    uid: "41234567-89ab-cdef-0123-456789abcdef",
    labels: &[("app", "web"), ("tier", "front")],
    annotations: &[],
    shares_pids: false,
};

/// What `check` says of the containers of a runtime.
fn checked(sockets: &str, runtime: &str) -> String {
    let check = programs::command("dogwatch-sensor")
        .arg("check")
        .env("DOGWATCH_CONTAINERS__SOCKETS", sockets)
        .env("DOGWATCH_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .output()
        .unwrap();
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    let beginning = format!("{runtime}: ");
    let line = check
        .lines()
        .find(|line| line.contains("containers' files") && line.contains(&beginning));
    line.unwrap_or_else(|| panic!("{check}")).to_owned()
}

/// Podman's API for the containers of a test.
fn podman_api(ground: &Ground, folder: &Path) -> (Process, String) {
    let socket = ground.path("podman.sock");
    let [podman, options @ ..] = ground.podman_command();
    let mut command = Command::new(podman);
    command
        .args(options)
        .args(["system", "service", "--time", "0"]);
    command.arg(format!("unix://{socket}"));
    let service = Process::start("podman", &mut command, &folder.join("podman.log"));
    wait::until("Podman's socket", PATIENCE, || {
        Path::new(&socket).exists().then_some(())
    });
    (service, format!("docker:{socket}"))
}

#[test]
#[ignore = "needs root, Docker, containerd and Podman: ./dogwatch.sh test"]
fn sockets_say_what_files_lack() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let containerd = ground.containerd();
    let cri = containerd.cri();
    let digest = containerd.pulled(POD_IMAGE);
    let older = unique("older");
    let pod = cri.pod(&POD);
    pod.container(&older, POD_IMAGE, &LOOP);
    let boxed = unique("podman");
    let options = [
        "--label",
        "team=shop",
        "--health-interval",
        "disable",
        "--health-cmd",
        "/bin/busybox true",
    ];
    let _container = ground.podman_with(&boxed, &options, &LOOP);
    let (service, api) = podman_api(&ground, folder.path());
    let sockets = format!("cri:{},{api}", containerd.socket().display());

    for (runtime, columns) in [
        (
            "containerd",
            &["container_image_digest", "container_labels"][..],
        ),
        (
            "podman",
            &[
                "container_healthcheck",
                "container_image_digest",
                "container_labels",
            ],
        ),
    ] {
        let (without, with) = (checked("", runtime), checked(&sockets, runtime));
        for column in columns {
            assert!(without.contains(column), "{without}");
            assert!(!with.contains(column), "{with}");
        }
        assert!(with.contains("_and_socket"), "{with}");
    }

    let settings = [("CONTAINERS__SOCKETS", &*sockets)];
    let sensor = Sensor::start_with(folder.path(), &settings);
    let labels = json!({"app": "web", "tier": "front"});
    let sandbox = sensor.wait_for("what the CRI says of the sandbox", |row| {
        row["container_full_id"] == *pod.id && row["container_labels"] == labels
    });
    assert_eq!(sandbox["container_sandbox"], true);
    // One that was there before, and one that is new: its first event has them.
    let newer = unique("newer");
    for name in [&older, &newer] {
        if *name == newer {
            pod.container(name, POD_IMAGE, &LOOP);
        }
        let told = sensor.wait_for("what the CRI says", |row| {
            row["container_name"] == **name
                && row["evt_type"] == "container"
                && row["container_labels"] == labels
        });
        assert_eq!(told["container_image"], POD_IMAGE);
        assert_eq!(told["container_image_digest"], *digest, "{told}");
        assert_eq!(told["evt_args"]["metadata_source"], "bundle_and_socket");
        let attack = sensor.next_attack(name);
        assert_eq!(
            attack["container_labels"],
            json!({"app": "web"}),
            "{attack}"
        );
    }
    let run = ["healthcheck", "run", &boxed];
    let podman = ground.podman_command();
    let podman: Vec<&str> = podman.iter().map(String::as_str).collect();
    ground.run(&[&podman[..], &run].concat());
    let executed = sensor.wait_for("healthcheck", |row| {
        row["evt_type"] == "execve"
            && row["container_name"] == *boxed
            && row["proc_stage"] == "healthcheck"
    });
    assert_eq!(
        executed["container_labels"],
        json!({"team": "shop"}),
        "{executed}"
    );
    service.stop(PATIENCE);
}

/// The processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids = text.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.collect()
}

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
#[ignore = "needs root, Docker and containerd, and takes 30 s: ./dogwatch.sh test"]
fn a_runtime_that_stands_still_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let containerd = ground.containerd();
    let cri = containerd.cri();
    let name = unique("hung");
    let pod = cri.pod(&POD);
    pod.container(&name, POD_IMAGE, &LOOP);
    let signal = |pid: u32, signal| {
        // SAFETY: a signal to a process that this test has started, or its helper's.
        assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
    };
    signal(containerd.pid(), libc::SIGSTOP);
    let socket = format!("cri:{}", containerd.socket().display());
    let settings = [
        ("CONTAINERS__SOCKETS", &*socket),
        ("CONTAINERS__REPEAT", "2s"),
    ];
    let sensor = Sensor::start_with(folder.path(), &settings);
    // Its files are read all the same, and what is new is told without it.
    let (attack, told) = sensor.attack(&name);
    assert_eq!(attack["k8s_pod_name"], "web-0");
    assert_eq!(told["container_labels"], json!(null), "{told}");
    let other = unique("runc");
    let start = Instant::now();
    let _other = ground.runc(&other, &LOOP);
    sensor.attack(&other);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );

    let [supervisor] = children(sensor.pid())[..] else {
        panic!("{:?}", children(sensor.pid()));
    };
    let [worker] = children(supervisor)[..] else {
        panic!("{:?}", children(supervisor));
    };
    for (field, expected) in [
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ] {
        assert_eq!(status(worker, field), expected, "{field}");
    }
    // Another takes its place.
    signal(worker, libc::SIGKILL);
    signal(containerd.pid(), libc::SIGCONT);
    let labels = json!({"app": "web", "tier": "front"});
    sensor.wait_for("labels, once it goes on", |row| {
        row["container_name"] == *name && row["container_labels"] == labels
    });
    assert_ne!(children(supervisor), [worker]);
    // Without any of them files are read on.
    signal(supervisor, libc::SIGKILL);
    assert_eq!(sensor.next_attack(&name)["container_name"], *name);
    drop(sensor);
}
