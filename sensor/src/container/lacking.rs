//! Why something is not known of a container; what is null for no reason here is known to be none.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;

use super::Container;
use super::cgroups::WITHOUT_FILES;

const IN_DATABASE: &str =
    "containerd keeps it in its database alone; of pods its CRI says it: see containers.sockets";
const IN_LIBPOD: &str =
    "Podman keeps it in its database alone; its API says it: see containers.sockets";
const TOGETHER: &str = "a bundle has entrypoint and command together: container_command";
const PROBES: &str = "the pod's manifest is not among the annotations that its runtime passes on: name probes in containers.probes";
const NOT_IN_BUNDLE: &str = "a bundle has no such thing, and nobody else wrote it down";
const NOT_READ: &str =
    "only the container's cgroup is known: the runtime's files could not be read";
const NOT_YET: &str = "the runtime has not written down its start yet";
const NO_PATH: &str = "the namespace it has could not be looked at";
const FOREIGN: &str = "this kind of container has no files that are read";

/// Runtimes (empty: all whose bundle was read), a column, and why it may be null.
const REASONS: [(&[&str], &str, &str); 15] = [
    (&["containerd"], "container_image", IN_DATABASE),
    (&["containerd"], "container_image_id", IN_DATABASE),
    (&["containerd"], "container_image_repository", IN_DATABASE),
    (&["containerd"], "container_image_tag", IN_DATABASE),
    (&["containerd"], "container_image_digest", IN_DATABASE),
    (&["containerd"], "container_labels", IN_DATABASE),
    (&["containerd", "cri-o"], "container_healthcheck", PROBES),
    (&["podman"], "container_labels", IN_LIBPOD),
    (&["podman"], "container_healthcheck", IN_LIBPOD),
    (&["podman"], "container_image_digest", IN_LIBPOD),
    (&[], "container_entrypoint", TOGETHER),
    (&[], "container_host_pid", NO_PATH),
    (&[], "container_host_network", NO_PATH),
    (&[], "container_start_ts", NOT_YET),
    (&["oci", "buildkit", "other"], "", NOT_IN_BUNDLE),
];

/// Columns that a runtime's socket has, so that they are known to be none where it was asked and they are null.
const OF_SOCKETS: [&str; 2] = ["container_labels", "container_image_digest"];

/// The columns of a container that are null because they could not be found out, and why.
pub(super) fn reasons(container: &Container) -> BTreeMap<Text, Text> {
    let reason = |column: &&str| {
        let why = match &*container.source {
            "docker_files" => return None,
            _ if container.socket_told && of_socket(container, column) => return None,
            "cgroup" if WITHOUT_FILES.contains(&&*container.runtime) => FOREIGN,
            "cgroup" | "kubelet_logs" => NOT_READ,
            _ => of_bundle(&container.runtime, column)?,
        };
        let why = match &container.socket_fault {
            Some(fault) if of_socket(container, column) => format!("{why}; {fault}").into(),
            _ => Text::from(why),
        };
        Some((Text::from(*column), why))
    };
    let null = nulls(container);
    null.iter().filter_map(reason).collect()
}

/// Docker's API has healthchecks; of the CRI's containers a manifest has them, or nobody.
fn of_socket(container: &Container, column: &str) -> bool {
    let pods = matches!(&*container.runtime, "containerd" | "cri-o");
    OF_SOCKETS.contains(&column) || (column == "container_healthcheck" && !pods)
}

fn of_bundle(runtime: &str, column: &str) -> Option<&'static str> {
    REASONS
        .iter()
        .find(|(runtimes, of, _)| {
            (runtimes.is_empty() || runtimes.contains(&runtime)) && (*of == column || of.is_empty())
        })
        .map(|(.., why)| *why)
}

/// Columns that are null and would be something if it were known.
fn nulls(container: &Container) -> Vec<&'static str> {
    let sandbox = container.sandbox == Some(true);
    let columns = [
        ("container_name", container.name.is_none() && !sandbox),
        ("container_image", container.image.is_none()),
        ("container_image_id", container.image_id.is_none()),
        ("container_image_repository", container.repository.is_none()),
        ("container_image_tag", container.tag.is_none()),
        ("container_image_digest", container.digest.is_none()),
        ("container_privileged", container.privileged.is_none()),
        ("container_host_pid", container.host_pid.is_none()),
        ("container_host_network", container.host_network.is_none()),
        ("container_cap_add", container.cap_add.is_none()),
        ("container_start_ts", container.start_ns.is_none()),
        ("container_created_ts", container.created_ns.is_none()),
        ("container_labels", container.labels.is_none()),
        ("container_entrypoint", container.entrypoint.is_none()),
        ("container_command", container.command.is_none()),
        (
            "container_healthcheck",
            container.healthcheck.is_none() && !container.has_manifest,
        ),
        ("container_user", container.user.is_none()),
    ];
    let null = columns.into_iter().filter(|(_, null)| *null);
    null.map(|(column, _)| column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(runtime: &str, source: &str, column: &str) -> Option<Text> {
        let container = Container {
            runtime: runtime.into(),
            source: source.into(),
            ..Container::default()
        };
        reasons(&container).get(column).cloned()
    }

    #[test]
    fn nulls_that_could_not_be_found_out_have_a_reason() {
        assert_eq!(
            why("containerd", "bundle", "container_labels").as_deref(),
            Some(IN_DATABASE)
        );
        assert_eq!(
            why("podman", "bundle_and_storage", "container_healthcheck").as_deref(),
            Some(IN_LIBPOD)
        );
        assert_eq!(
            why("oci", "bundle", "container_image").as_deref(),
            Some(NOT_IN_BUNDLE)
        );
        assert_eq!(
            why("docker", "cgroup", "container_name").as_deref(),
            Some(NOT_READ)
        );
        assert_eq!(
            why("lxc", "cgroup", "container_image").as_deref(),
            Some(FOREIGN)
        );
    }

    #[test]
    fn what_a_socket_would_have_says_why_it_did_not() {
        let mut container = Container {
            runtime: "podman".into(),
            source: "bundle_and_storage".into(),
            socket_fault: Some("it hangs".into()),
            ..Container::default()
        };
        let told = reasons(&container);
        for column in ["container_labels", "container_healthcheck"] {
            assert_eq!(&*told[column], format!("{IN_LIBPOD}; it hangs"), "{column}");
        }
        assert_eq!(&*told["container_entrypoint"], TOGETHER);
        (container.socket_told, container.socket_fault) = (true, None);
        let told = reasons(&container);
        for column in OF_SOCKETS.iter().chain(&["container_healthcheck"]) {
            assert!(!told.contains_key(*column), "{column} is known to be none");
        }
        container.runtime = "containerd".into();
        assert_eq!(&*reasons(&container)["container_healthcheck"], PROBES);
    }

    #[test]
    fn what_is_known_to_be_none_has_no_reason() {
        let mut pod = Container {
            runtime: "containerd".into(),
            source: "bundle".into(),
            ..Container::default()
        };
        assert_eq!(&*reasons(&pod)["container_healthcheck"], PROBES);
        pod.has_manifest = true;
        assert!(!reasons(&pod).contains_key("container_healthcheck"));
        assert_eq!(why("docker", "docker_files", "container_healthcheck"), None);
        let sandbox = Container {
            runtime: "containerd".into(),
            source: "bundle".into(),
            sandbox: Some(true),
            ..Container::default()
        };
        assert!(!reasons(&sandbox).contains_key("container_name"));
    }
}
