//! Detections over samples on a real broker: each topic's partition is a task of its own, committed with all others, and a set
//! that begins or ends to read a topic takes its place while processors run.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dogwatch_schemas::records::{ContainerSample, ProcessSample};
use dogwatch_tests::broker::{Access, Broker};
use dogwatch_tests::events::{self, INTRUDER};
use dogwatch_tests::offsets;
use dogwatch_tests::process::Process;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message, committed};
use dogwatch_tests::{programs, wait};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(90);
const SECOND_NS: i64 = 1_000_000_000;
/// A broker that gives up quickly what stands still.
const IMPATIENT: &str = "group.min.session.timeout.ms=1000\n\
     transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n";
const HOSTS: [&str; 3] = ["ant", "bee", "cat"];
const EVENTS: &str = "dogwatch.events";
const CONTAINERS: &str = "dogwatch.container-samples";
const PROCESSES: &str = "dogwatch.process-samples";

/// Says at the end of each window how much CPU a host's containers used.
const HOT: &str = "SELECT window_start, window_end, host_id, sum(cpu_total_ns) AS cpu_ns\n\
     FROM tumble(container_samples, INTERVAL '10 seconds') WHERE evt_type = 'sample'\n\
     GROUP BY window_start, window_end, host_id HAVING sum(cpu_total_ns) < 1000000";
const OPEN: &str = "SELECT proc_name FROM process_samples WHERE proc_fdopencount >= 90";

/// Says as soon as three hosts used CPU, and at the end how much that was.
const TOGETHER: &str = "SELECT window_start, window_end, sum(cpu_total_ns) AS cpu_ns, count(DISTINCT host_id) AS hosts\n\
     FROM tumble(container_samples, INTERVAL '10 seconds') WHERE evt_type = 'sample'\n\
     GROUP BY window_start, window_end HAVING count(DISTINCT host_id) >= 3";

/// Of windows each host with window and CPU, of other detections how often they fired.
type Said = (Vec<(String, i64, i64)>, BTreeMap<String, usize>);

/// A broker, a folder of detections, who publishes rows of all tables, and a processor.
struct Scene {
    broker: Broker,
    logs: TempDir,
    detections: TempDir,
    publisher: Publisher,
    delivery: &'static str,
    seqs: BTreeMap<(&'static str, &'static str), i64>,
    begin_ns: i64,
    intruders: i64,
    processor: Option<Process>,
}

impl Scene {
    fn start(delivery: &'static str) -> Scene {
        let broker = Broker::start_with(Access::Open, IMPATIENT);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap();
        Scene {
            publisher: Publisher::new(&broker.address()),
            broker,
            logs: tempfile::tempdir().unwrap(),
            detections: events::detections(),
            delivery,
            seqs: BTreeMap::new(),
            // A minute that is over: a clock that is ahead of the broker's ends no window before the broker's time.
            begin_ns: (seconds - seconds % 60 - 60) * SECOND_NS,
            intruders: 0,
            processor: None,
        }
    }

    fn run(&mut self, name: &str) {
        let settings = [
            ("KAFKA__PARTITIONS", "2"),
            ("KAFKA__INSTANCE", "one"),
            ("KAFKA__SESSION_TIMEOUT", "4s"),
            ("KAFKA__TRANSACTION_TIMEOUT", "4s"),
            ("CHECKPOINT__INTERVAL", "300ms"),
            ("DELIVERY", self.delivery),
            // Rows are a minute old when they come.
            ("WINDOWS__FLEET_PATIENCE", "5m"),
        ];
        let log = self.logs.path().join(name);
        let (address, folder) = (self.broker.address(), self.detections.path());
        let processor = programs::processor_with(&address, folder, &settings, &log);
        self.processor = Some(processor);
    }

    fn wait_for_text(&mut self, text: &str) {
        let processor = self.processor.as_mut().unwrap();
        processor.wait_for_text(text, PATIENCE);
    }

    /// Puts a detection into the folder, as another program would: at once.
    fn put(&self, name: &str, query: &str) {
        let folder = self.detections.path().join("impact");
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "-- title = \"t\"\n-- description = \"For tests.\"\n-- message = \"m\"\n-- severity = \"low\"\n\
             -- status = \"stable\"\n-- dedup = {{ key = [] }}\n{query}\n"
        );
        let hidden = folder.join(format!(".{name}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(&hidden, folder.join(format!("{name}.sql"))).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.detections.path().join(format!("impact/{name}.sql"))).unwrap();
    }

    fn next_seq(&mut self, topic: &'static str, host: &'static str) -> i64 {
        let seq = self.seqs.entry((topic, host)).or_insert(-1);
        *seq += 1;
        *seq
    }

    /// What each host's containers used at a second.
    fn use_cpu(&mut self, second: i64, cpu_ns: i64) {
        for host in HOSTS {
            let seq = self.next_seq(CONTAINERS, host);
            let sample = ContainerSample {
                host_id: host.into(),
                host_name: host.into(),
                sensor_run: "run".into(),
                seq,
                ts: self.begin_ns + second * SECOND_NS,
                evt_type: "sample".into(),
                container_id: "c0ffee".into(),
                cpu_total_ns: Some(cpu_ns),
                ..ContainerSample::default()
            };
            let mut record = Vec::new();
            sample.encode_framed(&mut record);
            self.publisher.send(CONTAINERS, host, &record);
        }
        self.publisher.flush();
    }

    /// A process of each host that has almost as many files open as it may.
    fn open_files(&mut self) {
        for host in HOSTS {
            let seq = self.next_seq(PROCESSES, host);
            let sample = ProcessSample {
                host_id: host.into(),
                host_name: host.into(),
                sensor_run: "run".into(),
                seq,
                ts: self.begin_ns + seq,
                evt_type: "sample".into(),
                container_id: "c0ffee".into(),
                proc_name: Some("web".into()),
                proc_fdopencount: Some(95),
                ..ProcessSample::default()
            };
            let mut record = Vec::new();
            sample.encode_framed(&mut record);
            self.publisher.send(PROCESSES, host, &record);
        }
        self.publisher.flush();
    }

    fn intrude(&mut self, count: i64) {
        for _ in 0..count {
            self.intruders += 1;
            let mut record = Vec::new();
            let event = events::exec("host", self.intruders, INTRUDER);
            event.encode_framed(&mut record);
            self.publisher.send(EVENTS, "host", &record);
        }
        self.publisher.flush();
    }

    /// Waits until all of a topic is committed, and known to a checkpoint of its own.
    fn wait_for_checkpoints(&self, topic: &str) {
        let suffix = topic.trim_start_matches("dogwatch.");
        wait::until(topic, PATIENCE, || {
            let address = self.broker.address();
            let committed = offsets::committed(&address, "dogwatch-processor", topic);
            let written = committed.values().filter(|found| found.end > 0);
            let known = |found: &offsets::Committed| {
                found.offset == found.end
                    && found.checkpoint["inputs"][suffix].as_i64() == Some(found.offset)
                    && found.checkpoint["checkpoint"].as_u64() > Some(0)
            };
            let written: Vec<bool> = written.map(known).collect();
            (!written.is_empty() && written.into_iter().all(|known| known)).then_some(())
        });
    }

    /// What is said; what is said again counts once where that may be.
    fn said(&self) -> Said {
        let (mut windows, mut single) = (Vec::new(), BTreeMap::new());
        let mut ids = Vec::new();
        for alert in committed(&self.broker.address(), "dogwatch.alerts") {
            if alert.text("detection_hash").is_empty() {
                continue;
            }
            let id = alert.text("alert_id").to_owned();
            let again = ids.contains(&id);
            ids.push(id);
            if again && self.delivery == "at_least_once" {
                continue;
            }
            assert!(!again, "said twice: {:?}", alert.value);
            match alert.text("detection_id") {
                "hot" => windows.push(self.window(&alert)),
                other => *single.entry(other.to_owned()).or_default() += 1,
            }
        }
        windows.sort();
        (windows, single)
    }

    fn window(&self, alert: &Message) -> (String, i64, i64) {
        assert!(
            !alert.value["incomplete"].as_bool().unwrap(),
            "{:?}",
            alert.value
        );
        let row: Value = serde_json::from_str(alert.text("row")).unwrap();
        let seq = row["cpu_ns"].as_i64().unwrap();
        let start = alert.number("window_start") - self.begin_ns;
        (alert.text("host_id").to_owned(), start / SECOND_NS, seq)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(self.logs.path()).unwrap().flatten() {
                let log = fs::read_to_string(entry.path()).unwrap();
                println!("{}:\n{log}", entry.path().display());
            }
        }
    }
}

/// Every host's windows, with what was used in them.
fn windows(of: &[(i64, i64)]) -> Vec<(String, i64, i64)> {
    let hosts = HOSTS.iter();
    hosts
        .flat_map(|host| {
            of.iter()
                .map(|(start, cpu)| ((*host).to_owned(), *start, *cpu))
        })
        .collect()
}

fn samples_are_read_across_a_kill_and_changes_of_the_set(delivery: &'static str) {
    let mut scene = Scene::start(delivery);
    let mut alerts = Follower::start(&scene.broker.address(), "dogwatch.alerts");
    scene.run("first");
    scene.intrude(10);
    scene.wait_for_checkpoints(EVENTS);

    // Detections over two further topics: both are made, and read with the events.
    scene.put("hot", HOT);
    scene.put("open", OPEN);
    scene.wait_for_text(&format!(
        "\"topics\":\"{EVENTS}, {CONTAINERS}, {PROCESSES}\""
    ));
    scene.use_cpu(1, 3);
    scene.open_files();
    for topic in [EVENTS, CONTAINERS, PROCESSES] {
        scene.wait_for_checkpoints(topic);
    }

    // A window that is open, in the memory of a task of samples alone, outlives a kill.
    scene.use_cpu(2, 4);
    scene.processor.take().unwrap().crash();
    scene.use_cpu(3, 5);
    scene.open_files();
    scene.intrude(5);
    scene.run("second");
    scene.use_cpu(15, 100);
    let closed = |alerts: &mut Follower, count: usize| {
        let own = |alert: &&Message| alert.text("detection_id") == "hot";
        wait::until("windows", PATIENCE, || {
            (alerts.seen().iter().filter(own).count() >= count).then_some(())
        });
    };
    closed(&mut alerts, HOSTS.len());
    for topic in [EVENTS, CONTAINERS, PROCESSES] {
        scene.wait_for_checkpoints(topic);
    }

    // Nobody reads samples any more, and the events go on.
    scene.remove("hot");
    scene.remove("open");
    scene.wait_for_text(&format!("\"topics\":\"{EVENTS}\""));
    scene.use_cpu(16, 200);
    scene.intrude(5);
    scene.wait_for_checkpoints(EVENTS);

    // They are read again, from where they were left: the window that was open is whole.
    scene.put("hot", HOT);
    scene.use_cpu(25, 1);
    closed(&mut alerts, 2 * HOSTS.len());
    scene.wait_for_checkpoints(CONTAINERS);
    let processor = scene.processor.take().unwrap();
    let log = processor.log();
    assert!(processor.stop(PATIENCE).success(), "{log}");
    assert!(!log.contains("cannot be used"), "{log}");
    let single = [("intruder", 20), ("open", 2 * HOSTS.len())];
    let single = single.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(
        scene.said(),
        (windows(&[(0, 12), (10, 300)]), BTreeMap::from(single))
    );
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn exactly_once_samples_are_read_across_a_kill_and_changes_of_the_set() {
    samples_are_read_across_a_kill_and_changes_of_the_set("exactly_once");
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn at_least_once_samples_are_read_across_a_kill_and_changes_of_the_set() {
    samples_are_read_across_a_kill_and_changes_of_the_set("at_least_once");
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_window_over_samples_of_all_hosts_is_said_once_although_its_processor_is_killed() {
    let mut scene = Scene::start("exactly_once");
    let mut alerts = Follower::start(&scene.broker.address(), "dogwatch.alerts");
    scene.put("together", TOGETHER);
    scene.run("first");
    scene.wait_for_text("partitions assigned");
    scene.use_cpu(1, 3);
    let early = alerts.wait_for("three hosts together", PATIENCE, |alert| {
        alert.text("detection_id") == "together"
    });
    assert_eq!(
        (early.text("host_id"), early.number("host_count")),
        ("fleet", 3)
    );
    scene.processor.take().unwrap().crash();
    scene.use_cpu(2, 4);
    scene.run("second");
    scene.use_cpu(31, 0);
    let closed = |alert: &Message| {
        alert.text("detection_id") == "together" && alert.text("window_state") == "closed"
    };
    let last = alerts.wait_for("the end of the window", PATIENCE, closed);
    let row: Value = serde_json::from_str(last.text("row")).unwrap();
    assert_eq!(row["cpu_ns"], 21, "{row}");
    assert_eq!(last.text("activity"), "update");
    assert_eq!(last.value["incomplete"], false, "{:?}", last.value);
    let processor = scene.processor.take().unwrap();
    let log = processor.log();
    assert!(processor.stop(PATIENCE).success(), "{log}");
    let all = committed(&scene.broker.address(), "dogwatch.alerts");
    let first = all.iter().filter(|alert| {
        alert.text("alert_id") == last.text("alert_id") && alert.text("activity") == "create"
    });
    assert_eq!(first.count(), 1, "said first once");
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn a_check_names_what_is_read_and_topics_of_other_partition_counts() {
    let scene = Scene::start("exactly_once");
    scene.put("hot", HOT);
    let check = || {
        let mut command = programs::command("dogwatch-processor");
        command.args(["check", "--kafka", &scene.broker.address(), "--detections"]);
        command.arg(scene.detections.path());
        command.output().unwrap()
    };
    let fine = check();
    let text = String::from_utf8(fine.stdout).unwrap();
    assert!(fine.status.success(), "{text}");
    let reads = format!(
        "2 loaded from {}; they read {EVENTS}, {CONTAINERS}\n",
        scene.detections.path().display()
    );
    assert!(text.contains(&reads), "{text}");
    let made = text
        .lines()
        .find(|line| line.starts_with("topics that a start makes"))
        .unwrap();
    assert!(
        made.contains(CONTAINERS) && !made.contains(PROCESSES),
        "{made}"
    );

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", scene.broker.address())
        .create()
        .unwrap();
    let time = ("message.timestamp.type", "LogAppendTime");
    let topics = [(EVENTS, 2), (CONTAINERS, 3)];
    let topics = topics.map(|(name, count)| {
        NewTopic::new(name, count, TopicReplication::Fixed(1)).set(time.0, time.1)
    });
    for made in block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
        made.unwrap();
    }
    let refused = check();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{text}");
    let said = format!(
        "topics {EVENTS} and {CONTAINERS} must have equal partition counts, one for each task, but have 2 and 3; add partitions"
    );
    assert!(text.contains(&said), "{text}");
}
