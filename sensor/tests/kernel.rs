//! The kernel part on the real kernel: children of the test do known things, and the records must say exactly those.
//!
//! Needs root and a kernel with type information. Without, each test says why it did nothing; with both it fails when
//! the kernel part cannot be loaded. A child's records are in the ring before `wait` returns, so nothing here waits for
//! luck.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[path = "kernel/act.rs"]
mod act;
#[path = "kernel/calls.rs"]
mod calls;
#[path = "kernel/capabilities.rs"]
mod capabilities;
#[path = "kernel/cgroups.rs"]
mod cgroups;
#[path = "kernel/connects.rs"]
mod connects;
#[path = "kernel/entries.rs"]
mod entries;
#[path = "kernel/examples.rs"]
mod examples;
#[path = "kernel/execs.rs"]
mod execs;
#[path = "kernel/failures.rs"]
mod failures;
#[path = "kernel/hostile.rs"]
mod hostile;
#[path = "kernel/net_bytes.rs"]
mod net_bytes;
#[path = "kernel/open_files.rs"]
mod open_files;
#[path = "kernel/opens.rs"]
mod opens;
#[path = "kernel/processes.rs"]
mod processes;
#[path = "kernel/shares.rs"]
mod shares;
#[path = "kernel/watch.rs"]
mod watch;
