//! Tells in the log that the brokers are away: at once, every 30 s as long as it lasts, and when it is over.

use std::time::{Duration, Instant};

/// How often an outage is told again.
pub(super) const REMINDER: Duration = Duration::from_secs(30);

/// See the module's description.
#[derive(Debug)]
pub(super) struct Outage {
    servers: String,
    /// Since when, and when it was told last.
    lasting: Option<(Instant, Instant)>,
    /// They were there once: before that the search tells of them.
    met: bool,
}

impl Outage {
    pub fn new(servers: String) -> Self {
        Self {
            servers,
            lasting: None,
            met: false,
        }
    }

    /// Takes how it stands now, with the number of records that wait.
    pub fn look(&mut self, connected: bool, waiting: i32) {
        let now = Instant::now();
        match (connected, self.lasting) {
            (true, None) => self.met = true,
            (true, Some((since, _))) => {
                self.lasting = None;
                tracing::info!(
                    servers = self.servers,
                    away_seconds = (now - since).as_secs_f64(),
                    "Kafka is back"
                );
            }
            (false, None) if self.met => {
                self.lasting = Some((now, now));
                tracing::warn!(
                    servers = self.servers,
                    waiting,
                    "no Kafka broker is connected: events wait in memory"
                );
            }
            (false, Some((since, told))) if now - told >= REMINDER => {
                self.lasting = Some((since, now));
                tracing::warn!(
                    servers = self.servers,
                    waiting,
                    away_seconds = (now - since).as_secs_f64(),
                    "still no Kafka broker is connected"
                );
            }
            (false, _) => {}
        }
    }
}
