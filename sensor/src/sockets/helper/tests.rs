//! Runtimes that hang, lie and break: each answer is bounded, and says what went wrong.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;

use super::*;

const ID: &str = "5c6b211e993304259a9f74f38260548d165f3d89dcbb9287b19a14e9d942f195";

/// A socket in a folder of its own.
struct Bench {
    folder: TempDir,
    protocol: Protocol,
}

impl Bench {
    fn new(protocol: Protocol) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, protocol }
    }

    fn socket(&self) -> Socket {
        Socket {
            protocol: self.protocol,
            path: self.folder.path().join("s"),
        }
    }

    /// Gives every connection these bytes, whatever it asks.
    fn says(self, bytes: Vec<u8>) -> Self {
        let listener = UnixListener::bind(self.socket().path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(&bytes);
            }
        });
        self
    }

    /// Serves gRPC: every call has this message for an answer.
    fn serves(self, message: Vec<u8>) -> Self {
        let listener = UnixListener::bind(self.socket().path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let serve = move || async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let message = message.clone();
                let answer = service_fn(move |_| {
                    let mut body = vec![0; 5];
                    body[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
                    body.extend(&message);
                    let answer = hyper::Response::builder().header("grpc-status", "0");
                    let answer = answer.body(Full::new(Bytes::from(body)));
                    async { answer }
                });
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
            }
        };
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(serve())
        });
        self
    }

    fn worker(&self) -> Worker {
        Worker::new(Setup {
            sockets: vec![self.socket()],
            labels: vec!["team".into()],
        })
        .unwrap()
    }

    fn answer(&self) -> SocketAnswer {
        self.worker().answer(&question())
    }

    /// Why the socket said nothing.
    fn fault(&self) -> String {
        match self.answer() {
            SocketAnswer::Failed(why) => why.to_string(),
            answer => panic!("{answer:?}"),
        }
    }
}

fn question() -> Question {
    Question {
        id: ID.into(),
        protocol: None,
        repository: None,
    }
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn what_is_no_answer_is_told_as_such() {
    let large = "x".repeat(4 << 20);
    let labels = format!(r#"{{"Id":"{ID}","Config":{{"Labels":{{"a":"{large}"}}}}}}"#);
    let nested = "[".repeat(500_000);
    for (protocol, bytes, expected) in [
        (Protocol::Docker, http("200 OK", &labels), "more than 1 MiB"),
        (Protocol::Docker, http("200 OK", "{\"Id\":"), "no answer"),
        (Protocol::Docker, http("200 OK", &nested), "no answer"),
        (Protocol::Docker, http("200 OK", "[1]"), "no answer"),
        (Protocol::Docker, http("500 Oops", ""), "refuses: 500"),
        (Protocol::Docker, vec![0; 100], "does not speak"),
        (Protocol::Docker, Vec::new(), "does not speak"),
        (
            Protocol::Docker,
            b"\x1b[2J\r\n\r\n".to_vec(),
            "does not speak",
        ),
        (Protocol::Cri, http("400 Bad Request", ""), "does not speak"),
        (Protocol::Cri, vec![0xff; 1 << 20], "does not speak"),
        (Protocol::Cri, Vec::new(), "does not speak"),
    ] {
        let bench = Bench::new(protocol).says(bytes);
        let fault = bench.fault();
        assert!(fault.contains(expected), "{fault} is not {expected}");
        assert!(fault.len() <= REASON_BYTES_MAX, "{fault}");
        assert!(!fault.chars().any(char::is_control), "{fault:?}");
    }
    let nobody = Bench::new(Protocol::Cri).fault();
    assert!(
        nobody.contains("nobody can be reached there: No such file"),
        "{nobody}"
    );
}

#[test]
fn damaged_messages_are_told_as_such() {
    // A field that is longer than what follows, one of another type, and no text.
    for message in [
        vec![0x0a, 0xff, 0xff, 0x7f, 1],
        vec![0x0f],
        vec![0x0a, 4, 0x0a, 2, 0xff, 0xfe],
    ] {
        let fault = Bench::new(Protocol::Cri).serves(message).fault();
        assert!(fault.contains("answers what is no answer"), "{fault}");
    }
    let large = Bench::new(Protocol::Cri).serves(vec![0; 4 << 20]).fault();
    assert!(large.contains("more than 1 MiB"), "{large}");
    // An answer about nobody, and one about somebody else.
    for message in [Vec::new(), vec![0x0a, 3, 0x0a, 1, b'x']] {
        let bench = Bench::new(Protocol::Cri).serves(message);
        assert_eq!(bench.answer(), SocketAnswer::Unknown);
    }
}

#[test]
fn labels_of_any_number_are_bounded() {
    let many: Vec<String> = (0..8_000)
        .map(|number| format!(r#""a{number}":"{}""#, "\u{7}".repeat(3).escape_default()))
        .collect();
    let many = many.join(",").replace("\\u{7}", "\\u0007");
    let body =
        format!(r#"{{"Id":"{ID}","Name":"/web","Config":{{"Labels":{{{many},"team":"shop"}}}}}}"#);
    let bench = Bench::new(Protocol::Docker).says(http("200 OK", &body));
    let SocketAnswer::Known(told) = bench.answer() else {
        panic!("{:?}", bench.answer());
    };
    assert_eq!(
        (told.name.as_deref(), &*told.labels["team"]),
        (Some("web"), "shop")
    );
    assert!(told.truncated && told.labels.len() < 1_000);
    let other = body.replace(ID, &"0".repeat(64));
    let bench = Bench::new(Protocol::Docker).says(http("200 OK", &other));
    assert_eq!(bench.answer(), SocketAnswer::Unknown, "it is about another");
}

#[test]
fn a_socket_that_hangs_is_left_alone_for_a_while() {
    for protocol in [Protocol::Docker, Protocol::Cri] {
        let bench = Bench::new(protocol);
        // The kernel takes connections; nobody else does.
        let _listener = UnixListener::bind(bench.socket().path).unwrap();
        let mut worker = bench.worker();
        for limits in [1..4, 1..4, 0..1] {
            let start = Instant::now();
            let answer = worker.answer(&question());
            let SocketAnswer::Failed(why) = answer else {
                panic!("{answer:?}");
            };
            assert!(why.contains("does not answer within 2 s"), "{why}");
            assert!(
                limits.contains(&start.elapsed().as_secs()),
                "{:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn a_reply_that_has_no_room_goes_without_its_lists() {
    let (own, other) = super::super::frame::pair().unwrap();
    let other = UnixDatagram::from(other);
    let told = Told {
        name: Some("web".into()),
        probes: vec![vec!["\u{1}".repeat(30 << 10).into()]],
        ..Told::default()
    };
    let reply = Reply::Told(ID.into(), SocketAnswer::Known(Box::new(told)));
    reply_with(&own, reply).unwrap();
    let Some(Reply::Told(_, SocketAnswer::Known(told))) = receive(&other).unwrap() else {
        panic!("no reply");
    };
    assert!(told.truncated && told.probes.is_empty());
    assert_eq!(told.name.as_deref(), Some("web"));
    drop(own);
    assert!(receive::<Reply>(&other).unwrap().is_none());
}

#[test]
fn sockets_that_only_their_owner_reaches_keep_the_user() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(Protocol::Docker);
    let path = bench.socket().path;
    let _listener = UnixListener::bind(&path).unwrap();
    let mode = |of: &Path, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(of, permissions).unwrap();
    };
    for (socket, folder, reach) in [
        (0o660, 0o755, true),
        (0o600, 0o755, false),
        (0o660, 0o700, false),
    ] {
        mode(&path, socket);
        mode(bench.folder.path(), folder);
        assert_eq!(rights::groups_reach(&path), reach, "{socket:o} {folder:o}");
    }
}
