//! Which of several files is believed.

use super::*;
use crate::container::{Cgroups, Question, SocketAnswer, Told};

const ID: &str = "5c6b211e993304259a9f74f38260548d165f3d89dcbb9287b19a14e9d942f195";

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn read(&self, cgroup: &str, bundle: Option<&str>) -> Result<Container, FileError> {
        let request = Request {
            membership: told_of(cgroup),
            bundle: bundle.map(PathBuf::from),
            pid_file: None,
            roots: vec!["/srv/tasks".into()],
        };
        let sources = Sources::new(Path::new("/var/lib/docker"), &[], &[]);
        sources.read(&Files::below(self.0.path()), &request)
    }
}

/// A cgroup that ends in a name is a container's that was announced.
fn told_of(cgroup: &str) -> Membership {
    let mut cgroups = Cgroups::default();
    let name = cgroup.rsplit('/').next().unwrap();
    cgroups.tell(cgroup, name, "other");
    cgroups.membership(cgroup).unwrap()
}

const POD: &str = r#"{"process":{"args":["/app"]},"annotations":{"io.kubernetes.cri.container-type":"container",
    "io.kubernetes.cri.container-name":"app"}}"#;

#[test]
fn a_bundle_is_found_where_it_was_announced_or_beside_others() {
    let cgroup = format!("/kubepods/burstable/pod1/{ID}");
    for (path, bundle) in [
        ("/home/x/b/config.json".to_owned(), Some("/home/x/b")),
        (format!("/srv/tasks/{ID}/config.json"), None),
        (
            format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
            None,
        ),
    ] {
        let host = Host::new();
        let container = host.write(&path, POD).read(&cgroup, bundle).unwrap();
        assert_eq!(&*container.runtime, "containerd", "{path}");
        assert_eq!(container.name.as_deref(), Some("app"), "{path}");
    }
    let error = Host::new().read(&cgroup, Some("/home/x/b")).unwrap_err();
    assert!(
        error.to_string().contains("/home/x/b/config.json"),
        "{error}"
    );
}

#[test]
fn dockers_own_files_say_more_than_its_bundle_wherever_they_are() {
    let root = "/home/a/.local/share/docker";
    let bundle = format!(
        r#"{{"mounts":[{{"destination":"/etc/hosts","source":"{root}/containers/{ID}/hosts"}}]}}"#
    );
    let host = Host::new();
    host.write("/b/config.json", &bundle)
        .write(
            &format!("{root}/containers/{ID}/config.v2.json"),
            r#"{"Name":"/web","Config":{"Image":"app:7"},"Image":"sha256:00"}"#,
        )
        .write(&format!("{root}/containers/{ID}/hostconfig.json"), "{}");
    let container = host.read(&format!("/x/{ID}"), Some("/b")).unwrap();
    assert_eq!(&*container.runtime, "docker");
    assert_eq!(&*container.source, "docker_files");
    assert_eq!(container.name.as_deref(), Some("web"));
}

#[test]
fn podmans_names_are_in_its_storage() {
    let storage = "/var/lib/containers/storage/overlay-containers";
    let bundle = r#"{"annotations":{"io.container.manager":"libpod"}}"#;
    let list = format!(r#"[{{"id":"{ID}","names":["web"],"image":"22","metadata":"{{}}"}}]"#);
    let host = Host::new();
    host.write(&format!("{storage}/{ID}/userdata/config.json"), bundle)
        .write(&format!("{storage}/containers.json"), &list);
    let container = host
        .read(&format!("/machine.slice/libpod-{ID}.scope"), None)
        .unwrap();
    assert_eq!(&*container.runtime, "podman");
    assert_eq!(&*container.source, "bundle_and_storage");
    assert_eq!(container.name.as_deref(), Some("web"));
    host.write(&format!("{storage}/containers.json"), "[{\"id\":");
    let container = host
        .read(&format!("/machine.slice/libpod-{ID}.scope"), None)
        .unwrap();
    assert_eq!((&*container.source, container.name), ("bundle", None));
}

#[test]
fn kubelets_logs_are_the_last_resort() {
    let uid = "01234567-89ab-cdef-0123-456789abcdef";
    let host = Host::new();
    host.write(&format!("/var/log/containers/web-0_shop_app-{ID}.log"), "");
    let container = host
        .read(&format!("/kubepods/pod{uid}/{ID}"), None)
        .unwrap();
    assert_eq!(&*container.source, "kubelet_logs");
    assert_eq!(container.pod_name.as_deref(), Some("web-0"));
    assert_eq!(&*container.runtime, "other");
}

/// One host a runtime, with a container as that runtime leaves it: the table's columns in their order.
fn hosts() -> Vec<(&'static str, Host, String)> {
    let digest = "cd".repeat(32);
    let bundle = |annotations: &str| {
        format!(
            r#"{{"process":{{"args":["/app"],"user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":["CAP_KILL"]}}}},
            "linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network"}}]}},"annotations":{annotations}}}"#
        )
    };
    let of_bundle = |id: &str, annotations: &str| {
        let host = Host::new();
        host.write(
            &format!("/srv/tasks/{id}/config.json"),
            &bundle(annotations),
        )
        .write(&format!("/srv/tasks/{id}/init.pid"), "17");
        host
    };
    let docker = Host::new();
    let own = format!("/var/lib/docker/containers/{ID}");
    let image = format!("sha256:{digest}");
    docker
        .write(
            &format!("{own}/config.v2.json"),
            &format!(
                r#"{{"State":{{"Running":true,"Pid":17,"StartedAt":"2026-11-24T00:10:24Z"}},"Created":"2026-11-24T00:10:24Z",
                "Config":{{"User":"","Cmd":["a"],"Entrypoint":["b"],"Image":"app:7","Healthcheck":{{"Test":["CMD","c"]}},
                "Labels":{{"io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.pod.uid":"u"}}}},
                "Image":"{image}","Name":"/web","Driver":"overlay2"}}"#
            ),
        )
        .write(&format!("{own}/hostconfig.json"), "{}")
        .write(
            "/var/lib/docker/image/overlay2/repositories.json",
            &format!(r#"{{"Repositories":{{"app":{{"app:7":"{image}","app@sha256:{digest}":"{image}"}}}}}}"#),
        );
    let containerd = of_bundle(
        ID,
        r#"{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"app",
        "kubectl.kubernetes.io/last-applied-configuration":
        "{\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"name\":\"app\",\"livenessProbe\":{\"exec\":{\"command\":[\"a\"]}}}]}}",
        "io.kubernetes.cri.image-name":"app:7","io.kubernetes.cri.sandbox-name":"p",
        "io.kubernetes.cri.sandbox-namespace":"n","io.kubernetes.cri.sandbox-uid":"u"}"#,
    );
    let nerdctl = of_bundle(
        ID,
        r#"{"nerdctl/namespace":"default","nerdctl/name":"web","team":"a"}"#,
    );
    let crio = of_bundle(
        ID,
        &format!(
            r#"{{"io.container.manager":"cri-o","io.kubernetes.cri-o.ContainerType":"container",
        "kubectl.kubernetes.io/last-applied-configuration":
        "{{\"kind\":\"Pod\",\"spec\":{{\"containers\":[{{\"name\":\"app\",\"livenessProbe\":{{\"exec\":{{\"command\":[\"a\"]}}}}}}]}}}}",
        "io.kubernetes.cri-o.Image":"app:7","io.kubernetes.cri-o.ImageRef":"{digest}",
        "io.kubernetes.cri-o.ImageRepoDigests":"[\"app@sha256:{digest}\"]","io.kubernetes.cri-o.Created":"2026-11-24T00:10:24Z",
        "io.kubernetes.cri-o.Labels":"{{}}","io.kubernetes.container.name":"app","io.kubernetes.pod.name":"p",
        "io.kubernetes.pod.namespace":"n","io.kubernetes.pod.uid":"u"}}"#
        ),
    );
    let podman = Host::new();
    let storage = "/var/lib/containers/storage/overlay-containers";
    podman
        .write(
            &format!("{storage}/{ID}/userdata/config.json"),
            &bundle(r#"{"io.container.manager":"libpod"}"#),
        )
        .write(&format!("{storage}/{ID}/userdata/pidfile"), "17")
        .write(
            &format!("{storage}/containers.json"),
            &format!(
                r#"[{{"id":"{ID}","names":["web"],"image":"{digest}","metadata":"{{\"image-name\":\"app:7\"}}",
                "created":"2026-11-24T00:10:24Z"}}]"#
            ),
        );
    let other = |prefix: &str| format!("/x/{prefix}{ID}");
    vec![
        ("Docker", docker, format!("/docker/{ID}")),
        (
            "containerd, Kubernetes",
            containerd,
            other("cri-containerd-"),
        ),
        ("containerd, nerdctl", nerdctl, other("nerdctl-")),
        (
            "containerd, ctr",
            of_bundle("web", "{}"),
            "/default/web".to_owned(),
        ),
        ("CRI-O", crio, other("crio-")),
        ("Podman", podman, other("libpod-")),
        ("runc, crun", of_bundle("box", "null"), "/box".to_owned()),
    ]
}

/// The rows of the document's table that begins so.
fn table(beginning: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let document = include_str!("../../../../docs/containers.md");
    let lines = document.lines();
    let rows = lines.skip_while(move |line| !line.starts_with(beginning));
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn what_the_document_says_of_sockets_is_what_they_fill_in() {
    let mut rows = table("| column | containerd, Kubernetes | CRI-O");
    let header = rows.next().expect("the table is there");
    let told = Told {
        image_id: Some("00".into()),
        digest: Some("sha256:00".into()),
        labels: [("team".into(), "shop".into())].into(),
        healthcheck: Some(vec!["check".into()]),
        ..Told::default()
    };
    let answer = SocketAnswer::Known(Box::new(told));
    let mut columns = 0;
    for row in rows.skip(1) {
        let column = row[0].trim_matches('`');
        for (cell, runtime) in row[1..].iter().zip(&header[1..]) {
            let (_, host, cgroup) = hosts().into_iter().find(|host| host.0 == *runtime).unwrap();
            let mut container = host.read(&cgroup, None).unwrap();
            assert!(
                Question::of(&told_of(&cgroup), &container).is_some(),
                "{runtime}"
            );
            let value = |container: &Container| {
                let record = serde_json::to_value(container.record("running")).unwrap();
                (
                    record[column].clone(),
                    record["not_delivered"][column].clone(),
                )
            };
            let (before, _) = value(&container);
            assert_eq!(
                before.is_null(),
                !cell.starts_with("files"),
                "{column} of {runtime}"
            );
            container.complete(&answer);
            let (after, reason) = value(&container);
            assert!(
                !after.is_null() && reason.is_null(),
                "{column} of {runtime}: {reason}"
            );
        }
        columns += 1;
    }
    assert_eq!(columns, 4);
}

#[test]
fn the_documents_table_is_what_is_delivered() {
    let mut rows = table("| column | Docker");
    let header = rows.next().expect("the table is there");
    let hosts = hosts();
    let runtimes: Vec<&str> = hosts.iter().map(|(runtime, ..)| *runtime).collect();
    assert_eq!(header[1..], runtimes);
    let records: Vec<serde_json::Value> = hosts
        .iter()
        .map(|(_, host, cgroup)| {
            let container = host.read(cgroup, None).unwrap();
            serde_json::to_value(container.record("running")).unwrap()
        })
        .collect();
    let mut columns = 0;
    for row in rows.skip(1) {
        let column = row[0].trim_matches('`');
        for (record, (told, runtime)) in records.iter().zip(row[1..].iter().zip(&runtimes)) {
            let value = &record[column];
            assert_eq!(
                value.is_null(),
                *told == "–",
                "{column} of {runtime}: {value}"
            );
            let reasons = &record["not_delivered"];
            let pod = column.starts_with("k8s_");
            let has_reason = !reasons[column].is_null();
            assert_eq!(
                has_reason,
                *told == "–" && !pod,
                "{column} of {runtime}: {reasons}"
            );
        }
        columns += 1;
    }
    assert_eq!(columns, 21);
}
