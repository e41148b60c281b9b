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
    /// Containers that the sensor knows.
    pub containers: usize,
    /// Events that the processor matched.
    pub matched: u64,
    /// Events and windows that detections could not judge.
    pub unjudged: u64,
    /// Records that the processor could not read.
    pub unreadable: u64,
    /// Their framed bytes.
    pub bytes: u64,
    /// Alerts shown.
    pub alerts: u64,
    /// Later words on alerts: final figures of windows, counts of folded repeats.
    pub updates: u64,
    /// Words on alerts that came again and were dropped.
    pub repeats: u64,
    /// Time from event to alert; nothing is counted in a replay.
    pub latency: Latency,
    /// Events lost, by class.
    pub losses: BTreeMap<String, u64>,
}

impl Tally {
    /// One line, for now and then: what each part does; `before` are the figures of the line before.
    pub fn line(&self, before: &Self) -> String {
        let sensor = format!(
            "sensor: {} events ({}) of {}, losses: {}",
            grouped(self.events),
            render::bytes(self.bytes),
            counted(self.containers as u64, "container"),
            losses(&self.losses)
        );
        let mut processor = format!("processor: {} matched", grouped(self.matched));
        if self.matched == before.matched && self.events > self.matched {
            processor += ", STANDS STILL";
        }
        processor += &self.faults();
        let updates = match self.updates {
            0 => String::new(),
            count => format!(", {}", counted(count, "update")),
        };
        let alerts = counted(self.alerts, "alert");
        format!("{sensor}; {processor}; {alerts}{updates}")
    }

    /// What the processor could not use, where there is any.
    fn faults(&self) -> String {
        let mut text = String::new();
        for (count, fault) in [
            (self.unjudged, "could not be judged"),
            (self.unreadable, "could not be read"),
        ] {
            if count > 0 {
                text += &format!(", {} {fault}", grouped(count));
            }
        }
        text
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
        line(
            "matched",
            format!("{}{}", grouped(self.matched), self.faults()),
        );
        let more = [(self.updates, "updates"), (self.repeats, "repeats dropped")];
        let more = more.into_iter().filter(|(count, _)| *count > 0);
        let more: Vec<String> = more
            .map(|(count, what)| format!("{} {what}", grouped(count)))
            .collect();
        let more = match more.is_empty() {
            true => String::new(),
            false => format!(" ({})", more.join(", ")),
        };
        line("alerts", grouped(self.alerts) + &more);
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

/// `1 alert`, `1,200 alerts`.
fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
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
            containers: 3,
            matched: 12_340,
            ..Tally::default()
        };
        assert_eq!(
            tally.line(&Tally::default()),
            "sensor: 12,345 events (3.0 MiB) of 3 containers, losses: none; processor: 12,340 matched; 0 alerts"
        );
        assert_eq!(
            tally.summary(Duration::from_secs(90)),
            "\
ran for         90.0 s
events          12,345 (3.0 MiB)
matched         12,340
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
            matched: 999,
            unjudged: 2,
            updates: 4,
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
matched         999, 2 could not be judged
alerts          7 (4 updates, 2 repeats dropped)
event to alert  p50 40 ms, p99 40 ms
losses          queue_full 1, ring_full 3,000
"
        );
    }

    /// A processor that hangs must not read like one that finds nothing.
    #[test]
    fn a_processor_that_stands_still_is_told() {
        let before = Tally {
            events: 10,
            matched: 10,
            ..Tally::default()
        };
        let mut now = Tally {
            events: 30,
            alerts: 1,
            updates: 1,
            unreadable: 2,
            containers: 1,
            ..before.clone()
        };
        let told = now.line(&before);
        assert!(told.contains("of 1 container, "), "{told}");
        assert!(
            told.ends_with(
                "processor: 10 matched, STANDS STILL, 2 could not be read; 1 alert, 1 update"
            ),
            "{told}"
        );
        now.matched = 11;
        assert!(!now.line(&before).contains("STANDS"));
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
