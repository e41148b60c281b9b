//! What a runtime's socket is asked about a container, what it may answer, and what of that is believed.
//!
//! Files come first: an answer fills in what they left open and replaces nothing. Who asks is [`sockets`](crate::sockets)'
//! matter, in a process that may do nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use dogwatch_schemas::Text;
use serde::{Deserialize, Serialize};

use super::docker::Reference;
use super::{Container, Membership};

/// Bytes of labels that an answer may have, names and values.
pub(crate) const LABELS_BYTES_MAX: usize = 16 << 10;
/// Sockets that may be configured.
pub(crate) const SOCKETS_MAX: usize = 8;

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The interface by which kubelet has pods made: containerd's CRI plugin, CRI-O, cri-dockerd.
    Cri,
    /// Docker's API, which Podman serves, too.
    Docker,
}

/// A runtime's socket, as it is configured: `cri:/run/containerd/containerd.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where it is.
    pub path: PathBuf,
}

impl Socket {
    /// What it is for.
    pub(crate) fn delivers(&self) -> &'static str {
        match self.protocol {
            Protocol::Cri => "labels of pods, digests of images, probes of applied manifests",
            Protocol::Docker => "labels, healthchecks, digests of images",
        }
    }
}

impl FromStr for Socket {
    type Err = &'static str;

    /// # Errors
    /// A sentence that says what a socket looks like.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A socket's address has room for 107 bytes.
        const PATH_BYTES_MAX: usize = 107;
        let (protocol, path) = text.split_once(':').ok_or(EXPECTED)?;
        let protocol = match protocol {
            "cri" => Protocol::Cri,
            "docker" => Protocol::Docker,
            _ => return Err(EXPECTED),
        };
        // As other programs write it.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_BYTES_MAX {
            return Err(EXPECTED);
        }
        Ok(Self {
            protocol,
            path: path.into(),
        })
    }
}

const EXPECTED: &str = "what is spoken there and where it is, such as cri:/run/containerd/containerd.sock (Kubernetes) or \
                        docker:/run/podman/podman.sock (Podman); a path of at most 107 bytes that begins with /";

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Cri => "cri",
            Protocol::Docker => "docker",
        };
        write!(f, "{protocol}:{}", self.path.display())
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// The container's id, 64 hexadecimal digits.
    pub id: Text,
    /// Only sockets that speak this; `None`: all of them.
    pub protocol: Option<Protocol>,
    /// The repository of its image, where that is known: an image can have a digest in each of several.
    pub repository: Option<Text>,
}

impl Question {
    /// What is to be asked about a container of which files say this much; `None` where a socket would say no more.
    pub fn of(membership: &Membership, known: &Container) -> Option<Self> {
        let protocol = match &*known.runtime {
            "containerd" | "cri-o" => Some(Protocol::Cri),
            "podman" => Some(Protocol::Docker),
            // Whose it is stands in its files, and they could not be read.
            "other" => None,
            _ => return None,
        };
        // Whoever names containers by words is asked by nobody: `ctr`, `runc`.
        membership.given_name().is_none().then(|| Self {
            id: membership.runtime_id.clone(),
            protocol,
            repository: known.repository.clone(),
        })
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum SocketAnswer {
    /// A runtime knows the container.
    Known(Box<Told>),
    /// None does: it is being made, or is not one that is served there.
    Unknown,
    /// The sockets could not be asked, and why.
    Failed(Text),
}

/// What a runtime says of a container. All texts are bounded by whoever asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub docker: bool,
    pub name: Option<Text>,
    pub image: Option<Text>,
    pub image_id: Option<Text>,
    pub digest: Option<Text>,
    /// Of a pod's container the pod's labels are among them.
    pub labels: BTreeMap<Text, Text>,
    pub sandbox: Option<bool>,
    pub pod_name: Option<Text>,
    pub pod_namespace: Option<Text>,
    pub pod_uid: Option<Text>,
    pub healthcheck: Option<Vec<Text>>,
    /// Further probes, and hooks.
    pub probes: Vec<Vec<Text>>,
    /// The pod's manifest says what its probes are.
    pub has_manifest: bool,
    /// Something had no room.
    pub truncated: bool,
}

impl Told {
    /// What it takes in memory, bytes.
    pub fn bytes(&self) -> usize {
        const EACH: usize = 64;
        let labels = self.labels.iter();
        let labels = labels.map(|(name, value)| name.len() + value.len() + 2 * EACH);
        let commands = self.healthcheck.iter().chain(&self.probes).flatten();
        let names = [
            &self.name,
            &self.image,
            &self.image_id,
            &self.digest,
            &self.pod_name,
            &self.pod_namespace,
            &self.pod_uid,
        ];
        let names = names.into_iter().flatten().map(|text| text.len());
        size_of::<Self>()
            + names.sum::<usize>()
            + labels.sum::<usize>()
            + commands.map(|text| text.len() + EACH).sum::<usize>()
    }
}

impl Container {
    /// Fills in what a socket says, or why it says nothing.
    pub(crate) fn complete(&mut self, answer: &SocketAnswer) {
        match answer {
            SocketAnswer::Known(told) => self.fill_in(told),
            SocketAnswer::Unknown => {
                self.socket_fault = Some("no runtime behind containers.sockets knows it".into());
            }
            SocketAnswer::Failed(why) => self.socket_fault = Some(why.clone()),
        }
    }

    fn fill_in(&mut self, told: &Told) {
        fn fill<T: Clone>(known: &mut Option<T>, told: &Option<T>) {
            if known.is_none() {
                known.clone_from(told);
            }
        }
        fill(&mut self.name, &told.name);
        if self.image.is_none()
            && let Some(image) = &told.image
        {
            let reference = Reference::of(image);
            self.image = Some(image.clone());
            self.repository = self.repository.take().or(reference.repository);
            self.tag = self.tag.take().or(reference.tag);
        }
        fill(&mut self.image_id, &told.image_id);
        fill(&mut self.digest, &told.digest);
        let labels = self.labels.get_or_insert_default();
        for (name, value) in &told.labels {
            labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        fill(&mut self.sandbox, &told.sandbox);
        fill(&mut self.pod_name, &told.pod_name);
        fill(&mut self.pod_namespace, &told.pod_namespace);
        fill(&mut self.pod_uid, &told.pod_uid);
        if !self.has_manifest {
            fill(&mut self.healthcheck, &told.healthcheck);
            self.probes.extend(told.probes.iter().cloned());
            self.has_manifest = told.has_manifest;
        }
        self.truncated |= told.truncated;
        self.socket_fault = None;
        self.socket_told = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_protocol_and_a_path() {
        for (text, shown) in [
            ("cri:/run/c.sock", Some("cri:/run/c.sock")),
            ("docker:///run/p.sock", Some("docker:/run/p.sock")),
            ("unix:///run/c.sock", None),
            ("/run/c.sock", None),
            ("cri:run/c.sock", None),
            ("cri:", None),
            ("cri:/run/\0", None),
        ] {
            let socket = text.parse::<Socket>().ok();
            let socket = socket.map(|socket| socket.to_string());
            assert_eq!(socket.as_deref(), shown, "{text}");
        }
        assert!(
            format!("cri:/{}", "x".repeat(107))
                .parse::<Socket>()
                .is_err()
        );
    }

    #[test]
    fn what_files_say_stays_and_the_rest_is_filled_in() {
        let text = |text: &str| Some(Text::from(text));
        let mut container = Container {
            runtime: "containerd".into(),
            name: text("app"),
            image: text("reg.example/app:7"),
            repository: text("reg.example/app"),
            labels: Some(BTreeMap::from([("a".into(), "files".into())])),
            ..Container::default()
        };
        let told = Told {
            name: text("other"),
            image: text("x:1"),
            digest: text("sha256:00"),
            labels: BTreeMap::from([("a".into(), "socket".into()), ("b".into(), "2".into())]),
            healthcheck: Some(vec!["check".into()]),
            ..Told::default()
        };
        container.complete(&SocketAnswer::Failed("it hangs".into()));
        assert_eq!(container.socket_fault.as_deref(), Some("it hangs"));
        container.complete(&SocketAnswer::Known(Box::new(told)));
        assert_eq!(container.name.as_deref(), Some("app"));
        assert_eq!(container.image.as_deref(), Some("reg.example/app:7"));
        assert_eq!(container.tag, None, "another image's tag");
        assert_eq!(container.digest.as_deref(), Some("sha256:00"));
        let labels = container.labels.as_ref().unwrap();
        assert_eq!((&*labels["a"], &*labels["b"]), ("files", "2"));
        assert_eq!(container.healthcheck, Some(vec!["check".into()]));
        assert_eq!(
            (container.socket_fault, container.socket_told),
            (None, true)
        );
    }
}
