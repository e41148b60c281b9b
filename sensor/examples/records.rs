//! Prints what the kernel part sends, one parsed record a line, for the given number of seconds: for developing it.

use std::time::{Duration, Instant};

use dogwatch_ebpf::{Joiner, parse};
use dogwatch_sensor::probe::{Probe, ProbeOptions};

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    let mut probe = Probe::load(&ProbeOptions::default()).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(3)
    });
    eprintln!("own pid {}, {:?}", probe.own_pid(), probe.hierarchy());
    let mut joiner = Joiner::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        probe.drain(Duration::from_millis(20), &mut |bytes| match parse(bytes) {
            Ok(raw) => joiner.push(raw, &mut |record| {
                println!("{}", readable(&format!("{record:?}")))
            }),
            Err(error) => eprintln!("{error}"),
        });
    }
    match probe.counters() {
        Ok(counters) => eprintln!("{counters:#?}"),
        Err(error) => eprintln!("{error}"),
    }
}

/// Byte lists of the debug form as text.
fn readable(record: &str) -> String {
    let mut out = String::new();
    let mut rest = record;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let Some((list, after)) = after.split_once(']') else {
            break;
        };
        let bytes: Option<Vec<u8>> = list.split(", ").map(|number| number.parse().ok()).collect();
        match bytes {
            Some(bytes) if list.contains(", ") => {
                out.push_str(&format!("{:?}", String::from_utf8_lossy(&bytes)))
            }
            _ => out.push_str(&format!("[{list}]")),
        }
        rest = after;
    }
    out + rest
}
