//! Detections change while processors run and an attack goes on: against a real broker, with two processors on one folder.
//!
//! The folder is as Kubernetes mounts one: links into a folder that another link names, which is put elsewhere at once.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Event;
use dogwatch_tests::broker::Broker;
use dogwatch_tests::events::{self, BUSY};
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message};
use dogwatch_tests::{programs, wait};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(90);
/// From the moment that a file lies there until what it finds is an alert.
const SECONDS: Duration = Duration::from_secs(10);
const HOSTS: [&str; 5] = ["ant", "bee", "cat", "dog", "elk"];

/// A folder of files as Kubernetes mounts it.
struct Mount {
    root: TempDir,
    files: BTreeMap<&'static str, String>,
    version: usize,
}

impl Mount {
    fn new(files: &[(&'static str, String)]) -> Mount {
        let mut mount = Mount {
            root: tempfile::tempdir().unwrap(),
            files: files.iter().cloned().collect(),
            version: 0,
        };
        mount.put(|_| ());
        for folder in ["execution", "lists"] {
            symlink(format!("..data/{folder}"), mount.path().join(folder)).unwrap();
        }
        mount
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    /// Changes files, all at once.
    fn put(&mut self, change: impl FnOnce(&mut BTreeMap<&'static str, String>)) {
        change(&mut self.files);
        self.version += 1;
        let version = format!("..{}", self.version);
        for folder in ["execution", "lists"] {
            fs::create_dir_all(self.path().join(&version).join(folder)).unwrap();
        }
        for (name, text) in &self.files {
            fs::write(self.path().join(&version).join(name), text).unwrap();
        }
        let link = self.path().join("..data_tmp");
        symlink(&version, &link).unwrap();
        fs::rename(&link, self.path().join("..data")).unwrap();
    }
}

fn detection(title: &str, query: &str) -> String {
    format!(
        "-- title = \"{title}\"\n-- description = \"For tests.\"\n-- message = \"{title}\"\n-- severity = \"high\"\n\
         -- status = \"stable\"\n-- attack = [\"T1059\"]\n{query}\n"
    )
}

/// Fires as soon as a host has run [`BUSY`] three times, and says how often when the window is over.
fn busy(title: &str) -> String {
    let query = format!(
        "SELECT window_start, window_end, host_id, count(*) AS runs\nFROM tumble(events, INTERVAL '10 minutes')\n\
         WHERE evt_type = 'execve' AND proc_name = '{BUSY}'\nGROUP BY window_start, window_end, host_id\nHAVING count(*) >= 3"
    );
    detection(title, &query)
}

/// What somebody writes while the attack runs.
fn digger() -> String {
    let query = "SELECT container_id, proc_cmdline\nFROM events\nWHERE evt_type = 'execve' AND proc_name = 'digger'\n\
                 \x20 AND proc_cmdline NOT IN (SELECT cmdline FROM trusted)";
    detection("A digger", query)
}

/// Who publishes events, numbered by host.
struct Hosts {
    publisher: Publisher,
    seqs: BTreeMap<&'static str, i64>,
    /// How often each ran [`BUSY`].
    busy: BTreeMap<&'static str, i64>,
}

impl Hosts {
    fn send(&mut self, host: &'static str, name: &str, cmdline: &str) {
        self.send_as(host, |event| {
            event.proc_name = Some(name.into());
            event.proc_cmdline = Some(cmdline.into());
        });
        *self.busy.entry(host).or_default() += i64::from(name == BUSY);
    }

    /// Has the clock of each host put back, which ends its windows.
    fn put_clocks_back(&mut self) {
        for host in HOSTS {
            self.send_as(host, |event| {
                event.evt_type = "clock_step".into();
                event.ts -= 3_600_000_000_000;
            });
        }
    }

    fn send_as(&mut self, host: &'static str, change: impl FnOnce(&mut Event)) {
        let seq = self.seqs.entry(host).or_default();
        *seq += 1;
        let mut event = events::exec(host, *seq, "");
        change(&mut event);
        let mut record = Vec::new();
        event.encode_framed(&mut record);
        self.publisher.send("dogwatch.events", host, &record);
        self.publisher.flush();
    }

    fn all(&mut self, name: &str, cmdline: &str) {
        for host in HOSTS {
            self.send(host, name, cmdline);
        }
    }
}

fn row(alert: &Message) -> Value {
    serde_json::from_str(alert.text("row")).unwrap()
}

/// Waits until each of the two processors has said something of itself.
fn both_say(alerts: &mut Follower, id: &str, fits: impl Fn(&Message) -> bool) -> Vec<Message> {
    wait::until(id, PATIENCE, || {
        let own = alerts.seen().iter();
        let own = own.filter(|alert| alert.text("detection_id") == id && fits(alert));
        let own: Vec<Message> = own.cloned().collect();
        (own.len() >= 2).then_some(own)
    })
}

fn says(word: &'static str) -> impl Fn(&Message) -> bool {
    move |alert| alert.text("message").contains(word)
}

/// The command lines that diggers were found with, in order.
fn dug(alerts: &mut Follower) -> Vec<String> {
    let own = alerts.seen().iter();
    let own = own.filter(|alert| alert.text("detection_id") == "digger");
    own.map(|alert| row(alert)["proc_cmdline"].as_str().unwrap().to_owned())
        .collect()
}

/// What `dogwatch-processor loaded` prints: name and hash of each detection.
fn loaded(listen: &str) -> BTreeMap<String, String> {
    let mut command = programs::command("dogwatch-processor");
    command
        .arg("loaded")
        .env("DOGWATCH_METRICS__LISTEN", listen);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let [since, hash, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        assert!(since.starts_with("20") && since.ends_with('Z'), "{line:?}");
        (name.to_owned(), hash.to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_rule_written_during_an_attack_fires_within_seconds_and_nobody_else_notices() {
    let broker = Broker::start();
    let address = broker.address();
    let logs = tempfile::tempdir().unwrap();
    let mut mount = Mount::new(&[("execution/busy.sql", busy("Busy"))]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let start = |name: &str, listen: &str| {
        let settings = [
            ("KAFKA__PARTITIONS", "2"),
            ("KAFKA__INSTANCE", name),
            ("CHECKPOINT__INTERVAL", "500ms"),
            ("METRICS__LISTEN", listen),
        ];
        let log = logs.path().join(name);
        let mut processor = programs::processor_with(&address, mount.path(), &settings, &log);
        processor.wait_for_text("partitions assigned", PATIENCE);
        processor
    };
    let processors = [start("one", &listen), start("two", "")];
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    let mut hosts = Hosts {
        publisher: Publisher::new(&address),
        seqs: BTreeMap::new(),
        busy: BTreeMap::new(),
    };
    for _ in 0..4 {
        hosts.all(BUSY, BUSY);
    }
    alerts.wait_for_count(HOSTS.len(), PATIENCE);
    let hash_before = loaded(&listen)["busy"].clone();

    // The attack runs, and somebody writes a rule.
    hosts.all("digger", "digger --before");
    let written = Instant::now();
    mount.put(|files| {
        files.insert("execution/digger.sql", digger());
        files.insert("lists/trusted.csv", "cmdline\ndigger --water\n".to_owned());
    });
    wait::until("an alert of the new rule", SECONDS, || {
        hosts.all("digger", "digger --gold");
        hosts.all(BUSY, BUSY);
        (!dug(&mut alerts).is_empty()).then_some(())
    });
    println!(
        "the new rule fired {:?} after it was written",
        written.elapsed()
    );
    both_say(
        &mut alerts,
        "detections_changed",
        says("added digger; lists lists/trusted.csv"),
    );
    let found = dug(&mut alerts);
    assert!(
        found.iter().all(|cmdline| cmdline == "digger --gold"),
        "{found:?}"
    );
    let running = loaded(&listen);
    assert_eq!(running.keys().collect::<Vec<_>>(), ["busy", "digger"]);
    assert_eq!(running["busy"], hash_before);

    // It finds too much: its list is tuned.
    hosts.send("ant", "digger", "digger --sand");
    alerts.wait_for("sand", PATIENCE, |alert| {
        alert.text("row").contains("digger --sand")
    });
    mount.put(|files| {
        files.insert(
            "lists/trusted.csv",
            "cmdline\ndigger --water\ndigger --sand\n".to_owned(),
        );
    });
    both_say(
        &mut alerts,
        "detections_changed",
        says("changed digger; lists"),
    );
    hosts.all("digger", "digger --sand");
    hosts.all("digger", "digger --coal");
    wait::until("coal of each host", PATIENCE, || {
        let coal = dug(&mut alerts)
            .iter()
            .filter(|cmdline| *cmdline == "digger --coal")
            .count();
        (coal == HOSTS.len()).then_some(())
    });
    let sand = dug(&mut alerts)
        .iter()
        .filter(|cmdline| *cmdline == "digger --sand")
        .count();
    assert_eq!(sand, 1);

    // A file is broken, and mended with another title.
    let broken = busy("Busy").replace("GROUP BY", "GRUOP BY");
    mount.put(|files| drop(files.insert("execution/busy.sql", broken)));
    for refused in both_say(&mut alerts, "detection_refused", |_| true) {
        let message = refused.text("message");
        assert!(
            message.starts_with("execution/busy.sql: line ")
                && message.ends_with("its last good version runs on"),
            "{message}"
        );
    }
    hosts.all(BUSY, BUSY);
    assert_eq!(loaded(&listen)["busy"], hash_before);
    mount.put(|files| drop(files.insert("execution/busy.sql", busy("Busier"))));
    both_say(&mut alerts, "detections_changed", says(": changed busy"));
    hosts.all(BUSY, BUSY);

    // All is rolled back.
    mount.put(|files| {
        files.remove("execution/digger.sql");
        files.remove("lists/trusted.csv");
        files.insert("execution/busy.sql", busy("Busy"));
    });
    both_say(
        &mut alerts,
        "detections_changed",
        says("removed digger; changed busy"),
    );
    assert_eq!(
        loaded(&listen),
        BTreeMap::from([("busy".to_owned(), hash_before)])
    );
    hosts.all("digger", "digger --after");
    hosts.all(BUSY, BUSY);

    // The windows are over: each is told once, under the name of its first alert, with all it has counted.
    hosts.put_clocks_back();
    wait::until("the end of each window", PATIENCE, || {
        let closed = alerts.seen().iter();
        let closed = closed.filter(|alert| alert.text("window_state") == "closed");
        (closed.count() == HOSTS.len()).then_some(())
    });
    for mut processor in processors {
        assert_eq!(processor.ended(), None, "{}", processor.log());
        let log = processor.log();
        assert!(processor.stop(PATIENCE).success(), "{log}");
    }
    let all = alerts.seen().to_vec();
    let mut created = BTreeSet::new();
    for alert in &all {
        let id = alert.text("alert_id").to_owned();
        match alert.text("activity") {
            "create" => assert!(created.insert(id), "said twice: {:?}", alert.value),
            _ => assert!(created.contains(&id), "never created: {:?}", alert.value),
        }
    }
    let found = dug(&mut alerts);
    assert!(
        !found.iter().any(|cmdline| cmdline == "digger --after"),
        "{found:?}"
    );
    let is_busy = |alert: &&Message| alert.text("detection_id") == "busy";
    for closed in all.iter().filter(is_busy) {
        let host = closed.text("host_id");
        if closed.text("window_state") == "closed" {
            assert_eq!(row(closed)["runs"], hosts.busy[host], "{host}");
        }
    }
    assert_eq!(all.iter().filter(is_busy).count(), 2 * HOSTS.len());
}
