//! What a sensor costs while containers work: CPU, resident memory, and bytes on the way to Kafka.
//!
//! The whole host is seen, with whatever else runs on it: a quiet machine gives the better numbers.

use crate::table::Table;
use anyhow::{Context, Result};
use dogwatch_tests::broker::Broker;
use dogwatch_tests::docker::Container;
use dogwatch_tests::process::Process;
use dogwatch_tests::programs;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

const DAY_SECONDS: f64 = 86_400.0;
/// Time for the sensor's first rows, which are not part of what is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// The machine's own compiler and package manager, seen from inside a container.
const TOOLS: [&str; 6] = [
    "-v",
    "/usr:/usr:ro",
    "-v",
    "/lib:/lib:ro",
    "-v",
    "/lib64:/lib64:ro",
];

/// Something containers do for some time; each line of shell runs in a container of its own.
struct Workload {
    name: &'static str,
    containers: usize,
    line: &'static str,
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "10 idle containers",
        containers: 10,
        line: "exec /bin/sleep 600",
    },
    Workload {
        name: "a web server that forks, one client as fast as it goes",
        containers: 1,
        line: "busybox httpd -p 127.0.0.1:8080 -h /etc; exec /usr/bin/bash -c 'while :; do exec 3<>/dev/tcp/127.0.0.1/8080; \
               printf \"GET /passwd HTTP/1.0\\r\\n\\r\\n\" >&3; while read -r line <&3; do :; done; exec 3>&-; done'",
    },
    Workload {
        name: "a C build, one file after the other",
        containers: 1,
        line: "cd /tmp; printf '#include <stdio.h>\\nint main(void) { return puts(\"x\"); }' >a.c; \
               while :; do /usr/bin/gcc -O1 -c a.c -o a.o; done",
    },
    Workload {
        name: "installing a package of 200 files, over and over",
        containers: 1,
        line: "mkdir -p /tmp/p/DEBIAN /tmp/p/opt/p /tmp/r/var/lib/dpkg/updates /tmp/r/var/lib/dpkg/info; : >/tmp/r/var/lib/dpkg/status; \
               printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: n\\nDescription: d\\n' >/tmp/p/DEBIAN/control; \
               for n in $(seq 200); do echo $n >/tmp/p/opt/p/$n; done; /usr/bin/dpkg-deb -b /tmp/p /tmp/p.deb; \
               while :; do /usr/bin/dpkg --root=/tmp/r --force-all -i /tmp/p.deb; done",
    },
];

/// What a sensor may compress with, each at its default level.
const COMPRESSIONS: [&str; 2] = ["lz4", "zstd"];

/// Runs each workload for `seconds` under a sensor that publishes to a real broker, once with each compression.
///
/// # Errors
/// When the sensor or a workload does not run.
pub fn run(seconds: u64) -> Result<Table> {
    let mut table = Table::new(&[
        "workload",
        "compression",
        "CPU of one core",
        "CPU µs/event",
        "resident MiB",
        "events/s",
        "bytes/event framed",
        "bytes/event on disk",
        "GB per host and day",
    ]);
    table.note(format!(
        "{seconds} s each; the whole host is watched, containers at normal, the host at lifecycle"
    ));
    for workload in &WORKLOADS {
        for compression in COMPRESSIONS {
            let row = measure(workload, compression, Duration::from_secs(seconds));
            table.row(row.with_context(|| workload.name)?);
        }
    }
    Ok(table)
}

fn measure(workload: &Workload, compression: &str, time: Duration) -> Result<[String; 9]> {
    let broker = Broker::start();
    let folder = tempfile::tempdir()?;
    let mut sensor = programs::sensor(
        &broker.address(),
        &[
            ("METRICS__LISTEN", "127.0.0.1:19464"),
            ("KAFKA__COMPRESSION", compression),
        ],
        folder.path(),
    );
    sensor.wait_for_text("watching", Duration::from_secs(30));
    let shell = ["/bin/sh", "-c", workload.line];
    let containers: Vec<Container> = (0..workload.containers)
        .map(|number| Container::start(&format!("bench-{number}"), &TOOLS, &shell))
        .collect();
    sleep(SETTLE);

    let (start, before) = (Instant::now(), Usage::of(&sensor, &broker)?);
    sleep(time);
    let (seconds, after) = (start.elapsed().as_secs_f64(), Usage::of(&sensor, &broker)?);
    drop(containers);
    sensor.stop(Duration::from_secs(30));

    let events = (after.events - before.events).max(1.0);
    let framed = (after.bytes - before.bytes) / events;
    let stored = (after.stored - before.stored) / events;
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    Ok([
        workload.name.to_owned(),
        compression.to_owned(),
        format!("{:.1} %", 100.0 * cpu_seconds / seconds),
        format!("{:.1}", 1e6 * cpu_seconds / events),
        format!("{:.0}", after.resident_mib),
        format!("{:.0}", events / seconds),
        format!("{framed:.0}"),
        format!("{stored:.0}"),
        format!("{:.2}", stored * events / seconds * DAY_SECONDS / 1e9),
    ])
}

/// What a sensor has used and published up to now.
struct Usage {
    cpu_seconds: f64,
    resident_mib: f64,
    events: f64,
    bytes: f64,
    stored: f64,
}

impl Usage {
    fn of(sensor: &Process, broker: &Broker) -> Result<Self> {
        let (cpu_seconds, resident_mib) = process_usage(sensor.pid())?;
        let metrics = metrics()?;
        Ok(Self {
            cpu_seconds,
            resident_mib,
            events: metric(&metrics, "dogwatch_publish_events_total")?,
            bytes: metric(&metrics, "dogwatch_publish_framed_bytes_total")?,
            stored: stored_bytes(broker)?,
        })
    }
}

/// CPU seconds so far and resident MiB, from `/proc`.
fn process_usage(pid: u32) -> Result<(f64, f64)> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 and 15 of proc(5); what stands before the name's closing parenthesis may hold blanks.
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks: f64 = fields
        .get(11..13)
        .context("stat is too short")?
        .iter()
        .map(|field| field.parse().unwrap_or(0.0))
        .sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kibibytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok((ticks / TICKS_PER_SECOND, kibibytes / 1024.0))
}

fn metrics() -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:19464")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sum of a metric over its labels.
fn metric(text: &str, name: &str) -> Result<f64> {
    let values = text
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let values: Vec<f64> = values.collect();
    anyhow::ensure!(!values.is_empty(), "the sensor has no metric {name}");
    Ok(values.iter().sum())
}

/// Bytes of the topic of events in the broker's log.
fn stored_bytes(broker: &Broker) -> Result<f64> {
    let text = broker.tool(
        "org.apache.kafka.tools.LogDirsCommand",
        &["--describe", "--topic-list", "dogwatch.events"],
    );
    let json = text
        .lines()
        .find(|line| line.starts_with('{'))
        .context("kafka-log-dirs gave no JSON")?;
    let answer: serde_json::Value = serde_json::from_str(json)?;
    let partitions = answer["brokers"][0]["logDirs"][0]["partitions"]
        .as_array()
        .context("no partitions")?;
    Ok(partitions
        .iter()
        .filter_map(|partition| partition["size"].as_f64())
        .sum())
}
