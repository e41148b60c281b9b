//! Which brokers, and how they are spoken to: what every client of a program shares.

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use crate::context::ErrorKeeper;
use crate::fault::{Fault, LastError};
use crate::lifeline::STATISTICS_INTERVAL_MS;
use crate::listener::{self, Speaks};

/// How long a broker may take to answer at start.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long a broker is looked for: somebody may wait for the answer, and whoever restarts programs tries again.
pub const REACH: Duration = Duration::from_secs(10);

/// How long a connection to a broker may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Brokers of a cluster whose addresses are tried.
const ADVERTISED_MAX: usize = 8;

/// Brokers to start from that are asked what they speak.
const ASKED_MAX: usize = 3;

/// How long one question to a broker may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Brokers and the options of all clients that speak to them.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// Brokers to start from, `host:port` separated by commas.
    pub servers: String,
    /// Options for librdkafka, [checked](crate::options::checked).
    pub options: BTreeMap<String, String>,
    /// How clients name themselves where the options do not say.
    pub client_id: String,
}

/// A list of brokers is none. Nothing of a password that stands in it is told, as errors end in logs.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// An entry is no address.
    #[error("{entry:?} is not host:port, such as broker1:9092")]
    NotAnAddress {
        /// The entry.
        entry: String,
    },
    /// A user or a password stands before a host.
    #[error(
        "a user or a password stands before {host:?}, and Kafka's clients take none there; leave it out, and set kafka.options sasl.username and sasl.password.file"
    )]
    WithUser {
        /// What stands behind the last of them.
        host: String,
    },
}

/// Checks a list of brokers: `host:port` separated by commas, with or without librdkafka's `PROTOCOL://` before them.
///
/// # Errors
/// [`BadAddress`] for the first entry that is none, for a list without entries, and for one with a password in it.
pub fn check_servers(servers: &str) -> Result<(), BadAddress> {
    // A password may hold what separates entries elsewhere.
    if let Some((_, host)) = servers.rsplit_once('@') {
        let host = host.to_owned();
        return Err(BadAddress::WithUser { host });
    }
    match servers
        .split(',')
        .map(str::trim)
        .find(|entry| !is_address(entry))
    {
        None => Ok(()),
        Some(entry) => Err(BadAddress::NotAnAddress {
            entry: entry.to_owned(),
        }),
    }
}

/// How long a broker is given before it is asked for a partition's leader again.
const LEADERLESS: Duration = Duration::from_millis(200);

/// Asks the leaders of partitions; while one has none, as in the moments after a broker's restart, they are asked again for
/// `patience`.
///
/// # Errors
/// What is answered at the end, or at once where it is of another kind.
pub fn ask_leaders<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    use RDKafkaErrorCode as Code;
    let begun = Instant::now();
    loop {
        let answer = ask();
        let code = answer
            .as_ref()
            .err()
            .and_then(KafkaError::rdkafka_error_code);
        let leaderless = matches!(
            code,
            Some(
                Code::NotLeaderForPartition
                    | Code::LeaderNotAvailable
                    | Code::UnknownLeaderEpoch
                    | Code::FencedLeaderEpoch
                    | Code::OffsetNotAvailable
            )
        );
        if !leaderless || begun.elapsed() >= patience {
            return answer;
        }
        std::thread::sleep(LEADERLESS);
    }
}

fn is_address(entry: &str) -> bool {
    let address = entry
        .split_once("://")
        .map_or(entry, |(_, address)| address);
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let in_brackets = host.starts_with('[') && host.ends_with(']');
    let host_fits = !host.is_empty() && (in_brackets || !host.contains([':', '/', ' ']));
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Brokers {
    /// Returns the settings every client shares.
    pub fn settings(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (option, value) in &self.options {
            client.set(option, value);
        }
        client.set("bootstrap.servers", &self.servers);
        // Its lines go to a context, which decides; some causes are told nowhere else.
        client.set_log_level(RDKafkaLogLevel::Info);
        client.set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        self.default(&mut client, "client.id", &self.client_id);
        client
    }

    /// Sets an option of a client where the pass-through options do not.
    pub fn default(&self, client: &mut ClientConfig, option: &str, value: &str) {
        if !self.options.contains_key(option) {
            client.set(option, value);
        }
    }
}

impl Brokers {
    /// Names why the brokers did not answer within `waited`: the last thing the client said of its connections names the
    /// cause that the error of the call does not.
    pub fn unanswered(&self, waited: Duration, last: &LastError, error: &KafkaError) -> Fault {
        use RDKafkaErrorCode as Code;
        let servers = self.servers.clone();
        let (code, reason) = last
            .last()
            .unwrap_or((Code::BrokerTransportFailure, error.to_string()));
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => {
                Fault::Unauthenticated { servers, reason }
            }
            Code::SSL => Fault::Tls { servers, reason },
            // A listener without TLS just hangs up during the handshake.
            _ if reason.contains("SSL_HANDSHAKE") => Fault::Tls { servers, reason },
            _ if let Some(name) = unresolved(&reason) => {
                let name = name.to_owned();
                match self.servers.contains(&name) {
                    true => Fault::Unresolved { name },
                    false => Fault::Advertised {
                        servers,
                        brokers: format!("{name} (cannot be resolved)"),
                    },
                }
            }
            _ if hung_up(&reason) => Fault::HungUp {
                servers,
                protocol: self.protocol(),
                reason,
            },
            _ => Fault::Unreachable {
                servers,
                waited,
                reason,
            },
        }
    }

    /// Asks the brokers to start from what they speak, where a connection to them came to nothing: a controller's port, one
    /// with TLS or with a login, and one that says nothing have a mend of their own.
    pub fn look(&self, fault: Fault) -> Fault {
        if !matches!(
            fault,
            Fault::Unreachable { .. } | Fault::HungUp { .. } | Fault::Tls { .. }
        ) {
            return fault;
        }
        let protocol = self.protocol();
        let mut unreachable = None;
        for address in self.servers.split(',').map(str::trim).take(ASKED_MAX) {
            let speaks = listener::ask(address);
            if let Some(told) = listener::told(address, &protocol, &speaks) {
                return told;
            }
            if let Speaks::Nothing(why) = speaks {
                unreachable = unreachable.or_else(|| Some(format!("{address}: {why}")));
            }
        }
        match (fault, unreachable) {
            // A client that waits for a connection has nothing to say.
            (
                Fault::Unreachable {
                    servers,
                    waited,
                    reason,
                },
                Some(why),
            ) if !reason.contains("Connect to ") => Fault::Unreachable {
                servers,
                waited,
                reason: why,
            },
            (fault, _) => fault,
        }
    }

    fn protocol(&self) -> String {
        let given = self.options.get("security.protocol");
        given.map_or_else(
            || "plaintext".to_owned(),
            |protocol| protocol.to_lowercase(),
        )
    }
}

/// The name that librdkafka could not resolve, if that is what it says.
fn unresolved(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("Failed to resolve '")?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// Says whether librdkafka's words mean that a connection was made and then ended by the other side.
fn hung_up(reason: &str) -> bool {
    let after = [
        "Disconnected",
        "Broken pipe",
        "Connection reset",
        "ApiVersion",
        "Receive failed",
        "Send failed",
    ];
    after.iter().any(|word| reason.contains(word)) && !reason.contains("Connect to ")
}

/// Checks that at least one of the brokers can be reached by the address it advertises: answers come from the address that
/// was configured, and everything else goes to those.
///
/// # Errors
/// [`Fault::Advertised`] when none can, with each one's reason.
pub fn check_advertised(brokers: &Brokers, metadata: &Metadata) -> Result<(), Fault> {
    let (tell, answers) = channel();
    let named = metadata.brokers().iter().take(ADVERTISED_MAX);
    for broker in named {
        let (host, port, tell) = (broker.host().to_owned(), broker.port(), tell.clone());
        let connect = move || {
            let answer = connect(&host, port).map_err(|error| format!("{host}:{port} ({error})"));
            // Whoever asked may have its answer already.
            let _ = tell.send(answer);
        };
        let started = Builder::new().name("reach".to_owned()).spawn(connect);
        // A machine without threads to spare is no reason to say that brokers are away.
        if started.is_err() {
            return Ok(());
        }
    }
    drop(tell);
    let deadline = Instant::now() + CONNECT;
    let mut failed = Vec::new();
    loop {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => failed.push(reason),
            Err(RecvTimeoutError::Timeout) => {
                failed.push(format!("others (no answer within {}s)", CONNECT.as_secs()));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // Metadata without brokers come while a cluster starts.
    if metadata.brokers().is_empty() {
        return Ok(());
    }
    failed.sort();
    Err(Fault::Advertised {
        servers: brokers.servers.clone(),
        brokers: failed.join(", "),
    })
}

fn connect(host: &str, port: i32) -> io::Result<()> {
    let port = u16::try_from(port).map_err(|_| io::Error::other("no port"))?;
    let mut last = io::Error::other("no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks the brokers for their topics, for at most `patience`.
///
/// # Errors
/// [`Fault`]; a refused authentication, TLS that fails and a port that speaks something else are reported at once, an
/// unreachable broker after the patience.
pub fn reach(
    brokers: &Brokers,
    patience: Duration,
) -> Result<(BaseConsumer<ErrorKeeper>, Metadata), Fault> {
    let client = ErrorKeeper::consumer(&brokers.settings())
        .map_err(|error| Fault::of("make a Kafka client", &error))?;
    let started = Instant::now();
    let mut looked = None;
    loop {
        let left = patience.saturating_sub(started.elapsed());
        let error = match client.fetch_metadata(None, ANSWER.min(left)) {
            Ok(metadata) => {
                check_advertised(brokers, &metadata)?;
                return Ok((client, metadata));
            }
            Err(error) => error,
        };
        tend(&client);
        let last = client.context().last();
        let fault = brokers.unanswered(patience, last, &error);
        if fault.is_final() {
            return Err(fault);
        }
        // What somebody speaks does not change while we wait; that nobody is there may.
        let fault = match looked.take() {
            Some(told) => told,
            None => brokers.look(fault),
        };
        let certain = matches!(
            fault,
            Fault::Tls { .. } | Fault::Listener { certain: true, .. }
        );
        if certain || started.elapsed() >= patience {
            return Err(fault);
        }
        looked = Some(fault).filter(|fault| matches!(fault, Fault::Listener { .. }));
    }
}

/// Hands what an idle client has to say to its context. A poll that met a log line looks like one
/// that met nothing, so it polls a fixed number of times.
pub fn tend<C: ConsumerContext>(client: &BaseConsumer<C>) {
    for _ in 0..16 {
        let _ = client.poll(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rdkafka::mocking::MockCluster;

    use super::*;

    fn brokers(servers: &str, protocol: Option<&str>) -> Brokers {
        let options = protocol.map(|of| ("security.protocol".to_owned(), of.to_owned()));
        Brokers {
            servers: servers.to_owned(),
            options: options.into_iter().collect(),
            client_id: "test".to_owned(),
        }
    }

    /// What is said of brokers that say `reason` last.
    fn said(protocol: Option<&str>, code: RDKafkaErrorCode, reason: &str) -> String {
        let last = LastError::default();
        last.note(&KafkaError::Global(code), reason);
        let waited = Duration::from_secs(15);
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        let fault = brokers("kafka:9092", protocol).unanswered(waited, &last, &error);
        fault.to_string()
    }

    #[test]
    fn each_cause_has_its_sentence_and_mend() {
        use RDKafkaErrorCode as Code;
        for (protocol, code, reason, words) in [
            (
                None,
                Code::BrokerTransportFailure,
                "kafka:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused",
                "could not reach Kafka at kafka:9092 within 15s",
            ),
            (
                None,
                Code::BrokerTransportFailure,
                "kafka:9092/bootstrap: Disconnected while requesting ApiVersion: might be caused by",
                "its listener does not speak plaintext: check security.protocol",
            ),
            (
                Some("SASL_PLAINTEXT"),
                Code::BrokerTransportFailure,
                "kafka:9092/bootstrap: Send failed: Broken pipe",
                "its listener does not speak sasl_plaintext: check security.protocol",
            ),
            (
                Some("ssl"),
                Code::BrokerTransportFailure,
                "kafka:9092/bootstrap: Disconnected: connecting to a PLAINTEXT broker listener? (after 9ms in state SSL_HANDSHAKE)",
                "could not make a TLS connection to kafka:9092",
            ),
            (
                None,
                Code::Resolve,
                "kafka:9092/bootstrap: Failed to resolve 'kafka:9092': Name or service not known",
                "could not resolve kafka:9092; check kafka.bootstrap_servers",
            ),
            (
                None,
                Code::Resolve,
                "broker-1:9092/1: Failed to resolve 'broker-1:9092': Name or service not known",
                "broker-1:9092 (cannot be resolved); set advertised.listeners",
            ),
            (
                None,
                Code::Authentication,
                "SASL authentication error: Invalid username or password",
                "refused to authenticate this program",
            ),
        ] {
            let said = said(protocol, code, reason);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_port_that_hangs_up_is_told_within_the_patience() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let begun = Instant::now();
        let fault = reach(&brokers(&address, None), Duration::from_secs(3)).map(drop);
        let said = fault.unwrap_err().to_string();
        assert!(
            said.contains("takes connections and hangs up") && said.contains(&address),
            "{said}"
        );
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_port_that_says_nothing_is_told_within_the_patience() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().for_each(std::mem::forget));
        let begun = Instant::now();
        let fault = reach(&brokers(&address, None), REACH).map(drop);
        let said = fault.unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("{address} takes connections and answers nothing")),
            "{said}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn brokers_that_are_nowhere_are_told_in_time_with_the_reason() {
        let begun = Instant::now();
        let fault = reach(&brokers("127.0.0.1:1", None), Duration::from_secs(3)).map(drop);
        let said = fault.unwrap_err().to_string();
        assert!(
            said.contains("could not reach Kafka at 127.0.0.1:1 within 3s")
                && said.contains("refused"),
            "{said}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn brokers_are_tried_by_what_they_advertise() {
        let cluster = MockCluster::new(1).unwrap();
        let own = brokers(&cluster.bootstrap_servers(), None);
        assert!(reach(&own, PATIENCE).is_ok());
        assert!(connect("127.0.0.1", 1).is_err());
        assert!(connect("no-such-host.invalid", 9092).is_err());
        assert!(connect("127.0.0.1", -1).is_err());
    }

    #[test]
    fn leaders_are_asked_again_while_there_is_none() {
        let leaderless = KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition);
        let refused = KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed);
        let mut answers = vec![Ok(3), Err(leaderless.clone())].into_iter().rev();
        let asked = ask_leaders(PATIENCE, || answers.next().unwrap());
        assert_eq!(asked.unwrap(), 3);
        let mut times = 0;
        let mut ask = |error: &KafkaError| {
            ask_leaders(LEADERLESS * 2, || {
                times += 1;
                Err::<(), _>(error.clone())
            })
        };
        assert_eq!(ask(&refused), Err(refused.clone()));
        assert_eq!(ask(&leaderless), Err(leaderless));
        assert!((3..=4).contains(&times), "{times}");
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for servers in [
            "a:9092",
            "10.0.0.1:9092, b.example:1",
            "SASL_SSL://a:9092,[::1]:65535",
        ] {
            check_servers(servers).unwrap();
        }
        for servers in [
            "",
            " ",
            "nohost",
            "a:",
            ":9092",
            "a:99999",
            "a:0",
            "a:b",
            "a:1,",
            "::1:9092",
            "a:1 b:1",
            "http://a/x:1",
        ] {
            let error = check_servers(servers).unwrap_err().to_string();
            assert!(error.contains("host:port"), "{servers:?}: {error}");
        }
    }

    #[test]
    fn nothing_of_a_password_before_a_host_is_told() {
        for servers in [
            "user:hunter2@broker:9092",
            "user@broker:9092",
            "SASL_SSL://user:hunter2@broker:9092",
            "a:1,user:hun,ter2@x:1,hun:ter2@broker:9092",
            "user:hun@ter2@broker:9092",
        ] {
            let error = check_servers(servers).unwrap_err().to_string();
            for part in ["hun", "ter2", "user:"] {
                assert!(!error.contains(part), "{servers:?}: {error}");
            }
            assert!(error.contains("before \"broker:9092\""), "{error}");
            assert!(error.contains("sasl.password.file"), "{error}");
        }
    }
}
