//! What a task remembers, and what becomes of it when its processor is killed, stopped, woken up, or finds the memory gone.
//!
//! The broker is real, the events are made by hand, so that what must come out is known exactly: each alert once.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use dogwatch_schemas::records::Event;
use dogwatch_tests::broker::{Access, Broker};
use dogwatch_tests::events::{self, BUSY, INTRUDER};
use dogwatch_tests::offsets::{self, Committed};
use dogwatch_tests::process::Process;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message, committed};
use dogwatch_tests::{programs, wait};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;

/// How long the processor may take for what it does at once; most of it is its start.
const PATIENCE: Duration = Duration::from_secs(90);

/// Hosts that events come from; they fall into several partitions.
const HOSTS: i64 = 5;

/// A broker that gives up quickly what stands still, so that tests need not wait for long.
const IMPATIENT: &str = "group.min.session.timeout.ms=1000\n\
     transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n";

/// Short intervals for short tests.
const QUICK: [(&str, &str); 3] = [
    ("CHECKPOINT__INTERVAL", "300ms"),
    ("KAFKA__SESSION_TIMEOUT", "4s"),
    ("KAFKA__TRANSACTION_TIMEOUT", "4s"),
];

/// Longer than the timeouts above, and than the broker takes to act on them.
const STANDSTILL: Duration = Duration::from_secs(8);

/// A broker, the events published to it, and processors with one detection.
struct Scene {
    broker: Broker,
    folder: TempDir,
    detections: TempDir,
    publisher: Publisher,
    seq: i64,
}

impl Scene {
    fn start() -> Scene {
        let broker = Broker::start_with(Access::Open, IMPATIENT);
        let publisher = Publisher::new(&broker.address());
        Scene {
            broker,
            folder: tempfile::tempdir().unwrap(),
            detections: events::detections(),
            publisher,
            seq: 0,
        }
    }

    /// Starts with a processor, `first`, that has read 100 events and stored what it knows of them.
    fn with_checkpoints(settings: &[(&str, &str)]) -> (Scene, Follower, Process) {
        let mut scene = Scene::start();
        let alerts = scene.follow_alerts();
        let processor = scene.processor("first", settings);
        scene.publish(100);
        scene.wait_for_checkpoints();
        (scene, alerts, processor)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Starts a processor that logs under a name, with further settings.
    fn processor(&self, name: &str, settings: &[(&str, &str)]) -> Process {
        let settings = [&QUICK, settings].concat();
        let (address, log) = (self.broker.address(), self.log(name));
        programs::processor_with(&address, self.detections.path(), &settings, &log)
    }

    /// Publishes so many events, each of which is an alert, and waits until the broker has them.
    fn publish(&mut self, count: i64) {
        for _ in 0..count {
            self.seq += 1;
            self.send(self.seq);
        }
        self.publisher.flush();
    }

    fn send(&self, seq: i64) {
        self.send_event(&events::exec(&host(seq), seq, INTRUDER));
    }

    fn send_event(&self, event: &Event) {
        let mut record = Vec::new();
        event.encode_framed(&mut record);
        self.publisher
            .send("dogwatch.events", &event.host_id, &record);
    }

    /// Publishes so many runs of the program that the windows count, all within one of these.
    fn run_busy(&mut self, count: i64) {
        for _ in 0..count {
            self.seq += 1;
            self.send_event(&events::exec("host-w", self.seq, BUSY));
        }
        self.publisher.flush();
    }

    /// Publishes an event of the counted host, that much later by its own clock.
    fn send_later(&mut self, name: &str, by: Duration) {
        self.seq += 1;
        let mut event = events::exec("host-w", self.seq, name);
        event.ts += i64::try_from(by.as_nanos()).unwrap();
        self.send_event(&event);
        self.publisher.flush();
    }

    fn offsets(&self) -> BTreeMap<i32, Committed> {
        offsets::committed(
            &self.broker.address(),
            "dogwatch-processor",
            "dogwatch.events",
        )
    }

    /// Waits until all that was published is committed and known to a checkpoint.
    fn wait_for_checkpoints(&self) -> BTreeMap<i32, Committed> {
        wait::until("checkpoints of all input", PATIENCE, || {
            let offsets = self.offsets();
            let known = |found: &Committed| {
                found.offset == found.end
                    && found.checkpoint["inputs"]["events"].as_i64() == Some(found.offset)
                    && found.checkpoint["checkpoint"].as_u64() > Some(0)
            };
            let written: Vec<&Committed> = offsets.values().filter(|found| found.end > 0).collect();
            let all = !written.is_empty() && written.into_iter().all(known);
            all.then_some(offsets)
        })
    }

    /// Deletes all events there are, as the topic's retention does.
    fn expire_events(&self) {
        let mut ends = TopicPartitionList::new();
        for (partition, found) in self.offsets() {
            let end = Offset::Offset(found.end);
            ends.add_partition_offset("dogwatch.events", partition, end)
                .unwrap();
        }
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let deleted = admin.delete_records(&ends, &AdminOptions::new());
        let deleted = futures::executor::block_on(deleted).unwrap();
        assert_eq!(deleted.count(), ends.count());
        deleted
            .elements()
            .iter()
            .for_each(|element| element.error().unwrap());
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.broker.address());
        client
    }

    fn follow_alerts(&self) -> Follower {
        Follower::start(&self.broker.address(), "dogwatch.alerts")
    }

    /// Waits until as many alerts are there as events were published, stops the processors, and compares.
    fn assert_each_alert_once(&self, alerts: &mut Follower, processors: Vec<Process>) {
        alerts.wait_for_count(self.seq as usize, PATIENCE);
        for mut processor in processors {
            assert_eq!(processor.ended(), None, "{}", processor.log());
            let log = processor.log();
            assert!(processor.stop(PATIENCE).success(), "{log}");
        }
        assert_eq!(self.alerted(), (1..=self.seq).collect::<Vec<_>>());
    }

    /// The numbers of the events that committed alerts came from, in order.
    fn alerted(&self) -> Vec<i64> {
        let mut found: Vec<i64> = committed(&self.broker.address(), "dogwatch.alerts")
            .iter()
            .map(number)
            .collect();
        found.sort_unstable();
        found
    }
}

impl Drop for Scene {
    /// A test that fails shows what the processors said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
                let log = fs::read_to_string(entry.path()).unwrap();
                println!("{}:\n{log}", entry.path().display());
            }
        }
    }
}

fn host(seq: i64) -> String {
    format!("host-{}", seq % HOSTS)
}

/// The number of the event that an alert came from.
fn number(alert: &Message) -> i64 {
    alert.value["evidence"][0]["seq"].as_i64().unwrap()
}

fn manifest(record: &Message) -> Option<Value> {
    let bytes: Vec<u8> = (0..record.hex.as_ref()?.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&record.hex.as_ref().unwrap()[at..at + 2], 16).unwrap())
        .collect();
    (record.key == "checkpoint").then(|| serde_json::from_slice(&bytes).unwrap())
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn checkpoints_lie_beside_the_offsets_that_name_them() {
    let mut scene = Scene::start();
    let processor = scene.processor("processor", &[]);
    let mut alerts = scene.follow_alerts();
    for _ in 0..3 {
        scene.publish(50);
        scene.wait_for_checkpoints();
    }
    scene.assert_each_alert_once(&mut alerts, vec![processor]);

    let records = committed(&scene.broker.address(), "dogwatch.state");
    for (partition, found) in scene.wait_for_checkpoints() {
        let task: Vec<&Message> = records
            .iter()
            .filter(|record| record.partition == i64::from(partition))
            .collect();
        // The newest manifest is the one that the offset names, and the place it names holds its base.
        let last = manifest(task.last().unwrap()).expect("a checkpoint ends with its manifest");
        for field in ["format", "epoch", "checkpoint", "input", "base"] {
            assert_eq!(last[field], found.checkpoint[field], "{field}");
        }
        let place = found.checkpoint["state"].as_i64().unwrap();
        let first = task.iter().find(|record| record.offset == place).unwrap();
        assert_eq!(
            first.headers["base"],
            found.checkpoint["base"].as_str().unwrap()
        );
        assert!(
            task.iter()
                .all(|record| record.headers["base"] == first.headers["base"]),
            "one run builds on one base"
        );
    }
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_restart_knows_what_was_sent_before_it() {
    let (mut scene, mut alerts, processor) = Scene::with_checkpoints(&[("KAFKA__INSTANCE", "one")]);
    processor.crash();
    // A sensor that lost its broker sends again what it knows no answer to.
    for seq in 51..=100 {
        scene.send(seq);
    }
    scene.publish(10);
    let processor = scene.processor("second", &[("KAFKA__INSTANCE", "one")]);
    scene.assert_each_alert_once(&mut alerts, vec![processor]);
    let log = fs::read_to_string(scene.log("second")).unwrap();
    assert!(log.contains("\"repeated\":50,"), "{log}");
    // Four of five numbers are other hosts': the gaps to the events before the crash are known too.
    assert!(log.contains("\"missing\":40,"), "{log}");
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_crash_during_the_restore_costs_nothing() {
    let instance = ("KAFKA__INSTANCE", "one");
    let (mut scene, mut alerts, processor) = Scene::with_checkpoints(&[instance]);
    processor.crash();
    for round in 1..=2 {
        scene.publish(50);
        let fault = format!("during_restore:{round}");
        let mut doomed = scene.processor("doomed", &[instance, ("FAULT", &fault)]);
        let status = doomed.wait(PATIENCE);
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{}", doomed.log());
    }
    let processor = scene.processor("last", &[instance]);
    scene.assert_each_alert_once(&mut alerts, vec![processor]);
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_crash_before_a_checkpoint_is_committed_costs_nothing() {
    for delivery in ["exactly_once", "at_least_once"] {
        let mut scene = Scene::start();
        let settings = [("KAFKA__INSTANCE", "one"), ("DELIVERY", delivery)];
        let mut alerts = scene.follow_alerts();
        let fault = ("FAULT", "before_commit_checkpoint:3");
        let mut doomed = scene.processor("doomed", &[&settings[..], &[fault]].concat());
        let status = wait::until("the crash", PATIENCE, || {
            scene.publish(20);
            doomed.ended()
        });
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{}", doomed.log());
        scene.publish(20);
        let processor = scene.processor("next", &settings);
        alerts.wait_for("the last alert", PATIENCE, |alert| {
            number(alert) == scene.seq
        });
        if delivery == "exactly_once" {
            scene.assert_each_alert_once(&mut alerts, vec![processor]);
            continue;
        }
        // Here an alert may come twice, but none may be missing.
        scene.wait_for_checkpoints();
        assert!(processor.stop(PATIENCE).success());
        let mut found = scene.alerted();
        found.dedup();
        assert_eq!(found, (1..=scene.seq).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_processor_that_stood_still_between_steps_comes_back() {
    let mut scene = Scene::start();
    let mut alerts = scene.follow_alerts();
    let sleeper = scene.processor("sleeper", &[]);
    scene.publish(100);
    scene.wait_for_checkpoints();
    sleeper.signal(libc::SIGSTOP);
    // Nobody takes its place at first: it wakes up as a stranger to its own group.
    scene.publish(50);
    std::thread::sleep(STANDSTILL);
    sleeper.signal(libc::SIGCONT);
    alerts.wait_for_count(150, PATIENCE);
    // Now somebody does, and goes on from what it remembered.
    sleeper.signal(libc::SIGSTOP);
    let other = scene.processor("other", &[]);
    scene.publish(50);
    alerts.wait_for_count(200, PATIENCE);
    sleeper.signal(libc::SIGCONT);
    for _ in 0..20 {
        scene.publish(10);
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.assert_each_alert_once(&mut alerts, vec![sleeper, other]);
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_processor_that_stood_still_inside_a_transaction_comes_back() {
    for others in [false, true] {
        let mut scene = Scene::start();
        let mut alerts = scene.follow_alerts();
        let sleeper = scene.processor("sleeper", &[("FAULT", "stop_in_transaction:5")]);
        wait::until("the standstill", PATIENCE, || {
            scene.publish(20);
            sleeper.is_stopped().then_some(())
        });
        let mut processors = Vec::new();
        if others {
            processors.push(scene.processor("other", &[]));
            scene.publish(50);
            alerts.wait_for_count(scene.seq as usize, PATIENCE);
        } else {
            std::thread::sleep(STANDSTILL);
        }
        sleeper.signal(libc::SIGCONT);
        processors.push(sleeper);
        for _ in 0..20 {
            scene.publish(10);
            std::thread::sleep(Duration::from_millis(100));
        }
        scene.assert_each_alert_once(&mut alerts, processors);
        let log = fs::read_to_string(scene.log("sleeper")).unwrap();
        assert!(log.contains("taking its tasks over anew"), "{log}");
    }
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_processor_whose_name_another_one_took_ends_with_the_reason() {
    let mut scene = Scene::start();
    let mut alerts = scene.follow_alerts();
    let settings = [
        ("KAFKA__INSTANCE", "one"),
        ("FAULT", "stop_in_transaction:5"),
    ];
    let mut first = scene.processor("first", &settings);
    wait::until("the standstill", PATIENCE, || {
        scene.publish(20);
        first.is_stopped().then_some(())
    });
    let second = scene.processor("second", &settings[..1]);
    scene.publish(50);
    alerts.wait_for_count(scene.seq as usize, PATIENCE);
    first.signal(libc::SIGCONT);
    let status = first.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", first.log());
    assert!(first.log().contains("kafka.instance"), "{}", first.log());
    scene.publish(50);
    scene.assert_each_alert_once(&mut alerts, vec![second]);
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_lost_memory_is_stated_and_reading_goes_on_at_the_committed_offset() {
    let (mut scene, mut alerts, processor) = Scene::with_checkpoints(&[]);
    assert!(processor.stop(PATIENCE).success());
    let topic = ["--delete", "--topic", "dogwatch.state"];
    scene
        .broker
        .tool("org.apache.kafka.tools.TopicCommand", &topic);
    scene.publish(50);
    let processor = scene.processor("second", &[]);
    alerts.wait_for_count(150, PATIENCE);
    // What it says from then on is remembered again.
    scene.wait_for_checkpoints();
    processor.crash();
    scene.publish(50);
    let processor = scene.processor("third", &[]);
    scene.assert_each_alert_once(&mut alerts, vec![processor]);
    let said = "what this task remembered cannot be used";
    let log = |name| fs::read_to_string(scene.log(name)).unwrap();
    assert!(!log("first").contains(said));
    assert!(log("second").contains(said), "{}", log("second"));
    assert!(!log("third").contains(said), "{}", log("third"));
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn input_that_expired_before_it_was_read_is_a_stated_gap() {
    let (mut scene, mut alerts, processor) = Scene::with_checkpoints(&[]);
    assert!(processor.stop(PATIENCE).success());
    // Nobody reads these.
    scene.publish(50);
    scene.expire_events();
    scene.publish(50);
    let processor = scene.processor("second", &[]);
    alerts.wait_for_count(150, PATIENCE);
    let read: Vec<i64> = (1..=100).chain(151..=200).collect();
    assert_eq!(scene.alerted(), read);
    assert!(
        processor.log().contains("input is gone"),
        "{}",
        processor.log()
    );

    // It can also happen under the eyes of one that does not keep up; what its client has fetched it still has.
    processor.signal(libc::SIGSTOP);
    for _ in 0..10 {
        scene.publish(50);
    }
    scene.expire_events();
    processor.signal(libc::SIGCONT);
    scene.publish(50);
    alerts.wait_for("the last alert", PATIENCE, |alert| {
        number(alert) == scene.seq
    });
    scene.wait_for_checkpoints();
    let log = scene.log("second");
    assert!(processor.stop(PATIENCE).success());
    let alerted = scene.alerted();
    let mut once = alerted.clone();
    once.dedup();
    assert_eq!(alerted, once);
    let expired = scene.seq - alerted.len() as i64;
    assert!(expired > 50, "{expired} expired");
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains(&format!("\"expired\":{expired},")),
        "{expired}: {log}"
    );
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_checkpoint_that_an_open_transaction_hides_is_waited_for() {
    let instance = ("KAFKA__INSTANCE", "one");
    let (mut scene, mut alerts, processor) = Scene::with_checkpoints(&[instance]);
    // As a zombie does, or a transaction whose markers are not written yet: what is committed after this is not seen.
    let zombie: BaseProducer = scene
        .client()
        .set("transactional.id", "zombie")
        .create()
        .unwrap();
    zombie.init_transactions(PATIENCE).unwrap();
    zombie.begin_transaction().unwrap();
    for partition in scene.offsets().keys() {
        let record = BaseRecord::<str, str>::to("dogwatch.state").partition(*partition);
        zombie.send(record.key("zombie").payload("")).unwrap();
    }
    zombie.flush(PATIENCE).unwrap();
    scene.publish(100);
    scene.wait_for_checkpoints();
    processor.crash();
    for seq in 101..=200 {
        scene.send(seq);
    }
    scene.publish(50);
    let processor = scene.processor("second", &[instance]);
    wait::until("the restore", PATIENCE, || {
        processor.log().contains("processor started").then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(
        !processor.log().contains("partitions assigned"),
        "{}",
        processor.log()
    );
    zombie.abort_transaction(PATIENCE).unwrap();
    scene.assert_each_alert_once(&mut alerts, vec![processor]);
    let log = fs::read_to_string(scene.log("second")).unwrap();
    assert!(log.contains("\"repeated\":100,"), "{log}");
    assert!(!log.contains("cannot be used"), "{log}");
}

/// How many runs an alert of the window counted.
fn runs(alert: &Message) -> i64 {
    let row: Value = serde_json::from_str(alert.text("row")).unwrap();
    row["runs"].as_i64().unwrap()
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_window_survives_crashes_and_a_late_row_is_kept_apart() {
    let mut scene = Scene::start();
    events::add_window(&scene.detections);
    let mut alerts = scene.follow_alerts();
    let settings = [("KAFKA__INSTANCE", "one")];
    for round in 0..4 {
        let processor = scene.processor("crashing", &settings);
        scene.run_busy(25);
        // Sometimes the memory is in the checkpoint, sometimes in what is replayed.
        if round % 2 == 0 {
            scene.wait_for_checkpoints();
        } else {
            let committed = |found: &Committed| found.offset == found.end;
            wait::until("commits of all input", PATIENCE, || {
                scene.offsets().values().all(committed).then_some(())
            });
        }
        processor.crash();
    }
    let processor = scene.processor("last", &settings);
    scene.send_later("nginx", Duration::from_secs(60));
    let alert = alerts.wait_for("the window's alert", PATIENCE, |_| true);
    assert_eq!(runs(&alert), 100, "{}", alert.value);
    assert_eq!(alert.text("window_state"), "closed");

    scene.run_busy(1);
    let late = Follower::start(&scene.broker.address(), "dogwatch.late")
        .wait_for_count(1, PATIENCE)[0]
        .clone();
    assert_eq!(late.key, "host-w");
    assert_eq!(late.headers["topic"], "dogwatch.events");
    assert_eq!(late.headers["detections"], "busy");
    assert!(late.headers["late_ms"].parse::<i64>().unwrap() > 0);
    assert_eq!(late.number("seq"), scene.seq, "the row as it came");
    assert!(processor.stop(PATIENCE).success());
    assert_eq!(
        committed(&scene.broker.address(), "dogwatch.alerts").len(),
        1
    );
}

/// For each time that a processor was given partitions: how many it held since it gave them back, and the records of state that
/// it read for the others.
fn assignments(log: &str) -> Vec<(u64, u64)> {
    let lines = log
        .lines()
        .filter(|line| line.contains("partitions assigned"));
    let number = |line: &str, name: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line[name]
            .as_u64()
            .or(line["fields"][name].as_u64())
            .unwrap()
    };
    lines
        .map(|line| (number(line, "held"), number(line, "records")))
        .collect()
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn what_a_rebalance_gives_back_to_its_owner_is_not_read_again() {
    let mut scene = Scene::start();
    events::add_window(&scene.detections);
    let mut alerts = scene.follow_alerts();
    let first = scene.processor("first", &[]);
    scene.publish(100);
    scene.run_busy(10);
    let partitions = scene.wait_for_checkpoints().len() as u64;
    let mut second = scene.processor("second", &[]);
    second.wait_for_text("partitions assigned", PATIENCE);
    wait::until("the first one's second assignment", PATIENCE, || {
        (assignments(&first.log()).len() >= 2).then_some(())
    });
    // What the first one kept was neither read nor forgotten, what the second one has was read.
    let (of_first, of_second) = (assignments(&first.log()), assignments(&second.log()));
    assert_eq!(of_first[0], (0, 0), "{of_first:?}");
    let (kept, read) = *of_first.last().unwrap();
    assert!(0 < kept && kept < partitions && read == 0, "{of_first:?}");
    let (held, read) = of_second[0];
    assert!(held == 0 && read > 0, "{of_second:?}");
    scene.run_busy(10);
    scene.publish(100);
    // The second one moves these on, and then gives them back.
    scene.wait_for_checkpoints();
    assert!(second.stop(PATIENCE).success());
    wait::until("the first one has all of it again", PATIENCE, || {
        let last = assignments(&first.log()).last().copied();
        last.filter(|(held, read)| *held == kept && *read > 0)
    });
    scene.run_busy(10);
    scene.send_later("nginx", Duration::from_secs(60));
    let window = alerts.wait_for("the window's alert", PATIENCE, |alert| {
        alert.text("window_state") == "closed"
    });
    assert_eq!(runs(&window), 30, "{}", window.value);
    assert!(first.stop(PATIENCE).success());
    let said = committed(&scene.broker.address(), "dogwatch.alerts");
    let of_events = said
        .iter()
        .filter(|alert| alert.value["window_state"].is_null());
    let ids: std::collections::BTreeSet<&str> =
        said.iter().map(|alert| alert.text("alert_id")).collect();
    assert_eq!(ids.len(), said.len(), "each alert once");
    let intruders = of_events.filter(|alert| alert.text("host_id").starts_with("host-"));
    assert_eq!(intruders.count(), 200);
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_silent_partition_is_marked_and_its_window_closes() {
    let mut scene = Scene::start();
    events::add_window(&scene.detections);
    let mut alerts = scene.follow_alerts();
    let processor = scene.processor("first", &[("WINDOWS__HOST_SILENCE", "2s")]);
    scene.run_busy(10);
    let alert = alerts.wait_for("the window's alert", PATIENCE, |_| true);
    assert_eq!(runs(&alert), 10);
    assert!(processor.stop(PATIENCE).success());
    let marks: Vec<Message> = committed(&scene.broker.address(), "dogwatch.events")
        .into_iter()
        .filter(|event| event.text("evt_type") == "mark")
        .collect();
    assert!(!marks.is_empty());
    for mark in &marks {
        assert_eq!(
            (mark.key.as_str(), mark.text("host_id")),
            ("dogwatch-processor", "dogwatch-processor")
        );
        assert_eq!(
            mark.partition, marks[0].partition,
            "only the waiting partition is marked"
        );
    }
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_topic_that_is_made_anew_while_it_is_read_begins_at_its_first_record() {
    let (mut scene, mut alerts, mut processor) = Scene::with_checkpoints(&[]);
    alerts.wait_for_count(100, PATIENCE);
    let topics = "org.apache.kafka.tools.TopicCommand";
    let topic = ["--topic", "dogwatch.events"];
    scene
        .broker
        .tool(topics, &[&["--delete"], &topic[..]].concat());
    std::thread::sleep(Duration::from_secs(2));
    let anew = [
        "--create",
        "--partitions",
        "8",
        "--config",
        "message.timestamp.type=LogAppendTime",
    ];
    scene.broker.tool(topics, &[&anew[..], &topic].concat());
    std::thread::sleep(Duration::from_secs(2));
    // A client of before numbers on where the old topic ended.
    scene.publisher = Publisher::new(&scene.broker.address());
    scene.publish(25);
    alerts.wait_for_count(125, PATIENCE);
    assert_eq!(processor.ended(), None, "{}", processor.log());
    scene.wait_for_checkpoints();
    // Whoever takes it over goes on where that one was.
    processor.crash();
    let processor = scene.processor("second", &[]);
    scene.publish(25);
    scene.assert_each_alert_once(&mut alerts, vec![processor]);
    let found = committed(&scene.broker.address(), "dogwatch.alerts");
    let marked = found
        .iter()
        .filter(|alert| alert.value["incomplete"] == true);
    assert!(
        marked.count() >= 25,
        "what came after it says what is missing"
    );
}
