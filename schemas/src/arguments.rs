//! Arguments of system calls as `evt_args` has them: which calls have one of a name, and what its texts are like.
//!
//! Read from the sensor's table of calls and the names of its numbers, so that nothing here is written a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::vocabulary::event_type;

const TABLE: &str = include_str!("../../ebpf/bpf/calls.def");
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
pub fn types_without(name: &str) -> impl Iterator<Item = &'static str> {
    let with = of(name).map(|argument| &argument.types);
    let types: BTreeSet<&str> = rows().map(|(call, _)| event_type(call)).collect();
    types
        .into_iter()
        .filter(move |own| with.is_none_or(|with| !with.contains(own)))
}

/// The categories of system calls, each with what their events are called.
#[must_use]
pub fn categories() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut categories: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (call, fields) in rows() {
        let category = fields.split(',').nth(3).unwrap_or_default().trim();
        let types = categories.entry(category.to_lowercase()).or_default();
        types.insert(event_type(call));
    }
    categories
}

impl Argument {
    /// What to write for a text that the argument never is; none where it may be that.
    #[must_use]
    pub fn mend(&self, text: &str) -> Option<String> {
        if self.kinds.iter().any(|kind| kind.holds(text)) {
            return None;
        }
        let mends = self.kinds.iter().filter_map(|kind| kind.mend(text));
        // The word that is meant, before what it looks like.
        mends.max_by_key(|mend| mend.starts_with("did"))
    }
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
                Ok(number) => words(set).all(|(known, _)| known != number),
                Err(_) => words(set).any(|(_, word)| word == text),
            },
            Self::Flags(set) => {
                let known = |part: &str| words(set).any(|(_, word)| word == part);
                text == zero(set)
                    || text
                        .split('|')
                        .all(|part| known(part) || (part != "0x0" && is_hexadecimal(part)))
            }
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
                let named = words(set).find(|(number, _)| text.parse() == Ok(*number));
                let word = named.map(|(_, word)| word).or_else(|| near(set, text));
                Some(match word {
                    Some(word) => format!("did you mean '{word}'?"),
                    None => format!("it is a word such as '{}'", words(set).next()?.1),
                })
            }
            Self::Flags(set) => {
                let known = |part: &&str| words(set).any(|(_, word)| word == *part);
                let wrong = text.split('|').find(|part| !known(part))?;
                Some(match near(set, wrong) {
                    Some(word) => format!("did you mean '{}'?", text.replace(wrong, word)),
                    None => format!(
                        "it is words such as '{}', joined by |",
                        words(set).next()?.1
                    ),
                })
            }
        }
    }
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

/// The word that a text is most like: with another prefix or none, or nearly so.
fn near(set: &str, text: &str) -> Option<&'static str> {
    let text = text.to_uppercase();
    let mut ends = words(set).filter(|(_, word)| word.ends_with(&text) && text.len() > 1);
    ends.next().map(|(_, word)| word).or_else(|| {
        let likeness = |word: &str| strsim::normalized_damerau_levenshtein(&text, word);
        let alike = words(set).map(|(_, word)| (likeness(word), word));
        let best = alike.max_by(|left, right| left.0.total_cmp(&right.0))?;
        (best.0 >= 0.6).then_some(best.1)
    })
}

/// What no bit of a set is called.
fn zero(set: &str) -> &'static str {
    match set {
        "nstype" => "any",
        _ => "0",
    }
}

fn arguments() -> &'static BTreeMap<&'static str, Argument> {
    static ARGUMENTS: LazyLock<BTreeMap<&str, Argument>> = LazyLock::new(|| {
        let mut arguments: BTreeMap<&str, Argument> = BTreeMap::new();
        for (call, fields) in rows().filter(|(_, fields)| !is_open(fields)) {
            for (kind, name, set) in told(fields) {
                let argument = arguments.entry(name).or_default();
                argument.types.insert(event_type(call));
                argument.kinds.insert(Kind::of(kind, set));
            }
        }
        arguments
    });
    &ARGUMENTS
}

/// The rows of the table: a call, and what stands behind its name.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = TABLE.lines();
    rows.filter_map(|row| row.strip_prefix("CALL(")?.split_once(','))
}

/// Opens have a record of their own, whose arguments are in columns.
fn is_open(fields: &str) -> bool {
    fields.split(',').any(|field| field.trim() == "OPEN")
}

/// The arguments of a row that are in `evt_args`: kind, name, and the set of its names.
fn told(
    fields: &'static str,
) -> impl Iterator<Item = (&'static str, &'static str, Option<&'static str>)> {
    // A gate has parentheses, too, with numbers in them.
    let parts = fields.split(')').filter_map(|part| part.rsplit_once('('));
    parts.filter_map(|(before, inside)| {
        let kind = before.rsplit([' ', ',']).next()?;
        let (name, set) = match inside.split_once(", ") {
            Some((name, set)) => (name, Some(set)),
            None => (inside, None),
        };
        let is_name = name.starts_with(|letter: char| letter.is_ascii_lowercase());
        (is_name && !IN_COLUMNS.contains(&kind)).then_some((kind, name, set))
    })
}

/// The numbers of a set, with their names.
fn words(set: &str) -> impl Iterator<Item = (u64, &'static str)> {
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
        assert!(types_without("flags").any(|own| own == "openat"));
        assert!(types_without("flags").all(|own| own != "unshare"));
        assert_eq!(of("sig").map(|sig| sig.types.len()), Some(6));
        assert!(of("dirfd").is_none() && of("none").is_none());
        assert!(names().any(|name| name == "request"));
    }

    #[test]
    fn calls_have_categories() {
        let categories = categories();
        assert!(categories["net"].contains("connect"));
        assert!(categories["file"].contains("openat"));
        assert!(categories["process"].contains("clone"));
        assert!(!categories["process"].contains("fork"));
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
    fn each_set_of_names_is_found() {
        for argument in arguments().values() {
            for kind in &argument.kinds {
                if let Kind::Enum(set) | Kind::Flags(set) = kind {
                    assert!(words(set).count() > 1, "{set}");
                }
            }
        }
        assert_eq!(words("clone").next(), Some((0x100, "CLONE_VM")));
        assert!(words("socket").any(|word| word == (3, "SOCK_RAW")));
        assert!(words("open").any(|word| word == (0o100, "O_CREAT")));
    }
}
