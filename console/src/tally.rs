//! What a run amounted to: events, bytes, alerts, latency and losses, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::latency::Latency;
use crate::render;

/// The figures of a run, at one moment or at its end.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Events handed from the sensor to the processor.
    pub events: u64,
    /// Their framed bytes.
    pub bytes: u64,
    /// Alerts shown.
    pub alerts: u64,
    /// Alerts that came again and were dropped.
    pub repeats: u64,
    /// Time from event to alert; nothing is counted in a replay.
    pub latency: Latency,
    /// Events lost, by class.
    pub losses: BTreeMap<String, u64>,
}

impl Tally {
    /// One line, for now and then.
    pub fn line(&self) -> String {
        format!(
            "{} events ({}), {} alerts, losses: {}",
            grouped(self.events),
            render::bytes(self.bytes),
            grouped(self.alerts),
            losses(&self.losses)
        )
    }

    /// Several lines, for the end; `ran` is how long it ran.
    pub fn summary(&self, ran: Duration) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{name:16}{value}");
        };
        line("ran for", render::duration(ran));
        line(
            "events",
            format!("{} ({})", grouped(self.events), render::bytes(self.bytes)),
        );
        let repeats = if self.repeats == 0 {
            String::new()
        } else {
            format!(" ({} repeats dropped)", self.repeats)
        };
        line("alerts", grouped(self.alerts) + &repeats);
        if let (Some(half), Some(most)) = (self.latency.quantile(0.5), self.latency.quantile(0.99))
        {
            line(
                "event to alert",
                format!(
                    "p50 {}, p99 {}",
                    render::duration(half),
                    render::duration(most)
                ),
            );
        }
        line("losses", losses(&self.losses));
        text
    }
}

/// `ring_full 3, queue_full 1`, or `none`.
pub fn losses(losses: &BTreeMap<String, u64>) -> String {
    let counted: Vec<_> = losses
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(class, count)| format!("{class} {}", grouped(*count)))
        .collect();
    if counted.is_empty() {
        "none".to_owned()
    } else {
        counted.join(", ")
    }
}

/// A number with a comma between each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_run() {
        let tally = Tally {
            events: 12_345,
            bytes: 3 << 20,
            ..Tally::default()
        };
        assert_eq!(
            tally.line(),
            "12,345 events (3.0 MiB), 0 alerts, losses: none"
        );
        assert_eq!(
            tally.summary(Duration::from_secs(90)),
            "\
ran for         90.0 s
events          12,345 (3.0 MiB)
alerts          0
losses          none
"
        );
    }

    #[test]
    fn run_with_everything() {
        let mut tally = Tally {
            events: 1_000,
            bytes: 512,
            alerts: 7,
            repeats: 2,
            ..Tally::default()
        };
        tally.latency.record(Duration::from_millis(40));
        tally.losses = [
            ("ring_full".to_owned(), 3_000),
            ("queue_full".to_owned(), 1),
            ("other".to_owned(), 0),
        ]
        .into();
        assert_eq!(
            tally.summary(Duration::from_millis(2500)),
            "\
ran for         2.5 s
events          1,000 (512 B)
alerts          7 (2 repeats dropped)
event to alert  p50 40 ms, p99 40 ms
losses          queue_full 1, ring_full 3,000
"
        );
    }

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
