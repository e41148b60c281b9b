//! What the CRI says of a container or sandbox: labels of the pod, the image's digest, the pod's manifest.
//!
//! ```text
//! ListContainers(id) ► the container's image and sandbox ► PodSandboxStatus, ImageStatus
//!                    ► none: a sandbox, perhaps           ► PodSandboxStatus
//! ```
//! Of `runtime.v1` (`cri-api/pkg/apis/runtime/v1/api.proto`) the fields that are used; others are passed over.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch_schemas::Text;
use hyper::body::Bytes;
use prost::Message;

use super::AskError;
use super::http::Grpc;
use super::told::{Bounds, digest_of};
use crate::container::{Checks, MANIFEST, PRE_STOP, Question, Told, image_id};

/// As much is read of a manifest among files.
const ANNOTATION_BYTES_MAX: usize = 32 << 10;

#[derive(Clone, PartialEq, Message)]
struct Filter {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainers {
    #[prost(message, optional, tag = "1")]
    filter: Option<Filter>,
}

/// Read one by one: a list of a million empty ones takes little room so.
#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    containers: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    sandbox: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(string, tag = "5")]
    image_ref: String,
    #[prost(btree_map = "string, string", tag = "8")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "9")]
    annotations: BTreeMap<String, String>,
}

/// Of a container the name alone.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// Of a container the image's name or id; the digests are the image service's to say.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    digests: Vec<String>,
}

/// The name or id of an image.
#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageStatus {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageAnswer {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "8")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct VersionAnswer {
    #[prost(string, tag = "2")]
    runtime: String,
    #[prost(string, tag = "3")]
    version: String,
}

/// Who serves the socket: its name and version.
pub(super) async fn greet(path: &Path) -> Result<String, AskError> {
    let mut grpc = Grpc::connect(path).await?;
    let question = Version {
        version: "0.1.0".into(),
    };
    let method = "runtime.v1.RuntimeService/Version";
    let answer: VersionAnswer = grpc.call(method, &question).await?.unwrap_or_default();
    Ok(format!("{} {}", answer.runtime, answer.version))
}

/// What is known of a container or sandbox; `None` where it is neither.
pub(super) async fn ask(
    path: &Path,
    question: &Question,
    bounds: &Bounds<'_>,
) -> Result<Option<Told>, AskError> {
    let mut grpc = Grpc::connect(path).await?;
    let list = ListContainers {
        filter: Some(Filter {
            id: question.id.to_string(),
        }),
    };
    let method = "runtime.v1.RuntimeService/ListContainers";
    let listed: Option<Containers> = grpc.call(method, &list).await?;
    let mut container = None;
    for one in listed.unwrap_or_default().containers {
        let one = Container::decode(one).map_err(|error| AskError::Damaged(error.to_string()))?;
        // A filter that is not heeded must not have another's labels told.
        if *one.id == *question.id {
            container = Some(one);
            break;
        }
    }
    let sandbox = container
        .as_ref()
        .map_or(&*question.id, |container| &container.sandbox);
    let sandbox = sandbox_of(&mut grpc, sandbox).await?;
    let Some(container) = container else {
        return Ok(sandbox.map(|sandbox| of_sandbox(sandbox, bounds)));
    };
    // What the pod says is worth telling without it.
    let image = image_of(&mut grpc, &container).await.unwrap_or_default();
    Ok(Some(of_container(
        container, sandbox, image, question, bounds,
    )))
}

async fn sandbox_of(grpc: &mut Grpc, id: &str) -> Result<Option<Sandbox>, AskError> {
    let question = SandboxStatus { id: id.to_owned() };
    let method = "runtime.v1.RuntimeService/PodSandboxStatus";
    let answer: Option<SandboxAnswer> = grpc.call(method, &question).await?;
    let sandbox = answer.and_then(|answer| answer.status);
    Ok(sandbox.filter(|sandbox| sandbox.id == id))
}

async fn image_of(grpc: &mut Grpc, container: &Container) -> Result<Option<Image>, AskError> {
    if container.image_ref.is_empty() {
        return Ok(None);
    }
    let question = ImageStatus {
        image: Some(ImageSpec {
            image: container.image_ref.clone(),
        }),
    };
    let method = "runtime.v1.ImageService/ImageStatus";
    let answer: Option<ImageAnswer> = grpc.call(method, &question).await?;
    Ok(answer.and_then(|answer| answer.image))
}

fn of_container(
    container: Container,
    sandbox: Option<Sandbox>,
    image: Option<Image>,
    question: &Question,
    bounds: &Bounds<'_>,
) -> Told {
    let image = image.unwrap_or_default();
    let sandbox = sandbox.unwrap_or_default();
    let name = container.metadata.unwrap_or_default().name;
    let asked_for = container.image.unwrap_or_default().id;
    let annotation = |of: &BTreeMap<String, String>, name: &str| {
        let value = of
            .get(name)
            .filter(|value| value.len() <= ANNOTATION_BYTES_MAX);
        value.cloned()
    };
    let checks = Checks::of(
        annotation(&sandbox.annotations, MANIFEST).as_deref(),
        annotation(&container.annotations, PRE_STOP).as_deref(),
        Some(&name),
    );
    // Kubernetes names images by their ids; a name that the image has then says more.
    let image_name = match image_id(&asked_for) {
        Some(_) => image.tags.first(),
        None => Some(&asked_for),
    };
    let mut told = Told {
        name: bounds.line(&name),
        image: image_name.and_then(|name| bounds.line(name)),
        image_id: image_id(&image.id).or_else(|| image_id(&container.image_ref)),
        digest: digest_of(&image.digests, question.repository.as_deref()),
        sandbox: Some(false),
        healthcheck: checks.healthcheck,
        probes: checks.others,
        has_manifest: checks.has_manifest,
        ..Told::default()
    };
    // The container's own come first: they are kubelet's few.
    let labels = container.labels.into_iter().chain(sandbox.labels);
    bounds.labels(labels, &mut told);
    of_pod(sandbox.metadata, bounds, &mut told);
    told
}

fn of_sandbox(sandbox: Sandbox, bounds: &Bounds<'_>) -> Told {
    let mut told = Told {
        sandbox: Some(true),
        ..Told::default()
    };
    bounds.labels(sandbox.labels, &mut told);
    of_pod(sandbox.metadata, bounds, &mut told);
    told
}

fn of_pod(metadata: Option<Metadata>, bounds: &Bounds<'_>, told: &mut Told) {
    let Metadata {
        name,
        uid,
        namespace,
    } = metadata.unwrap_or_default();
    let line = |text: String| -> Option<Text> { bounds.line(&text) };
    (told.pod_name, told.pod_uid, told.pod_namespace) = (line(name), line(uid), line(namespace));
}
