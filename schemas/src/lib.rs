//! Dogwatch's contract: what an event, an alert, a container and a sensor's status hold, and how they travel.
//!
//! The `*.avsc` files beside this crate are the one definition.
//! From them come the Rust records ([`records`]), their bytes on the wire ([`wire`], [`framing`]) and their form as Arrow columns ([`decode`]).
//! [`vocabulary`] is what is known of columns' values beforehand, [`errno`] the names of errors.
//! [`calls`] is which system calls sensors see, and which columns they have; [`arguments`] what they have in `evt_args`.
//! [`like`], [`flags`] and [`nearest`] tell which texts a column can have, and which was meant.
//! [`time`] is how times are written in JSON.
//! [`reads`] is how a sensor says which reads it publishes, and a detection which it needs.
//! [`topics`] names the topics they travel on, [`local`] is the road they take where there is no broker.
//!
//! ```text
//! sensor:     Event ── encode_framed ──► bytes            (apache-avro reads the same bytes)
//! processor:  bytes ── BatchDecoder::push ──► columns ── finish ──► RecordBatch
//! ```
//!
//! This crate does no input or output, has no clock, and knows neither kernels nor Kafka clients nor SQL engines.

use std::sync::Arc;

pub mod arguments;
pub mod calls;
mod canonical;
pub mod decode;
pub mod errno;
pub mod flags;
pub mod framing;
pub mod like;
pub mod local;
pub mod nearest;
pub mod proc_key;
pub mod reads;
pub mod records;
pub mod time;
pub mod topics;
pub mod vocabulary;
pub mod wire;

pub use framing::Fingerprint;
pub use proc_key::proc_key;

/// Text of a record: cheap to clone, because most texts of an event are those of its process and container.
pub type Text = Arc<str>;
