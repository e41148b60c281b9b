//! What a sensor lost, cut or could not hold is told where people look: in alerts and in `dogwatch.sensors`.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use dogwatch_tests::broker::Broker;
use dogwatch_tests::cache::repository;
use dogwatch_tests::docker::Container;
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;
use dogwatch_tests::reader::{Follower, Message, committed};

/// For starts and for alerts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A window that speaks at its end, of every container that executes anything.
const COUNT: &str = r#"-- title = "Programs executed"
-- description = "How many programs a container executed."
-- message = "{n} programs in {container_id}"
-- severity = "low"
-- status = "experimental"
SELECT window_start, window_end, container_id, count(*) AS n
FROM tumble(events, INTERVAL '2 seconds')
WHERE evt_type = 'execve' AND container_id <> 'host'
GROUP BY window_start, window_end, container_id
HAVING count(*) BETWEEN 1 AND 1000000
"#;

fn sensor(broker: &Broker, settings: &[(&str, &str)], folder: &Path) -> Process {
    let mut process = programs::sensor(&broker.address(), settings, folder);
    process.wait_for_text("watching", PATIENCE);
    process
}

fn loses(message: &Message, class: &str) -> bool {
    let losses = message.value["losses"].as_array();
    losses.is_some_and(|losses| losses.iter().any(|loss| loss["class"] == class))
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn a_window_over_a_standstill_of_the_sensor_is_incomplete_and_nothing_is_late() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let detections = folder.path().join("detections/execution");
    fs::create_dir_all(&detections).unwrap();
    fs::write(detections.join("programs.sql"), COUNT).unwrap();
    let log = folder.path().join("processor.log");
    let detections = folder.path().join("detections");
    let processor = programs::processor(&broker.address(), &detections, None, &log);
    // Small enough to overflow in two seconds.
    let sensor = sensor(&broker, &[("KERNEL__RING_BYTES", "256KiB")], folder.path());
    let mut alerts = Follower::start(&broker.address(), "dogwatch.alerts");
    let busy = Container::start(
        "busy",
        &[],
        &["/bin/sh", "-c", "while :; do /bin/busybox true; done"],
    );
    let of_busy = |alert: &Message| alert.text("container_id") == busy.short_id();
    alerts.wait_for("a window before the standstill", PATIENCE, |alert| {
        of_busy(alert) && alert.value["incomplete"] == false
    });

    sensor.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(2));
    sensor.signal(libc::SIGCONT);

    // A busy machine may have lost something of another class before.
    alerts.wait_for("a window that the ring lost rows of", PATIENCE, |alert| {
        of_busy(alert)
            && alert.value["incomplete"] == true
            && alert.value["losses"].to_string().contains("ring_full")
    });
    drop(busy);
    assert!(sensor.stop(PATIENCE).success());
    assert!(processor.stop(PATIENCE).success());
    assert_eq!(
        committed(&broker.address(), "dogwatch.late").len(),
        0,
        "late rows"
    );
    assert_no_row_behind_a_mark(&committed(&broker.address(), "dogwatch.events"));
}

/// A mark says that everything up to its time has been published; windows allow a second.
fn assert_no_row_behind_a_mark(events: &[Message]) {
    const OUT_OF_ORDERNESS_NS: i64 = 1_000_000_000;
    let mut marked = i64::MIN;
    for event in events {
        let at = event.number("boot_ts");
        if event.text("evt_type") == "mark" {
            marked = marked.max(at);
        } else {
            assert!(
                at > marked.saturating_sub(OUT_OF_ORDERNESS_NS),
                "{} behind the mark {marked}",
                event.value
            );
        }
    }
    assert!(marked > 0, "no mark");
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn a_small_process_table_is_told_and_hides_no_container() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = [("PROCESSES__CAPACITY", "64"), ("PROCESSES__MEMORY", "1MiB")];
    let log = folder.path().join("processor.log");
    let detections = repository().join("detections");
    let processor = programs::processor(&broker.address(), &detections, None, &log);
    let sensor = sensor(&broker, &settings, folder.path());
    let mut sensors = Follower::start(&broker.address(), "dogwatch.sensors");
    let mut events = Follower::start(&broker.address(), "dogwatch.events");
    let mut alerts = Follower::start(&broker.address(), "dogwatch.alerts");
    let crowded = Container::start(
        "crowded",
        &[],
        &[
            "/bin/sh",
            "-c",
            "for n in $(seq 300); do /bin/busybox sleep 600 & done; wait",
        ],
    );
    sensors.wait_for("table_full", PATIENCE, |status| loses(status, "table_full"));
    let second = Container::idle("second", &[]);
    for container in [&crowded, &second] {
        container.exec(
            &[],
            &["/bin/busybox", "cat", "/etc/passwd-that-is-not-there"],
        );
        events.wait_for(&container.name, PATIENCE, |event| {
            event.text("container_id") == container.short_id()
                && event.text("fd_name") == "/etc/passwd-that-is-not-there"
        });
        container.shell("/bin/cat /etc/shadow; true");
        alerts.wait_for(&container.name, PATIENCE, |alert| {
            alert.text("detection_id") == "sensitive_file_read"
                && alert.text("container_full_id") == container.id
        });
    }
    assert!(sensor.stop(PATIENCE).success());
    assert!(processor.stop(PATIENCE).success());
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn megabytes_of_labels_and_thousands_of_users_make_no_event_unsendable() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels");
    // 4 MiB in all: the runtime takes them, a record of Kafka would not.
    let text: String = (0..1024).fold(String::new(), |mut text, number| {
        writeln!(text, "label{number}={}", "x".repeat(4096)).unwrap();
        text
    });
    fs::write(&labels, text).unwrap();
    let passwd = folder.path().join("passwd");
    let users: String = (0..8192).fold(String::new(), |mut text, id| {
        writeln!(text, "{}{id}:x:{id}:{id}::/:/bin/sh", "u".repeat(200)).unwrap();
        text
    });
    fs::write(&passwd, users).unwrap();

    let sensor = sensor(&broker, &[], folder.path());
    let mut events = Follower::start(&broker.address(), "dogwatch.events");
    let mount = format!("{}:/etc/passwd:ro", passwd.display());
    let heavy = Container::idle(
        "heavy",
        &["--label-file", labels.to_str().unwrap(), "-v", &mount],
    );
    for user in ["0", "17", "8191"] {
        heavy.exec(&["--user", user], &["/bin/busybox", "id"]);
        events.wait_for(user, PATIENCE, |event| {
            event.text("container_id") == heavy.short_id()
                && event.text("evt_type") == "execve"
                && event.text("proc_cmdline").ends_with(" id")
                && event.value["user_uid"].as_i64() == user.parse().ok()
        });
    }
    drop(heavy);
    assert!(sensor.stop(PATIENCE).success());
    let statuses = committed(&broker.address(), "dogwatch.sensors");
    for class in ["refused", "delivery_failed", "queue_full"] {
        assert!(
            !statuses.iter().any(|status| loses(status, class)),
            "{class}"
        );
    }
}
