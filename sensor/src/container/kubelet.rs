//! Pod and container by the names of kubelet's log files, the same for every runtime:
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`. The pod's uid stands in the cgroup's path.

use std::path::Path;

use dogwatch_schemas::Text;

use super::Container;
use super::files::Files;

const LINKS: &str = "/var/log/containers";
/// Names looked at: kubelet's limit is some hundred pods a node.
const NAMES_MAX: usize = 16_384;

/// Completes a container that Kubernetes started, as far as its names are not known.
pub(super) fn complete(files: &Files, id: &str, container: &mut Container) -> bool {
    let uid = pod_uid(&container.cgroup_path);
    let of_pod = uid.is_some() || container.pod_uid.is_some();
    container.pod_uid = container.pod_uid.take().or(uid);
    if !of_pod || (container.pod_name.is_some() && container.name.is_some()) {
        return false;
    }
    let names = files.names(Path::new(LINKS), NAMES_MAX);
    let Some((pod, namespace, name)) = names.iter().find_map(|link| parts(link, id)) else {
        return false;
    };
    container.pod_name = container.pod_name.take().or(Some(pod.into()));
    container.pod_namespace = container.pod_namespace.take().or(Some(namespace.into()));
    container.name = container.name.take().or(Some(name.into()));
    // Only containers that were asked for have logs.
    container.sandbox = container.sandbox.or(Some(false));
    true
}

/// Pod, namespace and container of a link to the logs of this container.
fn parts<'a>(link: &'a str, id: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let names = link
        .strip_suffix(".log")?
        .strip_suffix(id)?
        .strip_suffix('-')?;
    let mut names = names.split('_');
    let found = (names.next()?, names.next()?, names.next()?);
    names.next().is_none().then_some(found)
}

/// The pod's uid in a cgroup's path: `…/pod<uid>/…`, or with systemd `…-pod<uid with _>.slice/…`.
fn pod_uid(cgroup_path: &str) -> Option<Text> {
    if !cgroup_path.contains("kubepods") {
        return None;
    }
    cgroup_path.split('/').find_map(|component| {
        let component = component.strip_suffix(".slice").unwrap_or(component);
        let (before, uid) = component.rsplit_once("pod")?;
        let is_uid = uid.len() >= 32
            && uid
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_');
        (is_uid && (before.is_empty() || before.ends_with('-')))
            .then(|| uid.replace('_', "-").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_uid_is_in_both_kinds_of_paths() {
        let uid = "01234567-89ab-cdef-0123-456789abcdef";
        let id = "ab".repeat(32);
        for path in [
            format!("/kubepods/burstable/pod{uid}/{id}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/crio-{id}.scope",
                uid.replace('-', "_")
            ),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice/cri-containerd-{id}.scope",
                uid.replace('-', "_")
            ),
        ] {
            assert_eq!(pod_uid(&path).as_deref(), Some(uid), "{path}");
        }
        assert_eq!(pod_uid(&format!("/docker/{id}")), None);
        assert_eq!(pod_uid("/kubepods/burstable/podman"), None);
        // A static pod's uid is the hash of its file.
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            pod_uid(&format!("/kubepods/pod{hash}/x")).as_deref(),
            Some(hash)
        );
    }

    #[test]
    fn a_link_names_pod_namespace_and_container() {
        let id = "ab".repeat(32);
        let link = format!("web-0_shop_app-main-{id}.log");
        assert_eq!(parts(&link, &id), Some(("web-0", "shop", "app-main")));
        assert_eq!(parts(&link, &"cd".repeat(32)), None);
        assert_eq!(parts(&format!("{id}.log"), &id), None);
    }

    #[test]
    fn pods_are_known_by_their_logs_where_nothing_else_says_it() {
        let (id, uid) = ("ab".repeat(32), "01234567-89ab-cdef-0123-456789abcdef");
        let root = tempfile::tempdir().unwrap();
        let links = root.path().join("var/log/containers");
        std::fs::create_dir_all(&links).unwrap();
        std::fs::write(links.join(format!("web-0_shop_app-{id}.log")), "").unwrap();
        let files = Files::below(root.path());
        let mut container = Container {
            cgroup_path: format!("/kubepods/pod{uid}/{id}").into(),
            ..Container::default()
        };
        assert!(complete(&files, &id, &mut container));
        assert_eq!(container.pod_name.as_deref(), Some("web-0"));
        assert_eq!(container.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(container.pod_uid.as_deref(), Some(uid));
        assert_eq!(container.name.as_deref(), Some("app"));
        assert_eq!(container.sandbox, Some(false));
        let mut on_host = Container {
            cgroup_path: format!("/docker/{id}").into(),
            ..Container::default()
        };
        assert!(!complete(&files, &id, &mut on_host));
        assert_eq!(on_host.pod_name, None);
    }
}
