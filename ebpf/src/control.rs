//! What user space tells the programs and reads from them, beside the ring: kinds, modes, counters, map keys.

use crate::calls::Call;
pub use crate::wire::PATH_KEY_BYTES;

/// Declares a C enumeration of `record.h` as a closed enum with names for metrics.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal, $text:literal, $c_name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number,)* }

        impl $name {
            /// All of them, by number.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The name used in metrics and loss records.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The name in `record.h`.
            pub fn c_name(self) -> &'static str {
                match self { $($name::$variant => $c_name,)* }
            }

            /// The one with this number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// Kind of a record of the ring: its shape.
    Kind {
        /// A program was executed.
        Exec = 1, "exec", "KIND_EXEC";
        /// More of the arguments of the exec before it.
        ExecMore = 2, "exec_more", "KIND_EXEC_MORE";
        /// A process was made.
        Fork = 3, "fork", "KIND_FORK";
        /// A process ended.
        Exit = 4, "exit", "KIND_EXIT";
        /// A file was opened or failed to be.
        Open = 5, "open", "KIND_OPEN";
        /// A system call of which the record holds the arguments.
        Call = 6, "call", "KIND_CALL";
        /// A cgroup was made or removed.
        Cgroup = 7, "cgroup", "KIND_CGROUP";
        /// A process went to another cgroup.
        CgroupMove = 8, "cgroup_move", "KIND_CGROUP_MOVE";
    }
}

/// Counters of each CPU, one a kind of record that is no system call's, and one a call.
pub const COUNTED_MAX: usize = 256;
/// Where those of calls begin.
pub const COUNTED_CALLS: usize = 16;

/// What the records are called that are counted under a number: a kind, or a call's name; `None` where nothing is counted.
pub fn counted_name(number: usize) -> Option<&'static str> {
    match number.checked_sub(COUNTED_CALLS) {
        Some(call) => Call::from_number(call as u32).map(|call| call.name),
        None => Kind::from_number(number as u16)
            .filter(|kind| !matches!(kind, Kind::Open | Kind::Call))
            .map(Kind::name),
    }
}

/// All numbers that are counted under, each with what it is called.
pub fn counted_names() -> impl Iterator<Item = (usize, &'static str)> {
    (0..COUNTED_MAX).filter_map(|number| Some((number, counted_name(number)?)))
}

numbered! {
    /// Why the kernel part saw something and did not send it.
    FilterReason {
        /// The sensor's own doing.
        Own = 0, "own_process", "FILTERED_OWN";
        /// Its cgroup is at [`Mode::Off`].
        ModeOff = 1, "mode_off", "FILTERED_MODE_OFF";
        /// Its cgroup is at [`Mode::Lifecycle`] and the call is not part of that.
        Lifecycle = 2, "mode_lifecycle", "FILTERED_LIFECYCLE";
        /// A file read again by the same program within the hour.
        RepeatedOpen = 3, "repeated_open", "FILTERED_REPEATED_OPEN";
        /// An open that failed again in the same way; their number is told by a later event.
        FoldedOpen = 4, "folded_open", "FILTERED_FOLDED_OPEN";
    }
}

numbered! {
    /// What is captured of the processes of a cgroup. One without a mode is at [`Mode::Normal`].
    Mode {
        /// Nothing but the making and removing of cgroups.
        Off = 0, "off", "MODE_OFF";
        /// Exec, fork, exit, moves between cgroups, opens for writing below the host's sensitive paths, and the calls whose row
        /// says so: those that change what a process may do, or reach into others.
        Lifecycle = 1, "lifecycle", "MODE_LIFECYCLE";
        /// All of that, all other calls of the table, and opens: writes, creates, failures and sensitive reads always, other reads once an hour.
        Normal = 2, "normal", "MODE_NORMAL";
        /// Everything the programs see.
        Full = 3, "full", "MODE_FULL";
    }
}

numbered! {
    /// What records have a limit in common.
    RateClass {
        /// Execs.
        Exec = 0, "exec", "CLASS_EXEC";
        /// Forks, exits, and cgroups made, removed and entered.
        Process = 1, "process", "CLASS_PROCESS";
        /// Changes of namespaces.
        Namespace = 2, "namespace", "CLASS_NAMESPACE";
        /// System calls of which many are usual.
        Call = 3, "call", "CLASS_CALL";
        /// Opens of sensitive files beyond the limit of [`RateClass::Call`].
        Sensitive = 4, "sensitive", "CLASS_SENSITIVE";
        /// Calls that change what a process may do or see, or that reach into others.
        Privilege = 5, "privilege", "CLASS_PRIVILEGE";
        /// Connections accepted, and the first words to new peers.
        Traffic = 6, "traffic", "CLASS_TRAFFIC";
    }
}

/// Nanoseconds that a record costs, in the global `rates`, one a [`RateClass`]; 0 = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// From what a share has to itself.
    pub assured_ns: u64,
    /// From what it may have beyond that ...
    pub further_ns: u64,
    /// ... and at the same time from what all shares have together.
    pub total_ns: u64,
}

/// What is captured of a cgroup, in the map `modes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupPolicy {
    /// A [`Mode`].
    pub mode: u32,
    /// 1 = it is a container's, and so are cgroups made below it.
    pub contained: u32,
    /// The cgroup whose share its records use up.
    pub share: u64,
}

/// Key of the map `limited`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LimitedKey {
    /// The cgroup whose share was used up.
    pub share: u64,
    /// See [`counted_name`].
    pub counted: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of the map `folded`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FoldedKey {
    /// The cgroup whose share it is.
    pub share: u64,
    /// Its place among those of the share.
    pub slot: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of the maps `limited` and `folded`; the count goes on until the entry is removed or taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// What is counted; 0 in `limited`.
    pub hash: u64,
    /// How often.
    pub count: u64,
    /// When it began, nanoseconds since boot.
    pub first_ns: u64,
    /// When it was counted last, nanoseconds since boot.
    pub last_ns: u64,
}

/// Key of the map `failures`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FailureKey {
    /// When the process began, nanoseconds since boot.
    pub start_ns: u64,
    /// The process.
    pub pid: u32,
    /// The call's number; 65,535 where no call has one so large.
    pub number: u16,
    /// The errno, and by which entry the call came: [`FailureKey::errno`], [`FailureKey::entry`].
    pub error: u16,
}

impl FailureKey {
    /// What the call returned, negated.
    #[must_use]
    pub fn errno(self) -> u32 {
        u32::from(self.error & 0x3fff)
    }

    /// By which entry the call came.
    #[must_use]
    pub fn entry(self) -> Entry {
        match self.error >> 14 {
            0 => Entry::Native,
            1 => Entry::X32,
            _ => Entry::Ia32,
        }
    }
}

/// By which entry of the kernel a call came; a number means nothing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The architecture's own.
    Native,
    /// That of 64-bit programs with 32-bit pointers.
    X32,
    /// That of 32-bit programs.
    Ia32,
}

/// Value of the map `failures`; the count goes on until the entry is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Failure {
    /// How many calls failed so.
    pub count: u64,
    /// The process's cgroup at the first of them.
    pub cgroup_id: u64,
    /// The process's name at the first of them, ended by NUL.
    pub comm: [u8; 16],
}

/// Key of the map `net_bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NetBytesKey {
    /// When the process began, nanoseconds since boot.
    pub start_ns: u64,
    /// The process.
    pub pid: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of the map `net_bytes`; the counts go on until the entry is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetBytes {
    /// Bytes that receives of IP sockets returned to the process.
    pub rx: u64,
    /// Bytes that sends returned.
    pub tx: u64,
    /// The container's own cgroup, or the process's where it is in none, at the first of them.
    pub share: u64,
}

/// Value of the map `walked`: open files of a share in a round of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walked {
    /// Those that were told.
    pub told: u64,
    /// Those that were not looked at.
    pub left: u64,
}

/// The only element of the map `settings`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Settings {
    /// The sensor's process id in the initial pid namespace; 0 = not known yet.
    pub own_pid: u32,
    /// Inode of the canary's pid namespace.
    pub canary_pid_ns: u32,
    /// The canary's process id in that namespace; 0 = no canary runs. It is captured whatever its cgroup's mode.
    pub canary_pid: u32,
    /// Zero.
    pub pad: u32,
}

/// The only element of the per-CPU map `counters`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CpuCounters {
    /// Records the ring took, as [`counted_name`] says.
    pub sent: [u64; COUNTED_MAX],
    /// Records the ring had no room for, as [`counted_name`] says.
    pub dropped: [u64; COUNTED_MAX],
    /// Records for which the rest of the ring was not meant, as [`counted_name`] says.
    pub crowded: [u64; COUNTED_MAX],
    /// Records for which a share had nothing left, as [`counted_name`] says.
    pub limited: [u64; COUNTED_MAX],
    /// Records that came while another one was being made on their CPU, as [`counted_name`] says.
    pub interrupted: [u64; COUNTED_MAX],
    /// What was seen and not sent, by [`FilterReason`].
    pub filtered: [u64; 8],
    /// Records handed to the ring.
    pub tried: u64,
}

/// An entry of a list of paths or names: prefix length in bits, and bytes.
pub type PathEntry = (u32, [u8; PATH_KEY_BYTES]);

/// The two entries of a path list that match `path` itself and everything below it.
///
/// A prefix ends in `/` (all below) or in NUL (that file), so `/etc` does not match `/etcetera`.
/// `None` for a path that is not absolute or longer than 250 bytes.
pub fn path_entries(path: &str) -> Option<[PathEntry; 2]> {
    let path = path.trim_end_matches('/');
    if !(path.is_empty() || path.starts_with('/')) || path.len() > 250 || path.contains('\0') {
        return None;
    }
    Some([entry(path, Some(b'/')), entry(path, Some(0))])
}

/// The entry that matches whatever begins with `start`; `None` when it is empty or longer than 250 bytes.
pub fn start_entry(start: &str) -> Option<PathEntry> {
    takes(start).then(|| entry(start, None))
}

/// The entry of the list of names that matches exactly `name`, or `/folder/name`; `None` as for [`start_entry`].
pub fn name_entry(name: &str) -> Option<PathEntry> {
    takes(name).then(|| entry(name, Some(0)))
}

fn takes(text: &str) -> bool {
    (1..=250).contains(&text.len()) && !text.contains('\0')
}

fn entry(text: &str, end: Option<u8>) -> PathEntry {
    let mut key = [0; PATH_KEY_BYTES];
    key[..text.len()].copy_from_slice(text.as_bytes());
    if let Some(end) = end {
        key[text.len()] = end;
    }
    ((text.len() as u32 + u32::from(end.is_some())) * 8, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_itself_and_all_below() {
        let [below, itself] = path_entries("/etc/").unwrap();
        assert_eq!((below.0, &below.1[..6]), (40, &b"/etc/\0"[..]));
        assert_eq!((itself.0, &itself.1[..6]), (40, &b"/etc\0\0"[..]));
        assert_eq!(path_entries("etc"), None);
        assert_eq!(path_entries(&format!("/{}", "x".repeat(250))), None);
        assert_eq!(path_entries("/").unwrap()[0].0, 8);
    }

    #[test]
    fn names_are_whole_or_a_start() {
        let (bits, key) = name_entry("id_rsa").unwrap();
        assert_eq!((bits, &key[..7]), (56, &b"id_rsa\0"[..]));
        assert_eq!(start_entry("/.ssh/id_").unwrap().0, 72);
        for refused in [String::new(), "a\0b".into(), "x".repeat(251)] {
            assert_eq!(name_entry(&refused), None, "{refused}");
            assert_eq!(start_entry(&refused), None, "{refused}");
        }
    }
}
