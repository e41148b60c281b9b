//! What happens to a fleet: three processors, twelve partitions, sixty hosts, and all at once one host whose clock is an hour
//! behind, one whose clock is set back, a partition without a host, processors that are killed, stand still, come and go,
//! detections that are swapped, and a transaction that nobody ends. What is said stays what plain SQL says of the whole log.
//!
//! `TEST_FLEET_COURSES` says how often all of that happens in a run (once), `TEST_FLEET_HELD` for how many seconds the
//! processor stands still (5).

use std::env;

use dogwatch_tests::broker::Access;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;

/// The last has no host.
const SOURCES: i32 = 12;
const SESSION: Duration = Duration::from_secs(6);
/// A second of hosts' work, in rounds.
const SECOND: i64 = 5;
/// A host whose clock is an hour behind, and one whose clock is set back in the middle.
const BEHIND: i64 = 7;
const SET_BACK: i64 = 8;
/// Twice in a course this runs on three hosts.
const HIDDEN: &str = "hidden";

fn setting(name: &str, otherwise: i64) -> i64 {
    let text = env::var(name);
    text.map_or(otherwise, |text| text.parse().unwrap())
}

/// What runs, and what was said.
struct Scene {
    broker: Broker,
    folder: tempfile::TempDir,
    logs: tempfile::TempDir,
    processors: BTreeMap<&'static str, Process>,
    hosts: Hosts,
    held: i64,
    rounds: i64,
}

impl Scene {
    fn new() -> Self {
        // The broker looks once a second for transactions that are open for too long.
        let extra = "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n";
        let broker = Broker::start_with(Access::Open, extra);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fleet")).unwrap();
        let hosts = Hosts::new(&broker.address());
        Self {
            broker,
            folder,
            logs: tempfile::tempdir().unwrap(),
            processors: BTreeMap::new(),
            hosts,
            held: setting("TEST_FLEET_HELD", 5),
            rounds: 0,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("fleet").join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join("fleet").join(name)).unwrap();
    }

    fn start(&mut self, name: &'static str) {
        // Who is held for long is waited for, as by a group that has nobody else.
        let session = SESSION.max(Duration::from_secs(self.held as u64 + 10));
        let session = match self.held {
            5 => "6s".to_owned(),
            _ => format!("{}s", session.as_secs()),
        };
        let settings = [
            ("KAFKA__PARTITIONS", "12"),
            ("KAFKA__INSTANCE", name),
            ("KAFKA__SESSION_TIMEOUT", &session),
            ("KAFKA__TRANSACTION_TIMEOUT", "6s"),
            ("CHECKPOINT__INTERVAL", "1s"),
            ("WINDOWS__FLEET_PATIENCE", "2s"),
        ];
        let address = self.broker.address();
        let log = self.logs.path().join(name);
        let own = programs::processor_with(&address, self.folder.path(), &settings, &log);
        self.processors.insert(name, own);
    }

    /// An event of a host, in a partition that its number says.
    fn run(&mut self, host: i64, program: &str, behind: Duration) {
        let ts = now_ns() - behind.as_nanos() as i64;
        let (name, record) = self.hosts.event(host, program, ts);
        let partition = (host % i64::from(SOURCES - 1)) as i32;
        let publisher = &self.hosts.publisher;
        publisher.send_to("dogwatch.events", partition, &name, &record);
    }

    fn run_on_three(&mut self, program: &str) {
        for host in [3, 31, 59] {
            self.run(host, program, Duration::ZERO);
        }
        self.hosts.publisher.flush();
    }

    /// Hosts go on for so many rounds.
    fn rounds(&mut self, count: i64, set_back: bool) {
        let began = Instant::now();
        for next in 1..=count {
            let round = self.rounds;
            self.rounds += 1;
            for host in (0..HOSTS).filter(|host| (host + round) % 7 == 0) {
                let behind = match host {
                    BEHIND => Duration::from_secs(3_600),
                    SET_BACK if set_back => Duration::from_secs(5),
                    _ => Duration::ZERO,
                };
                self.run(
                    host,
                    &format!("program-{}", (host / 5 + round / 3) % 9),
                    behind,
                );
            }
            self.hosts.publisher.flush();
            std::thread::sleep((ROUND * next as u32).saturating_sub(began.elapsed()));
        }
    }

    fn show_logs(&self) {
        for (name, own) in &self.processors {
            println!("{name}:\n{}", own.log());
        }
    }

    /// Somebody with rights to the exchange begins a transaction, and dies.
    fn leave_a_transaction_open(&self) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.address())
            .set("transactional.id", "a-processor-that-died")
            .set("transaction.timeout.ms", "6000")
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        for partition in 0..SOURCES {
            let record = BaseRecord::<(), [u8]>::to("dogwatch.exchange");
            let record = record.partition(partition).payload(&b"half a second"[..]);
            producer.send(record).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// All that can happen, once.
    fn course(&mut self, number: i64, alerts: &mut Follower) {
        self.rounds(3 * SECOND, false);
        self.processors.remove("one").unwrap().crash();
        // Others take over what it had, when the group has missed it.
        self.rounds(9 * SECOND, false);
        let two = &self.processors["two"];
        two.signal(libc::SIGSTOP);
        self.rounds(self.held * SECOND, true);
        self.processors["two"].signal(libc::SIGCONT);
        self.rounds(2 * SECOND, true);
        // What is added, what is another now and what is gone: the others do not notice.
        self.write("added.sql", &spread("program-1", "4 seconds"));
        self.write("edited.sql", &edited(number + 2));
        self.remove("gone.sql");
        self.rounds(3 * SECOND, false);
        self.start("one");
        self.start("four");
        self.rounds(3 * SECOND, false);
        self.leave_a_transaction_open();
        let began = now_ns() / 1_000_000;
        let program = format!("{HIDDEN}-{number}");
        self.run_on_three(&program);
        self.rounds(6 * SECOND, false);
        let said = alerts.wait_for("what a transaction hid", PATIENCE, |alert| {
            alert.text("detection_id") == HIDDEN && alert.text("row").contains(&program)
        });
        let waited = said.timestamp_ms - began;
        assert!(
            waited > 3_000,
            "it was said behind {waited} ms: nothing was hidden"
        );
        let four = self.processors.remove("four").unwrap();
        assert!(four.stop(PATIENCE).success());
        self.write("gone.sql", &spread("program-2", "4 seconds"));
        self.rounds(2 * SECOND, false);
    }
}

/// Another text each time.
fn edited(threshold: i64) -> String {
    spread("program-3", "4 seconds").replace(">= 3", &format!(">= {threshold}"))
}

/// Where a row of `dogwatch.late` came from, if a detection is among those that miss it.
fn place_of(row: &Message, detection: &str) -> Option<(i32, i64)> {
    let detections = row.headers["detections"].split(',');
    let number = |name: &str| row.headers[name].parse::<i64>().unwrap();
    let is_of = detections.into_iter().any(|own| own == detection);
    is_of.then(|| (number("partition") as i32, number("offset")))
}

/// Classes of what an alert's window misses.
fn classes(alert: &Message) -> Vec<&String> {
    let losses = alert.value["losses"].as_object();
    losses
        .into_iter()
        .flat_map(|losses| losses.keys())
        .collect()
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn whatever_happens_to_three_processors_of_twelve_partitions_they_say_what_sixty_hosts_did() {
    let mut scene = Scene::new();
    scene.write("runs.sql", &runs());
    scene.write("spread.sql", &spread("program-%", "4 seconds"));
    scene.write("hidden.sql", &spread("hidden-%", "10 minutes"));
    scene.write("edited.sql", &edited(1));
    scene.write("gone.sql", &spread("program-2", "4 seconds"));
    for name in ["one", "two", "three"] {
        scene.start(name);
    }
    for own in scene.processors.values_mut() {
        own.wait_for_text("partitions assigned", PATIENCE);
    }
    let address = scene.broker.address();
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    let courses = setting("TEST_FLEET_COURSES", 1);
    for number in 0..courses {
        scene.course(number, &mut alerts);
    }
    let partitions: Vec<i32> = (0..SOURCES).collect();
    let log = log_to_the_end(&address, &partitions);
    for name in ["added.sql", "edited.sql", "gone.sql"] {
        scene.remove(name);
    }
    let expected = asked_for(scene.folder.path(), &log, &partitions);
    let closes = words_of(&expected, "runs");
    assert!(closes.len() > 50, "{}", closes.len());
    let said = wait_for_last_words(&mut alerts, &closes);
    let differing = differences(&last_words(&said), &closes, &said);
    if !differing.is_empty() {
        scene.show_logs();
    }
    assert_eq!(differing, "");
    assert_eq!(
        created(&said, "spread"),
        ids_of(&expected, "spread"),
        "each once"
    );
    assert_eq!(created(&said, HIDDEN), ids_of(&expected, HIDDEN));
    assert_eq!(created(&said, HIDDEN).len() as i64, courses);
    late_once(&address, &expected);
    of_what_changed(&said);
    exchange_remade(scene, alerts);
}

/// Who is an hour behind is late for the fleet, each row once; nobody else's row is, but of a clock that was set back.
fn late_once(address: &str, expected: &Expected) {
    let rows = dogwatch_tests::reader::committed(address, "dogwatch.late");
    let own = expected.late.iter();
    let own = own.filter(|late| late.detections.iter().any(|own| own == "runs"));
    let mut asked_for: Vec<(i32, i64)> = own.map(|late| (late.partition, late.offset)).collect();
    let mut found: Vec<(i32, i64)> = rows
        .iter()
        .filter_map(|row| place_of(row, "runs"))
        .collect();
    asked_for.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, asked_for);
    let of = |host: i64| {
        let name = format!("host-{host}");
        rows.iter().filter(|row| row.key == name).count()
    };
    assert!(of(BEHIND) > 10, "{}", of(BEHIND));
    assert_eq!(of(BEHIND) + of(SET_BACK), rows.len(), "others are late");
}

/// What was added or is another now speaks, and says which of its windows are not whole; nothing else misses anything but what
/// came late.
fn of_what_changed(said: &[Message]) {
    for alert in said.iter().filter(|alert| alert.text("host_id") == "fleet") {
        let changed = ["added", "edited", "gone"].contains(&alert.text("detection_id"));
        let known = |class: &&String| *class == "late_rows" || (changed && *class == "not_loaded");
        let classes = classes(alert);
        assert!(classes.iter().all(known), "{}", alert.value);
    }
    let of = |id: &'static str| {
        let own = said.iter();
        own.filter(move |alert| alert.text("detection_id") == id)
    };
    assert!(of("added").count() > 0);
    let content = |alert: &Message| alert.text("detection_hash").to_owned();
    let contents: BTreeSet<String> = of("edited").map(content).collect();
    assert!(
        contents.len() > 1,
        "the edited detection spoke under one text"
    );
}

/// The exchange is deleted while nobody reads it, and made anew: what was in it is missing and said to be.
fn exchange_remade(mut scene: Scene, mut alerts: Follower) {
    scene.run_on_three("hidden-before");
    let of = |program: &'static str| move |alert: &Message| alert.text("row").contains(program);
    alerts.wait_for("what was said before", PATIENCE, of("hidden-before"));
    for (_, own) in std::mem::take(&mut scene.processors) {
        assert!(own.stop(PATIENCE).success());
    }
    // While nobody reads, so that it is within the gap however long the rest takes.
    scene.run_on_three("hidden-after");
    let class = "org.apache.kafka.tools.TopicCommand";
    scene
        .broker
        .tool(class, &["--delete", "--topic", "dogwatch.exchange"]);
    let began = now_ns();
    scene.start("two");
    scene.rounds(2 * SECOND, false);
    let open = alerts.wait_for("a window over the gap", PATIENCE, of("hidden-after"));
    assert_eq!(open.value["incomplete"], true, "{}", open.value);
    let whole = |alert: &Message| {
        let own = alert.text("detection_id") == "runs" && alert.text("window_state") == "closed";
        own && alert.value["incomplete"] == false && alert.number("window_start") > began
    };
    let patience = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < patience, "no window is whole again");
        scene.rounds(SECOND, false);
        if alerts.seen().iter().any(whole) {
            break;
        }
    }
    for (_, own) in scene.processors {
        assert!(own.stop(PATIENCE).success());
    }
}

/// Windows wait for what nobody processes, somebody is told of it, and when it is processed they end whole.
#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn what_nobody_processes_is_told_and_delays_windows_without_changing_them() {
    let mut scene = Scene::new();
    scene.write("runs.sql", &runs());
    let with = |scene: &mut Scene, stage: &'static str| {
        let settings = [
            ("STAGES", stage),
            ("KAFKA__PARTITIONS", "12"),
            ("WINDOWS__FLEET_PATIENCE", "2s"),
            ("WINDOWS__FLEET_DELAY_MAX", "5s"),
        ];
        let (address, log) = (scene.broker.address(), scene.logs.path().join(stage));
        let own = programs::processor_with(&address, scene.folder.path(), &settings, &log);
        scene.processors.insert(stage, own);
    };
    with(&mut scene, "host");
    with(&mut scene, "fleet");
    for own in scene.processors.values_mut() {
        own.wait_for_text("partitions assigned", PATIENCE);
    }
    let address = scene.broker.address();
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    let held = |alert: &Message| alert.text("detection_id") == "fleet_held";
    scene.rounds(6 * SECOND, false);
    assert!(!alerts.seen().iter().any(held), "all was processed");
    scene.processors.remove("host").unwrap().crash();
    let began = now_ns();
    scene.rounds(5 * SECOND, false);
    let told = alerts.wait_for("word of a partition that is held", PATIENCE, held);
    assert!(
        told.text("message").contains("dogwatch.events/"),
        "{}",
        told.value
    );
    assert_eq!(told.text("severity"), "high");
    with(&mut scene, "host");
    let over = |alert: &Message| {
        let own = alert.text("detection_id") == "runs";
        own && alert.number("window_start") > began
    };
    let whole = alerts.wait_for("a window of that time", PATIENCE, over);
    let behind: Vec<&String> = classes(&whole)
        .into_iter()
        .filter(|class| *class != "late_rows")
        .collect();
    assert_eq!(behind, [""; 0], "{}", whole.value);
    let partitions: BTreeSet<String> = alerts
        .seen()
        .iter()
        .filter(|alert| held(alert))
        .map(|alert| alert.text("message").to_owned())
        .collect();
    assert!(partitions.len() <= SOURCES as usize, "{partitions:?}");
}
