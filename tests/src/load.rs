//! What a small fleet does, in simulated time: noise, attackers around the thresholds of `tests/detections`, and what
//! happens to hosts and clocks.
//!
//! ```text
//! second of event time ─► each host's rows ─► reordered a little ─► numbered by its sensor ─► records of the partition
//! ```
//! Everything comes from a seed. Event time lies in the past, so that it can run faster than the clock on the wall:
//! window time is `least(ts, ingest_ts)`. Containers have the same ids on all hosts, which windows must keep apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::events::INTRUDER;
use crate::publish::Publisher;

const SECOND_NS: i64 = 1_000_000_000;
const YEAR_NS: i64 = 365 * 24 * 3600 * SECOND_NS;

/// How far event time begins behind the clock: more than any load lasts.
const BEHIND_NS: i64 = 12 * 3600 * SECOND_NS;

/// The last marks are so far behind the last rows, seconds: every window and fold is over by then.
const CLOSING_S: i64 = 900;

/// Containers of a host.
const CONTAINERS: usize = 4;

/// A load: hosts, pace, and what happens to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Partitions of the topic.
    pub partitions: usize,
    /// Hosts in each partition.
    pub hosts: usize,
    /// Rows a host says in a second, beside its mark and its attackers'.
    pub rows: usize,
    /// Seconds of event time at least; it goes on until it is stopped, unless it runs as fast as it can.
    pub seconds: i64,
    /// Seconds of event time in a second on the wall; infinity: as fast as it can.
    pub speed: f64,
    /// Records in a second of event time and partition that nobody can read.
    pub poisoned: usize,
    /// What happens.
    pub incidents: Vec<Incident>,
    /// Whether marks far behind the last rows close all windows at the end.
    pub closes: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            partitions: 3,
            hosts: 3,
            rows: 8,
            seconds: 300,
            speed: 30.0,
            poisoned: 0,
            incidents: Vec::new(),
            closes: true,
        }
    }
}

/// Something that happens to a host, by its number, or to a partition. Times are seconds of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// Nothing arrives from `from` to `to`; then the spool is drained.
    Offline {
        /// The host.
        host: usize,
        /// First second away.
        from: i64,
        /// When it is back.
        to: i64,
    },
    /// The clock is a year ahead from `from` to `to`, and says so.
    Ahead {
        /// The host.
        host: usize,
        /// First second of it.
        from: i64,
        /// When it is set right.
        to: i64,
    },
    /// The clock is set back.
    Back {
        /// The host.
        host: usize,
        /// When.
        at: i64,
        /// By how many seconds.
        by: i64,
    },
    /// The sensor is restarted, while it was away the clock was set back: nothing in the log says so.
    BackUnseen {
        /// The host.
        host: usize,
        /// When.
        at: i64,
        /// By how many seconds.
        by: i64,
    },
    /// The sensor is restarted.
    Restarted {
        /// The host.
        host: usize,
        /// When.
        at: i64,
    },
    /// The host sleeps.
    Suspended {
        /// The host.
        host: usize,
        /// First second of sleep.
        from: i64,
        /// When it wakes up.
        to: i64,
    },
    /// A container does something worth an alert and is never seen again.
    LastWords {
        /// The host.
        host: usize,
        /// When.
        at: i64,
    },
    /// The intruder has a command line of that many bytes.
    Verbose {
        /// The host.
        host: usize,
        /// When.
        at: i64,
        /// How many.
        bytes: usize,
    },
    /// A container's label is no number, though detections take it for one.
    Mislabelled {
        /// The host.
        host: usize,
        /// When.
        at: i64,
    },
    /// Whatever can be said is said at such length that the record nearly fills what brokers take.
    Enormous {
        /// The host.
        host: usize,
        /// When.
        at: i64,
    },
    /// A container removes so many files with long names in each second: as many as aggregates tell apart, and more.
    Removes {
        /// The host.
        host: usize,
        /// First second.
        from: i64,
        /// When it has ended.
        to: i64,
        /// Files in a second.
        files: usize,
    },
    /// Somebody writes rows of hosts that there are not, each of another.
    Invented {
        /// The partition.
        partition: usize,
        /// First second.
        from: i64,
        /// When it has ended.
        to: i64,
        /// Hosts in a second.
        hosts: usize,
    },
    /// A whole partition says nothing more.
    Silent {
        /// The partition.
        partition: usize,
        /// First second of silence.
        from: i64,
    },
}

/// A record for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The partition.
    pub partition: i32,
    /// The host.
    pub key: String,
    /// The bytes.
    pub value: Vec<u8>,
}

/// Makes a load's records, second by second; the same seed and beginning make the same bytes.
pub struct Generator {
    load: Load,
    base_ns: i64,
    random: StdRng,
    hosts: Vec<Host>,
    second: i64,
    /// Hosts that were invented so far.
    invented: usize,
}

impl Generator {
    /// Starts at second 0, which is `base_ns` of event time.
    pub fn new(load: &Load, base_ns: i64, seed: u64) -> Generator {
        let hosts = (0..load.partitions * load.hosts).map(|number| Host::new(number, load));
        Generator {
            hosts: hosts.collect(),
            load: load.clone(),
            base_ns,
            random: StdRng::seed_from_u64(seed),
            second: 0,
            invented: 0,
        }
    }

    /// The records of the next second.
    pub fn next_second(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        for partition in 0..self.load.partitions {
            if !self.load.silent(partition, self.second) {
                self.partition_second(partition, &mut rows);
            }
        }
        self.second += 1;
        rows
    }

    /// The last second, and marks far behind it of every host that can still say something.
    pub fn closing(&mut self) -> Vec<Row> {
        let mut rows = self.next_second();
        let closing_ns = self.base_ns + (self.second + CLOSING_S) * SECOND_NS;
        for host in &mut self.hosts {
            if !self.load.silent(host.partition, self.second) {
                let mark = host.mark(closing_ns);
                rows.push(host.number(mark));
            }
        }
        rows
    }

    fn partition_second(&mut self, partition: usize, rows: &mut Vec<Row>) {
        let first = rows.len();
        let start_ns = self.base_ns + self.second * SECOND_NS;
        let members = partition * self.load.hosts..(partition + 1) * self.load.hosts;
        let mut due = Vec::new();
        for number in members.clone() {
            let host = &mut self.hosts[number];
            if !self.load.offline(number, self.second) {
                rows.append(&mut host.spool);
            }
            host.happen(&self.load.incidents, self.second, start_ns);
            if !self.load.asleep(number, self.second) {
                host.second(self.load.rows, start_ns, &mut self.random);
            }
            due.extend(
                host.due(start_ns + SECOND_NS)
                    .map(|(at, event)| (at, number, event)),
            );
        }
        // As they come in: the hosts' rows between each other.
        due.sort_by_key(|(emitted_ns, number, _)| (*emitted_ns, *number));
        for (_, number, event) in due {
            let offline = self.load.offline(number, self.second);
            let host = &mut self.hosts[number];
            let row = host.number(event);
            let out = if offline { &mut host.spool } else { &mut *rows };
            // A sensor sends again what it has no answer to.
            if self.random.random_ratio(1, 200) {
                out.push(row.clone());
            }
            out.push(row);
        }
        for _ in 0..self.load.invented(partition, self.second) {
            self.invented += 1;
            rows.push(invented(self.invented, partition, start_ns));
        }
        for _ in 0..self.load.poisoned {
            let at = self.random.random_range(first..=rows.len());
            let host = &self.hosts[self.random.random_range(members.clone())];
            let row = host.poisoned(&mut self.random);
            rows.insert(at, row);
        }
    }
}

impl Load {
    fn silent(&self, partition: usize, second: i64) -> bool {
        self.incidents.iter().any(|incident| {
            matches!(incident, Incident::Silent { partition: of, from } if *of == partition && second >= *from)
        })
    }

    /// How many hosts are invented in a partition's second.
    fn invented(&self, partition: usize, second: i64) -> usize {
        let own = self.incidents.iter().map(|incident| match incident {
            Incident::Invented {
                partition: of,
                from,
                to,
                hosts,
            } if *of == partition && (*from..*to).contains(&second) => *hosts,
            _ => 0,
        });
        own.sum()
    }

    fn offline(&self, number: usize, second: i64) -> bool {
        self.incidents.iter().any(|incident| {
            matches!(incident, Incident::Offline { host, from, to } if *host == number && (*from..*to).contains(&second))
        })
    }

    fn asleep(&self, number: usize, second: i64) -> bool {
        self.incidents.iter().any(|incident| {
            matches!(incident, Incident::Suspended { host, from, to } if *host == number && (*from..*to).contains(&second))
        })
    }
}

/// A host and its sensor.
struct Host {
    number: usize,
    partition: usize,
    id: String,
    run: usize,
    seq: i64,
    /// By how much its clock is wrong.
    clock_ns: i64,
    attack: Option<Attack>,
    losses: i64,
    /// What happened and is not said yet, by when it will be.
    pending: Vec<(i64, Event)>,
    /// What was said and has not arrived.
    spool: Vec<Row>,
}

/// A container that does more than it should, for some seconds.
struct Attack {
    kind: Kind,
    container: usize,
    left: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execs,
    Ports,
    Opens,
}

impl Host {
    fn new(number: usize, load: &Load) -> Host {
        let partition = number / load.hosts;
        Host {
            number,
            partition,
            id: format!("host-{partition}-{}", number % load.hosts),
            run: 1,
            seq: 0,
            clock_ns: 0,
            attack: None,
            losses: 0,
            pending: Vec::new(),
            spool: Vec::new(),
        }
    }

    /// What of `incidents` happens to it at the beginning of this second.
    fn happen(&mut self, incidents: &[Incident], second: i64, start_ns: i64) {
        for incident in incidents {
            match *incident {
                Incident::Ahead { host, from, to: _ } if host == self.number && from == second => {
                    self.step_clock(YEAR_NS, start_ns);
                }
                Incident::Ahead { host, from: _, to } if host == self.number && to == second => {
                    self.step_clock(-YEAR_NS, start_ns);
                }
                Incident::Back { host, at, by } if host == self.number && at == second => {
                    self.step_clock(-by * SECOND_NS, start_ns);
                }
                Incident::BackUnseen { host, at, by } if host == self.number && at == second => {
                    self.clock_ns -= by * SECOND_NS;
                    self.restart();
                }
                Incident::Restarted { host, at } if host == self.number && at == second => {
                    self.restart()
                }
                Incident::LastWords { host, at } if host == self.number && at == second => {
                    self.last_words(start_ns);
                }
                Incident::Verbose { host, at, bytes } if host == self.number && at == second => {
                    let mut event = self.exec(0, INTRUDER, start_ns);
                    event.proc_cmdline = Some("x".repeat(bytes).into());
                    self.pending.push((start_ns, event));
                }
                Incident::Mislabelled { host, at } if host == self.number && at == second => {
                    self.mislabelled(start_ns);
                }
                Incident::Enormous { host, at } if host == self.number && at == second => {
                    let event = enormous(self.exec(0, INTRUDER, start_ns));
                    self.pending.push((start_ns, event));
                }
                Incident::Removes {
                    host,
                    from,
                    to,
                    files,
                } if host == self.number && (from..to).contains(&second) => {
                    self.removes(files, start_ns);
                }
                _ => {}
            }
        }
    }

    /// Ports of a container's label, some of which are none.
    fn mislabelled(&mut self, start_ns: i64) {
        for (place, port) in ["8080", "x", "", "9090", "99999999999999999999"]
            .iter()
            .enumerate()
        {
            let at_ns = start_ns + place as i64;
            let mut event = self.exec(1, "nginx", at_ns);
            event.container_labels = Some([("port".into(), (*port).into())].into());
            self.pending.push((at_ns, event));
        }
    }

    fn removes(&mut self, files: usize, start_ns: i64) {
        for file in 0..files as i64 {
            let at_ns = start_ns + file * (SECOND_NS / files as i64);
            let mut event = self.event("unlinkat", "file", at_ns);
            event.container_id = container(2).into();
            event.fd_num = Some(file);
            event.fd_name = Some(format!("/{at_ns:020}/{}", "long".repeat(270)).into());
            self.pending.push((at_ns, event));
        }
    }

    fn step_clock(&mut self, by_ns: i64, at_ns: i64) {
        self.clock_ns += by_ns;
        let event = self.event("clock_step", "system", at_ns);
        self.pending.push((at_ns, event));
    }

    /// What was pending in the sensor that ended was said by it.
    fn restart(&mut self) {
        self.run += 1;
        self.seq = 0;
        self.pending.clear();
    }

    fn last_words(&mut self, start_ns: i64) {
        for step in 0..40 {
            let at_ns = start_ns + step * SECOND_NS / 100;
            let mut event = if step < 39 {
                self.exec(CONTAINERS, "sh", at_ns)
            } else {
                self.event("procexit", "process", at_ns)
            };
            event.container_id = container(CONTAINERS).into();
            self.pending.push((at_ns, event));
        }
    }

    /// What goes on in this second, and its mark.
    fn second(&mut self, rows: usize, start_ns: i64, random: &mut StdRng) {
        for _ in 0..rows {
            let at_ns = start_ns + random.random_range(0..SECOND_NS);
            let event = self.noise(at_ns, random);
            self.say(event, at_ns, random);
        }
        if self.attack.is_none() && random.random_ratio(1, 20) {
            self.attack = Some(Attack::random(random));
        }
        if let Some(attack) = self.attack.take() {
            self.attack = self.go_on(attack, start_ns, random);
        }
        if random.random_ratio(1, 300) {
            self.losses += random.random_range(1..50);
        }
        let end_ns = start_ns + SECOND_NS - 1;
        let mark = self.mark(end_ns);
        self.pending.push((end_ns, mark));
    }

    /// Most rows are said at once, some after a later one, a few seconds later.
    fn say(&mut self, event: Event, at_ns: i64, random: &mut StdRng) {
        let delay_ns = match random.random_range(0..1000) {
            0..30 => random.random_range(0..SECOND_NS),
            30..35 => random.random_range(2 * SECOND_NS..12 * SECOND_NS),
            _ => 0,
        };
        self.pending.push((at_ns + delay_ns, event));
    }

    fn go_on(&mut self, attack: Attack, start_ns: i64, random: &mut StdRng) -> Option<Attack> {
        let now = attack.left.min(8);
        for step in 0..now {
            let at_ns = start_ns + random.random_range(0..SECOND_NS);
            let event = match attack.kind {
                Kind::Execs => self.exec(attack.container, "sh", at_ns),
                Kind::Ports => {
                    let port = 1000 + i64::from(attack.left - step);
                    self.connect(attack.container, port, at_ns)
                }
                Kind::Opens => self.open(attack.container, true, random.random_bool(0.9), at_ns),
            };
            self.say(event, at_ns, random);
        }
        let left = attack.left - now;
        (left > 0).then_some(Attack { left, ..attack })
    }

    fn noise(&self, at_ns: i64, random: &mut StdRng) -> Event {
        let container = random.random_range(0..CONTAINERS);
        match random.random_range(0..100) {
            0..50 => self.open(
                container,
                random.random_bool(0.6),
                random.random_bool(0.08),
                at_ns,
            ),
            50..70 => {
                let port = [53, 443, 5432][random.random_range(0..3)];
                self.connect(container, port, at_ns)
            }
            70..90 => {
                let intruder = random.random_ratio(1, 40);
                self.exec(container, if intruder { INTRUDER } else { "nginx" }, at_ns)
            }
            _ => {
                let mut event = self.event("procexit", "process", at_ns);
                event.container_id = self::container(container).into();
                event
            }
        }
    }

    fn exec(&self, container: usize, name: &str, at_ns: i64) -> Event {
        let mut event = self.event("execve", "process", at_ns);
        event.container_id = self::container(container).into();
        event.proc_name = Some(name.into());
        event.proc_cmdline = Some(format!("{name} --at {at_ns}").into());
        event
    }

    fn connect(&self, container: usize, port: i64, at_ns: i64) -> Event {
        let mut event = self.event("connect", "net", at_ns);
        event.container_id = self::container(container).into();
        event.fd_l4proto = Some("tcp".into());
        event.fd_sip = Some("10.0.0.7".into());
        event.fd_sport = Some(port);
        event
    }

    fn open(&self, container: usize, writes: bool, fails: bool, at_ns: i64) -> Event {
        let mut event = self.event("openat", "file", at_ns);
        event.container_id = self::container(container).into();
        event.evt_is_open_write = writes;
        event.evt_is_open_read = !writes;
        event.evt_failed = fails;
        event.fd_num = Some(3 + at_ns % 97);
        event.fd_name = Some("/srv/app/data".into());
        if fails {
            event.evt_outcome = "failed".into();
            event.fd_num = None;
        }
        event
    }

    fn mark(&self, at_ns: i64) -> Event {
        let mut event = self.event("mark", "internal", at_ns);
        event.evt_losses = Some(BTreeMap::from([(Text::from("ring_full"), self.losses)]));
        event
    }

    fn event(&self, kind: &str, category: &str, at_ns: i64) -> Event {
        let pid = 100 + at_ns % 3;
        Event {
            host_id: self.id.as_str().into(),
            host_name: self.id.as_str().into(),
            boot_id: "boot".into(),
            ts: at_ns + self.clock_ns,
            boot_ts: at_ns.rem_euclid(YEAR_NS),
            evt_type: kind.into(),
            evt_category: category.into(),
            evt_outcome: "success".into(),
            evt_backend: "tracepoint".into(),
            evt_abi: "native".into(),
            proc_key: format!("{pid:016x}").into(),
            proc_pid: pid,
            thread_tid: pid,
            container_id: "host".into(),
            ..Event::default()
        }
    }

    /// What is said before `until_ns`, in the order in which it is.
    fn due(&mut self, until_ns: i64) -> impl Iterator<Item = (i64, Event)> {
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(emitted_ns, _)| *emitted_ns < until_ns);
        self.pending = later;
        due.sort_by_key(|(emitted_ns, _)| *emitted_ns);
        due.into_iter()
    }

    /// Gives a row its number and its bytes.
    fn number(&mut self, mut event: Event) -> Row {
        event.sensor_run = format!("{}-run-{}", self.id, self.run).into();
        event.seq = self.seq;
        self.seq += 1;
        let mut value = Vec::new();
        event.encode_framed(&mut value);
        self.row(value)
    }

    fn row(&self, value: Vec<u8>) -> Row {
        Row {
            partition: self.partition as i32,
            key: self.id.clone(),
            value,
        }
    }

    /// What a stranger, a broken disk or a liar leaves in the topic.
    fn poisoned(&self, random: &mut StdRng) -> Row {
        let mut good = Vec::new();
        self.exec(0, INTRUDER, 0).encode_framed(&mut good);
        let cut = random.random_range(0..good.len());
        match random.random_range(0..5) {
            0 => good.truncate(cut),
            1 => good.push(0),
            2 => random.fill_bytes(&mut good),
            3 => good[2] ^= 0xff,
            _ => {
                let mut liar = self.row(good);
                liar.key = "somebody-else".to_owned();
                return liar;
            }
        }
        self.row(good)
    }
}

impl Attack {
    fn random(random: &mut StdRng) -> Attack {
        let kind = [Kind::Execs, Kind::Ports, Kind::Opens][random.random_range(0..3)];
        Attack {
            kind,
            container: random.random_range(0..CONTAINERS),
            left: random.random_range(8..34),
        }
    }
}

/// The event with texts, lists and maps of some hundred kilobytes; together they are less than a record may have.
fn enormous(event: Event) -> Event {
    let text = |letter: &str, bytes: usize| Text::from(letter.repeat(bytes));
    Event {
        host_name: text("h", 100_000),
        proc_cmdline: Some(text("c", 200_000)),
        proc_args: Some((0..2_000).map(|_| text("a", 100)).collect()),
        proc_aname: Some((0..1_000).map(|_| text("n", 100)).collect()),
        container_image: Some(text("i", 100_000)),
        container_labels: Some(
            [
                ("port".into(), "1".into()),
                ("note".into(), text("l", 200_000)),
            ]
            .into(),
        ),
        ..event
    }
}

/// A row of a host that is heard of once: a mark, and now and then an intruder.
fn invented(number: usize, partition: usize, at_ns: i64) -> Row {
    let mut host = Host::new(0, &Load::default());
    host.partition = partition;
    host.id = format!("invented-{number}");
    let event = match number.is_multiple_of(1_000) {
        true => host.exec(0, INTRUDER, at_ns),
        false => host.mark(at_ns),
    };
    host.number(event)
}

fn container(number: usize) -> String {
    format!("{number:012x}")
}

/// Event time's beginning for loads that start now.
pub fn base_now_ns() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    since_epoch.as_nanos() as i64 - BEHIND_NS
}

/// A thread that publishes a load.
pub struct Writer {
    thread: JoinHandle<usize>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    second: AtomicI64,
    enough: AtomicBool,
}

impl Writer {
    /// Starts to publish to a topic.
    pub fn start(address: &str, topic: &str, load: &Load, base_ns: i64, seed: u64) -> Writer {
        let progress = Arc::new(Progress::default());
        let (address, topic, load) = (address.to_owned(), topic.to_owned(), load.clone());
        let shared = progress.clone();
        let write = move || write(&address, &topic, &load, &shared, base_ns, seed);
        Writer {
            thread: std::thread::spawn(write),
            progress,
        }
    }

    /// The second of event time that it is in.
    pub fn second(&self) -> i64 {
        self.progress.second.load(Ordering::Relaxed)
    }

    /// Waits until the load's seconds are over, and everything is in the log; returns how many records it wrote.
    ///
    /// # Panics
    /// When the brokers refuse a record.
    pub fn finish(self) -> usize {
        self.progress.enough.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load is published")
    }
}

/// How long a record may wait for brokers that a test took away.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(120);

fn write(
    address: &str,
    topic: &str,
    load: &Load,
    progress: &Progress,
    base_ns: i64,
    seed: u64,
) -> usize {
    let publisher = Publisher::new(address);
    let mut generator = Generator::new(load, base_ns, seed);
    let start = Instant::now();
    let mut written = 0;
    let mut publish = |rows: Vec<Row>| {
        for row in &rows {
            publisher.send_to(topic, row.partition, &row.key, &row.value);
        }
        written += rows.len();
    };
    for second in 0.. {
        // As fast as it can, it would go on for ever.
        let enough = load.speed.is_infinite() || progress.enough.load(Ordering::Relaxed);
        if second >= load.seconds && enough {
            break;
        }
        progress.second.store(second, Ordering::Relaxed);
        publish(generator.next_second());
        let due = Duration::from_secs_f64((second + 1) as f64 / load.speed);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    if load.closes {
        publish(generator.closing());
    }
    publisher.flush_within(OUTAGE_PATIENCE);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(load: &Load, seed: u64) -> Vec<Row> {
        let mut generator = Generator::new(load, 1_790_000_000 * SECOND_NS, seed);
        let mut rows: Vec<Row> = (0..load.seconds)
            .flat_map(|_| generator.next_second())
            .collect();
        rows.extend(generator.closing());
        rows
    }

    #[test]
    fn a_seed_makes_the_same_bytes() {
        let load = Load {
            seconds: 20,
            poisoned: 3,
            ..Load::default()
        };
        assert_eq!(made(&load, 7), made(&load, 7));
        assert_ne!(made(&load, 7), made(&load, 8));
    }

    #[test]
    fn a_host_that_was_offline_loses_nothing() {
        let calm = Load {
            seconds: 60,
            ..Load::default()
        };
        let offline = Load {
            incidents: vec![Incident::Offline {
                host: 1,
                from: 10,
                to: 50,
            }],
            ..calm.clone()
        };
        let of_host = |rows: Vec<Row>| -> Vec<Row> {
            rows.into_iter()
                .filter(|row| row.key == "host-0-1")
                .collect()
        };
        let (there, away) = (made(&calm, 7), made(&offline, 7));
        assert_ne!(there, away);
        assert_eq!(of_host(there), of_host(away));
    }

    #[test]
    fn numbers_have_no_gaps_and_repeats_follow_their_first() {
        let rows = made(
            &Load {
                seconds: 100,
                ..Load::default()
            },
            7,
        );
        let mut next: BTreeMap<String, i64> = BTreeMap::new();
        let mut repeated = 0;
        for row in rows {
            let event = Event::decode_framed(&row.value).expect("it is an event");
            let next = next.entry(row.key).or_default();
            if event.seq < *next {
                repeated += 1;
            } else {
                assert_eq!(event.seq, *next);
                *next += 1;
            }
        }
        assert_eq!(next.len(), 9);
        assert!(repeated > 10, "{repeated}");
    }
}
