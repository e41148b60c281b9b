//! Joins an exec with the continuation records of its arguments.
//!
//! The kernel part writes them one after the other in one go, but another CPU's records may come between, and a full ring
//! may lose one. So an exec waits for its pieces only until the next record of its process, until the ring has been read
//! beyond its time ([`Joiner::flush`]), or for [`PENDING_MAX`] others like it; then it goes out with the arguments that were
//! there, `truncated` set.

use crate::parse::Raw;
use crate::record::{Exec, Record};

/// Execs waiting at once; a CPU has at most one under way, so more means that pieces were lost.
const PENDING_MAX: usize = 64;

/// See the module's description. Records of one process leave in the order they came.
#[derive(Debug, Default)]
pub struct Joiner {
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    exec: Box<Exec>,
    argv_sent: usize,
}

impl Joiner {
    /// Takes the next raw record and hands what became complete to `sink`.
    pub fn push(&mut self, raw: Raw, sink: &mut dyn FnMut(Record)) {
        match raw {
            Raw::ExecMore {
                header,
                offset,
                argv,
            } => self.add(header.pid, offset as usize, &argv, sink),
            Raw::ExecStart { exec, argv_sent } => {
                self.give_up(exec.header.pid, sink);
                if self.pending.len() == PENDING_MAX {
                    send_cut(self.pending.remove(0), sink);
                }
                self.pending.push(Pending {
                    exec,
                    argv_sent: argv_sent as usize,
                });
            }
            Raw::Whole(record) => {
                self.give_up(record.header().pid, sink);
                sink(record);
            }
        }
    }

    /// Hands out the execs up to a time, nanoseconds since boot, that still wait: whoever calls knows that every record up
    /// to it has been pushed.
    pub fn flush(&mut self, up_to_ns: u64, sink: &mut dyn FnMut(Record)) {
        for pending in self
            .pending
            .extract_if(.., |pending| pending.exec.header.boot_ns <= up_to_ns)
        {
            send_cut(pending, sink);
        }
    }

    /// Adds a piece; one without its exec, or out of its place, follows a lost record and is dropped (the loss is counted
    /// where it happened).
    fn add(&mut self, pid: u32, offset: usize, argv: &[u8], sink: &mut dyn FnMut(Record)) {
        let Some(index) = self
            .pending
            .iter()
            .position(|pending| pending.exec.header.pid == pid)
        else {
            return;
        };
        let pending = &mut self.pending[index];
        if pending.exec.argv.len() == offset {
            pending.exec.argv.extend_from_slice(argv);
        }
        if pending.exec.argv.len() >= pending.argv_sent {
            let complete = self.pending.remove(index);
            sink(Record::Exec(complete.exec));
        }
    }

    fn give_up(&mut self, pid: u32, sink: &mut dyn FnMut(Record)) {
        if let Some(index) = self
            .pending
            .iter()
            .position(|pending| pending.exec.header.pid == pid)
        {
            send_cut(self.pending.remove(index), sink);
        }
    }
}

fn send_cut(mut pending: Pending, sink: &mut dyn FnMut(Record)) {
    pending.exec.header.flags.truncated = true;
    sink(Record::Exec(pending.exec));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;

    fn start(pid: u32, argv: &[u8], argv_sent: u32) -> Raw {
        let exec = Exec {
            header: Header {
                pid,
                ..Header::default()
            },
            argv: argv.to_vec(),
            ..Exec::default()
        };
        Raw::ExecStart {
            exec: Box::new(exec),
            argv_sent,
        }
    }

    fn more(pid: u32, offset: u32, argv: &[u8]) -> Raw {
        Raw::ExecMore {
            header: Header {
                pid,
                ..Header::default()
            },
            offset,
            argv: argv.to_vec(),
        }
    }

    fn end(pid: u32) -> Raw {
        let header = Header {
            pid,
            ..Header::default()
        };
        Raw::Whole(Record::Exit {
            header,
            status: 0,
            counters: Default::default(),
        })
    }

    /// Expected: one (pid, argv, truncated) an exec and one (pid, "-", false) for any other record.
    fn check(input: Vec<Raw>, expected: &[(u32, &str, bool)]) {
        let mut found = Vec::new();
        let mut joiner = Joiner::default();
        let mut sink = |record: Record| {
            found.push(match &record {
                Record::Exec(exec) => {
                    let argv = String::from_utf8_lossy(&exec.argv).into_owned();
                    (exec.header.pid, argv, exec.header.flags.truncated)
                }
                other => (other.header().pid, "-".to_owned(), false),
            });
        };
        for raw in input {
            joiner.push(raw, &mut sink);
        }
        joiner.flush(u64::MAX, &mut sink);
        let expected: Vec<_> = expected
            .iter()
            .map(|(pid, argv, cut)| (*pid, (*argv).to_owned(), *cut))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pieces_join() {
        check(
            vec![start(1, b"ab", 6), more(1, 2, b"cd"), more(1, 4, b"ef")],
            &[(1, "abcdef", false)],
        );
    }

    #[test]
    fn other_processes_may_come_between() {
        check(
            vec![
                start(1, b"ab", 4),
                start(2, b"xy", 4),
                end(3),
                more(2, 2, b"z!"),
                more(1, 2, b"cd"),
            ],
            &[(3, "-", false), (2, "xyz!", false), (1, "abcd", false)],
        );
    }

    #[test]
    fn a_lost_piece_cuts_and_nothing_waits_for_ever() {
        check(
            vec![start(1, b"ab", 6), more(1, 4, b"ef"), end(1)],
            &[(1, "ab", true), (1, "-", false)],
        );
        check(vec![more(1, 2, b"cd")], &[]);
        check(vec![start(1, b"ab", 6)], &[(1, "ab", true)]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut joiner = Joiner::default();
        let mut sent = 0;
        for pid in 0..1000 {
            joiner.push(start(pid, b"a", 2), &mut |_| sent += 1);
            assert!(joiner.pending.len() <= PENDING_MAX);
        }
        assert_eq!(sent, 1000 - PENDING_MAX);
    }

    #[test]
    fn an_exec_waits_until_the_ring_was_read_beyond_it() {
        let mut joiner = Joiner::default();
        let mut found = Vec::new();
        for (pid, boot_ns) in [(1, 100), (2, 200)] {
            let Raw::ExecStart {
                mut exec,
                argv_sent,
            } = start(pid, b"a", 9)
            else {
                unreachable!("made above");
            };
            exec.header.boot_ns = boot_ns;
            joiner.push(Raw::ExecStart { exec, argv_sent }, &mut |_| {});
        }
        joiner.flush(99, &mut |record| found.push(record.header().pid));
        assert!(found.is_empty());
        joiner.flush(100, &mut |record| found.push(record.header().pid));
        assert_eq!(found, [1]);
        joiner.flush(u64::MAX, &mut |record| found.push(record.header().pid));
        assert_eq!(found, [1, 2]);
    }
}
