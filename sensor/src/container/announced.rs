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

/// Bundles by whose they are and the ids of their containers: anybody may run a runtime, and name any id.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    of_root: HashMap<(u32, Text), Heard>,
    of_users: HashMap<(u32, Text), Heard>,
    roots: Vec<PathBuf>,
    heard: u64,
}

#[derive(Debug)]
struct Heard {
    announcement: Announcement,
    /// The how manieth it was.
    number: u64,
    /// A cgroup may be its container's until then.
    until_ns: u64,
}

/// The host's root, whose containers may be anywhere.
const ROOT: u32 = 0;

/// The user to whom systemd has delegated the cgroups that a path is below.
fn delegated_to(path: &str) -> Option<u32> {
    path.split('/').find_map(|part| {
        let slice = part.strip_prefix("user-");
        let slice = slice.and_then(|part| part.strip_suffix(".slice"));
        let service = part.strip_prefix("user@");
        let service = service.and_then(|part| part.strip_suffix(".service"));
        slice.or(service)?.parse().ok()
    })
}

impl Bundles {
    /// Remembers an announcement; where there are too many of root, or of others, the oldest goes. Where bundles lie side by
    /// side is only believed of the host's root.
    pub fn hear(&mut self, announcement: Announcement, uid: u32, until_ns: u64) {
        self.heard += 1;
        // A shim serves all containers of a pod: their bundles lie side by side.
        let root = announcement.bundle.parent();
        let side_by_side = announcement.bundle.file_name() == Some(OsStr::new(&*announcement.id));
        if let Some(root) = root.filter(|_| side_by_side && uid == ROOT)
            && !self.roots.iter().any(|known| known == root)
        {
            if self.roots.len() == ROOTS_MAX {
                self.roots.remove(0);
            }
            self.roots.push(root.to_owned());
        }
        let own = match uid {
            ROOT => &mut self.of_root,
            _ => &mut self.of_users,
        };
        let key = (uid, announcement.id.clone());
        if own.len() >= ANNOUNCED_MAX && !own.contains_key(&key) {
            let oldest = own.iter().min_by_key(|(_, heard)| heard.number);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                own.remove(&oldest);
            }
        }
        let heard = Heard {
            number: self.heard,
            until_ns,
            announcement,
        };
        own.insert(key, heard);
    }

    /// What was announced of a container whose cgroup has this path: by root, or by the user whose cgroups these are.
    pub fn of(&self, id: &str, path: &str) -> Option<&Announcement> {
        Some(&self.heard(id, path, 0)?.announcement)
    }

    fn heard(&self, id: &str, path: &str, now_ns: u64) -> Option<&Heard> {
        let in_time = |heard: &&Heard| now_ns <= heard.until_ns;
        let of_root = self.of_root.get(&(ROOT, id.into())).filter(in_time);
        of_root.or_else(|| {
            let user = delegated_to(path)?;
            self.of_users.get(&(user, id.into())).filter(in_time)
        })
    }

    /// The announced container that a cgroup is made for: it has the id as its name, perhaps with something before it.
    /// What has 64 digits is recognised without.
    pub fn placed_at(&self, path: &str, now_ns: u64) -> Option<&Announcement> {
        if self.of_root.is_empty() && self.of_users.is_empty() {
            return None;
        }
        let name = path.rsplit('/').next()?;
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let ends = name.match_indices(['-', ':']).map(|(at, _)| at + 1);
        let mut ids = std::iter::once(0).chain(ends).map(|start| &name[start..]);
        let heard = ids.find_map(|id| self.heard(id, path, now_ns))?;
        Some(&heard.announcement)
    }

    /// Folders in which bundles lie side by side.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Forgets a container whose cgroup had this path.
    pub fn forget(&mut self, id: &str, path: &str) {
        let of_root = self.of_root.remove(&(ROOT, id.into()));
        if let (None, Some(user)) = (of_root, delegated_to(path)) {
            self.of_users.remove(&(user, id.into()));
        }
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
        let own = "/user.slice/user-1.slice/x";
        for number in 0..=2 * ANNOUNCED_MAX {
            bundles.hear(announce(number), number as u32 % 2, u64::MAX);
        }
        let sizes = (bundles.of_root.len(), bundles.of_users.len());
        assert_eq!(sizes, (ANNOUNCED_MAX, ANNOUNCED_MAX));
        assert_eq!(bundles.of("id0", "/x"), None);
        assert_eq!(bundles.of("id2", "/x"), Some(&announce(2)));
        assert_eq!(bundles.of("id1", own), Some(&announce(1)));
        assert_eq!(bundles.of("id1", "/x"), None, "another's cgroups");
        assert_eq!(bundles.roots().len(), ROOTS_MAX);
        assert!(!bundles.roots().contains(&"/root1".into()), "not root's");
        bundles.forget("id1", own);
        bundles.forget("id2", "/x");
        assert_eq!(
            (bundles.of("id1", own), bundles.of("id2", "/x")),
            (None, None)
        );
    }

    #[test]
    fn nobody_but_root_speaks_of_roots_containers() {
        let announce = |bundle: &str| Announcement {
            id: "box".into(),
            bundle: bundle.into(),
            pid_file: None,
        };
        let mut bundles = Bundles::default();
        let own = "/user.slice/user-1000.slice/user@1000.service/app/box";
        for uid in [0, 1000, 65_534] {
            bundles.hear(announce(&format!("/{uid}")), uid, 100);
        }
        for path in ["/box", own, "/user.slice/user-1001.slice/box"] {
            assert_eq!(bundles.of("box", path), Some(&announce("/0")), "{path}");
            assert_eq!(
                bundles.placed_at(path, 100),
                Some(&announce("/0")),
                "{path}"
            );
        }
        // Root's was made, or never: from then on the user speaks of what is below its own cgroups.
        bundles.forget("box", "/box");
        assert_eq!(bundles.of("box", own), Some(&announce("/1000")));
        assert_eq!(
            (bundles.of("box", "/box"), bundles.placed_at("/box", 0)),
            (None, None)
        );
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
        bundles.forget("my-box", "/my-box");
        bundles.hear(announcement, 1000, 100);
        assert!(bundles.placed_at("/my-box", 100).is_none());
        let own = "/user.slice/user-1000.slice/user@1000.service/app/my-box";
        assert!(bundles.placed_at(own, 100).is_some());
    }
}
