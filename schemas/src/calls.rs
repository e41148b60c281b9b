//! The system calls that sensors see, as the sensor's own table of calls has them: which there are, what their events are
//! called, and which columns these have.
//!
//! Read from the table, so that nothing of it is written a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

const TABLE: &str = include_str!("../../ebpf/bpf/calls.def");

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub name: &'static str,
    pub category: &'static str,
    /// Which of the calls are sent, with what it asks of an argument: `ALL_OF(2, 6)`.
    pub gate: &'static str,
    pub effect: &'static str,
    pub arguments: Vec<Argument>,
}

/// An argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Argument {
    pub kind: &'static str,
    /// Falco's name of it.
    pub name: &'static str,
    /// The set of names of its numbers.
    pub set: Option<&'static str>,
}

/// All rows, in the table's order.
pub(crate) fn all() -> &'static [Call] {
    static CALLS: LazyLock<Vec<Call>> = LazyLock::new(|| {
        let rows = TABLE.lines();
        let rows = rows.filter_map(|row| row.strip_prefix("CALL(")?.strip_suffix(')'));
        rows.filter_map(Call::parse).collect()
    });
    &CALLS
}

/// The names of all calls.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().iter().map(|call| call.name)
}

/// What an event of a system call is called: what processes are made by is one type, whichever call it was.
#[must_use]
pub fn event_type(call: &str) -> &str {
    match call {
        "fork" | "vfork" | "clone3" => "clone",
        call => call,
    }
}

/// Whether of a system call only those that fail leave an event of its own, since programs and processes are told by other
/// hooks: where it is switched off, what succeeds is told all the same.
#[must_use]
pub fn told_without_call(call: &str) -> bool {
    let mut calls = all().iter();
    calls.any(|own| own.name == call && own.gate == "FAILED")
}

/// The categories of system calls, each with what their events are called.
#[must_use]
pub fn categories() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut categories: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for call in all() {
        let types = categories.entry(call.category.to_lowercase()).or_default();
        types.insert(event_type(call.name));
    }
    categories
}

/// What the events of all system calls are called that never have a column, whatever comes of the call; none of a column
/// that is not of some calls alone.
#[must_use]
pub fn types_without_column(column: &str) -> BTreeSet<&'static str> {
    if all().iter().all(|call| call.has_column(column)) {
        return BTreeSet::new();
    }
    types_without(|call| call.has_column(column))
}

/// What the events of system calls are called of which none is so.
pub(crate) fn types_without(is_so: impl Fn(&Call) -> bool) -> BTreeSet<&'static str> {
    let types = |is_so: &dyn Fn(&Call) -> bool| -> BTreeSet<&'static str> {
        let calls = all().iter().filter(|call| is_so(call));
        calls.map(|call| event_type(call.name)).collect()
    };
    let with = types(&is_so);
    let without = types(&|_| true);
    without.difference(&with).copied().collect()
}

/// Columns of the ends of a connection.
pub const OF_SOCKETS: [&str; 12] = [
    "fd_cip",
    "fd_cport",
    "fd_sip",
    "fd_sport",
    "fd_lip",
    "fd_lport",
    "fd_rip",
    "fd_rport",
    "fd_l4proto",
    "fd_family",
    "fd_is_server",
    "fd_addr_source",
];

/// Columns of what a process may do.
pub const OF_CREDENTIALS: [&str; 7] = [
    "thread_cap_effective",
    "thread_cap_permitted",
    "thread_cap_inheritable",
    "user_host_suid",
    "user_host_fsuid",
    "group_host_sgid",
    "group_host_fsgid",
];

impl Call {
    /// Of what stands between the parentheses.
    fn parse(row: &'static str) -> Option<Self> {
        let mut fields = Fields(row);
        let name = fields.next()?;
        let mut fields = fields.skip(3);
        let category = fields.next()?;
        let (_mode, _class) = (fields.next()?, fields.next()?);
        let (gate, effect) = (fields.next()?, fields.next()?);
        let arguments = fields.next().unwrap_or_default();
        let arguments = arguments.split_inclusive(')').filter_map(Argument::parse);
        Some(Self {
            name,
            category,
            gate,
            effect,
            arguments: arguments.collect(),
        })
    }

    /// Opens have a record of their own, whose arguments are in columns.
    pub fn is_open(&self) -> bool {
        self.effect == "OPEN"
    }

    fn has(&self, kinds: &[&str]) -> bool {
        let mut arguments = self.arguments.iter();
        arguments.any(|argument| kinds.contains(&argument.kind))
    }

    /// Whether an event of the call can have a column; so it can have one that is of all calls or of none.
    fn has_column(&self, column: &str) -> bool {
        let paths = self.arguments.iter();
        let paths = paths.filter(|argument| ["PATH", "PATH_AT", "TARGET"].contains(&argument.kind));
        let paths = paths.count();
        let is_file = self.is_open() || self.has(&["FD", "RETURNED"]);
        let is_address = self.has(&["SOCKADDR", "MSGHDR"]);
        match column {
            "evt_is_open_read" | "evt_is_open_write" | "evt_is_open_create" | "fd_flags"
            | "fd_mode" | "fd_created" => self.is_open(),
            "fd_num" | "fd_dev" | "fd_ino" | "fd_from" => is_file,
            "fd_type" => is_file || is_address,
            "fd_name" => is_file || is_address || paths == 1,
            "fd_directory" | "fd_filename" => is_file || paths == 1,
            "fd_nameraw" => self.is_open() || paths == 1,
            "fd_host_name" => self.category == "FILE" && (is_file || paths == 1),
            "fs_path_source" | "fs_path_sourceraw" | "fs_path_target" | "fs_path_targetraw" => {
                paths == 2
            }
            column if OF_SOCKETS.contains(&column) => is_address || (is_file && !self.is_open()),
            // Of programs that were started the kernel tells it at another hook.
            column if OF_CREDENTIALS.contains(&column) => {
                self.effect == "IDENTITY" || self.gate == "FAILED"
            }
            _ => true,
        }
    }
}

impl Argument {
    /// Of `TYPE(name)` or `TYPE(name, set)`.
    fn parse(text: &'static str) -> Option<Self> {
        let (kind, inside) = text.trim().strip_suffix(')')?.split_once('(')?;
        let (name, set) = match inside.split_once(',') {
            Some((name, set)) => (name, Some(set.trim())),
            None => (inside, None),
        };
        Some(Self { kind, name, set })
    }
}

/// What stands between the commas of a row that are in no parentheses of their own.
struct Fields(&'static str);

impl Iterator for Fields {
    type Item = &'static str;

    fn next(&mut self) -> Option<&'static str> {
        let rest = self.0.trim_start();
        let mut depth = 0;
        let end = rest.char_indices().find(|(_, character)| {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            *character == ',' && depth == 0
        });
        let (field, after) = match end {
            Some((end, _)) => (&rest[..end], &rest[end + 1..]),
            None => (rest, ""),
        };
        self.0 = after;
        (!field.is_empty() || end.is_some()).then(|| field.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> &'static Call {
        let mut calls = all().iter();
        calls.find(|call| call.name == name).expect("a call")
    }

    #[test]
    fn rows_of_the_table_are_taken_apart() {
        assert_eq!(all().len(), TABLE.matches("\nCALL(").count());
        let prot = call("mprotect");
        assert_eq!(
            (prot.category, prot.gate, prot.effect),
            ("MEMORY", "ALL_OF(2, 6)", "NONE")
        );
        let prot = prot.arguments[2];
        assert_eq!(
            (prot.kind, prot.name, prot.set),
            ("FLAGS", "prot", Some("prot"))
        );
        assert_eq!(call("fork").arguments, []);
        assert_eq!(call("kill").arguments.len(), 2);
        assert!(call("openat2").is_open() && !call("open_by_handle_at").is_open());
    }

    #[test]
    fn programs_and_processes_are_told_without_their_calls() {
        let told: Vec<&str> = names().filter(|call| told_without_call(call)).collect();
        assert_eq!(
            told,
            ["execve", "execveat", "clone", "clone3", "fork", "vfork"]
        );
        assert!(!told_without_call("none"));
    }

    #[test]
    fn calls_have_categories() {
        let categories = categories();
        assert!(categories["net"].contains("connect"));
        assert!(categories["file"].contains("openat"));
        assert!(categories["process"].contains("clone"));
        assert!(!categories["process"].contains("fork"));
    }

    #[test]
    fn calls_have_their_own_columns() {
        let check = |column: &str, with: &[&str], without: &[&str]| {
            let types = types_without_column(column);
            for own in with {
                assert!(!types.contains(own), "{column} of {own}");
            }
            for own in without {
                assert!(types.contains(own), "{column} of {own}");
            }
        };
        check(
            "fd_flags",
            &["open", "openat2", "creat"],
            &["mkdir", "connect", "memfd_create"],
        );
        check(
            "fd_type",
            &["openat", "fchmod", "connect", "dup2"],
            &["mkdir", "unlinkat", "kill"],
        );
        check(
            "fd_name",
            &["mkdir", "chdir", "bind", "sendmsg"],
            &["rename", "kill", "setuid"],
        );
        check(
            "fs_path_target",
            &["rename", "symlink", "pivot_root"],
            &["unlink", "openat"],
        );
        check(
            "fd_sport",
            &["accept4", "sendto"],
            &["openat", "unlink", "ptrace"],
        );
        check(
            "thread_cap_effective",
            &["setuid", "execve", "prctl"],
            &["openat", "connect"],
        );
        assert_eq!(types_without_column("proc_name"), BTreeSet::new());
    }
}
