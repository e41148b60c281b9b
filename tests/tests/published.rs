//! Sets of detections that are published for all processors: against a real broker, with two of them.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use dogwatch_tests::broker::Broker;
use dogwatch_tests::process::Process;
use dogwatch_tests::publish::Publisher;
use dogwatch_tests::reader::{Follower, Message};
use dogwatch_tests::{events, programs, wait};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(90);
const HOSTS: [&str; 5] = ["ant", "bee", "cat", "dog", "elk"];
const TOPIC: &str = "dogwatch.detections";

/// A broker, a folder of detections and keys.
struct Scene {
    address: String,
    folder: TempDir,
    /// What processors trust.
    trusted: String,
    /// The cap on keys of who publishes.
    keys_max: &'static str,
    seq: i64,
    publisher: Publisher,
}

impl Scene {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a detection of whatever runs a program of its name.
    fn write(&self, name: &str) {
        let file = self.file(&format!("detections/execution/{name}.sql"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!(
            "-- title = \"{name}\"\n-- description = \"For tests.\"\n-- message = \"{name}\"\n-- severity = \"high\"\n\
             -- status = \"stable\"\n-- attack = [\"T1059\"]\nSELECT container_id, proc_cmdline\nFROM events\n\
             WHERE evt_type = 'execve' AND proc_name = '{name}'\n"
        );
        fs::write(file, text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.file(&format!("detections/execution/{name}.sql"))).unwrap();
    }

    /// Runs a subcommand of `dogwatch detections`.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = programs::command("dogwatch");
        command
            .arg("detections")
            .args(arguments)
            .env("DOGWATCH_DETECTIONS__TRUSTED_KEYS", &self.trusted)
            .env("DOGWATCH_WINDOWS__KEYS_MAX", self.keys_max);
        command.output().unwrap()
    }

    /// As [`Scene::run`], where it must work; what it prints.
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Scene::run`], where it must be refused; the reason.
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn publish(&self, more: &[&str]) -> String {
        self.told(
            &self
                .publishing(more)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    }

    fn publishing(&self, more: &[&str]) -> Vec<String> {
        let (folder, key) = (self.file("detections"), self.file("team.pem"));
        let own = [
            "publish",
            folder.to_str().unwrap(),
            "--kafka",
            &self.address,
            "--key",
            key.to_str().unwrap(),
        ];
        own.iter()
            .chain(more)
            .map(|text| (*text).to_owned())
            .collect()
    }

    fn processor(&self, name: &str) -> Process {
        let settings = [
            ("KAFKA__PARTITIONS", "2"),
            ("KAFKA__INSTANCE", name),
            ("CHECKPOINT__INTERVAL", "500ms"),
            ("DETECTIONS__SOURCE", "topic"),
            ("DETECTIONS__TRUSTED_KEYS", &self.trusted),
        ];
        let (nowhere, log) = (Path::new("/nowhere"), self.file(name));
        programs::processor_with(&self.address, nowhere, &settings, &log)
    }

    /// Has each host run programs.
    fn send(&mut self, names: &[&str]) {
        self.seq += 1;
        for host in HOSTS {
            for (place, name) in names.iter().enumerate() {
                let seq = self.seq * 100 + i64::try_from(place).unwrap();
                let mut record = Vec::new();
                events::exec(host, seq, name).encode_framed(&mut record);
                self.publisher.send("dogwatch.events", host, &record);
            }
        }
        self.publisher.flush();
    }
}

/// Waits until both processors have said something, and returns what.
fn both_say(alerts: &mut Follower, detection: &str, word: &str) -> Vec<Message> {
    wait::until(
        &format!("{detection} with {word:?}, twice"),
        PATIENCE,
        || {
            let own = alerts.seen().iter();
            let own = own.filter(|alert| {
                alert.text("detection_id") == detection && alert.text("message").contains(word)
            });
            let own: Vec<Message> = own.cloned().collect();
            (own.len() >= 2).then_some(own)
        },
    )
}

fn found(alerts: &mut Follower, detection: &str) -> usize {
    let own = alerts.seen().iter();
    own.filter(|alert| alert.text("detection_id") == detection)
        .count()
}

/// No number stands for two sets, and who comes second is told.
fn two_publish_at_once(scene: &Scene) {
    let listed = || {
        scene
            .told(&["list", "--kafka", &scene.address])
            .lines()
            .count()
    };
    let before = listed();
    let other = scene.file("other/execution");
    fs::create_dir_all(&other).unwrap();
    for name in ["hoe", "spade"] {
        let file = format!("{name}.sql");
        fs::copy(
            scene.file("detections/execution").join(&file),
            other.join(&file),
        )
        .unwrap();
    }
    scene.write("pick");
    let first = scene.publishing(&[]);
    let mut second = first.clone();
    second[1] = scene.file("other").display().to_string();
    fs::copy(other.join("hoe.sql"), other.join("fork.sql")).unwrap();
    let outputs = std::thread::scope(|scope| {
        let run =
            |asked: &[String]| scene.run(&asked.iter().map(String::as_str).collect::<Vec<_>>());
        let (first, second) = (
            scope.spawn(move || run(&first)),
            scope.spawn(move || run(&second)),
        );
        [first.join().unwrap(), second.join().unwrap()]
    });
    let (published, refused): (Vec<_>, Vec<_>) =
        outputs.iter().partition(|output| output.status.success());
    assert!(!published.is_empty(), "{outputs:?}");
    for output in refused {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("at the same time, and processors run that one"),
            "{said}"
        );
    }
    assert_eq!(listed(), before + published.len(), "{outputs:?}");
    scene.remove("pick");
}

#[test]
#[ignore = "needs root and Kafka: ./dogwatch.sh test"]
fn a_published_set_runs_everywhere_and_nothing_else_does() {
    let broker = Broker::start();
    let address = broker.address();
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene {
        publisher: Publisher::new(&address),
        trusted: String::new(),
        keys_max: "100000",
        address: address.clone(),
        folder,
        seq: 0,
    };
    for (file, trusted) in [("foreign.pem", false), ("team.pem", true)] {
        let made = scene.told(&["keygen", scene.file(file).to_str().unwrap()]);
        let key = made.split('"').nth(1).unwrap().to_owned();
        assert_eq!(key.len(), 64, "{made}");
        if trusted {
            scene.trusted = key;
        }
    }
    scene.write("spade");
    scene.write("rake");

    // Nothing is published: a processor says what to do.
    let mut processor = scene.processor("early");
    assert_eq!(
        processor.wait(PATIENCE).code(),
        Some(3),
        "{}",
        processor.log()
    );
    let log = processor.log();
    assert!(
        log.contains("there is no set of detections in topic dogwatch.detections; publish one"),
        "{log}"
    );

    // Nobody else's key, and no file that does not load.
    let folder = scene.file("detections").display().to_string();
    let unsigned = scene.refused(&["publish", &folder, "--kafka", &address], 2);
    assert!(
        unsigned.contains("name the file of a key with --key"),
        "{unsigned}"
    );
    let key = scene.file("foreign.pem").display().to_string();
    let foreign = ["publish", &folder, "--kafka", &address, "--key", &key];
    assert!(
        scene
            .refused(&foreign, 2)
            .contains("is not among detections.trusted_keys")
    );
    let broken = scene.file("detections/execution/broken.sql");
    fs::write(&broken, "SELECT").unwrap();
    let asked = scene.publishing(&[]);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    assert!(scene.refused(&asked, 2).contains("broken.sql:1: "));
    fs::remove_file(&broken).unwrap();

    let said = scene.publish(&["--dry-run"]);
    assert!(
        said.contains("no set before: added rake, spade\nnot published"),
        "{said}"
    );
    let said = scene.publish(&[]);
    assert!(said.ends_with("set 1 published: 2 detections\n"), "{said}");
    assert_eq!(scene.publish(&[]), "nothing changes: set 1 is the same\n");
    let mut processors: Vec<Process> = ["one", "two"].map(|name| scene.processor(name)).into();
    for processor in &mut processors {
        processor.wait_for_text("partitions assigned", PATIENCE);
    }
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    scene.send(&["spade", "hoe"]);
    alerts.wait_for_count(HOSTS.len(), PATIENCE);

    // A rule more, for all of them.
    scene.write("hoe");
    let said = scene.publish(&[]);
    assert!(
        said.contains("since set 1: added hoe\nset 2 published: 3 detections"),
        "{said}"
    );
    for changed in both_say(&mut alerts, "detections_changed", "set 2 published by ") {
        assert!(
            changed.text("message").ends_with(": added hoe"),
            "{:?}",
            changed.value
        );
        assert!(
            changed.text("row").contains(&scene.trusted),
            "{:?}",
            changed.value
        );
    }
    scene.send(&["hoe"]);
    wait::until("the new rule", PATIENCE, || {
        (found(&mut alerts, "hoe") == HOSTS.len()).then_some(())
    });

    // What somebody else writes there changes nothing: a set without a signature, and noise.
    let trusted = std::mem::take(&mut scene.trusted);
    scene.remove("hoe");
    let plain = ["publish", &folder, "--kafka", &address];
    let refused = scene.refused(&plain, 2);
    assert!(refused.contains("set 2 is signed"), "{refused}");
    let forged = scene.told(&[&plain[..], &["--force"]].concat());
    assert!(
        forged.contains("set 3 published") && forged.contains("; it is not signed, so processors"),
        "{forged}"
    );
    scene.trusted = trusted;
    both_say(&mut alerts, "detection_refused", "it is not signed");
    scene.publisher.send_to(TOPIC, 0, "noise", b"noise");
    scene.publisher.flush();
    both_say(
        &mut alerts,
        "detection_refused",
        "no set of detections in a form",
    );
    let before = found(&mut alerts, "hoe");
    scene.send(&["hoe"]);
    wait::until("the rule that runs on", PATIENCE, || {
        (found(&mut alerts, "hoe") == before + HOSTS.len()).then_some(())
    });

    // Most of it would be lost: only if it is meant so.
    scene.remove("spade");
    let asked = scene.publishing(&[]);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let lost = scene.refused(&asked, 2);
    assert!(
        lost.contains("2 of the 3 detections of set 2 would be gone (hoe, spade)"),
        "{lost}"
    );
    assert!(
        scene
            .publish(&["--force"])
            .contains("set 3 published: 1 detections")
    );
    both_say(&mut alerts, "detections_changed", "removed hoe, spade");

    // It is taken back, and whoever starts begins with that.
    let key = scene.file("team.pem").display().to_string();
    let back = |number| ["rollback", number, "--kafka", &address, "--key", &key];
    assert!(
        scene
            .refused(&back("9"), 2)
            .contains("there is no set 9 in topic dogwatch.detections; there are 1, 2, 3")
    );
    let said = scene.told(&back("2"));
    assert!(
        said.ends_with("since set 3: added hoe, spade\nset 4 published: 3 detections\n"),
        "{said}"
    );
    both_say(
        &mut alerts,
        "detections_changed",
        "set 4, which is set 2 again, published by ",
    );
    processors.remove(0).crash();
    processors.push(scene.processor("one"));
    processors[1].wait_for_text("partitions assigned", PATIENCE);
    let before = found(&mut alerts, "hoe");
    wait::until("all partitions at set 4", PATIENCE, || {
        scene.send(&["hoe"]);
        std::thread::sleep(Duration::from_millis(500));
        let loaded = scene.told(&["loaded", "--kafka", &address]);
        let all = loaded.starts_with("set 4 (") && loaded.contains("): partitions 0, 1\n");
        all.then_some(())
    });
    wait::until("what was taken back", PATIENCE, || {
        (found(&mut alerts, "hoe") > before).then_some(())
    });
    // The cap on keys goes with the set.
    scene.keys_max = "5000";
    let said = scene.told(&back("4"));
    assert!(
        said.starts_with("nothing changes: set 4 is the same"),
        "{said}"
    );
    scene.write("hoe");
    scene.write("spade");
    let said = scene.publish(&[]);
    assert!(
        said.contains("; windows.keys_max from 100000 to 5000\nset 5 published"),
        "{said}"
    );
    both_say(
        &mut alerts,
        "detections_changed",
        "; windows.keys_max from 100000 to 5000",
    );
    let list = scene.told(&["list", "--kafka", &address]);
    let numbers: Vec<&str> = list.lines().map(|line| &line[..4]).collect();
    assert_eq!(numbers, ["   5", "   4", "   3", "   2", "   1"], "{list}");
    assert!(
        list.lines().nth(1).unwrap().ends_with(", set 2 again"),
        "{list}"
    );

    two_publish_at_once(&scene);

    // The topic is made anew: what runs goes on until somebody publishes again, and then that runs.
    broker.tool(
        "org.apache.kafka.tools.TopicCommand",
        &["--delete", "--topic", TOPIC],
    );
    both_say(
        &mut alerts,
        "detection_refused",
        "there is no set of detections in topic",
    );
    scene.remove("rake");
    scene.remove("hoe");
    let said = wait::until("a topic that is made anew", PATIENCE, || {
        let output = scene.run(&asked);
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert!(said.contains("set 1 published: 1 detections"), "{said}");
    both_say(&mut alerts, "detections_changed", "set 1 published by ");
    for processor in processors {
        let log = processor.log();
        assert!(processor.stop(PATIENCE).success(), "{log}");
    }
}
