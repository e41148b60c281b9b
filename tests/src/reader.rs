//! Somebody else's reader of our topics: a Python program with fastavro and confluent-kafka.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::process::die_with_thread;
use crate::{cache, wait};

/// How many records a failed wait shows.
const SUMMARY_LINES: usize = 40;

/// A Kafka record as the reader prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Its partition.
    pub partition: i64,
    /// Its offset.
    pub offset: i64,
    /// The broker's or the producer's time, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `append` or `create`.
    pub timestamp_type: Option<String>,
    /// Its key.
    pub key: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The Avro record; null where it cannot be decoded.
    pub value: Value,
    /// The bytes as hexadecimal digits, where it cannot be decoded.
    pub hex: Option<String>,
}

impl Message {
    /// A text field of the record; empty where it is null or missing.
    pub fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or_default()
    }

    /// An integer field of the record.
    ///
    /// # Panics
    /// When it is null or missing.
    pub fn number(&self, field: &str) -> i64 {
        self.value[field]
            .as_i64()
            .unwrap_or_else(|| panic!("{field} is no number in {}", self.value))
    }
}

/// Reads a topic to its end, as a consumer of committed records.
///
/// # Panics
/// When the reader fails.
pub fn committed(address: &str, topic: &str) -> Vec<Message> {
    let output = command(address, topic)
        .output()
        .expect("python can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "could not read {topic}: {errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(parsed)
        .collect()
}

/// Whether records of transactions that were not committed are read, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Only what was committed.
    Committed,
    /// Also what is open or was aborted.
    Uncommitted,
}

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, milliseconds since 1970; none where the producer's time stands there.
    pub append_ms: Option<i64>,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Reads a topic to its end, byte by byte; in a partition in the order of offsets.
///
/// # Panics
/// When the reader fails.
pub fn raw(address: &str, topic: &str, isolation: Isolation) -> Vec<RawRecord> {
    let mut command = command(address, topic);
    command.arg("--raw");
    if isolation == Isolation::Uncommitted {
        command.args(["--isolation", "read_uncommitted"]);
    }
    let output = command.output().expect("python can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "could not read {topic}: {errors}");
    let mut rest = &output.stdout[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(raw_record(&mut rest));
    }
    records
}

fn raw_record(rest: &mut &[u8]) -> RawRecord {
    let partition = i32::from_be_bytes(taken(rest));
    let offset = i64::from_be_bytes(taken(rest));
    let timestamp_ms = i64::from_be_bytes(taken(rest));
    let [is_append] = taken(rest);
    RawRecord {
        partition,
        offset,
        append_ms: (is_append == 1).then_some(timestamp_ms),
        key: raw_bytes(rest),
        value: raw_bytes(rest),
    }
}

fn raw_bytes(rest: &mut &[u8]) -> Vec<u8> {
    // Null is as good as empty for us.
    let length = usize::try_from(i32::from_be_bytes(taken(rest))).unwrap_or(0);
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    bytes.to_vec()
}

fn taken<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (bytes, after) = rest
        .split_first_chunk()
        .expect("the reader writes whole records");
    *rest = after;
    *bytes
}

/// Follows a topic while a test goes on; ends when dropped.
#[derive(Debug)]
pub struct Follower {
    topic: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<Message>,
}

impl Follower {
    /// Starts to read committed records from the topic's beginning; waits for the topic if it is not there yet.
    ///
    /// # Panics
    /// When python cannot be started.
    pub fn start(address: &str, topic: &str) -> Follower {
        let mut command = command(address, topic);
        command.arg("--follow").stdout(Stdio::piped());
        die_with_thread(&mut command);
        let mut child = command.spawn().expect("python can be started");
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        // Unbounded: a test reads some hundred records.
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Follower {
            topic: topic.to_owned(),
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Returns the first record that fits, already read or yet to come.
    ///
    /// # Panics
    /// When none comes in time; the message names `what` and what came instead.
    pub fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&Message) -> bool,
    ) -> Message {
        let start = Instant::now();
        loop {
            self.take_new();
            if let Some(found) = self.seen.iter().find(|message| fits(message)) {
                return found.clone();
            }
            assert!(
                start.elapsed() < patience,
                "{} did not get {what}; it got {}",
                self.topic,
                self.summary()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until that many records are there, and returns all.
    ///
    /// # Panics
    /// When they do not come in time.
    pub fn wait_for_count(&mut self, count: usize, patience: Duration) -> &[Message] {
        wait::until(
            &format!("{count} records of {}", self.topic),
            patience,
            || {
                self.take_new();
                (self.seen.len() >= count).then_some(())
            },
        );
        &self.seen
    }

    /// Everything read so far.
    pub fn seen(&mut self) -> &[Message] {
        self.take_new();
        &self.seen
    }

    fn take_new(&mut self) {
        self.seen
            .extend(self.lines.try_iter().map(|line| parsed(&line)));
    }

    /// The last records, a line each: enough to see what came instead.
    fn summary(&self) -> String {
        let line = |message: &Message| {
            let fields = [
                "detection_id",
                "message",
                "status",
                "evt_type",
                "proc_stage",
                "proc_cmdline",
            ];
            let texts = fields.map(|field| message.text(field));
            format!("  {} {}", message.text("container_name"), texts.join(" "))
        };
        let last: Vec<_> = self
            .seen
            .iter()
            .rev()
            .take(SUMMARY_LINES)
            .map(line)
            .collect();
        format!(
            "{} records, the last ones first:\n{}",
            self.seen.len(),
            last.join("\n")
        )
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(address: &str, topic: &str) -> Command {
    let mut command = Command::new(cache::path("python/bin/python"));
    command.arg(cache::repository().join("tests/clients/read_topic.py"));
    command.args(["--kafka", address, "--topic", topic]);
    command
}

fn parsed(line: &str) -> Message {
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("the reader printed {line:?}: {error}"))
}
