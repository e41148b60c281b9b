//! Detections over all hosts together, against a real broker: two processors, each with some of the partitions, say what plain
//! SQL over all of them says, each window first exactly once, although one is killed meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Event;
use dogwatch_stream_processor::engine::now_ns;
use dogwatch_stream_processor::oracle::{Expected, Input, Oracle};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::expected::input_record;
use dogwatch_tests::process::Process;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Isolation, Message, RawRecord, raw};
use dogwatch_tests::{events, programs, wait};
use serde_json::Value;

mod faults;

const PATIENCE: Duration = Duration::from_secs(90);
const FLEET_PATIENCE: Duration = Duration::from_secs(2);
const PARTITIONS: [i32; 4] = [0, 1, 2, 3];
const HOSTS: i64 = 60;
/// Rounds in which hosts run programs, and how long each takes.
const ROUNDS: i64 = 50;
const ROUND: Duration = Duration::from_millis(200);
/// When one of the processors is killed, when it is there again, and when somebody writes another detection.
const KILLED: i64 = 15;
const BACK: i64 = 20;
const WRITTEN: i64 = 30;

fn detection(title: &str, query: &str) -> String {
    format!(
        "-- title = \"{title}\"\n-- description = \"For tests.\"\n-- message = \"{title}\"\n-- severity = \"high\"\n\
         -- status = \"stable\"\n-- attack = [\"T1570\"]\n\
         -- dedup = {{ key = [\"proc_name\", \"window_start\"], period = \"1h\" }}\n{query}\n"
    )
}

/// How often each program ran, said when the window is over.
fn runs() -> String {
    let query = "SELECT proc_name, window_start, count(*) AS runs, count(DISTINCT host_id) AS hosts\n\
         FROM tumble(events, INTERVAL '4 seconds')\nWHERE evt_type = 'execve'\n\
         GROUP BY window_start, window_end, proc_name\nHAVING count(*) < 1000000";
    detection("Runs", query)
}

/// A program on several hosts, said at once.
fn spread(name: &str, span: &str) -> String {
    let query = format!(
        "SELECT proc_name, window_start, count(DISTINCT host_id) AS hosts FROM tumble(events, INTERVAL '{span}')\n\
         WHERE evt_type = 'execve' AND proc_name LIKE '{name}'\n\
         GROUP BY window_start, window_end, proc_name\nHAVING count(DISTINCT host_id) >= 3"
    );
    detection("Spread", &query)
}

/// Who publishes what hosts do, each numbered by itself.
struct Hosts {
    publisher: Publisher,
    seqs: BTreeMap<i64, i64>,
}

impl Hosts {
    fn new(address: &str) -> Self {
        Self {
            publisher: Publisher::new(address),
            seqs: BTreeMap::new(),
        }
    }

    /// An event of a host at a time of its own, and the host's name.
    fn event(&mut self, host: i64, program: &str, ts: i64) -> (String, Vec<u8>) {
        let seq = self.seqs.entry(host).or_default();
        *seq += 1;
        let name = format!("host-{host}");
        let event = Event {
            ts,
            boot_ts: ts,
            ..events::exec(&name, *seq, program)
        };
        let mut record = Vec::new();
        event.encode_framed(&mut record);
        (name, record)
    }

    fn run(&mut self, host: i64, program: &str) {
        let (name, record) = self.event(host, program, now_ns());
        self.publisher.send("dogwatch.events", &name, &record);
    }

    /// Some hosts run some program.
    fn round(&mut self, round: i64) {
        for host in (0..HOSTS).filter(|host| (host + round) % 7 == 0) {
            self.run(host, &format!("program-{}", (host / 5 + round / 3) % 9));
        }
        self.publisher.flush();
    }
}

/// What a processor that is killed meanwhile does to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fall {
    /// It is started again under its name, and nothing is said twice.
    ComesBack,
    /// The other one takes its partitions over; what was said last may be said again.
    IsReplaced,
}

fn processor(address: &str, folder: &Path, name: &str, fall: Fall, logs: &Path) -> Process {
    let mut settings = vec![
        ("KAFKA__PARTITIONS", "4"),
        ("CHECKPOINT__INTERVAL", "1s"),
        ("WINDOWS__FLEET_PATIENCE", "2s"),
    ];
    match fall {
        Fall::ComesBack => settings.push(("KAFKA__INSTANCE", name)),
        Fall::IsReplaced => {
            settings.extend([
                ("DELIVERY", "at_least_once"),
                ("KAFKA__SESSION_TIMEOUT", "6s"),
            ]);
        }
    }
    programs::processor_with(address, folder, &settings, &logs.join(name))
}

/// What is in the log of events, as it came to the broker.
fn log_of(address: &str) -> Vec<RawRecord> {
    let mut log = raw(address, "dogwatch.events", Isolation::Committed);
    log.sort_by_key(|record| (record.append_ms, record.partition, record.offset));
    log
}

/// What tells a last word of `runs` apart, and what it says.
type Last = (String, Value);

/// The alerts of `runs` that were said, in order of their ids.
fn last_words(alerts: &[Message]) -> Vec<Last> {
    let of_runs = alerts
        .iter()
        .filter(|alert| alert.text("detection_id") == "runs");
    let last = of_runs.map(|alert| {
        let row = serde_json::from_str(alert.text("row")).unwrap();
        (alert.text("alert_id").to_owned(), row)
    });
    let mut last: Vec<Last> = last.collect();
    last.sort_by(|one, other| one.0.cmp(&other.0));
    last
}

/// Waits until each window has had its last word, or for too long: then what is missing is told by who compares.
fn wait_for_last_words(alerts: &mut Follower, closes: &[Last]) -> Vec<Message> {
    let began = Instant::now();
    loop {
        let said = last_words(alerts.seen());
        let is_said = |id: &String| said.binary_search_by(|(own, _)| own.cmp(id)).is_ok();
        if closes.iter().all(|(id, _)| is_said(id)) || began.elapsed() > PATIENCE {
            return alerts.seen().to_vec();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What differs between what was said and what was to be said, a few lines; empty where nothing does.
fn differences(said: &[Last], closes: &[Last], alerts: &[Message]) -> String {
    let of = |words: &[Last], id: &String| -> Vec<Value> {
        let own = words.iter().filter(|(own, _)| own == id);
        own.map(|(_, row)| row.clone()).collect()
    };
    let ids: BTreeSet<&String> = said.iter().chain(closes).map(|(id, _)| id).collect();
    let differing = ids.into_iter().filter_map(|id| {
        let (said, asked_for) = (of(said, id), of(closes, id));
        let place = |alert: &Message| {
            let value = &alert.value;
            let losses = &value["losses"];
            format!(
                "{}/{} at {} {losses}",
                alert.partition, alert.offset, alert.timestamp_ms
            )
        };
        let own = alerts.iter().filter(|alert| alert.text("alert_id") == id);
        let places: Vec<String> = own.map(place).collect();
        (said != asked_for)
            .then(|| format!("{id}: said {said:?} ({places:?}), asked for {asked_for:?}"))
    });
    let held = alerts.iter().map(|alert| alert.text("message"));
    let held = held.filter(|message| message.contains("more alerts within a minute"));
    let first: Vec<String> = differing.take(10).collect();
    match first.is_empty() {
        true => String::new(),
        false => [held.map(str::to_owned).collect(), first]
            .concat()
            .join("\n"),
    }
}

/// What was said, and what the log asks for.
struct Played {
    alerts: Vec<Message>,
    /// Last words of `runs`, by id.
    closes: Vec<Last>,
    /// The windows of `spread` that were to be said.
    first: Vec<String>,
}

/// The ids of the alerts of a detection that are the first under them, in order.
fn created(alerts: &[Message], id: &str) -> Vec<String> {
    let own = alerts.iter();
    let own = own.filter(|alert| alert.text("detection_id") == id);
    let first = own.filter(|alert| alert.text("activity") == "create");
    let mut ids: Vec<String> = first
        .map(|alert| alert.text("alert_id").to_owned())
        .collect();
    ids.sort();
    ids
}

/// Hosts do what they do while one of two processors is killed and somebody writes a detection.
fn play(fall: Fall) -> Played {
    let broker = Broker::start();
    let address = broker.address();
    let logs = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(folder.path().join("fleet").join(name), text);
    fs::create_dir(folder.path().join("fleet")).unwrap();
    file("runs.sql", &runs()).unwrap();
    file("spread.sql", &spread("program-%", "4 seconds")).unwrap();
    let start = |name| processor(&address, folder.path(), name, fall, logs.path());
    let mut processors = BTreeMap::from([("one", start("one")), ("two", start("two"))]);
    for own in processors.values_mut() {
        own.wait_for_text("partitions assigned", PATIENCE);
    }
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    let mut hosts = Hosts::new(&address);
    let began = Instant::now();
    for round in 0..ROUNDS {
        match round {
            KILLED => processors.remove("one").unwrap().crash(),
            BACK if fall == Fall::ComesBack => drop(processors.insert("one", start("one"))),
            WRITTEN => file("digger.sql", &spread("digger", "10 minutes")).unwrap(),
            _ => {}
        }
        hosts.round(round);
        let next = ROUND * (round as u32 + 1);
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
    // It was written while they ran, and an attack comes that only all hosts together show.
    let what = "the detection that was written last runs everywhere";
    wait::until(what, PATIENCE, || {
        let runs = |own: &Process| own.log().matches("added digger").count() >= 2;
        processors.values().all(runs).then_some(())
    });
    for host in [3, 31, 59] {
        hosts.run(host, "digger");
    }
    hosts.publisher.flush();
    let dug = alerts.wait_for("a digger on three hosts", PATIENCE, |alert| {
        alert.text("detection_id") == "digger"
    });
    assert_eq!(
        (dug.text("host_id"), dug.number("host_count")),
        ("fleet", 3)
    );
    let log = log_to_the_end(&address, &PARTITIONS);
    fs::remove_file(folder.path().join("fleet/digger.sql")).unwrap();
    let expected = asked_for(folder.path(), &log, &PARTITIONS);
    assert_eq!(
        expected.late,
        Vec::new(),
        "this machine stood still for seconds"
    );
    let closes = words_of(&expected, "runs");
    assert!(closes.len() > 20, "{}", closes.len());
    wait_for_last_words(&mut alerts, &closes);
    let first = ids_of(&expected, "spread");
    assert!(first.len() > 5, "{}", first.len());
    for (name, own) in processors {
        let log = own.log();
        assert!(own.stop(PATIENCE).success(), "{name}: {log}");
    }
    Played {
        alerts: alerts.seen().to_vec(),
        closes,
        first,
    }
}

/// What the oracle has a log say, of the detections that are in the folder now.
fn asked_for(folder: &Path, log: &[RawRecord], partitions: &[i32]) -> Expected {
    let oracle = Oracle::load(folder).unwrap();
    let oracle = oracle.with_fleet(FLEET_PATIENCE, partitions);
    let records: Vec<_> = log.iter().map(input_record).collect();
    oracle.run(&records, Input::Live).unwrap()
}

/// The words that a detection must say, in order of their ids.
fn words_of(expected: &Expected, id: &str) -> Vec<Last> {
    let own = expected.alerts.iter();
    let own = own.filter(|own| own.detection_id == id);
    let mut words: Vec<Last> = own
        .map(|own| (own.alert_id.clone(), Value::Object(own.row.clone())))
        .collect();
    words.sort_by(|one, other| one.0.cmp(&other.0));
    words
}

/// The ids of what a detection must say.
fn ids_of(expected: &Expected, id: &str) -> Vec<String> {
    let ids: BTreeSet<String> = words_of(expected, id)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    ids.into_iter().collect()
}

/// The log of events, when processors have marked its silence for so long that all windows are over.
fn log_to_the_end(address: &str, partitions: &[i32]) -> Vec<RawRecord> {
    let over = now_ns() / 1_000_000 + 9_000;
    wait::until("the end of all windows in the log", PATIENCE, || {
        let log = log_of(address);
        let late = |partition: &i32| {
            let mut own = log.iter().filter(|record| record.partition == *partition);
            own.any(|record| record.append_ms > Some(over))
        };
        partitions.iter().all(late).then_some(log)
    })
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn two_processors_say_what_all_hosts_did_together_once_although_one_is_killed() {
    let played = play(Fall::ComesBack);
    let said = last_words(&played.alerts);
    assert_eq!(differences(&said, &played.closes, &played.alerts), "");
    assert_eq!(created(&played.alerts, "spread"), played.first, "each once");
    assert_eq!(created(&played.alerts, "digger").len(), 1);
    // Nothing is lost by a kill, and what was loaded from the beginning is whole.
    let of_fleet = played.alerts.iter();
    let of_fleet = of_fleet.filter(|alert| alert.text("host_id") == "fleet");
    for alert in of_fleet.filter(|alert| alert.text("detection_id") != "digger") {
        assert_eq!(alert.value["incomplete"], false, "{}", alert.value);
    }
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn at_least_once_the_other_takes_over_and_says_nothing_else() {
    let played = play(Fall::IsReplaced);
    let mut said = last_words(&played.alerts);
    said.dedup();
    assert_eq!(differences(&said, &played.closes, &played.alerts), "");
    let mut first = created(&played.alerts, "spread");
    first.dedup();
    assert_eq!(first, played.first);
}
