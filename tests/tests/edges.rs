//! The edges that users touch: settings, brokers that are not as they should be, alerts read by people, logs, signals.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use apache_avro::types::Value as Avro;
use dogwatch_schemas::framing;
use dogwatch_schemas::records::{Alert, Event};
use dogwatch_tests::broker::{Access, Broker};
use dogwatch_tests::process::Process;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::Follower;
use dogwatch_tests::{events, programs, wait};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// What is wrong with a broker is told within so long, beside the time that a busy machine needs to start a program.
const TOLD_WITHIN: Duration = Duration::from_secs(25);

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = programs::command(name);
    command.args(arguments).env("DOGWATCH_METRICS__LISTEN", "");
    command
}

fn text(output: &Output) -> String {
    let (said, logged) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(said).into_owned() + &String::from_utf8_lossy(logged)
}

/// Runs a program to its end: it must end with `code`, in time, and say all of `words`.
fn ends(command: &mut Command, code: i32, words: &[&str]) -> String {
    let begun = Instant::now();
    let output = command.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(
        begun.elapsed() < TOLD_WITHIN,
        "{:?}: {said}",
        begun.elapsed()
    );
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    said
}

// --- settings ---

#[test]
fn one_environment_serves_both_programs_and_its_links_do_no_harm() {
    let environment = [
        ("DOGWATCH_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092"),
        ("DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD", "hunter2"),
        ("DOGWATCH_KAFKA__GROUP_ID", "other"),
        ("DOGWATCH_KERNEL__RING_BYTES", "4MiB"),
        ("DOGWATCH_KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("DOGWATCH_PROCESSOR_SERVICE_HOST", "10.0.0.2"),
    ];
    let shown = |name: &str| {
        let mut command = program(name, &["config"]);
        ends(command.envs(environment), 0, &[])
    };
    let (processor, sensor) = (shown("dogwatch-processor"), shown("dogwatch-sensor"));
    for shown in [&processor, &sensor] {
        assert!(!shown.contains("hunter2"), "{shown}");
        for line in [
            "bootstrap_servers = \"kafka:9092\"  # environment, DOGWATCH_KAFKA__BOOTSTRAP_SERVERS\n",
            "\"sasl.password\" = \"********\"  # environment, DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD\n",
            "topic_prefix = \"dogwatch\"  # default\n",
            "# passed over: DOGWATCH_KAFKA_PORT (made by Kubernetes or Docker for a service)\n",
        ] {
            assert!(shown.contains(line), "{line:?} is missing in: {shown}");
        }
    }
    assert!(processor.contains("group_id = \"other\"  # environment"));
    assert!(processor.contains("DOGWATCH_KERNEL__RING_BYTES (a setting of dogwatch-sensor)"));
    assert!(sensor.contains("ring_bytes = \"4MiB\"  # environment"));
    assert!(sensor.contains("DOGWATCH_KAFKA__GROUP_ID (a setting of dogwatch-processor)"));
}

#[test]
fn a_password_before_a_broker_is_printed_nowhere() {
    for name in ["dogwatch-processor", "dogwatch-sensor"] {
        for subcommand in ["config", "check", "run"] {
            let arguments = [subcommand, "--kafka", "SASL_SSL://user:hunter2@broker:9092"];
            let mut command = program(name, &arguments);
            let mend = ["before \"broker:9092\"", "sasl.password.file"];
            let said = ends(&mut command, 2, &mend);
            assert!(!said.contains("hunter2"), "{said}");
            assert_eq!(said.matches(mend[0]).count(), 1, "told once: {said}");
        }
    }
}

#[test]
fn what_is_shown_is_a_file_that_can_be_given() {
    for name in ["dogwatch-processor", "dogwatch-sensor"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shown.toml");
        let shown = program(name, &["config", "--kafka", "a:1"])
            .output()
            .unwrap();
        fs::write(&file, &shown.stdout).unwrap();
        let again = ["config", "--config", file.to_str().unwrap()];
        let said = ends(
            &mut program(name, &again),
            0,
            &["bootstrap_servers = \"a:1\""],
        );
        assert!(said.contains("shown.toml"), "{said}");
    }
}

#[test]
fn options_stand_before_and_behind_the_subcommand() {
    for name in ["dogwatch-sensor", "dogwatch-processor"] {
        for arguments in [
            ["config", "--kafka", "one:9092"],
            ["--kafka", "one:9092", "config"],
        ] {
            ends(
                &mut program(name, &arguments),
                0,
                &["\"one:9092\"  # command line"],
            );
        }
    }
}

#[test]
fn a_log_level_that_is_none_and_a_word_that_is_none_are_refused() {
    let levels = ["loud", "off, error, warn, info, debug, trace"];
    let mut processor = program("dogwatch-processor", &["config"]);
    ends(processor.env("DOGWATCH_LOG__LEVEL", "loud"), 2, &levels);
    let mut sensor = program("dogwatch-sensor", &["config"]);
    ends(sensor.env("DOGWATCH_LOG__FILTER", "loud"), 2, &levels);
    let mut processor = program("dogwatch-processor", &["config"]);
    let words = ["exactly_once", "at_least_once", "DOGWATCH_DELIVERY"];
    ends(processor.env("DOGWATCH_DELIVERY", "exactly"), 2, &words);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    for name in ["dogwatch-processor", "dogwatch-sensor"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = program(name, &["config"]);
        let output = command.stdout(writer).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}

#[test]
fn a_misspelt_variable_is_named_with_the_nearest() {
    for name in ["dogwatch-processor", "dogwatch-sensor"] {
        for (wrong, right) in [
            (
                "DOGWATCH_KAFKA_BOOTSTRAP_SERVERS",
                "DOGWATCH_KAFKA__BOOTSTRAP_SERVERS",
            ),
            ("DOGWATCH_LOG__FLITER", "DOGWATCH_LOG__FILTER"),
            ("DOGWATCH_KAFAK__GROUP_ID", "DOGWATCH_KAFKA__GROUP_ID"),
        ] {
            let sentence =
                format!("the environment's {wrong} is no setting: did you mean {right}?");
            let mut command = program(name, &["config"]);
            ends(command.env(wrong, "x"), 2, &[&sentence]);
        }
    }
}

#[test]
fn a_secret_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "hunter2\n").unwrap();
    for name in ["dogwatch-processor", "dogwatch-sensor"] {
        let variable = "DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD_FILE";
        let said = ends(program(name, &["config"]).env(variable, &file), 0, &[]);
        assert!(
            said.contains("\"sasl.password.file\" = ") && !said.contains("hunter2"),
            "{said}"
        );
        let missing = "kafka.options sasl.password.file: could not read /nowhere: No such file";
        ends(
            program(name, &["config"]).env(variable, "/nowhere"),
            2,
            &[missing],
        );
    }
}

// --- brokers ---

/// What sensor (by a replay, which waits), processor and reader say of a broker.
fn say_of(address: &str, variables: &[(&str, &str)], words: &[&str]) {
    let detections = events::detections();
    let folder = detections.path().to_str().unwrap();
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../console/demo.capture");
    let capture = capture.to_str().unwrap();
    for (name, arguments) in [
        (
            "dogwatch-processor",
            vec!["run", "--kafka", address, "--detections", folder],
        ),
        (
            "dogwatch-processor",
            vec!["check", "--kafka", address, "--detections", folder],
        ),
        (
            "dogwatch-sensor",
            vec!["replay", capture, "--kafka", address],
        ),
        ("dogwatch", vec!["alerts", "--kafka", address]),
    ] {
        let mut command = program(name, &arguments);
        ends(command.envs(variables.iter().copied()), 3, words);
    }
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_listener_that_wants_a_password_or_speaks_in_the_clear_is_told() {
    let broker = Broker::start_with(Access::Passwords, "");
    let (address, asks) = (broker.address(), "asks for a login (");
    let mend = "set security.protocol = \"sasl_plaintext\"";
    say_of(&address, &[], &[&address, asks, mend]);
    let tls = [("DOGWATCH_KAFKA__OPTIONS__SECURITY_PROTOCOL", "ssl")];
    let speaks = "without TLS, and security.protocol is ssl";
    say_of(&address, &tls, &[&address, asks, speaks, mend]);
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn the_port_of_a_controller_is_told() {
    let broker = Broker::start();
    let address = broker.controller_address();
    let words = [
        &*address,
        "is the listener of a controller",
        "the port of a broker's listener",
    ];
    say_of(&address, &[], &words);
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_broker_whose_own_name_leads_nowhere_is_told() {
    let advertised = "advertised.listeners=CLIENT://kafka.invalid:9092\n";
    let broker = Broker::start_with(Access::Open, advertised);
    let words = ["kafka.invalid:9092 (", "set advertised.listeners"];
    say_of(&broker.address(), &[], &words);
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_broker_that_cannot_make_its_own_topics_is_told() {
    let defaults = "transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n";
    let broker = Broker::start_with(Access::Open, defaults);
    let detections = events::detections();
    let folder = detections.path().to_str().unwrap();
    let sentence = "the brokers cannot make __transaction_state, which they need for transactions: \
                    transaction.state.log.replication.factor=3, and there is 1";
    for command in ["run", "check"] {
        let address = broker.address();
        // A check makes no topics.
        let arguments = [command, "--kafka", &address, "--detections", folder];
        ends(
            &mut program("dogwatch-processor", &arguments),
            3,
            &[sentence],
        );
    }
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn alerts_are_read_added_partitions_named_and_logs_are_values() {
    let broker = Broker::start();
    let address = broker.address();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let arguments = ["alerts", "--kafka", &address];
    let missing = "topic dogwatch.alerts does not exist: no processor has run";
    ends(&mut program("dogwatch", &arguments), 3, &[missing]);

    // Where nothing has run yet, a check says what a start makes.
    let check = ["check", "--kafka", &address, "--detections"];
    let folder_of_detections = detections.path().to_str().unwrap();
    let check = [&check[..], &[folder_of_detections]].concat();
    let fine = format!("brokers, topics, group and transactions at {address}: fine");
    let made = "topics that a start makes: dogwatch.events, dogwatch.alerts";
    ends(
        &mut program("dogwatch-processor", &check),
        0,
        &[made, &fine],
    );
    ends(&mut program("dogwatch", &arguments), 3, &[missing]);

    let log = folder.path().join("log");
    let settings = [("KAFKA__PARTITIONS", "2")];
    let mut processor = programs::processor_with(&address, detections.path(), &settings, &log);
    processor.wait_for_text("partitions assigned", PATIENCE);
    ends(&mut program("dogwatch-processor", &check), 0, &[&fine]);

    let publisher = Publisher::new(&address);
    let publish = |host: &str, seq: i64| {
        let mut value = Vec::new();
        events::exec(host, seq, "intruder").encode_framed(&mut value);
        publisher.send_to("dogwatch.events", 0, host, &value);
    };
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    publish("one", 20);
    publisher.flush();
    alerts.wait_for_count(1, PATIENCE);

    // Partitions that the topic of states has not are named, and the others read on.
    let alter = |topic: &str| {
        broker.tool(TOPICS, &["--alter", "--topic", topic, "--partitions", "3"]);
    };
    alter("dogwatch.events");
    let begun = Instant::now();
    processor.wait_for_text(
        "kafka-topics --alter --topic dogwatch.state --partitions 3",
        PATIENCE,
    );
    assert!(begun.elapsed() < TOLD_WITHIN, "{:?}", begun.elapsed());
    publish("two", 0);
    publisher.flush();
    let two = &alerts.wait_for_count(2, PATIENCE)[1];
    // It may have been read in another partition before.
    let losses = two.value["losses"].to_string();
    assert!(losses.contains("partitions_changed"), "{losses}");
    alter("dogwatch.state");
    processor.wait_for_text("has the partitions that were missing", PATIENCE);
    let mut value = Vec::new();
    events::exec("three", 10, "intruder").encode_framed(&mut value);
    // A client of before does not know the partition.
    let later = Publisher::new(&address);
    later.send_to("dogwatch.events", 2, "three", &value);
    later.flush();
    alerts.wait_for_count(3, PATIENCE);

    // People read them, as text and as JSON, from a moment on and as they come.
    let read = |arguments: &[&str]| {
        let arguments = [&["alerts", "--kafka", &address], arguments].concat();
        ends(&mut program("dogwatch", &arguments), 0, &[])
    };
    let all = read(&["--json"]);
    // In the order of the events, whatever partitions they lie in.
    assert_eq!(hosts_of(&all), ["two", "three", "one"], "{all}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(read(&["--json", "--since", "1s"]), "");
    assert_eq!(read(&["--json", "--since", "1day"]), all);
    let (schema, alert) = newer_alert("four", 15);
    publisher.send("dogwatch.schemas", "newer", schema.as_bytes());
    publisher.send_to("dogwatch.alerts", 1, "four", &alert);
    publisher.flush();
    let all = read(&["--json"]);
    assert_eq!(hosts_of(&all), ["two", "three", "four", "one"], "{all}");
    assert!(read(&[]).matches("intruder").count() >= 3);
    let followed = folder.path().join("followed");
    let mut follow = program("dogwatch", &["alerts", "--kafka", &address, "--follow"]);
    let follower = Process::start("dogwatch", &mut follow, &followed);
    let mut seq = 100;
    wait::until("a followed alert", PATIENCE, || {
        let ended = processor.ended();
        assert!(ended.is_none(), "{ended:?}: {}", processor.log());
        publish("four", seq);
        seq += 1;
        publisher.flush();
        std::thread::sleep(Duration::from_millis(500));
        (!follower.log().is_empty()).then_some(())
    });
    drop(follower);

    // SIGHUP ends in order where there are no files, and everything in the log is a value.
    processor.signal(libc::SIGHUP);
    let ended = processor.wait(PATIENCE);
    let log = processor.log();
    assert!(ended.success(), "{ended:?}: {log}");
    assert!(
        log.contains("processor ended") && log.contains("SIGHUP"),
        "{log}"
    );
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for (name, value) in line.as_object().unwrap() {
            let text = value.to_string();
            for debug in ["Some(", "None", "Statistics", "Summary", " { ", "[\\\""] {
                assert!(!text.contains(debug), "{name} is {text}");
            }
        }
    }
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_schema_that_cannot_be_read_and_a_topic_that_is_deleted_are_told() {
    let broker = Broker::start();
    let address = broker.address();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let log = folder.path().join("log");
    let settings = [("KAFKA__PARTITIONS", "1")];
    let mut processor = programs::processor_with(&address, detections.path(), &settings, &log);
    processor.wait_for_text("partitions assigned", PATIENCE);

    let publisher = Publisher::new(&address);
    let (schema, record) = event_without_its_type("one");
    publisher.send("dogwatch.schemas", "without", schema.as_bytes());
    publisher.send_to("dogwatch.events", 0, "one", &record);
    publisher.flush();
    let ask = "SELECT error FROM dead_letters";
    wait::until("the dead letter's reason", PATIENCE, || {
        let output = program(
            "dogwatch",
            &["query", "--kafka", &address, "--format", "csv", ask],
        );
        let told = text(&{ output }.output().unwrap());
        let named = told.contains("is registered and cannot be used") && told.contains("evt_type");
        named.then_some(())
    });

    let topic = "dogwatch.alerts";
    broker.tool(TOPICS, &["--delete", "--topic", topic]);
    let mut value = Vec::new();
    events::exec("one", 20, "intruder").encode_framed(&mut value);
    publisher.send_to("dogwatch.events", 0, "one", &value);
    publisher.flush();
    let begun = Instant::now();
    let ended = processor.wait(PATIENCE);
    let log = processor.log();
    assert!(
        begun.elapsed() < TOLD_WITHIN,
        "{:?}: {log}",
        begun.elapsed()
    );
    assert_eq!(ended.code(), Some(3), "{log}");
    let told = format!("topic {topic} is gone from {address}: it was deleted");
    assert!(log.contains(&told), "{log}");
}

/// An event in a schema that lacks a column which every reader needs, and the schema.
fn event_without_its_type(host: &str) -> (String, Vec<u8>) {
    let event = apache_avro::to_value(events::exec(host, 1, "intruder")).unwrap();
    without("evt_type", Event::SCHEMA, event, None)
}

/// The hosts of alerts told as JSON, in their order.
fn hosts_of(lines: &str) -> Vec<String> {
    let host = |line: &str| {
        let alert: Value = serde_json::from_str(line).unwrap();
        alert["host_id"].as_str().unwrap().to_owned()
    };
    lines.lines().map(host).collect()
}

/// An alert as a later version would write it, with one field more and one less, and its schema; of the event of that number.
fn newer_alert(host: &str, seq: i64) -> (String, Vec<u8>) {
    let alert = Alert {
        host_id: host.into(),
        event_ts: events::exec(host, seq, "intruder").ts,
        ..Alert::default()
    };
    let alert = apache_avro::to_value(alert).unwrap();
    without("risk", Alert::SCHEMA, alert, Some("of_tomorrow"))
}

/// A record written without a column, and perhaps with another one; the schema of that, and the bytes.
fn without(left_out: &str, schema: &str, record: Avro, more: Option<&str>) -> (String, Vec<u8>) {
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    let fields = schema["fields"].as_array_mut().unwrap();
    fields.retain(|field| field["name"] != left_out);
    fields.extend(more.map(|name| serde_json::json!({"name": name, "type": "long"})));
    let parsed = apache_avro::Schema::parse(&schema).unwrap();
    let Avro::Record(mut values) = record else {
        panic!("{record:?} is no record")
    };
    values.retain(|(name, _)| name != left_out);
    values.extend(more.map(|name| (name.into(), Avro::Long(1))));
    let value = Avro::Record(values).resolve(&parsed).unwrap();
    let mut record = Vec::new();
    framing::write_header(framing::fingerprint_of(&parsed), &mut record);
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&parsed).build();
    record.extend(writer.unwrap().write_value_to_vec(value).unwrap());
    (schema.to_string(), record)
}
