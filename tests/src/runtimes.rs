//! Containers of runtimes other than Docker, from a root file system of busybox alone. No runtime is configured on the machine,
//! and what one keeps lies in the test's folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::cri::Cri;
use crate::process::Process;
use crate::{docker, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// The image of [`Containerd`]'s pods, and of its sandboxes: busybox.
pub const POD_IMAGE: &str = "localhost/dogwatch-pod:7";
/// The image of [`Dockerd`]'s containers: busybox.
pub const DOCKER_IMAGE: &str = "dogwatch:1";
const PAUSE_IMAGE: &str = "localhost/dogwatch-pause:1";

/// Undoes something when dropped.
#[derive(Debug)]
pub struct Undo(Vec<String>);

impl Undo {
    /// Runs this command when dropped.
    pub fn by(command: &[&str]) -> Self {
        Self(command.iter().map(|word| (*word).to_owned()).collect())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Best effort: what is gone already needs no removing.
        let _ = Command::new(&self.0[0]).args(&self.0[1..]).output();
    }
}

/// A name that no other run has.
pub fn unique(name: &str) -> String {
    format!("dogwatch-{name}-{}", std::process::id())
}

/// A folder of a test, with a root file system and its archive in it.
#[derive(Debug)]
pub struct Ground {
    folder: PathBuf,
    /// The root file system.
    pub root: PathBuf,
}

impl Ground {
    /// Lays out the root file system.
    ///
    /// # Panics
    /// Without busybox, or when the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        let root = folder.join("rootfs");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(name)).expect("a folder for the root");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("busybox: install busybox-static");
        symlink("busybox", root.join("bin/sh")).expect("a link to busybox");
        let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("a file");
        write("etc/passwd", "root:x:0:0::/:/bin/sh\n");
        write("etc/shadow", "root:*:0:0:99999:7:::\n");
        let ground = Self {
            folder: folder.to_owned(),
            root,
        };
        let archive = ground.path("rootfs.tar");
        ground.run(&["tar", "-C", &ground.path("rootfs"), "-cf", &archive, "."]);
        ground
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, command: &[&str]) {
        let log = self.folder.join("command.log");
        let file = fs::File::create(&log).expect("a log can be written");
        // A container may keep these, so no pipe may be among them.
        let status = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file handle can be cloned"))
            .stderr(file)
            .status();
        let said = fs::read_to_string(log).unwrap_or_default();
        let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}; install it"));
        assert!(status.success(), "{command:?}: {said}");
    }

    /// A container of Docker, and its image `NAME:1`.
    ///
    /// # Panics
    /// When Docker refuses.
    pub fn docker(&self, name: &str, program: &[&str]) -> [Undo; 2] {
        let image = format!("{name}:1");
        self.run(&["docker", "import", &self.path("rootfs.tar"), &image]);
        let undo = [
            Undo::by(&["docker", "rm", "--force", name]),
            Undo::by(&["docker", "rmi", "--force", &image]),
        ];
        let run = [
            "run",
            "--detach",
            "--network",
            "none",
            "--name",
            name,
            &image,
        ];
        docker::docker(&[&run[..], program].concat());
        undo
    }

    /// A container of Podman, of the image `localhost/dogwatch:1`.
    ///
    /// # Panics
    /// When Podman refuses.
    pub fn podman(&self, name: &str, program: &[&str]) -> Undo {
        self.podman_with(name, &[], program)
    }

    /// The same with further options.
    ///
    /// # Panics
    /// When Podman refuses.
    pub fn podman_with(&self, name: &str, options: &[&str], program: &[&str]) -> Undo {
        let podman = self.podman_command();
        let podman: Vec<&str> = podman.iter().map(String::as_str).collect();
        let image = "localhost/dogwatch:1";
        let import = ["import", "--quiet", &self.path("rootfs.tar"), image];
        self.run(&[&podman[..], &import].concat());
        let remove = ["rm", "--force", "--time", "0", name];
        let undo = Undo::by(&[&podman[..], &remove].concat());
        // Podman's own limits need rights that not every machine gives.
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ];
        let run = [
            "run",
            "--detach",
            "--runtime",
            "runc",
            "--network",
            "none",
            "--name",
            name,
        ];
        self.run(&[&podman[..], &run, &limits, options, &[image], program].concat());
        undo
    }

    /// The words that every command for Podman begins with.
    #[must_use]
    pub fn podman_command(&self) -> [String; 5] {
        let words = [
            "podman",
            "--root",
            &self.path("graph"),
            "--runroot",
            &self.path("state"),
        ];
        words.map(str::to_owned)
    }

    /// A bundle with these arguments, in a folder of this name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn bundle(&self, name: &str, arguments: &[&str]) -> String {
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": arguments},
            "root": {"path": self.root},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                // Runtimes make /dev/ptmx, and the root is that of many.
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {"namespaces": namespaces},
        });
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder for the bundle");
        fs::write(format!("{folder}/config.json"), config.to_string()).expect("a bundle");
        folder
    }

    /// A container of `runc` alone.
    ///
    /// # Panics
    /// When it refuses.
    pub fn runc(&self, name: &str, program: &[&str]) -> Undo {
        let bundle = self.bundle(name, program);
        let undo = Undo::by(&["runc", "delete", "--force", name]);
        self.run(&["runc", "run", "--detach", "--bundle", &bundle, name]);
        undo
    }

    /// A container of LXC.
    ///
    /// # Panics
    /// When LXC refuses.
    pub fn lxc(&self, name: &str, program: &[&str]) -> Undo {
        let (lxc, config) = (self.path("lxc"), self.path("lxc.conf"));
        fs::create_dir_all(&lxc).expect("a folder for LXC");
        let root = self.path("rootfs");
        let text = format!(
            "lxc.rootfs.path = dir:{root}\nlxc.uts.name = {name}\nlxc.net.0.type = none\nlxc.apparmor.profile = unconfined\n"
        );
        fs::write(&config, text).expect("a configuration of LXC");
        let undo = Undo::by(&["lxc-stop", "--kill", "--lxcpath", &lxc, "--name", name]);
        let start = [
            "lxc-start",
            "--lxcpath",
            &lxc,
            "--name",
            name,
            "--rcfile",
            &config,
        ];
        self.run(&[&start[..], &["--daemon", "--"], program].concat());
        undo
    }

    /// A daemon of containerd.
    ///
    /// # Panics
    /// When it does not start.
    pub fn containerd(&self) -> Containerd<'_> {
        Containerd::start(self)
    }

    /// A daemon of Docker.
    ///
    /// # Panics
    /// When it does not start.
    pub fn dockerd(&self) -> Dockerd<'_> {
        let mut dockerd = Dockerd {
            ground: self,
            daemon: None,
        };
        dockerd.restart();
        let socket = dockerd.socket();
        self.run(&[
            "docker",
            "--host",
            &socket,
            "import",
            &self.path("rootfs.tar"),
            DOCKER_IMAGE,
        ]);
        dockerd
    }

    /// Writes the archive of the images of pods and sandboxes. They are two: containerd tells of an image with two names one.
    fn pod_images(&self) -> String {
        let pause = self.root.join("pause");
        fs::write(&pause, "#!/bin/sh\nexec /bin/busybox sleep 2147483647\n").expect("a program");
        fs::set_permissions(&pause, fs::Permissions::from_mode(0o755)).expect("it can be executed");
        docker::import(&self.root, PAUSE_IMAGE, &["ENTRYPOINT [\"/pause\"]"]);
        docker::import(&self.root, POD_IMAGE, &["WORKDIR /"]);
        let archive = self.path("pod.tar");
        docker::docker(&["save", "--output", &archive, POD_IMAGE, PAUSE_IMAGE]);
        docker::docker(&["rmi", "--force", POD_IMAGE, PAUSE_IMAGE]);
        archive
    }
}

/// A daemon of its own, with its state where nothing on the machine says it. It serves the CRI, too.
#[derive(Debug)]
pub struct Containerd<'a> {
    ground: &'a Ground,
    daemon: Option<Process>,
}

impl<'a> Containerd<'a> {
    fn start(ground: &'a Ground) -> Self {
        let text = format!(
            r#"version = 2
root = {root:?}
state = {state:?}
[grpc]
  address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {PAUSE_IMAGE:?}
  # Not every machine lets anybody be killed later than its daemon.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  pod_annotations = ["kubectl.kubernetes.io/*"]
"#,
            root = ground.path("ctr-root"),
            state = ground.path("ctr-state"),
            socket = ground.path("ctr.sock"),
        );
        fs::write(ground.path("containerd.toml"), text).expect("a configuration of containerd");
        let mut containerd = Self {
            ground,
            daemon: None,
        };
        containerd.restart();
        containerd
    }

    /// Kills the daemon as a crash would, if it runs, and starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.crash();
        }
        let log = PathBuf::from(self.ground.path("containerd.log"));
        let mut command = Command::new("containerd");
        command.args(["--config", &self.ground.path("containerd.toml")]);
        self.daemon = Some(Process::start("containerd", &mut command, &log));
        let socket = self.ground.path("ctr.sock");
        wait::until("containerd's answer", PATIENCE, || {
            let asked = Command::new("ctr")
                .args(["--address", &socket, "version"])
                .output();
            let output = asked.expect("ctr can be started: install containerd");
            output.status.success().then_some(())
        });
    }

    /// A container without an image (`ctr run --rootfs`).
    ///
    /// # Panics
    /// When containerd refuses.
    pub fn ctr(&self, name: &str, program: &[&str]) -> Undo {
        let (socket, root) = (self.ground.path("ctr.sock"), self.ground.path("rootfs"));
        let ctr = ["ctr", "--address", &socket];
        let undo = Undo::by(&[&ctr[..], &["task", "rm", "--force", name]].concat());
        let run = ["run", "--detach", "--rootfs", &root, name];
        self.ground.run(&[&ctr[..], &run, program].concat());
        undo
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.ground.path("ctr.sock").into()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").pid()
    }

    /// Gives an image of its pods the name that it has by its digest, as if it had been pulled, and returns the digest.
    ///
    /// # Panics
    /// When containerd refuses.
    #[must_use]
    pub fn pulled(&self, image: &str) -> String {
        let socket = self.ground.path("ctr.sock");
        let ctr = [
            "ctr",
            "--address",
            &socket,
            "--namespace",
            "k8s.io",
            "images",
        ];
        let list = Command::new(ctr[0]).args(&ctr[1..]).arg("list").output();
        let list = String::from_utf8_lossy(&list.expect("ctr can be started").stdout).into_owned();
        let line = list.lines().find(|line| line.starts_with(image));
        let digest = line.and_then(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with("sha256:"))
        });
        let digest = digest.expect("the image has a digest").to_owned();
        let (repository, _) = image.rsplit_once(':').expect("the image has a tag");
        let tag = ["tag", image, &format!("{repository}@{digest}")];
        self.ground.run(&[&ctr[..], &tag].concat());
        digest
    }

    /// Its CRI, with the images of pods and sandboxes imported.
    ///
    /// # Panics
    /// When containerd refuses.
    pub fn cri(&self) -> Cri {
        let (socket, archive) = (self.ground.path("ctr.sock"), self.ground.pod_images());
        let import = ["images", "import", &archive];
        let ctr = ["ctr", "--address", &socket, "--namespace", "k8s.io"];
        self.ground.run(&[&ctr[..], &import].concat());
        Cri::at(Path::new(&socket))
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(PATIENCE);
        }
    }
}

/// A daemon of Docker of its own, with its files in the test's folder, so that it can be killed. Its containers outlive it.
#[derive(Debug)]
pub struct Dockerd<'a> {
    ground: &'a Ground,
    daemon: Option<Process>,
}

impl Dockerd<'_> {
    /// Kills the daemon as a crash would, if it runs, and starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let path = |name| self.ground.path(name);
        fs::write(path("dockerd.json"), "{}").expect("a configuration of Docker");
        let mut command = Command::new("dockerd");
        command
            .args([
                "--data-root",
                &path("docker-root"),
                "--exec-root",
                &path("docker-exec"),
            ])
            .args(["--pidfile", &path("docker.pid"), "--host", &self.socket()])
            .args([
                "--config-file",
                &path("dockerd.json"),
                "--storage-driver",
                "vfs",
            ])
            // Nothing of the machine's network is touched.
            .args(["--bridge", "none", "--iptables=false", "--ip-masq=false"])
            .arg("--live-restore");
        let log = PathBuf::from(path("dockerd.log"));
        self.daemon = Some(Process::start("dockerd", &mut command, &log));
        wait::until("Docker's answer", PATIENCE, || {
            let asked = Command::new("docker")
                .args(["--host", &self.socket(), "version"])
                .output();
            let output = asked.expect("docker can be started");
            output.status.success().then_some(())
        });
    }

    /// Kills the daemon as a crash would, if it runs.
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.crash();
        }
    }

    /// Lets the daemon stand still, or go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: libc::c_int) {
        self.daemon.as_ref().expect("it runs").signal(signal);
    }

    /// A container of the image [`DOCKER_IMAGE`].
    ///
    /// # Panics
    /// When Docker refuses.
    pub fn container(&self, name: &str, program: &[&str]) {
        let socket = self.socket();
        let docker = [
            "docker",
            "--host",
            &socket,
            "run",
            "--detach",
            "--network",
            "none",
        ];
        let run = ["--name", name, DOCKER_IMAGE];
        self.ground.run(&[&docker[..], &run, program].concat());
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.ground.path("docker.sock"))
    }
}

impl Drop for Dockerd<'_> {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            self.restart();
        }
        self.signal(libc::SIGCONT);
        let socket = self.socket();
        let docker = ["--host", &socket];
        // Best effort: what is gone already needs no removing.
        let listed = Command::new("docker")
            .args(docker)
            .args(["ps", "--all", "--quiet"])
            .output();
        let ids = listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned());
        for id in ids.unwrap_or_default().lines() {
            let _ = Command::new("docker")
                .args(docker)
                .args(["rm", "--force", id])
                .output();
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(PATIENCE);
        }
        // It mounts its data root over itself.
        let root = self.ground.path("docker-root");
        let _ = Command::new("umount").args(["--lazy", &root]).output();
    }
}
