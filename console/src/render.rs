//! Alerts as text for a terminal.
//!
//! ```text
//! 12:01:02.345Z  HIGH      Shell on a socket  (41 ms)
//!     a shell of shop-api talks to 203.0.113.66:4444
//!     container  shop (0123456789ab), image shop:1, host web-1
//!     process    bash[8125] "bash -i" as root  <  sh[8124]  <  shop-api[8100]
//!     detection  reverse_shell, T1059.004, alert 0011…
//! ```
//!
//! Command lines and paths are the attacker's to choose: control characters are written as `\xNN`, so nothing in an
//! alert can move the cursor, change colours or hide a line.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::DateTime;
use dogwatch_schemas::records::{Alert, AlertProcess};
use serde_json::Value;

/// The host id of alerts over all hosts.
const FLEET_HOST: &str = "fleet";

/// Characters of a command line that are shown.
const COMMAND_CHARS: usize = 160;
/// Ancestors that are shown.
const ANCESTORS: usize = 4;

/// Whether escape sequences for colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Written.
    Ansi,
    /// Not written.
    Plain,
}

impl Colour {
    /// Colours when `terminal` says the output is one and `NO_COLOR` is unset or empty (<https://no-color.org>).
    pub fn for_output(terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if terminal && !refused {
            Self::Ansi
        } else {
            Self::Plain
        }
    }

    /// Wraps `text` into the escape sequence `code` (such as `1;31`).
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Renders `alert` as five lines, each ended by a line feed. `latency` (event to alert) is left out when `None`.
pub fn alert(alert: &Alert, latency: Option<Duration>, colour: Colour) -> String {
    let mut text = heading(alert, latency, colour);
    let mut line = |name: &str, value: String| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "    {}  {value}",
            colour.paint("2", &format!("{name:9}"))
        );
    };
    line("container", container(alert));
    if let Some(process) = &alert.process {
        line("process", lineage(process, &alert.ancestors));
    }
    line("detection", detection(alert));
    for note in notes(alert) {
        line("note", note);
    }
    text
}

/// A duration a person can compare at a glance: `850 µs`, `41 ms`, `2.3 s`.
pub fn duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        micros @ 1_000..1_000_000 => format!("{} ms", micros / 1_000),
        micros => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// A number of bytes with the unit that keeps it short: `512 B`, `3.4 KiB`, `12.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `text` with every control character written as `\xNN` or `\u{NNNN}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character as u32 {
            code @ (0..=0x1f | 0x7f..=0x9f) => shown += &format!("\\x{code:02x}"),
            // Marks that reverse the direction of text can make a line read as another one.
            code @ (0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069) => {
                shown += &format!("\\u{{{code:04x}}}")
            }
            _ => shown.push(character),
        }
    }
    shown
}

fn heading(alert: &Alert, latency: Option<Duration>, colour: Colour) -> String {
    let at = DateTime::from_timestamp_nanos(alert.event_ts).format("%H:%M:%S%.3fZ");
    let severity = colour.paint(
        severity_code(&alert.severity),
        &format!("{:8}", alert.severity.to_uppercase()),
    );
    let title = colour.paint("1", &printable(&alert.detection_title));
    let latency = latency
        .map(|latency| format!("  ({})", duration(latency)))
        .unwrap_or_default();
    let update = match &*alert.activity {
        "update" => "  (update)",
        _ => "",
    };
    format!(
        "{at}  {severity}  {title}{latency}{update}\n    {}\n",
        printable(&alert.message)
    )
}

fn severity_code(severity: &str) -> &'static str {
    match severity {
        "critical" => "1;97;41",
        "high" => "1;31",
        "medium" => "33",
        "low" => "36",
        _ => "2",
    }
}

fn container(alert: &Alert) -> String {
    let host = printable(&alert.host_name);
    match &*alert.container_id {
        "host" => return format!("none, host {host}"),
        // A program of ours that speaks of itself or of several hosts is in none that it knows of.
        "" => {
            let row = serde_json::from_str::<Value>(&alert.row).unwrap_or_default();
            let processor = row["processor"].as_str();
            let processor = processor.map(|name| format!(", processor {}", printable(name)));
            return format!("none told, host {host}{}", processor.unwrap_or_default());
        }
        _ => {}
    }
    let mut text = match &alert.container_name {
        Some(name) => format!("{} ({})", printable(name), alert.container_id),
        None => alert.container_id.to_string(),
    };
    if let Some(image) = &alert.container_image {
        let _ = write!(text, ", image {}", printable(image));
    }
    if let Some(pod) = &alert.k8s_pod_name {
        let namespace = alert.k8s_ns_name.as_deref().unwrap_or("?");
        let _ = write!(text, ", pod {}/{}", printable(namespace), printable(pod));
    }
    let _ = write!(text, ", host {host}");
    text
}

fn lineage(process: &AlertProcess, ancestors: &[AlertProcess]) -> String {
    let mut text = name_and_pid(process);
    if let Some(command) = &process.cmdline {
        let _ = write!(text, " \"{}\"", shortened(command));
    }
    match (&process.user_name, process.uid) {
        (Some(user), _) if !user.is_empty() => text += &format!(" as {}", printable(user)),
        (_, Some(uid)) => text += &format!(" as uid {uid}"),
        _ => {}
    }
    for ancestor in ancestors.iter().take(ANCESTORS) {
        let _ = write!(text, "  <  {}", name_and_pid(ancestor));
    }
    if ancestors.len() > ANCESTORS {
        text.push_str("  <  …");
    }
    text
}

fn name_and_pid(process: &AlertProcess) -> String {
    format!(
        "{}[{}]",
        printable(process.name.as_deref().unwrap_or("?")),
        process.pid
    )
}

fn shortened(command: &str) -> String {
    match command.char_indices().nth(COMMAND_CHARS) {
        Some((end, _)) => printable(&command[..end]) + "…",
        None => printable(command),
    }
}

fn detection(alert: &Alert) -> String {
    let mut text = alert.detection_id.to_string();
    for technique in &alert.attack {
        let _ = write!(text, ", {technique}");
    }
    let _ = write!(text, ", alert {}", alert.alert_id);
    text
}

/// What a reader must know before trusting the alert's silence about something.
fn notes(alert: &Alert) -> Vec<String> {
    let mut notes = Vec::new();
    match alert.window_state.as_deref() {
        Some("open") => {
            notes.push("its window is still open: what stands here is what made it fire".to_owned())
        }
        Some("closed") if alert.activity == "update".into() => {
            notes.push("its window is over: these are the final figures".to_owned());
        }
        _ => {}
    }
    if alert.clock_stepped {
        notes.push("a step of the host's clock closed its window".to_owned());
    }
    if alert.folded > 0 {
        notes.push(format!("stands for {} more of its kind", alert.folded));
    }
    if alert.delayed {
        notes.push("the event came long after it happened".to_owned());
    }
    if alert.incomplete {
        let of_fleet = &*alert.host_id == FLEET_HOST;
        let losses = alert.losses.iter().flatten();
        let losses = losses.map(|(class, count)| match of_fleet {
            true => format!("{class} {count} {}", unit(class, *count)),
            false => format!("{class} {count}"),
        });
        let losses = losses.collect::<Vec<_>>().join(", ");
        notes.push(match of_fleet {
            true => {
                format!("its window of the whole fleet lacks something: {losses} (docs/fleet.md)")
            }
            false => format!("events of this host were lost: {losses}"),
        });
    }
    notes
}

/// What is counted of a class of losses in windows of the whole fleet.
fn unit(class: &str, count: i64) -> &'static str {
    let (one, more) = match class {
        "late_rows" | "not_computed" => ("row", "rows"),
        "seconds_missing" => ("second", "seconds"),
        "unread_parts" => ("part", "parts"),
        "not_loaded" | "exchange_resized" => ("time", "times"),
        "keys_over_cap" => ("key", "keys"),
        _ => ("event", "events"),
    };
    if count == 1 { one } else { more }
}

#[cfg(test)]
mod tests;
