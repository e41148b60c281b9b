//! What a user may get wrong or may lack: each a message that names the place and the mend, and its exit code.
//!
//! 1 = failure while running, 2 = usage or configuration, 3 = the environment lacks something.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_tests::broker::{Access, Broker};
use dogwatch_tests::process::Process;
use dogwatch_tests::{events, programs};

const PATIENCE: Duration = Duration::from_secs(60);

/// A port of loopback where nobody listens: reserved, never assigned.
const NOBODY: &str = "127.0.0.1:1";

/// User and group `nobody`.
const NOBODY_ID: u32 = 65534;

/// Runs a program to its end; it must end with `code` and say each of `words` (joined lines, one case for all letters).
fn refused(command: &mut Command, code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start("the program", command, &folder.path().join("log"));
    let status = process.wait(PATIENCE);
    let log = process.log();
    assert_eq!(
        status.code(),
        Some(code),
        "signal {:?}, it said:\n{log}",
        status.signal()
    );
    for word in words {
        assert!(
            log.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is missing in:\n{log}"
        );
    }
}

fn processor(arguments: &[&str]) -> Command {
    let mut command = programs::command("dogwatch-processor");
    command.args(arguments).env("DOGWATCH_METRICS__LISTEN", "");
    command
}

fn sensor(arguments: &[&str]) -> Command {
    let mut command = programs::command("dogwatch-sensor");
    command
        .args(arguments)
        .env("DOGWATCH_METRICS__LISTEN", "")
        .env("DOGWATCH_STATE_FILE", "");
    command
}

/// Options of a client that logs in with a password.
fn with_password<'a>(command: &'a mut Command, user: &str, password: &str) -> &'a mut Command {
    let options = [
        ("SECURITY_PROTOCOL", "sasl_plaintext"),
        ("SASL_MECHANISMS", "PLAIN"),
        ("SASL_USERNAME", user),
        ("SASL_PASSWORD", password),
    ];
    command
        .envs(options.map(|(option, value)| (format!("DOGWATCH_KAFKA__OPTIONS__{option}"), value)))
}

// --- configuration ---

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.toml");
    fs::write(&file, "[kafka]\nbootstrap_server = \"broker:9092\"\n").unwrap();
    let file = file.to_str().unwrap();
    let words = ["kafka.bootstrap_server", "kafka.bootstrap_servers"];
    refused(&mut processor(&["run", "--config", file]), 2, &words);
    refused(&mut sensor(&["run", "--config", file]), 2, &words);
    let wrong = "DOGWATCH_KAFKA__BOOTSTRAP_SERVER";
    let words = [wrong, "did you mean DOGWATCH_KAFKA__BOOTSTRAP_SERVERS?"];
    refused(processor(&["run"]).env(wrong, "a:1"), 2, &words);
    refused(sensor(&["run"]).env(wrong, "a:1"), 2, &words);
}

#[test]
fn a_file_that_is_not_there_or_not_toml_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    fs::write(&broken, "[kafka\n").unwrap();
    for make in [processor, sensor] {
        refused(
            &mut make(&["run", "--config", "/nowhere/own.toml"]),
            2,
            &["/nowhere/own.toml"],
        );
        refused(
            &mut make(&["run", "--config", broken.to_str().unwrap()]),
            2,
            &["broken.toml"],
        );
        refused(&mut make(&["rnu"]), 2, &["rnu", "usage"]);
        refused(
            &mut make(&["run", "--kafak", "a:1"]),
            2,
            &["--kafak", "--kafka"],
        );
    }
}

#[test]
fn an_option_of_librdkafka_that_contradicts_a_setting_is_refused() {
    for make in [processor, sensor] {
        let mut command = make(&["run"]);
        command.env("DOGWATCH_KAFKA__OPTIONS__BOOTSTRAP_SERVERS", "a:1");
        refused(
            &mut command,
            2,
            &["bootstrap.servers", "kafka.bootstrap_servers"],
        );
        refused(
            make(&["run"]).env("DOGWATCH_KAFKA__OPTIONS__NO_SUCH_OPTION", "x"),
            2,
            &["no.such.option"],
        );
    }
}

// --- detections ---

/// Checks a folder with one detection whose query is `query`.
fn refused_detection(query: &str, words: &[&str]) {
    let folder = events::detections();
    let file = folder.path().join("execution/intruder.sql");
    let text = fs::read_to_string(&file).unwrap();
    let header = &text[..text.find("SELECT").unwrap()];
    fs::write(&file, format!("{header}{query}\n")).unwrap();
    let mut check = processor(&[
        "check",
        "--kafka",
        NOBODY,
        "--detections",
        folder.path().to_str().unwrap(),
    ]);
    refused(&mut check, 2, &[&["intruder.sql:"], words].concat());
}

#[test]
fn a_detection_that_cannot_run_is_refused_with_file_line_and_mend() {
    let begin = "SELECT container_id, proc_name\nFROM events\n";
    refused_detection(&format!("{begin}WHERE AND"), &["intruder.sql:9"]);
    refused_detection(
        &format!("{begin}WHERE proc_nmae = 'sh'"),
        &["intruder.sql:9", "proc_nmae", "proc_name"],
    );
    refused_detection("SELECT container_id\nFROM event", &["event"]);
    refused_detection(
        "SELECT container_id\nFROM events\nWHERE proc_name > 5 + proc_args",
        &[],
    );
    refused_detection("DROP TABLE events", &["select"]);
    refused_detection(
        "COPY (SELECT container_id FROM events) TO '/tmp/x.csv'",
        &["select"],
    );
    refused_detection(
        "SELECT container_id\nFROM events\nWHERE no_such_function(proc_name)",
        &["no_such_function"],
    );
}

#[test]
fn a_header_that_is_wrong_is_refused_with_file_and_line() {
    let folder = events::detections();
    let file = folder.path().join("execution/intruder.sql");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("-- severity", "-- severty")).unwrap();
    let mut check = processor(&[
        "check",
        "--kafka",
        NOBODY,
        "--detections",
        folder.path().to_str().unwrap(),
    ]);
    refused(&mut check, 2, &["intruder.sql:", "severty"]);
}

#[test]
fn a_folder_without_detections_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    for command in ["check", "run"] {
        refused(
            &mut processor(&[command, "--kafka", NOBODY, "--detections", path]),
            2,
            &["no detections", path],
        );
        refused(
            &mut processor(&[command, "--kafka", NOBODY, "--detections", "/nowhere"]),
            2,
            &["/nowhere", "could not read"],
        );
    }
}

// --- brokers ---

#[test]
fn a_broker_that_does_not_answer_is_named() {
    let detections = events::detections();
    let folder = detections.path().to_str().unwrap();
    let words = [NOBODY, "could not reach", "kafka.bootstrap_servers"];
    refused(
        &mut processor(&["run", "--kafka", NOBODY, "--detections", folder]),
        3,
        &words,
    );
}

#[test]
fn a_replay_names_a_broker_that_does_not_answer() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../console/demo.capture");
    let mut replay = sensor(&["replay", capture.to_str().unwrap(), "--kafka", NOBODY]);
    refused(
        replay.env("DOGWATCH_KAFKA__START_TIMEOUT", "1s"),
        3,
        &[NOBODY, "could not reach", "kafka.bootstrap_servers"],
    );
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_broker_that_does_not_know_us_or_does_not_let_us_is_named() {
    let broker = Broker::start_with(Access::Passwords, "");
    let detections = events::detections();
    let run = [
        "run",
        "--kafka",
        &broker.address(),
        "--detections",
        detections.path().to_str().unwrap(),
    ];
    let strange = ["authenticat", "sasl"];
    refused(
        with_password(&mut processor(&run), "guest", "wrong"),
        3,
        &strange,
    );
    refused(
        with_password(&mut sensor(&run[..3]), "guest", "wrong"),
        3,
        &strange,
    );
    // `guest` may log in, and nothing else: topics may not be created.
    let powerless = ["dogwatch.", "authoriz"];
    refused(
        with_password(&mut processor(&run), "guest", "guest"),
        3,
        &powerless,
    );
    refused(
        with_password(&mut sensor(&run[..3]), "guest", "guest"),
        3,
        &powerless,
    );
    // Without a password on a listener that asks for one.
    refused(&mut processor(&run), 3, &[&broker.address()]);
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_topic_that_does_not_stamp_append_time_is_refused() {
    let broker = Broker::start();
    let topics = "org.apache.kafka.tools.TopicCommand";
    broker.tool(
        topics,
        &[
            "--create",
            "--topic",
            "dogwatch.events",
            "--partitions",
            "8",
        ],
    );
    let detections = events::detections();
    let run = [
        "run",
        "--kafka",
        &broker.address(),
        "--detections",
        detections.path().to_str().unwrap(),
    ];
    let words = ["dogwatch.events", "message.timestamp.type", "LogAppendTime"];
    refused(&mut processor(&run), 3, &words);
    refused(&mut sensor(&run[..3]), 3, &words);
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_missing_topic_is_refused_where_none_may_be_made() {
    let broker = Broker::start();
    let detections = events::detections();
    let run = [
        "run",
        "--kafka",
        &broker.address(),
        "--detections",
        detections.path().to_str().unwrap(),
    ];
    let words = ["dogwatch.", "does not exist", "create_topics"];
    refused(
        processor(&run).env("DOGWATCH_KAFKA__CREATE_TOPICS", "false"),
        3,
        &words,
    );
    refused(
        sensor(&run[..3]).env("DOGWATCH_KAFKA__CREATE_TOPICS", "false"),
        3,
        &words,
    );
}

// --- kernel, rights and captures ---

#[test]
#[ignore = "needs root to become nobody: ./dogwatch.sh test"]
fn missing_capabilities_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["CAP_BPF", "CAP_PERFMON"];
    refused(
        &mut as_nobody(folder.path(), &["run", "--kafka", NOBODY]),
        3,
        &words,
    );
    let capture = folder.path().join("capture");
    refused(
        &mut as_nobody(folder.path(), &["record", capture.to_str().unwrap()]),
        3,
        &words,
    );
}

/// The sensor as user nobody, from a place where nobody may read it.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Command {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let copy = folder.join("dogwatch-sensor");
    fs::copy(programs::path("dogwatch-sensor"), &copy).unwrap();
    let mut command = Command::new(copy);
    command
        .args(arguments)
        .current_dir("/")
        .uid(NOBODY_ID)
        .gid(NOBODY_ID);
    command
        .env("DOGWATCH_METRICS__LISTEN", "")
        .env("DOGWATCH_STATE_FILE", "");
    command
}

#[test]
#[ignore = "needs root to hide the kernel's type information: ./dogwatch.sh test"]
fn a_kernel_without_btf_is_named() {
    let mut command = Command::new("unshare");
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    command
        .args(["--mount", "sh", "-c", hide, "sh"])
        .arg(programs::path("dogwatch-sensor"));
    command
        .args(["run", "--kafka", NOBODY])
        .env("DOGWATCH_METRICS__LISTEN", "");
    refused(&mut command, 3, &["btf", "/sys/kernel/btf/vmlinux"]);
}

#[test]
fn a_damaged_capture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("empty", &b""[..]),
        (
            "text",
            b"not a capture, but long enough to hold a header or two",
        ),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        let file = file.to_str().unwrap();
        refused(&mut sensor(&["replay", file]), 1, &[file, "not a capture"]);
    }
    refused(
        &mut sensor(&["replay", "/nowhere/capture"]),
        2,
        &["/nowhere/capture"],
    );
}
