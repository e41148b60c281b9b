//! Which brokers, and how they are spoken to: what every client of a program shares.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::metadata::Metadata;

use crate::context::ErrorKeeper;
use crate::fault::Fault;
use crate::lifeline::STATISTICS_INTERVAL_MS;

/// How long a broker may take to answer at start.
pub const PATIENCE: Duration = Duration::from_secs(15);

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

/// An entry of a list of brokers that is no address.
#[derive(Debug, thiserror::Error)]
#[error("{entry:?} is not host:port, such as broker1:9092")]
pub struct BadAddress {
    /// The entry.
    pub entry: String,
}

/// Checks a list of brokers: `host:port` separated by commas, with or without librdkafka's `PROTOCOL://` before them.
///
/// # Errors
/// [`BadAddress`] for the first entry that is none, and for a list without entries.
pub fn check_servers(servers: &str) -> Result<(), BadAddress> {
    match servers
        .split(',')
        .map(str::trim)
        .find(|entry| !is_address(entry))
    {
        None => Ok(()),
        Some(entry) => Err(BadAddress {
            entry: entry.to_owned(),
        }),
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

/// Asks the brokers for their topics, for at most `patience`.
///
/// # Errors
/// [`Fault`]; a refused authentication and TLS that fails are reported at once, an unreachable broker after the patience.
pub fn reach(
    brokers: &Brokers,
    patience: Duration,
) -> Result<(BaseConsumer<ErrorKeeper>, Metadata), Fault> {
    let client = ErrorKeeper::consumer(&brokers.settings())
        .map_err(|error| Fault::of("make a Kafka client", &error))?;
    let started = Instant::now();
    loop {
        let error = match client.fetch_metadata(None, ANSWER) {
            Ok(metadata) => return Ok((client, metadata)),
            Err(error) => error,
        };
        tend(&client);
        let last = client.context().last();
        let fault = Fault::unanswered(&brokers.servers, started.elapsed(), last, &error);
        let certain = fault.is_final() || matches!(fault, Fault::Tls { .. });
        if certain || started.elapsed() >= patience {
            return Err(fault);
        }
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
    use super::*;

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
}
