//! Commands that kubelet runs in a pod's containers, exec probes and lifecycle hooks, from the annotations that hold a part of
//! the pod's specification. A runtime is told no more of it.
//!
//! ```text
//! kubectl.kubernetes.io/last-applied-configuration    the whole manifest, of a pod that `kubectl apply` made itself
//! io.kubernetes.container.preStopHandler              kubelet's own, of a container with such a hook
//! ```
//! CRI-O passes both on; containerd those that its `pod_annotations` and `container_annotations` name.

use dogwatch_schemas::Text;
use serde::Deserialize;
use serde_json::Value;

use super::bounded::List;

/// The manifest, among a pod's annotations.
pub(crate) const MANIFEST: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What runs before a container is stopped, among its own annotations.
pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";

/// What has a command: a probe or a hook.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Handler {
    exec: Option<Exec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exec {
    command: List,
}

/// What kubelet runs in a container, as far as annotations say it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Checks {
    /// The first exec probe.
    pub healthcheck: Option<Vec<Text>>,
    /// Further probes, and hooks.
    pub others: Vec<Vec<Text>>,
    /// The manifest says what all of them are.
    pub has_manifest: bool,
}

impl Checks {
    /// Reads them from these two annotations, for the container of this name.
    pub fn of(manifest: Option<&str>, pre_stop: Option<&str>, name: Option<&str>) -> Self {
        let commands = manifest.zip(name);
        let commands = commands.and_then(|(manifest, name)| commands_of(manifest, name));
        let has_manifest = commands.is_some();
        let commands = commands.unwrap_or_else(|| Commands {
            hooks: Vec::from_iter(pre_stop.and_then(hook)),
            ..Commands::default()
        });
        let mut probes = commands.probes.into_iter();
        Self {
            healthcheck: probes.next(),
            others: probes.chain(commands.hooks).collect(),
            has_manifest,
        }
    }
}

/// A container's commands.
#[derive(Debug, Default, PartialEq)]
struct Commands {
    pub probes: Vec<Vec<Text>>,
    pub hooks: Vec<Vec<Text>>,
}

/// Where a container's handlers stand in a manifest.
const PROBES: [&str; 3] = ["/livenessProbe", "/readinessProbe", "/startupProbe"];
const HOOKS: [&str; 2] = ["/lifecycle/postStart", "/lifecycle/preStop"];
/// Lists of a pod's containers; sidecars are init containers that go on.
const CONTAINERS: [&str; 2] = ["/spec/containers", "/spec/initContainers"];

/// The commands of a pod's container of this name; `None` where the manifest is no pod's or has no such container.
fn commands_of(manifest: &str, container: &str) -> Option<Commands> {
    let manifest: Value = serde_json::from_str(manifest).ok()?;
    if manifest["kind"] != "Pod" {
        return None;
    }
    let lists = CONTAINERS.iter().filter_map(|list| manifest.pointer(list));
    let mut containers = lists.filter_map(Value::as_array).flatten();
    let found = containers.find(|one| one["name"] == container)?;
    let all = |handlers: &[&str]| {
        let handlers = handlers.iter().filter_map(|at| found.pointer(at));
        handlers.filter_map(command).collect()
    };
    Some(Commands {
        probes: all(&PROBES),
        hooks: all(&HOOKS),
    })
}

/// The command of a hook as kubelet writes it.
fn hook(handler: &str) -> Option<Vec<Text>> {
    command(&serde_json::from_str(handler).ok()?)
}

fn command(handler: &Value) -> Option<Vec<Text>> {
    let handler = Handler::deserialize(handler).ok()?;
    let command = handler.exec?.command;
    // A part of a command is another one.
    (!command.cut && !command.items.is_empty()).then_some(command.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","annotations":{}},"spec":{
        "containers":[{"name":"other","livenessProbe":{"exec":{"command":["no"]}}},
            {"name":"app","image":"app:7","readinessProbe":{"periodSeconds":2,"exec":{"command":["cat","/ready"]}},
            "livenessProbe":{"exec":{"command":["/bin/sh","-c","test -f \"/ok\""]}},"startupProbe":{"httpGet":{"port":80}},
            "lifecycle":{"postStart":{"exec":{"command":["warm"]}},"preStop":{"sleep":{"seconds":3}}}},
            {"name":"damaged","livenessProbe":{"exec":{"command":"one text"}},"readinessProbe":{"exec":{"command":[]}},
            "lifecycle":[1]}],
        "initContainers":[{"name":"sidecar","restartPolicy":"Always","startupProbe":{"exec":{"command":["up"]}}}]}}"#;

    fn texts(commands: &[&[&str]]) -> Vec<Vec<Text>> {
        let words = |words: &&[&str]| words.iter().copied().map(Text::from).collect();
        commands.iter().map(words).collect()
    }

    #[test]
    fn a_containers_commands_are_its_exec_probes_and_hooks() {
        let app: [&[&str]; 2] = [&["/bin/sh", "-c", "test -f \"/ok\""], &["cat", "/ready"]];
        let warm: [&[&str]; 1] = [&["warm"]];
        let up: [&[&str]; 1] = [&["up"]];
        for (name, probes, hooks) in [
            ("app", &app[..], &warm[..]),
            ("sidecar", &up, &[]),
            ("damaged", &[], &[]),
        ] {
            let expected = Commands {
                probes: texts(probes),
                hooks: texts(hooks),
            };
            assert_eq!(commands_of(POD, name), Some(expected), "{name}");
        }
        assert_eq!(commands_of(POD, "injected"), None);
    }

    #[test]
    fn what_is_no_pods_manifest_says_nothing() {
        let deployment = POD.replace("\"Pod\"", "\"Deployment\"");
        let nested = "[".repeat(100_000);
        for manifest in [
            "",
            "{",
            "[]",
            "null",
            r#"{"kind":"Pod","spec":3}"#,
            &deployment,
            &nested,
        ] {
            assert_eq!(commands_of(manifest, "app"), None);
        }
    }

    #[test]
    fn a_hook_is_a_handler_with_a_command() {
        let found = hook(r#"{"exec":{"command":["/bin/bash","-c","sleep 20"]}}"#);
        let expected = ["/bin/bash", "-c", "sleep 20"].map(Text::from);
        assert_eq!(found.as_deref(), Some(&expected[..]));
        assert_eq!(hook(r#"{"sleep":{"seconds":3}}"#), None);
        assert_eq!(hook("damaged"), None);
    }
}
