//! Which system calls are seen: all, but for those that the configuration takes away.

use dogwatch_ebpf::calls::{CALLS, Call, Gate};

/// Elements of the kernel part's list: as many as a call's number can have there.
const NUMBERS: usize = 128;

/// The calls that are switched off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallSet {
    /// Their names, in the table's order.
    off: Vec<&'static str>,
}

impl CallSet {
    /// Reads words such as `all`, `-mprotect`, `file` or `-memory`: a call or a category, each adding to what was said before
    /// it or taking away from it.
    ///
    /// # Errors
    /// The word that names neither a call nor a category.
    pub fn parse(words: &[String]) -> Result<Self, UnknownCall> {
        let mut on = vec![false; CALLS.len()];
        for word in words {
            let (wanted, name) = match word.strip_prefix('-') {
                Some(name) => (false, name),
                None => (true, word.as_str()),
            };
            let mut known = false;
            for (on, call) in on.iter_mut().zip(CALLS) {
                if name == "all" || name == call.name || name == call.category {
                    *on = wanted;
                    known = true;
                }
            }
            if !known {
                return Err(UnknownCall(name.to_owned()));
            }
        }
        let off = CALLS.iter().zip(on).filter(|(_, on)| !on);
        Ok(Self {
            off: off.map(|(call, _)| call.name).collect(),
        })
    }

    /// The calls that are not seen.
    pub fn switched_off(&self) -> &[&'static str] {
        &self.off
    }

    /// Types of events that never come. What is executed and made is told by other hooks: of `execve`, `clone` and their
    /// kin only those that failed are missing.
    pub fn absent_types(&self) -> impl Iterator<Item = &'static str> {
        self.off
            .iter()
            .copied()
            .filter(|name| Call::named(name).is_some_and(|call| call.gate != Gate::Failed))
    }

    /// The global `switched_off` of the kernel part.
    pub(super) fn off(&self) -> Vec<u8> {
        let mut off = vec![0; NUMBERS];
        for name in &self.off {
            if let Some(call) = Call::named(name) {
                off[call.number() as usize] = 1;
            }
        }
        off
    }
}

/// A word that names no call and no category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCall(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn off(words: &[&str]) -> Vec<&'static str> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        CallSet::parse(&words).unwrap().off
    }

    #[test]
    fn words_add_and_take_away_in_their_order() {
        assert!(off(&["all"]).is_empty());
        assert_eq!(off(&["all", "-mprotect"]), ["mprotect"]);
        assert!(!off(&["file"]).contains(&"unlinkat"));
        assert!(off(&["file"]).contains(&"connect"));
        assert_eq!(
            off(&["all", "-memory", "mmap"]),
            ["mprotect", "pkey_mprotect"]
        );
        assert_eq!(off(&[]).len(), CALLS.len());
        let words = ["all".to_owned(), "-execve".to_owned(), "-kill".to_owned()];
        let set = CallSet::parse(&words).unwrap();
        assert_eq!(set.absent_types().collect::<Vec<_>>(), ["kill"]);
    }

    #[test]
    fn the_kernel_part_is_told_by_number() {
        let set = CallSet::parse(&["all".to_owned(), "-unlinkat".to_owned()]).unwrap();
        let off = set.off();
        let number = Call::named("unlinkat").unwrap().number() as usize;
        assert_eq!(
            (off[number], off.iter().filter(|off| **off == 1).count()),
            (1, 1)
        );
    }

    #[test]
    fn an_unknown_word_is_refused() {
        let words = ["all".to_owned(), "-unlinkatt".to_owned()];
        assert_eq!(
            CallSet::parse(&words),
            Err(UnknownCall("unlinkatt".to_owned()))
        );
    }
}
