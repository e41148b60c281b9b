//! Where a scenario plays: its brokers, and how processors and tests reach them.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Place;
use crate::broker::{Access, Broker, Cluster, Options};
use crate::network::Namespace;

/// What a processor left open is aborted within a second of its timeout, not ten.
const ABORT_SOON: &str = "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n";

const ACLS: &str = "org.apache.kafka.tools.AclCommand";

/// The brokers of a scenario.
pub(super) enum Site {
    Shared(String),
    Own(Broker),
    Three(Cluster),
    // The broker goes before the address it listens on.
    Namespace(Broker, Namespace),
    Passwords(Broker),
}

impl Site {
    pub(super) fn open(place: Place) -> Site {
        let usual = Options {
            extra: ABORT_SOON,
            ..Options::default()
        };
        match place {
            Place::Shared => Site::Shared(shared().to_owned()),
            Place::Own => Site::Own(Broker::start_as(usual)),
            Place::Three => Site::Three(Cluster::start(ABORT_SOON)),
            Place::Namespace => {
                let namespace = Namespace::make();
                let side = Some(namespace.outside());
                Site::Namespace(Broker::start_as(Options { side, ..usual }), namespace)
            }
            Place::Passwords => Site::Passwords(Broker::start_as(Options {
                access: Access::Passwords,
                side: Some(Ipv4Addr::LOCALHOST),
                ..usual
            })),
        }
    }

    /// Where the test's own clients connect to: nothing is cut or forbidden there.
    pub(super) fn address(&self) -> String {
        match self {
            Site::Shared(address) => address.clone(),
            Site::Own(broker) | Site::Namespace(broker, _) => broker.address(),
            Site::Three(cluster) => cluster.address(),
            Site::Passwords(broker) => broker.side_address(),
        }
    }

    /// Where processors connect to.
    pub(super) fn processors_address(&self) -> String {
        match self {
            Site::Namespace(broker, _) => broker.side_address(),
            Site::Passwords(broker) => broker.address(),
            _ => self.address(),
        }
    }

    /// Copies of each partition.
    pub(super) fn copies(&self) -> usize {
        if matches!(self, Site::Three(_)) { 3 } else { 1 }
    }

    /// The command as a processor here is started.
    pub(super) fn placed(&self, command: Command) -> Command {
        match self {
            Site::Namespace(_, namespace) => namespace.inside(&command),
            Site::Passwords(_) => with_password(command),
            _ => command,
        }
    }

    /// Lets `guest` do everything with what begins with `prefix`.
    pub(super) fn allow(&self, prefix: &str) {
        let Site::Passwords(broker) = self else {
            return;
        };
        let what = [
            "--topic",
            prefix,
            "--group",
            prefix,
            "--transactional-id",
            prefix,
        ];
        let how = [
            "--add",
            "--allow-principal",
            "User:guest",
            "--operation",
            "All",
        ];
        let pattern = ["--resource-pattern-type", "prefixed", "--force"];
        broker.tool(ACLS, &[&how[..], &what, &pattern].concat());
    }

    /// Forbids `guest` something, which counts more than what is allowed, or takes that back.
    pub(super) fn deny(&self, denied: bool, operation: &str, topic: &str) {
        let Site::Passwords(broker) = self else {
            panic!("nobody has rights here");
        };
        let how = if denied { "--add" } else { "--remove" };
        let whom = ["--deny-principal", "User:guest", "--operation", operation];
        broker.tool(
            ACLS,
            &[&[how][..], &whom, &["--topic", topic, "--force"]].concat(),
        );
    }

    pub(super) fn broker(&mut self, index: usize) -> &mut Broker {
        match self {
            Site::Own(broker) | Site::Namespace(broker, _) | Site::Passwords(broker) => broker,
            Site::Three(cluster) => cluster.broker(index),
            Site::Shared(_) => panic!("others use this broker, too"),
        }
    }

    /// Leaves the brokers' logs and data where they are; those of a shared one go.
    pub(super) fn keep(&mut self) {
        match self {
            Site::Shared(_) => {}
            Site::Own(broker) | Site::Namespace(broker, _) | Site::Passwords(broker) => {
                broker.keep();
            }
            Site::Three(cluster) => cluster.keep(),
        }
    }

    pub(super) fn cable(&self) -> &Namespace {
        match self {
            Site::Namespace(_, namespace) => namespace,
            _ => panic!("there is no cable"),
        }
    }
}

fn with_password(mut command: Command) -> Command {
    let settings = [
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_MECHANISM", "PLAIN"),
        ("SASL_USERNAME", "guest"),
        ("SASL_PASSWORD", "guest"),
    ];
    for (name, value) in settings {
        command.env(format!("DOGWATCH_KAFKA__OPTIONS__{name}"), value);
    }
    command
}

/// The end of the shared broker: a word to its thread, and the answer when it is gone.
static END: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

/// A broker that lives as long as this program, whichever test asks first.
fn shared() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let (tell, told) = channel();
        let (end, ended) = channel();
        let (gone, is_gone) = channel();
        // What a thread starts dies with it, and a test's thread ends before the next test.
        std::thread::spawn(move || {
            let broker = Broker::start_as(Options {
                extra: ABORT_SOON,
                ..Options::default()
            });
            let _ = tell.send(broker.address());
            let _ = ended.recv();
            drop(broker);
            let _ = gone.send(());
        });
        let address = told.recv().expect("the shared broker comes up");
        *END.lock().unwrap_or_else(PoisonError::into_inner) = Some((end, is_gone));
        // SAFETY: registers a function that lives as long as the program and takes nothing.
        unsafe { libc::atexit(end_shared) };
        address
    })
}

/// Statics are not dropped: without this, the broker's folder would stay.
extern "C" fn end_shared() {
    let end = END.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((end, gone)) = end {
        let _ = end.send(());
        let _ = gone.recv();
    }
}
