//! An outage, with brokers of librdkafka's own: who finds room, and that all of it arrives, in order.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;

use super::*;
use crate::config::{Config, RawConfig};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(cluster: &MockCluster<'_, impl ClientContext>) -> KafkaConfig {
    let mut raw = RawConfig::default();
    raw.kafka.bootstrap_servers = cluster.bootstrap_servers();
    raw.kafka.queue_bytes = crate::config::Size(1 << 20);
    let backoff = ("reconnect.backoff.max.ms".to_owned(), "100".to_owned());
    raw.kafka.options.extend([backoff]);
    Config::check(raw).unwrap().kafka
}

/// Records that were handed over, in their order.
#[derive(Default)]
struct Sent {
    values: Vec<String>,
    refused: usize,
}

impl Sent {
    fn send(&mut self, sink: &mut KafkaSink, container: &str, part: Part) -> Handed {
        let claim = Claim {
            kind: Kind::ANY,
            part,
            container: container.into(),
        };
        let number = self.values.len();
        let value = format!("{number} {container} {}", "x".repeat(1_000));
        let handed = sink.send(Topic::Events, "host", value.as_bytes(), &claim);
        match handed {
            Handed::Over => self.values.push(value),
            _ => self.refused += 1,
        }
        handed
    }

    /// One container calls without end, others live; and the sensor marks.
    fn outage(&mut self, sink: &mut KafkaSink) {
        let before = self.refused;
        for round in 0..3_000 {
            self.send(sink, "loud", Part::Calls);
            if round % 100 == 0 {
                for (container, part) in [
                    ("quiet", Part::Lifecycle),
                    ("loud", Part::Lifecycle),
                    ("", Part::Sensor),
                ] {
                    let handed = self.send(sink, container, part);
                    assert_eq!(handed, Handed::Over, "{container:?} {part:?} {round}");
                }
            }
        }
        assert!(self.refused > before, "the queue was never full");
    }
}

fn wait_for(what: &str, mut seen: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < PATIENCE, "{what} was not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_outage_loses_what_floods_and_nothing_else_before_the_first_connection_and_after_it() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in config(&cluster).topics {
        let name = Topics::new("dogwatch").name(topic);
        cluster.create_topic(&name, 1, 1).unwrap();
    }
    cluster.broker_down(1).unwrap();
    let mut sink = KafkaSink::open(&config(&cluster)).unwrap();
    let mut sent = Sent::default();
    sent.outage(&mut sink);
    for again in [true, false] {
        cluster.broker_up(1).unwrap();
        wait_for("an empty queue", || {
            sink.advance();
            sink.left() == 0
        });
        assert!(sink.is_open());
        assert_eq!(sink.reports.room().used_bytes(), 0);
        if again {
            cluster.broker_down(1).unwrap();
            sent.outage(&mut sink);
        }
    }
    assert_eq!(arrived(&cluster, sent.values.len()), sent.values);
}

/// Values of the topic of events, the first ones.
fn arrived(cluster: &MockCluster<'_, impl ClientContext>, count: usize) -> Vec<String> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", cluster.bootstrap_servers());
    client.set("group.id", "test");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut wanted = rdkafka::TopicPartitionList::new();
    let name = Topics::new("dogwatch").name(Topic::Events);
    wanted
        .add_partition_offset(&name, 0, rdkafka::Offset::Beginning)
        .unwrap();
    consumer.assign(&wanted).unwrap();
    let begun = Instant::now();
    let mut values = Vec::new();
    while values.len() < count && begun.elapsed() < PATIENCE {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let value = message.payload().unwrap().to_vec();
            values.push(String::from_utf8(value).unwrap());
        }
    }
    values
}

#[test]
fn an_end_without_brokers_is_short_and_says_what_is_left() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.broker_down(1).unwrap();
    let mut sink = KafkaSink::open(&config(&cluster)).unwrap();
    let mut sent = Sent::default();
    for _ in 0..10 {
        sent.send(&mut sink, "a", Part::Calls);
    }
    let begun = Instant::now();
    assert_eq!(sink.drain(), 10);
    assert!(begun.elapsed() < Duration::from_secs(2));
}
