//! The terminal that a program was started from, and whether it is still there.
//!
//! A closed ssh session sends SIGHUP, and so does whoever moved a log file away. They are told apart by the terminal: that of
//! the session is gone. `sudo` runs its program on a terminal of its own, so the terminals of all ancestors count.

use std::fs;

/// A process with a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pid: u32,
    /// The terminal's device number.
    tty: i32,
}

/// This process and those of its ancestors that had a terminal at the start; empty where this one had none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Terminal(Vec<Holder>);

/// Most ancestors that are looked at.
const ANCESTORS_MAX: usize = 64;

impl Terminal {
    /// Looks at this process and its ancestors.
    pub fn of_this_process() -> Self {
        let mut holders = Vec::new();
        let mut pid = std::process::id();
        while let Some((parent, tty)) = parent_and_tty(pid)
            && holders.len() < ANCESTORS_MAX
        {
            // A session of its own (a service, setsid) is not bound to the terminals of whoever started it.
            if tty == 0 {
                break;
            }
            holders.push(Holder { pid, tty });
            pid = parent;
        }
        Self(holders)
    }

    /// Says whether none of them has lost its terminal.
    pub fn is_there(&self) -> bool {
        let still =
            |holder: &Holder| parent_and_tty(holder.pid).is_some_and(|(_, tty)| tty == holder.tty);
        self.0.iter().all(still)
    }
}

/// A process's parent and the device number of its terminal (zero: none).
fn parent_and_tty(pid: u32) -> Option<(u32, i32)> {
    of_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn of_stat(stat: &str) -> Option<(u32, i32)> {
    // The name before may hold blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let tty = fields.nth(2)?.parse().ok()?;
    Some((parent, tty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_terminal_are_read_past_any_name() {
        let stat = "42 (a) b (c) S 7 42 40 34816 42 4194304 1";
        assert_eq!(of_stat(stat), Some((7, 34816)));
        assert_eq!(of_stat("42 (a"), None);
    }

    #[test]
    fn what_has_no_terminal_never_loses_it() {
        assert!(Terminal::default().is_there());
        let gone = Terminal(vec![Holder {
            pid: std::process::id(),
            tty: -1,
        }]);
        assert!(!gone.is_there());
    }
}
