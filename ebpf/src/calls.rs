//! The table of system calls, made from `bpf/calls.def`: one row a call.
//!
//! ```text
//! calls.def ─► the kernel programs: numbers, gates, how arguments are read
//!           └► CALLS: names for events, counters, configuration and documents
//! ```

pub mod names;
pub mod numbers;

use crate::control::{Mode, RateClass};
use names::Names;

/// A system call that is seen.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name, which is its `evt_type` unless another hook tells it.
    pub name: &'static str,
    /// Its number for 64-bit programs on x86.
    pub x86_64: Option<u16>,
    /// Its number through the 32-bit entry of x86.
    pub ia32: Option<u16>,
    /// Its number on arm64.
    pub arm64: Option<u16>,
    /// Its `evt_category`.
    pub category: &'static str,
    /// What a cgroup's mode must be at least.
    pub mode: Mode,
    /// Which part of a share its records use up.
    pub class: RateClass,
    /// Which of the calls are sent.
    pub gate: Gate,
    /// What else it changes.
    pub effect: Effect,
    /// Its arguments, in order, at most six.
    pub arguments: &'static [Argument],
}

/// An argument of a call.
#[derive(Debug, PartialEq, Eq)]
pub struct Argument {
    /// Falco's name of it.
    pub name: &'static str,
    /// How it is read and told.
    pub kind: ArgumentKind,
}

/// How an argument is read and told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentKind {
    /// Not told.
    Skip,
    /// A signed number.
    Int,
    /// A number of bytes.
    Size,
    /// A user's or a group's id; -1 = unchanged.
    Id,
    /// Permission bits.
    Mode,
    /// A device's number.
    Dev,
    /// An address.
    Ptr,
    /// Bits with names.
    Flags(&'static Names),
    /// A number with a name.
    Enum(&'static Names),
    /// A text.
    String,
    /// A program, as it was given.
    Program,
    /// The text of a symbolic link.
    Target,
    /// What a descriptor is.
    Fd,
    /// What the descriptor is that the call returned.
    Returned,
    /// The folder that the next path starts from.
    Dirfd,
    /// A path.
    Path,
    /// A path that starts from the folder before it.
    PathAt,
    /// A socket's address.
    Sockaddr,
    /// A message with an address.
    Msghdr,
}

/// Which of its calls a row sends; `bpf/syscalls.h` says what each asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// All.
    Any,
    /// Those that failed: success is told by another hook.
    Failed,
    /// All but those that found nothing to do yet.
    Done,
    /// Those with all bits of a mask.
    AllOf,
    /// Those with another number.
    Not,
    /// Sockets of an unusual family or type.
    Socket,
    /// Options that change what the process may do, or its name.
    Prctl,
    /// Requests that attach or change something.
    Ptrace,
    /// Commands that load or attach, or get hold of what others have loaded.
    Bpf,
    /// Signals for others.
    Signal,
    /// Those that put a socket onto descriptor 0, 1 or 2.
    Stdio,
    /// The same, of a call that does other things as well.
    StdioFcntl,
    /// Those that set a file's capabilities.
    CapabilityXattr,
    /// The first to each peer through a socket.
    Peer,
}

impl Gate {
    /// In words, for documents; empty where all are sent.
    pub fn words(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Failed => "failed ones; the others are told as execve and clone",
            Self::Done => "not those that found nothing to do yet",
            Self::AllOf => "memory that is written to and executed",
            Self::Not => "not those that only ask",
            Self::Socket => {
                "raw and packet sockets, and the families key, netlink, tipc, alg, vsock and xdp"
            }
            Self::Prctl => {
                "dumpable, keepcaps, name, seccomp, securebits, mm, child subreaper, no new privileges, ambient capabilities"
            }
            Self::Ptrace => "requests that attach or change something",
            Self::Bpf => {
                "commands that load, attach, detach or pin, or get hold of what others have loaded"
            }
            Self::Signal => "signals for other processes",
            Self::Stdio | Self::StdioFcntl => "a socket onto descriptor 0, 1 or 2",
            Self::CapabilityXattr => "security.capability",
            Self::Peer => "the first to each peer through a socket",
        }
    }
}

/// What a call changes beside what its arguments say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It opens a file: it has a record of its own.
    Open,
    /// Paths of files already seen.
    Names,
    /// The same where a folder is removed.
    Removal,
    /// Who the process is, or its namespaces.
    Identity,
    /// Its working directory.
    Cwd,
    /// Its root.
    Root,
    /// Whom the process tried to reach.
    Connect,
}

/// All calls, by number: the first has number 1.
pub static CALLS: &[Call] = include!(concat!(env!("OUT_DIR"), "/calls.rs"));

/// Differs when records mean something else: they name their call by number, and have its arguments in order. Which calls are
/// sent, and how many, does not count.
pub fn fingerprint() -> u32 {
    // FNV-1a: no secret, only a change is to be noticed.
    let meaning = CALLS.iter().map(Call::meaning);
    meaning.fold(0x811c_9dc5, |hash, meaning| {
        let bytes = meaning.bytes();
        bytes.fold(hash, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
    })
}

impl Call {
    /// The call with this number; `None` for 0 and for what is in no row.
    pub fn from_number(number: u32) -> Option<&'static Self> {
        CALLS.get((number as usize).checked_sub(1)?)
    }

    /// What its records hold, as a line: `unlinkat Removal dirfd Dirfd name PathAt flags Flags`.
    fn meaning(&self) -> String {
        let mut line = format!("{} {:?}", self.name, self.effect);
        for argument in self.arguments {
            let kind = format!("{:?}", argument.kind);
            // Numbers of which set, and their names, are no part of a record.
            let kind = kind.split('(').next().unwrap_or_default();
            line += &format!(" {} {kind}", argument.name);
        }
        line + "\n"
    }

    /// The call of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CALLS.iter().find(|call| call.name == name)
    }

    /// Its number, from 1 on.
    pub fn number(&self) -> u32 {
        let at = CALLS.iter().position(|call| call.name == self.name);
        at.map_or(0, |index| index as u32 + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_a_record_holds_is_its_call_its_effect_and_its_arguments() {
        let meaning = |name| Call::named(name).map(Call::meaning).unwrap_or_default();
        assert_eq!(
            meaning("unlinkat"),
            "unlinkat Removal dirfd Dirfd name PathAt flags Flags\n"
        );
        // Without the names of its commands, and without which of them are sent.
        assert_eq!(meaning("bpf"), "bpf None cmd Enum\n");
    }

    #[test]
    fn a_name_and_a_number_mean_one_call() {
        let names: BTreeSet<_> = CALLS.iter().map(|call| call.name).collect();
        assert_eq!(names.len(), CALLS.len());
        for numbers in [
            |call: &Call| call.x86_64,
            |call: &Call| call.ia32,
            |call: &Call| call.arm64,
        ] {
            let all: Vec<_> = CALLS.iter().filter_map(numbers).collect();
            let different: BTreeSet<_> = all.iter().collect();
            assert_eq!(all.len(), different.len(), "{all:?}");
        }
        for (index, call) in CALLS.iter().enumerate() {
            assert_eq!(call.number() as usize, index + 1);
            assert_eq!(Call::from_number(call.number()), Some(call));
        }
    }

    /// On this machine's architecture; the C library knows the numbers, too.
    #[test]
    fn numbers_are_those_of_the_c_library() {
        for (name, number) in [
            ("openat", libc::SYS_openat),
            ("unlinkat", libc::SYS_unlinkat),
            ("mount", libc::SYS_mount),
            ("finit_module", libc::SYS_finit_module),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ] {
            assert_eq!(
                Call::named(name).unwrap().x86_64.map(i64::from),
                Some(number)
            );
        }
    }

    /// The last section of docs/events.md; `UPDATE_EXPECT=1` writes it anew.
    #[test]
    fn the_event_reference_lists_every_call() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
        let found = fs::read_to_string(&path).unwrap();
        let (head, _) = found.split_once(HEADING).unwrap_or((&found, ""));
        let expected = format!("{head}{HEADING}{}", list());
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap();
        assert!(
            found == expected,
            "docs/events.md is old: run the test with UPDATE_EXPECT=1"
        );
    }

    const HEADING: &str = "\n## System calls\n";

    const INTRODUCTION: &str = "
Every call that is seen, generated from `ebpf/bpf/calls.def`: `UPDATE_EXPECT=1 cargo test --release -p dogwatch-ebpf calls` writes the list anew.
`kernel.calls` of the sensor switches calls off, by name or by category.

A call leaves an event where the mode of its cgroup is at least the one named here (`containers.mode`, `containers.host_mode`), whether it succeeded or failed, unless the last column says which of them do.
Its records use up the class's part of what its container may send (`kernel.container_rates`).
One path is `fd_name`; two are `fs_path_source` and `fs_path_target`; a descriptor is `fd_num` with the file or the socket it is; a socket's address is in `fd_sip` and its kin.
All other arguments are in `evt_args`, under the names given here.

| call | `evt_category` | mode | class | arguments | which |
| --- | --- | --- | --- | --- | --- |
";

    fn list() -> String {
        let mut out = INTRODUCTION.to_owned();
        for call in CALLS {
            let told: fn(&Argument) -> Option<String> = match call.effect {
                Effect::Open => told_of_an_open,
                _ => told,
            };
            let arguments: Vec<_> = call.arguments.iter().filter_map(told).collect();
            out += &format!(
                "| `{}` | {} | {} | {} | {} | {} |\n",
                call.name,
                call.category,
                call.mode.name(),
                call.class.name(),
                arguments.join(", "),
                call.gate.words()
            );
        }
        out
    }

    /// All else of an open has columns of its own.
    fn told_of_an_open(argument: &Argument) -> Option<String> {
        let path = [ArgumentKind::Path, ArgumentKind::PathAt].contains(&argument.kind);
        path.then(|| told(argument)).flatten()
    }

    fn told(argument: &Argument) -> Option<String> {
        let name = argument.name;
        Some(match argument.kind {
            ArgumentKind::Skip | ArgumentKind::Dirfd => return None,
            ArgumentKind::Path | ArgumentKind::PathAt => format!("path {name}"),
            ArgumentKind::Target => format!("text {name}"),
            ArgumentKind::Fd => format!("descriptor {name}"),
            ArgumentKind::Returned => "descriptor returned".to_owned(),
            ArgumentKind::Sockaddr | ArgumentKind::Msghdr => format!("address {name}"),
            _ => format!("`{name}`"),
        })
    }

    /// The kernel programs keep a record below the place where their masks would bite.
    #[test]
    fn rows_have_few_enough_arguments_and_texts() {
        for call in CALLS {
            assert!(call.arguments.len() <= 6, "{}", call.name);
            let texts: usize = call
                .arguments
                .iter()
                .map(|argument| texts(argument.kind))
                .sum();
            let texts = texts + usize::from(call.effect == Effect::Cwd);
            assert!(texts <= 4, "{} has {texts} texts", call.name);
        }
    }

    fn texts(kind: ArgumentKind) -> usize {
        match kind {
            ArgumentKind::Path | ArgumentKind::PathAt => 2,
            ArgumentKind::Fd
            | ArgumentKind::Returned
            | ArgumentKind::Program
            | ArgumentKind::Target => 1,
            // Short ones: three of them take less than a path.
            _ => 0,
        }
    }
}
