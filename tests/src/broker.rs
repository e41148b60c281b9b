//! A real Apache Kafka (KRaft) on free loopback ports, from the jars in the cache: one node, or a cluster of three.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::{cache, wait};

/// How long a broker may take to answer; it takes 3 s on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// Who may talk to a broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a password.
    #[default]
    Open,
    /// SASL/PLAIN: `admin` may do everything, `guest` (password `guest`) nothing.
    Passwords,
}

/// What is not usual about a broker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Who may talk to it.
    pub access: Access,
    /// An address of this machine for a second listener, which asks nobody for a password; see [`Broker::side_address`].
    pub side: Option<Ipv4Addr>,
    /// Lines added to its configuration.
    pub extra: &'a str,
}

/// A broker with its data; both go when it is dropped, unless somebody will look for a reason there.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    port: u16,
    controller: u16,
    side: Option<(Ipv4Addr, u16)>,
    process: Option<Process>,
    starts: usize,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

impl Broker {
    /// Starts an open broker and waits until it answers.
    ///
    /// # Panics
    /// When Kafka's jars are not in the cache or the broker does not come up.
    pub fn start() -> Broker {
        Broker::start_as(Options::default())
    }

    /// Starts a broker with lines added to its configuration.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn start_with(access: Access, extra: &str) -> Broker {
        Broker::start_as(Options {
            access,
            extra,
            side: None,
        })
    }

    /// Starts a broker that is not quite usual.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn start_as(options: Options<'_>) -> Broker {
        let [controller] = free_ports();
        let mut broker = Broker::new(options, 1, &[controller]);
        broker.resume();
        broker
    }

    /// Lays out node `id` of those whose controllers listen on these ports.
    fn new(options: Options<'_>, id: usize, controllers: &[u16]) -> Broker {
        let folder = tempfile::Builder::new()
            .prefix("dogwatch-kafka-")
            .tempdir()
            .expect("a folder for the broker");
        let [port, side_port] = free_ports();
        let broker = Broker {
            port,
            controller: controllers[id - 1],
            side: options.side.map(|address| (address, side_port)),
            folder,
            process: None,
            starts: 0,
        };
        let configuration = broker.configuration(options.access, id, controllers);
        fs::write(
            broker.file("server.properties"),
            configuration + options.extra,
        )
        .expect("its configuration is written");
        broker.format();
        broker
    }

    /// What clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What other controllers connect to, and no client.
    pub fn controller_address(&self) -> String {
        format!("127.0.0.1:{}", self.controller)
    }

    /// What clients of the second listener connect to.
    ///
    /// # Panics
    /// When the broker has none.
    pub fn side_address(&self) -> String {
        let (address, port) = self.side.expect("the broker was started with a side");
        format!("{address}:{port}")
    }

    /// Leaves its logs and data where they are, and says where.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
        eprintln!(
            "logs and data of the broker in {}",
            self.folder.path().display()
        );
    }

    /// Ends the broker in order (SIGTERM); its data stays.
    ///
    /// # Panics
    /// When it is not running or does not end in time.
    pub fn pause(&mut self) {
        let process = self.process.take().expect("the broker is running");
        process.stop(Duration::from_secs(60));
    }

    /// Kills the broker (SIGKILL); its data stays as it is on disk.
    ///
    /// # Panics
    /// When it is not running.
    pub fn crash(&mut self) {
        self.process.take().expect("the broker is running").crash();
    }

    /// Starts the broker again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn resume(&mut self) {
        self.launch();
        self.wait_until_up();
    }

    fn launch(&mut self) {
        // Each start has its own: one before has said already what this one is waited for.
        self.starts += 1;
        let log = self.file(&format!("broker-{}.log", self.starts));
        let mut command = java("kafka.Kafka");
        command.arg(self.file("server.properties"));
        self.process = Some(Process::start("kafka", &mut command, &log));
    }

    fn wait_until_up(&mut self) {
        let process = self.process.as_mut().expect("the broker was launched");
        process.wait_for_text("Kafka Server started", START_PATIENCE);
        wait::until("the broker's port", START_PATIENCE, || {
            TcpStream::connect(self.address()).ok()
        });
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> String {
        // Where there is a side, it is the one that needs no password.
        let address = self
            .side
            .map_or_else(|| self.address(), |_| self.side_address());
        let output = java(class)
            .args(["--bootstrap-server", &address])
            .args(arguments)
            .output();
        let output = output.expect("java can be started");
        assert!(
            output.status.success(),
            "{class} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
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

    fn configuration(&self, access: Access, id: usize, controllers: &[u16]) -> String {
        let protocol = match access {
            Access::Open => "PLAINTEXT",
            Access::Passwords => "SASL_PLAINTEXT",
        };
        let voters: Vec<String> = (1..)
            .zip(controllers)
            .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
            .collect();
        let mut clients = format!("CLIENT://{}", self.address());
        if self.side.is_some() {
            clients += &format!(",SIDE://{}", self.side_address());
        }
        let copies = controllers.len();
        // Two of three, one of one.
        let in_sync_min = copies.div_ceil(2);
        let mut lines = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners={clients},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={clients}\n\
             inter.broker.listener.name=CLIENT\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CLIENT:{protocol},SIDE:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={data}\n\
             offsets.topic.replication.factor={copies}\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor={copies}\n\
             transaction.state.log.min.isr={in_sync_min}\n\
             transaction.state.log.num.partitions=1\n\
             min.insync.replicas={in_sync_min}\n\
             group.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\n",
            voters = voters.join(","),
            controller = controllers[id - 1],
            data = self.file("data").display(),
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
}

/// Three brokers that keep every partition three times and take a record when two have it.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Broker>,
}

/// A lost broker is noticed within three seconds instead of nine.
const NOTICE_SOON: &str = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\nreplica.lag.time.max.ms=5000\n";

impl Cluster {
    /// Starts three brokers, with lines added to the configuration of each, and waits until all answer.
    ///
    /// # Panics
    /// As [`Broker::start`].
    pub fn start(extra: &str) -> Cluster {
        let controllers: [u16; 3] = free_ports();
        let extra = format!("{NOTICE_SOON}{extra}");
        let options = Options {
            extra: &extra,
            ..Options::default()
        };
        let mut brokers: Vec<Broker> = (1..=3)
            .map(|id| Broker::new(options, id, &controllers))
            .collect();
        // Each waits for a majority before it says that it has started.
        brokers.iter_mut().for_each(Broker::launch);
        brokers.iter_mut().for_each(Broker::wait_until_up);
        Cluster { brokers }
    }

    /// What clients connect to.
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(Broker::address).collect();
        addresses.join(",")
    }

    /// One of its brokers, counted from 0.
    pub fn broker(&mut self, index: usize) -> &mut Broker {
        &mut self.brokers[index]
    }

    /// As [`Broker::keep`], for each.
    pub fn keep(&mut self) {
        self.brokers.iter_mut().for_each(Broker::keep);
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
