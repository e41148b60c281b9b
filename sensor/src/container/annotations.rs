//! What those who start containers write into a bundle's annotations: which of them it was, names, pod and image.
//!
//! | who | how it is known | what is there |
//! | --- | --- | --- |
//! | containerd for Kubernetes | `io.kubernetes.cri.container-type` | container, image, pod, namespace, uid, what it is told to pass on |
//! | CRI-O | `io.container.manager` = `cri-o`, or its own annotations | the same, labels, image id, creation, all annotations |
//! | Podman | `io.container.manager` = `libpod` | privileged; names are in its storage |
//! | nerdctl | `nerdctl/namespace` | name; the labels are annotations, too |

use std::collections::BTreeMap;

use dogwatch_schemas::Text;

use super::bounded::{Entries, Map};
use super::docker::timestamp_ns;
use super::manifest::{MANIFEST, PRE_STOP};

/// Annotations that are looked at; they are kept however many others there are.
pub(super) const NAMES: [&str; 31] = [
    "io.container.manager",
    "io.kubernetes.container.name",
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-uid",
    "io.kubernetes.cri-o.Annotations",
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri-o.Created",
    "io.kubernetes.cri-o.Image",
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.ImageRef",
    "io.kubernetes.cri-o.ImageRepoDigests",
    "io.kubernetes.cri-o.KubeName",
    "io.kubernetes.cri-o.Labels",
    "io.kubernetes.cri-o.Name",
    "io.kubernetes.cri-o.Namespace",
    "io.kubernetes.cri-o.PrivilegedRuntime",
    "io.kubernetes.cri-o.SandboxID",
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
    "io.podman.annotations.infra.name",
    "io.podman.annotations.privileged",
    "nerdctl/name",
    "nerdctl/namespace",
    MANIFEST,
    PRE_STOP,
];

/// What annotations say; see the module's description.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// Who started the container, as `container_type` names it.
    pub runtime: Option<&'static str>,
    pub name: Option<Text>,
    pub image: Option<Text>,
    pub image_id: Option<Text>,
    pub digest: Option<Text>,
    pub labels: Option<Map>,
    pub pod_name: Option<Text>,
    pub pod_namespace: Option<Text>,
    pub pod_uid: Option<Text>,
    /// The container holds a pod's namespaces and does nothing else.
    pub sandbox: Option<bool>,
    pub privileged: Option<bool>,
    pub created_ns: Option<i64>,
    /// The container that holds the pod's namespaces.
    pub sandbox_id: Option<Text>,
    /// The pod's manifest; see [`manifest`](super::manifest).
    pub manifest: Option<Text>,
    /// The hook that runs before the container is stopped.
    pub pre_stop: Option<Text>,
}

impl Told {
    /// Reads annotations.
    pub fn of(annotations: Entries) -> Self {
        let get = |name: &str| {
            let value = annotations.named.get(name);
            value.filter(|value| !value.is_empty()).cloned()
        };
        let of_crio = get("io.kubernetes.cri-o.ContainerType").is_some();
        let mut told = match get("io.container.manager").as_deref() {
            Some("libpod") => podman(&get),
            Some("cri-o") => crio(&get),
            _ if get("io.kubernetes.cri.container-type").is_some() => containerd(&get),
            _ if of_crio => crio(&get),
            _ if get("nerdctl/namespace").is_some() => return nerdctl(annotations),
            _ => Self::default(),
        };
        told.pod_name = told.pod_name.or_else(|| get("io.kubernetes.pod.name"));
        told.pod_namespace = told
            .pod_namespace
            .or_else(|| get("io.kubernetes.pod.namespace"));
        told.pod_uid = told.pod_uid.or_else(|| get("io.kubernetes.pod.uid"));
        let sandbox_id = get("io.kubernetes.cri.sandbox-id");
        told.sandbox_id = sandbox_id.or_else(|| get("io.kubernetes.cri-o.SandboxID"));
        told.manifest = get(MANIFEST);
        told.pre_stop = get(PRE_STOP);
        // CRI-O has all that kubelet gave it in one text, and some of it beside that.
        if let Some(all) = get("io.kubernetes.cri-o.Annotations") {
            let all: BTreeMap<Text, Text> = serde_json::from_str(&all).unwrap_or_default();
            told.manifest = told.manifest.or_else(|| all.get(MANIFEST).cloned());
            told.pre_stop = told.pre_stop.or_else(|| all.get(PRE_STOP).cloned());
        }
        told
    }
}

fn sandbox(kind: Option<Text>) -> Option<bool> {
    kind.map(|kind| &*kind == "sandbox")
}

fn containerd(get: &impl Fn(&str) -> Option<Text>) -> Told {
    let sandbox = sandbox(get("io.kubernetes.cri.container-type"));
    let image = get("io.kubernetes.cri.image-name");
    let (image, image_id) = named_or_id(image);
    Told {
        runtime: Some("containerd"),
        name: get("io.kubernetes.cri.container-name"),
        image,
        image_id,
        pod_name: get("io.kubernetes.cri.sandbox-name"),
        pod_namespace: get("io.kubernetes.cri.sandbox-namespace"),
        pod_uid: get("io.kubernetes.cri.sandbox-uid"),
        // A container that is none is one of a pod; it has neither its name nor its image here.
        sandbox,
        ..Told::default()
    }
}

fn crio(get: &impl Fn(&str) -> Option<Text>) -> Told {
    let sandbox = sandbox(get("io.kubernetes.cri-o.ContainerType"));
    let labels: Option<BTreeMap<Text, Text>> =
        get("io.kubernetes.cri-o.Labels").and_then(|labels| serde_json::from_str(&labels).ok());
    let label = |name: &str| labels.as_ref()?.get(name).cloned();
    let (asked, asked_id) = named_or_id(get("io.kubernetes.cri-o.Image"));
    // The name asked for may be the image's id by now; another name of it then says more.
    let image = asked.or_else(|| get("io.kubernetes.cri-o.ImageName"));
    let digests = get("io.kubernetes.cri-o.ImageRepoDigests");
    let uid = "io.kubernetes.pod.uid";
    Told {
        runtime: Some("cri-o"),
        name: get("io.kubernetes.container.name")
            .or_else(|| label("io.kubernetes.container.name"))
            .filter(|_| sandbox != Some(true))
            .or_else(|| get("io.kubernetes.cri-o.Name")),
        image,
        image_id: get("io.kubernetes.cri-o.ImageRef")
            .and_then(|image| image_id(&image))
            .or(asked_id),
        digest: digests.and_then(|digests| first_digest(&digests)),
        pod_name: get("io.kubernetes.pod.name")
            .or_else(|| label("io.kubernetes.pod.name"))
            .or_else(|| get("io.kubernetes.cri-o.KubeName")),
        pod_namespace: get("io.kubernetes.pod.namespace")
            .or_else(|| label("io.kubernetes.pod.namespace"))
            .or_else(|| get("io.kubernetes.cri-o.Namespace")),
        pod_uid: get(uid).or_else(|| label(uid)),
        sandbox,
        privileged: None,
        created_ns: get("io.kubernetes.cri-o.Created").and_then(|time| timestamp_ns(&time)),
        labels: labels.map(|entries| Map {
            entries,
            cut: false,
        }),
        ..Told::default()
    }
}

fn podman(get: &impl Fn(&str) -> Option<Text>) -> Told {
    let privileged = get("io.podman.annotations.privileged");
    Told {
        runtime: Some("podman"),
        // Outside pods Podman says nothing.
        sandbox: Some(sandbox(get("io.kubernetes.cri-o.ContainerType")).unwrap_or(false)),
        privileged: privileged.map(|value| value.eq_ignore_ascii_case("true")),
        ..Told::default()
    }
}

fn nerdctl(annotations: Entries) -> Told {
    let name = annotations.named.get("nerdctl/name").cloned();
    let mut labels = annotations.others;
    labels
        .entries
        .retain(|name, _| !name.starts_with("nerdctl/"));
    Told {
        runtime: Some("containerd"),
        name,
        labels: Some(labels),
        sandbox: Some(false),
        ..Told::default()
    }
}

/// A name, or an id in its place.
fn named_or_id(image: Option<Text>) -> (Option<Text>, Option<Text>) {
    match image.as_deref().and_then(image_id) {
        Some(id) => (None, Some(id)),
        None => (image, None),
    }
}

/// The id that an image is named by: 64 hexadecimal digits, with or without what they are.
pub(crate) fn image_id(image: &str) -> Option<Text> {
    let id = image.strip_prefix("sha256:").unwrap_or(image);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.into())
}

/// The first `NAME@sha256:…` of a list in whatever form.
fn first_digest(digests: &str) -> Option<Text> {
    let (_, digest) = digests.split_once('@')?;
    let end = digest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != ':');
    let digest = &digest[..end.unwrap_or(digest.len())];
    digest.starts_with("sha256:").then(|| digest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(named: &[(&str, &str)], others: &[(&str, &str)]) -> Told {
        let map = |entries: &[(&str, &str)]| {
            let entries = entries.iter();
            entries
                .map(|(name, value)| (Text::from(*name), Text::from(*value)))
                .collect::<BTreeMap<_, _>>()
        };
        for (name, _) in named {
            assert!(NAMES.contains(name), "{name} is not read");
        }
        Told::of(Entries {
            named: map(named),
            others: Map {
                entries: map(others),
                cut: false,
            },
            cut: false,
        })
    }

    #[test]
    fn containerd_tells_a_pods_container_from_its_sandbox() {
        let pod = [
            ("io.kubernetes.cri.sandbox-name", "web-0"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.cri.sandbox-uid", "u-1"),
        ];
        let container = [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.image-name", "reg.example/app:7"),
        ];
        let found = told(&[&container[..], &pod[..]].concat(), &[]);
        assert_eq!(found.runtime, Some("containerd"));
        assert_eq!(found.name.as_deref(), Some("app"));
        assert_eq!(found.image.as_deref(), Some("reg.example/app:7"));
        assert_eq!(found.pod_name.as_deref(), Some("web-0"));
        assert_eq!(found.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(found.pod_uid.as_deref(), Some("u-1"));
        assert_eq!(found.sandbox, Some(false));
        let kind = [("io.kubernetes.cri.container-type", "sandbox")];
        let found = told(&[&kind[..], &pod[..]].concat(), &[]);
        assert_eq!((found.sandbox, found.name), (Some(true), None));
        assert_eq!(found.pod_name.as_deref(), Some("web-0"));
    }

    #[test]
    fn crio_has_labels_and_the_image_in_three_forms() {
        let id = "ab".repeat(32);
        let digests = format!("[\"quay.io/app@sha256:{id}\"]");
        let found = told(
            &[
                ("io.container.manager", "cri-o"),
                ("io.kubernetes.cri-o.ContainerType", "container"),
                ("io.kubernetes.cri-o.Image", &id),
                ("io.kubernetes.cri-o.ImageName", "quay.io/app:7"),
                ("io.kubernetes.cri-o.ImageRef", &id),
                ("io.kubernetes.cri-o.ImageRepoDigests", &digests),
                ("io.kubernetes.cri-o.Created", "2026-11-24T00:10:24.5Z"),
                (
                    "io.kubernetes.cri-o.Labels",
                    r#"{"io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-0",
                        "io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"u-1","team":"a"}"#,
                ),
            ],
            &[],
        );
        assert_eq!(found.runtime, Some("cri-o"));
        assert_eq!(found.name.as_deref(), Some("app"));
        assert_eq!(found.image.as_deref(), Some("quay.io/app:7"));
        assert_eq!(found.image_id.as_deref(), Some(&*id));
        assert_eq!(found.digest.as_deref(), Some(&*format!("sha256:{id}")));
        assert_eq!(found.pod_name.as_deref(), Some("web-0"));
        assert_eq!(&*found.labels.unwrap().entries["team"], "a");
        assert!(found.created_ns.is_some());
        let all = r#"{"io.kubernetes.container.preStopHandler":"{}","x":"y"}"#;
        let stopped = told(
            &[
                ("io.kubernetes.cri-o.Annotations", all),
                ("io.kubernetes.cri-o.ContainerType", "container"),
                ("io.kubernetes.cri-o.SandboxID", &id),
            ],
            &[],
        );
        assert_eq!(stopped.pre_stop.as_deref(), Some("{}"));
        assert_eq!(stopped.sandbox_id.as_deref(), Some(&*id));
        let sandbox = told(
            &[
                ("io.kubernetes.cri-o.ContainerType", "sandbox"),
                ("io.kubernetes.cri-o.Name", "k8s_POD_web-0_shop_u-1_0"),
                ("io.kubernetes.container.name", "POD"),
                ("io.kubernetes.cri-o.KubeName", "web-0"),
                ("io.kubernetes.cri-o.Namespace", "shop"),
                ("io.kubernetes.cri-o.Labels", "not json"),
            ],
            &[],
        );
        assert_eq!(sandbox.runtime, Some("cri-o"));
        assert_eq!(sandbox.sandbox, Some(true));
        assert_eq!(sandbox.name.as_deref(), Some("k8s_POD_web-0_shop_u-1_0"));
        assert_eq!(sandbox.pod_name.as_deref(), Some("web-0"));
        assert_eq!(sandbox.labels, None);
    }

    #[test]
    fn nerdctls_labels_are_its_annotations() {
        let found = told(
            &[("nerdctl/name", "web"), ("nerdctl/namespace", "default")],
            &[("team", "a"), ("nerdctl/hostname", "x")],
        );
        assert_eq!(found.runtime, Some("containerd"));
        assert_eq!(found.name.as_deref(), Some("web"));
        let labels = found.labels.unwrap().entries;
        assert_eq!(labels.len(), 1);
        assert_eq!(&*labels["team"], "a");
    }

    #[test]
    fn podmans_pods_are_not_crios() {
        let found = told(
            &[
                ("io.container.manager", "libpod"),
                ("io.kubernetes.cri-o.ContainerType", "sandbox"),
                ("io.podman.annotations.privileged", "TRUE"),
            ],
            &[],
        );
        assert_eq!(found.runtime, Some("podman"));
        assert_eq!((found.sandbox, found.privileged), (Some(true), Some(true)));
        let alone = told(&[("io.container.manager", "libpod")], &[]);
        assert_eq!((alone.sandbox, alone.privileged), (Some(false), None));
    }

    #[test]
    fn annotations_of_others_say_nothing() {
        assert_eq!(told(&[], &[("a", "b")]), Told::default());
    }
}
