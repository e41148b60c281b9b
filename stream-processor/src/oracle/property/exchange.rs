//! Windows over all hosts whose two stages are apart: each partition is read by a processor of its own, and those that finish the
//! windows read what these send, in any mixture, with checkpoints, crashes and repeats. What is said is what one process says
//! that has all of it.

use super::fleet::{FleetTurn, Whole, fleet_engine_of, fleet_folder, settled, settled_of};
use super::*;
use crate::decode::DeadLetter;
use crate::window::Exchange;

/// Partitions of the exchange.
const TARGETS: [i32; 2] = [0, 1];

/// What happens; numbers choose among processors.
#[derive(Debug, Clone)]
enum Turn {
    Step(u8, usize),
    Checkpoint(u8),
    Crash(u8),
    /// What a partition sent last comes again, as where delivery is at least once.
    Repeat(u8, usize),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        12 => (any::<u8>(), 1_usize..25).prop_map(|(who, records)| Turn::Step(who, records)),
        3 => any::<u8>().prop_map(Turn::Checkpoint),
        2 => any::<u8>().prop_map(Turn::Crash),
        1 => (any::<u8>(), 1_usize..4).prop_map(|(who, records)| Turn::Repeat(who, records)),
    ];
    prop::collection::vec(turn, 1..60)
}

/// A processor of one partition, of events or of the exchange.
struct Processor {
    task: i32,
    topic: Topic,
    engine: Engine,
    log: Vec<InputRecord>,
    next: usize,
    stored: BTreeMap<String, Vec<u8>>,
    stored_at: usize,
}

impl Processor {
    /// Takes so many records; returns what came of them.
    fn step(&mut self, records: usize) -> StepOutput {
        let end = self.next.saturating_add(records).min(self.log.len());
        let records = self.log[self.next..end].to_vec();
        self.next = end;
        self.engine.step(records).expect("a step")
    }

    fn checkpoint(&mut self) {
        let records = self.engine.checkpoint(self.task, &Renewal::default());
        for record in records.expect("a checkpoint") {
            match record.value {
                Some(value) => drop(self.stored.insert(record.key, value)),
                None => drop(self.stored.remove(&record.key)),
            }
        }
        self.stored_at = self.next;
    }

    /// Another takes it over; what was said since the checkpoint is replayed, muted.
    fn crash(&mut self, engine: Engine) {
        self.engine = engine;
        let live_from = Inputs::from([(self.topic, self.next as i64)]);
        let restored = self
            .engine
            .restore(self.task, self.stored.clone(), &live_from);
        restored.expect("restored");
        let records = self.log[self.stored_at..self.next].to_vec();
        let output = self.engine.step(records).expect("a step");
        assert_eq!(output.exchange, Vec::new(), "sent again");
        assert_eq!(
            (output.alerts, output.late),
            (Vec::new(), Vec::new()),
            "said again"
        );
    }
}

/// Processors of all partitions, and what they send.
struct Apart<'a> {
    folder: &'a Path,
    all: Vec<Processor>,
    alerts: Vec<records::Alert>,
}

impl<'a> Apart<'a> {
    fn new(folder: &'a Path, log: &[InputRecord]) -> Self {
        let mut all = Vec::new();
        for partition in PARTITIONS {
            let own = log.iter().filter(|record| record.partition == partition);
            let own = own.zip(0..).map(|(record, offset)| InputRecord {
                offset,
                ..record.clone()
            });
            all.push((partition, Topic::Events, own.collect()));
        }
        all.extend(TARGETS.map(|target| (-1 - target, Topic::Exchange, Vec::new())));
        let processor = |(task, topic, log)| Processor {
            task,
            topic,
            engine: engine(folder, topic),
            log,
            next: 0,
            stored: BTreeMap::new(),
            stored_at: 0,
        };
        Self {
            folder,
            all: all.into_iter().map(processor).collect(),
            alerts: Vec::new(),
        }
    }

    fn run(&mut self, turns: &[Turn]) {
        let count = self.all.len();
        for turn in turns {
            match turn {
                Turn::Step(who, records) => self.step(usize::from(*who) % count, *records),
                Turn::Checkpoint(who) => self.all[usize::from(*who) % count].checkpoint(),
                Turn::Crash(who) => {
                    let own = &mut self.all[usize::from(*who) % count];
                    own.crash(engine(self.folder, own.topic));
                }
                Turn::Repeat(who, records) => {
                    let target = usize::from(*who) % TARGETS.len();
                    let own = &self.all[PARTITIONS.len() + target].log;
                    let again = own[own.len().saturating_sub(*records)..].to_vec();
                    again
                        .into_iter()
                        .for_each(|record| self.send(target, record.value));
                }
            }
        }
        (0..count).for_each(|who| self.step(who, usize::MAX));
    }

    fn step(&mut self, who: usize, records: usize) {
        let output = self.all[who].step(records);
        let of_exchange = |letter: &DeadLetter| letter.record.topic == Topic::Exchange;
        assert!(!output.dead_letters.iter().any(of_exchange), "{output:?}");
        let own = |alert: &records::Alert| !alert.detection_hash.is_empty();
        self.alerts.extend(output.alerts.into_iter().filter(own));
        for flushed in output.exchange {
            self.send(flushed.partition as usize, flushed.value.into());
        }
    }

    fn send(&mut self, target: usize, value: bytes::Bytes) {
        let log = &mut self.all[PARTITIONS.len() + target].log;
        log.push(InputRecord {
            topic: Topic::Exchange,
            partition: TARGETS[target],
            offset: log.len() as i64,
            ingest_ts_ns: None,
            key: bytes::Bytes::new(),
            value,
        });
    }
}

fn engine(folder: &Path, topic: Topic) -> Engine {
    let partitions = TARGETS.len() as i32;
    fleet_engine_of(
        folder,
        false,
        match topic {
            Topic::Exchange => Exchange::Received(partitions),
            _ => Exchange::Sent(partitions),
        },
    )
}

#[test]
fn stages_that_are_apart_say_what_one_process_says() {
    let folder = fleet_folder();
    let happenings = prop::collection::vec(happening(), 1..160);
    told(
        runner(6).run(&(happenings, turns()), |(happenings, turns)| {
            let log = write_log(&happenings, true);
            let mut whole = Whole::new(folder.path(), false, &log);
            whole.run(&[] as &[FleetTurn], Input::Live);
            let mut apart = Apart::new(folder.path(), &log);
            apart.run(&turns);
            let expected = settled(settled_of(&whole.alerts));
            let said = settled(settled_of(&apart.alerts));
            prop_assert_eq!(&said, &expected, "{:?}\n{}", turns, describe(&log));
            let mut first = said.1.clone();
            first.dedup();
            prop_assert_eq!(&first, &said.1, "said first twice");
            Ok(())
        }),
    );
}
