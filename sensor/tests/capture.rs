//! A capture made on the real kernel replays to the events that were published while it was made.
//!
//! Needs root and a kernel with type information; it fails without, because a capture from elsewhere would prove less.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::Event;
use dogwatch_schemas::topics::Topic;
use dogwatch_sensor::config::{Config, RawConfig};
use dogwatch_sensor::pipeline::{self, Input, Output, Rotation, Shutdown};

/// Says that the scripted process may be looked for: it is the last thing the script executes.
const LAST_WORDS: &str = "last words of the capture test";

fn config() -> Config {
    let mut raw = RawConfig {
        state_file: String::new(),
        ..RawConfig::default()
    };
    raw.containers.host_mode = "normal".into();
    Config::check(raw).unwrap()
}

fn event(record: &LogRecord) -> Option<Event> {
    (record.topic == Topic::Events).then(|| Event::decode_framed(&record.value).unwrap())
}

/// Collects until the scripted process has ended, then stops the sensor and collects the rest.
fn collect(receiver: &Receiver<LogRecord>, shutdown: &Shutdown) -> Vec<Event> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut events = Vec::new();
    while let Ok(record) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        let Some(event) = event(&record) else {
            continue;
        };
        let over = &*event.evt_type == "procexit"
            && event
                .proc_cmdline
                .as_deref()
                .is_some_and(|line| line.contains(LAST_WORDS));
        events.push(event);
        if over {
            shutdown.trigger_because("the script is over");
        }
    }
    assert!(
        shutdown.reason().is_some(),
        "the script was not seen to end within 30 seconds"
    );
    events
}

fn act() {
    let script =
        format!("cat /etc/hostname; cat /nowhere; : > /dev/null; exec echo '{LAST_WORDS}'");
    Command::new("sh")
        .args(["-c", &script, "sh", "--password", "hunter2"])
        .output()
        .unwrap();
}

fn run_recorded(path: &Path) -> Vec<Event> {
    let (sender, receiver) = local::channel(4_096);
    let shutdown = Shutdown::new();
    let (input, stop) = (
        Input::Recorded(path.to_owned(), Rotation::default()),
        shutdown.clone(),
    );
    // The sensor gives up capabilities for its thread and those it makes: not for this one.
    let sensor =
        std::thread::spawn(move || pipeline::run(config(), input, Output::Local(sender), stop));
    let first = receiver
        .recv_timeout(Duration::from_secs(30))
        .expect("the sensor starts: root and type information");
    act();
    let mut events: Vec<Event> = event(&first).into_iter().collect();
    events.extend(collect(&receiver, &shutdown));
    sensor.join().unwrap().unwrap();
    events
}

fn replayed(path: &Path) -> Vec<Event> {
    let (sender, receiver) = local::channel(4_096);
    let input = Input::Replay(vec![path.to_owned()]);
    let sensor = std::thread::spawn(move || {
        pipeline::run(config(), input, Output::Local(sender), Shutdown::new())
    });
    let events = receiver
        .into_iter()
        .filter_map(|record| event(&record))
        .collect();
    sensor.join().unwrap().unwrap();
    events
}

#[test]
fn a_capture_replays_to_the_same_events() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.capture");
    let live = run_recorded(&path);
    let again = replayed(&path);
    assert_eq!(live.len(), again.len());
    for (live, again) in live.iter().zip(&again) {
        assert_eq!(live, again);
    }
    let of_script: Vec<_> = live
        .iter()
        .filter(|event| {
            event
                .proc_cmdline
                .as_deref()
                .is_some_and(|line| line.contains(LAST_WORDS))
        })
        .collect();
    let seen = |evt_type: &str| of_script.iter().any(|event| &*event.evt_type == evt_type);
    assert!(
        seen("execve") && seen("procexit") && seen("clone"),
        "{of_script:?}"
    );
    assert!(of_script.iter().all(|event| {
        event
            .proc_cmdline
            .as_deref()
            .is_some_and(|line| !line.contains("hunter2"))
    }));
    assert!(
        live.iter()
            .any(|event| event.fd_name.as_deref() == Some("/etc/hostname"))
    );
    assert!(
        live.iter()
            .any(|event| event.fd_name.as_deref() == Some("/nowhere")
                && event.evt_res.as_deref() == Some("ENOENT"))
    );
}
