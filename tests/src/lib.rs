//! What the tests that cross processes share: a real Kafka, real containers, our programs, and somebody else's reader.
//!
//! Nothing here is a stand-in: brokers are Apache Kafka, containers are those of real runtimes, alerts are read by a Python program
//! that knows only what is documented. What the environment lacks is a panic that says what is missing; a test never
//! passes by skipping quietly.
//!
//! Everything that is started is stopped when its value is dropped, and by the kernel if the test is killed.

pub mod broker;
pub mod cache;
pub mod cri;
pub mod docker;
pub mod events;
pub mod expected;
pub mod load;
pub mod network;
pub mod offsets;
pub mod process;
pub mod programs;
pub mod publish;
pub mod reader;
pub mod rows;
pub mod runtimes;
pub mod scenario;
pub mod wait;
