//! Dogwatch's benchmarks: each compares in one run, and prints Markdown for `docs/benchmarks.md`.
//!
//! What needs a broker starts a real one, as the tests do (`./dogwatch.sh install` brings it).

use anyhow::Result;
use clap::{Parser, Subcommand};
use latency::{HAPPENINGS, Pace};
use measure::Rounds;

mod alerts;
mod codec;
mod detections;
mod events;
mod fleet;
mod latency;
mod matching;
mod measure;
mod memory;
mod sensor;
mod stream;
mod table;

/// Measures Dogwatch beside what it is compared to.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Small inputs and few runs: shows that the benchmarks work, not how fast anything is.
    #[arg(long, global = true)]
    smoke: bool,
    /// How often throughput and latency run everything, one after the other: what is said is the median.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Only what has this text in its name, of throughput and latency.
    #[arg(long, global = true, value_name = "TEXT", default_value = "")]
    only: String,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Encoding and decoding of events, beside apache-avro and arrow-avro.
    Codec,
    /// One step of the engine at 1, 10 and 100 detections, beside one SQL statement for each.
    Matching,
    /// What alerts cost the engine: folded matches, thresholds crossed, the shipped detections.
    Alerts,
    /// Events per second over a real broker, beside a bare consumer of the same topic.
    Throughput,
    /// Time from an event's append to its committed alert, over a real broker.
    Latency,
    /// Time from a system call in a container to its committed alert; needs root and Docker.
    Path,
    /// Longest wait for an alert when processors come, go and are killed.
    Standstill,
    /// Resident memory beside the printed bound, with more keys than are kept.
    Memory,
    /// Detections over the whole fleet, simulated: both stages, by the number of hosts and of events.
    Fleet {
        /// Hosts of a further row, such as 10000.
        #[arg(long, value_name = "COUNT")]
        hosts: Option<usize>,
    },
    /// What a sensor costs while containers work; needs root and Docker.
    Sensor,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (events, runs) = if arguments.smoke {
        (1024, 3)
    } else {
        (8192, 15)
    };
    let rounds = Rounds {
        count: if arguments.smoke { 1 } else { arguments.rounds },
        only: arguments.only,
    };
    let table = match arguments.benchmark {
        Benchmark::Codec => codec::run(events, runs)?,
        Benchmark::Matching => matching::run(events, runs)?,
        Benchmark::Alerts => alerts::run(if arguments.smoke { 1 } else { runs })?,
        Benchmark::Throughput => {
            stream::throughput(if arguments.smoke { 50_000 } else { 2_000_000 }, &rounds)?
        }
        Benchmark::Sensor => sensor::run(if arguments.smoke { 2 } else { 30 })?,
        Benchmark::Fleet { .. } if arguments.smoke => {
            fleet::run(&fleet::sizes(&[10, 20], 12, None))?
        }
        Benchmark::Fleet { hosts } => fleet::run(&fleet::sizes(&[250, 1_000], 30, hosts))?,
        Benchmark::Latency if arguments.smoke => latency::from_append(&Pace::SMOKE, &rounds)?,
        Benchmark::Latency => latency::from_append(&Pace::FULL, &rounds)?,
        Benchmark::Path => latency::from_system_call(if arguments.smoke { 20 } else { 1_000 })?,
        Benchmark::Standstill if arguments.smoke => latency::standstill(1_000, &HAPPENINGS[2..3])?,
        Benchmark::Standstill => latency::standstill(5_000, &HAPPENINGS)?,
        Benchmark::Memory => memory::run(if arguments.smoke { 20_000 } else { 1_000_000 })?,
    };
    println!("{table}");
    Ok(())
}
