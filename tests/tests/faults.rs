//! What goes wrong on the way to the processor, in it and behind it, and what must come out nevertheless.
//!
//! Events made by hand first, of which it is known exactly what must come out; then the scenarios of
//! [`dogwatch_tests::scenario`] in their short form. `./dogwatch.sh faults` runs the long one.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::time::Duration;

use dogwatch_schemas::records::Event;
use dogwatch_schemas::{Fingerprint, framing};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::events::{self, INTRUDER};
use dogwatch_tests::programs;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message, committed};
use dogwatch_tests::scenario::{self, table};
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

// --- scenarios ---

/// Runs a scenario in its short form. `TEST_SEED` makes the same load and the same moments again.
fn check(name: &str) {
    let seed = std::env::var("TEST_SEED").map_or_else(
        |_| rand::random::<u32>().into(),
        |seed| seed.parse().unwrap(),
    );
    println!("TEST_SEED={seed}");
    let scenarios = table::scenarios(table::Form::Short, seed);
    let chosen = scenarios.iter().find(|scenario| scenario.name == name);
    let outcome = scenario::run(chosen.expect("the table has it"), seed);
    assert!(outcome.passed(), "TEST_SEED={seed}\n{}", outcome.trouble());
    println!("{}", outcome.row());
}

/// A test for each scenario, and the list of those that have one.
macro_rules! scenarios {
    ($($test:ident: $name:literal, $needs:literal;)*) => {
        /// Most of their time goes by waiting, so `./dogwatch.sh test` runs two at a time.
        mod scenarios {
            $(
                #[test]
                #[ignore = $needs]
                fn $test() {
                    super::check($name);
                }
            )*
            pub const TESTED: &[&str] = &[$($name),*];
        }
    };
}

scenarios! {
    killed_at_random_points: "killed", "needs Kafka: ./dogwatch.sh test";
    another_takes_over: "taken over", "needs Kafka: ./dogwatch.sh test";
    at_least_once_repeats_and_never_invents: "at least once", "needs Kafka: ./dogwatch.sh test";
    frozen_between_steps: "frozen between steps", "needs Kafka: ./dogwatch.sh test";
    frozen_in_a_transaction: "frozen in a transaction", "needs Kafka: ./dogwatch.sh test";
    processors_come_and_go: "come and go", "needs Kafka: ./dogwatch.sh test";
    the_broker_is_killed: "broker killed", "needs Kafka: ./dogwatch.sh test";
    one_of_three_brokers_is_lost: "one of three brokers lost", "needs Kafka: ./dogwatch.sh test";
    the_cable_is_cut: "cable cut", "needs root and Kafka: ./dogwatch.sh test";
    a_host_is_offline_for_ten_minutes: "host offline for ten minutes", "needs Kafka: ./dogwatch.sh test";
    clocks_go_wrong: "clocks", "needs Kafka: ./dogwatch.sh test";
    a_partition_goes_silent: "silent partition", "needs Kafka: ./dogwatch.sh test";
    batches_of_every_size_say_the_same: "batch sizes", "needs Kafka: ./dogwatch.sh test";
    poisoned_records_cost_no_good_one: "poisoned records", "needs Kafka: ./dogwatch.sh test";
    alerts_too_large_for_the_broker_are_cut: "alerts too large for the broker", "needs Kafka: ./dogwatch.sh test";
    withdrawn_rights_lose_nothing: "rights withdrawn", "needs Kafka: ./dogwatch.sh test";
    rows_that_cannot_be_judged_cost_no_others: "rows that cannot be judged", "needs Kafka: ./dogwatch.sh test";
    events_as_large_as_brokers_take_stop_nothing: "a host with 900 KB of everything", "needs Kafka: ./dogwatch.sh test";
    invented_hosts_push_out_none_that_lives: "invented hosts", "needs Kafka: ./dogwatch.sh test";
    aggregates_at_their_bound_are_stored: "aggregates at their bound", "needs Kafka: ./dogwatch.sh test";
    rules_swapped_while_processors_die: "rules swapped while processors die", "needs Kafka: ./dogwatch.sh test";
    folders_are_rolled_through_three_processors: "two folders rolled through three processors", "needs Kafka: ./dogwatch.sh test";
    a_published_set_is_replaced_during_a_rebalance: "published set replaced during a rebalance", "needs Kafka: ./dogwatch.sh test";
}

#[test]
fn every_scenario_has_a_test() {
    let all = table::scenarios(table::Form::Short, 0);
    let names: Vec<_> = all.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names, scenarios::TESTED);
}
