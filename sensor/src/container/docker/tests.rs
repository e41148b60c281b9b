//! Files as Docker 20.10 writes them, and what becomes of them.

use super::*;
use crate::container::membership;

const ID: &str = "5c6b211e993304259a9f74f38260548d165f3d89dcbb9287b19a14e9d942f195";
const IMAGE: &str = "sha256:c1ce6196c9886ced941c1be6bdb8b7f24394be6503c4a1babe770192bd0ce71e";

/// A data root that holds one container's files.
fn data_root(config: &str, host: &str, repositories: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("containers").join(ID);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.v2.json"), config).unwrap();
    std::fs::write(folder.join("hostconfig.json"), host).unwrap();
    let images = root.path().join("image/overlay2");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("repositories.json"), repositories).unwrap();
    root
}

fn config(image: &str, running: bool) -> String {
    format!(
        r#"{{"StreamConfig":{{}},"State":{{"Running":{running},"Paused":false,"Pid":16805,"StartedAt":"2026-11-24T00:10:24.395726199Z",
        "FinishedAt":"0001-01-01T00:00:00Z"}},"ID":"{ID}","Created":"2026-11-24T00:10:24.088682486Z","Managed":false,"Path":"sleep","Args":["1000"],
        "Config":{{"Hostname":"5c6b211e9933","User":"app","Env":null,"Cmd":["sleep","1000"],"Healthcheck":{{"Test":["CMD-SHELL","test -f /etc/passwd"],
        "Interval":1000000000}},"Image":"{image}","Volumes":null,"Entrypoint":null,"Labels":{{"a":"b","io.kubernetes.pod.name":"web-0",
        "io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"u-1"}}}},"Image":"{IMAGE}","Name":"/c-probe","Driver":"overlay2",
        "MountPoints":{{"/data":{{"Source":"/srv/c","Destination":"/data","RW":true,"Name":"","Driver":"","Type":"bind"}},
        "/vol":{{"Source":"/var/lib/docker/volumes/vol1/_data","Destination":"/vol","RW":false,"Name":"vol1","Driver":"local","Type":"volume"}}}}}}"#
    )
}

const HOST: &str = r#"{"Binds":["/srv/c:/data"],"NetworkMode":"host","PidMode":"host","Privileged":true,"CapAdd":["SYS_ADMIN"],
    "Tmpfs":{"/scratch":"size=1m,ro"},"CgroupnsMode":"host"}"#;

fn repositories() -> String {
    format!(
        r#"{{"Repositories":{{"reg.example:5000/team/app":{{"reg.example:5000/team/app:7":"{IMAGE}",
        "reg.example:5000/team/app@sha256:feed":"{IMAGE}"}}}}}}"#
    )
}

fn read(config: &str, host: &str) -> Result<Container, FileError> {
    let root = data_root(config, host, &repositories());
    let docker = Docker::new(root.path(), &["late".into()]);
    let membership = membership(&format!("/docker/{ID}")).unwrap();
    docker.read(&Files::default(), root.path(), &membership)
}

#[test]
fn everything_docker_knows_is_read() {
    let container = read(&config("reg.example:5000/team/app:7", true), HOST).unwrap();
    assert_eq!(container.name.as_deref(), Some("c-probe"));
    assert_eq!(
        container.image.as_deref(),
        Some("reg.example:5000/team/app:7")
    );
    assert_eq!(container.image_id.as_deref(), Some(&IMAGE[7..]));
    assert_eq!(
        container.repository.as_deref(),
        Some("reg.example:5000/team/app")
    );
    assert_eq!(container.tag.as_deref(), Some("7"));
    assert_eq!(container.digest.as_deref(), Some("sha256:feed"));
    assert_eq!(
        (
            container.privileged,
            container.host_pid,
            container.host_network
        ),
        (Some(true), Some(true), Some(true))
    );
    assert_eq!(container.init_pid, Some(16805));
    assert_eq!(container.start_ns, Some(1_795_479_024_395_726_199));
    assert_eq!(
        container.healthcheck.as_deref(),
        Some(&["/bin/sh".into(), "-c".into(), "test -f /etc/passwd".into()][..])
    );
    assert_eq!(
        container.command.as_deref(),
        Some(&["sleep".into(), "1000".into()][..])
    );
    assert_eq!(container.user.as_deref(), Some("app"));
    assert_eq!(
        (container.pod_name(), container.pod_namespace()),
        (Some("web-0".into()), Some("shop".into()))
    );
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|m| (&*m.destination, &*m.kind, m.writable))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/data", "bind", true),
            ("/vol", "volume", false),
            ("/scratch", "tmpfs", false)
        ]
    );
    assert_eq!(&*container.source, "docker_files");
}

#[test]
fn a_container_not_yet_running_has_no_start() {
    let container = read(&config("x", false), HOST).unwrap();
    assert_eq!((container.start_ns, container.init_pid), (None, None));
}

#[test]
fn references_are_split() {
    let images = OfImage(IMAGE)
        .deserialize(&mut serde_json::Deserializer::from_str(&repositories()))
        .unwrap();
    let check = |reference: &str, expected: (Option<&str>, Option<&str>, Option<&str>)| {
        let split = Reference::split(reference, &images, IMAGE);
        assert_eq!(
            (
                split.repository.as_deref(),
                split.tag.as_deref(),
                split.digest.as_deref()
            ),
            expected,
            "{reference}"
        );
    };
    check("busybox", (Some("busybox"), Some("latest"), None));
    check(
        "docker.io/library/nginx:1.27",
        (Some("docker.io/library/nginx"), Some("1.27"), None),
    );
    check(
        "localhost:5000/x",
        (Some("localhost:5000/x"), Some("latest"), None),
    );
    check(
        "nginx@sha256:abcd",
        (Some("nginx"), None, Some("sha256:abcd")),
    );
    check(
        "c1ce6196c988",
        (
            Some("reg.example:5000/team/app"),
            Some("7"),
            Some("sha256:feed"),
        ),
    );
    check(
        IMAGE,
        (
            Some("reg.example:5000/team/app"),
            Some("7"),
            Some("sha256:feed"),
        ),
    );
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let nowhere = Path::new("/nowhere");
    let gone = Docker::new(nowhere, &[])
        .read(
            &Files::default(),
            nowhere,
            &membership(&format!("/docker/{ID}")).unwrap(),
        )
        .unwrap_err();
    assert!(gone.to_string().contains("config.v2.json"), "{gone}");
    let broken = read("{\"State\":", HOST).unwrap_err();
    assert!(matches!(broken, FileError::Unparsable { .. }), "{broken}");
}

#[test]
fn what_is_too_large_is_cut_and_the_rest_is_known() {
    let label = format!("\"{}\":\"{}\",", "n".repeat(5_000), "v".repeat(5_000));
    let labels: String = (0..40_000)
        .map(|number| format!("\"n{number}\":\"{}\",", "v".repeat(100)))
        .collect();
    let large = config("app", true).replace(
        "\"Labels\":{",
        &format!("\"Labels\":{{{label}{labels}\"late\":\"kept\","),
    );
    assert!(large.len() > 4 << 20);
    let container = read(&large, HOST).unwrap();
    assert_eq!(container.name.as_deref(), Some("c-probe"));
    assert!(container.truncated && container.healthcheck.is_some());
    assert!(container.bytes() < 200 << 10, "{}", container.bytes());
    assert_eq!(&*container.labels.unwrap()["late"], "kept");
    let check = "x".repeat(40_000);
    let large = config("app", true).replace("test -f /etc/passwd", &check);
    let container = read(&large, HOST).unwrap();
    assert!(container.truncated && container.healthcheck.is_none());
    assert!(!read(&config("app", true), HOST).unwrap().truncated);
}

#[test]
fn a_file_beyond_all_measure_is_refused_unread() {
    let root = data_root("{}", HOST, "{}");
    let path = root
        .path()
        .join("containers")
        .join(ID)
        .join("config.v2.json");
    std::fs::File::create(path)
        .unwrap()
        .set_len(500 << 20)
        .unwrap();
    let membership = membership(&format!("/docker/{ID}")).unwrap();
    let refused = Docker::new(root.path(), &["late".into()]).read(
        &Files::default(),
        root.path(),
        &membership,
    );
    assert!(
        matches!(refused, Err(FileError::TooLarge { .. })),
        "{refused:?}"
    );
}
