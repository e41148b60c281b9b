//! Brings a client back that has let go of every broker.
//!
//! A broker that is being stopped may answer that there are no brokers. librdkafka (2.10 to 2.13 at least) then lets go of
//! all it knows, those of `bootstrap.servers` among them, and never connects again (confluentinc/librdkafka issue 5301):
//! no error, no end, nothing written and nothing read. Its statistics show it, and giving it the servers anew mends it.

use std::ffi::CString;
use std::sync::OnceLock;

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafka;

/// How often clients give statistics, milliseconds: so long one may stand still.
pub const STATISTICS_INTERVAL_MS: &str = "5000";

/// Lies in a client's context and looks at its statistics.
#[derive(Debug, Default)]
pub struct Lifeline(OnceLock<Line>);

#[derive(Debug)]
struct Line {
    client: *mut RDKafka,
    servers: CString,
}

// SAFETY: librdkafka's clients may be called from any thread.
unsafe impl Send for Line {}
// SAFETY: as above.
unsafe impl Sync for Line {}

impl Lifeline {
    /// Ties it to the client in whose context it lies, made with these settings.
    pub fn tie<C: ClientContext>(&self, client: &Client<C>, settings: &ClientConfig) {
        let servers = settings.get("bootstrap.servers").unwrap_or_default();
        // A text with a zero byte never became a client.
        if let Ok(servers) = CString::new(servers) {
            let client = client.native_ptr();
            self.0.get_or_init(|| Line { client, servers });
        }
    }

    /// Gives the client its servers anew when it has none; to be called by its context with its statistics.
    pub fn look(&self, statistics: &Statistics) {
        let real = |source: &str| matches!(source, "configured" | "learned");
        if statistics.brokers.values().any(|of| real(&of.source)) {
            return;
        }
        let Some(line) = self.0.get() else {
            return;
        };
        tracing::warn!(
            servers = %line.servers.to_string_lossy(),
            "the brokers said that there are none, and the client let go of them: connecting anew"
        );
        // SAFETY: a client calls its context only while it lives; the text is copied.
        unsafe { rd_kafka_brokers_add(line.client, line.servers.as_ptr()) };
    }
}
