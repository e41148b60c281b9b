//! What goes wrong on the way to the processor, in it and behind it, and what must come out nevertheless.
//!
//! The broker is real, the events are made by hand, so that what must come out is known exactly.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Event;
use dogwatch_schemas::{Fingerprint, framing};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::events::{self, INTRUDER};
use dogwatch_tests::programs;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message, committed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// How long the processor may take for what it does at once; most of it is its start.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn bad_records_go_to_dead_letters_and_cost_no_good_one() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let log = folder.path().join("processor.log");
    let processor = programs::processor(&broker.address(), detections.path(), None, &log);
    let mut alerts = Follower::start(&broker.address(), "dogwatch.alerts");

    let publisher = Publisher::new(&broker.address());
    let bad = bad_records();
    let mut seq = 0;
    for record in &bad {
        seq += 1;
        publisher.send(
            "dogwatch.events",
            "host-a",
            &framed(&events::exec("host-a", seq, INTRUDER)),
        );
        publisher.send("dogwatch.events", "host-a", record);
    }
    seq += 1;
    publisher.send(
        "dogwatch.events",
        "host-a",
        &framed(&events::exec("host-a", seq, INTRUDER)),
    );
    publisher.flush();

    alerts.wait_for_count(seq as usize, PATIENCE);
    assert!(processor.stop(PATIENCE).success());

    let found: Vec<_> = committed(&broker.address(), "dogwatch.alerts")
        .iter()
        .map(evidence)
        .collect();
    assert_eq!(
        found,
        (1..=seq)
            .map(|seq| ("host-a".to_owned(), seq))
            .collect::<Vec<_>>()
    );
    let letters = committed(&broker.address(), "dogwatch.dead-letters");
    let mut found: Vec<_> = letters.iter().map(dead_letter).collect();
    found.sort_unstable();
    // Each bad record follows a good one: offsets 1, 3, 5 ...
    let due = |(index, record): (usize, &Vec<u8>)| (2 * index + 1, hex(record));
    assert_eq!(found, bad.iter().enumerate().map(due).collect::<Vec<_>>());
}

/// Where a dead letter came from and its bytes; the rest of its headers is asserted.
fn dead_letter(letter: &Message) -> (usize, String) {
    let headers = &letter.headers;
    assert_eq!(letter.key, "host-a");
    assert_eq!(headers["topic"], "dogwatch.events");
    assert!(
        !headers["error_class"].is_empty() && !headers["error"].is_empty(),
        "{headers:?}"
    );
    let bytes = letter.hex.clone().expect("a dead letter cannot be decoded");
    (headers["offset"].parse().unwrap(), bytes)
}

/// What a stranger, a broken disk or a newer program may leave in the topic.
fn bad_records() -> Vec<Vec<u8>> {
    let good = framed(&events::exec("host-a", 999, INTRUDER));
    let mut unknown_schema = good.clone();
    unknown_schema[2] ^= 0xff;
    let mut longer = good.clone();
    longer.push(0);
    let mut huge_length = good[..10].to_vec();
    huge_length.extend([0xff; 9]);
    vec![
        Vec::new(),
        b"garbage".to_vec(),
        good[..1].to_vec(),
        good[..10].to_vec(),
        good[..good.len() / 2].to_vec(),
        good[..good.len() - 1].to_vec(),
        unknown_schema,
        longer,
        huge_length,
        br#"{"evt_type":"execve"}"#.to_vec(),
    ]
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_newer_sensors_events_are_not_lost() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let log = folder.path().join("processor.log");
    let processor = programs::processor(&broker.address(), detections.path(), None, &log);
    let mut alerts = Follower::start(&broker.address(), "dogwatch.alerts");

    let publisher = Publisher::new(&broker.address());
    publisher.send(
        "dogwatch.events",
        "host-a",
        &framed(&events::exec("host-a", 1, INTRUDER)),
    );
    publisher.flush();
    alerts.wait_for_count(1, PATIENCE);

    // The processor runs already when the newer sensor appears, as in a fleet that is being upgraded.
    let newer = newer_schema();
    let schema = apache_avro::Schema::parse_str(&newer).unwrap();
    let Fingerprint(fingerprint) = framing::fingerprint_of(&schema);
    publisher.send(
        "dogwatch.schemas",
        &format!("{fingerprint:016x}"),
        newer.as_bytes(),
    );
    publisher.flush();
    for seq in 2..=100 {
        publisher.send(
            "dogwatch.events",
            "host-a",
            &newer_record(&schema, &events::exec("host-a", seq, INTRUDER)),
        );
        publisher.send(
            "dogwatch.events",
            "host-b",
            &framed(&events::exec("host-b", seq, INTRUDER)),
        );
    }
    publisher.flush();

    alerts.wait_for_count(1 + 2 * 99, PATIENCE);
    assert!(processor.stop(PATIENCE).success());
    assert_eq!(
        committed(&broker.address(), "dogwatch.alerts").len(),
        1 + 2 * 99
    );
    assert!(committed(&broker.address(), "dogwatch.dead-letters").is_empty());
}

/// The event's schema with fields that this version does not know, in the middle and at the end.
fn newer_schema() -> String {
    let mut schema: Value = serde_json::from_str(Event::SCHEMA).unwrap();
    let fields = schema["fields"].as_array_mut().unwrap();
    let field =
        serde_json::json!({"name": "evt_of_tomorrow", "type": ["null", "string"], "default": null});
    fields.insert(fields.len() / 2, field);
    let nested = r#"{"name": "evt_nested", "type": {"type": "array", "items": {"type": "record", "name": "Of",
        "fields": [{"name": "text", "type": "string"}]}}, "default": []}"#;
    fields.push(serde_json::from_str(nested).unwrap());
    schema.to_string()
}

/// Written by apache-avro, which shares no code with our encoder.
fn newer_record(schema: &apache_avro::Schema, event: &Event) -> Vec<u8> {
    use apache_avro::types::Value as Avro;
    let Avro::Record(mut fields) = apache_avro::to_value(event).unwrap() else {
        panic!("an event is a record")
    };
    fields.push(("evt_of_tomorrow".into(), Avro::String("something".into())));
    let of = |text: &str| Avro::Record(vec![("text".into(), Avro::String(text.into()))]);
    fields.push(("evt_nested".into(), Avro::Array(vec![of("a"), of("b")])));
    let value = Avro::Record(fields).resolve(schema).unwrap();
    let mut record = Vec::new();
    framing::write_header(framing::fingerprint_of(schema), &mut record);
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(schema).build();
    record.extend(writer.unwrap().write_value_to_vec(value).unwrap());
    record
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_killed_processor_neither_loses_nor_repeats_an_alert() {
    const ROUNDS: usize = 10;
    let seed: u64 =
        std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let log = folder.path().join("processor.log");
    let start =
        |instance| programs::processor(&broker.address(), detections.path(), instance, &log);

    let publisher = Publisher::new(&broker.address());
    let mut expected = BTreeMap::new();
    let mut seq = 0;
    for round in 0..ROUNDS {
        let processor = start(Some("crashing"));
        // Events keep coming while it runs, so that it dies in the middle of a step.
        let moments = random.random_range(5..60);
        for _ in 0..moments {
            publish_some(&publisher, &mut random, &mut seq, &mut expected);
            std::thread::sleep(Duration::from_millis(50));
        }
        println!(
            "round {round}: killed after {} ms, {} alerts due",
            moments * 50,
            expected.len()
        );
        processor.crash();
    }
    publisher.flush();

    // The last one is a stranger to the broker: it must wait for what the dead one left open.
    let mut alerts = Follower::start(&broker.address(), "dogwatch.alerts");
    let processor = start(None);
    alerts.wait_for_count(expected.len(), PATIENCE);
    assert!(processor.stop(PATIENCE).success());
    assert_alerts(&broker, &expected);
    assert!(committed(&broker.address(), "dogwatch.dead-letters").is_empty());
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_crash_between_offsets_and_commit_neither_loses_nor_repeats_an_alert() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();
    let publisher = Publisher::new(&broker.address());
    let mut random = StdRng::seed_from_u64(1);
    let (mut seq, mut expected) = (0, BTreeMap::new());
    let mut doomed = crashing_processor(&broker, detections.path(), folder.path());
    // It is told to die in its second transaction with something to say.
    let start = Instant::now();
    let status = loop {
        publish_some(&publisher, &mut random, &mut seq, &mut expected);
        std::thread::sleep(Duration::from_millis(50));
        if let Some(status) = doomed.ended() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "it lives: {}", doomed.log());
    };
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{}", doomed.log());
    publisher.flush();

    let log = folder.path().join("processor.log");
    let processor =
        programs::processor(&broker.address(), detections.path(), Some("crashing"), &log);
    Follower::start(&broker.address(), "dogwatch.alerts").wait_for_count(expected.len(), PATIENCE);
    assert!(processor.stop(PATIENCE).success());
    assert_alerts(&broker, &expected);
}

fn crashing_processor(
    broker: &Broker,
    detections: &Path,
    folder: &Path,
) -> dogwatch_tests::process::Process {
    let mut command = programs::command("dogwatch-processor");
    command
        .args(["run", "--kafka", &broker.address(), "--detections"])
        .arg(detections);
    command
        .env("DOGWATCH_METRICS__LISTEN", "")
        .env("DOGWATCH_KAFKA__INSTANCE", "crashing");
    command.env("DOGWATCH_FAULT", "after_send_offsets:2");
    dogwatch_tests::process::Process::start(
        "dogwatch-processor",
        &mut command,
        &folder.join("doomed.log"),
    )
}

/// Publishes a handful of events on several hosts, and notes in `expected` which must become an alert.
fn publish_some(
    publisher: &Publisher,
    random: &mut StdRng,
    seq: &mut i64,
    expected: &mut BTreeMap<(String, i64), usize>,
) {
    for _ in 0..100 {
        *seq += 1;
        let host = format!("host-{}", random.random_range(0..6));
        let name = if random.random_ratio(1, 20) {
            INTRUDER
        } else {
            "nginx"
        };
        publisher.send(
            "dogwatch.events",
            &host,
            &framed(&events::exec(&host, *seq, name)),
        );
        if name == INTRUDER {
            expected.insert((host, *seq), 1);
        }
    }
}

/// Compares what a reader of committed records finds with what must be there, each once.
fn assert_alerts(broker: &Broker, expected: &BTreeMap<(String, i64), usize>) {
    let mut found = BTreeMap::new();
    for alert in committed(&broker.address(), "dogwatch.alerts") {
        *found.entry(evidence(&alert)).or_insert(0) += 1;
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|event| !found.contains_key(event))
        .collect();
    let repeated: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    assert!(
        missing.is_empty() && repeated.is_empty(),
        "missing {missing:?}, repeated {repeated:?}"
    );
    assert_eq!(&found, expected);
}

/// Host and number of the event that an alert came from.
fn evidence(alert: &Message) -> (String, i64) {
    let event = &alert.value["evidence"][0];
    (
        event["host_id"].as_str().unwrap_or_default().to_owned(),
        event["seq"].as_i64().unwrap_or(-1),
    )
}

fn framed(event: &Event) -> Vec<u8> {
    let mut record = Vec::new();
    event.encode_framed(&mut record);
    record
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
