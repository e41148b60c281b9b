//! What a client's errors mean, and what mends them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What an error of a client means, and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An option that librdkafka does not take.
    #[error("could not set up a Kafka client: {0}; check kafka.options")]
    Options(String),
    /// Nobody answers.
    #[error(
        "could not reach Kafka at {servers} within {}s: {reason}; check kafka.bootstrap_servers and that the broker runs",
        waited.as_secs().max(1)
    )]
    Unreachable {
        /// Where it was looked for.
        servers: String,
        /// How long.
        waited: Duration,
        /// The client's last word.
        reason: String,
    },
    /// The broker does not accept who we are.
    #[error(
        "the broker at {servers} refused to authenticate this program: {reason}; check security.protocol and sasl.* in kafka.options"
    )]
    Unauthenticated {
        /// The broker's address.
        servers: String,
        /// The client's last word.
        reason: String,
    },
    /// No TLS session could be made.
    #[error(
        "could not make a TLS connection to {servers}: {reason}; check security.protocol and ssl.* in kafka.options"
    )]
    Tls {
        /// The broker's address.
        servers: String,
        /// The client's last word.
        reason: String,
    },
    /// The broker knows us and says no.
    #[error("not allowed to {action}: {reason}; grant it to this program's principal")]
    Unauthorised {
        /// What was attempted.
        action: String,
        /// The broker's answer.
        reason: String,
    },
    /// Anything else.
    #[error("could not {action}: {reason}")]
    Other {
        /// What was attempted.
        action: String,
        /// The client's answer.
        reason: String,
    },
}

impl Fault {
    /// Names what `code` means for `action`.
    pub fn new(action: &str, code: Option<RDKafkaErrorCode>, reason: String) -> Self {
        let action = action.to_owned();
        match code {
            Some(code) if is_refusal(code) => Self::Unauthorised { action, reason },
            _ => Self::Other { action, reason },
        }
    }

    /// Names what an error of the client library means for `action`.
    pub fn of(action: &str, error: &KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, description, option, value) => {
                Self::Options(format!("{option} = {value:?}: {description}"))
            }
            _ => Self::new(action, error.rdkafka_error_code(), error.to_string()),
        }
    }

    /// Names why brokers did not answer within `waited`: the last thing the client said of its connections names the
    /// cause that the error of the call does not.
    pub fn unanswered(
        servers: &str,
        waited: Duration,
        last: &LastError,
        error: &KafkaError,
    ) -> Self {
        use RDKafkaErrorCode as Code;
        let servers = servers.to_owned();
        let (code, reason) = last
            .last()
            .unwrap_or((Code::BrokerTransportFailure, error.to_string()));
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => {
                Self::Unauthenticated { servers, reason }
            }
            Code::SSL => Self::Tls { servers, reason },
            // A listener without TLS just hangs up during the handshake.
            _ if reason.contains("SSL_HANDSHAKE") => Self::Tls { servers, reason },
            _ => Self::Unreachable {
                servers,
                waited,
                reason,
            },
        }
    }

    /// Says whether the environment is at fault (address, rights), not this run.
    pub fn environment(&self) -> bool {
        !matches!(self, Self::Other { .. } | Self::Options(_))
    }

    /// Says whether only a person can mend it: waiting does not.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Options(_) | Self::Unauthenticated { .. } | Self::Unauthorised { .. }
        )
    }
}

/// Says whether a broker's answer is that this program's principal may not do what it asked for.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::DelegationTokenAuthorizationFailed
    )
}

/// The last thing a client said of its connections; shared with librdkafka's threads.
#[derive(Debug, Default)]
pub struct LastError(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl LastError {
    /// Takes what the client says.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers down" follows every cause and says less.
        if last.is_none() || code != RDKafkaErrorCode::AllBrokersDown {
            *last = Some((code, reason.to_owned()));
        }
    }

    /// Returns its code and words.
    pub fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
