//! The last stage: numbers, encodes and hands over records, and says which were lost.
//!
//! ```text
//! Event ── seq ── encode_framed ──► Kafka's queue | the local log | lines of JSON | nowhere
//! ```
//! Nothing here waits for a broker: a full queue is a loss, which is counted. The local log and lines hold the sensor back
//! instead.

mod kafka;
mod lines;

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::mpsc::SyncSender;

use dogwatch_ebpf::calls::CALLS;
use dogwatch_schemas::Text;
use dogwatch_schemas::local::LogRecord;
use dogwatch_schemas::records::{
    Container, ContainerSample, Event, IoSample, ProcessSample, SensorStatus, SyscallSample,
};
use dogwatch_schemas::topics::Topic;

use self::kafka::KafkaSink;
use self::kafka::{Claim, Part};
pub(crate) use self::kafka::{Connection, Undelivered};
pub use self::kafka::{KafkaError, try_kafka};
use self::lines::Lines;
use crate::clock::Reading;
use crate::config::KafkaConfig;
use crate::stop::Shutdown;
use crate::track::EventRow;

/// Where records go.
#[derive(Debug)]
pub enum Output {
    /// The configured Kafka.
    Kafka,
    /// The log inside this process.
    Local(SyncSender<LogRecord>),
    /// Standard output, events as lines of JSON.
    Lines,
    /// Nowhere: for recording a capture.
    Discard,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It is on its way.
    Over,
    /// The queue is full: it is lost.
    QueueFull,
    /// The broker's client refused it (too large, or ended): it is lost.
    Refused,
    /// Nobody takes records any more.
    Closed,
}

/// Hands records over; see the module's description.
pub(crate) struct Publisher {
    sink: Sink,
    host_id: Text,
    next_seq: [i64; 7],
    framed: Vec<u8>,
    /// Events handed over, and their framed bytes.
    pub events: u64,
    pub bytes: u64,
    /// Samples handed over, marks included.
    pub samples: u64,
}

enum Sink {
    Kafka(Box<KafkaSink>),
    Local(SyncSender<LogRecord>),
    Lines(Lines),
    Discard,
}

impl Publisher {
    /// Opens the output. A `live` sensor does not wait for Kafka: brokers are sought while it watches. A replay does,
    /// because a capture is read faster than any queue has room.
    ///
    /// # Errors
    /// Fails for options that do not do; a replay also when the brokers cannot be reached, do not let us in, or their
    /// topics do not fit. A live sensor learns of that from [`Publisher::fatal`].
    pub fn open(
        output: Output,
        kafka: &KafkaConfig,
        host_id: Text,
        live: bool,
        shutdown: &Shutdown,
    ) -> Result<Self, KafkaError> {
        let sink = match output {
            Output::Kafka if live => Sink::Kafka(Box::new(KafkaSink::open(kafka)?)),
            Output::Kafka => Sink::Kafka(Box::new(KafkaSink::open_and_wait(kafka)?)),
            Output::Local(sender) => Sink::Local(sender),
            Output::Lines => {
                Sink::Lines(Lines::on_stdout(shutdown.clone()).map_err(KafkaError::Stdout)?)
            }
            Output::Discard => Sink::Discard,
        };
        Ok(Self {
            sink,
            host_id,
            next_seq: [0; 7],
            framed: Vec::with_capacity(4096),
            events: 0,
            bytes: 0,
            samples: 0,
        })
    }

    /// Sends an event.
    pub fn event(&mut self, row: &mut EventRow) -> Handed {
        row.event.seq = self.seq(0);
        self.framed.clear();
        row.encode_framed(&mut self.framed);
        let kind = kind(&row.event.evt_type);
        let handed = match &mut self.sink {
            Sink::Lines(lines) => lines.event(&self.framed),
            _ => {
                let claim = Claim {
                    kind,
                    part: part(kind, &row.event),
                    container: row.container_id().clone(),
                };
                self.send(Topic::Events, self.host_id.clone(), &claim)
            }
        };
        if handed == Handed::Over {
            self.events += 1;
            self.bytes += self.framed.len() as u64;
        }
        handed
    }

    /// Sends what a container is.
    pub fn container(&mut self, container: &mut Container) -> Handed {
        container.seq = self.seq(1);
        self.framed.clear();
        container.encode_framed(&mut self.framed);
        let key = format!("{}/{}", container.host_id, container.container_full_id).into();
        let claim = Claim {
            kind: Kind::CONTAINER,
            part: Part::Lifecycle,
            container: container.container_id.clone(),
        };
        self.send(Topic::Containers, key, &claim)
    }

    /// Sends what the sensor says of itself.
    pub fn status(&mut self, status: &mut SensorStatus) -> Handed {
        status.seq = self.seq(2);
        self.framed.clear();
        status.encode_framed(&mut self.framed);
        let claim = Claim {
            kind: Kind::STATUS,
            part: Part::Sensor,
            container: Text::default(),
        };
        self.send(Topic::Sensors, self.host_id.clone(), &claim)
    }

    /// Sends what a container or the host used, or a mark of that table.
    pub fn container_sample(&mut self, sample: &mut ContainerSample) -> Handed {
        sample.seq = self.seq(3);
        self.framed.clear();
        sample.encode_framed(&mut self.framed);
        let claim = sample_claim(
            Kind::CONTAINER_SAMPLE,
            &sample.evt_type,
            &sample.container_id,
        );
        self.sample(Topic::ContainerSamples, &claim)
    }

    /// Sends what a process used, or a mark of that table.
    pub fn process_sample(&mut self, sample: &mut ProcessSample) -> Handed {
        sample.seq = self.seq(4);
        self.framed.clear();
        sample.encode_framed(&mut self.framed);
        let claim = sample_claim(Kind::PROCESS_SAMPLE, &sample.evt_type, &sample.container_id);
        self.sample(Topic::ProcessSamples, &claim)
    }

    /// Sends which calls of a process failed, or a mark of that table.
    pub fn syscall_sample(&mut self, sample: &mut SyscallSample) -> Handed {
        sample.seq = self.seq(5);
        self.framed.clear();
        sample.encode_framed(&mut self.framed);
        let claim = sample_claim(Kind::SYSCALL_SAMPLE, &sample.evt_type, &sample.container_id);
        self.sample(Topic::SyscallSamples, &claim)
    }

    /// Sends what a process has open, or a mark of that table.
    pub fn io_sample(&mut self, sample: &mut IoSample) -> Handed {
        sample.seq = self.seq(6);
        self.framed.clear();
        sample.encode_framed(&mut self.framed);
        let claim = sample_claim(Kind::IO_SAMPLE, &sample.evt_type, &sample.container_id);
        self.sample(Topic::IoSamples, &claim)
    }

    fn sample(&mut self, topic: Topic, claim: &Claim) -> Handed {
        let handed = self.send(topic, self.host_id.clone(), claim);
        self.samples += u64::from(handed == Handed::Over);
        handed
    }

    /// Records that the broker refused or that were given up, since the last call.
    pub fn undelivered(&mut self) -> Undelivered {
        match &self.sink {
            Sink::Kafka(kafka) => kafka.undelivered(),
            _ => Undelivered::default(),
        }
    }

    /// How it stands with Kafka, where records go there; to be asked once a second.
    pub fn connection(&mut self) -> Option<Connection> {
        match &mut self.sink {
            Sink::Kafka(kafka) => Some(kafka.connection()),
            _ => None,
        }
    }

    /// A failure after which nothing can be sent any more.
    pub fn fatal(&mut self) -> Option<KafkaError> {
        match &mut self.sink {
            Sink::Kafka(kafka) => kafka.fatal(),
            Sink::Lines(lines) => lines.failed().map(KafkaError::Stdout),
            _ => None,
        }
    }

    /// Makes what was sent so far visible where that is cheap.
    pub fn flush(&mut self) {
        if let Sink::Lines(lines) = &mut self.sink {
            lines.flush();
        }
    }

    /// Waits until what is queued is delivered, as long as the configuration allows; returns how many records are not.
    pub fn drain(&mut self) -> usize {
        self.flush();
        match &mut self.sink {
            Sink::Kafka(kafka) => kafka.drain(),
            Sink::Lines(lines) => lines.left(),
            _ => 0,
        }
    }

    /// Every number is used once, for records that are lost, too: a gap is a measured loss.
    fn seq(&mut self, topic: usize) -> i64 {
        let seq = self.next_seq[topic];
        self.next_seq[topic] += 1;
        seq
    }

    fn send(&mut self, topic: Topic, key: Text, claim: &Claim) -> Handed {
        match &mut self.sink {
            Sink::Kafka(kafka) => kafka.send(topic, &key, &self.framed, claim),
            Sink::Local(sender) => {
                let record = LogRecord {
                    topic,
                    key,
                    value: self.framed.clone(),
                    ingest_ts_ns: Reading::now().wall_ns,
                };
                if sender.send(record).is_ok() {
                    Handed::Over
                } else {
                    Handed::Closed
                }
            }
            Sink::Lines(_) | Sink::Discard => Handed::Over,
        }
    }
}

/// Kinds of records, as losses are told by: a kind of the sensor's own, or a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(usize);

/// The kinds that are no system calls.
const OWN_KINDS: [&str; 11] = [
    "any",
    "exec",
    "fork",
    "exit",
    "cgroup",
    "container",
    "status",
    "container_sample",
    "process_sample",
    "syscall_sample",
    "io_sample",
];

impl Kind {
    pub const ANY: Self = Self(0);
    pub const EXEC: Self = Self(1);
    pub const FORK: Self = Self(2);
    pub const EXIT: Self = Self(3);
    pub const CGROUP: Self = Self(4);
    pub const CONTAINER: Self = Self(5);
    pub const STATUS: Self = Self(6);
    pub const CONTAINER_SAMPLE: Self = Self(7);
    pub const PROCESS_SAMPLE: Self = Self(8);
    pub const SYSCALL_SAMPLE: Self = Self(9);
    pub const IO_SAMPLE: Self = Self(10);

    /// The name in losses.
    pub fn name(self) -> &'static str {
        match self.0.checked_sub(OWN_KINDS.len()) {
            Some(call) => CALLS[call].name,
            None => OWN_KINDS[self.0],
        }
    }
}

/// The kind of an event.
pub(crate) fn kind(evt_type: &str) -> Kind {
    static BY_TYPE: LazyLock<HashMap<&str, Kind>> = LazyLock::new(|| {
        let calls = CALLS.iter().enumerate();
        let calls = calls.map(|(index, call)| (call.name, Kind(OWN_KINDS.len() + index)));
        let own = [
            ("execve", Kind::EXEC),
            ("execveat", Kind::EXEC),
            ("running", Kind::EXEC),
            ("clone", Kind::FORK),
            ("threads", Kind::FORK),
            ("procexit", Kind::EXIT),
            ("cgroup_mkdir", Kind::CGROUP),
            ("cgroup_rmdir", Kind::CGROUP),
            ("container_move", Kind::CGROUP),
            ("container", Kind::CONTAINER),
        ];
        calls.chain(own).collect()
    });
    BY_TYPE.get(evt_type).copied().unwrap_or(Kind::ANY)
}

/// What a sample asks of the queue; its marks promise something, and find room as those of events do.
fn sample_claim(kind: Kind, evt_type: &str, container: &Text) -> Claim {
    let part = if evt_type == "mark" {
        Part::Sensor
    } else {
        Part::Samples
    };
    Claim {
        kind,
        part,
        container: container.clone(),
    }
}

/// The part of the queue before Kafka that an event may use.
fn part(kind: Kind, event: &Event) -> Part {
    match kind {
        Kind::EXEC if event.evt_failed => Part::Calls,
        Kind::EXEC | Kind::FORK | Kind::EXIT | Kind::CGROUP | Kind::CONTAINER => Part::Lifecycle,
        _ => match &*event.evt_type {
            "mark" | "clock_step" => Part::Sensor,
            // It stands for many, and is one.
            "rate_limited" => Part::Lifecycle,
            _ => Part::Calls,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_a_kind_of_its_own_or_one_of_ours() {
        for call in CALLS {
            let kind = kind(call.name);
            assert!(kind.name() == call.name || kind.0 < OWN_KINDS.len());
        }
        assert_eq!(kind("mark"), Kind::ANY);
        assert_eq!(kind("clone").name(), "fork");
    }
}
