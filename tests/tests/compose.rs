//! `docker-compose.yml` as it stands: our own images, the sensor with its exact capabilities, mounts and namespaces.
//!
//! Two things differ from what a user runs, since no registry is asked. The images hold the programs that were just
//! built, packed as the Dockerfile packs them; and in the place of Kafka's official image stands one with the same entry
//! point and the same variables, made of this machine's Java and the jars from the cache.
//! A Docker older than 23 does not know the capabilities BPF and PERFMON; there SYS_ADMIN stands for both.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dogwatch_tests::cache;
use dogwatch_tests::docker::{Container, docker, import, rootfs, run};
use dogwatch_tests::programs;
use dogwatch_tests::reader::Follower;

const PATIENCE: Duration = Duration::from_secs(90);

/// What the two images and the stand-in are called here, so that a user's own keep their names.
const TAG: &str = "compose-test";

#[test]
#[ignore = "needs root, Docker and Kafka: ./dogwatch.sh test"]
fn the_compose_file_finds_an_attack() {
    build_own_images();
    build_kafka_image();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let project = Project::up(folder.path(), port);

    let address = format!("localhost:{port}");
    let mut sensors = Follower::start(&address, "dogwatch.sensors");
    sensors.wait_for("the sensor's hello", PATIENCE, |status| {
        status.text("status") == "hello"
    });
    let victim = Container::idle("composed", &[]);
    victim.shell("/bin/cat /etc/shadow; true");
    let mut alerts = Follower::start(&address, "dogwatch.alerts");
    let alert = alerts.wait_for("the alert", PATIENCE, |alert| {
        alert.text("detection_id") == "sensitive_file_read"
            && alert.text("container_full_id") == victim.id
    });
    assert_eq!(alert.text("container_name"), victim.name);
    assert_eq!(alert.text("proc_stage"), "exec");
    assert_eq!(alert.value["process"]["cmdline"], "/bin/cat /etc/shadow");
    assert_eq!(alert.value["process"]["user_name"], "root");
    let machine = fs::read_to_string("/etc/machine-id").unwrap();
    assert_eq!(alert.text("host_id"), machine.trim());

    let sensor = docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.Privileged}} {{.HostConfig.CapDrop}}",
        &project.container("sensor"),
    ]);
    assert_eq!(sensor, "false [ALL]");
}

/// The services of the compose file; taken down when dropped.
struct Project<'a> {
    folder: &'a Path,
}

impl Project<'_> {
    fn up(folder: &Path, port: u16) -> Project<'_> {
        let compose = cache::repository().join("docker-compose.yml");
        let output = Command::new("docker-compose")
            .arg("--file")
            .arg(compose)
            .arg("config")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let resolved = adapted(&String::from_utf8_lossy(&output.stdout), port);
        fs::write(folder.join("docker-compose.yml"), resolved).unwrap();
        fs::write(folder.join("kafka.yml"), kafka_from_this_machine()).unwrap();
        let project = Project { folder };
        run(project.compose().args(["up", "--detach", "--no-build"]));
        project
    }

    fn compose(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .args(["--project-name", "dogwatch-test", "--file"])
            .arg(self.folder.join("docker-compose.yml"));
        command
            .arg("--file")
            .arg(self.folder.join("kafka.yml"))
            .stdin(Stdio::null());
        command
    }

    fn container(&self, service: &str) -> String {
        let output = self
            .compose()
            .args(["ps", "--quiet", service])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self
                .compose()
                .args(["logs", "--tail", "40", "processor", "sensor"])
                .output();
            println!(
                "{}",
                logs.map(|logs| String::from_utf8_lossy(&logs.stdout).into_owned())
                    .unwrap_or_default()
            );
        }
        // Best effort: what is gone already needs no taking down.
        let _ = self
            .compose()
            .args(["down", "--volumes", "--timeout", "5"])
            .output();
    }
}

/// The compose file with the images and the port of this test.
fn adapted(compose: &str, port: u16) -> String {
    let text = compose
        .replace(
            "image: apache/kafka:",
            &format!("image: apache/kafka:{TAG}-"),
        )
        .replace(
            "image: dogwatch/sensor",
            &format!("image: dogwatch/sensor:{TAG}"),
        )
        .replace(
            "image: dogwatch/processor",
            &format!("image: dogwatch/processor:{TAG}"),
        )
        .replace("29092", &port.to_string());
    let text = text.replace(
        &format!("apache/kafka:{TAG}-{}", kafka_version()),
        &format!("apache/kafka:{TAG}"),
    );
    let major = docker(&["version", "--format", "{{.Server.Version}}"]);
    if major.split('.').next().unwrap().parse::<u32>().unwrap() >= 23 {
        return text;
    }
    let kept = text.lines().filter(|line| line.trim() != "- PERFMON");
    let lines: Vec<_> = kept
        .map(|line| {
            if line.trim() == "- BPF" {
                line.replace("BPF", "SYS_ADMIN")
            } else {
                line.to_owned()
            }
        })
        .collect();
    lines.join("\n")
}

fn kafka_version() -> String {
    let compose = fs::read_to_string(cache::repository().join("docker-compose.yml")).unwrap();
    let version = compose
        .split("apache/kafka:")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    version.unwrap().to_owned()
}

/// Java and Kafka's jars are lent to the stand-in, not copied into it.
fn kafka_from_this_machine() -> String {
    let jars = cache::path("kafka");
    format!(
        "services:\n  kafka:\n    volumes: [\"/usr:/usr:ro\", \"{}:/opt/kafka/libs:ro\"]\n",
        jars.display()
    )
}

/// The Dockerfile's own last stages, from the programs that were just built.
fn build_own_images() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sensor", "processor"] {
        rootfs(
            &folder.path().join("out").join(name),
            &[&programs::path(&format!("dogwatch-{name}"))],
        );
    }
    let packed = format!("dogwatch-test/programs:{TAG}");
    import(folder.path(), &packed, &[]);
    for target in ["sensor", "processor"] {
        let mut build = Command::new(docker_with_buildkit());
        build
            .env("DOCKER_BUILDKIT", "1")
            .current_dir(cache::repository());
        build.args(["build", "--file", "docker/Dockerfile", "--target", target]);
        build.args([
            "--build-arg",
            &format!("PROGRAMS={packed}"),
            "--tag",
            &format!("dogwatch/{target}:{TAG}"),
            ".",
        ]);
        run(&mut build);
    }
}

/// The first docker whose BuildKit works: newer ones need the plugin buildx for it, Debian's has it built in.
fn docker_with_buildkit() -> &'static str {
    let works = |docker: &&&str| {
        let version = Command::new(docker)
            .args(["version", "--format", "{{.Client.Version}}"])
            .output();
        let old = version.is_ok_and(|version| version.stdout.starts_with(b"20."));
        old || Command::new(docker)
            .args(["buildx", "version"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let found = ["docker", "/usr/bin/docker"].iter().find(works);
    found.expect("a docker with BuildKit: install docker-buildx-plugin")
}

fn build_kafka_image() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in [
        "etc/kafka/docker",
        "opt/kafka/config",
        "opt/kafka/libs",
        "mnt/shared/config",
        "tmp",
        "usr",
        "proc",
        "sys",
        "dev",
        "var/lib/kafka/data",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    for name in ["server.properties", "log4j2.yaml", "tools-log4j2.yaml"] {
        fs::write(root.join("etc/kafka/docker").join(name), "").unwrap();
    }
    let java = fs::canonicalize(
        String::from_utf8(Command::new("which").arg("java").output().unwrap().stdout)
            .unwrap()
            .trim(),
    )
    .unwrap();
    let home = java.ancestors().nth(2).unwrap().display().to_string();
    // Java's folder links into this one.
    run(Command::new("cp")
        .arg("-r")
        .args(fs::read_dir("/etc").unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("java-")
                .then_some(path)
        }))
        .arg(root.join("etc")));
    fs::copy(
        cache::repository().join("tests/kafka/run"),
        root.join("etc/kafka/docker/run"),
    )
    .unwrap();
    let entry = r#"ENTRYPOINT ["/bin/sh", "/etc/kafka/docker/run"]"#;
    import(
        root,
        &format!("apache/kafka:{TAG}"),
        &[entry, &format!("ENV JAVA_HOME={home}")],
    );
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
