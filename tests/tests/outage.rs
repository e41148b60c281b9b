//! The broker goes away while the sensor watches: nothing is lost that the bound allows, the rest is counted to the event.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch_tests::broker::Broker;
use dogwatch_tests::docker::Container;
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;
use dogwatch_tests::reader::{Follower, Message, committed};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long the broker is away.
const OUTAGE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn a_short_outage_loses_nothing() {
    const FILES: usize = 4000;
    let _alone = alone();
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    // Room for all of it: half a queue is a single container's at most, and the client may look for brokers 10 s later.
    let queue = ("KAFKA__QUEUE_BYTES", "128MiB");
    let mut sensor = started(&broker, &[queue], folder.path());
    // About 400 files a second: some before the outage, most in it, some after it.
    let container = writer("short", FILES, "usleep 2000");
    std::thread::sleep(Duration::from_secs(1));
    broker.pause();
    std::thread::sleep(OUTAGE);
    broker.resume();
    container.wait();
    // An end does not wait for brokers that are not connected, and the client looks for them every 10 s at least.
    sensor.wait_for_text("Kafka is back", PATIENCE);
    assert!(sensor.stop(PATIENCE).success());

    let events = committed(&broker.address(), "dogwatch.events");
    assert_eq!(files_of(&events, &container).len(), FILES);
    assert_eq!(missing(&events), 0, "numbers of events are missing");
    assert_eq!(lost(&broker), 0);
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn what_does_not_fit_the_queue_is_counted_to_the_event() {
    const FILES: usize = 20_000;
    let _alone = alone();
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let sensor = started(&broker, &[("KAFKA__QUEUE_RECORDS", "2000")], folder.path());
    broker.pause();
    let container = writer("burst", FILES, "true");
    container.wait();
    std::thread::sleep(OUTAGE);
    broker.resume();
    let mut sensors = Follower::start(&broker.address(), "dogwatch.sensors");
    sensors.wait_for("the loss", PATIENCE, |status| total_lost(status) > 0);
    // Every topic gets a record after the loss, so that the loss is a gap.
    let later = Container::idle("later", &[]);
    let mut containers = Follower::start(&broker.address(), "dogwatch.containers");
    containers.wait_for("a later container", PATIENCE, |said| {
        said.text("container_full_id") == later.id
    });
    assert!(sensor.stop(PATIENCE).success());

    let events = committed(&broker.address(), "dogwatch.events");
    let files = files_of(&events, &container).len();
    let missing_events = missing(&events);
    println!("{files} of {FILES} files published, {missing_events} events missing");
    assert!(
        missing_events > 0 && files < FILES,
        "the queue held everything: this test shows nothing"
    );
    assert!((FILES - files) as i64 <= missing_events);
    // What the sensor says of itself it says again until it is handed over: of that nothing is lost.
    let missing_containers = missing(&committed(&broker.address(), "dogwatch.containers"));
    let all = missing_events + missing_containers;
    assert_eq!(
        lost(&broker),
        all,
        "said to be lost, and missing ({missing_containers} of containers)"
    );
}

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn a_sensor_that_starts_without_a_broker_sends_all_of_it_later() {
    const FILES: usize = 500;
    let _alone = alone();
    let mut broker = Broker::start();
    broker.pause();
    let folder = tempfile::tempdir().unwrap();
    let mut sensor = programs::sensor(&broker.address(), &[], folder.path());
    sensor.wait_for_text("could not reach Kafka", PATIENCE);
    sensor.wait_for_text("watching", PATIENCE);
    let container = writer("before", FILES, "true");
    container.wait();
    broker.resume();
    sensor.wait_for_text("connected to Kafka", PATIENCE);
    let later = writer("later", FILES, "true");
    later.wait();
    assert!(sensor.stop(PATIENCE).success());

    let events = committed(&broker.address(), "dogwatch.events");
    assert_eq!(files_of(&events, &container).len(), FILES);
    assert_eq!(files_of(&events, &later).len(), FILES);
    assert_eq!(missing(&events), 0, "numbers of events are missing");
    assert_eq!(lost(&broker), 0);
    // The sensor made the topics itself, and as they must be.
    let settings = broker.tool(
        "org.apache.kafka.tools.TopicCommand",
        &["--describe", "--topic", "dogwatch.events"],
    );
    assert!(settings.contains("LogAppendTime"), "{settings}");
}

/// A sensor sees every container of the host: these tests would fill each other's queues.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    // The other test's failure is not this one's.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn started(broker: &Broker, settings: &[(&str, &str)], folder: &Path) -> Process {
    let sensor = programs::sensor(&broker.address(), settings, folder);
    let mut sensors = Follower::start(&broker.address(), "dogwatch.sensors");
    sensors.wait_for("the sensor's hello", PATIENCE, |status| {
        status.text("status") == "hello"
    });
    sensor
}

/// A container that makes `count` files, doing `pause` between them.
fn writer(name: &str, count: usize, pause: &str) -> Container {
    let script =
        format!("i=0; while [ $i -lt {count} ]; do : >/tmp/file-$i; {pause}; i=$((i+1)); done");
    Container::start(name, &[], &["sh", "-c", &script])
}

/// The files that the container is seen to have made; each once.
fn files_of(events: &[Message], container: &Container) -> BTreeSet<String> {
    let made = events.iter().filter(|event| {
        event.text("container_full_id") == container.id
            && event.text("fd_name").starts_with("/tmp/file-")
    });
    let names: Vec<_> = made.map(|event| event.text("fd_name").to_owned()).collect();
    let distinct: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(names.len(), distinct.len(), "an event was published twice");
    distinct
}

/// How many numbers are missing in a topic up to the last record of the only run.
fn missing(events: &[Message]) -> i64 {
    let runs: BTreeSet<_> = events
        .iter()
        .map(|event| event.text("sensor_run"))
        .collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let numbers: BTreeSet<_> = events.iter().map(|event| event.number("seq")).collect();
    assert_eq!(numbers.len(), events.len(), "a number was given twice");
    numbers
        .last()
        .map_or(0, |last| last + 1 - numbers.len() as i64)
}

/// Events lost in the run, as the sensor's last word has them.
fn lost(broker: &Broker) -> i64 {
    let mut said = committed(&broker.address(), "dogwatch.sensors");
    said.sort_by_key(|status| status.number("seq"));
    let goodbye = said.last().expect("a sensor says something");
    assert_eq!(goodbye.text("status"), "goodbye");
    total_lost(goodbye)
}

/// Classes of which no row is missing: the time before the start has no number, and the others are rows that say less.
const LESS_SAID: [&str; 3] = ["not_watching", "table_full", "metadata_queue"];

fn total_lost(status: &Message) -> i64 {
    let by_class = status.value["losses_total"]
        .as_object()
        .into_iter()
        .flatten();
    by_class
        .filter(|(class, _)| !LESS_SAID.contains(&class.as_str()))
        .filter_map(|(_, count)| count.as_i64())
        .sum()
}
