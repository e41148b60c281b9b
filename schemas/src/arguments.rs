//! Arguments of system calls as `evt_args` has them: which calls have one of a name, and what its texts are like.
//!
//! Read from the sensor's table of calls and the names of its numbers, so that nothing here is written a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::calls::{self, Call, event_type};
use crate::flags::{Flags, near};
use crate::like::Like;

const NAMES: &str = include_str!("../../ebpf/src/calls/names.rs");

/// Kinds of arguments that have columns of their own, or none.
const IN_COLUMNS: [&str; 9] = [
    "SKIP", "TARGET", "PATH", "PATH_AT", "DIRFD", "FD", "RETURNED", "SOCKADDR", "MSGHDR",
];

/// An argument of that name.
#[derive(Debug, Default)]
pub struct Argument {
    /// What the events of calls that have it are called.
    pub types: BTreeSet<&'static str>,
    kinds: BTreeSet<Kind>,
}

/// How an argument is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Number,
    /// Permission bits, `0755`.
    Mode,
    /// `8:1`.
    Device,
    /// `0x7f00`.
    Address,
    /// A number of this set by name.
    Enum(&'static str),
    /// Bits of this set by name, joined by `|`.
    Flags(&'static str),
    Text,
}

/// The arguments of this name, whichever calls have them; none where no call has.
#[must_use]
pub fn of(name: &str) -> Option<&'static Argument> {
    arguments().get(name)
}

/// The names of all arguments.
pub fn names() -> impl Iterator<Item = &'static str> {
    arguments().keys().copied()
}

/// What the events of all system calls are called that have arguments of other names in `evt_args`, or none: an open's are
/// in columns.
#[must_use]
pub fn types_without(name: &str) -> BTreeSet<&'static str> {
    calls::types_without(|call| told(call).any(|argument| argument.name == name))
}

impl Argument {
    /// What to write for a text that the argument never is; none where it may be that.
    #[must_use]
    pub fn mend(&self, text: &str) -> Option<String> {
        if self.kinds.iter().any(|kind| kind.holds(text)) {
            return None;
        }
        meant(self.kinds.iter().filter_map(|kind| kind.mend(text)))
    }

    /// What to write for a pattern that the argument is never like; none where it may be.
    #[must_use]
    pub fn mend_like(&self, like: &Like) -> Option<String> {
        let mends = self.kinds.iter().map(|kind| kind.mend_like(like));
        let mends: Option<Vec<String>> = mends.collect();
        meant(mends?.into_iter())
    }

    /// Whether it is a word or several, and no number but of what has no name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        let named = |kind: &Kind| matches!(kind, Kind::Enum(_) | Kind::Flags(_));
        self.kinds.iter().all(named)
    }
}

/// The word that is meant, before the order of words, before what an argument looks like.
fn meant(mends: impl Iterator<Item = String>) -> Option<String> {
    mends.max_by_key(|mend| (mend.starts_with("did"), mend.starts_with("write")))
}

impl Kind {
    fn of(kind: &str, set: Option<&'static str>) -> Self {
        match (kind, set) {
            ("INT" | "ID" | "SIZE", _) => Self::Number,
            ("MODE", _) => Self::Mode,
            ("DEV", _) => Self::Device,
            ("PTR", _) => Self::Address,
            ("ENUM", Some(set)) => Self::Enum(set),
            ("FLAGS", Some(set)) => Self::Flags(set),
            _ => Self::Text,
        }
    }

    fn holds(self, text: &str) -> bool {
        match self {
            Self::Text => true,
            Self::Number => text.parse::<i128>().is_ok(),
            Self::Mode => text.len() > 1 && text.starts_with('0') && is_octal(text),
            Self::Device => text
                .split_once(':')
                .is_some_and(|(major, minor)| is_decimal(major) && is_decimal(minor)),
            Self::Address => is_hexadecimal(text),
            // What has no name is told as its number.
            Self::Enum(set) => match text.parse::<u64>() {
                Ok(number) => words(set).iter().all(|(known, _)| *known != number),
                Err(_) => words(set).iter().any(|(_, word)| *word == text),
            },
            Self::Flags(set) => flags(set).mend(text).is_none(),
        }
    }

    fn mend(self, text: &str) -> Option<String> {
        match self {
            Self::Text => None,
            Self::Number => Some("it is a number, such as '0'".to_owned()),
            Self::Mode if !text.is_empty() && is_octal(text) => Some(format!("write '0{text}'")),
            Self::Mode => Some("it is written as '0755'".to_owned()),
            Self::Device => Some("it is written as '8:1'".to_owned()),
            Self::Address => Some("it is written as '0x7f00'".to_owned()),
            Self::Enum(set) => {
                let mut named = words(set).iter();
                let named = named.find(|(number, _)| text.parse() == Ok(*number));
                let word = named.map(|(_, word)| *word);
                word_meant(set, word.or_else(|| near(text, texts(set))))
            }
            Self::Flags(set) => flags(set).mend(text),
        }
    }

    fn mend_like(self, like: &Like) -> Option<String> {
        let pieces = like.pieces();
        let all = |holds: &dyn Fn(char) -> bool| {
            let mut characters = pieces.iter().flat_map(|piece| &piece.characters).flatten();
            characters.all(|character| holds(*character))
        };
        match self {
            Self::Text => None,
            Self::Number | Self::Mode | Self::Device | Self::Address => {
                let digit = |character: char| match self {
                    Self::Number => character.is_ascii_digit() || character == '-',
                    Self::Mode => ('0'..='7').contains(&character),
                    Self::Device => character.is_ascii_digit() || character == ':',
                    _ => character.is_ascii_hexdigit() || character == 'x',
                };
                if all(&digit) { None } else { self.mend("") }
            }
            Self::Enum(set) => {
                if texts(set).any(|word| like.matches(word)) || all(&|own| own.is_ascii_digit()) {
                    return None;
                }
                let longest = pieces.iter().max_by_key(|piece| piece.characters.len())?;
                let longest = longest.characters.iter().map(|own| own.unwrap_or('_'));
                word_meant(set, near(&longest.collect::<String>(), texts(set)))
            }
            Self::Flags(set) => flags(set).mend_like(like),
        }
    }
}

/// The word of a set that is meant, or what its words are like.
fn word_meant(set: &str, word: Option<&str>) -> Option<String> {
    Some(match word {
        Some(word) => format!("did you mean '{word}'?"),
        None => format!(
            "it is a word such as '{}'; docs/events.md has which calls are sent",
            words(set).first()?.1
        ),
    })
}

fn is_octal(text: &str) -> bool {
    text.bytes().all(|digit| (b'0'..=b'7').contains(&digit))
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

fn is_hexadecimal(text: &str) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let lower = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    !digits.is_empty() && digits.bytes().all(lower)
}

fn arguments() -> &'static BTreeMap<&'static str, Argument> {
    static ARGUMENTS: LazyLock<BTreeMap<&str, Argument>> = LazyLock::new(|| {
        let mut arguments: BTreeMap<&str, Argument> = BTreeMap::new();
        for call in calls::all() {
            for own in told(call) {
                let argument = arguments.entry(own.name).or_default();
                argument.types.insert(event_type(call.name));
                argument.kinds.insert(Kind::of(own.kind, own.set));
            }
        }
        arguments
    });
    &ARGUMENTS
}

/// The arguments of a call that are in `evt_args`.
fn told(call: &Call) -> impl Iterator<Item = &calls::Argument> {
    let arguments = call.arguments.iter().filter(|_| !call.is_open());
    arguments.filter(|argument| !IN_COLUMNS.contains(&argument.kind))
}

type Words = Vec<(u64, &'static str)>;

/// The names of each set that an argument has.
static SETS: LazyLock<BTreeMap<&'static str, (Words, Flags)>> = LazyLock::new(|| {
    let arguments = calls::all().iter().flat_map(|call| &call.arguments);
    let sets = arguments.filter_map(|argument| argument.set);
    let read = sets.map(|set| {
        let words: Words = read_words(set).collect();
        let names = words.iter().filter(|(bits, _)| *bits != 0);
        let flags = Flags {
            words: names.map(|(_, word)| (*word).to_owned()).collect(),
            joined: '|',
            zero: if set == "nstype" { "any" } else { "0" },
            unnamed: true,
            ..Flags::default()
        };
        (set, (words, flags))
    });
    read.collect()
});

/// The numbers of a set, with their names.
fn words(set: &str) -> &'static [(u64, &'static str)] {
    &SETS[set].0
}

/// The names of a set.
fn texts(set: &str) -> impl Iterator<Item = &'static str> + Clone {
    words(set).iter().map(|(_, word)| *word)
}

fn flags(set: &str) -> &'static Flags {
    &SETS[set].1
}

/// Finds a set where the names stand.
fn read_words(set: &str) -> impl Iterator<Item = (u64, &'static str)> {
    let region = match set {
        "clone" | "nstype" => between("const CLONE_FLAGS", "];"),
        "socket" => between("static SOCKET: Names = Names {", "};"),
        set => between(&format!("\n    {} {{", set.to_uppercase()), "}"),
    };
    let mut number = None;
    let tokens = region.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let tokens = tokens.filter(|token| !token.is_empty());
    tokens.filter_map(move |token| match (read(token), number.take()) {
        (Some(read), _) => {
            number = Some(read);
            None
        }
        (None, number) => Some((number?, token)),
    })
}

fn between(start: &str, end: &str) -> &'static str {
    let rest = NAMES.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(inside, _)| inside)
}

fn read(token: &str) -> Option<u64> {
    let digits = token.replace('_', "");
    match digits.split_at_checked(2) {
        Some(("0x", rest)) => u64::from_str_radix(rest, 16).ok(),
        Some(("0o", rest)) => u64::from_str_radix(rest, 8).ok(),
        _ => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_their_own_arguments() {
        let flags = of("flags").expect("an argument");
        assert!(flags.types.contains("unshare") && flags.types.contains("clone"));
        assert!(!flags.types.contains("openat"));
        let without = types_without("flags");
        assert!(without.contains("openat") && !without.contains("unshare"));
        assert_eq!(of("sig").map(|sig| sig.types.len()), Some(6));
        assert!(of("dirfd").is_none() && of("none").is_none());
        assert!(names().any(|name| name == "request"));
    }

    fn check(name: &str, text: &str, mend: Option<&str>) {
        let found = of(name).expect("an argument").mend(text);
        assert_eq!(found.as_deref(), mend, "{name} = {text}");
    }

    #[test]
    fn what_an_argument_never_is_has_a_mend() {
        check("sig", "SIGKILL", None);
        check("sig", "64", None);
        check("sig", "9", Some("did you mean 'SIGKILL'?"));
        check("sig", "KILL", Some("did you mean 'SIGKILL'?"));
        check("sig", "sigkil", Some("did you mean 'SIGKILL'?"));
        check("cmd", "PROG_LOAD", Some("did you mean 'BPF_PROG_LOAD'?"));
        check("mode", "04755", None);
        check("mode", "4755", Some("write '04755'"));
        check("mode", "u+s", Some("it is written as '0755'"));
        check("uid", "0", None);
        check("uid", "-1", None);
        check("uid", "root", Some("it is a number, such as '0'"));
        check("prot", "PROT_READ|PROT_WRITE|PROT_EXEC", None);
        check("prot", "PROT_EXEC|0x40", None);
        check(
            "prot",
            "PROT_WRITE|EXEC",
            Some("did you mean 'PROT_WRITE|PROT_EXEC'?"),
        );
        check(
            "prot",
            "rwx",
            Some("it is words such as 'PROT_READ', joined by |"),
        );
        check("flags", "any", None);
        check("type", "SOCK_RAW", None);
        // A file system's type is a text.
        check("type", "overlay", None);
        check("flags", "CLONE_NEWUSER", None);
        check("domain", "AF_PACKET", None);
        check("domain", "AF_PACKE", Some("did you mean 'AF_PACKET'?"));
    }

    #[test]
    fn flags_stand_in_one_order() {
        check("flags", "CLONE_NEWNS|CLONE_NEWUSER", None);
        check(
            "flags",
            "CLONE_NEWUSER|CLONE_NEWNS",
            Some("write 'CLONE_NEWNS|CLONE_NEWUSER': words stand in one order, each once"),
        );
    }

    #[test]
    fn what_an_argument_is_never_like_has_a_mend() {
        let check = |name: &str, pattern: &str, mend: Option<&str>| {
            let like = Like::pattern(pattern, false);
            let found = of(name).expect("an argument").mend_like(&like);
            assert_eq!(found.as_deref(), mend, "{name} LIKE {pattern}");
        };
        check("sig", "SIG%", None);
        check("sig", "%KILL%", None);
        check("sig", "6_", None);
        check("sig", "KILL%", Some("did you mean 'SIGKILL'?"));
        check("sig", "%kill", Some("did you mean 'SIGKILL'?"));
        check("flags", "%NEWUSER%", None);
        check(
            "flags",
            "%CLONE_NEWUSR%",
            Some("did you mean 'CLONE_NEWUSER'?"),
        );
        check("prot", "%WRITE|%EXEC", None);
        check(
            "prot",
            "%rwx%",
            Some("it is words such as 'PROT_READ', joined by |"),
        );
        check("uid", "10%", None);
        check("uid", "root%", Some("it is a number, such as '0'"));
        check("mode", "u+s%", Some("it is written as '0755'"));
        // A file system's type is a text.
        check("type", "%overlay%", None);
    }

    #[test]
    fn commands_of_bpf_are_those_that_sensors_send() {
        check("cmd", "BPF_PROG_LOAD", None);
        check("cmd", "BPF_TOKEN_CREATE", None);
        // Whoever reads his maps does so all the time.
        for command in ["BPF_MAP_CREATE", "BPF_MAP_LOOKUP_ELEM"] {
            assert!(of("cmd").expect("an argument").mend(command).is_some());
        }
    }

    #[test]
    fn each_set_of_names_is_found() {
        for argument in arguments().values() {
            for kind in &argument.kinds {
                if let Kind::Enum(set) | Kind::Flags(set) = kind {
                    assert!(words(set).len() > 1, "{set}");
                }
            }
        }
        assert_eq!(words("clone").first(), Some(&(0x100, "CLONE_VM")));
        assert!(words("socket").contains(&(3, "SOCK_RAW")));
        assert!(words("open").contains(&(0o100, "O_CREAT")));
    }
}
