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
