//! A real Apache Kafka (KRaft, one node) on free loopback ports, from the jars in the cache.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::{cache, wait};

/// How long a broker may take to answer; it takes 3 s on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Who may talk to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a password.
    Open,
    /// SASL/PLAIN: `admin` may do everything, `guest` (password `guest`) nothing.
    Passwords,
}

/// A broker with its data; both go when it is dropped.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Broker {
    /// Starts an open broker and waits until it answers.
    ///
    /// # Panics
    /// When Kafka's jars are not in the cache or the broker does not come up.
    pub fn start() -> Broker {
        Broker::start_with(Access::Open, "")
    }

    /// Starts a broker with lines added to its configuration.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn start_with(access: Access, extra: &str) -> Broker {
        let folder = tempfile::Builder::new()
            .prefix("dogwatch-kafka-")
            .tempdir()
            .expect("a folder for the broker");
        let [port, controller] = free_ports();
        let configuration = configuration(
            access,
            port,
            controller,
            &folder.path().join("data").to_string_lossy(),
        );
        fs::write(
            folder.path().join("server.properties"),
            configuration + extra,
        )
        .expect("its configuration is written");
        let mut broker = Broker {
            folder,
            port,
            process: None,
        };
        broker.format();
        broker.resume();
        broker
    }

    /// What clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the broker in order (SIGTERM); its data stays.
    ///
    /// # Panics
    /// When it is not running or does not end in time.
    pub fn pause(&mut self) {
        let process = self.process.take().expect("the broker is running");
        process.stop(Duration::from_secs(30));
    }

    /// Starts the broker again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn resume(&mut self) {
        let log = self.folder.path().join("broker.log");
        let mut command = java("kafka.Kafka");
        command.arg(self.file("server.properties"));
        let mut process = Process::start("kafka", &mut command, &log);
        process.wait_for_text("Kafka Server started", START_PATIENCE);
        wait::until("the broker's port", START_PATIENCE, || {
            TcpStream::connect(self.address()).ok()
        });
        self.process = Some(process);
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let output = java(class)
            .args(["--bootstrap-server", &self.address()])
            .args(arguments)
            .output();
        let output = output.expect("java can be started");
        assert!(
            output.status.success(),
            "{class} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn format(&self) {
        let mut command = java("kafka.tools.StorageTool");
        command
            .args(["format", "-t", "ZG9nd2F0Y2gtdGVzdHMtMQ", "-c"])
            .arg(self.file("server.properties"));
        let output = command.output().expect("java can be started");
        assert!(
            output.status.success(),
            "kafka could not format: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The JVM's first compiler alone starts sooner and leaves the cores to what is tested.
fn java(class: &str) -> Command {
    let mut command = Command::new("java");
    command.args([
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.logFile=System.out",
        "-cp",
    ]);
    command.arg(cache::path("kafka").join("*")).arg(class);
    command
}

fn configuration(access: Access, port: u16, controller: u16, data: &str) -> String {
    let protocol = match access {
        Access::Open => "PLAINTEXT",
        Access::Passwords => "SASL_PLAINTEXT",
    };
    let mut lines = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=CLIENT://127.0.0.1:{port}\n\
         inter.broker.listener.name=CLIENT\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CLIENT:{protocol},CONTROLLER:PLAINTEXT\n\
         log.dirs={data}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n"
    );
    if access == Access::Passwords {
        lines += "sasl.enabled.mechanisms=PLAIN\n\
             sasl.mechanism.inter.broker.protocol=PLAIN\n\
             listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
             username=\"admin\" password=\"admin\" user_admin=\"admin\" user_guest=\"guest\";\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:admin;User:ANONYMOUS\n";
    }
    lines
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    listeners.map(|listener| {
        listener
            .local_addr()
            .expect("a bound socket has an address")
            .port()
    })
}
