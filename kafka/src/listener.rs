//! What listens at an address: asked in a few bytes where librdkafka only says that a connection came to nothing.
//!
//! ```text
//! connect ─► ApiVersions ─► answered: without Metadata it is a controller's; SaslHandshake tells whether it asks for a login
//!                      └──► not answered: a TLS client hello ─► answered: it speaks TLS
//! ```

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::fault::Fault;

/// How long a connection, and each answer, may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest answer that is read: a broker lists some hundred calls of six bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Numbers of calls in Kafka's protocol.
const METADATA: u16 = 3;
const SASL_HANDSHAKE: u16 = 17;
const API_VERSIONS: u16 = 18;
/// "This mechanism is not enabled", with those that are.
const UNSUPPORTED_SASL_MECHANISM: u16 = 33;
/// What a call and its answer are told by.
const CORRELATION: u32 = 0x646f_6777;

/// What an address speaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// No connection can be made.
    Nothing(String),
    /// It takes connections and says nothing.
    Silence,
    /// It takes connections and ends them.
    HangsUp,
    /// It answers, in no words of Kafka's.
    Otherwise,
    /// TLS.
    Tls,
    /// Kafka's protocol as controllers speak it among themselves.
    Controller,
    /// Kafka's protocol, to those who log in by one of these mechanisms.
    Sasl(Vec<String>),
    /// Kafka's protocol, to everybody.
    Kafka,
}

/// Asks an address, `host:port` with or without `PROTOCOL://` before it.
pub(crate) fn ask(address: &str) -> Speaks {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let mut stream = match connect(address) {
        Ok(stream) => stream,
        Err(error) => return Speaks::Nothing(error.to_string()),
    };
    let silent = match call(&mut stream, API_VERSIONS, 0, &[]) {
        Ok(Answer::Kafka(answer)) => return kind_of(&mut stream, &answer),
        Ok(Answer::Tls) => return Speaks::Tls,
        Ok(Answer::Other) => return Speaks::Otherwise,
        Err(error) => is_timeout(&error),
    };
    match greet_by_tls(address) {
        Ok(true) => Speaks::Tls,
        Ok(false) => Speaks::Otherwise,
        Err(error) if silent && is_timeout(&error) => Speaks::Silence,
        Err(_) => Speaks::HangsUp,
    }
}

/// What is said of an address to a client that speaks `protocol`; nothing where the two fit, or nothing more is known.
pub(crate) fn told(address: &str, protocol: &str, speaks: &Speaks) -> Option<Fault> {
    let (wants_tls, wants_login) = (protocol.ends_with("ssl"), protocol.starts_with("sasl"));
    let speaks_otherwise = |what: String, mend: &str| {
        let what = format!("{what}, and security.protocol is {protocol}");
        (what, format!("{mend} in kafka.options"))
    };
    let (what, mend) = match speaks {
        Speaks::Nothing(_) | Speaks::HangsUp => return None,
        Speaks::Silence => (
            "takes connections and answers nothing".to_owned(),
            "the broker stands still, or something else listens there: check the port in kafka.bootstrap_servers, and the broker's log"
                .to_owned(),
        ),
        Speaks::Otherwise => (
            "answers, but not as a Kafka broker does".to_owned(),
            "check the port in kafka.bootstrap_servers".to_owned(),
        ),
        Speaks::Controller => (
            "is the listener of a controller, which takes no clients".to_owned(),
            "write the port of a broker's listener into kafka.bootstrap_servers".to_owned(),
        ),
        Speaks::Tls if wants_tls => return None,
        Speaks::Tls => speaks_otherwise(
            "speaks TLS".to_owned(),
            if wants_login {
                "set security.protocol = \"sasl_ssl\""
            } else {
                "set security.protocol = \"ssl\", or \"sasl_ssl\" where it asks for a login,"
            },
        ),
        Speaks::Sasl(_) if wants_login && !wants_tls => return None,
        Speaks::Sasl(mechanisms) => speaks_otherwise(
            format!("asks for a login ({}) without TLS", mechanisms.join(", ")),
            "set security.protocol = \"sasl_plaintext\", sasl.mechanisms, sasl.username and sasl.password",
        ),
        Speaks::Kafka if wants_tls || wants_login => speaks_otherwise(
            "speaks plaintext, and asks for no login".to_owned(),
            "set security.protocol = \"plaintext\", or write the port of another listener: check it",
        ),
        Speaks::Kafka => return None,
    };
    Some(Fault::Listener {
        address: address.to_owned(),
        what,
        mend,
        certain: *speaks != Speaks::Silence,
    })
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_write_timeout(Some(ANSWER))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An answer to a call.
enum Answer {
    /// What stands behind the call's number.
    Kafka(Vec<u8>),
    /// A record of TLS: an alert, or a greeting.
    Tls,
    /// Anything else.
    Other,
}

/// Sends a call of Kafka's protocol and reads the answer.
fn call(stream: &mut TcpStream, key: u16, version: u16, body: &[u8]) -> io::Result<Answer> {
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(CORRELATION.to_be_bytes());
    // No name of the client.
    request.extend((-1i16).to_be_bytes());
    request.extend(body);
    let length = request.len() as u32;
    request.splice(0..0, length.to_be_bytes());
    stream.write_all(&request)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    if is_tls(&head) {
        return Ok(Answer::Tls);
    }
    let length = u32::from_be_bytes(head) as usize;
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Ok(Answer::Other);
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(match answer.starts_with(&CORRELATION.to_be_bytes()) {
        true => Answer::Kafka(answer.split_off(4)),
        false => Answer::Other,
    })
}

fn is_tls(head: &[u8]) -> bool {
    matches!(head, [0x15 | 0x16, 0x03, ..])
}

/// What speaks Kafka's protocol and has answered which calls it takes.
fn kind_of(stream: &mut TcpStream, answer: &[u8]) -> Speaks {
    let mut rest = answer;
    let calls = number(&mut rest)
        .and_then(|_error| wide_number(&mut rest))
        .unwrap_or(0);
    let mut takes = Vec::new();
    for _ in 0..calls {
        let call = number(&mut rest);
        let versions = (number(&mut rest), number(&mut rest));
        let (Some(call), (Some(_), Some(_))) = (call, versions) else {
            break;
        };
        takes.push(call);
    }
    if !takes.contains(&METADATA) {
        return Speaks::Controller;
    }
    // The empty mechanism: none has that name.
    match call(stream, SASL_HANDSHAKE, 1, &[0, 0]) {
        Ok(Answer::Kafka(answer)) => mechanisms(&answer).map_or(Speaks::Kafka, Speaks::Sasl),
        _ => Speaks::Kafka,
    }
}

/// The mechanisms that a listener names when it is asked for another one; none where it knows no login.
fn mechanisms(answer: &[u8]) -> Option<Vec<String>> {
    let mut rest = answer;
    if number(&mut rest)? != UNSUPPORTED_SASL_MECHANISM {
        return None;
    }
    let count = wide_number(&mut rest)?;
    let mut names = Vec::new();
    for _ in 0..count {
        let length = usize::from(number(&mut rest)?);
        let (name, others) = rest.split_at_checked(length)?;
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = others;
    }
    Some(names)
}

fn number(rest: &mut &[u8]) -> Option<u16> {
    let (number, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u16::from_be_bytes(*number))
}

fn wide_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u32::from_be_bytes(*number))
}

/// Greets an address as a client of TLS 1.2 does; says whether it answers in TLS, be it that it does not like the greeting.
fn greet_by_tls(address: &str) -> io::Result<bool> {
    const SUITES: [u8; 10] = [0x00, 0x08, 0xc0, 0x2f, 0xc0, 0x2b, 0x00, 0x9c, 0x00, 0x2f];
    let mut hello = vec![0x03, 0x03];
    hello.extend([0x64; 32]);
    // No session to go on with.
    hello.push(0);
    hello.extend(SUITES);
    // No compression.
    hello.extend([1, 0]);
    let length = hello.len() as u8;
    let mut record = vec![0x16, 0x03, 0x01, 0, length + 4, 0x01, 0, 0, length];
    record.extend(hello);
    let mut stream = connect(address)?;
    stream.write_all(&record)?;
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    Ok(is_tls(&head))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rdkafka::mocking::MockCluster;

    use super::*;

    /// The address of somebody who does `answer` with each connection.
    fn somebody(answer: impl Fn(TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || listener.incoming().flatten().for_each(answer));
        address
    }

    /// Answers each call with what stands behind its number, by the call.
    fn kafka(answers: &'static [(u16, &'static [u8])]) -> String {
        somebody(move |mut stream| {
            let mut head = [0; 4];
            while stream.read_exact(&mut head).is_ok() {
                let mut request = vec![0; u32::from_be_bytes(head) as usize];
                stream.read_exact(&mut request).unwrap();
                let key = u16::from_be_bytes([request[0], request[1]]);
                let Some((_, body)) = answers.iter().find(|(own, _)| *own == key) else {
                    return;
                };
                let length = 4 + body.len() as u32;
                let number = &request[4..8];
                let answer = [&length.to_be_bytes()[..], number, body].concat();
                stream.write_all(&answer).unwrap();
            }
        })
    }

    const BROKER: (u16, &[u8]) = (
        API_VERSIONS,
        &[0, 0, 0, 0, 0, 2, 0, 18, 0, 0, 0, 4, 0, 3, 0, 0, 0, 12],
    );

    /// What is said of an address to who speaks `protocol`, if anything is.
    fn said(address: &str, protocol: &str) -> Option<String> {
        told(address, protocol, &ask(address)).map(|fault| fault.to_string())
    }

    #[track_caller]
    fn check(address: &str, protocol: &str, words: [&str; 2]) {
        let said = said(address, protocol).expect("something is said");
        assert!(said.starts_with(address), "{said}");
        for words in words {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn each_kind_of_port_has_its_sentence_and_mend() {
        let silent = somebody(std::mem::forget);
        check(
            &silent,
            "plaintext",
            [
                "takes connections and answers nothing",
                "check the port in kafka.bootstrap_servers",
            ],
        );
        let web = somebody(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        check(
            &web,
            "plaintext",
            ["not as a Kafka broker does", "check the port"],
        );
        let controller = kafka(&[(API_VERSIONS, &[0, 0, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4])]);
        check(
            &controller,
            "plaintext",
            [
                "is the listener of a controller",
                "write the port of a broker's listener",
            ],
        );
        let login = kafka(&[BROKER, (SASL_HANDSHAKE, b"\0\x21\0\0\0\x01\0\x05PLAIN")]);
        check(
            &login,
            "plaintext",
            [
                "asks for a login (PLAIN) without TLS, and security.protocol is plaintext",
                "\"sasl_plaintext\"",
            ],
        );
        assert_eq!(said(&login, "sasl_plaintext"), None);
        let open = kafka(&[BROKER, (SASL_HANDSHAKE, b"\0\x22\0\0\0\0")]);
        check(
            &open,
            "ssl",
            ["speaks plaintext", "security.protocol = \"plaintext\""],
        );
        assert_eq!(said(&open, "plaintext"), None);
    }

    #[test]
    fn tls_is_told_from_who_hangs_up() {
        // As Java does: what is no greeting is hung up on without a word.
        let tls = somebody(|mut stream| {
            let mut head = [0; 2];
            if stream.read_exact(&mut head).is_ok() && is_tls(&head) {
                let _ = stream.write_all(&[0x15, 0x03, 0x03, 0, 2, 2, 40]);
            }
        });
        check(
            &tls,
            "plaintext",
            ["speaks TLS, and security.protocol is plaintext", "\"ssl\""],
        );
        check(&tls, "sasl_plaintext", ["speaks TLS", "\"sasl_ssl\""]);
        assert_eq!(said(&tls, "ssl"), None);
        let nobody = somebody(drop);
        assert_eq!(ask(&nobody), Speaks::HangsUp);
        assert_eq!(said(&nobody, "plaintext"), None);
        assert!(matches!(ask("127.0.0.1:1"), Speaks::Nothing(_)));
    }

    #[test]
    fn a_broker_of_librdkafka_is_one() {
        let cluster = MockCluster::new(1).unwrap();
        assert_eq!(ask(&cluster.bootstrap_servers()), Speaks::Kafka);
    }
}
