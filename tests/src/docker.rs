//! Real containers, from an image that is made of this machine's own files: no registry is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::cache;

/// The image attacks run in: busybox, bash, apt-get, a program that executes itself from memory.
pub const IMAGE: &str = "dogwatch-test/app:1.4";

/// Its repository, without the tag.
pub const IMAGE_REPOSITORY: &str = "dogwatch-test/app";

/// Makes [`IMAGE`], once for each test program.
///
/// # Panics
/// When no Docker daemon answers or the image cannot be made.
pub fn image() -> &'static str {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the image");
        lay_out(folder.path());
        import(folder.path(), IMAGE, &[]);
    });
    IMAGE
}

/// Makes an image of a folder's content; `changes` are lines of a Dockerfile such as `ENTRYPOINT`.
///
/// # Panics
/// When Docker refuses it.
pub fn import(folder: &Path, image: &str, changes: &[&str]) {
    let archive = tempfile::NamedTempFile::new().expect("a file for the archive");
    let mut tar = Command::new("tar");
    run(tar
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(archive.path())
        .arg("."));
    let path = archive.path().to_string_lossy();
    let changes = changes.iter().flat_map(|line| ["--change", line]);
    let arguments: Vec<&str> = ["import"]
        .into_iter()
        .chain(changes)
        .chain([&*path, image])
        .collect();
    docker(&arguments);
}

/// Copies programs with all that they load into a folder, as our own images are made.
///
/// # Panics
/// When one is missing.
pub fn rootfs(folder: &Path, programs: &[&Path]) {
    run(Command::new(cache::repository().join("docker/rootfs.sh"))
        .arg(folder)
        .args(programs));
}

/// Runs `docker` and returns its standard output without the last line's end.
///
/// # Panics
/// When it fails.
pub fn docker(arguments: &[&str]) -> String {
    let output = attempt(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {arguments:?} failed (is a daemon running?): {errors}"
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Runs `docker`, whatever comes of it.
///
/// # Panics
/// When there is no docker.
pub fn attempt(arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .output()
        .expect("docker can be started")
}

/// A running container; removed when dropped.
#[derive(Debug)]
pub struct Container {
    /// All 64 digits of its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

impl Container {
    /// Starts a container of [`IMAGE`] in the background. `options` come before the image, `program` after it.
    ///
    /// # Panics
    /// When Docker refuses it.
    pub fn start(name: &str, options: &[&str], program: &[&str]) -> Container {
        // The process id keeps apart the containers of a run that was killed.
        let name = format!("dogwatch-test-{name}-{}", std::process::id());
        let arguments = [
            &["run", "--detach", "--network", "none", "--name", &name],
            options,
            &[image()],
            program,
        ]
        .concat();
        Container {
            id: docker(&arguments),
            name,
        }
    }

    /// A container that only waits to be used.
    ///
    /// # Panics
    /// As [`Container::start`].
    pub fn idle(name: &str, options: &[&str]) -> Container {
        Container::start(name, options, &["/bin/sleep", "600"])
    }

    /// Its id as alerts show it.
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// Runs a program inside (`docker exec`), whatever comes of it. `options` are those of `docker exec`.
    pub fn exec(&self, options: &[&str], program: &[&str]) -> Output {
        attempt(&[&["exec"], options, &[&self.id], program].concat())
    }

    /// Runs a line of shell inside.
    ///
    /// # Panics
    /// When it fails.
    pub fn shell(&self, line: &str) {
        let output = self.exec(&[], &["/bin/sh", "-c", line]);
        assert!(
            output.status.success(),
            "{line} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits until its program has ended.
    ///
    /// # Panics
    /// When Docker does not know it.
    pub fn wait(&self) {
        docker(&["wait", &self.id]);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Best effort: a container that is gone already is none left behind.
        attempt(&["rm", "--force", "--volumes", &self.id]);
    }
}

fn lay_out(folder: &Path) {
    rootfs(
        folder,
        &[Path::new("/bin/bash"), Path::new("/usr/bin/apt-get")],
    );
    let from_memory = folder.join("usr/bin/from-memory");
    let source = cache::repository().join("tests/programs/from_memory.c");
    run(Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .arg(from_memory)
        .arg(source));
    fs::create_dir(folder.join("bin")).expect("a folder for busybox");
    fs::copy("/bin/busybox", folder.join("bin/busybox")).expect("busybox-static is installed");
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("busybox can be started");
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", folder.join("bin").join(applet)).expect("an applet's link is made");
    }
    for (path, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n",
        ),
        (
            "etc/shadow",
            "root:!:19000:0:99999:7:::\nweb:!:19000:0:99999:7:::\n",
        ),
        ("etc/group", "root:x:0:\nweb:x:1000:\n"),
        ("etc/os-release", "ID=test\n"),
    ] {
        fs::write(folder.join(path), text).expect("a file of the image is written");
    }
    let shadow = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.join("etc/shadow"), shadow).expect("its permissions can be set");
}

/// Runs a program to its end.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
