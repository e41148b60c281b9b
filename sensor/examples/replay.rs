//! Replays a capture as fast as it goes through all stages but a broker, and says what an event costs: for measuring.
//!
//! ```sh
//! dogwatch-sensor record /tmp/some.capture              # as root, while something happens
//! cargo run --release --example replay -- /tmp/some.capture 3
//! ```

use std::path::PathBuf;
use std::time::Instant;

use dogwatch_sensor::config::{Config, RawConfig};
use dogwatch_sensor::pipeline::{self, Input, Output, Shutdown};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().unwrap_or_else(|| fail("name a capture")));
    let rounds = arguments.next().and_then(|text| text.parse().ok());
    let raw = RawConfig {
        state_file: String::new(),
        ..RawConfig::default()
    };
    let config = Config::check(raw).unwrap_or_else(|error| fail(&error.to_string()));
    for _ in 0..rounds.unwrap_or(1) {
        let (start, cpu_before_ns) = (Instant::now(), cpu_ns());
        let summary = pipeline::run(
            config.clone(),
            Input::Replay(vec![path.clone()]),
            Output::Discard,
            Shutdown::new(),
        )
        .unwrap_or_else(|error| fail(&error.to_string()));
        let events = summary.events as f64;
        println!(
            "{events} events: {:.0} events/s, {:.2} µs of CPU an event, {:.0} bytes framed",
            events / start.elapsed().as_secs_f64(),
            (cpu_ns() - cpu_before_ns) as f64 / 1e3 / events,
            summary.bytes as f64 / events,
        );
    }
}

/// CPU time of this process so far.
fn cpu_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid and writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn fail(reason: &str) -> ! {
    eprintln!("replay: {reason}");
    std::process::exit(1)
}
