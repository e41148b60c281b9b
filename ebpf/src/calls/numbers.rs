//! Names of all system calls by number and entry, and which class each is of.
//!
//! `numbers.txt` has a call a line: its name, its numbers on x86-64, through the 32-bit entry of x86, and on arm64, and its
//! class. It knows all calls up to Linux 6.17, not only those that are sent as events.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::control::Entry;

/// What a call works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Files, folders, descriptors, pipes, mounts.
    File,
    /// Sockets.
    Net,
    /// Memory of the process, shared memory included.
    Memory,
    /// All others.
    Other,
}

impl Class {
    /// All of them, by their place in counts.
    pub const ALL: [Self; 4] = [Self::File, Self::Net, Self::Memory, Self::Other];

    /// Its name in columns.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Net => "net",
            Self::Memory => "memory",
            Self::Other => "other",
        }
    }
}

const TABLE: &str = include_str!("numbers.txt");

/// x32's own numbers begin here; below, its numbers are the native ones.
const X32_OWN: u16 = 512;

/// Names by number.
type ByNumber = HashMap<u16, &'static str>;

/// The fields of a line: name, three numbers, class.
fn lines() -> impl Iterator<Item = [&'static str; 5]> {
    TABLE.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some([
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        ])
    })
}

fn by_number(column: usize) -> ByNumber {
    let numbered = lines().filter_map(|fields| Some((fields[column].parse().ok()?, fields[0])));
    numbered.collect()
}

/// The name of the call with this number; none where no call has it, or one newer than the table.
#[must_use]
pub fn name(number: u16, entry: Entry) -> Option<&'static str> {
    static NATIVE: LazyLock<ByNumber> =
        LazyLock::new(|| by_number(if cfg!(target_arch = "aarch64") { 3 } else { 1 }));
    static IA32: LazyLock<ByNumber> = LazyLock::new(|| by_number(2));
    match entry {
        Entry::Ia32 => IA32.get(&number).copied(),
        Entry::X32 if number >= X32_OWN => None,
        Entry::Native | Entry::X32 => NATIVE.get(&number).copied(),
    }
}

/// The class of the call with this name; [`Class::Other`] where it is not known.
#[must_use]
pub fn class(name: &str) -> Class {
    static CLASSES: LazyLock<HashMap<&str, Class>> = LazyLock::new(|| {
        let classed = lines().filter_map(|[name, _, _, _, class]| {
            let mut all = Class::ALL.into_iter();
            Some((name, all.find(|one| one.name() == class)?))
        });
        classed.collect()
    });
    CLASSES.get(name).copied().unwrap_or(Class::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::CALLS;

    #[test]
    fn every_line_is_whole_and_no_number_stands_twice() {
        assert_eq!(lines().count(), TABLE.lines().count());
        for column in 1..4 {
            let all = lines().filter(|fields| fields[column] != "-").count();
            assert_eq!(by_number(column).len(), all, "column {column}");
        }
        let named = |class: &str| Class::ALL.iter().any(|known| known.name() == class);
        assert!(lines().all(|fields| named(fields[4])));
    }

    #[test]
    fn it_says_what_the_table_of_events_says() {
        for call in CALLS {
            for (column, number) in [(1, call.x86_64), (2, call.ia32), (3, call.arm64)] {
                let Some(number) = number else { continue };
                // Variants have the name of the call for events, and their own here: chown32, mmap2.
                let found = by_number(column).get(&number).copied().unwrap_or_default();
                let mut variants = ["32", "64", "2"]
                    .map(|suffix| found.strip_suffix(suffix))
                    .into_iter();
                assert!(
                    found == call.name || variants.any(|call_of| call_of == Some(call.name)),
                    "{column}: {number} is {found}, not {}",
                    call.name
                );
            }
        }
    }

    #[test]
    fn a_number_means_nothing_without_its_entry() {
        assert_eq!(name(5, Entry::Ia32), Some("open"));
        assert_eq!(name(0xffff, Entry::Native), None);
        assert_eq!(
            name(520, Entry::X32),
            None,
            "x32's own are not in the table"
        );
        assert_eq!(class("openat"), Class::File);
        assert_eq!(class("connect"), Class::Net);
        assert_eq!(class("mmap"), Class::Memory);
        assert_eq!(class("futex"), Class::Other);
        assert_eq!(class("syscall_600"), Class::Other);
    }
}
