//! Runs a scenario and judges what came out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dogwatch_schemas::records::Alert;
use dogwatch_schemas::topics::{Topic, Topics};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::site::Site;
use super::{Act, Outcome, Scenario, Settings};
use crate::expected::{compare, expected};
use crate::load::{Writer, base_now_ns};
use crate::process::Process;
use crate::reader::{Isolation, RawRecord, raw};
use crate::{cache, programs, wait};

/// How long anything may take that a scenario waits for: two run at a time on two cores.
const PATIENCE: Duration = Duration::from_secs(180);

/// A detection that shares its panes with others, and finds nothing.
const NEIGHBOUR: &str = "-- title = \"Programs that nobody runs\"\n-- description = \"Laid beside others and taken away.\"\n\
    -- message = \"{runs} in {container_id}\"\n-- severity = \"low\"\n-- status = \"stable\"\n\
    SELECT container_id, window_start, count(*) AS runs, min(proc_pid) AS first_pid\nFROM tumble(events, INTERVAL '10 seconds')\n\
    WHERE evt_type = 'execve' AND proc_name = 'nobody_runs_this'\nGROUP BY window_start, window_end, container_id\n\
    HAVING count(*) >= 25\n";
/// Where it lies below a folder of detections.
const NEIGHBOUR_FILE: &str = "execution/programs_that_nobody_runs.sql";

/// The shortest that brokers allow for a session.
const TIMEOUT: &str = "6s";

/// Runs a scenario: each of its variants with the same load.
///
/// # Panics
/// When the environment lacks something, or a step of the scenario does not come about in time.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    let started = Instant::now();
    let base_ns = base_now_ns();
    let mut site = Site::open(scenario.place);
    let mut total: Option<Outcome> = None;
    for variant in &scenario.variants {
        let outcome = Run::new(scenario, &mut site, variant, base_ns, seed).go();
        total = Some(match total {
            None => outcome,
            Some(before) => joined(before, outcome),
        });
    }
    let mut total = total.expect("a scenario has a variant");
    for hook in &scenario.hooks {
        if !total.struck.contains_key(*hook) {
            total.failures.push(format!("{hook} never struck"));
        }
    }
    total.seconds = started.elapsed().as_secs_f64();
    total
}

/// Adds up the outcomes of two variants, which must have said the same.
fn joined(mut before: Outcome, after: Outcome) -> Outcome {
    if before.ids != after.ids {
        let differing = before.ids.symmetric_difference(&after.ids).count();
        before
            .failures
            .push(format!("{differing} identities differ between variants"));
    }
    before.records += after.records;
    before.aborted += after.aborted;
    before.strange += after.strange;
    before.unreadable += after.unreadable;
    before.late += after.late;
    for (fault, times) in after.struck {
        *before.struck.entry(fault).or_default() += times;
    }
    let (alerts, others) = (&mut before.alerts, after.alerts);
    alerts.expected += others.expected;
    alerts.missing += others.missing;
    alerts.extra += others.extra;
    alerts.double += others.double;
    alerts.changed += others.changed;
    alerts.disturbed += others.disturbed;
    alerts.shown.extend(others.shown);
    let known = |failure: &String| before.failures.contains(failure);
    let news: Vec<String> = after
        .failures
        .into_iter()
        .filter(|failure| !known(failure))
        .collect();
    before.failures.extend(news);
    before.notes.extend(after.notes);
    before.folder = before.folder.or(after.folder);
    before
}

/// A processor that was started and not ended by us.
struct Running {
    process: Process,
    fault: Option<String>,
    frozen: bool,
}

/// One variant of a scenario.
struct Run<'a> {
    scenario: &'a Scenario,
    site: &'a mut Site,
    settings: Settings,
    base_ns: i64,
    seed: u64,
    prefix: String,
    names: Topics,
    folder: tempfile::TempDir,
    processors: BTreeMap<&'static str, Running>,
    started: usize,
    replaced: usize,
    outcome: Outcome,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // The reason stands in the processors' logs.
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!(
                "{}: logs in {}",
                self.scenario.name,
                self.folder.path().display()
            );
        }
    }
}

impl<'a> Run<'a> {
    fn new(
        scenario: &'a Scenario,
        site: &'a mut Site,
        variant: &Settings,
        base_ns: i64,
        seed: u64,
    ) -> Run<'a> {
        // Keeps apart what shares a broker.
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}-{number}", scenario.name.replace(' ', "-"));
        let folder = tempfile::Builder::new()
            .prefix("dogwatch-faults-")
            .tempdir();
        Run {
            scenario,
            site,
            settings: scenario.settings.iter().chain(variant).cloned().collect(),
            base_ns,
            seed,
            names: Topics::new(prefix.as_str()),
            prefix,
            folder: folder.expect("a folder for logs"),
            processors: BTreeMap::new(),
            started: 0,
            replaced: 0,
            outcome: Outcome {
                name: scenario.name,
                ..Outcome::default()
            },
        }
    }

    fn go(mut self) -> Outcome {
        self.create_topics();
        self.site.allow(&self.prefix);
        let events = self.names.name(Topic::Events);
        let load = &self.scenario.load;
        let writer = Writer::start(&self.site.address(), &events, load, self.base_ns, self.seed);
        for act in &self.scenario.acts {
            self.perform(act, &writer);
        }
        writer.finish();
        self.catch_up();
        self.stop_all();
        self.judge();
        if !self.outcome.passed() {
            self.folder.disable_cleanup(true);
            self.outcome.folder = Some(self.folder.path().to_owned());
            self.site.keep();
        }
        std::mem::take(&mut self.outcome)
    }

    /// Those that the load or the scenario needs to be different; processors make the others.
    fn create_topics(&self) {
        let copies = self.site.copies() as i32;
        let partitions = self.scenario.load.partitions as i32;
        // The one with the limit last.
        let topics = [Topic::Events, Topic::Late, Topic::Alerts];
        let named = topics.map(|topic| (topic, self.names.name(topic)));
        let mut new = Vec::new();
        for (topic, name) in &named {
            let mut made = NewTopic::new(name, partitions, TopicReplication::Fixed(copies));
            for (setting, value) in topic.settings() {
                made = made.set(setting, value);
            }
            new.push(made);
        }
        let limit = self.scenario.alert_bytes_max.map(|bytes| bytes.to_string());
        if let (Some(limit), Some(alerts)) = (&limit, new.pop()) {
            new.push(alerts.set("max.message.bytes", limit));
        }
        let admin: AdminClient<DefaultClientContext> =
            self.client().create().expect("a client can be made");
        let made = futures::executor::block_on(admin.create_topics(&new, &AdminOptions::new()));
        for topic in made.expect("the broker answers") {
            topic.expect("the topic is made");
        }
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.site.address());
        client
    }

    fn perform(&mut self, act: &Act, writer: &Writer) {
        match act {
            Act::Wait(time) => std::thread::sleep(*time),
            Act::Second(second) => wait::until("the load", PATIENCE, || {
                (writer.second() >= *second).then_some(())
            }),
            Act::Start(name, fault) => self.start(name, fault.clone()),
            Act::Fall(name, patience) => self.fall(name, *patience),
            Act::Kill(name) => {
                if let Some(running) = self.take_living(name) {
                    running.process.crash();
                }
            }
            Act::Stop(name) => {
                if let Some(running) = self.take_living(name) {
                    self.stop(name, running.process);
                }
            }
            Act::Freeze(name) => self.freeze(name),
            Act::Stuck(name, patience) => self.stuck(name, *patience),
            Act::Thaw(name) => self.thaw(name),
            Act::Ends(name, words) => self.ends(name, words),
            Act::Reads(name) => {
                let running = self.processors.get_mut(name).expect("it was started");
                running
                    .process
                    .wait_for_text("partitions assigned", PATIENCE);
            }
            Act::Checkpoint => self.checkpoint(),
            Act::Lay(there) => self.lay(&self.detections(""), *there),
            Act::LayFor(name, there) => self.lay(&self.detections(name), *there),
            Act::Publish(there) => self.publish(*there),
            Act::LoseBroker(index) => self.site.broker(*index).crash(),
            Act::PauseBroker(index) => self.site.broker(*index).pause(),
            Act::ReturnBroker(index) => self.site.broker(*index).resume(),
            Act::Cut => self.site.cable().cut(),
            Act::Mend => self.site.cable().mend(),
            Act::Withdraw(operation, topic) => self.deny(true, operation, topic),
            Act::Grant(operation, topic) => self.deny(false, operation, topic),
            Act::IdleMark(partition, silence) => self.idle_mark(*partition, *silence),
        }
    }

    fn deny(&self, denied: bool, operation: &str, topic: &str) {
        self.site
            .deny(denied, operation, &format!("{}.{topic}", self.prefix));
    }

    fn start(&mut self, name: &'static str, fault: Option<String>) {
        self.started += 1;
        let log = self
            .folder
            .path()
            .join(format!("{name}-{}.log", self.started));
        let mut command = programs::command("dogwatch-processor");
        command
            .args([
                "run",
                "--kafka",
                &self.site.processors_address(),
                "--detections",
            ])
            .arg(self.detections(name));
        let mut set = |setting: &str, value: &str| {
            command.env(format!("DOGWATCH_{setting}"), value);
        };
        set("METRICS__LISTEN", "");
        set("KAFKA__TOPIC_PREFIX", &self.prefix);
        set("KAFKA__GROUP_ID", &self.prefix);
        set("KAFKA__REPLICATION_FACTOR", &self.site.copies().to_string());
        set("KAFKA__SESSION_TIMEOUT", TIMEOUT);
        set("KAFKA__TRANSACTION_TIMEOUT", TIMEOUT);
        if self.publishes() {
            set("DETECTIONS__SOURCE", "topic");
        }
        if self.scenario.instances {
            set("KAFKA__INSTANCE", name);
        }
        if let Some(fault) = &fault {
            set("FAULT", fault);
        }
        for (setting, value) in &self.settings {
            set(setting, value);
        }
        let process = Process::start(name, &mut self.site.placed(command), &log);
        let running = Running {
            process,
            fault,
            frozen: false,
        };
        let before = self.processors.insert(name, running);
        assert!(before.is_none(), "{name} was started twice");
    }

    /// Whether detections are published, and not read in a folder.
    fn publishes(&self) -> bool {
        let mut acts = self.scenario.acts.iter();
        acts.any(|act| matches!(act, Act::Publish(_)))
    }

    /// Where a processor finds its detections: in a folder of the scenario's own where they change, or of its own.
    fn detections(&self, name: &str) -> PathBuf {
        let changes = |act: &Act| matches!(act, Act::Lay(_) | Act::LayFor(..) | Act::Publish(_));
        if !self.scenario.acts.iter().any(changes) {
            return detections();
        }
        let each = |act: &Act| matches!(act, Act::LayFor(..));
        let own = match self.scenario.acts.iter().any(each) {
            true => self.folder.path().join(format!("detections-{name}")),
            false => self.folder.path().join("detections"),
        };
        let tactic = own.join("execution");
        if !own.exists() {
            fs::create_dir_all(&tactic).expect("a folder for detections");
            let files = fs::read_dir(detections().join("execution")).expect("detections");
            for file in files {
                let file = file.expect("a file").path();
                let name = file.file_name().expect("a name");
                fs::copy(&file, tactic.join(name)).expect("a copy");
            }
        }
        own
    }

    fn lay(&self, folder: &Path, there: bool) {
        let file = folder.join(NEIGHBOUR_FILE);
        let laid = match there {
            true => fs::write(file, NEIGHBOUR),
            false => fs::remove_file(file),
        };
        laid.expect("the folder is ours");
    }

    fn publish(&self, there: bool) {
        let folder = self.detections("");
        if folder.join(NEIGHBOUR_FILE).exists() != there {
            self.lay(&folder, there);
        }
        let mut command = programs::command("dogwatch");
        command
            .args(["detections", "publish"])
            .arg(folder)
            .args(["--kafka", &self.site.address()])
            .env("DOGWATCH_KAFKA__TOPIC_PREFIX", &self.prefix);
        let done = command.output().expect("the program starts");
        assert!(done.status.success(), "{done:?}");
    }

    /// Takes a processor out, unless it has ended by itself.
    fn take_living(&mut self, name: &'static str) -> Option<Running> {
        let mut running = self
            .processors
            .remove(name)
            .unwrap_or_else(|| panic!("{name} is not there"));
        match running.process.ended() {
            None => Some(running),
            Some(status) => {
                self.ended_by_itself(name, &running, status);
                None
            }
        }
    }

    fn ended_by_itself(&mut self, name: &str, running: &Running, status: ExitStatus) {
        if let (Some(fault), Some(libc::SIGABRT)) = (&running.fault, status.signal()) {
            self.struck(&fault.clone());
            return;
        }
        let log = running.process.log();
        let last = log.lines().last().unwrap_or_default();
        let what = format!("{name} ended by itself ({status}): {last}");
        if self.scenario.may_end {
            self.outcome.notes.push(what);
        } else {
            self.outcome.failures.push(what);
        }
    }

    fn struck(&mut self, fault: &str) {
        let kind = fault.split(':').next().unwrap_or(fault);
        *self.outcome.struck.entry(kind.to_owned()).or_default() += 1;
    }

    fn fall(&mut self, name: &'static str, patience: Duration) {
        let start = Instant::now();
        let running = self.processors.get_mut(name).expect("it was started");
        while running.process.ended().is_none() && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(running) = self.take_living(name) {
            running.process.crash();
        }
    }

    fn freeze(&mut self, name: &'static str) {
        let running = self.processors.get_mut(name).expect("it was started");
        running.process.signal(libc::SIGSTOP);
        running.frozen = true;
    }

    fn stuck(&mut self, name: &'static str, patience: Duration) {
        let start = Instant::now();
        let running = &self.processors[name];
        let mut struck = false;
        while !struck && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
            struck = running.process.is_stopped();
        }
        if struck {
            let fault = running.fault.clone().unwrap_or_default();
            self.struck(&fault);
        }
        self.freeze(name);
    }

    fn thaw(&mut self, name: &'static str) {
        let running = self.processors.get_mut(name).expect("it was started");
        running.process.signal(libc::SIGCONT);
        running.frozen = false;
    }

    fn ends(&mut self, name: &'static str, words: &[&str]) {
        let mut running = self.processors.remove(name).expect("it was started");
        let what = format!("the end of {name}");
        let status = wait::until(&what, PATIENCE, || running.process.ended());
        if status.success() {
            self.outcome
                .failures
                .push(format!("{name} ended without an error"));
        }
        let log = running.process.log().to_lowercase();
        for word in words.iter().filter(|word| !log.contains(**word)) {
            self.outcome
                .failures
                .push(format!("{name} does not say {word:?} at its end"));
        }
    }

    fn stop(&mut self, name: &str, process: Process) {
        process.signal(libc::SIGTERM);
        let mut process = process;
        let what = format!("the end of {name}");
        let status = wait::until(&what, PATIENCE, || {
            // Its fault may have struck only after the scenario let it go on.
            if process.is_stopped() {
                process.signal(libc::SIGCONT);
            }
            process.ended()
        });
        if !status.success() {
            let log = process.log();
            let last = log.lines().last().unwrap_or_default();
            self.outcome
                .failures
                .push(format!("{name} did not stop in order ({status}): {last}"));
        }
    }

    fn stop_all(&mut self) {
        while let Some((name, running)) = self.processors.pop_first() {
            self.stop(name, running.process);
        }
    }

    /// Waits until the group has committed all that the load wrote, with at least one processor alive.
    fn catch_up(&mut self) {
        let frozen: Vec<_> = self
            .processors
            .iter()
            .filter(|(_, running)| running.frozen)
            .map(|(name, _)| *name)
            .collect();
        frozen.into_iter().for_each(|name| self.thaw(name));
        let consumer = self.committed_consumer();
        let ends = self.ends_of_log(&consumer);
        let start = Instant::now();
        loop {
            let committed = self.committed(&consumer);
            if ends
                .iter()
                .all(|(partition, end)| committed.get(partition).is_some_and(|next| next >= end))
            {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{}: the group is at {committed:?} of {ends:?}",
                self.scenario.name
            );
            self.tend();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Replaces processors that have ended when none is left.
    fn tend(&mut self) {
        const STAND_INS: [&str; 5] = ["last", "last-2", "last-3", "last-4", "last-5"];
        let names: Vec<_> = self.processors.keys().copied().collect();
        for name in names {
            if let Some(running) = self.take_living(name) {
                self.processors.insert(name, running);
            }
        }
        if self.processors.is_empty() {
            let name = STAND_INS.get(self.replaced);
            self.start(name.expect("one of some processors stays alive"), None);
            self.replaced += 1;
        }
    }

    fn committed_consumer(&self) -> BaseConsumer {
        let mut client = self.client();
        client.set("group.id", &self.prefix);
        client.create().expect("a client can be made")
    }

    fn partitions(&self) -> std::ops::Range<i32> {
        0..self.scenario.load.partitions as i32
    }

    fn ends_of_log(&self, consumer: &BaseConsumer) -> BTreeMap<i32, i64> {
        let events = self.names.name(Topic::Events);
        let end = |partition| {
            let marks = consumer.fetch_watermarks(&events, partition, PATIENCE);
            (partition, marks.expect("the broker knows its log").1)
        };
        self.partitions().map(end).collect()
    }

    /// Where the group would go on; partitions without a word are left out, all when the coordinator is away.
    fn committed(&self, consumer: &BaseConsumer) -> BTreeMap<i32, i64> {
        let events = self.names.name(Topic::Events);
        let mut asked = TopicPartitionList::new();
        self.partitions().for_each(|partition| {
            asked.add_partition(&events, partition);
        });
        let Ok(answer) = consumer.committed_offsets(asked, Duration::from_secs(10)) else {
            return BTreeMap::new();
        };
        let known = answer
            .elements()
            .into_iter()
            .filter_map(|element| match element.offset() {
                Offset::Offset(next) => Some((element.partition(), next)),
                _ => None,
            });
        known.collect()
    }

    fn checkpoint(&self) {
        let state = self.names.name(Topic::State);
        let consumer = self.committed_consumer();
        let written = |partition| {
            let marks = consumer.fetch_watermarks(&state, partition, PATIENCE);
            // A topic that is not there yet holds nothing.
            marks.is_ok_and(|(_, end)| end > 0)
        };
        wait::until("a checkpoint", PATIENCE, || {
            self.partitions().any(written).then_some(())
        });
    }

    fn idle_mark(&mut self, partition: i32, silence: Duration) {
        let events = self.names.name(Topic::Events);
        let address = self.site.address();
        let last_words =
            |record: &RawRecord| (record.partition == partition).then_some(record.append_ms?);
        let silent_from = raw(&address, &events, Isolation::Committed)
            .iter()
            .filter_map(last_words)
            .max();
        let due_ms = silent_from.unwrap_or(0) + silence.as_millis() as i64;
        let what = format!("a mark in silent partition {partition}");
        let start = Instant::now();
        loop {
            self.tend();
            let log = raw(&address, &events, Isolation::Committed);
            if log
                .iter()
                .filter_map(last_words)
                .any(|append_ms| append_ms > due_ms)
            {
                return;
            }
            if start.elapsed() > PATIENCE {
                self.outcome
                    .failures
                    .push(format!("waited in vain for {what}"));
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Compares what was said with what the log asks for, up to where the group stands.
    fn judge(&mut self) {
        let address = self.site.address();
        let read = |topic, isolation| raw(&address, &self.names.name(topic), isolation);
        let committed = self.committed(&self.committed_consumer());
        let mut log = read(Topic::Events, Isolation::Committed);
        log.retain(|record| {
            committed
                .get(&record.partition)
                .is_some_and(|next| record.offset < *next)
        });
        let due = expected(&detections(), &log, self.scenario.host_silence);
        let mut alerts = alerts_of(&read(Topic::Alerts, Isolation::Committed));
        let mut uncommitted = alerts_of(&read(Topic::Alerts, Isolation::Uncommitted));
        // Each processor says so of itself, and no log does.
        let swaps = alerts.extract_if(.., |alert| of_swap(alert)).count();
        uncommitted.retain(|alert| !of_swap(alert));
        let letters = read(Topic::DeadLetters, Isolation::Committed);
        let late = read(Topic::Late, Isolation::Committed);
        // The oracle does not know what the engine says of itself; the engine that nothing happens to does.
        let mut due_ids = ids(&due.undisturbed);
        due_ids.extend(due.oracle.alerts.iter().map(|alert| alert.alert_id.clone()));
        let outcome = &mut self.outcome;
        outcome.records = log.len();
        outcome.alerts = compare(&due, &alerts);
        if swaps > 0 {
            outcome.notes.push(format!("{swaps} swaps"));
        }
        if self.scenario.repeats {
            outcome.alerts.double = 0;
            // A word said again follows those said after it.
            outcome.alerts.changed = 0;
            let again = alerts.len().saturating_sub(outcome.alerts.expected);
            outcome.notes.push(format!("{again} said again"));
        }
        outcome.aborted = uncommitted.len().saturating_sub(alerts.len());
        outcome.strange = ids(&uncommitted).difference(&due_ids).count();
        outcome.ids = ids(&alerts);
        outcome.unreadable = due.unreadable.len();
        outcome.late = due.oracle.late.len();
        let late_at: BTreeSet<_> = due
            .oracle
            .late
            .iter()
            .map(|late| (late.partition, late.offset))
            .collect();
        for (what, places, there) in [
            ("dead letters", &due.unreadable, &letters),
            ("late rows", &late_at, &late),
        ] {
            let due = contents(&log, |record| {
                places.contains(&(record.partition, record.offset))
            });
            let there_are = contents(there, |_| true);
            let same = if self.scenario.repeats {
                due.keys().eq(there_are.keys())
            } else {
                due == there_are
            };
            if !same {
                outcome.failures.push(format!(
                    "{} {what} where {} are due",
                    there.len(),
                    places.len()
                ));
            }
        }
        if let Some(first) = due.refused.first() {
            let count = due.refused.len();
            outcome
                .failures
                .push(format!("{count} detections refused, the first: {first}"));
        }
        if due.oracle.alerts.is_empty() {
            outcome
                .failures
                .push("the load asks for no alert".to_owned());
        }
        if !outcome.passed() {
            self.keep_log(&log);
        }
    }

    /// The input beside the processors' logs, for whoever looks for the reason.
    fn keep_log(&self, log: &[RawRecord]) {
        let mut lines = String::new();
        for record in log {
            let event = dogwatch_schemas::records::Event::decode_framed(&record.value);
            let event = event.map_or_else(
                |error| error.to_string(),
                |event| serde_json::to_string(&event).unwrap_or_default(),
            );
            let append_ms = record.append_ms.unwrap_or(0);
            lines += &format!(
                "{} {} {append_ms} {event}\n",
                record.partition, record.offset
            );
        }
        fs::write(self.folder.path().join("events.txt"), lines).expect("the log can be kept");
    }
}

/// Whether it says of a processor which detections run.
fn of_swap(alert: &Alert) -> bool {
    let of_sets = [
        "detections_changed",
        "detections_differ",
        "detections_older",
    ];
    of_sets.contains(&&*alert.detection_id)
}

fn alerts_of(records: &[RawRecord]) -> Vec<Alert> {
    let decoded =
        |record: &RawRecord| Alert::decode_framed(&record.value).expect("an alert is an alert");
    records.iter().map(decoded).collect()
}

fn ids(alerts: &[Alert]) -> BTreeSet<String> {
    alerts
        .iter()
        .map(|alert| alert.alert_id.to_string())
        .collect()
}

/// How often each content occurs.
fn contents(
    records: &[RawRecord],
    counts: impl Fn(&RawRecord) -> bool,
) -> BTreeMap<(&[u8], &[u8]), usize> {
    let mut contents = BTreeMap::new();
    for record in records.iter().filter(|record| counts(record)) {
        *contents
            .entry((&record.key[..], &record.value[..]))
            .or_default() += 1;
    }
    contents
}

fn detections() -> PathBuf {
    cache::repository().join("tests/detections")
}
