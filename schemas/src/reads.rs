//! Which reads of files a sensor publishes every time, and which a detection needs: one language for both.
//!
//! ```text
//! /etc/kubernetes          a file or folder by its path, with all below it
//! /var/lib/app/key_*       every path that begins so
//! */id_rsa                 a file name, wherever it lies
//! */.kube/config           a file name in a folder of this name, wherever that lies
//! */.ssh/id_*              the same, with any end of the file's name
//! ```
//! A sensor publishes other successful reads once an hour for each container, program and file, so a detection that names a
//! file is only sure to see its reading where the sensor's list *covers* what the detection's header declares.
//! The kernel compares bytes: the patterns are case-sensitive and know no other wildcards.

use std::fmt;
use std::str::FromStr;

/// Longest pattern, in bytes; the kernel's keys hold 256.
pub const PATTERN_BYTES_MAX: usize = 250;

/// Longest name of a file or folder in a `*/` pattern, in bytes.
pub const NAME_BYTES_MAX: usize = 100;

/// Most patterns of a list; the kernel's maps hold two entries for each.
pub const PATTERNS_MAX: usize = 500;

/// Most bytes of all patterns of a list together: every heartbeat carries them.
pub const LIST_BYTES_MAX: usize = 16 << 10;

/// The list of a sensor that is not told otherwise: everything that a shipped detection names, and its like.
pub const SENSITIVE_READ_PATHS: [&str; 82] = [
    // The system's accounts and keys.
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/pam.conf",
    "/etc/pam.d",
    "/etc/security/opasswd",
    "/etc/ssl/private",
    "/etc/kubernetes",
    "/proc/kcore",
    "/dev/mem",
    "/dev/kmem",
    // The same below another root, such as a mount of the host's.
    "*/etc/shadow*",
    "*/etc/gshadow*",
    "*/etc/sudoers",
    "*/sudoers.d/*",
    "*/security/opasswd",
    "*/krb5.keytab",
    "*/ssh/ssh_host_*",
    "*/kubernetes/admin.conf",
    "*/kubernetes/controller-manager.conf",
    "*/kubernetes/kubelet.conf",
    "*/kubernetes/scheduler.conf",
    "*/kubernetes/super-admin.conf",
    "*/pki/*",
    // Secrets that an orchestrator mounts.
    "/run/secrets",
    "/var/run/secrets",
    // What people and applications keep in their home folders.
    "/root/.ssh",
    "/root/.aws",
    "/root/.docker",
    "/root/.kube",
    "*/.ssh/id_*",
    "*/.ssh/identity",
    "*/.ssh/authorized_keys*",
    "*/id_rsa",
    "*/id_dsa",
    "*/id_ecdsa",
    "*/id_ed25519",
    "*/authorized_keys",
    "*/credentials",
    "*/.aws/credentials",
    "*/.azure/*",
    "*/.docker/config.json",
    "*/.git-credentials",
    "*/.kube/config",
    "*/.my.cnf",
    "*/.netrc",
    "*/.npmrc",
    "*/.pgpass",
    "*/.pypirc",
    "*/gcloud/*",
    "*/adc.json",
    "*/.ash_history",
    "*/.bash_history",
    "*/.irb_history",
    "*/.ksh_history",
    "*/.mariadb_history",
    "*/.mysql_history",
    "*/.php_history",
    "*/.psql_history",
    "*/.python_history",
    "*/.rediscli_history",
    "*/.sh_history",
    "*/.sqlite_history",
    "*/.zsh_history",
    // Other processes, and the host's container runtime.
    "*/environ",
    "*/docker.sock",
    // The host's disks and memory, and what is run from memory.
    "/dev/sd*",
    "/dev/hd*",
    "/dev/vd*",
    "/dev/xvd*",
    "/dev/nvme*",
    "/dev/mmcblk*",
    "/dev/dm-*",
    "/dev/md*",
    "/dev/mapper",
    "/dev/port",
    "/dev/shm",
    "/run/shm",
    "/memfd:*",
];

/// Files by path or by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadPattern {
    /// A file or folder with all below it; empty = every file.
    Path(String),
    /// Every path that begins so.
    PathStart(String),
    /// Files by name, wherever they lie.
    Name(Name),
}

/// A file's name, and perhaps that of its folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The name that the file's folder must have; none = any.
    pub folder: Option<String>,
    /// The file's name, or its start.
    pub name: String,
    /// Whether `name` is only the start.
    pub open_end: bool,
}

/// Why a text is no pattern of reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} names no files: {mend}")]
pub struct ReadPatternError {
    /// The text.
    pub pattern: String,
    /// What to write instead.
    pub mend: &'static str,
}

impl FromStr for ReadPattern {
    type Err = ReadPatternError;

    /// Reads a pattern as the module's description has them.
    ///
    /// # Errors
    /// [`ReadPatternError`] when the text is none, with what to write instead.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|mend| ReadPatternError {
            pattern: text.to_owned(),
            mend,
        })
    }
}

fn parse(text: &str) -> Result<ReadPattern, &'static str> {
    if text.len() > PATTERN_BYTES_MAX || text.contains('\0') {
        return Err("write at most 250 bytes, none of them NUL");
    }
    let (stem, open_end) = match text.strip_suffix('*') {
        Some(stem) => (stem, true),
        None => (text, false),
    };
    if let Some(tail) = stem.strip_prefix("*/") {
        return parse_name(tail, open_end).map(ReadPattern::Name);
    }
    if !stem.starts_with('/') {
        return Err("begin it with / for a path, or with */ for a name wherever it lies");
    }
    if stem.contains('*') {
        return Err(
            "a path takes a * at its end only; write */name or */folder/name for files wherever they lie",
        );
    }
    let path = if open_end {
        stem
    } else {
        stem.trim_end_matches('/')
    };
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if matches!(part, "." | "..") || (part.is_empty() && !(last && open_end)) {
            return Err("write the path as the kernel has it, without //, . and ..");
        }
    }
    Ok(match (open_end, path) {
        (true, "/") => ReadPattern::Path(String::new()),
        (true, _) => ReadPattern::PathStart(path.to_owned()),
        (false, _) => ReadPattern::Path(path.to_owned()),
    })
}

fn parse_name(tail: &str, open_end: bool) -> Result<Name, &'static str> {
    let (folder, name) = match tail.rsplit_once('/') {
        Some((folder, name)) => (Some(folder), name),
        None => (None, tail),
    };
    if tail.contains('*') {
        return Err("a name takes a * at its end only");
    }
    let fits = |part: &str| part.len() <= NAME_BYTES_MAX && !matches!(part, "." | "..");
    if folder.is_some_and(|folder| folder.is_empty() || folder.contains('/') || !fits(folder)) {
        return Err("name at most one folder before the file, of at most 100 bytes");
    }
    if !fits(name) || (name.is_empty() && !(open_end && folder.is_some())) {
        return Err("name a file in 1 to 100 bytes; write / for every file");
    }
    Ok(Name {
        folder: folder.map(str::to_owned),
        name: name.to_owned(),
        open_end,
    })
}

impl fmt::Display for ReadPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) if path.is_empty() => out.write_str("/"),
            Self::Path(path) => out.write_str(path),
            Self::PathStart(start) => write!(out, "{start}*"),
            Self::Name(name) => {
                out.write_str("*/")?;
                if let Some(folder) = &name.folder {
                    write!(out, "{folder}/")?;
                }
                out.write_str(&name.name)?;
                out.write_str(if name.open_end { "*" } else { "" })
            }
        }
    }
}

impl ReadPattern {
    /// Says whether a file of this absolute path is one of these.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Path(own) => lies_below(path, own),
            Self::PathStart(start) => path.starts_with(start.as_str()),
            Self::Name(own) => {
                let mut parts = path.rsplit('/');
                let name = parts.next().unwrap_or_default();
                let folder = parts.next();
                own.takes(name, false)
                    && own.folder.as_deref().is_none_or(|own| folder == Some(own))
            }
        }
    }

    /// Says whether every file of `other` is one of these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(own), Self::Path(path)) => lies_below(path, own),
            (Self::Path(own), Self::PathStart(path)) => path != own && lies_below(path, own),
            (Self::Path(own), Self::Name(_)) => own.is_empty(),
            (Self::PathStart(own), Self::Path(path) | Self::PathStart(path)) => {
                path.starts_with(own.as_str())
            }
            (Self::Name(own), Self::Name(name)) => {
                (own.folder.is_none() || own.folder == name.folder)
                    && own.takes(&name.name, name.open_end)
            }
            (Self::PathStart(_), Self::Name(_))
            | (Self::Name(_), Self::Path(_) | Self::PathStart(_)) => false,
        }
    }
}

impl Name {
    /// Whether a name is one of these, or with `open_end` every name that begins so.
    fn takes(&self, name: &str, open_end: bool) -> bool {
        if self.open_end {
            name.starts_with(self.name.as_str())
        } else {
            !open_end && name == self.name
        }
    }
}

/// Whether a path is `folder` or lies below it.
fn lies_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads a sensor's list as it travels; what a newer sensor writes and this program cannot read covers nothing.
pub fn patterns<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<ReadPattern> {
    texts
        .into_iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// The default list.
#[must_use]
pub fn default_patterns() -> Vec<ReadPattern> {
    patterns(SENSITIVE_READ_PATHS)
}

/// Those of `needed` that no pattern of `published` covers.
pub fn uncovered<'n>(
    published: &[ReadPattern],
    needed: &'n [ReadPattern],
) -> impl Iterator<Item = &'n ReadPattern> {
    needed
        .iter()
        .filter(|need| !published.iter().any(|pattern| pattern.covers(need)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> ReadPattern {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn patterns_take_the_files_they_name_and_no_others() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("/", &["/", "/a", "/a/b"], &[]),
            (
                "/etc/ssh/",
                &["/etc/ssh", "/etc/ssh/a/b"],
                &["/etc/sshd", "/x/etc/ssh", "/etc"],
            ),
            (
                "/etc/ssh_*",
                &["/etc/ssh_", "/etc/ssh_a", "/etc/ssh_a/b"],
                &["/etc/ssh", "/x/etc/ssh_a"],
            ),
            (
                "/etc/ssh/*",
                &["/etc/ssh/a", "/etc/ssh/a/b"],
                &["/etc/ssh", "/etc/sshd"],
            ),
            (
                "*/id_rsa",
                &["/id_rsa", "/a/id_rsa"],
                &["/a/id_rsa2", "/id_rsa/b", "/a/Id_rsa", "/a/xid_rsa"],
            ),
            (
                "*/.kube/config",
                &["/.kube/config", "/a/b/.kube/config"],
                &["/a/config", "/a/x.kube/config", "/.kube/config/a"],
            ),
            (
                "*/.ssh/id_*",
                &["/a/.ssh/id_", "/a/.ssh/id_rsa.pub"],
                &["/a/id_rsa", "/a/.ssh/x/id_rsa", "/.ssh/known_hosts"],
            ),
            (
                "*/.azure/*",
                &["/a/.azure/b"],
                &["/a/.azure", "/a/.azure/b/c"],
            ),
        ];
        for (text, taken, left) in cases {
            let own = pattern(text);
            for path in taken {
                assert!(own.matches(path), "{text} {path}");
            }
            for path in left {
                assert!(!own.matches(path), "{text} {path}");
            }
            assert_eq!(pattern(&own.to_string()), own, "{text}");
        }
    }

    #[test]
    fn what_names_no_files_is_refused_with_the_mend() {
        let long = format!("*/{}", "x".repeat(NAME_BYTES_MAX + 1));
        for (text, mend) in [
            ("", "begin it with /"),
            ("etc/shadow", "begin it with /"),
            ("*", "begin it with /"),
            ("*/", "write / for every file"),
            ("*/*", "write / for every file"),
            ("*/a/", "name a file"),
            ("*/..", "name a file"),
            ("*/a/b/c", "at most one folder"),
            ("*//b", "at most one folder"),
            ("*/*/b", "at its end only"),
            ("*/.ssh/*_key", "at its end only"),
            ("/home/*/.ssh", "at its end only"),
            ("/etc//shadow", "without //"),
            ("/etc/../shadow", "without //"),
            ("/etc/\0", "none of them NUL"),
            (&long, "1 to 100 bytes"),
            (
                &format!("/{}", "x".repeat(PATTERN_BYTES_MAX)),
                "at most 250 bytes",
            ),
        ] {
            let error = text.parse::<ReadPattern>().expect_err(text).to_string();
            assert!(error.contains(mend), "{error}");
        }
    }

    #[test]
    fn covering_is_by_place_or_by_name() {
        let cases = [
            ("/", "*/a", true),
            ("/", "/a", true),
            ("/etc", "/etc/ssh/ssh_host_*", true),
            ("/etc/ssh", "/etc/ssh*", false),
            ("/etc/ssh*", "/etc/sshd", true),
            ("/etc/shadow", "*/etc/shadow", false),
            ("*/etc/shadow", "/etc/shadow", false),
            ("*/config", "*/.kube/config", true),
            ("*/.kube/config", "*/config", false),
            ("*/.kube/*", "*/.kube/config", true),
            ("*/.kube/config", "*/.kube/config*", false),
            ("*/.ssh/id_*", "*/.ssh/id_rsa*", true),
        ];
        for (own, other, expected) in cases {
            assert_eq!(
                pattern(own).covers(&pattern(other)),
                expected,
                "{own} {other}"
            );
        }
        let needed = [pattern("*/a"), pattern("/b/c")];
        let missing: Vec<_> = uncovered(&[pattern("/b")], &needed).collect();
        assert_eq!(missing, [&pattern("*/a")]);
    }

    #[test]
    fn the_default_list_is_well_formed_and_bounded() {
        let list = default_patterns();
        assert_eq!(list.len(), SENSITIVE_READ_PATHS.len());
        assert!(list.len() <= PATTERNS_MAX);
        let bytes: usize = SENSITIVE_READ_PATHS.iter().map(|text| text.len()).sum();
        assert!(bytes <= LIST_BYTES_MAX, "{bytes}");
        let distinct: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(distinct.len(), list.len());
        for (text, own) in SENSITIVE_READ_PATHS.iter().zip(&list) {
            assert_eq!(own.to_string(), *text);
        }
    }

    fn any_pattern() -> impl Strategy<Value = ReadPattern> {
        let part = "[ab]{1,2}";
        prop_oneof![
            (prop::collection::vec(part, 0..3), any::<bool>()).prop_map(|(parts, open)| {
                let path: String = parts.iter().map(|part| format!("/{part}")).collect();
                if open && !path.is_empty() {
                    ReadPattern::PathStart(path)
                } else {
                    ReadPattern::Path(path)
                }
            }),
            (prop::option::of(part), part, any::<bool>()).prop_map(|(folder, name, open_end)| {
                ReadPattern::Name(Name {
                    folder,
                    name,
                    open_end,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_covers_takes_every_file_of_what_it_covers(
            own in any_pattern(),
            other in any_pattern(),
            parts in prop::collection::vec("[ab]{1,3}", 1..4),
        ) {
            let path: String = parts.iter().map(|part| format!("/{part}")).collect();
            if own.covers(&other) && other.matches(&path) {
                prop_assert!(own.matches(&path), "{own} {other} {path}");
            }
            prop_assert!(own.covers(&own));
            prop_assert_eq!(own.to_string().parse::<ReadPattern>(), Ok(own));
        }
    }
}
