//! The topic `dogwatch.schemas`: looked up by [`SchemaLookup`], and written at the start with what this program writes by.

use dogwatch_kafka::{Fault, PATIENCE};
use dogwatch_schemas::Fingerprint;

pub use dogwatch_query::schema_lookup::SchemaLookup;

use crate::config::Config;
use crate::sink::{self, Outgoing};

/// Puts schemas into their topic that are not there yet, so that any reader finds what this program writes with.
///
/// # Errors
/// [`Fault`] when the brokers do not take them.
pub fn publish(
    lookup: &SchemaLookup,
    config: &Config,
    own: &[(Fingerprint, &str)],
) -> Result<(), Fault> {
    let record = |(fingerprint, schema): &(Fingerprint, &str)| {
        let key = fingerprint.to_string();
        Outgoing::new(lookup.topic(), key.as_bytes(), schema.as_bytes().to_vec())
    };
    let missing = own
        .iter()
        .filter(|(fingerprint, _)| !lookup.holds(*fingerprint));
    let records: Vec<Outgoing> = missing.map(record).collect();
    if records.is_empty() {
        return Ok(());
    }
    sink::deliver(config, &records, PATIENCE)
}
