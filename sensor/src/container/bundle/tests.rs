//! Bundles as containerd, CRI-O, Podman and Docker write them, and what becomes of them.

use super::*;
use crate::container::membership;

const ID: &str = "5c6b211e993304259a9f74f38260548d165f3d89dcbb9287b19a14e9d942f195";

/// A bundle with what differs between runtimes.
fn config(linux: &str, mounts: &str, capabilities: &[&str], annotations: &str) -> String {
    let capabilities = serde_json::to_string(capabilities).unwrap();
    format!(
        r#"{{"ociVersion":"1.0.2-dev","process":{{"terminal":false,"user":{{"uid":1000,"gid":10,"additionalGids":[0]}},
        "args":["/bin/app","--port","80"],"env":["PATH=/bin"],"cwd":"/","capabilities":{{"bounding":{capabilities},
        "effective":[],"permitted":null}},"noNewPrivileges":true}},"root":{{"path":"rootfs"}},"hostname":"x",
        "mounts":[{{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}},
        {{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid"]}},
        {{"destination":"/sys","type":"sysfs","source":"sysfs","options":["ro"]}}{mounts}],
        "linux":{{"resources":{{"devices":[{{"allow":false,"access":"rwm"}}]}},{linux}}},
        "annotations":{annotations}}}"#
    )
}

const OWN: &str = r#""namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"}],"cgroupsPath":"/default/box",
    "maskedPaths":["/proc/kcore"],"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}"#;

fn read(config: &str, cgroup: &str) -> Container {
    read_whole(config, cgroup, |_| {}).container
}

fn read_whole(config: &str, cgroup: &str, prepare: impl Fn(&Path)) -> super::Read {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    prepare(folder.path());
    let membership = membership(cgroup).unwrap();
    super::read(&Files::default(), folder.path(), None, &membership).unwrap()
}

fn default_capabilities() -> Vec<String> {
    let names = CAPABILITIES_BY_DEFAULT.iter();
    names.map(|name| format!("CAP_{name}")).collect()
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn a_pods_container_is_known_by_its_bundle_alone() {
    let mounts = r#",{"destination":"/data","type":"bind","source":"/srv/d","options":["rbind","rprivate","rw"]},
        {"destination":"/cfg","source":"/srv/c","options":["rbind","ro"]},
        {"destination":"/scratch","type":"tmpfs","source":"tmpfs","options":["noexec"]}"#;
    let annotations = r#"{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"app",
        "io.kubernetes.cri.image-name":"reg.example:5000/team/app:7","io.kubernetes.cri.sandbox-name":"web-0",
        "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"u-1"}"#;
    let mut capabilities = default_capabilities();
    capabilities.push("CAP_NET_ADMIN".into());
    let config = config(OWN, mounts, &texts(&capabilities), annotations);
    let container = read(
        &config,
        &format!("/kubepods.slice/cri-containerd-{ID}.scope"),
    );
    assert_eq!((&*container.id, &*container.runtime), (ID, "containerd"));
    assert_eq!(container.name.as_deref(), Some("app"));
    assert_eq!(
        container.image.as_deref(),
        Some("reg.example:5000/team/app:7")
    );
    assert_eq!(
        container.repository.as_deref(),
        Some("reg.example:5000/team/app")
    );
    assert_eq!(container.tag.as_deref(), Some("7"));
    assert_eq!(container.pod_name().as_deref(), Some("web-0"));
    assert_eq!(container.pod_namespace().as_deref(), Some("shop"));
    assert_eq!(container.pod_uid().as_deref(), Some("u-1"));
    assert_eq!(container.sandbox, Some(false));
    assert_eq!(container.user.as_deref(), Some("1000:10"));
    assert_eq!(container.privileged, Some(false));
    assert_eq!(container.cap_add, Some(vec!["NET_ADMIN".into()]));
    assert_eq!(
        (container.host_pid, container.host_network),
        (Some(false), Some(false))
    );
    assert_eq!(container.command.map(|command| command.len()), Some(3));
    assert!(container.created_ns.is_some());
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| (&*mount.destination, mount.source.as_deref(), mount.writable))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/data", Some("/srv/d"), true),
            ("/cfg", Some("/srv/c"), false),
            ("/scratch", None, true)
        ]
    );
    assert_eq!(&*container.source, "bundle");
}

#[test]
fn what_is_privileged_has_all_capabilities_and_nothing_masked() {
    let all: Vec<String> = (0..41).map(|number| format!("CAP_{number}")).collect();
    let open = r#""namespaces":[{"type":"mount"}],"maskedPaths":null"#;
    let container = read(&config(open, "", &texts(&all), "null"), &format!("/x/{ID}"));
    assert_eq!(container.privileged, Some(true));
    assert_eq!(container.cap_add, Some(vec![]));
    assert_eq!(
        (container.host_pid, container.host_network),
        (Some(true), Some(true))
    );
    let masked = read(&config(OWN, "", &texts(&all), "{}"), &format!("/x/{ID}"));
    assert_eq!(masked.privileged, Some(false));
    assert_eq!(masked.cap_add, Some(vec!["ALL".into()]));
    assert_eq!(&*masked.runtime, "oci");
}

#[test]
fn a_namespace_with_a_path_is_the_hosts_if_the_path_is() {
    let linux = |pid: u32| {
        format!(
            r#""namespaces":[{{"type":"network","path":"/proc/{pid}/ns/net"}},{{"type":"pid"}}]"#
        )
    };
    let own = std::process::id();
    let network = |pid| {
        let config = config(&linux(pid), "", &[], "{}");
        read(&config, &format!("/x/{ID}")).host_network
    };
    let inode = |path: &str| std::fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let hosts = HOST_PIDS.map(|pid| format!("/proc/{pid}/ns/net"));
    let host = hosts.iter().find_map(|path| inode(path));
    let shared = host.map(|host| Some(host) == inode("/proc/self/ns/net"));
    assert_eq!(network(own), shared);
    assert_eq!(network(u32::MAX), None, "not to be found out");
}

#[test]
fn the_init_is_in_the_pid_file() {
    let config = config(OWN, "", &[], "{}");
    let read = read_whole(&config, &format!("/x/{ID}"), |folder| {
        std::fs::write(folder.join("init.pid"), "4711").unwrap();
    });
    assert_eq!(read.container.init_pid, Some(4_711));
    assert!(read.container.start_ns.is_some());
    let read = read_whole(&config, &format!("/x/{ID}"), |folder| {
        std::fs::write(folder.join("pidfile"), "").unwrap();
    });
    assert_eq!(read.container.init_pid, None);
}

#[test]
fn dockers_data_root_is_where_its_mounts_come_from() {
    let mounts = format!(
        r#",{{"destination":"/etc/hosts","type":"bind","source":"/home/a/.local/share/docker/containers/{ID}/hosts","options":["rbind"]}}"#
    );
    let read = read_whole(
        &config(OWN, &mounts, &[], "{}"),
        &format!("/x/{ID}"),
        |_| {},
    );
    assert_eq!(
        read.docker_root.as_deref(),
        Some(Path::new("/home/a/.local/share/docker"))
    );
    let read = read_whole(&config(OWN, "", &[], "{}"), &format!("/x/{ID}"), |_| {});
    assert_eq!(read.docker_root, None);
}

#[test]
fn damaged_and_huge_bundles_are_refused_or_cut() {
    let folder = tempfile::tempdir().unwrap();
    let membership = membership(&format!("/x/{ID}")).unwrap();
    let read = || super::read(&Files::default(), folder.path(), None, &membership);
    assert!(matches!(read(), Err(FileError::Unreadable { .. })));
    let path = folder.path().join("config.json");
    std::fs::write(&path, r#"{"process":{"args":["#).unwrap();
    assert!(matches!(read(), Err(FileError::Unparsable { .. })));
    std::fs::write(&path, r#"{"process":null,"mounts":null,"linux":null}"#).unwrap();
    assert_eq!(read().unwrap().container.command, Some(vec![]));
    let many: String = (0..40_000)
        .map(|number| format!("\"x{number}\":\"{}\",", "v".repeat(100)))
        .collect();
    let annotations = format!(r#"{{{many}"nerdctl/namespace":"default","nerdctl/name":"web"}}"#);
    std::fs::write(&path, config(OWN, "", &[], &annotations)).unwrap();
    let container = read().unwrap().container;
    assert_eq!(container.name.as_deref(), Some("web"));
    assert!(container.truncated);
    assert!(container.bytes() < 256 << 10, "{}", container.bytes());
}

const PAUSE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const MANIFEST: &str = r#"{"kind":"Pod","spec":{"containers":[{"name":"app","livenessProbe":{"exec":{"command":["live"]}},
    "lifecycle":{"preStop":{"exec":{"command":["stop"]}}},"readinessProbe":{"exec":{"command":["ready"]}}}]}}"#;

/// The bundles of a pod's container and of its sandbox, with these annotations beside those that tell what they are; the
/// container's own is read.
fn of_pod(annotations: &[(&str, &str)], sandboxes: &[(&str, &str)], sandbox_id: &str) -> Container {
    let tasks = tempfile::tempdir().unwrap();
    let write = |id: &str, kind: &str, more: &[(&str, &str)]| {
        let told = [
            ("io.kubernetes.cri.container-type", kind),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.sandbox-id", sandbox_id),
        ];
        let all: std::collections::BTreeMap<_, _> = told.iter().chain(more).copied().collect();
        let annotations = serde_json::to_string(&all).unwrap();
        let folder = tasks.path().join(id);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("config.json"),
            config(OWN, "", &[], &annotations),
        )
        .unwrap();
        folder
    };
    write(PAUSE, "sandbox", sandboxes);
    let folder = write(ID, "container", annotations);
    let membership = membership(&format!("/x/{ID}")).unwrap();
    let read = super::read(&Files::default(), &folder, None, &membership);
    read.unwrap().container
}

fn commands(container: &Container) -> Vec<&str> {
    let commands = container.healthcheck.iter().chain(&container.probes);
    commands.map(|command| &*command[0]).collect()
}

#[test]
fn a_pods_commands_are_in_its_manifest_or_its_sandboxs() {
    let manifest = [(crate::container::MANIFEST, MANIFEST)];
    for (own, sandboxes) in [(&manifest[..], &[][..]), (&[], &manifest)] {
        let container = of_pod(own, sandboxes, PAUSE);
        assert_eq!(commands(&container), ["live", "ready", "stop"]);
        assert!(container.has_manifest);
    }
    let stop = [(
        crate::container::PRE_STOP,
        r#"{"exec":{"command":["stop"]}}"#,
    )];
    let container = of_pod(&stop, &[], PAUSE);
    assert_eq!(commands(&container), ["stop"]);
    assert!(container.healthcheck.is_none() && !container.has_manifest);
    for sandbox_id in ["", "../../etc", &PAUSE[1..], ID] {
        let container = of_pod(&[], &manifest, sandbox_id);
        assert!(!container.has_manifest, "{sandbox_id}");
    }
}

#[test]
fn a_container_may_join_a_pid_namespace() {
    let joins = |namespace: &str| {
        let linux = format!(r#""namespaces":[{namespace}]"#);
        read(&config(&linux, "", &[], "{}"), &format!("/x/{ID}")).joins_pidns
    };
    assert!(joins(
        r#"{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}"#
    ));
    assert!(!joins(r#"{"type":"pid"},{"type":"network","path":"/n"}"#));
    assert!(!joins(""));
}
