//! Which detections a running processor runs, as its metrics say it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::metrics::LOADED_SINCE;

/// How long the processor may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A detection that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub detection: String,
    /// The hash of its file.
    pub content: String,
    /// Since when it runs as it is.
    pub since: SystemTime,
}

/// Why a processor does not tell.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// There is nothing to ask.
    #[error(
        "metrics.listen is empty, so a processor tells nobody what it runs: give it an address"
    )]
    Silent,
    /// Nobody answers.
    #[error(
        "no processor answers at {listen}: {source}; ask where it runs, with its configuration (metrics.listen)"
    )]
    Away {
        /// Where it was asked.
        listen: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody else answers.
    #[error(
        "what answers at {listen} says of no detection whether it runs: it is no processor, or one of before"
    )]
    Other {
        /// Where it was asked.
        listen: SocketAddr,
    },
}

/// Asks the processor whose metrics are served at `listen`; its detections by name.
///
/// # Errors
/// [`RunningError`] when nobody answers, or somebody else.
pub fn ask(listen: SocketAddr) -> Result<Vec<Running>, RunningError> {
    let away = |source| RunningError::Away { listen, source };
    let text = metrics_of(listen).map_err(away)?;
    let mut running: Vec<Running> = text.lines().filter_map(parse).collect();
    if running.is_empty() {
        return Err(RunningError::Other { listen });
    }
    running.retain(|own| own.since > UNIX_EPOCH);
    running.sort_by(|left, right| left.detection.cmp(&right.detection));
    Ok(running)
}

fn metrics_of(listen: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&listen, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Of this version the answer comes in one piece, and its end is the connection's.
    // In one piece: who answers the first of several and closes leaves the others nowhere to go.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {listen}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads a line of the metric.
fn parse(line: &str) -> Option<Running> {
    let labels = line.strip_prefix(LOADED_SINCE)?.strip_prefix('{')?;
    let (labels, value) = labels.rsplit_once('}')?;
    let label = |name: &str| {
        let labels = labels.split(',');
        let mut own = labels.filter_map(|label| label.split_once('='));
        let (_, value) = own.find(|(found, _)| found.trim() == name)?;
        Some(value.trim_matches('"').to_owned())
    };
    let seconds: f64 = value.trim().parse().ok()?;
    Some(Running {
        detection: label("detection")?,
        content: label("content")?,
        since: UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with a text.
    fn serve(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let listen = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked).expect("a request");
            stream.write_all(text.as_bytes()).expect("an answer");
        });
        listen
    }

    #[test]
    fn what_runs_is_read_from_the_metrics() {
        let listen = serve(
            "HTTP/1.0 200 OK\r\n\r\n# TYPE dogwatch_detect_loaded_since_seconds gauge\n\
             dogwatch_detect_loaded_since_seconds{detection=\"b\",content=\"0a\"} 1800000000.5\n\
             dogwatch_detect_loaded_since_seconds{detection=\"a\",content=\"0b\"} 0\n\
             dogwatch_detect_loaded_since_seconds{detection=\"a\",content=\"0c\"} 1.8e9\n\
             dogwatch_detect_detections 2\n",
        );
        let own = |detection: &str, content: &str, millis| Running {
            detection: detection.to_owned(),
            content: content.to_owned(),
            since: UNIX_EPOCH + Duration::from_millis(millis),
        };
        let found = ask(listen).expect("an answer");
        let expected = [
            own("a", "0c", 1_800_000_000_000),
            own("b", "0a", 1_800_000_000_500),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn whoever_does_not_answer_is_named() {
        let listen = serve("HTTP/1.0 404 Not Found\r\n\r\n");
        let error = ask(listen).expect_err("no processor").to_string();
        assert!(
            error.contains(&listen.to_string()) && error.contains("no processor"),
            "{error}"
        );
        let free = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let listen = free.local_addr().expect("an address");
        drop(free);
        assert!(matches!(ask(listen), Err(RunningError::Away { .. })));
    }
}
