//! Real containers of several runtimes, none of which the sensor is told about: each reads a sensitive file, and rows and alerts
//! say which container it was.
//!
//! Needs root, Docker, containerd, Podman, LXC, runc and busybox, and fails where one is missing.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_tests::cri::PodConfig;
use dogwatch_tests::rows::{LOOP, Sensor};
use dogwatch_tests::runtimes::{DOCKER_IMAGE, Ground, POD_IMAGE, unique};
use dogwatch_tests::{programs, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root, Docker and Podman: ./dogwatch.sh test"]
fn docker_and_podman_tell_names_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let sensor = Sensor::start(folder.path());

    let name = unique("docker");
    let _container = ground.docker(&name, &LOOP);
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "docker");
    assert_eq!(attack["container_image"], format!("{name}:1"));

    let name = unique("podman");
    let _container = ground.podman(&name, &LOOP);
    let (attack, told) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "podman");
    assert_eq!(attack["container_image"], "localhost/dogwatch:1");
    assert_eq!(attack["container_image_repository"], "localhost/dogwatch");
    assert_eq!(told["container_privileged"], false);
}

#[test]
#[ignore = "needs root, containerd, LXC and runc: ./dogwatch.sh test"]
fn containers_with_names_for_ids_are_no_host() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let older = unique("older");
    let _older = ground.runc(&older, &LOOP);
    let sensor = Sensor::start(folder.path());
    let (attack, _) = sensor.attack(&older);
    assert_eq!(
        attack["container_type"], "oci",
        "it is older than the sensor"
    );

    let name = unique("runc");
    let _container = ground.runc(&name, &LOOP);
    let (attack, told) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "oci");
    assert_eq!(
        told["container_host_network"], true,
        "it has no network of its own"
    );

    let name = unique("ctr");
    let containerd = ground.containerd();
    let _container = containerd.ctr(&name, &LOOP);
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "containerd");

    let name = unique("lxc");
    let _container = ground.lxc(&name, &LOOP);
    let (attack, _) = sensor.attack(&name);
    assert_eq!(attack["container_type"], "lxc");
    let check = programs::command("dogwatch-sensor")
        .arg("check")
        .output()
        .unwrap();
    let check = String::from_utf8_lossy(&check.stdout);
    for runtime in ["oci: ", "containerd: ", "lxc: "] {
        assert!(check.contains(runtime), "{check}");
    }
}

#[test]
#[ignore = "needs root and Docker: ./dogwatch.sh test"]
fn dockers_containers_are_known_while_its_daemon_stands_still_or_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let mut dockerd = ground.dockerd();
    let [older, newer] = ["older", "newer"].map(unique);
    dockerd.container(&older, &LOOP);
    let settings = [("CONTAINERS__REPEAT", "1s")];
    let known = |sensor: &Sensor, name: &str| {
        let (attack, told) = sensor.attack(name);
        assert_eq!(attack["container_type"], "docker");
        assert_eq!(attack["container_image"], DOCKER_IMAGE);
        assert_eq!(told["evt_args"]["metadata_source"], "docker_files");
    };
    dockerd.signal(libc::SIGSTOP);
    let sensor = Sensor::start_with(folder.path(), &settings);
    known(&sensor, &older);
    dockerd.signal(libc::SIGCONT);
    dockerd.kill();
    // Its files are read again meanwhile.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(sensor.next_attack(&older)["container_image"], DOCKER_IMAGE);
    }
    dockerd.restart();
    dockerd.container(&newer, &LOOP);
    known(&sensor, &newer);
    sensor.next_attack(&older);
}

/// A pod of this name; each has a uid of its own, as Kubernetes writes them.
fn pod_config<'a>(
    name: &'a str,
    uid: &'a str,
    annotations: &'a [(&'a str, &'a str)],
) -> PodConfig<'a> {
    PodConfig {
        name,
        namespace: "shop",
        uid,
        annotations,
        ..PodConfig::default()
    }
}

/// Where `kubectl apply` leaves a pod's manifest.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A pod's manifest with an exec probe of one container.
fn manifest(container: &str, probe: &[&str]) -> String {
    let container = json!({"name": container, "livenessProbe": {"exec": {"command": probe}}});
    json!({"kind": "Pod", "spec": {"containers": [container]}}).to_string()
}

/// What is told of a pod's container, by its attack and in a row of its own.
fn in_pod(sensor: &Sensor, pod: &PodConfig<'_>, name: &str, id: &str) {
    let (attack, told) = sensor.attack(name);
    assert_eq!(told["container_full_id"], id);
    assert_eq!(attack["container_type"], "containerd");
    assert_eq!(attack["container_image"], POD_IMAGE);
    assert_eq!(attack["container_image_tag"], "7");
    assert_eq!(attack["container_sandbox"], false);
    assert_eq!(attack["k8s_pod_name"], pod.name);
    assert_eq!(attack["k8s_ns_name"], pod.namespace);
    assert_eq!(attack["k8s_pod_uid"], pod.uid);
    assert_eq!(told["container_host_network"], true);
    assert_eq!(told["container_host_pid"], false);
}

#[test]
#[ignore = "needs root, Docker and containerd: ./dogwatch.sh test"]
fn containers_of_the_cri_are_told_with_their_pods() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let mut containerd = ground.containerd();
    let cri = containerd.cri();
    let config = pod_config("older-0", "01234567-89ab-cdef-0123-456789abcdef", &[]);
    let older = cri.pod(&config);
    let name = unique("older");
    let id = older.container(&name, POD_IMAGE, &LOOP);
    let sensor = Sensor::start(folder.path());
    in_pod(&sensor, &config, &name, &id);

    let name = unique("app");
    let applied = manifest(&name, &["/bin/busybox", "true"]);
    let annotations = [(APPLIED, &*applied)];
    let config = PodConfig {
        shares_pids: true,
        ..pod_config(
            "web-0",
            "11234567-89ab-cdef-0123-456789abcdef",
            &annotations,
        )
    };
    let pod = cri.pod(&config);
    let sandbox = sensor.wait_for("sandbox", |row| {
        row["evt_type"] == "container" && row["container_full_id"] == *pod.id
    });
    assert_eq!(sandbox["container_sandbox"], true);
    assert_eq!(sandbox["k8s_pod_name"], "web-0");
    let id = pod.container(&name, POD_IMAGE, &LOOP);
    in_pod(&sensor, &config, &name, &id);

    // What is known does not depend on the daemon.
    containerd.restart();
    for (argument, stage) in [("true", "healthcheck"), ("false", "exec")] {
        pod.exec(&id, &["/bin/busybox", argument]);
        let executed = sensor.wait_for("probe", |row| {
            row["evt_type"] == "execve" && row["proc_cmdline"] == format!("/bin/busybox {argument}")
        });
        assert_eq!(executed["proc_stage"], stage, "{executed}");
        assert_eq!(executed["container_name"], *name);
        assert_eq!(executed["k8s_pod_name"], "web-0");
    }
}

/// Alerts that were written by now; the last line may be being written.
fn alerts(file: &Path) -> impl Iterator<Item = Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let alerts = text
        .lines()
        .map_while(|line| serde_json::from_str(line).ok());
    alerts.collect::<Vec<Value>>().into_iter()
}

/// The first alert of this detection in a container of this name.
fn alert_of(file: &Path, detection: &str, name: &str) -> Option<Value> {
    alerts(file).find(|alert| alert["detection_id"] == detection && alert["container_name"] == name)
}

#[test]
#[ignore = "needs root, Docker, containerd, Podman and LXC: ./dogwatch.sh test"]
fn the_same_attack_alerts_in_five_runtimes() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let containerd = ground.containerd();
    let cri = containerd.cri();
    let file = folder.path().join("alerts.jsonl");
    let local = programs::local(&file, &folder.path().join("local.log"), PATIENCE);

    let [docker, ctr, app, podman, lxc] = ["docker", "ctr", "app", "podman", "lxc"].map(unique);
    let _docker = ground.docker(&docker, &LOOP);
    let _ctr = containerd.ctr(&ctr, &LOOP);
    let copies = |folder| ["/bin/busybox", "tar", "-cf", "-", folder];
    let applied = manifest(&app, &copies("/etc"));
    let annotations = [(APPLIED, &*applied)];
    let config = pod_config(
        "web-0",
        "21234567-89ab-cdef-0123-456789abcdef",
        &annotations,
    );
    let pod = cri.pod(&config);
    let in_pod = pod.container(&app, POD_IMAGE, &LOOP);
    let _podman = ground.podman(&podman, &LOOP);
    let _lxc = ground.lxc(&lxc, &LOOP);

    let none = Value::Null;
    for (name, runtime, image) in [
        (&docker, "docker", json!(format!("{docker}:1"))),
        (&ctr, "containerd", none.clone()),
        (&app, "containerd", json!(POD_IMAGE)),
        (&podman, "podman", json!("localhost/dogwatch:1")),
        (&lxc, "lxc", none.clone()),
    ] {
        let alert = wait::until(&format!("an alert in {name}"), PATIENCE, || {
            alert_of(&file, "sensitive_file_read", name)
        });
        assert_eq!(alert["container_type"], runtime, "{alert}");
        assert_eq!(alert["container_image"], image, "{alert}");
        let pod = if *name == app {
            json!(["web-0", "shop"])
        } else {
            json!([none, none])
        };
        assert_eq!(
            json!([alert["k8s_pod_name"], alert["k8s_ns_name"]]),
            pod,
            "{alert}"
        );
    }
    // A probe is silent where another command alerts.
    pod.exec(&in_pod, &copies("/etc"));
    pod.exec(&in_pod, &copies("/tmp"));
    let copied = wait::until("the alert of files that are taken away", PATIENCE, || {
        alert_of(&file, "files_copied_out", &app)
    });
    let command = copied["process"]["cmdline"].as_str();
    assert!(
        command.is_some_and(|command| command.ends_with("/tmp")),
        "{copied}"
    );
    let mut sandboxes = alerts(&file).filter(|alert| alert["container_full_id"] == *pod.id);
    let told = sandboxes.next().map(|alert| alert["message"].clone());
    assert_eq!(told, None, "the sandbox does nothing");
    assert!(local.stop(PATIENCE).success());
}

/// A file system that answers nothing, over a folder; it goes when dropped.
struct Hung {
    folder: CString,
    /// Whoever waits for an answer fails when it is closed.
    device: Option<fs::File>,
}

impl Hung {
    fn over(folder: &str) -> Self {
        let device = fs::File::options().read(true).write(true).open("/dev/fuse");
        let device = device.expect("/dev/fuse can be opened");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let (folder, options) = (
            CString::new(folder).unwrap(),
            CString::new(options).unwrap(),
        );
        // SAFETY: all are texts that end with NUL and live until then.
        let mounted = unsafe {
            libc::mount(
                c"hung".as_ptr(),
                folder.as_ptr(),
                c"fuse".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
        Self {
            folder,
            device: Some(device),
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // SAFETY: a text that ends with NUL.
        unsafe { libc::umount2(self.folder.as_ptr(), libc::MNT_DETACH) };
        self.device = None;
    }
}

#[test]
#[ignore = "needs root, runc and FUSE, and takes 20 s: ./dogwatch.sh test"]
fn files_that_are_damaged_or_hang_take_nothing_from_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let sensor = Sensor::start_with(folder.path(), &[("CONTAINERS__REPEAT", "1s")]);
    let name = unique("damaged");
    let _container = ground.runc(&name, &LOOP);
    let (_, told) = sensor.attack(&name);
    // Nothing but its bundle says so.
    assert_eq!(told["container_host_network"], true);
    let before = sensor.memory_max();
    let path = ground.path(&format!("{name}/config.json"));
    let whole = fs::read_to_string(&path).unwrap();
    let large = "x".repeat(4 << 20);
    for text in [
        whole.as_bytes()[..whole.len() / 2].to_vec(),
        whole.replace("\"args\":[", "\"args\":[{},").into_bytes(),
        format!("{}{whole}", "[".repeat(1 << 20)).into_bytes(),
        vec![0x80; 10 << 20],
        format!("{{\"annotations\":{{\"a\":\"{large}\"}},{}", &whole[1..]).into_bytes(),
    ] {
        fs::write(&path, text).unwrap();
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(sensor.next_attack(&name)["container_host_network"], true);
    }
    let hung = Hung::over(&ground.path(&name));
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(sensor.next_attack(&name)["container_host_network"], true);
    }
    drop(hung);
    let network = whole.replace(
        "\"namespaces\":[",
        "\"namespaces\":[{\"type\":\"network\"},",
    );
    fs::write(&path, network).unwrap();
    sensor.wait_for("what can be read again", |row| {
        row["container_name"] == name && row["container_host_network"] == false
    });
    let more = sensor.memory_max() - before;
    assert!(more <= 24, "it took {more} MiB more");
}

/// How many containers a figure is of.
const CONTAINERS: usize = 100;

/// Runs a container that lives for so many microseconds; it is gone afterwards.
fn short_lived(ground: &Ground, name: &str, lives_us: u32) {
    let bundle = ground.bundle(name, &["/bin/busybox", "usleep", &lives_us.to_string()]);
    ground.run(&["runc", "run", "--bundle", &bundle, &unique(name)]);
    // As a runtime does at its end.
    fs::remove_dir_all(bundle).unwrap();
}

/// How many of the containers that lived so long have their name in their first event.
fn named_at_once(sensor: &Sensor, lives_us: u32) -> usize {
    let command = format!("/bin/busybox usleep {lives_us}");
    let (mut named, mut seen) = (0, std::collections::BTreeSet::new());
    while seen.len() < CONTAINERS {
        let row = sensor.wait_for("all containers", |row| {
            row["evt_type"] == "execve"
                && row["proc_cmdline"] == *command
                && row["proc_stage"] != "runtime"
        });
        if seen.insert(row["container_id"].as_str().unwrap().to_owned()) {
            let name = row["container_name"].as_str().unwrap_or_default();
            // Only its bundle says that it has no network of its own.
            let known = row["container_host_network"] == true;
            named += usize::from(name.starts_with("dogwatch-short-") && known);
        }
    }
    named
}

#[test]
#[ignore = "needs root and runc, and takes 40 s: ./dogwatch.sh test"]
fn containers_that_live_for_a_moment_are_named_in_their_first_event() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground::new(folder.path());
    let sensor = Sensor::start(folder.path());
    for (lives_us, least) in [(50_000, 95), (5_000, 0)] {
        for number in 0..CONTAINERS {
            short_lived(&ground, &format!("short-{number}"), lives_us);
        }
        let named = named_at_once(&sensor, lives_us);
        println!("{named} of {CONTAINERS} that live {lives_us} us are named in their first event");
        assert!(
            named >= least,
            "{named} of {CONTAINERS} that live {lives_us} us"
        );
    }
    // Whatever else runs on the host is in it, too: the seconds before say how much that is.
    let start = Instant::now();
    let before = sensor.cpu();
    std::thread::scope(|scope| {
        for number in 0..CONTAINERS {
            let ground = &ground;
            scope.spawn(move || short_lived(ground, &format!("short-{number}"), 1_000_000));
        }
    });
    let (took, used) = (start.elapsed(), sensor.cpu() - before);
    let named = named_at_once(&sensor, 1_000_000);
    let before = sensor.cpu();
    std::thread::sleep(took);
    let idle = sensor.cpu() - before;
    println!(
        "{named} of {CONTAINERS} started at once are named in their first event; {:?} of CPU each in {took:?}, {:?} without them",
        used / CONTAINERS as u32,
        idle / CONTAINERS as u32,
    );
    assert!(named >= 95, "{named} of {CONTAINERS} started at once");
}
