//! What processes have open, and what went through it: files, TCP connections, and sockets that listen or are bound.
//!
//! The kernel part's iterator tells what is open; paths are looked up here, of the few rows that are told alone.

use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

use dogwatch_ebpf::record::{OpenFile, SocketAddresses};
use dogwatch_schemas::Text;
use dogwatch_schemas::records::IoSample;

use super::opened::{LISTENING, Row};
use super::openings::{LeftOut, Openings};
use super::text::{long, named, read};
use super::{Roots, TICK_NS};
use crate::clock::Reading;
use crate::fact::{FileUsage, FilesRound, SocketEnds};
use crate::probe::{OpenFiles, has};

/// Paths may be looked up for so long beyond the walk's time: one alone can be slow, as that of a file with very many locks,
/// and rows go without their path then.
const PATHS_GRACE: Duration = Duration::from_millis(250);
/// States of TCP by their numbers in the kernel (include/net/tcp_states.h).
const STATES: [&str; 13] = [
    "unknown",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "syn_recv",
];

/// See the module's description.
pub(super) struct Files {
    files: OpenFiles,
    openings: Openings,
    roots: Roots,
    own_pid: u32,
}

impl Files {
    pub fn new(files: OpenFiles, roots: Roots) -> Self {
        Self {
            files,
            openings: Openings::default(),
            roots,
            own_pid: std::process::id(),
        }
    }

    /// What is open now, and how much of it was not looked at; none where the kernel does not tell. Takes until `until` at
    /// most, and [`PATHS_GRACE`] and one path more for the paths.
    pub fn round(&mut self, until: Instant) -> Option<(FilesRound, u64)> {
        let boot_ns = Reading::now().boot_ns;
        let interval_ns = self.openings.begin(boot_ns);
        let (openings, own_pid) = (&mut self.openings, self.own_pid);
        let walk = self.files.walk(until, &mut |file| {
            if file.pid != own_pid {
                openings.see(file);
            }
        });
        let walk = match walk {
            Ok(walk) => walk,
            Err(error) => {
                tracing::warn!(%error, "could not read which files are open");
                // What was not come to may be new in the next round, or may not.
                self.openings.end(LeftOut {
                    any: true,
                    ..LeftOut::default()
                });
                return None;
            }
        };
        let unsampled = self.openings.refused + u64::from(walk.cut);
        let (told, rests) = self.openings.end(LeftOut {
            shares: walk.left,
            any: walk.cut,
        });
        let round = FilesRound {
            boot_ns,
            interval_ns,
            files: told
                .into_iter()
                .map(|row| usage(&self.roots, &row, until + PATHS_GRACE))
                .collect(),
            rests,
        };
        Some((round, unsampled))
    }
}

/// What a row tells; its path is looked up until `until`.
fn usage(roots: &Roots, row: &Row, until: Instant) -> FileUsage {
    let file = &row.first;
    let comm = file.comm.split(|&byte| byte == 0).next();
    let ends = file.socket.as_ref().map(|socket| {
        let waits = socket.remote_port == 0;
        ends(socket, waits || row.is_server)
    });
    let has_path = file.socket.is_none() && Instant::now() < until;
    FileUsage {
        pid: file.pid,
        start_ticks: file.start_ns / TICK_NS,
        cgroup_id: file.share,
        comm: comm.unwrap_or_default().to_vec(),
        path: has_path.then(|| path_of(roots, file)).flatten(),
        ends,
        sample: Box::new(sample(row)),
    }
}

/// The path of a file as its process sees it; none where it may not be read, or the descriptor leads elsewhere by now.
fn path_of(roots: &Roots, file: &OpenFile) -> Option<Vec<u8>> {
    let process = roots.proc.join(file.pid.to_string());
    let link = fs::read_link(process.join("fd").join(file.fd.to_string())).ok()?;
    // The number of the inode is told from Linux 5.14 on.
    let info = read(&process.join("fdinfo").join(file.fd.to_string()))?;
    if named(&info, "ino").is_some_and(|ino| ino != file.ino) {
        return None;
    }
    let mut path = link.into_os_string().into_vec();
    if file.links == 0 && path.ends_with(b" (deleted)") {
        path.truncate(path.len() - b" (deleted)".len());
    }
    Some(path)
}

fn ends(socket: &SocketAddresses, is_server: bool) -> SocketEnds {
    SocketEnds {
        family: socket.family,
        socket_type: socket.socket_type,
        protocol: socket.protocol,
        local_port: socket.local_port,
        remote_port: socket.remote_port,
        local: socket.local,
        remote: socket.remote,
        is_server,
    }
}

/// The columns that were read.
fn sample(row: &Row) -> IoSample {
    let (file, growth) = (&row.first, &row.growth);
    let is_file = file.socket.is_none();
    let listens = file.state == LISTENING;
    // The inode of a block device has none.
    let has_size = is_file && file_type(file.mode) == "file";
    let of_file = |value: u64| is_file.then(|| long(value));
    let state = (file.state != 0).then(|| STATES.get(usize::from(file.state)).copied());
    IoSample {
        fd_num: Some(i64::from(file.fd)),
        fd_type: is_file.then(|| file_type(file.mode).into()),
        fd_dev: of_file(file.dev),
        fd_ino: Some(file.ino as i64),
        fd_access: is_file.then(|| access(file.flags).into()),
        fd_deleted: is_file.then_some(file.links == 0),
        fd_state: state.map(|state| state.unwrap_or(STATES[0]).into()),
        fd_openings: Some(row.openings),
        fd_holders: Some(row.holders),
        // Memory of a process has places beyond the largest number.
        fd_position: is_file
            .then_some(file.position)
            .filter(|position| *position >= 0),
        fd_size_bytes: has_size.then_some(file.size),
        fd_forward_bytes: growth.forward,
        fd_rx_bytes: growth.rx_bytes,
        fd_tx_bytes: growth.tx_bytes,
        fd_rx_segments: growth.rx_segments,
        fd_tx_segments: growth.tx_segments,
        fd_retransmits: growth.retransmits,
        fd_backlog: listens.then(|| i64::from(file.backlog)),
        fd_backlog_limit: listens.then(|| i64::from(file.backlog_max)),
        fd_refused: growth.refused,
        ..IoSample::default()
    }
}

fn file_type(mode: u16) -> &'static str {
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFBLK => "device",
        _ => "file",
    }
}

fn access(flags: u32) -> &'static str {
    match flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY => "read",
        libc::O_WRONLY => "write",
        _ => "both",
    }
}

/// What cannot be read of other users' files, and why.
pub(super) fn lacking() -> Option<(Text, Text)> {
    let why = "without CAP_SYS_PTRACE paths of other users' files may not be read";
    (!has(caps::Capability::CAP_SYS_PTRACE))
        .then(|| ("fd_name of files in io_samples".into(), why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_the_file_that_was_seen() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("7");
        for folder in ["fd", "fdinfo"] {
            fs::create_dir_all(process.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("/var/log/a (deleted)", process.join("fd/3")).unwrap();
        fs::write(process.join("fdinfo/3"), "pos:\t5\nflags:\t02\nino:\t40\n").unwrap();
        let roots = Roots {
            proc: proc.path().into(),
            sys: "/sys".into(),
        };
        let file = OpenFile {
            pid: 7,
            fd: 3,
            ino: 40,
            ..OpenFile::default()
        };
        let told = |file: &OpenFile| path_of(&roots, file);
        assert_eq!(told(&file).unwrap(), b"/var/log/a");
        let named = OpenFile {
            links: 1,
            ..file.clone()
        };
        assert_eq!(told(&named).unwrap(), b"/var/log/a (deleted)");
        let another = OpenFile {
            ino: 41,
            ..file.clone()
        };
        assert_eq!(told(&another), None);
        let gone = OpenFile {
            pid: 8,
            ..file.clone()
        };
        assert_eq!(told(&gone), None, "it has ended, which is no error");
        let until = |until| usage(&roots, &Row::of(&file), until).path;
        let now = Instant::now();
        assert_eq!(until(now + Duration::from_secs(60)).unwrap(), b"/var/log/a");
        assert_eq!(until(now), None, "there is no time left");
    }

    #[test]
    fn devices_have_no_size_and_memory_no_negative_position() {
        let told = |mode, position| {
            let row = Row::of(&OpenFile {
                mode,
                position,
                ..OpenFile::default()
            });
            let sample = sample(&row);
            (sample.fd_position, sample.fd_size_bytes)
        };
        assert_eq!(told(libc::S_IFREG as u16, 5), (Some(5), Some(0)));
        assert_eq!(told(libc::S_IFREG as u16, -5), (None, Some(0)));
        assert_eq!(told(libc::S_IFBLK as u16, 5), (Some(5), None));
    }
}
