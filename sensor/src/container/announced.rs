//! Bundles that somebody names on a command line: who starts a container says where its configuration is.
//!
//! ```text
//! runc --root R create --bundle DIR --pid-file F ID        an exec that is seen before the container's cgroup is made
//! containerd-shim-runc-v2 -namespace NS -id ID             its working directory is the bundle
//! conmon -c ID -b DIR -p F -n NAME                         of Podman and CRI-O
//! ```

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use dogwatch_schemas::Text;

/// Programs that make containers from bundles.
const RUNTIMES: [&str; 6] = [
    "runc",
    "crun",
    "youki",
    "runsc",
    "docker-runc",
    "kata-runtime",
];
/// Options of theirs that have a value, before or behind the command.
const WITH_VALUE: [&str; 14] = [
    "-b",
    "-f",
    "--bundle",
    "--cgroup-manager",
    "--config",
    "--console-socket",
    "--criu",
    "--log",
    "--log-format",
    "--log-level",
    "--pid-file",
    "--preserve-fds",
    "--root",
    "--rootless",
];
/// Announcements remembered; a container is looked up when its cgroup appears, milliseconds later.
const ANNOUNCED_MAX: usize = 2_048;
/// Bytes of the paths of an announcement.
const PATHS_BYTES_MAX: usize = 2_048;
/// Folders of bundles remembered.
const ROOTS_MAX: usize = 16;

/// A container that is to be made, or is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// The id as the runtime has it.
    pub id: Text,
    /// The bundle.
    pub bundle: PathBuf,
    /// Where the init's process id is written to.
    pub pid_file: Option<PathBuf>,
}

impl Announcement {
    /// What a command line announces; arguments are ended by NUL, as the kernel has them.
    pub fn of(program: &[u8], argv: &[u8], cwd: &[u8]) -> Option<Self> {
        let name = program.rsplit(|&byte| byte == b'/').next()?;
        let name = std::str::from_utf8(name).ok()?;
        let name = name.strip_suffix(" (deleted)").unwrap_or(name);
        let mut arguments = argv.split(|&byte| byte == 0).skip(1);
        let cwd = Path::new(OsStr::from_bytes(cwd));
        let found = if RUNTIMES.contains(&name) {
            of_runtime(&mut arguments, cwd)
        } else if name.starts_with("containerd-shim") {
            of_shim(arguments, cwd)
        } else if name == "conmon" {
            of_monitor(arguments, cwd)
        } else {
            None
        };
        found.filter(Self::is_sane)
    }

    /// Who makes it, as far as its bundle's folder tells.
    pub fn runtime(&self) -> &'static str {
        super::bundle::runtime(&self.bundle, "other")
    }

    fn is_sane(&self) -> bool {
        let pid_file = self
            .pid_file
            .as_ref()
            .map_or(0, |path| path.as_os_str().len());
        let plain = !self.id.is_empty() && self.id.len() <= 1_024 && !self.id.contains('/');
        plain
            && self.bundle.is_absolute()
            && self.bundle.as_os_str().len() + pid_file <= PATHS_BYTES_MAX
    }
}

fn text(argument: &[u8]) -> Option<&str> {
    std::str::from_utf8(argument).ok()
}

fn below(cwd: &Path, path: &[u8]) -> PathBuf {
    cwd.join(OsStr::from_bytes(path))
}

fn of_runtime<'a>(
    arguments: &mut impl Iterator<Item = &'a [u8]>,
    cwd: &Path,
) -> Option<Announcement> {
    let mut command = None;
    let (mut bundle, mut pid_file, mut id) = (cwd.to_owned(), None, None);
    while let Some(argument) = arguments.next() {
        let argument = text(argument)?;
        if !argument.starts_with('-') || argument == "-" {
            match command {
                None if matches!(argument, "create" | "run") => command = Some(argument),
                None => return None,
                Some(_) => id = id.or(Some(argument)),
            }
            continue;
        }
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) => (option, Some(value.as_bytes())),
            None if takes_value(argument) => (argument, arguments.next()),
            None => (argument, None),
        };
        match (option, value) {
            ("--bundle" | "-bundle" | "-b", Some(value)) => bundle = below(cwd, value),
            ("--pid-file" | "-pid-file", Some(value)) => pid_file = Some(below(cwd, value)),
            _ => {}
        }
    }
    Some(Announcement {
        id: id?.into(),
        bundle,
        pid_file,
    })
}

/// Whether an option's value is the next argument; one dash is as good as two.
fn takes_value(option: &str) -> bool {
    WITH_VALUE.contains(&option)
        || option.strip_prefix('-').is_some_and(|short| {
            WITH_VALUE.contains(&&*format!("--{}", short.trim_start_matches('-')))
        })
}

fn of_shim<'a>(mut arguments: impl Iterator<Item = &'a [u8]>, cwd: &Path) -> Option<Announcement> {
    let mut id = None;
    let mut bundle = cwd.to_owned();
    while let Some(argument) = arguments.next() {
        match argument {
            b"-id" | b"--id" => id = text(arguments.next()?),
            b"-bundle" | b"--bundle" => bundle = below(cwd, arguments.next()?),
            _ => {}
        }
    }
    let id = id?;
    // A shim that is started by hand or serves elsewhere has no bundle for a working directory.
    (bundle.file_name() == Some(OsStr::new(id))).then(|| Announcement {
        id: id.into(),
        bundle,
        pid_file: None,
    })
}

fn of_monitor<'a>(
    mut arguments: impl Iterator<Item = &'a [u8]>,
    cwd: &Path,
) -> Option<Announcement> {
    let (mut id, mut bundle, mut pid_file) = (None, None, None);
    while let Some(argument) = arguments.next() {
        match argument {
            b"-c" | b"--cid" => id = text(arguments.next()?),
            b"-b" | b"--bundle" => bundle = Some(below(cwd, arguments.next()?)),
            b"-p" | b"--container-pidfile" => pid_file = Some(below(cwd, arguments.next()?)),
            _ => {}
        }
    }
    Some(Announcement {
        id: id?.into(),
        bundle: bundle?,
        pid_file,
    })
}

/// Bundles by the ids of their containers.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    by_id: HashMap<Text, Heard>,
    roots: Vec<PathBuf>,
    heard: u64,
}

#[derive(Debug)]
struct Heard {
    announcement: Announcement,
    /// The how manieth it was.
    number: u64,
    /// Whose it is: not root's containers are below cgroups of that user alone.
    uid: u32,
    /// A cgroup may be its container's until then.
    until_ns: u64,
}

impl Bundles {
    /// Remembers an announcement; where there are too many, the oldest goes. Where bundles lie side by side is only
    /// believed of the host's root: anybody may run a runtime.
    pub fn hear(&mut self, announcement: Announcement, uid: u32, until_ns: u64) {
        self.heard += 1;
        // A shim serves all containers of a pod: their bundles lie side by side.
        let root = announcement.bundle.parent();
        let side_by_side = announcement.bundle.file_name() == Some(OsStr::new(&*announcement.id));
        if let Some(root) = root.filter(|_| side_by_side && uid == 0)
            && !self.roots.iter().any(|known| known == root)
        {
            if self.roots.len() == ROOTS_MAX {
                self.roots.remove(0);
            }
            self.roots.push(root.to_owned());
        }
        if self.by_id.len() >= ANNOUNCED_MAX && !self.by_id.contains_key(&announcement.id) {
            let oldest = self.by_id.iter().min_by_key(|(_, heard)| heard.number);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.by_id.remove(&id);
            }
        }
        let heard = Heard {
            number: self.heard,
            uid,
            until_ns,
            announcement,
        };
        self.by_id.insert(heard.announcement.id.clone(), heard);
    }

    /// What was announced of a container.
    pub fn of(&self, id: &str) -> Option<&Announcement> {
        Some(&self.by_id.get(id)?.announcement)
    }

    /// The announced container that a cgroup is made for: it has the id as its name, perhaps with something before it.
    /// What has 64 digits is recognised without.
    pub fn placed_at(&self, path: &str, now_ns: u64) -> Option<&Announcement> {
        if self.by_id.is_empty() {
            return None;
        }
        let name = path.rsplit('/').next()?;
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let ends = name.match_indices(['-', ':']).map(|(at, _)| at + 1);
        let mut ids = std::iter::once(0).chain(ends).map(|start| &name[start..]);
        let heard = ids.find_map(|id| self.by_id.get(id))?;
        let delegated = || {
            let (slice, service) = (
                format!("/user-{}.slice/", heard.uid),
                format!("/user@{}.service/", heard.uid),
            );
            path.contains(&slice) || path.contains(&service)
        };
        let may = now_ns <= heard.until_ns && (heard.uid == 0 || delegated());
        may.then_some(&heard.announcement)
    }

    /// Folders in which bundles lie side by side.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Forgets a container.
    pub fn forget(&mut self, id: &str) {
        self.by_id.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, cwd: &str, expected: Option<(&str, &str, Option<&str>)>) {
        let mut argv: Vec<u8> = command.replace(' ', "\0").into_bytes();
        argv.push(0);
        let program = command.split(' ').next().unwrap();
        let found = Announcement::of(program.as_bytes(), &argv, cwd.as_bytes());
        let expected = expected.map(|(id, bundle, pid_file)| Announcement {
            id: id.into(),
            bundle: bundle.into(),
            pid_file: pid_file.map(PathBuf::from),
        });
        assert_eq!(found, expected, "{command}");
    }

    #[test]
    fn runtimes_announce_what_they_make() {
        check(
            "/usr/bin/runc run box",
            "/srv/b",
            Some(("box", "/srv/b", None)),
        );
        check(
            "runc run -d -b b box",
            "/srv",
            Some(("box", "/srv/b", None)),
        );
        check(
            "runc run --bundle=/b box",
            "/srv",
            Some(("box", "/b", None)),
        );
        check("runc run -bundle /b box", "/srv", Some(("box", "/b", None)));
        check(
            "runc --root /var/run/docker/runtime-runc/moby --log /l.json --log-format json create --bundle /b --pid-file /b/init.pid box",
            "/",
            Some(("box", "/b", Some("/b/init.pid"))),
        );
        check(
            "/usr/bin/crun --systemd-cgroup create --bundle /b/userdata --pid-file /p aa",
            "/",
            Some(("aa", "/b/userdata", Some("/p"))),
        );
        check(
            "crun --cgroup-manager=disabled --log=syslog:x run -f config.json --detach aa",
            "/b",
            Some(("aa", "/b", None)),
        );
    }

    #[test]
    fn other_commands_announce_nothing() {
        for command in [
            "runc exec --process /p aa sh",
            "runc state aa",
            "runc init",
            "runc --version",
            "runc create --bundle /b",
            "sh -c runc run --bundle /b box",
            "runc run --bundle /b a/b",
            "conmon --version",
            "containerd-shim-runc-v2 -v",
        ] {
            check(command, "/", None);
        }
    }

    #[test]
    fn shims_and_monitors_of_running_containers_name_them() {
        let shim = "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id aa -address /run/containerd/containerd.sock";
        check(
            shim,
            "/run/t/k8s.io/aa",
            Some(("aa", "/run/t/k8s.io/aa", None)),
        );
        check(shim, "/", None);
        check(
            "/usr/bin/conmon --api-version 1 -c aa -u aa -r /usr/bin/crun -b /s/aa/userdata -p /s/aa/userdata/pidfile -n web --exit-dir /e",
            "/",
            Some(("aa", "/s/aa/userdata", Some("/s/aa/userdata/pidfile"))),
        );
    }

    #[test]
    fn announcements_are_bounded_and_the_oldest_goes() {
        let mut bundles = Bundles::default();
        let announce = |number: usize| Announcement {
            id: format!("id{number}").into(),
            bundle: format!("/root{}/id{number}", number % 100).into(),
            pid_file: None,
        };
        for number in 0..=ANNOUNCED_MAX {
            bundles.hear(announce(number), number as u32 % 2, u64::MAX);
        }
        assert_eq!(bundles.by_id.len(), ANNOUNCED_MAX);
        assert_eq!(bundles.of("id0"), None);
        assert_eq!(bundles.of("id1"), Some(&announce(1)));
        assert_eq!(bundles.roots().len(), ROOTS_MAX);
        assert!(!bundles.roots().contains(&"/root1".into()), "not root's");
        bundles.forget("id1");
        assert_eq!(bundles.of("id1"), None);
    }

    #[test]
    fn a_cgroup_is_known_by_the_id_at_its_end_for_a_while() {
        let mut bundles = Bundles::default();
        let announcement = Announcement {
            id: "my-box".into(),
            bundle: "/b".into(),
            pid_file: None,
        };
        bundles.hear(announcement.clone(), 0, 100);
        for path in [
            "/my-box",
            "/default/my-box",
            "/system.slice/runc-my-box.scope",
            "/s:runc:my-box",
        ] {
            assert!(bundles.placed_at(path, 100).is_some(), "{path}");
        }
        for path in [
            "/my-box/init",
            "/my-box-2",
            "/box",
            "/system.slice/my-box.service",
        ] {
            assert!(bundles.placed_at(path, 100).is_none(), "{path}");
        }
        assert!(bundles.placed_at("/my-box", 101).is_none(), "too long ago");
        bundles.hear(announcement, 1000, 100);
        assert!(bundles.placed_at("/my-box", 100).is_none());
        let own = "/user.slice/user-1000.slice/user@1000.service/app/my-box";
        assert!(bundles.placed_at(own, 100).is_some());
    }
}
