//! Warnings by their codes, and which of them a detection's header allows.
//!
//! ```text
//! -- allow = ["null-left-out"]     what is meant so: the warning is not told, and `--strict` lets the file pass
//! ```
//! A code is a promise to authors: it is in their headers, so none is renamed, and none comes to mean something else.

use super::sql_file::{Fault, nearest};

/// What a warning is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A constant that no sensor sends in the column it is compared with.
    UnknownValue,
    /// A text with quotes or blanks around it, or nearly a word that means something in its column.
    UnlikelyText,
    /// Permission bits as a decimal number that looks octal.
    OctalMode,
    /// A list that is asked and has no row.
    EmptyList,
    /// Conditions that no event of a sensor of this version passes.
    NeverPasses,
    /// An alternative that no such event takes.
    DeadAlternative,
    /// A condition that every event passes.
    AsksNothing,
    /// A negation that leaves out what is not known.
    NullLeftOut,
    /// An aggregate that counts no event.
    CountsNone,
    /// A count of more values than a group can have.
    CountTooHigh,
    /// A function that fails whatever it is given.
    AlwaysFails,
    /// A shell's pattern in LIKE.
    GlobInLike,
    /// AND and OR side by side without parentheses.
    MixedAndOr,
    /// Reads that the query asks for and the header does not declare.
    UndeclaredReads,
    /// Declared reads that sensors do not publish every time.
    UnpublishedReads,
    /// Types of events that sensors are told not to send.
    UnseenTypes,
    /// Something wrong with the header's `allow` itself.
    Allow,
}

/// Each code as it is written. docs/detections.md says what they mean.
const NAMES: [(Code, &str); 17] = [
    (Code::UnknownValue, "unknown-value"),
    (Code::UnlikelyText, "unlikely-text"),
    (Code::OctalMode, "octal-mode"),
    (Code::EmptyList, "empty-list"),
    (Code::NeverPasses, "never-passes"),
    (Code::DeadAlternative, "dead-alternative"),
    (Code::AsksNothing, "asks-nothing"),
    (Code::NullLeftOut, "null-left-out"),
    (Code::CountsNone, "counts-none"),
    (Code::CountTooHigh, "count-too-high"),
    (Code::AlwaysFails, "always-fails"),
    (Code::GlobInLike, "glob-in-like"),
    (Code::MixedAndOr, "mixed-and-or"),
    (Code::UndeclaredReads, "undeclared-reads"),
    (Code::UnpublishedReads, "unpublished-reads"),
    (Code::UnseenTypes, "unseen-types"),
    (Code::Allow, "allow"),
];

/// Codes of what depends on how sensors are set up: whether a header needs to allow them, its file alone does not tell.
const OF_SENSORS: [Code; 2] = [Code::UnpublishedReads, Code::UnseenTypes];

impl Code {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = NAMES.iter().filter(|(code, _)| *code == self);
        names.next().map_or("", |(_, name)| name)
    }

    /// This code with what is wrong.
    pub(super) fn of(self, fault: Fault) -> Doubt {
        Doubt { code: self, fault }
    }

    /// This code with all that is wrong.
    pub(super) fn of_all(self, faults: Vec<Fault>) -> impl Iterator<Item = Doubt> {
        faults.into_iter().map(move |fault| self.of(fault))
    }
}

/// A warning before its file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub code: Code,
    pub fault: Fault,
}

/// The names of all codes that a header may allow.
fn names() -> impl Iterator<Item = &'static str> {
    let names = NAMES.iter().filter(|(code, _)| *code != Code::Allow);
    names.map(|(_, name)| *name)
}

/// Leaves out what a header allows, and tells of what it allows in vain, in the line where it does.
pub(super) fn allowed(doubts: Vec<Doubt>, allow: &[String], line: usize) -> Vec<Doubt> {
    let is_allowed = |doubt: &Doubt| allow.iter().any(|name| name == doubt.code.name());
    let (known, mut left): (Vec<Doubt>, Vec<Doubt>) = doubts.into_iter().partition(is_allowed);
    let mut faults = Vec::new();
    for name in allow {
        let is_known = names().any(|own| own == name);
        let is_used = known.iter().any(|doubt| doubt.code.name() == name);
        let of_sensors = OF_SENSORS.iter().any(|code| code.name() == name);
        if !is_known {
            let mend = match nearest(name, names()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the codes are {}", names().collect::<Vec<_>>().join(", ")),
            };
            let reason = format!("allow names {name:?}, which is no code of a warning");
            faults.push(Fault::new(line, reason, mend));
        } else if !is_used && !of_sensors {
            let reason = format!("allow names {name:?}, and there is no such warning");
            faults.push(Fault::new(line, reason, "take it out"));
        }
    }
    left.extend(Code::Allow.of_all(faults));
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(code: Code) -> Doubt {
        code.of(Fault::new(3, "reason", "mend"))
    }

    /// What is told of a detection with these warnings whose header allows this, by code and reason.
    fn told(codes: &[Code], allow: &[&str]) -> Vec<(&'static str, String)> {
        let doubts = codes.iter().map(|code| doubt(*code)).collect();
        let allow: Vec<String> = allow.iter().map(|name| (*name).to_owned()).collect();
        let left = allowed(doubts, &allow, 2).into_iter();
        left.map(|doubt| {
            (
                doubt.code.name(),
                format!("{}; {}", doubt.fault.reason, doubt.fault.mend),
            )
        })
        .collect()
    }

    #[test]
    fn what_is_allowed_is_not_told_and_the_rest_is() {
        let left = told(
            &[Code::NullLeftOut, Code::GlobInLike, Code::NullLeftOut],
            &["null-left-out"],
        );
        assert_eq!(left, [("glob-in-like", "reason; mend".to_owned())]);
    }

    #[test]
    fn what_is_allowed_in_vain_is_told() {
        let unused = r#"allow names "glob-in-like", and there is no such warning; take it out"#;
        assert_eq!(told(&[], &["glob-in-like"]), [("allow", unused.to_owned())]);
        let unknown = told(&[Code::NullLeftOut], &["null-leftout"]);
        let near = r#"allow names "null-leftout", which is no code of a warning; did you mean "null-left-out"?"#;
        assert_eq!(
            unknown,
            [
                ("null-left-out", "reason; mend".to_owned()),
                ("allow", near.to_owned())
            ]
        );
        // Whether there is such a warning is known where the sensors' settings are.
        assert_eq!(told(&[], &["unpublished-reads"]), []);
        // What is said of allow itself cannot be allowed.
        let [(code, text)] = &told(&[], &["allow"])[..] else {
            panic!("one");
        };
        assert!(
            *code == "allow" && text.contains("which is no code"),
            "{text}"
        );
    }

    #[test]
    fn each_code_has_a_name_of_its_own() {
        let mut all: Vec<&str> = NAMES.iter().map(|(code, _)| code.name()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), NAMES.len());
        assert!(all.iter().all(|name| {
            name.bytes()
                .all(|letter| letter == b'-' || letter.is_ascii_lowercase())
        }));
    }
}
