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
    /// Somebody listens there, and hangs up on us.
    #[error(
        "{servers} takes connections and hangs up: {reason}; its listener does not speak {protocol}: check security.protocol in kafka.options (TLS: ssl, passwords: sasl_ssl or sasl_plaintext) and the port"
    )]
    HungUp {
        /// Where it was looked for.
        servers: String,
        /// The client's `security.protocol`.
        protocol: String,
        /// The client's last word.
        reason: String,
    },
    /// Something else listens there than what we speak with.
    #[error("{address} {what}; {mend}")]
    Listener {
        /// Where.
        address: String,
        /// What it does.
        what: String,
        /// What to do about it.
        mend: String,
        /// Waiting changes nothing.
        certain: bool,
    },
    /// A name of ours has no address.
    #[error(
        "could not resolve {name}; check kafka.bootstrap_servers and this machine's name service"
    )]
    Unresolved {
        /// The name, with its port.
        name: String,
    },
    /// A broker answers, and what it calls itself leads nowhere.
    #[error(
        "{servers} answers, but its brokers call themselves by addresses that lead nowhere from here: {brokers}; set advertised.listeners of the brokers to names that this machine resolves and reaches"
    )]
    Advertised {
        /// Where it was looked for.
        servers: String,
        /// What the brokers call themselves, each with the reason.
        brokers: String,
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
    /// The brokers' coordinator of transactions does not answer.
    #[error(
        "could not {action} within {}s: their coordinator does not answer; __transaction_state needs a leader and as many copies in sync as transaction.state.log.min.isr asks for: look at the brokers' logs",
        waited.as_secs()
    )]
    NoCoordinator {
        /// What was attempted.
        action: String,
        /// How long.
        waited: Duration,
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
            // Its value may be a password behind a name that is misspelt.
            KafkaError::ClientConfig(_, description, option, _) => {
                Self::Options(format!("{option}: {description}"))
            }
            _ => Self::new(action, error.rdkafka_error_code(), error.to_string()),
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

    /// Takes a line of the client's log: that a broker hung up is told there alone.
    pub fn note_line(&self, facility: &str, line: &str) {
        if facility != "FAIL" {
            return;
        }
        // What stands before it is the thread that says it.
        let words = line.split_once("]: ").map_or(line, |(_, words)| words);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        use RDKafkaErrorCode as Code;
        let says_more = matches!(
            *last,
            Some((
                Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL,
                _
            ))
        );
        if !says_more {
            *last = Some((Code::BrokerTransportFailure, words.to_owned()));
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
