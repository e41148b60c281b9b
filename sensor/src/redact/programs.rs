//! Secrets that programs take in ways of their own: short options, and arguments by their place.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{Found, rules, whole};

/// How a program takes a secret.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// Behind one of these options, as the next argument.
    Next(&'static [&'static str]),
    /// In the argument itself, behind this.
    Glued(&'static str),
    /// Both, `name:secret`: behind the first colon.
    User(&'static [&'static str]),
    /// Both, but not behind the first argument that is no option: what follows is another program's.
    First(&'static str),
    /// The last argument, where this option is there, alone or among others (`-nb`).
    Last(char),
    /// So many arguments behind the word that the row asks for.
    Behind(usize),
    /// Behind a word that names a secret.
    Named,
}
use Takes::{Behind, First, Glued, Last, Named, Next, User};

/// Programs, a word that must stand before (a command of theirs, or nothing), and how they take it.
type Row = (&'static [&'static str], &'static str, Takes);

const MYSQL: &[&str] = &[
    "mysql",
    "mysqldump",
    "mysqladmin",
    "mysqlimport",
    "mariadb",
    "mariadb-dump",
    "mariadb-admin",
    "mariadb-import",
];
const CONTAINERS: &[&str] = &[
    "docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "crane", "oras", "oc",
];
const LDAP: &[&str] = &[
    "ldapsearch",
    "ldapadd",
    "ldapmodify",
    "ldapdelete",
    "ldapwhoami",
    "ldappasswd",
];
const MONGO: &[&str] = &[
    "mongo",
    "mongosh",
    "mongodump",
    "mongorestore",
    "mongoexport",
    "mongoimport",
];

const PROGRAMS: &[Row] = &[
    (MYSQL, "", Glued("-p")),
    (&["sshpass"], "", First("-p")),
    (&["redis-cli"], "", Next(&["-a", "--pass"])),
    (LDAP, "", Next(&["-w"])),
    (CONTAINERS, "login", Next(&["-p"])),
    (&["curl"], "", User(&["-u", "-U", "--user", "--proxy-user"])),
    (
        &["openssl"],
        "",
        Next(&["-passin", "-passout", "-pass", "-k"]),
    ),
    (&["htpasswd"], "", Last('b')),
    (&["zip", "unzip"], "", Next(&["-P"])),
    (&["7z", "7za", "7zr", "rar", "unrar"], "", Glued("-p")),
    (&["rar", "unrar"], "", Glued("-hp")),
    (MONGO, "", Next(&["-p"])),
    (&["mosquitto_pub", "mosquitto_sub"], "", Next(&["-P"])),
    (&["sqlcmd", "bcp", "ipmitool"], "", Next(&["-P"])),
    (&["rabbitmqctl"], "add_user", Behind(2)),
    (&["rabbitmqctl"], "change_password", Behind(2)),
    (&["useradd", "usermod"], "", Next(&["-p"])),
    (&["vault"], "login", Behind(1)),
    (&["az"], "login", Next(&["-p"])),
    (
        &["aws", "git", "npm", "pip", "gcloud", "pulumi"],
        "set",
        Named,
    ),
    (&["git", "npm", "pip", "yarn"], "config", Named),
];

/// Programs that run another one, which is what takes the secret.
const WRAPPERS: [&str; 19] = [
    "sudo", "doas", "su", "env", "exec", "command", "nohup", "nice", "ionice", "time", "timeout",
    "setsid", "stdbuf", "xargs", "strace", "chroot", "busybox", "then", "do",
];

/// Programs whose first argument that is no option is the program that is meant.
const INTERPRETERS: [&str; 12] = [
    "sh", "bash", "dash", "zsh", "ksh", "ash", "perl", "ruby", "node", "php", "java", "python",
];

/// How many words behind a wrapper are looked at.
const WRAPPED_WITHIN: usize = 8;

fn is_known(name: &str) -> bool {
    PROGRAMS
        .iter()
        .any(|(programs, ..)| programs.contains(&name))
}

/// Whether a text names one of them; most do not, and need not be taken apart.
pub(super) fn names_any(text: &str) -> bool {
    static NAMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let names = PROGRAMS.iter().flat_map(|(programs, ..)| *programs);
        let names: Vec<_> = names.map(|name| regex::escape(name)).collect();
        Regex::new(&format!(r"\b(?:{})\s", names.join("|"))).ok()
    });
    NAMES.as_ref().is_none_or(|names| names.is_match(text))
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// `python3.11` is `python`.
fn is_interpreter(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.contains(&name)
}

/// The program that takes the arguments, and where these begin. By the file that is executed where that is known: what
/// stands in its place among the arguments is its caller's choice, and would hide whatever follows.
fn program<'a>(executable: Option<&'a str>, words: &[&'a str]) -> Option<(&'a str, usize)> {
    let is_assignment = |word: &&str| word.contains('=') && !word.starts_with(['-', '/']);
    let first = match executable {
        Some(_) => 0,
        None => words.iter().take_while(|word| is_assignment(word)).count(),
    };
    let name = base_name(executable.or(words.get(first).copied())?);
    if is_known(name) {
        return Some((name, first + 1));
    }
    let rest = words.iter().enumerate().skip(first + 1);
    let found = if WRAPPERS.contains(&name) {
        rest.take(WRAPPED_WITHIN)
            .find(|(_, word)| is_known(base_name(word)))
    } else if is_interpreter(name) {
        rest.into_iter()
            .find(|(_, word)| !word.starts_with('-'))
            .filter(|(_, word)| is_known(base_name(word)))
    } else {
        None
    };
    found.map(|(at, word)| (base_name(word), at + 1))
}

/// What of a command's words is a secret because its program takes it as one.
pub(super) fn secrets(executable: Option<&str>, words: &[&str], secret_name: &Regex) -> Vec<Found> {
    let Some((name, first)) = program(executable, words) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (programs, command, takes) in PROGRAMS {
        if !programs.contains(&name) {
            continue;
        }
        let start = match *command {
            "" => Some(first),
            command => (first..words.len())
                .find(|at| words[*at] == command)
                .map(|at| at + 1),
        };
        if let Some(start) = start {
            taken(*takes, words, start, secret_name, &mut found);
        }
    }
    // What a shell puts in place of it is no secret itself.
    let is_secret = |found: &Found| {
        let secret = &words[found.argument][found.range.clone()];
        executable.is_some() || (secret != "$" && !rules::is_reference(secret))
    };
    found.retain(is_secret);
    found
}

fn part(argument: usize, range: Range<usize>) -> Found {
    Found {
        argument,
        range,
        rule: "program",
    }
}

fn taken(takes: Takes, words: &[&str], start: usize, secret_name: &Regex, found: &mut Vec<Found>) {
    let next = |at: usize| words.get(at + 1).map(|word| whole(at + 1, word, "program"));
    for at in start..words.len() {
        let word = words[at];
        match takes {
            Next(options) if options.contains(&word) => found.extend(next(at)),
            Glued(option) if word.len() > option.len() && word.starts_with(option) => {
                found.push(part(at, option.len()..word.len()));
            }
            First(option) if word == option => return found.extend(next(at)),
            First(option) if word.starts_with(option) => {
                return found.push(part(at, option.len()..word.len()));
            }
            First(_) if !word.starts_with('-') => return,
            User(options) => found.extend(user(options, words, at)),
            Last(option) if is_among(word, option) => {
                let last = words.len() - 1;
                let named = words[at + 1..].iter().filter(|word| !word.starts_with('-'));
                if named.count() >= 2 {
                    found.push(whole(last, words[last], "program"));
                }
                return;
            }
            Behind(count) => {
                let at = start + count - 1;
                let word = words.get(at).filter(|word| !word.starts_with('-'));
                return found.extend(word.map(|word| whole(at, word, "program")));
            }
            Named if secret_name.is_match(word) => found.extend(next(at)),
            _ => {}
        }
    }
}

/// One of the letters of a short option that holds several.
fn is_among(word: &str, option: char) -> bool {
    let letters = word.strip_prefix('-');
    letters.is_some_and(|letters| !letters.starts_with('-') && letters.contains(option))
}

/// The part behind the colon of `-u name:secret` and `-uname:secret`; a name alone is none.
fn user(options: &[&str], words: &[&str], at: usize) -> Option<Found> {
    let behind_colon = |argument: usize, from: usize| {
        let word = words.get(argument)?;
        let colon = from + word.get(from..)?.find(':')?;
        Some(part(argument, colon + 1..word.len()))
    };
    if options.contains(&words[at]) {
        return behind_colon(at + 1, 0);
    }
    let glued = options
        .iter()
        .find(|option| option.len() == 2 && words[at].starts_with(**option))?;
    behind_colon(at, glued.len())
}
