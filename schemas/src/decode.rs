//! From framed records to Arrow columns.

use crate::framing::{Fingerprint, FramingError};
use crate::wire::WireError;

/// Why a message is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message has no readable header.
    #[error("could not read the record's header")]
    Framing(#[from] FramingError),
    /// The message was written with a schema that is not registered: look it up before giving the record up.
    #[error("unknown schema fingerprint {0}: register the writer's schema first")]
    UnknownSchema(Fingerprint),
    /// The bytes do not fit the writer's schema.
    #[error("could not read the record's bytes")]
    Datum(#[from] WireError),
}
