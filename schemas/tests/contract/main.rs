//! What the crate promises to those who never see its code: other Avro readers, older and newer versions, and the documents.

// Helpers panic as tests do; clippy.toml's permission reaches only functions that are tests themselves.
#![allow(clippy::unwrap_used)]

mod compatibility;
mod container_files;
mod damage;
mod differential;
mod events_reference;
mod null_runs;
mod resolution;
mod semantics;
mod support;
