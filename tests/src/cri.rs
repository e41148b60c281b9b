//! A client of the CRI, the interface by which kubelet has a runtime make pods: gRPC, spoken by curl, with the few messages of
//! `runtime.v1` that a pod takes. Field numbers are those of `cri-api/pkg/apis/runtime/v1/api.proto`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait;

/// For a daemon's start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A protobuf message that is being written; all fields have numbers below 16.
#[derive(Debug, Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        varint(&mut self.0, value);
        self
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.0.push((field << 3) | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend(value);
        self
    }

    fn text(self, field: u8, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn texts(self, field: u8, values: &[&str]) -> Self {
        values
            .iter()
            .fold(self, |all, value| all.text(field, value))
    }

    fn message(self, field: u8, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(((value & 0x7f) | 0x80) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The text of field 1, which all answers that are used begin with; shorter than 128 bytes.
fn first_text(answer: &[u8]) -> Option<String> {
    let [0x0a, length @ 0..0x80, rest @ ..] = answer else {
        return None;
    };
    let text = rest.get(..usize::from(*length))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What a pod is made with.
#[derive(Debug, Default, Clone)]
pub struct PodConfig<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace it is in.
    pub namespace: &'a str,
    /// Its uid, as Kubernetes writes them.
    pub uid: &'a str,
    /// Labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Annotations.
    pub annotations: &'a [(&'a str, &'a str)],
    /// All containers are in the sandbox's pid namespace (`shareProcessNamespace`).
    pub shares_pids: bool,
}

impl PodConfig<'_> {
    /// Everything of the host's network, so that nothing needs CNI.
    fn namespaces(&self) -> Message {
        const POD: u64 = 0;
        const CONTAINER: u64 = 1;
        const NODE: u64 = 2;
        let pids = if self.shares_pids { POD } else { CONTAINER };
        Message::default().number(1, NODE).number(2, pids)
    }

    fn message(&self) -> Message {
        let metadata = Message::default()
            .text(1, self.name)
            .text(2, self.uid)
            .text(3, self.namespace);
        let security = Message::default().message(1, &self.namespaces());
        let linux = Message::default()
            .text(1, &format!("/kubepods/besteffort/pod{}", self.uid))
            .message(2, &security);
        let labels = self.labels.iter().map(|label| (6, label));
        let annotations = self.annotations.iter().map(|annotation| (7, annotation));
        let config = labels.chain(annotations).fold(
            Message::default().message(1, &metadata),
            |config, (field, (name, value))| {
                let entry = Message::default().text(1, name).text(2, value);
                config.message(field, &entry)
            },
        );
        config.message(8, &linux)
    }
}

/// A runtime's CRI at its socket.
#[derive(Debug, Clone)]
pub struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// The CRI that is served here.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Makes a pod: its sandbox alone.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub fn pod(&self, config: &PodConfig<'_>) -> Pod {
        let message = config.message();
        let answer = self.call("RunPodSandbox", &Message::default().message(1, &message));
        Pod {
            cri: self.clone(),
            id: first_text(&answer).expect("a sandbox has an id"),
            config: message,
            namespaces: config.namespaces(),
        }
    }

    fn call(&self, method: &str, message: &Message) -> Vec<u8> {
        let answer = wait::until("the CRI to be ready", PATIENCE, || {
            let answer = self.attempt(method, message);
            let starts = |error: &String| error.contains("not initialized yet");
            (!answer.as_ref().is_err_and(starts)).then_some(answer)
        });
        answer.unwrap_or_else(|error| panic!("the CRI refused {method}: {error}"))
    }

    fn attempt(&self, method: &str, message: &Message) -> Result<Vec<u8>, String> {
        let headers = tempfile::NamedTempFile::new().expect("a file for the answer's headers");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--http2-prior-knowledge"])
            .arg("--unix-socket")
            .arg(&self.socket)
            .args(["--header", "content-type: application/grpc"])
            .args(["--header", "te: trailers", "--data-binary", "@-"])
            .arg("--dump-header")
            .arg(headers.path())
            .arg(format!(
                "http://localhost/runtime.v1.RuntimeService/{method}"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut curl = curl.spawn().expect("curl can be started");
        let mut input = curl.stdin.take().expect("it was asked for");
        // Not compressed, and how long it is.
        let mut request = vec![0];
        request.extend((message.0.len() as u32).to_be_bytes());
        request.extend(&message.0);
        input.write_all(&request).expect("curl takes the request");
        drop(input);
        let output = curl.wait_with_output().expect("curl can be waited for");
        let headers = std::fs::read_to_string(headers.path()).unwrap_or_default();
        let succeeded = headers.lines().any(|line| line.trim() == "grpc-status: 0");
        let answer = output.stdout.get(5..).filter(|_| succeeded);
        answer.map(<[u8]>::to_vec).ok_or(headers)
    }
}

/// A pod that runs; stopped and removed with its containers when dropped.
#[derive(Debug)]
pub struct Pod {
    cri: Cri,
    /// All 64 digits of its sandbox's id.
    pub id: String,
    config: Message,
    namespaces: Message,
}

impl Pod {
    /// Starts a container of an image in it, and returns its id.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub fn container(&self, name: &str, image: &str, command: &[&str]) -> String {
        let security = Message::default().message(3, &self.namespaces);
        let config = Message::default()
            .message(1, &Message::default().text(1, name))
            .message(2, &Message::default().text(1, image))
            .texts(3, command)
            .message(15, &Message::default().message(2, &security));
        let request = Message::default()
            .text(1, &self.id)
            .message(2, &config)
            .message(3, &self.config);
        let answer = self.cri.call("CreateContainer", &request);
        let id = first_text(&answer).expect("a container has an id");
        let request = Message::default().text(1, &id);
        self.cri.call("StartContainer", &request);
        id
    }

    /// Runs a command in one of its containers, as kubelet does for exec probes.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub fn exec(&self, container: &str, command: &[&str]) {
        let request = Message::default().text(1, container).texts(2, command);
        self.cri.call("ExecSync", &request);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let request = Message::default().text(1, &self.id);
        // Best effort: what is gone already needs no removing.
        let _ = self.cri.attempt("StopPodSandbox", &request);
        let _ = self.cri.attempt("RemovePodSandbox", &request);
    }
}
