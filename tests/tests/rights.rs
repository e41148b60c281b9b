//! The rights that docs/security.md gives to each program are those it needs, on a broker that asks for them.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use dogwatch_schemas::topics::{Topic, Topics};
use dogwatch_tests::broker::{Access, Broker, Options};
use dogwatch_tests::process::Process;
use dogwatch_tests::{cache, events, programs, wait};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

const PATIENCE: Duration = Duration::from_secs(60);
const ACLS: &str = "org.apache.kafka.tools.AclCommand";
/// In the order of the table's columns; the password of each is its name.
const USERS: [&str; 5] = ["sensor", "processor", "publisher", "reader", "analyst"];

/// What each user may do, by kind of resource (`topic`, `group` ..) and name.
type Rights = BTreeMap<(&'static str, Vec<&'static str>, &'static str), Vec<String>>;

/// The table of topics in docs/security.md.
fn rights() -> Rights {
    let text = fs::read_to_string(cache::repository().join("docs/security.md")).unwrap();
    let section = text
        .split("\n## Topics\n")
        .nth(1)
        .expect("a section on topics");
    let mut rights = Rights::new();
    for line in section
        .lines()
        .filter(|line| line.starts_with("| `dogwatch."))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let topics: Vec<String> = cells[0]
            .split(", ")
            .map(|name| name.trim_matches('`').to_owned())
            .collect();
        assert_eq!(cells.len(), 1 + USERS.len(), "{line}");
        for (user, cell) in USERS.iter().zip(&cells[1..]) {
            // "read (`alerts`)" is of these topics alone.
            let (operations, of) = match cell.split_once(" (") {
                Some((operations, of)) => {
                    (operations, Some(of.trim_end_matches(')').replace('`', "")))
                }
                None => (*cell, None),
            };
            let topics = topics.iter().filter(|topic| {
                of.as_ref()
                    .is_none_or(|of| of.split(", ").any(|name| topic.ends_with(name)))
            });
            let topics: Vec<String> = topics.cloned().collect();
            let operations: Vec<&'static str> = operations
                .split(", ")
                .filter(|operation| !operation.is_empty())
                .map(|operation| match operation {
                    "read" => "Read",
                    "write" => "Write",
                    other => panic!("{other:?} in {line}"),
                })
                .collect();
            if !operations.is_empty() {
                let own = rights.entry(("--topic", operations, user)).or_default();
                own.extend(topics);
            }
        }
    }
    let mut allow = |kind, name: &str, operations: &[&'static str], user| {
        let own = rights.entry((kind, operations.to_vec(), user)).or_default();
        own.push(name.to_owned());
    };
    allow("--group", "dogwatch-processor", &["Read"], "processor");
    allow(
        "--group",
        "dogwatch-processor-fleet",
        &["Read"],
        "processor",
    );
    allow(
        "--group",
        "dogwatch-processor-fleet",
        &["Read"],
        "processor",
    );
    allow("--group", "dogwatch-processor", &["Read"], "publisher");
    allow("--group", "dogwatch-console", &["Read"], "reader");
    allow("--group", "dogwatch-console", &["Read"], "analyst");
    let ids = "dogwatch-processor-";
    allow(
        "--transactional-id",
        ids,
        &["Write", "Describe"],
        "processor",
    );
    rights
}

fn grant(broker: &Broker, rights: &Rights) {
    for ((kind, operations, user), names) in rights {
        let principal = format!("User:{user}");
        let mut arguments = vec!["--add", "--force", "--allow-principal", &principal];
        for operation in operations {
            arguments.extend(["--operation", operation]);
        }
        for name in names {
            arguments.extend([*kind, name.as_str()]);
        }
        if *kind == "--transactional-id" {
            arguments.extend(["--resource-pattern-type", "prefixed"]);
        }
        broker.tool(ACLS, &arguments);
    }
}

fn make_topics(address: &str) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address);
    let names = Topics::new("dogwatch");
    let named = Topic::ALL.map(|topic| (topic, names.name(topic)));
    let new = named.iter().map(|(topic, name)| {
        let made = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        let settings = topic.settings().into_iter();
        settings.fold(made, |made, (setting, value)| made.set(setting, value))
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    for made in block_on(admin.create_topics(&new, &AdminOptions::new())).unwrap() {
        made.unwrap();
    }
}

/// Has a program log in.
fn as_user(command: &mut Command, user: &str) {
    let options = [
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_MECHANISM", "PLAIN"),
        ("SASL_USERNAME", user),
        ("SASL_PASSWORD", user),
    ];
    for (name, value) in options {
        command.env(format!("DOGWATCH_KAFKA__OPTIONS__{name}"), value);
    }
}

fn dogwatch(user: &str, arguments: &[&str]) -> Output {
    let mut command = programs::command("dogwatch");
    command.args(arguments);
    as_user(&mut command, user);
    command.output().unwrap()
}

/// What became of the last record.
#[derive(Default)]
struct Answer(std::sync::Mutex<Option<Option<RDKafkaErrorCode>>>);

impl rdkafka::ClientContext for Answer {}

impl ProducerContext for Answer {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let code = result.as_ref().err();
        let code = code.and_then(|(error, _)| error.rdkafka_error_code());
        *self.0.lock().unwrap() = Some(code);
    }
}

/// Writes a record as a user; returns why it was refused, where it was.
fn write(
    address: &str,
    user: &str,
    topic: &str,
    key: &str,
    value: &[u8],
) -> Option<RDKafkaErrorCode> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address)
        .set("security.protocol", "sasl_plaintext")
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", user)
        .set("sasl.password", user)
        .set("partitioner", "murmur2_random");
    let producer: BaseProducer<Answer> = client.create_with_context(Answer::default()).unwrap();
    let record = BaseRecord::to(topic).key(key).payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let answer = producer.context().0.lock().unwrap().take();
    answer.expect("the broker has answered")
}

fn processor(address: &str, log: &Path) -> Process {
    let mut command = programs::command("dogwatch-processor");
    command
        .args(["run", "--kafka", address])
        .env("DOGWATCH_METRICS__LISTEN", "")
        .env("DOGWATCH_KAFKA__CREATE_TOPICS", "false")
        .env("DOGWATCH_DETECTIONS__SOURCE", "topic");
    as_user(&mut command, "processor");
    Process::start("dogwatch-processor", &mut command, log)
}

#[test]
#[ignore = "needs Kafka: ./dogwatch.sh test"]
fn each_program_has_the_rights_it_needs_and_no_other() {
    let users = USERS
        .map(|user| format!("user_{user}=\"{user}\" "))
        .concat();
    let login = format!(
        "listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
         username=\"admin\" password=\"admin\" user_admin=\"admin\" {users};\n"
    );
    let broker = Broker::start_as(Options {
        access: Access::Passwords,
        side: Some(Ipv4Addr::LOCALHOST),
        extra: &login,
    });
    let address = broker.address();
    make_topics(&broker.side_address());
    grant(&broker, &rights());
    let folder = tempfile::tempdir().unwrap();
    let detections = events::detections();

    let publish = [
        "detections",
        "publish",
        detections.path().to_str().unwrap(),
        "--kafka",
        &address,
    ];
    let published = dogwatch("publisher", &publish);
    assert!(published.status.success(), "{published:?}");
    let refused = dogwatch("reader", &publish);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    let log = folder.path().join("processor.log");
    let mut processor = processor(&address, &log);
    processor.wait_for_text("partitions assigned", PATIENCE);
    let mut record = Vec::new();
    events::exec("ant", 1, events::INTRUDER).encode_framed(&mut record);
    assert_eq!(
        write(&address, "sensor", "dogwatch.events", "ant", &record),
        None
    );
    wait::until("an alert that is read", PATIENCE, || {
        let read = dogwatch("reader", &["alerts", "--kafka", &address, "--json"]);
        assert!(read.status.success(), "{read:?}");
        (!read.stdout.is_empty()).then_some(())
    });
    let log = processor.log();
    assert!(processor.stop(PATIENCE).success(), "{log}");

    let alerts = ["alerts", "--kafka", &address, "--json"];
    let read = dogwatch("analyst", &alerts);
    assert!(read.status.success() && !read.stdout.is_empty(), "{read:?}");
    let question = |user: &str, table: &str| {
        let count = format!("SELECT count(*) AS n FROM {table}");
        let follow = ["query", "--for", "1s", "--since", "1h", "--format", "csv"];
        dogwatch(
            user,
            &[&follow[..], &["--kafka", &address, &count]].concat(),
        )
    };
    let of_sensors = [
        "events",
        "containers",
        "container_samples",
        "process_samples",
        "syscall_samples",
        "io_samples",
        "sensors",
    ];
    for table in [&of_sensors[..], &["alerts", "dead_letters", "late"]].concat() {
        let answer = question("analyst", table);
        assert!(answer.status.success(), "{answer:?}");
        let rows = String::from_utf8(answer.stdout).unwrap();
        let one = ["events", "alerts"].contains(&table);
        assert_eq!(rows, format!("n\n{}\n", u8::from(one)), "{table}");
    }
    let refused = question("reader", "events");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("dogwatch.events"), "{why}");

    let no = Some(RDKafkaErrorCode::TopicAuthorizationFailed);
    for (user, topic) in [
        ("sensor", "state"),
        ("sensor", "detections"),
        ("sensor", "alerts"),
        ("processor", "detections"),
        ("processor", "containers"),
        ("publisher", "state"),
        ("publisher", "events"),
        ("reader", "alerts"),
        ("reader", "state"),
        ("reader", "detections"),
        ("analyst", "events"),
        ("analyst", "alerts"),
    ] {
        let answer = write(
            &address,
            user,
            &format!("dogwatch.{topic}"),
            "key",
            b"value",
        );
        assert_eq!(answer, no, "{user} writes {topic}");
    }
}
