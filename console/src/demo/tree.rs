//! The file tree of the demo's container: a few of the host's own programs with the libraries they need.
//!
//! Nothing is downloaded. The tree is what an image holds: programs in `/usr/bin`, a password file with made-up
//! content, and the service.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::service;

/// Programs the script calls.
const PROGRAMS: [&str; 5] = ["bash", "cat", "cp", "id", "sleep"];
/// Package managers that are programs (not scripts), in the order they are looked for.
const PACKAGE_MANAGERS: [&str; 6] = ["apt-get", "apk", "dpkg", "rpm", "pacman", "zypper"];
/// Where programs are looked for, whatever `PATH` says.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// Folders of an image that links stand for on today's distributions.
const MERGED_FOLDERS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// The tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A program the script needs is not on this host.
    #[error(
        "the demo's container needs {name}, and this host has none in /usr/bin, /bin, /usr/sbin or /sbin"
    )]
    NoProgram {
        /// The missing program.
        name: &'static str,
    },
    /// A file could not be written.
    #[error("could not put {} into the demo's container", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes the tree below the empty folder `root` and returns the package manager it holds, if this host has one.
///
/// # Errors
/// [`TreeError`] when a program is missing or a file cannot be written.
pub fn build(root: &Path) -> Result<Option<&'static str>, TreeError> {
    for folder in MERGED_FOLDERS {
        let path = root.join("usr").join(folder);
        written(&path, std::fs::create_dir_all(&path))?;
        written(&path, symlink(format!("usr/{folder}"), root.join(folder)))?;
    }
    for folder in ["dev", "etc", "proc", "root", "srv/status", "sys", "tmp"] {
        let path = root.join(folder);
        written(&path, std::fs::create_dir_all(&path))?;
    }
    for name in PROGRAMS {
        let program = found(name).ok_or(TreeError::NoProgram { name })?;
        install(root, &program, &format!("/usr/bin/{name}"))?;
    }
    written(
        Path::new("/usr/bin/sh"),
        symlink("bash", root.join("usr/bin/sh")),
    )?;
    let package_manager = PACKAGE_MANAGERS
        .into_iter()
        .find_map(|name| Some((name, found(name)?)));
    if let Some((name, program)) = &package_manager {
        install(root, program, &format!("/usr/bin/{name}"))?;
    }
    let own = std::env::current_exe();
    let own = own.map_err(|source| TreeError::Write {
        path: service::PATH.into(),
        source,
    })?;
    install(root, &own, service::PATH)?;
    for (path, content) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        (
            "etc/shadow",
            "root:$y$made-up-for-the-demo:19000:0:99999:7:::\n",
        ),
        ("srv/status/kettle", "in stock\n"),
    ] {
        let path = root.join(path);
        written(&path, std::fs::write(&path, content))?;
    }
    Ok(package_manager.map(|(name, _)| name))
}

fn found(name: &str) -> Option<PathBuf> {
    let candidates = PROGRAM_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name));
    candidates
        .filter_map(|path| path.canonicalize().ok())
        .find(|path| is_elf(path))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// Copies `program` to `target` inside the tree, and the libraries it needs to where it looks for them.
fn install(root: &Path, program: &Path, target: &str) -> Result<(), TreeError> {
    copy(root, program, Path::new(target))?;
    for library in libraries(program) {
        copy(root, &library, &library)?;
    }
    Ok(())
}

fn copy(root: &Path, from: &Path, to: &Path) -> Result<(), TreeError> {
    let inside = root.join(to.strip_prefix("/").unwrap_or(to));
    if inside.exists() {
        return Ok(());
    }
    let copied = || {
        if let Some(folder) = inside.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::copy(from, &inside)?;
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o755))
    };
    written(to, copied())
}

/// The libraries `ldd` names, the loader included; none for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(program).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

fn written<T>(path: &Path, result: io::Result<T>) -> Result<T, TreeError> {
    result.map_err(|source| TreeError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_tree_run_in_it() {
        let root = tempfile::tempdir().unwrap();
        build(root.path()).unwrap();
        let loader = libraries(Path::new("/bin/bash"))
            .into_iter()
            .find(|path| path.to_string_lossy().contains("ld-"));
        for library in libraries(&found("bash").unwrap()) {
            assert!(
                root.path()
                    .join(library.strip_prefix("/").unwrap())
                    .exists(),
                "{}",
                library.display()
            );
        }
        assert!(
            loader.is_none_or(|path| root.path().join(path.strip_prefix("/").unwrap()).exists())
        );
        assert_eq!(
            std::fs::read_link(root.path().join("bin")).unwrap(),
            Path::new("usr/bin")
        );
    }

    #[test]
    fn scripts_are_no_programs_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("yum");
        std::fs::write(&script, "#!/usr/bin/python3\n").unwrap();
        assert!(!is_elf(&script));
        assert!(is_elf(&std::env::current_exe().unwrap()));
    }
}
